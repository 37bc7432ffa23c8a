"""T76: faults of a provider's stream after every event of it, on six hosts: what the client sees, what is charged, whether it is marked as an estimate,
whether somebody is asked to look at it, what the breaker counts. B2 to B7.

Each case is a request for a model of its own, so that no breaker knows of another case, and its row is found by the model's name. What is right is
worked out here from the events that the fake provider sends, asked directly, and from the table OUTCOMES; nothing is taken from the gateway."""
import collections
import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sizes import long_run
from test_charges import CACHED, IN, OUT, fake  # noqa: F401
from test_kills import Sqlite

HOSTS = ["openai", "anthropic", "gemini", "mistral", "groq", "bedrock"]
STOPS = {"openai", "anthropic"}  # closing the connection ends the bill there; the others are read to their end
TOKENS, MAX_TOKENS, AT_ONCE = 4, 64, 32
PAUSE_MS, LEAVE_S, TIMEOUTS_MS = 3000, 1.5, {"stall": 3000, "time is up": 1000}

# After so many events, each of which went out whole.
FAULTS = {
    "reset": lambda n: {"cut": {"how": "reset", "after_event": n}},
    "fin": lambda n: {"cut": {"how": "fin", "after_event": n}},
    "end": lambda n: {"cut": {"how": "end", "after_event": n}},  # as if the body were whole
    "error": lambda n: {"error_event": {"after_event": n, "kind": "server"}},
    "stall": lambda n: {"stall": {"after_event": n, "ms": 2 * PAUSE_MS}},  # past the request's deadline
    "leave": lambda n: {"stall": {"after_event": n, "ms": PAUSE_MS}},      # meanwhile the client goes
    # in place of the event with that number
    "json": lambda n: {"malformed": {"at_event": n, "kind": "json"}},
    "utf8": lambda n: {"malformed": {"at_event": n, "kind": "utf8"}},
    "huge": lambda n: {"malformed": {"at_event": n, "kind": "huge", "bytes": 1_200_000}},
    "html": lambda n: {"malformed": {"at_event": n, "kind": "html"}},
}
INSTEAD = {"json", "utf8", "huge", "html"}

# What has come of the answer -> what the client sees, and what is booked. None: it does not happen.
#   whole   all of it, [DONE], what the provider told to the nano-dollar
#   cut     an error event and no [DONE]; charged
#   failed  an HTTP error; nothing is charged, and what the provider told by then is a cost of ours
#   late    an HTTP error; the prompt is charged, as the provider reads it
#   gone    nobody is there; charged
OUTCOMES = {            # before content, in content, after the reason, after the proof of its end
    "reset":   ("failed", "cut", "cut", "whole"),
    "fin":     ("failed", "cut", "cut", "whole"),
    "end":     ("failed", "cut", "cut", "whole"),
    "error":   ("failed", "cut", "cut", "whole"),
    "stall":   ("late", "cut", "cut", "whole"),
    "leave":   ("gone", "gone", "gone", None),
    "json":    ("failed", "cut", "cut", None),
    "utf8":    ("failed", "cut", "cut", None),
    "huge":    ("failed", "cut", "cut", None),
    "html":    (None, None, None, None),  # a line that is no field says nothing: what is lost with it decides (lost_outcome)
}

Event = collections.namedtuple("Event", "opens content finish told proof out")  # told: usage, with so many tokens of output
Case = collections.namedtuple("Case", "host fault n stream model")


def event_of(host, data):
    if data == "[DONE]":
        return Event(False, 0, False, False, True, 0)
    v = json.loads(data)
    if host == "anthropic":
        kind, usage = v["type"], v.get("usage") or v.get("message", {}).get("usage")
        return Event(kind in ("message_start", "content_block_start"), int(kind == "content_block_delta"), kind == "message_delta", usage is not None,
                     kind == "message_stop", usage["output_tokens"] if usage else 0)
    if host == "gemini":
        candidate, usage = v["candidates"][0], v["usageMetadata"]
        return Event(False, int(candidate["content"]["parts"][0]["text"] != ""), "finishReason" in candidate, True, False, usage["candidatesTokenCount"])
    choice = (v["choices"] or [{}])[0]
    usage = v.get("usage") or (v.get("x_groq") or {}).get("usage")
    return Event(False, int(bool(choice.get("delta", {}).get("content"))), bool(choice.get("finish_reason")), usage is not None, False,
                 usage["completion_tokens"] if usage else 0)


