"""Beside today's peers, in one run: a step under a mask, a mask, a curve, a cut network and a file

fasterai, Torch-Pruning, torch.nn.utils.prune and Lightning's ModelPruning, each where it does the thing at all, on the
same network and at the same sparsity as ours. All take their turns, in an order that is shuffled anew each time; what
is reported are medians of ratios within a turn.

    python benchmarks/peers.py                         about seven minutes on two cores
    python benchmarks/peers.py --markdown peers.md     the page and its picture as files
    python benchmarks/peers.py --json peers.json       the same with the time of every turn, and README's table
    python benchmarks/peers.py --quick                 a few seconds: shows that it runs, says nothing about speed

The peers: `pip install 'lottery_nb[bench]'`; who is not there is left out.
"""
import contextlib, copy, io, logging, sys, warnings
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable

import numpy as np, torch
from _page import (GREEN, GREY, chosen, circumstances, drawn, has_fasterai, has_lightning, has_torch_pruning, in_turn,
                   page, quartiles, table, write)
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import Adam
from fastcore.script import call_parse, store_true
from overhead import (PRUNABLE, PRUNERS, SPARSITY, measure_masks, n_weights, prunable, resnet, sparsity,
                      torch_pruner)
from shrink import ours as cut_by_us, theirs as cut_by_fasterai
from torch import nn

from lottery_nb.callback import SparsifyCallback
from lottery_nb.classics import cifar_resnet
from lottery_nb.criteria import large_final
from lottery_nb.curves import lottery_curve
from lottery_nb.data import digits_dls, digits_mlp
from lottery_nb.measure import count_macs
from lottery_nb.schedules import geometric
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket

if has_fasterai:
    from fasterai.core.criteria import large_final as their_large_final
    from fasterai.core.schedule import Schedule as TheirSchedule
    from fasterai.sparse.sparsifier import Sparsifier as TheirSparsifier
    from fasterai.sparse.sparsify_callback import SparsifyCallback as TheirCallback
if has_torch_pruning: import torch_pruning as tp
if has_lightning:
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import ModelPruning

OURS,FASTERAI,CUTTER,TORCH,LIGHTNING = 'lottery_nb','fasterai','Torch-Pruning','torch.nn.utils.prune','Lightning'
ALONE = "lottery_nb's callback" # a seed at a time
TOOLS = [o for o,there in ((OURS,True), (FASTERAI,has_fasterai), (CUTTER,has_torch_pruning), (TORCH,True),
                           (LIGHTNING,has_lightning)) if there]

def small(): return cifar_resnet(8, 16, 3, 10)

@dataclass(frozen=True)
class Sizes:
    "How much is measured"
    model:Callable = resnet # makes the network of all but the curve
    size:int = 64       # pixels, height and width of an image
    batch:int = 64      # images a batch
    steps:int = 60      # under a constant mask, of each tool
    warmup:int = 3      # steps, and one cut network, of each tool that are not counted
    masks:int = 7       # of each tool
    cuts:int = 5        # smaller networks of each tool
    sparsity:float = 50 # percent of the channels that are cut
    round_to:int = 8    # channels are kept in multiples of it
    seeds:int = 20      # of `lottery_curve`
    rounds:int = 8      # of pruning, after the dense one
    epochs:int = 17     # in each of them, of 23 batches of 60
    repeats:int = 5     # how often each takes its turn with the curve: seeds of those that do one at a time

FEW = dict(seeds=2, rounds=2, epochs=1, repeats=2) # of a curve
QUICK = Sizes(model=small, size=16, batch=8, steps=4, warmup=1, masks=2, cuts=2, **FEW)

def there(calls:dict)->dict: return {k: v for k,v in calls.items() if k in (*TOOLS, ALONE)}

def batches(sizes:Sizes, n:int=4)->list: # pairs of images and labels
    g,shape = torch.Generator().manual_seed(0),(sizes.batch,3,sizes.size,sizes.size)
    return [(torch.randn(shape, generator=g), torch.randint(0, 10, (sizes.batch,), generator=g)) for _ in range(n)]

def row(tool:str, seconds:list, base:list, **more)->dict:
    "What came out for one tool: quartiles of its ratio to `base`, turn by turn"
    return dict(tool=tool, **quartiles(np.array(seconds)/np.array(base)), typical=float(np.median(seconds)), **more,
                seconds=seconds)

