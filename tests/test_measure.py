"What `profile` counts, held against counts made by hand; that it leaves nothing behind; what it refuses. No test depends on how fast anything is"
import copy, json, math, random, subprocess, sys, warnings, zlib
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from models import ConvNet, batch, copied, differing, everything, mlp
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrize, prune

from lottery_nb.data import digits_dls
from lottery_nb.masks import Masks, named_tensors
from lottery_nb.measure import Profile, _LiveBytes, profile, profile_ticket
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket, TicketError
from lottery_nb.arms import random_ticket

class Clock:
    "A clock that runs only when a network does, or a millisecond at every look if `tick`"
    def __init__(self, tick=0.): self.now,self.tick = 0.,tick
    def __call__(self):
        self.now += self.tick
        return self.now

class Slow(nn.Module):
    "A network that takes so many seconds of `clock`, and notes that it ran"
    def __init__(self, clock, seconds, log=None):
        super().__init__()
        self.clock,self.seconds,self.log,self.fc = clock,seconds,log,nn.Linear(4,3)
    def __deepcopy__(self, memo): return self
    def forward(self, x):
        self.clock.now += self.seconds
        if self.log is not None: self.log.append(self.seconds)
        return self.fc(x)

def quick(*args, **kwargs): return profile(*args, **{**dict(repeats=1, timer=Clock(.01)), **kwargs})
def digits(n=16): return torch.rand(n,1,8,8, generator=torch.Generator().manual_seed(0))
def masked(net, sparsity=90):
    net = copy.deepcopy(net)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        Sparsifier(net).sparsify(sparsity)
    return net

# ---- counts

def by_hand(net, x):
    "Layer -> (multiply-adds, those on non-zero weights), from shapes of inputs and outputs that hooks see"
    counts,handles = {},[]
    def hook(name):
        def f(m, args, out):
            w = m.weight
            at = args[0] if isinstance(m, nn.modules.conv._ConvTransposeNd) else out
            times = at.numel()//at.shape[-1] if isinstance(m, nn.Linear) else len(at)*math.prod(at.shape[2:])
            counts[name] = times*w.numel(),times*int((w!=0).sum())
        return f
    for name,m in net.named_modules():
        if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd)): handles.append(m.register_forward_hook(hook(name)))
    with torch.no_grad(): net.eval()(x)
    for h in handles: h.remove()
    return counts

def told(p, network='model'):
    df = p.layers[(p.layers.network==network) & (p.layers.macs>0)]
    return {row.layer: (row.macs, row.macs_nonzero) for row in df.itertuples()}

@pytest.mark.parametrize('sparsity', [0, 37.5, 90, 99])
def test_multiply_adds_of_convs_of_every_kind(sparsity):
    net,x = masked(ConvNet(), sparsity),batch(5, 6)[0]
    p = quick(net, x)
    assert told(p)==by_hand(net, x)
    assert p.table.loc['model','macs']==sum(n for n,_ in by_hand(net, x).values())

@settings(max_examples=15)
@given(st.data())
def test_multiply_adds_of_random_networks(data):
    n = data.draw(st.integers(1, 3))
    kinds = getattr(nn, f'Conv{n}d'),getattr(nn, f'ConvTranspose{n}d')
    layers,channels = [],2
    for _ in range(data.draw(st.integers(1, 3))):
        out,groups = data.draw(st.sampled_from([2,4])),data.draw(st.sampled_from([1,2]))
        stride,padding,bias = data.draw(st.integers(1,2)),data.draw(st.integers(0,1)),data.draw(st.booleans())
        layers.append(data.draw(st.sampled_from(kinds))(channels, out, data.draw(st.integers(1,2)), stride=stride, padding=padding, groups=groups, bias=bias))
        channels = out
    torch.manual_seed(data.draw(st.integers(0, 99)))
    net = nn.Sequential(*layers)
    net = masked(net, data.draw(st.sampled_from([0, 50, 80])))
    x = torch.randn(data.draw(st.integers(1, 3)), 2, *[8]*n)
    p = quick(net, x)
    assert told(p)==by_hand(net, x)
    assert p.table.loc['model','nonzero']==sum(int((w!=0).sum()) for w in net.parameters())

