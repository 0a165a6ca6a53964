"Tickets: there and back again, into models and files, and files that are damaged"
import copy, html.parser, json, math, os, pickle, re, stat, struct, subprocess, sys, time
from pathlib import Path

import pytest, torch, torchvision
from hypothesis import given, settings, strategies as st
from safetensors.torch import load, load_file, save as to_bytes, save_file
from torch import nn

from lottery_nb.callback import SparsifyCallback
from lottery_nb.criteria import large_final, random_scores
from lottery_nb.masks import Masks
from lottery_nb.schedules import agp, geometric, one_shot
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket, TicketError, _digest_place, _sealed, random_ticket
from models import ConvNet, batch, bits, copied, differing, dtypes, everything, masked, mlp, nets, nonzero_pruned, train_step
from test_callback import few_batches, learner, quiet

def ticket_of(net=None, sparsity=60, meta=None, **kwargs):
    torch.manual_seed(0)
    net = net or ConvNet()
    sp = Sparsifier(net, **kwargs)
    state = everything(net)
    masks = sp.sparsify(sparsity)
    if isinstance(net, ConvNet): train_step(net, torch.optim.SGD(net.parameters(), lr=.1), *batch())
    sp.apply()
    return Ticket(masks, masked(state, masks), everything(net), meta, {k: state[k] for k in masks})

def same(a, b, whole=False):
    parts = ('state', 'trained', 'whole') if whole else ('state', 'trained')
    return a.masks==b.masks and a.meta==b.meta and all((x is None)==(y is None) and not differing(x or {}, y or {})
                                                       for x,y in ((getattr(a, o), getattr(b, o)) for o in parts))

meta = st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                                               lambda o: st.lists(o) | st.dictionaries(st.text(), o), max_leaves=4), max_size=3)

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('tickets')

@settings(max_examples=40)
@given(nets(max_layers=3), meta, st.booleans(), st.booleans(), st.sampled_from([0, 50, 100]))
def test_there_and_back(folder, net, meta, trained, whole, sparsity):
    sp = Sparsifier(net, allow_collapse=True)
    state = everything(net)
    masks = sp.sparsify(sparsity)
    ticket = Ticket(masks, masked(state, masks), everything(net) if trained else None, meta, {k: state[k] for k in masks})
    path = ticket.save(folder/'t.safetensors', whole=whole)
    assert path==folder/'t.safetensors' and os.listdir(folder)==['t.safetensors']
    loaded = Ticket.load(path)
    assert same(loaded, ticket, whole) and (loaded.whole is None)==(not whole) and list(loaded.masks)==list(masks) and repr(loaded)==repr(ticket)
    assert loaded.masks.digest()==ticket.masks.digest() and list(loaded.state)==list(ticket.state)

@pytest.mark.parametrize('trained', [False, True])
@pytest.mark.parametrize('whole', [False, True])
def test_what_is_left_out(trained, whole, tmp_path):
    ticket = ticket_of(meta=dict(a=1))
    loaded = Ticket.load(ticket.save(tmp_path/'t', trained=trained, whole=whole))
    assert same(loaded, Ticket(ticket.masks, ticket.state, ticket.trained if trained else None, ticket.meta, ticket.whole if whole else None), whole=True)
    assert (loaded.whole is None)==(not whole)

def test_pruned_weights_that_are_not_known_cannot_be_saved(tmp_path):
    ticket = ticket_of()
    ticket.whole = None
    with pytest.raises(ValueError, match='whole=True: '): ticket.save(tmp_path/'t', whole=True)
    assert not os.listdir(tmp_path)

def test_an_empty_ticket(tmp_path):
    "No layer, no tensor; and a prunable weight without any value"
    for ticket in (Ticket(Masks({}), {}, {}), Ticket(Masks({'w': torch.ones(0,3).bool()}), {'w': torch.zeros(0,3)}, whole={'w': torch.zeros(0,3)})):
        for whole in {ticket.whole is not None, False}: assert same(Ticket.load(ticket.save(tmp_path/'t', whole=whole)), ticket)
        assert 'Ticket(0.00 % sparse: 0 of 0' in repr(ticket) and ticket._repr_html_()

def test_the_size_of_a_resnet18(tmp_path):
    "90 % sparse and not trained, at most 15 % of the dense `state_dict`; and it comes back"
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=10)
    torch.save(net.state_dict(), tmp_path/'dense.pth')
    ticket = random_ticket(net, 90)
    sp = Sparsifier(net)
    state = everything(net)
    found = Ticket(sp.sparsify(90), state, everything(net), whole={k: state[k] for k in sp.layers})
    dense = (tmp_path/'dense.pth').stat().st_size
    for o in (ticket, found):
        size = o.save(tmp_path/'t', trained=False).stat().st_size
        assert size<=.15*dense, f'{size:,} of {dense:,} bytes'
        assert same(Ticket.load(tmp_path/'t'), Ticket(o.masks, o.state, meta=o.meta))
    assert found.save(tmp_path/'t').stat().st_size<=.25*dense

@given(dtypes)
def test_odd_values_and_layouts(folder, dtype):
    "NaN in statistics, -0., channels_last, tied names, whole numbers, and a tensor without any value"
    net = ConvNet().to(dtype).to(memory_format=torch.channels_last)
    masks = Sparsifier(net).sparsify(50)
    state = everything(net) | dict(empty=torch.zeros(0,3), count=torch.tensor(7), big=torch.arange(6).view(2,3).T, wave=torch.ones(2)*1j)
    state['stem.1.running_mean'][:2] = torch.tensor([float('nan'), -0.])
    state['head.weight'][masks['head.weight']] = torch.tensor([math.nan, -0., math.inf], dtype=dtype).repeat(14)[:masks['head.weight'].count_nonzero()]
    ticket = Ticket(masks, state, state, whole={k: state[k] for k in masks})
    for whole in (False, True): assert same(Ticket.load(ticket.save(folder/'odd.safetensors', whole=whole)), ticket, whole)

def test_saving_does_not_change_the_ticket(tmp_path):
    ticket = ticket_of(meta=dict(a=[1, 2]))
    before = copy.deepcopy(ticket)
    ticket.save(tmp_path/'a'/'b'/'t') # folders are made
    assert same(ticket, before) and same(Ticket.load(str(tmp_path/'a'/'b'/'t')), before)

def test_the_same_ticket_gives_the_same_file(tmp_path):
    ticket = ticket_of(meta=dict(b=1, a=2, c=[3]))
    ticket.save(tmp_path/'a')
    assert len({Ticket.load(tmp_path/'a').save(tmp_path/f'{i}').read_bytes() for i in range(10)} | {(tmp_path/'a').read_bytes()})==1
    assert {tuple(Ticket.load(tmp_path/'a').masks) for _ in range(10)}=={tuple(ticket.masks)} and list(Ticket.load(tmp_path/'a').state)==list(ticket.state)

def test_an_open_file_is_as_every_other(tmp_path):
    "A file that is made has the permissions that a file usually has here"
    (tmp_path/'usual').write_bytes(b'')
    assert ticket_of().save(tmp_path/'t').stat().st_mode==(tmp_path/'usual').stat().st_mode

def test_a_ticket_that_was_loaded_is_not_bound_to_its_file(tmp_path):
    "Whatever somebody writes into the file, and be it in place, the ticket in memory is the one that was read"
    ticket = ticket_of()
    loaded = Ticket.load(ticket.save(tmp_path/'t'))
    with open(tmp_path/'t', 'r+b') as f: f.write(bytes((tmp_path/'t').stat().st_size))
    assert same(loaded, ticket)

def test_replacing(tmp_path):
    a, b = ticket_of(sparsity=20), ticket_of(sparsity=70)
    a.save(tmp_path/'t')
    b.save(tmp_path/'t')
    assert same(Ticket.load(tmp_path/'t'), b) and os.listdir(tmp_path)==['t']

# Equal, or not

