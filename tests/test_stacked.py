"Networks side by side: each against a plain PyTorch loop of its own, in double precision"
import itertools, math, random, sys, threading
from collections import OrderedDict
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lottery_nb.core import ArgumentError, as_table, seeded, table_columns, threads
from lottery_nb.data import digits_dls
from lottery_nb.masks import Masks
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.stacked import (Recipe, SeededDropout, Stack, as_many_as_fit, augmentation, batch_orders,
                                check_seeds, dropout_key, flip, shift)
from lottery_nb.ticket import Ticket
from models import ConvNet, everything, same_bits

(X,Y),(VX,VY) = DATA = [[t.as_subclass(torch.Tensor) for t in dl.stacked()] for dl in digits_dls()]

def mlp(): return nn.Sequential(nn.Flatten(), nn.Linear(64,30), nn.ReLU(), nn.Linear(30,10)).double()
def conv():
    return nn.Sequential(nn.Conv2d(1,6,3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6,8,3), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Flatten(), nn.Linear(8*16,10)).double()
def ConvNet64(): return ConvNet().double()
class Noisy(nn.Linear):
    def forward(self, x): return F.dropout(super().forward(x), .3, self.training)
def dropping():
    return nn.Sequential(nn.Conv2d(1,6,3), nn.Dropout2d(.2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(.4),
                         Noisy(6*36,20), nn.ReLU(), nn.Linear(20,10)).double()

def named():
    return nn.Sequential(OrderedDict(flat=nn.Flatten(), a=nn.Linear(64,12), r=nn.ReLU(), b=nn.Linear(12,10))).double()
def all_at_once(): # BatchNorm, dropout, and a layer that isn't trained
    net = dropping()
    net[0].requires_grad_(False)
    return net

def recipe(model=mlp, data=DATA, **how): return Recipe(model, data, **dict(n_step=20, bs=20, device='cpu') | how)
def tickets_of(r, seeds=(3,5,8)):
    masks = Sparsifier(r.network(0), criteria='random').sparsify(40)
    return [r.first_ticket(s, masks) for s in seeds]

# the bias before BatchNorm has no gradient but what rounding leaves, and Adam enlarges that
def close(a, b): torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)

# --- Against a plain loop

