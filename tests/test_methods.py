"How much where: every method on random networks, and amounts by layer in every engine"
import copy, math, warnings
from fractions import Fraction

import numpy as np, pytest, torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.metrics import accuracy
from hypothesis import given, settings, strategies as st
from torch import nn

from lottery_nb.callback import SparsifyCallback
from lottery_nb.core import ArgumentError
from lottery_nb.curves import lottery_curve
from lottery_nb.data import digits_dls, digits_mlp
from lottery_nb.find import find_ticket
from lottery_nb.methods import (Method, check_amounts, like, named_amounts, plot_densities,
                                proportional, whole_shares)
from lottery_nb.sparsifier import Sparsifier, count_of
from models import mlp, nets

ours = ('local','global','er','erk','uniform_plus','smart_ratio','lamp','per_output')
quiet = pytest.mark.filterwarnings('ignore:layer collapse')

def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1,16,3), nn.ReLU(), nn.Conv2d(16,32,3), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(128,64), nn.ReLU(), nn.Linear(64,10))

def gone(masks): return {k: int((~m).sum()) for k,m in masks.items()}
def kept(masks): return {k: int(m.sum()) for k,m in masks.items()}

# --- Whole numbers

@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**6)), min_size=1, max_size=8), st.floats(0, 1))
def test_shares_add_up_within_their_room(layers, part):
    room = {str(i): r for i,(_,r) in enumerate(layers)}
    wishes = {str(i): w for i,(w,_) in enumerate(layers)}
    total = math.floor(part*sum(room.values()))
    exact,whole = proportional(total, wishes, room),whole_shares(total, wishes, room)
    assert sum(exact.values())==sum(whole.values())==total and list(whole)==list(wishes)
    assert all(0<=exact[k]<=room[k] and 0<=whole[k]<=room[k] and abs(whole[k]-exact[k])<1 for k in room)
    free = [k for k in room if exact[k]<room[k] and wishes[k]]
    if free: # of what isn't full, all have the same multiple of their wish
        k = free[0]
        assert all(exact[o]*Fraction(wishes[k])==exact[k]*Fraction(wishes[o]) for o in free)

# --- Methods

@quiet
@pytest.mark.parametrize('name', ours)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_totals_are_exact_and_masks_nested(name, data):
    sp = Sparsifier(data.draw(nets()), 'weight', name, allow_collapse=True)
    before = sp.masks
    for s in sorted(data.draw(st.lists(st.floats(0, 100), min_size=2, max_size=6))):
        masks = sp.sparsify(s if not 0<s<1 else 0)
        assert masks.n_weights-masks.n_kept==count_of(s if not 0<s<1 else 0, masks.n_weights)
        assert not any((masks[k] & ~before[k]).any() for k in masks)
        before = masks

def test_shares_are_those_of_the_papers():
    def share(masks): return {k: v/masks[k].numel() for k,v in kept(masks).items()}
    erk = share(Sparsifier(conv_net(), 'weight', 'erk').sparsify(95))
    want = {'0.weight': (1+16+3+3)/(16*9), '2.weight': (16+32+6)/(16*32*9), '5.weight': (128+64)/(128*64),
            '7.weight': 74/640}
    scale = [erk[k]/v for k,v in want.items()]
    assert max(scale)/min(scale)<1.06 # to the weight: the first layer has 144
    er = share(Sparsifier(conv_net(), 'weight', 'er').sparsify(90))
    assert er['0.weight']==1 and er['2.weight']/er['5.weight']==pytest.approx(48/512/(192/8192), rel=.03)
    plus = share(Sparsifier(conv_net(), 'weight', 'uniform_plus').sparsify(90))
    assert plus['0.weight']==1 and plus['7.weight']==.2 and plus['2.weight']==pytest.approx(plus['5.weight'], abs=.001)
    mild = share(Sparsifier(conv_net(), 'weight', 'uniform_plus').sparsify(50))
    assert mild['0.weight']==1 and mild['7.weight']==pytest.approx(mild['5.weight'], abs=.002)
    smart = share(Sparsifier(conv_net(), 'weight', 'smart_ratio').sparsify(90))
    assert smart['7.weight']==.3 and smart['0.weight']/smart['2.weight']==pytest.approx(20/12, rel=.05)
    assert smart['2.weight']/smart['5.weight']==pytest.approx(12/6, rel=.02)

