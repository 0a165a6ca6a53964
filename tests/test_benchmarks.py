"""The benchmarks run in small, and their pages are complete. What they measure is not judged here:
the machine may be busy"""
import json, math, os, re, subprocess, sys
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree
import pytest

pytestmark = pytest.mark.slow
folder = Path(__file__).resolve().parent.parent/'benchmarks'

@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    "What a benchmark gives with `--quick`: its results, once the report has been seen to be complete"
    @lru_cache(None)
    def run(name):
        out = tmp_path_factory.mktemp(name)
        args = [sys.executable, folder/f'{name}.py', '--quick', '--json', out/'all.json', '--markdown', out/'all.md']
        done = subprocess.run(args, cwd=out, env=os.environ | dict(OMP_NUM_THREADS='1'),
                              capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode==0, done.stdout + done.stderr
        markdown,result = (out/'all.md').read_text(),json.loads((out/'all.json').read_text())
        assert markdown.strip() in done.stdout and result['circumstances']['torch'] in markdown
        return result,markdown,ElementTree.parse(out/'all.svg').getroot()
    return run

@pytest.mark.parametrize('name', sorted(o.stem for o in folder.glob('[a-z]*.py')))
def test_every_page_has_one_form(quick, name):
    "A sentence, whether promises are kept, a picture, the tables, and in the end the machine"
    _,markdown,picture = quick(name)
    title,finding,rest = re.fullmatch(r'# (.+?)\n\n(.+?)\n\n!\[[^\]]+\]\(all\.svg\)\n\n(.+)', markdown, re.S).groups()
    assert '\n' not in title and finding[0] not in '#|-!' and 'promise' in finding.lower()
    assert name in ('conv','peers') or re.search(r'\b(NOT )?kept\b', finding)
    assert '|--' in rest and re.findall('^## (.+)', rest, re.M)[-1]=='The machine'
    assert all(len(o)<120 for o in markdown.splitlines() if o[:1]!='|')
    assert picture.tag.endswith('svg') and len(list(picture.iter()))>50

def tools(rows, **at): return {r['tool'] for r in rows if all(r[k]==v for k,v in at.items())}
def finite(*xs): return all(math.isfinite(x) and x>0 for x in xs)

def test_steps(quick):
    rows = quick('overhead')[0]['steps']
    assert {'dense', 'dense again (the noise)', 'lottery_nb', 'torch.nn.utils.prune'} <= tools(rows, mask='constant')
    assert {'dense', 'lottery_nb', 'lottery_nb, update_every=1', 'torch.nn.utils.prune, every 16 batches',
            'torch.nn.utils.prune, every batch'} <= tools(rows, mask='agp')
    for r in rows:
        assert finite(r['median'], r['q1'], r['q3'], r['mean'], r['low'], r['high'], r['by_kind'], *r['seconds'])
        assert r['low'] <= r['mean'] <= r['high'] and len(r['seconds']) == len(r['made']) == r['steps']

def test_arms_do_the_same_work(quick):
    result = quick('overhead')[0]
    rows = {(r['mask'],r['tool']): r for r in result['steps']}
    for r in result['steps']:
        if r['tool'].startswith('dense'): assert r['masks'] == 0 and r['sparsity'] < 1
        elif r['mask'] == 'constant': assert r['masks'] == 0 and r['sparsity'] == pytest.approx(50, abs=.1)
    by_all = [rows['agp',o] for o in ('lottery_nb', 'torch.nn.utils.prune, every 16 batches')]
    assert by_all[0]['made'] == by_all[1]['made'] == [i%16 == 0 for i in range(result['sizes']['n_iter'])]
    assert by_all[0]['sparsity'] == by_all[1]['sparsity']
    for o in ('lottery_nb, update_every=1', 'torch.nn.utils.prune, every batch'): assert all(rows['agp',o]['made'])

def test_masks(quick):
    rows = quick('overhead')[0]['masks']
    for n in {r['weights'] for r in rows}:
        for before in (0, 25):
            assert {'lottery_nb', 'torch.nn.utils.prune'} <= tools(rows, weights=n, pruned_before=before)
    assert max(r['weights'] for r in rows) == 1_000_000
    assert all(finite(r['median'], r['q1'], r['q3'], r['median_seconds']) for r in rows)
    if sys.platform == 'linux': assert any(r['extra_memory'] for r in rows)

def test_every_tool_is_in_the_table(quick):
    result,markdown,_ = quick('overhead')
    for r in result['steps'] + result['masks']: assert f'| {r["tool"]} ' in markdown

def test_curves_beside_others(quick):
    result,*_ = quick('replicates')
    assert len(result['rows'])>=2 and all(o['seconds']>0 for o in result['rows'])
    assert abs(result['accuracy'][0]-result['accuracy'][1])<2

def test_peers_do_the_same_work(quick):
    "Whoever is installed, at the same sparsity; whose file has what in it"
    result,markdown,_ = quick('peers')
    assert {'lottery_nb','torch.nn.utils.prune'} <= tools(result['masks']) < tools(result['steps'])
    for r in result['steps']: assert r['sparsity']==(0 if r['tool'].startswith('dense') else pytest.approx(50, abs=.1))
    assert {round(r['sparsity'], 1) for r in result['curves']}=={36.}
    assert len({r['macs'] for r in result['cuts']})==1 and 3.5 < result['cuts'][0]['fewer'] < 4
    assert result['cuts'][0]['tool']=='lottery_nb' and result['cuts'][0]['difference']<1e-5
    for key in ('steps','masks','curves','cuts'):
        assert all(finite(r['median'], r['q1'], r['q3'], *r['seconds']) for r in result[key])
    held = {(r['tool'],r['rewind'],r['trained']) for r in result['files']}
    assert {('lottery_nb',True,True), ('lottery_nb',True,False), ('torch.nn.utils.prune',False,True)} <= held
    assert ('Lightning',True,True) not in held

def test_the_table_of_peers_is_told_from_the_results(quick):
    result,markdown,_ = quick('peers')
    assert result['told'] in markdown
    head,_,*lines = [[o.strip() for o in line.strip('|').split('|')] for line in result['told'].splitlines()]
    assert len(lines)==5
    for key,line in zip(('steps','masks','curves','cuts','files'), lines):
        shown = {tool for tool,text in zip(head[1:], line[1:]) if text!='–'}
        assert shown==tools(result[key]) & set(head[1:]) and 'lottery_nb' in shown

def test_instability_is_the_same_experiment(quick):
    result,*_ = quick('instability')
    assert len(result['rows'])==3 and all(finite(o['seconds'], o['times']) for o in result['rows'])
    arms = [set(o['barriers']) for o in result['rows']]
    assert arms==[{'dense','ticket','random','reinit'}]*3
    assert finite(result['operations'], *result['products'])

def test_what_is_cut_does_less(quick):
    result,*_ = quick('shrink')
    rows = {r['network']: r for r in result['rows']}
    assert {'dense', 'lottery_nb, masked', 'lottery_nb, cut'} <= rows.keys()
    assert rows['lottery_nb, masked']['macs']==rows['dense']['macs'] and 3.5 < rows['lottery_nb, cut']['fewer'] < 4
    if 'fasterai' in rows: assert rows['fasterai']['macs']==rows['lottery_nb, cut']['macs']
    assert [r['rows'] for r in result['linear']]==[1, 16, 256] and all(r['difference']<1e-5 for r in result['linear'])

def test_what_was_found_beside_a_busy_loop_is_in_the_page(tmp_path):
    "Before the machine's facts; another run takes the place of the first"
    path = tmp_path/'imports.md'
    def run(): return subprocess.run([sys.executable, folder/'_busy.py', 'imports', '--quick', '--markdown', path],
                                     capture_output=True, text=True, stdin=subprocess.DEVNULL)
    done = run()
    assert done.returncode==1 and "expected the idle machine's page" in done.stderr
    idle = (folder/'imports.md').read_text(encoding='utf-8').split('## Beside')[0]
    machine = '## The machine\n\nfacts\n'
    path.write_text(idle.split('## The machine')[0] + machine, encoding='utf-8')
    for _ in range(2):
        assert run().returncode==0
        before,section,rest = path.read_text(encoding='utf-8').partition('## Beside a busy loop\n')
        assert section and before==idle.split('## The machine')[0]
        assert rest.endswith(machine) and "On top of fastai's own import" in rest and 'kept in this run' in rest

def test_each_kind_of_loader_gives_its_own_photos(tmp_path, monkeypatch):
    "Those with a seed the same ones, from memory and from files, and fastai's own others"
    monkeypatch.syspath_prepend(folder)
    import photos
    photos.made_up(tmp_path)
    batches = {k: next(b)[0] for k,b in photos.loaders(tmp_path, 16, 8).items()}
    def apart(a, b): return (batches[a]-batches[b]).abs().mean().item()
    files = 'lottery_nb, seeded, from files'
    assert apart(photos.OURS, files)<.05 < .2 < apart(photos.OURS, "fastai's own, from files")
