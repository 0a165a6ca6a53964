"The experiment of the Imagenette tutorial is what the blog post's calls do, and shares what is the same"
import importlib, sys
from pathlib import Path

import pandas as pd, pytest, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.learner import Learner
from fastai.metrics import accuracy

from lottery_nb.core import ArgumentError
from lottery_nb.all import SparsifyCallback, Ticket, digits_dls, iterative, large_final

folder = Path(__file__).resolve().parent.parent/'nbs'/'tutorials'

@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    module = importlib.import_module('imagenette')
    monkeypatch.setattr(module, 'kept', tmp_path)
    yield module
    sys.modules.pop('imagenette')

def accuracies(df, arm): return df[(df.arm==arm) & (df.metric=='accuracy')].value.tolist()

@pytest.mark.parametrize('arm, how', [('winning', dict()), ('matching', dict(rewind_epoch=1)),
                                      ('keep', dict(rewind_epoch=1, rewind_opt='keep'))])
def test_an_arm_is_the_call_of_the_post(recipe, arm, how):
    "Number for number: the same 20 epochs in one fit, with the callback"
    dense,df = (recipe.run(o, seed=3, data='digits') for o in ('dense', arm))
    torch.manual_seed(3)
    learn = Learner(digits_dls(seed=3), recipe.net('digits'), metrics=accuracy, cbs=ChannelsLast())
    sp_cb = SparsifyCallback(50, 'weight', 'global', large_final, iterative, start_epoch=5, lth=True, verbose=False,
                             **how)
    with learn.no_bar(), learn.no_logging(): learn.fit(20, cbs=sp_cb)
    theirs = [row[2] for row in learn.recorder.values]
    assert accuracies(df, arm)==theirs[5:] and accuracies(dense, 'dense')[:5]==theirs[:5]
    assert df.density.round(1).unique().tolist()==[83.3, 66.7, 50.]
    if arm=='winning':
        ticket = Ticket.load(next(recipe.kept.glob('*/winning.safetensors')))
        assert ticket.masks.digest()==sp_cb.masks.digest()

def test_what_is_shared_changes_nothing(recipe, tmp_path):
    "An arm alone, in a folder of its own, gives what it gives after the others"
    arms = ['dense','winning','matching','keep','defaults','library','reinit','shuffle']
    together = {o: accuracies(recipe.run(o, seed=1, data='digits', n_epoch=2), o) for o in arms}
    for o in arms[1:]:
        recipe.kept = tmp_path/o
        assert accuracies(recipe.run(o, seed=1, data='digits', n_epoch=2), o)==together[o]
    assert len({tuple(o) for o in together.values()})==len(arms) # and all of them differ

def test_the_table_is_the_one_table(recipe):
    df = recipe.run('matching', seed=0, data='digits', n_epoch=2)
    assert list(df)==['arm','seed','round','density','epoch','step','metric','value']
    assert df.epoch.unique().tolist()==[1, 2] and df.step.unique().tolist()==[44, 66] # W_1 has had an epoch
    assert df.groupby('round').size().tolist()==[6, 6, 6] # three measurements, two epochs

def test_half_computes_in_bfloat16_without_a_gpu_too(recipe):
    "Also when it validates; the weights and what the loss sees stay as they are"
    learn = recipe.learner('digits', 64, 64, True, seed=0)
    inside,outside,loss = set(),set(),learn.loss_func
    learn.model[0].register_forward_hook(lambda m, x, y: inside.add((m.training, y.dtype)))
    def told(pred, y):
        outside.add(pred.dtype)
        return loss(pred, y)
    learn.loss_func = told
    recipe.fit(learn, 1)
    assert inside=={(True, torch.bfloat16), (False, torch.bfloat16)}
    assert outside=={torch.float32} and learn.model[0].weight.dtype==torch.float32

