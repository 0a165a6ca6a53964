"""What a curve costs with others: iterative magnitude pruning by fasterai's callback, by ours, and by `lottery_curve`

All prune the same network on the same data in the same rounds, 20 % of the remaining weights in each, and take what is
left back to the first weights. The two callbacks do it a seed at a time in a fastai `Learner`, so their seconds are
fastai's training loop too; `lottery_curve` does it for all seeds in one batched pass, without fastai. They take turns;
what is reported are medians.

    python benchmarks/peers.py                         about three minutes on two cores
    python benchmarks/peers.py --markdown peers.md     the page and its picture as files
    python benchmarks/peers.py --json peers.json       the same with the time of every run
    python benchmarks/peers.py --quick                 a few seconds: shows that it runs, says nothing about speed

fasterai: `pip install 'lottery_nb[bench]'`; left out if it is not there.
"""
import contextlib, io, random, sys
from dataclasses import asdict, dataclass, replace

import numpy as np, torch
from _page import bars, chosen, circumstances, has_fasterai, page, table, timed, write
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import Adam
from fastcore.script import call_parse, store_true
from overhead import sparsity
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

BATCHED = 'lottery_curve' # all seeds at once
QUICK = Sizes(seeds=2, rounds=2, epochs=1, repeats=2)

def density(sizes:Sizes)->float: return .8**sizes.rounds # what is left in the end, from 0 to 1

def ours(sizes:Sizes):
    n,r = sizes.epochs,sizes.rounds
    return SparsifyCallback(100-100*density(sizes), 'weight', 'global', large_final, geometric(n_steps=r),
                            start_epoch=n, lth=True, verbose=False)

def theirs(sizes:Sizes):
    "fasterai's callback with the schedule of the same rounds, which it does not have"
    r = sizes.rounds
    def rounds(start, end, pos): return start + (end-start)*(1-.8**min(r, int(pos*r)+1))/(1-.8**r)
    schedule = TheirSchedule(rounds, start_pct=1/(r+1))
    return TheirCallback(1-density(sizes), 'weight', 'global', their_large_final, schedule, lth=True,
                         layer_type=nn.Linear)

def by_callback(make, seed:int, sizes:Sizes)->tuple: # sparsity in percent, accuracy in percent
    "A whole search in one `fit`"
    torch.manual_seed(seed)
    how = dict(metrics=accuracy, lr=1.2e-3, opt_func=Adam, wd=0., cbs=make(sizes))
    learn = Learner(digits_dls(bs=60, seed=seed).cpu(), digits_mlp(), **how)
    with learn.no_bar(), learn.no_logging(), contextlib.redirect_stdout(io.StringIO()):
        learn.fit(sizes.epochs*(sizes.rounds+1))
    return sparsity(learn.model), 100*learn.recorder.values[-1][2]

