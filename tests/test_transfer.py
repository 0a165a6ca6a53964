"Tickets that move: onto other networks, held at their first weights, from one data set to another, averaged"
import copy, pickle, warnings

import pytest, torch
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.vision.learner import create_body, create_vision_model
from hypothesis import given, settings, strategies as st
from torch import nn
from torchvision.models import resnet18

import lottery_nb.channels # noqa: F401 (filters with their followers)
from lottery_nb.arms import arms, transfer
from lottery_nb.callback import SparsifyCallback
from lottery_nb.core import ArgumentError
from lottery_nb.curves import lottery_curve
from lottery_nb.data import digits_dls, digits_mlp
from lottery_nb.evidence import summarise
from lottery_nb.find import Search, find_ticket
from lottery_nb.masks import named_tensors
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket, same_bits
from lottery_nb.ticketfile import TicketFile
from models import ConvNet, batch, bits, copied, differing, everything, few_batches, masked, mlp, nonzero_pruned
from models import plain_arms, train_step

def ticket_of(net, sparsity=60, meta=None, **kwargs):
    "The ticket of a network as it is"
    state,sp = everything(net),Sparsifier(net, **kwargs)
    return Ticket(sp.sparsify(sparsity), state, meta=meta or dict(followers=sp.followers), full=state)

def onto(ticket, model, **kwargs):
    "The sparsifier, and what was said"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        sp = ticket.onto(model, **kwargs)
    return sp, [str(o.message) for o in said]

def backbone(): return nn.Sequential(nn.Conv2d(1,8,3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8,8,3), nn.Flatten())
def split(n_classes=10): return nn.Sequential(backbone(), nn.Linear(32,n_classes))

class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.backbone = net
    def forward(self, x): return self.backbone(x)

# Onto another network

wrapped = dict(same=lambda net: net, prefix=Wrapper, twice=lambda net: Wrapper(Wrapper(net)),
               sequential=lambda net: nn.Sequential(net, nn.Linear(10,3)), parallel=nn.DataParallel,
               averaged=torch.optim.swa_utils.AveragedModel)

@pytest.mark.parametrize('wrap', wrapped.values(), ids=wrapped)
def test_a_prefix_more(wrap):
    ticket,inner = ticket_of(ConvNet()),ConvNet()
    outer = wrap(inner)
    sp,_ = onto(ticket, outer)
    sub = outer.get_submodule('module') if isinstance(outer, torch.optim.swa_utils.AveragedModel) else inner
    assert not differing(everything(sub), masked(ticket.state, ticket.masks))
    assert len(sp.masks)==len(ticket.masks) and not nonzero_pruned(sp)

@pytest.mark.parametrize('wrap', [wrapped[k] for k in ('prefix','twice','sequential','averaged')])
def test_a_prefix_less(wrap):
    net = wrap(ConvNet())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ticket,bare = ticket_of(net, layers=['backbone'] if isinstance(net, Wrapper) else None),ConvNet()
    onto(ticket, bare)
    prefix = next(k for k in ticket.state if k.endswith('stem.0.weight')).removesuffix('stem.0.weight')
    then = masked(ticket.state, ticket.masks)
    assert not differing(everything(bare), {k: then[prefix+k] for k in everything(bare)})

def test_more_classes_are_new_and_named():
    ticket,net = ticket_of(split()),split(37)
    before = everything(net)
    sp,said = onto(ticket, net)
    assert len(said)==1 and '1.weight ((37, 32) for (10, 32)), 1.bias ((37,) for (10,))' in said[0]
    assert set(differing(everything(net), before)) <= {k for k in before if k.startswith('0.')}
    assert set(sp.masks)=={'0.0.weight','0.3.weight'}
    assert '1.weight' in sp.report().iloc[-1].layer and sp.report().iloc[-1].kept==37*32

def test_what_has_no_place_is_named():
    ticket,net = ticket_of(split()),backbone()
    sp,said = onto(ticket, net)
    assert len(said)==1 and 'nowhere in the model: 1.weight, 1.bias' in said[0]
    assert set(sp.masks)=={'0.weight','3.weight'}

