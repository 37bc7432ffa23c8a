"""Errors: each a clear OpenAI error object that names the field; generated values for every numeric field (T12)."""
import json
import re

import pytest
import requests

from serving import LLM, Server

NUMBERS = {  # name: (whole, min, max)
    "temperature": (False, 0, 2), "top_p": (False, 0, 1), "min_p": (False, 0, 1), "frequency_penalty": (False, -2, 2),
    "presence_penalty": (False, -2, 2), "repetition_penalty": (False, 0.01, 10), "top_k": (True, -1, 2**31 - 1), "n": (True, 1, 8),
    "max_tokens": (True, 1, 2**31 - 1), "max_completion_tokens": (True, 1, 2**31 - 1), "min_tokens": (True, 0, 2**31 - 1),
    "top_logprobs": (True, 0, 20), "seed": (True, -2**63, 2**63 - 1),
}


def bad_values(whole, low, high):
    yield from ["1", None, [], {}, True]
    for v in [-1, 0, high + 1, low - 1, 2**31, 2**63 - 1, -2**63]:
        if not low <= v <= high and -2**63 <= v < 2**63:
            yield v
    if whole:
        yield 1.5


@pytest.mark.parametrize("name", NUMBERS)
def test_number_is_checked(chat, expect_error, name):
    for value in bad_values(*NUMBERS[name]):
        changes = {"logprobs": True} if name == "top_logprobs" else {}
        expect_error(chat(**changes, **{name: value}), 400, "invalid_value", name)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("raw", ["1e400", "NaN", "9223372036854775808", "-", "01", "Infinity"])
def test_number_that_is_no_json_number(post, vlm, expect_error, name, raw):
    body = f'{{"model":"{vlm}","messages":[{{"role":"user","content":"x"}}],"{name}":{raw}}}'.encode()
    expect_error(post(body), 400, "invalid_value", name)


@pytest.mark.parametrize("name,value", [
    ("tools", [{"type": "function", "function": {"name": "f"}}]), ("tool_choice", "required"), ("response_format", {"type": "json_object"}),
    ("audio", {"voice": "x"}), ("modalities", ["audio"]), ("functions", [{"name": "f"}]), ("reasoning_effort", "high"), ("prediction", {}),
    ("web_search_options", {}), ("guided_json", {}), ("temprature", 1)])
