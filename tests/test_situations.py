"""What people bring × what is right: a row a situation, in `situations`; below it, what takes more than a row.

Other kinds have files of their own: gradients of pruned weights and optimizers `test_gradients.py`; fastai's ways,
looking, fine-tuning, exchanged layers, growing buffers, numbers that are of other weights `test_fastai_ways.py`;
groups, budgets, floors and what is cut `test_structured.py` and `test_shrink.py`; torchvision's networks
`test_models.py`; what is typed wrong `test_bad_input.py`, on the command line `test_cli.py`; README's lines
`test_readme.py`; the busy machine `benchmarks/threads.py`, a step's cost `benchmarks/overhead.py`."""
import copy, random, warnings
from contextlib import nullcontext
from functools import partial
import pytest, torch
from fastai.basics import Learner, SGD
from fastai.callback.training import GradientClip
from models import batch, differing, everything, few_batches, masked, mlp, nonzero_pruned, plain_arms, train_step
from models import quiet as quiet_learner
from test_gradients import SAM
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import resnet18
from torch.nn.utils import parametrizations as P, parametrize, prune, spectral_norm, weight_norm

import lottery_nb.calibration, lottery_nb.channels, lottery_nb.n_of_m # noqa: F401, they add granularities and criteria
from lottery_nb.arms import random_ticket
from lottery_nb.callback import HoldMasks, SparsifyCallback
from lottery_nb.core import Rule, check_choice, known_keywords
from lottery_nb.criteria import criteria
from lottery_nb.curves import lottery_curve
from lottery_nb.find import find_ticket
from lottery_nb.granularity import granularities_of, layout, layouts
from lottery_nb.masks import Masks, copy_model
from lottery_nb.schedules import Schedule, agp, iterative, schedules
from lottery_nb.sparsifier import Sparsifier, find_layers
from lottery_nb.ticket import Ticket

class Texts(nn.Module):
    "An embedding, a recurrent layer, a head"
    def __init__(self, cell=nn.LSTM, **kwargs):
        super().__init__()
        self.embed,self.rnn = nn.Embedding(50,8),cell(8, 12, batch_first=True, **kwargs)
        self.head = nn.Linear(kwargs.get('proj_size') or 12, 4)
    def forward(self, x): return self.head(self.rnn(self.embed(x))[0][:,-1])

