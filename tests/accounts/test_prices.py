"""Prices that operators set are what is charged, on both stores, beside a running gateway: local prices, sale prices, mark-ups, prices of a host, tiers of
service; and the holds of local answers, which grow with them. Each amount is computed again from the store by price_oracle.py."""
import json
import re
import shutil
import subprocess
import threading
import time
from fractions import Fraction

import price_oracle
import pytest
from postgres import Postgres
from test_charges import BIN, IN, INVARIANTS, MODEL, OUT, FakeServer, Place, fake  # noqa: F401
from test_two_gateways import Shared

HELLO = [{"role": "user", "content": "What is Spillway?"}]


def half_up(exact):
    exact = Fraction(exact)
    return (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)


class Plain:
    """Statements without arguments, that both stores take."""

    def budget(self, amount, unit="nusd", period="total"):
        self.write(f"INSERT INTO budgets (account, scope, unit, period, amount, hard, created_s) VALUES (2, 'all', '{unit}', '{period}', {amount}, 1, 1);"
                   "UPDATE ledger_state SET config_version = config_version + 1")


    def supplier(self, name):
        return self.rows(f"SELECT b.posted FROM balances b JOIN accounts a ON a.id = b.account WHERE a.kind = 'supplier' AND a.name = '{name}'")[0][0]


class OnSqlite(Plain, Place):
    def accounts(self, *args):
        r = subprocess.run([BIN, "accounts", *map(str, args), "--data", self.data], capture_output=True, text=True, timeout=30)
        assert r.returncode == 0, r.stderr
        return r.stdout

    def write(self, sql):
        db = self.db()
        with db:
            db.executescript(sql)
        db.close()

    def stall(self, seconds):
        """Nobody can write to the store for so long."""
        db = self.db()
        db.isolation_level = None
        db.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        db.execute("ROLLBACK")
        db.close()


class OnPostgres(Plain, Shared):
    def write(self, sql):
        self.rows(sql)

    def check(self):
        """All statements in one program: there are many, and each program takes a while."""
        now_ms = str(int(time.time() * 1000))
        assert self.rows(";".join(INVARIANTS).replace("{now_ms}", now_ms)) == []
        assert price_oracle.problems(self.rows) == []

    def stall(self, seconds):
        self.rows(f"BEGIN; LOCK TABLE requests IN EXCLUSIVE MODE; SELECT 1 FROM pg_sleep({seconds}); COMMIT")


@pytest.fixture(scope="module")
def postgres():
    p = Postgres()
    yield p
    p.close()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path, fake):  # noqa: F811
    fake.reset()
    if request.param == "sqlite":
        p = OnSqlite(tmp_path, fake)
    else:
        p = OnPostgres(tmp_path, fake, request.getfixturevalue("postgres"))
        p.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    p.args += ("--log-level", "debug")  # says when prices are taken over
    yield p
    p.settled(0)
    p.check()
    p.server.stop()
    p.check()


# Of rules that no store has a part in, one is enough.
any_store = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


def set_price(place, *args):
    """And waits until the running gateway has it, and all that was set before."""
    place.accounts("price", *args)
    change = place.rows("SELECT config_version FROM ledger_state")[0][0]
    until = time.monotonic() + 20
    while max((int(n) for n in re.findall(r"as of change (\d+)", "".join(place.server.lines))), default=0) < change:
        assert time.monotonic() < until, "the gateway does not take it over"
        time.sleep(0.02)


def local(place, **body):
    r, answer = place.ask(model="demo", messages=HELLO, **body)
    assert r.status == 200, answer
    return r, answer


def test_a_local_model_without_a_price_has_a_row_of_0(place):
    place.start()
    r, answer = local(place, max_tokens=8)
    assert answer["usage"]["cost_nusd"] == 0 and r.headers["x-spillway-cost-nusd"] == "0"
    place.settled(1)
    ((rows, source),) = place.rows("SELECT p.rows, p.source FROM requests r JOIN prices p ON p.id = r.price AND p.provider = 'local' AND p.model = 'demo'")
    assert json.loads(rows)["prices"][0]["out_text"] == [0, 1] and source == "default"
    assert place.rows("SELECT count(*) FROM attempts t JOIN requests r ON r.id = t.request WHERE t.price = r.price") == [(1,)]


