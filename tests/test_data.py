"Data: the same batches for the same seed, whatever else happens; folders that are not what they should be"
import copy, json, os, pickle, random, subprocess, sys
from pathlib import Path

import numpy as np, pytest, torch
from fastai.callback.progress import ProgressCallback # noqa: F401 (gives Learner its no_bar)
from fastai.data.core import TfmdDL
from fastai.data.external import URLs, fastai_cfg
from fastai.learner import Learner, load_learner
from fastai.metrics import accuracy
from fastai.vision.augment import DihedralItem
from fastai.vision.core import PILImage
from hypothesis import given, settings, strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torchvision.transforms.v2.functional import resized_crop

from lottery_nb.core import ArgumentError
from lottery_nb.data import (SeededDL, TensorDL, _crop_together, digits_dls, dls_by_name, imagenette_dls,
                             learner_by_name, model_by_name)
from models import make_photos

def same(a, b):
    "Two lists of batches are equal, bit for bit"
    return len(a)==len(b) and all(len(x)==len(y) and all(torch.equal(s, t) for s,t in zip(x, y)) for x,y in zip(a, b))

def global_numbers():
    return random.getstate(), [v.tolist() if hasattr(v, 'tolist') else v
                               for v in np.random.get_state()], torch.get_rng_state().tolist()

def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64,40), nn.ReLU(), nn.Linear(40,10))

# --- digits

def test_digits_are_scikit_learns():
    raw, dls = load_digits(), digits_dls()
    x,y = (torch.cat(t) for t in zip(*(dl.stacked() for dl in dls.loaders)))
    assert x.shape==(1797,1,8,8) and x.dtype==torch.float32 and 0<=x.min() and x.max()==1
    def order(images, labels):
        return sorted(map(tuple, np.column_stack([np.asarray(images).reshape(1797,-1), np.asarray(labels)])))
    assert order(16*x, y)==order(raw.images, raw.target)
    assert dls.c==10 and list(dls.vocab)==[str(i) for i in range(10)]

@settings(max_examples=15)
@given(st.integers(1, 1437), st.integers(0, 2**63))
def test_split_is_fixed_and_every_image_comes_once(bs, seed):
    reference, dls = digits_dls(), digits_dls(bs=bs, seed=seed)
    for a,b in zip(reference.loaders, dls.loaders): assert same([a.stacked()], [b.stacked()])
    batches = list(dls.train)
    assert len(batches)==len(dls.train)==1437//bs and all(len(x)==len(y)==bs for x,y in batches)
    rows = lambda x: [tuple(r) for r in x.flatten(1).tolist()]
    train, seen = rows(dls.train.stacked()[0]), [r for x,_ in batches for r in rows(x)]
    left = list(train)
    for r in seen: left.remove(r) # fails if one comes more often than it is there
    assert len(left)==1437%bs
    assert sum(len(y) for _,y in dls.valid)==360
    assert same([dls.valid.stacked()], [tuple(map(torch.cat, zip(*dls.valid)))])

def test_split_is_stratified_and_the_one_it_always_was():
    dls, labels = digits_dls(), load_digits().target
    train, valid = dls.train_ds.tls[0].splits
    assert not set(train)&set(valid) and len(train)+len(valid)==len(labels)
    share = np.bincount(labels[valid])/np.bincount(labels)
    assert np.abs(share-.2).max()<.005
    assert sorted(valid)[:12]==[21, 24, 28, 34, 35, 37, 39, 42, 45, 51, 57, 77] and sum(valid)==337944

@settings(max_examples=6)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 200))
def test_same_seed_same_batches(seed, other, bs):
    a, b, c = digits_dls(bs, seed), digits_dls(bs, seed), digits_dls(bs, other)
    epochs = [list(a.train) for _ in range(3)]
    for epoch in epochs:
        random.seed(other); torch.manual_seed(other); np.random.seed(other%2**32) # what others draw does not matter
        assert same(epoch, list(b.train))
    for i in range(2): assert not same(epochs[i], epochs[i+1])
    if seed!=other: assert not same(epochs[0], list(c.train))

def test_global_random_numbers_are_left_alone():
    before = global_numbers()
    dls = digits_dls(seed=3)
    for dl in dls.loaders: list(dl)
    dls.one_batch(); dls.train.new(bs=7); dls.valid.one_batch()
    assert global_numbers()==before

