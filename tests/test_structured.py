"Channels of all kinds of networks: found, pruned as asked, cut, trained on, stored; or left, with the reason"
import copy, math, time, warnings

import pytest, torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from lottery_nb.arms import arms, random_ticket
from lottery_nb.channels import ChannelUnits, channel_groups, followers, output_difference, with_followers
from lottery_nb.core import ArgumentError, warn
from lottery_nb.export import export_onnx, sparse_linear
from lottery_nb.masks import Masks
from lottery_nb.measure import count_macs, profile
from lottery_nb.shrink import save_shrunk, shrink, shrink_like
from lottery_nb.sparsifier import Sparsifier, find_layers
from models import Halves, differing, everything

pytestmark = pytest.mark.filterwarnings('ignore:.*not pruned.*', 'ignore:floor.*')

def noise(*shape): return torch.randn(*shape, generator=torch.Generator().manual_seed(0))

class Do(nn.Module):
    "Any function as a layer"
    def __init__(self, fn):
        super().__init__()
        self.fn = fn
    def forward(self, x): return self.fn(x)

class Attention(nn.Module):
    "Queries, keys and values in one linear layer, as they're written everywhere"
    def __init__(self, how, d=16, heads=4):
        super().__init__()
        self.how,self.heads,self.qkv,self.proj = how,heads,nn.Linear(d,3*d),nn.Linear(d,d)
    def forward(self, x):
        b,n,d = x.shape
        def apart(t): return t.reshape(b, n, self.heads, -1).transpose(1,2)
        if self.how=='chunk': q,k,v = map(apart, self.qkv(x).chunk(3, -1))
        else: q,k,v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2,0,3,1,4).unbind(0)
        if self.how=='product': y = (q@k.transpose(-2,-1)).softmax(-1)@v
        else: y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1,2).reshape(b, n, -1))

class Transformer(nn.Module):
    def __init__(self, how, d=16):
        super().__init__()
        self.embed,self.norm,self.attn = nn.Linear(8,d),nn.LayerNorm(d),Attention(how)
        self.mlp = nn.Sequential(nn.LayerNorm(d), nn.Linear(d,4*d), nn.GELU(), nn.Linear(4*d,d))
        self.head = nn.Linear(d,3)
    def forward(self, x):
        x = self.embed(x)
        x = x+self.attn(self.norm(x))
        return self.head((x+self.mlp(x)).mean(1))

class Queries(nn.Module):
    "A parameter's view enters a layer, as DETR's and the Perceiver's queries do"
    def __init__(self):
        super().__init__()
        self.q,self.l,self.fc,self.out = nn.Parameter(noise(1,5,6)),nn.Linear(6,8),nn.Linear(4,8),nn.Linear(8,3)
    def forward(self, x): return self.out((self.l(self.q.expand(len(x),-1,-1)).mean(1)+self.fc(x)).relu())

class ExtraHead(nn.Module):
    "A head that only runs while it's trained"
    def __init__(self):
        super().__init__()
        self.a,self.b,self.fc = nn.Conv2d(1,8,3),nn.Conv2d(8,8,3),nn.Linear(8,4)
        pool = nn.AdaptiveAvgPool2d(1),nn.Flatten()
        self.aux = nn.Sequential(nn.Conv2d(8,6,1), nn.BatchNorm2d(6), *pool, nn.Linear(6,4))
    def forward(self, x):
        y = self.a(x).relu()
        out = self.fc(self.b(y).relu().mean((2,3)))
        return (out, self.aux(y)) if self.training else out

class Keeps(nn.Module):
    "Keeps what its last forward pass made, as AWD_LSTM does"
    def __init__(self):
        super().__init__()
        self.a,self.b = nn.Linear(6,8),nn.Linear(8,3)
    def forward(self, x):
        self.last = self.a(x).relu()
        return self.b(self.last)

def made_of(*layers): return lambda: nn.Sequential(*copy.deepcopy(layers))
def mini_maxvit(): return models.MaxVit((64,64), 8, 2, [8,16,24,32], [1,1,1,1], 8, .0, num_classes=5)
def mini_swin(): return models.SwinTransformer([4,4], 16, [2,2], [2,4], [4,4], num_classes=5, stochastic_depth_prob=0.)
def googlenet(): return models.googlenet(num_classes=5, init_weights=False, aux_logits=True)

