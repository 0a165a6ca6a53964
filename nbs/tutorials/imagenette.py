"""The blog post's experiment, an arm and a seed at a time, for `lottery-nb sweep imagenette.toml`

It's the loop that `SparsifyCallback` and `find_ticket` have inside, written out: so the arms of a seed share the epochs
that are the same in all of them, and an arm can do to BatchNorm what the library of that day did."""
from functools import cache
from pathlib import Path

import pandas as pd, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ProgressCallback # noqa: F401 (gives Learner its no_bar)
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch import nn
from torchvision.models import resnet18
from lottery_nb.all import HoldMasks, Sparsifier, Ticket, digits_dls, imagenette_dls, large_final

kept = Path(__file__).parent/'tickets' # what several arms of a seed begin with; delete it whenever you like

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

def learner(data, size, bs, half, seed):
    "A new learner, whose weights and batches depend on the seed alone"
    dls = batches(data, size, bs)
    dls.train.seed,dls.train.epoch = seed,0
    torch.manual_seed(seed)
    cbs = [ChannelsLast()] + [MixedPrecision('bf16')]*half
    return Learner(dls, net(data), metrics=accuracy, cbs=cbs, path=kept, model_dir=f'{Path(data).name}_{size}_{bs}_{seed}')

def fit(learn, n_epoch, cbs=None):
    "The losses and the accuracy after each of `n_epoch` epochs, at the constant rate that fastai has by default"
    with learn.no_bar(), learn.no_logging(): learn.fit(n_epoch, cbs=cbs)
    return [list(o) for o in learn.recorder.values]

def begin(learn, n_epoch):
    "Trains `n_epoch` epochs, and keeps the weights and the optimizer after one and after all"
    log = fit(learn, 1)
    learn.save('1')
    log += fit(learn, n_epoch-1)
    learn.save(f'{n_epoch}')
    return log

def table(arm, seed, round, density, epoch, log):
    "What was logged from an epoch on, in the columns that every table here has"
    about = dict(arm=arm, seed=seed, round=round, density=density)
    return [dict(about, epoch=epoch+i, step=-1, metric=k, value=v) for i,row in enumerate(log)
            for k,v in zip(('train_loss','valid_loss','accuracy'), row)]

def search(learn, arm, seed, n_epoch, rounds, sparsity, rewind, rewind_opt='reset', norm='rewound'):
    "Rounds of prune, rewind and train, `n_epoch` epochs each, after as many of the dense network"
    path,rows = learn.path/learn.model_dir,[]
    sp = Sparsifier(learn.model, 'weight', 'global', large_final)
    learn.create_opt()
    if not rewind: sp.save_weights()
    if not (path/f'{n_epoch}.pth').exists(): begin(learn, n_epoch)
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
    if arm=='dense': rows = table(arm, seed, 0, 100., 0, begin(learn, n_epoch) + fit(learn, rounds*n_epoch))
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