def test_parameters_are_counted_once_and_a_tied_layer_multiplies_where_it_runs():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed,self.head = nn.Embedding(11,4),nn.Linear(4,11,bias=False)
            self.head.weight = self.embed.weight
        def forward(self, i): return self.head(self.embed(i))
    net = Tied()
    with torch.no_grad(): net.embed.weight[:3] = 0
    p = quick(net, torch.arange(10)[None])
    assert p.table.loc['model',['parameters','nonzero']].tolist()==[44, 32]
    assert told(p)=={'head': (10*44, 10*32)} and not p.facts['uncounted']

def test_weights_that_others_compute_are_counted_as_they_are_used():
    x = torch.randn(6,8)
    pruned = nn.Sequential(nn.Linear(8,4))
    prune.l1_unstructured(pruned[0], 'weight', 8)
    assert told(quick(pruned, x))=={'0': (6*32, 6*24)}
    class Third(nn.Module):
        def forward(self, w): return torch.cat([w[:1], torch.zeros_like(w[1:])])
    parametrized = nn.Sequential(nn.Linear(8,3), nn.Linear(3,5))
    parametrize.register_parametrization(parametrized[0], 'weight', Third())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert told(quick(parametrized, x))=={'0': (6*24, 6*8), '1': (6*15, 6*15)}

def test_a_weight_may_be_an_attribute_and_come_first():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.tensor([[1.,0.,0.],[0.,2.,0.]])
        def forward(self, x): return self.w @ x
    assert told(quick(Net(), torch.randn(3,4)))=={'(whole)': (2*3*4, 2*4)}

@pytest.mark.parametrize('batch_first', [True, False])
def test_attention_is_counted_though_pytorch_has_a_fast_path(batch_first):
    net,n = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first),4*10
    with torch.no_grad(): net.self_attn.in_proj_weight[:16] = 0
    p = quick(net, torch.randn(4,10,16) if batch_first else torch.randn(10,4,16))
    products = 2*n*10*16
    assert told(p)=={'self_attn': (n*16*48 + products, n*16*32 + products), 'self_attn.out_proj': (n*16*16,)*2,
                     'linear1': (n*16*32,)*2, 'linear2': (n*16*32,)*2}
    assert torch.backends.mha.get_fastpath_enabled() and not p.facts['uncounted']

