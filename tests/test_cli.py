"The command `lottery-nb` as a process: what it says, where it says it, its exit status, and the files it leaves"
import json, os, re, shlex, shutil, signal, subprocess, sys, sysconfig, time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from models import differing
from lottery_nb.ticket import Ticket
from lottery_nb.arms import random_ticket

command = Path(sysconfig.get_path('scripts'))/'lottery-nb'
tiny = ['demo', '--seeds', '2', '--rounds', '2', '--steps', '60']
files = {'results.csv', 'results.json', 'demo.png', 'ticket.safetensors'}

def run(*args, cwd, **env):
    "The finished process, its output caught, as in a pipe"
    env = {**os.environ, 'COLUMNS': '100', 'NO_COLOR': '1', **env}
    return subprocess.run([command, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True, encoding='utf-8', stdin=subprocess.DEVNULL)

@pytest.fixture(scope='module')
def done(tmp_path_factory):
    "A tiny demo that was run in a folder of its own with the default `--out`"
    folder = tmp_path_factory.mktemp('cli')
    return run(*tiny, cwd=folder), folder/'runs/demo'

def test_help(tmp_path):
    told = run('--help', cwd=tmp_path)
    assert told.returncode==0 and 'demo' in told.stdout and '--version' in told.stdout and not told.stderr
    told = invoke('demo', '--help', folder=tmp_path)
    assert told.exit_code==0 and not told.stderr
    for option in ('--seeds', '--rounds', '--steps', '--out', '--quiet', '--json'): assert option in told.stdout

def test_version(tmp_path):
    told = run('--version', cwd=tmp_path)
    assert (told.returncode, told.stdout, told.stderr)==(0, f"lottery-nb {version('lottery_nb')}\n", '')

def test_result_goes_to_stdout_and_nothing_to_a_pipe_on_stderr(done):
    told,_ = done
    assert (told.returncode, told.stderr)==(0, '')
    for words in ('Held-out accuracy', '2 seeds', 'after 40 steps', 'After 60 steps, at 64.3 % density', 'Saved: runs/demo/results.csv'):
        assert words in told.stdout
    for sign in ('█', '\x1b', '\r', 'nan'): assert sign not in told.stdout

def in_terminal(*args, cwd):
    "Exit status, and what a process writes to an error stream that is a terminal, and to an output that is none"
    pty = pytest.importorskip('pty')
    master,slave = pty.openpty()
    env = {k: v for k,v in os.environ.items() if k!='NO_COLOR'} | dict(TERM='xterm-256color', COLUMNS='100')
    with open(cwd/'stdout', 'wb') as out:
        process = subprocess.Popen([command, *args], cwd=cwd, env=env, stdout=out, stderr=slave, stdin=slave)
    os.close(slave)
    said = b''
    with suppress(OSError): # so it ends on Linux
        while piece:=os.read(master, 4096): said += piece
    os.close(master)
    return process.wait(60), said.decode(), (cwd/'stdout').read_text(encoding='utf-8')

def test_progress_goes_to_a_terminal_on_stderr(tmp_path):
    code,said,out = in_terminal(*tiny, '--json', cwd=tmp_path)
    assert code==0 and 'round 2/2, 64.3 % kept' in said and 'Warning' not in said
    assert len(strictly(out)['findings'])==2*2*4

def test_files_are_there_and_can_be_read(done):
    _,out = done
    assert {o.name for o in out.iterdir()}==files
    df,summary = pd.read_csv(out/'results.csv'), strictly((out/'results.json').read_text(encoding='utf-8'))
    assert list(df)==['arm', 'seed', 'round', 'density', 'step', 'metric', 'value'] and not df.isna().any().any()
    assert dict(df[df.step==60].groupby('arm').size())==dict(dense=4, ticket=8, reinit=8, shuffle=8, random=8) # seeds, rounds, metrics
    assert df[df.metric=='accuracy'].value.between(0, 1).all() and set(df.seed)=={100,101}
    assert summary['settings']==dict(seeds=2, rounds=2, steps=60) and len(summary['summary'])==2*(1+4*2)
    assert summary['versions']['lottery_nb']==version('lottery_nb')
    assert (out/'demo.png').read_bytes().startswith(b'\x89PNG')

def test_ticket_is_as_sparse_as_the_results_and_can_be_trained_again(done, tmp_path):
    "`train` gives what the demo has measured, bit for bit"
    _,out = done
    ticket,df = Ticket.load(out/'ticket.safetensors'), pd.read_csv(out/'results.csv')
    assert ticket.masks.density==df.density.min() and ticket.meta['seed']==100 and ticket.meta['setup']['epochs']==3
    told = invoke('train', str(out/'ticket.safetensors'), '--json', '-q', '--out', 'again', folder=tmp_path)
    assert strictly(told.stdout)['epochs'][-1]['accuracy']==ticket.meta['epochs'][-1]['accuracy']
    assert not differing(Ticket.load(tmp_path/'again').trained, ticket.trained)

def test_same_settings_same_numbers(done, tmp_path):
    "Also with another number of threads; and `--json --quiet` prints the summary and nothing else"
    told,out = done
    again = run(*tiny, '--json', '--quiet', '--out', 'here', cwd=tmp_path, OMP_NUM_THREADS='2')
    assert again.returncode==0 and not again.stderr
    assert again.stdout.strip()==(out/'results.json').read_text(encoding='utf-8').strip()
    for name in ('results.csv', 'results.json'): assert (out/name).read_bytes()==(tmp_path/'here'/name).read_bytes()
    assert Ticket.load(out/'ticket.safetensors').masks==Ticket.load(tmp_path/'here/ticket.safetensors').masks

bad = {'--seeds': [('0', 'seeds=0'), ('-1', 'seeds=-1'), ('two', 'valid integer'), ('1.5', 'valid integer')],
       '--rounds': [('0', 'rounds=0')], '--steps': [('0', 'steps=0')], '--out': [(__file__, 'cannot be made a folder')], '--speed': [('9', 'No such option')]}

@pytest.mark.parametrize('option,value,says', [(o, *case) for o,cases in bad.items() for case in cases])
def test_bad_input(option, value, says, tmp_path):
    "Exit status 2 with a message on the error stream; nothing was run and no folder made"
    told = invoke('demo', option, value, folder=tmp_path)
    assert told.exit_code==2 and not told.stdout
    assert says in ' '.join(told.stderr.replace('│', ' ').split())
    assert not list(tmp_path.iterdir())

def invoke(*args, folder):
    "The command within this process, which saves the seconds that its imports take"
    from typer.testing import CliRunner
    from lottery_nb.cli import app
    before = os.getcwd()
    os.chdir(folder)
    try: return CliRunner().invoke(app, args, prog_name='lottery-nb', env=dict(COLUMNS='200', TERMINAL_WIDTH='200', NO_COLOR='1'))
    finally: os.chdir(before)

def test_bad_input_to_the_process(tmp_path):
    told = run('demo', '--seeds', '0', cwd=tmp_path)
    assert told.returncode==2 and not told.stdout and 'seeds=0: expected a whole number of at least 1' in told.stderr

def test_no_permission_to_write(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda *args, **kw: False)
    assert invoke('demo', folder=tmp_path).exit_code==2

def test_failed_run(tmp_path):
    "A result that cannot be written: exit status 1, and the reason"
    (tmp_path/'results.csv'/'in the way').mkdir(parents=True)
    told = run('demo', '--seeds', '1', '--rounds', '1', '--steps', '30', '--out', '.', cwd=tmp_path)
    assert told.returncode==1 and not told.stdout and told.stderr.startswith('lottery-nb demo: results.csv: ') and told.stderr.count('\n')==1
    assert [o.name for o in tmp_path.iterdir()]==['results.csv']

def test_one_seed_claims_nothing(tmp_path):
    told = invoke('demo', '--seeds', '1', '--rounds', '1', '--steps', '30', '--quiet', folder=tmp_path)
    assert told.exit_code==0 and '1 seed cannot tell' in told.stdout and 'beats' not in told.stdout and 'nan' not in told.stdout
    json.loads((tmp_path/'runs/demo/results.json').read_text(encoding='utf-8'))

def test_global_state_is_left_alone():
    import random, torch
    from lottery_nb.cli import DemoSettings, demo
    def state(): return torch.get_num_threads(), torch.get_rng_state().tolist(), random.getstate()
    before = state()
    demo(DemoSettings(seeds=1, rounds=1, steps=30), progress=False)
    assert state()==before

# --- every command

short = ['find', 'digits', '--rounds', '2', '--rate', '50', '--epochs', '2']

def invoke_in(folder, line): return invoke(*shlex.split(line), folder=folder)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder with what a tiny `find` leaves, and what its process said"
    folder = tmp_path_factory.mktemp('find')
    return run(*short, '--out', 'runs/digits', cwd=folder), folder

def png(path, seed, size=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size,size,3), dtype=np.uint8)).save(path)

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "A folder in which `photos` has two classes of tiny PNGs"
    folder = tmp_path_factory.mktemp('photos')
    for i,(part,name) in enumerate((p,c) for p in ('train','val') for c in ('cat','dog')):
        for j in range(4 if part=='train' else 2): png(folder/'photos'/part/name/f'{j}.png', 10*i+j)
    return folder

