"""What pruning costs: a training step under a mask, and the making of a mask, side by side with the peers in one run

Machines are noisy, and more so from one minute to the next than from one second to the next. So nothing here is
measured on its own: all tools do the same work in turn, in an order that is shuffled anew in each round, and what is
reported are ratios within a round.

    python benchmarks/overhead.py                            about a quarter of an hour on two cores
    python benchmarks/overhead.py --markdown overhead.md     the page and its picture as files
    python benchmarks/overhead.py --json overhead.json       the same with the time of every single step
    python benchmarks/overhead.py --quick                    a few seconds, a tiny network: that it runs, not how fast

The peers are fasterai (`pip install 'lottery_nb[bench]'`; left out if it is not there) and torch.nn.utils.prune.
"""
import contextlib, copy, gc, io, math, multiprocessing, random, statistics, sys
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Callable

import numpy as np, torch
from _page import (bars, chosen, circumstances, has_fasterai, page, quartiles, synchronized, table,
                   timed, write)
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import Adam, OptimWrapper
from fastai.torch_core import default_device
from fastcore.script import call_parse, store_true
from torch import nn
from torch.nn.utils import prune
from torchvision.models import resnet18

from lottery_nb.callback import SparsifyCallback
from lottery_nb.criteria import large_final
from lottery_nb.schedules import agp, one_shot
from lottery_nb.sparsifier import Sparsifier

if has_fasterai:
    from fasterai.core.criteria import large_final as their_large_final
    from fasterai.core.schedule import Schedule as TheirSchedule, sched_agp, sched_oneshot
    from fasterai.sparse.sparsifier import Sparsifier as TheirSparsifier
    from fasterai.sparse.sparsify_callback import SparsifyCallback as TheirCallback

PRUNABLE = (nn.Conv2d, nn.Linear) # what our own default comes to in these networks; fasterai's would be Conv2d alone
SPARSITY = 50 # percent
PROMISES = dict(constant=1.03, agp=1.10) # a step by a dense one, at most
OPTIMIZERS = {'Adam': Adam, 'fused': partial(OptimWrapper, opt=torch.optim.AdamW, fused=True)} # fastai's; PyTorch's
# --- What is measured: the sizes --------------------------------------------------------------------------------------

def resnet(): return resnet18(num_classes=10)
def tiny():
    return nn.Sequential(nn.Conv2d(3,16,3), nn.ReLU(), nn.Conv2d(16,32,3,stride=2),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32,10))

@dataclass(frozen=True)
class Sizes:
    "How much is measured"
    model:Callable = resnet # makes the network
    size:int = 64       # pixels, height and width of an image
    batch:int = 64      # images a batch
    n_iter:int = 148    # batches an epoch: 9,469 images of Imagenette in batches of 64
    n_epoch:int = 20    # epochs of the training of which one is measured
    rounds:int = 60     # steps of each tool under a constant mask
    warmup:int = 3      # steps of each tool that are not counted
    mask_rounds:int = 7 # masks of each tool
    weights:int = 100_000_000 # of the large network that gets a mask, beside `model`

QUICK = Sizes(model=tiny, size=16, batch=8, n_iter=40, rounds=8, mask_rounds=2, weights=1_000_000)

