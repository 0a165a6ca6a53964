"Experiments: what is killed goes on, what fails is said, every pool gives the same bits, no file is half written"
import copy, json, math, multiprocessing, os, signal, sqlite3, subprocess, sys, time, warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, strategies as st
from torch import nn
from lottery_nb.core import ArgumentError, machine, source_of, versions
from lottery_nb.curves import lottery_curve
from lottery_nb.data import digits_mlp
from lottery_nb.experiment import Experiment, ExperimentError, find_by_name, table_from_text, table_to_text

def note(folder, what):
    "Writes a line that says that a cell has begun"
    with open(Path(folder)/'begun', 'a') as f: f.write(f'{what}\n')

def begun(folder): return sorted((Path(folder)/'begun').read_text().split())

def draw(x, seed=0):
    return pd.DataFrame(dict(step=range(4), value=torch.rand(4).double().numpy()*x,
                             ok=[True,False]*2, name=list('abcd')))

def asked(path, fn=draw, grid=None, **kwargs): return Experiment(path, fn, grid or dict(x=[1,2,3]), **kwargs)

def done(path):
    with sqlite3.connect(path) as db: return db.execute("select count(*) from cells where status='done'").fetchone()[0]

# ---- the numbers

numbers = st.one_of(st.floats(), st.sampled_from([-0., 5e-324, 1.7976931348623157e308])) # NaN and infinities among them
@given(st.lists(numbers, max_size=6), st.sampled_from(['float64','float32','float16']))
def test_floats_come_back_bit_for_bit(v, kind):
    with np.errstate(over='ignore'): s = np.array([math.nan if math.isnan(o) else o for o in v]).astype(kind)
    back = table_from_text(table_to_text(pd.DataFrame(dict(v=s)))).v.to_numpy()
    assert back.dtype==s.dtype and back.tobytes()==s.tobytes()

@given(st.lists(st.integers(-2**63, 2**63-1), max_size=5), st.lists(st.one_of(st.none(), st.text()), max_size=5))
def test_whole_numbers_and_texts_come_back(n, texts):
    df = table_from_text(table_to_text(pd.DataFrame(dict(n=np.array(n, dtype='int64')))))
    assert df.n.tolist()==n and df.n.dtype=='int64'
    back = table_from_text(table_to_text(pd.DataFrame(dict(t=pd.Series(texts, dtype=object))))).t
    assert [o if isinstance(o, str) else None for o in back]==texts

def there_and_back(df): return table_from_text(table_to_text(df))

def test_other_columns_and_tables():
    df = pd.DataFrame(dict(a=pd.array([2**53+1,None], dtype='Int64'), b=pd.Categorical(['x','y']),
                           c=np.array([2**64-1,0], dtype='uint64'), d=pd.array([True,None], dtype='boolean')))
    pd.testing.assert_frame_equal(there_and_back(df), df, check_exact=True)
    for empty in (df[['a','c']][:0], pd.DataFrame()): pd.testing.assert_frame_equal(there_and_back(empty), empty)
    rows,named = [dict(a=1), dict(a=2)],pd.DataFrame(dict(a=[1]), index=pd.Index([3], name='step'))
    assert there_and_back(rows).a.tolist()==[1,2] and there_and_back(rows[1]).a.tolist()==[2]
    assert list(there_and_back(named))==['step','a'] # an index with a name is a column
    for bad in (np.array([1j]), pd.to_datetime(['2022-01-01']), pd.Series([{1}])):
        with pytest.raises(TypeError, match="can't be stored"): table_to_text(pd.DataFrame(dict(v=bad)))

# ---- killed and resumed

def forked(fn):
    "A process that calls `fn`; it has what is imported here"
    process = multiprocessing.get_context('fork').Process(target=fn)
    process.start()
    return process

