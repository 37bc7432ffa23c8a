"""The fake provider by itself, over raw sockets: each fault of its script does what it says, to the byte, and its ledger tells the truth
of it."""
import json
import pathlib
import subprocess
import sys
import time

import pytest
from fake_provider import tokens
from fake_provider.answer import Answer, Ask, Call, compose, instance
from fake_provider.errors import DIALECTS, Fault, kinds
from fake_provider.fixture import Control
from fake_provider.ledger import Ledger, Made, Usage
from fake_provider.profiles import PROFILES
from fake_provider.script import Rule
from http_raw import chunk, connect, receive, send_all

HERE = pathlib.Path(__file__).resolve().parent
STREAMS = ("openai", "mistral", "groq", "openrouter", "anthropic", "gemini")  # one of each way to end a stream and tell usage


def request(profile, stream=True, text="Hello there world", key="key-1", last=False, **body):
    p = PROFILES[profile]
    model, fields = p.models[0], ["content-type: application/json", *(["connection: close"] if last else [])]
    if p.wire == "gemini":
        path = f"/{profile}/v1beta/models/{model}:" + ("streamGenerateContent?alt=sse" if stream else "generateContent")
        body = {"contents": [{"role": "user", "parts": [{"text": text}]}], **body}
    else:
        path = f"/{profile}{p.base}" + ("/v1/messages" if p.wire == "anthropic" else "/chat/completions")
        body = {"model": model, "messages": [{"role": "user", "content": text}], **({"stream": True} if stream else {}), **body}
    if p.wire == "anthropic":
        body.setdefault("max_tokens", 1000)
        fields.append("anthropic-version: 2023-06-01")
    fields.append(f"authorization: Bearer {key}" if p.auth[0] == "bearer" else f"{p.auth[0]}: {key}")
    data = json.dumps(body).encode()
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(data)}", *fields, "", ""]).encode() + data


def ask(fake, profile, **kw):
    with connect(fake.port) as s:
        send_all(s, request(profile, last=True, **kw))
        return receive(s)


def unchunk(body):
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        out += body[:int(size or b"0", 16)]
        body = body[int(size or b"0", 16) + 2:]
    return out


def events(answer):
    """The whole events of a stream, without comments."""
    text = unchunk(answer.body).replace(b"\r\n", b"\n")
    return [e for e in text.split(b"\n\n")[:-1] if not e.startswith(b":")]


def datas(answer):
    found = [e.partition(b"data: ")[2] for e in events(answer)]
    return [json.loads(d) for d in found if d not in (b"", b"[DONE]")]


def whole_stream(fake, profile, **kw):
    a = ask(fake, profile, **kw)
    assert a.status == 200, a
    return a


# ---- cuts

