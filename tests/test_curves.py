"Curves of many seeds at once: every replicate against the same training written as a plain loop, the masks, the faults, and what is said of it all"
import json, os, random, subprocess, sys, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch import nn

from lottery_nb import curves
from lottery_nb.data import digits_dls
from lottery_nb.evidence import plot_curve, plot_learning
from lottery_nb.curves import (_Chunk, _Order, _Stack, _linear_layers, _number, _plan, arm_names, early_stop, lottery_curve, lr_schedules,
                                   mean_interval, memory_needed, summarise)
from lottery_nb.find import _n_pruned, _seeded
from lottery_nb.masks import named_tensors
from lottery_nb.sparsifier import Sparsifier
from models import ConvNet, differing

(X,Y),(VX,VY) = [[t.as_subclass(torch.Tensor) for t in dl.stacked()] for dl in digits_dls()]
DATA = (X,Y),(VX,VY)

def mlp(): return nn.Sequential(nn.Flatten(), nn.Linear(64,30), nn.ReLU(), nn.Linear(30,20,bias=False), nn.ReLU(), nn.Linear(20,10))
def tanh(): return nn.Sequential(nn.Flatten(), nn.Linear(64,30), nn.Tanh(), nn.LayerNorm(30), nn.Linear(30,10))
def conv():
    return nn.Sequential(nn.Conv2d(1,6,3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6,8,3,groups=2), nn.GroupNorm(2,8), nn.ReLU(),
                         nn.Flatten(), nn.Linear(8*16,10))
def frozen():
    net = tanh()
    net[3].requires_grad_(False)
    return net

# A bias before BatchNorm has no gradient but what is left of it by rounding, and Adam makes whole steps of that: only with doubles, where Adam's
# epsilon is far above the rounding, are two such trainings to be compared
def conv64(): return conv().double()
def ConvNet64(): return ConvNet().double()

def plan(model=mlp, data=DATA, **given):
    how = dict(rounds=2, prune=30, arms=('ticket','reinit','shuffle','random'), steps=12, bs=20, opt='adam', lr=2e-3, wd=0., momentum=.9,
               lr_schedule='constant', rewind=0, method='global', final_layer_rate=None, layers=None, allow_collapse=False,
               loss=F.cross_entropy, eval_every=6, device='cpu')
    return _plan(model, data, **{**how, **given})

def curve(model=mlp, data=DATA, seeds=3, rounds=2, **kwargs):
    return lottery_curve(model, data, seeds, rounds, **dict(dict(prune=30, steps=12, bs=20, eval_every=6, progress=False, device='cpu'), **kwargs))

# --- Against a plain loop ------------------------------------------------------------------------------------------------------------------

def new(model, *what):
    with _seeded(*what): return model()

def optimizer(opt, net, lr, wd, momentum):
    ps = [p for p in net.parameters() if p.requires_grad]
    if opt=='sgd': return torch.optim.SGD(ps, lr=lr, momentum=momentum, weight_decay=wd)
    return dict(adam=torch.optim.Adam, adamw=torch.optim.AdamW)[opt](ps, lr=lr, weight_decay=wd)

