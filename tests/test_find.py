"Searches: every round's counts and rewinds to the bit, stopped and killed and gone on with, and what comes back"
import functools, json, math, os, random, re, shutil, signal, sys, tempfile, time
from pathlib import Path

import fastai.callback.channelslast, fastai.callback.fp16 # noqa: F401, `to_channelslast` and `to_fp16`
import numpy as np, pandas as pd, pytest, torch
from fastai.basics import CrossEntropyLossFlat, Learner
from fastai.callback.core import Callback, CancelFitException, TrainEvalCallback
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ShowGraphCallback
from fastai.callback.schedule import * # noqa: F403, it gives `Learner` its `fit_one_cycle`, `fine_tune` and `lr_find`
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.metrics import accuracy
from torch import nn

import lottery_nb.n_of_m # noqa: F401, it adds n:m
from lottery_nb.arms import arm
from lottery_nb.callback import SparsifyCallback
from lottery_nb.core import ArgumentError, as_table, table_columns
from lottery_nb.criteria import large_final, large_init_large_final, random_scores
from lottery_nb.data import digits_dls
from lottery_nb.find import Search, SearchError, find_ticket
from lottery_nb.masks import Masks, named_tensors
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket, TicketError
from models import ConvNet, differing, everything, masked, mlp

def items(n, seed):
    g = torch.Generator().manual_seed(seed)
    return list(zip(torch.randn(n, 1, 6, 6, generator=g), torch.randint(0, 10, (n,), generator=g)))

train, valid = items(32, 0), items(16, 1)

def dls(): return DataLoaders(DataLoader(train, bs=8, shuffle=True), DataLoader(valid, bs=8))

test = items(24, 2)
def dls_with_test(): return DataLoaders(*[DataLoader(o, bs=8, shuffle=o is train) for o in (train, valid, test)])

class Noisy(ConvNet):
    "What it computes in training depends on PyTorch's random numbers too"
    def forward(self, x): return super().forward(nn.functional.dropout(x, .2, self.training))

def of(model, data=dls, **kwargs):
    return Learner(data(), model, loss_func=CrossEntropyLossFlat(), metrics=accuracy, lr=1e-2, **kwargs)
def learner(**kwargs): return of(Noisy(), **kwargs)
def fit(learn): learn.fit_one_cycle(2, 1e-2)
def one_epoch(learn): learn.fit(1)
def search(learner=learner, fit=fit, rounds=3, prune=20, **kwargs):
    return find_ticket(learner, fit, rounds, prune, **{'progress': False, **kwargs})
def never(learn): pytest.fail('trained')

def different(a, b):
    "What two searches do not have in common, bit for bit"
    tickets = [{**dict(enumerate(o.tickets)), **{(arm, r): t for arm,ts in o.arms.items() for r,t in ts.items()}}
               for o in (a, b)]
    if tickets[0].keys()!=tickets[1].keys(): return [f'{list(o)}' for o in tickets]
    found = [] if a.table.equals(b.table) else ['table']
    for k,s in tickets[0].items():
        t = tickets[1][k]
        found += [f'{k} {name}' for part in ('state','trained','full')
                  for name in differing(getattr(s, part) or {}, getattr(t, part) or {})]
        # another `fit` that does the same is another search
        metas = [{name: v for name,v in o.meta.items() if name!='search'} for o in (s, t)]
        found += [f'{k} masks']*(s.masks!=t.masks) + [f'{k} meta']*(metas[0]!=metas[1])
    return found

def files(folder): return {o.name: o.read_bytes() for o in Path(folder).iterdir() if o.name!='.lock'}

class Watch(Callback):
    "Notes everything at the beginning of every batch, and what else a round can be told apart by"
    order, run_valid = -100, False
    def __init__(self): self.began, self.lrs, self.opt_state, self.batches = [], [], None, []
    def before_fit(self):
        self.opt_state = self.opt_state or [len(o) for o in map(dict, self.opt.state.values())
                                            if set(o)-{'do_wd','force_train'}]
    def before_batch(self):
        self.began.append(everything(self.model))
        self.lrs.append(self.opt.hypers[-1]['lr'])
        self.batches.append(self.xb[0].sum().item())

def watched(fit=fit):
    "A `fit` that keeps a `Watch` of every round"
    seen = []
    def fit_and_watch(learn):
        seen.append(Watch())
        learn.add_cb(seen[-1])
        fit(learn)
    return fit_and_watch, seen

# How much is pruned

@pytest.mark.parametrize('prune', [20, 33.3, 50, 70])
def test_counts_under_global_are_exact(prune):
    found = search(prune=prune, fit=one_epoch)
    left = [found.tickets[0].masks.n_weights]
    for _ in range(3): left.append(left[-1]-round(prune/100*left[-1]))
    assert [t.masks.n_kept for t in found.tickets]==left
    assert list(found.summary().density)==[t.masks.density for t in found.tickets]

@pytest.mark.parametrize('prune', [{'head': 0, '*': 20}, {'*': 20}, {'head.weight': 40, '*': 20}, {'grouped': 30}],
                         ids=str)
def test_counts_are_exact_in_each_layer_that_has_its_rate(prune):
    found = search(prune=prune, fit=one_epoch)
    for k in found.tickets[0].masks:
        n,own = found.tickets[0].masks[k].numel(),[v for name,v in prune.items() if k.startswith(name)]
        rate = (own or [prune.get('*', 0)])[0]
        for t in found.tickets:
            assert int(t.masks[k].sum())==n, (k, t.meta['round'])
            n -= round(rate/100*n)

def test_under_local_the_total_is_exact_and_each_layer_has_its_part():
    tickets = search(method='local', fit=one_epoch).tickets
    n = tickets[0].masks.n_weights
    for t in tickets:
        assert t.masks.n_kept==n
        assert all(abs(int(m.sum())-m.numel()*t.density/100)<1 for m in t.masks.values())
        n -= round(.2*n)

def test_layers_may_collapse_where_that_is_allowed():
    with pytest.warns(UserWarning, match='layer collapse'): kept = search(prune=90).tickets[3].masks
    assert min(int(m.sum()) for m in kept.values())==1
    assert search(prune=90, rounds=2, allow_collapse=True).tickets[2].masks.n_kept==round(.1*round(.1*kept.n_weights))

def test_a_list_of_sparsities_and_one_shot():
    found = search(prune=(30, 60.5, 90), rounds=None)
    n = found.tickets[0].masks.n_weights
    assert [n-t.masks.n_kept for t in found.tickets]==[0, round(.3*n), round(.605*n), round(.9*n)]
    assert [t.meta['prune'] for t in found.tickets]==[[], [30.], [30.,60.5], [30.,60.5,90.]]
    assert [t.masks.n_kept for t in search(rounds=1, prune=80).tickets]==[n, n-round(.8*n)]

