"""Beside other libraries: the pages run, and under their loops what is promised holds: zeros after every step, masks
that come out of a checkpoint. What isn't installed (`pip install 'lottery_nb[beside]'`) is skipped, by name"""
import ast, os, subprocess, sysconfig
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
import nbformat, pytest, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from lottery_nb.masks import Masks, named_tensors
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket, same_bits
from models import mlp

root = Path(__file__).resolve().parent.parent
pages = sorted((root/'nbs'/'beside').glob('*.ipynb'))

def imported(path):
    "The packages that a page's cells import"
    code = '\n'.join(c.source for c in nbformat.read(path, 4).cells if c.cell_type=='code')
    nodes = list(ast.walk(ast.parse(code)))
    names = [a.name for o in nodes if isinstance(o, ast.Import) for a in o.names]
    return {o.partition('.')[0] for o in names + [o.module for o in nodes if isinstance(o, ast.ImportFrom)]}

@pytest.mark.parametrize('path', pages, ids=lambda o: o.stem)
def test_a_page_runs(path, tmp_path):
    if lacks := [o for o in sorted(imported(path)) if not find_spec(o)]: pytest.skip(f'no {", ".join(lacks)} here')
    env = {k:v for k,v in os.environ.items() if k!='PYTHONWARNINGS'}
    env |= dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', WANDB_MODE='offline', HOME=str(tmp_path))
    done = subprocess.run([Path(sysconfig.get_path('scripts'))/'nbdev-test', path], cwd=root, env=env,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode==0, done.stdout + done.stderr

@pytest.mark.parametrize('path', pages, ids=lambda o: o.stem)
def test_a_page_shows_what_came_out(path):
    cells = nbformat.read(path, 4).cells
    outputs = [o for c in cells if c.cell_type=='code' for o in c.outputs]
    assert outputs and not [o for o in outputs if o.output_type=='error' or o.get('name')=='stderr']
    assert any(c.source=='## What you have to know' for c in cells)

def class_of(page, name, **scope):
    "A class as the page has it, so that what is tested is what a reader copies"
    cells = nbformat.read(root/'nbs'/'beside'/f'{page}.ipynb', 4).cells
    source, = [c.source for c in cells if c.source.startswith(f'class {name}(')]
    exec(source, scope)
    return scope[name]

def n_wrong(model, sp):
    "How many pruned weights aren't exactly 0"
    return sum(int(model.get_parameter(k)[~m].count_nonzero()) for k,m in sp.masks.items())

torch_data = TensorDataset(torch.rand(192, 64), torch.arange(192)%10)

# Lightning

@pytest.fixture
def lightning():
    L = pytest.importorskip('lightning', reason='no lightning here')
    class Net(L.LightningModule):
        def __init__(self, opt=torch.optim.Adam):
            super().__init__()
            self.net,self.opt = mlp(),opt
        def training_step(self, batch, i): return nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        def configure_optimizers(self): return self.opt(self.parameters(), 1e-2)
    L.Net,L.Sparse = Net,class_of('lightning', 'Sparse', L=L, Masks=Masks)
    class Watches(L.Callback):
        "Looks at the weights after every batch"
        def __init__(self, sp): self.sp,self.wrong = sp,[]
        def on_train_batch_end(self, trainer, module, *args): self.wrong.append(n_wrong(module, self.sp))
    L.Watches = Watches
    return L

def fit(L, model, n_epoch, folder, *callbacks, path=None, **kwargs):
    trainer = L.Trainer(max_epochs=n_epoch, callbacks=list(callbacks), accelerator='cpu', logger=False,
                        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, **kwargs)
    trainer.fit(model, DataLoader(torch_data, batch_size=32), ckpt_path=path)
    return trainer

@pytest.mark.parametrize('kwargs', [{}, dict(gradient_clip_val=.1), dict(accumulate_grad_batches=2),
                                    dict(precision='bf16-mixed')], ids=str)
def test_lightning_leaves_zeros_after_every_step(lightning, kwargs, tmp_path):
    model = lightning.Net(lambda p, lr: torch.optim.SGD(p, lr, momentum=.9, weight_decay=.1))
    began,sp = deepcopy(model.state_dict()),Sparsifier(model)
    sp.sparsify(80)
    watches = lightning.Watches(sp)
    fit(lightning, model, 2, tmp_path, lightning.Sparse(sp), watches, **kwargs)
    assert watches.wrong==[0]*12
    assert not torch.equal(model.state_dict()['net.1.weight'][sp.masks['net.1.weight']],
                           began['net.1.weight'][sp.masks['net.1.weight']]), 'it trains'

def test_without_the_callback_lightning_fills_them(lightning, tmp_path):
    "So the test above can fail"
    model = lightning.Net()
    sp = Sparsifier(model)
    sp.sparsify(80)
    watches = lightning.Watches(sp)
    fit(lightning, model, 1, tmp_path, watches)
    assert all(watches.wrong)

def test_lightning_resumes_under_the_masks_as_if_nothing_had_happened(lightning, tmp_path):
    torch.manual_seed(1)
    model = lightning.Net()
    first = deepcopy(model)
    sp = Sparsifier(model)
    sp.sparsify(80)
    trainer = fit(lightning, model, 2, tmp_path, lightning.Sparse(sp))
    path = trainer.checkpoint_callback.best_model_path
    other = lightning.Net()
    sp2 = Sparsifier(other)
    watches = lightning.Watches(sp2)
    fit(lightning, other, 4, tmp_path, lightning.Sparse(sp2), watches, path=path)
    assert sp2.masks==sp.masks and watches.wrong==[0]*12
    sp3 = Sparsifier(first)
    sp3.sparsify(80)
    fit(lightning, first, 4, tmp_path, lightning.Sparse(sp3))
    assert same_bits(named_tensors(other), named_tensors(first)), 'never interrupted'

def test_two_fits_of_lightning_with_a_rewind_between(lightning, tmp_path):
    model = lightning.Net()
    sp = Sparsifier(model)
    sp.save_weights()
    for sparsity in (50, 80):
        fit(lightning, model, 1, tmp_path, lightning.Sparse(sp))
        sp.sparsify(sparsity)
        sp.rewind()
        for k,m in sp.masks.items(): assert torch.equal(model.get_parameter(k)[m], sp.snapshot[k][m])
    assert not n_wrong(model, sp) and abs(sp.masks.sparsity-80)<.01

# Hugging Face Trainer

@pytest.fixture
def hf():
    transformers = pytest.importorskip('transformers', reason='no transformers here')
    if not find_spec('accelerate'): pytest.skip('no accelerate here')
    return transformers

def bert(hf, seed=0):
    torch.manual_seed(seed)
    return hf.BertForSequenceClassification(hf.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=8, num_labels=2, hidden_dropout_prob=0., attention_probs_dropout_prob=0.))

