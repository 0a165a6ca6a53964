"The reference of the command line: every command with its options, as Typer knows them"
import re
import typer
from lottery_nb.cli import app, known_names

program = 'lottery-nb'
group = typer.main.get_command(app)
context = group.context_class(group, info_name=program)
commands = dict(group.commands)
WORDS = dict(data='what `DATA` can be, beside a folder of photos', arm='arms, for `--arm`',
             criteria='criteria, for `--criteria`', method='methods, for `--method`',
             granularity='granularities, for `--granularity`, beside n of m such as `2:4`')

def cell(text): return text.replace('|', r'\|')

def row(param, ctx):
    "A parameter as its help tells it: what one types, its default, what it does"
    typed,words = param.get_help_record(ctx)
    m = re.fullmatch(r'(.*?)\s*(?:\[(?:default: \(?(?P<default>.*?)\)?|(?P<must>required))\])?', words, re.S)
    default = 'required' if m['must'] else m['default'] or ''
    if default and not m['must'] and not re.search('[:, ]', default): default = f'`{default}`'
    return f"| `{cell(typed)}` | {cell(default)} | {cell(' '.join(m[1].split()))} |"

def table(what, params, ctx):
    rows = [row(o, ctx) for o in params if not getattr(o, 'hidden', False)]
    return f"| {what} | default | |\n|:--|:--|:--|\n" + '\n'.join(rows) if rows else ''

def shell(*lines): return '```console\n' + '\n'.join(f'$ {o}' for o in lines) + '\n```'

def described(name):
    "A command: what it does, how it's called, an example, its arguments and options"
    command = commands[name]
    ctx = command.context_class(command, info_name=name, parent=context)
    usage = re.sub(r'[{}]', '', ' '.join(command.get_usage(ctx).removeprefix('Usage: ').split()))
    example = re.findall(r'`([^`]+)`', command.epilog or '')
    params = command.get_params(ctx)
    arguments = [o for o in params if o.param_type_name=='argument']
    parts = [f'## {name}', command.help, shell(usage), *(['For example:', shell(*example)] if example else []),
             table('argument', arguments, ctx), table('option', [o for o in params if o not in arguments], ctx)]
    return '\n\n'.join(o for o in parts if o)

def pointers(page):
    "Command -> what the page of its module says of it; `page`: where the reference is"
    told = {k: ' '.join(o.help.split(chr(10)+chr(10))[0].split()) for k,o in commands.items()}
    return {k: f'[`{program} {k}`]({page}.md#{k}): {text}' for k,text in told.items()}

def words(kind): return f"| {WORDS[kind]} | {', '.join(f'`{o}`' for o in known_names(kind))} |"

def reference():
    "The page, as Markdown"
    listed = [f'| [`{program} {k}`](#{k}) | {cell(" ".join(o.help.split(chr(10)+chr(10))[0].split()))} |'
              for k,o in commands.items()]
    parts = ['# Command line', '> Every command of `lottery-nb`, with all its options',
             'What they have in common, and runs of them with what they print, are on the page of [cli](cli.ipynb). '
             'The result goes to the output and everything else to the error stream; the exit status is 0, 1 if what '
             'you asked for failed, 2 if you asked for it wrongly, and 130 after Ctrl-C.',
             '| | |\n|:--|:--|\n' + '\n'.join(listed),
             table('option of the program', group.get_params(context), context),
             *(described(k) for k in commands), '## Names that options take',
             '| | |\n|:--|:--|\n' + '\n'.join(words(k) for k in WORDS)]
    return '\n\n'.join(parts) + '\n'
