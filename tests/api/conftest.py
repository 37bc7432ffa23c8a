"""Fixtures of the API tests: one server with two tiny models of random weights (pictures; text only), the official SDK and raw HTTP."""
import base64
import io
import pathlib
import sys

import openai
import pytest
import requests
from PIL import Image, ImageDraw

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from serving import LLM, VLM, Server  # noqa: E402


@pytest.fixture(scope="session")
def server():
    s = Server(VLM, LLM)
    yield s
    assert s.stop() == 0, "".join(s.lines)


@pytest.fixture(scope="session")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0, timeout=60)


@pytest.fixture(scope="session")
def post(server):
    """Posts a body (object, or bytes as they are) to a path; returns the response."""
    def call(body, path="/v1/chat/completions", key=server.key, **kw):
        headers = {"content-type": "application/json", **kw.pop("headers", {})}
        if key:
            headers["authorization"] = "Bearer " + key
        how = {"data": body} if isinstance(body, bytes) else {"json": body}
        return requests.post(server.url + path, headers=headers, timeout=60, **how, **kw)
    return call


@pytest.fixture(scope="session")
def chat(post):
    """A small, valid request with changes; None takes a member away."""
    def call(**changes):
        body = {"model": VLM.name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0, "ignore_eos": True}
        body.update(changes)
        return post({k: v for k, v in body.items() if v is not ...})
    return call


def error_of(response, status, code, param=...):
    """Checks the whole shape of an OpenAI error object."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}, body
    assert body["error"]["code"] == code, body
    assert body["error"]["message"]
    if param is not ...:
        assert body["error"]["param"] == param, body
    return body["error"]


@pytest.fixture(scope="session")
def expect_error():
    return error_of


@pytest.fixture(scope="session")
def picture():
    """data: URL of a small picture in the given format and size."""
    def make(fmt="PNG", size=(40, 30), colour="red"):
        image = Image.new("RGB", size, "white")
        ImageDraw.Draw(image).ellipse((5, 5, size[0] - 5, size[1] - 5), fill=colour)
        out = io.BytesIO()
        image.save(out, fmt)
        return f"data:image/{fmt.lower()};base64," + base64.b64encode(out.getvalue()).decode()
    return make


@pytest.fixture(scope="session")
def vlm():
    return VLM.name


@pytest.fixture(scope="session")
def llm():
    return LLM.name
