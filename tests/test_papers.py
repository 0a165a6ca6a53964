"Whom a table, a rule or a figure has to thank: every rule names its paper or says that it's ours"
import ast, re, warnings
from pathlib import Path
import pandas as pd, pytest
import lottery_nb.all as everything
from lottery_nb.arms import arm, arms
from lottery_nb.at_init import collapse, missing_the_mark
from lottery_nb.beginning import deconstruct, perturbations
from lottery_nb.connectivity import instability
from lottery_nb.core import as_table, machine
from lottery_nb.criteria import criteria
from lottery_nb.curves import lottery_curve
from lottery_nb.evidence import equivalent, plot_curve, summarise
from lottery_nb.experiment import Experiment
from lottery_nb.find import find_ticket
from lottery_nb.methods import methods
from lottery_nb.papers import Paper, cite, papers, papers_of
from lottery_nb.schedules import schedules
from lottery_nb.when import early_bird, retraining, rewind_grid

package = Path(everything.__file__).parent
kinds = dict(arms=arms, criteria=criteria, methods=methods, schedules=schedules)
registered = {f'{k}: {name}': o for k,kind in kinds.items() for name,o in kind.items()
              if o.fn.__module__.startswith('lottery_nb.')}

@pytest.mark.parametrize('name', registered)
def test_every_rule_says_whose_it_is(name):
    rule = registered[name]
    assert papers_of(rule) or re.search(r'\b(ours|folklore)\b', rule.__doc__), rule.__doc__

def docstrings():
    "Module and docstring of everything in the package that has one"
    for path in sorted(package.glob('*.py')):
        for o in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(o, ast.FunctionDef|ast.ClassDef|ast.Module) and (doc := ast.get_docstring(o)):
                yield f"{path.name}: {getattr(o, 'name', '')}",' '.join(doc.split())

def test_every_paper_in_a_docstring_is_known():
    by = r"(?:[A-Z][\w-]+, )*[A-Z][\w-]+(?: & [A-Z][\w-]+| et al\.)? (?:19|20)\d\d\b"
    known = {o for p in papers.values() for o in p.names}
    said = {(where, o) for where,doc in docstrings() for o in re.findall(by, doc)}
    posts = {'Wellons 2018'} # no papers
    assert len(said)>20 and not {o for o in said if o[1] not in known|posts}

def test_names_of_papers_are_their_own():
    names = [o for p in papers.values() for o in p.names]
    assert len(names)==len(set(names))
    for key,p in papers.items():
        assert re.fullmatch('[a-z]+([0-9]{4}[a-z]*)?', key) and p.title[0].isupper() and 1900<p.year<2100
        assert re.fullmatch(r'\d{4}\.\d{4,5}', p.arxiv) or re.match(r'10\.\d{4,}/', p.doi) or p.venue, key
        assert all(re.fullmatch(r"[\w' -]+, ([\w]\.(-[\w]\.)? ?)+", o) for o in p.authors.split('; ')), p.authors
        first = p.authors.partition(',')[0].lower().replace(' ', '')
        assert key==p.name or key.startswith(f'{first}{p.year}')

def test_names_are_found_as_words():
    def by(doc):
        def fn(): pass
        fn.__doc__ = doc
        return papers_of(fn)
    assert by('as in Frankle et\n    al. 2020, section 3')==['frankle2020']
    assert by('(Frankle, Schwab & Morcos 2020)')==['frankle2020early']
    assert by('(Lee, Ajanthan & Torr 2019; Lee et al. 2021)')==['lee2019','lee2021']
    assert by('(Lee et al. 2019)')==['lee2019'] and by('Lee et al. 20199')==[] and by(None)==[]

def entries(text):
    "key -> fields of BibTeX entries"
    found = {}
    for kind,key,body in re.findall(r'@(\w+)\{(\w+),\n(.*?)\n\}', text, re.S):
        fields = [re.fullmatch(r'  (\w+) *= \{(.*)\},?', o) for o in body.split('\n')]
        found[key] = {m[1]: m[2] for m in fields} | dict(kind=kind)
    return found

def test_every_paper_can_be_cited():
    text,bib = cite(*papers),entries(cite(*papers, format='bibtex'))
    assert len(text.splitlines())==len(papers) and list(bib)==list(papers)
    for (key,p),line in zip(papers.items(), text.splitlines()):
        assert p.title.rstrip('.') in line and str(p.year) in line and (not p.arxiv or f'arXiv:{p.arxiv}' in line)
        b = bib[key]
        assert b['title']==f'{{{p.title}}}' and b['author'].split(' and ')==p.authors.split('; ')
        assert b['kind']==('misc' if not p.venue else 'article' if p.doi else 'inproceedings')
    assert '&' not in re.sub(r'\\&', '', cite(*papers, format='bibtex'))