def test_a_ticket_is_equal_to_the_one_that_was_saved(tmp_path):
    "To the bit, NaN and -0 too; without its pruned weights, or with another weight or word, it is another"
    ticket = ticket_of(meta=dict(a=(1, 2), loss=math.nan))
    ticket.state['stem.1.running_mean'] = torch.tensor([math.nan, -0.]).repeat(4)[:len(ticket.state['stem.1.running_mean'])]
    assert Ticket.load(ticket.save(tmp_path/'t', whole=True))==ticket and hash(Ticket.load(tmp_path/'t'))==hash(ticket)
    assert Ticket.load(ticket.save(tmp_path/'t'))!=ticket and Ticket.load(ticket.save(tmp_path/'t', trained=False, whole=True))!=ticket
    for part in ('state', 'trained', 'whole'):
        for change in (lambda t: t*1.5+1, lambda t: t.double(), lambda t: t[None]):
            other = copy.copy(ticket)
            name = next(iter(ticket.masks))
            setattr(other, part, {**getattr(ticket, part), name: change(getattr(ticket, part)[name])})
            assert other!=ticket
    other = copy.copy(ticket)
    other.meta = {**ticket.meta, 'a': [1, 3]}
    assert other!=ticket and ticket!='ticket' and copy.deepcopy(ticket)==ticket

# Where it is written

def test_links_are_followed(tmp_path):
    "The link stays and the file that it leads to is new, whether it was there or not"
    (tmp_path/'link').symlink_to('far/t')
    for sparsity in (20, 70):
        ticket = ticket_of(sparsity=sparsity)
        assert ticket.save(tmp_path/'link')==tmp_path/'link'
        assert (tmp_path/'link').is_symlink() and same(Ticket.load(tmp_path/'far/t'), ticket) and os.listdir(tmp_path/'far')==['t']

@pytest.mark.parametrize('kind', ['folder', 'pipe', 'device', 'link to a device'])
def test_only_files_are_replaced(kind, tmp_path):
    "The error names what is in the way, which stays what it is"
    path = tmp_path/'t'
    if kind=='folder': path.mkdir()
    elif kind=='pipe': os.mkfifo(path)
    else: # a device of our own, never one of the machine's
        try: os.mknod(tmp_path/'null', 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except OSError: pytest.skip('devices cannot be made here')
        path = tmp_path/'null'
        if kind!='device': (path:=tmp_path/'t').symlink_to('null')
    before = path.stat()
    with pytest.raises(OSError, match=f'{path}') as e: ticket_of().save(path)
    assert e.value.filename==str(path) and (path.stat().st_mode, path.stat().st_ino)==(before.st_mode, before.st_ino)
    assert not [o for o in os.listdir(tmp_path) if o.startswith('.')]

def test_errors_name_the_file_that_was_asked_for(tmp_path, monkeypatch):
    def fail(a, b): raise PermissionError(13, 'Permission denied', a, None, b)
    monkeypatch.setattr('os.replace', fail)
    with pytest.raises(PermissionError) as e: ticket_of().save(tmp_path/'t')
    assert str(e.value)==f"[Errno 13] Permission denied: '{tmp_path}/t'" and not os.listdir(tmp_path)

def test_what_json_cannot_hold_is_named(tmp_path):
    for value,error in ((object(), TypeError), ({1, 2}, TypeError)):
        with pytest.raises(error, match=r"meta\['odd'\]: .*not JSON serializable"): ticket_of(meta=dict(a=1, odd=value)).save(tmp_path/'t')
    assert not os.listdir(tmp_path)

def test_files_of_others_are_told_apart(tmp_path):
    torch.save(ticket_of().state, tmp_path/'state.pth')
    with pytest.raises(TicketError, match='state.pth: not a safetensors file'): Ticket.load(tmp_path/'state.pth')
    save_file(ticket_of().state, tmp_path/'state.safetensors')
    with pytest.raises(TicketError, match='not a ticket of lottery_nb'): Ticket.load(tmp_path/'state.safetensors')

def test_a_control_says_what_it_is():
    ticket = ticket_of(meta=dict(arm='ticket', round=6, rewind=0, rewind_epoch=0))
    assert 'round 6, rewound to epoch 0' in repr(ticket) and 'from the ticket of round 6' not in repr(ticket)
    said = {o: repr(c) for o,c in dict(dense=ticket.dense(), reinit=ticket.reinit(ConvNet()), shuffle=ticket.shuffle()).items()}
    assert all('from the ticket of round 6' in o for o in said.values())
    assert 'weights of epoch 0' in said['dense'] and 'epoch' not in said['reinit'] and 'rewound to epoch 0' in said['shuffle']
    assert 'round 0, weights of epoch 0' in repr(ticket_of(meta=dict(arm='dense', round=0, rewind=0)))

# What can go wrong while it is written

@pytest.mark.parametrize('what', ['os.fsync', 'os.replace'])
@pytest.mark.parametrize('error', [OSError('No space left on device'), KeyboardInterrupt()])
@pytest.mark.parametrize('old', [False, True])
def test_a_crash_leaves_the_old_file(what, error, old, tmp_path, monkeypatch):
    def crash(*args, **kwargs): raise error
    ticket = ticket_of(sparsity=20)
    if old: ticket.save(tmp_path/'t')
    monkeypatch.setattr(what, crash)
    with pytest.raises(type(error)): ticket_of(sparsity=70).save(tmp_path/'t')
    monkeypatch.undo()
    assert os.listdir(tmp_path)==(['t'] if old else [])
    if old: assert same(Ticket.load(tmp_path/'t'), ticket)

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='sets a limit to the size of files')
@pytest.mark.parametrize('old', [False, True])
def test_a_full_disk_leaves_the_old_file(old, tmp_path):
    resource = pytest.importorskip('resource')
    ticket = ticket_of(sparsity=20)
    if old: ticket.save(tmp_path/'t')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError): ticket_of(sparsity=70).save(tmp_path/'t')
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path)==(['t'] if old else [])
    if old: assert same(Ticket.load(tmp_path/'t'), ticket)

SAVE = '''
import sys
from lottery_nb.ticket import Ticket
tickets = [Ticket.load(o) for o in sys.argv[1:3]]
print('ready', flush=True)
while True:
    for o in tickets: o.save(sys.argv[3])
'''

def test_killed_at_any_moment(tmp_path):
    "A process that does nothing but save one and the other over the same file, killed without warning"
    nets = [mlp(), mlp()]
    tickets = [Ticket(Sparsifier(o).sparsify(s), everything(o), meta=dict(which=s)) for o,s in zip(nets, (30, 60))]
    paths = [o.save(tmp_path/f'{i}') for i,o in enumerate(tickets)]
    out = tmp_path/'out'
    p = subprocess.Popen([sys.executable, '-c', SAVE, *paths, out/'t'], stdout=subprocess.PIPE)
    try:
        assert p.stdout.readline()==b'ready\n'
        while not (out/'t').exists() and p.poll() is None: time.sleep(.01)
        for _ in range(10): # while it is written it can be read
            found = Ticket.load(out/'t')
            assert same(found, tickets[found.meta['which']==60])
    finally:
        p.kill()
        p.communicate()
    found = Ticket.load(out/'t')
    assert same(found, tickets[found.meta['which']==60])

def nested(n):
    o = 1
    for _ in range(n): o = [o]
    return o

def test_a_note_of_many_levels(tmp_path):
    ticket = ticket_of(meta=dict(a=nested(99)))
    assert same(Ticket.load(ticket.save(tmp_path/'t')), ticket)
    for n in (100, 5000):
        with pytest.raises(ValueError, match='meta: expected at most 100'): ticket_of(meta=dict(a=nested(n)))
    ticket.meta['b'] = nested(100)
    with pytest.raises(ValueError, match='meta: expected at most 100'): ticket.save(tmp_path/'t')

@pytest.mark.parametrize('odd', [torch.zeros(2, dtype=torch.complex128), torch.zeros(2, device='meta'), torch.zeros(2,2).to_sparse()])
def test_tensors_that_a_file_cannot_hold(odd, tmp_path):
    ticket = ticket_of()
    ticket.state['odd'] = odd
    with pytest.raises(ValueError, match='state/odd: a file has no place for'): ticket.save(tmp_path/'t')
    assert not os.listdir(tmp_path)