def test_everything_is_somewhere():
    ticket,net = ticket_of(split()),nn.Sequential(split(7), nn.BatchNorm1d(7))
    df = ticket.places(net, but='0.0.0')
    assert sorted(df.ticket[df.ticket!=''])==sorted(ticket.state)
    assert sorted(df.model[df.model!=''])==sorted(named_tensors(net))
    by = df.groupby('becomes').model.apply(set).to_dict()
    assert by['left out']=={'0.0.0.weight','0.0.0.bias'}
    assert {'0.1.weight','0.1.bias','1.weight','1.running_var'} <= by['new']
    assert all(o.startswith('0.0.') for o in by['ticket'])

@pytest.mark.parametrize('but', ['1', '1.*', ['1.weight','1.bias'], '[1].*'])
def test_what_is_left_out_on_purpose_is_not_warned_of(but):
    ticket,net = ticket_of(split()),split()
    head = everything(net[1])
    sp,said = onto(ticket, net, but=but)
    assert not said and not differing(everything(net[1]), head) and '1.weight' not in sp.masks
    assert '1.weight' in sp.report().iloc[-1].layer

class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.left,self.right = mlp(),mlp()

def changed_by(fn, net):
    before = everything(net)
    with pytest.raises(ArgumentError) as e: fn(net)
    assert not differing(everything(net), before)
    return str(e.value)

def test_what_cannot_be_told_changes_nothing():
    ticket = ticket_of(mlp())
    assert "with 'left.' as with 'right.'" in changed_by(ticket.onto, Twins())
    said = changed_by(ticket.onto, nn.Linear(3,3))
    assert 'one prefix more or less' in said and '1.weight: (300, 64) in the ticket, missing in the model' in said
    assert 'some masked layer' in changed_by(lambda net: ticket.onto(net, but=['1','3','5']), mlp())
    assert "but='head'" in changed_by(lambda net: ticket.onto(net, but='head'), mlp())
    assert 'but=7' in changed_by(lambda net: ticket.onto(net, but=7), mlp())
    assert 'tensors' in changed_by(lambda net: ticket.onto(net, tensors={}), mlp())
    sp,said = onto(ticket, twins:=Twins(), but='left')
    assert set(sp.masks)=={f'right.{k}' for k in ticket.masks} and not said

@given(st.integers(1, 6), st.integers(1, 6), st.booleans())
@settings(max_examples=15)
def test_only_what_agrees_is_taken(n_out, n_hidden, prefix):
    "Any sizes: each tensor is the ticket's, or the model's own, to the bit"
    def net(hidden, out): return nn.Sequential(nn.Linear(4,3), nn.Linear(3,hidden), nn.Linear(hidden,out))
    ticket,model = ticket_of(net(3, 3), 50),net(n_hidden, n_out)
    outer = Wrapper(model) if prefix else model
    before,then = everything(model),masked(ticket.state, ticket.masks)
    onto(ticket, outer)
    for k,t in everything(model).items():
        assert torch.equal(bits(t), bits(then[k] if then[k].shape==t.shape else before[k])), k

def test_filters_take_their_followers_along():
    net = split()
    ticket = ticket_of(net, 50, granularity='filter', example=torch.randn(2,1,6,6))
    assert ticket.meta['followers']
    model = Wrapper(split(3))
    sp,_ = onto(ticket, model)
    opt = torch.optim.SGD(model.parameters(), lr=.1, momentum=.9)
    sp.watch(opt)
    for _ in range(2): train_step(model, opt, *(o if o.is_floating_point() else o%3 for o in batch()))
    zeros = {k for k,m in sp.held.items() if k not in sp.masks and not m.all()}
    assert zeros and all(k.startswith('backbone.0.') for k in zeros)
    for k,m in sp.held.items(): assert not model.get_parameter(k)[~m].count_nonzero()

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision(dtype):
    ticket,net = ticket_of(split()),split(3).to(dtype)
    sp,_ = onto(ticket, net)
    assert torch.equal(net[0][0].weight, ticket.state['0.0.weight'].to(dtype)) and not nonzero_pruned(sp)

