"Networks whose units change places: the same outputs, orders found by brute force, and curves against a plain loop"
import itertools, math

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, strategies as st
from matplotlib.figure import Figure
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torchvision.models import resnet18

from lottery_nb.arms import fresh_weights
from lottery_nb.connectivity import barrier
from lottery_nb.core import ArgumentError, seed_of, table_columns
from lottery_nb.curves import lottery_curve
from lottery_nb.evidence import mean_interval, summarise
from lottery_nb.masks import Masks, copy_model, named_tensors, set_tensors_
from lottery_nb.papers import cite
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.symmetry import HiddenUnits, align, assign, carried, permuted, permuted_masks, plot_permuted
from lottery_nb.ticket import Ticket
from models import ConvNet, Halves, differing, everything
from test_curves import DATA, X, Y, at_end, batches, of, train_plainly

# --- Networks

class Stream(nn.Module):
    "A residual stream, with a branch that is wider, a join and a gate"
    def __init__(self, n=6):
        super().__init__()
        def block(): return nn.Sequential(nn.Conv2d(n, 9, 3, padding=1, bias=False), nn.BatchNorm2d(9), nn.PReLU(9),
                                          nn.Conv2d(9, n, 1), nn.BatchNorm2d(n))
        self.stem,self.one,self.two = nn.Conv2d(1, n, 3),block(),block()
        self.gate,self.down,self.head = nn.Conv2d(n, n, 1),nn.Conv2d(n, 5, 3),nn.Linear(5+n, 4)
    def forward(self, x):
        x = self.stem(x)
        x = (x+self.one(x)).relu()
        x = (x+self.two(x))*self.gate(x).sigmoid()
        return self.head(torch.cat([self.down(x).relu().mean((2,3)), x.amax((2,3))], 1))

def chain():
    return nn.Sequential(nn.Flatten(), nn.Linear(36,12), nn.ReLU(), nn.Linear(12,7), nn.Tanh(), nn.Linear(7,4))
def conv():
    return nn.Sequential(nn.Conv2d(1,6,3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6,8,3,groups=2), nn.ReLU(),
                         nn.Flatten(), nn.Linear(32,9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9,4))
def mobile():
    return nn.Sequential(nn.Conv2d(1,5,3,padding=1), nn.BatchNorm2d(5), nn.Tanh(), nn.Conv2d(5,5,3,groups=5),
                         nn.BatchNorm2d(5), nn.ReLU6(), nn.Conv2d(5,7,1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(7,4))
def up():
    return nn.Sequential(nn.Conv2d(1,4,3), nn.ReLU(), nn.ConvTranspose2d(4,5,2,stride=2), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(80,4))
networks = [chain, conv, mobile, up, Stream, Halves, ConvNet]

def new(make, seed=0):
    "A network with statistics of its own, in double precision"
    torch.manual_seed(seed)
    net = make().double()
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                for t in (m.weight, m.running_var): t.uniform_(.5, 2)
                for t in (m.bias, m.running_mean): t.normal_(0, .1)
    return net.eval()

INPUT = torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(5)).double()

def drawn(units, seed):
    "A random order of each group"
    g = torch.Generator().manual_seed(seed)
    return {k: torch.randperm(o.n, generator=g) for k,o in units.groups.items()}

def shuffled(net, units, orders): return set_tensors_(copy_model(net), units.moved(named_tensors(net), orders))

# --- Any order is the same network

@given(st.sampled_from(networks), st.integers(0, 2**31))
@pytest.mark.filterwarnings('ignore:.*stay in place')
def test_any_order_gives_the_same_outputs(make, seed):
    net = new(make, seed)
    units = HiddenUnits(net, INPUT)
    orders = drawn(units, seed)
    other = shuffled(net, units, orders)
    torch.testing.assert_close(other(INPUT), net(INPUT), rtol=1e-10, atol=1e-10)
    moves = any(not torch.equal(o, torch.arange(len(o))) for o in orders.values())
    assert bool(differing(everything(other), everything(net)))==moves
    back = {k: o.argsort() for k,o in orders.items()}
    assert not differing(units.moved(named_tensors(other), back), everything(net))
    half = {k: o for i,(k,o) in enumerate(orders.items()) if i%2}
    torch.testing.assert_close(shuffled(net, units, half)(INPUT), net(INPUT), rtol=1e-10, atol=1e-10)

