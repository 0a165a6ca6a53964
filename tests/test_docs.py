"The site in docs/: whole, readable, and without an error in a browser that opens it from the clone"
import ast, inspect, re, shutil, sys, zipfile
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urldefrag
import nbformat, pytest
from lottery_nb import _modidx, all as everything

bs4 = pytest.importorskip('bs4', reason='the extra docs is not installed')
sync_api = pytest.importorskip('playwright.sync_api', reason='the extra docs is not installed')

root = Path(__file__).resolve().parent.parent
docs = root/'docs'
sys.path.insert(0, str(root/'tools'/'docs')) # the builder's own modules
pages = sorted(o.relative_to(docs).as_posix() for o in docs.rglob('*.html'))
written = [o for o in pages if not re.match(r'_modules/|genindex|search\.html|404', o)] # by us, not by Sphinx
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
        # by us: the pages speak of these
        told = re.sub('UserWarning: (.* not pruned: |model: weights as PyTorch draws them).*', '', o.text)
        if re.search(r'Warning:|Traceback|(?<![\w.])/(home|root|tmp|Users)/', told) and 'cell_output' in o['class']:
            yield o.text

def test_no_cell_is_empty_and_none_shows_a_warning_or_the_machine(): assert not on_each_page(odd_cells)

def test_everything_public_has_its_signature_its_parameters_and_its_source():
    entry = soup('callback.html').find(id='lottery_nb.callback.SparsifyCallback').parent
    assert 'end_sparsity' in entry.dt.text
    assert [o.text for o in entry.select('tbody tr td:first-child')][:3]==['end_sparsity', 'granularity', 'method']
    assert not on_each_page(lambda name: [o.get('id')
                                          for o in soup(name).select('dl.py > dt') if not o.select('.viewcode-link')])

def sidebar():
    "What the sidebar lists, by caption"
    tree = soup('index.html').select_one('.sidebar-tree')
    def place(a): return unquote(a['href']).partition('#')[0] or 'index.html'
    return {o.text.strip(): [place(a) for a in o.find_next('ul').select('a')] for o in tree.select('.caption')}

def test_the_sidebar_leads_to_every_page():
    links = [o for group in sidebar().values() for o in group]
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

# Public things first

def modules():
    "The pages of the modules, by name; `all` defines nothing"
    names = [k.partition('.')[2] for k in _modidx.d['syms']]
    return {o: f'{o}.html' for o in names if o!='all'}

def test_a_modules_page_begins_with_all_that_it_describes():
    "In a line at the top, what the page is about first; what `lottery_nb.all` doesn't bring is folded"
    for name in modules().values():
        lines = soup(name).select('article .names')
        listed = {o['href'] for line in lines for o in line.select('a')}
        described = {f"#{o['id']}" for o in soup(name).select('dl.py:not(.method, .classmethod, .property) > dt')}
        assert described and described<=listed and listed<={f'#{o}' for o in ids(name)}, name
        assert soup(name).select_one('article :is(h2, .cell, .names)') is lines[0], name
        folded = {o.text for line in lines if line.find_parent('details') for o in line.select('a')}
        assert not {o for o in folded if '.' not in o and hasattr(everything, o)}, name
    first = dict(find='find_ticket', callback='SparsifyCallback', evidence='summarise', measure='profile')
    for k,name in first.items(): assert soup(f'{k}.html').select_one('.names a').text==name

def test_no_page_shows_the_test_of_a_private_function():
    def private(name):
        shown = [o.text for o in soup(name).select('.cell_input') if not o.find_parent('details')]
        return [o for o in shown if re.search(r'(?<![\w.])_[a-z]\w*\(', o)]
    assert not on_each_page(private, modules().values())

# Signatures

def entry(full):
    "The description of a name"
    return soup(f"{full.split('.')[1]}.html").find(id=full)

def test_long_signatures_have_a_parameter_a_line_with_types_that_link():
    sig = entry('lottery_nb.find.find_ticket')
    assert len(sig.select('.param'))==len(inspect.signature(import_module('lottery_nb.find').find_ticket).parameters)
    links = {o.text: o['href'] for o in sig.select('a.reference')}
    assert links['Criterion']=='criteria.html#lottery_nb.criteria.Criterion'
    assert links['Search']=='#lottery_nb.find.Search' and links['Callable'].startswith('https://docs.python.org/')
    assert "granularity: str = 'weight'" in sig.text, 'a string has its quotes'

