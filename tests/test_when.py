"When the ticket is there: the callback against its rule by hand, and the experiments against plain PyTorch loops"
import copy, warnings
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from fastai.basics import Callback, CrossEntropyLossFlat, Learner, accuracy
from fastai.callback.all import CSVLogger, EarlyStoppingCallback, GradientAccumulation, SaveModelCallback
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import nn

from lottery_nb.callback import SparsifyCallback
from lottery_nb.core import as_table
from lottery_nb.criteria import large_final
from lottery_nb.curves import lottery_curve
from lottery_nb.data import digits_dls
from lottery_nb.evidence import summarise
from lottery_nb.schedules import iterative
from lottery_nb.stacked import Stack
from lottery_nb.ticket import Ticket
from lottery_nb.when import (EarlyBird, early_bird, mask_distance, plot_early_bird, plot_retraining, plot_rewind_grid,
                             retraining, rewind_grid, steps_down)
from models import ConvNet, copied, differing, everything, few_batches, masked, mlp, quiet
from test_curves import DATA, batches, new, relu as small, spoiled

def learner(model=None, seed=0, n=4, path=None, **kwargs):
    torch.manual_seed(seed)
    return quiet(Learner(few_batches(n), model or ConvNet(), loss_func=CrossEntropyLossFlat(), path=path, **kwargs))

def bird(sparsity=50, **kwargs): return EarlyBird(sparsity, **{'verbose': False, **kwargs})
def restless(**kwargs): return bird(**{'threshold': 1e-9, **kwargs})

class Watch(Callback):
    "Copies all weights before every batch of the training, and at every end of one"
    order = 1000
    def before_fit(self):
        if not hasattr(self, 'before'): self.before,self.ends = [],[]
    def before_batch(self):
        if self.training: self.before.append(everything(self.model))
    def after_train(self): self.ends.append(everything(self.model))

# --- The rule

def still_at(masks, threshold, patience):
    "The rule by hand, over masks [drawings, units]: the first that's near to all of those before it in the queue"
    for i in range(patience-1, len(masks)):
        queue = masks[i-patience+1:i]
        if max((masks[i]!=o).float().mean().item() for o in queue)<threshold: return i

@pytest.mark.parametrize('threshold', [.01, .03, .1, .3])
@pytest.mark.parametrize('patience', [2, 3, 5])
def test_it_stops_where_the_rule_says_so(threshold, patience):
    def run(*cbs):
        torch.manual_seed(0)
        learn = quiet(Learner(digits_dls(), mlp()))
        learn.fit(9, cbs=cbs)
        return learn
    watch = Watch()
    run(watch)
    masks = []
    for o in watch.ends:
        w = torch.cat([o[k].abs().flatten() for k in o if k.endswith('weight')])
        gone = w.argsort(stable=True)[:round(.8*len(w))]
        masks.append(torch.ones_like(w, dtype=torch.bool).index_fill_(0, gone, False))
    i = still_at(torch.stack(masks), threshold, patience)
    cb = bird(80, threshold=threshold, patience=patience)
    with warnings.catch_warnings(record=True) as said: learn = run(cb)
    assert len(said)==(i is None)
    if i is None: return
    assert cb.found==i and len(cb.drawings)==i+1 and len(learn.rows)==i+1
    assert torch.equal(torch.cat([m.flatten() for m in cb.masks.values()]), masks[i])
    for a in range(i+1):
        for b in range(i+1):
            assert cb.distances.iloc[a,b]==pytest.approx((masks[a]!=masks[b]).float().mean().item(), abs=1e-6)
    assert list(cb.distances.index)==list(range(i+1)) and cb.drawings[-1]['step']==22*(i+1)
    assert cb.table.value.iloc[-1]==pytest.approx(max(cb.distances.iloc[i,i-patience+1:i]))

