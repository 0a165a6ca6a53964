"""A ticket goes to the Hub and comes back the same, with a card whose code runs; what goes wrong is said in words.

The Hub is a stand-in on this machine, asked by huggingface_hub itself"""
import os, re, subprocess, sys, time
from pathlib import Path
import pandas as pd, pytest, torch
from hub_stand_in import StandIn
from lottery_nb.core import ArgumentError, ArgumentTypeError
from lottery_nb.hub import HubError, as_markdown
from lottery_nb.masks import Masks
from lottery_nb.sparsifier import Sparsifier
from lottery_nb.ticket import Ticket, same_bits
from lottery_nb.ticketfile import TicketError
from models import mlp

hub,constants = map(pytest.importorskip, ('huggingface_hub','huggingface_hub.constants'))
root = Path(__file__).resolve().parent.parent

@pytest.fixture
def server(tmp_path, monkeypatch):
    "A stand-in that huggingface_hub takes for the Hub; we're logged in, with a token that may write"
    with StandIn() as o:
        monkeypatch.setattr(constants, 'ENDPOINT', o.url)
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', o.url+'/{repo_id}/resolve/{revision}/{filename}')
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path/'cache'))
        monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path/'token'))
        monkeypatch.setenv('HF_TOKEN', 'write')
        yield o

@pytest.fixture
def away(server, monkeypatch):
    "The Hub doesn't answer, and nobody waits between two tries"
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9') # nobody is there
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', 'http://127.0.0.1:9/{repo_id}/{revision}/{filename}')
    monkeypatch.setattr(time, 'sleep', lambda o: None)
    return server

def found(seed=0, **meta):
    "A trained ticket, with a table of what was measured"
    torch.manual_seed(seed)
    model = mlp()
    sp = Sparsifier(model)
    sp.save_weights()
    sp.sparsify(60)
    with torch.no_grad(): model[1].weight.mul_(2)
    o = sp.ticket
    at = dict(arm='ticket', seed=0, round=1, density=40., epoch=1, step=9)
    rows = [dict(at, metric='accuracy', value=.5), dict(at, metric='valid_loss', value=1.25),
            dict(at, epoch=2, step=18, metric='accuracy', value=.75)]
    return Ticket(o.masks, o.state, o.trained, {**o.meta, 'table': rows, **meta})

network = 'from models import mlp\n\nmodel = mlp()'

def code_of(card): return '\n'.join(re.findall(r'^```python\n(.*?)^```', card, re.M|re.S))

# there and back

def test_there_and_back(server):
    ticket = found()
    where = ticket.push_to_hub('me/mine')
    assert where.startswith(f'{server.url}/me/mine/commit/')
    back = Ticket.from_hub('me/mine')
    assert back==ticket and same_bits(back.state, ticket.state) and same_bits(back.trained, ticket.trained)
    assert sorted(server.files('me/mine'))==['.gitattributes','README.md','masks.png','ticket.safetensors']
    assert server.files('me/mine')['masks.png'].startswith(b'\x89PNG')
    assert sum('/commit/' in o for o in server.asked)==1, 'all files in one commit'

def test_a_name_without_an_owner_is_ours(server):
    found().push_to_hub('mine', commit_message='Better')
    assert 'me/mine' in server.repos and server.said=='Better'
    assert Ticket.from_hub('me/mine')==found()

def test_as_on_save_trained_weights_can_stay_here(server):
    found().push_to_hub('mine', trained=False)
    back,card = Ticket.from_hub('me/mine'),server.files('me/mine')['README.md'].decode()
    assert back.trained is None and 'trained_into' not in card and 'trained weights' not in card

def test_full(server):
    o = found()
    with pytest.raises(ArgumentError, match="full=True"): o.push_to_hub('mine', full=True)
    assert not server.repos
    torch.manual_seed(0)
    sp = Sparsifier(mlp())
    sp.save_weights()
    sp.sparsify(50)
    sp.ticket.push_to_hub('mine', full=True)
    assert same_bits(Ticket.from_hub('me/mine').full, sp.ticket.full)

def test_versions_and_branches(server):
    first = found(0).push_to_hub('mine').rpartition('/')[2]
    found(1).push_to_hub('mine')
    found(2).push_to_hub('mine', branch='try')
    assert Ticket.from_hub('me/mine', revision=first)==found(0)
    assert Ticket.from_hub('me/mine')==found(1)
    assert Ticket.from_hub('me/mine', revision='try')==found(2)

