"Learned masks: exact counts, weights that stay, the paper's gradient, replicates that don't disturb each other"
import math, warnings
import numpy as np, pytest, torch, torch.nn.functional as F
from fastai.learner import Learner
from hypothesis import given, strategies as st
from torch import autograd, nn

from lottery_nb.arms import arms, transfer
from lottery_nb.callback import HoldMasks
from lottery_nb.core import ArgumentError, seeded, table_columns, threads
from lottery_nb.curves import lottery_curve
from lottery_nb.data import digits_dls, digits_mlp
from lottery_nb.evidence import summarise
from lottery_nb.masks import named_tensors
from lottery_nb.papers import cite
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.stacked import Stack, order_of
from lottery_nb.supermask import (MaskSearch, MaskStack, bernoulli, conv_of_width, edge_popup, gate_chance, gates,
                                  largest, mask_rules, maskrule, mlp_of_width, plot_supermasks, straight_through,
                                  supermask, supermasks, with_init)
from lottery_nb.ticket import Ticket
from models import copied, differing, everything, few_batches, masked, nonzero_pruned, same_bits

QUICK = dict(n_step=12, bs=100, progress=False)

def tiny(): return nn.Sequential(nn.Flatten(), nn.Linear(64,12), nn.ReLU(), nn.Linear(12,10))

