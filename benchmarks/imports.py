"""How long `from lottery_nb.all import *` takes on top of fastai's own import: one after the other in a fresh process,
again and again

    python benchmarks/imports.py                          a minute on two cores
    python benchmarks/imports.py --markdown imports.md    the page and its picture as files
    python benchmarks/imports.py --json imports.json      the same with every time
    python benchmarks/imports.py --quick                  one process: shows that it runs, says nothing about speed
"""
import subprocess, sys
from json import loads
from statistics import median
from _page import bars, circumstances, page, promise, table, write
from fastcore.script import call_parse, store_true

MODULES = 'fastai.vision.all','lottery_nb.all'
PROMISE = .5 # seconds at most
TIMED = '''
from time import perf_counter
times = [perf_counter()]
from {} import *
times.append(perf_counter())
from {} import *
times.append(perf_counter())
print([b-a for a,b in zip(times, times[1:])])
'''.format(*MODULES)

def seconds():
    "What each of `MODULES` takes in a process of its own; Python's own start isn't counted"
    return loads(subprocess.run([sys.executable, '-c', TIMED], check=True, capture_output=True, text=True).stdout)

def report(result, picture):
    "The result as Markdown"
    fastai,ours = result['seconds'].values()
    took,ratio = median(ours),median(b/a for a,b in zip(fastai, ours))
    finding = f"""On top of fastai's own import, lottery_nb's takes {took:.2f} seconds, {100*ratio:.0f} % of fastai's
time (median of the ratios). {promise(f'at most {PROMISE} s', took<=PROMISE)}"""
    shown = table(['import', 'seconds, median', 'least to most'],
                  [[k, f'{median(v):.2f}', f'{min(v):.2f} to {max(v):.2f}'] for k,v in result['seconds'].items()])
    body = f"""One after the other in a fresh process, lottery_nb second; Python's own start isn't counted. Processes:
{len(ours)}.

{shown}"""
    return page('What the import costs', finding, picture, 'Seconds of each import, a bar a package', body,
                result['circumstances'])

def draw(path, result):
    values = {k: (median(v), min(v), max(v)) for k,v in result['seconds'].items()}
    bars(path, values, 'seconds, least to most', {MODULES[1]: PROMISE})

@call_parse
def main(
    rounds:int=9, # processes
    quick:store_true=False, # one process, to see that it runs
    json:str=None, # file for all times
    markdown:str=None, # file for the page; its picture comes beside it
):
    "How long lottery_nb's import takes beside fastai's own"
    with circumstances('fastai') as about:
        seconds() # not counted: it reads the files from the disk
        times = [seconds() for _ in range(1 if quick else rounds)]
    result = dict(circumstances=about, seconds=dict(zip(MODULES, zip(*times))))
    write(result, report, draw, markdown, json)
