"""T71: the gateway is killed (SIGKILL) at random instants under load and started again, many times; then everything is counted. The load is local and
hosted answers, streams and not, overflow, clients that leave, providers that refuse, cut and tell no usage.

Each request of a run asks for another max_tokens, which the provider's own ledger and the hold in ours both have: so every request that the provider
served is found again, and what it says of its cost."""
import collections
import copy
import http.client
import itertools
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from postgres import Postgres
from test_charges import CACHED, HOSTS, IN, MODEL, OUT, Place
from test_two_gateways import Shared

from serving import BIN, DEMO, FakeServer, Server

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fault"))
from fake_provider.fixture import Control  # noqa: E402

DEADLINE_MS = 5000
PROFILES = {name: profile for name, _, profile in HOSTS}
CLIENTS = 12
TEXT = "{} it is"  # of one length, with a word of WORDS
WORDS = {"fast": None, "slow": {"tokens": 30, "delay_event_ms": 3}, "long": {"tokens": 150, "delay_event_ms": 2}, "wait": {"delay_head_ms": 150},
         "cuts": {"tokens": 30, "cut": {"how": "reset", "after_event": 9}}, "mute": {"usage": "omit"}, "fail": {"status": 500},
         "ever": {"tokens": 400, "delay_event_ms": 500}}
WEIGHTS = [40, 20, 10, 10, 5, 5, 2, 0]
SCRIPT = [{"match": {"text": word}, "do": do} for word, do in WORDS.items() if do]
TABLE = {"in_uncached": {"nusd": IN, "units": 1}, "in_cache_read": {"nusd": CACHED, "units": 1}, "out_text": {"nusd": OUT, "units": 1}}