@pytest.mark.parametrize('n', [1, 4, 6])
def test_killed_and_resumed(tmp_path, n):
    def killing(x, seed):
        note(tmp_path, f'{x}/{seed}')
        if len(begun(tmp_path))==n and not (tmp_path/'killed').exists():
            (tmp_path/'killed').touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(x)
    for code,n_done in ((-signal.SIGKILL, n-1), (0, 6), (0, 6)):
        process = forked(lambda: asked(tmp_path/'a.db', killing, seeds=2).run(progress=False))
        process.join()
        assert process.exitcode==code and done(tmp_path/'a.db')==n_done
    order = [f'{x}/{seed}' for seed in range(2) for x in (1,2,3)]
    assert begun(tmp_path)==sorted([*order, order[n-1]]) # the one that was killed twice, all others once

def test_killed_within_a_write(tmp_path):
    "A transaction that was not finished is as if it had not begun"
    exp = asked(tmp_path/'a.db').run(progress=False)
    code = f'''
import os, signal, sqlite3
db = sqlite3.connect({str(tmp_path/'a.db')!r}, isolation_level=None)
db.execute('pragma cache_size=1'), db.execute('begin immediate')
db.execute("update cells set status='failed', result=?", ['x'*5_000_000])
os.kill(os.getpid(), signal.SIGKILL)'''
    assert subprocess.run([sys.executable, '-c', code]).returncode==-signal.SIGKILL
    assert exp.counts()==dict(done=3, failed=0, missing=0) and len(exp.results())==12

def test_interrupted(tmp_path):
    stop = [True]
    def f(x):
        if x==2 and stop: raise KeyboardInterrupt
        return dict(y=x)
    exp = asked(tmp_path/'a.db', f)
    with pytest.raises(KeyboardInterrupt): exp.run(progress=False)
    assert exp.counts()==dict(done=1, failed=0, missing=2)
    stop.clear()
    assert exp.run(progress=False).results().y.tolist()==[1,2,3]

# ---- what a cell is known by

def shifted(x, by, seed=0): return draw(x, seed)

def test_a_key_depends_on_all_numbers_that_a_partial_was_given():
    "`repr` leaves most of a large tensor, array or table out"
    def key(x): return Experiment('a.db', partial(shifted, by=x), x=1).cells[0].key
    values = [torch.zeros(2000), np.zeros(2000), pd.DataFrame(dict(a=np.zeros(2000))), [torch.zeros(2000), 1],
              dict(x=torch.zeros(2000)), torch.zeros(2000).bfloat16()]
    for o in values:
        other = copy.deepcopy(o)
        if isinstance(o, pd.DataFrame): other.loc[1000,'a'] = 5
        else: (other[0] if isinstance(o, list) else other['x'] if isinstance(o, dict) else other)[1000] = 5
        assert key(o)==key(copy.deepcopy(o))!=key(other)

def test_what_else_a_partial_was_given_is_as_it_was():
    text = {np.float32: 'numpy.float32', (None,3): '(None, 3)', 'a': "'a'"}
    for o,told in text.items(): assert source_of(partial(shifted, by=o)).endswith(f'by={told}')
    for o in ([[1,2],[3,4]], np.float64(.1)): assert source_of(partial(shifted, by=o)).endswith(f'by={o!r}')
    sparse = [source_of(partial(shifted, by=(torch.eye(2000)[i]).to_sparse())) for i in (1000, 1000, 1001)]
    assert sparse[0]==sparse[1]!=sparse[2]
    others = torch.Tensor, np.ndarray, [torch.Tensor], torch.zeros(3, device='meta')
    assert all(source_of(partial(shifted, by=o)) for o in others)

def test_a_key_depends_on_settings_source_and_version():
    def key(fn=draw, **kwargs): return Experiment('a.db', fn, **{'x': 1, **kwargs}).cells[0].key
    def other(x, seed=0): return draw(x, seed)
    same = key()
    assert same==key(x=1.)==key(x=np.float32(1))==key(seed=0)
    values = [2, [1], '1', None, nn.ReLU, digits_mlp, partial(nn.Linear, 3), partial(nn.Linear, 4), torch.relu]
    others = [key(seed=1), key(other), key(version='1'), key(version='2'), key(partial(draw, seed=2))]
    assert len({same, *others, *(key(x=o) for o in values)})==15