def test_types_of_ours_are_links_wherever_they_are_described():
    classes = [o['id'] for name in modules().values() for o in soup(name).select('dl.py.class > dt')]
    described = {o.rpartition('.')[2] for o in classes}
    def plain(name):
        for o in soup(name).select('dt.sig .sig-param, dt.sig .sig-return'):
            for n in o.select('.n > .pre, .sig-return-typehint .pre'):
                if n.text in described and not n.find_parent(class_=['reference','default_value']): yield n.text
    assert not on_each_page(plain)

def test_classes_say_what_they_are_made_from_and_what_they_can():
    def bases(full): return entry(full).find_next_sibling('dd').p.text
    assert bases('lottery_nb.callback.SparsifyCallback')=='Bases: PruningCallback, TrainingCallback'
    assert bases('lottery_nb.callback.TrainingCallback')=='Bases: Callback'
    assert bases('lottery_nb.find.SearchError')=='Bases: ValueError'
    assert entry('lottery_nb.arms.Arm.begin') or 'arm.begin' in ids('arms.html')

def test_descriptions_say_what_is_raised():
    rows = {tr.td.text: tr for tr in entry('lottery_nb.find.find_ticket').find_next_sibling('dd').select('tbody tr')}
    assert {o.text for o in rows['Raises'].select('a')}>={'ArgumentError','SearchError','TicketError'}

def own_links(name):
    "Links in a description that are its own parameters, as the word `granularity` in that of a function that takes one"
    for o in soup(name).select('dl.py > dt'):
        params = {p.text for p in o.select('.sig-param > .n:first-of-type')}
        yield from (a.text for a in o.find_next_sibling('dd').select('a.reference.internal') if a.text in params)

def test_words_are_no_links_to_functions_that_are_called_alike():
    assert not on_each_page(own_links)
    words = 'early_stop','granularity','arm','method'
    def columns(name):
        return [a.text for a in soup(name).select('article :is(p, td) a.reference.internal')
                if a.code and a.text in words and not a.find_parent(class_='names')]
    assert not on_each_page(columns)

# Ways in from elsewhere

def test_nbdevs_links_lead_to_what_they_name():
    "`_modidx` has a page and an anchor for everything; other nbdev projects link to these"
    dead = []
    for syms in _modidx.d['syms'].values():
        for name,(place,_) in syms.items():
            path,anchor = place.split('#')
            short = name.split('.', 2)[2]
            if re.search(r'(^|\.)_', short) or not (docs/path).exists(): continue
            if anchor not in ids(path) and described_somewhere(name): dead.append(place)
    assert not dead
    assert _modidx.d['syms']['lottery_nb.find']['lottery_nb.find.find_ticket'][0]=='find.html#find_ticket'

def described_somewhere(full): return any(full in ids(o) for o in modules().values())

def test_sphinxs_links_lead_here_too():
    import zlib
    data = (docs/'objects.inv').read_bytes()
    text = zlib.decompress(data[data.index(b'zlib.\n')+6:]).decode()
    assert 'lottery_nb.find.find_ticket py:function 1 find.html#$ -' in text

def test_no_page_of_ours_is_called_like_one_of_sphinxs():
    assert not {'search','genindex','py-modindex'} & set(modules())

# The sidebar

def test_the_sidebar_is_grouped_by_what_one_wants():
    groups = sidebar()
    wanted = ['Start','Recipes','Use it','Choose','Evidence','Landmarks','Smaller','Around','Beside','More']
    assert list(groups)==[o for o in wanted if o in groups] and {*groups}>={*wanted}-{'Recipes','Beside'}
    assert groups['Use it']==[f'{o}.html' for o in ('callback','find','ticket','sparsifier','commands')]
    assert 'granularity.html' in groups['Choose'] and 'shrink.html' in groups['Smaller']

# The command line

def options():
    "Every option of every command, as Typer knows them"
    from command_line import commands
    return [(k, typed) for k,o in commands.items() for p in o.params if p.param_type_name=='option' for typed in p.opts]

def test_every_command_and_every_option_is_told():
    from command_line import commands
    page = soup('commands.html')
    for k in commands:
        told = page.find('section', id=k).text
        assert f'$ lottery-nb {k}' in told, k
        for name,option in options():
            if name==k: assert re.search(rf'(?<![\w-]){option}(?![\w-])', told), f'{k} {option}'
    row = next(tr for tr in page.find('section', id='find').select('tr') if '--rounds' in tr.text)
    assert [o.text for o in row.select('td')]==['--rounds <int>', '10', 'How often to prune; 1 is one-shot.']
    assert [o['href'] for o in soup('cli.html').select('article a') if o['href'].startswith('commands.html')]

