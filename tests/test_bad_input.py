"Bad input: an error that names the argument, before anything has been changed; and what is only warned of"
import math, warnings

import pytest, torch
from fastai.basics import CrossEntropyLossFlat, Learner
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastcore.basics import noop
from torch import nn

from lottery_nb.callback import SparsifyCallback
from lottery_nb.criteria import Criterion, large_final
from lottery_nb.data import digits_dls, dls_by_name, imagenette_dls, learner_by_name, model_by_name
from lottery_nb.experiment import Experiment, find_by_name
from lottery_nb.masks import Masks
from lottery_nb.schedules import Schedule, iterative, one_shot
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket
from models import ConvNet, copied, differing, everything

def sgd(net): return torch.optim.SGD(net.parameters(), lr=.1, momentum=.9)

def learner(net, **kwargs):
    items = [(torch.zeros(1,8,8), torch.tensor(0))]*4
    learn = Learner(DataLoaders(DataLoader(items, bs=2), DataLoader(items, bs=2)),
                    net, loss_func=CrossEntropyLossFlat(), **kwargs)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn

def cb(end_sparsity=50, granularity='weight', method='global', criteria=large_final, schedule=one_shot, **kwargs):
    return SparsifyCallback(end_sparsity, granularity, method, criteria, schedule, **{'verbose': False, **kwargs})

def fit(net, n=2, **kwargs): learner(net).fit(n, cbs=cb(**kwargs))

def spoiled(value, name='up.weight'):
    net = ConvNet()
    dict(net.named_parameters())[name].data.view(-1)[3] = value
    return net

def other_masks(**changed):
    shapes = ({k: tuple(m.shape) for k,m in Sparsifier(ConvNet()).masks.items()} |
              {k.replace('_', '.'): v for k,v in changed.items()})
    return Masks({k: torch.zeros(v, dtype=torch.bool) for k,v in shapes.items() if v})

def integer():
    net = ConvNet()
    net.head.weight = nn.Parameter(torch.ones(10,4, dtype=torch.int8), requires_grad=False)
    return net

def complex_():
    net = ConvNet()
    net.head.weight = nn.Parameter(net.head.weight.detach().to(torch.complex64))
    return net

def partly_meta():
    net = ConvNet()
    net.head = nn.Linear(4,10, device='meta')
    return net

def lazy():
    net = ConvNet()
    net.head = nn.LazyLinear(10)
    return net

def saved(net, opt=None):
    sp = Sparsifier(net)
    sp.save_weights(opt)
    return sp

def grown(sp, layer):
    "After the snapshot the model gets another layer"
    sp.model.more = layer
    try: sp.rewind()
    finally: del sp.model.more

def twice(net):
    c = cb()
    learner(net).fit(1, cbs=[c, c])

def twice_in_turn(net):
    c = cb()
    learner(net, cbs=c).fit(1, cbs=c)

def ticket_of_another():
    net = nn.Sequential(nn.Linear(4,10))
    sp = Sparsifier(net)
    return Ticket(sp.sparsify(50), everything(net), everything(net))

def draw(x, seed=0): return dict(y=x*seed)

def returns(value): return Criterion(lambda w: value)
odd = Schedule(lambda start, end, pos: 150.)

V, T = ValueError, TypeError
percent = [(-1, V), (101, V), (100.0001, V), (-1e-9, V), (math.nan, V),
           (math.inf, V), (-math.inf, V), ('50', T), (None, T), ([50], T), (True, T), (50j, T)]
whole = [(-1, V), (1.5, T), ('1', T), (True, T), (1., T)]

