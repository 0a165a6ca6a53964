"Granularities on random layers of every type, against an oracle that goes through the weights one at a time"
import itertools, math, subprocess, sys

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn

from lottery_nb.granularity import (Units, all_granularities, check_granularity,
                                    filters_of, granularities_of, granularity,
                                    units_of)

# What goes together, written down once more and otherwise:
# the parts of a weight's index that its unit does not depend on.
SPATIAL = {1: ['w'], 2: ['h', 'w'], 3: ['d', 'h', 'w']}
CUTS = {1: dict(weight='', row='w', kernel='w'), 2: dict(weight='', column='h', row='w', kernel='hw'),
        3: dict(weight='', tube='d', column='h', row='w', frontal_plane='hw',
                vertical_plane='dh', horizontal_plane='dw', kernel='dhw')}
THROUGH = {1: {'': 'channel', 'w': 'filter'},
           2: {'': 'channel', 'h': 'vertical_slice', 'w': 'horizontal_slice', 'hw': 'filter'},
           3: {'': 'channel', 'd': 'depth_slice', 'h': 'vertical_slice', 'w': 'horizontal_slice', 'hw': 'frontal_block',
               'dh': 'vertical_block', 'dw': 'horizontal_block', 'dhw': 'filter'}}

def conv_table(n):
    "Name -> letters of the axes that go together, for a conv with `n` spatial axes"
    one = {**CUTS[n], **{name: 'i'+cut for cut,name in THROUGH[n].items()}}
    return {**one, **{f'shared_{k}': 'o'+v for k,v in one.items() if k!='filter'}, 'layer': 'oi'+''.join(SPATIAL[n])}

def together(layer, name):
    if isinstance(layer, nn.Linear): return dict(weight='', row='i', column='o', layer='oi')[name]
    if hasattr(layer, 'kernel_size'): return conv_table(len(layer.kernel_size))[name]
    if isinstance(layer, nn.Embedding): return dict(weight='', row='i', column='o', layer='oi')[name]
    return dict(weight='', layer='*')[name]

