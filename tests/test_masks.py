"Masks: counting, comparing, naming, and putting them on to the last bit"
import copy, itertools, math, operator, pickle, subprocess, sys

import pytest, torch
from hypothesis import assume, given, settings, strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lottery_nb.core import ArgumentError
from lottery_nb.masks import Masks, keep_bits, unwrap, zero_pruned_
from models import ConvNet, bits, copied, differing, dtypes, masked

@st.composite
def masks_of(draw, min_layers=0):
    "Masks with random names, shapes (empty and 0-dimensional ones too) and bits"
    shapes = draw(st.dictionaries(st.text(min_size=1, max_size=6), st.lists(st.integers(0, 4), max_size=4),
                                  min_size=min_layers, max_size=4))
    g, keep = torch.Generator().manual_seed(draw(st.integers(0, 2**31))), draw(st.sampled_from([0., .2, .7, 1.]))
    return Masks({k: torch.rand(s, generator=g) < keep for k,s in shapes.items()})

def flags(masks): return [(k, o) for k,m in masks.items() for o in m.flatten().tolist()]

@given(masks_of())
def test_counting(masks):
    n, kept = len(flags(masks)), sum(o for _,o in flags(masks))
    assert (masks.n_weights, masks.n_kept)==(n, kept)
    assert math.isclose(masks.sparsity, 100*(n-kept)/n if n else 0, abs_tol=1e-9)
    assert math.isclose(masks.density, 100-masks.sparsity)
    df = masks.table()
    assert list(df.layer)==list(masks) and df.kept.sum()==kept and df.weights.sum()==n
    for row in df.itertuples():
        m = masks[row.layer].flatten().tolist()
        assert row.shape==tuple(masks[row.layer].shape) and row.kept==sum(m)
        if m: assert math.isclose(row.sparsity, 100*m.count(False)/len(m), abs_tol=1e-9)
    assert f'{n-kept:,} of {n:,}' in repr(masks)

@given(masks_of(min_layers=1), st.data())
def test_one_bit_makes_other_masks(masks, data):
    assume(masks.n_weights)
    other = Masks(copied(masks))
    assert other==masks and hash(other)==hash(masks) and other.digest()==masks.digest() and len({other, masks})==1
    k = data.draw(st.sampled_from([k for k,m in masks.items() if m.numel()]))
    i = data.draw(st.integers(0, masks[k].numel()-1))
    other[k].view(-1)[i] ^= True
    assert other!=masks and other.digest()!=masks.digest()

@given(masks_of())
def test_copies_are_equal_and_apart(masks):
    for other in (copy.deepcopy(masks), pickle.loads(pickle.dumps(masks)), Masks(dict(reversed(list(masks.items()))))):
        assert other==masks and other.digest()==masks.digest() and dict(other).keys()==dict(masks).keys()
    there = copy.deepcopy(masks)
    for m in there.values(): m.logical_not_()
    assert flags(there)==[(k, not o) for k,o in flags(masks)]

def test_digest_knows_names_and_shapes():
    m = torch.tensor([[True, False], [True, True]])
    all_of_them = [Masks(o) for o in ({'a': m}, {'b': m}, {'a': m.flatten()},
                                      {'a': m, 'b': m}, {'a': m.T}, {'a': m[:1], 'b': m[1:]}, {})]
    assert len({o.digest() for o in all_of_them})==len(all_of_them)

def test_digest_is_the_same_in_another_process():
    masks = Masks({k: torch.arange(n)%3==0 for k,n in (('b', 77), ('a', 8))})
    code = 'import pickle,sys; m = pickle.load(sys.stdin.buffer); print(m.digest(), hash(m)==hash(m.digest()))'
    out = subprocess.run([sys.executable, '-c', code], input=pickle.dumps(masks),
                         capture_output=True, check=True).stdout.decode()
    assert out.split()==[masks.digest(), 'True']

@st.composite
def alike(draw, n=2):
    "Some masks of the same layers and shapes"
    first, g = draw(masks_of(min_layers=1)), torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shares = [draw(st.sampled_from([0., .3, .5, 1.])) for _ in range(n-1)]
    return first, *(Masks({k: torch.rand(m.shape, generator=g) < o for k,m in first.items()}) for o in shares)

def places(masks): return {(k, i) for k,m in masks.items() for i,keep in enumerate(m.flatten().tolist()) if keep}