def convs():
    return nn.Sequential(nn.Conv2d(1,4,3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4,4,3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(64,10))

def double(): return tiny().double()

class GetSubnet(autograd.Function):
    "The function of the paper's authors, in words of ours: ones for the highest scores, the gradient as it comes"
    @staticmethod
    def forward(ctx, scores, n_kept):
        out,order = torch.zeros_like(scores).flatten(),scores.flatten().argsort()
        out[order[len(order)-n_kept:]] = 1
        return out.view(scores.shape)

    @staticmethod
    def backward(ctx, g): return g, None

# Rules

@given(st.data())
def test_largest_keeps_exactly_so_many_and_the_largest(data):
    rows,n = data.draw(st.integers(1, 3)),data.draw(st.integers(1, 40))
    spread = data.draw(st.sampled_from([0, 1, 3, 1000]))
    numbers = st.lists(st.integers(-spread, spread), min_size=rows*n, max_size=rows*n)
    values = torch.tensor(data.draw(numbers), dtype=torch.float).view(rows, n)
    kept = data.draw(st.integers(0, n))
    found = largest(values, kept)
    assert found.dtype==torch.bool and (found.sum(1)==kept).all()
    for v,m in zip(values, found):
        order = sorted(range(n), key=lambda i: (-v[i].item(), i))
        assert set(m.nonzero().flatten().tolist())==set(order[:kept])

def test_straight_through_is_the_mask_to_the_bit():
    soft = torch.randn(1000, requires_grad=True)
    mask = torch.rand(1000)<.5
    out = straight_through(mask, soft)
    assert same_bits(out, mask.float())
    g = torch.randn(1000)
    out.backward(g)
    assert torch.equal(soft.grad, g)

def test_edge_popup_has_the_paper_s_gradient():
    "∂L/∂s = sign(s) · ∂L/∂(w m) · w of every weight, kept or not, as of the authors' function by plain autograd"
    with seeded(3): net = convs().double()
    x,y = torch.randn(7,1,8,8, dtype=torch.double),torch.randint(0, 10, (7,))
    search = MaskSearch(lambda: convs().double(), digits_dls(), 30, seeds=[3], **QUICK)
    stack = search.stack(1, [3])
    stack.backward(x[None], y[None])
    net = search.network(3)
    scores = {k: s.detach()[0].clone().requires_grad_() for k,s in stack.params.items()}
    params = {k: p.detach() for k,p in net.named_parameters()}
    for k,s in scores.items():
        params[k] = params[k]*GetSubnet.apply(s.abs(), stack.n_kept[k]).view(params[k].shape)
        params[k].retain_grad()
    loss = F.cross_entropy(torch.func.functional_call(net, params, (x,)), y)
    loss.backward()
    with torch.no_grad():
        for k,s in scores.items():
            w = dict(net.named_parameters())[k]
            by_hand = s.sign()*(params[k].grad*w).flatten()
            assert torch.allclose(s.grad, by_hand, rtol=1e-12) and by_hand.count_nonzero()>stack.n_kept[k]
            assert torch.allclose(stack.params[k].grad[0], s.grad, rtol=1e-8, atol=1e-12)

def test_bernoulli_draws_by_sigma_and_its_gradient_is_that_of_sigma():
    s = torch.tensor([[-2., 0., 3.]]).repeat(20000, 1).requires_grad_()
    u = torch.rand(20000, 3)
    mask = bernoulli.in_step(s, 1, u)
    assert torch.equal(mask.detach(), (u<s.sigmoid()).float())
    assert torch.allclose(mask.detach().mean(0), s[0].sigmoid(), atol=.02)
    mask.sum().backward()
    p = s.detach().sigmoid()
    assert torch.allclose(s.grad, p*(1-p))

def test_gates_are_cut_off_and_their_gradient_is_the_true_one():
    s = torch.tensor([[-3., .2, .5, 3.]], dtype=torch.double).requires_grad_()
    u = torch.full((1,4), .5, dtype=torch.double)
    gate = gates.in_step(s, 1, u)
    assert torch.allclose(gate.detach(), torch.tensor([[0., .2, .5, 1.]], dtype=torch.double))
    gate.sum().backward()
    assert s.grad.tolist()==[[0, 1, 1, 0]]
    z = torch.randn(20000, 1, dtype=torch.double)
    open = (gates(std=.7).in_step(s.detach().expand(20000, 4), 1, torch.special.ndtr(z).expand(-1, 4))>0).double()
    assert torch.allclose(open.mean(0), gate_chance(s.detach()[0], std=.7), atol=.02)

@given(st.sampled_from([bernoulli, gates, gates(std=2.)]), st.floats(.02, .98), st.integers(0, 2**31))
def test_gates_are_open_as_often_as_asked_for(rule, share, seed):
    s = rule.first_scores(torch.empty(5,4, dtype=torch.double), share, None)
    assert math.isclose(rule.chance(s, **rule.settings).mean(), share, rel_tol=1e-6)
    g = torch.Generator().manual_seed(seed)
    moved = s[None] + torch.randn(3, 20, generator=g, dtype=torch.double)
    apart = moved-moved[:,:1]
    for _ in range(60): rule.settle_(moved, share)
    assert torch.allclose(rule.chance(moved, **rule.settings).mean(1), torch.tensor(share).double(), atol=1e-3)
    assert torch.allclose(moved-moved[:,:1], apart)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('rule', mask_rules)
def test_half_precision(rule, dtype):
    ticket = supermask(lambda: tiny().to(dtype), digits_dls(), 30, rule, n_step=4)
    assert ticket.state['1.weight'].dtype==dtype and abs(ticket.density-30)<.1

def test_rare_weights_of_bfloat16_are_there_as_often_as_they_should():
    search = MaskSearch(lambda: tiny().bfloat16(), digits_dls(), 30, 'bernoulli', seeds=[0], **QUICK)
    stack = search.stack(1, [0])
    scores = torch.full((1,200000), math.log(.001), dtype=torch.bfloat16)
    mask = bernoulli.in_step(scores, 1, stack.uniform(scores))
    assert math.isclose(mask.float().mean(), .001, rel_tol=.3)

def test_edge_popup_s_scores_begin_as_in_the_paper():
    "As `kaiming_uniform_(a=√5)` draws them, and nothing moves them"
    w = torch.empty(300, 4, 3, 3)
    s = edge_popup.first_scores(w, .5, torch.Generator().manual_seed(0))
    nn.init.kaiming_uniform_(w, a=math.sqrt(5))
    assert s.shape==(w.numel(),) and s.abs().max()<=1/6+1e-6
    assert math.isclose(s.std(), w.std(), rel_tol=.02) and abs(s.mean())<.01
    assert edge_popup.settle_(s[None].clone(), .1).equal(s[None])

def test_a_rule_of_yours():
    @maskrule
    def smallest(scores, n_kept):
        "The lowest (ours)"
        return straight_through(largest(-scores, n_kept), -scores)
    assert mask_rules['smallest'] is smallest
    ticket = supermask(tiny, digits_dls(), 30, 'smallest', n_step=3)
    assert ticket.meta['rule']=='smallest' and abs(ticket.density-30)<.1
    @maskrule
    def one(scores, n_kept): return scores[0]
    with pytest.raises(ArgumentError, match='rule=one: expected a function that gives a mask like the scores'):
        supermask(tiny, digits_dls(), 30, one)
    @maskrule
    def all_of_them(scores, n_kept): return torch.ones_like(scores)*scores.sigmoid()
    with pytest.raises(ArgumentError, match='rule=all_of_them: expected a function that keeps'):
        supermask(tiny, digits_dls(), 30, all_of_them)

# Masks and tickets

@pytest.mark.parametrize('rule', mask_rules)
@pytest.mark.parametrize('density', [100, 61.3, 50, 7])
def test_density_is_exact_and_weights_are_as_they_were(rule, density):
    with seeded(1): net = tiny()
    before,keys = everything(net),list(net.state_dict())
    ticket = supermask(net, digits_dls(), density, rule, n_step=7)
    assert not differing(everything(net), before) and list(net.state_dict())==keys
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert not differing(ticket.state, masked(before, ticket.masks))
    assert not differing(ticket.full, {k: before[k] for k in ticket.masks})
    n = {k: m.numel() for k,m in ticket.masks.items()}
    assert ticket.masks.n_kept==sum(n.values())-round((100-density)/100*sum(n.values()))
    for k,m in ticket.masks.items(): assert abs(int(m.count_nonzero())-density/100*n[k])<1
    assert ticket.masks.shapes()==Sparsifier(net).masks.shapes() and ticket.trained is None

def test_densities_in_any_order():
    how = dict(seeds=1, arms=(), n_step=3, progress=False)
    up,down = (supermasks(tiny, digits_dls(), o, **how) for o in ((20,60), (60,20)))
    assert up.equals(down) and up.density.is_monotonic_decreasing

@given(st.floats(3, 100), st.sampled_from(['local','erk']))
def test_counts_are_those_of_a_sparsifier(density, method):
    search = MaskSearch(tiny, digits_dls(), density, seeds=[0], method=method, **QUICK)
    masks = Sparsifier(tiny(), method=method).sparsify(100-density)
    assert search.n_kept==[{k: int(m.count_nonzero()) for k,m in masks.items()}]
    assert search.stack(1, [0]).learned()[0].table().kept.tolist()==masks.table().kept.tolist()

def test_buffers_are_those_of_the_last_step_and_the_accuracy_is_the_ticket_s():
    dls = digits_dls()
    with seeded(1): net = convs()
    ticket = supermask(net, dls, 40, n_step=30)
    assert not torch.equal(ticket.state['1.running_mean'], net[1].running_mean)
    params = {k: p for k,p in net.named_parameters()}
    assert not differing({k: ticket.state[k] for k in params}, masked(copied(params), ticket.masks))
    new = convs()
    ticket.apply_to(new)
    x,y = dls.valid.stacked()
    with torch.no_grad(): right = (new.eval()(x).argmax(1)==y).float().mean().item()
    last = ticket.table.query('metric=="accuracy"').iloc[-1]
    assert last.step==30 and math.isclose(last.value, right, abs_tol=1e-6) and last.arm=='ticket'

def test_a_ticket_survives_its_file_and_can_be_trained_on(tmp_path):
    dls = digits_dls()
    ticket = supermask(tiny, dls, 20, seed=2, n_step=10)
    ticket.save(tmp_path/'t.safetensors', full=True)
    assert Ticket.load(tmp_path/'t.safetensors')==ticket
    learn = Learner(dls, tiny(), loss_func=nn.CrossEntropyLoss())
    sp = ticket.apply_to(learn.model)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3, cbs=HoldMasks(sp))
    assert nonzero_pruned(sp)==0 and not torch.equal(learn.model[1].weight.cpu(), ticket.state['1.weight'])

