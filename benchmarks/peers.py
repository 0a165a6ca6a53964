"""What a curve costs with others: iterative magnitude pruning by fasterai's callback, by ours, and by `lottery_curve`,
on the same data, network and steps

All prune the same network in the same rounds, 20 % of the remaining weights in each, and take what is left back to the
first weights. The two callbacks do it a seed at a time in a fastai `Learner`, so their seconds are fastai's training
loop too; `lottery_curve` does it for all seeds in one batched pass, without fastai. They take turns; what is reported
are medians.

    python benchmarks/peers.py                         about three minutes on two cores
    python benchmarks/peers.py --markdown peers.md     the table as a file
    python benchmarks/peers.py --json peers.json       the same with the time of every run
    python benchmarks/peers.py --quick                 a few seconds: shows that it runs, says nothing about speed

fasterai: `pip install 'lottery_nb[bench]'`; left out if it is not there.
"""
import contextlib, io, random, sys
from dataclasses import asdict, dataclass, replace
from json import dumps
from pathlib import Path
from time import perf_counter

import numpy as np, torch
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import Adam
from fastcore.script import call_parse, store_true
from overhead import circumstances, has_fasterai, load, sparsity, table
from torch import nn

from lottery_nb.callback import SparsifyCallback
from lottery_nb.criteria import large_final
from lottery_nb.curves import lottery_curve
from lottery_nb.data import digits_dls, digits_mlp
from lottery_nb.schedules import geometric

if has_fasterai:
    from fasterai.core.criteria import large_final as their_large_final
    from fasterai.core.schedule import Schedule as TheirSchedule
    from fasterai.sparse.sparsify_callback import SparsifyCallback as TheirCallback

@dataclass(frozen=True)
class Sizes:
    "How much is measured"
    seeds:int = 20      # of `lottery_curve`
    rounds:int = 8      # of pruning, after the dense one
    epochs:int = 17     # in each of them, of 23 batches of 60
    repeats:int = 5     # how often each takes its turn: seeds of the callbacks

QUICK = Sizes(seeds=2, rounds=2, epochs=1, repeats=2)

def density(sizes:Sizes)->float: return .8**sizes.rounds # what is left in the end, from 0 to 1

def ours(sizes:Sizes):
    n,r = sizes.epochs,sizes.rounds
    return SparsifyCallback(100-100*density(sizes), 'weight', 'global',
                            large_final, geometric(n_steps=r), start_epoch=n, lth=True, verbose=False)

def theirs(sizes:Sizes):
    "fasterai's callback with the schedule of the same rounds, which it does not have"
    r = sizes.rounds
    def rounds(start, end, pos): return start + (end-start)*(1-.8**min(r, int(pos*r)+1))/(1-.8**r)
    return TheirCallback(1-density(sizes), 'weight', 'global', their_large_final,
                         TheirSchedule(rounds, start_pct=1/(r+1)), lth=True, layer_type=nn.Linear)

def by_callback(make, seed:int, sizes:Sizes)->tuple: # sparsity in percent, accuracy in percent
    "A whole search in one `fit`"
    torch.manual_seed(seed)
    learn = Learner(digits_dls(bs=60, seed=seed).cpu(), digits_mlp(),
                    metrics=accuracy, lr=1.2e-3, opt_func=Adam, wd=0., cbs=make(sizes))
    with learn.no_bar(), learn.no_logging(), contextlib.redirect_stdout(io.StringIO()):
        learn.fit(sizes.epochs*(sizes.rounds+1))
    return sparsity(learn.model), 100*learn.recorder.values[-1][2]

