"""T74, B15: PostgreSQL fails over to its standby, which has every commit that was acknowledged (synchronous replication), under a gateway that knows both."""
import subprocess
import threading
import time

import pytest
from postgres import PROGRAMS, Postgres
from test_charges import MODEL, fake  # noqa: F401
from test_store_away import begin_stream, end_stream, ready
from test_two_gateways import Shared


class Pair:
    def __init__(self):
        self.first = Postgres()
        self.second = Postgres(standby_of=self.first)
        self.url = f"postgresql://spillway@127.0.0.1:{self.first.port},127.0.0.1:{self.second.port}/postgres?target_session_attrs=read-write"
        for sql in ("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"):
            subprocess.run([PROGRAMS[-1] + "/psql", "-X", "-q", "-d", self.first.url, "-c", sql],
                           check=True, stdout=subprocess.DEVNULL)

    def close(self):
        self.first.close()
        self.second.close()


@pytest.fixture
def pair():
    p = Pair()
    yield p
    p.close()


@pytest.fixture
def place(tmp_path, fake, pair):  # noqa: F811
    fake.reset()
    p = Shared(tmp_path, fake, pair)
    p.start()
    yield p
    p.server.stop()


def test_t74_a_failover_loses_no_charge_and_makes_none_twice(place, fake, pair):  # noqa: F811
    told, stop = [], threading.Event()

    def client():
        while not stop.is_set():
            r, answer = place.ask(model=f"lab/{MODEL}")
            if r.status == 200:
                told.append(answer["usage"]["cost_nusd"])
            else:
                assert (r.status, answer["error"]["code"]) == (503, "accounts_unavailable"), answer
                time.sleep(0.05)

    threads = [threading.Thread(target=client) for _ in range(3)]
    for t in threads:
        t.start()
    time.sleep(0.5)
    stream = begin_stream(place, fake)
    pair.first.process.kill()
    cost = end_stream(*stream)  # from the journal
    until = time.monotonic() + 20
    while ready(place)[0] != 503:
        assert time.monotonic() < until
        time.sleep(0.02)
    n = len(told)
    pair.second.promote()
    until = time.monotonic() + 30
    while len(told) < n + 5:
        assert time.monotonic() < until, place.server.lines[-5:]
        time.sleep(0.05)
    stop.set()
    for t in threads:
        t.join(30)
    rows = place.settled(len(told) + 1)
    assert sorted(r[2] for r in rows if r[1] == "posted") == sorted([*told, cost])
    place.check()
