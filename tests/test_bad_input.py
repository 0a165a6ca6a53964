"Bad input: an error that names the argument, before anything has been changed; and what is only warned of"
import math, warnings

import pandas as pd, pytest, torch
from fastai.basics import CrossEntropyLossFlat, Learner
from torch import nn

from lottery_nb.arms import arm, fresh_weights, random_masks, shuffle_masks
from lottery_nb.callback import HoldMasks, SparsifyCallback, first_batch
from lottery_nb.channels import channel_groups, followers, with_followers
from lottery_nb.core import as_table, check_flag, progress, write_atomically
from lottery_nb.criteria import Criterion, criterion, large_final
from lottery_nb.data import SeededDL, digits_dls, dls_by_name, imagenette_dls, learner_by_name, model_by_name
from lottery_nb.evidence import plot_curve, plot_learning, summarise
from lottery_nb.experiment import Experiment, find_by_name
from lottery_nb.export import SparseLinear, sparse_linear
from lottery_nb.find import Search, find_ticket
from lottery_nb.granularity import Units, granularity, layout
from lottery_nb.masks import Masks
from lottery_nb.measure import count_macs, interleaved_times, profile
from lottery_nb.n_of_m import is_2_4, n_of_m, semi_structured_report
from lottery_nb.schedules import Schedule, iterative, one_cycle, one_shot, plot_schedules, schedule
from lottery_nb.shrink import cut_inputs_, cut_outputs_, shrink, shrink_like
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket
from lottery_nb.ticketfile import read_header
from models import ConvNet, copied, differing, everything, few_batches, quiet

def sgd(net): return torch.optim.SGD(net.parameters(), lr=.1, momentum=.9)

def learner(net, **kwargs): return quiet(Learner(few_batches(2, 2), net, loss_func=CrossEntropyLossFlat(), **kwargs))

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

def with_head(*args, kind=nn.Linear, **kwargs):
    net = ConvNet()
    net.head = kind(*args, **kwargs)
    return net

def complex_(): return with_head(4, 10, dtype=torch.complex64)
def partly_meta(): return with_head(4, 10, device='meta')
def lazy(): return with_head(10, kind=nn.LazyLinear)

def saved(net, opt=None):
    sp = Sparsifier(net)
    sp.save_weights(opt)
    return sp

def grown(sp, layer):
    "After the snapshot the model gets another layer"
    sp.model.more = layer
    try: sp.rewind()
    finally: del sp.model.more

def gone_to_meta(act):
    sp = saved(ConvNet())
    sp.sparsify(50)
    sp.model.to('meta')
    act(sp)

def twice_in_turn(net):
    c = cb()
    learner(net, cbs=c).fit(1, cbs=c)

def draw(x, seed=0): return dict(y=x*seed)

def ticket_of(net):
    state = everything(net)
    return Ticket(Sparsifier(net).masks, state, state, full=state)

def search(**kwargs): return find_ticket(digits, lambda learn: learn.fit(1), rounds=1, **kwargs)
def digits(): return learner_by_name()

def measured(**changed):
    "A table of two arms, two rounds and two seeds"
    rows = [dict(arm=arm, seed=seed, round=arm=='ticket', density=50, epoch=0, step=9, metric=metric, value=seed)
            for arm in ('dense','ticket') for seed in range(2) for metric in ('accuracy','valid_loss')]
    return as_table(rows).assign(**changed)

def returns(value): return Criterion(lambda w: value)
images = torch.ones(2,1,8,8)
odd = Schedule(lambda start, end, pos: 150.)

V, T = ValueError, TypeError
percent = [(-1, V), (101, V), (100.0001, V), (-1e-9, V), (math.nan, V),
           (math.inf, V), (-math.inf, V), ('50', T), (None, T), ([50], T), (True, T), (50j, T)]
whole = [(-1, V), (1.5, T), ('1', T), (True, T), (1., T)]

