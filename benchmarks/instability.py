"""What instability costs: all seeds and points in stacks, side by side with networks trained one after another

The same experiment twice (Frankle et al. 2020): from several points of training two copies of a dense network, of the
ticket that iterative pruning finds with rewinding to that point, of as many weights at random places, and of fresh
weights under the ticket's mask; each pair with two orders of its batches; and the error on the line between its ends.
One way is `instability`, for all seeds. The other is a loop in plain PyTorch as one would write it, a network at a
time, a seed after the other. They take turns; what is reported are medians of the seconds a seed.

    python benchmarks/instability.py                              about twelve minutes on two cores
    python benchmarks/instability.py --markdown instability.md    the page and its picture as files
    python benchmarks/instability.py --json instability.json      the same with the time of every run
    python benchmarks/instability.py --quick                      a few seconds: shows that it runs, and nothing else
"""
import copy, sys
from dataclasses import asdict, dataclass, replace

import numpy as np, torch
import torch.nn.functional as F
from _page import bars, chosen, circumstances, page, promise, table, timed, write
from fastcore.script import call_parse, store_true

from lottery_nb.connectivity import instability
from lottery_nb.core import threads
from lottery_nb.data import digits_dls, digits_mlp

@dataclass(frozen=True)
class Sizes:
    "How much is measured"
    seeds:int = 10      # of `instability`, all at once
    alone:int = 1       # seeds that the plain loop trains in a turn
    at:tuple = (0, 5, 10, 20, 50, 100) # steps at which the copies part
    rounds:int = 8      # of pruning 20 %
    steps:int = 400     # batches of 60 of a training
    points:int = 11     # on each line
    repeats:int = 3     # how often both take their turn
    side:int = 2048     # of the large matrices that are multiplied

QUICK = Sizes(seeds=2, at=(0, 5), rounds=2, steps=10, points=3, repeats=2, side=256)
LR,BS = 1.2e-3,60
PROMISE = 4 # times as fast, at least

# --- The plain loop ---------------------------------------------------------------------------------------------------