def train_plainly(net, masks, seed, r, steps, bs=20, opt='adam', lr=2e-3, wd=0., momentum=.9, factor=lambda t: 1., first=0, keep=None):
    "One network, one batch at a time, PyTorch as it is"
    sp = Sparsifier(net)
    if masks: sp.put_on(masks)
    o,g,point,order = optimizer(opt, net, lr, wd, momentum),torch.Generator().manual_seed(_number(seed, 'order', r)),None,[]
    while len(order)<steps: order += torch.randperm(len(X), generator=g)[:len(X)//bs*bs].split(bs)
    net.train()
    x,vx = (t.to(next(net.parameters()).dtype) for t in (X,VX))
    for i in range(first, steps):
        if i==keep: point = {k: t.detach().clone() for k,t in named_tensors(net).items()}
        for group in o.param_groups: group['lr'] = lr*factor(i/steps)
        o.zero_grad()
        F.cross_entropy(net(x[order[i]]), Y[order[i]]).backward()
        o.step()
        sp.apply()
    net.eval()
    with torch.no_grad(): out = net(vx)
    return F.cross_entropy(out, VY).item(), (out.argmax(1)==VY).float().mean().item(), point

def at_end(df, arm, seed, r, metric): return df[(df.arm==arm) & (df.seed==seed) & (df['round']==r) & (df.metric==metric)].value.iloc[-1]

@pytest.mark.parametrize('model', [mlp, tanh, conv64, frozen, ConvNet64], ids=lambda o: o.__name__)
@pytest.mark.parametrize('how', [dict(opt='adam'), dict(opt='adamw', wd=.1, lr_schedule='one_cycle'), dict(opt='sgd', lr=.05, wd=.01, lr_schedule='cosine')],
                         ids=lambda o: o['opt'])
def test_dense_replicates_are_what_a_plain_loop_gives(model, how):
    how = dict(lr=2e-3, lr_schedule='constant') | how
    df = curve(model, seeds=[4,7], rounds=1, arms=('ticket',), steps=40, **how)
    factor = lr_schedules[how.pop('lr_schedule')]
    for seed in (4,7):
        loss,accuracy,_ = train_plainly(new(model, seed, 'init'), None, seed, 0, 40, factor=factor, **how)
        assert at_end(df, 'dense', seed, 0, 'valid_loss')==pytest.approx(loss, rel=1e-3)
        assert at_end(df, 'dense', seed, 0, 'accuracy')==pytest.approx(accuracy, abs=2/360)

@pytest.mark.parametrize('model', [mlp, conv64], ids=lambda o: o.__name__)
@pytest.mark.parametrize('rewind', [0, 5])
def test_all_arms_of_the_first_round_are_what_a_plain_loop_gives(model, rewind):
    df = curve(model, seeds=[1,2], rounds=1, steps=25, rewind=rewind, lr=2e-3)
    for seed in (1,2):
        net = new(model, seed, 'init')
        init = {k: t.detach().clone() for k,t in named_tensors(net).items()}
        *_,point = train_plainly(net, None, seed, 0, 25, keep=rewind)
        masks = Sparsifier(net).sparsify(30)
        again = new(model, seed, 'init')
        again.load_state_dict(point)
        loss = train_plainly(again, masks, seed, 1, 25, first=rewind)[0]
        assert at_end(df, 'ticket', seed, 1, 'valid_loss')==pytest.approx(loss, rel=1e-3)
        loss = train_plainly(new(model, seed, 'reinit', 1), masks, seed, 1, 25)[0]
        assert at_end(df, 'reinit', seed, 1, 'valid_loss')==pytest.approx(loss, rel=1e-3)
        assert not differing(init, {k: t for k,t in named_tensors(new(model, seed, 'init')).items()})
    assert set(df[(df['round']==1) & (df.arm=='ticket')].step)=={rewind, 6, 12, 18, 24, 25}
    assert set(df[(df['round']==1) & (df.arm=='random')].step)=={0, 6, 12, 18, 24, 25}

def trained_chunk(p, seeds):
    "The first weights, the trained ones and the masks of round 1, by seed"
    chunk = _Chunk(p, seeds)
    init = [p.first_weights(s, 'init') for s in seeds]
    stack = p.stack(chunk.net, init)
    stack.train(_Order([_number(s, 'order', 0) for s in seeds], len(X), p.bs))
    states = stack.states()
    return {s: (st, chunk.prune(i, {k: st[k] for k in chunk.sp.layers}, 1)) for i,(s,st) in enumerate(zip(seeds, states))}

@pytest.mark.parametrize('model', [mlp, tanh, conv64, ConvNet64], ids=lambda o: o.__name__)
def test_a_replicate_of_a_batch_is_the_seed_alone(model):
    p = plan(model, steps=100, bs=10)
    together = trained_chunk(p, [3,0,8,5])
    for seed in (0,5):
        (a,ma),(b,mb) = together[seed],trained_chunk(p, [seed])[seed]
        for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-3, atol=1e-4)
        far = {k: t for k,t in ma.items() if (t!=mb[k]).any()}
        for k in far: # only where two weights are as close to each other as the two trainings are
            line = a[k].abs()[~ma[k]].max()
            assert ((a[k].abs()[ma[k]!=mb[k]] - line).abs()<1e-3).all()
        assert sum(int((t!=mb[k]).sum()) for k,t in far.items()) <= max(2, .002*ma.n_weights)

