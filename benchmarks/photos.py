"""What photos cost: steps on batches that come from each kind of loader, by the same steps on a batch that's there

All take turns of some batches, in an order that is shuffled anew in each round; what's reported are ratios within a
round. The network is in PyTorch's channels-last layout, and so are the bare steps.

    python benchmarks/photos.py                        some five minutes on two cores, with Imagenette
    python benchmarks/photos.py --markdown photos.md   the page and its picture as files
    python benchmarks/photos.py --json photos.json     the same with the seconds of every turn
    python benchmarks/photos.py --quick                a few seconds, made-up photos: that it runs, not how fast
"""
import os, random, tempfile
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import numpy as np, torch
from fastcore.script import call_parse, store_true
from PIL import Image
from torch import nn
from torchvision.models import resnet18
from _page import bars, circumstances, page, promise, quartiles, table, timed, write

from lottery_nb.data import imagenette_dls

PROMISE = 1.05 # an epoch by its bare steps, at most
BARE,OURS = 'bare steps','lottery_nb, cache=True'

def made_up(folder:Path, n:int=24):
    "Folders of noise as photos"
    rng = np.random.default_rng(0)
    for part,name,i in ((p, c, i) for p in ('train','val') for c in 'ab' for i in range(n)):
        (folder/part/name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40,50,3), dtype=np.uint8)).save(folder/part/name/f'{i}.jpg')

def loaders(path, size:int, bs:int)->dict: # name -> endless batches
    "Batches of all kinds, on the CPU or the GPU"
    n = os.cpu_count()
    made = {OURS: dict(seed=0, cache=True), 'lottery_nb, seeded, from files': dict(seed=0, num_workers=n),
            "fastai's own, from files": dict(num_workers=n), "fastai's own, without workers": dict(num_workers=0)}
    dls = {name: imagenette_dls(size, bs, path, **how) for name,how in made.items()}
    endless = {name: chain.from_iterable(repeat(o.train)) for name,o in dls.items()}
    return {BARE: repeat(dls[OURS].one_batch()), **endless}

def step(net, opt, x, y):
    nn.functional.cross_entropy(net(x.as_subclass(torch.Tensor)), y.as_subclass(torch.Tensor)).backward()
    opt.step()
    opt.zero_grad()
    if torch.cuda.is_available(): torch.cuda.synchronize()

def measure(train, batches:dict, rounds:int, turn:int)->dict: # name -> seconds a batch of each round
    "Lets all of them take their turns"
    seconds = {name: [] for name in batches}
    for _ in range(rounds):
        for name in random.sample(list(batches), len(batches)):
            took,_ = timed(lambda name=name: [train(*next(batches[name])) for _ in range(turn)])
            seconds[name].append(took/turn)
    return seconds

def rows(seconds:dict)->list: # dicts
    bare = np.array(seconds[BARE])
    return [dict(loader=name, **quartiles(np.array(s)/bare), ms=1000*float(np.median(s)), seconds=s)
            for name,s in seconds.items()]

def report(result:dict, picture:str)->str:
    "The result as Markdown"
    r = {o['loader']: o for o in result['rows']}
    ours = r[OURS]['median']
    others = min(o['median'] for k,o in r.items() if k not in (BARE,OURS))
    finding = f"""With the photos in memory a step takes {ours:.2f} times as long as on a batch that's there, and from
files at least {others:.2f} times. {promise(f'at most {PROMISE}', ours<=PROMISE)}"""
    shown = table(['batches', 'bare = 1', 'middle half', 'ms a batch'],
                  [[k, f'{o["median"]:.3f}', f'{o["q1"]:.3f} to {o["q3"]:.3f}', f'{o["ms"]:.0f}']
                   for k,o in r.items()])
    body = f"""A ResNet-18 in channels-last layout, {result['bs']} photos of {result['size']} pixels a batch, Adam;
medians of {result['rounds']} rounds of {result['turn']} batches each. In memory the photos take
{result['bytes']/1e6:,.0f} MB.

{shown}"""
    return page('What photos cost', finding, picture, 'Time of a step by that of a bare one, a bar a loader', body,
                result['circumstances'])

def draw(path, result:dict):
    values = {o['loader']: (o['median'], o['q1'], o['q3']) for o in result['rows']}
    bars(path, values, 'time of a step, bare = 1', {OURS: PROMISE})

@call_parse
def main(
    rounds:int=12, # turns of each kind
    turn:int=10, # batches in a turn
    size:int=64, # pixels, height and width
    bs:int=64, # photos in a batch
    quick:store_true=False, # made-up photos, to see that it runs
    json:str=None, # file for all results, with the seconds of every turn
    markdown:str=None # file for the page; its picture comes beside it
):
    "What photos cost: steps with batches from each kind of loader"
    if quick: rounds,turn,size,bs = 2,2,16,8
    with tempfile.TemporaryDirectory() as folder, circumstances('torchvision', 'fastai') as about:
        if quick: made_up(Path(folder))
        batches = loaders(Path(folder) if quick else None, size, bs)
        n_bytes = imagenette_dls(size, bs, Path(folder) if quick else None, cache=True).train.n_bytes
        x,y = next(batches[BARE])
        net = resnet18(num_classes=10).to(x.device, memory_format=torch.channels_last)
        train = partial(step, net, torch.optim.Adam(net.parameters()))
        measure(train, batches, 1, 2)
        found = rows(measure(train, batches, rounds, turn))
    result = dict(circumstances=about, rounds=rounds, turn=turn, size=size, bs=bs, bytes=n_bytes, rows=found)
    write(result, report, draw, markdown, json)