# (what is wrong, the network, what is done with it, the error, what its message says)
cases = [
    *[(f'sparsify({s!r})', ConvNet, lambda net, s=s: Sparsifier(net).sparsify(s),
       e, f'sparsity={s!r}'.replace('[', r'\[').replace('(', r'\('))
      for s,e in percent],
    *[(f'end_sparsity={s!r}', ConvNet, lambda net, s=s: fit(net, end_sparsity=s), e, 'end_sparsity=')
      for s,e in percent],
    *[(f'start_sparsity={s!r}', ConvNet, lambda net, s=s: fit(net, start_sparsity=s), e, 'start_sparsity=')
      for s,e in percent],
    # names
    ('granularity', ConvNet, lambda net: Sparsifier(net, 'weigth'), V,
     "granularity='weigth': expected one of weight, "),
    ('granularity type', ConvNet, lambda net: Sparsifier(net, nn.Linear), T, 'granularity='),
    ('granularity none', ConvNet, lambda net: Sparsifier(net, None), T, 'granularity=None'),
    ('granularity in fit', ConvNet, lambda net: fit(net, granularity='weigth'), V, "granularity='weigth'"),
    ('granularity type in fit', ConvNet, lambda net: fit(net, granularity=2), T, 'granularity=2'),
    ('granularity that a layer lacks', ConvNet, lambda net: Sparsifier(net, 'filter'), V,
     "granularity='filter': expected one that Linear has: weight, row, .*layers=nn.Conv2d"),
    ('granularity that a layer lacks, in fit', ConvNet, lambda net: fit(net, granularity='filter'),
     V, "granularity='filter': expected one that Linear has"),
    ('granularity of another dimension', ConvNet, lambda net: Sparsifier(net, 'tube', layers=nn.Conv2d),
     V, "granularity='tube': expected one that Conv2d has"),
    ('method', ConvNet, lambda net: Sparsifier(net, method='globl'), V,
     "method='globl': expected one of local, global"),
    ('method type', ConvNet, lambda net: Sparsifier(net, method=True), T, 'method=True'),
    ('method in fit', ConvNet, lambda net: fit(net, method='Global'), V, "method='Global'"),
    ('method none in fit', ConvNet, lambda net: fit(net, method=None), T, 'method=None'),
    ('criteria', ConvNet, lambda net: Sparsifier(net, criteria='magnitude'),
     V, "criteria='magnitude': expected one of .*large_final"),
    ('criteria function', ConvNet, lambda net: Sparsifier(net, criteria=torch.abs), T, 'criteria=.*Criterion'),
    ('criteria none', ConvNet, lambda net: Sparsifier(net, criteria=None), T, 'criteria=None'),
    ('criteria in fit', ConvNet, lambda net: fit(net, criteria='large'), V, "criteria='large'"),
    ('criteria that is a schedule', ConvNet, lambda net: fit(net, criteria=iterative), T, 'criteria=iterative'),
    ('schedule', ConvNet, lambda net: fit(net, schedule='itrative'), V,
     "schedule='itrative': expected one of one_shot"),
    ('schedule function', ConvNet, lambda net: fit(net, schedule=lambda a, b, p: b), T, 'schedule=.*Schedule'),
    ('schedule none', ConvNet, lambda net: fit(net, schedule=None), T, 'schedule=None'),
    ('schedule that is a criterion', ConvNet, lambda net: fit(net, schedule=large_final), T, 'schedule=large_final'),
    ('schedule out of range', ConvNet, lambda net: fit(net, schedule=odd), V, 'expected a percentage'),
    ('schedule with n_steps=0', ConvNet, lambda net: fit(net, schedule=iterative(n_steps=0)), V, 'n_steps=0'),
    ('gradual with lth', ConvNet, lambda net: fit(net, schedule='agp', lth=True),
     V, 'schedule=agp: expected with lth=True one that prunes in rounds'),
    ('rewind_opt', ConvNet, lambda net: fit(net, rewind_opt='rest'), V,
     "rewind_opt='rest': expected one of reset, restore, keep"),
    ('rewind_opt type', ConvNet, lambda net: fit(net, rewind_opt=None), T, 'rewind_opt=None'),
    # epochs
    *[(f'{name}={v!r}', ConvNet, lambda net, name=name, v=v: fit(net, lth=True, **{name: v}), e, f'{name}={v!r}')
      for name in ('rewind_epoch', 'start_epoch', 'end_epoch') for v,e in whole],
    ('rewind_epoch after start_epoch', ConvNet, lambda net: fit(net, 4, lth=True, start_epoch=1, rewind_epoch=2),
     V, 'rewind_epoch=2: .*start_epoch=1'),
    ('rewind_epoch after start_epoch, reset_end', ConvNet, lambda net: fit(net, 4, reset_end=True, rewind_epoch=1),
     V, 'rewind_epoch=1: .*start_epoch=0'),
    ('end_epoch before start_epoch', ConvNet, lambda net: fit(net, 4, start_epoch=2, end_epoch=1),
     V, 'end_epoch=1: .*start_epoch=2'),
    ('end_epoch at start_epoch', ConvNet, lambda net: fit(net, 4, start_epoch=2, end_epoch=2),
     V, 'end_epoch=2: .*start_epoch=2'),
    ('end_epoch past the fit', ConvNet, lambda net: fit(net, 4, end_epoch=5), V, 'end_epoch=5: expected at most 4'),
    ('start_epoch past the fit', ConvNet, lambda net: fit(net, 4, start_epoch=4),
     V, 'start_epoch=4: expected an epoch of this fit, 0 to 3'),
    ('rewind_epoch after start_epoch, no lth', ConvNet, lambda net: fit(net, 4, rewind_epoch=1),
     V, 'rewind_epoch=1: .*start_epoch=0'),
    ('start_sparsity above end_sparsity', ConvNet, lambda net: fit(net, start_sparsity=80),
     V, 'start_sparsity=80: .*end_sparsity=50'),
    ('rewind_epoch past the fit', ConvNet, lambda net: fit(net, 4, start_epoch=5, rewind_epoch=5, lth=True),
     V, '_epoch=5: expected an epoch of this fit'),
    # other numbers
    *[(f'{name}={v!r}', ConvNet, lambda net, name=name, v=v: fit(net, **{name: v}), e, f'{name}={v!r}')
      for name in ('round_to', 'update_every') for v,e in [*whole, (0, V)]],
    *[(f'sparsify round_to={v!r}', ConvNet, lambda net, v=v: Sparsifier(net).sparsify(50, round_to=v),
       e, f'round_to={v!r}') for v,e in [*whole, (0, V)]],
    # layers
    ('layers: no such name', ConvNet, lambda net: Sparsifier(net, layers='haed'), V, "layers='haed': .*head"),
    ('layers: one of two names', ConvNet, lambda net: Sparsifier(net, layers=['head', 'stem']), V, "layers='stem'"),
    ('layers: no such type', ConvNet, lambda net: Sparsifier(net, layers=nn.Conv3d),
     V, 'layers=Conv3d: expected a choice that matches'),
    ('layers: nothing', ConvNet, lambda net: Sparsifier(net, layers=lambda n,m: False),
     V, 'layers=.*a choice that matches'),
    ('layers: empty', ConvNet, lambda net: Sparsifier(net, layers=[]), (V, T), r'layers=\[\]'),
    ('layers: mixed', ConvNet, lambda net: Sparsifier(net, layers=['head', nn.Linear]), T, 'layers='),
    ('layers: a module', ConvNet, lambda net: Sparsifier(net, layers=[net.head]), T, 'layers='),
    ('layers: the module itself', ConvNet, lambda net: Sparsifier(net, layers=net.head), (V, T), 'layers='),
    ('layers: a number', ConvNet, lambda net: Sparsifier(net, layers=3), T, 'layers=3'),
    ('layers: a layer without a weight', ConvNet, lambda net: Sparsifier(net, layers='stem.2'), V, "layers='stem.2'"),
    ('layers in fit', ConvNet, lambda net: fit(net, layers='haed'), V, "layers='haed'"),
    ('layers type in fit', ConvNet, lambda net: fit(net, layers=3), T, 'layers=3'),
    # models
    ('no prunable weights', lambda: nn.Sequential(nn.BatchNorm1d(3), nn.PReLU()),
     lambda net: Sparsifier(net), V, 'prunable weights'),
    ('no weights at all', nn.ReLU, lambda net: Sparsifier(net), V, 'prunable weights'),
    ('no prunable weights, in fit', lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(64)),
     lambda net: fit(net), V, 'prunable weights'),
    ('no model', ConvNet, lambda net: Sparsifier(net.state_dict()), T, 'model=OrderedDict'),
    ('a model class', ConvNet, lambda net: Sparsifier(ConvNet), T, 'model='),
    ('parameters', ConvNet, lambda net: Sparsifier(net.parameters()), T, 'model=generator'),
    ('integer weights', integer, lambda net: Sparsifier(net), T, 'head.weight=torch.int8: '),
    ('complex weights', complex_, lambda net: Sparsifier(net), T, 'head.weight=torch.complex64: '),
    ('complex weights in fit', complex_, lambda net: fit(net), T, 'head.weight=torch.complex64: '),
    ('meta weights', partly_meta, lambda net: Sparsifier(net), V, 'head.weight=.*meta'),
    ('meta weights in fit', partly_meta, lambda net: fit(net), V, 'head.weight=.*meta'),
    ('lazy weights', lazy, lambda net: Sparsifier(net), V, 'head.weight=UninitializedParameter'),
    ('lazy weights by name', lazy, lambda net: Sparsifier(net, 'row', layers='head'), V, 'UninitializedParameter'),
    *[(f'{v} in a weight, {m}', lambda v=v: spoiled(v), lambda net, m=m: Sparsifier(net, method=m).sparsify(50),
       V, 'up.weight: .*NaN or inf')
      for v in (math.nan, math.inf, -math.inf) for m in ('local', 'global')],
    *[(f'NaN in a weight, by {c}', lambda: spoiled(math.nan, 'head.weight'),
       lambda net, c=c: Sparsifier(net, criteria=c).sparsify(50), V,
       'head.weight: .*NaN or inf')
      for c in ('random', 'small_final', 'large_init', 'updating_movement', 'large_final_same_sign')],
    *[(f'NaN in a weight, by {g}', lambda: spoiled(math.nan),
       lambda net, g=g: Sparsifier(net, g, layers=[nn.Conv2d, nn.ConvTranspose2d]).sparsify(50), V,
       'up.weight: .*NaN or inf') for g in ('kernel', 'filter', 'layer')],
    ('NaN in a weight, sparsity 0', lambda: spoiled(math.nan), lambda net: Sparsifier(net).sparsify(0),
     V, 'up.weight: .*NaN or inf'),
    ('NaN in the last weight, in fit', lambda: spoiled(math.nan, 'head.weight'),
     lambda net: fit(net), V, 'head.weight: .*NaN or inf'),
    ('overflowing scores', lambda: spoiled(3e38), lambda net: Sparsifier(net, criteria='squared_final').sparsify(50), V,
     'up.weight: .*squared_final.*NaN or inf'),
    # criteria that cannot do it
    ('no gradient yet', ConvNet, lambda net: Sparsifier(net, criteria='taylor').sparsify(50),
     V, 'stem.0.weight.grad=None: expected a gradient'),
    ('scores of another shape', ConvNet, lambda net: Sparsifier(net, criteria=returns(torch.ones(3))).sparsify(50),
     V, 'shape'),
    ('scores that are none', ConvNet, lambda net: Sparsifier(net, criteria=returns(None)).sparsify(50),
     T, 'criterion=.*NoneType'),
    # masks, tickets
    ('masks: a dict', ConvNet, lambda net: Sparsifier(net).put_on(dict(Sparsifier(net).masks)),
     T, 'masks=dict: expected Masks'),
    ('masks: a layer too few', ConvNet, lambda net: Sparsifier(net).put_on(other_masks(head_weight=None)),
     V, 'masks of this model: head.weight'),
    ('masks: a layer too many', ConvNet, lambda net: Sparsifier(net).put_on(other_masks(tail_weight=(2,))),
     V, 'masks of this model: tail.weight'),
    ('masks: another shape', ConvNet, lambda net: Sparsifier(net).put_on(other_masks(head_weight=(4,10))),
     V, 'masks of this model: head.weight'),
    ('masks: none', ConvNet, lambda net: Sparsifier(net).put_on(Masks({})), V, 'masks of this model'),
    ('apply_: a layer too many', ConvNet, lambda net: other_masks(tail_weight=(2,)).apply_(net),
     V, 'masks of this model: tail.weight'),
    ('apply_: another shape', ConvNet, lambda net: other_masks(head_weight=(4,10)).apply_(net),
     V, 'masks of this model: head.weight'),
    ('apply_: integer weights', integer, lambda net: other_masks().apply_(net), (V, T), 'head.weight'),
    ('apply_: complex weights', complex_, lambda net: other_masks().apply_(net), (V, T), 'head.weight'),
    ('apply_: no model', ConvNet, lambda net: other_masks().apply_(net.state_dict()), T, 'model='),
    ('float masks', ConvNet, lambda net: Masks({k: m.float() for k,m in other_masks().items()}).apply_(net), T,
     r"masks\['stem.0.weight'\]=torch.float32: expected a bool tensor"),
    ('masks of lists', ConvNet, lambda net: Masks({'head.weight': [True]*40}),
     T, r"masks\['head.weight'\]=list: expected a bool tensor"),
    ('masks without names', ConvNet, lambda net: Masks({0: torch.ones(2).bool()}),
     T, 'masks=0: expected names of parameters'),
    ('a ticket of another model', ConvNet, lambda net: ticket_of_another().apply_to(net),
     V, r'0.weight: \(10, 4\) in the ticket, missing in the model'),
    ('the trained ticket of another model', ConvNet, lambda net: ticket_of_another().trained_into(net), V,
     r'0.weight: \(10, 4\) in the ticket, missing in the model'),
    ('a ticket for a model with another head', ConvNet,
     lambda net: Ticket(Masks({'stem.0.weight': torch.zeros(8,1,3,3).bool()}), everything(ConvNet(n_out=7)))
     .apply_to(net), V, r'head.weight: \(7, 4\) in the ticket, \(10, 4\) in the model'),
    ('a ticket of masks that are none', ConvNet, lambda net: Ticket({}, everything(net)), T, 'masks=(dict|{})'),
    # rewinding, optimizers
    ('rewind() without a snapshot', ConvNet, lambda net: Sparsifier(net).rewind(), V, 'save_weights'),
    ('rewind: the model has grown', ConvNet, lambda net: grown(saved(net), nn.Linear(2,2)), V, 'more.weight'),
    ('rewind: no optimizer saved', ConvNet, lambda net: moved(saved(net)).rewind(sgd(net), 'restore'),
     V, "rewind_opt='restore': .*save_weights"),
    ('rewind: rewind_opt', ConvNet, lambda net: moved(saved(net)).rewind(sgd(net), 'forget'), V, "rewind_opt='forget'"),
    ('rewind: not an optimizer', ConvNet, lambda net: moved(saved(net)).rewind(net.head), T, 'opt=Linear'),
    ('rewind: a number', ConvNet, lambda net: moved(saved(net)).rewind(.1), T, 'opt='),
    ('save_weights: not an optimizer', ConvNet, lambda net: Sparsifier(net).save_weights('adam'), T, 'opt='),
    ('watch: not an optimizer', ConvNet, lambda net: Sparsifier(net).watch(net),
     T, 'opt=ConvNet: expected a torch.optim.Optimizer'),
    ('watch: none', ConvNet, lambda net: Sparsifier(net).watch(None), T, 'opt=None'),
    ('watch: another model', ConvNet, lambda net: Sparsifier(net).watch(sgd(ConvNet())),
     V, 'expected an optimizer of this model'),
    # fits
    ('the same callback twice', ConvNet, twice, V, 'each SparsifyCallback only once'),
    ('the same callback in learner and fit', ConvNet, twice_in_turn, V, 'each SparsifyCallback only once'),
    ('two callbacks on the same layers', ConvNet, lambda net: learner(net).fit(1, cbs=[cb(layers='head'), cb()]),
     V, 'layers.*head.weight'),
    ('two that overlap in part', ConvNet,
     lambda net: learner(net).fit(1, cbs=[cb(layers=[nn.Linear, nn.Conv2d]), cb(layers='stem.0')]), V, 'stem.0.weight'),
    ('an unknown argument', ConvNet, lambda net: cb(rewind=1), T, 'rewind'),
    # data
    *[(f'{fn.__name__} {name}={v!r}', ConvNet, lambda net, fn=fn, name=name, v=v: fn(**{name: v}),
       e, f'{name}={v!r}: expected a whole number')
      for fn,names in ((digits_dls, ['bs','seed']), (imagenette_dls, ['size','bs','seed','num_workers']))
      for name in names for v,e in whole],
    ('bs=0', ConvNet, lambda net: digits_dls(bs=0), V, 'bs=0: expected a whole number of at least 1'),
    ('bs above the training set', ConvNet, lambda net: digits_dls(1438),
     V, 'bs=1438: expected at most 1437, the number of training images'),
    ('a path that is none', ConvNet, lambda net: imagenette_dls(path=3), T, 'path=3: expected the path of a folder'),
    ('data that is not there', ConvNet, lambda net: dls_by_name('digitz'),
     V, "data='digitz': expected digits, imagenette, or the path of a folder"),
    ('data that is none', ConvNet, lambda net: dls_by_name(None), T, 'data=None: expected digits'),
    ('a size for the digits', ConvNet, lambda net: dls_by_name('digits', size=8), V, 'size=8: expected None'),
    ('photos without a seed', ConvNet, lambda net: dls_by_name('.', seed=None),
     T, 'seed=None: expected a whole number'),
    ('arch', ConvNet, lambda net: model_by_name('resnet', digits_dls()),
     V, "arch='resnet': expected digits_mlp or .* such as .*resnet"),
    ('arch that is none', ConvNet, lambda net: model_by_name(18, digits_dls()), T, 'arch=18: expected the name'),
    ('arch for other images', ConvNet, lambda net: model_by_name('resnet18', digits_dls()),
     V, "arch='resnet18': expected digits_mlp for images of 1 channel"),
    ('arch for no data', ConvNet, lambda net: model_by_name('resnet18', net), T, 'dls=ConvNet: expected DataLoaders'),
    ('lr of a learner in words', ConvNet, lambda net: learner_by_name(lr=0),
     V, 'lr=0: expected a number greater than 0'),
    # experiments
    *[(f'experiment: {what}', ConvNet, lambda net, given=given: Experiment('a.db', **{'fn': draw, **given}),
       (V, T), says) for what,given,says in [
        ('no function', dict(fn='draw'), "fn='draw': expected a function"),
        ('a module', dict(fn=nn.ReLU()), 'fn=.*expected a function'),
        ('no grid', dict(grid=[1]), r'grid=\[1\]: expected a dict of lists'),
        ('no list', dict(grid=dict(x=3)), r"grid\['x'\]=3: expected a list of values"),
        ('no values', dict(grid=dict(x=[])), r"grid\['x'\]=\[\]: expected at least one value"),
        ('a value twice', dict(grid=dict(x=[1,1.])), 'every value once'),
        ('two of one name', dict(grid=dict(x=[lambda: 1, lambda: 2])), 'a name of its own'),
        ('varies and does not', dict(grid=dict(x=[1]), x=1),
         r"grid=\['x'\]: expected what varies, but x is given beside it"),
        ('unknown', dict(x=1, z=1), "settings=.*expected those of draw, but got an unexpected keyword argument 'z'"),
        ('missing', dict(seeds=2), "settings=.*those of draw, but missing a required argument: 'x'"),
        ('no arm', dict(x=1, arms=['ticket']), "got an unexpected keyword argument 'arm'"),
        ('an object', dict(x=object()), 'x=object: expected what JSON can hold'),
        ('NaN', dict(x=[math.nan]), r'x\[0\]=nan: expected what JSON can hold'),
        ('a tensor', dict(x=torch.ones(2)), 'x=Tensor: expected what JSON'),
        ('no seeds', dict(x=1, seeds=0), 'seeds=0: expected a whole number of at least 1'),
        ('seeds twice', dict(x=1, seeds=[1,1]), 'seeds=.*every value once'),
        ('a text for seeds', dict(x=1, seeds='all'), "seeds='all': expected a list of values"),
        ('seeds and seed', dict(x=1, seeds=2, seed=1), 'seed is given beside it'),
        ('seeds and a grid', dict(x=1, seeds=2, grid=dict(seed=[1])),
         r"grid=\['seed'\]: expected others than seed, which seeds gives")]],
    ('experiment: n_threads', ConvNet, lambda net: Experiment('a.db', draw, x=1).run(n_threads=0),
     V, 'n_threads=0: expected a whole number of at least 1'),
    ('experiment: pool', ConvNet, lambda net: Experiment('a.db', draw, x=1).run('ray'),
     T, "pool='ray': expected processes with `imap_unordered`"),
    ('a search in words', ConvNet, lambda net: find_by_name(n_epoch=0),
     V, 'n_epoch=0: expected a whole number of at least 1'),
]


