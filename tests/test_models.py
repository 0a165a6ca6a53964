"""torchvision's networks × what is right, for small ones of each kind, by the functions of `benchmarks/models.py`,
which has all of them: its table is `benchmarks/models.md`"""
import importlib.util, json, subprocess, sys
from functools import lru_cache
from pathlib import Path
import pytest

pytestmark = pytest.mark.slow
folder = Path(__file__).resolve().parent.parent/'benchmarks'
sys.path.append(str(folder)) # a benchmark imports what all of them share
spec = importlib.util.spec_from_file_location('benchmark_of_models', folder/'models.py')
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)
look = lru_cache(None)(benchmark.look)

names = ['resnet18', 'mobilenet_v3_small', 'squeezenet1_1', 'shufflenet_v2_x0_5', # classification
         'lraspp_mobilenet_v3_large', # segmentation
         'ssdlite320_mobilenet_v3_large'] # detection
right = dict(benchmark.right, smaller=lambda row: row['smaller']>2)
without_boxes = "expected a network without a detector's search for boxes, such as its model.backbone"
refused = {('ssdlite320_mobilenet_v3_large', k): without_boxes for k in ('group','onnx')}

def test_each_kind_is_there(): assert {look(o)['kind'] for o in names}=={'classification','segmentation','detection'}

@pytest.mark.parametrize('check', benchmark.checks)
@pytest.mark.parametrize('name', names)
def test_a_network_is_right(name, check):
    row = look(name)
    if (name,check) in refused:
        why,seconds = row['refused'][check]
        assert refused[name,check] in why and seconds<5
    elif check in row: assert right.get(check, lambda row: row[check] is True)(row)
    else: assert (name, benchmark.needs[check]) in refused or (name,'group') in refused, row['refused']

def test_what_is_wrong_is_seen():
    "A check that finds nothing says so, an error isn't taken for a refusal, and the table has both in it"
    o = benchmark.Network('squeezenet1_1')
    assert benchmark.exact(o)
    o.sp.watch = lambda opt: None
    assert not benchmark.zeros(o)
    assert benchmark.said(KeyError('a'))=="KeyError: 'a'" and benchmark.said(ValueError('a'))=='a'
    row = dict(name='x', ops=1., macs=1.01, group=49.8, exact=False, zeros=True, refused={'onnx': ['too large', 1.]})
    assert [benchmark.cell(row, k) for k in ('macs','group','exact','zeros')]==['**1.010**','**49.80**','**no**','yes']
    assert 'onnx: too large (1.0 s)' in benchmark.report(dict(rows=[row], circumstances={}), 'x.svg')

def test_the_table_of_all_has_nothing_wrong_in_it():
    rows = [o for o in (folder/'models.md').read_text().splitlines() if o.startswith('|')][2:]
    known = benchmark.all_names()
    assert rows and all(o.split(' ')[1] in known and '**' not in o for o in rows)

@pytest.mark.slow
def test_what_needs_too_much_memory_is_said(tmp_path):
    args = ['--names', 'alexnet', '--memory', '1', '--json', tmp_path/'a.json']
    subprocess.run([sys.executable, folder/'models.py', *args], check=True, capture_output=True)
    row, = json.loads((tmp_path/'a.json').read_text())['rows']
    assert row['refused'] and all('memory' in why for why,_ in row['refused'].values())