def test_units_add_up_over_the_rounds():
    "Of 8 filters 20 % are 1.6: what does not make a whole filter in one round is not forgotten in the next"
    def conv(): return of(nn.Sequential(nn.Conv2d(1,8,6), nn.Flatten(), nn.Linear(8,10)))
    found = search(conv, one_epoch, rounds=6, granularity='filter', method='local', layers=['0'])
    kept, asked = [int(t.masks['0.weight'].flatten(1).any(1).sum()) for t in found.tickets], [288]
    for _ in range(6): asked.append(asked[-1]-round(.2*asked[-1]))
    assert kept==[math.ceil(o/36) for o in asked] and kept[-1]<4

# Where the weights go back to

@pytest.mark.parametrize('rewind, step',
                         [(0, 0), ('0', 0), ('0it', 0), (1, 4), ('1', 4), ('4it', 4), ('3it', 3), ('7it', 7)])
def test_rewinding_bit_for_bit(rewind, step):
    fit_, seen = watched()
    tickets = search(fit=fit_, rewind=rewind).tickets
    w_t = seen[0].began[step]
    for r,t in enumerate(tickets):
        assert not differing(t.state, masked(w_t, t.masks)) and not differing(t.full, {k: w_t[k] for k in t.masks})
        if r: assert not differing(seen[r].began[0], t.state)
        assert not differing(t.trained, masked(t.trained, t.masks))
        for began in seen[r].began: assert not differing(began, masked(began, t.masks))
    assert w_t['stem.1.running_mean'].any()==(step>0) and w_t['seen']==step*8 # buffers, too
    # a schedule and an optimizer of its own
    assert len({tuple(w.lrs) for w in seen})==1 and not any(w.opt_state for w in seen)
    assert len({tuple(w.batches) for w in seen})==4 # other random numbers in each round

def test_learning_rate_rewinding_keeps_the_weights():
    fit_, seen = watched()
    tickets = search(fit=fit_, rewind='lr').tickets
    assert not differing(tickets[0].state, seen[0].began[0])
    for r in range(1, 4):
        before, now = tickets[r-1].trained, tickets[r]
        assert not differing(now.state, masked(before, now.masks)) and not differing(seen[r].began[0], now.state)
    assert now.state['seen']==3*2*32
    assert len({tuple(w.lrs) for w in seen})==1 and not any(w.opt_state for w in seen)

def test_a_rewind_point_that_is_never_reached():
    class Stop(Callback):
        def after_epoch(self): raise CancelFitException
    with pytest.raises(ArgumentError, match="rewind='6it': .* only 4 steps"):
        search(lambda: learner(cbs=Stop), rewind='6it')
    fit_, seen = watched()
    found = search(lambda: learner(cbs=Stop), fit_, rewind='3it') # stopped before the recorder comes to it
    assert [len(o.began) for o in seen]==[4]*4 and not len(found.table)
    assert not differing(found.tickets[0].state, seen[0].began[3])

# Criteria that need more than the trained weights

def scored(criterion, r, tickets, init):
    "The scores of round `r+1`, as the papers have them"
    at = {'init': init, 'previous': tickets[r].state if r else init}
    w = {k: tickets[r].trained[k] for k in tickets[r].masks}
    if criterion=='movement': return {k: (t-at['init'][k]).abs() for k,t in w.items()}
    if criterion=='updating_movement': return {k: (t-at['previous'][k]).abs() for k,t in w.items()}
    return {k: t.abs() for k,t in w.items()}

@pytest.mark.parametrize('rewind', [0, 1, 'lr'])
@pytest.mark.parametrize('criterion', ['large_final', 'movement', 'updating_movement'])
def test_the_lowest_scores_go(criterion, rewind):
    fit_, seen = watched()
    tickets = search(fit=fit_, criteria=criterion, rewind=rewind, prune=30).tickets
    for r in range(3):
        scores = scored(criterion, r, tickets, seen[0].began[0])
        assert not any((m & ~tickets[r].masks[k]).any() for k,m in tickets[r+1].masks.items())
        left = torch.cat([s[tickets[r].masks[k] & tickets[r+1].masks[k]] for k,s in scores.items()])
        gone = torch.cat([s[tickets[r].masks[k] & ~tickets[r+1].masks[k]] for k,s in scores.items()])
        assert gone.max()<=left.min() and len(gone)==round(.3*tickets[r].masks.n_kept)

# The same call, the same bits

def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    a = search(arms=['reinit','random'])
    torch.manual_seed(99), np.random.seed(99), random.seed(99)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    b = search(arms=['random','reinit'])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate())==before[1:]
    assert not different(a, search(arms=['reinit','random'])) and not different(a.part(3), b.part(3)) and not differing(
        a.arms['random'][3].trained, b.arms['random'][3].trained) # in whatever order arms are trained
    assert differing(a.tickets[0].state, search(seed=1, rounds=1).tickets[0].state)

def test_random_scores_are_others_for_each_seed(tmp_path):
    def masks(**how): return [t.masks for t in search(rounds=2, **{'criteria': 'random', **how}).tickets[1:]]
    first,second = masks(seed=0),masks(seed=1)
    assert first!=second and masks(seed=1)==second
    assert masks(criteria=random_scores(seed=1))==second # of one's own, on top of which the search's comes
    assert masks(seed=1, dir=tmp_path)==masks(seed=1, dir=tmp_path)==second

def test_learners_that_share_their_data():
    shared, seeded = dls(), digits_dls(bs=512).cpu()
    a, b = [search(lambda: of(Noisy(), lambda: shared)) for _ in range(2)]
    assert not different(a, b)
    a, b = [search(lambda: Learner(seeded, nn.Sequential(nn.Flatten(), nn.Linear(64,10))), rounds=2) for _ in range(2)]
    assert not different(a, b) and a.tickets[1].meta['data']==dict(loader='WholeDL', n_train=1437, n_valid=360)

# Arms

names = ['reinit','shuffle','random','signs','constant']

