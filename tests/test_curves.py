"Curves of many seeds at once: every replicate against the same run as a plain loop, the masks, the faults"
import json, random, warnings
from pathlib import Path
import numpy as np, pytest, torch
import torch.nn.functional as F
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch import nn

from lottery_nb.arms import Arm, arm, arms, transfer
from lottery_nb.beginning import in_turn, sign_flips, signs_only_norm
from lottery_nb.core import make_rule, seed_of, seeded, table_columns, threads
from lottery_nb.criteria import criteria
from lottery_nb.curves import Curve, curves_at, lottery_curve
from lottery_nb.data import digits_dls
from lottery_nb.masks import copy_model
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.stacked import Stack, lr_schedules
from lottery_nb.ticket import Ticket
from models import ConvNet, differing, everything, plain_arms

DATA = (X,Y),(VX,VY) = [[t.as_subclass(torch.Tensor) for t in dl.stacked()] for dl in digits_dls()]

def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64,30), nn.ReLU(), nn.Linear(30,20,bias=False), nn.Tanh(),
                         nn.Linear(20,10))
def relu(): return nn.Sequential(nn.Flatten(), nn.Linear(64,30), nn.ReLU(), nn.Linear(30,10))
def norm():
    return nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(64,30), nn.GELU(),
                         nn.LayerNorm(30), nn.Linear(30,10))
def conv():
    return nn.Sequential(nn.Conv2d(1,6,3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6,8,3,groups=2),
                         nn.GroupNorm(2,8), nn.ReLU(), nn.Flatten(), nn.Linear(8*16,10))
def frozen():
    net = mlp()
    net[3].requires_grad_(False)
    return net

# A bias before BatchNorm has no gradient but what rounding leaves, and Adam makes whole steps of that: only with
# doubles, where Adam's epsilon is far above the rounding, can two such runs be compared
def mlp64(): return mlp().double()
def conv64(): return conv().double()
def ConvNet64(): return ConvNet().double()

def curve(model=mlp, data=DATA, seeds=3, rounds=2, **kwargs):
    how = dict(prune=30, n_step=12, bs=20, eval_every=6, progress=False, device='cpu')
    return lottery_curve(model, data, seeds, rounds, **dict(how, **kwargs))

def new(model, seed):
    with seeded(seed, 'init'): return model()

def of(df, arm, seed, r, metric): return df[(df.arm==arm) & (df.seed==seed) & (df['round']==r) & (df.metric==metric)]
def at_end(*where): return of(*where).value.iloc[-1]

# --- Against a plain loop

