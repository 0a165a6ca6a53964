"Scores from data against formulas and torch.func, and that nothing of the user's is touched while they are gathered"
import copy, pickle, random
import numpy as np, pytest, torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from torch import nn
from torch.utils import data as torch_data

from lottery_nb.calibration import (Calibration, calibration_batches, fisher, need, obd, prune_by_columns_, sparsegpt,
                                    wanda)
from lottery_nb.callback import SparsifyCallback
from lottery_nb.core import ArgumentError
from lottery_nb.criteria import WeightView, criteria, criterion, needs, taylor
from lottery_nb.data import digits_dls
from lottery_nb.find import find_ticket
from lottery_nb.sparsifier import Sparsifier
from models import (ConvNet, batch, copied, differing, everything, few_batches, mlp, nonzero_pruned, quiet,
                    same_bits)

of_data = ['wanda', 'fisher', 'obd']
pytestmark = [pytest.mark.filterwarnings(f'ignore:{o}') for o in ('layer collapse', 'You are shadowing')]
by_criterion = pytest.mark.parametrize('name', of_data)

def images(n=3): return [batch(seed=i) for i in range(n)]

def gathered(need, net, data, criteria=wanda, **kwargs):
    "What is gathered for a criterion, name -> tensor"
    sp = Sparsifier(net, criteria=criteria, data=data, **kwargs)
    with sp.gathering(): return copied(sp.gathered[need])

# What is gathered

def norm(x, dim): return x.transpose(0, dim).flatten(1).norm(dim=1) # of each feature, over all else

def test_the_inputs_of_convs_and_linear_layers():
    net,data = ConvNet().eval(),images()
    seen = {n: [] for n,m in net.named_modules() if getattr(m, 'weight', None) is not None and m.weight.dim()>1}
    for n in seen: net.get_submodule(n).register_forward_hook(lambda m, x, y, n=n: seen[n].append(x[0].detach()))
    for x,_ in data: net(x)
    x = {n: norm(torch.cat(o), 1) for n,o in seen.items()}
    found = gathered('inputs', net, data)
    assert list(found)==[f'{n}.weight' for n in x] and all(t.shape==net.get_parameter(k).shape for k,t in found.items())
    def check(k, expected): torch.testing.assert_close(found[k], expected.expand(found[k].shape))
    check('head.weight', x['head'][None])
    check('stem.0.weight', x['stem.0'].view(1,-1,1,1))
    # a filter sees the two channels of its group, a row of a transposed convolution's weight is a channel
    check('grouped.weight', x['grouped'].view(4,1,2).expand(4,2,2).reshape(8,2,1,1))
    check('up.weight', x['up'].view(-1,1,1,1))

def test_wanda_is_magnitude_times_the_norm_of_the_inputs():
    lin,x = nn.Linear(5,3),torch.randn(7,4,5) # items, tokens
    w = lin.weight.detach()
    sp = Sparsifier(nn.Sequential(lin), criteria=wanda, data=[(x[:3],), (x[3:],)])
    expected = w.abs()*x.flatten(0,1).norm(dim=0)
    masks = sp.sparsify(40)
    assert sorted(expected[~masks['0.weight']])==sorted(expected.flatten())[:6]