def test_the_surplus_of_a_full_layer_goes_to_the_others():
    net = nn.Sequential(nn.Linear(4,2), nn.Linear(2,400), nn.Linear(400,100))
    masks = Sparsifier(net, 'weight', 'erk').sparsify(50)
    assert kept(masks)['0.weight']==8 and kept(masks)['1.weight']==800 and masks.n_kept==masks.n_weights//2

@quiet
@pytest.mark.parametrize('name,most', [(k, o) for k in ('uniform_plus','smart_ratio','local') for o in (0,1,99.9)])
def test_what_a_layer_has_to_itself_gives_way_at_the_ends(name, most):
    masks = Sparsifier(conv_net(), 'weight', name).sparsify(most)
    assert masks.n_weights-masks.n_kept==count_of(most, masks.n_weights)

def test_lamp_is_the_papers_score_in_one_ranking():
    net = conv_net()
    def scores(w):
        w,order = w.detach().double().flatten().square(),w.detach().flatten().abs().argsort()
        at_least = torch.stack([w[order[i:]].sum() for i in range(len(w))])
        return torch.zeros_like(w).index_copy_(0, order, w[order]/at_least)
    every = {k: scores(p) for k,p in net.named_parameters() if p.dim()>1}
    masks = Sparsifier(net, 'weight', 'lamp').sparsify(90)
    least = min(float(every[k][m.flatten()].min()) for k,m in masks.items())
    assert all(float(every[k][~m.flatten()].max())<=least*(1+1e-9) for k,m in masks.items())
    assert all(m.any() for m in Sparsifier(conv_net(), 'weight', 'lamp').sparsify(99.95).values())

def test_each_output_loses_its_own_smallest():
    net = conv_net()
    masks = Sparsifier(net, 'weight', 'per_output').sparsify(75)
    for k,m in masks.items():
        w,m = net.get_parameter(k).abs().flatten(1),m.flatten(1)
        assert int(m.sum(1).max()-m.sum(1).min())<=1
        assert all(row[keep].min()>=row[~keep].max() for row,keep in zip(w, m))
    assert all(m.flatten(1).any(1).all() for m in Sparsifier(net, 'weight', 'per_output').sparsify(90).values())

@pytest.mark.parametrize('criterion', ['large_final','movement'])
def test_rows_stay_level_in_rounds_whatever_pruned_weights_score(criterion):
    sp = Sparsifier(conv_net(), 'weight', 'per_output', criterion)
    with torch.no_grad():
        for p in sp.model.parameters(): p.add_(torch.randn_like(p)*.1)
    for s in (13, 37, 61, 77):
        n = [m.flatten(1).sum(1) for m in sp.sparsify(s).values()]
        assert max(int(o.max()-o.min()) for o in n)<=1

def test_lamp_does_not_count_what_is_pruned():
    sp = Sparsifier(conv_net(), 'weight', 'lamp', 'movement')
    with torch.no_grad():
        for p in sp.model.parameters(): p.add_(torch.randn_like(p)*.1)
    before = sp.sparsify(50)
    every = {}
    for k,m in before.items():
        left = (sp.weight(k).detach()-sp.remembered['init'][k])[m].abs().double()
        order = left.argsort(stable=True)
        squares = left[order].square()
        lamp = torch.empty_like(left).index_copy_(0, order, squares/squares.flip(0).cumsum(0).flip(0))
        every[k] = torch.full(m.shape, -1.).double().masked_scatter(m, lamp)
    line = torch.cat([o.flatten() for o in every.values()]).sort().values[count_of(75, before.n_weights)]
    assert all(torch.equal(m, every[k]>=line) for k,m in sp.sparsify(75).items())

