"What holds on a GPU as it holds on the CPU: `make gpu`"
import copy
import pytest, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import default_device
from torch import nn
from lottery_nb.all import (Sparsifier, SparsifyCallback, Ticket, collapse, digits_dls, find_ticket, instability,
                            large_final, lottery_curve, method, one_shot)
from lottery_nb.regrow import Regrower
from lottery_nb.stacked import Stack
from models import everything, same_bits

gpu = default_device() # CUDA's, or Apple's
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(gpu.type=='cpu', reason='no GPU here, or not by `make gpu`')]
cuda = pytest.mark.skipif(gpu.type!='cuda', reason='no CUDA here')

def conv():
    return nn.Sequential(nn.Conv2d(1,16,3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16,32,3), nn.BatchNorm2d(32),
                         nn.ReLU(), nn.Flatten(), nn.Linear(512,10))

def learner(tmp_path, *cbs):
    torch.manual_seed(0)
    return Learner(digits_dls(), conv(), metrics=accuracy, cbs=cbs, path=tmp_path)

def on_the_cpu(ticket):
    tensors = [*ticket.masks.values(), *ticket.state.values(), *(ticket.trained or {}).values(), *ticket.full.values()]
    return all(t.device.type=='cpu' for t in tensors)

def alive(masks, model): return [n for n,m in masks.items() if model.get_parameter(n).cpu()[~m.cpu()].any()]

@pytest.mark.parametrize('half', ['to_fp32','to_fp16','to_bf16'])
@pytest.mark.parametrize('lth', [False, True])
def test_a_training_under_masks(tmp_path, half, lth):
    "Pruned weights are 0 after every step, in half precision with scaled gradients and in channels-last layout too"
    cb = SparsifyCallback(50, 'weight', 'global', large_final, one_shot, start_epoch=1, lth=lth)
    learn = getattr(learner(tmp_path, cb, ChannelsLast()), half)()
    with learn.no_bar(), learn.no_logging(): learn.fit(3, 1e-2)
    masks = cb.sparsifier.masks
    assert next(learn.model.parameters()).device.type==gpu.type
    assert round(masks.sparsity, 1)==50 and not alive(masks, learn.model)
    assert learn.recorder.values[-1][-2]>.8
    if lth: assert on_the_cpu(cb.ticket) and cb.ticket.masks==masks

def test_a_search_and_its_ticket(tmp_path):
    "A ticket that was found on the GPU is read where there is none, and trains there"
    found = find_ticket(lambda: learner(tmp_path), lambda learn: learn.fit(2, 1e-2), rounds=2, seed=0)
    ticket = found.tickets[-1]
    ticket.save(tmp_path/'a.safetensors', full=True)
    read = Ticket.load(tmp_path/'a.safetensors')
    assert on_the_cpu(ticket) and on_the_cpu(read) and read.masks==ticket.masks
    assert all(same_bits(t.cpu(), read.state[k]) for k,t in ticket.state.items())
    net = conv()
    read.apply_to(net)
    assert not alive(read.masks, net)

@pytest.mark.parametrize('criterion', ['snip','grasp','synflow','wanda','fisher'])
def test_masks_from_data_as_on_the_cpu(criterion):
    "But for weights whose scores are the same within rounding"
    torch.manual_seed(0)
    net,batch = conv(),(torch.randn(64,1,8,8), torch.arange(64)%10)
    def masks(device):
        model = copy.deepcopy(net).to(device)
        return Sparsifier(model, 'weight', 'global', criterion, data=[tuple(t.to(device) for t in batch)],
                          loss=nn.functional.cross_entropy).sparsify(50)
    assert (masks('cpu')-masks(gpu).cpu()).n_kept<10

