"Scores at initialization against the papers' formulas in plain PyTorch, scores in steps, and the two experiments"
import copy, math, pickle, random, warnings
from itertools import product
import numpy as np, pytest, torch
import torch.nn.functional as F
from fastai.learner import Learner
from torch import nn
from torch.func import functional_call, grad, hessian

from lottery_nb.at_init import (AtInit, MissingTheMark, collapse, empty_layers, grasp, missing_the_mark, plot_collapse,
                                plot_missing, snip, synflow, verdicts)
from lottery_nb.callback import SparsifyCallback
from lottery_nb.core import ArgumentError, as_table, seed_of, seeded, table_columns
from lottery_nb.criteria import WeightView, criterion, inverted, large_final, movement, small_final, taylor
from lottery_nb.curves import Curve, lottery_curve
from lottery_nb.data import digits_dls
from lottery_nb.evidence import summarise
from lottery_nb.find import find_ticket
from lottery_nb.schedules import one_shot
from lottery_nb.sparsifier import Sparsifier, count_of
from lottery_nb.stacked import Stack, batch_orders
from models import ConvNet, batch, differing, everything, few_batches, masked, mlp, quiet

pytestmark = [pytest.mark.filterwarnings(f'ignore:{o}') for o in ('layer collapse', 'You are shadowing')]
of_data = pytest.mark.parametrize('name', ['snip', 'grasp', 'synflow'])

def scored(net, data, criterion, **kwargs):
    "The scores of every weight, name -> tensor"
    sp = Sparsifier(net, criteria=criterion, data=data, **kwargs)
    def view(k): return WeightView(k, sp.weight(k), **{need: o[k] for need,o in sp.gathered.items()})
    with sp.gathering(): return {k: sp.criterion.scores(view(k)) for k in sp.layers}

def small(bias=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(9,5,bias=bias), nn.Tanh(), nn.Linear(5,4,bias=bias))

def images(n=3): return [(torch.randn(8,1,3,3), torch.randint(0, 4, (8,))) for _ in range(n)]

# The papers' formulas

def test_snip_is_the_gradient_by_a_mask_over_all_batches():
    net,data = small(),images()
    weights = {k: p.detach() for k,p in net.named_parameters()}
    def loss(masks):
        now = weights | {k: masks[k]*weights[k] for k in masks}
        return torch.stack([F.cross_entropy(functional_call(net, now, (x,)), y) for x,y in data]).mean()
    expected = grad(loss)({k: torch.ones_like(weights[k]) for k in ('1.weight','3.weight')})
    found = scored(net, data, 'snip')
    for k,t in expected.items(): torch.testing.assert_close(found[k], t.abs())
    assert not torch.allclose(scored(net, data, 'snip', n_batch=1)['1.weight'], found['1.weight'], rtol=1e-3)

@pytest.mark.parametrize('temperature', [1., 200.])
def test_grasp_is_the_weight_times_what_the_hessian_makes_of_the_gradient(temperature):
    net,data = small().double(),[(x.double(), y) for x,y in images()]
    names = ['1.weight','3.weight']
    rest = {k: p.detach() for k,p in net.named_parameters() if k not in names}
    sizes = [net.get_parameter(k).numel() for k in names]
    w = torch.cat([net.get_parameter(k).detach().flatten() for k in names])
    def loss(w):
        now = rest | {k: o.view(net.get_parameter(k).shape) for k,o in zip(names, w.split(sizes))}
        return torch.stack([F.cross_entropy(functional_call(net, now, (x,))/temperature, y) for x,y in data]).mean()
    expected = w*(hessian(loss)(w) @ grad(loss)(w))
    found = torch.cat([scored(net, data, grasp(temperature=temperature))[k].flatten() for k in names])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    def flow(w): return grad(loss)(w).square().sum() # what GraSP wants to keep
    lost = torch.stack([flow(w)-flow(w-1e-5*o) for o in torch.diag(w)])/2e-5
    torch.testing.assert_close(found, lost, rtol=1e-2, atol=1e-3*float(lost.abs().max())) # the lowest cost least flow

def flow_by_hand(net, shape):
    "R and its scores: all weights absolute, ones going in, double precision"
    net = copy.deepcopy(net).double().eval()
    for p in [*net.parameters(), *net.buffers()]: p.data = p.data.abs()
    out = net(torch.ones(1, *shape).double()).sum()
    out.backward()
    return out.item(), {k: (p.grad*p.detach()).abs() for k,p in net.named_parameters() if p.grad is not None}