@pytest.mark.parametrize('kind,gates', [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers(kind, gates):
    net = kind(5, 7, batch_first=True)
    with torch.no_grad(): net.weight_hh_l0[:] = 0
    p = quick(net, torch.randn(3,11,5)) # gives a tuple
    assert p.table.loc['model',['macs','macs_nonzero']].tolist()==[3*11*gates*7*(5+7), 3*11*gates*7*5]
    assert torch.backends.mkldnn.enabled

def test_what_cannot_be_counted_is_said():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Bilinear(3,4,5)
        def forward(self, x): return self.mix(x[:,:3], x)
    with pytest.warns(UserWarning, match="'model': multiply-adds not counted: .*trilinear"): p = quick(Both(), torch.randn(2,4))
    assert list(p.facts['uncounted'])==['model']

def test_elementwise_and_norms_are_no_cause_for_a_warning(recwarn):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale,self.norm = nn.Parameter(torch.ones(2,4)),nn.LayerNorm((2,4))
        def forward(self, x): return self.norm(x*self.scale)
    assert quick(Net(), torch.randn(3,2,4)).table.loc['model','macs']==0
    assert not [w for w in recwarn if 'not counted' in str(w.message)]

def test_a_ratio_to_nothing_is_nan():
    p = quick(nn.ReLU(), torch.randn(3,2))
    assert p.table.loc['model','parameters']==0 and math.isnan(p.table.loc['model','macs_ratio']) and math.isnan(p.table.loc['model','ticket_file'])
    assert 'ticket' not in repr(p) and '–' in repr(quick(mlp(), digits(), nn.Flatten())) and json.loads(p.to_json())['networks'][0]['ticket_file'] is None
    p.plot()

# ---- bytes

@pytest.mark.parametrize('net', [mlp(), masked(mlp()), masked(ConvNet(), 50)])
def test_bytes_are_those_of_the_files(tmp_path, net):
    x = digits() if isinstance(net, nn.Sequential) else batch()[0]
    row = quick(net, x).table.loc['model']
    save_file(net.state_dict(), tmp_path/'dense')
    tensors = named_tensors(net)
    layers = Sparsifier(net).layers
    Ticket(Masks({k: tensors[k]!=0 for k in layers}), tensors).save(tmp_path/'ticket')
    for column,name in dict(file='dense', ticket_file='ticket').items():
        data = (tmp_path/name).read_bytes()
        assert row[column]==len(data)
        assert row[f'{column}_zipped']==len(zlib.compress(data, 6))

def test_a_tickets_bytes_are_those_of_its_own_file(tmp_path):
    ticket = random_ticket(mlp(), 80)
    with torch.no_grad():
        for k,m in ticket.masks.items(): ticket.state[k][:,0] = 0 # kept weights that are zero
    file = Ticket(ticket.masks, ticket.state, everything(mlp()), dict(note='x'*999)).save(tmp_path/'t', trained=False)
    p = quick(mlp(), digits(), Ticket.load(file))
    assert p.table.loc['ticket','ticket_file']==file.stat().st_size

def test_a_shared_tensor_is_in_the_file_once():
    net = nn.Sequential(nn.Linear(50,50,bias=False), nn.Linear(50,50,bias=False))
    net[1].weight = net[0].weight
    assert 10_000 <= quick(net, torch.randn(2,50)).table.loc['model','file'] < 10_500

# ---- memory

def test_memory_is_what_is_alive_at_once():
    net = nn.Sequential(nn.Linear(10,100), nn.ReLU(inplace=True), nn.Linear(100,1000), nn.Linear(1000,1))
    assert quick(net, torch.randn(5,10)).table.loc['model','memory']==5*4*(100+1000) # the second layer's output, beside its input

def test_views_and_what_was_there_before_take_none():
    x = torch.randn(10,10)
    with torch.no_grad(), _LiveBytes() as live:
        x.t().reshape(-1).add_(1)
        before = live.peak
        y = x.view(5,20)[:2]
    assert (before, live.peak)==(400, 400) and y.shape==(2,20) # reshape of a transposed one copies

# ---- time

def test_medians_and_quartiles_of_an_injected_clock():
    clock = Clock()
    p = profile({'a': Slow(clock, .02)}, torch.randn(2,4), {'b': Slow(clock, .06)}, repeats=5, seconds=math.inf, timer=clock)
    a,b = p.table.loc['a'],p.table.loc['b']
    assert [a.latency, b.latency]==pytest.approx([20, 60]) and [b.latency_q1, b.latency_q3]==pytest.approx([60, 60])
    assert [a.latency_ratio, b.latency_ratio, b.latency_ratio_q1]==pytest.approx([1, 3, 3])
    assert p.facts['rounds']==5 and len(p.times['b'])==5

def test_networks_take_turns_and_another_begins_each_round():
    clock,log = Clock(),[]
    profile({'a': Slow(clock, 1, log)}, torch.randn(2,4), {'b': Slow(clock, 2, log), 'c': Slow(clock, 3, log)}, repeats=4, seconds=math.inf, timer=clock)
    turns = log[-4*9::3] # three passes a measurement, two of them to warm up
    assert turns==[1,2,3, 2,3,1, 3,1,2, 1,2,3]

def test_a_round_is_compared_with_itself():
    "A machine that gets slower and slower changes the times, and not the ratio"
    clock = Clock()
    a,b = Slow(clock, 1.),Slow(clock, 2.)
    class Slower(nn.Module):
        def forward(self, x):
            a.seconds,b.seconds = a.seconds*1.01,b.seconds*1.01
            return x
    b.fc = nn.Sequential(b.fc, Slower())
    p = profile({'a': a}, torch.randn(2,4), {'b': b}, repeats=30, seconds=math.inf, timer=clock)
    assert p.table.loc['b','latency_q3']>1.3*p.table.loc['b','latency_q1']
    assert p.table.loc['b','latency_ratio_q3']<1.1*p.table.loc['b','latency_ratio_q1']

@pytest.mark.parametrize('seconds,rounds', [(1e-9, 1), (12, 3), (12.5, 4), (100, 20), (math.inf, 20)])
def test_the_budget_ends_the_rounds_and_one_is_always_run(seconds, rounds):
    "A measurement is two passes to warm up and one that counts, of a second each; before the first round there is another one"
    clock = Clock()
    assert profile(Slow(clock, 1.), torch.randn(2,4), repeats=20, seconds=seconds, timer=clock).facts['rounds']==rounds

def test_threads_are_those_asked_for_and_go_back():
    seen = []
    class Net(nn.Linear):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return super().forward(x)
    before = torch.get_num_threads()
    p = quick(Net(2,2), torch.randn(1,2), threads=2)
    assert seen[-1]==2 and torch.get_num_threads()==before and p.facts['threads']==2
    assert quick(Net(2,2), torch.randn(1,2)).facts['threads']==before

# ---- nothing is left behind

class Restless(nn.Module):
    "Leaves traces in every forward pass, draws random numbers, and fails in pass number `fail`"
    def __init__(self, fail=None):
        super().__init__()
        self.fc,self.norm,self.fail,self.log = nn.Linear(64,10),nn.BatchNorm1d(10),fail,[]
        self.register_buffer('seen', torch.zeros(3))
        self.register_buffer('last', torch.zeros(1), persistent=False)
        self.register_buffer('none', None)
        self.n = 0
    def forward(self, x):
        self.n += 1
        self.seen += 1
        self.last = x[0].clone()
        self.none = torch.ones(1)
        self.log.append(1) # a list is shared: the only trace that is left
        torch.rand(1), np.random.rand(), random.random()
        if len(self.log)==self.fail: raise RuntimeError('no more')
        return self.norm(self.fc(x.flatten(1)))

def traces(net):
    flags = {n: m.training for n,m in net.named_modules()}
    hooks = {n: [len(v) for k,v in vars(m).items() if k.endswith('_hooks')] for n,m in net.named_modules()}
    hooks_of_all = [len(getattr(torch.nn.modules.module, o)) for o in ('_global_forward_hooks','_global_forward_pre_hooks')]
    modes = torch.is_grad_enabled(),torch.backends.mha.get_fastpath_enabled(),torch.backends.mkldnn.enabled,torch.get_num_threads()
    ids = {k: id(t) for k,t in named_tensors(net).items()}
    return dict(flags=flags, hooks=hooks, all=hooks_of_all, modes=modes, ids=ids, grads=[p.grad for p in net.parameters()])

def numbers(): return torch.get_rng_state().tolist(),np.random.get_state()[1].tolist(),np.random.get_state()[2],random.getstate()

@pytest.mark.parametrize('fail', [None, 1, 2, 3, 4, 5, 8])
def test_nothing_changes_also_after_an_error(fail):
    net,other = Restless(fail),masked(mlp())
    net.norm.eval(), other[1].eval()
    net.fc.register_forward_hook(lambda *o: None)
    before = [(traces(o), copied(named_tensors(o)), net.n) for o in (net, other)]
    state,at = numbers(),net.last
    try: quick(net, digits(), other, data=(digits(), torch.zeros(16, dtype=torch.int64)), repeats=2)
    except (RuntimeError,ValueError) as e: assert fail and 'no more' in str(e)
    else: assert fail is None
    assert len(net.log)>=(fail or 1)
    assert numbers()==state and net.last is at and net.none is None
    for o,(was,tensors,n) in zip((net, other), before):
        assert traces(o)==was and not differing(named_tensors(o), tensors) and net.n==n

def test_every_pass_is_in_eval_mode():
    seen = set()
    class Net(nn.Linear):
        def forward(self, x):
            seen.add((self.training, torch.is_grad_enabled()))
            return super().forward(x)
    net = Net(64,10)
    quick(net, torch.randn(2,64), net, data=(torch.randn(4,64), torch.arange(4)))
    assert seen=={(False, False)} and net.training

def test_the_same_network_twice_and_parts_in_common():
    net = mlp()
    half = nn.Sequential(*list(net)[:4])
    before = traces(net)
    p = quick(net, digits(), [net, half])
    assert traces(net)==before and list(p.table.index)==['model','other 1','other 2']

def test_random_numbers_of_networks_are_the_same_in_each_call():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64,10)
        def forward(self, x): return self.fc(x.flatten(1)) + torch.rand(10)*9
    net,data = Noisy(),(digits(64), torch.arange(64) % 10)
    found = {quick(net, digits(), data=data).table.loc['model','accuracy'] for _ in range(3)}
    assert len(found)==1

def test_gradients_are_not_computed_and_an_example_that_wants_them_may_be_given():
    net = mlp()
    quick(net, digits().requires_grad_())
    assert all(p.grad is None for p in net.parameters())

# ---- inputs and outputs

class Flexible(nn.Module):
    def __init__(self, gives):
        super().__init__()
        self.fc,self.gives = nn.Linear(4,3),gives
    def forward(self, x, scale=1., *, more=None):
        y = self.fc(x)*scale + (0 if more is None else more)
        return dict(tuple=(y, [x]), dict=dict(logits=y), none=None, tensor=y)[self.gives]

@pytest.mark.parametrize('gives', ['tuple','dict','none','tensor'])
@pytest.mark.parametrize('example', [torch.randn(2,4), (torch.randn(2,4), 3.), [torch.randn(2,4)], dict(x=torch.randn(2,4), more=torch.ones(3))])
def test_any_output_and_any_arguments(gives, example):
    p = quick(Flexible(gives), example)
    assert p.table.loc['model','macs']==24

@pytest.mark.parametrize('gives', ['tuple','dict'])
def test_accuracy_needs_scores(gives):
    with pytest.raises(ValueError, match=f"data: accuracy needs a score for each class.*'model' gives a {gives}"):
        quick(Flexible(gives), torch.randn(2,4), data=(torch.randn(2,4), torch.zeros(2, dtype=torch.int64)))

@pytest.mark.parametrize('example,error,match', [
    (torch.zeros(0,1,8,8), ValueError, 'at least one item'), (np.zeros((2,64)), TypeError, 'example=ndarray'), ('x', TypeError, 'example=str'),
    (None, TypeError, 'example=NoneType'), ((), TypeError, 'example=tuple'), ({}, TypeError, 'example=dict'), ((3,), TypeError, 'at least one tensor'),
    (torch.zeros(2,63), ValueError, r"'model' cannot take torch.float32 \(2, 63\): RuntimeError"), 
    (torch.zeros(2,64).long(), ValueError, 'cannot take torch.int64'),
    (dict(wrong=torch.zeros(2,64)), ValueError, 'TypeError.*wrong'),
    (torch.zeros(2,64).double(), ValueError, 'its weights are torch.float32, the example is torch.float64')])
def test_examples_that_do_not_go(example, error, match):
    net = mlp()
    before = traces(net)
    with pytest.raises(error, match=match): quick(net, example)
    assert traces(net)==before

def test_half_precision_on_the_cpu():
    net = mlp().half()
    with pytest.raises(ValueError, match='its weights are torch.float16, the example is torch.float32'): quick(net, digits())
    p = quick(net, digits().half(), mlp().half())
    assert p.table.loc['model','file']<.55*quick(mlp(), digits()).table.loc['model','file']

def test_a_network_for_another_input_is_named():
    with pytest.raises(ValueError, match="example: 'photos' cannot take"): quick(mlp(), digits(), {'photos': ConvNet(3)})

@pytest.mark.parametrize('kwargs,error,match', [
    (dict(repeats=0), ValueError, 'repeats=0: expected a whole number of at least 1'), (dict(repeats=1.5), TypeError, 'repeats=1.5'),
    (dict(repeats=True), TypeError, 'repeats=True'), (dict(seconds=0), ValueError, 'seconds=0'), (dict(seconds=-1), ValueError, 'seconds=-1'),
    (dict(seconds=math.nan), ValueError, 'seconds=nan'), (dict(seconds='1'), TypeError, "seconds='1'"), (dict(seconds=True), TypeError, 'seconds=True'),
    (dict(threads=0), ValueError, 'threads=0'), (dict(timer=3), TypeError, 'timer=int'), (dict(zip_level=10), ValueError, 'zip_level=10'),
    (dict(against=3), TypeError, 'against=int'),
    (dict(against=[3]), TypeError, "'other'=int"), (dict(against={3: mlp()}), TypeError, '3: expected the name of a network'),
    (dict(against={'model': mlp()}), ValueError, "'model' is taken"),
    (dict(against=random_ticket(nn.Linear(64,2), 50)), ValueError, "'ticket': a ticket of another model"),
    (dict(against=nn.LazyLinear(3)), ValueError, "'other': weight is not initialised yet"),
    (dict(against=nn.Linear(8,3,device='meta')), ValueError, "'other': weight is on the meta device")])
def test_settings_that_cannot_be_right(kwargs, error, match):
    with pytest.raises(error, match=match): quick(mlp(), digits(), **kwargs)

@pytest.mark.parametrize('model', [3, {}, {'a': 3}, {'a': random_ticket(mlp(), 50)}, None])
def test_models_that_are_none(model):
    with pytest.raises(TypeError): quick(model, digits())

# ---- accuracy

def test_accuracy_by_every_kind_of_data():
    dls,net = digits_dls(bs=50).cpu(),mlp()
    x,y = (torch.cat([o[i].as_subclass(torch.Tensor) for o in dls.valid]) for i in range(2))
    with torch.no_grad(): expected = 100*(net(x).argmax(1)==y).float().mean().item()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 7, shuffle=True)
    for data in (dls, dls.valid, (x, y), [x, y], loader, [(x[:9], y[:9]), (x[9:], y[9:])]):
        assert quick(net, digits(), data=data).table.loc['model','accuracy']==pytest.approx(expected)
    assert math.isnan(quick(net, digits()).table.loc['model','accuracy'])

