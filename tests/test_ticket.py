"Tickets: there and back again, into models and files, and files that are damaged"
import copy, html.parser, json, math, os, pickle, struct, subprocess, sys, time
from pathlib import Path

import pytest, torch, torchvision
from hypothesis import assume, given, settings, strategies as st
from safetensors.torch import load_file, save as to_bytes, save_file
from torch import nn

import lottery_nb.channels, lottery_nb.n_of_m # noqa: F401 (filters with their followers)
from lottery_nb.arms import random_ticket
from lottery_nb.core import ArgumentError
from lottery_nb.masks import Masks
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket, TicketError, same_bits
from lottery_nb.ticketfile import TicketFile, read_header
from models import ConvNet, batch, bits, copied, differing, dtypes, everything, masked, mlp, nets, nonzero_pruned
from models import plain_arms, train_step

def ticket_of(net=None, sparsity=60, meta=None, **kwargs):
    "A trained ticket that knows its pruned weights"
    torch.manual_seed(0)
    net = net or ConvNet()
    sp = Sparsifier(net, **kwargs)
    state = everything(net)
    masks = sp.sparsify(sparsity)
    if isinstance(net, ConvNet): train_step(net, torch.optim.SGD(net.parameters(), lr=.1), *batch())
    sp.apply()
    return Ticket(masks, state, everything(net), meta, state)

def without(ticket, trained=False, full=False):
    "The ticket as it is saved without one of its parts"
    trained,full = ticket.trained if trained else None,ticket.full if full else None
    return Ticket(ticket.masks, ticket.state, trained, ticket.meta, full)

def tiny_ticket():
    w = torch.arange(1.,10).view(3,3)
    masks = Masks({'w': torch.tensor([[True,False,True],[False,False,True],[True,True,True]])})
    return Ticket(masks, {'w': w, 'b': torch.tensor(3)}, meta=dict(é=1e-7), full={'w': w})

def says_the_same(path, ticket):
    "What is read without PyTorch is what the ticket says"
    file = TicketFile(path)
    assert repr(file)==repr(ticket) and file.meta==ticket.meta and file.report().equals(ticket.report())
    assert file.dense_bytes==sum(t.nbytes for t in ticket.state.values())
    assert [o in file.parts for o in ('trained','pruned')]==[bool(ticket.trained), bool(ticket.full)]

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(st.none() | st.booleans() | numbers | st.text(),
                           lambda o: st.lists(o) | st.dictionaries(st.text(), o), max_leaves=4)

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('tickets')

# There and back

@settings(max_examples=40)
@given(nets(max_layers=3), st.dictionaries(st.text(), json_values, max_size=3), st.booleans(), st.booleans(),
       st.sampled_from([0, 50, 100]))
def test_there_and_back(folder, net, meta, trained, full, sparsity):
    state = everything(net)
    masks = Sparsifier(net, allow_collapse=True).sparsify(sparsity)
    ticket = Ticket(masks, state, everything(net), meta, state)
    path = ticket.save(folder/'t.safetensors', trained=trained, full=full)
    loaded = Ticket.load(path)
    says_the_same(path, loaded)
    assert path==folder/'t.safetensors' and os.listdir(folder)==['t.safetensors']
    assert loaded==without(ticket, trained, full) and (loaded==ticket)==(trained and full)
    assert list(loaded.masks)==list(masks) and list(loaded.state)==list(ticket.state) and loaded.meta==meta

@given(dtypes)
def test_odd_values_and_layouts(folder, dtype):
    "NaN in statistics and weights, -0., channels_last, whole numbers, complex ones, and a tensor without any value"
    net = ConvNet().to(dtype).to(memory_format=torch.channels_last)
    masks = Sparsifier(net).sparsify(50)
    state = everything(net) | dict(empty=torch.zeros(0,3), count=torch.tensor(7), big=torch.arange(6).view(2,3).T,
                                   wave=torch.ones(2)*1j)
    state['stem.1.running_mean'][:2] = torch.tensor([math.nan, -0.])
    kept = masks['head.weight']
    state['head.weight'][kept] = torch.tensor([math.nan, -0., math.inf], dtype=dtype).repeat(14)[:kept.count_nonzero()]
    ticket = Ticket(masks, state, state, full=state)
    for full in (False, True):
        loaded = Ticket.load(ticket.save(folder/'odd.safetensors', full=full))
        says_the_same(folder/'odd.safetensors', loaded)
        assert not differing(loaded.state, masked(state, masks)) and not differing(loaded.trained, masked(state, masks))
        assert loaded==without(ticket, True, full)
        if full: assert not differing(loaded.full, {k: state[k] for k in masks})

