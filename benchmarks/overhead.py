"""What pruning costs: a training step under a mask, and the making of a mask, side by side with the peers in one run

Machines are noisy, and more so from one minute to the next than from one second to the next. So nothing here is
measured on its own: all tools do the same work in turn, in an order that is shuffled anew in each round, and what is
reported are ratios within a round.

    python benchmarks/overhead.py                            about a quarter of an hour on two cores
    python benchmarks/overhead.py --markdown overhead.md     the tables as a file
    python benchmarks/overhead.py --json overhead.json       the same with the time of every single step
    python benchmarks/overhead.py --quick                    a few seconds, a tiny network: that it runs, not how fast

The peers are fasterai (`pip install 'lottery_nb[bench]'`; left out if it is not there) and torch.nn.utils.prune.
"""
import contextlib, copy, gc, io, math, multiprocessing, os, platform, random, statistics, sys
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from json import dumps
from pathlib import Path
from time import perf_counter
from typing import Callable

import numpy as np, torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import Adam, OptimWrapper
from fastcore.script import call_parse, store_true
from torch import nn
from torch.nn.utils import prune
from torchvision.models import resnet18

from lottery_nb.callback import SparsifyCallback
from lottery_nb.criteria import large_final
from lottery_nb.schedules import agp, one_shot
from lottery_nb.sparsifier import Sparsifier

try:
    from fasterai.core.criteria import large_final as their_large_final
    from fasterai.core.schedule import Schedule as TheirSchedule, sched_agp, sched_oneshot
    from fasterai.sparse.sparsifier import Sparsifier as TheirSparsifier
    from fasterai.sparse.sparsify_callback import SparsifyCallback as TheirCallback
    has_fasterai = True
except ImportError: has_fasterai = False

PRUNABLE = (nn.Conv2d, nn.Linear) # what our own default comes to in these networks; fasterai's would be Conv2d alone
SPARSITY = 50 # percent
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
        before,start = self.mask(),perf_counter()
        self.learn.one_batch(i, batch)
        self.seconds.append(perf_counter()-start)
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
    loss,dls = nn.CrossEntropyLoss(),DataLoaders.from_dsets([0], [0], bs=1, device=torch.device('cpu'))
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
        q1,median,q3 = np.percentile(seconds/dense, [25,50,75]).tolist()
        mean,low,high = mean_ratio(seconds, dense, made)
        by_kind = ratio_by_kind(seconds/dense, made)
        rows.append(dict(**of, tool=arm.name, median=median, q1=q1,
                         q3=q3, mean=mean, low=low, high=high, by_kind=by_kind,
                         milliseconds=1000*float(np.median(seconds)), masks=int(made.sum()), steps=len(seconds),
                         sparsity=sparsity(arm.learn.model), seconds=arm.seconds, made=arm.made))
    return rows

# --- The making of a mask ---------------------------------------------------------------------------------------------

def our_pruner(model:nn.Module)->Callable: return Sparsifier(model, 'weight', 'global', large_final).sparsify

def their_pruner(model:nn.Module)->Callable:
    sparsifier = TheirSparsifier(model, 'weight', 'global', their_large_final, layer_type=PRUNABLE)
    return lambda percent: sparsifier.sparsify_model(percent/100)

PRUNERS = dict(lottery_nb=our_pruner, **(dict(fasterai=their_pruner) if has_fasterai else {}),
               **{'torch.nn.utils.prune': torch_pruner})

def measure_masks(model:nn.Module, first:float, rounds:int)->dict: # tool -> seconds of each round
    """Times the making of a global mask of 50 %, by each tool in turn, on a model that is pruned to `first` percent (0:
    not at all)"""
    shuffled,seconds = random.Random(0),{o: [] for o in PRUNERS}
    for i in range(rounds+1):
        for tool in shuffled.sample(list(PRUNERS), len(PRUNERS)):
            to = PRUNERS[tool](copy.deepcopy(model))
            if first: to(first)
            start = perf_counter()
            to(SPARSITY)
            if i: seconds[tool].append(perf_counter()-start) # the first round is for warming up
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
            q1,median,q3 = np.percentile(np.array(own)/np.array(seconds['lottery_nb']), [25,50,75]).tolist()
            rows.append(dict(weights=n_weights(model), pruned_before=first, tool=tool, median=median, q1=q1, q3=q3,
                             median_seconds=statistics.median(own), extra_memory=None if first else extra.get(tool),
                             seconds=own))
    return rows