# (what is done, the error, what its message says, and the network, if it's another one than ConvNet())
cases = [
    *[(lambda net, s=s: Sparsifier(net).sparsify(s), e, f'sparsity={s!r}'.replace('[', r'\[').replace('(', r'\('))
     for s,e in percent],
    *[(lambda net, s=s: fit(net, end_sparsity=s), e, 'end_sparsity=') for s,e in percent],
    *[(lambda net, s=s: fit(net, start_sparsity=s), e, 'start_sparsity=') for s,e in percent],
    # names
    (lambda net: Sparsifier(net, 'weigth'), V, "granularity='weigth': expected one of weight, "),
    (lambda net: Sparsifier(net, nn.Linear), T, 'granularity='),
    (lambda net: Sparsifier(net, None), T, 'granularity=None'),
    (lambda net: Sparsifier(net, 'filter', layers=nn.Linear), V,
     "granularity='filter': expected one that Linear has: weight, row, .*layers=nn.Conv2d"),
    (lambda net: fit(net, granularity='filter', layers='head'), V,
     "granularity='filter': expected one that Linear has"),
    (lambda net: Sparsifier(net, 'tube', layers=nn.Conv2d), V, "granularity='tube': expected one that Conv2d has"),
    (lambda net: Sparsifier(net, method=True), T, 'method=True'),
    (lambda net: fit(net, method='Global'), V, "method='Global'"),
    (lambda net: Sparsifier(net, criteria='magnitude'), V, "criteria='magnitude': expected one of .*large_final"),
    (lambda net: Sparsifier(net, criteria=torch.abs), T, 'criteria=.*Criterion'),
    (lambda net: Sparsifier(net, criteria=None), T, 'criteria=None'),
    (lambda net: fit(net, criteria='large'), V, "criteria='large'"),
    (lambda net: fit(net, criteria=iterative), T, 'criteria=iterative'),
    (lambda net: fit(net, schedule='itrative'), V, "schedule='itrative': expected one of one_shot"),
    (lambda net: fit(net, schedule=lambda a, b, p: b), T, 'schedule=.*Schedule'),
    (lambda net: fit(net, schedule=None), T, 'schedule=None'),
    (lambda net: fit(net, schedule=large_final), T, 'schedule=large_final'),
    (lambda net: fit(net, schedule=odd), V, 'expected a percentage'),
    (lambda net: fit(net, rewind_opt='rest'), V, "rewind_opt='rest': expected one of reset, restore, keep"),
    (lambda net: fit(net, rewind_opt=None), T, 'rewind_opt=None'),
    *[(lambda net, name=name: fit(net, **{name: 'no'}), T, f"{name}='no': expected True or False")
      for name in ('lth', 'reset_end', 'allow_collapse', 'frozen')],
    # epochs
    *[(lambda net, name=name, v=v: fit(net, lth=True, **{name: v}), e, f'{name}={v!r}')
     for name in ('rewind_epoch', 'start_epoch', 'end_epoch') for v,e in whole],
    (lambda net: fit(net, 4, reset_end=True, rewind_epoch=1), V, 'rewind_epoch=1: .*start_epoch=0'),
    (lambda net: fit(net, 4, start_epoch=2, end_epoch=1), V, 'end_epoch=1: .*start_epoch=2'),
    (lambda net: fit(net, 4, start_epoch=2, end_epoch=2), V, 'end_epoch=2: .*start_epoch=2'),
    (lambda net: fit(net, 4, end_epoch=5), V, 'end_epoch=5: expected at most 4'),
    (lambda net: fit(net, 4, rewind_epoch=1), V, 'rewind_epoch=1: .*start_epoch=0'),
    (lambda net: fit(net, start_sparsity=80), V, 'start_sparsity=80: .*end_sparsity=50'),
    (lambda net: fit(net, 4, start_epoch=5, rewind_epoch=5, lth=True), V, '_epoch=5: expected an epoch of this fit'),
    # other numbers
    *[(lambda net, name=name, v=v: fit(net, **{name: v}), e, f'{name}={v!r}')
     for name in ('round_to', 'update_every') for v,e in [*whole, (0, V)]],
    *[(lambda net, v=v: Sparsifier(net).sparsify(50, round_to=v), e, f'round_to={v!r}') for v,e in [*whole, (0, V)]],
    # layers
    (lambda net: Sparsifier(net, layers=['head', 'stam']), V, "layers='stam'"),
    (lambda net: Sparsifier(net, layers=nn.Conv3d), V, 'layers=Conv3d: expected a choice that matches'),
    (lambda net: Sparsifier(net, layers=lambda n,m: False), V, 'layers=.*a choice that matches'),
    (lambda net: Sparsifier(net, layers=[]), (V, T), r'layers=\[\]'),
    (lambda net: Sparsifier(net, layers=['head', 3]), T, 'layers='),
    (lambda net: Sparsifier(net, layers=[net.head]), T, 'layers='),
    (lambda net: Sparsifier(net, layers=net.head), (V, T), 'layers='),
    (lambda net: Sparsifier(net, layers=3), T, 'layers=3'),
    (lambda net: Sparsifier(net, layers='stem.2'), V, "layers='stem.2'"),
    (lambda net: fit(net, layers='haed'), V, "layers='haed'"),
    # models
    (lambda net: Sparsifier(net), V, 'prunable weights', lambda: nn.Sequential(nn.BatchNorm1d(3), nn.PReLU())),
    (lambda net: fit(net), V, 'prunable weights', lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(64))),
    (lambda net: Sparsifier(net.state_dict()), T, 'model=OrderedDict'),
    (lambda net: Sparsifier(net), T, 'head.weight=torch.int8: ', integer),
    (lambda net: Sparsifier(net), T, 'head.weight=torch.complex64: ', complex_),
    (lambda net: Sparsifier(net), V, 'head.weight=.*meta', partly_meta),
    (lambda net: fit(net), V, 'head.weight=.*meta', partly_meta),
    (lambda net: Sparsifier(net), V, 'head.weight=UninitializedParameter', lazy),
    *[(lambda net, act=act: gone_to_meta(act), V, 'stem.0.weight=.*meta')
      for act in (lambda sp: sp.sparsify(60), lambda sp: sp.rewind(), lambda sp: sp.put_on(sp.masks))],
    *[(lambda net, m=m: Sparsifier(net, method=m).sparsify(50), V, 'up.weight: .*NaN or inf', lambda v=v: spoiled(v))
     for v in (math.nan, math.inf, -math.inf) for m in ('local', 'global')],
    *[(lambda net, c=c: Sparsifier(net, criteria=c).sparsify(50), V, 'weight: .*NaN or inf', lambda: spoiled(math.nan))
     for c in ('random', 'small_final', 'large_init', 'updating_movement', 'large_final_same_sign')],
    *[(lambda net, g=g: Sparsifier(net, g, layers=[nn.Conv2d, nn.ConvTranspose2d]).sparsify(50), V,
      'up.weight: .*NaN or inf', lambda: spoiled(math.nan)) for g in ('kernel', 'filter', 'layer')],
    (lambda net: Sparsifier(net).sparsify(0), V, 'up.weight: .*NaN or inf', lambda: spoiled(math.nan)),
    (lambda net: fit(net), V, 'head.weight: .*NaN or inf', lambda: spoiled(math.nan, 'head.weight')),
    (lambda net: Sparsifier(net, criteria='squared_final').sparsify(50), V,
     'up.weight: .*squared_final.*NaN or inf', lambda: spoiled(3e38)),
    # criteria that cannot do it
    (lambda net: Sparsifier(net, criteria='taylor').sparsify(50), V, 'stem.0.weight.grad=None: expected a gradient'),
    (lambda net: Sparsifier(net, criteria=returns(torch.ones(3))).sparsify(50), V, 'shape'),
    (lambda net: Sparsifier(net, criteria=returns(None)).sparsify(50), T, 'criterion=.*NoneType'),
    # masks, tickets
    (lambda net: Sparsifier(net).put_on(dict(Sparsifier(net).masks)), T, 'masks=dict: expected Masks'),
    (lambda net: Sparsifier(net).put_on(other_masks(tail_weight=(2,))), V, 'masks of this model: tail.weight'),
    (lambda net: Sparsifier(net).put_on(other_masks(head_weight=(4,10))), V, 'masks of this model: head.weight'),
    (lambda net: Sparsifier(net).put_on(Masks({})), V, 'masks of this model'),
    (lambda net: other_masks(head_weight=(4,10)).apply_(net), V, 'masks of this model: head.weight'),
    (lambda net: other_masks().apply_(net), (V, T), 'head.weight', integer),
    (lambda net: other_masks().apply_(net), (V, T), 'head.weight', complex_),
    (lambda net: other_masks().apply_(net.state_dict()), T, 'model='),
    (lambda net: Masks({'head.weight': [True]*40}), T, r"masks\['head.weight'\]=list: expected a bool tensor"),
    (lambda net: Masks({0: torch.ones(2).bool()}), T, 'masks=0: expected names of parameters'),
    # rewinding, optimizers
    (lambda net: grown(saved(net), nn.Linear(2,2)), V, 'more.weight'),
    (lambda net: moved(saved(net)).rewind(sgd(net), 'restore'), V, "rewind_opt='restore': .*save_weights"),
    (lambda net: moved(saved(net)).rewind(sgd(net), 'forget'), V, "rewind_opt='forget'"),
    (lambda net: moved(saved(net)).rewind(net.head), T, 'opt=Linear'),
    (lambda net: Sparsifier(net).save_weights('adam'), T, 'opt='),
    (lambda net: Sparsifier(net).watch(net), T, 'opt=ConvNet: expected a torch.optim.Optimizer'),
    # fits
    (twice_in_turn, V, 'each SparsifyCallback only once'),
    (lambda net: learner(net).fit(1, cbs=[cb(layers='head'), cb()]), V, 'layers.*head.weight'),
    (lambda net: learner(net).fit(1, cbs=[cb(layers=[nn.Linear, nn.Conv2d]), cb(layers='stem.0')]), V, 'stem.0.weight'),
    (lambda net: cb(rewind=1), T, 'rewind'),
    # data
    *[(lambda net, fn=fn, name=name, v=v: fn(**{name: v}), e, f'{name}={v!r}: expected a whole number')
     for fn,names in ((digits_dls, ['bs','seed']), (imagenette_dls, ['size','bs','seed','num_workers']))
     for name in names for v,e in whole],
    (lambda net: digits_dls(bs=0), V, 'bs=0: expected a whole number of at least 1'),
    (lambda net: imagenette_dls(path=3), T, 'path=3: expected the path of a folder'),
    (lambda net: dls_by_name(None), T, 'data=None: expected digits'),
    (lambda net: dls_by_name('digits', size=8), V, 'size=8: expected None'),
    (lambda net: dls_by_name('.', seed=None), T, 'seed=None: expected a whole number'),
    (lambda net: model_by_name(18, digits_dls()), T, 'arch=18: expected the name'),
    (lambda net: model_by_name('resnet18', net), T, 'dls=ConvNet: expected DataLoaders'),
    # experiments
    *[(lambda net, given=given: Experiment('a.db', **{'fn': draw, **given}), (V, T), says) for given,says in [
        (dict(fn='draw'), "fn='draw': expected a function"),
        (dict(fn=nn.ReLU()), 'fn=.*expected a function'),
        (dict(grid=[1]), r'grid=\[1\]: expected a dict of lists'),
        (dict(grid=dict(x=3)), r"grid\['x'\]=3: expected a list of values"),
        (dict(grid=dict(x=[])), r"grid\['x'\]=\[\]: expected at least one value"),
        (dict(grid=dict(x=[lambda: 1, lambda: 2])), 'a name of its own'),
        (dict(grid=dict(x=[1]), x=1), r"grid=\['x'\]: expected what varies, but x is given beside it"),
        (dict(seeds=2), "settings=.*those of draw, but missing a required argument: 'x'"),
        (dict(x=1, arms=['ticket']), "arm='ticket': expected one of the settings of draw"),
        (dict(x=object()), 'x=object: expected what JSON can hold'),
        (dict(x=[math.nan]), r'x\[0\]=nan: expected what JSON can hold'),
        (dict(x=1, seeds=0), 'seeds=0: expected a whole number of at least 1'),
        (dict(x=1, seeds=[1,1]), 'seeds=.*every value once'),
        (dict(x=1, seeds=2, seed=1), 'seed is given beside it'),
        (dict(x=1, seeds=2, grid=dict(seed=[1])), r"grid=\['seed'\]: expected others than seed, which seeds gives")]],
    (lambda net: Experiment('a.db', draw, x=1).run(n_threads=0), V,
     'n_threads=0: expected a whole number of at least 1'),
    (lambda net: Experiment('a.db', draw, x=1).run('ray'), T, "pool='ray': expected a `ProcessPoolExecutor`, or proc"),
    (lambda net: find_by_name(n_epoch=0), V, 'n_epoch=0: expected a whole number of at least 1'),
    (lambda net: Experiment('a.db', draw, x=[1], seeds=b'x'), T, "seeds=b'x': expected a list of values"),
    # yes or no
    *[(lambda net, name=name: fit(net, **{name: 'no'}), T, f"{name}='no': expected True or False")
      for name in ('lth', 'reset_end', 'verbose', 'allow_collapse', 'frozen')],
    *[(lambda net, do=do: do('no'), T, "='no': expected True or False") for do in [
        lambda v: check_flag('lth', v),
        lambda v: progress(v).__enter__(),
        lambda v: Sparsifier(ConvNet(), allow_collapse=v),
        lambda v: criterion(of_units=v),
        lambda v: layout(nn.Linear, default=v),
        lambda v: arm(last_lr=v),
        lambda v: ticket_of(ConvNet()).save('t', trained=v),
        lambda v: ticket_of(ConvNet()).save('t', full=v),
        lambda v: search(dir='a', force=v),
        lambda v: Experiment('a.db', draw, x=1).run(force=v)]],
    (lambda net: check_flag('lth', 1), T, 'lth=1: expected True or False'),
    # paths
    *[(lambda net, do=do, v=v: do(v), e, f'={v!r}: expected the path of a') for v,e in [(3, T), ('', V)] for do in [
        Ticket.load, read_header, lambda v: ticket_of(ConvNet()).save(v), lambda v: write_atomically(v, b''),
        Search.load, lambda v: search(dir=v), Experiment.from_toml, lambda v: Experiment(v, draw, x=1)]],
    *[(lambda net, do=do: do(None), T, '=None: expected the path of a') for do in (Ticket.load, Search.load)],
    (lambda net: imagenette_dls(path=''), V, "path='': expected the path of a folder"),
    (lambda net: dls_by_name(''), V, "data='': expected digits, .*imagenette, or the path"),
    # functions
    *[(lambda net, make=make, v=v: make(v), T, 'fn=.*expected a function')
      for make in (criterion, schedule, arm, granularity(nn.Linear)) for v in (5, nn.ReLU(), 'init')],
    (lambda net: criterion(needs=5), T, 'needs=5: expected one of init, previous, grad'),
    (lambda net: arm(label=5), T, 'label=5: expected a text'),
    (lambda net: Sparsifier(net, layers=lambda m: True), T, 'layers=<lambda>: expected a function of name and module'),
    (lambda net: Units(5), T, 'shape=5: expected a tuple'),
    (lambda net: Units((2,3), 1), T, 'dims=1: expected a tuple'),
    *[(lambda net, v=v: one_shot.at(v), e, f'pos={v!r}: expected a') for v,e in [('x', T), (math.nan, V), (None, T)]],
    (lambda net: one_shot.at(.5, 'x'), T, "start='x': expected a number"),
    (lambda net: plot_schedules(end='x'), T, "end='x': expected a number"),
    (lambda net: one_cycle(beta='x').at(.5), T, "beta='x': expected a number"),
    # masks, tickets and arms again
    (lambda net: Masks(5), T, 'masks=5: expected a dict of bool tensors'),
    (lambda net: Sparsifier(net).masks.iou(5), T, 'other=5: expected Masks'),
    (lambda net: Sparsifier(net).masks.show('0.weight'), V, "names='0.weight': expected one of stem.0.weight"),
    *[(lambda net, fn=fn: fn({}), T, 'masks={}: expected Masks') for fn in (shuffle_masks, random_masks)],
    *[(lambda net, fn=fn, v=v: fn(Sparsifier(net).masks, v), e, f'seed={v!r}: expected a whole number')
      for fn in (shuffle_masks, random_masks) for v,e in [(-1, V), (math.nan, T), (None, T)]],
    (lambda net: fresh_weights(net, ConvNet), T, 'ticket=ConvNet: expected a Ticket'),
    (lambda net: fresh_weights(ticket_of(net), ConvNet, -1), V, 'seed=-1: expected a whole number'),
    # around a fit
    (lambda net: HoldMasks(net), T, 'sparsifier=ConvNet: expected a Sparsifier, such as ticket.apply_to'),
    (lambda net: first_batch(5), T, 'dls=5: expected DataLoaders'),
    (lambda net: SeededDL([1], seed='x'), T, "seed='x': expected a whole number"),
    (lambda net: learner_by_name(num_workers='x'), T, "num_workers='x': expected a whole number"),
    (lambda net: search(meta=5), T, 'meta=5: expected a dict'),
    # tables
    (lambda net: summarise(measured(value=math.nan)), V, "metric='accuracy': expected one that is a number"),
    (lambda net: plot_learning(measured(value=math.nan), 1), V, "metric='accuracy': expected one that is a number"),
    (lambda net: summarise(measured().assign(value=lambda o: o.value.where(o.metric!='accuracy'))), V,
     "metric='accuracy': expected one that is a number"),
    (lambda net: plot_curve(measured(value=math.nan)), V, 'df=DataFrame: expected .* valid_loss, and numbers in it'),
    *[(do, T, message) for do,message in [
        (lambda net: count_macs(None, images), 'model=None: expected an nn.Module'),
        (lambda net: profile(net, images, repeats=1, timer=5), 'timer=5: expected a function'),
        (lambda net: interleaved_times({}, 1, timer=None), 'timer=None: expected a function'),
        (lambda net: n_of_m(5), 'granularity=5: expected n:m'),
        (lambda net: is_2_4(5), 'weight=5: expected a tensor'),
        (lambda net: semi_structured_report(5), 'model=5: expected an nn.Module'),
        (lambda net: SparseLinear(5), 'linear=5: expected an nn.Linear'),
        (lambda net: sparse_linear(net, 5), 'layers=5: expected names of linear layers'),
        (lambda net: sparse_linear(None), 'model=None: expected an nn.Module'),
        (lambda net: shrink(net, Sparsifier(net).masks, images, check='no'), "check='no': expected True or False"),
        (lambda net: shrink_like(net, None), 'path=None: expected the path of a shrunk network'),
        (lambda net: cut_inputs_(nn.ReLU(), torch.ones(1)), 'module=ReLU.*: expected a conv or linear layer'),
        (lambda net: cut_outputs_(None, torch.ones(1)), 'module=None: expected a conv or linear layer'),
        (lambda net: followers(5, images), 'model=5: expected an nn.Module'),
        (lambda net: channel_groups(net, 5), 'example=5: expected a batch'),
        (lambda net: with_followers(net, None, images), 'masks=None: expected Masks')]],
    (lambda net: plot_curve(measured(), 5), T, 'metric=5: expected one of accuracy, valid_loss'),
    (lambda net: plot_curve(measured(), []), V, r'panels=\[\]: expected a metric'),
    (lambda net: plot_curve(measured(), arms=5), T, 'arms=5: expected one of dense, ticket'),
    (lambda net: plot_learning(measured(), True), T, 'round=True: expected a whole number'),
    (lambda net: plot_learning(measured(), 1, 'early_stop'), V,
     "metric='early_stop': expected one of accuracy, valid_loss$"),
    (lambda net: summarise(pd.concat([measured()]*2)), V,
     r"to compare two tables, .*df.assign\(arm='other '\+df.arm\)"),
]

def moved(sp):
    "The optimizer has taken the weights somewhere else; where they are now is what must not change"
    with torch.no_grad():
        for p in sp.model.parameters(): p.add_(1)
    sp.model.now = everything(sp.model)
    return sp

@pytest.mark.parametrize('do, error, message, network', [o if len(o)==4 else (*o, ConvNet) for o in cases],
                         ids=[o[2].replace(' ', '_') for o in cases])
@pytest.mark.filterwarnings('error') # not a warning first and an error later
def test_bad_input(do, error, message, network, tmp_path, monkeypatch):
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

def test_after_a_mistake_the_learner_is_as_good_as_before():
    for wrong in (lambda learn: learn.fit(1, cbs=cb(start_epoch=1)),
                  lambda learn: learn.fit(1, cbs=cb(granularity='filter', layers='head')),
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

def test_what_is_left_out_is_said_where_it_happens():
    net = ConvNet()
    net.place = nn.Parameter(torch.randn(4,5))
    assert warned(lambda: Sparsifier(net), 'place: not pruned').filename==__file__
