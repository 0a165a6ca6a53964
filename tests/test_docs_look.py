"""The site as it is read and searched: in Chromium, on a desktop and on a phone, in the light and in the dark.

`LOTTERY_NB_SITE` names another folder than docs/, such as one that tools/docs/build.py has just written."""
import io, os, re, shutil, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import pytest

sync_api = pytest.importorskip('playwright.sync_api', reason='the extra docs is not installed')
docs = Path(os.environ.get('LOTTERY_NB_SITE') or Path(__file__).resolve().parent.parent/'docs').resolve()
chromium = next(filter(None, map(shutil.which,
                                 ('chromium', 'google-chrome', 'google-chrome-stable', 'chromium-browser'))), None)
pytestmark = pytest.mark.skipif(chromium is None, reason='no Chromium on this machine')

SIZES = dict(desktop=(1280, 800), phone=(390, 844))
MODES = ['light','dark']
# code, tables, printed output, pictures, folded cells, descriptions: what a site can show is on these
PAGES = ['index.html', 'find.html', 'measure.html', 'tutorials/error_bars.html', 'tutorials/first_ticket.html']

@pytest.fixture(scope='module')
def open_page():
    "Opens a page in a tab for each size and mode"
    tabs = {}
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        def go(name, size='desktop', mode='light', base=docs.as_uri()):
            if (size,mode) not in tabs:
                width,height = SIZES[size]
                tabs[size,mode] = browser.new_page(viewport=dict(width=width, height=height), color_scheme=mode)
                tabs[size,mode].set_default_timeout(10_000)
            tab = tabs[size,mode]
            tab.goto(f'{base}/{name}')
            tab.evaluate("document.querySelectorAll('img').forEach(o => o.loading = 'eager')")
            tab.evaluate("document.querySelectorAll('article details').forEach(o => o.open = true)")
            tab.wait_for_function("[...document.images].every(o => o.complete)")
            tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            return tab
        yield go
        browser.close()

def on_pages(open_page, script, pages, sizes=('desktop',), modes=('light',)):
    "What `script` finds, by page, size and mode: those alone where it finds something"
    return {(name,size,mode): found for name in pages for size in sizes for mode in modes
            if (found:=open_page(name, size, mode).evaluate(script))}

# What is too wide

WIDE = """[...document.querySelectorAll('article *')].filter(o => o.checkVisibility({contentVisibilityAuto: true})
    && /auto|scroll/.test(getComputedStyle(o).overflowX) && o.scrollWidth > o.clientWidth+1)"""

FAULTS = {
    'code whose lines are broken': """[...document.querySelectorAll('.cell_input pre')]
        .filter(o => getComputedStyle(o).whiteSpace != 'pre').map(o => o.innerText)""",
    'prose that was printed, and is cut': """[...document.querySelectorAll('.cell_output pre')]
        .filter(o => o.scrollWidth > o.clientWidth+1).map(o => o.innerText)
        .filter(o => !/[│┃━]|\\S {2,}\\S.*\\n.*\\S {2,}\\S/.test(o))""",
    'what scrolls, and nothing shows it': f"""{WIDE}
        .filter(o => !getComputedStyle(o).maskImage.includes('gradient')).map(o => o.outerHTML)""",
    'what scrolls, out of reach of the keyboard': f"""{WIDE}
        .filter(o => o.tabIndex < 0 || !o.getAttribute('aria-label')).map(o => o.outerHTML)""",
    'a page that scrolls sideways': "[document.documentElement.scrollWidth].filter(o => o > innerWidth)",
    # they were drawn with letters of 14 pixels; those in links are a sight of what's behind
    'a picture with letters too small to read': """[...document.querySelectorAll('article img:not(a img)')]
        .filter(o => o.getBoundingClientRect().width < .5*o.naturalWidth).map(o => o.alt)"""}

@pytest.fixture(scope='module')
def faults(open_page):
    "What each of FAULTS finds, by page and size; every page is opened once"
    every = 'Object({%s})' % ', '.join(f'{k!r}: {o}' for k,o in FAULTS.items())
    found = {(name,size): open_page(name, size).evaluate(every) for name in PAGES for size in SIZES}
    return {fault: {place: o[fault] for place,o in found.items() if o[fault]} for fault in FAULTS}

@pytest.mark.parametrize('fault', FAULTS)
def test_there_is_not(faults, fault): assert not faults[fault]

