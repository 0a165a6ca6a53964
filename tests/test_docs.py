"The site in docs/: whole, readable, and without an error in a browser that opens it from the clone"
import re, shutil
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urldefrag
import pytest

bs4 = pytest.importorskip('bs4', reason='the extra docs is not installed')
sync_api = pytest.importorskip('playwright.sync_api', reason='the extra docs is not installed')

docs = Path(__file__).resolve().parent.parent/'docs'
pages = sorted(o.relative_to(docs).as_posix() for o in docs.rglob('*.html'))
written = [o for o in pages if not re.match(r'_modules/|genindex|search\.html', o)] # by us, not by Sphinx
tutorial = 'tutorials/imagenette.html'

@lru_cache(None)
def text(name): return (docs/name).read_text(encoding='utf-8')

@lru_cache(None)
def soup(name): return bs4.BeautifulSoup(text(name), 'html.parser')

@lru_cache(None)
def ids(name): return re.findall(r'<[^>]*\sid="([^"]+)"', text(name))

def on_each_page(faults, names=written):
    "What `faults` finds, by page: those alone where it finds something"
    return {k: found for k in names if (found:=list(faults(k)))}

# Read

def dead_links(name):
    for o in re.findall(r'<(?:a|link|script|img)\b[^>]*?\s(?:href|src)="([^"]*)"', text(name)):
        target = unquote(o)
        if re.match(r'[a-z]+:', target): continue
        path,anchor = urldefrag(target)
        there = ((docs/name).parent/path.partition('?')[0]).resolve() if path else docs/name
        if not there.is_file(): yield target
        elif anchor and there.suffix=='.html' and anchor not in ids(there.relative_to(docs).as_posix()): yield target

def test_every_internal_link_leads_somewhere(): assert not on_each_page(dead_links, pages)

def misplaced_headings(name):
    "Headings that skip a level, stand twice in the same place, or are a second title"
    path,seen = [],set()
    for o in soup(name).select('article :is(h1, h2, h3, h4, h5, h6)'):
        level = int(o.name[1])
        if level>len(path)+1 or (level==1 and path): yield f'{o.name} {o.text}'
        path = [*path[:level-1], o.text]
        if tuple(path) in seen: yield f'twice: {o.text}'
        seen.add(tuple(path))
    if not path: yield 'no title'

def test_headings_are_in_order_and_none_is_twice(): assert not on_each_page(misplaced_headings)

def test_every_picture_says_what_it_shows():
    assert not on_each_page(lambda name: [o['src']
                                          for o in soup(name).select('article img') if len(o.get('alt', '').split())<4])

def test_no_id_is_twice(): assert not on_each_page(lambda name: {o for o in ids(name) if ids(name).count(o)>1})

def odd_cells(name):
    for o in soup(name).select('.cell, .cell_output'):
        if not o.text.strip() and not o.select('img'): yield 'empty'
        if re.search(r'Warning:|Traceback|(?<![\w.])/(home|root|tmp|Users)/', o.text) and 'cell_output' in o['class']:
            yield o.text

def test_no_cell_is_empty_and_none_shows_a_warning_or_the_machine(): assert not on_each_page(odd_cells)

def test_everything_public_has_its_signature_its_parameters_and_its_source():
    entry = soup('callback.html').find(id='lottery_nb.callback.SparsifyCallback').parent
    assert 'end_sparsity' in entry.dt.text
    assert [o.text for o in entry.select('tbody tr td:first-child')][:3]==['end_sparsity', 'granularity', 'method']
    assert not on_each_page(lambda name: [o.get('id')
                                          for o in soup(name).select('dl.py > dt') if not o.select('.viewcode-link')])

def test_the_sidebar_leads_to_every_page():
    links = [unquote(o['href']).partition('#')[0] or 'index.html' for o in soup('index.html').select('.sidebar-tree a')]
    assert links[0]=='index.html' and sorted(links)==sorted(written)

def test_the_tutorial_has_the_seeds_code():
    code = '\n'.join(o.text for o in soup(tutorial).select('.cell_input'))
    for line in ("learn = Learner(dls, resnet18(num_classes=10), metrics=accuracy)",
                 "initial_weights = deepcopy(learn.model.state_dict())", "learn.fit(5)",
                 "learn.model.load_state_dict(initial_weights)", "learn.fit(20, cbs=sp_cb)",
                 "sp_cb = SparsifyCallback(50, 'weight', 'global', large_final, iterative, start_epoch=5, lth=True)",
                 "sp_cb = SparsifyCallback(50, 'weight', 'global', large_final, iterative, "
                 "start_epoch=5, lth=True, rewind_epoch=1)"):
        assert line in code

# In a browser

chromium = next(filter(None, map(shutil.which,
                                 ('chromium', 'google-chrome', 'google-chrome-stable', 'chromium-browser'))), None)
needs_browser = pytest.mark.skipif(chromium is None, reason='no Chromium on this machine')

@pytest.fixture(scope='module')
def tab():
    "One tab for all pages, which keeps in `tab.wrong` what went wrong, and what it asked other hosts for"
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        tab = browser.new_page()
        tab.wrong = []
        tab.on('console', lambda o: tab.wrong.append(o.text) if o.type=='error' else None)
        tab.on('pageerror', lambda o: tab.wrong.append(str(o)))
        tab.on('requestfailed', lambda o: tab.wrong.append(o.url))
        tab.on('request', lambda o: tab.wrong.append(o.url) if not o.url.startswith(('file:', 'data:')) else None)
        yield tab
        browser.close()

def open_page(tab, name):
    tab.wrong.clear()
    tab.goto(f'{docs.as_uri()}/{name}')

UNSEEN = "[...document.images].filter(o => !o.naturalWidth || !o.getBoundingClientRect().width).map(o => o.src)"

def errors(tab, name):
    "What went wrong on a page, and the pictures that it does not show"
    open_page(tab, name)
    tab.evaluate("document.querySelectorAll('img').forEach(o => o.loading = 'eager')")
    tab.wait_for_function("[...document.images].every(o => o.complete)")
    return [*tab.wrong, *tab.evaluate(UNSEEN)]

@needs_browser
def test_every_page_opens_without_an_error_and_shows_its_pictures(tab):
    assert not on_each_page(lambda name: errors(tab, name), pages)
