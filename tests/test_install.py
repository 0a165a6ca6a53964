"A wheel, built and installed into an environment of its own, and used from outside the checkout"
import os, re, shutil, subprocess, sys, sysconfig, venv
from configparser import ConfigParser
from importlib.metadata import packages_distributions, version
from pathlib import Path
from zipfile import ZipFile
import pytest

pytestmark = pytest.mark.slow
root = Path(__file__).resolve().parent.parent
readme = (root/'README.md').read_text(encoding='utf-8')

def run(*args, cwd):
    """What a command printed. Its environment knows neither the checkout nor the virtual environment that the tests run
    in"""
    clean = {k:v for k,v in os.environ.items() if not k.startswith(('PYTHON', 'VIRTUAL_ENV'))}
    done = subprocess.run([str(o) for o in args], cwd=cwd, env=clean,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """What `make dist` leaves: the wheel, built from the source distribution, so that what that one lacks is missed
    here"""
    src = tmp_path_factory.mktemp('build')/'checkout'
    skip = shutil.ignore_patterns('.*', '__pycache__', '*.egg-info', 'build', 'dist', 'docs', 'runs')
    shutil.copytree(root, src, ignore=skip)
    run('make', 'dist', '-o', 'install', f"BIN={sysconfig.get_path('scripts')}", cwd=src)
    [told] = re.findall(r'`(dist/\S+\.whl)`', readme) or ['dist/*.whl'] # README says so until it's on PyPI
    return next(src.glob(told))

@pytest.fixture(scope='module')
def env(wheel, tmp_path_factory):
    "An environment with the wheel in it"
    home = tmp_path_factory.mktemp('install')/'env'
    venv.create(home, with_pip=True, symlinks=True)
    run(home/'bin/pip', 'install', '--no-deps', '--no-index', wheel, cwd=home)
    # Third-party packages are found in this environment's folders, but none of their .pth files is run:
    # an editable install does not get in
    site = run(home/'bin/python', '-c', "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    third_party = {sysconfig.get_path(o) for o in ('purelib', 'platlib')}
    third_party |= {o for o in sys.path if o.endswith(('site-packages', 'dist-packages'))}
    Path(site, 'third_party.pth').write_text('\n'.join(sorted(third_party)))
    return home

def extras():
    "The modules that only an extra brings, by what settings.ini says; and nbdev, which no user needs"
    config = ConfigParser(interpolation=None, delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    facts = config['DEFAULT']
    names = re.search(r'\[(.+)\]', facts['all_requirements'])[1].split(',')
    packages = {re.split('[<>=]', o)[0] for name in names for o in facts[f'{name}_requirements'].split()}
    return ['nbdev', *(top for top,homes in packages_distributions().items() if packages & set(homes))]

USE = '''
import sys
for o in {extras}: sys.modules[o] = None # an import of these fails from here on
from lottery_nb.all import *
import lottery_nb
print(lottery_nb.__file__, lottery_nb.__version__)
'''

def test_wheel_works_without_the_checkout_and_without_extras(env, tmp_path):
    assert {'ray', 'accelerate', 'onnx'} <= set(extras())
    file,ver = run(env/'bin/python', '-c', USE.format(extras=extras()), cwd=tmp_path).split()
    assert Path(file).is_relative_to(env) and ver == version('lottery_nb')

def test_command_of_the_wheel(env, tmp_path):
    assert 'demo' in run(env/'bin/lottery-nb', '--help', cwd=tmp_path)

def test_wheel_holds_the_package_and_the_licence(wheel):
    names = set(ZipFile(wheel).namelist())
    assert {f'lottery_nb/{o.name}'
            for o in (root/'lottery_nb').glob('*.py')} == {o for o in names if o.startswith('lottery_nb/')}
    assert [o for o in names if o.endswith('LICENSE')]

def test_metadata_of_the_wheel(env, tmp_path):
    "nbdev is no run-time requirement, and the modules' index is found under nbdev's entry point"
    code = '''
from importlib.metadata import distribution
d = distribution('lottery_nb')
print(*[o.split(';')[0] for o in d.requires if 'extra' not in o])
print(*[f'{o.group}:{o.value}' for o in d.entry_points])
print(d.metadata['License-Expression'])
'''
    requires,points,licence = run(env/'bin/python', '-c', code, cwd=tmp_path).splitlines()
    assert 'torch' in requires and 'nbdev' not in requires
    assert set(points.split()) == {'nbdev:lottery_nb._modidx:d', 'console_scripts:lottery_nb.cli:app'}
    assert licence == 'Apache-2.0'