def events_of(fake, host):  # noqa: F811
    """The host's own stream, asked as the gateway has just asked it."""
    asked = fake.requests()[-1]
    c = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=10)
    headers = {k: v for k, v in asked["headers"] if k not in ("host", "content-length", "accept-encoding")}
    path = asked["path"] + ("?" + "&".join(f"{k}={v}" for k, v in asked["query"].items()) if asked["query"] else "")
    c.request("POST", path, json.dumps(asked["body"]), headers)
    text = c.getresponse().read().decode()
    c.close()
    lines = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    return [event_of(host, line) for line in lines]


def phase(host, fault, events):
    if any(e.proof for e in events) or (host == "gemini" and fault == "end" and any(e.finish for e in events)):
        return 3
    if any(e.finish for e in events):
        return 2
    return 1 if any(e.content for e in events) else 0


def lost_outcome(n, events):
    """The event with number n says nothing."""
    e = events[n]
    if n == 0 or e.opens:
        return "failed"
    return "cut" if e.finish or e.proof else "whole"


def came(case, events):
    """Those events that the gateway could read."""
    if case.fault == "html" and lost_outcome(case.n, events) != "failed":
        return [e for i, e in enumerate(events) if i != case.n]
    return events[:case.n]


def outcome(case, events):
    if case.fault == "html":
        return lost_outcome(case.n, events)
    return OUTCOMES[case.fault][phase(case.host, case.fault, events[:case.n])]


Booked = collections.namedtuple("Booked", "state charged cost source doubted")


def booked(case, events, prompt, guess):
    """prompt: as the provider counts it; guess: as we do where it has not told."""
    what, seen = outcome(case, events), came(case, events)
    if case.fault in ("leave", "stall") and case.host not in STOPS:  # read to its end without anybody
        what, seen = "whole", events
    made = sum(e.content for e in seen)
    told = [i for i, e in enumerate(seen) if e.told]
    if not told and what == "failed":
        return Booked("void", 0, 0, None, True)  # it may ask for the prompt
    if not told:
        cost = guess * IN + made * OUT
        return Booked("posted", cost, cost, "estimated", True)
    last = told[-1]
    more = any(e.content for e in seen[last + 1:]) or made == 0 or case.host not in STOPS  # since then, or of all, or when nobody listened
    behind = what != "whole" and more
    out = max(made, seen[last].out) if behind else seen[last].out
    cost = prompt * IN + out * OUT
    source = "mixed" if behind else "reported"
    return Booked("void", 0, cost, source, behind) if what == "failed" else Booked("posted", cost, cost, source, behind)


def prices(folder, host, models):
    rows = [{"provider": host, "model": m, "context": 32000, "max_output": 4096, "can": ["tools"],
             "prices": [{"in_uncached": [IN, 1], "in_cache_read": [CACHED, 1], "out_text": [OUT, 1]}]} for m in models]
    path = folder / f"{host}.json"
    path.write_text(json.dumps({"format": 1, "version": "test", "date": "2026-11-29", "sources": [], "models": rows}))
    return path


MODELS = 400  # a host's


