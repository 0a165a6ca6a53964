"The Sparsifier on random networks against a slow oracle, held against optimizers, rewound, copied and moved"
import copy, math, pickle, warnings
from fractions import Fraction

import pytest, torch
from hypothesis import assume, example, given, settings, strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.prune import random_unstructured

import lottery_nb.calibration # noqa: F401, its criteria
from lottery_nb.core import ArgumentError
from lottery_nb.criteria import WeightView, criteria, criterion, needs
from lottery_nb.granularity import all_granularities
from lottery_nb.masks import Masks, named_tensors
from lottery_nb.sparsifier import Sparsifier, keep_highest, sort_keys_
from models import (ConvNet, batch, copied, differing, everything, masked,
                    methods, mlp, nets, nonzero_pruned, same_bits, sparsities,
                    train_step)
from test_granularity import unit_labels

names = all_granularities()
quiet = pytest.mark.filterwarnings('ignore:layer collapse', 'ignore:asked for')

# The oracle: exact fractions, Python's stable sort, and one unit after the other

def lowest_first(scores, sizes, budget):
    "Positions (layer, unit) of what goes: the lowest in a stable sort, each that still fits"
    gone = set()
    for _,i,u in sorted((s, i, u) for i,layer in enumerate(scores) for u,s in enumerate(layer)):
        if sizes[i]>budget: continue
        budget -= sizes[i]
        gone.add((i, u))
    return gone

def exact_units(layer, granularity):
    """For each weight the number of its unit, in the order in which the units begin,
    and each unit's mean magnitude as a fraction"""
    number, members = {}, {}
    for label,w in zip(unit_labels(layer, granularity), layer.weight.flatten().tolist()):
        members.setdefault(number.setdefault(label, len(number)), []).append(Fraction(w))
    which = [number[o] for o in unit_labels(layer, granularity)]
    return which, [sum(map(abs, members[u]))/len(members[u]) for u in range(len(members))]

def slow_budgets(sp, sparsity):
    "How many weights of which layers go: under `local` each has its part of what is kept, the largest remainders more"
    n = {k: sp.weight(k).numel() for k in sp.layers}
    total = sum(n.values())
    budget = round(sparsity/100*total)
    if sp.method.name!='local': return [(list(n), budget)]
    exact = {k: Fraction((total-budget)*v, total) for k,v in n.items()}
    keeps = {k: math.floor(v) for k,v in exact.items()}
    for k in sorted(n, key=lambda k: keeps[k]-exact[k])[:total-budget-sum(keeps.values())]: keeps[k] += 1
    return [([k], n[k]-keeps[k]) for k in n]

