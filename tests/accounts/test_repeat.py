"""Requests that come again under one Idempotency-Key (FAULTS B8, T75), what they are tagged with, and what they are told of limits: over HTTP, on
SQLite and on PostgreSQL. SPILLWAY_FAULT=long: T75 with its 10,000 keys."""
import http.client
import json
import signal
import subprocess
import threading
import time
import urllib.parse

import openai
import pytest
from test_charges import BIN, DEMO, MODEL, Place, Server, fake, prices  # noqa: F401
from test_two_gateways import Shared, pair, store  # noqa: F401

BODY = {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 64}


class Alone(Place):
    def accounts(self, *args):
        r = subprocess.run([BIN, "accounts", *map(str, args), "--data", self.data], capture_output=True, text=True, timeout=30)
        assert r.returncode == 0, r.stderr
        return r.stdout


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path, fake):  # noqa: F811
    fake.reset()
    if request.param == "sqlite":
        p = Alone(tmp_path, fake)
    else:
        p = Shared(tmp_path, fake, request.getfixturevalue("store"))
        p.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    p.start()
    yield p
    p.settled(0)
    p.check()
    p.server.stop()


class Answer:
    def __init__(self, r):
        self.status, self.headers, self.bytes = r.status, r.headers, r.read()

    @property
    def json(self):
        return json.loads(self.bytes)

    @property
    def replayed(self):
        return self.headers.get("idempotent-replayed") == "true"

    @property
    def error(self):
        return self.status, self.json["error"]["code"]


def ask(place, key=None, model=f"lab/{MODEL}", api_key=None, body=None, **more):
    """key: the Idempotency-Key."""
    headers = {"authorization": f"Bearer {api_key or place.key}", **({"idempotency-key": key} if key is not None else {})}
    c = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=60)
    c.request("POST", "/v1/chat/completions", body or json.dumps({"model": model, **BODY, **more}), headers)
    answer = Answer(c.getresponse())
    c.close()
    return answer


