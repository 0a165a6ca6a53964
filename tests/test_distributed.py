"""Several processes that train one network: masks, rewind points and tickets that are the same in all of them,
and errors that end them all.

The processes are started one by one, not by torchrun, which would end the others when one fails:
whoever waits for good here is a failure."""
import hashlib, io, json, os, random, signal, subprocess, sys, time, warnings
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pytest, torch
from torch import nn

me = Path(__file__).resolve()
sys.path.insert(0, str(me.parent))
from models import ConvNet, bits, mlp  # noqa: E402

from lottery_nb.distributed import RankError, Ranks, all_ranks, mended_fastai, ranks_of  # noqa: E402

# --- what runs in each process ----------------------------------------------------------------------------------------

def _tensors(tensors):
    return {k: hashlib.sha256(bits(t).numpy().tobytes()).hexdigest() for k,t in (tensors or {}).items()}

def _ticket(t):
    return dict(masks=t.masks.digest(), state=_tensors(t.state), trained=_tensors(t.trained),
                full=_tensors(t.full), meta=t.meta)

def _learner(model=mlp, bs=64, **kwargs):
    from fastai.learner import Learner
    from fastai.metrics import accuracy
    from lottery_nb.data import digits_dls
    return Learner(digits_dls(bs).cpu(), model(), metrics=accuracy, **kwargs)

def _callback(*args, criteria='large_final', method='global', **kwargs):
    from lottery_nb.callback import SparsifyCallback
    end,schedule = args
    return SparsifyCallback(end, 'weight', method, criteria, schedule, **kwargs)

def _shared_fit(learn, n, *cbs, quiet=True, **kwargs):
    from contextlib import nullcontext
    with learn.no_bar(), learn.no_logging() if quiet else nullcontext(), learn.distrib_ctx(sync_bn=False, **kwargs):
        learn.fit(n, cbs=list(cbs))

def _watcher(**events):
    "A callback that runs around the SparsifyCallback"
    from fastai.callback.core import Callback
    order = events.pop('order', 56)
    return type('Watch', (Callback,), dict(order=order, run_valid=False, **events))()

class Each:
    "Notes the digest of the masks at every batch"
    def __init__(self): self.seen = []
    def cb(self): return _watcher(after_batch=lambda cb: self.seen.append(cb.learn.sparsify.masks.digest()))

def gradual(ranks, tmp):
    """fastai's `DistributedDL` says 7 batches and gives 6;
    the last mask has to be the one that was asked for all the same"""
    each,sp_cb = Each(),_callback(80, 'agp', update_every=2)
    learn = _learner(bs=110)
    first = _tensors(dict(learn.model.named_parameters()))
    _shared_fit(learn, 3, sp_cb, each.cb(), quiet=False)
    return dict(seen=each.seen, kept=sp_cb.masks.n_kept, ticket=_ticket(sp_cb.ticket),
                model=_tensors(learn.model.state_dict()),
                first=first, column=[o[3] for o in learn.recorder.values], values=learn.recorder.values)

def expected(ranks, tmp):
    "The masks are those of an independent ranking of the weights at that moment"
    seen = {}
    def before_batch(cb):
        if cb.epoch==1 and not cb.iter:
            seen.update({k: p.detach().clone() for k,p in cb.learn.model.module.named_parameters() if p.dim()>1})
    sp_cb = _callback(37, 'one_shot', start_epoch=1)
    _shared_fit(_learner(), 2, _watcher(order=54, before_batch=before_batch), sp_cb)
    flat = np.concatenate([w.numpy().ravel() for w in seen.values()])
    kept = np.ones(len(flat), bool)
    kept[np.argsort(np.abs(flat), kind='stable')[:round(.37*len(flat))]] = False
    ours = np.concatenate([sp_cb.masks[k].numpy().ravel() for k in seen])
    return dict(same=bool((kept==ours).all()), masks=sp_cb.masks.digest())