def test_an_empty_ticket(tmp_path):
    w = {'w': torch.zeros(0,3)}
    for ticket in (Ticket(Masks({}), {}), Ticket(Masks({'w': torch.ones(0,3).bool()}), w, full=w)):
        assert Ticket.load(ticket.save(tmp_path/'t', full=ticket.full is not None))==ticket
        says_the_same(tmp_path/'t', ticket)
        assert '0.00 % sparse, 0 of 0' in repr(ticket) and ticket._repr_html_()

def test_the_size_of_a_resnet18(tmp_path):
    "90 % sparse: untrained at most 15 % of the dense `state_dict`, with the trained weights too 25 %"
    net = torchvision.models.resnet18(num_classes=10)
    torch.save(net.state_dict(), tmp_path/'dense.pth')
    dense,ticket = (tmp_path/'dense.pth').stat().st_size,random_ticket(net, 90)
    ticket = Ticket(ticket.masks, ticket.state, ticket.state, ticket.meta)
    for trained,most in ((False,.15),(True,.25)):
        assert ticket.save(tmp_path/'t', trained=trained).stat().st_size<=most*dense
        assert Ticket.load(tmp_path/'t')==without(ticket, trained)

def test_the_same_ticket_gives_the_same_file(tmp_path):
    ticket = ticket_of(meta=dict(b=1, a=2, c=[3]))
    before = copy.deepcopy(ticket)
    data = ticket.save(tmp_path/'new'/'folder'/'t').read_bytes()
    loaded = Ticket.load(str(tmp_path/'new'/'folder'/'t'))
    assert {loaded.save(tmp_path/f'{i}').read_bytes() for i in range(10)}=={data} and ticket==before

def test_other_programs_can_read_the_file(tmp_path):
    "It's a plain safetensors file, and what they write of it is the ticket again"
    ticket = ticket_of(meta=dict(a='ü"\\', b=[1e-7, None]))
    data = ticket.save(tmp_path/'t').read_bytes()
    header = json.loads(data[8:8+struct.unpack('<Q', data[:8])[0]])['__metadata__']
    save_file(load_file(tmp_path/'t'), tmp_path/'t', metadata=header)
    assert (tmp_path/'t').read_bytes()==data and json.loads(header['lottery_nb'])==read_header(tmp_path/'t')

def test_a_loaded_ticket_is_not_bound_to_its_file(tmp_path):
    ticket = ticket_of()
    loaded = Ticket.load(ticket.save(tmp_path/'t'))
    with open(tmp_path/'t', 'r+b') as f: f.write(bytes((tmp_path/'t').stat().st_size))
    assert loaded==without(ticket, True)

def test_what_json_does_not_have_becomes_its_repr(tmp_path):
    ticket = ticket_of(meta=dict(a=(1, 2), loss=math.nan, layers={3}, path=Path('x')))
    assert ticket.meta==dict(a=[1, 2], loss=None, layers='{3}', path='x')==Ticket.load(ticket.save(tmp_path/'t')).meta

# Equal, or not

def test_equality_is_to_the_bit(tmp_path):
    ticket = ticket_of(meta=dict(a=[1, 2]))
    ticket.state['stem.1.running_mean'] = torch.tensor([math.nan, -0.]*4)
    assert Ticket.load(ticket.save(tmp_path/'t', full=True))==ticket and hash(Ticket.load(tmp_path/'t'))==hash(ticket)
    assert copy.deepcopy(ticket)==ticket!='ticket'
    name = next(iter(ticket.masks))
    for part in ('state', 'trained', 'full'):
        for change in (lambda t: t*1.5+1, lambda t: t.double(), lambda t: t[None]):
            other = copy.copy(ticket)
            setattr(other, part, {**getattr(ticket, part), name: change(getattr(ticket, part)[name])})
            assert other!=ticket
    other = copy.copy(ticket)
    other.meta = dict(a=[1, 3])
    assert other!=ticket