def test_the_command_is_light():
    "Help waits for no PyTorch, nor does a wrong option"
    code = ('import sys; from typer.testing import CliRunner; from lottery_nb.cli import app\n'
            'for args in (["--help"], ["find","--help"], ["demo","--seeds","0"], ["show","nowhere"], ["--version"]): CliRunner().invoke(app, args)\n'
            'print(*{"torch","fastai","pandas","numpy","matplotlib"} & set(sys.modules))')
    told = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (told.returncode, told.stdout.strip(), told.stderr)==(0, '', '')

def test_find_as_a_process(made):
    told,folder = made
    assert told.returncode==0, told.stderr
    for words in ('round    density', '100.00 %', '25.00 %', 'Matching: ', '3 rounds and the table in runs/digits'): assert words in told.stdout
    for sign in ('━', '\x1b', '\r'): assert sign not in told.stdout
    assert not told.stderr
    files = {o.name for o in (folder/'runs/digits').iterdir()} - {'ticket.safetensors'}
    assert files=={'find.json', 'settings.json', 'table.csv', *(f'round_0{r}.safetensors' for r in range(3))}

def test_find_is_find_ticket(made, tmp_path):
    "The same bits as the function with the same learner, from Python"
    from functools import partial
    from lottery_nb.cli import _data, _learner, _setup
    from lottery_nb.find import Search, find_ticket
    setup = _setup('digits', {})
    here = find_ticket(partial(_learner, _data(setup), 'digits_mlp', 3e-3), lambda learn: learn.fit(2), rounds=2, prune=50., progress=False)
    there = Search.load(made[1]/'runs/digits')
    for a,b in zip(here.tickets, there.tickets, strict=True):
        assert a.masks==b.masks and not differing(a.state, b.state) and not differing(a.trained, b.trained)

