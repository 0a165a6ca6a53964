"Sparse layers give what dense ones give, and an ONNX file what the network gives, or it isn't written"
import subprocess, sys, warnings
from copy import deepcopy
from importlib.util import find_spec
from io import BytesIO

import pytest, torch
from hypothesis import given, strategies as st
from safetensors.torch import load as load_safetensors, save as save_safetensors
from torch import nn

import lottery_nb.n_of_m # noqa: F401, it adds a granularity
from lottery_nb.core import ArgumentError
from lottery_nb.export import SparseLinear, export_onnx, sparse_linear
from lottery_nb.sparsifier import Sparsifier
from models import ConvNet, everything, mlp, same_bits

def half_zero(layer, seed=0):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad(): layer.weight *= torch.rand(layer.weight.shape, generator=g) < .5
    return layer

# SparseLinear

@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0., .02, .3, 1.]), st.booleans(),
       st.sampled_from([torch.float32, torch.float64]), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 99))
def test_sparse_is_what_dense_is(n_in, n_out, density, bias, dtype, batch, seed):
    g = torch.Generator().manual_seed(seed)
    dense = nn.Linear(n_in, n_out, bias, dtype=dtype)
    with torch.no_grad(): dense.weight *= torch.rand(n_out, n_in, generator=g) < density
    x = torch.randn(*batch, n_in, generator=g, dtype=dtype)
    sparse = SparseLinear(dense)
    out,expected = sparse(x),dense(x).detach()
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous() and torch.equal(sparse.weight, dense.weight)
    again = deepcopy(sparse)
    assert torch.equal(again(x), out) and again.values is not sparse.values

def test_inputs_in_any_memory_layout():
    dense = half_zero(nn.Linear(6, 5))
    for x in (torch.randn(3, 4, 6).transpose(0, 1), torch.randn(3, 12)[:,::2], torch.randn(1, 6).expand(3, 6)):
        torch.testing.assert_close(SparseLinear(dense)(x), dense(x).detach())

def test_gradients_go_through_to_the_inputs():
    dense,x = half_zero(nn.Linear(6, 5)),torch.randn(3, 6, requires_grad=True)
    expected, = torch.autograd.grad(dense(x).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(SparseLinear(dense)(x).sum(), x)[0], expected)

def test_it_is_stored_and_loaded():
    a,b = [SparseLinear(half_zero(nn.Linear(9, 7), 3)) for _ in range(2)]
    x,file = torch.randn(2, 9),BytesIO()
    torch.save(a.state_dict(), file)
    file.seek(0)
    b.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(a(x), b(x))
    b.load_state_dict(load_safetensors(save_safetensors(a.state_dict())))
    assert torch.equal(a(x), b(x)) and a.state_dict().keys()=={'crow_indices','col_indices','values','bias'}
    torch.testing.assert_close(deepcopy(a).double()(x.double()).float(), a(x))

@pytest.mark.parametrize('key, change', [
    ('col_indices', lambda t: t+100), ('col_indices', lambda t: -1-t), ('crow_indices', lambda t: t*2),
    ('crow_indices', lambda t: t.flip(0)), ('values', lambda t: t[:-1]), ('col_indices', lambda t: t.float())])
def test_what_is_no_matrix_is_not_loaded(key, change):
    layer = SparseLinear(half_zero(nn.Linear(9, 7)))
    before,state = everything(layer),{k: v.clone() for k,v in layer.state_dict().items()}
    state[key] = change(state[key])
    with pytest.raises(RuntimeError, match='no CSR matrix'): layer.load_state_dict(state)
    assert all(same_bits(t, before[k]) for k,t in everything(layer).items())

def test_no_inputs_that_it_cannot_take():
    layer = SparseLinear(half_zero(nn.Linear(8, 4)))
    for x in (torch.ones(2, 4, 4), torch.ones(16), torch.ones(())):
        with pytest.raises(ArgumentError, match=r'inputs \[..., 8\]'): layer(x)
    with pytest.raises(RuntimeError): layer(torch.ones(2, 8).double())
    with pytest.raises(RuntimeError), torch.autocast('cpu', torch.bfloat16): layer(torch.ones(2, 8))

