"Granularities on random layers of every type, against an oracle that goes through the weights one at a time"
import itertools, math, warnings

import pytest, torch
from fastai.learner import Learner
from hypothesis import given, settings, strategies as st
from models import methods, nets
from torch import nn

from lottery_nb.callback import SparsifyCallback
from lottery_nb.criteria import large_final, random_scores
from lottery_nb.data import digits_dls
from lottery_nb.granularity import Units, all_granularities, check_granularity, granularities, granularities_of, granularity, sparsity_limit, units_of
from lottery_nb.schedules import iterative
from lottery_nb.find import find_ticket
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket
from lottery_nb.arms import random_ticket

# What goes together, written down once more and otherwise: the parts of a weight's index that its unit does not depend on.
SPATIAL = {1: ['w'], 2: ['h', 'w'], 3: ['d', 'h', 'w']}
CUTS = {1: dict(weight='', row='w', kernel='w'), 2: dict(weight='', column='h', row='w', kernel='hw'),
        3: dict(weight='', tube='d', column='h', row='w', frontal_plane='hw', vertical_plane='dh', horizontal_plane='dw', kernel='dhw')}
THROUGH = {1: {'': 'channel', 'w': 'filter'}, 2: {'': 'channel', 'h': 'vertical_slice', 'w': 'horizontal_slice', 'hw': 'filter'},
           3: {'': 'channel', 'd': 'depth_slice', 'h': 'vertical_slice', 'w': 'horizontal_slice', 'hw': 'frontal_block',
               'dh': 'vertical_block', 'dw': 'horizontal_block', 'dhw': 'filter'}}

def conv_table(n):
    "Name -> letters of the axes that go together, for a conv with `n` spatial axes"
    one = {**CUTS[n], **{name: 'i'+cut for cut,name in THROUGH[n].items()}}
    return {**one, **{f'shared_{k}': 'o'+v for k,v in one.items() if k!='filter'}, 'layer': 'oi'+''.join(SPATIAL[n])}

def together(layer, name):
    if isinstance(layer, nn.Linear): return dict(weight='', row='i', column='o', layer='oi')[name]
    if hasattr(layer, 'kernel_size'): return conv_table(len(layer.kernel_size))[name]
    return dict(weight='', layer='*')[name]

def unit_labels(layer, name):
    "For each weight, in order, the label of its unit"
    free, w, labels = together(layer, name), layer.weight, []
    for idx in itertools.product(*map(range, w.shape)):
        if not hasattr(layer, 'kernel_size') and not isinstance(layer, nn.Linear):
            labels.append('all' if free else idx); continue
        first, second, *inner = idx
        if getattr(layer, 'transposed', False): # [in, out/groups, …]: input i of all belongs to group i // (in/groups)
            per_group = layer.in_channels//layer.groups
            out, inp = first//per_group*w.shape[1] + second, first%per_group
        else: out, inp = first, second
        parts = dict(o=out, i=inp, **dict(zip(SPATIAL.get(len(inner), []), inner)))
        labels.append(tuple(v for k,v in parts.items() if k not in free))
    return labels

def slow_reduce(scores, labels):
    "Label -> mean score"
    units = {}
    for s,label in zip(scores.flatten().tolist(), labels): units.setdefault(label, []).append(s)
    return {label: math.fsum(v)/len(v) for label,v in units.items()}

small = st.integers(1, 3)

@st.composite
def layers(draw):
    kind = draw(st.sampled_from([nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
                                 nn.Embedding, nn.BatchNorm2d, nn.LayerNorm]))
    if kind in (nn.Linear, nn.Embedding): return kind(draw(st.integers(1,6)), draw(st.integers(1,6)))
    if kind is nn.BatchNorm2d: return kind(draw(st.integers(1,6)))
    if kind is nn.LayerNorm: return kind([draw(small), draw(small)])
    groups = draw(small)
    kernel = tuple(draw(small) for _ in range(int(kind.__name__[-2])))
    return kind(groups*draw(small), groups*draw(small), kernel, groups=groups)

@st.composite
def layers_with_name(draw):
    layer = draw(layers())
    return layer, draw(st.sampled_from(granularities_of(layer)))

