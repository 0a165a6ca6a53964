"The command `lottery-nb`: what it says, where it says it, its exit status, and the files it leaves"
import json, os, re, resource, shlex, shutil, signal, subprocess, sys, sysconfig, time
from importlib.metadata import version
from pathlib import Path
import pandas as pd, pytest, torch, torchvision
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner
from models import as_idx, differing, make_photos, some_images
from lottery_nb.arms import arms, random_ticket
from lottery_nb.cli import app, goes_on, known_names, print_table, recipe, train_arm
from lottery_nb.core import table_columns
from lottery_nb.criteria import criteria
from lottery_nb.data import digits_mlp, learner_by_name, networks
from lottery_nb.experiment import Experiment
from lottery_nb.find import Search, find_ticket
from lottery_nb.granularity import all_granularities
from lottery_nb.masks import Masks
from lottery_nb.measure import count_macs
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket

command = Path(sysconfig.get_path('scripts'))/'lottery-nb'
short = 'find digits --rounds 2 --prune 50 --epochs 2'
tiny = 'demo --seeds 2 --rounds 2 --steps 60'

def process(folder, line, **env):
    "The finished process, its output caught, as in a pipe"
    env = {**os.environ, 'COLUMNS': '100', 'NO_COLOR': '1', **env}
    return subprocess.run([command, *shlex.split(line)], cwd=folder, env=env, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)

def invoke(folder, line):
    "The command within this process, which saves the seconds that its imports take"
    before = os.getcwd()
    os.chdir(folder)
    env = dict(COLUMNS='200', TERMINAL_WIDTH='200', NO_COLOR='1')
    try: return CliRunner().invoke(app, shlex.split(line), prog_name='lottery-nb', env=env)
    finally: os.chdir(before)

def ok(folder, line):
    "What it prints, if all goes well and silently"
    told = invoke(folder, line)
    assert (told.exit_code, told.stderr)==(0, ''), (line, told.stderr, told.exception)
    return told.stdout

def as_json(folder, line): return strictly(ok(folder, f'{line} --json'))

def strictly(text):
    "JSON without NaN and infinity"
    def no(o): raise AssertionError(f'{o} is no JSON')
    return json.loads(text, parse_constant=no)

def said(told): return ' '.join(told.stderr.replace('│', ' ').split())
def contents(folder):
    return {str(o.relative_to(folder)): o.read_bytes() for o in Path(folder).rglob('*') if o.is_file()}

def fails(folder, line, says, status=1):
    "A line on the error stream, nothing on the output, no file changed"
    before,told = contents(folder),invoke(folder, line)
    assert (told.exit_code, told.stdout)==(status, ''), (line, told.stdout, told.stderr)
    assert says in said(told) and 'Traceback' not in told.stderr, told.stderr
    assert status==2 or told.stderr.count('\n')==1, told.stderr
    assert contents(folder)==before

def digits_ticket(sparsity=80, **meta):
    "A random ticket of the network for the digits"
    torch.manual_seed(0)
    t = random_ticket(digits_mlp(), sparsity, 0)
    return Ticket(t.masks, t.state, meta={**t.meta, **meta}, full=t.full)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder with what a short `find` leaves, and what its process said"
    folder = tmp_path_factory.mktemp('find')
    return process(folder, f'{short} --out runs/digits'), folder

@pytest.fixture
def here(made, tmp_path):
    "A folder of one's own: a search in `d`, a ticket with all its weights, `t`, that doesn't know its data"
    shutil.copytree(made[1]/'runs/digits', tmp_path/'d')
    digits_ticket().save(tmp_path/'t', full=True)
    return tmp_path

# --- the program

def test_help_and_version(tmp_path):
    told = process(tmp_path, '--version')
    assert (told.returncode, told.stdout, told.stderr)==(0, f"lottery-nb {version('lottery_nb')}\n", '')
    listed = ok(tmp_path, '--help')
    for name in ('demo', 'find', 'show', 'check', 'compare', 'train', 'sweep', 'profile'): assert name in listed

def test_examples_of_the_help_are_true(tmp_path):
    "Each with few epochs, in the order in which one follows from another"
    small = dict(demo='--rounds 1 --steps 30 --seeds 1 --quiet', find='--epochs 3 --prune 10 --quiet',
                 train='--epochs 1 --quiet',
                 sweep='--quiet --jobs 1', profile='--threads 1 --seconds .1')
    (tmp_path/'rates.toml').write_text("file = 'rates.db'\nfunction = 'lottery_curve'\nseeds = 2\n"
                                       "grid = {lr = [1e-3, 3e-3]}\n"
                                       "settings = {model = 'digits_mlp', data = 'digits', rounds = 1, n_step = 20}\n")
    commands = {o.callback.__name__: o.epilog for o in app.registered_commands}
    told = {k: re.fullmatch('Example: `lottery-nb (.*)`', o)[1] for k,o in commands.items()}
    assert sorted(told)==['check', 'compare', 'demo', 'find', 'profile', 'show', 'sweep', 'train']
    for name,line in told.items():
        assert line.startswith(f'{name} ') and f'lottery-nb {line}' in ' '.join(ok(tmp_path, f'{name} --help').split())
        assert ok(tmp_path, f'{line} {small.get(name, "")}'), line

