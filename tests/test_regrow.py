"Masks that move: against the papers' algorithm in plain PyTorch, by what stays constant, and many seeds against one"
import json, math, warnings
from functools import partial
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from fastai.basics import CrossEntropyLossFlat, DataLoaders, Learner, OptimWrapper, Recorder
from fastai.callback.all import GradientAccumulation, GradientClip, SaveModelCallback
from hypothesis import given, strategies as st
from torch import nn

from lottery_nb.callback import HoldMasks, SparsifyCallback
from lottery_nb.core import ArgumentError, seed_of, seeded, threads
from lottery_nb.criteria import large_final
from lottery_nb.curves import lottery_curve
from lottery_nb.data import digits_dls
from lottery_nb.evidence import mean_interval, summarise
from lottery_nb.masks import Masks
from lottery_nb.papers import cite
from lottery_nb.regrow import (DynamicSparse, GrowingStack, Growth, RegrowCallback, Regrower, dynamic_sparse, groups_of,
                               ladder, moved, plot_dynamic, random_start)
from lottery_nb.schedules import one_shot
from lottery_nb.sparsifier import Sparsifier, find_layers
from lottery_nb.stacked import Stack, batch_orders, order_of
from models import ConvNet, differing, everything, few_batches, nets, nonzero_pruned, quiet, same_bits

(X,Y),(VX,VY) = DATA = [[t.as_subclass(torch.Tensor) for t in dl.stacked()] for dl in digits_dls()]

def mlp(): return nn.Sequential(nn.Flatten(), nn.Linear(64,30), nn.ReLU(), nn.Linear(30,10)).double()
def conv():
    return nn.Sequential(nn.Conv2d(1,6,3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6,8,3), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Flatten(), nn.Linear(8*16,10)).double()
def narrow():
    return nn.Sequential(nn.Conv2d(1,6,3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6,7,3), nn.BatchNorm2d(7), nn.ReLU(),
                         nn.Flatten(), nn.Linear(7*16,10)).double()
def frozen():
    net = conv()
    net[3].requires_grad_(False)
    return net

optimizers = dict(adam=partial(torch.optim.Adam, lr=3e-3), adamw=partial(torch.optim.AdamW, lr=3e-3, weight_decay=.1),
                  sgd=partial(torch.optim.SGD, lr=.05, momentum=.9, weight_decay=1e-3),
                  nesterov=partial(torch.optim.SGD, lr=.05, momentum=.9, nesterov=True),
                  amsgrad=partial(torch.optim.Adam, lr=3e-3, amsgrad=True))
GROW = [None,'random','gradient','momentum']

def begun(net=None, opt='adam', n_step=40, grow='gradient', density=20, granularity='weight', within='layer', **how):
    "A regrower of a network under random masks, and its optimizer"
    net = conv() if net is None else net
    opt = optimizers[opt](net.parameters())
    sp = Sparsifier(net, granularity, 'local' if ':' in granularity else 'erk')
    sp.put_on(random_start(sp, density, within, how.get('seed', 0)))
    sp.watch(opt)
    return Regrower(sp, opt, n_step, grow, **dict(every=4, within=within) | how)

def batch(i): return X[20*i%1400:20*i%1400+20].double(),Y[20*i%1400:20*i%1400+20]

def steps(regrower, first=0, last=40):
    "Trains, and says after each step whether masks have moved"
    for i in range(first, last):
        x,y = batch(i)
        regrower.opt.zero_grad()
        F.cross_entropy(regrower.sp.model(x), y).backward()
        told = regrower.step()
        if not told: regrower.opt.step()
        yield told

# --- One move

@st.composite
def layers(draw):
    n,k = draw(st.integers(1, 60)),draw(st.integers(1, 5))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    def ints(high): return torch.randint(high, (n,), generator=g)
    spread = draw(st.sampled_from([1,2,5,1000])) # ties
    keep = torch.rand(n, generator=g)<draw(st.floats(0, 1))
    return keep, ints(spread).float(), ints(spread).float(), draw(st.floats(0, 1)), ints(k)

@pytest.mark.hypothesis
@given(layers())
def test_a_move_keeps_every_number_and_takes_the_smallest(layer):
    keep,size,scores,share,groups = layer
    before = [t.clone() for t in layer if isinstance(t, torch.Tensor)]
    new = moved(*layer)
    assert all(torch.equal(a, b) for a,b in zip(before, [keep, size, scores, groups]))
    for k in range(5): assert new[groups==k].sum()==keep[groups==k].sum()
    gone,came,n = keep & ~new,new & ~keep,int(share*int(keep.sum()))
    assert gone.sum()==came.sum()<=n
    order = sorted(keep.nonzero()[:,0].tolist(), key=lambda i: (size[i].item(), i))
    assert {*gone.nonzero()[:,0].tolist()} <= {*order[:n]} # those that left are among the smallest
    left = keep.clone()
    left[order[:n]] = False
    for k in range(5): # in each group the best of the free places, and those that come first
        free = ((groups==k) & ~left).nonzero()[:,0].tolist()
        best = sorted(free, key=lambda i: (-scores[i].item(), i))[:int(((groups==k) & keep & ~left).sum())]
        assert {*best}=={*((groups==k) & new & ~left).nonzero()[:,0].tolist()}

def test_groups():
    w = find_layers(nn.Conv2d(5,2,3))['weight']
    rows = groups_of(w, 'row').view(2,5,3,3)
    assert (rows[0]==0).all() and (rows[1]==1).all() and not groups_of(w, 'layer').any()
    g = groups_of(w, '2:4').view(2,5,3,3)
    sizes = g.flatten().bincount()
    assert sorted(sizes.tolist())==[1]*18+[4]*18 # four inputs, and the one that's left over
    assert all(len({*g[o,:4,i,j].tolist()})==1 for o in range(2) for i in range(3) for j in range(3))

