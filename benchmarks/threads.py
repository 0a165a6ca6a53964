"""Making a mask on one thread and on all, on a machine that is idle and beside a busy loop on one core: what somebody
who changes no setting gets, against the better of the two

    python benchmarks/threads.py                            a minute on two cores
    python benchmarks/threads.py --markdown threads.md      the page and its picture as files
    python benchmarks/threads.py --json threads.json        the same with every time
    python benchmarks/threads.py --quick                    a tiny network: that it runs, not how fast
"""
import copy, inspect, os, random
from statistics import median
import torch
from _page import bars, busy, circumstances, page, promise, quartiles, table, timed, write
from fastcore.script import call_parse, store_true
from torch import nn
from lottery_nb.core import threads
from lottery_nb.sparsifier import Sparsifier

PROMISE = 1.5 # times the better of one and of all threads

def making(net, n, make=Sparsifier.make_masks):
    "Seconds for one mask where PyTorch may use `n` threads"
    sp = Sparsifier(copy.deepcopy(net))
    with threads(n): return timed(lambda: make(sp, 50))[0]

def unbound(net, n):
    "The same by the same code, without what lottery_nb does about threads"
    with torch.no_grad(): return making(net, n, inspect.unwrap(Sparsifier.make_masks))

def sorting(net, n):
    "The same by the k-th value of all magnitudes, which PyTorch finds alone"
    flat = torch.cat([p.detach().abs().flatten() for p in net.parameters()])
    def find():
        line = flat.kthvalue(len(flat)//2).values
        return [p>line for p in net.parameters()]
    with threads(n): return timed(find)[0]

TOOLS = {'lottery_nb': making, 'lottery_nb, threads as they are': unbound, 'torch.kthvalue': sorting}

def report(result, picture):
    "The result as Markdown"
    rows = [[r['machine'], r['tool'], str(r['threads']), f"{median(r['seconds']):.2f}", f"{r['median']:.2f}",
             f"{r['q1']:.2f} to {r['q3']:.2f}"] for r in result['rows']]
    worst = {o: max(r['median'] for r in result['rows'] if r['tool']==o) for o in TOOLS}
    ours,unbound,_ = worst.values()
    finding = f"""With settings as they come, idle or beside a busy loop, a mask takes at most {ours:.2f} times as
long as with the better number of threads; without what lottery_nb does about threads it's up to {unbound:.2f} times.
{promise(f'at most {PROMISE}', ours<=PROMISE)}"""
    body = f"""A mask of 50 % over {result['weights']:,} weights, on one thread and on all; medians of
{result['rounds']} turns, by the best of ours on the same machine.

{table(['machine', 'tool', 'threads', 'seconds', 'our best = 1', 'middle half'], rows)}"""
    return page('Masks on a busy machine', finding, picture, 'Time of a mask by that of our best one, a bar a setting',
                body, result['circumstances'])

def draw(path, result):
    def name(r): return f"{r['tool']}, {r['threads']} thread{'s'*(r['threads']>1)}, {r['machine']}"
    values = {name(r): (r['median'], r['q1'], r['q3']) for r in result['rows']}
    limits = {name(r): PROMISE for r in result['rows'] if r['tool']=='lottery_nb'}
    bars(path, values, 'time of a mask, our best = 1', limits)

def measure(net, rounds, n_all): # dicts
    "Lets all tools take their turns on one thread and on all, on both machines"
    rows = []
    for machine,n_busy in (('idle',0), ('a busy loop',1)):
        times = {(tool,n): [] for tool in TOOLS for n in (1,n_all)}
        with busy(n_busy):
            for _ in range(rounds):
                for tool,n in random.sample(list(times), len(times)): times[tool,n].append(TOOLS[tool](net, n))
        best = min(median(v) for (tool,_),v in times.items() if tool.startswith('lottery_nb'))
        rows += [dict(machine=machine, tool=tool, threads=n, seconds=v, **quartiles([o/best for o in v]))
                 for (tool,n),v in times.items()]
    return rows

@call_parse
def main(
    rounds:int=9, # masks of each kind
    quick:store_true=False, # a tiny network, to see that it runs
    json:str=None, # file for all times
    markdown:str=None, # file for the page; its picture comes beside it
):
    "Making a mask, on an idle machine and beside a busy loop"
    side,rounds = (100,2) if quick else (2000,rounds)
    torch.manual_seed(0)
    net,n_all = nn.Sequential(*[nn.Linear(side, side, bias=False) for _ in range(5)]),max(2, os.cpu_count() or 2)
    with circumstances() as about: rows = measure(net, rounds, n_all)
    result = dict(circumstances=about, rounds=rounds, weights=sum(p.numel() for p in net.parameters()), rows=rows)
    write(result, report, draw, markdown, json)
