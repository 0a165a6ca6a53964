"""The blog post's experiment, an arm and a seed at a time, for `lottery-nb sweep imagenette_full.toml`

It's the loop that `SparsifyCallback` and `find_ticket` have inside, written out: so the arms of a seed share the epochs
that are the same in all of them, and an arm can do to BatchNorm what the library of that day did."""
import json, os
from functools import cache, wraps
from inspect import signature
from pathlib import Path

import matplotlib.pyplot as plt, pandas as pd, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback # noqa: F401 (gives Learner its no_bar)
from fastai.learner import Learner
from fastai.metrics import accuracy
from filelock import FileLock
from torch import nn
from torchvision.models import resnet18
from lottery_nb.all import HoldMasks, Sparsifier, Ticket, digits_dls, imagenette_dls, large_final, summarise
from lottery_nb.core import ArgumentError, seed_of
from lottery_nb.evidence import check_columns, mean_interval

kept = Path(__file__).parent/'tickets' # what several arms of a seed begin with; delete it whenever you like
now = {} # the settings of the run that's going on

searches = dict(winning=dict(rewind=0), matching=dict(rewind=1), keep=dict(rewind=1, rewind_opt='keep'),
                defaults=dict(rewind=1, norm='defaults'), library=dict(rewind=1, rewind_opt='keep', norm='defaults'))

@cache
def batches(data, size, bs):
    "The data, read once"
    if data=='digits': return digits_dls(bs)
    return imagenette_dls(size, bs, None if data=='imagenette' else data, seed=0, cache=True)

def net(data):
    "The post's network, or a small one with BatchNorm for the digits"
    if data!='digits': return resnet18(num_classes=10)
    return nn.Sequential(nn.Conv2d(1,16,3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16,32,3), nn.BatchNorm2d(32),
                         nn.ReLU(), nn.Flatten(), nn.Linear(512,10))

class BFloat16(Callback):
    "Computes in bfloat16 where that's safe, on any device: fastai's own `MixedPrecision` does nothing on a CPU"
    def before_batch(self):
        self.autocast = torch.autocast(self.dls.device.type, torch.bfloat16)
        self.autocast.__enter__()
    def after_pred(self): self.learn.pred = self.pred.float()
    def after_loss(self): self.autocast.__exit__(None, None, None)

def learner(data, size, bs, half, seed):
    "A new learner, whose weights and batches depend on the seed alone"
    dls = batches(data, size, bs)
    dls.train.seed,dls.train.epoch = seed,0
    torch.manual_seed(seed)
    cbs = [ChannelsLast()] + [BFloat16()]*half
    model_dir = f'{Path(data).name}_{size}_{seed}_{seed_of(now):x}' # other settings, another folder
    return Learner(dls, net(data), metrics=accuracy, cbs=cbs, path=kept, model_dir=model_dir)

def fit(learn, n_epoch, cbs=None):
    "The losses and the accuracy after each of `n_epoch` epochs, at the constant rate that fastai has by default"
    with learn.no_bar(), learn.no_logging(): learn.fit(n_epoch, cbs=cbs)
    return [list(o) for o in learn.recorder.values]

def once(learn, name, make):
    "The lists and numbers that `make()` gives. It's called once a seed: processes that want the same wait, and read it"
    file = learn.path/learn.model_dir/f'{name}.json'
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{file}.lock'):
        if not file.exists():
            part = file.with_suffix('.part')
            part.write_text(json.dumps(make()))
            os.replace(part, file) # whole, or not there
        return json.loads(file.read_text())

def begin(learn, n_epoch, go_on):
    """What was logged in the first `n_epoch` epochs, which are trained once; the weights and the optimizer after one and
    after all are kept. With `go_on` the learner has those after all"""
    def train():
        log = fit(learn, 1)
        learn.save('1')
        log += fit(learn, n_epoch-1)
        learn.save(f'{n_epoch}')
        return log
    log = once(learn, 'begin', train)
    if go_on:
        learn.load(f'{n_epoch}')
        learn.dls.train.epoch = n_epoch
    return log

def table(arm, seed, round, density, epoch, log):
    "What was logged from an epoch on, in the columns that every table here has"
    about = dict(arm=arm, seed=seed, round=round, density=density)
    return [dict(about, epoch=epoch+i, step=-1, metric=k, value=v) for i,row in enumerate(log)
            for k,v in zip(('train_loss','valid_loss','accuracy'), row)]

def search(learn, arm, seed, n_epoch, rounds, sparsity, rewind, rewind_opt='reset', norm='rewound'):
    """Rounds of prune, rewind and train, `n_epoch` epochs each, after as many of the dense network. The winning ticket
    is searched for once, for itself and for its controls"""
    def make(): return one_search(learn, arm, seed, n_epoch, rounds, sparsity, rewind, rewind_opt, norm)
    if arm!='winning': return make()
    path = learn.path/learn.model_dir/'winning.safetensors'
    def make_and_keep():
        rows,ticket = make()
        ticket.save(path, full=True)
        return rows
    return once(learn, 'winning', make_and_keep),Ticket.load(path)