class Queries(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.att = nn.MultiheadAttention(8, 2, batch_first=True, **kwargs)
    def forward(self, q, k): return self.att(q, k, k)[0]

class Pairs(list): n_inp = 2

@pytest.mark.parametrize('kwargs', [{}, dict(kdim=6, vdim=6)])
def test_attention_sees_queries_keys_and_values(kwargs):
    q,k = torch.randn(3,4,8),torch.randn(3,5,kwargs.get('kdim', 8))
    net = Queries(**kwargs)
    found = gathered('inputs', net, Pairs([(q, k)]))
    parts = [norm(o, 2).expand(8, -1) for o in (q, k, k)]
    if kwargs: inputs = [found[f'att.{o}_proj_weight'] for o in 'qkv']
    else: inputs = found['att.in_proj_weight'].chunk(3)
    for a,b in zip(inputs, parts): torch.testing.assert_close(a, b)
    # what the heads give is what goes into the last projection
    with torch.no_grad(): net.att.out_proj.weight.copy_(torch.eye(8)), net.att.out_proj.bias.zero_()
    torch.testing.assert_close(found['att.out_proj.weight'][0], norm(net(q, k).detach(), 2))

def test_a_transformer_sees_them_all_though_pytorch_has_a_faster_way():
    net,x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(),torch.randn(3,5,8)
    found = gathered('inputs', net, [(x,)])
    after = net.norm1(x + net.self_attn(x, x, x)[0])
    expected = {'self_attn.in_proj_weight': x, 'linear1.weight': after, 'linear2.weight': net.linear1(after).relu()}
    for k,t in expected.items(): torch.testing.assert_close(found[k][0], norm(t.detach(), 2))

@pytest.mark.parametrize('cell', [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_see_their_states(cell):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = cell(6, 5, num_layers=2, batch_first=True)
            self.first = cell(6, 5, batch_first=True)
        def forward(self, x): return self.rnn(x)[0], self.first(x)[0]
    net,x = Net(),torch.randn(3,4,6)
    net.first.load_state_dict({k: v for k,v in net.rnn.state_dict().items() if '_l0' in k})
    last,first = (o.detach() for o in net(x))
    found = gathered('inputs', net, [(x,)])
    for k,seen in dict(ih_l0=x, hh_l0=first[:,:-1], ih_l1=first, hh_l1=last[:,:-1]).items():
        torch.testing.assert_close(found[f'rnn.weight_{k}'][0], norm(seen, 2))
    @criterion(needs='inputs')
    def with_layer(w):
        assert w.layer.hidden_size==5
        return w.inputs
    Sparsifier(net, criteria=with_layer, data=[(x,)]).sparsify(50)

def test_bilinear_tied_and_computed_weights():
    x = torch.randn(7,4)
    two = nn.Bilinear(4,4,3)
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.two = two
        def forward(self, x): return self.two(x, 2*x)
    expected = torch.einsum('ni,nj->ij', x**2, 4*x**2).sqrt()
    torch.testing.assert_close(gathered('inputs', Both(), [(x,)])['two.weight'], expected.expand(3,4,4))
    tied = nn.Sequential(nn.Linear(4,4), nn.Linear(4,4))
    tied[1].weight = tied[0].weight
    seen = torch.cat([x, tied[0](x).detach()])
    torch.testing.assert_close(gathered('inputs', tied, [(x,)])['0.weight'][0], norm(seen, 1))
    wn = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4,3)))
    torch.testing.assert_close(*(o[0] for o in gathered('inputs', wn, [(x,)]).values()), norm(x, 1))

def gradients(net, data, loss=F.cross_entropy):
    "The gradients of each batch, by name"
    for x,y in data:
        net.zero_grad()
        loss(net(x), y).backward()
        yield {k: p.grad.clone() for k,p in net.named_parameters()}

def test_squared_gradients_of_batches_and_of_items():
    net,data = ConvNet().eval(),images()
    items = [(x[i:i+1], y[i:i+1]) for x,y in data for i in range(len(x))]
    for per,parts in dict(batch=data, item=items).items():
        expected = list(gradients(net, parts))
        net.zero_grad()
        for k,t in gathered('grad_squared', net, data, fisher(per=per)).items():
            torch.testing.assert_close(t, sum(g[k]**2 for g in expected)/len(parts))

def test_taylor_takes_the_mean_gradient_of_the_data_and_not_the_last_one():
    net,data = ConvNet().eval(),images()
    expected = list(gradients(net, data))
    for p in net.parameters(): p.grad = torch.full_like(p, 1e9)
    found = gathered('grad', net, data, taylor)
    for k,t in found.items(): torch.testing.assert_close(t, sum(g[k] for g in expected)/len(data))
    w = net.head.weight.detach()
    masks = Sparsifier(net, 'weight', 'local', taylor, data=data).sparsify(50)
    scores = (w*found['head.weight']).abs()
    assert scores[masks['head.weight']].min()>=scores[~masks['head.weight']].max()
    assert (net.head.weight.grad==1e9).all() # it was not looked at
    plain = Sparsifier(ConvNet(), criteria=taylor) # without data as ever
    with pytest.raises(ArgumentError, match='loss.backward'): plain.sparsify(50)

def tiny(): return nn.Sequential(nn.Linear(3,4), nn.Tanh(), nn.Linear(4,3))

def exact_diagonal(net, data, loss):
    names = [k for k,p in net.named_parameters() if p.dim()>1]
    def mean_loss(ws): return sum(loss(torch.func.functional_call(net, ws, (x,)), y) for x,y in data)/len(data)
    at = {k: net.get_parameter(k).detach() for k in names}
    H = torch.func.hessian(mean_loss)(at)
    return {k: H[k][k].reshape(w.numel(), w.numel()).diagonal().view_as(w) for k,w in at.items()}