def test_looking_is_no_epoch():
    a, b = digits_dls(), digits_dls()
    a.show_batch(max_n=2); a.one_batch(); a.train.new().one_batch()
    assert same([a.one_batch()], [b.one_batch()])
    assert same(list(a.train), list(b.train))
    assert a.train.epoch==1

def test_an_epoch_can_be_set():
    a, b = digits_dls(seed=4), digits_dls(seed=4)
    epochs = [list(a.train) for _ in range(4)]
    b.train.epoch = 3 # go on where another was killed
    assert same(list(b.train), epochs[3])
    stopped = iter(b.train); next(stopped); stopped.close() # an epoch that was broken off counts
    assert b.train.epoch==5

def test_a_new_one_has_the_seed():
    dls = digits_dls(seed=6)
    expected = list(dls.train)
    assert same(list(dls.train.new()), expected)
    assert [len(y) for _,y in dls.train.new(bs=700, drop_last=False)]==[700, 700, 37]
    assert type(dls.train.new(cls=TfmdDL)) is TfmdDL
    assert same(list(dls.train.new(seed=7)), list(digits_dls(seed=7).train))

def test_copies_go_on_with_the_epoch():
    dls = digits_dls(bs=100, seed=8)
    list(dls.train)
    for other in (copy.deepcopy(dls), pickle.loads(pickle.dumps(dls))):
        assert other.train.epoch==1 and other.train.seed==8
        assert same(list(other.train), list(dls.train))
        dls.train.epoch = 1

def test_a_pickle_holds_every_image_once():
    assert len(pickle.dumps(digits_dls()))<10 * sum(t[0].numel()*4 for t in digits_dls().train_ds)

def test_what_fastai_does_with_data(tmp_path):
    dls = digits_dls()
    learn = Learner(dls, mlp(), metrics=accuracy, path=tmp_path)
    with learn.no_logging(), learn.no_bar():
        preds, targets = learn.get_preds()
        assert preds.shape==(360,10) and torch.equal(targets, dls.valid.stacked()[1].as_subclass(torch.Tensor))
        assert learn.get_preds(ds_idx=0)[0].shape==(1437,10)
        learn.export('net.pkl')
        loaded = load_learner(tmp_path/'net.pkl')
        with loaded.no_bar(): assert loaded.predict(dls.valid_ds[0][0])[0]==dls.vocab[preds[0].argmax()]
        test = dls.test_dl([dls.valid_ds[i][0] for i in range(5)])
        assert torch.allclose(learn.get_preds(dl=test)[0], preds[:5], atol=1e-6)

# --- any data, seeded

@given(st.integers(1, 40), st.integers(1, 12), st.booleans(), st.integers(0, 5))
def test_seeded_order_is_a_permutation(n, bs, drop_last, epoch):
    dl = SeededDL(list(range(n)), seed=1, bs=bs, shuffle=True, drop_last=drop_last, num_workers=0)
    dl.epoch = epoch
    got = [i for b in dl for i in b.tolist()]
    assert len(set(got))==len(got) and set(got)<=set(range(n)) and len(got)==(n-n%bs if drop_last else n)

def test_without_shuffle_the_order_is_the_data():
    assert torch.cat(list(SeededDL(list(range(9)), bs=4, num_workers=0))).tolist()==list(range(9))

# --- photos, generated

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Two classes, 10 and 9 pictures for training, 3 and 2 for validation, some of them grey"
    root = tmp_path_factory.mktemp('photos')
    make_photos(root, n03445777=(10,3), n01440764=(9,2))
    for o in root.glob('*/n01440764/0.png'): Image.open(o).convert('L').save(o)
    (root/'noisy.csv').write_text('not a photo')
    return root

