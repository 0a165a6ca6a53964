"""What is exported, as Sphinx's descriptions: signatures with types that link, base classes, parameters, errors"""
import inspect, re, typing
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from fastcore.docments import ShowDocRenderer, docments
from sphinx.util.typing import stringify_annotation
from lottery_nb._modidx import d as exported
from lottery_nb.core import Rule
from nbdev.showdoc import show_doc

nbs = Path(__file__).resolve().parent.parent.parent/'nbs'
BOOK = [re.search(r'default_exp (\w+)', o.read_text(encoding='utf-8'))[1] for o in sorted(nbs.glob('[0-9]*.ipynb'))]
OURS = {} # name -> full name; of a name that two modules have, such as a command's and its function's, the earlier one
for module in (f'lottery_nb.{o}' for o in BOOK):
    for k in exported['syms'].get(module, ()): OURS.setdefault(k.removeprefix(f'{module}.'), k)

# of names in words of a docstring: the sentence that says what is raised, up to the next one
RAISES = re.compile(r'(?:(?<=\s)|^)Raises .*?(?=\.\s+[A-Z`]|\n\n|\.?\s*\Z)\.?', re.S)

def is_public(name): return name in OURS and not re.search(r'(^|\.)_(?!_)', name)

def module_of(full): return next(o for o in exported['syms'] if full in exported['syms'][o])

def anchor(full):
    "nbdev's anchor of a name, which `_modidx` has too"
    return full.removeprefix(f'{module_of(full)}.').lower()

# Types

def qualified(annotation, module):
    "A type with its full name, as Sphinx looks it up; a name that is written as text is looked up in its module"
    if typing.get_origin(annotation) is typing.Annotated: annotation = typing.get_args(annotation)[0]
    if isinstance(annotation, str):
        return ' | '.join(OURS.get(o.strip(), o.strip()) if f'lottery_nb.{o}' not in exported['syms'] else o
                          for o in annotation.split('|'))
    return stringify_annotation(annotation, 'fully-qualified-except-typing')

def short(name):
    "A type's name without its modules"
    return re.sub(r'\b(?:[A-Za-z_]\w*\.)+(?=\w)', '', name)

def default(value):
    "A default value as one would type it: a function has a name, not an address"
    if callable(value): return getattr(value, '__qualname__', None) or getattr(value, '__name__', repr(value))
    return re.sub(r'<(?:function |class ")?\'?([\w.<>]+)(?: object)?(?: at 0x\w+|\'>)>?', r'\1', repr(value))

# Descriptions