def lucky(ranks, tmp):
    "A criterion that draws from the random numbers of the process"
    from lottery_nb.criteria import criterion
    @criterion
    def luck(w): return torch.rand(w.shape)*float(np.random.rand())*random.random()
    each,sp_cb = Each(),_callback(60, 'iterative', criteria=luck)
    _shared_fit(_learner(), 3, sp_cb, each.cb())
    fixed = _callback(60, 'one_shot', criteria='random')
    _shared_fit(_learner(), 1, fixed)
    return dict(seen=each.seen, fixed=fixed.masks.digest(),
                drawn=[torch.rand(()).item(), np.random.rand(), random.random()])

def gradients(ranks, tmp):
    each,sp_cb = Each(),_callback(70, 'iterative', criteria='taylor', method='local', lth=True)
    _shared_fit(_learner(), 3, sp_cb, each.cb())
    return dict(seen=each.seen, ticket=_ticket(sp_cb.ticket))

def from_data(ranks, tmp):
    "Each process has batches and statistics of its own; the scores are of the same batches, and of rank 0's statistics"
    import lottery_nb.calibration # noqa: F401, its criteria
    def before_batch(cb): cb.learn.model.module.stem[1].running_mean[:4] = 3*ranks.rank
    seen = []
    for criteria in ('wanda','fisher'):
        each,sp_cb = Each(),_callback(70, _iterative(2), criteria=criteria, start_epoch=1, lth=True)
        _shared_fit(_learner(ConvNet), 3, _watcher(order=54, before_batch=before_batch), sp_cb, each.cb())
        seen += [each.seen, _ticket(sp_cb.ticket)['masks']]
    return seen

def rewinding(ranks, tmp):
    "BatchNorm's statistics are of each process, but what is rewound is the same"
    from lottery_nb.masks import named_tensors
    own,right,saved = [],[],[]
    def before_batch(cb):
        sp = cb.learn.sparsify.sparsifier
        if cb.epoch in (2,3) and not cb.iter:
            now,then = named_tensors(cb.learn.model),sp.snapshot
            right.append(all(torch.equal(now[k], then[k]*sp.masks[k] if k in sp.masks else then[k]) for k in then))
            saved.append(_tensors(then))
    def after_pred(cb):
        if cb.learn.training: own.append(_tensors(dict(cb.learn.model.module.named_buffers())))
    sp_cb = _callback(75, _iterative(2), start_epoch=2, lth=True, rewind_epoch=1, rewind_opt='restore', reset_end=True)
    learn = _learner(ConvNet)
    _shared_fit(learn, 4, sp_cb, _watcher(before_batch=before_batch, after_pred=after_pred))
    last = sp_cb.table.groupby('round').epoch.max()
    return dict(own=own, right=right, saved=saved, ticket=_ticket(sp_cb.ticket),
                model=_tensors(named_tensors(learn.model)), last=last.tolist())