def test_photos_shapes_classes_and_normalization(photos):
    dls = imagenette_dls(size=24, bs=4, path=str(photos), num_workers=0)
    assert (len(dls.train_ds), len(dls.valid_ds), len(dls.train), dls.c) == (19, 5, 4, 2)
    assert list(dls.vocab)==['tench', 'golf ball']
    for x,y in dls.train: assert x.shape==(4,3,24,24) and x.dtype==torch.float32
    x,y = map(torch.cat, zip(*dls.valid))
    assert x.shape==(5,3,24,24) and y.tolist()==[0, 0, 1, 1, 1]
    mean, std = (torch.tensor(v)[:,None,None] for v in ([.485,.456,.406], [.229,.224,.225]))
    back = x.as_subclass(torch.Tensor)*std+mean
    assert -1e-5<=back.min() and back.max()<=1+1e-5
    assert abs(back.mean()-.5)<.05

def test_photos_transforms_are_the_recipes(photos):
    names = {type(t).__name__: t for t in imagenette_dls(size=24, bs=4, path=photos, num_workers=0).train.after_item.fs}
    assert names['RandomResizedCrop'].min_scale==.35 and tuple(names['RandomResizedCrop'].size)==(24,24)
    assert names['FlipItem'].p==.5

def test_half_of_the_photos_are_mirrored(tmp_path):
    "Pictures that are dark on the left: with seeds, as without, about half come out dark on the right"
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 32, dtype=np.uint8)[:,None], (32,1,3)))
    for part in ('train','val'):
        (tmp_path/part/'a').mkdir(parents=True)
        for j in range(200 if part=='train' else 20): ramp.save(tmp_path/part/'a'/f'{j}.png')
    for seed in (None, 5):
        dls = imagenette_dls(size=16, bs=200, path=tmp_path, seed=seed, num_workers=0)
        mirrored = lambda x: x[...,0].mean((1,2))>x[...,-1].mean((1,2))
        assert 65 <= mirrored(dls.one_batch()[0]).sum() <= 135
        assert not mirrored(dls.valid.one_batch()[0]).any()

@pytest.mark.parametrize('workers', [0, 1, 3])
def test_photos_same_seed_same_crops(photos, workers):
    reference = imagenette_dls(16, 4, photos, seed=9, num_workers=0)
    before = random.getstate()
    expected = [list(reference.train) for _ in range(2)]
    assert random.getstate()==before
    dls = imagenette_dls(16, 4, photos, seed=9, num_workers=workers)
    for epoch in expected:
        random.seed(workers); torch.manual_seed(workers)
        assert same(epoch, list(dls.train))
    assert not same(*expected)
    assert not same(expected[0], list(imagenette_dls(16, 4, photos, seed=10, num_workers=0).train))
    assert same(list(reference.valid), list(dls.valid))

@pytest.mark.parametrize('seed', [None, 3])
def test_a_test_part_of_photos_comes_from_training(photos, seed):
    whole,three = (imagenette_dls(16, 4, photos, seed=seed, num_workers=0, test=o) for o in (0, 25))
    assert len(whole.loaders)==2 and [len(o.dataset) for o in three.loaders]==[13,5,6]
    def files(dl): return [str(o) for o in dl.items]
    assert files(three.valid)==files(whole.valid) and sorted(files(three.train)+files(three[2]))==files(whole.train)
    assert [sum(name in o for o in files(three[2])) for name in ('n03445777','n01440764')]==[3,3]
    assert files(three[2])==files(imagenette_dls(16, 4, photos, seed=5, num_workers=0, test=25)[2])
    images = [torch.cat([x for x,_ in three[2]]) for _ in range(2)]
    assert torch.equal(*images) # no random crops
    for wrong in (-1, 51, '5'):
        with pytest.raises(ValueError, match='test='): imagenette_dls(16, 4, photos, num_workers=0, test=wrong)
    with pytest.raises(ValueError, match='one that leaves images of each class'):
        imagenette_dls(16, 4, photos, num_workers=0, test=4)

def test_a_part_of_the_data_by_name():
    assert [len(o.dataset) for o in dls_by_name('digits', test=10).loaders]==[1257,360,180]
    assert len(learner_by_name(test=10).dls.loaders)==3
    for wrong in (.01, .1, 51, -1): # none at all; fewer than there are classes
        with pytest.raises(ArgumentError, match='test='): digits_dls(test=wrong)

def test_photos_without_a_seed_are_fastais(photos):
    assert type(imagenette_dls(16, 4, photos, num_workers=0).train) is TfmdDL

# --- photos that are decoded once