wrong = '''
find digitz | DATA | digits, imagenette, mnist, fashion, cifar10, or
find digits --arch resnet19 | --arch | resnet18
find digits --size 64 | --size | stay as they are
find digits --prune 0 | --prune | 100 percent
find digits --rounds 0 | --rounds | at least 1
find digits --rewind 176it | --rewind | only 176 steps
find digits --lr inf | --lr | greater than 0
find digits --bs 5000 | --bs | 1437
find digits --seed -1 | --seed | at least 0
find digits --granularity filtre | --granularity | filter
find digits --granularity filter | --granularity | one that a layer of this model has: weight, row, column
find digits --method globl | --method | local, global
find digits --criteria large_finl | --criteria | large_final
find empty | DATA | no train and no val
find one --size 32 --bs 1 | DATA | at least two classes
find digits --out file | --out | file
find digits --lr 1e30 --epochs 2 -q | --lr | 1e+30: expected a lower one
train t --data digits --lr 1e30 -q | --lr | 1e+30: expected a lower one
show nowhere | TICKET | does not exist
show t --png t | --png | ends in .png
train t --arm reinitt | --arm | expected a name such as reinit
train t | --data | for '--data': expected digits, imagenette, mnist, fashion, cifar10 or a folder
profile t --data digitz | --data | digits, imagenette, mnist, fashion, cifar10, or
train t --data digits --epochs 0 | --epochs | at least 1
train t --data digits --out file | --out | --force
train filters --data digits --arm shuffle |  | granularity='filter': expected one that Linear has
compare t small |  | the same model
profile t --data digits --seconds nan | --seconds | greater than 0
profile t --data digits --arch resnet18 | --arch | digits_mlp
profile t --png p | --png | ends in .png
demo --rounds 0 | --rounds | 1
demo --out file | --out | file
sweep none.toml | FILE | does not exist
sweep rates.toml |  | rates.toml: file=None: expected the path
sweep broken.toml | FILE | broken.toml: expected a TOML file: Invalid value
sweep picture.toml | FILE | picture.toml: expected a TOML file
sweep data.toml | data | 'digit': expected one of digits, imagenette, mnist, fashion, cifar10, or a folder
sweep rates.toml --jobs 0 | --jobs | 1
sweep words.toml | criteria | large_final
'''

@pytest.fixture(scope='module')
def things(tmp_path_factory):
    folder = tmp_path_factory.mktemp('things')
    t = digits_ticket()
    t.save(folder/'t', full=True)
    digits_ticket(granularity='filter').save(folder/'filters', full=True)
    random_ticket(torch.nn.Linear(3, 2), 50).save(folder/'small')
    (folder/'empty').mkdir(), (folder/'file').touch(), (folder/'rates.toml').write_text("function = 'lottery_curve'")
    (folder/'words.toml').write_text("function = 'lottery_curve'\ngrid = {criteria = ['movement','large_finl']}")
    (folder/'broken.toml').write_text("file = "), (folder/'picture.toml').write_bytes(b'\x89PNG')
    (folder/'data.toml').write_text("function = 'lottery_curve'\nsettings = {data = 'digit'}")
    make_photos(folder/'one', cat=(1,1))
    return folder

@pytest.mark.parametrize('line,option,says', [o.split(' | ') for o in wrong.strip().split('\n')])
def test_wrong_use(line, option, says, things):
    "Exit status 2; the option and what it takes on the error stream; nothing on the output; no round"
    def there(): return {k: v for k,v in contents(things).items() if not k.startswith('runs')}
    before,told = there(),invoke(things, line)
    assert told.exit_code==2 and not told.stdout and option in said(told) and says in said(told)
    assert '━' not in told.stderr, said(told)
    assert there()==before and not list(things.glob('runs/*/round*'))

words = ('find digitz', 'find digits --arch resnet19', 'find digits --criteria nope', 'find digits --criterion x',
         'find digits --granularity filtre', 'find digits --method lokal', 'find digits --rewind soon',
         'train t --arm reinitt', 'train t --data digitz', 'profile t --arch resnet', 'sweep words.toml', '--version')
files = ('show t', 'show t --json', 'check t small', 'check t --json', 'compare t filters', 'compare t filters --json')

@pytest.mark.parametrize('lines,most', [(words, .5), (files, 2)], ids=['words','files'])
def test_what_needs_no_training_library_imports_none(lines, most, things):
    "Nothing of PyTorch or fastai is there after any of them; the CPU's seconds, since the machine may be busy"
    code = ('import shlex, sys; from typer.testing import CliRunner; from lottery_nb.cli import app\n'
            'for o in sys.argv[1:]:\n    r = CliRunner().invoke(app, shlex.split(o))\n'
            '    print(o, r.exit_code, *sorted({"torch","fastai","torchvision","matplotlib"} & set(sys.modules)))')
    told = subprocess.run([sys.executable, '-c', code, *lines], cwd=things, capture_output=True, text=True)
    status = {o: 0 if o in files or o=='--version' else 2 for o in lines}
    assert told.stdout.splitlines()==[f'{o} {status[o]}' for o in lines], told.stderr
    def seconds(line):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process(things, line)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime+after.ru_stime - before.ru_utime-before.ru_stime
    slow = {o: round(s, 2) for o in lines if (s := min(seconds(o) for _ in range(2)))>most}
    assert not slow

