"The callback in fastai: the blog post's recipe to the letter, exact rewinding, and peace with every other callback"
import copy, json, pickle
from functools import partial

import numpy as np, pytest, torch
from fastai.basics import (Adam, Callback, CancelFitException, CancelValidException,
                           CrossEntropyLossFlat, Learner, Metric, OptimWrapper, Recorder,
                           SGD, accuracy, load_learner, ranger)
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.all import (CSVLogger, EarlyStoppingCallback, GradientAccumulation,
                                 GradientClip, MixedPrecision, ReduceLROnPlateau,
                                 SaveModelCallback, ShortEpochCallback)
from fastcore.basics import noop
from torch import nn

import lottery_nb.all, fastai.vision.all
from lottery_nb.callback import HoldMasks, SparsifyCallback
from lottery_nb.core import as_table, table_columns
from lottery_nb.criteria import criteria, large_final, taylor
from lottery_nb.data import digits_dls
from lottery_nb.schedules import dsd, geometric, iterative, linear, one_shot, schedules
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket
from models import ConvNet, Losses, copied, differing, everything, few_batches, masked, mlp, nonzero_pruned, quiet

pytestmark = pytest.mark.filterwarnings('ignore:layer collapse')
n_batches = 22 # of digits in an epoch

# Learners, quick ones among them

def learner(model=None, seed=0, **kwargs):
    torch.manual_seed(seed)
    return quiet(Learner(digits_dls(), model or mlp(), **{'metrics': accuracy, **kwargs}))

def conv_learner(n=4, seed=0, path=None, **kwargs):
    torch.manual_seed(seed)
    return quiet(Learner(few_batches(n), ConvNet(), loss_func=CrossEntropyLossFlat(), path=path, **kwargs))

def make(sparsity=50, granularity='weight', method='global', criteria=large_final, schedule=one_shot, **kwargs):
    return SparsifyCallback(sparsity, granularity, method, criteria, schedule, **{'verbose': False, **kwargs})

class Probe(Callback):
    "Looks on after everything else has had its turn: at a batch that is about to be computed, and at one that is over"
    order = 90
    def __init__(self, sp_cb): self.sp_cb,self.sparsities,self.digests,self.seen = sp_cb,[],[],{}
    def before_batch(self):
        if self.training: self.look()
    def look(self): pass
    def after_batch(self):
        if not self.training: return
        assert nonzero_pruned(self.sp_cb.sparsifier)==0, f'epoch {self.epoch} batch {self.iter}'
        self.sparsities.append(self.sp_cb.masks.sparsity)
        self.digests.append(self.sp_cb.masks.digest())

# The blog post

BASELINE = '''
learn = Learner(dls, resnet18(num_classes=10), metrics=accuracy)

initial_weights = deepcopy(learn.model.state_dict())

learn.fit(5)
'''
LTH = '''
learn = Learner(dls, resnet18(num_classes=10), metrics=accuracy)
learn.model.load_state_dict(initial_weights)

sp_cb = SparsifyCallback(50, 'weight', 'global', large_final, iterative, start_epoch=5, lth=True)
learn.fit(20, cbs=sp_cb)
'''
REWIND = LTH.replace('lth=True)', 'lth=True, rewind_epoch=1)')
RESET_END = REWIND.replace('rewind_epoch=1)', 'rewind_epoch=1, reset_end=True)')

def lines_of(epoch):
    "What is printed after epoch 0, with a rewind to this one"
    for e in range(1, 20):
        if e in (5,10,15): yield f'Resetting Weights to their epoch {epoch} values'
        yield f'Sparsity at the end of epoch {e}: {("0.00", "16.67", "33.33", "50.00")[e//5]}%'
    yield 'Final Sparsity: 50.00\n'

LTH_LINES = ('Pruning of weight until a sparsity of 50%\nSaving Weights at epoch 0\n'
             'Sparsity at the end of epoch 0: 0.00%\n') + '\n'.join(lines_of(0))
REWIND_LINES = ('Pruning of weight until a sparsity of 50%\nSparsity at the end of epoch 0: 0.00%\n'
                'Saving Weights at epoch 1\n') + '\n'.join(lines_of(1))
RESET_END_LINES = REWIND_LINES + 'Resetting Weights to their epoch 1 values\n'

@pytest.fixture(scope='module')
def blog():
    "What the post's cells see, with digits for Imagenette and an MLP for the ResNet"
    torch.manual_seed(0)
    space = {**vars(fastai.vision.all), **vars(lottery_nb.all)}
    space.update(dls=digits_dls(), resnet18=lambda num_classes: mlp(),
                 Learner=lambda *args, **kwargs: quiet(Learner(*args, **kwargs)))
    exec(BASELINE, space)
    return space

def test_the_baseline(blog):
    assert len(blog['learn'].rows)==5 and len(blog['learn'].rows[0])==5 and blog['learn'].recorder.values[-1][2]>.85
    assert all((p!=0).all() for n,p in blog['learn'].model.named_parameters() if 'weight' in n)

@pytest.mark.parametrize('cell, lines', [(LTH, LTH_LINES), (REWIND, REWIND_LINES), (RESET_END, RESET_END_LINES)],
                         ids=['lth', 'rewind', 'reset_end'])