def levels(a, b):
    "The largest difference of two batches' pixels, on the scale of 0 to 255"
    std = torch.tensor([.229,.224,.225])[:,None,None]
    return float(((a-b).as_subclass(torch.Tensor)*std*255).abs().max())

@pytest.mark.parametrize('size', [7, 16, 40])
def test_photos_in_memory_are_cropped_as_from_files(photos, size):
    "The same boxes, the same mirrors, the same order, in every epoch; a pixel is at most a rounding off"
    files,memory = (imagenette_dls(size, 4, photos, seed=size, num_workers=0, cache=o) for o in (False, True))
    assert type(memory.train) is TensorDL
    for _ in range(3):
        for (x,y),(x2,y2) in zip(files.train, memory.train, strict=True):
            assert type(x) is type(x2) and x.shape==x2.shape and x.dtype==x2.dtype and torch.equal(y, y2)
            assert levels(x, x2)<1.5
    assert same(list(files.valid), list(memory.valid)) and same(list(memory.valid), list(memory.valid))

@given(st.integers(0, 2**31))
def test_crops_that_are_made_together(seed):
    "As a GPU makes them: those that torchvision makes one by one, but for a rounding, from photos of any sizes"
    r = random.Random(seed)
    size = r.randint(1, 40),r.randint(1, 40)
    photos,boxes,mirrored = [],[],[]
    for _ in range(r.randint(1, 4)):
        h,w = r.randint(1, 90),r.randint(1, 90)
        height,width = r.randint(1, h),r.randint(1, w)
        photos.append(torch.randint(256, (3,h,w), generator=torch.Generator().manual_seed(r.getrandbits(30))).byte())
        boxes.append((r.randint(0, h-height), r.randint(0, w-width), height, width))
        mirrored.append(r.random()<.5)
    alone = [resized_crop(o.flip(-1) if turn else o, *box, size, antialias=True)
             for o,turn,box in zip(photos, mirrored, boxes)]
    together = _crop_together(photos, mirrored, boxes, size)
    assert together.dtype==torch.uint8 and (together.int()-torch.stack(alone).int()).abs().max()<=1

@pytest.mark.skipif(not (fastai_cfg().path('data')/'imagenette2-160').exists(), reason='needs Imagenette')
def test_imagenette_in_memory():
    "Real photos, all of them"
    files,memory = (imagenette_dls(64, 64, seed=1, num_workers=0, cache=o) for o in (False, True))
    (x,y),(x2,y2) = (next(iter(o.train)) for o in (files, memory))
    assert torch.equal(y, y2) and levels(x, x2)<1.5
    assert .72e9<memory.train.n_bytes<.74e9

def test_photos_in_memory_same_seed_same_crops(photos):
    def of(seed, n=2):
        dls = imagenette_dls(16, 4, photos, seed=seed, cache=True)
        return [list(dls.train) for _ in range(n)]
    before = global_numbers()
    a,b = of(9)
    assert global_numbers()==before
    random.seed(5)
    assert same(a, of(9)[0]) and same(b, of(9)[1]) and not same(a, b) and not same(a, of(10)[0])
    random.seed(5)
    unseeded = of(None)
    assert not same(unseeded[0], of(None)[0])
    random.seed(5)
    assert same(unseeded[0], of(None)[0]) # from the global numbers

def test_photos_in_memory_an_epoch_can_be_set(photos):
    a,b = (imagenette_dls(16, 4, photos, seed=9, cache=True) for _ in range(2))
    epochs = [list(a.train) for _ in range(4)]
    b.train.epoch = 3
    b.one_batch()
    assert same(list(b.train), epochs[3])
    b.train.seed,b.train.epoch = 1,0 # another seed needs no photo read anew
    assert same(list(b.train), list(imagenette_dls(16, 4, photos, seed=1, cache=True).train))

def test_photos_are_decoded_once(photos, monkeypatch):
    n,load = [],PILImage.create
    monkeypatch.setattr(PILImage, 'create', lambda *args, **kwargs: n.append(1) or load(*args, **kwargs))
    dls = imagenette_dls(16, 4, photos, seed=9, cache=True)
    for _ in range(3): list(dls.train), list(dls.valid)
    assert len(n)==19+5+1 # fastai looks at one

