"Every criterion against a formula of its own, in numpy and double precision, on random weights"
import pickle, subprocess, sys

import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lottery_nb.criteria import (Criterion, WeightView, criteria, criterion, large_init_large_final,
                                 needs as all_needs, random_scores)

# every criterion: what it needs, and what it gives for final, init, previous, gradient
FORMULAS = dict(
    large_final=((), lambda f,i,p,g: np.abs(f)),
    small_final=((), lambda f,i,p,g: -np.abs(f)),
    squared_final=((), lambda f,i,p,g: f**2),
    large_init=(('init',), lambda f,i,p,g: np.abs(i)),
    small_init=(('init',), lambda f,i,p,g: -np.abs(i)),
    large_init_large_final=(('init',), lambda f,i,p,g: np.where(np.abs(f)<np.abs(i), np.abs(f), np.abs(i))),
    small_init_small_final=(('init',), lambda f,i,p,g: -np.where(np.abs(f)>np.abs(i), np.abs(f), np.abs(i))),
    magnitude_increase=(('init',), lambda f,i,p,g: np.sqrt(f*f) - np.sqrt(i*i)),
    movement=(('init',), lambda f,i,p,g: np.where(f>i, f-i, i-f)),
    movmag=(('init',), lambda f,i,p,g: np.abs(f)*np.abs(f-i)),
    updating_magnitude_increase=(('previous',), lambda f,i,p,g: np.sqrt(f*f) - np.sqrt(p*p)),
    updating_movement=(('previous',), lambda f,i,p,g: np.where(f>p, f-p, p-f)),
    updating_movmag=(('previous',), lambda f,i,p,g: np.abs(f)*np.abs(f-p)),
    large_final_same_sign=(('init',), lambda f,i,p,g: np.where(f*i>0, np.abs(f), 0)),
    large_final_diff_sign=(('init',), lambda f,i,p,g: np.where(f*i<0, np.abs(f), 0)),
    taylor=(('grad',), lambda f,i,p,g: np.abs(f)*np.abs(g)))
by_formula = pytest.mark.parametrize('name', FORMULAS)

# no subnormal numbers: their products are 0 in one precision and not in another
real = st.floats(-8, 8, width=32).map(lambda v: v if abs(v)>1e-6 else 0.)
four = array_shapes(max_dims=5,
                    max_side=5).flatmap(lambda shape: st.tuples(*[arrays(np.float32, shape, elements=real)]*4))

def view(f, i=None, p=None, g=None, name='conv.weight'):
    return WeightView(name, *(None if a is None else torch.as_tensor(a) for a in (f, i, p, g)))

def test_none_is_forgotten():
    of_data = {k for k,c in criteria.items() if any(all_needs[o].from_data for o in c.needs)} # in test_calibration.py
    assert set(criteria)-of_data=={*FORMULAS, 'random_scores', 'random'}
    assert criteria['random'] is criteria['random_scores'] is random_scores
    assert all(k in (c.name, 'random') and c.__doc__ for k,c in criteria.items())

@by_formula
@given(four)
def test_formula(name, tensors):
    expected = FORMULAS[name][1](*(t.astype(np.float64) for t in tensors))
    scores = criteria[name].scores(view(*tensors))
    assert scores.shape==tensors[0].shape and scores.dtype==torch.float32
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5, atol=1e-5)

@given(four, st.floats(.01, 10))
def test_alpha(tensors, alpha):
    f,i = (np.abs(t.astype(np.float64)) for t in tensors[:2])
    for name,expected in dict(large_init_large_final=np.minimum(alpha*f, i),
                              small_init_small_final=-np.maximum(alpha*f, i)).items():
        np.testing.assert_allclose(criteria[name](alpha=alpha).scores(view(*tensors)).numpy(),
                                   expected, rtol=1e-5, atol=1e-5)

