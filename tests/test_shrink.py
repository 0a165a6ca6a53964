"Shrunk equals masked, for random networks of all kinds; what can't be cut stays, with the reason"
import copy, math, pickle, warnings
from fractions import Fraction

import pytest, torch
from fastai.learner import Learner
from fastai.metrics import accuracy
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.utils import parametrizations as P, weight_norm
from torchvision import models

from lottery_nb.arms import random_ticket
from lottery_nb.channels import ChannelUnits, with_followers
from lottery_nb.core import ArgumentError
from lottery_nb.masks import Masks
from lottery_nb.data import digits_dls
from lottery_nb.granularity import filters_of
from lottery_nb.find import find_ticket
from lottery_nb.shrink import shrink, shrink_like
from lottery_nb.sparsifier import Sparsifier, find_layers
from lottery_nb.ticket import Ticket
from models import Halves, differing, everything

def as_trained(net, seed=0):
    "Biases and norms as a training leaves them"
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                for t,low in ((m.weight,.5), (m.bias,-.5), (m.running_mean,-.5), (m.running_var,.5)):
                    if t is not None: t.copy_(torch.rand(t.shape, generator=g)+low)
    return net.eval()

def some_filters(net, names, share, seed):
    "Masks that prune about this share of the filters of each of these layers, never all"
    g,masks = torch.Generator().manual_seed(seed),{}
    for n in names:
        m = net.get_submodule(n)
        u = filters_of(m)
        keep = torch.rand(u.n, generator=g) >= share
        keep[int(torch.randint(u.n, (1,), generator=g))] = True
        masks[f'{n}.weight'] = u.spread(keep).reshape(m.weight.shape)
    return Masks(masks)

def some_channels(net, x, share, seed):
    "The same with the channels of each group"
    g,units,kept = torch.Generator().manual_seed(seed),ChannelUnits(net, find_layers(net), 'group', x),{}
    for k in units.names:
        kept[k] = torch.rand(units.n(k), generator=g) >= share
        kept[k][int(torch.randint(units.n(k), (1,), generator=g))] = True
    return units.masks(kept)

def masked(net, masks): return masks.apply_(copy.deepcopy(net))

@torch.no_grad()
def check_same(net, masks, x, small, tol=1e-5):
    a,b = masked(net, masks).eval()(x),small.eval()(x)
    assert a.shape==b.shape and (a-b).abs().max()<=tol*max(1, a.abs().max())

# Random networks: every part is drawn, so residual sums, concatenations, groups and gates come in all orders

class Add(nn.Module):
    def __init__(self, body, skip=None):
        super().__init__()
        self.body,self.skip = body,skip or nn.Identity()
    def forward(self, x): return torch.relu(self.body(x)+self.skip(x))

class Cat(nn.Module):
    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)
    def forward(self, x): return torch.cat([x, *(b(x) for b in self.branches)], 1)

class Gate(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.fc1,self.fc2 = nn.Conv2d(n,2,1),nn.Conv2d(2,n,1)
    def forward(self, x): return x*self.fc2(self.fc1(x.mean((2,3), keepdim=True)).relu()).sigmoid()

def conv(n_in, n_out, k=3, norm=True, **kw):
    layer = nn.Conv2d(n_in, n_out, k, padding=k//2, bias=not norm, **kw)
    return nn.Sequential(layer, *[nn.BatchNorm2d(n_out)]*norm, nn.ReLU())

def plain(): return as_trained(nn.Sequential(conv(1, 8), conv(8, 4), nn.Flatten(), nn.Linear(144,3)))

@st.composite
def part(draw, n):
    "A part that takes `n` channels, and how many it gives"
    kind = draw(st.sampled_from(['conv','residual','project','depthwise','grouped','cat','gate']))
    norm,mid = draw(st.booleans()),draw(st.integers(2, 6))
    if kind=='conv': return conv(n, mid, norm=norm), mid
    if kind=='residual': return Add(nn.Sequential(conv(n, mid, norm=norm), nn.Conv2d(mid, n, 3, padding=1))), n
    if kind=='project': return Add(conv(n, mid, norm=norm), nn.Conv2d(n, mid, 1)), mid
    if kind=='depthwise': return nn.Sequential(conv(n, n, groups=n, norm=norm), conv(n, mid, 1)), mid
    if kind=='grouped': return nn.Sequential(conv(n, 8, 1), conv(8, 8, groups=2, norm=norm), conv(8, mid, 1)), mid
    if kind=='cat': return Cat(conv(n, mid, norm=norm), conv(n, 2)), n+mid+2
    return Gate(n), n

@st.composite
def networks(draw):
    torch.manual_seed(draw(st.integers(0, 10**6)))
    n,parts = 4,[conv(1, 4)]
    for _ in range(draw(st.integers(1, 4))):
        p,n = draw(part(n))
        parts.append(p)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 3)]
    if draw(st.booleans()): head = [nn.Flatten(), nn.Linear(n*36, 7), nn.ReLU(), nn.Linear(7, 3)]
    return as_trained(nn.Sequential(*parts, *head), draw(st.integers(0, 99)))

