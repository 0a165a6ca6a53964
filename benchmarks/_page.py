"""What all benchmarks share: sizes, times and circumstances, and a page: the result in a sentence, a picture, the
tables, and at the end the machine"""
import multiprocessing, os, platform, random, sys, time
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from textwrap import fill
from time import perf_counter

import matplotlib.pyplot as plt, numpy as np, torch

PEERS = 'fasterai','torch-pruning','pytorch-lightning' # each is left out if it is not there
has_fasterai,has_torch_pruning,has_lightning = (find_spec(o.replace('-', '_')) is not None for o in PEERS)
ABSENT = {o for o,there in zip(PEERS, (has_fasterai,has_torch_pruning,has_lightning)) if not there}
GREEN,GREY,RED = '#2e8b57','#808080','#b22222'

# --- Measuring --------------------------------------------------------------------------------------------------------

def cpu()->str:
    "The processor's name"
    info = Path('/proc/cpuinfo')
    names = [o.split(':')[1].strip() for o in info.read_text().splitlines()
             if o.startswith('model name')] if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()

def load()->float|None: return round(os.getloadavg()[0], 1) if hasattr(os, 'getloadavg') else None

@contextmanager
def circumstances(*packages:str): # name -> value
    "When, where and with what; what's measured goes into the `with`, as the load is taken before and after"
    about = dict(date=datetime.now(timezone.utc).isoformat(timespec='seconds'), cpu=cpu(), cores=os.cpu_count(),
                 threads=torch.get_num_threads(), system=platform.platform(), python=platform.python_version(),
                 **{o: 'not installed, so left out' if o in ABSENT else version(o)
                    for o in ('lottery_nb','torch',*packages)}, load=load())
    if torch.cuda.is_available(): about['gpu'] = torch.cuda.get_device_name()
    yield about
    about['load at the end'] = load()

def chosen(sizes, **told):
    "`sizes`, a dataclass, with what was told on the command line"
    return replace(sizes, **{k: v for k,v in told.items() if v is not None})

def timed(fn)->tuple:
    "Seconds, and what came out"
    start = perf_counter()
    out = fn()
    return perf_counter()-start, out

def synchronized(fn, *args):
    "What `fn` gives, once the GPU, if there is one, has done its work"
    out = fn(*args)
    if torch.accelerator.is_available(): torch.accelerator.synchronize()
    return out

def in_turn(calls:dict, turns:int)->dict: # name -> list of (seconds, what came out)
    "Calls all of `calls`, functions of a turn's number, in each turn, in an order that is shuffled anew each time"
    shuffled,out = random.Random(0),{k: [] for k in calls}
    for i in range(turns):
        for k in shuffled.sample(list(calls), len(calls)): out[k].append(timed(partial(calls[k], i)))
    return out

def loop():
    while True: pass

@contextmanager
def busy(n:int):
    "Keeps `n` cores busy"
    others = [multiprocessing.Process(target=loop, daemon=True) for _ in range(n)]
    for o in others: o.start()
    time.sleep(.2*bool(n))
    try: yield
    finally:
        for o in others: o.terminate()

def quartiles(values)->dict: return dict(zip(('q1','median','q3'), np.percentile(values, [25,50,75]).tolist()))

# --- The page ---------------------------------------------------------------------------------------------------------

def promise(said:str, kept:bool)->str: return f'Promised is {said}: {"kept" if kept else "NOT kept"} in this run.'

def table(head:list, rows:list)->str: # of texts
    "A Markdown table that can be read as it is"
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    first,*lines = ['| ' + ' | '.join(c.ljust(w) for c,w in zip(r, widths)) + ' |' for r in [head, *rows]]
    return '\n'.join([first, '|' + '|'.join('-'*(w+2) for w in widths) + '|', *lines])

def wrapped(text:str)->str:
    "Paragraphs in lines of one length; headings, lists and tables as they are"
    return '\n\n'.join(o if o.startswith(('#','- ','|')) else fill(' '.join(o.split()), 119, break_on_hyphens=False)
                       for o in text.strip().split('\n\n'))

def page(title:str, finding:str, picture:str, alt:str, body:str, about:dict)->str:
    "A benchmark's page as Markdown; `picture` is the name of the file beside it"
    machine = '; '.join(f'{k} {v}' for k,v in about.items())
    return f"""# {title}

{wrapped(finding)}

![{alt}]({picture})

{wrapped(body)}

## The machine

{wrapped(machine)}
"""

@contextmanager
def drawn(path:str|Path, names, label:str): # axes
    "A picture with a line a name and a legend of what has a label, which is stored once it's drawn"
    names = list(names)
    fig,ax = plt.subplots(figsize=(8, 1+.32*len(names)), layout='constrained')
    yield ax
    if any(ax.get_legend_handles_labels()): ax.legend(frameon=False, ncols=3, loc='lower right', bbox_to_anchor=(1, 1))
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel(label)
    ax.invert_yaxis()
    ax.spines[['top','right']].set_visible(False)
    with plt.rc_context({'svg.hashsalt': 'benchmarks'}): # same results, same bytes
        fig.savefig(path, bbox_inches='tight', metadata=dict(Date=None))
    plt.close(fig)

def bars(path:str|Path, values:dict, label:str, limits:dict, told:str='promised: at most', ours=()):
    """Draws a bar for each name in `values` (its middle, low and high), green where it's ours or there's a promise,
    and a line where the promise is: `limits` of names"""
    with drawn(path, values, label) as ax:
        for i,(name,(middle,low,high)) in enumerate(values.items()):
            color = GREEN if name in limits or name in ours else GREY
            ax.barh(i, middle, color=color, alpha=.7, xerr=[[middle-low],[high-middle]], capsize=3)
        at = [list(values).index(k) for k in limits]
        if limits: ax.vlines(limits.values(), [i-.48 for i in at], [i+.48 for i in at], 'black', lw=2, label=told)

def write(result:dict, report, draw, markdown:str|None, json:str|None):
    "Prints the page, `report(result, name of the picture)`; stores it with its picture, `draw(path, result)`, if asked"
    picture = Path(markdown or sys.argv[0]).with_suffix('.svg')
    print(text := report(result, picture.name))
    if markdown:
        Path(markdown).write_text(text, encoding='utf-8')
        draw(picture, result)
    if json: Path(json).write_text(dumps(result, indent=1), encoding='utf-8')