class Cell(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell,self.head = cell(8,12),nn.Linear(12,4)
    def forward(self, x):
        h = self.cell(x)
        return self.head(h[0] if isinstance(h, tuple) else h)

class Attention(nn.Module):
    "Attends with a width of its own for keys and values, if `kdim` says so"
    def __init__(self, **kwargs):
        super().__init__()
        self.attn,self.head = nn.MultiheadAttention(8, 2, batch_first=True, **kwargs),nn.Linear(8,4)
        self.kv = kwargs.get('kdim', 8)
    def forward(self, x):
        kv = x.repeat(1,1,self.kv//8)
        return self.head(self.attn(x, kv, kv)[0][:,0])

class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.two = nn.Bilinear(8,8,4)
    def forward(self, x): return self.two(x, x)

class Encoder(nn.Module):
    "A transformer with positions, which are a matrix that no layer owns"
    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.randn(1,5,8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.)
        self.encoder,self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),nn.Linear(8,4)
    def forward(self, x): return self.head(self.encoder(x+self.place)[:,0])

words,rows = torch.arange(15).view(3,5),torch.ones(3,8)
vectors = torch.randn(3,5,8, generator=torch.Generator().manual_seed(0))
networks = dict(rnn=(lambda: Texts(nn.RNN), words), lstm=(lambda: Texts(num_layers=2, bidirectional=False), words),
                projected=(lambda: Texts(proj_size=6), words), gru=(lambda: Texts(nn.GRU), words),
                lstm_cell=(lambda: Cell(nn.LSTMCell), rows), gru_cell=(lambda: Cell(nn.GRUCell), rows),
                rnn_cell=(lambda: Cell(nn.RNNCell), rows), attention=(Attention, vectors),
                keys_of_their_own=(lambda: Attention(kdim=16, vdim=16), vectors), bilinear=(Bilinear, rows),
                encoder=(Encoder, vectors))
quiet = pytest.mark.filterwarnings('ignore:.*not pruned.*', 'ignore:layer collapse.*')

def made(name):
    torch.manual_seed(0)
    return networks[name][0]()

def matrices(net):
    "The parameters that are matrices and more, embeddings and positions aside"
    return {k for k,p in net.named_parameters() if p.squeeze().dim()>1 and not k.startswith(('embed','place'))}

@quiet
@pytest.mark.parametrize('name', networks)
def test_every_matrix_of_every_layer_is_pruned_to_the_weight(name):
    net = made(name)
    n = sum(net.get_parameter(k).numel() for k in matrices(net))
    for method in ('global','local'):
        sp = Sparsifier(copy.deepcopy(net), method=method)
        masks = sp.sparsify(50)
        assert {*masks}==matrices(net) and masks.n_weights==n and not nonzero_pruned(sp)
        if method=='global': assert masks.n_kept==n-round(.5*n)
        else: assert all(abs(m.float().mean()-.5)<.05 for m in masks.values())

@quiet
@pytest.mark.parametrize('name', networks)
@pytest.mark.parametrize('granularity', ['row','column','2:4','layer'])
def test_matrices_have_the_granularities_of_matrices(name, granularity):
    sp = Sparsifier(made(name), granularity)
    sp.sparsify(40)
    for k,u in sp.units.by_layer.items():
        w = sp.units.parts[k].weight.detach()
        if granularity=='layer': assert u.kept(w!=0).all()==(w!=0).all()
        if w.dim()!=2: continue
        if granularity=='row': assert int((w==0).all(1).sum())==int((w==0).sum())//w.shape[1]
        if granularity=='column': assert int((w==0).all(0).sum())==int((w==0).sum())//w.shape[0]
        if granularity=='2:4' and w.shape[1]%4==0: assert (w.unflatten(1, (-1,4))!=0).sum(2).ge(2).all()

@quiet
@pytest.mark.parametrize('name', networks)
def test_every_criterion_and_every_arm_takes_them_and_a_rewind_gives_every_bit_back(name, tmp_path):
    net,x = made(name),networks[name][1]
    sp = Sparsifier(net, criteria='movement')
    sp.save_weights()
    start = everything(net)
    g = torch.Generator().manual_seed(1)
    for p in net.parameters(): p.data.add_(torch.randn(p.shape, generator=g), alpha=.1)
    masks = sp.sparsify(60)
    sp.rewind()
    assert not differing(everything(net), masked(start, masks))
    ticket = Ticket(masks, start, start, full={k: start[k] for k in masks})
    assert not differing(Ticket.load(ticket.save(tmp_path/'t.safetensors', full=True)).full, ticket.full)
    for arm in plain_arms.values():
        new = networks[name][0]()
        begun = arm.begin(ticket, 3, networks[name][0])
        begun.apply_to(new)
        assert torch.isfinite(new(x)).all() and {*begun.masks}=={*masks}
    for c in criteria.values():
        if 'grad' in c.needs: net(x).sum().backward()
        looked = dict(data=[(x,)], loss=lambda out: out.square().sum())
        assert Sparsifier(net, criteria=c, **looked).sparsify(70).n_kept==masks.n_weights-round(.7*masks.n_weights)
    assert random_ticket(net, 50).masks.n_kept==masks.n_weights-round(.5*masks.n_weights)

def told(fn):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        fn()
    return [str(o.message) for o in found]

def test_what_is_left_out_is_said_once_with_its_share_and_the_call_that_takes_it():
    net = Texts()
    share = 100*400/sum(p.numel() for p in net.parameters())
    line, = told(lambda: Sparsifier(net))
    assert f'embed.weight: not pruned: {share:.3g} % of all weights' in line
    assert "layers=['default', nn.Embedding]" in line
    more = {*find_layers(net), 'embed.weight'}
    assert {*find_layers(net, ['default', nn.Embedding])}=={*find_layers(net, ['default','embed'])}==more
    assert not told(lambda: Sparsifier(net, layers=['default', nn.Embedding]))
    line, = told(lambda: Sparsifier(Encoder()))
    assert "layers=['default', 'place']" in line
    assert 'place' in find_layers(Encoder(), ['default','place'])
    last = Sparsifier(net, layers=nn.LSTM).report().iloc[-1]
    assert 'embed.weight' in last.layer and 'not pruned' in last.type

@pytest.mark.parametrize('layers,expected', [
    (nn.LSTM, {'rnn.weight_ih_l0','rnn.weight_hh_l0'}), ('rnn', {'rnn.weight_ih_l0','rnn.weight_hh_l0'}),
    ('rnn.weight_hh_l0', {'rnn.weight_hh_l0'}), (['head', nn.Embedding], {'head.weight','embed.weight'}),
    (lambda name,m: name!='rnn', {'head.weight'})])
def test_layers_are_chosen_by_type_name_and_function(layers, expected): assert {*find_layers(Texts(), layers)}==expected

def test_words_of_an_embedding_are_columns_and_its_features_rows():
    net = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 4))
    for granularity,axis,n in (('row', 0, 4), ('column', 1, 10)):
        mask, = Sparsifier(net, granularity, layers=nn.Embedding).sparsify(50).values()
        assert int((~mask).all(axis).sum())==n