@pytest.mark.parametrize('loss', [F.cross_entropy, lambda out, y: F.mse_loss(out, F.one_hot(y, 3).float())])
def test_the_hessian_is_exact_with_a_probe_a_weight_and_right_on_average_with_fewer(loss):
    net,data = tiny(),[(torch.randn(6,3), torch.randint(3, (6,))) for _ in range(3)]
    expected = exact_diagonal(net, data, loss)
    for n in (24, 100):
        found = gathered('hessian', net, data, obd(n_probe=n), loss=loss)
        for k in expected: torch.testing.assert_close(found[k], expected[k], rtol=1e-4, atol=1e-6)
    def off(n_probe, seeds):
        runs = [gathered('hessian', net, data, obd(n_probe=n_probe, seed=s), loss=loss) for s in range(seeds)]
        return sum(((sum(o[k] for o in runs)/seeds-expected[k])**2).sum() for k in expected)**.5
    assert off(23, 40) < .5*off(23, 1) and off(23, 1)>1e-3

def test_obd_is_what_the_second_order_says():
    net,data = tiny(),[(torch.randn(6,3), torch.randint(3, (6,)))]
    h = exact_diagonal(net, data, F.cross_entropy)
    scores = torch.cat([(h[k]*net.get_parameter(k).detach()**2/2).flatten() for k in h])
    masks = Sparsifier(net, criteria=obd(n_probe=24), data=data).sparsify(50)
    kept = torch.cat([m.flatten() for m in masks.values()])
    assert scores[kept].min()>=scores[~kept].max()

def test_a_loss_without_curvature_has_none():
    net = nn.Sequential(nn.Linear(3,2))
    found = gathered('hessian', net, [(torch.randn(4,3), torch.zeros(4))], obd, loss=lambda out, y: out.mean())
    assert found['0.weight'].eq(0).all()

def test_it_is_looked_at_in_eval_mode_and_under_its_masks():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6,6), nn.BatchNorm1d(6), nn.Dropout(.5), nn.Linear(6,3)).train()
    net[1].running_mean.fill_(1.), net[1].running_var.fill_(4.)
    x = torch.randn(8,6)
    expected = copy.deepcopy(net).eval()[:3](x).detach()
    torch.testing.assert_close(gathered('inputs', net, [(x,)])['3.weight'][0], norm(expected, 1))
    sp = Sparsifier(net, criteria=wanda, data=[(x,)], layers='0')
    sp.sparsify(90)
    assert not same_bits(copy.deepcopy(net).eval()[:3](x), expected) # and the next scores are of this network
    with sp.gathering(): torch.testing.assert_close(sp.gathered['inputs']['0.weight'][0], norm(x, 1))
    torch.testing.assert_close(gathered('inputs', net, [(x,)])['3.weight'][0],
                               norm(copy.deepcopy(net).eval()[:3](x).detach(), 1))

@by_criterion
def test_other_precisions_and_autocast(name):
    for dtype in (torch.float64, torch.bfloat16):
        net,(x,y) = ConvNet().to(dtype),batch()
        masks = Sparsifier(net, criteria=name, data=[(x.to(dtype), y)]).sparsify(50)
        assert masks.n_kept==masks.n_weights-round(.5*masks.n_weights)
    net,data = ConvNet(),images()
    alone = Sparsifier(copy.deepcopy(net), criteria=name, data=data).sparsify(50)
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
        assert Sparsifier(net, criteria=name, data=data).sparsify(50)==alone

@by_criterion
def test_every_granularity_and_the_same_bits_again(name):
    for granularity in ('weight', 'kernel', 'filter', 'layer'):
        net = ConvNet()
        a,b = [Sparsifier(copy.deepcopy(net), granularity, criteria=name, data=images(), layers=nn.Conv2d).sparsify(60)
               for _ in range(2)]
        assert a==b and a.n_kept<a.n_weights

# Nothing is touched

def random_state(): return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

