"Perturbations by what defines each, and the experiments against the curves that they're made of"
import math
from fractions import Fraction

import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from lottery_nb.arms import arm, arms, fresh_weights
from lottery_nb.beginning import (deconstruct, default_perturbations, in_turn, noise, norm_parameters, perturbations,
                                  plot_deconstruct, plot_perturbations, pruned_to_init, shuffle_filters,
                                  shuffle_layers, sign_flips, signs_only_norm)
from lottery_nb.core import ArgumentError, table_columns
from lottery_nb.curves import lottery_curve
from lottery_nb.evidence import arm_label, mean_interval, summarise
from lottery_nb.find import find_ticket
from lottery_nb.masks import Masks
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket
from models import differing, everything, masked, mlp
from test_arms import rest, seeds, tickets, types
from test_curves import DATA, at_end, conv64, curve, mlp as small, train_plainly

ours = [noise, noise(std=2.), shuffle_filters, shuffle_filters(signs=True), shuffle_layers, shuffle_layers(signs=True),
        sign_flips, sign_flips(share=.5)]
how = dict(seeds=2, rounds=2, prune=50, n_step=12, bs=20, eval_every=6, progress=False, device='cpu')

# --- Each perturbation

@given(tickets(), seeds)
@pytest.mark.filterwarnings('ignore:no reset_parameters')
def test_a_perturbation_keeps_the_mask_and_changes_kept_weights_alone(made, seed):
    net,ticket = made
    before = everything(net)
    for o in ours:
        a = o.begin(ticket, seed, net)
        assert a.masks==ticket.masks and a.trained is None and types(a.state)==types(ticket.state)
        assert not differing(rest(a), rest(ticket)) and not differing(a.state, masked(a.state, a.masks))
        assert a==o.begin(ticket, seed, net) and (a.meta['arm'], a.meta['seed'])==(repr(o), seed)
    assert not differing(everything(net), before)

def test_other_seeds_and_other_layers_give_others():
    ticket = Ticket(Sparsifier(mlp()).sparsify(50), everything(mlp()))
    for o in ours:
        a,b = (o.begin(ticket, seed, mlp) for seed in (1, 2))
        assert all(not torch.equal(a.state[k], b.state[k]) for k in a.masks)

def of_values(rows=40, n=60, density=.3, seed=0):
    "A ticket of one layer, whose weights differ, and the network"
    net = nn.Sequential(nn.Linear(n, rows))
    g = torch.Generator().manual_seed(seed)
    state = {'0.weight': torch.randperm(rows*n, generator=g).view(rows, n)-rows*n/2+.5, '0.bias': torch.ones(rows)}
    return Ticket(Masks({'0.weight': torch.rand(rows, n, generator=g)<density}), state), net

def test_noise_has_the_size_that_it_says():
    ticket,net = of_values(200, 300)
    sigma = fresh_weights(ticket, net, 5)['0.weight'].std(correction=0)
    m,w = ticket.masks['0.weight'],ticket.state['0.weight'].double()
    ticket.state['0.weight'] = w
    one,two = (noise(std=s).begin(ticket, 5, net).state['0.weight'][m]-w[m] for s in (1., 2.))
    assert one.mean().abs()<.03*sigma and float(one.std()/sigma)==pytest.approx(1, rel=.03)
    torch.testing.assert_close(two, 2*one, rtol=1e-9, atol=1e-10)
    assert abs(float(one.pow(4).mean()/one.pow(2).mean()**2)-3)<.15 # normal
    assert torch.equal(noise(std=0).begin(ticket, 5, net).state['0.weight'], ticket.state['0.weight'])

