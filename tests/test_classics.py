"The networks and the images of the papers: counts, first weights, formats on disk, files that aren't what they say"
import hashlib, pickle, struct, subprocess, sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt, numpy as np, pytest, torch
from fastai.callback.progress import ProgressCallback # noqa: F401 (gives Learner its no_bar)
from fastai.data.external import fastai_cfg
from fastai.learner import Learner, load_learner
import fastai.vision.learner # noqa: F401 (gives images their show_results)
from PIL import Image
from torch import nn
from torchvision.datasets import CIFAR10, MNIST

from lottery_nb.classics import (ImageDL, cifar_resnet, cifar_vgg, classic_dls, conv2, conv4, conv6, find_images,
                                 image_sets, lenet_300_100, read_idx, read_images)
from lottery_nb.core import ArgumentError
from lottery_nb.curves import lottery_curve
from lottery_nb.data import WholeDL, digits_dls, dls_by_name, model_by_name, networks
from models import as_idx, same_bits, some_images, write_idx

def as_folders(folder, parts, names, train='train', test='test'):
    for part,place in dict(train=train, test=test).items():
        for i,(image,label) in enumerate(zip(*parts[part])):
            there = folder/place/names[label]
            there.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(there/f'{i:03}.png')

def as_batches(folder, parts, monkeypatch):
    "As torchvision has CIFAR-10, which knows its files by md5"
    folder.mkdir(parents=True)
    def write(name, what):
        (folder/name).write_bytes(data := pickle.dumps(what))
        return [name, hashlib.md5(data).hexdigest()]
    def batch(images, labels): return dict(data=images.transpose(0, 3, 1, 2).reshape(len(images), -1), labels=[*labels])
    halves = np.array_split(np.arange(len(parts['train'][1])), 2)
    listed = [write(f'data_batch_{i+1}', batch(*(o[rows] for o in parts['train']))) for i,rows in enumerate(halves)]
    meta = write('batches.meta', dict(label_names=list(image_sets['cifar10'].classes)))
    monkeypatch.setattr(CIFAR10, 'train_list', listed)
    monkeypatch.setattr(CIFAR10, 'test_list', [write('test_batch', batch(*parts['test']))])
    monkeypatch.setattr(CIFAR10, 'meta', dict(CIFAR10.meta, md5=meta[1]))

def in_order(part): # images and labels, whichever order they were read in
    images,labels = part
    return sorted((int(y), x.tobytes()) for x,y in zip(images, labels))

# --- networks

@pytest.mark.parametrize('net, told', [ # Frankle & Carbin 2019, figure 2: all weights / those of convolutions
    (lenet_300_100, (266e3, 0)), (conv2, (4.3e6, 38.6e3)), (conv4, (2.4e6, 260e3)), (cifar_resnet, (271e3, 270e3)),
    (partial(cifar_vgg, 19), (20.0e6, 20.0e6))])
def test_as_many_weights_as_the_papers_say(net, told):
    layers = [m for m in net().modules() if isinstance(m, (nn.Conv2d,nn.Linear))]
    n = sum(m.weight.numel() for m in layers), sum(m.weight.numel() for m in layers if isinstance(m, nn.Conv2d))
    assert n==pytest.approx(told, rel=.011)

def test_first_weights_of_your_own():
    net = lenet_300_100(init=lambda net: [nn.init.ones_(p) for p in net.parameters()])
    assert isinstance(net, nn.Sequential) and all((p==1).all() for p in net.parameters())

@pytest.mark.parametrize('depth', [8, 20, 32, 56])
def test_the_depth_of_a_resnet_is_the_layers_on_the_way_through(depth):
    net = cifar_resnet(depth, width=2)
    around = sum(isinstance(m, nn.Conv2d) and m.kernel_size==(1,1) for m in net.modules())
    assert sum(isinstance(m, (nn.Conv2d,nn.Linear)) for m in net.modules())-around==depth and around==2

@pytest.mark.parametrize('depth', [11, 13, 16, 19])
def test_the_depth_of_a_vgg_counts_three_linear_layers(depth):
    assert sum(isinstance(m, nn.Conv2d) for m in cifar_vgg(depth).modules())==depth-3

