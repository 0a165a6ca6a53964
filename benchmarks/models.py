"""Every network of torchvision that classifies, segments or detects, as it comes: is it pruned exactly, rewound and
kept bit for bit, counted as published, cut in groups, shrunk to the same outputs, trained on and exported?

    python benchmarks/models.py                            all of them: hours, and up to 20 GB of memory
    python benchmarks/models.py --names resnet18,vit_b_16  these
    python benchmarks/models.py --markdown models.md       the table as a file
    python benchmarks/models.py --json models.json         the same; what is in it already isn't done anew
    python benchmarks/models.py --quick                    one small network: that it runs
"""
import gc, json as js, platform, tempfile, warnings
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
import torch
from fastcore.script import call_parse, store_true
from torch import Tensor
from torchvision import models
from lottery_nb.all import Sparsifier, Ticket, count_macs, export_onnx, shrink
from lottery_nb.masks import named_tensors
from lottery_nb.ticket import same_bits

def names_of(module): return models.list_models(module=module)
def all_names(): return [k for m in (models, models.segmentation, models.detection) for k in names_of(m)]

def kind_of(name):
    "What a network does"
    for kind in ('detection','segmentation'):
        if name in names_of(getattr(models, kind)): return kind
    return 'classification'

def make(name):
    "The network, with fresh weights"
    torch.manual_seed(0)
    more = {'classification': {}, 'segmentation': dict(weights_backbone=None), 'detection': dict(weights_backbone=None)}
    if name in ('googlenet','inception_v3'): more['classification'] = dict(init_weights=False)
    return models.get_model(name, weights=None, **more[kind_of(name)])

def published(name):
    "Multiply-adds in billions, as torchvision publishes them, and the size that they're for"
    meta = list(models.get_model_weights(name))[0]
    told = getattr(meta.transforms, 'keywords', {})
    size = told.get('crop_size') or told.get('resize_size') or 224
    return meta.meta.get('_ops'),size[0] if isinstance(size, list|tuple) else size

def exact(net, x):
    sp = Sparsifier(net)
    masks = sp.sparsify(50)
    n = masks.n_weights
    zeros = all(not sp.weight(k)[~m].count_nonzero() for k,m in masks.items())
    return masks.n_kept==n-round(.5*n) and zeros

def rewound(net, x):
    sp = Sparsifier(net)
    sp.save_weights()
    before = {k: t.clone() for k,t in named_tensors(net).items()}
    masks = sp.sparsify(50)
    for p in net.parameters(): p.data.add_(.1)
    sp.rewind()
    want = {k: t.masked_fill(~masks[k], 0) if k in masks else t for k,t in before.items()}
    with tempfile.TemporaryDirectory() as d:
        ticket = Ticket(masks, before)
        return same_bits(named_tensors(net), want) and Ticket.load(ticket.save(f'{d}/t.safetensors'))==ticket

def counted(net, x, ops):
    "Multiply-adds over the published ones"
    return count_macs(net.eval(), x).total/1e9/ops if ops else None

def outputs(o): return [t for v in (o.values() if isinstance(o, dict) else o if isinstance(o, tuple) else [o])
                        if v is not None for t in (outputs(v) if not isinstance(v, Tensor) else [v])]

def structured(net, x, row):
    "Groups, a smaller network, a step of its training, and its export"
    masks = Sparsifier(net, 'group', example=x).sparsify(50)
    row['group'] = masks.sparsity
    small = shrink(net, masks, x)
    row['smaller'] = sum(p.numel() for p in net.parameters())/sum(p.numel() for p in small.parameters())
    sum(o.float().mean() for o in outputs(small.train()(torch.cat([x, x])))).backward()
    row['trains'] = all(p.grad.isfinite().all() for p in small.parameters() if p.grad is not None)
    with tempfile.TemporaryDirectory() as d: export_onnx(small.eval(), x, f'{d}/small.onnx')
    row['onnx'] = True

def look(name):
    "A row of the table: what held, and the first thing that was refused, with the seconds that it took to say so"
    row,start = dict(name=name, kind=kind_of(name)),perf_counter()
    ops,size = published(name)
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        with warnings.catch_warnings(action='ignore'):
            row['exact'],row['bits'] = exact(make(name), x),rewound(make(name), x)
            if row['kind']!='detection': row['macs'] = counted(make(name), x, ops)
            begun = perf_counter()
            structured(make(name), [x[0]] if row['kind']=='detection' else x, row)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as e:
        row['refused'],row['refused_after'] = str(e).split('\n')[0][:200],perf_counter()-begun
    row['seconds'] = perf_counter()-start
    gc.collect()
    return row

def report(result):
    "The result as Markdown"
    def text(v): return '' if v is None else 'yes' if v is True else '**no**' if v is False else f'{v:.3g}'
    columns = dict(exact='exact', bits='rewound, kept', macs='MACs ÷ published', group='groups, % of 50 asked',
                   smaller='times smaller', trains='trains on', onnx='ONNX', seconds='seconds')
    lines = ['| network | ' + ' | '.join(columns.values()) + ' | refused |', '|---'*(len(columns)+2) + '|']
    for r in result['rows']:
        refused = f"{r['refused']} ({r['refused_after']:.0f} s)".replace('|', '/') if 'refused' in r else ''
        lines.append(f"| {r['name']} | " + ' | '.join(text(r.get(k)) for k in columns) + f' | {refused} |')
    told = '; '.join(f'{k} {v}' for k,v in result['circumstances'].items())
    told += f'; sparsity 50 %, one image each; {len(result["rows"])} of {len(all_names())} networks'
    return f'# torchvision, network by network\n\n{told}\n\n' + '\n'.join(lines) + '\n'

@call_parse
def main(
    names:str=None, # networks, with commas between them; all if it isn't said
    quick:store_true=False, # one small network, to see that it runs
    json:str=None, # file for all results; those that are in it already aren't done anew
    markdown:str=None, # file for the table
):
    "torchvision's networks, pruned, rewound, counted, cut and exported"
    circumstances = dict(python=platform.python_version(),
                         **{o: version(o) for o in ('torch','torchvision','lottery_nb')})
    wanted = ['squeezenet1_1'] if quick else names.split(',') if names else all_names()
    done = js.loads(Path(json).read_text())['rows'] if json and Path(json).exists() else []
    result = dict(circumstances=circumstances, rows=done)
    for name in [o for o in wanted if o not in {r['name'] for r in done}]:
        result['rows'].append(look(name))
        print(result['rows'][-1], flush=True)
        if json: Path(json).write_text(js.dumps(result, indent=1))
    print(report(result))
    if markdown: Path(markdown).write_text(report(result), encoding='utf-8')
    if json: Path(json).write_text(js.dumps(result, indent=1), encoding='utf-8')