def batches(seed, r, n, bs=20):
    g,order = torch.Generator().manual_seed(seed_of(seed, 'order', r)),[]
    while len(order)<n: order += torch.randperm(len(X), generator=g)[:len(X)//bs*bs].split(bs)
    return order[:n]

def train_plainly(model, ticket, seed, r, n_step, first=0, opt='adam', lr=2e-3, wd=0., factor=lambda t: 1.):
    "One network, one batch at a time, PyTorch as it is"
    net = model()
    sp = ticket.apply_to(net)
    how = dict(lr=lr, weight_decay=wd) | (dict(momentum=.9) if opt=='sgd' else {})
    make = dict(sgd=torch.optim.SGD, adam=torch.optim.Adam, adamw=torch.optim.AdamW)[opt]
    opt = make([p for p in net.parameters() if p.requires_grad], **how)
    x,vx = (t.to(next(net.parameters()).dtype) for t in (X,VX))
    for i,rows in list(enumerate(batches(seed, r, n_step)))[first:]:
        for group in opt.param_groups: group['lr'] = lr*factor(i/n_step)
        opt.zero_grad()
        F.cross_entropy(net(x[rows]), Y[rows]).backward()
        opt.step()
        sp.apply()
    net.eval()
    with torch.no_grad(): out = net(vx)
    return net, F.cross_entropy(out, VY).item(), (out.argmax(1)==VY).float().mean().item()

@pytest.mark.parametrize('model', [mlp, norm, conv64, frozen, ConvNet64], ids=lambda o: o.__name__)
@pytest.mark.parametrize('how', [dict(opt='adam'), dict(opt='adamw', wd=.1, lr_schedule='one_cycle'),
                                 dict(opt='sgd', lr=.05, wd=.01, lr_schedule='cosine')], ids=lambda o: o['opt'])
def test_replicates_are_what_a_plain_loop_gives(model, how):
    how = dict(lr=2e-3, lr_schedule='constant') | how
    df,tickets = curve(model, seeds=[4,7], rounds=1, arms='ticket', n_step=40, keep='tickets', **how)
    factor = lr_schedules[how.pop('lr_schedule')]
    for (seed,r),t in tickets.items():
        if not r: assert not differing(t.state, everything(new(model, seed)))
        net,loss,accuracy = train_plainly(model, t, seed, r, 40, factor=factor, **how)
        name = 'ticket' if r else 'dense'
        assert at_end(df, name, seed, r, 'valid_loss')==pytest.approx(loss, rel=1e-3)
        assert at_end(df, name, seed, r, 'accuracy')==pytest.approx(accuracy, abs=2/360)
        for k,b in net.named_buffers(): torch.testing.assert_close(t.trained[k], b, rtol=1e-4, atol=1e-6)
    assert len(tickets)==4

@pytest.mark.parametrize('model', [mlp, conv64], ids=lambda o: o.__name__)
@pytest.mark.parametrize('rewind, first', [(0, 0), ('5it', 5), (1, 71)])
def test_every_arm_is_what_a_plain_loop_gives(model, rewind, first):
    how = dict(seeds=[1,2], rounds=1, lr=2e-3, keep='tickets')
    rewound = [k for k,o in plain_arms.items() if o.begins!='trained']
    df,tickets = curve(model, arms=rewound, n_step=first+20, rewind=rewind, **how)
    assert list(df.arm.unique())==rewound
    for seed in (1,2):
        t = tickets[seed,1]
        if first:
            W_t = curve(model, arms=[], n_step=first, **how)[1][seed,0].trained
            assert not differing(t.full, {k: W_t[k] for k in t.masks})
        for name in rewound[1:]:
            begun,start = arms[name].begin(t, seed, model),0 if name in ('reinit','signs') else first
            loss = train_plainly(model, begun, seed, 1, first+20, start)[1]
            assert at_end(df, name, seed, 1, 'valid_loss')==pytest.approx(loss, rel=2e-3), name
            assert of(df, name, seed, 1, 'valid_loss').step.min()==start

@pytest.mark.parametrize('model', [mlp64, conv64], ids=lambda o: o.__name__)
@pytest.mark.parametrize('name', ['lr_rewind','finetune'])
def test_weights_that_go_on_are_what_a_plain_loop_gives(model, name):
    "Each round's masks are made of what the arm itself has trained, and its steps are counted on"
    n,first,factor,last = 14,4,lr_schedules['cosine'],name=='finetune'
    how = dict(seeds=[1,2], rounds=2, n_step=n, rewind=f'{first}it', lr_schedule='cosine', lr=2e-3)
    df,tickets = curve(model, arms=['ticket',name], keep='tickets', **how)
    for seed in (1,2):
        net = train_plainly(model, tickets[seed,0], seed, 0, n, factor=factor)[0]
        for r in (1,2):
            masks = Sparsifier(copy_model(net)).sparsify(tickets[seed,r].sparsity)
            now = (lambda t: factor((n-1)/n)) if last else factor
            net,loss,_ = train_plainly(model, Ticket(masks, everything(net)), seed, r, n, first, factor=now)
            assert at_end(df, name, seed, r, 'valid_loss')==pytest.approx(loss, rel=1e-6)
            steps = of(df, name, seed, r, 'valid_loss').step
            assert (steps.min(),steps.max())==(n+(r-1)*(n-first), n+r*(n-first))
    alone = curve(model, arms=name, **how)
    assert alone.equals(df[df.arm.isin(['dense',name])].reset_index(drop=True))

@pytest.mark.parametrize('criteria', ['large_final','taylor','fisher'])
def test_masks_that_are_made_before_training(criteria):
    "Of W_0, for each density anew; the gradients are those of the first batches"
    df,tickets = curve(mlp64, arms=['ticket','reinit'], criteria=criteria, when='init', prune=[50,80], keep='tickets')
    for seed in range(3):
        net = new(mlp64, seed)
        first = [(X[o].double(),Y[o]) for o in batches(seed, 0, 8)]
        if criteria=='taylor': F.cross_entropy(net(first[0][0]), first[0][1]).backward()
        data = dict(data=first) if criteria=='fisher' else {}
        for r,sparsity in ((1,50), (2,80)):
            ticket,at_first = tickets[seed,r],copy_model(net)
            for p,q in zip(at_first.parameters(), net.parameters()): p.grad = q.grad
            assert ticket.masks==Sparsifier(at_first, criteria=criteria, **data).sparsify(sparsity)
            assert not differing(ticket.full, {k: everything(net)[k] for k in ticket.masks})
            loss = train_plainly(mlp64, ticket, seed, r, 12, lr=1.2e-3)[1]
            assert at_end(df, 'ticket', seed, r, 'valid_loss')==pytest.approx(loss, rel=1e-6)

def test_an_arm_of_your_own():
    @arm
    def twice(ticket, seed, model, *, times=2.):
        return type(ticket)(ticket.masks, {k: times*t for k,t in ticket.state.items()})
    df,tickets = curve(seeds=[1], rounds=1, arms=['ticket', twice, twice(times=3.)], lr=2e-3, keep='tickets')
    assert list(df.arm.unique())==['dense','ticket','twice','twice(times=3.0)']
    for name,o in (('twice',twice), ('twice(times=3.0)',twice(times=3.))):
        loss = train_plainly(mlp, o.begin(tickets[1,1]), 1, 1, 12)[1]
        assert at_end(df, name, 1, 1, 'valid_loss')==pytest.approx(loss, rel=1e-3)

@pytest.mark.parametrize('model', [mlp, norm, conv64, ConvNet64], ids=lambda o: o.__name__)
def test_a_replicate_of_a_batch_is_the_seed_alone(model):
    how = dict(rounds=1, arms='ticket', n_step=100, bs=10, keep='tickets')
    together = curve(model, seeds=[3,0,8,5], **how)[1]
    for seed in (0,5):
        alone = curve(model, seeds=[seed], **how)[1]
        a,b = together[seed,0].trained,alone[seed,0].trained
        for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-3, atol=1e-4)
        ma,mb = together[seed,1].masks,alone[seed,1].masks
        far = {k: t for k,t in ma.items() if (t!=mb[k]).any()}
        for k in far: # only where two weights are as close to each other as the two runs are
            line = a[k].abs()[~ma[k]].max()
            assert ((a[k].abs()[ma[k]!=mb[k]] - line).abs()<1e-3).all()
        assert sum(int((t!=mb[k]).sum()) for k,t in far.items()) <= max(2, .002*ma.n_weights)