def test_gradients_and_training_are_the_same_too():
    net = new(Stream).train()
    units = HiddenUnits(net, INPUT)
    orders = drawn(units, 1)
    other = shuffled(net, units, orders)
    for o in (net, other):
        opt = torch.optim.Adam(o.parameters(), .01)
        for _ in range(5):
            opt.zero_grad()
            nn.functional.cross_entropy(o(INPUT), torch.arange(16)%4).backward()
            opt.step()
    moved = units.moved(named_tensors(net), orders)
    for k,t in named_tensors(other).items(): torch.testing.assert_close(t, moved[k], rtol=1e-6, atol=1e-6)

def test_a_network_of_torchvision():
    torch.manual_seed(0)
    net,x = resnet18(num_classes=10).double(),torch.randn(8, 3, 32, 32).double()
    for _ in range(5): net(x) # statistics
    net.eval()
    units = HiddenUnits(net, x)
    assert len(units.groups)==12 and list(units.fixed)==['fc.weight'] and units.groups['conv1.weight'].n==64
    torch.testing.assert_close(shuffled(net, units, drawn(units, 1))(x), net(x), rtol=1e-10, atol=1e-10)

def test_what_is_on_one_stream_is_one_group():
    units = HiddenUnits(new(Stream), INPUT)
    stream = units.groups['stem.weight']
    assert set(stream.layers)=={'stem','one.3','two.3','gate'} and set(stream.norms)=={'one.4','two.4'}
    assert set(stream.inputs)=={'one.0','two.0','gate','down','head'}
    assert {k: o.n for k,o in units.groups.items()}=={'stem.weight': 6, 'one.0.weight': 9, 'two.0.weight': 9,
                                                      'down.weight': 5}
    sites = {(k, axis) for k,axis,_ in units.sites['one.0.weight']}
    assert sites=={('one.0.weight',0), ('one.1.weight',0), ('one.1.bias',0), ('one.1.running_mean',0),
                   ('one.1.running_var',0), ('one.2.weight',0), ('one.3.weight',1)}

# --- What is found

@pytest.mark.parametrize('by', ['activations','weights'])
@pytest.mark.parametrize('make', [chain, conv, mobile, up, Stream], ids=lambda o: o.__name__)
def test_a_shuffled_copy_comes_back(make, by):
    net = new(make, 3)
    units = HiddenUnits(net, INPUT)
    orders = drawn(units, 4)
    other = shuffled(net, units, orders)
    found = align(net, other, INPUT, by)
    alike = units.correlations(net, named_tensors(net), named_tensors(net), [(INPUT,)])
    n_told = 0
    for k,o in found.items():
        assert torch.equal(o.sort().values, torch.arange(len(o)))
        others = (alike[k]-torch.eye(len(o))).amax(1)
        told = (alike[k].diagonal()>1-1e-9) & (others<1-1e-6) # not those that never change, or change together
        n_told += int(told.sum())
        back = orders[k][o]==torch.arange(len(o))
        assert back.all() if by=='weights' else back[told].all()
    assert n_told>sum(map(len, found.values()))/2
    if by=='weights': assert not differing(everything(found.aligned), everything(net))
    torch.testing.assert_close(found.aligned(INPUT), net(INPUT), rtol=1e-10, atol=1e-10)

@given(st.integers(1, 6), st.integers(0, 2**31))
def test_the_assignment_is_the_best_of_all(n, seed):
    alike = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    best = max(sum(alike[i,j] for i,j in enumerate(p)) for p in itertools.permutations(range(n)))
    order = assign(alike)
    assert sorted(order.tolist())==list(range(n)) and alike[torch.arange(n), order].sum()==pytest.approx(float(best))