@settings(max_examples=300, deadline=None)
@given(layers_with_name())
def test_units_partition_the_weight(case):
    layer, name = case
    units, numel = units_of(layer, name), layer.weight.numel()
    assert units.n*units.size == numel == math.prod(units.shape)
    everything = units.spread(torch.ones(units.n, dtype=torch.bool))
    assert everything.dtype==torch.bool and everything.is_contiguous() and everything.shape==units.shape and everything.all()
    assert not units.spread(torch.zeros(units.n, dtype=torch.bool)).any()
    covered = torch.zeros(numel, dtype=torch.int)
    for i in range(units.n):
        one = units.spread(torch.arange(units.n)==i)
        assert one.sum()==units.size
        covered += one.flatten()
    assert (covered==1).all()

@settings(max_examples=300, deadline=None)
@given(layers_with_name(), st.integers(0, 2**31))
def test_against_the_slow_oracle(case, seed):
    layer, name = case
    units, labels, g = units_of(layer, name), unit_labels(layer, name), torch.Generator().manual_seed(seed)
    scores = torch.rand(layer.weight.shape, generator=g, dtype=torch.float64)
    means = units.reduce(scores)
    expected = slow_reduce(scores, labels)
    assert means.shape==(units.n,) and len(expected)==units.n
    assert torch.allclose(means.sort().values, torch.tensor(sorted(expected.values()), dtype=torch.float64))
    # the mean that every weight sees is the mean of its own unit
    which = torch.stack([units.spread(torch.arange(units.n)==i).flatten() for i in range(units.n)]).int().argmax(0)
    assert torch.allclose(means[which], torch.tensor([expected[label] for label in labels], dtype=torch.float64))
    # and what is kept of a unit is kept of all its weights
    keep = torch.rand(units.n, generator=g) < .5
    kept = dict(zip(labels, units.spread(keep).flatten().tolist()))
    assert [kept[label] for label in labels] == units.spread(keep).flatten().tolist() == keep[which].tolist()

@settings(max_examples=100, deadline=None)
@given(layers())
def test_names(layer):
    names = granularities_of(layer)
    assert len(names)==len(set(names)) and set(names) <= set(all_granularities())
    if isinstance(layer, nn.Linear): assert set(names)=={'weight','row','column','layer'}
    elif hasattr(layer, 'kernel_size'): assert set(names)==set(conv_table(len(layer.kernel_size)))
    else: assert names==['weight', 'layer']
    for name in set(all_granularities())-set(names):
        with pytest.raises(ValueError, match=f'{name!r}: {type(layer).__name__} has weight, .*layers=nn.'): units_of(layer, name)

@pytest.mark.parametrize('n, expected', [(1,8), (2,16), (3,32)])
def test_every_subset_of_the_axes_has_a_name(n, expected):
    layer = getattr(nn, f'Conv{n}d')(2, 2, 2)
    assert {units_of(layer, name).dims for name in granularities_of(layer)} == {d for k in range(n+3) for d in itertools.combinations(range(n+2), k)}
    assert len({units_of(layer, name).dims for name in granularities_of(layer)})==expected

@pytest.mark.parametrize('groups', [1, 2, 3])
@pytest.mark.parametrize('n', [1, 2, 3])
@pytest.mark.parametrize('transposed', [False, True])
def test_a_filter_is_what_makes_one_output(n, groups, transposed):
    layer = getattr(nn, f"Conv{'Transpose' if transposed else ''}{n}d")(2*groups, 2*groups, 3, groups=groups, bias=False)
    units = units_of(layer, 'filter')
    assert units.n==layer.out_channels
    x, whole = torch.randn(1, 2*groups, *[5]*n), layer.weight.detach().clone()
    before = layer(x)
    for i in range(units.n):
        with torch.no_grad(): layer.weight.copy_(whole*units.spread(torch.arange(units.n)!=i).view_as(whole))
        changed = (layer(x)-before).abs().amax([0, *range(2, n+2)]) > 0
        assert changed.tolist()==[j==i for j in range(units.n)]
        assert layer(x)[0,i].count_nonzero()==0

def test_single_weights_cost_no_copy():
    layer = nn.Conv2d(3, 4, 1) # its kernels are single weights too
    for name in ('weight', 'kernel'):
        units, scores, keep = units_of(layer, name), torch.rand(4,3,1,1), torch.ones(12, dtype=torch.bool)
        assert units.reduce(scores).data_ptr()==scores.data_ptr() and units.spread(keep).data_ptr()==keep.data_ptr()