def moved(sp):
    "The optimizer has taken the weights somewhere else; where they are now is what must not change"
    with torch.no_grad():
        for p in sp.model.parameters(): p.add_(1)
    sp.model.now = everything(sp.model)
    return sp

@pytest.mark.parametrize('network, do, error, message', [o[1:] for o in cases],
                         ids=[o[0].replace(' ', '_') for o in cases])
@pytest.mark.filterwarnings('error') # not a warning first and an error later
def test_bad_input(network, do, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = network()
    def state():
        return {k: t for k,t in net.state_dict().items() if not isinstance(t, nn.parameter.UninitializedParameter)
                and not t.is_meta}
    def hooks():
        return {n: (m.training, type(m), len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
                for n,m in net.named_modules()}
    before, keys, as_was = copied(state()), list(net.state_dict()), hooks()
    with pytest.raises(error, match=message): do(net)
    before |= {k: t for k,t in vars(net).pop('now', {}).items() if k in before}
    assert not differing(state(), before) and list(net.state_dict())==keys
    assert hooks()==as_was and not list(tmp_path.iterdir())

def test_every_case_has_its_own_name(): assert len({o[0] for o in cases})==len(cases)

def test_after_a_mistake_the_learner_is_as_good_as_before():
    for wrong in (lambda learn: learn.fit(1, cbs=cb(start_epoch=1)),
                  lambda learn: learn.fit(1, cbs=cb(granularity='filter')),
                  lambda learn: learn.fit(1, cbs=[cb(layers='head'), cb()])):
        learn = learner(ConvNet())
        with pytest.raises(ValueError): wrong(learn)
        assert not [o for o in learn.cbs if isinstance(o, SparsifyCallback)]
        learn.fit(1, cbs=(c:=cb()))
        assert c.masks.sparsity==pytest.approx(50, abs=.2)

def test_a_callback_that_was_added_twice_can_still_be_used():
    c = cb()
    learn = learner(ConvNet(), cbs=c)
    with pytest.raises(ValueError, match='each SparsifyCallback only once'): learn.fit(1, cbs=c)
    learn.remove_cb(c)
    learn.fit(1, cbs=c)
    assert c.masks.sparsity==pytest.approx(50, abs=.2)

# Warnings, each of them pointing at the line that made the mistake

def warned(do, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        do()
    found = [w for w in caught if message in str(w.message)]
    assert len(found)==1 and issubclass(found[0].category, UserWarning), [str(w.message) for w in caught]
    return found[0]

@pytest.mark.parametrize('s', [.5, .999, 1e-3])
def test_a_fraction_is_taken_as_percent_with_a_warning(s):
    net, percent = ConvNet(), f'{100*s:g}'
    sp = Sparsifier(net)
    w = warned(lambda: sp.sparsify(s), f'sparsity={s:g} means {s:g} percent')
    assert percent in str(w.message) and w.filename==__file__
    assert sp.masks.n_kept==sp.masks.n_weights-round(s/100*sp.masks.n_weights)
    for name in ('end_sparsity', 'start_sparsity'):
        w = warned(lambda: cb(**{name: s}), f'{name}={s:g} means {s:g} percent')
        assert percent in str(w.message) and w.filename==__file__

@pytest.mark.parametrize('s', [0, 1, 1.5, 0., 1., 100])
def test_no_warning_for_what_can_only_be_percent(s):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Sparsifier(nn.Linear(30,30), allow_collapse=True).sparsify(s)
        cb(s, start_sparsity=s)

@pytest.mark.parametrize('name', ['linear', 'cosine', 'agp', 'one_cycle', 'dsd'])
def test_a_schedule_that_passes_by_a_fraction_is_no_mistake(name):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fit(ConvNet(), 3, end_sparsity=5, schedule=name, update_every=1)

@pytest.mark.parametrize('method', ['local', 'global'])
def test_layer_collapse_is_warned_of(method):
    net = ConvNet()
    with torch.no_grad(): net.head.weight.mul_(1e-9)
    s = 50 if method=='global' else 99
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        masks = Sparsifier(net, 'weight', method).sparsify(s)
    said = [str(w.message) for w in caught]
    assert all('layer collapse' in o and 'allow_collapse=True' in o for o in said)
    assert any('head.weight' in o for o in said)
    assert all(m.any() for m in masks.values())

def test_a_weight_that_is_computed_is_left_out_with_a_warning():
    net = ConvNet()
    net.head = nn.utils.parametrizations.weight_norm(net.head)
    w = warned(lambda: Sparsifier(net), 'head.weight is computed from other parameters')
    assert w.filename==__file__

def test_only_computed_weights_are_no_weights():
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3,3)))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(ValueError, match='prunable weights'): Sparsifier(net)