@by_formula
def test_needs_are_what_is_read(name):
    "With what it says it needs, and nothing else, it works; without it, the error says what is missing and what to do"
    needs, give = FORMULAS[name][0], dict(init=torch.ones(2,3), previous=torch.ones(2,3), grad=torch.ones(2,3))
    assert criteria[name].needs == needs
    criteria[name].scores(WeightView('fc.weight', torch.ones(2,3), **{k: give[k] for k in needs}))
    for k in needs:
        advice = r'run `loss.backward\(\)` first' if k=='grad' else rf"@criterion\(needs='{k}'\)"
        with pytest.raises(ValueError, match=rf'^fc.weight.{k}=None: expected .*{advice}'):
            criteria[name].scores(WeightView('fc.weight', torch.ones(2,3), **{o: give[o] for o in give if o!=k}))

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@by_formula
def test_half_precision_is_scored_exactly(name, dtype):
    halves = [t.to(dtype) for t in .01*torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0))]
    scores = criteria[name].scores(view(*halves))
    assert scores.dtype==torch.float32
    assert torch.equal(scores, criteria[name].scores(view(*(h.float() for h in halves))))

@by_formula
def test_double_precision_stays(name):
    tensors = torch.randn(4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = criteria[name].scores(view(*tensors))
    assert scores.dtype==torch.float64
    np.testing.assert_allclose(scores.numpy(), FORMULAS[name][1](*tensors.numpy()), rtol=1e-12, atol=1e-12)

@pytest.mark.parametrize('kind', ['final', 'init', 'previous', 'grad'])
def test_scores_are_never_the_weights_themselves(kind):
    def mine(w): return getattr(w, kind)[:]
    tensors = dict(final=torch.nn.Parameter(torch.ones(2, 3)), init=torch.ones(2, 3),
                   previous=torch.ones(2, 3), grad=torch.ones(2, 3))
    w = WeightView('fc.weight', **tensors)
    assert not getattr(w, kind).requires_grad
    criterion(mine).scores(w).zero_()
    assert all((t==1).all() for t in tensors.values())

@pytest.mark.parametrize('layout', [lambda t: t.t(), lambda t: t[::2],
                                    lambda t: t.expand(3, *t.shape), lambda t: t[:0], lambda t: t[0,0]])
@by_formula
def test_any_layout(name, layout):
    tensors = [layout(t) for t in torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))]
    scores = criteria[name].scores(view(*tensors))
    np.testing.assert_allclose(scores.numpy(), FORMULAS[name][1](*(t.numpy() for t in tensors)), rtol=1e-5, atol=1e-6)

# --- random

names = st.text(max_size=12)
@given(names, names, st.integers(0, 2**40), st.integers(0, 2**40))
def test_random_is_a_function_of_seed_and_name(a, b, seed, other):
    w = torch.zeros(6, 6)
    scores = random_scores(seed=seed).scores(view(w, name=a))
    random_scores(seed=other).scores(view(w, name=b)) # what is scored between does not matter
    assert torch.equal(scores, criteria['random'](seed=seed).scores(view(w+1, name=a)))
    if (a, seed)!=(b, other): assert not torch.equal(scores, random_scores(seed=other).scores(view(w, name=b)))

def test_random_is_uniform():
    scores = torch.cat([random_scores(seed=s).scores(view(torch.zeros(10_000), name=f'{s}')) for s in range(20)])
    assert 0<=scores.min() and scores.max()<1
    assert torch.histc(scores, 10, 0, 1).sub(20_000).abs().max() < 800 # six standard deviations
    layers = torch.stack([random_scores.scores(view(torch.zeros(10_000), name=f'{s}')) for s in range(20)])
    assert (torch.corrcoef(layers)-torch.eye(20)).abs().max() < .06

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(),
                    reason='no GPU: scores on a GPU are not compared with those on the CPU')
@pytest.mark.parametrize('name', [k for k,o in criteria.items() if not any(all_needs[n].from_data for n in o.needs)])
def test_on_a_gpu_as_on_the_cpu(name):
    tensors = torch.randn(4, 8, 8)
    # snapshots may stay on the CPU
    scores = criteria[name].scores(WeightView('fc.weight', tensors[0].cuda(), *tensors[1:]))
    assert scores.device.type=='cuda'
    torch.testing.assert_close(scores.cpu(), criteria[name].scores(WeightView('fc.weight', *tensors)))

# --- own ones

