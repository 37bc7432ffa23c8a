"""Each row of the table by each capability that it declares: the request arrives as that host wants it, the answer comes back as events,
and what is metered is what the host's own ledger says."""
import base64
import json

import pytest

from conftest import HOSTS, KEYS, ROWS, png

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}, "s": {"type": "string", "enum": ["a", "b"]}},
          "required": ["n", "s"], "additionalProperties": False}
# what a host's ledger calls the meters that all hosts have
INPUT = ("in_uncached", "in_cache_read", "in_cache_write_5m", "in_cache_write_1h", "in_audio", "in_image")
OUTPUT = ("out_text", "out_reasoning", "out_audio")


def ended_well(answer, reason="stop"):
    assert answer.outcome == "whole", answer.result
    assert answer.finish == [reason], answer.lines
    assert answer.events[-1]["event"] == "finish"  # nothing after it
    return answer


def truth(fake, n=1):
    return fake.ledger(n)[-1]


def check_usage(fake, host, answer, n=1):
    """All tokens are there, each once; what the host tells apart is apart."""
    row, u = truth(fake, n), answer.usage
    assert u is not None and "inconsistent" not in u, answer.result
    assert sum(u.get(m, 0) for m in INPUT) == row["prompt_tokens"], (u, row)
    assert sum(u.get(m, 0) for m in OUTPUT) == row["completion_tokens"], (u, row)
    told = next(e["told"] for e in reversed(answer.of("usage")))
    assert told == {"prompt_tokens": row["prompt_tokens"], "completion_tokens": row["completion_tokens"]}
    for meter in ("in_cache_read", "in_cache_write_5m", "in_cache_write_1h", "out_reasoning"):
        if meter in u:
            assert u[meter] == row["meters"][meter], (meter, u, row)
    assert json.loads(answer.result["usage_raw"])
    return u


def sent(fake):
    return fake.requests()[-1]


def header(request, name):
    return [v for k, v in request["headers"] if k == name]


def test_every_row_is_tried():
    assert {h.row for h in HOSTS} == set(ROWS)


