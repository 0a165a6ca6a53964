"The notebooks as a reader takes them along: without outputs and directives, and a first cell that installs"
import re
import nbformat

folder = 'notebooks' # in the site

def first_cell(facts):
    "The cell that installs"
    where = ' # from the first page of the site: save it beside this notebook' if facts.ships_wheel and not facts.site else ''
    return nbformat.v4.new_code_cell(f'%pip install -q {facts.source}{where}', id='install')

def is_hidden(cell): return re.search(r'^#\s*\|\s*(?:hide|echo:\s*false)\s*$', cell.source, re.M)

def without_directives(source): return re.sub(r'^#\s*\|.*\n?', '', source, flags=re.M).strip('\n')

def taken_along(nb, links, facts):
    "A copy of the notebook `nb`; `links` makes its links those of the site, which it is not beside any more"
    cells = [first_cell(facts)]
    for o in nb.cells:
        if o.cell_type=='markdown': cells.append(nbformat.v4.new_markdown_cell(links(o.source), id=o.id))
        elif o.cell_type=='code' and (code:=without_directives(o.source)):
            meta = dict(jupyter=dict(source_hidden=True)) if is_hidden(o) else {}
            tags = o.metadata.get('tags')
            cells.append(nbformat.v4.new_code_cell(code, id=o.id, metadata=meta | (dict(tags=tags) if tags else {})))
    kernel = dict(kernelspec=dict(display_name='Python 3', language='python', name='python3'),
                  language_info=dict(name='python'))
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)