@given(st.lists(st.sampled_from([0., -0., math.nan, 1., -math.inf]), max_size=3),
       st.lists(st.sampled_from([0., -0., math.nan, 1.]), max_size=3))
def test_same_bits(a, b):
    packed = [[struct.pack('f', o) for o in values] for values in (a, b)]
    assert same_bits({'w': torch.tensor(a)}, {'w': torch.tensor(b)})==(packed[0]==packed[1])

# Where it's written

def test_links_are_followed(tmp_path):
    (tmp_path/'link').symlink_to('far/t')
    for sparsity in (20, 70):
        ticket = ticket_of(sparsity=sparsity)
        assert ticket.save(tmp_path/'link', full=True)==tmp_path/'link'
        assert (tmp_path/'link').is_symlink() and Ticket.load(tmp_path/'far/t')==ticket
        assert os.listdir(tmp_path/'far')==['t']

@pytest.mark.parametrize('what', ['os.fsync', 'os.replace'])
@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
@pytest.mark.parametrize('old', [False, True])
def test_a_crash_leaves_the_old_file(what, error, old, tmp_path, monkeypatch):
    def crash(*args, **kwargs): raise error
    ticket = ticket_of(sparsity=20)
    if old: ticket.save(tmp_path/'t', full=True)
    monkeypatch.setattr(what, crash)
    with pytest.raises(type(error)): ticket_of(sparsity=70).save(tmp_path/'t')
    monkeypatch.undo()
    assert os.listdir(tmp_path)==(['t'] if old else [])
    if old: assert Ticket.load(tmp_path/'t')==ticket

SAVE = '''
import sys
from lottery_nb.ticket import Ticket
tickets = [Ticket.load(o) for o in sys.argv[1:3]]
print('ready', flush=True)
while True:
    for o in tickets: o.save(sys.argv[3])
'''

def test_killed_at_any_moment(tmp_path):
    def of(net, s): return Ticket(Sparsifier(net).sparsify(s), everything(net), meta=dict(which=s))
    tickets = {s: of(mlp(), s) for s in (30, 60)}
    paths,out = [o.save(tmp_path/f'{s}') for s,o in tickets.items()],tmp_path/'out'/'t'
    def check():
        found = Ticket.load(out)
        assert found==tickets[found.meta['which']]
    p = subprocess.Popen([sys.executable, '-c', SAVE, *paths, out], stdout=subprocess.PIPE)
    try:
        assert p.stdout.readline()==b'ready\n'
        while not out.exists() and p.poll() is None: time.sleep(.01)
        for _ in range(10): check() # while it's written it can be read
    finally:
        p.kill()
        p.communicate()
    check()

# Files that are no tickets, or not what was saved