# --- A mask, and a step under it --------------------------------------------------------------------------------------

def lightning_pruning(net:nn.Module, **how):
    "Lightning's callback for all layers that we prune"
    return ModelPruning('l1_unstructured', [(m,'weight') for m in prunable(net)], **how)

def lightning_pruner(net:nn.Module)->Callable: # percent -> None
    pruning = lightning_pruning(net, use_lottery_ticket_hypothesis=False)
    return lambda percent: pruning.apply_pruning(percent/100)

def mask_rows(model:nn.Module, sizes:Sizes)->list: # dicts
    seconds = measure_masks(model, 0, sizes.masks, there({**PRUNERS, LIGHTNING: lightning_pruner}))
    return [row(o, s, seconds[OURS]) for o,s in seconds.items()]

def sparsifier(net:nn.Module)->Sparsifier: return Sparsifier(net, 'weight', 'global', large_final)
def their_sparsifier(net:nn.Module): return TheirSparsifier(net, 'weight', 'global', their_large_final,
                                                            layer_type=PRUNABLE)

def hold_ours(net:nn.Module, opt):
    sp = sparsifier(net)
    sp.sparsify(SPARSITY)
    sp.watch(opt)

def hold_fasterai(net:nn.Module, opt)->Callable:
    sp = their_sparsifier(net)
    sp.sparsify_model(SPARSITY/100)
    return sp._apply_masks # what its callback calls after a step; for another loop it has no other name

def hold_torch(net:nn.Module, opt): torch_pruner(net)(SPARSITY)
# Its hooks are those of torch.nn.utils.prune, and it does nothing else in a step: tests/test_peers.py
def hold_lightning(net:nn.Module, opt): lightning_pruner(net)(SPARSITY)
def hold_nothing(net:nn.Module, opt): pass

def stepper(net:nn.Module, data:list, hold:Callable=hold_nothing)->Callable: # number -> None
    "A step of a plain loop; what `hold` gives is done after it"
    opt,loss = torch.optim.AdamW(net.parameters(), fused=True),nn.CrossEntropyLoss()
    after = hold(net, opt) or (lambda: None)
    def step(i):
        x,y = data[i%len(data)]
        opt.zero_grad()
        loss(net(x), y).backward()
        opt.step()
        after()
    return step

def step_rows(model:nn.Module, sizes:Sizes)->list: # dicts
    holds = there({OURS: hold_ours, FASTERAI: hold_fasterai, TORCH: hold_torch, LIGHTNING: hold_lightning})
    holds = {'dense': hold_nothing, 'dense again (the noise)': hold_nothing, **holds}
    nets,data = {o: copy.deepcopy(model) for o in holds},batches(sizes)
    done = in_turn({o: stepper(nets[o], data, h) for o,h in holds.items()}, sizes.warmup+sizes.steps)
    seconds = {o: [s for s,_ in found[sizes.warmup:]] for o,found in done.items()}
    return [row(o, s, seconds['dense'], sparsity=sparsity(nets[o])) for o,s in seconds.items()]

def trained(model:nn.Module, sizes:Sizes)->nn.Module:
    "A copy after three steps, so that no weight is what it was, and no statistic of BatchNorm"
    model,data = copy.deepcopy(model),batches(sizes)
    step = stepper(model, data)
    for i in range(3): step(i)
    return model

# --- A curve ----------------------------------------------------------------------------------------------------------

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

def by_callback(make, sizes:Sizes, seed:int)->tuple: # sparsity in percent, accuracy in percent
    "A whole search in one `fit`"
    torch.manual_seed(seed)
    how = dict(metrics=accuracy, lr=1.2e-3, opt_func=Adam, wd=0., cbs=make(sizes))
    learn = Learner(digits_dls(bs=60, seed=seed).cpu(), digits_mlp(), **how)
    with learn.no_bar(), learn.no_logging(), contextlib.redirect_stdout(io.StringIO()):
        learn.fit(sizes.epochs*(sizes.rounds+1))
    return sparsity(learn.model), 100*learn.recorder.values[-1][2]

