"""T10, T11, T16: how large a request's header and body may be. Each refusal closes the connection and costs nothing that stays."""
import json
import threading
import time

import pytest
from http_raw import chunk, connect, cpu_s, exchange, head, receive, rss_bytes, send_all
from serving import DEMO, LLM, Server
from sizes import long_run

MIB = 1 << 20
POST = "/v1/chat/completions"
CHUNKED = "Transfer-Encoding: chunked"
BODY = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}).encode()


@pytest.fixture(scope="module")
def server():
    s = Server(DEMO, "--no-auth", "--name", "demo")
    yield s
    assert s.stop() == 0, "".join(s.lines)


# --- T10: large headers ---

LARGE = {
    "header_1_mb": (head(fields=["A: " + "a" * MIB]), 431),
    "headers_10k": (head(fields=[f"A{i}: b" for i in range(10000)]), 431),
    "headers_65": (head(fields=[f"A{i}: b" for i in range(64)]), 431),
    "name_1_mb": (head(fields=["a" * MIB + ": b"]), 431),
    "url_64_kb": (head(path="/" + "a" * 65536), 414),
    "url_9_kb": (head(path="/v1/models?" + "a" * 9216), 414),
    "method_1_mb": (b"G" * MIB + b" / HTTP/1.1\r\n\r\n", None),
    "request_line_without_end": (b"GET /" + b"a" * MIB, 414),
    "header_without_end": (head()[:-2] + b"A: " + b"a" * MIB, 431),
    "empty_lines_1_mb": (b"\r\n" * (MIB // 2), None),
}


@pytest.mark.parametrize("name", LARGE)
def test_t10_refused_and_closed(server, name):
    data, status = LARGE[name]
    answer = exchange(server.port, data, within_s=2)
    assert answer.closed and answer.statuses == [status] if status else answer.closed and answer.status in (400, 414, 431, 501), answer


def test_t10_largest_allowed_header_is_answered(server):
    fields = [f"A{i}: " + "a" * 200 for i in range(60)]  # 12.4 KB
    assert exchange(server.port, head(fields=[*fields, "Connection: close"])).status == 200
    assert exchange(server.port, head(path="/v1/models?" + "a" * 8000, fields=["Connection: close"])).status == 200


def test_t10_memory_does_not_grow(server, size, figure):
    pid, rounds = server.process.pid, size(10, 1000)
    for name in LARGE:  # whatever is taken once
        exchange(server.port, LARGE[name][0], within_s=2)
    before = rss_bytes(pid)
    for _ in range(rounds):
        for name in LARGE:
            exchange(server.port, LARGE[name][0], within_s=2)
    growth = rss_bytes(pid) - before
    figure("T10 growth of RSS", growth / MIB, f"MiB after {rounds * len(LARGE)} requests")
    assert growth < MIB


# --- T11: chunks ---

def padded(n):
    """A request of n bytes, most of them blanks."""
    return BODY[:-1] + b" " * (n - len(BODY)) + b"}"


def test_t11_body_in_one_byte_chunks(server, size, figure):
    n, pid = size(512 << 10, 5 * MIB), server.process.pid
    wire = head("POST", POST, [CHUNKED, "Connection: close"]) + b"".join(b"1\r\n%c\r\n" % b for b in padded(n)) + b"0\r\n\r\n"
    before, rss = cpu_s(pid), rss_bytes(pid)
    with connect(server.port, timeout=30) as s:
        assert send_all(s, wire) == len(wire)
        answer = receive(s, 30)
    took = cpu_s(pid) - before
    figure("T11 processor time", took, f"s for {n >> 10} KiB in chunks of one byte")
    assert answer.statuses == [200], answer
    assert took <= 2 * n / (5 * MIB) * size(10, 1)
    assert rss_bytes(pid) - rss < 4 * n + MIB


def test_t11_body_in_small_packets(server):
    """The parser keeps its place between reads, wherever they cut."""
    wire = head("POST", POST, [CHUNKED, "Connection: close"]) + chunk(BODY[:20], b";a=b") + chunk(BODY[20:]) + b"0\r\nA: b\r\n\r\n"
    with connect(server.port) as s:
        for i in range(len(wire)):
            s.sendall(wire[i:i + 1])
        answer = receive(s)
    assert answer.statuses == [200], answer


@pytest.mark.parametrize("size_line", [b"x", b"-1", b"+1", b"0x1", b" 1", b"1 ", b"1\t", b"", b"1.0", b"fffffffffffffffff", b"7fffffffffffffff", b"\0", b"1,1"])
def test_t11_bad_chunk_size(server, size_line):
    answer = exchange(server.port, head("POST", POST, [CHUNKED]) + size_line + b"\r\nx\r\n0\r\n\r\n", within_s=2)
    assert answer.closed and answer.statuses in ([400], [413]), answer


def test_t11_chunked_body_cut_short(server):
    """The client leaves in the middle: nothing is answered as if the body were whole."""
    with connect(server.port) as s:
        send_all(s, head("POST", POST, [CHUNKED]) + chunk(BODY))
        s.shutdown(1)
        answer = receive(s, 2)
    assert answer.closed and 200 not in answer.statuses, answer


# --- T16: large bodies ---

def send_until_refused(server, start, piece, total):
    """(bytes taken, answer). Reads while it sends, as a good client does."""
    with connect(server.port, timeout=10) as s:
        send_all(s, start)
        s.settimeout(10)
        sent = 0
        while sent < total:
            n = send_all(s, piece)
            sent += n
            if n < len(piece):
                break
        return sent, receive(s, 10)


def test_t16_body_without_a_length(server, figure):
    piece, total, pid = chunk(b"a" * 65536), 100 * MIB, server.process.pid
    rss = rss_bytes(pid)
    for _ in range(3):  # what an allocator learns from the first may make it keep the next
        sent, answer = send_until_refused(server, head("POST", POST, [CHUNKED]), piece, total)
    figure("T16 bytes taken of 100 MiB", sent / MIB, "MiB, with what the sockets hold")
    assert answer.statuses == [413] and answer.closed, answer
    assert 20 * MIB <= sent < 32 * MIB
    assert wait_rss(pid, rss + 4 * MIB), rss_bytes(pid) - rss


def wait_rss(pid, below):
    end = time.monotonic() + 2
    while rss_bytes(pid) > below and time.monotonic() < end:
        time.sleep(0.02)
    return rss_bytes(pid) <= below


def test_t16_body_with_a_length_is_refused_before_it_is_read(server):
    answer = exchange(server.port, head("POST", POST, [f"Content-Length: {100 * MIB}"]), within_s=2)
    assert answer.statuses == [413] and answer.closed, answer


def test_t16_expect_is_answered_with_the_refusal(server):
    answer = exchange(server.port, head("POST", POST, [f"Content-Length: {100 * MIB}", "Expect: 100-continue"]), within_s=2)
    assert answer.statuses == [413] and b" 100 " not in answer.raw.split(b"\r\n")[0], answer


def test_t16_answer_is_seen_by_a_client_that_only_writes_first(server):
    """100 MiB with a length, sent by a client that reads when it cannot write any more: the refusal must not be lost to a reset."""
    for _ in range(10 if long_run() else 3):
        sent, answer = send_until_refused(server, head("POST", POST, [f"Content-Length: {100 * MIB}"]), b"a" * 65536, 100 * MIB)
        assert answer.statuses == [413], (sent, answer)


def test_t16_limit_is_exact():
    s = Server(DEMO, "--no-auth", "--name", "demo", "--max-body-bytes", "100000")
    try:
        for n, chunked, want in ((100000, False, 200), (100001, False, 413), (100000, True, 200), (100001, True, 413)):
            body = padded(n)
            fields = [CHUNKED if chunked else f"Content-Length: {n}", "Connection: close"]
            answer = exchange(s.port, head("POST", POST, fields) + (chunk(body) + b"0\r\n\r\n" if chunked else body))
            assert answer.statuses == [want], (n, chunked, answer)
    finally:
        assert s.stop() == 0


def test_t16_text_models_take_less():
    """Where no model takes pictures a body may have --max-text-body-bytes."""
    if not LLM.exists():
        pytest.skip("goldens are not there")
    s = Server(LLM, "--no-auth")
    try:
        fields = ["Content-Length: %d" % (MIB + 1), "Connection: close"]
        assert exchange(s.port, head("POST", POST, fields) + b" " * (MIB + 1)).statuses == [413]
        fields = ["Content-Length: %d" % MIB, "Connection: close"]
        assert exchange(s.port, head("POST", POST, fields) + b" " * MIB).statuses == [400]
    finally:
        assert s.stop() == 0


def test_t16_others_are_served_meanwhile(server):
    stop, worst = threading.Event(), [0.0]

    def ask():
        while not stop.is_set():
            start = time.monotonic()
            assert exchange(server.port, head(fields=["Connection: close"])).status == 200
            worst[0] = max(worst[0], time.monotonic() - start)
    t = threading.Thread(target=ask)
    t.start()
    send_until_refused(server, head("POST", POST, [CHUNKED]), chunk(b"a" * 65536), 100 * MIB)
    stop.set()
    t.join()
    assert worst[0] < 1