# --- The same numbers

@pytest.mark.parametrize('model', [mlp, conv], ids=lambda o: o.__name__)
def test_same_call_same_bits(model): assert curve(model).equals(curve(model))

def test_arms_do_not_change_each_other():
    whole,few = curve(seeds=2),curve(seeds=2, arms='ticket')
    assert whole[whole.arm.isin(['dense','ticket'])].reset_index(drop=True).equals(few)
    alone = curve(seeds=2, arms='random')
    assert whole[whole.arm=='random'].value.tolist()==alone[alone.arm=='random'].value.tolist()

@pytest.mark.parametrize('model', [mlp, conv64], ids=lambda o: o.__name__)
def test_the_split_changes_nothing_that_can_be_seen(model):
    a,b = curve(model, seeds=5, n_step=30),curve(model, seeds=5, n_step=30, batch_seeds=2)
    assert a.drop(columns='value').equals(b.drop(columns='value'))
    assert (a.value-b.value).abs()[a['round']==0].max()<1e-3

def test_threads_change_nothing_that_can_be_seen():
    with threads(1): a = curve(seeds=9)
    with threads(2): b = curve(seeds=9) # in two stacks
    np.testing.assert_allclose(a.value[a['round']==0], b.value[b['round']==0], atol=1e-3)