def keys_of_ours():
    exps = [asked('a.db', draw, seeds=2), asked('a.db', find_by_name, dict(lr=[.1,.2]), seeds=2),
            asked('a.db', lottery_curve, dict(lr=[.1,.2]), model=digits_mlp, data='digits', seeds=2)]
    return [c.key for e in exps for c in e.cells]

def test_keys_are_the_same_in_another_process():
    code = 'import json; from test_experiment import keys_of_ours; print(json.dumps(keys_of_ours()))'
    there = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True,
                           cwd=Path(__file__).parent, env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert json.loads(there.stdout)==keys_of_ours()

def test_seeds_and_arms(tmp_path):
    def together(x, seeds, arms=()):
        note(tmp_path, f"{x}/{'+'.join(map(str, seeds))}")
        return [dict(seed=s, y=x*s) for s in seeds]
    for seeds in ([[0,1]], [[0,1],[2,3]]):
        df = asked(tmp_path/'a.db', together, dict(x=[1,2], seeds=seeds)).run(progress=False).results()
    assert begun(tmp_path)==['1/0+1','1/2+3','2/0+1','2/2+3']
    assert list(df)==['x','seed','y'] and sorted(zip(df.x, df.seed))==[(x,s) for x in (1,2) for s in range(4)]
    one, = Experiment('a.db', together, x=1, seeds=2, arms='ticket').cells
    assert (one.settings['seeds'],one.settings['arms'])==([0,1],['ticket'])
    def apart(arm, seed): return draw(1, seed)
    cells = Experiment('a.db', apart, seeds=[5,7], arms=['ticket']).cells
    assert [o.varying for o in cells]==[dict(seed=s, arm='ticket') for s in (5,7)]

# ---- failures, warnings, names

def test_failed_cells(tmp_path):
    wrong = {1: RuntimeError('no'), 2: SystemExit(3), 3: None}
    def f(x):
        note(tmp_path, x)
        if isinstance(e:=wrong.get(x), BaseException): raise e
        return e if x in wrong else dict(y=x)
    exp = asked(tmp_path/'a.db', f, dict(x=[1,2,3,4]))
    with pytest.warns(UserWarning, match='3 of 4 cells failed'): exp.run(progress=False)
    assert exp.status().status.tolist()==['failed']*3+['done'] and 'got NoneType' in exp.status().error[2]
    assert exp.status().error[:2].tolist()==['RuntimeError: no','SystemExit: 3']
    assert len(exp.errors())==3 and "raise e\n" in exp.errors()[exp.cells[0].key[:8]]
    with pytest.warns(UserWarning, match="3 of 4 cells aren't done"): assert exp.results().y.tolist()==[4]
    wrong.clear()
    exp.run(progress=False)
    assert exp.results().y.tolist()==[1,2,3,4] and not exp.errors() and begun(tmp_path)==list('1122334')
    exp.run(progress=False, force=True)
    assert begun(tmp_path)==list('11122233344')

def test_what_a_cell_warns_of_is_stored_and_said(tmp_path):
    "Also of a cell that fails, and if you do not want to see it"
    def f(x):
        if x>1: warnings.warn(f'{x} is odd')
        if x==3: raise ValueError('too odd')
        return dict(x=x)
    exp = asked(tmp_path/'a.db', f, dict(x=[1,2,3]))
    cell = exp.cells[1].key[:8]
    with pytest.warns(UserWarning, match=f'{cell}: 2 is odd'): exp.run(progress=False)
    with pytest.warns(UserWarning, match='1 of the cells warned of something'): assert exp.results().x.tolist()==[1,2]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        exp.run(progress=False, force=True)
    assert exp.warned()=={cell: ['2 is odd'], exp.cells[2].key[:8]: ['3 is odd']}

