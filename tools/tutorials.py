"""Runs notebooks and keeps their outputs, with what made them: versions and day, in the notebook's metadata.

Without --train the cells with the tag `long` are left out, which are the long trainings: they keep the outputs of the
run that they had. With it all cells are run, and what the trainings store goes to nbs/tutorials/results/.

A cell with the tag `parameters` has the sizes that one may choose, as papermill knows it: a plain assignment a line."""
import argparse, os, re
from datetime import date
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from lottery_nb.core import versions

folder = Path(__file__).resolve().parent.parent/'nbs'/'tutorials'

def is_noise(output):
    "Whether `output` is what is left of a progress bar, or a warning of a library about itself"
    if output.output_type=='stream':
        noise = '`torch.jit', 'NumPy array is not writable', 'IProgress'
        return output.name=='stderr' and any(o in output.text for o in noise)
    html = output.get('data', {}).get('text/html')
    return html is not None and ('progress {' in html or not html.strip()) and '<table' not in html

def without_place(text):
    "A warning's text without the file of the kernel that it came from and the line of the cell, which is on the page"
    return re.sub(r'^\S*ipykernel_\d+\S*\.py:\d+: (.*\n)  .*\n', r'\1', text, flags=re.M)

def tidy(outputs):
    "The outputs without the noise, neighbouring pieces of one stream put together"
    kept = []
    for o in outputs:
        if is_noise(o): continue
        if o.output_type=='stream': o.text = without_place(o.text)
        if kept and o.output_type=='stream'==kept[-1].output_type and o.name==kept[-1].name: kept[-1].text += o.text
        else: kept.append(o)
    return kept

def tagged(cell, tag): return tag in cell.metadata.get('tags', [])

def trains(cell): return tagged(cell, 'long') or '#| eval: false' in cell.source.splitlines()

def inject(nb, code):
    "Puts a cell of `code` behind the one with the tag `parameters`, or else before all others"
    at = [i+1 for i,c in enumerate(nb.cells) if tagged(c, 'parameters')] or [0]
    nb.cells.insert(at[0], nbformat.v4.new_code_cell(code, metadata=dict(tags=['injected-parameters'])))

def write(nb, path):
    nbformat.write(nb, beside:=path.with_suffix('.part'))
    os.replace(beside, path)

def made_with(nb, train):
    "Notes versions and day of a run of `nb`, of the page and of the long trainings; those left out keep what was noted"
    now,trained = dict(day=date.today().isoformat(), **versions()),train and any(map(trains, nb.cells))
    return nb.metadata.get('made_with', {}) | dict.fromkeys(['page', 'trainings'] if trained else ['page'], now)

def run(
    path:Path, # of the notebook, which is executed in its folder
    train:bool=False, # the cells with the tag `long` too?
    code:str='' # of a cell that comes after the parameters, for other sizes
):
    """Executes a notebook. Each cell's output is written as it comes,
    so that a run that is killed has lost only one cell"""
    nb = nbformat.read(path, 4)
    if code: inject(nb, code)
    told = made_with(nb, train)
    nb.metadata.pop('made_with', None) # half a run is nobody's
    client = NotebookClient(nb, timeout=None, kernel_name='python3', resources={'metadata': {'path': path.parent}})
    with client.setup_kernel():
        for i,cell in enumerate(nb.cells):
            if cell.cell_type!='code' or (trains(cell) and not train): continue
            client.execute_cell(cell, i)
            cell.outputs = tidy(cell.outputs)
            write(nb, path)
    nb.metadata['made_with'] = told
    write(nb, path)

if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME',
                        help='a tutorial, without .ipynb, or the path of any notebook; all tutorials if none is named')
    parser.add_argument('--train', action='store_true', help='run the long trainings too')
    args = parser.parse_args()
    paths = [Path(o) if o.endswith('.ipynb') else folder/f'{o}.ipynb' for o in args.names]
    for path in paths or sorted(folder.glob('[0-9]*.ipynb')): run(path, args.train)
