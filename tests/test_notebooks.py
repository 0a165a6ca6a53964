"Every notebook, from top to bottom, in a process of its own: what one imports or sets is not there in the next"
import os, subprocess, sysconfig
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
command = Path(sysconfig.get_path('scripts'))/'nbdev-test'
parts = '','recipes' # tutorials and the pages beside other libraries are run by tests of their own
notebooks = sorted(o for part in parts for o in (root/'nbs'/part).glob('*.ipynb'))

def quick(path): return [pytest.mark.quick] if path.name<'20' else []

@pytest.mark.parametrize('path', [pytest.param(o, id=o.stem, marks=quick(o)) for o in notebooks])
def test_it_runs(path):
    env = {k:v for k,v in os.environ.items() if k!='PYTHONWARNINGS'} | dict(OMP_NUM_THREADS='1')
    done = subprocess.run([command, path], cwd=root, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode==0, done.stdout + done.stderr