def test_correlations_are_those_of_numpy():
    a,b = new(conv, 1),new(conv, 2)
    units = HiddenUnits(a, INPUT)
    found = units.correlations(a, named_tensors(a), named_tensors(b), [(INPUT[:5],), (INPUT[5:],)])
    def behind(net, i): return net[:i](INPUT).detach()
    for name,i,grouped in (('0.weight', 3, True), ('6.weight', 9, False)):
        p,q = (behind(o, i).movedim(1, 0).flatten(1).numpy() for o in (a, b))
        if grouped: p,q = (np.concatenate([o[:3], o[3:]], 1) for o in (p, q)) # a unit is a channel in each half
        n = len(p)
        with np.errstate(all='ignore'): want = np.nan_to_num(np.corrcoef(p, q)[:n,n:])
        np.testing.assert_allclose(found[name], want, atol=1e-9)

class Written(nn.Module):
    "A stream that's written into after it was read, and a head that's there in training alone"
    def __init__(self):
        super().__init__()
        self.stem,self.up,self.down = nn.Linear(36,5),nn.Linear(5,8),nn.Linear(8,5)
        self.head,self.aux = nn.Linear(5,4),nn.Sequential(nn.Linear(5,6), nn.Linear(6,4))
    def forward(self, x):
        x = self.stem(x.flatten(1))
        x += self.down(self.up(x).relu())
        return (self.head(x),self.aux(x)) if self.training else self.head(x)

def test_what_counts_is_what_a_layer_read_when_it_did():
    a,b = new(Written, 1),new(Written, 2)
    found = HiddenUnits(a, INPUT).correlations(a, named_tensors(a), named_tensors(b), [(INPUT,)])
    def stream(net, whole):
        x = net.stem(INPUT.flatten(1))
        return (x+net.down(net.up(x).relu())*whole).detach().numpy()
    want = [np.corrcoef(stream(a, o).T, stream(b, o).T)[:5,5:] for o in (0,1)] # `up` reads, and then `head`
    np.testing.assert_allclose(found['stem.weight'], sum(want)/2, atol=1e-9)
    assert not found['aux.0.weight'].any() # nothing reads it
    found = align(a, b, INPUT)
    torch.testing.assert_close(found.aligned(INPUT), b(INPUT), rtol=1e-10, atol=1e-10)
    assert found['aux.0.weight'].tolist()==list(range(6))

class Single(nn.Module):
    "A network that multiplies with a tensor of its own, in single precision"
    def __init__(self):
        super().__init__()
        self.a,self.b = nn.Linear(36,6),nn.Linear(6,4)
    def forward(self, x): return self.b(self.a(x.flatten(1)@torch.eye(36)).relu())

@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_networks_of_other_precisions(dtype):
    net,x = new(chain).to(dtype),INPUT.to(dtype)
    other = shuffled(net, HiddenUnits(net, x), drawn(HiddenUnits(net, x), 1))
    found = align(net, other, x, 'weights')
    assert not differing(everything(found.aligned), everything(net))
    net = new(Single).float()
    assert align(net, copy_model(net), INPUT.float()).n_moved==0

def normed(): return nn.Sequential(nn.Flatten(), nn.Linear(36,6), nn.ReLU(), nn.Linear(6,5), nn.ReLU(),
                                   weight_norm(nn.Linear(5,4)))

@pytest.mark.filterwarnings('ignore:.*stay in place')
def test_a_layer_whose_weight_is_computed():
    found = align(new(normed, 1), new(normed, 2), INPUT)
    assert list(found)==['1.weight'] and set(found.units.fixed)=={'3.weight','5.parametrizations.weight.original1'}

def test_a_group_of_zeros_is_like_none():
    a,b = new(chain, 1),new(chain, 2)
    with torch.no_grad(): [p.zero_() for k,p in a.named_parameters()]
    assert not align(a, b, INPUT, 'weights').report()[['before','after']].any(axis=None)

