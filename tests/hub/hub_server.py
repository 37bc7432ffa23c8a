"""A Hugging Face Hub on 127.0.0.1, as far as models are downloaded from one: the file list, the tree, HEAD and GET of files, large files redirected to
a second origin (the CDN), ranges, ETags, gated and private repositories, and on request everything that can go wrong.

    with Hub() as hub:
        repo = hub.add("owner/name", {"config.json": b"{}", "model.safetensors": weights})
        hub.faults["model.safetensors"] = [Cut(1000), Cut(500)]   # one a GET of its bytes, in order; then all is well
        ... HF_ENDPOINT=hub.url ...
        hub.log                                                    # every request: Seen(server, method, path, headers)
"""
import dataclasses
import hashlib
import http.server
import json
import re
import ssl
import threading
import urllib.parse

SIGNATURE = "X-Signature=do-not-tell"


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


# ---- faults of one GET of a file's bytes ----

@dataclasses.dataclass
class Cut:
    """The connection ends after so many bytes of the body."""
    after: int


@dataclasses.dataclass
class Corrupt:
    """One byte of the body is another."""
    at: int = 0


@dataclasses.dataclass
class Status:
    code: int
    headers: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class NoRange:
    """The whole file, whatever range was asked for."""


@dataclasses.dataclass
class Changed:
    """The bytes are behind another ETag now: If-Range does not hold."""


@dataclasses.dataclass
class WrongRange:
    """206, but of another place."""


@dataclasses.dataclass
class Longer:
    """More bytes than were told, to the end of the connection."""
    by: int


@dataclasses.dataclass
class Hold:
    """Sends so many bytes, then waits for an event before the rest."""
    after: int
    event: threading.Event
    reached: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass
class Seen:
    server: str
    method: str
    path: str
    headers: dict

    def header(self, name):
        return self.headers.get(name.lower())


@dataclasses.dataclass
class Repo:
    name: str
    files: dict                # name -> bytes
    lfs: set                   # names served by the CDN
    commit: str
    refs: dict                 # branch or tag -> commit
    token: str = None          # private: needed for everything
    gated: bool = False        # the list is open, files need the token of `access`
    access: str = None
    moved: str = None          # the name it has now: answers are redirects
    listing: object = None     # in place of the answer to the file list: bytes, or an object
    metadata: dict = dataclasses.field(default_factory=dict)  # file -> headers of the HEAD's answer; None takes one away
    location: dict = dataclasses.field(default_factory=dict)  # file -> where a GET or HEAD is redirected to

    def etag(self, file):
        data = self.files[file]
        return hashlib.sha256(data).hexdigest() if file in self.lfs else git_sha1(data)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "hub", ""
    role = "hub"

    def log_message(self, *_):
        pass

    @property
    def hub(self):
        return self.server.hub

    def see(self):
        self.hub.log.append(Seen(self.role, self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))

    def answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for k, v in {"Content-Length": len(body), **(headers or {})}.items():
            if v is not None:
                self.send_header(k, str(v))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code=None, message=None):
        headers = {k: v for k, v in (("X-Error-Code", code), ("X-Error-Message", message)) if v}
        self.answer(status, json.dumps({"error": message or code}).encode(), headers)

    # -- bytes, with ranges and faults

    def send_file(self, file, data, etag, extra=None):
        queue = self.hub.faults.get(file, [])
        fault = queue.pop(0) if queue and self.command == "GET" else None
        if isinstance(fault, Status):
            return self.answer(fault.code, b"{}", fault.headers)
        headers, first = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", **(extra or {})}, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        holds = self.headers.get("If-Range", f'"{etag}"') == f'"{etag}"' and not isinstance(fault, Changed)
        if asked and holds and not isinstance(fault, NoRange):
            first = int(asked[1])
            if first >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            told = first + 1 if isinstance(fault, WrongRange) else first
            headers["Content-Range"] = f"bytes {told}-{len(data) - 1}/{len(data)}"
        body = bytearray(data[first:])
        if isinstance(fault, Corrupt):
            body[min(fault.at, len(body) - 1)] ^= 0xff
        headers["Content-Length"] = len(body)
        if isinstance(fault, Longer):
            body += b"x" * fault.by
            headers["Content-Length"] = None
            headers["Connection"] = "close"
        self.send_response(206 if "Content-Range" in headers else 200)
        for k, v in headers.items():
            if v is not None:
                self.send_header(k, str(v))
        self.end_headers()
        if self.command == "HEAD":
            return None
        try:
            if isinstance(fault, Cut):
                self.wfile.write(body[:fault.after])
                self.wfile.flush()
                self.close_connection = True
            elif isinstance(fault, Hold):
                self.wfile.write(body[:fault.after])
                self.wfile.flush()
                fault.reached.set()
                fault.event.wait(60)
                self.wfile.write(body[fault.after:])
            else:
                self.wfile.write(body)
                self.close_connection |= isinstance(fault, Longer)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        return None


class Cdn(Handler):
    role = "cdn"

    def do_GET(self):
        self.see()
        m = re.fullmatch(r"/([^/]+/[^/]+)/([0-9a-f]+)/([^?/]+)\?(.*)", self.path)
        repo = self.hub.repos.get(m[1]) if m else None
        if not repo or m[3] not in repo.files or m[4] != SIGNATURE:
            return self.answer(403)
        if "Authorization" in self.headers:  # as S3 does: two ways to sign in are one too many
            return self.answer(400)
        return self.send_file(m[3], repo.files[m[3]], hashlib.md5(repo.files[m[3]]).hexdigest())

    do_HEAD = do_GET