def slow_masks(sp, sparsity):
    masks = {}
    for ks,budget in slow_budgets(sp, sparsity):
        units = [exact_units(sp.layers[k].layer, sp.granularity) for k in ks]
        sizes = [len(which)//len(means) for which,means in units]
        gone = lowest_first([means for _,means in units], sizes, budget)
        for i,(k,(which,_)) in enumerate(zip(ks, units)):
            masks[k] = torch.tensor([(i, u) not in gone for u in which]).reshape(sp.weight(k).shape)
    return Masks(masks)

def kept_units(sp, k):
    "Which units of a layer are kept, by the oracle's count. A unit that is kept in part is an error"
    which, means = exact_units(sp.layers[k].layer, sp.granularity)
    kept = {}
    for u,o in zip(which, sp.masks[k].flatten().tolist()): kept.setdefault(u, set()).add(o)
    assert all(len(o)==1 for o in kept.values())
    return [kept[u]=={True} for u in range(len(means))]

def kept_state(sp, p, state):
    "What an optimizer knows of a parameter, but nothing of its pruned weights"
    m = next((m for k,m in sp.masks.items() if sp.weight(k) is p), None)
    return {k: t if m is None or t.shape!=m.shape else t.masked_fill(~m, 0) for k,t in state[p].items()}

@pytest.mark.parametrize('granularity', names)
@settings(max_examples=12)
@given(st.data(), methods, sparsities)
def test_against_the_slow_oracle(granularity, data, method, sparsity):
    net = data.draw(nets(granularity))
    before, layers = copied(net.state_dict()), copied(dict(net.named_parameters()))
    sp = Sparsifier(net, granularity, method, allow_collapse=True)
    expected = slow_masks(sp, sparsity)
    masks = sp.sparsify(sparsity)
    assert masks==expected==sp.masks
    assert not differing(net.state_dict(), masked(before, expected))
    assert layers.keys()==dict(net.named_parameters()).keys() and sp.asked==sparsity
    report = sp.report()
    assert list(report.units_kept)==[sum(kept_units(sp, k)) for k in sp.layers]
    assert list(report.kept)==[int(m.sum()) for m in masks.values()]

@quiet
def test_of_equal_weights_a_layer_keeps_the_one_that_would_go_last():
    "Ties go by position, so the best of a layer of equals is its last: at once as step by step"
    net = nn.Sequential(nn.Linear(5,4), nn.Linear(4,10))
    for p in net.parameters(): nn.init.ones_(p)
    at_once, in_steps = Sparsifier(copy.deepcopy(net)).sparsify(40), Sparsifier(net)
    for s in (5, 10, 20, 30, 40): in_steps.sparsify(s)
    assert in_steps.masks['0.weight'].flatten().nonzero().tolist()==[[19]]
    assert at_once==in_steps.masks

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
tricky = st.sampled_from([0., -0., 1e-45, -1e-45, 1., 1+2**-23, -1., -1-2**-23, 3.4e38, -3.4e38, 1.1754944e-38])

@settings(max_examples=200)
@given(st.lists(st.tuples(st.lists(floats | tricky, min_size=1, max_size=12), st.integers(1, 5)),
                min_size=1, max_size=4), st.floats(0, 1),
       st.sampled_from([torch.float32, torch.float64]))
@example([([-0., 0., -0., 0.], 1)], .5, torch.float32)
@example([([1e-45, 0., -1e-45], 2), ([0.], 3)], .7, torch.float32)
@example([([1.], 3), ([2.], 1)], .5, torch.float64)
def test_selection_of_any_floats(layers, share, dtype):
    scores, sizes = [torch.tensor(s, dtype=dtype) for s,_ in layers], [size for _,size in layers]
    budget = round(share*sum(len(s)*size for s,size in layers))
    kept = keep_highest([sort_keys_(s.clone()) for s in scores], sizes, budget)
    gone = lowest_first([s.tolist() for s in scores], sizes, budget)
    assert [k.tolist() for k in kept]==[[(i, u) not in gone for u in range(len(s))] for i,s in enumerate(scores)]

def test_selection_among_millions():
    g = torch.Generator().manual_seed(0)
    scores = [torch.randint(-2, 3, (n,), generator=g).float() for n in (5_000_000, 4_200_000, 7)]
    flat = torch.cat(scores)
    for share in (.1, .5, .97):
        keep = torch.ones(len(flat), dtype=torch.bool)
        budget = round(share*len(flat))
        keep[flat.sort(stable=True).indices[:budget]] = False
        assert torch.equal(torch.cat(keep_highest([sort_keys_(s.clone()) for s in scores], [1]*3, budget)), keep)

# In the course of a run

@st.composite
def rising(draw): return sorted(draw(st.lists(sparsities, min_size=2, max_size=4)))

def shaken(net, seed):
    "All parameters somewhere else"
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters(): p.copy_(torch.randn(p.shape, generator=g))

@quiet
@pytest.mark.parametrize('granularity', names)
@settings(max_examples=8)
@given(st.data(), methods, rising(), st.booleans())
def test_what_is_pruned_stays_pruned(granularity, data, method, steps, collapse):
    "Whatever units are rounded to, which may change on the way"
    net = data.draw(nets(granularity, ties=False))
    sp, before = Sparsifier(net, granularity, method, allow_collapse=collapse), None
    for i,s in enumerate(steps):
        shaken(net, i) # pruned weights too: nobody has held them
        masks = sp.sparsify(s, data.draw(st.none() | st.integers(1, 8)))
        if before: assert not any((masks[k] & ~before[k]).any() for k in masks)
        assert nonzero_pruned(sp)==0
        assert masks.n_weights-masks.n_kept <= round(s/100*masks.n_weights)
        before = masks

@quiet
@settings(max_examples=60)
@given(st.sampled_from(names).flatmap(lambda g: st.tuples(st.just(g), nets(g))),
       methods, sparsities, st.none() | st.integers(1, 4), st.booleans())
def test_once_more_changes_nothing(case, method, sparsity, round_to, collapse):
    granularity, net = case
    sp = Sparsifier(net, granularity, method, allow_collapse=collapse)
    first = sp.sparsify(sparsity, round_to)
    weights = everything(net)
    assert sp.sparsify(sparsity, round_to)==first and not differing(everything(net), weights)
    sp.apply()
    assert not differing(everything(net), weights)

@quiet
@settings(max_examples=60)
@given(st.sampled_from(names).flatmap(lambda g: st.tuples(st.just(g), nets(g))), methods, sparsities, sparsities)
def test_falling_sparsity(case, method, a, b):
    "Weights come back, exactly as many as asked for, at 0, and what was kept is kept"
    granularity, net = case
    low, high = sorted((a, b))
    assume(low<high)
    other = copy.deepcopy(net)
    sp = Sparsifier(net, granularity, method, allow_collapse=True)
    up, weights = sp.sparsify(high), everything(net)
    down = sp.sparsify(low)
    for k in up: assert not (up[k] & ~down[k]).any()
    assert not differing(everything(net), weights)
    budget, gone = round(low/100*down.n_weights), down.n_weights-down.n_kept
    assert gone==budget if granularity=='weight' else gone<=budget
    sizes = [sp.units.size(k) for k in down]
    assert gone>budget-(sum(sizes) if method=='local' else max(sizes))
    again = Sparsifier(other, granularity, method, allow_collapse=True)
    again.sparsify(high)
    assert again.sparsify(low)==down

def test_a_failed_mask_leaves_the_old_one():
    net = mlp()
    sp = Sparsifier(net, method='local')
    masks = sp.sparsify(30)
    net[5].weight.data[0,0] = math.inf
    before = everything(net)
    with pytest.raises(ValueError, match='5.weight'): sp.sparsify(60)
    assert sp.masks is masks and sp.asked==30 and not differing(everything(net), before)

# A layer about to lose everything

@st.composite
def to_collapse(draw):
    "A network with a layer so small in magnitude that it goes first"
    granularity = draw(st.sampled_from([o for o in names if o!='layer']))
    net = draw(nets(granularity, ties=draw(st.booleans())))
    with torch.no_grad(): net[0].weight.mul_(0 if draw(st.booleans()) else 2**-12)
    return granularity, net

@quiet
@settings(max_examples=100)
@given(to_collapse(), methods, st.sampled_from([50, 80, 95, 99, 100]))
def test_no_layer_is_emptied(case, method, sparsity):
    granularity, net = case
    free = Sparsifier(copy.deepcopy(net), granularity, method, allow_collapse=True)
    free.sparsify(sparsity)
    empty = {k for k,m in free.masks.items() if not m.any()}
    sp = Sparsifier(net, granularity, method)
    scores = {k: exact_units(m.layer, granularity)[1] for k,m in sp.layers.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        masks = sp.sparsify(sparsity)
    caught = [w for w in caught if not str(w.message).startswith('asked for')] # layers that small can miss it
    warned = {k for k in masks if any(f'{k} would lose all its weights' in str(w.message) for w in caught)}
    assert all(m.any() for m in masks.values()) and empty<=warned and len(warned)==len(caught)
    assert empty or not warned
    if not empty: assert masks==free.masks
    for k in warned:
        kept = kept_units(sp, k)
        assert max(s for s,o in zip(scores[k], kept) if o)==max(scores[k])
    gone, n = masks.n_weights-masks.n_kept, masks.n_weights
    if method=='global' and granularity=='weight': assert gone==min(round(sparsity/100*n), n-len(warned))
    if method=='global': assert gone<=round(sparsity/100*n)

def test_collapse_warns_once_a_layer_and_points_here():
    net = mlp()
    nn.init.constant_(net[5].weight, 1e-6)
    sp = Sparsifier(net)
    with pytest.warns(UserWarning, match='5.weight would lose all its weights') as caught: sp.sparsify(50)
    assert caught[0].filename==__file__
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        sp.sparsify(60)
        Sparsifier(mlp(), 'row', 'local').sparsify(90)

def test_a_layer_that_you_name_is_told_its_own_amount():
    with pytest.warns(UserWarning) as caught: Sparsifier(mlp(), 'row').sparsify({'5': 98})
    assert len(caught)==1 and "at 98 % sparsity 5.weight would lose" in str(caught[0].message)
    assert "method='local'" not in str(caught[0].message)

def test_a_layer_that_is_empty_already_stays_empty():
    "Masks of a collapsed network, found with allow_collapse, then pruned further without"
    net = mlp()
    nn.init.constant_(net[5].weight, 1e-6)
    found = Sparsifier(net, allow_collapse=True).sparsify(50)
    assert not found['5.weight'].any()
    sp = Sparsifier(net)
    sp.put_on(found)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        further = sp.sparsify(70)
    assert not any((further[k] & ~found[k]).any() for k in found)
    assert further.n_kept==further.n_weights-round(.7*further.n_weights)

@pytest.mark.parametrize('method', ['local', 'global'])
def test_whole_layers_may_go_where_layers_were_asked_for(method):
    net = nn.Sequential(nn.Linear(4,4), nn.Linear(4,4))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert Sparsifier(net, 'layer', method).sparsify(100).n_kept==0

# A multiple of so many

@pytest.mark.parametrize('net, how, sparsity, says', [
    (lambda: nn.Sequential(nn.Linear(4,4), nn.Linear(4,4)), ('layer','local'), 50, 'reached 0 %: a unit has up to 16'),
    (lambda: nn.Sequential(weight_norm(nn.Linear(8,16))), ('weight','local'), 95,
     'reached 87.5 %: 0.parametrizations.weight.original1 has to keep 16 of 128')])
def test_what_was_missed_is_told_once(net, how, sparsity, says):
    "More than a unit, and no other warning has said why"
    sp = Sparsifier(net(), *how)
    with warnings.catch_warnings(record=True, action='always') as told:
        for _ in range(2): sp.sparsify(sparsity)
    assert [f'asked for {sparsity} %, {says}' in str(o.message) for o in told]==[True] and told[0].filename==__file__

def test_what_a_unit_explains_is_not_told():
    with warnings.catch_warnings(action='error'):
        Sparsifier(nn.Sequential(nn.Linear(8,5), nn.Linear(5,3)), 'row').sparsify(50)
        Sparsifier(mlp()).sparsify(20)

@quiet
@settings(max_examples=60)
@given(st.sampled_from(names).flatmap(lambda g: st.tuples(st.just(g), nets(g))),
       methods, sparsities, st.integers(1, 5), st.booleans())
def test_round_to(case, method, sparsity, m, collapse):
    granularity, net = case
    free = Sparsifier(copy.deepcopy(net), granularity, method, allow_collapse=collapse)
    sp = Sparsifier(net, granularity, method, allow_collapse=collapse)
    scores = {k: exact_units(o.layer, granularity)[1] for k,o in sp.layers.items()}
    plain, rounded = free.sparsify(sparsity), sp.sparsify(sparsity, round_to=m)
    for k in plain:
        assert not (plain[k] & ~rounded[k]).any() # never more than asked for
        before, after = kept_units(free, k), kept_units(sp, k)
        assert sum(after)==min(-(-sum(before)//m)*m, len(after))
        kept, gone = [s for s,o in zip(scores[k], after) if o], [s for s,o in zip(scores[k], after) if not o]
        assert not kept or not gone or min(kept)>=max(gone)

def test_round_to_more_than_there_are():
    assert Sparsifier(mlp()).sparsify(50, round_to=10**400).sparsity==0

# Criteria

@quiet
@pytest.mark.parametrize('name', [k for k in criteria if k!='synflow']) # it scores anew on the way: test_at_init.py
@pytest.mark.parametrize('method', ['local', 'global'])
def test_every_criterion_prunes_exactly(name, method):
    net, (x,y) = ConvNet(), batch()
    from_data = dict(data=[(x,y)]) if any(needs[k].from_data for k in criteria[name].needs) else {}
    sp = Sparsifier(net, 'weight', method, name, **from_data)
    opt = torch.optim.SGD(net.parameters(), lr=.1, momentum=.9)
    sp.watch(opt)
    before = None
    for s in (0, 20, 47.5, 60):
        for _ in range(2): train_step(net, opt, x, y)
        nn.functional.cross_entropy(net(x), y).backward()
        with sp.gathering(): expected = {k: criteria[name].scores(view_of(sp, k)) for k in sp.layers}
        masks = sp.sparsify(s)
        opt.zero_grad()
        assert nonzero_pruned(sp)==0
        assert masks.n_weights-masks.n_kept==round(s/100*masks.n_weights)
        for k,m in masks.items() if method=='local' else ():
            assert abs(int(m.sum())-m.numel()*masks.density/100)<1
        for ks in ([[k] for k in masks] if method=='local' else [list(masks)]):
            was = {k: before[k] if before else torch.ones_like(masks[k]) for k in ks}
            kept, gone = [torch.cat([expected[k][was[k] & o] for k,o in which.items()]) for which in
                          ({k: masks[k] for k in ks}, {k: ~masks[k] for k in ks})]
            assert not len(gone) or kept.min()>=gone.max()
        before = masks

def view_of(sp, k):
    return WeightView(k, sp.weight(k).detach(), grad=sp.weight(k).grad,
                      **{need: at[k] for need,at in (sp.remembered | sp.gathered).items()})

def test_init_is_the_beginning_and_previous_the_last_mask():
    seen = {}
    @criterion(needs=('init', 'previous'))
    def spy(w):
        seen[w.name] = w.init.clone(), w.previous.clone()
        return w.final.abs()
    net = nn.Linear(4,4)
    at0, sp = net.weight.detach().clone(), Sparsifier(net, criteria=spy)
    for i in range(3):
        before = net.weight.detach().clone()
        shaken(net, i)
        sp.sparsify(20*i)
        assert torch.equal(seen['weight'][0], at0) and torch.equal(seen['weight'][1], before)

def test_layers_of_different_types_compete_fairly():
    net = nn.Sequential(nn.Linear(10,10, dtype=torch.float64), nn.Linear(10,10, dtype=torch.bfloat16),
                        nn.Linear(10,10, dtype=torch.float16), nn.Linear(10,10))
    flat = torch.cat([o.weight.detach().double().abs().flatten() for o in net])
    keep = torch.ones(400, dtype=torch.bool)
    keep[flat.sort(stable=True).indices[:200]] = False
    assert torch.equal(torch.cat([m.flatten() for m in Sparsifier(net).sparsify(50).values()]), keep)

# Held against optimizers

makers = dict(
    sgd=lambda p: torch.optim.SGD(p, lr=.1, momentum=.9, weight_decay=.01, nesterov=True),
    adamw=lambda p: torch.optim.AdamW(p, lr=.01, weight_decay=.1),
    amsgrad=lambda p: torch.optim.Adam(p, lr=.01, weight_decay=.1, amsgrad=True),
    foreach=lambda p: torch.optim.AdamW(p, lr=.01, foreach=True),
    fused=lambda p: torch.optim.AdamW(p, lr=.01, fused=True),
    rmsprop=lambda p: torch.optim.RMSprop(p, lr=.01, momentum=.9, centered=True),
    adagrad=lambda p: torch.optim.Adagrad(p, lr=.1))

@pytest.mark.parametrize('granularity', ['weight', 'filter'])
@pytest.mark.parametrize('maker', makers)
def test_pruned_weights_are_zero_after_every_step(maker, granularity):
    net, (x,y) = ConvNet(), batch()
    opt = makers[maker](net.parameters())
    for _ in range(3): train_step(net, opt, x, y) # momentum from before the pruning
    keys, ids = list(net.state_dict()), [id(p) for p in net.parameters()]
    sp = Sparsifier(net, granularity, layers=nn.Conv2d if granularity=='filter' else None)
    handle = sp.watch(opt)
    for s in (30, 60, 60):
        sp.sparsify(s)
        for _ in range(4):
            before = everything(net)
            train_step(net, opt, x, y)
            assert nonzero_pruned(sp)==0 and list(net.state_dict())==keys and [id(p) for p in net.parameters()]==ids
            for k,m in sp.masks.items(): assert (sp.weight(k)[m]!=before[k][m]).any() # the others learn on
    handle.remove()
    train_step(net, opt, x, y)
    assert nonzero_pruned(sp)>0 # nothing of it is left
    sp.apply()
    assert nonzero_pruned(sp)==0

def test_kept_weights_take_the_step_that_they_would_have_taken():
    net, (x,y) = ConvNet(), batch()
    sp = Sparsifier(net)
    sp.sparsify(50)
    free = copy.deepcopy(net)
    opts = [torch.optim.SGD(o.parameters(), lr=.1, momentum=.9, weight_decay=.1) for o in (net, free)]
    sp.watch(opts[0])
    for _ in range(3):
        for o,opt in zip((net, free), opts): train_step(o, opt, x, y)
        sp.masks.apply_(free)
        assert not differing(everything(net), everything(free))

@pytest.mark.parametrize('overflow', [False, True])
def test_grad_scaler(overflow):
    net, (x,y) = ConvNet(), batch()
    sp, opt = Sparsifier(net), torch.optim.SGD(net.parameters(), lr=.1, momentum=.9, weight_decay=.01)
    scaler = torch.amp.GradScaler('cpu', init_scale=2.**120 if overflow else 2.**10, growth_interval=2)
    sp.watch(opt)
    sp.sparsify(50)
    scales = set()
    for i in range(8):
        if i==4: sp.sparsify(75)
        with torch.autocast('cpu', dtype=torch.bfloat16): loss = nn.functional.cross_entropy(net(x).float(), y)
        scaler.scale(loss*(1e9 if overflow else 1)).backward()
        scaler.unscale_(opt)
        nn.utils.clip_grad_norm_(net.parameters(), 1.)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        scales.add(scaler.get_scale())
        assert nonzero_pruned(sp)==0 and all(torch.isfinite(p).all() for p in net.parameters())
    assert len(scales)>1

@pytest.mark.parametrize('base', [object, torch.optim.Optimizer])
def test_what_wraps_an_optimizer_is_looked_into(base):
    class Accelerated(base): # like Accelerate's, which is a torch optimizer but never calls `super().__init__()`
        def __init__(self, optimizer): self.optimizer = optimizer
        state,param_groups = (property(lambda self, k=k: getattr(self.optimizer, k)) for k in ('state','param_groups'))
    net, (x,y) = ConvNet(), batch()
    opt, sp = torch.optim.SGD(net.parameters(), lr=.1), Sparsifier(net)
    sp.watch(Accelerated(Accelerated(opt)))
    sp.sparsify(50)
    train_step(net, opt, x, y)
    assert nonzero_pruned(sp)==0

# Rewinding

def odd_buffers(net):
    with torch.no_grad():
        net.stem[1].running_mean[:3] = torch.tensor([math.nan, -0., math.inf])
        net.stem[0].bias[0] = -0.

@settings(max_examples=20)
@given(st.integers(0, 1000), sparsities, methods, st.sampled_from(['weight', 'layer']),
       st.sampled_from(['reset', 'restore', 'keep']))
@quiet
def test_rewinding_is_exact(seed, sparsity, method, granularity, how):
    torch.manual_seed(seed)
    net, (x,y) = ConvNet(), batch(seed=seed)
    opt = torch.optim.SGD(net.parameters(), lr=.1, momentum=.9, weight_decay=.01)
    sp = Sparsifier(net, granularity, method)
    sp.watch(opt)
    for _ in range(2): train_step(net, opt, x, y)
    odd_buffers(net)
    sp.save_weights(opt)
    at, ids = everything(net), {k: id(t) for k,t in named_tensors(net).items()}
    then = {p: copied(s) for p,s in opt.state.items()}
    for _ in range(2):
        net.stem[1].running_mean.nan_to_num_(0, 0, 0)
        train_step(net, opt, x, y)
    assert {'seen', 'stem.1.running_var', 'stem.1.num_batches_tracked',
            'scale', 'grouped.weight'} <= set(differing(everything(net), at))
    assert not differing(sp.snapshot, at) # a copy, and a dense one
    sp.sparsify(sparsity)
    now = {p: copied(s) for p,s in opt.state.items()}
    for _ in range(2): # twice as good as once
        sp.rewind(opt, how)
        assert not differing(everything(net), masked(at, sp.masks))
        assert ids=={k: id(t) for k,t in named_tensors(net).items()}
        want = dict(reset={}, restore=then, keep=now)[how]
        assert opt.state.keys()==want.keys()
        assert not [p for p in want if differing(opt.state[p], kept_state(sp, p, want))]
    net.stem[1].running_mean.nan_to_num_(0, 0, 0)
    train_step(net, opt, x, y)
    assert not differing(sp.snapshot, at) # training on has not written to it
    if how=='restore':
        sp.rewind(opt, how)
        assert not [p for p in then if differing(opt.state[p], kept_state(sp, p, then))]

def test_rewinding_what_has_been_moved():
    net = ConvNet()
    sp = Sparsifier(net)
    sp.save_weights()
    at = everything(net)
    net.double()
    sp.sparsify(50)
    shaken(net, 0)
    sp.rewind()
    expected = {k: t.to(named_tensors(net)[k].dtype) for k,t in masked(at, sp.masks).items()}
    assert not differing(everything(net), expected)

def test_rewinding_a_buffer_that_was_expanded():
    net = ConvNet()
    net.register_buffer('places', torch.zeros(1,4).expand(3,4))
    sp = Sparsifier(net)
    sp.save_weights()
    net.places[0] += 1
    shaken(net, 0)
    sp.rewind()
    assert not differing(everything(net), sp.snapshot) and net.places.stride()==(0,1)

def params_of(net): return list(net.parameters())

@pytest.mark.parametrize('other, how, says', [
    (lambda net: torch.optim.Adam(net.parameters()), 'restore', 'opt=.Adam of .*expected .*SGD of'),
    (lambda net: torch.optim.SGD([*net.stem.parameters(), *net.head.parameters()], lr=.1), 'restore', 'opt=.SGD of'),
    (lambda net: torch.optim.SGD([dict(params=params_of(net)[:2]), dict(params=params_of(net)[2:])], lr=.1),
     'restore', 'opt=.SGD of'),
    *[(lambda net: torch.optim.SGD(ConvNet().parameters(), lr=.1, momentum=.9), how, 'opt=.SGD.: expected .*this model')
      for how in ('reset', 'restore', 'keep')]])
def test_rewinding_with_an_optimizer_that_does_not_fit(other, how, says):
    net = ConvNet()
    sp, opt = Sparsifier(net), torch.optim.SGD(net.parameters(), lr=.1, momentum=.9)
    train_step(net, opt, *batch())
    sp.save_weights(opt)
    train_step(net, opt, *batch())
    wrong = other(net)
    for group in wrong.param_groups:
        for p in group['params']: wrong.state[p]['mine'] = torch.ones(2)
    before = everything(net)
    with pytest.raises(ValueError, match=says): sp.rewind(wrong, how)
    assert not differing(everything(net), before) and all('mine' in o for o in wrong.state.values()) and wrong.state

@pytest.mark.parametrize('coarser', [torch.half, torch.bfloat16])
def test_rewinding_does_not_round(coarser):
    net = ConvNet()
    sp = Sparsifier(net)
    sp.save_weights()
    shaken(net, 0)
    net.to(coarser)
    before = everything(net)
    with pytest.raises(ValueError, match='scale was torch.float32 .*would be rounded to'): sp.rewind()
    assert not differing(everything(net), before)

# Around it: names, wrappers, copies, types, devices

def test_the_model_stays_the_users():
    net, (x,y) = ConvNet(), batch()
    plain = copy.deepcopy(net)
    def look(o):
        modules = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._state_dict_hooks),
                    type(m)) for m in o.modules()]
        parameters = [(p.requires_grad, p.is_leaf, p._backward_hooks, type(p)) for p in o.parameters()]
        names = list(o.state_dict()), [n for n,_ in o.named_modules()], [n for n,_ in o.named_parameters()]
        return names, sorted(vars(o)), modules, parameters
    sp, opt = Sparsifier(net), torch.optim.SGD(net.parameters(), lr=.1)
    for act in (lambda: sp.watch(opt), lambda: sp.sparsify(50), lambda: sp.save_weights(opt),
                lambda: train_step(net, opt, x, y),
                sp.rewind, sp.apply, sp.report):
        act()
        assert look(net)==look(plain)
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain.eval()(x), net.eval()(x))