def test_channels_by_the_scales_of_batchnorm():
    "You et al. 2020: the lowest scales of the whole network go, and distances are shares of the channels"
    def net(): return nn.Sequential(nn.Conv2d(1,12,3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12,20,3),
                                    nn.BatchNorm2d(20), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                    nn.Linear(20,10))
    how = dict(layers=nn.BatchNorm2d, allow_collapse=True, stop=False, threshold=1, patience=2)
    watch,cb = Watch(),bird(50, **how)
    learner(net(), n=20).fit(6, .02, cbs=[cb, watch])
    scales = [torch.cat([o['1.weight'], o['4.weight']]).abs() for o in watch.ends]
    kept = torch.stack([o>o.sort().values[15] for o in scales])
    assert torch.equal(torch.stack([o['kept'] for o in cb.drawings]), kept)
    far = (kept[:,None]!=kept[None]).float().mean(2)
    np.testing.assert_allclose(cb.distances.values, far, atol=1e-6)
    assert far.max()>0

def test_distances_are_of_whole_units():
    cb = bird(50, granularity='filter', layers=nn.Conv2d, stop=False, threshold=1, patience=2)
    learner().fit(2, cbs=cb)
    assert len(cb.drawings[0]['kept'])==8+8 and cb.drawings[0]['kept'].sum()>=8

# --- It costs nothing

@pytest.mark.parametrize('how', [
    dict(), dict(criteria='taylor'), dict(criteria='wanda', layers=nn.Linear), dict(criteria='movement'), dict(every=3),
    dict(criteria='updating_movement', method='local'), dict(granularity='filter', layers=nn.Conv2d),
    dict(granularity='2:4', layers=nn.Linear), dict(rewind='lr'), dict(rewind='2it')], ids=str)
def test_the_training_is_bit_for_bit_one_without_it(how):
    def run(*cbs):
        learn = learner()
        learn.fit_one_cycle(3, 1e-2, cbs=cbs)
        state = copied({k: t for s in learn.opt.state_dict()['state'] for k,t in s.items() if torch.is_tensor(t)})
        return everything(learn.model),state,torch.rand(3),list(learn.model.state_dict())
    plain,watched = run(),run(bird(**{'threshold': 1, 'stop': False, 'patience': 2, **how}))
    assert not differing(plain[0], watched[0]) and not differing(plain[1], watched[1])
    assert torch.equal(plain[2], watched[2]) and plain[3]==watched[3]

def test_groups_of_channels_too():
    net = nn.Sequential(nn.Conv2d(1,8,3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8,8,3), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8,10))
    def run(*cbs):
        learn = learner(copy.deepcopy(net))
        learn.fit(2, cbs=cbs)
        return everything(learn.model)
    cb = bird(50, granularity='group', stop=False, threshold=1, patience=2)
    assert not differing(run(), run(cb)) and cb.ticket.sparsity>20

# --- Tickets

@pytest.mark.parametrize('rewind, at', [(0, 0), (1, 4), ('3it', 3), ('lr', None)])
def test_the_ticket_is_the_mask_on_the_weights_of_the_rewind_point(rewind, at):
    cb,watch = bird(60, threshold=1, patience=3, rewind=rewind),Watch()
    learn = learner()
    learn.fit(9, cbs=[cb, watch])
    assert cb.found==2 and len(watch.ends)==3
    W_t = watch.ends[-1] if at is None else watch.before[at]
    t = cb.ticket
    assert not differing(t.state, masked(W_t, cb.masks)) and not differing(t.full, {k: W_t[k] for k in t.masks})
    assert t.meta['rewind']==rewind and t.meta['sparsity']==pytest.approx(60, abs=.1) and t.meta['arm']=='ticket'
    net = ConvNet()
    sp = t.apply_to(net)
    assert sp.masks==cb.masks and len(t.table)==1

def test_it_trains_on_to_the_rewind_point(tmp_path):
    cb = bird(threshold=1, patience=2, rewind=5)
    learner().fit(9, cbs=cb)
    assert cb.drawings[cb.found]['epoch']==5 and cb.ticket is not None
    cb.ticket.save(tmp_path/'t.safetensors')
    assert Ticket.load(tmp_path/'t.safetensors').masks==cb.masks

def test_a_threshold_that_is_never_reached_is_said_and_the_last_mask_is_there():
    cb = restless(patience=2)
    with pytest.warns(UserWarning, match=r'did not stand still \(the last 2 of 3 are .* apart; threshold=1e-09\)'):
        learner().fit(3, .1, cbs=cb)
    assert cb.found is None and len(cb.drawings)==3 and cb.ticket.masks==cb.masks
    with pytest.warns(UserWarning, match='only 2 drawn, and patience=5'): learner().fit(2, cbs=bird())