def own_statistics(ranks, tmp):
    "The same if `DistributedDataParallel` is told to leave BatchNorm's statistics as they are in each process"
    from accelerate import DistributedDataParallelKwargs
    from lottery_nb.masks import named_tensors
    sp_cb,learn = _callback(75, 'one_shot', start_epoch=1, lth=True, rewind_epoch=1),_learner(ConvNet)
    _shared_fit(learn, 3, sp_cb, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    return dict(ticket=_ticket(sp_cb.ticket), own=_tensors(named_tensors(learn.model)))

def _iterative(n):
    from lottery_nb.schedules import iterative
    return iterative(n_steps=n)

def again(ranks, tmp):
    "A second fit goes on with the masks, and HoldMasks holds them"
    from lottery_nb.callback import HoldMasks
    sp_cb,learn = _callback(50, 'one_shot'),_learner()
    _shared_fit(learn, 1, sp_cb)
    found = sp_cb.masks.digest()
    _shared_fit(learn, 1, sp_cb)
    _shared_fit(learn, 1, HoldMasks(sp_cb.sparsifier))
    return dict(found=[found, sp_cb.masks.digest()],
                zero=int(learn.model[1].weight[~sp_cb.masks['1.weight']].count_nonzero()))

def _error(fn):
    try: fn()
    except Exception as e:
        return [type(e).__name__, str(e), getattr(e, '__notes__', []),
                len(e.search.tickets) if hasattr(e, 'search') else None]

def _meddle(ranks):
    def before_batch(cb):
        if cb.epoch==1 and not cb.iter and ranks.rank==1: cb.learn.model.module[3].weight.data[0] += 100
    return _watcher(order=54, before_batch=before_batch)

def differs(ranks, tmp):
    return _error(lambda: _shared_fit(_learner(), 2, _callback(50, 'one_shot', start_epoch=1), _meddle(ranks)))

def other_settings(ranks, tmp):
    layers = _error(lambda: _shared_fit(_learner(), 2, _callback(50, 'one_shot', layers=['1','3'][:2-ranks.rank])))
    return [_error(lambda: _shared_fit(_learner(), 2, _callback(50+10*ranks.rank, 'one_shot'))), layers]

def other_masks(ranks, tmp):
    from lottery_nb.callback import HoldMasks
    from lottery_nb.sparsifier import Sparsifier
    learn = _learner()
    sp = Sparsifier(learn.model)
    sp.sparsify(50+ranks.rank)
    return _error(lambda: _shared_fit(learn, 1, HoldMasks(sp)))

def one_fails(ranks, tmp):
    from lottery_nb.criteria import criterion
    @criterion
    def fragile(w):
        if ranks.rank==1: raise KeyError('no such score')
        return w.final.abs()
    return _error(lambda: _shared_fit(_learner(), 2, _callback(50, 'one_shot', criteria=fragile)))

def too_few(ranks, tmp):
    return _error(lambda: _shared_fit(_learner(bs=1000), 1, _callback(50, 'one_shot')))

def collapses(ranks, tmp):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        _shared_fit(_learner(), 1, _callback(100, 'one_shot'))
    return [str(o.message) for o in said if 'layer collapse' in str(o.message)]

def _search_fit(learn):
    with learn.distrib_ctx(sync_bn=False): learn.fit(2)

def _find(dir=None, fit=_search_fit, model=ConvNet, **kwargs):
    from lottery_nb.find import find_ticket
    return find_ticket(lambda: _learner(model), fit,
                       **{'rounds': 2, 'prune': 30, 'rewind': '5it', 'dir': dir, 'progress': False, **kwargs})

def _found(search):
    return dict(tickets=[_ticket(t) for t in search.runs()], settings=search.settings, table=search.table.to_csv())

def search(ranks, tmp):
    found = _found(_find(tmp/'search', arms=['reinit','random'], progress=True))
    return dict(found=found, nowhere=_found(_find(arms=['reinit','random'])),
                read=_found(_find(tmp/'search', arms=['reinit','random'])),
                fewer=len(_find(tmp/'search', rounds=1).runs()))

def searches(ranks, tmp):
    from lottery_nb.criteria import criterion
    @criterion(needs=('grad','init','previous'))
    def odd(w): return (w.grad*w.final).abs()*torch.rand(w.shape) + (w.final-w.init).abs() + (w.final-w.previous).abs()
    def dropping(): return nn.Sequential(nn.Flatten(), nn.Dropout(.2), nn.Linear(64,32), nn.ReLU(), nn.Linear(32,10))
    return [_found(_find(criteria='taylor', rewind=1, rounds=1)),
            _found(_find(criteria=odd, model=dropping, rewind='lr'))]

def staying(ranks, tmp):
    "Pruned weights that aren't 0, in a search that goes on"
    return [_found(_find(dir, rounds=r, criteria='movement', pruned_to='init', arms='signs'))
            for dir,r in ((tmp/'staying',1), (tmp/'staying',2), (None,2))]

def trackers(ranks, tmp):
    "A metric that fastai doesn't gather: it rises on rank 1, and falls on rank 0"
    from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
    from fastai.learner import Metric
    class Own(Metric):
        name = 'own'
        value = None
        def reset(self): pass
        def accumulate(self, learn): self.value = (ranks.rank-.5)*learn.epoch
    def followed(cb, **kwargs):
        epochs = []
        def fit(learn):
            learn.path,learn.metrics = tmp,[Own()]
            with learn.distrib_ctx(sync_bn=False): learn.fit(4, cbs=cb('own', comp=np.less, **kwargs))
            epochs.append(learn.epoch)
        return dict(found=_found(_find(fit=fit, rounds=1)), epochs=epochs)
    with redirect_stdout(io.StringIO()): # on which trackers of every rank speak
        return [followed(SaveModelCallback), followed(EarlyStoppingCallback, patience=1)]

def search_errors(ranks, tmp):
    import resource
    def alone(learn): learn.fit(1)
    def strange(): return _find(prune=20+ranks.rank)
    def one_learner():
        from lottery_nb.find import find_ticket
        def learner():
            if ranks.rank==1: raise FileNotFoundError('no such data')
            return _learner()
        find_ticket(learner, _search_fit, rounds=1)
    told = dict(alone=_error(lambda: _find(fit=alone)), strange=_error(strange),
                other=_error(lambda: _find(tmp/'search', prune=40)),
                learner=_error(one_learner))
    count,limits = [],resource.getrlimit(resource.RLIMIT_FSIZE)
    def filling(learn):
        count.append(1)
        _search_fit(learn)
        if len(count)==2: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try: told['full'] = _error(lambda: _find(tmp/'full', fit=filling))
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return told | dict(here=_files(tmp/'full'))

def _files(folder): return sorted(o for o in os.listdir(folder) if o!='.lock')

def killed(ranks, tmp):
    "Killed in the third round, if it isn't called again: then it goes on with the same search"
    count = []
    def dies(cb):
        if len(count)==3 and cb.epoch==1: os.kill(os.getpid(), signal.SIGKILL)
    def fit(learn):
        count.append(1)
        learn.add_cb(_watcher(after_batch=dies))
        _search_fit(learn)
    return dict(found=_found(_find(tmp/'killed', fit=fit)), trained=len(count))

def uncaught(ranks, tmp): _shared_fit(_learner(), 2, _callback(50, 'one_shot', start_epoch=1), _meddle(ranks))

def _without_search(told):
    "Of a ticket all but which search it is of: another `fit` is another search"
    return told | dict(meta={k: v for k,v in told['meta'].items() if k!='search'})

def single(ranks, tmp):
    "With one process, plain training and shared training are the same thing"
    def train(shared):
        torch.manual_seed(3)
        learn,sp_cb = _learner(ConvNet),_callback(75, 'iterative', start_epoch=1, lth=True, criteria='movement')
        if shared: _shared_fit(learn, 4, sp_cb)
        else:
            with learn.no_bar(), learn.no_logging(): learn.fit(4, cbs=sp_cb)
        return dict(ticket=_ticket(sp_cb.ticket), model=_tensors(learn.model.state_dict()),
                    values=learn.recorder.values)
    from lottery_nb.find import find_ticket
    found = [find_ticket(lambda: _learner(ConvNet), fit, rounds=1, progress=False)
             for fit in (lambda learn: learn.fit(2), _search_fit)]
    return [train(False), train(True), *[[_without_search(_ticket(t)) for t in o.tickets] for o in found]]

def spread(ranks, tmp):
    """Masks of a whole network, held after `fully_shard`, beside the same network whole: what is equal, what is 0,
    and what is refused"""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from lottery_nb.all import Masks, Sparsifier, Ticket
    mesh = init_device_mesh('cpu', (ranks.n,))
    def made():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8,15), nn.LayerNorm(15), nn.ReLU(), nn.Linear(15,3), nn.Linear(3,1))
    def pruned(**how):
        sp = Sparsifier(made(), **how)
        sp.sparsify(60)
        return sp
    def train(sp, opt, n=4):
        for i in range(n):
            opt.zero_grad()
            x = torch.randn(4, 8, generator=torch.Generator().manual_seed(i)) # the same in every process
            (sp.model(x)-1).square().mean().backward()
            opt.step()
    def full(t): return t.full_tensor() if hasattr(t, 'full_tensor') else t
    def equal(a, b): return all(torch.allclose(full(p), q, atol=1e-6) for p,q in zip(a.parameters(), b.parameters()))
    def told(fn):
        try: fn()
        except ValueError as e: return str(e)
    def held(opt_func, **how):
        sp,whole,found = pruned(**how),pruned(**how),{}
        for m in (sp.model[0], sp.model[3], sp.model): fully_shard(m, mesh=mesh)
        opt,opt_whole = (opt_func(o.model.parameters()) for o in (sp, whole))
        sp.save_weights(), whole.save_weights()
        sp.watch(opt), whole.watch(opt_whole)
        train(sp, opt), train(whole, opt_whole)
        found['same'] = [equal(sp.model, whole.model)]
        for k,m in sp.masks.items():
            w,rest = sp.weight(k),whole.weight(k)[~m]
            found.setdefault('pruned', []).append(torch.equal(full(w)[~m], rest) and (bool(how) or not rest.any()))
            found.setdefault('gradient', []).append(not full(w.grad)[~m].any() and bool(full(w.grad)[m].any()))
        sp.rewind(opt), whole.rewind(opt_whole)
        found['rewound'] = [equal(sp.model, whole.model)]
        train(sp, opt), train(whole, opt_whole)
        found['again'] = [equal(sp.model, whole.model)]
        return found
    sgd,adam = (lambda o: torch.optim.SGD(o, .1, momentum=.9, weight_decay=.1)),(lambda o: torch.optim.AdamW(o, .05))
    sp = pruned()
    sp.save_weights()
    fully_shard(sp.model, mesh=mesh)
    before,masks = [full(p).clone() for p in sp.model.parameters()],sp.masks
    ways = dict(again=lambda: sp.sparsify(70), rewind=sp.rewind, new=lambda: Sparsifier(sp.model),
                read=lambda: Masks.from_model(sp.model), lost=lambda: masks.lost_in(sp.model),
                ticket=lambda: Ticket(masks, dict(sp.model.named_parameters())))
    says = {k: told(fn) for k,fn in ways.items()}
    kept = all(torch.equal(full(p), q) for p,q in zip(sp.model.parameters(), before))
    net = made()
    fully_shard(net, mesh=mesh)
    masks.apply_(net)
    applied = [torch.equal(full(net.get_parameter(k)), made().get_parameter(k)*m) for k,m in masks.items()]
    return dict(held=[held(adam), held(sgd), held(adam, granularity='row'), held(adam, pruned_to='init')],
                says=says, kept=kept, applied=applied)