@pytest.mark.parametrize('net,shape', [(small(), (1,3,3)), (ConvNet(), (1,6,6))])
def test_synflow_is_the_papers_formula(net, shape):
    data = [(torch.randn(4, *shape), torch.zeros(4).long())]
    found,(_,expected) = scored(net, data, 'synflow'),flow_by_hand(net, shape)
    for k,t in found.items():
        assert t.dtype==torch.double and (t>=0).all()
        torch.testing.assert_close(t, expected[k])
    other = scored(net, [torch.full((2, *shape), 7.)], 'synflow') # the shape is all that is read
    assert not differing(found, other)

def chain(): # convolutions and layers without biases: homogeneous, BatchNorm in eval mode too
    return nn.Sequential(nn.Conv2d(1,6,3,padding=1,bias=False), nn.BatchNorm2d(6), nn.ReLU(),
                         nn.Conv2d(6,8,3,bias=False), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
                         nn.Linear(32,20,bias=False), nn.ReLU(), nn.Linear(20,10,bias=False))

def test_flow_is_conserved_every_layer_has_all_of_it():
    net = chain()
    R,_ = flow_by_hand(net, (1,6,6))
    sums = [t.sum().item() for t in scored(net, [torch.ones(1,1,6,6)], 'synflow').values()]
    assert len(sums)==4 and sums==pytest.approx([R]*4, rel=1e-10)
    Sparsifier(net, criteria='synflow', data=[torch.ones(1,1,6,6)]).sparsify(90) # and what is left of it, too
    sums = [t.sum().item() for t in scored(net, [torch.ones(1,1,6,6)], 'synflow').values()]
    assert sums==pytest.approx([sums[0]]*4, rel=1e-10) and sums[0]<.9*R

@pytest.mark.parametrize('seed', range(5))
def test_no_layer_is_emptied_up_to_the_highest_compression_there_is(seed):
    torch.manual_seed(seed)
    widths = [16, 40, 30, 40, 10]
    net = nn.Sequential(*[nn.Linear(a, b, bias=False) for a,b in zip(widths, widths[1:])])
    n = sum(p.numel() for p in net.parameters())
    data,how = [torch.ones(1,16)],dict(allow_collapse=True)
    sp = Sparsifier(copy.deepcopy(net), criteria='synflow', data=data, **how)
    masks = sp.sparsify(100*(n-len(net))/n)
    assert [int(m.count_nonzero()) for m in masks.values()]==[1]*len(net)
    assert flow_by_hand(sp.model, (16,))[0]>0 # and they are one path
    at_once = Sparsifier(copy.deepcopy(net), criteria=synflow(n_iter=1), data=data, **how).sparsify(100*(n-len(net))/n)
    assert any(not m.any() for m in at_once.values())

def test_a_hundred_steps_are_those_of_the_paper():
    net = nn.Sequential(nn.Linear(16,30), nn.ReLU(), nn.Linear(30,10))
    weights = {k: p for k,p in net.named_parameters() if k.endswith('weight')}
    masks = {k: torch.ones_like(p) for k,p in weights.items()}
    by_hand,n = copy.deepcopy(net),sum(p.numel() for p in weights.values())
    for i in range(1, 101):
        _,scores = flow_by_hand(by_hand, (16,))
        flat = torch.cat([scores[k].flatten() for k in weights])
        left = torch.ones(n).scatter_(0, flat.argsort(stable=True)[:n-round(n*.05**(i/100))], 0)
        masks = dict(zip(weights, left.split([p.numel() for p in weights.values()])))
        with torch.no_grad():
            for k,m in masks.items(): by_hand.get_parameter(k).mul_(m.view(by_hand.get_parameter(k).shape))
    found = Sparsifier(net, criteria='synflow', data=[torch.ones(1,16)]).sparsify(95)
    for k,m in found.items(): assert torch.equal(m.flatten(), masks[k]>0)

# Nothing of yours is touched

