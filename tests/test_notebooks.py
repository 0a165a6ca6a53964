"Every notebook, from top to bottom, in a process of its own: what one imports or sets is not there in the next"
import multiprocessing, os, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
notebooks = sorted((root/'nbs').glob('*.ipynb')) # the tutorials are run by test_tutorials.py
processes = multiprocessing.get_context('forkserver') # which has imported what takes long, and nothing of ours
processes.set_forkserver_preload(['torch','fastai.vision.all','nbdev.test','scipy.stats'])

def run(path, told):
    "What `nbdev-test` does with a notebook; all that it prints goes to a file"
    from nbdev.test import nbdev_test
    for o in (1, 2): os.dup2(os.open(told, os.O_WRONLY|os.O_CREAT|os.O_APPEND), o)
    os.chdir(root)
    sys.argv[0] = 'nbdev-test'
    nbdev_test.__wrapped__(str(path))

def quick(path): return [pytest.mark.quick] if path.name<'20' else []

@pytest.mark.parametrize('path', [pytest.param(o, id=o.stem, marks=quick(o)) for o in notebooks])
def test_it_runs(path, tmp_path):
    process = processes.Process(target=run, args=(path, tmp_path/'told'))
    process.start()
    process.join()
    assert process.exitcode==0, (tmp_path/'told').read_text()