def test_examples_of_the_command_line_read_as_a_shell():
    assert not re.findall(r"lottery_nb\('", soup('cli.html').select_one('article').text)
    assert len(soup('cli.html').select('.highlight-console'))>5

# Ways in and out

def told():
    from facts import facts
    return facts(env={})

def test_every_page_says_its_version():
    def said(name): return soup(name).select_one('.sidebar-facts').text.strip()
    assert not on_each_page(lambda name: [] if said(name).startswith(told().version) else ['no version'])

def test_the_install_line_is_true():
    "What the first page says is what settings.ini knows; the file that it names is there, and is this package"
    line = soup('index.html').select_one('.highlight-sh pre').text.strip()
    assert line==told().variables()['install']
    if told().ships_wheel:
        with zipfile.ZipFile(docs/told().wheel) as wheel:
            for o in sorted((root/'lottery_nb').glob('*.py')): assert wheel.read(f'lottery_nb/{o.name}')==o.read_bytes()

def test_quartos_variables_are_those_of_settings_ini():
    assert (root/'nbs'/'_variables.yml').read_text(encoding='utf-8')==told().quarto()

ini = """[DEFAULT]
lib_name = lottery_nb
version = 1.2.3
description = Tickets
published = {published}
git_url = {git_url}
doc_host = {doc_host}
doc_baseurl = {doc_baseurl}
"""

def facts_of(tmp_path, env=None, published='no', git_url='', doc_host='', doc_baseurl=''):
    from facts import facts
    said = dict(published=published, git_url=git_url, doc_host=doc_host, doc_baseurl=doc_baseurl)
    (tmp_path/'settings.ini').write_text(ini.format(**said))
    return facts(tmp_path/'settings.ini', env or {})

def test_the_install_line_follows_the_facts(tmp_path):
    def line(**known): return facts_of(tmp_path, **known).variables()['install']
    assert line()=='pip install lottery_nb-1.2.3-py3-none-any.whl'
    host = dict(doc_host='https://a.github.io', doc_baseurl='/b/')
    assert line(**host)=='pip install https://a.github.io/b/lottery_nb-1.2.3-py3-none-any.whl'
    assert line(git_url='https://github.com/a/b')=='pip install git+https://github.com/a/b'
    assert line(env=dict(LOTTERY_NB_GIT_URL='https://github.com/a/b.git'))=='pip install git+https://github.com/a/b'
    assert line(published='yes', git_url='https://github.com/a/b')=='pip install lottery_nb'

def test_what_is_not_known_is_not_said(tmp_path):
    from around import head, links
    unknown,known = facts_of(tmp_path),facts_of(tmp_path, git_url='https://github.com/a/b', doc_host='https://a.io')
    page = dict(path='nbs/11_find.ipynb')
    assert [o for o,_ in links('find', page, unknown)]==['This page as Markdown']
    assert dict(links('find', page, known))=={
        'This page as Markdown': 'find.html.md', 'Repository': 'https://github.com/a/b',
        'Edit this page': 'https://github.com/a/b/edit/main/nbs/11_find.ipynb',
        'Report an issue': 'https://github.com/a/b/issues/new'}
    assert unknown.colab('x.ipynb')=='' and facts_of(tmp_path, git_url='https://elsewhere.org/a/b').colab('x')==''
    assert known.colab('x.ipynb')=='https://colab.research.google.com/github/a/b/blob/main/x.ipynb'
    assert not re.search('canonical|og:image|og:url', head('find', 'find', 'words', unknown))
    assert '<link rel="canonical" href="https://a.io/find.html">' in head('find', 'find', 'words', known)

def runnable(): return [o for o in written if re.match('tutorials/|recipes/|beside/', o)]

def test_tutorials_and_recipes_open_with_a_way_to_run_them():
    for name in runnable():
        links = {o.text: o['href'] for o in soup(name).select('article .buttons a')}
        assert [*links][-1]=='Download the notebook' and ('Open in Colab' in links)==bool(told().colab('x')), name
        nb = nbformat.read((docs/name).parent/unquote(links['Download the notebook']), 4)
        nbformat.validate(nb)
        assert nb.cells[0].source.startswith(f'%pip install -q {told().source}')
        code = [c for c in nb.cells if c.cell_type=='code']
        assert len(code)>2 and not any(c.outputs or re.search(r'^#\s*\|', c.source, re.M) for c in code), name

