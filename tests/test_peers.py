"What the README says of others, looked at on the versions that are installed"
import subprocess, sys
from functools import partial
from importlib.metadata import requires
import pytest, torch
from fastai.basics import Callback, CrossEntropyLossFlat, Learner
from torch import nn
from torch.nn.utils import prune
from lottery_nb.all import HoldMasks, Sparsifier, SparsifyCallback, iterative, large_final
from models import few_batches, mlp, quiet

pytestmark = pytest.mark.slow

def equal_weights(layer):
    nn.init.ones_(layer.weight)
    return layer

def net():
    return nn.Sequential(nn.Conv2d(1,4,3), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4,10))

class Watch(Callback):
    """At every batch: the keys of the `state_dict`, BatchNorm's mean, how many steps the optimizer remembers, and how
    many pruned weights of the conv have a gradient"""
    order,run_valid = 100,False
    def __init__(self): self.keys,self.means,self.steps,self.pruned,self.leaks = set(),{},{},[],[]
    def before_step(self):
        conv = self.model[0].weight
        self.pruned.append(int((conv==0).sum()))
        self.leaks.append(int(conv.grad[conv==0].count_nonzero()))
    def look(self, when):
        self.keys |= set(self.model.state_dict())
        self.means[when] = self.model[1].running_mean.clone()
        self.steps[when] = max([s.get('step', 0) for s in self.opt.state.values()], default=0)
    def before_batch(self): self.look(('before', self.epoch, self.iter))
    def after_batch(self): self.look(('after', self.epoch, self.iter))

def watched(callback):
    torch.manual_seed(0)
    learn,watch = quiet(Learner(few_batches(), net(), loss_func=CrossEntropyLossFlat())),Watch()
    learn.fit(6, cbs=[callback, watch])
    return watch

def test_ours():
    layer = equal_weights(nn.Linear(10,10))
    Sparsifier(layer).sparsify(50)
    assert layer.weight.count_nonzero()==50
    watch = watched(SparsifyCallback(50, 'weight', 'global', large_final,
                                     iterative, start_epoch=3, lth=True, rewind_epoch=1, verbose=False))
    assert watch.keys==set(net().state_dict())
    assert torch.equal(watch.means['before',3,0], watch.means['before',1,0]) and watch.steps['before',3,0]==0
    assert any(watch.pruned) and not any(watch.leaks)

def test_channels_are_cut_with_pytorch_alone():
    lines = ['import sys, torch', "sys.modules['torch_pruning'] = None # an import of it would fail",
             'from lottery_nb.all import *', 'net,x = digits_mlp(), torch.zeros(2,64)',
             "masks = Sparsifier(net, 'group', example=x).sparsify(50)",
             'assert shrink(net, masks, x)[1].out_features<net[1].out_features']
    subprocess.run([sys.executable, '-c', '\n'.join(lines)], check=True)

def test_torch_prune():
    layer = equal_weights(nn.Linear(10,10))
    prune.global_unstructured([(layer,'weight')], prune.L1Unstructured, amount=.5)
    assert layer.weight.count_nonzero()==50
    assert set(layer.state_dict())=={'bias', 'weight_orig', 'weight_mask'}
    layer(torch.ones(1,10)).sum().backward()
    assert not layer.weight_orig.grad[layer.weight_mask==0].any() and layer.weight_orig.grad.any()
    channels = prune.ln_structured(nn.Linear(10,10), 'weight', .5, n=2, dim=0)
    assert (channels.weight==0).all(1).sum()==5 and channels.weight.shape==(10,10)

def test_fasterai():
    peer = pytest.importorskip('fasterai.sparse.all',
                               reason='fasterai is not installed: what the README says of it is not looked at')
    criteria,schedule = (pytest.importorskip(f'fasterai.core.{o}') for o in ('criteria','schedule'))
    conv,linear = nn.Sequential(equal_weights(nn.Conv2d(1,4,5))), mlp()
    for model in (conv, linear): peer.Sparsifier(model, 'weight', 'global', criteria.large_final).sparsify_model(.5)
    assert all((m.weight!=0).all() for model in (conv, linear) for m in model if hasattr(m, 'weight'))
    in_rounds = schedule.Schedule(schedule.sched_iterative, start_pct=.5)
    callback = partial(peer.SparsifyCallback, .5, 'weight', 'global', criteria.large_final, in_rounds)
    watch = watched(callback(lth=True, rewind_epoch=1))
    assert watch.keys-set(net().state_dict())
    rewound = [when for when,mean in watch.means.items() if when[0]=='after' and not mean.any()]
    assert rewound and min(watch.steps[when] for when in rewound)>4*3
    assert max(watch.leaks)>0 and any(o.startswith('torch-pruning') for o in requires('fasterai'))