def test_a_tied_parameter_is_pruned_once():
    net = nn.ModuleDict(dict(emb=nn.Embedding(10,6), mid=nn.Linear(6,6), out=nn.Linear(6,10, bias=False)))
    net.out.weight = net.emb.weight
    net.again = nn.ModuleList([net.mid, net.out])
    sp = Sparsifier(net)
    assert sp.masks.n_weights==60+36 and sp.masks.n_kept==96
    sp.save_weights()
    at = everything(net)
    masks = sp.sparsify(50)
    assert masks.n_kept==48 and net.out.weight is net.emb.weight
    assert sum(int((p==0).sum()) for n,p in net.named_parameters() if 'bias' not in n)==48
    shaken(net, 0)
    sp.rewind()
    assert net.out.weight.count_nonzero()+net.mid.weight.count_nonzero()==48 and same_bits(net.mid.bias, at['mid.bias'])
    assert list(masks)==[k for k in masks if k in dict(net.named_parameters(remove_duplicate=False))]

@pytest.mark.parametrize('move', [nn.Module.double, nn.Module.half, nn.Module.bfloat16,
                                  lambda o: o.to(memory_format=torch.channels_last),
                                  lambda o: o.double().half().float(),
                                  lambda o: o.load_state_dict(ConvNet().state_dict(), assign=True)])
