"What is said of a table: intervals, differences seed by seed, findings and figures, whatever made the table"
import numpy as np, pandas as pd, pytest
from scipy import stats
from lottery_nb.arms import arm
from lottery_nb.core import as_table
from lottery_nb.evidence import (arm_style, early_stop, equivalent, mean_interval, plot_curve, plot_differences,
                                 plot_learning, summarise)

def by_hand(values, metrics=('accuracy','valid_loss')):
    "arm, round -> value of each seed, at two steps"
    return as_table(dict(arm=a, seed=seed, round=r, density=100*.8**r,
                         epoch=0, step=step, metric=m, value=1-v/(1+step) if m=='valid_loss' else v)
                    for (a,r),vs in values.items() for seed,v in enumerate(vs) for step in (0,10) for m in metrics)

def test_summary_is_paired_and_says_what_can_be_shown():
    df = by_hand({('dense',0): [.90,.92,.94], ('ticket',1): [.91,.935,.95],
                  ('reinit',1): [.88,.90,.925], ('random',1): [.95,.90,.96]})
    t = summarise(df).set_index('arm')
    assert list(t.index)==['dense','ticket','reinit','random']
    assert t.loc['reinit','difference']==pytest.approx(np.mean([.03,.035,.025]))
    assert t.loc['ticket','difference']==pytest.approx(np.mean([.01,.015,.01]))
    p = 1-.05/3/2 # three intervals together
    of_t = (2*p-1)*(2/(4*p*(1-p)))**.5 # the quantile with 2 degrees of freedom
    half = of_t*np.std([.03,.035,.025], ddof=1)/3**.5
    assert t.loc['reinit','difference_interval']==pytest.approx(half)
    assert t.loc['dense','interval']==pytest.approx(4.302652729911275*.02/3**.5) # for itself
    says = 'at 80 % density tickets beat fresh weights by 3.0 ± 2.2 points, 3 seeds, 3 comparisons'
    assert t.loc['reinit','finding']==says and t.loc['reinit','shown'] and set(t.comparisons)=={3}
    says = 'by 1.2 ± 1.3 points, 3 seeds, 3 comparisons (by Holm, p = 0.04; the interval holds 0)'
    assert t.loc['ticket','finding'].endswith(says) and t.loc['ticket','shown']
    assert '3 seeds cannot show a difference between tickets and random masks (' in t.loc['random','finding']
    assert not t.loc['random','shown']
    assert pd.isna(t.loc['dense','versus'])
    assert t.loc['dense','finding'].startswith('at 100 % density dense networks: 92.0 ± 5.0 %')
    assert set(summarise(df, step=0).step)=={0} and set(summarise(df, 'early_stop')['mean'])=={0.}
    assert set(summarise(df, step='early_stop').step)=={0}
    few = df[df.arm.isin(['ticket','reinit'])]
    assert summarise(few, 'valid_loss', 0).finding[1]==('at 80 % density tickets have a lower valid loss than '
                                                        'fresh weights by 0.030 ± 0.012, 3 seeds, 1 comparison')

def test_one_seed_and_equal_ones_claim_nothing():
    one = summarise(by_hand({('dense',0): [.9], ('ticket',1): [.95]}))
    assert one.interval.isna().all() and not one.shown.any() and all('1 seed cannot tell' in o for o in one.finding)
    equal = summarise(by_hand({('dense',0): [.5,.6], ('ticket',1): [.5,.6]}))
    assert not equal.shown.any() and '2 seeds cannot tell' in equal.finding[1]

def test_the_same_difference_in_all_seeds_is_no_test_and_says_so():
    same = by_hand({('dense',0): [.9,.92,.94], ('ticket',1): [.9,.92,.94], ('reinit',1): [.8,.81,.79]})
    for fn in (lambda df: equivalent(df, .01), plot_differences):
        with pytest.raises(ValueError, match='and not the same difference in all'): fn(same[same.arm!='reinit'])
    assert equivalent(same, .01).arm.tolist()==['reinit'] # dense networks can't be tested
    assert summarise(same).comparisons.eq(1).all()