def test_the_finding_can_be_read_to_its_end(open_page):
    tab = open_page('tutorials/error_bars.html')
    seen = tab.evaluate("""[...document.querySelectorAll('.cell_output pre')]
        .filter(o => o.innerText.includes('cannot show a difference')).map(o => o.scrollWidth <= o.clientWidth+1)""")
    assert seen and all(seen)

def test_what_scrolls_fades_where_it_goes_on(open_page):
    tab = open_page('find.html', 'phone')
    assert tab.evaluate(f'{WIDE}.length')>5
    edges = tab.evaluate(f"""(async () => {{
        const box = {WIDE}.find(o => o.scrollWidth > o.clientWidth+60), frame = () => new Promise(requestAnimationFrame)
        const seen = [getComputedStyle(box).maskImage]
        for (const left of [30, box.scrollWidth]) {{
            box.scrollLeft = left
            await frame(); await frame()
            seen.push(getComputedStyle(box).maskImage)
        }}
        return seen
    }})()""")
    assert len(set(edges))==3 # at the right, at both sides, at the left

def test_what_scrolls_is_scrolled_with_the_keyboard(open_page):
    "And the keys don't turn the page, as they do elsewhere"
    tab = open_page('find.html', 'phone')
    tab.evaluate(f'{WIDE}[0].focus()')
    tab.keyboard.press('ArrowRight')
    tab.wait_for_function('document.activeElement.scrollLeft > 0')
    assert tab.url.endswith('/find.html')

def test_parameters_and_source_links_on_a_phone(open_page):
    "The description of a parameter, which one came for, is in sight; [source] isn't amidst the signature"
    tab = open_page('find.html', 'phone')
    out = tab.evaluate("""[...document.querySelectorAll('dl.py td')].filter(o => o.innerText.trim())
        .filter(o => o.getBoundingClientRect().right > innerWidth).map(o => o.innerText)""")
    assert not out
    beside = tab.evaluate("""[...document.querySelectorAll('dl.py dt')].filter(o => {
        const link = o.querySelector('.viewcode-link'), parts = [...o.children].filter(k => !k.contains(link))
        if (!link) return false
        return Math.max(...parts.map(k => k.getBoundingClientRect().bottom)) > link.getBoundingClientRect().bottom
            || getComputedStyle(link.parentElement).float != 'none'
    }).map(o => o.innerText)""")
    assert not beside
    gap = tab.evaluate("""(() => {
        const box = o => document.querySelector(o).getBoundingClientRect()
        return box('.toc-header-icon').left - box('.theme-toggle-header').right
    })()""")
    assert gap>=8

# Columns and the way about

def test_the_contents_of_a_page_are_beside_it_at_1280_pixels(open_page):
    box = "(o => [o.left, o.right])(document.querySelector('.toc-tree').getBoundingClientRect())"
    left,right = open_page('find.html').evaluate(box)
    content = open_page('find.html').evaluate("document.querySelector('article').getBoundingClientRect().right")
    assert content<left<right<=1280

def test_the_sidebar_opens_where_one_is(open_page):
    unseen = """(() => {
        const at = document.querySelector('.sidebar-tree .current-page > a').getBoundingClientRect()
        return at.top < 60 || at.bottom > innerHeight
    })()"""
    assert not on_pages(open_page, unseen, pages=['find.html', 'cli.html', 'background.html', 'contributing.html'])

# What can be told apart

CONTRAST = """(() => {
    const rgba = text => { const o = text.match(/[\\d.]+/g).map(Number); return [o[0], o[1], o[2], o[3] ?? 1] }
    const over = (a, b) => [0, 1, 2].map(i => a[i]*a[3] + b[i]*(1-a[3]))
    const light = c => c.map(o => o/255).map(o => o <= .04045 ? o/12.92 : ((o+.055)/1.055)**2.4)
        .reduce((sum, o, i) => sum + o*[.2126, .7152, .0722][i], 0)
    const below = el => {
        if (!el) return [255, 255, 255]
        const c = rgba(getComputedStyle(el).backgroundColor)
        return c[3] == 1 ? c.slice(0, 3) : over(c, below(el.parentElement))
    }
    const weak = new Map(), texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (texts.nextNode()) {
        const el = texts.currentNode.parentElement
        if (!texts.currentNode.textContent.trim() || !el.checkVisibility({visibilityProperty: true})) continue
        if (el.closest('script, style, noscript, svg, math')) continue
        const style = getComputedStyle(el), ground = below(el), ink = over(rgba(style.color), ground)
        const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x), size = parseFloat(style.fontSize)
        const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700)
        const ratio = (a + .05)/(b + .05), pair = `${style.color} on rgb(${ground.map(Math.round)})`
        if (ratio < (large ? 3 : 4.5)) weak.set(pair, [ratio, el.innerText])
    }
    return Object.fromEntries(weak)
})()"""
# as Sphinx writes them
CALLOUTS = """for (const o of ['note', 'tip', 'warning', 'important', 'caution'])
    document.querySelector('article').insertAdjacentHTML('beforeend',
        `<div class="admonition ${o}"><p class="admonition-title">Title</p><p>A <a href="#">link</a>.</p></div>`)"""

