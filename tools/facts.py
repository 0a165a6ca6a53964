"""Writes what settings.ini says of the project where others read it: `python tools/facts.py`, a part of `make readme`.

That is CITATION.cff, pyproject.toml's `[project]` (which pip and nbdev read), two cells of nbs/index.ipynb (and so
README.md), and what Quarto needs for `nbdev-docs`: nbdev.yml and sidebar.yml in nbs/. What isn't known is empty in
settings.ini, and then nothing is said about it"""
import json, os, re
from configparser import ConfigParser
from pathlib import Path
import yaml
from nbdev.quarto import IndentDumper, refresh_quarto_yml

FOR_US = 'dev','docs','bench','all' # extras that no user asks for by name
INSTALL,READ_ON = '1d5ba301','73d9ca27' # the cells of index.ipynb
# what comes from setup.py
DYNAMIC = """dynamic = ["version", "readme", "requires-python", "license", "keywords", "dependencies",
    "optional-dependencies", "entry-points", "scripts"]"""

def read(root:Path):
    "The facts of settings.ini"
    config = ConfigParser(interpolation=None, delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    return config['DEFAULT']

def is_published(facts): return facts.getboolean('published', False)
def repository(facts): return facts.get('git_url', '').rstrip('/')
def site(facts):
    "The address of the site, with a slash at the end; empty if it isn't known"
    parts = facts.get('doc_host', '').rstrip('/'), facts.get('doc_baseurl', '').strip('/')
    return '/'.join(o for o in parts if o) + '/' if parts[0] else ''

# Where it's installed from

def source(
    facts, # those of settings.ini
    extra:str='' # a name of an extra
)->str:
    "What pip is given: the name once it's on PyPI, else the repository if that is known, else the folder"
    name,extra = facts['lib_name'],f'[{extra}]' if extra else ''
    if is_published(facts): given = f'{name}{extra}'
    elif repository(facts): given = f'{name}{extra} @ git+{repository(facts)}'
    else: given = f'.{extra}'
    return f"'{given}'" if re.search(r'[\[ ]', given) else given

def install(facts):
    "How to install it"
    wheel = f"dist/{facts['lib_name']}-{facts['version']}-py3-none-any.whl"
    if is_published(facts): where = ''
    elif repository(facts): where = "It isn't on PyPI yet, so pip takes it from the repository. "
    else: where = f"It isn't on PyPI yet: this takes it from this folder. `make dist` leaves `{wheel}`, for elsewhere. "
    extras = [o.removesuffix('_requirements') for o in facts if o.endswith('_requirements')]
    names = ', '.join(f'`{o}`' for o in extras if o not in FOR_US)
    return INSTALLING.format(source=source(facts), where=where, python=facts['min_python'], names=names,
                             all=source(facts, 'all'))

INSTALLING = """```sh
pip install {source}
```

{where}This brings all that the ten lines below need, PyTorch and fastai too, on Python {python} or later. \
What only some parts need is an extra: {names}, or `all` of these, as in `pip install {all}`."""

def read_on(facts):
    "Where to go from README"
    known,here = f'[the site]({site(facts)})','the site in `docs/` (open `docs/index.html` in a browser)'
    return READING.format(at=known if site(facts) else here)

READING = """- **Try it**: [a first winning ticket](tutorials/00_first_ticket.ipynb), in a minute.
- **Learn it**: [the whole story on Imagenette](tutorials/01_imagenette.ipynb). Beside it in `nbs/tutorials` are \
error bars, channels that are cut out, fine-tuning, language models and the papers' experiments; in `nbs/recipes` \
fastai's own tasks, ten to twenty lines each.
- **Look it up**: {at}, with everything by what you want to do, and a search.
- **Know whose it is**: [background](background.ipynb), the papers in reading order, what of each is here, and how to \
call it.
- **Take part**: [contributing](../CONTRIBUTING.md)."""

# Where it's written to

def put(path, text):
    "Writes a text file, unless that's what it says already: `make` goes by its date"
    if not path.exists() or path.read_text(encoding='utf-8')!=text: path.write_text(text, encoding='utf-8')

def cell_is(path, **sources):
    "Gives cells of a notebook their text, by id. Their outputs stay"
    nb = json.loads(path.read_text(encoding='utf-8'))
    for o in nb['cells']:
        if o['id'] in sources: o['source'] = sources.pop(o['id']).splitlines(keepends=True)
    if sources: raise KeyError(f'{path}: no cell {", ".join(sources)}')
    put(path, json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n')

def citation(text, facts):
    "CITATION.cff with the version of today, and the addresses that are known"
    pypi = f"https://pypi.org/project/{facts['lib_name']}/{facts['version']}/" if is_published(facts) else ''
    known = dict(version=facts['version'], license=facts['license'], url=site(facts))
    known |= {'repository-code': repository(facts), 'repository-artifact': pypi}
    said = ''.join(f'{k}: {v}\n' for k,v in known.items() if v)
    rest = re.sub(rf'^(?:{"|".join(known)}): .*\n', '', text, flags=re.M)
    return rest.replace('authors:\n', said + 'authors:\n')

def project(text, facts):
    "pyproject.toml with `[project]`, which has what nbdev looks for there; all else stays with setup.py"
    urls = dict(Repository=repository(facts), Documentation=site(facts))
    lines = ['[project]', f'name = "{facts["lib_name"]}"', f'description = "{facts["description"]}"', DYNAMIC]
    if any(urls.values()): lines += ['', '[project.urls]', *(f'{k} = "{v}"' for k,v in urls.items() if v)]
    rest = re.sub(r'^\[project(?:\.urls)?\]\n(?:(?!\[).*\n)*', '', text, flags=re.M)
    rest = re.sub(r'^branch = .*', f'branch = "{facts["branch"]}"', rest, flags=re.M)
    return rest.replace('[tool.nbdev]\n', '\n'.join([*lines, '', '[tool.nbdev]', '']), 1)

# Quarto's sidebar

# which module is where, by what one wants; the others by the first digit of their notebook
WANTED = {'Use it': 'callback find ticket sparsifier',
          'Choose': 'granularity methods criteria schedules calibration sensitivity',
          'Evidence': 'curves evidence experiment arms presets stacked', 'Landmarks': 'papers', 'Smaller': '',
          'Around': 'data classics core masks ticketfile cli'}
DIGITS = {'0': 'Around', '1': 'Evidence', '2': 'Landmarks', '3': 'Smaller', '4': 'Around'}

def name(path): return re.sub(r'^\d+[a-z]?_|\.ipynb$', '', path)
def section(path): return next((k for k,o in WANTED.items() if name(path) in o.split()), DIGITS[path[0]])

def place(path):
    "A module's place in its section: as it's listed, or after these as in the book"
    listed = WANTED[section(path)].split()
    return (listed.index(name(path)) if name(path) in listed else len(listed)), path

def sidebar(nbs):
    "Quarto's sidebar for the notebooks that are there"
    def found(*patterns): return [o.relative_to(nbs).as_posix() for k in patterns for o in sorted(nbs.glob(k))]
    modules = found('[0-9]*_*.ipynb')
    groups = {'Start': found('home.ipynb', 'index.ipynb', 'tutorials/[0-9]*.ipynb'),
              'Recipes': found('recipes/*.ipynb'),
              **{k: sorted((o for o in modules if section(o)==k), key=place) for k in WANTED},
              'Beside': found('beside/*.ipynb')}
    taken = {o for group in groups.values() for o in group}
    groups['More'] = [o for o in found('*.ipynb') if o not in taken]
    contents = [dict(section=k, contents=o) for k,o in groups.items() if o]
    return yaml.dump(dict(website=dict(sidebar=dict(contents=contents))), Dumper=IndentDumper, sort_keys=False)

def write(root:Path):
    "Brings everything under `root` in step with its settings.ini"
    facts,nbs = read(root),root/'nbs'
    cell_is(nbs/'index.ipynb', **{INSTALL: install(facts), READ_ON: read_on(facts)})
    for name,said in (('CITATION.cff', citation), ('pyproject.toml', project)):
        put(root/name, said((root/name).read_text(encoding='utf-8'), facts))
    put(nbs/'sidebar.yml', sidebar(nbs))
    refresh_quarto_yml() # nbdev.yml, from pyproject.toml

if __name__=='__main__':
    root = Path(__file__).resolve().parent.parent
    os.chdir(root) # nbdev looks for pyproject.toml from here on upwards
    write(root)