def test_statistics_of_batchnorm_are_each_replicates_own():
    p = plan(conv64, steps=7)
    together = trained_chunk(p, [0,1])
    for seed in (0,1):
        net = new(conv64, seed, 'init')
        train_plainly(net, None, seed, 0, 7)
        state = together[seed][0]
        for k,t in net.named_buffers(): torch.testing.assert_close(state[k], t, rtol=1e-6, atol=1e-8)
        assert state['1.num_batches_tracked']==7
    assert not torch.allclose(together[0][0]['1.running_mean'], together[1][0]['1.running_mean'])

# --- The same numbers ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('model', [mlp, conv], ids=lambda o: o.__name__)
def test_same_call_same_bits(model): assert curve(model).equals(curve(model))

@pytest.mark.parametrize('model', [mlp, conv64], ids=lambda o: o.__name__)
def test_the_split_changes_nothing_that_can_be_seen(model):
    a,b = curve(model, seeds=5, steps=30),curve(model, seeds=5, steps=30, batch_seeds=2)
    assert a.drop(columns='value').equals(b.drop(columns='value'))
    assert (a.value-b.value).abs()[a['round']==0].max()<1e-3

def test_threads_change_nothing_that_can_be_seen():
    a = curve(seeds=4)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        b = curve(seeds=4)
    finally: torch.set_num_threads(before)
    np.testing.assert_allclose(a.value[a['round']==0], b.value[b['round']==0], atol=1e-3)

def test_random_numbers_are_left_alone():
    def now(): return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    def seed(): torch.manual_seed(1), np.random.seed(1), random.seed(1)
    seed()
    expected = now()
    seed()
    curve()
    assert now()==expected
    seed()
    a = curve()
    torch.manual_seed(5)
    assert a.equals(curve())

def test_loaders_are_the_tensors_in_them():
    a,b = curve(data=digits_dls(), seeds=2),curve(data=[[t.numpy() for t in o] for o in DATA], seeds=2)
    assert a.equals(b) and a.equals(curve(seeds=2))

# --- Masks ---------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('how', [dict(prune=30), dict(prune=[20,61.5]), dict(prune=40, method='local', final_layer_rate=10), dict(prune=30, layers=['1','5'])],
                         ids=str)
def test_counts_are_exact_and_pruned_weights_stay_zero(how, monkeypatch):
    p,step,seen = plan(**how),_Stack.step,[]
    def look(self, *args):
        losses = step(self, *args)
        seen.append(all(not (self.tensors[k].detach()[b==0]!=0).any() and not torch.signbit(self.tensors[k].detach()[b==0]).any() for k,b in self.bits.items()))
        return losses
    monkeypatch.setattr(_Stack, 'step', look)
    chunk = _Chunk(p, [0,1])
    begin,masks = chunk.begin,[]
    def keep(arm, r):
        out = begin(arm, r)
        masks.append((arm, r, out[1]))
        return out
    chunk.begin = keep
    chunk.run()
    assert seen and all(seen)
    sizes = {k: m.numel() for k,m in masks[0][2][0].items()}
    assert list(sizes)==(['1.weight','5.weight'] if 'layers' in how else ['1.weight','3.weight','5.weight'])
    last = list(sizes)[-1]
    for (arm,r,of_seeds),i in ((o,i) for o in masks for i in (0,1)):
        pruned = {k: int((~t).sum()) for k,t in of_seeds[i].items()}
        ticket = {k: int((~t).sum()) for a,q,m in masks if (a,q)==('ticket',r) for k,t in m[i].items()}
        if how.get('method')=='local': assert ticket=={k: _n_pruned(n, 10. if k==last else 40., r) for k,n in sizes.items()}
        else: assert sum(ticket.values())==_n_pruned(sum(sizes.values()), p.prune, r)
        if arm=='random': assert sum(pruned.values())==sum(ticket.values())
        else: assert pruned==ticket
    for i in (0,1):
        one,two = [m[i] for a,q,m in masks if a=='ticket']
        assert not any((two[k] & ~one[k]).any() for k in one)
    assert masks[0][2][0]!=masks[0][2][1]