@pytest.mark.parametrize('rule', mask_rules)
def test_same_seed_same_ticket(rule):
    a,b,c = (supermask(tiny, digits_dls(), 30, rule, seed=s, n_step=10) for s in (4, 4, 5))
    assert a==b and a.masks!=c.masks
    assert a.meta['seed']==4 and a.meta['rule']==rule and a.meta['round']==1

@pytest.mark.parametrize('rule', mask_rules)
@pytest.mark.parametrize('model', [double, lambda: convs().double()], ids=['mlp','conv'])
def test_a_replicate_is_what_it_is_alone(rule, model):
    search = MaskSearch(model, digits_dls(), 30, rule, seeds=9, **QUICK)
    with threads(2): together,rows = search.learn(1) # in two stacks
    for s in (0,3,4,8):
        one,own = MaskSearch(model, digits_dls(), 30, rule, seeds=[s], **QUICK).learn(1)
        assert one[s].masks==together[s].masks
        told = {(o['arm'], o['step'], o['metric']): o['value'] for o in rows if o['seed']==s}
        for o in own: assert math.isclose(told[o['arm'], o['step'], o['metric']], o['value'], rel_tol=1e-9), o

def test_a_plain_loop_learns_the_same_mask():
    "Edge-popup by hand: scores as parameters, the authors' function, PyTorch's Adam, the same batches"
    search = MaskSearch(double, digits_dls(), 30, seeds=[6], **QUICK)
    ticket = search.learn(1)[0][6]
    net,stack = search.network(6),search.stack(1, [6])
    scores = {k: s.detach()[0].clone().requires_grad_() for k,s in stack.params.items()}
    opt = torch.optim.Adam(scores.values(), lr=.05)
    for step,(x,y,*_) in zip(range(12), stack.batches([order_of(6, 0)])):
        for group in opt.param_groups: group['lr'] = .05*(1+math.cos(math.pi*step/12))/2
        masks = {k: GetSubnet.apply(s.abs(), search.n_kept[0][k]) for k,s in scores.items()}
        params = {k: p.detach()*masks[k].view(p.shape) if k in masks else p for k,p in net.named_parameters()}
        opt.zero_grad()
        F.cross_entropy(torch.func.functional_call(net, params, (x[0],)), y[0]).backward()
        opt.step()
    for k,s in scores.items():
        assert torch.equal(GetSubnet.apply(s.abs(), search.n_kept[0][k]).view(ticket.masks[k].shape)>0, ticket.masks[k])

