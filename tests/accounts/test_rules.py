"""Rules of accounts (docs/accounts.md, "Rules"), from `spillway accounts rules` to who answers: an organisation's, a project's and a key's hold together,
as the table of reasons in docs/routing.md says. The providers are fake ones, all else is real."""
import json
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from test_charges import BIN, MODEL, Place, fake, occupy, place  # noqa: F401
from test_routing import configure, demo, dry, reasons, served  # noqa: F401

LAB, GROQ = f"lab/{MODEL}", f"groq/{MODEL}"
LEVELS = ["organisation", "project", "key"]


def run(place, *args):
    return subprocess.run([BIN, "accounts", *map(str, args), "--data", place.data], check=True, capture_output=True, text=True).stdout


def account(place, level):
    return {"organisation": 1, "project": 2}.get(level) or place.rows("SELECT id FROM accounts WHERE kind = 'key' AND closed_s IS NULL ORDER BY id")[0][0]


def new_key(place, project):
    return subprocess.run([BIN, "keys", "add", "k", "--project", str(project), "--data", place.data], check=True, capture_output=True, text=True).stdout.strip()


def knows(place, key):
    request = urllib.request.Request(f"{place.server.url}/v1/models", headers={"authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=30):
            return True
    except urllib.error.HTTPError:
        return False


def rule(place, level, *args):
    """And until it is in force: rules are taken over together with keys, so a server that knows a newer key has them."""
    run(place, "rules", account(place, level), *args)
    key, until = new_key(place, 2), time.monotonic() + 20
    while not knows(place, key):
        assert time.monotonic() < until
        time.sleep(0.02)


def refused(place, status, reason, **body):
    r, answer = place.ask(**{"model": LAB, **body})
    assert r.status == status, answer
    r, told = dry(place, **{"model": LAB, **body})
    assert reasons(told)[body.get("model", LAB)] == reason, told
    return answer["error"]


@pytest.fixture
def regions(place):
    """lab is in eu and keeps nothing; groq in us; openai nobody knows where."""
    text = place.config.read_text()
    text = text.replace("    name: lab\n", "    name: lab\n    region: eu\n    zero_retention: true\n").replace("    name: groq\n", "    name: groq\n    region: us\n")
    place.config.write_text(text)
    return place


@pytest.mark.parametrize("level", LEVELS)
def test_only_allowed_providers_serve(place, level):
    place.start()
    rule(place, level, "--providers", "groq,openai")
    assert refused(place, 403, "provider")["code"] == "permission_denied"
    assert place.ask(model=GROQ)[0].status == 200
    assert place.ask(model="demo")[0].status == 200  # nothing leaves the house with a local model


@pytest.mark.parametrize("level", LEVELS)
def test_only_allowed_models_serve(place, level):
    place.start()
    rule(place, level, "--models", f"demo,{GROQ}")
    assert refused(place, 403, "model")["code"] == "permission_denied"
    assert place.ask(model=GROQ)[0].status == 200 and place.ask(model="demo")[0].status == 200


def test_a_local_model_may_be_left_out_too(place):
    place.start()
    rule(place, "project", "--models", "groq/*")
    r, answer = place.ask(model="demo")
    assert r.status == 403 and answer["error"]["code"] == "permission_denied"
    assert place.ask(model=GROQ)[0].status == 200 and place.ask(model=LAB)[0].status == 403


def test_only_allowed_regions_serve(regions):
    regions.start()
    rule(regions, "key", "--regions", "eu")
    assert regions.ask(model=LAB)[0].status == 200
    assert refused(regions, 403, "region", model=GROQ)["code"] == "permission_denied"
    refused(regions, 403, "region", model=f"openai/{MODEL}")  # not known is not allowed


def test_only_who_keeps_nothing_serves(regions):
    regions.start()
    rule(regions, "organisation", "--zero-retention", "on")
    assert regions.ask(model=LAB)[0].status == 200
    refused(regions, 403, "retention", model=GROQ)


@pytest.mark.parametrize("level", LEVELS)
def test_local_only_keeps_requests_in_the_house(place, level, fake):
    place.start()
    rule(place, level, "--local-only", "on")
    refused(place, 403, "local_only")
    r, answer = place.ask(model="demo", max_tokens=4)
    assert r.status == 200 and served(r) in (None, "local/demo"), answer
    assert fake.ledger(0) == []


def test_rules_of_all_levels_hold_together(place):
    place.start()
    run(place, "rules", 1, "--providers", "groq,lab")
    run(place, "rules", 2, "--providers", "lab,openai")
    rule(place, "key", "--providers", "openai,groq,lab")
    assert place.ask(model=LAB)[0].status == 200
    refused(place, 403, "provider", model=GROQ)
    refused(place, 403, "provider", model=f"openai/{MODEL}")


def test_what_is_allowed_again_serves_again(place):
    place.start()
    rule(place, "project", "--local-only", "on")
    assert place.ask(model=LAB)[0].status == 403
    rule(place, "project", "--local-only", "off")
    assert place.ask(model=LAB)[0].status == 200


# lab takes 1,000 nano-dollars a token of input and 2,000 of output: 0.001 and 0.002 dollars a thousand, 1 and 2 a million.
@pytest.mark.parametrize("flag,enough,little", [("--max-price-in", "1", "0.999999999"), ("--max-price-out", "2", "1.999999999"),
                                                ("--max-price-request", "1", "0.000100")])
def test_what_is_above_a_price_cap_does_not_serve(place, flag, enough, little):
    place.start()
    rule(place, "project", flag, enough)
    assert place.ask(model=LAB)[0].status == 200
    rule(place, "project", flag, little)
    error = refused(place, 402, "price")
    assert error["code"] == "budget_exhausted"


def test_another_projects_rules_are_its_own(place):
    place.start()
    other = json.loads(run(place, "create", "project", "other", "--json"))["id"]
    its = new_key(place, other)
    rule(place, "project", "--local-only", "on")
    assert place.ask(model=LAB)[0].status == 403
    place.key = its
    assert place.ask(model=LAB)[0].status == 200


# --- overflow: `demo` is full, lab and groq may stand in ---


@pytest.fixture
def full(regions):
    configure(regions, models=demo(f"    stand_ins: \"{LAB}, {GROQ}\"\n"), more="overflow_usd_per_hour: \"1.00\"\n")
    return regions


def tools():
    """What the demo model cannot do, so that its stand-ins are asked."""
    return [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


def test_without_rules_a_stand_in_serves(full):
    full.start()
    r, answer = full.ask(model="demo", tools=tools())
    assert r.status == 200 and served(r) == LAB, answer


def test_the_accounts_policy_orders_where_the_name_says_nothing(full):
    path = full.config.parent / "groq.json"
    table = json.loads(path.read_text())
    table["models"][0]["prices"][0]["out_text"] = [1000, 1]
    path.write_text(json.dumps(table))
    full.start()

    def by(model):
        return served(full.ask(model=model, tools=tools())[0])
    assert by("demo") == LAB  # the first of the stand-ins
    rule(full, "project", "--policy", "cheapest")
    assert by("demo") == GROQ and by("demo:priority") == LAB
    rule(full, "key", "--policy", "priority")
    assert by("demo") == LAB and by("demo:cheapest") == GROQ


@pytest.mark.parametrize("level", ["project", "key"])
@pytest.mark.parametrize("args,by", [(("--overflow-providers", "groq"), GROQ), (("--overflow-regions", "us"), GROQ), (("--providers", "groq"), GROQ),
                                     (("--overflow-usd-per-hour", "0"), None), (("--overflow-providers", "openai"), None),
                                     (("--overflow-usd-out", "1.999"), None), (("--overflow-usd-in", "0.999"), None), (("--overflow-usd-request", "0.0001"), None),
                                     (("--overflow-share", "0%"), None), (("--overflow-usd-per-hour", "0.50"), LAB)])
def test_overflow_is_bounded_by_the_accounts_own_caps(full, level, args, by):
    full.start()
    rule(full, level, *args)
    r, answer = full.ask(model="demo", tools=tools())
    assert (r.status == 200 and served(r) == by) if by else r.status >= 400, answer


def test_overflow_caps_do_not_bound_what_is_asked_for_by_name(full):
    full.start()
    rule(full, "project", "--overflow-usd-per-hour", "0", "--overflow-providers", "openai")
    assert full.ask(model=LAB)[0].status == 200


def test_b21_the_hours_cap_of_a_key_is_kept_to_the_nano_dollar(full):
    full.start()
    r, answer = full.ask(model="demo", tools=tools(), max_tokens=8)
    assert r.status == 200, answer
    (row,) = full.settled(1)
    reserved, charged = row[3], row[2]
    cap = reserved + charged  # the next one's hold just fits beside what was spent
    rule(full, "key", "--overflow-usd-per-hour", f"{cap // 10**9}.{cap % 10**9:09d}")
    assert full.ask(model="demo", tools=tools(), max_tokens=8)[0].status == 200
    assert full.ask(model="demo", tools=tools(), max_tokens=8)[0].status == 429
    assert sum(r[2] for r in full.settled(2)) <= cap
