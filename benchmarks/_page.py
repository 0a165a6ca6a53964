"The pages of all benchmarks: the result in a sentence, a picture, the tables, and at the end the machine"
from pathlib import Path

import matplotlib.pyplot as plt

def page(title:str, finding:str, picture:str, alt:str, body:str, about:dict)->str:
    "A benchmark's page as Markdown; `picture` is the name of the file beside it"
    machine = '; '.join(f'{k} {v}' for k,v in about.items())
    return f'# {title}\n\n{finding}\n\n![{alt}]({picture})\n\n{body.strip()}\n\n## The machine\n\n{machine}\n'

def bars(path:str|Path, values:dict, label:str, limit:float|None=None): # values: name -> (middle, low, high)
    "Draws a bar for each, with an interval, and a line where the promise is"
    fig,ax = plt.subplots(figsize=(7, .6+.35*len(values)), layout='constrained')
    for i,(middle,low,high) in enumerate(values.values()):
        ax.barh(i, middle, color='#2e8b57', alpha=.7, xerr=[[middle-low],[high-middle]], capsize=3)
    ax.set_yticks(range(len(values)), list(values))
    ax.set_xlabel(label)
    ax.invert_yaxis()
    if limit is not None: ax.axvline(limit, color='black', ls='--', lw=1)
    fig.savefig(path, metadata=dict(Date=None))
    plt.close(fig)
