"""Keys: odd ones (T03), revoked, expired and rotated ones while the server runs (T09), the configured one between starts, admin's /healthz."""
import itertools
import json
import os
import pathlib
import random
import stat
import subprocess
import time

import pytest
from http_raw import connect, exchange, head, receive, send_all, wait_until
from serving import BIN, DEMO, FakeServer, Server


def keys(data, *args):
    return subprocess.run([BIN, "keys", *map(str, args), "--data", str(data)], capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def answer(server, key, path="/v1/models"):
    return exchange(server.port, head("GET", path, ["Connection: close"], key=key))


@pytest.fixture(scope="module")
def server():
    s = Server("demo")
    yield s
    assert s.stop() == 0, "".join(s.lines)


@pytest.fixture
def start(tmp_path):
    """Servers on one data directory; stopped at the end."""
    running = []

    def call(*args, env=None, wait=True):
        s = Server("demo", *args, env=env, wait=False, data=tmp_path / "data")
        running.append(s)
        if wait:
            assert s.log_has("Ready in", 30), "".join(s.lines)
        return s
    yield call
    for s in running:
        s.stop()


# --- T03 ---

FIXED = ["", "'", '"', "''", "' OR '1'='1", "\" OR 1=1 --", "'; DROP TABLE accounts; --", "') UNION SELECT id FROM accounts --", "%27", "\\", "\\'", "%s%s%n", "{}", "[]", "null", "0",
         "../../etc/passwd", "${jndi:ldap://x}", "<script>", "*", "?", "sk-spillway-", "\xe9", "\u00fc\u00df", "\xff\xfe", "a b", "a\tb", "Bearer x", ",", "a,b", "=", "x" * 512, "x" * 513, "x" * 8000]


def odd_keys(server):
    yield from FIXED
    yield from (server.key[:k] for k in range(0, len(server.key), 7))
    yield from (server.key + tail for tail in ("x", " x", ",", "'", "=", "\xff", server.key))
    yield from (change(server.key) for change in (str.upper, str.lower, str.swapcase, lambda k: k[::-1]))
    r = random.Random(3)
    alphabet = [chr(c) for c in range(0x20, 0x100) if c != 0x7f]
    while True:
        yield "".join(r.choices(alphabet, k=r.randrange(1, 200)))


def test_t03_odd_keys_get_the_same_answer(server, size, figure):
    n, seen, statuses = 0, set(), set()
    s = connect(server.port)
    for key in itertools.islice(odd_keys(server), size(400, 10000)):
        s.sendall(head("GET", "/v1/models", [f"Authorization: Bearer {key}"]))
        a = receive(s, 5, until=b'"}}')
        statuses.add(a.status)
        seen.add((a.body, tuple(sorted((k, v) for k, v in a.headers.items() if k not in ("date", "x-request-id")))))
        n += 1
        if a.closed:
            s.close()
            s = connect(server.port)
    s.close()
    figure("odd keys", n)
    assert statuses == {401} and len(seen) == 1, (statuses, seen)
    assert answer(server, server.key).status == 200


@pytest.mark.parametrize("scheme", ["Basic", "Digest", "Token", "", "Bearer", "BearerX", "bearer:"])
def test_t03_other_schemes_are_no_key(server, scheme):
    a = exchange(server.port, head("GET", "/v1/models", [f"Authorization: {scheme}{' ' if scheme not in ('', 'Bearer') else ''}{server.key}", "Connection: close"]))
    assert a.status == 401


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
def test_bearer_in_any_case(server, scheme):
    assert exchange(server.port, head("GET", "/v1/models", [f"Authorization: {scheme}{server.key}", "Connection: close"])).status == 200


@pytest.mark.parametrize("junk,status", [(b"\0", 400), (b"\x01", 400), (b"\x7f", 400), (b"x" * (1 << 20), 431)])
def test_t03_what_no_header_may_have_is_refused_alike(server, junk, status):
    """A NUL or control character in a key, or a key of 1 MB, is no HTTP here; a valid key before it makes no difference."""
    answers = []
    for key in (server.key.encode(), b"y" * len(server.key)):
        with connect(server.port) as s:
            send_all(s, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + key + junk + b"\r\n\r\n")
            answers.append(receive(s, 5))
    assert [a.status for a in answers] in ([status, status], [None, None]) and answers[0].body == answers[1].body, answers


# --- T09 ---

def until_refused(server, key, within_s):
    took = wait_until(lambda: answer(server, key).status == 401, within_s)
    assert took is not None, "still valid"
    return took


def test_t09_revoked_key_is_refused_at_once(start, size, tmp_path, figure):
    """By both servers on one data directory."""
    servers = [start(), start()]
    worst = 0
    for i in range(size(2, 20)):
        made = json.loads(keys(tmp_path / "data", "add", f"k{i}", "--json"))
        for s in servers:
            assert wait_until(lambda: answer(s, made["key"]).status == 200, 10) is not None
        keys(tmp_path / "data", "revoke", made["id"])
        revoked = time.monotonic()
        for s in servers:
            until_refused(s, made["key"], 10)
            worst = max(worst, time.monotonic() - revoked)
    figure("revoked key refused after", worst, "s")
    assert worst <= size(10, 1)


def test_t09_expired_key_is_refused_at_once(start, size, tmp_path, figure):
    s = start()
    worst = 0
    for i in range(size(1, 10)):
        made = json.loads(keys(tmp_path / "data", "add", f"k{i}", "--json", "--expires", "3s"))
        assert wait_until(lambda: answer(s, made["key"]).status == 200, 2.5) is not None
        until_refused(s, made["key"], 20)
        worst = max(worst, time.time() - made["expires_at"])
    figure("expired key refused after", worst, "s")
    assert worst <= size(10, 1)


def test_rotated_key_keeps_its_grace(start, tmp_path):
    s, data = start(), tmp_path / "data"
    old = json.loads(keys(data, "add", "robot", "--json"))
    new = json.loads(keys(data, "rotate", old["id"], "--grace", "4s", "--json"))
    assert new["id"] == old["id"] and new["key"] != old["key"]
    assert wait_until(lambda: answer(s, new["key"]).status == 200, 3) is not None
    assert answer(s, old["key"]).status == 200
    until_refused(s, old["key"], 15)
    assert answer(s, new["key"]).status == 200


def test_revoked_key_lets_its_running_answer_end(start, tmp_path):
    s, data = start(), tmp_path / "data"
    made = json.loads(keys(data, "add", "reader", "--json"))
    assert wait_until(lambda: answer(s, made["key"]).status == 200, 5) is not None
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4000, "ignore_eos": True, "stream": True}).encode()
    with connect(s.port, timeout=30) as c:
        c.sendall(head("POST", "/v1/chat/completions", ["Content-Type: application/json", f"Content-Length: {len(body)}"], key=made["key"]) + body)
        assert receive(c, 10, until=b"data: {").status == 200
        keys(data, "revoke", made["id"])
        until_refused(s, made["key"], 10)
        assert receive(c, 5, until=b"data: {").raw  # goes on