@pytest.mark.parametrize('name', [*of_data, 'taylor'])
def test_nothing_of_the_model_the_optimizer_and_the_random_numbers_is_touched(name):
    net = ConvNet().train()
    net.stem.eval() # part of it is
    net.grouped.weight.requires_grad_(False)
    opt = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=.1, momentum=.9)
    x,y = batch()
    F.cross_entropy(net(x), y).backward()
    opt.step()
    sp = Sparsifier(net, criteria=name, data=images())
    sp.watch(opt)
    def state():
        grads = {f'{k} grad': p.grad for k,p in net.named_parameters() if p.grad is not None}
        moved = {f'{i} {k}': t for i,o in enumerate(opt.state.values()) for k,t in o.items()}
        return copied({**everything(net), **grads, **moved})
    def flags(): return [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    ids = [id(t) for t in (*net.parameters(), *net.buffers())]
    before = state(), flags(), random_state(), torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled()
    with sp.gathering(): pass
    assert not differing(before[0], state())
    assert before[1:]==(flags(), random_state(), torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled())
    assert ids==[id(t) for t in (*net.parameters(), *net.buffers())]
    frozen = net.grouped.weight.count_nonzero()
    sp.sparsify(50)
    assert net.grouped.weight.count_nonzero()<frozen # it has a gradient here though it is frozen

def loaders():
    items = [(torch.full((1,6,6), i/40), torch.tensor(i)) for i in range(40)]
    def of_torch(**kwargs): return torch_data.DataLoader(items, batch_size=8, shuffle=True, **kwargs)
    def of_fastai(**kwargs): return DataLoader(items, bs=8, shuffle=True, **kwargs)
    return dict(fastai=of_fastai(), workers=of_fastai(num_workers=1),
                seeded=digits_dls(bs=64).train, torch=of_torch(),
                own=of_torch(generator=torch.Generator().manual_seed(5)),
                persistent=of_torch(num_workers=1, persistent_workers=True))

@pytest.mark.parametrize('name', list(loaders()))
def test_a_loader_in_use_goes_on_as_if_nobody_had_looked(name):
    dl,twin = loaders()[name],loaders()[name]
    def epochs(dl, look):
        torch.manual_seed(3), random.seed(3)
        if hasattr(dl, 'rng'): dl.rng = random.Random(1)
        for _ in range(2):
            for i,(x,y) in enumerate(dl):
                if i==2 and look: found.append(calibration_batches(dl, 2))
                yield y.tolist()
    found = []
    assert list(epochs(dl, True))==list(epochs(twin, False))
    (a,b) = found
    assert all(same_bits(p, q) for u,v in zip(a, b) for p,q in zip(u[0]+u[1], v[0]+v[1])) # always the same ones

def test_all_kinds_of_data_say_the_same():
    data = images(4)
    x,y = (torch.cat(o) for o in zip(*data))
    items = list(zip(x, y))
    dl = torch_data.DataLoader(items, batch_size=8)
    kinds = dict(generator=(o for o in data), function=lambda: data, tuple=tuple(data), dls=few(items),
                 fastai=few(items).train, torch=dl, wrapped=DataLoaders(dl, dl))
    net = ConvNet()
    expected = gathered('inputs', net, data)
    for kind,given in kinds.items():
        sp = Sparsifier(net, criteria=wanda, data=given)
        for _ in range(2): # more than once, the generator too
            with sp.gathering(): assert not differing(sp.gathered['inputs'], expected), kind

def test_a_list_is_read_whole():
    net,many = ConvNet(),images(11)
    assert not differing(gathered('inputs', net, many), gathered('inputs', net, many, n_batch=11))
    assert differing(gathered('inputs', net, many), gathered('inputs', net, DataLoader(many, bs=None)))

def few(items): return DataLoaders(DataLoader(items, bs=8), DataLoader(items[:8], bs=8))

def test_so_many_batches_and_no_more():
    def endless():
        while True: yield batch()
    net = ConvNet()
    two = gathered('inputs', net, images(5), n_batch=2)
    assert not differing(two, gathered('inputs', net, images(2)))
    assert differing(two, gathered('inputs', net, images(3)))
    assert len(Calibration(Sparsifier(net, data=endless())).batches)==8

# What can't be

def no_data(net): return Sparsifier(net, criteria=fisher)
@pytest.mark.parametrize('make,match', [
    (no_data, 'data=None.*fisher needs grad_squared'),
    (lambda net: Sparsifier(net, criteria=wanda, data=5), 'data=5: expected DataLoaders'),
    (lambda net: Sparsifier(net, criteria=wanda, data='digits'), "data='digits': expected DataLoaders"),
    (lambda net: Sparsifier(net, criteria=wanda, data=torch.ones(3)), 'data=.*: expected DataLoaders'),
    (lambda net: Sparsifier(net, criteria=fisher, data=images(), loss='cross_entropy'), 'loss=.*a function'),
    (lambda net: Sparsifier(net, criteria=wanda, data=images(), n_batch=0), 'n_batch=0: expected a whole number'),
    (lambda net: Sparsifier(net, criteria=fisher, data=[]), 'data=.*at least one batch'),
    (lambda net: Sparsifier(net, criteria=wanda, data=lambda: iter([])), 'data=.*at least one batch'),
    (lambda net: Sparsifier(net, criteria=wanda, data=[(torch.ones(2,3,6,6), torch.ones(2))]),
     r'data=\[\[2, 3, 6, 6\]\].*batches that the model takes; RuntimeError'),
    (lambda net: Sparsifier(net, criteria=fisher, data=[(batch()[0],)]), 'the model and the loss take; TypeError'),
    (lambda net: Sparsifier(net, criteria=fisher, data=[(batch()[0]*torch.nan, batch()[1])]), 'finite number, not nan'),
    (lambda net: Sparsifier(net, criteria=obd, data=images(), loss=lambda out, y: out),
     r'finite number, not \[8, 10\]'),
    (lambda net: Sparsifier(net, criteria=obd, data=images(), loss=lambda out, y: 3.), 'finite number, not float'),
    (lambda net: Sparsifier(net, criteria=fisher(per='image'), data=images()), "per='image': expected one of batch"),
    (lambda net: Sparsifier(net, criteria=obd(n_probe=0), data=images()), 'n_probe=0: expected a whole number'),
    (lambda net: Sparsifier(net, criteria=wanda, data=images(), layers=nn.Embedding), 'layers'),
])
def test_bad_input_is_named_and_changes_nothing(make, match):
    net = ConvNet()
    before = everything(net)
    with pytest.raises(ArgumentError, match=match):
        sp = make(net)
        try: sp.sparsify(50)
        finally: assert not sp.has_pruned and not sp.gathered
    assert not differing(before, everything(net)) and net.training

def test_a_weight_that_nothing_is_multiplied_with_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used,self.spare = nn.Linear(6,6),nn.Linear(6,6)
        def forward(self, x): return self.used(x)
    data = [(torch.randn(4,6), torch.randint(6, (4,)))]
    with pytest.raises(ArgumentError, match='spare.weight=.*Linear.*leave it out of `layers`'):
        Sparsifier(Net(), criteria=wanda, data=data).sparsify(50)
    Sparsifier(Net(), criteria=wanda, data=data, layers='used').sparsify(50)
    masks = Sparsifier(Net(), criteria=fisher, data=data, method='global').sparsify(50)
    assert masks['spare.weight'].sum()==1 # the loss doesn't depend on it, and the last one always stays

def test_criteria_that_need_no_data_do_not_look_at_them():
    def never(): raise AssertionError
    assert Sparsifier(mlp(), data=never).sparsify(50).sparsity==50

# Your own

def test_a_need_of_ones_own():
    @need('twice')
    def doubled(cal, *, by=2.):
        "So many times the index of each input"
        cal.run()
        assert len(cal.batches)==2 and not cal.model.training
        return {k: by*torch.arange(p.shape[1]).view(1, -1, *[1]*(p.dim()-2)) for k,p in cal.params.items()}
    @criterion(needs=('twice', 'init'))
    def mine(w, *, by=3.): return w.twice + 0*w.init
    net = mlp()
    for rule,by in ((mine, 3.), (mine(by=5.), 5.)):
        sp = Sparsifier(net, 'weight', 'local', rule, data=few_batches(2, n_in=1))
        with sp.gathering():
            assert torch.equal(sp.gathered['twice']['1.weight'], (by*torch.arange(64)).expand(300,64))
        assert not sp.gathered
    masks = sp.sparsify(50)
    assert masks['1.weight'][:,32:].all() and not masks['1.weight'][:,:32].any()
    with pytest.raises(ArgumentError, match='mine needs twice, so many times the index'): Sparsifier(net, criteria=mine)
    ones = torch.ones(2,2)
    with pytest.raises(ArgumentError, match='so many times'): mine.scores(WeightView('w', ones, init=ones))

def test_what_a_view_takes_and_has():
    w = WeightView('w', torch.ones(2,3), inputs=torch.ones(2,3), layer=nn.Linear(3,2))
    assert torch.equal(w.inputs, torch.ones(2,3)) and w.layer.in_features==3
    with pytest.raises(AttributeError): w.nothing
    with pytest.raises(ArgumentError, match='w.hessian=None: expected the diagonal'): w.hessian
    ones = torch.ones(2,3)
    with pytest.raises(ArgumentError, match="gathered='input': expected one of"): WeightView('w', ones, input=ones)
    with pytest.raises(ArgumentError, match='w.inputs='): WeightView('w', ones, inputs=torch.ones(3))
    assert copy.deepcopy(w).inputs.shape==(2,3)

def test_criteria_travel(tmp_path):
    for c in (wanda, fisher(per='item'), obd(n_probe=3)): assert pickle.loads(pickle.dumps(c))==c
    assert {k for k,o in needs.items() if o.from_data}>={'inputs','grad_squared','hessian'}
    assert [criteria[k] for k in of_data]==[wanda, fisher, obd]

# In training

def learner(lr=.1, dls=None): return quiet(Learner(dls or few_batches(), ConvNet(), F.cross_entropy, lr=lr))

class Batches(Callback):
    "Which batches a fit was trained on, and what the network was when the first mask came"
    order = 54
    def before_fit(self): self.labels,self.before = [],None
    def before_batch(self):
        if not self.training: return
        self.labels.append(self.yb[0].tolist())
        if (self.epoch,self.iter)==(1,0): self.before = copy.deepcopy(self.model)

@pytest.mark.parametrize('name', ['wanda', fisher, obd(n_probe=2)])
def test_the_callback_gathers_from_the_learners_own_data(name):
    dls = digits_dls(bs=256).cpu()
    def run(criteria):
        torch.manual_seed(0)
        learn = learner(dls=dls)
        sp_cb = SparsifyCallback(60, 'weight', 'local', criteria, 'one_shot', start_epoch=1, verbose=False)
        dls.train.epoch = 0
        learn.fit(2, cbs=[sp_cb, look := Batches()])
        return learn,sp_cb,look
    learn,sp_cb,look = run(name)
    assert look.labels==run('large_final')[2].labels
    sp = Sparsifier(look.before, 'weight', 'local', name, data=dls, loss=learn.loss_func)
    assert sp.sparsify(60)==sp_cb.masks==run(name)[1].masks
    copy.deepcopy(sp_cb.sparsifier)

def test_with_lth_in_rounds_and_exported(tmp_path):
    sp_cb = SparsifyCallback(75, 'weight', 'global', wanda, 'iterative', start_epoch=1, lth=True, verbose=False)
    learn = learner(dls=digits_dls(bs=256).cpu())
    learn.add_cb(sp_cb)
    learn.fit(7)
    assert sp_cb.masks.n_kept==round(.25*sp_cb.masks.n_weights) and sp_cb.ticket.meta['criteria']=='wanda'
    learn.path,learn.model_dir = tmp_path,'.'
    learn.export('l.pkl')
    twin = torch.load(tmp_path/'l.pkl', weights_only=False)
    assert twin.cbs.filter(lambda o: isinstance(o, SparsifyCallback))[0].masks==sp_cb.masks

@pytest.mark.parametrize('name', ['wanda', 'fisher', fisher(per='item'), obd(n_probe=2)])
def test_a_search_by_data_gives_the_same_bits_and_goes_on(name, tmp_path):
    def search(rounds, **kwargs):
        return find_ticket(lambda: learner(lr=.01), lambda learn: learn.fit(1), rounds, prune=40, criteria=name,
                           progress=False, **kwargs)
    torch.manual_seed(7)
    before = random_state()
    a = search(2)
    assert before==random_state()
    search(1, dir=tmp_path)
    b = search(2, dir=tmp_path)
    assert [t.masks for t in a.tickets]==[t.masks for t in b.tickets]
    assert not differing(a.tickets[2].trained, b.tickets[2].trained)
    # the masks of round 1 are the criterion's, of the dense network as it was trained
    net,dls = ConvNet(),few_batches()
    a.tickets[0].trained_into(net)
    sp = Sparsifier(net, criteria=name, data=dls, loss=F.cross_entropy)
    assert sp.sparsify(40)==a.tickets[1].masks

@pytest.mark.parametrize('name', ['fisher', obd(n_probe=4)])
def test_squares_of_halves_do_not_vanish(name):
    "A gradient of 1e-4 has a square that float16 cannot hold"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(36,64), nn.ReLU(), nn.Linear(64,3)).half()
    x,y = torch.randn(50,36).half(),torch.randint(3, (50,))
    def scores(net, x):
        sp = Sparsifier(net, criteria=name, data=[(x, y)], loss=lambda out, y: F.cross_entropy(out, y)*2**-6)
        with sp.gathering(): found, = sp.gathered.values()
        return torch.cat([o.flatten() for o in found.values()])
    exact,found = scores(copy.deepcopy(net).float(), x.float()),scores(net, x)
    assert found.dtype==torch.float32 and (found==0).sum()<=1.1*(exact==0).sum()+10