def test_arms_begin_as_the_registry_says_and_train_on_the_same_batches():
    fit_, seen = watched()
    found = search(fit=fit_, arms=names, rounds=2, rewind=1, prune=60)
    assert list(found.arms)==names and len(seen)==1+2*6
    for r in (1, 2):
        t, ran = found.tickets[r], seen[1+6*(r-1):7+6*(r-1)]
        assert len({tuple(w.batches) for w in ran})==1 # as those of its ticket
        asked = [t.reinit(Noisy, 0), t.shuffle(0), t.random(0), t.signs(Noisy, 0), t.constant()]
        for name,begun,w in zip(names, asked, ran[1:]):
            own = found.arms[name][r]
            assert own.masks==begun.masks and not differing(own.state, begun.state)
            assert not differing(w.began[0], begun.state)
            assert not differing(own.trained, masked(own.trained, own.masks)) and differing(own.trained, own.state)
            assert (own.meta['arm'], own.meta['seed'], own.meta['round'])==(name, 0, r)
    assert not different(found.part(2), search(rounds=2, rewind=1, prune=60)) # they disturb nothing

def test_an_arm_of_ones_own(tmp_path):
    @arm
    def halved(ticket, seed, model, *, by=2.):
        return Ticket(ticket.masks, {k: t/by if k in ticket.masks else t for k,t in ticket.state.items()})
    found = search(rounds=1, arms=[halved(by=4.)], dir=tmp_path)
    assert not differing({k: found.arms['halved(by=4.0)'][1].state[k]*4 for k in found.tickets[1].masks},
                         {k: found.tickets[1].state[k] for k in found.tickets[1].masks})
    assert not different(found, search(rounds=1, arms=[halved(by=4.)], dir=tmp_path))
    assert not different(found, Search.load(tmp_path))

def test_arms_can_come_later_and_go_on(tmp_path):
    whole = search(arms=['reinit','shuffle'], rewind='3it')
    fit_, seen = watched()
    for kwargs in (dict(rounds=1), dict(rounds=2, arms='reinit'), dict(rounds=2, arms=['reinit','shuffle']),
                   dict(rounds=3, arms=['reinit','shuffle'])):
        found = search(fit=fit_, rewind='3it', dir=tmp_path, **kwargs)
    assert not different(found, whole) and len(seen)==10 and not different(whole, Search.load(tmp_path))
    # who does not ask for them does not see them
    assert not different(search(fit=fit_, rewind='3it', dir=tmp_path), search(rewind='3it'))
    (tmp_path/'round_02.shuffle.safetensors').unlink() # as if it had been killed before
    assert not different(search(fit=fit_, rewind='3it', arms=['reinit','shuffle'], dir=tmp_path), whole)
    assert len(seen)==11

# Stopped, and gone on with

def grown(dir, **kwargs):
    "The same search in calls for one more round each"
    for r in range(1, 4): found = search(rounds=r, dir=dir, **kwargs)
    return found

@pytest.mark.parametrize('kwargs', [{}, dict(rewind='3it', criteria='movement'),
    dict(rewind='lr', criteria='updating_movement', arms=['constant']),
    dict(rewind=1, criteria='taylor'),
    dict(prune={'head': 10}, granularity='row', layers=nn.Linear),
    dict(seed=7, prune=60, arms=['reinit','signs'])], ids=str)
def test_gone_on_with_is_never_stopped(kwargs, tmp_path):
    whole = search(dir=tmp_path/'whole', **kwargs)
    assert not different(whole, search(**kwargs)) # with a folder and without
    assert not different(whole, grown(tmp_path/'grown', **kwargs)) and files(tmp_path/'whole')==files(tmp_path/'grown')
    assert not different(whole, Search.load(tmp_path/'grown'))
    before = files(tmp_path/'whole')
    assert len(search(rounds=1, dir=tmp_path/'whole', **kwargs).tickets)==2 and files(tmp_path/'whole')==before

def test_data_that_have_become_more_or_fewer(tmp_path):
    """Their accuracies cannot be compared: refused like another setting, also if nothing is left to do;
    with `force` it begins anew"""
    n = [8, 4] # items that are left out
    def some(): return DataLoaders(DataLoader(train[n[0]:], bs=8, shuffle=True), DataLoader(valid[n[1]:], bs=8))
    def fewer(): return of(Noisy(), some)
    search(fewer, rounds=1, dir=tmp_path)
    before = files(tmp_path)
    for more,says in (([0, 4], '"n_train": 24.*"n_train": 32'), ([8, 0], '"n_valid": 12.*"n_valid": 16')):
        n[:] = more
        for rounds in (1, 2):
            with pytest.raises(SearchError, match=f'(?s)data: .*{says}.*force=True'):
                search(fewer, rounds=rounds, dir=tmp_path)
    assert files(tmp_path)==before
    n[:] = 8, 4
    assert len(search(fewer, rounds=2, dir=tmp_path).tickets)==3
    n[:] = 0, 0
    assert search(fewer, rounds=1, dir=tmp_path, force=True).tickets[0].meta['data']['n_train']==len(train)

def test_a_list_goes_on_with_a_longer_one(tmp_path):
    whole = search(rounds=None, prune=[30,50,70], dir=tmp_path/'a')
    search(rounds=None, prune=[30,50], dir=tmp_path/'b')
    assert not different(whole, search(rounds=None, prune=[30,50,70], dir=tmp_path/'b'))
    assert files(tmp_path/'a')==files(tmp_path/'b')
    assert not different(whole.part(2), search(rounds=None, prune=[30,50], dir=tmp_path/'b'))
    assert files(tmp_path/'a')==files(tmp_path/'b')
    with pytest.raises(SearchError, match=r'prune: \[30.0, 50.0, 70.0\] → \[30.0, 60.0\]'):
        search(rounds=None, prune=[30,60], dir=tmp_path/'b')

@functools.cache
def digits_data(): return digits_dls(bs=256).cpu()
def digits(data=digits_data): return Learner(data(), mlp(), metrics=accuracy, lr=1e-2)
def two_epochs(learn): learn.fit(2)
def digits_search(dir=None):
    return find_ticket(digits, two_epochs, rounds=2, prune=50, rewind=1, arms='random', dir=dir, progress=False)

def killed_in(dir, moment):
    "Kills a search that runs in a process of its own after so many seconds. Says whether it was still running"
    said, say = os.pipe()
    pid = os.fork()
    if not pid: # a child of this process has loaded everything already
        try:
            os.write(say, b'begun ')
            digits_search(dir)
            os.write(say, b'ended')
        finally: os._exit(0)
    os.close(say)
    try:
        told = os.read(said, 6) # waits until it is there
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        told += os.read(said, 6)
    finally: os.close(said)
    assert told in (b'begun ', b'begun ended') and (told==b'begun ended' or code==-signal.SIGKILL), (told, code)
    return told==b'begun '

