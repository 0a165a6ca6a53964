"""Turns the notebooks into the pages that Sphinx builds.

First nbdev's own processing: `show_doc` for all that is exported, links from back-ticked names, hidden cells and lines
left out. Then what Quarto would read from a cell's directives (`echo`, `fig-alt`, `code-fold`, …) is said in MyST-NB's
tags and metadata."""
import inspect, re
from importlib import import_module
from pathlib import Path
import nbformat
from bs4 import BeautifulSoup
from fastcore.ansi import strip_ansi
from fastcore.docments import DocmentTbl, ShowDocRenderer
from lottery_nb._modidx import d as exported
from lottery_nb.core import Rule
from nbdev.doclinks import NbdevLookup
from nbdev.process import NBProcessor
from nbdev.processors import add_show_docs, clean_magics, hide_, hide_line, populate_language, rm_export, rm_header_dash
from nbdev.processors import strip_ansi as strip_stream
from nbdev.showdoc import show_doc

PROCS = [populate_language, add_show_docs, strip_stream, hide_line, rm_header_dash, rm_export, clean_magics, hide_]
TEXTS = {'benchmarks/overhead.md': 'benchmarks.md', 'benchmarks/replicates.md': 'benchmark_replicates.md',
         'benchmarks/peers.md': 'benchmark_peers.md', 'benchmarks/shrink.md': 'benchmark_shrink.md',
         'benchmarks/threads.md': 'benchmark_threads.md', 'benchmarks/imports.md': 'benchmark_imports.md',
         'benchmarks/models.md': 'benchmark_models.md', 'benchmarks/instability.md': 'benchmark_instability.md',
         'CHANGELOG.md': 'changelog.md', 'CONTRIBUTING.md': 'contributing.md'} # pages that are no notebooks
# blocks and spans of code: they are left as they are
CODE = re.compile(r'(^ *```.*?^ *```[^\n]*$|`[^`\n]+`)', re.M | re.S)
NAME = re.compile(r'^ *```.*?^ *```[^\n]*$|^#[^\n]*$|\[`[^`\n]+`\]|(?P<name>`[^`\n]+`)', re.M | re.S)
LINK = re.compile(r'(\]\(|\b(?:src|href)=")(?!\w+:|[#/])([^)\s"#]+)')

def page(
    path:Path # of a notebook, relative to nbs/
)->str: # relative to the site, without a suffix
    "The name of a notebook's page: its own without the number"
    return (path.parent/re.sub(r'^\d+[a-z]?_', '', path.stem)).as_posix()

# Names

BOOK = [re.search(r'default_exp (\w+)', o.read_text(encoding='utf-8'))[1]
        for o in sorted((Path(__file__).resolve().parent.parent.parent/'nbs').glob('[0-9]*.ipynb'))]
OURS = {} # name -> full name; of a name that two modules have, such as a command's and its function's, the earlier one
for module in (f'lottery_nb.{o}' for o in BOOK):
    for k in exported['syms'].get(module, ()): OURS.setdefault(k.removeprefix(f'{module}.'), k)

class Names:
    "Links for back-ticked names: ours to where they are described, fastai's to its own site"
    def __init__(self, described): self.described,self.others = described,NbdevLookup(strip_libs='fastai fastcore')

    def link(self, code):
        "A piece of code between back-ticks, as a link if it is a name that is described somewhere"
        m = re.fullmatch(r'`([A-Za-z_][\w.]*)(\(\))?`', code)
        if not m: return code
        own = OURS.get(m[1])
        if own in self.described and not own.startswith('lottery_nb.cli.'):
            return f'{{py:obj}}`{code.strip("`")} <{own}>`'
        # lower-case words of fastai's are words of English too
        url = self.others.doc(m[1]) if m[1][0].isupper() else None
        return f'[{code}]({url})' if url else code

    def __call__(self, text):
        "`text` with links; headings, links and blocks of code stay as they are"
        return NAME.sub(lambda m: self.link(m[0]) if m['name'] else m[0], text)

# What is exported

class Described(ShowDocRenderer):
    """`show_doc` as one of Sphinx's descriptions: found by the search, linked to its source,
    with a table of the parameters"""
    def __init__(self, sym, name=None, title_level=3): self.sym,self.name = sym,name

    def kind(self):
        if isinstance(self.sym, Rule) and not self.sym.fn.__kwdefaults__: return 'data'
        if inspect.isclass(self.sym): return 'exception' if issubclass(self.sym, Exception) else 'class'
        if isinstance(self.sym, classmethod): return 'classmethod'
        if isinstance(self.sym, property): return 'property'
        return 'method' if '.' in self.name.removeprefix(f'{self.module}.') else 'function'

    @property
    def module(self): return next(o for o in exported['syms'] if self.name in exported['syms'][o])

    @property
    def function(self):
        "What has the signature"
        if isinstance(self.sym, Rule): return self.sym.fn
        if isinstance(self.sym, classmethod): return self.sym.__func__
        return self.sym.fget if isinstance(self.sym, property) else self.sym

    def signature(self):
        "Names and defaults; the types are in the table. Of a rule the parameters that it can be called with"
        if self.kind() in ('property','data','exception'): return ''
        params = inspect.signature(self.function).parameters.values()
        if isinstance(self.sym, Rule):
            params = [o.replace(kind=o.POSITIONAL_OR_KEYWORD) for o in params if o.kind==o.KEYWORD_ONLY]
        params = [o.replace(annotation=o.empty) for o in params if o.name not in ('self','cls')]
        # an address says nothing
        return re.sub(r'<(?:function )?([\w.<>]+)(?: object)? at 0x\w+>', r'\1', str(inspect.Signature(params)))

    def table(self):
        "A row a parameter"
        if self.kind()=='exception': return ''
        table = str(DocmentTbl(self.function))
        rows = [o for o in table.splitlines() if not o.startswith(('| self ','| cls '))]
        if len(rows)<3: return ''
        if rows[-1].startswith('| **Returns**'):
            rows[-1] = '| **Returns**' + rows[-1].removeprefix('| **Returns**').replace('**', '')
        text = '\n'.join(rows).replace('| NoneType |', '|  |') # a default of None says nothing about the type
        return re.sub(r'\b(?:lottery_nb|fastai|torch|pandas|numpy|pathlib)\.(?:\w+\.)*(?=\w)', '', text)

    def markdown(self, names):
        "The description, with links for the names in it"
        body = f'{inspect.cleandoc(self.sym.__doc__)}\n\n{self.table()}'
        head = f'{{py:{self.kind()}}} {self.name.removeprefix(self.module+".")}{self.signature()}'
        return f'``````{head}\n:module: {self.module}\n\n{names(body)}\n``````'