@given(alike(3))
def test_algebra(abc):
    a, b, c = abc
    before, everywhere = copy.deepcopy(a), places(a | ~a)
    for sign in (operator.and_, operator.or_, operator.sub): assert places(sign(a, b))==sign(places(a), places(b))
    assert places(~a)==everywhere-places(a) and len(everywhere)==a.n_weights
    assert ~(a & b)==~a | ~b and ~(a | b)==~a & ~b and ~~a==a # De Morgan
    assert a - b==a & ~b and (a & b) | (a - b)==a and a & (b | c)==(a & b) | (a & c)
    assert a==before and list(a & b)==list(a) and {m.dtype for m in (a - b).values()}=={torch.bool}

@given(alike(3))
def test_distances_against_sets(abc):
    a, b, c = abc
    x, y = places(a), places(b)
    assert a.iou(b)==b.iou(a)==pytest.approx(len(x & y)/len(x | y) if x | y else 1) and a.iou(a)==1
    assert a.hamming(b)==b.hamming(a)==pytest.approx(len(x ^ y)/a.n_weights if a.n_weights else 0) and a.hamming(a)==0
    assert a.hamming(c)<=a.hamming(b)+b.hamming(c)+1e-12
    assert a.hamming(b)==pytest.approx(((a - b) | (b - a)).n_kept/max(1, a.n_weights))
    if a.n_weights: assert a.hamming(~a)==1
    df, turned = a.overlap(b), b.overlap(a)
    assert list(df.columns)==['layer','weights','kept_a','kept_b','kept_both','iou','iou_by_chance',
                              'hamming','hamming_by_chance']
    swapped = turned.rename(columns=dict(kept_a='kept_b', kept_b='kept_a'))
    assert list(df.layer)==[*a, 'all'] and df.equals(swapped[[*df]])
    assert df[['weights','kept_a','kept_b','kept_both']].iloc[:-1].sum().equals(
        df[['weights','kept_a','kept_b','kept_both']].iloc[-1].astype(int))

def test_overlap_of_no_layers():
    row, = Masks({}).overlap(Masks({})).to_dict('records')
    assert (row['weights'], row['iou'], row['iou_by_chance'], row['hamming'])==(0, 1, 1, 0)

@pytest.mark.parametrize('n, kept_a, kept_b', [(5,2,3), (6,6,2), (4,0,2), (7,1,1)])
def test_hamming_by_chance_is_the_expected_distance(n, kept_a, kept_b):
    "Over every mask that keeps as many weights"
    def mask(kept): return torch.tensor([i in kept for i in range(n)])
    a = Masks({'w': mask(range(kept_a))})
    others = [Masks({'w': mask(o)}) for o in itertools.combinations(range(n), kept_b)]
    mean = sum(a.hamming(o) for o in others)/len(others)
    assert all(a.overlap(o).hamming_by_chance.tolist()==pytest.approx([mean]*2) for o in others)

def test_chance_against_a_monte_carlo():
    "Layers of other densities: chance knows each"
    g = torch.Generator().manual_seed(3)
    def drawn(): return Masks({k: torch.rand(n, generator=g).argsort()<d*n for k,n,d in [('a',900,.9), ('b',3000,.1)]})
    a = drawn()
    tables = [a.overlap(drawn()) for _ in range(300)]
    for k in ('iou','hamming'):
        found = sum(o[k] for o in tables)/len(tables)
        spread = (sum((o[k]-found)**2 for o in tables)/len(tables)**2)**.5 # of the mean
        assert ((found-tables[0][f'{k}_by_chance']).abs() <= 4*spread+1e-4).all()

others = dict(name=Masks({'v': torch.ones(2,3)>0}), shape=Masks({'w': torch.ones(3,2)>0}), more=Masks(
    {'w': torch.ones(2,3)>0, 'v': torch.ones(2,3)>0}), none=Masks({}))

@pytest.mark.parametrize('use', [operator.and_, operator.or_, operator.sub, Masks.iou, Masks.hamming, Masks.overlap])
@pytest.mark.parametrize('other', others)
def test_masks_of_another_model(use, other):
    a = Masks({'w': torch.ones(2,3)>0})
    with pytest.raises(ArgumentError, match='other=.*masks of the same model: .: .* in these masks'):
        use(a, others[other])

@pytest.mark.parametrize('sign', [operator.and_, operator.or_, operator.sub])
def test_what_is_no_masks(sign):
    a = Masks({'w': torch.ones(2)>0})
    for other in (5, {'w': torch.ones(2)>0}, dict(a), None, torch.ones(2)>0):
        with pytest.raises(TypeError): sign(a, other)
        with pytest.raises(TypeError): sign(other, a)

