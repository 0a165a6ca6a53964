"""Builds the site from the notebooks into docs/: `python tools/docs/build.py [FOLDER]`. Same input, same bytes."""
import argparse, json, os, re, shutil, subprocess, sys, tempfile, warnings
from pathlib import Path
import nbformat
from sphinx.cmd.build import main as sphinx

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
warnings.filterwarnings('ignore', category=FutureWarning)
import command_line, notebooks, pictures, plain  # noqa: E402
from facts import facts, root  # noqa: E402
from groups import nbs, notebook_groups  # noqa: E402
from pages import TEXTS, Names, Page, lead, relink, plain as plain_text  # noqa: E402

COMMANDS = 'commands' # the page of the command line

BENCHMARKS = {'benchmarks': 'what pruning costs', 'benchmark_replicates': 'error bars',
              'benchmark_peers': "beside today's peers", 'benchmark_shrink': 'channels cut out',
              'benchmark_instability': 'instability', 'benchmark_threads': 'masks on a busy machine',
              'benchmark_imports': 'what the import costs', 'benchmark_models': 'torchvision, network by network',
              'benchmark_conv': 'stacked convolutions', 'benchmark_photos': 'photos in memory',
              'benchmark_gpu': 'on a GPU'}
NOT_FOUND = '''---
orphan: true
---
# There's no such page

It may have another name by now. The [first page](index.ipynb) leads to all of them, and so does the search.
'''

# What there is

def listing(groups):
    "A caption -> what the sidebar lists under it: pages, or (what it's called, page)"
    listed = {k: [p.name for p in group] for k,group in groups.items()}
    listed['Start'][0] = 'Home','self'
    listed['Use it'].append(('Command line', COMMANDS))
    listed['More'] = [('Overview', 'overview'), 'background', *((f'Benchmark: {v}', k) for k,v in BENCHMARKS.items()),
                      'changelog', 'contributing']
    return listed

def toctree(caption, entries):
    lines = '\n'.join(o if isinstance(o, str) else f'{o[0]} <{o[1]}>' for o in entries)
    return f'```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```'

# What is put into pages

def up(name): return '../'*name.count('/')

def card(p, folder):
    "A tutorial on the first page: its picture, title, promise and time"
    lines,picture = [],p.picture()
    if picture:
        data,alt = picture
        path = folder/'cards'/f"{p.name.replace('/', '_')}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pictures.thumbnail(data))
        lines.append(f'[![{alt or p.title}](cards/{path.name})]({p.path.relative_to(nbs)})')
    takes = f'\n\n*{p.takes}*' if p.takes else ''
    return '\n\n'.join([':::{container} card', *lines,
                        f'**[{p.title}]({p.path.relative_to(nbs)})**\n\n{p.promise}{takes}', ':::'])

def cards(pages, folder): return '\n\n'.join(['::::{container} cards', *(card(p, folder) for p in pages), '::::'])

def recipe_list(pages):
    if not pages: return ''
    rows = [f'| [{p.title}]({p.path.relative_to(nbs)}) | {p.promise} |' for p in pages]
    return 'Shorter, for one task each:\n\n| | |\n|:--|:--|\n' + '\n'.join(rows)

def buttons(p, told):
    "What opens a notebook elsewhere, under its title"
    colab = told.colab(f'docs/{notebooks.folder}/{p.name}.ipynb')
    links = [f'<a class="button" href="{colab}">Open in Colab</a>'] if colab else []
    here = f'{up(p.name)}{notebooks.folder}/{p.name}.ipynb'
    links.append(f'<a class="button" href="{here}" download>Download the notebook</a>')
    return '<p class="buttons">' + ' '.join(links) + '</p>'

def runs(p): return p.name.startswith(('tutorials/','recipes/','beside/'))