def test_random_scores_are_others_for_each_seed():
    tickets = curve(criteria='random', keep='tickets')[1]
    assert len({t.masks.digest for (s,r),t in tickets.items() if r==2})==3
    alone = curve(criteria='random', seeds=[2], keep='tickets')[1]
    assert alone[2,2].masks==tickets[2,2].masks

def test_random_numbers_are_left_alone():
    def now(): return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    def seed(): torch.manual_seed(1), np.random.seed(1), random.seed(1)
    seed()
    expected = now()
    seed()
    a = curve(arms=list(plain_arms))
    assert now()==expected and a.equals(curve(arms=list(plain_arms)))

def test_loaders_are_the_tensors_in_them():
    a,b = curve(data=digits_dls(), seeds=2),curve(data=[[t.numpy() for t in o] for o in DATA], seeds=2)
    assert a.equals(b) and a.equals(curve(seeds=2))

# --- Masks

def n_pruned(n, prune, r):
    if isinstance(prune, list): return round(prune[r-1]/100*n)
    left = n
    for _ in range(r): left -= round(prune/100*left)
    return n-left

@pytest.mark.parametrize('how', [dict(prune=30), dict(prune=[20,61.5]), dict(prune=30, layers=['1','5']),
                                 dict(prune={'5': 10, '*': 40})], ids=str)
def test_counts_are_exact_and_masks_nested(how):
    tickets = curve(seeds=2, arms='ticket', keep='tickets', **how)[1]
    for seed in (0,1):
        one,two = tickets[seed,1].masks,tickets[seed,2].masks
        assert list(one)==(['1.weight','5.weight'] if 'layers' in how else ['1.weight','3.weight','5.weight'])
        for r,masks in ((1,one), (2,two)):
            pruned,sizes = ({k: int(f(m)) for k,m in masks.items()} for f in (lambda m: (~m).sum(), torch.numel))
            rates = {k: 10. if k=='5.weight' else 40. for k in sizes}
            if isinstance(how['prune'], dict): assert pruned=={k: n_pruned(n, rates[k], r) for k,n in sizes.items()}
            else: assert sum(pruned.values())==n_pruned(sum(sizes.values()), how['prune'], r)
        assert not any((two[k] & ~one[k]).any() for k in one)
    assert tickets[0,1].masks!=tickets[1,1].masks

def scores(name, first, before, now, seed, model):
    "What a criterion says of a layer's weights, by hand: at the start of the seed, when masks were last made, and now"
    if name=='large_init': return lambda k: first[k].abs()
    if name=='updating_movement': return lambda k: (now[k]-before[k]).abs()
    net = model()
    net.load_state_dict(now)
    rows = batches(seed, 0, 13)[-1] # the batch after the last
    F.cross_entropy(net(X[rows]), Y[rows]).backward()
    return lambda k: (net.get_parameter(k).grad*now[k]).abs()

@pytest.mark.parametrize('name', ['large_init','updating_movement','taylor'])
def test_criteria_that_need_more_than_the_weights(name):
    tickets = curve(seeds=[2,5], rounds=1, arms='ticket', criteria=name, keep='tickets')[1]
    for seed in (2,5):
        dense,masks = tickets[seed,0],tickets[seed,1].masks
        score = scores(name, dense.state, dense.state, dense.trained, seed, mlp)
        kept,gone = (torch.cat([score(k)[m if keep else ~m] for k,m in masks.items()]) for keep in (True,False))
        assert kept.min() >= gone.max()-1e-6 and tickets[seed,1].meta['criteria']==name