def test_items_are_of_tensors():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6,3)
        def forward(self, batch): return self.fc(batch['x'])
    data = [({'x': torch.randn(4,6)}, torch.randint(3, (4,)))]
    Sparsifier(Named(), criteria=fisher, data=data).sparsify(50)
    with pytest.raises(ArgumentError, match=r"data=\['dict', 'Tensor'\]: expected batches of tensors"):
        Sparsifier(Named(), criteria=fisher(per='item'), data=data).sparsify(50)

# Pruned, and made up for

def correlated(n_in, n=200, dtype=torch.double):
    g = torch.Generator().manual_seed(n_in)
    return torch.randn(n, n_in, generator=g, dtype=dtype) @ torch.randn(n_in, n_in, generator=g, dtype=dtype)

def column_by_column(w, x, kept):
    "What SparseGPT's update is, by least squares alone: once a column is decided, those to the right are solved anew"
    found = w.clone()
    for row,keep in zip(found, kept):
        target = x@row
        for j in range(len(row)):
            if keep[j]: continue
            row[j] = 0
            if j+1<len(row):
                row[j+1:] = torch.linalg.lstsq(x[:,j+1:], (target - x[:,:j+1]@row[:j+1])[:,None]).solution[:,0]
    return found

@pytest.mark.parametrize('n_out, n_in, block', [(5,7,1), (5,7,3), (3,12,128), (1,1,4)])
def test_columns_are_solved_as_least_squares_has_it(n_out, n_in, block):
    torch.manual_seed(n_in)
    x,w = correlated(n_in),torch.randn(n_out, n_in, dtype=torch.double)
    kept = torch.rand(n_out, n_in)<.5
    moved = w.clone()
    found = prune_by_columns_(moved, x.T@x, lambda scores,start: kept[:,start:start+block], block)
    assert torch.equal(found, kept) and not moved[~kept].any()
    torch.testing.assert_close(moved, column_by_column(w, x, kept), rtol=1e-6, atol=1e-6)

