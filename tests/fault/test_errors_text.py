"""T34: a running server is made to give its errors, over HTTP and inside streams; no answer tells pointers, paths, or what libraries say."""
import json
import os
import pathlib
import re
import signal
import threading
import time

import pytest
from http_raw import connect, exchange, head, receive, send_all, wait_until
from serving import DEMO, ROOT, FakeServer, Server

ROWS = re.findall(r"\[API_\w+\] = \{(\d{3}), [^\n]*?\"(\w+)\", (?:NULL|\"\d+\")\}", (ROOT / "server/api/errors.c").read_text())
CODES = {code for _, code in ROWS}
# Not to be had from outside; test_errors.c holds what it tells.
INNER = {"internal_error"}
# Told where there are accounts and providers for it: tests/accounts/test_charges.py, test_repeat.py and test_admin_http.py.
ELSEWHERE = {"budget_exhausted", "budget_held", "price_unknown", "provider_error", "accounts_unavailable",
             "idempotency_in_flight", "idempotency_mismatch", "already_done", "already_exists"}

LEAKS = re.compile(
    rb"0x[0-9a-fA-F]{4,}|(?<![\w.])/(?:home|root|tmp|usr|etc|proc|dev|var|opt|work|lib|run|mnt|build)\b|\w\.[ch]:\d+|\berrno\b|No such file|Permission denied|Cannot allocate|"
    rb"Broken pipe|Connection re|Resource temporarily|Bad file|Invalid argument|Operation not|microhttpd|jansson|sqlite|pcre|libpng|libjpeg|libwebp|giflib|gnutls|sodium|utf8proc|"
    rb"libcurl|segmentation|assert|unterminated|stack|near '|memfd|socket|epoll|\(null\)", re.I)


def leaks(body):
    return LEAKS.findall(body)


@pytest.mark.parametrize("text", [b"at 0x7ffe12345678", b"/home/me/model", b"accounts.c:12", b"unable to open: No such file or directory", b"SQLite: locked", b"near '}'", b"seccomp socket: Bad file descriptor"])
def test_t34_the_search_finds_planted_leaks(text):
    assert leaks(b'{"error":{"message":"' + text + b'"}}')


def body_of(**changes):
    return {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **changes}


def chat(server, body=None, key=..., fields=(), within_s=20):
    data = body if isinstance(body, bytes) else json.dumps(body or body_of()).encode()
    key = server.key if key is ... else key
    return exchange(server.port, head("POST", "/v1/chat/completions", [*fields, "Content-Type: application/json", f"Content-Length: {len(data)}", "Connection: close"], key=key) + data, within_s)


class Seen:
    def __init__(self):
        self.codes, self.wrong = set(), []

    def take(self, answer, code=None):
        """An answer that must be an error of that code with a clean text; also the headers are searched."""
        try:
            error = json.loads(answer.body)["error"]
        except (ValueError, KeyError):
            self.wrong.append(("no error object", answer))
            return
        if code and error["code"] != code:
            self.wrong.append((code, error))
        if (str(answer.status), error["code"]) not in ROWS or not error["message"] or set(error) != {"message", "type", "param", "code"}:
            self.wrong.append(("not of the table", error))
        if found := leaks(answer.raw):
            self.wrong.append(("tells", found, error))
        self.codes.add(error["code"])


@pytest.fixture(scope="module")
def server():
    s = Server("demo")
    yield s
    assert s.stop() == 0, "".join(s.lines)


@pytest.fixture(scope="module")
def seen():
    return Seen()


def url(data, media="image/png"):
    import base64
    return f"data:{media};base64," + base64.b64encode(data).decode()


