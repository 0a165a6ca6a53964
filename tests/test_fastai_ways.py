"fastai's own ways: looking, putting weights back, freezing, exchanging, callbacks without which nothing can be trained"
import functools, io, pickle, warnings

import numpy as np, pytest, torch
from fastai.basics import (Callback, CancelFitException, CrossEntropyLossFlat, Interpretation, Learner, Recorder,
                           accuracy)
from fastai.callback.all import (CSVLogger, EarlyStoppingCallback, MixUp, ModelResetter, RNNCallback,
                                 SaveModelCallback, TrackerCallback, combined_cos)
from fastai.callback.schedule import ParamScheduler # noqa: F401, it gives `Learner` its `fine_tune`
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.text.models.awdlstm import AWD_LSTM
from torch import nn
from torch.utils.data import DataLoader as PlainLoader, TensorDataset

import lottery_nb.channels # noqa: F401, it adds `group`
from lottery_nb.arms import random_ticket
from lottery_nb.callback import HoldMasks, SparsifyCallback, weights_digest
from lottery_nb.core import ArgumentError
from lottery_nb.criteria import large_final
from lottery_nb.data import digits_dls
from lottery_nb.find import find_ticket
from lottery_nb.masks import named_tensors
from lottery_nb.schedules import agp, iterative, linear, one_shot
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket
from models import ConvNet, Losses, differing, everything, few_batches, masked, nonzero_pruned, quiet

pytestmark = pytest.mark.filterwarnings('ignore:layer collapse', 'ignore:the first mask is made',
                                        'ignore:.*(CUDA|autocast|GradScaler|lr_scheduler|loss_scale)')

def small(): return nn.Sequential(nn.Flatten(), nn.Linear(64,32), nn.ReLU(), nn.Linear(32,10))

@functools.cache
def digits(): return digits_dls(bs=256)

def learner(model=None, seed=0, **kwargs):
    torch.manual_seed(seed)
    digits().train.epoch = 0
    kwargs = {'metrics': accuracy, 'lr': 1e-2, **kwargs}
    return quiet(Learner(digits(), model or small(), **kwargs))

def conv_learner(seed=0, **kwargs):
    torch.manual_seed(seed)
    return quiet(Learner(few_batches(), ConvNet(), loss_func=CrossEntropyLossFlat(), metrics=accuracy, **kwargs))

def make(sparsity=50, schedule=one_shot, **kwargs):
    how = {'granularity': 'weight', 'method': 'global', 'criteria': large_final, 'verbose': False, **kwargs}
    return SparsifyCallback(sparsity, schedule=schedule, **how)

def find(learner, fit, rounds=2, prune=30, **kwargs):
    return find_ticket(learner, fit, rounds, prune, **{'progress': False, **kwargs})

def silently(f, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        return f(*args, **kwargs)

# Looking

def predict(learn): learn.predict(learn.dls.valid_ds[0][0])
def lr_find(learn): learn.lr_find(num_it=12, show_plot=False)
def show_results(learn):
    import matplotlib.pyplot as plt
    learn.show_results()
    plt.close('all')
def interpret(learn): Interpretation.from_learner(learn).top_losses(3)
def fit_nothing(learn): learn.fit(0)
def interrupted_tta(learn):
    class Stop(Callback):
        def before_validate(self): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), learn.added_cbs(Stop()): learn.tta()

def tta(learn): learn.tta(n=2)
ways = [Learner.summary, lr_find, Learner.validate, Learner.get_preds, tta, predict, show_results, interpret,
        interrupted_tta, fit_nothing]

def all_of(sp_cb):
    buffer = io.BytesIO()
    torch.save([sp_cb.ticket and vars(sp_cb.ticket), sp_cb.measurements, sp_cb.trained, sp_cb.masks], buffer)
    return buffer.getvalue()

@pytest.mark.parametrize('look', ways)
@pytest.mark.parametrize('reset_end', [False, True])
@pytest.mark.parametrize('when', ['before','after','early'])
def test_looking_leaves_everything_as_it_is(look, reset_end, when, tmp_path, capsys):
    "`early`: the fit was stopped before its first mask, so the callback would begin anew"
    class Early(Callback):
        def after_batch(self):
            if when=='early' and self.training: raise CancelFitException
    sp_cb = make(lth=True, start_epoch=1, reset_end=reset_end, verbose=True)
    learn = learner(cbs=sp_cb, path=tmp_path)
    if when!='before': learn.fit(3, cbs=Early())
    capsys.readouterr()
    before,told,sp,metrics = everything(learn.model),all_of(sp_cb),sp_cb.sparsifier,list(learn.metrics)
    look(learn)
    assert not differing(everything(learn.model), before) and all_of(sp_cb)==told and sp_cb.sparsifier is sp
    said = capsys.readouterr().out
    assert list(learn.metrics)==metrics and not any(o in said for o in ('parsity','Saving','Resetting'))
    learn.fit(2)
    assert sp_cb.masks.sparsity==50 and nonzero_pruned(sp_cb.sparsifier)==0

