"""Says whether the site in docs/ is what the notebooks give: `python tools/docs/check.py`.

It's built anew beside the old one, and the two are compared as a reader sees them: which pages and pictures there are,
and what each page says. Versions of Sphinx and of its theme that write other HTML around the same words change
nothing."""
import re, sys, tempfile
from pathlib import Path
from bs4 import BeautifulSoup, SoupStrainer
from build import build, root

PICTURES = {'.png','.svg','.jpg'}

def words(path):
    "What a page says, without the signs that a theme puts at its headings"
    page = BeautifulSoup(path.read_text(encoding='utf-8'), 'html.parser', parse_only=SoupStrainer('article'))
    for o in page.select('.headerlink'): o.decompose()
    return ' '.join(page.get_text(' ').split())

def contents(folder):
    "Each page with its words, and the pictures that are shown on pages, by their paths in the site"
    pages = {o.relative_to(folder).as_posix(): words(o) for o in folder.rglob('*.html')}
    return pages | {o.relative_to(folder).as_posix(): '' for o in (folder/'_images').rglob('*') if o.suffix in PICTURES}

def first_difference(a, b):
    "The words around the place where two texts part"
    n = next((i for i,(x,y) in enumerate(zip(a, b)) if x!=y), min(len(a), len(b)))
    return ' | '.join(re.sub(r'\s+', ' ', o[max(0, n-30):n+50]) for o in (a, b))

def stale(old, new):
    "A line for each page or picture of which the folders `old` and `new` have not the same"
    a,b = contents(old),contents(new)
    for k in sorted(a.keys() | b.keys()):
        if k not in b: yield f'{k}: no notebook gives it'
        elif k not in a: yield f'{k}: missing'
        elif a[k]!=b[k]: yield f'{k}: {first_difference(a[k], b[k])}'

if __name__=='__main__':
    with tempfile.TemporaryDirectory() as tmp:
        new = Path(tmp)/'docs'
        build(new)
        if lines:=list(stale(root/'docs', new)):
            sys.exit('\n'.join([*lines, 'The site is not what the notebooks give: run make docs']))
    print('The site is what the notebooks give.')
