"Schedules at random points, between random sparsities, with random parameters"
import math

import numpy as np, pytest, torch
from hypothesis import assume, example, given, settings, strategies as st

from lottery_nb.schedules import (Schedule, agp, cosine, dsd, geometric, iterative, linear, one_cycle, one_shot,
                                  plot_schedules, schedule, schedules)

OURS = list(schedules.values())
percent, share = st.floats(0, 100), st.floats(0, 1)
steps = st.integers(1, 60)
ours = st.one_of(st.sampled_from(OURS), steps.map(lambda n: iterative(n_steps=n)),
                 steps.map(lambda n: geometric(n_steps=n)),
                 st.floats(.1, 9).map(lambda p: agp(power=p)),
                 st.tuples(st.floats(1, 40), st.floats(-10, 20)).map(lambda ab: one_cycle(alpha=ab[0], beta=ab[1])))

@settings(max_examples=1000, deadline=None)
@given(ours, percent, percent, share)
@example(geometric, 100., 100., 0.)
@example(geometric, 0., 100., .5)
@example(linear, 100., 100., .3)
def test_between_start_and_end(s, a, b, pos):
    start, end = sorted((a, b))
    assert start-1e-9 <= s.at(pos, start, end) <= end+1e-9

@settings(max_examples=1000, deadline=None)
@given(ours, percent, percent, share, share)
def test_monotone_unless_it_falls(s, a, b, p, q):
    (start, end), (p, q) = sorted((a, b)), sorted((p, q))
    assume(s.name!='dsd')
    assert s.at(p, start, end) <= s.at(q, start, end) + 1e-9

@settings(max_examples=500, deadline=None)
@given(ours, percent, percent, st.floats(0, 1e6), st.floats(-1e6, -1e-300))
def test_exact_ends(s, start, end, after, before):
    assert s.at(before, start, end)==start
    assert s.at(1+after, start, end)==s.at(1, start, end)==(start if s.name=='dsd' else end)

@given(percent, percent)
def test_exact_beginnings(start, end):
    for s in (linear, cosine, agp, dsd): assert s.at(0, start, end)==start
    for s in (one_shot, iterative(n_steps=1), geometric(n_steps=1)): assert s.at(0, start, end)==end
    assert dsd.at(.5, start, end)==end
    assert abs(one_cycle.at(0, start, end)-start) <= .0025*abs(end-start) + 1e-9

@settings(deadline=None)
@given(steps, percent, percent)
def test_iterative_takes_equal_steps(n, start, end):
    got = [iterative(n_steps=n).at(k/n, start, end) for k in range(n)]
    assert np.allclose(got, [start + (end-start)*(k+1)/n for k in range(n)])

@settings(deadline=None)
@given(steps, st.floats(0, 99), st.floats(0, 99))
def test_geometric_takes_equal_shares_of_what_is_left(n, a, b):
    start, end = sorted((a, b))
    left = [100-start] + [100-geometric(n_steps=n).at(k/n, start, end) for k in range(n)]
    ratio = ((100-end)/(100-start))**(1/n)
    assert np.allclose([y/x for x,y in zip(left, left[1:])], ratio)

@given(steps, st.integers(0, 50), st.integers(1, 20), st.integers(1, 500))
def test_rounds_begin_on_the_batch(n, first_epoch, per_round, batches):
    "Round k begins at the first batch of its epoch, however the fractions are rounded"
    last = first_epoch + n*per_round
    s, total = iterative(n_steps=n), last*batches
    for k in range(n):
        batch = (first_epoch + k*per_round)*batches
        for pos in ((batch/batches-first_epoch)/(last-first_epoch), (batch/total*last-first_epoch)/(last-first_epoch)):
            assert math.isclose(s.at(max(pos, 0), 0, 100), 100*(k+1)/n, abs_tol=1e-6)
        assert math.isclose(s.at((batch-1-first_epoch*batches)/((last-first_epoch)*batches), 0, 100),
                            100*k/n, abs_tol=1e-6)

def test_kinds():
    for n in (1, 2, 3, 7, 30, 100, 400): assert iterative(n_steps=n).stepwise and geometric(n_steps=n).stepwise
    ramp = Schedule(lambda start, end, pos: end*min(max((pos-.9)/.02, 0), 1))
    dip = Schedule(lambda start, end, pos: end/2 if .5<pos<.6 else end)
    assert not ramp.stepwise and dip.stepwise and dip.falls and not ramp.falls

@pytest.mark.parametrize('wrong, error, message', [
    (lambda: iterative(steps=3), TypeError, "iterative has no parameter 'steps': it takes n_steps"),
    (lambda: geometric(n_steps=-1).at(0), ValueError, 'n_steps=-1'),
    (lambda: iterative(n_steps=2.5).at(0), TypeError, 'n_steps=2.5'),
    (lambda: agp(power=math.nan).at(0), ValueError, 'power=nan'),
    (lambda: one_cycle(alpha=-1).at(0), ValueError, 'alpha=-1'),
    (lambda: linear.at(-1, -5, 50), ValueError, 'start=-5')])
def test_errors(wrong, error, message):
    with pytest.raises(error, match=message): wrong()

@pytest.mark.parametrize('gives, error', [(math.nan, ValueError), (math.inf, ValueError),
                                          (-math.inf, ValueError), (100.1, ValueError), (-.1, ValueError),
                                          (None, TypeError), ('50', TypeError), (1j, TypeError), (True, TypeError)])
def test_what_a_schedule_must_not_give(gives, error):
    def odd(start, end, pos): return gives
    with pytest.raises(error, match=r'odd.at\(0.5, 0.0, 50\)=.*expected a'): Schedule(odd).at(.5, end=50)

@pytest.mark.parametrize('gives',
                         [50, 50., np.float32(50), np.float64(50), np.int64(50), torch.tensor(50.), torch.tensor(50)])
def test_numbers_of_all_kinds_become_floats(gives):
    got = Schedule(lambda start, end, pos: gives).at(.5)
    assert got==50 and type(got) is float

def test_own_schedule_is_found_and_drawn():
    @schedule
    def mine(start, end, pos, *, p=2): return start + (end-start)*pos**p
    assert schedules['mine'] is mine and mine(p=1).at(.5, 0, 80)==40
    assert [ax.get_title() for ax in plot_schedules().axes]==list(schedules)
    x, y = mine.plot(start=10, end=50).lines[0].get_data()
    assert (x[0], y[0], x[-1], y[-1])==(0, 10, 1, 50)