def train_plainly(r, ticket, order, first=0, last=None, lr=None):
    "One network, one batch at a time, PyTorch as it is"
    net = r.model()
    sp = ticket.apply_to(net)
    how = dict(lr=r.lr, weight_decay=r.wd) | (dict(momentum=r.momentum) if r.opt=='sgd' else {})
    opt = dict(sgd=torch.optim.SGD, adam=torch.optim.Adam, adamw=torch.optim.AdamW)[r.opt](net.parameters(), **how)
    g,rows = torch.Generator().manual_seed(order),[]
    while len(rows)<r.n_step: rows += torch.randperm(len(X), generator=g)[:len(X)//r.bs*r.bs].split(r.bs)
    for step in range(first, r.n_step if last is None else last):
        for group in opt.param_groups: group['lr'] = (lr or r.lr_at)(step)
        opt.zero_grad()
        x = X[rows[step]].double()
        if r.augment: x = r.augmented(x, order, step)
        with SeededDropout(dropout_key(order), step): F.cross_entropy(net(x), Y[rows[step]]).backward()
        opt.step()
        sp.apply()
    return net

@torch.no_grad()
def measured_plainly(net, x=VX, y=VY):
    out = net.eval()(x.double())
    return dict(loss=F.cross_entropy(out, y).item(), accuracy=(out.argmax(1)==y).double().mean().item())

@pytest.mark.parametrize('model', [mlp, conv, ConvNet64, dropping, named, all_at_once],
                         ids=lambda o: o.__name__)
@pytest.mark.parametrize('how', [dict(), dict(opt='adam', augment=['shift','flip'], warmup=7),
                                 dict(opt='adamw', wd=.1, lr_schedule='one_cycle'),
                                 dict(opt='sgd', lr=.05, wd=.01, lr_schedule='cosine')], ids=str)
def test_each_network_is_what_a_plain_loop_gives(model, how):
    r = recipe(model, **how)
    tickets,orders = tickets_of(r),[11,12,11]
    run = Stack(r, tickets).train(orders)
    for t,order,end,i in zip(tickets, orders, run.ends, range(3)):
        net = train_plainly(r, t, order)
        for k,v in everything(net).items(): close(end[k], v)
        expected = measured_plainly(net)
        assert run.measured[20]['valid_loss'][i]==pytest.approx(expected['loss'], rel=1e-8)
        assert run.measured[20]['accuracy'][i]==pytest.approx(expected['accuracy'], abs=1e-12)

@pytest.mark.parametrize('model', [mlp, conv, dropping], ids=lambda o: o.__name__)
@pytest.mark.parametrize('augment', [(), 'shift'])
def test_each_network_is_what_it_is_alone(model, augment):
    r = recipe(model, augment=augment)
    together = Stack(r, tickets_of(r)).train([1,2,3])
    for i,t in enumerate(tickets_of(r)):
        alone = Stack(r, [t]).train([i+1])
        for k,v in alone.ends[0].items(): close(together.ends[i][k], v)

@pytest.mark.parametrize('model', [mlp, conv, dropping], ids=lambda o: o.__name__)
def test_a_run_in_parts_is_a_plain_loop_in_parts(model):
    "The optimizer begins anew in each part; batches and learning rates go on"
    r = recipe(model, lr_schedule='cosine', eval_every=4)
    run = Stack(r, tickets_of(r)).train([1,2,3], keep=[0,7,20])
    assert list(run.kept)==[0,7,20] and list(run.measured)==[0,4,8,12,16,20]
    for a,b in zip(run.kept[20], run.ends): assert all(same_bits(a[k], b[k]) for k in b)
    part = Stack(r, [Ticket(t.masks, o) for t,o in zip(tickets_of(r), run.kept[7])]).train([1,2,3], first=7, last=13)
    assert list(part.measured)==[7,8,12,13]
    for i,t in enumerate(tickets_of(r)):
        middle = train_plainly(r, t, i+1, last=7)
        for k,v in everything(middle).items(): close(run.kept[7][i][k], v)
        end = train_plainly(r, Ticket(t.masks, everything(middle)), i+1, first=7, last=13)
        for k,v in everything(end).items(): close(part.ends[i][k], v)

def test_layers_that_see_each_row_by_itself():
    "`nn.Flatten` needn't flatten everything"
    def rows(): return nn.Sequential(nn.Flatten(2), nn.Linear(16,3)).double()
    x,y = X.view(-1,4,1,16)[:100],X.view(-1,4,1,16)[:100,:,0,:3]
    r = recipe(rows, ((x,y),(x,y)), loss=F.mse_loss)
    stack = Stack(r, [r.first_ticket(s) for s in (0, 1)])
    expected = [F.mse_loss(r.network(s)(x.double()), y.double()).item() for s in (0, 1)]
    assert stack.measure()['loss']==pytest.approx(expected)

def test_masks_may_be_of_other_layers():
    "A weight without a mask is dense, whatever the masks beside it are of"
    r = recipe()
    masks = Sparsifier(r.network(0), criteria='random').sparsify(40)
    tickets = [r.first_ticket(3, o) for o in (*(Masks({k: m}) for k,m in masks.items()), masks)]
    run = Stack(r, tickets).train([4]*3)
    for t,end in zip(tickets, run.ends):
        for k,v in everything(train_plainly(r, t, 4)).items(): close(end[k], v)

def test_another_learning_rate():
    r = recipe()
    run = Stack(r, tickets_of(r)).train([1,2,3], lr=lambda step: .01/(1+step))
    net = train_plainly(r, tickets_of(r)[1], 2, lr=lambda step: .01/(1+step))
    for k,v in everything(net).items(): close(run.ends[1][k], v)

@pytest.mark.parametrize('model', [mlp, conv], ids=lambda o: o.__name__)
def test_gradients_in_the_end_are_those_of_the_next_batch(model):
    r = recipe(model)
    run = Stack(r, tickets_of(r)).train([1,2,3], last=5, grads=True)
    net = train_plainly(r, tickets_of(r)[2], 3, last=5)
    rows = next(itertools.islice(batch_orders([3], len(X), 20), 5, None))[0]
    net.zero_grad()
    F.cross_entropy(net(X[rows].double()), Y[rows]).backward()
    for k,p in net.named_parameters(): close(run.grads[2][k], p.grad)
    assert Stack(r, tickets_of(r)).train([1,2,3], last=1).grads==[{},{},{}]

# --- Chance

def test_warmup_rises_in_a_line():
    r,plain = recipe(warmup=4, lr_schedule='cosine'),recipe(lr_schedule='cosine')
    assert [r.lr_at(i)/plain.lr_at(i) for i in range(6)]==pytest.approx([.25,.5,.75,1,1,1])

def test_dropout_drops_as_often_as_it_should_and_every_time_other_places():
    x,seen = torch.ones(200, 50, dtype=torch.float64),[]
    for key in map(dropout_key, range(4)):
        for step in range(3):
            with SeededDropout(key, step): seen += [F.dropout(x, .3), F.dropout(x, .3)]
    kept = torch.stack(seen)
    assert set(kept.unique().tolist())=={0, 1/.7}
    kept = (kept>0).double().flatten(1)
    assert (kept.mean(1)-.7).abs().max()<.02 and (kept.mean(0)-.7).abs().mean()<.1
    assert (torch.corrcoef(kept)-torch.eye(24)).abs().max()<.06 # 24 drawings of 10,000 places
    assert (torch.corrcoef(kept.view(-1,200,50)[0].T)-torch.eye(50)).abs().max()<.35 # within one
    with SeededDropout(5, 0):
        assert torch.equal(F.dropout(x, .3, training=False), x) and torch.equal(F.dropout(x, 0.), x)
        assert not F.dropout(x, 1.).any()
        channels = F.dropout2d(torch.ones(40, 30, 3, 3), .5)
    assert (channels.flatten(2).std(2)==0).all() and .4<(channels[:,:,0,0]>0).double().mean()<.6

def test_dropout_in_place_is_dropout():
    class InPlace(nn.Linear):
        def forward(self, x):
            h = super().forward(x)
            F.dropout(h, .5, self.training, inplace=True)
            return h
    class Plain(nn.Linear):
        def forward(self, x): return F.dropout(super().forward(x), .5, self.training)
    def ends(layer):
        r = recipe(lambda: nn.Sequential(nn.Flatten(), layer(64,30), nn.Linear(30,10)).double())
        return Stack(r, tickets_of(r)).train([3,5,8]).ends
    for a,b in zip(ends(InPlace), ends(Plain)):
        for k in a: close(a[k], b[k])
    x = torch.ones(99)
    with SeededDropout(3, 0): assert F.dropout(x, .5, inplace=True) is x and 0<x.count_nonzero()<99

def test_dropout_leaves_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    r = recipe(dropping)
    Stack(r, tickets_of(r)).train([1,2,3], last=2)
    assert torch.equal(torch.get_rng_state(), before)

def test_shift_and_flip():
    x = torch.rand(50, 3, 7, 9)
    def drawn(fn, seed=1, **how): return fn.fn(x, torch.Generator().manual_seed(seed), **how)
    moved,turned = drawn(shift, pixels=1),drawn(flip)
    def at(image, dy, dx): return F.pad(image, (1,1,1,1))[:,1+dy:8+dy,1+dx:10+dx]
    found = [[(dy,dx) for dy in (-1,0,1) for dx in (-1,0,1) if torch.equal(b, at(a, dy, dx))] for a,b in zip(x, moved)]
    assert all(len(o)==1 for o in found) and len({o[0] for o in found})==9
    both = [torch.equal(b, a.flip(-1)) for a,b in zip(x, turned)]
    assert all(o or torch.equal(a, b) for o,a,b in zip(both, x, turned)) and 10<sum(both)<40
    assert torch.equal(drawn(shift), drawn(shift)) and not torch.equal(drawn(shift), drawn(shift, 2))

def test_an_augmentation_of_your_own():
    @augmentation
    def noise(x, generator, *, size=.1): return x + size*torch.randn(x.shape, generator=generator).to(x)
    r = recipe(augment=['shift', noise(size=.5)])
    assert r.settings['augment']==['shift','noise(size=0.5)']
    run = Stack(r, tickets_of(r)).train([1,2,3])
    for k,v in everything(train_plainly(r, tickets_of(r)[1], 2)).items(): close(run.ends[1][k], v)

# --- Measured

@pytest.mark.parametrize('data', ['valid', 'train', (X[:33].double(),Y[:33])], ids=['valid','train','given'])
def test_measured_on_any_data(data):
    r = recipe(conv)
    found = Stack(r, tickets_of(r)).measure(data)
    x,y = dict(valid=(VX,VY), train=(X,Y))[data] if isinstance(data, str) else data
    for i,t in enumerate(tickets_of(r)):
        net = r.model()
        t.apply_to(net)
        for k,v in measured_plainly(net, x, y).items(): assert found[k][i]==pytest.approx(v, rel=1e-9)

def test_rows_are_of_the_one_table():
    r = recipe(eval_every=10, bs=300)
    df = as_table(Stack(r, tickets_of(r)).train([1,2,3]).rows(r, 'mine', [3,5,8], 2, [60.]*3))
    assert list(df.columns)==table_columns and len(df)==3*3*2 and set(df.seed)=={3,5,8}
    assert (df.arm=='mine').all() and (df['round']==2).all() and (df.density==60).all()
    assert dict(zip(df.step, df.epoch))=={0: 0, 10: 2, 20: 4}

def test_what_is_not_finite_is_told_and_its_rows_end():
    r = recipe(opt='sgd', lr=1., n_step=6, eval_every=1)
    tickets = tickets_of(r)
    huge = Ticket(tickets[1].masks, {k: t*1e160 for k,t in tickets[1].state.items()})
    good,bad = (Stack(r, [tickets[0], o, tickets[2]]).train([1,2,3]) for o in (tickets[1], huge))
    assert bad.bad[1]<6 and bad.bad[0]==bad.bad[2]==math.inf and good.bad==[math.inf]*3
    for i in (0,2): assert all(same_bits(bad.ends[i][k], v) for k,v in good.ends[i].items())
    steps = [o['step'] for o in bad.rows(r, 'a', [0,1,2], 0, [60.]*3) if o['seed']==1]
    assert all(step<bad.bad[1] for step in steps)

# --- Numbers

def test_orders_are_the_numbers_own():
    a = list(itertools.islice(batch_orders([4,9], 10, 3), 7))
    b = list(itertools.islice(batch_orders([9], 10, 3), 7))
    assert all(torch.equal(p[1:], q) for p,q in zip(a, b))
    assert len(torch.cat([o[0] for o in a[:3]]).unique())==9 # an epoch, without its last item

def test_first_weights_depend_on_the_seed_alone():
    with seeded(7, 'init'): net = mlp()
    state = recipe().first_ticket(7).state
    assert all(same_bits(state[k], v) for k,v in everything(net).items())

def test_as_many_as_fit():
    def few(seeds):
        asked.append(len(seeds))
        if len(seeds)>2: raise torch.OutOfMemoryError
        return seeds
    asked = []
    assert list(as_many_as_fit(few, list(range(5)), 9))==[[0,1],[2,3],[4]] and asked==[5,2,2,1]
    def never(seeds): raise torch.OutOfMemoryError
    with pytest.raises(torch.OutOfMemoryError): list(as_many_as_fit(never, [0,1], 2))
    def broken(seeds): raise RuntimeError('broken')
    with pytest.raises(RuntimeError, match='broken'): list(as_many_as_fit(broken, [0,1], 2))

# --- Bad input

def twice():
    layer = nn.Linear(64,64)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)
