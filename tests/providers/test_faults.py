"""Rows B3 to B7, T25, T62, T66 and T76 against hosts that fail: at every event of a stream, on each wire. What is cut is never whole, what
failed before its first word may be tried elsewhere, and usage that is missing, wrong or told twice is seen for what it is."""
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest

from conftest import HOSTS

BY_ID = {h.id: h for h in HOSTS}
# the three wires, and hosts whose streams have an order or members of their own
STREAMS = [BY_ID[name] for name in ("openai", "anthropic", "gemini", "mistral", "groq", "openrouter")]
each_stream = pytest.mark.parametrize("host", STREAMS, ids=lambda h: h.id)


def whole(fake, drive, host, **do):
    fake.reset()
    fake.script(do)
    a = drive.call(host, "Hello there world")
    assert a.outcome == "whole", a.result
    return a, fake.ledger(1)[0]["events"]


def spec(host, text="Hello there world", **more):
    return {"model": host.model, "request": {"messages": [{"role": "user", "content": text}]}, **more}


def at_every_event(fake, drive, host, make, config=None):
    """The answers to one scripted fault at each index, in one run of the driver. make(i): the rule's actions."""
    _, n = whole(fake, drive, host)
    fake.reset()
    for i in range(n):
        fake.script({"do": make(i), "count": 1}, append=True)
    answers = drive.run(host, [spec(host) for _ in range(n)], config=config)
    return list(enumerate(answers)), n


def check_broken(i, a, may_be_whole=()):
    """No success of any kind; and what was seen decides whether another host may still be asked."""
    if i in may_be_whole and a.outcome == "whole":
        return
    assert a.outcome in ("cut", "error"), (i, a.result)
    assert a.finish == [], (i, a.lines)
    has_words = any(e["event"] in ("reasoning", "tool_call") or e.get("text") for e in a.events)
    assert a.result["has_content"] == has_words and (a.outcome == "cut") == has_words, (i, a.result)
    assert a.error["class"] in ("broken", "wait"), (i, a.error)
    assert a.result["sent"]


@each_stream
@pytest.mark.parametrize("how", ["fin", "reset", "end"])
def test_b4_t76_a_cut_after_every_event(fake, drive, host, how):
    answers, n = at_every_event(fake, drive, host, lambda i: {"cut": {"how": how, "after_event": i}})
    for i, a in answers:
        check_broken(i, a)
    assert sum(a.outcome == "cut" for _, a in answers) >= 3


@each_stream
@pytest.mark.parametrize("kind", ["json", "utf8", "huge", "html"])
def test_t25_t76_a_malformed_event_at_every_place(fake, drive, host, kind):
    answers, n = at_every_event(fake, drive, host, lambda i: {"malformed": {"at_event": i, "kind": kind}})
    for i, a in answers:
        # a page is no line of a stream: as SSE has it, it is skipped, and what it took the place of is missing
        if kind == "html":
            assert a.outcome != "whole" or i < n - 1, (i, a.result)
            continue
        check_broken(i, a)


@each_stream
def test_b7_an_error_event_after_every_event(fake, drive, host):
    answers, n = at_every_event(fake, drive, host, lambda i: {"error_event": {"after_event": i, "kind": "overloaded"}})
    for i, a in answers:
        check_broken(i, a)
        assert a.error["message"] and a.error["status"] == 200, a.error


@each_stream
def test_b7_a_200_that_is_an_error(fake, drive, host):
    fake.script({"error_in_200": "rate_limit"})
    a = drive.call(host, "x")
    assert a.outcome == "error" and a.error["class"] == "wait" and not a.result["has_content"], a.result


@each_stream
def test_t25_a_page_in_place_of_an_answer(fake, drive, host):
    fake.script({"body": "<html><body>Sign in</body></html>", "headers": {"content-type": "text/html"}})
    a = drive.call(host, "x")
    assert a.outcome == "error" and a.error["code"] == "malformed_answer" and "Sign in" not in json.dumps(a.lines), a.result


@each_stream
def test_t25_the_same_events_whatever_the_bytes_look_like(fake, drive, host):
    def plain(a):
        return [{k: v for k, v in e.items() if k not in ("ms", "call") and not k.startswith("extra")} for e in a.events]

    want = plain(whole(fake, drive, host)[0])
    for do in ({"split": 1}, {"split": 7}, {"crlf": True}, {"comments": True}, {"crlf": True, "comments": True, "split": 3},
               {"framing": "close"}):
        assert plain(whole(fake, drive, host, **do)[0]) == want, do


