"The callback in fastai: the blog post's recipe to the letter, exact rewinding, and peace with every other callback"
import copy, pickle, warnings
from functools import partial

import numpy as np, pytest, torch
from fastai.basics import (Adam, Callback, CancelFitException, CrossEntropyLossFlat, Learner, OptimWrapper, SGD, accuracy, load_learner, ranger)
from fastai.callback.all import (CSVLogger, EarlyStoppingCallback, GradientAccumulation, GradientClip, MixedPrecision, ProgressCallback, ReduceLROnPlateau,
                                 SaveModelCallback, ShortEpochCallback)
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastcore.basics import noop
from torch import nn

import lottery_nb.all, fastai.vision.all
from lottery_nb.callback import SparsifyCallback
from lottery_nb.criteria import criteria, criterion, large_final, taylor
from lottery_nb.data import digits_dls
from lottery_nb.masks import Masks
from lottery_nb.schedules import agp, dsd, geometric, iterative, linear, one_shot, schedules
from lottery_nb.sparsifier import Sparsifier
from models import ConvNet, copied, differing, everything, masked, mlp, nonzero_pruned

pytestmark = pytest.mark.filterwarnings('ignore:layer collapse')
n_batches = 22 # of digits in an epoch

# Learners that keep their table for themselves, quick ones among them

def quiet(learn):
    learn.remove_cb(ProgressCallback)
    learn.rows = []
    learn.logger = learn.rows.append
    return learn

def learner(model=None, seed=0, **kwargs):
    torch.manual_seed(seed)
    return quiet(Learner(digits_dls(), model or mlp(), **{'metrics': accuracy, **kwargs}))

def few_batches(n=4, bs=8, n_in=1):
    "Random images, `n` batches an epoch, always the same"
    g = torch.Generator().manual_seed(1)
    items = [(torch.randn(n_in,8,8, generator=g), torch.randint(0, 10, (), generator=g)) for _ in range(n*bs)]
    return DataLoaders(DataLoader(items, bs=bs), DataLoader(items[:bs], bs=bs))

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
REWIND = '''
learn = Learner(dls, resnet18(num_classes=10), metrics=accuracy)
learn.model.load_state_dict(initial_weights)

sp_cb = SparsifyCallback(50, 'weight', 'global', large_final, iterative, start_epoch=5, lth=True, rewind_epoch=1)
learn.fit(20, cbs=sp_cb)
'''
RESET_END = REWIND.replace('rewind_epoch=1)', 'rewind_epoch=1, reset_end=True)')

LINES = '''
Sparsity at the end of epoch 1: 0.00%
Sparsity at the end of epoch 2: 0.00%
Sparsity at the end of epoch 3: 0.00%
Sparsity at the end of epoch 4: 0.00%
Resetting Weights to their epoch {e} values
Sparsity at the end of epoch 5: 16.67%
Sparsity at the end of epoch 6: 16.67%
Sparsity at the end of epoch 7: 16.67%
Sparsity at the end of epoch 8: 16.67%
Sparsity at the end of epoch 9: 16.67%
Resetting Weights to their epoch {e} values
Sparsity at the end of epoch 10: 33.33%
Sparsity at the end of epoch 11: 33.33%
Sparsity at the end of epoch 12: 33.33%
Sparsity at the end of epoch 13: 33.33%
Sparsity at the end of epoch 14: 33.33%
Resetting Weights to their epoch {e} values
Sparsity at the end of epoch 15: 50.00%
Sparsity at the end of epoch 16: 50.00%
Sparsity at the end of epoch 17: 50.00%
Sparsity at the end of epoch 18: 50.00%
Sparsity at the end of epoch 19: 50.00%
Final Sparsity: 50.00
'''.lstrip()
LTH_LINES = 'Pruning of weight until a sparsity of 50%\nSaving Weights at epoch 0\nSparsity at the end of epoch 0: 0.00%\n' + LINES.format(e=0)
REWIND_LINES = 'Pruning of weight until a sparsity of 50%\nSparsity at the end of epoch 0: 0.00%\nSaving Weights at epoch 1\n' + LINES.format(e=1)
RESET_END_LINES = REWIND_LINES + 'Resetting Weights to their epoch 1 values\n'

@pytest.fixture(scope='module')
def blog():
    "What the post's cells see, with digits for Imagenette and an MLP for the ResNet"
    torch.manual_seed(0)
    space = {**vars(fastai.vision.all), **vars(lottery_nb.all)}
    space.update(dls=digits_dls(), resnet18=lambda num_classes: mlp(), Learner=lambda *args, **kwargs: quiet(Learner(*args, **kwargs)))
    exec(BASELINE, space)
    return space

def test_the_baseline(blog):
    assert len(blog['learn'].rows)==5 and len(blog['learn'].rows[0])==5 and blog['learn'].recorder.values[-1][2]>.85
    assert all((p!=0).all() for n,p in blog['learn'].model.named_parameters() if 'weight' in n)

