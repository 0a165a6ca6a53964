"""What error bars cost: the curves of many seeds in a batched pass, side by side with the same seeds one after another

The same code trains them both times: `lottery_curve` with all seeds, and with one seed at a time. They take turns, all
seeds at once and then each of them alone, in several rounds, so that both meet the same hiccups of the machine; what is
reported are medians. Both have all of PyTorch's threads. A single small network may have little use for more than one,
so a few seeds train with one thread as well.

    python benchmarks/replicates.py                              about four minutes on two cores
    python benchmarks/replicates.py --markdown replicates.md     the page and its picture as files
    python benchmarks/replicates.py --json replicates.json       the same with the time of every run
    python benchmarks/replicates.py --quick                      a few seconds: shows that it runs, and nothing else
"""
import sys
from dataclasses import asdict, dataclass

import numpy as np
from _page import bars, chosen, circumstances, page, promise, table, timed, write
from fastcore.script import call_parse, store_true

from lottery_nb.core import threads
from lottery_nb.curves import lottery_curve
from lottery_nb.data import digits_dls, digits_mlp

@dataclass(frozen=True)
class Sizes:
    "How much is measured"
    seeds:int = 20      # replicates
    rounds:int = 8      # of pruning, after the dense one
    steps:int = 400     # batches of 60 in each of them
    arms:tuple = ('ticket',) # beside the dense networks
    repeats:int = 3     # how often both take their turn

PROMISE = 3 # times as fast, at least
QUICK = Sizes(seeds=3, rounds=2, steps=20, repeats=2)

def last_accuracy(df)->float:
    "Mean accuracy after the last step of the last round, percent"
    last = (df.arm=='ticket') & (df['round']==df['round'].max()) & (df.step==df.step.max())
    return 100*df[last & (df.metric=='accuracy')].value.mean()

def measure(sizes:Sizes)->dict:
    "Seconds of all seeds at once, of each seed alone, and of a few with one thread: a list a round"
    data,how = digits_dls(),dict(rounds=sizes.rounds, arms=sizes.arms, n_step=sizes.steps, progress=False)
    def curve(seeds): return lottery_curve(digits_mlp, data, seeds, batch_seeds=sizes.seeds, **how)
    lottery_curve(digits_mlp, data, 2, **dict(how, rounds=1, n_step=10)) # what is loaded at the first use
    together,alone,one_thread,values = [],[],[],[]
    for i in range(sizes.repeats):
        seconds,df = timed(lambda: curve(sizes.seeds))
        together.append(seconds)
        one_by_one = [timed(lambda s=s: curve([s])) for s in range(sizes.seeds)]
        alone.append([seconds for seconds,_ in one_by_one])
        with threads(1): one_thread.append([timed(lambda s=s: curve([s]))[0] for s in range(min(5, sizes.seeds))])
        values.append((last_accuracy(df), float(np.mean([last_accuracy(o) for _,o in one_by_one]))))
        told = f'{together[-1]:.1f} s together, {sum(alone[-1]):.1f} s one after another'
        print(f'round {i+1} of {sizes.repeats}: {told}', file=sys.stderr)
    return dict(together=together, alone=alone, one_thread=one_thread, accuracy=values[-1])

def rows(sizes:Sizes, measured:dict)->list: # dicts
    "What came out: a row for each way"
    trainings = 1+sizes.rounds*len(sizes.arms)
    together,in_turn = np.array(measured['together']),np.array(measured['alone']).sum(1)
    ways = [('all seeds at once', sizes.seeds, together), ('the same seeds, one after another', sizes.seeds, in_turn),
             ('one seed', 1, np.array(measured['alone']).ravel()),
             ('one seed, one thread', 1, np.array(measured['one_thread']).ravel())]
    found = []
    for way,n,s in ways:
        mid = float(np.median(s))
        found.append(dict(way=way, seeds=n, seconds=mid, least=float(s.min()), most=float(s.max()), a_seed=mid/n,
                          steps_a_second=n*trainings*sizes.steps/mid, times=mid/float(np.median(together))))
    return found

def ratios(result:dict, key:str)->list: # a number a turn
    "How many times as fast all seeds are at once, by those that had a turn alone"
    return [result['sizes']['seeds']*float(np.mean(alone))/t for t,alone in zip(result['together'], result[key])]

def report(result:dict, picture:str)->str:
    "All of it as Markdown"
    s,(together,alone) = result['sizes'],result['accuracy']
    ratio,one_thread = (float(np.median(ratios(result, k))) for k in ('alone','one_thread'))
    finding = f"""{s['seeds']} seeds at once are {ratio:.2f} times as fast as one after another, and {one_thread:.2f}
times if a seed alone has one thread only. {promise(f'at least {PROMISE} times', ratio>=PROMISE)}"""
    head = ['', 'seeds', 'seconds', 'least to most', 'seconds a seed', 'training steps a second', 'all at once = 1']
    shown = table(head,
        [[r['way'], str(r['seeds']), f'{r["seconds"]:.2f}', f'{r["least"]:.2f} to {r["most"]:.2f}',
          f'{r["a_seed"]:.2f}', f'{r["steps_a_second"]:,.0f}', f'{r["times"]:.2f}'] for r in result['rows']])
    body = f"""`lottery_curve` on scikit-learn's digits: the 64-300-100-10 network, Adam, batches of 60,
{s['steps']} steps a training, a dense round and {s['rounds']} of pruning 20 %; {', '.join(s['arms'])}; measured twenty
times a training. Medians of {s['repeats']} turns; checks and first weights are counted. With one thread
{len(result['one_thread'][0])} seeds are trained.

{shown}

It's the same that is trained: in the last round the mean accuracy is {together:.2f} % at once, and {alone:.2f} % one
after another."""
    return page('What error bars cost', finding, picture, 'Times as fast as one seed after another, a bar a way', body,
                result['circumstances'])

def draw(path, result:dict):
    names = dict(alone='than one after another', one_thread='than one after another, one thread')
    values = {name: (float(np.median(r)), min(r), max(r)) for k,name in names.items() for r in [ratios(result, k)]}
    label,limits = 'times as fast, all seeds at once; least to most',{names['alone']: PROMISE}
    bars(path, values, label, limits, 'promised: at least', ours=values)

@call_parse
def main(
    seeds:int=None, # replicates (default 20)
    rounds:int=None, # of pruning (default 8)
    steps:int=None, # of a training (default 400)
    repeats:int=None, # how often both take their turn (default 3)
    quick:store_true=False, # little of everything, to see that it runs
    json:str=None, # file for all results, with the seconds of every run
    markdown:str=None, # file for the page; its picture comes beside it
):
    "What error bars cost: many seeds in a batched pass, side by side with the same seeds one after another"
    sizes = chosen(QUICK if quick else Sizes(), seeds=seeds, rounds=rounds, steps=steps, repeats=repeats)
    with circumstances() as about: measured = measure(sizes)
    result = dict(circumstances=about, sizes=asdict(sizes), **measured, rows=rows(sizes, measured))
    write(result, report, draw, markdown, json)
