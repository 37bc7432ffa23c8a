"""Who may call what: every route x method x credential against the checked-in table (T01), odd spellings of paths, hosts and methods (T02)."""
import itertools
import json
import pathlib
import subprocess
import time

import pytest
from http_raw import connect, exchange, head, receive, send_all
from serving import BIN, Server

TABLE = pathlib.Path(__file__).with_name("routes.txt")
CREDENTIALS = ["none", "unknown", "expired", "revoked", "key", "admin"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "Post", "PROPFIND", "X"]


def keys(server, *args):
    return subprocess.run([BIN, "keys", *args, "--data", server.data.name], capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def status(server, key, path="/v1/models"):
    return exchange(server.port, head("GET", path, ["Connection: close"], key=key)).status


@pytest.fixture(scope="module")
def server():
    s = Server("demo")
    yield s
    assert s.stop() == 0, "".join(s.lines)


@pytest.fixture(scope="module")
def tokens(server):
    """One of each kind, and the server knows of it."""
    made = json.loads(keys(server, "add", "to-revoke", "--json"))
    keys(server, "revoke", str(made["id"]))
    t = {"none": None, "unknown": server.key[:-1] + ("a" if server.key[-1] != "a" else "b"), "revoked": made["key"], "key": server.key,
         "expired": keys(server, "add", "short-lived", "--expires", "1s"), "admin": keys(server, "add", "operator", "--admin")}
    end = time.monotonic() + 5
    while (status(server, t["admin"]), status(server, t["expired"])) != (403, 401) and time.monotonic() < end:
        time.sleep(0.05)
    assert status(server, t["admin"]) == 403
    return t


def table():
    rows = [line.split() for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    listed = {(r[0], r[2]) for r in rows}
    for path, _, method, *statuses in rows:
        for m in ([method] if method != "*" else [m for m in METHODS if (path, m) not in listed]):
            yield path, m, dict(zip(CREDENTIALS, map(int, statuses), strict=True))


def ask(port, method, path, key):
    body = b"{}" if method in ("POST", "PUT", "PATCH") else b""
    fields = ["Connection: close"] + (["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else [])
    return exchange(port, head(method, path, fields, key=key) + body)


def test_t01_routes_and_credentials_are_as_in_the_table(server, tokens, figure):
    wrong, n = [], 0
    for path, method, expected in table():
        for who in CREDENTIALS:
            n += 1
            got = ask(server.port, method, path, tokens[who]).status
            if got != expected[who]:
                wrong.append((method, path, who, got, expected[who]))
    figure("route x method x credential", n)
    assert not wrong, wrong[:10]
    assert n >= 1000


def test_t01_unknown_route_is_answered_before_key_and_body(server):
    """404 while the body has not been sent, and 404 rather than 413 for one that is too large."""
    for length in ("5", "99999999999"):
        with connect(server.port) as s:
            s.sendall(head("POST", "/v1/nothing", [f"Content-Length: {length}", "Content-Type: application/json"]))
            assert receive(s, 2, until=b"}}").status == 404


@pytest.mark.parametrize("who", ["none", "unknown", "expired", "revoked"])
def test_t01_refused_key_is_answered_before_the_body(server, tokens, who):
    with connect(server.port) as s:
        s.sendall(head("POST", "/v1/chat/completions", ["Content-Length: 1000000"], key=tokens[who]))
        assert receive(s, 2, until=b"}}").status == 401


def test_t01_no_auth_needs_no_key():
    s = Server("demo", "--no-auth")
    try:
        assert [status(s, None, p) for p in ("/v1/models", "/healthz", "/livez")] == [200, 200, 200]
    finally:
        assert s.stop() == 0


# --- T02 ---

BASES = ["/v1/models", "/v1/models/demo", "/healthz", "/v1/chat/completions"]
SPELLINGS = [
    lambda p: "/" + p, lambda p: "//" + p, lambda p: "/." + p, lambda p: "/.." + p, lambda p: p + "/", lambda p: p + "//", lambda p: p + "/.", lambda p: p + "/..",
    lambda p: p + ".", lambda p: p + "..", lambda p: p.upper(), lambda p: p.title(), lambda p: p.replace("/", "//"), lambda p: p.replace("/", "/./"),
    lambda p: p.replace("/", "%2F"), lambda p: p.replace("/", "%2f", 1), lambda p: p[0] + p[1:].replace("/", "%2F"), lambda p: p.replace("/", "\\"),
    lambda p: "/livez/.." + p, lambda p: "/livez/%2e%2e" + p, lambda p: "/livez/..%2f" + p[1:], lambda p: "/livez;" + p, lambda p: "/livez%3b" + p, lambda p: "/livez%00" + p,
    lambda p: "/livez?" + p, lambda p: "/livez%3f" + p, lambda p: "/livez#" + p, lambda p: "/livez%23" + p, lambda p: "/livez%20" + p, lambda p: "/livez%0d%0a" + p,
    lambda p: p + "%00", lambda p: p + "%00/livez", lambda p: p + "%20", lambda p: p + "%09", lambda p: p + "%0a", lambda p: p + "%0d%0aX:%20y", lambda p: p + ";x=1", lambda p: p + ";/livez",
    lambda p: p + "?", lambda p: p + "?key=x", lambda p: p + "?/livez", lambda p: p + "#", lambda p: p + "#/livez", lambda p: p + "/../livez", lambda p: p + "/../../livez",
    lambda p: p + "/%2e%2e/livez", lambda p: p + "%2f..%2flivez", lambda p: "".join(f"%{ord(c):02x}" for c in p), lambda p: "/" + "".join(f"%{ord(c):02X}" for c in p[1:]),
    lambda p: "".join(f"%25{ord(c):02x}" for c in p), lambda p: p.replace("m", "%6d").replace("h", "%68"), lambda p: p.replace("o", "%ef%bd%8f"), lambda p: p.replace("v1", "v%31"),
    lambda p: p.replace("e", "%c0%a5"), lambda p: p + "%ff", lambda p: p + "%", lambda p: p + "%4", lambda p: p + "%zz", lambda p: p + "/" + "a" * 4000, lambda p: p + "/" + "../" * 1000,
    lambda p: "/" * 3000 + p, lambda p: p + "/" + "a" * 20000, lambda p: p[1:], lambda p: "." + p, lambda p: " " + p, lambda p: "*" + p,
    lambda p: "http://localhost" + p, lambda p: "HTTP://LOCALHOST" + p, lambda p: "http://example.org" + p, lambda p: "http://localhost@example.org" + p, lambda p: "https://localhost" + p,
    lambda p: "ftp://localhost" + p, lambda p: "http://localhost/livez/.." + p, lambda p: "http:" + p, lambda p: "http://localhost", lambda p: "localhost:80",
]
HOSTS = [["Host: LOCALHOST"], ["Host: localhost:1"], ["Host: example.org"], ["Host: localhost", "Host: localhost"], ["Host: localhost", "Host: example.org"], ["Host:"],
         ["Host: localhost/livez"], ["Host: localhost."], ["Host: [::1]"], ["Host: 127.0.0.1"], ["Host: 0x7f000001"], ["Host: localhost", "X-Forwarded-Host: livez"], [],
         ["Host: localhost", "X-Original-URL: /livez"], ["Host: localhost", "X-Rewrite-URL: /livez"], ["Host: localhost", "X-HTTP-Method-Override: GET"],
         ["Host: localhost", "X-Forwarded-For: 127.0.0.1"], ["Host: localhost", "X-Forwarded-Prefix: /livez"]]
ODD_METHODS = ["get", "Get", "GET\t", " GET", "GETT", "G", "GE T", "HEAD", "OPTIONS", "TRACE", "TRACK", "CONNECT", "DEBUG", "PURGE", "COPY", "M-SEARCH", "A" * 40, "G\0ET", "P\u00d6ST", ""]


def oddities():
    """(request bytes with %KEY% where the field goes)."""
    for spell, base in itertools.product(SPELLINGS, BASES):
        yield "POST" if base.endswith("completions") else "GET", spell(base), ["Host: localhost"]
    for base, host in itertools.product(BASES[:3], HOSTS):
        yield "GET", base, host
    for base, method in itertools.product([*BASES, "/livez", "*"], ODD_METHODS):
        yield method, base, ["Host: localhost"]


def raw(method, path, fields, key):
    key = [f"Authorization: Bearer {key}"] if key else []
    return ("\r\n".join([f"{method} {path} HTTP/1.1", *fields, *key, "Connection: close"]) + "\r\n\r\n").encode("latin-1", "replace")


def judge(without, others):
    """What an answer without a key may be, given those with a key and with an admin key: the router decided the same for all of them."""
    if without.status == 401:
        return all(o.status != 404 or b"model_not_found" in o.body for o in others)  # a known route
    open_route = without.status == 200 and (without.body in (b"ok\n", b"") or without.body.startswith(b"ok\ndevice: "))
    refused = without.status is not None and without.status >= 400
    return (open_route or refused) and all(o.status == without.status for o in others)


def test_t02_oddities_bypass_nothing(server, tokens, figure):
    wrong, n = [], 0
    for method, path, fields in oddities():
        n += 1
        without, key, admin = (exchange(server.port, raw(method, path, fields, t)) for t in (None, tokens["key"], tokens["admin"]))
        if len(without.statuses) != 1 or not judge(without, [key, admin]):
            wrong.append((method, path[:80], fields, without, key, admin))
        if any(word in without.body for word in (b'"object"', b'"rss_bytes"', b'"choices"')):
            wrong.append((method, path[:80], "told without a key", without))
    figure("oddities", n)
    assert not wrong, wrong[:5]
    assert n >= 300


def test_t02_oddities_reach_something(server, tokens):
    """The comparison above sees routes, not only refusals."""
    seen = {exchange(server.port, raw(m, p, f, tokens["key"])).status for m, p, f in oddities()}
    assert {200, 400, 403, 404, 405, 414, 421} <= seen, seen


class Planted:
    def __init__(self, status, body=b""):
        self.status, self.body = status, body


@pytest.mark.parametrize("without,other", [
    (Planted(200, b'{"object":"list"}'), Planted(200)), (Planted(200, b"ok\n"), Planted(403)), (Planted(404), Planted(200)), (Planted(405), Planted(200)), (Planted(None), Planted(200)),
    (Planted(401), Planted(404)), (Planted(204), Planted(204))])
def test_t02_judge_sees_a_bypass(without, other):
    assert not judge(without, [other])


@pytest.mark.parametrize("order", ["good first", "good last"])
def test_t02_two_keys_are_refused(server, order):
    """A proxy in front may have looked at the other one."""
    fields = [f"Authorization: Bearer {server.key}", "Authorization: Bearer something-else"]
    a = exchange(server.port, head("GET", "/v1/models", [*(fields if order == "good first" else fields[::-1]), "Connection: close"]))
    assert a.status == 400