@pytest.mark.parametrize('name', ['wanda','fisher','obd'])
def test_criteria_that_look_at_data(name):
    "Each network at the next batches of its own order"
    tickets = curve(mlp64, rounds=2, arms='ticket', criteria=name, keep='tickets')[1]
    for seed,r in ((0,1), (2,1), (2,2)):
        before,net = tickets[seed,r-1],mlp64()
        before.trained_into(net)
        data = [(X[o].double(),Y[o]) for o in batches(seed, r-1, 12+8)[12:]]
        sp = Sparsifier(net, criteria=criteria[name].of_replicate(seed), data=data)
        sp.put_on(before.masks)
        assert sp.sparsify(tickets[seed,r].sparsity)==tickets[seed,r].masks

@pytest.mark.parametrize('model, granularity', [(mlp64,'row'), (mlp64,'column'), (conv64,'filter'), (conv64,'kernel')])
def test_whole_units_are_pruned_and_move(model, granularity):
    df,tickets = curve(model, granularity=granularity, arms=['ticket','reinit','shuffle','random'], keep='tickets')
    for (seed,r),t in tickets.items():
        sp = Sparsifier(model(), granularity, layers=list(t.masks))
        assert t.meta['granularity']==granularity
        if not r: continue
        before = tickets[seed,r-1]
        before.trained_into(sp.model)
        sp.put_on(before.masks)
        assert t.masks==sp.sparsify(100*n_pruned(t.masks.n_weights, 30, r)/t.masks.n_weights)
        for name in ('reinit','shuffle','random'):
            begun = arms[name].begin(t, seed, model)
            assert sp.units.masks({k: sp.units.kept(k, begun.masks) for k in sp.units.names})==begun.masks
            loss = train_plainly(model, begun, seed, r, 12, lr=1.2e-3)[1]
            assert at_end(df, name, seed, r, 'valid_loss')==pytest.approx(loss, rel=1e-6)
            assert of(df, name, seed, r, 'valid_loss').density.iloc[0]==begun.density

def test_two_of_four():
    def net(): return nn.Sequential(nn.Flatten(), nn.Linear(64,32), nn.ReLU(), nn.Linear(32,12))
    t = curve(net, granularity='2:4', prune=[50], rounds=None, arms=['ticket','reinit'], keep='tickets')[1][0,1]
    assert all((m.unflatten(1, (-1,4)).sum(2)==2).all() for m in t.masks.values())

@pytest.mark.parametrize('may', [False, True])
def test_layers_are_kept_from_vanishing_unless_they_may(may):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        tickets = curve(seeds=1, rounds=1, prune=99.97, arms=['ticket','random'], allow_collapse=may, keep='tickets')[1]
    assert any('layer collapse' in str(o.message) for o in seen)==(not may)
    assert all(m.any() for m in tickets[0,1].masks.values())==(not may)

# --- The table

def test_table_is_whole():
    df = curve(seeds=[9,2], rounds=2, arms=('reinit','random'), eval_every=5, bs=300)
    assert list(df.columns)==table_columns
    assert len(df)==2*2*(1+2*2)*4 and not df.value.isna().any()
    assert list(df.arm.unique())==['dense','reinit','random'] and set(df.metric)=={'accuracy','valid_loss'}
    assert dict(zip(df.step, df.epoch))=={0: 0, 5: 1, 10: 2, 12: 2} # four batches an epoch
    assert df[df.arm=='dense']['round'].eq(0).all() and df[df.arm=='dense'].density.eq(100).all()
    assert list(df.seed.unique())==[9,2] and df[df.metric=='accuracy'].value.between(0, 1).all()
    told = json.loads(json.dumps(df.attrs))
    assert (told['seeds'],told['arms'],told['n_step'],told['loss']) == ([9,2],['reinit','random'],12,'cross_entropy')

def test_tickets_that_are_kept(tmp_path):
    df,tickets = curve(seeds=[9,2], rewind='5it', keep='tickets')
    assert set(tickets)=={(s,r) for s in (9,2) for r in (0,1,2)} and df.equals(curve(seeds=[9,2], rewind='5it'))
    t = tickets[2,1]
    told = dict(arm='ticket', seed=2, round=1, criteria='large_final', granularity='weight', rewind='5it')
    assert {k: t.meta[k] for k in told}==told
    assert len(t.meta['table'])==len(df[(df.seed==2) & (df['round']<2) & df.arm.isin(['dense','ticket'])])
    assert type(t).load(t.save(tmp_path/'a.safetensors', full=True))==t
    assert not any(t.trained[k][~m].any() or t.state[k][~m].any() for k,m in t.masks.items())

