"""Writes what settings.ini says of the project where others read it: `python tools/tell.py`, a part of `make readme`.

That is CITATION.cff, pyproject.toml's `[project]` (which pip and nbdev read), two cells of nbs/index.ipynb (and so
README.md), and what Quarto needs for `nbdev-docs`: nbdev.yml and sidebar.yml in nbs/. What isn't known is empty in
settings.ini, and then nothing is said about it"""
import json, os, re, sys
from configparser import ConfigParser
from pathlib import Path
import yaml
from nbdev.quarto import IndentDumper, refresh_quarto_yml

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools/docs'))
from facts import facts as read  # noqa: E402
from groups import notebook_groups  # noqa: E402

INSTALL,READ_ON = '1d5ba301','73d9ca27' # the cells of index.ipynb
# what comes from setup.py
DYNAMIC = """dynamic = ["version", "readme", "requires-python", "license", "keywords", "dependencies",
    "optional-dependencies", "entry-points", "scripts"]"""

config = ConfigParser(interpolation=None, delimiters=['='])
config.read(root/'settings.ini', encoding='utf-8')
config = config['DEFAULT']
facts = read(env={}) # a file that is committed says what settings.ini says, wherever it's written

# Where it's installed from

def source(
    extra:str='' # its name
)->str:
    "What pip is given: the name once it's on PyPI, else the repository if that is known, else the folder"
    name,extra = facts.name,f'[{extra}]' if extra else ''
    if facts.published: given = f'{name}{extra}'
    elif facts.git_url: given = f'{name}{extra} @ git+{facts.git_url}'
    else: given = f'.{extra}'
    return f"'{given}'" if re.search(r'[\[ ]', given) else given

def install():
    "How to install it"
    if facts.published: where = ''
    elif facts.git_url: where = "It isn't on PyPI yet, so pip takes it from the repository. "
    else: where = "It isn't on PyPI yet: this takes it from this folder. " \
                  f"`make dist` leaves `dist/{facts.wheel}`, for elsewhere. "
    extras = re.search(r'\[(.+)\]', config['all_requirements'])[1].split(',')
    names = ', '.join(f'`{o}`' for o in extras)
    return INSTALLING.format(source=source(), where=where, python=config['min_python'], names=names, all=source('all'))

INSTALLING = """```sh
pip install {source}
```

{where}This brings all that the ten lines below need, PyTorch and fastai too, on Python {python} or later. \
What only some parts need is an extra: {names}, or `all` of these, as in `pip install {all}`."""

def read_on():
    "Where to go from README"
    known,here = f'[the site]({facts.site})','the site in `docs/` (open `docs/index.html` in a browser)'
    return READING.format(at=known if facts.site else here)

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

def citation(text):
    "CITATION.cff with the version of today, and the addresses that are known"
    pypi = f'https://pypi.org/project/{facts.name}/{facts.version}/' if facts.published else ''
    known = {'version': facts.version, 'license': config['license'], 'url': facts.site,
             'repository-code': facts.git_url, 'repository-artifact': pypi}
    said = ''.join(f'{k}: {v}\n' for k,v in known.items() if v)
    rest = re.sub(rf'^(?:{"|".join(known)}): .*\n', '', text, flags=re.M)
    return rest.replace('authors:\n', said + 'authors:\n')

def project(text):
    "pyproject.toml with `[project]`, which has what nbdev looks for there; all else stays with setup.py"
    urls = dict(Repository=facts.git_url, Documentation=facts.site)
    lines = ['[project]', f'name = "{facts.name}"', f'description = "{facts.description}"', DYNAMIC]
    if any(urls.values()): lines += ['', '[project.urls]', *(f'{k} = "{v}"' for k,v in urls.items() if v)]
    rest = re.sub(r'^\[project(?:\.urls)?\]\n(?:(?!\[).*\n)*', '', text, flags=re.M)
    rest = re.sub(r'^branch = .*', f'branch = "{facts.branch}"', rest, flags=re.M)
    return rest.replace('[tool.nbdev]\n', '\n'.join([*lines, '', '[tool.nbdev]', '']), 1)

def sidebar(nbs):
    "Quarto's sidebar: that of our own site"
    contents = [dict(section=k, contents=[o.relative_to(nbs).as_posix() for o in group])
                for k,group in notebook_groups().items()]
    return yaml.dump(dict(website=dict(sidebar=dict(contents=contents))), Dumper=IndentDumper, sort_keys=False)

def write():
    "Brings everything in step with settings.ini"
    nbs = root/'nbs'
    cell_is(nbs/'index.ipynb', **{INSTALL: install(), READ_ON: read_on()})
    for name,said in (('CITATION.cff', citation), ('pyproject.toml', project)):
        put(root/name, said((root/name).read_text(encoding='utf-8')))
    put(nbs/'sidebar.yml', sidebar(nbs))
    os.chdir(root) # nbdev looks for pyproject.toml from here on upwards
    refresh_quarto_yml() # nbdev.yml, from pyproject.toml

if __name__=='__main__': write()