def test_what_came_out(recipe):
    "Differences are those of the arms' own numbers, seed by seed, in points; those of a measure are corrected together"
    arms = ['dense','winning','matching','keep']
    df = pd.concat([recipe.run(o, seed=s, data='digits', n_epoch=5) for o in arms for s in range(3)])
    ends,rows = recipe.ends(df).set_index(['arm','seed','measure']).value,recipe.differences(df)
    assert set(ends.index.unique('arm'))=={'dense5','dense6','dense20','winning','matching','keep'}
    last = df[(df.metric=='accuracy') & (df.arm=='dense')].sort_values(['seed','epoch'])
    for s,part in last.groupby('seed'):
        v = (100*part.value).tolist()
        assert ends['dense5',s,'last epoch']==v[4] and ends['dense6',s,'best epoch']==max(v[1:6])
        assert ends['dense20',s,'mean of the last three epochs']==pytest.approx(sum(v[17:])/3)
    assert len(rows)==5*3 and (rows.comparisons==5).all()
    for _,row in rows.iterrows():
        a,b = (ends[o].xs(row.measure, level='measure') for o in recipe.shares[row.share])
        assert row.difference==pytest.approx((a-b).mean()) and f'{row.difference:+.1f}' in row.finding
        assert (row.arm,row.versus)==recipe.shares[row.share]
        assert f'points over {recipe.about[row.versus]} (' in row.finding
    alone = recipe.differences(df[df.seed==0])
    assert alone.finding.str.contains(r'1 seed\), and one seed cannot tell').all() and not alone.shown.any()
    assert len(recipe.draw(df).axes)==2
    table,values = recipe.means(df),ends['winning'].xs('last epoch', level='measure')
    assert list(table.index)==[told for o,told in recipe.about.items() if o in ends.index.unique('arm')]
    half = 4.302653*values.std()/3**.5 # Student's t of two degrees of freedom
    assert table.at[recipe.about['winning'],'last epoch']==f'{values.mean():.1f} ± {half:.1f}'
    alone = recipe.means(df[df.seed==0], marks={})
    assert list(alone)==list(recipe.measures) and '±' not in alone.to_string()

def test_arms_that_run_side_by_side_share_one_search(recipe, monkeypatch):
    "Whichever of them comes first, and whatever has run with other settings; a search is trained once"
    n,one_search = [],recipe.one_search
    monkeypatch.setattr(recipe, 'one_search', lambda *args: n.append(args[1]) or one_search(*args))
    how = dict(seed=0, data='digits', n_epoch=2, rounds=1)
    df = recipe.run('reinit', sparsity=90, **how)
    ticket = next(recipe.kept.glob('*/winning.safetensors'))
    before = ticket.read_bytes()
    winning,dense = (recipe.run(o, sparsity=90, **how) for o in ('winning','dense'))
    assert n==['winning'] and ticket.read_bytes()==before # dense and winning train nothing that's there
    assert df.density.round().unique().tolist()==[10] and len(accuracies(winning, 'winning'))==2
    assert recipe.run('reinit', **how).density.round().unique().tolist()==[50] and n==['winning']*2
    assert len(accuracies(dense, 'dense'))==4

def test_what_is_no_arm_or_no_such_table_is_refused(recipe):
    with pytest.raises(ArgumentError, match="arm='tickett': expected one of dense, winning"):
        recipe.run('tickett', 0, data='digits')
    few = pd.concat([recipe.run(o, 0, data='digits', n_epoch=2, rounds=1) for o in ('dense','winning')])
    df = pd.concat([recipe.run(o, 0, data='digits', rounds=1) for o in ('dense','winning')])
    shorter = df[(df.arm!='dense') | (df.epoch<9)].assign(seed=1)
    for wrong,told in ((few, 'five epochs'), (df[df.epoch<4], 'five epochs'), (pd.concat([df, df]), 'one setting'),
                       (df[df.arm!='dense'], 'arm dense'), (df[df.metric!='accuracy'], 'metric accuracy'),
                       (df.drop(columns='epoch'), 'it has no epoch$'), (pd.concat([df, shorter]), 'as long as others')):
        with pytest.raises(ArgumentError, match=told): recipe.ends(wrong)

def test_an_arm_that_has_no_words_keeps_its_name(recipe):
    df = pd.concat([recipe.run(o, 0, data='digits', rounds=1) for o in ('dense','winning')])
    assert list(recipe.means(df).index)==[recipe.about[o] for o in ('dense5','dense6','winning')]+['dense10']