class Described(ShowDocRenderer):
    """`show_doc` as one of Sphinx's descriptions: found by the search, linked to its source, with types that link and
    a table of the parameters"""
    def __init__(self, sym, name=None, title_level=3): self.sym,self.name = sym,name

    @property
    def module(self): return module_of(self.name)

    @property
    def local(self): return self.name.removeprefix(f'{self.module}.')

    def kind(self):
        if isinstance(self.sym, Rule) and not self.sym.fn.__kwdefaults__: return 'data'
        if inspect.isclass(self.sym): return 'exception' if issubclass(self.sym, Exception) else 'class'
        if isinstance(self.sym, classmethod): return 'classmethod'
        if isinstance(self.sym, property): return 'property'
        return 'method' if '.' in self.local else 'function'

    @property
    def function(self):
        "What has the signature"
        if isinstance(self.sym, Rule): return self.sym.fn
        if isinstance(self.sym, classmethod): return self.sym.__func__
        return self.sym.fget if isinstance(self.sym, property) else self.sym

    def parameters(self):
        "Those that a call names; of a rule those that it can be called with"
        if self.kind() in ('property','data','exception'): return []
        if self.kind()=='class':
            owner = next(o for o in self.sym.__mro__ if '__init__' in vars(o))
            if owner.__module__.partition('.')[0] not in ('builtins','lottery_nb'): return [] # told elsewhere
        params = inspect.signature(self.function).parameters.values()
        if isinstance(self.sym, Rule):
            params = [o.replace(kind=o.POSITIONAL_OR_KEYWORD) for o in params if o.kind==o.KEYWORD_ONLY]
        return [o for o in params if o.name not in ('self','cls')]

    def signature(self):
        "With types and defaults, as Sphinx reads it"
        if self.kind() in ('property','data','exception'): return ''
        texts,star = [],False
        for o in self.parameters():
            if o.kind==o.KEYWORD_ONLY and not star: texts.append('*')
            star = star or o.kind in (o.KEYWORD_ONLY, o.VAR_POSITIONAL)
            mark = {o.VAR_POSITIONAL: '*', o.VAR_KEYWORD: '**'}.get(o.kind, '')
            kind = '' if o.annotation is o.empty else f': {qualified(o.annotation, self.module)}'
            given = '' if o.default is o.empty else f' = {default(o.default)}' if kind else f'={default(o.default)}'
            texts.append(f'{mark}{o.name}{kind}{given}')
        back = self.returns()
        return f"({', '.join(texts)})" + (f' -> {back}' if back else '')

    def returns(self):
        if self.kind()=='class' or self.kind()=='exception': return ''
        found = inspect.signature(self.function).return_annotation
        return '' if found in (inspect.Signature.empty, None) else qualified(found, self.module)

    def bases(self, names):
        "The classes that a class is made from"
        if not inspect.isclass(self.sym): return ''
        known = [o for o in self.sym.__bases__ if o is not object]
        return 'Bases: ' + ', '.join(names.base(o) for o in known) + '\n\n' if known else ''

    def words(self):
        "The docstring without the sentence that says what is raised, and that sentence"
        text = inspect.cleandoc(self.sym.__doc__)
        raised = [' '.join(o.split()).removeprefix('Raises ') for o in RAISES.findall(text)]
        return RAISES.sub('', text).strip(), raised

    def rows(self, raised):
        "What the table says: each parameter, what is returned and what is raised"
        if self.kind()=='exception': return
        told = docments(self.function, returns=True, full=True)
        for o in self.parameters():
            if words:=(told.get(o.name) or {}).get('docment'): yield f'`{o.name}`', words
        back = (told.get('return') or {}).get('docment')
        if back: yield '*Returns*', back
        for o in raised: yield '*Raises*', o

    def table(self, raised):
        "A row a parameter"
        rows = [f"| {name} | {' '.join(words.split()).replace('|', chr(92)+'|')} |" for name,words in self.rows(raised)]
        return '\n'.join(['| | |', '|:--|:--|', *rows]) if rows else ''

    def methods(self, shown):
        "The methods of a class that have something to say and no place of their own on the page"
        for k in exported['syms'][self.module] if inspect.isclass(self.sym) else ():
            name = k.removeprefix(f'{self.module}.')
            if not k.startswith(f'{self.name}.') or k in shown or not is_public(name) or '__' in name: continue
            if OURS[name]==k and symbol(name).__doc__ and (found:=documented(name)): yield found

    def markdown(self, names, shown=(), fence=6):
        "The description, with links for the names in it; `shown`: what is described elsewhere on the page"
        text,raised = self.words()
        own = {o.name for o in self.parameters()}
        body = f'{self.bases(names)}{names(text, own)}\n\n{names(self.table(raised), own)}'
        body += ''.join(f'\n\n{o.markdown(names, shown, fence-1)}' for o in self.methods(shown))
        ticks = '`'*fence
        return f'{ticks}{{py:{self.kind()}}} {self.local}{self.signature()}\n:module: {self.module}\n\n{body}\n{ticks}'

def symbol(name):
    "What a public name stands for, as it is in its class or module"
    module = module_of(OURS[name])
    owner,_,attr = name.rpartition('.')
    space = vars(import_module(module))
    sym = inspect.getattr_static(space[owner], attr) if owner else space[name]
    # fastcore has a class method of its own
    if owner and inspect.ismethod(bound:=getattr(space[owner], attr)): sym = classmethod(bound.__func__)
    return sym

@lru_cache(None)
def documented(name): return show_doc(symbol(name), Described, name=OURS[name])