@each_stream
def test_no_word_for_the_end(fake, drive, host):
    if host.profile == "anthropic":
        pytest.skip("its end is an event: cuts show it")
    fake.script({"no_done": True})
    a = drive.call(host, "x")
    assert a.outcome == "cut" and not a.finish, a.result


@each_stream
def test_t62_a_stall_at_every_event(fake, drive, host):
    """Idle is measured from the last byte; it ends the call when it says, not later."""
    answers, n = at_every_event(fake, drive, host, lambda i: {"stall": {"after_event": i}}, config={"idle_ms": 60})
    for i, a in answers:
        check_broken(i, a)
        assert a.error["code"] == "timeout" and a.result["ms"] < 60 + 50 + 100, a.result


@pytest.mark.parametrize("do", [{"delay_head_ms": 5000}, {"stall": {"after_event": 2}}, {"tokens": 500, "delay_event_ms": 10}],
                         ids=["head", "stream", "slow"])
def test_t62_the_deadline(fake, drive, do):
    fake.script(do)
    a = drive.call(BY_ID["openai"], "x", call={"deadline_ms": 250})
    assert a.outcome in ("cut", "error") and a.result["deadline"] and a.error["code"] == "deadline_exceeded", a.result
    assert 245 <= a.result["ms"] <= 300, a.result["ms"]
    row = fake.ledger(1)[0]
    assert row["left"], row


# ---- usage (B5)

@each_stream
def test_b5_no_usage_is_not_zero(fake, drive, host):
    fake.script({"usage": "omit"})
    a = drive.call(host, "x")
    assert a.outcome == "whole", a.result
    if host.profile == "anthropic" and a.usage:  # the opening event has some
        assert "out_text" not in a.usage or a.result["n_usage"] <= 1
    else:
        assert a.usage is None and a.result["n_usage"] == 0, a.result


@each_stream
@pytest.mark.parametrize("how", ["twice", "each", "after_finish", "with_finish"])
def test_b5_usage_told_more_than_once_is_replaced_not_added(fake, drive, host, how):
    a, _ = whole(fake, drive, host, usage=how)
    row = fake.ledger(1)[0]
    assert sum(v for k, v in a.usage.items() if k.startswith("in_")) == row["prompt_tokens"], (a.usage, row)
    assert sum(v for k, v in a.usage.items() if k.startswith("out_")) == row["completion_tokens"], (a.usage, row)


@each_stream
def test_b5_zeros_are_told_as_zeros(fake, drive, host):
    a, _ = whole(fake, drive, host, usage="zero")
    assert a.usage is not None and sum(a.usage.values()) == 0, a.usage


@each_stream
def test_b7_an_empty_answer_is_whole_and_has_no_content(fake, drive, host):
    a, _ = whole(fake, drive, host, empty=True, text="")
    assert a.finish == ["stop"] and not a.result["has_content"], a.result


# ---- the network (T66)

def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_t66_nobody_listens(drive):
    a, = drive.run(BY_ID["openai"], [spec(BY_ID["openai"])], base_url=f"http://127.0.0.1:{closed_port()}/v1")
    assert a.outcome == "error" and a.error["code"] == "connect_failed" and not a.result["sent"], a.result


def test_t66_no_such_name(drive):
    a, = drive.run(BY_ID["openai"], [spec(BY_ID["openai"])], base_url="http://no-such-host.invalid/v1")
    assert a.outcome == "error" and a.error["code"] == "dns_failed" and not a.result["sent"], a.result