@pytest.mark.parametrize('until', [.5,.75,1])
def test_the_schedule_is_the_papers(until):
    g = Growth(1000, 'gradient', .3, 100, until)
    assert [o for o in range(1001) if g.due(o)]==list(range(100, round(1000*until), 100))
    for t in range(0, round(1000*until), 50): assert math.isclose(g.share(t), .15*(1+math.cos(t*math.pi/(1000*until))))
    assert not any(Growth(1000, None).due(o) for o in range(1000))

# --- The whole training, as the paper has it, in plain PyTorch

def plain_rigl(net, masks, make_opt, grow, n_step=40, every=4, drop=.3, until=.75, seed=0):
    "Algorithm 1 of Evci et al. 2020, on dense tensors"
    params,masks = dict(net.named_parameters()),{k: m.clone() for k,m in masks.items()}
    for k,m in masks.items(): params[k].data *= m
    opt,average = make_opt(net.parameters()),{k: torch.zeros_like(params[k].data) for k in masks}
    for t in range(n_step):
        x,y = batch(t)
        opt.zero_grad()
        F.cross_entropy(net(x), y).backward()
        for k in masks: average[k] = average[k] + .1*(params[k].grad-average[k])
        if grow and t>0 and t%every==0 and t<until*n_step:
            share = drop/2*(1+math.cos(t*math.pi/(until*n_step)))
            for k,m in masks.items():
                w,n = params[k].data,int(share*int(m.sum()))
                drawn = torch.rand(m.numel(), generator=torch.Generator().manual_seed(seed_of('regrow', seed, t, k)))
                score = dict(gradient=params[k].grad.abs(), momentum=average[k].abs(), random=drawn)[grow].flatten()
                stays = m.flatten().clone()
                stays[w.abs().flatten().masked_fill(~m.flatten(), math.inf).argsort(stable=True)[:n]] = False
                back = score.double().masked_fill(stays, -1).argsort(descending=True, stable=True)[:n]
                new = stays.index_fill(0, back, True).view_as(m)
                fresh = new & ~m
                w *= new
                w[fresh] = 0
                for s in opt.state[params[k]].values():
                    if torch.is_tensor(s) and s.shape==w.shape: s[fresh] = 0
                masks[k] = new
            continue
        for k,m in masks.items(): params[k].grad *= m
        opt.step()
        for k,m in masks.items(): params[k].data *= m
    return masks

@pytest.mark.parametrize('grow', GROW)
@pytest.mark.parametrize('opt', ['adam','sgd','adamw'])
def test_it_is_the_papers_algorithm(grow, opt):
    torch.manual_seed(1)
    a,b = conv(),conv()
    b.load_state_dict(a.state_dict())
    regrower = begun(a, opt, grow=grow, seed=3)
    first = Masks({k: m.clone() for k,m in regrower.sp.masks.items()})
    list(steps(regrower))
    masks = plain_rigl(b, first, optimizers[opt], grow, seed=3)
    assert regrower.sp.masks==Masks(masks) and (grow is None)==(regrower.sp.masks==first)
    for k,t in everything(a).items(): torch.testing.assert_close(t, everything(b)[k], rtol=1e-9, atol=1e-10)

# --- What stays constant

@pytest.mark.parametrize('within,granularity,density', [('layer','weight',20), ('row','weight',20), ('layer','2:4',50),
                                                        ('layer','1:8',12.5)])
@pytest.mark.parametrize('grow', GROW)
def test_counts_at_every_step(grow, within, granularity, density):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64,32), nn.ReLU(), nn.Linear(32,10)).double()
    regrower = begun(net, grow=grow, density=density, granularity=granularity, within=within, drop=.6)
    sp = regrower.sp
    n_groups = {k: int(g.max())+1 for k,g in regrower.groups.items()}
    def counts():
        return {k: regrower.groups[k][m.flatten()].bincount(minlength=n_groups[k]).tolist() for k,m in sp.masks.items()}
    first,masks,n_moved = counts(),sp.masks,0
    for told in steps(regrower):
        assert counts()==first and nonzero_pruned(sp)==0 and (told or sp.masks==masks)
        masks,n_moved = sp.masks,n_moved+told
    assert n_moved==(7 if grow else 0) and (regrower.alive.n_kept>masks.n_kept)==bool(grow)
    if within=='row': assert all(len(set(o))==1 for o in first.values())

@pytest.mark.hypothesis
@given(nets(), st.sampled_from(GROW[1:]), st.sampled_from(['layer','row']), st.floats(5, 95), st.floats(0, 1))
def test_counts_of_any_network(net, grow, within, density, drop):
    opt,sp = torch.optim.Adam(net.parameters()),Sparsifier(net, method='erk', allow_collapse=True)
    sp.put_on(random_start(sp, density, within))
    regrower = Regrower(sp, opt, 8, grow, drop=drop, every=1, until=1, within=within)
    def counts(): return {k: regrower.groups[k][m.flatten()].bincount().tolist() for k,m in sp.masks.items()}
    first,n = counts(),sp.masks.n_weights
    if within=='layer': assert sp.masks.n_kept==n-round(n*(100-density)/100)
    else: assert all(len(set(o))==1 for o in first.values())
    for _ in range(4):
        for p in net.parameters(): p.grad = torch.randn_like(p)
        regrower.step()
        assert counts()==first and nonzero_pruned(sp)==0
        assert all(not (m & ~regrower.alive[k]).any() for k,m in sp.masks.items())

@pytest.mark.parametrize('grow', GROW[1:])
@pytest.mark.parametrize('opt', optimizers)
def test_what_comes_back_is_new_to_the_optimizer(opt, grow):
    regrower,came = begun(opt=opt, grow=grow),0
    sp,before = regrower.sp,regrower.sp.masks
    for _ in steps(regrower):
        for k,new in (sp.masks - before).items():
            w,came = sp.weight(k),came+int(new.sum())
            moments = [t for t in regrower.opt.state[w].values() if t.shape==w.shape]
            assert moments and not any(t[new].any() for t in [*moments, w]) and any(t.any() for t in moments)
        before = sp.masks
    assert came>50

