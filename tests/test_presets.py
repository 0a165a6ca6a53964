"The papers' settings by name: what they say, that they can be used, and that both ways to train are one"
import copy
from functools import partial

import pytest, torch
from fastai.data.core import DataLoaders
from fastai.callback.progress import ProgressCallback # noqa: F401 (gives Learner its no_bar)
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lottery_nb.core import ArgumentError, source_of
from lottery_nb.curves import Curve, lottery_curve
from lottery_nb.data import digits_dls, networks
from lottery_nb.find import SearchError, find_ticket
from lottery_nb.papers import cite, papers_of
from lottery_nb.presets import Preset, ScheduledFit, but_output, preset, presets
from lottery_nb.sparsifier import find_layers
from lottery_nb.stacked import Recipe, flip, milestones, shift

def made_up(shape, n=20):
    "As many images as `bs` needs, in two parts"
    torch.manual_seed(0)
    return [(torch.randn(n, *shape), torch.arange(n)%10) for _ in range(2)]

@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 59), max_size=3, unique=True), st.sampled_from([.1, .2, .5]))
def test_milestones_are_pytorchs(at, factor):
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.)
    theirs,ours = torch.optim.lr_scheduler.MultiStepLR(opt, at, factor),[]
    for step in range(60):
        ours.append((milestones(step/60, at=tuple(o/60 for o in at), factor=factor), theirs.get_last_lr()[0]))
        opt.step(), theirs.step()
    assert all(a==pytest.approx(b) for a,b in ours)

def test_open_lths_rates():
    "0.1, and a tenth of it from epoch 80 and from epoch 120 of 160 on, at 391 steps an epoch"
    p = preset('cifar_resnet_20', model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(3,10)), augment=())
    r = Curve(**{**p, 'data': made_up((3,1,1), 128)})
    rates = [r.lr_at(epoch*391+i) for epoch,i in ((0,0), (80,-1), (80,0), (120,-1), (120,0), (160,-1))]
    assert rates==pytest.approx([.1, .1, .01, .01, .001, .001]) and r.n_step==160*391
    assert (r.opt, r.momentum, r.wd, r.prune, r.method)==('sgd', .9, 1e-4, 20, 'global')

def test_settings_say_a_partial_by_name():
    fn = partial(milestones, at=(.4,), factor=.5)
    r = Recipe(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3,10)), made_up((3,1,1)), bs=5, lr_schedule=fn)
    assert r.settings['lr_schedule']=='milestones(at=(0.4,), factor=0.5)' and r.lr_at(300)==pytest.approx(.6e-3)

def model_of(name):
    "The network of a preset, on small images where that's possible"
    size = 32 if 'vgg' in name else 16
    shape = [1,28,28] if presets[name]['data']=='mnist' else [3,size,size]
    return partial(networks[presets[name]['model']], shape, 10), shape

@pytest.mark.parametrize('name', ['lenet_300_100','mnist_lenet_300_100','conv2','conv6',
                                  'cifar_resnet_20','cifar_vgg_11'])
def test_every_kind_can_be_used(name):
    "Nothing is trained: a network in a stack is what it is alone, amounts and layers are there"
    model,shape = model_of(name)
    given = preset(name, model=model, data=made_up(shape), bs=16, seeds=1, rounds=3)
    c = Curve(**given)
    left_out = {'fc.weight'} if 'layers' in given else set()
    assert set(find_layers(model()))-set(c.sp.layers)==left_out

def test_amounts_of_the_first_paper():
    "Of each layer in round 1 to 3: kept shares are powers of 80, 90 or 85 percent"
    model,shape = model_of('conv6')
    given = preset('conv6', model=model, data=made_up(shape), bs=4, n_step=1, seeds=1, rounds=3, arms='ticket')
    _,tickets = lottery_curve(**given, keep='tickets', progress=False)
    for r in (1, 2, 3):
        for k,m in tickets[0,r].masks.items():
            rate = .85 if k.startswith('conv') else .9 if k=='fc.weight' else .8
            assert m.float().mean()==pytest.approx(rate**r, abs=2/m.numel()), (r,k)

def test_all_presets_are_arguments_of_lottery_curve():
    before = copy.deepcopy({k: dict(v) for k,v in presets.items()})
    for k in presets:
        p = preset(k, seeds=2, lr=7.)
        assert p['lr']==7 and p['seeds']==2 and p.source==presets[k].source
        assert {**p, 'lr': 0, 'seeds': 0}=={**presets[k], 'lr': 0, 'seeds': 0}
        p['prune'] = 1
        assert p.source in repr(p) and all(o in repr(p) for o in p.differs)
    assert {k: dict(v) for k,v in presets.items()}==before
    with pytest.raises(ArgumentError, match="name='cifar_resnet_21': .*did you mean 'cifar_resnet_"):
        preset('cifar_resnet_21')
    with pytest.raises(ArgumentError, match='epochs.*no such argument'): lottery_curve(**preset('conv2', epochs=3))
    assert but_output('fc1', None) and not but_output('fc', None)

# --- find_ticket

