"""Two gateways on one PostgreSQL: one balance, one table of keys; a restart of the database in between."""
import shutil
import subprocess
import sys
import threading
import time

import pytest
from postgres import PROGRAMS, Postgres
from test_charges import INVARIANTS, MODEL, BIN, Place, fake  # noqa: F401


class Shared(Place):
    def __init__(self, folder, fake, store):
        super().__init__(folder, fake)
        self.store, self.folder = store, folder
        self.config.write_text(f"store: \"{store.url}\"\n" + self.config.read_text())

    def rows(self, sql, *args):
        assert not args
        r = subprocess.run([PROGRAMS[-1] + "/psql", "-X", "-A", "-t", "-F", "\x1f", "-d", self.store.url, "-c", sql], capture_output=True, text=True, timeout=30)
        assert r.returncode == 0, r.stderr
        return [tuple(int(v) if v.lstrip("-").isdigit() else v or None for v in line.split("\x1f")) for line in r.stdout.splitlines()]

    def accounts(self, *args):
        r = subprocess.run([BIN, "accounts", *map(str, args), "--store", self.store.url, "--data", self.data], capture_output=True, text=True, timeout=30)
        assert r.returncode == 0, r.stderr
        return r.stdout


@pytest.fixture(scope="module")
def store():
    p = Postgres()
    yield p
    p.close()


@pytest.fixture
def pair(tmp_path, fake, store):  # noqa: F811
    fake.reset()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = Shared(tmp_path / "a", fake, store), Shared(tmp_path / "b", fake, store)
    a.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    a.start()
    b.data.mkdir()
    shutil.copy(a.data / "secret", b.data / "secret")
    b.key = a.key
    b.start()
    yield a, b
    for place in (a, b):
        place.server.stop()
    a.check()


def test_rules_hold_at_both(pair):
    a, b = pair
    assert all(place.ask(model=f"lab/{MODEL}")[0].status == 200 for place in pair)
    a.accounts("rules", 2, "--providers", "groq,lab")
    a.accounts("rules", 1, "--providers", "groq,openai")  # whoever refuses lab has both
    for place in pair:
        until = time.monotonic() + 20
        while place.ask(model=f"lab/{MODEL}")[0].status == 200:
            assert time.monotonic() < until
        r, answer = place.ask(model=f"lab/{MODEL}")
        assert r.status == 403 and answer["error"]["code"] == "permission_denied"
        assert place.ask(model=f"openai/{MODEL}")[0].status == 403 and place.ask(model=f"groq/{MODEL}")[0].status == 200
    a.settled(0)


def test_a_balance_is_spent_to_the_end_and_no_further_by_both(pair, fake):  # noqa: F811
    a, b = pair
    r, _ = a.ask(model=f"lab/{MODEL}")
    assert r.status == 200
    cost = a.settled(1)[0][2]
    hold = a.rows("SELECT reserved FROM requests")[0][0]
    n = 40
    a.accounts("prepaid", 2, 0)
    a.accounts("deposit", 2, f"{(n * cost + hold) / 1e9:.9f}")  # its first request was on credit
    served, refused = [], []

    def client(place):
        while True:
            r, answer = place.ask(model=f"lab/{MODEL}")
            if r.status == 200:
                served.append(answer["usage"]["cost_nusd"])
            elif answer["error"]["code"] == "budget_held":
                time.sleep(0.02)
            else:
                refused.append(answer["error"]["code"])
                return

    threads = [threading.Thread(target=client, args=(p,)) for p in (a, b) * 4]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    left = a.rows("SELECT posted, pending FROM balances WHERE account = 2")[0]
    assert left[1] == 0 and 0 <= left[0] < hold and left[0] == (n - 1) * cost + hold - sum(served)
    assert refused == ["budget_exhausted"] * 8
    assert len({row[0] // 2**32 for row in a.rows("SELECT id FROM requests")}) == 2  # both have served


def test_b15_both_go_on_after_the_database_was_restarted(pair, store):
    a, b = pair
    for place in pair:
        assert place.ask(model=f"lab/{MODEL}")[0].status == 200
    store.stop()
    for place in pair:
        r, answer = place.ask(model=f"lab/{MODEL}")
        assert r.status == 503 and answer["error"]["code"] == "accounts_unavailable"
    store.start()
    for place in pair:
        until = time.monotonic() + 20
        while place.ask(model=f"lab/{MODEL}")[0].status != 200:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_a_gateway_with_another_secret_does_not_start(pair, tmp_path, fake):  # noqa: F811
    (tmp_path / "c").mkdir()
    other = Shared(tmp_path / "c", fake, pair[0].store)
    r = subprocess.run([BIN, "serve", "demo", "--config", other.config, "--data", tmp_path / "c/data", "--listen", "127.0.0.1:0"], capture_output=True, text=True,
                       timeout=30, env={"PROVIDER_KEY": "x", "PATH": "/usr/bin:/bin"})
    assert r.returncode == 1 and "another secret" in r.stderr
