"""Turns the notebooks into the pages that Sphinx builds.

First nbdev's own processing: `show_doc` for all that is exported, links from back-ticked names, hidden cells and lines
left out. Then what Quarto would read from a cell's directives (`echo`, `fig-alt`, `code-fold`, …) is said in MyST-NB's
tags and metadata."""
import base64, re
from pathlib import Path
import lottery_nb.all as everything, nbformat
from api import OURS, documented, exported, is_public, module_of, symbol
from bs4 import BeautifulSoup
from fastcore.ansi import strip_ansi
from nbdev.doclinks import NbdevLookup
from nbdev.process import NBProcessor
from nbdev.processors import add_show_docs, clean_magics, hide_, hide_line, populate_language, rm_export, rm_header_dash
from nbdev.processors import strip_ansi as strip_stream
from quarto import to_myst

PROCS = [populate_language, add_show_docs, strip_stream, hide_line, rm_header_dash, rm_export, clean_magics, hide_]
TEXTS = {'benchmarks/overhead.md': 'benchmarks.md', 'benchmarks/replicates.md': 'benchmark_replicates.md',
         'benchmarks/peers.md': 'benchmark_peers.md', 'benchmarks/shrink.md': 'benchmark_shrink.md',
         'benchmarks/threads.md': 'benchmark_threads.md', 'benchmarks/imports.md': 'benchmark_imports.md',
         'benchmarks/models.md': 'benchmark_models.md', 'benchmarks/instability.md': 'benchmark_instability.md',
         'benchmarks/conv.md': 'benchmark_conv.md', 'benchmarks/photos.md': 'benchmark_photos.md',
         'benchmarks/gpu.md': 'benchmark_gpu.md',
         'CHANGELOG.md': 'changelog.md', 'CONTRIBUTING.md': 'contributing.md'} # pages that are no notebooks
# blocks and spans of code: they are left as they are
CODE = re.compile(r'(^ *```.*?^ *```[^\n]*$|`[^`\n]+`)', re.M | re.S)
NAME = re.compile(r'^ *```.*?^ *```[^\n]*$|^#[^\n]*$|\[`[^`\n]+`\]|(?P<name>`[^`\n]+`)', re.M | re.S)
LINK = re.compile(r'(\]\(|\b(?:src|href)=")(?!\w+:|[#/])([^)\s"#]+)')

def page(
    path:Path # of a notebook, relative to nbs/
)->str: # relative to the site, without a suffix
    "The name of a notebook's page: its own without the number. The site begins with `home`, README is one page of it"
    name = re.sub(r'^\d+[a-z]?_', '', path.stem)
    return (path.parent/{'home': 'index', 'index': 'overview'}.get(name, name)).as_posix()

# Names

# words that a column or an argument has too: they're meant as names of functions where `()` follows
COLUMNS = {'early_stop','machine','moved','noise','versions','need','warn'}
ARGUMENTS = {o.name for k in OURS if is_public(k) and (found:=documented(k)) for o in found.parameters()}

class Names:
    "Links for names: ours to where they are described, fastai's and fastcore's to their own sites"
    def __init__(self, described): self.described,self.others = described,NbdevLookup(strip_libs='fastai fastcore')

    def own(self, name):
        "The full name of one of ours that a page describes"
        full = OURS.get(name)
        return full if full in self.described and not full.startswith('lottery_nb.cli.') else None

    def link(self, code, skip):
        "A piece of code between back-ticks, as a link if it is a name that is described somewhere"
        m = re.fullmatch(r'`([A-Za-z_][\w.]*)(\(\))?`', code)
        if not m or m[1] in skip or (not m[2] and m[1] in COLUMNS | ARGUMENTS): return code
        if (own:=self.own(m[1])): return f'{{py:obj}}`{code.strip("`")} <{own}>`'
        # lower-case words of fastai's are words of English too
        url = self.others.doc(m[1]) if m[1][0].isupper() else None
        return f'[{code}]({url})' if url else code

    def base(self, cls):
        "A class as a link, if it is described somewhere"
        full = f'{cls.__module__}.{cls.__qualname__}'
        return f'{{py:obj}}`{cls.__name__} <{full}>`' if full in self.described else self.link(f'`{cls.__name__}`', ())

    def __call__(self, text, skip=()):
        "`text` with links; headings, links and blocks of code stay as they are, and so do the names in `skip`"
        return NAME.sub(lambda m: self.link(m[0], skip) if m['name'] else m[0], text)