@pytest.mark.parametrize('meta', [dict(a=object()), dict(a={1, 2}), {(1, 2): 3}])
def test_a_note_that_json_cannot_hold(meta, tmp_path):
    ticket = ticket_of()
    ticket.save(tmp_path/'t')
    with pytest.raises(TypeError): Ticket(ticket.masks, ticket.state, meta=meta).save(tmp_path/'t')
    assert os.listdir(tmp_path)==['t'] and same(Ticket.load(tmp_path/'t'), ticket)

def test_what_is_no_place_for_a_file(tmp_path):
    (tmp_path/'file').write_text('x')
    for path in (tmp_path, tmp_path/'file'/'t'):
        with pytest.raises(OSError): ticket_of().save(path)
    assert sorted(os.listdir(tmp_path))==['file'] and not [o for o in os.listdir(tmp_path.parent) if o.startswith(f'.{tmp_path.name}.')]

# Files that are no tickets

def opened(raw):
    "Header, note and data of a ticket file"
    n = struct.unpack('<Q', raw[:8])[0]
    header = json.loads(raw[8:8+n])
    return header, json.loads(header['__metadata__']['lottery_nb']), raw[8+n:]

def sealed(raw):
    "With the right digest, as somebody who knows the format would make it"
    return _sealed(raw) if _digest_place.search(raw) else raw

def noted(note):
    "The metadata of a file with this note"
    if 'digest' in note: note['digest'] = '0'*64
    return dict(lottery_nb=json.dumps(note))

def rewritten(raw, change):
    "The file with another note or other tensors, and the right digest"
    (_,note,_),tensors = opened(raw),load(raw)
    change(note, tensors)
    return sealed(to_bytes(tensors, metadata=noted(note)))

head = 'head.weight'
def change(part, fn):
    def changed(note, tensors): tensors[part] = fn(tensors[part])
    return changed
def drop(part):
    def dropped(note, tensors): del tensors[part]
    return dropped
def told(**kwargs): return lambda note, tensors: note.update(kwargs)
def shape(value): return lambda note, tensors: note['shapes'].update({head: value})
def no_state(note, tensors):
    for k in [k for k in tensors if k.startswith('state/')]: del tensors[k]
    note['state'] = []
def bit_behind(note, tensors): # 7 by 9 weights: a bit of the last byte is over
    note['shapes'] = {'w': [7,9]}
    note['state'],note['trained'] = ['w'],None
    tensors.clear()
    tensors.update({'mask/w': torch.tensor([0]*7+[1], dtype=torch.uint8), 'state/w': torch.zeros(0)})

# what is done to it, and what the error says
damages = dict(
    fewer_values=(change(f'state/{head}', lambda t: t[:-1]), r'expected \d+ kept weights, got '),
    more_values=(change(f'state/{head}', lambda t: torch.cat([t, t])), r'expected \d+ kept weights'),
    two_dimensional=(change(f'state/{head}', lambda t: t.view(1,-1)), r'expected \d+ kept weights'),
    fewer_trained=(change(f'trained/{head}', lambda t: t[:-1]), r'expected \d+ kept weights'),
    other_type=(change(f'state/{head}', lambda t: t.int()), r'expected \d+ kept weights, got torch.int32'),
    complex_values=(change(f'state/{head}', lambda t: t*1j), r'expected \d+ kept weights, got torch.complex64'),
    short_mask=(change(f'mask/{head}', lambda t: t[:-1]), r'expected 5 bytes for the shape \[10, 4\], got .*4'),
    bool_mask=(change(f'mask/{head}', lambda t: torch.ones(5).bool()), 'got torch.bool'),
    signed_mask=(change(f'mask/{head}', lambda t: t.view(torch.int8)), 'got torch.int8'),
    empty_mask=(change(f'mask/{head}', lambda t: t[:0]), r'got .*\[0\]'),
    full_mask=(change(f'mask/{head}', lambda t: t|255), 'expected 40 kept weights'),
    bit_behind=(bit_behind, 'bits are set behind its last weight'),
    no_value=(drop(f'state/{head}'), 'missing'), no_buffer=(drop('state/stem.1.running_mean'), 'missing'), no_mask=(drop(f'mask/{head}'), 'missing'),
    one_too_many=(lambda note, tensors: tensors.update(more=torch.ones(1)), "unexpected: 'more'"),
    dense_too=(lambda note, tensors: tensors.update({f'whole/{head}': torch.ones(10,4)}), 'unexpected'),
    no_state=(no_state, 'names in state'), many_dimensions=(change('state/scale', lambda t: t.view([1]*32+[4])), '33 dimensions'),
    fewer_masks=(lambda note, tensors: note['shapes'].pop(head), 'unexpected'),
    no_format=(lambda note, tensors: note.pop('format'), "expected the format 'lottery_nb ticket 2', got None"),
    other_format=(told(format='lottery_nb ticket 1'), "expected the format 'lottery_nb ticket 2', got 'lottery_nb ticket 1'"),
    odd_format=(told(format=['lottery_nb ticket 2']), 'expected the format'),
    no_digest=(lambda note, tensors: note.pop('digest'), 'not what was saved'),
    no_shapes=(lambda note, tensors: note.pop('shapes'), 'its note has the entries'),
    shapes_list=(told(shapes=[[10,4]]), 'its shapes are no JSON object'),
    no_part=(lambda note, tensors: note.pop('trained'), 'its note has the entries'), more=(told(more=1), 'its note has the entries'),
    names_null=(told(state=None), 'names in state'), names_of_numbers=(told(state=[1, 2]), 'names in state'),
    names_of_lists=(told(trained=[['a']]), 'names in trained'),
    names_twice=(lambda note, tensors: note['state'].append(head), 'names in state'), names_dict=(told(trained={}), 'names in trained'),
    whole_number=(told(whole=1), 'whole=1: expected true or false'), whole_null=(told(whole=None), 'whole=None'), whole_missing=(told(whole=True), 'missing'),
    no_meta=(lambda note, tensors: note.pop('meta'), 'its note has the entries'),
    meta_list=(told(meta=[1, 2]), 'its meta is no JSON object'), meta_null=(told(meta=None), 'its meta is no JSON object'),
    deep=(told(meta=dict(a=nested(100))), 'meta: expected at most 100'), deeper=(told(meta=dict(a=nested(900))), 'meta: expected at most 100'),
    **{f'shape_{i}': (shape(o), f"'{head}': .* is no shape") for i,o in enumerate([
        [-10,-4], [10,-4], [True,40], [10.,4], ['10',4], [None], 40, '40', None, {}, [[10,4]], [1]*33, [10**30], [2**40,2**40], [2**62,2**62,0], [1]*100000])},
    **{f'size_{i}': (shape(o), 'bytes for the shape') for i,o in enumerate([[0], [0,2**62], [], [10,10**17], [2**62], [10,5], [31]])})

@pytest.mark.parametrize('damage', damages)
def test_damaged_tickets(damage, tmp_path):
    "The digest is right, so that each of the checks behind it is needed"
    path = ticket_of().save(tmp_path/'t')
    what,error = damages[damage]
    raw = rewritten(path.read_bytes(), what)
    assert raw!=path.read_bytes()
    path.write_bytes(raw)
    start = time.perf_counter()
    with pytest.raises(TicketError, match=f'^{re.escape(str(path))}: .*{error}'): Ticket.load(path)
    assert time.perf_counter()-start<2

def header_with(**kwargs):
    def changed(header): header['state/seen'].update(kwargs)
    return changed
def text(change): return lambda header: change(json.dumps(header, separators=(',',':'))).encode()

