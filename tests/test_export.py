"Other kernels give what dense ones give: which layers suit, what is exchanged and why, and nothing done by halves. No test depends on how fast anything is"
import gc, math, subprocess, sys, warnings, weakref
from copy import deepcopy
from importlib.util import find_spec
from io import BytesIO

import pytest, torch
from hypothesis import given, strategies as st
from safetensors.torch import load as load_safetensors, save as save_safetensors
from torch import nn

from lottery_nb import export
from lottery_nb.export import SparseLinear, _exchange, break_even, csr_times, export_onnx, interleaved_medians, sparse_linear
from lottery_nb.n_of_m import output_difference
from lottery_nb.sparsifier import Sparsifier
from models import ConvNet, everything, mlp, same_bits

def sparse_wins(fns): return [2.]*(len(fns)-1) + [1.]
def dense_wins(fns): return [1.]*(len(fns)-1) + [2.]

def half_zero(layer, seed=0):
    with torch.no_grad(): layer.weight *= torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(seed)) < .5
    return layer

# CSR

@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0., .02, .3, 1.]), st.booleans(), st.sampled_from([torch.float32, torch.float64]),
       st.lists(st.integers(0, 4), max_size=3), st.integers(0, 99))
def test_csr_is_what_dense_is(n_in, n_out, density, bias, dtype, batch, seed):
    g = torch.Generator().manual_seed(seed)
    dense = nn.Linear(n_in, n_out, bias, dtype=dtype)
    with torch.no_grad(): dense.weight *= torch.rand(n_out, n_in, generator=g) < density
    x = torch.randn(*batch, n_in, generator=g, dtype=dtype)
    sparse = SparseLinear(dense)
    out, expected = sparse(x), dense(x).detach()
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous() and torch.equal(sparse.weight, dense.weight)
    again = deepcopy(sparse)
    assert torch.equal(again(x), out) and again.values is not sparse.values

def test_inputs_in_any_memory_layout():
    dense = half_zero(nn.Linear(6, 5))
    for x in (torch.randn(6, 3).t(), torch.randn(3, 4, 6).transpose(0, 1), torch.randn(3, 12)[:,::2], torch.randn(1, 6).expand(3, 6)):
        torch.testing.assert_close(SparseLinear(dense)(x), dense(x).detach())

def test_gradients_go_through_to_the_inputs():
    dense, x = half_zero(nn.Linear(6, 5)), torch.randn(3, 6, requires_grad=True)
    expected = torch.autograd.grad(dense(x).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(SparseLinear(dense)(x).sum(), x)[0], expected)

def test_it_is_stored_and_loaded():
    a, b = [SparseLinear(half_zero(nn.Linear(9, 7), 3)) for _ in range(2)]
    x = torch.randn(2, 9)
    file = BytesIO()
    torch.save(a.state_dict(), file); file.seek(0)
    b.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(a(x), b(x))
    b.load_state_dict(load_safetensors(save_safetensors(a.state_dict())))
    assert torch.equal(a(x), b(x)) and a.state_dict().keys()=={'crow_indices', 'col_indices', 'values', 'bias'}
    assert torch.equal(deepcopy(a).double()(x.double()).float().isfinite(), torch.ones(2, 7, dtype=torch.bool))

@pytest.mark.parametrize('key, change', [('col_indices', lambda t: t+100), ('col_indices', lambda t: -1-t), ('crow_indices', lambda t: t*2),
                                         ('crow_indices', lambda t: t.flip(0)), ('values', lambda t: t[:-1]), ('col_indices', lambda t: t.float())])
def test_what_is_no_matrix_is_not_loaded(key, change):
    layer = SparseLinear(half_zero(nn.Linear(9, 7)))
    state, before = layer.state_dict(), everything(layer)
    state = {k: v.clone() for k,v in state.items()}
    state[key] = change(state[key])
    with pytest.raises(RuntimeError, match='no CSR matrix of 7 by 9'): layer.load_state_dict(state)
    assert all(same_bits(t, before[k]) for k,t in everything(layer).items())