# --- In fastai

def test_looking_is_no_epoch():
    learn,cb = learner(metrics=accuracy),bird(threshold=1, patience=3)
    learn.add_cb(cb)
    learn.lr_find(num_it=8, show_plot=False)
    learn.get_preds()
    learn.validate()
    assert cb.sparsifier is None and cb.ticket is None
    with pytest.warns(UserWarning, match='only 1 drawn'): learn.fit(1)
    for look in (learn.get_preds, learn.validate, learn.summary): look()
    learn.lr_find(num_it=8, show_plot=False)
    assert len(cb.drawings)==1
    learn.fit(9)
    assert cb.found==2 and [o['step'] for o in cb.drawings]==[4,8,12]

def test_fits_go_on_and_another_network_begins_anew():
    learn,cb = learner(),bird(threshold=1, patience=3)
    with pytest.warns(UserWarning, match='only 2 drawn'): learn.fit(2, cbs=cb)
    learn.fit(9, start_epoch=2, cbs=cb)
    assert cb.found==2 and [o['epoch'] for o in cb.drawings]==[0,1,2] and len(learn.rows)==5 # two were skipped
    before = cb.ticket
    learn.fit(2, cbs=cb)
    assert len(learn.rows)==7 and cb.ticket==before # found: later fits go through
    other = learner(seed=1)
    other.fit(9, cbs=cb)
    assert cb.found==2 and cb.ticket!=before and [o['step'] for o in cb.drawings]==[4,8,12]

def test_the_rewind_point_may_be_in_the_second_half_of_fine_tune():
    def halves(m): return [[p for k,p in m.named_parameters() if k[:4]!='head'], list(m.head.parameters())]
    learn,cb,watch = learner(splitter=halves),bird(60, threshold=1, patience=2, rewind=2),Watch()
    with pytest.warns(UserWarning, match='the rewind point 2 was not reached'): learn.fine_tune(6, cbs=[cb, watch])
    assert cb.found==2 and not differing(cb.ticket.state, masked(watch.before[8], cb.masks))

def test_a_distance_is_of_the_same_units():
    with pytest.raises(ValueError, match=r'b=\[3\]: expected a mask of the units of a, \[4\]'):
        mask_distance(torch.ones(4).bool(), torch.ones(3).bool())

def test_by_steps():
    cb,learn = bird(threshold=1, patience=4, every=3),learner()
    learn.fit(9, cbs=cb)
    assert [o['step'] for o in cb.drawings]==[3,6,9,12] and [o['epoch'] for o in cb.drawings]==[0,1,2,2]
    assert len(learn.rows)==2 and cb.distances.index.name=='step' # it ended with a batch, not with an epoch

def test_beside_other_callbacks(tmp_path):
    cb,learn = bird(threshold=1, patience=3),learner(path=tmp_path, metrics=accuracy)
    others = EarlyStoppingCallback(patience=8), SaveModelCallback(), CSVLogger(), GradientAccumulation(16)
    learn.fit(9, cbs=[cb, *others])
    assert cb.found==2 and len(pd.read_csv(tmp_path/'history.csv'))==3
    cb = bird(patience=9)
    with pytest.warns(UserWarning, match='did not stand still'):
        learner(metrics=accuracy).fit(9, cbs=[cb, EarlyStoppingCallback('accuracy', min_delta=2, patience=2)])
    assert len(cb.drawings)<9

def test_beside_pruning():
    sp_cb = SparsifyCallback(50, 'weight', 'global', large_final, iterative, start_epoch=2, verbose=False)
    cb = bird(30, stop=False, threshold=1, patience=2)
    learner().fit(5, cbs=[sp_cb, cb])
    assert len(cb.drawings)==5 and (cb.masks - sp_cb.masks).n_kept>0 and sp_cb.masks.sparsity==pytest.approx(50, abs=.1)

def test_what_it_prints(capsys):
    learner().fit(4, cbs=EarlyBird(50, threshold=1, patience=2))
    assert capsys.readouterr().out.startswith('Masks stand still after epoch 1, step 8: the last 2 are at most ')

# --- Bad input