def test_what_fastai_does_with_photos_in_memory(photos, tmp_path):
    dls = imagenette_dls(16, 4, photos, seed=9, cache=True, test=25)
    assert torch.equal(*(torch.cat([x for x,_ in dls[2]]) for _ in range(2)))
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))
    learn = Learner(dls, net, metrics=accuracy, path=tmp_path)
    dls.show_batch(max_n=2)
    with learn.no_logging(), learn.no_bar():
        learn.fit(1)
        preds,_ = learn.get_preds()
        files = list(dls.valid.items)
        assert torch.allclose(learn.get_preds(dl=dls.test_dl(files))[0], preds, atol=1e-6)
        learn.export('net.pkl')
        assert (tmp_path/'net.pkl').stat().st_size<50_000 # without the photos
        loaded = load_learner(tmp_path/'net.pkl')
        with loaded.no_bar(): assert loaded.predict(files[0])[0]==dls.vocab[preds[0].argmax()]

@pytest.mark.parametrize('how, message', [(dict(cache=1), 'cache=1: expected True or False'),
                                          (dict(cache=True, num_workers=2), 'num_workers=2: expected 0 or None')])
def test_photos_in_memory_or_not(photos, how, message):
    with pytest.raises(ValueError, match=message): imagenette_dls(16, 4, photos, **how)

def test_photos_in_memory_take_two_transforms(photos):
    dls = imagenette_dls(16, 4, photos, seed=9, cache=True)
    dls.train.after_item.add(DihedralItem())
    with pytest.raises(ArgumentError, match='item_tfms=.*: expected RandomResizedCrop and FlipItem'): list(dls.train)

# --- folders that are not what they should be

def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.*no such folder'): imagenette_dls(path=tmp_path/'nowhere')

@pytest.mark.parametrize('there, message', [((), 'it has no train and no val'),
                                            (('train',), 'it has no val'), (('val',), 'it has no train'),
                                            (('train','val'), 'there are no images in train')])
def test_incomplete_folder(tmp_path, there, message):
    for part in there: (tmp_path/part).mkdir()
    with pytest.raises(ArgumentError, match=f'path=.*{message}'): imagenette_dls(path=tmp_path)

def test_a_class_only_for_validation(tmp_path):
    make_photos(tmp_path, n01440764=(1,1), n03445777=(0,1))
    with pytest.raises(ValueError, match='path=.*train has no n03445777'): imagenette_dls(16, 1, tmp_path)

WITHOUT_NETWORK = '''import sys, fastdownload.core
def unreachable(*args, **kwargs): raise OSError('Network is unreachable')
fastdownload.core.urlsave = unreachable
from lottery_nb.data import imagenette_dls
try: print(len(imagenette_dls(16, 2, num_workers=0).train_ds))
except FileNotFoundError as e: print(e)
'''
def without_network(home):
    "What a process prints that makes the data with fastai's folder at `home` and no network"
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', WITHOUT_NETWORK],
                          env={**os.environ, 'FASTAI_HOME': str(home)},
                          check=True, capture_output=True, text=True).stdout

def test_untar_data_without_network(photos, tmp_path):
    "What the error says to do is what helps"
    printed = without_network(tmp_path)
    for text in (f"Imagenette isn't in {tmp_path}/data/imagenette2-160", 'OSError: Network is unreachable',
                 URLs.IMAGENETTE_160, 'tar -xf', 'imagenette_dls(path=...)'): assert text in printed
    (tmp_path/'data').mkdir(exist_ok=True)
    (tmp_path/'data'/'imagenette2-160').symlink_to(photos)
    assert without_network(tmp_path).strip()=='19'

def test_an_interrupted_download(tmp_path):
    (tmp_path/'data'/'imagenette2-160'/'train').mkdir(parents=True)
    with pytest.raises(subprocess.CalledProcessError) as e: without_network(tmp_path)
    assert (f"path='{tmp_path}/data/imagenette2-160': expected a folder with the folders train and val, "
            'but it has no val') in e.value.stderr

# --- by name

@pytest.fixture
def named(tmp_path):
    make_photos(tmp_path/'photos', a=(3,1), b=(3,1), c=(3,1))
    return tmp_path/'photos'