x = torch.randn(2,1,6,6, generator=torch.Generator().manual_seed(0))

@given(networks(), st.floats(0, .9), st.integers(0, 99), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_shrunk_equals_masked(net, share, seed, by_group, whole_units):
    layers = [n for n,m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))][:-1]
    masks = some_channels(net, x, share, seed) if by_group else some_filters(net, layers, share, seed)
    if whole_units: masks = with_followers(net, masks, x)
    before = everything(net)
    try: small = shrink(net, masks, x)
    except ValueError as e: # a channel that feeds only what is dead may be the last one of its layer
        assert 'nothing of it would be left' in str(e)
        return
    check_same(net, masks, x, small)
    df = small.shrunk.table
    assert (df.cut<=df.channels).all() and (df.left==df.channels-df.cut).all() and (df.why[df.pruned<=df.cut]=='').all()
    assert (df.why[df.pruned>df.cut]!='').all()
    assert not differing(before, everything(net)) and not hasattr(net, 'shrunk')

@given(networks(), st.integers(0, 99))
@settings(max_examples=20)
def test_whole_groups_are_cut_whole(net, seed):
    "With all that follows it, a group leaves nothing behind"
    masks = with_followers(net, some_channels(net, x, .5, seed), x)
    df = shrink(net, masks, x).shrunk.table
    left = df[df.pruned>df.cut]
    assert not len(left) or left.why.str.contains('constant but not 0').all()

@pytest.mark.parametrize('name', ['resnet18', 'vgg11_bn', 'mobilenet_v2', 'mobilenet_v3_small', 'densenet121',
                                  'resnext50_32x4d', 'googlenet'])
def test_families_of_torchvision(name):
    kwargs = dict(init_weights=False, aux_logits=False) if name=='googlenet' else {}
    net = as_trained(getattr(models, name)(num_classes=10, **kwargs))
    y = torch.randn(2,3,64,64)
    units = ChannelUnits(net, find_layers(net), 'group', y)
    masks = with_followers(net, units.masks({k: torch.arange(units.n(k))%2==0 for k in units.names}), y)
    small = shrink(net, masks, y, check=False)
    check_same(net, masks, y, small)
    df = small.shrunk.table
    assert df.cut.sum()>=.45*df.channels.sum() and small.shrunk.macs[0]>2.5*small.shrunk.macs[1]
    assert (df[df.pruned>0].cut==df[df.pruned>0].pruned).all()

def half_of(net, *names):
    masks = {f'{n}.weight': torch.ones_like(net.get_submodule(n).weight, dtype=torch.bool) for n in names}
    for m in masks.values(): m[1::2] = False
    return Masks(masks)

def why(net, masks, x, name): return shrink(net, masks, x).shrunk.table.set_index('layer').why[name]