def test_first_weights():
    torch.manual_seed(0)
    for m in conv4().modules():
        if not isinstance(m, (nn.Conv2d,nn.Linear)): continue
        n_in,n_out = (m.weight[0].numel(), m.weight.numel()//m.weight.shape[1])
        assert m.weight.data.std()==pytest.approx((2/(n_in+n_out))**.5, rel=.05) and not m.bias.any()
    norms = []
    for m in cifar_resnet(20).modules():
        if isinstance(m, nn.Conv2d) and m.weight.numel()>2000:
            assert m.weight.data.std()==pytest.approx((2/m.weight[0].numel())**.5, rel=.05)
        if isinstance(m, nn.BatchNorm2d):
            norms.append(m.weight.detach())
            assert not m.bias.any()
    norms = torch.cat(norms)
    assert 0<=norms.min() and norms.max()<=1 and norms.mean()==pytest.approx(.5, abs=.05)

def test_a_resnet_is_what_he_et_al_describe():
    "The same by hand, from its tensors"
    torch.manual_seed(0)
    net,x = cifar_resnet(8, width=4).eval(),torch.randn(2, 3, 16, 16)
    t = net.state_dict()
    def conv(x, k, stride=1):
        w = t[f'{k}.conv.weight']
        x = nn.functional.conv2d(x, w, stride=stride, padding=w.shape[-1]//2)
        mean,var,scale,shift = (t[f'{k}.norm.{o}'] for o in ('running_mean','running_var','weight','bias'))
        return nn.functional.batch_norm(x, mean, var, scale, shift)
    h = conv(x, 'stem').relu()
    for i in range(3):
        stride,around = (2,conv(h, f'blocks.{i}.around', 2)) if i else (1,h)
        h = (conv(conv(h, f'blocks.{i}.first', stride).relu(), f'blocks.{i}.second')+around).relu()
    assert h.shape==(2,16,4,4)
    assert torch.allclose(net(x), h.mean((2,3))@t['fc.weight'].T + t['fc.bias'], atol=1e-5)

@pytest.mark.parametrize('fn, name', [(lambda: cifar_resnet(18), 'depth'), (lambda: cifar_resnet(2), 'depth'),
    (lambda: cifar_resnet(20, width=0), 'width'), (lambda: cifar_vgg(12), 'depth'), (lambda: conv6(size=7), 'size'),
    (lambda: conv2(n_out=0), 'n_out'), (lambda: lenet_300_100(0), 'n_in'), (lambda: lenet_300_100(init=None), 'init')])
def test_networks_that_there_are_not(fn, name):
    with pytest.raises(ArgumentError) as e: fn()
    assert e.value.name==name

# --- images on disk

@pytest.mark.parametrize('name, place', [('mnist','MNIST/raw'), ('mnist','mnist'), ('mnist',''),
                                         ('fashion','FashionMNIST/raw')])
@pytest.mark.parametrize('dot, end', [('-',''), ('-','.gz'), ('.','')])
def test_idx_files(name, place, dot, end, tmp_path):
    parts = some_images(name)
    as_idx(tmp_path/place, parts, dot, end)
    found = read_images(name, tmp_path)
    for part,(images,labels) in parts.items():
        assert np.array_equal(found[part][0][:,0], images) and np.array_equal(found[part][1], labels)

def test_torchvision_reads_the_same(tmp_path):
    as_idx(tmp_path/'MNIST'/'raw', some_images('mnist'))
    theirs = MNIST(tmp_path, train=False)
    images,labels = read_images('mnist', tmp_path)['test']
    assert np.array_equal(theirs.data, images[:,0]) and np.array_equal(theirs.targets, labels)

@pytest.mark.parametrize('name, train, test, by', [
    ('mnist','training','testing','name'), ('cifar10','train','test','name'), ('fashion','train','val','number')])
def test_folders(name, train, test, by, tmp_path):
    parts,known = some_images(name),image_sets[name]
    place = tmp_path/known.places[-1 if name=='fashion' else 0]
    as_folders(place, parts, known.classes if by=='name' else [*map(str, range(10))], train, test)
    found = read_images(name, tmp_path)
    for k,(images,labels) in parts.items():
        images = images.transpose(0, 3, 1, 2) if images.ndim==4 else images[:,None]
        assert in_order(found[k])==in_order((images, labels))

def test_torchvisions_batches(tmp_path, monkeypatch):
    parts = some_images('cifar10')
    as_batches(tmp_path/'cifar-10-batches-py', parts, monkeypatch)
    found = read_images('cifar10', tmp_path)
    for k,(images,labels) in parts.items():
        assert np.array_equal(found[k][0], images.transpose(0, 3, 1, 2)) and np.array_equal(found[k][1], labels)
    (tmp_path/'cifar-10-batches-py'/'data_batch_2').write_bytes(pickle.dumps(print)) # another sum: not read at all
    with pytest.raises(ArgumentError, match='the right md5 sums'): read_images('cifar10', tmp_path)

def test_where_it_looks(tmp_path, monkeypatch):
    "In fastai's folder, then in `data`; with a path nowhere else"
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'home'))
    monkeypatch.setattr('lottery_nb.classics.fastai_cfg', fastai_cfg.__wrapped__) # which remembers another home
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='(?s)mnist: no images in .*MNIST/raw.*torchvision.datasets.MNIST'):
        find_images('mnist')
    as_idx(tmp_path/'data'/'MNIST'/'raw', some_images('mnist'))
    assert find_images('mnist')==('idx', Path('data/MNIST/raw'))
    as_folders(tmp_path/'home'/'data'/'mnist_png', some_images('mnist'), '0123456789', 'training', 'testing')
    assert find_images('mnist')==('folders', tmp_path/'home'/'data'/'mnist_png')
    with pytest.raises(FileNotFoundError): find_images('mnist', tmp_path/'elsewhere')
    with pytest.raises(FileNotFoundError): dls_by_name('cifar10')