def test_random_numbers_of_an_arm_depend_on_seed_and_round():
    chunk = _Chunk(plan(), [0,1]).run()
    for arm in ('shuffle','random'):
        one = [chunk.begin(arm, 1)[1][0], chunk.begin(arm, 1)[1][1], chunk.begin(arm, 2)[1][0]]
        assert len({o.digest() for o in one})==3 and one[0]==chunk.begin(arm, 1)[1][0]
    fresh = [chunk.begin('reinit', r)[0][i]['1.weight'] for r,i in ((1,0),(1,1),(2,0))]
    assert not torch.equal(fresh[0], fresh[1]) and not torch.equal(fresh[0], fresh[2]) and not torch.equal(fresh[0], chunk.init[0]['1.weight'])

# --- The table -----------------------------------------------------------------------------------------------------------------------------

def test_table_is_whole():
    df = curve(seeds=[9,2], rounds=2, arms=('reinit','random'), eval_every=5)
    assert list(df.columns)==['arm','seed','round','density','step','metric','value']
    assert len(df)==2*2*(1+2*2)*4 and not df.value.isna().any()
    assert set(df.arm)=={'dense','reinit','random'} and set(df.step)=={0,5,10,12} and set(df.metric)=={'accuracy','valid_loss'}
    assert df[df.arm=='dense']['round'].eq(0).all() and df[df.arm=='dense'].density.eq(100).all()
    assert df.attrs['seeds']==[9,2] and df.attrs['steps']==12 and 'torch' in df.attrs['versions']
    assert df[df.metric=='accuracy'].value.between(0, 1).all()

def test_arms_do_not_change_each_other():
    whole,few = curve(seeds=2),curve(seeds=2, arms='ticket')
    some = whole[whole.arm.isin(['dense','ticket'])].reset_index(drop=True)
    assert some.drop(columns='value').equals(few.drop(columns='value'))
    np.testing.assert_allclose(some.value, few.value, atol=2e-2)

def test_other_losses():
    def half(pred, y): return ((pred[:,0]-y)**2).mean()/2
    y,vy = X.flatten(1).mean(1),VX.flatten(1).mean(1)
    df = curve(data=((X,y),(VX,vy)), loss=half, steps=60, bs=60)
    assert set(df.metric)=={'valid_loss'}
    last = df[df.arm=='dense'].groupby('seed').value.agg(['first','last'])
    assert (last['last']<last['first']).all()

def by_hand(values):
    "A table as from `lottery_curve`: arm, round -> value of each seed at two steps"
    rows = [(arm, seed, r, 100*.8**r, step, metric, v if metric=='accuracy' else 1-v/(1+step)) for (arm,r),vs in values.items()
            for seed,v in enumerate(vs) for step in (0,10) for metric in ('accuracy','valid_loss')]
    return pd.DataFrame(rows, columns=['arm','seed','round','density','step','metric','value'])

def test_summary_is_paired_and_says_what_can_be_shown():
    df = by_hand({('dense',0): [.90,.92,.94], ('ticket',1): [.91,.935,.95], ('reinit',1): [.88,.90,.925], ('random',1): [.95,.90,.96]})
    t = summarise(df).set_index('arm')
    assert t.loc['reinit','difference']==pytest.approx(np.mean([.03,.035,.025])) and t.loc['ticket','difference']==pytest.approx(np.mean([.01,.015,.01]))
    half = 4.302652729911275*np.std([.03,.035,.025], ddof=1)/3**.5
    assert t.loc['reinit','difference_interval']==pytest.approx(half)
    assert t.loc['reinit','finding']=='at 80 % density tickets beat fresh weights by 3.0 ± 1.2 points, 3 seeds'
    assert '3 seeds cannot show a difference between tickets and random masks (' in t.loc['random','finding'] and not t.loc['random','shown']
    assert pd.isna(t.loc['dense','versus']) and t.loc['dense','finding'].startswith('at 100 % density the dense networks: 92.0 ± 5.0 %')
    assert set(summarise(df, step=0).step)=={0} and set(summarise(df, 'early_stop')['mean'])=={0.}
    assert set(summarise(df, step='early_stop').step)=={0}

def test_summary_of_one_seed_and_of_equal_ones_does_not_claim_anything():
    one = summarise(by_hand({('dense',0): [.9], ('ticket',1): [.95]}))
    assert one.interval.isna().all() and not one.shown.any() and all('1 seed cannot tell' in o for o in one.finding)
    equal = summarise(by_hand({('dense',0): [.5,.6], ('ticket',1): [.5,.6]}))
    assert not equal.shown.any() and '2 seeds cannot tell' in equal.finding[1]

