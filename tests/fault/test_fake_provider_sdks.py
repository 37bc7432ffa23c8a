"""Is the fake provider true? The official SDKs are asked: each talks to it as to its provider, and every test is the same for all.
Figures are written out here, not taken from the fake: 3 tokens are the 12 bytes of the prompt, 6 the 22 of the answer."""
import inspect
import io
import json

import anthropic
import cerebras.cloud.sdk as cerebras
import groq
import mistralai.client
import openai
import pytest
import together
from fake_provider import tokens
from fake_provider.errors import Fault, kinds
from fake_provider.openai_responses import PARAMS as RESPONSES_PARAMS
from fake_provider.profiles import PROFILES
from PIL import Image
from provider_sdks import SDKS, data_url

HELLO = [("user", "Hello wörld")]
WEATHER = {"weather": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}
PERSON = {"type": "object", "required": ["name", "age"], "additionalProperties": False,
          "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 1}}}
LENGTH = {"anthropic": "max_tokens", "gemini": "MAX_TOKENS", "openai": "length"}
CALLED = {"anthropic": "tool_use", "gemini": "STOP", "openai": "tool_calls"}
LONG = "w" * 10_000  # 2500 tokens, what a prompt cache takes


@pytest.fixture(params=SDKS, ids=repr)
def sdk(request):
    return request.param


@pytest.fixture(scope="session")
def clients():
    return {}  # most of a test's time is the making of one


@pytest.fixture
def client(fake, sdk, clients):
    if sdk.name not in clients:
        clients[sdk.name] = sdk.make(fake, "key-1")
    return clients[sdk.name]


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request):
    return request.param


def wire(sdk):
    return PROFILES[sdk.profile].wire


def truth(fake, n=1):
    row = fake.ledger(n)[n - 1]
    assert row["end"] == "whole" and row["profile"] and not row["left"], row
    return row["prompt_tokens"], row["completion_tokens"], row["cache_read_tokens"], row["reasoning_tokens"]


def same_usage(sdk, told, true):
    """None and 0 where the host has no member for it."""
    true = true if sdk.usage_details else (*true[:2], 0, 0)
    assert told == true or (told[3] is None and told[:3] == true[:3]), (told, true)


def test_chat(fake, sdk, client, stream):
    said = sdk.send(client, HELLO, stream)
    assert (said.text, said.finish, said.calls, said.reasoning) == ("You said: Hello wörld", sdk.stop, [], "")
    assert said.pieces >= 4 or not stream
    assert said.usage[:2] == (3, 6)
    same_usage(sdk, said.usage, truth(fake))


def test_a_limit_cuts_the_answer(fake, sdk, client, stream):
    said = sdk.send(client, HELLO, stream, limit=3)
    assert (said.text, said.finish, said.usage[:2]) == ("You said: He", LENGTH[wire(sdk)], (3, 3))
    same_usage(sdk, said.usage, truth(fake))


def test_tools_go_round(fake, sdk, client, stream):
    ask = [("user", 'Please call weather {"city": "Zürich", "days": 2}')]
    said = sdk.send(client, ask, stream, tools=WEATHER)
    (call_id, name, arguments), = said.calls
    assert (name, arguments, said.finish) == ("weather", {"city": "Zürich", "days": 2}, CALLED[wire(sdk)])
    assert call_id or wire(sdk) == "gemini"
    same_usage(sdk, said.usage, truth(fake))
    again = sdk.send(client, [*ask, ("said", said), ("result", said.calls[0], "rain")], stream, tools=WEATHER)
    assert (again.text, again.finish, again.calls) == ("The tool said: rain", sdk.stop, [])
    same_usage(sdk, again.usage, truth(fake, 2))


def test_several_tools_in_one_turn(fake, sdk, client, stream):
    said = sdk.send(client, [("user", 'call weather {"city": "A"} and call weather {"city": "B"}')], stream, tools=WEATHER)
    assert [a for _, _, a in said.calls] == [{"city": "A"}, {"city": "B"}]
    assert len({i for i, _, _ in said.calls}) == 2 or wire(sdk) == "gemini"


