"""T48: the k-th system call of each kind fails, or does only a part, during each request of failer/scripts.py, while a child is started again, and
while the server starts. As in T47: right answers or errors of ours, nothing ends that need not, nothing is lost."""
import os
import pathlib
import signal
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "failer"))
from conftest import long_run  # noqa: E402
from failer import FailingServer, ask  # noqa: E402
from scripts import PICTURES, SCRIPTS, WITHOUT_WORKER  # noqa: E402
from torture import Torture  # noqa: E402

PART = None
STREAM_IN, STREAM_OUT = ["EINTR", "EAGAIN", PART], ["EINTR", "EAGAIN", "ENOBUFS", PART]
# What the kernel may answer, role by role. A socket between our processes that is reset costs the process at its other end: test_t48_lost_socket.
LEGAL = {
    "gateway": {"read": ["EINTR", "EAGAIN"], "write": ["EINTR", "ENOSPC", "ENOMEM", PART], "recv": [*STREAM_IN, "ECONNRESET", "ETIMEDOUT"],
                "send": [*STREAM_OUT, "EPIPE", "ECONNRESET"], "recvmsg": STREAM_IN, "sendmsg": ["EINTR", "EAGAIN", PART],
                "accept4": ["EINTR", "EAGAIN", "ECONNABORTED", "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"], "epoll_wait": ["EINTR", PART],
                "epoll_ctl": ["ENOMEM", "ENOSPC"], "memfd_create": ["EMFILE", "ENFILE", "ENOMEM"], "ftruncate": ["EINTR", "ENOMEM", "ENOSPC"],
                "fcntl_dup": ["EMFILE"], "fstat": ["ENOMEM"], "mmap": ["ENOMEM"], "pread": ["EINTR", "EIO"]},
    "worker": {"read": ["EINTR"], "recvmsg": STREAM_IN, "sendmsg": STREAM_OUT, "poll": ["EINTR"], "mmap": ["ENOMEM", "EAGAIN"],
               "fstat": ["ENOMEM"]},
    "media": {"read": ["EINTR"], "write": ["EINTR", "ENOSPC", PART], "recvmsg": ["EINTR"], "sendmsg": ["EINTR", "ENOBUFS"],
              "memfd_create": ["EMFILE", "ENOMEM"], "ftruncate": ["EINTR", "ENOMEM"], "mmap": ["ENOMEM"], "fstat": ["ENOMEM"]},
}
SHORT = {"gateway": 160, "worker": 40, "media": 30}


def scripts_of(role):
    return [n for n in SCRIPTS if (role != "worker" or n not in WITHOUT_WORKER) and (role != "media" or n in PICTURES)]