def test_columns_with_the_name_of_a_setting(tmp_path):
    def f(x, y): return [dict(x=x, y=y+i) for i in range(2)]
    df = asked(tmp_path/'a.db', f, dict(x=[1,2], y=[5])).run(progress=False).results()
    assert list(df)==['setting y','x','y'] and df['setting y'].tolist()==[5]*4 and df.y.tolist()==[5,6,5,6]
    def g(cell, error): return dict(y=cell+error)
    exp = asked(tmp_path/'a.db', g, dict(cell=[1,2], error=[3])).run(progress=False)
    assert list(exp.status())==['cell','setting cell','setting error','status','seconds','error']
    assert exp.status()['setting error'].tolist()==[3,3] and exp.results().values.tolist()==[[1,3,4],[2,3,5]]

def test_cells_have_random_numbers_of_their_own(tmp_path):
    torch.manual_seed(3)
    said = []
    a = asked(tmp_path/'a.db').run(progress=lambda *o: said.append(o[:2])).results()
    assert said==[(i,3) for i in range(4)]
    after = torch.rand(1)
    b = asked(tmp_path/'b.db', grid=dict(x=[3,1,2])).run(progress=False).results()
    pd.testing.assert_frame_equal(a, b.sort_values(['x','step'], ignore_index=True), check_exact=True)
    torch.manual_seed(3)
    assert after==torch.rand(1)

def test_a_table_says_how_it_was_made(tmp_path):
    def f(x, y=2, seed=0):
        df = draw(x, seed)
        df.attrs = dict(y=y, x=x, rate=np.float32(.5), nan=math.nan)
        return df
    exp = asked(tmp_path/'a.db', f, dict(x=[1,2]), seeds=2, version='b')
    exp.run(progress=False)
    mine = dict(function='f', version='b', settings=dict(y=2))
    assert exp.results().attrs==dict(y=2, rate=.5, nan=None, versions=versions(), machine=machine(), experiment=mine)
    assert exp.results().query('x==1').attrs==exp.results().attrs
    with sqlite3.connect(tmp_path/'a.db') as db: # as if another machine had done one of them
        other = dict(machine(), cpu='another')
        db.execute('update cells set machine=? where key=?', (json.dumps(other), exp.cells[1].key))
    assert exp.results().attrs['machine']==[machine(), other] and exp.results().attrs['versions']==versions()
    with sqlite3.connect(tmp_path/'a.db') as db: db.execute("update cells set attrs='{'")
    with pytest.raises(ExperimentError, match='is damaged'): exp.results()

def test_a_search_says_how_it_was_made():
    df = find_by_name(n_epoch=1, rounds=1, prune=50, progress=False).table
    assert df.attrs['machine']==machine() and df.attrs['versions']==versions()
    assert df.attrs['criteria']=='large_final' and json.loads(json.dumps(df.attrs))==df.attrs

# ---- files

def test_files_that_are_none_of_ours(tmp_path):
    (tmp_path/'text.db').write_text('something else, and long enough to be taken for a header'*20)
    with sqlite3.connect(tmp_path/'other.db') as db: db.execute('create table films (title)')
    asked(tmp_path/'old.db').run(progress=False)
    with sqlite3.connect(tmp_path/'old.db') as db: db.execute('pragma user_version=2')
    data = (tmp_path/'other.db').read_bytes()
    says = dict(text='file is not a database', old="'user_version': 4.*'user_version': 2", other="'application_id': 0")
    for name,says in says.items():
        exp = asked(tmp_path/f'{name}.db')
        for ask in (exp.run, exp.status, exp.results):
            with pytest.raises(ExperimentError, match=f'{name}.db: .*{says}'): ask()
    assert (tmp_path/'other.db').read_bytes()==data
    with pytest.raises(ExperimentError, match='unable to open'): asked(tmp_path).run()
    with pytest.raises(OSError): asked('/proc/no/a.db').run()
    assert asked(tmp_path/'none.db').counts()==dict(done=0, failed=0, missing=3) and not (tmp_path/'none.db').exists()
    (tmp_path/'empty.db').touch()
    assert asked(tmp_path/'empty.db').status().status.tolist()==['missing']*3