class Growing:
    "Every network is wider than the last"
    n = 10
    def __call__(self):
        self.n += 1
        return nn.Sequential(nn.Flatten(), nn.Linear(64,self.n))

@pytest.mark.parametrize('how, told', [
    *[(dict([o]), f'{o[0]}={o[1]!r}') for o in [('n_step',0), ('bs',0), ('opt','lion'), ('lr',-1), ('wd',-1),
      ('momentum',.5), ('lr_schedule','zigzag'), ('loss','mse'), ('eval_every',0), ('device','tpu'), ('bs',1438)]],
    (dict(model=nn.ReLU), 'with weights'),
    (dict(model=lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10))), 'shape'),
    (dict(data=DATA[:1]), 'data=.*expected numbers as'), (dict(data=[*DATA, *DATA]), 'data=.*expected numbers as'),
    (dict(data=DataLoader(TensorDataset(X, Y), len(X)//2)), 'data=DataLoader: expected numbers as'), # two batches
    (dict(data=[*DATA, (VX,VY[1:])]), 'as many targets as inputs'),
    (dict(model=twice), 'can be stacked: 3.weight and 1.weight are one tensor'),
    (dict(model=Growing()), 'model=.*same architecture .1.weight'),
    (dict(model=nn.Linear), 'model=Linear: expected a function without arguments'),
    (dict(data=lambda n: DATA), 'data=.*what gives them'),
    (dict(lr_schedule=lambda: 1.), 'lr_schedule=.*a function of a number'),
    (dict(steps=3), 'no such argument'),
    (dict(warmup=21), 'warmup=21: expected at most 20'), (dict(warmup=.1), 'warmup='),
    (dict(augment='rotate'), "augment='rotate': expected one of shift, flip"),
    (dict(data=[(x.flatten(1), y) for x,y in DATA], augment='shift'), r'takes inputs of \[20, 64\]'),
])
def test_bad_input_is_named(how, told):
    with pytest.raises(ValueError, match=told): recipe(**how)

def test_roundings_are_no_reason_to_refuse(monkeypatch):
    "A deep network's gradient can be a percent off in single precision; one that differs in double too is another one"
    stacked = Recipe.stacked
    def off(only):
        "Gradients in a stack are off by a tenth, in these precisions"
        def fn(self, tickets):
            return [[loss, grad*(1.1 if grad.dtype in only else 1), *b] for loss,grad,*b in stacked(self, tickets)]
        monkeypatch.setattr(Recipe, 'stacked', fn)
    off([torch.float32])
    recipe()
    off([torch.float32, torch.float64])
    with pytest.raises(ArgumentError, match='others there'): recipe()

def test_seeds_fit_into_a_table():
    assert check_seeds([2**63-1])==[2**63-1]
    with pytest.raises(ValueError, match='seeds=9223372036854775808: expected less than'): check_seeds([2**63])

def test_a_test_part():
    dls = digits_dls(test=20)
    x,y = dls[2].stacked()
    assert len(y)==359 and len(dls.train_ds)==1437-359 and torch.equal(dls.valid.stacked()[0], VX)
    def images(*parts): return sorted(o.flatten().tolist() for part in parts for o in part)
    assert images(dls.train.stacked()[0], x)==images(X)
    r = recipe(data=dls)
    stack = Stack(r, tickets_of(r))
    run = stack.train([1,2,3])
    assert run.measured[20]['test_accuracy']==stack.measure((x,y))['accuracy']!=run.measured[20]['accuracy']
    df = as_table(run.rows(r, 'a', [3,5,8], 0, [60.]*3))
    assert set(df.metric)=={'valid_loss','accuracy','test_loss','test_accuracy'}
    plain = Stack(recipe(data=[dl.stacked() for dl in dls.loaders[:2]]), tickets_of(r)).train([1,2,3])
    assert run.measured[20]['valid_loss']==plain.measured[20]['valid_loss']

def test_a_part_that_is_not_there():
    with pytest.raises(ValueError, match="data='all': expected one of train, valid"):
        Stack(r:=recipe(), tickets_of(r)).measure('all')

# --- A stack a thread

@pytest.mark.parametrize('model', [mlp, conv, dropping], ids=lambda o: o.__name__)
def test_each_thread_trains_what_a_stack_of_these_does(model):
    "To the last bit, whatever the other does meanwhile: BatchNorm in eval mode while that trains, and dropout"
    r = recipe(model, eval_every=3)
    r.drops,tickets,orders = model is dropping,tickets_of(r, range(9)),list(range(9))
    with threads(2):
        parts = [part for _,part in r.by_thread(9)]
        run = r.train(tickets, orders, keep=[5], grads=True)
        assert torch.get_num_threads()==2
    assert [o.stop-o.start for o in parts]==[4,5]
    with threads(1): alone = [Stack(r, tickets[o]).train(orders[o], keep=[5], grads=True) for o in parts]
    assert run.measured=={k: {m: a+b for (m,a),b in zip(v.items(), alone[1].measured[k].values())}
                          for k,v in alone[0].measured.items()} and list(run.measured)==[0,3,6,9,12,15,18,20]
    assert run.bad==[math.inf]*9 and len(run.ends)==len(run.kept[5])==len(run.grads)==9
    for o,other in zip(parts, alone):
        for mine,theirs in [(run.ends, other.ends), (run.kept[5], other.kept[5]), (run.grads, other.grads)]:
            assert all(same_bits(a[k], b[k]) for a,b in zip(mine[o], theirs) for k in a)

def test_a_thread_has_four_networks_at_least():
    r = recipe()
    def shares(n): return [o.stop-o.start for _,o in r.by_thread(n)]
    with threads(3): assert list(map(shares, (1,4,7,8,12,100)))==[[1], [4], [7], [4,4], [4,4,4], [33,33,34]]
    with threads(1): assert shares(100)==[100] and r.by_thread(100)[0][0] is r

def test_an_interrupt_or_an_error_ends_all_threads():
    "At their next step, whoever it comes to; the error arrives, and the number of threads is what it was"
    class Counting(Recipe):
        def lr_at(self, step):
            steps.append(step)
            here = threading.current_thread() is threading.main_thread()
            if step>9 and here==hits_main: raise error
            return .01
    endless = dict(n_step=10**9, bs=20, device='cpu', eval_every=sys.maxsize)
    r = Counting(mlp, DATA, **endless)
    tickets,n = tickets_of(r, range(8)),threading.active_count()
    for hits_main,error in [(True, KeyboardInterrupt()), (True, RuntimeError('alloc')), (False, RuntimeError('alloc'))]:
        steps = []
        with threads(2):
            with pytest.raises(type(error)): r.train(tickets, list(range(8)))
            assert torch.get_num_threads()==2
        assert threading.active_count()==n and len(steps)<1000

def test_what_holds_in_one_thread_alone_keeps_all_there():
    r = recipe()
    with threads(2), torch.autocast('cpu', torch.bfloat16): assert len(r.by_thread(100))==1
    with threads(2): assert len(r.by_thread(100))==2

def test_layers_that_come_twice():
    "One activation in two places, and two in a row: as alone"
    def shared():
        act = nn.ReLU()
        return nn.Sequential(nn.Flatten(), nn.Linear(64,30), act, nn.Linear(30,20), act, nn.Linear(20,10))
    def row(): return nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(64,30), nn.Tanh(), nn.ReLU(), nn.Linear(30,10))
    for make in (shared, row):
        r = recipe(make)
        tickets = [r.first_ticket(s) for s in (0,1)]
        for i,(t,found) in enumerate(zip(tickets, r.stacked(tickets))):
            for a,b in zip(r.alone(t, i), found): torch.testing.assert_close(a, b.cpu(), atol=1e-6, rtol=1e-4)

@pytest.mark.parametrize('draw', [lambda: random.random(), lambda: np.random.rand()], ids=['python','numpy'])
def test_random_numbers_that_a_stack_would_share(draw):
    class Drops(nn.Linear):
        def forward(self, x): return super().forward(x)*(draw()>.5 if self.training else 1)
    with pytest.raises(ArgumentError, match="Python's or NumPy's random numbers"):
        recipe(lambda: nn.Sequential(nn.Flatten(), Drops(64,10)))

def test_targets_that_are_to_be_left_out():
    "PyTorch's loss leaves out items of class -100; a mean over networks and an accuracy don't"
    (x,y),valid = DATA
    with pytest.raises(ArgumentError, match='train targets of -100.*expected classes from 0 on'):
        recipe(data=((x, y.where(torch.arange(len(y))>40, -100)), valid))