def main(rank, n, tmp, *scenarios):
    "Runs the scenarios in this process, and stores what each gives"
    torch.set_num_threads(1)
    torch.manual_seed(rank), np.random.seed(rank), random.seed(rank)
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp}/store', rank=rank, world_size=n)
    from accelerate import PartialState
    PartialState(cpu=True)
    ranks = all_ranks()
    for name in scenarios:
        result = globals()[name](ranks, tmp)
        (tmp/f'{name}.{rank}.json').write_text(json.dumps(result, default=list))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()

# --- what starts them and looks at what came out ----------------------------------------------------------------------

def launch(tmp, n, *scenarios, seconds=400):
    "Exit codes, outputs and errors of `n` processes, none of which may take longer than so many `seconds`"
    (tmp/'store').unlink(missing_ok=True)
    env = {**os.environ, 'WORLD_SIZE': str(n), 'LOCAL_WORLD_SIZE': str(n),
           'OMP_NUM_THREADS': '1', 'ACCELERATE_USE_CPU': 'true', 'PYTHONWARNINGS': 'ignore'}
    files = [[open(tmp/f'{name}.{r}', 'w+') for name in ('out','err')] for r in range(n)]
    processes = [subprocess.Popen([sys.executable, str(me), str(r), str(n), str(tmp), *scenarios],
                                  stdout=files[r][0], stderr=files[r][1],
                                  env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r)}) for r in range(n)]
    until = time.monotonic()+seconds
    try:
        for p in processes: p.wait(max(0, until-time.monotonic()))
        hung = []
    except subprocess.TimeoutExpired: hung = [r for r,p in enumerate(processes) if p.poll() is None]
    finally:
        for p in processes: p.kill(), p.wait()
    texts = []
    for pair in files:
        texts.append([f.seek(0) or f.read() for f in pair])
        for f in pair: f.close()
    assert not hung, f'still running after {seconds} s: {hung}\n' + '\n'.join(err[-2000:] for _,err in texts)
    return SimpleNamespace(codes=[p.returncode for p in processes], out=[o for o,_ in texts], err=[e for _,e in texts])

