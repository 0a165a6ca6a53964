"n of every m: exact against an oracle that goes through the groups, in the Sparsifier, and for the kernels of a GPU"
import warnings

import pytest, torch
from fastai.learner import Learner
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from lottery_nb.arms import random_ticket
from lottery_nb.callback import SparsifyCallback
from lottery_nb.core import ArgumentError
from lottery_nb.criteria import large_final, random_scores
from lottery_nb.data import digits_dls
from lottery_nb.find import find_ticket
from lottery_nb.granularity import weights_of
from lottery_nb.n_of_m import (NofMUnits, is_2_4, semi_structured, semi_structured_report,
                               why_not_semi_structured)
from lottery_nb.schedules import iterative
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket
from models import differing, everything, methods, nets, same_bits

small = st.integers(1, 3)

# Against an oracle

def slow_spared(scores, n, m):
    "Scores [lines, length] -> which stay: in every m along a line the n highest, of equal ones the later"
    stay = torch.zeros(scores.shape, dtype=torch.bool)
    for i,line in enumerate(scores.tolist()):
        for start in range(0, len(line), m):
            group = list(range(start, min(start+m, len(line))))
            for j in sorted(group, key=lambda j: (line[j], j))[-n:]: stay[i,j] = True
    return stay

def lines_of(layer, t):
    """A tensor of the weight's shape as lines along the inputs of one group:
    what is summed up for one output at one place"""
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
    units = NofMUnits(layer, weights_of(layer), f'{n}:{m}')
    keys = torch.randint(-spread, spread+1, layer.weight.shape, generator=g)
    spared = units.spared('weight', keys.flatten()).reshape(layer.weight.shape)
    assert torch.equal(lines_of(layer, spared), slow_spared(lines_of(layer, keys), n, m))
    assert units.least('weight')==spared.sum() and units.size('weight')==1 and units.n('weight')==layer.weight.numel()

@pytest.mark.parametrize('layer', [nn.Conv2d(8,8,3,groups=8), nn.Linear(1,5), nn.Linear(2,5)])
def test_layers_with_too_few_inputs_lose_nothing(layer): assert Sparsifier(layer, '2:4').sparsify(50).sparsity==0

@pytest.mark.parametrize('name', ['0:4', '5:4', '00:4', '02:4', '2:04', '0:0'])
def test_impossible_n_of_m(name):
    with pytest.raises(ValueError, match=f"'{name}': expected n:m with n from 1 to m, such as 2:4"):
        Sparsifier(nn.Linear(8,8), name)

@pytest.mark.parametrize('layer', [nn.BatchNorm2d(8), nn.LayerNorm(8)])
def test_layers_without_inputs_have_no_n_of_m(layer):
    with pytest.raises(ValueError, match="layers with inputs, e.g. layers=nn.Linear, with 2:4"):
        Sparsifier(layer, '2:4', layers=type(layer))

# n:m in a Sparsifier: exact counts, nothing comes back, and in the end n of every m

def stays(layer, mask, n, m):
    "How many stay of every group along the inputs, filled up to m with nothing"
    lines = lines_of(layer, mask)
    return nn.functional.pad(lines.int(), (0, -lines.shape[-1]%m)).unflatten(-1, (-1, m)).sum(-1)

@settings(max_examples=60)
@given(nets(), st.sampled_from([(1,2), (2,4), (1,4), (3,4), (4,8), (3,7), (1,1)]),
       methods, st.lists(st.floats(0, 100), max_size=3), st.integers(0, 3))
def test_pruned_to_n_of_m(net, nm, method, shares, seed):
    n, m = nm
    limit = NofMUnits.limit(f'{n}:{m}')
    sp = Sparsifier(net, f'{n}:{m}', method, random_scores(seed=seed) if seed else large_final)
    before = sp.masks
    for sparsity in [*sorted(limit*o/100 for o in shares), limit]:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore') # a small percentage looks like a fraction
            masks = sp.sparsify(sparsity)
        most = {k: sp.units.n(k)-sp.units.least(k) for k in sp.units.names}
        pruned = {k: int((~o).sum()) for k,o in masks.items()}
        due = min(round(sparsity/100*masks.n_weights), sum(most.values()))
        assert sum(pruned.values())==due and all(pruned[k]<=o for k,o in most.items())
        for k,layer in sp.layers.items():
            assert not (masks[k] & ~before[k]).any()
            length = lines_of(layer.layer, masks[k]).shape[-1]
            group = torch.tensor([min(m, length-i) for i in range(0, length, m)])
            assert (stays(layer.layer, masks[k], n, m) >= group.clamp(max=n)).all()
            assert sp.weight(k)[~masks[k]].count_nonzero()==0
        before = masks
    if all(lines_of(o.layer, sp.weight(k)).shape[-1]%m==0 for k,o in sp.layers.items()):
        assert masks.sparsity==pytest.approx(limit)
        for k,layer in sp.layers.items(): assert (stays(layer.layer, masks[k], n, m)==n).all()

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('method', ['local', 'global'])
def test_2_4_keeps_the_larger_two_of_four_in_every_precision(dtype, method):
    layer = nn.Conv2d(12, 5, 3).to(dtype)
    scores = layer.weight.detach().abs().clone()
    mask = Sparsifier(layer, '2:4', method).sparsify(50)['weight']
    assert torch.equal(lines_of(layer, mask), slow_spared(lines_of(layer, scores.double()), 2, 4))

