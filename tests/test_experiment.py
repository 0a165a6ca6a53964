"Experiments: what is killed goes on, what fails is told, both engines give the same bits, and a file is never half written"
import functools, json, math, multiprocessing, os, shutil, signal, sqlite3, subprocess, sys, tempfile, time, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, strategies as st
from torch import nn
from lottery_nb import experiment
from lottery_nb.data import digits_dls
from lottery_nb.experiment import Experiment, ExperimentError, _code, _from_text, _to_text
from lottery_nb.curves import lottery_curve
from lottery_nb.find import find_ticket

def note(folder, what):
    "Writes a line that says that a cell was begun"
    with open(Path(folder)/'begun', 'a') as f: f.write(f'{what}\n')

def begun(folder): return sorted((Path(folder)/'begun').read_text().split())

def draw(x, seed=0): return pd.DataFrame(dict(step=range(4), value=torch.rand(4).double().numpy()*x, ok=[True,False,True,True], name=list('abcd')))

def noted(x, folder, seed=0):
    note(folder, f'{x}/{seed}')
    return draw(x, seed)

# ---- the numbers

values = st.one_of(st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True), st.sampled_from([0., -0., 5e-324, 1.7976931348623157e308]))
@given(st.lists(values, max_size=6), st.sampled_from(['float64','float32','float16']))
def test_floats_come_back_bit_for_bit(v, kind):
    with np.errstate(over='ignore'): s = np.array([math.nan if math.isnan(o) else o for o in v]).astype(kind)
    back = _from_text(_to_text(pd.DataFrame(dict(v=s)))).v.to_numpy()
    assert back.dtype==s.dtype and back.tobytes()==s.tobytes()

@given(st.lists(st.integers(-2**63, 2**63-1), max_size=5), st.lists(st.one_of(st.none(), st.text()), max_size=5))
def test_whole_numbers_and_texts_come_back(n, texts):
    df = _from_text(_to_text(pd.DataFrame(dict(n=np.array(n, dtype='int64')))))
    assert df.n.tolist()==n and df.n.dtype=='int64'
    back = _from_text(_to_text(pd.DataFrame(dict(t=pd.Series(texts, dtype=object))))).t
    assert [None if not isinstance(o, str) else o for o in back]==texts

def test_other_types_of_columns():
    df = pd.DataFrame(dict(a=pd.array([1,None], dtype='Int64'), b=pd.Categorical(['x','y']), c=np.array([2**64-1,0], dtype='uint64'),
                           d=pd.array([True,None], dtype='boolean')))
    back = _from_text(_to_text(df))
    assert back.a.dtype=='Int64' and back.a.isna().tolist()==[False,True] and back.b.tolist()==['x','y'] and back.c.tolist()==[2**64-1,0]
    assert back.d.isna().tolist()==[False,True]
    for bad in (np.array([1j]), pd.to_datetime(['2022-01-01']), pd.Series([[1]]), pd.Series([1,'a'], dtype=object)):
        with pytest.raises(TypeError, match="the column 'v' has the type"): _to_text(pd.DataFrame(dict(v=bad)))
    empty = _from_text(_to_text(pd.DataFrame(dict(a=np.array([], dtype='float32')))))
    assert len(empty)==0 and empty.a.dtype=='float32'

# ---- killed and resumed

def forked(fn, *args, **kwargs):
    "A process that calls `fn`; it has what is imported here"
    process = multiprocessing.get_context('fork').Process(target=fn, args=args, kwargs=kwargs)
    process.start()
    return process

def killing(x, folder, n, seed=0):
    "Kills its process, once, when it is the `n`th cell"
    out = noted(x, folder, seed)
    if len(begun(folder))==n and not os.path.exists(f'{folder}/killed'):
        Path(folder, 'killed').touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return out