@pytest.mark.parametrize('signs', [False, True])
@pytest.mark.parametrize('o', [shuffle_filters, shuffle_layers], ids=str)
def test_a_shuffle_moves_every_value_somewhere_in_its_group(o, signs):
    ticket,_ = of_values()
    m,w = ticket.masks['0.weight'],ticket.state['0.weight']
    v = o(signs=signs).begin(ticket, 3).state['0.weight']
    if o is shuffle_filters:
        for a,b,k in zip(w, v, m): assert torch.equal(a[k].sort().values, b[k].sort().values)
    else:
        assert torch.equal(w[m].sort().values, v[m].sort().values)
        assert set(w[0][m[0]].tolist())!=set(v[0][m[0]].tolist())
    assert torch.equal(w.sign(), v.sign())==signs
    assert (w[m]!=v[m]).double().mean()>.7

@pytest.mark.parametrize('o', [shuffle_filters, shuffle_layers], ids=str)
def test_every_order_is_as_likely(o):
    ticket = Ticket(Masks({'0.weight': torch.tensor([[1,1,0,1]]).bool()}), {'0.weight': torch.tensor([[1.,2,0,3]])})
    drawn = [tuple(o.begin(ticket, i).state['0.weight'][0].tolist()) for i in range(600)]
    counts = [drawn.count(k) for k in set(drawn)]
    assert len(counts)==6 and max(abs(c-100) for c in counts)<40

@given(st.integers(0, 100), seeds)
def test_exactly_the_share_is_flipped(percent, seed):
    ticket,_ = of_values(9, 11)
    n,w = ticket.masks.n_kept,ticket.state['0.weight']
    def at(share): return (sign_flips(share=share).begin(ticket, seed).state['0.weight']*w)<0
    few = at(percent/100)
    assert int(few.sum())==round(Fraction(str(percent/100))*n) and not (few & ~at(1)).any()
    assert not (at(percent/200) & ~few).any()

def test_every_weight_is_as_likely_to_be_flipped():
    ticket,_ = of_values(5, 8, 1)
    w = ticket.state['0.weight']
    often = sum((sign_flips(share=.25).begin(ticket, i).state['0.weight']*w<0).double() for i in range(400))/400
    assert (often-.25).abs().max()<.1

# --- Signs and norms

def reference(ticket, model, seed, norms):
    "As the authors' `sign_transfer` does it: a new network, then sign by sign; their `winit_only` keeps the norms"
    new,old = fresh_weights(ticket, model, seed),ticket.state
    net = model()
    for n,m in net.named_modules():
        if isinstance(m, (nn.BatchNorm2d,nn.GroupNorm,nn.LayerNorm)) and norms=='ticket':
            new |= {f'{n}.weight': old[f'{n}.weight'], f'{n}.bias': old[f'{n}.bias']}
        elif isinstance(m, (nn.Linear,nn.Conv2d,nn.ConvTranspose2d)):
            new |= {f'{n}.{k}': new[f'{n}.{k}'].abs()*old[f'{n}.{k}'].sign() for k in ('weight','bias')}
    return masked(new, ticket.masks)

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv,self.bn,self.gn,self.ln = nn.Conv2d(1,4,3),nn.BatchNorm2d(4),nn.GroupNorm(2,4),nn.LayerNorm(4)
        self.head = nn.Linear(4,10)
    def forward(self, x): return self.head(self.ln(self.gn(self.bn(self.conv(x))).relu().mean((2,3))))

@pytest.mark.parametrize('norms', ['ticket', 'fresh'])
def test_signs_only_norm_is_what_its_authors_do(norms):
    net = Normed()
    for p in net.parameters(): nn.init.normal_(p)
    net(torch.randn(5,1,6,6)) # statistics
    ticket = Ticket(Sparsifier(net).sparsify(50), everything(net))
    a = signs_only_norm(norms=norms).begin(ticket, 4, Normed)
    assert not differing(a.state, reference(ticket, Normed, 4, norms)) and a.masks==ticket.masks
    assert torch.equal(a.state['bn.weight'], ticket.state['bn.weight'])==(norms=='ticket')
    assert a.state['bn.running_mean'].count_nonzero()==0
    b = signs_only_norm(norms=norms).begin(ticket, 4, Normed()) # a module in place of a function
    assert not differing(*({k: t.sign() for k,t in o.state.items() if 'num' not in k} for o in (a, b)))

