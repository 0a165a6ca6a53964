"""A stand-in for the Hugging Face Hub on this machine: who am I, make a repository and a branch, upload, commit, read.

It keeps files in memory, `repos[id][branch]` is a list of commits, each a dict from path to bytes. A token is known if
it's in `tokens`; one that begins with 'read' may not write"""
import base64, hashlib, json, re, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

class StandIn(ThreadingHTTPServer):
    daemon_threads = True
    def __init__(self, tokens=('write','read')):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.tokens,self.repos,self.private,self.asked = tokens,{},set(),[]
        self.url = f'http://127.0.0.1:{self.server_port}'
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    def files(self, repo_id, branch='main'): return self.repos[repo_id][branch][-1]

    def __exit__(self, *args):
        self.shutdown()
        self.thread.join()
        super().__exit__(*args)

def _sha(commits): return hashlib.sha1(f'{len(commits)} {sorted(commits[-1])}'.encode()).hexdigest()

class _Refused(Exception): "A status, a code of the Hub's, and what it says"

class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args): pass

    def answer(self, status, data=b'', **headers):
        if not isinstance(data, bytes): data = json.dumps(data).encode()
        self.send_response(status)
        for k,v in {**headers, 'Content-Length': len(data)}.items(): self.send_header(k.replace('_', '-'), str(v))
        self.end_headers()
        if self.command!='HEAD': self.wfile.write(data)

    def handle_it(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        path = unquote(self.path.partition('?')[0])
        self.server.asked.append(f'{self.command} {path}')
        try:
            for pattern,fn in _routes.items():
                if found := re.fullmatch(pattern, f'{self.command} {path}'): return fn(self, body, **found.groupdict())
            raise _Refused(404, '', f'no route: {self.command} {path}')
        except _Refused as e:
            status,code,said = e.args
            headers = {'X-Error-Message': said} | ({'X-Error-Code': code} if code else {})
            self.answer(status, dict(error=said), **headers)

    do_GET = do_HEAD = do_POST = handle_it

    @property
    def token(self):
        given = (self.headers.get('Authorization') or '').removeprefix('Bearer ')
        if given and given not in self.server.tokens: raise _Refused(401, '', 'Invalid username or password.')
        return given

    def writes(self):
        if not self.token: raise _Refused(401, '', 'Invalid username or password.')
        if self.token.startswith('read'): raise _Refused(403, '', "You don't have the rights to write here.")

    def commits(self, repo, rev='main'):
        if repo not in self.server.repos or (repo in self.server.private and not self.token):
            if not self.token: raise _Refused(401, 'RepoNotFound', 'Invalid username or password.') # as to any stranger
            raise _Refused(404, 'RepoNotFound', 'Repository not found')
        branches = self.server.repos[repo]
        for name,commits in branches.items():
            for i in range(len(commits), 0, -1):
                if rev in (name if i==len(commits) else None, _sha(commits[:i])): return commits[:i]
        raise _Refused(404, 'RevisionNotFound', f'Invalid rev id: {rev}')

    def who(self, body): return self.answer(200, dict(name='me', type='user', auth={})) if self.token else self.writes()
    def valid(self, body): self.answer(200, dict(errors=[], warnings=[]))

    def create(self, body):
        self.writes()
        o = json.loads(body)
        repo = f"{o.get('organization') or 'me'}/{o['name']}"
        status = 409 if repo in self.server.repos else 200
        self.server.repos.setdefault(repo, dict(main=[{'.gitattributes': b''}]))
        if o.get('visibility')=='private' or o.get('private'): self.server.private.add(repo)
        self.answer(status, dict(url=f'{self.server.url}/{repo}', name=repo))

    def branch(self, body, repo, rev):
        self.writes()
        branches = self.server.repos[repo]
        status = 409 if rev in branches else 200
        branches.setdefault(rev, list(branches['main']))
        self.answer(status, {})

    def info(self, body, repo, rev='main'):
        commits = self.commits(repo, rev)
        self.answer(200, dict(id=repo, modelId=repo, sha=_sha(commits), private=repo in self.server.private, tags=[],
                              siblings=[dict(rfilename=o) for o in commits[-1]]))

    def preupload(self, body, repo, rev):
        self.writes()
        self.commits(repo, rev)
        files = [dict(path=o['path'], uploadMode='regular', shouldIgnore=False) for o in json.loads(body)['files']]
        self.answer(200, dict(files=files))

    def commit(self, body, repo, rev):
        self.writes()
        now = dict(self.commits(repo, rev)[-1])
        for line in map(json.loads, body.decode().splitlines()):
            if line['key']=='header': said = line['value']['summary']
            if line['key']=='file': now[line['value']['path']] = base64.b64decode(line['value']['content'])
        branches = self.server.repos[repo]
        if 'create_pr=1' in self.path: rev = f'refs/pr/{len(branches)}'
        commits = branches.setdefault(rev, list(branches['main']))
        commits.append(now)
        self.server.said = said
        told = dict(commitOid=_sha(commits), commitUrl=f'{self.server.url}/{repo}/commit/{_sha(commits)}')
        if 'create_pr=1' in self.path: told['pullRequestUrl'] = f'{self.server.url}/{repo}/discussions/1'
        self.answer(200, told)

    def resolve(self, body, repo, rev, name):
        commits = self.commits(repo, rev)
        sha = dict(X_Repo_Commit=_sha(commits))
        if name not in commits[-1]:
            return self.answer(404, X_Error_Code='EntryNotFound', X_Error_Message='Entry not found', **sha)
        data = commits[-1][name]
        self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', **sha)

_repo,_rev = '(?P<repo>[^/]+/[^/]+)','(?P<rev>refs/pr/[0-9]+|[^/]+)'
_routes = {'GET /api/whoami-v2': _Handler.who, 'POST /api/validate-yaml': _Handler.valid,
           'POST /api/repos/create': _Handler.create, f'POST /api/models/{_repo}/branch/{_rev}': _Handler.branch,
           f'GET /api/models/{_repo}': _Handler.info, f'GET /api/models/{_repo}/revision/{_rev}': _Handler.info,
           f'POST /api/models/{_repo}/preupload/{_rev}': _Handler.preupload,
           f'POST /api/models/{_repo}/commit/{_rev}': _Handler.commit,
           f'(GET|HEAD) /{_repo}/resolve/{_rev}/(?P<name>.+)': _Handler.resolve}