def hf_train(hf, model, sp, n_epoch, folder, path=None, sparse=True, **kwargs):
    "Trains, and gives what was wrong after each step"
    Sparse,wrong = class_of('hugging_face_trainer', 'Sparse', TrainerCallback=hf.TrainerCallback, Path=Path),[]
    class Watches(hf.TrainerCallback):
        def on_step_end(self, *args, **kwargs): wrong.append(n_wrong(model, sp))
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 20, (128, 8), generator=g)
    data = [dict(input_ids=t, labels=t[0]%2) for t in tokens]
    args = hf.TrainingArguments(folder, num_train_epochs=n_epoch, per_device_train_batch_size=32, learning_rate=1e-2,
                                lr_scheduler_type='constant', save_strategy='epoch', use_cpu=True, report_to=[],
                                disable_tqdm=True, logging_strategy='no', **kwargs)
    trainer = hf.Trainer(model, args, train_dataset=data, callbacks=[Sparse(sp)]*sparse + [Watches()])
    trainer.train(resume_from_checkpoint=path)
    return wrong

def sparse_bert(hf):
    model = bert(hf)
    sp = Sparsifier(model, layers=lambda name, module: 'encoder' in name)
    sp.save_weights()
    sp.sparsify(80)
    return model,sp

@pytest.mark.parametrize('kwargs', [{}, dict(weight_decay=.1, max_grad_norm=.1), dict(gradient_accumulation_steps=2),
                                    dict(optim='adafactor'), dict(bf16=True)], ids=str)
