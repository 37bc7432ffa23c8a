"""T20-T23: many idle streams, clients that leave while they wait or while they are answered, clients that read slowly. The engine is the scripted one,
which writes down when it was told to stop."""
import json
import resource
import select
import socket
import struct
import threading
import time

import pytest
from http_raw import connect, cpu_s, exchange, head, n_fds, rss_bytes, wait_until
from serving import DEMO, FakeServer
from sizes import long_run

MIB = 1 << 20
POST = "/v1/chat/completions"
ROOMY = ("--max-streams-per-key", "20000", "--max-queue-requests", "20000")
GOOD = head(fields=["Connection: close"])


@pytest.fixture
def serve():
    servers = []

    def call(*options, **script):
        servers.append(FakeServer(DEMO, "--no-auth", "--name", "demo", *ROOMY, *options, script=script))
        return servers[-1]
    yield call
    for s in servers:
        assert s.stop() == 0, "".join(s.lines[-30:])


def request(**changes):
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1000, "ignore_eos": True, "stream": True, **changes}
    text = json.dumps(body).encode()
    return head("POST", POST, [f"Content-Length: {len(text)}", "Content-Type: application/json"]) + text


def boot_ms():
    return time.clock_gettime(time.CLOCK_BOOTTIME) * 1000


def leave(s, how):
    """RST or FIN; returns when it was done, by the boot clock."""
    if how == "rst":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    at = boot_ms()
    if how == "half":  # the sending side only: counts as leaving, as nginx's 499 does
        s.shutdown(socket.SHUT_WR)
    else:
        s.close()
    return at


def cancels(server, submits):
    """{seed: ms} of the cancels of these submits."""
    by_sequence = {(r["pid"], r["sequence"]): r["seed"] for r in submits}
    return {by_sequence[r["pid"], r["sequence"]]: r["t_ms"] for r in server.recorded("cancel") if (r["pid"], r["sequence"]) in by_sequence}


# --- T21: the client leaves while its request waits ---

@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
@pytest.mark.parametrize("how", ["rst", "fin", "half"])
def test_t21_client_leaves_while_queued(serve, size, figure, how, stream):
    s = serve(submit="queue")
    rounds, n, worst, left_at, idle = size(1, 4), size(9, 42), 0.0, {}, n_fds(s.process.pid)
    for i in range(rounds):
        clients = {}
        for k in range(n):
            seed = 100000 + i * n + k
            clients[seed] = connect(s.port)
            clients[seed].sendall(request(stream=stream, seed=seed))
        assert wait_until(lambda: len(s.recorded("submit")) == (i + 1) * n, 10) is not None
        for seed, c in clients.items():
            left_at[seed] = leave(c, how)
        assert wait_until(lambda: len(s.recorded("cancel")) == (i + 1) * n, 5) is not None
        for c in clients.values():
            c.close()
    at = cancels(s, s.recorded("submit"))
    assert len(at) == rounds * n
    worst = max(at[seed] - left_at[seed] for seed in left_at)
    figure(f"T21 {how}", max(worst, 0.0), f"ms until the engine was told, the worst of {len(at)}")
    assert worst <= size(2500, 250)
    assert wait_until(lambda: n_fds(s.process.pid) <= idle, 5) is not None  # sockets and slots are given back


def test_t21_client_leaves_at_once(serve, size):
    """Leaves before the engine has the request: it never gets it, or is told to stop."""
    s = serve(submit="queue")
    n = size(50, 1000)
    for i in range(n):
        c = connect(s.port)
        c.sendall(request(seed=200000 + i))
        leave(c, ("rst", "fin", "half")[i % 3])
        c.close()
    assert exchange(s.port, GOOD).status == 200
    assert wait_until(lambda: len(s.recorded("submit")) == len(s.recorded("cancel")), 10) is not None
    time.sleep(0.3)
    assert len(s.recorded("submit")) == len(s.recorded("cancel")) <= n


