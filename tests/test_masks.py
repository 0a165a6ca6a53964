"Masks: counting, comparing, naming, and putting them on to the last bit"
import copy, math, pickle, subprocess, sys

import pytest, torch
from hypothesis import assume, given, settings, strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

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

@given(masks_of(min_layers=1), st.integers(0, 2**31))
def test_iou_against_sets(a, seed):
    g = torch.Generator().manual_seed(seed)
    b = Masks({k: torch.rand(m.shape, generator=g) < .5 for k,m in a.items()})
    sa, sb = [{(k, i) for k,m in o.items() for i,keep in enumerate(m.flatten().tolist()) if keep} for o in (a, b)]
    expected = len(sa & sb)/len(sa | sb) if sa | sb else 1
    assert a.iou(b)==b.iou(a)==pytest.approx(expected) and a.iou(a)==1

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