@pytest.mark.parametrize('when', ['before', 'between', 'twice'])
def test_moved_after_construction(move, when):
    net = ConvNet()
    sp = Sparsifier(net)
    if when=='before':
        move(net)
        sp.sparsify(50)
    else:
        sp.sparsify(30)
        move(net)
        if when=='twice': net.float()
    with torch.no_grad():
        for p in net.parameters(): p.copy_(torch.full_like(p, -math.inf))
    sp.apply()
    assert nonzero_pruned(sp)==0
    for k,m in sp.masks.items():
        assert (sp.weight(k)[m]==-math.inf).all() and sp.weight(k) is dict(net.named_parameters())[k]
    shaken(net, 0)
    assert sp.sparsify(60).n_kept==sp.masks.n_weights-round(.6*sp.masks.n_weights) and nonzero_pruned(sp)==0

@pytest.mark.parametrize('how', [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o)),
                                 lambda o: pickle.loads(pickle.dumps(o, 2))],
                         ids=['deepcopy', 'pickle', 'pickle as torch.save does'])
def test_copies_are_complete_and_apart(how):
    net, (x,y) = ConvNet(), batch()
    sp = Sparsifier(net, criteria='updating_movement', method='local')
    opt = torch.optim.SGD(net.parameters(), lr=.1, momentum=.9)
    sp.watch(opt)
    for _ in range(2): train_step(net, opt, x, y)
    sp.save_weights(opt)
    sp.sparsify(30)
    train_step(net, opt, x, y)
    before, masks = everything(net), sp.masks
    twin = how(sp)
    assert twin.masks==masks and twin.asked==30 and repr(twin)==repr(sp) and twin.criterion==sp.criterion
    assert all(twin.weight(k) is dict(twin.model.named_parameters())[k]
               and twin.weight(k) is not sp.weight(k) for k in sp.layers)
    assert not differing(twin.snapshot, sp.snapshot) and not differing(everything(twin.model), before)
    expected = copy.deepcopy(sp).sparsify(60)
    assert twin.sparsify(60)==expected and nonzero_pruned(twin)==0
    twin.rewind()
    assert not differing(everything(twin.model), masked(sp.snapshot, expected))
    assert sp.masks==masks and not differing(everything(net), before) and sp.asked==30
    assert sp.sparsify(60)==expected