@pytest.mark.parametrize("how", ["reset", "fin"])
@pytest.mark.parametrize("profile", STREAMS)
def test_a_cut_comes_after_exactly_so_many_bytes(fake, profile, how):
    n_whole = len(whole_stream(fake, profile).raw)
    for n in [1, 17, n_whole // 3, n_whole // 2, n_whole - 6]:
        fake.reset()
        fake.script({"cut": {"how": how, "after_bytes": n}})
        a = ask(fake, profile)
        assert (len(a.raw), a.closed, a.reset) == (n, True, how == "reset"), (n, a)
        row, = fake.ledger(1)
        assert (row["end"], row["response_bytes"], row["left"]) == ("cut", n, False), row


@pytest.mark.parametrize("profile", STREAMS)
def test_a_cut_comes_after_exactly_so_many_events(fake, profile):
    n_whole = len(events(whole_stream(fake, profile)))
    fake.reset()
    for i in range(n_whole + 1):
        fake.script({"cut": {"how": "fin", "after_event": i}})
        a = ask(fake, profile)
        assert len(events(a)) == i and a.closed, (i, a)
    rows = fake.ledger(n_whole + 1)
    made = [r["completion_tokens"] for r in rows]
    assert made == sorted(made) and made[0] == 0 and made[-1] == tokens.count("You said: Hello there world"), made
    assert [r["end"] for r in rows] == ["cut"] * (n_whole + 1)


def test_a_cut_can_fall_inside_a_body_byte_by_byte(fake):
    for n in range(1, 400, 7):
        fake.script({"cut": {"how": "fin", "after_body_bytes": n}})
        a = ask(fake, "openai")
        assert len(unchunk(a.body)) == n, (n, a)


def test_a_reset_takes_nothing_away_of_what_went_before(fake):
    fake.script({"malformed": {"at_event": 1, "kind": "huge", "bytes": 9_000_000}, "cut": {"how": "reset", "after_bytes": 8_000_000}})
    with connect(fake.port) as s:
        send_all(s, request("openai"))
        time.sleep(0.1)  # more than a socket's buffer holds
        a = receive(s)
    assert (len(a.raw), a.reset) == (8_000_000, True)


def test_an_early_end_looks_like_a_whole_body(fake):
    fake.script({"cut": {"how": "end", "after_event": 3}})
    a = ask(fake, "openai")
    assert a.body.endswith(b"0\r\n\r\n") and len(events(a)) == 3 and b"[DONE]" not in a.body, a


def test_without_chunks_the_end_of_the_connection_is_the_end_of_the_body(fake):
    fake.script({"framing": "close"})
    a = ask(fake, "openai")
    assert a.closed and "transfer-encoding" not in a.headers and a.body.endswith(b"data: [DONE]\n\n"), a


def test_a_response_comes_in_pieces_of_the_size_asked_for(fake):
    whole = whole_stream(fake, "anthropic").raw
    fake.reset()
    fake.script({"split": 1})
    assert whole_stream(fake, "anthropic").raw == whole  # the same request has the same bytes, however they come


# ---- time

def test_head_and_events_come_late_when_told_to(fake):
    fake.script({"delay_head_ms": 60, "delay_event_ms": 20})
    start = time.monotonic()
    n = len(events(whole_stream(fake, "mistral")))
    took = time.monotonic() - start
    assert 0.06 + 0.02 * n <= took, (took, n)
    assert fake.ledger(1)[0]["first_byte_s"] >= 0.06


@pytest.mark.parametrize("profile", ["openai", "groq"])  # one that stops, one that goes on; but what hangs makes nothing more
def test_a_stall_lasts_until_the_client_leaves(fake, profile):
    fake.script({"stall": {"after_event": 3}})
    with connect(fake.port) as s:
        send_all(s, request(profile))
        a = receive(s, within_s=0.3)
        assert len(events(a)) == 3 and not a.closed
        assert fake.ledger()[0]["ended_s"] is None
    row, = fake.ledger(1)
    assert (row["end"], row["left"], row["completion_tokens"]) == ("left", True, tokens.count("You said: ")), row


def test_a_stall_of_some_time_goes_on(fake):
    fake.script({"stall": {"after_event": 2, "ms": 80}})
    start = time.monotonic()
    assert events(whole_stream(fake, "groq"))[-1] == b"data: [DONE]"
    assert time.monotonic() - start >= 0.08


# ---- departed clients

@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_what_a_departed_client_owes_is_the_hosts_policy(fake, profile):
    fake.script({"tokens": 400, "delay_event_ms": 5})
    with connect(fake.port) as s:
        send_all(s, request(profile))
        receive(s, within_s=0.1)
    start = time.monotonic()
    row, = fake.ledger(1)
    assert time.monotonic() - start < 2.5, "a departed client is noticed within 250 ms, here at ten times that"
    assert row["left"] and row["end"] == "left", row
    assert row["told"] == [] or PROFILES[profile].wire != "openai", "its wires tell usage at the end"
    if PROFILES[profile].on_disconnect == "continue":
        assert row["completion_tokens"] == 400, row
    else:
        assert 0 < row["completion_tokens"] < 100, row


def test_nobody_stops_an_answer_that_is_no_stream(fake):
    fake.script({"delay_head_ms": 5000})
    with connect(fake.port) as s:
        send_all(s, request("openai", stream=False))
        time.sleep(0.05)
    row, = fake.ledger(1)
    assert row["left"] and row["completion_tokens"] == tokens.count("You said: Hello there world")


def test_the_script_may_change_the_policy(fake):
    fake.script({"tokens": 400, "delay_event_ms": 5, "on_disconnect": "continue"})
    with connect(fake.port) as s:
        send_all(s, request("openai"))
        receive(s, within_s=0.05)
    assert fake.ledger(1)[0]["completion_tokens"] == 400


def test_an_endless_answer_leaves_room_for_others(fake):
    fake.script({"match": {"text": "endless"}, "do": {"tokens": 2_000_000}})
    with connect(fake.port) as s:
        send_all(s, request("openai", text="endless"))
        receive(s, within_s=0.05)
        start = time.monotonic()
        whole_stream(fake, "openai", text="short")
        assert time.monotonic() - start < 5
    assert fake.ledger(2)[0]["left"]


# ---- what is malformed

@pytest.mark.parametrize("kind, holds", [("json", lambda e: not valid(e)), ("utf8", lambda e: b"\xc3\x28" in e),
                                         ("html", lambda e: b"<html>" in e),
                                         ("huge", lambda e: len(e) > 3_000_000), ("empty", lambda e: e == b"data: ")])
@pytest.mark.parametrize("profile", ["openai", "anthropic", "gemini"])
def test_one_event_is_malformed_and_the_others_are_not(fake, profile, kind, holds):
    good = events(whole_stream(fake, profile))
    fake.reset()
    fake.script({"malformed": {"at_event": 2, "kind": kind, "bytes": 3_000_000}})
    bad = events(whole_stream(fake, profile))
    assert len(bad) == len(good) and holds(bad[2]) and not holds(good[2])
    assert bad[:2] == good[:2] and bad[3:] == good[3:]


def valid(event):
    try:
        json.loads(event.partition(b"data: ")[2])
        return True
    except ValueError:
        return False


def test_lines_end_in_crlf_when_told_to(fake):
    plain = whole_stream(fake, "openai")
    fake.reset()
    fake.script({"crlf": True})
    a = whole_stream(fake, "openai")
    assert unchunk(a.body) == unchunk(plain.body).replace(b"\n", b"\r\n")


def test_comments_come_before_each_event(fake):
    fake.script({"comments": True})
    a = whole_stream(fake, "openai")
    assert unchunk(a.body).count(b": keep-alive\n\n") == len(events(a)) > 3


@pytest.mark.parametrize("profile, mark", [("openai", b"[DONE]"), ("anthropic", b"message_stop"), ("gemini", b"finishReason")])
def test_the_mark_of_the_end_can_be_left_out(fake, profile, mark):
    assert mark in whole_stream(fake, profile).body
    fake.script({"no_done": True})
    assert mark not in whole_stream(fake, profile).body


# ---- usage

def usages(answer):
    found = []
    for d in datas(answer):
        found += [u for u in (d.get("usage"), d.get("message", {}).get("usage"), d.get("usageMetadata")) if u]
    return found


def output_of(u):
    return u.get("completion_tokens", u.get("output_tokens", u.get("candidatesTokenCount")))


TRUTH = tokens.count("You said: Hello there world")


@pytest.mark.parametrize("profile", STREAMS)
def test_usage_is_left_out_zeroed_wrong_or_told_twice(fake, profile):
    asked = {"stream_options": {"include_usage": True}} if profile in ("openai", "groq") else {}
    plain = usages(whole_stream(fake, profile, **asked))
    assert output_of(plain[-1]) == TRUTH
    fake.script({"usage": "omit"})
    a = whole_stream(fake, profile, **asked)
    assert usages(a) == [] and len(events(a)) > 3
    fake.script({"usage": "zero"})
    assert {output_of(u) for u in usages(whole_stream(fake, profile, **asked))} == {0}
    fake.script({"usage": {"factor": 0.5}})
    assert output_of(usages(whole_stream(fake, profile, **asked))[-1]) == round(TRUTH * 0.5)
    fake.script({"usage": "twice"})
    twice = usages(whole_stream(fake, profile, **asked))
    assert len(twice) == len(plain) + 1 and twice[-1] == twice[-2]
    rows = fake.ledger(5)
    assert {r["completion_tokens"] for r in rows} == {TRUTH}, "what is told changes no truth"
    assert rows[1]["told"] == [] and len(rows[4]["told"]) == len(twice)


@pytest.mark.parametrize("profile", STREAMS)
def test_usage_can_come_after_the_finish(fake, profile):
    fake.script({"usage": "after_finish"})
    all_datas = datas(whole_stream(fake, profile))
    marks = ('"finish_reason": "stop"', '"finishReason": "STOP"', '"stop_reason": "end_turn"')
    finish = next(i for i, d in enumerate(all_datas) if any(m in json.dumps(d) for m in marks))
    after = [d for d in all_datas[finish + 1:] if d.get("usage") or d.get("usageMetadata")]
    assert len(after) == 1 and not all_datas[finish].get("usage") and not all_datas[finish].get("usageMetadata"), all_datas[finish:]


@pytest.mark.parametrize("profile", ["openai", "anthropic", "groq"])
def test_usage_can_grow_with_each_event(fake, profile):
    fake.script({"usage": "each"})
    outputs = [output_of(u) for u in usages(whole_stream(fake, profile))]
    outputs = outputs[1:] if profile == "anthropic" else outputs  # its opening event says 1
    assert len(outputs) > 4 and outputs == sorted(outputs) and outputs[-1] == TRUTH


def test_usage_can_come_with_the_finish(fake):
    fake.script({"usage": "with_finish"})
    last = datas(whole_stream(fake, "openai"))[-1]
    assert last["choices"][0]["finish_reason"] == "stop" and output_of(last["usage"]) == TRUTH


# ---- what is said instead

@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_completion_can_be_empty(fake, profile):
    fake.script({"empty": True, "text": ""})
    a = whole_stream(fake, profile)
    assert not any(piece in a.body for piece in (b"You", b"said"))
    assert fake.ledger(1)[0]["completion_tokens"] == 0


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_text_has_exactly_so_many_tokens(fake, profile):
    fake.script({"tokens": 37})
    whole_stream(fake, profile)
    row, = fake.ledger(1)
    assert row["completion_tokens"] == 37 and row["end"] == "whole"


@pytest.mark.parametrize("profile", STREAMS)
def test_finish_reason_and_model_are_told_as_the_script_has_it(fake, profile):
    fake.script({"finish": "FANCY", "model": "another-model"})
    a = whole_stream(fake, profile)
    assert b'"FANCY"' in a.body and b'"another-model"' in a.body
    assert fake.ledger(1)[0]["model"] == PROFILES[profile].models[0]


@pytest.mark.parametrize("profile", STREAMS)
def test_an_error_event_is_the_last_event(fake, profile):
    fake.script({"error_event": {"after_event": 3, "kind": "overloaded"}})
    a = whole_stream(fake, profile)
    assert b"[DONE]" not in a.body and b"message_stop" not in a.body and "error" in json.dumps(datas(a)[-1]), a
    row, = fake.ledger(1)
    assert row["end"] == "error" and row["events"] == 3


# ---- refusals

@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_kind_of_refusal_has_the_hosts_status_and_shape(fake, profile):
    p = PROFILES[profile]
    for kind, row in kinds(p.errors).items():
        if p.wire == "gemini" and kind == "content_filter":
            continue
        fake.script({"error": kind})
        a = ask(fake, profile, stream=False)
        assert a.status == row[0], (kind, a)
        if kind == "too_large" and p.wire == "anthropic":
            assert b"<html>" in a.body
            continue
        assert p.request_id in a.headers
        body = json.loads(a.body)
        shape = DIALECTS[p.errors][2](Fault(kind).bind(p.errors, "req_x", wait_s=1 if row[0] == 429 else None))
        body = body[0] if isinstance(body, list) else body
        assert body.keys() == shape.keys(), (kind, body, shape)
    assert all(r["cost_nusd"] == 0 and r["prompt_tokens"] == 0 for r in fake.ledger())


@pytest.mark.parametrize("profile, path, members, value", [
    ("openai", ["error"], {"message", "type", "param", "code"}, ("code", "rate_limit_exceeded")),
    ("anthropic", [], {"type", "error", "request_id"}, ("type", "error")),
    ("anthropic", ["error"], {"type", "message"}, ("type", "rate_limit_error")),
    ("gemini", ["error"], {"code", "message", "status", "details"}, ("status", "RESOURCE_EXHAUSTED")),
    ("gemini_compat", [0, "error"], {"code", "message", "status", "details"}, ("code", 429)),
    ("mistral", [], {"object", "message", "type", "param", "code", "raw_status_code"}, ("code", "1300")),
    ("groq", ["error"], {"message", "type", "code"}, ("type", "tokens")),
    ("cerebras", [], {"message", "type", "param", "code"}, ("code", "request_quota_exceeded")),
    ("fireworks", ["error"], {"object", "type", "code", "message"}, ("object", "error")),
    ("together", ["error"], {"message", "type", "param", "code", "error_type"}, ("error_type", "dynamic_request_limited")),
    ("azure", ["error"], {"code", "message"}, ("code", "429")),
    ("bedrock", ["error"], {"message", "type", "param", "code"}, ("code", "ThrottlingException")),
    ("openrouter", ["error"], {"code", "message", "metadata"}, ("code", 429)),
    ("openrouter", ["error", "metadata"], {"error_type", "limit_source"}, ("limit_source", "openrouter")),
    ("generic", ["error"], {"message", "type", "param", "code"}, ("code", 429))])
def test_too_many_requests_in_each_hosts_shape(fake, profile, path, members, value):
    fake.script({"error": "rate_limit"})
    body = json.loads(ask(fake, profile, stream=False).body)
    for step in path:
        body = body[step]
    assert set(body) == members and body[value[0]] == value[1], body


@pytest.mark.parametrize("profile, names", [
    ("openai", "limit-requests limit-tokens remaining-requests remaining-tokens reset-requests reset-tokens"),
    ("groq", "limit-requests limit-tokens remaining-requests remaining-tokens reset-requests reset-tokens"),
    ("azure", "remaining-requests remaining-tokens"), ("bedrock", ""), ("huggingface", ""), ("gemini", ""), ("openrouter", ""),
    ("mistral", "limit-req-minute remaining-req-minute limit-tokens-minute remaining-tokens-minute limit-tokens-month "
                "remaining-tokens-month tokens-query-cost"),
    ("cerebras", "limit-requests-day remaining-requests-day reset-requests-day limit-tokens-minute remaining-tokens-minute "
                 "reset-tokens-minute"),
    ("fireworks", "limit-tokens-prompt remaining-tokens-prompt limit-tokens-generated remaining-tokens-generated"),
    ("together", "limit remaining reset limit-dynamic remaining-dynamic reset-dynamic"),
    ("anthropic", "requests-limit requests-remaining requests-reset tokens-limit tokens-remaining tokens-reset input-tokens-limit "
                  "input-tokens-remaining input-tokens-reset output-tokens-limit output-tokens-remaining output-tokens-reset")])
def test_each_host_names_its_limits_in_its_own_way(fake, profile, names):
    ask(fake, profile, stream=False)
    a = ask(fake, profile, stream=False)
    prefix = "anthropic-ratelimit-" if profile == "anthropic" else "x-ratelimit-"
    found = {k.removeprefix(prefix): v for k, v in a.headers.items() if k.startswith(prefix)}
    assert set(found) == set(names.split())
    left = next((v for k, v in found.items() if "remaining-req" in k or k == "requests-remaining"), "998")
    assert left == "998", "two of a thousand are used up"


def test_anthropics_events_come_in_their_order(fake):
    names = [e.split(b"\n")[0].removeprefix(b"event: ").decode() for e in events(whole_stream(fake, "anthropic", text="x"))]
    assert names == ["message_start", "ping", "content_block_start", *["content_block_delta"] * 3, "content_block_stop", "message_delta",
                     "message_stop"]


def test_openais_chunks_come_in_their_order(fake):
    chunks = datas(whole_stream(fake, "openai", text="x", stream_options={"include_usage": True}))
    assert [c["choices"][0]["delta"] for c in chunks[:-1]] == [
        {"role": "assistant", "content": ""}, {"content": "You "}, {"content": "said: "}, {"content": "x"}, {}]
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * 4 + ["stop"]
    assert chunks[-1]["choices"] == [] and [c["usage"] for c in chunks[:-1]] == [None] * 5


@pytest.mark.parametrize("form, header, value", [("seconds", "retry-after", "3"), ("ms", "retry-after-ms", "3000"),
                                                 ("date", "retry-after", "GMT")])
def test_when_to_come_again_is_told_in_every_form(fake, form, header, value):
    fake.script({"error": "rate_limit", "retry_after": {"form": form, "s": 3}})
    a = ask(fake, "groq", stream=False)
    assert a.status == 429 and value.lower() in a.headers[header], a


def test_gemini_tells_it_in_the_body(fake):
    fake.script({"error": "rate_limit", "retry_after": {"form": "retryinfo", "s": 34}})
    a = ask(fake, "gemini", stream=False)
    assert a.status == 429 and "retry-after" not in a.headers
    details = json.loads(a.body)["error"]["details"]
    assert details[1]["retryDelay"] == "34s" and "PerMinute" in details[0]["violations"][0]["quotaId"]


def test_a_status_with_body_and_headers_is_sent_as_given(fake):
    fake.script({"status": 418, "body": "<p>tea</p>", "headers": {"Content-Type": "text/html", "x-mine": "yes"}})
    a = ask(fake, "openai", stream=False)
    assert (a.status, a.body, a.headers["content-type"], a.headers["x-mine"]) == (418, b"<p>tea</p>", "text/html", "yes")


def test_a_200_can_hold_html_or_only_an_error(fake):
    fake.script({"status": 200, "body": "<html>", "headers": {"content-type": "text/html"}})
    assert ask(fake, "openai").body == b"<html>"
    fake.script({"error_in_200": "overloaded"})
    a = ask(fake, "openrouter", stream=False)
    assert a.status == 200 and json.loads(a.body)["error"]["code"] == 503
    assert [r["completion_tokens"] for r in fake.ledger(2)] == [0, 0]


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_wrong_key_is_refused_before_the_script_is_asked(fake, profile):
    fake.script({"match": {"nth": 1}, "do": {"error": "server"}})
    a = ask(fake, profile, stream=False, key="wrong")
    assert a.status == (400 if PROFILES[profile].errors == "gemini" else 401), a
    assert ask(fake, profile, stream=False).status == 500


@pytest.mark.parametrize("profile, body, status, words", [
    ("openai", {"frobnicate": 1}, 400, "unknown_parameter"), ("mistral", {"seed": 1}, 422, "extra_forbidden"),
    ("mistral", {"max_completion_tokens": 1}, 422, "extra_forbidden"),
    ("groq", {"frobnicate": 1}, 400, "property 'frobnicate' is unsupported"),
    ("fireworks", {"frobnicate": 1}, 400, "Extra inputs are not permitted, field: 'frobnicate', value: 1"),
    ("anthropic", {"frobnicate": 1}, 400, "frobnicate: Extra inputs are not permitted"),
    ("anthropic", {"max_tokens": 0}, 400, "max_tokens"),
    ("gemini", {"frobnicate": 1}, 400, "Unknown name"), ("gemini", {"generationConfig": {"max_tokens": 1}}, 400, "Unknown name"),
    ("openai", {"model": "gpt-5-mini", "max_tokens": 5}, 400, "unsupported_parameter"),
    ("openai", {"model": "no-such"}, 404, "model_not_found"),
    ("huggingface", {"model": "no/such"}, 400, "model_not_supported"),
    ("huggingface", {"model": "HuggingFaceTB/SmolLM3-3B:nowhere"}, 400, "not supported"),
    ("anthropic", {"model": "no-such"}, 404, "not_found_error"), ("openai", {"messages": [{"role": "robot", "content": "x"}]}, 400, "role"),
    ("openai", {"messages": [{"role": "tool", "content": "x"}]}, 400, "tool_call_id"),
    ("openai", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]},
     400, "image")])
