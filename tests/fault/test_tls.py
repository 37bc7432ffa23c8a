"""TLS: `serve --tls-cert --tls-key` with certificates made here. What works, what is refused and how, clients that are slow, leave or lie, and files
that are wrong. The engine is the scripted one."""
import concurrent.futures
import contextlib
import json
import pathlib
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import time
import warnings

import pytest
import requests
from http_raw import connect, head, n_fds, receive, wait_until
from openai import DefaultHttpxClient, OpenAI
from serving import DEMO, FakeServer

GOOD = head(fields=["Connection: close"])
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "ignore_eos": True}
DAY = 86400


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


class Files:
    """A key and a self-signed certificate for localhost in a folder."""

    def __init__(self, folder, name="own"):
        self.key, self.cert = folder / f"{name}.key", folder / f"{name}.pem"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 30, "-subj", "/CN=localhost",
                "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", self.key, "-out", self.cert)
        self.key.chmod(0o600)

    def dated(self, folder, name, first, last):
        """Another certificate of the same key, valid between these days from now."""
        def stamp(days):
            return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + days * DAY))
        (folder / "ca.conf").write_text("[ca]\ndefault_ca=d\n[d]\ndatabase=%s/index\nserial=%s/serial\nnew_certs_dir=%s\ndefault_md=sha256\n"
                                        "policy=p\nunique_subject=no\n[p]\ncommonName=supplied\n" % (folder, folder, folder))
        (folder / "index").write_text("")
        (folder / "serial").write_text("01\n")
        out = folder / name
        openssl("req", "-new", "-key", self.key, "-subj", "/CN=localhost", "-out", folder / "csr")
        openssl("ca", "-batch", "-config", folder / "ca.conf", "-selfsign", "-keyfile", self.key, "-in", folder / "csr", "-out", out, "-notext",
                "-startdate", stamp(first), "-enddate", stamp(last))
        return out


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="spillway-tls-") as f:
        yield pathlib.Path(f)


@pytest.fixture(scope="module")
def files(folder):
    return Files(folder)


@pytest.fixture(scope="module")
def serve(files):
    """serve(*options, **script): a server, the same one for the same call."""
    servers = {}

    def call(*options, **script):
        known = (options, tuple(script.items()))
        if known not in servers:
            servers[known] = FakeServer(DEMO, "--no-auth", "--name", "demo", "--tls-cert", files.cert, "--tls-key", files.key, *options, script=script)
        return servers[known]
    yield call
    for s in servers.values():
        assert s.stop() == 0, "".join(s.lines[-30:])


@pytest.fixture
def server(serve):
    return serve()


def context(files, low=ssl.TLSVersion.TLSv1_2, high=ssl.TLSVersion.TLSv1_3):
    c = ssl.create_default_context(cafile=str(files.cert))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the versions that are to be refused
        c.minimum_version, c.maximum_version = low, high
    if low < ssl.TLSVersion.TLSv1_2:
        c.set_ciphers("DEFAULT@SECLEVEL=0")
    return c


@contextlib.contextmanager
def dial(server, files, session=None, ctx=None, **versions):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
        with (ctx or context(files, **versions)).wrap_socket(plain, server_hostname="localhost", session=session) as s:
            yield s


def post(**changes):
    text = json.dumps({**CHAT, **changes}).encode()
    return head("POST", "/v1/chat/completions", [f"Content-Length: {len(text)}", "Content-Type: application/json"]) + text


def lives(server, files):
    return requests.get(server.url + "/v1/models", verify=str(files.cert), timeout=10).status_code == 200


def settled_fds(server):
    """Descriptors of the gateway when nothing comes or goes any more: a client that has left is seen a little later."""
    same_since, last = time.monotonic(), n_fds(server.process.pid)
    end = same_since + 10
    while time.monotonic() - same_since < 0.3 and time.monotonic() < end:
        time.sleep(0.01)
        now = n_fds(server.process.pid)
        if now != last:
            same_since, last = time.monotonic(), now
    return last