def test_find_json_is_the_table(made):
    "Asked again it trains nothing, says the same, and leaves the rounds as they are"
    _,folder = made
    before = {o.name: o.read_bytes() for o in (folder/'runs/digits').glob('round*')}
    told = invoke(*short, '--out', 'runs/digits', '--json', folder=folder)
    assert told.exit_code==0 and not told.stderr
    facts = strictly(told.stdout)
    assert [o['density'] for o in facts['rounds']]==[100, 50, 25] and facts['setup']['arch']=='digits_mlp' and facts['search']['prune']==50
    df = pd.read_csv(folder/'runs/digits/table.csv').query('epoch==2 and metric=="accuracy"')
    assert [o['accuracy'] for o in facts['rounds']]==pytest.approx(df.value.tolist())
    assert {o.name: o.read_bytes() for o in (folder/'runs/digits').glob('round*')}==before
    assert all((folder/'runs/digits'/o).exists() for o in facts['files'])
    match = [o for o in facts['rounds'][1:] if o['accuracy']>=facts['rounds'][0]['accuracy']]
    assert (facts['matching'] or {}).get('round')==(match[-1]['round'] if match else None)
    assert (folder/'runs/digits/ticket.safetensors').exists()==bool(match)

def strictly(text):
    "JSON without NaN and infinity"
    def no(o): raise AssertionError(f'{o} is no JSON')
    return json.loads(text, parse_constant=no)

def test_find_goes_on_and_refuses_other_settings(made, tmp_path):
    shutil.copytree(made[1]/'runs/digits', tmp_path/'d')
    told = invoke_in(tmp_path, 'find digits --rounds 3 --rate 50 --epochs 2 --out d')
    assert told.exit_code==0 and not told.stderr and '12.50 %' in told.stdout
    before = {o.name: o.read_bytes() for o in (tmp_path/'d').iterdir()}
    for other,says in [('--rate 40', '--rate 50.0 → 40.0'), ('--lr 0.01', '--lr 0.003 → 0.01'), ('--epochs 1', '--epochs 2 → 1'), ('--seed 3', '--seed 0 → 3'),
                       ('--rewind 1', '--rewind 0 → 1'), ('--bs 32', '--bs 64 → 32'), ('--method local', '--method global → local'),
                       ('--criterion random_scores', '--criterion large_final → random_scores')]:
        told = invoke_in(tmp_path, f'find digits --rounds 3 --rate 50 --epochs 2 --out d {other}')
        assert (told.exit_code, told.stdout)==(1, '') and says in told.stderr and told.stderr.count('\n')==1, other
    assert {o.name: o.read_bytes() for o in (tmp_path/'d').iterdir()}==before
    told = invoke_in(tmp_path, 'find digits --rounds 1 --rate 40 --epochs 1 --out d --force --quiet')
    assert told.exit_code==0 and not told.stderr and not (tmp_path/'d/round_02.safetensors').exists()

def test_rounds_that_are_asked_for_no_more(made, tmp_path):
    "Fewer rounds than there are: the table is of all, and so is the ticket to take away"
    shutil.copytree(made[1]/'runs/digits', tmp_path/'d')
    told = invoke_in(tmp_path, 'find digits --rounds 1 --rate 50 --epochs 2 --out d --json')
    facts = strictly(told.stdout)
    assert len(facts['rounds'])==3 and (facts['matching'] is not None)==(tmp_path/'d/ticket.safetensors').exists()