@pytest.mark.parametrize('mode', MODES)
def test_everything_written_stands_out_from_its_ground(open_page, mode):
    pages = ['find.html', 'tutorials/first_ticket.html', 'benchmarks.html', 'search.html?q=rewind']
    assert not on_pages(open_page, CONTRAST, modes=[mode], pages=pages)

@pytest.mark.parametrize('mode', MODES)
def test_callouts_look_different_and_can_be_read(open_page, mode):
    tab = open_page('index.html', mode=mode)
    tab.evaluate(CALLOUTS)
    colours,icons,sizes = zip(*tab.evaluate("""[...document.querySelectorAll('article > .admonition')].map(o => [
        getComputedStyle(o).borderLeftColor, getComputedStyle(o.firstChild, '::before').maskImage,
        parseFloat(getComputedStyle(o).fontSize)])"""))
    assert len({*colours[:3]})==3 and 'none' not in icons and min(sizes)>=14
    assert not tab.evaluate(CONTRAST)

def test_what_a_screen_reader_says(open_page):
    tab = open_page('tutorials/first_ticket.html')
    tab.evaluate("document.querySelectorAll('details').forEach(o => o.open = false)")
    folded = tab.locator('details > summary').first
    assert folded.get_attribute('aria-label') is None and 'Show the code' in folded.inner_text()
    assert not tab.evaluate("[...document.querySelectorAll('th')].filter(o => !o.innerText.trim()).length")
    assert not tab.evaluate("[...document.querySelectorAll('[role=heading]:not([aria-level])')].length")
    assert open_page('search.html').locator('h1').count()==1

@pytest.mark.parametrize('size, mode', [('desktop','light'), ('phone','dark')])
def test_axe_finds_nothing(open_page, size, mode):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='axe-playwright-python is missing').Axe()
    for name in ('measure.html', 'search.html?q=onnx'):
        found = axe.run(open_page(name, size, mode)).response['violations']
        assert not [(o['id'], o['nodes'][0]['html']) for o in found], name

# Tables

def test_numbers_are_set_right_also_where_some_are_missing(open_page):
    left = """[...document.querySelectorAll('.cell_output table')].flatMap(table => {
        const rows = [...table.tBodies].flatMap(o => [...o.rows]), n = Math.min(...rows.map(o => o.cells.length))
        const columns = [...Array(n).keys()].map(i => rows.map(o => o.cells[o.cells.length - n + i]))
        return columns.filter(o => o.every(cell => /^([-+\\d.,e%]*|nan|<na>)$/i.test(cell.innerText.trim())))
            .filter(o => o.some(cell => /nan|<na>/i.test(cell.innerText)) && o.some(cell => /\\d/.test(cell.innerText)))
            .filter(o => o.some(cell => getComputedStyle(cell).textAlign != 'right'))
            .map(o => o.map(cell => cell.innerText))
    })"""
    missing = [o.relative_to(docs).as_posix() for o in sorted(docs.rglob('*.html'))
               if re.search(r'>(NaN|&lt;NA&gt;)</td>', o.read_text(encoding='utf-8'))]
    assert missing and not on_pages(open_page, left, pages=missing)

def test_a_header_of_several_columns_stands_over_them(open_page):
    off = """[...document.querySelectorAll('.cell_output thead [colspan]')].filter(o => o.colSpan > 1)
        .map(o => getComputedStyle(o).textAlign)"""
    assert set(open_page('measure.html').evaluate(off))=={'center'}

# In the dark