class Bench:
    """A gateway with the six hosts, each case's request and what came of it."""

    def __init__(self, folder, fake):  # noqa: F811
        self.fake, self.n_used = fake, collections.Counter()
        self.place = Sqlite(folder, fake)
        lines = ["providers:"]
        for host in HOSTS:
            table = prices(folder, host, [f"fake-{i:04d}" for i in range(MODELS)])
            lines += [f"  - provider: {host}", f"    base_url: \"{fake.base(host)}{'/v1' if host == 'anthropic' else ''}\"", "    key_env: PROVIDER_KEY",
                      f"    prices: \"{table}\""]
        self.place.config.write_text("\n".join(lines) + "\n")
        self.place.args = ()
        fake.prices({host: {"in_uncached": {"nusd": IN, "units": 1}, "out_text": {"nusd": OUT, "units": 1}} for host in HOSTS})
        self.place.start()
        self.learn()

    def model(self, host):
        self.n_used[host] += 1
        return f"fake-{self.n_used[host] - 1:04d}"

    def learn(self):
        """An undisturbed answer of each host."""
        self.fake.script({"tokens": TOKENS})
        self.events, self.prompt, self.whole = {}, {}, {}
        for host in HOSTS:
            model = self.model(host)
            status, data = self.ask(Case(host, None, None, True, model))
            assert status == 200 and data.endswith(b"data: [DONE]\n\n"), data
            self.events[host] = events_of(self.fake, host)
            truth = [t for t in self.fake.ledger(2) if t["profile"] == host][0]
            self.prompt[host], self.whole[host] = truth["prompt_tokens"], truth["cost_nusd"]
            (row,) = self.rows(host, model)
            assert row[2] == truth["cost_nusd"]
            self.guess = (row[3] - MAX_TOKENS * OUT) // IN // 4 + 1

    def rows(self, host, model):
        return self.place.rows("SELECT id, state, charged, reserved, estimated FROM requests WHERE model = ?", f"{host}/{model}")

    def ask(self, case):
        headers = {"x-request-timeout-ms": str(TIMEOUTS_MS[case.fault])} if case.fault in TIMEOUTS_MS else {}
        c, _ = self.place.connect(headers, model=f"{case.host}/{case.model}", stream=case.stream, max_tokens=MAX_TOKENS)
        if case.fault == "leave":
            time.sleep(LEAVE_S)
            c.close()
            return None, b""
        r = c.getresponse()
        data = r.read()
        c.close()
        return r.status, data

    def script(self, rules):
        """{case: what the provider does}"""
        self.fake.script(*[{"match": {"profile": c.host, "model": c.model}, "do": {"tokens": TOKENS, **do}} for c, do in rules.items()])

    def all(self, rules):
        self.script(rules)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(rules, pool.map(self.ask, rules)))

    def booked(self, case):
        """(what was held, Booked)"""
        ((request, state, charged, reserved, estimated),) = self.rows(case.host, case.model)
        ((cost, source),) = self.place.rows("SELECT cost, source FROM attempts WHERE request = ? ORDER BY n DESC LIMIT 1", request)
        doubted = self.place.rows("SELECT count(*) FROM reconciliation WHERE request = ?", request) == [(1,)]
        assert estimated == (source in ("estimated", "mixed"))
        return reserved, Booked(state, charged, cost, source, doubted)

    def close(self):
        try:
            self.place.settled(0)
            self.place.check()
        finally:
            self.place.server.stop()


def some(indices):
    """Short: each third, and the first."""
    return indices if long_run() else indices[:1] + indices[2::3]


def cases_of(bench):
    cases = []
    for host in HOSTS:
        n = len(bench.events[host])
        for fault in FAULTS:
            for i in some(list(range(n if fault in INSTEAD else n + 1))):
                if fault == "leave" and phase(host, fault, bench.events[host][:i]) == 3:
                    continue  # it has the whole
                cases += [Case(host, fault, i, stream, bench.model(host)) for stream in ((True, False) if long_run() else (i % 2 == 0,))]
    return cases


@pytest.fixture(scope="module")
def bench(tmp_path_factory, fake):  # noqa: F811
    fake.reset()
    b = Bench(tmp_path_factory.mktemp("faults"), fake)
    yield b
    b.close()


@pytest.fixture(scope="module")
def results(bench):
    results = bench.all({c: FAULTS[c.fault](c.n) for c in cases_of(bench)})
    bench.place.settled(len(results), within_s=30)
    return results


def seen(case, status, data):
    """What the client has seen, in the words of OUTCOMES; an answer that fits none of them is given back as it is."""
    if status is None:
        return "gone"
    if status in (429, 500, 502, 503, 504) and json.loads(data)["error"]["message"]:
        return "failed"
    done = data.endswith(b"data: [DONE]\n\n") if case.stream else b'"finish_reason":"stop"' in data
    error = b'data: {"error":' in data
    return "whole" if status == 200 and done and not error else "cut" if status == 200 and error and not done else (status, data[-300:])


def expected(case, what):
    """A client that wants one piece gets an HTTP error for an answer that was cut."""
    return "failed" if what == "late" or (what == "cut" and not case.stream) else what


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("host", HOSTS)
def test_t76_what_the_client_sees(bench, results, host, fault):
    wrong = []
    for case in (mine := [c for c in results if c[:2] == (host, fault)]):
        if (is_seen := seen(case, *results[case])) != (right := expected(case, outcome(case, bench.events[host]))):
            wrong.append((case, right, is_seen))
    assert mine and wrong == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("host", HOSTS)
def test_t76_what_is_charged(bench, results, host, fault):
    wrong = []
    for case in (mine := [c for c in results if c[:2] == (host, fault)]):
        _, is_booked = bench.booked(case)
        if is_booked != (right := booked(case, bench.events[host], bench.prompt[host], bench.guess)):
            wrong.append((case, right, is_booked))
    assert mine and wrong == []