def wait_for(what, within_s=10):
    until = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def at_once(n, do):
    """do(i) in n threads at the same moment."""
    gate, answers = threading.Barrier(n), [None] * n

    def run(i):
        gate.wait()
        answers[i] = do(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    return answers


# --- B8: what was finished ---

@pytest.mark.parametrize("model", [f"lab/{MODEL}", "demo"])
def test_b8_a_finished_answer_is_given_again_byte_for_byte(place, fake, model):  # noqa: F811
    place.accounts("storage", 2, "on")
    first = ask(place, "k1", model=model)
    again = ask(place, "k1", model=model)
    assert (first.status, first.replayed, again.status, again.replayed) == (200, False, 200, True)
    assert again.bytes == first.bytes
    for name in ("content-type", "x-spillway-served-by", "x-spillway-route", "x-spillway-cost-nusd"):
        assert again.headers[name] == first.headers[name]
    ((_, state, charged, *_),) = place.settled(1)
    assert state == "posted" and charged == int(first.headers["x-spillway-cost-nusd"]) == first.json["usage"]["cost_nusd"]
    assert len(fake.ledger()) == (model != "demo")


def test_b8_nothing_is_kept_until_the_project_says_so(place, fake):  # noqa: F811
    first = ask(place, "k1")
    again = ask(place, "k1")
    assert again.error == (409, "already_done") and again.headers["x-should-retry"] == "false"
    assert again.json["error"]["request"] == {"id": first.json["id"], "outcome": "whole", "estimated": False, "usage": first.json["usage"]}
    assert place.rows("SELECT count(*) FROM idempotency WHERE answer IS NOT NULL") == [(0,)] and len(fake.ledger()) == 1


@pytest.mark.parametrize("model", [f"lab/{MODEL}", "demo"])
def test_b8_a_stream_is_told_what_it_came_to(place, model):
    place.accounts("storage", 2, "on")
    first = ask(place, "k1", model=model, stream=True, stream_options={"include_usage": True})
    chunks = [json.loads(line[6:]) for line in first.bytes.decode().splitlines() if line.startswith("data: {")]
    again = ask(place, "k1", model=model, stream=True, stream_options={"include_usage": True})
    assert again.error == (409, "already_done")
    assert again.json["error"]["request"] == {"id": chunks[0]["id"], "outcome": "whole", "estimated": False, "usage": chunks[-1]["usage"]}


def test_b8_an_answer_of_more_than_a_megabyte_is_not_kept(tmp_path, fake):  # noqa: F811
    fake.reset()
    p = Alone(tmp_path, fake)
    path = prices(tmp_path, "lab")
    path.write_text(path.read_text().replace("32000", "900000").replace("4096", "400000"))
    p.start()
    p.accounts("storage", 2, "on")
    for name, n, kept in (("small", 160_000, True), ("large", 170_000, False)):  # six bytes each in JSON
        fake.script({"text": "\x01" * n})
        first = ask(p, name, max_tokens=200_000)
        assert first.status == 200 and (len(first.bytes) <= 1_000_000) == kept, len(first.bytes)
        assert ask(p, name, max_tokens=200_000).replayed == kept
    p.check()
    p.server.stop()


def test_b8_a_charge_that_its_hold_has_bounded_is_told_twice_alike(place, fake):  # noqa: F811
    place.accounts("storage", 2, "on")
    fake.script({"usage": {"factor": 100000}})
    first, again = ask(place, "k1"), ask(place, "k1")
    ((_, _, charged, reserved, *_),) = place.settled(1)
    assert again.replayed and again.bytes == first.bytes and charged == reserved == again.json["usage"]["cost_nusd"]


def test_b8_a_local_answer_whose_hold_grew_is_told_twice_alike(place):
    place.accounts("storage", 2, "on")
    place.accounts("price", "set", "local", "demo", "--input", "1", "--output", "2")
    place.accounts("deposit", 2, 10)
    place.accounts("prepaid", 2, 0)
    wait_for(lambda: ask(place, model="demo").json["usage"]["cost_nusd"] > 0)
    body = {"model": "demo", "max_tokens": 700, "ignore_eos": True}
    first, again = ask(place, "k1", **body), ask(place, "k1", **body)
    assert first.status == 200 and again.replayed and again.bytes == first.bytes
    charged, extended = place.rows("SELECT r.charged, a.extended FROM requests r JOIN attempts a ON a.request = r.id WHERE r.id = (SELECT max(id) FROM requests)")[0]
    assert charged == again.json["usage"]["cost_nusd"] == int(again.headers["x-spillway-cost-nusd"]) and extended > 0


def test_b8_a_client_that_leaves_is_told_what_it_came_to(place, fake):  # noqa: F811
    place.accounts("storage", 2, "on")
    fake.script({"tokens": 200, "delay_event_ms": 5})
    headers = {"authorization": f"Bearer {place.key}", "idempotency-key": "k1"}
    body = json.dumps({"model": f"lab/{MODEL}", **BODY})
    c = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=30)
    c.request("POST", "/v1/chat/completions", body, headers)
    wait_for(lambda: fake.requests())
    time.sleep(0.1)
    c.sock.close()
    ((_, _, charged, _, estimated, outcome),) = place.settled(1)
    again = ask(place, "k1", body=body)
    assert again.error == (409, "already_done") and outcome == "cut" and charged > 0
    told = again.json["error"]["request"]
    assert (told["outcome"], told["estimated"], told["usage"]["cost_nusd"]) == ("cut", estimated == 1, charged)


def test_b8_another_body_is_a_mistake(place, fake):  # noqa: F811
    place.accounts("storage", 2, "on")
    assert ask(place, "k1").status == 200
    assert ask(place, "k1", temperature=0.5).error == (422, "idempotency_mismatch")
    assert len(fake.ledger()) == 1


def test_b8_while_it_is_under_way_its_repetition_is_to_wait(place, fake):  # noqa: F811
    place.accounts("storage", 2, "on")
    fake.script({"delay_head_ms": 1500})
    first = []
    t = threading.Thread(target=lambda: first.append(ask(place, "k1")))
    t.start()
    wait_for(lambda: place.rows("SELECT 1 FROM requests"))
    again = ask(place, "k1")
    assert again.error == (409, "idempotency_in_flight") and again.headers["retry-after"] == "1" and "x-should-retry" not in again.headers
    t.join()
    assert ask(place, "k1").bytes == first[0].bytes