@pytest.mark.parametrize('data, told', [
    (b'', 'begins with 00 00 08'), (b'\0\0\x0d\x01\0\0\0\0', 'not 00 00 0d'), (b'\x1f\x8b\x08\x08', 'not 1f 8b 08'),
    (struct.pack('>HBB', 0, 8, 3)+b'\0\0', 'a whole IDX file'),
    (struct.pack('>HBBI', 0, 8, 1, 5)+b'1234', 'a whole IDX file'),
    (struct.pack('>HBBI', 0, 8, 1, 5)+b'123456', 'a whole IDX file')])
def test_files_that_are_no_idx(data, told, tmp_path):
    (tmp_path/'a').write_bytes(data)
    with pytest.raises(ArgumentError, match=told): read_idx(tmp_path/'a')

@pytest.mark.parametrize('cut', [0, 5, 30, -4])
def test_a_packed_file_that_was_cut(cut, tmp_path):
    write_idx(tmp_path/'a.gz', np.arange(200))
    (tmp_path/'a.gz').write_bytes((tmp_path/'a.gz').read_bytes()[:cut])
    with pytest.raises(ArgumentError): read_idx(tmp_path/'a.gz')
    with pytest.raises(FileNotFoundError): read_idx(tmp_path/'b.gz')

def test_images_that_are_not_what_the_name_says(tmp_path):
    parts = some_images('mnist')
    def refused(error, told, **other):
        folder = tmp_path/f'{len(list(tmp_path.iterdir()))}'
        as_idx(folder, {**parts, **other})
        with pytest.raises(error, match=told): read_images('mnist', folder)
        return folder
    images,labels = parts['train']
    refused(ArgumentError, r'images of \[1, 28, 28\], not \[1, 27, 28\], in the part train',
            train=(images[:,1:], labels))
    refused(ArgumentError, 'a label for each of 40 images, not 39', train=(images, labels[1:]))
    refused(ArgumentError, 'labels below 10, not 10, in the part test', test=(parts['test'][0], parts['test'][1]+1))
    refused(ArgumentError, 'a label for each of 20 images', test=(parts['test'][0], np.zeros((20,2))))
    refused(ArgumentError, r'images of \[1, 28, 28\]', test=(images[:0,0,0], labels[:0]))
    refused(ArgumentError, 'at least one image, in the part test', test=(images[:0], labels[:0]))
    as_idx(tmp_path/'b', parts)
    (tmp_path/'b'/'train-labels-idx1-ubyte').unlink()
    with pytest.raises(FileNotFoundError, match='there is no train-labels-idx1'): read_images('mnist', tmp_path/'b')
    as_folders(tmp_path/'c', parts, ['zero', *'123456789'])
    with pytest.raises(ArgumentError, match='an image in a folder a class: 0, 1'): read_images('mnist', tmp_path/'c')
    as_folders(tmp_path/'d', dict(parts, train=(images[:,::2,::2], labels)), '0123456789')
    with pytest.raises(ArgumentError, match=r'not \[1, 14, 14\]'): read_images('mnist', tmp_path/'d')
    Image.fromarray(images[0]).save(tmp_path/'d'/'train'/'0'/'large.png')
    with pytest.raises(ArgumentError, match='images of one size'): read_images('mnist', tmp_path/'d')
    whole = (tmp_path/'d'/'train'/'0'/'large.png').read_bytes()
    for data in (whole[:-60], b'no image'):
        (tmp_path/'d'/'train'/'0'/'large.png').write_bytes(data)
        with pytest.raises(ArgumentError, match='large.png.*can be read'): read_images('mnist', tmp_path/'d')
    (tmp_path/'e'/'train'/'0').mkdir(parents=True)
    with pytest.raises(ArgumentError, match=r'images of \[1, 28, 28\], not \[\]'): read_images('mnist', tmp_path/'e')