def test_a_fit_is_a_plain_loop():
    "Momentum, weight decay, warm-up and milestones as in a loop with PyTorch's own"
    given = preset('mnist_lenet_300_100', data='digits', bs=100, n_step=42, momentum=.9, wd=1e-2,
                   lr_schedule='milestones', warmup=5).for_find_ticket()
    learn = given['learner']()
    net,dls = copy.deepcopy(learn.model),digits_dls(100)
    with learn.no_bar(), learn.no_logging(): given['fit'](learn)
    opt,n = torch.optim.SGD(net.parameters(), lr=.1, momentum=.9, weight_decay=1e-2),3*14
    for step,(x,y) in enumerate(b for _ in range(3) for b in dls.train):
        rate = .1*(1 if step<n/2 else .1 if step<n*3/4 else .01)
        opt.param_groups[0]['lr'] = rate*(step+1)/5 if step<5 else rate
        opt.zero_grad()
        nn.functional.cross_entropy(net(x.as_subclass(torch.Tensor)), y.as_subclass(torch.Tensor)).backward()
        opt.step()
    assert step==n-1
    for a,b in zip(learn.model.parameters(), net.parameters()): assert torch.allclose(a.cpu(), b, atol=1e-6)

def test_a_preset_of_your_own_has_lottery_curves_defaults():
    def told(p): return [source_of(p.for_find_ticket()[k]) for k in ('learner','fit')]
    assert told(Preset(dict(model='digits_mlp', data='digits'), 'mine'))==told(
        Preset(dict(model='digits_mlp', data='digits', n_step=400, bs=60, opt='adam', lr=1.2e-3, wd=0.), 'mine'))

def test_find_ticket_takes_it():
    given = preset('lenet_300_100', data='digits', n_step=44).for_find_ticket(rounds=2, progress=False, seed=3)
    a,b = find_ticket(**given),find_ticket(**given)
    kept = {k: m.float().mean().item() for k,m in a.tickets[-1].masks.items()}
    assert kept==pytest.approx({'fc1.weight': .64, 'fc2.weight': .64, 'fc.weight': .81}, abs=1e-3)
    assert all(torch.equal(x, b.tickets[-1].masks[k]) for k,x in a.tickets[-1].masks.items())

others = [dict(lr=.1), dict(n_step=28), dict(bs=100), dict(opt='sgd'), dict(opt='sgd', momentum=.5), dict(wd=.1),
          dict(lr_schedule='milestones'), dict(lr_schedule=partial(milestones, at=(.4,))), dict(augment='flip'),
          dict(augment=(flip, shift(pixels=1))), dict(augment=(flip, shift)), dict(warmup=7),
          dict(model='mnist_lenet_300_100'), dict(data=digits_dls), dict(data=partial(digits_dls, seed=9))]

def test_a_search_goes_on_only_with_the_same_settings(tmp_path):
    def given(**other): return preset('lenet_300_100', **dict(data='digits', n_step=14) | other).for_find_ticket()
    def told(**other): return [source_of(given(**other)[k]) for k in ('learner','fit')]
    assert told()==told() and len({*map(str, [told(), *(told(**o) for o in others)])})==1+len(others)
    find_ticket(**given(), rounds=1, dir=tmp_path, progress=False)
    with pytest.raises(SearchError, match='other settings'):
        find_ticket(**given(lr=.1), rounds=2, dir=tmp_path, progress=False)
    assert len(find_ticket(**given(), rounds=2, dir=tmp_path, progress=False).tickets)==3

def test_augmentation_in_a_fit():
    "What is trained on changes with the seed of the run, what is validated stays"
    seen = []
    class Look(ScheduledFit):
        def before_batch(self):
            super().before_batch()
            seen.append((self.training, self.x.clone()))
    given = preset('lenet_300_100', data='digits', bs=300, n_step=4, augment='flip').for_find_ticket()
    learn = given['learner']()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=Look(1e-3, augment='flip'))
    trained = torch.cat([x for training,x in seen if training]).as_subclass(torch.Tensor)
    raw = learn.dls.train.stacked()[0].as_subclass(torch.Tensor)
    rows = {tuple(x.flatten().tolist()) for x in raw}
    flipped = [tuple(x.flatten().tolist()) not in rows for x in trained.cpu()]
    assert .4<sum(flipped)/len(flipped)<.6
    assert all(tuple(x.flip(-1).flatten().tolist()) in rows for x,f in zip(trained.cpu(), flipped) if f)
    valid = torch.cat([x for training,x in seen if not training]).as_subclass(torch.Tensor)
    assert torch.equal(valid.cpu(), learn.dls.valid.stacked()[0].as_subclass(torch.Tensor))

@pytest.mark.parametrize('other, name', [(dict(lr_schedule='step'), 'lr_schedule'), (dict(augment='blur'), 'augment'),
    (dict(warmup=-1), 'warmup'), (dict(opt='lion'), 'opt'), (dict(n_step=0), 'n_step'), (dict(bs=2.5), 'bs'),
    (dict(lr=0), 'lr'), (dict(wd=-1), 'wd'), (dict(opt='sgd', momentum=1), 'momentum')])
def test_wrong_words_for_find_ticket(other, name):
    with pytest.raises(ArgumentError) as e: preset('lenet_300_100').for_find_ticket(**other)
    assert e.value.name==name

def test_data_that_is_no_loader():
    pairs = made_up((1,8,8))
    for data in (pairs, DataLoaders(*[DataLoader(TensorDataset(*o)) for o in pairs])):
        learner = preset('lenet_300_100', data=data).for_find_ticket()['learner']
        with pytest.raises(ArgumentError, match='data'): learner()

def test_no_augmentation(): assert ScheduledFit(1e-3, augment=None).augment==[]

def test_cited():
    from lottery_nb.classics import cifar_resnet, cifar_vgg, conv2
    assert [papers_of(o) for o in (conv2, cifar_resnet, cifar_vgg)]==[['frankle2019'], ['he2016'], ['simonyan2015']]
    assert '1512.03385' in cite(cifar_resnet)