def test_three_dots_only_where_there_are_more_layers():
    for n,end in ((3, '0, 1, 2$'), (4, '0, 1, 2, …$')):
        with pytest.raises(ValueError, match=f'expected layers of this model: {end}'):
            find_layers(nn.Sequential(*[nn.Linear(2,2) for _ in range(n)]), 'fc')

def test_the_name_of_what_has_layers_in_it_means_them_all():
    assert len(find_layers(Encoder(), 'encoder.layers.0'))==4
    assert {*find_layers(Attention(), 'attn')}=={'attn.in_proj_weight','attn.out_proj.weight'}

def test_a_parameter_of_ones_own_takes_two_lines():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Parameter(torch.randn(4,6))
    @layout(Mixer)
    def mixer(m): return {'mix': 'in out'}
    assert Sparsifier(Mixer(), 'row').sparsify(50)['mix'].all(0).sum()==3
    del layouts[Mixer]

@pytest.mark.parametrize('given, says', [
    ({'mix': 'in outt'}, "mixer: mix='in outt': expected 'out', not 'outt'"),
    ({'mix': 'out,in'}, 'a name for each of 2'),
    ({'mix': 'out'}, 'a name for each of 2'), ({'mix': 'in in'}, "an axis 'out' beside 'in'"),
    ({'mixx': 'out in'}, "mixer='mixx': expected the name of a parameter of Mixer"),
    ('out in', "mixer='out in': expected a dict"), (None, 'mixer=None: expected a dict'),
    ({'mix': 3}, 'expected a dict')])
def test_a_layout_that_cannot_be_right_is_named(given, says):
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Parameter(torch.randn(4,6))
    @layout(Mixer)
    def mixer(m): return given
    try:
        with pytest.raises(ValueError, match=says): Sparsifier(nn.Sequential(nn.Linear(3,4), Mixer()), 'row')
    finally: del layouts[Mixer]

# The table

def seen(net, x, **kwargs):
    "A network's sparsifier, its masks at 50 %, after a backward pass"
    net(x).sum().backward()
    sp = Sparsifier(net, **kwargs)
    sp.sparsify(50)
    return sp

def conv1d():
    "Hugging Face's layer, which is known by its name"
    def init(self):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.randn(6,8)) # [in, out]
    parts = dict(__module__='transformers.pytorch_utils', __init__=init, forward=lambda self, x: x@self.weight)
    return nn.Sequential(type('Conv1D', (nn.Module,), parts)())

def quantized():
    with warnings.catch_warnings(action='ignore'):
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6,8)), {nn.Linear})