def test_norms_by_name():
    assert norm_parameters(Normed())=={f'{n}.{k}' for n in ('bn','gn','ln') for k in ('weight','bias')}
    assert norm_parameters(nn.DataParallel(Normed()))==norm_parameters(Normed())
    assert norm_parameters(nn.LayerNorm(3))=={'weight','bias'} and norm_parameters(mlp())==set()
    assert norm_parameters(nn.Sequential(nn.InstanceNorm2d(3)))==set()

# --- Pruned weights that stay

@pytest.mark.parametrize('model', [small, conv64], ids=lambda o: o.__name__)
@pytest.mark.parametrize('o', [pruned_to_init, *(in_turn('pruned_to_init', k) for k in
                         ('reinit', 'signs', 'constant', 'shuffle_layers', noise(std=.3)))], ids=str)
def test_pruned_weights_stay_where_they_were(model, o):
    "In a stack as in a plain loop: an arm whose pruned weights aren't 0 is trained with them, and they stay"
    df,found = curve(model, seeds=[1,2], rounds=1, arms=['ticket', o], n_step=30, lr=2e-3, keep='tickets')
    for seed in (1,2):
        begun = o.begin(found[seed,1], seed, model)
        assert begun.pruned_to=='init' and begun.masks==found[seed,1].masks
        net,loss,_ = train_plainly(model, begun, seed, 1, 30)
        for k,m in begun.masks.items():
            assert torch.equal(net.get_parameter(k)[~m], begun.full[k][~m]) and begun.full[k][~m].all()
        assert at_end(df, repr(o), seed, 1, 'valid_loss')==pytest.approx(loss, rel=2e-3)

def test_pruned_weights_are_those_of_the_rewind_point():
    _,found = curve(small, seeds=[3], rounds=1, arms='ticket', rewind='4it', keep='tickets')
    t = found[3,1]
    a,b = pruned_to_init.begin(t, 3),in_turn('pruned_to_init', 'signs').begin(t, 3, small)
    for k,m in t.masks.items():
        assert torch.equal(a.with_pruned(a.state)[k], t.full[k])
        assert torch.equal(b.with_pruned(b.state)[k][~m], t.full[k][~m])
        assert torch.equal(b.state[k], arms['signs'].begin(t, 3, small).state[k])

def test_in_turn():
    _,found = curve(small, seeds=[3], rounds=1, arms='ticket', keep='tickets')
    o = in_turn('constant', shuffle_layers, 'ticket')
    a = arms['shuffle_layers'].begin(arms['constant'].begin(found[3,1], 5), 5)
    assert repr(o)=='constant+shuffle_layers+ticket' and not differing(o.begin(found[3,1], 5).state, a.state)
    assert o.begins=='W_t' and in_turn('shuffle', 'reinit').begins=='fresh' and in_turn('finetune', 'signs').last_lr
    with pytest.raises(ArgumentError, match='at least one arm'): in_turn()
    with pytest.raises(ArgumentError, match="arms='sings'"): in_turn('sings')

# --- At each rewind point

def test_perturbations_are_curves_from_each_point():
    given = [noise(std=.5), 'shuffle_layers', 'reinit', 'finetune']
    df = perturbations(small, DATA, ['0it', '5it'], given, **how)
    assert list(df)==['rewind', *table_columns] and list(dict.fromkeys(df.rewind))==[0, 5]
    assert list(dict.fromkeys(df.arm))==['dense', 'ticket', 'noise(std=0.5)', 'shuffle_layers', 'reinit', 'finetune']
    for at in (0, 5):
        whole = lottery_curve(small, DATA, arms=['ticket', *given], rewind=f'{at}it', **how)
        expected = whole[whole['round']!=1].reset_index(drop=True)
        found = df[df.rewind==at].drop(columns='rewind').reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected)
        assert len(summarise(df[df.rewind==at]).finding)==6
        assert found[found.arm=='shuffle_layers'].step.min()==at and found[found.arm=='reinit'].step.min()==0
    with pytest.raises(ArgumentError, match="rewind differ; take one"): summarise(df)
    assert df.attrs['rewind']==[0, 5] and df.attrs['n_step']==12 and df.attrs['function'].endswith('.perturbations')