def test_ctrl_c_and_going_on(tmp_path):
    "Exit status 130, a line, the finished rounds; the same command ends with what an undisturbed one finds"
    line = ['find', 'digits', '--rounds', '40', '--rate', '10', '--epochs', '2', '--out', 'd']
    env = {**os.environ, 'COLUMNS': '100', 'NO_COLOR': '1'}
    process = subprocess.Popen([command, *line], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding='utf-8',
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) # a shell's background jobs ignore it
    try:
        until = time.monotonic()+300
        while not (tmp_path/'d/round_02.safetensors').exists() and process.poll() is None and time.monotonic()<until: time.sleep(.05)
        process.send_signal(signal.SIGINT)
        out,err = process.communicate(timeout=120)
    finally: process.kill()
    assert process.returncode==130 and not out and 'Traceback' not in err
    n = len(list((tmp_path/'d').glob('round_*.safetensors')))
    assert 3<=n<=40 and f'lottery-nb find: stopped; {n} finished rounds in d: the same command goes on from there' in err
    line[3] = str(n)
    assert invoke(*line, '--quiet', folder=tmp_path).exit_code==0
    assert invoke(*line[:-1], 'whole', '--quiet', folder=tmp_path).exit_code==0
    for r in range(n+1): assert Ticket.load(tmp_path/f'd/round_{r:02d}.safetensors').masks==Ticket.load(tmp_path/f'whole/round_{r:02d}.safetensors').masks

wrong = [('find digitz', 'DATA', 'digits, imagenette, or a folder'), ('find digits --arch resnet18', '--arch', 'expected digits_mlp'),
         ('find digits --arch resnet19', '--arch', 'resnet18'), ('find digits --size 64', '--size', '8 by 8'),
         ('find digits --rate 0', '--rate', 'more than 0'), ('find digits --rate 100', '--rate', 'less than 100'),
         ('find digits --rate nan', '--rate', 'nan'), ('find digits --rounds 0', '--rounds', 'at least 1'),
         ('find digits --rewind soon', '--rewind', "'100it'"), ('find digits --rewind -1', '--rewind', '-1'),
         ('find digits --epochs 0', '--epochs', 'at least 1'), ('find digits --lr 0', '--lr', 'more than 0'), ('find digits --lr nan', '--lr', 'nan'),
         ('find digits --lr inf', '--lr', 'inf'), ('find digits --bs 0', '--bs', 'at least 1'), ('find digits --bs 5000', '--bs', '1437'),
         ('find digits --seed -1', '--seed', 'at least 0'), ('find digits --granularity wheel', '--granularity', 'weight'),
         ('find digits --method globl', '--method', 'local, global'), ('find digits --criterion luck', '--criterion', 'large_final'),
         ('find digits --rounds x', '--rounds', 'valid integer'), ('find', 'DATA', 'Missing'), ('find digits --speed 9', '--speed', 'No such option'),
         ('find empty', 'DATA', 'train and no val'), ('find digits --out file', '--out', 'file'), ('show', 'TICKET', 'Missing'),
         ('show nowhere', 'TICKET', 'does not exist'), ('show empty', 'TICKET', 'directory'), ('check', 'TICKET', 'Missing'),
         ('compare t', 'B', 'Missing'), ('compare t nowhere', 'B', 'does not exist'),
         ('show t --png empty', '--png', 'directory'), ('train nowhere', 'TICKET', 'does not exist'),
         ('train t --arm lucky', '--arm', 'ticket, reinit, shuffle, random, signs, dense'), ('train t', '--data', 'does not say'),
         ('train t --data digits --epochs 0', '--epochs', 'at least 1'), ('train t --data digits --lr -1', '--lr', 'more than 0'),
         ('train t --data digits --seed -1', '--seed', 'at least 0'), ('train t --data moon', '--data', 'digits'),
         ('train t --data digits --out t', '--out', 'another file'), ('train t --data digits --seed 18446744073709551616', '--seed', 'less than 2**64'),
         ('lose', 'lose', 'No such command')]

@pytest.mark.parametrize('line,option,says', wrong, ids=[o[0] for o in wrong])
def test_wrong_use(line, option, says, tmp_path):
    "Exit status 2, the option and what it takes on the error stream, nothing on the output, nothing written"
    digits_ticket().save(tmp_path/'t')
    (tmp_path/'empty').mkdir(), (tmp_path/'file').touch()
    told = invoke_in(tmp_path, line)
    text = ' '.join(told.stderr.replace('│', ' ').split())
    assert told.exit_code==2 and not told.stdout and option in text and says in text, text
    assert {o.name for o in tmp_path.iterdir()}=={'t', 'empty', 'file'} and '━' not in text

def digits_ticket(sparsity=80, seed=0, **meta):
    "A random ticket of the network for the digits"
    import torch
    from lottery_nb.data import digits_mlp
    torch.manual_seed(0)
    ticket = random_ticket(digits_mlp(), sparsity, seed)
    return Ticket(ticket.masks, ticket.state, meta={**ticket.meta, **meta}, full=ticket.full)

def test_rewind_beyond_the_training(tmp_path):
    "Only found in the first round: still a wrong option, and the right one can be given then"
    told = invoke_in(tmp_path, 'find digits --rounds 1 --epochs 1 --rewind 5 --out d')
    assert told.exit_code==2 and '--rewind' in told.stderr and 'only 1 epoch' in ' '.join(told.stderr.split())
    assert invoke_in(tmp_path, 'find digits --rounds 1 --epochs 1 --rewind 3it --out d -q').exit_code==0