def test_trained_weights_move_too():
    net = mlp()
    sp,opt = Sparsifier(net),torch.optim.SGD(net.parameters(), lr=.1)
    sp.save_weights()
    sp.sparsify(50)
    sp.watch(opt)
    train_step(net, opt, torch.randn(16,64), torch.randint(0, 10, (16,)))
    ticket,other = sp.ticket,Wrapper(mlp())
    _,said = onto(ticket, other, tensors=ticket.trained)
    assert not said and not differing(everything(other.backbone), everything(net))

# Pruned weights that stay where they began

def away(sp, began):
    "How many pruned weights and followers haven't the bits that they began with"
    pairs = [(sp.parameter(k)[~m], began[k].to(sp.parameter(k).dtype)[~m]) for k,m in sp.held.items()]
    return sum(int((bits(a)!=bits(b)).sum()) for a,b in pairs)

optimizers = dict(momentum=lambda p: torch.optim.SGD(p, lr=.1, momentum=.9, nesterov=True, weight_decay=.1),
                  adam=lambda p: torch.optim.Adam(p, lr=.01, weight_decay=.1, eps=1e-3, amsgrad=True),
                  adamw=lambda p: torch.optim.AdamW(p, lr=.01, weight_decay=.5, eps=1e-3))

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('optimizer', optimizers.values(), ids=optimizers)
def test_pruned_weights_stay_where_they_began(optimizer, dtype):
    net = mlp().to(dtype)
    with torch.no_grad(): net[1].weight[0,:3] = torch.tensor([-0., 1e-7, 0.]) # signs of 0 and subnormals too
    began = everything(net)
    sp,opt = Sparsifier(net, pruned_to='init'),optimizer(net.parameters())
    sp.watch(opt)
    def steps(n):
        for i in range(n):
            train_step(net, opt, torch.randn(16,64).to(dtype), torch.randint(0, 10, (16,)))
            assert not away(sp, began)
    steps(3)
    at50 = sp.sparsify(50)
    assert not away(sp, began)
    steps(3)
    at80 = sp.sparsify(80)
    assert at80.n_kept==at80.n_weights-round(.8*at80.n_weights) and all(not (at80[k] & ~at50[k]).any() for k in at80)
    steps(3)
    assert all((sp.weight(k)[m]!=began[k][m]).any() for k,m in at80.items())

def test_they_get_no_gradient():
    net = mlp()
    sp = Sparsifier(net, pruned_to='init')
    masks = sp.sparsify(60)
    opt = torch.optim.SGD(net.parameters(), lr=.1)
    sp.watch(opt)
    nn.functional.cross_entropy(net(torch.randn(16,64)), torch.randint(0, 10, (16,))).backward()
    for k,m in masks.items(): assert not sp.weight(k).grad[~m].any() and sp.weight(k).grad[m].any()

def test_the_rewind_point_counts_once_there_is_one():
    net = mlp()
    sp = Sparsifier(net, pruned_to='init')
    with torch.no_grad():
        for p in net.parameters(): p.add_(.01)
    sp.save_weights()
    then = everything(net)
    with torch.no_grad():
        for p in net.parameters(): p.mul_(-2)
    sp.sparsify(50)
    assert not away(sp, then) and differing(everything(net), then)
    sp.rewind()
    assert not differing(everything(net), then) # all of the network, pruned weights too

def test_another_precision_and_another_rewind_point_reach_what_is_held():
    net = mlp()
    sp = Sparsifier(net, pruned_to='init')
    sp.sparsify(50)
    began = everything(net)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        net.to(dtype)
        sp.apply()
        for k,m in sp.masks.items(): assert torch.equal(sp.weight(k)[~m], began[k][~m].to(dtype))
    with torch.no_grad(): net[1].weight.fill_(3)
    sp.save_weights()
    with torch.no_grad(): net[1].weight.fill_(4)
    sp.apply()
    assert set(net[1].weight[~sp.masks['1.weight']].tolist())=={3.}

