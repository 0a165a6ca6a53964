"The package, as `settings.ini` describes it; name and description are in pyproject.toml too, where nbdev reads them"
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

root = Path(__file__).resolve().parent
config = ConfigParser(interpolation=None, delimiters=['='])
config.read_string((root/'settings.ini').read_text(encoding='utf-8'))
facts = config['DEFAULT']
lib = facts['lib_name']
readme = root/'README.md'
text = readme.read_text(encoding='utf-8') if readme.exists() else ''
if facts['git_url']: # PyPI shows README far from the files that it links to
    text = re.sub(r'(!?\[[^]]*\])\((?!\w+:|#)',
                  lambda m: f"{m[1]}({facts['git_url']}/{'raw' if m[1][0]=='!' else 'blob'}/{facts['branch']}/", text)

setup(
    version=facts['version'],
    keywords=facts['keywords'].split(),
    license_expression=facts['license'],
    long_description=text,
    long_description_content_type='text/markdown',
    packages=[lib],
    python_requires=f">={facts['min_python']}",
    install_requires=facts['requirements'].split(),
    extras_require={o.removesuffix('_requirements'): facts[o].split() for o in facts if o.endswith('_requirements')},
    entry_points=dict(console_scripts=facts['console_scripts'].split(), nbdev=[f'{lib} = {lib}._modidx:d']),
    zip_safe=False,
)
