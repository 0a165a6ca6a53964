"""The pages as Markdown beside the HTML, and `llms.txt`, which lists them: for whoever reads without a browser.

They're written from what Sphinx is given, with its markup said in plain Markdown."""
import re
import nbformat
from bs4 import BeautifulSoup

ROLE = re.compile(r'\{py:obj\}`([^`<]*?)(?: <[^>`]*>)?`')
FENCE = re.compile(r'^(`{4,}|:{3,})')
DESCRIPTION = re.compile(r'^`{4,}\{py:(\w+)\} (.*)$')
OPTION = re.compile(r':(?:module|class|alt|width|hidden|caption):')
DIRECTIVE = re.compile(r'^(?:`{3,}|:{3,})\{([\w-]+)\}\s*(.*)$')
PICTURE = re.compile(r'\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)\n*|^<p class="buttons">.*</p>\n*', re.M) # of cards
BESIDE = re.compile(r'(?<!!)\[([^\]]*)\]\((?!\w+:|#)[^)\s]+\)') # a link to what lies beside a page
LINK = re.compile(r'(\]\()(?!\w+:|#)([^)\s#]+)\.(?:ipynb|md)(?=[#)])')

def cells_of(soup):
    "The texts of a table, row by row; a cell that reaches over several rows is said in each of them"
    def said(cell): return ' '.join(cell.get_text(' ').split()).replace('|', r'\|')
    above = {} # column -> text, rows that it still reaches over
    for tr in soup.find_all('tr'):
        row,cells = [],iter(tr.find_all(['th','td']))
        while True:
            (text,left),wide = above.get(len(row), ('',0)),1
            if not left:
                if (cell:=next(cells, None)) is None: break
                text,left,wide = said(cell),int(cell.get('rowspan', 1)),int(cell.get('colspan', 1))
            above[len(row)] = text,left-1
            row += [text, *['']*(wide-1)]
        yield row

def table(soup):
    "A table of HTML as one of Markdown"
    rows = list(cells_of(soup))
    width = max(map(len, rows), default=0)
    lines = ['| ' + ' | '.join([*row, *['']*(width-len(row))]) + ' |' for row in rows]
    return '\n'.join([lines[0], '|' + '---|'*width, *lines[1:]]) if lines else ''

def html(text):
    "What HTML says, its tables as Markdown"
    soup = BeautifulSoup(text, 'html.parser')
    for o in soup.select('style, script'): o.decompose()
    found = soup.find_all('table')
    return '\n\n'.join(map(table, found)) if found else soup.get_text(' ').strip()

def fenced(text, lang=''): return f'```{lang}\n{text.rstrip()}\n```'

def output(out, cell):
    "What a cell has shown. A picture is told by its description"
    if out.output_type=='stream': return fenced(out.text)
    data = out.data
    if 'text/html' in data: return html(data['text/html'])
    if 'text/markdown' in data: return data['text/markdown']
    if 'text/plain' in data: return fenced(data['text/plain'])
    alt = cell.metadata.get('mystnb', {}).get('image', {}).get('alt', '')
    return f'*Picture: {alt}*' if alt else ''

def signature(kind, text):
    "A description's first line: a heading, and its call as code"
    name = re.match(r'[\w.]+', text)[0]
    call = re.sub(r'\b(?:[a-z_]\w*\.)+(?=[A-Za-z_])', '', text) if kind!='data' else text
    return f'#### `{name}`\n\n' + fenced({'class': 'class ', 'exception': 'class '}.get(kind, '') + call, 'python')

def markdown(text):
    "MyST's markup as plain Markdown"
    lines,code = [],False
    for line in re.sub(r'```\{(?:rst-class|toctree)\}[^`]*```\n*', '', text).split('\n'):
        code ^= bool(re.match(r' *```(?!`)(?!\{)', line))
        if code: lines.append(line)
        elif (m:=DESCRIPTION.match(line)): lines.append(signature(*m.groups()))
        elif (m:=DIRECTIVE.match(line)):
            if m[1] in ('admonition', *NOTES): lines.append(f'**{m[2] or m[1].capitalize()}**')
        elif not FENCE.match(line) and not OPTION.match(line): lines.append(line)
    text = PICTURE.sub('', ROLE.sub(r'`\1`', '\n'.join(lines)))
    return re.sub(r'\n{3,}', '\n\n', LINK.sub(r'\1\2.html.md', text)).strip()

NOTES = 'note','tip','important','warning','caution'

def parts(nb):
    "The pieces of a page, from the cells that Sphinx is given"
    for cell in nb.cells:
        if cell.cell_type=='markdown': yield markdown(cell.source)
        else:
            if 'remove-input' not in cell.metadata.get('tags', []): yield fenced(cell.source, 'python')
            yield from (output(o, cell) for o in cell.outputs)

def page(path):
    "A page that Sphinx is given, as Markdown"
    if path.suffix=='.md': return markdown(path.read_text(encoding='utf-8')) + '\n'
    return '\n\n'.join(o for o in parts(nbformat.read(path, 4)) if o) + '\n'

def contents(facts, promise, sections):
    "`llms.txt`: `sections`: a caption -> (page, title, promise) of each of its pages"
    def line(name, title, words): return f'- [{title}]({facts.site}{name}.html.md)' + (f': {words}' if words else '')
    told = [f'## {k}\n\n' + '\n'.join(line(*o) for o in pages) for k,pages in sections.items()]
    about = f'Version {facts.version}. {facts.description}.'
    return '\n\n'.join([f'# {facts.name}', f'> {promise}', about, *told]) + '\n'
