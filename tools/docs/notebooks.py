"""The notebooks as a reader takes them along: without outputs and directives, with a first cell that installs, and with
the files beside them that they read"""
import base64, re, tomllib, zlib
import nbformat

folder = 'notebooks' # in the site

def first_cell(facts):
    "The cell that installs"
    by_hand = facts.ships_wheel and not facts.site
    where = ' # from the first page of the site: save it beside this notebook'*by_hand
    return nbformat.v4.new_code_cell(f'%pip install -q {facts.source}{where}', id='install')

def beside(nb, folder):
    "The files of `folder` that the notebook reads and doesn't make: its own modules, experiments and their stores"
    code = '\n'.join(o.source for o in nb.cells if o.cell_type=='code')
    found = [folder/f'{o}.py' for o in re.findall(r'^import (\w+)', code, re.M)]
    for path in (o for o in sorted(folder.glob('*.toml')) if o.name in code):
        found += [path, folder/tomllib.loads(path.read_text(encoding='utf-8'))['file']]
    return [o for o in found if o.exists()]

def cell_with(files, folder):
    "A cell that writes these files, as they are in `folder`"
    packed = {str(o.relative_to(folder)): base64.b64encode(zlib.compress(o.read_bytes(), 9)).decode() for o in files}
    lines = ''.join(f'    {k!r}: {v!r},\n' for k,v in packed.items())
    code = ('# What this page reads of the files beside it\nimport base64, zlib\nfrom pathlib import Path\n'
            f'for name,data in {{\n{lines}}}.items():\n    if Path(name).exists(): continue # yours stay\n'
            '    Path(name).parent.mkdir(exist_ok=True)\n'
            '    Path(name).write_bytes(zlib.decompress(base64.b64decode(data)))')
    return nbformat.v4.new_code_cell(code, id='files', metadata=dict(jupyter=dict(source_hidden=True)))

def is_hidden(cell): return re.search(r'^#\s*\|\s*(?:hide|echo:\s*false)\s*$', cell.source, re.M)

def without_directives(source): return re.sub(r'^#\s*\|.*\n?', '', source, flags=re.M).strip('\n')

def taken_along(nb, folder, links, facts):
    "A copy of a notebook in `folder`; `links` makes its links those of the site, which it is not beside any more"
    cells = [first_cell(facts)]
    if files:=beside(nb, folder): cells.append(cell_with(files, folder))
    for o in nb.cells:
        if o.cell_type=='markdown': cells.append(nbformat.v4.new_markdown_cell(links(o.source), id=o.id))
        elif o.cell_type=='code' and (code:=without_directives(o.source)):
            meta = dict(jupyter=dict(source_hidden=True)) if is_hidden(o) else {}
            tags = o.metadata.get('tags')
            cells.append(nbformat.v4.new_code_cell(code, id=o.id, metadata=meta | (dict(tags=tags) if tags else {})))
    kernel = dict(kernelspec=dict(display_name='Python 3', language='python', name='python3'),
                  language_info=dict(name='python'))
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)