def closed_after(s, within_s):
    """Seconds until the server closed; what it says before (an alert) is taken."""
    start = time.monotonic()
    answer = receive(s, within_s)
    return (time.monotonic() - start, answer) if answer.closed else (None, answer)


# --- what works ---

@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_versions_that_work(server, files, version):
    with dial(server, files, low=version, high=version) as s:
        assert s.version() == version.name.replace("_", ".")
        s.sendall(GOOD)
        assert receive(s).status == 200


def test_http_1_1_is_agreed_on(server, files):
    ctx = context(files)
    ctx.set_alpn_protocols(["h2", "http/1.1"])
    with dial(server, files, ctx=ctx) as s:
        assert s.selected_alpn_protocol() == "http/1.1"


def test_requests_and_keep_alive(server, files):
    with requests.Session() as session:
        session.verify, session.trust_env = str(files.cert), False  # the environment may name other certificates
        for _ in range(3):
            r = session.post(server.url + "/v1/chat/completions", json=CHAT, timeout=10)
            assert r.status_code == 200 and r.json()["usage"]["completion_tokens"] == 20


def test_openai_client_streams(server, files):
    client = OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, http_client=DefaultHttpxClient(verify=context(files)))
    chunks = list(client.chat.completions.create(**{k: v for k, v in CHAT.items() if k != "ignore_eos"}, stream=True))
    whole = client.chat.completions.create(**{k: v for k, v in CHAT.items() if k != "ignore_eos"})
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content != ""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_sessions_are_resumed(server, files, version):
    ctx, session = context(files, low=version, high=version), None
    for i in range(3):
        with dial(server, files, ctx=ctx, session=session) as s:
            s.sendall(GOOD)
            assert receive(s).status == 200
            assert s.session_reused == (i > 0)
            session = s.session


def test_large_answers_arrive_whole(serve, files):
    s, n = serve(tokens_per_s=50000), 8
    body = {**CHAT, "max_tokens": 3000, "logprobs": True, "n": n}
    r = requests.post(s.url + "/v1/chat/completions", json=body, verify=str(files.cert), timeout=30)
    got = r.json()
    assert r.status_code == 200 and len(r.content) > 400000, len(r.content)
    made = sum(len(c["logprobs"]["content"]) for c in got["choices"])
    assert made == got["usage"]["completion_tokens"] > 900 * n
    streamed = requests.post(s.url + "/v1/chat/completions", json={**body, "stream": True}, verify=str(files.cert), timeout=30).text
    events = [e[6:] for e in streamed.split("\n\n") if e.startswith("data: ")]
    assert events.pop() == "[DONE]"
    texts = [""] * n
    for choice in (c for e in events for c in json.loads(e)["choices"]):
        texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == [c["message"]["content"] for c in got["choices"]]


def test_a_request_in_single_bytes(server, files):
    with dial(server, files) as s:
        for b in post():
            s.sendall(bytes([b]))
        assert receive(s, until=b"}}").status == 200


def test_200_handshakes_at_once(server, files, figure):
    ctx, n = context(files), 200
    plain = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(n)]

    def talk(p):
        with ctx.wrap_socket(p, server_hostname="localhost") as s:
            s.sendall(GOOD)
            return receive(s, 30).status
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        assert list(pool.map(talk, plain)) == [200] * n
    figure("TLS: 200 handshakes at once, each with a request", time.monotonic() - start, "s (clients on the same machine)")


# --- what is refused ---

@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=["1.0", "1.1"])
def test_versions_that_are_refused_with_an_alert(server, files, version):
    with pytest.raises(ssl.SSLError, match="(?i)alert.protocol.version"):
        with dial(server, files, low=version, high=version):
            pass
    assert lives(server, files)


def test_plain_http_is_closed(server, files):
    with connect(server.port) as s:
        s.sendall(GOOD)
        took, answer = closed_after(s, 5)
        assert took is not None and b"HTTP/" not in answer.raw
    assert lives(server, files)


