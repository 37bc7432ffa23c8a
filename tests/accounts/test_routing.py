"""Who answers a request (docs/routing.md), with everything real but the providers: names, aliases, suffixes, lists and policies; second attempts; a
request that leaves its queue; budgets that end; sessions; the dry run. One reservation each, whoever was asked."""
import base64
import http.client
import json
import os
import shutil
import signal
import struct
import subprocess
import time
import zlib

import pytest
from test_charges import BIN, DEMO, MODEL, FakeServer, Place, fake, occupy, place  # noqa: F401

ASKED = "SELECT n, a.name, t.state FROM attempts t JOIN accounts a ON a.id = t.supplier ORDER BY request, n"


def configure(place, *, models="", aliases="", more=""):
    """More of the configuration than providers."""
    text = place.config.read_text()
    place.config.write_text(models + text + aliases + more)
    if models:
        place.args = ()


def png(side=8):
    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + b"\x40\x80\xc0" * side for _ in range(side))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


def demo(text=""):
    return f"models:\n  - path: \"{DEMO}\"\n    name: demo\n{text}"


def served(r):
    return r.headers["x-spillway-served-by"]


def dry(place, headers={}, **body):
    body = {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 64, **body}
    c = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=30)
    c.request("POST", "/v1/route", json.dumps(body), {"authorization": f"Bearer {place.key}", **headers})
    r = c.getresponse()
    answer = json.loads(r.read())
    c.close()
    return r, answer


def reasons(answer):
    return {c["served_by"]: c["reason"] for c in answer["candidates"]}


# --- names ---


@pytest.mark.parametrize("name,by", [("demo", "local/demo"), ("demo:local", "local/demo"), (f"lab/{MODEL}", f"lab/{MODEL}"), ("chat", f"groq/{MODEL}"),
                                     ("chat:openai", f"openai/{MODEL}"), ("chat:local", "local/demo"), ("house/small", "local/demo")])
def test_one_string_chooses(place, name, by):
    configure(place, models=demo("    public_name: house/small\n"), aliases=f"aliases:\n  - name: chat\n    routes: \"groq/{MODEL} | openai/{MODEL}*0, demo\"\n")
    place.start()
    r, answer = place.ask(model=name, max_tokens=4)
    assert r.status == 200, answer
    assert served(r) == by and answer["model"] == name


def test_a_wrong_name_is_told_the_nearest(place):
    place.start()
    r, answer = place.ask(model="lab/fake-b")
    assert r.status == 404 and answer["error"]["code"] == "model_not_found" and f"lab/{MODEL}" in answer["error"]["message"]


def test_a_list_is_tried_in_its_order(place, fake):
    place.start()
    fake.script({"match": {"profile": "openai"}, "do": {"status": 500, "body": "oops"}})
    r, answer = place.ask(model=f"openai/{MODEL}", models=[f"groq/{MODEL}", "demo"])
    assert r.status == 200 and served(r) == f"groq/{MODEL}", answer
    assert f"openai/{MODEL}=tried" in r.headers["x-spillway-route"]
    assert place.rows(ASKED) == [(1, "openai", "failed"), (2, "groq", "served")]
    (row,) = place.settled(1)
    assert row[2] == fake.ledger(2)[1]["cost_nusd"] == place.supplier("groq") and place.supplier("openai") == 0


@pytest.mark.parametrize("models", [[], "demo", [1], ["demo"] * 9])
def test_a_list_that_is_none(place, models):
    place.start()
    r, answer = place.ask(models=models)
    assert r.status == 400 and answer["error"]["param"] == "models"


def test_weights_are_shares(place):
    configure(place, aliases=f"aliases:\n  - name: chat\n    routes: \"groq/{MODEL}*3 | lab/{MODEL}\"\n    policy: weighted\n")
    place.start()
    by = [served(place.ask(model="chat", max_tokens=1)[0]) for _ in range(80)]
    assert 40 <= by.count(f"groq/{MODEL}") <= 76  # 60 is expected; 4.6 and more than 4 deviations


def test_the_cheapest_goes_first(place):
    path = place.config.parent / "groq.json"
    table = json.loads(path.read_text())
    table["models"][0]["prices"][0]["out_text"] = [1000, 1]
    path.write_text(json.dumps(table))
    configure(place, aliases=f"aliases:\n  - name: chat\n    routes: \"lab/{MODEL}, groq/{MODEL}\"\n    policy: cheapest\n")
    place.start()
    assert served(place.ask(model="chat")[0]) == f"groq/{MODEL}"