def batched(seed:int, sizes:Sizes)->tuple:
    "All seeds in one pass, from `1000*seed` on, so that every turn has its own"
    steps = sizes.epochs*(1437//60)
    df = lottery_curve(digits_mlp, digits_dls(), [1000*seed+i for i in range(sizes.seeds)],
                       sizes.rounds, arms=('ticket',), n_step=steps,
                       eval_every=1437//60, batch_seeds=sizes.seeds, progress=False)
    last = df[(df['round']==sizes.rounds) & (df.step==steps) & (df.metric=='accuracy')]
    return 100-last.density.mean(), 100*last.value.mean()

def tools(sizes:Sizes)->dict: # name -> (function of a seed, seeds)
    found = {'lottery_curve': (lambda s: batched(s, sizes), sizes.seeds),
             'lottery_nb SparsifyCallback': (lambda s: by_callback(ours, s, sizes), 1)}
    if has_fasterai: found['fasterai SparsifyCallback'] = lambda s: by_callback(theirs, s, sizes), 1
    return found

def measure(sizes:Sizes)->dict: # tool -> list of (seconds, sparsity, accuracy)
    "Lets all tools take their turns, in an order that is shuffled anew each time; the first turn is for warming up"
    shuffled,out = random.Random(0),{o: [] for o in tools(sizes)}
    for make,_ in tools(replace(QUICK, rounds=1)).values(): make(0)
    for i in range(sizes.repeats):
        for tool in shuffled.sample(list(out), len(out)):
            start = perf_counter()
            came = tools(sizes)[tool][0](i)
            out[tool].append((perf_counter()-start, *came))
        print(f'turn {i+1} of {sizes.repeats}: ' + ', '.join(f'{k} {v[-1][0]:.1f} s' for k,v in out.items()),
              file=sys.stderr)
    return out

def rows(sizes:Sizes, measured:dict)->list: # dicts
    "What came out, a row a tool"
    base = np.median([o[0] for o in measured['lottery_curve']])/sizes.seeds
    found = []
    for tool,(_,n) in tools(sizes).items():
        seconds,sparse,right = (np.array(o) for o in zip(*measured[tool]))
        a_seed = np.median(seconds)/n
        found.append(dict(tool=tool, seeds=n, seconds=float(np.median(seconds)),
                          least=float(seconds.min()), most=float(seconds.max()), a_seed=float(a_seed),
                          a_round=float(a_seed)/(sizes.rounds+1), times=float(a_seed/base),
                          sparsity=float(sparse.mean()), accuracy=float(right.mean())))
    return found

def report(result:dict)->str:
    "All of it as markdown"
    s,about = result['sizes'],result['circumstances']
    shown = table(['tool', 'seeds at once', 'seconds', 'least to most',
                   'seconds a seed', 'seconds a seed and round', 'lottery_curve = 1', 'sparsity'],
        [[r['tool'], str(r['seeds']), f'{r["seconds"]:.2f}', f'{r["least"]:.2f} to {r["most"]:.2f}',
          f'{r["a_seed"]:.2f}', f'{r["a_round"]:.3f}',
          f'{r["times"]:.1f}', f'{r["sparsity"]:.2f} %'] for r in result['rows']])
    return f"""# What a curve costs with others

{', '.join(f'{k} {v}' for k,v in about.items())}

Iterative magnitude pruning of the 64-300-100-10 network on scikit-learn's digits: Adam, batches of 60, a dense round
and {s['rounds']} of pruning 20 % of what is left, {s['epochs']} epochs ({s['epochs']*(1437//60)} steps) each, \
measured after every epoch.
Medians of {s['repeats']} turns. The callbacks train a seed at a time in a fastai `Learner`: most of their seconds \
are its training loop's,
whoever prunes. What they do at a rewind differs (biases, the optimizer's state), so this is about time, and about \
nothing else.

{shown}
"""

@call_parse
def main(
    seeds:int=None, # of `lottery_curve` (default 20)
    rounds:int=None, # of pruning (default 8)
    epochs:int=None, # of a round (default 17)
    repeats:int=None, # how often each takes its turn (default 5)
    quick:store_true=False, # little of everything, to see that it runs
    json:str=None, # file for all results, with the seconds of every run
    markdown:str=None, # file for the table
):
    "What a curve costs with others, on the same data, network and steps"
    given = dict(seeds=seeds, rounds=rounds, epochs=epochs, repeats=repeats)
    sizes = replace(QUICK if quick else Sizes(), **{k:v for k,v in given.items() if v is not None})
    if not has_fasterai: print("fasterai is not installed and is left out (pip install 'lottery_nb[bench]')")
    about,measured = circumstances(),measure(sizes)
    result = dict(circumstances={**about, 'load at the end': load()}, sizes=asdict(sizes), measured=measured,
                  rows=rows(sizes, measured))
    print(report(result))
    if markdown: Path(markdown).write_text(report(result), encoding='utf-8')
    if json: Path(json).write_text(dumps(result, indent=1), encoding='utf-8')