def test_the_first_page_has_three_ways_in():
    page = soup('index.html')
    assert [o.text for o in page.select('.way strong')]==['Try it','Learn it','Look it up']
    code = page.select_one('#try-it .cell_input').text.strip().splitlines()
    assert len(code)==7 and code[1]=='from lottery_nb.all import *'
    cards = page.select('#learn-it .card')
    assert [o.select_one('strong a')['href'] for o in cards]==[o for o in sidebar()['Start'] if o!='index.html']
    assert all(o.select('img') for o in cards)
    assert len(page.select('#look-it-up tbody tr'))>9

def test_the_first_page_tells_the_finding_of_the_stored_results():
    import pandas as pd
    from lottery_nb.all import Experiment, mean_interval, summarise
    df = pd.read_csv(root/'nbs'/'tutorials'/'results'/'error_bars.csv.gz')
    said = soup('index.html').select_one('#what-we-found').text
    for line in summarise(df[df['round'].isin([0, df['round'].max()])]).finding: assert line in said
    df = Experiment.from_toml(root/'nbs'/'tutorials'/'imagenette_full.toml').results()
    last = df[(df.arm=='winning') & (df['round']==3) & (df.epoch==4) & (df.metric=='accuracy')].value
    mean,half = mean_interval(100*last)
    assert f'{mean:.1f} ± {half:.1f}' in said

# nbdev's own tools, and Quarto's markup

@pytest.mark.parametrize('path', sorted((root/'nbs').glob('[0-9]*.ipynb')), ids=lambda o: o.stem)
def test_cells_that_import_do_nothing_else(path):
    "nbdev runs them, and them alone, when it makes its pages: what they compute may need what isn't there then"
    for c in nbformat.read(path, 4).cells:
        if c.cell_type!='code' or re.search(r'^#\s*\|\s*(export|hide)', c.source, re.M): continue
        nodes = ast.parse(re.sub('^[%!].*', '', c.source, flags=re.M)).body
        assert len({isinstance(o, (ast.Import, ast.ImportFrom)) for o in nodes})<2, c.source

def test_quartos_blocks_are_understood():
    from quarto import to_myst
    def myst(text): return re.sub(r':{3,}', ':::', to_myst(text, dict(x='1')))
    assert myst('::: {.callout-note}\nRead.\n:::')==':::{note}\nRead.\n:::'
    assert myst('::: {.callout-tip}\n## So\nRead.\n:::')==':::{admonition} So\n:class: tip\n\nRead.\n:::'
    assert myst('::: {.callout-warning title="So"}\nRead.\n:::')==':::{admonition} So\n:class: warning\n\nRead.\n:::'
    assert myst('> [!WARNING]\n> Read.\n> On.\n')==':::{warning}\nRead.\nOn.\n:::\n'
    assert myst('{{< var x >}}')=='1'
    code = '```python\n::: {.callout-note}\n:::\n```'
    assert myst(code)==code
    outer,inner = re.findall('^(:+){', to_myst(':::: {.a}\n::: {.b}\nx\n:::\n::::', {}), re.M)
    assert len(outer)>len(inner), 'as MyST wants it'

def test_pictures_in_markdown_are_figures():
    from quarto import to_myst
    found = to_myst('![A cap](a.png){fig-alt="What it shows" width="50%"}', {})
    assert found==':::{figure} a.png\n:alt: What it shows\n:width: 50%\n\nA cap\n:::'
    figure = soup('index.html').select_one('article figure')
    assert figure.img['alt'].startswith('Weights kept per pixel')
    assert figure.figcaption.text.strip().startswith('A network that reads')

def test_directives_of_a_cell_are_understood():
    from pages import code_cell
    said = {'fig-cap': '"Drawn"', 'fig-alt': '"What is seen"', 'code-fold': 'true', 'code-summary': '"How"'}
    cell = nbformat.v4.new_code_cell('1')
    cell['directives_'] = said
    made = code_cell(cell).metadata
    assert made['tags']==['hide-input'] and made['mystnb']['figure']==dict(caption='Drawn')
    assert made['mystnb']['code_prompt_show']=='How' and made['mystnb']['image']==dict(alt='What is seen')