def test_a_local_price_is_charged_and_told(place):
    place.start()
    set_price(place, "set", "local", "demo", "--input", "0.30", "--output", "0.90", "--cached", "0.10")
    r, answer = local(place, max_tokens=40)
    u = answer["usage"]
    cached = u["prompt_tokens_details"]["cached_tokens"]
    cost = half_up(Fraction((u["prompt_tokens"] - cached) * 300 + cached * 100 + u["completion_tokens"] * 900, 1))
    assert u["cost_nusd"] == cost > 0 and r.headers["x-spillway-cost-nusd"] == str(cost)
    (row,) = place.settled(1)
    assert row[2] == cost == place.supplier("local/demo")  # the house has no margin


def test_a_stream_tells_what_it_cost(place):
    place.start()
    set_price(place, "set", "local", "demo", "--input", "0.30", "--output", "0.90")
    r, data = place.ask(model="demo", messages=HELLO, stream=True, max_tokens=20, stream_options={"include_usage": True})
    (row,) = place.settled(1)
    assert f'"cost_nusd":{row[2]}' in data.decode() and row[2] > 0


def test_a_name_is_sold_at_its_own_price(place):
    """The local GPU takes less than the customer pays: the difference is the house's."""
    place.start()
    place.accounts("price", "set", "local", "demo", "--input", "0.10", "--output", "0.20")
    set_price(place, "set", "sale", "demo", "--input", "1.00", "--output", "3.00")
    _, answer = local(place, max_tokens=30)
    u = answer["usage"]
    (row,) = place.settled(1)
    assert row[2] == u["prompt_tokens"] * 1000 + u["completion_tokens"] * 3000 == u["cost_nusd"]
    assert place.supplier("local/demo") == u["prompt_tokens"] * 100 + u["completion_tokens"] * 200
    assert place.rows("SELECT posted FROM balances b JOIN accounts a ON a.id = b.account WHERE a.name = 'house' AND a.kind = 'house'") == [
        (row[2] - place.supplier("local/demo"),)]


@any_store
@pytest.mark.parametrize("percent,of", [("7.25", "lab"), ("0.01", "all"), ("0", "all"), ("1000", "lab")])
def test_a_mark_up_is_exact(place, fake, percent, of):  # noqa: F811
    place.start()
    set_price(place, "markup", of, percent)
    r, answer = place.ask(model=f"lab/{MODEL}", messages=HELLO)
    assert r.status == 200, answer
    (truth,) = fake.ledger(1)
    (row,) = place.settled(1)
    assert row[2] == half_up(truth["cost_nusd"] * (1 + Fraction(percent) / 100)) == answer["usage"]["cost_nusd"]
    assert place.supplier("lab") == truth["cost_nusd"]
    assert row[3] >= row[2]


def test_a_providers_mark_up_goes_before_that_of_all_and_no_name_has_both(place, fake):  # noqa: F811
    place.start()
    place.accounts("price", "markup", "all", "100")
    place.accounts("price", "markup", "lab", "10")
    place.accounts("price", "set", "sale", f"groq/{MODEL}", "--input", "5", "--output", "5")
    set_price(place, "set", "local", "demo", "--input", "0.5", "--output", "0.5")
    place.ask(model=f"lab/{MODEL}", messages=HELLO)
    r, answer = place.ask(model=f"groq/{MODEL}", messages=HELLO)
    _, here = local(place, max_tokens=9)
    lab, groq, demo = (row[2] for row in place.settled(3))
    truths = fake.ledger(2)
    assert lab == half_up(Fraction(truths[0]["cost_nusd"] * 11, 10))
    assert groq == 5000 * answer["usage"]["total_tokens"]
    assert demo == 2 * 500 * here["usage"]["total_tokens"]