def test_a_request_that_the_host_would_refuse_is_refused(fake, profile, body, status, words):
    a = ask(fake, profile, stream=False, **body)
    assert a.status == status and words in a.body.decode(), a


def test_a_generic_host_ignores_what_it_does_not_know(fake):
    assert ask(fake, "generic", stream=False, frobnicate=1).status == 200


def test_hosts_that_ask_for_it_want_a_version(fake):
    warm = request("anthropic", temperature=0.5)
    for version, status in ((b"2023-06-01", 200), (b"2026-10-21", 400), (b"2020-01-01", 400), (b"", 400)):  # the newer has no temperature
        with connect(fake.port) as s:
            send_all(s, warm.replace(b"2023-06-01", version))
            assert receive(s, quiet_s=0.05).status == status, version
    legacy = request("azure").replace(b"/azure/openai/v1/", b"/azure/openai/deployments/my-gpt-4o/")
    for path, status in ((b"completions HTTP", 404), (b"completions?api-version=2024-10-21 HTTP", 200)):
        with connect(fake.port) as s:
            send_all(s, legacy.replace(b"completions HTTP", path))
            assert receive(s, quiet_s=0.05).status == status


# ---- rules

def test_rules_pick_by_profile_model_key_text_and_number(fake):
    fake.script({"match": {"profile": "groq", "key": "key-2"}, "do": {"error": "quota"}},
                {"match": {"text": "third", "nth": 3}, "do": {"error": "server"}},
                {"match": {"model": "gpt-4o"}, "count": 1, "do": {"error": "conflict"}},
                {"match": {"stream": False, "nth": "3+", "profile": "cerebras"}, "do": {"error": "overloaded"}})
    def status(*a, **kw):
        return ask(fake, *a, stream=False, **kw).status
    assert [status("groq"), status("groq", key="key-2")] == [200, 429]
    assert [status("openai", text="a third") for _ in range(4)] == [200, 200, 500, 200]
    assert [status("openai", model="gpt-4o") for _ in range(2)] == [409, 200]
    assert [status("cerebras") for _ in range(4)] == [200, 200, 503, 503]


