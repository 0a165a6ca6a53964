"What holds on a GPU as it holds on the CPU; without a GPU it's skipped"
import copy
import pytest, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch import nn
from lottery_nb.all import (Sparsifier, SparsifyCallback, Ticket, digits_dls, find_ticket,
                            large_final, lottery_curve, one_shot)
from lottery_nb.stacked import Stack
from models import everything, same_bits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')

def conv():
    return nn.Sequential(nn.Conv2d(1,16,3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16,32,3), nn.BatchNorm2d(32),
                         nn.ReLU(), nn.Flatten(), nn.Linear(512,10))

def learner(tmp_path, *cbs):
    torch.manual_seed(0)
    return Learner(digits_dls(), conv(), metrics=accuracy, cbs=cbs, path=tmp_path)

def alive(masks, model): return [n for n,m in masks.items() if model.get_parameter(n).cpu()[~m.cpu()].any()]

@pytest.mark.parametrize('half', ['to_fp32','to_fp16','to_bf16'])
@pytest.mark.parametrize('lth', [False, True])
def test_a_training_under_masks(tmp_path, half, lth):
    "Pruned weights are 0 after every step, in half precision with scaled gradients and in channels-last layout too"
    cb = SparsifyCallback(50, 'weight', 'global', large_final, one_shot, start_epoch=1, lth=lth)
    learn = getattr(learner(tmp_path, cb, ChannelsLast()), half)()
    with learn.no_bar(), learn.no_logging(): learn.fit(3, 1e-2)
    masks = cb.sparsifier.masks
    assert next(learn.model.parameters()).is_cuda and round(masks.sparsity, 1)==50 and not alive(masks, learn.model)
    assert learn.recorder.values[-1][-2]>.8

def test_a_search_and_its_ticket(tmp_path):
    "A ticket that was found on the GPU is read where there is none, and trains there"
    found = find_ticket(lambda: learner(tmp_path), lambda learn: learn.fit(2, 1e-2), rounds=2, seed=0)
    ticket = found.tickets[-1]
    ticket.save(tmp_path/'a.safetensors', full=True)
    read = Ticket.load(tmp_path/'a.safetensors')
    assert all(not t.is_cuda for t in read.state.values()) and read.masks==ticket.masks
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
    assert (masks('cpu')-masks('cuda')).n_kept<10

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
