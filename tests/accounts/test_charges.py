"""What requests cost, from the client to the ledger: local and hosted, whole and cut, killed gateways, providers that lie. The provider is the fake
one (tests/fault/fake_provider), whose own ledger is the truth; the invariants (invariants.sql) hold after each test."""
import http.client
import json
import pathlib
import re
import sqlite3
import sys
import threading
import time
import urllib.parse

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parent / "fault"))
import price_oracle  # noqa: E402
from fake_provider import FakeProvider  # noqa: E402
from serving import BIN, DEMO, FakeServer, Server  # noqa: E402,F401

IN, OUT, CACHED = 1000, 2000, 250  # nano-dollars a token
# Name of the host here, row of the table, profile of the fake. `stop`: closing the connection ends the bill.
HOSTS = [("openai", "openai", "openai"), ("anthropic", "anthropic", "anthropic"), ("gemini", "gemini", "gemini"), ("groq", "groq", "groq"),
         ("lab", "openai-compatible", "generic")]
MODEL = "fake-a"
INVARIANTS = [s for s in re.sub(r"^--.*$", "", (HERE / "invariants.sql").read_text(), flags=re.M).split(";\n") if s.strip()]


def prices(folder, name):
    rows = {"provider": name, "model": MODEL, "context": 32000, "max_output": 4096, "can": ["tools", "image", "schema"],
            "prices": [{"in_uncached": [IN, 1], "in_cache_read": [CACHED, 1], "out_text": [OUT, 1]}]}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"format": 1, "version": "test", "date": "2026-11-29", "sources": [], "models": [rows]}))
    return path


class Place:
    """A data directory, a provider and a configuration; a gateway on them at a time."""
    provider_key = "key-one"

    def __init__(self, folder, fake):
        self.data, self.fake, self.config, self.key = folder / "data", fake, folder / "c.yaml", None
        self.args = (DEMO, "--name", "demo")
        lines = ["providers:"]
        for name, row, profile in HOSTS:
            lines += [f"  - provider: {row}", f"    name: {name}", f"    base_url: \"{fake.base(profile)}{'/v1' if row == 'anthropic' else ''}\"", "    key_env: PROVIDER_KEY",
                      f"    prices: \"{prices(folder, name)}\""]
        self.config.write_text("\n".join(lines) + "\n")
        table = {"in_uncached": {"nusd": IN, "units": 1}, "in_cache_read": {"nusd": CACHED, "units": 1}, "out_text": {"nusd": OUT, "units": 1}}
        fake.prices({profile: table for _, _, profile in HOSTS})

    def stand_in(self, names, usd_per_hour=None):
        """demo comes from the configuration, with hosted models that may answer for it."""
        text = f"models:\n  - path: \"{DEMO}\"\n    name: demo\n    stand_ins: \"{names}\"\n" + self.config.read_text()
        self.config.write_text(text + (f"overflow_usd_per_hour: \"{usd_per_hour}\"\n" if usd_per_hour else ""))
        self.args = ()

    def spawn(self, kind=Server, **kw):
        env = {"PROVIDER_KEY": self.provider_key, **({"SPILLWAY_API_KEY": self.key} if self.key else {})}
        self.server = kind(*self.args, "--config", self.config, data=self.data, env=env, wait=False, **kw)

    def start(self, kind=Server, **kw):
        self.spawn(kind, **kw)
        until = time.monotonic() + 60
        while not self.server.log_has("Ready in", 0.5):
            assert self.server.process.poll() is None and time.monotonic() < until, "".join(self.server.lines)
        if not self.key:
            assert self.server.log_has("The first API key")
            self.key = next(m[1] for line in self.server.lines if (m := re.search(r"(sk-spillway-\S+)", line)))
        self.host = urllib.parse.urlsplit(self.server.url)

    def db(self):
        return sqlite3.connect(self.data / "accounts.db", timeout=10)

    def rows(self, sql, *args):
        db = self.db()
        try:
            return db.execute(sql, args).fetchall()
        finally:
            db.close()

    def write(self, sql, *args):
        db = self.db()
        with db:
            db.execute(sql, args)
            db.execute("UPDATE ledger_state SET config_version = config_version + 1")
        db.close()

    def budget(self, amount, scope="all", unit="nusd", period="total", account=2):
        self.write("INSERT INTO budgets (account, scope, unit, period, amount, hard, created_s) VALUES (?, ?, ?, ?, ?, 1, 1)", account, scope, unit, period,
                   amount)

    def connect(self, headers={}, **body):
        """A request whose answer nobody waits for."""
        body = {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 64, **body}
        c = http.client.HTTPConnection(self.host.hostname, self.host.port, timeout=30)
        c.request("POST", "/v1/chat/completions", json.dumps(body), {"authorization": f"Bearer {self.key}", **headers})
        return c, body

    def open(self, **body):
        c, _ = self.connect(**body)
        return c, c.getresponse()

    def ask(self, **body):
        c, r = self.open(**body)
        data = r.read()
        c.close()
        return r, json.loads(data) if not body.get("stream") or r.status != 200 else data

    def settled(self, n, within_s=10):
        """All requests, once there are n and none is open."""
        until = time.monotonic() + within_s
        while True:
            rows = self.rows("SELECT id, state, charged, reserved, estimated, outcome FROM requests ORDER BY id")
            if len(rows) >= n and all(r[1] != "reserved" for r in rows):
                return rows
            assert time.monotonic() < until, rows
            time.sleep(0.02)

    def supplier(self, name):
        return self.rows("SELECT b.posted FROM balances b JOIN accounts a ON a.id = b.account WHERE a.kind = 'supplier' AND a.name = ?", name)[0][0]

    def check(self):
        now_ms = str(int(time.time() * 1000))
        for statement in INVARIANTS:
            assert self.rows(statement.replace("{now_ms}", now_ms)) == [], statement
        assert price_oracle.problems(self.rows) == []  # I7


