"""B13, B14, T73 over HTTP: a disk that is really full, and an fsync that fails under the whole gateway. What the client of a running stream is told of its cost is
what the ledger has in the end, also when the gateway is killed meanwhile."""
import errno
import http.client
import json
import mmap
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from test_charges import MODEL, Place, Server, fake  # noqa: F401

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "fault/failer"))
from failer import LIBRARY, MAX_CALLS, N_FIELDS, ROLES, Role  # noqa: E402


class Failing(Server):
    """A server whose system calls can fail: see failer.c."""

    def __init__(self, *args, env=None, **kw):
        self.file = tempfile.NamedTemporaryFile(prefix="spillway-failer-")
        self.file.truncate(len(ROLES) * 8 * (N_FIELDS + MAX_CALLS))
        self.gateway = Role(mmap.mmap(self.file.fileno(), 0), ROLES.index("gateway"))
        super().__init__(*args, env={"LD_PRELOAD": str(LIBRARY), "SPILLWAY_FAILER": self.file.name, **(env or {})}, **kw)


@pytest.fixture
def place(tmp_path, fake):  # noqa: F811
    fake.reset()
    p = Place(tmp_path, fake)
    yield p
    p.settled(0)
    p.check()
    p.server.stop()


@pytest.fixture
def small(place, tmp_path):
    """The data directory is a disk of 24 MiB."""
    place.data.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", place.data], capture_output=True).returncode:
        pytest.skip("needs to mount a file system (root)")
    yield place
    place.settled(0)
    place.check()
    place.server.stop()
    kept = tmp_path / "kept.db"
    kept.write_bytes((place.data / "accounts.db").read_bytes())
    subprocess.run(["umount", "-l", place.data], check=True)
    (place.data / "accounts.db").write_bytes(kept.read_bytes())  # for what the fixture below looks at


def fill(folder):
    """Leaves no block free."""
    size = 1 << 20
    with open(folder / "filler", "ab", buffering=0) as f:
        while size:
            try:
                f.write(b"x" * size)
            except OSError as e:
                assert e.errno == errno.ENOSPC
                size //= 2


def ready(place):
    c = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=10)
    c.request("GET", "/readyz")
    r = c.getresponse()
    return r.status, r.read().decode()


def begin_stream(place, fake):  # noqa: F811
    """Its first events have come, and more are to come for a second or two."""
    fake.script({"tokens": 40, "delay_event_ms": 40})
    c, r = place.open(model=f"lab/{MODEL}", stream=True, stream_options={"include_usage": True})
    assert r.status == 200
    return c, r, r.readline()


def end_stream(c, r, first):
    text = (first + r.read()).decode()
    c.close()
    assert text.rstrip().endswith("[DONE]"), text[-300:]
    usage = [json.loads(line[6:])["usage"] for line in text.splitlines() if line.startswith("data: {") and json.loads(line[6:]).get("usage")]
    return usage[-1]["cost_nusd"]


def test_b14_a_full_disk_closes_admission_and_streams_end_whole(small, fake):  # noqa: F811
    small.start()
    assert ready(small)[0] == 200
    stream = begin_stream(small, fake)
    fill(small.data)
    until = time.monotonic() + 20
    while (answer := small.ask(model="demo", max_tokens=2))[0].status == 200:  # the log of writes has room of its own for a while
        assert time.monotonic() < until
        fill(small.data)
    assert answer[0].status == 503 and answer[1]["error"]["code"] == "accounts_unavailable"
    status, text = ready(small)
    assert status == 503 and text.startswith("accounts_unavailable\naccounts: the disk is full\n")
    cost = end_stream(*stream)
    assert cost > 0
    small.server.process.kill()  # and then it dies
    small.server.process.wait()
    os.unlink(small.data / "filler")
    small.start()
    assert small.rows("SELECT charged, estimated, outcome FROM requests WHERE scope = 1") == [(cost, 0, "whole")]
    assert ready(small)[0] == 200


def test_b14_admission_opens_when_there_is_room_again(small, fake):  # noqa: F811
    small.start()
    stream = begin_stream(small, fake)
    fill(small.data)
    while small.ask(model="demo", max_tokens=2)[0].status == 200:
        fill(small.data)
    cost = end_stream(*stream)
    os.unlink(small.data / "filler")
    until = time.monotonic() + 20
    while small.ask(model="demo", max_tokens=2)[0].status != 200:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert small.rows("SELECT charged, estimated, outcome FROM requests WHERE scope = 1") == [(cost, 0, "whole")]


def test_b13_an_fsync_that_fails_ends_the_gateway_after_its_streams(place, fake):  # noqa: F811
    place.start(Failing)
    stream = begin_stream(place, fake)
    workers = place.server.children("worker")
    call = next(c for c in ("fdatasync", "fsync") if place.server.gateway.called(c))
    place.server.gateway.fail_call(call, "EIO", 1)
    r, answer = place.ask(model="demo", max_tokens=2)
    assert r.status == 503 and answer["error"]["code"] == "accounts_unavailable"
    cost = end_stream(*stream)
    assert place.server.process.wait(30) == 1
    assert place.server.log_has("the server ends")
    assert workers and not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    place.start()
    assert place.rows("SELECT charged, estimated, outcome FROM requests WHERE scope = 1") == [(cost, 0, "whole")]
    assert place.rows("SELECT count(*) FROM requests WHERE state = 'reserved'") == [(0,)]


def test_b20_a_gateway_that_is_told_to_end_on_a_full_disk_keeps_what_it_owes(small, fake):  # noqa: F811
    small.start()
    stream = begin_stream(small, fake)
    fill(small.data)
    while small.ask(model="demo", max_tokens=2)[0].status == 200:
        fill(small.data)
    small.server.process.send_signal(signal.SIGTERM)
    cost = end_stream(*stream)
    assert small.server.process.wait(30) == 0
    os.unlink(small.data / "filler")
    small.start()
    assert small.rows("SELECT charged, estimated, outcome FROM requests WHERE scope = 1") == [(cost, 0, "whole")]