@pytest.mark.parametrize('cell, lines', [(LTH, LTH_LINES), (REWIND, REWIND_LINES), (RESET_END, RESET_END_LINES)], ids=['lth', 'rewind', 'reset_end'])
def test_the_blog_post(blog, cell, lines, capsys):
    exec(cell, blog)
    assert capsys.readouterr().out==lines
    learn, sp_cb = blog['learn'], blog['sp_cb']
    # the table
    assert list(learn.recorder.metric_names)==['epoch', 'train_loss', 'valid_loss', 'accuracy', 'sparsity', 'time']
    expected = [0]*5 + [round(50200/6)]*5 + [round(50200/3)]*5 + [25100]*5
    assert [len(row) for row in learn.rows]==[6]*20 and [row[0] for row in learn.rows]==list(range(20))
    assert [row[4] for row in learn.rows]==pytest.approx([100*n/50200 for n in expected]) and all(':' in row[5] for row in learn.rows)
    assert [v[3] for v in learn.recorder.values]==[row[4] for row in learn.rows] and learn.rows[19][3]>.9
    # the ticket
    ticket, point = sp_cb.ticket, 1 if 'rewind_epoch' in cell else 0
    assert ticket.masks==sp_cb.masks and ticket.masks.n_kept==25100 and ticket.masks.n_weights==50200
    assert ticket.meta['rewind']==point and ticket.meta['end_sparsity']==50 and ticket.meta['sparsity']==50
    assert list(ticket.state)==list(ticket.trained)==list(learn.model.state_dict())==list(mlp().state_dict())
    if not point: assert not differing(ticket.state, masked(blog['initial_weights'], ticket.masks))
    else: assert len(differing(ticket.state, masked(blog['initial_weights'], ticket.masks)))==6
    assert not differing(everything(learn.model), ticket.state if 'reset_end' in cell else ticket.trained)
    assert len(differing(ticket.trained, ticket.state))==6 and not differing(ticket.trained, masked(ticket.trained, ticket.masks))

def test_silence_keeps_the_column(capsys):
    learn = learner()
    learn.fit(2, cbs=make(50))
    assert capsys.readouterr().out=='' and [row[4] for row in learn.rows]==[50, 50] and 'sparsity' in learn.recorder.metric_names

def test_lines_of_other_numbers(capsys):
    learn = learner()
    learn.fit(1, cbs=make(12.5, 'row', 'local', schedule=one_shot, verbose=True))
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first=='Pruning of row until a sparsity of 12.5%' and last==f"Final Sparsity: {learn.recorder.values[-1][3]:.2f}"

def test_the_printed_table(capsys):
    "fastai's own progress bar prints the column too"
    torch.manual_seed(0)
    learn = Learner(digits_dls(), mlp(), metrics=accuracy)
    learn.fit(2, cbs=make(50))
    out = capsys.readouterr().out
    assert 'sparsity' in out and out.count('50.0')>=2

@pytest.mark.parametrize('metrics, kwargs, expected', [
    ([], {}, ['epoch', 'train_loss', 'valid_loss', 'sparsity', 'time']),
    ([accuracy, lambda x, y: x.max()], {}, ['epoch', 'train_loss', 'valid_loss', 'accuracy', '<lambda>', 'sparsity', 'time']),
    ([accuracy], dict(add_time=False), ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'sparsity']),
    ([accuracy], dict(train_metrics=True), ['epoch', 'train_loss', 'train_accuracy', 'valid_loss', 'valid_accuracy', 'sparsity', 'time'])])
def test_the_column_stands_where_it_belongs(metrics, kwargs, expected):
    learn = conv_learner(metrics=metrics)
    for k,v in kwargs.items(): setattr(learn.recorder, k, v)
    learn.fit(2, cbs=make(50))
    assert list(learn.recorder.metric_names)==expected and all(len(row)==len(expected) for row in learn.rows)
    assert [row[expected.index('sparsity')] for row in learn.rows]==[pytest.approx(50, abs=.2)]*2
    learn.fit(1)
    assert list(learn.recorder.metric_names)==[o for o in expected if o!='sparsity']

# What it must not disturb

def test_before_the_pruning_the_training_is_the_dense_one():
    "To the last bit: the callback draws no random numbers and touches no weight"
    dense, pruned = learner(), learner()
    dense.fit(4)
    at = {}
    class Keep(Callback):
        def before_epoch(self):
            if self.epoch==3: at.update(everything(self.model))
    probe = learner()
    probe.fit(4, cbs=[make(start_epoch=3, lth=True, rewind_epoch=1), Keep()])
    assert [v[:3] for v in dense.recorder.values[:3]]==[v[:3] for v in probe.recorder.values[:3]]
    pruned.fit(3)
    assert not differing(everything(pruned.model), at)

def test_nothing_is_left_behind():
    learn = conv_learner()
    plain = copy.deepcopy(learn.model)
    before = [type(cb) for cb in learn.cbs], list(learn.metrics)
    sp_cb = make(lth=True)
    learn.fit(2, cbs=sp_cb)
    assert ([type(cb) for cb in learn.cbs], list(learn.metrics))==before and list(learn.model.state_dict())==list(plain.state_dict())
    for a,b in zip(learn.model.modules(), plain.modules()):
        assert type(a) is type(b) and vars(a).keys()==vars(b).keys() and not a._forward_hooks and not a._forward_pre_hooks
    learn.fit(1)
    assert nonzero_pruned(sp_cb.sparsifier)>0 # nobody holds them any more

# When masks are made

@pytest.mark.parametrize('name', list(schedules))
@pytest.mark.parametrize('where', [{}, dict(start_epoch=1), dict(start_epoch=1, end_epoch=3), dict(start_sparsity=20, start_epoch=1), dict(update_every=3),
                                   dict(end_epoch=4)])