@pytest.mark.parametrize('look', ways)
def test_looking_at_a_network_whose_masks_are_held_elsewhere(look, tmp_path):
    "It has grown back since, and stays so"
    learn = learner(path=tmp_path)
    sp = Sparsifier(learn.model)
    sp.sparsify(50)
    learn.fit(1)
    before = everything(learn.model)
    assert nonzero_pruned(sp)
    learn.add_cb(HoldMasks(sp))
    look(learn)
    assert not differing(everything(learn.model), before)
    learn.fit(1)
    assert not nonzero_pruned(sp)

def test_looking_in_the_middle_of_a_search(tmp_path):
    "A fit that looks is the same search as one that doesn't"
    def looks(learn):
        learn.summary(), learn.validate(), lr_find(learn)
        learn.fit(1)
        learn.tta(n=1), learn.summary(), learn.get_preds()
        learn.fit(1)
    def new(): return learner(path=tmp_path)
    found = find(new, looks)
    assert list(found.summary().epoch)==[1]*3 and list(found.summary().step)==[10]*3
    for t in found.tickets: assert not differing(t.trained, masked(t.trained, t.masks))

# Numbers are of the weights that are kept

class Average(Callback):
    "An average of all epochs' weights takes their place in the end"
    order = 62
    def before_fit(self): self.seen = []
    def after_epoch(self): self.seen.append(everything(self.model))
    @torch.no_grad()
    def after_fit(self):
        if getattr(self, 'gather_preds', None) or not self.seen: return
        for k,t in self.model.named_parameters(): t.copy_(sum(o[k] for o in self.seen)/len(self.seen))

class Shadow(Callback):
    "Validates with half the weights, and gives them back: what is measured are weights that are never stored"
    order = 20
    @torch.no_grad()
    def scale(self, by):
        for p in self.model.parameters(): p.mul_(by)
    def before_validate(self): self.learn.lock.locked() or self.scale(.5)
    def after_validate(self): self.learn.lock.locked() or self.scale(2.)

class First(TrackerCallback):
    "A tracker of one's own, which goes back to the first epoch since the last mask"
    order = 61
    def after_epoch(self):
        if not np.isfinite(self.best): self.state = everything(self.model)
        super().after_epoch()
    @torch.no_grad()
    def after_fit(self):
        for k,t in named_tensors(self.model).items(): t.copy_(self.state[k])
        super().after_fit()

class Spoil(Callback):
    "The last epoch is worse than those before"
    @torch.no_grad()
    def before_train(self):
        if self.epoch==4:
            for p in self.model.parameters(): p.neg_()

class Midway(Callback):
    order = 80
    def after_batch(self):
        if self.training and (self.epoch, self.iter)==(4, 1): raise CancelFitException

kinds = dict(saves=SaveModelCallback, saves_accuracy=lambda: SaveModelCallback('accuracy'),
             stops=lambda: EarlyStoppingCallback(min_delta=100, patience=2), first=First, averages=Average,
             shadow=Shadow, midway=Midway, saves_each=lambda: SaveModelCallback(every_epoch=True),
             both=lambda: [SaveModelCallback(), EarlyStoppingCallback(min_delta=100, patience=2)])

def loss_of(learn, tensors):
    other = learner(path=learn.path)
    with torch.no_grad():
        for k,t in named_tensors(other.model).items(): t.copy_(tensors[k])
    with other.no_bar(): return list(other.validate())

def last_of(df, r):
    df = df[df['round']==r]
    at = df[df.step==df.step.max()].set_index('metric').value
    return [at['valid_loss'], at['accuracy']]