@pytest.mark.parametrize('n', [1, 2, 4, 6])
def test_killed_and_resumed(tmp_path, n):
    "A process that is killed leaves whole cells; the next one does the rest, and only that"
    def run(): Experiment(tmp_path/'a.db', killing, grid=dict(x=[1,2,3]), seeds=2, aside=dict(folder=str(tmp_path), n=n)).run(progress=False)
    def done():
        with sqlite3.connect(tmp_path/'a.db') as db: return db.execute("select count(*) from cells where status='done'").fetchone()[0]
    for code,n_done in ((-signal.SIGKILL, n-1), (0, 6), (0, 6)):
        process = forked(run)
        process.join()
        assert process.exitcode==code and done()==n_done
    order = [f'{x}/{seed}' for seed in range(2) for x in (1,2,3)]
    assert begun(tmp_path)==sorted([*order, order[n-1]]) # the one that was killed twice, all others once

def test_killed_within_a_write(tmp_path):
    "A transaction that was not finished is as if it had not begun"
    exp = Experiment(tmp_path/'a.db', draw, grid=dict(x=[1,2]))
    exp.run(progress=False)
    code = f'''
import os, signal, sqlite3
db = sqlite3.connect({str(tmp_path/'a.db')!r}, isolation_level=None)
db.execute('pragma cache_size=1'), db.execute('begin immediate')
db.execute("update cells set status='failed', result=?", ['x'*5_000_000])
os.kill(os.getpid(), signal.SIGKILL)'''
    assert subprocess.run([sys.executable, '-c', code]).returncode==-signal.SIGKILL
    assert exp.counts()==dict(done=2, failed=0, missing=0)
    assert len(exp.results())==8

def test_interrupted(tmp_path):
    "Ctrl-C leaves what is finished, and the next run does the rest"
    stop = [True]
    def f(x):
        if x==2 and stop: raise KeyboardInterrupt
        return dict(y=x)
    exp = Experiment(tmp_path/'a.db', f, grid=dict(x=[1,2,3]))
    with pytest.raises(KeyboardInterrupt): exp.run(progress=False)
    assert exp.counts()==dict(done=1, failed=0, missing=2)
    stop.clear()
    assert exp.run(progress=False).results().y.tolist()==[1,2,3]

# ---- keys

def test_a_key_depends_on_settings_code_and_name(tmp_path):
    def key(fn=draw, **kwargs): return Experiment(tmp_path/'a.db', fn, **dict(dict(x=1), **kwargs)).cells[0].key
    def other(x, seed=0): return draw(x, seed)
    def make(n):
        def inner(x): return dict(y=x+n)
        return inner
    same = key()
    assert same==key(x=1.)==key(seed=0)==key(aside={})!=key(seed=1)!=key(aside=dict(seed=1))
    assert len({same, key(x=2), key(x=[1]), key(x='1'), key(seed=1), key(other), key(version='1'), key(version='2'), key(make(1)), key(make(2))})==10
    assert key(make(1))==key(make(1))

def test_the_code_of_a_network_is_part_of_the_key():
    def net(n):
        class Net(nn.Module):
            def forward(self, x): return x*2 if n==1 else x*3+1
        return Net
    class A(nn.Module):
        def forward(self, x): return x*2
    first = _code(A)
    class A(nn.Module): # noqa: F811
        def forward(self, x): return x*3
    assert first!=_code(A)

outside = 'adam'
def takes_from_outside(x): return dict(y=outside)

def test_texts_from_outside_are_part_of_the_key(tmp_path, monkeypatch):
    "A cell that depends on them is not taken for one that is there"
    def ask(): return Experiment(tmp_path/'a.db', takes_from_outside, x=1).run(progress=False).results().y.tolist()
    assert ask()==['adam']
    monkeypatch.setitem(globals(), 'outside', 'sgd')
    assert ask()==['sgd']
    def made(o):
        def f(x): return dict(y=str(o))
        return f
    different = ['a', 'b', ('a',), (1,), (1,None), b'a', 1, None, torch.optim.SGD, torch.optim.Adam, nn.functional.relu, draw, noted,
                 *(functools.partial(f, o) for f in (nn.Linear,draw) for o in (1,'a',nn.ReLU))]
    assert len({_code(made(o)) for o in different})==len(different)
    both = [functools.partial(draw, o) for o in (1,2)]
    def two(x): return [o(x) for o in (a,b)]
    a,b = both
    first,b = _code(two),a
    assert first!=_code(two)
    assert _code(lambda x, o='a': o)!=_code(lambda x, o='b': o)
    assert _code(lambda x, *, o='a': o)!=_code(lambda x, *, o='b': o)

