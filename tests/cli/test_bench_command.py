"""spillway bench: against servers of known delay, and against the fake provider (tests/fault/fake_provider) of known usage and price."""
import functools
import http.server
import json
import os
import pathlib
import signal
import socketserver
import statistics
import subprocess
import sys
import threading
import time
import zlib
from fractions import Fraction

import pexpect
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/fault")]
from fake_provider.fixture import FakeProvider  # noqa: E402
from serving import Server  # noqa: E402

KEY = "key-canary-0001-abcdefgh"
KEYS = {"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY, "GEMINI_API_KEY": KEY, "MISTRAL_API_KEY": KEY}
NO_KEYS = dict.fromkeys([*KEYS, "SPILLWAY_API_KEY"])
HOSTS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5", "gemini": "gemini-2.5-flash"}
WORKLOADS = ("chat-short", "chat-long", "shared-prefix", "summarise", "image")
GOAL_US = 2000
# As all bounds in time: ten times the goal in `make test`, where others run beside it; exactly in the long form.
TOLERANCE_US = GOAL_US if os.environ.get("SPILLWAY_FAULT") == "long" else 10 * GOAL_US


@pytest.fixture
def bench(program, tmp_path):
    """Runs it; the JSON report, if there is one, is .json of what comes back."""
    def run(*args, env=None, timeout=120):
        file = tmp_path / "report.json"
        file.unlink(missing_ok=True)
        whole = {k: v for k, v in {**os.environ, **NO_KEYS, **KEYS, **(env or {})}.items() if v is not None}
        r = subprocess.run([program, "bench", "--json", str(file), *map(str, args)], capture_output=True, text=True, timeout=timeout,
                           env=whole, stdin=subprocess.DEVNULL)
        assert KEY not in r.stdout + r.stderr
        r.json = json.loads(file.read_text()) if file.exists() and file.stat().st_size else None
        return r
    return run


@pytest.fixture(scope="module")
def provider():
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def fake(provider):
    provider.reset()
    yield provider
    assert not provider.server.bugs, "\n".join(provider.server.bugs)


def target(fake, host, model=None):
    base = fake.url + "/anthropic/v1" if host == "anthropic" else fake.base(host)
    return f"{host}:{model or HOSTS[host]}@{base}"


def rate(nano, units=1):
    return {"nano": nano, "units": units}


@pytest.fixture
def prices(tmp_path):
    """A price book of one model a host; returns it, and what its rates make of a truth ledger's meters: exactly, rounded once a request."""
    def make(**rates):
        table = {"in_uncached": rate(150), "out_text": rate(600), **{k: rate(*v) for k, v in rates.items()}}
        book = {"format": 1, "version": "test", "date": "2026-01-01", "sources": [], "models": [
            {"provider": host, "model": model, "can": ["image", "reasoning", "caching"],
             "prices": [{k: [r["nano"], r["units"]] for k, r in table.items()}]} for host, model in sorted(HOSTS.items())]}
        (tmp_path / "prices.json").write_text(json.dumps(book))
        parent = {"in_cache_read": "in_uncached", "in_cache_write_5m": "in_uncached", "in_cache_write_1h": "in_cache_write_5m",
                  "in_image": "in_uncached", "out_reasoning": "out_text"}

        def of(meter):
            while meter not in table:
                meter = parent[meter]
            return Fraction(table[meter]["nano"], table[meter]["units"])

        def cost(row):
            exact = sum(n * of(meter) for meter, n in row["meters"].items())
            return int(exact + Fraction(1, 2))
        return tmp_path / "prices.json", cost
    return make


# ---- a server whose delays are known ----

class Timed:
    """OpenAI's stream with delays that are told: head_ms before the status line, first_ms before the first token, gap_ms between tokens. What
    it really did is in .sent, by the boot clock: a busy machine sleeps longer than asked."""

    def __init__(self, tokens=20, head_ms=0, first_ms=40, gap_ms=5, of=None):
        self.sent, self.bodies, self.lock, self.open, self.most_open = [], [], threading.Lock(), 0, 0
        timed = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *args):
                pass

            def do_GET(self):
                body = b'{"object":"list","data":[{"id":"timed","object":"model"}]}'
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def event(self, data):
                text = b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
                return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

            def delta(self, text):
                return self.event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                begun = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                with timed.lock:
                    n = len(timed.bodies)
                    timed.bodies.append(body)
                    timed.open += 1
                    timed.most_open = max(timed.most_open, timed.open)
                how = {"tokens": tokens, "head_ms": head_ms, "first_ms": first_ms, "gap_ms": gap_ms, **(of(n) if of else {})}
                wait_until(begun + how["head_ms"] * 1e6)
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                head = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                wait_until(begun + how["first_ms"] * 1e6)
                at = [self.delta("x")]
                for _ in range(how["tokens"] - 1):
                    wait_until(at[-1] + how["gap_ms"] * 1e6)
                    at.append(self.delta("x"))
                self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
                self.event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": how["tokens"], "total_tokens": 11 + how["tokens"]}})
                end = self.event(b"[DONE]")
                self.wfile.write(b"0\r\n\r\n")
                with timed.lock:
                    timed.open -= 1
                    timed.sent.append({"n": n, "head": head - begun, "first": at[0] - begun, "end": end - begun,
                                       "gaps": [b - a for a, b in zip(at, at[1:])]})

        class Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self.server = Threads(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def done(self):
        """What it did, once it has noted all of it: the client may be faster."""
        until = time.monotonic() + 10
        while len(self.sent) < len(self.bodies) and time.monotonic() < until:
            time.sleep(0.005)
        return self.sent

    def median_us(self, name, skip=1):
        """Of all requests but those to warm up."""
        rows = [r[name] for r in self.done() if r["n"] >= skip]
        return statistics.median_low([g for r in rows for g in r] if name == "gaps" else rows) / 1000


def wait_until(at_ns):
    while (left := at_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) > 0:
        time.sleep(left / 1e9)


def near(measured_us, told_us, tolerance_us=TOLERANCE_US):
    return abs(measured_us - told_us) <= tolerance_us


def quietest_of_five(test):
    """Times on a machine that others use: what is wrong is wrong five times in a row, a busy moment passes."""
    @functools.wraps(test)
    def again(*args, **kw):
        for left in range(4, -1, -1):
            try:
                return test(*args, **kw)
            except AssertionError:
                if not left:
                    raise
                time.sleep(1)
    return again


@pytest.mark.parametrize("concurrency", [1, 4])
@quietest_of_five
def test_medians_are_within_2_ms_of_what_the_server_did(bench, concurrency):
    with Timed(head_ms=15, first_ms=40, gap_ms=5) as server:
        r = bench("--targets", f"{server.url}#timed", "--count", 60, "--concurrency", concurrency)
        t = r.json["targets"][0]
        assert r.returncode == 0 and t["whole"] == 60 and t["failed"] == 0
        for figure, name in (("first_byte_us", "head"), ("first_token_us", "first"), ("between_tokens_us", "gaps"), ("whole_answer_us", "end")):
            assert near(t[figure]["p50"], server.median_us(name)), (figure, t[figure], server.median_us(name))
        assert near(t["first_byte_us"]["p50"], 15000) and near(t["first_token_us"]["p50"], 40000) and near(t["between_tokens_us"]["p50"], 5000)
        assert t["between_tokens_us"]["n"] == 60 * 19 and t["connections"] == concurrency
        assert t["tokens"] == {"in": 60 * 11, "out": 60 * 20, "answers_counted": 0}


def test_3_ms_are_seen(bench):
    """The comparison above can fail: the same server, slower than it says."""
    with Timed(first_ms=43, gap_ms=8, tokens=5) as server:
        t = bench("--targets", server.url, "--count", 20).json["targets"][0]
        assert not near(t["first_token_us"]["p50"], 40000, GOAL_US) and not near(t["between_tokens_us"]["p50"], 5000, GOAL_US)


@quietest_of_five
def test_percentiles_are_exact(bench):
    """Requests of 30, 60, ... 600 ms in another order: the 10th, 18th and 20th by nearest rank."""
    with Timed(tokens=2, gap_ms=0, of=lambda n: {"first_ms": 30 * (n * 7 % 20 + 1)}) as server:
        got = bench("--targets", server.url, "--count", 20, "--warmup", 0, "--concurrency", 4).json["targets"][0]["first_token_us"]
        truth = sorted(r["first"] / 1000 for r in server.done())
        assert all(near(got[name], truth[rank - 1], 12000) for name, rank in (("p50", 10), ("p90", 18), ("p99", 20))), (got, truth)
        assert got["max"] == got["p99"] and got["n"] == 20


@quietest_of_five
def test_tokens_a_second(bench):
    """11 tokens, 20 ms from each to the next: 50 a second of one answer; all together by the whole time."""
    with Timed(tokens=11, first_ms=20, gap_ms=20) as server:
        t = bench("--targets", server.url, "--count", 12, "--concurrency", 4).json["targets"][0]
        truth = statistics.median_low(10 * 1e12 / sum(r["gaps"]) for r in server.done() if r["n"])
        assert t["answer_millitokens_per_s"]["p50"] == pytest.approx(truth, rel=0.05) and truth <= 50000
        assert t["all_millitokens_per_s"] == pytest.approx(12 * 11 * 1e9 / t["wall_us"], rel=1e-4)
        assert 3 * 220e3 <= t["wall_us"] < 6 * 220e3  # four at once, on a machine that may be busy


@quietest_of_five
def test_an_open_loop_waits_for_nobody(bench):
    with Timed(tokens=2, first_ms=300, gap_ms=1) as server:
        r = bench("--targets", server.url, "--count", 40, "--rate", 80, "--warmup", 0)
        t = r.json["targets"][0]
        assert t["whole"] == 40 and server.most_open > 8 and t["wall_us"] < 4e6 and r.json["concurrency"] is None
        # A connection and a thread of the server are made for each meanwhile: that is part of what a client waits.
        assert near(t["first_token_us"]["p50"], server.median_us("first", 0), 15000)


@quietest_of_five
def test_a_duration_ends_it(bench):
    with Timed(tokens=2, first_ms=50, gap_ms=1) as server:
        r = bench("--targets", server.url, "--duration", 1, "--concurrency", 2)
        t = r.json["targets"][0]
        assert r.returncode == 0 and 8 < t["whole"] <= 40 and 1e6 <= t["wall_us"] < 3e6 and t["whole"] + 1 == len(server.bodies)


@quietest_of_five
def test_a_time_and_a_maximum_bound_each_other(bench, fake):
    r = bench("--targets", target(fake, "openai"), "--duration", 1, "--max-cost", "0.01")
    cost = r.json["targets"][0]["cost_nusd"]
    assert cost["about"] is None and cost["bound"] is None and 0 < cost["spent"] <= 10**7 and r.json["targets"][0]["whole"] > 5
    assert r.returncode == (1 if r.json["ended"] == "max_cost" else 0)


@quietest_of_five
def test_warming_up_is_not_measured(bench):
    with Timed(tokens=2, gap_ms=1, of=lambda n: {"first_ms": 400 if n < 3 else 20}) as server:
        t = bench("--targets", server.url, "--count", 10, "--warmup", 3).json["targets"][0]
        assert (t["sent"], t["warm_up"], t["whole"]) == (13, 3, 10) and t["first_token_us"]["max"] < 200000


def test_a_signal_ends_it_with_what_was_measured(program, tmp_path):
    with Timed(tokens=2, first_ms=50, gap_ms=1) as server:
        p = subprocess.Popen([program, "bench", "--targets", server.url, "--count", "1000", "--json", tmp_path / "r.json"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(server.sent) < 5:
            time.sleep(0.01)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=20)
        t = json.loads((tmp_path / "r.json").read_text())
        assert p.returncode == 1 and "stopped by a signal" in err and "whole answers / failed" in out
        assert t["ended"] == "signal" and 4 <= t["targets"][0]["whole"] < 100


# ---- cost ----

@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("rates", [{}, {"in_uncached": (150333, 1000), "out_text": (777777777, 1000000)}], ids=["whole", "fractions"])
def test_costs_are_right_to_the_nano_dollar(bench, fake, prices, host, rates):
    book, cost = prices(**rates)
    fake.script({"tokens": 13})
    r = bench("--targets", target(fake, host), "--prices", book, "--count", 9, "--warmup", 2, "--concurrency", 3, "--yes")
    t, rows = r.json["targets"][0], fake.ledger(11)
    assert r.returncode == 0 and t["whole"] == 9, r.stderr
    assert t["cost_nusd"]["spent"] == sum(map(cost, rows))
    assert t["cost_nusd"]["measured"] == t["cost_nusd"]["spent"] - sum(map(cost, rows[:2]))
    assert t["tokens"]["in"] == sum(r["prompt_tokens"] for r in rows[2:]) and t["tokens"]["out"] == 9 * 13
    assert t["cost_nusd"]["request"] == int(Fraction(t["cost_nusd"]["measured"], 9) + Fraction(1, 2))
    assert t["cost_nusd"]["million_tokens"] == int(Fraction(t["cost_nusd"]["measured"] * 10**6, t["tokens"]["in"] + t["tokens"]["out"]) + Fraction(1, 2))
    assert t["cost_nusd"]["requests_at_their_bound"] == 0


def test_what_a_cache_held_and_reasoning_have_prices_of_their_own(bench, fake, prices):
    book, cost = prices(in_cache_read=(15,), out_reasoning=(901,))
    fake.script({"tokens": 5, "reasoning": 7})
    r = bench("--targets", target(fake, "openai"), "--prices", book, "--workload", "shared-prefix", "--count", 4, "--warmup", 1, "--yes")
    rows = fake.ledger(5)
    assert sum(row["cache_read_tokens"] for row in rows) > 4000 and sum(row["reasoning_tokens"] for row in rows) == 35
    assert r.json["targets"][0]["cost_nusd"]["spent"] == sum(map(cost, rows))


def test_a_price_of_the_command_line(bench, fake):
    fake.script({"tokens": 10})
    r = bench("--targets", target(fake, "mistral", "mistral-small-latest"), "--price", "1=0.15/0.60005", "--count", 3, "--warmup", 0, "--yes")
    rows = fake.ledger(3)
    spent = sum(int(150 * row["prompt_tokens"] + Fraction(60005, 100) * 10 + Fraction(1, 2)) for row in rows)
    assert r.json["targets"][0]["whole"] == 3 and r.json["targets"][0]["cost_nusd"]["spent"] == spent, r.stdout


@pytest.mark.parametrize("workload", WORKLOADS)
def test_no_request_costs_more_than_was_predicted(bench, fake, prices, workload):
    book, cost = prices()
    fake.script({"tokens": 64})
    r = bench("--targets", ",".join(target(fake, h) for h in HOSTS), "--prices", book, "--workload", workload, "--count", 3, "--warmup", 0, "--yes")
    rows = fake.ledger(9)
    for t in r.json["targets"]:
        assert t["whole"] == 3, r.stdout
        assert 0 < t["cost_nusd"]["spent"] <= t["cost_nusd"]["bound"] and t["cost_nusd"]["about"] <= t["cost_nusd"]["bound"]
        assert t["cost_nusd"]["spent"] == sum(cost(row) for row in rows if row["profile"] == t["provider"])


def test_where_no_usage_is_told_events_are_counted_and_the_bound_is_spent(bench, fake, prices):
    fake.script({"tokens": 10, "usage": "omit"})
    r = bench("--targets", target(fake, "openai"), "--prices", prices()[0], "--count", 3, "--warmup", 0, "--yes")
    t = r.json["targets"][0]
    assert t["tokens"]["answers_counted"] == 3 and t["tokens"]["out"] == 30 and "events are counted" in r.stdout
    assert t["cost_nusd"]["requests_at_their_bound"] == 3 and t["cost_nusd"]["spent"] == t["cost_nusd"]["bound"]


# ---- consent ----

def bound_of(bench, *args):
    r = bench(*args, "--dry-run")
    assert r.returncode == 0, r.stderr
    return Fraction(r.stdout.split("Together")[1].split("at most $")[1].split(". ")[0].rstrip(".\n"))


def test_a_dry_run_sends_nothing(bench, fake):
    r = bench("--targets", target(fake, "openai"), "--dry-run", "--yes", env=NO_KEYS)
    assert r.returncode == 0 and fake.requests() == [] and r.json is None
    assert f"1. openai gpt-4o-mini at {fake.base('openai')}: about $" in r.stdout


@pytest.mark.parametrize("more", [[], ["--max-cost", "0.000001"]])
def test_nothing_is_sent_without_consent(bench, fake, more):
    with Timed() as server:
        r = bench("--targets", f"{server.url},{target(fake, 'openai')}", *more)
        assert r.returncode == 2 and "nothing was sent" in r.stderr and fake.requests() == [] and server.bodies == []


def test_a_maximum_that_covers_the_prediction_is_consent_and_less_is_not(bench, fake):
    args = ["--targets", target(fake, "openai"), "--count", 4]
    bound = bound_of(bench, *args)
    assert bench(*args, "--max-cost", f"{float(bound - Fraction(1, 10**9)):.9f}").returncode == 2 and fake.requests() == []
    r = bench(*args, "--max-cost", f"{float(bound):.9f}")
    assert r.returncode == 0 and r.json["targets"][0]["whole"] == 4 and len(fake.requests()) == 5


def test_a_time_alone_bounds_no_cost(bench, fake):
    r = bench("--targets", target(fake, "openai"), "--duration", 1, "--yes")
    assert r.returncode == 2 and "--max-cost" in r.stderr and fake.requests() == []


@pytest.mark.parametrize("answer, code, n", [("n", 1, 0), ("", 1, 0), ("y", 0, 3)])
def test_on_a_terminal_it_asks(program, fake, answer, code, n):
    p = pexpect.spawn(program, ["bench", "--targets", target(fake, "openai"), "--count", "2"], env={**os.environ, **KEYS}, encoding="utf-8",
                      timeout=20)
    p.expect(r"at most \$0\.0\d+.*Send it\? \[y/N\] ")
    assert fake.requests() == []
    p.sendline(answer)
    p.expect(pexpect.EOF)
    p.close()
    assert p.exitstatus == code and len(fake.requests()) == n


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_maximum_is_never_passed(bench, fake, prices, concurrency):
    book, cost = prices()
    fake.script({"tokens": 64})
    args = ["--targets", target(fake, "openai"), "--prices", book, "--warmup", 0, "--concurrency", concurrency]
    one = bound_of(bench, *args, "--count", 1)
    most = one * 20
    r = bench(*args, "--count", 1000, "--max-cost", f"{float(most):.9f}", "--yes")
    spent = sum(map(cost, fake.ledger(r.json["targets"][0]["sent"])))
    assert r.returncode == 1 and r.json["ended"] == "max_cost" and "--max-cost" in r.stderr
    assert r.json["targets"][0]["cost_nusd"]["spent"] == spent <= most * 10**9
    # Not before it had to: with those that may have been under way, one more would not have fitted. Bounds differ by a tenth from request to request.
    assert spent + concurrency * one * 10**9 * Fraction(12, 10) > most * 10**9


def test_the_maximum_holds_for_all_targets_together(bench, fake, prices):
    book, cost = prices()
    fake.script({"tokens": 64})
    both = ["--targets", f"{target(fake, 'openai')},{target(fake, 'anthropic')}", "--prices", book, "--warmup", 0]
    most = bound_of(bench, *both, "--count", 20)
    r = bench(*both, "--count", 200, "--max-cost", f"{float(most):.9f}", "--yes")
    assert r.json["ended"] == "max_cost" and sum(map(cost, fake.ledger(len(fake.requests())))) <= most * 10**9


def test_a_report_that_cannot_be_written_is_found_before_anything_is_paid(program, fake, tmp_path):
    r = subprocess.run([program, "bench", "--targets", target(fake, "openai"), "--yes", "--json", tmp_path / "no" / "x.json"], capture_output=True,
                       text=True, env={**os.environ, **KEYS})
    assert r.returncode == 1 and "x.json" in r.stderr and fake.requests() == []


# ---- errors ----

def test_errors_are_counted_by_kind(bench, fake):
    fake.script({"match": {"nth": [2, 5]}, "do": {"error": "rate_limit"}}, {"match": {"nth": 4}, "do": {"error": "server"}},
                {"match": {"nth": 7}, "do": {"tokens": 9, "cut": {"how": "reset", "after_event": 3}}}, {"do": {"tokens": 3}})
    r = bench("--targets", target(fake, "openai"), "--count", 10, "--warmup", 0, "--yes")
    t = r.json["targets"][0]
    assert r.returncode == 0 and (t["whole"], t["failed"]) == (6, 4)
    kinds = {e["what"]: e["n"] for e in t["errors"]}
    assert kinds == {"wait 429": 2, "broken 500": 1, "cut": 1} and "2 x wait 429: " in r.stdout
    assert t["cost_nusd"]["requests_at_their_bound"] == 1 and t["between_tokens_us"]["n"] == 6 * 2


def test_where_every_request_fails_the_run_has_failed(bench, fake):
    fake.script({"status": 503, "body": "no"})
    r = bench("--targets", target(fake, "openai"), "--count", 3, "--yes")
    t = r.json["targets"][0]
    assert r.returncode == 1 and (t["whole"], t["failed"]) == (0, 3) and t["cost_nusd"]["spent"] == 0
    assert t["first_token_us"] == {"n": 0, "p50": None, "p90": None, "p99": None, "max": None} and t["cost_nusd"]["request"] is None


def test_a_server_that_is_not_there(bench):
    r = bench("--targets", "local:x@http://127.0.0.1:9", "--count", 2)
    assert r.returncode == 1 and r.json["targets"][0]["errors"][-1]["what"] == "no answer"


def test_a_request_that_takes_too_long(bench):
    with Timed(first_ms=3000) as server:
        r = bench("--targets", server.url, "--count", 1, "--warmup", 0, "--timeout", 1)
        assert r.json["targets"][0]["errors"][0]["what"] == "timeout" and r.returncode == 1


@pytest.mark.parametrize("line, said", [
    ('{"messages": [', "request"),
    ('[1]', "a request is a JSON object"),
    ('{"model": "x"}', "messages"),
    ('{"messages": [{"role": "user", "content": "x"}], "n": 2}', "one answer a request"),
    ('{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "max_tokens"),
    ('{"messages": [{"role": "user", "content": "x"}], "service_tier": "flex"}', "service_tier"),
    ('{"messages": [{"role": "user", "content": "x"}], "web_search_options": {}}', "web_search_options"),
    ('{"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}', "a file costs what nothing bounds"),
    ('{"messages": [{"role": "user", "content": "x"}], "seed": 1}', "anthropic claude-haiku-4-5"),
])
def test_a_faulty_request_is_named_by_its_line(bench, fake, tmp_path, line, said):
    file = tmp_path / "requests.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "fine"}]}\n\n' + line + "\n")
    r = bench("--targets", target(fake, "anthropic"), "--requests", file, "--yes")
    assert r.returncode == 2 and f"{file}:3: " in r.stderr and said in r.stderr and fake.requests() == [], r.stderr


def test_requests_of_a_file_are_sent_in_turn(bench, fake, tmp_path):
    file = tmp_path / "requests.jsonl"
    file.write_text("".join(json.dumps({"messages": [{"role": "user", "content": f"question {i}"}], "max_tokens": 10 + i, "temperature": 0}) + "\n"
                            for i in range(3)))
    r = bench("--targets", target(fake, "openai"), "--requests", file, "--count", 4, "--warmup", 1, "--yes")
    bodies = [q["body"] for q in fake.requests()]
    assert r.returncode == 0 and [b["messages"][0]["content"] for b in bodies] == [f"question {i % 3}" for i in range(5)]
    assert [b.get("max_completion_tokens", b.get("max_tokens")) for b in bodies] == [10, 11, 12, 10, 11]
    assert all(b["temperature"] == 0 and b["model"] == "gpt-4o-mini" and b["stream"] for b in bodies)


def test_a_file_without_requests(bench, tmp_path):
    (tmp_path / "empty").write_text("\n \n")
    r = bench("--requests", tmp_path / "empty")
    assert r.returncode == 2 and "no request" in r.stderr


@pytest.mark.parametrize("args, said", [
    (["--targets", "nobody:x"], "'nobody' is neither local, a URL nor a provider"),
    (["--targets", "openai"], "openai needs a model"),
    (["--targets", "local,,local"], "empty"),
    (["--targets", "https://example.org"], "--price 1=IN/OUT"),
    (["--targets", "local@https://example.org/v1"], "--price 1=IN/OUT"),
    (["--targets", "openai:no-such-model"], "no price"),
    (["--targets", "local", "--price", "2=1/1"], "--price"),
    (["--targets", "local", "--price", "1=1"], "IN/OUT"),
    (["--targets", "local", "--price", "1=1/0"], "both are 0"),
    (["--targets", "local", "--price", "1=-1/1"], "dollars"),
    (["--max-cost", "1e3x"], "--max-cost"),
    (["--max-cost", "-1"], "--max-cost"),
    (["--requests", "x", "--workload", "image"], "one of them"),
    (["--workload", "nothing"], "--workload"),
    (["--count", "0"], "--count"),
    (["local"], "--targets"),
    (["--targets", "mistral:open-mistral-nemo@http://127.0.0.1:1/v1"], "MISTRAL_API_KEY"),
    (["--targets", ",".join(["local"] * 8)], "at most 7"),
])
def test_wrong_usage(bench, args, said):
    r = bench(*args, env={"MISTRAL_API_KEY": None})
    assert r.returncode == 2 and said in r.stderr and r.stdout == "", r.stderr


# ---- keys ----

def headers_of(request):
    return {k.lower(): v for k, v in request["headers"]}


def test_each_key_goes_where_it_belongs(bench, fake, tmp_path):
    (tmp_path / "key").write_text("key-of-the-file-0002\n")
    both = f"{target(fake, 'openai')},{target(fake, 'anthropic')},{target(fake, 'openai')},{fake.base('generic')}#llama"
    r = bench("--targets", both, "--target-key", f"1={tmp_path / 'key'}", "--count", 1, "--warmup", 0, "--yes",
              env={"SPILLWAY_API_KEY": "key-of-our-own-0003"})
    first, second, third, fourth = map(headers_of, fake.requests())
    assert first["authorization"] == "Bearer key-of-the-file-0002" and third["authorization"] == f"Bearer {KEY}", r.stderr
    assert second["x-api-key"] == KEY and "authorization" not in second
    assert fourth["authorization"] == "Bearer key-of-our-own-0003"


def test_one_key_serves_all_targets_of_its_provider_and_no_other(bench, fake):
    twice = bench("--targets", f"{target(fake, 'openai')},{target(fake, 'openai', 'gpt-4o')}", "--count", 1, "--warmup", 0, "--yes")
    assert twice.returncode == 0 and [headers_of(q)["authorization"] for q in fake.requests()] == [f"Bearer {KEY}"] * 2
    other = bench("--targets", f"{target(fake, 'openai')},{target(fake, 'mistral', 'mistral-small-latest')}", "--yes", env={"MISTRAL_API_KEY": None})
    assert other.returncode == 2 and "MISTRAL_API_KEY" in other.stderr and len(fake.requests()) == 2


# ---- workloads ----

def bodies_of(bench, fake, *args):
    fake.reset()
    bench("--targets", target(fake, "openai"), "--count", 3, "--warmup", 1, "--yes", *args)
    return [q["body"] for q in fake.requests()]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_workload_is_the_same_each_time_and_another_by_another_seed(bench, fake, workload):
    first = bodies_of(bench, fake, "--workload", workload)
    assert len(first) == 4 and first == bodies_of(bench, fake, "--workload", workload) != bodies_of(bench, fake, "--workload", workload, "--seed", 2)
    beginnings = {json.dumps(b["messages"])[:200] for b in first}
    assert len(beginnings) == (1 if workload == "shared-prefix" else 4)
    assert len({json.dumps(b["messages"]) for b in first}) == 4


def test_only_the_shared_prefix_is_shared(bench, fake):
    bodies = bodies_of(bench, fake, "--workload", "shared-prefix")
    assert len({b["messages"][0]["content"] for b in bodies}) == 1 and len(bodies[0]["messages"][0]["content"]) > 6000
    assert len({b["messages"][1]["content"] for b in bodies}) == 4


def test_pictures_are_whole_and_each_another(bench, fake):
    import base64
    pictures = set()
    for body in bodies_of(bench, fake, "--workload", "image"):
        png = base64.b64decode(body["messages"][0]["content"][0]["image_url"]["url"].split(",")[1], validate=True)
        at, chunks = 8, {}
        while at < len(png):
            n = int.from_bytes(png[at:at + 4], "big")
            kind, data, crc = png[at + 4:at + 8], png[at + 8:at + 8 + n], int.from_bytes(png[at + 8 + n:at + 12 + n], "big")
            assert zlib.crc32(kind + data) == crc
            chunks[kind], at = data, at + 12 + n
        pixels = zlib.decompress(chunks[b"IDAT"])
        ink = sum(bin(x).count("1") for x in pixels)
        assert chunks[b"IHDR"][:9] == bytes([0, 0, 0, 224, 0, 0, 0, 224, 1]) and len(pixels) == 224 * 29 and 100 < ink < 224 * 224 / 2
        pictures.add(png)
    assert len(pictures) == 4


def test_the_bound_of_an_answer_can_be_set(bench, fake):
    assert {b.get("max_completion_tokens", b.get("max_tokens")) for b in bodies_of(bench, fake, "--max-tokens", 33)} == {33}


# ---- reports ----

PERCENTILES = {"n": int, "p50": int, "p90": int, "p99": int, "max": int}
TARGET = {"name": str, "provider": str, "model": str, "url": str, "paid": bool, "sent": int, "warm_up": int, "whole": int, "failed": int,
          "connections": int, "wall_us": int, "errors": list, "first_byte_us": PERCENTILES, "first_token_us": PERCENTILES,
          "between_tokens_us": PERCENTILES, "whole_answer_us": PERCENTILES, "answer_millitokens_per_s": PERCENTILES,
          "all_millitokens_per_s": int, "tokens": {"in": int, "out": int, "answers_counted": int},
          "cost_nusd": {"about": int, "bound": int, "measured": int, "spent": int, "request": int, "requests_at_their_bound": int,
                        "million_tokens": int, "million_tokens_out": int},
          "machine_nusd": {"request": int, "million_tokens": int, "million_tokens_out": int}}
REPORT = {"format": int, "spillway": str, "date": str, "machine": str, "workload": str, "requests": str, "seed": int, "warm_up": int,
          "prices": str, "ended": str, "count": int, "duration_s": int, "concurrency": int, "rate": float, "max_tokens": int,
          "max_cost_nusd": int, "gpu_hour_nusd": int, "targets": list}
NULLS = {"requests", "duration_s", "rate", "max_tokens", "max_cost_nusd"}


def check_shape(value, shape, nulls=()):
    assert set(value) == set(shape)
    for k, kind in shape.items():
        if isinstance(kind, dict):
            check_shape(value[k], kind, nulls)
        else:
            assert (value[k] is None if k in nulls else type(value[k]) is kind), (k, value[k])


@pytest.fixture
def compared(bench, fake):
    with Timed(tokens=20, first_ms=10, gap_ms=2) as server:
        fake.script({"tokens": 20})
        yield bench("--targets", f"{server.url}#ours,{target(fake, 'openai')}", "--count", 5, "--gpu-hour", "2.50", "--yes")


def test_the_json_has_every_figure(compared):
    check_shape(compared.json, REPORT, NULLS)
    free, paid = compared.json["targets"]
    check_shape({k: v for k, v in paid.items() if k != "machine_nusd"}, {k: v for k, v in TARGET.items() if k != "machine_nusd"})
    assert paid["machine_nusd"] == {"request": None, "million_tokens": None, "million_tokens_out": None} and not free["paid"] and paid["paid"]
    check_shape(free["machine_nusd"], TARGET["machine_nusd"])
    assert {k for k, v in free["cost_nusd"].items() if v is not None} == {"requests_at_their_bound"}


def test_where_the_machine_breaks_even(compared):
    free, paid = compared.json["targets"]
    tokens = free["tokens"]["in"] + free["tokens"]["out"]
    machine = int(Fraction(2500000000 * free["wall_us"], 3600000000) + Fraction(1, 2))
    assert free["machine_nusd"]["million_tokens"] == int(Fraction(machine * 10**6, tokens) + Fraction(1, 2))
    assert free["machine_nusd"]["request"] == int(Fraction(machine, 5) + Fraction(1, 2))
    even = int(Fraction(2500000000, paid["cost_nusd"]["request"]) + Fraction(1, 2))
    done = int(Fraction(5 * 3600000000, free["wall_us"]) + Fraction(1, 2))
    assert f"the same cost at {even} requests an hour" in compared.stdout
    assert f"server ours at $2.50 an hour: {done} requests an hour as measured" in compared.stdout


def test_the_table_is_markdown_and_says_where_and_when(compared):
    lines = compared.stdout.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert compared.json["machine"] in lines and compared.json["date"] in lines[0] and compared.json["prices"] in compared.stdout
    assert len({line.count("|") for line in rows}) == 1 and len(set(map(len, rows))) == 1
    assert "server ours" in rows[0] and "openai gpt-4o-mini" in rows[0] and set(rows[1]) == set("|-:")


def test_a_label_cannot_break_the_table(bench):
    with Timed(tokens=2, first_ms=1) as server:
        r = bench("--targets", f"{server.url}#a|b", "--count", 1)
        rows = [line for line in r.stdout.splitlines() if line.startswith("|")]
        assert r.returncode == 0 and {line.count("|") for line in rows} == {3}


# ---- our own server ----

def test_our_own_server_end_to_end(bench):
    server = Server("demo")
    try:
        r = bench("--targets", f"local@{server.url}", "--count", 8, "--concurrency", 2, env={"SPILLWAY_API_KEY": server.key})
        t = r.json["targets"][0]
        assert r.returncode == 0 and t["model"] == "demo" and t["whole"] == 8 and t["tokens"]["answers_counted"] == 0, r.stdout
        assert 0 < t["first_byte_us"]["p50"] <= t["first_token_us"]["p50"] <= t["whole_answer_us"]["p50"] and t["tokens"]["in"] > 8 * 30
        image = bench("--targets", f"local@{server.url}", "--workload", "image", "--count", 2, env={"SPILLWAY_API_KEY": server.key})
        assert image.returncode == 0 and image.json["targets"][0]["whole"] == 2, image.stdout
        wrong = bench("--targets", f"local@{server.url}", env={"SPILLWAY_API_KEY": "sw-wrong"})
        assert wrong.returncode == 1 and "SPILLWAY_API_KEY" in wrong.stderr
    finally:
        server.stop()