def results(tmp, name, n=2): return [json.loads((tmp/f'{name}.{r}.json').read_text()) for r in range(n)]

trainings = ('gradual','expected','lucky','gradients','from_data','rewinding','own_statistics','again','collapses')
refusals = ('differs','other_settings','other_masks','one_fails','too_few')
found_by = ('search','searches','staying','trackers','search_errors')

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    "Two processes that have run all scenarios, the last of which ends them with an error"
    tmp = tmp_path_factory.mktemp('two')
    done = launch(tmp, 2, *trainings, *refusals, *found_by, 'uncaught', seconds=600)
    have = [name for name in (*trainings, *refusals, *found_by) if (tmp/f'{name}.0.json').exists()
            and (tmp/f'{name}.1.json').exists()]
    assert len(have)==len(trainings+refusals+found_by), '\n'.join([str(have), *(o[-3000:] for o in done.err)])
    return SimpleNamespace(tmp=tmp, **vars(done), get=lambda name: results(tmp, name))

@pytest.fixture(scope='module')
def after_kill(tmp_path_factory):
    "Two processes killed in the last round of a search, and two that go on with it"
    tmp = tmp_path_factory.mktemp('killed')
    first = launch(tmp, 2, 'killed')
    files = _files(tmp/'killed')
    return SimpleNamespace(first=first, files=files, then=launch(tmp, 2, 'killed'),
                           found=results(tmp, 'killed'), now=_files(tmp/'killed'))