def test_what_a_function_changes_itself_is_no_part_of_the_key():
    state = 'new'
    def changing(x):
        nonlocal state
        state = f'{state}{x}'
        return dict(y=x)
    before = _code(changing)
    changing(3)
    assert state=='new3' and _code(changing)==before

def test_other_code_runs_anew_and_the_old_results_stay(tmp_path):
    def f(x): return dict(y=x)
    old = Experiment(tmp_path/'a.db', f, grid=dict(x=[1,2])).run(progress=False)
    def f(x): return dict(y=-x) # noqa: F811
    new = Experiment(tmp_path/'a.db', f, grid=dict(x=[1,2]))
    assert new.counts()['missing']==2
    assert new.run(progress=False).results().y.tolist()==[-1,-2] and old.results().y.tolist()==[1,2]

def test_seeds_are_added(tmp_path):
    def f(x, seeds):
        note(tmp_path, f"{x}/{'+'.join(map(str, seeds))}")
        return [dict(seed=s, y=x*s) for s in seeds]
    Experiment(tmp_path/'a.db', f, grid=dict(x=[1,2]), seeds=2, seeds_per_cell=2).run(progress=False)
    df = Experiment(tmp_path/'a.db', f, grid=dict(x=[1,2]), seeds=4, seeds_per_cell=2).run(progress=False).results()
    assert begun(tmp_path)==['1/0+1','1/2+3','2/0+1','2/2+3']
    assert list(df)==['x','seed','y'] and sorted(zip(df.x, df.seed))==[(x,s) for x in (1,2) for s in range(4)]

# ---- failures

def test_failed_cells(tmp_path):
    wrong = {1: RuntimeError('no'), 2: SystemExit(3), 3: None}
    def f(x):
        note(tmp_path, x)
        if isinstance(e:=wrong.get(x), BaseException): raise e
        return e if x in wrong else dict(y=x)
    exp = Experiment(tmp_path/'a.db', f, grid=dict(x=[1,2,3,4]))
    with pytest.warns(UserWarning, match='3 of 4 cells failed'): exp.run(progress=False)
    assert exp.status().status.tolist()==['failed']*3+['done'] and 'it gave NoneType' in exp.status().error[2]
    assert exp.status().error[:2].tolist()==['RuntimeError: no','SystemExit: 3'] and len(exp.errors())==3
    with pytest.warns(UserWarning, match='3 of 4 cells are not there'): assert exp.results().y.tolist()==[4]
    wrong.clear()
    exp.run(progress=False)
    assert exp.results().y.tolist()==[1,2,3,4] and not exp.errors() and begun(tmp_path)==list('1122334')
    exp.run(progress=False, force=True)
    assert begun(tmp_path)==list('11122233344')

def test_a_column_with_the_name_of_a_setting(tmp_path):
    def f(x, y): return [dict(x=x, y=y+i) for i in range(2)]
    df = Experiment(tmp_path/'a.db', f, grid=dict(x=[1,2], y=[5])).run(progress=False).results()
    assert list(df)==['setting y','x','y'] and df['setting y'].tolist()==[5]*4 and df.y.tolist()==[5,6,5,6]

def test_a_setting_with_the_name_of_a_column_of_status(tmp_path):
    def f(cell, error): return dict(y=cell+error)
    exp = Experiment(tmp_path/'a.db', f, grid=dict(cell=[1,2], error=[3]))
    assert list(exp.status())==['cell','setting cell','setting error','status','seconds','error'] and exp.status().status.tolist()==['missing']*2
    exp.run(progress=False)
    assert exp.status()['setting error'].tolist()==[3,3] and exp.status().error.tolist()==['','']
    assert list(exp.results())==['cell','error','y'] and exp.results().y.tolist()==[4,5]