@pytest.mark.parametrize("config,word", [("aliases:\n  - name: chat\n    routes: nobody/x\n", "nobody/x"), ("aliases:\n  - name: chat\n    routes: 'demo*x'\n", "weight"),
                                         ("aliases:\n  - name: chat\n    routes: demo\n    policy: best\n", "best"), ("route_policy: best\n", "best"),
                                         ("overflow_share: \"101\"\n", "per cent")])
def test_a_wrong_configuration_is_told_at_the_start(fake, tmp_path, config, word):
    place = Place(tmp_path, fake)
    configure(place, more=config)
    run = subprocess.run([BIN, "serve", DEMO, "--name", "demo", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "other"), "--config", place.config],
                         env={**os.environ, "PROVIDER_KEY": "key-one"}, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1 and word in run.stderr, run.stderr


# --- what a candidate cannot do ---


def test_what_the_local_model_cannot_do_goes_to_its_stand_in(place):
    place.stand_in(f"lab/{MODEL}", "1.00")
    place.start()
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    r, answer = place.ask(model="demo", tools=tools)
    assert r.status == 200 and served(r) == f"lab/{MODEL}", answer
    assert r.headers["x-spillway-route"].startswith("capability; local/demo=capability")
    r, answer = place.ask(model="demo:local", tools=tools)
    assert r.status == 400 and answer["error"]["param"] == "tools"