def test_a_state_of_other_zeros_is_not_loaded():
    a, b = SparseLinear(half_zero(nn.Linear(9, 7), 1)), SparseLinear(half_zero(nn.Linear(9, 7), 2))
    with pytest.raises(RuntimeError, match='size mismatch'): b.load_state_dict(a.state_dict())
    with pytest.raises(RuntimeError, match='Missing key'): b.load_state_dict(nn.Linear(9, 7).state_dict())

def test_no_inputs_that_it_cannot_take():
    layer = SparseLinear(half_zero(nn.Linear(8, 4)))
    for x in (torch.ones(2, 4, 4), torch.ones(16), torch.ones(())):
        with pytest.raises(ValueError, match=r'expected inputs \[..., 8\]'): layer(x)
    with pytest.raises(TypeError, match='got torch.float64 for weights in torch.float32'): layer(torch.ones(2, 8).double())
    with pytest.raises(TypeError, match='float32 or float64'): deepcopy(layer).half()(torch.ones(2, 8).half())
    with pytest.raises(TypeError, match='without autocast'), torch.autocast('cpu', torch.bfloat16): layer(torch.ones(2, 8))

def test_training_is_an_error_and_undone_by_eval():
    net = nn.Sequential(nn.BatchNorm1d(8), SparseLinear(half_zero(nn.Linear(8, 4))))
    x = torch.randn(5, 8)
    with pytest.raises(RuntimeError, match='SparseLinear is for inference'): net.train()(x)
    assert net.eval()(x).shape==(5, 4)
    assert not any(p.requires_grad for p in net[1].parameters())

def test_no_warning_reaches_anybody():
    code = ("import torch; from torch import nn; from lottery_nb.export import SparseLinear, sparse_linear\n"
            "x = torch.randn(3, 8)\nprint(sparse_linear(nn.Sequential(nn.Linear(8, 4)), x, force=True).model(x).shape)")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    said = [o for o in done.stderr.splitlines() if 'parse' in o or 'CSR' in o or 'beta' in o]
    assert done.returncode==0 and 'torch.Size([3, 4])' in done.stdout and not said

# what is chosen

def test_chosen_is_what_was_measured_as_faster():
    def measure(fns): # the layer with 300 outputs alone is faster as CSR
        return sparse_wins(fns) if fns[0]().shape[-1]==300 else dense_wins(fns)
    net, x = mlp(), torch.randn(5, 1, 8, 8)
    Sparsifier(net).sparsify(90)
    before = everything(net)
    fast, report, difference = sparse_linear(net, x, measure=measure)
    assert report.chosen.tolist()==[True, False, False] and report.rows.tolist()==[5]*3
    assert [type(o).__name__ for o in fast if not isinstance(o, nn.ReLU)]==['Flatten', 'SparseLinear', 'Linear', 'Linear']
    assert report.why.tolist()==['CSR is 2.00 times as fast'] + ['CSR is 0.50 times as fast, not 1.1']*2
    assert report.break_even[0]==50 and report.break_even[1:].isna().all() and report.dense_ms[0]==2000
    assert difference<1e-5 and net.training and not fast.training
    torch.testing.assert_close(fast(x), net.eval()(x).detach())
    assert all(same_bits(t, before[k]) for k,t in everything(net).items()) and all('forward' not in vars(m) for o in (net, fast) for m in o.modules())

def test_force_takes_what_is_slower():
    net, x = mlp(), torch.randn(5, 1, 8, 8)
    report = sparse_linear(net, x, force=True, measure=dense_wins).report
    assert report.chosen.all() and report.why.str.contains('0.50 times as fast, not 1.1, but forced').all()