def test_data_loaders_go_on_as_if_nothing_had_been():
    dls = digits_dls(bs=50).cpu()
    epochs = dls.train.epoch,dls.valid.epoch
    net,g = mlp(),torch.Generator().manual_seed(3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(digits(), torch.zeros(16, dtype=torch.int64)), 7, shuffle=True, generator=g)
    state,numbers_before = g.get_state(),numbers()
    for data in (dls, dls.valid, dls.train, loader): quick(net, digits(), data=data)
    assert (dls.train.epoch, dls.valid.epoch)==epochs and torch.equal(g.get_state(), state) and numbers()==numbers_before

x16,y16 = digits(),torch.zeros(16, dtype=torch.int64)
@pytest.mark.parametrize('data,error,match', [
    (x16, TypeError, 'data=Tensor'), ('digits', TypeError, 'data=str'), (3, TypeError, 'data=int'), ({}, TypeError, 'data=dict'),
    ([x16], ValueError, 'got Tensor'), ([(x16,)], ValueError, 'got 1 parts'), ([(x16, None)], ValueError, 'two tensors'),
    ((x16, y16[:3]), ValueError, '16 inputs, but 3 labels'),
    ((x16, y16.float()), ValueError, r'a whole number as the label of each input, \[16\], got torch.float32'), ((x16, y16[:,None]), ValueError, r'\[16, 1\]'),
    ([], ValueError, 'at least one batch'), ((x16[:0], y16[:0]), ValueError, 'at least one batch'),
    ((torch.zeros(4,63), y16[:4]), ValueError, "'model' cannot take")])