def test_find_in_photos(photos):
    "Another network, another size, other words; and trained again from another place"
    told = invoke_in(photos, 'find photos --arch squeezenet1_1 --size 32 --bs 2 --epochs 1 --rounds 1 --rate 30 --rewind 1it --method local --workers 0 '
                     '--out out --json -q')
    assert told.exit_code==0, told.stderr
    facts = strictly(told.stdout)
    assert facts['setup']==dict(data=str(photos/'photos'), arch='squeezenet1_1', size=32, bs=2, epochs=1, lr=1e-3, seed=0)
    assert [round(o['density'], 2) for o in facts['rounds']]==[100, 70]
    for arm in ('ticket', 'dense'):
        told = invoke_in(photos, f'train out/round_01.safetensors --arm {arm} --workers 0 -q --json')
        assert told.exit_code==0 and strictly(told.stdout)['arm']==arm, told.stderr
    for data in ('', '--data .'): assert invoke_in(photos/'photos', f'train ../out/round_01.safetensors {data} --workers 0 -q').exit_code==0

def test_photos_that_are_none(tmp_path):
    "A broken image ends the run with a line"
    for part in ('train','val'):
        for name in ('cat','dog'): png(tmp_path/'photos'/part/name/'0.png', 1)
    (tmp_path/'photos/train/cat/0.png').write_bytes(b'nothing')
    told = invoke_in(tmp_path, 'find photos --size 32 --bs 2 --rounds 1 --epochs 1 --workers 0 --arch squeezenet1_1')
    assert told.exit_code==1 and not told.stdout and 'Traceback' not in told.stderr and 'lottery-nb find: ' in told.stderr

def test_no_imagenette(tmp_path, monkeypatch):
    "Without a network: a line that says where to put it"
    import lottery_nb.data as data
    def offline(*args, **kwargs): raise OSError('no network')
    monkeypatch.setattr(data, 'untar_data', offline)
    told = invoke_in(tmp_path, 'find imagenette')
    assert told.exit_code==1 and not told.stdout and told.stderr.count('\n')==1 and 'imagenette2-160' in told.stderr

def test_show(made):
    _,folder = made
    told = invoke_in(folder, 'show runs/digits/round_02.safetensors --png some/layers.png')
    assert told.exit_code==0 and not told.stderr
    for words in ('75.00 % sparse, 12,550 of 50,200', '300×64', '1.weight', 'seed=0', 'rewind=0'): assert words in told.stdout
    assert (folder/'some/layers.png').read_bytes().startswith(b'\x89PNG')
    facts = strictly(invoke_in(folder, 'show runs/digits/round_02.safetensors --json').stdout)
    ticket = Ticket.load(folder/'runs/digits/round_02.safetensors')
    assert facts['kept']==ticket.masks.n_kept and facts['meta']==ticket.meta and [o['kept'] for o in facts['layers']]==ticket.report().kept.tolist()

def test_show_prints_no_signs_of_others(tmp_path):
    "Names and notes from a file cannot colour, move or ring; and NaN in a note is null"
    import torch
    from lottery_nb.masks import Masks
    name = 'fc\x1b[31m\x07[bold]:smile:'
    ticket = Ticket(Masks({name: torch.tensor([[True, False]])}), {name: torch.ones(1, 2)}, meta=dict(arm='\x1b[2J', seed=float('nan')))
    ticket.save(tmp_path/'t')
    told = invoke_in(tmp_path, 'show t')
    assert told.exit_code==0 and '\x1b' not in told.stdout and '\x07' not in told.stdout and '[bold]:smile:' in told.stdout
    assert strictly(invoke_in(tmp_path, 'show t --json').stdout)['meta']['seed'] is None
    assert invoke_in(tmp_path, 'compare t t').exit_code==0

def test_check(made, tmp_path):
    _,folder = made
    ticket = folder/'runs/digits/round_02.safetensors'
    data = ticket.read_bytes()
    damaged = dict(flipped=data[:-1]+bytes([data[-1]^1]), short=data[:-9], empty=b'', text=b'hello, I am not a ticket')
    for name,bad in damaged.items(): (tmp_path/name).write_bytes(bad)
    told = run('check', ticket, tmp_path/'flipped', ticket, cwd=tmp_path)
    assert told.returncode==1 and told.stdout.count('whole and unchanged; lottery_nb ticket 3, digest')==2
    assert told.stderr.splitlines()==[f'lottery-nb check: {tmp_path}/flipped: damaged, or not a whole file']
    for name in ('flipped', 'short', 'empty', 'text'):
        for line in ('check', 'show', 'train', f'compare {ticket}'):
            told = invoke_in(tmp_path, f'{line} {name}')
            assert told.exit_code==1 and not told.stdout and told.stderr.count('\n')==1
            assert told.stderr.startswith(f'lottery-nb {line.split()[0]}: {name}: ')
    told = invoke_in(tmp_path, f'check {ticket} short --json')
    whole,short = strictly(told.stdout)
    assert told.exit_code==1 and whole['intact'] and not short['intact'] and 'not a whole file' in short['error']
    assert whole['dense_bytes']==sum(t.nbytes for t in Ticket.load(ticket).state.values())==4*50610 and whole['bytes']==len(data)
    assert whole['digest'].encode() in data