@pytest.mark.parametrize('sparsity, name', [(50.1, '2:4'), (100, '1:4'), (66.68, '1:3'), (1, '1:1')]) # 66.67 will do
def test_more_than_n_of_m_gives_is_an_error(sparsity, name):
    sp = Sparsifier(nn.Linear(12,4), name)
    with pytest.raises(ValueError, match=f'^sparsity={sparsity:g}.*: expected at most .* percent, where {name} ends'):
        sp.sparsify(sparsity)
    with pytest.raises(ValueError, match=f'end_sparsity={sparsity:g}.*: expected at most'):
        SparsifyCallback(sparsity, name, 'global', large_final, iterative)
    assert not sp.has_pruned

def test_nothing_is_rounded_up_under_n_of_m():
    with pytest.raises(ValueError, match='round_to=8: expected None with 2:4'):
        Sparsifier(nn.Linear(8,8), '2:4').sparsify(50, round_to=8)
    with pytest.raises(ValueError, match='round_to=8'):
        SparsifyCallback(50, '2:4', 'global', large_final, iterative, round_to=8)

def test_masks_of_single_weights_are_no_masks_for_2_4():
    net = nn.Linear(64, 8)
    masks, before = Sparsifier(nn.Linear(64,8)).sparsify(80), net.weight.detach().clone()
    with pytest.raises(ValueError, match='expected 2 of every 4 kept, but weight keeps fewer'):
        Sparsifier(net, '2:4').put_on(masks)
    assert torch.equal(net.weight, before)

