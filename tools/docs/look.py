"""What is done to a page's HTML once Sphinx has written it, and the index of its sections that the search reads.

An extension of Sphinx: conf.py names it. Tables, folded cells, printed output and pictures get what `_static/site.css`
needs to draw them; every section and every description becomes an entry of `_static/search_index.js`."""
import json, re, struct
from pathlib import Path
from bs4 import BeautifulSoup, NavigableString, Tag
from lottery_nb import all as interface

# What people type -> the words that our pages have for it
WORDS = {
    'colab': ['tutorial', 'first winning ticket', 'notebook'], 'quickstart': ['first winning ticket', 'ten lines'],
    'start': ['first winning ticket'], 'tutorial': ['first winning ticket'], 'example': ['first winning ticket'],
    'install': ['pip install', 'two commands'], 'setup': ['pip install'], 'pip': ['pip install'],
    'requirements': ['pip install'],
    'ddp': ['distributed', 'DistributedDataParallel', 'accelerate'], 'fsdp': ['distributed'],
    'multi-gpu': ['distributed', 'GPUs'], 'multigpu': ['distributed', 'GPUs'], 'accelerate': ['distributed'],
    'vit': ['vision transformer', 'transformers', 'attention'], 'bert': ['transformers', 'attention'],
    'transformer': ['transformers', 'attention'], 'llm': ['language model', 'transformers', 'GPT'],
    'gpt': ['transformers'], 'lstm': ['recurrent'], 'rnn': ['recurrent'],
    'conv': ['convolution', 'Conv2d', 'what can be pruned'], 'cnn': ['convolution'],
    'exclude': ['left out', 'leave out', 'what is left out'], 'skip': ['left out', 'what is left out'],
    'ignore': ['left out', 'what is left out'], 'freeze': ['frozen', 'fine-tuned', 'leave a layer out'],
    'structured': ['channels', 'shrink', 'smaller and faster'], 'unstructured': ['weight'],
    'speed': ['faster'], 'speedup': ['faster'], 'latency': ['faster', 'time'], 'size': ['smaller', 'bytes'],
    'compress': ['smaller', 'shrink'], 'inference': ['export', 'faster'], 'deploy': ['export', 'onnx'],
    '2:4': ['n of every m', 'two of four'], 'nm': ['n of every m'], 'n:m': ['n of every m', 'n_of_m'],
    'semi-structured': ['n of every m'],
    'cli': ['command line'], 'terminal': ['command line', 'cli'], 'shell': ['command line', 'cli'],
    'finetune': ['fine-tuning'], 'pretrained': ['pre-trained', 'fine-tuning'],
    'imp': ['iterative magnitude pruning', 'find_ticket'], 'lth': ['lottery ticket hypothesis'],
    'mask': ['Masks'], 'checkpoint': ['stop it, and go on', 'into a file'], 'resume': ['stop it, and go on'],
    'save': ['into a file'], 'load': ['out of a file'], 'confidence': ['interval', 'error bars'],
    'significance': ['interval', 'error bars'], 'sparsity': ['SparsifyCallback', 'sparsify'],
    'prune': ['SparsifyCallback', 'sparsify'], 'hub': ['push_to_hub', 'from_hub'], 'share': ['push_to_hub'],
    'wandb': ['Weights & Biases'], 'huggingface': ['transformers', 'Hugging Face'],
    'pytorch': ['in a loop of your own'], 'dataset': ['your own data', 'data'], 'data': ['your own data'],
    'license': ['licence', 'Apache'], 'permutation': ['permuted', 'align'], 'rebasin': ['align', 'permuted'],
    're-basin': ['align', 'permuted'], 'itop': ['explored', 'RegrowCallback'], 'exploration': ['explored'],
    'dynamic': ['RegrowCallback', 'dynamic_sparse'], 'rigl': ['RegrowCallback'], 'set': ['RegrowCallback', 'set'],
}
# Pages of which people want more, or less, than of others
WEIGHTS = [(r'index$', 1.2), (r'tutorials/|recipes/|callback$|sparsifier$', 1.25), (r'beside/', 1.1),
           (r'changelog|contributing|benchmark', .4), (r'overview$', .5), (r'background$|all$|core$|papers$', .7)]