def test_schedules_end_where_they_should(name, where):
    learn = conv_learner(5)
    sp_cb = make(73, schedule=name, **where)
    probe = Probe(sp_cb)
    learn.fit(4, cbs=[sp_cb, probe])
    n, got = sp_cb.masks.n_weights, probe.sparsities
    end = where.get('start_sparsity', 0) if name=='dsd' else 73
    def exact(s): return 100*round(s/100*n)/n
    assert got[-1]==sp_cb.masks.sparsity==exact(end) and len(got)==20
    start, last = 5*where.get('start_epoch', 0), 5*where.get('end_epoch', 4)-1
    assert got[:start]==[exact(where.get('start_sparsity', 0))]*start
    assert got[last:]==[exact(end)]*(20-last)
    if name!='dsd': assert got==sorted(got)
    # at the epochs' beginnings and, unless it is gradual, at every batch, the schedule is followed
    for i,s in enumerate(got):
        pos = (i-start)/(last+1-start) if i<last else 1
        if i%5==0 or name in ('one_shot', 'iterative', 'geometric'):
            assert s==exact(schedules[name].at(pos, where.get('start_sparsity', 0), 73))

@pytest.mark.parametrize('every', [1, 3, 7, None])
def test_masks_are_not_made_more_often_than_asked(every):
    learn = conv_learner(40)
    sp_cb = make(80, schedule=linear, update_every=every)
    probe = Probe(sp_cb)
    learn.fit(2, cbs=[sp_cb, probe])
    changes = [i for i in range(1, 80) if probe.digests[i]!=probe.digests[i-1]]
    n = every or 4 # in so short a phase
    expected = sorted({*range(n, 40, n), 40, *range(40+n, 80, n), 79})
    assert changes==expected

def test_update_every_counts_batches_also_when_gradients_accumulate():
    learn = conv_learner(40)
    sp_cb = make(80, schedule=linear, update_every=8)
    probe = Probe(sp_cb)
    learn.fit(1, cbs=[sp_cb, probe, GradientAccumulation(16)])
    assert [i for i in range(1, 40) if probe.digests[i]!=probe.digests[i-1]]==[8, 16, 24, 32, 39]

def test_no_mask_is_made_while_the_sparsity_stands_still(monkeypatch):
    made = []
    put_on = Sparsifier.put_on
    monkeypatch.setattr(Sparsifier, 'put_on', lambda self, masks: made.append(masks.sparsity) or put_on(self, masks))
    conv_learner().fit(6, cbs=make(60, schedule=iterative))
    assert made==[pytest.approx(s, abs=.2) for s in (20, 40, 60)]
    made.clear()
    conv_learner().fit(3, cbs=make(60, schedule=one_shot, start_epoch=1))
    assert len(made)==1

# Rewinding

class Rewound(Probe):
    "Compares with the rewind point, bit for bit, at each batch before which there was a rewind"
    def __init__(self, sp_cb, rewind_opt): super().__init__(sp_cb); self.how,self.count,self.point,self.digest = rewind_opt,0,None,None
    def opt_state(self): return [copied({k: v for k,v in self.opt.state[p].items() if isinstance(v, torch.Tensor)}) |
        {k: torch.tensor(v) for k,v in self.opt.state[p].items() if not isinstance(v, torch.Tensor)} for p in self.model.parameters()]
    def look(self):
        if self.epoch==self.sp_cb.rewind_epoch and self.iter==0: self.point,self.opt_point = everything(self.model), self.opt_state()
        digest = self.sp_cb.masks.digest()
        if self.digest and digest!=self.digest: self.compare()
        self.digest,self.before = digest, self.opt_state()
    def after_step(self): self.stepped = self.opt_state()
    def compare(self):
        self.count += 1
        assert not differing(everything(self.model), masked(self.point, self.sp_cb.masks))
        assert all(p.grad is None or p.grad.count_nonzero()==0 for p in self.model.parameters())
        flags = [{k: v for k,v in o.items() if k in ('do_wd', 'force_train')} for o in self.stepped]
        expected = dict(reset=flags, restore=self.opt_point, keep=self.stepped)[self.how]
        for got,want in zip(self.opt_state(), expected): assert not differing(got, want)

@pytest.mark.parametrize('how', ['reset', 'restore', 'keep'])
@pytest.mark.parametrize('epoch', [0, 1])
@pytest.mark.parametrize('opt_func', [Adam, partial(SGD, mom=.9)], ids=['adam', 'sgd'])
def test_rewinding_is_exact(how, epoch, opt_func):
    learn = conv_learner(opt_func=opt_func, wd=.01)
    sp_cb = make(60, 'weight', schedule=iterative, start_epoch=2, lth=True, rewind_epoch=epoch, rewind_opt=how)
    probe = Rewound(sp_cb, how)
    learn.fit(8, cbs=[sp_cb, probe])
    assert probe.count==3 and not differing(sp_cb.sparsifier.snapshot, probe.point)
    assert {'seen', 'stem.1.running_mean', 'stem.1.num_batches_tracked'} <= set(differing(everything(learn.model), probe.point))
    assert not differing(sp_cb.ticket.state, masked(probe.point, sp_cb.masks))

@pytest.mark.parametrize('opt_func', [Adam, partial(SGD, mom=.9), ranger, partial(OptimWrapper, opt=torch.optim.AdamW),
                                      partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=.9))],
                         ids=['adam', 'sgd', 'ranger', 'torch_adamw', 'torch_sgd'])
def test_after_a_reset_the_training_is_that_of_a_fresh_learner(opt_func):
    "The last round gives, bit for bit, what a new learner makes of the ticket"
    learn = conv_learner(8, opt_func=opt_func)
    sp_cb = make(60, schedule=one_shot, start_epoch=2, lth=True)
    learn.fit(4, cbs=sp_cb)
    ticket = sp_cb.ticket
    fresh = conv_learner(8, opt_func=opt_func)
    sp = ticket.apply_to(fresh.model)
    class Hold(Callback):
        def after_step(self): sp.apply()
    fresh.model.seen.copy_(ticket.state['seen'])
    fresh.fit(2, cbs=Hold())
    assert not differing(everything(fresh.model), everything(learn.model))

