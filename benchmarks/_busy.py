"""A benchmark beside a busy loop on one core: what it found there is put into its page, which the idle machine made

    python benchmarks/_busy.py overhead                          all of it again, and longer; needs overhead.md
    python benchmarks/_busy.py overhead --rounds 20              what follows the name is told to the benchmark
    python benchmarks/_busy.py overhead --markdown other.md      another page
"""
import json, re, subprocess, sys, tempfile
from pathlib import Path
from _page import busy, wrapped

here = Path(__file__).resolve().parent
HEAD,MACHINE = '## Beside a busy loop','## The machine'

def finding(text:str)->str:
    "Reads what a page says between its title and its picture"
    return re.search(r'\A# .+?\n\n(.+?)\n\n!\[', text, re.S)[1]

def main(name:str, *args:str):
    if '--markdown' in args:
        i = args.index('--markdown')
        path,args = Path(args[i+1]),[*args[:i], *args[i+2:]]
    else: path = here/f'{name}.md'
    if not path.exists(): sys.exit(f"{path}: expected the idle machine's page, which {name}.py --markdown writes")
    before,machine = path.read_text(encoding='utf-8').split(f'{MACHINE}\n')
    with tempfile.TemporaryDirectory() as folder, busy(1):
        page,result = Path(folder)/'page.md',Path(folder)/'result.json'
        subprocess.run([sys.executable, here/f'{name}.py', *args, '--markdown', page, '--json', result], check=True)
        found = finding(page.read_text(encoding='utf-8'))
        day = json.loads(result.read_text(encoding='utf-8'))['circumstances']['date'][:10]
    how = f', `{" ".join(args)}`' if args else ''
    about = wrapped(f'Once more, with a loop on one core that does nothing else, on {day}{how}:')
    before = before.split(f'{HEAD}\n')[0] # an earlier run's
    path.write_text(f'{before}{HEAD}\n\n{about}\n\n{found}\n\n{MACHINE}\n{machine}', encoding='utf-8')

if __name__=='__main__':
    if len(sys.argv)<2: sys.exit(__doc__)
    main(*sys.argv[1:])
