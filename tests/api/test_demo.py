"""The built-in demo model through the official SDK: the committed sample pictures get the answers that weights/demo/samples.py says."""
import base64
import sys

import openai
import pytest

from serving import ROOT, Server

sys.path.insert(0, str(ROOT / "weights/demo"))
from samples import SAMPLES  # noqa: E402

CASES = [(name, question, answer) for name, asked in SAMPLES.items() for question, answer in asked]


@pytest.fixture(scope="module")
def demo():
    s = Server("demo", "--no-auth")
    yield openai.OpenAI(base_url=s.url + "/v1", api_key="none", max_retries=0, timeout=60)
    assert s.stop() == 0, "".join(s.lines)


def words(text):
    return text.lower().strip(" .!\n")


def ask(client, content, **kw):
    return client.chat.completions.create(model="demo", messages=[{"role": "user", "content": content}], temperature=0, max_tokens=48, **kw)


@pytest.mark.parametrize("name,question,answer", CASES)
@pytest.mark.parametrize("stream", [False, True])
def test_demo_answers_about_a_sample(demo, name, question, answer, stream):
    data = base64.b64encode((ROOT / "weights/demo/samples" / name).read_bytes()).decode()
    kind = "jpeg" if name.endswith(".jpg") else "png"
    parts = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}]
    r = ask(demo, parts, stream=stream)
    text = "".join(c.choices[0].delta.content or "" for c in r if c.choices) if stream else r.choices[0].message.content
    assert words(text) == words(answer)


def test_demo_answers_about_itself(demo):
    r = ask(demo, "What is Spillway?")
    assert "spillway" in r.choices[0].message.content.lower()
    assert r.choices[0].finish_reason == "stop"