image,tokens,photo = noise(2,1,8,8),noise(2,5,8),noise(2,3,64,64)
any_view = nn.Linear(3,16),nn.ReLU(),Do(lambda x: x.view(len(x),-1,2,2))
networks = dict(
    reshape=(made_of(*any_view, nn.Conv2d(4,6,1), nn.ReLU(), nn.Conv2d(6,2,1)), noise(2,3)),
    reshape_norm=(made_of(*any_view, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4,2,1)), noise(2,3)),
    pixels=(made_of(nn.Conv2d(1,16,3), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(4,2,1)), image),
    glu=(made_of(nn.Conv2d(1,16,3), nn.GLU(1), nn.Conv2d(8,2,1)), image),
    flatten=(made_of(nn.Conv2d(1,4,3), nn.ReLU(), nn.Flatten(), nn.Linear(144,8), nn.ReLU(), nn.Linear(8,2)), image),
    grouped=(made_of(nn.Conv2d(1,8,1), nn.BatchNorm2d(8), nn.Conv2d(8,12,3,groups=2), nn.Conv2d(12,2,1)), image),
    halves=(Halves, image), queries=(Queries, noise(2,4)), extra_head=(ExtraHead, image), keeps=(Keeps, noise(2,6)),
    encoder=(made_of(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8,3)), tokens),
    **{f'attention_{o}': (lambda o=o: Transformer(o), tokens) for o in ('reshape','chunk','product')},
    shufflenet=(lambda: models.shufflenet_v2_x0_5(num_classes=5), photo), swin=(mini_swin, photo),
    maxvit=(mini_maxvit, photo), resnet=(lambda: models.resnet18(num_classes=5), photo), googlenet=(googlenet, photo))

def made(name):
    torch.manual_seed(0)
    net = networks[name][0]()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, .5, 1.5)
            for t in (m.bias, m.running_mean): nn.init.normal_(t)
    return net.eval()

def trains_on(net, x):
    out = net.train()(x)
    sum(o.square().sum() for o in (out if isinstance(out, tuple) else [out])).backward()
    return all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())

# What was asked for is reached, and can all be cut

@pytest.mark.parametrize('method', ['global','local'])
@pytest.mark.parametrize('name', networks)
def test_every_pruned_channel_is_cut_and_as_many_are_pruned_as_asked(name, method):
    net,x = made(name),networks[name][1]
    before,example = everything(net),x.clone()
    sp = Sparsifier(net, 'group', method, example=x)
    assert not differing(before, everything(net))
    masks = sp.sparsify(50)
    largest = max(sp.units.size(k) for k in sp.units.names)
    assert 50-100*largest/masks.n_weights<=masks.sparsity<=50.01 or method=='local'
    df = sp.report()
    df = df[df.units>0]
    assert df.weights.sum()==masks.n_weights and df.kept.sum()==masks.n_kept
    with torch.no_grad(): expected = net(x)
    small = shrink(net, masks, x)
    table = small.shrunk.table
    assert (table.cut==table.pruned).all() and table.cut.sum()>0
    with torch.no_grad(): assert torch.allclose(expected, small(x), 1e-4, 1e-5*float(expected.abs().max()))
    assert trains_on(small, x) and torch.equal(x, example)

def test_filters_behind_a_reshape_go_by_channels():
    net,x = made('reshape'),networks['reshape'][1]
    sp = Sparsifier(net, 'group', 'local', layers=['0'], example=x)
    stays = sp.sparsify(50)['0.weight'].any(1).view(4,4)
    assert sp.masks.sparsity==50 and (stays.all(1) | ~stays.any(1)).all() and sp.units.n('0.weight')==4

@pytest.mark.parametrize('forward,why', [
    (lambda x: x.view(-1,4,2,2), 'invalid for input'), (lambda x: x.view(len(x),4,-1,2), '3 would get|invalid'),
    (lambda x: x.view(len(x),-1,2,2).roll(1, 1), '3 would get other numbers')])