def test_hf_leaves_zeros_after_every_step(hf, kwargs, tmp_path):
    model,sp = sparse_bert(hf)
    wrong = hf_train(hf, model, sp, 2, tmp_path, **kwargs)
    assert wrong==[0]*(4 if 'gradient_accumulation_steps' in kwargs else 8)
    trained = {k: model.get_parameter(k) for k in sp.masks}
    assert not any(torch.equal(p[sp.masks[k]], sp.snapshot[k][sp.masks[k]]) for k,p in trained.items()), 'it trains'

def test_without_the_callback_hf_fills_them(hf, tmp_path):
    model,sp = sparse_bert(hf)
    assert all(hf_train(hf, model, sp, 1, tmp_path, sparse=False))

def test_hf_resumes_under_the_masks_as_if_nothing_had_happened(hf, tmp_path):
    model,sp = sparse_bert(hf)
    hf_train(hf, model, sp, 2, tmp_path/'a')
    last = tmp_path/'a'/'checkpoint-8'
    other = bert(hf, seed=5)
    sp2 = Ticket.load(last/'ticket.safetensors').apply_to(other)
    sp2.save_weights()
    assert same_bits({k: sp2.snapshot[k] for k in sp2.masks}, {k: sp.ticket.state[k] for k in sp.masks})
    assert hf_train(hf, other, sp2, 4, tmp_path/'a', str(last))==[0]*8
    assert sp2.masks==sp.masks
    first,sp3 = sparse_bert(hf)
    hf_train(hf, first, sp3, 4, tmp_path/'b')
    assert same_bits(named_tensors(other), named_tensors(first)), 'never interrupted'

def test_masks_of_what_save_pretrained_has_written(hf, tmp_path):
    model,sp = sparse_bert(hf)
    hf_train(hf, model, sp, 1, tmp_path/'a')
    model.save_pretrained(tmp_path/'b')
    again = hf.BertForSequenceClassification.from_pretrained(tmp_path/'b')
    assert Sparsifier(again, layers=lambda name, module: 'encoder' in name, keep_zeros=True).masks==sp.masks

# timm

@pytest.mark.parametrize('name', ['test_convnext','test_resnet','test_vit','test_efficientnet','test_mambaout'])
def test_networks_of_timm(name):
    timm = pytest.importorskip('timm', reason='no timm here')
    model = timm.create_model(name, num_classes=3)
    stay = model.pretrained_cfg['first_conv'],model.pretrained_cfg['classifier']
    sp = Sparsifier(model, layers=lambda name, module: name not in stay)
    assert not {f'{o}.weight' for o in stay} & sp.masks.keys()
    sp.save_weights()
    sp.sparsify(80)
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3
    opt,ema = create_optimizer_v2(model, 'adamw', lr=1e-3, weight_decay=.1),ModelEmaV3(model, decay=.9)
    sp.watch(opt)
    for _ in range(2):
        model(torch.randn(2, 3, 64, 64)).square().sum().backward()
        opt.step()
        opt.zero_grad()
        ema.update(model)
        assert not n_wrong(model, sp)
    sp.masks.apply_(ema.module)
    assert not n_wrong(ema.module, sp)
    other = timm.create_model(name, num_classes=7)
    assert sp.ticket.onto(other, but=stay[1]).masks==sp.masks