@pytest.mark.parametrize('full', [False, True])
def test_every_single_bit(full, tmp_path):
    path = tiny_ticket().save(tmp_path/'t', full=full)
    raw = bytearray(path.read_bytes())
    with path.open('r+b') as f:
        for i in range(8*len(raw)):
            f.seek(i//8)
            f.write(bytes([raw[i//8]^(1<<i%8)]))
            f.flush()
            with pytest.raises(TicketError, match=str(path)): Ticket.load(path)
            f.seek(i//8)
            f.write(raw[i//8:i//8+1])
            f.flush()
    assert Ticket.load(path)==without(tiny_ticket(), full=full)

@pytest.mark.parametrize('cut', ['behind', 'before'])
def test_cut_at_every_byte(cut, tmp_path):
    raw = tiny_ticket().save(tmp_path/'t').read_bytes()
    for i in range(1, len(raw)+1):
        (tmp_path/'t').write_bytes(raw[:-i] if cut=='behind' else raw[i:])
        with pytest.raises(TicketError): Ticket.load(tmp_path/'t')

blown_up = st.sampled_from([b'9'*15, b'9'*30, b'[', b'[1]', b'null', b'-', b'1e999', b'true,'])

@settings(max_examples=500)
@given(st.integers(0, 500) | st.integers(0, 10**5), st.integers(0, 30), blown_up | st.binary(max_size=20))
def test_mutated_files(folder, at, n, new):
    "Bytes flipped, cut and put in, lengths blown up: each is refused, within a second and 200 MB"
    resource = pytest.importorskip('resource')
    raw = tiny_ticket().save(folder/'mutated').read_bytes()
    at %= len(raw)
    other = raw[:at] + new + raw[at+n:]
    assume(other!=raw)
    (folder/'mutated').write_bytes(other)
    start,before = time.perf_counter(),resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (Ticket.load, TicketFile):
        with pytest.raises(TicketError): read(folder/'mutated')
    assert time.perf_counter()-start<1 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before<200*1024

@pytest.mark.parametrize('n', [0, 1, 10**6, 10**9, 2**40, 2**63, 2**64-1])
def test_headers_that_lie_about_their_length(n, tmp_path):
    raw = ticket_of().save(tmp_path/'t').read_bytes()
    (tmp_path/'t').write_bytes(struct.pack('<Q', n)+raw[8:])
    for read in (Ticket.load, read_header):
        with pytest.raises(TicketError, match='t: not a ticket'): read(tmp_path/'t')

@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_noise(folder, data):
    (folder/'noise').write_bytes(data)
    with pytest.raises(TicketError): Ticket.load(folder/'noise')

def test_files_of_others_are_told_apart(tmp_path):
    torch.save(ticket_of().state, tmp_path/'state.pth')
    with pytest.raises(TicketError, match='state.pth: not a ticket of lottery_nb'): Ticket.load(tmp_path/'state.pth')
    for text,error in (('[1]', 'another format: None'), ('['*10**5, 'not a ticket')):
        (tmp_path/'t').write_bytes(to_bytes(dict(x=torch.ones(3)), dict(lottery_nb=text)))
        with pytest.raises(TicketError, match=error): Ticket.load(tmp_path/'t')
    with pytest.raises(FileNotFoundError, match='nothing'): Ticket.load(tmp_path/'nothing')
    with pytest.raises(IsADirectoryError): Ticket.load(tmp_path)

def test_a_large_file_of_somebody_else_is_not_read(tmp_path):
    (tmp_path/'t').write_bytes(to_bytes(dict(x=torch.ones(3))))
    try: os.truncate(tmp_path/'t', 1<<40)
    except OSError: pytest.skip('the file system has no files with holes')
    start = time.perf_counter()
    with pytest.raises(TicketError): Ticket.load(tmp_path/'t')
    assert time.perf_counter()-start<2

class Trap:
    "Whoever unpickles this writes a file"
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)

@pytest.mark.parametrize('write', [lambda o, path: path.write_bytes(pickle.dumps(o)), torch.save])
def test_nothing_in_a_file_is_run(write, tmp_path):
    write(dict(x=Trap(tmp_path/'sprung')), tmp_path/'t')
    with pytest.raises(TicketError): Ticket.load(tmp_path/'t')
    assert not (tmp_path/'sprung').exists()

def test_loading_and_saving_know_no_pickle(tmp_path, monkeypatch):
    def forbidden(*args, **kwargs): raise RuntimeError('pickle')
    ticket = ticket_of()
    for name in ('pickle.loads', 'pickle.load', 'pickle.dump', 'pickle.dumps', 'pickle.Unpickler', 'pickle.Pickler',
                 'torch.load', 'torch.save'):
        monkeypatch.setattr(name, forbidden)
    assert Ticket.load(ticket.save(tmp_path/'t', full=True))==ticket and b'pickle' not in (tmp_path/'t').read_bytes()

# Into a model

@pytest.mark.parametrize('into', ['apply_to', 'trained_into'])
@pytest.mark.parametrize('wrap', [lambda o: o, nn.DataParallel, lambda o: torch.compile(o, backend='eager')],
                         ids=['bare', 'DataParallel', 'compile'])
def test_into_another_model(into, wrap, tmp_path):
    ticket = Ticket.load(ticket_of().save(tmp_path/'t'))
    torch.manual_seed(7)
    net = ConvNet()
    ids = [id(p) for p in net.parameters()]
    sp = getattr(ticket, into)(wrap(net))
    expected = ticket.state if into=='apply_to' else ticket.trained
    assert not differing(everything(net), expected) and sp.masks==ticket.masks
    assert ids==[id(p) for p in net.parameters()]
    opt = torch.optim.SGD(net.parameters(), lr=.1, momentum=.9, weight_decay=.1)
    sp.watch(opt)
    before = copied(expected)
    for _ in range(3): train_step(net, opt, *batch())
    assert nonzero_pruned(sp)==0 and not differing(expected, before) # the ticket isn't what is trained
    further = sp.sparsify(80)
    assert not any((further[k] & ~ticket.masks[k]).any() for k in further)

def train(ticket):
    net = ConvNet()
    opt = torch.optim.Adam(net.parameters(), weight_decay=.1)
    ticket.apply_to(net).watch(opt)
    for i in range(20): train_step(net, opt, *batch(seed=i))
    return everything(net)

def test_trained_in_another_process(tmp_path):
    ticket,code = ticket_of(),('import sys, torch; torch.set_num_threads(1); import test_ticket as t; '
                               'torch.save(t.train(t.Ticket.load(sys.argv[1])), sys.argv[2])')
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code, ticket.save(tmp_path/'t'), tmp_path/'out'],
                   cwd=Path(__file__).parent, check=True)
    trained = train(ticket)
    assert not differing(torch.load(tmp_path/'out'), trained) and len(differing(trained, ticket.state))>8

def test_into_a_model_of_another_precision():
    ticket,net = ticket_of(),ConvNet().double()
    ticket.apply_to(net)
    assert not differing(everything(net), {k: t.to(everything(net)[k].dtype) for k,t in ticket.state.items()})

@pytest.mark.parametrize('into', ['apply_to', 'trained_into'])
@pytest.mark.parametrize('other', [lambda: ConvNet(n_out=7), mlp, lambda: nn.Sequential(ConvNet()), nn.Module,
                                   lambda: nn.Linear(4,10)])
def test_into_a_model_of_another_architecture(into, other):
    net = other()
    before = everything(net)
    with pytest.raises(ArgumentError, match='model=.*in the ticket, .* in the model'): getattr(ticket_of(), into)(net)
    assert not differing(everything(net), before)

@pytest.mark.parametrize('tensors', [{}, {'stem.0.weight': 3}, {'bogus': torch.ones(2)}, [1],
                                     dict(everything(ConvNet()), bogus=torch.ones(2)),
                                     dict(everything(ConvNet()), scale=torch.ones(7))])
def test_tensors_that_are_not_those_of_the_model(tensors):
    ticket,net = ticket_of(),ConvNet()
    before = everything(net)
    with pytest.raises(ArgumentError, match='tensors='): ticket.apply_to(net, tensors)
    assert not differing(everything(net), before)

def test_a_buffer_that_was_expanded(tmp_path):
    def net(value):
        model = ConvNet()
        model.register_buffer('places', torch.full((1,4), value).expand(3,4))
        return model
    state = everything(net(1.))
    ticket,other = Ticket(Sparsifier(net(1.)).sparsify(50), state, full=state),net(2.)
    Ticket.load(ticket.save(tmp_path/'t')).apply_to(other)
    assert not differing(everything(other), ticket.state) and other.places.stride()==(0,1)

def test_the_ticket_of_a_loop_of_ones_own(tmp_path):
    net = mlp()
    sp,opt = Sparsifier(net),torch.optim.Adam(net.parameters())
    assert sp.ticket is None
    before = everything(net)
    sp.save_weights()
    sp.watch(opt)
    sp.sparsify(70)
    assert sp.ticket.trained is None
    train_step(net, opt, *batch(size=8))
    t = sp.ticket
    assert not differing(t.state, masked(before, sp.masks)) and not differing(t.trained, everything(net))
    assert t.masks==sp.masks and not differing(t.full, {k: before[k] for k in t.masks}) and t.meta['sparsity']==70
    assert Ticket.load(t.save(tmp_path/'t', full=True))==t and t.dense().masks.sparsity==0
    sp.rewind(opt)
    assert sp.ticket.trained is None and not differing(sp.ticket.state, t.state)

class Tied(nn.Module):
    "An embedding and an output layer that have one weight, as language models do"
    def __init__(self):
        super().__init__()
        self.emb,self.mid,self.out = nn.Embedding(50,16),nn.Linear(16,16),nn.Linear(16,50)
        self.out.weight = self.emb.weight
    def forward(self, x): return self.out(self.mid(self.emb(x)))

def from_a_loop(net):
    sp,opt = Sparsifier(net),torch.optim.SGD(net.parameters(), .1)
    sp.save_weights()
    sp.watch(opt)
    sp.sparsify(90)
    assert sp.ticket.trained is None
    net(torch.arange(50)).square().sum().backward()
    opt.step()
    return sp.ticket

def by_hand(net):
    state = copied(net.state_dict())
    state['emb.weight'] = state['out.weight'].view(50,16)
    return Ticket(Sparsifier(net).sparsify(90), state, net.state_dict(), full=state)

@pytest.mark.filterwarnings('ignore:no reset_parameters', 'ignore:layer collapse')
@pytest.mark.parametrize('make', [from_a_loop, by_hand, lambda net: random_ticket(net, 90)])
def test_tied_weights_are_one_tensor_with_two_names(make, tmp_path):
    ticket = make(Tied())
    dense = sum(p.nbytes for p in Tied().parameters())
    for o in (ticket, *(a.begin(ticket, 3, Tied) for a in plain_arms.values()
                       if ticket.trained or a.begins!='trained')):
        net,loaded = Tied(),Ticket.load(path:=o.save(tmp_path/'t', full=o.full is not None))
        assert loaded==o and TicketFile(path).dense_bytes==dense and repr(TicketFile(path))==repr(o)
        stored = load_file(path)
        assert 'state/out.weight' in stored and not [k for k in stored if 'emb' in k]
        for t in (o.state, *[o.trained]*bool(o.trained)):
            assert t['emb.weight'] is t['out.weight'] and not t['emb.weight'][~o.masks['out.weight']].any()
        assert loaded.save(tmp_path/'again', full=o.full is not None).read_bytes()==path.read_bytes()
        loaded.apply_to(net)
        assert net.emb.weight is net.out.weight and not differing(everything(net), o.state)
    assert ticket.save(tmp_path/'t', trained=False).stat().st_size-len(json.dumps(read_header(tmp_path/'t')))<dense/3
    everywhere = Ticket.load(ticket.save(tmp_path/'t', full=True)).dense().state['emb.weight']
    assert torch.equal(everywhere, ticket.full['out.weight']) and everywhere.all()

def test_a_tied_tensor_that_is_not_pruned_is_stored_once_while_it_is_one(tmp_path):
    net = Tied()
    sp = Sparsifier(net, layers='mid')
    sp.save_weights()
    sp.sparsify(50)
    net.emb.weight.data.add_(1)
    ticket = sp.ticket
    apart = Ticket(ticket.masks, ticket.state, {**ticket.trained, 'out.weight': torch.zeros(50,16)}, ticket.meta)
    for t,twice in ((ticket, []), (apart, ['trained/out.weight'])):
        path = t.save(tmp_path/'t', full=t.full is not None)
        assert Ticket.load(path)==t and [k for k in load_file(path) if 'out.weight' in k]==twice

def test_followers_are_held_at_0_again(tmp_path):
    "Where filters were pruned and their biases with them, a file brings both into another model"
    def net(): return nn.Sequential(nn.Conv2d(1,8,3), nn.ReLU(), nn.Conv2d(8,4,3))
    ticket = Ticket.load(random_ticket(net(), 50, granularity='filter',
                                       example=torch.zeros(1,1,8,8)).save(tmp_path/'t'))
    assert ticket.trained is None
    model = net()
    sp = ticket.apply_to(model)
    opt = torch.optim.Adam(model.parameters(), .1)
    sp.watch(opt)
    for _ in range(3):
        model(torch.randn(2,1,8,8)).square().sum().backward()
        opt.step()
    gone = ~ticket.masks['0.weight'].flatten(1).any(1)
    assert gone.any() and not model[0].bias[gone].count_nonzero() and model[0].bias[~gone].all()

def three(): return nn.Sequential(nn.Linear(8,16), nn.ReLU(), nn.Linear(16,16), nn.ReLU(), nn.Linear(16,4))

def saved_of(net, *how, **kwargs):
    sp = Sparsifier(net, *how, **kwargs)
    sp.save_weights()
    sp.sparsify(50)
    return sp.ticket

hows = [('row','local','small_final'), ('2:4','global','large_final'), ('group','local','large_final')]

@pytest.mark.parametrize('how', hows)
def test_it_is_pruned_on_as_it_was_found(how):
    "What holds a ticket makes further masks, and tickets, by the ticket's own granularity, method and criterion"
    kwargs = dict(example=torch.randn(2,8)) if how[0]=='group' else {}
    ticket = saved_of(net:=three(), *how, **kwargs)
    sp = ticket.apply_to(net, **kwargs)
    sp.save_weights()
    found = dict(zip(('granularity','method','criteria'), how))
    assert sp.ticket.meta | found == sp.ticket.meta
    if how[0]=='2:4': return
    sp.sparsify(75)
    for k,m in sp.masks.items(): assert torch.equal(m, m.any(1, keepdim=True).expand(m.shape)), k

def test_what_cannot_be_pruned_on_is_held():
    "A group without an example, a criterion of somebody else's: masks and how they were found stay, sparsify raises"
    x = torch.randn(2,8)
    group = saved_of(net:=three(), 'group', 'local', example=x)
    theirs = Ticket(group.masks, group.state, meta={**group.meta, 'granularity': 'row', 'criteria': 'theirs(p=2)'})
    for ticket,lacks in ((group, 'example'), (theirs, 'criteria')):
        sp = ticket.apply_to(net)
        sp.save_weights()
        assert sp.masks==ticket.masks and sp.ticket.meta['criteria']==ticket.meta['criteria'] in repr(sp)
        with pytest.raises(ValueError, match=f'{lacks}=.*put_on'): sp.sparsify(75)
        assert sp.masks==ticket.masks
    with pytest.raises(ArgumentError, match='example='): group.apply_to(net, example=torch.randn(2,9))
    assert group.apply_to(net, example=x).sparsify(75).sparsity>group.sparsity

# What it's made from

@pytest.mark.parametrize('kwargs, error, match', [
    (dict(masks={}), TypeError, 'masks={}: expected Masks'),
    (dict(state=None), TypeError, 'state=None: expected a dict of tensors'),
    (dict(state={'head.weight': [1.]}), TypeError, 'state=.*expected a dict of tensors'),
    (dict(state=everything(mlp())), ValueError, 'missing in state'),
    (dict(state=lambda t: {k: v.int() for k,v in t.state.items()}), TypeError,
     'stem.0.weight=torch.int32: expected float16'),
    (dict(state=lambda t: {k: v.to('meta') for k,v in t.state.items()}), TypeError, "='meta': expected a dense"),
    (dict(trained={0: 1}), TypeError, 'trained='),
    (dict(trained=everything(mlp())), ValueError, 'missing in trained'),
    (dict(meta=[1]), TypeError, 'meta='),
    (dict(full=everything(mlp())), ValueError, 'missing in full'),
    (dict(full=lambda t: {k: v+1 for k,v in t.state.items()}), ValueError, 'weights that are those of the state'),
    (dict(full=lambda t: {k: t.state[k].double() for k in t.masks}), ValueError, 'full='),
    *[(dict(state=lambda t, odd=odd: {**t.state, 'odd': odd()}), TypeError, rf"state\['odd'\]={kind}: expected a dense")
      for kind,odd in [('torch.complex128', lambda: torch.zeros(2, dtype=torch.complex128)),
                       ('torch.sparse_coo', lambda: torch.eye(2).to_sparse()),
                       ('torch.quint8', lambda: torch.quantize_per_tensor(torch.ones(2), .1, 0, torch.quint8))]]])
@pytest.mark.filterwarnings('ignore:.*quantize')
def test_what_is_no_ticket(kwargs, error, match):
    ticket = ticket_of()
    kwargs = {k: o(ticket) if callable(o) else o for k,o in kwargs.items()}
    kwargs = dict(masks=ticket.masks, state=ticket.state) | kwargs
    with pytest.raises(error, match=match): Ticket(**kwargs)

def test_pruned_weights_are_0_and_the_givers_stay():
    "To the bit, +0; and what a ticket was made of can change without changing it"
    net = ConvNet()
    masks = Sparsifier(net).sparsify(50)
    dense,meta = everything(ConvNet()),dict(a=[1])
    before = copied(dense)
    ticket = Ticket(masks, dense, dense, meta, copied(dense))
    assert not differing(dense, before) and not differing(ticket.state, masked(dense, masks))
    assert not differing(ticket.trained, ticket.state)
    assert all(bits(ticket.state[k][~m]).count_nonzero()==0 for k,m in masks.items())
    assert not differing({**ticket.state, **ticket.full}, dense)
    for t in dense.values(): t.add_(1)
    meta['a'].append(2)
    assert not differing(ticket.state, masked(before, masks)) and ticket.meta==dict(a=[1])

@pytest.mark.parametrize('how', [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=['deepcopy', 'pickle'])
def test_copies(how):
    ticket = ticket_of(meta=dict(a=1))
    twin = how(ticket)
    assert twin==ticket
    twin.state['head.weight'].add_(1)
    assert twin!=ticket

# Overlap

@given(nets(max_layers=3, ties=False), st.data())
def test_overlap(net, data):
    sp = Sparsifier(net, criteria='random', allow_collapse=True)
    a = Ticket(sp.sparsify(data.draw(st.sampled_from([0, 20, 50, 90, 100]))), everything(net))
    def drawn(m):
        kept = data.draw(st.lists(st.booleans(), min_size=m.numel(), max_size=m.numel()))
        return torch.tensor(kept, dtype=torch.bool).view(m.shape)
    b = Ticket(Masks({k: drawn(m) for k,m in a.masks.items()}), a.state)
    df = a.overlap(b)
    assert list(df.columns)==['layer','weights','kept_a','kept_b','kept_both','iou','iou_by_chance',
                              'hamming','hamming_by_chance']
    assert list(df.layer)==[*a.masks, 'all']
    both_in_all,chance_in_all = 0,0.
    for row,k in zip(df.itertuples(), a.masks):
        x,y = ({i for i,o in enumerate(t.masks[k].flatten().tolist()) if o} for t in (a, b))
        expected = len(x)*len(y)/a.masks[k].numel()
        assert (row.weights, row.kept_a, row.kept_b, row.kept_both)==(a.masks[k].numel(), len(x), len(y), len(x & y))
        assert row.iou==(len(x & y)/len(x | y) if x | y else 1)
        assert row.iou_by_chance==pytest.approx(expected/(len(x)+len(y)-expected) if x or y else 1)
        both_in_all,chance_in_all = both_in_all+len(x & y),chance_in_all+expected
    last,n = df.iloc[-1],a.masks.n_kept+b.masks.n_kept
    assert last.iou==pytest.approx(a.masks.iou(b.masks))
    assert (last.kept_a, last.kept_b, last.kept_both)==(a.masks.n_kept, b.masks.n_kept, both_in_all)
    assert last.iou_by_chance==pytest.approx(chance_in_all/(n-chance_in_all) if n else 1)

# What it looks like

class Page(html.parser.HTMLParser):
    "The tags of a piece of HTML, and its text"
    def __init__(self): super().__init__(); self.tags,self.attrs,self.text = set(),set(),''
    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attrs |= {k for k,_ in attrs}
    def handle_data(self, data): self.text += data

nasty = ['<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "' onclick='x", '</td></table>', '&lt;b&gt;',
         '\x1b[2J\u202e', 'x'*1000]

@pytest.mark.parametrize('text', nasty)
def test_whatever_names_and_meta_say_is_text(text):
    "They may come out of somebody else's file: nothing a browser or a terminal would obey"
    meta = dict.fromkeys(('arm','seed','round','criteria','granularity','method','schedule','prune','rewind'), text)
    ticket,page = Ticket(Masks({text: torch.tensor([True,False])}), {text: torch.ones(2)}, meta=meta),Page()
    page.feed(ticket._repr_html_())
    assert page.tags=={'p','div','style','table','thead','tbody','tr','th','td'}
    assert page.attrs<={'id','class','style','type'} and text in page.text
    assert repr(ticket).isprintable() and len(repr(ticket))<1000

def test_what_repr_tells():
    ticket = ticket_of(meta=dict(arm='signs', seed=3, layers=['a']))
    n = ticket.masks.n_weights
    assert repr(ticket)==(f"Ticket({ticket.sparsity:.2f} % sparse, {n-round(.6*n)} of {n} weights kept, arm='signs', "
                          "seed=3, trained)")
    for density in 100-ticket.report().sparsity: assert f'{density:.2f}' in ticket._repr_html_()