def test_cells_have_random_numbers_of_their_own(tmp_path):
    torch.manual_seed(3)
    a = Experiment(tmp_path/'a.db', draw, grid=dict(x=[1,2,3])).run(progress=False).results()
    after = torch.rand(1)
    b = Experiment(tmp_path/'b.db', draw, grid=dict(x=[3,1,2])).run(progress=False).results().sort_values(['x','step'], ignore_index=True)
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    torch.manual_seed(3)
    assert after==torch.rand(1)

# ---- files

def exp_in(path): return Experiment(path, draw, grid=dict(x=[1,2]))

def test_files_that_are_none_of_ours(tmp_path):
    (tmp_path/'text.db').write_text('something else, and long enough to be taken for a header'*20)
    with sqlite3.connect(tmp_path/'other.db') as db: db.execute('create table films (title)')
    exp_in(tmp_path/'new.db').run(progress=False)
    with sqlite3.connect(tmp_path/'new.db') as db: db.execute('pragma user_version=1')
    data = (tmp_path/'other.db').read_bytes()
    for name,says in dict(text='file is not a database', new='expected version 2 of the file format, got 1',
                          other='a database of something else, with the tables films').items():
        for ask in (exp_in(tmp_path/f'{name}.db').run, exp_in(tmp_path/f'{name}.db').status, exp_in(tmp_path/f'{name}.db').results):
            with pytest.raises(ExperimentError, match=says): ask()
    assert (tmp_path/'other.db').read_bytes()==data
    with pytest.raises(ExperimentError, match='unable to open'): exp_in(tmp_path).run()
    with pytest.raises(OSError): exp_in('/proc/no/a.db').run()
    assert exp_in(tmp_path/'none.db').counts()==dict(done=0, failed=0, missing=2) and not (tmp_path/'none.db').exists()
    assert list(exp_in(tmp_path/'none.db').status().status)==['missing']*2

def test_damaged_file(tmp_path):
    exp = exp_in(tmp_path/'a.db').run(progress=False)
    data = bytearray((tmp_path/'a.db').read_bytes())
    data[1024:] = b'\xff'*(len(data)-1024)
    (tmp_path/'a.db').write_bytes(data)
    for ask in (exp.status, exp.results, exp.run):
        with pytest.raises(ExperimentError, match='not to be used as the file'): ask()

def test_a_file_that_another_program_holds(tmp_path, monkeypatch):
    "Before anything is run; after as long as SQLite is told to wait"
    connect = sqlite3.connect
    monkeypatch.setattr(experiment.sqlite3, 'connect', lambda *args, **kwargs: connect(*args, **dict(kwargs, timeout=.1)))
    exp_in(tmp_path/'a.db').run(progress=False)
    held = connect(tmp_path/'a.db', isolation_level=None)
    held.execute('begin exclusive')
    exp = Experiment(tmp_path/'a.db', noted, grid=dict(x=[1]), aside=dict(folder=str(tmp_path)))
    with pytest.raises(ExperimentError, match='another program holds it locked'): exp.run()
    assert not (tmp_path/'begun').exists()
    held.close()
    exp.run(progress=False)

def test_two_processes_on_one_file(tmp_path):
    "The second is told so, and each cell is run once"
    def slow(x):
        note(tmp_path, x)
        while not (tmp_path/'go').exists(): time.sleep(.02)
        return dict(y=x)
    def run():
        try: Experiment(tmp_path/'a.db', slow, grid=dict(x=[1,2,3])).run(progress=False)
        except ExperimentError as e: (tmp_path/f'told {os.getpid()}').write_text(str(e))
    both = [forked(run) for _ in range(2)]
    while all(p.is_alive() for p in both): time.sleep(.02) # one of them cannot have the file
    (tmp_path/'go').touch()
    for p in both: p.join()
    told, = tmp_path.glob('told *')
    assert told.read_text()==f"{tmp_path/'a.db'}: another run is writing to this file"
    assert begun(tmp_path)==['1','2','3']
    with sqlite3.connect(tmp_path/'a.db') as db: assert db.execute("select count(*) from cells where status='done'").fetchone()[0]==3