def test_a_unit_that_never_changes_is_like_none():
    net = new(chain)
    with torch.no_grad(): net[1].bias[2] = -100
    found = HiddenUnits(net, INPUT).correlations(net, named_tensors(net), named_tensors(net), [(INPUT,)])['1.weight']
    assert not found[2].any() and not found[:,2].any() and torch.isfinite(found).all()
    assert found.diagonal()[:2].tolist()==pytest.approx([1, 1])

def tiny(): return nn.Sequential(nn.Flatten(), nn.Linear(36,4), nn.ReLU(), nn.Linear(4,3), nn.ReLU(), nn.Linear(3,4))

@given(st.integers(0, 2**31))
def test_no_other_order_of_one_group_has_nearer_weights(seed):
    a,b = new(tiny, seed),new(tiny, seed+1)
    found = align(a, b, INPUT[:1], 'weights')
    def distance(orders):
        moved = found.units.moved(named_tensors(b), orders)
        return sum(float((p-moved[k]).detach().square().sum()) for k,p in named_tensors(a).items())
    least = distance(found)
    assert least<=distance({})+1e-9 and found.n_moved<=7
    for k,o in found.items():
        for p in itertools.permutations(range(len(o))):
            assert least<=distance({**found, k: torch.tensor(p)})+1e-9

def test_aligned_networks_are_nearer():
    torch.manual_seed(0)
    nets = []
    for seed in (0, 1):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64,40), nn.ReLU(), nn.Linear(40,40), nn.ReLU(), nn.Linear(40,10))
        opt = torch.optim.Adam(net.parameters(), 2e-3)
        for rows in batches(seed, 0, 300, 60):
            opt.zero_grad()
            nn.functional.cross_entropy(net(X[rows]), Y[rows]).backward()
            opt.step()
        nets.append(net)
    for by in ('activations','weights'):
        found = align(*nets, DATA, by)
        before,after = (o.height for o in found.barriers(DATA, points=5).values())
        assert before>.05 and after<.5*before
        report = found.report()
        assert (report.after>report.before+.2).all() and report.units.tolist()==[40, 40]
        assert report.moved.sum()==found.n_moved>60
    assert barrier(nets[0], found.aligned, DATA, 5, progress=False).height==after
    assert differing(everything(found.aligned), everything(nets[1])) and found.b is nets[1]

# --- Masks and tickets

def pruned(net, seed=0):
    "A trained ticket of a network"
    net = copy_model(net)
    sp = Sparsifier(net)
    sp.save_weights()
    sp.sparsify(60)
    with torch.no_grad():
        for k,p in net.named_parameters(): p.add_(torch.randn(p.shape).to(p)*.1)
    sp.apply()
    return sp.ticket

@given(st.sampled_from([chain, conv, Stream]), st.integers(0, 2**31))
def test_a_ticket_is_permuted_with_all_it_holds(make, seed):
    a,b = new(make, seed),new(make, seed+1)
    ticket = pruned(b, seed)
    found = align(a, b, INPUT)
    moved = ticket.permuted(found)
    assert moved.masks==ticket.masks.permuted(found) and moved.meta==ticket.meta
    for k,m in ticket.masks.items(): assert m.sum()==moved.masks[k].sum()
    for tensors in ('state','trained'):
        nets = [set_tensors_(new(make), getattr(o, tensors)) for o in (ticket, moved)]
        torch.testing.assert_close(nets[0](INPUT), nets[1](INPUT), rtol=1e-10, atol=1e-10)
        assert all(not getattr(moved, tensors)[k][~m].any() for k,m in moved.masks.items())
    assert not differing(moved.full, found.permuted(ticket.full))
    nets = [new(make) for _ in range(2)]
    for o,net in zip((ticket, moved), nets): o.trained_into(net)
    torch.testing.assert_close(nets[0](INPUT), nets[1](INPUT), rtol=1e-10, atol=1e-10)