def test_criteria_see_the_weights_as_they_are():
    net = mlp()
    sp = Sparsifier(net, pruned_to='init', method='local')
    sp.sparsify(90)
    back = sp.sparsify(50) # what comes back is chosen by its magnitude, too
    assert back==Sparsifier(net, method='local').sparsify(50)

def test_filters_with_followers_stay():
    net = ConvNet()
    net.stem[1].bias.data.normal_()
    began = everything(net)
    sp = Sparsifier(net, 'filter', example=batch()[0], pruned_to='init', layers=['stem'])
    sp.sparsify(50)
    opt = torch.optim.SGD(net.parameters(), lr=.1, momentum=.9, weight_decay=.1)
    sp.watch(opt)
    for _ in range(3): train_step(net, opt, *batch())
    assert len(sp.held)>len(sp.masks) and not away(sp, began)
    assert net.stem[1].bias[~sp.held['stem.1.bias']].count_nonzero()

def trained_ticket(net=None, **kwargs):
    "A sparsifier with pruned_to='init' that has trained, and its ticket"
    net = net or mlp()
    sp,opt = Sparsifier(net, pruned_to='init', **kwargs),torch.optim.AdamW(net.parameters(), lr=.01)
    sp.save_weights()
    sp.sparsify(70)
    sp.watch(opt)
    for _ in range(3): train_step(net, opt, torch.randn(16,64), torch.randint(0, 10, (16,)))
    return sp,sp.ticket

@pytest.mark.parametrize('full', [False, True])
def test_its_ticket_gives_the_same_network(tmp_path, full):
    sp,ticket = trained_ticket()
    assert ticket.meta['pruned_to']==ticket.pruned_to=='init' and "pruned_to='init'" in repr(ticket)
    loaded = Ticket.load(ticket.save(tmp_path/'t.safetensors', full=full))
    assert loaded==ticket and repr(TicketFile(tmp_path/'t.safetensors'))==repr(ticket)
    for o in (ticket, loaded, pickle.loads(pickle.dumps(ticket))):
        net = mlp()
        o.trained_into(net)
        assert not differing(everything(net), everything(sp.model))
        held = o.apply_to(net)
        assert not differing(everything(net), sp.snapshot)
        opt = torch.optim.AdamW(net.parameters(), lr=.01)
        held.watch(opt)
        train_step(net, opt, torch.randn(16,64), torch.randint(0, 10, (16,)))
        assert not away(held, sp.snapshot) and held.masks==sp.masks

def test_onto_another_network():
    sp,ticket = trained_ticket()
    net = Wrapper(nn.Sequential(*mlp()[:-1], nn.Linear(100,3)))
    head = everything(net.backbone[5])
    held,_ = onto(ticket, net)
    assert not differing(everything(net.backbone[5]), head)
    for k in ('1.weight','3.weight','1.bias'):
        assert torch.equal(net.backbone.get_parameter(k), sp.snapshot[k])
    with torch.no_grad(): net.backbone[1].weight.fill_(7)
    held.apply()
    m = ticket.masks['1.weight']
    assert torch.equal(net.backbone[1].weight[~m], sp.snapshot['1.weight'][~m]) and (net.backbone[1].weight[m]==7).all()

def test_arms_of_it():
    sp,ticket = trained_ticket()
    for arm in plain_arms.values():
        begun = arm.begin(ticket, 1, mlp)
        assert begun.pruned_to=='init'
        net = mlp()
        held = begun.apply_to(net)
        rest = begun.full if arm.name=='reinit' else sp.snapshot
        for k,m in held.masks.items(): assert torch.equal(net.get_parameter(k)[~m], rest[k][~m])

