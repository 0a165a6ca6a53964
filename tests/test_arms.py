"Arms: each by what defines it, over random networks and seeds"
import copy, pickle, warnings

import pytest, torch, torchvision
from hypothesis import given, strategies as st
from torch import nn

from lottery_nb.arms import arm, arms, check_arms, fresh_weights, random_masks, random_ticket, shuffle_masks
from lottery_nb.criteria import random_scores
from lottery_nb.masks import Masks
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket
from models import ConvNet, differing, dtypes, everything, masked, mlp, nets, plain_arms

@st.composite
def tickets(draw, dtype=dtypes):
    "A network and its ticket, pruned at random places"
    net = draw(nets(max_layers=3, ties=False, dtype=dtype))
    sp = Sparsifier(net, criteria='random', allow_collapse=True)
    state = everything(net)
    masks = sp.sparsify(draw(st.sampled_from([0, 20, 50, 90, 100])))
    meta = dict(arm='ticket', seed=7, round=3, seeds=dict(torch=5), table=[1])
    return net, Ticket(masks, state, everything(net), meta, state)

def mlp_ticket(sparsity=90, **meta):
    net = mlp()
    state = everything(net)
    return Ticket(Sparsifier(net).sparsify(sparsity), state, everything(mlp()), meta, state)

seeds = st.integers(0, 2**70)
def kept(masks): return [int(m.sum()) for m in masks.values()]
def types(tensors): return [(t.dtype, t.shape) for t in tensors.values()]
def rest(ticket): return {k: t for k,t in ticket.state.items() if k not in ticket.masks}

# All of them

@given(tickets(), seeds)
@pytest.mark.filterwarnings('ignore:no reset_parameters')
def test_what_all_arms_promise(made, seed):
    "Not trained, the ticket's own names, shapes and types; nothing else changes; the same seed gives the same"
    net,ticket = made
    before,weights,rng = copy.deepcopy(ticket),everything(net),torch.get_rng_state()
    for name,o in plain_arms.items():
        a = o.begin(ticket, seed, net)
        assert a.trained is None and list(a.state)==list(ticket.state) and types(a.state)==types(ticket.state)
        assert list(a.masks)==list(ticket.masks)
        now = dict(arm=name, seed=seed, seeds={'torch': 5, name: seed}, sparsity=a.sparsity)
        assert a.meta=={k: v for k,v in ticket.meta.items() if k!='table'} | now
        assert a==o.begin(ticket, seed, net)
    assert ticket==before and not differing(everything(net), weights) and torch.equal(torch.get_rng_state(), rng)

def test_other_seeds_give_others():
    ticket = mlp_ticket()
    for name,o in plain_arms.items():
        a,b = (o.begin(ticket, seed, mlp) for seed in (1, 2))
        same = name in ('dense','ticket','constant') or o.begins=='trained'
        assert (a.masks==b.masks and not differing(a.state, b.state))==same

def test_arms_of_arms():
    "The meta says what was done, in turn, and from which seeds"
    ticket = mlp_ticket(arm='ticket', seed=7, seeds=dict(data=3))
    a = ticket.reinit(mlp, 1)
    b = a.shuffle(2)
    assert (b.meta['arm'], b.meta['seed'])==('reinit+shuffle', 2)
    assert b.meta['seeds']=={'data': 3, 'reinit': 1, 'reinit+shuffle': 2}
    assert not differing(a.dense().state, b.dense().state) and arms['ticket'].begin(a, 5).meta['arm']=='reinit'

# The masks

@given(tickets(), seeds)
def test_ticket_and_dense(made, seed):
    net,ticket = made
    same,all_of_it = arms['ticket'].begin(ticket, seed),ticket.dense()
    assert same.masks==ticket.masks and not differing(same.state, ticket.state)
    assert not differing(same.full, ticket.full)
    assert all_of_it.density==100 and not differing(all_of_it.state, {**ticket.state, **ticket.full})