@pytest.mark.parametrize('far', [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_count(far):
    df = by_hand({('dense',0): [.9,.92,.94], ('ticket',1): [.91,.93,.96]})
    broken = df.assign(value=df.value.where((df.arm!='ticket') | (df.seed!=1), far))
    t = summarise(broken).set_index('arm')
    assert t.loc['ticket',['seeds','pairs']].tolist()==[2,2] and t.loc['ticket','difference']==pytest.approx(.015)
    assert early_stop(broken).seed.tolist()==[0,1,2,0,2]
    with pytest.raises(ValueError, match='a number in some run'): summarise(df.assign(value=far))

@pytest.mark.parametrize('by, told', [(['lr'], 'by=.*the name of a further'), (3, 'by=3'), ('arm', "by='arm'.*further"),
    ('lr', 'value in every row'), ('nope', 'with the column nope'), ('seeds', "by='seeds'.*rename it")])
def test_a_further_column_is_one(by, told):
    df = by_hand({('dense',0): [.9,.92], ('ticket',1): [.91,.95]})
    df = pd.concat([df.assign(lr=.1, seeds=2), df.assign(lr=None, seeds=3)])
    with pytest.raises(ValueError, match=told): summarise(df, by=by)

@pytest.mark.parametrize('values', ['ab', None, 3, [[1,2],[3,4]]], ids=str)
def test_an_interval_is_of_numbers(values):
    with pytest.raises(ValueError, match='values=.*numbers, one a seed'): mean_interval(values)

def test_pairs_are_seeds_that_both_arms_have():
    df = by_hand({('dense',0): [.9,.9,.92], ('ticket',1): [.91,.93,.95], ('reinit',1): [.8,.85,.82]})
    t = summarise(df[(df.arm!='reinit') | (df.seed!=1)]).set_index('arm')
    assert t.loc['reinit','seeds']==2 and t.loc['reinit','pairs']==2
    assert t.loc['reinit','difference']==pytest.approx(.12)

def test_without_a_seed_in_common_there_is_no_difference():
    df = by_hand({('dense',0): [.9,.9,.92], ('ticket',1): [.91,.93,.95]})
    found = summarise(df[(df.arm=='dense') == (df.seed==0)]).iloc[1]
    assert found.pairs==0 and not found.shown and found.finding.endswith('dense networks have no seed in common')

def test_two_tables_are_compared_by_the_names_of_their_arms():
    a,b = [by_hand({('dense',0): o, ('ticket',1): o}) for o in ([.9,.91,.92], [.8,.82,.81])]
    both = summarise(pd.concat([a, b.assign(arm='other '+b.arm)])).set_index('arm')
    assert both.loc['other ticket','pairs']==3 and both.loc['other ticket','difference']==pytest.approx(.1)

def test_a_run_that_ended_early_is_not_counted_at_the_end():
    df = by_hand({('dense',0): [.9,.92,.95], ('ticket',1): [.91,.93,.1]})
    lost = df[~((df.arm=='ticket') & (df.seed==2) & (df.step==10))]
    t = summarise(lost).set_index('arm')
    assert t.loc['ticket','seeds']==2 and t.loc['ticket','mean']==pytest.approx(.92) and set(t.step)=={10}
    fewer = df.assign(value=df.value.where((df.seed!=2) | (df.arm!='ticket')))
    assert summarise(fewer).set_index('arm').loc['ticket','seeds']==2

def test_arms_that_nobody_registered_go_along_under_their_name():
    df = by_hand({('yours',1): [.8,.83], ('mine(k=3)',1): [.7,.75], ('ticket',1): [.91,.95]})
    t = summarise(df)
    assert t.arm.tolist()==['ticket','yours','mine(k=3)']
    assert t.finding[0]=='at 80 % density tickets: 93 ± 25 %, 2 seeds'
    assert 'tickets and mine(k=3)' in t.finding[2] or 'tickets beat mine(k=3)' in t.finding[2]
    lines = plot_curve(df, 'accuracy').axes[0].lines
    assert [o.get_label() for o in lines]==['tickets','yours','mine(k=3)'] and len({o.get_color() for o in lines})==3

def test_an_arm_that_is_registered_goes_under_its_label():
    @arm(label='half of the seeds')
    def half(ticket, seed, model): return ticket
    t = summarise(by_hand({('ticket',1): [.9,.91,.92], ('half',1): [.1,.12,.11]}))
    assert 'tickets beat half of the seeds by' in t.finding[1]

def test_tables_of_one_learner():
    "One seed, other metrics, no dense networks, steps that go on from round to round"
    df = as_table(dict(arm='ticket', seed=3, round=r, density=100*.5**r,
                       epoch=2*r+e, step=20*r+10*e+10, metric=m, value=v/(r+e+1))
                  for r in range(3) for e in (0,1) for m,v in (('train_loss',1.), ('valid_loss',2.), ('error_rate',.5)))
    t = summarise(df)
    assert t.step.tolist()==[20,40,60] and t.density.tolist()==[100,50,25]
    assert t['mean'].tolist()==pytest.approx([.25,.5/3,.125])
    assert t.finding[0]=='at 100 % density tickets: 25 %; 1 seed cannot tell how much of that is chance'
    assert early_stop(df).value.tolist()==[20,40,60]
    fig = plot_curve(df)
    assert [ax.get_ylabel() for ax in fig.axes]==['step of the lowest loss','error rate, percent']
    assert not any(len(o.get_paths()) for ax in fig.axes for o in ax.collections) # a band would claim something
    assert plot_learning(df, 1).axes[0].lines[0].get_xdata().tolist()==[30,40]

def test_tables_of_several_settings_are_refused():
    """What an experiment gives for two learning rates is not one curve: a seed would count twice,
    and paired with itself four times"""
    df = by_hand({('dense',0): [.9,.92], ('ticket',1): [.91,.93]})
    both = pd.concat([df.assign(lr=o) for o in (.1,.2)], ignore_index=True)
    for fn in (summarise, early_stop, plot_curve, lambda o: plot_learning(o, 1)):
        with pytest.raises(ValueError,
                           match=r"several values for .*: lr differ; take one, as in df\[df\['lr'\]==0.1\]"):
            fn(both)
        with pytest.raises(ValueError, match='several values for the same seed'): fn(pd.concat([df, df]))
        with pytest.raises(ValueError, match='no rows'): fn(df[:0])
        with pytest.raises(ValueError, match='it has no arm, seed'): fn(pd.DataFrame(dict(a=[1])))
        fn(both[both.lr==.1])
    assert summarise(both[both.lr==.1]).equals(summarise(df))

def test_what_is_not_in_the_table():
    df = by_hand({('dense',0): [.9,.92]}, ['accuracy'])
    assert summarise(df).seeds.item()==2
    for wrong in (dict(metric='early_stop'), dict(step='early_stop')):
        with pytest.raises(ValueError, match='valid_loss|expected one of accuracy$'): summarise(df, **wrong)
    with pytest.raises(ValueError, match="step='end': expected one of early_stop"): summarise(df, step='end')
    with pytest.raises(ValueError, match='metric=12'): plot_curve(df, ('accuracy',12))
    with pytest.raises(ValueError, match="metric=.*'accuracy', 0, 1"): plot_curve(df, [('accuracy',0,1)])
    with pytest.raises(TypeError, match='its values are no numbers'): summarise(df.assign(value='high'))

# --- Many comparisons

def noise(seed, arms=3, rounds=4, seeds=5, shift=0.):
    "Made-up accuracies; tickets are better by `shift` times the number of the other arm"
    g,names = np.random.default_rng(seed),['ticket',*(f'other{i}' for i in range(arms))]
    return by_hand({(a,r): .9+.01*g.standard_normal(seeds)-shift*i for i,a in enumerate(names)
                    for r in range(1, rounds+1)}, ['accuracy'])

def by_holm(p):
    "The correction as Holm 1979 writes it"
    m,worst,found = len(p),0.,{}
    for k,i in enumerate(np.argsort(p)):
        worst = max(worst, min(1., (m-k)*p[i]))
        found[i] = worst
    return [found[i] for i in range(m)]

@pytest.mark.parametrize('seed', range(10))
def test_what_is_shown_is_what_holm_leaves(seed):
    t = summarise(noise(seed, shift=.006)).dropna(subset='p')
    assert len(t)==12 and set(t.comparisons)=={12} and t.p_holm.tolist()==pytest.approx(by_holm(t.p.tolist()))
    assert t.shown.tolist()==(t.p_holm<.05).tolist()
    wide = t.difference_interval/t.difference.abs()
    assert t.shown[wide<1].all() and all(('the interval holds 0' in o) == (s and w>1)
                                         for o,s,w in zip(t.finding, t.shown, wide))
    assert all(o.endswith('12 comparisons)') or ', 12 comparisons' in o for o in t.finding)

def test_the_t_test_is_that_of_scipy():
    df = noise(0)
    t = summarise(df).set_index(['arm','round'])
    a,b = (df[(df.arm==o) & (df['round']==2) & (df.step==10)].value for o in ('ticket','other1'))
    assert t.loc[('other1',2),'p']==pytest.approx(stats.ttest_rel(a, b).pvalue)
    m,half = mean_interval(a.to_numpy()-b.to_numpy(), 12)
    low,high = stats.ttest_rel(a, b).confidence_interval(1-.05/12)
    assert (m-half,m+half)==pytest.approx((low,high))

def test_fewer_questions_are_corrected_less():
    df = noise(1, shift=.01)
    all_,one = summarise(df),summarise(df[df['round']==2])
    wide,narrow = all_[all_['round']==2].reset_index(drop=True),one
    assert (wide.p.dropna()==narrow.p.dropna()).all() and (wide.p_holm.dropna()>=narrow.p_holm.dropna()).all()
    assert (wide.difference_interval.dropna()>narrow.difference_interval.dropna()).all()
    assert set(narrow.comparisons)=={3}

def test_what_cannot_be_tested_is_no_comparison():
    df = by_hand({('dense',0): [.9,.91,.92], ('ticket',1): [.91,.935,.95], ('reinit',1): [.91,.935,.95],
                  ('random',1): [.95]})
    t = summarise(df).set_index('arm')
    assert set(t.comparisons)=={1} and t.p.notna().tolist()==[False,True,False,False]
    assert t.loc['ticket','p']==t.loc['ticket','p_holm']

def test_intervals_hold_together():
    g = np.random.default_rng(3)
    looks = np.array([[abs(m)<=h for m,h in (mean_interval(o, 10) for o in g.normal(size=(10,4)))] for _ in range(400)])
    assert looks.all(1).mean()>.93
    for wrong in (dict(together=0), dict(together=1.5), dict(level=0), dict(level=100)):
        with pytest.raises(ValueError, match=next(iter(wrong))): mean_interval([1,2], **wrong)

# --- Equivalence

def test_equivalence_is_two_one_sided_tests():
    df = by_hand({('dense',0): [.90,.92,.94,.93], ('ticket',1): [.901,.921,.943,.931],
                  ('reinit',1): [.88,.90,.925,.98]})
    t = equivalent(df, .005).set_index('arm')
    assert list(t.index)==['ticket','reinit'] and set(t.comparisons)=={2}
    d = np.array([.001,.001,.003,.001])
    p = max(stats.ttest_1samp(d, m, alternative=o).pvalue for m,o in ((-.005,'greater'), (.005,'less')))
    assert t.loc['ticket','p_match']==pytest.approx(2*p) and t.loc['ticket','match']
    half = stats.t.ppf(1-.05/2, 3)*stats.sem(d)
    assert t.loc['ticket','interval']==pytest.approx(half)
    assert t.loc['ticket','finding']==('at 80 % density tickets match dense networks within 0.5 points, 4 seeds '
                                       '(+0.15 ± 0.16 points, a 90 % interval, 2 comparisons)')
    assert not t.loc['reinit','match']
    assert '4 seeds cannot show that tickets match fresh weights' in t.loc['reinit','finding']

def test_a_match_that_only_holm_sees_says_so():
    df = by_hand({('dense',0): [.90,.92,.94,.93], ('ticket',1): [.901,.921,.943,.931],
                  ('reinit',1): [.88,.90,.925,.94]})
    found = equivalent(df, .005).set_index('arm').loc['reinit']
    assert found.no_worse and not found.match and found.difference-found.interval<-.005
    assert found.finding.endswith('(+1.3 ± 2.3 points, a 90 % interval, 2 comparisons; '
                                  f'by Holm, p = {found.p_no_worse:.2g}, while the interval goes on)')

@pytest.mark.parametrize('margin', [.002,.005,.01,.02])
def test_a_match_is_an_interval_within_the_margin(margin):
    df = noise(5, arms=1, rounds=1, seeds=8)
    one = equivalent(df, margin).iloc[0]
    assert one.match==bool(abs(one.difference)+one.interval<margin)
    assert one.no_worse==bool(one.difference-one.interval>-margin) and (one.no_worse or not one.match)

def test_what_is_worse_depends_on_the_metric():
    values = {('ticket',1): [.90,.91,.92,.93], ('reinit',1): [.8,.812,.819,.83]}
    for metric,better in dict(accuracy=True, valid_loss=False, error_rate=False).items():
        found = equivalent(by_hand(values, [metric]), .005, metric, 10).iloc[0]
        assert not found.match and found.no_worse==(better or metric=='valid_loss') # by_hand turns the loss around
    found = equivalent(by_hand(values, ['accuracy']), .005).finding[0]
    assert 'tickets are no worse than fresh weights by more than 0.5 points, 4 seeds (' in found

def test_equivalence_of_nothing():
    df = by_hand({('dense',0): [.9], ('ticket',1): [.95]})
    with pytest.raises(ValueError, match='two seeds in common'): equivalent(df, .01)
    with pytest.raises(ValueError, match='two seeds in common'): plot_differences(df)
    for margin in (0, -.1, np.nan, 1, 5):
        with pytest.raises(ValueError, match='margin'): equivalent(df, margin)
    with pytest.raises(TypeError, match='margin'): equivalent(df, '0.5')

# --- Parts of the data, and where it comes from

def test_steps_are_chosen_on_one_part_and_reported_on_another():
    df = by_hand({('dense',0): [.9,.91], ('ticket',1): [.92,.94]}, ['accuracy','valid_loss','test_accuracy'])
    df.loc[df.metric=='test_accuracy','value'] -= df.step/1000
    t = summarise(df, step='early_stop').set_index('arm')
    assert set(t.chosen_on)=={'valid'} and set(t.reported_on)=={'test'}
    assert t.loc['ticket','mean']==pytest.approx(.93) and set(t.step)=={0} # of equal losses the first
    last = summarise(df)
    assert last.chosen_on.isna().all() and set(last.reported_on)=={'test'}
    assert last['mean'].tolist()==pytest.approx([.895,.92])
    assert set(summarise(df, 'accuracy', 'early_stop').reported_on)=={'valid'}
    assert set(equivalent(df, .5, step='early_stop').reported_on)=={'test'}
    assert plot_learning(df, 1).axes[0].get_ylabel()=='validation accuracy, percent'
    assert plot_curve(df).axes[-1].get_ylabel()=='test accuracy, percent'

def test_what_is_known_of_a_table_goes_along():
    df = by_hand({('dense',0): [.9,.91], ('ticket',1): [.92,.94]})
    df.attrs = dict(criteria='large_final', versions=dict(torch='2.8'))
    both = pd.concat([df, df.assign(arm='other '+df.arm)])
    for o in (summarise(df), equivalent(df, .1), early_stop(df), summarise(both)):
        assert o.attrs==df.attrs

def test_the_figure_of_differences_is_that_of_the_summary():
    df = noise(2, arms=2, seeds=8, shift=.012)
    ax,t = plot_differences(df).axes[0],summarise(df).dropna(subset='difference')
    for i,name in enumerate(['other0','other1']):
        line,marks = ax.lines[1+2*i:3+2*i] # after that of 0
        rows = t[t.arm==name].sort_values('density', ascending=False)
        np.testing.assert_allclose(line.get_ydata(), 100*rows.difference)
        np.testing.assert_allclose(marks.get_ydata(), 100*rows.difference[rows.shown])
        band = ax.collections[i].get_paths()[0].vertices[:,1]
        assert band.max()==pytest.approx(100*(rows.difference+rows.difference_interval).max())
    assert t.shown.any() and not t.shown.all()

def test_a_metric_of_the_training_part_is_reported_on_it():
    df = by_hand({('dense',0): [.9,.92], ('ticket',1): [.91,.95]}, ['accuracy','train_loss','test_accuracy'])
    told = {o: summarise(df, o).reported_on[0] for o in df.metric.unique()}
    assert told=={'accuracy': 'valid', 'train_loss': 'train', 'test_accuracy': 'test'}

def test_early_stop_is_the_first_of_the_lowest_whatever_order_the_rows_have():
    rows = [dict(arm='dense', seed=0, round=0, density=100, epoch=0, step=o, metric='valid_loss', value=float(o>20))
            for o in (20,30,0,10)]
    assert early_stop(as_table(rows)).step.tolist()==[0]

def test_early_stop_is_the_first_of_the_lowest():
    df = by_hand({('dense',0): [.9]})
    df.loc[df.metric=='valid_loss','value'] = .5
    assert early_stop(df).step.tolist()==[0]

def test_pictures_show_the_table():
    g = np.random.default_rng(0)
    df = by_hand({('dense',0): g.random(3),
                  **{(a,r): g.random(3) for a in ('ticket','reinit','random') for r in (1,2)}})
    fig = plot_curve(df, 'accuracy', arms=['ticket','reinit'])
    table = summarise(df)
    for i,name in enumerate(['ticket','reinit'], 1):
        rows = pd.concat([table[table.arm=='dense'], table[table.arm==name]])
        np.testing.assert_allclose(fig.axes[0].lines[i].get_ydata(), 100*rows['mean'])
        np.testing.assert_allclose(fig.axes[0].lines[i].get_xdata(), rows.density)

# --- By a further column, and how arms are drawn

def test_each_value_of_a_further_column_has_its_findings_and_all_are_corrected_together():
    tables = {k: noise(k, arms=2, rounds=2) for k in (0, 5)}
    both = pd.concat([o.assign(rewind=k) for k,o in tables.items()], ignore_index=True)
    found = summarise(both, by='rewind')
    assert list(found)[0]=='rewind' and list(found)[1:]==list(summarise(tables[0]))
    together = ['difference_interval','p_holm','shown','comparisons','finding']
    for k,o in tables.items():
        alone,here = summarise(o),found[found.rewind==k].drop(columns='rewind').reset_index(drop=True)
        assert here.finding.str.startswith(f'rewind {k}: at ').all()
        pd.testing.assert_frame_equal(here.drop(columns=together), alone.drop(columns=together))
    assert set(found.comparisons)=={sum(summarise(o).comparisons[0] for o in tables.values())}
    named = summarise(both.assign(rewind=both.rewind.map({0: 'early', 5: 'late'})), by='rewind')
    assert named.finding[0].startswith('early: at ')
    with pytest.raises(ValueError, match='a table of measurements with the column rewind; it has no rewind'):
        summarise(tables[0], by='rewind')
    with pytest.raises(ValueError, match="metric='f1'"): summarise(both, 'f1', by='rewind')

def test_an_arm_looks_the_same_in_every_figure_and_no_two_are_alike():
    alone = arm_style('shuffle')
    @arm
    def newer(ticket, seed, model): return ticket
    assert arm_style('shuffle', ['dense', 'newer', 'mine'])==alone!=arm_style('newer', ['newer', 'shuffle'])
    names = ['dense', 'ticket', *(f'mine{i}' for i in range(25))]
    looks = [tuple(map(str, arm_style(o, names).values())) for o in names]
    assert len(set(looks))==len(names) and len({o[0] for o in looks[:11]})==11

def test_the_last_step_is_that_of_the_metric():
    "Another metric may have been measured later"
    df = by_hand({('dense',0): [.9,.92,.94], ('ticket',1): [.91,.93,.95]}, ['accuracy'])
    late = as_table([dict(arm='ticket', seed=0, round=1, density=80., epoch=0, step=12, metric='valid_loss', value=1.)])
    assert summarise(pd.concat([df, late]), 'accuracy').equals(summarise(df, 'accuracy'))

@pytest.mark.parametrize('column', ['seed','round'])
def test_a_run_without_a_name_is_refused(column):
    df = by_hand({('dense',0): [.9,.92,.94], ('ticket',1): [.91,.93,.95]})
    with pytest.raises(ValueError, match=f'values in all rows of {column}'):
        summarise(df.assign(**{column: df[column].where(df.seed>0)}))