def test_like_has_the_shares_of_other_masks():
    ticket = Sparsifier(conv_net()).sparsify(90)
    assert kept(Sparsifier(conv_net(), 'weight', like(ticket), 'random').sparsify(90))==kept(ticket)
    further = kept(Sparsifier(conv_net(), 'weight', like(ticket)).sparsify(95))
    assert all(abs(further[k]-n/2)<=1 for k,n in kept(ticket).items())

def test_like_knows_layers_whose_weights_lie_in_one_parameter():
    ticket = Sparsifier(Nested()).sparsify(70)
    again = Sparsifier(Nested(), 'weight', like(ticket), 'random').sparsify(70)
    assert again.n_kept==ticket.n_kept and all(abs(kept(again)[k]-n)<=2 for k,n in kept(ticket).items())
    with pytest.raises(ArgumentError, match='they have none for body.attention.in_proj_weight'):
        Sparsifier(Nested(), 'weight', like(Sparsifier(Nested(), layers='head').masks))

@pytest.mark.parametrize('granularity', ['filter','kernel','row'])
def test_methods_share_out_larger_units(granularity):
    layers = nn.Linear if granularity=='row' else nn.Conv2d
    for name in ('local','global','er','erk','lamp'):
        sp = Sparsifier(conv_net(), granularity, name, layers=layers)
        for s in (20, 60, 80):
            masks = sp.sparsify(s)
            size = max(sp.units.size(k) for k in sp.units.names)
            assert 0<=count_of(s, masks.n_weights)-sum(gone(masks).values())<len(masks)*size

def test_a_schedule_that_falls_and_one_that_rises_again():
    sp = Sparsifier(conv_net(), 'weight', 'erk')
    for s in (90, 40, 70, 0): assert sum(gone(sp.sparsify(s)).values())==count_of(s, sp.masks.n_weights)

@pytest.mark.parametrize('name', ['erk','er','smart_ratio','lamp','global'])
def test_what_a_floor_holds_is_taken_from_the_others(name):
    sp = Sparsifier(conv_net(), 'weight', name, floor=20)
    with pytest.warns(UserWarning, match='floor: at 75 % sparsity .* keep no more than the 20'): masks = sp.sparsify(75)
    assert masks.n_weights-masks.n_kept==count_of(75, masks.n_weights)
    assert all(n>=math.ceil(.2*masks[k].numel()) for k,n in kept(masks).items())

# --- Amounts by layer

def test_amounts_are_exact_in_each_layer():
    masks = Sparsifier(conv_net()).sparsify({'7': 20, '[02]': 80})
    n = {k: m.numel() for k,m in masks.items()}
    assert gone(masks)=={'0.weight': round(.8*144), '2.weight': round(.8*4608), '5.weight': 0, '7.weight': 128}
    for how in ('local','global','erk','lamp'):
        sp = Sparsifier(conv_net(), 'weight', how)
        masks = sp.sparsify({'7.weight': 20, '0': 0}, total=90)
        assert list(masks)==list(n) and gone(masks)['7.weight']==128 and gone(masks)['0.weight']==0
        assert sum(gone(masks).values())==count_of(90, sum(n.values())) and sp.asked==pytest.approx(90, abs=.01)