def test_it_cannot_be_trained():
    net,x = nn.Sequential(nn.BatchNorm1d(8), SparseLinear(half_zero(nn.Linear(8, 4)))),torch.randn(5, 8)
    with pytest.raises(RuntimeError, match='SparseLinear is for inference'): net.train()(x)
    assert net.eval()(x).shape==(5, 4) and not any(p.requires_grad for p in net[1].parameters())

def test_it_says_nothing_about_beta():
    code = ("import torch; from torch import nn; from lottery_nb.export import sparse_linear\n"
            "print(sparse_linear(nn.Sequential(nn.Linear(8, 4)))(torch.randn(3, 8)).shape)")
    done = subprocess.run([sys.executable, '-W', 'always', '-c', code], capture_output=True, text=True)
    assert 'torch.Size([3, 4])' in done.stdout and 'CSR' not in done.stderr and 'invariant' not in done.stderr

# sparse_linear

def test_a_network_is_exchanged_on_a_copy():
    net,x = mlp(),torch.randn(5, 1, 8, 8)
    Sparsifier(net).sparsify(90)
    before = everything(net)
    fast = sparse_linear(net)
    assert [type(o).__name__ for o in fast if not isinstance(o, nn.ReLU)]==['Flatten']+['SparseLinear']*3
    torch.testing.assert_close(fast(x), net(x).detach())
    assert net.training and all(same_bits(t, before[k]) for k,t in everything(net).items())
    assert [type(o).__name__ for o in sparse_linear(nn.DataParallel(net), ['1'])[1:4:2]]==['SparseLinear','Linear']
    assert isinstance(sparse_linear(nn.Linear(8, 4)), SparseLinear)

class Odd(nn.Module):
    "Layers under two names, layers that nobody calls, and weights that are used otherwise than by calling"
    def __init__(self):
        super().__init__()
        self.a,self.looked_at,self.tied,self.hooked = (nn.Linear(8, 8) for _ in range(4))
        self.again,self.embed,self.half = self.a,nn.Embedding(8, 8),nn.Linear(8, 8).half()
        self.block = self.same_block = nn.Sequential(nn.Linear(8, 8))
        self.tied.weight = self.embed.weight
        self.hooked.register_forward_hook(lambda m, args, out: out*2)
        self.conv = nn.Conv1d(8, 8, 1)

    def forward(self, x):
        x = self.hooked(self.tied(self.again(self.a(x)))) + self.block(x) + self.same_block(x)
        return self.conv((x + x@self.looked_at.weight)[...,None])

def test_what_is_exchanged_of_an_odd_model():
    net,x = Odd().eval(),torch.randn(3, 8)
    fast = sparse_linear(net)
    exchanged = [n for n,m in fast.named_modules(remove_duplicate=False) if isinstance(m, SparseLinear)]
    assert exchanged==['a', 'looked_at', 'again', 'block.0', 'same_block.0']
    assert fast.a is fast.again and fast.block is fast.same_block
    torch.testing.assert_close(fast(x), net(x).detach())
    one = sparse_linear(net, ['again'])
    assert one.a is one.again and isinstance(one.a, SparseLinear) and type(one.block[0]) is nn.Linear

@pytest.mark.parametrize('layers, why', [
    (['tied'], 'another module has the same weight'), (['hooked'], 'hooks'), (['half'], 'float16'),
    (['a','conv'], 'a Conv1d'), (['other'], 'no layer')])
def test_layers_that_do_not_suit(layers, why):
    with pytest.raises(ArgumentError, match=f'layers that suit .{layers[-1]}: .*{why}'): sparse_linear(Odd(), layers)

@pytest.mark.parametrize('model, error, match', [
    (nn.ReLU(), ArgumentError, 'a linear layer that suits'), (3, TypeError, 'nn.Module')])
def test_models_without_linear_layers(model, error, match):
    with pytest.raises(error, match=match): sparse_linear(model)

@pytest.mark.parametrize('batch_first', [True, False])
def test_transformers(batch_first):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)
    net = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        x = torch.randn(3, 5, 16)
        torch.testing.assert_close(sparse_linear(net)(x), net(x))