def test_other_losses():
    def half(pred, y): return ((pred[:,0]-y)**2).mean()/2
    y,vy = X.flatten(1).mean(1),VX.flatten(1).mean(1)
    df = curve(data=((X,y),(VX,vy)), loss=half, n_step=60, bs=60)
    assert set(df.metric)=={'valid_loss'}
    last = df[df.arm=='dense'].groupby('seed').value.agg(['first','last'])
    assert (last['last']<last['first']).all()

# --- Faults

def spoiled(model, seeds, value=torch.nan, what='init'):
    "`model`, but the last weights are `value` times as large where the random numbers are for (seed, *what)"
    doomed = []
    for s in seeds:
        with seeded(*((s, what) if isinstance(what, str) else what(s))): doomed.append(torch.initial_seed())
    def make():
        net = model()
        if torch.initial_seed() in doomed: net[-1].weight.data *= value
        return net
    return make

@pytest.mark.parametrize('model', [mlp, conv], ids=lambda o: o.__name__)
def test_a_network_that_diverges_leaves_its_neighbours_alone(model):
    "All that it may change is how the rounding goes once it is gone"
    with pytest.warns(UserWarning, match="seed 1, dense, round 0: .* at step 0"): bad = curve(spoiled(model, [1]))
    good = curve(model).query('seed!=1').reset_index(drop=True)
    assert bad.drop(columns='value').equals(good.drop(columns='value')) and np.isfinite(bad.value).all()
    assert bad.value[bad['round']==0].equals(good.value[good['round']==0])

@pytest.mark.parametrize('model', [relu, conv], ids=lambda o: o.__name__)
def test_what_diverges_later_is_named_and_left_out(model):
    with pytest.warns(UserWarning, match="the loss isn't finite at step") as seen:
        df = curve(spoiled(model, [0,3], 1e25), seeds=6, opt='sgd', lr=10., n_step=6, eval_every=2)
    for s in (0,3):
        assert any(str(o.message).startswith(f'seed {s}, dense, round 0') for o in seen)
        assert df[df.seed==s]['round'].eq(0).all() and df[df.seed==s].step.max()<6
    assert np.isfinite(df.value).all() and all(Path(o.filename).name=='test_curves.py' for o in seen)

@pytest.mark.parametrize('criteria', ['large_final','taylor','snip'])
def test_what_is_broken_from_the_start_makes_no_masks_before_training(criteria):
    with pytest.warns(UserWarning, match='seed 1, dense, round 0: .* step 0: .*and from all rounds after 0'):
        bad = curve(spoiled(mlp, [1]), when='init', criteria=criteria)
    good = curve(mlp, when='init', criteria=criteria).query('seed!=1').reset_index(drop=True)
    assert bad.drop(columns='value').equals(good.drop(columns='value')) and np.isfinite(bad.value).all()

@pytest.mark.parametrize('how', [{}, dict(when='init'), dict(when='init', criteria='taylor')], ids=str)
def test_all_may_be_lost(how):
    with pytest.warns(UserWarning): assert not len(curve(spoiled(mlp, range(3)), **how))

def test_a_lost_arm_is_missing_and_the_others_are_not():
    bad = spoiled(mlp, [1], torch.inf, lambda s: ('fresh weights', s))
    with pytest.warns(UserWarning, match="seed 1, reinit, round 1: .* at step 0: it's left out there$"): df = curve(bad)
    assert set(df[df.arm=='reinit'].seed)=={0,2} and set(df[df.arm=='ticket'].seed)=={0,1,2}

def hungry(limit, sizes, error):
    "A network that raises `error` when more than `limit` are trained at once, and notes how many they are"
    class Hungry(nn.Linear):
        def forward(self, x):
            stacked,w = torch._C._functorch.is_batchedtensor(self.weight),self.weight
            sizes.append(n := len(torch._C._functorch.get_unwrapped(w)) if stacked else 1)
            if n>limit: raise error
            return super().forward(x)
    return lambda: nn.Sequential(nn.Flatten(), Hungry(64,10))