def test_damaged_file(tmp_path):
    exp = asked(tmp_path/'a.db').run(progress=False)
    data = bytearray((tmp_path/'a.db').read_bytes())
    data[1024:] = b'\xff'*(len(data)-1024)
    (tmp_path/'a.db').write_bytes(data)
    for ask in (exp.status, exp.results, exp.run):
        with pytest.raises(ExperimentError, match="can't be used as the file"): ask()

@pytest.mark.parametrize('text', ["'[[\"y\", \"int64\", [1'", "'[[1, 2]]'", "'3'", "cast(x'ff' as text)", 'null'])
def test_damaged_cell(text, tmp_path):
    exp = asked(tmp_path/'a.db').run(progress=False)
    with sqlite3.connect(exp.file) as db: db.execute(f"update cells set result={text}, warned='{{'")
    with pytest.raises(ExperimentError, match='a.db: '): exp.results()
    with pytest.raises(ExperimentError, match='a.db: '): exp.warned()

def test_a_file_that_another_program_holds(tmp_path, monkeypatch):
    "Said before anything runs; after as long as SQLite is told to wait"
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, 'connect', lambda *args, **kwargs: connect(*args, **dict(kwargs, timeout=.1)))
    asked(tmp_path/'a.db').run(progress=False)
    held = connect(tmp_path/'a.db', isolation_level=None)
    held.execute('begin exclusive')
    exp = asked(tmp_path/'a.db', lambda x: note(tmp_path, x) or draw(x))
    with pytest.raises(ExperimentError, match='database is locked'): exp.run()
    assert not (tmp_path/'begun').exists()
    held.close()
    exp.run(progress=False)

def test_two_runs_on_one_file(tmp_path):
    def slow(x):
        note(tmp_path, x)
        while not (tmp_path/'go').exists(): time.sleep(.02)
        return dict(y=x)
    def run():
        try: asked(tmp_path/'a.db', slow).run(progress=False)
        except ExperimentError as e: (tmp_path/f'told {os.getpid()}').write_text(str(e))
    both = [forked(run) for _ in range(2)]
    while all(p.is_alive() for p in both): time.sleep(.02) # one of them cannot have the file
    (tmp_path/'go').touch()
    for p in both: p.join()
    told, = tmp_path.glob('told *')
    assert told.read_text()==f"{tmp_path/'a.db'}: another run is writing to this file"
    assert begun(tmp_path)==['1','2','3'] and done(tmp_path/'a.db')==3

def test_the_file_holds_texts_and_numbers_only(tmp_path):
    asked(tmp_path/'a.db').run(progress=False)
    with sqlite3.connect(tmp_path/'a.db') as db:
        kinds = "json_valid(result) and json_valid(settings) and typeof(seconds)='real' and source like 'def draw%'"
        assert db.execute(f'select count(*) from cells where {kinds}').fetchone()[0]==3
        assert json.loads(db.execute("select settings from cells").fetchone()[0]).keys()=={'x','seed'}

# ---- in words, and in a file

def test_toml_is_the_same_as_python(tmp_path):
    (tmp_path/'a.toml').write_text('''
file = 'a.db'
function = 'find_ticket'
seeds = 2
grid = {lr = [1e-3, 3e-3]}
settings = {n_epoch = 1, rounds = 1}''')
    a = Experiment.from_toml(tmp_path/'a.toml')
    b = asked(tmp_path/'a.db', find_by_name, dict(lr=[.001,.003]), seeds=2, n_epoch=1, rounds=1)
    assert a.cells==b.cells and a.file==b.file