def test_what_stays_keeps_its_weight_and_its_moments():
    regrower = begun()
    list(steps(regrower, 0, 4))
    sp,then = regrower.sp,None
    x,y = batch(4)
    before,then = sp.masks,{k: (sp.weight(k).detach().clone(), regrower.opt.state[sp.weight(k)]['exp_avg'].clone())
                            for k in sp.layers}
    regrower.opt.zero_grad()
    F.cross_entropy(sp.model(x), y).backward()
    assert regrower.step()
    for k,stays in (before & sp.masks).items():
        assert same_bits(sp.weight(k)[stays], then[k][0][stays]) and stays.any()
        assert same_bits(regrower.opt.state[sp.weight(k)]['exp_avg'][stays], then[k][1][stays])

@pytest.mark.parametrize('grow', GROW[1:])
def test_a_loop_that_forgets_to_watch_keeps_its_zeros(grow):
    watched,alone = begun(grow=grow),begun(grow=grow)
    alone.sp.model.load_state_dict(watched.sp.model.state_dict())
    for o in list(alone.sp.watches): o.remove()
    for _ in zip(steps(watched), steps(alone)): assert nonzero_pruned(alone.sp)==0
    assert not differing(everything(watched.sp.model), everything(alone.sp.model))

@pytest.mark.parametrize('grow', GROW)
def test_dense_gradients_only_where_they_are_needed(grow):
    regrower,dense = begun(grow=grow),[]
    sp = regrower.sp
    for i in range(40):
        x,y = batch(i)
        regrower.opt.zero_grad()
        F.cross_entropy(sp.model(x), y).backward()
        dense.append(any(sp.weight(k).grad[~m].any() for k,m in sp.masks.items()))
        told = regrower.step()
        assert not any(sp.weight(k).grad[~m].any() for k,m in sp.masks.items()) # the optimizer never sees them
        if not told: regrower.opt.step()
    due = [o for o in range(40) if o and o%4==0 and o<30]
    assert [i for i,o in enumerate(dense) if o]=={'gradient': due, 'momentum': list(range(30))}.get(grow, [])

@pytest.mark.parametrize('grow', GROW[1:])
def test_a_layer_without_gradient_stays(grow):
    regrower = begun(frozen(), grow=grow)
    before = regrower.sp.masks
    assert sum(steps(regrower))==7
    assert [k for k,m in regrower.sp.masks.items() if torch.equal(m, before[k])]==['3.weight']

@pytest.mark.parametrize('grow', GROW[1:])
@pytest.mark.parametrize('to_none', [True, False])
def test_a_loop_in_the_wrong_order_is_told(grow, to_none):
    regrower = begun(grow=grow)
    for i in range(4):
        F.cross_entropy(regrower.sp.model(X[:20].double()), Y[:20]).backward()
        regrower.opt.step()
        regrower.opt.zero_grad(to_none)
        assert not regrower.step()
    before,masks = everything(regrower.sp.model),regrower.sp.masks
    with pytest.raises(ValueError, match='no layer has a gradient other than 0.*before opt.step'): regrower.step()
    assert regrower.sp.masks==masks and not differing(before, everything(regrower.sp.model)) and regrower.n==4

def test_gradients_that_are_not_finite_move_nothing():
    regrower = begun()
    list(steps(regrower, 0, 4))
    for p in regrower.sp.model.parameters(): p.grad = torch.full_like(p, math.nan)
    before = regrower.sp.masks
    assert not regrower.step() and regrower.sp.masks==before

def test_the_average_forgets_gradients_that_are_not_finite():
    regrower = begun(grow='momentum')
    for i,_ in enumerate(steps(regrower, 0, 40)):
        if i==5: # such as a step that a GradScaler skips
            for p in regrower.sp.model.parameters(): p.grad = torch.full_like(p, math.inf)
            regrower.step()
    assert all(t.isfinite().all() for t in regrower.average.values())
    assert regrower.explored>regrower.sp.masks.density/100

@pytest.mark.parametrize('grow', GROW)
def test_a_loop_with_a_scaler_does_what_one_without_does(grow):
    plain,scaled = begun(grow=grow),begun(grow=grow)
    scaled.sp.model.load_state_dict(plain.sp.model.state_dict())
    scaler = torch.amp.GradScaler('cpu', init_scale=2.**9)
    for i,_ in enumerate(steps(plain)):
        x,y = batch(i)
        scaled.opt.zero_grad()
        scaler.scale(F.cross_entropy(scaled.sp.model(x), y)).backward()
        scaler.unscale_(scaled.opt)
        if not scaled.step(): scaler.step(scaled.opt)
        scaler.update()
    assert not differing(everything(plain.sp.model), everything(scaled.sp.model)) and plain.alive==scaled.alive

def test_explored_is_the_share_that_ever_was_alive():
    regrower = begun(grow='random')
    ever,last = regrower.sp.masks,regrower.explored
    for _ in steps(regrower):
        ever = ever | regrower.sp.masks
        assert regrower.explored==ever.n_kept/ever.n_weights>=last
        last = regrower.explored

# --- The start

@pytest.mark.parametrize('density', [5, 12.5, 50])
def test_the_start_is_exact_and_depends_on_its_seed(density):
    sp = Sparsifier(conv(), method='erk')
    a,b,c = (random_start(sp, density, seed=o) for o in (0,0,1))
    n = a.n_weights
    assert a==b!=c and a.n_kept==c.n_kept==n-round(n*(100-density)/100) and not sp.has_pruned
    assert {k: int(m.sum()) for k,m in a.items()}=={k: int(m.sum()) for k,m in c.items()}

@pytest.mark.parametrize('granularity,within,said', [('weight','rows','within='), ('weight','2:4','single weights'),
                                                     ('2:4','row','single weights or n of m')])
def test_a_start_that_cannot_be(granularity, within, said):
    with pytest.raises(ArgumentError, match=said): random_start(Sparsifier(mlp(), granularity), 50, within)

def test_rows_begin_alike():
    sp = Sparsifier(conv(), method='erk')
    for m in random_start(sp, 10, 'row').values(): assert len({*m.flatten(1).sum(1).tolist()})==1

# --- Stop and go on

