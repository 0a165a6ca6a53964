"Networks to prune, random ones too, and what to compare tensors with: their bits"
import gzip, struct

import numpy as np, torch
from PIL import Image
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from hypothesis import strategies as st
from torch import nn

from lottery_nb.arms import arms
from lottery_nb.classics import image_sets
from lottery_nb.granularity import granularities_of
from lottery_nb.masks import named_tensors
from lottery_nb.sparsifier import prunable_types

plain_arms = {k: o for k,o in arms.items() if o.fn.__module__=='lottery_nb.arms'} # other modules add theirs

def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64,300), nn.ReLU(), nn.Linear(300,100), nn.ReLU(), nn.Linear(100,10))

class ConvNet(nn.Module):
    """Convs of several kinds, with statistics, a buffer that no `state_dict` has,
    and a parameter that no layer type owns"""
    def __init__(self, n_in=1, n_out=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(n_in,8,3,padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.grouped = nn.Conv2d(8,8,3,groups=4,padding=1)
        self.up = nn.ConvTranspose2d(8,4,2,stride=2,groups=2)
        self.norm = nn.GroupNorm(2,4)
        self.scale = nn.Parameter(torch.ones(4,1,1))
        self.register_buffer('seen', torch.zeros(()), persistent=False)
        self.head = nn.Linear(4,n_out)

    def forward(self, x):
        if self.training: self.seen += len(x)
        x = self.up(self.grouped(self.stem(x)).relu())
        return self.head((self.norm(x)*self.scale).mean((2,3)))

class Halves(nn.Module):
    "Two convs that get one half each of what the first one gives"
    def __init__(self):
        super().__init__()
        self.stem,self.a,self.b,self.fc = nn.Conv2d(1,8,3),nn.Conv2d(4,6,3),nn.Conv2d(4,6,3),nn.Linear(12,5)
    def forward(self, x):
        first,second = self.stem(x).relu().chunk(2, 1)
        return self.fc(torch.cat([self.a(first), self.b(second)], 1).mean((2,3)))

def bits(t):
    "The bytes of a tensor, so that NaN equals NaN and -0. is not 0."
    return t.detach().cpu().contiguous().flatten().view(torch.uint8)

def same_bits(a, b): return a.shape==b.shape and a.dtype==b.dtype and torch.equal(bits(a), bits(b))

def differing(a, b):
    "The names under which two dicts of tensors do not have the same bits"
    return [k for k in {**a, **b} if k not in a or k not in b or not same_bits(a[k], b[k])]

def copied(tensors): return {k: t.detach().clone() for k,t in tensors.items()}
def everything(model): return copied(named_tensors(model))

def masked(tensors, masks):
    "The tensors, with exactly +0 where the masks prune"
    return {k: t.masked_fill(~masks[k], 0) if k in masks else t for k,t in tensors.items()}

def nonzero_pruned(sp):
    "How many pruned weights are not exactly +0"
    return sum(int(bits(sp.weight(k)[~m]).count_nonzero()) for k,m in sp.masks.items())

def train_step(model, opt, x, y):
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    opt.step()
    opt.zero_grad()
    return loss.item()

def make_photos(folder, **counts):
    "Noise as photos: a folder for each class, of so many for training and for validation, PNG and JPEG in turn"
    rng = np.random.default_rng(0)
    for name,ns in counts.items():
        for part,n in zip(('train','val'), ns):
            (folder/part/name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 255, (*rng.integers(20, 60, 2), 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder/part/name/(f'{i}.JPEG' if i%2 else f'{i}.png'))

def batch(n=8, size=6, n_in=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, n_in, size, size, generator=g), torch.randint(0, 10, (n,), generator=g)

def few_batches(n=4, bs=8, n_in=1):
    "Random images, `n` batches an epoch, always the same"
    g = torch.Generator().manual_seed(1)
    items = [(torch.randn(n_in,8,8, generator=g), torch.randint(0, 10, (), generator=g)) for _ in range(n*bs)]
    return DataLoaders(DataLoader(items, bs=bs), DataLoader(items[:bs], bs=bs))

class Losses(Callback):
    "Makes the validation loss of each epoch what we want it to be"
    order = 54
    def __init__(self, losses): self.losses = losses
    def after_validate(self):
        if len(self.recorder.log)>2 and not self.learn.lock.locked(): self.recorder.log[2] = self.losses[self.epoch]

def quiet(learn):
    "Keeps its table for itself"
    learn.remove_cb(ProgressCallback)
    learn.rows = []
    learn.logger = learn.rows.append
    return learn

# Random networks, to be pruned and not to be run: layers beside each other, with some between that are never pruned

def _conv(kind, n_spatial):
    @st.composite
    def layer(draw):
        groups = draw(st.integers(1, 2))
        kernel = tuple(draw(st.integers(1, 3)) for _ in range(n_spatial))
        return kind(groups*draw(st.integers(1, 3)), groups*draw(st.integers(1, 2)),
                    kernel, groups=groups, bias=draw(st.booleans()))
    return layer()

_layers = {nn.Linear: st.builds(nn.Linear, st.integers(1, 9), st.integers(1, 9)),
           **{getattr(nn, f'Conv{t}{n}d'): _conv(getattr(nn, f'Conv{t}{n}d'), n)
              for t in ('','Transpose') for n in (1,2,3)}}
_have = {kind: set(granularities_of(kind(2,2) if kind is nn.Linear else kind(2,2,2))) for kind in prunable_types}
dtypes = st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16])

def _to_channels_last(net):
    for p in net.parameters():
        if p.dim()==4: p.data = p.data.contiguous(memory_format=torch.channels_last)
        if p.dim()==5: p.data = p.data.contiguous(memory_format=torch.channels_last_3d)
    return net

@st.composite
def nets(draw, granularity='weight', max_layers=4, ties=True, dtype=dtypes):
    "A random network whose layers have the granularity; with `ties` its weights are small whole numbers"
    kinds = [o for o in prunable_types if granularity in _have[o]]
    layers = draw(st.lists(st.sampled_from(kinds).flatmap(_layers.__getitem__), min_size=1, max_size=max_layers))
    net = nn.Sequential(*[o for layer in layers
                          for o in ((layer, nn.BatchNorm1d(3)) if draw(st.booleans()) else (layer,))])
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0, 1, 3, 20])) if ties else None
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) if spread is None
                    else torch.randint(-spread, spread+1, p.shape, generator=g))
    net.to(draw(dtype))
    return _to_channels_last(net) if draw(st.booleans()) else net

sparsities = st.one_of(st.sampled_from([0, 1, 25, 33.3, 50, 99, 100]), st.floats(1, 100))
methods = st.sampled_from(['local', 'global'])

def some_images(name, n=40, seed=0):
    "Random images of both parts, [n, height, width] or [n, height, width, 3], and labels of all classes"
    rng,(c,h,w) = np.random.default_rng(seed),image_sets[name].shape
    def part(n): return rng.integers(0, 256, (n,h,w) if c==1 else (n,h,w,c), dtype=np.uint8), np.arange(n)%10
    return dict(train=part(n), test=part(n//2))

def write_idx(path, numbers):
    head = struct.pack(f'>HBB{numbers.ndim}I', 0, 8, numbers.ndim, *numbers.shape)
    data = head+np.asarray(numbers, np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix=='.gz' else data)

def as_idx(folder, parts, dot='-', end=''):
    folder.mkdir(parents=True, exist_ok=True)
    for part,(images,labels) in parts.items():
        stem = 'train' if part=='train' else 't10k'
        write_idx(folder/f'{stem}-images{dot}idx3-ubyte{end}', images)
        write_idx(folder/f'{stem}-labels{dot}idx1-ubyte{end}', labels)