@pytest.mark.parametrize('layers, expected', [
    (nn.Linear, ['head.weight']), ([nn.Conv2d, nn.Linear], ['stem.0.weight', 'grouped.weight', 'head.weight']),
    ((nn.ConvTranspose2d,), ['up.weight']),
    ('head', ['head.weight']), ('head.weight', ['head.weight']), ({'up', 'stem.0'}, ['stem.0.weight', 'up.weight']),
    (nn.BatchNorm2d, ['stem.1.weight']), ('s*', ['stem.0.weight']), ('*.weight', ['stem.0.weight', 'grouped.weight',
                                                                                 'up.weight', 'head.weight']),
    (lambda n,m: n.startswith('stem'), ['stem.0.weight']), (lambda n,m: isinstance(m, nn.Linear), ['head.weight']),
    (None, ['stem.0.weight', 'grouped.weight', 'up.weight', 'head.weight'])])
def test_choosing_layers(layers, expected):
    net = ConvNet()
    before = everything(net)
    sp = Sparsifier(net, layers=layers)
    assert list(sp.layers)==list(sp.masks)==expected
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        sp.sparsify(50)
    assert set(differing(everything(net), before))<=set(expected)

def test_the_users_random_numbers_are_left_alone():
    net = mlp()
    state = torch.random.get_rng_state()
    sp = Sparsifier(net, criteria='random')
    for s in (50, 20): sp.sparsify(s)
    assert torch.equal(torch.random.get_rng_state(), state)