def test_masks_are_the_same_at_every_batch(two):
    a,b = two.get('gradual')
    assert a['seen']==b['seen'] and len(set(a['seen']))>4 and len(a['seen'])==3*6
    assert a['kept']==50_200-round(.8*50_200)
    assert a['first']!=b['first'] and a['model']==b['model'] and a['ticket']==b['ticket']
    assert a['column']==b['column'] and a['column'][-1]==80 and a['values']==b['values']

def test_masks_are_those_of_the_weights(two):
    a,b = two.get('expected')
    assert a['same'] and b['same'] and a['masks']==b['masks']

def test_random_scores_agree_and_luck_stays_ones_own(two):
    a,b = two.get('lucky')
    assert a['seen']==b['seen'] and len(set(a['seen']))==3 and a['fixed']==b['fixed']
    assert all(x!=y for x,y in zip(a['drawn'], b['drawn']))

def test_gradients_are_averaged(two):
    a,b = two.get('gradients')
    assert a==b and len(set(a['seen']))>=3

def test_scores_from_data_are_those_of_rank_0(two):
    a,b = two.get('from_data')
    assert a==b and len(set(a[0]))>=3 and a[1]!=a[3]

def test_rewinding_with_batchnorm(two):
    a,b = two.get('rewinding')
    assert any(x!=y for x,y in zip(a['own'], b['own'])) # or there would be nothing to agree on
    assert a['right']==b['right']==[True,True] and a['saved']==b['saved'] and a['saved'][0]==a['saved'][1]
    assert a['ticket']==b['ticket'] and a['model']==b['model']
    assert a['ticket']['meta']['data']==dict(loader='WholeDL', n_train=1437, n_valid=360)
    assert a['last']==[1,1,1] # each ticket begins with the weights of epoch 1

def test_the_ticket_has_the_statistics_of_rank_0(two):
    a,b = two.get('own_statistics')
    assert a['ticket']==b['ticket'] and a['own']!=b['own']
    assert a['ticket']['trained']['stem.1.running_mean']==a['own']['stem.1.running_mean']

def test_a_second_fit_goes_on(two):
    a,b = two.get('again')
    assert a==b and len(set(a['found']))==1 and a['zero']==0

def test_only_rank_0_speaks(two):
    assert not [o for o in two.out[1].splitlines() if not o.startswith('[Gloo]')] # which PyTorch 2.8 writes there
    for line in ('Pruning of weight until a sparsity of 80%', 'Sparsity at the end of epoch 2: 80.00%',
                 'Final Sparsity: 80.00'):
        assert two.out[0].count(line)==1
    assert two.get('collapses')[0] and two.get('collapses')[1]==[]