def test_held_masks_need_their_model():
    learn = quiet(Learner(few_batches(), net(), loss_func=CrossEntropyLossFlat()))
    with pytest.raises(ValueError, match='another model'): learn.fit(1, cbs=HoldMasks(Sparsifier(net())))

@pytest.mark.filterwarnings('ignore')
def test_lightning():
    "From its second rewind on, weights go to trained ones: its copy of the first ones is trained, too"
    pl = pytest.importorskip('pytorch_lightning')
    from pytorch_lightning.callbacks import ModelPruning
    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(equal_weights(nn.Linear(8,5)), nn.BatchNorm1d(5), nn.Linear(5,3))
        def training_step(self, batch, i): return nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        def configure_optimizers(self): return torch.optim.Adam(self.parameters(), .1)
    def first(net): return getattr(net[0], 'weight_orig', net[0].weight).detach()
    class Look(pl.Callback):
        def __init__(self): self.rewound,self.kept,self.means,self.steps,self.keys = [],[],[],[],[]
        def on_train_batch_end(self, trainer, model, *args): self.trained = first(model.net).clone()
        def on_train_epoch_start(self, trainer, model):
            linear,norm,_ = model.net
            if trainer.current_epoch: self.kept.append(bool((first(model.net)==self.trained).all()))
            self.rewound.append(bool((first(model.net)==1).all()))
            self.means.append(bool(norm.running_mean.any()))
            self.steps.append(max([int(o['step']) for o in trainer.optimizers[0].state.values()], default=0))
            self.keys.append(set(model.net.state_dict()))
    net,look = Net(),Look()
    data = torch.utils.data.DataLoader([(torch.randn(8), i%3) for i in range(32)], 8)
    pruning = ModelPruning('l1_unstructured', amount=.2, use_lottery_ticket_hypothesis=True)
    quietly = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    pl.Trainer(max_epochs=4, accelerator='cpu', callbacks=[pruning, look], **quietly).fit(net, data)
    assert look.rewound==[True, True, False, False]
    assert look.kept==[False, True, True] # what was trained, to the bit: its copy and the network's are one tensor
    assert look.means==[False, True, True, True] and look.steps==[0, 4, 8, 12] # neither goes back
    assert {'0.bias_mask','1.weight_mask','1.bias_mask'}<=look.keys[1] and '0.weight_mask' not in look.keys[0]

def test_a_step_with_lightning_is_one_with_torch_prune():
    "Its callback prunes by hooks of `torch.nn.utils.prune`, and does nothing else in a step"
    pl = pytest.importorskip('pytorch_lightning')
    from pytorch_lightning.callbacks import ModelPruning
    (ours,theirs),x = (mlp(), mlp()),torch.randn(4,1,8,8)
    theirs.load_state_dict(ours.state_dict())
    layers = [[(m,'weight') for m in net if isinstance(m, nn.Linear)] for net in (ours, theirs)]
    prune.global_unstructured(layers[0], prune.L1Unstructured, amount=.5)
    ModelPruning('l1_unstructured', layers[1]).apply_pruning(.5)
    assert all(torch.equal(a, b) for a,b in zip(ours.state_dict().values(), theirs.state_dict().values()))
    assert ours.state_dict().keys()==theirs.state_dict().keys() and prune.is_pruned(theirs)
    for o in dir(pl.Callback):
        in_a_step = any(k in o for k in ('batch','step','backward','zero_grad'))
        assert not in_a_step or getattr(ModelPruning, o) is getattr(pl.Callback, o), o
    for net in (ours, theirs): net(x).square().sum().backward()
    for (a,_),(b,_) in zip(*layers): assert torch.equal(a.weight_orig.grad, b.weight_orig.grad)