def test_how_much_faster_it_has_to_be():
    net, x = nn.Linear(8, 4), torch.randn(3, 8)
    assert isinstance(sparse_linear(net, x, faster=2, measure=sparse_wins).model, SparseLinear) # the model is the layer
    assert type(sparse_linear(net, x, faster=2.01, measure=sparse_wins).model) is nn.Linear
    assert isinstance(sparse_linear(net, x, measure=lambda fns: [0.]*len(fns)).model, SparseLinear)

class Odd(nn.Module):
    "Layers under two names, layers that nobody calls, and weights that are used otherwise than by calling"
    def __init__(self):
        super().__init__()
        self.a, self.unused, self.tied, self.hooked = nn.Linear(8,8), nn.Linear(8,8), nn.Linear(8,8), nn.Linear(8,8)
        self.again, self.embed = self.a, nn.Embedding(8,8)
        self.block = nn.Sequential(nn.Linear(8,8))
        self.same_block = self.block
        self.tied.weight = self.embed.weight
        self.hooked.register_forward_hook(lambda m, args, out: out*2)
        self.half = nn.Linear(8,8).half()
        self.conv = nn.Conv1d(8,8,1)
    def forward(self, x):
        x = self.hooked(self.tied(self.again(self.a(x)))) + self.block(x) + self.same_block(x)
        return dict(out=self.conv(x[...,None]), parts=[x, None, 3])

def test_odd_models():
    net, x = Odd(), torch.randn(3, 8)
    fast, report, _ = sparse_linear(net, x, force=True, measure=dense_wins)
    why = report.set_index('layer').why
    assert report.layer[report.chosen].tolist()==['a', 'again', 'block.0', 'same_block.0']
    assert fast.a is fast.again and fast.block is fast.same_block and isinstance(fast.block[0], SparseLinear)
    expected = dict(unused='does not call it', tied='another module', hooked='hooks', half='float16', conv='no sparse kernel for Conv1d')
    for k,o in expected.items(): assert o in why[k]
    torch.testing.assert_close(fast(x)['out'], net.eval()(x)['out'].detach())

@pytest.mark.parametrize('batch_first', [True, False])
def test_transformers(batch_first):
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first), 2, enable_nested_tensor=False).eval()
    x = torch.randn(3, 5, 16)
    fast, report, difference = sparse_linear(nn.Sequential(net, nn.Linear(16, 4)), x, force=True, measure=dense_wins)
    assert report.set_index('layer').chosen['1'] and difference<1e-4
    assert fast(x).shape==(3, 5, 4)

def test_a_weight_that_is_looked_at_is_there():
    class Net(nn.Module):
        def __init__(self): super().__init__(); self.fc = nn.Linear(8,8)
        def forward(self, x): return self.fc(x) + x@self.fc.weight
    net, x = Net(), torch.randn(3, 8)
    assert isinstance(sparse_linear(net, x, force=True, measure=dense_wins).model.fc, SparseLinear)

@pytest.mark.parametrize('kwargs, error, match', [
    (dict(example=[1]), TypeError, 'example='), (dict(example=()), TypeError, 'example='),
    (dict(example=(torch.ones(2,8), 3)), TypeError, 'example='),
    (dict(faster=0), ValueError, 'faster=0: expected a number greater than 0'), (dict(faster='2'), TypeError, "faster='2'"),
    (dict(tol=math.nan), ValueError, 'tol=nan'),
    (dict(model=nn.ReLU()), ValueError, 'no conv and no linear layer'), (dict(model=3), TypeError, 'expected an nn.Module'),
    (dict(model=nn.Linear(8, 4, device='meta')), ValueError, 'weight is on meta; sparse_linear is for the CPU')])
def test_bad_arguments(kwargs, error, match):
    def never(fns): raise AssertionError('measured')
    with pytest.raises(error, match=match): sparse_linear(**{**dict(model=nn.Linear(8,4), example=torch.ones(2,8), measure=never), **kwargs})

