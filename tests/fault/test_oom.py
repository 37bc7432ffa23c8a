"""T47: the k-th allocation of each request fails, once or all from there on, in the gateway, a worker or a media process. Every request of
failer/scripts.py is answered rightly or with an error of ours; nothing ends, nothing is lost, and the next request is answered as ever.

`closed` in the figures is a connection ended without an answer, or a stream without [DONE]: what is left where not even an error can be written."""
import pathlib
import ssl
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "failer"))
from conftest import long_run  # noqa: E402
from failer import ROLES  # noqa: E402
from scripts import PICTURES, SCRIPTS, WITHOUT_WORKER, chat, user, wire  # noqa: E402
from serving import BIN  # noqa: E402
from test_remote_images import Hosts  # noqa: E402
from torture import SLACK, Torture  # noqa: E402

SHORT = {"gateway": 140, "worker": 40, "media": 20}  # how many k's of all


def scripts_of(role):
    return [n for n in SCRIPTS if (role != "worker" or n not in WITHOUT_WORKER) and (role != "media" or n in PICTURES)]


def cases(torture, role):
    """(script, k, forever): all k's, and one past the last; short: evenly spread over them."""
    every = [(name, k, forever) for name in scripts_of(role) for forever in (False, True)
             for k in range(1, torture.learn(name)[2][role, "alloc"] + 2)]
    return every if long_run() else every[::max(1, len(every) // SHORT[role])]


@pytest.fixture(scope="module")
def server():
    t = Torture()
    yield t
    assert t.stop() == 0, "".join(t.server.lines[-20:])


@pytest.fixture(scope="module")
def plain():
    """Without accounts: a store that has no memory for good is another matter than a gateway that has none."""
    t = Torture("demo", "--no-auth")
    yield t
    assert t.stop() == 0, "".join(t.server.lines[-20:])


@pytest.fixture
def torture(server):
    server.begin()
    return server


@pytest.mark.parametrize("forever", [False, True], ids=["once", "forever"])
@pytest.mark.parametrize("role", ROLES)
def test_t47_failed_allocations(server, plain, role, forever, figure):
    torture = plain if forever else server
    torture.begin()
    start, reached = time.monotonic(), 0
    for name, k, lasting in cases(torture, role):
        if lasting == forever:
            reached += torture.run(name, role, f"{role} {name} k={k} {'forever' if forever else 'once'}", lambda r: r.fail_alloc(k, forever)) > 0
    figure(f"T47 {role} {'forever' if forever else 'once'}", f"{torture.report()}; {reached} failed, {time.monotonic() - start:.1f} s")
    assert not torture.findings, "\n".join(f"{c}: {w}" for c, w in torture.findings[:20])
    assert reached > torture.runs // 2  # it did fail


@pytest.mark.parametrize("forever", [False, True], ids=["once", "forever"])
def test_t47_a_picture_by_url(monkeypatch, forever, figure):
    """Fetching it, and what curl does for that."""
    hosts = Hosts()
    monkeypatch.setitem(SCRIPTS, "url", wire(chat(user("What is it?", f"http://127.0.0.2:{hosts.port}/"))))
    t = Torture("demo", "--no-auth", "--remote-images", "http", "--remote-image-host", f"127.0.0.2:{hosts.port}", "--remote-image-network", "127.0.0.2")
    n = t.learn("url")[2]["gateway", "alloc"]
    ks = range(1, n + 2) if long_run() else range(1, n + 2, max(1, n // 80))
    reached = sum(t.run("url", "gateway", f"url k={k}", lambda r: r.fail_alloc(k, forever)) > 0 for k in ks)
    figure(f"T47 a picture by URL {'forever' if forever else 'once'}", f"{n} allocations; {t.report()}; {reached} failed")
    assert not t.findings, "\n".join(f"{c}: {w}" for c, w in t.findings[:20])
    assert reached > t.runs // 2
    assert t.stop() == 0
    hosts.close()


@pytest.mark.parametrize("name,key,fields", [("kept", "NEW-EACH-TIME", {}), ("given again", "again", {}), ("already done", "again", {"stream": True}),
                                             ("tags", "NEW-EACH-TIME", {"metadata": {"a": "b"}})])
def test_t47_an_idempotency_key(monkeypatch, figure, name, key, fields):
    """An answer that is sealed and kept, one that is given again, a receipt, tags."""
    monkeypatch.setitem(SCRIPTS, name, wire(chat(**fields), fields=[f"Idempotency-Key: {key}"]))
    t = Torture()
    subprocess.run([BIN, "accounts", "storage", "2", "on", "--data", t.server.data.name], check=True, capture_output=True)
    counts = []
    for _ in range(6):
        before = t.count()["gateway", "alloc"]
        t.send(name)
        counts.append(t.count()["gateway", "alloc"] - before)
    n = min(counts)  # the others have what is made once, such as statements, or now and then
    ks = range(1, n + 2) if long_run() else range(1, n + 2, max(1, n // 40))
    reached = sum(t.run(name, "gateway", f"{name} k={k}", lambda r: r.fail_alloc(k, False)) > 0 for k in ks)
    figure(f"T47 {name} once", f"{n} allocations; {t.report()}; {reached} failed")
    assert not t.findings, "\n".join(f"{c}: {w}" for c, w in t.findings[:20])
    assert reached > t.runs // 2
    assert t.stop() == 0


def test_t47_a_planted_loss_is_found(torture):
    """The meter itself: blocks and descriptors that stay held are a finding."""
    good, limit, counts = torture.learn("models")
    torture.known["models"] = good, [n - 1 - s for n, s in zip(limit, SLACK)], counts
    torture.run("models", "gateway", "planted", lambda r: None)
    assert [w for _, w in torture.findings if w.startswith("held")]


def test_t47_tls_with_little_memory(tmp_path, figure):
    """All that is held may be so many bytes more than at rest: a TLS client is served or loses its connection, the process lives.

    (The k-th allocation alone is not failed here: GMP ends the process then, and libtasn1 follows a NULL, while a handshake is signed. Memory that is
    short is met earlier, by the larger blocks that a handshake begins with.)"""
    key, cert = tmp_path / "key", tmp_path / "cert"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert], check=True, capture_output=True)
    t = Torture("demo", "--tls-cert", cert, "--tls-key", key, tls=ssl.create_default_context(cafile=cert))
    good, limit, _ = t.learn("models")
    gateway, kinds = t.server.roles["gateway"], {}
    for more in range(0, 160 << 10, 256 if long_run() else 2048):
        t.settled(limit)
        gateway.max_bytes = gateway.bytes + more
        reply = t.send("models", within_s=2.0)
        t.server.calm()
        kinds[reply.kind] = kinds.get(reply.kind, 0) + 1
        assert t.alive() and t.again("models", good).what == good.what, (more, t.server.lines[-3:])
        assert reply.kind in ("closed", "error") or reply.what == good.what, (more, reply)
    figure("T47 TLS with little memory", str(kinds))
    assert kinds.get("closed", 0) > 0 and kinds.get("ok", 0) > 0  # both sides of where it begins to work
    assert t.stop() == 0