def test_data_that_do_not_go(data, error, match):
    net = mlp()
    before = traces(net)
    with pytest.raises(error, match=match): quick(net, digits(), data=data)
    assert traces(net)==before

# ---- tickets, wrappers

def test_a_ticket_is_put_on_a_copy_with_its_trained_weights():
    net = mlp()
    start = random_ticket(net, 75)
    trained = {k: t*(t.dim()>1) for k,t in everything(net).items()} # without biases
    ticket = Ticket(start.masks, start.state, trained)
    before = everything(net)
    data = digits(40),torch.arange(40) % 10
    p = quick(net, digits(), {'trained': ticket, 'not': start}, data=data)
    assert not differing(before, everything(net))
    for name,o in dict(trained=ticket.trained_into, **{'not': start.apply_to}).items():
        o(other:=mlp())
        with torch.no_grad(): expected = 100*(other(data[0]).argmax(1)==data[1]).float().mean().item()
        assert p.table.loc[name,'accuracy']==pytest.approx(expected)
    assert p.table.loc['not','macs_nonzero']==16*start.masks.n_kept
    assert (p.table.loc['not','nonzero']-p.table.loc['trained','nonzero'])==300+100+10

def test_profile_of_a_file(tmp_path):
    net = mlp()
    ticket = random_ticket(net, 95)
    file = ticket.save(tmp_path/'t.safetensors', full=True)
    other = mlp()
    with torch.no_grad(): other[1].weight[:] = 0 # the dense weights are the ticket's
    before = everything(other)
    p = profile_ticket(file, other, digits(), repeats=1, timer=Clock(.01))
    assert list(p.table.index)==['dense','ticket'] and not differing(before, everything(other))
    assert p.table.loc['dense','nonzero']==50_610
    assert p.table.loc['ticket','macs_nonzero']==16*ticket.masks.n_kept
    with pytest.raises(FileNotFoundError): profile_ticket(tmp_path/'no', net, digits())
    (tmp_path/'bad').write_bytes(b'bad')
    with pytest.raises(TicketError): profile_ticket(tmp_path/'bad', net, digits())
    with pytest.raises(ValueError, match='a ticket of another model'): profile_ticket(file, ConvNet(), batch()[0])
    with pytest.raises(TypeError, match='ticket=int'): profile_ticket(3, net, digits())
    with pytest.raises(TypeError, match='model=str'): profile_ticket(file, 'mlp', digits())