def is_public(name): return name in OURS and not re.match(r'_(?!_)', name)

def described(cells, module):
    "The full names of what `show_doc` is called for in `cells` and `module` defines"
    shown = (re.fullmatch(r'show_doc\(([\w.]+)\)', c.source.strip()) for c in cells if c.cell_type=='code')
    return [OURS[m[1]] for m in shown if m and is_public(m[1]) and OURS[m[1]] in exported['syms'].get(module, ())]

def describe(cell, names):
    "The description that a cell with `show_doc` asks for, or None if there is nothing to be said"
    name = re.fullmatch(r'show_doc\(([\w.]+)\)', cell.source.strip())[1]
    if not is_public(name): return
    module = next(o for o in exported['syms'] if OURS[name] in exported['syms'][o])
    owner,_,attr = name.rpartition('.')
    space = vars(import_module(module))
    sym = inspect.getattr_static(space[owner], attr) if owner else space[name]
    # fastcore has a class method of its own
    if owner and inspect.ismethod(bound:=getattr(space[owner], attr)): sym = classmethod(bound.__func__)
    return show_doc(sym, Described, name=OURS[name]).markdown(names) if sym.__doc__ else None

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

def is_text(cell):
    return not re.fullmatch(r'[\W\d_]*|nan|None|True|False|.*\d.*', cell.text.strip()) or len(cell.text)>40

def align(table):
    "Marks the columns that hold words: they are read from the left, the others are numbers"
    rows = [row.find_all(['th','td'], recursive=False) for row in table.select('thead tr, tbody tr')]
    for column in zip(*rows) if len({len(o) for o in rows})==1 else []:
        if any(is_text(o) for o in column if o.name=='td'):
            for o in column: o['class'] = 'text'

def clean_html(text, uid):
    "A table as the site draws it: without what came with it, but for the bars that pandas draws; `uid` is in its ids"
    text = re.sub('T_[0-9a-f]{5,}', f'T_{uid}', text) # pandas takes the same ids for the same table
    soup = BeautifulSoup(text, 'html.parser')
    for o in soup.select('progress'): o.decompose()
    for o in soup.select('style'):
        if 'linear-gradient' not in o.text: o.decompose()
    for table in soup.select('table.dataframe, table.fastprogress, table[id^=T_]'): # others draw with their styles
        for o in [table, *table.select('[style]')]: del o['style'], o['border']
        align(table)
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

def code_cell(cell):
    "A code cell with its directives as tags and metadata"
    tags = [tag for tag,yes in {'remove-input': off(cell, 'echo'), 'hide-input': 'code-fold' in cell.directives_
                                and not off(cell, 'code-fold')}.items() if yes]
    meta = dict(tags=tags)
    if (alt:=cell.directives_.get('fig-alt')): meta['mystnb'] = dict(image=dict(alt=alt.strip().strip('"')))
    return nbformat.v4.new_code_cell(cell.source.strip(), id=cell.id,
                                     metadata=meta, outputs=[] if off(cell, 'output') else list(outputs(cell)))

def lead(text):
    "The first cell of a page, with its promise set off"
    return re.sub(r'\A(# [^\n]*)\n+> ([^\n]*)', r'\1\n\n```{rst-class} promise\n```\n\n\2', text)

class Page:
    "A notebook, processed"
    def __init__(self, path, root):
        self.name = page(path.relative_to(root))
        self.nb = NBProcessor(path, procs=PROCS, rm_directives=True, process=True).nb
        name = re.search(r'default_exp (\w+)', path.read_text(encoding='utf-8'))
        self.module = f'lottery_nb.{name[1]}' if name else ''
        self.described = described(self.nb.cells, self.module)

    def cells(self, names):
        "The cells that MyST-NB is given"
        for i,cell in enumerate(self.nb.cells):
            if off(cell, 'include') or not cell.source.strip(): continue
            if cell.cell_type=='markdown':
                text = relink(cell.source, names)
                yield nbformat.v4.new_markdown_cell(lead(text) if i==0 else text, id=cell.id)
            elif cell.cell_type=='code' and cell.source.startswith('show_doc('):
                if described([cell], self.module) and (text:=describe(cell, names)):
                    yield nbformat.v4.new_markdown_cell(text, id=f'doc-{i}')
            elif cell.cell_type=='code': yield code_cell(cell)

    def write(self, folder, names):
        nb = nbformat.v4.new_notebook(cells=list(self.cells(names)),
                                      metadata=dict(language_info=dict(name='python', pygments_lexer='python')))
        path = folder/f'{self.name}.ipynb'
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, path)