def test_the_names_that_are_told_are_those_that_there_are():
    assert known_names('criteria')==list(criteria) and known_names('arm')==list(arms)
    assert set(known_names('granularity'))=={*all_granularities(), 'group'}
    import lottery_nb.classics # noqa: F401, which has more names
    assert set(known_names('arch'))=={*networks, *torchvision.models.list_models(module=torchvision.models)}

def test_what_force_did_is_not_asked_for_twice():
    assert [goes_on(o) for o in (False, True)]==['the same command goes on from there',
                                                 'the same command without --force goes on from there']

def test_ctrl_c_and_going_on(tmp_path):
    line = 'find digits --rounds {} --prune 10 --epochs 2 --out {}'
    args = [command, *shlex.split(line.format(40, 'd'))]
    running = subprocess.Popen(args, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) # else it may be ignored
    try:
        until = time.monotonic()+300
        while not (tmp_path/'d/round_02.safetensors').exists() and running.poll() is None:
            assert time.monotonic()<until
            time.sleep(.05)
        running.send_signal(signal.SIGINT)
        out,err = running.communicate(timeout=120)
    finally: running.kill()
    assert running.returncode==130 and not out
    assert err=='lottery-nb find: stopped; the finished rounds are in d: the same command goes on from there\n'
    n = len(list((tmp_path/'d').glob('round_*.safetensors')))
    for out in ('d', 'whole'): ok(tmp_path, line.format(n, out))
    for r in range(n+1):
        a,b = (Ticket.load(tmp_path/f'{o}/round_{r:02d}.safetensors') for o in ('d', 'whole'))
        assert a.masks==b.masks and not differing(a.trained, b.trained)

# --- find

def test_find(made):
    told,folder = made
    assert (told.returncode, told.stderr)==(0, '')
    for words in ('round   density', ' 25 ', 'Matching: ', '3 rounds in runs/digits'): assert words in told.stdout
    for sign in ('━', '\x1b', '\r'): assert sign not in told.stdout
    files = {o.name for o in (folder/'runs/digits').iterdir()} - {'ticket.safetensors'}
    assert {o for o in files if not o.startswith('.')}=={'settings.json', 'table.csv',
                                                         *(f'round_0{r}.safetensors' for r in range(3))}

def test_find_is_find_ticket(made):
    found = find_ticket(lambda: learner_by_name('digits', 'digits_mlp', lr=3e-3), lambda learn: learn.fit(2),
                        rounds=2, prune=50., progress=False)
    for a,b in zip(found.tickets, Search.load(made[1]/'runs/digits').tickets, strict=True):
        assert a.masks==b.masks and not differing(a.state, b.state) and not differing(a.trained, b.trained)

def test_find_json_is_the_table(here):
    "Asked again it trains nothing, says the same, and leaves the rounds as they are"
    before = {o.name: o.read_bytes() for o in (here/'d').glob('round*')}
    facts = as_json(here, f'{short} --out d')
    assert {o.name: o.read_bytes() for o in (here/'d').glob('round*')}==before
    assert [o['density'] for o in facts['summary']]==[100, 50, 25] and facts['setup']==recipe(data='digits', n_epoch=2)
    df = pd.read_csv(here/'d/table.csv').query('epoch==1 and metric=="accuracy"')
    assert [o['accuracy'] for o in facts['summary']]==pytest.approx(df.value.tolist())
    match = [o['round'] for o in facts['summary'][1:] if o['accuracy']>=facts['summary'][0]['accuracy']]
    assert facts['matching']==(match[-1] if match else None) and (here/'d/ticket.safetensors').exists()==bool(match)

def test_find_goes_on_and_refuses_other_settings(here):
    ok(here, 'find digits --rounds 3 --prune 50 --epochs 2 --out d')
    others = dict(prune=40, lr=.01, epochs=1, seed=3, rewind=1, bs=32, method='local', criteria='random_scores')
    for name,value in others.items():
        told = invoke(here, f'{short} --rounds 3 --out d --{name} {value}')
        assert (told.exit_code, told.stdout)==(1, '') and told.stderr.count('\n')==1, said(told)
        assert dict(epochs='n_epoch').get(name, name) in said(told)
    ok(here, 'find digits --rounds 1 --prune 40 --epochs 1 --out d --force')
    assert not (here/'d/round_02.safetensors').exists()

