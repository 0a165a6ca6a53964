"The benchmarks run, on a tiny network, and their tables are complete. What they measure is not judged here: the machine may be busy"
import json, math, os, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent

@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    "What `overhead.py --quick` printed, and the two files that it wrote"
    out = tmp_path_factory.mktemp('overhead')
    args = [sys.executable, root/'benchmarks/overhead.py', '--quick', '--json', out/'all.json', '--markdown', out/'all.md']
    done = subprocess.run([str(o) for o in args], cwd=out, env=os.environ | dict(OMP_NUM_THREADS='1'), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, (out/'all.md').read_text(), json.loads((out/'all.json').read_text())

def tools(rows, **at): return {r['tool'] for r in rows if all(r[k]==v for k,v in at.items())}
def finite(*xs): return all(math.isfinite(x) and x>0 for x in xs)

def test_steps(quick):
    rows = quick[2]['steps']
    assert {'dense', 'dense again (the noise)', 'lottery_nb', 'torch.nn.utils.prune'} <= tools(rows, mask='constant')
    assert {'dense', 'lottery_nb', 'lottery_nb, update_every=1', 'torch.nn.utils.prune, every 16 batches',
            'torch.nn.utils.prune, every batch'} <= tools(rows, mask='agp')
    for r in rows:
        assert finite(r['median'], r['q1'], r['q3'], r['mean'], r['low'], r['high'], r['by_kind'], *r['seconds'])
        assert r['low'] <= r['mean'] <= r['high'] and len(r['seconds']) == len(r['made']) == r['steps']

def test_arms_do_the_same_work(quick):
    steps,n_iter = quick[2]['steps'],quick[2]['sizes']['n_iter']
    rows = {(r['mask'],r['tool']): r for r in steps}
    for (mask,tool),r in rows.items():
        if tool.startswith('dense'): assert r['masks'] == 0 and r['sparsity'] < 1
        elif mask == 'constant': assert r['masks'] == 0 and r['sparsity'] == pytest.approx(50, abs=.1)
    by_all = [rows['agp',o] for o in ('lottery_nb', 'torch.nn.utils.prune, every 16 batches')]
    assert by_all[0]['made'] == by_all[1]['made'] == [i%16 == 0 for i in range(n_iter)]
    assert by_all[0]['sparsity'] == by_all[1]['sparsity']
    for o in ('lottery_nb, update_every=1', 'torch.nn.utils.prune, every batch'): assert all(rows['agp',o]['made'])

def test_masks(quick):
    rows = quick[2]['masks']
    for n in {r['weights'] for r in rows}:
        for before in (0, 25): assert {'lottery_nb', 'torch.nn.utils.prune'} <= tools(rows, weights=n, pruned_before=before)
    assert max(r['weights'] for r in rows) == 1_000_000
    assert all(finite(r['median'], r['q1'], r['q3'], r['median_seconds']) for r in rows)
    if sys.platform == 'linux': assert any(r['extra_memory'] for r in rows)

def test_report(quick):
    printed,markdown,result = quick
    assert markdown.strip() in printed
    assert result['circumstances']['torch'] in markdown and result['circumstances']['date'] in markdown
    for r in result['steps'] + result['masks']: assert f'| {r["tool"]} ' in markdown
    assert ('fasterai is not installed' in printed) != ('fasterai' in result['circumstances'])