@pytest.mark.parametrize('kind', kinds)
@pytest.mark.parametrize('where', ['fit','learner'])
def test_a_search_shows_what_its_tickets_are(kind, where, tmp_path):
    def cbs(at): return kinds[kind]() if where==at else None
    def new(): return learner(path=tmp_path, cbs=cbs('learner'))
    found = find(new, lambda learn: learn.fit(5, lr=.02, cbs=[Spoil(), *np.atleast_1d(cbs('fit') or [])]), rewind=1,
                 rounds=1)
    for r,t in enumerate(found.tickets):
        stored = loss_of(learner(path=tmp_path), t.trained)
        assert last_of(found.table, r)==pytest.approx(stored, rel=1e-5)
        assert found.rounds().loc[r, ['valid_loss','accuracy']].tolist()==pytest.approx(stored, rel=1e-5)
    assert found.best().meta['round']==found.rounds().accuracy[::-1].idxmax()

@pytest.mark.parametrize('kind', kinds)
@pytest.mark.parametrize('how', [dict(lth=True), dict(lth=False), dict(lth=True, reset_end=True)], ids=str)
def test_the_callback_shows_what_its_ticket_is(kind, how, tmp_path):
    learn,sp_cb = learner(path=tmp_path),make(60, iterative(n_steps=2), start_epoch=1, **how)
    learn.fit(5, lr=.02, cbs=[sp_cb, Spoil(), *np.atleast_1d(kinds[kind]())])
    df,t = sp_cb.table,sp_cb.ticket
    assert last_of(df, df['round'].max())==pytest.approx(loss_of(learn, t.trained), rel=1e-5)
    n = {'stops': 3, 'both': 3}.get(kind, 5)
    assert len(learn.recorder.values)>=min(n, 4) and len(learn.recorder.losses)
    assert learn.recorder.metric_names[-2]=='sparsity' and all(len(o)==4 for o in learn.recorder.values)

def test_measuring_again_leaves_logs_alone(tmp_path):
    learn,sp_cb = learner(path=tmp_path),make()
    learn.fit(3, cbs=[sp_cb, Average(), CSVLogger()])
    assert len((tmp_path/'history.csv').read_text().splitlines())==4
    assert isinstance(learn.recorder, Recorder) and [type(o) for o in learn.cbs].count(Recorder)==1
    assert len(learn.recorder.values)==3 and learn.final_record==learn.recorder.values[-1]

def test_where_learning_goes_on_from_is_where_the_stored_weights_are(tmp_path):
    "Learning-rate rewinding: steps are counted from the best epoch, whose weights go on"
    def cbs(): return [Losses([3,1,2,4]), SaveModelCallback()]
    for rounds in (0, 1, 2): # as if it had been stopped after each
        found = find(lambda: learner(path=tmp_path), lambda learn: learn.fit(4, cbs=cbs()), rewind='lr',
                     rounds=rounds or 2, dir=tmp_path/'d' if rounds else None)
        assert list(found.summary().step)==[10, 20, 30][:(rounds or 2)+1]
    assert list(found.summary().epoch)==[1, 3, 5]

def test_a_rewind_point_after_the_best_epoch(tmp_path):
    def cbs(): return [Losses([1,2,3,4]), SaveModelCallback()]
    found = find(lambda: learner(path=tmp_path), lambda learn: learn.fit(4, cbs=cbs()), rewind=3)
    assert list(found.summary().step)==[5, 20, 20] and list(found.summary().epoch)==[0, 3, 3]

def test_the_digest_is_of_what_a_state_dict_has():
    a,b = ConvNet(),ConvNet()
    assert weights_digest(a)!=weights_digest(b)
    b.load_state_dict(a.state_dict())
    b.seen += 1
    assert weights_digest(a)==weights_digest(b)==weights_digest(nn.DataParallel(b))
    b.stem[1].num_batches_tracked += 1
    assert weights_digest(a)!=weights_digest(b)

# A point that's skipped

def test_a_fit_that_begins_with_a_later_epoch():
    sp_cb = make(lth=True, start_epoch=3)
    with pytest.raises(ArgumentError, match='rewind_epoch=0: expected an epoch that this fit trains'):
        learner().fit(4, cbs=sp_cb, start_epoch=2)
    assert sp_cb.sparsifier is None
    learn,sp_cb = learner(),make(start_epoch=3) # without rewinding there is nothing to save
    learn.fit(4, cbs=sp_cb, start_epoch=2)
    assert sp_cb.masks.sparsity==50 and sp_cb.ticket is None
    assert list(sp_cb.table.epoch.unique())==[2, 3] and list(sp_cb.table.step.unique())==[15, 20]
    learn,sp_cb = learner(),make(lth=True, start_epoch=3, rewind_epoch=2)
    at = everything(learn.model)
    learn.fit(4, cbs=sp_cb, start_epoch=2)
    assert not differing(sp_cb.ticket.state, masked(at, sp_cb.ticket.masks))