def test_the_file_holds_texts_and_numbers_only(tmp_path):
    exp_in(tmp_path/'a.db').run(progress=False)
    with sqlite3.connect(tmp_path/'a.db') as db:
        asked = "select count(*) from cells where typeof(result)='text' and json_valid(result) and json_valid(settings) and typeof(seconds)='real'"
        assert db.execute(asked).fetchone()[0]==2
        assert json.loads(db.execute("select settings from cells").fetchone()[0]).keys()=={'x','seed'}

# ---- bad input

@pytest.mark.parametrize('kwargs, says', [
    (dict(grid={}), 'grid={}: expected the settings that vary'), (dict(grid=dict(x=[])), r'x=\[\]: expected at least one'),
    (dict(grid=dict(x=[1,1.])), 'expected every value once'), (dict(grid=dict(x=3)), 'x=3: expected a list'), (dict(grid=[1]), 'expected a dict of lists'),
    (dict(grid=dict(x=[1], z=[2])), 'z: draw has no such setting'), (dict(z=1, x=1), 'z: draw has no such setting'),
    (dict(seeds=2), 'the settings x are missing'),
    (dict(x=object()), 'x=object: expected what JSON can hold'), (dict(x=math.nan), 'x=nan: expected a number'), (dict(x={1:2}), 'x=dict: expected what JSON'),
    (dict(x=torch.ones(2)), 'x=Tensor: expected what JSON'), (dict(x=1, seeds=0), 'seeds=0: expected a whole number of at least 1'),
    (dict(x=1, seeds=[1,1]), 'every seed once'), (dict(x=1, seeds=[-1]), r'seeds\[0\]=-1'), (dict(x=1, seeds=True), 'seeds=True'),
    (dict(x=1, seeds='all'), "seeds='all'"),
    (dict(x=1, seeds=2, seed=1), 'seed: given twice'), (dict(x=1, seeds=2, grid=dict(seed=[1])), 'seed: given twice'),
    (dict(x=1, aside=dict(x=2)), 'x: given twice'),
    (dict(x=1, arms=['ticket']), 'neither the setting arm nor arms'), (dict(x=1, seeds=2, seeds_per_cell=1), 'seeds_per_cell=1: expected seeds'),
    (dict(grid=dict(x=[lambda: 1, lambda: 2])), 'two functions have one name'), (dict(grid=dict(x=[1]), x=1), 'in the grid or beside it, got both')])
def test_bad_input(kwargs, says):
    with pytest.raises((TypeError,ValueError), match=says): Experiment('a.db', draw, **kwargs)
    assert not os.path.exists('a.db')

@pytest.mark.parametrize('fn, kwargs, says', [
    (lottery_curve, dict(arms=['tickets']), "arms='tickets': expected one of dense, ticket"), (find_ticket, dict(arms=['ticket','ticket']), 'every value once'),
    (lottery_curve, dict(grid=dict(lrs=[1])), 'lrs: lottery_curve has no such setting'), (find_ticket, dict(dir='a'), 'dir: find_ticket has no such setting'),
    (find_ticket, dict(data=digits_dls()), 'data=DataLoaders: expected what JSON'), ('draw', {}, "fn='draw': expected a function"),
    (nn.Linear, {}, 'expected a function')])
def test_bad_input_to_ours(fn, kwargs, says):
    with pytest.raises((TypeError,ValueError), match=says): Experiment('a.db', fn, **kwargs)

@pytest.mark.parametrize('kwargs, says', [(dict(engine='spark'), 'engine='), (dict(cpus=0), 'cpus=0'), (dict(gpus=-1), 'gpus=-1'), (dict(gpus='1'), "gpus='1'"),
                                          (dict(retries=-1), 'retries=-1'), (dict(cpus=True), 'cpus=True')])
def test_bad_input_to_run(tmp_path, kwargs, says):
    with pytest.raises((TypeError,ValueError), match=says): exp_in(tmp_path/'a.db').run(**kwargs)
    assert not (tmp_path/'a.db').exists()