def cases(torture, role):
    every = []
    for name in scripts_of(role):
        counts = torture.learn(name)[2]
        every += [(name, call, error, k, times) for call, errors in LEGAL[role].items() for error in errors
                  for k in range(1, counts[role, call] + 1) for times in (1, 3)]
    return every if long_run() else every[::max(1, len(every) // SHORT[role])]


@pytest.fixture(scope="module")
def server():
    t = Torture("demo", "--no-auth")  # calls of the store's are not failed here
    yield t
    assert t.stop() == 0, "".join(t.server.lines[-20:])


@pytest.fixture
def torture(server):
    server.begin()
    return server


@pytest.mark.parametrize("role", LEGAL)
def test_t48_failed_calls(torture, role, figure):
    start, reached = time.monotonic(), 0
    for name, call, error, k, times in cases(torture, role):
        reached += torture.run(name, role, f"{role} {name} {call} {error} k={k} x{times}", lambda r: r.fail_call(call, error, k, times)) > 0
    figure(f"T48 {role}", f"{torture.report()}; {reached} failed, {time.monotonic() - start:.1f} s")
    assert not torture.findings, "\n".join(f"{c}: {w}" for c, w in torture.findings[:20])
    assert reached > torture.runs // 2


RESTART = [(call, error, k) for call, errors in {
    "fork": ["EAGAIN", "ENOMEM"], "socketpair": ["EMFILE", "ENFILE"], "pidfd_open": ["EMFILE"], "epoll_ctl": ["ENOMEM"], "waitpid": ["EINTR"],
    "recvmsg": ["EINTR", "ECONNRESET"], "sendmsg": ["EINTR", "EPIPE"], "fcntl_dup": ["EMFILE"]}.items() for error in errors for k in (1, 2)]


@pytest.mark.parametrize("child", ["worker", "media"])
def test_t48_failed_restart(child, figure):
    """A child is killed, and one call of starting it again fails: it comes back all the same, within 5 s."""
    every = RESTART if long_run() else RESTART[::4]
    slowest = 0.0
    for call, error, k in every:
        torture = Torture("demo", "--no-auth")  # who dies again and again is started ever later
        good, limit, _ = torture.learn("png")
        gateway, old = torture.server.roles["gateway"], torture.server.roles[child]
        starts = old.starts
        gateway.fail_call(call, error, k)
        os.kill(old.pid, signal.SIGKILL)
        start = time.monotonic()
        while time.monotonic() - start < 5:
            reply = torture.send("png")
            assert torture.alive(), (call, error, k)
            if reply.what == good.what and old.starts > starts:
                break
            assert reply.kind in ("error", "closed", "ok"), (call, error, k, reply)
            time.sleep(0.02)
        else:
            pytest.fail(f"{call} {error} k={k}: not serving again: {reply}")
        slowest = max(slowest, time.monotonic() - start)
        torture.server.calm()
        held = torture.settled(limit)
        assert held[1] <= limit[1], (call, error, k, "descriptors of the gateway", held, limit)
        assert torture.stop() == 0
    figure(f"T48 {child} started again", slowest, f"s at most, {len(every)} failures")


def test_t48_lost_socket():
    """The worker's socket breaks: it is replaced, and what was in flight is told so. (A request that was not sent waits for the next worker.)"""
    for call, error in (("recvmsg", "ECONNRESET"), ("sendmsg", "EPIPE")):
        torture = Torture("demo", "--no-auth")
        good, _, _ = torture.learn("text")
        starts = torture.server.roles["worker"].starts
        torture.server.roles["gateway"].fail_call(call, error, 1)
        reply = torture.send("text")
        torture.server.calm()
        assert reply.what == good.what or (reply.status, reply.code) == (503, "worker_down"), (call, reply)
        assert torture.again("text", good).what == good.what
        assert torture.alive() and torture.server.roles["worker"].starts == starts + 1
        assert torture.stop() == 0


START = {"read": ["EINTR", "EIO", PART], "write": ["EINTR", "ENOSPC", "EIO", PART], "open": ["EMFILE", "EACCES", "EIO"], "fsync": ["EIO", "ENOSPC"],
         "fdatasync": ["EIO"], "pwrite": ["ENOSPC", "EIO", PART], "pread": ["EIO", PART], "ftruncate": ["ENOSPC"], "mmap": ["ENOMEM"], "fstat": ["EIO"],
         "socketpair": ["EMFILE"], "fork": ["EAGAIN"], "eventfd": ["EMFILE"], "epoll_ctl": ["ENOMEM"], "memfd_create": ["EMFILE"],
         "pidfd_open": ["EMFILE"], "fcntl_dup": ["EMFILE"]}


def start_with(arm):
    """How a start with this failure ends: it serves, or it gives up and says why. Returns (failed calls, what is wrong)."""
    s = FailingServer("demo", wait=False, arm=lambda roles: arm(roles["gateway"]))
    try:
        end = time.monotonic() + 20
        while not s.ready.is_set() and time.monotonic() < end:
            time.sleep(0.002)
        failed = s.roles["gateway"].call_failed + s.roles["gateway"].alloc_failed
        s.calm()
        if s.url:
            wrong = None if ask(s.port, SCRIPTS["text"].replace(b"KEY", s.key.encode())).kind == "ok" else "does not answer"
            code = s.stop()
            return failed, wrong or (f"exit code {code} at the end" if code else None)
        if not s.ready.is_set():
            return failed, "neither serves nor ends"
        code = s.process.wait(10)
        said = any(line.strip() for line in s.lines)
        return failed, None if code in (1, 2) and said else f"exit code {code}, said {s.lines[-2:]}"
    finally:
        if s.process.poll() is None:
            s.process.kill()
            s.process.wait()
        s.stop()


def test_t48_failed_start(figure):
    runs = reached = 0
    wrong = []
    for call, errors in START.items():
        for error in errors if long_run() else errors[:1]:
            for k in range(1, 40) if long_run() else (1, 4):
                failed, what = start_with(lambda r: r.fail_call(call, error, k))
                runs += 1
                reached += failed > 0
                if what:
                    wrong.append((call, error, k, what))
                if not failed:
                    break
    figure("T48 start", f"{runs} starts, {reached} with a failed call")
    assert not wrong, wrong[:20]
    assert reached > runs // 4