def scored_of_all():
    "Gradients of a step under masks, and where those of pruned weights were asked for"
    net = nn.Sequential(nn.Linear(4,6))
    sp,opt,grads = Sparsifier(net),torch.optim.SGD(net.parameters(), .1),[]
    sp.sparsify(50), sp.watch(opt)
    for asked in (False, True):
        net.zero_grad()
        with sp.dense_gradients() if asked else nullcontext(): net(torch.ones(1,4)).sum().backward()
        grads.append(int(net[0].weight.grad.count_nonzero()))
    return grads

def averaged():
    "An average of weights that begins with the masks"
    net = mlp()
    sp,opt = Sparsifier(net),torch.optim.SGD(net.parameters(), .1)
    sp.sparsify(90), sp.watch(opt)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(.9))
    for i in range(3):
        train_step(net, opt, *batch(size=8, seed=i))
        ema.update_parameters(net)
    return sum(int(ema.module.get_parameter(k)[~m].count_nonzero()) for k,m in sp.masks.items())

def by_halves():
    "SAM's two halves called by oneself, and pruned weights that aren't 0 after each"
    net = mlp()
    sp,opt,left = Sparsifier(net),SAM(net.parameters(), lr=.1, momentum=.9),[]
    sp.sparsify(90), sp.watch(opt)
    for half in (opt.first_step, opt.second_step)*2:
        x,y = batch(size=8)
        nn.functional.cross_entropy(net(x), y).backward()
        half(), opt.zero_grad()
        left.append(nonzero_pruned(sp))
    return left

def clipped(masked_by):
    "The weights that a fastai Learner with `GradientClip` trains under masks, ours or those of `torch.nn.utils.prune`"
    torch.manual_seed(0)
    net = mlp()
    masks = (sp := Sparsifier(net)).sparsify(90)
    if masked_by=='prune':
        for k,m in masks.items(): prune.custom_from_mask(net.get_submodule(k.removesuffix('.weight')), 'weight', m)
    learn = quiet_learner(Learner(few_batches(), net, loss_func=nn.CrossEntropyLoss(), opt_func=SGD))
    learn.fit(2, .1, cbs=[GradientClip(.01), *[HoldMasks(sp)]*(masked_by=='ours')])
    net(few_batches().one_batch()[0])
    return torch.cat([net.get_submodule(k.removesuffix('.weight')).weight.detach().flatten() for k in masks])

def scattered(n, sparsity): return n-Sparsifier(nn.Linear(n,1)).sparsify(sparsity).n_kept
def embedded(): return nn.Sequential(nn.Embedding(20, 4, sparse=True), nn.Flatten(), nn.Linear(8,3))
def refused(fn):
    with pytest.raises((TypeError, ValueError)) as e: fn()
    return str(e.value)

situations = [ # name, what is done, what is right
    ("Hugging Face's Conv1D, by rows", lambda: seen(conv1d(), rows[:,:6], granularity='row').masks['0.weight'].sum(0),
     lambda o: sorted(o.tolist())==[0]*4+[6]*4),
    ('percent of all parameters', lambda: repr(seen(Texts(), words)), lambda o: '50.00 % of' in o
     and '% of all parameters' in o),
    ('a quantized model', lambda: refused(lambda: Sparsifier(quantized())), lambda o: 'before it is quantized' in o),
    ('gradients of pruned weights', scored_of_all, lambda o: o==[12,24]),
    ('GradientClip in a Learner', lambda: clipped('ours')-clipped('prune'), lambda o: o.abs().max()<1e-6),
    ("SAM's two halves", by_halves, lambda o: o==[0]*4),
    ('an average of weights', averaged, lambda o: o==0),
    ("a granularity that the seed's resnet18 lacks in one layer",
     lambda: told(lambda: Sparsifier(resnet18(num_classes=10), 'filter')),
     lambda o: len(o)==1 and 'fc.weight (it has no filter)' in o[0]),
    ('agp where every mask rewinds', lambda: refused(lambda: rounds_of(agp)),
     lambda o: 'one that prunes in rounds' in o),
    ('exact halves go to the even number', lambda: [scattered(n, s) for n,s in ((150,7), (50,7), (50,29), (50,57))],
     lambda o: o==[10,4,14,28]),
    ('sparse gradients',
     lambda: seen(embedded(), words[:1,:2], criteria='taylor', layers=['default', nn.Embedding]).masks,
     lambda o: o.n_weights-o.n_kept==52)]