def test_reasons():
    inner = nn.Sequential(conv(4, 6), nn.Conv2d(6,4,3,padding=1))
    res = as_trained(nn.Sequential(conv(1, 4), Add(inner), nn.Conv2d(4,2,3,padding=1)))
    assert 'goes together with 0.0' in why(res, half_of(res, '1.body.1'), x, '1.body.1')
    assert 'constant but not 0 where 1.body.1' in why(res, half_of(res, '1.body.0.0'), x, '1.body.0.0')
    assert why(res, half_of(res, '2'), x, '2')=='it is what the model gives back'
    norm = nn.Sequential(nn.Conv2d(1,4,3), nn.GroupNorm(2,4), nn.Conv2d(4,2,3))
    assert why(norm, half_of(norm, '0'), x, '0')=='1 (GroupNorm) works on several channels at once'
    middle = nn.Linear(6,6),nn.ReLU(),nn.Linear(6,6)
    tied = nn.Sequential(nn.Flatten(), nn.Linear(36,6), nn.ReLU(), *middle, nn.Linear(6,2))
    tied[5].weight = tied[3].weight
    assert 'share a parameter' in why(tied, half_of(tied, '3'), x, '3')
    twice = nn.Linear(36,36)
    twice = nn.Sequential(nn.Flatten(), twice, nn.ReLU(), twice, nn.Linear(36,2))
    assert '1 is used 2 times' in why(twice, half_of(twice, '1'), x, '1')
    even = nn.Sequential(nn.Conv2d(1,4,1), nn.Conv2d(4,4,1,groups=2), nn.Conv2d(4,2,1))
    first = with_followers(even, Masks({'0.weight': torch.arange(4).view(4,1,1,1)>0}), x)
    assert why(even, first, x, '0')=='it goes together with 0, not pruned there'

@pytest.mark.filterwarnings('ignore:.*weight_norm.*')
@pytest.mark.parametrize('computed', [P.spectral_norm, P.weight_norm, P.orthogonal, weight_norm])
def test_layers_whose_weight_is_computed_stay_and_the_others_are_cut(computed, tmp_path):
    torch.manual_seed(0)
    net = as_trained(nn.Sequential(conv(1, 8), nn.Conv2d(8,6,3,padding=1), computed(nn.Conv2d(6,6,1)), conv(6, 4),
                                   nn.Conv2d(4,2,3)))
    masks = random_ticket(net, 40, granularity='group', example=x).masks
    small = shrink(net, with_followers(net, masks, x), x)
    cut = small.shrunk.table.set_index('layer').cut
    assert cut['0.0']>0 and not cut[['1','2']].any()
    small.save(file := tmp_path/'small.safetensors')
    assert torch.equal(shrink_like(net, file)(x), small(x))

def test_looking_at_a_network_that_draws_leaves_your_random_numbers_alone():
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.a,self.b = nn.Conv2d(1,4,3),nn.Conv2d(4,2,3)
        def forward(self, x):
            torch.rand(3)
            return self.b(self.a(x))
    net = Draws()
    masks = half_of(net, 'a')
    for look in (lambda: shrink(net, masks, x), lambda: Sparsifier(net, 'group', example=x),
                 lambda: with_followers(net, masks, x)):
        before = torch.get_rng_state()
        look()
        assert torch.equal(torch.get_rng_state(), before)

def test_channels_that_forward_counts_on():
    "Where the channels between two layers have to be as many as they are, they stay"
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.a,self.b = nn.Conv2d(1,4,3),nn.Conv2d(4,2,3)
        def forward(self, x): return self.b(self.a(x).roll(2, 1))
    net = Shift()
    masks = half_of(net, 'a')
    masks = with_followers(net, masks, x)
    small = shrink(net, masks, x)
    check_same(net, masks, x, small)
    assert "the forward pass can't do with fewer: b would get other numbers" in small.shrunk.table.why[0]
    assert shrink(net, masks, x, check=False).shrunk.table.cut[0]==0