@pytest.mark.needs("chat")
def test_chat(fake, drive, host):
    a = ended_well(drive.call(host, [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Grüße, 😀 world"}]))
    assert a.text() == "You said: Grüße, 😀 world"
    assert a.result["id"] and a.result["request_id" if host.profile != "gemini" else "id"], a.result
    check_usage(fake, host, a)


@pytest.mark.needs("chat")
def test_what_is_sent(fake, drive, host):
    """The key where the host wants it and nowhere else; the model, the maximum, a stream; nothing that names us but the agent."""
    ended_well(drive.call(host, "x", key=1, max_tokens=77))
    r = sent(fake)
    names = [k for k, _ in r["headers"]]
    assert len(names) == len(set(names)), names
    keyed = {k: v for k, v in r["headers"] if KEYS[1] in v}
    assert len(keyed) == 1 and KEYS[1] not in json.dumps(r["body"]) + r["path"] + json.dumps(r["query"])
    assert KEYS[0] not in json.dumps(r)
    assert header(r, "content-type") == ["application/json"] and header(r, "user-agent")[0].startswith("spillway/")
    assert "expect" not in names
    text = json.dumps(r["body"])
    assert "77" in text
    if host.profile == "gemini":
        assert r["body"]["generationConfig"] == {"maxOutputTokens": 77} and r["query"] == {"alt": "sse"}
    else:
        assert r["body"]["stream"] is True and host.model in (r["body"]["model"], r["path"])
    assert header(r, "x-hf-bill-to") == (["my-org"] if host.row == "huggingface" else [])


@pytest.mark.needs("stream")
def test_stream(fake, drive, host):
    """Events come as they are made, not at the end."""
    fake.script({"tokens": 12, "delay_event_ms": 15})
    a = ended_well(drive.call(host, "x"))
    at = [e["ms"] for e in a.of("delta") if e["text"]]
    assert len(at) == 12 and at[-1] - at[0] > 8 * 15, at
    assert a.text() == "tok " * 12


@pytest.mark.needs("tools")
def test_tools_round_trip(fake, drive, host):
    start = [{"role": "user", "content": 'Please call weather {"city": "Köln"} and call time {}'}]
    a = ended_well(drive.call(host, start, tools=TOOLS), "tool_calls")
    calls = a.message()["tool_calls"]
    assert [c["function"]["name"] for c in calls] == ["weather", "time"] and len({c["id"] for c in calls}) == 2
    assert [json.loads(c["function"]["arguments"]) for c in calls] == [{"city": "Köln"}, {}]
    check_usage(fake, host, a)
    results = [{"role": "tool", "tool_call_id": c["id"], "content": f"result {i}"} for i, c in enumerate(calls)]
    b = ended_well(drive.call(host, start + [a.message()] + results, tools=TOOLS))
    assert b.text() == "The tool said: result 0, result 1"


@pytest.mark.needs("tools")
def test_tool_choice(fake, drive, host):
    ended_well(drive.call(host, "x", tools=TOOLS, tool_choice="required"), "tool_calls")
    a = ended_well(drive.call(host, "x", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "time"}}), "tool_calls")
    assert [e["name"] for e in a.of("tool_call") if "name" in e] == ["time"]
    assert drive.call(host, "call time {}", tools=TOOLS, tool_choice="none").text() == "You said: call time {}"


@pytest.mark.needs("tools", "reasoning")
def test_tools_with_reasoning_round_trip(fake, drive, host):
    """Thoughts and their signatures come back unchanged: the fake hosts check them."""
    start = [{"role": "user", "content": 'call weather {"city": "Köln"}'}]
    a = ended_well(drive.call(host, start, tools=TOOLS, reasoning_effort="low"), "tool_calls")
    call, = a.message()["tool_calls"]
    back = start + [a.message(), {"role": "tool", "tool_call_id": call["id"], "content": "fine"}]
    b = ended_well(drive.call(host, back, tools=TOOLS, reasoning_effort="low"))
    assert b.text() == "The tool said: fine"


@pytest.mark.needs("image_data")
def test_image_data(fake, drive, host):
    url = "data:image/png;base64," + base64.b64encode(png(40, 30)).decode()
    a = ended_well(drive.call(host, [{"role": "user", "content": [{"type": "text", "text": "What is it?"},
                                                                  {"type": "image_url", "image_url": {"url": url}}]}]))
    assert a.text() == "image 40x30 png"
    check_usage(fake, host, a)


@pytest.mark.needs("image_url")
def test_image_url(fake, drive, host):
    parts = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    a = ended_well(drive.call(host, [{"role": "user", "content": parts}]))
    assert a.text() == "image 512x512 url"


@pytest.mark.needs("json_schema")
def test_json_schema(fake, drive, host):
    wanted = {"name": "s", "schema": SCHEMA, "strict": True}
    a = ended_well(drive.call(host, "x", response_format={"type": "json_schema", "json_schema": wanted}))
    assert json.loads(a.text()) == {"n": 3, "s": "a"}


@pytest.mark.needs("json_object")
def test_json_object(fake, drive, host):
    assert json.loads(ended_well(drive.call(host, "x", response_format={"type": "json_object"})).text()) == {}


@pytest.mark.needs("reasoning")
def test_reasoning(fake, drive, host):
    a = ended_well(drive.call(host, "x", reasoning_effort="low"))
    assert a.text() == "You said: x"
    hidden = host.profile in ("openai", "azure", "bedrock", "gemini_compat")  # they count it and do not show it
    assert a.reasoning == ("" if hidden else "Thinking about: x")
    u = check_usage(fake, host, a)
    assert truth(fake)["reasoning_tokens"] > 0
    if "out_reasoning" in u:
        assert u["out_reasoning"] == truth(fake)["reasoning_tokens"]


@pytest.mark.needs("n")
def test_choices(fake, drive, host):
    a = drive.call(host, "x", n=3)
    assert a.outcome == "whole" and len(a.finish) == 3, a.result
    assert [a.text(i) for i in range(3)] == ["You said: x"] * 3
    check_usage(fake, host, a)


PARAMETERS = {"seed": {"seed": 7}, "logit_bias": {"logit_bias": {"5": -100}},
              "penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.25},
              "top_k": {"top_k": 5}, "service_tier": {"service_tier": "auto"}, "logprobs": {"logprobs": True, "top_logprobs": 2}}
WORDS = {"mistral": {"seed": "random_seed"},
         "gemini": {"presence_penalty": "presencePenalty", "frequency_penalty": "frequencyPenalty", "top_k": "topK"}}


@pytest.mark.parametrize("capability", PARAMETERS)
def test_parameters(fake, drive, host, capability):
    """A host that declares a parameter takes it, under its own name; one that does not never sees it."""
    if host.row == "anthropic" and capability == "top_k":
        pytest.skip("the vendor's newest SDK has no word for it any more, and the fake host goes by that")
    declared = capability in ROWS[host.row]["capabilities"]
    a = drive.call(host, "x", **PARAMETERS[capability])
    if not declared and capability == "service_tier":
        assert a.outcome == "whole"  # "auto" asks for nothing
        return
    if not declared:
        assert a.outcome == "refused" and a.result["code"] == "unsupported" and a.result["param"] in PARAMETERS[capability], a.result
        assert not fake.requests()
        return
    ended_well(a)
    body = sent(fake)["body"]
    for name, value in PARAMETERS[capability].items():
        assert body.get("generationConfig", body)[WORDS.get(host.row, {}).get(name, name)] == value, body


def test_stop_strings(fake, drive, host):
    a = ended_well(drive.call(host, "one two three", stop=["two"]))
    assert a.text() == "You said: one "


def test_length(fake, drive, host):
    fake.script({"tokens": 50})
    a = ended_well(drive.call(host, "x", max_tokens=10), "length")
    assert truth(fake)["completion_tokens"] == 10
    check_usage(fake, host, a)


@pytest.mark.needs("prompt_cache")
def test_cached_prompts(fake, drive, host):
    """Twice the same long prompt: the second reads the cache, and each token is metered once."""
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}} if host.row == "anthropic" else {}
    messages = [{"role": "system", "content": [{"type": "text", "text": "word " * 2000, **mark}]}, {"role": "user", "content": "x"}]
    first = ended_well(drive.call(host, messages))
    check_usage(fake, host, first)
    second = ended_well(drive.call(host, messages))
    u, row = check_usage(fake, host, second, 2), truth(fake, 2)
    if row["cache_read_tokens"]:
        assert u["in_cache_read"] == row["cache_read_tokens"] >= 1024
    else:
        assert host.profile in ("generic", "gemini_compat")  # cache nothing


