"What all tests share: the same numbers in every run, pictures without a window, one thread; the longest files first"
import os
import matplotlib, pytest, torch
from fastai.torch_core import default_device
from hypothesis import HealthCheck, settings

import lottery_nb.all # noqa: F401, all that registers something: a test is the same alone and with the others
from lottery_nb.arms import arms
from lottery_nb.criteria import criteria, needs
from lottery_nb.granularity import granularities
from lottery_nb.methods import methods
from lottery_nb.schedules import schedules
from lottery_nb.stacked import augmentations
from lottery_nb.supermask import mask_rules

matplotlib.use('Agg')
torch.set_num_threads(1) # tensors here are small: a second thread costs more than it brings
settings.register_profile('same', derandomize=True, deadline=None, max_examples=30,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('same')

def pytest_configure(config):
    "On the CPU, whose bits are the same each time, also where there's a GPU"
    if config.option.markexpr=='gpu': return
    os.environ['CUDA_VISIBLE_DEVICES'] = '' # for processes of their own, too
    default_device(False) # on a Mac

LONGEST = ['test_tutorials','test_notebooks','test_distributed']

def pytest_collection_modifyitems(items):
    "Side by side, files are begun in this order: what is left for the end is short. All processes call a test the same"
    for o in items:
        if ' at 0x' in o.nodeid: raise pytest.UsageError(f'{o.nodeid}: an address is another in each process')
    items.sort(key=lambda o: LONGEST.index(o.path.stem) if o.path.stem in LONGEST else len(LONGEST))

@pytest.fixture(autouse=True)
def apart():
    "Each test begins with the same random numbers, and what it registers is forgotten"
    torch.manual_seed(0)
    registries = arms, augmentations, criteria, needs, granularities, mask_rules, methods, schedules
    before = [{k: dict(v) if isinstance(v, dict) else v for k,v in o.items()} for o in registries]
    yield
    for o,was in zip(registries, before):
        o.clear()
        o.update(was)