@given(tickets(), seeds)
def test_shuffle_and_random(made, seed):
    ticket = made[1]
    for a in (ticket.shuffle(seed), ticket.random(seed)):
        assert a.masks.n_kept==ticket.masks.n_kept and a.masks.shapes()==ticket.masks.shapes()
        assert not differing(a.state, masked({**ticket.state, **ticket.full}, a.masks))
        assert not differing(a.full, ticket.full)
    assert kept(ticket.shuffle(seed).masks)==kept(ticket.masks)
    assert [n>0 for n in kept(ticket.random(seed).masks)]>=[n>0 for n in kept(ticket.masks)]

def test_every_place_is_as_likely():
    masks = Masks({'w': torch.arange(6)<2, 'v': torch.arange(4)<3})
    for draw,expected in ((shuffle_masks, [1/3]*6+[.75]*4), (random_masks, [.5]*10)):
        made = [torch.cat(list(draw(masks, i).values())).float() for i in range(600)]
        assert (torch.stack(made).mean(0)-torch.tensor(expected)).abs().max()<.1

def nets_of_units():
    return [(mlp, 'row', None), (mlp, 'column', ['1']), (ConvNet, 'filter', nn.Conv2d), (ConvNet, 'kernel', nn.Conv2d),
            (lambda: nn.MultiheadAttention(4, 2), 'row', None)]

@pytest.mark.parametrize('model, granularity, layers', nets_of_units())
def test_whole_units_move(model, granularity, layers):
    "By unit: none is cut, as many stay in each layer or, as near as units allow, in the network"
    ticket = random_ticket(model(), 60, 3, granularity, layers=layers)
    units = Sparsifier(model(), granularity, layers=layers).units
    def whole(masks): return units.masks({k: units.kept(k, masks) for k in units.names})==masks
    for net in (model, model()):
        for draw in (ticket.shuffle, ticket.random):
            a,b = draw(3, net),draw(4, net)
            assert whole(a.masks) and whole(b.masks) and a.masks!=ticket.masks and a.masks!=b.masks and a==draw(3, net)
            assert not differing(a.state, masked({**ticket.state, **ticket.full}, a.masks))
        assert kept(ticket.shuffle(3, net).masks)==kept(ticket.masks)
        more = ticket.random(3, net).masks.n_kept-ticket.masks.n_kept
        assert 0<=more<max(units.size(k) for k in units.names) and all(kept(ticket.random(3, net).masks))

def test_weights_that_were_trained_go_on():
    ticket = mlp_ticket()
    for name in ('lr_rewind','finetune'):
        a = arms[name].begin(ticket)
        assert a.masks==ticket.masks and not differing(a.state, ticket.trained) and a.full is None

def test_random_leaves_no_layer_empty_that_was_not():
    masks = Masks({'w': torch.arange(1000)<1, 'v': torch.ones(1).bool(), 'u': torch.zeros(5).bool()})
    for seed in range(50):
        drawn = random_masks(masks, seed)
        assert drawn.n_kept==2 and drawn['v'].all() and drawn['w'].sum()==1
    assert len({int(random_masks(masks, i)['w'].nonzero()) for i in range(50)})>30

# The weights

@given(tickets(), seeds)
def test_reinit_by_reset_parameters(made, seed):
    net,ticket = made
    a = ticket.reinit(net, seed)
    assert a.masks==ticket.masks and not differing(a.state, masked({**a.state, **a.full}, a.masks))
    assert all(differing({k: t}, {k: ticket.full[k]}) for k,t in a.full.items())

def test_reinit_by_a_function():
    "What the model's author meant: torchvision's ResNets have an initialisation that `reset_parameters` doesn't know"
    def resnet(): return torchvision.models.resnet18(num_classes=10)
    ticket = random_ticket(resnet(), 50)
    a,b = ticket.reinit(resnet, 1),ticket.reinit(resnet(), 1)
    fan_out = (2/(512*9))**.5 # kaiming_normal_ of the constructor; reset_parameters is uniform
    assert a.full['layer4.1.conv2.weight'].std()==pytest.approx(fan_out, rel=.01)
    assert b.full['layer4.1.conv2.weight'].abs().max()==pytest.approx((1/(512*9))**.5, rel=.01)
    assert a.state['bn1.weight'].eq(1).all() and a.masks==ticket.masks

