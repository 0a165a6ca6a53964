"What people do to the command line without meaning it: files in the way, data that change, disks that are full, narrow terminals"
import json, os, re, shutil, signal, stat, subprocess, sys, time
from pathlib import Path
import pytest, torch
from test_cli import command, digits_ticket, invoke, invoke_in, made, png, strictly # noqa: F401
from lottery_nb.ticket import Ticket
from lottery_nb.arms import random_ticket

def said(told): return ' '.join(told.stderr.replace('│', ' ').split())
def contents(folder): return {str(o.relative_to(folder)): o.read_bytes() for o in Path(folder).rglob('*') if o.is_file()}

@pytest.fixture
def here(made, tmp_path): # noqa: F811
    "A folder of one's own with a search in `d` and a ticket with all its weights, `t`"
    shutil.copytree(made[1]/'runs/digits', tmp_path/'d')
    digits_ticket().save(tmp_path/'t', full=True)
    return tmp_path

def no_writing(monkeypatch, *names):
    "Writing files of these names fails as in a folder without permission, for root too"
    import lottery_nb.core as core
    import lottery_nb.ticket as kit
    write = kit.write_atomically
    def refuse(path, data):
        if Path(path).name in names: raise PermissionError(13, 'Permission denied', str(path))
        write(path, data)
    for o in (core, kit): monkeypatch.setattr(o, 'write_atomically', refuse)

# --- files in the way

@pytest.mark.parametrize('line', ['show t --png t', 'show t --png notes.png', 'show t --png empty.png', 'show t --png new.pdf', 'show t --png new',
    'train d/round_02.safetensors --out d/round_01.safetensors', 'train d/round_02.safetensors --out d/round_07.safetensors',
    'train d/round_02.safetensors --out d/find.json', 'train t --data digits --out d/ticket.safetensors', 'train t --data digits --out d/settings.json',
    'train t --data digits --out link', 'train t --data digits --out notes.png', 'train t --data digits --out state.safetensors'])
def test_what_is_there_stays(line, here):
    "Status 2 before anything is trained or drawn, and every file is what it was"
    (here/'notes.png').write_text('my notes'), (here/'empty.png').touch(), (here/'link').symlink_to('d/table.csv')
    from safetensors.torch import save_file
    save_file(dict(w=torch.ones(2)), here/'state.safetensors')
    before = contents(here)
    told = invoke_in(here, line)
    assert told.exit_code==2 and not told.stdout and ('--png' if 'png' in line.split('--')[1] else '--out') in said(told)
    assert contents(here)==before

def test_pictures_and_tickets_are_replaced(here):
    for size in ('d/round_01.safetensors', 't'): assert invoke_in(here, f'show {size} --png layers.png').exit_code==0
    (here/'link').symlink_to('trained')
    for arm in ('ticket', 'dense'):
        assert invoke_in(here, f'train t --data digits --epochs 1 -q --arm {arm} --out link').exit_code==0
        assert (here/'link').is_symlink() and Ticket.load(here/'trained').meta['arm']==dict(ticket='random', dense='random+dense')[arm]

def test_devices_stay_devices(here):
    "One of our own, in a folder that is thrown away: never one of the machine's"
    device = here/'null.png'
    try: os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except OSError: pytest.skip('devices cannot be made here')
    for line in ('train t --data digits --epochs 1 -q --out null.png', 'show t --png null.png'):
        assert invoke_in(here, line).exit_code==2 and stat.S_ISCHR(device.stat().st_mode)

# --- what cannot be written

def test_a_place_that_cannot_be_written_to_is_told_first(here, monkeypatch):
    import lottery_nb.cli as cli
    def never(*args, **kwargs): raise AssertionError('trained')
    monkeypatch.setattr(cli, '_train_arm', never)
    (here/'in the way').touch()
    for out in ('in the way/x', 'in the way/far/x'):
        told = invoke_in(here, f'train t --data digits --out "{out}"')
        assert told.exit_code==1 and not told.stdout and said(told)==f'lottery-nb train: {out}: Not a directory'