def test_two_tickets_are_aligned_by_a_network():
    a,b = (pruned(new(chain, o)) for o in (1, 2))
    with pytest.raises(ArgumentError, match='model=None'): align(a, b, INPUT)
    found = align(a, b, INPUT, 'weights', model=lambda: chain().double())
    assert isinstance(found.aligned, Ticket) and found.aligned==b.permuted(found)
    nets = [set_tensors_(new(chain), o.trained) for o in (a, b)]
    assert all(torch.equal(o, found[k]) for k,o in align(*nets, INPUT, 'weights').items())

def test_four_in_a_row_come_apart():
    def net(): return nn.Sequential(nn.Flatten(), nn.Linear(36,8), nn.ReLU(), nn.Linear(8,4)).double()
    torch.manual_seed(0)
    sp = Sparsifier(net(), '2:4')
    sp.save_weights()
    sp.sparsify(50)
    moved = sp.ticket.permuted(align(net(), net(), INPUT))
    assert set(moved.masks['3.weight'].view(-1, 4).sum(1).tolist())>{2} and moved.meta['granularity']=='weight'
    with pytest.raises(ArgumentError, match="granularity='2:4'.*permuted"):
        permuted_masks(lambda w: net(), [(INPUT, torch.arange(16)%4)]*2, granularity='2:4', **{**how, 'bs': 4})

def test_everything_stays_as_it_is():
    a,b = new(conv, 1).train(),new(conv, 2).train()
    before = everything(a),everything(b)
    found = align(a, b, INPUT)
    assert found.aligned.training and a.training
    assert not differing(everything(a), before[0]) and not differing(everything(b), before[1])

# --- What cannot be aligned

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a,self.norm,self.b,self.c = nn.Linear(36,6),nn.LayerNorm(6),nn.Linear(6,5),nn.Linear(5,4)
    def forward(self, x): return self.c(self.b(self.norm(self.a(x.flatten(1)))).relu())

def test_layers_that_stay_are_named():
    with pytest.warns(UserWarning, match=r'align: .*stay in place: a\.weight \(norm') as told:
        found = align(new(Normed, 1), new(Normed, 2), INPUT)
    assert list(found)==['b.weight'] and len(told)==1 and 'c.weight' not in str(told[0].message)

class Crossed(nn.Module):
    "Filters 0 and 2 make one unit, 3 and 1 the other: the second's come in the other order"
    def __init__(self):
        super().__init__()
        self.a,self.b = nn.Linear(36,4),nn.Linear(2,4)
    def forward(self, x):
        x = self.a(x.flatten(1))
        one,two = (torch.cat([x[:,i:i+1], x[:,j:j+1]], 1) for i,j in ((0,3), (2,1)))
        return self.b((one-2*two).relu())

def test_units_that_are_not_alike_are_refused():
    with pytest.raises(ArgumentError, match='hidden units in another order'): HiddenUnits(new(Crossed), INPUT)

def nan(at=(0,0), of=None):
    of = new(chain)[3].weight.data if of is None else of.clone()
    of[at] = math.nan
    return of

def broken():
    net = new(chain)
    net[3].weight.data = nan()
    return net

@pytest.mark.parametrize('call, match', [
    (lambda: align(new(chain), new(conv), INPUT), 'b=.*same architecture'),
    (lambda: align(new(chain), new(tiny), INPUT), 'b=.*same architecture.*12'),
    (lambda: align(new(chain), 3, INPUT), 'b=3'),
    (lambda: align(new(chain), new(chain), None), "data=None: expected a batch.*by='activations'"),
    (lambda: align(new(chain), new(chain), 'digits, please'), 'data='),
    (lambda: align(new(chain), new(chain), INPUT[:,:,:3]), 'a batch that the model can take'),
    (lambda: align(new(chain), new(chain), INPUT, 'outputs'), "by='outputs': expected one of activations, weights"),
    (lambda: align(new(chain), broken(), INPUT), "b='3.weight': expected a network of finite weights"),
    (lambda: align(new(chain), new(chain), nan((3,0,2,2), INPUT)), "data='1.weight': expected.*finite"),
    (lambda: align(new(chain), new(chain), INPUT, n_batch=0), 'n_batch=0'),
    (lambda: align(new(chain), new(chain), INPUT).permuted([INPUT]), 'tensors=.*name -> tensor'),
    (lambda: align(*[nn.Linear(3, 2)]*2, torch.randn(2, 3)), "model='Linear'.*units that can change places"),
    (lambda: align(pruned(new(chain)).dense(), new(chain), INPUT), 'was not trained'),
    (lambda: Masks({'1.weight': torch.ones(3, 3).bool()}).permuted(align(new(chain), new(chain, 1), INPUT)),
     'aligned architecture.*1.weight')])