MINE = 'def run(x, seed): return dict(y=10*x+seed)\n'
spawn = multiprocessing.get_context('spawn')
@pytest.mark.parametrize('make_pool', [nullcontext, partial(spawn.Pool, 2), partial(ProcessPoolExecutor, 2, spawn)])
def test_toml_with_a_function_beside_it(tmp_path, make_pool):
    (tmp_path/'mine_of_a_test.py').write_text(MINE)
    told = "file = 'a.db'\nfunction = 'mine_of_a_test.py:run'\nseeds = 2\ngrid = {x = [1, 2]}"
    (tmp_path/'a.toml').write_text(told)
    sys.modules.pop('mine_of_a_test', None)
    exp = Experiment.from_toml(tmp_path/'a.toml')
    with make_pool() as processes: exp.run(processes, progress=False)
    assert exp.results().y.tolist()==[10, 20, 11, 21]
    sys.path.remove(str(tmp_path))

@pytest.mark.parametrize('function, says', [
    ('none.py:run', 'expected a function of a file in .*; no none.py is there'),
    ('../json.py:dumps', 'no ../json.py is there'), ('json.py:dumps', 'another file: Python has .*json'),
    ('mine_of_a_test.py:runn', "expected one of run: did you mean 'run'"),
    ('mine_of_a_test.py:', 'expected one of run'),
    ('broken_of_a_test.py:run', "a file that can be run: ModuleNotFoundError: No module named 'nothere'"),
    ('json:dumps', 'expected one of lottery_curve, find_ticket')])
def test_toml_with_a_function_that_is_not_there(tmp_path, function, says, monkeypatch):
    monkeypatch.setattr(sys, 'path', [*sys.path])
    for o in ('json','mine_of_a_test'): (tmp_path/f'{o}.py').write_text(MINE)
    (tmp_path/'broken_of_a_test.py').write_text('import nothere')
    sys.modules.pop('mine_of_a_test', None)
    (tmp_path/'a.toml').write_text(f"file = 'a.db'\nfunction = '{function}'")
    with pytest.raises(ArgumentError, match=f'a.toml: function=.*{says}'): Experiment.from_toml(tmp_path/'a.toml')

search = "file = 'a.db'\nfunction = 'find_ticket'\n"
@pytest.mark.parametrize('text, error, says', [
    ('file = ', ExperimentError, 'a.toml: expected a TOML file: Invalid value'),
    (search.replace("'a.db'", '3'), ArgumentError, 'file=3: expected the path'),
    ("function = 'find_ticket'", ArgumentError, 'a.toml: file=None: expected the path'),
    ("file = 'a.db'", ArgumentError, 'a.toml: function=None: expected one of lottery_curve, find_ticket'),
    (search + '[grids]\nlr = [1]', ArgumentError, "a.toml: key='grids': expected one of file, function"),
    (search + '[settings]\nx = 2020-01-01', ArgumentError, 'x=.*: expected one of the settings of find_by_name, which'),
    (search + "[settings]\nmodel = 'digits_mlp'", ArgumentError, "model='digits_mlp': expected .*did you mean 'arch'"),
    (search + 'settings = 3', TypeError, 'a.toml: settings=3: expected a table'),
    (search + '[grid]\nlrr = [1]', ArgumentError, "lrr=1: .*did you mean 'lr'"),
    (search + '[settings]\nround = 2', ArgumentError, "round=2: .*did you mean 'rounds'")])
def test_toml_that_cannot_be_right(tmp_path, text, error, says):
    (tmp_path/'a.toml').write_text(text)
    with pytest.raises(error, match=says): Experiment.from_toml(tmp_path/'a.toml')

# ---- pools

def curves(path):
    grid = dict(lr=[1e-3,1e-2], seeds=[[0],[1]])
    return asked(path, lottery_curve, grid, model='digits_mlp', data='digits', rounds=2, n_step=20, prune=40)

def test_threads_are_refused(tmp_path):
    for kind in (ThreadPool, ThreadPoolExecutor):
        with kind(2) as pool, pytest.raises(ArgumentError, match='threads share'): asked(tmp_path/'a.db').run(pool)
    assert not (tmp_path/'a.db').exists()

def killed_once(x, folder):
    "Kills its worker when it is called with 2 for the first time"
    note(folder, x)
    if x==2 and not os.path.exists(f'{folder}/killed'):
        Path(folder, 'killed').touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return dict(y=torch.rand(1).item(), threads=torch.get_num_threads())