def test_pairs_are_seeds_that_both_arms_have():
    df = by_hand({('dense',0): [.9,.9,.92], ('ticket',1): [.91,.93,.95], ('reinit',1): [.8,.85,.82]})
    t = summarise(df[(df.arm!='reinit') | (df.seed!=1)]).set_index('arm')
    assert t.loc['reinit','seeds']==2 and t.loc['reinit','pairs']==2 and t.loc['reinit','difference']==pytest.approx(.12)

def test_tables_of_several_settings_are_refused():
    "What an experiment gives for two learning rates is not one curve: a seed would count twice, and paired with itself four times"
    df = by_hand({('dense',0): [.9,.92], ('ticket',1): [.91,.93]})
    both = pd.concat([df.assign(lr=o) for o in (.1,.2)], ignore_index=True)
    for fn in (summarise, early_stop, plot_curve, lambda o: plot_learning(o, 1)):
        with pytest.raises(ValueError, match=r"several values for .*: lr differ; take one at a time, as in df\[df\['lr'\]==0.1\]"): fn(both)
        with pytest.raises(ValueError, match='several values for the same seed'): fn(pd.concat([df, df]))
        with pytest.raises(ValueError, match='no rows'): fn(df[:0])
        with pytest.raises(ValueError, match='it has no arm, seed'): fn(pd.DataFrame(dict(a=[1])))
        fn(both[both.lr==.1])
    assert summarise(both[both.lr==.1]).equals(summarise(df))

def test_summary_without_losses():
    df = by_hand({('dense',0): [.9,.92]}).query('metric=="accuracy"')
    assert summarise(df).seeds.item()==2
    for how in (dict(metric='early_stop'), dict(step='early_stop')):
        with pytest.raises(ValueError, match='valid_loss|expected one of accuracy$'): summarise(df, **how)
    with pytest.raises(ValueError, match="step='end': expected a step that was measured, 'early_stop', or None"): summarise(df, step='end')

def test_early_stop_is_the_first_of_the_lowest():
    df = by_hand({('dense',0): [.9]})
    df.loc[df.metric=='valid_loss','value'] = .5
    assert early_stop(df).step.tolist()==[0]

def test_mean_interval_covers():
    g = np.random.default_rng(0)
    hit = [abs(m)<=h for m,h in (mean_interval(g.normal(size=5)) for _ in range(2000))]
    assert .93<np.mean(hit)<.97

# --- Faults --------------------------------------------------------------------------------------------------------------------------------

def test_a_network_that_diverges_leaves_its_neighbours_alone():
    p = plan(steps=20, eval_every=5)
    def run(bad):
        init = [p.first_weights(s, 'init') for s in (0,1,2)]
        if bad: init[1]['3.weight'] = init[1]['3.weight']*float('inf')
        stack = p.stack(_Chunk(p, [0]).net, init)
        out = stack.train(_Order([7,8,9], len(X), p.bs))
        return out,stack.states()
    (good,a),(bad,b) = run(False),run(True)
    assert good.bad.tolist()==[np.inf]*3 and bad.bad.tolist()==[np.inf,0,np.inf]
    for i in (0,2): assert not differing(a[i], b[i])

@pytest.mark.parametrize('model', [mlp, conv], ids=lambda o: o.__name__)
def test_what_diverges_is_named_and_left_out(model):
    def sometimes():
        net = model()
        if torch.rand(())<.4: net[-1].weight.data *= 1e25 # the loss is finite at first
        return net
    lost = [s for s in range(6) if new(sometimes, s, 'init')[-1].weight.abs().max()>1e9]
    assert 0<len(lost)<6
    with pytest.warns(UserWarning, match='the loss is not finite at step') as seen:
        df = curve(sometimes, seeds=6, opt='sgd', lr=10., steps=6, eval_every=2)
    for s in lost:
        assert any(str(o.message).startswith(f'seed {s}, dense, round 0') for o in seen)
        assert df[df.seed==s]['round'].eq(0).all() and df[df.seed==s].step.max()<6
    assert np.isfinite(df.value).all()