def test_the_blog_post(blog, cell, lines, capsys):
    exec(cell, blog)
    assert capsys.readouterr().out==lines
    learn, sp_cb = blog['learn'], blog['sp_cb']
    # the table
    assert list(learn.recorder.metric_names)==['epoch', 'train_loss', 'valid_loss', 'accuracy', 'sparsity', 'time']
    expected = [0]*5 + [round(50200/6)]*5 + [round(50200/3)]*5 + [25100]*5
    assert [len(row) for row in learn.rows]==[6]*20 and [row[0] for row in learn.rows]==list(range(20))
    assert [row[4] for row in learn.rows]==pytest.approx([100*n/50200 for n in expected])
    assert all(':' in row[5] for row in learn.rows)
    assert [v[3] for v in learn.recorder.values]==[row[4] for row in learn.rows] and learn.rows[19][3]>.9
    # the ticket
    ticket, point = sp_cb.ticket, 1 if 'rewind_epoch' in cell else 0
    assert ticket.masks==sp_cb.masks and ticket.masks.n_kept==25100 and ticket.masks.n_weights==50200
    assert ticket.meta['rewind']==point and ticket.meta['end_sparsity']==50 and ticket.meta['sparsity']==50
    assert list(ticket.state)==list(ticket.trained)==list(learn.model.state_dict())==list(mlp().state_dict())
    if not point: assert not differing(ticket.state, masked(blog['initial_weights'], ticket.masks))
    else: assert len(differing(ticket.state, masked(blog['initial_weights'], ticket.masks)))==6
    assert not differing(everything(learn.model), ticket.state if 'reset_end' in cell else ticket.trained)
    assert len(differing(ticket.trained, ticket.state))==6
    assert not differing(ticket.trained, masked(ticket.trained, ticket.masks))

def test_what_is_printed(capsys):
    learn = learner()
    learn.fit(2, cbs=make(50))
    assert capsys.readouterr().out=='' and [row[4] for row in learn.rows]==[50, 50]
    learn.fit(1, cbs=make(12.5, 'row', 'local', verbose=True))
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first=='Pruning of row until a sparsity of 12.5%'
    assert last==f"Final Sparsity: {learn.recorder.values[-1][3]:.2f}"

@pytest.mark.parametrize('how, expected', [
    (dict(add_time=False), ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'sparsity']),
    (dict(train_metrics=True),
     ['epoch', 'train_loss', 'train_accuracy', 'valid_loss', 'valid_accuracy', 'sparsity', 'time'])])
def test_the_column_stands_where_it_belongs(how, expected):
    learn = conv_learner(metrics=accuracy)
    for k,v in how.items(): setattr(learn.recorder, k, v)
    learn.fit(2, cbs=make(50))
    assert list(learn.recorder.metric_names)==expected and all(len(row)==len(expected) for row in learn.rows)
    assert [row[expected.index('sparsity')] for row in learn.rows]==[pytest.approx(50, abs=.2)]*2
    learn.fit(1)
    assert list(learn.recorder.metric_names)==[o for o in expected if o!='sparsity']

# What it must not disturb

def test_before_the_pruning_the_training_is_the_dense_one():
    "To the last bit: the callback draws no random numbers and touches no weight"
    dense, pruned, at = learner(), learner(), {}
    class Keep(Callback):
        def before_epoch(self):
            if self.epoch==3: at.update(everything(self.model))
    dense.fit(3)
    pruned.fit(4, cbs=[make(start_epoch=3, lth=True, rewind_epoch=1), Keep()])
    assert not differing(everything(dense.model), at)
    assert [v[:3] for v in dense.recorder.values]==[v[:3] for v in pruned.recorder.values[:3]]

def test_nothing_is_left_behind():
    learn = conv_learner()
    plain = copy.deepcopy(learn.model)
    before = [type(cb) for cb in learn.cbs], list(learn.metrics)
    sp_cb = make(lth=True)
    learn.fit(2, cbs=sp_cb)
    assert ([type(cb) for cb in learn.cbs], list(learn.metrics))==before
    assert list(learn.model.state_dict())==list(plain.state_dict())
    for a,b in zip(learn.model.modules(), plain.modules()):
        assert type(a) is type(b) and vars(a).keys()==vars(b).keys()
        assert not a._forward_hooks and not a._forward_pre_hooks
    learn.fit(1)
    assert nonzero_pruned(sp_cb.sparsifier)>0 # nobody holds them any more

# When masks are made

@pytest.mark.parametrize('name', list(schedules))
@pytest.mark.parametrize('where', [{}, dict(start_epoch=1), dict(start_epoch=1, end_epoch=3),
                                   dict(start_sparsity=20, start_epoch=1), dict(update_every=3, criteria=taylor)])
def test_schedules_end_where_they_should(name, where):
    "At the epochs' beginnings and, unless it's gradual, at every batch, the schedule is followed"
    learn, sp_cb = conv_learner(5), make(73, schedule=name, **where)
    learn.fit(4, cbs=[sp_cb, probe:=Probe(sp_cb)])
    n, got, low = sp_cb.masks.n_weights, probe.sparsities, where.get('start_sparsity', 0)
    def exact(s): return 100*round(s/100*n)/n
    start, last = 5*where.get('start_epoch', 0), 5*where.get('end_epoch', 4)-1
    assert got[:start]==[exact(low)]*start and got[last:]==[exact(low if name=='dsd' else 73)]*(20-last)
    assert name=='dsd' or got==sorted(got)
    for i,s in enumerate(got):
        pos = (i-start)/(last+1-start) if i<last else 1
        if i%5==0 or schedules[name].stepwise: assert s==exact(schedules[name].at(pos, low, 73))