def test_bad_input(call, match):
    with pytest.raises(ArgumentError, match=match): call()

# --- Masks on other first weights

def mlp(width): return nn.Sequential(nn.Flatten(), nn.Linear(64, 12*width), nn.ReLU(), nn.Linear(12*width, 10))
def mlp64(width): return mlp(width).double()
def convs(width):
    return nn.Sequential(nn.Conv2d(1, 4*width, 3), nn.BatchNorm2d(4*width), nn.ReLU(), nn.Flatten(),
                         nn.Linear(4*width*36, 10)).double()
how = dict(prune=[50,80], n_step=12, bs=20, eval_every=6, progress=False, device='cpu', lr=2e-3)

def pair(model, seed, n_step, first):
    "The pruned network and the other one, each trained alone; and the other's W_t"
    start = lottery_curve(model, DATA, [seed], 1, arms=[], keep='tickets', **{**how, 'prune': 50})[1][seed,0]
    fresh = Ticket(start.masks, fresh_weights(start, model, seed))
    mine = train_plainly(model, start, seed, 0, n_step)[0]
    number = seed_of('other', seed)
    its,W_t = train_plainly(model, fresh, number, 0, n_step)[0],train_plainly(model, fresh, number, 0, first)[0]
    return mine,its,everything(W_t)

@pytest.mark.parametrize('make, first', [(mlp64, 5), (convs, 5), (mlp64, 0)], ids=['mlp','conv','mlp at 0'])
def test_each_arm_is_what_a_plain_loop_gives(make, first):
    seeds,n = [1,4],12
    def model(): return make(1)
    df = permuted_masks(make, DATA, [1], seeds, rewind=f'{first}it', arms='reinit', **how)
    assert list(df)==['width', *table_columns] and set(df.arm)=={'dense','ticket','reinit','naive','permuted'}
    tickets = lottery_curve(model, DATA, seeds, arms='ticket', keep='tickets', rewind=f'{first}it', **how)[1]
    for seed in seeds:
        mine,its,W_t = pair(model, seed, n, first)
        found = align(its, mine, DATA)
        lines = found.barriers(DATA)
        for name,line in zip(('naive','permuted'), lines.values()):
            got = df[(df.arm==name) & (df.seed==seed) & (df['round']==0)].set_index('metric').value
            for k,v in line.heights.items(): assert got[k]==pytest.approx(v, abs=1e-3 if 'loss' in k else 2/360)
        for r in (1, 2):
            t = tickets[seed,r]
            for name,masks in dict(naive=t.masks, permuted=t.masks.permuted(found)).items():
                loss = train_plainly(model, Ticket(masks, W_t), seed, r, n, first)[1]
                assert at_end(df, name, seed, r, 'valid_loss')==pytest.approx(loss, rel=1e-3), name
                assert of(df, name, seed, r, 'valid_loss').step.min()==first
    if not first:
        a,b = (df[(df.arm==o) & (df['round']>0)].drop(columns='arm').reset_index(drop=True) for o in ('naive','reinit'))
        pd.testing.assert_frame_equal(a, b)