def test_pages_end_with_the_versions_that_made_them():
    "In one line, with the trainings' own where these are older"
    from pages import made_with
    for name in [o for o in written if o.startswith(('tutorials/','recipes/','beside/'))]:
        line = soup(name).select_one('.made-with').text
        assert re.search(r'Run on \d{4}-\d\d-\d\d with lottery_nb \S+, torch \S+, fastai \S+, python \S+[.;]', line)
    old,new = (dict(day=day, lottery_nb='0', torch=n, fastai='2', python='3') for day,n in [('1.1.','1'),('2.1.','2')])
    def said(long=True, **told):
        cell = nbformat.v4.new_code_cell('1', metadata=dict(tags=['long']*long))
        return made_with(nbformat.v4.new_notebook(cells=[cell], metadata=dict(made_with=told) if told else {}))
    short = 'Run on 2.1. with lottery_nb 0, torch 2, fastai 2, python 3'
    assert said()=='' and said(page=new, trainings=new)==said(False, page=new)==f'{short}.'
    assert said(page=new)==f'{short}; its long trainings on an earlier day.'
    other = short.replace('Run', 'its long trainings').replace('2.1.', '1.1.').replace('torch 2', 'torch 1')
    assert said(page=new, trainings=old)==f'{short}; {other}.'

def test_pages_show_no_markup():
    marks = re.compile(r'^:::.*|\[!(?:NOTE|TIP|WARNING)\]|\{\{<.*', re.M)
    assert not on_each_page(lambda name: marks.findall(soup(name).select_one('article').text))

def test_every_picture_that_is_drawn_has_a_caption():
    def bare(name):
        for o in soup(name).select('.cell_output img'):
            if not (o.find_parent('figure') and o.find_parent('figure').figcaption.text.strip()): yield o['src']
    assert not on_each_page(bare)

# For search engines, chats and readers without a browser

def test_every_head_says_what_the_page_is():
    def missing(name):
        def meta(**attrs): return soup(name).head.find('meta', attrs=attrs)
        for attrs in (dict(name='description'), dict(property='og:title'), dict(property='og:description'),
                      dict(property='og:type'), dict(name='twitter:card')):
            if not meta(**attrs) or len(meta(**attrs)['content'])<3: yield attrs
        if not soup(name).head.find('link', rel='apple-touch-icon'): yield 'icon'
    assert not on_each_page(missing)
    said = [soup(o).head.find('meta', attrs=dict(name='description'))['content'] for o in written]
    assert len({*said})==len(said), 'a description is of its page'
    assert all((docs/'_static'/o).exists() for o in ('card.png','icon.png')) and (docs/'404.html').exists()

def test_what_is_not_there_is_said_from_any_folder(tmp_path):
    from build import write_for_robots
    known = facts_of(tmp_path, doc_host='https://a.github.io', doc_baseurl='b')
    for o in ('404.html','index.html','find.html'): shutil.copy(docs/o, tmp_path)
    write_for_robots(tmp_path, known)
    page = bs4.BeautifulSoup((tmp_path/'404.html').read_text(), 'html.parser')
    links = [o[k] for k in ('href','src') for o in page.select(f'[{k}]')]
    assert not [o for o in links if not re.match(r'\w+:|#|/b/', o)]
    assert '<loc>https://a.github.io/b/find.html</loc>' in (tmp_path/'sitemap.xml').read_text()
    assert '<loc>https://a.github.io/b/</loc>' in (tmp_path/'sitemap.xml').read_text()
    assert 'https://a.github.io/b/sitemap.xml' in (tmp_path/'robots.txt').read_text()

def test_every_page_is_there_as_markdown_and_listed():
    listed = re.findall(r'^- \[[^\]]+\]\(([^)]+)\)', (docs/'llms.txt').read_text(encoding='utf-8'), re.M)
    assert sorted(o.removeprefix(told().site) for o in listed)==sorted(f'{o}.md' for o in written)
    for name in written:
        plain = (docs/f'{name}.md').read_text(encoding='utf-8')
        assert plain.startswith('# ') and plain.count('\n```')%2==0, name
        outside = re.sub(r'^ *```.*?^ *```$', '', plain, flags=re.M | re.S)
        assert not re.findall(r'\{py:|^:::|^:\w+: |\.ipynb\)', outside, re.M), name
        links = re.findall(r'\]\((?!\w+:|#)([^)\s#]+\.html\.md)', outside)
        assert not [o for o in links if not ((docs/name).parent/o).exists()], name
    assert 'find_ticket(' in (docs/'find.html.md').read_text(encoding='utf-8')

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