# --- the configured key ---

def status_of(s, key):
    return answer(s, key).status


def test_configured_key_may_change_between_starts(start):
    one = start(env={"SPILLWAY_API_KEY": "configured-one"})
    assert status_of(one, "configured-one") == 200
    one.stop()
    two = start(env={"SPILLWAY_API_KEY": "configured-two"})
    assert (status_of(two, "configured-one"), status_of(two, "configured-two")) == (401, 200)


def test_revoked_configured_key_is_not_brought_back(start, tmp_path):
    env = {"SPILLWAY_API_KEY": "configured-one"}
    start(env=env).stop()
    listed = json.loads(keys(tmp_path / "data", "list", "--json"))
    assert [(k["name"], k["configured"]) for k in listed] == [("configured", True)]
    keys(tmp_path / "data", "revoke", listed[0]["id"])
    alone = start(env=env, wait=False)  # nobody could use it
    assert alone.process.wait(20) == 1 and alone.log_has("SPILLWAY_API_KEY: the configured API key (key 6) was revoked")
    other = keys(tmp_path / "data", "add", "other")
    s = start(env=env)
    assert s.log_has("was revoked or has ended; the other keys hold")
    assert (status_of(s, "configured-one"), status_of(s, other)) == (401, 200)


def test_key_file_that_others_may_read_is_told(start, tmp_path):
    path = tmp_path / "key"
    path.write_text("from-the-file\n")
    path.chmod(0o644)
    assert start("--api-key-file", path).log_has("other users may read or write the API key")
    path.chmod(0o600)
    s = start("--api-key-file", path)
    assert not any("other users" in line for line in s.lines) and status_of(s, "from-the-file") == 200