def test_progress_goes_from_the_beginning_to_the_end():
    told = []
    perturbations(small, DATA, ['0it', '5it'], 'signs', **{**how, 'progress': lambda *o: told.append(o)})
    done = [o[0] for o in told]
    assert done==sorted(done) and {o[1] for o in told}=={2000} and done[0]<100 and done[-1]>1900
    assert any('rewind 5, round 2 of 2, signs' in o[2] for o in told)

def test_a_replicate_that_is_not_finite_is_left_out():
    @arm
    def breaks(ticket, seed, model):
        return Ticket(ticket.masks, {k: t*(math.nan if seed else 1) for k,t in ticket.state.items()})
    try:
        with pytest.warns(UserWarning, match='seed 1, breaks, round 2.*left out'):
            df = perturbations(small, DATA, 0, breaks, **how)
    finally: del arms['breaks']
    assert set(df[df.arm=='breaks'].seed)=={0} and set(df[df.arm=='ticket'].seed)=={0, 1}
    assert len(plot_perturbations(df).axes[0].lines)==3

@pytest.mark.parametrize('call, match', [
    (lambda: perturbations(small, DATA, [1, '71it'], **how | dict(n_step=100)), r'at=.*points that differ'),
    (lambda: perturbations(small, DATA, [], **how), r'at=\[\]: expected at least one'),
    (lambda: perturbations(small, DATA, '12it', **how), "at='12it': expected a point of 12 steps"),
    (lambda: perturbations(small, DATA, 0, 'noisy', **how), "arms='noisy'"),
    (lambda: perturbations(small, DATA, 0, rewind=1, **how), 'rewind=1: expected none'),
    (lambda: perturbations(small, DATA, 0, keep='tickets', **how), "keep='tickets': expected none"),
    (lambda: perturbations(small, DATA, 0, n_steps=3, **how), 'n_steps=3'),
    (lambda: perturbations(small, DATA, 0, noise(std=-1), **how), 'std=-1'),
    (lambda: perturbations(small, DATA, 0, sign_flips(share=10), **how), 'share=10'),
    (lambda: perturbations(small, DATA, 0, shuffle_filters(signs=3), **how), 'signs=3'),
    (lambda: perturbations(small, DATA, 0, signs_only_norm, **how), 'a network with norms'),
    (lambda: perturbations(conv64, DATA, 0, signs_only_norm(norms='old'), **how), "norms='old'"),
    (lambda: perturbations(small(), DATA, 0, **how), 'a function without arguments'),
    (lambda: deconstruct(small, DATA, 'large', **how), "criteria='large'"),
    (lambda: deconstruct(small, DATA, [], **how), r'criteria=\[\]'),
    (lambda: deconstruct(small, DATA, kept='sings', **how), "kept='sings'"),
    (lambda: deconstruct(small, DATA, kept=3, **how), 'kept=3'),
    (lambda: deconstruct(small, DATA, kept='lr_rewind', **how), "kept=lr_rewind: expected .* with pruned_to='init'"),
    (lambda: deconstruct(small, DATA, pruned_to=[], **how), r'pruned_to=\[\]'),
    (lambda: in_turn('pruned_to_init', 'finetune'), 'arms=finetune: expected .*only the first'),
    (lambda: deconstruct(small, DATA, kept=[], **how), r'kept=\[\]'),
    (lambda: deconstruct(small, DATA, keep='tickets', **how), "keep='tickets': expected none"),
    (lambda: deconstruct(small, DATA, arms='ticket', **how), "arms='ticket': expected none"),
    (lambda: deconstruct(small, DATA, pruned_to='nothing', **how), "pruned_to='nothing'"),
    (lambda: deconstruct(small, DATA, kept=noise(std=-1), **how), 'std=-1'),
    (lambda: plot_perturbations(pd.DataFrame()), 'with the column rewind; it has no arm'),
    (lambda: plot_deconstruct(3), 'with the column criterion; it has no')])