@pytest.mark.parametrize("fmt, size", [("PNG", (40, 30)), ("JPEG", (1000, 800))])
def test_pictures_are_seen_and_counted(fake, sdk, client, fmt, size):
    data = io.BytesIO()
    Image.new("RGB", size, "red").save(data, fmt)
    said = sdk.send(client, [("picture", "What?", f"image/{fmt.lower()}", data.getvalue())])
    assert said.text == f"image {size[0]}x{size[1]} {fmt.lower()}"
    formula = {"openai": {(40, 30): 255, (1000, 800): 765}, "azure": {(40, 30): 255, (1000, 800): 765},
               "anthropic": {(40, 30): 2, (1000, 800): 1067},
               "azure_anthropic": {(40, 30): 2, (1000, 800): 1067}, "gemini": {(40, 30): 258, (1000, 800): 1032},
               "gemini_compat": {(40, 30): 258, (1000, 800): 1032}}.get(sdk.profile, {(40, 30): 4, (1000, 800): 1044})
    assert said.usage[0] == 2 + formula[size]  # "What?" is 5 bytes
    same_usage(sdk, said.usage, truth(fake))


def test_structured_output(fake, sdk, client, stream):
    said = sdk.send(client, HELLO, stream, schema=PERSON)
    assert json.loads(said.text) == {"name": "", "age": 1}


def test_reasoning(fake, sdk, client, stream):
    said = sdk.send(client, HELLO, stream, think=True)
    thought = "Thinking about: Hello wörld"  # 28 bytes
    assert said.text == "You said: Hello wörld" and said.reasoning == (thought if sdk.shows else "")
    assert said.usage[1] == 6 + 7
    assert said.usage[3] == 7 or not sdk.usage_details or sdk.profile == "mistral"
    assert truth(fake)[1:] == (13, 0, 7)
    same_usage(sdk, said.usage, truth(fake))


@pytest.mark.parametrize("sdk", [s for s in SDKS if wire(s) != "openai"], ids=repr)
def test_reasoning_must_come_back_as_it_was(fake, sdk, client, stream):
    ask = [("user", 'call weather {"city": "A"}')]
    said = sdk.send(client, ask, stream, tools=WEATHER, think=True)
    turns = [*ask, ("said", said), ("result", said.calls[0], "rain")]
    assert sdk.send(client, turns, stream, tools=WEATHER, think=True).text == "The tool said: rain"
    if wire(sdk) == "anthropic":
        said.raw[0].thinking += "!"
    else:
        said.raw.parts[-1].thought_signature = None
    with pytest.raises(sdk.error_class(400), match="(?i)signature"):
        sdk.send(client, turns, stream, tools=WEATHER, think=True)


@pytest.mark.parametrize("sdk", [s for s in SDKS if PROFILES[s.profile].cache != "none" and wire(s) != "anthropic"], ids=repr)
def test_a_repeated_prompt_is_told_as_cached(fake, sdk, client, stream):
    sdk.send(client, [("user", LONG)])
    said = sdk.send(client, [("user", LONG)], stream)
    assert said.usage[0] == 2500 and said.usage[2] == 2432  # 19 x 128
    same_usage(sdk, said.usage, truth(fake, 2))


def test_anthropic_caches_by_mark(fake):
    client = anthropic.Anthropic(base_url=fake.base("anthropic"), api_key="key-1", max_retries=0)
    body = {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello wörld"}],
            "system": [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}
    first, second = client.messages.create(**body).usage, client.messages.create(**body).usage
    assert (first.input_tokens, first.cache_creation_input_tokens, first.cache_read_input_tokens) == (3, 2500, 0)
    assert (first.cache_creation.ephemeral_1h_input_tokens, first.cache_creation.ephemeral_5m_input_tokens) == (2500, 0)
    assert (second.input_tokens, second.cache_creation_input_tokens, second.cache_read_input_tokens) == (3, 0, 2500)
    assert client.messages.count_tokens(model=body["model"], messages=body["messages"]).input_tokens == 3


@pytest.mark.parametrize("kind", ["bad_key", "no_money", "quota", "forbidden", "not_found", "unknown", "context_length", "rate_limit",
                                  "server",
                                  "overloaded", "timeout", "gateway_timeout"])
def test_refusals_are_typed_errors_with_the_hosts_words(fake, sdk, client, kind):
    errors = PROFILES[sdk.profile].errors
    row = kinds(errors).get(kind) or kinds(errors)["server"]
    fake.script({"error": kind})
    with pytest.raises(sdk.error_class(row[0])) as e:
        sdk.send(client, HELLO)
    assert type(e.value) is sdk.error_class(row[0]) and sdk.status_of(e.value) == row[0]
    assert Fault(kind).bind(errors, "x", model=sdk.model.split(":")[0], key="key-***").message.split("`")[0][:40] in sdk.words_of(e.value)
    assert fake.ledger(1)[0]["end"] == "refused"


def test_openais_and_anthropics_errors_are_read_member_by_member(fake):
    fake.script({"error": "rate_limit"})
    with pytest.raises(openai.RateLimitError) as e:
        openai.OpenAI(base_url=fake.base("openai"), api_key="key-1", max_retries=0).chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "x"}])
    assert (e.value.code, e.value.type, e.value.param, e.value.request_id) == ("rate_limit_exceeded", "requests", None, "req_000001")
    with pytest.raises(anthropic.RateLimitError) as e:
        anthropic.Anthropic(base_url=fake.base("anthropic"), api_key="key-1", max_retries=0).messages.create(
            model="claude-haiku-4-5", max_tokens=9, messages=[{"role": "user", "content": "x"}])
    assert (e.value.type, e.value.request_id) == ("rate_limit_error", "req_000002") and "rate limit" in e.value.api_message