def test_a_network_that_begins_with_nan_is_left_out():
    def sometimes():
        net = mlp()
        if torch.initial_seed()==doomed: net[-1].weight.data.fill_(torch.nan)
        return net
    with _seeded(0, 'init'): doomed = torch.initial_seed()
    with pytest.warns(UserWarning, match='seed 0, dense, round 0: the loss is not finite at step 0'): df = curve(sometimes)
    assert set(df.seed)=={1,2}
    kept = curve(seeds=[1,2])
    assert df.drop(columns='value').equals(kept.drop(columns='value')) and (df.value-kept.value).abs()[df['round']==0].max()<1e-3

@pytest.mark.parametrize('may', [False, True])
def test_layers_are_kept_from_vanishing_unless_they_may(may):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        chunk = _Chunk(plan(rounds=1, prune=99.97, allow_collapse=may), [0]).run()
        random, = chunk.begin('random', 1)[1]
    told = [str(o.message) for o in seen]
    assert any('layer collapse' in o and 'allow_collapse=True' in o for o in told)==(not may)
    for masks in (chunk.masks[0], random): assert all(m.any() for m in masks.values())==(not may)

def test_without_controls():
    df = curve(rounds=1, arms=[])
    assert set(df.arm)=={'dense'} and memory_needed(mlp, DATA, 1, ['dense'], bs=20, device='cpu')>0