def test_compare(made, tmp_path):
    _,folder = made
    a,b = (f'runs/digits/round_0{r}.safetensors' for r in (1, 2))
    told = invoke_in(folder, f'compare {a} {b}')
    assert told.exit_code==0 and not told.stderr
    for words in ('share 50.0 % of the weights', 'by chance', 'round: 1 → 2'): assert words in told.stdout
    facts,tickets = strictly(invoke_in(folder, f'compare {a} {b} --json').stdout),[Ticket.load(folder/o) for o in (a, b)]
    df = tickets[0].overlap(tickets[1])
    assert facts['all']['iou']==df.iou.iloc[-1]==.5 and [o['chance'] for o in facts['layers']]==df.chance.tolist()[:-1]
    assert facts['differing']['round']==[1, 2] and 'rounds' not in facts['differing']
    import torch
    random_ticket(torch.nn.Linear(3, 2), 50).save(tmp_path/'other')
    told = invoke_in(folder, f'compare {a} {tmp_path}/other')
    assert told.exit_code==1 and not told.stdout and 'expected a ticket of the same model' in told.stderr and told.stderr.count('\n')==1

def test_train_gives_the_round_again(made, tmp_path):
    "The ticket with the seed of its search comes out bit for bit; another seed does not"
    _,folder = made
    told = invoke_in(folder, f'train runs/digits/round_02.safetensors --out {tmp_path}/trained')
    assert told.exit_code==0 and 'epoch   train loss' in told.stdout and 'Saved: ' in told.stdout and not told.stderr
    before,after = Ticket.load(folder/'runs/digits/round_02.safetensors'),Ticket.load(tmp_path/'trained')
    assert after.masks==before.masks and not differing(after.state, before.state) and not differing(after.trained, before.trained)
    facts = strictly(invoke_in(folder, 'train runs/digits/round_02.safetensors --seed 1 --json -q').stdout)
    assert facts['epochs'][-1]['accuracy']!=before.meta['epochs'][-1]['accuracy'] and facts['setup']['seed']==1 and len(facts['epochs'])==2

def test_train_controls(made, tmp_path):
    "What each arm begins with is what the ticket's own function gives, also if the pruned weights are in another round's file"
    from lottery_nb.data import digits_mlp
    from lottery_nb.find import Search
    _,folder = made
    ticket = Search.load(folder/'runs/digits').tickets[2]
    expected = dict(reinit=ticket.reinit(digits_mlp(), 5), shuffle=ticket.shuffle(5), dense=ticket.dense())
    for arm,start in expected.items():
        told = invoke_in(folder, f'train runs/digits/round_02.safetensors --arm {arm} --seed 5 --epochs 1 -q --out {tmp_path}/{arm} --json')
        assert told.exit_code==0 and not told.stderr, told.stderr
        trained = Ticket.load(tmp_path/arm)
        assert trained.masks==start.masks and not differing(trained.state, start.state) and trained.trained and trained.meta['arm']==arm
        again = invoke_in(tmp_path, f'train {arm} -q --json --out again')
        assert strictly(again.stdout)['epochs']==strictly(told.stdout)['epochs'] and not differing(Ticket.load(tmp_path/'again').trained, trained.trained)

def test_train_without_pruned_weights(made, tmp_path):
    "A file on its own says what it lacks, before anything is trained; the arms that need nothing else work"
    shutil.copy(made[1]/'runs/digits/round_02.safetensors', tmp_path/'alone')
    for arm in ('shuffle','dense'):
        told = invoke_in(tmp_path, f'train alone --data digits --arm {arm}')
        assert told.exit_code==1 and not told.stdout and f'--arm {arm} needs the weights that were pruned' in told.stderr and told.stderr.count('\n')==1
    assert invoke_in(tmp_path, 'train alone --data digits --arm reinit --epochs 1 -q').exit_code==0
    digits_ticket(granularity='filter').save(tmp_path/'filters', full=True)
    told = invoke_in(tmp_path, 'train filters --data digits --arm shuffle')
    assert told.exit_code==1 and 'expected a ticket of single weights' in told.stderr

def test_take_away_stands_alone(tmp_path):
    "ticket.safetensors has all that every arm needs; demo's has it too"
    made = invoke_in(tmp_path, 'find digits --rounds 1 --rate 10 --epochs 3 --out d --json -q')
    if strictly(made.stdout)['matching'] is None: pytest.fail('choose settings that give a matching ticket')
    assert invoke_in(tmp_path, 'demo --seeds 1 --rounds 1 --steps 30 -q').exit_code==0
    for name,path in dict(find='d', demo='runs/demo').items():
        shutil.copy(tmp_path/path/'ticket.safetensors', tmp_path/name)
        for arm in ('ticket','reinit','shuffle','dense'): assert invoke_in(tmp_path, f'train {name} --arm {arm} --epochs 1 -q').exit_code==0