@pytest.mark.parametrize('how, message', [(dict(sparsity=101), 'sparsity=101'), (dict(threshold=0), 'threshold=0'),
    (dict(threshold=1.1), 'threshold=1.1'), (dict(patience=1), 'patience=1'), (dict(every=0), 'every=0'),
    (dict(rewind='x'), "rewind='x'"), (dict(criteria='large'), "criteria='large'"), (dict(stop=1), 'stop=1'),
    (dict(granularity='filtr'), "granularity='filtr'"), (dict(treshold=.1), 'treshold=.*no such argument')], ids=str)
def test_arguments_that_cannot_be_right(how, message):
    with pytest.raises(ValueError, match=message): EarlyBird(**how)

def test_a_rewind_point_after_the_end_raises_before_anything_is_trained():
    learn = learner()
    before = everything(learn.model)
    for rewind,match in ((3, 'epoch 0 to 2'), ('12it', 'step 0 to 11')):
        with pytest.raises(ValueError, match=f'rewind=.*a point of this fit, {match}'):
            learn.fit(3, cbs=bird(rewind=rewind))
    with pytest.raises(ValueError, match="criteria|layers"): learn.fit(3, cbs=bird(layers='nothing'))
    assert not differing(before, everything(learn.model))
    with pytest.raises(ValueError, match='nothing was drawn'): bird().plot_distances()

# --- Many seeds, against plain loops

(X,Y),(VX,VY) = DATA
HOW = dict(n_step=60, bs=60, lr=3e-3, eval_every=30, device='cpu', progress=False)

def plainly(net, seed, r, first=0, masks=None, rate=lambda i: 3e-3, look=None):
    "Steps `first` to 60 of one network, PyTorch as it is; `look` sees it after each"
    opt = torch.optim.Adam(net.parameters())
    def hold():
        for k,m in (masks or {}).items(): net.get_parameter(k).data *= m
    hold()
    for i,rows in list(enumerate(batches(seed, r, 60, bs=60)))[first:]:
        opt.param_groups[0]['lr'] = rate(i)
        opt.zero_grad()
        F.cross_entropy(net(X[rows]), Y[rows]).backward()
        opt.step()
        hold()
        if look: look(i+1)
    with torch.no_grad(): return F.cross_entropy(net(VX), VY).item()

def lowest(net, percent):
    "Masks that leave out so many of the smallest weights of the network"
    ws = {k: p.detach().abs() for k,p in net.named_parameters() if p.dim()>1}
    flat = torch.cat([w.flatten() for w in ws.values()])
    gone = torch.ones_like(flat).index_fill_(0, flat.argsort(stable=True)[:round(len(flat)*percent/100)], 0)
    return {k: o.view_as(w) for o,(k,w) in zip(gone.split([w.numel() for w in ws.values()]), ws.items())}

def at_end(df, arm, seed, r, metric='valid_loss', **where):
    rows = df[(df.arm==arm) & (df.seed==seed) & (df['round']==r) & (df.metric==metric)]
    for k,v in where.items(): rows = rows[rows[k]==v]
    return rows.value.iloc[-1]

@pytest.mark.parametrize('rewind, first', [(0, 0), ('10it', 10)])
def test_early_birds_are_what_a_plain_loop_gives(rewind, first):
    df = early_bird(small, DATA, [3,5], 70, 3, .12, 3, 5, rewind=rewind, **HOW)
    for seed in (3,5):
        net,drawn,W_t = new(small, seed),{},[]
        if not first: W_t.append(new(small, seed))
        def look(i):
            if i==first: W_t.append(new(small, seed)), W_t[0].load_state_dict(net.state_dict())
            if i%5==0: drawn[i] = lowest(net, 70)
        plainly(net, seed, 0, look=look)
        flat = torch.stack([torch.cat([m.flatten() for m in o.values()]) for o in drawn.values()])
        far = (flat[:,None]!=flat[None]).float().mean(2)
        for i,a in enumerate(drawn):
            for j,b in enumerate(drawn):
                row = df[(df.seed==seed) & (df.metric==f'distance_{b}') & (df.step==a)]
                assert row.value.item()==pytest.approx(far[i,j].item(), abs=2e-3)
        still = [i for i in range(2, len(flat)) if far[i,i-2:i].max()<.12 and 5*(i+1)>=first]
        stop = 5*(still[0]+1)
        assert at_end(df, 'early_bird', seed, 3, 'stop')==stop<60
        loss = plainly(W_t[0], seed, 3, first, drawn[stop])
        assert at_end(df, 'early_bird', seed, 3)==pytest.approx(loss, rel=2e-2)
        assert at_end(df, 'early_bird', seed, 3, 'cost')==stop+60-first
        assert at_end(df, 'ticket', seed, 3, 'cost')==60+3*(60-first)
    rounds = [100-100*.3**(r/3) for r in (1,2)] + [70]
    search = lottery_curve(small, DATA, [3,5], prune=rounds, rewind=rewind, arms='ticket', **HOW)
    for seed in (3,5):
        for r,arm in ((0,'dense'),(3,'ticket')): assert at_end(df, arm, seed, r)==at_end(search, arm, seed, r)
    assert len(summarise(df))==7 and len(plot_early_bird(df).axes)==3