def picture(u):
    return body_of(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": u}}]}])


PNG = (ROOT / "weights/demo/samples/shapes.png").read_bytes()
JPEG = (ROOT / "weights/demo/samples/heart.jpg").read_bytes()
BROKEN_JSON = [b"", b"{", b"[", b'{"model"', b"{'a':1}", b'{"a":tru}', b'{"a":01}', b'{"a":1e400}', b'{"a":12345678901234567890}', b'{"a":"\xff"}', b'{"a":"\\ud800"}', b'{"a":"\\u0000"}',
               b'{"a\\u0000":1}', b'{"a":1,"a":2}', b'{} x', b"[" * 100, b'"' + b"x" * 1000, b"\xef\xbb\xbf{}", b"nul", b'{"a":"\x01"}', b"[" + b"1," * 200000 + b"1]"]
BROKEN_PICTURES = [url(b""), url(b"not a picture"), url(PNG[:20]), url(PNG[:200]), url(PNG[:-30]), url(PNG[:50] + b"\0" * 100), url(PNG[:40] + PNG[48:]), url(JPEG[:100], "image/jpeg"), url(JPEG[:400], "image/jpeg"),
                   url(JPEG[:2] + b"\xff" * 500), url(b"GIF89a" + b"\xff" * 30), url(b"RIFF\x20\0\0\0WEBPVP8 " + b"\xff" * 30), "data:image/png;base64,!!!!", "data:image/png;base64,AAA", "data:text/plain;base64,AAAA",
                   "data:image/png,xx", "data:", "http://localhost/x.png", "file:///etc/passwd", "/etc/passwd", "x"]


def test_t34_texts_of_requests(server, seen):
    for body in BROKEN_JSON:
        seen.take(chat(server, body), "invalid_value")
    for u in BROKEN_PICTURES:
        seen.take(chat(server, picture(u)))
    for changes in [{"temperature": "x"}, {"temperature": 99}, {"max_tokens": -1}, {"messages": []}, {"messages": [{"role": "king", "content": "x"}]}, {"stop": [1]}, {"logit_bias": {"x": 1}}, {"model": 1}]:
        seen.take(chat(server, body_of(**changes)), "invalid_value")
    seen.take(chat(server, body_of(**{"k" * 1000: 1})), "invalid_value")
    for changes in [{"tools": [{"type": "function", "function": {"name": "f"}}]}, {"wat": 1}, {"\u20ac" * 30: 1}, {"stream_options": {"\u20ac" * 30: 1}, "stream": True}]:
        seen.take(chat(server, body_of(**changes)), "unsupported_parameter")
    seen.take(chat(server, body_of(messages=[{"role": "user", "content": "word " * 100000}])), "context_length_exceeded")
    seen.take(chat(server, body_of(model="\u20ac" * 200)), "model_not_found")
    assert not seen.wrong, seen.wrong[:5]


def test_t34_texts_of_the_edge(server, seen):
    get = lambda *a, **k: exchange(server.port, head(*a, **k), 5)  # noqa: E731
    for key in (None, "x", "' OR 1=1"):
        seen.take(get("GET", "/v1/models", ["Connection: close"], key=key), "invalid_api_key")
    seen.take(get("GET", "/healthz", ["Connection: close"], key=server.key), "permission_denied")
    seen.take(get("GET", "/v1/models", ["Connection: close", "Origin: https://example.org"], key=server.key), "permission_denied")
    seen.take(get("GET", "/v1/models/none", ["Connection: close"], key=server.key), "model_not_found")
    seen.take(get("GET", "/nothing/here", ["Connection: close"]), "not_found")
    seen.take(get("DELETE", "/livez", ["Connection: close"]), "method_not_allowed")
    seen.take(get("GET", "/livez", ["Connection: close"], host="example.org"), "host_not_allowed")
    seen.take(get("GET", "/livez", ["no field"]), "bad_request")
    seen.take(get("GET", "/livez%zz"), "bad_request")
    seen.take(get("GET", "/livez", version="HTTP/2.0"), "bad_request")
    seen.take(get("GET", "/" + "a" * 10000), "request_too_large")
    seen.take(get("GET", "/livez", [f"X-{i}: y" for i in range(100)]), "request_too_large")
    seen.take(exchange(server.port, head("POST", "/v1/chat/completions", ["Content-Length: 99999999999"], key=server.key), 5), "request_too_large")
    assert not seen.wrong, seen.wrong[:5]


def test_t34_texts_of_a_worker_that_dies(seen):
    """Before the first byte, inside a stream, and while there is none."""
    s = Server("demo")
    try:
        worker = s.children("worker")[0]
        body = json.dumps(body_of(max_tokens=4000, ignore_eos=True, stream=True)).encode()
        with connect(s.port, timeout=30) as c:
            c.sendall(head("POST", "/v1/chat/completions", ["Content-Type: application/json", f"Content-Length: {len(body)}"], key=s.key) + body)
            assert receive(c, 10, until=b"data: {").status == 200
            os.kill(worker, signal.SIGKILL)
            rest = receive(c, 5, quiet_s=1).raw
        events = [json.loads(e) for e in re.findall(rb"data: (\{.*?\})\r?\n", rest) if b'"error"' in e]
        assert [e["error"]["code"] for e in events] == ["worker_down"] and not leaks(rest), rest[-500:]
        answers = []

        def down():
            for pid in s.children("worker"):
                os.kill(pid, signal.SIGKILL)
            answers.append(chat(s))
            return answers[-1].status == 503
        assert wait_until(down, 10, 0.02) is not None
        seen.take(answers[-1], "worker_down")
    finally:
        s.killed = True
        s.stop()
    assert not seen.wrong, seen.wrong[:5]


def held(server, n=1):
    """Streams that go on."""
    out = []
    body = json.dumps(body_of(max_tokens=4000, ignore_eos=True, stream=True)).encode()
    for _ in range(n):
        c = connect(server.port, timeout=30)
        c.sendall(head("POST", "/v1/chat/completions", ["Content-Type: application/json", f"Content-Length: {len(body)}"], key=server.key) + body)
        assert receive(c, 10, until=b"data: {").status == 200
        out.append(c)
    return out


@pytest.mark.parametrize("option,code", [("--max-queue-requests", "queue_full"), ("--max-streams-per-key", "rate_limit_exceeded")])
def test_t34_texts_of_limits(seen, option, code):
    s = Server("demo", option, "1")
    try:
        streams = held(s)
        a = chat(s)
        seen.take(a, code)
        assert "retry-after" in a.headers
        for c in streams:
            c.close()
    finally:
        s.stop()
    assert not seen.wrong, seen.wrong[:5]


def test_t34_text_of_a_server_that_ends(seen):
    s = Server("demo")
    try:
        streams, idle = held(s), connect(s.port)
        idle.sendall(head("GET", "/livez"))
        assert receive(idle, 5, until=b"ok\n").status == 200
        body = json.dumps(body_of()).encode()
        start = head("POST", "/v1/chat/completions", ["Content-Type: application/json", f"Content-Length: {len(body)}"], key=s.key)
        idle.sendall(start)  # begun before the end, so that its connection lives
        time.sleep(0.1)
        s.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        idle.sendall(body)
        seen.take(receive(idle, 5, until=b"}}"), "draining")
        for c in [*streams, idle]:
            c.close()
    finally:
        s.stop()
    assert not seen.wrong, seen.wrong[:5]


def test_t34_text_of_a_number_that_is_none(seen):
    s = FakeServer()
    try:
        seen.take(chat(s, body_of(max_tokens=20, seed=s.seeds["nan"])), "numeric_error")
    finally:
        s.stop()
    assert not seen.wrong, seen.wrong[:5]


def test_t34_text_of_a_request_whose_time_is_up(seen):
    s = FakeServer(script={"submit": "queue"})
    try:
        seen.take(chat(s, fields=["X-Request-Timeout-Ms: 100"]), "deadline_exceeded")
        seen.take(chat(s, fields=["X-Request-Timeout-Ms: soon"]), "invalid_value")
    finally:
        s.stop()
    assert not seen.wrong, seen.wrong[:5]


def test_t34_texts_of_loading_models(seen):
    s = FakeServer(DEMO, "--no-auth", "--name", "demo")

    def load(**body):
        data = json.dumps(body).encode()
        return exchange(s.port, head("POST", "/admin/models", ["Content-Type: application/json", f"Content-Length: {len(data)}", "Connection: close"]) + data, 20)
    try:
        seen.take(load(model="demo", name="demo"), "model_exists")
        seen.take(load(model="/etc"), "invalid_value")
        seen.take(load(model="demo", name="x", listen="0"), "unsupported_parameter")
        s.script(start="no room")
        seen.take(load(model="demo", name="second", wait=True), "model_load_failed")
    finally:
        s.stop()
    assert not seen.wrong, seen.wrong[:5]


@pytest.mark.skipif("request_quarantined" not in CODES, reason="no such code yet")
def test_t34_text_of_a_request_that_kills_workers(seen):
    s = FakeServer()
    try:
        body, answers = body_of(max_tokens=20, seed=s.seeds["exit 139"]), []

        def quarantined():
            answers.append(chat(s, body))
            return answers[-1].status == 422
        assert wait_until(quarantined, 15, 0.05) is not None, answers[-3:]
        seen.take(answers[-1], "request_quarantined")
    finally:
        s.stop()
    assert not seen.wrong, seen.wrong[:5]


def test_t34_every_code_was_told(seen, figure):
    """Runs last in this file: each code of the table was given by a running server."""
    figure("codes told", f"{len(seen.codes)} of {len(CODES)}")
    assert len(CODES) >= 15
    assert CODES - seen.codes <= INNER | ELSEWHERE, CODES - seen.codes