def test_notes_that_are_wrong(made, tmp_path):
    "A foreign `setup`, a damaged find.json: a line, not a traceback"
    wrong = [dict(bs='x'), dict(lr='fast'), dict(data=3), dict(data=['digits']), dict(arch=5), dict(seed=None, epochs=1.5)]
    for i,setup in enumerate(['digits', *(dict(data='digits') | o for o in wrong)]):
        digits_ticket(setup=setup).save(tmp_path/f't{i}')
        told = invoke_in(tmp_path, f'train t{i}')
        assert told.exit_code==2 and not told.stdout and told.stderr, setup
    shutil.copytree(made[1]/'runs/digits', tmp_path/'d')
    for text in ('{', '[]', '{"setup": 1}', ''):
        (tmp_path/'d/find.json').write_text(text)
        for line in ('find digits --rounds 2 --rate 50 --epochs 2 --out d', 'train d/round_01.safetensors'):
            told = invoke_in(tmp_path, line)
            assert told.exit_code==1 and 'find.json' in told.stderr and told.stderr.count('\n')==1
    (tmp_path/'d/find.json').unlink()
    (tmp_path/'d/round_01.safetensors').write_bytes(b'')
    told = invoke_in(tmp_path, 'find digits --rounds 2 --rate 50 --epochs 2 --out d')
    assert told.exit_code==1 and 'round_01.safetensors' in told.stderr

def test_cannot_write(made, tmp_path):
    (tmp_path/'in the way').write_text('')
    ticket = made[1]/'runs/digits/round_01.safetensors'
    for line in (f'show {ticket} --png "in the way/x.png"', f'train {ticket} --epochs 1 -q --out "in the way/x"',
                 'find digits --rounds 1 --epochs 1 -q --out "in the way/d"'):
        told = invoke_in(tmp_path, line)
        assert told.exit_code==1 and bool(told.stdout)==line.startswith('show') and 'in the way' in told.stderr and told.stderr.count('\n')==1, line

def examples():
    from lottery_nb.cli import app
    return {o.name: o.epilog.removeprefix('Example: `lottery-nb ').removesuffix('`') for o in app.registered_commands}

def test_examples_of_the_help_are_true(tmp_path):
    "In the order of the help, each with few epochs; every command has one, and its own help shows it"
    small = dict(demo='--rounds 1 --steps 30 --seeds 1 --quiet', find='--epochs 3 --rate 10 --quiet', train='--epochs 1 --quiet',
                 sweep='--engine here --quiet', profile='--threads 1 --seconds .1')
    (tmp_path/'rates.toml').write_text("file = 'rates.db'\nfunction = 'lottery_curve'\nseeds = 2\ngrid = {lr = [1e-3, 3e-3]}\n"
                                       "settings = {model = 'digits_mlp', data = 'digits', rounds = 1, steps = 20}\n")
    told = examples()
    assert list(told)==['demo', 'find', 'show', 'check', 'compare', 'train', 'sweep', 'profile']
    for name,line in told.items():
        assert line.startswith(f'{name} ') and f'lottery-nb {line}' in ' '.join(invoke_in(tmp_path, f'{name} --help').stdout.split())
        done = invoke_in(tmp_path, f'{line} {small.get(name, "")}')
        assert done.exit_code==0 and done.stdout and not done.stderr, (line, done.stderr)

@pytest.mark.parametrize('env,colours', [({}, True), (dict(NO_COLOR='1'), False)])
def test_a_terminal_gets_colours_unless_told_otherwise(env, colours, tmp_path):
    pty = pytest.importorskip('pty')
    master,slave = pty.openpty()
    env = {k: v for k,v in os.environ.items() if k!='NO_COLOR'} | dict(TERM='xterm-256color', COLUMNS='100') | env
    process = subprocess.Popen([command, 'find', '--help'], cwd=tmp_path, env=env, stdout=slave, stderr=slave, stdin=slave)
    os.close(slave)
    said = b''
    with suppress(OSError): # so it ends on Linux
        while piece:=os.read(master, 4096): said += piece
    assert process.wait(60)==0 and b'--rewind' in re.sub(rb'\x1b\[[0-9;]*m', b'', said)
    assert bool(re.search(rb'\x1b\[[0-9;]*3[0-7]', said))==colours
    os.close(master)

def test_the_experiment_is_still_here():
    import lottery_nb.cli as cli, lottery_nb.demo as demo
    for name in ('DemoSettings', 'Demo', 'demo', 'digits_mlp', 'first_seed'): assert getattr(cli, name) is getattr(demo, name)
    with pytest.raises(AttributeError): cli._one_thread

def profiled(folder, line):
    told = invoke_in(folder, f'profile {line} --threads 1 --seconds .05 --json')
    assert told.exit_code==0 and not told.stderr, told.stderr
    return strictly(told.stdout)