def test_a_prompt_that_is_too_long_here_goes_to_the_stand_in(place):
    place.stand_in(f"lab/{MODEL}", "1.00")
    place.start()
    text = [{"role": "user", "content": "word " * 3000}]
    r, answer = place.ask(model="demo", messages=text)
    assert r.status == 200 and served(r) == f"lab/{MODEL}", answer
    assert r.headers["x-spillway-route"].startswith("context; local/demo=context")
    r, answer = place.ask(model="demo", messages=text, headers={"x-spillway-local-only": "true"})
    assert r.status == 400 and answer["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("picture", [False, True])
def test_two_local_models_that_cannot_are_both_passed_over(place, picture):
    """How long the prompt is for the second is known only when it has read it: until then it is guessed, too short."""
    configure(place, models=demo() + f"  - path: \"{DEMO}\"\n    name: twin\n")
    place.start()
    text = {"type": "text", "text": "q7Zk2Xw9" * 350}
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    content = [text, {"type": "image_url", "image_url": {"url": url}}] if picture else [text]
    c, _ = place.connect(model="demo", models=["twin", f"lab/{MODEL}"], messages=[{"role": "user", "content": content}], headers={"x-request-timeout-ms": "5000"})
    r = c.getresponse()
    assert r.status == 200 and served(r) == f"lab/{MODEL}", r.read()
    c.close()


def test_nothing_leaves_the_house_if_it_must_not(place, fake):
    place.start()
    r, answer = place.ask(model=f"lab/{MODEL}", headers={"x-spillway-local-only": "true"})
    assert r.status == 403 and answer["error"]["code"] == "permission_denied"
    r, _ = place.ask(model=f"lab/{MODEL}", headers={"x-spillway-zero-retention": "true"})
    assert r.status == 403
    assert fake.ledger() == [] and place.rows("SELECT count(*) FROM requests") == [(0,)]


def test_who_retains_nothing_may_be_asked(place):
    text = place.config.read_text().replace("    name: lab\n", "    name: lab\n    zero_retention: true\n    region: eu\n")
    place.config.write_text(text)
    place.start()
    r, _ = place.ask(model=f"openai/{MODEL}", models=[f"lab/{MODEL}"], headers={"x-spillway-zero-retention": "true"})
    assert served(r) == f"lab/{MODEL}" and f"openai/{MODEL}=retention" in r.headers["x-spillway-route"]


# --- attempts ---


def test_a_host_that_names_a_time_is_asked_once_more(place, fake):
    place.start()
    fake.script({"count": 1, "do": {"error": "overloaded", "retry_after": {"form": "seconds", "s": 1}}})
    r, answer = place.ask(model=f"lab/{MODEL}")
    assert r.status == 200, answer
    assert place.rows(ASKED) == [(1, "lab", "failed"), (2, "lab", "served")]
    cost = sum(t["cost_nusd"] for t in fake.ledger())
    assert place.settled(1)[0][2] == place.supplier("lab") == cost > 0
    assert place.rows("SELECT cost FROM attempts ORDER BY n") == [(0,), (cost,)]


def test_its_time_is_waited_for_if_nobody_else_may_be_asked(place, fake):
    """The other's context is too short."""
    place.start()
    fake.script({"count": 1, "match": {"profile": "openai"}, "do": {"error": "rate_limit", "retry_after": {"form": "seconds", "s": 1}}})
    r, answer = place.ask(model=f"openai/{MODEL}", models=["demo"], messages=[{"role": "user", "content": "word " * 3000}])
    assert r.status == 200 and served(r) == f"openai/{MODEL}", answer
    place.settled(1)
    assert place.rows(ASKED) == [(1, "openai", "failed"), (2, "openai", "served")]


def test_what_another_has_told_is_not_the_local_models_usage(place, fake):
    """Anthropic's message_start has counts before there is any content."""
    place.start()
    fake.script({"match": {"profile": "anthropic"}, "do": {"tokens": 50, "cut": {"how": "reset", "after_event": 1}}})
    r, answer = place.ask(model=f"anthropic/{MODEL}", models=["demo"], max_tokens=4)
    assert r.status == 200 and served(r) == "local/demo", answer
    usage = answer["usage"]
    fake.script()
    r, answer = place.ask(model="demo", max_tokens=4)
    assert usage["prompt_tokens"] == answer["usage"]["prompt_tokens"] and usage["completion_tokens"] == 4


def test_after_the_first_token_there_is_no_other(place, fake):
    place.start()
    fake.script({"match": {"profile": "openai"}, "do": {"tokens": 50, "cut": {"how": "reset", "after_event": 6}}})
    r, data = place.ask(model=f"openai/{MODEL}", models=[f"groq/{MODEL}"], stream=True)
    assert b"[DONE]" not in data and b'"error":' in data
    assert len(place.settled(1)) == 1
    assert place.rows(ASKED) == [(1, "openai", "cut")]


@pytest.mark.parametrize("stream", [False, True])
def test_the_role_is_no_content(place, fake, stream):
    """Its chunk comes at once, with a fingerprint, before there is anything of the answer."""
    place.start()
    fake.script({"match": {"profile": "openai"}, "do": {"tokens": 50, "cut": {"how": "reset", "after_event": 1}}})
    r, answer = place.ask(model=f"openai/{MODEL}", models=[f"lab/{MODEL}"], stream=stream)
    assert r.status == 200 and served(r) == f"lab/{MODEL}", answer
    place.settled(1)
    assert place.rows(ASKED) == [(1, "openai", "failed"), (2, "lab", "served")]


def test_the_callers_fault_is_nobody_elses(place, fake):
    place.start()
    fake.script({"match": {"profile": "openai"}, "do": {"status": 400, "body": {"error": {"message": "bad thing", "type": "invalid_request_error", "param": "x"}}}})
    r, answer = place.ask(model=f"openai/{MODEL}", models=[f"groq/{MODEL}"])
    assert r.status == 400 and "bad thing" in answer["error"]["message"]
    assert len(place.settled(1)) == 1
    assert place.rows(ASKED) == [(1, "openai", "failed")]


def test_a_third_is_not_asked(place, fake):
    place.start()
    fake.script({"status": 500, "body": "oops"})
    r, answer = place.ask(model=f"openai/{MODEL}", models=[f"groq/{MODEL}", f"lab/{MODEL}", "demo"])
    assert r.status == 502 and answer["error"]["code"] == "provider_error"
    assert [row[1:3] for row in place.settled(1)] == [("void", 0)]
    assert place.rows(ASKED) == [(1, "openai", "failed"), (2, "groq", "failed")]


def test_the_local_model_can_be_the_second(place, fake):
    place.start()
    fake.script({"status": 500, "body": "oops"})
    r, answer = place.ask(model=f"openai/{MODEL}", models=["demo"], max_tokens=4)
    assert r.status == 200 and served(r) == "local/demo", answer
    assert place.rows(ASKED) == [(1, "openai", "failed"), (2, "local/demo", "served")]


def test_a_dead_key_and_an_open_breaker_are_passed_over(place, fake):
    place.start()
    fake.script({"match": {"profile": "openai"}, "do": {"error": "bad_key"}})
    r, _ = place.ask(model=f"openai/{MODEL}", models=[f"groq/{MODEL}"])
    assert served(r) == f"groq/{MODEL}"
    r, _ = place.ask(model=f"openai/{MODEL}", models=[f"groq/{MODEL}"])
    assert f"openai/{MODEL}=key" in r.headers["x-spillway-route"]
    r, answer = place.ask(model=f"openai/{MODEL}")
    assert r.status == 503 and answer["error"]["code"] == "worker_down"
    fake.script({"match": {"profile": "gemini"}, "do": {"status": 500, "body": "oops"}})
    codes = [place.ask(model=f"gemini/{MODEL}")[0].status for _ in range(8)]
    assert codes == [502] * 8
    fake.script()
    r, _ = place.ask(model=f"gemini/{MODEL}", models=[f"groq/{MODEL}"])
    assert f"gemini/{MODEL}=breaker" in r.headers["x-spillway-route"]


# --- waiting ---


def test_a_queued_request_spills_when_its_wait_grows(place, fake):
    """It enters while the queue is short; then the engine says that a first token takes five seconds."""
    place.stand_in(f"lab/{MODEL}", "1.00")
    other = occupy(place)
    r, answer = place.ask(model="demo", seed=FakeServer.seeds["queue"])
    other.close()
    assert r.status == 200 and served(r) == f"lab/{MODEL}", answer
    assert r.headers["x-spillway-route"].startswith("queue; ")
    row = place.rows("SELECT scope, reason, state, charged FROM requests WHERE charged > 0")
    assert row == [(2, "queue", "posted", fake.ledger(1)[0]["cost_nusd"])]


def test_one_that_waits_leaves_its_queue(place, fake):
    place.stand_in(f"lab/{MODEL}", "1.00")
    place.start(FakeServer, script={"prediction": {"first_token_ms": 5000, "prompt_token_ms": 1, "side_by_side": 4}})
    r, answer = place.ask(model="demo", seed=FakeServer.seeds["queue"])  # the first: nothing is predicted yet, so it enters
    assert r.status == 200 and served(r) == f"lab/{MODEL}", answer
    assert place.rows(ASKED) == [(1, "local/demo", "failed"), (2, "lab", "served")]
    assert place.rows("SELECT scope, reason, state, charged FROM requests") == [(2, "queue", "posted", fake.ledger(1)[0]["cost_nusd"])]


def test_one_that_may_not_leave_stays(place, fake):
    place.stand_in(f"lab/{MODEL}", "0.000001")
    place.start(FakeServer, script={"prediction": {"first_token_ms": 5000, "prompt_token_ms": 1, "side_by_side": 4}})
    c, _ = place.connect(model="demo", seed=FakeServer.seeds["queue"])
    time.sleep(0.8)
    assert fake.ledger() == [] and place.rows("SELECT state FROM requests") == [("reserved",)]
    c.close()


def test_one_that_is_answered_while_it_is_about_to_leave_stays(place, fake):
    """All pool threads wait for the store, so what would be sent upstream is written only after the local answer's end, which waits for the store, too."""
    place.stand_in(f"lab/{MODEL}", "1.00")
    place.args = ("--settle-timeout", "30s")
    place.start(FakeServer)
    overflow(place)
    fake.script({"count": 1, "do": {"error": "rate_limit", "retry_after": {"form": "seconds", "s": 2}}})
    c, _ = place.connect(model=f"lab/{MODEL}", headers={"x-request-timeout-ms": "1000"})
    assert c.getresponse().status == 429  # its key rests for two seconds: that long the other one cannot leave its queue
    place.server.script(first_ms=3500, prediction={"first_token_ms": 9000, "prompt_token_ms": 1, "side_by_side": 4})
    n = len(place.server.recorded("submit"))
    c, _ = place.connect(model="demo", max_tokens=1)
    until = time.monotonic() + 5
    while len(place.server.recorded("submit")) == n:
        assert time.monotonic() < until
        time.sleep(0.01)
    lock = place.db()
    lock.execute("BEGIN IMMEDIATE")
    place.server.script()
    for i in range(4):
        h = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=30)
        h.request("POST", "/admin/models", json.dumps({"model": str(DEMO), "name": f"more{i}"}), {"authorization": f"Bearer {place.admin}", "content-type": "application/json"})
        assert h.getresponse().status in (200, 201, 202)
    time.sleep(7)
    lock.rollback()
    lock.close()
    r = c.getresponse()
    assert r.status == 200 and served(r) == "local/demo", r.read()
    place.settled(2)
    assert len(fake.ledger()) == 1 and place.rows("SELECT scope, reason FROM requests WHERE model = 'demo'") == [(0, "local_ok")]