@pytest.mark.parametrize('opt_func', [Adam, partial(SGD, mom=.9), ranger, partial(OptimWrapper, opt=torch.optim.AdamW)],
                         ids=['adam', 'sgd', 'ranger', 'torch_adamw'])
def test_after_a_restore_the_training_goes_on_from_the_rewind_point(opt_func):
    "As in a run that is pruned by these masks at the rewind point and never went further"
    learn = conv_learner(8, opt_func=opt_func)
    sp_cb = make(60, schedule=one_shot, start_epoch=3, lth=True, rewind_epoch=1, rewind_opt='restore')
    learn.fit(5, cbs=sp_cb)
    class Hold(Callback):
        def before_train(self):
            if self.epoch==1: sp_cb.masks.apply_(self.model)
        def after_step(self):
            if self.epoch>=1: sp_cb.masks.apply_(self.model)
    straight = conv_learner(8, opt_func=opt_func)
    straight.fit(3, cbs=Hold())
    assert not differing(everything(straight.model), everything(learn.model))

def test_the_first_rewind_point_counts_and_training_on_does_not_touch_it():
    learn = conv_learner()
    before = everything(learn.model)
    sp_cb = make(lth=True)
    learn.fit(3, cbs=sp_cb)
    assert not differing(sp_cb.sparsifier.snapshot, before)
    ticket = sp_cb.ticket
    state = copied(ticket.state)
    learn.fit(2, cbs=sp_cb)
    assert not differing(sp_cb.sparsifier.snapshot, before) and not differing(ticket.state, state)

@pytest.mark.parametrize('lth', [False, True])
def test_reset_end(lth):
    learn = conv_learner()
    before = everything(learn.model)
    sp_cb = make(60, schedule=geometric(n_steps=2), start_epoch=1, lth=lth, reset_end=True)
    learn.fit(4, cbs=sp_cb)
    assert not differing(everything(learn.model), masked(before, sp_cb.masks)) and not differing(sp_cb.ticket.state, everything(learn.model))
    assert len(differing(sp_cb.ticket.trained, everything(learn.model)))>5 and sp_cb.masks.sparsity==pytest.approx(60, abs=.2)

# In company

@pytest.mark.parametrize('lth', [False, True])
def test_fit_one_cycle(lth):
    learn = conv_learner(8)
    sp_cb = make(60, schedule=iterative, start_epoch=1, lth=lth)
    probe = Probe(sp_cb)
    learn.fit_one_cycle(4, 1e-2, cbs=[sp_cb, probe])
    assert probe.sparsities[-1]==pytest.approx(60, abs=.2) and len(probe.sparsities)==32
    dense = conv_learner(8)
    dense.fit_one_cycle(4, 1e-2)
    assert learn.recorder.lrs==dense.recorder.lrs # the learning rate is nobody else's business

@pytest.mark.parametrize('pruned', [False, True], ids=['before', 'after'])
def test_lr_find_leaves_everything_alone(pruned, tmp_path, capsys):
    sp_cb = make(50, lth=True, start_epoch=1, verbose=True)
    learn = conv_learner(path=tmp_path, cbs=sp_cb)
    if pruned: learn.fit(2)
    capsys.readouterr()
    before, masks = everything(learn.model), sp_cb.masks
    learn.lr_find(num_it=12, show_plot=False)
    assert not [k for k in differing(everything(learn.model), before) if k!='seen'] # which is in no state_dict, so fastai does not bring it back
    assert capsys.readouterr().out=='' and (sp_cb.masks==masks if pruned else sp_cb.sparsifier is None)
    learn.fit(2)
    assert sp_cb.masks.sparsity==pytest.approx(50, abs=.2) and 'Final Sparsity: 5' in capsys.readouterr().out and nonzero_pruned(sp_cb.sparsifier)==0

def test_lr_find_that_was_interrupted(tmp_path):
    "The next fit prunes all the same"
    sp_cb = make(50)
    learn = conv_learner(path=tmp_path, cbs=sp_cb)
    with pytest.raises(KeyboardInterrupt):
        with learn.added_cbs(Interrupt(at=(0, 2))): learn.lr_find(num_it=12, show_plot=False)
    learn.fit(1)
    assert sp_cb.masks and sp_cb.masks.sparsity==pytest.approx(50, abs=.2)

@pytest.mark.parametrize('when', ['before', 'after'])
def test_validate_predict_and_get_preds(when, capsys):
    sp_cb = make(50, lth=True, start_epoch=1, reset_end=True, verbose=True)
    learn = learner(cbs=sp_cb)
    if when=='after': learn.fit(2)
    capsys.readouterr()
    before, masks, trained = everything(learn.model), sp_cb.masks, sp_cb.trained
    found = learn.validate()
    preds, targs = learn.get_preds()
    loss, acc = nn.functional.cross_entropy(preds.log(), targs).item(), (preds.argmax(1)==targs).float().mean().item()
    assert len(found)==2 and list(found)==pytest.approx([loss, acc], abs=1e-4)
    learn.predict(learn.dls.valid_ds[0][0])
    assert capsys.readouterr().out=='' and not differing(everything(learn.model), before)
    assert sp_cb.masks is masks or sp_cb.masks==masks
    assert sp_cb.trained is trained
    learn.fit(2)
    assert sp_cb.masks.sparsity==50

class Interrupt(Callback):
    "Somebody presses Ctrl+C"
    order = 95
    def __init__(self, at, event='before_step'): self.at,self.event = at,event
    def before_step(self): self.press('before_step')
    def before_batch(self): self.press('before_batch')
    def before_validate(self): self.press('before_validate')
    def press(self, event):
        if event==self.event and (self.epoch, self.iter)>=self.at: raise KeyboardInterrupt

