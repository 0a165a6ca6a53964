"""What a GPU changes: steps under masks, many networks in a stack, kernels for 2:4, photos in the GPU's memory

The parts are those of overhead.py, replicates.py, conv.py and photos.py, with sizes for a GPU; the kernels are
measured here alone. Whatever is compared takes turns; what's reported are medians of ratios within a turn.

    python benchmarks/gpu.py                   some minutes, with Imagenette
    python benchmarks/gpu.py --markdown gpu.md the page and its picture as files
    python benchmarks/gpu.py --json gpu.json   the same with the seconds of every turn
    python benchmarks/gpu.py --parts kernels   some of the parts: steps, at_once, kernels, photos
    python benchmarks/gpu.py --quick           small, without a GPU too, but for the kernels: that it runs, not how fast
"""
import sys, tempfile
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path

import conv, numpy as np, overhead, photos, replicates, torch
from _page import bars, circumstances, in_turn, page, promise, quartiles, synchronized, table, write
from fastcore.script import call_parse, store_true
from torch import nn
from torchvision.models import resnet18

from lottery_nb.classics import cifar_resnet, conv2
from lottery_nb.n_of_m import semi_structured
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.stacked import Recipe

STEP = overhead.PROMISES['constant'] # a step under a constant mask by a dense one, at most
SHAPES = (1,4096,4096), (256,4096,4096), (3072,10_240,3072), (8192,4096,16_384) # rows, inputs, outputs
has_gpu = torch.cuda.is_available()

def steps(quick:bool)->list: # dicts
    "Steps under a constant mask and dense ones, a row an optimizer and tool"
    sizes = overhead.QUICK if quick else overhead.Sizes(size=128, rounds=100, warmup=10)
    return [row for k in overhead.OPTIMIZERS
            for row in overhead.step_rows(overhead.measure_steps(sizes, False, k), optimizer=k)]

def at_once(quick:bool)->list: # dicts
    "Networks in a stack beside one after another, a row a network"
    sizes = replicates.QUICK if quick else replicates.Sizes(rounds=3, steps=200, repeats=1)
    with redirect_stderr(StringIO()): ratios = replicates.ratios(dict(sizes=dict(seeds=sizes.seeds),
                                                                      **replicates.measure(sizes)), 'alone')
    found = [dict(network='digits_mlp, a whole `lottery_curve`', n=sizes.seeds, bs=60, **quartiles(ratios))]
    n,bs,rounds,turn = (2,20,2,2) if quick else (10,128,5,3)
    for name,make in {'conv2, a step': conv2, 'cifar_resnet(20), a step': partial(cifar_resnet, 20)}.items():
        data = [(torch.randn(bs, 3, 32, 32), torch.arange(bs)%10) for _ in range(2)]
        ways = conv.ways(Recipe(make, data, bs=bs, opt='sgd', lr=.01), n, compiled=False)
        ways = {k: ways[k] for k in (conv.PLAIN, conv.STACKED)}
        conv.measure(ways, 1, 2)
        seconds = conv.measure(ways, rounds, turn)
        found.append(dict(network=name, n=n, bs=bs, seconds=seconds,
                          **quartiles(np.array(seconds[conv.PLAIN])/np.array(seconds[conv.STACKED]))))
    return found

def kernels(quick:bool, turns:int=20, times:int=20)->list: # dicts
    "Linear layers with PyTorch's kernels for 2:4 beside the same as dense ones, a row a shape; without a GPU none"
    found = []
    for rows,n_in,n_out in SHAPES if has_gpu else ():
        net = nn.Sequential(nn.Linear(n_in, n_out)).half().cuda().eval()
        Sparsifier(net, '2:4').sparsify(50)
        x = torch.rand(rows, n_in, device='cuda').half()
        fast = semi_structured(net, x)
        @torch.inference_mode()
        def run(model, _turn, x=x):
            for _ in range(times): model(x)
        calls = {k: partial(synchronized, run, o) for k,o in dict(dense=net, sparse=fast.model).items()}
        in_turn(calls, 3)
        took = {k: np.array([s for s,_ in o])/times for k,o in in_turn(calls, turns).items()}
        found.append(dict(rows=rows, n_in=n_in, n_out=n_out, difference=fast.difference,
                          us={k: 1e6*float(np.median(s)) for k,s in took.items()},
                          **quartiles(took['dense']/took['sparse'])))
    return found

def batches(quick:bool)->list: # dicts
    "What photos cost, a row a loader"
    rounds,turn,size,bs = (2,2,16,8) if quick else (10,10,128,64)
    with tempfile.TemporaryDirectory() as folder:
        if quick: photos.made_up(Path(folder))
        loaders = photos.loaders(Path(folder) if quick else None, size, bs)
        x,_ = next(loaders[photos.BARE])
        net = resnet18(num_classes=10).to(x.device, memory_format=torch.channels_last)
        train = partial(photos.step, net, torch.optim.Adam(net.parameters()))
        photos.measure(train, loaders, 1, 2)
        return photos.rows(photos.measure(train, loaders, rounds, turn))