def rounds_of(schedule):
    "A fit whose callback rewinds at every mask"
    learn = quiet_learner(Learner(few_batches(), mlp(), loss_func=nn.CrossEntropyLoss()))
    learn.fit(3, cbs=SparsifyCallback(50, 'weight', 'global', criteria['large_final'], schedule, lth=True))

@quiet
@pytest.mark.parametrize('do,right', [o[1:] for o in situations], ids=[o[0] for o in situations])
def test_a_situation(do, right):
    answer = do()
    assert right(answer), answer

# Weights that are computed from parameters

class Standardized(nn.Conv2d):
    def forward(self, x):
        w = self.weight - self.weight.mean((1,2,3), keepdim=True)
        return nn.functional.conv2d(x, w/w.std((1,2,3), keepdim=True), self.bias)

class Halved(nn.Linear):
    def forward(self, x): return nn.functional.linear(x, self.weight/2, self.bias)

class LoRA(nn.Module):
    def __init__(self):
        super().__init__()
        self.a,self.b = nn.Parameter(torch.randn(8,2)),nn.Parameter(torch.randn(2,6))
    def forward(self, w): return w + self.a@self.b

class FakeQuantized(nn.Module):
    def forward(self, w): return torch.fake_quantize_per_tensor_affine(w, .01, 0, -128, 127)

def with_parametrization(layer, m):
    parametrize.register_parametrization(layer, 'weight', m)
    return layer

def used(layer):
    "The weight that a layer multiplies with, from what it answers"
    layer = copy_model(layer).eval()
    layer(torch.zeros(1,6))
    return layer.weight.detach()

survive = dict(plain=lambda: nn.Linear(6,8), halved=lambda: Halved(6,8),
               spectral=lambda: P.spectral_norm(nn.Linear(6,8)),
               weight=lambda: P.weight_norm(nn.Linear(6,8)), old_spectral=lambda: spectral_norm(nn.Linear(6,8)),
               old_weight=lambda: weight_norm(nn.Linear(6,8)), pruned=lambda: prune.identity(nn.Linear(6,8), 'weight'),
               fake_quantized=lambda: with_parametrization(nn.Linear(6,8), FakeQuantized()))
lost = dict(standardized=lambda: Standardized(2,4,3), lora=lambda: with_parametrization(nn.Linear(6,8), LoRA()),
            orthogonal=lambda: P.orthogonal(nn.Linear(6,8)))

@pytest.mark.filterwarnings('ignore:.*weight_norm.*')
@pytest.mark.parametrize('name', survive)
@pytest.mark.parametrize('sparsity', [50,90])
def test_a_parameter_behind_a_weight_is_pruned_where_its_zeros_survive(name, sparsity):
    torch.manual_seed(0)
    net = nn.Sequential(survive[name](), nn.Linear(8,3)).train()
    before = everything(net)
    sp = Sparsifier(net)
    assert not differing(before, everything(net)), 'looking at it has changed it'
    masks = sp.sparsify(sparsity)
    m = masks[next(iter(masks))]
    w = used(net[0])
    assert masks.n_weights==48+24 and torch.isfinite(net(torch.randn(2,6))).all()
    assert name=='halved' or not w[~m].any() and torch.isfinite(w).all()
    sp.report()
    net.eval()
    repr(sp)

@pytest.mark.parametrize('name', lost)
def test_where_its_zeros_do_not_survive_it_is_left_out_and_named(name):
    torch.manual_seed(0)
    layer = lost[name]()
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(8,3)) # is not run
    line, = told(lambda: Sparsifier(net))
    assert 'where it' in line and '0.' in line
    assert [*find_layers(net)]==['2.weight']
    with pytest.raises(ValueError, match="a weight that can be pruned: where it's 0"): find_layers(net, '0')
    kind = Standardized if name=='standardized' else nn.Linear
    with pytest.raises(ValueError, match='can be pruned'): find_layers(net, kind)