def test_a_script_is_set_or_added_to(fake):
    fake.script({"match": {"profile": "groq"}, "do": {"error": "server"}})
    fake.script({"match": {"profile": "openai"}, "do": {"error": "server"}}, append=True)
    assert [ask(fake, p, stream=False).status for p in ("groq", "openai")] == [500, 500]
    fake.script()
    assert ask(fake, "groq", stream=False).status == 200


@pytest.mark.parametrize("rule", [{"do": {"resett": 1}}, {"do": {"tokens": "9"}}, {"match": {"host": "x"}, "do": {}},
                                  {"do": {"usage": "none"}},
                                  {"do": {"cut": {"after": 1}}}, {"frobnicate": 1}])
def test_a_misspelt_rule_is_refused(fake, rule):
    with pytest.raises(ValueError):
        fake.script({"do": {}, **rule})


# ---- ledger and memory

def test_costs_are_nano_dollars_rounded_once_per_line(fake):
    fake.prices({"openai": {"in_uncached": {"nusd": 150_000_000, "units": 1_000_000},
                            "out_text": {"nusd": 600_000_001, "units": 1_000_000}}})
    whole_stream(fake, "openai")
    row, = fake.ledger(1)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (5, TRUTH)  # 17 and 27 bytes
    assert row["cost_nusd"] == 5 * 150 + 7 * 600  # 4200.000007 is 4200