@of_data
def test_only_pruned_weights_change(name):
    net = ConvNet().train()
    for p in net.parameters(): p.grad = torch.ones_like(p)
    before,state = everything(net),(torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    masks = Sparsifier(net, criteria=name, data=[batch(seed=i) for i in range(3)]).sparsify(70)
    assert masks.n_weights-masks.n_kept==count_of(70, masks.n_weights)
    assert differing(everything(net), masked(before, masks))==[]
    assert net.training and all((p.grad==1).all() for p in net.parameters())
    assert torch.equal(state[0], torch.get_rng_state()) and state[1]==random.getstate()
    assert state[2]==np.random.get_state()[1].tolist()

@of_data
def test_in_a_callback_and_in_a_search(name):
    cb = SparsifyCallback(60, 'weight', 'global', name, one_shot, verbose=False)
    quiet(Learner(few_batches(), mlp(), F.cross_entropy)).fit(2, cbs=cb)
    assert cb.masks.sparsity==pytest.approx(60, abs=.01)
    def learner(): return quiet(Learner(few_batches(), mlp(), F.cross_entropy))
    search = find_ticket(learner, lambda learn: learn.fit(1), rounds=2, prune=50, criteria=name)
    assert [t.masks.n_kept for t in search.tickets]==[50200, 25100, 12550]

def test_without_data_there_is_an_error_that_says_what_is_missing():
    for name,what in dict(snip='data_grad', grasp='grad_flow', synflow='flow').items():
        with pytest.raises(ArgumentError, match=f'data=None.*{name} needs {what}.*give a Sparsifier `data`'):
            Sparsifier(mlp(), criteria=name)
    with pytest.raises(ArgumentError, match='batches that the model takes'):
        Sparsifier(mlp(), criteria='synflow', data=[torch.ones(1,7)]).sparsify(50)
    with pytest.raises(ArgumentError, match='temperature=0'):
        Sparsifier(mlp(), criteria=grasp(temperature=0), data=few_batches()).sparsify(50)
    class Pair(nn.Linear):
        def forward(self, x): return super().forward(x),x
    with pytest.raises(ArgumentError, match='one tensor'):
        Sparsifier(nn.Sequential(Pair(4,4)), criteria='synflow', data=[torch.ones(1,4)]).sparsify(50)

@of_data
def test_in_a_curve(name):
    how = dict(n_step=4, when='init', arms='ticket', progress=False)
    df,tickets = lottery_curve(mlp, digits_dls(), [3], prune=[50, 90], criteria=name, keep='tickets', **how)
    assert sorted(set(df.density.round(3)))==[10, 50, 100]
    c = Curve(mlp, digits_dls(), [3], prune=[50, 90], criteria=name, **how)
    sp = Sparsifier(c.network(3), criteria=name, data=c.next_batches(3, 0, 0))
    assert sp.sparsify(90)==tickets[3,2].masks

# Scores in steps

def by_steps(n, calls, fn=lambda w: w.final.abs()):
    "A criterion that scores anew in `n` steps, and tells what it saw"
    @criterion
    def stepwise(w, *, n_iter=n):
        calls.append((w.name, w.final.clone()))
        return fn(w)
    return stepwise

def test_each_step_sees_what_the_last_one_left():
    calls = []
    net = nn.Sequential(nn.Linear(20,30), nn.ReLU(), nn.Linear(30,10))
    sp = Sparsifier(net, criteria=by_steps(5, calls, lambda w: -w.final.abs()))
    calls.clear()
    sp.sparsify(90)
    seen = [(a[1],b[1]) for a,b in zip(calls[::2], calls[1::2])]
    left = [sum(int(t.count_nonzero()) for t in o) for o in seen]
    assert left==[900, *(round(900*.1**(i/5)) for i in range(1,5))]
    for a,b in zip(seen, seen[1:]):
        for t,u in zip(a, b): assert ((u==t) | (u==0)).all()
    assert sp.masks.n_kept==90
    calls.clear()
    before = sp.masks
    sp.sparsify(95) # from there on in five steps again
    assert (sp.masks-before).n_kept==0 and sp.masks.n_kept==45
    assert sum(int(t.count_nonzero()) for _,t in calls[2:4])==round(90*.5**(1/5))

def test_steps_that_change_nothing_give_the_masks_of_one():
    for how in (dict(), dict(granularity='row'), dict(method='local'), dict(method='erk'), dict(granularity='2:4')):
        nets = [nn.Sequential(nn.Linear(20,32), nn.ReLU(), nn.Linear(32,8)) for _ in range(2)]
        nets[1].load_state_dict(nets[0].state_dict())
        a,b = (Sparsifier(net, criteria=c, **how) for net,c in zip(nets, (large_final, by_steps(7, []))))
        for amount in (40, 50) if 'granularity' in how else (40, 77.7, {'0': 80, 'total': 85}, 97):
            assert a.sparsify(amount)==b.sparsify(amount)
        assert not differing(everything(nets[0]), everything(nets[1]))

def test_more_may_stay_to_fill_up_a_multiple():
    net = nn.Sequential(nn.Linear(20,32), nn.ReLU(), nn.Linear(32,8))
    sp = Sparsifier(net, 'row', criteria=by_steps(6, [], lambda w: -w.final.abs()))
    masks = copy.deepcopy(sp).sparsify(50)
    up = sp.sparsify(50, round_to=4)
    assert (masks-up).n_kept==0 and all(int(m.any(1).sum())%4==0 for m in up.values())

def test_it_is_all_or_nothing():
    net = nn.Sequential(nn.Linear(20,30), nn.ReLU(), nn.Linear(30,10))
    calls = []
    def fails_late(w): return w.final.abs() if len(calls)<7 else w.final*math.nan
    sp = Sparsifier(net, criteria=by_steps(5, calls, fails_late))
    calls.clear()
    before = everything(net)
    with pytest.raises(ValueError, match='NaN'): sp.sparsify(90)
    assert len(calls)==7 and not differing(everything(net), before) and not sp.has_pruned and sp.asked==0

def test_a_gradient_of_yours_is_there_in_all_steps():
    @criterion(needs='grad')
    def late(w, *, n_iter=3): return (w.grad*w.final).abs()
    net = nn.Sequential(nn.Linear(4,3))
    F.cross_entropy(net(torch.randn(5,4)), torch.zeros(5).long()).backward()
    other = copy.deepcopy(net)
    other[0].weight.grad = net[0].weight.grad.clone()
    assert Sparsifier(net, criteria=late).sparsify(50)==Sparsifier(other, criteria='taylor').sparsify(50)

def test_data_are_read_twice_at_most():
    reads = []
    def data():
        reads.append(1)
        return [batch(seed=i) for i in range(2)]
    sp = Sparsifier(ConvNet(), criteria=snip(n_iter=20), data=data)
    sp.sparsify(50)
    assert len(reads)==2 and sp.batches is None
    sp.sparsify(60)
    assert len(reads)==4

def test_a_number_of_steps_is_a_whole_number():
    for n in (0, 1.5, True, '3'):
        with pytest.raises(ArgumentError, match='n_iter'): Sparsifier(mlp(), criteria=by_steps(n, []))
        with pytest.raises(ArgumentError, match='n_iter'):
            Sparsifier(mlp(), criteria=synflow(n_iter=n), data=[torch.ones(1,64)])
    assert (synflow.n_iter, snip.n_iter, grasp.n_iter, large_final.n_iter)==(100, 1, 1, 1)
    assert synflow(n_iter=3).n_iter==3 and repr(synflow(n_iter=3))=='synflow(n_iter=3)'

# Inverted scores

def test_inverted_scores_keep_the_rest():
    net = nn.Sequential(nn.Linear(20,30), nn.ReLU(), nn.Linear(30,10))
    nets = [copy.deepcopy(net) for _ in range(2)]
    kept = [Sparsifier(o, criteria=c).sparsify(50) for o,c in zip(nets, (large_final, inverted(large_final)))]
    assert kept[1]==~kept[0]
    assert Sparsifier(copy.deepcopy(net), criteria=small_final).sparsify(30)==\
           Sparsifier(copy.deepcopy(net), criteria=inverted('large_final')).sparsify(30)

def test_an_inverted_criterion_is_one_like_any_other():
    upside_down = inverted(grasp(temperature=10.))
    assert upside_down!=grasp(temperature=10.) and inverted(upside_down)==grasp(temperature=10.)
    assert upside_down==inverted(grasp(temperature=10.)) and hash(upside_down)==hash(inverted(grasp(temperature=10.)))
    assert repr(upside_down)=='inverted(grasp(temperature=10.0))' and upside_down.needs==grasp.needs
    for o in (upside_down, inverted(movement), inverted(synflow)):
        for back in (pickle.loads(pickle.dumps(o)), copy.deepcopy(o)): assert back==o and back.needs==o.needs
    assert inverted(synflow).n_iter==100
    with pytest.raises(ArgumentError, match='criterion='): inverted('snp')
    net = small()
    data = images()
    a,b = scored(net, data, grasp(temperature=10.)),scored(net, data, upside_down)
    for k in a: assert torch.equal(a[k], -b[k])

# The experiments

def tiny(): return nn.Sequential(nn.Flatten(), nn.Linear(64,20), nn.ReLU(), nn.Linear(20,10))
QUICK = dict(n_step=12, eval_every=6, progress=False)

@pytest.fixture(scope='module')
def collapsed():
    return collapse(tiny, digits_dls(), dict(random='random', snip='snip', erk=('random','erk')), [1, 2.5], seeds=[0,3],
                    **QUICK)

def test_a_collapse_has_every_arm_at_every_compression(collapsed):
    trained = collapsed[~collapsed.metric.str.startswith('kept')]
    found = trained.groupby(['arm','round'])
    assert list(found.groups)==[('dense',0), *((k,r) for k in ('erk','random','snip') for r in (1,2))]
    for (arm,r),o in found:
        assert list(o.seed.unique())==[0,3] and set(o.step)=={0,6,12} and set(o.metric)=={'accuracy','valid_loss'}
        assert o.density.nunique()==1
        assert o.density.iloc[0]==pytest.approx((100, 10, 500/1480)[r])
    assert collapsed.attrs['criteria']['erk']==['random_scores', 'erk']
    assert not trained.duplicated(['arm','seed','round','step','metric']).any()

def test_a_network_of_it_is_what_plain_pytorch_makes_of_it(collapsed):
    c = AtInit(tiny, digits_dls(), 'snip', [1], seeds=[3], **QUICK)
    (x,y),(vx,vy) = c.parts['train'],c.parts['valid']
    for arm,r,sparsity in (('dense',0,0), ('snip',1,90)):
        net = c.network(3)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed_of(3, 'masks')))[:480].split(60)
        if r: masks = Sparsifier(net, criteria=taylor, data=[(x[o], y[o]) for o in order]).sparsify(sparsity)
        opt = torch.optim.Adam(net.parameters(), c.lr)
        for (rows,),_ in zip(batch_orders([seed_of(3, 'order', 0)], len(x), 60), range(12)):
            opt.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            opt.step()
            if r: masks.apply_(net)
        rows = collapsed[(collapsed.arm==arm) & (collapsed['round']==r) & (collapsed.seed==3) & (collapsed.step==12)]
        with torch.no_grad(): out = net(vx)
        value = rows.set_index('metric').value
        assert value.valid_loss==pytest.approx(F.cross_entropy(out, vy).item(), rel=1e-4)
        assert value.accuracy==pytest.approx((out.argmax(1)==vy).float().mean().item(), abs=.01)