# Tables

EMPTY = re.compile(r'(?i)nan|nat|none|<na>|')
UNIT = r'(?:[a-zA-Zµ]{1,3}|(?<= )[a-zA-Z]{1,6})'
NUMBER = re.compile(rf'[^a-zA-Z]*|[^a-zA-Z]*\d[^a-zA-Z]*{UNIT}(?:[^a-zA-Z]+{UNIT})*[^a-zA-Z]*|True|False')

def is_words(cells):
    "Is this a column of words? Numbers, with a unit or an interval, are none, and a missing one says nothing"
    filled = [o for o in (cell.get_text().strip() for cell in cells) if not EMPTY.fullmatch(o)]
    return 2*sum(not NUMBER.fullmatch(o) for o in filled)>len(filled)

def columns(table):
    "The cells of each column, with the number of columns that a cell spans; also where headers span several"
    taken = {}
    for r,row in enumerate(table.select('tr')):
        c = 0
        for cell in row.find_all(['th','td'], recursive=False):
            while (r,c) in taken: c += 1
            wide,high = (int(cell.get(k, 1)) for k in ('colspan','rowspan'))
            taken.update({(r+i,c+j): (cell, wide) for i in range(high) for j in range(wide)})
            c += wide
    return [[o for (_,at),o in taken.items() if at==c] for c in range(1+max((c for _,c in taken), default=-1))]

def align(table):
    "Marks columns of words, read from the left, and headers of several columns; the other columns are numbers"
    for column in columns(table):
        words = is_words([o for o,wide in column if wide==1 and not o.find_parent('thead')])
        for o,wide in column:
            marks = {*o.get('class', [])} - {'text','span'} | ({'span'} if wide>1 else {'text'} if words else set())
            if marks: o['class'] = sorted(marks)
            else: del o['class']

# Pages

def in_columns(line):
    "Is this line part of a table that was printed? Breaking it would destroy the table"
    return bool(re.search(r'[│┃┌╭└╰─━]|\S {2,}\S', line))

def keep_columns(pre):
    "Marks what was printed in columns, and what is prose between them"
    lines = pre.get_text().splitlines(keepends=True)
    if sum(map(in_columns, lines))<2: return
    pre['class'] = 'columns'
    if any(o.get_text() for o in pre.find_all(True)): return # it has colours
    pre.clear()
    for line in lines:
        part = NavigableString(line)
        pre.append(part)
        if not in_columns(line): part.wrap(Tag(name='span', attrs={'class': 'prose'}))

def picture_width(path):
    "How many pixels a picture is wide"
    head = path.read_bytes()[:4096]
    if path.suffix=='.png': return struct.unpack('>I', head[16:20])[0]
    box = re.search(rb'viewBox="0 0 ([\d.]+)', head)
    return round(float(box[1])) if box else None

def dress(soup, source):
    "Makes `soup`, a page's article, what site.css draws; `source` gives the file of a picture's address"
    for table in soup.select('.cell_output table'): align(table)
    for o in soup.select('thead th'):
        if not o.get_text().strip(): o.name = 'td'
    for o in soup.select('dt.sig dl, dt.sig dd'): # a list within a term is none
        o['class'],o.name = ('params' if o.name=='dl' else 'param'),'span'
    for o in soup.select('summary[aria-label]'): del o['aria-label'] # its text says it better
    for o in soup.select('.cell_output pre'): keep_columns(o)
    for o in soup.select('.cell_output img, p > img, figure img'):
        path = source(o['src'])
        frame = o.wrap(soup.new_tag('span' if o.parent.name=='p' else 'div', attrs={'class': 'picture'}))
        if path and (width:=picture_width(path)): frame['style'] = f'--w: {width}px'

# The index

OMIT = '.buttons, .names, .cell_output, .headerlink, .viewcode-link, thead, math, style, script, img'