def test_a_result_that_cannot_be_saved_is_shown(here, monkeypatch):
    "The table comes all the same, and the line names the file that was asked for"
    no_writing(monkeypatch, 'x', 'x.png', 'ticket.safetensors')
    told = invoke_in(here, 'train t --data digits --epochs 1 -q --out x')
    assert told.exit_code==1 and 'accuracy' in told.stdout and 'Saved' not in told.stdout and said(told)=='lottery-nb train: x: Permission denied'
    told = invoke_in(here, 'train t --data digits --epochs 1 -q --out x --json')
    assert told.exit_code==1 and strictly(told.stdout)['file'] is None and len(strictly(told.stdout)['epochs'])==1
    told = invoke_in(here, 'show t --png x.png')
    assert told.exit_code==1 and '1.weight' in told.stdout and said(told)=='lottery-nb show: x.png: Permission denied'
    told = invoke_in(here, 'find digits --rounds 1 --rate 1 --epochs 3 --out new -q')
    if 'Matching: none' in told.stdout: pytest.fail('choose settings that give a matching ticket')
    assert told.exit_code==1 and '100.00 %' in told.stdout and 'ticket.safetensors: Permission denied' in said(told)

def test_a_finished_search_that_cannot_be_written_to_is_shown(tmp_path, monkeypatch):
    line = 'find digits --rounds 1 --rate 10 --epochs 3 --out d'
    first = invoke_in(tmp_path, line)
    before = contents(tmp_path)
    no_writing(monkeypatch, *(Path(o).name for o in before))
    told = invoke_in(tmp_path, line)
    assert (told.exit_code, told.stderr, told.stdout)==(0, '', first.stdout) and contents(tmp_path)==before

@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no /dev/full')
@pytest.mark.parametrize('line', ['show t', 'show t --json', '--help'])
def test_full_output(line, here):
    with open('/dev/full', 'w') as full:
        told = subprocess.run([command, *line.split()], cwd=here, stdout=full, stderr=subprocess.PIPE, text=True)
    assert told.returncode==1 and told.stderr.count('\n')==1 and 'No space left' in told.stderr, told.stderr