def test_wrapped_networks():
    net = mlp()
    for wrapped in (nn.DataParallel(net), torch.compile(net, backend='eager')):
        p = quick(wrapped, digits(), {'plain': net, 'ticket': random_ticket(net, 50)})
        assert p.table.macs.nunique()==1 and p.table.loc['model','file']==p.table.loc['plain','file']
        assert net.training

def test_another_device_gets_a_copy():
    net = mlp()
    p = quick(net, digits(), net, device='cpu')
    assert p.facts['device']=='cpu'
    for device in ('nowhere', 'cuda:99', [3]):
        with pytest.raises(ValueError, match='device=.*expected a device of this machine'): quick(net, digits(), device=device)

def test_torchscript_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        net = torch.jit.trace(mlp().eval(), digits())
    with pytest.raises(TypeError, match="'model': TorchScript"): quick(net, digits())

# ---- what comes back

def test_the_table_and_its_ratios():
    p = quick({'dense': mlp()}, digits(), {'masked': masked(mlp(), 90)})
    row = p.table.loc['masked']
    assert row.nonzero_ratio==row.nonzero/p.table.loc['dense','parameters'] and row.macs_nonzero_ratio==pytest.approx(.1)
    assert row.ticket_file_ratio==row.ticket_file/p.table.loc['dense','file']
    for k in ('parameters','nonzero','macs','macs_nonzero'): assert p.layers.groupby('network')[k].sum().to_dict()==p.table[k].to_dict()

