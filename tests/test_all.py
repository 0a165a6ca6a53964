"The words that `from lottery_nb.all import *` brings: that those who count on them get them, and little else"
import ast, builtins, importlib, json, re
from pathlib import Path
import pytest
import lottery_nb.all

root = Path(__file__).resolve().parent.parent
words = set(lottery_nb.all.__all__)
modules = [importlib.import_module(f'lottery_nb.{o.stem}') for o in (root/'lottery_nb').glob('[a-z]*.py')]
ours = {name for o in modules if o.__name__!='lottery_nb.cli' for name in o.__all__} # its functions are commands

def python(text): return re.findall(r'^```python\n(.*?)^```', text, re.M|re.S)

def blocks(path):
    "The Python of a file, block by block: a module's, a notebook's cells with the blocks in its prose, README's"
    text = path.read_text(encoding='utf-8')
    if path.suffix=='.py': return [text]
    if path.suffix=='.md': return python(text)
    cells = [(c['cell_type'], ''.join(c['source'])) for c in json.loads(text)['cells']]
    prose = [o for kind,source in cells if kind=='markdown' for o in python(source)]
    return prose + [re.sub(r'^[%!].*$', '', source, flags=re.M) for kind,source in cells if kind=='code']

def bound(node):
    "The names that a node of the tree gives a value to"
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load): yield node.id
    elif isinstance(node, ast.arg): yield node.arg
    elif isinstance(node, (ast.FunctionDef, ast.ClassDef)): yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        for o in node.names: yield o.asname or o.name.partition('.')[0]

def missing(texts):
    "The names of ours that Python texts of one file use and neither define, nor import, nor get by a star"
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    stars = [o for o in nodes if isinstance(o, ast.ImportFrom) and o.names[0].name=='*']
    if not any(o.module=='lottery_nb.all' for o in stars): return []
    known = {name for o in nodes for name in bound(o)} | set(dir(builtins))
    for o in stars:
        module = importlib.import_module(o.module)
        known.update(getattr(module, '__all__', vars(module)))
    return sorted({o.id for o in nodes if isinstance(o, ast.Name)} & ours - known)

def test_a_name_that_is_missing_is_found():
    star,use = 'from lottery_nb.all import *','keep_bits(large_final)'
    assert 'keep_bits' in ours - words and missing([star, use])==['keep_bits'] and missing([use])==[]
    assert missing([star, 'from lottery_nb.masks import keep_bits', use])==[]
    assert missing([star, 'def f(keep_bits): return keep_bits'])==[]
    assert missing([star, 'from lottery_nb.masks import *', use])==[]

readers = [o for o in (*sorted((root/'nbs').rglob('*.ipynb')), *sorted((root/'nbs').rglob('*.py')), root/'README.md')
           if not any(p.startswith(('.', '_')) for p in o.relative_to(root).parts)]

@pytest.mark.parametrize('path', [pytest.param(o, id=o.relative_to(root).as_posix()) for o in readers])
def test_all_brings_what_is_used_after_it(path): assert missing(blocks(path))==[]

def test_what_is_imported_from_all_by_name_is_there():
    files = [o for folder in ('nbs','tests','benchmarks','tools') for o in sorted((root/folder).rglob('*.py'))]
    nodes = [(o.name, node) for o in files for node in ast.walk(ast.parse(o.read_text(encoding='utf-8')))]
    named = [(file, a.name) for file,o in nodes if isinstance(o, ast.ImportFrom) and o.module=='lottery_nb.all'
             for a in o.names if a.name!='*']
    assert named and [(file, name) for file,name in named if name not in words]==[]

def test_words_are_few_and_each_has_its_line():
    "All that is brought is a word of a module of ours, and the page of `all` says of each what it is"
    assert words <= ours and 'keep_bits' not in words and len(words)<100
    cells = json.loads((root/'nbs/42_all.ipynb').read_text(encoding='utf-8'))['cells']
    shown = ''.join(''.join(o['data'].get('text/markdown', '')) for c in cells for o in c.get('outputs', []))
    rows = re.findall(r'^\| `(\w+)` \| (\S.*) \| \w+ \|$', shown, re.M)
    assert sorted(name for name,_ in rows)==sorted(words)

def test_what_a_module_registers_is_there():
    "`all` imports every module, those that bring no word too; but the command line, and what others import anyway"
    nodes = [o for o in ast.parse((root/'lottery_nb/all.py').read_text(encoding='utf-8')).body
             if isinstance(o, ast.ImportFrom)]
    named = {name for o in nodes for name in ([o.module] if o.module else [a.name for a in o.names])}
    assert {o.__name__.partition('.')[2] for o in modules} - named=={'core','ticketfile','cli','all'}
