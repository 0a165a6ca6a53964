"""What `profile` counts, held against counts made by hand; that it leaves nothing behind; what it refuses.
No test depends on how fast anything is"""
import copy, json, math, random, warnings

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from models import ConvNet, batch, copied, differing, everything, mlp
from safetensors.torch import save_model
from torch import library, nn
from torch.nn.utils import parametrize, prune

from lottery_nb.data import digits_dls
from lottery_nb.masks import Masks, named_tensors
from lottery_nb.measure import as_call, count_macs, interleaved_times, profile
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket
from lottery_nb.arms import random_ticket

class Clock:
    "A clock that runs only when somebody takes time, or at every look if `tick`"
    def __init__(self, tick=0.): self.now,self.tick = 0.,tick
    def __call__(self):
        self.now += self.tick
        return self.now
    def takes(self, seconds, log=None):
        def run():
            self.now += seconds
            if log is not None: log.append(seconds)
        return run

class Does(nn.Module):
    "Does to what its layer gives what it's told"
    def __init__(self, f):
        super().__init__()
        self.fc,self.f = nn.Linear(8,24),f
    def forward(self, x): return self.f(self.fc(x))

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

def told(net, x):
    "Layer -> (multiply-adds, those on nonzero weights); every operation has a formula"
    macs = count_macs(net, x)
    assert not macs.uncounted
    return {o.layer: (o.macs, o.macs_nonzero) for o in macs.layers.itertuples() if o.macs}

@settings(max_examples=15)
@given(st.data())
def test_multiply_adds_of_random_networks(data):
    n = data.draw(st.integers(1, 3))
    kinds = getattr(nn, f'Conv{n}d'),getattr(nn, f'ConvTranspose{n}d')
    layers,channels = [],2
    for _ in range(data.draw(st.integers(1, 3))):
        out,kind = data.draw(st.sampled_from([2,4])),data.draw(st.sampled_from(kinds))
        options = {k: data.draw(o) for k,o in dict(stride=st.integers(1,2), padding=st.integers(0,1),
                                                   groups=st.integers(1,2), bias=st.booleans()).items()}
        layers.append(kind(channels, out, data.draw(st.integers(1,2)), **options))
        channels = out
    torch.manual_seed(data.draw(st.integers(0, 99)))
    net = masked(nn.Sequential(*layers), data.draw(st.sampled_from([0, 50, 80])))
    x = torch.randn(data.draw(st.integers(1, 3)), 2, *[8]*n)
    assert told(net, x)==by_hand(net, x)
    macs,row = count_macs(net, x),quick(net, x).table.loc['model']
    assert macs.layers.nonzero.sum()==sum(int((w!=0).sum()) for w in net.parameters())
    assert [macs.total, macs.nonzero]==[sum(o) for o in zip(*by_hand(net, x).values())]==[row.macs, row.macs_nonzero]

def test_parameters_count_once_and_a_tied_layer_multiplies_where_it_runs():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed,self.head = nn.Embedding(11,4),nn.Linear(4,11,bias=False)
            self.head.weight = self.embed.weight
        def forward(self, i): return self.head(self.embed(i))
    net = Tied()
    with torch.no_grad(): net.embed.weight[:3] = 0
    layers = count_macs(net, torch.arange(10)[None]).layers
    assert layers[['parameters','nonzero']].sum().tolist()==[44, 32]
    assert told(net, torch.arange(10)[None])=={'head': (10*44, 10*32)}

def test_weights_that_others_compute_are_counted_as_they_are_used():
    x = torch.randn(6,8)
    pruned = nn.Sequential(nn.Linear(8,4))
    prune.l1_unstructured(pruned[0], 'weight', 8)
    assert told(pruned, x)=={'0': (6*32, 6*24)}
    class Third(nn.Module):
        def forward(self, w): return torch.cat([w[:1], torch.zeros_like(w[1:])])
    parametrized = nn.Sequential(nn.Linear(8,3), nn.Linear(3,5))
    parametrize.register_parametrization(parametrized[0], 'weight', Third())
    assert told(parametrized, x)=={'0': (6*24, 6*8), '1': (6*15, 6*15)}

