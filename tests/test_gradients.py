"Pruned weights get no gradient: a training under masks is the training of the sparse network alone"
import copy
import pytest, torch
from models import batch, bits, mlp
from torch import nn
from torch.nn.utils import prune

from lottery_nb.sparsifier import Sparsifier

class SAM(torch.optim.Optimizer):
    "Sharpness-aware minimization (Foret et al. 2021): climbs, and goes down with the gradient from there"
    def __init__(self, params, rho=.05, **kwargs):
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base_optimizer = torch.optim.SGD(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.base_optimizer.param_groups = self.param_groups

    def each(self): return [p for g in self.param_groups for p in g['params']]

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for p in self.each()]).norm()
        for p in self.each():
            self.state[p]['up'] = p.grad*self.param_groups[0]['rho']/norm
            p.add_(self.state[p]['up'])

    @torch.no_grad()
    def second_step(self):
        for p in self.each(): p.sub_(self.state[p]['up'])
        self.base_optimizer.step()

    @torch.no_grad()
    def step(self, closure):
        closure = torch.enable_grad()(closure)
        closure()
        self.first_step()
        closure()
        self.second_step()

class Lookahead(torch.optim.Optimizer):
    "k steps forward, 1 step back (Zhang et al. 2019)"
    def __init__(self, params, **kwargs):
        super().__init__(params, kwargs)
        self.optimizer,self.n = torch.optim.SGD(self.param_groups, **kwargs),0
        self.slow = {p: p.detach().clone() for g in self.param_groups for p in g['params']}

    @torch.no_grad()
    def step(self, closure=None):
        self.optimizer.step(closure and torch.enable_grad()(closure))
        self.n += 1
        if self.n%3: return
        for p,slow in self.slow.items(): p.copy_(slow.lerp_(p, .5))

class ScheduleFree(torch.optim.Optimizer):
    "SGD that needs no schedule (Defazio et al. 2024): trains at y, and is evaluated at the mean x"
    def __init__(self, params, lr=.1, beta=.9):
        super().__init__(params, dict(lr=lr, beta=beta, k=0, mode='y'))

    def _move(self, mode, amount):
        for g in self.param_groups:
            if g['mode']==mode: continue
            for p in g['params']:
                if 'z' in self.state[p]: p.data.lerp_(self.state[p]['z'], amount(g['beta']))
            g['mode'] = mode
    def eval(self): self._move('x', lambda beta: 1-1/beta)
    def train(self): self._move('y', lambda beta: 1-beta)

    @torch.no_grad()
    def step(self, closure=None):
        for g in self.param_groups:
            g['k'] += 1
            c = 1/g['k']
            for p in g['params']:
                z = self.state[p].setdefault('z', p.detach().clone())
                p.lerp_(z, c).add_(p.grad, alpha=g['lr']*(g['beta']*(1-c)-1))
                z.sub_(p.grad, alpha=g['lr'])

optimizers = dict(
    sgd=lambda p: torch.optim.SGD(p, .1, momentum=.9, weight_decay=1e-3),
    adamw=lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=.1),
    adafactor=lambda p: torch.optim.Adafactor(p),
    lbfgs=lambda p: torch.optim.LBFGS(p, .1, max_iter=3),
    sam=lambda p: SAM(p, lr=.1, momentum=.9, weight_decay=1e-3),
    lookahead=lambda p: Lookahead(p, lr=.1, momentum=.9),
    schedule_free=lambda p: ScheduleFree(p))
if hasattr(torch.optim, 'Muon'): # since PyTorch 2.9; it takes matrices alone
    optimizers['muon'] = lambda p: torch.optim.Muon([o for o in p if o.dim()==2], .02)

def train(net, opt, clip, n):
    for i in range(n):
        x,y = batch(size=8, seed=i)
        def closure():
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(x.double()), y)
            loss.backward()
            if clip: nn.utils.clip_grad_norm_(net.parameters(), clip)
            return loss
        opt.step(closure) if isinstance(opt, SAM|torch.optim.LBFGS) else (closure(), opt.step())

def pruned_twice(sparsity=90):
    "A network under a sparsifier's masks, and the same under those of `torch.nn.utils.prune`"
    torch.manual_seed(0)
    ours = mlp().double()
    sp = Sparsifier(ours)
    sp.sparsify(sparsity)
    theirs = copy.deepcopy(ours)
    for n,m in theirs.named_modules():
        if f'{n}.weight' in sp.masks: prune.custom_from_mask(m, 'weight', sp.masks[f'{n}.weight'])
    return ours, sp, theirs

@pytest.mark.parametrize('clip', [None,.1])
@pytest.mark.parametrize('name', optimizers)
def test_training_under_masks_is_the_training_of_the_sparse_network_alone(name, clip):
    ours,sp,theirs = pruned_twice()
    opt = optimizers[name](ours.parameters())
    sp.watch(opt)
    train(ours, opt, clip, 12)
    train(theirs, optimizers[name](theirs.parameters()), clip, 12)
    theirs(batch(size=8)[0].double()) # prune's weight is made in the forward pass
    for k in sp.masks:
        same = theirs.get_submodule(k.removesuffix('.weight')).weight
        torch.testing.assert_close(sp.weight(k), same, rtol=1e-6, atol=1e-8)

