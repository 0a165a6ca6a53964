"Writes README.md from the notebook that `[tool.nbdev]` names, with its stored outputs; quarto is not needed"
import base64, os, re
from pathlib import Path
from fastcore.ansi import strip_ansi
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.processors import clean_magics, hide_line, insert_warning, populate_language, rm_export

FENCED = re.compile(r'(^```.*?^```[^\n]*$|`[^`\n]+`)', re.M | re.S)
LINK = re.compile(r'(\]\(|^\[[^\]]+\]: |\b(?:src|srcset|href)=")(?!\w+:|[#/])([^)\s"]+)', re.M)

def relink(
    text:str, # markdown, with links relative to the notebook's folder
    folder:str # that folder, relative to README.md
)->str:
    "`text` with links that are relative to README.md; code is left as it is"
    def moved(m): return m[1] + Path(os.path.normpath(f'{folder}/{m[2]}')).as_posix()
    return ''.join(part if i%2 else LINK.sub(moved, part) for i,part in enumerate(FENCED.split(text)))

def fence(
    text:str, # what goes into the block
    lang:str='' # its language
)->str:
    "`text` as a code block, fenced by more backticks than it has itself"
    ticks = '`' * max([3, *(len(o)+1 for o in re.findall('`{3,}', text))])
    return f'{ticks}{lang}\n{text.strip(chr(10))}\n{ticks}'

def off(
    cell, # a cell with its directives
    name:str # of a directive
)->bool:
    "True if the cell has the directive, set to false"
    return cell.directives_.get(name, '').strip().lower() == 'false'

class Readme:
    """The markdown of a notebook, as `.text`, and the pictures that its outputs show, as `.images` from path to bytes.
    A picture is described by `#| fig-alt: …`"""
    def __init__(self,
        nb:Path, # the notebook, its outputs stored
        root:Path, # README.md's folder
        pictures:str # where the pictures of outputs go, relative to README.md
    ):
        self.folder,self.pictures,self.images = nb.parent.relative_to(root).as_posix(),pictures,{}
        procs = [populate_language, insert_warning, hide_line, clean_magics, rm_export]
        cells = NBProcessor(nb, procs=procs, process=True).nb.cells
        self.text = '\n\n'.join(o for c in cells for o in self.blocks(c) if o.strip()) + '\n'

    def blocks(self, cell):
        "The blocks of markdown that a cell turns into"
        if off(cell, 'include'): return
        if cell.cell_type == 'markdown': yield relink(cell.source.strip(), self.folder)
        if cell.cell_type != 'code': return
        if not off(cell, 'echo') and cell.source.strip(): yield fence(cell.source, cell.metadata.language)
        if not off(cell, 'output'):
            alt = cell.directives_.get('fig-alt', '').strip('"\' ')
            for i,o in enumerate(cell.get('outputs', [])): yield self.output(o, f'{cell.id}-{i}', alt)

    def output(self, out, name, alt):
        "An output as markdown: of the forms that it has, the one that reads best"
        def text(o): return strip_ansi(''.join(o))
        if out.output_type == 'stream': return fence(text(out.text))
        if out.output_type == 'error': return fence(text('\n'.join(out.traceback)))
        data = out.data
        if 'text/markdown' in data: return relink(text(data['text/markdown']), self.folder)
        for kind,ext in (('image/svg+xml', 'svg'), ('image/png', 'png'), ('image/jpeg', 'jpg')):
            if kind in data: return self.picture(''.join(data[kind]), f'{self.pictures}/{name}.{ext}', alt)
        if 'text/html' in data: return re.sub(r'<style.*?</style>\n?', '', text(data['text/html']), flags=re.S)
        return fence(text(data.get('text/plain', '')))

    def picture(self, data, path, alt):
        "A link to a picture, which is put among the images"
        self.images[path] = data.encode() if path.endswith('svg') else base64.b64decode(data)
        return f'![{alt}]({path})'

def write(root:Path):
    "Writes README.md and its pictures under `root`, and removes pictures that it no longer shows"
    cfg = get_config(root)
    readme = Readme(cfg.nbs_path/cfg.readme_nb, root, pictures=f'{cfg.nbs_path.name}/images/{Path(cfg.readme_nb).stem}')
    (root/'README.md').write_text(readme.text, encoding='utf-8')
    for old in (root/readme.pictures).glob('*'): old.unlink()
    for path,data in readme.images.items():
        (root/path).parent.mkdir(parents=True, exist_ok=True)
        (root/path).write_bytes(data)

if __name__ == '__main__': write(Path(__file__).resolve().parent.parent)
