"""T14, T15, T17: clients that are slow on purpose or too many. They are closed in time, and cost the others nothing."""
import resource
import select
import stat
import time

import pytest
from http_raw import connect, cpu_s, exchange, head, n_fds, wait_until
from serving import BIN, DEMO, Server
from sizes import long_run

POST = "/v1/chat/completions"
GOOD = head(fields=["Connection: close"])


def start(*options, **kw):
    return Server(DEMO, "--no-auth", "--name", "demo", *options, **kw)


@pytest.fixture
def serve():
    servers = []

    def call(*options, **kw):
        servers.append(start(*options, **kw))
        return servers[-1]
    yield call
    for s in servers:
        assert s.stop() == 0, "".join(s.lines)


def closed(s):
    """Whether the peer has closed; what it said before is thrown away."""
    timeout = s.gettimeout()
    s.setblocking(False)  # a timeout of Python's would wait in spite of MSG_DONTWAIT
    try:
        while s.recv(65536):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        s.settimeout(timeout)


def good_ms(port):
    begin = time.perf_counter()
    assert exchange(port, GOOD).status == 200
    return (time.perf_counter() - begin) * 1000


class Slowloris:
    """n connections that send `start`, then a byte every every_s; notes when each was closed."""

    def __init__(self, port, n, begin, every_s, endless=b"a"):
        self.port, self.n, self.every_s, self.endless = port, n, every_s, endless
        self.opened, self.closed_after = {}, []
        for _ in range(n):
            s = connect(port)
            self.opened[s] = time.monotonic()
            s.sendall(begin)
            s.setblocking(False)
        self.next = time.monotonic() + every_s

    def work(self, for_s):
        """Sends and looks for at most for_s; in between calls the time is the caller's."""
        end = time.monotonic() + for_s
        while self.opened and time.monotonic() < end:
            ready = select.poll()
            by_fd = {s.fileno(): s for s in self.opened}
            for fd in by_fd:
                ready.register(fd, select.POLLIN | select.POLLRDHUP)
            for fd, _ in ready.poll(20):
                s = by_fd[fd]
                if closed(s):
                    self.closed_after.append(time.monotonic() - self.opened.pop(s))
                    s.close()
            if time.monotonic() >= self.next:
                self.next += self.every_s
                for s in list(self.opened):
                    try:
                        s.send(self.endless)
                    except OSError:
                        pass