@pytest.mark.parametrize('given, dtype',
                         [(lambda w: w.final>0, torch.float64), (lambda w: w.final.long(), torch.float64),
                          (lambda w: w.final.half(), torch.float32), (lambda w: w.final.double(), torch.float64),
                          (lambda w: w.final.requires_grad_(), torch.float32)])
def test_any_real_scores_will_do(given, dtype):
    def mine(w): return given(w)
    final = torch.tensor([[1., -2.], [3., 0.]])
    scores = criterion(mine).scores(WeightView('fc.weight', final))
    assert scores.dtype==dtype and not scores.requires_grad
    assert torch.equal(scores, given(WeightView('fc.weight', final)).to(dtype))

def test_decorator():
    @criterion(needs=['init','grad'])
    def mine(w, *, power=1.):
        return (w.init*w.grad).abs()**power
    assert criteria['mine'] is mine and isinstance(mine, Criterion)
    assert mine.needs==('init','grad')==mine(power=2.).needs
    w = WeightView('fc.weight', torch.ones(2), init=torch.tensor([1., -2.]), grad=torch.tensor([3., 3.]))
    assert mine.scores(w).tolist()==[3, 6] and mine(power=2.).scores(w).tolist()==[9, 36]

def mine(fn):
    def mine(w): return fn(w)
    return criterion(mine).scores(WeightView('fc.weight', torch.ones(2,3), init=torch.ones(2,3)))

@pytest.mark.parametrize('wrong, error, message', [
    (lambda: mine(lambda w: None), TypeError,
     'criterion=mine: expected one that gives a tensor of real scores for fc.weight, not NoneType'),
    (lambda: mine(lambda w: w.final*1j), TypeError, 'not torch.complex64'),
    (lambda: mine(lambda w: w.final.sum()), ValueError,
     r'criterion=mine: expected one that gives scores of the shape \[2, 3\] for fc.weight, not \[\]'),
    (lambda: mine(lambda w: w.final.abs_()), ValueError, 'criterion=mine: expected one that leaves fc.weight as it is'),
    (lambda: mine(lambda w: w.init.mul_(2)), ValueError, 'leaves fc.weight as it is'),
    *[(lambda n=n: criterion(needs=n), ValueError, 'expected one of init, previous, grad')
      for n in ('final', 'Init', ('init','momentum'))],
    (lambda: criterion('init'), TypeError, "fn='init': expected a function"),
    *[(lambda k=k: WeightView('fc.weight', torch.ones(1,3), **{k: torch.ones(3)}),
       ValueError, rf"fc.weight.{k}=\[3\]: expected the weight's shape \[1, 3\]")
      for k in ('init','previous','grad')],
    *[(lambda o=o: WeightView('fc.weight', o), TypeError, 'fc.weight.final=.*: expected a tensor')
      for o in (None, [1.], np.ones(3))],
    *[(lambda o=o: random_scores(seed=o).scores(view(torch.zeros(3))), e, 'seed=')
      for o,e in ((-1, ValueError), (.5, TypeError), (None, TypeError))]])
def test_errors(wrong, error, message):
    with pytest.raises(error, match=message): wrong()

def test_another_process(tmp_path):
    tensors = torch.randn(4, 3, 4)
    rules = [*map(criteria.get, FORMULAS), large_init_large_final(alpha=.3), random_scores(seed=5)]
    (tmp_path/'there').write_bytes(pickle.dumps((rules, tensors.numpy())))
    code = '''import pickle, sys, torch
rules, tensors = pickle.load(open(sys.argv[1], 'rb'))
from lottery_nb.criteria import WeightView
w = WeightView('fc.weight', *torch.as_tensor(tensors))
pickle.dump((rules, [r.scores(w).numpy() for r in rules]), open(sys.argv[2], 'wb'))'''
    subprocess.run([sys.executable, '-c', code, tmp_path/'there', tmp_path/'back'], check=True)
    back, scores = pickle.loads((tmp_path/'back').read_bytes())
    assert back==rules
    w = WeightView('fc.weight', *tensors)
    for rule,s in zip(rules, scores): assert np.array_equal(s, rule.scores(w).numpy()), rule