def test_amounts_by_layer_are_what_they_mean(tmp_path):
    "Under other names they're the same search, with other amounts another one; in an order that hides one they're none"
    found = search(rounds=1, fit=one_epoch, prune={'head': 10, '*': 40}, dir=tmp_path)
    same = search(rounds=1, fit=one_epoch, prune={'head.weight': 10., 'stem': 40, '[gu]*': 40}, dir=tmp_path)
    assert not different(same, found)
    with pytest.raises(SearchError, match='prune: .*"head.weight": 10.0.* → .*"head.weight": 40.0'):
        search(rounds=1, fit=one_epoch, prune={'*': 40}, dir=tmp_path)
    with pytest.raises(ArgumentError, match=r"prune\['head'\]=10.0: expected an earlier place"):
        search(rounds=1, fit=one_epoch, prune={'*': 40, 'head': 10}, dir=tmp_path)

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks')
@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_killed_at_20_random_moments(tmp_path):
    "A kill that came too late is none: the search had ended, so another one begins in another folder"
    digits_search()
    start = time.monotonic()
    digits_search(tmp_path/'never')
    takes, moments, kills, n = time.monotonic()-start, random.Random(0), [], 0
    while len(kills)<20:
        n += 1
        assert n<200
        folder = tmp_path/f'{n-len(kills)}'
        if killed_in(folder, moments.uniform(0, .8*takes)): kills.append(folder)
        else: assert files(folder)==files(tmp_path/'never')
    for folder in {*kills}:
        digits_search(folder)
        assert files(folder)==files(tmp_path/'never')

def test_killed_while_a_file_is_written(tmp_path):
    search(rounds=1, dir=tmp_path/'d')
    for name in ('round_02.safetensors', 'round_01.reinit.safetensors', 'settings.json', 'table.csv'):
        (tmp_path/'d'/f'.{name}.{"0"*16}').write_bytes(b'half')
    (tmp_path/'d'/'.notes').write_text('mine')
    search(dir=tmp_path/'d')
    search(dir=tmp_path/'e')
    assert files(tmp_path/'d')==files(tmp_path/'e') | {'.notes': b'mine'}

def test_killed_while_the_last_table_is_written(tmp_path):
    search(dir=tmp_path/'d')
    before = files(tmp_path/'d')
    (tmp_path/'d'/f'.table.csv.{"0"*16}').write_bytes(b'half')
    search(dir=tmp_path/'d')
    assert files(tmp_path/'d')==before

@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_an_error_leaves_the_finished_rounds(error, tmp_path):
    calls, never = [], search()
    def failing(learn):
        calls.append(learn)
        if len(calls)==3: raise error('out of memory')
        fit(learn)
    for dir in (None, tmp_path):
        calls.clear()
        with pytest.raises(error, match='out of memory') as e: search(fit=failing, dir=dir)
        assert len(e.value.search.tickets)==2 and '2 finished runs' in e.value.__notes__[0]
        assert dir is None or str(dir) in e.value.__notes__[0]
        assert e.value.search.table.equals(never.table[never.table['round']<2])
    assert not different(e.value.search, Search.load(tmp_path))
    assert not different(search(fit=failing, dir=tmp_path), never)

def test_weights_that_are_not_finite_are_said(tmp_path):
    def diverging(learn): learn.fit(1, lr=1e30)
    with pytest.raises(ValueError, match='NaN or infinity') as e: search(fit=diverging, dir=tmp_path)
    assert len(e.value.search.tickets)==1
    assert math.isnan(Search.load(tmp_path).table.set_index('metric').value['valid_loss'])
    assert not different(Search.load(tmp_path), e.value.search)

# Other settings

def one_more(learn): learn.fit_one_cycle(3, 1e-2)
def bigger():
    learn = learner()
    learn.model.head = nn.Linear(4,12)
    return learn

changes = [(dict(prune=30), 'prune: 20.0 → 30.0'),
    (dict(prune=[20,30,40], rounds=None), r'prune: 20.0 → \[20.0, 30.0, 40.0\]'),
    (dict(seed=1), 'seed: 0 → 1'), (dict(version='2'), 'version:  → 2'),
    (dict(rewind=1), 'rewind: 0 → 1'), (dict(rewind='1it'), 'rewind: 0 → 1it'), (dict(rewind='lr'), 'rewind: 0 → lr'),
    (dict(method='local'), 'method: global → local'), (dict(allow_collapse=True), 'allow_collapse: false → true'),
    (dict(granularity='layer'), 'granularity: weight → layer'),
    (dict(criteria='random'), 'criteria: large_final → random_scores'),
    (dict(criteria=large_init_large_final(alpha=2.)), r'criteria: .* → .*large_init_large_final\(alpha=2.0\)'),
    (dict(layers=nn.Linear), r'layers: .*grouped'),
    (dict(prune={'head': 10, '*': 20}), r'prune: 20.0 → ."stem.0.weight": 20.0'),
    (dict(fit=one_more), r'fit: .*fit_one_cycle\(2, 1e-2\) → .*fit_one_cycle\(3, 1e-2\)'),
    (dict(fit=lambda learn: learn.fit(2)), r'fit: .* → lambda learn: learn.fit\(2\)'),
    (dict(fit=functools.partial(Learner.fit, n_epoch=2)), 'fit: '),
    (dict(learner=bigger), r'shapes: head.weight: .*10.*4.* in the stored model, .*12.*4')]

@pytest.fixture(scope='module')
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp('search')/'stored'
    search(dir=folder, arms='reinit')
    return folder

@pytest.mark.parametrize('changed, said', changes, ids=[said for _,said in changes])
def test_other_settings_are_refused(changed, said, stored):
    before = files(stored)
    with pytest.raises(SearchError, match=said) as e: search(**{'dir': stored, **changed})
    assert 'holds 7 runs of a search with other settings' in str(e.value) and 'force=True' in str(e.value)
    assert files(stored)==before

def test_all_differences_are_shown_and_only_these(stored):
    with pytest.raises(SearchError) as e: search(dir=stored, seed=3, rewind=1)
    assert sorted(str(e.value).splitlines()[1:-1])==['  rewind: 0 → 1', '  seed: 0 → 3']

def test_force_begins_anew_and_deletes_nothing_else(tmp_path):
    search(dir=tmp_path, criteria='movement', arms='random')
    for o in ('mine.txt', 'round_mine.safetensors'): (tmp_path/o).write_text('mine')
    new = search(rounds=1, prune=50, dir=tmp_path, force=True)
    assert sorted(files(tmp_path))==['mine.txt', 'round_00.safetensors',
                                     'round_01.safetensors', 'round_mine.safetensors', 'settings.json', 'table.csv']
    assert not different(new, search(rounds=1, prune=50)) and not different(new, Search.load(tmp_path))