def test_bad_input():
    net,groups = plain(),block()
    masks = half_of(net, '0.0')
    small = shrink(net, with_followers(net, masks, x), x)
    for bad,error,words in (
            (lambda: shrink(net, masks, 'x'), TypeError, "example='x'"),
            (lambda: shrink('net', masks, x), TypeError, "model='net'"),
            (lambda: shrink(net, masks, x, check='no'), TypeError, "check='no': expected True or False"),
            (lambda: shrink_like(net, None), TypeError, 'path=None: expected the path'),
            (lambda: shrink(net, masks, torch.randn(2,1,9,9)), ValueError, r'one of the shape \(2, 1, 9, 9\)'),
            (lambda: shrink(small, masks, x), ValueError, '8, 1, 3, 3. in the masks, .4, 1, 3, 3'),
            (lambda: with_followers(net, half_of(groups, '3'), x), ValueError, 'masks of this model: 3.weight'),
            (lambda: Sparsifier(groups, 'group'), ValueError, 'example=None: expected a batch'),
            (lambda: Sparsifier(groups, 'group', layers=['0.0'], example=x), ValueError,
             '0.0.weight goes together with 1.body.1.weight'),
            (lambda: Sparsifier(groups, 'group', layers=['3'], example=x), ValueError, 'channels that can go'),
            (lambda: find_ticket(digits, fit_once, rounds=1, granularity='group', method='erk'),
             ValueError, 'method=erk: expected local, global or lamp')):
        with pytest.raises(error, match=words): bad()

def test_a_shrunk_network_can_be_pruned_and_shrunk_again():
    net = plain()
    for n in (8, 4, 2):
        assert net[0][0].out_channels==n
        net = shrink(net, with_followers(net, half_of(net, '0.0'), x), x)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    net = plain().to(dtype)
    masks = with_followers(net, half_of(net, '0.0'), x)
    small = shrink(net, masks, x.to(dtype))
    assert {p.dtype for p in small.parameters()}=={dtype} and small[0][0].out_channels==4
    check_same(net.double(), masks, x.double(), small.double(), 1e-4)