@pytest.mark.parametrize('event', ['before_batch', 'before_step', 'before_validate'])
@pytest.mark.parametrize('lth', [False, True])
@pytest.mark.parametrize('added', ['fit', 'learner'])
def test_an_interrupted_fit(event, lth, added):
    learn = conv_learner()
    before = everything(learn.model)
    sp_cb = make(60, schedule=iterative(n_steps=2), start_epoch=1, lth=lth)
    if added=='learner': learn.add_cb(sp_cb)
    with pytest.raises(KeyboardInterrupt): learn.fit(5, cbs=[Interrupt((1, 1), event)] + ([sp_cb] if added=='fit' else []))
    at30 = sp_cb.masks
    assert at30.sparsity==pytest.approx(30, abs=.2) and nonzero_pruned(sp_cb.sparsifier)==0
    ticket = sp_cb.ticket
    assert ticket.masks==at30 and not differing(ticket.state, masked(before, at30)) and ticket.trained is None
    learn.fit(5, cbs=None if added=='learner' else sp_cb)
    assert sp_cb.masks.sparsity==pytest.approx(60, abs=.2) and not any((sp_cb.masks[k] & ~at30[k]).any() for k in at30)
    assert nonzero_pruned(sp_cb.sparsifier)==0 and not differing(sp_cb.ticket.state, masked(before, sp_cb.masks))
    assert not differing(sp_cb.ticket.trained, everything(learn.model))

def test_after_a_mask_that_could_not_be_made_the_next_fit_makes_it():
    "The weights are mended in between; the rewind point of the broken fit is forgotten with it"
    learn = conv_learner()
    learn.model.head.weight.data[0,0] = np.nan
    sp_cb = make(50, lth=True)
    with pytest.raises(ValueError, match='head.weight: the weight holds NaN'): learn.fit(2, cbs=sp_cb)
    assert sp_cb.masks.sparsity==0
    nn.init.normal_(learn.model.head.weight)
    learn.opt.clear_state()
    learn.fit(2, cbs=sp_cb)
    assert sp_cb.masks.sparsity==pytest.approx(50, abs=.2)
    assert all(t.isfinite().all() for t in sp_cb.ticket.state.values())

def test_an_interrupted_fall():
    "Half way through dsd: the next fit goes on with the masks that there are, or says so; the count is exact in every case"
    learn = conv_learner()
    sp_cb = make(60, schedule=dsd)
    with pytest.raises(KeyboardInterrupt): learn.fit(4, cbs=[sp_cb, Interrupt((3, 0))])
    assert sp_cb.masks.sparsity>0 and nonzero_pruned(sp_cb.sparsifier)==0
    learn.fit(4, cbs=sp_cb)
    assert sp_cb.masks.sparsity==0

def test_a_second_fit_with_the_same_callback(capsys):
    learn = conv_learner()
    before = everything(learn.model)
    sp_cb = make(60, schedule=iterative, start_epoch=1, lth=True, verbose=True)
    learn.fit(5, cbs=sp_cb)
    masks, state = sp_cb.masks, sp_cb.ticket.state
    capsys.readouterr()
    probe = Probe(sp_cb)
    learn.fit(3, cbs=[sp_cb, probe])
    assert sp_cb.masks==masks and set(probe.digests)=={masks.digest()}
    assert not differing(sp_cb.ticket.state, state) and not differing(sp_cb.ticket.trained, everything(learn.model))
    out = capsys.readouterr().out
    assert 'Resetting' not in out and 'Saving' not in out and out.splitlines()[-1]==f'Final Sparsity: {masks.sparsity:.2f}'
    assert not differing(state, masked(before, masks))

def test_the_same_callback_on_another_model():
    sp_cb = make(60, lth=True)
    one, other = conv_learner(), conv_learner(seed=1)
    one.fit(2, cbs=sp_cb)
    trained, before = everything(one.model), everything(other.model)
    other.fit(2, cbs=sp_cb)
    assert not differing(everything(one.model), trained) and sp_cb.sparsifier.model is other.model
    assert not differing(sp_cb.ticket.state, masked(before, sp_cb.masks)) and nonzero_pruned(sp_cb.sparsifier)==0

def test_the_same_model_in_another_learner():
    "The optimizer is another one, the masks are the same"
    sp_cb = make(60, schedule=iterative(n_steps=2), lth=True, rewind_opt='restore')
    one = conv_learner()
    one.fit(1, cbs=[sp_cb, ShortEpochCallback(0)])
    at = sp_cb.masks
    other = quiet(Learner(few_batches(), one.model, loss_func=CrossEntropyLossFlat()))
    other.fit(4, cbs=sp_cb)
    assert sp_cb.masks.sparsity==pytest.approx(60, abs=.2) and not any((sp_cb.masks[k] & ~at[k]).any() for k in at)

def test_gradient_clipping():
    class Norm(Callback):
        order = 90
        def before_step(self): norms.append(sum(float(p.grad.norm())**2 for p in self.model.parameters())**.5)
    norms, learn = [], conv_learner()
    sp_cb = make(60, schedule=linear)
    learn.fit(3, cbs=[sp_cb, Probe(sp_cb), GradientClip(.1), Norm()])
    assert len(norms)==12 and max(norms)<=.1001 and sp_cb.masks.sparsity==pytest.approx(60, abs=.2)