@pytest.mark.parametrize('size', SIZES)
def test_pictures_and_printed_output_do_not_stick_out_in_the_dark(open_page, size):
    from PIL import Image
    tab = open_page('index.html', size, 'dark')
    picture = Image.open(io.BytesIO(tab.locator('article img').first.screenshot())).convert('L')
    assert 150<picture.getextrema()[1]<225
    stripes = """[...document.querySelectorAll('.cell_output .highlight, .cell_output pre')]
        .map(o => getComputedStyle(o).backgroundColor).filter(o => !/, 0\\)$/.test(o))"""
    assert not on_pages(open_page, stripes, ['find.html'], [size], ['dark'])

def test_what_a_row_is_called_stays_in_sight(open_page):
    tab = open_page('tutorials/error_bars.html', 'phone')
    moved = tab.evaluate("""[...document.querySelectorAll('.more-right')].map(o => {
        o.scrollLeft = 60
        const left = o.getBoundingClientRect().left
        return [...o.querySelectorAll('tbody th:first-child')].map(th => th.getBoundingClientRect().left - left)
    }).filter(o => o.length)""")
    assert moved and all(-1<o<60 for rows in moved for o in rows)

# The search

TASKS = {'DDP': 'distributed', 'conv layers': 'sparsifier|granularity', 'sparsity 90': 'sparsifier|callback',
         'install': 'index|overview', 'vit': 'tutorials/language_models|beside/timm', 'exclude layer': 'sparsifier',
         'structured pruning': 'channels|shrink', 'colab': 'tutorials/first_ticket',
         'quickstart': 'tutorials/first_ticket', 'save ticket': 'ticket', 'onnx': 'export', 'early bird': 'when',
         'SparsifyCallback': 'callback', 'fine-tune': 'tutorials/fine_tuning|recipes/vision',
         'freeze': 'recipes/vision|tutorials/fine_tuning', 'my own data': 'tutorials/error_bars|overview|index',
         'rebasin': 'symmetry', 'permutation': 'symmetry', 'ITOP': 'regrow', 'dynamic sparse training': 'regrow'}

def results(tab, question):
    "What the search finds: address, heading and line of context of each"
    tab.wait_for_function("o => document.getElementById('search-results').dataset?.done === o", arg=question)
    return tab.evaluate("""[...document.querySelectorAll('#search-results > li')].map(o => {
        const link = o.querySelector('a')
        return {url: link.href, title: link.innerText, line: o.querySelector('p').innerText}
    })""")

def page_of(url): return re.search(r'/((?:tutorials/|recipes/|beside/)?\w+)\.html', url)[1]

@pytest.fixture(scope='module')
def served():
    "The address of a server for the site"
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=docs)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()

@pytest.mark.parametrize('question', TASKS)
def test_a_task_finds_its_page(open_page, question):
    found = results(open_page(f'search.html?q={question}'), question)
    assert any(re.fullmatch(TASKS[question], page_of(o['url'])) for o in found[:3]), found[:3]
    assert all(o['line'] for o in found)

def test_a_result_leads_to_its_section_and_all_of_them_exist(open_page):
    found = results(open_page('search.html?q=rewind'), 'rewind')
    assert sum('#' in o['url'] for o in found)>len(found)/2
    for o in found:
        path,_,anchor = o['url'].removeprefix(docs.as_uri()+'/').partition('#')
        assert not anchor or f'id="{anchor}"' in (docs/path).read_text(encoding='utf-8')
    assert sum('rewind' in (o['title']+o['line']).lower() for o in found)>=.9*len(found)

def test_the_search_is_the_same_from_a_server(open_page, served):
    bases = (served, docs.as_uri())
    there,here = (results(open_page('search.html?q=exclude layer', base=o), 'exclude layer') for o in bases)
    assert here and [o['line'] for o in here]==[o['line'] for o in there]

def test_nothing_found_is_said(open_page):
    assert not results(open_page('search.html?q=qwertz'), 'qwertz')
    assert 'qwertz' in open_page('search.html?q=qwertz').inner_text('[role=status]')

def test_the_sidebar_searches_as_one_types(open_page):
    tab = open_page('tutorials/first_ticket.html')
    tab.locator('.sidebar-search').press_sequentially('DDP')
    first = tab.locator('.search-panel li a').first
    first.wait_for()
    tab.keyboard.press('ArrowDown')
    assert first.evaluate('o => o === document.activeElement')
    tab.keyboard.press('Enter')
    tab.wait_for_url('**/distributed.html*')
    tab.locator('.sidebar-search').fill('onnx')
    tab.keyboard.press('Enter')
    tab.wait_for_url('**/search.html?q=onnx')
    assert 'export' in results(tab, 'onnx')[0]['url']