@pytest.mark.parametrize("noise", [b"\x00" * 2000, b"\x16\x03\x01\xff\xff" + b"\x01" * 70000, b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff",
                                   b"\x15\x03\x03\x00\x02\x02\x28", b"\x17\x03\x03\x00\x10" + b"x" * 16, b"\x80\x2e\x01\x03\x01" + b"\x00" * 64],
                         ids=["zeros", "long record", "long message", "alert", "data first", "sslv2"])
def test_noise_in_place_of_a_handshake_is_closed(serve, files, noise):
    s = serve("--header-timeout", "1s")
    with connect(s.port) as c:
        with contextlib.suppress(ConnectionError):
            c.sendall(noise)
        took, answer = closed_after(c, 10)
        assert took is not None and len(answer.raw) < 100  # an alert at most
    assert lives(s, files)


def test_renegotiation_is_refused(server, files):
    """A new handshake in TLS 1.2 costs us more than its client: the connection ends."""
    p = subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_2", "-CAfile", files.cert],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    time.sleep(0.5)
    p.stdin.write(b"R\n")
    p.stdin.flush()
    time.sleep(0.5)
    try:
        p.stdin.write(b"GET /v1/models HTTP/1.1\nHost: localhost\n\n")
        p.stdin.flush()
    except BrokenPipeError:
        pass
    out = p.communicate(timeout=10)[0]
    assert b"RENEGOTIATING" in out and b"HTTP/1.1" not in out, out[-600:]
    assert lives(server, files)


# --- clients that are slow ---

def test_a_handshake_that_never_begins_is_closed_in_time(serve, size):
    s = serve("--header-timeout", "1s")
    with connect(s.port) as c:
        took, _ = closed_after(c, 10)
    assert took is not None and 0.9 <= took < size(10, 1.5)


def test_a_handshake_that_dribbles_is_closed_in_time(serve, files, size):
    """The deadline is of the whole, not from byte to byte."""
    s = serve("--header-timeout", "1s")
    hello, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context(files).wrap_bio(hello, out, server_hostname="localhost").do_handshake()
    data, start, closed = out.read(), time.monotonic(), None
    with connect(s.port) as c:
        for i in range(80):
            try:
                c.sendall(data[i:i + 1])
                c.settimeout(0.05)
                if not c.recv(100):
                    closed = time.monotonic()
            except socket.timeout:
                continue
            except ConnectionError:
                closed = time.monotonic()
            if closed:
                break
    assert closed and 0.9 <= closed - start < size(10, 1.5)


def test_a_header_that_never_comes_is_closed_in_time(serve, files, size):
    s = serve("--header-timeout", "1s")
    with dial(s, files) as c:
        c.sendall(b"GET /v1/models HT")
        took, _ = closed_after(c, 10)
    assert took is not None and 0.5 <= took < size(10, 1.5)


def test_a_client_that_reads_nothing_is_cut(serve, files, size):
    s = serve("--write-timeout", "1s", tokens_per_s=50000)
    assert lives(s, files)
    idle = settled_fds(s)
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", s.port))
        with context(files).wrap_socket(plain, server_hostname="localhost") as c:
            c.sendall(post(stream=True, max_tokens=100000, n=8, logprobs=True))
            assert wait_until(lambda: n_fds(s.process.pid) > idle, 5) is not None
            cut = wait_until(lambda: n_fds(s.process.pid) <= idle, 15)
            assert cut is not None and 0.9 <= cut < size(10, 3)
            got = b""
            with contextlib.suppress(OSError):
                while more := c.recv(65536):
                    got += more
            assert b"data: " in got and b"[DONE]" not in got
    assert lives(s, files)


# --- clients that leave ---

