"""How long `from lottery_nb.all import *` takes on top of fastai's own import: one after the other in a fresh process,
again and again

    python benchmarks/imports.py                          a minute on two cores
    python benchmarks/imports.py --markdown imports.md    the table as a file
    python benchmarks/imports.py --json imports.json      the same with every time
    python benchmarks/imports.py --quick                  one process: shows that it runs, says nothing about speed
"""
import platform, subprocess, sys
from importlib.metadata import version
from json import dumps, loads
from pathlib import Path
from statistics import median
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

def report(result):
    "The result as Markdown"
    rows = '\n'.join(f'| {k} | {median(v):.2f} | {min(v):.2f} to {max(v):.2f} |' for k,v in result['seconds'].items())
    fastai,ours = result['seconds'].values()
    ratio,kept = median(b/a for a,b in zip(fastai, ours)),median(ours)<=PROMISE
    return f"""# What the import costs

{'; '.join(f'{k} {v}' for k,v in result['circumstances'].items())}; {len(ours)} processes

| import | seconds, median | range |
|---|---:|---:|
{rows}

lottery_nb comes second and takes {100*ratio:.0f} % of fastai's time (median of the ratios).
Promised is at most {PROMISE} s: {'kept' if kept else 'not kept'} in this run.
"""

@call_parse
def main(
    rounds:int=9, # processes
    quick:store_true=False, # one process, to see that it runs
    json:str=None, # file for all times
    markdown:str=None, # file for the table
):
    "How long lottery_nb's import takes beside fastai's own"
    seconds() # not counted: it reads the files from the disk
    times = [seconds() for _ in range(1 if quick else rounds)]
    circumstances = dict(python=platform.python_version(), **{o: version(o) for o in ('torch','fastai','lottery_nb')})
    result = dict(circumstances=circumstances, seconds=dict(zip(MODULES, zip(*times))))
    print(report(result))
    if markdown: Path(markdown).write_text(report(result), encoding='utf-8')
    if json: Path(json).write_text(dumps(result, indent=1), encoding='utf-8')