def test_a_worker_of_two_that_dies_is_left_for_the_stand_in(place, fake):
    """The other worker is ready, and has nothing to do with the request."""
    place.stand_in(f"lab/{MODEL}", "1.00")
    place.args = ("--gpus", "0,1")
    place.start(FakeServer)
    c, _ = place.connect(model="demo", seed=FakeServer.seeds["queue"])
    until = time.monotonic() + 5
    while not place.server.recorded("submit"):
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(place.server.recorded("submit")[0]["pid"], signal.SIGKILL)
    r = c.getresponse()
    assert r.status == 200 and served(r) == f"lab/{MODEL}", r.read()
    c.close()
    assert place.rows(ASKED) == [(1, "local/demo", "failed"), (2, "lab", "served")]


def test_t50_a_model_that_cannot_be_loaded_is_stood_in_for(place, tmp_path):
    """Also when it is the only one: the server starts, and says what it is."""
    place.stand_in(f"lab/{MODEL}", "1.00")
    broken = tmp_path / "broken"
    shutil.copytree(DEMO, broken)
    weights = next(broken.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    place.config.write_text(place.config.read_text().replace(f"path: \"{DEMO}\"", f"path: \"{broken}\""))
    place.start()
    assert place.server.log_has(weights.name) and place.server.log_has("its stand-ins answer")
    r, answer = place.ask(model="demo")
    assert r.status == 200 and served(r) == f"lab/{MODEL}" and r.headers["x-spillway-route"].startswith("down; "), answer
    h = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=30)
    h.request("GET", "/readyz")
    ready = h.getresponse()
    assert ready.status == 200 and b"could not be loaded: its stand-ins answer" in ready.read()
    assert place.ask(model="demo:local")[0].status in (404, 503)