def test_a_pass_has_as_many_replicates_as_the_caches_hold(monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    four = ['ticket','reinit','shuffle','random']
    for arms,rewind,most in ((four, 0, 10), (four, 3, 20), (['reinit'], 0, 20), ([], 0, 40)):
        assert max(map(len, plan(arms=arms, rewind=rewind).parts(list(range(200)), 'auto')))==most, (arms,rewind)

def test_a_lost_control_is_missing_in_its_round_only():
    def bad_reinit():
        net = mlp()
        if torch.initial_seed() in doomed: net[-1].weight.data.fill_(torch.inf)
        return net
    def seed_of(*what):
        with _seeded(*what): return torch.initial_seed()
    doomed = {seed_of(1, 'reinit', 1)}
    with pytest.warns(UserWarning, match='seed 1, reinit, round 1: the loss is not finite at step 0; it is left out from there on, of this arm in this round'):
        df = curve(bad_reinit)
    assert not len(df[(df.arm=='reinit') & (df.seed==1) & (df['round']==1)])
    assert {s for s in df[(df.arm=='reinit') & (df['round']==2)].seed}=={0,1,2} and {s for s in df[df.arm=='ticket'].seed}=={0,1,2}
    assert summarise(df).query("arm=='reinit' and round==1").seeds.item()==2

def test_an_error_ends_the_bar_and_comes_out(monkeypatch):
    closed = []
    def broken(self, *args): raise RuntimeError('broken')
    monkeypatch.setattr(_Chunk, 'prune', broken)
    monkeypatch.setattr(curves._Progress, 'close', lambda self: closed.append(self))
    with pytest.raises(RuntimeError, match='broken'): curve(batch_seeds=1)
    assert len(closed)==1

# --- Memory --------------------------------------------------------------------------------------------------------------------------------

def test_seeds_are_split_to_fit(monkeypatch):
    p = plan()
    one = memory_needed(mlp, DATA, 1, bs=20, device='cpu')
    assert one==p.bytes_a_seed() and memory_needed(mlp, DATA, 7, bs=20, device='cpu')==7*one
    monkeypatch.setattr(curves, '_free_memory', lambda device: int(one*2.2/.7))
    assert max(map(len, p.parts(list(range(9)), 'auto')))<=2
    monkeypatch.setattr(curves, '_free_memory', lambda device: 0)
    with pytest.warns(UserWarning, match='not even the replicates of one seed'): assert max(map(len, p.parts([4,5], 'auto')))==1
    assert p.parts([4,5,6], 2)==[[4,5],[6]] and p.parts([4,5,6], 99)==[[4,5,6]]

def test_memory_is_of_a_batch_and_not_of_the_data():
    few = (X[:100],Y[:100]),(VX,VY)
    assert memory_needed(mlp, few, 3, bs=20, device='cpu')==memory_needed(mlp, DATA, 3, bs=20, device='cpu')

def test_it_says_what_it_takes(capsys):
    curve(seeds=2, progress=True)
    assert '2 seeds, 2 rounds: 18 trainings of 12 steps' in capsys.readouterr().out
    curve(seeds=2)
    assert capsys.readouterr().out==''

# --- Bad input -----------------------------------------------------------------------------------------------------------------------------

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a,self.b = nn.Linear(64,64),nn.Linear(64,64)
        self.b.weight = self.a.weight
    def forward(self, x): return self.b(self.a(x.flatten(1)))

class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(64,10)
    def forward(self, x): return F.dropout(self.a(x.flatten(1)), .5, self.training)

class Branching(Noisy):
    def forward(self, x):
        out = self.a(x.flatten(1))
        return out if out.sum()>0 else -out

def seq(*layers): return lambda: nn.Sequential(nn.Flatten(), *layers, nn.Linear(64,10))
one_net = mlp()

@pytest.mark.parametrize('args, told', [
    (dict(seeds=0), 'seeds=0'), (dict(seeds=-3), 'seeds=-3'), (dict(seeds=1.5), 'seeds=1.5'), (dict(seeds=[1,1]), 'every seed once'),
    (dict(seeds=[]), 'at least one'), (dict(seeds=[.5]), r'seeds\[0\]'), (dict(seeds=True), 'seeds=True'), (dict(seeds='all'), "seeds='all'"),
    (dict(rounds=0), 'rounds=0'), (dict(prune=0), 'prune=0'), (dict(prune=100), 'prune=100'), (dict(prune=[50,40], rounds=None), 'rise'),
    (dict(prune=[50], rounds=2), 'rounds=2'), (dict(arms=['tickets']), "arms='tickets'"), (dict(arms=['ticket','ticket']), 'every arm once'),
    (dict(arms=None), 'arms=None'), (dict(data=(((255*X).long(),Y),((255*VX).long(),VY))), r'batch of shape \(20, 1, 8, 8\), torch.int64'),
    (dict(steps=0), 'steps=0'), (dict(bs=0), 'bs=0'), (dict(bs=1438), 'bs=1438: expected at most 1437'), (dict(opt='lion'), "opt='lion'"),
    (dict(opt=3), 'opt=3'), (dict(lr=0), 'lr=0'), (dict(lr=float('nan')), 'lr=nan'), (dict(lr='big'), "lr='big'"), (dict(wd=-1), 'wd=-1'),
    (dict(momentum=1), 'momentum=1'), (dict(lr_schedule='zigzag'), "lr_schedule='zigzag'"), (dict(lr_schedule=lambda t: -1), r'lr_schedule\(0\)'),
    (dict(rewind=12), 'rewind=12'), (dict(rewind=-1), 'rewind=-1'), (dict(method='both'), "method='both'"),
    (dict(final_layer_rate=10), "expected method='local'"), (dict(layers='7'), "layers='7'"), (dict(loss='mse'), "loss='mse'"),
    (dict(eval_every=0), 'eval_every=0'), (dict(device='tpu'), "device='tpu'"), (dict(batch_seeds=0), 'batch_seeds=0'),
    (dict(batch_seeds='some'), "batch_seeds='some'"), (dict(data=((X,Y[1:]),(VX,VY))), '1,437 items in x_train, but 1,436 in y_train'),
    (dict(data=((X[:0],Y[:0]),(VX,VY))), 'x_train has the shape'), (dict(data=((X,Y),(VX[:,:,:4],VY))), 'items of shape'),
    (dict(data=(X,Y)), 'data: expected'), (dict(data=(('a','b'),(VX,VY))), 'x_train is a str'), (dict(data=((X,Y+5),(VX,VY))), 'labels from 0 to 14'),
    (dict(data=((X,Y),(VX,VY-1))), 'labels from -1 to 9'), (dict(data=((X*float('nan'),Y),(VX,VY))), 'NaN'),
    (dict(data=DataLoaders(DataLoader([1]),DataLoader([1]))), 'cannot be taken into memory'), (dict(model=one_net), 'model=Sequential'),
    (dict(model=lambda: one_net), 'the same one twice'), (dict(model=lambda: 3), 'it gave int'), (dict(model=seq(nn.Dropout(.1))), 'dropout'),
    (dict(model=Noisy), 'cannot be stacked.*random'), (dict(model=Branching), 'cannot be stacked'), (dict(model=Tied), 'tied weights'),
    (dict(model=seq(nn.BatchNorm1d(64, momentum=None))), 'momentum=None'), (dict(model=seq(nn.RReLU())), 'LeakyReLU'),
    (dict(model=lambda: nn.utils.parametrizations.weight_norm(nn.Linear(64,10))), 'parametrization|not pruned'),
    (dict(model=lambda: nn.Sequential(nn.Flatten(), nn.ReLU())), 'no prunable weights'),
    (dict(model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(63,10))), 'batch of shape'),
    (dict(model=lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10))), 'not initialised'),
], ids=lambda o: o if isinstance(o, str) else None)
def test_bad_input_is_named_before_anything_is_trained(args, told, monkeypatch):
    def never(*args, **kwargs): raise AssertionError('something was trained')
    monkeypatch.setattr(_Chunk, 'run', never)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises((ValueError,TypeError), match=told): curve(**args)

