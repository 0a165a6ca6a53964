"Tickets that move: onto other networks, held at their first weights, from one data set to another, averaged"
import warnings

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn

import lottery_nb.channels # noqa: F401 (filters with their followers)
from lottery_nb.core import ArgumentError
from lottery_nb.masks import named_tensors
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket
from models import ConvNet, batch, bits, differing, everything, masked, mlp, nonzero_pruned, train_step

def ticket_of(net, sparsity=60, meta=None, **kwargs):
    "The ticket of a network as it is"
    state,sp = everything(net),Sparsifier(net, **kwargs)
    return Ticket(sp.sparsify(sparsity), state, meta=meta or dict(followers=sp.followers), full=state)

def onto(ticket, model, **kwargs):
    "The sparsifier, and what was said"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        sp = ticket.onto(model, **kwargs)
    return sp, [str(o.message) for o in said]

def backbone(): return nn.Sequential(nn.Conv2d(1,8,3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8,8,3), nn.Flatten())
def split(n_classes=10): return nn.Sequential(backbone(), nn.Linear(32,n_classes))

class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.backbone = net
    def forward(self, x): return self.backbone(x)

# Onto another network

wrapped = dict(same=lambda net: net, prefix=Wrapper, twice=lambda net: Wrapper(Wrapper(net)),
               sequential=lambda net: nn.Sequential(net, nn.Linear(10,3)), parallel=nn.DataParallel,
               averaged=torch.optim.swa_utils.AveragedModel)

@pytest.mark.parametrize('wrap', wrapped.values(), ids=wrapped)
def test_a_prefix_more(wrap):
    ticket,inner = ticket_of(ConvNet()),ConvNet()
    outer = wrap(inner)
    sp,_ = onto(ticket, outer)
    sub = outer.get_submodule('module') if isinstance(outer, torch.optim.swa_utils.AveragedModel) else inner
    assert not differing(everything(sub), masked(ticket.state, ticket.masks))
    assert len(sp.masks)==len(ticket.masks) and not nonzero_pruned(sp)

@pytest.mark.parametrize('wrap', [wrapped[k] for k in ('prefix','twice','sequential','averaged')])
def test_a_prefix_less(wrap):
    net = wrap(ConvNet())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ticket,bare = ticket_of(net, layers=['backbone'] if isinstance(net, Wrapper) else None),ConvNet()
    onto(ticket, bare)
    prefix = next(k for k in ticket.state if k.endswith('stem.0.weight')).removesuffix('stem.0.weight')
    then = masked(ticket.state, ticket.masks)
    assert not differing(everything(bare), {k: then[prefix+k] for k in everything(bare)})

def test_more_classes_are_new_and_named():
    ticket,net = ticket_of(split()),split(37)
    before = everything(net)
    sp,said = onto(ticket, net)
    assert len(said)==1 and '1.weight ((37, 32) for (10, 32)), 1.bias ((37,) for (10,))' in said[0]
    assert set(differing(everything(net), before)) <= {k for k in before if k.startswith('0.')}
    assert set(sp.masks)=={'0.0.weight','0.3.weight'}
    assert '1.weight' in sp.report().iloc[-1].layer and sp.report().iloc[-1].kept==37*32

def test_what_has_no_place_is_named():
    ticket,net = ticket_of(split()),backbone()
    sp,said = onto(ticket, net)
    assert len(said)==1 and 'nowhere in the model: 1.weight, 1.bias' in said[0]
    assert set(sp.masks)=={'0.weight','3.weight'}

def test_everything_is_somewhere():
    ticket,net = ticket_of(split()),nn.Sequential(split(7), nn.BatchNorm1d(7))
    df = ticket.places(net, but='0.0.0')
    assert sorted(df.ticket[df.ticket!=''])==sorted(ticket.state)
    assert sorted(df.model[df.model!=''])==sorted(named_tensors(net))
    by = df.groupby('becomes').model.apply(set).to_dict()
    assert by['left out']=={'0.0.0.weight','0.0.0.bias'}
    assert {'0.1.weight','0.1.bias','1.weight','1.running_var'} <= by['new']
    assert all(o.startswith('0.0.') for o in by['ticket'])

@pytest.mark.parametrize('but', ['1', '1.*', ['1.weight','1.bias'], '[1].*'])
def test_what_is_left_out_on_purpose_is_not_warned_of(but):
    ticket,net = ticket_of(split()),split()
    head = everything(net[1])
    sp,said = onto(ticket, net, but=but)
    assert not said and not differing(everything(net[1]), head) and '1.weight' not in sp.masks
    assert '1.weight' in sp.report().iloc[-1].layer

class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.left,self.right = mlp(),mlp()

def changed_by(fn, net):
    before = everything(net)
    with pytest.raises(ArgumentError) as e: fn(net)
    assert not differing(everything(net), before)
    return str(e.value)

def test_what_cannot_be_told_changes_nothing():
    ticket = ticket_of(mlp())
    assert "with 'left.' as with 'right.'" in changed_by(ticket.onto, Twins())
    assert 'one prefix more or less' in changed_by(ticket.onto, nn.Linear(3,3))
    assert 'one prefix more or less' in changed_by(lambda net: ticket.onto(net, but=['1','3','5']), mlp())
    assert "but='head'" in changed_by(lambda net: ticket.onto(net, but='head'), mlp())
    assert 'but=7' in changed_by(lambda net: ticket.onto(net, but=7), mlp())
    assert 'tensors' in changed_by(lambda net: ticket.onto(net, tensors={}), mlp())
    sp,said = onto(ticket, twins:=Twins(), but='left')
    assert set(sp.masks)=={f'right.{k}' for k in ticket.masks} and not said

@given(st.integers(1, 6), st.integers(1, 6), st.booleans())
@settings(max_examples=15)
def test_only_what_agrees_is_taken(n_out, n_hidden, prefix):
    "Any sizes: each tensor is the ticket's, or the model's own, to the bit"
    def net(hidden, out): return nn.Sequential(nn.Linear(4,3), nn.Linear(3,hidden), nn.Linear(hidden,out))
    ticket,model = ticket_of(net(3, 3), 50),net(n_hidden, n_out)
    outer = Wrapper(model) if prefix else model
    before,then = everything(model),masked(ticket.state, ticket.masks)
    onto(ticket, outer)
    for k,t in everything(model).items():
        assert torch.equal(bits(t), bits(then[k] if then[k].shape==t.shape else before[k])), k

def test_filters_take_their_followers_along():
    net = split()
    ticket = ticket_of(net, 50, granularity='filter', example=torch.randn(2,1,6,6))
    assert ticket.meta['followers']
    model = Wrapper(split(3))
    sp,_ = onto(ticket, model)
    opt = torch.optim.SGD(model.parameters(), lr=.1, momentum=.9)
    sp.watch(opt)
    for _ in range(2): train_step(model, opt, *(o if o.is_floating_point() else o%3 for o in batch()))
    zeros = {k for k,m in sp.held.items() if k not in sp.masks and not m.all()}
    assert zeros and all(k.startswith('backbone.0.') for k in zeros)
    for k,m in sp.held.items(): assert not model.get_parameter(k)[~m].count_nonzero()

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision(dtype):
    ticket,net = ticket_of(split()),split(3).to(dtype)
    sp,_ = onto(ticket, net)
    assert torch.equal(net[0][0].weight, ticket.state['0.0.weight'].to(dtype)) and not nonzero_pruned(sp)