def test_a_meter_without_a_price_costs_what_it_is_a_part_of():
    ledger = Ledger()
    ledger.set_prices({"x": {"in_uncached": {"nusd": 10, "units": 1}, "out_text": {"nusd": 100, "units": 1},
                             "in_image": {"nusd": 1, "units": 1}}})
    usage = Usage(prompt=20, image=5, cache_read=4, write_5m=2, completion=9, reasoning=3)
    assert ledger.cost_nusd("x", "any", usage) == 9 * 10 + 4 * 10 + 2 * 10 + 5 * 1 + 9 * 100
    with pytest.raises(ValueError):
        ledger.set_prices({"x": {"input": {"nusd": 1, "units": 1}}})


def test_what_was_received_can_be_looked_at(fake):
    ask(fake, "fireworks", stream=False, text="look at me", prompt_cache_key="k")
    seen, = fake.requests()
    assert seen["body"]["messages"][0]["content"] == "look at me" and seen["body"]["prompt_cache_key"] == "k"
    assert ["authorization", "Bearer key-1"] in seen["headers"] and seen["path"].endswith("/inference/v1/chat/completions")


def test_reset_forgets_script_ledger_prices_and_requests(fake):
    fake.script({"error": "server"})
    ask(fake, "openai", stream=False)
    fake.reset()
    assert fake.ledger() == [] and fake.requests() == []
    assert ask(fake, "openai", stream=False).status == 200