def described(cells, module):
    "The full names of what `show_doc` is called for in `cells` and `module` defines"
    shown = (re.fullmatch(r'show_doc\(([\w.]+)\)', c.source.strip()) for c in cells if c.cell_type=='code')
    return [OURS[m[1]] for m in shown if m and is_public(m[1]) and OURS[m[1]] in exported['syms'].get(module, ())]

def describe(cell, names, shown):
    "The description that a cell with `show_doc` asks for, or None if there is nothing to be said"
    name = re.fullmatch(r'show_doc\(([\w.]+)\)', cell.source.strip())[1]
    if is_public(name) and symbol(name).__doc__: return documented(name).markdown(names, shown)

def overview(shown, first):
    "What a page describes: what it's about, with its methods, and what else `lottery_nb.all` brings; helpers folded"
    def local(k): return k.removeprefix(f'{module_of(k)}.')
    def link(k): return f'{{py:obj}}`{local(k)} <{k}>`'
    tops = [k for k in shown if '.' not in local(k)]
    words = sorted((k for k in tops if local(k)==first or hasattr(everything, local(k))), key=lambda k: local(k)!=first)
    inner = [k for k in shown if local(k).startswith(f'{first}.') and '__' not in k and symbol(local(k)).__doc__]
    helpers = [k for k in tops if k not in words]
    if len(inner)>20: inner,helpers = [],inner+helpers # too many to be looked for
    listed = [*words[:1], *inner, *words[1:]]
    def line(told, names): return f':::{{container}} names\n{told}{" ".join(map(link, names))}\n:::' if names else ''
    folded = f'<details class="helpers"><summary>Helpers</summary>\n\n{line("", helpers)}\n\n</details>'
    return '\n\n'.join(o for o in (line('On this page: ', listed), folded*bool(helpers)) if o)

def made_with(nb):
    "A line about which versions made what a notebook shows, and when, as far as that was noted"
    told = nb.metadata.get('made_with', {})
    def say(o): return f'{o["day"]} with ' + ', '.join(f'{k} {o[k]}' for k in ('lottery_nb','torch','fastai','python'))
    if not told: return ''
    long = any('long' in c.metadata.get('tags', []) for c in nb.cells)
    trainings = say(told['trainings']) if 'trainings' in told else 'an earlier day'
    later = long and told.get('trainings')!=told['page']
    return f'Run on {say(told["page"])}' + f'; its long trainings on {trainings}'*later + '.'

# Cells

def relink(text, names):
    "`text` with the links between notebooks as links between pages"
    def moved(m):
        target = m[2]
        if target.endswith('.ipynb'): target = page(Path(target)) + '.ipynb'
        up,name = re.fullmatch(r'((?:\.\./)*)(.*)', target).groups()
        # the notebooks' folder is the site's root
        return m[1] + (up.removeprefix('../') + TEXTS[name] if name in TEXTS else target)
    return names(''.join(part if i%2 else LINK.sub(moved, part) for i,part in enumerate(CODE.split(text))))

def clean_html(text, uid):
    "A table as the site draws it: without what came with it, but for the bars that pandas draws; `uid` is in its ids"
    text = re.sub('T_[0-9a-f]{5,}', f'T_{uid}', text) # pandas takes the same ids for the same table
    soup = BeautifulSoup(text, 'html.parser')
    for o in soup.select('progress'): o.decompose()
    for o in soup.select('style'):
        if 'linear-gradient' not in o.text: o.decompose()
    for table in soup.select('table.dataframe, table.fastprogress, table[id^=T_]'): # others draw with their styles
        for o in [table, *table.select('[style]')]: del o['style'], o['border']
    return str(soup).strip()