def test_find_takes_amounts_by_layer_and_any_method(tmp_path):
    line = "find digits --rounds 1 --prune '5=10,total=50' --method erk --epochs 1 --out erk --quiet"
    assert as_json(tmp_path, line)['search']['prune']=={'5': 10, 'total': 50}
    masks = Search.load(tmp_path/'erk').tickets[1].masks
    assert masks.n_kept==25_100 and int(masks['5.weight'].sum())==900
    for given in ('five', '20%', '5=', '=20', '5=10,20', '5=10, 5=20'):
        fails(tmp_path, f"find digits --prune '{given}'", f"'{given}': expected a number without %, or one", 2)
    fails(tmp_path, "find digits --prune 'head=10' --out new", "'--prune': 'head': expected a layer that is pruned", 2)

def test_find_in_mnist(tmp_path):
    "From where torchvision puts it; a file of settings takes the same names, in processes of its own"
    line = 'find mnist --rounds 1 --prune 30 --epochs 1 --bs 20 --out d -q'
    fails(tmp_path, line, 'put them into one of these')
    as_idx(tmp_path/'data'/'MNIST'/'raw', some_images('mnist', 100))
    facts = as_json(tmp_path, line)
    assert facts['setup']==dict(data='mnist', arch='lenet_300_100', size=None, bs=20, n_epoch=1, lr=1.2e-3, seed=0)
    assert [round(o['density'], 2) for o in facts['summary']]==[100, 70]
    assert as_json(tmp_path, 'train d/round_01.safetensors -q')['setup']==facts['setup']
    (tmp_path/'a.toml').write_text("file = 'a.db'\nfunction = 'lottery_curve'\nseeds = 1\ngrid = {model = ['conv2', "
        "'lenet_300_100']}\nsettings = {data = 'mnist', lr_schedule = 'milestones', rounds = 1, n_step = 2, bs = 20}\n")
    assert [o['status'] for o in as_json(tmp_path, 'sweep a.toml --jobs 2 -q')['cells']]==['done','done']

def test_find_in_photos(tmp_path):
    "Another network, another size, other words; trained again from another place; other photos are another search"
    make_photos(tmp_path/'photos', cat=(4,2), dog=(4,2))
    line = ('find photos --arch squeezenet1_1 --size 32 --bs 2 --epochs 1 --rounds 1 --prune 30 --rewind 1it '
            '--method local --workers 0 --out d -q')
    facts = as_json(tmp_path, line)
    assert facts['setup']==dict(data=str(tmp_path/'photos'), arch='squeezenet1_1', size=32, bs=2, n_epoch=1, lr=1e-3,
                                seed=0)
    assert [round(o['density'], 2) for o in facts['summary']]==[100, 70]
    for name in ('photos/', './photos', str(tmp_path/'photos')): ok(tmp_path, line.replace(' photos', f' {name}'))
    for arm in ('ticket', 'dense'):
        assert as_json(tmp_path/'photos', f'train ../d/round_01.safetensors --arm {arm} --workers 0 -q')['arm']==arm
    shutil.copy(tmp_path/'photos/train/cat/0.png', tmp_path/'photos/train/cat/9.png')
    fails(tmp_path, line, 'data')

def test_find_filters_of_a_resnet(tmp_path):
    "Its last layer has no filter: it stays whole, and is named once"
    make_photos(tmp_path/'photos', cat=(4,2), dog=(4,2))
    told = invoke(tmp_path, 'find photos --arch resnet18 --size 32 --bs 2 --epochs 1 --rounds 1 --prune 30 '
                            '--granularity filter --workers 0 --out d -q --json')
    assert told.exit_code==0 and told.stderr.count('fc.weight (it has no filter)')==1
    assert [o['density'] for o in strictly(told.stdout)['summary']]==[100, pytest.approx(70, abs=.5)]
    layers = as_json(tmp_path, 'show d/round_01.safetensors')['layers']
    assert 'fc.weight' not in [o['layer'] for o in layers] and len(layers)==20

@pytest.mark.parametrize('granularity, density', [('2:4', 50), ('group', 40)])
def test_find_granularities_of_later_parts(granularity, density, tmp_path):
    "In a process of its own, which has imported none of them"
    prune = 50 if granularity=='2:4' else 60
    told = process(tmp_path, f'find digits --granularity {granularity} --prune {prune} --rounds 1 --epochs 1 -q --json')
    assert told.returncode==0, told.stderr
    assert strictly(told.stdout)['summary'][1]['density']==pytest.approx(density, abs=1)

# --- show, check, compare

def test_show(here):
    ok(here, 'show d/round_02.safetensors --png some/layers.png')
    assert (here/'some/layers.png').read_bytes().startswith(b'\x89PNG')
    facts,ticket = as_json(here, 'show d/round_02.safetensors'),Ticket.load(here/'d/round_02.safetensors')
    assert facts['kept']==ticket.masks.n_kept and facts['meta']==ticket.meta
    assert [o['kept'] for o in facts['layers']]==ticket.report().kept.tolist()
    assert (facts['full'], facts['trained'])==(False, True)
    told = ok(here, 'show t')
    assert 'Trained on: the file does not say.' in told and 'Holds: masks, weights, pruned weights.' in told

