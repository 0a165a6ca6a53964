"""What cutting brings: a forward pass of the smaller network beside the dense one, and beside fasterai's Pruner,
in one run

A ResNet-18 with half of its channels in every group cut; and, where there are no channels to cut, a linear layer with
90 % of its weights pruned, dense and as CSR. As in `overhead.py` nothing is measured on its own: all networks take the
same batch in turn, in an order that is shuffled anew in each round, and what is reported are medians of ratios within a
round.

    python benchmarks/shrink.py                            about two minutes on two cores
    python benchmarks/shrink.py --markdown shrink.md       the page and its picture as files
    python benchmarks/shrink.py --json shrink.json         the same with the time of every single pass
    python benchmarks/shrink.py --quick                    a few seconds with small images: that it runs, not how fast

fasterai (`pip install 'lottery_nb[bench]'`) is left out if it is not there.
Its Pruner is asked for the same share of the channels; the table has the multiply-adds of both.
"""
import contextlib, copy, io, random
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np, torch
from _page import bars, chosen, circumstances, has_fasterai, page, promise, quartiles, table, timed, write
from fastcore.script import call_parse, store_true
from torch import nn
from torchvision.models import resnet18

from lottery_nb.criteria import large_final
from lottery_nb.export import SparseLinear
from lottery_nb.measure import count_macs, interleaved_times
from lottery_nb.shrink import shrink
from lottery_nb.sparsifier import Sparsifier

if has_fasterai:
    from fasterai.core.criteria import large_final as their_large_final
    from fasterai.prune.pruner import Pruner

PROMISE = 2.3 # times as fast, at least
CUT = 'lottery_nb, cut'

@dataclass(frozen=True)
class Sizes:
    "How much is measured"
    size:int = 128      # pixels, height and width of an image
    batch:int = 16      # images a batch
    rounds:int = 60     # passes of each network
    warmup:int = 5      # passes of each network that are not counted
    sparsity:float = 50 # percent of the channels of every group
    round_to:int = 8    # channels are kept in multiples of it
    features:int = 4096 # inputs and outputs of the linear layer
    repeats:int = 100   # rounds in which it is timed for each number of rows, at most
    seconds:float = 5.  # for how long, at most

QUICK = Sizes(size=32, batch=2, rounds=4, warmup=1, features=64, seconds=.01)

@dataclass
class Arm:
    "A network, and how long its passes took"
    name:str
    model:nn.Module
    seconds:list = field(default_factory=list)

    @torch.no_grad()
    def run(self, x:torch.Tensor): self.seconds.append(timed(lambda: self.model(x))[0])

def ours(model:nn.Module, sizes:Sizes, x:torch.Tensor)->tuple: # the masked network, the smaller one
    "Prunes half of the channels of every group, and cuts them out"
    model = copy.deepcopy(model)
    masks = Sparsifier(model, 'group', 'local', large_final,
                       example=x).sparsify(sizes.sparsity, round_to=sizes.round_to)
    return model, shrink(model, masks, x)

def theirs(model:nn.Module, sizes:Sizes, x:torch.Tensor)->nn.Module:
    "The same share by fasterai"
    model = copy.deepcopy(model)
    with contextlib.redirect_stdout(io.StringIO()):
        Pruner(model, sizes.sparsity/100, 'local', their_large_final,
               example_inputs=x[:1], round_to=sizes.round_to).prune_model()
    return model.eval()

def make_arms(sizes:Sizes, x:torch.Tensor)->list:
    "All networks, from the same weights"
    torch.manual_seed(0)
    model = resnet18(num_classes=10).eval()
    masked,small = ours(model, sizes, x)
    arms = [Arm('dense', model), Arm('dense again (the noise)', copy.deepcopy(model)),
            Arm('lottery_nb, masked', masked), Arm(CUT, small)]
    return [*arms, Arm('fasterai', theirs(model, sizes, x))] if has_fasterai else arms

def measure(arms:list, sizes:Sizes, x:torch.Tensor):
    "Sends the batch through all networks in turn"
    shuffled = random.Random(0)
    for _ in range(sizes.warmup+sizes.rounds):
        for arm in shuffled.sample(arms, len(arms)): arm.run(x)
    for arm in arms: del arm.seconds[:sizes.warmup]

