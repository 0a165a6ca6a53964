"""Prints the lowest versions that settings.ini admits, as constraints for pip: `python tools/floors.py`"""
import re
from configparser import ConfigParser
from pathlib import Path

# what one works on the package with, not what it runs with
OURS = ('dev_requirements','docs_requirements','bench_requirements')

def floors(path:Path)->list[str]:
    "`name==version` for each requirement of the package that has a lowest version; of the extras too"
    config = ConfigParser(interpolation=None, delimiters=['='])
    config.read(path, encoding='utf-8')
    asked = [o for k,v in config['DEFAULT'].items() if k.endswith('requirements') and k not in OURS for o in v.split()]
    return [f'{m[1]}=={m[2]}' for o in asked if (m:=re.match(r'([\w.-]+)>=([\w.]+)', o))]

if __name__=='__main__': print('\n'.join(floors(Path(__file__).resolve().parent.parent/'settings.ini')))