PARTS = dict(steps=steps, at_once=at_once, kernels=kernels, photos=batches)

def findings(result:dict): # yields sentences
    "What each part found, if it was measured"
    if step := {o['optimizer']: o['median'] for o in result.get('steps', ()) if o['tool']=='lottery_nb'}:
        yield f"""Under a constant mask a step takes {step['Adam']:.2f} times as long as a dense one with fastai's
Adam and {step['fused']:.2f} times with a fused one. {promise(f'at most {STEP}', max(step.values())<=STEP)}"""
    if stacks := [f"{o['network']}: {o['median']:.2f} times" for o in result.get('at_once', ())]:
        yield f"Networks in a stack, as fast as one after another by: {'; '.join(stacks)}."
    if ours := [o['median'] for o in result.get('photos', ()) if o['loader']==photos.OURS]:
        yield f"""With photos in memory a step takes {ours[0]:.2f} times as long as on a batch that's there.
{promise(f'at most {photos.PROMISE}', ours[0]<=photos.PROMISE)}"""
    if sparse := [o['median'] for o in result.get('kernels', ())]:
        yield f"""Linear layers with kernels for 2:4 are {min(sparse):.2f} to {max(sparse):.2f} times as fast as dense
ones, by their size. Nothing is promised of them."""
    if not result['gpu']: yield 'There is no GPU here, so all of this says nothing of one.'

def tables(result:dict): # yields texts
    "The tables of the parts that were measured"
    def middle(o): return f'{o["q1"]:.3f} to {o["q3"]:.3f}'
    if rows := result.get('steps'):
        yield f"""## A step under a mask

A ResNet-18, {overhead.SPARSITY} % of its weights pruned, and all that fastai's loop does between two batches."""
        yield table(['optimizer', 'tool', 'dense = 1', 'middle half', 'ms a step'],
                    [[o['optimizer'], o['tool'], f'{o["median"]:.3f}', middle(o), f'{o["milliseconds"]:.1f}']
                     for o in rows])
    if rows := result.get('at_once'):
        yield '## Many networks at once'
        yield table(['network', 'networks', 'images a batch', 'times as fast', 'middle half'],
                    [[o['network'], str(o['n']), str(o['bs']), f'{o["median"]:.2f}', middle(o)] for o in rows])
    if rows := result.get('kernels'):
        yield """## Kernels for 2:4

Linear layers in half precision, half of their weights pruned, and the largest difference of the outputs."""
        yield table(['rows', 'inputs', 'outputs', 'times as fast', 'middle half', 'dense, µs', '2:4, µs', 'difference'],
                    [[*(f'{o[k]:,}' for k in ('rows','n_in','n_out')), f'{o["median"]:.2f}', middle(o),
                      *(f'{t:.0f}' for t in o['us'].values()), f'{o["difference"]:.1e}'] for o in rows])
    if rows := result.get('photos'):
        yield "## Photos in memory\n\nA ResNet-18 in channels-last layout with PyTorch's Adam."
        yield table(['batches', 'bare = 1', 'middle half', 'ms a batch'],
                    [[o['loader'], f'{o["median"]:.3f}', middle(o), f'{o["ms"]:.1f}'] for o in rows])

def report(result:dict, picture:str)->str:
    "The result as Markdown"
    return page('What a GPU changes', '\n\n'.join(findings(result)), picture, 'Ratios of times, a bar a comparison',
                '\n\n'.join(tables(result)), result['circumstances'])

def draw(path, result:dict):
    steps = {f"a step under a mask, {o['optimizer']}": o for o in result.get('steps', ()) if o['tool']=='lottery_nb'}
    loads = {'a step with photos in memory': o for o in result.get('photos', ()) if o['loader']==photos.OURS}
    rest = {f"{o['network']}: times as fast": o for o in result.get('at_once', ())}
    rest |= {f"2:4, {o['rows']} × {o['n_in']} × {o['n_out']}: times as fast": o for o in result.get('kernels', ())}
    bars(path, {k: (o['median'], o['q1'], o['q3']) for k,o in (steps | loads | rest).items()}, 'ratio of times',
         dict.fromkeys(steps, STEP) | dict.fromkeys(loads, photos.PROMISE))

@call_parse
def main(
    parts:str=','.join(PARTS), # which
    quick:store_true=False, # small, to see that it runs
    json:str=None, # file for all results, with the seconds of every turn
    markdown:str=None # file for the page; its picture comes beside it
):
    "What a GPU changes"
    if not (quick or has_gpu): sys.exit('gpu.py: there is no CUDA GPU here')
    if set(parts.split(','))-set(PARTS): sys.exit(f'gpu.py: --parts {parts}: expected some of {",".join(PARTS)}')
    with circumstances('torchvision', 'fastai') as about: result = {k: PARTS[k](quick) for k in parts.split(',')}
    write(dict(result, gpu=has_gpu, circumstances=about), report, draw, markdown, json)