@pytest.mark.parametrize('every', [1, 3, 7, None])
@pytest.mark.parametrize('others', [(), (GradientAccumulation(16),)], ids=['alone', 'accumulating'])
def test_masks_are_not_made_more_often_than_asked(every, others):
    "Batches count, not steps"
    learn = conv_learner(40)
    sp_cb = make(80, schedule=linear, update_every=every)
    learn.fit(2, cbs=[sp_cb, probe:=Probe(sp_cb), *others])
    n = every or 4 # in so short a phase
    changes = [i for i in range(1, 80) if probe.digests[i]!=probe.digests[i-1]]
    assert changes==sorted({*range(n, 40, n), 40, *range(40+n, 80, n), 79})

@pytest.mark.parametrize('kwargs, reached',
                         [(dict(schedule=iterative), [20, 40, 60]), (dict(schedule=one_shot, start_epoch=1), [60])])
def test_no_mask_is_made_while_the_sparsity_stands_still(kwargs, reached, monkeypatch):
    made, put_on = [], Sparsifier.put_on
    monkeypatch.setattr(Sparsifier, 'put_on', lambda self, masks: made.append(masks.sparsity) or put_on(self, masks))
    conv_learner().fit(6, cbs=make(60, **kwargs))
    assert made==[pytest.approx(o, abs=.2) for o in reached]

# Rewinding

class Rewound(Probe):
    "Compares with the rewind point, bit for bit, at each batch before which there was a rewind"
    def __init__(self, sp_cb): super().__init__(sp_cb); self.count = 0
    def opt_state(self):
        return [{k: torch.as_tensor(v).clone() for k,v in self.opt.state[p].items()} for p in self.model.parameters()]
    def look(self):
        if (self.epoch, self.iter)==(self.sp_cb.rewind_epoch, 0): self.point = everything(self.model),self.opt_state()
        if self.digests and self.sp_cb.masks.digest()!=self.digests[-1]: self.compare()
    def after_step(self): self.stepped = self.opt_state()
    def compare(self):
        self.count += 1
        assert not differing(everything(self.model), masked(self.point[0], self.sp_cb.masks))
        assert not any(p.grad is not None and p.grad.any() for p in self.model.parameters())
        expected = dict(reset=[{}]*99, restore=self.point[1], keep=self.stepped)[self.sp_cb.rewind_opt]
        for now,then in zip(self.opt_state(), expected):
            assert not [k for k in differing(now, then) if k not in ('do_wd', 'force_train')]

opts = [Adam, partial(SGD, mom=.9), ranger, partial(OptimWrapper, opt=torch.optim.AdamW)]
every_opt = pytest.mark.parametrize('opt_func', opts, ids=['adam', 'sgd', 'ranger', 'torch_adamw'])

@pytest.mark.parametrize('how', ['reset', 'restore', 'keep'])
@pytest.mark.parametrize('epoch', [0, 1])
@pytest.mark.parametrize('opt_func', opts[:2], ids=['adam', 'sgd'])
def test_rewinding_is_exact(how, epoch, opt_func):
    learn = conv_learner(opt_func=opt_func, wd=.01)
    sp_cb = make(60, schedule=iterative, start_epoch=2, lth=True, rewind_epoch=epoch, rewind_opt=how)
    learn.fit(8, cbs=[sp_cb, probe:=Rewound(sp_cb)])
    point = probe.point[0]
    assert probe.count==3 and not differing(sp_cb.sparsifier.snapshot, point)
    assert {'seen', 'stem.1.running_mean',
            'stem.1.num_batches_tracked'} <= set(differing(everything(learn.model), point))
    assert not differing(sp_cb.ticket.state, masked(point, sp_cb.masks))

@every_opt
def test_after_a_reset_the_training_is_that_of_a_fresh_learner(opt_func):
    "The last round gives, bit for bit, what a new learner makes of the ticket"
    learn, fresh = conv_learner(8, opt_func=opt_func), conv_learner(8, opt_func=opt_func)
    learn.fit(4, cbs=(sp_cb:=make(60, start_epoch=2, lth=True)))
    fresh.fit(2, cbs=HoldMasks(sp_cb.ticket.apply_to(fresh.model)))
    assert not differing(everything(fresh.model), everything(learn.model))

@every_opt
def test_after_a_restore_the_training_goes_on_from_the_rewind_point(opt_func):
    "As in a run that is pruned by these masks at the rewind point and never went further"
    learn, straight = conv_learner(8, opt_func=opt_func), conv_learner(8, opt_func=opt_func)
    learn.fit(5, cbs=(sp_cb:=make(60, start_epoch=3, lth=True, rewind_epoch=1, rewind_opt='restore')))
    class Hold(Callback):
        def before_train(self): self.after_step()
        def after_step(self):
            if self.epoch>=1: sp_cb.masks.apply_(self.model)
    straight.fit(3, cbs=Hold())
    assert not differing(everything(straight.model), everything(learn.model))