@pytest.mark.parametrize('lth, how', [(False, large_final), (True, large_final), (False, taylor), (True, taylor)])
def test_gradient_accumulation(lth, how):
    "Two batches a step; a rewind in the middle of a step takes no gradient of other weights along"
    learn = conv_learner(4, opt_func=partial(SGD, mom=0.))
    sp_cb = make(60, criteria=how, schedule=iterative, start_epoch=1, lth=lth)
    probe, acc = Probe(sp_cb), GradientAccumulation(16)
    learn.fit(4, cbs=[sp_cb, probe, acc])
    assert sp_cb.masks.sparsity==pytest.approx(60, abs=.2) and len(probe.digests)==16

def test_after_a_rewind_gradients_accumulate_from_nothing():
    "A rewind in the middle of a step: the step that follows is one of a full number of items, or its gradients count less"
    steps = []
    class Items(Callback):
        order = 80
        def before_fit(self): self.n = 0
        def after_backward(self): self.n += len(self.x)
        def after_step(self):
            steps.append((self.epoch, self.iter, self.n))
            self.n = 0
        def before_batch(self):
            if self.sparsify.masks.sparsity!=getattr(self, 'was', 0): self.n,self.was = 0,self.sparsify.masks.sparsity
    learn = conv_learner(3) # an odd number: after the first epoch one batch waits for the other
    learn.fit(4, cbs=[make(60, start_epoch=1, lth=True), GradientAccumulation(16), Items()])
    assert steps[0]==(0, 1, 16) and {n for *_,n in steps}=={16}, steps

def test_a_rewind_drops_the_gradients_that_were_accumulating():
    learn = conv_learner(3)
    sp_cb = make(60, start_epoch=1, lth=True)
    class Look(Callback):
        order = 90
        def before_batch(self):
            if self.training: seen.append(sum(int(p.grad.count_nonzero()) for p in self.model.parameters() if p.grad is not None))
    seen = []
    learn.fit(2, cbs=[sp_cb, GradientAccumulation(16), Look()])
    assert [n>0 for n in seen]==[False, True, False] + [False, True, False] # at the fourth batch, the one from the third is gone

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('lth', [False, True])
@pytest.mark.parametrize('how', [large_final, taylor])
@pytest.mark.parametrize('mode', ['fp16', 'bf16'])
def test_mixed_precision(lth, how, mode):
    "fastai's is made for CUDA; without it nothing is scaled, but it goes the same way"
    learn = conv_learner()
    sp_cb = make(60, criteria=how, schedule=iterative, start_epoch=1, lth=lth)
    learn.fit(4, cbs=[sp_cb, probe:=Probe(sp_cb), MixedPrecision(mode)])
    assert sp_cb.masks.sparsity==pytest.approx(60, abs=.2) and len(probe.digests)==16 and learn.scaler is None

class ScaledOnCPU(MixedPrecision):
    "fastai's mixed precision, with PyTorch's scaler for the CPU. The scale is too large at first, so gradients overflow and steps are skipped"
    def __init__(self, scale=2.**127): super().__init__(); self.scale = scale
    def before_fit(self):
        super().before_fit()
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)
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

def test_a_ticket_found_by_scaled_gradients_is_that_of_unscaled_ones():
    "Powers of two change no ranking"
    def found(*cbs):
        learn, sp_cb = conv_learner(), make(60, criteria=taylor, schedule=iterative, start_epoch=1, lth=True)
        learn.fit(4, cbs=[sp_cb, *cbs])
        return sp_cb.masks
    class Autocast(Callback):
        order = 10
        def before_batch(self): self.autocast = torch.autocast('cpu', dtype=torch.bfloat16); self.autocast.__enter__()
        def after_pred(self): self.learn.pred = self.pred.float()
        def after_loss(self): self.autocast.__exit__(None, None, None)
    assert found(ScaledOnCPU(2.**10))==found(Autocast())

def set_loss(learn, losses):
    "Makes the validation loss of each epoch what we want it to be"
    class Loss(Callback):
        order = 54 # right after the Recorder has written it down
        def after_validate(self): self.recorder.log[2] = losses[self.epoch]
    learn.add_cb(Loss())
    return learn

def test_save_model_keeps_the_best_since_the_last_mask(tmp_path):
    "Dense epochs are better and are not what is wanted"
    losses = [.1, .2, .9, .5, .8, .7]
    class Keep(Callback):
        order = 59
        def after_epoch(self): states.append(everything(self.model))
    for granularity,sched in (('weight', one_shot), ('weight', iterative(n_steps=2))):
        states, learn = [], set_loss(conv_learner(path=tmp_path), losses)
        sp_cb = make(60, granularity, schedule=sched, start_epoch=2, lth=True)
        learn.fit(6, cbs=[sp_cb, SaveModelCallback(), Keep()])
        best = 3 if sched is one_shot else 5
        assert not [k for k in differing(everything(learn.model), states[best]) if k!='seen']
        assert nonzero_pruned(sp_cb.sparsifier)==0

def test_save_model_and_reset_end(tmp_path):
    "The ticket was to be given back untrained"
    learn = conv_learner(path=tmp_path)
    before = everything(learn.model)
    sp_cb = make(60, lth=True, reset_end=True)
    learn.fit(3, cbs=[sp_cb, SaveModelCallback()])
    assert not [k for k in differing(everything(learn.model), masked(before, sp_cb.masks)) if k!='seen']

def test_save_model_and_the_trained_ticket(tmp_path):
    "The trained weights of the ticket are those that the model has after the fit"
    learn = set_loss(conv_learner(path=tmp_path), [.9, .1, .5])
    sp_cb = make(60, lth=True)
    learn.fit(3, cbs=[sp_cb, SaveModelCallback()])
    assert not [k for k in differing(everything(learn.model), sp_cb.ticket.trained) if k!='seen']