def test_a_repeated_prompt_is_read_from_the_cache(fake):
    long = "word " * 2000  # 2500 tokens
    for _ in range(2):
        whole_stream(fake, "openai", text=long)
    whole_stream(fake, "openai", text=long, key="key-2")
    rows = fake.ledger(3)
    assert [(r["cache_read_tokens"], r["cache_write_5m_tokens"]) for r in rows] == [(0, 2432), (2432, 0), (0, 2432)]  # 19 x 128
    assert all(r["prompt_tokens"] == 2500 for r in rows)


def test_marks_write_and_read_anthropics_cache(fake):
    def block(text, ttl=None):
        return {"type": "text", "text": text, **({"cache_control": {"type": "ephemeral", "ttl": ttl}} if ttl else {})}
    long, more = "a" * 8000, "b" * 4000
    whole_stream(fake, "anthropic", system=[block(long, "1h")], messages=[{"role": "user", "content": [block(more, "5m"), block("hi")]}])
    whole_stream(fake, "anthropic", system=[block(long, "1h")],
                 messages=[{"role": "user", "content": [block("ho" * 2000, "5m"), block("hi")]}])
    a = whole_stream(fake, "anthropic", system=[block(long, "1h")],
                     messages=[{"role": "user", "content": [block(more, "5m"), block("hi")]}])
    got = [(r["cache_read_tokens"], r["cache_write_5m_tokens"], r["cache_write_1h_tokens"],
            r["meters"]["in_uncached"]) for r in fake.ledger(3)]
    assert got == [(0, 1000, 2000, 1), (2000, 1000, 0, 1), (3000, 0, 0, 1)]
    assert usages(a)[-1]["input_tokens"] == 1 and usages(a)[-1]["cache_read_input_tokens"] == 3000