def test_a_pull_request(server):
    found(0).push_to_hub('mine')
    assert '/discussions/' in found(1).push_to_hub('mine', create_pr=True)
    assert Ticket.from_hub('me/mine')==found(0)
    assert Ticket.from_hub('me/mine', revision='refs/pr/1')==found(1)

def test_private(server):
    found().push_to_hub('mine', private=True)
    assert 'me/mine' in server.private
    with pytest.raises(HubError, match='private and your token'): Ticket.from_hub('me/mine', token=False)
    assert Ticket.from_hub('me/mine', token='read')==found()

def test_the_cache(server, tmp_path):
    found().push_to_hub('mine')
    Ticket.from_hub('me/mine', cache_dir=tmp_path/'mine')
    n = len(server.asked)
    assert Ticket.from_hub('me/mine', cache_dir=tmp_path/'mine', local_files_only=True)==found()
    assert len(server.asked)==n
    Ticket.from_hub('me/mine', cache_dir=tmp_path/'mine')
    assert sum(o.startswith('GET') and 'resolve' in o for o in server.asked)==1, 'fetched once'
    Ticket.from_hub('me/mine', cache_dir=tmp_path/'mine', force_download=True)
    assert sum(o.startswith('GET') and 'resolve' in o for o in server.asked)==2

# the card

def test_the_code_on_the_card_runs(server):
    found().push_to_hub('me/mine', network=network)
    scope = {}
    exec(code_of(server.files('me/mine')['README.md'].decode()), scope)
    model,sp,opt = scope['model'],scope['sp'],scope['opt']
    assert same_bits(dict(model.state_dict()), found().state) and sp.masks==found().masks
    for _ in range(3):
        model(torch.randn(8, 64)).pow(2).sum().backward()
        opt.step()
        for k,m in sp.masks.items(): assert not model.get_parameter(k)[~m].count_nonzero()
        opt.zero_grad()

def test_without_a_network_the_code_says_what_is_missing(server):
    card = found().model_card('me/mine')
    found().push_to_hub('me/mine')
    code = code_of(card.content)
    assert '# model = ' in code
    exec(code, dict(model=mlp()))

def test_the_card_says_what_the_ticket_knows():
    ticket = found(criteria='large_final', prune=20, odd='a|b`c\n# d')
    card = ticket.model_card('me/mine', license='mit', datasets='digits', pipeline_tag='image-classification',
                             tags=['tiny','pruning'])
    facts,text = card.data.to_dict(),card.text
    assert facts['library_name']=='lottery_nb' and facts['license']=='mit' and facts['metrics']==['accuracy']
    assert facts['tags']==['lottery-ticket','pruning','sparsity','pytorch','tiny']
    result, = facts['model-index'][0]['results']
    assert result['metrics']==[dict(type='accuracy', value=.75)] and result['dataset']['name']=='digits'
    for o in ticket.report().itertuples(): assert f'| {o.layer} | {" × ".join(map(str, o.shape))} |' in text
    assert f'{ticket.sparsity:.2f} % sparse' in text and '- prune: `20`' in text and '- criteria: ' in text
    assert '| 1 | ticket | 0 | 40.00 | 0.75 | 1.25 |' in text, 'the last of each metric'
    assert '''- odd: `"a|b'c\\n# d"`''' in text.splitlines()
    assert hub.ModelCard(card.content).data.to_dict()==facts, 'what it says can be read back'

def test_a_ticket_that_knows_little_has_a_card_too():
    card = Ticket(Masks({'w': torch.tensor([True,False])}), {'w': torch.ones(2)}).model_card('mine')
    assert '| w | 2 | 2 | 1 | 50.00 |' in card.text and card.data.metrics is None

def test_a_table_in_markdown_keeps_its_cells():
    text = as_markdown(pd.DataFrame(dict(a=['x|y\nz', '<b>\\'], n=[1, 2000], v=[.5, float('nan')])))
    assert text.splitlines()==['| a | n | v |', '| :--- | ---: | ---: |', '| x\\|y z | 1 | 0.5 |',
                               '| &lt;b>\\\\ | 2,000 | nan |']

# errors

@pytest.mark.parametrize('code, error, text', [
    ('model =', ArgumentError, 'code that runs by itself: SyntaxError'),
    ('model = not_here()', ArgumentError, 'code that runs by itself: NameError'),
    ('net = 1', ArgumentError, 'makes the network as `model`'),
    ('from torch import nn\nmodel = nn.Linear(2, 2)', ArgumentError, "a model of the ticket's architecture"),
    (mlp, ArgumentTypeError, 'as a text')])