# A network that is sparse already

@st.composite
def sparse_nets(draw, granularity='weight'):
    "A network with zeros at random places, some of them -0., and the masks of what isn't 0"
    net, g = draw(nets(granularity, ties=False)), torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    def drawn(w, share): return torch.rand(w.shape, generator=g) < share
    weights = {k: w.data for k,w in net.named_parameters() if w.dim()>1}
    for w in weights.values():
        w[drawn(w, draw(st.sampled_from([0., .3, .8, 1.])))] = 0
        w[(w==0) & drawn(w, .5)] = -0.
    return net, Masks({k: w!=0 for k,w in weights.items()})

@given(sparse_nets())
def test_masks_of_a_sparse_network(net_and_masks):
    net, expected = net_and_masks
    before = everything(net)
    assert Masks.from_model(net)==Masks.from_model(nn.DataParallel(net))==expected
    assert not differing(everything(net), before)

def test_masks_of_chosen_layers_and_of_a_dense_network():
    net = mlp()
    assert Masks.from_model(net).density==100 and list(Masks.from_model(net, '5'))==['5.weight']
    with pytest.raises(ArgumentError, match='layers=.fc.: expected layers of this model'): Masks.from_model(net, 'fc')
    with pytest.raises(ArgumentError, match='expected one with prunable weights'): Masks.from_model(nn.ReLU())