def test_show_prints_no_signs_of_others(tmp_path):
    "Names and entries from a file cannot colour, move or ring; and NaN is null"
    name = 'fc\x1b[31m\x07[bold]:smile:'
    meta = dict(arm='\x1b[2J', seed=float('nan'), setup=dict(data='\x1b[2J'))
    Ticket(Masks({name: torch.tensor([[True, False]])}), {name: torch.ones(1, 2)}, meta=meta).save(tmp_path/'t')
    for line in ('show t', 'compare t t'):
        told = ok(tmp_path, line)
        assert '\x1b' not in told and '\x07' not in told and '[bold]:smile:' in told
    assert as_json(tmp_path, 'show t')['meta']['seed'] is None

def test_damaged_files(here):
    data = (here/'d/round_02.safetensors').read_bytes()
    damaged = dict(flipped=data[:-1]+bytes([data[-1]^1]), short=data[:-9], empty=b'', text=b'hello, I am not a ticket')
    for name,bad in damaged.items():
        (here/name).write_bytes(bad)
        for line in ('check', 'show', 'train', 'profile', 'compare t'): fails(here, f'{line} {name}', f'{name}: ')
    (here/'d/round_01.safetensors').write_bytes(b'')
    fails(here, f'{short} --out d', 'round_01.safetensors')
    told = process(here, 'check t flipped lost d t')
    assert told.returncode==1 and told.stdout.count('t: intact; 80.00 % sparse; masks, weights, pruned weights in')==2
    assert [o.split()[2] for o in told.stderr.splitlines()]==['flipped:', 'lost:', 'd:']
    told = invoke(here, 'check t short --json')
    whole,bad = strictly(told.stdout)
    assert told.exit_code==1 and whole['intact'] and not bad['intact'] and 'damaged' in bad['error']
    assert whole['bytes']==(here/'t').stat().st_size and whole['dense_bytes']==4*50_610

def test_compare(here):
    a,b = (f'd/round_0{r}.safetensors' for r in (1, 2))
    facts,tickets = as_json(here, f'compare {a} {b}'),[Ticket.load(here/o) for o in (a, b)]
    df = tickets[0].overlap(tickets[1])
    assert facts['all']['iou']==df.iou.iloc[-1]==.5 and facts['layers']==df.to_dict('records')[:-1]
    told = ok(here, f'compare {a} {b}')
    assert 'random masks would share 23.3 %. They treat 25.0 % of all weights differently' in told
    assert facts['differing']=={'round': [1, 2]}
    t = tickets[1]
    Ticket(t.masks, t.state, meta={**t.meta, 'setup': {**t.meta['setup'], 'lr': .5}}).save(here/'other')
    assert as_json(here, f'compare {b} other')['differing']=={'setup.lr': [.003, .5]}

# --- train

def test_train_gives_the_round_again(here):
    "With the seed of its search a ticket comes out bit for bit, and its arms as in `find_ticket`; another seed differs"
    assert 'Saved: trained' in ok(here, 'train d/round_02.safetensors --out trained')
    before,after = (Ticket.load(here/o) for o in ('d/round_02.safetensors', 'trained'))
    assert after.masks==before.masks and not differing(after.state, before.state)
    assert not differing(after.trained, before.trained)
    measured = before.table.query('round==2').reset_index(drop=True)
    assert list(after.table)==table_columns and after.table.equals(measured)
    facts = as_json(here, 'train d/round_02.safetensors --seed 1 -q')
    assert facts['epochs'][-1]['accuracy']!=measured.query('metric=="accuracy"').value.iloc[-1]
    assert facts['setup']['seed']==1
    found = find_ticket(lambda: learner_by_name('digits'), lambda learn: learn.fit(2), 2, 50.,
                        arms=['reinit','random'], progress=False)
    for arm,rounds in found.arms.items():
        assert not differing(train_arm(found.tickets[2], arm, recipe(data='digits', n_epoch=2)).trained,
                             rounds[2].trained), arm

def test_train_arms(here):
    "An arm begins with what the ticket's own call gives, also with the pruned weights in another round's file"
    ticket = Search.load(here/'d').tickets[2]
    expected = dict(reinit=ticket.reinit(digits_mlp, 5), shuffle=ticket.shuffle(5), random=ticket.random(5),
                    dense=ticket.dense())
    for arm,start in expected.items():
        facts = as_json(here, f'train d/round_02.safetensors --arm {arm} --seed 5 --epochs 1 -q --out {arm}')
        trained = Ticket.load(here/arm)
        assert trained.masks==start.masks and not differing(trained.state, start.state) and trained.trained
        assert trained.meta['arm']==arm==facts['arm']
        again = as_json(here, f'train {arm} -q --out again --force')
        assert again['epochs']==facts['epochs'] and again['arm']==arm
        assert not differing(Ticket.load(here/'again').trained, trained.trained)
    assert as_json(here, 'train t --data digits --arm dense --epochs 1 -q')['arm']=='dense'

strange = dict(bs='x'), dict(lr='much'), dict(data=3), dict(data=['a']), dict(arch=5), dict(n_epoch=.5), dict(seed=-1)