@pytest.mark.parametrize('text, says', [
    ('file = ', 'a.toml: Invalid value'), ("file = 'a.db'", 'function: missing'), ("file = 'a.db'\nfunction = 'fit'", "function='fit': expected one of"),
    ("file = 3\nfunction = 'find_ticket'", 'file=3: expected a text'),
    ("file = 'a.db'\nfunction = 'find_ticket'\nseeds = true", 'seeds=True: expected a whole number'),
    ("file = 'a.db'\nfunction = 'find_ticket'\n[grids]\nlr = [1]", 'grids: unknown; expected file'),
    ("file = 'a.db'\nfunction = 'find_ticket'\n[grid]\nlrs = [1]", 'lrs: find_ticket has no such setting'),
    ("file = 'a.db'\nfunction = 'find_ticket'\n[grid]\nlr = 1", 'grid: lr=1: expected a list'),
    ("file = 'a.db'\nfunction = 'find_ticket'\n[settings]\nseeds = 3", 'settings.seeds: expected at the top'),
    ("file = 'a.db'\nfunction = 'find_ticket'\n[settings]\nx = 2020-01-01", 'x: find_ticket has no such|x=date: expected')])
def test_toml_that_cannot_be_right(tmp_path, text, says):
    (tmp_path/'a.toml').write_text(text)
    with pytest.raises((TypeError,ValueError), match=says): Experiment.from_toml(tmp_path/'a.toml')

def test_toml_is_the_same_as_python(tmp_path):
    (tmp_path/'a.toml').write_text("file='a.db'\nfunction='find_ticket'\nseeds=2\narms=['ticket','reinit']\ntickets='t'\n[grid]\nlr=[1e-3,3e-3]\n[settings]\nepochs=1\nrounds=1\n")
    a = Experiment.from_toml(tmp_path/'a.toml')
    b = Experiment(tmp_path/'a.db', find_ticket, seeds=2, arms=['ticket','reinit'], grid=dict(lr=[.001,.003]), epochs=1, rounds=1)
    assert [c.key for c in a.cells]==[c.key for c in b.cells] and a.file==b.file and a.aside['tickets']==str(tmp_path/'t')

def test_names_of_data_and_networks(tmp_path):
    exp = Experiment(tmp_path/'a.db', find_ticket, arms=['ticket','shuffle','random','signs'], seeds=1, data='digits', arch='digits_mlp', epochs=1,
                     rounds=1, prune=50, bs=256, aside=dict(tickets=tmp_path/'t')).run(progress=False)
    df = exp.results().query('metric=="accuracy"')
    assert exp.counts()['done']==4 and df.groupby('arm')['round'].unique().map(list).to_dict()==dict(ticket=[0,1], shuffle=[1], random=[1], signs=[1])
    assert df.groupby('round').density.unique().map(list).to_dict()=={0: [100.], 1: [50.]}
    again = Experiment(tmp_path/'b.db', find_ticket, arms=['shuffle'], seeds=1, epochs=1, rounds=1, prune=50, bs=256).run(progress=False).results()
    pd.testing.assert_frame_equal(again, exp.results().query('arm=="shuffle"').reset_index(drop=True), check_exact=True) # with the search made anew

# ---- Ray

def test_without_ray_that_is_all_it_says(tmp_path, monkeypatch, capfd):
    "Not half a bar before the error, and nothing is run"
    monkeypatch.setitem(sys.modules, 'ray', None)
    exp = exp_in(tmp_path/'a.db')
    with pytest.raises(ImportError, match="engine='ray': Ray is not installed"): exp.run('ray')
    assert capfd.readouterr()==('','') and exp.counts()['missing']==2

def test_one_arm_may_be_given_by_its_name(tmp_path):
    assert Experiment(tmp_path/'a.db', lottery_curve, arms='ticket').cells==Experiment(tmp_path/'a.db', lottery_curve, arms=['ticket']).cells