def test_masks_of_weights_that_are_computed():
    "Of torch's own pruning, also where its mask was loaded and nothing has run since"
    net, other = mlp(), mlp()
    for o in (net, other): random_unstructured(o[1], 'weight', amount=.7)
    nn.utils.parametrizations.weight_norm(net[3])
    expected = net[1].weight_mask>0
    other[1].load_state_dict(net[1].state_dict())
    for o in (net, other): assert torch.equal(Masks.from_model(o)['1.weight_orig'], expected)
    sp = Sparsifier(net, keep_zeros=True)
    assert torch.equal(sp.masks['1.weight_orig'], expected) and not nonzero_pruned(sp) and sp.masks['5.weight'].all()

@quiet
@settings(max_examples=30)
@given(sparse_nets(), methods, st.lists(sparsities, min_size=1, max_size=4))
def test_zeros_are_kept_whatever_is_asked(net_and_masks, method, asked):
    net, zeros = net_and_masks
    weights = {k: t.detach().clone() for k,t in net.named_parameters()}
    sp = Sparsifier(net, 'weight', method, keep_zeros=True, allow_collapse=True)
    assert sp.masks==zeros==sp.zeros and sp.has_pruned and math.isclose(sp.asked, zeros.sparsity)
    assert not nonzero_pruned(sp) and list(sp.report().kept)==[int(m.sum()) for m in zeros.values()]
    assert not [k for k,t in net.named_parameters() if not torch.equal(t, weights[k])] # -0.==0.
    for i,a in enumerate(asked):
        now = sp.sparsify(a)
        assert (now - zeros).n_kept==0 and not nonzero_pruned(sp) and sp.asked==a
        due, n = round(Fraction(str(float(a)))*zeros.n_weights/100), zeros.n_weights
        assert n-now.n_kept>=max(n-zeros.n_kept, due)
        if method=='global' or a==max(asked[:i+1]): assert n-now.n_kept==max(n-zeros.n_kept, due)
    sp.put_on(Masks({k: torch.ones_like(m) for k,m in zeros.items()}))
    assert sp.masks==zeros