def test_code_that_cannot_be_right(server, code, error, text):
    with pytest.raises(error, match=text): found().push_to_hub('me/mine', network=code)
    assert not server.asked

@pytest.mark.parametrize('repo_id', ['my digits', 'a/b/c', '', 'me/-mine', '.git', 'x'*100])
def test_ids_that_cannot_be(server, repo_id):
    for call in (found().push_to_hub, found().model_card, Ticket.from_hub):
        with pytest.raises(ArgumentError, match="repo_id=.*: expected 'name' or 'owner/name'"): call(repo_id)
    assert not server.asked

def test_an_id_that_is_no_text():
    with pytest.raises(ArgumentTypeError, match='repo_id=3: expected'): Ticket.from_hub(3)

def test_no_token(server, monkeypatch):
    monkeypatch.delenv('HF_TOKEN')
    with pytest.raises(HubError, match='no token, or one that isn.t valid: run `hf auth login`'):
        found().push_to_hub('me/mine')
    assert not server.repos
    server.repos['me/mine'] = dict(main=[{'README.md': b''}])
    with pytest.raises(HubError, match='no token'): found().push_to_hub('me/mine')
    assert len(server.repos['me/mine']['main'])==1

def test_a_wrong_token(server):
    with pytest.raises(HubError, match='no token, or one that isn.t valid'): found().push_to_hub('mine', token='typo')

def test_a_token_that_only_reads(server):
    with pytest.raises(HubError, match='not allowed to do that: it takes one with write access') as e:
        found().push_to_hub('mine', token='read')
    assert '403' in str(e.value.__cause__) and not server.repos

def test_what_is_not_there(server):
    with pytest.raises(HubError, match="from_hub 'me/mine' at .*: there's no such repo"): Ticket.from_hub('me/mine')
    found().push_to_hub('mine')
    with pytest.raises(HubError, match="no branch, tag or commit 'v2'"): Ticket.from_hub('me/mine', revision='v2')
    del server.files('me/mine')['ticket.safetensors']
    with pytest.raises(HubError, match="no ticket.safetensors: it isn't a ticket"): Ticket.from_hub('me/mine')

def test_a_file_that_is_no_ticket(server):
    found().push_to_hub('mine')
    server.files('me/mine')['ticket.safetensors'] = b'not one'
    with pytest.raises(TicketError): Ticket.from_hub('me/mine')

def test_no_network(away):
    with pytest.raises(HubError, match='push_to_hub.*no answer: is there a network'): found().push_to_hub('mine')
    with pytest.raises(HubError, match='no answer, and no copy in the cache: is there a network'):
        Ticket.from_hub('me/mine')

def test_without_a_network_the_cache_serves(server, request):
    found().push_to_hub('mine')
    assert Ticket.from_hub('me/mine')==found()
    n,_ = len(server.asked),request.getfixturevalue('away')
    assert Ticket.from_hub('me/mine')==found() and len(server.asked)==n

def test_only_local_and_not_there(server):
    with pytest.raises(HubError, match='no copy in the cache'): Ticket.from_hub('me/mine', local_files_only=True)
    assert not server.asked

def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    for call in (lambda: found().push_to_hub('mine'), lambda: Ticket.from_hub('me/mine')):
        with pytest.raises(ImportError, match=r"pip install 'lottery_nb\[hub\]'"): call()

ELSEWHERE = '''
import sys, torch
import lottery_nb.hub
assert 'huggingface_hub' not in sys.modules, 'it is imported where it is needed'
from torch import nn
from lottery_nb.ticket import Ticket, same_bits
ticket = Ticket.from_hub('me/mine')
ticket.push_to_hub('theirs')
print(ticket==Ticket.from_hub('me/theirs'))
'''

def test_another_process_finds_it_by_the_variables_of_huggingface_hub(server, tmp_path):
    found().push_to_hub('mine')
    env = os.environ | dict(HF_ENDPOINT=server.url, HF_HOME=str(tmp_path/'home'), HF_TOKEN='write')
    done = subprocess.run([sys.executable, '-c', ELSEWHERE], cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode==0 and done.stdout.split()==['True'], done.stdout+done.stderr
    offline = subprocess.run([sys.executable, '-c', ELSEWHERE], cwd=root, env=env | dict(HF_HUB_OFFLINE='1'),
                             capture_output=True, text=True)
    assert "push_to_hub 'theirs'" in offline.stderr and 'HF_HUB_OFFLINE is set' in offline.stderr