def test_early_stopping_is_not_deceived_by_a_rewind():
    losses = [.5, .4, .3, .2, .9, .8, .7, .6, .95, .85, .9, .9]
    def epochs(lth, **kwargs):
        learn = set_loss(conv_learner(2), losses)
        learn.fit(12, cbs=[make(60, schedule=iterative(n_steps=2), start_epoch=4, end_epoch=12, lth=lth, **kwargs), EarlyStoppingCallback(patience=2)])
        return len(learn.rows)
    assert epochs(True)==epochs(False)==12 # with the last of 12 it would have stopped: two without improvement, .9 and .9 after .85
    learn = set_loss(conv_learner(2), losses)
    learn.fit(12, cbs=EarlyStoppingCallback(patience=2))
    assert len(learn.rows)==6

def test_early_stopping_stops_all_the_same():
    learn = set_loss(conv_learner(2), [.5, .4, .9, .8, .85, .9, .1, .1])
    sp_cb = make(60, start_epoch=2, lth=True)
    learn.fit(8, cbs=[sp_cb, EarlyStoppingCallback(patience=2)])
    assert len(learn.rows)==6 and sp_cb.ticket.trained is not None and sp_cb.masks.sparsity==pytest.approx(60, abs=.2)

def test_the_learning_rate_on_a_plateau():
    "A rewind is no plateau"
    class Rates(Callback):
        def before_epoch(self): rates.append(self.opt.hypers[-1]['lr'])
    rates, learn = [], set_loss(conv_learner(2), [.5, .4, .3, .9, .8, .85, .9, .9])
    learn.fit(8, lr=1., cbs=[make(60, start_epoch=3, lth=True), ReduceLROnPlateau(patience=2), Rates()])
    assert rates==[1]*7 + [.1]

def test_tracking_the_sparsity_itself_and_other_metrics(tmp_path):
    learn = conv_learner(path=tmp_path, metrics=accuracy)
    learn.fit(3, cbs=[make(60, schedule=iterative), SaveModelCallback('accuracy'), EarlyStoppingCallback('sparsity', patience=5), CSVLogger()])
    head, *rows = (tmp_path/'history.csv').read_text().splitlines()
    assert head=='epoch,train_loss,valid_loss,accuracy,sparsity,time' and [round(float(o.split(',')[4])) for o in rows]==[20, 40, 60]

@pytest.mark.parametrize('when', ['before', 'after'])
def test_export_and_load(when, tmp_path):
    sp_cb = make(60, schedule=iterative, start_epoch=1, lth=True)
    learn = learner(cbs=sp_cb, path=tmp_path)
    del learn.rows, learn.logger
    learn.logger = noop
    if when=='after': learn.fit(4)
    learn.export('l.pkl')
    there = load_learner(tmp_path/'l.pkl')
    assert not differing(everything(there.model), everything(learn.model)) and list(there.model.state_dict())==list(mlp().state_dict())
    there.dls, other = digits_dls(), there.sparsify
    if when=='after':
        assert other.masks==sp_cb.masks and not differing(other.ticket.state, sp_cb.ticket.state)
        assert other.sparsifier.weight('1.weight') is there.model[1].weight
        assert there.validate()[1]==learn.validate()[1]
    there.fit(4)
    assert other.masks.sparsity==60 and nonzero_pruned(other.sparsifier)==0
    if when=='after': assert other.masks==sp_cb.masks

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
    assert head.masks.sparsity==80 and list(head.masks)==['head.weight'] and not set(convs.masks) & set(head.masks) and 0<convs.masks.sparsity<=50
    assert [row[3:5] for row in learn.rows][-1]==[convs.masks.sparsity, head.masks.sparsity] and list(learn.recorder.metric_names).count('sparsity')==2

# Criteria, wrappers, and the rest

@pytest.mark.parametrize('name', list(criteria))
@pytest.mark.parametrize('lth', [False, True])
def test_every_criterion(name, lth):
    learn = conv_learner()
    sp_cb = make(60, criteria=name, schedule=iterative, start_epoch=1, lth=lth, rewind_epoch=1 if lth else 0)
    learn.fit(5, cbs=[sp_cb, probe:=Probe(sp_cb)])
    n = sp_cb.masks.n_weights
    assert sp_cb.masks.n_kept==n-round(.6*n) and len(set(probe.digests))==4 and sp_cb.ticket.meta['criteria']==criteria[name].name

@pytest.mark.parametrize('sched', [linear, agp, dsd])
def test_gradients_under_gradual_schedules(sched):
    learn = conv_learner(10)
    sp_cb = make(60, criteria=taylor, schedule=sched, update_every=2)
    learn.fit(3, cbs=[sp_cb, Probe(sp_cb)])
    assert sp_cb.masks.sparsity==(0 if sched is dsd else pytest.approx(60, abs=.2))

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

def test_an_own_criterion_and_schedule():
    @criterion
    def by_place(w): return torch.arange(w.final.numel()).view(w.shape).float()
    try:
        learn = conv_learner()
        sp_cb = make(25, criteria='by_place', method='local')
        learn.fit(1, cbs=sp_cb)
        for m in sp_cb.masks.values(): assert m.flatten().tolist()==[i>=round(.25*m.numel()) for i in range(m.numel())]
    finally: del criteria['by_place']