def test_a_wrong_example_leaves_the_model_alone():
    net = mlp()
    with pytest.raises(ValueError, match=r'not one of the shape \(3, 5\)'):
        sparse_linear(net, torch.ones(3, 5), measure=sparse_wins)
    assert all('forward' not in vars(m) for m in net.modules()) and net.training

def test_outputs_that_differ_are_an_error():
    net = nn.Sequential(nn.Linear(4, 4))
    class Wrong(SparseLinear):
        def forward(self, x): return super().forward(x)+1
    with pytest.MonkeyPatch.context() as m:
        m.setattr(export, 'SparseLinear', Wrong)
        with pytest.raises(ValueError, match='outputs differ by 1, more than'): sparse_linear(net, torch.zeros(2, 4), force=True, measure=dense_wins)

def test_the_dense_weights_of_a_copy_are_freed():
    net = nn.Sequential(nn.Linear(4, 4))
    fast, ref = deepcopy(net), None
    ref = weakref.ref(fast[0])
    fast = _exchange(fast, ['0'])
    gc.collect()
    assert ref() is None and isinstance(fast[0], SparseLinear)

# timing, with a clock of our own

def test_medians_are_of_calls_in_turn(monkeypatch):
    now, calls = [0.], []
    def step(name, seconds):
        def fn(): calls.append(name); now[0] += seconds(len(calls))
        return fn
    monkeypatch.setattr(export.time, 'perf_counter', lambda: now[0])
    slow_once = step('a', lambda i: 100. if i==3 else 1.)
    assert interleaved_medians([slow_once, step('b', lambda i: 2.)], seconds=0, least=5)==[1., 2.]
    assert calls==['a', 'b']*6

def test_csr_times_stop_where_csr_is_slower():
    seen = []
    def measure(fns):
        seen.append(1)
        return [1., .1*len(seen)*2.6]
    times = csr_times(16, 8, 3, sparsities=(50, 99, 90, 70), measure=measure)
    assert times.sparsity.tolist()==[99, 90, 70, 50] and len(seen)==4
    assert break_even(times)==70 and break_even(times, faster=3)==99 and math.isnan(break_even(times, faster=9))
    seen.clear()
    assert csr_times(16, 8, measure=lambda fns: [1., 1.]).sparsity.tolist()==[99]

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_what_is_timed_is_the_same_product(dtype):
    def measure(fns):
        with torch.inference_mode(): torch.testing.assert_close(fns[0](), fns[1]())
        return [1., .5]
    assert len(csr_times(16, 8, 3, dtype, measure=measure))==9

@pytest.mark.parametrize('args, error', [((0,8), ValueError), ((8,2.), TypeError), ((8,8,0), ValueError), ((8,8,1,torch.float16), TypeError),
                                         ((8,8,1,torch.float32,(101,)), ValueError)])
def test_bad_arguments_of_csr_times(args, error):
    with pytest.raises(error): csr_times(*args, measure=sparse_wins)

@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=5))
def test_difference_of_the_same_is_none(values):
    t = torch.tensor(values)
    assert output_difference([t], [t.clone()], 1e-4)==0
    for wrong in (math.nan, math.inf, -math.inf, 3e38):
        other = torch.full_like(t, wrong)
        if t.isfinite().any() and not (t[t.isfinite()]).abs().max()>1e30:
            with pytest.raises(ValueError, match='outputs differ'): output_difference([t], [other], 1e-4)

# ONNX

onnx_there = pytest.mark.skipif(not all(find_spec(o) for o in export._for_export), reason=f'needs {", ".join(export._for_export)}')

@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        yield