def test_weights_that_are_kept_are_counted_layer_by_layer(collapsed):
    kept = collapsed[collapsed.metric.str.startswith('kept in ')]
    assert set(kept.metric)=={'kept in 1.weight', 'kept in 3.weight'} and set(kept.step)=={0}
    sums = kept.groupby(['arm','seed','round']).value.sum()
    for (_,_,r),n in sums.items(): assert n==1480-count_of((90, 100-100/10**2.5)[r-1], 1480)
    table = empty_layers(collapsed)
    assert sorted(set(table.compression))==[1, 2.47] and table.emptied.between(0, 1).all()
    for o in table.itertuples():
        rows = kept[(kept.arm==o.arm) & (kept['round']==o.round) & (kept.metric==f'kept in {o.layer}')]
        assert o.emptied==(rows.value==0).mean()

def test_replicates_have_masks_of_their_own_and_are_what_they_are_alone(collapsed):
    kept = collapsed[(collapsed.arm=='random') & (collapsed.metric=='kept in 3.weight') & (collapsed['round']==1)]
    assert kept.value.nunique()==2
    alone = collapse(tiny, digits_dls(), 'snip', [1, 2.5], seeds=[3], **QUICK)
    both = collapsed[collapsed.seed==3].merge(alone, on=['arm','seed','round','step','metric'])
    assert len(both)==len(alone) and np.allclose(both.value_x, both.value_y, atol=.01)
    at_once = AtInit(tiny, digits_dls(), 'snip', [2.5], seeds=[3], **QUICK)
    assert at_once.first_masks['snip'][3][0]==AtInit(tiny, digits_dls(), 'snip', [1, 2.5], seeds=[3],
                                                      **QUICK).first_masks['snip'][3][1]