@pytest.mark.parametrize('lth', [False, True])
def test_reset_end(lth):
    learn = conv_learner()
    before = everything(learn.model)
    sp_cb = make(60, schedule=geometric(n_steps=2), start_epoch=1, lth=lth, reset_end=True)
    learn.fit(4, cbs=sp_cb)
    assert not differing(everything(learn.model), masked(before, sp_cb.masks))
    assert not differing(sp_cb.ticket.state, everything(learn.model))
    assert len(differing(sp_cb.ticket.trained, everything(learn.model)))>5
    assert sp_cb.masks.sparsity==pytest.approx(60, abs=.2)

# In company

@pytest.mark.parametrize('lth', [False, True])
def test_fit_one_cycle(lth):
    "The learning rate is nobody else's business"
    learn, dense, sp_cb = conv_learner(8), conv_learner(8), make(60, schedule=iterative, start_epoch=1, lth=lth)
    learn.fit_one_cycle(4, 1e-2, cbs=[sp_cb, probe:=Probe(sp_cb)])
    dense.fit_one_cycle(4, 1e-2)
    assert learn.recorder.lrs==dense.recorder.lrs and probe.sparsities[-1]==pytest.approx(60, abs=.2)

def test_lr_find_that_was_interrupted(tmp_path):
    sp_cb = make(50)
    learn = conv_learner(path=tmp_path, cbs=sp_cb)
    with pytest.raises(KeyboardInterrupt), learn.added_cbs(Interrupt(at=(0, 2))):
        learn.lr_find(num_it=12, show_plot=False)
    learn.fit(1)
    assert sp_cb.masks.sparsity==pytest.approx(50, abs=.2)

class Interrupt(Callback):
    "Somebody presses Ctrl+C, or a callback cancels the fit"
    order = 95
    def __init__(self, at, event='before_step', error=KeyboardInterrupt):
        self.error = error
        setattr(self, event, partial(self.press, at))
    def press(self, at):
        if (self.epoch, self.iter)>=at: raise self.error

@pytest.mark.parametrize('event', ['before_batch', 'before_step', 'before_validate'])
@pytest.mark.parametrize('lth', [False, True])
@pytest.mark.parametrize('added', ['fit', 'learner'])
def test_an_interrupted_fit(event, lth, added):
    learn, sp_cb = conv_learner(), make(60, schedule=iterative(n_steps=2), start_epoch=1, lth=lth)
    before = everything(learn.model)
    if added=='learner': learn.add_cb(sp_cb)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(5, cbs=[Interrupt((1, 1), event)] + ([sp_cb] if added=='fit' else []))
    ticket, at30 = sp_cb.ticket, sp_cb.masks
    assert at30.sparsity==pytest.approx(30, abs=.2) and nonzero_pruned(sp_cb.sparsifier)==0
    assert ticket.masks==at30 and not differing(ticket.state, masked(before, at30)) and ticket.trained is None
    learn.fit(5, cbs=None if added=='learner' else sp_cb)
    assert sp_cb.masks.sparsity==pytest.approx(60, abs=.2) and not any((sp_cb.masks[k] & ~at30[k]).any() for k in at30)
    assert nonzero_pruned(sp_cb.sparsifier)==0 and not differing(sp_cb.ticket.state, masked(before, sp_cb.masks))

def test_after_a_mask_that_could_not_be_made_the_next_fit_makes_it():
    "The weights are mended in between; the rewind point of the broken fit is forgotten with it"
    learn, sp_cb = conv_learner(), make(50, lth=True)
    learn.model.head.weight.data[0,0] = np.nan
    with pytest.raises(ValueError, match='head.weight: the weight holds NaN'): learn.fit(2, cbs=sp_cb)
    assert sp_cb.masks.sparsity==0
    nn.init.normal_(learn.model.head.weight)
    learn.opt.clear_state()
    learn.fit(2, cbs=sp_cb)
    assert sp_cb.masks.sparsity==pytest.approx(50, abs=.2)
    assert all(t.isfinite().all() for t in sp_cb.ticket.state.values())

def test_a_second_fit_with_the_same_callback(capsys):
    "It goes on with the masks and the table; the ticket's rewind point is the first one"
    learn = conv_learner()
    before = everything(learn.model)
    sp_cb = make(60, schedule=iterative, start_epoch=1, lth=True, verbose=True)
    learn.fit(5, cbs=sp_cb)
    masks, ticket, table = sp_cb.masks, sp_cb.ticket, sp_cb.table
    state = copied(ticket.state)
    capsys.readouterr()
    learn.fit(3, cbs=[sp_cb, probe:=Probe(sp_cb)])
    out = capsys.readouterr().out
    assert 'Resetting' not in out and 'Saving' not in out
    assert out.splitlines()[-1]==f'Final Sparsity: {masks.sparsity:.2f}'
    assert sp_cb.masks==masks and set(probe.digests)=={masks.digest()}
    assert not differing(sp_cb.ticket.trained, everything(learn.model))
    assert not differing(sp_cb.sparsifier.snapshot, before)
    for o in (ticket.state, sp_cb.ticket.state, masked(before, masks)): assert not differing(o, state)
    assert sp_cb.table[:len(table)].equals(table) and as_table(ticket.meta['table']).equals(table)
    assert last(sp_cb.table).epoch.iloc[-1]==4 and not sp_cb.table.duplicated(['round','epoch','metric']).any()