def test_a_gateway_without_a_local_model_is_ready(place):
    place.args = ("--no-model",)
    place.start()
    h = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=30)
    h.request("GET", "/readyz")
    assert h.getresponse().status == 200


# --- money ---


def test_what_a_local_model_serves_after_all_is_not_hosted_work(place, fake):
    place.start()
    place.budget(5, scope="hosted", unit="requests")
    fake.script({"status": 500, "body": "oops"})
    r, answer = place.ask(model=f"openai/{MODEL}", models=["demo"], max_tokens=4)
    assert r.status == 200 and served(r) == "local/demo", answer
    place.settled(1)
    assert place.rows("SELECT scope, state FROM requests") == [(0, "posted")]
    assert place.rows("SELECT posted, pending FROM budget_windows") == [(0, 0)]


def test_a_move_is_held_to_the_tokens_of_hosted_budgets(place, fake):
    """It holds as many tokens there as if it had begun there."""
    place.stand_in(f"lab/{MODEL}", "1.00")
    place.start(FakeServer, script={"prediction": {"first_token_ms": 5000, "prompt_token_ms": 1, "side_by_side": 4}})
    place.budget(50, scope="hosted", unit="tokens", period="minute")
    c, _ = place.connect(model="demo", seed=FakeServer.seeds["queue"])  # 64 tokens of answer
    time.sleep(1)
    assert fake.ledger() == [] and place.rows("SELECT scope, state FROM requests") == [(0, "reserved")]
    c.close()


def test_a_hosted_budget_that_ends_mid_run_goes_local(place, fake):
    configure(place, models=demo(f"    takes_over: lab/{MODEL}\n"))
    place.start()
    r, _ = place.ask(model=f"lab/{MODEL}")
    assert served(r) == f"lab/{MODEL}"
    spent = place.settled(1)[0][2]
    place.budget(2 * spent, scope="hosted")
    r, answer = place.ask(model=f"lab/{MODEL}", max_tokens=4)
    by = [served(r)]
    while by[-1] == f"lab/{MODEL}" and len(by) < 50:
        r, answer = place.ask(model=f"lab/{MODEL}", max_tokens=4)
        by.append(served(r))
    assert r.status == 200 and by[-1] == "local/demo", (by, answer)
    assert r.headers["x-spillway-route"].startswith("budget; ")
    assert sum(t["cost_nusd"] for t in fake.ledger()) - spent <= 2 * spent