@needs_browser
def test_what_a_page_is_about_is_on_its_first_screen(tab):
    tab.set_viewport_size(dict(width=1280, height=800))
    def below(name):
        open_page(tab, name)
        y = tab.evaluate("document.querySelector('article .names a').getBoundingClientRect().bottom")
        return [y] if y>800 else []
    assert not on_each_page(below, modules().values())

@needs_browser
def test_the_install_line_has_the_address_of_the_site(tab):
    open_page(tab, 'index.html')
    line = tab.locator('.highlight-sh pre').first.inner_text().strip()
    if told().ships_wheel and not told().site: assert Path(line.removeprefix('pip install ')).is_file()

@needs_browser
def test_a_notebook_is_downloaded_from_a_file_too(tab):
    open_page(tab, 'tutorials/first_ticket.html')
    with tab.expect_download() as found: tab.click('text=Download the notebook')
    assert nbformat.read(found.value.path(), 4).cells[0].id=='install'

def test_a_notebook_that_is_taken_along_brings_the_files_it_reads(tmp_path, monkeypatch):
    from facts import facts
    from notebooks import taken_along
    folder = root/'nbs'/'tutorials'
    made = {o.stem: taken_along(nbformat.read(o, 4), folder, str, facts()) for o in folder.glob('[0-9]*.ipynb')}
    assert [k for k,nb in made.items() if nb.cells[1].id=='files']==['01_imagenette']
    monkeypatch.chdir(tmp_path)
    exec(made['01_imagenette'].cells[1].source)
    names = 'imagenette','imagenette_full'
    written = {o.relative_to(tmp_path).as_posix() for o in tmp_path.rglob('*') if o.is_file()}
    assert written=={'imagenette.py', *(f'{o}.toml' for o in names), *(f'results/{o}.db' for o in names)}
    assert all((tmp_path/o).read_bytes()==(folder/o).read_bytes() for o in written)

def test_a_table_as_markdown_keeps_its_columns():
    import plain
    table = """<table><tr><th rowspan=2>a</th><th colspan=2>b</th></tr><tr><th>x</th><th>y</th></tr>
        <tr><td rowspan=2>1</td><td>2</td><td>3</td></tr><tr><td>4</td><td>5</td></tr></table>"""
    lines = plain.table(bs4.BeautifulSoup(table, 'html.parser')).split('\n')
    assert lines==['| a | b |  |', '|---|---|---|', '| a | x | y |', '| 1 | 2 | 3 |', '| 1 | 4 | 5 |']

def test_a_notebook_that_is_taken_along_has_no_link_to_what_it_is_not_beside():
    for path in docs.rglob('notebooks/**/*.ipynb'):
        words = '\n'.join(o.source for o in nbformat.read(path, 4).cells if o.cell_type=='markdown')
        assert not re.findall(r'(?<!!)\]\((?!\w+:|#)[^)]*\)', words), path

@pytest.mark.slow
def test_a_site_with_an_address_has_all_its_links(tmp_path, monkeypatch):
    from build import build
    monkeypatch.setenv('LOTTERY_NB_GIT_URL', 'https://github.com/a/b')
    monkeypatch.setenv('LOTTERY_NB_DOC_HOST', 'https://a.github.io/b')
    build(tmp_path/'site')
    def read(name): return bs4.BeautifulSoup((tmp_path/'site'/name).read_text(encoding='utf-8'), 'html.parser')
    links = {o.text: o['href'] for o in read('tutorials/first_ticket.html').select('a[href]')}
    place = 'docs/notebooks/tutorials/first_ticket.ipynb'
    assert links['Open in Colab']==f'https://colab.research.google.com/github/a/b/blob/main/{place}'
    assert links['Edit this page']=='https://github.com/a/b/edit/main/nbs/tutorials/00_first_ticket.ipynb'
    assert links['Repository']=='https://github.com/a/b'
    assert read('find.html').find('link', rel='canonical')['href']=='https://a.github.io/b/find.html'
    assert read('index.html').find('meta', property='og:image')['content']=='https://a.github.io/b/_static/card.png'
    assert 'pip install git+https://github.com/a/b' in read('index.html').text
    assert not list((tmp_path/'site').glob('*.whl'))
