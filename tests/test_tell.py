"What settings.ini says of the project is told everywhere else: is it on PyPI, where is it? And Quarto's files"
import json, os, re, shutil, subprocess, sys, sysconfig, tomllib
from pathlib import Path
import pytest, yaml
from packaging.requirements import Requirement

root = Path(__file__).resolve().parent.parent
scripts = Path(sysconfig.get_path('scripts'))
QUARTOS = ['nbs/_quarto.yml','nbs/nbdev.yml','nbs/sidebar.yml']
TOLD = ['CITATION.cff','README.md','pyproject.toml','nbs/index.ipynb', *QUARTOS]
GIT,HOST = 'https://github.com/somebody/else','https://somebody.github.io'

def run(*args, cwd, **env):
    done = subprocess.run([str(o) for o in args], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env=os.environ | dict(PYTHONPATH=str(cwd), XDG_CONFIG_HOME=str(cwd/'.config')) | env)
    assert done.returncode==0, done.stdout + done.stderr

@pytest.fixture
def copy(tmp_path):
    "A copy of what the facts are told in"
    skip = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', '.*.lock')
    for o in ('nbs', 'lottery_nb', 'tools'): shutil.copytree(root/o, tmp_path/o, ignore=skip)
    for o in ('pyproject.toml', 'settings.ini', 'CITATION.cff'): shutil.copy(root/o, tmp_path)
    return tmp_path

def tell(folder, **facts):
    "Changes facts, and gives all texts that tell of them"
    path = folder/'settings.ini'
    text = path.read_text(encoding='utf-8')
    for k,v in facts.items():
        text,n = re.subn(rf'^{k} =.*', f'{k} = {v}', text, flags=re.M)
        assert n==1
    path.write_text(text, encoding='utf-8')
    for o in ('tell', 'readme'): run(sys.executable, f'tools/{o}.py', cwd=folder)
    return {o: (folder/o).read_text(encoding='utf-8') for o in TOLD}

def pip(readme):
    "What README gives to pip, without quotes, and what it says of PyPI"
    said = re.search(r'^## Install\n(.*?)^## ', readme, re.M|re.S)[1]
    return [o.strip("'") for o in re.findall(r"pip install ('[^']+'|[^\s`]+)", said)],"isn't on PyPI" in said

def cited(text): return dict(re.findall(r'^([\w-]+): (\S.*)', text, re.M))

def test_everything_is_in_step(copy):
    told = tell(copy)
    assert not [o for o in TOLD if told[o]!=(root/o).read_text(encoding='utf-8')], 'run make readme'

def test_a_package_that_is_nowhere_is_installed_from_its_folder(copy):
    told = tell(copy, published='no', git_url='', doc_host='')
    given,missing = pip(told['README.md'])
    assert given==['.', '.[all]'] and missing and 'make dist' in told['README.md']
    assert not {'url','repository-code','repository-artifact'} & cited(told['CITATION.cff']).keys()
    assert 'urls' not in tomllib.loads(told['pyproject.toml'])['project']

def test_a_package_that_is_published_is_installed_by_its_name(copy):
    before = tell(copy, published='no')
    told = tell(copy, published='yes')
    given,missing = pip(told['README.md'])
    assert given==['lottery_nb','lottery_nb[all]'] and not missing
    assert [str(Requirement(o)) for o in given]==given
    at = cited(told['CITATION.cff'])
    assert at['repository-artifact']==f"https://pypi.org/project/lottery_nb/{at['version']}/"
    assert tell(copy, published='no')==before

def test_a_repository_that_is_known_is_told(copy):
    told = tell(copy, published='no', git_url=GIT, branch='trunk', doc_host=HOST, doc_baseurl='/else')
    given,missing = pip(told['README.md'])
    assert [Requirement(o).url for o in given]==[f'git+{GIT}']*2 and Requirement(given[1]).extras=={'all'} and missing
    assert '(open `docs/' not in told['README.md'] and f'[the site]({HOST}/else/)' in told['README.md']
    at = cited(told['CITATION.cff'])
    assert (at['url'], at['repository-code'])==(f'{HOST}/else/', GIT)
    assert tomllib.loads(told['pyproject.toml'])['project']['urls']==dict(Repository=GIT, Documentation=f'{HOST}/else/')
    site = yaml.safe_load(told['nbs/nbdev.yml'])['website']
    assert (site['site-url'], site['repo-url'], site['repo-branch'])==(f'{HOST}/else', GIT, 'trunk')
    run(scripts/'nbdev-export', cwd=copy) # so that other projects' pages link to ours
    told = (copy/'lottery_nb/_modidx.py').read_text(encoding='utf-8')
    assert f"'git_url': '{GIT}'" in told and f"'doc_host': '{HOST}'" in told and "'doc_baseurl': '/else'" in told