def test_other_parameters_and_other_layers_stay():
    ticket = supermask(convs, digits_dls(), 25, layers=['0','3'], n_step=5)
    assert list(ticket.masks)==['0.weight','3.weight']
    with seeded(0, 'init'): net = convs()
    assert same_bits(ticket.state['6.weight'], net[6].weight.detach())

@pytest.mark.parametrize('make', [lambda: tiny().requires_grad_(False), lambda: torch.compile(tiny(), backend='eager')],
                         ids=['frozen','compiled'])
def test_frozen_and_compiled_networks_learn_as_others_do(make):
    found,net = (supermask(o, digits_dls(), 30, n_step=5, seed=2) for o in (make, tiny)),make()
    assert len({t.masks.digest() for t in found})==1
    before = everything(net)
    assert supermask(net, digits_dls(), 30, n_step=2).density<31
    frozen = [not p.requires_grad for p in make().parameters()]
    assert not differing(everything(net), before) and [not p.requires_grad for p in net.parameters()]==frozen

def test_all_weights_of_dense_networks_are_trained():
    def frozen():
        net = tiny()
        net[1].requires_grad_(False)
        return net
    how = dict(seeds=1, arms=(), **QUICK)
    assert supermasks(frozen, digits_dls(), 50, **how).equals(supermasks(tiny, digits_dls(), 50, **how))

def test_a_fraction_is_asked_about():
    with pytest.warns(UserWarning, match='for 50 percent say density=50'): supermask(tiny, digits_dls(), .5, **QUICK)

def test_dropout_learns_side_by_side_too():
    def dropping(): return nn.Sequential(nn.Flatten(), nn.Linear(64,12), nn.ReLU(), nn.Dropout(.3), nn.Linear(12,10))
    for rule in mask_rules: assert supermask(dropping, digits_dls(), 30, rule, n_step=4).masks.n_kept

# First weights

@pytest.mark.parametrize('make', [digits_mlp, convs])
def test_first_weights(make):
    with seeded(0): plain = with_init(make, 'kaiming_normal')
    with seeded(0): signed = with_init(make, 'signed_constant')
    for k in Sparsifier(plain).layers:
        a,b = named_tensors(plain)[k].detach(),named_tensors(signed)[k].detach()
        fan,_ = nn.init._calculate_fan_in_and_fan_out(a)
        assert torch.equal(a.sign(), b.sign())
        assert torch.allclose(b.abs(), torch.tensor((2/fan)**.5), rtol=1e-6)
        if a.numel()>1000: assert math.isclose(a.std(), (2/fan)**.5, rel_tol=.06)
        bias = k.removesuffix('weight')+'bias'
        assert not named_tensors(plain)[bias].any()