def test_modes_wrappers_and_layouts():
    net = plain().to(memory_format=torch.channels_last).train()
    masks = with_followers(net, half_of(net, '0.0'), x)
    seen = everything(net)
    rng = torch.get_rng_state()
    small = shrink(nn.DataParallel(net), masks, (x,))
    assert torch.equal(rng, torch.get_rng_state()) and not differing(seen, everything(net))
    assert net.training and small.training
    assert small[1][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(p.requires_grad for p in small.parameters())
    again = pickle.loads(pickle.dumps(small))
    assert not differing(everything(small), everything(again)) and 'shrunk' not in str(list(small.state_dict()))
    small(x).sum().backward()

def test_frozen_layers_stay_frozen():
    net = plain()
    for p in net[0].parameters(): p.requires_grad_(False)
    small = shrink(net, with_followers(net, half_of(net, '0.0'), x), x)
    assert small[0][0].out_channels==4 and small[1][0].weight.requires_grad
    assert not any(p.requires_grad for p in small[0].parameters())

@pytest.mark.parametrize('trained', [False, True])
def test_tickets(trained):
    net = plain()
    masks = half_of(net, '0.0')
    with_followers(net, masks, x).apply_(net)
    then = {k: t*2 if t.is_floating_point() and 'running' not in k else t for k,t in everything(net).items()}
    ticket = Ticket(masks, everything(net), then if trained else None)
    small = shrink(plain(), ticket, x)
    (ticket.trained_into if trained else ticket.apply_to)(net)
    assert small[0][0].out_channels==4
    with torch.no_grad(): assert torch.allclose(net.eval()(x), small(x), atol=1e-4)

def test_pruned_weights_that_are_not_0_are_told():
    net = plain()
    masks = half_of(net, '0.0')
    with pytest.warns(UserWarning, match=r"36 pruned weights aren't 0 in the model"): shrink(net, masks, x)
    masks.apply_(net)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        shrink(net, masks, x)

def test_a_ticket_whose_pruned_weights_stay_is_refused():
    sp = Sparsifier(net := plain(), 'filter', 'local', pruned_to='init')
    sp.save_weights()
    sp.sparsify(50)
    with pytest.raises(ArgumentError, match='a ticket that prunes to 0'): shrink(net, sp.ticket, x)

# The granularity `group`: pruned while training, rewound, stored, and cut

def body(mid): return Add(nn.Sequential(conv(8, mid), nn.Conv2d(mid, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)))
def block(): return as_trained(nn.Sequential(conv(1, 8), body(6), nn.Flatten(), nn.Linear(288, 10)))

def best_groups(sp, method, sparsity):
    "Slowly: the channels that go, by (score, position), as many as fit, with a tenth of each group that stays"
    units,floor = [],set()
    for i,(k,g) in enumerate(sp.units.groups.items()):
        w = {n: dict(sp.model.named_parameters())[f'{n}.weight'].detach().abs() for n in g.layers}
        filters = [[w[n][at[c]] for n,at in g.layers.items()] for c in range(g.n)]
        scores = torch.stack([sum(o.flatten(1).mean(1).mean() for o in os)/len(w) for os in filters])
        parts = (scores/scores.mean()).tolist()
        own = [(o, i, c, sum(f.numel() for f in os)) for c,(o,os) in enumerate(zip(parts, filters))]
        floor |= {u[1:3] for u in sorted(own)[len(own)-math.ceil(len(own)/10):]}
        units += own
    gone = set()
    n,total = [sum(u[3] for u in units if u[1]==i) for i in range(len(sp.units.groups))],sum(u[3] for u in units)
    stays = [Fraction(total-round(sparsity/100*total))*o/total for o in n] # of each group; the largest remainders more
    whole = [math.floor(o) for o in stays]
    for i in sorted(range(len(n)), key=lambda i: whole[i]-stays[i])[:int(sum(stays))-sum(whole)]: whole[i] += 1
    parts = [([u for u in units if u[1]==i], o-w) for i,(o,w) in enumerate(zip(n, whole))]
    for part,left in parts if method=='local' else [(units, round(sparsity/100*total))]:
        for u in sorted(part):
            if u[3]>left or u[1:3] in floor: continue
            left -= u[3]
            gone.add(u[1:3])
    return gone

@given(networks(), st.sampled_from(['local','global']), st.floats(1, 70))
@settings(max_examples=20)
def test_as_many_groups_as_fit(net, method, sparsity):
    try: sp = Sparsifier(copy.deepcopy(net), 'group', method, example=x)
    except ValueError as e: return pytest.skip(str(e)) if 'channels that can go' in str(e) else pytest.fail(str(e))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        gone = best_groups(sp, method, sparsity)
        masks = sp.sparsify(sparsity)
    assert not any('layer collapse' in str(o.message) for o in caught)
    went = {k: (~sp.units.kept(k, sp.masks)).nonzero().flatten().tolist() for k in sp.units.names}
    assert {(i,c) for i,cs in enumerate(went.values()) for c in cs}==gone
    n_weights = sum(sp.units.n_weights(k) for k in sp.units.names)
    assert n_weights*sparsity/100+.5 >= masks.n_weights-masks.n_kept or method=='local'
    small = shrink(sp.model, masks, x)
    check_same(sp.model, masks, x, small)

def test_groups_are_held_rewound_and_stay_pruned():
    net = block().train()
    sp,opt = Sparsifier(net, 'group', 'local', example=x),torch.optim.Adam(net.parameters(), 1e-2, weight_decay=.1)
    sp.save_weights()
    sp.watch(opt)
    first = sp.sparsify(25)
    for _ in range(3):
        net(torch.randn(4,1,6,6)).square().sum().backward()
        opt.step()
    df = shrink(net, sp.masks, x).shrunk.table
    assert list(df.cut)==[2,1,2,0]
    second = sp.sparsify(50)
    assert all(not (second[k] & ~first[k]).any() for k in first)
    sp.rewind()
    small = shrink(net, sp.masks, x)
    assert list(small.shrunk.table.cut)==[4,3,4,0]
    check_same(net, sp.masks, x, small)
    sp.sparsify(60, round_to=4)
    assert [o.left for o in shrink(net, sp.masks, x).shrunk.table.itertuples()]==[4,3,4,10]

def test_filters_take_their_norms_along():
    net = block()
    sp = Sparsifier(net, 'filter', 'local', layers=['1.body.0.0'], example=x)
    sp.sparsify(50)
    assert shrink(net, sp.masks, x).shrunk.table.cut.sum()==3
    assert int((net[1].body[0][1].bias==0).sum())==3

def digits(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(conv(1, 8), body(8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))
    return Learner(digits_dls(seed=seed), net, loss_func=nn.CrossEntropyLoss(), metrics=accuracy)

def test_a_search_finds_tickets_that_can_be_cut(tmp_path):
    def search():
        return find_ticket(digits, fit_once, rounds=2, prune=30, granularity='group', method='local', dir=tmp_path/'s',
                           progress=False)
    found = search()
    y,last = torch.randn(2,1,8,8),digits(1).model
    small = [shrink(digits(1).model, t, y) for t in found.tickets]
    sizes = [list(o.shrunk.table.left) for o in small]
    assert sizes[0]==[8,8,8,10] and sizes[1]==[6,6,6,10] and sizes[2][0]<6
    found.tickets[2].trained_into(last)
    with torch.no_grad(): assert torch.allclose(last.eval()(y), small[2].eval()(y), atol=1e-5)
    assert [t.masks for t in search().tickets]==[t.masks for t in found.tickets]

def fit_once(learn): learn.fit(1, 1e-2)

def test_a_random_ticket_of_groups(tmp_path):
    ticket = random_ticket(block(), 50, granularity='group', method='local', example=x)
    bad = Ticket(ticket.masks, ticket.state, meta={**ticket.meta, 'followers': {'0.0.weight': {'0.1.weight': 3}}})
    with pytest.raises(ValueError, match='followers'): bad.apply_to(block())
    ticket = Ticket.load(ticket.save(tmp_path/'t'))
    assert list(shrink(block(), ticket, x).shrunk.table.cut)==[4,3,4,0]

@pytest.mark.parametrize('method', ['local', 'global'])
@pytest.mark.parametrize('round_to', [None, 2])
def test_a_layer_may_have_several_groups(method, round_to):
    net,x = Halves(),torch.randn(2, 1, 8, 8)
    sp = Sparsifier(net, 'group', method, example=x)
    for sparsity in (20, 50): masks = sp.sparsify(sparsity, round_to=round_to)
    small = shrink(net, masks, x)
    check_same(net, masks, x, small)
    assert list(small.shrunk.table.cut)==list(small.shrunk.table.pruned) and small.shrunk.table.cut.sum()
    if method=='local': assert [len(o.flatten(1).any(1).nonzero()) for o in net.stem.weight.chunk(2)]==[2, 2]

def test_multiply_adds_are_for_one_item():
    layer,x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),torch.randn(3, 5, 4)
    net = nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 3))
    weights,attention = 4*8 + 3*8*8 + 8*8 + 2*8*16 + 8*3,2*5*8
    small = shrink(net, Sparsifier(net, 'group', 'local', example=x).sparsify(50), x)
    assert small[1].linear1.out_features==8
    assert small.shrunk.macs==(5*(weights+attention), 5*(weights+attention-2*8*8))