ATTACKS = {
    "header": (head()[:-2] + b"X-A: ", "--header-timeout", 10),
    "request_line": (b"GET /", "--header-timeout", 10),
    "nothing": (b"", "--header-timeout", 10),
    "body": (head("POST", POST, ["Content-Length: 100000"]) + b"{", "--body-timeout", 30),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_t14_closed_at_the_whole_time(serve, size, figure, what):
    begin, option, limit_s = ATTACKS[what]
    options = ()
    if not long_run():
        limit_s = 1
        options = (option, "1s")
    s = serve(*options)
    attack = Slowloris(s.port, size(50, 500), begin, size(0.2, 5), b"" if what == "nothing" else b"a")
    slowest = 0.0
    end = time.monotonic() + limit_s + 5
    while attack.opened and time.monotonic() < end:
        attack.work(0.1)
        slowest = max(slowest, good_ms(s.port))
    assert not attack.opened
    figure(f"T14 {what}", max(attack.closed_after), f"s, the last of {attack.n} closed; slowest good answer {slowest:.1f} ms")
    assert len(attack.closed_after) == attack.n
    assert min(attack.closed_after) > limit_s - 0.2 and max(attack.closed_after) < limit_s + size(3, 1.5)
    assert slowest < 500


def test_t14_chunked_body_byte_by_byte(serve, size):
    limit_s = size(1, 30)
    s = serve(*(() if long_run() else ("--body-timeout", "1s")))
    attack = Slowloris(s.port, size(20, 500), head("POST", POST, ["Transfer-Encoding: chunked"]) + b"1\r\n{\r\n", size(0.2, 5), b"1\r\n \r\n")
    attack.work(limit_s + 5)
    assert not attack.opened and min(attack.closed_after) > limit_s - 0.2 and max(attack.closed_after) < limit_s + size(3, 1.5)


def test_t14_idle_connections_are_closed(serve, size):
    s = serve(*(() if long_run() else ("--idle-timeout", "1s")))
    limit_s = size(1, 60)
    with connect(s.port) as c:
        c.sendall(head())
        begin = time.monotonic()
        took = wait_until(lambda: closed(c), limit_s + 5)
    assert took is not None and limit_s - 0.2 < time.monotonic() - begin < limit_s + size(3, 1.5)


def test_t14_one_connection_again_and_again(serve):
    """Requests one after another each have their own time: a connection that works is not closed."""
    s = serve("--header-timeout", "1s", "--idle-timeout", "1s")
    with connect(s.port) as c:
        for _ in range(8):
            c.sendall(head())
            time.sleep(0.25)
            assert not closed(c)


# --- T15: many connections of one address ---

def test_t15_one_address_opens_many(serve, size, figure):
    s = serve("--max-connections-per-ip", "64")
    many = []
    for _ in range(size(200, 5000)):
        try:
            many.append(connect(s.port, timeout=2))
        except OSError:
            pass
    assert wait_until(lambda: sum(not closed(c) for c in many) <= 64, 5) is not None
    alive = [c for c in many if not closed(c)]
    figure("T15 connections kept", len(alive), f"of {len(many)}")
    assert len(alive) == 64
    for c in alive:  # they are served
        c.settimeout(5)
        c.sendall(head())
        assert c.recv(12) == b"HTTP/1.1 200"
    for source in ("127.0.0.2", "127.0.0.3"):  # and so are others
        answer = exchange(s.port, GOOD, source=source)
        assert answer.status == 200
    for c in many:
        c.close()
    assert wait_until(lambda: exchange(s.port, GOOD, source="127.0.0.1", within_s=1).status == 200, 5) is not None


def test_t15_loopback_has_no_limit_unless_given(serve):
    s = serve()
    many = [connect(s.port) for _ in range(100)]
    assert exchange(s.port, GOOD).status == 200
    assert not any(closed(c) for c in many)
    for c in many:
        c.close()


def test_t15_connections_in_all(serve):
    s = serve("--max-connections", "32")
    many = [connect(s.port) for _ in range(60)]
    time.sleep(0.3)
    served = 0
    for c in many:
        c.settimeout(0.05)
        try:
            c.sendall(head())
            served += c.recv(12) == b"HTTP/1.1 200"
        except OSError:
            pass
    assert 1 <= served <= 32
    for c in many:
        c.close()
    assert wait_until(lambda: exchange(s.port, GOOD, within_s=1).status == 200, 5) is not None


# --- T17: no descriptors left ---

def test_t17_descriptors_run_out(serve, tmp_path, size, figure):
    wrapper = tmp_path / "spillway"
    wrapper.write_text(f'#!/bin/sh\nulimit -n 256\nexec "{BIN}" "$@"\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    s = serve("--header-timeout", "60s", program=str(wrapper))
    pid = s.process.pid
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[1] == 256
    many = [connect(s.port) for _ in range(400)]  # the kernel's queue takes those that are not accepted
    assert wait_until(lambda: n_fds(pid) >= 250, 5) is not None
    for_s = size(1, 10)
    before = cpu_s(pid)
    time.sleep(for_s)
    share = (cpu_s(pid) - before) / for_s
    figure("T17 processor while there are no descriptors", share * 100, "%")
    assert share < 0.05
    many[0].settimeout(5)
    many[0].sendall(head())
    assert many[0].recv(12) == b"HTTP/1.1 200"
    for c in many[:-1]:
        c.close()
    last = many[-1]
    last.settimeout(5)
    last.sendall(head())
    assert last.recv(12) == b"HTTP/1.1 200"
    last.close()
    assert exchange(s.port, GOOD).status == 200
