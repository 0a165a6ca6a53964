"""Every network of torchvision that classifies, segments or detects, as it comes: is it pruned exactly, held at zero,
rewound and kept bit for bit, counted as published, cut in groups, shrunk to the same outputs, trained on and exported?

    python benchmarks/models.py                            all of them, the largest last: hours
    python benchmarks/models.py --names resnet18,vit_b_16  these
    python benchmarks/models.py --memory 8                 what needs more than 8 GB is refused, and says so
    python benchmarks/models.py --markdown models.md       the page and its picture as files
    python benchmarks/models.py --json models.json         the same; what is in it already isn't done anew
    python benchmarks/models.py --quick                    one small network: that it runs

Each network has a process of its own, so that one that takes too much ends alone. `tests/test_models.py` has the small
ones, by the same functions.
"""
import gc, resource, tempfile, warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from json import dumps, loads
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
import torch
from _page import GREEN, GREY, RED, circumstances, drawn, page, promise, write
from fastcore.script import call_parse, store_true
from torch import Tensor
from torchvision import models
from lottery_nb.all import Sparsifier, Ticket, count_macs, export_onnx, shrink
from lottery_nb.masks import named_tensors
from lottery_nb.ticket import same_bits

def names_of(module): return models.list_models(module=module)
def all_names(): return [k for m in (models, models.segmentation, models.detection) for k in names_of(m)]

class Network:
    "One of torchvision's networks with what is published of it, and what has been made of it so far"
    def __init__(self, name):
        self.name,self.kind = name,'classification'
        for kind in ('segmentation','detection'):
            if name in names_of(getattr(models, kind)): self.kind = kind
        self.published = min(models.get_model_weights(name), key=self._size)
        self.ops = self.published.meta['_ops'] # billions of multiply-adds
        self.n_params = self.published.meta['num_params']
        self.sp = self.start = self.net = self.masks = self.small = None

    def _size(self, weights):
        told = getattr(weights.transforms, 'keywords', {})
        size = told.get('crop_size') or told.get('resize_size') or (320 if '320' in self.name else 800)
        return size[0] if isinstance(size, list|tuple) else size

    def make(self):
        "The network, with fresh weights; noise for a head that is all 0, of which one could tell nothing"
        torch.manual_seed(0)
        kwargs = {} if self.kind=='classification' else dict(weights_backbone=None)
        if self.name in ('googlenet','inception_v3'): kwargs['init_weights'] = False
        if self.kind=='segmentation' and 'resnet' in self.name: kwargs['aux_loss'] = True # as what's published
        net = models.get_model(self.name, weights=None, **kwargs)
        for p in net.parameters():
            if p.dim()>1 and not p.any(): torch.nn.init.normal_(p, std=.02)
        return net

    def image(self, seed=0):
        "What it takes: noise; a detector a gray image, or the number of its boxes would be chance"
        size = self._size(self.published)
        if self.kind=='detection': return [torch.tensor([.485,.456,.406])[:,None,None].expand(3, size, size).clone()],
        return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))

    def finding(self):
        """The network as it is; a detector with heads for its boxes, whose multiply-adds depend on how many it finds,
        as one that finds none and as one that finds as many as it may: nobody has published how many it was"""
        for few in (True, False):
            net = self.make().eval()
            if hasattr(net, 'roi_heads'): net.roi_heads.score_thresh = float(few)
            if few and hasattr(net, 'roi_heads') and net.rpn.score_thresh: net.rpn.score_thresh = 1.
            yield net
            if not hasattr(net, 'roi_heads'): return

    def train(self, net):
        "A step of training"
        opt = torch.optim.SGD(net.parameters(), lr=.01, momentum=.9, weight_decay=.01)
        if self.kind=='detection':
            image, = self.image()[0]
            target = dict(boxes=torch.tensor([[30.,40,130,200]]), labels=torch.tensor([1]),
                          masks=torch.ones(1, *image.shape[1:], dtype=torch.uint8), keypoints=torch.full((1,17,3), 60.))
            loss = sum(net.train()([image, image], [target, target]).values())
        else:
            images = torch.cat([self.image(), self.image(1)])
            loss = sum((o-1).square().mean() for o in outputs(net.train()(images)))
        return opt,loss

def outputs(o): return [t for v in (o.values() if isinstance(o, dict) else o if isinstance(o, tuple) else [o])
                        if v is not None for t in (outputs(v) if not isinstance(v, Tensor) else [v])]

# What is looked at, one function a column, in this order. Each takes a `Network`, and may leave something in it

def exact(o):
    "Are exactly half of the weights pruned, and 0?"
    o.sp = Sparsifier(o.make())
    masks = o.sp.sparsify(50)
    return masks.n_kept==masks.n_weights-round(.5*masks.n_weights) and pruned_are_zero(o.sp)