class Entries:
    "The entries of one page: heading, anchor, text and code of every section, and of all that is described in it"
    def __init__(self, soup):
        self.found = []
        # what stands before any section has no heading to lead to
        self.walk(soup, self.entry('', ''))

    def entry(self, heading, anchor):
        self.found.append(dict(heading=heading, anchor=anchor, text=[], code=[]))
        return self.found[-1]

    def walk(self, node, into):
        for o in node.children:
            if isinstance(o, NavigableString) and type(o) is NavigableString: into['text'].append(str(o))
            elif isinstance(o, Tag) and not o.css.match(OMIT): into = self.tag(o, into)

    def tag(self, o, into):
        "Reads a tag; gives the entry that what follows belongs to"
        classes = o.get('class', [])
        if o.name=='section' and o.get('id') and (head:=o.find(re.compile('h[1-6]'), recursive=False)):
            self.walk(o, self.entry(title(head), '' if head.name=='h1' else o['id'])) # a page begins at its title
        elif o.name=='dl' and 'py' in classes:
            name = o.dt.select_one('.descname')
            self.walk(o, self.entry(name.get_text(), o.dt.get('id', '')) if name else into)
        elif re.fullmatch('h[1-6]|dt', o.name) and (o.name!='dt' or 'sig' in classes): pass
        elif o.name=='pre': into['code'].append(o.get_text())
        else:
            self.walk(o, into)
            if o.name in ('p','li','td','th','div'): into['text'].append(' ')
        return into

def title(head): return ''.join(o if isinstance(o, str) else o.get_text() for o in head.children
                                if isinstance(o, str) or 'headerlink' not in o.get('class', [])).strip()

def squeeze(parts): return re.sub(r'\s+', ' ', ''.join(parts)).strip()

def weight(name): return next((w for pattern,w in WEIGHTS if re.search(rf'^(?:{pattern})', name)), 1)

def worth(anchor):
    "What a section or a description counts: the interface's words more than their parts, and these more than helpers"
    name = re.match(r'lottery_nb\.\w+\.(\w+)(\.)?', anchor)
    if name is None: return 1
    return .4 if name[1] not in vars(interface) else .9 if name[2] else 1

def script(pages, order):
    "The index as a script, which a page that was opened from a file may load too; `pages`: name -> title, entries"
    names = sorted(pages, key=lambda o: (order.index(o) if o in order else len(order), o))
    lines = [[i, e['heading'], e['anchor'], squeeze(e['text']), squeeze(e['code']), worth(e['anchor'])]
             for i,name in enumerate(names) for e in pages[name][1]]
    def dump(o): return json.dumps(o, ensure_ascii=False, separators=(',',':')).replace('</', r'<\/')
    head = dump([[f'{o}.html', pages[o][0], weight(o)] for o in names])
    entries = ',\n'.join(dump(o) for o in lines if o[1] or o[3])
    return f'window.searchIndex = {{pages: {head},\nwords: {dump(WORDS)},\nentries: [\n{entries}\n]}}\n'

# Sphinx

def dress_page(app, name, template, context, doctree):
    "Dresses a page of ours, and keeps its entries"
    if (tree:=context.get('furo_navigation_tree')):
        context['furo_navigation_tree'] = tree.replace('role="heading"', 'role="heading" aria-level="2"')
    if doctree is None: return
    sources = {Path(v).name: Path(app.srcdir)/k for k,v in app.builder.images.items()}
    soup = BeautifulSoup(context['body'], 'html.parser')
    dress(soup, lambda src: sources.get(Path(src).name))
    context['body'] = str(soup)
    head = soup.find('h1')
    app.look_pages[name] = (title(head) if head else name, Entries(soup).found)

def write_index(app, error):
    if error: return
    order = [app.config.root_doc, *(o for v in app.env.toctree_includes.values() for o in v)]
    static = Path(app.outdir)/'_static'
    (static/'search_index.js').write_text(script(app.look_pages, order), encoding='utf-8')
    for o in ('searchtools.js', 'language_data.js'): (static/o).unlink(missing_ok=True) # of Sphinx's search

def own_search(app):
    "Leaves Sphinx's search out: its page is ours, `_templates/search.html`"
    app.builder.search = False
    app.look_pages = {}

def setup(app):
    app.connect('builder-inited', own_search)
    app.connect('html-page-context', dress_page, priority=900) # after Furo
    app.connect('build-finished', write_index)
