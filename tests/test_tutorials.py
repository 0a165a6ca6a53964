"""Every cell of every tutorial, the long trainings too, on a few images and for a few steps;
and the records of the real runs"""
import importlib.util, json, re, shutil
from pathlib import Path
from fastai.data.external import fastai_cfg
import nbformat, pytest

root = Path(__file__).resolve().parent.parent
folder = root/'nbs'/'tutorials'
notebooks = sorted(folder.glob('[0-9]*.ipynb'))
records = sorted((folder/'results').glob('*.json'))
spec = importlib.util.spec_from_file_location('tutorials', root/'tools/tutorials.py')
tutorials = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tutorials)
needs = {'01_imagenette': fastai_cfg().path('data')/'imagenette2-160'}

def cells(path): return [c for c in nbformat.read(path, 4).cells if c.cell_type=='code']

@pytest.mark.slow
@pytest.mark.parametrize('path', notebooks, ids=lambda o: o.stem)
def test_every_cell_runs(path, tmp_path, monkeypatch):
    if (data:=needs.get(path.stem)) and not data.exists(): pytest.skip(f'{data.name} is not here')
    out = tmp_path/'out'
    out.mkdir()
    monkeypatch.setenv('LOTTERY_NB_QUICK', str(out))
    copy = shutil.copytree(folder, tmp_path/'tutorials', ignore=shutil.ignore_patterns('tickets'))/path.name
    tutorials.run(copy, train=True)
    before,after = ({o.relative_to(d): o.read_bytes() for o in d.rglob('*') if o.is_file()
                     and 'tickets' not in o.parts and o.name!=path.name}
                    for d in (folder, tmp_path/'tutorials'))
    assert after==before, 'files that are not in LOTTERY_NB_QUICK'

@pytest.mark.parametrize('path', notebooks, ids=lambda o: o.stem)
def test_tutorials_show_what_came_out(path):
    "No cell that draws or trains has lost its output, and none shows an error or a warning"
    for c in cells(path):
        if re.search(r'^learn\.fit\(|plt\.show\(\)$', c.source, re.M) and 'no_bar' not in c.source:
            assert c.outputs, c.source
        for o in c.outputs:
            assert o.output_type!='error' and not (o.output_type=='stream' and o.name=='stderr'), c.source

def test_every_training_has_its_record():
    called = [name for c in cells(folder/'01_imagenette.ipynb')
              for name in re.findall(r"^record\('(\w+)'", c.source, re.M)]
    assert sorted(called)==[o.stem for o in records] and called

@pytest.mark.parametrize('path', records, ids=lambda o: o.stem)
def test_a_record_is_of_the_cell_that_is_shown(path):
    run = json.loads(path.read_text())
    [cell] = [c for c in cells(folder/'01_imagenette.ipynb') if c.source==run['code']]
    html = ''.join(o.data.get('text/html', '') for o in cell.outputs if 'data' in o)
    rows = [re.findall(r'<td>([^<]*)</td>', o) for o in re.findall(r'<tr>(<td>.*?)</tr>', html)]
    assert len(rows)==len(run['table'])
    def shown(name, value): return f'{value:.2f}' if name=='sparsity' else f'{value:.6f}'
    for row,record in zip(rows, run['table']):
        old = [f'{o:.6f}' for o in record.values()] # of runs before the column had two digits
        assert row[1:-1] in ([shown(*o) for o in record.items()], old)