headers = dict(
    negative=header_with(shape=[-1]),
    fraction=header_with(shape=[1.]), boolean=header_with(shape=[True]), infinite=header_with(data_offsets=[0, math.inf]),
    nan=header_with(data_offsets=[0, math.nan]), larger=header_with(shape=[2]), huge=header_with(shape=[2**62]), product=header_with(shape=[2**33,2**33]),
    beyond=header_with(shape=[2**64]), hidden=header_with(shape=[2**63,0]), offsets=header_with(data_offsets=[0,2**63]), below=header_with(data_offsets=[-4,4]),
    backwards=header_with(data_offsets=[8,4]),
    one_offset=header_with(data_offsets=[4]), text_offset=header_with(data_offsets=['0','4']), none=header_with(data_offsets=None),
    four_bits=header_with(dtype='F4', shape=[8]), no_dtype=header_with(dtype='X32'), typeless=lambda header: header['state/seen'].pop('dtype'),
    overlap=lambda header: header['state/seen'].update(data_offsets=header['state/stem.1.running_mean']['data_offsets'], shape=[8]),
    moved=lambda header: header.update({'../x': header.pop('state/seen')}), gone=lambda header: header.pop('state/seen'),
    array=text(lambda o: '[1]'), number=text(lambda o: '1'), nothing=text(lambda o: ''), object=text(lambda o: '{}'), cut=text(lambda o: o[:-1]),
    more=text(lambda o: o+'}'), null=text(lambda o: o.replace('{"dtype":"F32","shape":[],', 'null,{')), deep=text(lambda o: '['*100000+']'*100000),
    deep_value=text(lambda o: o[:-1]+',"x":'+'{"a":'*100000+'1'+'}'*100001), deep_enough=text(lambda o: o[:-1]+',"x":'+'['*500+']'*500+'}'),
    twice=text(lambda o: o[:-1]+',"__metadata__":{"lottery_nb":"{}"}}'), large_number=text(lambda o: o[:-1]+',"x":'+'1'*10000+'}'),
    no_note=lambda header: header.pop('__metadata__'), other_note=lambda header: header.update(__metadata__=dict(format='pt')),
    list_note=lambda header: header.update(__metadata__=dict(lottery_nb='[1]')),
    broken_note=lambda header: header.update(__metadata__=dict(lottery_nb='{"format": ')),
    null_note=lambda header: header.update(__metadata__=dict(lottery_nb='null')), no_text=lambda header: header.update(__metadata__=dict(lottery_nb={})),
    deep_note=lambda header: header.update(__metadata__=dict(lottery_nb='['*100000)), note_list=lambda header: header.update(__metadata__=[1]))

@pytest.mark.parametrize('kind', headers)
def test_hostile_headers(kind, tmp_path):
    "The header is edited by hand, and the digest is right"
    header,_,data = opened(ticket_of().save(tmp_path/'t').read_bytes())
    changed = headers[kind](header)
    raw = changed if isinstance(changed, bytes) else json.dumps(header, separators=(',',':')).encode()
    (tmp_path/'t').write_bytes(sealed(struct.pack('<Q', len(raw)) + raw + data))
    start = time.perf_counter()
    with pytest.raises(TicketError, match=re.escape(str(tmp_path/'t'))): Ticket.load(tmp_path/'t')
    assert time.perf_counter()-start<2

@pytest.mark.parametrize('n', [0, 1, 10**6, 10**9, 2**40, 2**63, 2**64-1])
def test_headers_that_lie_about_their_length(n, tmp_path):
    raw = ticket_of().save(tmp_path/'t').read_bytes()
    (tmp_path/'t').write_bytes(struct.pack('<Q', n)+raw[8:])
    with pytest.raises(TicketError, match='header'): Ticket.load(tmp_path/'t')

def test_a_large_file_that_is_none_is_not_read(tmp_path):
    "A terabyte of nothing: behind a header of somebody else's, and behind a ticket"
    for raw in (to_bytes(dict(x=torch.ones(3))), ticket_of().save(tmp_path/'t').read_bytes(), b''):
        (tmp_path/'t').write_bytes(raw)
        try: os.truncate(tmp_path/'t', 1<<40)
        except OSError: pytest.skip('the file system has no files with holes')
        start = time.perf_counter()
        with pytest.raises(TicketError): Ticket.load(tmp_path/'t')
        assert time.perf_counter()-start<2

def test_a_safetensors_file_of_somebody_else(tmp_path):
    save_file(dict(x=torch.ones(3)), tmp_path/'t')
    with pytest.raises(TicketError, match="expected the format 'lottery_nb ticket 2', got None"): Ticket.load(tmp_path/'t')

def test_what_was_rewritten_unchanged_is_a_ticket(tmp_path):
    "By the functions that do the damage in these tests, and by safetensors itself"
    ticket = ticket_of(meta=dict(a='ü"\\', b=[1e-7, None]))
    path = ticket.save(tmp_path/'t')
    raw = path.read_bytes()
    save_file(load_file(path), path, metadata=dict(lottery_nb=opened(raw)[0]['__metadata__']['lottery_nb']))
    assert path.read_bytes()==raw
    assert rewritten(raw, lambda note, tensors: None)==raw and len(raw)>1000 and same(Ticket.load(path), ticket)

tiny = Masks({'w': torch.tensor([[True,False,True],[False,False,True],[True,True,True]])})
def tiny_ticket():
    w = torch.arange(1.,10).view(3,3)
    return Ticket(tiny, {'w': w, 'b': torch.tensor(3)}, meta=dict(é=1e-7), whole={'w': w})