@pytest.mark.parametrize('grow', GROW)
@pytest.mark.parametrize('opt', ['adam','sgd'])
@pytest.mark.parametrize('at', [13, 16, 17])
def test_resumed_it_ends_in_the_same_bits(tmp_path, grow, opt, at):
    torch.manual_seed(1)
    through = begun(opt=opt, grow=grow)
    list(steps(through, 0, at))
    path = through.save(tmp_path/'a.safetensors')
    again = begun(opt=opt, grow=grow).load(path)
    assert (again.n,again.sp.masks,again.alive)==(at,through.sp.masks,through.alive)
    for o in (through, again): list(steps(o, at, 40))
    assert not differing(everything(through.sp.model), everything(again.sp.model))
    assert again.sp.masks==through.sp.masks and again.explored==through.explored

def test_a_file_of_something_else_changes_nothing(tmp_path):
    regrower = begun()
    list(steps(regrower, 0, 6))
    path = regrower.save(tmp_path/'a.safetensors')
    whole = path.read_bytes()
    other = whole.replace(b'regrow 1', b'regrow 0')
    files = dict(short=whole[:-9], empty=b'', text=b'{}', other=other)
    for name,data in files.items(): (tmp_path/name).write_bytes(data)
    new = begun(grow='random')
    before,masks = everything(new.sp.model),new.sp.masks
    for name in files:
        with pytest.raises(ArgumentError, match='a whole file that Regrower.save wrote'): new.load(tmp_path/name)
    with pytest.raises(ArgumentError, match="there it's grow='gradient'"): new.load(path)
    with pytest.raises(ArgumentError, match="there it's opt='Adam"): begun(opt='sgd').load(path)
    with pytest.raises(ArgumentError, match='a training of this model'): begun(narrow()).load(path)
    fewer = Sparsifier(conv(), method='erk', layers=nn.Conv2d)
    fewer.put_on(random_start(fewer, 20))
    with pytest.raises(ArgumentError, match='a training of this model: 7.weight'):
        Regrower(fewer, optimizers['adam'](fewer.model.parameters()), 40, every=4).load(path)
    with pytest.raises(ArgumentError, match='as many weights alive as here'): begun(density=30).load(path)
    with pytest.raises(ArgumentError, match="there it's types=.'torch.float64'"): begun(conv().float()).load(path)
    with pytest.raises(OSError): new.load(tmp_path/'nowhere')
    assert not differing(before, everything(new.sp.model)) and new.sp.masks==masks and new.n==0

def test_a_file_runs_no_code(tmp_path):
    path = begun().save(tmp_path/'a.safetensors')
    data = path.read_bytes()
    header = json.loads(data[8:8+int.from_bytes(data[:8], 'little')])
    assert {o['dtype'] for k,o in header.items() if k!='__metadata__'} <= {'F64','F32','BOOL','I64'}

# --- In fastai

def learner(net, opt=torch.optim.Adam, n=4, cbs=None):
    make = partial(OptimWrapper, opt=opt) if opt else {}
    how = dict(opt_func=make) if opt else {}
    return quiet(Learner(few_batches(n), net, loss_func=CrossEntropyLossFlat(), lr=3e-3, cbs=cbs, **how))

class Moves(GradientClip):
    "Before every step: masks, and whether new weights know anything"
    order = 100
    def __init__(self, cb): self.cb,self.seen,self.old = cb,[],0
    def before_step(self): pass
    def after_step(self):
        masks = self.cb.masks
        if self.seen:
            for k,new in (masks - self.seen[-1]).items():
                w = self.cb.sparsifier.weight(k)
                known = [w, *(t for t in self.cb.regrower.opt.state[w].values() if getattr(t, 'shape', None)==w.shape)]
                self.old += sum(int(t[new].count_nonzero()) for t in known)
        self.seen.append(masks)

@pytest.mark.parametrize('grow', GROW)
@pytest.mark.parametrize('opt', [torch.optim.Adam, None], ids=['torch','fastai'])
def test_the_callback_moves_masks(grow, opt):
    cb = RegrowCallback(20, grow=grow, every=3, verbose=False)
    moves,learn = Moves(cb),learner(ConvNet(), opt)
    learn.fit(6, cbs=[cb, moves])
    assert not moves.old and nonzero_pruned(cb.sparsifier)==0 and len(moves.seen)==24
    assert all(o.n_kept==cb.first_masks.n_kept for o in moves.seen)
    changes = [i for i,(a,b) in enumerate(zip(moves.seen, moves.seen[1:]), 1) if a!=b]
    assert changes[:4]==([3,6,9,12] if grow else []) and changes[4:] in ([], [15]) # few move then, or none
    assert learn.recorder.metric_names[-2]=='explored' and cb.sparsifier.dense is False
    told = cb.table[cb.table.metric=='explored'].value.tolist()
    assert len(told)==6 and told==sorted(told) and told[-1]==cb.regrower.explored
    assert {*cb.table.arm}=={dict(zip(GROW, ['static','set','rigl','momentum']))[grow]}

def test_clipping_and_accumulation_see_what_they_should():
    cb = RegrowCallback(20, every=2, verbose=False)
    moves = Moves(cb)
    learner(ConvNet(), cbs=[GradientAccumulation(16), GradientClip(.1)]).fit(6, cbs=[cb, moves])
    assert cb.regrower.n==12 and len({o.digest() for o in moves.seen})>3 and not moves.old

@pytest.mark.parametrize('grow', GROW[1:])
def test_what_clips_sees_no_gradient_of_pruned_weights(grow):
    class Looks(GradientClip):
        def __init__(self, cb): self.cb,self.found = cb,[]
        def before_step(self):
            sp = self.cb.sparsifier
            self.found.append(any(sp.weight(k).grad[~m].any() for k,m in self.cb.masks.items()))
    cb = RegrowCallback(20, grow=grow, every=3, verbose=False)
    looks,learn = Looks(cb),learner(ConvNet(), cbs=[GradientAccumulation(16)])
    learn.fit(6, cbs=[cb, looks])
    assert looks.found and not any(looks.found) and cb.regrower.explored>.2
    assert learn.recorder.metric_names[-2]=='explored' and learn.recorder.values[-1][-1]==cb.regrower.explored

