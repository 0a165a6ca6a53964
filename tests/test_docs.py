"The site: what the notebooks give, whole, and usable in a browser that opens it from the clone"
import filecmp, re, shutil, subprocess, sys
from functools import lru_cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urldefrag
from bs4 import BeautifulSoup
import pytest
from playwright.sync_api import sync_playwright

root = Path(__file__).resolve().parent.parent
docs = root/'docs'
pages = sorted(o.relative_to(docs).as_posix() for o in docs.rglob('*.html'))
written = [o for o in pages if not re.match(r'_modules/|genindex|search', o)] # by us, not by Sphinx
tutorial = 'tutorials/imagenette.html'

@lru_cache(None)
def soup(name): return BeautifulSoup((docs/name).read_text(encoding='utf-8'), 'html.parser')

def test_the_committed_site_is_what_the_notebooks_give(tmp_path):
    out = tmp_path/'docs'
    done = subprocess.run([sys.executable, root/'tools/docs/build.py', out], cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode==0, done.stdout + done.stderr
    old,new = ({o.relative_to(d).as_posix() for o in d.rglob('*') if o.is_file()} for d in (docs, out))
    _,differ,unread = filecmp.cmpfiles(docs, out, sorted(old & new), shallow=False)
    assert not unread and not sorted(old ^ new) + differ, 'run make docs'

def test_there_are_pages(): assert {'index.html', 'background.html', 'benchmarks.html', 'changelog.html', 'callback.html', tutorial} <= set(pages)

@pytest.mark.parametrize('name', pages)
def test_every_internal_link_leads_somewhere(name):
    dead = []
    for o in soup(name).select('a[href], link[href], script[src], img[src]'):
        target = unquote(o.get('href') or o.get('src'))
        if re.match(r'[a-z]+:', target): continue
        path,anchor = urldefrag(target)
        there = (docs/name).parent/path.partition('?')[0] if path else docs/name
        if not there.is_file(): dead.append(target)
        elif anchor and there.suffix=='.html' and not soup(there.resolve().relative_to(docs).as_posix()).find(id=anchor): dead.append(target)
    assert not dead

@pytest.mark.parametrize('name', pages)
def test_nothing_is_loaded_from_another_host(name):
    loaded = soup(name).select('link[href]:not([rel~=next]):not([rel~=prev]), script[src], img[src], iframe[src], source[src]')
    assert not [o for o in loaded if re.match(r'(https?:)?//', o.get('href') or o.get('src'))]
    assert not re.search(r'url\(["\']?(https?:)?//', '\n'.join(o.text for o in soup(name).select('style')))

def test_styles_load_nothing_from_another_host():
    for o in docs.rglob('*.css'): assert not re.search(r'(url\(|@import\s+)["\']?(https?:)?//', o.read_text(encoding='utf-8')), o

@pytest.mark.parametrize('name', written)
def test_headings_are_in_order_and_none_is_twice(name):
    heads = soup(name).select('article h1, article h2, article h3, article h4, article h5, article h6')
    levels = [int(o.name[1]) for o in heads]
    assert levels[0]==1 and levels.count(1)==1
    assert all(b<=a+1 for a,b in zip(levels, levels[1:]))
    path,seen = [],set()
    for level,o in zip(levels, heads):
        path = [*path[:level-1], o.text]
        assert tuple(path) not in seen, o.text
        seen.add(tuple(path))

@pytest.mark.parametrize('name', written)
def test_every_picture_says_what_it_shows(name):
    for o in soup(name).select('article img'): assert len(o.get('alt', '').split())>=4, o

@pytest.mark.parametrize('name', written)
def test_no_id_is_twice(name):
    ids = [o['id'] for o in soup(name).select('[id]')]
    assert len(ids)==len(set(ids))

@pytest.mark.parametrize('name', written)
def test_no_cell_is_empty_and_no_warning_is_shown(name):
    assert not [o for o in soup(name).select('.cell, .cell_output') if not o.text.strip() and not o.select('img')]
    assert not [o for o in soup(name).select('.cell_output') if re.search(r'Warning:|Traceback', o.text)]
    assert not [o for o in soup(name).select('.cell_output') if re.search(r'(?<![\w.])/(home|root|tmp|Users)/', o.text) or str(root) in o.text]

def test_everything_public_has_its_signature_its_parameters_and_its_source():
    page = soup('callback.html')
    entry = page.find(id='lottery_nb.callback.SparsifyCallback').parent
    assert 'end_sparsity' in entry.dt.text and entry.dt.select_one('a[href*="_modules"]')
    assert [o.text for o in entry.select('tbody tr td:first-child')][:3]==['end_sparsity', 'granularity', 'method']
    for name in written:
        for o in soup(name).select('dl.py > dt'): assert o.select('.viewcode-link'), f"{name}: {o.get('id')}"

def test_the_tutorial_can_be_reached_in_two_clicks_and_has_the_seeds_code():
    assert soup('index.html').select(f'.sidebar-tree a[href="{tutorial}"]')
    code = '\n'.join(o.text for o in soup(tutorial).select('.cell_input'))
    for line in ("learn = Learner(dls, resnet18(num_classes=10), metrics=accuracy)", "initial_weights = deepcopy(learn.model.state_dict())", "learn.fit(5)",
                 "learn.model.load_state_dict(initial_weights)", "learn.fit(20, cbs=sp_cb)",
                 "sp_cb = SparsifyCallback(50, 'weight', 'global', large_final, iterative, start_epoch=5, lth=True)",
                 "sp_cb = SparsifyCallback(50, 'weight', 'global', large_final, iterative, start_epoch=5, lth=True, rewind_epoch=1)"): assert line in code

# In a browser

chromium = next(filter(None, map(shutil.which, ('chromium', 'google-chrome', 'google-chrome-stable', 'chromium-browser'))), None)
needs_browser = pytest.mark.skipif(chromium is None, reason='no Chromium on this machine')
sizes = dict(wide=dict(width=1400, height=900), narrow=dict(width=390, height=844))

@pytest.fixture(scope='module')
def browser():
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        yield browser
        browser.close()

@pytest.fixture
def tab(browser, request):
    "A new tab that keeps what went wrong in `tab.wrong`, and what it asked other hosts for"
    context = browser.new_context(viewport=sizes[getattr(request, 'param', 'wide')], color_scheme='light')
    tab = context.new_page()
    tab.wrong = []
    tab.on('console', lambda o: tab.wrong.append(o.text) if o.type=='error' else None)
    tab.on('pageerror', lambda o: tab.wrong.append(str(o)))
    tab.on('requestfailed', lambda o: tab.wrong.append(o.url))
    tab.on('request', lambda o: tab.wrong.append(o.url) if not o.url.startswith(('file:', 'data:')) else None)
    yield tab
    context.close()
    assert not tab.wrong

def at(tab): return urldefrag(unquote(tab.url))[0].removeprefix(docs.as_uri()+'/').partition('?')[0]

def open_page(tab, name): tab.goto(f'{docs.as_uri()}/{name}')

def follow(tab, link):
    "Clicks on a link and waits for the page that it leads to"
    with tab.expect_navigation(): tab.click(link)

@needs_browser
@pytest.mark.parametrize('name', pages)
def test_every_page_opens_without_an_error_and_shows_its_pictures(tab, name):
    open_page(tab, name)
    tab.evaluate("document.querySelectorAll('img').forEach(o => o.loading = 'eager')")
    tab.wait_for_function("[...document.images].every(o => o.complete)")
    assert tab.evaluate("[...document.images].filter(o => !o.naturalWidth || !o.getBoundingClientRect().width).map(o => o.src)")==[]

@needs_browser
@pytest.mark.parametrize('name', pages)
@pytest.mark.parametrize('tab', ['narrow'], indirect=True)
def test_on_a_phone_nothing_scrolls_sideways(tab, name):
    open_page(tab, name)
    assert tab.evaluate('document.scrollingElement.scrollWidth')<=sizes['narrow']['width']

@needs_browser
def test_search_finds_the_callback_and_leads_to_it(tab):
    open_page(tab, 'index.html')
    tab.fill('.sidebar-search', 'SparsifyCallback')
    tab.press('.sidebar-search', 'Enter')
    tab.wait_for_selector('#search-results li a')
    tab.click('#search-results li a >> nth=0')
    tab.wait_for_url('**/callback.html*')
    assert tab.evaluate('location.hash')=='#lottery_nb.callback.SparsifyCallback'
    assert tab.is_visible('[id="lottery_nb.callback.SparsifyCallback"]')

@pytest.fixture
def server():
    "The site, as a plain static server gives it; its address"
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=docs)) as httpd:
        Thread(target=httpd.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()

@needs_browser
def test_served_the_search_shows_what_it_has_found(browser, server):
    tab,wrong = browser.new_page(),[]
    tab.on('response', lambda o: wrong.append(o.url) if o.status>=400 else None)
    tab.on('console', lambda o: wrong.append(o.text) if o.type=='error' else None)
    tab.goto(f'{server}/index.html')
    tab.fill('.sidebar-search', 'rewind')
    tab.press('.sidebar-search', 'Enter')
    tab.wait_for_selector('#search-results p.context')
    assert 'rewind' in tab.inner_text('#search-results').lower() and not wrong
    tab.close()

@needs_browser
def test_the_sidebar_walks_through_all_pages(tab):
    open_page(tab, 'index.html')
    links = tab.eval_on_selector_all('.sidebar-tree a', 'os => os.map(o => o.href)')
    names = [unquote(o).partition('#')[0].removeprefix(docs.as_uri()+'/') for o in links]
    assert sorted(names)==sorted(written) and names[0]=='index.html'
    for name in names:
        follow(tab, f'.sidebar-tree li >> nth={names.index(name)} >> a >> nth=0')
        assert at(tab)==name
        assert tab.locator('.sidebar-tree .current-page').count()==1

@needs_browser
def test_the_next_links_walk_through_all_pages(tab):
    open_page(tab, 'index.html')
    seen = [at(tab)]
    while tab.locator('a.next-page').count():
        follow(tab, 'a.next-page')
        seen.append(at(tab))
        assert len(seen)<=len(written)
    assert sorted(seen)==sorted(written)

@needs_browser
@pytest.mark.parametrize('tab', ['wide', 'narrow'], indirect=True)
def test_light_and_dark_switch(tab):
    open_page(tab, 'callback.html')
    def colours(): return tab.evaluate("['background-color', 'color'].map(o => getComputedStyle(document.body).getPropertyValue(o))")
    seen = {}
    for _ in range(3):
        tab.locator('button.theme-toggle:visible').first.click()
        seen[tab.evaluate('document.body.dataset.theme')] = colours()
    assert seen.keys()=={'light', 'dark', 'auto'} and seen['light']==seen['auto']
    assert all(a!=b for a,b in zip(seen['light'], seen['dark']))
    tab.locator('button.theme-toggle:visible').first.click()
    chosen = tab.evaluate('document.body.dataset.theme')
    tab.reload()
    assert tab.evaluate('document.body.dataset.theme')==chosen

@needs_browser
@pytest.mark.parametrize('tab', ['narrow'], indirect=True)
def test_on_a_phone_the_menu_opens(tab):
    open_page(tab, 'index.html')
    link = tab.locator(f'.sidebar-tree a[href="{tutorial}"]')
    assert not link.is_visible() or link.bounding_box()['x']<0
    tab.locator('.nav-overlay-icon:visible').first.click()
    link.click()
    tab.wait_for_url(f'**/{tutorial}')
