"What the callback tells a ticket of its search"
import copy, json, math

import pytest, torch

from lottery_nb.arms import arms # noqa: F401 (a ticket's calls)
from lottery_nb.callback import SparsifyCallback
from lottery_nb.criteria import large_final
from lottery_nb.schedules import agp, geometric, one_shot
from lottery_nb.ticket import Ticket
from models import ConvNet, differing, mlp
from test_callback import few_batches, learner, quiet

def searched(schedule, epochs, start_epoch=1, seed=3, cbs=(), **kwargs):
    learn = learner(seed=seed)
    sp_cb = SparsifyCallback(80, 'weight', 'global', large_final, schedule, start_epoch=start_epoch, verbose=False, **kwargs)
    learn.fit(epochs, cbs=[sp_cb, *cbs])
    return learn, sp_cb

def test_the_note_of_a_search(tmp_path):
    learn, sp_cb = searched(geometric(n_steps=2), 6, start_epoch=2, lth=True, rewind_epoch=1)
    ticket = sp_cb.ticket
    measured = [dict(zip(('train_loss','valid_loss','accuracy'), learn.rows[e][1:4])) for e in (1,3,5)]
    assert ticket.meta['rounds']==[dict(o, round=r, density=pytest.approx(100*.2**(r/2), abs=.01), epoch=2*r+1) for r,o in enumerate(measured)]
    assert ticket.meta['seeds']==dict(torch=3, data=0) and ticket.meta['data']==dict(loader='WholeDL', n_train=1437, n_valid=360)
    assert ticket.meta['shapes']=={k: list(t.shape) for k,t in mlp().state_dict().items()} and ticket.meta['arm']=='ticket'
    assert set(ticket.meta['versions'])=={'python','lottery_nb','torch','fastai'}
    assert json.loads(json.dumps(ticket.meta, allow_nan=False))==ticket.meta and Ticket.load(ticket.save(tmp_path/'t', full=True))==ticket
    assert not differing(ticket.full, {k: sp_cb.sparsifier.snapshot[k] for k in ticket.masks})
    assert all(ticket.full[k].data_ptr()==sp_cb.sparsifier.snapshot[k].data_ptr() for k in ticket.masks)
    assert not differing(ticket.dense().state, sp_cb.sparsifier.snapshot)

def test_rounds_of_a_gradual_schedule_and_of_none():
    "A line for every epoch in which there were new masks; one in all where there are none"
    _, sp_cb = searched(agp, 5, end_epoch=3)
    assert [(o['round'], o['epoch']) for o in sp_cb.history]==[(0, 0), (1, 1), (2, 4)]
    _, sp_cb = searched(one_shot, 2, start_epoch=1)
    assert [(o['round'], o['epoch']) for o in sp_cb.history]==[(0, 0), (1, 1)]

def test_a_second_fit_goes_on_with_the_last_round():
    learn, sp_cb = searched(one_shot, 2, lth=True)
    rounds = copy.deepcopy(sp_cb.history)
    ticket = sp_cb.ticket
    learn.fit(3, cbs=sp_cb)
    assert [o['epoch'] for o in sp_cb.history]==[0, 2] and sp_cb.history[0]==rounds[0] and ticket.meta['rounds']==rounds
    learner().fit(2, cbs=sp_cb) # another model: another search
    assert [o['epoch'] for o in sp_cb.history]==[0, 1] and sp_cb.history[0]!=rounds[0]

def test_what_cannot_be_measured_is_left_out(tmp_path):
    "A loss that is no number, no recorder, data that do not know their length"
    from fastai.basics import CancelValidException, Callback, CrossEntropyLossFlat, Learner, Recorder
    from fastai.data.core import DataLoaders
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self): return iter([(torch.randn(1,8,8), torch.tensor(1)) for _ in range(8)])
    class Skip(Callback):
        def before_validate(self): raise CancelValidException
    streams = DataLoaders(*[torch.utils.data.DataLoader(Stream(), batch_size=4) for _ in range(2)])
    for dls,kwargs,cbs in ((few_batches(), dict(loss_func=lambda x,y: CrossEntropyLossFlat()(x, y)*math.nan), []), (few_batches(), {}, [Skip()])):
        learn = quiet(Learner(dls, ConvNet(), **{'loss_func': CrossEntropyLossFlat(), **kwargs}))
        sp_cb = SparsifyCallback(50, 'weight', 'global', 'random', one_shot, verbose=False)
        try: learn.fit(1, cbs=[sp_cb, *cbs])
        except ValueError: pass
        json.dumps(sp_cb.ticket.meta, allow_nan=False)
    sp_cb = SparsifyCallback(50, 'weight', 'global', large_final, one_shot, verbose=False)
    sp_cb.learn = Learner(streams, ConvNet(), loss_func=CrossEntropyLossFlat())
    assert sp_cb._origin()['data']==dict(loader='DataLoader', n_train=None, n_valid=None) and sp_cb._origin()['seeds']['data'] is None
    learn = quiet(Learner(few_batches(), ConvNet(), loss_func=CrossEntropyLossFlat()))
    learn.remove_cb(Recorder)
    learn.fit(1, cbs=sp_cb)
    assert [list(o) for o in sp_cb.history]==[['round','density','epoch']]