def test_mistakes_are_named_before_anything_is_trained(call, match, monkeypatch):
    monkeypatch.setattr('lottery_nb.curves.Curve.run', None)
    with pytest.raises(ArgumentError, match=match): call()

# --- Criteria and actions

def test_deconstruct_is_a_curve_for_each_criterion():
    df = deconstruct(small, DATA, ['movement', 'random'], ['ticket', 'constant'], **how)
    names = ['dense', 'ticket', 'constant', 'pruned_to_init', 'pruned_to_init+constant']
    assert list(df)==['criterion', *table_columns] and list(dict.fromkeys(df.criterion))==['movement', 'random_scores']
    assert list(dict.fromkeys(df.arm))==names
    for name in ('movement', 'random'):
        one = lottery_curve(small, DATA, criteria=name, arms=['ticket', 'constant'], method='local', **how)
        found = df[df.criterion.str.startswith(name) & df.arm.isin(one.arm)].drop(columns='criterion')
        pd.testing.assert_frame_equal(found.reset_index(drop=True), one)
    assert set(deconstruct(small, DATA, 'movement', 'ticket', 'init', **how).arm)=={'dense', 'pruned_to_init'}

# --- The pictures

def at_last(df, **where):
    for k,v in where.items(): df = df[df[k]==v]
    return 100*df[(df.metric=='accuracy') & (df.step==df.step.max())].value

def test_the_picture_of_perturbations_has_means_and_bands():
    df = perturbations(small, DATA, ['0it', '5it'], **how)
    ax = plot_perturbations(df).axes[0]
    lines = {o.get_label(): o for o in ax.lines}
    names = ['dense', 'ticket', *map(repr, default_perturbations)]
    assert set(lines)==set(map(arm_label, names)) and len(ax.collections)==len(lines)
    assert len({o.get_color() for o in ax.lines})==len(lines)
    assert [o.get_text() for o in ax.get_xticklabels()]==['0', '5']
    for name in names:
        expected = [mean_interval(at_last(df, arm=name, rewind=at))[0] for at in (0, 5)]
        np.testing.assert_allclose(lines[arm_label(name)].get_ydata(), expected)
    assert plot_perturbations(df, 'valid_loss').axes[0].get_ylabel()=='validation loss'
    with pytest.raises(ArgumentError, match="metric='loss'"): plot_perturbations(df, 'loss')

def test_the_picture_of_criteria_and_actions():
    df = deconstruct(small, DATA, ['movement', 'large_init', 'random', 'large_final'], ['ticket', 'signs'], **how)
    fig = plot_deconstruct(df)
    drawn = [ax for ax in fig.axes if ax.axison]
    assert [ax.get_title() for ax in drawn]==['movement', 'large_init', 'random_scores', 'large_final']
    for ax in drawn:
        lines = {o.get_label(): o for o in ax.lines}
        ticket,signs = (arm_label(o) for o in ('ticket', 'signs'))
        assert list(lines)==[ticket, signs, f'{ticket}, pruned weights stay', f'{signs}, pruned weights stay']
        assert [o.get_linestyle() for o in ax.lines]==['-', '-', '--', '--']
        y = lines[signs].get_ydata()
        assert y[2]==pytest.approx(at_last(df, criterion=ax.get_title(), arm='signs', round=2).mean()) and len(y)==3

# --- Elsewhere

def test_find_ticket_takes_them_too():
    from fastai.learner import Learner
    from lottery_nb.data import digits_dls
    def learner(): return Learner(digits_dls(), small(), loss_func=F.cross_entropy)
    given = ['ticket', noise(std=.3), in_turn('pruned_to_init', 'constant')]
    search = find_ticket(learner, lambda learn: learn.fit(1), rounds=1, prune=50, arms=given, progress=False)
    assert {'noise(std=0.3)', 'pruned_to_init+constant'} <= set(search.table.arm)