def test_small_first_weights_are_told():
    def normed(): return nn.Sequential(nn.Flatten(), nn.Linear(64,12), nn.BatchNorm1d(12), nn.Linear(12,10))
    def told(model, **how):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter('always')
            MaskSearch(model, digits_dls(), **QUICK | how)
        return sum("init='kaiming_normal'" in str(o.message) for o in found)
    assert told(tiny)==1
    assert told(tiny, init='kaiming_normal')==told(normed)==told(mlp_of_width)==0

def test_all_networks_of_a_seed_begin_with_the_same_first_weights():
    search = MaskSearch(tiny, digits_dls(), [50,20], seeds=[3], init='signed_constant', **QUICK)
    assert len(search.network(3)[1].weight.abs().unique())==1
    with seeded(3, 'init'): net = with_init(tiny, 'signed_constant')
    for r in (1, 2):
        ticket = search.learn(r)[0][3]
        assert same_bits(ticket.full['1.weight'], net[1].weight.detach())
        assert len(arms['reinit'].begin(ticket, 0, search.model).state['1.weight'].abs().unique())==2

def test_widths():
    for w in (1, 3):
        n = 128*w
        assert [m.weight.shape for m in mlp_of_width(w) if hasattr(m, 'weight')]==[(n,64), (n,n), (10,n)]
        assert mlp_of_width(w)(torch.rand(2,1,8,8)).shape==conv_of_width(w)(torch.rand(2,1,8,8)).shape==(2,10)
    with pytest.raises(ArgumentError, match='width=0'): conv_of_width(0)

def test_kept_tickets_can_be_trained_beside_others():
    df,tickets = supermasks(tiny, digits_dls(), (50,20), seeds=2, keep='tickets', **QUICK)
    assert set(tickets)=={(s,r) for s in (0,1) for r in (1,2)} and df.attrs['function'].endswith('.supermasks')
    on = lottery_curve(tiny, digits_dls(), 2, prune=[50,80], arms=['ticket', transfer(tickets, 'learned')], **QUICK)
    first = on[(on.arm=='learned') & (on.step==0) & (on.metric=='accuracy')]
    last = df[(df.arm=='ticket') & (df.step==12) & (df.metric=='accuracy')]
    assert first.sort_values(['round','seed']).value.tolist()==last.sort_values(['round','seed']).value.tolist()

# The table

@pytest.fixture(scope='module')
def table(): return supermasks(tiny, digits_dls(test=10), (50, 20), seeds=3, arms=['random','reinit'], **QUICK)

def test_the_table(table):
    assert list(table.columns)==table_columns and list(table.arm.unique())==['dense','ticket','random','reinit']
    assert set(table.metric)=={'valid_loss','accuracy','test_loss','test_accuracy'} and table.value.notna().all()
    for arm,o in table.groupby('arm'):
        assert set(o.seed)=={0,1,2} and set(o['round'])==({0} if arm=='dense' else {1,2})
        assert set(o.step)==({0} if arm in ('random','reinit') else set(range(13)))
    n = 64*12+120
    reached = table.groupby('round').density.first()
    assert np.allclose(reached, [100, 100*(n-round(.5*n))/n, 100*(n-round(.8*n))/n])
    found = summarise(table)
    assert found[found.arm=='ticket'].finding.str.contains('dense networks').all()

def test_dense_networks_are_trained_as_others_are():
    "Their rows are those of a stack with the rate `dense_lr`"
    search = MaskSearch(tiny, digits_dls(), 50, seeds=2, dense_lr=.004, **QUICK)
    rows = search.learn(0)[1]
    alone = MaskSearch(tiny, digits_dls(), 50, seeds=2, lr=.004, **QUICK)
    run = Stack(alone, [alone.first_ticket(s) for s in (0,1)]).train([order_of(s, 0) for s in (0,1)])
    assert rows==run.rows(alone, 'dense', [0,1], 0, [100., 100.])