@cuda
def test_one_process_under_nccl(tmp_path):
    "DistributedDataParallel with one process: the masks and the weights that it gives alone"
    from torch.nn.parallel import DistributedDataParallel
    def trained(wrap):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16,32), nn.ReLU(), nn.Linear(32,4)).cuda()
        model = wrap(net)
        sp = Sparsifier(model, 'weight', 'global', large_final)
        sp.sparsify(50)
        opt = torch.optim.SGD(model.parameters(), .1, momentum=.9)
        sp.watch(opt)
        x = torch.randn(8,16, generator=torch.Generator().manual_seed(1)).cuda()
        for _ in range(5):
            model(x).square().mean().backward()
            opt.step(), opt.zero_grad()
        return sp.masks,everything(net)
    torch.distributed.init_process_group('nccl', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try: masks,state = trained(DistributedDataParallel)
    finally: torch.distributed.destroy_process_group()
    alone,other = trained(lambda net: net)
    assert {k.removeprefix('module.') for k in masks}==set(alone)
    assert all(torch.allclose(state[k], other[k], atol=1e-6) for k in state)

@cuda
def test_seeds_that_do_not_fit_into_memory(monkeypatch):
    "With little of the GPU's memory a stack is halved until it fits, and its memory is free again"
    sizes,begin = [],Stack.__init__
    def told(self, recipe, tickets):
        sizes.append(len(tickets))
        begin(self, recipe, tickets)
    monkeypatch.setattr(Stack, '__init__', told)
    def wide(): return nn.Sequential(nn.Flatten(), nn.Linear(64,8192), nn.ReLU(), nn.Linear(8192,10))
    how = dict(seeds=16, rounds=1, n_step=3, progress=False)
    whole = lottery_curve(wide, digits_dls(), **how)
    assert max(sizes)==16 and not set(sizes)-{16,2} # 2 to try out
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    part = (torch.cuda.memory_reserved() + 120e6)/torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(part)
    try: df = lottery_curve(wide, digits_dls(), **how)
    finally: torch.cuda.set_per_process_memory_fraction(1.)
    assert 8 in sizes and df.drop(columns='value').equals(whole.drop(columns='value'))
    assert (df.value-whole.value).abs().max()<.05
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated()<before+20e6

def linear(): return nn.Sequential(nn.Flatten(), nn.Linear(64,20), nn.ReLU(), nn.Linear(20,10)).to(gpu)

@pytest.mark.parametrize('how', ['local','global','lamp','per_output','erk'])
def test_methods_give_the_masks_of_the_cpu(how):
    net = linear()
    masks = Sparsifier(net, method=how).sparsify(60)
    assert all(m.device.type==gpu.type for m in masks.values())
    assert masks.cpu()==Sparsifier(net.cpu(), method=how).sparsify(60)

def test_a_method_of_your_own_reads_the_weights():
    @method(ranks=True)
    def by_mean(scores, layer): return scores/layer.weight.detach().abs().mean()
    assert Sparsifier(linear(), method=by_mean).sparsify(50).sparsity==50

def test_a_search_pools_on_data_of_the_gpu(tmp_path):
    found = find_ticket(lambda: learner(tmp_path), lambda learn: learn.fit(1, 1e-2), rounds=2, seed=0)
    x,y = (torch.cat(o).to(gpu) for o in zip(*digits_dls().valid))
    pooled,tried = found.pool(conv, (x, y), train_x=digits_dls().train.stacked()[0].to(gpu))
    assert on_the_cpu(pooled) and tried.choose.between(0, 1).all()

def test_instability_of_masks_from_the_gpu():
    masks = Sparsifier(linear()).sparsify(50)
    df = instability(lambda: linear().cpu(), digits_dls(), at=[0], masks=masks, seeds=2, n_step=5, progress=False)
    assert set(df.arm)=={'dense','ticket','random','reinit'}

@pytest.mark.parametrize('criteria', ['snip','synflow'])
def test_masks_before_training(criteria):
    df = collapse(lambda: linear().cpu(), digits_dls(), criteria, [.3,1], seeds=2, n_step=5, device=gpu, progress=False)
    kept = df[df.metric.str.startswith('kept in')].groupby(['seed','round']).value.sum()
    assert kept.nunique()==2 and df.value.notna().all()

def test_a_search_by_data_moves_the_loss_too(tmp_path):
    def weighted():
        learn = learner(tmp_path)
        learn.loss_func = CrossEntropyLossFlat(weight=torch.ones(10))
        return learn
    found = find_ticket(weighted, lambda learn: learn.fit(1, 1e-2), rounds=1, prune=50, seed=0, criteria='fisher')
    assert found.tickets[1].masks.sparsity==50

def test_a_model_moves_while_its_weights_do():
    "Onto the GPU, between two steps of a Regrower"
    torch.manual_seed(0)
    net = linear().cpu()
    sp,opt = Sparsifier(net),torch.optim.SGD(net.parameters(), .1)
    sp.sparsify(50)
    sp.watch(opt)
    regrow = Regrower(sp, opt, 20, grow='momentum', every=2)
    for step in range(12):
        if step==5: net.to(gpu)
        x = torch.randn(8,64, device=sp.weight('1.weight').device)
        net(x).square().mean().backward()
        if not regrow.step(): opt.step()
        opt.zero_grad()
    assert sp.masks.sparsity==50 and not alive(sp.masks, net)