# --- The report -------------------------------------------------------------------------------------------------------

def table(head:list, rows:list)->str:
    "A markdown table that can be read as it is"
    cells = [head, *rows]
    widths = [max(len(r[i]) for r in cells) for i in range(len(head))]
    lines = ['| ' + ' | '.join(c.ljust(w) for c,w in zip(r, widths)) + ' |' for r in cells]
    return '\n'.join([lines[0], '|' + '|'.join('-'*(w+2) for w in widths) + '|', *lines[1:]])

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

def verdicts(result:dict)->str:
    "Whether lottery_nb met what it promises, a line a promise"
    step = {(r['mask'],r['optimizer']): r for r in result['steps'] if r['tool']=='lottery_nb'}
    constant,gradual = {k: step['constant',k]['median'] for k in OPTIMIZERS},step['agp','Adam']['mean']
    first = [r for r in result['masks'] if not r['pruned_before']]
    small,large = ([r for r in first if r['weights']==n] for n in sorted({r['weights'] for r in first}))
    ours,torch_prune = ({r['tool']: r for r in large}[o] for o in ('lottery_nb','torch.nn.utils.prune'))
    few = {r['tool']: r for r in small}['lottery_nb']
    lines = [(f'constant mask, {k}, median ratio of a step: {ratio:.3f}, at most 1.03', ratio<=1.03)
             for k,ratio in constant.items()]
    lines += [(f'agp, mean ratio of a step: {gradual:.3f}, at most 1.10', gradual<=1.10),
              (f'first mask of {few["weights"]:,} weights: {few["median_seconds"]:.3f} s, below 0.5 s',
               few['median_seconds']<.5),
              (f'first mask of {ours["weights"]:,} weights: {torch_prune["median"]:.1f} times as fast as torch, '
               'at least 10',
               torch_prune['median']>=10)]
    if ours['extra_memory'] is not None:
        lines.append((f'extra memory of it: {ours["extra_memory"]:.2f} bytes a byte of weights, at most 3',
                      ours['extra_memory']<=3))
    return '\n'.join(f'- {"met" if met else "NOT met"}: {line}' for line,met in lines)

def cpu()->str:
    "The processor's name"
    info = Path('/proc/cpuinfo')
    names = [o.split(':')[1].strip() for o in info.read_text().splitlines()
             if o.startswith('model name')] if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()

def load()->float|None: return round(os.getloadavg()[0], 1) if hasattr(os, 'getloadavg') else None

def timed(fn)->tuple:
    "Seconds, and what came out"
    start = perf_counter()
    out = fn()
    return perf_counter()-start, out

def sqrt_of_zeros(rounds:int=30)->float:
    "How many times as long `torch.sqrt` takes where that many of the numbers, at random, are 0"
    x = torch.rand(2, 1_000_000, generator=torch.Generator().manual_seed(0))
    inputs,seconds = [x[0], x[0].where(x[1]<SPARSITY/100, 0)],[[],[]]
    for i in range(2*rounds):
        start = perf_counter()
        inputs[i%2].sqrt()
        seconds[i%2].append(perf_counter()-start)
    return statistics.median(seconds[1])/statistics.median(seconds[0])

def circumstances()->dict:
    "When, where and with what"
    versions = {}
    for o in ('lottery_nb','torch','torchvision','fastai','fasterai'):
        with contextlib.suppress(PackageNotFoundError): versions[o] = version(o)
    return dict(date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
                cpu=cpu(), cores=os.cpu_count(), threads=torch.get_num_threads(),
                load=load(), system=platform.platform(), python=platform.python_version(), **versions)