def test_a_fit_that_begins_later_grows_by_dense_gradients():
    class Looks(GradientClip):
        order = 0
        def before_step(self): # before the move
            sp = self.cb.sparsifier
            self.found.append(any(sp.weight(k).grad[~m].any() for k,m in sp.masks.items()))
    looks = Looks()
    looks.cb,looks.found = RegrowCallback(20, every=4, verbose=False),[]
    learner(mlp().float()).fit(6, cbs=[looks.cb, looks], start_epoch=2) # 4 steps each: it begins with step 8
    assert looks.found[:5]==[True,False,False,False,True] and looks.cb.regrower.n==24

@pytest.mark.parametrize('every', [2, 3]) # of 4 steps in an epoch: masks moved in its last one, or before
def test_an_epoch_that_was_saved_comes_back_with_its_mask(tmp_path, every):
    class Best(SaveModelCallback):
        def after_epoch(self):
            if self.epoch==0:
                self._save(self.fname)
                then.append(cb.masks)
    cb,learn,then = RegrowCallback(20, every=every, verbose=False),learner(mlp().float()),[]
    learn.path = tmp_path
    learn.fit(6, cbs=[cb, Best()])
    saved = torch.load(tmp_path/'models/model.pth')
    assert not differing(saved, {k: t for k,t in everything(learn.model).items() if k in saved})
    assert nonzero_pruned(cb.sparsifier)==0 and cb.masks==then[0] and cb.masks.n_kept==cb.first_masks.n_kept
    learn.fit(3, cbs=cb)
    assert cb.masks.n_kept==cb.first_masks.n_kept

@pytest.mark.parametrize('within,density', [('row',20), ('2:4',50)])
def test_the_callback_keeps_rows_and_n_of_m(within, density):
    cb = RegrowCallback(density, within=within, every=3, verbose=False)
    learner(mlp().float()).fit(6, cbs=cb)
    first,w = cb.first_masks,find_layers(mlp())
    def counts(masks): return {k: groups_of(w[k], within)[m.flatten()].bincount().tolist() for k,m in masks.items()}
    assert cb.masks!=first and counts(cb.masks)==counts(first)

def test_a_fit_without_a_move_says_so():
    with pytest.warns(UserWarning, match='masks never move: every=100, and 18 of 24 steps'):
        learner(ConvNet()).fit(6, cbs=RegrowCallback(20, verbose=False))

def test_a_fraction_is_asked_about_once():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        learner(mlp().float()).fit(2, cbs=RegrowCallback(.5, every=3, verbose=False))
        DynamicSparse(mlp, DATA, .5, 'rigl', 2, n_step=24, bs=20, every=3)
        random_start(Sparsifier(mlp()), .5)
    assert sum('for 50 percent say density=50' in str(o.message) for o in told)==3 # each of them once

def test_layers_that_stay_dense_are_named(capsys):
    net = narrow().float()
    learner(net).fit(2, cbs=RegrowCallback(50, within='2:4', every=3)) # the first layer has one input
    assert 'of the weights are alive, all of 0.weight, and they move' in capsys.readouterr().out

def sparsify(): return SparsifyCallback(50, 'weight', 'local', large_final, one_shot, verbose=False)
def regrow(**how): return RegrowCallback(20, every=3, verbose=False, **how)

@pytest.mark.parametrize('others,named', [
    (lambda net: [regrow(), regrow()], 'RegrowCallback, RegrowCallback'),
    (lambda net: [sparsify(), regrow()], 'SparsifyCallback, RegrowCallback'),
    (lambda net: [regrow(), sparsify()], 'RegrowCallback, SparsifyCallback'),
    (lambda net: [regrow(), HoldMasks(Sparsifier(net))], 'HoldMasks, RegrowCallback'),
    (lambda net: [sparsify(), HoldMasks(Sparsifier(net))], 'HoldMasks, SparsifyCallback')])
def test_two_callbacks_that_prune_the_same_layers(others, named):
    net = mlp().float()
    before = everything(net)
    with pytest.raises(ArgumentError, match=rf'cbs=\[{named}\]: expected callbacks of different layers.*1.weight'):
        learner(net).fit(2, cbs=others(net))
    assert not differing(before, everything(net))

def test_callbacks_of_different_layers_go_together():
    net = mlp().float()
    cb,other = regrow(layers='1'),HoldMasks(Sparsifier(net, layers='3'))
    other.sparsifier.sparsify(50)
    learner(net).fit(3, cbs=[cb, other])
    assert cb.masks!=cb.first_masks and nonzero_pruned(cb.sparsifier)==nonzero_pruned(other.sparsifier)==0

def under(masks, tensors): return {k: t*masks[k]+0 if k in masks else t for k,t in tensors.items()}

def test_its_ticket(tmp_path):
    cb,net = regrow(),mlp().float()
    assert cb.ticket is None
    first = everything(net)
    learner(net).fit(4, cbs=cb)
    ticket = cb.ticket
    assert ticket.masks==cb.masks!=cb.first_masks and ticket.meta['rewind']==0 and ticket.table.equals(cb.table)
    assert ticket.meta['grow']=='gradient' and 'criteria' not in ticket.meta
    rewound = under(cb.masks, first) # what has grown, too, as it was drawn
    assert not differing(ticket.state, rewound) and not differing(ticket.trained, everything(net))
    new = mlp().float()
    ticket.load(ticket.save(tmp_path/'a.safetensors')).apply_to(new)
    assert not differing(everything(new), rewound)
    learner(net).fit(2, cbs=cb)
    assert not differing(cb.ticket.state, under(cb.masks, first))