@pytest.mark.parametrize('heads,kwargs',
                         [(1, {}), (2, dict(is_causal=True)), (4, dict(attn_mask=torch.ones(50,50).bool()))])
@pytest.mark.parametrize('dims', [3, 4])
def test_scaled_dot_product_attention_is_counted_on_every_way_through_pytorch(heads, kwargs, dims):
    def attend(qkv):
        q,k,v = (o.unflatten(-1, (heads,-1)).transpose(-2,-3) for o in qkv.chunk(3, -1))
        if dims==3: q,k,v = (o.flatten(0, 1) for o in (q,k,v))
        return nn.functional.scaled_dot_product_attention(q, k, v, **kwargs)
    assert told(Does(attend), torch.randn(3,50,8))=={'fc': (3*50*8*24,)*2, '(whole)': (3*2*50*50*8,)*2}

def test_a_bilinear_layer_uses_every_weight_once_for_every_item():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Bilinear(3,4,5)
        def forward(self, x): return self.mix(x[...,:3], x)
    net = Both()
    with torch.no_grad(): net.mix.weight[:2] = 0
    for x,n in ((torch.randn(2,4), 2), (torch.randn(2,7,4), 14)): assert told(net, x)=={'mix': (n*60, n*36)}

@pytest.mark.parametrize('f,macs', [(lambda y: y @ y[0,0], 2*5*24), (lambda y: y[0] @ y[1,2], 5*24),
                                    (lambda y: y[0,0] @ y[0,1], 24),
                                    (lambda y: torch.addbmm(torch.zeros(5,5), y, y.mT), 2*5*5*24),
                                    (lambda y: torch.addmv(y[0,:,0], y[0], y[0,0]), 5*24)])
def test_products_for_which_pytorch_has_no_formula(f, macs):
    assert told(Does(f), torch.randn(2,5,8))=={'fc': (2*5*8*24,)*2, '(whole)': (macs, macs)}

