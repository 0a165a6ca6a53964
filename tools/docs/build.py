"""Builds the site from the notebooks into docs/: `python tools/docs/build.py [FOLDER]`. Same input, same bytes."""
import argparse, shutil, sys, tempfile, warnings
from pathlib import Path
from sphinx.cmd.build import main as sphinx

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
warnings.filterwarnings('ignore', category=FutureWarning)
from pages import TEXTS, Names, Page  # noqa: E402

root = here.parent.parent
nbs = root/'nbs'

CONTENTS = '''
```{{toctree}}
:hidden:

Home <self>
```

```{{toctree}}
:hidden:
:caption: Tutorials

{tutorials}
```

{parts}

```{{toctree}}
:hidden:
:caption: More

background
Benchmark: what pruning costs <benchmarks>
Benchmark: error bars <benchmark_replicates>
Benchmark: a curve, beside a peer <benchmark_peers>
Benchmark: channels cut out <benchmark_shrink>
Benchmark: instability <benchmark_instability>
Benchmark: masks on a busy machine <benchmark_threads>
Benchmark: what the import costs <benchmark_imports>
Benchmark: torchvision, network by network <benchmark_models>
changelog
contributing
```
'''

PART = """```{{toctree}}
:hidden:
:caption: {caption}

{pages}
```"""
# by a notebook's first digit
PARTS = {'0': 'I · A ticket', '1': 'II · Evidence', '2': 'III · Landmarks', '3': 'IV · Cash in', '4': 'V · Around'}

def notebooks():
    "The notebooks in reading order: tutorials, the parts of the book, the others"
    def found(pattern): return sorted(nbs.glob(pattern))
    parts = {caption: found(f'{digit}[0-9]*_*.ipynb') for digit,caption in PARTS.items()}
    return dict(tutorials=found('tutorials/[0-9]*.ipynb'), **{k: o for k,o in parts.items() if o},
                more=[nbs/"index.ipynb", nbs/"background.ipynb"])

def stage(folder):
    "Writes what Sphinx is given to `folder`"
    groups = {k: [Page(o, nbs) for o in paths] for k,paths in notebooks().items()}
    pages = [p for group in groups.values() for p in group]
    names = Names({o for p in pages for o in p.described})
    for p in pages: p.write(folder, names)
    listed = {k: '\n'.join(p.name for p in group) for k,group in groups.items()}
    parts = [PART.format(caption=k, pages=listed[k]) for k in PARTS.values() if k in listed]
    contents = CONTENTS.format(tutorials=listed['tutorials'], parts='\n\n'.join(parts))
    index = folder/'index.ipynb'
    add_markdown(index, contents)
    shutil.copy(root/'LICENSE', folder)
    for path,name in TEXTS.items(): shutil.copy(root/path, folder/name)
    for o in (root/'benchmarks').glob('*.svg'): shutil.copy(o, folder) # their pages' pictures

def add_markdown(path, text):
    import nbformat
    nb = nbformat.read(path, 4)
    nb.cells.append(nbformat.v4.new_markdown_cell(text, id='contents'))
    nbformat.write(nb, path)

def build(out):
    """Builds the site into the folder `out`. Raises `SystemExit` if there is something else than a site in it,
    or if Sphinx has anything to complain about"""
    if out.exists() and not (out/'.nojekyll').exists():
        sys.exit(f'{out}: expected a site, or a folder that does not exist yet')
    with tempfile.TemporaryDirectory() as tmp:
        source,html = Path(tmp)/'source',Path(tmp)/'html'
        source.mkdir()
        stage(source)
        if code:=sphinx(['-b', 'html', '-q', '-W', '--keep-going', '-c',
                         str(here), '-d', str(Path(tmp)/'doctrees'), str(source), str(html)]):
            sys.exit(code)
        for o in ('.buildinfo', 'objects.inv'): (html/o).unlink()
        shutil.rmtree(html/'_sources')
        (html/'.nojekyll').touch()
        if out.exists(): shutil.rmtree(out)
        shutil.copytree(html, out)

if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', nargs='?', type=Path, default=root/'docs')
    build(parser.parse_args().folder)