def test_a_search_with_pruned_weights_that_stay_goes_on(two):
    a,b = two.get('staying')
    assert a==b and a[1]==a[2] and len(a[1]['tickets'])==5

def test_a_rank_that_differs_is_named_everywhere(two):
    a,b = two.get('differs')
    assert a==b and a[0]=='RankError'
    assert 'masks: rank 1 differs from rank 0, first in 1.weight (in 3 of 3 tensors)' in a[1]
    assert all(code==1 for code in two.codes)
    assert all('masks: rank 1 differs from rank 0' in err for err in two.err) # the last scenario, which nobody caught

def test_other_settings_are_named_everywhere(two):
    (a,layers),(b,_) = two.get('other_settings')
    assert a==b and a[0]=='RankError' and 'SparsifyCallback: end_sparsity=60.0 on rank 1, but 50.0 on rank 0' in a[1]
    assert layers[0]=='RankError'
    assert "layers=['1.weight'] on rank 1, but ['1.weight', '3.weight'] on rank 0" in layers[1]
    a,b = two.get('other_masks')
    assert a==b and 'masks: rank 1 differs from rank 0' in a[1]

def test_an_error_on_one_rank_ends_all(two):
    a,b = two.get('one_fails')
    assert a[0]==b[0]=='KeyError' and 'no such score' in a[1]
    assert 'no such score' in b[1] and a[2]==['on rank 1'] and b[2]==[]
    a,b = two.get('too_few')
    assert a==b and 'expected training data for at least a batch in each of 2 processes' in a[1]

def test_search(two):
    a,b = two.get('search')
    assert a==b and a['found']==a['read'] and a['found']['tickets']==a['nowhere']['tickets'] and a['fewer']==2
    kept = [t['meta']['sparsity'] for t in a['found']['tickets']]
    arms = [t['meta']['arm'] for t in a['found']['tickets']]
    assert arms==['dense','ticket','ticket','reinit','reinit','random','random']
    assert kept[0]==0 and kept==pytest.approx([0,30,51,30,51,30,51], abs=.3)
    tickets = ['round_00', *(f'round_0{r}{arm}' for r in (1,2) for arm in ('.random','.reinit',''))]
    assert _files(two.tmp/'search')==[*(f'{o}.safetensors' for o in tickets), 'settings.json', 'table.csv']

def test_search_with_gradients_dropout_and_luck(two):
    a,b = two.get('searches')
    assert a==b

def test_trackers_agree(two):
    a,b = two.get('trackers')
    assert a==b and [o['epochs'] for o in a]==[[3,3]]*2 # rank 1 alone would have stopped in epoch 1

def test_search_errors(two):
    a,b = two.get('search_errors')
    assert a['alone']==b['alone'] and a['alone'][0]=='ArgumentError'
    assert 'expected training that all 2 processes share, with learn.distrib_ctx()' in a['alone'][1]
    assert a['strange']==b['strange'] and a['strange'][0]=='RankError'
    assert 'find_ticket: prune=21.0 on rank 1, but 20.0 on rank 0' in a['strange'][1]
    for o,notes in ((a,[]), (b,['on rank 0'])):
        assert o['other'][0]=='SearchError' and 'prune: 30.0 → 40.0' in o['other'][1] and o['other'][2]==notes
        assert o['full'][0]=='OSError' and 'round_01.safetensors' in o['full'][1]
        assert o['full'][2][:len(notes)]==notes and o['full'][3]==2
        assert o['learner'][0]=='FileNotFoundError' and 'no such data' in o['learner'][1]
        assert o['here']==['round_00.safetensors', 'settings.json', 'table.csv']

def test_a_killed_search_goes_on(two, after_kill):
    assert after_kill.first.codes==[-signal.SIGKILL]*2
    assert [o for o in after_kill.files if o.endswith('.safetensors')]==['round_00.safetensors', 'round_01.safetensors']
    a,b = after_kill.found
    assert after_kill.then.codes==[0,0] and a==b and a['trained']==1
    def known(tickets): return [_without_search(t) for t in tickets]
    assert known(a['found']['tickets'])==known(two.get('search')[0]['found']['tickets'])[:3]
    assert after_kill.now==['round_00.safetensors', 'round_01.safetensors',
                            'round_02.safetensors', 'settings.json', 'table.csv']