def test_texts_pictures_and_json():
    name = '<b>&"x'
    p = quick({'dense': mlp()}, digits(), {name: masked(mlp())}, data=(x16, y16))
    assert name in repr(p) and 'accuracy' in repr(p) and '<b>&' not in p._repr_html_() and '&lt;b&gt;' in p._repr_html_()
    told = json.loads(p.to_json(indent=None))
    assert [o['network'] for o in told['networks']]==['dense', name] and set(told)=={'networks','layers','times','facts'}
    pd.testing.assert_frame_equal(pd.DataFrame(told['layers']), p.layers)
    ax = p.plot()
    assert len(ax.containers)>=2 and ax.get_xlabel().startswith('part of what dense has')
    assert isinstance(p, Profile) and p.plot(ax) is ax

def test_what_is_not_measured_is_not_shown():
    p = quick(mlp(), digits(), zip_level=None)
    assert math.isnan(p.table.loc['model','file_zipped']) and 'zipped' not in repr(p).lower() and 'accuracy' not in p._repr_html_()
    assert [o.get_text() for o in p.plot().get_yticklabels()].count('dense file, zipped')==0
    assert quick(mlp(), digits(), zip_level=0).table.loc['model','file_zipped']>p.table.loc['model','file']

def test_the_standard_library_keeps_its_profile():
    code = ('import profile, cProfile, lottery_nb.measure as ours, logging; from lottery_nb.measure import _benchmark, profile as f; _benchmark(); '
            'import lottery_nb; print(profile.__name__, hasattr(profile, "Profile"), "lottery_nb" in profile.__file__, callable(f), '
            'lottery_nb.measure is ours)')
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert out.stdout.split()==['profile','True','False','True','True'], out.stderr
    assert not out.stderr