def test_a_fit_that_should_go_on_says_where(tmp_path):
    class Store(GradientClip):
        order = 99
        def before_step(self): pass
        def after_epoch(self):
            if self.epoch==2: cb.save(path)
    cb,path = RegrowCallback(20, every=3, verbose=False),tmp_path/'a.safetensors'
    learner(ConvNet()).fit(6, cbs=[cb, Store()])
    for first,said,how in ((0, 'start_epoch=0: expected the epoch to go on with', {}), (2, 'start_epoch=2', {}),
                           (3, 'as many weights alive', dict(density=30)), (3, "there it's every=3", dict(every=4))):
        new,other = learner(ConvNet()),RegrowCallback(**dict(density=20, every=3, verbose=False, resume=path) | how)
        before = everything(new.model)
        with pytest.raises(ArgumentError, match=said): new.fit(6, cbs=other, start_epoch=first)
        assert not differing(before, everything(new.model)) and other.masks is None

@pytest.mark.parametrize('opt', [torch.optim.Adam, None], ids=['torch','fastai'])
def test_a_fit_that_goes_on(tmp_path, opt):
    def fit(cb, net, first, n, store=None):
        learn = learner(net, opt)
        class Store(GradientClip):
            order = 99
            def before_step(self): pass
            def after_epoch(self):
                if self.epoch==2 and store: cb.save(store)
        learn.fit(n, cbs=[cb, Store()], start_epoch=first)
        return everything(net)
    torch.manual_seed(0)
    net = mlp().float()
    start,path = everything(net),tmp_path/'a.safetensors'
    whole = fit(RegrowCallback(20, every=3, verbose=False), net, 0, 6, path)
    new = RegrowCallback(20, every=3, verbose=False, resume=path)
    assert not differing(whole, fit(new, mlp().float(), 3, 6)) and differing(start, whole)
    assert new.ticket is None # the first weights aren't in the file
    assert new.regrower.n==24

def test_a_second_fit_goes_on_with_its_masks():
    cb,learn = RegrowCallback(20, every=3, verbose=False),learner(ConvNet())
    learn.fit(3, cbs=cb)
    masks,explored = cb.masks,cb.regrower.explored
    learn.fit(1, cbs=cb)
    assert cb.masks==masks and cb.regrower.explored==explored and cb.regrower.growth.n_step==4 # one move at most is due
    learn.fit(3, cbs=cb)
    assert cb.masks!=masks and cb.regrower.explored>explored
    told = cb.table[cb.table.metric=='explored']
    assert told.epoch.tolist()==[*range(7)] and told.step.tolist()==[4*o for o in range(1, 8)]

def test_looking_moves_nothing():
    cb,learn = RegrowCallback(20, every=3, verbose=False),learner(ConvNet())
    learn.fit(3, cbs=cb)
    before,masks = everything(learn.model),cb.masks
    with learn.added_cbs(cb): learn.validate()
    assert cb.masks==masks and not [k for k in differing(before, everything(learn.model)) if k!='seen']

# --- Many seeds

def recipe(model=conv, **how):
    own = dict(density=(20,10), arms=('static','set','rigl'), seeds=[3,5], n_step=24, bs=20, every=3, eval_every=8)
    return DynamicSparse(model, DATA, device='cpu', **own | how)

def alone(r, seed, density, grow, opt='adam'):
    "The same network by itself, with a `Regrower`"
    net = r.network(seed)
    how = dict(lr=r.lr, weight_decay=r.wd) | (dict(momentum=r.momentum) if r.opt=='sgd' else {})
    opt = dict(adam=torch.optim.Adam, adamw=torch.optim.AdamW, sgd=torch.optim.SGD)[r.opt](net.parameters(), **how)
    sp = Sparsifier(net, *(('weight','erk') if ':' not in r.within else (r.within,'local')))
    sp.put_on(random_start(sp, density, r.within, seed))
    sp.watch(opt)
    regrower = Regrower(sp, opt, r.n_step, grow, r.drop, r.every, r.until, r.within if ':' not in r.within else 'layer',
                        seed)
    orders = batch_orders([order_of(seed, r.round_of[density])], len(X), r.bs)
    for step,(rows,) in zip(range(r.n_step), orders):
        for group in opt.param_groups: group['lr'] = r.lr_at(step)
        opt.zero_grad()
        F.cross_entropy(net(X[rows].double()), Y[rows]).backward()
        if not regrower.step(): opt.step()
    return regrower

@pytest.mark.parametrize('grow', GROW)
@pytest.mark.parametrize('how', [dict(), dict(model=mlp, opt='adamw', wd=.1), dict(opt='sgd', lr=.05, wd=.01),
                                 dict(model=mlp, within='row'), dict(model=mlp, within='2:4', density=50),
                                 dict(model=frozen)])
def test_each_of_a_stack_is_what_it_is_alone(grow, how):
    r = recipe(**how)
    d = r.density[-1]
    masks = [r.first_masks[d,s] for s in r.seeds]
    growth = Growth(r.n_step, grow, r.drop, r.every, r.until, r.within)
    stack = GrowingStack(r, [r.first_ticket(s, m) for s,m in zip(r.seeds, masks)], r.seeds, growth, r.sp)
    run = stack.train([order_of(s, r.round_of[d]) for s in r.seeds])
    for i,s in enumerate(r.seeds):
        one = alone(r, s, d, grow)
        assert one.sp.masks==Masks({k: m[i] for k,m in stack.masks.items()})
        assert one.alive==Masks({k: m[i] for k,m in stack.alive.items()})
        assert run.measured[r.n_step]['explored'][i]==pytest.approx(one.explored, abs=1e-6)
        for k,t in everything(one.sp.model).items(): torch.testing.assert_close(run.ends[i][k], t, rtol=1e-6, atol=1e-7)

@pytest.mark.parametrize('model', [mlp, conv])
def test_two_threads_train_the_same_networks(model):
    "The same rows as in one stack, up to rounding in double precision: masks move alike"
    def table(n):
        with threads(n): return dynamic_sparse(model, DATA, density=20, arms=('set','rigl'), seeds=9, n_step=24, bs=20,
                                               every=3, eval_every=8, device='cpu', progress=False)
    a,b = table(1),table(2)
    assert a.drop(columns='value').equals(b.drop(columns='value'))
    np.testing.assert_allclose(a.value, b.value, rtol=1e-7)