def test_an_arm_that_is_named_twice_is_there_once():
    df = retraining(small, DATA, [50], [100], 1, ['finetune','finetune'], **HOW)
    assert not df.duplicated(['arm','seed','round','step','metric','retrained']).any()

def test_masks_that_never_stand_still_are_said():
    with pytest.warns(UserWarning, match='masks of 2 of 2 seeds never stood still'):
        df = early_bird(small, DATA, 2, 70, 1, 1e-9, 3, 10, **HOW)
    assert set(df[df.metric=='stop'].value)=={60}
    for s in (0,1): assert at_end(df, 'early_bird', s, 1)==at_end(df, 'one_shot', s, 1)==at_end(df, 'ticket', s, 1)

def test_random_early_birds_are_others_for_each_seed():
    df = early_bird(small, DATA, 2, 70, 1, .1, 3, 10, criteria='random', **HOW)
    for s in (0,1): assert at_end(df, 'early_bird', s, 1)==at_end(df, 'ticket', s, 1)

def test_small_parts_of_a_sparsity_are_nobodys_fractions():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        early_bird(small, DATA, 1, 5, 8, .9, 2, 30, **HOW)
        with pytest.warns(UserWarning, match='sparsities=0.5 means') as told:
            retraining(small, DATA, [.5], [10], 1, **HOW)
    assert len(told)==1

@pytest.mark.parametrize('arm', ['ticket', 'lr_rewind', 'finetune'])
def test_each_way_of_retraining_is_what_a_plain_loop_gives(arm):
    df = retraining(small, DATA, [50,80], [20,100], [2,4], **HOW)
    for seed in (2,4):
        net,kept = new(small, seed),{0: new(small, seed).state_dict()}
        def look(i):
            if i==48: kept[i] = copied(net.state_dict())
        def rate(i): return 3e-3*steps_down(i/60)
        dense = plainly(net, seed, 0, rate=rate, look=look)
        for r,sparsity in ((1,50),(2,80)):
            masks = lowest(net, sparsity)
            for k in (12,60):
                again = new(small, seed)
                again.load_state_dict(kept[60-k] if arm=='ticket' else net.state_dict())
                loss = plainly(again, seed, r, 60-k, masks, (lambda i: 3e-5) if arm=='finetune' else rate)
                assert at_end(df, arm, seed, r, retrained=k)==pytest.approx(loss, rel=1e-2), (k,r)
                assert at_end(df, 'dense', seed, 0, retrained=k)==pytest.approx(dense, rel=1e-3)
    last = df[df.arm==arm].step.max()
    assert last==(60 if arm=='ticket' else 120) and set(df.retrained)=={12,60}

@pytest.mark.parametrize('criteria', ['large_final','random'])
def test_rewound_weights_are_lottery_curves_tickets(criteria):
    df = retraining(small, DATA, [60], [50], 2, arms='ticket', criteria=criteria, **HOW)
    how = HOW | dict(lr_schedule=steps_down, criteria=criteria)
    curve = lottery_curve(small, DATA, 2, prune=[60], arms='ticket', rewind='30it', **how)
    for s in (0,1): assert at_end(df, 'ticket', s, 1)==at_end(curve, 'ticket', s, 1)
    assert len(summarise(df)) and len(plot_retraining(df).axes)==1
    assert set(summarise(df[df.retrained==30]).arm)=={'dense','ticket'}