def test_the_curve_beside_it_is_that_of_lottery_curve():
    df = permuted_masks(mlp, DATA, [1,2], 2, rewind='5it', arms='signs', **how)
    for w in (1, 2):
        own = lottery_curve(lambda w=w: mlp(w), DATA, 2, arms=['ticket','signs'], rewind='5it', **how)
        here = df[(df.width==w) & ~df.arm.isin(['naive','permuted'])].drop(columns='width').reset_index(drop=True)
        pd.testing.assert_frame_equal(here, own, check_like=True)
    assert df.attrs['width']==[1, 2] and df.attrs['by']=='activations'
    assert df.attrs['function'].endswith('.permuted_masks')
    weights = permuted_masks(mlp, DATA, [1], 2, rewind='5it', arms=(), by='weights', **how)
    def barriers(o):
        found = o[(o['round']==0) & o.metric.str.contains('barrier') & (o.width==1)]
        return found.set_index(['arm','seed','metric']).value
    a,b = map(barriers, (df, weights))
    assert a['naive'].equals(b['naive']) and not a['permuted'].equals(b['permuted'])

def test_the_arm_goes_into_any_curve():
    torch.manual_seed(0)
    others = {s: (everything(mlp(1)), None) for s in range(2)}
    df = lottery_curve(lambda: mlp(1), DATA, 2, arms=['ticket', permuted(others, 'theirs')], **how)
    assert set(df.arm)=={'dense','ticket','theirs'}
    for wrong in ([others[0]], {0: others[0][0]}, others[0][0]):
        with pytest.raises(TypeError, match='others.*seed -> '): permuted(wrong)
    with pytest.raises(ArgumentError, match='theirs=2: expected a seed'):
        lottery_curve(lambda: mlp(1), DATA, 3, arms=permuted(others, 'theirs'), **how)

@pytest.fixture(scope='module')
def table(): return permuted_masks(mlp, DATA, [1,3], 3, **{**how, 'n_step': 90})

def test_what_it_brings_is_what_the_table_says(table):
    found = carried(table)
    assert list(zip(found.width, found['round']))==[(w,r) for w in (1,3) for r in (0,1,2)]
    def ends(w, arm, r, metric):
        o = table[(table.width==w) & (table.arm==arm) & (table['round']==r) & (table.metric==metric)]
        return o[o.step==o.step.max()].set_index('seed').value
    for row in found.itertuples():
        metric = 'accuracy' if row.round else 'error_barrier'
        naive,new = (ends(row.width, o, row.round, metric) for o in ('naive','permuted'))
        gain = new-naive if row.round else naive-new
        left = ends(row.width, 'ticket', row.round, metric)-new if row.round else new
        for values,mean,half in ((gain, row.gain, row.gain_interval), (left, row.left, row.left_interval)):
            assert (mean,half)==pytest.approx(mean_interval(values, 12), nan_ok=True)
        assert f'width {row.width}' in row.finding and '3 seeds' in row.finding
        if row.round:
            told = abs(row.gain)>row.gain_interval
            assert ("can't be told from the naive one" in row.finding)==(not told)
    losses = carried(table, 'valid_loss')
    by_loss = losses[losses['round']==1].iloc[0]
    assert by_loss.gain==pytest.approx(float((ends(1,'naive',1,'valid_loss')-ends(1,'permuted',1,'valid_loss')).mean()))
    for fn in (carried, plot_permuted):
        with pytest.raises(ArgumentError, match='a table of permuted_masks'): fn(table[table.arm!='naive'])
        with pytest.raises(ArgumentError, match='a table of permuted_masks'): fn(table.drop(columns='width'))
        with pytest.raises(ArgumentError, match="metric='error_barrier'"): fn(table, 'error_barrier')
    with pytest.raises(ArgumentError, match="metric='early_stop'"): carried(table, 'early_stop')
    assert 'arXiv:2505.05143' in cite(table) and 'In no paper' not in cite(table)

