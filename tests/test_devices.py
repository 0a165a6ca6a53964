"What a GPU asks for, as far as the CPU shows it"
import pytest, torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from torch import nn
from lottery_nb.all import Masks, Ticket, barrier, find_ticket, lottery_curve, profile, shrink
from lottery_nb.channels import channel_groups
from lottery_nb.core import ArgumentTypeError, machine, seeded
from lottery_nb.masks import in_double, set_tensors_, with_doubles
from lottery_nb.stacked import batch_orders

x,y = torch.randn(8,4),torch.arange(8)%3

def test_a_gpu_that_is_used_later_begins_with_the_users_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', seeds.append) # until then PyTorch keeps the last one
    torch.manual_seed(42)
    with seeded('x'): torch.rand(3)
    assert seeds[0]==seeds[-1]==42 and len(set(seeds))==2

def test_the_machine_names_a_gpu_that_is_in_use(monkeypatch):
    "A process that was forked can't ask CUDA, and a search has its name from after the fit"
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a GPU')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert 'gpu' not in machine()
    in_use = []
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: bool(in_use))
    monkeypatch.setattr(torch.cuda, 'get_rng_state_all', list)
    def fit(learn):
        learn.fit(1, .01)
        in_use.append(True)
    dls = DataLoaders(*2*[DataLoader(list(zip(x, y)), bs=4)], device=torch.device('cpu'))
    search = find_ticket(lambda: Learner(dls, nn.Linear(4,3), nn.CrossEntropyLoss()), fit, rounds=1, progress=False)
    assert [t.meta['machine'].get('gpu') for t in search.tickets]==2*['a GPU']

class Full(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4,3)
    def forward(self, x): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')

class FullWhenSmaller(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc,self.head = nn.Linear(4,6),nn.Linear(6,3)
    def forward(self, x):
        if self.fc.out_features<6: raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')
        return self.head(self.fc(x).relu())


@pytest.mark.parametrize('call', [
    lambda: profile(Full(), x), lambda: channel_groups(Full(), x),
    lambda: shrink(FullWhenSmaller(), Masks({'fc.weight': torch.arange(6)[:,None].expand(6,4)>1}), x),
    lambda: barrier(Full(), Full(), ((x, y), (x, y))),
    lambda: lottery_curve(Full, ((x, y), (x, y)), seeds=2, rounds=1, n_step=2, bs=4, progress=False),
], ids=['profile','channel_groups','shrink','barrier','lottery_curve'])
def test_too_little_memory_is_no_fault_of_the_arguments(call):
    with pytest.raises(torch.OutOfMemoryError, match='Tried to allocate'): call()

def test_what_has_no_doubles_is_calculated_on_the_cpu(monkeypatch):
    "As on Apple's GPUs, whose error is a TypeError"
    assert with_doubles(torch.device('cpu'))==torch.device('cpu') and in_double(y).dtype==torch.double
    def empty(*args, **kwargs): raise TypeError("the MPS framework doesn't support float64")
    monkeypatch.setattr(torch, 'empty', empty)
    assert with_doubles(torch.device('mps'))==torch.device('cpu')

def test_orders_of_batches_on_a_device():
    a,b = (next(batch_orders([1,2], 9, 4, o)) for o in (None, 'cpu'))
    assert torch.equal(a, b) and next(batch_orders([1,2], 9, 4, 'meta')).device.type=='meta'

def test_a_ticket_has_values():
    masks,w = Masks(dict(w=torch.tensor([True, False]))),torch.ones(2)
    for state in (dict(w=w.to('meta')), dict(w=w, b=w.to('meta'))):
        with pytest.raises(ArgumentTypeError, match=r"state\['[wb]'\]='meta'"): Ticket(masks, state)
    with pytest.raises(ArgumentTypeError, match=r"masks\['w'\]='meta'"):
        Ticket(Masks(dict(w=masks['w'].to('meta'))), dict(w=w))

@pytest.mark.parametrize('criterion', ['wanda','fisher','snip'])
def test_a_search_by_data_of_loaders_without_a_device(criterion, tmp_path):
    "PyTorch's own have none"
    loader = torch.utils.data.DataLoader(list(zip(x, y)), 4)
    def learner():
        dls = DataLoaders(loader, loader)
        assert not hasattr(dls, 'device')
        net = nn.Sequential(nn.Linear(4,8), nn.ReLU(), nn.Linear(8,3))
        return Learner(dls, net, nn.CrossEntropyLoss(), path=tmp_path)
    def fit(learn): learn.fit(1, .01)
    search = find_ticket(learner, fit, rounds=1, prune=50, criteria=criterion, progress=False)
    assert search.tickets[1].masks.sparsity==50

def test_a_buffer_that_is_none_comes_to_where_the_model_is():
    "Also that of a module without tensors of its own"
    cache = nn.Module()
    cache.register_buffer('seen', None)
    net = nn.Sequential(nn.Linear(2,2, device='meta'), cache)
    assert set_tensors_(net, {'1.seen': torch.ones(2)})[1].seen.is_meta