if has_lightning:
    class Lit(pl.LightningModule):
        "A network as Lightning takes it"
        def __init__(self, net):
            super().__init__()
            self.net,self.loss = net,CrossEntropyLossFlat() # of fastai, as the batches are
        def training_step(self, batch, i): return self.loss(self.net(batch[0]), batch[1])
        def validation_step(self, batch, i): self.log('accuracy', accuracy(self.net(batch[0]), batch[1]))
        def configure_optimizers(self): return torch.optim.Adam(self.parameters(), 1.2e-3)

def by_lightning(sizes:Sizes, seed:int)->tuple: # sparsity in percent, accuracy in percent
    "A whole search in one `fit`; only the first rewind brings the first weights back"
    torch.manual_seed(seed)
    dls,net,n = digits_dls(bs=60, seed=seed).cpu(),digits_mlp(),sizes.epochs
    ends = {n*(i+1)-1 for i in range(sizes.rounds)} # epochs after which it prunes
    pruning = lightning_pruning(net, amount=.2, apply_pruning=lambda epoch: epoch in ends)
    trainer = pl.Trainer(max_epochs=n*(sizes.rounds+1), accelerator='cpu', callbacks=pruning, logger=False,
                         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Lit(net), dls.train, dls.valid)
    return sparsity(net), 100*float(trainer.callback_metrics['accuracy'])