@given(sparse_nets(), methods)
def test_kept_zeros_nest_while_sparsity_rises(net_and_masks, method):
    net, before = net_and_masks
    sp = Sparsifier(net, 'weight', method, keep_zeros=True, allow_collapse=True)
    for a in (20, 50, 85, 99):
        now = sp.sparsify(a)
        assert (now - before).n_kept==0
        before = now

@pytest.mark.parametrize('granularity', ['filter', 'kernel', 'row'])
@settings(max_examples=12)
@given(st.data(), methods, sparsities)
def test_scattered_zeros_of_larger_units(granularity, data, method, sparsity):
    "What's left is what the dense ranking of whole units leaves, without the zeros"
    net, zeros = data.draw(sparse_nets(granularity))
    sp = Sparsifier(net, granularity, method, keep_zeros=True, allow_collapse=True)
    units = [sp.units.of(k, zeros) for k in sp.units.names]
    whole = sum(int((~u.kept(m)).sum())*u.size for u,m in zip(sp.units.by_layer.values(), units))
    assert sp.masks==zeros and sp.asked==pytest.approx(100*whole/zeros.n_weights)
    now = sp.sparsify(sparsity)
    assert (now - zeros).n_kept==0 and not nonzero_pruned(sp)
    kept = {k: sp.units.kept(k, now) for k in sp.units.names}
    assert now==sp.units.masks(kept) & zeros
    gone = sum(int((~o).sum())*sp.units.size(k) for k,o in kept.items())
    if method=='global': assert gone<=max(whole, sparsity/100*zeros.n_weights+.5)

@pytest.mark.parametrize('opt', [lambda p: torch.optim.SGD(p, lr=.1, momentum=.9, weight_decay=.1),
                                 lambda p: torch.optim.AdamW(p, lr=.01, weight_decay=.1)])
def test_a_sparse_checkpoint_is_tuned_and_stays_sparse(opt):
    torch.manual_seed(0)
    net = mlp()
    came = Sparsifier(net, method='local').sparsify(70)
    net.load_state_dict(pickle.loads(pickle.dumps(net.state_dict())))
    sp, opt = Sparsifier(net, method='local', keep_zeros=True), opt(net.parameters())
    before = everything(net)
    sp.watch(opt)
    for _ in range(3): train_step(net, opt, torch.randn(8,64), torch.randint(0, 10, (8,)))
    assert came.lost_in(net).lost.tolist()==[0]*4 and sp.masks==came
    assert all((net.get_parameter(k)!=before[k])[m].any() for k,m in came.items())
    sp.save_weights(opt)
    now = sp.sparsify(90)
    train_step(net, opt, torch.randn(8,64), torch.randint(0, 10, (8,)))
    sp.rewind(opt)
    assert now.n_kept==50_200-round(.9*50_200) and (now - came).n_kept==0 and not nonzero_pruned(sp)
    assert copy.deepcopy(sp).zeros==pickle.loads(pickle.dumps(sp)).zeros==came

@quiet
@pytest.mark.parametrize('method', ['local', 'global'])
def test_what_comes_back_when_the_sparsity_falls_is_never_a_zero_of_the_model(method):
    net = mlp()
    came = Sparsifier(net, method='local').sparsify(60)
    sp = Sparsifier(net, 'weight', method, keep_zeros=True)
    n = {a: sp.sparsify(a).n_kept for a in (90, 75, 50)}
    assert n=={90: 5020, 75: 12_550, 50: came.n_kept} and sp.masks==came

def test_keep_zeros_of_a_dense_network():
    sp = Sparsifier(mlp(), keep_zeros=True)
    assert (sp.masks.sparsity, sp.asked, sp.has_pruned)==(0, 0, True)
    assert sp.sparsify(50)==Sparsifier(copy.deepcopy(sp.model)).sparsify(50)

def test_without_keep_zeros_nothing_is_kept():
    net = mlp()
    Sparsifier(net).sparsify(70)
    sp = Sparsifier(net)
    assert not sp.has_pruned and sp.zeros is None and sp.masks.density==100