@pytest.mark.parametrize('kind,gates', [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers(kind, gates):
    net = kind(5, 7, batch_first=True)
    with torch.no_grad(): net.weight_hh_l0[:] = 0
    assert told(net, torch.randn(3,11,5))=={'(whole)': (3*11*gates*7*(5+7), 3*11*gates*7*5)}
    assert torch.backends.mkldnn.enabled

@pytest.mark.parametrize('name', ['resnet18','vit_b_16','squeezenet1_1',
                                  'shufflenet_v2_x0_5','mobilenet_v3_small','mnasnet0_5','swin_t'])
def test_multiply_adds_are_those_that_torchvision_gives(name, recwarn):
    "And none of them has an operation that would need a warning"
    from torchvision.models import get_model, get_model_weights
    weights = get_model_weights(name).DEFAULT
    macs = count_macs(get_model(name), torch.zeros(1,3,*weights.transforms().crop_size*2))
    assert round(macs.total/1e9, 3)==pytest.approx(weights.meta['_ops'], abs=.0011) and not macs.uncounted
    assert not [w for w in recwarn if 'not counted' in str(w.message)]

@library.custom_op('test_measure::twice', mutates_args=())
def twice(x:torch.Tensor)->torch.Tensor: return 2*x

@pytest.mark.parametrize('f,name',
                         [(torch.fft.fft, 'aten._fft_r2c'), (lambda y: torch.cdist(y, y), 'aten._cdist_forward'),
                          (lambda y: twice(y), 'test_measure.twice'),
                          (lambda y: torch.linalg.inv(y[:,:,:5]), 'aten.linalg_inv_ex')])
def test_what_cannot_be_counted_is_named(f, name):
    "Whatever it is, and whether there's a weight in it or not: in one warning, and in the result"
    with pytest.warns(UserWarning, match=f'not counted: {name}$'): macs = count_macs(Does(f), torch.randn(2,5,8))
    assert macs.uncounted==[name] and name in repr(macs) and macs.total==2*5*8*24
    with pytest.warns(UserWarning, match='not counted') as said:
        p = quick({'a': Does(f), 'b': Does(f)}, torch.randn(2,5,8))
    assert p.facts['uncounted']==dict(a=[name], b=[name]) and name in p.how
    assert len([w for w in said if 'not counted' in str(w.message)])==1

def test_a_ratio_to_nothing_is_nan():
    p = quick(nn.ReLU(), torch.randn(3,2))
    assert p.table.loc['model','parameters']==0 and p.table.loc['model',['macs_ratio','ticket_file']].isna().all()
    assert 'ticket' not in repr(p) and '–' in repr(quick(mlp(), digits(), nn.Flatten()))
    assert p.summary()['networks'][0]['ticket_file'] is None
    p.plot()

# ---- bytes

@pytest.mark.parametrize('net', [mlp(), masked(mlp()), masked(ConvNet(), 50)])
def test_bytes_are_those_of_the_files(tmp_path, net):
    row = quick(net, digits() if isinstance(net, nn.Sequential) else batch()[0]).table.loc['model']
    save_model(net, str(tmp_path/'dense'))
    tensors = named_tensors(net)
    Ticket(Masks({k: tensors[k]!=0 for k in Sparsifier(net).layers}), tensors).save(tmp_path/'ticket')
    assert [row.file, row.ticket_file]==[(tmp_path/o).stat().st_size for o in ('dense','ticket')]

def test_a_tickets_bytes_are_those_of_its_own_file(tmp_path):
    ticket = random_ticket(mlp(), 80)
    with torch.no_grad():
        for k in ticket.masks: ticket.state[k][:,0] = 0 # kept weights that are zero
    file = Ticket(ticket.masks, ticket.state, everything(mlp()), dict(note='x'*999)).save(tmp_path/'t', trained=False)
    assert quick(mlp(), digits(), Ticket.load(file)).table.loc['ticket','ticket_file']==file.stat().st_size

# ---- time

def test_medians_and_quartiles_of_an_injected_clock():
    clock = Clock()
    class Slow(nn.Linear):
        def __init__(self, seconds):
            super().__init__(4, 3)
            self.seconds = seconds
        def forward(self, x):
            clock.now += self.seconds
            return super().forward(x)
    p = profile({'a': Slow(.02)}, torch.randn(2,4), {'b': Slow(.06)}, repeats=10, seconds=1e9, timer=clock)
    b = p.table.loc['b']
    assert [b.latency_q1, b.latency, b.latency_q3, b.latency_ratio,
            b.latency_ratio_q1]==pytest.approx([60, 60, 60, 3, 3])
    assert p.facts['repeats']==len(p.times)==10 and p.times.a.tolist()==pytest.approx([.02]*10)

@pytest.mark.parametrize('repeats', [1, 9, 10, 40])
@pytest.mark.parametrize('b,noise,says', [(.06, 0, '3.00× (3.00 to 3.00)'), (.02, .3, 'no difference'),
                                          (.0205, .3, 'no difference'), (.06, .3, '×')])
def test_no_ratio_of_times_that_a_few_repeats_or_their_quartiles_do_not_carry(repeats, b, noise, says):
    clock,luck = Clock(),np.random.default_rng(0)
    class Slow(nn.Linear):
        def __init__(self, seconds):
            super().__init__(4, 3)
            self.seconds = seconds
        def forward(self, x):
            clock.now += self.seconds*np.exp(noise*luck.normal())
            return super().forward(x)
    p = profile({'a': Slow(.02)}, torch.randn(2,4), {'b': Slow(b)}, repeats=repeats, seconds=1e9, timer=clock)
    told,ratio = p.readable().loc['time of a pass',('b','ratio')],p.table.loc['b'].latency_ratio
    assert (says in told if repeats>=10 else told=='') and math.isnan(ratio)==(repeats<10)
    assert ('fewer than the 10' in p.how)==(repeats<10) and f'medians of {repeats} repeat' in p.how
    assert 'nan' not in repr(p)
    p.plot()

def test_functions_take_turns_and_another_begins_each_repeat():
    clock,log = Clock(),[]
    interleaved_times({i: clock.takes(i, log) for i in (1,2,3)}, 4, 1e9, timer=clock)
    assert log[-4*6::2]==[1,2,3, 2,3,1, 3,1,2, 1,2,3] # two calls a measurement, one of them to warm up

def test_a_repeat_is_compared_with_itself():
    "A machine that gets slower and slower changes the times, and not the ratio"
    clock = Clock()
    def takes(seconds):
        def run(): clock.now = clock.now*1.01 + seconds
        return run
    times = interleaved_times({'a': takes(1), 'b': takes(2)}, 30, 1e9, timer=clock)
    assert times.b.max()>1.3*times.b.min() and (times.b/times.a).quantile(.75)<1.5*(times.b/times.a).quantile(.25)

@pytest.mark.parametrize('seconds,repeats', [(1e-9, 1), (5, 3), (6.5, 4), (100, 20)])
def test_the_budget_ends_the_repeats_and_one_is_always_run(seconds, repeats):
    "A call of a second, and one to warm up before it"
    clock = Clock()
    assert len(interleaved_times(dict(a=clock.takes(1.)), 20, seconds, timer=clock))==repeats

def test_short_calls_are_timed_by_the_millisecond():
    clock,log = Clock(),[]
    times = interleaved_times(dict(a=clock.takes(1e-4, log)), 3, 1e9, timer=clock)
    assert times.a.tolist()==pytest.approx([1e-4]*3) and len(log)==2+3*11

def test_threads_are_those_asked_for_and_go_back():
    seen,before = [],torch.get_num_threads()
    class Net(nn.Linear):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return super().forward(x)
    p = quick(Net(2,2), torch.randn(1,2), threads=2)
    assert seen[-1]==2 and torch.get_num_threads()==before and p.facts['threads']==2
    assert quick(Net(2,2), torch.randn(1,2)).facts['threads']==before

# ---- nothing is left behind

class Restless(nn.Module):
    "Leaves traces in every forward pass, draws random numbers, and fails in pass number `fail` of all copies"
    passes = []
    def __init__(self, fail=None):
        super().__init__()
        self.fc,self.norm,self.fail = nn.Linear(64,10),nn.BatchNorm1d(10),fail
        self.register_buffer('seen', torch.zeros(3))
        self.register_buffer('none', None)
        self.n = 0
        self.passes.clear()
    def forward(self, x):
        self.n += 1
        self.seen += 1
        self.none = torch.ones(1)
        self.passes.append(1)
        torch.rand(1), np.random.rand(), random.random()
        if len(self.passes)==self.fail: raise RuntimeError('no more')
        return self.norm(self.fc(x.flatten(1)))

def traces(net):
    hooks = {n: [len(v) for k,v in vars(m).items() if k.endswith('_hooks')] for n,m in net.named_modules()}
    modes = (torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled,
             torch.get_num_threads())
    return dict(flags={n: m.training for n,m in net.named_modules()},
                hooks=hooks, modes=modes, grads=[p.grad for p in net.parameters()],
                ids={k: id(t) for k,t in named_tensors(net).items()})

def numbers():
    return torch.get_rng_state().tolist(),np.random.get_state()[1].tolist(),np.random.get_state()[2],random.getstate()

@pytest.mark.parametrize('fail', [None, 1, 2, 3, 5, 8])
def test_nothing_changes_also_after_an_error(fail):
    net,other = Restless(fail),masked(mlp())
    net.norm.eval(), other[1].eval()
    net.fc.register_forward_hook(lambda *o: None)
    before,state = [(traces(o), copied(named_tensors(o))) for o in (net, other)],numbers()
    try: quick(net, digits(), other, data=[(digits(), torch.zeros(16, dtype=torch.int64))], repeats=2)
    except (RuntimeError,ValueError) as e: assert fail and 'no more' in str(e)
    else: assert fail is None
    assert len(net.passes)>=(fail or 1) and net.n==0 and net.none is None and numbers()==state
    for o,(was,tensors) in zip((net, other), before): assert traces(o)==was and not differing(named_tensors(o), tensors)

def test_every_pass_is_in_eval_mode_and_without_gradients():
    seen = set()
    class Net(nn.Linear):
        def forward(self, x):
            seen.add((self.training, torch.is_grad_enabled()))
            return super().forward(x)
    net = Net(64,10)
    quick(net, torch.randn(2,64, requires_grad=True), net, data=[(torch.randn(4,64), torch.arange(4))])
    assert seen=={(False, False)} and net.training

def test_random_numbers_of_networks_are_the_same_in_each_call():
    class Noisy(nn.Linear):
        def forward(self, x): return super().forward(x.flatten(1)) + torch.rand(10)*9
    net,data = Noisy(64,10),[(digits(64), torch.arange(64) % 10)]
    assert len({quick(net, digits(), data=data).table.loc['model','accuracy'] for _ in range(3)})==1

# ---- inputs and outputs

class Flexible(nn.Module):
    def __init__(self, gives):
        super().__init__()
        self.fc,self.gives = nn.Linear(4,3),gives
    def forward(self, x, scale=1., *, more=None):
        y = self.fc(x)*scale + (0 if more is None else more)
        return dict(tuple=(y, [x]), dict=dict(logits=y), none=None, tensor=y)[self.gives]

@pytest.mark.parametrize('gives', ['tuple','dict','none','tensor'])
@pytest.mark.parametrize('example', [torch.randn(2,4), (torch.randn(2,4), 3.),
                                     [torch.randn(2,4)], dict(x=torch.randn(2,4), more=torch.ones(3))])
def test_any_output_and_any_arguments(gives, example):
    assert quick(Flexible(gives), example).table.loc['model','macs']==count_macs(Flexible(gives), example).total==24
    args,kwargs = as_call(example)
    assert len(args)+len(kwargs)==(1 if isinstance(example, torch.Tensor) else len(example))

no_example,cannot = 'example=.*a batch of at least one item','inputs that .model. can take'
@pytest.mark.parametrize('example,match', [
    (torch.zeros(0,1,8,8), no_example), (np.zeros((2,64)), no_example), (None, no_example), ({}, no_example),
    (torch.zeros(2,63), f'float32 .2, 63.*{cannot}: RuntimeError'),
    (dict(wrong=torch.zeros(2,64)), f'{cannot}: TypeError.*wrong')])
def test_examples_that_do_not_go(example, match):
    for f in (quick, count_macs):
        with pytest.raises(ValueError, match=match): f(mlp(), example)

@pytest.mark.parametrize('kwargs,match', [
    (dict(seconds=math.nan), 'seconds=nan'), (dict(threads=0), 'threads=0'), (dict(device='nowhere'), 'nowhere'),
    (dict(device='cuda:99'), 'a device of this machine'),
    (dict(against=3), 'other=3: expected an nn.Module, or a Ticket'),
    (dict(against={'model': mlp()}), "against='model': expected names"),
    (dict(model={}), 'model={}'), (dict(model=random_ticket(mlp(), 50)), 'model=.*expected an nn.Module')])
def test_settings_that_cannot_be_right(kwargs, match):
    with pytest.raises(ValueError, match=match): quick(**{**dict(model=mlp(), example=digits()), **kwargs})

def test_multiply_adds_of_no_network():
    with pytest.raises(TypeError, match='model=None: expected an nn.Module'): count_macs(None, digits())

# ---- accuracy

def test_accuracy_by_every_kind_of_data_and_data_loaders_go_on_as_if_nothing_had_been():
    dls,net,g = digits_dls(bs=50).cpu(),mlp(),torch.Generator().manual_seed(3)
    x,y = (torch.cat([o[i].as_subclass(torch.Tensor) for o in dls.valid]) for i in range(2))
    with torch.no_grad(): expected = (net(x).argmax(1)==y).float().mean().item()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 7, shuffle=True, generator=g)
    before = dls.train.epoch,dls.valid.epoch,g.get_state().tolist(),numbers()
    for data in (dls, dls.valid, loader, [(x[:9], y[:9]), (x[9:], y[9:])]):
        assert quick(net, digits(), data=data).table.loc['model','accuracy']==pytest.approx(expected)
    quick(net, digits(), data=dls.train)
    assert (dls.train.epoch, dls.valid.epoch, g.get_state().tolist(), numbers())==before
    assert math.isnan(quick(net, digits()).table.loc['model','accuracy'])

x16,y16 = digits(),torch.zeros(16, dtype=torch.int64)
@pytest.mark.parametrize('data', [x16, 'digits', {}, [], [(x16,)], [(x16, None)], [(x16, y16[:3])],
                                  [(x16, y16.float())], [(x16, y16[:,None])], [(torch.zeros(4,63), y16[:4])]])
def test_data_that_do_not_go(data):
    with pytest.raises(ValueError, match="data=.*batches of inputs and labels .*for which 'model' gives scores"):
        quick(mlp(), digits(), data=data)

def test_accuracy_needs_scores():
    with pytest.raises(ValueError, match="'model' gives scores .n, classes."):
        quick(Flexible('dict'), torch.randn(2,4), data=[(torch.randn(2,4), torch.zeros(2, dtype=torch.int64))])

# ---- tickets, wrappers

def test_a_ticket_is_put_on_a_copy_with_its_trained_weights():
    net = mlp()
    start = random_ticket(net, 75)
    trained = {k: t*(t.dim()>1) for k,t in everything(net).items()} # without biases
    ticket,before = Ticket(start.masks, start.state, trained),everything(net)
    x,y = digits(40),torch.arange(40) % 10
    p = quick(net, digits(), {'trained': ticket, 'not': start}, data=[(x, y)])
    assert not differing(before, everything(net))
    for name,put in {'trained': ticket.trained_into, 'not': start.apply_to}.items():
        put(other := mlp())
        with torch.no_grad():
            assert p.table.loc[name,'accuracy']==pytest.approx((other(x).argmax(1)==y).float().mean().item())
    assert p.table.loc['not','macs_nonzero']==16*start.masks.n_kept
    assert p.table.loc['not','nonzero']-p.table.loc['trained','nonzero']==300+100+10

def test_profile_of_a_file(tmp_path):
    ticket = random_ticket(mlp(), 95)
    file = ticket.save(tmp_path/'t.safetensors', full=True)
    ticket = Ticket.load(file)
    ticket.dense().apply_to(net:=mlp())
    before = everything(net)
    p = quick({'dense': net}, digits(), ticket)
    assert list(p.table.index)==['dense','ticket'] and not differing(before, everything(net))
    assert p.table.loc['dense','nonzero']==50_610
    assert p.table.loc['ticket','macs_nonzero']==16*ticket.masks.n_kept

def test_wrapped_networks():
    net = mlp()
    for wrapped in (nn.DataParallel(net), torch.compile(net, backend='eager')):
        p = quick(wrapped, digits(), {'plain': net, 'ticket': random_ticket(net, 50)}, device='cpu')
        assert p.table.macs.nunique()==1
        assert p.table.loc['model','file']==p.table.loc['plain','file'] and p.facts['device']=='cpu'

@pytest.mark.filterwarnings('ignore')
def test_torchscript_is_refused():
    with pytest.raises(TypeError, match='model=.*TorchScript'):
        quick(torch.jit.trace(mlp().eval(), digits()), digits())

# ---- what comes back

def test_the_table_and_its_ratios():
    p = quick({'dense': mlp()}, digits(), {'masked': masked(mlp(), 90)})
    row = p.table.loc['masked']
    assert row.nonzero_ratio==row.nonzero/p.table.loc['dense','parameters']
    assert row.macs_nonzero_ratio==pytest.approx(.1)
    assert row.ticket_file_ratio==row.ticket_file/p.table.loc['dense','file'] and math.isnan(row.memory)
    for k in ('parameters','nonzero','macs','macs_nonzero'):
        assert p.layers.groupby('network')[k].sum().to_dict()==p.table[k].to_dict()

def test_names_are_text_and_json_is_whole():
    name = '<b>&"x'
    p = quick({'dense': mlp()}, digits(), {name: masked(mlp())}, data=[(x16, y16)])
    assert name in repr(p) and '<b>&' not in p._repr_html_() and '&lt;b&gt;' in p._repr_html_()
    told = json.loads(json.dumps(p.summary(), allow_nan=False))
    assert [o['network'] for o in told['networks']]==['dense', name]
    pd.testing.assert_frame_equal(pd.DataFrame(told['layers']), p.layers)