def test_the_same_callback_on_another_model():
    "It starts anew"
    sp_cb, one, other = make(60, lth=True), conv_learner(), conv_learner(seed=1)
    one.fit(2, cbs=sp_cb)
    trained, before = everything(one.model), everything(other.model)
    other.fit(2, cbs=sp_cb)
    assert not differing(everything(one.model), trained) and sp_cb.sparsifier.model is other.model
    assert not differing(sp_cb.ticket.state, masked(before, sp_cb.masks)) and set(sp_cb.table.epoch)=={0, 1}

def test_the_same_model_in_another_learner():
    "The optimizer is another one, the masks are the same"
    sp_cb, one = make(60, schedule=iterative(n_steps=2), lth=True, rewind_opt='restore'), conv_learner()
    one.fit(1, cbs=[sp_cb, ShortEpochCallback(0)])
    at = sp_cb.masks
    quiet(Learner(few_batches(), one.model, loss_func=CrossEntropyLossFlat())).fit(4, cbs=sp_cb)
    assert sp_cb.masks.sparsity==pytest.approx(60, abs=.2) and not any((sp_cb.masks[k] & ~at[k]).any() for k in at)

class Norm(Callback):
    "The gradient that a step is taken with is a clipped one"
    order = 90
    def before_step(self): assert sum(float(p.grad.norm())**2 for p in self.model.parameters())**.5<=.1001

class OnCPU(MixedPrecision):
    "fastai's mixed precision, which does nothing without CUDA, with PyTorch's autocast for the CPU"
    def before_fit(self):
        super().before_fit()
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('lth', [False, True])
@pytest.mark.parametrize('how', [large_final, taylor])
@pytest.mark.parametrize('others', [lambda: [GradientClip(.1), Norm()],
                                    lambda: [GradientAccumulation(16)], lambda: [OnCPU('bf16')],
                                    lambda: [ChannelsLast()], lambda: [ChannelsLast(), OnCPU('bf16')]],
                         ids=['clip', 'accumulate', 'bf16', 'channels last', 'channels last, bf16'])
def test_whatever_is_done_to_the_gradients(lth, how, others):
    learn,half = conv_learner(),any(isinstance(o, OnCPU) for o in others())
    convs,seen = [m for m in learn.model.modules() if isinstance(m, nn.Conv2d)],set()
    convs[0].register_forward_hook(lambda m, x, y: seen.add(y.dtype))
    sp_cb = make(60, criteria=how, schedule=iterative, start_epoch=1, lth=lth)
    learn.fit(4, cbs=[sp_cb, probe:=Probe(sp_cb), *others()])
    assert sp_cb.masks.sparsity==pytest.approx(60, abs=.2) and len(probe.digests)==16
    assert (torch.bfloat16 in seen)==half

def test_after_a_rewind_gradients_accumulate_from_nothing():
    """A rewind in the middle of a step: the gradients of the other weights are gone,
    and the step that follows is one of a full number of items"""
    steps, waiting = [], []
    class Items(Callback):
        order = 90
        def before_fit(self): self.n,self.was = 0,0
        def before_batch(self):
            if not self.training: return
            if self.sparsify.masks.sparsity!=self.was: self.n,self.was = 0,self.sparsify.masks.sparsity
            waiting.append(any(p.grad is not None and p.grad.any() for p in self.model.parameters()))
        def after_backward(self): self.n += len(self.x)
        def after_step(self):
            steps.append(self.n)
            self.n = 0
    learn = conv_learner(3) # an odd number: after the first epoch one batch waits for the other
    learn.fit(2, cbs=[make(60, start_epoch=1, lth=True), GradientAccumulation(16), Items()])
    assert waiting==[False, True, False]*2 and set(steps)=={16}

class ScaledOnCPU(OnCPU):
    """The same with PyTorch's scaler for the CPU. The scale is too large at first,
    so gradients overflow and steps are skipped"""
    def __init__(self, scale=2.**127): super().__init__(); self.scale = scale
    def before_fit(self):
        super().before_fit()
        self.learn.scaler = torch.amp.GradScaler('cpu', init_scale=self.scale, backoff_factor=2.**-4, growth_interval=5)
        self.n_skipped = 0
    def after_step(self):
        self.n_skipped += self.skipped
        super().after_step()

@pytest.mark.parametrize('lth', [False, True])
@pytest.mark.parametrize('how', [large_final, taylor])
@pytest.mark.parametrize('start', [0, 1])
def test_scaled_gradients_that_overflow(lth, how, start):
    learn = conv_learner(16)
    sp_cb = make(60, criteria=how, schedule=iterative, start_epoch=start, lth=lth)
    amp = ScaledOnCPU()
    learn.fit(4, cbs=[sp_cb, probe:=Probe(sp_cb), amp])
    assert amp.n_skipped>=2 and sp_cb.masks.sparsity==pytest.approx(60, abs=.2) and len(probe.digests)==64
    assert all(torch.isfinite(t).all() for t in everything(learn.model).values())

