"Tickets: there and back again, into models and files, and files that are damaged"
import copy, json, os, pickle, struct, subprocess, sys, time
from pathlib import Path

import pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from lottery_nb.masks import Masks
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket, TicketError
from models import ConvNet, batch, bits, differing, dtypes, everything, masked, mlp, nets, nonzero_pruned, train_step

def ticket_of(net=None, sparsity=60, meta=None, **kwargs):
    torch.manual_seed(0)
    net = net or ConvNet()
    sp = Sparsifier(net, **kwargs)
    state = everything(net)
    masks = sp.sparsify(sparsity)
    if isinstance(net, ConvNet): train_step(net, torch.optim.SGD(net.parameters(), lr=.1), *batch())
    sp.apply()
    return Ticket(masks, masked(state, masks), everything(net), meta)

def same(a, b):
    return (a.masks==b.masks and not differing(a.state, b.state) and (a.trained is None)==(b.trained is None)
            and not differing(a.trained or {}, b.trained or {}) and a.meta==b.meta)

meta = st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                                               lambda o: st.lists(o) | st.dictionaries(st.text(), o), max_leaves=4), max_size=3)

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('tickets')

@settings(max_examples=40)
@given(nets(max_layers=3), meta, st.booleans(), st.sampled_from([0, 50, 100]))
def test_there_and_back(folder, net, meta, trained, sparsity):
    sp = Sparsifier(net, allow_collapse=True)
    state = everything(net)
    masks = sp.sparsify(sparsity)
    ticket = Ticket(masks, masked(state, masks), everything(net) if trained else None, meta)
    path = ticket.save(folder/'t.safetensors')
    assert path==folder/'t.safetensors' and os.listdir(folder)==['t.safetensors']
    loaded = Ticket.load(path)
    assert same(loaded, ticket) and list(loaded.masks)==list(masks) and repr(loaded)==repr(ticket)
    assert loaded.masks.digest()==ticket.masks.digest()

@given(dtypes)
def test_odd_values_and_layouts(folder, dtype):
    "NaN in statistics, -0., channels_last, tied names, whole numbers, and a tensor without any value"
    net = ConvNet().to(dtype).to(memory_format=torch.channels_last)
    masks = Sparsifier(net).sparsify(50)
    state = everything(net) | dict(empty=torch.zeros(0,3), count=torch.tensor(7), big=torch.arange(6).view(2,3).T)
    state['stem.1.running_mean'][:2] = torch.tensor([float('nan'), -0.])
    ticket = Ticket(masks, state)
    assert same(Ticket.load(ticket.save(folder/'odd.safetensors')), ticket)

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

def rewritten(path, change):
    "The same safetensors file with another note or other tensors"
    raw = path.read_bytes()
    n = struct.unpack('<Q', raw[:8])[0]
    note, tensors = json.loads(json.loads(raw[8:8+n])['__metadata__']['lottery_nb']), load_file(path)
    changed = change(note, tensors)
    save_file({k: t.clone() for k,t in tensors.items()}, path, metadata=changed if isinstance(changed, dict) else dict(lottery_nb=json.dumps(note)))

def flip(note, tensors): tensors['mask/head.weight'][0,0] ^= True
def shorten(note, tensors): tensors['state/head.weight'] = tensors['state/head.weight'][:3]
def drop_state(note, tensors): del tensors['state/head.weight']
def drop_buffer(note, tensors): del tensors['state/stem.1.running_mean']
def drop_mask(note, tensors): del tensors['mask/head.weight']
def floats(note, tensors): tensors['mask/head.weight'] = tensors['mask/head.weight'].float()
def fewer_masks(note, tensors): note['names']['mask'].remove('head.weight')
def no_state(note, tensors):
    for k in [k for k in tensors if k.startswith('state/')]: del tensors[k]
    note['names']['state'] = []

damages = dict(
    flipped=flip, shortened=shorten, no_tensor=drop_state, no_buffer=drop_buffer, no_mask=drop_mask, float_mask=floats, no_state=no_state,
    fewer_masks=fewer_masks,
    no_format=lambda note, tensors: note.pop('format') and None, other_format=lambda note, tensors: note.update(format='lottery_nb ticket 2'),
    no_digest=lambda note, tensors: note.pop('digest') and None, other_digest=lambda note, tensors: note.update(digest='0'*64),
    no_names=lambda note, tensors: note.pop('names') and None, names_list=lambda note, tensors: note.update(names=['mask']),
    no_part=lambda note, tensors: note['names'].pop('trained') and None, names_null=lambda note, tensors: note['names'].update(mask=None),
    no_meta=lambda note, tensors: note.pop('meta') and None, meta_list=lambda note, tensors: note.update(meta=[1, 2]),
    meta_null=lambda note, tensors: note.update(meta=None),
    no_note=lambda note, tensors: {}, other_note=lambda note, tensors: dict(format='pt'), list_note=lambda note, tensors: dict(lottery_nb='[1]'),
    broken_note=lambda note, tensors: dict(lottery_nb='{"format": '), null_note=lambda note, tensors: dict(lottery_nb='null'))

@pytest.mark.parametrize('damage', damages)
def test_damaged_tickets(damage, tmp_path):
    path = ticket_of().save(tmp_path/'t')
    ticket = path.read_bytes()
    rewritten(path, damages[damage])
    assert path.read_bytes()!=ticket
    with pytest.raises(TicketError, match=str(path)): Ticket.load(path)

def test_what_was_rewritten_unchanged_is_a_ticket(tmp_path):
    ticket = ticket_of()
    path = ticket.save(tmp_path/'t')
    rewritten(path, lambda note, tensors: None)
    assert len(path.read_bytes())>1000 and same(Ticket.load(path), ticket)

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
    with pytest.raises(ValueError): getattr(ticket_of(), into)(net)
    assert not differing(everything(net), before)

def test_masks_without_their_model():
    ticket = ticket_of()
    for masks, state, trained, error in ((dict(ticket.masks), ticket.state, None, TypeError), (ticket.masks, everything(mlp()), None, ValueError),
                                         (ticket.masks, ticket.state, everything(mlp()), ValueError), (ticket.masks, {}, None, ValueError),
                                         (ticket.masks, {k: v for k,v in ticket.state.items() if k!='up.weight'}, None, ValueError)):
        with pytest.raises(error): Ticket(masks, state, trained)

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
