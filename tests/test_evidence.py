"What is said of a table: intervals, differences seed by seed, findings and figures, whatever made the table"
import numpy as np, pandas as pd, pytest
from lottery_nb.arms import arm
from lottery_nb.core import as_table
from lottery_nb.evidence import early_stop, plot_curve, plot_learning, summarise

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
    half = 4.302652729911275*np.std([.03,.035,.025], ddof=1)/3**.5
    assert t.loc['reinit','difference_interval']==pytest.approx(half)
    assert t.loc['reinit','finding']=='at 80 % density tickets beat fresh weights by 3.0 ± 1.2 points, 3 seeds'
    assert '3 seeds cannot show a difference between tickets and random masks (' in t.loc['random','finding']
    assert not t.loc['random','shown']
    assert pd.isna(t.loc['dense','versus'])
    assert t.loc['dense','finding'].startswith('at 100 % density dense networks: 92.0 ± 5.0 %')
    assert set(summarise(df, step=0).step)=={0} and set(summarise(df, 'early_stop')['mean'])=={0.}
    assert set(summarise(df, step='early_stop').step)=={0}
    assert 'have a lower valid loss than fresh weights' in summarise(df, 'valid_loss', 0).finding[2]

def test_one_seed_and_equal_ones_claim_nothing():
    one = summarise(by_hand({('dense',0): [.9], ('ticket',1): [.95]}))
    assert one.interval.isna().all() and not one.shown.any() and all('1 seed cannot tell' in o for o in one.finding)
    equal = summarise(by_hand({('dense',0): [.5,.6], ('ticket',1): [.5,.6]}))
    assert not equal.shown.any() and '2 seeds cannot tell' in equal.finding[1]

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