def test_a_wrong_key_is_refused(fake, sdk):
    status = 400 if PROFILES[sdk.profile].errors == "gemini" else 401
    with pytest.raises(sdk.error_class(status)) as e:
        sdk.send(sdk.make(fake, "wrong"), HELLO)
    assert sdk.status_of(e.value) == status


@pytest.mark.parametrize("sdk", [s for s in SDKS if wire(s) != "gemini" and "gemini" not in s.profile], ids=repr)
def test_limits_and_hints_reach_the_caller(fake, sdk, client):
    fake.script({"error": "rate_limit"})
    with pytest.raises(sdk.error_class(429)) as e:
        sdk.send(client, HELLO)
    headers = sdk.headers_of(e.value)
    assert headers["retry-after"] == "1"
    p = PROFILES[sdk.profile]
    for name, _ in p.limits(fake.server.ledger.window(sdk.profile, "key-1")):
        assert name in headers
    assert headers[p.request_id] == fake.ledger(1)[0]["id"]


@pytest.mark.parametrize("sdk", [s for s in SDKS if s.name in ("openai", "anthropic", "groq", "cerebras", "together")], ids=repr)
def test_an_sdk_that_comes_again_gets_its_answer(fake, sdk):
    fake.script({"match": {"nth": [1, 2]}, "do": {"error": "rate_limit", "retry_after": {"form": "ms", "s": 0.01}}})
    client = sdk.make(fake, "key-1").with_options(max_retries=2)
    assert sdk.send(client, HELLO).text == "You said: Hello wörld"
    assert [r["status"] for r in fake.ledger(3)] == [429, 429, 200]
    assert [dict(r["headers"])["x-stainless-retry-count"] for r in fake.requests() if r["method"] == "POST"] == ["0", "1", "2"]


def test_who_closes_a_stream_is_noticed(fake, sdk, client):
    fake.script({"tokens": 300, "delay_event_ms": 3})
    events = sdk.open(client, [("user", "count")])
    for _, _ in zip(range(6), events):
        pass
    if hasattr(events, "__exit__"):
        events.__exit__(None, None, None)
    else:
        events.close()
    row, = fake.ledger(1)
    assert row["end"] == "left" and row["events"] < 150, row
    if PROFILES[sdk.profile].on_disconnect == "continue":
        assert row["completion_tokens"] == 300
    else:
        assert row["completion_tokens"] <= row["events"] < 150


@pytest.mark.parametrize("how", ["reset", "fin"])
def test_a_stream_that_breaks_off_is_an_error(fake, sdk, client, how):
    fake.script({"tokens": 20, "cut": {"how": how, "after_event": 6}})
    with pytest.raises(sdk.stream_errors):
        sdk.send(client, HELLO, stream=True)
    row, = fake.ledger(1)
    assert row["end"] == "cut" and 0 < row["completion_tokens"] <= 6


# Groq and Mistral say it in members of a chunk, see below; huggingface_hub reads none but its own server's.
@pytest.mark.parametrize("sdk", [s for s in SDKS if s.profile not in ("groq", "mistral") and s.name != "huggingface_hub"], ids=repr)
def test_the_hosts_error_event_is_raised(fake, sdk, client):
    fake.script({"error_event": {"after_event": 4, "kind": "overloaded"}})
    with pytest.raises(sdk.stream_errors):
        sdk.send(client, HELLO, stream=True)