class Raw:
    """A server that answers every connection with the same bytes, then ends or stays."""

    def __init__(self, data, stay=False):
        self.data, self.stay, self.seen, self.kept = data, stay, [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                s, _ = self.listener.accept()
                self.seen.append(s.recv(65536))
                for at in range(0, len(self.data), 65536):
                    s.sendall(self.data[at:at + 65536])
                self.kept.append(s) if self.stay else s.close()
            except OSError:
                if self.listener.fileno() < 0:
                    return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for s in self.kept:
            s.close()


def raw_call(drive, data, stay=False, **kw):
    with Raw(data, stay) as server:
        a, = drive.run(BY_ID["openai"], [spec(BY_ID["openai"])], base_url=server.url, **kw)
        return a, server


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\n", b"SSH-2.0-x\r\n\r\n", b"\0" * 100,
                                  b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\ndata:"])
def test_t66_what_is_no_http(drive, data):
    a, _ = raw_call(drive, data)
    assert a.outcome == "error" and a.error["class"] == "broken", a.result


def test_too_many_or_too_large_headers_are_refused(drive):
    good = b'\r\ndata: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    assert raw_call(drive, b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100 + good)[0].outcome == "whole"
    for lines in (b"x: y\r\n" * 200, b"x: yyyy%s\r\n" % (b"y" * 1000) * 70, b"x: " + b"y" * 200000 + b"\r\n"):
        a, _ = raw_call(drive, b"HTTP/1.1 200 OK\r\n" + lines + good)
        assert a.outcome == "error" and a.error["class"] == "broken" and not a.events, a.result


def test_a_redirect_is_not_followed(fake, drive):
    """Nor is the key sent there."""
    with Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as other:
        a, _ = raw_call(drive, f"HTTP/1.1 307 X\r\nlocation: {other.url}/v1\r\ncontent-length: 0\r\n\r\n".encode())
        assert a.outcome == "error" and a.error["class"] == "broken" and a.error["status"] == 307 and other.seen == [], a.result


def test_an_answer_without_end_is_bounded(drive):
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 1000 + b'"}}]}\n\n'
    a, _ = raw_call(drive, b"HTTP/1.1 200 OK\r\n\r\n" + event * 4000, config={"max_bytes": 1 << 20}, quiet=True)
    assert a.outcome == "cut" and a.error["code"] == "answer_too_large" and a.result["received_bytes"] < 2 << 20, a.result


def test_a_refusal_without_end_is_bounded(drive):
    a, _ = raw_call(drive, b"HTTP/1.1 500 X\r\n\r\n" + b"x" * 3_000_000)
    assert a.outcome == "error" and a.error["status"] == 500 and a.error["class"] == "broken", a.result


def test_a_host_that_keeps_the_connection_open_behind_the_end(drive):
    """The answer's own end counts; the client does not wait for the connection's."""
    data = (b"HTTP/1.1 200 OK\r\n\r\n" b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
            b"data: [DONE]\n\n")
    a, _ = raw_call(drive, data, stay=True)
    assert a.outcome == "whole" and a.finish == ["stop"] and a.result["ms"] < 250, a.result


# ---- connections

def test_connections_are_used_again(fake, drive):
    host = BY_ID["openai"]
    answers = drive.run(host, [spec(host) for _ in range(20)], quiet=True)
    assert all(a.outcome == "whole" for a in answers)
    assert [a.result["times"]["reused"] for a in answers] == [False] + [True] * 19
    assert drive.counts["connections"] == 1


def test_a_thousand_calls_at_once(fake, drive):
    host = BY_ID["openai"]
    answers = drive.run(host, [spec(host) for _ in range(1000)], quiet=True, parallel=True, timeout=60)
    assert [a.outcome for a in answers] == ["whole"] * 1000
    rows = fake.ledger(1000, 10)
    assert len(rows) == 1000 and all(r["end"] == "whole" for r in rows)


def check_side_by_side(fake, drive, base_url=None, config=None):
    host = BY_ID["openai"]
    fake.script({"tokens": 20, "delay_event_ms": 20})
    answers = drive.run(host, [spec(host) for _ in range(8)], parallel=True, base_url=base_url, config=config)
    first = [next(e["ms"] for e in a.of("delta") if e["text"]) for a in answers]
    assert all(a.outcome == "whole" for a in answers) and max(first) < 300, first


def test_no_stream_waits_for_another(fake, drive):
    check_side_by_side(fake, drive)


def test_drains_are_bounded_in_number_time_and_bytes(fake, drive):
    host = BY_ID["groq"]
    fake.script({"tokens": 200, "delay_event_ms": 5})
    many = drive.run(host, [spec(host, drain_at=3) for _ in range(4)], parallel=True, config={"max_drains": 2})
    assert sorted(a.outcome for a in many) == ["cancelled", "cancelled", "whole", "whole"]
    late, = drive.run(host, [spec(host, drain_at=3)], config={"drain_ms": 100})
    assert late.outcome == "cut" and late.error["code"] == "timeout" and late.result["ms"] < 400, late.result
    long, = drive.run(host, [spec(host, drain_at=3)], config={"drain_bytes": 2000})
    assert long.outcome == "cut" and long.error["code"] == "answer_too_large", long.result


def test_b3_a_drain_may_outlive_the_requests_deadline(fake, drive):
    """The client's time is up for the client; the usage is still worth waiting for."""
    host = BY_ID["groq"]
    fake.script({"tokens": 60, "delay_event_ms": 5})
    a, = drive.run(host, [spec(host, drain_at=3, deadline_ms=100)])
    assert a.outcome == "whole" and a.usage["out_text"] == 60 and a.result["ms"] > 250, a.result


# ---- TLS

@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    at = tmp_path_factory.mktemp("tls")
    for name in ("good", "other"):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", at / f"{name}.key", "-out", at / f"{name}.pem", "-days", "2", "-subj", "/CN=localhost",
                        "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    return at


class Tls:
    """In front of the fake provider: takes TLS off and passes bytes on."""

    def __init__(self, port, certificates):
        self.port = port
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "good.pem", certificates / "good.key")
        self.context, self.n_connections, self.n_resumed = context, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        try:
            s = self.context.wrap_socket(s, server_side=True)
        except (ssl.SSLError, OSError):
            s.close()
            return
        self.n_connections += 1
        self.n_resumed += bool(s.session_reused)
        back = socket.create_connection(("127.0.0.1", self.port))
        threading.Thread(target=self.pump, args=(back, s), daemon=True).start()
        self.pump(s, back)

    def pump(self, a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass
        for x in (a, b):
            try:
                x.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def test_tls_is_verified(fake, drive, certificates):
    host = BY_ID["openai"]
    with Tls(fake.port, certificates) as tls:
        good, = drive.run(host, [spec(host)], base_url=tls.url + "/openai/v1", config={"ca_file": str(certificates / "good.pem")})
        assert good.outcome == "whole" and good.result["times"]["tls_us"] > 0, good.result
        for config in ({}, {"ca_file": str(certificates / "other.pem")}):
            a, = drive.run(host, [spec(host)], base_url=tls.url + "/openai/v1", config=config)
            assert a.outcome == "error" and a.error["code"] == "tls_not_verified" and not a.result["sent"], a.result
        wrong, = drive.run(host, [spec(host)], base_url=tls.url.replace("localhost", "127.0.0.1") + "/openai/v1",
                           config={"ca_file": str(certificates / "good.pem")})
        assert wrong.outcome == "error" and wrong.error["code"] == "tls_not_verified", wrong.result
    assert len(fake.ledger(1)) == 1


def test_no_stream_waits_for_another_over_tls(fake, drive, certificates):
    """A host without HTTP/2: there is nothing to wait for."""
    with Tls(fake.port, certificates) as tls:
        check_side_by_side(fake, drive, tls.url + "/openai/v1", {"ca_file": str(certificates / "good.pem")})


def test_tls_connections_and_sessions_are_used_again(fake, drive, certificates):
    """In turn: one connection. When a host closes it each time: a session that is resumed."""
    host = BY_ID["openai"]
    with Tls(fake.port, certificates) as tls:
        url, config = tls.url + "/openai/v1", {"ca_file": str(certificates / "good.pem")}
        answers = drive.run(host, [spec(host) for _ in range(5)], base_url=url, config=config)
        assert [a.result["times"]["reused"] for a in answers] == [False] + [True] * 4 and tls.n_connections == 1
        fake.script({"framing": "close"})
        drive.run(host, [spec(host) for _ in range(5)], base_url=url, config=config)
        assert tls.n_connections == 6 and tls.n_resumed >= 3, (tls.n_connections, tls.n_resumed)


# ---- HTTP/2

NGHTTPX = shutil.which("nghttpx", path=os.environ.get("PATH", "") + ":/usr/sbin")


@pytest.mark.skipif(NGHTTPX is None, reason="needs nghttpx (Debian: nghttp2-proxy)")
def test_http2_calls_share_one_connection(fake, drive, certificates):
    """Sixteen streams at once on one connection; a cancel ends its stream and no other."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [NGHTTPX, f"-f127.0.0.1,{port}", f"-b127.0.0.1,{fake.port}",
               "--no-ocsp", "--errorlog-file=/dev/null", "--single-process", str(certificates / "good.key"), str(certificates / "good.pem")]
    host, config = BY_ID["openai"], {"ca_file": str(certificates / "good.pem")}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as proxy:
        try:
            wait_for_port(port)
            fake.script({"tokens": 20, "delay_event_ms": 20})
            calls = [spec(host, **({"cancel_at": 5} if i % 4 == 3 else {})) for i in range(16)]
            answers = drive.run(host, calls, parallel=True, base_url=f"https://localhost:{port}/openai/v1", config=config)
            whole_ones = [a for i, a in enumerate(answers) if i % 4 != 3]
            assert all(a.outcome == "whole" and a.text() == "tok " * 20 for a in whole_ones), [a.result for a in answers]
            assert all(a.result["times"]["http"] == 20 for a in whole_ones)
            assert drive.counts["connections"] == 1, drive.counts
            assert max(a.result["ms"] for a in whole_ones) < 2 * min(a.result["ms"] for a in whole_ones)  # side by side
            rows = fake.ledger(16)
            assert sum(r["left"] for r in rows) == 4, rows
        finally:
            proxy.terminate()


def wait_for_port(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("nobody listens")
