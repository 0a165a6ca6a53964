"The sidebar: which notebook is in which section, by what one wants. Our own site and Quarto's have it"
import re
from pathlib import Path

nbs = Path(__file__).resolve().parent.parent.parent/'nbs'

# which module is where; the others by the first digit of their notebook
WANTED = {'Use it': 'callback find ticket sparsifier',
          'Choose': 'granularity methods criteria schedules calibration sensitivity',
          'Evidence': 'curves evidence experiment arms presets stacked',
          'Landmarks': 'papers',
          'Smaller': '',
          'Around': 'data classics core masks ticketfile cli'}
RECIPES = 'vision tabular text segmentation collab coming_from_fasterai'.split() # others come after
DIGITS = {'0': 'Around', '1': 'Evidence', '2': 'Landmarks', '3': 'Smaller', '4': 'Around'}

def found(pattern): return sorted(nbs.glob(pattern))
def name(path): return re.sub(r'^\d+[a-z]?_', '', path.stem)

def section(path):
    "Where in the sidebar a module's notebook is"
    return next((k for k,o in WANTED.items() if name(path) in o.split()), DIGITS[path.name[0]])

def place(path):
    "A module's place in its section: as it is listed, or after these as in the book"
    listed = WANTED[section(path)].split()
    return (listed.index(name(path)) if name(path) in listed else len(listed)), path.name

def recipes():
    "The recipes, in their order"
    paths = found('recipes/*.ipynb')
    return sorted(paths, key=lambda o: RECIPES.index(o.stem) if o.stem in RECIPES else len(RECIPES))

def notebook_groups():
    "A caption of the sidebar -> its notebooks, in their order"
    modules = found('[0-9]*_*.ipynb')
    parts = {k: sorted((o for o in modules if section(o)==k), key=place) for k in WANTED}
    start = [nbs/'home.ipynb', *found('tutorials/[0-9]*.ipynb')]
    groups = {'Start': start, 'Recipes': recipes(), **parts, 'Beside': found('beside/*.ipynb'),
              'More': [nbs/'index.ipynb', nbs/'background.ipynb']}
    return {k: o for k,o in groups.items() if o}