def test_b8_openais_client_waits_and_gets_the_first_answer(place, fake):  # noqa: F811
    place.accounts("storage", 2, "on")
    fake.script({"delay_head_ms": 1000})
    client = openai.OpenAI(api_key=place.key, base_url=place.server.url + "/v1", max_retries=5)
    answers = at_once(2, lambda i: client.chat.completions.create(model=f"lab/{MODEL}", extra_headers={"Idempotency-Key": "k1"}, **BODY))
    assert answers[0].id == answers[1].id and len(fake.ledger()) == 1


def test_b8_what_failed_may_come_again(place, fake):  # noqa: F811
    fake.script({"do": {"status": 400, "body": "no"}, "count": 1})
    assert ask(place, "k1").status == 400
    assert ask(place, "k1").status == 200


def test_b8_a_repetition_needs_no_money(place):
    place.accounts("storage", 2, "on")
    first = ask(place, "k1")
    place.accounts("deposit", 2, f"{first.json['usage']['cost_nusd'] / 1e9:.9f}")
    place.accounts("prepaid", 2, 0)
    assert ask(place, "k2").status == 402
    assert ask(place, "k1").bytes == first.bytes


def test_b8_a_key_belongs_to_its_api_key(place, fake):  # noqa: F811
    place.accounts("storage", 2, "on")
    command = [BIN, "keys", "add", "other", "--data", place.data] + (["--store", place.store.url] if isinstance(place, Shared) else [])
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    first = ask(place, "k1")
    wait_for(lambda: ask(place, "x", api_key=other).status == 200)
    mine = ask(place, "k1", api_key=other)
    assert mine.status == 200 and not mine.replayed and mine.json["id"] != first.json["id"]


def test_b8_storage_that_is_switched_off_forgets(place):
    place.accounts("storage", 2, "on")
    ask(place, "k1")
    assert place.rows("SELECT count(*) FROM idempotency WHERE answer IS NOT NULL") == [(1,)]
    place.accounts("storage", 2, "off")
    assert place.rows("SELECT count(*) FROM idempotency WHERE answer IS NOT NULL") == [(0,)]
    assert ask(place, "k1").error == (409, "already_done")


def test_b8_a_kept_answer_cannot_be_read_in_the_store(tmp_path, fake):  # noqa: F811
    fake.reset()
    p = Alone(tmp_path, fake)
    p.start()
    p.accounts("storage", 2, "on")
    fake.script({"text": "a very secret word"})
    assert b"a very secret word" in ask(p, "my-own-key").bytes and ask(p, "my-own-key").replayed
    p.server.stop()
    everything = b"".join(f.read_bytes() for f in p.data.iterdir() if f.name.startswith("accounts.db"))
    assert b"secret word" not in everything and b"my-own-key" not in everything
    assert "secret word" not in p.accounts("export", "requests", "--json")


@pytest.mark.parametrize("damage", ["UPDATE idempotency SET answer = substr(answer, 1, 30)", "UPDATE idempotency SET answer = zeroblob(length(answer))",
                                    "UPDATE idempotency SET answer = (SELECT answer FROM idempotency j WHERE j.request <> idempotency.request)"])
def test_b8_an_answer_that_was_changed_is_not_given(tmp_path, fake, damage):  # noqa: F811
    fake.reset()
    p = Alone(tmp_path, fake)
    p.start()
    p.accounts("storage", 2, "on")
    ask(p, "k1"), ask(p, "k2")
    p.write(damage)
    assert ask(p, "k1").error == (409, "already_done") and p.server.log_has("cannot be given again")
    p.server.stop()


def test_b8_after_a_day_a_key_is_new(place, fake):  # noqa: F811
    place.accounts("storage", 2, "on")
    first = ask(place, "k1")
    sql = "UPDATE idempotency SET expires_ms = expires_ms - 86400000"
    place.rows(sql) if isinstance(place, Shared) else place.write(sql)
    again = ask(place, "k1")
    assert again.status == 200 and not again.replayed and again.json["id"] != first.json["id"] and len(fake.ledger()) == 2


@pytest.mark.parametrize("key", ["", "k" * 256, "two words", "k\u00e9y"])
def test_b8_what_is_no_key_is_refused(place, key):
    r = ask(place, key)
    assert r.error == (400, "invalid_value") and r.json["error"]["param"] == "Idempotency-Key"


def test_b8_the_longest_key_is_one(place):
    key = "".join(chr(33 + i % 94) for i in range(255))
    assert ask(place, key).status == 200
    assert ask(place, key).error == (409, "already_done")