def test_a_fit_that_was_interrupted_goes_on_with_the_callback_that_has_the_point():
    class Press(Callback):
        order = 90
        def before_epoch(self):
            if self.epoch==2: raise KeyboardInterrupt
    learn,sp_cb = learner(),make(lth=True, start_epoch=3)
    at = everything(learn.model)
    with pytest.raises(KeyboardInterrupt): learn.fit(5, cbs=[sp_cb, Press()])
    learn.fit(5, cbs=sp_cb, start_epoch=2)
    assert not differing(sp_cb.ticket.state, masked(at, sp_cb.ticket.masks)) and sp_cb.masks.sparsity==50
    assert sp_cb.table.query('round==0').epoch.unique().tolist()==[0, 1, 2]

@pytest.mark.parametrize('lth', [False, True])
def test_a_ticket_says_rewound_only_if_it_was(lth):
    learn,sp_cb = learner(),make(lth=lth, start_epoch=1, rewind_epoch=1)
    learn.fit(2, cbs=sp_cb)
    assert ('rewind=1' in repr(sp_cb.ticket))==lth and sp_cb.ticket.meta['rewind']==(1 if lth else None)

# What's warned of, and what isn't

def test_the_posts_calls_warn_of_nothing():
    for more in (dict(), dict(rewind_epoch=1), dict(rewind_epoch=1, reset_end=True)):
        learn,sp_cb = learner(),silently(make, 50, iterative, start_epoch=5, lth=True, **more)
        silently(learn.fit, 20, cbs=sp_cb)
    for schedule in (one_shot, iterative, linear, agp):
        silently(learner().fit, 4, cbs=silently(make, schedule=schedule))

@pytest.mark.parametrize('n, kwargs, said', [
    (2, dict(schedule=iterative(n_steps=4)), '4 rounds in 2 epochs: .*fewer rounds'),
    (2, dict(schedule=iterative, start_epoch=1), '3 rounds in 1 epochs'),
    (4, dict(schedule=iterative(n_steps=2), start_epoch=1, end_epoch=2), '2 rounds in 3 epochs'),
    (3, dict(), 'random one. Say start_epoch=')])
def test_rounds_that_come_to_nothing(n, kwargs, said):
    sp_cb = make(**{'lth': True, **kwargs})
    with pytest.warns(UserWarning, match=said): learner().fit(n, cbs=sp_cb)
    assert sp_cb.masks.sparsity==50

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('n, kwargs', [(4, dict(schedule=iterative, start_epoch=1)), (5, dict(start_epoch=4)),
    (5, dict(schedule=iterative(n_steps=2), start_epoch=1, end_epoch=3)), (3, dict(criteria='taylor'))])
def test_rounds_that_are_fine(n, kwargs): learner().fit(n, cbs=make(**{'lth': True, **kwargs}))

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('sparsity', [0,40])
def test_a_search_that_has_nothing_to_prune(sparsity):
    sp_cb = make(sparsity, iterative, start_sparsity=sparsity, start_epoch=1, lth=True)
    learner().fit(3, cbs=sp_cb)
    assert sp_cb.masks.sparsity==pytest.approx(sparsity, abs=.05)

def test_one_schedule_for_all_rounds():
    cb = make(60, iterative(n_steps=2), lth=True, start_epoch=2)
    with pytest.warns(UserWarning, match='one learning-rate schedule .*find_ticket.*fit_one_cycle'):
        learner().fit_one_cycle(6, cbs=cb)
    silently(learner().fit_one_cycle, 6, cbs=make(60, iterative(n_steps=2), start_epoch=2))
    silently(learner().fit, 6, cbs=make(60, iterative(n_steps=2), start_epoch=2, lth=True))
    a_round_each = combined_cos(.3, 1e-3, 1e-2, 1e-5)
    sched = ParamScheduler({'lr': lambda p: a_round_each(min(p*3%1, 1.))})
    silently(learner().fit, 6, cbs=[make(60, iterative(n_steps=2), start_epoch=2, lth=True), sched])

def test_reset_end_without_lth():
    with pytest.warns(UserWarning, match='reset_end=True without lth=True'): make(reset_end=True)

# The table