@pytest.mark.parametrize('line', ['show t --json', 'show t'])
def test_an_output_that_nobody_reads(line, here):
    reading,writing = os.pipe()
    os.close(reading)
    told = subprocess.run([command, *line.split()], cwd=here, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (told.returncode, told.stderr)==(0, '')

# --- searches and their data

def test_photos_that_have_become_more(tmp_path):
    "Accuracies on other photos cannot be compared; the same folder by another name is the same"
    for part,n in dict(train=4, val=2).items():
        for name in ('cat','dog'):
            for i in range(n): png(tmp_path/'photos'/part/name/f'{i}.png', i)
    line = 'find {} --arch squeezenet1_1 --size 32 --bs 2 --epochs 1 --rounds {} --workers 0 --out d -q'
    told = invoke_in(tmp_path, line.format('photos', 1) + ' --json')
    assert told.exit_code==0 and strictly(told.stdout)['setup']['data']==str(tmp_path/'photos')
    for name in ('photos/', './photos', str(tmp_path/'photos')): assert invoke_in(tmp_path, line.format(name, 1)).exit_code==0
    png(tmp_path/'photos/train/cat/9.png', 9), png(tmp_path/'photos/val/dog/9.png', 9)
    before = contents(tmp_path/'d')
    for rounds in (1, 2):
        told = invoke_in(tmp_path, line.format('photos', rounds))
        assert told.exit_code==1 and not told.stdout and 'n_train 8 → 9, n_valid 4 → 5' in said(told) and '--force' in said(told) and '=True' not in said(told)
    assert contents(tmp_path/'d')==before

def test_one_class(tmp_path):
    for part in ('train','val'): png(tmp_path/'photos'/part/'cat'/'0.png', 1)
    told = invoke_in(tmp_path, 'find photos --size 32 --bs 1')
    assert told.exit_code==2 and 'DATA' in said(told) and 'at least two classes' in said(told)

def test_fewer_rounds_lose_nothing(tmp_path):
    "All that is in the folder is shown, and the ticket to take away stays"
    line = 'find digits --rate 5 --epochs 3 --out d -q --rounds'
    assert invoke_in(tmp_path, f'{line} 3').exit_code==0
    before = contents(tmp_path)
    told = invoke_in(tmp_path, f'{line} 1 --json')
    assert told.exit_code==0 and 'd holds 3 rounds, more than the 1 asked for' in said(told) and len(strictly(told.stdout)['rounds'])==4
    assert contents(tmp_path)==before
    assert 'ticket.safetensors' in os.listdir(tmp_path/'d'), 'choose settings that give a matching ticket'

def test_a_search_of_another_maker(tmp_path):
    "A line, in the words of a shell"
    from fastai.learner import Learner
    from lottery_nb.data import digits_dls, digits_mlp
    from lottery_nb.find import find_ticket
    find_ticket(lambda: Learner(digits_dls().cpu(), digits_mlp()), lambda learn: learn.fit(1), 1, dir=tmp_path/'d', progress=False)
    told = invoke_in(tmp_path, 'find digits --out d')
    assert told.exit_code==1 and len(said(told))<250 and 'not made (other learner, fit' in said(told) and '--force' in said(told) and 'True' not in said(told)

@pytest.mark.parametrize('rewind,says', [('8', 'only 8 epochs, so expected at most 7'), ('176it', 'only 176 steps, so expected at most 175')])
def test_rewind_leaves_nothing_behind(rewind, says, tmp_path):
    told = invoke_in(tmp_path, f'find digits --rewind {rewind} --out d')
    assert told.exit_code==2 and '--rewind' in said(told) and says in said(told) and not os.listdir(tmp_path)

# --- words

@pytest.mark.parametrize('line,says,never', [
    ('find digits --size 32', '32: the digits are 8 by 8', 'None'), ('find digits --criterion luck', 'large_final', 'Criterion '),
    ('find digits --granularity kernel', 'Linear has', 'layers='), ('train t --data digits --workers -3', '-3: expected a whole number', 'Traceback'),
    ('train d/round_01.safetensors --data empty', 'found on digits', '--arch'),
    ('train gone', '--data (from gone)', 'DATA'), ('train gone', "'/nowhere': expected digits", 'DATA'), ('train odd', '--bs (from odd)', 'Traceback')])
def test_words_of_a_shell(line, says, never, here):
    "An error says which option is meant, and where its value came from if nobody typed it"
    (here/'empty').mkdir()
    digits_ticket(setup=dict(data='/nowhere', arch='vgg11')).save(here/'gone')
    digits_ticket(setup=dict(data='digits', bs=5000)).save(here/'odd')
    told = invoke_in(here, line)
    assert told.exit_code==2 and not told.stdout and says in said(told) and never not in said(told), said(told)

def test_warnings_speak_no_python(tmp_path):
    told = invoke_in(tmp_path, 'find digits --rounds 1 --rate 99.99 --epochs 1 -q --out d')
    assert told.exit_code==0 and 'layer collapse' in told.stderr and 'allow_collapse' not in told.stderr

@pytest.mark.parametrize('line', ['find digits --lr 1e30 --epochs 2 --rounds 1 --out new', 'train t --data digits --lr 1e30 --epochs 2'])
def test_a_learning_rate_that_is_too_high(line, here):
    "The option is named, and nothing stays that would fail the next time"
    told = invoke_in(here, line + ' -q')
    assert told.exit_code==2 and not told.stdout and '--lr: 1e+30: expected a lower one' in said(told)
    assert not list(here.glob('new/round*')) and invoke_in(here, line.replace('1e30', '1e-3') + ' -q').exit_code==0

def test_check_tells_all(here):
    "A file that is not there, and a folder, are told like a damaged one; the others are checked"
    told = invoke_in(here, 'check t lost d d/round_01.safetensors --json')
    assert told.exit_code==1 and [o['intact'] for o in strictly(told.stdout)]==[True, False, False, True]
    assert told.stderr.splitlines()==['lottery-nb check: lost: No such file or directory', 'lottery-nb check: d: Is a directory']

def test_show_says_how_it_was_found(here):
    told = invoke_in(here, 'show d/round_02.safetensors')
    note = Ticket.load(here/'d/round_02.safetensors').meta
    for words in ('digits, digits_mlp, epochs: 2, learning rate 0.003, batches of 64', f"accuracy {note['epochs'][-1]['accuracy']:.4f}",
                  f"of the dense network {note['rounds'][0]['accuracy']:.4f}", 'Holds: masks, weights, trained weights.'): assert words in told.stdout
    told = invoke_in(here, 'show t')
    assert 'the file does not say on what' in told.stdout and 'Holds: masks, weights, pruned weights.' in told.stdout
    for i,note in enumerate((dict(epochs=3, rounds='x', setup=[1]), dict(epochs=[{}], rounds=[None], setup=dict(data='\x1b[2J')))):
        digits_ticket(**note).save(here/f'odd{i}')
        told = invoke_in(here, f'show odd{i}')
        assert told.exit_code==0 and '\x1b' not in told.stdout

def test_compare_of_a_round_and_its_copy(here):
    "That a file of its own says in what it was trained is no difference; another training is"
    ticket = Ticket.load(here/'d/round_02.safetensors')
    setup = json.loads((here/'d/find.json').read_text())['setup']
    for name,o in dict(same=setup, other={**setup, 'lr': .5}).items(): Ticket(ticket.masks, ticket.state, meta={**ticket.meta, 'setup': o}).save(here/name)
    shutil.copy(here/'d/round_02.safetensors', here/'alone')
    def differing(a, b): return strictly(invoke_in(here, f'compare {a} {b} --json').stdout)['differing']
    assert differing('d/round_02.safetensors', 'same')=={}==differing('alone', 'same')
    assert differing('d/round_02.safetensors', 'other')=={'setup.lr': [.003, .5]} and 'setup.lr: 0.003 → 0.5' in invoke_in(here, 'compare same other').stdout

def test_arms(here):
    "What a control begins with; trained again it is still called what it is"
    ticket = Ticket.load(here/'t')
    expected = dict(random=ticket.random(3), constant=ticket.constant())
    for arm,start in expected.items():
        told = invoke_in(here, f'train t --data digits --arm {arm} --seed 3 --epochs 1 -q --out {arm}')
        trained = Ticket.load(here/arm)
        assert told.exit_code==0 and f'random+{arm}, 80.00 % sparse' in told.stdout and trained.masks==start.masks and trained.meta['arm']==f'random+{arm}'
        assert all(torch.equal(t, start.state[k]) for k,t in trained.state.items())
        assert f'random+{arm}, 80.00 % sparse' in invoke_in(here, f'train {arm} -q').stdout
    told = invoke_in(here, 'train d/round_02.safetensors --arm reinit --out re -q --json')
    assert strictly(told.stdout)['arm']=='reinit'==strictly(invoke_in(here, 'train re -q --json').stdout)['arm']
    assert "arm='reinit', seed=0, round=2" in invoke_in(here, 'show re').stdout

# --- Ctrl-C

telling = ( # the program, which writes a file after three epochs
    'import sys; from pathlib import Path; import lottery_nb.cli as cli\n'
    'follower = cli._follower\n'
    'def told(tell):\n'
    '    def more(done, last):\n'
    '        tell(done, last)\n'
    '        if done==3: Path("told").touch()\n'
    '    return follower(more)\n'
    'cli._follower = told\n'
    'cli.app()')

@pytest.mark.parametrize('as_json', [False, True])
def test_ctrl_c_keeps_the_epochs(as_json, here):
    "Exit status 130, and the epochs so far on the output"
    line = ['train', 't', '--data', 'digits', '--epochs', '100000', '-q', *['--json']*as_json]
    process = subprocess.Popen([sys.executable, '-c', telling, *line], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding='utf-8',
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) # a shell's background jobs ignore it
    try:
        until = time.monotonic()+300
        while not (here/'told').exists() and process.poll() is None and time.monotonic()<until: time.sleep(.05)
        process.send_signal(signal.SIGINT)
        out,err = process.communicate(timeout=120)
    finally: process.kill()
    n = int(re.fullmatch(r'lottery-nb train: stopped after (\d+) whole epochs\n', err)[1])
    assert process.returncode==130 and n>=3
    if as_json: assert len(strictly(out)['epochs'])==n
    else: assert out.count('\n')>=n+2 and 'accuracy' in out

# --- terminals

def in_terminal(folder, width, *args):
    "What a terminal of this width gets to see, as lines"
    import fcntl, pty, struct, termios
    master,slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 50, width, 0, 0))
    env = {k: v for k,v in os.environ.items() if k not in ('COLUMNS','LINES')} | dict(TERM='xterm', NO_COLOR='1')
    process = subprocess.Popen([command, *args], cwd=folder, env=env, stdout=slave, stderr=slave, stdin=slave)
    os.close(slave)
    data = b''
    try:
        while piece:=os.read(master, 4096): data += piece
    except OSError: pass # so it ends on Linux
    os.close(master)
    assert process.wait(60)==0, data
    return re.split(r'[\r\n]+', re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', data.decode()))

@pytest.fixture(scope='module')
def resnet(tmp_path_factory):
    from torchvision.models import resnet18
    folder = tmp_path_factory.mktemp('resnet')
    for seed in (0, 1): random_ticket(resnet18(), 50, seed).save(folder/f'{seed}')
    return folder

@pytest.mark.skipif(os.name!='posix', reason='needs a terminal')
@pytest.mark.parametrize('line,width', [('show 0', 40), ('show 0', 80), ('compare 0 1', 60)])
def test_a_narrow_terminal(line, width, resnet):
    "Every layer has one line, which fits, with whole numbers; a pipe has room for all"
    lines = in_terminal(resnet, width, *line.split())
    layers = list(Ticket.load(resnet/'0').masks)
    table = [o for o in lines if re.search(r'(^|\s)(layer\d|conv1|fc|lay\S*…\S*ght)\S*\s', o) and re.search(r'\d', o)]
    assert len(table)==len(layers) and all(len(o)<=width for o in lines), lines
    assert all(re.search(r'(\d+\.\d\d %|0\.\d{4})\s*█*\s*$', o) for o in table), table
    assert len({o.split()[0] for o in table})>=(len(layers) if width>=80 else 5)
    full = invoke_in(resnet, line)
    assert all(any(k in o for o in full.stdout.splitlines()) for k in layers) and '…' not in full.stdout

@pytest.mark.skipif(os.name!='posix', reason='needs a terminal')
def test_the_bar_at_80_columns(tmp_path):
    "Its times are whole; and without a terminal there is no bar"
    lines = in_terminal(tmp_path, 80, 'find', 'digits', '--rounds', '10', '--epochs', '1', '--out', 'd')
    bars = [o.rstrip() for o in lines if 'left:' in o and 'accuracy' in o]
    assert bars and all(len(o)<=80 and re.search(r'epochs, \d+\.\d % sparse, accuracy 0\.\d{3} \d:\d\d:\d\d left: [-\d]:..:..$', o) for o in bars), bars[-1]
    assert 'Saved: ' in ' '.join(lines) and '11 rounds and the table in d' in ' '.join(lines)
    told = invoke_in(tmp_path, 'train d/round_01.safetensors --json')
    assert (told.exit_code, told.stderr)==(0, '')