def test_random_masks_keep_as_many_of_the_same_weights():
    search = MaskSearch(tiny, digits_dls(), 30, seeds=2, **QUICK)
    tickets,rows = search.learn(1)
    begun = [arms['random'].begin(t, s) for s,t in tickets.items()]
    value = Stack(search, begun).measured()['accuracy']
    told = [o['value'] for o in rows if o['arm']=='random' and o['metric']=='accuracy']
    assert told==value and [t.masks.n_kept for t in begun]==[t.masks.n_kept for t in tickets.values()]

def test_widths_and_rules_have_a_column_each():
    wide = supermasks(mlp_of_width, digits_dls(), 30, width=(1,2), seeds=2, **QUICK)
    assert list(wide.columns)==['width',*table_columns] and set(wide.width)=={1,2} and wide.attrs['width']==[1,2]
    several = supermasks(tiny, digits_dls(), 30, ['edge_popup', gates(std=.4)], seeds=2, **QUICK)
    assert list(several.columns)==['rule',*table_columns]
    assert list(several.rule.unique())==['edge_popup','gates(std=0.4)']
    dense = [o[o.arm=='dense'].value.tolist() for _,o in several.groupby('rule')]
    assert dense[0]==dense[1]
    assert summarise(wide, by='width').finding.str.startswith('width ').all()

def test_figures(table, tmp_path):
    wide = supermasks(mlp_of_width, digits_dls(), (50,30), width=(1,2), seeds=2, **QUICK)
    several = supermasks(tiny, digits_dls(), (50,30), ['edge_popup','bernoulli'], seeds=2, **QUICK)
    for df,n,names in ((table, 1, ['learned masks, untrained','random masks','fresh weights']),
                       (several, 1, ['edge_popup','bernoulli','random masks']),
                       (wide, 2, ['learned masks, untrained','random masks'])):
        fig = plot_supermasks(df)
        told = [o.get_text() for o in fig.axes[-1].get_legend().texts]
        assert len(fig.axes)==n and sorted(told)==sorted(['dense networks',*names])
        low,high = fig.axes[0].get_ylim()
        assert 0<=low<high<=100 # what accuracy can be
        fig.savefig(tmp_path/'x.png')

def test_how_many_at_once_is_no_matter():
    one,all_ = (supermasks(double, digits_dls(), (50,20), seeds=3, batch_seeds=o, **QUICK) for o in (1, 3))
    assert one.drop(columns='value').equals(all_.drop(columns='value'))
    assert np.allclose(one.value, all_.value, rtol=1e-9)

def test_whose_they_are(table):
    told = str(cite(table))
    assert 'Randomly Weighted' in told and 'edge_popup' in told and 'Deconstructing' in told
    assert 'Bernoulli Gates' in cite('gates') and 'Stochastic Gates' in cite('gates')
    assert 'Bernoulli Gates' not in told

def test_the_bar_comes_to_its_end():
    told,quick = [],dict(QUICK, n_step=6, progress=lambda *o: told.append(o))
    supermasks(tiny, digits_dls(), (50,20), seeds=3, batch_seeds=2, **quick)
    assert [o[0] for o in told]==sorted(o[0] for o in told) and told[-1][:2]==(54, 54)
    told.clear()
    supermask(tiny, digits_dls(), **quick)
    assert told[-1][:2]==(6, 6)

def test_a_replicate_that_breaks_is_left_out():
    def wild():
        net = tiny()
        if torch.initial_seed()==hurt: net[3].weight.data *= torch.inf
        return net
    with seeded(1, 'init'): hurt = torch.initial_seed()
    with pytest.warns(UserWarning, match='seed 1, ticket, round 1'):
        df = supermasks(wild, digits_dls(), 50, seeds=3, **QUICK)
    assert set(df[df.arm=='random'].seed)=={0,2} and 1 not in set(df[df.arm=='ticket'].seed)

# What can't be