def conv():
    return nn.Sequential(nn.Conv2d(1,8,3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8,12,3), nn.ReLU(), nn.Dropout(.2),
                         nn.Flatten(), nn.Linear(192,10))

@pytest.mark.parametrize('how', [dict(granularity='filter', layers=nn.Conv2d), dict(criteria='wanda'),
    dict(criteria='taylor', method='local'), dict(criteria='movement', warmup=5), dict(opt='sgd', lr=.05)], ids=str)
def test_what_a_curve_varies_can_be_varied(how):
    how = HOW | dict(n_step=24, eval_every=12) | how
    df = early_bird(conv, DATA, 2, 50, 2, .9, 2, 6, rewind='3it', **how)
    assert set(df.arm)=={'dense','ticket','early_bird','one_shot','random'} and set(df[df.metric=='stop'].value)=={12}
    again = retraining(conv, DATA, [50], [25], 2, **how)
    assert set(again.arm)=={'dense','ticket','lr_rewind','finetune'}
    for o in (df, again):
        density = o[(o.arm!='dense') & (o['round']==o['round'].max())].density
        assert density.between(48, 62).all() and np.isfinite(o.value).all()

def test_a_test_part_is_measured_and_drawn():
    data = (X,Y),(VX[:180],VY[:180]),(VX[180:],VY[180:])
    runs = {plot_early_bird: early_bird(small, data, 2, 70, 2, .9, 2, 20, **HOW),
            plot_retraining: retraining(small, data, [70], [20], 2, **HOW),
            plot_rewind_grid: rewind_grid(small, data, [0], 2, [70], **HOW)}
    for plot,df in runs.items():
        assert {'test_accuracy','test_loss'}<=set(df.metric)
        labels = [ax.get_ylabel() for ax in plot(df, 'test_accuracy').axes]
        assert 'test accuracy, percent' in labels
    with pytest.raises(ValueError, match="metric='acc'"): plot_retraining(runs[plot_retraining], 'acc')

def test_a_grid_of_rewind_points_is_a_curve_for_each():
    df = rewind_grid(small, DATA, [1,0,'30it'], 2, [50,80], **HOW)
    assert list(df.rewind.unique())==[0,23,30]
    for step in (0,23,30):
        curve = lottery_curve(small, DATA, 2, prune=[50,80], arms=['ticket','random'], rewind=f'{step}it', **HOW)
        assert df[df.rewind==step].drop(columns='rewind').reset_index(drop=True).equals(curve)
    assert len(plot_rewind_grid(df).axes)==2

# --- Faults

@pytest.mark.parametrize('run', [lambda m: early_bird(m, DATA, 3, 70, 1, .9, 2, 10, **HOW),
    lambda m: retraining(m, DATA, [50], [20], 3, **HOW), lambda m: rewind_grid(m, DATA, [0], 3, [50], **HOW)],
    ids=['early_bird','retraining','rewind_grid'])
def test_a_replicate_that_is_not_finite_is_named_and_left_out(run):
    with pytest.warns(UserWarning, match="seed 1, dense.*the loss isn't finite at step 0"):
        bad = run(spoiled(small, [1]))
    assert set(bad.seed)=={0,2} and np.isfinite(bad.value).all()
    good = run(small)
    good = good[good.seed!=1]
    assert len(good)==len(bad) and set(good.arm)==set(bad.arm)