def test_unreachable_addresses(tmp_path, monkeypatch):
    "Said within seconds; `auto` where no cluster is running"
    pytest.importorskip('ray')
    monkeypatch.delenv('RAY_ADDRESS', raising=False)
    monkeypatch.setenv('RAY_TMPDIR', str(tmp_path))
    for address in ('127.0.0.1:1', 'ray://127.0.0.1:1', 'auto', 'nowhere:no'):
        with pytest.raises(ExperimentError, match=f"address='{address}': no Ray cluster"): exp_in(tmp_path/'a.db').run('ray', address=address)
    assert exp_in(tmp_path/'a.db').counts()['missing']==2

def small(): return nn.Sequential(nn.Flatten(), nn.Linear(64,20), nn.ReLU(), nn.Linear(20,10))

def test_a_cluster_of_its_own_is_quiet_and_leaves_nothing(tmp_path):
    "No word on stdout or stderr, no file, no process"
    pytest.importorskip('ray')
    short = Path('/tmp')/f'x{os.getpid()}' # Ray's sockets have to have short names
    short.mkdir()
    def f(x):
        print('in the cell')
        return dict(y=x)
    def run():
        out = os.open(tmp_path/'out', os.O_CREAT | os.O_WRONLY)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.stdout,sys.stderr = [os.fdopen(o, 'w') for o in (1,2)]
        os.environ['HOME'],tempfile.tempdir = str(tmp_path),str(short)
        exp = Experiment(tmp_path/'a.db', f, x=1).run('ray', progress=False)
        assert exp.results().y.tolist()==[1] and not sys.modules['ray'].is_initialized()
    try:
        process = forked(run)
        process.join()
        assert process.exitcode==0 and (tmp_path/'out').read_text()==''
        assert not list(short.iterdir())
        assert not [o for o in Path('/proc').glob('[0-9]*/cmdline') if str(short) in o.read_bytes().decode(errors='replace')]
    finally: shutil.rmtree(short)

@pytest.fixture(scope='module')
def ray(tmp_path_factory):
    "One cluster for all tests; of one worker, as each of them imports PyTorch"
    ray = pytest.importorskip('ray')
    with experiment._own_cluster(ray, None, num_cpus=1): yield ray

def killed_once(x, folder):
    "Kills its worker when it is called with 2 for the first time"
    note(folder, x)
    if x==2 and not os.path.exists(f'{folder}/killed'):
        Path(folder, 'killed').touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return dict(y=torch.rand(1).item(), threads=torch.get_num_threads())

def always_killed(x):
    if x==2: os.kill(os.getpid(), signal.SIGKILL)
    return dict(y=x)

def test_both_engines_give_the_same_bits(ray, tmp_path):
    here,there = [Experiment(tmp_path/f'{o}.db', lottery_curve, grid=dict(lr=[1e-3,1e-2], model=[small]), seeds=2, seeds_per_cell=1,
                             rounds=2, steps=20, prune=40) for o in ('here','there')]
    here.run(progress=False), there.run('ray', progress=False)
    pd.testing.assert_frame_equal(here.results(), there.results(), check_exact=True)
    assert here.status().status.tolist()==['done']*4 and here.results().model.unique()==['small']
    assert ray.is_initialized() # it was ours to use, not to stop

def test_a_search_and_its_controls_on_ray(ray, tmp_path):
    "The controls wait for the search whose folder they read"
    exps = [Experiment(tmp_path/f'{o}.db', find_ticket, arms=['reinit','ticket'], seeds=2, epochs=1, rounds=1,
                       prune=50, bs=256, aside=dict(tickets=tmp_path/o)) for o in 'ab']
    exps[0].run(progress=False), exps[1].run('ray', progress=False)
    pd.testing.assert_frame_equal(exps[0].results(), exps[1].results(), check_exact=True)
    assert len(list((tmp_path/'b').iterdir()))==2