def test_a_search_of_which_nothing_came_leaves_nothing(tmp_path):
    with pytest.raises(ArgumentError, match='rewind=9'): search(rewind=9, dir=tmp_path)
    assert not os.listdir(tmp_path)
    assert not different(search(dir=tmp_path), search())

def test_other_versions_are_warned_of(tmp_path):
    search(rounds=1, dir=tmp_path)
    path = tmp_path/'round_01.safetensors'
    ticket = Ticket.load(path)
    Ticket(ticket.masks, ticket.state, ticket.trained,
           {**ticket.meta, 'versions': {**ticket.meta['versions'], 'torch': '0.4'}}).save(path)
    search(rounds=1, dir=tmp_path) # nothing is trained, so there is nothing to warn of
    with pytest.warns(UserWarning, match=f"torch 0.4 → {re.escape(ticket.meta['versions']['torch'])}"):
        search(rounds=2, dir=tmp_path)

# Damaged folders

@pytest.fixture
def copied(stored, tmp_path): return Path(shutil.copytree(stored, tmp_path/'copied'))

@pytest.mark.parametrize('how', ['cut', 'empty', 'flipped', 'foreign'])
@pytest.mark.parametrize('name', ['round_00.safetensors', 'round_02.safetensors',
                                  'round_03.reinit.safetensors', 'settings.json'])