# What an edit has filled

@given(alike(), st.integers(0, 2**31))
def test_lost_in_counts_what_is_filled(ab, seed):
    masks, filled = (Masks({str(i): m for i,m in enumerate(o.values())}) for o in ab)
    net, g = nn.ParameterDict(), torch.Generator().manual_seed(seed)
    for k,m in masks.items(): net[k] = nn.Parameter(torch.randn(m.shape, generator=g)*(m | filled[k]))
    before = copied(net.state_dict())
    df, lost = masks.lost_in(net), filled - masks
    assert list(df.layer)==[*masks, 'all'] and not differing(net.state_dict(), before)
    assert list(df.pruned)==[*(int((~m).sum()) for m in masks.values()), masks.n_weights-masks.n_kept]
    assert list(df.lost)==[*(int(m.sum()) for m in lost.values()), lost.n_kept]
    assert list(df.share)==[n/m if m else 0 for n,m in zip(df.lost, df.pruned)]
    largest = [float(net[k][m].abs().max()) if m.any() else 0. for k,m in lost.items()]
    assert list(df.largest)==[*largest, max(largest)]
    masks.apply_(net)
    assert not masks.lost_in(net)[['lost','share','largest']].any(axis=None)

def test_lost_in_a_merged_lora_and_what_is_broken():
    net = ConvNet()
    masks = Masks({'head.weight': torch.arange(40).view(10,4)%2==0, 'up.weight': torch.ones(8,2,2,2)>0})
    masks.apply_(net)
    assert masks.lost_in(net).lost.tolist()==[0, 0, 0]
    net.head.weight.data += torch.ones(10,1) @ torch.tensor([[0., 2., 0., -3.]])
    assert masks.lost_in(nn.DataParallel(net)).iloc[0].tolist()==['head.weight', 20, 20, 1, 3]
    net.head.weight.data[0,1] = math.nan
    row = masks.lost_in(net).iloc[-1]
    assert row.lost==20 and math.isnan(row.largest)
    with pytest.raises(ArgumentError, match='masks of this model: head.weight: .* missing in the model'):
        masks.lost_in(net.head)

odd = torch.tensor([0., -0., 1., -1., math.nan, -math.nan, math.inf, -math.inf, 1e-45, -6e4, 1e-8, 3.])

@given(dtypes, st.integers(0, 2**31), st.sampled_from([(12,), (3,4), (1,12,1), (2,3,2,1)]),
       st.sampled_from(['as is', 'transposed', 'strided', 'channels_last']))
def test_zeroing_touches_no_other_bit(dtype, seed, shape, layout):
    w = odd.to(dtype).reshape(shape)
    if layout=='transposed': w = w.transpose(0, -1)
    if layout=='strided': w = torch.stack([w, w], -1)[...,0]
    if layout=='channels_last' and w.dim()==4: w = w.contiguous(memory_format=torch.channels_last)
    m = torch.rand(w.shape, generator=torch.Generator().manual_seed(seed)) < .5
    before = w.clone()
    assert zero_pruned_(w, keep_bits(m, w)) is w
    assert torch.equal(bits(w[m]), bits(before[m])) and bits(w[~m]).count_nonzero()==0

def averaged(net):
    "The average of a network's weights, which is `net` itself here"
    average = AveragedModel(net)
    average.module = net
    return average

@settings(max_examples=20)
@given(st.integers(0, 2**31), dtypes,
       st.sampled_from([lambda o: o, nn.DataParallel, lambda o: torch.compile(o, backend='eager'), averaged]))
def test_putting_them_on(seed, dtype, wrap):
    g, net = torch.Generator().manual_seed(seed), ConvNet().to(dtype)
    masks = Masks({k: torch.rand(p.shape, generator=g) < .5 for k,p in net.named_parameters()})
    before = copied(net.state_dict())
    assert unwrap(wrap(net)) is net
    model = wrap(net)
    assert masks.apply_(model) is model
    assert not differing(net.state_dict(), masked(before, masks))

def test_masks_of_a_tied_parameter_by_either_name():
    for name in ('0.weight', '1.weight'):
        net = nn.Sequential(nn.Linear(2,2), nn.Linear(2,2))
        net[1].weight = net[0].weight
        Masks({name: torch.zeros(2,2, dtype=torch.bool)}).apply_(net)
        assert net[0].weight.count_nonzero()==0