def test_a_list_goes_on_where_the_budget_is_not_enough(place):
    place.start()
    place.budget(1000, scope="hosted")
    r, answer = place.ask(model=f"lab/{MODEL}", models=["demo"], max_tokens=4)
    assert r.status == 200 and served(r) == "local/demo", answer
    assert len(place.settled(1)) == 1


def test_a_restart_opens_no_new_hour(place, fake):
    place.stand_in(f"lab/{MODEL}", "0.0002")
    c = occupy(place)
    r, _ = place.ask(model="demo")
    assert served(r) == f"lab/{MODEL}"
    spent = fake.ledger(1)[0]["cost_nusd"]
    c.close()
    place.server.stop()
    place.write("UPDATE requests SET charged = 150000 WHERE charged = ?", spent)  # as if more had gone over before
    c = occupy(place)
    c2, _ = place.connect(model="demo", max_tokens=64)
    time.sleep(0.5)
    assert len(fake.ledger()) == 1
    c2.close()
    c.close()
    place.server.stop()
    place.write("UPDATE requests SET charged = ? WHERE charged = 150000", spent)  # its transfers are what they were
    place.start(FakeServer)


# --- read again ---


def hup(place, text=None, within_s=10):
    """True: the log says that it was taken over."""
    n = len([line for line in place.server.lines if "reload: done" in line or "reload: nothing is changed" in line])
    if text is not None:
        place.config.write_text(text)
    place.server.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + within_s
    while True:
        said = [line for line in place.server.lines if "reload: done" in line or "reload: nothing is changed" in line]
        if len(said) > n:
            return "reload: done" in said[-1]
        assert time.monotonic() < until, "".join(place.server.lines)
        time.sleep(0.01)


def test_providers_aliases_and_stand_ins_are_read_again(place, fake):
    configure(place, models=demo())
    place.start(FakeServer, script={"prediction": {"first_token_ms": 5000, "prompt_token_ms": 1, "side_by_side": 4}})
    text = place.config.read_text()
    assert place.ask(model="chat")[0].status == 404
    more = f"aliases: [{{name: chat, routes: groq/{MODEL}}}]\noverflow_usd_per_hour: \"1.00\"\n"
    assert hup(place, text.replace("    name: demo\n", f"    name: demo\n    stand_ins: lab/{MODEL}\n") + more)
    assert served(place.ask(model="chat")[0]) == f"groq/{MODEL}"
    r, _ = place.ask(model="demo", seed=FakeServer.seeds["queue"])
    assert served(r) == f"lab/{MODEL}"
    gone = text[:text.index("  - provider: groq")] + text[text.index("  - provider: openai-compatible"):]
    assert hup(place, gone)
    assert place.ask(model=f"groq/{MODEL}")[0].status == 404 and served(place.ask(model=f"lab/{MODEL}")[0]) == f"lab/{MODEL}"


def test_a_model_is_not_loaded_under_an_aliass_name(place):
    """Else nothing could be read again, nor put back, as long as it is there."""
    configure(place, aliases=f"aliases:\n  - name: chat\n    routes: \"groq/{MODEL}\"\n")
    place.start()
    overflow(place)
    h = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=30)
    h.request("POST", "/admin/models", json.dumps({"model": str(DEMO), "name": "chat"}), {"authorization": f"Bearer {place.admin}", "content-type": "application/json"})
    r = h.getresponse()
    answer = json.loads(r.read())
    assert r.status == 400 and answer["error"]["param"] == "name", answer


def test_what_cannot_be_read_again_changes_nothing(place):
    place.start()
    text = place.config.read_text()
    assert not hup(place, text + "aliases: [{name: chat, routes: nobody/x}]\n")
    assert not hup(place, text + "  - provider: deepinfra\n")
    assert place.ask(model="chat")[0].status == 404 and served(place.ask(model=f"lab/{MODEL}")[0]) == f"lab/{MODEL}"