@pytest.mark.parametrize("text", ["", "\n", "short", "has a blank", "two\nlines-of-it", "x" * 513, "x" * 5000, "nul\0inside-it", "\u00fcmlaut-in-it"])
def test_unusable_key_file_is_refused_without_telling_it(start, tmp_path, text):
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    s = start("--api-key-file", path, wait=False)
    assert s.process.wait(20) == 1 and s.log_has(str(path))
    if len(text) > 6:
        assert not any(text[:6] in line for line in s.lines), s.lines


def test_configured_key_leaves_the_environment(start):
    """Neither the server nor its children have it in /proc."""
    s = start(env={"SPILLWAY_API_KEY": "secret-canary-key"})
    pids = [s.process.pid, *s.children("worker"), *s.children("media")]
    assert len(pids) == 3
    for pid in pids:
        assert b"secret-canary-key" not in pathlib.Path(f"/proc/{pid}/environ").read_bytes()
    assert not any("secret-canary-key" in line for line in s.lines)


# --- health ---

def test_healthz_tells_an_admin_key(start, tmp_path):
    s, data = start(), tmp_path / "data"
    admin = keys(data, "add", "operator", "--admin")
    assert wait_until(lambda: answer(s, admin, "/healthz").status == 200, 5) is not None
    h = json.loads(answer(s, admin, "/healthz").body)
    assert h["status"] == "ok" and h["uptime_ms"] > 0 and h["rss_bytes"] > 1 << 20 and h["connections"] >= 1 and h["requests"] >= 1 and h["completions"] == 0 and h["prompt_tokens"] == 0
    [m] = h["models"]
    assert m["id"] == "demo" and m["state"] == "ready" and m["device"].startswith("cpu") and m["restarts"] == 0 and m["sequences"] == 0 and m["still_ms"] == 0 and m["rss_bytes"] > 1 << 20
    assert h["media"] == {"processes": 1, "up": 1, "busy": 0, "waiting": 0, "restarts": 0}
    assert h["keys"]["valid"] == 1 and h["keys"]["read_ago_ms"] < 5000


def test_healthz_counts_restarts(start, tmp_path):
    s, data = start(), tmp_path / "data"
    admin = keys(data, "add", "operator", "--admin")
    assert wait_until(lambda: answer(s, admin, "/healthz").status == 200, 5) is not None
    os.kill(s.children("worker")[0], 9)
    os.kill(s.children("media")[0], 9)

    def restarted():
        h = json.loads(answer(s, admin, "/healthz").body)
        return (h["models"][0]["restarts"], h["media"]["restarts"], h["status"], h["media"]["up"]) == (1, 1, "ok", 1)
    assert wait_until(restarted, 20) is not None


def test_healthz_tells_a_worker_that_stands_still(tmp_path):
    s = FakeServer(DEMO, "--name", "demo", "--hang-timeout", "8s")
    try:
        admin = keys(s.data.name, "add", "operator", "--admin")
        body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20, "seed": s.seeds["hang"]}).encode()
        with connect(s.port) as c:
            c.sendall(head("POST", "/v1/chat/completions", ["Content-Type: application/json", f"Content-Length: {len(body)}"], key=s.key) + body)

            def stands():
                a = answer(s, admin, "/healthz")
                m = json.loads(a.body)["models"][0] if a.status == 200 else {}
                return m and m["sequences"] == 1 and 300 <= m["still_ms"] < 8000 and json.loads(a.body)["completions"] == 1
            assert wait_until(stands, 7, 0.05) is not None
    finally:
        s.stop()


def test_open_health_tells_status_and_device_only(server):
    assert answer(server, None, "/livez").body == b"ok\n"
    lines = answer(server, None, "/readyz").body.decode().splitlines()
    assert lines[0] == "ok" and len(lines) == 2 and lines[1].startswith("device: cpu")


@pytest.mark.parametrize("name,mode", [("", 0o777), ("secret", 0o644), ("accounts.db", 0o640)])
def test_open_data_directory_is_told(start, tmp_path, name, mode):
    s = start()
    assert not any("open to other users" in line for line in s.lines)
    s.stop()
    (tmp_path / "data" / name).chmod(mode)
    assert start().log_has("open to other users (mode 0%o)" % mode)


def test_data_directory_is_private(start, tmp_path):
    start()
    for p in [tmp_path / "data", *(tmp_path / "data").iterdir()]:
        assert stat.S_IMODE(p.stat().st_mode) & 0o077 == 0, p