def pruned_are_zero(sp): return not any(sp.weight(k)[~m].count_nonzero() for k,m in sp.masks.items())

def zeros(o):
    "Are they 0 after a step of training, and have the others moved?"
    opt,loss = o.train(o.sp.model)
    o.sp.watch(opt)
    loss.backward()
    before = {k: o.sp.weight(k).sum() for k in o.sp.masks}
    opt.step()
    return pruned_are_zero(o.sp) and any(o.sp.weight(k).sum()!=was for k,was in before.items())

def rewound(o):
    "Do all weights and buffers go back bit for bit, once they have changed, and the masks stay?"
    o.sp = None # a network at a time
    gc.collect()
    net = o.make()
    o.sp = Sparsifier(net)
    o.sp.save_weights()
    o.start = {k: t.clone() for k,t in named_tensors(net).items()}
    masks = o.sp.sparsify(50)
    for t in named_tensors(net).values(): t.data.add_(1)
    o.sp.rewind()
    want = {k: t.masked_fill(~masks[k], 0) if k in masks else t for k,t in o.start.items()}
    return same_bits(named_tensors(net), want)

def kept(o):
    "Is a ticket the same once it has been in a file?"
    ticket = Ticket(o.sp.masks, o.start)
    with tempfile.TemporaryDirectory() as d: return Ticket.load(ticket.save(f'{d}/t.safetensors'))==ticket

def macs(o):
    "Multiply-adds over the published ones"
    o.sp = o.start = None
    ratios = [count_macs(net, o.image()).total/1e9/o.ops for net in o.finding()]
    return min(ratios, key=lambda r: abs(r-1))

def group(o):
    "The percentage of the weights that went in groups, where 50 were asked for"
    o.net = o.make()
    o.masks = Sparsifier(o.net, 'group', example=o.image()).sparsify(50)
    return o.masks.sparsity

def smaller(o):
    "How many times fewer parameters a network has that lost its pruned channels"
    o.small = shrink(o.net, o.masks, o.image())
    return sum(p.numel() for p in o.net.parameters())/sum(p.numel() for p in o.small.parameters())

@torch.no_grad()
def equal(o):
    "Does it give what the masked network gives, for another image?"
    ys = [outputs(net.eval()(o.image(1))) for net in (o.net, o.small)]
    return all((a-b).abs().max()<=1e-3*a.abs().max() for a,b in zip(*ys, strict=True))

def trains(o):
    "Does a step of training leave it with finite numbers, a gradient among them?"
    opt,loss = o.train(o.small)
    loss.backward()
    opt.step()
    ps = [p for p in o.small.parameters() if p.grad is not None]
    return bool(loss.isfinite()) and any(p.grad.any() for p in ps) and all(p.isfinite().all() for p in ps)

def onnx(o):
    "Does an ONNX file of it give the same? Of the network as it was, where none is smaller"
    net = (o.small or o.net or o.make()).eval()
    with tempfile.TemporaryDirectory() as d: export_onnx(net, o.image(), f'{d}/small.onnx')
    return True

checks = dict(exact=exact, zeros=zeros, rewound=rewound, ticket=kept, macs=macs, group=group, smaller=smaller,
              equal=equal, trains=trains, onnx=onnx)
needs = dict(zeros='exact', ticket='rewound', smaller='group', equal='smaller', trains='smaller')

def said(e):
    "The first line of an error, with its type if it isn't one by which something is refused"
    line = str(e).split('\n')[0][:200]
    if isinstance(e, MemoryError) or "can't allocate memory" in line: return 'more memory than it may have'
    return line if isinstance(e, ValueError|TypeError) else f'{type(e).__name__}: {line}'

def look(name):
    "A row of the table: what held; and what was refused: the column -> the reason, and the seconds until it was given"
    o,start = Network(name),perf_counter()
    row = dict(name=name, kind=o.kind, ops=o.ops, refused={})
    for key,check in checks.items():
        if needs.get(key, 'name') not in row: continue
        begun = perf_counter()
        try:
            with warnings.catch_warnings(action='ignore'): row[key] = check(o)
        except Exception as e: row['refused'][key] = [said(e), perf_counter()-begun]
        gc.collect()
    return row | dict(seconds=perf_counter()-start, gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20)

def limit_memory(gb): resource.setrlimit(resource.RLIMIT_DATA, (int(gb*2**30),)*2)