def test_profile(made, tmp_path):
    "Counts are those of the ticket; a table, a picture, and nothing on the error stream"
    ticket = Ticket.load(made[1]/'runs/digits/round_02.safetensors')
    told = invoke_in(made[1], f'profile runs/digits/round_02.safetensors --threads 1 --seconds .05 --png {tmp_path}/p.png')
    assert told.exit_code==0 and not told.stderr
    words = 'multiply-adds','time of a pass','ticket file','0.25×','quartiles of the ratio','64 × 1 × 8 × 8 on cpu, 1 CPU thread'
    for o in words: assert o in told.stdout
    with Image.open(tmp_path/'p.png') as image: assert min(image.size)>300 and len(image.getcolors(10**6))>10
    facts = profiled(made[1], 'runs/digits/round_02.safetensors --bs 16')
    dense,sparse,*_ = facts['networks'] # and perhaps a third: a hidden unit that no weight is left of is gone
    assert [dense['network'], sparse['network']]==['dense', 'ticket'] and facts['facts']['example']==[[16,1,8,8]] and facts['setup']['bs']==16
    assert dense['macs']==sparse['macs']==16*50_200 and sparse['macs_nonzero']==16*ticket.masks.n_kept and sparse['nonzero']==ticket.masks.n_kept+410

def test_profile_measures_the_dense_network_that_the_ticket_came_from(tmp_path):
    "If the file holds the pruned weights, the dense network has the ticket's weights: here, biases that are 0"
    import torch
    from lottery_nb.data import digits_mlp
    net = digits_mlp()
    for m in net:
        if isinstance(m, torch.nn.Linear): torch.nn.init.zeros_(m.bias)
    random_ticket(net, 90, 0).save(tmp_path/'t', full=True)
    assert profiled(tmp_path, 't --data digits')['networks'][0]['nonzero']==50_200

@pytest.mark.parametrize('granularity,cut', [('row',True), ('weight',False)])
def test_profile_cuts_what_can_be_cut(granularity, cut, tmp_path):
    "Rows of the hidden layers are units; where they are gone, the network without them is in the table"
    import torch
    from lottery_nb.data import digits_mlp
    from lottery_nb.measure import count_macs
    from lottery_nb.sparsifier import Sparsifier
    net = digits_mlp()
    for m in net: # without biases a pruned unit is 0
        if isinstance(m, torch.nn.Linear): torch.nn.init.zeros_(m.bias)
    state = {k: t.detach().clone() for k,t in net.state_dict().items()}
    masks = Sparsifier(net, granularity, 'local', layers=['1','3']).sparsify(50)
    Ticket(masks, state).save(tmp_path/'t')
    rows = profiled(tmp_path, 't --data digits --bs 8')['networks']
    assert [o['network'] for o in rows]==['dense','ticket','shrunk'][:2+cut]
    if cut: assert rows[2]['macs']==8*(64*150+150*50+50*10)<rows[1]['macs']==count_macs(net, torch.zeros(8,1,8,8)).total

def test_profile_of_photos(photos, tmp_path):
    "Convs, and how many pixels"
    from torchvision.models import squeezenet1_1
    random_ticket(squeezenet1_1(num_classes=2), 50, 0).save(tmp_path/'t')
    small,large = (profiled(photos, f'{tmp_path}/t --data photos --arch squeezenet1_1 --bs 2 --size {n}') for n in (32,64))
    assert [o['facts']['example'] for o in (small,large)]==[[[2,3,32,32]], [[2,3,64,64]]]
    assert large['networks'][0]['macs']>3*small['networks'][0]['macs']

wrong_profiles = [('t --threads 0', '--threads', 'at least 1'), ('t --threads 1000000', '--threads', 'cores'), ('t --seconds 0', '--seconds', 'greater than 0'),
                  ('t --seconds nan', '--seconds', 'greater than 0'), ('t --bs 0', '--bs', 'at least 1'), ('t --size 9', '--size', '8 by 8'),
                  ('t --arch resnet18', '--arch', 'digits_mlp'), ('t --data moon', '--data: ', 'moon'), ('t --png .', '--png', 'directory'),
                  ('bare', '--data', 'does not say'), ('nowhere', 'TICKET', 'does not exist'), ('t --epochs 3', '--epochs', 'No such option')]

@pytest.mark.parametrize('line,option,says', wrong_profiles, ids=[o[0] for o in wrong_profiles])
def test_wrong_use_of_profile(line, option, says, tmp_path):
    digits_ticket(setup=dict(data='digits')).save(tmp_path/'t'), digits_ticket().save(tmp_path/'bare')
    told = invoke_in(tmp_path, f'profile {line}')
    text = ' '.join(told.stderr.replace('│', ' ').split())
    assert told.exit_code==2 and not told.stdout and option in text and says in text, text
    assert {o.name for o in tmp_path.iterdir()}=={'t', 'bare'}

def test_profile_that_fails(tmp_path):
    "A damaged file, a ticket of another network, a picture that cannot be written: status 1 and a line"
    import torch
    digits_ticket().save(tmp_path/'t'), (tmp_path/'in the way').write_text('')
    random_ticket(torch.nn.Linear(3, 2), 50).save(tmp_path/'other')
    (tmp_path/'damaged').write_bytes((tmp_path/'t').read_bytes()[:-1])
    for line,says in (('damaged', 'damaged'), ('other', "the ticket's architecture"), ('t --png "in the way/p.png"', 'in the way')):
        told = invoke_in(tmp_path, f'profile {line} --data digits --seconds .05')
        assert told.exit_code==1 and not told.stdout and says in told.stderr and told.stderr.count('\n')==1, told.stderr
