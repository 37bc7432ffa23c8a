"""SIGTERM: what runs is finished or cut at --drain-timeout with an error event; a second signal ends it at once."""
import http.client
import json
import signal
import threading
import time

import pytest

from serving import DEMO, FakeServer


class Stream(threading.Thread):
    """One streamed answer on a connection of its own; text is what came of it."""

    def __init__(self, server, **body):
        super().__init__(daemon=True)
        self.server, self.body, self.begun, self.text, self.status = server, body, threading.Event(), b"", None
        self.start()

    def run(self):
        c = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        body = json.dumps({"model": "demo", "stream": True, "messages": [{"role": "user", "content": "hi"}], **self.body})
        c.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {self.server.key}", "Content-Type": "application/json"})
        r = c.getresponse()
        self.status = r.status
        try:
            self.text = r.readline()
            self.begun.set()
            self.text += r.read()
        except http.client.IncompleteRead as e:
            self.text += e.partial + b"(cut)"
        except OSError:
            self.text += b"(reset)"
        self.begun.set()


@pytest.fixture
def serve():
    made = []

    def make(*args, **kw):
        made.append(FakeServer(str(DEMO), "--name", "demo", *args, **kw))
        return made[-1]
    yield make
    for s in made:
        s.stop()


def end(server, streams, timeout):
    """Waits for the end; (exit code, seconds since SIGTERM)."""
    begin = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    code = server.process.wait(timeout)
    seconds = time.monotonic() - begin
    for s in streams:
        s.join(10)
    return code, seconds


def test_t63_streams_that_run_longer_are_cut_at_the_drain_timeout(serve, size, figure):
    server = serve("--drain-timeout", "1s", "--comment-interval", "100ms", "--max-streams-per-key", "600")
    streams = [Stream(server, seed=server.seeds["queue"]) for _ in range(size(30, 500))]
    assert all(s.begun.wait(30) for s in streams)
    code, seconds = end(server, streams, size(20, 10))
    figure("streams", len(streams))
    figure("SIGTERM to exit at a drain timeout of 1 s", seconds, "s")
    assert code == 0 and 1 <= seconds <= size(20, 2)
    for s in streams:
        assert s.status == 200 and b'"error"' in s.text and b"[DONE]" not in s.text, s.text[-300:]


def test_t63_streams_that_finish_in_time_are_finished(serve):
    server = serve("--drain-timeout", "30s", "--comment-interval", "100ms", script={"tokens_per_s": 20})
    streams = [Stream(server, max_tokens=30) for _ in range(5)]
    assert all(s.begun.wait(30) for s in streams)
    code, seconds = end(server, streams, 25)
    assert code == 0 and seconds < 20
    for s in streams:
        assert s.text.endswith(b"data: [DONE]\n\n"), s.text[-300:]


def test_t63_a_second_signal_ends_it_at_once(serve, figure):
    server = serve("--drain-timeout", "1h", "--comment-interval", "100ms")
    stream = Stream(server, seed=server.seeds["queue"])
    assert stream.begun.wait(30)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert server.process.poll() is None
    code, seconds = end(server, [stream], 10)
    figure("second SIGTERM to exit", seconds, "s")
    assert code == 0 and b"[DONE]" not in stream.text


def test_t63_while_draining_readyz_says_so_on_open_connections(serve):
    server = serve("--drain-timeout", "5s", "--comment-interval", "100ms")
    stream = Stream(server, seed=server.seeds["queue"])
    assert stream.begun.wait(30)
    c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    c.connect()
    c.sock.sendall(b"GET /readyz HTTP/1.1\r\n")  # begun, so it is not closed as an idle one
    time.sleep(0.2)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    c.sock.sendall(b"Host: localhost\r\n\r\n")
    answer = c.sock.recv(4096)
    assert answer.startswith(b"HTTP/1.1 503 ") and b"connection: close" in answer
    with pytest.raises(OSError):
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=2).connect()
    end(server, [stream], 10)