@pytest.fixture(scope='module')
def missed():
    return missing_the_mark(tiny, digits_dls(), ['snip','random'], [1], seeds=3, **QUICK)

def test_each_criterion_has_its_tests_beside_masks_from_after_training(missed):
    assert list(missed.columns)==['criterion', *table_columns]
    assert list(missed.criterion.unique())==['snip', 'random', 'after training']
    arms = ['dense', 'ticket', 'reinit', 'shuffle', 'inverted scores']
    for _,o in missed.groupby('criterion'): assert list(o.arm.unique())==arms and set(o.seed)=={0,1,2}
    dense = [o[o.arm=='dense'].value.tolist() for _,o in missed.groupby('criterion')]
    assert dense[0]==dense[1]==dense[2]
    told = verdicts(missed)
    assert len(told)==3*len(arms) and told.finding[told.criterion=='snip'].str.startswith('snip: at ').all()
    one = summarise(missed[missed.criterion=='random']).set_index('arm')
    assert told[told.criterion=='random'].set_index('arm').difference.equals(one.difference)

def test_what_the_arms_of_a_criterion_begin_with():
    c = MissingTheMark(tiny, digits_dls(), 'large_final', [1], seeds=[0,1], **QUICK)
    nets = {s: c.network(s) for s in c.seeds}
    found = {k: o for k,_,o in c.arms_of('large_final', c.ways['large_final'], nets)}
    for s in c.seeds:
        ticket,reinit,shuffle,turned = (found[k][s] for k in ('ticket','reinit','shuffle','inverted scores'))
        masks = Sparsifier(c.network(s)).sparsify(90)
        assert ticket.masks==masks==reinit.masks!=shuffle.masks
        assert [m.count_nonzero() for m in masks.values()]==[m.count_nonzero() for m in shuffle.masks.values()]
        assert turned.masks==Sparsifier(c.network(s), criteria=small_final).sparsify(90)
        state = {k: p.detach() for k,p in c.network(s).named_parameters()}
        for t in (ticket, shuffle, turned):
            assert not differing(t.state, masked(state, t.masks))
        assert not torch.equal(reinit.state['1.weight'], ticket.state['1.weight'])