@pytest.mark.parametrize('name', ours)
def test_a_total_beside_amounts_of_all_layers_is_what_they_come_to(name):
    masks = Sparsifier(conv_net(), 'weight', name).sparsify({'*': 50}, total=50)
    assert gone(masks)=={k: m.numel()//2 for k,m in masks.items()}

def test_what_is_not_named_stays_as_it_is():
    sp = Sparsifier(conv_net())
    before = sp.sparsify(50)
    after = sp.sparsify({'5': 90})
    assert gone(after)=={**gone(before), '5.weight': count_of(90, 8192)}
    assert all(torch.equal(before[k], after[k]) for k in before if k!='5.weight')

@quiet
@pytest.mark.parametrize('how', ['local','global','erk','lamp'])
def test_a_layer_that_keeps_its_last_weight_leaves_the_total_exact(how):
    masks = Sparsifier(conv_net(), 'weight', how).sparsify({'7': 100}, total=50)
    assert kept(masks)['7.weight']==1 and sum(gone(masks).values())==count_of(50, masks.n_weights)

def test_parts_of_one_are_warned_of():
    for amounts,total in (({'7': .2, '*': .8}, None), ({'7': 20}, .8)):
        with pytest.warns(UserWarning, match='these are percent, not parts'): check_amounts('prune', amounts, total)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check_amounts('sparsity', {'7': .2, '*': 80, '5': 0})

class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.ModuleDict(dict(attention=nn.MultiheadAttention(8, 2), out=nn.Linear(8,8)))
        self.head = nn.Linear(8,2)

@pytest.mark.parametrize('pattern,meant', [('body', 5), ('body.*', 5), ('head', 1), ('*', 6), ('*q]', 1),
    ('body.attention.in_proj_weight', 3), ('body.attention.in_proj_weight[k]', 1), ('*out*', 2), ('hea?', 1)])
def test_a_name_or_a_pattern_means_weights(pattern, meant):
    names = Sparsifier(Nested()).units.names
    assert len(names)==6 and len(named_amounts({pattern: 5}, names))==meant

def test_the_first_that_fits_holds():
    names = Sparsifier(Nested()).units.names
    assert named_amounts({'head': 1, '*': 2}, names)=={k: 1 if k=='head.weight' else 2 for k in names}

def learner(): return Learner(digits_dls(bs=200, seed=0), mlp(), metrics=accuracy)

def test_the_callback_takes_amounts(capsys):
    class Seen(Callback):
        def after_epoch(self): seen.append(gone(cb.masks))
    seen,cb = [],SparsifyCallback({'5': 20, '*': 80}, 'weight', 'global', 'large_final', 'linear')
    with learner().no_bar() as learn: learn.fit(4, cbs=[cb, Seen()])
    assert gone(cb.masks)=={'1.weight': 15360, '3.weight': 24000, '5.weight': 200}
    assert all(a[k]<=b[k] for a,b in zip(seen, seen[1:]) for k in a) and seen[0]['1.weight']>0
    assert 'until a sparsity of 20% (5), 80% (*)' in capsys.readouterr().out
    assert cb.ticket.meta['end_sparsity']=={'5': 20., '*': 80.}

def test_the_callback_takes_a_total_and_any_method():
    cb = SparsifyCallback({'5': 20, 'total': 70}, 'weight', 'erk', 'large_final', 'iterative', lth=True, start_epoch=1,
                          verbose=False)
    with learner().no_bar() as learn: learn.fit(4, cbs=cb)
    assert sum(gone(cb.masks).values())==count_of(70, 50200) and gone(cb.masks)['5.weight']==200
    assert cb.ticket.meta['method']=='erk'

@pytest.mark.parametrize('how', [dict(method='erk'), dict(method='lamp'), dict(prune={'5': 10, '*': 20}),
                                 dict(prune={'5': 10, 'total': 20}, method='erk')], ids=str)
def test_both_engines_spread_alike(how):
    how = dict(prune=20, rounds=2) | how
    found = find_ticket(learner, lambda learn: learn.fit(1), **how, progress=False)
    df,tickets = lottery_curve(digits_mlp, digits_dls(), 1, **how, arms='ticket', n_step=2, bs=60, keep='tickets',
                               progress=False)
    for r in (1,2):
        a,b = kept(found.tickets[r].masks),kept(tickets[0,r].masks)
        assert sum(a.values())==sum(b.values())
        if how.get('method')!='lamp': assert a==b

def test_amounts_that_are_met_cost_nothing_while_training():
    cb,asked = SparsifyCallback({'5': 20, 'total': 70}, 'weight', 'erk', 'large_final', 'one_shot', verbose=False),[]
    class Spy(Callback):
        order = 60
        def before_train(self):
            sp = cb.sparsifier
            sp.budgets = lambda amounts: asked.append(self.epoch) or type(sp).budgets(sp, amounts)
    with learner().no_bar() as learn: learn.fit(3, cbs=[cb, Spy()])
    assert sum(gone(cb.masks).values())==count_of(70, 50200) and asked.count(2)==0

@quiet
def test_the_callback_prunes_layers_beside_those_that_are_sparse_already():
    learn = learner()
    with torch.no_grad(): learn.model[3].weight[:,:270] = 0
    cb = SparsifyCallback({'3': 50, '5': 50}, 'weight', 'global', 'large_final', 'one_shot', keep_zeros=True,
                          verbose=False)
    with learn.no_bar(): learn.fit(2, cbs=cb)
    assert gone(cb.masks)=={'1.weight': 0, '3.weight': 27000, '5.weight': 500}

def test_amounts_that_do_not_go_together_on_the_way_are_named_before_training():
    cb = SparsifyCallback({'1': 99, 'total': 40}, 'weight', 'global', 'large_final', 'geometric', verbose=False)
    learn = learner()
    before = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(ArgumentError, match='end_sparsity=.*all along geometric'), learn.no_bar(): learn.fit(3, cbs=cb)
    assert all(torch.equal(before[k], t) for k,t in learn.model.state_dict().items())

# --- Mistakes

@pytest.mark.parametrize('call,words', [
    (lambda sp: sp.sparsify({'tail': 20}), "sparsity='tail': expected a layer that is pruned, .* 0, 2, 5"),
    (lambda sp: sp.sparsify({'7': 120}), r"sparsity\['7'\]=120"), (lambda sp: sp.sparsify({}), 'at least one layer'),
    (lambda sp: sp.sparsify({7: 20}), 'names of layers'), (lambda sp: sp.sparsify(20, total=50), 'total=50'),
    (lambda sp: sp.sparsify({'7': 20}, total=200), 'total=200'),
    (lambda sp: sp.sparsify({'5': 90}, total=30), 'total='),
    (lambda sp: sp.sparsify({'5': 10}, total=99), r'total=99.0: expected 6.\d+ to 4\d.\d+ percent'),
    (lambda sp: sp.sparsify({'*': 80, '7': 20}), r"sparsity\['7'\]=20.0: expected an earlier place"),
    (lambda sp: sp.sparsify({'7': 20, '*': 80}, total=60), 'total=60.0: expected no total'),
    (lambda sp: sp.sparsify({'7': 20, 'total': 50}, total=60), 'sparsity has a total already: 50'),
    (lambda sp: Sparsifier(sp.model, 'weight', 'erkk'), "method='erkk'.*did you mean 'erk'"),
    (lambda sp: Sparsifier(sp.model, 'weight', None), 'method=None'),
    (lambda sp: Sparsifier(sp.model, 'filter', 'per_output', layers=nn.Conv2d), 'single weights'),
    (lambda sp: Sparsifier(sp.model, 'weight', 'lamp', 'small_final').sparsify(20), 'scores of at least 0'),
    (lambda sp: Sparsifier(sp.model, 'weight', like(Sparsifier(mlp()).masks)), 'they have none for 0.weight'),
    (lambda sp: like(5), 'masks=5.*ticket.masks'), (lambda sp: plot_densities({}), 'masks='),
    (lambda sp: plot_densities({'a': 5}), "'a'"),
    (lambda sp: plot_densities({'a': sp.masks, 'b': Sparsifier(mlp()).masks}), 'masks of the same layers'),
    (lambda sp: SparsifyCallback({'5': 20}, 'weight', 'global', 'large_final', 'agp', start_sparsity=30), 'at most'),
])
def test_mistakes_are_named_and_nothing_is_pruned(call, words):
    sp = Sparsifier(conv_net())
    before = copy.deepcopy(sp.model.state_dict())
    with pytest.raises(ArgumentError, match=words): call(sp)
    assert not sp.has_pruned and all(torch.equal(before[k], t) for k,t in sp.model.state_dict().items())

@pytest.mark.parametrize('fn,words', [(lambda layers, density: {}, 'a number of at least 0 for each'),
    (lambda layers, density: dict.fromkeys(layers, math.nan), 'a number'), (lambda layers, density: 5, 'a number'),
    (lambda layers, density: dict.fromkeys(layers, -1.), 'at least 0'),
    (lambda layers, density: dict.fromkeys(layers, '1'), 'a number'),
    (lambda layers, density: dict.fromkeys(layers, torch.ones(2)), 'a number')])
def test_a_method_that_gives_nonsense_says_so_at_once(fn, words):
    fn.__name__ = 'mine'
    with pytest.raises(ArgumentError, match=f'method=mine.*{words}'): Sparsifier(conv_net(), 'weight', Method(fn))
    short = Method(lambda scores, layer: scores[1:], ranks=True)
    with pytest.raises(ArgumentError, match='a score for each'): Sparsifier(conv_net(), 'weight', short)
    nan = Method(lambda scores, layer: (scores-scores)/(scores-scores), ranks=True)
    with pytest.raises(ArgumentError, match='a finite number'): Sparsifier(conv_net(), 'weight', nan)

@pytest.mark.parametrize('kind', [float, np.float32, torch.tensor, lambda v: nn.Parameter(torch.tensor(v))])
def test_a_method_may_give_numbers_of_any_kind(kind):
    mine = Method(lambda layers, density: {k: kind(w.weight.abs().mean().item()) for k,w in layers.items()})
    masks = Sparsifier(conv_net(), 'weight', mine).sparsify(50)
    assert sum(gone(masks).values())==count_of(50, masks.n_weights)

@pytest.mark.parametrize('fn', [lambda s, w: s.argsort().argsort(), lambda s, w: s.half(), lambda s, w: s>s.median(),
                                lambda s, w: w.weight.flatten(), lambda s, w: torch.zeros(()).expand(len(s))])
def test_a_method_may_give_scores_of_any_kind_and_the_model_stays(fn):
    net = conv_net()
    before = copy.deepcopy(net.state_dict())
    masks = Sparsifier(net, 'weight', Method(fn, ranks=True)).sparsify(50)
    assert sum(gone(masks).values())==count_of(50, masks.n_weights)
    assert all(torch.equal(net.get_parameter(k), before[k]*m) for k,m in masks.items())

def test_other_calls_name_their_own_argument():
    with pytest.raises(ArgumentError, match="prune='hed': expected a layer"):
        find_ticket(learner, lambda learn: learn.fit(1), prune={'hed': 20}, progress=False)
    with pytest.raises(ArgumentError, match="prune='hed': expected a layer"):
        lottery_curve(digits_mlp, digits_dls(), 1, 2, {'hed': 20}, n_step=2, progress=False)
    amounts = {'1': 60, 'total': 80}
    with pytest.raises(ArgumentError, match='prune=.*in all rounds, but in round 2 total=96.0: expected'):
        find_ticket(learner, lambda learn: learn.fit(1), prune=amounts, progress=False)

def test_a_callback_names_a_layer_that_is_not_there_before_it_trains():
    learn,cb = learner(),SparsifyCallback({'head': 20}, 'weight', 'global', 'large_final', 'agp', verbose=False)
    before = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(ArgumentError, match="^end_sparsity='head'"), learn.no_bar(): learn.fit(1, cbs=cb)
    assert all(torch.equal(before[k], t) for k,t in learn.model.state_dict().items())
