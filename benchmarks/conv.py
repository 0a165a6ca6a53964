"""What stacking gains for convolutional networks: a step of some networks, in all ways to do it

All ways take turns of some steps, in an order that is shuffled anew in each round; what's reported are ratios within a
round, by plain PyTorch networks one after another.

    python benchmarks/conv.py                      some minutes on one core
    python benchmarks/conv.py --markdown conv.md   the table and the picture as files
    python benchmarks/conv.py --json conv.json     the same with the seconds of every turn
    python benchmarks/conv.py --quick              some seconds: that it runs, not how fast
"""
import random
from functools import partial
from shutil import which
from time import perf_counter

import numpy as np, torch
from fastcore.script import call_parse, store_true
from torch import nn
from _page import bars, circumstances, page, table, write

from lottery_nb.classics import cifar_resnet, conv2
from lottery_nb.stacked import Recipe, Stack

PLAIN,STACKED,ONES = 'one after another','stacked','stacks of one'
has_compiler = any(map(which, ('g++','clang++','cl'))) # which `torch.compile` needs on a CPU

def networks(sizes:list, width:int)->dict: # (network, pixels) -> function without arguments that makes one
    "Those that are measured"
    made = {('conv2', s): partial(conv2, size=s) for s in sizes}
    return made | {(f'cifar_resnet(20, width={width})', s): partial(cifar_resnet, 20, width) for s in sizes}

def plain(recipe:Recipe, n:int, channels_last:bool=False, compiled:bool=False):
    "A function that does a step of each of `n` networks, one after another, as PyTorch does it"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    nets = [recipe.network(s).to(recipe.device, memory_format=layout) for s in range(n)]
    opts = [torch.optim.SGD(net.parameters(), recipe.lr, momentum=.9, fused=True) for net in nets]
    if compiled: nets = [torch.compile(net) for net in nets]
    x,y = recipe.parts['train']
    x = x.to(memory_format=layout)
    def step():
        for net,opt in zip(nets, opts):
            nn.functional.cross_entropy(net(x), y).backward()
            opt.step()
            opt.zero_grad()
    return step

def stacked(recipe:Recipe, n:int, at_a_time:int):
    "The same with so many networks in a stack"
    stacks = [Stack(recipe, [recipe.first_ticket(s) for s in range(i, i+at_a_time)]) for i in range(0, n, at_a_time)]
    x,y = (t.expand(at_a_time, *t.shape).clone() for t in recipe.parts['train'])
    def step():
        for o in stacks: o.step(x, y, recipe.lr)
    return step

def in_bf16(step, device):
    "The same under autocast, in bfloat16"
    def other():
        with torch.autocast(device.type, torch.bfloat16): step()
    return other

def ways(recipe:Recipe, n:int, compiled:bool)->dict: # name -> function without arguments
    "All ways to do a step of `n` networks"
    found = {PLAIN: plain(recipe, n), f'{PLAIN}, channels-last': plain(recipe, n, True), STACKED: stacked(recipe, n, n),
             ONES: stacked(recipe, n, 1)}
    if compiled: found[f'{PLAIN}, compiled'] = plain(recipe, n, compiled=True)
    half = {f'{k}, bf16': in_bf16(v, recipe.device) for k,v in found.items() if k!=ONES}
    return found | half

def measure(steps:dict, rounds:int, turn:int)->dict: # name -> seconds of a step, in each round
    "Lets all of them take their turns"
    seconds = {name: [] for name in steps}
    for _ in range(rounds):
        for name in random.sample(list(steps), len(steps)):
            start = perf_counter()
            for _ in range(turn): steps[name]()
            if torch.cuda.is_available(): torch.cuda.synchronize()
            seconds[name].append((perf_counter()-start)/turn)
    return seconds

def rows(case:tuple, seconds:dict)->list: # dicts
    base,found = np.array(seconds[PLAIN]),[]
    for way,s in seconds.items():
        q1,median,q3 = np.quantile(np.array(s)/base, [.25,.5,.75]).tolist()
        found.append(dict(network=case[0], size=case[1], way=way, median=median, q1=q1, q3=q3,
                          ms=1000*float(np.median(s)), seconds=s))
    return found

def report(result:dict, picture:str)->str:
    "The result as Markdown"
    cases = {}
    for o in result['rows']: cases.setdefault((o['network'], o['size']), {})[o['way']] = o
    lines = []
    for (network,size),by in cases.items():
        best,whole,ones = min(by, key=lambda k: by[k]['median']),by[STACKED]['median'],by[ONES]['median']
        choice = 'the whole stack' if whole<ones else '`batch_seeds=1`'
        lines.append(f"{network} on {size} pixels: stacked {1/whole:.2f} times as fast as one after another, and "
                     f"stacks of one {1/ones:.2f} times, so in `lottery_curve` {choice}; the fastest of all ways is "
                     f"{best}, {1/by[best]['median']:.2f} times as fast.")
    shown = table(['network', 'pixels', 'way', 'one after another = 1', 'middle half', 'ms a step of all'],
                  [[n, str(s), k, f'{o["median"]:.3f}', f'{o["q1"]:.3f} to {o["q3"]:.3f}', f'{o["ms"]:.1f}']
                   for (n,s),by in cases.items() for k,o in by.items()])
    body = f"""{result['n']} networks with first weights of their own, {result['bs']} images a batch, SGD with momentum;
medians of {result['rounds']} rounds, steps of a turn: {result['turn']}, on {result['device']}. `lottery_curve` stacks
`batch_seeds` networks; with `batch_seeds=1` it trains stacks of one. The ways in bfloat16 are under `torch.autocast`,
and `lottery_curve` has none of them: their numbers are others. Those that are compiled are so by `torch.compile`, whose
first steps aren't counted; without a C++ compiler they're left out.

{shown}"""
    told = ' '.join([*lines, 'Nothing is promised here.'])
    return page('What stacking gains for convolutional networks', told, picture,
                'Time of a step by that of networks one after another, a bar a way', body, result['circumstances'])

def draw(path, result:dict):
    names = [f"{o['network']}, {o['size']} px: {o['way']}" for o in result['rows']]
    values = {k: (o['median'], o['q1'], o['q3']) for k,o in zip(names, result['rows'])}
    bars(path, values, 'time of a step, one after another = 1', {})

@call_parse
def main(
    n:int=8, # networks
    rounds:int=10, # turns of each way
    turn:int=2, # steps in a turn
    bs:int=60, # images in a batch
    width:int=4, # channels of the residual network's first third
    sizes:str='8,16,32', # pixels, height and width
    quick:store_true=False, # small, to see that it runs
    json:str=None, # file for all results, with the seconds of every turn
    markdown:str=None # file for the page; its picture comes beside it
):
    "What stacking gains for convolutional networks, on the GPU if there is one"
    if quick: n,rounds,turn,bs,width,sizes = 2,2,1,20,2,'8'
    found = []
    with circumstances() as about:
        for case,make in networks([int(o) for o in sizes.split(',')], width).items():
            torch.manual_seed(0)
            data = [(torch.randn(bs, 3, case[1], case[1]), torch.arange(bs)%10) for _ in range(2)]
            recipe = Recipe(make, data, bs=bs, opt='sgd', lr=.01)
            steps = ways(recipe, n, has_compiler and not quick)
            measure(steps, 1, 1)
            found += rows(case, measure(steps, rounds, turn))
    device = torch.cuda.get_device_name() if recipe.device.type=='cuda' else 'the CPU'
    result = dict(circumstances=about, n=n, rounds=rounds, turn=turn, bs=bs, device=device, rows=found)
    write(result, report, draw, markdown, json)