def look_alone(name, gb):
    "The row of a network, from a process that may have so much memory"
    start = perf_counter()
    with ProcessPoolExecutor(1, get_context('spawn'), limit_memory, (gb,)) as pool:
        try: return pool.submit(look, name).result()
        except BrokenProcessPool:
            told = dict(process=['it was ended by the system, for want of memory as a rule', perf_counter()-start])
            return dict(name=name, kind=Network(name).kind, refused=told, seconds=perf_counter()-start)

# The table

def as_published(row): return abs(row['macs']-1)<=.005 or abs(row['macs']-1)*row['ops']<=.0006 # three digits are given
def as_asked(row): return abs(row['group']-50)<=.1

right = dict(macs=as_published, group=as_asked, smaller=lambda row: True) # what else than True is as it should be
def is_right(row, key): return right.get(key, lambda row: row[key] is True)(row)

def fate(row, key):
    "What became of a check; what needs one that was refused is refused, too"
    return 'refused' if key not in row else 'as it should be' if is_right(row, key) else 'not as it should be'

fates = {'as it should be': GREEN, 'refused': GREY, 'not as it should be': RED}

columns = dict(exact='exact', zeros='stay 0', rewound='rewound', ticket='ticket', macs='MACs ÷ published',
               group='groups, % of 50 asked', smaller='times smaller', equal='same outputs', trains='trains on',
               onnx='ONNX', seconds='seconds', gb='GB')

def cell(row, key):
    "A value as text; bold if it isn't what it should be"
    if key not in row: return ''
    v = row[key]
    if isinstance(v, bool): text = 'yes' if v else 'no'
    else: text = f'{v:.{dict(macs=3, group=2, seconds=0).get(key, 1)}f}'
    return text if key not in checks or is_right(row, key) else f'**{text}**'

def report(result, picture):
    "The result as Markdown"
    rows,shown = result['rows'],['| network | ' + ' | '.join(columns.values()) + ' | refused |']
    shown.append('|---'*(len(columns)+2) + '|')
    for r in rows:
        refused = '; '.join(f'{k}: {why} ({s:.1f} s)'.replace('|', '/') for k,(why,s) in r['refused'].items())
        shown.append(f"| {r['name']} | " + ' | '.join(cell(r, k) for k in columns) + f' | {refused} |')
    found = [{fate(r, k) for k in checks} for r in rows]
    whole,refused,wrong = (sum(bool(of(o)) for o in found) for of in (
        lambda o: o=={'as it should be'}, lambda o: 'refused' in o, lambda o: 'not as it should be' in o))
    finding = f"""Of {len(rows)} networks, of torchvision's {len(all_names())}, {whole} are as they should be in
every check; {refused} are refused some of them, with the reason, and {wrong} aren't as they should be in some.
{promise('that each check holds or is refused', not wrong)}"""
    table = '\n'.join(shown)
    body = f"""Sparsity 50 %, one image each. Bold is what isn't as it should be. Multiply-adds: within 0.5 % of what
torchvision publishes, or of the last digit of it; a detector's are for a gray image, with no box found in it or as many
as may be, whichever is nearer. ONNX: of the smaller network; of the network as it was, where none is smaller.

{table}"""
    return page('torchvision, network by network', finding, picture, 'How many networks hold in each check', body,
                result['circumstances'])

def draw(path, result):
    "A bar a check: how many networks came to what"
    rows = result['rows']
    with drawn(path, (columns[k].split(',')[0] for k in checks), 'networks') as ax:
        for i,key in enumerate(checks):
            left = 0
            for name,color in fates.items():
                n = sum(fate(r, key)==name for r in rows)
                ax.barh(i, n, left=left, color=color, alpha=.7, label='' if i else name)
                left += n

@call_parse
def main(
    names:str=None, # networks, with commas between them; all, the largest last, if it isn't said
    memory:float=16, # GB; a network that needs more is refused
    quick:store_true=False, # one small network, to see that it runs
    json:str=None, # file for all results; those that are in it already aren't done anew
    markdown:str=None, # file for the page; its picture comes beside it
):
    "torchvision's networks, pruned, rewound, counted, cut and exported"
    by_size = sorted(all_names(), key=lambda o: Network(o).n_params)
    wanted = ['squeezenet1_1'] if quick else names.split(',') if names else by_size
    result = loads(Path(json).read_text()) if json and Path(json).exists() else dict(rows=[])
    if new := [o for o in wanted if o not in {r['name'] for r in result['rows']}]:
        with circumstances('torchvision') as about:
            result['circumstances'] = about
            about['memory'] = f'{memory:g} GB'
            for name in new:
                result['rows'].append(look_alone(name, memory))
                print(result['rows'][-1], flush=True)
                if json: Path(json).write_text(dumps(result, indent=1), encoding='utf-8')
    write(result, report, draw, markdown, json)