def test_a_stack_is_what_the_callback_gives():
    r = recipe(density=10, seeds=[5])
    df = dynamic_sparse(conv, DATA, density=10, arms='rigl', seeds=[5], n_step=24, bs=20, every=3, device='cpu',
                        progress=False)
    rows = [next(o)[0] for o in [batch_orders([order_of(5, r.round_of[10])], len(X), 20)] for _ in range(24)]
    train = [(X[o].double(), Y[o]) for o in rows]
    class Batches(list): # what fastai asks of a loader
        n_inp,device,bs = 1,torch.device('cpu'),20
    dls = DataLoaders(Batches(train), Batches([(VX.double(), VY)]), device='cpu')
    net = r.network(5)
    learn = quiet(Learner(dls, net, loss_func=nn.CrossEntropyLoss(), lr=r.lr, wd=0.,
                          opt_func=partial(OptimWrapper, opt=torch.optim.Adam)))
    learn.remove_cb(Recorder) # which takes no doubles
    cb = RegrowCallback(10, every=3, seed=5, verbose=False)
    learn.fit(1, cbs=cb)
    end = df[(df.step==24) & (df.arm=='rigl')].set_index('metric').value
    assert end.explored==pytest.approx(cb.regrower.explored, abs=1e-6)
    with torch.no_grad(): out = net.eval()(VX.double())
    assert end.valid_loss==pytest.approx(F.cross_entropy(out, VY).item(), rel=1e-6)

def test_the_table():
    arms = ['static','set','rigl','momentum','ticket']
    how = dict(n_step=24, bs=20, device='cpu', eval_every=8)
    df = dynamic_sparse(mlp, DATA, (10,20), arms, [3,5], every=3, rounds=3, progress=False, **how)
    assert [*dict.fromkeys(df.arm)]==['dense',*arms] and {*df.seed}=={3,5} and {*df['round']}=={0,1,2}
    assert not df.duplicated(['arm','seed','round','step','metric']).any()
    by = df[df.arm!='dense'].groupby(['round']).density
    n = 64*30+300
    assert by.nunique().tolist()==[1,1] and by.first().tolist()==pytest.approx([100*round(.2*n)/n, 100*round(.1*n)/n])
    ever = df[df.metric=='explored'].pivot_table(index=['round','seed','step'], columns='arm', values='value')
    assert {*ever}=={*arms}-{'ticket'} and ever.static.groupby('round').nunique().tolist()==[1,1]
    for a in ('set','rigl','momentum'):
        assert (ever[a]>=ever.static).all() and (ever[a]>ever.static).groupby(level=[0,1]).last().all()
    first = df[(df.step==0) & (df.metric=='valid_loss') & (df['round']>0)]
    first = first.pivot_table(index=['round','seed'], columns='arm', values='value')
    assert all((first[a]==first.static).all() for a in ('set','rigl','momentum')) # the same masks
    prune = DynamicSparse(mlp, DATA, (10,20), 'ticket', [3,5], rounds=3, **how).search()
    curve = lottery_curve(mlp, DATA, [3,5], prune=prune, arms=['ticket'], progress=False, **how)
    ours = df[(df.arm=='ticket') & (df['round']==2)].sort_values(['seed','metric','step']).value.tolist()
    theirs = curve[(curve.arm=='ticket') & (curve['round']==len(prune))].sort_values(['seed','metric','step'])
    assert ours==theirs.value.tolist() and prune[-1]==90 and 80 in prune

def test_dense_networks_are_the_same_without_tickets():
    how = dict(density=20, seeds=2, n_step=24, bs=20, device='cpu', rounds=2, progress=False)
    a,b = (dynamic_sparse(mlp, DATA, arms=arms, **how) for arms in ('static',['static','ticket']))
    for arm in ('dense','static'):
        same = [o[o.arm==arm].sort_values(['seed','step','metric']).value.tolist() for o in (a, b)]
        assert same[0]==pytest.approx(same[1], rel=1e-9)

def test_bars_are_told():
    told = []
    dynamic_sparse(mlp, DATA, (20,10), ['set','ticket'], 2, n_step=24, bs=20, rounds=2, batch_seeds=1,
                   progress=lambda done, total, comment: told.append((done, total)))
    done,total = zip(*told)
    assert list(done)==sorted(done) and len({*total})==1 and done[-1]<=total[0] and done[-1]>.9*total[0]-24

def test_n_of_m_has_a_distribution_of_its_own():
    assert recipe(mlp, within='2:4', density=50, distribution='erk').settings['distribution']=='local'
    assert RegrowCallback(50, 'er', within='2:4').distribution.name=='local'

def test_masks_that_stay_have_no_steps_to_move_at():
    df = dynamic_sparse(mlp, DATA, 20, 'static', 1, n_step=4, bs=20, every=9, until=0., progress=False)
    assert {*df.arm}=={'dense','static'}

def test_a_network_that_diverges_is_named():
    with pytest.warns(UserWarning, match="rigl, 10 % density: the loss isn't finite"):
        df = dynamic_sparse(conv, DATA, 10, 'rigl', [3], opt='sgd', lr=1e12, n_step=24, bs=20, every=3, progress=False)
    assert df.value.notna().all()

# --- The ladder

def made(values): # arm -> values by seed
    rows = [dict(arm=a, seed=s, round=1, density=10., epoch=0, step=9, metric=m, value=v)
            for a,vs in values.items() for s,v in enumerate(vs) for m in ('accuracy','explored')]
    return pd.DataFrame(rows)

def test_the_ladder_by_hand():
    values = dict(static=[.90,.91,.92,.90], set=[.93,.95,.94,.94], rigl=[.93,.95,.95,.94], ticket=[.97,.97,.98,.98])
    found = ladder(made(values))
    pairs = [('set','static'),('rigl','set'),('ticket','rigl'),('rigl','static')]
    assert list(zip(found.arm, found.versus))==pairs and (found.comparisons==4).all()
    for o,(high,low) in zip(found.itertuples(), pairs):
        mean,half = mean_interval([a-b for a,b in zip(values[high], values[low])], 4)
        assert (o.difference,o.difference_interval)==pytest.approx((mean, half)) and o.pairs==4
    assert found.shown.tolist()==[True,False,True,True]
    assert found.finding[0].startswith('at 10 % density SET networks beat static masks by')
    assert 'cannot show a difference between RigL networks and SET networks' in found.finding[1]
    assert found.finding[2].startswith('at 10 % density tickets beat RigL networks by')