def batched(seed:int, sizes:Sizes)->tuple:
    "All seeds in one pass, from `1000*seed` on, so that every turn has its own"
    steps = sizes.epochs*(1437//60)
    seeds = [1000*seed+i for i in range(sizes.seeds)]
    df = lottery_curve(digits_mlp, digits_dls(), seeds, sizes.rounds, arms='ticket', n_step=steps, eval_every=1437//60,
                       batch_seeds=sizes.seeds, progress=False)
    last = df[(df['round']==sizes.rounds) & (df.step==steps) & (df.metric=='accuracy')]
    return 100-last.density.mean(), 100*last.value.mean()

def tools(sizes:Sizes)->dict: # name -> (function of a seed, seeds)
    found = {BATCHED: (lambda s: batched(s, sizes), sizes.seeds),
             'lottery_nb SparsifyCallback': (lambda s: by_callback(ours, s, sizes), 1)}
    if has_fasterai: found['fasterai SparsifyCallback'] = lambda s: by_callback(theirs, s, sizes), 1
    return found

def measure(sizes:Sizes)->dict: # tool -> list of (seconds, sparsity, accuracy)
    "Lets all tools take their turns, in an order that is shuffled anew each time; the first turn is for warming up"
    shuffled,out = random.Random(0),{o: [] for o in tools(sizes)}
    for make,_ in tools(replace(QUICK, rounds=1)).values(): make(0)
    for i in range(sizes.repeats):
        for tool in shuffled.sample(list(out), len(out)):
            seconds,came = timed(lambda tool=tool: tools(sizes)[tool][0](i))
            out[tool].append((seconds, *came))
        told = ', '.join(f'{k} {v[-1][0]:.1f} s' for k,v in out.items())
        print(f'turn {i+1} of {sizes.repeats}: {told}', file=sys.stderr)
    return out

def rows(sizes:Sizes, measured:dict)->list: # dicts
    "What came out, a row a tool"
    base = np.median([o[0] for o in measured[BATCHED]])/sizes.seeds
    found = []
    for tool,(_,n) in tools(sizes).items():
        seconds,sparse,right = (np.array(o) for o in zip(*measured[tool]))
        a_seed = np.median(seconds)/n
        row = dict(seconds=np.median(seconds), least=seconds.min(), most=seconds.max(), a_seed=a_seed,
                   times=a_seed/base, a_round=a_seed/(sizes.rounds+1), sparsity=sparse.mean(), accuracy=right.mean())
        found.append(dict(tool=tool, seeds=n, **{k: float(v) for k,v in row.items()}))
    return found

def report(result:dict, picture:str)->str:
    "All of it as Markdown"
    s,found = result['sizes'],{r['tool']: r for r in result['rows']}
    per_seed = [f"{r['a_seed']:.2f} seconds with {k} ({r['times']:.1f} times)" for k,r in found.items() if k!=BATCHED]
    finding = f"""A curve of {s['rounds']} rounds takes {found[BATCHED]['a_seed']:.2f} seconds a seed with
`lottery_curve`, which prunes {s['seeds']} seeds at once; {', '.join(per_seed)}. Nothing is promised of these ratios."""
    head = ['tool', 'seeds at once', 'seconds', 'least to most', 'seconds a seed', 'seconds a seed and round',
            'lottery_curve = 1', 'sparsity']
    shown = table(head,
        [[k, str(r['seeds']), f'{r["seconds"]:.2f}', f'{r["least"]:.2f} to {r["most"]:.2f}', f'{r["a_seed"]:.2f}',
          f'{r["a_round"]:.3f}', f'{r["times"]:.1f}', f'{r["sparsity"]:.2f} %'] for k,r in found.items()])
    body = f"""Iterative magnitude pruning of the 64-300-100-10 network on scikit-learn's digits: Adam, batches of 60, a
dense round and {s['rounds']} of pruning 20 % of what is left, {s['epochs']} epochs ({s['epochs']*(1437//60)} steps)
each, measured after every epoch. Medians of {s['repeats']} turns. The callbacks train a seed at a time in a fastai
`Learner`: most of their seconds are its training loop's, whoever prunes. What they do at a rewind differs (biases, the
optimizer's state), so this is about time, and about nothing else.

{shown}"""
    return page('What a curve costs with others', finding, picture, 'Seconds a seed, a bar a tool', body,
                result['circumstances'])

def draw(path, result:dict):
    values = {r['tool']: tuple(r[k]/r['seeds'] for k in ('seconds','least','most')) for r in result['rows']}
    bars(path, values, 'seconds a seed, least to most', {}, ours=[o for o in values if 'fasterai' not in o])

@call_parse
def main(
    seeds:int=None, # of `lottery_curve` (default 20)
    rounds:int=None, # of pruning (default 8)
    epochs:int=None, # of a round (default 17)
    repeats:int=None, # how often each takes its turn (default 5)
    quick:store_true=False, # little of everything, to see that it runs
    json:str=None, # file for all results, with the seconds of every run
    markdown:str=None, # file for the page; its picture comes beside it
):
    "What a curve costs with others, on the same data, network and steps"
    sizes = chosen(QUICK if quick else Sizes(), seeds=seeds, rounds=rounds, epochs=epochs, repeats=repeats)
    with circumstances('fastai', 'fasterai') as about: measured = measure(sizes)
    result = dict(circumstances=about, sizes=asdict(sizes), measured=measured, rows=rows(sizes, measured))
    write(result, report, draw, markdown, json)