@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory")], ids=['gpu','cpu'])
def test_seeds_are_halved_until_they_fit(error):
    sizes = []
    df = curve(hungry(2, sizes, error), seeds=9)
    assert max(sizes)==9 and [n for n in sizes if n>2]==[9,4] and set(df.seed)==set(range(9))
    assert df.equals(curve(hungry(99, [], error), seeds=9, batch_seeds=2))

def test_other_errors_and_one_seed_that_does_not_fit_come_out():
    with pytest.raises(RuntimeError, match='broken'): curve(hungry(2, [], RuntimeError('broken')))
    class Later(nn.Linear):
        def forward(self, x):
            calls.append(1)
            if len(calls)>40: raise torch.OutOfMemoryError('out of memory')
            return super().forward(x)
    calls = []
    with pytest.raises(torch.OutOfMemoryError): curve(lambda: nn.Sequential(nn.Flatten(), Later(64,10)))

# --- Bad input

class Noisy(nn.Linear):
    def forward(self, x): return super().forward(x)+torch.rand(10)*self.training

class Branching(nn.Linear):
    def forward(self, x): return super().forward(x if x.sum()>0 else -x)

def seq(*layers): return lambda: nn.Sequential(nn.Flatten(), *layers, nn.Linear(64,10))
def ends(layer, *args): return lambda: nn.Sequential(nn.Flatten(), layer(*args))
def tied():
    layer = nn.Linear(64,64)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)

@pytest.mark.parametrize('args, told', [
    *[(dict([o]), f'{o[0]}={o[1]!r}') for o in [
        ('seeds',0), ('seeds',1.5), ('seeds','all'), ('rounds',0), ('prune',100), ('bs',0), ('n_step',0),
        ('opt','lion'), ('lr',0), ('lr',float('nan')), ('wd',-1), ('momentum',1),
        ('lr_schedule','zigzag'), ('rewind','12it'), ('rewind',-1), ('method','both'), ('loss','mse'),
        ('criteria','biggest'), ('layers','7'), ('eval_every',0), ('device','tpu'), ('batch_seeds',0), ('keep','all')]],
    (dict(when='begin'), "when='begin'"), (dict(when='init', rewind='5it'), "rewind='5it': expected 0 with when"),
    (dict(when='init', arms='finetune'), 'arms=finetune: expected arms that begin with W_0'),
    (dict(when='init', criteria='movement'), 'criteria=movement: expected one that scores an untrained network'),
    (dict(granularity='group'), "granularity='group': expected units within"),
    (dict(granularity='filter'), 'granularity='),
    (dict(granularity='2:4', prune=[60], rounds=None, arms='ticket'), 'sparsity=60.0: expected at most 50 percent'),
    (dict(granularity='2:4', rounds=1, arms='shuffle'), "granularity='2:4': expected units within a layer"),
    (dict(seeds=[1,1]), 'each once'), (dict(seeds=[]), 'at least one'), (dict(seeds=[.5]), 'seeds=0.5'),
    (dict(arms=[3]), 'arms=3'), (dict(bs=1438), 'bs=1438: expected at most 1437'),
    (dict(lr_schedule=lambda t: -1), r'lr_schedule\(0\)'),
    (dict(rewind=1), 'rewind=1: expected a point of 12 steps, 71 an epoch'),
    (dict(data=(((255*X).long(),Y),((255*VX).long(),VY))), r'batches of \[20, 1, 8, 8\], torch.int64'),
    (dict(data=((X[:0],Y[:0]),(VX,VY))), 'as many targets'), (dict(data=((X,Y),(VX[:,:,:4],VY))), 'of one shape'),
    (dict(data=(('a','b'),(VX,VY))), 'data=tuple: expected numbers as'),
    (dict(data=((X,Y+5),(VX,VY))), 'Target 14 is out of bounds'),
    (dict(data=((X,Y),(VX,VY-1))), 'targets of -1.*classes from 0 on'),
    (dict(data=((X*float('nan'),Y),(VX,VY))), 'NaN'),
    (dict(data=DataLoaders(DataLoader([1]),DataLoader([1]))), 'DataLoaders of WholeDL'),
    (dict(model=lambda: 3), r'model\(\)=3'),
    (dict(model=ends(Noisy, 64, 10)), 'stacked.*random'), (dict(model=ends(Branching, 64, 10)), 'can be stacked'),
    (dict(model=tied), 'can be stacked'), (dict(model=seq(nn.BatchNorm1d(64, momentum=None))), 'can be stacked'),
    (dict(model=seq(nn.RReLU())), 'can be stacked'), (dict(model=ends(nn.ReLU)), 'a network with weights'),
    (dict(model=ends(nn.Linear, 63, 10)), r'batches of \[20, 1, 8, 8\]'),
    (dict(model=ends(nn.LazyLinear, 10)), '(?i)uninit|not init'),
], ids=lambda o: o if isinstance(o, str) else None)
def test_bad_input_is_named_before_anything_is_trained(args, told):
    trained = []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises((ValueError,TypeError), match=told): curve(**args, progress=lambda *o: trained.append(o))
    assert not trained