def test_damaged_files_are_named(name, how, copied):
    data = (copied/name).read_bytes()
    flipped = bytes([*data[:1], data[1] ^ 255,
                     *data[2:]]) if name=='settings.json' else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    (copied/name).write_bytes(dict(cut=data[:len(data)//2], empty=b'', flipped=flipped, foreign=b'[1, 2]')[how])
    before = files(copied)
    for load in (lambda: search(dir=copied), lambda: search(dir=copied, rounds=5), lambda: Search.load(copied)):
        with pytest.raises((SearchError, TicketError), match=name): load()
    assert files(copied)==before

def test_a_damaged_or_lost_table_is_written_anew(copied):
    before = files(copied)
    for data in (b'', b'\xff\x00', None):
        (copied/'table.csv').unlink()
        if data is not None: (copied/'table.csv').write_bytes(data)
        search(dir=copied)
        assert files(copied)==before
    pd.testing.assert_frame_equal(pd.read_csv(copied/'table.csv'), Search.load(copied).table,
                                  check_dtype=False, check_exact=True)

def test_missing_files_are_named(copied):
    (copied/'round_01.safetensors').rename(copied/'kept')
    with pytest.raises(SearchError, match='round_01.safetensors: missing, but there are later rounds'):
        search(dir=copied)
    (copied/'kept').rename(copied/'round_01.safetensors')
    (copied/'settings.json').unlink()
    with pytest.raises(SearchError, match='settings.json: missing'): search(dir=copied)
    with pytest.raises(FileNotFoundError): Search.load(copied/'nothing')

def test_the_first_weights_are_missed_and_checked_where_they_are_needed(tmp_path):
    never = search(criteria='movement', dir=tmp_path/'d')
    search(criteria='movement', rounds=1, dir=tmp_path/'e')
    first = tmp_path/'e'/'init.safetensors'
    data, sp = first.read_bytes(), Sparsifier(bigger().model)
    for spoil in (lambda: first.write_bytes(data[:-1]), first.unlink,
                  lambda: Ticket(sp.masks, everything(sp.model)).save(first)):
        spoil()
        with pytest.raises((SearchError, TicketError), match='init.safetensors'):
            search(criteria='movement', dir=tmp_path/'e')
    first.write_bytes(data)
    assert not different(search(criteria='movement', dir=tmp_path/'e'), never)

@pytest.mark.parametrize('other', [dict(seed=1), dict(prune=30), dict(fit=one_epoch), dict(learner=bigger)],
                         ids=['seed', 'prune', 'fit', 'learner'])
def test_a_round_of_another_search_is_found_out(other, copied, tmp_path):
    search(dir=tmp_path/'other', arms='reinit', **other)
    for name in ('round_02.reinit.safetensors', 'round_02.safetensors'):
        shutil.copy(tmp_path/'other'/name, copied)
        with pytest.raises(SearchError, match=f'{name}: a ticket of another search'): search(dir=copied)

# Folders that cannot be written to

@pytest.fixture
def readonly():
    "Makes a folder read-only, also for root, who then is nobody for a while"
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    if os.geteuid()!=os.getuid(): os.seteuid(os.getuid())
    for o in [made, *made.rglob('*')]: o.chmod(0o755)
    shutil.rmtree(made)

@pytest.mark.skipif(not hasattr(os, 'seteuid'), reason='changes the user')
def test_a_read_only_folder_is_said_at_the_start_and_can_be_read(readonly):
    search(rounds=1, dir=readonly/'old')
    (readonly/'new').mkdir()
    for o in [*readonly.rglob('*'), readonly]: o.chmod(0o555 if o.is_dir() else 0o444)
    if os.getuid()==0: os.seteuid(65534)
    for dir in (readonly/'new', readonly/'none'):
        with pytest.raises(PermissionError, match=str(dir)): search(fit=never, dir=dir)
    with pytest.raises(PermissionError, match='old'): search(rounds=2, dir=readonly/'old')
    assert len(search(rounds=1, dir=readonly/'old').tickets)==2 and len(Search.load(readonly/'old').tickets)==2

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='sets a limit to the size of files')
@pytest.mark.parametrize('at, room', [(1, 1000), (3, 1000), (4, 1000)])
def test_a_disk_that_fills_up_loses_nothing(at, room, tmp_path):
    "The file is named, what is finished is in the folder, and the run that could not be stored is in the exception"
    resource, calls = pytest.importorskip('resource'), []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    def filling(learn):
        calls.append(learn)
        fit(learn)
        if len(calls)==at: resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError) as e: search(fit=filling, arms='random', dir=tmp_path)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    name = ['round_00', 'round_01', 'round_01.random', 'round_02'][at-1]
    assert e.value.filename==str(tmp_path/f'{name}.safetensors')
    assert len(e.value.search.runs())==at and (at==1 or len(Search.load(tmp_path).runs())==at-1)
    assert not any(o.startswith('.') for o in files(tmp_path))
    assert not different(search(fit=filling, arms='random', dir=tmp_path), search(arms='random'))

def test_one_search_in_a_folder(tmp_path):
    refused = []
    def another(learn):
        fit(learn)
        if not refused:
            start = time.monotonic()
            with pytest.raises(SearchError, match='another search is running in this folder'):
                search(fit=another, dir=tmp_path)
            refused.append(time.monotonic()-start)
    assert not different(search(fit=another, rounds=1, dir=tmp_path), search(rounds=1))
    # free again
    assert refused and refused[0]<60 and not different(search(fit=another, rounds=1, dir=tmp_path), search(rounds=1))

# Bad input

shared_model = Noisy()
def shared(): return of(shared_model)
def pruning(): return learner(cbs=SparsifyCallback(50, 'weight', 'global', large_final, 'one_shot'))
def empty(): return of(Noisy(), lambda: DataLoaders(DataLoader(train[:4], bs=8, drop_last=True), DataLoader(valid)))
class Endless(torch.utils.data.IterableDataset):
    def __iter__(self): return iter(train)
def generated(): return of(Noisy(), lambda: DataLoaders(DataLoader(Endless(), bs=8), DataLoader(valid)))
def without_layers(): return of(nn.BatchNorm2d(1))

bad = [(dict(rounds=0), 'rounds=0: expected a whole number of at least 1'), (dict(prune=math.nan), 'prune=nan'),
    (dict(prune=None), 'prune=None'), (dict(prune=[], rounds=None), 'prune='), (dict(prune=0), 'prune=0.0'),
    (dict(prune=[50,40,60]), 'expected sparsities that rise'), (dict(prune=[50,60]), 'rounds=3: expected 2'),
    (dict(rewind='soon'), "rewind='soon'"), (dict(granularity='filtr'), "granularity='filtr'"),
    (dict(rewind='lr', arms='shuffle'), 'one that knows its pruned weights'), (dict(meta=dict(data=1)), "meta='data'"),
    (dict(granularity='2:4', prune=60), 'prune=60.0, rounds=3: sparsity'), (dict(method='both'), "method='both'"),
    (dict(criteria='largest'), "criteria='largest'"), (dict(layers='tail'), "layers='tail'"),
    (dict(prune={'tail': 10}), "prune='tail': expected a layer that is pruned"),
    (dict(prune={'head': 100}), 'prune='),
    (dict(prune={'*': 20, 'total': 5}), 'total='),
    (dict(arms=['shuffle'], granularity='2:4'), "granularity='2:4': expected units within a layer"),
    (dict(arms='finetune'), 'arms=finetune: expected arms that begin with W_t'),
    (dict(seed=-1), 'seed=-1'), (dict(dir=5), 'dir=5'), (dict(fit=5), 'fit=5: expected a function of a Learner'),
    (dict(learner=Noisy), 'learner=.*: expected a function that gives a Learner'),
    (dict(learner=shared), 'learner=.* a new model every time'),
    (dict(learner=pruning), 'without a SparsifyCallback'), (dict(learner=empty), 'learner=.* at least one batch'),
    (dict(learner=generated), 'learner=.* a known number'), (dict(learner=without_layers), 'with prunable weights')]

@pytest.mark.parametrize('given, said', bad, ids=[f'{said}' for _,said in bad])
def test_bad_input_is_said_before_anything_is_trained(given, said, tmp_path):
    with pytest.raises(ValueError, match=said): search(**{'fit': never, 'dir': tmp_path/'d', **given})
    assert not (tmp_path/'d').exists()

def test_a_fit_that_trains_nothing():
    with pytest.raises(ArgumentError, match='fit=.*expected a function that trains its learner'):
        search(fit=lambda learn: learn.validate())

# Any function that trains

def test_a_fit_of_several_trainings():
    def several(learn):
        learn.lr_find(num_it=20, show_plot=False)
        learn.validate()
        learn.fit(1)
        learn.get_preds()
        learn.fit_one_cycle(2)
    fit_, seen = watched(several)
    found = search(fit=fit_, rewind=0, rounds=2)
    assert list(found.summary().epoch)==[2]*3 and list(found.summary().step)==[12]*3
    # that of the first batch, which is the learning-rate finder's; it puts back what a state_dict has
    w_0 = seen[0].began[0]
    assert not differing(*[{k: o[k] for k in Noisy().state_dict()} for o in (found.tickets[0].state, w_0)])
    for t in found.tickets: assert not differing(t.trained, masked(t.trained, t.masks))

def test_callbacks_of_the_learner(tmp_path):
    "The trained weights are those that the run ends with, here the best ones"
    def saving(): return learner(path=tmp_path, cbs=SaveModelCallback(monitor='valid_loss'))
    found = search(saving, lambda learn: learn.fit(4, lr=.3), rounds=2)
    for t in found.tickets:
        assert not differing(t.trained, masked(t.trained, t.masks))
        again = learner()
        t.trained_into(again.model)
        with again.no_bar(): loss = again.validate()[0]
        assert math.isclose(loss, found.table.query(f"metric=='valid_loss' and round=={t.meta['round']}").value.min(),
                            rel_tol=1e-5)

def split(m):
    return [list(m.stem.parameters()) + list(m.grouped.parameters()),
            [*m.up.parameters(), m.scale, *m.head.parameters()]]
def stopping(): return EarlyStoppingCallback(monitor='valid_loss', min_delta=100, patience=1)
def frozen():
    learn = learner(splitter=split)
    learn.freeze()
    return learn
def of_torch():
    return of(Noisy(),
              lambda: DataLoaders(*[torch.utils.data.DataLoader(o, 8, shuffle=o is train) for o in (train, valid)]))

def quietly(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
def in_two_steps(learn): learn.fit(1), learn.unfreeze(), learn.fit(1)

kinds = dict(fp16=(lambda: learner().to_fp16(), fit), channels_last=(lambda: learner().to_channelslast(), fit),
    groups=(lambda: learner(splitter=split), lambda learn: learn.fit_one_cycle(2, slice(1e-3,1e-2))),
    frozen=(frozen, fit), tuned=(frozen, lambda learn: learn.fine_tune(1, freeze_epochs=1)),
    thawed=(frozen, in_two_steps), graph=(lambda: learner(cbs=ShowGraphCallback), fit),
    graph_in_fit=(learner, lambda learn: learn.fit(2, cbs=ShowGraphCallback())), quiet=(learner, quietly),
    early=(lambda: learner(cbs=stopping()), lambda learn: learn.fit(5)), mixup=(lambda: learner(cbs=MixUp), fit),
    accumulated=(lambda: learner(cbs=GradientAccumulation(16)), fit),
    parallel=(lambda: of(nn.DataParallel(Noisy())), fit),
    compiled=(lambda: of(torch.compile(Noisy(), backend='eager')), fit), torch=(of_torch, fit))

@pytest.mark.parametrize('kind', kinds)
@pytest.mark.filterwarnings('ignore:.*(CUDA|autocast|GradScaler|lr_scheduler)')
def test_learners_of_all_kinds(kind, tmp_path):
    make, train_it = kinds[kind]
    found = search(make, train_it, rounds=2, rewind='3it')
    search(make, train_it, rounds=1, rewind='3it', dir=tmp_path)
    assert not different(found, search(make, train_it, rounds=2, rewind='3it', dir=tmp_path))
    assert list(found.summary().step)==[8,11,11] # W_t was trained for 3 steps
    for t in found.tickets:
        assert not differing(t.trained, masked(t.trained, t.masks))
        assert not differing(t.state, masked(found.tickets[0].state, t.masks))

def test_a_learner_without_recorder_and_bar():
    found = search(lambda: learner(default_cbs=False, cbs=TrainEvalCallback), rounds=1)
    assert len(found.table)==0 and repr(found)=='Search(1 round after the dense one, 80.00 % of the weights left)'
    with pytest.raises(ArgumentError, match='expected one that was measured: none was'): found.best()

# What comes back

def test_the_table_is_what_the_recorder_measured():
    values = []
    def noting(learn):
        fit(learn)
        values.append([list(o) for o in learn.recorder.values])
    found = search(fit=noting)
    df = found.table
    assert list(df)==table_columns and not df.isna().any(axis=None)
    wide = df.pivot(index=['round','epoch','step'], columns='metric',
                    values='value')[['train_loss','valid_loss','accuracy']]
    assert wide.values.tolist()==[row for rows in values for row in rows]
    assert list(wide.index)==[(r,e,4*(e+1)) for r in range(4) for e in (0,1)]
    last = found.summary()
    assert list(last.index)==[('dense',0), ('ticket',1), ('ticket',2), ('ticket',3)]
    assert list(last)==['density','epoch','step','train_loss','valid_loss','accuracy']
    assert last.iloc[:,3:].values.tolist()==[rows[-1] for rows in values]
    assert list(last.density)==[t.density for t in found.tickets]
    assert as_table(found.tickets[2].meta['table']).equals(df[df['round']<=2])

def test_a_ticket_tells_its_search():
    meta = search(rewind=1, method='local', prune={'head': 10}, layers=nn.Linear).tickets[2].meta
    told = dict(arm='ticket', round=2, seed=0, seeds=dict(search=0, data=None),
                prune=dict(head=10.), rewind=1, method='local',
                granularity='weight', criteria='large_final', layers=['head.weight'])
    assert {k: meta[k] for k in told}==told and set(meta['versions'])=={'python','lottery_nb','torch','fastai'}
    assert meta['shapes']=={k: list(t.shape) for k,t in named_tensors(Noisy()).items()}
    assert json.loads(json.dumps(meta))==meta

def made(*values, metric='accuracy'):
    "A search made by hand, in which the last epoch of each round came to these values"
    density = [100*.8**i for i in range(len(values))]
    rows = [dict(arm='ticket' if r else 'dense', seed=0, round=r, density=d,
                 epoch=e, step=4*e+4, metric=metric, value=v if e else 0.)
            for r,(d,v) in enumerate(zip(density, values)) for e in (0,1)]
    masks = [Masks({'weight': torch.arange(1000)<10*d}) for d in density]
    return Search([Ticket(m, {'weight': torch.ones(1000)}, meta=dict(round=r, table=[o for o in rows if o['round']<=r]))
                   for r,m in enumerate(masks)])

def round_of(ticket): return ticket and ticket.meta['round']

@pytest.mark.parametrize('values, kwargs, expected', [((.9,.95,.93), {}, 1),
    ((.95,.95,.93), {}, 1), ((.99,.95,.93), {}, 0), ((.9,math.nan,.93), {}, 2),
    ((.9,math.nan), {}, 0), ((.5,.2,.3), dict(metric='valid_loss'), 1), ((.5,.2,.2), dict(metric='error_rate'), 2),
    ((.5,.2,.3), dict(metric='mse', lower_is_better=True), 1), ((.5,.2,.3), dict(metric='mse'), 0),
    ((.5,.2,.3), dict(metric='valid_loss', lower_is_better=False), 0)])
def test_the_best(values, kwargs, expected):
    how = {'metric': 'accuracy', **kwargs}
    assert round_of(made(*values, metric=how['metric']).best(**how))==expected

@pytest.mark.parametrize('values, kwargs, expected',
                         [((.9,.95,.93), {}, 2), ((.9,.95,.89), {}, 1), ((.9,.89,.9), {}, 2), ((.9,.89,.88), {}, None),
    ((.9,), {}, None), ((.9,.89,.88), dict(tolerance=.01), 1), ((.98,.97,.96), dict(tolerance=.02), 2),
    ((.9,math.nan), dict(tolerance=1), None),
    ((math.nan,.9), {}, None), ((.3,.2,.31), dict(metric='valid_loss'), 1),
    ((.3,.31,.4), dict(metric='valid_loss', tolerance=.01), 1),
    ((3,2,4), dict(metric='mae', lower_is_better=True), 1)])
def test_the_sparsest_that_matches(values, kwargs, expected):
    how = {'metric': 'accuracy', **kwargs}
    assert round_of(made(*values, metric=how['metric']).matching(**how))==expected

def test_metrics_that_were_not_measured():
    for f in (Search.best, Search.matching, Search.plot):
        for metric in ('f1', 'density', 'step'):
            with pytest.raises(ArgumentError, match=f"metric='{metric}': expected one that was measured: accuracy"):
                f(made(.9, .9), metric)
    with pytest.raises(ArgumentError, match='a number in some round'): made(math.nan, math.nan).best()
    with pytest.raises(ArgumentError, match='tolerance='): made(.9, .9).matching(tolerance=-.1)
    assert repr(Search())=='Search(no run is finished)' and len(Search().table)==0

# The masks of the rounds

def of_masks(*rounds):
    "A search whose tickets keep these places of two layers, the first all of them"
    shape = dict(a=torch.Size([4]), b=torch.Size([2,3]))
    def ticket(r, kept):
        masks = Masks({k: torch.tensor([f'{k}{i}' in kept for i in range(s.numel())]).view(s) for k,s in shape.items()})
        return Ticket(masks, {k: torch.ones(s) for k,s in shape.items()}, meta=dict(round=r))
    everywhere = [f'{k}{i}' for k,s in shape.items() for i in range(s.numel())]
    return Search([ticket(r, kept) for r,kept in enumerate([everywhere, *rounds])])

def test_composition():
    df = of_masks(['a0','a1','a2','b4'], ['a0','b4'], []).composition()
    assert df.to_dict('list')==dict(a=[40, 75, 50, 0], b=[60, 25, 50, 0]) and df.index.name=='round'

def test_distances_of_two_searches():
    one, two = of_masks(['a0','a1','a2','b4'], ['a0','b4']), of_masks(['a0','a3','b4','b5'])
    df = one.distances(two).set_index(['round_a','round_b'])
    assert list(df.index)==[(a, b) for a in range(3) for b in range(2)] and list(df)[0]=='weights'
    assert df.loc[(1, 1)].kept_both==2 and df.loc[(1, 1)].iou==2/6 and df.loc[(1, 1)].hamming==.4
    assert df.loc[(1, 1)].hamming_by_chance==pytest.approx((3+2-2*3*2/4 + 1+2-2*1*2/6)/10)
    assert df.loc[(2, 0)].iou==.2==df.loc[(2, 0)].iou_by_chance
    own = one.distances()
    iou = own.pivot(index='round_a', columns='round_b', values='iou').to_numpy()
    assert iou.shape==(3, 3) and (iou==iou.T).all()
    assert (own.query('round_a==round_b').iou==1).all() and own.iloc[1].iou==own.iloc[1].iou_by_chance==.4
    for k in ('iou','hamming'):
        found, chance = one.plot_distances(two, k).axes
        assert [float(o.get_text()) for o in found.texts]==df[k].round(2).tolist()
        assert chance.get_title()==f'{k} by chance'

def test_rounds_of_a_search_lie_inside_each_other():
    found = search()
    df = found.distances().query('round_a<=round_b')
    assert (df.kept_both==df.kept_b).all() and np.allclose(df.hamming, (df.kept_a-df.kept_b)/df.weights)
    assert found.composition().sum(axis=1).tolist()==pytest.approx([100]*4)
    ax = found.plot_composition()
    assert len(ax.collections)==len(found.tickets[0].masks) and ax.xaxis_inverted()
    assert Search().distances().empty and Search().composition().empty

def test_tickets_out_of_order_are_no_search():
    tickets = of_masks(['a0']).tickets
    for odd in (tickets[::-1], tickets[1:], [tickets[0]]*2):
        with pytest.raises(ArgumentError, match='tickets=.*expected a ticket of each round'): Search(odd)

def test_a_search_without_tickets_has_nothing_to_draw():
    for draw in (Search().plot_composition, Search().plot_distances):
        with pytest.raises(ArgumentError, match=r'tickets=\[\]: expected at least one'): draw()

def test_distances_of_other_things():
    one, other = of_masks(['a0']), made(.9, .9)
    with pytest.raises(ArgumentError, match='masks of the same model: a: '): one.distances(other)
    with pytest.raises(TypeError, match='other=5: expected a Search'): one.distances(5)
    with pytest.raises(ArgumentError, match="measure='f1': expected one of iou, hamming"):
        one.plot_distances(measure='f1')

# --- The test part

def test_a_test_part_is_measured_and_never_chosen_on():
    plain = search(arms='reinit')
    tested = search(lambda: of(Noisy(), dls_with_test), arms='reinit')
    ours = tested.table.metric.str.startswith('test_')
    pd.testing.assert_frame_equal(tested.table[~ours].reset_index(drop=True), plain.table)
    assert ours.sum()==2*len(tested.runs()) and {*tested.summary()}-{*plain.summary()}=={'test_loss','test_accuracy'}
    for t in tested.runs():
        learn = of(Noisy(), dls_with_test)
        t.trained_into(learn.model)
        with learn.no_bar(), learn.no_logging(): says = list(learn.validate(2))
        assert tested.summary().loc[t.meta['arm'], t.meta['round']][['test_loss','test_accuracy']].tolist()==says
    assert tested.best() is tested.tickets[plain.best().meta['round']]
    with pytest.raises(ArgumentError, match='one of the validation part'): tested.best('test_accuracy')
    with pytest.raises(ArgumentError, match='one of the validation part'): tested.matching('test_loss')

def test_the_report_says_which_part_chose_and_which_reports():
    tested = search(lambda: of(Noisy(), dls_with_test))
    r,rounds = tested.report('valid_loss', tolerance=9),tested.rounds()
    assert list(r.index)==['dense','best','matching'] and r['round'].tolist()[::2]==[0,3]
    assert r.chosen.tolist()==rounds.valid_loss[r['round']].tolist() and r.chosen.min()==rounds.valid_loss.min()
    assert r.reported.tolist()==rounds.test_loss[r['round']].tolist()
    assert set(r.chosen_on)=={'valid'} and set(r.reported_on)=={'test'}
    alone = search().report()
    assert set(alone.reported_on)=={'valid'} and alone.reported.equals(alone.chosen)

def test_a_search_with_a_test_part_goes_on(tmp_path):
    def learner(): return of(Noisy(), dls_with_test)
    whole = search(learner)
    search(learner, rounds=1, dir=tmp_path/'a')
    assert not different(search(learner, dir=tmp_path/'a'), whole)
    with pytest.raises(SearchError, match='data'): search(dir=tmp_path/'a')

@pytest.mark.parametrize('kind', ['sampler','weighted','batches'])
def test_a_sampler_with_random_numbers_of_its_own(tmp_path, kind):
    "They begin anew in every round, so a search that was stopped goes on to the same bits"
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, WeightedRandomSampler
    def made():
        gen = torch.Generator().manual_seed(1)
        if kind=='weighted': how = dict(batch_size=8, sampler=WeightedRandomSampler([1.]*32, 32, generator=gen))
        else: how = dict(batch_size=8, sampler=RandomSampler(train, generator=gen))
        if kind=='batches': how = dict(batch_sampler=BatchSampler(how['sampler'], 8, False))
        dls = DataLoaders(DataLoader(train, **how), DataLoader(valid, batch_size=8)) # once, for all rounds
        return lambda: of(ConvNet(), lambda: dls)
    def until_the_third(learn):
        fits.append(1)
        if len(fits)==3: raise KeyboardInterrupt
        learn.fit(1)
    (begun,fits),whole = (made(),[]),search(made(), one_epoch)
    with pytest.raises(KeyboardInterrupt): search(begun, until_the_third, dir=tmp_path/'a')
    assert not different(whole, search(begun, until_the_third, dir=tmp_path/'a'))