# --- as DataLoaders

@pytest.fixture
def mnist(tmp_path):
    as_idx(tmp_path/'mnist', some_images('mnist', 100))
    return tmp_path

@pytest.fixture
def cifar(tmp_path):
    as_folders(tmp_path/'cifar10', some_images('cifar10', 40), image_sets['cifar10'].classes)
    return tmp_path

@pytest.mark.parametrize('name', ['mnist','cifar10'])
def test_put_together_at_once_as_one_by_one(name, request):
    path = request.getfixturevalue('mnist' if name=='mnist' else 'cifar')
    dls = classic_dls(name, 8, path=path, test=20)
    for dl in dls.loaders:
        assert type(dl) is ImageDL
        for a,b in zip(dl.stack(), WholeDL.stack(dl)): assert same_bits(a, b) and type(a) is type(b)

def test_normalized_as_told(mnist):
    raw,known = read_images('mnist', mnist),image_sets['mnist']
    for dl,(images,labels) in zip(classic_dls('mnist', path=mnist).loaders, raw.values()):
        x,y = (t.as_subclass(torch.Tensor) for t in dl.stacked())
        assert torch.allclose(x, (torch.tensor(images)/255-known.mean[0])/known.std[0], atol=1e-6)
        assert y.tolist()==labels.tolist()

def test_the_third_part(mnist):
    whole,three = classic_dls('mnist', 8, path=mnist),classic_dls('mnist', 8, path=mnist, test=20)
    assert [len(o.dataset) for o in whole.loaders]==[100,50] and [len(o.dataset) for o in three.loaders]==[70,30,50]
    assert same_bits(three[2].stacked()[0], whole.valid.stacked()[0])
    assert torch.bincount(three.valid.stacked()[1]).tolist()==[3]*10 # of each class alike
    rows = [sorted(map(tuple, torch.cat([dl.stacked()[0] for dl in dls]).flatten(1).tolist()))
            for dls in ([three[0], three[1]], [whole[0]])]
    assert rows[0]==rows[1]
    again = classic_dls('mnist', 8, seed=5, path=mnist, test=20)
    assert same_bits(again.valid.stacked()[0], three.valid.stacked()[0])

@pytest.mark.parametrize('given, name', [(dict(bs=101), 'bs'), (dict(bs=0), 'bs'), (dict(seed=-1), 'seed'),
    (dict(test=60), 'test'), (dict(test=1), 'test'), (dict(test=.1), 'test'), (dict(size=8), 'size')])
def test_numbers_that_cannot_be_right(given, name, mnist):
    with pytest.raises(ArgumentError) as e: dls_by_name('mnist', path=mnist, **given)
    assert e.value.name==name