@pytest.mark.parametrize('setup', ['digits', *(dict(data='digits') | o for o in strange)], ids=str)
def test_words_of_others_that_are_wrong(setup, tmp_path):
    digits_ticket(setup=setup).save(tmp_path/'t')
    fails(tmp_path, 'train t', 'expected', 2)

def test_cannot_write(here):
    (here/'in the way').write_text('')
    ticket = here/'d/round_01.safetensors'
    for line in (f'show {ticket} --png "in the way/x.png"', f'train {ticket} --epochs 1 -q --out "in the way/x"',
                 'find digits --rounds 1 --epochs 1 -q --out "in the way/d"',
                 f'profile {ticket} --seconds .05 --png "in the way/p.png"',
                 'demo --seeds 1 --rounds 1 --steps 30 --out "in the way/d"'): fails(here, line, 'in the way')

# --- sweep, profile

def test_sweep(tmp_path):
    text = ("file = 'rates.db'\nfunction = 'find_ticket'\ngrid = {lr = %s}\n"
            "settings = {rounds = 1, n_epoch = 1, prune = 50}\n")
    (tmp_path/'rates.toml').write_text(text % '[1e-3, 3e-3]')
    first = as_json(tmp_path, 'sweep rates.toml --jobs 2 -q')
    assert first['file']=='rates.db'
    assert [(o['lr'], o['status']) for o in first['cells']]==[(.001, 'done'), (.003, 'done')]
    df = Experiment.from_toml(tmp_path/'rates.toml').results().query('metric=="accuracy"')
    found = df[['lr','arm','round','step','density','metric']].assign(mean=df.value, interval=None, seeds=1)
    assert first['summary']==found.to_dict('records')
    told = process(tmp_path, 'sweep rates.toml')
    assert (told.returncode, told.stderr)==(0, '') and 'Saved: 12 measurements in rates.db' in told.stdout
    assert as_json(tmp_path, 'sweep rates.toml -q')==first
    (tmp_path/'rates.toml').write_text(text % '[1e-3, -1]')
    told = invoke(tmp_path, 'sweep rates.toml -q')
    assert told.exit_code==1 and 'failed' in told.stdout and 'lr=-1' in told.stdout
    assert '1 of 2 cells failed' in told.stderr
    (tmp_path/'rates.toml').write_text(text.replace('rates.db', 'none.db') % '[-1]')
    told = invoke(tmp_path, 'sweep rates.toml -q')
    assert told.exit_code==1 and 'lr=-1' in told.stdout and 'Dense networks' not in told.stdout

def swept(folder, name, returns, rest=''):
    "What a sweep of a function of three seeds comes to: its summary, and what it prints"
    (folder/f'{name}.py').write_text(f'import pandas as pd\ndef run(seed, **how):\n    {returns}')
    told = f"file = '{name}.db'\nfunction = '{name}.py:run'\nseeds = 3\n{rest}"
    (folder/f'{name}.toml').write_text(told)
    return as_json(folder, f'sweep {name}.toml -q')['summary'],ok(folder, f'sweep {name}.toml -q')

measured = '''rows = [dict(arm='dense', seed=seed, round=0, density=100., epoch=i, step=i, metric='accuracy', value=v)
            for i,v in enumerate([.1, .5+.1*seed])]
    return pd.DataFrame(rows)'''

def test_sweep_gives_the_interval_of_its_means(tmp_path):
    "Of a number a seed, whatever the settings are called, and of those that are finite"
    half = 4.302653*.1/3**.5 # Student's t of two degrees of freedom, and the values' standard deviation
    (row,),told = swept(tmp_path, 'one_of_three', measured)
    assert row.pop('mean')==pytest.approx(.6) and row.pop('interval')==pytest.approx(half, rel=1e-5)
    assert row==dict(arm='dense', round=0, step=1, density=100, metric='accuracy', seeds=3)
    assert 'accuracy in the last round' in told and 'half of its 95 % interval by Student' in told
    rows,_ = swept(tmp_path, 'two_of_three', measured, 'grid = {interval = [1, 2]}')
    assert [o['setting interval'] for o in rows]==[1, 2] and [o['interval'] for o in rows]==[pytest.approx(half)]*2
    (row,),_ = swept(tmp_path, 'three_of_three', measured.replace('step=i', 'step=0')) # several a seed: their mean
    assert (row['mean'],row['seeds'],row['interval'])==(pytest.approx(.35), 3, pytest.approx(half/2))
    (row,),_ = swept(tmp_path, 'four_of_three', measured.replace('.1*seed]', "(.1*seed or float('inf'))]"))
    assert (row['mean'],row['seeds'])==(pytest.approx(.65), 2)
    rows,_ = swept(tmp_path, 'five_of_three', measured.replace('return', 'if seed: rows[1]["kind"] = "b"\n    return'))
    assert [(o['kind'], o['seeds']) for o in rows]==[(None, 1), ('b', 2)]