def test_a_replicate_that_breaks_is_left_out_with_all_that_comes_of_it():
    def wild():
        net = tiny()
        if torch.rand(())<.5: net[3].weight.data *= 1e38
        return net
    c = AtInit(wild, digits_dls(), 'random', [1], **QUICK)
    broken = [s for s in range(6) if c.network(s)[3].weight.abs().max()>1e30]
    assert 0<len(broken)<6
    with pytest.warns(UserWarning, match=f'seed {broken[0]}, dense, round 0: the loss'):
        df = missing_the_mark(wild, digits_dls(), 'random', [1], seeds=6, **QUICK)
    last = df[(df.step==12) & (df.metric=='accuracy')]
    fine = [s for s in range(6) if s not in broken]
    assert list(last[last.arm=='dense'].seed.unique())==fine
    assert list(last[last.criterion=='after training'].seed.unique())==fine

def test_a_first_network_of_nan_is_left_out_of_all_arms():
    def hollow():
        net = tiny()
        if torch.initial_seed()==hurt: net[1].weight.data.fill_(torch.nan)
        return net
    for call,seed in product((collapse, missing_the_mark), (0, 1)):
        with seeded(seed, 'init'): hurt = torch.initial_seed()
        with pytest.warns(UserWarning, match=f'seed {seed}, dense, round 0: .* at step 0: .*from all arms'):
            df = call(hollow, digits_dls(), ['snip','large_final'], [1], seeds=3, **QUICK)
        assert set(df.seed)=={0, 1, 2}-{seed} and df.value.notna().all()

@pytest.mark.parametrize('name', ['movement','magnitude_increase','updating_movement'])
def test_after_training_the_first_weights_are_those_before_it(name):
    c = MissingTheMark(tiny, digits_dls(), 'random', [.5], trained=name, seeds=1, **QUICK)
    first,net = c.network(0),c.network(0)
    with torch.no_grad():
        for p in net.parameters(): p += torch.randn(p.shape)
    masks, = c.masks_of(net, c.after['after training'], 0)
    sp = Sparsifier(first, criteria=name, method='global', allow_collapse=True)
    with torch.no_grad():
        for p,q in zip(first.parameters(), net.parameters()): p.copy_(q)
    assert masks==sp.sparsify(c.sparsities[0])