def test_readme_links_to_five_places():
    text = re.sub(r'^```.*?^```', '', (root/'README.md').read_text(encoding='utf-8'), flags=re.M|re.S)
    assert 3<=len(set(re.findall(r'(?<!!)\[[^\]]+\]\(([^)#]+)', text)))<=5

# Quarto

notebooks = {o.relative_to(root/'nbs').as_posix() for o in (root/'nbs').rglob('*.ipynb')
             if not any(p.startswith(('.', '_')) for p in o.relative_to(root).parts)}

def listed():
    "A section of Quarto's sidebar -> its notebooks"
    told = yaml.safe_load((root/'nbs/sidebar.yml').read_text(encoding='utf-8'))
    return {o['section']: o['contents'] for o in told['website']['sidebar']['contents']}

def test_every_notebook_is_in_the_sidebar_once():
    groups = listed()
    assert sorted(o for group in groups.values() for o in group)==sorted(notebooks)
    ours = ['Start','Recipes','Use it','Choose','Evidence','Landmarks','Smaller','Around','Beside','More']
    assert list(groups)==[o for o in ours if o in groups] and len(groups)>=8
    assert groups['Use it'][0]=='08_callback.ipynb' and '20_at_init.ipynb' in groups['Landmarks']

# nbdev's own, those of Quarto's cells, and what tools take notebooks' cells by
NBDEV = {'default_exp','export','exporti','exports','exportd','exec_doc','hide','hide_line','filter_stream','eval'}
QUARTO = {'echo','output','include','warning','label','code-fold','code-summary','fig-alt','fig-cap','fig-width'}
OURS = {'headline'}

def cells():
    for path in sorted(notebooks):
        nb = json.loads((root/'nbs'/path).read_text(encoding='utf-8'))
        for o in nb['cells']: yield path,o['cell_type'],''.join(o['source'])

def test_directives_and_boxes_are_nbdevs_and_quartos_own():
    used = {(path, word) for path,kind,source in cells() if kind=='code'
            for word in re.findall(r'^#\| *([\w-]+)', source, re.M)}
    assert sorted({word for _,word in used} - NBDEV - QUARTO - OURS)==[]
    boxes = [(path, kind) for path,cell,source in cells() if cell=='markdown'
             for kind in re.findall(r'^:{3,} *\{\.callout-(\w+)', source, re.M)]
    assert {kind for _,kind in boxes} <= {'note','tip','important','warning','caution'}
    assert not [path for path,cell,source in cells() if cell=='markdown' and re.search(r'^> \[!', source, re.M)]

@pytest.mark.slow
def test_nbdev_proc_nbs_has_all_that_quarto_needs(copy, tmp_path):
    """Every notebook passes, with the description of what it exports. A `quarto` that does nothing stands for the real
    one, which isn't called here, but which nbdev would install"""
    quarto = tmp_path/'bin/quarto'
    quarto.parent.mkdir()
    quarto.write_text('#!/bin/sh\nexit 1\n')
    quarto.chmod(0o755)
    before = {o: (copy/o).read_text(encoding='utf-8') for o in QUARTOS}
    run(scripts/'nbdev-proc-nbs', '--n-workers', 0, cwd=copy, PATH=f"{quarto.parent}:{os.environ['PATH']}")
    assert {o: (copy/o).read_text(encoding='utf-8') for o in before}==before
    proc = copy/'_proc'
    config = yaml.safe_load((proc/'_quarto.yml').read_text(encoding='utf-8'))
    needed = [*notebooks, *config['metadata-files'], config['format']['html']['css']]
    assert not [o for o in needed if not (proc/o).exists()]
    nb = json.loads((proc/'08_callback.ipynb').read_text(encoding='utf-8'))
    shown = ''.join(''.join(o['data']['text/markdown']) for c in nb['cells'] for o in c.get('outputs', [])
                    if 'text/markdown' in o.get('data', {}))
    assert re.search(r'^### SparsifyCallback$', shown, re.M) and 'percent of the prunable weights' in shown