def test_groq_says_in_x_groq_why_it_stopped(fake):
    fake.script({"error_event": {"after_event": 4, "kind": "overloaded"}})
    client = groq.Groq(base_url=fake.url + "/groq", api_key="key-1", max_retries=0)
    chunks = list(client.chat.completions.create(model="llama-3.1-8b-instant", messages=[{"role": "user", "content": "Hello"}],
                                                 stream=True))
    assert chunks[0].x_groq.id == fake.ledger(1)[0]["id"] and chunks[-1].x_groq.error == "Service unavailable."
    fake.script()
    chunks = list(client.chat.completions.create(model="llama-3.1-8b-instant", messages=[{"role": "user", "content": "Hello"}],
                                                 stream=True))
    assert chunks[-1].x_groq.usage.completion_tokens == 4 and all(c.usage is None for c in chunks)


def test_mistral_ends_with_the_finish_reason_error(fake):
    fake.script({"error_event": {"after_event": 4}})
    client = mistralai.client.Mistral(server_url=fake.url + "/mistral", api_key="key-1")
    with client.chat.stream(model="mistral-small-latest", messages=[{"role": "user", "content": "Hello"}]) as events:
        assert [e.data.choices[0].finish_reason for e in events][-1] == "error"


def test_mistral_names_the_parameter_that_it_does_not_take(fake):
    client = openai.OpenAI(base_url=fake.base("mistral"), api_key="key-1", max_retries=0)
    with pytest.raises(openai.UnprocessableEntityError) as e:
        client.chat.completions.create(model="mistral-small-latest", messages=[{"role": "user", "content": "x"}], seed=1)
    assert e.value.body["detail"][0]["loc"] == ["body", "seed"]
    own = mistralai.client.Mistral(server_url=fake.url + "/mistral", api_key="key-1")
    assert own.chat.complete(model="mistral-small-latest", messages=[{"role": "user", "content": "x"}],
                             random_seed=1).choices[0].message.content


def test_gemini_refuses_a_prompt_with_status_200(fake):
    sdk = next(s for s in SDKS if s.name == "gemini")
    client = sdk.make(fake, "key-1")
    fake.script({"error": "content_filter"})
    r = client.models.generate_content(model="gemini-2.5-flash", contents="Hello wörld")
    assert r.prompt_feedback.block_reason.value == "SAFETY" and not r.candidates and r.usage_metadata.prompt_token_count == 3
    assert client.models.count_tokens(model="gemini-2.5-flash", contents="Hello wörld").total_tokens == 3


def test_azure_holds_its_filters_results_before_the_first_word(fake):
    client = openai.OpenAI(base_url=fake.base("azure"), api_key="key-1", max_retries=0)
    body = {"model": "my-gpt-4o", "messages": [{"role": "user", "content": "x"}]}
    first = next(iter(client.chat.completions.create(**body, stream=True)))
    assert first.choices == [] and first.prompt_filter_results[0]["prompt_index"] == 0
    fake.script({"error": "content_filter"})
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(**body)
    assert e.value.code == "content_filter" and e.value.body["innererror"]["code"] == "ResponsibleAIPolicyViolation"


def test_openrouter_tells_the_cost(fake):
    fake.prices({"openrouter": {"in_uncached": {"nusd": 1000, "units": 1}, "out_text": {"nusd": 2000, "units": 1}}})
    client = openai.OpenAI(base_url=fake.base("openrouter"), api_key="key-1", max_retries=0)
    chunks = list(client.chat.completions.create(model="openai/gpt-4o-mini", messages=[{"role": "user", "content": "Hello wörld"}],
                                                 stream=True))
    assert chunks[-1].usage.cost == (3 * 1000 + 6 * 2000) / 1e9 and fake.ledger(1)[0]["cost_nusd"] == 15000
    assert chunks[-1].choices[0].finish_reason == chunks[-2].choices[0].finish_reason == "stop" and not chunks[-1].choices[0].delta.content


def test_the_routers_list_has_prices_and_providers(fake):
    client = openai.OpenAI(base_url=fake.base("huggingface"), api_key="key-1", max_retries=0)
    models = {m.id: m for m in client.models.list()}
    live = [p for p in models["HuggingFaceTB/SmolLM3-3B"].providers if p["status"] == "live"]
    assert {p["provider"] for p in live} == {"groq", "cerebras", "together", "fireworks-ai"}
    assert all(p["pricing"]["output"] > 0 for p in live)
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model="HuggingFaceTB/SmolLM3-3B:nobody", messages=[{"role": "user", "content": "x"}])
    assert e.value.code == "model_not_supported"