# export_onnx

packages = 'onnx','onnxscript','onnxruntime'
onnx_there = pytest.mark.skipif(not all(map(find_spec, packages)), reason=f'needs {packages}')

@onnx_there
@pytest.mark.parametrize('granularity', ['weight', '2:4'])
def test_onnx_of_a_masked_model(granularity, tmp_path, capfd):
    import onnx, onnxruntime
    net,file = ConvNet(),tmp_path/'sub'/'net.onnx'
    for _ in range(2): net(torch.randn(8, 1, 6, 6))
    masks = Sparsifier(net, granularity, 'local').sparsify(50)
    before = everything(net)
    with warnings.catch_warnings(action='error', category=UserWarning):
        facts = export_onnx(net, torch.randn(1, 1, 6, 6), file)
    assert net.training and all(same_bits(t, before[k]) for k,t in everything(net).items())
    stored = {o.name: onnx.numpy_helper.to_array(o) for o in onnx.load(file).graph.initializer}
    for k,m in masks.items():
        assert stored[k].shape==tuple(m.shape) and (stored[k][~m.numpy()]==0).all() and (stored[k][m.numpy()]!=0).all()
    assert facts['bytes']==file.stat().st_size and [o.name for o in file.parent.iterdir()]==['net.onnx']
    assert facts['zeros']>0 and facts['difference']<1e-4
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    for n in (1, 2, 7):
        x = torch.randn(n, 1, 6, 6)
        out, = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), net.eval()(x).detach(), atol=1e-4, rtol=1e-4)
    assert not capfd.readouterr().err

@onnx_there
def test_onnx_with_two_inputs_and_two_outputs(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 4)
        def forward(self, a, b): return dict(sum=self.fc(a)+b, parts=[b*2])
    facts = export_onnx(Two(), (torch.randn(3, 8), torch.randn(3, 4)), str(tmp_path/'two.onnx'))
    assert facts['difference']<1e-5 and facts['zeros']==0

class Noisy(nn.Module):
    "Gives something else whenever it's called"
    def forward(self, x): return x+torch.randn(x.shape)

class Fixed(nn.Module):
    "Takes three items, no more"
    def forward(self, x): return x.reshape(3, 8)

@onnx_there
@pytest.mark.parametrize('model, error, match', [
    (Noisy(), ValueError, 'outputs differ by'), (Fixed(), ArgumentError, 'example')])
def test_onnx_that_would_be_wrong_is_not_written(model, error, match, tmp_path):
    file = tmp_path/'net.onnx'
    file.write_bytes(b'old')
    with pytest.raises(error, match=match): export_onnx(model, torch.zeros(3, 8), file)
    assert file.read_bytes()==b'old' and len(list(tmp_path.iterdir()))==1

def test_without_the_packages_it_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ImportError, match=r"pip install 'lottery_nb\[export\]'"):
        export_onnx(nn.Linear(8, 4), torch.zeros(2, 8), tmp_path/'net.onnx')
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('kwargs, error, match', [
    (dict(example=3), TypeError, 'example=3'),
    (dict(example=(torch.ones(2,8), torch.ones(3,8))), ArgumentError, 'as many items'),
    (dict(example=torch.ones(0,8)), ArgumentError, 'at least 1'),
    (dict(model=3), TypeError, 'nn.Module'),
    (dict(model=nn.Linear(8,4).bfloat16()), ArgumentError, 'weight in bfloat16'),
    (dict(path=3), TypeError, 'path=3: expected the path of the ONNX file'), (dict(tol=-1), ArgumentError, 'tol=-1'),
    (dict(model=nn.Linear(1<<16, 1<<15, device='meta')), ArgumentError, 'at most 2 GB')])
def test_bad_arguments_of_an_export(kwargs, error, match, tmp_path):
    with pytest.raises(error, match=match):
        export_onnx(**{**dict(model=nn.Linear(8,4), example=torch.ones(2,8), path=tmp_path/'net.onnx'), **kwargs})
    assert not list(tmp_path.iterdir())
