"""What stands around a page's text, and what leads into it: the head, the foot, nbdev's anchors, links of types.

An extension of Sphinx: conf.py names it. What build.py knows of each page lies in `pages.json` beside the pages."""
import builtins, html, json, re
from pathlib import Path
from docutils import nodes
from nbdev.doclinks import NbdevLookup
from sphinx import addnodes
from api import anchor, exported
from facts import facts

CARD = '_static/card.png'

def pages(app): return json.loads((Path(app.srcdir)/'pages.json').read_text(encoding='utf-8'))

# Head and foot

def tag(kind, /, **attrs): return f'<{kind} ' + ' '.join(f'{k}="{html.escape(v)}"' for k,v in attrs.items()) + '>'

def head(name, title, words, told):
    "The tags that tell others what a page is: search engines, chats that show a card, readers without a browser"
    address = told.site + (f'{name}.html' if name!='index' else '')
    found = [tag('meta', name='description', content=words)]
    card = dict(title=title, description=words, type='website' if name=='index' else 'article', site_name=told.name)
    if told.site: card |= dict(url=address, image=told.site + CARD)
    found += [tag('meta', property=f'og:{k}', content=v) for k,v in card.items()]
    found.append(tag('meta', name='twitter:card', content='summary_large_image' if told.site else 'summary'))
    if told.site: found.append(tag('link', rel='canonical', href=address))
    return '\n'.join(found)

def links(name, page, told):
    "What the foot of a page leads to, as far as it's known"
    path = page.get('path')
    yield 'This page as Markdown', f"{name.rpartition('/')[2]}.html.md"
    if told.git_url:
        yield 'Repository', told.git_url
        if path: yield 'Edit this page', told.edit(path)
        yield 'Report an issue', told.issues

def page_context(app, name, template, context, doctree):
    told,page = facts(),app.site_pages.get(name)
    context['repository'] = told.git_url
    context['page_links'] = list(links(name, page, told)) if page else \
                            [('Repository', told.git_url), ('Report an issue', told.issues)] if told.git_url else []
    title = re.sub('<[^>]*>', '', context.get('title') or '') or told.name
    words = (page or {}).get('words') or told.description
    found = head(name, html.unescape(title), words, told)
    icon = tag('link', rel='apple-touch-icon', href=context['pathto']('_static/icon.png', 1))
    as_text = f"{name.rpartition('/')[2]}.html.md"
    beside = tag('link', rel='alternate', type='text/markdown', href=as_text) if page else ''
    context['metatags'] = '\n'.join(o for o in (context.get('metatags', ''), found, icon, beside) if o)

# Anchors

def short_anchors(app, doctree):
    "Gives each description the anchor that nbdev's index has for it; what has none of its own leads to its class"
    taken = {i for o in doctree.findall(nodes.Element) for i in o.get('ids', ())}
    places = {o['ids'][0]: o for o in doctree.findall(addnodes.desc_signature) if o.get('ids')}
    for full in (k for syms in exported['syms'].values() for k in syms):
        place = places.get(full) or places.get(full.rpartition('.')[0])
        if place is None or re.search(r'\._(?!_)', full): continue
        if (short:=anchor(full)) not in taken: place['ids'].append(short)
        taken.add(short)

# Types

others = NbdevLookup(strip_libs='fastai fastcore')
SITES = {'torch': 'https://docs.pytorch.org/docs/stable/generated/{0}.html',
         'pandas': 'https://pandas.pydata.org/docs/reference/api/{0}.html',
         'numpy': 'https://numpy.org/doc/stable/reference/generated/{0}.html',
         'pathlib': 'https://docs.python.org/3/library/pathlib.html#{0}',
         'collections': 'https://docs.python.org/3/library/collections.abc.html#{0}'}

def address(target):
    "Where a type of another library is described"
    library = target.partition('.')[0]
    target = re.sub(r'^torch\.(nn|optim)\..*\.', r'torch.\1.', target).replace('torch._C.', 'torch.')
    if library in SITES: return SITES[library].format(target)
    return others.doc(target.rpartition('.')[2]) if library in ('fastai','fastcore') else None

def type_link(app, env, node, content):
    "A type that isn't ours: a link to its own site, or its name"
    if node.get('refdomain')!='py' or node.get('reftype') not in ('class','obj','exc'): return None
    target = node['reftarget']
    if target.startswith('lottery_nb.') and node['reftype']!='class': return None
    url = address(target)
    known = url or '.' in target or hasattr(builtins, target) or target in ('callable','optional')
    if not known: return None
    return nodes.reference('', '', content, internal=False, refuri=url) if url else content

def setup(app):
    app.site_pages = pages(app)
    app.connect('html-page-context', page_context)
    app.connect('doctree-read', short_anchors)
    app.connect('missing-reference', type_link)
    return dict(parallel_read_safe=True)