def test_a_price_that_is_set_for_a_host_takes_the_books_place(place, fake):  # noqa: F811
    place.start()
    set_price(place, "set", "lab", MODEL, "--input", "0.000001", "--output", "2.5")
    _, answer = place.ask(model=f"lab/{MODEL}", messages=HELLO)
    u = answer["usage"]
    (row,) = place.settled(1)
    assert row[2] == place.supplier("lab") == half_up(Fraction(u["prompt_tokens"], 1000) + u["completion_tokens"] * 2500)


def test_b16_a_request_keeps_the_price_that_it_began_with(place):
    """In flight while the price changes, twice."""
    place.accounts("price", "set", "local", "demo", "--input", "1", "--output", "1")
    place.start(FakeServer, script={"tokens_per_s": 100})
    c, r = place.open(model="demo", messages=HELLO, stream=True, max_tokens=200)
    r.read(500)
    set_price(place, "set", "local", "demo", "--input", "50", "--output", "50")
    set_price(place, "markup", "all", "10")
    c2, r2 = place.open(model="demo", messages=HELLO, stream=True, max_tokens=5)
    r2.read()
    r.read()
    first, second = place.settled(2)
    tokens = [a + b for a, b in place.rows("SELECT coalesce(in_uncached, 0) + coalesce(in_cache_read, 0), out_text FROM attempts ORDER BY request")]
    assert [first[2], second[2]] == [tokens[0] * 1000, tokens[1] * 55000]
    assert tokens[0] > 200


def test_b17_malformed_prices_leave_those_that_were_in_force(place):
    place.accounts("price", "set", "local", "demo", "--input", "1", "--output", "1")
    place.start()
    place.write("UPDATE prices SET rows = '{\"provider\":\"local\",\"model\":\"demo\",\"can\":[],\"prices\":[{\"in_uncached\":[0,1],\"out_text\":[1,1]}]}'"
                " WHERE source = 'operator'; INSERT INTO prices (provider, model, rows, source, created_s)"
                " VALUES ('lab', 'x', '{', 'operator', 1); UPDATE ledger_state SET config_version = config_version + 1")
    assert place.server.log_has("stays in force", 20)
    _, answer = local(place, max_tokens=5)
    assert answer["usage"]["cost_nusd"] == 1000 * answer["usage"]["total_tokens"]
    place.write("UPDATE prices SET ended_s = 2 WHERE model = 'x'; UPDATE prices SET rows = replace(rows, '[0,1]', '[1000,1]') WHERE source = 'operator' AND model = 'demo';"
                "UPDATE prices SET rows = replace(rows, '[1,1]', '[1000,1]') WHERE source = 'operator' AND model = 'demo'")  # what the request was priced by
    set_price(place, "set", "local", "demo", "--input", "2", "--output", "2")
    _, answer = local(place, max_tokens=5)
    assert answer["usage"]["cost_nusd"] == 2000 * answer["usage"]["total_tokens"]