@pytest.mark.parametrize('o, told', [(sign_flips(share=2), 'share=2'), (in_turn(sign_flips(share=2)), 'share=2'),
                                     (signs_only_norm, 'a network with norms')], ids=str)
def test_arms_are_tried_before_anything_is_trained(o, told, monkeypatch):
    monkeypatch.setattr(Stack, 'train', None)
    with pytest.raises(ValueError, match=told): curve(arms=['ticket', o])

def test_an_arm_that_forgets_a_parameter_is_named_before_anything_is_trained(monkeypatch):
    def bare(ticket, seed, model): return Ticket(ticket.masks, {k: ticket.state[k] for k in ticket.masks})
    monkeypatch.setattr(Stack, 'train', None)
    with pytest.raises(ValueError, match='arm bare=.*every parameter and buffer, 1.bias too'):
        curve(arms=make_rule(bare, Arm))

def test_a_transfer_may_be_one_of_several_in_turn():
    _,tickets = curve(seeds=[1], rounds=1, arms='ticket', keep='tickets')
    df = curve(seeds=[1], rounds=1, arms=[in_turn(transfer(tickets, 'theirs'), sign_flips)])
    begun = sign_flips.begin(tickets[1,1], 1)
    loss = train_plainly(mlp, begun, 1, 1, 12, lr=1.2e-3)[1]
    assert at_end(df, 'theirs+sign_flips', 1, 1, 'valid_loss')==pytest.approx(loss, rel=1e-3)

def test_curves_of_several_points():
    def make(o): return Curve(mlp, DATA, 1, 1, rewind=o, n_step=12, bs=20)
    assert [(k, c.first) for k,c in curves_at(['5it',0], make).items()]==[(0, 0), (5, 5)]
    for at,told in (('12it', "at='12it': expected a point of 12"), ([], r'at=\[\]: expected at least one rewind point'),
                    ([0,'0it'], 'at=.*points that differ.*0, 0'), ([-1], 'at=-1')):
        with pytest.raises(ValueError, match=told): curves_at(at, make)
    with pytest.raises(ValueError, match='n_step=0'): curves_at(0, lambda o: Curve(mlp, DATA, 1, 1, n_step=0))

def test_a_model_that_makes_the_same_weights_for_every_seed_is_told():
    def fixed():
        torch.manual_seed(0)
        return mlp()
    with pytest.warns(UserWarning, match='the same weights for every seed') as seen: curve(fixed)
    assert Path(seen[0].filename).name=='test_curves.py'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        curve(mlp)

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
@pytest.mark.parametrize('model', [mlp, conv], ids=lambda o: o.__name__)
def test_a_gpu_gives_the_same_curve(model):
    a,b = curve(model),curve(model, device='cuda')
    assert a.drop(columns='value').equals(b.drop(columns='value'))
    np.testing.assert_allclose(a.value[a['round']==0], b.value[b['round']==0], atol=2e-2)