@pytest.mark.parametrize('name', optimizers)
def test_whatever_the_optimizer_remembers_of_before_the_masks_pruned_weights_stay_0(name):
    torch.manual_seed(0)
    net = mlp().double()
    sp,opt = Sparsifier(net),optimizers[name](net.parameters())
    sp.watch(opt)
    train(net, opt, None, 4)
    sp.sparsify(80)
    def pruned(): return sum(int(bits(sp.weight(k)[~m]).count_nonzero()) for k,m in sp.masks.items())
    for _ in range(3):
        train(net, opt, None, 1)
        assert not pruned()
        if name=='schedule_free':
            opt.eval()
            assert not pruned()
            opt.train()
            assert not pruned()

@pytest.mark.parametrize('name', ['sam','lookahead'])
def test_an_optimizer_inside_another_is_rewound_too(name):
    "SAM steps another optimizer, Lookahead too: reset is as with a new one, restore as it was"
    def same(a, b): assert all(torch.equal(p, q) for p,q in zip(a.parameters(), b.parameters(), strict=True))
    def begun():
        torch.manual_seed(0)
        net = mlp().double()
        opt,sp = optimizers[name](net.parameters()),Sparsifier(net)
        sp.watch(opt)
        train(net, opt, None, 3)
        sp.save_weights(opt)
        return net, opt, sp
    (net,opt,sp),(other,_,again) = begun(),begun()
    train(net, opt, None, 2)
    sp.sparsify(50)
    again.put_on(sp.masks)
    again.rewind()
    new = optimizers[name](other.parameters())
    again.watch(new)
    inner = getattr(opt, 'base_optimizer', None) or opt.optimizer
    sp.rewind(opt, 'reset')
    assert not inner.state
    if name=='sam': # this Lookahead has slow weights outside of its state
        train(net, opt, None, 4), train(other, new, None, 4)
        same(net, other)
    groups = inner.param_groups,opt.param_groups
    sp.rewind(opt, 'restore')
    assert inner.param_groups is groups[0] and opt.param_groups is groups[1] # a schedule reaches both
    (expected,was,third) = begun()
    third.put_on(sp.masks)
    same(net, expected)
    theirs = getattr(was, 'base_optimizer', None) or was.optimizer
    for p,q in zip(net.parameters(), expected.parameters(), strict=True):
        assert inner.state[p].keys()==theirs.state[q].keys() and len(inner.state[p])
        assert all(torch.equal(t, theirs.state[q][k]) for k,t in inner.state[p].items())

def test_new_masks_end_the_directions_of_lbfgs():
    "From there on it's the training of the sparse network alone, by an optimizer that knows no other"
    torch.manual_seed(0)
    net = mlp().double()
    sp,opt = Sparsifier(net),torch.optim.LBFGS(net.parameters(), .1, max_iter=3)
    sp.watch(opt)
    train(net, opt, None, 2)
    sp.sparsify(60)
    other = copy.deepcopy(net)
    for n,m in other.named_modules():
        if f'{n}.weight' in sp.masks: prune.custom_from_mask(m, 'weight', sp.masks[f'{n}.weight'])
    new = torch.optim.LBFGS(other.parameters(), .1, max_iter=3)
    train(net, opt, None, 3), train(other, new, None, 3)
    for n,m in other.named_modules():
        if f'{n}.weight' in sp.masks: torch.testing.assert_close(net.get_parameter(f'{n}.weight'), m.weight)

def test_lbfgs_keeps_what_it_may():
    "Watching, and going back under the same masks, changes nothing"
    torch.manual_seed(0)
    net = mlp().double()
    sp,opt = Sparsifier(net),torch.optim.LBFGS(net.parameters(), .1, max_iter=3)
    train(net, opt, None, 2)
    n = len(opt.state[next(net.parameters())])
    sp.watch(opt)
    assert n and len(opt.state[next(net.parameters())])==n
    sp.sparsify(60)
    assert not opt.state
    train(net, opt, None, 2)
    sp.save_weights(opt)
    train(net, opt, None, 1)
    for how in ('keep','restore'):
        sp.rewind(opt, how)
        assert len(opt.state[next(net.parameters())])==n

def test_masks_that_are_made_after_the_backward_pass():
    "The gradients that are there already are those of the sparse network too"
    net = mlp()
    sp,opt = Sparsifier(net, criteria='taylor'),torch.optim.SGD(net.parameters(), .1)
    sp.watch(opt)
    x,y = batch(size=8, seed=0)
    nn.functional.cross_entropy(net(x), y).backward()
    masks = sp.sparsify(80)
    assert not any(net.get_parameter(k).grad[~m].any() for k,m in masks.items())
    assert any(net.get_parameter(k).grad[m].any() for k,m in masks.items())