def test_the_column_has_two_digits_and_the_value_all(capsys):
    learn,shown = learner(),[]
    learn.logger = lambda row: (print(row), shown.append([f'{o:.6f}' if isinstance(o, float) else str(o) for o in row]))
    learn.fit(3, cbs=(sp_cb:=make(50, iterative)))
    two_digits = [f'{v[3]:.2f}' for v in learn.recorder.values]
    assert [o[4] for o in shown]==two_digits and all(len(o[1].split('.')[1])==6 for o in shown)
    assert [line.split(', ')[4] for line in capsys.readouterr().out.splitlines()]==two_digits
    exact = learn.recorder.values[0][3]
    assert exact==100*round(sp_cb.masks.n_weights/6)/sp_cb.masks.n_weights and str(exact)==str(float(exact))
    assert type(pickle.loads(pickle.dumps(exact))) is float # an exported learner doesn't need this package for it
    values = np.stack(learn.recorder.values)
    assert values.shape==(3, len(learn.recorder.metric_names)-2) and values.dtype==float

# Freezing

class Tuned(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1,8,3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8,8,3), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(128,10))
    def forward(self, x): return self.head(self.body(x))

def in_groups(m): return [list(m.body[:3].parameters()), list(m.body[3:].parameters()), list(m.head.parameters())]
def pretrained(**kwargs): return learner(Tuned(), splitter=in_groups, **kwargs)

class Sparsities(Callback):
    order = 90
    def __init__(self): self.seen = []
    def after_batch(self):
        if self.training: self.seen.append(self.sparsify.masks.sparsity)

@pytest.mark.filterwarnings('ignore:one learning-rate schedule')
@pytest.mark.parametrize('lth', [False, True])
@pytest.mark.parametrize('start', [0, 2])
def test_fine_tune_prunes_in_the_fit_that_trains_the_body(lth, start, capsys):
    learn,sp_cb = pretrained(),make(60, iterative(n_steps=2), start_epoch=start, lth=lth, verbose=True)
    frozen_body = everything(learn.model.body[0])
    class At(Callback):
        def before_fit(self): begun.append(everything(self.model))
    begun,probe = [],Sparsities()
    learn.fine_tune(4, freeze_epochs=2, cbs=[sp_cb, probe, At()])
    assert probe.seen[:10+5*start]==[0]*(10+5*start) and probe.seen[-1]==pytest.approx(60, abs=.1)
    assert not differing({k: t for k,t in begun[1].items() if k.startswith('body.0')},
                         {f'body.0.{k}': t for k,t in frozen_body.items()}) # not pruned before it was trained
    assert not differing(sp_cb.ticket.state, masked(begun[1], sp_cb.masks)) # W_t is of the fit that trains all
    assert nonzero_pruned(sp_cb.sparsifier)==0
    at = sp_cb.table.drop_duplicates(['round','epoch'])[['epoch','step']].values.tolist() # since W_0, frozen ones too
    assert at[:3]==[[0,5],[1,10],[2,15]] and (lth or at==[[i, 5*(i+1)] for i in range(6)])
    out = capsys.readouterr().out
    assert out.startswith('Pruning waits: 2 of 3 layers are frozen in this fit (frozen=True prunes all the same)\n')
    assert out.count('Pruning of weight until a sparsity of 60%')==1 and out.count('Final Sparsity')==1

def test_frozen_layers_are_pruned_if_you_say_so():
    learn,sp_cb = pretrained(),make(60, frozen=True)
    learn.freeze()
    learn.fit_one_cycle(1, cbs=sp_cb)
    assert sp_cb.masks.sparsity==pytest.approx(60, abs=.1) and (learn.model.body[0].weight==0).any()

def test_the_head_alone_is_pruned_while_the_body_is_frozen():
    learn,sp_cb = pretrained(),make(60, layers='head.1')
    learn.freeze()
    learn.fit(1, cbs=sp_cb)
    assert list(sp_cb.masks)==['head.1.weight'] and sp_cb.masks.sparsity==pytest.approx(60, abs=.1)

def test_gradual_unfreezing_and_rates_of_groups(capsys):
    learn,sp_cb,probe = pretrained(cbs=None),make(80, agp),Sparsities()
    rates = slice(1e-4, 1e-2)
    learn.freeze()
    for n in (-2, None, 0):
        learn.fit_one_cycle(1, rates, cbs=[sp_cb, probe])
        if n==-2: learn.freeze_to(-2)
        if n is None: learn.unfreeze()
    assert probe.seen[:10]==[0]*10 and probe.seen[10:]==sorted(probe.seen[10:])
    assert probe.seen[-1]==pytest.approx(80, abs=.1)
    masks = sp_cb.masks
    learn.freeze()
    sp_cb.verbose = True
    capsys.readouterr()
    learn.fit(1, cbs=sp_cb) # the ticket's head is tuned: the masks hold
    assert 'waits' not in capsys.readouterr().out and sp_cb.table.step.max()==20
    assert sp_cb.masks==masks and nonzero_pruned(sp_cb.sparsifier)==0