def test_what_was_in_force_is_put_back_though_its_model_is_gone(place, tmp_path):
    """An alias leads to a model that was unloaded since; the new configuration has none, and a key that the store does not take."""
    key = tmp_path / "key"
    key.write_text("sk-the-first-key-of-all\n")
    place.key = key.read_text().strip()
    configure(place, aliases=f"aliases:\n  - name: chat\n    routes: \"demo, groq/{MODEL}\"\n", more=f"api_key_file: \"{key}\"\n")
    place.start()
    overflow(place)
    h = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=30)
    h.request("DELETE", "/admin/models/demo", headers={"authorization": f"Bearer {place.admin}"})
    assert h.getresponse().status in (200, 202, 204)
    place.config.write_text(place.config.read_text().replace("name: chat", "name: talk").replace("demo, groq", "groq"))
    key.write_text("sk-another-key-is-there\n")
    lock = place.db()
    lock.execute("BEGIN IMMEDIATE")
    place.server.process.send_signal(signal.SIGHUP)
    assert place.server.log_has("reload: nothing is changed", 20), place.server.lines[-5:]
    lock.rollback()
    lock.close()
    r, answer = place.ask(model="chat")
    assert r.status == 200 and served(r) == f"groq/{MODEL}", answer


def test_a_dead_key_lives_again_when_its_file_has_another(place, fake, tmp_path):
    key = tmp_path / "key"
    key.write_text("key-one\n")
    key.chmod(0o600)
    text = place.config.read_text().replace("    name: openai\n", f"    name: openai\n    key_file: \"{key}\"\n", 1)
    first = text.index("    key_env: PROVIDER_KEY\n")
    place.config.write_text(text[:first] + text[first + len("    key_env: PROVIDER_KEY\n"):])
    place.start()
    fake.script({"match": {"key": "key-one", "profile": "openai"}, "do": {"error": "bad_key"}})
    assert place.ask(model=f"openai/{MODEL}")[0].status == 502 and place.ask(model=f"openai/{MODEL}")[0].status == 503
    key.write_text("key-two\n")
    assert hup(place)
    r, answer = place.ask(model=f"openai/{MODEL}")
    assert r.status == 200, answer


def test_an_alias_of_a_model_that_was_unloaded_is_no_mistake(place):
    configure(place, models=demo(), aliases=f"aliases:\n  - name: chat\n    routes: \"demo, lab/{MODEL}\"\n")
    place.start()
    admin = subprocess.run([BIN, "keys", "add", "ops", "--admin", "--data", place.data], capture_output=True, text=True, check=True).stdout.split()[-1]
    until = time.monotonic() + 10
    while True:
        h = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=30)
        h.request("DELETE", "/admin/models/demo", headers={"authorization": f"Bearer {admin}"})
        if h.getresponse().status in (200, 202):
            break
        assert time.monotonic() < until
        time.sleep(0.1)
    assert hup(place)
    assert served(place.ask(model="chat")[0]) == f"lab/{MODEL}"


def test_requests_under_way_keep_what_they_began_with(place, fake):
    place.start()
    text = place.config.read_text()
    fake.script({"tokens": 200, "delay_event_ms": 10})
    c, r = place.open(model=f"lab/{MODEL}", stream=True, max_tokens=256)
    r.read(500)
    for i in range(5):
        assert hup(place, text + f"aliases: [{{name: chat{i}, routes: lab/{MODEL}}}]\n")
    assert hup(place, text[:text.index("  - provider: groq")])
    data = r.read()
    c.close()
    assert data.endswith(b"data: [DONE]\n\n")
    (row,) = place.settled(1)
    assert row[1] == "posted" and row[2] == fake.ledger(1)[0]["cost_nusd"]


# --- sessions ---


def test_a_session_stays_where_its_prompt_is(place):
    configure(place, aliases=f"aliases:\n  - name: chat\n    routes: \"anthropic/{MODEL} | openai/{MODEL}\"\n    policy: weighted\n")
    place.start()
    for i in range(6):
        by = {served(place.ask(model="chat", prompt_cache_key=f"s{i}", max_tokens=1)[0]) for _ in range(6)}
        assert len(by) == 1, by


# --- what operators see ---