def one_search(learn, arm, seed, n_epoch, rounds, sparsity, rewind, rewind_opt, norm):
    "The rows of the table, and the ticket"
    sp,rows = Sparsifier(learn.model, 'weight', 'global', large_final),[]
    learn.create_opt()
    if not rewind: sp.save_weights()
    begin(learn, n_epoch, go_on=False)
    if rewind:
        learn.load('1')
        sp.save_weights()
    learn.load(f'{n_epoch}')
    learn.dls.train.epoch = n_epoch
    for r in range(1, rounds+1):
        sp.sparsify(sparsity*r/rounds)
        sp.rewind(learn.opt, rewind_opt)
        for m in learn.model.modules():
            if norm=='defaults' and isinstance(m, nn.BatchNorm2d): m.reset_parameters()
        rows += table(arm, seed, r, sp.masks.density, rewind, fit(learn, n_epoch, HoldMasks(sp)))
    return rows,sp.ticket

def run(arm, seed, data='imagenette', size=64, bs=64, n_epoch=5, rounds=3, sparsity=50, half=False):
    "The measurements of an arm, a row a metric and an epoch"
    learn = learner(data, size, bs, half, seed)
    path = learn.path/learn.model_dir/'winning.safetensors'
    if arm=='dense': rows = table(arm, seed, 0, 100., 0, begin(learn, n_epoch, True) + fit(learn, rounds*n_epoch))
    elif arm in searches:
        rows,ticket = search(learn, arm, seed, n_epoch, rounds, sparsity, **searches[arm])
        if arm=='winning': ticket.save(path, full=True)
    else: # a control of the winning ticket, trained on the same batches as that in its last round
        if not path.exists(): run('winning', seed, data, size, bs, n_epoch, rounds, sparsity, half)
        ticket = Ticket.load(path)
        begun = ticket.reinit(lambda: net(data), seed) if arm=='reinit' else ticket.shuffle(seed)
        learn.dls.train.epoch = rounds*n_epoch
        log = fit(learn, n_epoch, HoldMasks(begun.apply_to(learn.model)))
        rows = table(arm, seed, rounds, begun.density, 0, log)
    n_iter = len(learn.dls.train)
    return pd.DataFrame(rows).assign(step=lambda df: (df.epoch+1)*n_iter)

def with_settings(fn):
    "`fn`, once its arm has been looked at and its settings are noted"
    @wraps(fn)
    def run(*args, **kwargs):
        given = signature(fn).bind(*args, **kwargs)
        given.apply_defaults()
        settings = dict(given.arguments)
        if (arm:=settings.pop('arm')) not in (all_arms := ['dense', *searches, 'reinit', 'shuffle']):
            raise ArgumentError('arm', arm, f"one of {', '.join(all_arms)}")
        now.update(settings)
        return fn(*args, **kwargs)
    return run

run = with_settings(run) # the cells that are stored know the code of `run` itself, which is as it was

# --- What came out ----------------------------------------------------------------------------------------------------

post = dict(dense5=67.8, winning=72.6, matching=75.2) # the blog post's accuracies, percent: one run each, last epoch
about = dict(dense5='dense, 5 epochs', dense6='dense, 6 epochs', dense20='dense, 20 epochs',
             winning='ticket, rewound to 0', matching='ticket, rewound to 1', keep='the same, optimizer kept',
             defaults='the same, BatchNorm at its defaults', library='both, as the library of that day',
             reinit='mask of the first, fresh weights', shuffle='mask of the first, shuffled')
measures = {'mean of the last three epochs': lambda v: sum(v[-3:])/3, 'last epoch': lambda v: v[-1], 'best epoch': max}
shares = {'a sixth epoch, dense': ('dense6','dense5'), 'the ticket, rewound to 0': ('winning','dense5'),
          'the ticket, rewound to 1': ('matching','dense6'), 'a warm optimizer': ('keep','matching'),
          'BatchNorm at its defaults': ('defaults','matching'), 'its own first weights': ('winning','reinit'),
          'its own places': ('winning','shuffle'), 'all 20 epochs, dense': ('dense20','dense5')}