def test_freezing_in_the_middle_of_a_search_of_rounds():
    "What's left to prune waits; what is pruned stays so"
    class Stop(Callback):
        order = 90
        def after_epoch(self):
            if self.epoch==1: raise CancelFitException
    learn,sp_cb = pretrained(),make(80, iterative(n_steps=2))
    learn.fit(4, cbs=[sp_cb, Stop()])
    half = sp_cb.masks
    learn.freeze()
    learn.fit(2, cbs=sp_cb)
    assert sp_cb.masks==half and nonzero_pruned(sp_cb.sparsifier)==0
    learn.unfreeze()
    learn.fit(4, cbs=sp_cb)
    assert sp_cb.masks.sparsity==pytest.approx(80, abs=.1)

@pytest.mark.parametrize('rewind', [0, 1, 2, '7it'])
def test_a_search_with_fine_tune(rewind):
    "Epochs are those of both fits: 1 is where the body begins to be trained"
    begun = []
    class At(Callback):
        run_valid = False
        def before_batch(self): begun.append(everything(self.model))
    found = find(pretrained, lambda learn: learn.fine_tune(2, cbs=At()), rewind=rewind, rounds=1)
    step = {0: 0, 1: 5, 2: 10, '7it': 7}[rewind]
    assert not differing(found.tickets[0].state, begun[step]) and list(found.summary().step)==[15, 15+step]
    with pytest.raises(ArgumentError, match='rewind=9: .*only 3 epochs'):
        find(pretrained, lambda learn: learn.fine_tune(2), rewind=9)

def test_a_frozen_layer_with_a_criterion_of_gradients():
    with pytest.raises(ArgumentError, match='body.0.weight=.frozen.: expected a weight that gets a gradient.*unfreeze'):
        learn = pretrained()
        learn.freeze()
        learn.fit(1, cbs=make(criteria='taylor', frozen=True))

# Layers that are exchanged

def test_a_new_layer_of_the_same_shape_takes_the_old_ones_place():
    learn,sp_cb = pretrained(),make(60)
    learn.fit(1, cbs=sp_cb)
    masks = sp_cb.masks
    learn.model.head[1] = nn.Linear(128,10)
    learn.create_opt()
    learn.fit(1, cbs=sp_cb)
    assert sp_cb.masks==masks and nonzero_pruned(sp_cb.sparsifier)==0
    assert sp_cb.sparsifier.weight('head.1.weight') is learn.model.head[1].weight
    assert (learn.model.head[1].weight==0).sum()==(~masks['head.1.weight']).sum()
    learn.model.head = nn.Sequential(nn.Flatten(), nn.Linear(128,10))
    learn.create_opt()
    learn.fit(1, cbs=HoldMasks(sp_cb.sparsifier))
    assert nonzero_pruned(sp_cb.sparsifier)==0 and (learn.model.head[1].weight==0).any()

@pytest.mark.parametrize('cb', [lambda o: o, lambda o: HoldMasks(o.sparsifier)])
def test_a_new_layer_of_another_shape_is_said(cb):
    learn,sp_cb = pretrained(),make(60)
    learn.fit(1, cbs=sp_cb)
    learn.model.head[1] = nn.Linear(128,12)
    learn.create_opt()
    before = everything(learn.model)
    with pytest.raises(ArgumentError, match=r'exchanged \(head.1.weight: \(10, 128\) in the masks, \(12, 128\)'):
        learn.fit(1, cbs=cb(sp_cb))
    assert not differing(everything(learn.model), before)
    learn.fit(1, cbs=(new:=make(60)))
    assert nonzero_pruned(new.sparsifier)==0

@pytest.mark.parametrize('act', [lambda sp, opt: sp.watch(opt), lambda sp, opt: sp.rewind(),
                                 lambda sp, opt: sp.sparsify(70), lambda sp, opt: sp.put_on(sp.masks),
                                 lambda sp, opt: sp.apply()])
@pytest.mark.parametrize('criteria', ['large_final','movement'])
def test_a_loop_of_ones_own_sees_exchanged_layers(act, criteria):
    net = small()
    sp = Sparsifier(net, criteria=criteria)
    sp.save_weights()
    sp.sparsify(50)
    net[3] = nn.Linear(32,10)
    act(sp, opt:=torch.optim.SGD(net.parameters(), .1))
    if not sp.watches: sp.watch(opt)
    net(torch.ones(2,8,8)).sum().backward()
    opt.step()
    assert sp.weight('3.weight') is net[3].weight and not nonzero_pruned(sp)
    net[3] = nn.Linear(31,10)
    with pytest.raises(ArgumentError, match='exchanged'): act(sp, opt)