def stage(folder, told):
    "Writes what Sphinx is given to `folder`, and gives what is known of each page"
    commands = command_line.pointers(COMMANDS)
    groups = {k: [Page(o, nbs, commands) for o in paths] for k,paths in notebook_groups().items()}
    pages = [p for group in groups.values() for p in group]
    names = Names({o for p in pages for o in p.described})
    tutorials = [p for p in groups['Start'] if runs(p)]
    listed = listing(groups)
    home = dict(tutorials=cards(tutorials, folder), recipes=recipe_list(groups.get('Recipes', [])),
                end='\n\n'.join(toctree(k, o) for k,o in listed.items()))
    for p in pages:
        blocks = home if p.name=='index' else dict(top=buttons(p, told)) if runs(p) else {}
        if p.name=='cli':
            blocks = dict(top=f'Every command, with all its options: [the command line]({COMMANDS}.md).')
        p.write(folder, names, told.variables(), blocks)
    for path,name in TEXTS.items(): shutil.copy(root/path, folder/name)
    (folder/f'{COMMANDS}.md').write_text(lead(command_line.reference()), encoding='utf-8')
    (folder/'404.md').write_text(NOT_FOUND, encoding='utf-8')
    for o in [root/'LICENSE', *(root/'benchmarks').glob('*.svg')]: shutil.copy(o, folder) # pages' pictures
    for o in nbs.rglob('*'):
        if o.suffix in ('.png','.svg','.jpg') and not o.name.startswith('.'):
            (at := folder/o.relative_to(nbs)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(o, at)
    known = {p.name: dict(title=p.title, words=p.promise, path=f'nbs/{p.path.relative_to(nbs)}') for p in pages}
    known |= {name[:-3]: about(root/path) | dict(path=path) for path,name in TEXTS.items()}
    known[COMMANDS] = dict(title='Command line', words='Every command of lottery-nb, with all its options')
    known['overview'] |= dict(title='Overview', words='All of it on one page: the calls, and what they promise')
    (folder/'pages.json').write_text(json.dumps(known), encoding='utf-8')
    return pages,known,listed

def about(path):
    "Title of a page that is no notebook, and what is said of it: its headings"
    text = re.sub(r'^```.*?^```', '', path.read_text(encoding='utf-8'), flags=re.M | re.S)
    title,*heads = (plain_text(o) for o in re.findall(r'^##? (.*)', text, re.M))
    return dict(title=title, words=': '.join([title, '; '.join(heads)[:200]] if heads else [title]))

# What lies beside the pages

def take_along(pages, html, told):
    "The notebooks that a reader can run"
    for p in filter(runs, pages):
        def links(text):
            "With links to the site; without an address it has none, for nobody knows where the notebook will lie"
            if not told.site: return plain.BESIDE.sub(r'\1', text)
            return plain.LINK.sub(rf"\1{told.site}{p.name.rpartition('/')[0]}/\2.html", relink(text, str))
        path = html/notebooks.folder/f'{p.name}.ipynb'
        path.parent.mkdir(parents=True, exist_ok=True)
        nb = notebooks.taken_along(p.raw, p.path.parent, links, told)
        nbformat.write(nb, path)
        # a page that was opened from a file may not fetch another file, but a script
        path.with_suffix('.js').write_text(f'window.notebook = {json.dumps(nbformat.writes(nb))}\n', encoding='utf-8')

def write_plain(source, html, known, listed, told):
    "The pages as Markdown, and the list of them"
    for name in known:
        path = next(o for o in (source/f'{name}.ipynb', source/f'{name}.md') if o.exists())
        (html/f'{name}.html.md').write_text(plain.page(path), encoding='utf-8')
    def line(o):
        name = o if isinstance(o, str) else 'index' if o[1]=='self' else o[1]
        return name,known[name]['title'],known[name]['words']
    text = plain.contents(told, known['index']['words'], {k: list(map(line, o)) for k,o in listed.items()})
    (html/'llms.txt').write_text(text, encoding='utf-8')

def write_for_robots(html, told):
    "What search engines look for, once the site has an address; a page that isn't there is told from any folder"
    page = html/'404.html'
    if told.base:
        text = page.read_text(encoding='utf-8')
        page.write_text(re.sub(r'((?:href|src|data-content_root)=")(?!\w+:|[#/])(?:\./)?', rf'\1{told.base}', text),
                        encoding='utf-8')
    if not told.site: return
    names = sorted(o.relative_to(html).as_posix() for o in html.rglob('*.html'))
    names = [o for o in names if not re.match(r'404|search|genindex|_modules', o)]
    urls = ''.join(f'<url><loc>{told.site}{"" if o=="index.html" else o}</loc></url>\n' for o in names)
    (html/'sitemap.xml').write_text('<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns='
        f'"http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n', encoding='utf-8')
    (html/'robots.txt').write_text(f'User-agent: *\nAllow: /\nSitemap: {told.site}sitemap.xml\n', encoding='utf-8')

def write_wheel(html, told):
    "The package itself, where it isn't to be had elsewhere"
    if not told.ships_wheel: return
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp)/'copy'
        copy.mkdir()
        for o in ('settings.ini','setup.py','pyproject.toml','README.md','LICENSE','MANIFEST.in'):
            if (root/o).exists(): shutil.copy(root/o, copy)
        shutil.copytree(root/told.name, copy/told.name, ignore=shutil.ignore_patterns('__pycache__'))
        for o in copy.rglob('*'): os.chmod(o, 0o755 if o.is_dir() else 0o644)
        wheel = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation']
        subprocess.run([*wheel, '-w', html, copy], check=True, env=os.environ | dict(SOURCE_DATE_EPOCH='1640995200'))

def build(out, told=None):
    """Builds the site into the folder `out`. Raises `SystemExit` if there is something else than a site in it,
    or if Sphinx has anything to complain about"""
    told = told or facts()
    if out.exists() and not (out/'.nojekyll').exists():
        sys.exit(f'{out}: expected a site, or a folder that does not exist yet')
    with tempfile.TemporaryDirectory() as tmp:
        source,html = Path(tmp)/'source',Path(tmp)/'html'
        source.mkdir()
        pages,known,listed = stage(source, told)
        if code:=sphinx(['-b', 'html', '-q', '-W', '--keep-going', '-c',
                         str(here), '-d', str(Path(tmp)/'doctrees'), str(source), str(html)]):
            sys.exit(code)
        (html/'.buildinfo').unlink()
        shutil.rmtree(html/'_sources')
        (html/'.nojekyll').touch()
        pictures.write_icons(nbs, html/'_static')
        take_along(pages, html, told)
        write_plain(source, html, known, listed, told)
        write_for_robots(html, told)
        write_wheel(html, told)
        if out.exists(): shutil.rmtree(out)
        shutil.copytree(html, out)

if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', nargs='?', type=Path, default=root/'docs')
    folder = parser.parse_args().folder
    if folder==root/'docs': (nbs/'_variables.yml').write_text(facts().quarto(), encoding='utf-8')
    build(folder)