@pytest.mark.parametrize("sdk", [s for s in SDKS if s.name in ("openai", "groq", "cerebras", "anthropic", "gemini", "mistral")], ids=repr)
def test_models_are_listed(fake, sdk, client):
    found = client.models.list()
    names = {(m.id if hasattr(m, "id") else m.name.removeprefix("models/")) for m in getattr(found, "data", found)}
    assert names == set(PROFILES[sdk.profile].models)


@pytest.mark.parametrize("method, params", [
    (openai.OpenAI(api_key="x").chat.completions.create, PROFILES["openai"].params),
    (groq.Groq(api_key="x").chat.completions.create, PROFILES["groq"].params),
    (cerebras.Cerebras(api_key="x", warm_tcp_connection=False).chat.completions.create, PROFILES["cerebras"].params),
    (together.Together(api_key="x").chat.completions.create, PROFILES["together"].params),
    (mistralai.client.Mistral(api_key="x").chat.complete, PROFILES["mistral"].params),
    (anthropic.Anthropic(api_key="x").messages.create, PROFILES["anthropic"].params),
    (openai.OpenAI(api_key="x").responses.create, RESPONSES_PARAMS)],
    ids=["openai", "groq", "cerebras", "together", "mistral", "anthropic", "responses"])
def test_every_parameter_of_an_sdk_is_known(method, params):
    not_in_the_body = {"extra_headers", "extra_query", "extra_body", "timeout", "retries", "server_url", "timeout_ms", "http_headers",
                       "cf_ray",
                       "x_amz_cf_id", "x_delay_time"}
    missing = set(inspect.signature(method).parameters) - not_in_the_body - params
    assert not missing


# ---- OpenAI's Responses

@pytest.fixture
def responses(fake):
    return openai.OpenAI(base_url=fake.base("openai"), api_key="key-1", max_retries=0).responses


def test_responses_whole_and_streamed_say_the_same(fake, responses):
    body = {"model": "gpt-4o-mini", "input": "Hello wörld"}
    whole = responses.create(**body)
    assert (whole.output_text, whole.status) == ("You said: Hello wörld", "completed")
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (3, 6)
    with responses.stream(**body) as s:
        kinds_seen = [e.type for e in s]
        streamed = s.get_final_response()
    assert streamed.output_text == whole.output_text and streamed.usage == whole.usage
    once = [k for i, k in enumerate(kinds_seen) if k != "response.output_text.delta" or kinds_seen[i - 1] != k]
    assert once == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
                    "response.output_text.delta", "response.output_text.done", "response.content_part.done", "response.output_item.done",
                    "response.completed"]


def test_responses_call_tools_and_take_their_results(fake, responses):
    tools = [{"type": "function", "name": "weather", "parameters": WEATHER["weather"], "strict": False}]
    ask = {"role": "user", "content": 'call weather {"city": "A"}'}
    with responses.stream(model="gpt-4o", input=[ask], tools=tools) as s:
        call, = s.get_final_response().output
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "A"})
    turn = [ask, {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
            {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    assert responses.create(model="gpt-4o", input=turn, tools=tools).output_text == "The tool said: rain"


def test_responses_see_pictures_think_and_are_cut_short(fake, responses):
    data = io.BytesIO()
    Image.new("RGB", (40, 30)).save(data, "PNG")
    url = data_url("image/png", data.getvalue())
    parts = [{"type": "input_text", "text": "What?"}, {"type": "input_image", "image_url": url, "detail": "auto"}]
    seen = responses.create(model="gpt-4o", input=[{"role": "user", "content": parts}])
    assert seen.output_text == "image 40x30 png" and seen.usage.input_tokens == 2 + 255
    thought = responses.create(model="o4-mini", input="Hello wörld", reasoning={"effort": "high"})
    assert (thought.usage.output_tokens, thought.usage.output_tokens_details.reasoning_tokens) == (13, 7)
    short = responses.create(model="gpt-4o", input="Hello wörld", max_output_tokens=3)
    assert (short.status, short.incomplete_details.reason, short.output_text) == ("incomplete", "max_output_tokens", "You said: He")
    assert [r["completion_tokens"] for r in fake.ledger(3)] == [tokens.count("image 40x30 png"), 13, 3]


def test_responses_end_in_an_error_event(fake, responses):
    fake.script({"error_event": {"after_event": 5, "kind": "overloaded"}})
    seen = list(responses.create(model="gpt-4o", input="Hello wörld", stream=True))
    assert (seen[-1].type, seen[-1].code) == ("error", "server_is_overloaded") and len(seen) == 6