def test_where_the_first_columns_go_the_rest_is_the_least_squares_solution():
    x,w,kept = correlated(9),torch.randn(4, 9, dtype=torch.double),(torch.arange(9)>=4).expand(4,9)
    moved = w.clone()
    prune_by_columns_(moved, x.T@x, lambda scores,start: kept)
    torch.testing.assert_close(moved[:,4:], torch.linalg.lstsq(x[:,4:], x@w.T).solution.T)

def test_a_columns_score_is_what_the_loss_of_its_weight_costs():
    x,w,scores = correlated(5),torch.randn(3, 5, dtype=torch.double),[]
    prune_by_columns_(w.clone(), x.T@x, lambda s,start: scores.append(s) or torch.ones_like(s, dtype=torch.bool))
    for i in range(3):
        for j in range(5): # with the columns before it fixed, as they are by then
            rest = [k for k in range(j+1, 5)]
            y = x[:,j]*w[i,j]
            off = y-x[:,rest]@torch.linalg.lstsq(x[:,rest], y[:,None]).solution[:,0] if rest else y
            torch.testing.assert_close(scores[0][i,j], off.square().sum())

def chain(n_in=8): return nn.Sequential(nn.Linear(n_in,15), nn.Tanh(), nn.Linear(15,10), nn.Tanh(), nn.Linear(10,4))