def test_the_callback():
    torch.manual_seed(0)
    learn = Learner(few_batches(n_in=1), nn.Sequential(nn.Flatten(), nn.Linear(64,20), nn.ReLU(), nn.Linear(20,10)),
                    loss_func=nn.CrossEntropyLoss())
    began = everything(learn.model)
    cb = SparsifyCallback(80, 'weight', 'global', 'movement', 'iterative', start_epoch=1, lth=True, pruned_to='init',
                          verbose=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(5, cbs=cb)
    assert cb.masks.sparsity==pytest.approx(80, abs=.1) and not away(cb.sparsifier, began)
    assert cb.ticket.pruned_to=='init'
    again = copy.deepcopy(learn.model)
    cb.ticket.trained_into(again)
    assert not differing(everything(again), everything(learn.model))

def test_what_cannot_be():
    with pytest.raises(ArgumentError, match="pruned_to='one': expected one of zero, init"):
        Sparsifier(mlp(), pruned_to='one')
    with pytest.raises(ArgumentError, match="pruned_to=None"):
        SparsifyCallback(80, 'weight', 'global', 'movement', 'iterative', pruned_to=None)
    _,ticket = trained_ticket()
    with pytest.raises(ArgumentError, match="full=None: expected all prunable weights"):
        Ticket(ticket.masks, ticket.state, meta=ticket.meta)

def test_zero_keeps_nothing_for_it():
    sp = Sparsifier(mlp())
    sp.sparsify(50)
    sp.save_weights()
    assert sp.rest is None and not nonzero_pruned(sp)

# From one data set to another

def curve(turned=False, **kwargs):
    data = [[torch.as_tensor(t) for t in dl.stacked()] for dl in digits_dls().loaders]
    if turned: data = [(x.rot90(1, (-2,-1)), y) for x,y in data]
    how = dict(seeds=[1,4], rounds=2, prune=50, arms='ticket', n_step=60, progress=False) | kwargs
    return lottery_curve(digits_mlp, data, keep='tickets', **how)

@pytest.fixture(scope='module')
def elsewhere(): return curve(turned=True)[1]

def test_own_tickets_from_elsewhere_are_the_tickets():
    "What the arm trains is what it was given: of the same experiment, the same numbers to the bit"
    _,own = curve()
    df,_ = curve(arms=['ticket', transfer(own, 'again')])
    at = ['seed','round','step','metric']
    a,b = (df[df.arm==o].set_index(at).value for o in ('ticket','again'))
    assert len(a)==len(b)>0 and a.equals(b.loc[a.index])

@pytest.mark.parametrize('kind', [dict, list])
def test_theirs_begin_with_their_masks_and_weights(elsewhere, kind):
    _,own = curve()
    arm = transfer(elsewhere if kind is dict else list(elsewhere.values()), 'turned')
    for (seed,r),ticket in own.items():
        begun,theirs = arm.begin(ticket, seed, digits_mlp),elsewhere[seed,r]
        assert begun.masks==theirs.masks and same_bits(begun.state, theirs.state) and begun.trained is None
        assert begun.density==ticket.density and begun.meta['seed']==seed
        assert begun.meta['arm']=='dense+'*(r==0)+'turned'
        assert (begun.masks==ticket.masks)==(r==0)

def test_it_is_trained_and_measured_like_any_arm(elsewhere):
    df,_ = curve(arms=['ticket', transfer(elsewhere, 'turned')])
    n = df.groupby(['arm','round']).value.size()
    assert n['turned',1]==n['ticket',1] and n['turned',2]==n['ticket',2]
    assert not {'turned'} & set(arms) and 'turned' in summarise(df).versus.values

def test_in_a_search(elsewhere):
    def learner(): return Learner(digits_dls().cpu(), digits_mlp(), metrics=accuracy)
    def fit(learn): learn.fit(1)
    search = find_ticket(learner, fit, rounds=2, prune=50, seed=4, arms=transfer(elsewhere), progress=False)
    assert [search.arms['transfer'][r].masks==elsewhere[4,r].masks for r in (1,2)]==[True,True]

def test_a_search_wants_its_own_rounds_alone_and_says_so_before_it_trains(elsewhere):
    def learner(): return Learner(digits_dls().cpu(), digits_mlp(), metrics=accuracy)
    def never(learn): pytest.fail('trained')
    theirs = transfer({k: t for k,t in elsewhere.items() if k[1]}) # no dense one
    with pytest.raises(ArgumentError, match=r'transfer=\(4, 3\): expected a seed and round of its tickets'):
        find_ticket(learner, never, rounds=3, prune=50, seed=4, arms=theirs, progress=False)
    search = find_ticket(learner, lambda learn: learn.fit(1), 1, 50, seed=4, arms=theirs, progress=False)
    assert search.arms['transfer'][1].masks==elsewhere[4,1].masks

def one_layer(): return nn.Sequential(nn.Flatten(), nn.Linear(64,10))

@pytest.mark.parametrize('model,prune,granularity,words', [
    (digits_mlp, 60, 'weight', 'transfer=.*expected a ticket that keeps 20080 weights'),
    (digits_mlp, [50,80], 'weight', 'keeps 10040 weights'),
    (one_layer, 50, 'weight', 'transfer=.*expected tickets of this network: 1.weight'),
    (one_layer, 50, 'row', 'expected tickets of this network: 1.weight')])
def test_other_counts_and_networks_are_named_before_training(elsewhere, model, prune, granularity, words):
    how = dict(rounds=2, prune=prune, granularity=granularity, arms=transfer(elsewhere), progress=False)
    def never(learn): pytest.fail('trained')
    def loss(*args): pytest.fail('trained')
    def learner(): return Learner(digits_dls().cpu(), model(), metrics=accuracy)
    with pytest.raises(ArgumentError, match=words): find_ticket(learner, never, seed=4, **how)
    with pytest.raises(ArgumentError, match=words): lottery_curve(model, digits_dls(), seeds=[4], loss=loss, **how)

def test_a_floor_counts_before_training(elsewhere):
    def learner(): return Learner(digits_dls().cpu(), digits_mlp(), metrics=accuracy)
    how = dict(rounds=1, prune=95, seed=4, floor=10, progress=False)
    for method in ('global','local'):
        own = find_ticket(learner, lambda learn: learn.fit(1), method=method, **how).tickets
        again = find_ticket(learner, lambda learn: learn.fit(1), method=method, arms=transfer(own), **how)
        assert again.arms['transfer'][1].masks==own[1].masks

def test_what_cannot_be_transferred(elsewhere):
    own = curve(prune=[50,75])[1][1,1]
    for fn,error in [(lambda: transfer(elsewhere).begin(own, 7), r'transfer=\(7, 1\): expected a seed and round'),
                     (lambda: transfer({(1,1): elsewhere[1,2]}).begin(own, 1), 'keeps 25100 weights, as'),
                     (lambda: transfer(None), 'tickets=None: expected at least one Ticket'),
                     (lambda: transfer([]), 'at least one'), (lambda: transfer({}), 'at least one'),
                     (lambda: curve(seeds=[1,5], arms=transfer(elsewhere)), r'transfer=\(5, 1\)'),
                     (lambda: transfer([ticket_of(mlp())]), 'tickets=.*expected seed and round in the meta'),
                     (lambda: transfer({1: elsewhere[1,1]}), 'tickets=.*expected seed and round'),
                     (lambda: transfer({(1,1): 3}), r'tickets\[\(1, 1\)\]=3: expected a Ticket'),
                     (lambda: transfer(elsewhere, 'reinit'), "name='reinit': expected one that no arm has"),
                     (lambda: transfer(elsewhere, None), 'name=None: expected a text')]:
        with pytest.raises(ArgumentError, match=error): fn()

# Averaged

def search_of(model, data, rounds=2, **kwargs):
    how = dict(seeds=[3], rounds=rounds, prune=50, arms='ticket', n_step=40, progress=False, keep='tickets') | kwargs
    _,tickets = lottery_curve(model, data, **how)
    return Search([tickets[3,r] for r in range(rounds+1)])

@pytest.fixture(scope='module')
def small(): return search_of(digits_mlp, digits_dls()),digits_dls().valid.stacked()

def right(net, x, y): return (net(x).argmax(1)==y).double().mean().item()

def test_a_pool_is_what_its_table_says(small):
    search,(x,y) = small
    x,y = torch.as_tensor(x),torch.as_tensor(y)
    before = [copied(t.trained) for t in search.tickets]
    pooled,df = search.pool(digits_mlp, (x, y), seed=5)
    assert all(not differing(t.trained, b) for t,b in zip(search.tickets, before))
    assert pooled.masks==search.tickets[-1].masks and same_bits(pooled.state, search.tickets[-1].state)
    assert list(df)==['round','share','choose','report','kept'] and len(df)==1+2*5
    kept = df[df.kept]
    assert kept.choose.is_monotonic_increasing and kept.choose.is_unique and len(kept)>1
    assert pooled.meta['pooled']==kept[['round','share']].values[1:].tolist() and pooled.table.empty
    # the same by hand: mixtures one after the other, and both halves together
    w = dict(search.tickets[-1].trained)
    for r,share in pooled.meta['pooled']: w = {k: t + share*(search.tickets[int(r)].trained[k]-t) for k,t in w.items()}
    assert all(torch.allclose(masked(w, pooled.masks)[k], t, atol=1e-6) for k,t in pooled.trained.items())
    pooled.trained_into(net:=digits_mlp())
    assert right(net, x, y)==pytest.approx(kept[['choose','report']].values[-1].mean(), abs=.002)

def test_the_reporting_half_chooses_nothing(small):
    "Whatever its targets say, the same is chosen"
    search,(x,y) = small
    _,df = search.pool(digits_mlp, (x, y), seed=5)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    wrong = torch.as_tensor(y).clone()
    wrong[order[-(len(y)//2):]] = 0
    _,other = search.pool(digits_mlp, (x, wrong), seed=5)
    assert other[['choose','kept']].equals(df[['choose','kept']]) and not other.report.equals(df.report)

def test_nothing_helps_nothing_changes(small):
    search,(x,y) = small
    pooled,df = search.pool(digits_mlp(), (x, y), round=1, metric=lambda preds, y: 0.)
    assert same_bits(pooled.trained, search.tickets[1].trained) and pooled.meta['pooled']==[] and df.kept.sum()==1

def normed(): return nn.Sequential(nn.Flatten(), nn.Linear(64,30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30,10))

def test_statistics_are_those_of_the_mixture():
    search,(x,y) = search_of(normed, digits_dls()),digits_dls().valid.stacked()
    with pytest.raises(ArgumentError, match="train_x=None: expected training inputs"): search.pool(normed, (x, y))
    seen = torch.as_tensor(digits_dls().train.stacked()[0])[:256]
    pooled,_ = search.pool(normed, (x, y), train_x=seen, metric=lambda preds, y: -float(preds.var()))
    assert pooled.meta['pooled']
    pooled.trained_into(net:=normed())
    h = net[1](seen.flatten(1))
    assert torch.allclose(net[2].running_mean, h.mean(0), atol=1e-5)
    assert torch.allclose(net[2].running_var, h.var(0), rtol=1e-4, atol=1e-6)

def test_the_same_call_pools_the_same_and_leaves_random_numbers_alone():
    def dropping(): return nn.Sequential(*list(normed())[:4], nn.Dropout(.5), nn.Linear(30,20), nn.BatchNorm1d(20),
                                         nn.ReLU(), nn.Linear(20,10))
    x,y = digits_dls().valid.stacked()
    search = find_ticket(lambda: Learner(digits_dls(bs=200).cpu(), dropping(), metrics=accuracy),
                         lambda learn: learn.fit(1), 2, 50, progress=False)
    seen,before = torch.as_tensor(digits_dls().train.stacked()[0]),torch.get_rng_state()
    a = search.pool(dropping, (x, y), train_x=seen)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    b = search.pool(dropping, (x, y), train_x=seen)
    assert a[0]==b[0] and a[1].equals(b[1])

def test_what_cannot_be_pooled(small):
    search,(x,y) = small
    for kwargs,error in [(dict(round=3), 'round=3: expected a round of this search, at most 2'),
                         (dict(round=0), 'round=0'), (dict(shares=[1.]), 'shares=1.0: expected more than 0 and less'),
                         (dict(shares=()), 'shares=None: expected .*more than 0'),
                         (dict(shares='half'), "shares='half'"), (dict(data=None), 'data=None: expected a pair'),
                         (dict(data=digits_dls()), 'data=.*: expected a pair'), (dict(data=(x,)), 'expected a pair'),
                         (dict(data=(y, x)), r'data=\[\(.*expected inputs and targets that the network and the metric'),
                         (dict(metric='accuracy'), "metric='accuracy': expected a function of predictions and targets"),
                         (dict(model=lambda: 5), r'model\(\)=5: expected an nn.Module'),
                         (dict(data=(x, y[:3])), 'as many targets as inputs'), (dict(seed=-1), 'seed=-1'),
                         (dict(model=nn.Linear(2,2)), "a model of the ticket's architecture"),
                         (dict(model=None), 'model=None: expected a function that makes a network')]:
        with pytest.raises(ArgumentError, match=error): search.pool(**{**dict(model=digits_mlp, data=(x, y)), **kwargs})

# A search with pruned weights that stay

def moving(rounds=2, **kwargs):
    def learner(): return Learner(digits_dls().cpu(), digits_mlp(), metrics=accuracy)
    def fit(learn): learn.fit(2, 3e-3)
    return find_ticket(learner, fit, rounds=rounds, prune=60, criteria='movement', pruned_to='init', progress=False,
                       **kwargs)

@pytest.mark.parametrize('rewind', [0, 1])
def test_a_search_with_pruned_weights_that_stay(tmp_path, rewind):
    search = moving(rewind=rewind, arms=['reinit','random'], dir=tmp_path/'a')
    w = search.tickets[0].state
    for r,t in enumerate(search.tickets):
        assert t.pruned_to=='init' and same_bits(t.full, {k: w[k] for k in t.masks})
        net = digits_mlp()
        sp = t.trained_into(net)
        assert not away(sp, w)
        with torch.no_grad(): x,y = (torch.as_tensor(o) for o in digits_dls().valid.stacked())
        assert right(net, x, y)==pytest.approx(search.rounds().accuracy[r], abs=1e-6) # measured with them in place
    for o in search.arms.values():
        for t in o.values(): assert not away(t.trained_into(digits_mlp()), t.full)
    loaded = Search.load(tmp_path/'a')
    assert loaded.tickets==search.tickets and loaded.arms==search.arms
    moving(rounds=1, rewind=rewind, dir=tmp_path/'b')
    assert moving(rewind=rewind, dir=tmp_path/'b').tickets==search.tickets # gone on with is the same

def test_each_round_moves_fewer_of_those_that_moved_most():
    search = moving()
    for a,b in zip(search.tickets, search.tickets[1:]):
        moved = {k: (a.trained[k]-search.tickets[0].state[k]).abs() for k in a.masks}
        kept = torch.cat([moved[k][b.masks[k]] for k in b.masks]).min()
        gone = torch.cat([moved[k][a.masks[k] & ~b.masks[k]] for k in b.masks]).max()
        assert kept>=gone and all(not (b.masks[k] & ~a.masks[k]).any() for k in b.masks)

def test_what_a_search_cannot_hold():
    with pytest.raises(ArgumentError, match="pruned_to='init': expected 'zero' with rewind='lr'"): moving(rewind='lr')

# fastai's own networks

def test_a_vision_learner_with_more_classes():
    old,new = (create_vision_model(resnet18, n_out, pretrained=False) for n_out in (3,5))
    ticket = ticket_of(old)
    sp,said = onto(ticket, new)
    assert said==['onto: new, so as the model drew it, and dense: 1.8.weight ((5, 512) for (3, 512)) '
                  '(but=… says what you leave out on purpose)']
    then = masked(ticket.state, ticket.masks)
    assert differing(everything(new), then)==['1.8.weight'] and not nonzero_pruned(sp)
    assert set(ticket.masks)-set(sp.masks)=={'1.8.weight'}

def test_a_body_under_a_new_head():
    body,whole = create_body(resnet18(), pretrained=False),create_vision_model(resnet18, 5, pretrained=False)
    ticket,head = ticket_of(body),everything(whole[1])
    sp,said = onto(ticket, whole, but='1')
    assert not said and not differing(everything(whole[1]), head)
    assert not differing(everything(whole[0]), masked(ticket.state, ticket.masks))
    assert set(sp.masks)=={f'0.{k}' for k in ticket.masks}