def test_a_model_that_makes_the_same_weights_for_every_seed_is_told():
    def fixed():
        torch.manual_seed(0)
        return mlp()
    with pytest.warns(UserWarning, match='the same weights for every seed') as seen: curve(fixed)
    assert Path(seen[0].filename).name=='test_curves.py'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        curve(mlp)

def test_another_architecture_for_another_seed():
    calls = []
    def moody():
        calls.append(1)
        return mlp() if len(calls)<4 else tanh()
    with pytest.raises(ValueError, match='the same architecture every time'): curve(moody)

def test_the_fast_way_is_taken_where_it_can_be():
    assert _linear_layers(mlp()) and not _linear_layers(tanh()) and not _linear_layers(conv()) and not _linear_layers(frozen())
    hooked = mlp()
    hooked[1].register_forward_hook(lambda *a: None)
    assert _linear_layers(hooked) is None and list(arm_names)[0]=='dense'

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
@pytest.mark.parametrize('model', [mlp, conv], ids=lambda o: o.__name__)
def test_a_gpu_gives_the_same_curve(model):
    a,b = curve(model),curve(model, device='cuda')
    assert a.drop(columns='value').equals(b.drop(columns='value'))
    np.testing.assert_allclose(a.value[a['round']==0], b.value[b['round']==0], atol=2e-2)

# --- Pictures and benchmarks ---------------------------------------------------------------------------------------------------------------

def test_pictures_show_the_table():
    df = curve(seeds=3)
    fig = plot_curve(df, ['accuracy', ('accuracy','early_stop'), ('valid_loss',6), 'early_stop'], arms=['ticket','reinit'])
    table = summarise(df)
    for i,arm in enumerate(['ticket','reinit'], 1):
        rows = pd.concat([table[table.arm=='dense'], table[table.arm==arm]])
        np.testing.assert_allclose(fig.axes[0].lines[i].get_ydata(), 100*rows['mean'])
        np.testing.assert_allclose(fig.axes[0].lines[i].get_xdata(), rows.density)
    assert len(plot_learning(df, 2).axes[0].lines)==5
    with pytest.raises(ValueError, match="arms='dance'"): plot_curve(df, arms=['dance'])
    with pytest.raises(ValueError, match=r"panels=\('accuracy', 12\): expected metrics, or pairs"): plot_curve(df, ('accuracy',12))
    for wrong in ([], [('accuracy',)], 3):
        with pytest.raises((TypeError,ValueError), match='panels='): plot_curve(df, wrong)
    with pytest.raises(ValueError, match="metric='f1'"): plot_learning(df, 1, 'f1')

@pytest.mark.parametrize('name', ['replicates','peers'])
def test_benchmarks_run(name, tmp_path):
    "Quickly; what they measure is not judged here"
    root = Path(__file__).resolve().parent.parent
    args = [sys.executable, root/f'benchmarks/{name}.py', '--quick', '--json', tmp_path/'all.json', '--markdown', tmp_path/'all.md']
    env = os.environ | dict(OMP_NUM_THREADS='1')
    done = subprocess.run([str(o) for o in args], cwd=tmp_path, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode==0, done.stdout + done.stderr
    result,markdown = json.loads((tmp_path/'all.json').read_text()),(tmp_path/'all.md').read_text()
    assert markdown.strip() in done.stdout and result['circumstances']['torch'] in markdown
    assert len(result['rows'])>=2 and all(o['seconds']>0 for o in result['rows'])
    if name=='replicates': assert abs(result['accuracy'][0]-result['accuracy'][1])<2
    else: assert {round(o['sparsity'], 1) for o in result['rows']}=={36.}