def rows(arms:list, x:torch.Tensor)->list: # dicts
    "What came out, a row a network"
    dense,found,macs = np.array(arms[0].seconds),[],count_macs(arms[0].model, x[:1]).total
    for arm in arms:
        n,parameters = count_macs(arm.model, x[:1]).total,sum(p.numel() for p in arm.model.parameters())
        found.append(dict(network=arm.name, parameters=parameters, macs=n, fewer=macs/n,
                          **quartiles(dense/np.array(arm.seconds)),
                          milliseconds=1000*float(np.median(arm.seconds)), seconds=arm.seconds))
    return found

@torch.inference_mode()
def csr_rows(sizes:Sizes)->list: # dicts
    """A linear layer of which 90 % of the weights are pruned, dense and as CSR in turn,
    for several numbers of rows at once"""
    torch.manual_seed(0)
    linear,found = nn.Linear(sizes.features, sizes.features).eval(),[]
    Sparsifier(linear).sparsify(90)
    sparse = SparseLinear(linear)
    for n in (1,16,256):
        x = torch.randn(n, sizes.features)
        runs = dict(dense=partial(linear, x), csr=partial(sparse, x))
        dense,csr = interleaved_times(runs, sizes.repeats, sizes.seconds).median()
        found.append(dict(rows=n, dense=1000*dense, csr=1000*csr, faster=dense/csr,
                          difference=float((linear(x)-sparse(x)).abs().max())))
    return found

def report(result:dict, picture:str)->str:
    "All of it as Markdown"
    s,cut = result['sizes'],next(r for r in result['rows'] if r['network']==CUT)
    finding = f"""A ResNet-18 without {s['sparsity']:g} % of its channels runs {cut['median']:.2f} times as fast as the
dense one, with {cut['fewer']:.2f} times fewer multiply-adds.
{promise(f'at least {PROMISE} times', cut['median']>=PROMISE)}"""
    head = ['network', 'parameters', 'multiply-adds', 'times fewer', 'times as fast', 'middle half', 'ms a batch']
    nets = table(head,
        [[r['network'], f"{r['parameters']:,}", f"{r['macs']:,}", f"{r['fewer']:.2f}", f"{r['median']:.2f}",
          f"{r['q1']:.2f} to {r['q3']:.2f}", f"{r['milliseconds']:.1f}"] for r in result['rows']])
    linear = table(['rows at once', 'ms dense', 'ms CSR', 'CSR, times as fast', 'largest difference'],
        [[str(r['rows']), f"{r['dense']:.3f}", f"{r['csr']:.3f}", f"{r['faster']:.2f}", f"{r['difference']:.0e}"]
         for r in result['linear']])
    body = f"""ResNet-18, {s['batch']} images of {s['size']} by {s['size']} pixels, forward; {s['sparsity']:g} % of the
channels of every group, multiples of {s['round_to']} kept. Medians of {s['rounds']} ratios to the dense network on the
same batch in the same round.

{nets}

## A linear layer

{s['features']} inputs and outputs, 90 % of the weights pruned one by one; dense, and as CSR by `SparseLinear`, in turn;
medians.

{linear}"""
    return page('What cutting channels brings', finding, picture, 'Times as fast as dense, a bar a network', body,
                result['circumstances'])

def draw(path, result:dict):
    values = {r['network']: (r['median'], r['q1'], r['q3']) for r in result['rows'][1:]}
    bars(path, values, 'times as fast as the dense network', {CUT: PROMISE}, 'promised: at least')

@call_parse
def main(
    size:int=None, # pixels, height and width of an image (default 128)
    batch:int=None, # images a batch (default 16)
    rounds:int=None, # passes of each network (default 60)
    quick:store_true=False, # small images and few rounds, to see that it runs
    json:str=None, # file for all results, with the seconds of every pass
    markdown:str=None, # file for the page; its picture comes beside it
):
    "What cutting channels brings, side by side with the dense network and fasterai's Pruner"
    sizes = chosen(QUICK if quick else Sizes(), size=size, batch=batch, rounds=rounds)
    x = torch.randn(sizes.batch, 3, sizes.size, sizes.size, generator=torch.Generator().manual_seed(0))
    with circumstances('torchvision', 'fasterai') as about:
        arms = make_arms(sizes, x)
        measure(arms, sizes, x)
        linear = csr_rows(sizes)
    result = dict(circumstances=about, sizes=asdict(sizes), rows=rows(arms, x), linear=linear)
    write(result, report, draw, markdown, json)