def test_t21_slot_is_free_again(serve):
    """With room for two requests, two that left make room for two more."""
    s = serve("--max-queue-requests", "2", submit="queue")
    for _ in range(5):
        clients = [connect(s.port) for _ in range(2)]
        before = len(s.recorded("submit"))
        for c in clients:
            c.sendall(request())
        assert wait_until(lambda: len(s.recorded("submit")) == before + 2, 5) is not None
        assert exchange(s.port, request()[:-2] + request()[-2:], quiet_s=0.3).status == 429
        for c in clients:
            leave(c, "rst")
        assert wait_until(lambda: len(s.recorded("cancel")) == before + 2, 5) is not None


# --- T22: the client leaves while it is answered ---

@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
@pytest.mark.parametrize("how", ["rst", "fin"])
def test_t22_client_leaves_mid_generation(serve, size, figure, how, stream):
    s = serve(tokens_per_s=100)
    n, left_at = size(10, 250), {}
    clients = {}
    for k in range(n):
        seed = 300000 + k
        clients[seed] = connect(s.port)
        clients[seed].sendall(request(stream=stream, seed=seed, max_tokens=900))
    assert wait_until(lambda: len(s.recorded("submit")) == n, 10) is not None
    if stream:
        for c in clients.values():
            got = b""
            while got.count(b"data: ") < 4:
                got += c.recv(4096)
    else:
        time.sleep(0.1)
    for seed, c in clients.items():
        left_at[seed] = leave(c, how)
    assert wait_until(lambda: len(s.recorded("cancel")) == n, 5) is not None
    at = cancels(s, s.recorded("submit"))
    worst = max(at[seed] - left_at[seed] for seed in left_at)
    figure(f"T22 {how}", max(worst, 0.0), f"ms until the engine was told, the worst of {n}")
    assert len(at) == n and worst <= size(2500, 250)


# --- T20: idle streams ---