@pytest.mark.parametrize("how", ["fin", "rst", "close_notify and fin"])
def test_a_client_that_leaves_mid_stream_is_noticed(serve, files, size, figure, how):
    s = serve(tokens_per_s=50)
    seed = {"fin": 700001, "rst": 700002, "close_notify and fin": 700003}[how]
    with dial(s, files) as c:
        c.sendall(post(stream=True, max_tokens=900, seed=seed))
        got = b""
        while got.count(b"data: ") < 3:
            got += c.recv(4096)
        if how == "rst":
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        at = time.clock_gettime(time.CLOCK_BOOTTIME) * 1000
        if how.startswith("close_notify"):
            with contextlib.suppress(ssl.SSLError, OSError):
                c.settimeout(0)
                c.unwrap()  # says goodbye and does not wait for ours
            c.shutdown(socket.SHUT_RDWR)
        socket.socket.close(c)  # without a goodbye
        sequences = {r["sequence"] for r in s.recorded("submit") if r["seed"] == seed}
        assert wait_until(lambda: any(r["sequence"] in sequences for r in s.recorded("cancel")), 5) is not None
    took = next(r["t_ms"] for r in s.recorded("cancel") if r["sequence"] in sequences) - at
    figure(f"TLS: client leaves ({how})", max(took, 0.0), "ms until the engine was told")
    assert -1 <= took <= size(2500, 250)  # the engine's clock has whole milliseconds


def test_the_server_says_goodbye(server, files):
    """close_notify: the end of an answer is told from a connection that was cut."""
    with dial(server, files) as s:
        s.suppress_ragged_eofs = False
        s.sendall(GOOD)
        answer = receive(s)  # a cut one would raise SSLEOFError
        assert answer.status == 200 and answer.closed


def test_a_goodbye_between_requests_ends_the_connection(server, files):
    with dial(server, files) as s:
        s.sendall(head())
        assert receive(s, until=b"}]}").status == 200
        plain = s.unwrap()  # returns when the server has said goodbye, too
        assert plain.recv(10) == b""


def test_connections_that_come_and_go_leave_nothing(server, files, size):
    assert lives(server, files)
    idle = settled_fds(server)
    ctx = context(files)
    for i in range(size(100, 5000)):
        try:
            with dial(server, files, ctx=ctx) as s:
                if i % 3 == 1:
                    s.sendall(post(stream=True)[:40 + i % 200])
                if i % 3 == 2:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
    assert wait_until(lambda: n_fds(server.process.pid) <= idle, 5) is not None
    assert lives(server, files)


# --- files that are wrong ---

def start_fails(cert, key, *words):
    s = FakeServer(DEMO, "--no-auth", "--tls-cert", cert, "--tls-key", key, wait=False)
    code = s.process.wait(20)
    s.stop()
    log = "".join(s.lines)
    assert code == 1 and "Ready" not in log
    for word in map(str, words):
        assert word in log, log


def test_files_that_are_not_there(files, folder):
    start_fails(folder / "none.pem", files.key, "certificate", folder / "none.pem", "No such file")
    start_fails(files.cert, folder / "none.key", "key", folder / "none.key", "No such file")


def test_files_that_are_no_files(files, folder):
    start_fails(folder, files.key, "certificate", folder)
    start_fails(files.cert, folder, "key", folder)