def test_b8_without_accounts_a_key_means_nothing():
    s = Server(DEMO, "--no-auth", "--name", "demo")

    class Here:
        host, key = urllib.parse.urlsplit(s.url), "none"

    try:
        assert [ask(Here, "k1", model="demo", max_tokens=2).status for _ in range(2)] == [200, 200]
        assert ask(Here, "", model="demo").error == (400, "invalid_value")
    finally:
        s.stop()


# --- T75 ---

@pytest.mark.parametrize("model", [f"lab/{MODEL}", "demo"])
def test_t75_of_32_at_once_one_is_done(place, fake, model):  # noqa: F811
    place.accounts("storage", 2, "on")
    answers = at_once(32, lambda i: ask(place, "k1", model=model))
    new = [a for a in answers if a.status == 200 and not a.replayed]
    assert len(new) == 1
    assert all(a.bytes == new[0].bytes if a.status == 200 else a.error == (409, "idempotency_in_flight") for a in answers)
    assert len(place.settled(1)) == 1 and len(fake.ledger()) == (model != "demo")


def test_t75_of_32_at_two_gateways_one_is_done(pair, fake):  # noqa: F811
    a, b = pair
    a.accounts("storage", 2, "on")
    answers = at_once(32, lambda i: ask(pair[i % 2], "k1"))
    assert sum(x.status == 200 and not x.replayed for x in answers) == 1
    assert ask(a, "k1").bytes == ask(b, "k1").bytes  # whoever has served it
    assert len(a.settled(1)) == 1 and len(fake.ledger()) == 1


def kill(place):
    place.server.process.send_signal(signal.SIGKILL)
    place.server.process.wait()
    place.start()


def recovered(place):
    """On PostgreSQL others may be alive, so what is open is ended after its deadline only: it is put into the past."""
    if isinstance(place, Shared):
        place.rows("UPDATE requests SET deadline_ms = created_ms - 100000 WHERE state = 'reserved'")
    return place.settled(1, within_s=30)


def test_t75_after_a_crash_the_answer_is_there(place, fake):  # noqa: F811
    place.accounts("storage", 2, "on")
    first = ask(place, "k1")
    kill(place)
    again = ask(place, "k1")
    assert again.replayed and again.bytes == first.bytes and len(fake.ledger()) == 1


def test_t75_what_a_crash_has_cut_is_told_as_it_was_booked(place, fake):  # noqa: F811
    fake.script({"delay_head_ms": 3000})

    def cut():
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(place, "k1")

    t = threading.Thread(target=cut)
    t.start()
    wait_for(lambda: fake.requests())
    kill(place)
    t.join()
    ((_, state, charged, _, estimated, outcome),) = recovered(place)
    again = ask(place, "k1")
    told = again.json["error"]["request"]
    assert again.error == (409, "already_done") and (told["outcome"], told["estimated"]) == ("recovered", True) == (outcome, estimated == 1)
    assert told["usage"]["cost_nusd"] == charged and state == "posted"
    assert len(fake.requests()) == 1


def test_t75_killed_at_any_moment_a_key_is_charged_once(place, fake):  # noqa: F811
    """Over kills at moments that differ. A key whose request is open still is left until it is recovered."""
    place.accounts("storage", 2, "on")
    fake.script({"tokens": 20, "delay_event_ms": 2})
    ends = {}

    def client(i):
        n = 0
        while not stop.is_set():
            try:
                a = ask(place, f"{i}-{n}")
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
                continue
            if a.status == 200 or a.error == (409, "already_done"):
                ends[f"{i}-{n}"] = a
            n += 1

    stop = threading.Event()
    threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for round in range(3):
        time.sleep(0.3 + 0.17 * round)
        kill(place)
    time.sleep(0.5)
    stop.set()
    for t in threads:
        t.join(60)
    recovered(place)
    assert len(ends) > 8
    for key, a in ends.items():
        again = ask(place, key)
        assert again.bytes == a.bytes if a.status == 200 else again.json["error"]["request"] == a.json["error"]["request"], key
    n_keys, n_requests = place.rows("SELECT count(*), count(DISTINCT request) FROM idempotency")[0]
    assert n_keys == n_requests >= len(ends)  # a key, a request: what was void has given its key back


