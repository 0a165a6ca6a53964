"The project's own order: what is generated is in step with what it is generated from, and all of it passes ruff"
import ast, json, os, re, shutil, subprocess, sys, sysconfig
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
scripts = Path(sysconfig.get_path('scripts'))

def run(*args, cwd):
    "Runs a command as a user without settings of their own would, and shows what it said if it fails"
    env = {k:v for k,v in os.environ.items() if k != 'IN_TEST'} | dict(XDG_CONFIG_HOME=str(cwd/'.config'))
    done = subprocess.run([str(o) for o in args], cwd=cwd, env=env, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr

def contents(folder, pattern):
    "The text of the files in `folder` that match `pattern`, by relative path"
    return {o.relative_to(folder).as_posix(): o.read_text(encoding='utf-8') for o in sorted(folder.rglob(pattern))
        if not any(p.startswith('.') for p in o.relative_to(folder).parts)}

def differing(a, b): return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))

@pytest.fixture
def copy(tmp_path):
    "A copy of what nbdev works on"
    skip = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
    for o in ('nbs', 'lottery_nb', 'tools'): shutil.copytree(root/o, tmp_path/o, ignore=skip)
    for o in ('pyproject.toml', 'settings.ini'): shutil.copy(root/o, tmp_path)
    return tmp_path

def test_modules_are_what_the_notebooks_export(copy):
    for o in (copy/'lottery_nb').glob('*.py'):
        if o.name != '__init__.py': o.unlink()
    run(scripts/'nbdev-export', cwd=copy)
    stale = differing(contents(root/'lottery_nb', '*.py'), contents(copy/'lottery_nb', '*.py'))
    assert not stale, 'run nbdev-export'

def test_notebooks_are_clean(copy):
    run(scripts/'nbdev-clean', cwd=copy)
    unclean = differing(contents(root/'nbs', '*.ipynb'), contents(copy/'nbs', '*.ipynb'))
    assert not unclean, 'run nbdev-clean'

def test_readme_is_what_index_renders_to(copy):
    run(sys.executable, 'tools/readme.py', cwd=copy)
    shown = [[d/'README.md', *(d/'nbs/images/index').glob('*')] for d in (root, copy)]
    stale = differing(*({o.name: o.read_bytes() for o in files} for files in shown))
    assert not stale, 'run make readme'

def test_local_links_of_the_readme_lead_somewhere():
    text = re.sub(r'^```.*?^```', '', (root/'README.md').read_text(encoding='utf-8'), flags=re.M|re.S)
    links = re.findall(r'\]\(([^)\s]+)|\b(?:src|href)="([^"]+)', text)
    local = {o.partition('#')[0] for pair in links for o in pair if o and not re.match(r'\w+:|#', o)}
    assert not [o for o in sorted(local) if not (root/o).exists()]

def test_ruff_has_nothing_to_say(): run(scripts/'ruff', 'check', '--no-cache', '--output-format=concise', '.', cwd=root)

def facts():
    "What settings.ini says"
    config = ConfigParser(interpolation=None, delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    return config['DEFAULT']

def test_the_citation_is_of_this_version():
    cited = dict(re.findall(r'^([\w-]+): "?([^"\n]+)', (root/'CITATION.cff').read_text(encoding='utf-8'), re.M))
    assert [cited[o] for o in ('title','version','license')]==[facts()[o] for o in ('lib_name','version','license')]

def imported(source):
    "The top-level names of the packages that a module imports, Python's own and ours aside"
    nodes = list(ast.walk(ast.parse(source)))
    names = [a.name for o in nodes if isinstance(o, ast.Import) for a in o.names]
    names += [o.module for o in nodes if isinstance(o, ast.ImportFrom) and not o.level]
    return sorted({o.partition('.')[0] for o in names} - sys.stdlib_module_names - {'lottery_nb'})

def test_modules_import_only_what_an_install_brings():
    """Whatever a module imports is Python's own, ours, or among the requirements in settings.ini;
    where it may be missing (`test_install`), among an extra's"""
    def plain(o): return re.split(r'[<>=!~;\[ ]', o)[0].lower().replace('_', '-')
    ours = ('dev_requirements','docs_requirements','bench_requirements')
    required = {plain(o) for k,v in facts().items() if k.endswith('requirements') and k not in ours for o in v.split()}
    homes = packages_distributions()
    missing = [f'{name} imports {top}' for name,text in contents(root/'lottery_nb', '*.py').items()
        for top in imported(text)
        if not {plain(o) for o in homes.get(top, [top])} & required]
    assert not missing, 'settings.ini does not require it'

def test_pictures_in_notebooks_are_small():
    "A notebook is read in a browser and kept in git: a picture of more than 300 kB is drawn too large"
    large = []
    for name,text in contents(root/'nbs', '*.ipynb').items():
        for cell in json.loads(text)['cells']:
            for out in cell.get('outputs', []):
                size = len(''.join(out.get('data', {}).get('image/png', ''))) * 3//4
                if size > 300_000: large.append(f"{name} #{cell['id']}: {size//1000} kB")
    assert not large
