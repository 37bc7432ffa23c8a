"""/v1/models with hosted models and aliases: what it tells, through OpenAI's SDK, and what it says when keys and providers fail. The provider is the tests' own."""
import base64
import json
import subprocess
import pathlib
import sys
import time

import openai
import pytest
import requests

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fault"))
from fake_provider import FakeProvider  # noqa: E402
from serving import BIN, DEMO, FakeServer, LLM, Server  # noqa: E402

TIERS = [{"in_uncached": [2500, 1], "in_cache_read": [250, 1], "out_text": [15000, 1], "searches": [10000000, 1]},
         {"from": 272001, "in_uncached": [5000, 1], "out_text": [22500, 1]},
         {"tier": "flex", "in_uncached": [37501, 1000], "out_text": [7500, 1]}]
MODELS = [{"model": "fake-a", "context": 922000, "max_output": 4096, "can": ["image", "tools", "schema"], "prices": TIERS},
          {"model": "owner/name:free", "can": ["free"], "prices": [{"in_uncached": [0, 1], "out_text": [0, 1]}]},
          {"model": "quoted \"\\ é", "can": [], "prices": TIERS[:1]}]


class Place:
    """A server with these providers; lab has the region and the price table of the test."""

    def __init__(self, folder, fake, args, kind=Server, models=MODELS, **kw):
        table = folder / "lab.json"
        table.write_text(json.dumps({"format": 1, "version": "test-7", "date": "2026-11-29", "sources": [], "models": sorted(
            ({"provider": "lab", **m} for m in models), key=lambda m: m["model"].encode())}))
        config = folder / "c.yaml"
        config.write_text(f"models:\n  - path: \"{args[0]}\"\n    name: local\n    stand_ins: lab/fake-a\nproviders:\n  - provider: openai-compatible\n    name: lab\n"
                          f"    base_url: \"{fake.base('generic')}\"\n    key_env: LAB_KEY\n    region: eu-north\n    zero_retention: true\n    prices: \"{table}\"\n"
                          "  - provider: groq\n    key_env: LAB_KEY\n"
                          "aliases:\n  - name: team/chat\n    routes: \"local, lab/fake-a*3\"\n")
        self.server = kind(*([] if "data" in kw else ["--no-auth"]), "--config", config, *args[1:], env={"LAB_KEY": "key-one", **kw.pop("env", {})}, **kw)
        assert self.server.log_has("Ready in", 60), "".join(self.server.lines)
        self.client = openai.OpenAI(base_url=self.server.url + "/v1", api_key="any", max_retries=0, timeout=60)

    def told(self, name="lab/fake-a"):
        return requests.get(f"{self.server.url}/v1/models/{name}", timeout=10).json()

    def ask(self, model="lab/fake-a", content="hello", **body):
        return requests.post(self.server.url + "/v1/chat/completions", timeout=30, headers={"x-request-timeout-ms": "5000"},
                             json={"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 8, **body})

    def turns(self, name, member, value, within_s=10):
        until = time.monotonic() + within_s
        while self.told(name)[member] != value:
            assert time.monotonic() < until, self.told(name)
            time.sleep(0.02)
        return self.told(name)


@pytest.fixture(scope="module")
def provider():
    with FakeProvider() as p:
        yield p


@pytest.fixture
def fake(provider):
    provider.reset()
    return provider


@pytest.fixture(scope="module")
def place(tmp_path_factory, provider):
    """Nothing is asked of its models."""
    p = Place(tmp_path_factory.mktemp("place"), provider, [DEMO])
    yield p
    assert p.server.stop() == 0, "".join(p.server.lines)


@pytest.fixture
def own(tmp_path, fake):
    p = Place(tmp_path, fake, [DEMO])
    yield p
    assert p.server.stop() == 0, "".join(p.server.lines)


def test_the_list_has_all_that_can_be_asked_for(place):
    ids = [m.id for m in place.client.models.list()]
    assert ids[:2] == ["local", "team/chat"] and len(set(ids)) == len(ids)
    assert [i for i in ids if i.startswith("lab/")] == ["lab/fake-a", "lab/owner/name:free", "lab/quoted \"\\ é"]
    assert "groq/openai/gpt-oss-20b" in ids  # of the price book


def test_every_model_has_openais_members(place):
    for m in place.client.models.list():
        assert m.object == "model" and m.created > 1700000000 and m.owned_by


def test_what_is_told_of_a_hosted_model(place):
    m = place.client.models.retrieve("lab/fake-a").to_dict()
    assert (m["owned_by"], m["context_length"], m["max_model_len"], m["modalities"], m["state"]) == ("lab", 922000, 922000, ["text", "image"], "ready")
    s = m["spillway"]
    assert (s["provider"], s["kind"], s["region"], s["zero_retention"], s["max_output_tokens"]) == ("lab", "openai-compatible", "eu-north", True, 4096)
    assert s["can"] == ["image", "tools", "schema"] and {"chat", "stream", "tools", "image_data", "image_url", "json_schema"} <= set(s["supports"])
    assert s["breaker"] == "closed" and s["keys"] == {"usable": 1, "resting": 0, "dead": 0}


def test_what_is_not_known_is_null(place):
    m = place.told("lab/owner/name:free")
    assert m["context_length"] is None and m["spillway"]["max_output_tokens"] is None
    assert place.told("groq/openai/gpt-oss-20b")["spillway"]["region"] is None


def test_a_model_without_pictures_does_not_claim_them(place):
    m = place.told("lab/owner/name:free")
    assert m["modalities"] == ["text"] and not {"image_data", "image_url"} & set(m["spillway"]["supports"])


def test_prices_are_exact(place):
    prices = place.told()["spillway"]["prices"]
    assert prices["version"].startswith("test-7~")
    standard, long, flex = prices["tiers"]
    assert [(t["service"], t["context_from"]) for t in prices["tiers"]] == [("standard", 0), ("standard", 272001), ("flex", 0)]
    assert standard["per_million"]["in_uncached"] == {"nusd": 2_500_000_000, "usd": "2.50"}
    assert standard["per_million"]["in_cache_read"] == {"nusd": 250_000_000, "usd": "0.25"}
    assert standard["per_million"]["searches"] == {"nusd": 10_000_000_000_000, "usd": "10000.00"}
    assert long["per_million"]["out_text"] == {"nusd": 22_500_000_000, "usd": "22.50"}
    assert flex["per_million"]["in_uncached"] == {"nusd": 37_501_000, "usd": "0.037501"}


def test_a_price_that_is_not_known_is_left_out(place):
    assert "out_audio" not in place.told()["spillway"]["prices"]["tiers"][0]["per_million"]


def test_what_is_free_costs_nothing(place):
    rates = place.told("lab/owner/name:free")["spillway"]["prices"]["tiers"][0]["per_million"]
    assert rates["in_uncached"] == rates["out_text"] == {"nusd": 0, "usd": "0.00"}


def test_the_list_and_one_of_it_say_the_same(place):
    listed = {m["id"]: m for m in requests.get(place.server.url + "/v1/models", timeout=10).json()["data"]}
    for name in ("local", "team/chat", "lab/fake-a"):
        one = place.told(name)
        assert {**one, "created": 0} == {**listed[name], "created": 0}


def test_aliases_say_where_they_lead(place):
    m = place.client.models.retrieve("team/chat").to_dict()
    assert m["owned_by"] == "spillway"
    assert [r["model"] for r in m["spillway"]["routes"]] == ["local", "lab/fake-a"] and m["spillway"]["routes"][1]["weight"] == 3


def test_local_models_say_who_stands_in(place):
    m = place.told("local")
    assert (m["owned_by"], m["state"], m["spillway"]["provider"], m["spillway"]["stand_ins"]) == ("local", "ready", "local", ["lab/fake-a"])
    assert m["spillway"]["prices"]["tiers"][0]["per_million"]["out_text"] == {"nusd": 0, "usd": "0.00"}


@pytest.mark.parametrize("name", ["lab%2Ffake-a", "lab/owner%2Fname:free", "lab/owner/name%3Afree", "lab/quoted%20%22%5C%20%C3%A9"])
def test_names_may_be_escaped(place, name):
    assert place.told(name)["id"] == requests.utils.unquote(name)


@pytest.mark.parametrize("name", ["lab", "lab/", "lab/fake", "lab/fake-aa", "other/fake-a", "fake-a", "lab/fake-a/", "LAB/fake-a", "lab/fake-a:cheapest", "team"])
def test_other_names_are_not_found(place, name):
    with pytest.raises(openai.NotFoundError) as e:
        place.client.models.retrieve(name)
    assert e.value.code == "model_not_found"


def test_a_dead_key_is_told(own, fake):
    fake.script({"status": 401, "body": {"error": {"message": "no", "code": "invalid_api_key"}}})
    assert own.ask().status_code >= 400
    m = own.turns("lab/fake-a", "state", "key_dead")
    assert m["spillway"]["keys"] == {"usable": 0, "resting": 0, "dead": 1} and own.told("groq/openai/gpt-oss-20b")["state"] == "ready"


def test_a_limited_key_is_told(own, fake):
    fake.script({"status": 429, "headers": {"retry-after": "30"}, "body": {"error": {"message": "slow down"}}})
    assert own.ask().status_code >= 400
    assert own.turns("lab/fake-a", "state", "key_resting")["spillway"]["keys"] == {"usable": 0, "resting": 1, "dead": 0}


def test_an_open_breaker_is_told(own, fake):
    fake.script({"status": 500, "body": "oops"})
    for _ in range(8):
        assert own.ask().status_code >= 500
    m = own.turns("lab/fake-a", "state", "breaker_open")
    assert m["spillway"]["breaker"] == "open" and own.told("lab/owner/name:free")["state"] == "ready"  # one a model


def test_a_local_model_that_is_down_says_so(tmp_path, fake):
    p = Place(tmp_path, fake, [DEMO], kind=FakeServer)
    p.ask("local:local", seed=FakeServer.seeds["exit 139"])
    p.server.script(start="exit")  # and it does not come again
    p.ask("local:local", seed=FakeServer.seeds["exit 139"])
    p.turns("local", "state", "down", within_s=30)
    p.server.stop()


def test_hosted_models_take_pictures_that_no_local_one_would(tmp_path, fake):
    """The bound of a body where nobody takes pictures, 1 MiB, is not theirs."""
    p = Place(tmp_path, fake, [LLM])
    noise = base64.b64encode(bytes(range(256)) * 8192).decode()  # 2 MiB
    r = p.ask(content=[{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64," + noise}}])
    assert r.status_code != 413, r.text
    assert noise[:100] in json.dumps(fake.requests()[-1])
    p.server.stop()


@pytest.fixture(scope="module")
def ruled(tmp_path_factory, provider):
    """A server whose keys have accounts: ruled(seen, *rules) sets the project's and waits until its key sees those of what is here and of lab."""
    folder = tmp_path_factory.mktemp("ruled")
    p = Place(folder, provider, [DEMO], data=folder / "data", env={"SPILLWAY_API_KEY": "a-key-of-the-test"}, wait=False)
    client = openai.OpenAI(base_url=p.server.url + "/v1", api_key="a-key-of-the-test", max_retries=0, timeout=60)
    off = ["--providers", "any", "--models", "any", "--regions", "any", "--local-only", "off", "--zero-retention", "off", "--max-price-in", "any", "--max-price-out", "any"]

    def accounts(*words):
        subprocess.run([BIN, "accounts", *words, "--data", folder / "data"], check=True, capture_output=True)

    def call(seen, *rules):
        for words in filter(None, (off, rules)):
            accounts("rules", "2", *words)
        until = time.monotonic() + 10  # they are read twice a second
        while (now := [m.id for m in client.models.list() if not m.id.startswith("groq/")]) != seen:
            assert time.monotonic() < until, now
            time.sleep(0.05)
        return client
    call.accounts = accounts
    yield call
    assert p.server.stop() == 0, "".join(p.server.lines)


ALL = ["local", "team/chat", "lab/fake-a", "lab/owner/name:free", "lab/quoted \"\\ é"]


@pytest.mark.parametrize("rules, seen", [
    ([], ALL), (["--providers", "lab"], ALL), (["--providers", "groq"], ALL[:2]), (["--regions", "eu-north"], ALL), (["--regions", "us"], ALL[:2]), (["--local-only", "on"], ALL[:2]),
    (["--zero-retention", "on"], ALL), (["--models", "lab/*"], ALL[1:]), (["--models", "lab/fake-a"], ALL[1:3]), (["--models", "lab/owner*"], ALL[3:4]), (["--models", "none"], []),
    (["--max-price-in", "2.49"], ["local", "team/chat", ALL[3]]), (["--max-price-in", "2.50"], ALL), (["--max-price-out", "14.99"], ["local", "team/chat", ALL[3]])])
def test_a_key_sees_what_its_rules_allow(ruled, rules, seen):
    ruled(seen, *rules)


def test_rules_without_a_region_hide_those_of_unknown_ones(ruled):
    client = ruled(ALL, "--regions", "eu-north")
    assert not [m.id for m in client.models.list() if m.id.startswith("groq/")]


def test_what_a_key_may_not_use_is_not_there(ruled):
    client = ruled(ALL[3:4], "--models", "lab/owner*")
    for name in ("lab/fake-a", "local", "team/chat"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(name)
    assert client.models.retrieve("lab/owner/name:free").id


def prices_of(client, name):
    """Of a million tokens in and out, and whose they are."""
    prices = client.models.retrieve(name).to_dict()["spillway"]["prices"]
    rates = prices["tiers"][0]["per_million"]
    return rates["in_uncached"]["usd"], rates["out_text"]["usd"], prices["row"] is not None, prices["version"] is not None


def test_prices_are_those_that_are_charged_now(ruled):
    """The operator's in place of the book's, with the provider's mark-up; a name's own price before all."""
    client = ruled(ALL)
    assert prices_of(client, "lab/fake-a") == ("2.50", "15.00", False, True)
    ruled.accounts("price", "set", "lab", "fake-a", "--input", "1.00", "--output", "2.00")
    ruled.accounts("price", "set", "local", "local", "--input", "0.10", "--output", "0.40")
    ruled.accounts("price", "set", "sale", "lab/owner/name:free", "--input", "3", "--output", "4")
    ruled.accounts("price", "markup", "lab", "12.5")
    want = {"lab/fake-a": ("1.125", "2.25", True, False), "local": ("0.10", "0.40", True, False), "lab/owner/name:free": ("3.00", "4.00", True, False),
            ALL[4]: ("2.8125", "16.875", False, True)}
    until = time.monotonic() + 10
    while (now := {name: prices_of(client, name) for name in want}) != want:
        assert time.monotonic() < until, now
        time.sleep(0.1)


def test_fifteen_hundred_models(tmp_path, fake, record_property):
    models = [{**MODELS[0], "model": f"owner-{i // 100}/model-{i}"} for i in range(1500)] + MODELS[:1]
    p = Place(tmp_path, fake, [DEMO], models=models)
    best = 10
    for _ in range(5):
        begin = time.monotonic()
        r = requests.get(p.server.url + "/v1/models", timeout=10)
        best = min(best, time.monotonic() - begin)
    names = [m["id"] for m in r.json()["data"]]
    assert sum(n.startswith("lab/") for n in names) == 1501
    record_property("bytes", len(r.content))
    record_property("ms", best * 1000)
    print(f"1501 models and the price book's: {len(r.content)} bytes, {best * 1000:.1f} ms")
    assert p.told("lab/owner-14/model-1499")["id"] == "lab/owner-14/model-1499"
    p.server.stop()