def test_reinit_whatever_the_model_went_through():
    "What no module draws comes from the ticket and not from the model, and is named"
    net = ConvNet()
    ticket = Ticket(Sparsifier(net).sparsify(60), everything(net))
    for k in ('scale', 'seen', 'stem.1.running_mean'): ticket.state[k].add_(7)
    other = ConvNet()
    with torch.no_grad():
        for p in other.parameters(): p.add_(3)
    with pytest.warns(UserWarning, match='^no reset_parameters draws scale: as in the ticket'):
        a,b = ticket.reinit(ConvNet(), 4),ticket.reinit(nn.DataParallel(other), 4)
    assert not differing(a.state, b.state) and a.state['stem.1.running_mean'].count_nonzero()==0
    assert torch.equal(a.state['scale'], ticket.state['scale']) and torch.equal(a.state['seen'], ticket.state['seen'])

class Own(nn.Module):
    "Modules with a parameter of their own, and a parent that draws one of them"
    def __init__(self):
        super().__init__()
        self.linear,self.child,self.mixed = nn.Linear(3,3),nn.Module(),nn.MultiheadAttention(4,2)
        self.child.w,self.child.v = nn.Parameter(torch.zeros(3)),nn.Parameter(torch.zeros(3))
    def reset_parameters(self): nn.init.normal_(self.child.w)

def test_reinit_names_exactly_what_nobody_drew():
    net = Own()
    ticket = Ticket(Sparsifier(net).sparsify(30), everything(net))
    with pytest.warns(UserWarning, match='draws child.v, mixed.in_proj_weight, mixed.in_proj_bias: '):
        a = ticket.reinit(net)
    assert a.state['child.w'].count_nonzero()==3
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ticket.reinit(Own, 1)

@given(tickets(), seeds)
def test_signs(made, seed):
    net,ticket = made
    a,fresh = ticket.signs(net, seed),fresh_weights(ticket, net, seed)
    assert a.masks==ticket.masks and a.full is None and not differing(rest(a), rest(ticket))
    for k in a.masks:
        assert torch.equal(a.state[k].sign(), ticket.state[k].sign()*fresh[k].sign().abs())
        assert torch.equal(a.state[k].abs(), masked(fresh, a.masks)[k].abs()*ticket.state[k].sign().abs())

@given(tickets())
def test_constant(made):
    "The signs of W_t, one magnitude a layer, and so large that the layer's norm stays, where no kept weight is 0"
    ticket = made[1]
    a = ticket.constant()
    assert a.masks==ticket.masks and a.full is None and not differing(rest(a), rest(ticket))
    for k,m in a.masks.items():
        assert torch.equal(a.state[k].sign(), ticket.state[k].sign())
        assert len(set(a.state[k][ticket.state[k]!=0].abs().tolist()))<=1
        tolerance = 2e-2 if a.state[k].dtype==torch.bfloat16 else 2e-3
        if ticket.state[k][m].all():
            assert torch.allclose(a.state[k].double().norm(), ticket.state[k].double().norm(), rtol=tolerance)

def test_the_sign_of_a_kept_zero():
    "It stays 0, and counts for the root mean square"
    mask = Masks({'w': torch.tensor([[True,False,True],[False,False,True],[True,True,True]])})
    ticket = Ticket(mask, {'w': torch.tensor([[-0.,9.,0.],[9.,9.,-3.],[1.,2.,-4.]])})
    assert torch.allclose(ticket.constant().state['w'], torch.tensor([[0.,0,0],[0,0,-1],[1,1,-1]])*(30/6)**.5)

# An arm of one's own