def overflow(place):
    """What operators are told of it."""
    if not hasattr(place, "admin"):
        place.admin = subprocess.run([BIN, "keys", "add", "ops", "--admin", "--data", place.data], capture_output=True, text=True, check=True).stdout.split()[-1]
    h, until = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=30), time.monotonic() + 10
    while True:
        h.request("GET", "/admin/routing", headers={"authorization": f"Bearer {place.admin}"})
        r = h.getresponse()
        told = r.read()
        if r.status == 200:
            return json.loads(told)
        assert time.monotonic() < until, told
        time.sleep(0.1)


def test_operators_see_what_overflow_came_to(place, fake):
    place.stand_in(f"lab/{MODEL}", "1.00")
    c = occupy(place)
    assert served(place.ask(model="demo")[0]) == f"lab/{MODEL}"
    c.close()
    told = overflow(place)
    cost = fake.ledger(1)[0]["cost_nusd"]
    assert {k: told["overflow"][k] for k in ("overflowed", "rescued", "cost_nusd", "over_hold", "this_hour_nusd")} == {
        "overflowed": 1, "rescued": 1, "cost_nusd": cost, "over_hold": 0, "this_hour_nusd": cost}
    assert told["overflow"]["saved_ms"] > 3000 and told["reasons"]["queue"] == 1
    lab = next(p for p in told["providers"] if p["provider"] == "lab")
    assert lab["keys"] == ["usable"] and lab["models"][0]["breaker"] == "closed" and lab["models"][0]["first_token_ms"] > 0


def test_who_leaves_while_the_end_is_written_costs_the_hour_no_more(place, fake):
    """The client has the last chunk of its text, and does not wait for the usage behind it."""
    place.stand_in(f"lab/{MODEL}", "1.00")
    c = occupy(place)
    fake.script({"tokens": 8, "delay_event_ms": 40})
    lock = place.db()
    s, r = place.open(model="demo", stream=True)
    r.read(10)
    lock.execute("BEGIN IMMEDIATE")
    while b'"finish_reason":"' not in r.readline():
        pass
    s.close()
    r.close()
    time.sleep(0.3)
    lock.rollback()
    lock.close()
    c.close()
    place.settled(3)
    told, cost = overflow(place)["overflow"], fake.ledger(1)[0]["cost_nusd"]
    assert {k: told[k] for k in ("overflowed", "rescued", "cost_nusd", "this_hour_nusd")} == {"overflowed": 1, "rescued": 1, "cost_nusd": cost, "this_hour_nusd": cost}


def test_who_leaves_a_provider_that_reads_on_costs_the_hour_what_it_came_to(place, fake):
    place.stand_in(f"groq/{MODEL}", "1.00")
    c = occupy(place)
    fake.script({"tokens": 60, "delay_event_ms": 10})
    s, r = place.open(model="demo", stream=True)
    assert served(r) == f"groq/{MODEL}"
    r.read(1500)
    s.close()
    r.close()
    c.close()
    place.settled(3)
    told, cost = overflow(place)["overflow"], fake.ledger(1)[0]["cost_nusd"]
    assert {k: told[k] for k in ("overflowed", "rescued", "cost_nusd", "this_hour_nusd")} == {"overflowed": 1, "rescued": 0, "cost_nusd": cost, "this_hour_nusd": cost}


# --- the dry run ---


def test_the_dry_run_tells_and_does_nothing(place, fake):
    place.stand_in(f"lab/{MODEL}", "1.00")
    place.start()
    r, answer = dry(place, model="demo", models=[f"groq/{MODEL}"])
    assert r.status == 200 and answer["object"] == "route" and answer["served_by"] == "local/demo" and answer["action"] == "run"
    assert reasons(answer) == {"local/demo": "chosen", f"lab/{MODEL}": "later", f"groq/{MODEL}": "later"}
    hosted = [c for c in answer["candidates"] if c["kind"] == "hosted"]
    assert all(0 < c["cost_nusd"] <= c["hold_nusd"] for c in hosted)
    r, answer = dry(place, headers={"x-spillway-local-only": "true"}, model=f"lab/{MODEL}")
    assert r.status == 200 and answer["action"] == "refuse" and answer["error"]["status"] == 403
    r, answer = dry(place, model="nobody")
    assert r.status == 404
    assert fake.ledger() == [] and place.rows("SELECT count(*) FROM requests") == [(0,)]