def outputs(cell):
    "What a cell has shown, each output in the one form that reads best"
    for i,o in enumerate(cell.get('outputs', [])):
        if o.output_type=='stream':
            yield nbformat.v4.new_output('stream', name='stdout', text=strip_ansi(''.join(o.text)))
        elif o.output_type=='error': raise ValueError(f'an error was left in the output of the cell\n{cell.source}')
        else:
            data = {k: v if isinstance(v, str) else ''.join(v) for k,v in o.data.items()}
            kind = next((k for k in ('image/svg+xml','image/png','image/jpeg',
                                     'text/html','text/markdown','text/plain') if data.get(k)), None)
            if kind is None or data[kind].strip()=='<IPython.core.display.HTML object>': continue
            clean = {'text/html': lambda text: clean_html(text, f'{cell.id}{i}'), 'text/plain': strip_ansi}
            text = clean[kind](data[kind]) if kind in clean else data[kind]
            if text: yield nbformat.v4.new_output('display_data', data={kind: text})

def off(cell, name): return cell.directives_.get(name, '').strip().lower()=='false'

# a call of a private function, whose code isn't on the page: who reads on without it misses nothing
INNER = re.compile(r'(?<![\w.])_[a-z]\w*\(')

def said(cell, name): return cell.directives_.get(name, '').strip().strip('"')

def code_cell(cell):
    "A code cell with its directives as tags and metadata. What a picture shows is its caption, unless it has one"
    fold = 'code-fold' in cell.directives_ and not off(cell, 'code-fold')
    tags = [tag for tag,yes in {'remove-input': off(cell, 'echo'), 'hide-input': fold,
                                'hide-cell': INNER.search(cell.source),
                                'hide-output': 'hide-output' in cell.metadata.get('tags', [])}.items() if yes]
    meta,own = dict(tags=tags),{}
    if 'hide-output' in tags: own = dict(code_prompt_show='What it printed', code_prompt_hide='What it printed')
    if 'hide-cell' in tags: own = dict(code_prompt_show='A look inside', code_prompt_hide='A look inside')
    if (alt:=said(cell, 'fig-alt')): own['image'] = dict(alt=alt)
    if (caption:=said(cell, 'fig-cap') or alt): own['figure'] = dict(caption=caption)
    if (summary:=said(cell, 'code-summary')): own |= dict(code_prompt_show=summary, code_prompt_hide=summary)
    if own: meta['mystnb'] = own
    return nbformat.v4.new_code_cell(cell.source.strip(), id=cell.id,
                                     metadata=meta, outputs=[] if off(cell, 'output') else list(outputs(cell)))

SHELL = re.compile(r"""lottery_nb\((['"])(?P<line>.*)\1(?:, (?:status=)?\d)?\)""")

FILE = re.compile(r"""Path\('([\w.]+)\.(\w+)'\)\.write_text\(\'\'\'\n(.*?)\'\'\'\)""", re.S)

def as_shell(source):
    "A cell that ends in calls of the command line as one would type them, and what goes before; None for others"
    lines = source.strip().splitlines()
    n = next((i for i,o in enumerate(reversed(lines)) if not SHELL.fullmatch(o)), len(lines))
    if not n: return None
    before,typed = '\n'.join(lines[:-n]),[SHELL.fullmatch(o)['line'] for o in lines[-n:]]
    if (m:=FILE.fullmatch(before)): before = f'`{m[1]}.{m[2]}`:\n\n```{m[2]}\n{m[3]}```\n\n'
    elif before: before = f'```python\n{before}\n```\n\n'
    return before + '```console\n' + '\n'.join(f'$ lottery-nb {o}' for o in typed) + '\n```'

TITLE = re.compile(r'\A# (?P<title>[^\n]*)\n*(?:> (?P<promise>[^\n]*))?')

def lead(text):
    "The first cell of a page, with its promise set off"
    return re.sub(r'\A(# [^\n]*\n+)?> ([^\n]*)', r'\1\n\n```{rst-class} promise\n```\n\n\2', text)