def test_a_killed_worker(ray, tmp_path):
    exp = Experiment(tmp_path/'a.db', killed_once, grid=dict(x=[1,2,3]), aside=dict(folder=str(tmp_path)))
    df = exp.run('ray', progress=False).results()
    assert begun(tmp_path)==['1','2','2','3'] and df.threads.tolist()==[1]*3
    here = Experiment(tmp_path/'b.db', killed_once, grid=dict(x=[1,2,3]), aside=dict(folder=str(tmp_path))).run(progress=False).results()
    pd.testing.assert_frame_equal(df, here, check_exact=True)

def test_a_cell_that_kills_every_worker_fails_alone(ray, tmp_path):
    exp = Experiment(tmp_path/'a.db', always_killed, grid=dict(x=[1,2,3]))
    with pytest.warns(UserWarning, match='1 of 3 cells failed'): exp.run('ray', retries=0, progress=False)
    assert exp.status().status.tolist()==['done','failed','done'] and 'WorkerCrashed' in exp.status().error[1]

def test_failures_and_functions_that_are_local(ray, tmp_path):
    n = 3
    def local(x):
        if x==1: raise ValueError('not today')
        return dict(y=x*n)
    exp = Experiment(tmp_path/'a.db', local, grid=dict(x=[1,2]))
    with pytest.warns(UserWarning, match='1 of 2 cells failed'): exp.run('ray', progress=False)
    assert exp.status().error[0]=='ValueError: not today'
    with pytest.warns(UserWarning): assert exp.results().y.tolist()==[6]

def diverging(lr):
    return lottery_curve(small, digits_dls(), seeds=[3], rounds=1, arms=['ticket'], steps=5, opt='sgd', lr=lr, progress=False)

@pytest.mark.parametrize('engine', ['here','ray'])
def test_what_a_cell_warns_of_is_stored_and_said(engine, request, tmp_path):
    if engine=='ray': request.getfixturevalue('ray')
    exp = Experiment(tmp_path/'a.db', diverging, grid=dict(lr=[1e-3,1e30]))
    cell = exp.cells[1].key[:8]
    with pytest.warns(UserWarning, match=f'{cell}: seed 3, dense, round 0: the loss is not finite at step 1'): exp.run(engine, progress=False)
    (name, (text,)), = exp.warned().items()
    assert name==cell and text.startswith('seed 3, dense, round 0') and exp.counts()['done']==2
    with pytest.warns(UserWarning, match='1 of these cells warned of something'): assert len(exp.results())

def test_warnings_of_cells_that_fail_or_that_nobody_wants_to_see(tmp_path):
    def f(x):
        warnings.warn(f'{x} is odd')
        if x==3: raise ValueError('too odd')
        return dict(x=x)
    exp = Experiment(tmp_path/'a.db', f, grid=dict(x=[1,3]))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        exp.run(progress=False)
    assert list(exp.warned().values())==[['1 is odd'],['3 is odd']] and exp.status().status.tolist()==['done','failed']

def test_clusters_that_cannot_be_had(ray, tmp_path):
    with pytest.raises(ExperimentError, match='cpus=10000, gpus=0: no machine of the cluster has as many'): exp_in(tmp_path/'a.db').run('ray', cpus=10_000)
    with pytest.raises(ExperimentError, match="address='127.0.0.1:1': Ray is connected to a cluster already"):
        exp_in(tmp_path/'a.db').run('ray', address='127.0.0.1:1')
    assert exp_in(tmp_path/'a.db').counts()['missing']==2

def test_ray_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(ImportError, match=r"pip install 'lottery_nb\[ray\]'"): exp_in(tmp_path/'a.db').run('ray')

def keys_of_ours(): return [c.key for fn,kwargs in ((lottery_curve, dict(grid=dict(lr=[.1,.2]))), (find_ticket, {}), (draw, dict(x=1)))
                            for c in Experiment('a.db', fn, seeds=2, **kwargs).cells]
def keys_there(x): return [dict(key=o) for o in keys_of_ours()]

def test_keys_are_the_same_in_another_process(ray, tmp_path):
    df = Experiment(tmp_path/'a.db', keys_there, x=1).run('ray', progress=False).results()
    assert df.key.tolist()==keys_of_ours()