@pytest.mark.parametrize('sparsity, block', [(0,128), (33.3,4), (50,128), (70,1), (95,7), (100,128)])
def test_sparsegpt_prunes_the_number_that_is_asked_for_in_each_layer(sparsity, block):
    net,x = chain(),correlated(8, dtype=torch.float)
    before = everything(net)
    sp = Sparsifier(net, method='local', data=[(x,)])
    masks = sparsegpt(sp, sparsity, block)
    assert masks==sp.masks and nonzero_pruned(sp)==0
    assert [int((~m).sum()) for m in masks.values()]==[round(sparsity/100*m.numel()) for m in masks.values()]
    if not sparsity: assert not differing(before, everything(net))
    assert not differing(*({k: t for k,t in o.items() if 'bias' in k} for o in (before, everything(net))))

def test_sparsegpt_changes_outputs_less_than_a_mask_alone():
    x,off = correlated(8, dtype=torch.float),{}
    for seed in range(5):
        torch.manual_seed(seed)
        first = chain()
        for granularity in ('weight','2:4'):
            for how in ('sparsegpt','magnitude','wanda'):
                net = copy.deepcopy(first)
                sp = Sparsifier(net, granularity, 'local', 'wanda' if how=='wanda' else 'large_final', data=[(x,)])
                if how=='sparsegpt': sparsegpt(sp, 50)
                else: sp.sparsify(50)
                with torch.no_grad(): off.setdefault((granularity,how), []).append((net(x)-first(x)).norm().item())
    for granularity in ('weight','2:4'):
        for how in ('magnitude','wanda'): assert sum(off[granularity,'sparsegpt'])<sum(off[granularity,how])