@pytest.mark.parametrize('layer', [nn.Conv2d(3,4,3), nn.ConvTranspose2d(3,4,3)])
def test_scores_in_another_memory_layout(layer):
    scores = torch.rand(layer.weight.shape)
    for name in granularities_of(layer):
        units = units_of(layer, name)
        assert torch.allclose(units.reduce(scores), units.reduce(scores.contiguous(memory_format=torch.channels_last)))

def test_subclasses_and_parametrized_layers():
    class Mine(nn.Conv2d): pass
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3,4,3))
    for layer in (Mine(3,4,3), normed): assert units_of(layer, 'filter')==units_of(nn.Conv2d(3,4,3), 'filter')

@pytest.mark.parametrize('shape, dims', [((2,3),(2,)), ((2,3),(-3,)), ((2,3),(0,0)), ((2,3),(1,-1)), ((),(0,))])
def test_impossible_units(shape, dims):
    with pytest.raises(ValueError, match='expected different axes'): Units(shape, dims)

@pytest.mark.parametrize('layer, name, error, message', [
    (nn.Linear(2,2), 'kernal', ValueError, 'expected one of weight, '), (nn.Linear(2,2), None, TypeError, 'expected one of weight, '),
    (nn.Linear(2,2), 'kernel', ValueError, 'Linear has weight, row, column, layer; choose layers that have it, e.g. layers=nn.Conv2d'),
    (nn.Conv2d(2,2,2), 'tube', ValueError, 'e.g. layers=nn.Conv3d'), (nn.ReLU(), 'weight', ValueError, 'ReLU has none, as it has no weight'),
    (nn.BatchNorm2d(2, affine=False), 'weight', ValueError, 'no weight'), (nn.LazyLinear(2), 'row', ValueError, 'no shape yet')])
def test_errors(layer, name, error, message):
    with pytest.raises(error, match=message): units_of(layer, name)

@pytest.fixture
def registry():
    before = {name: dict(fns) for name,fns in granularities.items()}
    yield granularities
    granularities.clear(); granularities.update(before)