def test_the_ladder_without_some():
    found = ladder(made(dict(static=[.9,.91], rigl=[.93,.95])))
    assert list(zip(found.arm, found.versus))==[('rigl','static')]
    with pytest.raises(ArgumentError, match='two arms to compare'): ladder(made(dict(static=[.9,.91])))

def test_the_figure():
    df = dynamic_sparse(mlp, DATA, (20,10), ['static','rigl'], 2, n_step=24, bs=20, every=3, progress=False)
    left,right = plot_dynamic(df).axes
    assert [o.get_text() for o in left.get_legend().get_texts()]==['dense networks','static masks','RigL networks']
    end = summarise(df[df.metric!='explored'], 'accuracy').set_index(['arm','round'])['mean']
    line = next(o for o in left.lines if o.get_label()=='RigL networks')
    assert line.get_ydata().tolist()==pytest.approx([100*end['rigl',1], 100*end['rigl',2]])
    ever = next(o for o in right.lines if o.get_label()=='RigL networks')
    assert ever.get_ydata()[-1]==pytest.approx(df[(df.metric=='explored') & (df['round']==2) & (df.arm=='rigl')
                                                  & (df.step==24)].value.mean())
    with pytest.raises(ArgumentError, match='more arms than tickets'): plot_dynamic(df[df.metric!='explored'])
    with pytest.raises(ArgumentError, match='a table of measurements'): plot_dynamic(pd.DataFrame())

def test_intervals_of_two_seeds_leave_the_axis_at_what_accuracy_can_be():
    left,_ = plot_dynamic(made(dict(static=[.1,.9], rigl=[.3,.99]))).axes
    assert left.get_ylim()==(0,100)

def test_papers():
    with seeded(0): df = dynamic_sparse(mlp, DATA, 20, 'rigl', 1, n_step=24, bs=20, progress=False)
    assert all(o in cite(df) for o in ('1911.11134','2102.02887','10.1038/s41467-018-04316-3'))
    assert df.attrs['function']=='lottery_nb.regrow.dynamic_sparse' and df.attrs['distribution']=='erk'

# --- What can't be

@pytest.mark.parametrize('how,said', [
    (dict(grow='best'), 'grow'), (dict(drop=1.1), 'drop=1.1'), (dict(every=0), 'every=0'), (dict(until=-1), 'until=-1'),
    (dict(within='kernel'), 'within='), (dict(within='3:2'), '3:2'), (dict(density=0), 'density=0'),
    (dict(density=101), 'density=101'), (dict(distribution='even'), 'distribution'), (dict(seed=-1), 'seed=-1'),
    (dict(grow='rigl'), "grow='rigl': expected 'gradient'"), (dict(grow='set'), "grow='set': expected 'random'"),
    (dict(grow='static'), "grow='static': expected None"), (dict(grow=[]), 'grow='),
    (dict(sparsity=70), 'sparsity=70: expected `density`.*density=30')], ids=str)
def test_bad_arguments_of_the_callback(how, said):
    with pytest.raises(ArgumentError, match=said): RegrowCallback(**dict(density=10) | how)

@pytest.mark.parametrize('make,said', [
    (lambda: Sparsifier(conv(), 'filter', layers=nn.Conv2d), 'single weights or n of m'),
    (lambda: Sparsifier(conv(), pruned_to='init'), "pruned_to='zero'"),
    (lambda: Sparsifier(nn.utils.parametrizations.weight_norm(nn.Linear(4,4))), 'becoming NaN')])
def test_what_does_not_move(make, said):
    sp = make()
    sp.sparsify(50)
    with pytest.raises(ArgumentError, match=said): Regrower(sp, torch.optim.SGD(sp.model.parameters()), 10)

def test_weights_that_would_become_nan_do_not_move(monkeypatch):
    def normed(): return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64,10)))
    monkeypatch.setattr(Stack, 'train', lambda *args, **kwargs: pytest.fail('something was trained'))
    with pytest.raises(ArgumentError, match='layers=.*becoming NaN'): dynamic_sparse(normed, DATA, n_step=24, bs=20)
    net = normed()
    before = everything(net)
    cb = RegrowCallback(20, every=2)
    with pytest.raises(ArgumentError, match='layers=.*becoming NaN'): learner(net).fit(1, cbs=cb)
    assert not differing(before, everything(net))

def test_the_optimizer_of_another_model():
    regrower = begun()
    with pytest.raises(ArgumentError, match="opt='Adam': expected an optimizer of the weights that move"):
        Regrower(regrower.sp, optimizers['adam'](conv().parameters()), 40, every=4)

@pytest.mark.parametrize('how,said', [
    (dict(density=0), 'density=0'), (dict(density=100), 'density=100'), (dict(density=[]), 'density'),
    (dict(density=[10,10]), 'density'), (dict(arms='snip'), 'arms'), (dict(arms=[]), 'arms'),
    (dict(rounds=0), 'rounds'),
    (dict(every=0), 'every'), (dict(every=18), 'every=18'), (dict(within='filter'), 'within'),
    (dict(within='2:4'), 'density=10'),
    (dict(seeds=0), 'seeds'), (dict(prune=3), 'prune')], ids=str)
def test_bad_arguments_of_the_experiment(how, said, monkeypatch):
    monkeypatch.setattr(Stack, 'train', lambda *args, **kwargs: pytest.fail('something was trained'))
    with pytest.raises(ArgumentError, match=said): dynamic_sparse(mlp, DATA, **dict(density=10, n_step=24, bs=20) | how)

def test_data_that_are_not_in_memory_are_told_what_takes_them():
    with pytest.raises(ArgumentError, match='data=DataLoaders: .*RegrowCallback takes any others'):
        dynamic_sparse(mlp, few_batches(2))
