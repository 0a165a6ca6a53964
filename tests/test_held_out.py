"Nothing but its own rows depends on the test part: what chooses a step, a mask or a round never sees it"
import numpy as np, pytest, torch
from fastai.basics import CrossEntropyLossFlat, Learner, accuracy
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch import nn

from lottery_nb.at_init import collapse, missing_the_mark
from lottery_nb.beginning import deconstruct, perturbations
from lottery_nb.connectivity import instability
from lottery_nb.curves import lottery_curve
from lottery_nb.data import digits_dls
from lottery_nb.evidence import early_stop
from lottery_nb.find import find_ticket
from lottery_nb.when import EarlyBird, early_bird, retraining, rewind_grid
from models import quiet

TRAIN,VALID,TEST = [[t.as_subclass(torch.Tensor) for t in dl.stacked()] for dl in digits_dls(test=10)]
OTHER = [TEST[0].flip(2)+1, TEST[1].flip(0)] # other images, other labels

def small(): return nn.Sequential(nn.Flatten(), nn.Linear(64,12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12,10))
HOW = dict(seeds=2, n_step=8, bs=100, device='cpu', progress=False)
experiments = [(lottery_curve, dict(rounds=2)), (lottery_curve, dict(rounds=2, when='init', criteria='snip')),
    (collapse, dict(criteria=['random','snip'], compression=[1.])),
    (missing_the_mark, dict(criteria=['snip'], compression=[1.])),
    (instability, dict(at=[0,'2it'], rounds=1, points=3)), (retraining, dict(sparsities=[50], lengths=[50])),
    (early_bird, dict(rounds=2, every=2, patience=2, threshold=.5)), (rewind_grid, dict(at=[0,'2it'], prune=[50])),
    (perturbations, dict(at=[0,'2it'], rounds=1)), (deconstruct, dict(criteria=['movement','random'], rounds=1))]

@pytest.mark.parametrize('fn, how', experiments, ids=lambda o: getattr(o, '__name__', ''))
def test_an_experiment_is_the_same_with_another_test_part_and_with_none(fn, how):
    tables = [fn(small, [TRAIN, VALID, *more], **how, **HOW) for more in ([TEST], [OTHER], [])]
    held_out = [df[df.metric.str.startswith('test_')].reset_index(drop=True) for df in tables]
    others = [df[~df.metric.str.startswith('test_')].reset_index(drop=True) for df in tables]
    assert others[0].equals(others[1]) and others[0].equals(others[2])
    assert len(held_out[0]) and not len(held_out[2]) and not np.allclose(held_out[0].value, held_out[1].value)
    if 'valid_loss' in set(tables[0].metric) and fn in (lottery_curve, collapse):
        assert early_stop(tables[0]).equals(early_stop(tables[1]))

def loaders(test):
    return DataLoaders(*[DataLoader(list(zip(*o)), bs=200, shuffle=o is TRAIN) for o in (TRAIN, VALID, test)])

def test_a_search_finds_and_chooses_the_same_with_another_test_part():
    birds = []
    def fit(learn):
        birds.append(EarlyBird(60, patience=2, threshold=1, stop=False, verbose=False))
        learn.fit(3, cbs=birds[-1])
    def search(test):
        def learner(): return quiet(Learner(loaders(test), small(), CrossEntropyLossFlat(), metrics=accuracy, lr=1e-2))
        return find_ticket(learner, fit, rounds=2, prune=40, criteria='taylor', progress=False)
    a,b = search(TEST),search(OTHER)
    assert [t.masks for t in a.tickets]==[t.masks for t in b.tickets]
    assert all(torch.equal(t, y.trained[k]) for x,y in zip(a.tickets, b.tickets) for k,t in x.trained.items())
    assert a.best().masks==b.best().masks and (a.report().chosen==b.report().chosen).all()
    assert (a.report().reported!=b.report().reported).any()
    n = len(birds)//2
    assert [o.masks for o in birds[:n]]==[o.masks for o in birds[n:]]