@pytest.mark.needs("models")
def test_models(fake, drive, host):
    a, = drive.run(host, [{"get": "models"}])
    assert a.outcome == "whole", a.result
    ids = [m["id"] for m in a.result["models"]]
    assert host.model.split(":groq")[0] in ids
    if host.row == "huggingface":
        offers = a.result["models"][0]["offers"]
        assert [o["in"] for o in offers[:4]] == [100_000_000, 200_000_000, 300_000_000, 400_000_000]  # USD per million, exact
        assert offers[4] == {"provider": "novita", "live": False, "context": -1, "in": -1, "out": -1}


# ---- refusals

CLASSES = {"bad_key": "key_dead", "quota": "key_dead", "no_money": "key_dead", "rate_limit": "wait", "overloaded": "wait",
           "server": "broken", "context_length": "context", "not_found": "unsupported", "invalid": "caller", "bad_gateway": "broken"}
OWN_CLASSES = {("together", "overloaded"): "broken", ("gemini", "quota"): "wait", ("gemini_compat", "quota"): "wait"}  # a day's comes back


@pytest.mark.parametrize("kind", CLASSES)
def test_refusals(fake, drive, host, kind):
    fake.script({"error": kind})
    a = drive.call(host, "x")
    assert a.outcome == "error" and not a.finish and not a.result["has_content"], a.result
    assert a.error["class"] == OWN_CLASSES.get((host.id, kind), CLASSES[kind]), a.error
    assert a.error["status"] == truth(fake)["status"] and a.error["message"], a.error


def test_a_wrong_key_is_a_dead_key(fake, drive, host):
    spec = {"model": host.model, "request": {"messages": [{"role": "user", "content": "x"}]}}
    a, = drive.run(host, [spec], keys=["wrong-key-00001-abcdefgh"])
    assert a.outcome == "error" and a.error["class"] == "key_dead", a.error


@pytest.mark.parametrize("form,ms", [("seconds", 3000), ("date", 3000), ("ms", 3500), ("retryinfo", 3500)])
def test_when_to_come_again(fake, drive, host, form, ms):
    if form == "retryinfo" and host.profile != "gemini":
        pytest.skip("Google's own form")
    fake.script({"error": "rate_limit", "retry_after": {"form": form, "s": ms / 1000}})
    a = drive.call(host, "x")
    assert a.error["class"] == "wait" and ms - 1100 <= a.error["retry_after_ms"] <= ms, a.error


def test_rate_limits_are_read(fake, drive, host):
    a = ended_well(drive.call(host, "x"))
    limits = a.result["limits"]
    if host.profile in ("gemini", "bedrock", "huggingface", "openrouter", "generic", "gemini_compat", "azure_anthropic"):
        assert limits == {}  # they tell nothing with a 200
        return
    assert any(m["remaining"] >= 0 for m in limits.values()), limits
    for name, m in limits.items():
        assert m["limit"] in (1000, 200_000) or host.row == "azure", limits
    if host.row in ("groq", "cerebras"):
        assert limits["requests"]["window"] == "day" and limits["tokens"]["window"] == "minute" and limits["tokens"]["reset_ms"] > 1000
    if host.row == "anthropic":
        assert 50_000 < limits["tokens_in"]["reset_ms"] <= 60_000


# ---- the client leaves

def test_cancel_stops_or_drain_reads_on(fake, drive, host):
    """As the row's on_disconnect says: closing stops the bill, or reading on tells the exact one."""
    if host.id == "gemini_compat":
        pytest.skip("a compatible URL of a host that goes on; the row supposes one's own server")
    fake.script({"tokens": 40, "delay_event_ms": 5})
    if ROWS[host.row]["on_disconnect"] == "cancel":
        a = drive.call(host, "x", call={"cancel_at": 8})
        assert a.outcome == "cancelled" and not a.finish
        row = truth(fake)
        assert row["left"] and 0 < row["completion_tokens"] < 40, row
    else:
        a = drive.call(host, "x", call={"drain_at": 8})
        assert a.outcome == "whole" and not a.finish, a.result
        assert len(a.events) < 14  # nothing is told after it
        row = truth(fake)
        assert not row["left"] and row["completion_tokens"] == 40
        assert sum(a.usage.get(m, 0) for m in OUTPUT) == 40
