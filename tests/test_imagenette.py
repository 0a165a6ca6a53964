"ResNet-18 on real photos: pruned, rewound, and the same to the last bit where the mask is 1"
import random

import numpy as np, pytest, torch
from fastai.basics import Callback, CrossEntropyLossFlat, Learner, accuracy
from fastai.callback.progress import ProgressCallback
from fastai.callback.training import ShortEpochCallback
from fastai.data.external import fastai_cfg
from fastcore.basics import noop
from torchvision.models import resnet18

from lottery_nb.callback import SparsifyCallback
from lottery_nb.criteria import large_final
from lottery_nb.data import imagenette_dls
from lottery_nb.schedules import iterative
from lottery_nb.sparsifier import Sparsifier
from models import differing, everything, masked, nonzero_pruned

home = fastai_cfg().path('data')/'imagenette2-160'
needs_photos = pytest.mark.skipif(not (home/'train').is_dir(), reason=f'no photos: Imagenette is not in {home}')

class Rewinding(Callback):
    "Holds every rewind against the rewind point: called when all is ready for the next batch"
    order = 90
    def __init__(self, sp_cb): self.sp_cb,self.point,self.rewinds,self.keys,self.kept = sp_cb,None,0,[],None
    def before_batch(self):
        if not self.training: return
        now = everything(self.model)
        if self.epoch==1 and self.iter==0: self.point = now
        kept = self.sp_cb.masks.n_kept
        if self.kept and kept!=self.kept:
            self.rewinds += 1
            assert not differing(now, masked(self.point, self.sp_cb.masks))
        self.kept = kept
    def after_step(self):
        assert nonzero_pruned(self.sp_cb.sparsifier)==0
        self.keys.append(list(self.model.state_dict()))

@needs_photos
@pytest.mark.parametrize('reset_end', [False, True])
def test_resnet18_is_rewound_to_the_last_bit(reset_end):
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    dls = imagenette_dls(size=64, bs=16, path=home, seed=0, num_workers=0)
    learn = Learner(dls, resnet18(num_classes=10), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    dense = resnet18(num_classes=10)
    sp_cb = SparsifyCallback(50, 'weight', 'global', large_final, iterative,
                             start_epoch=2, lth=True, rewind_epoch=1, reset_end=reset_end, verbose=False)
    probe = Rewinding(sp_cb)
    learn.fit(5, cbs=[sp_cb, probe, ShortEpochCallback(pct=1.5/len(dls.train))]) # three batches an epoch
    assert probe.rewinds==3 and {len(o) for o in probe.keys}=={122}
    assert probe.keys.count(list(dense.state_dict()))==len(probe.keys)==15
    # all of it has moved in between, statistics and counters too
    end, ticket = everything(learn.model), sp_cb.ticket
    assert not differing(sp_cb.sparsifier.snapshot, probe.point)
    assert not differing(ticket.state, masked(probe.point, sp_cb.masks))
    assert set(differing(ticket.trained, ticket.state))==set(dense.state_dict())
    assert not differing(end, ticket.state if reset_end else ticket.trained)
    assert list(learn.model.state_dict())==list(dense.state_dict())
    # 20 convs and the output layer, half of all their weights
    n = sp_cb.masks.n_weights
    assert len(sp_cb.masks)==21 and n==11_172_032 and sp_cb.masks.n_kept==n-round(n/2)
    dense.load_state_dict(learn.model.state_dict())
    assert not differing(everything(dense), end)

def test_resnet18_without_photos():
    "The same on noise, so that it is seen on every machine"
    torch.manual_seed(0)
    net = resnet18(num_classes=10)
    opt, keys = torch.optim.Adam(net.parameters(), lr=1e-3), list(net.state_dict())
    sp = Sparsifier(net)
    sp.watch(opt)
    def step():
        torch.nn.functional.cross_entropy(net(torch.randn(4,3,64,64)), torch.arange(4)).backward()
        opt.step()
        opt.zero_grad()
        assert nonzero_pruned(sp)==0
    step()
    sp.save_weights(opt)
    point = everything(net)
    step()
    assert set(differing(everything(net), point))==set(keys)
    sp.sparsify(50)
    sp.rewind(opt)
    assert not differing(everything(net), masked(point, sp.masks)) and not opt.state and list(net.state_dict())==keys