def batches(n:int, seed:int):
    "Which items are in each batch, without end, in an order of the seed's own"
    g = torch.Generator().manual_seed(seed)
    while True: yield from torch.randperm(n, generator=g)[:n//BS*BS].split(BS)

def train(net, masks:dict, data, order:int, first:int, last:int, keep=())->dict: # step -> state
    "Trains `net` under masks from step `first` to `last`"
    opt,rows,kept = torch.optim.Adam(net.parameters(), LR),batches(len(data[0]), order),{}
    params = dict(net.named_parameters())
    for _ in range(first): next(rows)
    for step in range(first, last):
        if step in keep: kept[step] = copy.deepcopy(net.state_dict())
        at = next(rows)
        loss = F.cross_entropy(net(data[0][at]), data[1][at])
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for k,m in masks.items(): params[k].mul_(m)
    return kept

def loaded(state:dict, masks:dict):
    "A network of these weights under masks"
    net = digits_mlp()
    net.load_state_dict({k: t*masks[k] if k in masks else t for k,t in state.items()})
    return net

@torch.no_grad()
def error(net, data)->float: return (net(data[0]).argmax(1)!=data[1]).double().mean().item()

def barrier(a, b, parts, points:int)->list: # of train and valid
    "The highest error on the line minus the mean of the ends, on each part"
    ends,middle,errors = (a.state_dict(), b.state_dict()),copy.deepcopy(a),[]
    for alpha in np.linspace(0, 1, points).tolist():
        middle.load_state_dict({k: (1-alpha)*t + alpha*ends[1][k] for k,t in ends[0].items()})
        errors.append([error(middle, o) for o in parts])
    errors = np.array(errors)
    return list(errors.max(0) - (errors[0]+errors[-1])/2)

def pruned(state:dict, masks:dict, share:float=.2)->dict:
    "The masks without a share of the smallest of all kept weights"
    kept = torch.cat([state[k][m].abs() for k,m in masks.items()])
    limit = kept.kthvalue(round(share*len(kept))).values
    return {k: m & (state[k].abs()>limit) for k,m in masks.items()}

def at_random(masks:dict)->dict:
    "As many kept weights at random places"
    sizes = [m.numel() for m in masks.values()]
    flat = torch.zeros(sum(sizes), dtype=torch.bool)
    flat[torch.randperm(len(flat))[:sum(int(m.sum()) for m in masks.values())]] = True
    return {k: o.view(m.shape) for (k,m),o in zip(masks.items(), flat.split(sizes))}

def one_by_one(seed:int, sizes:Sizes)->dict: # arm -> error barriers, by point
    "The whole experiment for a seed, a network after the other"
    dls,found = digits_dls(),{}
    parts = [tuple(t.as_subclass(torch.Tensor) for t in o.stacked()) for o in (dls.train, dls.valid)]
    torch.manual_seed(seed)
    dense,other = digits_mlp(),digits_mlp().state_dict()
    every = {k: torch.ones_like(p, dtype=torch.bool) for k,p in dense.named_parameters() if p.dim()>1}
    kept = train(dense, {}, parts[0], 1000*seed, 0, sizes.steps, sizes.at)
    for k in sizes.at:
        trained,masks = dense,every
        for r in range(1, sizes.rounds+1):
            masks = pruned(trained.state_dict(), masks)
            if r<sizes.rounds:
                trained = loaded(kept[k], masks)
                train(trained, masks, parts[0], 1000*seed+r, k, sizes.steps)
        fresh = loaded(other, masks)
        train(fresh, masks, parts[0], 1000*seed+sizes.rounds, 0, k)
        elsewhere = at_random(masks)
        arms = dict(dense=(kept[k], {}), ticket=(kept[k], masks), random=(kept[k], elsewhere),
                    reinit=(fresh.state_dict(), masks))
        for arm,(state,m) in arms.items():
            pair = [loaded(state, m) for _ in range(2)]
            for i,net in enumerate(pair): train(net, m, parts[0], 1000*seed+100*(k+1)+i, k, sizes.steps)
            found.setdefault(arm, []).append(barrier(*pair, parts, sizes.points)[1])
    return found

# --- Side by side -----------------------------------------------------------------------------------------------------

def stacked(sizes:Sizes, turn:int)->dict: # arm -> mean error barrier at the first point
    "The same for all seeds, from `1000*turn` on, so that every turn has its own"
    seeds = [1000*turn+i for i in range(sizes.seeds)]
    df = instability(digits_mlp, digits_dls(), [f'{k}it' for k in sizes.at], seeds, sizes.rounds, points=sizes.points,
                     n_step=sizes.steps, bs=BS, lr=LR, progress=False)
    return df[df.metric=='error_barrier'].groupby('arm', sort=False).value.mean().to_dict()

def multiply(side:int)->float:
    "Billions of operations a second of a product of two large matrices, at its fastest"
    a,b = torch.randn(2, side, side)
    return 2*side**3/min(timed(lambda: a@b)[0] for _ in range(5))/1e9

def operations(sizes:Sizes)->float:
    """Billions of operations of a seed, two a multiply-add, of the products in its steps of training alone.

    Each layer has three products a step, and the first one two: nothing goes back to the data. The dense network trains
    to its end; from each point on all tickets but the last and four pairs, and fresh weights as far as there"""
    weights = [p.numel() for p in digits_mlp().parameters() if p.dim()>1]
    steps = sizes.steps + sum((sizes.rounds-1 + 2*4)*(sizes.steps-k) + k for k in sizes.at)
    return 2*BS*(3*sum(weights)-weights[0])*steps/1e9

def measure(sizes:Sizes)->tuple: # way -> list of (seconds a seed, arm -> mean error barrier); what `multiply` gives
    "Lets the ways take their turns; a small one before is for warming up"
    def plain(turn):
        found = [one_by_one(1000*turn+i, sizes) for i in range(sizes.alone)]
        return {arm: float(np.mean([o[arm] for o in found])) for arm in found[0]}
    def one_thread(turn):
        with threads(1): return plain(turn)
    ways = {'instability, all seeds at once': (lambda i: stacked(sizes, i), sizes.seeds),
            'plain PyTorch, one network after another': (plain, sizes.alone),
            'the same with one thread': (one_thread, sizes.alone)}
    stacked(replace(QUICK, seeds=2), 0), one_by_one(0, QUICK)
    out,speeds = {k: [] for k in ways},[]
    for i in range(sizes.repeats):
        speeds.append(multiply(sizes.side))
        for way,(fn,n) in ways.items():
            seconds,came = timed(lambda fn=fn: fn(i))
            out[way].append((seconds/n, came))
        told = ', '.join(f'{k} {v[-1][0]:.2f}' for k,v in out.items())
        print(f'turn {i+1} of {sizes.repeats}, seconds a seed: {told}', file=sys.stderr)
    return out,speeds

def rows(sizes:Sizes, measured:dict)->list: # dicts
    "What came out: a row for each way"
    names = list(measured)
    base,found = float(np.median([o[0] for o in measured[names[0]]])),[]
    for way,runs in measured.items():
        s,n = np.array([o[0] for o in runs]),sizes.seeds if way==names[0] else sizes.alone
        barriers = {k: 100*float(np.mean([o[1][k] for o in runs])) for k in runs[0][1]}
        found.append(dict(way=way, seeds=n, seconds=float(np.median(s)), least=float(s.min()), most=float(s.max()),
                          times=float(np.median(s))/base, barriers=barriers))
    return found

def ceiling(result:dict)->str:
    "Why it isn't faster still: what arithmetic allows"
    ours,*loops = result['rows']
    n,most,side = result['operations'],float(np.median(result['products'])),result['sizes']['side']
    loop = min(r['seconds'] for r in loops)
    best = loop*most/n
    so = 'which is less than is promised' if best<PROMISE else 'which is at least what is promised'
    return f"""Why not more: the products of matrices in all steps of a seed are {n:,.3g} billion operations, two a
multiply-add. The stacks do {n/ours['seconds']:,.3g} billion of them a second, the loop {n/loop:,.3g}; a product of two
matrices of {side} by {side} numbers, which is arithmetic and nothing else, {most:,.3g}. If all ran at that speed and
nothing else took time, the stacks would be {best:.1f} times as fast as the loop, {so}."""

def report(result:dict, picture:str)->str:
    "All of it as Markdown"
    s,found = result['sizes'],result['rows']
    ratio,per_seed,n = min(r['times'] for r in found[1:]),found[0]['seconds'],s['seeds']
    finding = f"""{n} seeds at once take {n*per_seed:.0f} seconds, and are {ratio:.2f} times as fast as the faster loop
in plain PyTorch. {promise(f'at least {PROMISE} times', ratio>=PROMISE)}

{ceiling(result)}"""
    head = ['', 'seeds', 'seconds a seed', 'least to most', 'all at once = 1']
    shown = table(head, [[r['way'], str(r['seeds']), f'{r["seconds"]:.2f}', f'{r["least"]:.2f} to {r["most"]:.2f}',
                          f'{r["times"]:.2f}'] for r in found])
    arms = list(found[0]['barriers'])
    errors = table(['error barrier, percent', *arms],
                   [[r['way'], *(f'{r["barriers"][o]:.2f}' for o in arms)] for r in found[:2]])
    body = f"""Instability of the 64-300-100-10 network on scikit-learn's digits: Adam, batches of {BS}, {s['steps']}
steps; pairs that part at step {', '.join(map(str, s['at']))}: dense, and tickets, random places and fresh weights after
{s['rounds']} rounds of pruning 20 %; {s['points']} points on each line, training and validation data. Medians of
{s['repeats']} turns.

{shown}

Means over all points and turns, to see that it's the same experiment; the loops have other seeds, and fewer:

{errors}"""
    return page('What instability costs', finding, picture, 'Times as fast as a loop in plain PyTorch', body,
                result['circumstances'])

def draw(path, result:dict):
    "How many times as fast the stacks are as each of the loops"
    names = ['than the loop', 'than the loop, one thread']
    ours,*loops = result['rows']
    values = {k: tuple(r[o]/ours['seconds'] for o in ('seconds','least','most')) for k,r in zip(names, loops)}
    label,limits = 'times as fast, all seeds at once; least to most',dict.fromkeys(values, PROMISE)
    bars(path, values, label, limits, 'promised: at least')

@call_parse
def main(
    seeds:int=None, # of `instability` (default 10)
    alone:int=None, # seeds that the plain loop trains in a turn (default 1)
    rounds:int=None, # of pruning (default 8)
    steps:int=None, # of a training (default 400)
    repeats:int=None, # how often both take their turn (default 3)
    quick:store_true=False, # little of everything, to see that it runs
    json:str=None, # file for all results, with the seconds of every run
    markdown:str=None, # file for the page; its picture comes beside it
):
    "What instability costs: in stacks, side by side with one network after another in plain PyTorch"
    sizes = chosen(QUICK if quick else Sizes(), seeds=seeds, alone=alone, rounds=rounds, steps=steps, repeats=repeats)
    with circumstances() as about: measured,products = measure(sizes)
    result = dict(circumstances=about, sizes=asdict(sizes), measured=measured, products=products,
                  operations=operations(sizes), rows=rows(sizes, measured))
    write(result, report, draw, markdown, json)