@pytest.mark.parametrize('sched, best', [(one_shot, 3), (iterative(n_steps=2), 5)])
def test_save_model_keeps_the_best_since_the_last_mask(sched, best, tmp_path):
    "Dense epochs are better and are not what is wanted"
    class Keep(Callback):
        order = 59
        def after_epoch(self): states.append(everything(self.model))
    states, learn = [], conv_learner(path=tmp_path, cbs=Losses([.1, .2, .9, .5, .8, .7]))
    learn.fit(6, cbs=[sp_cb:=make(60, schedule=sched, start_epoch=2, lth=True), SaveModelCallback(), Keep()])
    assert not [k for k in differing(everything(learn.model), states[best]) if k!='seen']
    assert nonzero_pruned(sp_cb.sparsifier)==0

@pytest.mark.parametrize('reset_end', [False, True])
def test_save_model_and_the_ticket(reset_end, tmp_path):
    """The trained weights are those of the best epoch, which the model has after the fit,
    unless the ticket was to be given back untrained"""
    learn = conv_learner(path=tmp_path, cbs=Losses([.9, .1, .5]))
    before, sp_cb = everything(learn.model), make(60, lth=True, reset_end=reset_end)
    learn.fit(3, cbs=[sp_cb, SaveModelCallback()])
    expected = masked(before, sp_cb.masks) if reset_end else sp_cb.ticket.trained
    assert not [k for k in differing(everything(learn.model), expected) if k!='seen']

losses = [.5, .4, .3, .2, .9, .8, .7, .6, .95, .85, .9, .9]

@pytest.mark.parametrize('start, lth, n', [(None, False, 6), (4, False, 12), (4, True, 12), (2, True, 6)])
def test_early_stopping(start, lth, n):
    "A rewind doesn't stop it (the second one is at epoch 8), and two epochs without improvement do"
    learn = conv_learner(2, cbs=Losses(losses))
    sp_cb = make(60, schedule=iterative(n_steps=2), start_epoch=start or 0, lth=lth)
    learn.fit(12, cbs=[EarlyStoppingCallback(patience=2), *([sp_cb] if start else [])])
    assert len(learn.rows)==n and (not start or sp_cb.ticket.trained is not None)

def test_the_learning_rate_on_a_plateau():
    "A rewind is no plateau"
    class Rates(Callback):
        def before_epoch(self): rates.append(self.opt.hypers[-1]['lr'])
    rates, learn = [], conv_learner(2, cbs=Losses([.5, .4, .3, .9, .8, .85, .9, .9]))
    learn.fit(8, lr=1., cbs=[make(60, start_epoch=3, lth=True), ReduceLROnPlateau(patience=2), Rates()])
    assert rates==[1]*7 + [.1]

def test_tracking_the_sparsity_itself_and_other_metrics(tmp_path):
    learn = conv_learner(path=tmp_path, metrics=accuracy)
    learn.fit(3, cbs=[make(60, schedule=iterative), SaveModelCallback('accuracy'),
                      EarlyStoppingCallback('sparsity', patience=5), CSVLogger()])
    rows = [o.split(',') for o in (tmp_path/'history.csv').read_text().splitlines()]
    assert [rows[0][4], *(round(float(o[4])) for o in rows[1:])]==['sparsity', 20, 40, 60]

@pytest.mark.parametrize('when', ['before', 'after'])
def test_export_and_load(when, tmp_path):
    sp_cb = make(60, schedule=iterative, start_epoch=1, lth=True)
    learn = learner(cbs=sp_cb, path=tmp_path)
    del learn.rows, learn.logger
    learn.logger = noop
    if when=='after': learn.fit(4)
    learn.export('l.pkl')
    there = load_learner(tmp_path/'l.pkl')
    assert not differing(everything(there.model), everything(learn.model))
    there.dls, other = digits_dls(), there.sparsify
    assert other.masks==sp_cb.masks and (when=='before' or there.validate()[1]==learn.validate()[1])
    there.fit(4)
    assert other.masks.sparsity==60 and nonzero_pruned(other.sparsifier)==0 and other.sparsifier.model is there.model
    if when=='after': assert other.masks==sp_cb.masks and not differing(other.ticket.state, sp_cb.ticket.state)

