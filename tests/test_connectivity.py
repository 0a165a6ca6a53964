"Lines between networks against points made by hand, in plain PyTorch; eigenvalues against the whole Hessian"
import itertools, math, re

import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from fastai.basics import CrossEntropyLossFlat, Learner
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.metrics import accuracy
from scipy import stats
from torch import nn
from torch.func import functional_call, hessian

from lottery_nb.arms import arm, arms
from lottery_nb.beginning import in_turn
from lottery_nb.connectivity import (barrier, instability, largest_eigenvalues, line_batches, on_line,
                                     plot_instability, plot_line, stability, top_eigenvalue)
from lottery_nb.core import ArgumentError, as_table, seed_of, seeded, table_columns
from lottery_nb.curves import lottery_curve
from lottery_nb.evidence import plot_curve, summarise
from lottery_nb.find import Search, find_ticket
from lottery_nb.masks import Masks, copy_model, named_tensors
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.stacked import Recipe, Stack
from lottery_nb.ticket import Ticket
from models import ConvNet, differing, everything, same_bits

def data(n, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 6, 6, generator=g), torch.randint(0, 3, (n,), generator=g)
TRAIN,VALID = data(300, 0),data(40, 1) # the training data don't fit into one batch of 256

def new(norm=True):
    middle = [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(nn.Conv2d(1,4,3), *middle, nn.ReLU(), nn.Flatten(), nn.Linear(64,3))

def net(seed=0, norm=True):
    torch.manual_seed(seed)
    return new(norm)

def moved(seed, norm=True):
    "A network with weights, statistics and counts of its own"
    model = net(seed, norm)
    model(TRAIN[0][seed:64+seed])
    return model

def by_hand(a, b, alpha, norm):
    "The network in between, as one would write it down"
    middle,(ta,tb) = copy_model(a),[named_tensors(o) for o in (a, b)]
    near = ta if alpha<=.5 else tb
    with torch.no_grad():
        for k,t in named_tensors(middle).items():
            stays = not t.is_floating_point() or ('running' in k and norm=='keep')
            t.copy_(near[k] if stays else (1-alpha)*ta[k] + alpha*tb[k])
    if norm=='recalibrate':
        for x,share in zip(TRAIN[0].split(256), (1, 44/300)): # a mean over items: the second batch is a small one
            middle[1].momentum = share
            middle(x)
    return middle.eval()

def loss_and_error(model, x, y):
    with torch.no_grad(): out = model(x)
    return F.cross_entropy(out, y).item(), (out.argmax(1)!=y).double().mean().item()

@pytest.mark.parametrize('norm', ['recalibrate','interpolate','keep'])
def test_every_point_is_what_it_is_by_hand(norm):
    a,b = moved(0),moved(1)
    before = everything(a),everything(b)
    line = barrier(a, b, (TRAIN, VALID), 5, norm, progress=False)
    assert not differing(everything(a), before[0]) and not differing(everything(b), before[1])
    assert a.training and a[1].momentum==.1
    for part,xy in dict(train=TRAIN, valid=VALID).items():
        rows = line.table[line.table.part==part]
        assert rows.alpha.tolist()==[0, .25, .5, .75, 1]
        want = np.array([loss_and_error(by_hand(a, b, o, norm), *xy) for o in rows.alpha])
        assert np.allclose(rows[['loss','error']], want, atol=1e-5)
        ends = want[[0,-1]].mean(0)
        name = '' if part=='valid' else 'train_'
        found = [line.heights[f'{name}{k}_barrier'] for k in ('loss','error')]
        assert found==pytest.approx(want.max(0)-ends, abs=1e-5)
    assert line.height==line.heights['error_barrier']

def test_the_policies_differ_where_there_are_statistics_and_nowhere_else():
    def losses(policy, **how):
        return barrier(*[moved(o, **how) for o in (0, 1)], (TRAIN, VALID), 5, policy, progress=False).table.loss
    policies = 'recalibrate','interpolate','keep'
    assert len({tuple(losses(o)) for o in policies})==3
    assert len({tuple(losses(o, norm=False)) for o in policies})==1

def test_ends_are_exact_and_what_cannot_be_between_is_of_the_nearer_end():
    a,b = everything(moved(0)),everything(moved(1))
    a['1.num_batches_tracked'] += 6
    extra = [dict(flag=torch.tensor(o), grows=torch.zeros(2+o)) for o in (False, True)]
    a,b = a | extra[0],b | extra[1]
    assert not differing(on_line(a, b, 0.), a) and not differing(on_line(a, b, 1.), b)
    for alpha,near in ((.5, a), (.51, b)):
        point = on_line(a, b, alpha, ['1.running_mean'])
        for k in ('1.num_batches_tracked','flag','grows','1.running_mean'): assert same_bits(point[k], near[k])
        assert not same_bits(point['1.running_var'], near['1.running_var'])

def norm1d(): return nn.Sequential(nn.Flatten(), nn.Linear(36,8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8,3))

def test_a_last_batch_of_one_item_has_no_variance_and_is_left_out():
    a,b = [net().double() for net in [norm1d]*2]
    x,y = data(257, 0)
    def line(n, loaders=False):
        part = (x[:n].double(), y[:n])
        if loaders: part = DataLoader(list(zip(*part)), bs=256)
        return barrier(a, b, (part, VALID), 3, progress=False).table.query("part=='valid'")
    pd.testing.assert_frame_equal(line(257), line(256))
    pd.testing.assert_frame_equal(line(257, loaders=True), line(256))
    df = instability(norm1d, ((x, y), VALID), 0, **HOW | dict(rounds=1, seeds=1))
    assert df[df.metric=='error_barrier'].value.notna().all()

def test_no_way_at_all_is_level():
    line = barrier(net(), net(), (TRAIN, VALID), progress=False)
    assert set(line.heights.values())=={0.} and len(line.table)==22

def test_data_in_all_forms_are_the_same():
    def loaders(): return [DataLoader(list(zip(*o)), bs=256) for o in (TRAIN, VALID)]
    learn = Learner(DataLoaders(*loaders()), net(), loss_func=CrossEntropyLossFlat())
    arrays = [[o.numpy() for o in part] for part in (TRAIN, VALID)]
    forms = [(TRAIN, VALID), DataLoaders(*loaders()), learn, loaders(), arrays]
    tables = [barrier(moved(0), moved(1), o, 3, progress=False).table for o in forms]
    for o in tables[1:]: pd.testing.assert_frame_equal(o, tables[0])
    assert [len(o) for o in line_batches((TRAIN, VALID), 1).values()]==[1, 1]

def test_shuffled_data_are_read_in_the_same_order_and_leave_no_trace():
    loader = torch.utils.data.DataLoader(list(zip(*TRAIN)), 64, shuffle=True)
    torch.manual_seed(7)
    tables = [barrier(moved(0), moved(1), (loader, VALID), 3, progress=False).table for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)
    torch.manual_seed(7)
    barrier(net(), net(), (loader, VALID), 3, progress=False)
    after = torch.rand(1)
    torch.manual_seed(7)
    net()
    assert torch.equal(torch.rand(1), after)

def test_without_classes_there_is_a_loss_alone():
    x,y = torch.randn(50, 4),torch.randn(50, 2)
    line = barrier(nn.Linear(4,2), nn.Linear(4,2), ((x,y), (x,y)), loss=F.mse_loss, progress=False)
    assert list(line.heights)==['loss_barrier','train_loss_barrier'] and 'error' not in line.table
    ends = line.table[line.table.part=='valid'].loss.iloc[[0,-1]]
    assert line.height==line.heights['loss_barrier']==pytest.approx(ends.max()-ends.mean()) # it's convex
    assert len(plot_line(line).axes)==1

def ticket(seed, sparsity=50, trained=True, **how):
    sp = Sparsifier(moved(seed), **how)
    sp.save_weights()
    sp.sparsify(sparsity)
    found = sp.ticket
    with torch.no_grad():
        for p in sp.model.parameters(): p.mul_(1.5)
    sp.apply()
    return sp.ticket if trained else found

def test_tickets_are_the_networks_that_they_make():
    tickets = [ticket(0), ticket(1, 80)]
    nets = [moved(9), moved(9)]
    for t,o in zip(tickets, nets): t.trained_into(o)
    want = barrier(*nets, (TRAIN, VALID), progress=False).table
    for ends in (dict(model=net), dict(model=net())):
        pd.testing.assert_frame_equal(barrier(*tickets, (TRAIN, VALID), progress=False, **ends).table, want)
    mixed = barrier(nets[0], tickets[1], (TRAIN, VALID), progress=False).table
    pd.testing.assert_frame_equal(mixed, want)

def test_pruned_weights_are_where_they_stay():
    tickets = [ticket(0, pruned_to='init'), ticket(1, pruned_to='init')]
    nets = [moved(9), moved(9)]
    for t,o in zip(tickets, nets): t.trained_into(o)
    assert all(o[0].weight.count_nonzero()==36 for o in nets)
    want = barrier(*nets, (TRAIN, VALID), progress=False).table
    pd.testing.assert_frame_equal(barrier(*tickets, (TRAIN, VALID), model=net, progress=False).table, want)

def test_a_picture_of_several():
    lines = {str(o): barrier(moved(0), moved(o), (TRAIN, VALID), 3, progress=False) for o in (0, 1)}
    error,loss = plot_line(lines).axes
    assert len(error.lines)==len(loss.lines)==4
    assert error.lines[3].get_ydata()==pytest.approx(100*lines['1'].table.query("part=='valid'").error)

# Along a search

def learner():
    parts = [DataLoader(list(zip(*o)), bs=50) for o in (TRAIN, VALID)]
    return Learner(DataLoaders(*parts), net(norm=True), loss_func=CrossEntropyLossFlat(), metrics=accuracy, lr=1e-2)

def test_a_search_is_walked_along():
    search = find_ticket(learner, lambda learn: learn.fit(1), 2, 50, progress=False)
    df = search.barriers(net, (TRAIN, VALID), 5, norm='interpolate', progress=False)
    assert list(df)==table_columns and set(df.arm)=={'dense','ticket'}
    nets = [net() for _ in search.tickets]
    for t,o in zip(search.tickets, nets): t.trained_into(o)
    for r in (1, 2):
        want = barrier(nets[r-1], nets[r], (TRAIN, VALID), 5, 'interpolate', progress=False).heights
        assert dict(df[(df['round']==r) & df.metric.isin(want)][['metric','value']].values)==pytest.approx(want)
    ends = df[df.metric=='accuracy']
    assert ends['round'].tolist()==[0, 1, 2] and ends.density.tolist()==[t.density for t in search.tickets]
    assert ends.value.tolist()==pytest.approx([1-loss_and_error(o.eval(), *VALID)[1] for o in nets])
    assert ends.step.tolist()==[6, 6, 6]
    assert len(plot_curve(df, ['error_barrier','accuracy']).axes)==2

def test_a_search_without_trained_weights_says_so():
    search = find_ticket(learner, lambda learn: learn.fit(1), 1, 50, progress=False)
    bare = [Ticket(t.masks, t.state, meta=t.meta) for t in search.tickets]
    with pytest.raises(ArgumentError, match='trained weights of round 0'): Search(bare).barriers(net, (TRAIN, VALID))
    with pytest.raises(ArgumentError, match='at least one round'): Search(bare[:1]).barriers(net, (TRAIN, VALID))

# Eigenvalues

def small(): return nn.Sequential(nn.Flatten(), nn.Linear(36,3), nn.Tanh(), nn.Linear(3,3)).double()

def by_whole_hessian(model, x, y, masks=None, sign=1):
    "The largest eigenvalue, from every second derivative"
    params = dict(model.named_parameters())
    sizes = [p.numel() for p in params.values()]
    def loss(flat):
        p = {k: o.view_as(v) for (k,v),o in zip(params.items(), flat.split(sizes))}
        return sign*F.cross_entropy(functional_call(model, p, x), y)
    h = hessian(loss)(torch.cat([p.detach().flatten() for p in params.values()]))
    everywhere = [torch.ones_like(p, dtype=torch.bool) if masks is None or k not in masks else masks[k]
                  for k,p in params.items()]
    at = torch.cat([m.flatten() for m in everywhere])
    return torch.linalg.eigvalsh(h[at][:, at])[-1].item()

X,Y = TRAIN[0].double(),TRAIN[1]

def test_the_largest_eigenvalue_is_that_of_the_whole_hessian():
    model = small()
    before = everything(model)
    found = top_eigenvalue(model, ((X, Y), (X, Y)), steps=3000, tol=1e-6)
    assert found==pytest.approx(by_whole_hessian(model, X, Y), rel=1e-4)
    assert not differing(everything(model), before)

def test_for_a_ticket_it_is_that_of_the_kept_weights():
    sp = Sparsifier(small())
    sp.save_weights()
    sp.sparsify(60)
    t = sp.ticket
    want = by_whole_hessian(sp.model, X, Y, t.masks)
    assert top_eigenvalue(t, ((X, Y), (X, Y)), small, steps=3000, tol=1e-6)==pytest.approx(want, rel=1e-4)
    assert want < by_whole_hessian(sp.model, X, Y)*(1-1e-3)

def test_the_largest_is_not_the_one_that_is_furthest_from_0():
    model = small()
    def less(out, y): return -F.cross_entropy(out, y)
    want = by_whole_hessian(model, X, Y, sign=-1)
    found = top_eigenvalue(model, ((X, Y), (X, Y)), loss=less, steps=5000, tol=1e-6)
    assert found==pytest.approx(want, abs=1e-3) and 1.2*want<by_whole_hessian(model, X, Y)

def test_eigenvalues_of_many_matrices_at_once():
    a = torch.randn(5, 12, 12, dtype=torch.float64)
    a = a+a.mT
    a[0] = 0
    v = dict(x=torch.randn(5, 3, 4, dtype=torch.float64))
    def product(v): return dict(x=(a@v['x'].flatten(1)[:, :, None]).view(5, 3, 4))
    found = largest_eigenvalues(product, v, 20000, 1e-6)
    assert torch.allclose(found, torch.linalg.eigvalsh(a)[:, -1], rtol=1e-4)

def test_what_has_not_come_to_rest_is_said():
    with pytest.warns(UserWarning, match='after 2 products'): top_eigenvalue(small(), ((X, Y), (X, Y)), steps=2)

# Instability

def double(): return new().double() # rounding shall not decide
DATA = [(x.double(), y) for x,y in (TRAIN, VALID)]

def plain(start, masks, order, first, last, bs=50):
    "Trains a network of the tensors `start` under masks, in plain PyTorch"
    model = double().train()
    model.load_state_dict(start)
    opt,g,rows = torch.optim.Adam(model.parameters(), 1e-2),torch.Generator().manual_seed(order),[]
    while len(rows)<last: rows += torch.randperm(300, generator=g).split(bs)
    for at in rows[first:last]:
        opt.zero_grad()
        F.cross_entropy(model(DATA[0][0][at]), TRAIN[1][at]).backward()
        opt.step()
        with torch.no_grad():
            for k,m in masks.items(): model.get_parameter(k).mul_(m)
    return model

HOW = dict(n_step=14, bs=50, lr=1e-2, progress=False, points=5)

@pytest.fixture
def masks(): return Sparsifier(double(), criteria='random').sparsify(50)

@pytest.mark.parametrize('norm', ['recalibrate','interpolate','keep'])
def test_pairs_are_what_they_are_alone(masks, norm):
    df = instability(double, DATA, ['4it',1], [3,5], arms=['ticket','reinit'], masks=masks, norm=norm,
                     hessian=True, **HOW)
    assert list(df)==['rewind', *table_columns] and set(df.rewind)=={4, 6} and set(df.seed)=={3, 5}
    recipe = Recipe(double, DATA, bs=50)
    for k,s in itertools.product((4, 6), (3, 5)):
        W_0,ticket = everything(recipe.network(s)),recipe.first_ticket(s, masks)
        W_k = everything(plain(W_0, {}, seed_of(s, 'order', 0), 0, k))
        fresh = everything(plain(arms['reinit'].begin(ticket, s, double).state, masks, seed_of(s, 'order', 1), 0, k))
        under = {n: t*masks[n] if n in masks else t for n,t in W_k.items()}
        for name,start,m in (('dense', W_k, {}), ('ticket', under, masks), ('reinit', fresh, masks)):
            pair = [plain(start, m, seed_of(s, 'copy', k, i), k, 14).eval() for i in range(2)]
            want = barrier(*pair, DATA, 5, norm, progress=False).heights
            scores = np.array([loss_and_error(o, *DATA[1]) for o in pair]).mean(0)
            want |= dict(valid_loss=scores[0], accuracy=1-scores[1])
            found = df[(df.rewind==k) & (df.seed==s) & (df.arm==name)].set_index('metric')
            values = dict(found.value)
            top = values.pop('top_eigenvalue')
            assert values==pytest.approx(want, abs=1e-8)
            t = Ticket(Masks(m), everything(pair[0]), everything(pair[0]))
            assert top==pytest.approx(top_eigenvalue(t, DATA, double), rel=.02)
            assert set(found.step)=={14} and set(found.epoch)=={2} and found.density.iloc[0]==(50 if m else 100)

def test_tickets_are_those_that_a_curve_finds():
    seen = {}
    @arm
    def spy(ticket, seed, model):
        seen[seed, ticket.meta['round']] = ticket
        return ticket
    how = {k: v for k,v in HOW.items() if k!='points'}
    df = instability(double, DATA, '3it', 2, [1,3], 40, [spy,'random'], **HOW)
    _,want = lottery_curve(double, DATA, 2, 3, 40, 'ticket', rewind='3it', keep='tickets', **how)
    assert seen.keys()=={(s, r) for s in (0, 1) for r in (1, 3)}
    for k,t in seen.items(): assert t.masks==want[k].masks and not differing(t.state, want[k].state)
    found = df.groupby(['arm','round'], sort=False).density.mean().to_dict()
    d1,d3 = (want[0,r].density for r in (1, 3))
    assert found==pytest.approx({('dense',0): 100, ('spy',1): d1, ('spy',3): d3, ('random',1): d1, ('random',3): d3})

def test_a_seed_is_what_it_is_alone():
    both = instability(double, DATA, [0,'5it'], [1,2], 2, 50, **HOW)
    one = instability(double, DATA, [0,'5it'], [2], 2, 50, **HOW)
    again = instability(double, DATA, [0,'5it'], [1,2], 2, 50, batch_seeds=1, **HOW)
    columns = ['rewind', *table_columns[:-1]]
    of_2 = both[both.seed==2].reset_index(drop=True)
    assert of_2[columns].equals(one[columns]) and np.allclose(of_2.value, one.value, atol=1e-8)
    assert both[columns].equals(again[columns]) and np.allclose(both.value, again.value, atol=1e-8)

def test_without_arms_there_are_dense_networks_and_the_bar_comes_to_its_end():
    told = []
    df = instability(double, DATA, [0,'5it'], 2, 2, 50, **HOW | dict(progress=lambda *o: told.append(o)))
    assert told[-1][0]==told[-1][1] and all(a[0]<b[0] for a,b in zip(told, told[1:]))
    bare = instability(double, DATA, [0,'5it'], 2, arms=(), **HOW | dict(progress=lambda *o: told.append(o)))
    assert told[-1][0]==told[-1][1]==2*(14 + 2*14 + 2*9)
    dense = df[df.arm=='dense'].reset_index(drop=True)
    assert set(bare.arm)=={'dense'} and np.allclose(bare.value, dense.value, atol=1e-8)
    assert bare.attrs['rewind']==[0, 5] and bare.attrs['n_step']==14

def test_fresh_weights_keep_their_pruned_ones_where_they_stay(masks, monkeypatch):
    seen,train = [],Stack.train
    def watched(self, *args, **how):
        run = train(self, *args, **how)
        seen.append(run.ends)
        return run
    monkeypatch.setattr(Stack, 'train', watched)
    arm = in_turn('pruned_to_init', 'reinit')
    instability(double, DATA, '3it', [1], arms=arm, masks=masks, **HOW)
    begun = arm.begin(Recipe(double, DATA, bs=50).first_ticket(1, masks), 1, double)
    assert len(seen)==3
    for ends in (seen[1], [seen[2][i] for i in (1, 3)]): # the network at step 3, and its two copies in the end
        for end,(k,m) in itertools.product(ends, masks.items()):
            assert torch.equal(end[k][~m], begun.full[k][~m]) and not torch.equal(end[k][m], begun.state[k][m])

def test_masks_may_be_of_other_layers_for_each_seed(masks):
    given = {i: Masks({k: masks[k]}) for i,k in enumerate(masks)}
    df = instability(double, DATA, [0], list(given), arms='ticket', masks=given, **HOW)
    for s,m in given.items():
        one = instability(double, DATA, [0], [s], arms='ticket', masks=m, **HOW)
        assert np.allclose(df[df.seed==s].value, one.value, atol=1e-8)

class Hollow(nn.Module):
    "NaN in the middle between two networks that are fine"
    def __init__(self):
        super().__init__()
        self.place,self.layer = nn.Parameter(torch.randn(())),nn.Linear(36, 3)
    def forward(self, x): return self.layer(x.flatten(1)) + 0*(self.place.abs()-.5).sqrt()

def test_a_barrier_of_nan_is_none():
    a,b = Hollow(),Hollow()
    a.place.data,b.place.data = torch.tensor(-1.),torch.tensor(1.)
    data = [[t.float() if t.is_floating_point() else t for t in part] for part in DATA]
    line = barrier(a, b, data, 5, progress=False)
    assert line.table.loss.isna().any() and line.table.iloc[[0,-1]].notna().all().all()
    assert all(math.isnan(o) for o in line.heights.values())

def test_what_is_not_finite_is_named_and_left_out():
    @arm
    def breaks(ticket, seed, model):
        state = {k: t*math.nan if seed==1 and t.is_floating_point() else t for k,t in ticket.state.items()}
        return Ticket(ticket.masks, state)
    with pytest.warns(UserWarning, match=r"seed 1, breaks, round 2, rewind 5: the loss isn't finite at step 5"):
        df = instability(double, DATA, ['5it'], 3, 2, 50, ['ticket', breaks], **HOW)
    assert df.value.notna().all() and set(df[df.arm=='breaks'].seed)=={0, 2}
    alone = instability(double, DATA, ['5it'], 3, 2, 50, 'ticket', **HOW)
    rest = df[df.arm!='breaks'].reset_index(drop=True)
    assert set(rest.seed)=={0, 1, 2} and np.allclose(rest.value, alone.value, atol=1e-8)

def test_a_network_that_breaks_on_the_way_is_left_out_with_all_that_comes_of_it():
    def broken():
        model = double()
        if torch.initial_seed()==hurt: nn.init.constant_(model[0].weight, math.nan)
        return model
    with seeded(1, 'init'): hurt = torch.initial_seed()
    with pytest.warns(UserWarning, match='seed 1, dense, round 0'):
        df = instability(broken, DATA, ['5it'], 2, 1, 50, 'ticket', **HOW)
    assert set(df.seed)=={0} and set(df.arm)=={'dense','ticket'}

def made_up(barriers, accuracies, metric='error_barrier'):
    rows = [dict(arm=a, seed=s, round=int(a!='dense'), density=20., epoch=0, step=9, metric=m, value=v)
            for m,o in ((metric, barriers), ('accuracy', accuracies)) for a,vs in o.items() for s,v in enumerate(vs)]
    return as_table(rows).assign(rewind=0)

def test_stable_and_matching_are_what_the_intervals_say():
    barriers = dict(dense=[.001,.002,.003], ticket=[.001,.002,.001], random=[.05,.06,.055], reinit=[.01,.02,.03])
    right = dict(dense=[.95,.96,.97], ticket=[.95,.961,.971], random=[.8,.81,.83], reinit=[.94,.97,.96])
    s = stability(made_up(barriers, right)).set_index('arm')
    assert s.stable.to_dict()==dict(dense='yes', ticket='yes', random='no', reinit='open')
    assert s.matching.to_dict()==dict(dense='yes', ticket='yes', random='no', reinit='open')
    half = stats.t.ppf(.975, 2)*stats.sem([.05,.06,.055])
    assert s.loc['random',['barrier','barrier_interval']].tolist()==pytest.approx([.055, half])
    assert s.difference['random']==pytest.approx(-.44/3) and list(s.index)==list(right)
    assert re.search("random masks at 20 % density aren't stable: 5.50 ± 1.24 %; they don't match", s.finding['random'])
    assert stability(made_up(barriers, right), .1).stable.eq('yes').all()
    alone = stability(made_up({k: v[:1] for k,v in barriers.items()}, {k: v[:1] for k,v in right.items()}))
    assert alone.stable.eq('open').all() and 'nan' not in ''.join(alone.finding)

def test_what_is_nan_is_not_counted():
    whole = dict(dense=[.001,.002,.003], ticket=[.001,.002,.003])
    some,right = dict(whole, ticket=[.001,math.nan,.003]),dict(whole, ticket=[.001,.002,math.nan])
    s = stability(made_up(some, whole)).set_index('arm')
    assert s.loc['ticket',['seeds','barrier','difference']].tolist()==[2, pytest.approx(.002), pytest.approx(0)]
    assert stability(made_up(whole, right)).set_index('arm').seeds.to_dict()==dict(dense=3, ticket=2)
    assert stability(made_up(dict(whole, ticket=[math.nan]*3), whole)).arm.tolist()==['dense']

def test_a_test_part_is_reported_beside_the_others():
    three = [*DATA, [DATA[1][0].flip(3), DATA[1][1]]]
    df = instability(double, three, 0, 2, 1, 50, 'ticket', **HOW)
    two = instability(double, DATA, 0, 2, 1, 50, 'ticket', **HOW)
    other = df.metric.str.startswith('test_')
    assert np.allclose(df[~other].value, two.value, atol=1e-8)
    assert set(df[other].metric)=={'test_error_barrier','test_loss_barrier','test_loss','test_accuracy'}
    s = stability(df, part='test').set_index('arm')
    assert s.barrier['ticket']==pytest.approx(df[(df.metric=='test_error_barrier') & (df.arm=='ticket')].value.mean())
    line = barrier(double(), double(), three, 3, progress=False)
    assert len(line.heights)==6 and len(plot_line(line).axes[0].lines)==3
    with pytest.raises(ArgumentError, match='it has no test_'): stability(two, part='test')

def test_a_picture_over_the_points():
    df = instability(double, DATA, [0,'5it'], 2, 2, 50, **HOW)
    error,acc = plot_instability(df).axes
    want = 100*df[(df.arm=='dense') & (df.metric=='accuracy')].groupby('rewind').value.mean()
    assert acc.lines[0].get_xdata().tolist()==[0, 5] and acc.lines[0].get_ydata()==pytest.approx(want)
    assert len(acc.lines)==4 and len(error.lines)==5 # where an error barrier counts as none
    assert len(plot_instability(df, 'valid_loss').axes)==1
    assert summarise(df[df.rewind==5], 'error_barrier').arm.tolist()==['dense','ticket','reinit','random']

# Mistakes

class Other(nn.Sequential): pass

@pytest.mark.parametrize('call, words', [
    (lambda: barrier(net(), nn.Linear(3,3), (TRAIN, VALID)), 'b=.*same architecture'),
    (lambda: barrier(net(), ConvNet(), (TRAIN, VALID)), 'b=.*missing in'),
    (lambda: barrier(net(norm=False), nn.Sequential(nn.Conv2d(1,4,3), nn.Tanh(), nn.Flatten(), nn.Linear(64,3)),
                     (TRAIN, VALID)), r'(?s)b=.*\(other modules\)'),
    (lambda: barrier(net(), 'net', (TRAIN, VALID)), "b='net'"),
    (lambda: barrier(ticket(0, trained=False), net(), (TRAIN, VALID)), 'a=.*was not trained'),
    (lambda: barrier(ticket(0), ticket(1), (TRAIN, VALID)), 'model=None'),
    (lambda: barrier(ticket(0), ticket(1), (TRAIN, VALID), model=ConvNet), 'a=.*same architecture'),
    (lambda: barrier(net(), net(), TRAIN[0]), 'data='), (lambda: barrier(net(), net(), (TRAIN, 3)), 'data='),
    (lambda: barrier(net(), net(), (TRAIN, [])), 'at least one batch'),
    (lambda: barrier(net(), net(), (TRAIN, VALID), 2), 'points=2'),
    (lambda: barrier(net(), net(), (TRAIN, VALID), norm='reset'), "norm='reset'"),
    (lambda: barrier(net(), net(), (TRAIN, VALID), loss=3), 'loss=3'),
    (lambda: barrier(net(), net(), (TRAIN, VALID), n_batch=0), 'n_batch=0'),
    (lambda: barrier(net(), net().double(), (TRAIN, VALID)), 'b=.*of the same type.*float64, not torch.float32'),
    (lambda: barrier(net(), net(), (data(0, 0), VALID)), 'data=.*at least one'),
    (lambda: barrier(net(), net(), (TRAIN, (VALID[0], VALID[1][:9]))), r'data=.*\(9,\).*as many targets'),
    (lambda: barrier(net(), net(), (TRAIN, (VALID[0][:,:,:3], VALID[1]))), 'data=.*that the network and the loss take'),
    (lambda: barrier(net(), net(), (TRAIN, (VALID[0], VALID[1]+3))), 'data=.*out of bounds'),
    (lambda: barrier(net(), net(), (TRAIN, VALID), loss=lambda out: 1), 'data=.*positional'),
    (lambda: barrier(ticket(0), ticket(1), (TRAIN, VALID), model=lambda: 3), r'model\(\)=3'),
    (lambda: top_eigenvalue(net().requires_grad_(False), (TRAIN, VALID)), 'a=.*that are trained'),
    (lambda: top_eigenvalue(net(), ((TRAIN[0][:,:,:3], TRAIN[1]), VALID)), 'data='),
    (lambda: plot_line([3]), 'lines='), (lambda: plot_line({}), 'lines='),
    (lambda: stability(made_up(dict(ticket=[1]), dict(ticket=[1]))), 'dense networks at every point'),
    (lambda: plot_instability(None), 'df=None'),
    (lambda: plot_instability(made_up(dict(dense=[1]), dict(dense=[1])), []), r'metrics=\[\]'),
    (lambda: plot_instability(made_up(dict(dense=[1]), dict(dense=[1])), stable='a'), "stable='a'"),
    (lambda: instability(new, (TRAIN, VALID), '14it', **HOW), "at='14it': expected a point before the end of 14 steps"),
    (lambda: instability(new, (TRAIN, VALID), 'lr', **HOW), "at='lr'"),
    (lambda: instability(new, (TRAIN, VALID), [], **HOW), 'at='),
    (lambda: instability(new, (TRAIN, VALID), 0, masks=3, **HOW), 'masks=3'),
    (lambda: instability(new, (TRAIN, VALID), '5steps', **HOW), "at='5steps': expected starts of epochs"),
    (lambda: instability(new, (TRAIN, VALID), 0, rounds=0, **HOW), 'rounds=0'),
    (lambda: instability(new, (TRAIN, VALID), 0, arms='tiket', **HOW), "did you mean 'ticket'"),
    (lambda: instability(new, (TRAIN, VALID), 0, rewind=1, **HOW), 'rewind=1: expected none'),
    (lambda: instability(new, (TRAIN, VALID), 0, when='init', **HOW), "when='init': expected none"),
    (lambda: instability(new, (TRAIN, VALID), 0, arms='finetune', **HOW), 'arms=finetune: expected arms that begin'),
    (lambda: instability(new, (TRAIN, VALID), 0, nstep=3, **HOW), 'nstep=3'),
    (lambda: instability(new, (TRAIN, VALID), 0, hessian=3, **HOW), 'hessian=3'),
    (lambda: instability(new, (TRAIN, VALID), 0, norm='reset', **HOW), "norm='reset'"),
    (lambda: instability(new(), (TRAIN, VALID), 0, **HOW), 'model='),
    (lambda: instability(new, (TRAIN, VALID), 0, masks={0: 3}, **HOW), 'masks='),
    (lambda: instability(new, (TRAIN, VALID), 0, masks=Masks({}), rounds=2, **HOW), 'rounds=2'),
    (lambda: instability(new, (TRAIN, VALID), 0, masks=Masks(dict(x=torch.ones(1).bool())), **HOW), 'masks='),
    (lambda: stability(as_table([])), 'it has no rewind'),
    (lambda: stability(made_up(dict(dense=[1]), dict(dense=[1])), part='train'), "part='train'"),
    (lambda: stability(made_up(dict(dense=[1]), dict(dense=[1]), 'valid_loss')), 'it has no error_barrier'),
    (lambda: plot_instability(made_up(dict(dense=[1]), dict(dense=[1])), 'accurcy'), "metrics='accurcy'"),
    (lambda: plot_instability(made_up(dict(dense=[1]), dict(dense=[1])), round=3), 'round=3'),
    (lambda: top_eigenvalue(ticket(0), (TRAIN, VALID)), 'model=None'),
    (lambda: top_eigenvalue(net(), (TRAIN, VALID), steps=0), 'steps=0'),
    (lambda: top_eigenvalue(net(), (TRAIN, VALID), tol=0), 'tol=0')])
def test_mistakes_are_named(call, words):
    with pytest.raises(ArgumentError, match=words): call()

def test_an_end_that_is_not_finite_is_named():
    broken = net()
    with torch.no_grad(): broken[0].weight[0] = math.nan
    with pytest.raises(ArgumentError, match="b=nan: expected a network whose loss is finite"):
        barrier(net(), broken, (TRAIN, VALID), progress=False)
