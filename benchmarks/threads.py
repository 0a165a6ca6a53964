"""Making a mask on one thread and on all, on a machine that is idle and beside a busy loop on one core: what somebody
who changes no setting gets, against the better of the two

    python benchmarks/threads.py                            a minute on two cores
    python benchmarks/threads.py --markdown threads.md      the table as a file
    python benchmarks/threads.py --json threads.json        the same with every time
    python benchmarks/threads.py --quick                    a tiny network: that it runs, not how fast
"""
import copy, inspect, multiprocessing, os, platform, random, time
from contextlib import contextmanager
from importlib.metadata import version
from json import dumps
from pathlib import Path
from statistics import median
import torch
from fastcore.script import call_parse, store_true
from torch import nn
from lottery_nb.core import threads
from lottery_nb.sparsifier import Sparsifier

PROMISE = 1.5 # times the better of one and of all threads

def loop():
    while True: pass

@contextmanager
def busy(n):
    "Keeps `n` cores busy"
    others = [multiprocessing.Process(target=loop, daemon=True) for _ in range(n)]
    for o in others: o.start()
    time.sleep(.2*bool(n))
    try: yield
    finally:
        for o in others: o.terminate()

def making(net, n, make=Sparsifier.make_masks):
    "Seconds for one mask where PyTorch may use `n` threads"
    sp = Sparsifier(copy.deepcopy(net))
    with threads(n):
        start = time.perf_counter()
        make(sp, 50)
        return time.perf_counter()-start

def unbound(net, n):
    "The same by the same code, without what lottery_nb does about threads"
    with torch.no_grad(): return making(net, n, inspect.unwrap(Sparsifier.make_masks))

def sorting(net, n):
    "The same by the k-th value of all magnitudes, which PyTorch finds alone"
    flat = torch.cat([p.detach().abs().flatten() for p in net.parameters()])
    with threads(n):
        start = time.perf_counter()
        line = flat.kthvalue(len(flat)//2).values
        [p>line for p in net.parameters()]
        return time.perf_counter()-start

TOOLS = {'lottery_nb': making, 'lottery_nb, threads as they are': unbound, 'torch.kthvalue': sorting}

def report(result):
    "The result as Markdown"
    def line(r): return f"{r['machine']} | {r['tool']} | {r['threads']} | {median(r['seconds']):.2f} | {r['ratio']:.2f}"
    rows = '\n'.join(f'| {line(r)} |' for r in result['rows'])
    worst = max(r['ratio'] for r in result['rows'] if r['tool']=='lottery_nb')
    return f"""# Masks on a busy machine

{'; '.join(f'{k} {v}' for k,v in result['circumstances'].items())}; {result['weights']:,} weights, medians

| machine | tool | threads | seconds | of our best |
|---|---|---:|---:|---:|
{rows}

Promised of lottery_nb is at most {PROMISE} times the best, whatever the number of threads and the load:
{'kept' if worst<=PROMISE else 'not kept'} in this run ({worst:.2f}).
"""

@call_parse
def main(
    rounds:int=9, # masks of each kind
    quick:store_true=False, # a tiny network, to see that it runs
    json:str=None, # file for all times
    markdown:str=None, # file for the table
):
    "Making a mask, on an idle machine and beside a busy loop"
    side,rounds = (100,2) if quick else (2000,rounds)
    torch.manual_seed(0)
    net,n_all = nn.Sequential(*[nn.Linear(side, side, bias=False) for _ in range(5)]),max(2, os.cpu_count() or 2)
    rows = []
    for machine,n_busy in (('idle',0), ('a busy loop',1)):
        times = {(tool,n): [] for tool in TOOLS for n in (1,n_all)}
        with busy(n_busy):
            for _ in range(rounds):
                for tool,n in random.sample(list(times), len(times)):
                    times[tool,n].append(TOOLS[tool](net, n))
        for (tool,n),seconds in times.items():
            best = min(median(times[o]) for o in times if o[0].startswith('lottery_nb'))
            rows.append(dict(machine=machine, tool=tool, threads=n, seconds=seconds, ratio=median(seconds)/best))
    circumstances = dict(python=platform.python_version(), cores=os.cpu_count(),
                         **{o: version(o) for o in ('torch','lottery_nb')})
    result = dict(circumstances=circumstances, weights=sum(p.numel() for p in net.parameters()), rows=rows)
    print(report(result))
    if markdown: Path(markdown).write_text(report(result), encoding='utf-8')
    if json: Path(json).write_text(dumps(result, indent=1), encoding='utf-8')