@pytest.mark.parametrize('exchange', [lambda net: net.__setitem__(3, nn.Linear(32,10)),
    lambda net: setattr(net[3], 'weight', nn.Parameter(torch.randn(10,32))),
    lambda net: net.load_state_dict({k: t+1 for k,t in net.state_dict().items()}, assign=True)])
def test_layers_and_parameters_that_are_exchanged_under_watch(exchange):
    net = small()
    sp,opt = Sparsifier(net),torch.optim.Adam(net.parameters(), .1)
    sp.sparsify(50)
    sp.watch(opt)
    exchange(net)
    known = {id(p) for group in opt.param_groups for p in group['params']}
    opt.add_param_group({'params': [p for p in net.parameters() if id(p) not in known]})
    for _ in range(2):
        opt.zero_grad()
        net(torch.rand(2,8,8)).square().sum().backward()
        opt.step()
        for k,m in sp.masks.items(): assert not net.get_parameter(k)[~m].any()
    for k,m in sp.masks.items(): assert not net.get_parameter(k).grad[~m].any()

# Buffers that grow

class Rotary(nn.Module):
    "Has a cache that grows with the inputs, one that is made when it's needed, and an observer as PyTorch's are"
    def __init__(self, n=1):
        super().__init__()
        self.flat,self.fc,self.observe = nn.Flatten(),nn.Linear(64,10),Observer()
        self.register_buffer('cache', torch.zeros(n), persistent=False)
        self.register_buffer('later', None, persistent=False)
        self.register_buffer('count', torch.zeros(()))
    def forward(self, x):
        if self.training: self.count += 1
        if len(self.cache)<len(x): self.cache = torch.arange(float(len(x)), device=x.device)
        if self.later is None: self.later = torch.ones(3)
        return self.fc(self.observe(self.flat(x)))

class Observer(nn.Module):
    "As those of quantization-aware training: its buffers have no size before the first batch"
    def __init__(self):
        super().__init__()
        self.register_buffer('lo', torch.tensor([]))
    def forward(self, x):
        lo = x.detach().amin(0)
        self.lo = lo if not len(self.lo) else torch.minimum(self.lo, lo)
        return x
    def _load_from_state_dict(self, state, prefix, *args):
        self.lo.resize_(state[prefix+'lo'].shape)
        super()._load_from_state_dict(state, prefix, *args)

def rotary(): return learner(Rotary())

def test_a_rewind_takes_buffers_back_in_their_shapes():
    net = Rotary()
    sp = Sparsifier(net)
    sp.save_weights()
    before = everything(net)
    net(torch.rand(5,8,8))
    sp.sparsify(50)
    sp.rewind()
    now = everything(net)
    assert len(net.cache)==1 and len(net.observe.lo)==0
    assert not differing(masked(before, sp.masks), {k: now[k] for k in before})
    net(torch.rand(7,8,8)) # it goes on working

def test_a_rewind_brings_a_buffer_back_that_is_gone():
    net = Rotary()
    net(torch.rand(5,8,8))
    sp = Sparsifier(net)
    sp.save_weights()
    before,net.later = everything(net),None
    sp.rewind()
    assert not differing(everything(net), before)

def test_callback_and_search_with_buffers_that_grow(tmp_path):
    learn,sp_cb = rotary(),make(60, iterative(n_steps=2), start_epoch=1, lth=True)
    learn.fit(3, cbs=sp_cb)
    for t in (sp_cb.ticket, Ticket.load(sp_cb.ticket.save(tmp_path/'t'))):
        other = Rotary()
        t.apply_to(other)
        assert not differing({k: named_tensors(other)[k] for k in t.state}, t.state)
        t.trained_into(other)
        assert not differing(everything(other), t.trained)
    for rewind in (0, 1, 'lr'):
        found = find(rotary, lambda learn: learn.fit(2), rewind=rewind, arms=['reinit','signs'])
        for t in found.tickets: assert not differing(t.trained, masked(t.trained, t.masks))