@pytest.mark.parametrize("text", ["", "garbage\n" * 100, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"], ids=["empty", "text", "pem"])
def test_files_with_garbage(files, folder, text):
    bad = folder / "bad"
    bad.write_text(text)
    start_fails(bad, files.key, "certificate", bad)
    start_fails(files.cert, bad, "key", bad)


def test_a_file_too_large(files, folder):
    with open(folder / "large", "wb") as f:
        f.truncate(1 << 30)
    start_fails(folder / "large", files.key, "certificate", folder / "large", "at most")


def test_certificate_and_key_that_do_not_belong_together(files, folder):
    other = Files(folder, "other")
    start_fails(files.cert, other.key, files.cert, other.key, "do not match")


def test_a_key_with_a_passphrase(files, folder):
    locked = folder / "locked.key"
    openssl("pkey", "-in", files.key, "-aes256", "-passout", "pass:x", "-out", locked)
    start_fails(files.cert, locked, "key", locked)


def test_a_certificate_that_has_expired_or_is_not_valid_yet(files, folder):
    start_fails(files.dated(folder, "old.pem", -20, -10), files.key, "certificate", folder / "old.pem", "expired on 20")
    start_fails(files.dated(folder, "new.pem", 10, 20), files.key, "certificate", folder / "new.pem", "not valid before 20")


def test_one_of_the_two_options_alone(files):
    s = FakeServer(DEMO, "--no-auth", "--tls-cert", files.cert, wait=False)
    assert s.process.wait(20) != 0
    s.stop()
    assert "belong together" in "".join(s.lines)


def test_warnings(files, folder):
    """A key that everybody may read, a certificate in its last days: said, and served."""
    soon, key = files.dated(folder, "soon.pem", -1, 5), folder / "open.key"
    key.write_bytes(files.key.read_bytes())
    key.chmod(0o644)
    s = FakeServer(DEMO, "--no-auth", "--tls-cert", soon, "--tls-key", key)
    log = "".join(s.lines)
    assert s.stop() == 0
    assert f"key {key} is open to every user" in log and f"certificate {soon} expires on 20" in log


def test_no_warning_without_reason(server):
    assert not any("TLS:" in line for line in server.lines)


# --- files that change ---

@pytest.fixture
def changing(folder):
    """A server of its own and its two files, which the test may change."""
    own = Files(folder, "changing")
    s = FakeServer(DEMO, "--no-auth", "--name", "demo", "--tls-cert", own.cert, "--tls-key", own.key, script={"tokens_per_s": 100})
    yield s, own
    assert s.stop() == 0, "".join(s.lines[-30:])


def shown(server):
    """The certificate that a new connection is shown."""
    return ssl.get_server_certificate(("127.0.0.1", server.port))


def reload(server, says):
    seen = len(server.lines)
    server.process.send_signal(signal.SIGHUP)
    assert wait_until(lambda: any(says in line for line in server.lines[seen:]), 5) is not None, "".join(server.lines[seen:])


def replace(own, new):
    own.cert.write_bytes(new.cert.read_bytes())
    own.key.write_bytes(new.key.read_bytes())


def test_a_new_certificate_is_taken_over_by_sighup(changing, folder):
    s, own = changing
    old, new = shown(s), Files(folder, "renewed")
    assert old == own.cert.read_text()
    with dial(s, own) as c:  # goes on with what it began with
        c.sendall(post(stream=True, max_tokens=60))
        got = c.recv(4096)
        replace(own, new)
        reload(s, "reload: done")
        assert shown(s) == new.cert.read_text() != old
        got += receive(c, 5, until=b"[DONE]").raw
        assert b"[DONE]" in got
        c.sendall(GOOD)
        assert receive(c).status == 200
    assert lives(s, new)


@pytest.mark.parametrize("fault", ["garbage", "gone", "mismatch", "expired"])
def test_a_bad_certificate_is_refused_and_the_old_one_stays(changing, folder, fault):
    s, own = changing
    old, bad = own.cert.read_text(), Files(folder, "bad-" + fault)
    if fault == "garbage":
        own.cert.write_text("garbage")
    if fault == "gone":
        own.key.unlink()
    if fault == "mismatch":
        own.key.write_bytes(bad.key.read_bytes())
    if fault == "expired":
        own.cert.write_bytes(own.dated(folder, "old-" + fault, -20, -10).read_bytes())
    reload(s, "reload: nothing is changed")
    assert any(str(own.key if fault == "gone" else own.cert) in line and "TLS" in line for line in s.lines)
    assert shown(s) == old


def test_reloads_leave_nothing(changing, size):
    s, own = changing
    reload(s, "reload: done")
    fds = settled_fds(s)
    for i in range(size(20, 1000)):
        reload(s, "reload: done")
        with dial(s, own) as c:
            if i % 2:
                c.sendall(GOOD)
                assert receive(c).status == 200
    assert settled_fds(s) <= fds