def test_t75_each_of_many_keys_is_charged_once(place, fake, size):  # noqa: F811
    place.accounts("storage", 2, "on")
    n, n_threads, wrong = size(100, 10_000), 16, []

    def client(i):
        c = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=60)
        for k in range(i, n, n_threads):
            answers = []
            for _ in range(2):
                c.request("POST", "/v1/chat/completions", json.dumps({"model": f"lab/{MODEL}", **BODY}),
                          {"authorization": f"Bearer {place.key}", "idempotency-key": f"key-{k}"})
                answers.append(Answer(c.getresponse()))
            if answers[0].status != 200 or not answers[1].replayed or answers[0].bytes != answers[1].bytes:
                wrong.append((k, [a.bytes for a in answers]))

    at_once(n_threads, client)
    assert not wrong
    assert place.rows("SELECT count(*), count(DISTINCT request) FROM transfers WHERE kind = 'sale'") == [(n, n)]
    assert len(fake.ledger()) == n


# --- tags ---

@pytest.mark.parametrize("model", [f"lab/{MODEL}", "demo"])
@pytest.mark.parametrize("stream", [False, True])
def test_metadata_are_tags_that_usage_is_summed_by(place, model, stream):
    for team in ("a", "b", "a"):
        assert ask(place, model=model, stream=stream, metadata={"team": team, "run": "7"}).status == 200
    charged = {i: row[2] for i, row in enumerate(place.settled(3))}
    rows = json.loads(place.accounts("usage", "--by", "tag", "--json"))
    found = {(r["tag"], r["value"]): r["requests"] for r in rows}
    assert found == {("team", "a"): 2, ("team", "b"): 1, ("run", "7"): 3}
    assert place.rows("SELECT sale FROM usage_tags WHERE tag = 'run'") == [(sum(charged.values()),)]


def test_the_longest_metadata_are_kept_whole(place):
    tags = {chr(0x1F600 + i) + "k" * 63: "".join(chr(0x10000 + (i * 7919 + j * 104729) % 60000) for j in range(512)) for i in range(16)}
    assert ask(place, metadata=tags).status == 200
    place.settled(1)
    assert {r["tag"]: r["value"] for r in json.loads(place.accounts("usage", "--by", "tag", "--json"))} == tags


@pytest.mark.parametrize("model", [f"lab/{MODEL}", "demo"])
@pytest.mark.parametrize("wrong", [{"a": 1}, [], "x", {"k" * 65: "v"}, {"k": "v" * 513}, {str(i): "v" for i in range(17)}, {"k": "a\0b"}])
def test_what_is_no_metadata_is_refused(place, model, wrong):
    r = ask(place, model=model, metadata=wrong)
    assert r.error == (400, "invalid_value") and r.json["error"]["param"] == "metadata"


def test_metadata_go_to_openai_only_with_what_it_stores(place, fake):  # noqa: F811
    ask(place, model=f"openai/{MODEL}", metadata={"team": "a"})
    ask(place, model=f"openai/{MODEL}", metadata={"team": "a"}, store=True)
    assert [json.loads(r["body"]).get("metadata") if isinstance(r["body"], str) else r["body"].get("metadata") for r in fake.requests()] == [None, {"team": "a"}]


def organization(place, what, **query):
    command = [BIN, "keys", "add", "boss", "--admin", "--data", place.data] + (["--store", place.store.url] if isinstance(place, Shared) else [])
    if not hasattr(place, "boss"):
        place.boss = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    url = f"/v1/organization/{what}?" + urllib.parse.urlencode({"start_time": int(time.time()) - 86400, **query}, doseq=True)

    def get():
        c = http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=30)
        c.request("GET", url, headers={"authorization": f"Bearer {place.boss}"})
        return Answer(c.getresponse())

    wait_for(lambda: get().status != 401)
    return get()


def results(answer):
    assert answer.status == 200, answer.bytes
    return [r for bucket in answer.json["data"] for r in bucket["results"]]