@pytest.mark.parametrize('name, returns', [('numbered', 'return pd.DataFrame({0: [seed], 1: [2]})'),
                                           ('texts', measured.replace('value=v', "value='good'")),
                                           ('means', 'return dict(mean=1, seeds=2)')])
def test_sweep_of_other_tables_shows_their_rows(name, returns, tmp_path):
    rows,told = swept(tmp_path, name, returns)
    assert len(rows)==3*(1+(name=='texts')) and 'Student' not in told and 'first' not in told

def test_sweep_says_that_there_are_more_rows(tmp_path):
    rows,told = swept(tmp_path, 'many', 'return pd.DataFrame(dict(loss=range(10)))')
    assert len(rows)==20 and 'These are the first 20 of 30 rows.' in told

def test_long_words_of_a_table_are_broken(capsys, monkeypatch):
    "Numbers aren't, of any kind; and columns may have one name"
    monkeypatch.setattr('lottery_nb.cli.console', lambda: Console(width=60, color_system=None))
    df = pd.DataFrame([[1.5, 'x'*300, 2]], columns=['a','text','a'])
    df.insert(0, 'b', pd.Series([2**64-1], dtype='uint64'))
    print_table(df)
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines()))<=60 and told.count('x')==300+1 # and that of the heading
    assert {str(2**64-1),'1.5','2'} <= set(told.split())

@pytest.mark.parametrize('columns', [200, 80, 40])
def test_tables_keep_their_numbers(columns, capsys, monkeypatch):
    "Texts and headings go on in the next line of a narrow terminal"
    monkeypatch.setattr('lottery_nb.cli.console', lambda: Console(width=columns, color_system=None))
    df = pd.DataFrame({'a heading of some words': [12345678, 2], 'text': ['many words '*5, 'x'], 'p': [.125, 50.]})
    print_table(df, bars='p')
    told = capsys.readouterr().out
    assert {'12345678','0.125','50','x','heading'} <= set(told.split()) and told.split().count('words')==6
    assert max(map(len, told.splitlines()))<=columns and ('█' in told)==(columns==200)

def test_sweep_tells_errors_once(tmp_path):
    "In a line, not one for each cell; and where there's more"
    (tmp_path/'failing.py').write_text('def run(seed): raise ValueError("too\\nfast "+"!"*999)')
    (tmp_path/'b.toml').write_text("file = 'b.db'\nfunction = 'failing.py:run'\nseeds = 3")
    told = invoke(tmp_path, 'sweep b.toml -q')
    assert told.exit_code==1 and told.stdout.count('ValueError')==1 and 'Saved' not in told.stdout
    assert re.search(r'^[0-9a-f]{8} and 2 more: ValueError: too fast', told.stdout, re.M)
    assert "Experiment.from_toml('b.toml').errors() has the tracebacks, from b.db" in told.stdout

def wait_for(what):
    until = time.monotonic()+120
    while not what():
        assert time.monotonic()<until
        time.sleep(.1)

@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='needs /proc')
@pytest.mark.parametrize('sign', [signal.SIGTERM, signal.SIGKILL])
def test_the_processes_of_a_sweep_end_with_it(tmp_path, sign):
    "However it ends"
    (tmp_path/'slow_one.py').write_text("import os, time\nfrom pathlib import Path\n\ndef run(seed):\n"
                                        "    Path(f'{os.getpid()}.pid').touch()\n    time.sleep(60)\n    return {}")
    (tmp_path/'s.toml').write_text("file = 's.db'\nfunction = 'slow_one.py:run'\nseeds = 4")
    begun = subprocess.Popen([command, 'sweep', 's.toml', '--jobs', '2', '-q'], cwd=tmp_path)
    wait_for(lambda: len(list(tmp_path.glob('*.pid')))==2)
    begun.send_signal(sign)
    begun.wait()
    def alive(pid):
        try: return Path(f'/proc/{pid}/stat').read_text().split()[2]!='Z'
        except FileNotFoundError: return False
    wait_for(lambda: not any(alive(o.stem) for o in tmp_path.glob('*.pid')))

def test_sweep_ends_when_a_process_is_killed(tmp_path):
    "In a line, and what was done stays; what functions print doesn't come between the results"
    (tmp_path/'killing.py').write_text("import os\nprint('hello')\ndef run(lr, seed):\n    print('running')\n"
                                       "    if lr==2: os.kill(os.getpid(), 9)\n    return dict(loss=lr)")
    text = "file = 'k.db'\nfunction = 'killing.py:run'\nseeds = 2\ngrid = {lr = [1, %s]}"
    (tmp_path/'k.toml').write_text(text % 3)
    told = process(tmp_path, 'sweep k.toml --jobs 2 -q --json')
    assert [o['loss'] for o in json.loads(told.stdout)['summary']]==[1, 3, 1, 3] and 'running' in told.stderr
    (tmp_path/'k.toml').write_text(text % 2)
    for options,how in (('', 'the same command'), (' --force', 'the same command without --force')):
        told = process(tmp_path, f'sweep k.toml --jobs 2 -q{options}')
        assert (told.returncode, told.stdout)==(1, '') and told.stderr.splitlines()[-1]==(
            f'lottery-nb sweep: a process ended in the middle, perhaps for want of memory; {how} goes on from there')
        if not options: assert Experiment.from_toml(tmp_path/'k.toml').counts()['done']==2