def test_channels_whose_number_forward_has_in_it_stay_and_say_so(forward, why):
    net = nn.Sequential(nn.Linear(3,16), nn.ReLU(), Do(forward), nn.Conv2d(4,6,1), nn.ReLU(), nn.Conv2d(6,2,1))
    x = noise(2,3)
    stays = {next(iter(g.layers)): g.stays for g in channel_groups(net, x)}
    assert "the forward pass can't do with fewer" in stays['0'] and stays['3']==''
    masks = Sparsifier(net, 'group', example=x).sparsify(50)
    assert list(masks)==['3.weight'] and masks.sparsity==50
    with pytest.raises(ValueError, match="can't do with fewer"): Sparsifier(net[:4], 'group', example=x)

def test_the_heads_of_an_attention_stay_whole():
    for how in ('reshape','chunk','product'):
        units = ChannelUnits(net := made(f'attention_{how}'), find_layers(net), 'group', tokens)
        assert units.names==['mlp.1.weight']

def test_what_a_group_leaves_out_is_named_with_the_reason_and_said_if_it_is_more_than_the_answer():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        df = Sparsifier(made('resnet'), 'group', example=photo).report()
        assert df.layer.iloc[-1]=='fc.weight (it is what the model gives back)' and len(df)==21 and not told
        Sparsifier(made('attention_reshape'), 'group', example=tokens)
    said, = told
    assert 'embed.weight (norm (LayerNorm) works on several channels at once)' in str(said.message)
    assert '% of all weights' in str(said.message) and said.filename==__file__

def fourier(x): return torch.fft.irfft(torch.fft.rfft(x, dim=-1).abs(), n=x.shape[-1])
def into_part(x):
    y = x.new_zeros(len(x), 8, *x.shape[2:])
    y[:,:4] = x
    return y+1
def moved_by(x): return F.grid_sample(x, x[:,:2].permute(0,2,3,1).tanh(), align_corners=False)

@pytest.mark.parametrize('fn, width, goes', [
    (lambda x: x.cumsum(-1), 4, True), (lambda x: x.softmax(2), 4, True),
    (lambda x: x.median(-1, True).values, 4, True),
    (lambda x: x.sort(-1).values, 4, True), (lambda x: F.local_response_norm(x, 2), 4, False),
    (lambda x: F.lp_pool2d(x, 2, 2), 4, True), (lambda x: F.pad(x, (1,1,0,0)).mean(-1, True), 4, True),
    (lambda x: F.unfold(x, 2).unflatten(-1, (5,5)), 16, True), (lambda x: F.interpolate(x, scale_factor=2.), 4, True),
    (lambda x: x.sort(1).values, 4, False), (lambda x: x.softmax(1), 4, False), (lambda x: F.normalize(x), 4, False),
    (lambda x: x.cumsum(1), 4, False), (lambda x: x.mean(1, True).expand(-1,4,-1,-1), 4, False),
    (lambda x: F.layer_norm(x, x.shape[1:]), 4, False),
    (fourier, 4, False), (into_part, 8, False), (moved_by, 4, False)])