def ends(df):
    "A row an arm, seed and measure, from the last five epochs of each arm: `value`, the accuracy in percent"
    df = check_columns(df).query('metric=="accuracy"')
    if 'dense' not in set(df.arm): raise ArgumentError('df', df, 'a table with the metric accuracy and the arm dense')
    if df.duplicated(['arm','seed','round','epoch']).any(): raise ArgumentError('df', df, 'a table of one setting')
    n_epoch = df.groupby(['arm','seed','round']).size()
    if (n_epoch.drop('dense')!=5).any() or (n_epoch['dense']<5).any():
        raise ArgumentError('df', df, 'five epochs a round, as the post has them')
    if (df.groupby(['arm','seed']).size().groupby('arm').nunique()>1).any():
        raise ArgumentError('df', df, 'runs that are as long as others of their arm')
    found = {arm: rows[rows['round']==rows['round'].max()] for arm,rows in df.groupby('arm', sort=False)}
    dense = found.pop('dense')
    n = dense.epoch.max()+1
    found = {f'dense{k}': dense[dense.epoch<k] for k in (5, 6, n) if k<=n} | found
    rows = [dict(arm=arm, seed=seed, measure=k, value=100*f(o.sort_values('epoch').value.tolist()[-5:]))
            for arm,part in found.items() for seed,o in part.groupby('seed') for k,f in measures.items()]
    return pd.DataFrame(rows)

def means(df, marks=post):
    """A row an arm: its accuracy in percent by each measure, the mean of the seeds ± half of its 95 % interval; beside it
    the post's, unless `marks` is empty"""
    def told(values):
        mean,half = mean_interval(values)
        return f'{mean:.1f}' + ('' if pd.isna(half) else f' ± {half:.1f}')
    found = ends(df).groupby(['arm','measure']).value.apply(told).unstack()[[*measures]]
    found = found.reindex([o for o in {**about, **dict.fromkeys(found.index)} if o in found.index])
    if marks: found = found.assign(post=[marks.get(o, '') for o in found.index])
    return found.rename(about)

def differences(df):
    """What each part of the gain is worth, by measure: a row each, with `difference` and `difference_interval` in points
    of `arm` over `versus`. `finding` says it in words.

    All are paired by seed, and those of a measure corrected together, as `summarise` does it"""
    values,rows = ends(df),[]
    for k in measures:
        pairs = []
        for share,(with_it,without) in shares.items():
            part = values[(values.measure==k) & values.arm.isin([with_it, without])]
            if part.arm.nunique()<2: continue
            arms = part.arm.map({with_it: 'ticket', without: 'dense'})
            pairs.append(part.assign(arm=arms, share=share, round=arms.map(dict(ticket=1, dense=0)), density=50.,
                                     epoch=4, step=1, metric='accuracy', value=part.value/100))
        found = summarise(pd.concat(pairs), by='share')
        rows.append(found[found.arm=='ticket'].assign(measure=k))
    rows = pd.concat(rows, ignore_index=True)
    arm,versus = zip(*rows.share.map(shares))
    rows = rows.assign(arm=arm, versus=versus, difference=100*rows.difference,
                       difference_interval=100*rows.difference_interval)
    rows = rows[['measure','share','arm','versus','difference','difference_interval','shown','pairs','comparisons']]
    return rows.assign(finding=[sentence(row) for _,row in rows.iterrows()])

def sentence(row):
    "What a row of `differences` carries, in words"
    n,half = f"{row.pairs} seed{'s'*(row.pairs!=1)}",row.difference_interval
    told = f'{row.difference:+.1f}' + ('' if pd.isna(half) else f' ± {half:.1f}')
    seen = 'a difference' if row.shown else 'no difference that could be seen'
    if row.pairs==1: seen = 'and one seed cannot tell how much of that is chance'
    return f'{row.share}: {told} points over {about[row.versus]} ({row.measure}, {n}), {seen}'

def draw(df, marks=post):
    "A bar a part of the gain, with intervals that hold together; beside it each arm's accuracy, a dot a seed"
    rows,values,k = differences(df),ends(df),next(iter(measures))
    rows,values = rows[rows.measure==k],values[values.measure==k]
    fig,axs = plt.subplots(1, 2, figsize=(9.5,3.6), layout='constrained')
    arms = [o for o in about if o in set(values.arm)]
    for i,arm in enumerate(arms):
        v = values[values.arm==arm].value
        axs[0].plot(v, [i]*len(v), 'o', color='C2', ms=4, alpha=.5)
        axs[0].plot(v.mean(), i, '|', color='black', ms=14)
        if arm in marks: axs[0].plot(marks[arm], i, 'x', color='crimson')
    axs[0].set_yticks(range(len(arms)), [about[o] for o in arms])
    axs[0].set(xlabel=f'accuracy, percent, {k}', title='dots: seeds, |: mean' + ", ×: the post's last epoch"*bool(marks))
    axs[1].barh(rows.share, rows.difference, xerr=rows.difference_interval, capsize=3,
                color=['C2' if o else 'silver' for o in rows.shown])
    axs[1].axvline(0, color='black', lw=.8)
    axs[1].set(xlabel='points', title='worth (green: shown)')
    for ax in axs: ax.invert_yaxis()
    return fig
