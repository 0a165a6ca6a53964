"""Quarto's markup in a markdown cell, said in MyST's: callouts, other blocks, GitHub's alerts, figures, variables"""
import re

FENCE = re.compile(r'^ *```.*?^ *```[^\n]*$', re.M | re.S)
OPEN,CLOSE = re.compile(r'^:{3,}\s*(?:\{(?P<attrs>[^}]*)\}|(?P<word>[\w-]+))\s*:*$'),re.compile(r'^:{3,}$')
ALERT = re.compile(r'^> \[!(NOTE|TIP|IMPORTANT|WARNING|CAUTION)\][ \t]*\n((?:^>.*(?:\n|\Z))*)', re.M)
FIGURE = re.compile(r'^!\[(?P<cap>[^\]\n]*)\]\((?P<src>[^)\s]+)\)(?:\{(?P<attrs>[^}]*)\})?$', re.M)
ATTR = re.compile(r'([\w-]+)="([^"]*)"')
KINDS = 'note','tip','important','warning','caution'

def is_callout(classes): return next((o.removeprefix('callout-') for o in classes if o.startswith('callout-')), None)

def opening(attrs, title, colons):
    "The line that opens a block, with its title if it has one"
    classes,named = re.findall(r'\.([\w-]+)', ATTR.sub('', attrs)),dict(ATTR.findall(attrs))
    kind = is_callout(classes)
    if kind not in KINDS: return f"{colons}{{container}} {' '.join(classes)}".rstrip()
    title = named.get('title') or title
    return f'{colons}{{admonition}} {title}\n:class: {kind}\n' if title else f'{colons}{{{kind}}}'

def blocks(text):
    "`text` with Quarto's `:::` blocks as MyST's: outer ones have more colons, as MyST wants it"
    lines,out,depth,code,i = text.split('\n'),[],0,False,0
    while i<len(lines):
        line = lines[i]
        code ^= line.lstrip().startswith('```')
        m = None if code else OPEN.match(line.strip())
        if m:
            attrs = m['attrs'] if m['attrs'] is not None else f".{m['word']}"
            title = ''
            if is_callout(re.findall(r'\.([\w-]+)', attrs)): # its first heading is its title, and none of the page's
                j = next((j for j in range(i+1, len(lines)) if lines[j].strip()), i)
                if (h:=re.match(r'#{2,6} (.*)', lines[j])): title,i = h[1],j
            out.append(opening(attrs, title, ':'*(9-depth)))
            depth += 1
        elif depth and not code and CLOSE.match(line.strip()):
            depth -= 1
            out.append(':'*(9-depth))
        else: out.append(line)
        i += 1
    return '\n'.join(out)

def alert(m):
    body = '\n'.join(o.removeprefix('>').removeprefix(' ') for o in m[2].splitlines())
    return f'::::{{{m[1].lower()}}}\n{body}\n::::\n'

def figure(m):
    "A picture that is alone on its line is a figure, and what it is called is its caption"
    named = dict(ATTR.findall(m['attrs'] or ''))
    alt = named.get('fig-alt') or named.get('alt') or m['cap']
    width = f"\n:width: {named['width']}" if 'width' in named else ''
    return f":::{{figure}} {m['src']}\n:alt: {alt}{width}\n\n{m['cap']}\n:::" if alt else m[0]

def outside_code(change, text):
    "`text`, changed wherever it is no block of code"
    parts,last = [],0
    for m in FENCE.finditer(text):
        parts += [change(text[last:m.start()]), m[0]]
        last = m.end()
    return ''.join([*parts, change(text[last:])])

def variables(text, known):
    "`text` with the values of `{{< var name >}}`; in code too, as Quarto has it"
    return re.sub(r'\{\{< var ([\w.-]+) >\}\}', lambda m: known[m[1]], text)

def to_myst(text, known):
    "Markdown as Quarto takes it, as MyST takes it"
    text = variables(text, known)
    return outside_code(lambda part: FIGURE.sub(figure, ALERT.sub(alert, part)), blocks(text))