def test_own_granularity(registry):
    class Mine(nn.Linear): pass

    @granularity(nn.Linear)
    def pair(layer): return Units((*layer.weight.shape[:-1], layer.weight.shape[-1]//2, 2), (-1,))
    general = pair

    @granularity(Mine)
    def pair(layer): return Units(layer.weight.shape, (0,1))

    assert general(nn.Linear(4,3)).n==6
    assert units_of(nn.Linear(4,3), 'pair').n==6 and units_of(Mine(4,3), 'pair').n==1 # the nearest type wins
    assert 'pair' in all_granularities() and granularities_of(nn.Conv2d(2,2,2)).count('pair')==0
    with pytest.raises(ValueError, match='Conv2d has weight, .*e.g. layers=nn.Linear'): units_of(nn.Conv2d(2,2,2), 'pair')
    with pytest.raises(ValueError, match='is no shape for the 9 weights'): units_of(nn.Linear(3,3), 'pair')

    @granularity(nn.Linear)
    def nothing(layer): return None
    with pytest.raises(TypeError, match='expected Units, got None'): units_of(nn.Linear(3,3), 'nothing')

def test_own_granularity_for_every_layer_leaves_built_in_ones_alone(registry):
    @granularity(nn.Module)
    def kernel(layer): return Units(layer.weight.shape, ())
    assert units_of(nn.Conv2d(2,2,2), 'kernel').size==4 and units_of(nn.Linear(2,2), 'kernel').size==1
    assert granularities_of(nn.Conv2d(2,2,2)).count('kernel')==1

def test_registering_again_replaces(registry):
    for dims in ((0,), (0,1)):
        @granularity(nn.Linear)
        def again(layer, dims=dims): return Units(layer.weight.shape, dims)
        assert units_of(nn.Linear(2,3), 'again').dims==dims

@pytest.mark.parametrize('what', [len, nn.Linear(2,2), int, 'Linear'])
def test_registering_for_no_layer(what):
    with pytest.raises(TypeError, match='expected a type of layer'): granularity(what)

def test_registering_a_taken_name():
    with pytest.raises(ValueError, match="Conv2d has a granularity 'filter' already"):
        @granularity(nn.Conv2d)
        def filter(layer): return Units(layer.weight.shape)

# n:m, against an oracle that goes through the groups one at a time

def slow_spared(scores, n, m):
    "Scores [lines, length] -> which stay: in every m along a line the n highest, of equal ones the later"
    stay = torch.zeros(scores.shape, dtype=torch.bool)
    for i,line in enumerate(scores.tolist()):
        for start in range(0, len(line), m):
            group = list(range(start, min(start+m, len(line))))
            for j in sorted(group, key=lambda j: (line[j], j))[-n:]: stay[i,j] = True
    return stay

def lines_of(layer, t):
    "A tensor of the weight's shape as lines along the inputs of one group: what is summed up for one output at one place"
    if getattr(layer, 'transposed', False): t = t.unflatten(0, (layer.groups, -1))
    return t.movedim(1, -1).flatten(0, -2)

n_and_m = st.integers(1, 40).flatmap(lambda m: st.tuples(st.integers(1, m), st.just(m)))

@st.composite
def layers_with_inputs(draw):
    if draw(st.booleans()): return nn.Linear(draw(st.integers(1, 90)), draw(st.integers(1, 5)))
    groups, kind = draw(small), draw(st.sampled_from([f'Conv{t}{d}d' for t in ('', 'Transpose') for d in (1, 2, 3)]))
    kernel = tuple(draw(st.integers(1, 2)) for _ in range(int(kind[-2])))
    return getattr(nn, kind)(groups*draw(st.integers(1, 20)), groups*draw(st.integers(1, 2)), kernel, groups=groups)

@settings(max_examples=200, deadline=None)
@given(layers_with_inputs(), n_and_m, st.sampled_from([0, 1, 3, 1000]), st.integers(0, 2**31))
def test_n_of_m_against_the_slow_oracle(layer, nm, spread, seed):
    (n, m), g = nm, torch.Generator().manual_seed(seed)
    units, keys = units_of(layer, f'{n}:{m}'), torch.randint(-spread, spread+1, layer.weight.shape, generator=g)
    spared = units.spared(keys.flatten()).reshape(layer.weight.shape)
    assert torch.equal(lines_of(layer, spared), slow_spared(lines_of(layer, keys), n, m))
    assert units.least==spared.sum() and units.size==1 and units.n==layer.weight.numel()
    assert units.meets_quota(spared.flatten()) and units.meets_quota(torch.ones(units.n, dtype=torch.bool))
    less = spared.flatten().clone()
    less[int(torch.randint(units.n, (), generator=g))] = False
    assert units.meets_quota(less)==torch.equal(less, spared.flatten())

def test_small_and_large_groups_agree():
    g = torch.Generator().manual_seed(0)
    for m in (1, 2, 31, 32, 33, 64):
        keys = torch.randint(0, 5, (50, m), generator=g)
        for n in {1, (m+1)//2, m}:
            units = Units((50,m), (), (n,m,1))
            assert torch.equal(units.spared(keys.flatten()).view(50, m), slow_spared(keys, n, m))

def test_a_quota_of_units_of_several_weights():
    "Pairs of outputs that go together, one of every two of them along the inputs"
    units = Units((2,2,4), (1,), (1,2,2))
    assert (units.n, units.size, units.least) == (8, 2, 4)
    spared = units.spared(torch.tensor([1,2,4,3, 5,5,0,9]))
    assert spared.int().tolist()==[0,1,1,0, 0,1,0,1]
    assert units.spread(spared).flatten(0,1).int().tolist()==[[0,1,1,0],[0,1,1,0],[0,1,0,1],[0,1,0,1]]

@pytest.mark.parametrize('layer', [nn.Conv2d(8,8,3,groups=8), nn.Linear(1,5), nn.Linear(2,5)])
def test_layers_with_too_few_inputs_lose_nothing(layer): assert units_of(layer, '2:4').least==layer.weight.numel()

@pytest.mark.parametrize('name', ['0:4', '5:4', '00:4', '02:4', '2:04', '0:0'])
def test_impossible_n_of_m(name):
    with pytest.raises(ValueError, match=f"'{name}': expected n:m with n from 1 to m, such as 2:4"): units_of(nn.Linear(8,8), name)

@pytest.mark.parametrize('name', ['2:', ':4', '-2:4', '2:4 ', '2 : 4', '2.0:4', '2:4:8', '²:4', '2/4', '2:4\n', ''])
def test_what_is_not_n_of_m_is_an_unknown_name(name):
    with pytest.raises(ValueError, match='expected one of weight, .*, or n:m, such as 2:4'): check_granularity(name)

@pytest.mark.parametrize('what', [None, 2, (2,4), b'2:4'])
def test_a_granularity_is_a_string(what):
    with pytest.raises(TypeError, match='expected one of weight, .*, or n:m'): check_granularity(what)

@pytest.mark.parametrize('layer', [nn.Embedding(8,8), nn.BatchNorm2d(8), nn.LayerNorm(8), nn.ReLU(), nn.BatchNorm2d(8, affine=False)])
def test_layers_without_inputs_have_no_n_of_m(layer):
    with pytest.raises(ValueError, match="'2:4': .* choose layers that have it, e.g. layers=nn.Linear"): units_of(layer, '2:4')

def test_a_lazy_layer_has_no_n_of_m_yet():
    with pytest.raises(ValueError, match='no shape yet'): units_of(nn.LazyLinear(8), '2:4')

@pytest.mark.parametrize('quota', [(0,4,1), (5,4,1), (2,4,2), (2,4,-3), (2,4,0)])
def test_impossible_quotas(quota):
    with pytest.raises(ValueError, match='quota'): Units((6,8), (0,), quota)

def test_subclasses_have_n_of_m_too():
    class Mine(nn.Linear): pass
    assert units_of(Mine(8,2), '1:4')==units_of(nn.Linear(8,2), '1:4')

# n:m in a Sparsifier: exact counts, nothing comes back, and in the end n of every m

def stays(layer, mask, n, m):
    "How many stay of every group along the inputs, filled up to m with nothing"
    lines = lines_of(layer, mask)
    return nn.functional.pad(lines.int(), (0, -lines.shape[-1]%m)).unflatten(-1, (-1, m)).sum(-1)

@settings(max_examples=60)
@given(nets(), st.sampled_from([(1,2), (2,4), (1,4), (3,4), (4,8), (3,7), (1,1)]), methods, st.lists(st.floats(0, 100), max_size=3), st.integers(0, 3))
def test_pruned_to_n_of_m(net, nm, method, shares, seed):
    n, m = nm
    limit = sparsity_limit(f'{n}:{m}')
    sp = Sparsifier(net, f'{n}:{m}', method, random_scores(seed=seed) if seed else large_final)
    before = sp.masks
    for sparsity in [*sorted(limit*o/100 for o in shares), limit]:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore') # a small percentage looks like a fraction
            masks = sp.sparsify(sparsity)
        most = {k: u.n-u.least for k,u in sp.units.items()}
        pruned = {k: int((~o).sum()) for k,o in masks.items()}
        if method=='global': assert sum(pruned.values())==min(round(sparsity/100*sum(o.numel() for o in masks.values())), sum(most.values()))
        else: assert pruned=={k: min(round(sparsity/100*o.numel()), most[k]) for k,o in masks.items()}
        for k,layer in sp.layers.items():
            assert not (masks[k] & ~before[k]).any()
            length = lines_of(layer, masks[k]).shape[-1]
            group = torch.tensor([min(m, length-i) for i in range(0, length, m)])
            assert (stays(layer, masks[k], n, m) >= group.clamp(max=n)).all()
            assert sp.weight(k)[~masks[k]].count_nonzero()==0
        before = masks
    if all(lines_of(o, sp.weight(k)).shape[-1]%m==0 for k,o in sp.layers.items()):
        assert masks.sparsity==pytest.approx(limit)
        for k,layer in sp.layers.items(): assert (stays(layer, masks[k], n, m)==n).all()

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('method', ['local', 'global'])
def test_2_4_keeps_the_larger_two_of_four_in_every_precision(dtype, method):
    torch.manual_seed(0)
    layer = nn.Conv2d(12, 5, 3).to(dtype)
    scores = layer.weight.detach().abs().clone()
    mask = Sparsifier(layer, '2:4', method).sparsify(50)['weight']
    assert torch.equal(lines_of(layer, mask), slow_spared(lines_of(layer, scores.double()), 2, 4))

def test_ties_go_by_position():
    layer = nn.Linear(8, 3)
    nn.init.ones_(layer.weight)
    assert Sparsifier(layer, '2:4').sparsify(50)['weight'].int().tolist()==[[0,0,1,1]*2]*3
    nn.init.ones_(layer.weight)
    assert Sparsifier(layer, '2:4').sparsify(25)['weight'].int().tolist()==[[0,0,1,1]*2, [0,0,1,1,1,1,1,1], [1]*8]

def test_falling_sparsity_brings_back_and_rises_again_to_n_of_m():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16,8), nn.Linear(8,4))
    sp = Sparsifier(net, '2:4')
    full, half = sp.sparsify(50), sp.sparsify(20)
    assert half.n_kept==half.n_weights-round(.2*half.n_weights) and all((half[k] | ~full[k]).all() for k in full)
    again = sp.sparsify(50)
    assert all((stays(sp.layers[k], again[k], 2, 4)==2).all() and not (again[k] & ~half[k]).any() for k in again)

@pytest.mark.parametrize('sparsity, name', [(50.1, '2:4'), (100, '1:4'), (66.68, '1:3'), (1, '1:1')])
def test_more_than_n_of_m_gives_is_an_error(sparsity, name):
    sp = Sparsifier(nn.Linear(12,4), name)
    with pytest.raises(ValueError, match=f'sparsity={sparsity:g}: expected at most .* percent: {name} keeps'): sp.sparsify(sparsity)
    with pytest.raises(ValueError, match=f'end_sparsity={sparsity:g}: expected at most'): SparsifyCallback(sparsity, name, 'global', large_final, iterative)
    assert not sp.has_pruned

def test_a_limit_may_be_given_to_two_digits(): assert Sparsifier(nn.Linear(12,4), '1:3').sparsify(66.67).n_kept==16

def test_nothing_is_rounded_up_under_n_of_m():
    with pytest.raises(ValueError, match='round_to=8: expected none with 2:4'): Sparsifier(nn.Linear(8,8), '2:4').sparsify(50, round_to=8)
    with pytest.raises(ValueError, match='round_to=8: expected none with 2:4'): SparsifyCallback(50, '2:4', 'global', large_final, iterative, round_to=8)

def test_masks_of_single_weights_are_no_masks_for_2_4():
    net = nn.Linear(64, 8)
    masks, before = Sparsifier(nn.Linear(64,8)).sparsify(80), net.weight.detach().clone()
    with pytest.raises(ValueError, match="masks: weight keeps fewer weights in a group than granularity='2:4' does"): Sparsifier(net, '2:4').put_on(masks)
    assert torch.equal(net.weight, before)

def test_a_search_for_2_4_says_at_once_what_is_too_much():
    def never(learn): raise RuntimeError('trained')
    def learner(): return Learner(digits_dls(bs=64), nn.Sequential(nn.Flatten(), nn.Linear(64,10)))
    with pytest.raises(ValueError, match=r'prune=20.0, rounds=10: sparsity=89.*: expected at most 50 percent'): find_ticket(learner, never, granularity='2:4')

def test_a_ticket_of_2_4_from_callback_and_search(tmp_path):
    def learner(): return Learner(digits_dls(bs=256), nn.Sequential(nn.Flatten(), nn.Linear(64,20), nn.ReLU(), nn.Linear(20,10)))
    learn, cb = learner(), SparsifyCallback(50, '2:4', 'global', large_final, iterative, start_epoch=1, lth=True, verbose=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(4, cbs=cb)
    found = find_ticket(learner, lambda learn: learn.fit(1), prune=[20,36,50], granularity='2:4', dir=tmp_path/'search', progress=False)
    for ticket in (cb.ticket, found.tickets[-1]):
        ticket.save(tmp_path/'ticket.safetensors')
        ticket = Ticket.load(tmp_path/'ticket.safetensors')
        assert ticket.meta['granularity']=='2:4' and ticket.sparsity==50
        for m in ticket.masks.values(): assert (m.unflatten(1, (-1,4)).sum(2)==2).all()
        sp = Sparsifier(learner().model, '2:4')
        sp.put_on(ticket.masks)
        assert sp.masks.digest()==ticket.masks.digest() and sp.report().kept.sum()==ticket.masks.n_kept
    assert random_ticket(learner().model, 50, seed=0, granularity='2:4').sparsity==50