def test_a_path_of_what_has_none(mnist):
    for data in ('digits', str(mnist)):
        with pytest.raises(ArgumentError, match='path=.*expected None'): dls_by_name(data, path=mnist)

def test_what_fastai_does_with_them(mnist, tmp_path):
    dls = dls_by_name('mnist', 20, path=mnist)
    learn = Learner(dls, model_by_name('lenet_300_100', dls), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        preds,_ = learn.get_preds()
        said = learn.predict(dls.valid_ds[0][0])[0]
        assert said==dls.vocab[preds[0].argmax()]
        learn.export('net.pkl')
        loaded = load_learner(tmp_path/'net.pkl')
        with loaded.no_bar(): assert loaded.predict(dls.valid_ds[0][0])[0]==said
        images = [dls.valid_ds[i][0] for i in range(5)]
        assert torch.allclose(learn.get_preds(dl=dls.test_dl(images))[0], preds[:5], atol=1e-5)
        learn.show_results(max_n=4)
    shown = dls.valid.decode_batch(dls.valid.one_batch())[0]
    assert torch.allclose(shown[0], torch.tensor(read_images('mnist', mnist)['test'][0][0]/255).float(), atol=1e-6)

@pytest.mark.parametrize('name, channels', [('mnist',1), ('cifar10',3)])
def test_images_are_shown_as_they_were(name, channels, request):
    dls = classic_dls(name, 20, path=request.getfixturevalue('mnist' if name=='mnist' else 'cifar'))
    raw = read_images(name, request.getfixturevalue('mnist' if name=='mnist' else 'cifar'))['test'][0]
    learn = Learner(dls, model_by_name('conv2' if channels==3 else 'lenet_300_100', dls))
    in_order = partial(learn.show_results, shuffle=False)
    for way,show in dict(show_batch=dls.valid.show_batch, show_results=in_order).items():
        plt.close('all')
        with learn.no_bar(): show(max_n=4)
        shown = [ax.images[0].get_array() for ax in plt.gcf().axes if ax.images]
        assert len(shown)==4, way
        for image,want in zip(shown, raw.transpose(0, 2, 3, 1)):
            np.testing.assert_allclose(np.reshape(image, want.shape), want/255, atol=1e-5, err_msg=way)
    plt.close('all')

@pytest.mark.parametrize('arch', sorted(set(networks)-{'digits_mlp'}))
def test_networks_by_name(arch, cifar):
    dls = dls_by_name('cifar10', 4, path=cifar)
    net = model_by_name(arch, dls)
    assert net(dls.one_batch()[0]).shape==(4,10) and isinstance(net.fc, nn.Linear)

def test_networks_that_do_not_fit(mnist):
    dls = dls_by_name('mnist', path=mnist)
    with pytest.raises(ArgumentError, match='lenet_300_100.* for images of 1 channel'): model_by_name('resnet18', dls)
    with pytest.raises(ArgumentError, match='lenet_300_100.* for images of 1 channel'): model_by_name('digits_mlp', dls)
    with pytest.raises(ArgumentError, match='cifar_vgg_11.*less than 16'): model_by_name('cifar_vgg_11', digits_dls())

def test_a_stack_takes_them(mnist):
    data = partial(dls_by_name, 'mnist', path=mnist)
    net = lambda: cifar_resnet(8, width=4, n_in=1)
    df = lottery_curve(net, data, seeds=2, rounds=1, n_step=3, bs=20, progress=False)
    assert set(df.arm)=={'dense','ticket','reinit','shuffle','random'} and df.value.notna().all()

def test_another_process_knows_the_names(mnist, tmp_path):
    "With no more imported than what trains"
    (tmp_path/'data').mkdir()
    (mnist/'mnist').rename(tmp_path/'data'/'mnist')
    code = ("from lottery_nb.curves import lottery_curve; df = lottery_curve('lenet_300_100', 'mnist', seeds=1, "
            "rounds=1, n_step=2, arms='ticket', progress=False); print(len(df))")
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode==0 and int(done.stdout)>0, done.stderr
