"The package, as `settings.ini` describes it: no version and no requirement is written down here"
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

root = Path(__file__).resolve().parent
config = ConfigParser(interpolation=None, delimiters=['='])
config.read_string((root/'settings.ini').read_text(encoding='utf-8'))
facts = config['DEFAULT']
lib = facts['lib_name']
readme = root/'README.md'

setup(
    name=lib,
    version=facts['version'],
    description=facts['description'],
    keywords=facts['keywords'].split(),
    license_expression=facts['license'],
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    packages=[lib],
    python_requires=f">={facts['min_python']}",
    install_requires=facts['requirements'].split(),
    extras_require={o.removesuffix('_requirements'): facts[o].split() for o in facts if o.endswith('_requirements')},
    entry_points=dict(console_scripts=facts['console_scripts'].split(), nbdev=[f'{lib} = {lib}._modidx:d']),
    zip_safe=False,
)