def test_a_ticket_of_2_4_from_callback_and_search(tmp_path):
    def learner():
        return Learner(digits_dls(bs=256), nn.Sequential(nn.Flatten(), nn.Linear(64,20), nn.ReLU(), nn.Linear(20,10)))
    learn = learner()
    cb = SparsifyCallback(50, '2:4', 'global', large_final, iterative, start_epoch=1, lth=True, verbose=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(4, cbs=cb)
    found = find_ticket(learner, lambda learn: learn.fit(1), prune=[20,36,50],
                        granularity='2:4', dir=tmp_path/'search', progress=False)
    for ticket in (cb.ticket, found.tickets[-1]):
        ticket.save(tmp_path/'ticket.safetensors')
        ticket = Ticket.load(tmp_path/'ticket.safetensors')
        assert ticket.meta['granularity']=='2:4' and ticket.sparsity==50
        for m in ticket.masks.values(): assert (m.unflatten(1, (-1,4)).sum(2)==2).all()
        sp = Sparsifier(learner().model, '2:4')
        sp.put_on(ticket.masks)
        assert sp.masks.digest()==ticket.masks.digest() and sp.report().kept.sum()==ticket.masks.n_kept
    assert random_ticket(learner().model, 50, seed=0, granularity='2:4').sparsity==50

# For the kernels of a GPU

@given(st.integers(1, 5), st.integers(1, 24), st.floats(.1, .9), st.integers(0, 99))
def test_is_2_4_against_a_loop(n_out, n_in, density, seed):
    w = (torch.rand(n_out, n_in, generator=torch.Generator().manual_seed(seed)) < density).float()
    expected = n_in%4==0 and all(sum(row[i:i+4])<=2 for row in w.tolist() for i in range(0, n_in, 4))
    assert is_2_4(w)==expected

def pruned_2_4(*sizes, dtype=torch.float16):
    net = nn.Sequential(*[nn.Linear(i, o) for i,o in zip(sizes, sizes[1:])])
    Sparsifier(net, '2:4').sparsify(50)
    return net.to(dtype).eval()

def test_which_layers_suit():
    class Mine(nn.Linear): pass
    net = nn.ModuleDict(dict(good=nn.Linear(256,128), narrow=nn.Linear(256,10),
                             odd=nn.Linear(100,128), dense=nn.Linear(256,128), conv=nn.Conv2d(64,64,3),
                             mine=Mine(256,128), hooked=nn.Linear(256,128), attention=nn.MultiheadAttention(64,4)))
    Sparsifier(net, '2:4', layers=lambda n,m: n!='dense').sparsify(50)
    net['hooked'].register_forward_hook(lambda *args: None)
    net.half()
    df = semi_structured_report(net).set_index('layer')
    assert df.suits.to_dict()=={k: k=='good' for k in df.index}
    expected = dict(narrow='multiples of', odd='multiples of', dense='more than two of four',
                    conv='no sparse kernel for Conv2d', mine='a Mine', hooked='hooks')
    for k,why in expected.items(): assert why in df.why[k]
    assert 'NonDynamicallyQuantizableLinear' in df.why['attention.out_proj']

def test_sizes_are_those_that_torch_takes():
    sparse = torch.sparse
    torch_s = (sparse.SparseSemiStructuredTensorCUTLASS if sparse.SparseSemiStructuredTensor._FORCE_CUTLASS
               else sparse.SparseSemiStructuredTensorCUSPARSELT)
    class OnGpu(torch.Tensor): is_cuda = True
    for n_out in (8, 16, 32, 48, 64, 100):
        for n_in in (4, 16, 32, 64, 72, 128):
            layer = nn.Linear(n_in, n_out).half()
            nn.init.zeros_(layer.weight)
            try: torch_s._validate_device_dim_dtype_shape(layer.weight.detach().as_subclass(OnGpu)); fits = True
            except RuntimeError as e: fits = 'shape' not in str(e)
            assert (why_not_semi_structured(layer)=='')==fits, (n_out, n_in)

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_so():
    with pytest.raises(RuntimeError, match='no CUDA GPU here; semi_structured_report'):
        semi_structured(pruned_2_4(128, 128))

def test_what_is_packed(monkeypatch):
    "The conversion with a packing that does nothing, on the CPU"
    for o,value in (('is_available', True), ('get_device_capability', (8,0))):
        monkeypatch.setattr(torch.cuda, o, lambda value=value: value)
    monkeypatch.setattr(torch.Tensor, 'is_cuda', True)
    monkeypatch.setattr(torch.sparse, 'to_sparse_semi_structured', lambda w: w.clone())
    net = pruned_2_4(128, 128, 64, 10).train()
    before = everything(net)
    fast, report, difference = semi_structured(net, torch.randn(4, 128).half())
    assert report.suits.tolist()==[True, True, False] and difference==0
    assert [p.requires_grad for p in fast.parameters()]==[False,True, False,True, True,True]
    assert not fast.training and net.training
    assert all(same_bits(t, before[k]) for k,t in everything(net).items())
    assert all(p.requires_grad for p in net.parameters())
    assert semi_structured(net).difference is None
    monkeypatch.setattr(torch.sparse, 'to_sparse_semi_structured', lambda w: w+1)
    with pytest.raises(ValueError, match='outputs differ by'): semi_structured(net, torch.ones(4, 128).half())
    with pytest.raises(ValueError, match='a layer that suits:(.|\n)*float32'): semi_structured(net.float())

def test_arguments_of_semi_structured():
    with pytest.raises(TypeError, match='example=3'): semi_structured(pruned_2_4(128, 128), 3)
    with pytest.raises(TypeError, match='expected an nn.Module'): semi_structured('net')
    with pytest.raises(ValueError, match='tol=0'): semi_structured(pruned_2_4(128, 128), tol=0)

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.get_device_capability()<(8,0),
                    reason='needs a CUDA GPU of compute capability 8.0')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_on_a_gpu(dtype):
    net = pruned_2_4(512, 512, 256, 10, dtype=dtype).cuda()
    fast, report, difference = semi_structured(net, torch.randn(64, 512, dtype=dtype, device='cuda'))
    assert report.suits.tolist()==[True, True, False] and difference<.05
    assert isinstance(fast[0].weight, torch.sparse.SparseSemiStructuredTensor)
    with pytest.raises(ValueError, match='on cpu'): semi_structured(net.cpu())

def test_zeros_that_cannot_be_kept():
    net = nn.Sequential(nn.Linear(8,4))
    net[0].weight.data[0,:3] = 0
    with pytest.raises(ArgumentError, match='2 of every 4 kept, but 0.weight keeps fewer'):
        Sparsifier(net, '2:4', keep_zeros=True)
    net[0].weight.data[0,0] = 1
    sp = Sparsifier(net, '2:4', keep_zeros=True)
    assert sp.masks.n_kept==30 and (sp.sparsify(50) - sp.zeros).n_kept==0 and sp.masks.sparsity==50
    with pytest.raises(TypeError, match='keep_zeros=1: expected True or False'): Sparsifier(net, keep_zeros=1)

def test_the_report_changes_no_weight_that_is_computed():
    net = nn.Sequential(spectral_norm(nn.Linear(8,4)), nn.Linear(4,2)).train()
    before = everything(net)
    assert list(semi_structured_report(net)['shape'])==[(4,8), (2,4)]
    assert not differing(everything(net), before)