def test_a_curve_is_cited_with_what_made_it():
    df = lottery_curve('digits_mlp', 'digits', 1, 1, arms=['reinit','shuffle','signs'], criteria='magnitude_increase',
                       method='erk', n_step=1, progress=False)
    keys = set(entries(cite(df, format='bibtex')))
    assert keys=={'frankle2019','frankle2021','zhou2019','evci2020','renda2020'} # the last of arms that it can have
    assert cite(df)==cite(df[df.metric=='accuracy'].reset_index(drop=True))
    assert set(entries(cite(df, summarise, equivalent, format='bibtex')))==keys | {'holm1979','schuirmann1987'}
    line = next(o for o in cite(df, plot_curve).splitlines() if 'Finding Sparse' in o)
    assert line.endswith('[dense, reinit, lottery_curve, plot_curve]')

@pytest.mark.parametrize('fn, how, keys', [
    (collapse, dict(criteria=['snip','synflow','large_final']), {'tanaka2020','lee2019','frankle2019'}),
    (missing_the_mark, dict(criteria={'mine': ('grasp','erk')}), {'frankle2021','su2020','wang2020','evci2020'}),
    (instability, dict(at=0, arms='random'), {'frankle2020'}),
    (perturbations, dict(at=0, arms='noise'), {'frankle2020early'}),
    (deconstruct, dict(criteria=['movement','large_final'], kept='ticket'), {'zhou2019'}),
    (early_bird, dict(every=1, patience=2), {'you2020'}), (retraining, dict(lengths=100), {'renda2020'}),
    (rewind_grid, dict(at=0), {'frankle2020','frankle2019stabilizing'})], ids=lambda o: getattr(o, '__name__', None))
def test_a_landmark_is_cited_with_the_paper_that_it_comes_from(fn, how, keys):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        df = fn('digits_mlp', 'digits', seeds=1, n_step=2, progress=False, **how)
    assert keys <= set(entries(cite(df, format='bibtex'))) and df.attrs['machine']==machine()
    own = [o for o in cite(df).splitlines() if re.search(rf'\[.*\b{fn.__name__}\b.*\]$', o)]
    assert own and all(any(papers[k].title in o for k in keys) for o in own)
    assert not {fn.__name__, 'snip', 'synflow', 'mine', 'movement'} & set(re.split('[:,] ', cite(df).splitlines()[-1]))
    assert '{' not in cite(df) and cite(df[df.metric=='valid_loss'])

def test_an_experiment_is_cited_with_the_settings_that_vary(tmp_path):
    def few(criteria, seed): return as_table([dict(arm='ticket', seed=seed, round=1, density=50, epoch=0, step=1,
                                                   metric='accuracy', value=.9)], dict(method='lamp'))
    df = Experiment(tmp_path/'a.db', few, dict(criteria=['wanda','fisher']), seeds=2).run(progress=False).results()
    assert set(entries(cite(df, format='bibtex')))=={'frankle2019','sun2024','theis2018','liu2021','lee2021'}

def test_searches_and_names_of_several_rules():
    rows = [dict(arm=o, seed=0, round=1, density=50, epoch=0, step=1, metric='accuracy', value=.9)
            for o in ('signs+shuffle','random','nobodys(k=1+2)')]
    df = as_table(rows, dict(function='lottery_nb.find.find_ticket', granularity='2:4', schedule='agp(power=2)'))
    bib = cite(df, format='bibtex')
    assert set(entries(bib))=={'zhou2019','frankle2021','frankle2019','frankle2020','renda2020','mishra2021','zhu2017'}
    assert bib.endswith('% In no paper that we know: random, nobodys(k=1+2)')
    assert cite(find_ticket)==cite(find_ticket, find_ticket)

def test_a_table_from_a_file_does_not_say_what_made_it():
    df = as_table([dict(arm=o, seed=0, round=1, density=10, epoch=0, step=1, metric='accuracy', value=.9)
                   for o in ('dense','rigl')], dict(function='lottery_nb.regrow.dynamic_sparse'))
    assert 'Evci' in cite(df) and 'cite that function too' not in cite(df)
    df.attrs = {} # as after `read_csv`
    assert cite(df).endswith('cite that function too, for rigl') and 'In no paper' not in cite(df)
    assert cite(df, format='bibtex').splitlines()[-1].startswith('% ')

def test_yours_are_cited_too():
    @arm(label='mine')
    def mine(ticket, seed, model):
        "m and W_t, my way (Me & You 2026)"
        return ticket
    try:
        assert cite('mine')=='In no paper that we know: mine'
        papers['me2026'] = Paper('Me, A.; You, B.', 2026, 'Ours')
        assert cite('mine')=='Me, A.; You, B. (2026). Ours. [mine]'
    finally:
        papers.pop('me2026', None)
        arms.pop('mine')

def test_what_cannot_be_cited():
    with pytest.raises(ValueError, match="what='frankle2019x': .*did you mean 'frankle2019'"): cite('frankle2019x')
    with pytest.raises(ValueError, match='at least one'): cite()
    with pytest.raises(TypeError, match='expected a table'): cite(None)
    with pytest.raises(ValueError, match="format='doc'"): cite('agp', format='doc')
    assert cite(pd.DataFrame(dict(a=[1])), 'agp')==cite('agp')