# ---- HTTP

def test_a_connection_carries_several_requests_and_chunked_bodies(fake):
    head, _, body = request("openai", stream=False).partition(b"\r\n\r\n")
    fields = [line for line in head.split(b"\r\n") if not line.startswith(b"content-length")]
    chunked = b"\r\n".join(fields) + b"\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked += b"".join(chunk(body[i:i + 9]) for i in range(0, len(body), 9)) + b"0\r\n\r\n"
    with connect(fake.port) as s:
        for data in (request("openai", stream=False), chunked, request("groq", stream=False)):
            send_all(s, data)
            assert receive(s, quiet_s=0.05).status == 200
    assert len(fake.ledger(3)) == 3


def test_it_says_continue_to_a_client_that_waits(fake):
    head, _, body = request("openai", stream=False).partition(b"\r\n\r\n")
    with connect(fake.port) as s:
        send_all(s, head + b"\r\nexpect: 100-continue\r\n\r\n")
        assert receive(s, quiet_s=0.05).raw.startswith(b"HTTP/1.1 100 ")
        send_all(s, body)
        assert receive(s, quiet_s=0.05).status == 200


def test_a_body_of_megabytes_arrives(fake):
    assert ask(fake, "openai", stream=False, text="x" * 5_000_000).status == 200
    assert fake.ledger(1)[0]["prompt_tokens"] == 1_250_000


def test_it_listens_on_loopback_only(fake):
    assert fake.server.listener.sockets[0].getsockname()[0] == "127.0.0.1"


def test_it_runs_as_a_process_too():
    p = subprocess.Popen([sys.executable, "-B", "-m", "fake_provider", "--port", "0"], cwd=HERE, stdout=subprocess.PIPE, text=True)
    try:
        other = Control(json.loads(p.stdout.readline())["port"])
        assert whole_stream(other, "anthropic").status == 200 and other.ledger(1)[0]["end"] == "whole"
    finally:
        p.terminate()
        p.wait(10)


# ---- answers

def test_an_instance_of_a_schema_is_least():
    schema = {"type": "object", "required": ["a", "b", "c", "d"], "properties": {
        "a": {"type": "string", "minLength": 2}, "b": {"enum": ["x", "y"]},
        "c": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/n"}},
        "d": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "e": {"type": "string"}},
        "$defs": {"n": {"type": "integer", "minimum": 3}}}
    assert instance(schema) == {"a": "xx", "b": "x", "c": [3, 3], "d": False}


@pytest.mark.parametrize("limit, finish, text", [(2, "length", "You said"), (100, "stop", "You said: wörld wörld"),
                                                 (3, "length", "You said: w")])
def test_an_answer_is_cut_at_its_limit_between_characters(limit, finish, text):
    a = compose(Ask("m", last_text="wörld wörld", max_tokens=limit), {})
    assert (a.finish, a.text) == (finish, text) and a.completion_tokens <= limit


def test_a_stop_sequence_ends_the_text_before_it():
    a = compose(Ask("m", last_text="one two three", stops=["three", "two"]), {})
    assert (a.text, a.finish, a.stop_sequence) == ("You said: one ", "stop_sequence", "two")


def test_pieces_join_to_the_whole():
    a = Answer(reasoning="let me  see", text=" a\nb c ", calls=[Call("f", {"x": "é" * 30}), Call("g", {})])
    joined = {}
    for channel, i, piece in a.pieces():
        joined[channel, i] = joined.get((channel, i), "") + piece
    assert joined == {("reasoning", 0): "let me  see", ("text", 0): " a\nb c ", ("call", 0): "f" + a.calls[0].json, ("call", 1): "g{}"}