def test_t20_idle_streams(serve, size, figure):
    n, held_s, interval_s = size(500, 10000), size(3, 60), size(0.5, 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    s = serve("--comment-interval", f"{int(interval_s * 1000)}ms", submit="queue")
    pid = s.process.pid
    for _ in range(5):  # what is taken once
        assert exchange(s.port, GOOD).status == 200
    base, fds = rss_bytes(pid), n_fds(pid)
    begin, streams, comments = time.monotonic(), {}, {}
    ready = select.epoll()
    data = request()
    for _ in range(n):
        c = connect(s.port, timeout=20)
        c.sendall(data)
        c.setblocking(False)
        streams[c.fileno()] = c
        comments[c.fileno()] = 0
        ready.register(c, select.EPOLLIN)
    opened_s = time.monotonic() - begin
    assert wait_until(lambda: len(s.recorded("submit")) == n, 60, 0.2) is not None
    before, peak, end, slowest = cpu_s(pid), 0, time.monotonic() + held_s, 0.0
    started = time.monotonic()
    look = 0.0
    while time.monotonic() < end:
        for fd, _ in ready.poll(0.05):
            got = streams[fd].recv(65536)
            assert got, "a stream was closed"
            comments[fd] += got.count(b": waiting")
        if time.monotonic() >= look:
            look = time.monotonic() + 0.5
            peak = max(peak, rss_bytes(pid))
            ask = time.perf_counter()
            assert exchange(s.port, GOOD).status == 200
            slowest = max(slowest, time.perf_counter() - ask)
    share = (cpu_s(pid) - before) / (time.monotonic() - started)
    figure("T20 RSS over base", (peak - base) / MIB, f"MiB for {n} idle streams, {(peak - base) / n / 1024:.1f} KiB each; opened in {opened_s:.1f} s")
    figure("T20 processor while they wait", share * 100, f"%; slowest good answer {slowest * 1000:.1f} ms")
    assert len(streams) == n
    assert min(comments.values()) >= int(held_s / interval_s) - 3 >= 1
    assert peak - base <= 200 * MIB * (1 if long_run() else 0.1)
    closing = time.monotonic()
    for c in streams.values():
        c.close()
    assert wait_until(lambda: n_fds(pid) <= fds, 20, 0.02) is not None
    figure("T20 all closed", time.monotonic() - closing, "s")
    assert wait_until(lambda: len(s.recorded("cancel")) == n, 20, 0.2) is not None
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- T23: slow readers ---

class SlowReaders(threading.Thread):
    """n clients with a small window that read 100 B/s each."""

    def __init__(self, port, n, data):
        super().__init__(daemon=True)
        self.port, self.sockets, self.got, self.halt = port, [], 0, threading.Event()
        for _ in range(n):
            c = socket.socket()
            c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            c.connect(("127.0.0.1", port))
            c.sendall(data)
            c.setblocking(False)
            self.sockets.append(c)
        self.ports = {c.getsockname()[1] for c in self.sockets}
        self.begun = time.monotonic()

    def run(self):
        while not self.halt.wait(0.25):
            for c in self.sockets:
                try:
                    self.got += len(c.recv(25))
                except OSError:
                    pass

    def held_by_server(self):
        """Connections that the server still has; what the kernel goes on sending after a close belongs to nobody (inode 0)."""
        n = 0
        with open("/proc/net/tcp") as table:
            for line in list(table)[1:]:
                f = line.split()
                n += int(f[1][-4:], 16) == self.port and int(f[2][-4:], 16) in self.ports and f[9] != "0"
        return n


def good_stream(port, n_tokens, out):
    """The gaps between events of a stream that is read at once."""
    with connect(port, timeout=30) as c:
        c.sendall(request(max_tokens=n_tokens))
        got, last = b"", time.perf_counter()
        while b"[DONE]" not in got:
            some = c.recv(65536)
            if not some:
                break
            got += some
            out.append(time.perf_counter() - last)
            last = time.perf_counter()
        return b"[DONE]" in got and b'"finish_reason":"length"' in got


def test_t23_slow_readers(serve, size, figure):
    n, write_s = size(20, 200), size(1, 10)
    s = serve("--write-timeout", f"{write_s}s", tokens_per_s=size(500, 100))
    pid = s.process.pid
    quiet, busy = [], []
    assert good_stream(s.port, 100, quiet)
    base = peak = rss_bytes(pid)
    slow = SlowReaders(s.port, n, request(max_tokens=900))  # 225 KB of events each
    slow.start()
    end = time.monotonic() + write_s + size(8, 20)
    goods = [threading.Thread(target=lambda: results.append(good_stream(s.port, size(200, 900), busy))) for _ in range(3)]
    results = []
    for t in goods:
        t.start()
    ended_after = []
    while time.monotonic() < end and len(ended_after) < n:
        peak = max(peak, rss_bytes(pid))
        ended_after += [time.monotonic() - slow.begun] * (n - slow.held_by_server() - len(ended_after))
        time.sleep(0.02)
    for t in goods:
        t.join(30)
    slow.halt.set()
    slow.join()
    for c in slow.sockets:
        c.close()
    p99 = [sorted(gaps)[int(len(gaps) * 0.99)] * 1000 for gaps in (quiet, busy)]
    figure("T23 cut after", max(ended_after, default=0.0), f"s at the latest, {len(ended_after)} of {n} readers; {slow.got / n / 1000:.1f} KB read by each")
    figure("T23 RSS over base", (peak - base) / MIB, f"MiB for {n} slow readers; p99 between events of others {p99[0]:.1f} ms before, {p99[1]:.1f} ms meanwhile")
    assert len(ended_after) == n
    assert write_s - 0.2 <= min(ended_after)
    assert peak - base < 20 * MIB
    assert results == [True] * 3


def test_t23_client_that_reads_nothing(serve, size):
    """A whole answer that nobody takes is not kept for ever."""
    write_s = size(1, 10)
    s = serve("--write-timeout", f"{write_s}s", tokens_per_s=50000)
    idle = n_fds(s.process.pid)
    c = socket.socket()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    c.connect(("127.0.0.1", s.port))
    c.sendall(request(max_tokens=900, n=8, logprobs=True, stream=False))  # half a megabyte
    assert wait_until(lambda: n_fds(s.process.pid) > idle, 2) is not None
    took = wait_until(lambda: n_fds(s.process.pid) <= idle, write_s + 8)
    assert took is not None and took >= write_s - 0.2
    c.close()