def test_b17_a_gateway_does_not_begin_with_malformed_prices(place, tmp_path):
    place.start()
    place.write("INSERT INTO prices (provider, model, rows, source, created_s) VALUES ('lab', 'x', '{', 'operator', 1)")
    r = subprocess.run([BIN, "serve", *place.args, "--config", place.config, "--data", place.data, "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=30,
                       env={"PROVIDER_KEY": "x", "PATH": "/usr/bin:/bin"})
    assert r.returncode == 1 and "prices: price" in r.stderr and "lab x" in r.stderr


# --- tiers of service ---

TIERS = {"provider": "openai", "model": MODEL, "context": 32000, "max_output": 4096, "can": [],
         "prices": [{"in_uncached": [IN, 1], "out_text": [OUT, 1]}, {"tier": "flex", "in_uncached": [IN // 2, 1], "out_text": [OUT // 2, 1]},
                    {"tier": "priority", "in_uncached": [3 * IN, 1], "out_text": [3 * OUT, 1]}]}


def start_with_tiers(place, tmp_path):
    place.start()
    (tmp_path / "tiers.json").write_text(json.dumps(TIERS))
    set_price(place, "set", "openai", MODEL, "--price-file", tmp_path / "tiers.json")


@any_store
@pytest.mark.parametrize("asked,told,times", [("flex", "flex", Fraction(1, 2)), ("priority", "priority", 3), ("priority", "default", 1), ("auto", "priority", 3),
                                               (None, None, 1), ("default", "default", 1)])
def test_the_tier_that_is_told_is_charged(place, fake, tmp_path, asked, told, times):  # noqa: F811
    start_with_tiers(place, tmp_path)
    if told:
        fake.script({"tier": told})
    r, answer = place.ask(model=f"openai/{MODEL}", messages=HELLO, **({"service_tier": asked} if asked else {}))
    assert r.status == 200, answer
    u = answer["usage"]
    (row,) = place.settled(1)
    assert row[2] == times * (u["prompt_tokens"] * IN + u["completion_tokens"] * OUT)
    assert place.rows("SELECT count(*) FROM transfers WHERE kind = 'overrun'") == [(0,)]
    assert place.rows("SELECT tier FROM attempts") == [(told if told not in (None, "default") else None,)]


def test_the_hold_covers_the_dearest_tier_that_may_be(place, fake, tmp_path):  # noqa: F811
    start_with_tiers(place, tmp_path)
    for tier in ("default", "flex", "priority", "auto"):
        place.ask(model=f"openai/{MODEL}", messages=HELLO, service_tier=tier)
    held = [row[3] for row in place.settled(4)]
    assert held == [held[0], held[0], 3 * held[0], 3 * held[0]]


def test_a_tier_that_usage_tells_is_charged(place, fake, tmp_path):  # noqa: F811
    """Anthropic says it in the usage alone."""
    place.start()
    (tmp_path / "tiers.json").write_text(json.dumps({**TIERS, "provider": "anthropic"}))
    set_price(place, "set", "anthropic", MODEL, "--price-file", tmp_path / "tiers.json")
    fake.script({"tier": "priority"})
    r, answer = place.ask(model=f"anthropic/{MODEL}", messages=HELLO, service_tier="auto")
    assert r.status == 200, answer
    u = answer["usage"]
    assert place.settled(1)[0][2] == 3 * (u["prompt_tokens"] * IN + u["completion_tokens"] * OUT)


@any_store
@pytest.mark.parametrize("tier", ["batch", "scale", 7])
def test_a_tier_without_a_price_is_refused(place, fake, tmp_path, tier):  # noqa: F811
    start_with_tiers(place, tmp_path)
    r, answer = place.ask(model=f"openai/{MODEL}", messages=HELLO, service_tier=tier)
    assert (r.status, answer["error"]["code"], answer["error"]["param"]) == (400, "price_unknown", "service_tier")
    assert fake.ledger() == [] and place.settled(0) == []


# --- holds of local answers ---

PRICE = 1000  # nano-dollars a token, both ways


def start_priced(place, tokens_per_s=400, **script):
    place.accounts("price", "set", "local", "demo", "--input", "1", "--output", "1")
    place.start(FakeServer, script={"tokens_per_s": tokens_per_s, **script})


def prompt_tokens(place):
    local(place, max_tokens=1)
    return place.settled(1)[0][2] // PRICE - 1


def stream(place, max_tokens, **body):
    """Tokens that were told, the error's code, whether it ended whole."""
    c, r = place.open(model="demo", messages=HELLO, stream=True, max_tokens=max_tokens, stream_options={"include_usage": True}, **body)
    assert r.status == 200, r.read()
    text = r.read().decode()
    c.close()
    usage = re.search(r'"completion_tokens":(\d+)', text)
    code = re.search(r'"code":"(\w+)"', text)
    return int(usage[1]) if usage else None, code and code[1], "[DONE]" in text


def extended_of(place, request):
    return place.rows(f"SELECT extended FROM attempts WHERE request = {request}")[0][0]


def extended(place):
    return place.rows("SELECT extended FROM attempts ORDER BY request")[-1][0]


@any_store
@pytest.mark.parametrize("most", [8, 256])
def test_a_short_answer_is_held_at_once(place, most):
    start_priced(place)
    n = prompt_tokens(place)
    stream(place, most)
    assert place.settled(2)[1][2:4] == ((n + most) * PRICE, (n + most) * PRICE) and extended(place) == 0


def test_a_hold_grows_with_its_answer(place):
    start_priced(place)
    n = prompt_tokens(place)
    place.budget(10**12)
    seen, done = [], threading.Event()

    def watch():
        while not done.is_set():
            seen.extend(place.rows("SELECT held, reserved FROM requests WHERE state = 'reserved'"))
            time.sleep(0.03)

    t = threading.Thread(target=watch)
    t.start()
    assert stream(place, 700) == (700, None, True)
    done.set()
    t.join()
    held = sorted({h for h, _ in seen})
    assert held and set(held) <= {(n + m) * PRICE for m in (256, 512, 700)} and held[0] == (n + 256) * PRICE
    assert place.settled(2)[1][2:4] == ((n + 700) * PRICE, (n + 700) * PRICE) and extended(place) == 2


def test_where_nothing_can_refuse_the_rest_is_held_in_one_step(place):
    start_priced(place)
    prompt_tokens(place)
    assert stream(place, 900) == (900, None, True)
    place.settled(2)
    assert extended(place) == 1


@pytest.mark.parametrize("how", ["budget", "prepaid"])
def test_an_answer_ends_with_its_money(place, how):
    start_priced(place)
    n = prompt_tokens(place)
    if how == "budget":
        place.budget((n + 600) * PRICE)
    else:
        place.accounts("prepaid", 2, 0)
        place.accounts("deposit", 2, f"{(n + 1 + n + 600) * PRICE / 1e9:.9f}")  # the first was on credit
    assert stream(place, 900) == (None, "budget_exhausted", False)
    row = place.settled(2)[1]
    assert row[2:4] == ((n + 512) * PRICE, (n + 512) * PRICE)  # to the end of what was held, and nothing beyond
    assert row[5] == "budget exhausted" and place.rows("SELECT count(*) FROM transfers WHERE kind = 'overrun'") == [(0,)]


def test_a_whole_answer_that_has_no_money_left_is_refused_with_402(place):
    start_priced(place, tokens_per_s=2000)
    n = prompt_tokens(place)
    place.budget((n + 300) * PRICE)
    r, answer = place.ask(model="demo", messages=HELLO, max_tokens=900)
    assert (r.status, answer["error"]["code"], r.headers["x-should-retry"]) == (402, "budget_exhausted", "false")
    made = place.settled(2)[1][2] // PRICE - n  # is charged, as when a client leaves
    assert made == 256


def test_what_others_hold_may_return_in_time(place, fake):  # noqa: F811
    """More is refused while a hosted request holds the rest; it fails, and gives its hold back before the local answer has come to the end of its own."""
    start_priced(place, tokens_per_s=150)
    n = prompt_tokens(place)
    fake.script({"delay_head_ms": 1200, "status": 500, "body": "oops"})
    hosted = {"model": f"lab/{MODEL}", "messages": HELLO, "max_tokens": 300}
    place.ask(**hosted)
    hold = place.settled(2)[1][3]
    place.budget((n + 500) * PRICE + hold - 50 * PRICE)
    c, r = place.open(model="demo", messages=HELLO, stream=True, max_tokens=500)
    other = threading.Thread(target=place.ask, kwargs=hosted)
    other.start()
    text = r.read().decode()
    other.join()
    row = place.settled(4)[2]
    assert "[DONE]" in text and row[2] == (n + 500) * PRICE
    assert extended_of(place, row[0]) > 1  # asked for more than once


def test_a_free_model_without_a_limit_asks_for_nothing_more(place):
    place.start(FakeServer, script={"tokens_per_s": 2000})
    assert stream(place, 900) == (900, None, True)
    place.settled(1)
    assert extended(place) == 0


@pytest.mark.parametrize("limit,tokens", [(700, None), (5000, 900)])
def test_a_limit_of_tokens_holds_for_a_free_model(place, limit, tokens):
    place.start(FakeServer, script={"tokens_per_s": 2000})
    place.budget(limit, unit="tokens", period="total")
    made, code, whole = stream(place, 900)
    assert (made, code, whole) == ((None, "budget_exhausted", False) if tokens is None else (900, None, True))
    place.settled(1)
    (used,) = place.rows("SELECT posted FROM budget_windows")[0]
    assert used <= limit and extended(place) >= 1


def test_leaving_while_more_is_asked_for(place):
    start_priced(place)
    n = prompt_tokens(place)
    place.budget(10**12)
    c, r = place.open(model="demo", messages=HELLO, stream=True, max_tokens=900)
    r.read(200)
    stall = threading.Thread(target=place.stall, args=(1.0,))
    stall.start()
    time.sleep(0.6)  # past the 128th token
    c.close()
    r.close()
    stall.join()
    row = place.settled(2)[1]
    made = place.rows("SELECT out_text FROM attempts ORDER BY request")[1][0]
    assert row[1] == "posted" and 0 < row[2] <= (n + made) * PRICE and row[5] == "cut"


def test_no_stream_waits_for_a_slow_store(place):
    """Half of a step is as long as the stall: its tokens come as ever."""
    start_priced(place, tokens_per_s=200)
    prompt_tokens(place)
    place.budget(10**12)
    c, r = place.open(model="demo", messages=HELLO, stream=True, max_tokens=400)
    r.read(300)
    stall = threading.Thread(target=place.stall, args=(2.0,))
    stall.start()
    last, longest = time.monotonic(), 0
    while r.read1(256):
        now = time.monotonic()
        longest, last = max(longest, now - last) if stall.is_alive() else longest, now
    stall.join()
    place.settled(2)
    assert longest < 1.0
    assert extended(place) >= 1


def test_b14_what_runs_is_finished_while_the_store_is_away(place):
    start_priced(place, tokens_per_s=200)
    n = prompt_tokens(place)
    place.budget(10**12)
    c, r = place.open(model="demo", messages=HELLO, stream=True, max_tokens=400)
    r.read(300)
    place.write("ALTER TABLE requests RENAME TO gone")
    time.sleep(1.5)
    place.write("ALTER TABLE gone RENAME TO requests")
    assert "[DONE]" in r.read().decode()
    row = place.settled(2)[1]
    overrun = place.rows("SELECT coalesce(sum(amount), 0) FROM transfers WHERE kind = 'overrun'")[0][0]
    assert row[2] + overrun == (n + 400) * PRICE


@any_store
@pytest.mark.parametrize("cap,status", [("0.0001", 402), ("1.00", 200)])
def test_a_requests_own_cap_holds_for_a_local_model_with_a_price(place, cap, status):
    start_priced(place)
    c, _ = place.connect(headers={"x-spillway-max-cost-usd": cap}, model="demo", messages=HELLO, max_tokens=200)
    assert c.getresponse().status == status
    c.close()


def test_choices_share_a_hold(place):
    start_priced(place)
    n = prompt_tokens(place)
    place.budget((n + 300) * PRICE)
    assert stream(place, 400, n=2)[1:] == ("budget_exhausted", False)
    assert place.settled(2)[1][2:4] == ((n + 256) * PRICE, (n + 256) * PRICE)


def test_b1_streams_at_once_spend_a_balance_and_no_more(place):
    start_priced(place, tokens_per_s=300)
    n = prompt_tokens(place)
    place.accounts("prepaid", 2, 0)
    place.accounts("deposit", 2, f"{(n + 1 + 2500) * PRICE / 1e9:.9f}")  # the first was on credit
    codes = []

    def client():
        c, r = place.open(model="demo", messages=HELLO, stream=True, max_tokens=600)
        text = r.read().decode()
        codes.append("whole" if "[DONE]" in text else re.search(r'"code":"(\w+)"', text)[1])
        c.close()

    threads = [threading.Thread(target=client) for _ in range(10)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    spent = sum(row[2] for row in place.settled(2)[1:])
    assert len(codes) == 10 and set(codes) <= {"whole", "budget_exhausted", "budget_held"} and codes.count("whole") < 10
    assert 1500 * PRICE < spent <= 2500 * PRICE
    assert place.rows("SELECT posted, pending FROM balances WHERE account = 2") == [(2500 * PRICE - spent, 0)]
    assert place.rows("SELECT count(*) FROM transfers WHERE kind = 'overrun'") == [(0,)]


def test_b10_a_killed_gateway_charges_what_was_known_of_a_local_answer(place):
    """As of the last time that its hold was extended."""
    start_priced(place)
    n = prompt_tokens(place)
    place.budget(10**12)
    c, r = place.open(model="demo", messages=HELLO, stream=True, max_tokens=900)
    until = time.monotonic() + 20
    while extended(place) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    known = place.rows("SELECT sale_estimate FROM attempts ORDER BY request")[1][0]
    place.server.process.kill()
    place.server.process.wait()
    c.close()
    if isinstance(place, OnPostgres):  # another gateway may share it: there it is recovered when its time is up
        place.write("UPDATE requests SET deadline_ms = 1 WHERE state = 'reserved'")
    place.start(FakeServer)
    row = place.settled(2, within_s=30)[1]
    assert row[5] == "recovered" and row[4] == 1
    assert row[2] >= known >= (n + 256) * PRICE and place.supplier("local/demo") == row[2] + (n + 1) * PRICE


def test_an_export_has_what_amounts_are_made_of(place, fake):  # noqa: F811
    place.start()
    set_price(place, "markup", "all", "12.5")
    place.ask(model=f"lab/{MODEL}", messages=HELLO)
    place.settled(1)
    (row,) = json.loads(place.accounts("export", "requests", "--json"))
    prices = dict(place.rows("SELECT id, rows FROM prices"))
    used = {m: int(row[m]) for m in price_oracle.METERS if row[m]}
    assert int(Fraction(row["cost_usd"]) * 10**9) == price_oracle.line(json.loads(prices[int(row["cost_price"])]), used, row["tier"] or "standard")
    assert int(Fraction(row["charged_usd"]) * 10**9) == price_oracle.line(json.loads(prices[int(row["price"])]), used, "standard", Fraction("12.5"))


# --- the oracle itself ---

def test_the_oracle_finds_what_was_planted(place, fake):  # noqa: F811
    place.start()
    set_price(place, "markup", "all", "10")
    place.ask(model=f"lab/{MODEL}", messages=HELLO)
    place.settled(1)
    assert price_oracle.problems(place.rows) == []
    for there, planted in [("UPDATE attempts SET out_text = out_text + 1", "UPDATE attempts SET out_text = out_text - 1"),
                           ("UPDATE requests SET markup = NULL", f"UPDATE requests SET markup = {place.rows('SELECT markup FROM requests')[0][0]}"),
                           ("UPDATE attempts SET tier = 'flex'", "UPDATE attempts SET tier = NULL"),
                           ("UPDATE attempts SET cost = cost + 1", "UPDATE attempts SET cost = cost - 1"),
                           ("UPDATE requests SET charged = charged - 1", "UPDATE requests SET charged = charged + 1")]:
        place.write(there)
        assert price_oracle.problems(place.rows) != [], there
        place.write(planted)
    assert price_oracle.problems(place.rows) == []