@pytest.mark.parametrize('whole', [False, True])
def test_every_single_bit(whole, tmp_path):
    path = tiny_ticket().save(tmp_path/'t', whole=whole)
    raw = bytearray(path.read_bytes())
    with path.open('r+b') as f:
        for i in range(8*len(raw)):
            f.seek(i//8)
            f.write(bytes([raw[i//8]^(1<<i%8)]))
            f.flush()
            with pytest.raises(TicketError, match=re.escape(str(path))): Ticket.load(path)
            f.seek(i//8)
            f.write(raw[i//8:i//8+1])
            f.flush()
    assert same(Ticket.load(path), tiny_ticket(), whole)

@pytest.mark.parametrize('cut', ['behind', 'before'])
def test_cut_at_every_byte(cut, tmp_path):
    raw = tiny_ticket().save(tmp_path/'t').read_bytes()
    for i in range(1, len(raw)+1):
        (tmp_path/'t').write_bytes(raw[:-i] if cut=='behind' else raw[i:])
        with pytest.raises(TicketError): Ticket.load(tmp_path/'t')

MUTATE = """
import random, resource, struct, sys, time
from pathlib import Path
import torch
from lottery_nb.ticket import Ticket, TicketError, _digest_place, _sealed
torch.set_num_threads(1)
path,n = Path(sys.argv[1]),int(sys.argv[2])
raw,rng,first = path.read_bytes(),random.Random(0),Ticket.load(path)
digits = [i for i,c in enumerate(raw[:8+struct.unpack('<Q', raw[:8])[0]]) if chr(c).isdigit()]
def mutated():
    o = bytearray(raw)
    for _ in range(rng.choice([1,1,2,5,50])):
        at = rng.randrange(len(o))
        kind = rng.randrange(6)
        if kind==0: o[at] ^= 1<<rng.randrange(8)
        if kind==1: o[at:] = b''
        if kind==2: o[at:at] = rng.randbytes(rng.randrange(20))
        if kind==3: o[rng.choice(digits)%len(o)] = rng.choice(b'0123456789-.e')
        if kind==4: o[:8] = struct.pack('<Q', rng.choice([rng.randrange(2*len(raw)), rng.getrandbits(64)]))
        if kind==5: i = rng.choice(digits)%len(o); o[i:i] = rng.choice([b'9'*15, b'9'*30, b'[', b'[1]', b'null', b'-', b'1e999', b'true,'])
        if not o: break
    return bytes(o)
before,loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,0
for i in range(n):
    o = mutated()
    if i%2 and _digest_place.search(o): o = _sealed(o)
    path.write_bytes(o)
    start = time.perf_counter()
    try:
        found = Ticket.load(path)
        repr(found), found._repr_html_(), found.report()
        if not i%2: assert o==raw
        loaded += 1
    except TicketError: pass
    assert time.perf_counter()-start<1, o
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown<200*1024, f'{grown} kB more'
print(n, loaded)
"""

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='measures memory as Linux counts it')
def test_a_thousand_mutated_files(tmp_path):
    "Bytes flipped, cut and put in, lengths blown up, with the digest of old and with the right one: each is refused or a ticket, within a second and 200 MB"
    path = ticket_of(meta=dict(a=[1, 2.5, 'x'])).save(tmp_path/'t')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', MUTATE, path, '1000'], capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    assert done.stdout.split()[0]=='1000'

@pytest.mark.parametrize('share', [0, .001, .01, .1, .5, .9, .999])
def test_half_a_file(share, tmp_path):
    path = ticket_of().save(tmp_path/'t')
    raw = path.read_bytes()
    for data in (raw[:int(share*len(raw))], raw[:int(share*len(raw))]+bytes(len(raw)-int(share*len(raw))), raw+b'x'):
        path.write_bytes(data)
        with pytest.raises(TicketError, match=str(path)): Ticket.load(path)

@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_noise(folder, data):
    (folder/'noise').write_bytes(data)
    with pytest.raises(TicketError): Ticket.load(folder/'noise')

def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing'): Ticket.load(tmp_path/'nothing')
    with pytest.raises((OSError, TicketError)): Ticket.load(tmp_path)

class Trap:
    "Whoever unpickles this writes a file"
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)

@pytest.mark.parametrize('write', [lambda o, path: path.write_bytes(pickle.dumps(o)), lambda o, path: torch.save(o, path)])
def test_nothing_in_a_file_is_run(write, tmp_path):
    sprung = tmp_path/'sprung'
    write(dict(x=Trap(sprung)), tmp_path/'t')
    with pytest.raises(TicketError): Ticket.load(tmp_path/'t')
    assert not sprung.exists()

def test_loading_and_saving_know_no_pickle(tmp_path, monkeypatch):
    def forbidden(*args, **kwargs): raise RuntimeError('pickle')
    ticket = ticket_of()
    for name in ('pickle.loads', 'pickle.load', 'pickle.dump', 'pickle.dumps', 'pickle.Unpickler', 'pickle.Pickler', 'torch.load', 'torch.save'):
        monkeypatch.setattr(name, forbidden)
    assert same(Ticket.load(ticket.save(tmp_path/'t')), ticket)
    assert b'pickle' not in (tmp_path/'t').read_bytes()

# Into a model

@pytest.mark.parametrize('into', ['apply_to', 'trained_into'])
@pytest.mark.parametrize('wrap', [lambda o: o, nn.DataParallel, lambda o: torch.compile(o, backend='eager')], ids=['bare', 'DataParallel', 'compile'])
def test_into_another_model(into, wrap, tmp_path):
    ticket = Ticket.load(ticket_of().save(tmp_path/'t'))
    torch.manual_seed(7)
    net = ConvNet()
    ids = [id(p) for p in net.parameters()]
    sp = getattr(ticket, into)(wrap(net))
    expected = ticket.state if into=='apply_to' else ticket.trained
    assert not differing(everything(net), masked(expected, ticket.masks)) and sp.masks==ticket.masks and ids==[id(p) for p in net.parameters()]
    opt = torch.optim.SGD(net.parameters(), lr=.1, momentum=.9, weight_decay=.1)
    sp.watch(opt)
    before = {k: v.clone() for k,v in expected.items()}
    for _ in range(3): train_step(net, opt, *batch())
    assert nonzero_pruned(sp)==0 and not differing(expected, before) # the ticket is not what is trained
    further = sp.sparsify(80)
    assert not any((further[k] & ~ticket.masks[k]).any() for k in further)

TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from lottery_nb.ticket import Ticket
from models import ConvNet, batch, everything, train_step
torch.set_num_threads(1)

def train(ticket):
    net = ConvNet()
    opt = torch.optim.Adam(net.parameters(), weight_decay=.1)
    ticket.apply_to(net).watch(opt)
    for i in range(20): train_step(net, opt, *batch(seed=i))
    return everything(net)

if __name__=='__main__': torch.save(train(Ticket.load(sys.argv[2])), sys.argv[3])
"""

def test_trained_in_another_process(tmp_path):
    "The same weights, bit for bit, as without the detour over a file"
    ticket = ticket_of()
    space = dict(__name__='here')
    tests = str(Path(__file__).parent)
    subprocess.run([sys.executable, '-W', 'ignore', '-c', TRAIN, tests, ticket.save(tmp_path/'t'), tmp_path/'out'], check=True)
    exec(TRAIN.replace('sys.argv[1]', repr(tests)), space)
    trained = space['train'](ticket)
    assert not differing(torch.load(tmp_path/'out'), trained) and len(differing(trained, ticket.state))>8

def test_into_a_model_of_another_precision():
    ticket = ticket_of()
    net = ConvNet().double()
    ticket.apply_to(net)
    assert not differing(everything(net), {k: t.to(everything(net)[k].dtype) for k,t in ticket.state.items()})

@pytest.mark.parametrize('granularity, layers', [('filter', nn.Conv2d), ('row', 'head'), ('weight', ['up', 'head'])])
def test_a_ticket_of_some_layers(granularity, layers):
    ticket = ticket_of(granularity=granularity, layers=layers, method='local')
    net = ConvNet()
    sp = ticket.apply_to(net)
    assert list(sp.layers)==list(ticket.masks) and not differing(everything(net), ticket.state)

@pytest.mark.parametrize('into', ['apply_to', 'trained_into'])
@pytest.mark.parametrize('other', [lambda: ConvNet(n_out=7), mlp, lambda: nn.Sequential(ConvNet()), lambda: nn.Module(), lambda: nn.Linear(4,10)])
def test_into_a_model_of_another_architecture(into, other):
    net = other()
    before = everything(net)
    with pytest.raises(ValueError, match='a ticket of another model: .* in the ticket, .* in the model'): getattr(ticket_of(), into)(net)
    assert not differing(everything(net), before)

class Tied(nn.Module):
    "Two layers with one weight"
    def __init__(self):
        super().__init__()
        self.a,self.b = nn.Linear(6,6),nn.Linear(6,6)
        self.b.weight = self.a.weight

def test_into_a_model_with_tied_weights(tmp_path):
    "The second name of a tensor cannot undo what the first one was given"
    net = Tied()
    sp = Sparsifier(net)
    state = everything(net)
    masks = sp.sparsify(50)
    ticket = Ticket(masks, state, whole={k: state[k] for k in masks})
    for o in (ticket, ticket.signs(), ticket.shuffle(), ticket.reinit(net, 3), ticket.dense()):
        again = Tied()
        Ticket.load(o.save(tmp_path/'t')).apply_to(again)
        assert torch.equal(again.a.weight, o.state['a.weight']) and again.a.weight is again.b.weight

def test_masks_without_their_model():
    ticket = ticket_of()
    for masks, state, trained, error in ((dict(ticket.masks), ticket.state, None, TypeError), (ticket.masks, everything(mlp()), None, ValueError),
                                         (ticket.masks, ticket.state, everything(mlp()), ValueError), (ticket.masks, {}, None, ValueError),
                                         (ticket.masks, {k: v for k,v in ticket.state.items() if k!='up.weight'}, None, ValueError)):
        with pytest.raises(error): Ticket(masks, state, trained)

@pytest.mark.parametrize('kwargs, error, match', [
    (dict(state=None), TypeError, 'state=NoneType: expected a dict of tensors'), (dict(state=[1]), TypeError, 'state=list'),
    (dict(state={head: [1.]}), TypeError, r"state\['head.weight'\]=list: expected a tensor"), (dict(trained={0: torch.ones(1)}), TypeError, r'trained\[0\]'),
    (dict(meta=[1]), TypeError, 'meta=list: expected a dict'), (dict(whole={}), ValueError, 'whole of another model than the masks'),
    (dict(whole=lambda t: {k: v+1 for k,v in t.state.items()}), ValueError, r"whole\['stem.0.weight'\]: its kept weights are not those of the state"),
    (dict(whole=lambda t: {k: v.double() for k,v in t.state.items()}), ValueError, 'its kept weights are not those of the state'),
    (dict(state=lambda t: {k: v.int() for k,v in t.state.items()}), TypeError, 'stem.0.weight: weights of type torch.int32'),
    (dict(state=lambda t: {k: v.to('meta') for k,v in t.state.items()}), ValueError, 'stem.0.weight: on the meta device')])
def test_what_is_no_ticket(kwargs, error, match):
    ticket = ticket_of()
    kwargs = dict(masks=ticket.masks, state=ticket.state) | {k: o(ticket) if callable(o) else o for k,o in kwargs.items()}
    with pytest.raises(error, match=match): Ticket(**kwargs)

def test_pruned_weights_are_0_in_a_ticket_and_the_givers_stay():
    net = ConvNet()
    masks = Sparsifier(net).sparsify(50)
    dense = everything(ConvNet())
    before = copied(dense)
    ticket = Ticket(masks, dense, dense, whole={k: dense[k] for k in masks})
    assert not differing(dense, before) and not differing(ticket.state, masked(dense, masks)) and not differing(ticket.trained, ticket.state)
    assert not differing({**ticket.state, **ticket.whole}, dense)
    shared = {k: t.data_ptr() for k,t in dense.items()}
    assert all(ticket.whole[k].data_ptr()==shared[k]!=ticket.state[k].data_ptr() for k in masks)
    again = Ticket(masks, ticket.state)
    assert all(again.state[k].data_ptr()==t.data_ptr() for k,t in ticket.state.items())

def test_an_untrained_ticket():
    ticket = ticket_of()
    untrained = Ticket(ticket.masks, ticket.state)
    with pytest.raises(ValueError, match='no trained weights'): untrained.trained_into(ConvNet())
    assert untrained.trained is None and untrained.meta=={}

@pytest.mark.parametrize('how', [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=['deepcopy', 'pickle'])
def test_copies(how):
    ticket = ticket_of(meta=dict(a=1))
    twin = how(ticket)
    assert same(twin, ticket)
    twin.state['head.weight'].add_(1)
    assert not same(twin, ticket)

def test_what_it_is_made_from_can_change():
    ticket = ticket_of()
    state, meta = dict(ticket.state), dict(a=1)
    made = Ticket(ticket.masks, state, state, meta)
    state.clear()
    meta['b'] = 2
    assert made.meta==dict(a=1) and made.state.keys()==ticket.state.keys() and made.trained.keys()==ticket.state.keys()

def test_bits_of_a_file_on_disk():
    "A ticket's pruned weights are +0 in it, whoever gave them"
    net = ConvNet()
    masks = Sparsifier(net).sparsify(50)
    dense = everything(ConvNet())
    sp = Ticket(masks, dense).apply_to(net)
    assert nonzero_pruned(sp)==0 and not differing(everything(net), masked(dense, masks))
    assert all(bits(net.state_dict()[k][~m]).count_nonzero()==0 for k,m in masks.items()) and isinstance(sp.masks, Masks)

# The controls

@st.composite
def tickets(draw, granularity='weight', dtype=dtypes):
    "A ticket of a random network, pruned at random places, with weights that are not only whole numbers"
    net = draw(nets(granularity, max_layers=3, ties=False, dtype=dtype))
    sp = Sparsifier(net, granularity, criteria='random', allow_collapse=True)
    state = everything(net)
    masks = sp.sparsify(draw(st.sampled_from([0, 20, 50, 90, 100])))
    return net, Ticket(masks, state, everything(net), dict(granularity=granularity, seeds=dict(torch=5)), {k: state[k] for k in masks})

def untouched(ticket, net=None):
    "A function that says whether a ticket (and a network, and the random numbers) are as they were"
    twin,state,rng = copy.deepcopy(ticket),None if net is None else everything(net),torch.get_rng_state()
    return lambda: same(ticket, twin, True) and torch.equal(torch.get_rng_state(), rng) and (net is None or not differing(everything(net), state))

def kept(masks): return [int(m.sum()) for m in masks.values()]

def is_control(made, ticket, arm, seed=None):
    told = {} if seed is None else dict(seed=seed, seeds={**ticket.meta.get('seeds', {}), arm: seed})
    return made.trained is None and made.meta=={**ticket.meta, 'arm': arm, 'sparsity': made.sparsity, **told} and list(made.state)==list(ticket.state)

seeds = st.integers(0, 2**64-1)

@given(tickets(), seeds)
def test_reinit(made, seed):
    net,ticket = made
    as_before = untouched(ticket, net)
    a = ticket.reinit(net, seed)
    assert as_before() and is_control(a, ticket, 'reinit', seed) and a.masks==ticket.masks
    assert not differing(a.state, ticket.reinit(net, seed).state) and [t.dtype for t in a.state.values()]==[t.dtype for t in ticket.state.values()]
    fresh = copy.deepcopy(net)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for m in fresh.modules():
            if hasattr(m, 'reset_parameters'): m.reset_parameters()
    assert not differing(a.state, masked(everything(fresh), a.masks)) and not differing(a.whole, {k: everything(fresh)[k] for k in a.masks})

def test_reinit_whatever_the_model_went_through():
    "What no module draws comes from the ticket and not from the model, and is named"
    ticket = ticket_of()
    for k in ('scale', 'seen', 'stem.1.running_mean'): ticket.state[k].add_(7)
    torch.manual_seed(9)
    other = ConvNet()
    with torch.no_grad():
        for p in other.parameters(): p.add_(3)
    with pytest.warns(UserWarning, match='^reinit: no reset_parameters draws scale: the values of the ticket are kept') as said:
        a,b,c = (ticket.reinit(*o) for o in ((ConvNet(), 4), (nn.DataParallel(other), 4), (other, 5)))
    assert said[0].filename==__file__ and not differing(a.state, b.state) and differing(a.state, c.state)
    assert torch.equal(a.state['scale'], ticket.state['scale']) and torch.equal(a.state['seen'], ticket.state['seen'])
    assert a.state['stem.1.running_mean'].count_nonzero()==0

class Own(nn.Module):
    "Modules with a parameter of their own, one of which can draw it, and a parent that draws for a child"
    def __init__(self):
        super().__init__()
        self.linear,self.child,self.mixed = nn.Linear(3,3),nn.Module(),nn.MultiheadAttention(4,2)
        self.child.w,self.child.v = nn.Parameter(torch.zeros(3)),nn.Parameter(torch.zeros(3))
    def reset_parameters(self): nn.init.normal_(self.child.w)

def test_reinit_names_exactly_what_nobody_drew():
    net = Own()
    masks = Sparsifier(net).sparsify(30)
    with pytest.warns(UserWarning, match='draws child.v, mixed.in_proj_weight, mixed.in_proj_bias: '): a = Ticket(masks, everything(net)).reinit(net)
    assert a.state['child.w'].count_nonzero()==3

@given(tickets(), seeds, st.sampled_from(['layer', 'model']))
@pytest.mark.filterwarnings('ignore:layer collapse')
def test_shuffle(made, seed, within):
    ticket = made[1]
    as_before = untouched(ticket)
    a = ticket.shuffle(seed, within)
    assert as_before() and is_control(a, ticket, 'shuffle', seed)
    assert kept(a.masks)==kept(ticket.masks) if within=='layer' else a.masks.n_kept==ticket.masks.n_kept
    assert a.masks==ticket.shuffle(seed, within).masks and a.masks.shapes()==ticket.masks.shapes()
    assert not differing(a.whole, ticket.whole) and not differing(a.state, {**ticket.state, **masked(ticket.whole, a.masks)})

@pytest.mark.filterwarnings('ignore:layer collapse')
def test_shuffle_is_fair():
    "Over many seeds every place is kept about as often as every other"
    masks = Masks({'w': torch.arange(6)<2, 'v': torch.arange(4)<3})
    ticket = Ticket(masks, {'w': torch.ones(6), 'v': torch.ones(4)}, whole={'w': torch.ones(6), 'v': torch.ones(4)})
    for within,expected in dict(layer=[1/3]*6+[.75]*4, model=[.5]*10).items():
        made = [ticket.shuffle(i, within).masks for i in range(600)]
        share = torch.stack([torch.cat(list(o.values())).float() for o in made]).mean(0)
        assert (share-torch.tensor(expected)).abs().max()<.1

def test_shuffle_says_which_layer_it_emptied():
    masks = Masks({'w': torch.arange(1000)<1, 'v': torch.ones(1).bool()})
    state = {k: torch.ones(m.shape) for k,m in masks.items()}
    with pytest.warns(UserWarning, match='layer collapse: .* v keeps no weight'): Ticket(masks, state, whole=state).shuffle(0, 'model')

@given(tickets())
def test_signs(made):
    ticket = made[1]
    as_before = untouched(ticket)
    a = ticket.signs()
    assert as_before() and is_control(a, ticket, 'signs') and a.masks==ticket.masks and a.whole is None
    assert [t.dtype for t in a.state.values()]==[t.dtype for t in ticket.state.values()]
    for k,m in a.masks.items():
        assert torch.equal(a.state[k].sign(), ticket.state[k].sign()) and len(set(a.state[k][ticket.state[k]!=0].abs().tolist()))<=1
        if m.any(): assert torch.allclose(a.state[k].double().norm(), ticket.state[k].double().norm(), rtol=2e-2 if a.state[k].dtype==torch.bfloat16 else 2e-3)
    assert not differing({k: t for k,t in a.state.items() if k not in a.masks}, {k: t for k,t in ticket.state.items() if k not in a.masks})

def test_the_sign_of_a_kept_zero():
    ticket = Ticket(tiny, {'w': torch.tensor([[-0.,9.,0.],[9.,9.,-3.],[1.,2.,-4.]])})
    assert bits(ticket.signs().state['w'][ticket.state['w']==0]).sum()%128==0
    assert torch.allclose(ticket.signs().state['w'], torch.tensor([[0.,0,0],[0,0,-1],[1,1,-1]])*(30/6)**.5)

@given(tickets())
def test_dense(made):
    net,ticket = made
    as_before = untouched(ticket)
    a = ticket.dense()
    assert as_before() and is_control(a, ticket, 'dense') and (a.sparsity, a.density)==(0, 100) and all(m.all() for m in a.masks.values())
    assert not differing(a.state, {**ticket.state, **ticket.whole})
    a.apply_to(net)
    assert not differing(everything(net), a.state)

@given(nets(ties=False), st.sampled_from([0, 33.3, 50, 90]), seeds, st.sampled_from(['local', 'global']))
@pytest.mark.filterwarnings('ignore:layer collapse')
def test_random_ticket(net, sparsity, seed, method):
    before,rng = everything(net),torch.get_rng_state()
    a = random_ticket(net, sparsity, seed, method=method)
    assert not differing(everything(net), before) and torch.equal(torch.get_rng_state(), rng)
    assert not differing(a.state, masked(before, a.masks)) and not differing(a.whole, {k: before[k] for k in a.masks}) and a.trained is None
    twin = copy.deepcopy(net)
    assert a.masks==Sparsifier(twin, method=method, criteria=random_scores(seed=seed)).sparsify(sparsity)
    assert a.masks==random_ticket(net, sparsity, seed, method=method).masks
    assert a.meta | dict(versions=0)==dict(
        arm='random', seed=seed, seeds=dict(random=seed), sparsity=a.sparsity, granularity='weight', method=method,
        criterion=f'random_scores(seed={seed})', layers=list(a.masks), shapes={k: list(t.shape) for k,t in before.items()}, versions=0)

def test_random_tickets_of_units():
    net = ConvNet()
    a = random_ticket(net, 50, 1, 'filter', 'local', nn.Conv2d)
    assert list(a.masks)==['stem.0.weight', 'grouped.weight'] and all(m.flatten(1).float().mean(1).unique().numel()<=2 for m in a.masks.values())
    assert a.masks!=random_ticket(net, 50, 2, 'filter', 'local', nn.Conv2d).masks

def test_controls_of_controls():
    "The note says what was done, in turn, and from which seeds"
    net = mlp()
    ticket = ticket_of(net, meta=dict(arm='ticket', seed=7, seeds=dict(data=3)))
    a = ticket.reinit(net, 1)
    b = a.shuffle(2)
    assert (b.meta['arm'], b.meta['seed'], b.meta['seeds'])==('reinit+shuffle', 2, dict(data=3, reinit=1, shuffle=2)) and a.dense().meta['arm']=='reinit+dense'
    assert not differing(a.dense().state, b.dense().state) and b.signs().meta['arm']=='reinit+shuffle+signs' and b.signs().masks==b.masks

@pytest.mark.parametrize('call, error, match', [
    *[(lambda t,net,s=s,f=f: f(t, net, s), e, f'seed={s!r}: expected ')
      for s,e in ((-1, ValueError), (1.5, TypeError), ('1', TypeError), (True, TypeError), (2**64, ValueError))
      for f in (lambda t,net,s: t.reinit(net, s), lambda t,net,s: t.shuffle(s), lambda t,net,s: random_ticket(net, 50, s))],
    (lambda t,net: t.shuffle(within='all'), ValueError, "within='all': expected one of layer, model"),
    (lambda t,net: t.shuffle(within=None), TypeError, 'within=None'),
    (lambda t,net: Ticket(t.masks, t.state).shuffle(), ValueError, 'shuffle: this ticket does not know its pruned weights'),
    (lambda t,net: Ticket(t.masks, t.state).dense(), ValueError, 'dense: this ticket does not know its pruned weights'),
    (lambda t,net: Ticket(t.masks, t.state, meta=dict(granularity='filter'), whole=t.whole).shuffle(), ValueError, 'granularity filter'),
    (lambda t,net: t.reinit(mlp()), ValueError, 'a ticket of another model: '), (lambda t,net: t.reinit(net.state_dict()), TypeError, 'model=OrderedDict'),
    (lambda t,net: t.reinit(net.to('meta')), ValueError, 'on the meta device'), (lambda t,net: t.overlap(t.masks), TypeError, 'other=Masks: expected a Ticket'),
    (lambda t,net: t.overlap(ticket_of(mlp())), ValueError, r'tickets of different models: stem.0.weight: \(8, 1, 3, 3\) in this ticket, missing in the other'),
    (lambda t,net: random_ticket(net, 150), ValueError, 'sparsity=150'), (lambda t,net: random_ticket(net, 50, granularity='x'), ValueError, "granularity='x'"),
    (lambda t,net: random_ticket(net, 50, method='x'), ValueError, "method='x'"), (lambda t,net: random_ticket(net, 50, layers='x'), ValueError, "layers='x'"),
    (lambda t,net: random_ticket(None, 50), TypeError, 'model=NoneType')])
def test_what_controls_refuse(call, error, match):
    with pytest.raises(error, match=match): call(ticket_of(), ConvNet())

# Overlap

@given(tickets(), st.data())
@pytest.mark.filterwarnings('ignore:layer collapse')
def test_overlap(made, data):
    "Against counting one weight after the other"
    a = made[1]
    b = Ticket(Masks({k: torch.tensor(data.draw(st.lists(st.booleans(), min_size=m.numel(), max_size=m.numel())), dtype=torch.bool).view(m.shape)
                      for k,m in a.masks.items()}), a.state)
    df = a.overlap(b)
    assert list(df.columns)==['layer','weights','iou','chance','kept_a','kept_b','kept_both'] and list(df.layer)==[*a.masks, 'all']
    both_in_all,chance_in_all = 0,0.
    for row,k in zip(df.itertuples(), a.masks):
        x,y = ({i for i,o in enumerate(t.masks[k].flatten().tolist()) if o} for t in (a, b))
        n = a.masks[k].numel()
        assert (row.weights, row.kept_a, row.kept_b, row.kept_both)==(n, len(x), len(y), len(x & y))
        assert row.iou==(len(x & y)/len(x | y) if x | y else 1)
        expected = len(x)*len(y)/n
        assert row.chance==pytest.approx(expected/(len(x)+len(y)-expected) if x or y else 1)
        both_in_all,chance_in_all = both_in_all+len(x & y),chance_in_all+expected
    last,n = df.iloc[-1],a.masks.n_kept+b.masks.n_kept
    assert last.iou==pytest.approx(a.masks.iou(b.masks)) and (last.kept_a, last.kept_b, last.kept_both)==(a.masks.n_kept, b.masks.n_kept, both_in_all)
    assert last.chance==pytest.approx(chance_in_all/(n-chance_in_all) if n else 1)

def test_overlap_by_chance_is_what_chance_gives():
    ticket = ticket_of(mlp(), 80, criteria='random')
    for o in (ticket.shuffle(seed) for seed in range(3)):
        df = ticket.overlap(o)
        assert (df.iou-df.chance).abs().iloc[[0,1,3]].max()<.01 and list(df.kept_a)==list(df.kept_b)

# What it looks like

class Tags(html.parser.HTMLParser):
    "The tags and attributes of a piece of HTML, and what is open in the end"
    def __init__(self): super().__init__(); self.seen,self.attrs,self.open,self.text = set(),set(),[],''
    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attrs |= {k for k,_ in attrs}
        if tag!='br': self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop()==tag
    def handle_data(self, data): self.text += data

told_by_repr = ('arm','seed','criterion','granularity','method','schedule','round','rewind')
nasty = ['<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "' onclick='x", '</td></table>', '&lt;b&gt;', '\x1b[2J\u202e', '\ud800']

@pytest.mark.parametrize('text', nasty)
def test_whatever_names_and_notes_say_is_text(text):
    m = Masks({text: torch.tensor([True,False])})
    for meta in (dict.fromkeys(told_by_repr, text), dict(criterion=[text], arm={text: text}, rewind_epoch=text*1000), dict(rewind=[text], rewind_epoch=text),
                 dict(rewind='9'*1000 + 'it', criterion=text)):
        ticket = Ticket(m, {text: torch.ones(2)}, meta=meta)
        tags = Tags()
        tags.feed(ticket._repr_html_())
        assert tags.open==[] and tags.seen=={'div','p','b','br','table','thead','tbody','tr','th','td'} and tags.attrs=={'style','aria-hidden'}
        assert text in tags.text
        assert repr(ticket).isprintable() and len(repr(ticket))<1000

def test_bars_are_as_long_as_the_density():
    ticket = ticket_of()
    widths = [float(o) for o in re.findall(r'width:([\d.]+)%', ticket._repr_html_())]
    assert widths==[round(100-o, 2) for o in ticket.report().sparsity] and ticket.report().equals(ticket.masks.table())
    assert 'http' not in ticket._repr_html_() and (ticket.sparsity, ticket.density)==(ticket.masks.sparsity, ticket.masks.density)

def test_what_repr_tells():
    ticket = ticket_of(meta=dict(arm='signs', seed=3, criterion='large_final', granularity='weight', method='global', schedule='one_shot', rewind_epoch=2))
    n = ticket.masks.n_weights
    n_all = sum(t.numel() for t in ticket.state.values())
    assert repr(ticket)==(f'Ticket({ticket.sparsity:.2f} % sparse: {n-round(.6*n)} of {n} prunable weights kept, {n_all} values in all; '
                          'arm signs, seed 3, criterion large_final, granularity weight, method global, schedule one_shot, rewound to epoch 2, trained)')
    assert repr(Ticket(ticket.masks, ticket.state)).endswith('in all; not trained)')

@pytest.mark.parametrize('meta, said', [(dict(rewind_epoch=2), 'rewound to epoch 2, '), (dict(rewind_epoch=None), ''),
    (dict(round=3, rewind=0, rewind_epoch=0), 'round 3, rewound to epoch 0, '),
    (dict(round=3, rewind='100it', rewind_epoch=None), 'round 3, rewound to step 100, '),
    (dict(round=3, rewind='lr', rewind_epoch=None), 'round 3, learning rate rewound, weights not, '),
    (dict(round=0, rewind=1, rewind_epoch=1), 'round 0, weights of epoch 1, '), (dict(round=0, rewind='7it'), 'round 0, weights of step 7, '),
    (dict(round=0, rewind='lr'), 'round 0, ')], ids=str)
def test_where_the_weights_come_from_is_told_once(meta, said):
    "As the callback notes it (`rewind_epoch`), and as `find_ticket` does (`rewind`, too)"
    ticket = ticket_of(meta=meta)
    assert repr(ticket).endswith(f' in all; {said}trained)') and f'{said}trained<' in ticket._repr_html_()

# What the callback tells a ticket

def searched(schedule, epochs, start_epoch=1, seed=3, cbs=(), **kwargs):
    learn = learner(seed=seed)
    sp_cb = SparsifyCallback(80, 'weight', 'global', large_final, schedule, start_epoch=start_epoch, verbose=False, **kwargs)
    learn.fit(epochs, cbs=[sp_cb, *cbs])
    return learn, sp_cb

def test_the_note_of_a_search(tmp_path):
    learn, sp_cb = searched(geometric(n_steps=2), 6, start_epoch=2, lth=True, rewind_epoch=1)
    ticket = sp_cb.ticket
    measured = [dict(zip(('train_loss','valid_loss','accuracy'), learn.rows[e][1:4])) for e in (1,3,5)]
    assert ticket.meta['rounds']==[dict(o, round=r, density=pytest.approx(100*.2**(r/2), abs=.01), epoch=2*r+1) for r,o in enumerate(measured)]
    assert ticket.meta['seeds']==dict(torch=3, data=0) and ticket.meta['data']==dict(loader='WholeDL', n_train=1437, n_valid=360)
    assert ticket.meta['shapes']=={k: list(t.shape) for k,t in mlp().state_dict().items()} and ticket.meta['arm']=='ticket'
    assert set(ticket.meta['versions'])=={'python','lottery_nb','torch','fastai'}
    assert json.loads(json.dumps(ticket.meta, allow_nan=False))==ticket.meta and same(Ticket.load(ticket.save(tmp_path/'t', whole=True)), ticket, whole=True)
    assert not differing(ticket.whole, {k: sp_cb.sparsifier.snapshot[k] for k in ticket.masks})
    assert all(ticket.whole[k].data_ptr()==sp_cb.sparsifier.snapshot[k].data_ptr() for k in ticket.masks)
    assert not differing(ticket.dense().state, sp_cb.sparsifier.snapshot)

def test_rounds_of_a_gradual_schedule_and_of_none():
    "A line for every epoch in which there were new masks; one in all where there are none"
    _, sp_cb = searched(agp, 5, end_epoch=3)
    assert [(o['round'], o['epoch']) for o in sp_cb.history]==[(0, 0), (1, 1), (2, 4)]
    _, sp_cb = searched(one_shot, 2, start_epoch=1)
    assert [(o['round'], o['epoch']) for o in sp_cb.history]==[(0, 0), (1, 1)]

def test_a_second_fit_goes_on_with_the_last_round():
    learn, sp_cb = searched(one_shot, 2, lth=True)
    rounds = copy.deepcopy(sp_cb.history)
    ticket = sp_cb.ticket
    learn.fit(3, cbs=sp_cb)
    assert [o['epoch'] for o in sp_cb.history]==[0, 2] and sp_cb.history[0]==rounds[0] and ticket.meta['rounds']==rounds
    learner().fit(2, cbs=sp_cb) # another model: another search
    assert [o['epoch'] for o in sp_cb.history]==[0, 1] and sp_cb.history[0]!=rounds[0]

def test_what_cannot_be_measured_is_left_out(tmp_path):
    "A loss that is no number, no recorder, data that do not know their length"
    from fastai.basics import CancelValidException, Callback, CrossEntropyLossFlat, Learner, Recorder
    from fastai.data.core import DataLoaders
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self): return iter([(torch.randn(1,8,8), torch.tensor(1)) for _ in range(8)])
    class Skip(Callback):
        def before_validate(self): raise CancelValidException
    streams = DataLoaders(*[torch.utils.data.DataLoader(Stream(), batch_size=4) for _ in range(2)])
    for dls,kwargs,cbs in ((few_batches(), dict(loss_func=lambda x,y: CrossEntropyLossFlat()(x, y)*math.nan), []), (few_batches(), {}, [Skip()])):
        learn = quiet(Learner(dls, ConvNet(), **{'loss_func': CrossEntropyLossFlat(), **kwargs}))
        sp_cb = SparsifyCallback(50, 'weight', 'global', 'random', one_shot, verbose=False)
        try: learn.fit(1, cbs=[sp_cb, *cbs])
        except ValueError: pass
        json.dumps(sp_cb.ticket.meta, allow_nan=False)
    sp_cb = SparsifyCallback(50, 'weight', 'global', large_final, one_shot, verbose=False)
    sp_cb.learn = Learner(streams, ConvNet(), loss_func=CrossEntropyLossFlat())
    assert sp_cb._origin()['data']==dict(loader='DataLoader', n_train=None, n_valid=None) and sp_cb._origin()['seeds']['data'] is None
    learn = quiet(Learner(few_batches(), ConvNet(), loss_func=CrossEntropyLossFlat()))
    learn.remove_cb(Recorder)
    learn.fit(1, cbs=sp_cb)
    assert [list(o) for o in sp_cb.history]==[['round','density','epoch']]