def wide(n:int)->nn.Module:
    "Four square linear layers, about `n` weights together"
    side = math.isqrt(n//4)
    return nn.Sequential(*[nn.Linear(side, side, bias=False) for _ in range(4)])

def prunable(model:nn.Module)->list: return [m for m in model.modules() if isinstance(m, PRUNABLE)]
def n_weights(model:nn.Module)->int: return sum(m.weight.numel() for m in prunable(model))
def sparsity(model:nn.Module)->float:
    return 100 - 100*sum(int(m.weight.count_nonzero()) for m in prunable(model))/n_weights(model)

# --- torch.nn.utils.prune ---------------------------------------------------------------------------------------------

def torch_pruner(model:nn.Module)->Callable: # percent -> None
    """Prunes with `global_unstructured` up to a sparsity. It counts what is pruned in addition,
    so we count what already is"""
    layers,total,gone = prunable(model),n_weights(model),0
    def to(percent):
        nonlocal gone
        amount = round(percent/100*total) - gone
        prune.global_unstructured([(m,'weight') for m in layers], prune.L1Unstructured, amount=amount)
        gone += amount
    return to

class TorchPrune(Callback):
    """What a user of torch.nn.utils.prune would write: a new mask every `every` batches (0: one at the start,
    and no other)"""
    run_valid = False
    def __init__(self, to:Callable, every:int): self.to,self.every = to,every
    def before_batch(self):
        if self.every and self.iter%self.every==0:
            self.to(agp.at((self.epoch*self.n_iter + self.iter)/(self.n_epoch*self.n_iter), 0, SPARSITY))

# --- A training step --------------------------------------------------------------------------------------------------

@dataclass
class Arm:
    "One way of training, its `Learner` stopped in the middle of `fit`, and what was measured"
    name:str
    learn:Learner
    # gives the tensor (or the object) that holds the mask now: a new one means that a mask was made
    mask:Callable = lambda: None
    seconds:list = field(default_factory=list) # of each step
    made:list = field(default_factory=list) # whether a mask was made in that step

    def step(self, epoch:int, i:int, batch:tuple):
        "Batch `i` of `epoch`, timed: all that `fit` does between two batches, all callbacks included"
        self.learn.epoch,self.learn.pct_train = epoch,(epoch + i/self.learn.n_iter)/self.learn.n_epoch
        before = self.mask()
        self.seconds.append(timed(lambda: synchronized(self.learn.one_batch, i, batch))[0])
        self.made.append(self.mask() is not before)

def begin(learn:Learner, sizes:Sizes, epoch:int):
    "Does what `fit` does before its first batch, as if the epochs before `epoch` were over"
    learn.remove_cbs(ProgressCallback)
    learn.create_opt()
    learn.n_iter,learn.n_epoch = sizes.n_iter,sizes.n_epoch
    learn('before_fit')
    learn.epoch = epoch
    learn('before_epoch')
    learn('before_train')

def make_arms(model:nn.Module, gradual:bool, optimizer:str)->list:
    "All arms from the same weights, with the same optimizer: under `agp` if `gradual`, otherwise under a constant mask"
    loss,dls = nn.CrossEntropyLoss(),DataLoaders.from_dsets([0], [0], bs=1, device=default_device())
    def learner(net, *cbs): return Learner(dls, net, loss_func=loss, opt_func=OPTIMIZERS[optimizer], cbs=cbs)

    def dense(name): return Arm(name, learner(copy.deepcopy(model)))

    def ours(name, update_every=None):
        cb = SparsifyCallback(SPARSITY, 'weight', 'global', large_final,
                              agp if gradual else one_shot, update_every=update_every, verbose=False)
        return Arm(name, learner(copy.deepcopy(model), cb), lambda: cb.sparsifier._masks)

    def fasterai(name):
        net,schedule = copy.deepcopy(model),TheirSchedule(sched_agp if gradual else sched_oneshot)
        cb = TheirCallback(SPARSITY/100, 'weight', 'global', their_large_final, schedule, layer_type=PRUNABLE)
        return Arm(name, learner(net, cb), lambda: getattr(prunable(net)[0], '_mask', None))

    def torch_prune(name, every=0):
        net = copy.deepcopy(model)
        to = torch_pruner(net)
        to(0 if gradual else SPARSITY)
        first = prunable(net)[0]
        return Arm(name, learner(net, TorchPrune(to, every)), lambda: first.weight_mask)

    arms = [dense('dense'), dense('dense again (the noise)'), ours('lottery_nb')]
    if gradual: arms.append(ours('lottery_nb, update_every=1', 1))
    if has_fasterai: arms.append(fasterai('fasterai'))
    if not gradual: arms.append(torch_prune('torch.nn.utils.prune'))
    else:
        arms += [torch_prune('torch.nn.utils.prune, every 16 batches', 16),
                 torch_prune('torch.nn.utils.prune, every batch', 1)]
    return arms

def measure_steps(sizes:Sizes, gradual:bool, optimizer:str)->list: # arms
    "Trains all arms side by side, batch by batch, on the same random images"
    torch.manual_seed(0)
    arms,shuffled = make_arms(sizes.model(), gradual, optimizer),random.Random(0)
    batches = [(torch.randn(sizes.batch,3,sizes.size,sizes.size), torch.randint(0,10,(sizes.batch,))) for _ in range(4)]
    batches = [tuple(o.to(default_device()) for o in b) for b in batches]
    middle = sizes.n_epoch//2
    with contextlib.redirect_stdout(io.StringIO()): # fasterai has much to say
        for arm in arms: begin(arm.learn, sizes, middle-1)
        # The epoch before only begins, so that every arm has its first mask. Of the next one a gradual schedule gets
        # all batches, neither more nor less: masks are then made as often as in the whole of the training
        steps = [(middle-1,i) for i in range(sizes.warmup)]
        steps += [(middle,i) for i in range(sizes.n_iter if gradual else sizes.rounds)]
        for epoch,i in steps:
            for arm in shuffled.sample(arms, len(arms)): arm.step(epoch, i, batches[i%len(batches)])
    for arm in arms: del arm.seconds[:sizes.warmup], arm.made[:sizes.warmup]
    return arms

def mean_ratio(seconds:np.ndarray, dense:np.ndarray, made:np.ndarray, n:int=2000)->tuple: # mean, low and high end
    """All time of an arm over all time of the dense one, with a 95 % bootstrap interval:
    steps with a mask and steps without are drawn apart"""
    rng,kinds = np.random.default_rng(0),[np.flatnonzero(made==o) for o in (False,True)]
    draws = [np.concatenate([rng.choice(k, len(k)) for k in kinds if len(k)]) for _ in range(n)]
    low,high = np.percentile([seconds[i].sum()/dense[i].sum() for i in draws], [2.5,97.5])
    return float(seconds.sum()/dense.sum()), float(low), float(high)

def ratio_by_kind(ratios:np.ndarray, made:np.ndarray)->float:
    """The mean that the machine's hiccups do not touch:
    the median of the steps with a mask and that of the steps without, by their shares"""
    return float(sum((made==o).mean()*np.median(ratios[made==o]) for o in (False,True) if (made==o).any()))

def step_rows(arms:list, **of)->list: # dicts
    "What came out, a row an arm"
    dense,rows = np.array(arms[0].seconds),[]
    for arm in arms:
        seconds,made = np.array(arm.seconds),np.array(arm.made)
        mean,low,high = mean_ratio(seconds, dense, made)
        rows.append(dict(**of, tool=arm.name, **quartiles(seconds/dense), mean=mean, low=low, high=high,
                         by_kind=ratio_by_kind(seconds/dense, made),
                         milliseconds=1000*float(np.median(seconds)), masks=int(made.sum()), steps=len(seconds),
                         sparsity=sparsity(arm.learn.model), seconds=arm.seconds, made=arm.made))
    return rows

def sqrt_of_zeros(rounds:int=30)->float:
    "How many times as long `torch.sqrt` takes where that many of the numbers, at random, are 0"
    x = torch.rand(2, 1_000_000, generator=torch.Generator().manual_seed(0))
    inputs,seconds = [x[0], x[0].where(x[1]<SPARSITY/100, 0)],[[],[]]
    for i in range(2*rounds): seconds[i%2].append(timed(inputs[i%2].sqrt)[0])
    return statistics.median(seconds[1])/statistics.median(seconds[0])

# --- The making of a mask ---------------------------------------------------------------------------------------------

def our_pruner(model:nn.Module)->Callable: return Sparsifier(model, 'weight', 'global', large_final).sparsify

def their_pruner(model:nn.Module)->Callable:
    sparsifier = TheirSparsifier(model, 'weight', 'global', their_large_final, layer_type=PRUNABLE)
    return lambda percent: sparsifier.sparsify_model(percent/100)

PRUNERS = dict(lottery_nb=our_pruner, **(dict(fasterai=their_pruner) if has_fasterai else {}),
               **{'torch.nn.utils.prune': torch_pruner})

def measure_masks(
    model:nn.Module, # left as it is
    first:float, # percent that is pruned before; 0: nothing
    rounds:int, # masks of each tool
    pruners:dict=PRUNERS # tool -> function of a model that gives a function of a sparsity in percent
)->dict: # tool -> seconds of each round
    "Times the making of a global mask of 50 %, by each tool in turn"
    shuffled,seconds = random.Random(0),{o: [] for o in pruners}
    for i in range(rounds+1):
        for tool in shuffled.sample(list(pruners), len(pruners)):
            to = pruners[tool](copy.deepcopy(model))
            if first: to(first)
            took,_ = timed(lambda to=to: to(SPARSITY))
            if i: seconds[tool].append(took) # the first round is for warming up
    return seconds

def memory(what:str)->int|None: # bytes
    "Memory of this process: `VmRSS` as it is, `VmHWM` at its highest. None where the system does not say (Linux does)"
    status = Path('/proc/self/status')
    found = [o.split()[1] for o in status.read_text().splitlines() if o.startswith(what)] if status.exists() else []
    return 1024*int(found[0]) if found else None

def extra_memory(tool:str, n:int)->float|None: # bytes a byte of weights
    """The peak memory of pruning a model of `n` weights once, beyond the model itself.
    To be called in a process of its own: a peak is not forgotten"""
    PRUNERS[tool](tiny())(SPARSITY) # what is loaded at the first use is not the mask's
    model = wide(n)
    # sets VmHWM to VmRSS, where it is allowed
    with contextlib.suppress(OSError): Path('/proc/self/clear_refs').write_text('5')
    before = memory('VmRSS')
    PRUNERS[tool](model)(SPARSITY)
    return None if before is None else (memory('VmHWM')-before)/(4*n_weights(model))

def in_fresh_process(fn:Callable, *args):
    "`fn(*args)`, computed by a process of its own"
    with multiprocessing.get_context('spawn').Pool(1) as pool: return pool.apply(fn, args)

def mask_rows(model:nn.Module, rounds:int, extra:dict)->list: # dicts
    """What came out for one network, a row a tool: for its first mask,
    and for a new one in the place of one of half the sparsity"""
    rows = []
    for first in (0, SPARSITY/2):
        seconds = measure_masks(model, first, rounds)
        for tool,own in seconds.items():
            ratios = np.array(own)/np.array(seconds['lottery_nb'])
            rows.append(dict(weights=n_weights(model), pruned_before=first, tool=tool, **quartiles(ratios),
                             median_seconds=statistics.median(own), extra_memory=None if first else extra.get(tool),
                             seconds=own))
    return rows

# --- The report -------------------------------------------------------------------------------------------------------

def step_table(rows:list)->str:
    return table(['mask', 'optimizer', 'tool', 'median ratio', 'middle half', 'mean ratio',
                  '95 % interval', 'by kind', 'ms a step', 'masks made', 'sparsity'],
        [[r['mask'], r['optimizer'], r['tool'], f'{r["median"]:.3f}', f'{r["q1"]:.3f} to {r["q3"]:.3f}',
          f'{r["mean"]:.3f}', f'{r["low"]:.3f} to {r["high"]:.3f}',
          f'{r["by_kind"]:.3f}', f'{r["milliseconds"]:.1f}', f'{r["masks"]} in {r["steps"]}', f'{r["sparsity"]:.2f} %']
         for r in rows])

def mask_table(rows:list)->str:
    def show(x): return '' if x is None else f'{x:.2f}'
    return table(['weights', 'mask', 'tool', 'time, ours = 1', 'middle half', 'seconds', 'extra bytes a byte'],
        [[f'{r["weights"]:,}', f'{r["pruned_before"]:g} → {SPARSITY} %',
          r['tool'], f'{r["median"]:.2f}', f'{r["q1"]:.2f} to {r["q3"]:.2f}',
          f'{r["median_seconds"]:.4f}', show(r['extra_memory'])] for r in rows])

def of_us(result:dict)->dict: # (mask, optimizer) -> row
    "What came out for a step with lottery_nb"
    return {(r['mask'],r['optimizer']): r for r in result['steps'] if r['tool']=='lottery_nb'}

def first_masks(result:dict)->list: # a dict a network, the smaller one first: tool -> row
    "What came out for the first mask"
    first = [r for r in result['masks'] if not r['pruned_before']]
    return [{r['tool']: r for r in first if r['weights']==n} for n in sorted({r['weights'] for r in first})]

def promises(result:dict)->list: # (what, kept?)
    "All that lottery_nb promises"
    step,(small,large) = of_us(result),first_masks(result)
    few,many,torch_prune = small['lottery_nb'],large['lottery_nb'],large['torch.nn.utils.prune']
    most = PROMISES['constant']
    found = [(f'constant mask, {k}, median ratio of a step: {ratio:.3f}, at most {most}', ratio<=most)
             for k in OPTIMIZERS for ratio in [step['constant',k]['median']]]
    gradual,most = step['agp','Adam']['mean'],PROMISES['agp']
    found += [(f'agp, mean ratio of a step: {gradual:.3f}, at most {most:.2f}', gradual<=most),
              (f'first mask of {few["weights"]:,} weights: {few["median_seconds"]:.3f} s, below 0.5 s',
               few['median_seconds']<.5),
              (f'first mask of {many["weights"]:,} weights: {torch_prune["median"]:.1f} times as fast as torch, '
               'at least 10', torch_prune['median']>=10)]
    if many['extra_memory'] is not None:
        found.append((f'extra memory of it: {many["extra_memory"]:.2f} bytes a byte of weights, at most 3',
                      many['extra_memory']<=3))
    return found

def report(result:dict, picture:str)->str:
    "All of it as Markdown"
    s,step,told = result['sizes'],of_us(result),promises(result)
    large,lines = first_masks(result)[-1],'\n'.join(f'- {"kept" if o else "NOT kept"}: {what}' for what,o in told)
    finding = f"""Under a constant mask a step takes {step['constant','Adam']['median']:.2f} times as long as a dense
one with fastai's Adam and {step['constant','fused']['median']:.2f} times with a fused one, under `agp`
{step['agp','Adam']['mean']:.2f} times. A mask of {large['lottery_nb']['weights']:,} weights is made
{large['torch.nn.utils.prune']['median']:.1f} times as fast as by `torch.nn.utils.prune`. Of {len(told)} promises
{sum(o for _,o in told)} are kept in this run:

{lines}"""
    body = f"""## A training step, by that of a dense network

{s['model']}, {s['batch']} images of {s['size']} by {s['size']} pixels, a fastai `Learner`; a global mask of
{SPARSITY} % over all conv and linear weights. Ratios of steps on the same batch. Under a constant mask {s['rounds']}
steps; under `agp` all {s['n_iter']} of the middle one of {s['n_epoch']} epochs, so the mean, all time over all time,
holds the masks at the rate at which they are made in the whole training. By kind: the median of the steps with a new
mask and that of the steps without one, weighted by their shares; where it is far from the mean, the machine was busy.

{step_table(result['steps'])}

Adam: fastai's own, in many operations; fused: PyTorch's AdamW, in one. Who masks gradients, `torch.nn.utils.prune`
too, leaves zeros in what Adam takes the square root of, and `torch.sqrt` takes {result['sqrt']:.2g} times as long here
for a million numbers, {SPARSITY} % of them 0 at random. In the picture constant masks are by their medians, with the
middle half, and `agp` by its mean, with its interval; what makes a mask at every batch isn't in it.

## A mask

A global mask of {SPARSITY} % by magnitude: the first one, and another one where {SPARSITY/2:g} % are pruned already.
Medians of {s['mask_rounds']} rounds; ratios to lottery_nb in the same round. Memory: the peak beyond the model, of
pruning the larger one for the first time in a process of its own, in bytes for each byte of weights.

{mask_table(result['masks'])}"""
    return page('What pruning costs', finding, picture, 'Time of a step over that of a dense one, a bar a tool', body,
                result['circumstances'])

def draw(path, result:dict):
    "How much longer a step takes; without those that make a mask at every batch, which dwarf all others"
    def more(*ratios): return tuple(100*(o-1) for o in ratios)
    def name(r): return f"{r['tool'].removesuffix(' (the noise)')} ({r['mask']}, {r['optimizer']})"
    rows = [r for r in result['steps'] if r['tool']!='dense' and r['masks']<r['steps']]
    keys = dict(constant=('median','q1','q3'), agp=('mean','low','high'))
    values = {name(r): more(*(r[k] for k in keys[r['mask']])) for r in rows}
    limits = {name(r): more(PROMISES[r['mask']])[0] for r in rows if r['tool']=='lottery_nb'}
    bars(path, values, 'percent that a step takes longer than a dense one', limits)

@call_parse
def main(
    size:int=None, # pixels, height and width of an image (default 64)
    batch:int=None, # images a batch (default 64)
    rounds:int=None, # steps of each tool under a constant mask (default 60)
    n_iter:int=None, # batches an epoch, all under agp; with fewer, fasterai makes masks more often (default 148)
    mask_rounds:int=None, # masks of each tool and size (default 7)
    quick:store_true=False, # a tiny network and few rounds, to see that it runs
    json:str=None, # file for all results, with the seconds of every step
    markdown:str=None, # file for the page; its picture comes beside it
):
    "What pruning costs: a training step under a mask, and the making of a mask, side by side with the peers"
    sizes = chosen(QUICK if quick else Sizes(), size=size, batch=batch, rounds=rounds, n_iter=n_iter,
                   mask_rounds=mask_rounds)
    with circumstances('torchvision', 'fastai', 'fasterai') as about:
        sqrt,steps = sqrt_of_zeros(),[]
        for mask,optimizer in (('constant','Adam'), ('constant','fused'), ('agp','Adam')):
            steps += step_rows(measure_steps(sizes, mask=='agp', optimizer), mask=mask, optimizer=optimizer)
            print(f'measured: a training step, {mask}, {optimizer}', file=sys.stderr)
        gc.collect() # the networks of the steps are in cycles with their learners
        tools = ['lottery_nb'] if quick else PRUNERS # a process takes seconds to start
        extra = {tool: in_fresh_process(extra_memory, tool, sizes.weights) for tool in tools}
        masks = mask_rows(sizes.model(), sizes.mask_rounds, {})
        masks += mask_rows(wide(sizes.weights), sizes.mask_rounds, extra)
    result = dict(circumstances=about, sizes={**asdict(sizes), 'model': sizes.model.__name__}, steps=steps, masks=masks,
                  sqrt=sqrt)
    write(result, report, draw, markdown, json)