@pytest.mark.parametrize('how', [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=['deepcopy', 'pickle'])
@pytest.mark.parametrize('used', [False, True])
def test_copies_of_the_callback(how, used):
    learn, sp_cb = conv_learner(), make(60, schedule=iterative(n_steps=2), start_epoch=1, lth=True)
    if used: learn.fit(4, cbs=sp_cb)
    twin = how(sp_cb)
    assert (twin.end_sparsity, twin.criteria, twin.schedule, twin.lth)==(60, sp_cb.criteria, sp_cb.schedule, True)
    if used: assert twin.masks==sp_cb.masks and not differing(twin.ticket.trained, sp_cb.ticket.trained)
    other = conv_learner()
    other.fit(4, cbs=twin)
    assert twin.sparsifier.model is other.model and twin.masks.sparsity==pytest.approx(60, abs=.2)
    if used: assert twin.masks==sp_cb.masks and sp_cb.sparsifier.model is learn.model

def test_two_callbacks_on_layers_of_their_own():
    learn = conv_learner()
    convs = make(50, 'filter', schedule=one_shot, layers=[nn.Conv2d, nn.ConvTranspose2d], start_epoch=1)
    head = make(80, 'weight', schedule=linear, layers='head')
    probes = [Probe(convs), Probe(head)]
    learn.fit(3, cbs=[convs, head, *probes])
    assert head.masks.sparsity==80 and list(head.masks)==['head.weight']
    assert not set(convs.masks) & set(head.masks) and 0<convs.masks.sparsity<=50
    assert [row[3:5] for row in learn.rows][-1]==[convs.masks.sparsity, head.masks.sparsity]
    assert list(learn.recorder.metric_names).count('sparsity')==2

# Criteria, wrappers, and the rest

@pytest.mark.parametrize('name', list(criteria))
@pytest.mark.parametrize('lth', [False, True])
def test_every_criterion(name, lth):
    learn = conv_learner()
    sp_cb = make(60, criteria=name, schedule=iterative, start_epoch=1, lth=lth, rewind_epoch=int(lth))
    learn.fit(5, cbs=[sp_cb, probe:=Probe(sp_cb)])
    assert sp_cb.masks.n_kept==round(.4*sp_cb.masks.n_weights) and len(set(probe.digests))==4

def test_the_gradient_that_was_scored_is_not_taken_as_a_step():
    "After a rewind the weights are those of the rewind point; the gradient of the trained ones is no use to them"
    learn = conv_learner(3, opt_func=partial(SGD, mom=0.), wd=.1) # a step without a gradient still decays the weights
    sp_cb = make(60, criteria=taylor, start_epoch=1, lth=True)
    at = {}
    class Look(Callback):
        order = 90
        def after_batch(self):
            if self.training and (self.epoch, self.iter)==(1, 0): at.update(everything(self.model))
    learn.fit(2, cbs=[sp_cb, Look()])
    assert at and not differing(at, sp_cb.ticket.state)

@pytest.mark.parametrize('wrap', [nn.DataParallel, lambda o: torch.compile(o, backend='eager')],
                         ids=['DataParallel', 'compile'])
def test_wrapped_models(wrap):
    def found(wrap):
        learn, sp_cb = conv_learner(), make(60, schedule=iterative, start_epoch=1, lth=True)
        learn.model = wrap(learn.model)
        keys = list(learn.model.state_dict())
        learn.fit(4, cbs=[sp_cb, Probe(sp_cb)])
        assert list(learn.model.state_dict())==keys
        return sp_cb.ticket
    bare, wrapped = found(noop), found(wrap)
    assert wrapped.masks==bare.masks and not differing(wrapped.state, bare.state)
    assert not differing(wrapped.trained, bare.trained)

def test_round_to_and_allow_collapse():
    learn, sp_cb = conv_learner(), make(50, 'filter', 'local', schedule=linear, round_to=2, layers=nn.Conv2d)
    learn.fit(3, cbs=[sp_cb, Probe(sp_cb)])
    assert list(sp_cb.sparsifier.report().units_kept)[:2]==[4, 4]
    for allowed in (False, True):
        learn = conv_learner()
        with torch.no_grad(): learn.model.head.weight.mul_(1e-6)
        learn.fit(1, cbs=(sp_cb:=make(50, allow_collapse=allowed)))
        assert sp_cb.masks['head.weight'].sum()==(not allowed)

def test_same_seed_same_ticket():
    def found(seed):
        learn = learner(seed=seed)
        sp_cb = make(80, schedule=geometric(n_steps=2), start_epoch=1, lth=True, rewind_epoch=1)
        learn.fit(3, cbs=sp_cb)
        return sp_cb.ticket
    a, b, other = [found(seed) for seed in (0, 0, 1)]
    assert a.masks==b.masks and not differing(a.state, b.state)
    assert not differing(a.trained, b.trained) and other.masks!=a.masks

def test_a_model_that_was_sparse_before_stays_so_through_a_rewind():
    "start_sparsity with a later rewind point: the snapshot is taken with those weights at 0"
    learn, sp_cb = conv_learner(), make(60, start_sparsity=30, start_epoch=2, lth=True, rewind_epoch=1)
    learn.fit(4, cbs=[sp_cb, probe:=Probe(sp_cb)])
    assert not differing(sp_cb.ticket.state, masked(sp_cb.sparsifier.snapshot, sp_cb.masks))
    assert len(set(probe.digests))==2

def test_cancelled_by_somebody_else():
    learn, sp_cb = conv_learner(), make(60, lth=True)
    learn.fit(5, cbs=[sp_cb, Interrupt((1, 0), 'before_step', CancelFitException)])
    assert not differing(sp_cb.ticket.trained, everything(learn.model)) and nonzero_pruned(sp_cb.sparsifier)==0

# What comes out

def last(table): return table.groupby('round').last()

def test_the_table_and_the_meta(tmp_path):
    "Every number of fastai's table, whole; and JSON holds what the ticket knows of it"
    learn, sp_cb = learner(seed=3), make(80, schedule=geometric(n_steps=2), start_epoch=2, lth=True, rewind_epoch=1)
    learn.fit(6, cbs=sp_cb)
    df, meta = sp_cb.table, sp_cb.ticket.meta
    assert list(df)==table_columns and (df.seed==0).all()
    for i,row in enumerate(learn.rows):
        r,e = i//2,i%2 + (i>1) # a ticket begins with the weights of epoch 1
        of = df[(df['round']==r) & (df.epoch==e)]
        assert dict(zip(of.metric, of.value))==dict(zip(('train_loss','valid_loss','accuracy'), row[1:4]))
        assert set(of.arm)=={'ticket' if r else 'dense'} and set(of.step)=={(e+1)*n_batches}
        assert of.density.to_list()==pytest.approx([100*.2**(r/2)]*3, abs=.01)
    assert as_table(meta['table']).equals(df)
    assert as_table(Ticket.load(sp_cb.ticket.save(tmp_path/'t')).meta['table']).equals(df)
    assert meta['seeds']==dict(torch=3, data=0) and meta['data']==dict(loader='WholeDL', n_train=1437, n_valid=360)
    assert meta['rewind']==1 and meta['schedule']=='geometric(n_steps=2)'
    assert meta['layers']==list(sp_cb.masks) and 'verbose' not in meta
    assert json.loads(json.dumps(meta, allow_nan=False))==meta
    assert set(meta['versions'])=={'python','lottery_nb','torch','fastai'}
    assert not differing(sp_cb.ticket.full, {k: sp_cb.sparsifier.snapshot[k] for k in sp_cb.masks})

@pytest.mark.parametrize('kwargs, n, epochs', [
    (dict(schedule=linear, start_epoch=1, end_epoch=3), 5, {0: 0, 1: 1, 2: 4}),
    (dict(start_epoch=1), 2, {0: 0, 1: 1}), ({}, 2, {1: 1}),
    (dict(schedule=dsd, start_epoch=1), 3, {0: 0, 1: 1, 2: 2})])
def test_rounds(kwargs, n, epochs):
    "A round is an epoch with new masks and those after it without"
    learn, sp_cb = conv_learner(), make(80, **kwargs)
    learn.fit(n, cbs=sp_cb)
    ends = last(sp_cb.table)
    assert dict(ends.epoch)==epochs and dict(ends.arm)=={r: 'ticket' if r else 'dense' for r in epochs}

def test_what_cannot_be_measured():
    "NaN is None for JSON; an epoch that was not measured, a metric that's no number, no Recorder: left out"
    class Skip(Callback):
        def before_validate(self): raise CancelValidException
    def nan(x, y): return x.sum()*np.nan
    class Word(Metric):
        value,name,reset,accumulate = 'good','word',noop,noop
    learn, sp_cb = conv_learner(metrics=[nan, Word(), accuracy]), make(50)
    learn.fit(1, cbs=sp_cb)
    assert [o['value'] for o in sp_cb.ticket.meta['table'] if o['metric']=='nan']==[None]
    assert set(sp_cb.table.metric)=={'train_loss','valid_loss','nan','accuracy'}
    for learn,cbs in ((conv_learner(), [Skip()]), (conv_learner().remove_cb(Recorder), [])):
        learn.fit(1, cbs=[sp_cb:=make(50), *cbs])
        assert not len(sp_cb.table) and sp_cb.ticket.meta['table']==[]

# A network that is sparse already

def sparse_learner(sparsity=60):
    "A learner whose model came sparse, and its masks"
    learn = learner()
    return learn, Sparsifier(learn.model, method='local').sparsify(sparsity)

@pytest.mark.parametrize('schedule, arms', [(one_shot, {0: 'ticket', 1: 'ticket'}), (dsd, None)])
def test_a_sparse_network_stays_sparse(schedule, arms):
    "Exactly, in every batch, and with a schedule that falls too"
    learn, came = sparse_learner()
    keeps = make(80, schedule=schedule, start_epoch=1, keep_zeros=True)
    learn.fit(3, cbs=[keeps, probe := Probe(keeps)])
    assert came.lost_in(learn.model).lost.iloc[-1]==0 and (keeps.masks - came).n_kept==0
    assert keeps.sparsifier.zeros==came and keeps.table.density.iloc[0]==40
    if arms: assert dict(keeps.table.groupby('round').arm.first())==arms and keeps.masks.sparsity==80
    else: assert max(probe.sparsities)==80 and keeps.masks==came

@pytest.mark.parametrize('end', [0, 60])
def test_a_sparse_network_is_only_trained(end):
    learn, came = sparse_learner()
    keeps, before = make(end, keep_zeros=True), everything(learn.model)
    learn.fit(2, cbs=[keeps, probe := Probe(keeps)])
    assert set(probe.digests)=={came.digest()} and set(keeps.table.arm)=={'ticket'}
    assert set(keeps.table['round'])=={0} and differing(everything(learn.model), before)
    learn.fit(1, cbs=keeps)
    assert keeps.masks==came and keeps.ticket.meta['keep_zeros'] is True

def test_a_ticket_of_a_sparse_network():
    learn, came = sparse_learner()
    keeps = make(90, schedule=iterative, start_epoch=1, lth=True, keep_zeros=True)
    learn.fit(4, cbs=[keeps, Probe(keeps)])
    assert (keeps.masks - came).n_kept==0 and keeps.masks.sparsity==90
    assert dict(keeps.table.groupby('round').arm.first())=={0: 'ticket', 1: 'ticket'}

def test_without_keep_zeros_they_fill():
    learn, came = sparse_learner()
    learn.fit(2, cbs=make(20, start_epoch=1))
    assert came.lost_in(learn.model).lost.iloc[-1]
