"""What the site says about the project itself: all of it comes from settings.ini, and from the two environment
variables that a workflow sets. What isn't known is empty, and then nothing is said about it"""
import json, os, re
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

root = Path(__file__).resolve().parent.parent.parent

@dataclass(frozen=True)
class Facts:
    name:str # of the package
    version:str
    description:str
    git_url:str='' # where the repository is, without a slash at the end
    branch:str='main'
    site:str='' # the site's address, with a slash at the end
    published:bool=False # is it on PyPI?

    @property
    def base(self):
        "The path of the site on its host, with a slash at both ends; empty if it isn't known"
        return re.sub(r'^\w+://[^/]+', '', self.site)

    @property
    def wheel(self):
        "What `make dist` leaves"
        return f'{self.name}-{self.version}-py3-none-any.whl'

    @property
    def source(self):
        "What pip installs: the name once it's on PyPI, else the repository, else the wheel that lies in the site"
        if self.published: return self.name
        return f'git+{self.git_url}' if self.git_url else self.site + self.wheel

    @property
    def ships_wheel(self): return self.source.endswith('.whl')

    def variables(self, wheel=True):
        """What pages say of the installation, where they have `{{< var … >}}`. A site of Quarto's has no `wheel` in it:
        there it's the folder"""
        given = self.source if wheel or not self.ships_wheel else '.'
        if self.published: note = "brings PyTorch and fastai with it, if you don't have them."
        elif self.git_url: note = "takes it from the repository, as it is today: it isn't on PyPI yet."
        elif wheel: note = f"takes it from <a href='{self.wheel}'>a file of this site</a>: it isn't on PyPI yet."
        else: note = "takes it from the project's folder: it isn't on PyPI yet."
        return dict(install=f'pip install {given}', installs=note)

    def quarto(self):
        "nbs/_variables.yml, for `nbdev-docs`"
        said = ''.join(f'{k}: {json.dumps(v)}\n' for k,v in self.variables(wheel=False).items())
        return f'# of settings.ini, by `make docs`\n{said}'

    def edit(self, path):
        "The address where a file of the repository is edited"
        return f'{self.git_url}/edit/{self.branch}/{path}' if self.git_url else ''

    def view(self, path):
        "The address where a file of the repository is read"
        return f'{self.git_url}/blob/{self.branch}/{path}' if self.git_url else ''

    @property
    def issues(self): return f'{self.git_url}/issues/new' if self.git_url else ''

    def colab(self, path):
        "The address that opens a notebook of the repository in Colab; empty if it isn't on GitHub"
        on_github = re.fullmatch(r'https://github\.com/([^/]+/[^/]+)', self.git_url)
        return f'https://colab.research.google.com/github/{on_github[1]}/blob/{self.branch}/{path}' if on_github else ''

def facts(
    path=root/'settings.ini',
    env=os.environ
)->Facts:
    "The facts of today: those of `path`, and what `env` says of the repository and the host instead"
    config = ConfigParser(interpolation=None, delimiters=['='])
    config.read(path, encoding='utf-8')
    ini = config['DEFAULT']
    git_url = (env.get('LOTTERY_NB_GIT_URL') or ini.get('git_url', '')).rstrip('/').removesuffix('.git')
    host = (env.get('LOTTERY_NB_DOC_HOST') or ini.get('doc_host', '')).rstrip('/')
    base = ini.get('doc_baseurl', '').strip('/')
    if base and not host.endswith(f'/{base}'): host = host and f'{host}/{base}'
    site = host and f'{host}/'
    return Facts(ini['lib_name'], ini['version'], ini['description'], git_url, ini.get('branch') or 'main', site,
                 ini.getboolean('published', False))