def test_sweep_of_a_function_beside_it(tmp_path):
    "Its rows may be of any kind: then there's nothing to be summed up, and they're shown"
    (tmp_path/'of_a_test.py').write_text('def one(lr, seed=0): return dict(loss=lr*seed)')
    told = "file = 'a.db'\nfunction = 'of_a_test.py:one'\nseeds = 2\ngrid = {lr = [2, 3]}"
    (tmp_path/'a.toml').write_text(told)
    found = as_json(tmp_path, 'sweep a.toml -q --threads 2')
    assert [o['loss'] for o in found['summary']]==[0, 0, 2, 3]
    command = [sys.executable, '-m', 'lottery_nb.cli', 'sweep', 'a.toml']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr)==(0, '') and 'Saved: 4 measurements in a.db' in done.stdout

def profiled(folder, line): return as_json(folder, f'profile {line} --threads 1 --seconds .05')

def test_profile_of_a_ticket_that_knows_its_dense_network(here):
    "In a process of its own, which has imported nothing else"
    told = process(here, 'profile d/ticket.safetensors --threads 1 --seconds .05')
    assert (told.returncode, told.stderr)==(0, '') and 'multiply-adds' in told.stdout

def test_profile(here):
    assert '0.25×' in ok(here, 'profile d/round_02.safetensors --threads 1 --seconds .05 --png p.png')
    with Image.open(here/'p.png') as image: assert min(image.size)>300 and len(image.getcolors(10**6))>10
    facts,n = profiled(here, 'd/round_02.safetensors --bs 16'),Ticket.load(here/'d/round_02.safetensors').masks.n_kept
    dense,sparse,*_ = facts['networks'] # and perhaps a third: a hidden unit that no weight is left of is gone
    assert [dense['network'], sparse['network']]==['dense', 'ticket'] and facts['facts']['example']==[[16,1,8,8]]
    assert facts['setup']['bs']==16
    assert dense['macs']==sparse['macs']==16*50_200 and sparse['macs_nonzero']==16*n and sparse['nonzero']==n+410

@pytest.mark.parametrize('granularity,cut', [('row',True), ('weight',False)])
def test_profile_cuts_what_can_be_cut(granularity, cut, tmp_path):
    "Rows of hidden layers are units: the network without them is in the table. The dense network is the ticket's own"
    net = digits_mlp()
    for m in net: # without biases a pruned unit is 0
        if isinstance(m, torch.nn.Linear): torch.nn.init.zeros_(m.bias)
    state = {k: t.detach().clone() for k,t in net.state_dict().items()}
    masks = Sparsifier(net, granularity, 'local', layers=['1','3']).sparsify(50)
    Ticket(masks, state, full={k: state[k] for k in masks}).save(tmp_path/'t', full=True)
    rows = profiled(tmp_path, 't --data digits --bs 8')['networks']
    assert [o['network'] for o in rows]==['dense','ticket','shrunk'][:2+cut] and rows[0]['nonzero']==50_200
    if cut: assert rows[2]['macs']==8*(64*150+150*50+50*10)<rows[1]['macs']==count_macs(net, torch.zeros(8,1,8,8)).total

# --- demo

def test_demo(tmp_path):
    first,facts = tmp_path/'runs/demo',as_json(tmp_path, tiny)
    assert {o.name for o in first.iterdir()}=={'results.csv', 'results.json', 'demo.png', 'ticket.safetensors'}
    df = pd.read_csv(first/'results.csv')
    assert list(df)==table_columns and set(df.seed)=={100,101}
    n = dict(df[df.step==60].groupby('arm').size()) # seeds, rounds, metrics
    assert n==dict(dense=4, ticket=8, reinit=8, shuffle=8, random=8)
    assert facts==strictly((first/'results.json').read_text()) and facts['settings']==dict(seeds=2, rounds=2, n_step=60)
    assert len(facts['summary'])==2*(1+4*2) and facts['versions']['lottery_nb']==version('lottery_nb')
    ticket = Ticket.load(first/'ticket.safetensors')
    assert ticket.density==pytest.approx(df.density.min())
    assert ticket.meta['setup']==recipe(data='digits', bs=60, lr=1.2e-3, n_epoch=3, seed=100)
    told = process(tmp_path, f'{tiny} --out here', OMP_NUM_THREADS='2')
    assert (told.returncode, told.stderr)==(0, '18 small networks are trained, about 250 a minute on an idle core\n')
    assert (tmp_path/'here/results.csv').read_bytes()==(first/'results.csv').read_bytes()
    for words in ('Accuracy on held-out digits', '2 seeds', 'after 40 steps', 'After 60 steps, at 64.3 % density',
                  'Saved: here/results.csv'):
        assert words in told.stdout
    for sign in ('█', '\x1b', '\r', 'nan'): assert sign not in told.stdout