def report(result:dict)->str:
    "All of it as markdown"
    s,about = result['sizes'],result['circumstances']
    return f"""# What pruning costs

{', '.join(f'{k} {v}' for k,v in about.items())}

## A training step, by that of a dense network

{s['model']}, {s['batch']} images of {s['size']} by {s['size']} pixels, a fastai `Learner`; a global mask of \
{SPARSITY} % over all conv and linear
weights. Ratios of steps on the same batch. Under a constant mask {s['rounds']} steps; under `agp` \
all {s['n_iter']} of the middle one of
{s['n_epoch']} epochs, so the mean, all time over all time, holds the masks at the rate at which they are made in the \
whole training. By kind: the
median of the steps with a new mask and that of the steps without one, weighted by their shares; where it is far from \
the mean, the machine was busy.

{step_table(result['steps'])}

Adam: fastai's own, in many operations; fused: PyTorch's AdamW, in one. Who masks gradients, `torch.nn.utils.prune` \
too, leaves zeros in what Adam
takes the square root of, and `torch.sqrt` takes {result['sqrt']:.2g} times as long here for a million numbers, \
{SPARSITY} % of them 0 at random.

## A mask

A global mask of {SPARSITY} % by magnitude: the first one, and another one where {SPARSITY/2:g} % are pruned already. \
Medians of
{s['mask_rounds']} rounds; ratios to lottery_nb in the same round. Memory: the peak beyond the model, of pruning the \
larger one for the
first time in a process of its own, in bytes for each byte of weights.

{mask_table(result['masks'])}

## What lottery_nb promises, in this run

{verdicts(result)}
"""

@call_parse
def main(
    size:int=None, # pixels, height and width of an image (default 64)
    batch:int=None, # images a batch (default 64)
    rounds:int=None, # steps of each tool under a constant mask (default 60)
    n_iter:int=None, # batches an epoch, all under agp; with fewer, fasterai makes masks more often (default 148)
    mask_rounds:int=None, # masks of each tool and size (default 7)
    quick:store_true=False, # a tiny network and few rounds, to see that it runs
    json:str=None, # file for all results, with the seconds of every step
    markdown:str=None, # file for the tables
):
    "What pruning costs: a training step under a mask, and the making of a mask, side by side with the peers"
    given = dict(size=size, batch=batch, rounds=rounds, n_iter=n_iter, mask_rounds=mask_rounds)
    sizes = replace(QUICK if quick else Sizes(), **{k:v for k,v in given.items() if v is not None})
    if not has_fasterai: print("fasterai is not installed and is left out (pip install 'lottery_nb[bench]')")
    result = dict(circumstances=circumstances(), sizes={**asdict(sizes), 'model': sizes.model.__name__},
                  steps=[], masks=[], sqrt=sqrt_of_zeros())
    for mask,optimizer in (('constant','Adam'), ('constant','fused'), ('agp','Adam')):
        arms = measure_steps(sizes, mask=='agp', optimizer)
        result['steps'] += step_rows(arms, mask=mask, optimizer=optimizer)
        print(f'measured: a training step, {mask}, {optimizer}', file=sys.stderr)
    del arms
    gc.collect() # the networks of the steps are in cycles with their learners
    tools = ['lottery_nb'] if quick else PRUNERS # a process takes seconds to start
    extra = {tool: in_fresh_process(extra_memory, tool, sizes.weights) for tool in tools}
    result['masks'] += mask_rows(sizes.model(), sizes.mask_rounds, {})
    result['masks'] += mask_rows(wide(sizes.weights), sizes.mask_rounds, extra)
    result['circumstances']['load at the end'] = load()
    print(report(result))
    if markdown: Path(markdown).write_text(report(result), encoding='utf-8')
    if json: Path(json).write_text(dumps(result, indent=1), encoding='utf-8')
