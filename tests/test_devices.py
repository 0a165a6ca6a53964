"What a GPU asks for, as far as the CPU shows it"
import pytest, torch
from torch import nn
from lottery_nb.all import Masks, barrier, lottery_curve, profile, shrink
from lottery_nb.channels import channel_groups
from lottery_nb.core import machine, seeded
from lottery_nb.masks import in_double, with_doubles
from lottery_nb.stacked import batch_orders

def test_a_gpu_that_is_used_later_begins_with_the_users_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', seeds.append) # until then PyTorch keeps the last one
    torch.manual_seed(42)
    with seeded('x'): torch.rand(3)
    assert seeds[0]==seeds[-1]==42 and len(set(seeds))==2

def test_the_machine_names_a_gpu_if_it_is_in_use(monkeypatch):
    "A process that was forked can't ask CUDA, and needn't"
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert 'gpu' not in machine()
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a GPU')
    assert machine()['gpu']=='a GPU'

class Full(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4,3)
    def forward(self, x): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')

x,y = torch.randn(8,4),torch.arange(8)%3

@pytest.mark.parametrize('call', [
    lambda: profile(Full(), x), lambda: channel_groups(Full(), x),
    lambda: shrink(Full(), Masks({'fc.weight': torch.ones(3,4)>0}), x),
    lambda: barrier(Full(), Full(), ((x, y), (x, y))),
    lambda: lottery_curve(Full, ((x, y), (x, y)), seeds=2, rounds=1, n_step=2, bs=4, progress=False),
], ids=['profile','channel_groups','shrink','barrier','lottery_curve'])
def test_too_little_memory_is_no_fault_of_the_arguments(call):
    with pytest.raises(torch.OutOfMemoryError, match='Tried to allocate'): call()

def test_masks_on_the_cpu():
    masks = Masks(dict(w=torch.tensor([True, False])))
    assert masks.cpu()==masks and type(masks.cpu()) is Masks

def test_what_has_no_doubles_is_calculated_on_the_cpu(monkeypatch):
    "As on Apple's GPUs, whose error is a TypeError"
    assert with_doubles(torch.device('cpu'))==torch.device('cpu') and in_double(y).dtype==torch.double
    def empty(*args, **kwargs): raise TypeError("the MPS framework doesn't support float64")
    monkeypatch.setattr(torch, 'empty', empty)
    assert with_doubles(torch.device('mps'))==torch.device('cpu')

def test_orders_of_batches_on_a_device():
    a,b = (next(batch_orders([1,2], 9, 4, o)) for o in (None, 'cpu'))
    assert torch.equal(a, b) and next(batch_orders([1,2], 9, 4, 'meta')).device.type=='meta'
