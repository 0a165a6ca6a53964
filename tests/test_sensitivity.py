"What each layer costs alone, against masks made by hand; amounts of it are exact"
import math

import pandas as pd, pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from lottery_nb.calibration import fisher, obd
from lottery_nb.core import ArgumentError
from lottery_nb.sensitivity import Sensitivity, sensitivity
from lottery_nb.sparsifier import Sparsifier, count_of
from models import differing, everything

def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1,4,3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64,16), nn.ReLU(),
                         nn.Linear(16,3))

X,Y = torch.randn(50,1,6,6),torch.randint(3, (50,))
BATCHES = [(X[:32], Y[:32]), (X[32:], Y[32:])]

def test_a_cost_is_what_the_loss_gains_without_the_smallest_weights_of_a_layer():
    model = net().train()
    before = everything(model)
    s = sensitivity(model, BATCHES, (50, 90), progress=False)
    assert not differing(everything(model), before) and model.training # BatchNorm's statistics too
    model.eval()
    with torch.no_grad(): whole = F.cross_entropy(model(X), Y).item()
    assert list(s.table.layer)==[k for k in ('0.weight','4.weight','6.weight') for _ in range(2)]
    for o in s.table.itertuples():
        model.load_state_dict(before)
        with torch.no_grad():
            w = model.get_parameter(o.layer)
            w.flatten()[w.abs().flatten().argsort(stable=True)[:round(o.sparsity/100*w.numel())]] = 0
            assert F.cross_entropy(model(X), Y).item()==pytest.approx(o.loss, abs=1e-6)
        assert o.cost==pytest.approx(o.loss-whole, abs=1e-6) and o.weights==w.numel()

def test_several_networks_give_intervals_and_one_gives_none():
    many = sensitivity([net(i) for i in range(3)], BATCHES, progress=False).summary()
    assert set(many.seeds)=={3} and many.interval.notna().any()
    one = sensitivity(net(), BATCHES, granularity='row', layers=nn.Linear, progress=False)
    assert one.summary().interval.isna().all() and one.names==['4.weight','6.weight']
    assert len(one.plot().texts)==len(one.table)

@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 3000), st.lists(st.floats(-1, 5), min_size=3, max_size=3)), min_size=1,
                max_size=6), st.floats(0, 90).map(lambda o: round(o, 2)).filter(lambda o: not 0<o<1))
def test_amounts_are_exact_and_cost_alike(layers, sparsity):
    rows = [dict(layer=f'{i}.weight', weights=n, sparsity=s, seed=0, loss=c, cost=c)
            for i,(n,costs) in enumerate(layers) for s,c in zip((50,80,90), costs)]
    amounts = Sensitivity(pd.DataFrame(rows), [f'{i}.weight' for i in range(len(layers))]).allocate(sparsity)
    counts = [count_of(amounts[f'{i}.weight'], n) for i,(n,_) in enumerate(layers)]
    assert sum(counts)==count_of(sparsity, sum(n for n,_ in layers))
    assert all(c<=math.ceil(.9*n) for c,(n,_) in zip(counts, layers))

def test_the_layer_that_costs_less_gives_more():
    rows = [dict(layer=k, weights=1000, sparsity=s, seed=0, loss=c*s, cost=c*s) for k,c in (('a',1),('b',3))
            for s in (40,90)]
    assert Sensitivity(pd.DataFrame(rows), ['a','b']).allocate(40)=={'a': 60., 'b': 20.}

def test_amounts_go_into_a_sparsifier():
    s = sensitivity(net(), BATCHES, progress=False)
    masks = Sparsifier(net()).sparsify(s.allocate(75))
    assert masks.n_weights-masks.n_kept==count_of(75, masks.n_weights)

def of(model, data, sparsities=(30,50), **kwargs): return sensitivity(model, data, sparsities, progress=False, **kwargs)

@pytest.mark.parametrize('name', ['wanda','taylor', fisher(per='item'), obd(n_probe=2)])
def test_criteria_read_the_same_data(name):
    net_,batches = net().eval(),[(X[:32], Y[:32]), (X[32:], Y[32:])]
    s = of(net_, batches, (50,), criteria=name, layers='4')
    sp = Sparsifier(net_, criteria=name, layers='4', data=batches)
    sp.sparsify(50)
    with torch.no_grad(): assert s.table.loss[0]==pytest.approx(F.cross_entropy(net_(X), Y).item(), abs=1e-6)
    assert of(net(), (o for o in batches), (50,), criteria=name, layers='4').table.equals(s.table)

