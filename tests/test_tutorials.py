"""Every cell of every tutorial, the long trainings too, on a few images and for a few steps"""
import ast, importlib.util, re, shutil
from pathlib import Path
import nbformat, numpy as np, pytest
from PIL import Image
from lottery_nb.core import versions
from lottery_nb.data import imagenette_classes

root = Path(__file__).resolve().parent.parent
folder = root/'nbs'/'tutorials'
notebooks = sorted(folder.glob('[0-9]*.ipynb'))
recipes,beside = (sorted((root/'nbs'/o).glob('*.ipynb')) for o in ('recipes','beside'))
spec = importlib.util.spec_from_file_location('tutorials', root/'tools/tutorials.py')
tutorials = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tutorials)

few_steps = """
import functools
def small(f, **few):
    few = dict(n_step=24, bs=300, **few)
    return functools.wraps(f)(lambda *args, **kwargs: f(*args, **kwargs | few))
for f in (missing_the_mark, collapse, lottery_curve, deconstruct, early_bird, retraining, supermasks, dynamic_sparse,
          permuted_masks): globals()[f.__name__] = small(f)
for f in (instability, perturbations, rewind_grid): globals()[f.__name__] = small(f, at=[0,'5it'])
"""
# A cell that comes after the parameters: every cell runs, and its figures mean nothing
small = {
    '00_first_ticket': 'seeds = 2',
    '01_imagenette': 'size = 32\nbs = 8\nseeds = 1',
    '02_criteria_and_schedules': 'seeds = range(2)\nsparsities = 80,90\nepochs = more = 1\nbs = 512',
    '03_your_own': 'epochs = 1\nseeds = 2',
    '04_error_bars': 'seeds = rounds = look = 2\nn_step = 40\nearly = 20',
    '05_smaller_and_faster': 'seeds = range(100,102)\nepochs = 1\nseconds = .01\ndigits_dls = partial(digits_dls, 700)',
    '06_fine_tuning': 'epochs = rounds = 1',
    '08_how_much_where': 'seeds = 2\nn_step = 20',
    '09_transfer': 'seeds = rounds = 2\nn_step = 40',
    '10_landmarks': 'seeds = 2' + few_steps,
    '11_language_models': 'seeds = 2\nn_step = 20'}

def test_trainings_that_are_left_out_keep_their_versions(tmp_path):
    "Those of before stay as they were noted, and what was never noted isn't made up"
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('1+1'),
        nbformat.v4.new_code_cell('2+2', metadata=dict(tags=['long']))])
    path = tmp_path/'a.ipynb'
    nbformat.write(nb, path)
    def run(**kwargs):
        tutorials.run(path, **kwargs)
        return nbformat.read(path, 4)
    assert run().metadata.made_with.keys()=={'page'}
    nb.metadata['made_with'] = dict(trainings=dict(day='2020-01-01', torch='1.0'))
    nbformat.write(nb, path)
    before = run()
    assert before.metadata.made_with['trainings']==dict(day='2020-01-01', torch='1.0')
    assert [len(c.outputs) for c in before.cells]==[1,0]
    after = run(train=True)
    assert after.metadata.made_with['trainings']==after.metadata.made_with['page']==before.metadata.made_with['page']
    assert [len(c.outputs) for c in after.cells]==[1,1]

@pytest.mark.parametrize('path', [*notebooks, *recipes, *beside, root/'nbs/home.ipynb'], ids=lambda o: o.stem)
def test_every_page_that_one_runs_notes_what_made_it(path):
    told = nbformat.read(path, 4).metadata.get('made_with', {})
    assert told and all(o.keys()=={'day', *versions()} for o in told.values()), told

def cells(path): return [c for c in nbformat.read(path, 4).cells if c.cell_type=='code']

@pytest.fixture
def photos(tmp_path, monkeypatch):
    "A home for fastai with a few photos of noise where it looks for Imagenette"
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'fastai'))
    pixels = np.random.default_rng(0).integers(0, 256, (60,60,3), dtype=np.uint8)
    for part,n in dict(train=3, val=2).items():
        for name in imagenette_classes:
            (at := tmp_path/'fastai/data/imagenette2-160'/part/name).mkdir(parents=True)
            for i in range(n): Image.fromarray(pixels.repeat(2, i%2)).save(at/f'{name}_{i}.JPEG')

@pytest.mark.slow
@pytest.mark.parametrize('path', notebooks, ids=lambda o: o.stem)
def test_every_cell_runs(path, tmp_path, monkeypatch, photos):
    copy = shutil.copytree(folder, tmp_path/'tutorials', ignore=shutil.ignore_patterns('tickets'))/path.name
    tutorials.run(copy, train=True, code=small[path.stem])
    told = nbformat.read(copy, 4).metadata['made_with']
    assert told['page']==told.get('trainings', told['page']) and told['page'].keys()=={'day', *versions()}

@pytest.mark.parametrize('path', notebooks + recipes, ids=lambda o: o.stem)
def test_nothing_in_sight_is_there_for_the_tests(path):
    "Of directives only what a page is drawn with; what one may choose stands in plain assignments"
    nb = nbformat.read(path, 4)
    machinery = r'LOTTERY_NB|os\.environ|\bquick\b.*else|get_ipython|In\[-'
    for c in nb.cells: assert not re.search(machinery, c.source), c.source
    for c in cells(path):
        for line in re.findall(r'^#\s*\|.*', c.source, re.M): assert re.match(r'#\| (fig-alt|code-fold): ', line), line
    chosen = [c for c in cells(path) if tutorials.tagged(c, 'parameters')]
    assert len(chosen)<=1
    for c in chosen: assert all(isinstance(o, ast.Assign) for o in ast.parse(c.source).body), c.source

@pytest.mark.parametrize('path', notebooks + recipes, ids=lambda o: o.stem)
def test_it_says_at_once_how_long_it_takes_and_what_it_needs(path):
    top = nbformat.read(path, 4).cells[0].source
    assert re.search(r'^\*\*Takes\*\* .* on two cores.* \*\*Needs\*\* .*\.$', top, re.M), top

@pytest.mark.parametrize('path', notebooks + recipes, ids=lambda o: o.stem)
def test_tutorials_show_what_came_out(path):
    "No cell that draws or trains has lost its output, and none shows an error or a warning but of what isn't pruned"
    for c in cells(path):
        if re.search(r'^learn\.fit\(|plt\.show\(\)$', c.source, re.M) and 'no_bar' not in c.source:
            assert c.outputs, c.source
        for o in c.outputs:
            assert o.output_type!='error', c.source
            if o.output_type=='stream' and o.name=='stderr':
                assert re.fullmatch(r'UserWarning: .* not pruned: .*\n', o.text), c.source