@onnx_there
@pytest.mark.parametrize('granularity', ['weight', '2:4'])
def test_onnx_of_a_masked_model(granularity, tmp_path, quiet, capfd):
    import onnx
    net = ConvNet()
    for _ in range(2): net(torch.randn(8, 1, 6, 6))
    masks = Sparsifier(net, granularity, 'local').sparsify(50)
    before = everything(net)
    told = export_onnx(net, torch.randn(1, 1, 6, 6), tmp_path/'sub'/'net.onnx')
    assert net.training and all(same_bits(t, before[k]) for k,t in everything(net).items())
    file = tmp_path/'sub'/'net.onnx'
    stored = {o.name: onnx.numpy_helper.to_array(o) for o in onnx.load(file).graph.initializer}
    for k,m in masks.items():
        assert stored[k].shape==tuple(m.shape) and (stored[k][~m.numpy()]==0).all() and (stored[k][m.numpy()]!=0).all()
    assert told['bytes']==file.stat().st_size and [o.name for o in file.parent.iterdir()]==['net.onnx']
    assert told['zeros']>0 and told['difference']<1e-4
    import onnxruntime
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    for n in (1, 2, 7):
        x = torch.randn(n, 1, 6, 6)
        out, = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), net.eval()(x).detach(), atol=1e-4, rtol=1e-4)
    assert not capfd.readouterr().err

@onnx_there
def test_onnx_with_two_inputs_and_two_outputs(tmp_path, quiet):
    class Two(nn.Module):
        def __init__(self): super().__init__(); self.fc = nn.Linear(8,4)
        def forward(self, a, b): return dict(sum=self.fc(a)+b, parts=[b*2])
    told = export_onnx(Two(), (torch.randn(3,8), torch.randn(3,4)), str(tmp_path/'two.onnx'))
    assert told['difference']<1e-5 and told['zeros']==0

@onnx_there
def test_onnx_that_differs_is_not_written(tmp_path, monkeypatch):
    file = tmp_path/'net.onnx'
    file.write_bytes(b'old')
    real = export._onnx_outputs
    monkeypatch.setattr(export, '_onnx_outputs', lambda *args: [o+1 for o in real(*args)])
    with pytest.raises(ValueError, match='outputs differ by 1'): export_onnx(nn.Linear(8,4), torch.zeros(2,8), file)
    assert file.read_bytes()==b'old' and len(list(tmp_path.iterdir()))==1

@onnx_there
def test_onnx_of_a_model_made_for_one_batch_size_is_not_written(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x): return x.reshape(3, 8)
    with pytest.raises(Exception): export_onnx(Fixed(), torch.zeros(3,8), tmp_path/'net.onnx')
    assert not list(tmp_path.iterdir())

def test_without_the_packages_it_says_how_to_get_them(tmp_path, monkeypatch):
    def missing(name): raise ModuleNotFoundError(f"No module named '{name}'")
    monkeypatch.setattr(export, 'import_module', missing)
    with pytest.raises(ImportError, match=r"pip install 'lottery_nb\[export\]'"): export_onnx(nn.Linear(8,4), torch.zeros(2,8), tmp_path/'net.onnx')
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('kwargs, error, match', [
    (dict(example=3), TypeError, 'example=3'), (dict(example=(torch.ones(2,8), torch.ones(3,8))), ValueError, 'same number of items'),
    (dict(example=torch.ones(0,8)), ValueError, 'at least 1'), (dict(example=torch.tensor(1.)), ValueError, 'number of items'),
    (dict(model=3), TypeError, 'expected an nn.Module'), (dict(model=nn.Linear(8,4).bfloat16()), TypeError, 'weight in bfloat16'),
    (dict(model=SparseLinear(nn.Linear(8,4))), ValueError, 'is a SparseLinear; export the model that it was made from'),
    (dict(path=3), TypeError, 'path=3'), (dict(tol=-1), ValueError, 'tol=-1'),
    (dict(model=nn.Linear(1<<16, 1<<15, device='meta')), ValueError, 'more than 2 GB')])
def test_bad_arguments_of_an_export(kwargs, error, match, tmp_path):
    with pytest.raises(error, match=match): export_onnx(**{**dict(model=nn.Linear(8,4), example=torch.ones(2,8), path=tmp_path/'net.onnx'), **kwargs})
    assert not list(tmp_path.iterdir())