class Front(Handler):
    def do_GET(self):
        self.see()
        path, _, query = self.path.partition("?")
        words = [urllib.parse.unquote(w) for w in path.strip("/").split("/")]
        if words[:2] == ["api", "models"] and len(words) >= 4:
            return self.api("/".join(words[2:4]), words[4:])
        if len(words) == 5 and words[2] == "resolve":
            return self.resolve("/".join(words[:2]), words[3], words[4])
        return self.answer(404, b"Not Found")

    do_HEAD = do_GET

    def may(self, repo):
        """None, or the answer was given."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            return self.refuse(401, None, "Invalid credentials in Authorization header") or True
        if not repo or (repo.token and token != repo.token):
            return self.refuse(404 if token else 401, "RepoNotFound", "Repository not found") or True
        if repo.moved:
            self.answer(307, b"", {"Location": self.path.replace(repo.name, repo.moved)})
            return True
        return None

    def commit_of(self, repo, revision):
        commit = repo.refs.get(revision, revision if revision in (repo.commit, *repo.refs.values()) else None)
        if not commit:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def api(self, name, rest):
        repo = self.hub.repos.get(name)
        if self.may(repo):
            return None
        if queue := self.hub.faults.get("api", []):
            fault = queue.pop(0)
            return self.answer(fault.code, b"{}", fault.headers)
        commit = self.commit_of(repo, rest[1] if len(rest) > 1 else "main")
        if not commit:
            return None
        if rest[:1] == ["tree"]:
            entries = [{"type": "file", "path": f, "size": len(d), "oid": git_sha1(d),
                        **({"lfs": {"oid": repo.etag(f), "size": len(d), "pointerSize": 134}} if f in repo.lfs else {})}
                       for f, d in repo.files.items()]
            return self.answer(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
        listing = repo.listing
        if listing is None:
            listing = {"id": repo.name, "sha": commit, "gated": "auto" if repo.gated else False, "private": bool(repo.token), "downloads": 7,
                       "cardData": {"license": "apache-2.0"}, "siblings": [{"rfilename": f} for f in repo.files]}
        body = listing if isinstance(listing, bytes) else json.dumps(listing).encode()
        return self.answer(200, body, {"Content-Type": "application/json"})

    def resolve(self, name, revision, file):
        repo = self.hub.repos.get(name)
        if self.may(repo):
            return None
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repo.gated and token != repo.access:
            return self.refuse(403 if token else 401, "GatedRepo", "Access to model is restricted")
        commit = self.commit_of(repo, revision)
        if not commit:
            return None
        if file not in repo.files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        data, etag, told = repo.files[file], repo.etag(file), repo.metadata.get(file, {})
        if self.command == "HEAD" and (queue := self.hub.faults.get("head " + file, [])):
            fault = queue.pop(0)
            return self.answer(fault.code, b"", fault.headers)
        if file in repo.lfs or file in repo.location:
            where = repo.location.get(file, f"{self.hub.cdn_url}/{repo.name}/{etag}/{file}?{SIGNATURE}")
            return self.answer(302, b"Found", {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": len(data),
                                               "ETag": '"the redirect\'s own"', "Location": where, **told})
        if self.command == "HEAD":
            return self.answer(200, b"", {"Content-Length": len(data), "X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes", **told})
        return self.send_file(file, data, etag, {"X-Repo-Commit": commit})


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_):  # clients that leave are part of the tests
        pass


class Hub:
    def __init__(self, tls=None, cdn_tls=None):
        """tls, cdn_tls: (certificate, key) of either origin; None: http."""
        self.repos, self.faults, self.log, self.tokens = {}, {}, [], set()
        self.servers = [Server(("127.0.0.1", 0), kind) for kind in (Front, Cdn)]
        for s, pair in zip(self.servers, (tls, cdn_tls)):
            s.hub = self
            if pair:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*pair)
                s.socket = context.wrap_socket(s.socket, server_side=True, do_handshake_on_connect=False)  # in the thread of its connection
            threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url, self.cdn_url = (f"http{'s' if pair else ''}://127.0.0.1:{s.server_address[1]}" for s, pair in zip(self.servers, (tls, cdn_tls)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for s in self.servers:
            s.shutdown()
            s.server_close()

    def add(self, name, files, lfs=None, commit=None, **more):
        """lfs: the files of the CDN; None: those that the real hub would keep there."""
        lfs = {f for f in files if re.search(r"\.(safetensors|bin|gguf|pt)$", f)} if lfs is None else set(lfs)
        commit = commit or hashlib.sha1(repr(sorted((f, git_sha1(d)) for f, d in files.items())).encode()).hexdigest()
        self.repos[name] = Repo(name, dict(files), lfs, commit, {"main": commit}, **more)
        self.tokens |= {t for t in (self.repos[name].token, self.repos[name].access) if t}
        return self.repos[name]

    def seen(self, method=None, server=None, ending=""):
        return [s for s in self.log if method in (None, s.method) and server in (None, s.server) and s.path.split("?")[0].endswith(ending)]