@pytest.mark.parametrize('wrap', [nn.DataParallel, lambda o: torch.compile(o, backend='eager')], ids=['DataParallel', 'compile'])
def test_wrapped_models(wrap):
    def found(wrapped):
        learn = conv_learner()
        if wrapped: learn.model = wrap(learn.model)
        keys, sp_cb = list(learn.model.state_dict()), make(60, schedule=iterative, start_epoch=1, lth=True)
        learn.fit(4, cbs=[sp_cb, Probe(sp_cb)])
        assert list(learn.model.state_dict())==keys
        return sp_cb
    bare, wrapped = found(False), found(True)
    assert wrapped.masks==bare.masks and not differing(wrapped.ticket.state, bare.ticket.state) and not differing(wrapped.ticket.trained, bare.ticket.trained)

def test_a_tied_parameter():
    "As in a language model: the output layer has the embedding's weight"
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.out = nn.Embedding(10,64), nn.Linear(64,10, bias=False)
            self.out.weight = self.emb.weight
        def forward(self, x): return self.out(x.flatten(1))
    learn = learner(Tied())
    before = everything(learn.model)
    sp_cb = make(50, lth=True, start_epoch=1)
    learn.fit(3, cbs=[sp_cb, Probe(sp_cb)])
    assert sp_cb.masks.n_weights==640 and learn.model.emb.weight.count_nonzero()==320 and learn.model.out.weight is learn.model.emb.weight
    ticket = sp_cb.ticket
    m, = ticket.masks.values()
    again = Tied()
    ticket.apply_to(again)
    assert torch.equal(again.emb.weight, before['emb.weight']*m) and again.emb.weight is again.out.weight

def test_frozen_groups():
    def groups(m):
        first = {*m.stem.parameters(), *m.grouped.parameters()}
        return [[p for p in m.parameters() if p in first], [p for p in m.parameters() if p not in first]]
    learn = conv_learner(splitter=groups)
    learn.freeze()
    sp_cb = make(60, schedule=iterative, start_epoch=1, lth=True)
    learn.fit(3, cbs=[sp_cb, Probe(sp_cb)])
    learn.unfreeze()
    learn.fit(2, cbs=[sp_cb, Probe(sp_cb)])
    assert sp_cb.masks.sparsity==pytest.approx(60, abs=.2)

def test_taylor_and_frozen_layers():
    "A layer without a gradient cannot be scored by it, and that is said"
    learn = conv_learner()
    for p in learn.model.stem.parameters(): p.requires_grad_(False)
    with pytest.raises(ValueError, match='stem.0.weight: no gradient'): learn.fit(1, cbs=make(60, criteria=taylor))

def test_round_to():
    learn = conv_learner()
    sp_cb = make(50, 'filter', 'local', schedule=linear, round_to=2, layers=nn.Conv2d)
    learn.fit(3, cbs=[sp_cb, Probe(sp_cb)])
    assert list(sp_cb.sparsifier.report().units_kept)==[4, 4]

def test_allow_collapse():
    def run(**kwargs):
        learn = conv_learner()
        with torch.no_grad(): learn.model.head.weight.mul_(1e-6)
        sp_cb = make(50, **kwargs)
        learn.fit(1, cbs=sp_cb)
        return sp_cb.masks['head.weight'].sum()
    assert run(allow_collapse=True)==0
    with pytest.warns(UserWarning, match='layer collapse.*head.weight'): assert run()==1

def test_same_seed_same_ticket():
    def found(seed=0):
        learn = learner(seed=seed)
        sp_cb = make(80, schedule=geometric(n_steps=2), start_epoch=1, lth=True, rewind_epoch=1)
        learn.fit(3, cbs=sp_cb)
        return sp_cb.ticket
    a, b = found(), found()
    assert a.masks.digest()==b.masks.digest() and not differing(a.state, b.state) and not differing(a.trained, b.trained)
    assert found(1).masks.digest()!=a.masks.digest()

def test_before_any_fit():
    sp_cb = make(50)
    assert sp_cb.masks is None and sp_cb.ticket is None and sp_cb.sparsifier is None and sp_cb.trained is None

def test_start_sparsity_is_on_from_the_first_batch():
    learn = conv_learner()
    sp_cb = make(60, schedule=one_shot, start_sparsity=30, start_epoch=2)
    learn.fit(3, cbs=[sp_cb, probe:=Probe(sp_cb)])
    n = sp_cb.masks.n_weights
    assert probe.sparsities==[100*round(.3*n)/n]*8 + [100*round(.6*n)/n]*4

def test_a_model_that_was_sparse_before_stays_so_through_a_rewind():
    "start_sparsity with a later rewind point: the snapshot is taken with those weights at 0"
    learn = conv_learner()
    sp_cb = make(60, schedule=one_shot, start_sparsity=30, start_epoch=2, lth=True, rewind_epoch=1)
    learn.fit(4, cbs=[sp_cb, probe:=Probe(sp_cb)])
    assert nonzero_pruned(sp_cb.sparsifier)==0 and not differing(sp_cb.ticket.state, masked(sp_cb.sparsifier.snapshot, sp_cb.masks))
    assert len(set(probe.digests))==2

def test_cancelled_by_somebody_else():
    "A callback that stops the fit: masks and ticket are there, the trained weights too"
    class Stop(Callback):
        order = 95
        def after_batch(self):
            if self.training and self.epoch==1: raise CancelFitException
    learn = conv_learner()
    sp_cb = make(60, lth=True)
    learn.fit(5, cbs=[sp_cb, Stop()])
    assert isinstance(sp_cb.masks, Masks) and not differing(sp_cb.ticket.trained, everything(learn.model)) and nonzero_pruned(sp_cb.sparsifier)==0

def test_no_deprecations_and_no_shadowing():
    "No warning at all comes from a plain run"
    learn = conv_learner()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn.fit(3, cbs=make(30, 'weight', 'local', schedule=iterative, lth=True))
    assert np.isfinite([row[1] for row in learn.rows]).all()