@pytest.fixture(scope="module")
def fake():
    with FakeProvider() as p:
        yield p


@pytest.fixture
def place(tmp_path, fake):
    fake.reset()
    p = Place(tmp_path, fake)
    yield p
    try:
        p.settled(0)
        p.check()
    finally:
        p.server.stop()
    p.check()


def test_a_gateway_without_a_local_model_has_its_providers(place):
    place.args = ("--no-model",)
    place.start()
    r, answer = place.ask(model=f"groq/{MODEL}")
    assert r.status == 200, answer
    r, answer = place.ask(model="demo")
    assert (r.status, answer["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("size", [7000, 12000])  # read on the loop, and by a thread (READ_HERE_BYTES)
def test_a_request_costs_the_same_wherever_it_is_read(place, size):
    place.start()
    r, answer = place.ask(model=f"groq/{MODEL}", messages=[{"role": "user", "content": "x" * size}])
    assert r.status == 200 and answer["usage"]["prompt_tokens"] > 0, answer
    assert place.settled(1)[0][2] == int(r.headers["x-spillway-cost-nusd"]) == IN * answer["usage"]["prompt_tokens"] + OUT * answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("name", [h[0] for h in HOSTS])
@pytest.mark.parametrize("stream", [False, True])
def test_a_hosted_answer_costs_what_the_provider_takes(place, fake, name, stream):
    place.start()
    for text in ("hello there", "another question, a little longer than the first one"):
        r, answer = place.ask(model=f"{name}/{MODEL}", stream=stream, messages=[{"role": "user", "content": text}])
        assert r.status == 200, answer
        assert text in (answer["choices"][0]["message"]["content"] if not stream else
                        "".join(re.findall(r'"content":"([^"]*)"', answer.decode())))
    rows = place.settled(2)
    truth = fake.ledger(2)
    assert [r[2] for r in rows] == [t["cost_nusd"] for t in truth] and all(r[2] > 0 for r in rows)
    assert place.supplier(name) == sum(t["cost_nusd"] for t in truth)
    assert all(r[1:2] + r[4:5] == ("posted", 0) and r[3] >= r[2] for r in rows)
    assert place.rows("SELECT count(*) FROM reconciliation") == [(0,)]


def test_a_hosted_prompt_may_be_longer_than_any_local_one(place, fake):
    place.start()
    r, answer = place.ask(model=f"lab/{MODEL}", messages=[{"role": "user", "content": "word " * 30000}])
    assert r.status == 200, answer
    assert fake.ledger(1)[0]["prompt_tokens"] > 30000


def test_a_local_answer_is_booked_like_a_hosted_one(place):
    place.start()
    r, answer = place.ask(model="demo", messages=[{"role": "user", "content": "What is Spillway?"}])
    assert r.status == 200
    (row,) = place.settled(1)
    assert row[1:3] == ("posted", 0)
    usage = answer["usage"]
    assert place.rows("SELECT in_uncached + in_cache_read, out_text, state, source FROM attempts") == [
        (usage["prompt_tokens"], usage["completion_tokens"], "served", "reported")]
    assert place.rows("SELECT a.name FROM attempts t JOIN accounts a ON a.id = t.supplier") == [("local/demo",)]
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{16}", answer["id"])


def test_b2_who_leaves_a_local_answer_pays_what_was_made(place):
    place.start(FakeServer, script={"tokens_per_s": 300})
    c, r = place.open(model="demo", stream=True, max_tokens=900)
    r.read(2000)
    c.close()
    r.close()
    (row,) = place.settled(1)
    assert row[1] == "posted" and row[5] == "cut"
    (made,) = place.rows("SELECT out_text FROM attempts")[0]
    assert 0 < made < 900


@pytest.mark.parametrize("how", ["nan", "exit 139", "exit 139 late"])
def test_b2_a_local_failure_costs_nothing(place, how):
    place.start(FakeServer)
    r, _ = place.ask(model="demo", seed=FakeServer.seeds[how])
    assert r.status >= 500
    assert [row[1:3] for row in place.settled(1)] == [("void", 0)]


def leave_after(place, n_bytes, **body):
    c, r = place.open(stream=True, **body)
    assert r.status == 200
    r.read(n_bytes)
    c.close()
    r.close()


def test_b3_leaving_a_provider_that_stops_is_charged_by_what_was_seen(place, fake):
    place.start()
    fake.script({"tokens": 500, "delay_event_ms": 5})
    leave_after(place, 3000, model=f"openai/{MODEL}", max_tokens=600)
    (row,) = place.settled(1)
    assert row[1] == "posted" and row[4] == 1
    (truth,) = fake.ledger(1)
    assert truth["left"] and truth["completion_tokens"] < 500
    out = place.rows("SELECT out_text, source FROM attempts")[0]
    assert out[1] == "estimated" and 0 < out[0] <= truth["completion_tokens"] + 1
    assert place.rows("SELECT reason FROM reconciliation") == [("no usage was told",)]


def test_b3_a_provider_that_goes_on_is_read_to_its_end(place, fake):
    place.start()
    fake.script({"tokens": 300, "delay_event_ms": 2})
    leave_after(place, 3000, model=f"groq/{MODEL}", max_tokens=600)
    (row,) = place.settled(1)
    (truth,) = fake.ledger(1)
    assert truth["completion_tokens"] == 300
    assert row[2] == truth["cost_nusd"] and row[4] == 0


@pytest.mark.parametrize("cut", [{"how": "reset", "after_event": 6}, {"how": "fin", "after_event": 6}])
def test_b4_a_stream_that_is_cut_is_an_error_and_is_charged(place, fake, cut):
    place.start()
    fake.script({"tokens": 100, "cut": cut})
    r, data = place.ask(model=f"lab/{MODEL}", stream=True)
    assert b"[DONE]" not in data and b'"error":' in data and b'"provider_error"' in data
    (row,) = place.settled(1)
    assert row[1] == "posted" and row[2] > 0 and row[4] == 1


@pytest.mark.parametrize("usage,reason", [("omit", "no usage was told"), ("zero", "usage of 0 was told")])
def test_b5_usage_that_is_missing_is_not_zero(place, fake, usage, reason):
    place.start()
    fake.script({"usage": usage})
    r, _ = place.ask(model=f"lab/{MODEL}", messages=[{"role": "user", "content": "a sentence of some words to be counted"}])
    assert r.status == 200
    (row,) = place.settled(1)
    assert row[2] > 0 and row[4] == 1
    assert place.rows("SELECT reason FROM reconciliation") == [(reason,)]


def test_b5_usage_told_twice_counts_once(place, fake):
    place.start()
    fake.script({"usage": "twice"})
    place.ask(model=f"lab/{MODEL}")
    (row,) = place.settled(1)
    assert row[2] == fake.ledger(1)[0]["cost_nusd"]


def test_b6_what_is_beyond_the_hold_is_not_the_customers(place, fake):
    place.start()
    fake.script({"usage": {"factor": 100000}})
    place.ask(model=f"lab/{MODEL}")
    (row,) = place.settled(1)
    assert row[2] == row[3]  # all that was held
    assert place.rows("SELECT count(*) FROM transfers WHERE kind = 'overrun'") == [(1,)]
    cost = place.supplier("lab")
    assert cost > row[2] and place.rows("SELECT posted FROM balances b JOIN accounts a ON a.id = b.account WHERE a.name = 'house'") == [(0,)]


@pytest.mark.parametrize("do,status,code", [({"error": "overloaded"}, (429, 502), None), ({"status": 500, "body": "oops"}, (502,), "provider_error"),
                                            ({"status": 400, "body": {"error": {"message": "bad thing", "type": "invalid_request_error", "param": "x",
                                                                                "code": "bad"}}}, (400,), None)])
def test_b7_a_refusal_costs_nothing(place, fake, do, status, code):
    place.start()
    fake.script(do)
    r, answer = place.ask(model=f"lab/{MODEL}")
    assert r.status in status, answer
    assert code is None or answer["error"]["code"] == code
    (row,) = place.settled(1)
    assert row[1:3] == ("void", 0)
    assert place.supplier("lab") == 0


def test_budgets_refuse_what_they_do_not_cover(place):
    place.start()
    place.budget(1000)
    r, answer = place.ask(model=f"lab/{MODEL}")
    assert r.status == 402 and answer["error"]["code"] == "budget_exhausted" and r.headers["x-should-retry"] == "false"
    r, _ = place.ask(model="demo")  # it has no price
    assert r.status == 200
    assert len(place.settled(1)) == 1


def test_a_budget_that_others_hold_says_so(place, fake):
    place.start()
    place.budget(200_000)
    fake.script({"delay_head_ms": 1500})
    hold = threading.Thread(target=place.ask, kwargs={"model": f"lab/{MODEL}"})
    hold.start()
    until = time.monotonic() + 5
    while not place.rows("SELECT 1 FROM requests") and time.monotonic() < until:
        time.sleep(0.01)
    r, answer = place.ask(model=f"lab/{MODEL}")
    assert r.status == 429 and answer["error"]["code"] == "budget_held" and r.headers["retry-after"]
    hold.join()


def test_limits_of_requests_a_minute(place):
    place.start()
    place.budget(3, unit="requests", period="minute")
    codes = [place.ask(model="demo", max_tokens=2)[0] for _ in range(4)]
    assert [r.status for r in codes[:3]] == [200] * 3
    assert codes[3].status == 429 and 1 <= int(codes[3].headers["retry-after"]) <= 60


def test_b14_a_store_that_fails_closes_admission(place):
    place.start()
    place.ask(model="demo", max_tokens=2)
    place.write("ALTER TABLE requests RENAME TO gone")
    r, answer = place.ask(model="demo", max_tokens=2)
    assert r.status == 503 and answer["error"]["code"] == "accounts_unavailable"
    place.write("ALTER TABLE gone RENAME TO requests")
    until = time.monotonic() + 10
    while place.ask(model="demo", max_tokens=2)[0].status != 200:
        assert time.monotonic() < until
        time.sleep(0.1)


def occupy(place):
    """A request that waits in the local engine, which says that a first token takes five seconds."""
    place.start(FakeServer, script={"prediction": {"first_token_ms": 5000, "prompt_token_ms": 1, "side_by_side": 4}})
    place.ask(model="demo", max_tokens=2)  # the prediction is known after a submit
    c, _ = place.connect(model="demo", seed=FakeServer.seeds["queue"], max_tokens=2, headers={"x-spillway-local-only": "true"})
    until = time.monotonic() + 5
    while not [e for e in place.server.recorded("submit") if e.get("seed") == FakeServer.seeds["queue"]]:
        assert time.monotonic() < until
        time.sleep(0.01)
    return c


def test_a_busy_model_spills_to_its_stand_in(place, fake):
    place.stand_in(f"lab/{MODEL}", "1.00")
    c = occupy(place)
    r, answer = place.ask(model="demo")
    assert r.status == 200 and answer["choices"][0]["message"]["content"] == "You said: hello there" and answer["model"] == "demo"
    assert r.headers["x-spillway-served-by"] == f"lab/{MODEL}"
    assert r.headers["x-spillway-route"].startswith("queue; local/demo=queue(")
    (truth,) = fake.ledger(1)
    assert int(r.headers["x-spillway-cost-nusd"]) == answer["usage"]["cost_nusd"] == truth["cost_nusd"]
    assert place.rows("SELECT scope, reason, charged FROM requests WHERE charged > 0") == [(2, "queue", truth["cost_nusd"])]
    c.close()


def test_overflow_is_off_until_it_has_a_cap(place, fake):
    place.stand_in(f"lab/{MODEL}")
    c = occupy(place)
    c2, _ = place.connect(model="demo", max_tokens=2)  # it waits behind the other one, or is answered locally: never elsewhere
    time.sleep(0.3)
    assert fake.ledger() == []
    c2.close()
    c.close()


def test_local_only_stays(place, fake):
    place.stand_in(f"lab/{MODEL}", "1.00")
    c = occupy(place)
    c2, _ = place.connect(model="demo", max_tokens=2, headers={"x-spillway-local-only": "true"})
    time.sleep(0.3)
    assert fake.ledger() == []
    c2.close()
    c.close()


def test_b21_overflow_ends_at_its_cap(place, fake):
    """The hold of one request (64 tokens of answer, bytes of prompt) fits twice, not three times."""
    place.stand_in(f"lab/{MODEL}", "0.0004")
    c = occupy(place)
    fake.script({"delay_head_ms": 1500})
    threads = [threading.Thread(target=place.ask, kwargs={"model": "demo"}) for _ in range(2)]
    for t in threads:
        t.start()
    until = time.monotonic() + 5
    while len(place.rows("SELECT 1 FROM requests WHERE scope = 2 AND state = 'reserved'")) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    c3, _ = place.connect(model="demo", max_tokens=64)
    for t in threads:
        t.join()
    assert len(fake.ledger(2)) == 2
    held = place.rows("SELECT sum(reserved), max(reserved) FROM requests WHERE scope = 2")[0]
    assert held[0] <= 400_000 < held[0] + held[1]
    c3.close()
    c.close()


def test_a_model_that_is_down_spills(place, fake):
    place.stand_in(f"lab/{MODEL}", "1.00")
    place.start(FakeServer)
    r, answer = place.ask(model="demo", seed=FakeServer.seeds["exit 139"])  # its own worker dies under it
    assert r.status == 200 and r.headers["x-spillway-served-by"] == f"lab/{MODEL}" and "local/demo=tried" in r.headers["x-spillway-route"]
    assert place.rows("SELECT n, state, cost > 0 FROM attempts ORDER BY n") == [(1, "failed", 0), (2, "served", 1)]
    r, answer = place.ask(model="demo")
    assert r.status == 200, (answer, place.server.lines)
    if r.headers["x-spillway-served-by"] != "local/demo":  # else it was back already
        assert r.headers["x-spillway-route"].startswith("down; ")