class Scaled(nn.Conv2d):
    "Divides by the standard deviation of each filter"
    def forward(self, x): return nn.functional.conv2d(x, self.weight/self.weight.std((1,2,3), keepdim=True), self.bias)

divided = dict(transposed=lambda: (P.weight_norm(nn.ConvTranspose1d(6,8,2)), (2,6,4)),
               old=lambda: (weight_norm(nn.ConvTranspose2d(6,8,2)), (2,6,4,4)),
               columns=lambda: (P.weight_norm(nn.Linear(6,8), dim=1), (2,6)),
               narrow=lambda: (P.weight_norm(nn.Linear(2,30)), (2,2)), scaled=lambda: (Scaled(6,8,2), (2,6,4,4)))

@quiet
@pytest.mark.parametrize('method', ['local','global'])
@pytest.mark.parametrize('name', divided)
def test_no_slice_that_is_divided_by_its_norm_is_emptied(name, method):
    torch.manual_seed(0)
    layer,shape = divided[name]()
    for granularity in granularities_of(next(iter(find_layers(layer).values()))):
        net = copy_model(layer)
        masks = Sparsifier(net, granularity, method, layers=type(layer)).sparsify(97)
        assert net(torch.randn(shape)).isfinite().all(), granularity
        assert masks.sparsity>40 or granularity!='weight'

def test_units_that_would_empty_such_a_slice_are_left_out_and_named():
    net = nn.Sequential(nn.Conv2d(3,6,3), P.weight_norm(nn.Conv2d(6,6,3)))
    line, = told(lambda: Sparsifier(net, 'filter'))
    assert '1.parametrizations.weight.original1 (a filter of zeros would become NaN)' in line
    assert [*Sparsifier(net, 'kernel').layers]==['0.weight','1.parametrizations.weight.original1']
    net = nn.Sequential(nn.Conv2d(3,6,3), Scaled(6,6,3), nn.Conv2d(6,4,3))
    line, = told(lambda: Sparsifier(net, 'group', example=torch.randn(2,3,9,9)))
    assert '1.weight (a filter of zeros would become NaN)' in line

@pytest.mark.parametrize('make,word', [
    (lambda: torch.jit.script(nn.Sequential(nn.Linear(3,2))), 'before it is scripted'),
    (lambda: nn.Sequential(nn.Linear(0,3)), 'has none'),
    (lambda: nn.Sequential(nn.ReLU()), 'conv, linear, recurrent or attention')])
@pytest.mark.filterwarnings('ignore')
def test_a_model_without_prunable_weights_gets_a_true_word(make, word):
    with pytest.raises(ValueError, match=word): Sparsifier(make())

class Read(nn.Module):
    "An embedding, perhaps an LSTM, and linear layers"
    def __init__(self, recurrent, *widths):
        super().__init__()
        self.embed = nn.Embedding(20, widths[0])
        self.lstm = nn.LSTM(widths[0], widths[0], batch_first=True) if recurrent else None
        self.linear = nn.Sequential(*[nn.Linear(*o) for o in zip(widths, widths[1:])])
    def forward(self, x):
        y = self.embed(x)
        return self.linear((self.lstm(y)[0] if self.lstm else y).mean(1))

def test_what_has_no_channels_is_left_out_of_group_with_a_reason():
    "Told also where it was asked for by name; and the report's row advises nothing that can't be followed"
    x = torch.randint(20, (4,5))
    for layers in (None, ['default', nn.Embedding], ['embed', 'linear.0']):
        line, = told(lambda: Sparsifier(Read(False, 8, 16, 4), 'group', layers=layers, example=x))
        assert 'embed.weight (it has no group)' in line and 'takes' not in line
    assert not told(lambda: Sparsifier(Read(False, 8, 16, 4), 'group', layers=nn.Linear, example=x))[1:]
    line, = told(lambda: Sparsifier(Read(False, 8, 16, 4), '2:4'))
    assert "layers=['default', nn.Embedding]" in line
    with pytest.raises(ValueError, match="^granularity='group': expected layers with channels.*linear.0.weight: it is"):
        Sparsifier(Read(True, 8, 4), 'group', example=x)

