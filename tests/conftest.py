"What all tests share: the same examples in every run, pictures without a window, one thread; the longest files first"
import matplotlib, torch
from hypothesis import HealthCheck, settings

matplotlib.use('Agg')
torch.set_num_threads(1) # tensors here are small: a second thread costs more than it brings
settings.register_profile('same', derandomize=True, deadline=None, max_examples=30,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('same')

LONGEST = ['test_tutorials','test_notebooks','test_distributed']

def pytest_collection_modifyitems(items):
    "Side by side, files are begun in this order: what is left for the end is short"
    items.sort(key=lambda o: LONGEST.index(o.path.stem) if o.path.stem in LONGEST else len(LONGEST))