def test_an_executor_says_that_a_process_was_killed(tmp_path):
    exp = asked(tmp_path/'a.db', killed_once, folder=str(tmp_path))
    with ProcessPoolExecutor(1, spawn) as pool, pytest.raises(BrokenProcessPool): exp.run(pool, progress=False)
    assert exp.counts()==dict(done=1, failed=0, missing=2)
    with ProcessPoolExecutor(1, spawn) as pool: assert exp.run(pool, progress=False).counts()['done']==3
    again = asked(tmp_path/'b.db', killed_once, folder=str(tmp_path)).run(progress=False).results()
    pd.testing.assert_frame_equal(exp.results(), again, check_exact=True)

def two_columns_of_one_name(x): return pd.DataFrame([[x, x]], columns=['y','y' if x==2 else 'z'])
def columns_of_two_levels(x): return dict(y=x) if x==1 else pd.DataFrame({('y','mean'): [x], ('y','std'): [x]})
def half_a_character(x):
    if x==2: raise ValueError('\ud800')
    return dict(y=x)

def at_once(x, seed=0): return dict(y=x)

def test_what_no_pool_can_run_loses_nothing(tmp_path):
    "Neither a function that other processes can't import nor a pool that's shut down, also with force"
    exp,local = asked(tmp_path/'a.db', at_once),asked(tmp_path/'a.db', lambda x: dict(y=x))
    for o in (exp, local): o.run(progress=False)
    with ProcessPoolExecutor(1, spawn) as pool:
        with pytest.raises(ArgumentError, match='other processes can import'): local.run(pool, force=True)
    with pytest.raises(RuntimeError, match='shutdown'): exp.run(pool, force=True, progress=False)
    assert exp.counts()['done']==local.counts()['done']==3

def counted(x, folder):
    note(folder, x)
    time.sleep(.2)
    return dict(y=x)

def test_an_executor_drops_what_has_not_begun(tmp_path):
    exp = asked(tmp_path/'a.db', counted, dict(x=[*range(20)]), folder=str(tmp_path))
    def stop(done, total, comment):
        if done: raise KeyboardInterrupt
    with ProcessPoolExecutor(1, spawn) as pool, pytest.raises(KeyboardInterrupt): exp.run(pool, progress=stop)
    assert exp.counts()['done']==1 and len(begun(tmp_path))<6

@pytest.mark.parametrize('fn, says', [(two_columns_of_one_name, 'each once'), (half_a_character, r'ValueError: \ud800'),
                                      (columns_of_two_levels, 'one name a column')])
def test_what_cannot_be_stored_fails_alone(fn, says, tmp_path):
    exp = asked(tmp_path/'a.db', fn, dict(x=[1,2]))
    with pytest.warns(UserWarning, match='1 of 2 cells failed'): exp.run(progress=False)
    assert exp.results().y.tolist()==[1] and says in exp.status().error[1]

def test_ray_gives_the_same_bits_and_a_lost_worker_loses_no_other_cell(tmp_path):
    ray = pytest.importorskip('ray')
    from ray.util.multiprocessing import Pool
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level='ERROR',
             runtime_env=dict(env_vars=dict(PYTHONPATH=path)))
    try:
        here,there = curves(tmp_path/'a.db').run(progress=False),curves(tmp_path/'b.db').run(Pool(1), progress=False)
        pd.testing.assert_frame_equal(here.results(), there.results(), check_exact=True)
        exp = asked(tmp_path/'c.db', killed_once, folder=str(tmp_path))
        with pytest.raises(ray.exceptions.ActorDiedError): exp.run(Pool(1), progress=False)
        assert exp.counts()==dict(done=1, failed=0, missing=2)
        assert exp.run(Pool(1), progress=False).results().threads.tolist()==[1]*3
    finally: ray.shutdown()
    again = asked(tmp_path/'d.db', killed_once, folder=str(tmp_path)).run(progress=False).results()
    pd.testing.assert_frame_equal(exp.results(), again, check_exact=True)