def test_costs_are_grouped_by_provider_and_tag(place):
    charged = {(name, team): ask(place, model=f"{name}/{MODEL}", metadata={"team": team}).json["usage"]["cost_nusd"]
               for name, team in (("groq", "a"), ("lab", "a"), ("lab", "b, c"))}
    found = {r["provider"]: r["amount"]["value"] for r in results(organization(place, "costs", group_by="provider"))}
    assert found == {n: pytest.approx(sum(v for (name, _), v in charged.items() if name == n) / 1e9) for n in ("groq", "lab")}
    found = {r["tag_value"]: r["amount"]["value"] for r in results(organization(place, "costs", group_by="tag:team"))}
    assert found == {t: pytest.approx(sum(v for (_, team), v in charged.items() if team == t) / 1e9) for t in ("a", "b, c")}
    assert {r["tag_value"]: r["num_model_requests"] for r in results(organization(place, "usage/completions", group_by=["project_id", "tag:team"]))} == {"a": 2, "b, c": 1}
    assert results(organization(place, "costs", group_by="tag:nothing")) == []


@pytest.mark.parametrize("group", ["tag", "tag:", "provider,tag:team", "tag:" + "x" * 300])
def test_groups_that_cannot_be_are_refused(place, group):
    r = organization(place, "costs", group_by=group)
    assert r.error == (400, "invalid_value") and r.json["error"]["param"] == "group_by"


# --- limits that are told ---

RATES = [f"x-ratelimit-{what}-{unit}" for unit in ("requests", "tokens") for what in ("limit", "remaining", "reset")]


def seconds(text):
    """Of "59.5s", "20ms", "1m0s"."""
    minutes, _, rest = text.rpartition("m") if not text.endswith("ms") else ("", "", text)
    return 60 * int(minutes or 0) + (float(rest[:-2]) / 1000 if rest.endswith("ms") else float(rest[:-1]))


def in_one_minute():
    """Windows are those of the clock: not just before one ends."""
    if time.time() % 60 > 50:
        time.sleep(60 - time.time() % 60 + 0.1)


@pytest.mark.parametrize("model", [f"lab/{MODEL}", "demo"])
@pytest.mark.parametrize("stream", [False, True])
def test_limits_are_told_as_openai_tells_them(place, model, stream):
    place.accounts("limit", 2, "--rpm", 10, "--tpm", 100000)
    in_one_minute()
    left = []
    for i in range(2):
        r = ask(place, model=model, stream=stream)
        assert (r.status, r.headers["x-ratelimit-limit-requests"], r.headers["x-ratelimit-limit-tokens"]) == (200, "10", "100000")
        assert r.headers["x-ratelimit-remaining-requests"] == str(9 - i)
        left.append(int(r.headers["x-ratelimit-remaining-tokens"]))
        assert all(0 < seconds(r.headers[f"x-ratelimit-reset-{unit}"]) <= 60 for unit in ("requests", "tokens"))
        place.settled(i + 1)
    used = place.rows("SELECT sum(coalesce(in_uncached, 0) + coalesce(out_text, 0) + coalesce(in_cache_read, 0)) FROM attempts WHERE request = (SELECT min(id) FROM requests)")[0][0]
    assert left[0] - left[1] == used  # what the first held was more


def test_a_limit_that_is_reached_is_told_with_the_429(place):
    place.accounts("limit", 2, "--rpm", 1)
    in_one_minute()
    assert ask(place).status == 200
    r = ask(place)
    assert r.error == (429, "rate_limit_exceeded") and (r.headers["x-ratelimit-limit-requests"], r.headers["x-ratelimit-remaining-requests"]) == ("1", "0")
    assert seconds(r.headers["x-ratelimit-reset-requests"]) <= int(r.headers["retry-after"])


def test_the_limit_with_the_least_left_is_told(place):
    key = place.rows("SELECT id FROM accounts WHERE kind = 'key'")[0][0]
    place.accounts("limit", 1, "--rpm", 100)
    place.accounts("limit", 2, "--rpm", 7)
    place.accounts("limit", key, "--rpm", 50)
    in_one_minute()
    r = ask(place)
    assert (r.headers["x-ratelimit-limit-requests"], r.headers["x-ratelimit-remaining-requests"]) == ("7", "6")
    place.accounts("limit", key, "--rpm", 3)
    assert ask(place).headers["x-ratelimit-limit-requests"] == "3"


def test_where_there_is_no_limit_none_is_told(place):
    place.accounts("limit", 2, "--concurrency", 5)
    place.accounts("budget", "add", 2, 1000, "--unit", "requests", "--period", "day")
    place.accounts("budget", "add", 3, 1000, "--unit", "requests", "--period", "minute")  # everybody's: it would tell of others
    r = ask(place)
    assert r.status == 200 and [name for name in RATES if name in r.headers] == []