# What is told of the usage of a whole answer of MANY tokens -> (tokens of output that are booked, source, is somebody asked to look)
MANY = 40
USAGES = {
    "omit": (MANY, "estimated", True), "zero": (MANY, "estimated", True),
    "twice": (MANY, "reported", False), "each": (MANY, "reported", False), "after_finish": (MANY, "reported", False), "with_finish": (MANY, "reported", False),
    "tenth": (MANY // 10, "reported", True),  # what the invoice will say; but more has come
}


@pytest.fixture(scope="module")
def told(bench):
    cases = [Case(host, usage, None, stream, bench.model(host)) for host in HOSTS for usage in USAGES for stream in (True, False)]
    told = bench.all({c: {"tokens": MANY, "usage": {"factor": 0.1} if c.fault == "tenth" else c.fault} for c in cases})
    bench.place.settled(len(told), within_s=30)
    return told


@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize("host", HOSTS)
def test_b5_usage_is_kept_counted_or_doubted(bench, told, host, usage):
    out, source, doubted = USAGES[usage]
    prompt = bench.guess if source == "estimated" else round(bench.prompt[host] * 0.1) if usage == "tenth" else bench.prompt[host]
    cost = prompt * IN + out * OUT
    for case, answer in told.items():
        if case[:2] == (host, usage):
            assert seen(case, *answer) == "whole"
            assert bench.booked(case)[1] == Booked("posted", cost, cost, source, doubted)


@pytest.mark.parametrize("host", HOSTS)
def test_b6_what_is_beyond_the_hold_the_house_pays_and_somebody_is_asked(bench, host):
    case = Case(host, None, None, True, bench.model(host))
    bench.all({case: {"usage": {"factor": 1000}}})
    bench.place.settled(0)
    reserved, b = bench.booked(case)
    assert b == Booked("posted", reserved, 1000 * bench.whole[host], "reported", True)


# Answers of a host without a word of content -> what is booked of them
WORDLESS = {"empty": {"empty": True}, "error in a 200": {"error_in_200": "server"}, "500": {"status": 500}, "overloaded": {"error": "overloaded"}}


@pytest.mark.parametrize("answer", WORDLESS)
@pytest.mark.parametrize("host", HOSTS)
def test_b7_an_answer_without_a_word(bench, host, answer):
    """An empty one is an answer: its prompt was read. An error is none."""
    case = Case(host, answer, None, True, bench.model(host))
    (answered,) = bench.all({case: WORDLESS[answer]}).values()
    bench.place.settled(0)
    cost = bench.prompt[host] * IN
    assert seen(case, *answered) == ("whole" if answer == "empty" else "failed")
    void = Booked("void", 0, 0, None, answer == "error in a 200")  # who says 200 may ask for the prompt
    assert bench.booked(case)[1] == (Booked("posted", cost, cost, "reported", False) if answer == "empty" else void)


# Eight of these in a row: is the model left alone then?
COUNTED = {
    "reset": ({"cut": {"how": "reset", "after_event": 4}}, True), "end": ({"cut": {"how": "end", "after_event": 4}}, True),
    "reset at once": ({"cut": {"how": "reset", "after_event": 0}}, True), "error": ({"error_event": {"after_event": 4}}, True),
    "json": ({"malformed": {"at_event": 3, "kind": "json"}}, True), "500": ({"status": 500}, True), "overloaded": ({"error": "overloaded"}, True),
    "400": ({"status": 400, "body": {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None}}}, False),
    "no usage": ({"usage": "omit"}, False), "time is up": ({"stall": {"after_event": 4, "ms": 1500}}, False),
}


@pytest.fixture(scope="module")
def after_eight(bench):
    """{(host, fault): (how often the provider was asked by eight requests, by one more, status of that)}"""
    cases = [Case(host, fault, None, True, bench.model(host)) for fault in reversed(COUNTED) for host in HOSTS]  # those that take long first
    bench.script({c: COUNTED[c.fault][0] for c in cases})

    def play(case):
        for _ in range(8):
            bench.ask(case)
        at = time.time()
        return at, bench.ask(case)[0]  # soon: a breaker is open for five seconds
    with ThreadPoolExecutor(16) as pool:
        played = dict(zip(cases, pool.map(play, cases)))
    asked = collections.defaultdict(list)
    for row in bench.fake.ledger():
        asked[row["profile"], row["model"]].append(row["received_at"])
    return {c[:2]: (sum(t < at for t in asked[c.host, c.model]), sum(t >= at for t in asked[c.host, c.model]), status)
            for c, (at, status) in played.items()}


@pytest.mark.parametrize("fault", COUNTED)
@pytest.mark.parametrize("host", HOSTS)
def test_t76_what_the_breaker_counts(after_eight, host, fault):
    before, after, status = after_eight[host, fault]
    assert before >= 8
    if COUNTED[fault][1]:
        assert after == 0 and status in (502, 503)
    else:
        assert after > 0