@pytest.mark.parametrize('call,match', [
    (lambda: supermask(tiny(), digits_dls(), 0), 'density=0'),
    (lambda: supermask(tiny(), digits_dls(), 101), 'density=101'),
    (lambda: supermask(tiny(), digits_dls(), (50,20)), 'density='),
    (lambda: supermask(tiny(), digits_dls(), rule='edge-popup'), "rule='edge-popup'.*did you mean 'edge_popup'"),
    (lambda: supermask(tiny(), digits_dls(), rule=3), 'rule=3'),
    (lambda: supermask(tiny(), digits_dls(), rule=gates(std=0)), 'std=0'),
    (lambda: supermask(tiny(), digits_dls(), seed=-1), 'seed=-1'),
    (lambda: supermask(tiny(), digits_dls(), seeds=3), 'seeds=3'),
    (lambda: supermask(tiny(), digits_dls(), init='kaiming'), "init='kaiming'"),
    (lambda: supermask(tiny(), digits_dls(), method='global'), 'method=global'),
    (lambda: supermask(tiny(), digits_dls(), n_steps=3), 'n_steps=3.*n_step'),
    (lambda: supermask(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), digits_dls()), 'model='),
    (lambda: supermask(nn.Flatten(), digits_dls()), 'model='),
    (lambda: supermask(nn.Linear(9,10), digits_dls()), 'model=.*learns from batches of'),
    (lambda: supermask(tiny(), 'nowhere'), "data='nowhere'"),
    (lambda: supermask(tiny(), digits_dls(), layers='7'), "layers='7'"),
    (lambda: supermask(nn.Linear(9,10), digits_dls()), r'model=Linear\('),
    (lambda: supermask(tiny(), digits_dls(), sparsity=70), 'sparsity=70: expected `density`.*density=30'),
    (lambda: supermask(tiny(), few_batches(2)), 'data=DataLoaders: .*torch.cat'),
    (lambda: supermasks(tiny, digits_dls(), (20,20)), 'density=.*each once'),
    (lambda: supermasks(tiny, digits_dls(), ()), 'density='),
    (lambda: supermasks(tiny, digits_dls(), 50, []), 'rule='),
    (lambda: supermasks(tiny, digits_dls(), 50, ['gates','bernoulli'], width=1), 'rule=.*without width'),
    (lambda: supermasks(mlp_of_width, digits_dls(), 50, width=(0,1)), 'width=0'),
    (lambda: supermasks(mlp_of_width, digits_dls(), 50, width=(1,1)), 'width=.*each once'),
    (lambda: supermasks(tiny, digits_dls(), 50, ['gates',gates(std=.5),gates(std=.5)]), 'rule=.*each once'),
    (lambda: supermask(nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64,10))),
                       digits_dls()), 'layers=.*without becoming NaN'),
    (lambda: supermasks(tiny(), digits_dls(), 50), 'a function without arguments'),
    (lambda: supermasks('digits_mlp', 'digits', 50, width=2), 'model=.*of the width'),
    (lambda: supermasks(tiny, digits_dls(), 50, arms='lr_rewind'), 'arms='),
    (lambda: supermasks(tiny, digits_dls(), 50, arms='rndom'), "arms='rndom'"),
    (lambda: supermasks(tiny, digits_dls(), 50, dense_lr=0), 'dense_lr=0'),
    (lambda: supermasks(tiny, digits_dls(), 50, keep='masks'), "keep='masks'"),
    (lambda: supermasks(tiny, digits_dls(), 50, ['gates','bernoulli'], keep='tickets'), 'keep=.*several rules'),
    (lambda: supermasks(tiny, digits_dls(), 50, batch_seeds=0), 'batch_seeds=0'),
])
def test_bad_input_raises_before_anything_is_trained(call, match, monkeypatch):
    def never(*args, **kwargs): raise AssertionError('trained')
    monkeypatch.setattr(Stack, 'train', never)
    with pytest.raises(ArgumentError, match=match): call()

def test_an_option_of_another_rule():
    with pytest.raises(TypeError, match="edge_popup has no parameter 'std': it takes none"): edge_popup(std=.5)

def test_a_loss_that_is_not_finite_gives_no_ticket():
    with pytest.warns(UserWarning, match='seed 0'), pytest.raises(ValueError, match="loss isn't finite"):
        supermask(tiny, digits_dls(), 50, n_step=9, lr=1e38, lr_schedule='constant')

def test_weights_that_are_not_finite():
    net = tiny()
    net[1].weight.data[0,0] = torch.inf
    with pytest.raises(ValueError, match='1.weight: the weight holds NaN or infinity'): supermask(net, digits_dls())

def test_a_stack_is_a_stack():
    search = MaskSearch(tiny, digits_dls(), 50, seeds=2, **QUICK)
    stack = search.stack(1, [0,1])
    assert isinstance(stack, MaskStack) and len(stack)==2 and type(search.stack(0, [0])) is Stack