def test_a_ticket_loads_as_torch_loads():
    "Whatever a strict `load_state_dict` of the same weights takes or refuses, the ticket does"
    ticket = find(rotary, lambda learn: learn.fit(1), rounds=1).tickets[1]
    def wider():
        net = Rotary()
        net.count = torch.zeros(2)
        return net
    def longer_cache(): return Rotary(n=9)
    for net in (Rotary, longer_cache, wider):
        model = net()
        state = {k: t for k,t in ticket.trained.items() if k in model.state_dict()}
        try: net().load_state_dict(state)
        except RuntimeError:
            with pytest.raises(ArgumentError, match='count'): ticket.trained_into(model)
        else: ticket.trained_into(model)

# Callbacks without which nothing can be trained

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn,self.out = AWD_LSTM(20, 8, 12, 2),nn.Linear(8,20)
        nn.init.normal_(self.out.weight, std=.1)
    def forward(self, x):
        h = self.rnn(x)
        return self.out(h), h, h
    def reset(self): self.rnn.reset()

def words(cbs=(ModelResetter, RNNCallback)):
    g = torch.Generator().manual_seed(0)
    items = [(o[:-1], o[1:]) for o in torch.randint(0, 20, (32,6), generator=g)]
    data = DataLoaders(DataLoader(items, bs=8), DataLoader(items[:8], bs=8))
    return quiet(Learner(data, Words(), loss_func=CrossEntropyLossFlat(), cbs=[o() for o in cbs], metrics=accuracy))

@pytest.mark.filterwarnings('ignore:.*not pruned.*', 'ignore:.*weights are not part.*')
@pytest.mark.parametrize('granularity', ['weight','row'])
def test_recurrent_networks_whose_output_is_a_tuple(granularity):
    found = find(words, lambda learn: learn.fit(2), criteria='taylor', granularity=granularity)
    assert found.tickets[2].masks.n_kept<found.tickets[1].masks.n_kept
    learn,sp_cb = words(),make(60, iterative, criteria='taylor', start_epoch=1, lth=True, granularity=granularity)
    learn.fit(4, cbs=sp_cb)
    assert nonzero_pruned(sp_cb.sparsifier)==0 and sp_cb.masks.sparsity>50

@pytest.mark.filterwarnings('ignore:.*not pruned.*', 'ignore:.*weights are not part.*')
def test_networks_that_keep_results_of_their_last_pass():
    learn = words()
    learn.fit(1)
    assert random_ticket(learn.model, 50).masks.sparsity==pytest.approx(50, abs=.1)
    ticket = find(words, lambda learn: learn.fit(1), rounds=1).tickets[1]
    with pytest.warns(UserWarning, match='no reset_parameters'): ticket.reinit(learn.model)

def test_the_gradient_is_that_of_the_callbacks():
    "MixUp mixes the batch that is scored, too; what looks on isn't told of it"
    def mixed(): return learner(cbs=MixUp)
    plain,other = [find(o, lambda learn: learn.fit(1), rounds=1, criteria='taylor') for o in (learner, mixed)]
    assert other.tickets[1].masks!=plain.tickets[1].masks
    again = find(mixed, lambda learn: learn.fit(1), rounds=1, criteria='taylor')
    assert again.tickets[1]==other.tickets[1]

def test_the_gradient_leaves_loggers_and_trackers_alone(tmp_path):
    def new(): return learner(path=tmp_path, cbs=[CSVLogger(append=True), SaveModelCallback()])
    found = find(new, lambda learn: learn.fit(2), criteria='taylor')
    assert len((tmp_path/'history.csv').read_text().splitlines())==3*3
    assert not differing(*[{k: o.tickets[1].masks[k] for k in o.tickets[1].masks} for o in
                           (found, find(lambda: learner(path=tmp_path, cbs=SaveModelCallback()),
                                        lambda learn: learn.fit(2), criteria='taylor'))])

# Plain PyTorch's data

@pytest.mark.parametrize('how', [dict(granularity='group', method='local'), dict(criteria='taylor')],
                         ids=['group','taylor'])
def test_plain_data_loaders_will_do(how):
    data = TensorDataset(torch.randn(32,1,8,8), torch.randint(0, 10, (32,)))
    dls = DataLoaders(PlainLoader(data, 8, shuffle=True), PlainLoader(data, 8))
    def learner(): return quiet(Learner(dls, Tuned(), loss_func=nn.CrossEntropyLoss()))
    how = dict(granularity='weight', method='global', criteria='large_final') | how
    cb = SparsifyCallback(50, **how, schedule='iterative', start_epoch=1, lth=True, verbose=False)
    learner().fit(4, cbs=cb)
    assert abs(cb.masks.sparsity-50)<10
    found = find_ticket(learner, lambda learn: learn.fit(1), rounds=1, prune=50, progress=False, **how)
    assert len(found.tickets)==2