def test_sparsegpt_solves_each_layer_for_the_inputs_that_pruned_layers_give():
    net,x = chain().double(),correlated(8)
    before = copy.deepcopy(net)
    masks = sparsegpt(Sparsifier(net, method='local', data=[(x[:90],), (x[90:],)]), 50, block=64)
    for i in (0, 2, 4):
        with torch.no_grad(): inputs = net[:i](x) if i else x
        damped = torch.cat([inputs, (.01*inputs.square().sum(0).mean()).sqrt()*torch.eye(inputs.shape[1]).double()])
        expected = column_by_column(before[i].weight.detach(), damped, masks[f'{i}.weight'])
        torch.testing.assert_close(net[i].weight.detach(), expected, rtol=1e-5, atol=1e-6)

def turned(lin):
    "Hugging Face's layer with the weights of `lin`, which is known by its name"
    def init(self):
        nn.Module.__init__(self)
        self.weight,self.bias = nn.Parameter(lin.weight.detach().T.contiguous()),lin.bias # [in, out]
    def forward(self, x): return x@self.weight + self.bias
    parts = dict(__module__='transformers.pytorch_utils', __init__=init, forward=forward)
    return type('Conv1D', (nn.Module,), parts)()

@pytest.mark.parametrize('granularity', ['weight','2:4'])
def test_sparsegpt_where_inputs_come_first(granularity):
    x,plain = correlated(8, dtype=torch.float),chain()
    conv1d = nn.Sequential(*[turned(copy.deepcopy(m)) if isinstance(m, nn.Linear) else m for m in plain])
    for net in (plain, conv1d): sparsegpt(Sparsifier(net, granularity, 'local', data=[(x,)]), 50)
    for i in (0, 2, 4): torch.testing.assert_close(plain[i].weight.T, conv1d[i].weight)
    if granularity=='2:4': assert (plain[0].weight.unflatten(1, (2,4)).count_nonzero(2)==2).all()

def test_sparsegpt_takes_inputs_that_are_nearly_the_same():
    net = chain(64)
    x = torch.ones(100,64) + 1e-4*torch.randn(100,64)
    x[:,:3] = 0
    assert sparsegpt(Sparsifier(net, method='local', data=[(x,)]), 50).sparsity==pytest.approx(50, abs=.2)
    assert all(p.isfinite().all() for p in net.parameters())
    masks = sparsegpt(Sparsifier(chain(), method='local', data=[(torch.zeros(9,8),)]), 50)
    assert masks.sparsity==pytest.approx(50, abs=.5)

@pytest.mark.parametrize('how, says', [
    (dict(data=None), 'a Sparsifier with data'), (dict(method='global'), "granularity 'weight' with method 'local'"),
    (dict(granularity='row'), "granularity 'weight' with method 'local'"),
    (dict(sparsity=40, granularity='2:4'), 'sparsity=40: expected 50 with 2:4'),
    (dict(sparsity=101), 'sparsity=101'), (dict(block=0), 'block=0'), (dict(damp=0), 'damp=0'),
    (dict(pruned=True), 'without masks'), (dict(net=ConvNet(), x=torch.randn(2,1,6,6)), 'linear layers, which'),
    (dict(net=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), x=torch.randn(4,5,8)), 'linear layers, which'),
    (dict(x=torch.full((3,8), torch.nan)), 'finite numbers')])
def test_what_sparsegpt_refuses(how, says):
    net,data = how.get('net', chain()),[(how.get('x', torch.randn(9,8)),)]
    sp = Sparsifier(net, how.get('granularity','weight'), how.get('method','local'), data=how.get('data', data))
    if how.get('pruned'): sp.sparsify(20)
    before = everything(net)
    with pytest.raises(TypeError, match='sp=.*a Sparsifier with data'): sparsegpt(net, 50)
    with pytest.raises(ValueError, match=says):
        sparsegpt(sp, how.get('sparsity', 50), how.get('block', 128), how.get('damp', 1.))
    assert not differing(before, everything(net))