def plain(text):
    "Markdown without its marks, for a line of text"
    return re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', text).replace('`', '').replace('*', '').strip()

class Page:
    "A notebook, processed; `commands`: what stands for the descriptions of functions that are commands"
    def __init__(self, path, root, commands=()):
        self.path,self.name = path,page(path.relative_to(root))
        heads = re.findall(r'^##+ `?(\w+)`?$', path.read_text(encoding='utf-8').replace('"', '\n'), re.M)
        self.commands = {f'show_doc({k})': ('' if k in heads else f'<span id="{k}"></span>') + text
                         for k,text in dict(commands).items()} if self.name=='cli' else {}
        self.raw = nbformat.read(path, 4)
        self.nb = NBProcessor(path, procs=PROCS, rm_directives=True, process=True).nb
        name = re.search(r'default_exp (\w+)', path.read_text(encoding='utf-8'))
        self.module = f'lottery_nb.{name[1]}' if name else ''
        self.shown = described([c for c in self.nb.cells if c.source not in self.commands], self.module)
        inner = [o.name for k in self.shown for o in documented(k.removeprefix(f'{self.module}.')).methods(self.shown)]
        self.described = [*self.shown, *inner]

    @property
    def top(self):
        "The text that the page begins with"
        return '\n\n'.join(c.source for c in self.nb.cells if c.cell_type=='markdown')[:4000]

    @property
    def title(self): return plain(TITLE.match(self.top)['title'])

    @property
    def promise(self): return plain(TITLE.match(self.top)['promise'] or '')

    @property
    def headline(self):
        "What the page is about: its notebook says so, or it's called like the page"
        m = re.search(r'^#\| headline: (\w+)', '\n'.join(c.source for c in self.raw.cells), re.M)
        return m[1] if m else self.name

    @property
    def takes(self):
        "How long it says that it takes"
        m = re.search(r'^\*\*Takes\*\* (.*?)(?: on two cores)?[.:;,](?:\s|$)', self.top, re.M)
        return plain(m[1]) if m else ''

    def picture(self):
        "The first picture on the page, as bytes, and what it shows"
        for c in self.nb.cells:
            for o in (c.get('outputs', []) if c.cell_type=='code' else []):
                if (data:=o.get('data', {}).get('image/png')): return base64.b64decode(data), said(c, 'fig-alt')
        return None

    def cells(self, names, known, blocks):
        "The cells that MyST-NB is given"
        for i,cell in enumerate(self.nb.cells):
            if off(cell, 'include') or not cell.source.strip(): continue
            if cell.cell_type=='markdown':
                source = re.sub(r'^:::+ \{#([\w-]+)\}\n:::+$', lambda m: blocks.get(m[1], ''), cell.source, flags=re.M)
                text = relink(to_myst(source, known), names)
                if i==0 and self.name=='overview': text = re.sub(r'\A# [^\n]*', '# Overview', text) # home has its own
                if i==0 and 'top' in blocks: text = TITLE.sub(lambda m: f"{m[0]}\n\n{blocks['top']}", text, count=1)
                yield nbformat.v4.new_markdown_cell(lead(text) if i<2 else text, id=cell.id)
                if i==0 and (line:=overview(self.shown, self.headline)):
                    yield nbformat.v4.new_markdown_cell(line, id='names')
            elif cell.cell_type=='code' and cell.source.startswith('show_doc('):
                if described([cell], self.module) and (text:=describe(cell, names, self.shown)):
                    yield nbformat.v4.new_markdown_cell(self.commands.get(cell.source, text), id=f'doc-{i}')
            elif cell.cell_type=='code' and (shell:=as_shell(cell.source)):
                yield nbformat.v4.new_markdown_cell(shell, id=f'shell-{i}')
                cell.directives_['echo'] = 'false'
                yield code_cell(cell)
            elif cell.cell_type=='code': yield code_cell(cell)
        if (line:=made_with(self.raw)):
            yield nbformat.v4.new_markdown_cell(f':::{{container}} made-with\n{line}\n:::', id='made-with')
        if 'end' in blocks: yield nbformat.v4.new_markdown_cell(blocks['end'], id='end')

    def write(self, folder, names, known, blocks):
        nb = nbformat.v4.new_notebook(cells=list(self.cells(names, known, blocks)),
                                      metadata=dict(language_info=dict(name='python', pygments_lexer='python')))
        path = folder/f'{self.name}.ipynb'
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, path)