@pytest.mark.parametrize('call,match', [
    (lambda: collapse(tiny, digits_dls(), 'snp'), "criteria='snp'"),
    (lambda: collapse(tiny, digits_dls(), []), 'criteria=.*at least one'),
    (lambda: collapse(tiny, digits_dls(), dict(dense='snip')), "none called 'dense'"),
    (lambda: collapse(tiny, digits_dls(), dict(a=('snip','globl'))), "method='globl'"),
    (lambda: collapse(tiny, digits_dls(), compression=[2,1]), 'compression=.*that rise'),
    (lambda: collapse(tiny, digits_dls(), compression=0), 'compression=0'),
    (lambda: collapse(tiny, digits_dls(), compression=400), 'compression=400'),
    (lambda: collapse(tiny, digits_dls(), dict(a=('snip','global',3))), 'criteria='),
    (lambda: missing_the_mark(tiny, digits_dls(), {'after training': 'snip'}), "none called 'after training'"),
    (lambda: collapse(tiny, digits_dls(), compression=[]), 'compression='),
    (lambda: collapse(tiny, digits_dls(), seeds=0), 'seeds=0'),
    (lambda: collapse(tiny, digits_dls(), n_batch=0), 'n_batch=0'),
    (lambda: collapse(tiny, digits_dls(), batch_seeds=0), 'batch_seeds=0'),
    (lambda: collapse(tiny, digits_dls(), n_steps=3), 'n_steps=3.*n_step'),
    (lambda: collapse(tiny(), digits_dls()), 'a function without arguments'),
    (lambda: collapse(tiny, digits_dls(), layers='2'), "layers='2'"),
    (lambda: missing_the_mark(tiny, digits_dls(), trained='snp'), "trained='snp'"),
    (lambda: missing_the_mark(tiny, digits_dls(), trained=('snip','globl')), "trained='globl'"),
    (lambda: missing_the_mark(tiny, digits_dls(), 'random', trained=('snip','lamp')), "trained=.*inverted.*lamp"),
    (lambda: missing_the_mark(tiny, digits_dls(), dict(a=('snip','lamp'))), "criteria='a': .*inverted.*lamp"),
    (lambda: collapse(tiny, digits_dls(), 'random', n_batch='8'), "n_batch='8'"),
    (lambda: collapse(tiny, digits_dls(), compression=16), 'compression=16: .*at most 15'),
    (lambda: empty_layers(as_table([])), 'it has no rows'), (lambda: plot_collapse(None), 'df=None'),
    (lambda: empty_layers(as_table([dict.fromkeys(table_columns, 0) | dict(metric='loss')])), 'a table of `collapse`'),
])
def test_bad_input_raises_before_anything_is_trained(call, match, monkeypatch):
    def never(*args, **kwargs): raise AssertionError('trained')
    monkeypatch.setattr(Stack, 'train', never)
    with pytest.raises(ArgumentError, match=match): call()

def test_figures(collapsed, missed, tmp_path):
    fig = plot_collapse(collapsed)
    named = [o.get_text() for o in fig.axes[0].get_legend().texts]
    assert len(fig.axes)==2 and set(named)=={'dense networks','random masks','snip','erk'}
    fig.savefig(tmp_path/'collapse.png')
    fig = plot_missing(missed)
    assert len(fig.axes)==1
    assert [o.get_text() for o in fig.axes[0].get_legend().texts]==['fresh weights','shuffled masks','inverted scores']
    fig.savefig(tmp_path/'missing.png')

def test_figures_of_what_is_left(collapsed, missed):
    "All seeds of an arm may be lost, and nothing may be kept"
    for gone in ((missed.arm=='reinit') & (missed.criterion==missed.criterion.iloc[-1]), missed.arm=='inverted scores'):
        assert len(plot_missing(missed[~gone | (missed['round']>1)]).axes)==missed['round'].max()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        df = collapse(tiny, digits_dls(), 'random', [1,15], seeds=2, **QUICK)
        ax = plot_collapse(df).axes[0]
    dense = next(o for o in ax.lines if o.get_label()=='dense networks')
    assert dense.get_xdata().tolist()==pytest.approx([0,1], abs=.01)

def test_the_bar_comes_to_its_end():
    told = []
    collapse(tiny, digits_dls(), 'random', [1], seeds=2, n_step=6, progress=lambda *o: told.append(o))
    assert [o[0] for o in told]==sorted(o[0] for o in told) and told[-1][:2]==(24, 24)
