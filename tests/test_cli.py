"The command `lottery-nb` as a process: what it says, where it says it, its exit status, and the files it leaves"
import json, os, subprocess, sysconfig
from importlib.metadata import version
from pathlib import Path
import pandas as pd, pytest
from lottery_nb.ticket import Ticket

command = Path(sysconfig.get_path('scripts'))/'lottery-nb'
tiny = ['demo', '--seeds', '2', '--sparsity', '80', '--rounds', '2', '--epochs', '2']
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
    for option in ('--seeds', '--sparsity', '--rounds', '--epochs', '--out', '--quiet', '--json'): assert option in told.stdout

def test_version(tmp_path):
    told = run('--version', cwd=tmp_path)
    assert (told.returncode, told.stdout, told.stderr)==(0, f"lottery-nb {version('lottery_nb')}\n", '')

def test_result_goes_to_stdout_and_progress_to_stderr(done):
    told,_ = done
    assert told.returncode==0, told.stderr
    for words in ('Held-out accuracy', '2 seeds', 'after 2 epochs', 'At 20 % density', 'Saved: runs/demo/results.csv'): assert words in told.stdout
    for sign in ('━╸', '\x1b', '\r'): assert sign not in told.stdout
    assert '32/32' in told.stderr and 'Warning' not in told.stderr

def test_files_are_there_and_can_be_read(done):
    _,out = done
    assert {o.name for o in out.iterdir()}==files
    df,summary = pd.read_csv(out/'results.csv'), json.loads((out/'results.json').read_text(encoding='utf-8'))
    assert list(df)==['arm', 'seed', 'round', 'epoch', 'trained', 'sparsity', 'accuracy'] and not df.isna().any().any()
    assert dict(df.groupby('arm').size())==dict(dense=4, ticket=12, rewound=12, fresh=4)
    assert df.accuracy.between(0, 100).all()
    assert summary['settings']==dict(seeds=2, sparsity=80, rounds=2, epochs=2)
    assert summary['versions']['lottery_nb']==version('lottery_nb')
    assert (out/'demo.png').read_bytes().startswith(b'\x89PNG')

def test_ticket_is_the_one_of_the_results(done):
    _,out = done
    ticket,df = Ticket.load(out/'ticket.safetensors'), pd.read_csv(out/'results.csv')
    assert ticket.masks.sparsity==80 and ticket.meta['seed']==100 and ticket.trained
    from lottery_nb.cli import digits_learner
    learn = digits_learner()
    ticket.trained_into(learn.model)
    with learn.no_bar(), learn.no_logging(): right = learn.validate()[1]
    assert 100*right==pytest.approx(df.query('arm=="ticket" and seed==100').accuracy.iloc[-1], abs=1e-3)

def test_same_settings_same_numbers(done, tmp_path):
    "Also with another number of threads; and `--json --quiet` prints the summary and nothing else"
    told,out = done
    again = run(*tiny, '--json', '--quiet', '--out', 'here', cwd=tmp_path, OMP_NUM_THREADS='2')
    assert again.returncode==0 and not again.stderr
    assert again.stdout.strip()==(out/'results.json').read_text(encoding='utf-8').strip()
    for name in ('results.csv', 'results.json'): assert (out/name).read_bytes()==(tmp_path/'here'/name).read_bytes()
    assert Ticket.load(out/'ticket.safetensors').masks==Ticket.load(tmp_path/'here/ticket.safetensors').masks

bad = {'--seeds': [('0', 'seeds=0'), ('-1', 'seeds=-1'), ('two', 'valid integer'), ('1.5', 'valid integer')],
       '--sparsity': [('0', 'sparsity=0'), ('100', 'sparsity=100'), ('101', 'sparsity=101'), ('-1', 'sparsity=-1'), ('nan', 'sparsity=nan'), ('half', 'valid')],
       '--rounds': [('0', 'rounds=0')], '--epochs': [('1', 'epochs=1')], '--out': [(__file__, 'cannot be made a folder')], '--speed': [('9', 'No such option')]}

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
    told = run('demo', '--seeds', '1', '--rounds', '1', '--epochs', '2', '--out', '.', cwd=tmp_path)
    assert told.returncode==1 and not told.stdout and 'the results could not be saved' in told.stderr
    assert [o.name for o in tmp_path.iterdir()]==['results.csv']

def test_one_seed_claims_nothing(tmp_path):
    told = invoke('demo', '--seeds', '1', '--rounds', '1', '--epochs', '2', '--quiet', folder=tmp_path)
    assert told.exit_code==0 and '1 seed cannot tell' in told.stdout and 'beats' not in told.stdout and 'nan' not in told.stdout
    json.loads((tmp_path/'runs/demo/results.json').read_text(encoding='utf-8'))

def test_global_state_is_left_alone():
    import random, torch
    from lottery_nb.cli import DemoSettings, demo
    def state(): return torch.get_num_threads(), torch.get_rng_state().tolist(), random.getstate()
    before = state()
    demo(DemoSettings(seeds=1, rounds=1, epochs=2))
    assert state()==before