@pytest.mark.parametrize("formula, size, expected", [
    (tokens.openai_tiles, (40, 30), 255), (tokens.openai_tiles, (1024, 1024), 765), (tokens.openai_tiles, (2048, 4096), 1105),
    (tokens.anthropic_area, (1092, 1092), 1590), (tokens.gemini_tiles, (384, 384), 258), (tokens.gemini_tiles, (1024, 800), 1032),
    (tokens.patches, (56, 57), 6)])
def test_pictures_cost_what_the_providers_say(formula, size, expected):
    assert formula(tokens.Image(*size, "png")) == expected


def test_tokens_are_counted_for_each_choice_and_channel():
    made = Made()
    made.add([(0, "text", 0, "ab"), (0, "text", 0, "cd"), (0, "reasoning", 0, "e"), (0, "call", 0, "f"), (0, "call", 1, "g"),
              (1, "text", 0, "é")])
    assert (made.completion, made.reasoning) == (5, 1)


TOOLS = {"f": {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}, "g": {"type": "object", "properties": {}}}
OPENAI_TOOLS = {"tools": [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in TOOLS.items()]}
ANTHROPIC_TOOLS = {"tools": [{"name": n, "input_schema": s} for n, s in TOOLS.items()]}
GEMINI_TOOLS = {"tools": [{"functionDeclarations": [{"name": n, "parameters": s} for n, s in TOOLS.items()]}]}


def gemini_mode(mode, *names):
    return {"toolConfig": {"functionCallingConfig": {"mode": mode, **({"allowedFunctionNames": names} if names else {})}}}


@pytest.mark.parametrize("profile, choice, called", [
    ("openai", {**OPENAI_TOOLS, "tool_choice": "required"}, "f"), ("openai", {**OPENAI_TOOLS, "tool_choice": "none"}, None),
    ("openai", {**OPENAI_TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}}, "g"),
    ("mistral", {**OPENAI_TOOLS, "tool_choice": "any"}, "f"),
    ("anthropic", {**ANTHROPIC_TOOLS, "tool_choice": {"type": "any"}}, "f"),
    ("anthropic", {**ANTHROPIC_TOOLS, "tool_choice": {"type": "tool", "name": "g"}}, "g"),
    ("anthropic", {**ANTHROPIC_TOOLS, "tool_choice": {"type": "none"}}, None),
    ("gemini", {**GEMINI_TOOLS, **gemini_mode("ANY")}, "f"), ("gemini", {**GEMINI_TOOLS, **gemini_mode("ANY", "g")}, "g"),
    ("gemini", {**GEMINI_TOOLS, **gemini_mode("NONE")}, None)])
def test_a_choice_of_tools_is_kept(fake, profile, choice, called):
    body = ask(fake, profile, stream=False, text="call f {}" if called is None else "hello", **choice).body.decode()
    found = [n for n in TOOLS if f'"name": "{n}"' in body]
    assert found == ([called] if called else []), body
    assert ("You said" in body) == (called is None)


@pytest.mark.parametrize("profile, n", [("openai", {"n": 3}), ("gemini", {"generationConfig": {"candidateCount": 3}})])
@pytest.mark.parametrize("stream", [False, True])
def test_several_choices_cost_as_many_completions(fake, profile, n, stream):
    a = ask(fake, profile, stream=stream, **n)
    row, = fake.ledger(1)
    assert row["completion_tokens"] == 3 * TRUTH and a.body.decode().count("stop" if profile == "openai" else "STOP") == 3


@pytest.mark.parametrize("how, shown, tokens_told", [("parsed", "reasoning", 5), ("hidden", None, 5),
                                                     ("raw", "<think>Thinking about: Hi</think>", 0)])
def test_groq_shows_reasoning_as_asked(fake, how, shown, tokens_told):
    message = json.loads(ask(fake, "groq", stream=False, text="Hi", reasoning_format=how).body)
    text = json.dumps(message["choices"][0]["message"])
    assert (shown in text) if shown else ("Thinking" not in text), text
    assert message["usage"]["completion_tokens_details"]["reasoning_tokens"] == tokens_told  # 18 bytes; in the text it is text


def test_geminis_compatible_endpoint_tells_thoughts_in_the_total_alone(fake):
    usage = json.loads(ask(fake, "gemini_compat", stream=False, text="Hi", reasoning_effort="low").body)["usage"]
    assert usage == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 1 + 3 + 5}


def test_a_rule_counts_only_what_fits():
    r = Rule({"profile": "a", "nth": 2}, {"error": "server"})
    facts = {"model": "m", "key": "k", "text": "", "stream": False}
    assert [r.fits(profile=p, **facts) for p in ("a", "b", "a", "a")] == [False, False, True, False]
