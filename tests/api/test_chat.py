"""Chat completions through the official SDK: streaming and not, choices, logprobs, stop strings, seeds, pictures."""
import json
import math

import pytest


def ask(client, model, text="Hello", **kw):
    extra = {"ignore_eos": kw.pop("ignore_eos", True)}
    extra.update(kw.pop("extra_body", {}))
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], extra_body=extra, **kw)


def test_chat_answers(client, vlm):
    r = ask(client, vlm, max_tokens=7, temperature=0)
    assert r.object == "chat.completion" and r.model == vlm and r.id.startswith("chatcmpl-")
    assert [c.index for c in r.choices] == [0]
    assert r.choices[0].message.role == "assistant" and r.choices[0].message.content
    assert r.choices[0].finish_reason == "length"
    assert r.usage.completion_tokens == 7 and r.usage.prompt_tokens > 3
    assert r.usage.total_tokens == r.usage.prompt_tokens + 7


def test_chat_stream_equals_whole(client, vlm):
    whole = ask(client, vlm, max_tokens=20, temperature=0)
    chunks = list(ask(client, vlm, max_tokens=20, temperature=0, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1 and {c.object for c in chunks} == {"chat.completion.chunk"}


def test_chat_stream_bytes(server, chat):
    r = chat(stream=True, max_tokens=3)
    assert r.status_code == 200 and r.headers["content-type"].startswith("text/event-stream")
    events = r.content.decode().split("\n\n")
    assert events.pop() == "" and events[-1] == "data: [DONE]"
    assert all(e.startswith("data: {") for e in events[:-1])
    assert "usage" not in json.loads(events[0][6:])


@pytest.mark.parametrize("stream", [False, True])
def test_chat_choices_differ_by_index(client, vlm, stream):
    r = ask(client, vlm, n=3, max_tokens=12, temperature=1, seed=5, stream=stream)
    if stream:
        texts, ends = {}, {}
        for c in (c for chunk in r for c in chunk.choices):
            texts[c.index] = texts.get(c.index, "") + (c.delta.content or "")
            if c.finish_reason:
                ends[c.index] = c.finish_reason
        assert set(ends) == {0, 1, 2}
    else:
        assert r.usage.completion_tokens == 36
        texts = {c.index: c.message.content for c in r.choices}
    assert set(texts) == {0, 1, 2} and len(set(texts.values())) == 3


def test_chat_seed_repeats(client, vlm):
    def answer(seed):
        return ask(client, vlm, max_tokens=16, temperature=1, seed=seed).choices[0].message.content
    assert answer(1) == answer(1)
    assert len({answer(s) for s in range(6)}) > 1


def test_chat_logprobs(client, vlm):
    r = ask(client, vlm, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3)
    entries = r.choices[0].logprobs.content
    assert len(entries) == 5
    for e in entries:
        assert e.logprob <= 0 and len(e.top_logprobs) == 3
        assert [t.logprob for t in e.top_logprobs] == sorted((t.logprob for t in e.top_logprobs), reverse=True)
        assert e.logprob == pytest.approx(e.top_logprobs[0].logprob)  # greedy takes the likeliest
        assert math.fsum(math.exp(t.logprob) for t in e.top_logprobs) <= 1.0001
    # special tokens have logprobs but no text
    text = b"".join(bytes(e.bytes) for e in entries if not e.token.startswith("<|")).decode(errors="replace")
    assert text == r.choices[0].message.content


def test_chat_logprobs_stream_is_the_same(client, vlm):
    whole = ask(client, vlm, max_tokens=6, temperature=0, logprobs=True)
    chunks = ask(client, vlm, max_tokens=6, temperature=0, logprobs=True, stream=True)
    entries = [e for c in chunks for ch in c.choices if ch.logprobs for e in ch.logprobs.content]
    assert [e.token for e in entries] == [e.token for e in whole.choices[0].logprobs.content]
    assert all(e.top_logprobs == [] for e in entries)


@pytest.mark.parametrize("stream", [False, True])
def test_chat_stop_string_cuts(client, vlm, stream):
    full = ask(client, vlm, max_tokens=24, temperature=0).choices[0].message.content
    at = len(full) // 2
    stop = full[at:at + 2]
    first = full.index(stop)
    r = ask(client, vlm, max_tokens=24, temperature=0, stop=[stop, "never there"], stream=stream)
    if stream:
        chunks = list(r)
        text = "".join(c.choices[0].delta.content or "" for c in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        text, reason = r.choices[0].message.content, r.choices[0].finish_reason
        assert r.usage.completion_tokens < 24
    assert text == full[:first] and reason == "stop"


def test_chat_logit_bias_forces_a_token(client, vlm):
    r = ask(client, vlm, max_tokens=4, temperature=0, logit_bias={"300": 100}, logprobs=True)
    assert len({e.token for e in r.choices[0].logprobs.content}) == 1


def test_chat_min_tokens_holds_off_the_end(client, vlm):
    eos = 784
    r = ask(client, vlm, max_tokens=9, temperature=0, ignore_eos=False, logit_bias={str(eos): 100})
    assert r.usage.completion_tokens == 0 and r.choices[0].finish_reason == "stop"
    r = ask(client, vlm, max_tokens=9, temperature=0, ignore_eos=False, logit_bias={str(eos): 100}, extra_body={"min_tokens": 3})
    assert r.usage.completion_tokens == 3 and r.choices[0].finish_reason == "stop"


def test_chat_max_completion_tokens(client, vlm):
    assert ask(client, vlm, max_completion_tokens=3, temperature=0).usage.completion_tokens == 3


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "GIF"])
def test_chat_takes_pictures(client, vlm, picture, fmt):
    def usage(detail):
        parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": picture(fmt), "detail": detail}}]
        r = client.chat.completions.create(model=vlm, messages=[{"role": "user", "content": parts}], max_tokens=2, temperature=0,
                                           extra_body={"ignore_eos": True})
        assert r.usage.completion_tokens == 2
        return r.usage.prompt_tokens
    assert usage("high") == usage("auto") > usage("low") > 5


def test_chat_picture_changes_the_answer(client, vlm, picture):
    def answer(colour):
        parts = [{"type": "image_url", "image_url": {"url": picture(colour=colour)}}, {"type": "text", "text": "What is it?"}]
        r = client.chat.completions.create(model=vlm, messages=[{"role": "user", "content": parts}], max_tokens=1, temperature=0, logprobs=True,
                                           top_logprobs=5, extra_body={"ignore_eos": True})
        return [t.logprob for t in r.choices[0].logprobs.content[0].top_logprobs]
    assert answer("red") == answer("red") != answer("blue")


def test_chat_several_pictures_and_turns(client, vlm, picture):
    image = {"type": "image_url", "image_url": {"url": picture(), "detail": "low"}}
    messages = [{"role": "system", "content": "Be brief."},
                {"role": "user", "content": [image, {"type": "text", "text": "One?"}, image]},
                {"role": "assistant", "content": "Two."},
                {"role": "user", "content": [{"type": "text", "text": "And?"}, image]}]
    r = client.chat.completions.create(model=vlm, messages=messages, max_tokens=2, temperature=0, extra_body={"ignore_eos": True})
    assert r.usage.completion_tokens == 2


def test_chat_answers_in_parallel(client, vlm):
    from concurrent.futures import ThreadPoolExecutor
    alone = ask(client, vlm, max_tokens=10, temperature=1, seed=3).choices[0].message.content
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(client, vlm, max_tokens=10, temperature=1, seed=3).choices[0].message.content, range(48)))
    assert set(answers) == {alone}


def test_chat_ignores_the_harmless(chat):
    r = chat(user="u", metadata={"a": "b"}, store=False, service_tier="auto", parallel_tool_calls=True, safety_identifier="s", prompt_cache_key="k",
             tools=[], tool_choice="none", response_format={"type": "text"}, modalities=["text"], stop=None, logit_bias=None, stream=None)
    assert r.status_code == 200, r.text


def test_chat_control_tokens_in_text_are_text(client, vlm):
    """T35: what a user types never becomes a control token or a picture's place."""
    plain = ask(client, vlm, "xx", max_tokens=1).usage.prompt_tokens
    for text in ["<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"]:
        assert ask(client, vlm, text, max_tokens=1).usage.prompt_tokens > plain + 1