# Units of many sizes

@quiet
def test_a_random_criterion_draws_once_for_each_unit_so_that_small_and_large_ones_go_as_often():
    net,rates = nn.ModuleList([nn.Conv2d(3,400,3), nn.Conv2d(12,400,3)]),[]
    for seed in range(20):
        masks = Sparsifier(copy.deepcopy(net), 'filter', criteria=criteria['random'](seed=seed)).sparsify(10)
        rates.append([float((~m.flatten(1).any(1)).float().mean()) for m in masks.values()])
    small,large = torch.tensor(rates).mean(0).tolist()
    assert abs(small-.1)<.02 and abs(large-.1)<.02

def test_a_unit_that_no_longer_fits_does_not_end_the_ranking():
    net = nn.ModuleList([nn.Linear(3000,4), nn.Linear(4,1500)])
    net[0].weight.data.mul_(.01)
    masks = Sparsifier(net, 'row').sparsify(45)
    assert masks.n_weights-masks.n_kept==6*1000+4*525

def test_words_of_others_are_answered_with_ours():
    "Keywords of fasterai's, mistyped ones, rules in a `partial`, and a network that has to be asked for"
    for k,(theirs,ours) in dict(context=('global','method'), layer_type=(nn.Linear,'layers')).items():
        with pytest.raises(TypeError, match=f'^{k}=.*expected `{ours}`.*Coming from fasterai'):
            Sparsifier(mlp(), **{k: theirs})
    with pytest.raises(TypeError, match='criterion=.*the nearest is criteria'): Sparsifier(mlp(), criterion='movement')
    words = dict(sparsity='`prune`', end_sparsity='`prune`', pruning_ratio='`prune`', context='`method`')
    for k,ours in words.items():
        with pytest.raises(TypeError, match=f'^{k}=20: expected {ours}'): find_ticket(None, None, **{k: 20})
        with pytest.raises(TypeError, match=f'^{k}=20: expected {ours}'): lottery_curve(mlp, 'digits', **{k: 20})
    with pytest.raises(TypeError, match='sparsity=.*`sparsify\\(50\\)`'): Sparsifier(mlp(), sparsity=.5)
    with pytest.raises(TypeError, match='model=.*the learner'): SparsifyCallback(50, model=mlp())
    with pytest.raises(TypeError, match='nm=.*expected granularity'): lottery_curve(mlp, 'digits', nm=True)
    with pytest.raises(TypeError, match='seeds=2: expected one value'): lottery_curve(mlp, 'digits', 20, seeds=2)
    with pytest.raises(TypeError, match='start_pct=.*schedule alone'): Schedule(agp, start_pct=.2)
    for name,known,ours in (('sched_agp',schedules,'agp'), ('sched_cos',schedules,'cosine'),
                            ('grad_crit',criteria,'taylor'), (random,criteria,'random'),
                            ('LARGE_Final',criteria,'large_final')):
        with pytest.raises(ValueError, match=f"did you mean '{ours}'"): check_choice('it', name, known, Rule)
    for name in ('magnitude','mag','l1','abs'):
        with pytest.raises(ValueError, match="did you mean 'large_final'"): Sparsifier(mlp(), criteria=name)
    with pytest.raises(ValueError, match=r'did you mean like\(masks\)'): Sparsifier(mlp(), method='like')
    with pytest.raises(TypeError, match=r'^masks=Sequential: expected'): Masks(mlp())
    with pytest.raises(TypeError, match=r'expected iterative\(n_steps=5\)'):
        check_choice('schedule', partial(iterative, n_steps=5), schedules, Schedule)
    with pytest.raises(ValueError, match='layers=nn.Embedding'): Sparsifier(nn.Sequential(nn.Embedding(9, 4)))
    @known_keywords
    def prune(sparsity): return sparsity
    assert prune(sparsity=3)==3 # a name that the function itself has
    with pytest.raises(TypeError, match='nm=True: expected no such argument; there are sparsity'): prune(nm=True)