def test_an_operation_is_asked_what_it_does(fn, width, goes):
    net = nn.Sequential(nn.Conv2d(1,4,3), Do(fn), nn.Conv2d(width,3,1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    net(image)
    g = channel_groups(net, image)[0]
    assert bool(g.inputs and not g.stays)==goes, g

def test_halves_go_in_pairs():
    g = channel_groups(Halves(), image)[0]
    assert g.layers['stem'].tolist()==[[0,4],[1,5],[2,6],[3,7]] and set(g.inputs)=={'a','b'}

def test_detectors_are_refused_at_once():
    net = models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    start = time.perf_counter()
    for refused in (lambda: Sparsifier(net, 'group', example=photo), lambda: channel_groups(net, photo)):
        with pytest.raises(ValueError, match='boxes, such as its model.backbone'): refused()
    assert time.perf_counter()-start<5
    assert any(not g.stays for g in channel_groups(net.backbone, photo))

@pytest.mark.parametrize('name', ['ssdlite320_mobilenet_v3_large','fasterrcnn_mobilenet_v3_large_320_fpn'])
def test_filters_of_detectors_take_their_norms_along(name):
    net = getattr(models.detection, name)(weights=None, weights_backbone=None).eval()
    found,norms = followers(net, photo),[n for n,m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and {f'{n}.weight' for n in norms}=={k for o in found.values() for k in o if k.endswith('.weight')}

# Layers compete by what their channels are among their own

def widths(sp): return {k: int(sp.units.kept(k, sp.masks).sum()) for k in sp.units.names}

def test_layers_of_other_magnitudes_are_treated_alike():
    x = photo
    nets = made('resnet'),made('resnet')
    with torch.no_grad():
        for i,k in enumerate(Sparsifier(nets[1], 'group', example=x).units.groups.values()):
            for n in k.layers: nets[1].get_submodule(n).weight.mul_(2.**(i%5))
    found = [Sparsifier(o, 'group', 'global', example=x) for o in nets]
    assert found[0].sparsify(50)==found[1].sparsify(50) and abs(found[0].masks.sparsity-50)<.1
    for k,n in widths(found[0]).items(): assert .4*found[0].units.n(k)<n<.6*found[0].units.n(k)

def test_scores_are_parts_of_the_mean_of_what_is_left():
    net = nn.Sequential(nn.Linear(4,20), nn.ReLU(), nn.Linear(20,20), nn.ReLU(), nn.Linear(20,3))
    sp = Sparsifier(net, 'group', 'local', example=noise(2,4))
    sp.sparsify(50)
    for k in sp.units.names:
        kept = sp.units.kept(k, sp.masks)
        scores = sp.units.scores(k, lambda n: net.get_parameter(n).detach().abs())
        assert torch.isclose(sp.units.comparable(scores, kept)[kept].mean(), torch.ones(()))

@pytest.mark.parametrize('floor', [None, 0, 25, 100])
@pytest.mark.parametrize('method', ['global','local'])
def test_a_part_of_each_layer_stays(floor, method):
    net,x = made('resnet'),photo
    sp = Sparsifier(net, 'group', method, example=x, floor=floor)
    for sparsity in (60, 97):
        sp.sparsify(sparsity)
        least = 10 if floor is None else floor
        assert all(n>=max(1, math.ceil(least*sp.units.n(k)/100)) for k,n in widths(sp).items())
    if least>3: assert all(n==math.ceil(least*sp.units.n(k)/100) for k,n in widths(sp).items())
    else: assert sp.masks.sparsity>96.5

def test_a_floor_goes_with_any_granularity():
    net = nn.Sequential(nn.Linear(10,40), nn.ReLU(), nn.Linear(40,40))
    with torch.no_grad(): net[0].weight.mul_(1e-3)
    for granularity,n in (('weight', 80), ('row', 8)):
        sp = Sparsifier(copy.deepcopy(net), granularity, 'global', floor=20)
        sp.sparsify(90)
        assert int(sp.units.kept('0.weight', sp.masks).sum())==n
    with pytest.raises(ValueError, match='floor=120: expected a percentage'): Sparsifier(net, floor=120)
    with pytest.warns(UserWarning, match='floor=0.1 .*for 10 percent say floor=10'): Sparsifier(net, floor=.1)

def test_what_is_below_the_floor_already_stays_pruned():
    net,x = nn.Sequential(nn.Linear(4,20), nn.ReLU(), nn.Linear(20,3)),noise(2,4)
    found = Sparsifier(net, 'group', example=x, floor=0).sparsify(95)
    sp = Sparsifier(net, 'group', example=x, floor=50)
    sp.put_on(found)
    assert sp.sparsify(95)==found

@pytest.mark.filterwarnings('default')
def test_a_floor_that_is_reached_is_said_once_here_with_what_to_do():
    net,x = nn.Sequential(nn.Linear(4,20), nn.ReLU(), nn.Linear(20,20), nn.ReLU(), nn.Linear(20,3)),noise(2,4)
    sp = Sparsifier(net, 'group', layers=['0','2'], example=x)
    with pytest.warns(UserWarning, match=r"floor: at 95 % .* 10 % .*method='local'.*floor=0") as caught: sp.sparsify(95)
    assert caught[0].filename==__file__ and len(caught)==1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        sp.sparsify(96)
        Sparsifier(net, 'group', 'local', layers=['0','2'], example=x).sparsify(90)

def test_warnings_point_at_the_caller_through_libraries():
    with pytest.warns(UserWarning, match='hello') as caught: torch.no_grad()(lambda: warn('hello'))()
    assert caught[0].filename==__file__

# The check looks at what is there, however small, and behind a head that says nothing

class Centred(nn.Conv2d):
    "Weights less their mean: an input less makes other weights of the rest"
    def forward(self, x): return self._conv_forward(x, self.weight-self.weight.mean((1,2,3), keepdim=True), self.bias)

@pytest.mark.parametrize('scale', [1, 1e-6, 0])
def test_what_would_give_something_else_is_not_cut(scale):
    net = nn.Sequential(nn.Conv2d(1,8,3), nn.ReLU(), Centred(8,4,3), nn.ReLU(), nn.Flatten(), nn.Linear(64,2)).eval()
    with torch.no_grad(): net[-1].weight.mul_(scale), net[-1].bias.mul_(scale)
    gone = torch.ones(8,1,3,3, dtype=torch.bool)
    gone[::2] = False
    masks = with_followers(net, Masks({'0.weight': gone}), image)
    small = shrink(net, masks, image)
    assert small.shrunk.table.cut.sum()==0 and "wouldn't give the same" in small.shrunk.table.why[0]
    assert shrink(net, masks, image, check=False).shrunk.table.cut[0]==4

def test_small_outputs_may_not_be_far_off():
    a = [torch.tensor([3e-6]), torch.ones(2)]
    far = [torch.tensor([1e-6]), torch.ones(2)]
    with pytest.raises(ValueError, match='differ by 2e-06'): output_difference(a, far, .1)
    assert output_difference(a, [torch.tensor([3.1e-6]), torch.ones(2)], .1)<2e-7
    with pytest.raises(ValueError, match='differ'): output_difference([torch.zeros(2)], [torch.full((2,), 1e-12)], 1e-5)

# What is looked at stays as it is

class InPlace(nn.Module):
    "Writes into what it's given"
    def __init__(self):
        super().__init__()
        self.a,self.b = nn.Linear(6,8),nn.Linear(8,3)
    def forward(self, x): return self.b(self.a(x.mul_(2).add_(1)).relu_())

half = Masks({'a.weight': (torch.arange(8)%2==0)[:,None].expand(8,6).contiguous()})
looks = dict(
    profile=lambda net, x, path: profile(net, x, repeats=2), count_macs=lambda net, x, path: count_macs(net, x),
    shrink=lambda net, x, path: shrink(net, with_followers(net, half, x), x),
    followers=lambda net, x, path: followers(net, x), channel_groups=lambda net, x, path: channel_groups(net, x),
    group=lambda net, x, path: Sparsifier(net, 'group', example=x),
    sparse_linear=lambda net, x, path: sparse_linear(net),
    export_onnx=lambda net, x, path: export_onnx(net, x, path/'a.onnx'),
    random_ticket=lambda net, x, path: random_ticket(net, 50, granularity='group', example=x),
    reinit=lambda net, x, path: arms['reinit'].begin(random_ticket(net, 50), 1, net))

@pytest.mark.parametrize('model', [InPlace, Keeps])
@pytest.mark.parametrize('name', looks)
def test_networks_that_write_or_keep_are_looked_at(name, model, tmp_path):
    if name=='export_onnx': pytest.importorskip('onnxruntime')
    net,x = model(),noise(4,6)
    if model is Keeps: net(x) # what it keeps now is no leaf
    before,example = everything(net),x.clone()
    looks[name](net, x, tmp_path)
    assert torch.equal(x, example) and not differing(before, everything(net))

def test_what_cannot_be_exported_says_why(tmp_path):
    pytest.importorskip('onnxruntime')
    class Looks(Keeps):
        def forward(self, x): return super().forward(x) if x.sum()>0 else x
    with pytest.raises(ValueError, match='model=.*torch.export can follow.*data-dependent'):
        export_onnx(Looks(), noise(4,6), tmp_path/'a')
    assert not (tmp_path/'a').exists()

# Stored and built again

def shrunk(name='resnet'):
    net,x = made(name),networks[name][1]
    return shrink(net, Sparsifier(net, 'group', 'local', example=x).sparsify(50), x),x

@pytest.mark.parametrize('name', ['resnet','googlenet','halves','extra_head','shufflenet'])
def test_a_shrunk_network_is_built_again_from_its_file(name, tmp_path):
    small,x = shrunk(name)
    trains_on(small, x) # its statistics are others now
    path = small.save(tmp_path/'small.safetensors')
    assert [o.name for o in tmp_path.iterdir()]==['small.safetensors']
    again = shrink_like(networks[name][0](), path)
    assert not differing(everything(small), everything(again)) and repr(again.shrunk)==repr(small.shrunk)
    assert again.shrunk.table.equals(small.shrunk.table)
    with torch.no_grad(): assert torch.equal(small.eval()(x), again.eval()(x))
    assert again.save(tmp_path/'again').read_bytes()==path.read_bytes()

def test_shrunk_twice_and_copied(tmp_path):
    net,x = made('reshape'),networks['reshape'][1]
    for _ in range(2): net = shrink(net, Sparsifier(net, 'group', 'local', example=x, floor=0).sparsify(50), x)
    other = copy.deepcopy(net)
    with torch.no_grad(): other[0].weight.add_(1)
    for o in (net, other):
        again = shrink_like(networks['reshape'][0](), o.save(tmp_path/'a'))
        assert not differing(everything(o), everything(again)) and again[0].out_features==4

def test_files_and_networks_that_are_others(tmp_path):
    small,x = shrunk()
    path = small.save(tmp_path/'small')
    data,ticket,fresh = path.read_bytes(),random_ticket(Keeps(), 50).save(tmp_path/'t').read_bytes(),made('resnet')
    for bad in (b'', b'no', data[:-1], data[:500], data.replace(b'shrunk 2', b'shrunk 3'), ticket,
                *(data[:i] + bytes([data[i]^1]) + data[i+1:] for i in range(8, len(data), len(data)//200))):
        (tmp_path/'bad').write_bytes(bad)
        with pytest.raises(ValueError, match='path=.*a file that the save of a shrunk network wrote'):
            shrink_like(fresh, tmp_path/'bad')
    with pytest.raises(OSError): shrink_like(fresh, tmp_path/'none')
    for net in (Keeps(), models.resnet34(num_classes=5), models.resnet18(num_classes=6), small):
        before = everything(net)
        with pytest.raises(ValueError, match='model=.*network that was shrunk'): shrink_like(net, path)
        assert not differing(before, everything(net))
    with pytest.raises(ValueError, match="small='Keeps': expected a network that shrink gave"):
        save_shrunk(Keeps(), path)
    assert path.read_bytes()==data

# Channels of a network that is sparse already

class Residual(nn.Module):
    "Two convs whose channels are added, so they go together"
    def __init__(self):
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(1,8,3), nn.Conv2d(1,8,3), nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8,3,1)
    def forward(self, x): return self.head(self.norm(self.one(x)+self.two(x)))

def test_channels_that_are_zero():
    "Those that go together are kept pruned together; half of one of them is refused, before anything changes"
    net, x = Residual(), torch.randn(2,1,5,5)
    masks = Sparsifier(net, 'group', example=x).sparsify(40)
    for k,m in masks.items(): assert torch.equal(net.get_parameter(k)!=0, m)
    sp = Sparsifier(net, 'group', example=x, keep_zeros=True)
    assert sp.masks==masks and sp.asked==pytest.approx(masks.sparsity) and (sp.sparsify(60) - masks).n_kept==0
    half = Residual()
    half.one.weight.data[2] = 0
    before = everything(half)
    with pytest.raises(ArgumentError, match='keep_zeros=True: .*but two.weight has 9 numbers that are not'):
        Sparsifier(half, 'group', example=x, keep_zeros=True)
    assert not differing(everything(half), before)

def test_filters_whose_bias_is_not_zero():
    net, x = nn.Sequential(nn.Conv2d(1,4,3), nn.ReLU(), nn.Conv2d(4,2,3)), torch.randn(2,1,7,7)
    net[0].weight.data[1] = 0
    assert Sparsifier(copy.deepcopy(net), 'filter', keep_zeros=True).masks==Masks.from_model(net) # the bias may train
    with pytest.raises(ArgumentError, match='but 0.bias has 1 numbers that are not'):
        Sparsifier(net, 'filter', example=x, keep_zeros=True)
    net[0].bias.data[1] = 0
    assert Sparsifier(net, 'filter', example=x, keep_zeros=True).report().units_kept.tolist()==[3, 2]