def test_channels_go_with_their_biases_and_norms():
    model = nn.Sequential(nn.Conv2d(1,4,3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4,3,3), nn.Flatten(),
                          nn.Linear(12,3))
    s = of(model.eval(), BATCHES, (50,), granularity='group')
    assert s.names==['0.weight','3.weight'] and s.allocate(50)
    sp = Sparsifier(model, 'group', 'local', example=X[:2], floor=0)
    sp.sparsify({'0.weight': 50})
    with torch.no_grad(): assert s.table.loss[0]==pytest.approx(F.cross_entropy(model(X), Y).item(), abs=1e-6)

def test_inputs_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(36,3)
        def forward(self, batch): return self.fc(batch['x'].flatten(1))
    model = Named()
    s = of(model, [({'x': x}, y) for x,y in BATCHES], (50,))
    assert s.table.loss[0]-s.table.cost[0]==pytest.approx(F.cross_entropy(model({'x': X}), Y).item(), abs=1e-6)

@pytest.mark.parametrize('call, words', [
    (lambda: of(net(), None), 'data=None: expected DataLoaders'), (lambda: of(net(), 5), 'data=5'),
    (lambda: of(net(), 'digits'), "data='digits'"),
    (lambda: of(net(), [(X[:,:,:5], Y)]), 'the model and the loss take'),
    (lambda: of(net(), [(X,)]), 'the model and the loss take'),
    (lambda: of(net(), BATCHES, loss=lambda o, y: 1.5), 'one finite number, not float'),
    (lambda: of(net(), BATCHES, loss=lambda o, y: o), r'one finite number, not \[32, 3\]'),
    (lambda: of([net(), nn.Linear(2,2)], BATCHES), 'model=.*one architecture'),
    (lambda: of(net(), BATCHES, (50,80), granularity='2:4', layers=nn.Linear), 'sparsities=80.0: expected at most 50'),
    (lambda: sensitivity(net(), []), 'at least one batch'), (lambda: sensitivity([], BATCHES), r'model=\[\]'),
    (lambda: sensitivity('net', BATCHES), "model='net'"), (lambda: sensitivity(net(), BATCHES, (90, 50)), 'that rise'),
    (lambda: sensitivity(net(), BATCHES, 120), 'sparsities=120'),
    (lambda: sensitivity(net(), BATCHES, loss=3), 'loss=3'),
    (lambda: sensitivity(net(), BATCHES, n_batch=0), 'n_batch=0'),
    (lambda: sensitivity(net(), BATCHES, loss=lambda o, y: o.mean()*math.nan), 'one finite number, not nan'),
    (lambda: sensitivity(net(), BATCHES, granularity='filtr'), "granularity='filtr'"),
    (lambda: sensitivity(net(), BATCHES, progress=False).allocate(99), 'at most 98 percent')])
def test_mistakes_are_named(call, words):
    with pytest.raises(ArgumentError, match=words): call()

def test_a_fraction_is_asked_about_and_what_it_is_is_said():
    s = sensitivity(net(), BATCHES, (50, 90), progress=False)
    assert repr(s)=='Sensitivity(3 layers at 50, 90 %, networks: 1)'
    with pytest.warns(UserWarning, match='sparsity=0.8 means 0.8 percent'): s.allocate(.8)
    with pytest.raises(ArgumentError, match=r'sparsity=Sensitivity.*\.allocate\(80\)'): Sparsifier(net()).sparsify(s)

def test_a_batch_alone_and_a_class_of_losses_are_named():
    with pytest.raises(ArgumentError, match=r'data=\[\(50, 1, 6, 6\), \(50,\)\]: .*\[\(x, y\)\]'):
        sensitivity(net(), (X, Y), progress=False)
    with pytest.raises(ArgumentError, match=r'loss=CrossEntropyLoss: .*CrossEntropyLoss\(\)'):
        sensitivity(net(), BATCHES, loss=nn.CrossEntropyLoss, progress=False)