class Counting(nn.Module):
    "Two layers that may each lose channels; `count` says what becomes of the network by how many both have lost"
    def __init__(self, count):
        super().__init__()
        self.a,self.b,self.c,self.d,self.count = nn.Linear(4,6),nn.Linear(6,3),nn.Linear(4,6),nn.Linear(6,3),count
    def forward(self, x):
        said = self.b(self.a(x).relu()) + self.d(self.c(x).relu())
        return said + self.count(6-self.a.out_features, 6-self.c.out_features)

def refuse(a, b): raise AssertionError('both') if a*b else KeyError('the first') if a else TypeError('the second')

@pytest.mark.parametrize('count, cut', [(lambda a, b: 0, 4), (lambda a, b: a*b, 0), (lambda a, b: a, 2),
                                        (lambda a, b: a*b and refuse(a, b), 0), (lambda a, b: a and refuse(a, b), 2),
                                        (lambda a, b: a+b and refuse(a, b), 0)])
def test_what_cannot_go_stays_also_if_each_could_go_alone(count, cut):
    "However the network says that it can't: in its outputs, or by any error"
    net = Counting(count)
    with torch.no_grad():
        for m in (net.a, net.c): m.bias[:2] = 0
    keep = torch.arange(6)[:,None].expand(6,4)>1
    masks = Masks({'a.weight': keep, 'c.weight': keep.clone()})
    masks.apply_(net)
    small = shrink(net, masks, torch.randn(2,4))
    assert small.shrunk.table.cut.sum()==cut and small.shrunk.difference<1e-5
    said = [o for o in small.shrunk.table.why if o]
    assert len(said)==(4-cut)//2 and all("wouldn't give the same" in str(o) for o in said)