@pytest.mark.parametrize('run, match', [
    (lambda: early_bird(small, DATA, sparsity=100, **HOW), 'sparsity=100'),
    (lambda: early_bird(small, DATA, rounds=0, **HOW), 'rounds=0'),
    (lambda: early_bird(small, DATA, every=61, **HOW), 'every=61: expected at most 60'),
    (lambda: early_bird(small, DATA, granularity='2:4', every=5, **HOW), '^sparsity=80.*: expected at most 50'),
    (lambda: retraining(small, DATA, [20,80], granularity='2:4', **HOW), 'sparsities=.*: expected at most 50'),
    (lambda: retraining(small, DATA, [{'1.weight': 50}], **HOW), 'sparsities='),
    (lambda: early_bird(small, DATA, patience=3, **HOW), 'patience=3: expected at most 2'),
    (lambda: early_bird(small, DATA, threshold=0, every=5, **HOW), 'threshold=0'),
    (lambda: early_bird(small, DATA, n_stepp=5), 'n_stepp=5'),
    (lambda: retraining(small, DATA, [80,50], **HOW), 'sparsities=.*that rise'),
    (lambda: retraining(small, DATA, [50], [20,20.1], **HOW), 'lengths=.*percent of the .* steps: different numbers'),
    (lambda: retraining(small, DATA, [50], [120], **HOW), 'lengths=120'),
    (lambda: retraining(small, DATA, [50], arms='reinit', **HOW), "arms='reinit'"),
    (lambda: early_bird(small, DATA, every=5, when='init', **HOW), "when='init'"),
    (lambda: retraining(small, DATA, [50], when='init', **HOW), "when='init'"),
    (lambda: early_bird(small, DATA, every=5, keep='tickets', **HOW), "keep='tickets': expected none"),
    (lambda: early_bird(small, DATA, every=5, prune=20, **HOW), 'prune=20: expected none'),
    (lambda: early_bird(small, DATA, every=5, arms='random', **HOW), "arms='random': expected none"),
    (lambda: retraining(small, DATA, [50], prune=20, **HOW), 'prune=20: expected none'),
    (lambda: retraining(small, DATA, [50], rewind=1, **HOW), 'rewind=1: expected none'),
    (lambda: retraining(small, DATA, [50], arms=[], **HOW), r'arms=\[\]: expected some of'),
    (lambda: rewind_grid(small, DATA, 0, keep='tickets', **HOW), "keep='tickets': expected none"),
    (lambda: rewind_grid(small, DATA, 0, rewind=1, **HOW), 'rewind=1: expected none'),
    (lambda: rewind_grid(small, DATA, 0, prune='50', **HOW), "prune='50'"),
    (lambda: rewind_grid(small, DATA, 0, prune=None, **HOW), 'prune=None'),
    (lambda: rewind_grid(small, DATA, ['60it'], **HOW), "at='60it'"),
    (lambda: rewind_grid(small, DATA, [0,'0it'], **HOW), 'at=.*points that differ'),
    (lambda: rewind_grid(small, DATA, ['lr'], **HOW), "at='lr'")])
def test_bad_input_raises_before_anything_is_trained(run, match, monkeypatch):
    monkeypatch.setattr(Stack, 'train', None)
    with pytest.raises(ValueError, match=match): run()

def test_progress_goes_up_and_ends():
    for run in (lambda f: early_bird(small, DATA, 2, 70, 2, .9, 2, 10, **HOW | dict(progress=f)),
                lambda f: retraining(small, DATA, [50], [20], 2, **HOW | dict(progress=f)),
                lambda f: rewind_grid(small, DATA, [0,'10it'], 2, [50], **HOW | dict(progress=f))):
        told = []
        run(lambda done,total,comment: told.append((done, total)))
        done,total = zip(*told)
        assert len(set(total))==1 and list(done)==sorted(done) and .9*total[0]<=done[-1]<=total[0]

@pytest.mark.parametrize('steps', [(0,5,10,20,50,100,200), (0,100,200,400,1000,2000,4000)], ids=str)
def test_the_ticks_of_a_grid_do_not_touch(steps):
    one = as_table(
        dict(arm=a, seed=s, round=r, density=d, epoch=0, step=400, metric='accuracy', value=.9+s/99)
        for a,r,d in (('dense',0,100.), ('ticket',1,50.), ('ticket',2,20.), ('ticket',3,5.)) for s in range(3))
    df = pd.concat([one.assign(rewind=k) for k in steps])
    fig = plot_rewind_grid(df)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    for ax in fig.axes:
        boxes = [o.get_window_extent(canvas.get_renderer()) for o in ax.get_xticklabels()]
        assert len(boxes)==7 and all(b.x0-a.x1>2 for a,b in zip(boxes, boxes[1:]))

@pytest.mark.parametrize('plot', [plot_early_bird, plot_retraining, plot_rewind_grid])
def test_plots_say_which_table_they_take(plot):
    df = lottery_curve(small, DATA, 1, prune=[50], arms=[], **HOW)
    for o in (df, None, df.assign(rewind=0, retrained=5)):
        with pytest.raises(ValueError, match='df=.*a table of'): plot(o)