def unit_labels(layer, name):
    "For each weight, in order, the label of its unit"
    free, w, labels = together(layer, name), layer.weight, []
    for idx in itertools.product(*map(range, w.shape)):
        if not hasattr(layer, 'kernel_size') and not isinstance(layer, nn.Linear|nn.Embedding):
            labels.append('all' if free else idx); continue
        first, second, *inner = idx
        if getattr(layer, 'transposed', False): # [in, out/groups, …]: input i of all belongs to group i // (in/groups)
            per_group = layer.in_channels//layer.groups
            out, inp = first//per_group*w.shape[1] + second, first%per_group
        elif isinstance(layer, nn.Embedding): inp, out = first, second
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
    kind = draw(st.sampled_from([nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
                                 nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
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
    assert everything.dtype==torch.bool and everything.is_contiguous()
    assert everything.shape==units.shape and everything.all()
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
    assert torch.equal(units.kept(units.spread(keep).view_as(layer.weight)), keep)

@settings(max_examples=100, deadline=None)
@given(layers())
def test_names(layer):
    names = granularities_of(layer)
    assert len(names)==len(set(names)) and set(names) <= set(all_granularities())
    if isinstance(layer, nn.Linear|nn.Embedding): assert set(names)=={'weight','row','column','layer'}
    elif hasattr(layer, 'kernel_size'): assert set(names)==set(conv_table(len(layer.kernel_size)))
    else: assert names==['weight', 'layer']
    for name in set(all_granularities())-set(names):
        with pytest.raises(ValueError,
                           match=f'{name!r}: expected one that {type(layer).__name__} has: weight, .*layers=nn.'):
            units_of(layer, name)

@pytest.mark.parametrize('groups', [1, 2, 3])
@pytest.mark.parametrize('n', [1, 2, 3])
@pytest.mark.parametrize('transposed', [False, True])
def test_a_filter_is_what_makes_one_output(n, groups, transposed):
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{n}d")
    layer = kind(2*groups, 2*groups, 3, groups=groups, bias=False)
    units = filters_of(layer)
    assert units==units_of(layer, 'filter') and units.n==layer.out_channels
    x, whole = torch.randn(1, 2*groups, *[5]*n), layer.weight.detach().clone()
    before = layer(x)
    for i in range(units.n):
        with torch.no_grad(): layer.weight.copy_(whole*units.spread(torch.arange(units.n)!=i).view_as(whole))
        changed = (layer(x)-before).abs().amax([0, *range(2, n+2)]) > 0
        assert changed.tolist()==[j==i for j in range(units.n)]
        assert layer(x)[0,i].count_nonzero()==0

@pytest.mark.parametrize('layer', [nn.Conv2d(3,4,3), nn.ConvTranspose2d(3,4,3)])
def test_scores_in_another_memory_layout(layer):
    scores = torch.rand(layer.weight.shape)
    for name in granularities_of(layer):
        units = units_of(layer, name)
        assert torch.allclose(units.reduce(scores), units.reduce(scores.contiguous(memory_format=torch.channels_last)))

@pytest.mark.parametrize('shape, dims', [((2,3),(2,)), ((2,3),(-3,)), ((2,3),(0,0)), ((2,3),(1,-1)), ((),(0,))])
def test_impossible_units(shape, dims):
    with pytest.raises(ValueError, match='expected different axes'): Units(shape, dims)

@pytest.mark.parametrize('layer, name, error, message', [
    (nn.Linear(2,2), 'kernal', ValueError, 'expected one of weight, '),
    (nn.Linear(2,2), None, TypeError, 'expected one of weight, '),
    (nn.ReLU(), 'weight', ValueError, 'ReLU has: none, as it has no weight'),
    (nn.BatchNorm2d(2, affine=False), 'weight', ValueError, 'no weight'),
    (nn.LazyLinear(2), 'row', ValueError, 'has seen a batch')])
def test_errors(layer, name, error, message):
    with pytest.raises(error, match=message): units_of(layer, name)

def test_own_granularity():
    class Mine(nn.Linear): pass

    @granularity(nn.Linear)
    def pair(layer): return Units((*layer.weight.shape[:-1], layer.weight.shape[-1]//2, 2), (-1,))
    general = pair

    @granularity(Mine)
    def pair(layer): return Units(layer.weight.shape, (0,1))

    assert general(nn.Linear(4,3)).n==6
    assert units_of(nn.Linear(4,3), 'pair').n==6 and units_of(Mine(4,3), 'pair').n==1 # the nearest type wins
    assert 'pair' in all_granularities() and granularities_of(nn.Conv2d(2,2,2)).count('pair')==0
    with pytest.raises(ValueError, match='expected a shape for the 9 weights'): units_of(nn.Linear(3,3), 'pair')

    @granularity(nn.Linear)
    def nothing(layer): return None
    with pytest.raises(TypeError, match='nothing=None: expected a function that gives Units'):
        units_of(nn.Linear(3,3), 'nothing')

def test_own_granularity_for_every_layer_leaves_built_in_ones_alone():
    @granularity(nn.Module)
    def kernel(layer): return Units(layer.weight.shape, ())
    assert units_of(nn.Conv2d(2,2,2), 'kernel').size==4 and units_of(nn.Linear(2,2), 'kernel').size==1
    assert granularities_of(nn.Conv2d(2,2,2)).count('kernel')==1

@pytest.mark.parametrize('what', [len, nn.Linear(2,2), int, 'Linear'])
def test_registering_for_no_layer(what):
    with pytest.raises(TypeError, match='a type of layer'): granularity(what)

@pytest.mark.parametrize('name', ['filter', 'group'])
def test_registering_a_taken_name(name):
    def fn(layer): return Units(layer.weight.shape)
    fn.__name__ = name
    with pytest.raises(ValueError, match="a name that Conv2d doesn't have yet"): granularity(nn.Conv2d)(fn)

@pytest.mark.parametrize('name', ['2:', ':4', '-2:4', '2:4 ', '2:4:8', '²:4', '2:4\n', '', 'groups', (2,4)])
def test_an_unknown_name(name):
    with pytest.raises(ValueError if isinstance(name, str) else TypeError,
                       match='expected one of weight, .*, group, n:m'):
        check_granularity(name)

def test_granularities_of_later_parts_are_imported_when_asked_for():
    "In a process of its own, such as one that a pool begins: whatever imports them adds them"
    code = ["import sys", "from lottery_nb.granularity import units_class",
            "assert 'lottery_nb.channels' not in sys.modules",
            "print(*[units_class(o).__name__ for o in ('group', '2:4')])"]
    told = subprocess.run([sys.executable, '-c', '\n'.join(code)], capture_output=True, text=True)
    assert told.stdout=='ChannelUnits NofMUnits\n', told.stderr