def test_an_own_arm():
    @arm(label='half as large')
    def scaled(ticket, seed, model, *, by=.5): return Ticket(ticket.masks, {k: by*t for k,t in ticket.state.items()})
    ticket = mlp_ticket(arm='ticket')
    a = scaled(by=.25).begin(ticket, 3)
    assert torch.equal(a.state['1.weight'], ticket.state['1.weight']/4) and a.meta['arm']=='scaled(by=0.25)'
    assert check_arms(['scaled', scaled, scaled(by=2)])==[scaled, scaled(by=2)]
    @arm
    def plain(ticket, seed, model): return 3
    with pytest.raises(TypeError, match='arm plain=3: expected a function that gives a Ticket'): plain.begin(ticket)

def test_arms_can_be_sent_to_other_processes():
    assert all(pickle.loads(pickle.dumps(o))==o for o in arms.values())

# Without a search

@given(nets(ties=False), st.sampled_from([0, 33.3, 50, 90]), st.integers(0, 2**40),
       st.sampled_from(['local', 'global']))
@pytest.mark.filterwarnings('ignore:layer collapse')
def test_random_ticket(net, sparsity, seed, method):
    before,rng = everything(net),torch.get_rng_state()
    a = random_ticket(net, sparsity, seed, method=method)
    assert not differing(everything(net), before) and torch.equal(torch.get_rng_state(), rng) and a.trained is None
    assert not differing(a.state, masked(before, a.masks)) and not differing(a.full, {k: before[k] for k in a.masks})
    assert a.masks==Sparsifier(copy.deepcopy(net), method=method, criteria=random_scores(seed=seed)).sparsify(sparsity)
    expected = dict(arm='ticket', seed=seed, sparsity=a.sparsity, granularity='weight', method=method, followers={},
                    criteria=f'random_scores(seed={seed})', layers=list(a.masks),
                    shapes={k: list(t.shape) for k,t in before.items()})
    assert {k: a.meta[k] for k in expected}==expected and set(a.meta)=={*expected, 'versions'}

def test_random_tickets_of_units():
    net = ConvNet()
    a = random_ticket(net, 50, 1, 'filter', 'local', nn.Conv2d)
    assert list(a.masks)==['stem.0.weight', 'grouped.weight']
    assert all(m.flatten(1).float().mean(1).unique().numel()<=2 for m in a.masks.values())
    assert a.masks!=random_ticket(net, 50, 2, 'filter', 'local', nn.Conv2d).masks

# What can't be right

def ignorant(t): return Ticket(t.masks, t.state)
def of(t, granularity): return Ticket(t.masks, t.state, meta=dict(granularity=granularity), full=t.full)

@pytest.mark.parametrize('call, error, match', [
    *[(lambda t,f=f: f(t, -1), ValueError, 'seed=-1: expected ')
      for f in (lambda t,s: t.reinit(mlp, s), lambda t,s: t.shuffle(s), lambda t,s: random_ticket(mlp(), 50, s))],
    *[(lambda t,f=f: f(ignorant(t)), ValueError, 'ticket=.*expected one that knows its pruned weights')
      for f in (lambda t: t.random(), lambda t: t.dense())],
    (lambda t: of(t, 'row').shuffle(), ValueError, 'model=None: expected the network'),
    (lambda t: of(t, '2:4').random(model=mlp), ValueError, "granularity='2:4': expected units within a layer"),
    (lambda t: arms['finetune'].begin(ignorant(t)), ValueError, 'expected one that was trained'),
    *[(lambda t,f=f: f(t), ValueError, "model=.*expected a model of the ticket's architecture")
      for f in (lambda t: t.reinit(ConvNet), lambda t: t.signs(ConvNet))],
    (lambda t: t.signs({}), TypeError, 'model={}'),
    (lambda t: t.reinit(mlp().to('meta')), ValueError, 'on the meta device'),
    (lambda t: arms['reinit'].begin(t.masks, 0, mlp), TypeError, 'ticket=Masks'),
    (lambda t: random_ticket(mlp(), 150), ValueError, 'sparsity=150'),
    (lambda t: random_ticket(None, 50), TypeError, 'model=None')])
def test_what_arms_refuse(call, error, match):
    with pytest.raises(error, match=match): call(mlp_ticket())