@pytest.mark.parametrize('n', [1, 2])
def test_masks_hold_where_weights_are_spread(n, tmp_path):
    done = launch(tmp_path, n, 'spread')
    assert done.codes==[0]*n, done.err[0][-3000:]
    found = results(tmp_path, 'spread', n)
    assert all(o==found[0] for o in found)
    for o in found[0]['held']:
        assert o.keys()=={'same','pruned','gradient','rewound','again'} and all(map(all, o.values()))
    assert found[0]['kept'] and found[0]['applied'] and all(found[0]['applied'])
    for k,says in found[0]['says'].items(): assert says and 'DTensor' in says and 'before fully_shard' in says, k

def test_one_process_is_the_plain_run(tmp_path):
    done = launch(tmp_path, 1, 'single')
    assert done.codes==[0], done.err[0][-3000:]
    plain,shared,found,found_shared = results(tmp_path, 'single', 1)[0]
    assert plain==shared and found==found_shared

def test_without_processes_nothing_is_sent(monkeypatch):
    def never(*args, **kwargs): raise AssertionError('something was sent')
    for name in ('all_gather_object','broadcast_object_list'): monkeypatch.setattr(torch.distributed, name, never)
    ranks,w,model = Ranks(),dict(w=torch.ones(2)),nn.Linear(2,2)
    assert all_ranks()==ranks_of(model)==ranks
    state = torch.get_rng_state()
    with ranks.as_first():
        ranks.check_same('w', w), ranks.agree_('w', w, model), ranks.check_equal('w', {}), ranks.share_(w)
    assert torch.equal(state, torch.get_rng_state()) and ranks.first(1)==1 and ranks.gather(1)==[1]

def python(code, **env):
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                          env={**os.environ, **env}, capture_output=True, text=True, timeout=400)

def test_it_is_in_all_and_only_several_processes_need_accelerate():
    code = ("import sys; sys.modules['accelerate'] = None; "
            "from lottery_nb.all import *; from lottery_nb.distributed import all_ranks; "
            "print('fastai.distributed' in sys.modules); all_ranks()")
    assert python(code, WORLD_SIZE='1').stdout=='False\n'
    done = python(code, WORLD_SIZE='2')
    assert done.stdout=='False\n'
    assert "ImportError: several processes need Accelerate: pip install 'lottery_nb[distributed]'" in done.stderr
    done = python(code.replace('all_ranks()', 'from fastai.learner import Learner; Learner.distrib_ctx(None)'))
    assert "pip install 'lottery_nb[distributed]'" in done.stderr

@pytest.mark.parametrize('n, bs, ranks, given',
                         [(1437,64,2,11), (1437,110,2,6), (1437,64,3,7), (10,5,2,1), (9,5,2,1), (7,4,2,1), (3,3,2,0)])
def test_batches_that_a_process_really_gets(n, bs, ranks, given):
    from fastai.data.load import DataLoader
    whole = DataLoader(list(range(n)), bs=bs, drop_last=True, num_workers=0)
    idxs = list(range(n)) + list(range(-n % ranks))
    assert len(mended_fastai().DistributedDL(whole, 0, ranks, device='cpu'))==given==len(idxs)//ranks//bs

class Told(Ranks):
    "The first of some ranks, whose others say what they are told to"
    def gather(self, value): return [value, *({k: repr(v) for k,v in o.items()} for o in self.group)]

def test_the_majority_is_right():
    with pytest.raises(RankError, match='it: b=1 on rank 0, but 2 on rank 1'):
        Told(3, 0, [dict(a=0, b=2)]*2).check_equal('it', dict(a=0, b=1))
    with pytest.raises(RankError, match='it: b=3 on rank 2, but 2 on rank 0'):
        Told(3, 0, [dict(a=0, b=2), dict(a=0, b=3)]).check_equal('it', dict(a=0, b=2))
    Told(3, 0, [dict(a=0)]*2).check_equal('it', dict(a=0))

if __name__=='__main__': main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