class Provider(Control):
    """The fake provider in a process of its own."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-m", "fake_provider"], cwd=pathlib.Path(__file__).resolve().parents[1] / "fault",
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        super().__init__(json.loads(self.process.stdout.readline())["port"])

    def begin(self):
        self.reset()
        self.script(*SCRIPT)
        self.prices({profile: TABLE for _, _, profile in HOSTS})

    def close(self):
        self.process.terminate()
        assert self.process.communicate()[1] == ""  # it says what is wrong with itself


class Ack:
    """What a client has seen to its end."""

    def __init__(self, tag, local, usage):
        self.tag, self.local, self.usage = tag, local, usage

    @property
    def tokens(self):
        return self.usage["prompt_tokens"], self.usage["completion_tokens"]


def end_of_stream(r):
    """The usage of a stream that came to its [DONE], or None."""
    usage = None
    for line in r:
        if line.startswith(b"data: [DONE]"):
            return usage
        if line.startswith(b"data: {") and b'"usage":{' in line:
            usage = json.loads(line[6:])["usage"]
    return None


class Round:
    """A gateway and its clients, until it is killed."""

    def __init__(self, place, n, rng, local):
        self.place, self.n, self.rng, self.local = place, n, rng, local
        self.acks, self.run, self.n_refused, self.n_left = [], None, 0, 0
        self.tags, self.stop, self.begun = itertools.count(100), threading.Event(), threading.Semaphore(0)

    def client(self, seed):
        rng = random.Random(seed)
        while not self.stop.is_set():
            try:
                self.ask(rng, next(self.tags))
            except (OSError, http.client.HTTPException):
                if self.stop.wait(0.005) or self.place.server.process.poll() is not None:
                    return

    def ask(self, rng, tag):
        word = rng.choices(list(WORDS), WEIGHTS)[0]
        local = self.local and rng.random() < 0.6
        leaves, stream = rng.random() < 0.15, rng.random() < 0.6
        body = {"model": "demo" if local else f"{rng.choice(HOSTS)[0]}/{MODEL}", "max_tokens": tag, "stream": stream,
                "messages": [{"role": "user", "content": TEXT.format(word)}], **({"stream_options": {"include_usage": True}} if stream else {})}
        c, _ = self.place.connect({"x-request-timeout-ms": str(DEADLINE_MS)}, **body)
        try:
            if leaves:
                self.n_left += 1
                time.sleep(rng.random() * 0.05)
                return
            r = c.getresponse()
            if r.status != 200:
                self.n_refused += 1
                r.read()
                return
            usage = end_of_stream(r) if stream else json.loads(r.read())["usage"]
            if usage:
                self.acks.append(Ack(tag, r.headers["x-spillway-served-by"].startswith("local/"), usage))
        finally:
            c.close()

    def stream(self, tag):
        """One that goes on until somebody ends it: (status, what came)."""
        model = "demo" if self.local and tag % 4 == 0 else f"{HOSTS[tag % len(HOSTS)][0]}/{MODEL}"
        c, _ = self.place.connect(model=model, max_tokens=tag, stream=True, messages=[{"role": "user", "content": TEXT.format("ever")}])
        r, data, begun = c.getresponse(), b"", False
        try:
            while line := r.readline():
                data += line
                if not begun and re.search(rb'"content":"[^"]', line):
                    begun = True
                    self.begun.release()
        except (OSError, http.client.HTTPException):
            pass
        c.close()
        return r.status, data

    def kill(self):
        self.place.server.process.send_signal(signal.SIGKILL)
        self.place.server.process.wait()
        self.stop.set()

    def play(self, seconds):
        self.run = self.place.rows("SELECT max(id) FROM runs")[0][0]
        threads = [threading.Thread(target=self.client, args=(self.rng.random(),)) for _ in range(CLIENTS)]
        for t in threads:
            t.start()
        time.sleep(seconds)
        self.kill()
        for t in threads:
            t.join()
        self.place.server.stop()


class Kills:
    """All rounds on one store, and what is known of them from outside."""

    def __init__(self, place, provider, seed):
        self.place, self.provider, self.rng, self.rounds = place, provider, random.Random(seed), []
        self.truth = collections.defaultdict(list)  # (key of the round, max_tokens): rows of the provider's ledger
        provider.begin()
        self.alone = place.config.read_text()
        place.stand_in(f"lab/{MODEL}, groq/{MODEL}", "100")
        self.with_model = place.config.read_text()

    def start(self, n, kind, *args, **kw):
        self.place.config.write_text(self.with_model if kind else self.alone)
        self.place.args = args
        self.place.provider_key = f"key-{n}"
        self.place.start(kind or Server, **kw)

    def prepare(self):
        self.start(0, None)
        self.place.accounts("prepaid", 2, 0)
        self.place.accounts("deposit", 2, 1000)
        self.place.accounts("budget", "add", 2, 900, "--period", "day")
        self.place.accounts("limit", 2, "--concurrency", 1000)
        r, answer = self.place.ask(model=f"lab/{MODEL}", max_tokens=100, messages=[{"role": "user", "content": TEXT.format("fast")}])
        assert r.status == 200, answer
        self.base = self.place.rows("SELECT reserved FROM requests")[0][0] - 100 * OUT
        self.first = self.place.rows("SELECT max(id) FROM requests")[0][0]
        self.place.server.stop()
        self.provider.begin()

    def round(self, n):
        dice = self.rng.random()
        if dice < 0.1:  # before it is ready
            self.place.spawn(Server)
            time.sleep(self.rng.random() * 0.15)
            self.place.server.process.kill()
            self.place.server.stop()
            return
        kind = None if dice < 0.6 else FakeServer if dice < 0.95 else Server
        script = {"script": {"tokens_per_s": 2000, "prediction": {"first_token_ms": 5000, "prompt_token_ms": 1, "side_by_side": 4}}}
        self.start(n, kind, **(script if kind is FakeServer else {}))
        if self.place.recovers:
            assert self.place.rows("SELECT id FROM requests WHERE state = 'reserved'") == []
        r = Round(self.place, n, self.rng, kind is not None)
        r.play(0.01 + 0.4 * self.rng.random())
        self.note(r)

    def note(self, r):
        """What the provider knows of a round that has ended."""
        self.rounds.append(r)
        for row in self.provider.ledger(0, within_s=30):
            self.truth[row["key"], row["max_tokens"]].append(row)
        self.provider.begin()

    def finish(self):
        """One more start, after which nothing is open; and what the tables say."""
        self.start("last", None)
        until = time.monotonic() + self.place.recovered_within_s
        while self.place.rows("SELECT id FROM requests WHERE state = 'reserved' LIMIT 1"):
            assert time.monotonic() < until, "requests are still open"
            time.sleep(0.1)
        self.place.check()
        self.requests = {}
        rows = self.place.rows(f"SELECT id, state, charged, reserved, estimated, outcome, scope FROM requests WHERE id > {self.first} ORDER BY id")
        keys = {r.run: f"key-{r.n}" for r in self.rounds}
        self.local = [row for row in rows if row[6] == 0]
        self.attempts = collections.defaultdict(list)
        for row in self.place.rows("SELECT t.request, t.n, t.state, t.source, t.cost, t.in_uncached + t.in_cache_read, t.out_text, a.name"
                                   " FROM attempts t JOIN accounts a ON a.id = t.supplier ORDER BY t.request, t.n"):
            self.attempts[row[0]].append(row)
        for row in rows:
            if row[6] != 0:
                tag, rest = divmod(row[3] - self.base, OUT)
                key = keys[row[0] >> 32], tag
                assert rest == 0 and key not in self.requests, row
                self.requests[key] = row
        self.doubted = set(self.place.rows("SELECT request, attempt FROM reconciliation"))
        self.supplied = {name: posted for name, posted in self.place.rows(
            "SELECT a.name, b.posted FROM balances b JOIN accounts a ON a.id = b.account WHERE a.kind = 'supplier'")}


def check_acknowledged(k):
    """A client that has seen the end finds it in the ledger, to the nano-dollar."""
    n = 0
    for r in k.rounds:
        for ack in r.acks:
            n += 1
            if not ack.local:
                row = k.requests[f"key-{r.n}", ack.tag]
                assert row[1] == "posted" and row[5] == "whole" and row[2] == ack.usage["cost_nusd"], (row, ack.usage)
        booked = collections.Counter(k.attempts[row[0]][0][5:7] for row in k.local if row[0] >> 32 == r.run and row[5] == "whole")
        assert not collections.Counter(a.tokens for a in r.acks if a.local) - booked
    return n


def check_truth(k):
    """Nothing that the provider has served is without an attempt; what it told is booked exactly; the rest is marked, and somebody is asked to look."""
    exact = marked = 0
    for key, truths in k.truth.items():
        assert key in k.requests, (key, truths)
        assert len(k.attempts[k.requests[key][0]]) >= len(truths), (k.requests[key], truths)
    for key, row in k.requests.items():
        for _, n, state, source, cost, _, _, supplier in k.attempts[row[0]]:
            costs = [t["cost_nusd"] for t in k.truth[key] if t["profile"] == PROFILES.get(supplier)]
            if source == "reported":
                assert cost in costs, (row, costs)
                exact += 1
            elif state == "failed" and source is None:
                assert cost == 0 and not any(costs), (row, k.truth[key])
            else:
                assert row[4] == 1 and (row[0], n) in k.doubted, (row, state, source)
                marked += 1
    return exact, marked


class Sqlite(Place):
    recovers, recovered_within_s = True, 60

    def accounts(self, *args):
        r = subprocess.run([BIN, "accounts", *map(str, args), "--data", self.data], capture_output=True, text=True, timeout=30)
        assert r.returncode == 0, r.stderr
        return r.stdout


class OnPostgres(Shared):
    recovers, recovered_within_s = False, DEADLINE_MS / 1000 + 60 + 10 + 20  # deadline, grace, how often it is looked for; and a slow machine


@pytest.fixture(params=["sqlite", "postgres"])
def kills(request, tmp_path):
    provider = Provider()
    store = Postgres() if request.param == "postgres" else None
    place = OnPostgres(tmp_path, provider, store) if store else Sqlite(tmp_path, provider)
    k = Kills(place, provider, seed=71)
    yield k
    place.server.stop()
    provider.close()
    if store:
        store.close()


def test_t71_nothing_is_lost_when_the_gateway_is_killed(kills, size, figure, request):
    sqlite = "sqlite" in request.node.name
    n = size(10 if sqlite else 4, 1000 if sqlite else 100)
    kills.prepare()
    for i in range(1, n + 1):
        kills.round(i)
        if i % 50 == 0:
            kills.place.check()
            figure("kills", i)
    if not sqlite and n < 100:  # a minute is a long time: the ledger's clock never goes back, so it can be put forward
        kills.place.rows("UPDATE ledger_state SET clock_ms = clock_ms + 120000 RETURNING clock_ms")
    kills.finish()
    seen = check_acknowledged(kills)
    exact, marked = check_truth(kills)
    assert seen > n and exact > n and marked > 0
    for name, value in (("requests", len(kills.requests) + len(kills.local)), ("served by the provider", sum(map(len, kills.truth.values()))),
                        ("acknowledged, all there", seen), ("attempts that agree to the nano-dollar", exact), ("marked as estimated", marked)):
        figure(name, value)


def plant_cost(k):
    """The provider asks for a nano-dollar more."""
    key = next(key for key, row in k.requests.items() if any(a[3] == "reported" for a in k.attempts[row[0]]))
    k.truth = {**k.truth, key: [{**t, "cost_nusd": t["cost_nusd"] + 1} for t in k.truth[key]]}


def plant_request(k):
    """It has served one that we know nothing of."""
    k.truth = {**k.truth, ("key-1", 1): [{"profile": "groq", "cost_nusd": 1}]}


def plant_silence(k):
    k.doubted = set()


def plant_answer(k):
    """A client was told another cost."""
    r = next(r for r in k.rounds if any(not a.local for a in r.acks))
    ack = next(a for a in r.acks if not a.local)
    told = copy.copy(r)
    told.acks = [Ack(ack.tag, False, {**ack.usage, "cost_nusd": ack.usage["cost_nusd"] + 1})]
    k.rounds = [told]


@pytest.mark.parametrize("kills", ["sqlite"], indirect=True)
def test_t71_what_is_planted_is_found(kills):
    kills.prepare()
    for i in range(1, 6):
        kills.round(i)
    kills.finish()
    for plant in (plant_cost, plant_request, plant_silence, plant_answer):
        planted = copy.copy(kills)
        plant(planted)
        with pytest.raises((AssertionError, KeyError)):
            check_truth(planted)
            check_acknowledged(planted)
    assert check_acknowledged(kills) and check_truth(kills)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_b20_streams_that_a_signal_ends_are_settled_within_a_minute_of_the_next_start(kills, how, size, figure):
    n = size(50, 500)
    kills.prepare()
    kills.start(1, FakeServer, "--max-streams-per-key", 1000, "--drain-timeout", "300ms", script={"tokens_per_s": 10})
    r = Round(kills.place, 1, kills.rng, True)
    r.run = kills.place.rows("SELECT max(id) FROM runs")[0][0]
    with ThreadPoolExecutor(n) as pool:
        streams = [pool.submit(r.stream, 1000 + i) for i in range(n)]
        for _ in range(n):
            assert r.begun.acquire(timeout=60)
        kills.place.server.process.send_signal(how)
        assert kills.place.server.process.wait(20) == (0 if how == signal.SIGTERM else -how)
        answers = [s.result() for s in streams]
    kills.place.server.stop()
    assert all(status == 200 and b"[DONE]" not in data for status, data in answers)
    assert how == signal.SIGKILL or all(b'data: {"error":' in data for _, data in answers)
    open_at_end = kills.place.rows("SELECT count(*) FROM requests WHERE state = 'reserved'")[0][0]
    assert open_at_end == (0 if how == signal.SIGTERM else n)
    kills.note(r)
    kills.place.recovered_within_s = 60
    begin = time.monotonic()
    kills.finish()
    figure("streams", n)
    figure("all settled after the next start", time.monotonic() - begin, "s")
    exact, marked = check_truth(kills)
    assert exact == 0 and marked == len(kills.requests) > n // 2