def test_named_data_is_the_data(named):
    assert same(list(dls_by_name('digits', bs=100, seed=4).train), list(digits_dls(100, 4).train))
    a,b = dls_by_name(str(named), bs=3, seed=2, size=24, num_workers=0),imagenette_dls(24, 3, named, 2, 0)
    assert same(list(a.train), list(b.train)) and a.one_batch()[0].shape==(3,3,24,24) and a.c==3

def test_named_data_in_another_process(named, monkeypatch):
    code = ('import hashlib, json, sys, torch; from lottery_nb.data import *; told = json.loads(sys.argv[1]); '
            'torch.manual_seed(5); torch.rand(1)\n'
            'dls = dls_by_name(**told["data"]); dls.train.epoch = 2; net = model_by_name(told["arch"], dls)\n'
            'def bits(t): return hashlib.sha256(t.detach().cpu().contiguous().numpy().tobytes()).hexdigest()\n'
            'found = [[bits(x), y.tolist()] for x,y in dls.train], [bits(p) for p in net.parameters()]')
    photos = dict(data=str(named), bs=4, size=64, num_workers=0)
    for told in (dict(data=dict(data='digits', bs=500, seed=1), arch='digits_mlp'), dict(data=photos, arch='resnet18')):
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', f'{code}; print(json.dumps(found))',
                               json.dumps(told)], capture_output=True, text=True)
        assert done.returncode==0, done.stderr
        here = {}
        monkeypatch.setattr(sys, 'argv', ['', json.dumps(told)])
        exec(code, here)
        assert json.loads(done.stdout)==json.loads(json.dumps(here['found']))

def test_a_folder_of_that_name(named, monkeypatch):
    "`digits` is the data, `./digits` and a `Path` are the folder"
    named.rename(named.with_name('digits'))
    monkeypatch.chdir(named.parent)
    assert dls_by_name('digits', 3).c==10
    for o in ('./digits', Path('digits')): assert dls_by_name(o, 3, num_workers=0).c==3

@pytest.mark.parametrize('arch', ['resnet18', 'mobilenet_v3_small', 'googlenet',
                                  'vgg11_bn', 'shufflenet_v2_x0_5', 'densenet121'])
def test_named_networks(arch, named):
    "Untrained, with an output for each class, a tensor also while training; weights from the global random numbers"
    dls = dls_by_name(named, bs=4, size=64, num_workers=0)
    torch.manual_seed(1)
    net = model_by_name(arch, dls).train()
    assert net(dls.one_batch()[0]).shape==(4, 3)
    torch.manual_seed(1)
    again = model_by_name(arch, dls).state_dict()
    assert all(torch.equal(t, again[k]) for k,t in net.state_dict().items() if 'running' not in k
               and 'tracked' not in k)

def test_networks_that_do_not_fit(named):
    photos = dls_by_name(named, bs=4, num_workers=0)
    with pytest.raises(ArgumentError, match='a network of torchvision for images of 3 channels'):
        model_by_name('digits_mlp', photos)
    with pytest.raises(ArgumentError, match="arch='fcn_resnet50'.*such as"): model_by_name('fcn_resnet50', photos)
    learn = learner_by_name(named, 'resnet18', bs=3, seed=2, size=24, num_workers=0)
    assert learn.lr==1e-3 and learn.dls.train.seed==2 and learn.dls.one_batch()[0].shape==(3,3,24,24)
    assert learner_by_name().lr==3e-3 and learner_by_name(lr=.1).lr==.1

@pytest.mark.parametrize('give, says', [
    (lambda: dls_by_name('CIFAR-10'), "did you mean 'cifar10'"), (lambda: dls_by_name('MNIST'), "did you mean 'mnist'"),
    (lambda: model_by_name('ResNet-20', digits_dls()), 'such as cifar_resnet_20'),
    (lambda: digits_dls(test=.2), 'leaves images of each class')])
def test_other_spellings_and_fractions_are_told_what_was_meant(give, says):
    import lottery_nb.classics, lottery_nb.presets # noqa: F401 (they bring names)
    with pytest.raises(ArgumentError, match=says): give()

def test_a_test_part_below_a_percent_may_be_a_fraction():
    with pytest.warns(UserWarning, match='for 90 percent say test=90'): assert len(digits_dls(test=.9)[2].dataset)==16