def test_numbers_instead_of_classes():
    numbers = [(x, y[:,None]/9.) for x,y in DATA]
    def model(w): return nn.Sequential(nn.Flatten(), nn.Linear(64, 12*w), nn.ReLU(), nn.Linear(12*w, 1))
    df = permuted_masks(model, numbers, [1], 2, arms=(), rewind=0, loss=nn.functional.mse_loss, **how)
    found = carried(df)
    assert list(found.metric)==['loss_barrier','valid_loss','valid_loss'] and 'points' not in ''.join(found.finding)
    assert plot_permuted(df).axes[0].get_ylabel()==plot_permuted(df, 'valid_loss').axes[0].get_ylabel()

def test_a_round_without_tickets(table):
    lost = table[(table.arm!='ticket') | (table['round']!=2)]
    found = carried(lost)
    assert found[found['round']==2].left.isna().all() and found[found['round']==2].gain.notna().all()

def test_the_figure_has_a_panel_a_width_and_one_for_barriers(table):
    fig = plot_permuted(table)
    assert isinstance(fig, Figure) and len(fig.axes)==3
    names = {o.get_label() for o in fig.axes[0].lines}
    assert len(fig.axes[0].lines)==5 and {'naive','permuted'} <= names
    lines = {o.get_label(): o for o in fig.axes[2].lines}
    means = summarise(table, 'error_barrier', by='width')
    for label,arm in {'as they are': 'naive', 'aligned': 'permuted'}.items():
        np.testing.assert_allclose(lines[label].get_ydata(), 100*means[means.arm==arm]['mean'])

def test_progress_goes_from_the_beginning_to_the_end():
    told = []
    permuted_masks(mlp, DATA, [1,2], 2, arms=(), **{**how, 'rewind': 0, 'progress': lambda *o: told.append(o)})
    done = [o[0] for o in told]
    assert done==sorted(done) and {o[1] for o in told}=={2000} and done[0]<100 and done[-1]>1900
    assert 'two dense networks' in told[0][2] and any('width 2, round 2 of 2, permuted' in o[2] for o in told)

def test_a_pair_that_is_not_finite_is_left_out():
    def sometimes(width):
        net = mlp(width)
        if net[1].weight[0,0]>.04: net[1].weight.data[0,0] = math.inf
        return net
    with pytest.warns(UserWarning, match='two dense networks: the loss.*with all its arms'):
        df = permuted_masks(sometimes, DATA, [1], 8, rewind=0, **how)
    assert 0<df.seed.nunique()<8 and set(df[df.arm=='permuted'].seed)==set(df[df.arm=='dense'].seed)

@pytest.mark.parametrize('call, match', [
    (lambda: permuted_masks('digits_mlp', DATA, **how), "model='digits_mlp': expected a function of a width"),
    (lambda: permuted_masks(lambda: mlp(1), DATA, **how), 'model=.*function of a width'),
    (lambda: permuted_masks(mlp(1), DATA, **how), 'model=.*function of a width'),
    (lambda: permuted_masks(mlp, DATA, [], **how), r'widths=\[\]'),
    (lambda: permuted_masks(mlp, DATA, [2,2], **how), r'widths=\[2, 2\]: expected at least one, each once'),
    (lambda: permuted_masks(mlp, DATA, by='name', **how), "by='name'"),
    (lambda: permuted_masks(mlp, DATA, points=2, **how), 'points=2'),
    (lambda: permuted_masks(mlp, DATA, norm='no', **how), "norm='no'"),
    (lambda: permuted_masks(mlp, DATA, keep='tickets', **how), "keep='tickets'"),
    (lambda: permuted_masks(mlp, DATA, when='init', **how), "when='init'"),
    (lambda: permuted_masks(mlp, DATA, rewind='12it', **how), "rewind='12it'"),
    (lambda: permuted_masks(mlp, DATA, arms=permuted({}, 'naive'), **how), "arms=.*naive.*another name"),
    (lambda: permuted_masks(lambda w: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), DATA, **how, rewind=0),
     'units that can change places')])
def test_bad_input_of_the_experiment(call, match):
    with pytest.raises(ArgumentError, match=match): call()