def batched(sizes:Sizes, seed:int)->tuple: # sparsity in percent, accuracy in percent
    "All seeds in one pass, from `1000*seed` on, so that every turn has its own"
    steps = sizes.epochs*(1437//60)
    seeds = [1000*seed+i for i in range(sizes.seeds)]
    df = lottery_curve(digits_mlp, digits_dls(), seeds, sizes.rounds, arms='ticket', n_step=steps, eval_every=1437//60,
                       batch_seeds=sizes.seeds, progress=False)
    last = df[(df['round']==sizes.rounds) & (df.step==steps) & (df.metric=='accuracy')]
    return 100-last.density.mean(), 100*last.value.mean()

def curve_rows(sizes:Sizes)->list: # dicts
    "Seconds are those of one seed"
    def calls(sizes):
        by = {ALONE: partial(by_callback, ours), FASTERAI: partial(by_callback, theirs), LIGHTNING: by_lightning}
        return {o: partial(f, sizes) for o,f in there({OURS: batched, **by}).items()}
    in_turn(calls(replace(sizes, **FEW)), 1) # for warming up
    found = []
    for tool,done in in_turn(calls(sizes), sizes.repeats).items():
        n = sizes.seeds if tool==OURS else 1
        sparse,right = np.mean([o for _,o in done], 0)
        seconds = [s/n for s,_ in done]
        found.append(row(tool, seconds, found[0]['seconds'] if found else seconds, seeds=n, sparsity=float(sparse),
                         accuracy=float(right)))
    return found

# --- A cut network ----------------------------------------------------------------------------------------------------

def cut_by_torch_pruning(model:nn.Module, sizes:Sizes, x:torch.Tensor)->nn.Module:
    model = copy.deepcopy(model)
    tp.pruner.MagnitudePruner(model, x[:1], tp.importance.MagnitudeImportance(), pruning_ratio=sizes.sparsity/100,
                              round_to=sizes.round_to, ignored_layers=prunable(model)[-1:]).step()
    return model.eval()

def cut_rows(model:nn.Module, sizes:Sizes)->list: # dicts
    "The first turn is for warming up"
    model,x = trained(model, sizes).eval(),batches(sizes, 1)[0][0][:2]
    cuts = there({OURS: cut_by_us, FASTERAI: cut_by_fasterai, CUTTER: cut_by_torch_pruning})
    done = in_turn({o: lambda i, fn=fn: fn(model, sizes, x) for o,fn in cuts.items()}, 1+sizes.cuts)
    dense,found = count_macs(model, x[:1]).total,[]
    for tool in cuts:
        seconds,(*masked,net) = [s for s,_ in done[tool][1:]],done[tool][-1][1] if tool==OURS else [done[tool][-1][1]]
        with torch.no_grad(): differ = [float((net(x)-o(x)).abs().max()) for o in masked]
        macs = count_macs(net, x[:1]).total
        found.append(row(tool, seconds, found[0]['seconds'] if found else seconds, macs=macs, fewer=dense/macs,
                         parameters=sum(p.numel() for p in net.parameters()), difference=differ[0] if differ else None))
    return found

# --- A file -----------------------------------------------------------------------------------------------------------

def file_ours(net:nn.Module, train:Callable, path:Path, trained:bool=True)->list: # the tensors in it
    sp = sparsifier(net)
    sp.save_weights()
    train(net)
    sp.sparsify(SPARSITY)
    ticket = Ticket.load(sp.ticket.save(path, trained=trained))
    return [*ticket.state.values(), *(ticket.trained or {}).values()]

def file_fasterai(net:nn.Module, train:Callable, path:Path, ticket:bool=False)->list:
    sp = their_sparsifier(net)
    train(net)
    sp.sparsify_model(SPARSITY/100)
    if ticket: sp.save_model(path)
    else: torch.save(net.state_dict(), path)
    found = torch.load(path, weights_only=not ticket)
    return [*(found.state_dict() if ticket else found).values()]

def file_torch(net:nn.Module, train:Callable, path:Path)->list:
    train(net)
    torch_pruner(net)(SPARSITY)
    torch.save(net.state_dict(), path)
    return [*torch.load(path).values()]

def file_lightning(net:nn.Module, train:Callable, path:Path)->list:
    "What its callback leaves of a checkpoint, alone"
    pruning,checkpoint = lightning_pruning(net),{}
    train(net)
    pruning.apply_pruning(SPARSITY/100)
    pruning.on_save_checkpoint(None, Lit(net), checkpoint)
    torch.save(checkpoint, path)
    return [*torch.load(path)['state_dict'].values()]

FILES = {(OURS,'`Ticket.save`'): file_ours, (OURS,'`Ticket.save`, `trained=False`'): partial(file_ours, trained=False),
         (FASTERAI,'`state_dict`'): file_fasterai, (FASTERAI,'`save_model`'): partial(file_fasterai, ticket=True),
         (TORCH,'`state_dict`'): file_torch, (LIGHTNING,'its checkpoint'): file_lightning}

def file_rows(model:nn.Module, sizes:Sizes)->list: # dicts
    """What everybody's file of the same network holds: of the weights that are kept, the values before the training
    (the rewind point), and after it"""
    after,found = trained(model, sizes),[]
    def train(net): net.load_state_dict(after.state_dict(), strict=False) # fasterai's network has buffers of its own
    for (tool,by),save in FILES.items():
        if tool not in TOOLS: continue
        with TemporaryDirectory() as folder:
            net,path = copy.deepcopy(model),Path(folder)/'file'
            tensors = save(net, train, path)
            masks = [m.weight!=0 for m in prunable(net)]
            def holds(of):
                return all(any(t.shape==m.shape and torch.equal(t*m, w.weight*m) for t in tensors)
                           for w,m in zip(prunable(of), masks))
            found.append(dict(tool=tool, by=by, bytes=path.stat().st_size, rewind=holds(model), trained=holds(after)))
    for r in found: r['times'] = r['bytes']/found[0]['bytes']
    return found

# --- The page ---------------------------------------------------------------------------------------------------------

def by_tool(rows:list)->dict: return {r['tool']: r for r in rows}
def inside(r:dict)->str: return ' and '.join(o for o in ('rewind point','trained') if r[o.split()[0]]) or 'neither'
def size(r:dict)->str: return f"{r['bytes']/1e6:.1f} MB"

def told(result:dict)->str:
    "README's table: a row a thing, a column a tool"
    steps,masks,curves,cuts = (by_tool(result[o]) for o in ('steps','masks','curves','cuts'))
    def ratio(rows): return lambda o: f"{rows[o]['median']:.2f}"
    def curve(o): return ratio(curves)(o) + f", by its callback {curves[ALONE]['median']:.2f}"*(o==OURS)
    def cut(o): return ratio(cuts)(o) + f", {cuts[o]['fewer']:.2f} times fewer multiply-adds"
    def files(o): return ', or '.join(f'{size(r)}: {inside(r)}' for r in result['files'] if r['tool']==o)
    lines = {f'a step under a constant mask of {SPARSITY} %, dense = 1': (steps, ratio(steps)),
             f'a global mask of {SPARSITY} %, seconds, lottery_nb = 1': (masks, ratio(masks)),
             'a curve, seconds a seed, lottery_nb = 1': (curves, curve),
             f"{result['sizes']['sparsity']:g} % of the channels cut out, seconds, lottery_nb = 1": (cuts, cut),
             'the file, and which weights are in it': (by_tool(result['files']), files)}
    return table(['', *TOOLS], [[what, *(say(o) if o in rows else '–' for o in TOOLS)]
                                for what,(rows,say) in lines.items()])

def beside(rows:list)->str:
    "How many seconds others take for each one of ours"
    return ', '.join(f"{r['median']:.2f} with {r['tool']}" for r in rows if r['tool']!=OURS)

def report(result:dict, picture:str)->str:
    "All of it as Markdown"
    s,steps = result['sizes'],by_tool(result['steps'])
    others = ', '.join(f"{r['median']:.2f} with {o}" for o,r in steps.items() if o in TOOLS[1:])
    seconds = {'a mask': 'masks', 'a seed of a curve': 'curves', 'cutting channels out': 'cuts'}
    finding = f"""Under a constant mask of {SPARSITY} % a step takes {steps[OURS]['median']:.2f} times as long as a
dense one with lottery_nb, {others}. For each second that lottery_nb takes,
{'; '.join(f"{what} takes {beside(result[k])}" for what,k in seconds.items() if len(result[k])>1)}.
Nothing is promised of these ratios."""
    def middle(r): return [f"{r['median']:.2f}", f"{r['q1']:.2f} to {r['q3']:.2f}"]
    step_table = table(['tool', 'dense = 1', 'middle half', 'ms a step', 'sparsity'],
        [[r['tool'], *middle(r), f"{1000*r['typical']:.1f}", f"{r['sparsity']:.2f} %"] for r in result['steps']])
    mask_table = table(['tool', 'lottery_nb = 1', 'middle half', 'seconds'],
        [[r['tool'], *middle(r), f"{r['typical']:.4f}"] for r in result['masks']])
    curve_table = table(['tool', 'seeds at once', 'lottery_nb = 1', 'middle half', 'seconds a seed', 'sparsity'],
        [[r['tool'], str(r['seeds']), *middle(r), f"{r['typical']:.2f}", f"{r['sparsity']:.2f} %"]
         for r in result['curves']])
    cut_table = table(['tool', 'lottery_nb = 1', 'middle half', 'seconds', 'parameters', 'multiply-adds',
                       'times fewer', 'largest difference'],
        [[r['tool'], *middle(r), f"{r['typical']:.2f}", f"{r['parameters']:,}", f"{r['macs']:,}", f"{r['fewer']:.2f}",
          '–' if r['difference'] is None else f"{r['difference']:.0e}"] for r in result['cuts']])
    file_table = table(['tool', 'what it saves', 'bytes', 'lottery_nb = 1', 'weights in it'],
        [[r['tool'], r['by'], f"{r['bytes']:,}", f"{r['times']:.2f}", inside(r)] for r in result['files']])
    body = f"""{result['told']}

A dash is a thing that a tool has no call for. Torch-Pruning cuts channels, and nothing else that is here;
`torch.nn.utils.prune` and Lightning leave zeros, in layers that keep their shape; `torch.nn.utils.prune` rewinds
nothing. The network of all but the curve: {s['model']}, {result['weights']:,} prunable weights.

## A training step

A plain PyTorch loop with a fused AdamW, {s['batch']} images of {s['size']} by {s['size']} pixels, a global mask of
{SPARSITY} % over all conv and linear weights. Medians of {s['steps']} ratios to the dense step on the same batch. In
such a loop fasterai is what its callback does after a step; Lightning is the network as its `ModelPruning` leaves it,
with the hooks of `torch.nn.utils.prune`: of the callback itself nothing runs in a step.

{step_table}

## A mask

The first global mask of {SPARSITY} % by magnitude, {s['masks']} of each tool.

{mask_table}

## A curve

Iterative magnitude pruning of the 64-300-100-10 network on scikit-learn's digits: Adam, batches of 60, a dense round
and {s['rounds']} of pruning 20 % of what is left, {s['epochs']} epochs ({s['epochs']*(1437//60)} steps) each, measured
after every epoch; {s['repeats']} turns. lottery_nb is `lottery_curve`, all of its seeds in one pass: each thread of the
CPU trains a stack of them, and waits for no other, which counts when a core is busy. The others train a seed at a time,
and most of their seconds are the training loop's, fastai's or Lightning's, whoever prunes. What they do at a rewind
differs (biases, the optimizer's state, and Lightning's first weights are trained ones from its second rewind on), so
this is about time, and about nothing else.

{curve_table}

## A cut network

{s['sparsity']:g} % of the channels of every group, multiples of {s['round_to']} kept; {s['cuts']} networks of each
tool. lottery_nb masks first and cuts then: it looks for the groups twice, compares what every layer gives with the
masked network, and counts what was cut, all in its seconds. Largest difference: of the outputs from those of the
masked network, for two images; the others choose and cut at once, so they have no masked network.

{cut_table}

## A file

After three steps, at {SPARSITY} %. Weights in it: whether those that are kept can be found in it as they were before
the training, which is where a ticket goes back to, and as they are after it. Lightning's is the `state_dict` in the
checkpoint, by its default with the masks multiplied in.

{file_table}"""
    return page("Beside today's peers", finding, picture, 'What others take, lottery_nb = 1, a dot a tool', body,
                result['circumstances'])

def draw(path, result:dict):
    "All in units of ours, with the middle half"
    steps,values = by_tool(result['steps']),{}
    for tool in TOOLS:
        if tool not in steps: continue
        ratios = quartiles(np.array(steps[tool]['seconds'])/np.array(steps[OURS]['seconds']))
        values[f'step: {tool}'] = tuple(ratios[k] for k in ('median','q1','q3'))
    for what,key in (('mask','masks'), ('curve','curves'), ('cut','cuts')):
        for r in result[key]: values[f"{what}: {r['tool']}"] = r['median'],r['q1'],r['q3']
    for r in result['files']: values[f"file: {r['tool']}, {r['by'].replace('`', '')}"] = (r['times'],)*3
    with drawn(path, values, 'seconds, and bytes of a file; lottery_nb = 1') as ax:
        ax.axvline(1, color=GREEN, lw=1)
        for i,(name,(middle,low,high)) in enumerate(values.items()):
            ax.errorbar(middle, i, xerr=[[middle-low],[high-middle]], fmt='o', color=GREEN if OURS in name else GREY)
        ax.set_xscale('log')
        ax.xaxis.set_major_formatter('{x:g}')

@call_parse
def main(
    size:int=None, # pixels, height and width of an image (default 64)
    batch:int=None, # images a batch (default 64)
    steps:int=None, # under a constant mask, of each tool (default 60)
    masks:int=None, # of each tool (default 7)
    cuts:int=None, # smaller networks of each tool (default 5)
    seeds:int=None, # of `lottery_curve` (default 20)
    rounds:int=None, # of pruning (default 8)
    epochs:int=None, # of a round (default 17)
    repeats:int=None, # how often each takes its turn with the curve (default 5)
    quick:store_true=False, # little of everything, to see that it runs
    json:str=None, # file for all results, with the seconds of every turn
    markdown:str=None, # file for the page; its picture comes beside it
):
    "A step, a mask, a curve, a cut network and a file, beside today's peers"
    sizes = chosen(QUICK if quick else Sizes(), size=size, batch=batch, steps=steps, masks=masks, cuts=cuts,
                   seeds=seeds, rounds=rounds, epochs=epochs, repeats=repeats)
    logging.getLogger('pytorch_lightning').setLevel(logging.ERROR)
    warnings.filterwarnings('ignore', module='pytorch_lightning')
    torch.manual_seed(0)
    model = sizes.model()
    result = dict(sizes={**asdict(sizes), 'model': sizes.model.__name__}, weights=n_weights(model))
    measures = dict(steps=partial(step_rows, model), masks=partial(mask_rows, model), curves=curve_rows,
                    cuts=partial(cut_rows, model), files=partial(file_rows, model))
    with circumstances('torchvision', 'fastai', 'fasterai', 'torch-pruning', 'pytorch-lightning') as about:
        for what,rows in measures.items():
            result[what] = rows(sizes)
            print(f'measured: {what}', file=sys.stderr)
    result = dict(circumstances=about, told=told(result), **result)
    write(result, report, draw, markdown, json)