def test_unsupported_is_refused_by_name(chat, expect_error, name, value):
    assert name in expect_error(chat(**{name: value}), 400, "unsupported_parameter", name)["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"model":1}x', b'{"a":1,"a":2}', b'{"a":"\\ud800"}', b"[" * 100000])
def test_malformed_body(post, expect_error, body):
    expect_error(post(body), 400, "invalid_value")


@pytest.mark.parametrize("messages,param", [
    (..., "messages"), (None, "messages"), ([], "messages"), ("x", "messages"), ([1], "messages[0]"),
    ([{"role": "user"}], "messages[0].content"), ([{"content": "x"}], "messages[0].role"), ([{"role": "king", "content": "x"}], "messages[0].role"),
    ([{"role": "user", "content": 5}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0].type"),
    ([{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "hologram"}]}], "messages[0].content[1].type"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].image_url"),
])
def test_messages_are_checked(chat, expect_error, messages, param):
    expect_error(chat(messages=messages), 400, "invalid_value", param)


def parts(url, **image):
    return [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": url, **image}}]}]


@pytest.mark.parametrize("url,code", [
    ("http://127.0.0.1:1/a.png", "unsupported_parameter"), ("file:///etc/passwd", "unsupported_parameter"), ("data:text/plain;base64,QUJD", "unsupported_parameter"),
    ("data:image/png,abc", "unsupported_parameter"), ("data:image/png;base64,####", "invalid_value"), ("data:image/png;base64,QUJD", "unsupported_parameter"),
    ("data:image/png;base64,", "invalid_value"), ("", "unsupported_parameter")])
def test_picture_url_is_checked(chat, expect_error, url, code):
    expect_error(chat(messages=parts(url)), 400, code, "messages[0].content[1].image_url.url")


def test_picture_detail_is_checked(chat, expect_error, picture):
    expect_error(chat(messages=parts(picture(), detail="medium")), 400, "invalid_value", "messages[0].content[1].image_url.detail")


def test_broken_picture(chat, expect_error, picture):
    url = picture("PNG", size=(300, 200))
    expect_error(chat(messages=parts(url[:len(url) // 8 * 4])), 400, "invalid_value", "messages[0].content[1].image_url.url")


def test_pictures_for_a_text_model(chat, llm, expect_error, picture):
    assert chat(model=llm, messages=parts(picture())).status_code == 400


@pytest.mark.parametrize("model,status,code", [("no/such", 404, "model_not_found"), (..., 400, "invalid_value"), (5, 400, "invalid_value"), (None, 400, "invalid_value")])
def test_model_is_checked(chat, expect_error, model, status, code):
    expect_error(chat(model=model), status, code, "model")


def test_context_length(chat, expect_error):
    message = expect_error(chat(messages=[{"role": "user", "content": "word " * 20000}]), 400, "context_length_exceeded")["message"]
    numbers = [int(w) for w in message.replace(",", " ").replace(".", " ").split() if w.isdigit()]
    assert 8192 in numbers and any(n > 8192 for n in numbers), message


def test_prompt_that_can_never_fit_the_cache_is_refused_with_both_numbers(llm, expect_error):
    """The cache is smaller than the model's context: what does not fit it is refused, not queued; what just fits is answered."""
    room = 512
    s = Server(LLM, "--no-auth", "--kv-tokens", str(room))

    def ask(n):
        messages = [{"role": "user", "content": "ab " * n}]
        return requests.post(s.url + "/v1/chat/completions", timeout=30, json={"model": llm, "max_tokens": 1000, "ignore_eos": True, "messages": messages})
    try:
        assert requests.get(s.url + "/v1/models", timeout=10).json()["data"][0]["context_length"] == room
        fits, too_long = 1, 1000
        assert ask(fits).status_code == 200
        while too_long - fits > 1:
            n = (fits + too_long) // 2
            fits, too_long = (n, too_long) if ask(n).status_code == 200 else (fits, n)
        usage = ask(fits).json()["usage"]
        assert usage["total_tokens"] == room and usage["prompt_tokens"] >= room - 8
        message = expect_error(ask(too_long), 400, "context_length_exceeded", "messages")["message"]
        found = re.search(rf"has (\d+) tokens.* {room} tokens", message)
        assert found and room <= int(found[1]) <= room + 8, message
    finally:
        assert s.stop() == 0, "".join(s.lines)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
def test_deadline_of_the_real_engine(server, llm, stream):
    """Whether gateway or engine is first: one error, and the engine is free again."""
    body = {"model": llm, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100000, "ignore_eos": True, "stream": stream, "n": 8}
    headers = {"authorization": "Bearer " + server.key, "X-Request-Timeout-Ms": "150"}
    answer = requests.post(server.url + "/v1/chat/completions", json=body, headers=headers, timeout=30)
    if answer.status_code == 200:  # its context was full before; or a stream that had begun
        assert b"[DONE]" in answer.content or b"deadline_exceeded" in answer.content
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    body.update(max_tokens=1, n=1, stream=False)
    assert requests.post(server.url + "/v1/chat/completions", json=body, headers={**headers, "X-Request-Timeout-Ms": "20000"}, timeout=30).status_code == 200


def test_min_tokens_must_fit_the_context(chat, expect_error):
    expect_error(chat(min_tokens=100000, max_tokens=...), 400, "invalid_value", "min_tokens")


def test_errors_of_a_stream_are_plain(chat, expect_error):
    expect_error(chat(stream=True, temperature=9), 400, "invalid_value", "temperature")


def test_keys(server, post, chat, expect_error):
    body = {"model": "x", "messages": []}
    expect_error(post(body, key=None), 401, "invalid_api_key", None)
    expect_error(post(body, key="sk-wrong"), 401, "invalid_api_key", None)
    expect_error(requests.get(server.url + "/v1/models", timeout=10), 401, "invalid_api_key", None)


def test_unknown_path_and_method(server, post, expect_error):
    expect_error(post({}, path="/v1/nothing"), 404, "not_found", None)
    expect_error(requests.get(server.url + "/", timeout=10), 404, "not_found", None)
    r = requests.get(server.url + "/v1/chat/completions", timeout=10)
    expect_error(r, 405, "method_not_allowed", None)
    assert r.headers["allow"] == "POST"


def test_body_too_large(post, expect_error):
    expect_error(post(b'{"x":"' + b"a" * (21 << 20) + b'"}'), 413, "request_too_large", None)


def test_request_id(chat, post, server):
    assert chat().headers["x-request-id"].startswith("req_")
    assert post({}, headers={"x-request-id": "my-id.7"}).headers["x-request-id"] == "my-id.7"
    assert post({}, headers={"x-request-id": "a" * 65}).headers["x-request-id"].startswith("req_")


def test_still_alive(server, chat):
    """After all of the above."""
    assert chat().status_code == 200
    assert requests.get(server.url + "/readyz", timeout=10).status_code == 200
    assert len(server.children("worker")) == 2 and len(server.children("media")) == 1
