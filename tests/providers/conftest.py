"""Hosted providers' calls, made by drive.c over real sockets, against the fake provider. A fault of the fake one, or a key in anything
that is printed, fails the test in which it happens."""
import json
import os
import pathlib
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass, field

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests/fault"))

from fake_provider.fixture import FakeProvider  # noqa: E402
from fake_provider.profiles import PROFILES  # noqa: E402

DRIVE = os.environ.get("SPILLWAY_DRIVE_BIN", str(REPO / "build/tests/providers/drive_providers"))
KEYS = ["key-canary-0001-abcdefgh", "key-canary-0002-abcdefgh"]


@dataclass(frozen=True)
class Host:
    """A row of the table as it is tried: which host of the fake provider plays it, and how."""
    row: str
    profile: str
    suffix: str = ""          # of the model
    base: str = None          # after the fake's address; None: the profile's own
    settings: dict = field(default_factory=dict, hash=False)
    name: str = None

    @property
    def id(self):
        return self.name or self.row

    @property
    def model(self):
        return PROFILES[self.profile].models[0] + self.suffix


HOSTS = [
    Host("openai", "openai"),
    Host("anthropic", "anthropic", "", "/anthropic/v1"),
    Host("gemini", "gemini"),
    Host("mistral", "mistral"),
    Host("groq", "groq"),
    Host("cerebras", "cerebras"),
    Host("together", "together"),
    Host("fireworks", "fireworks"),
    Host("bedrock", "bedrock"),
    Host("azure", "azure", "", "/azure"),
    Host("azure", "azure", "", "/azure", {"api_version": "2024-10-21"}, "azure_legacy"),
    Host("huggingface", "huggingface", ":groq", None, {"headers": ["X-HF-Bill-To: my-org"]}),
    Host("openrouter", "openrouter"),
    Host("openai-compatible", "generic"),
    Host("openai-compatible", "gemini_compat", "", None, {}, "gemini_compat"),
    Host("anthropic", "azure_anthropic", "", "/azure_anthropic/anthropic/v1", {"auth": "api-key"}, "azure_anthropic"),
    Host("azure", "azure", "", "/azure", {"auth": "bearer"}, "azure_bearer"),
]


def table():
    return {r["name"]: r for r in map(json.loads, subprocess.run([DRIVE, "--table"], capture_output=True, check=True).stdout.splitlines())}


ROWS = table() if os.path.exists(DRIVE) else {}


def pytest_generate_tests(metafunc):
    """A test that takes a host runs for each; one marked with capabilities for those that declare them all."""
    chosen = any("host" in m.args[0] for m in metafunc.definition.iter_markers("parametrize"))
    if "host" in metafunc.fixturenames and not chosen:
        marker = metafunc.definition.get_closest_marker("needs")
        needs = set(marker.args) if marker else set()
        hosts = [h for h in HOSTS if needs <= set(ROWS[h.row]["capabilities"])]
        metafunc.parametrize("host", hosts, ids=[h.id for h in hosts])


def pytest_configure(config):
    config.addinivalue_line("markers", "needs(*capabilities): only hosts whose row declares them")


class Answer:
    """One call's events put together, as a client's SDK would."""

    def __init__(self, lines):
        self.lines = lines
        self.events = [line for line in lines if "event" in line]
        self.result = next((line for line in lines if "result" in line), None)
        self.outcome = self.result and self.result["result"]

    def of(self, kind, choice=0):
        return [e for e in self.events if e["event"] == kind and e["choice"] == choice]

    def text(self, choice=0):
        return "".join(e["text"] for e in self.of("delta", choice))

    @property
    def reasoning(self):
        return "".join(e["text"] for e in self.of("reasoning"))

    @property
    def finish(self):
        return [e["reason"] for e in self.events if e["event"] == "finish"]

    @property
    def usage(self):
        return self.result.get("usage")

    @property
    def error(self):
        return self.result.get("error")

    def message(self):
        """The assistant's message for the next turn, with all that must come back."""
        calls, extra = {}, {}
        for e in self.of("tool_call"):
            c = calls.setdefault(e["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
            c["id"] += e.get("id", "")
            c["function"]["name"] += e.get("name", "")
            c["function"]["arguments"] += e["arguments"]
            c.update(e.get("extra", {}))
        for e in self.events:
            merge(extra, e.get("extra_delta", {}))
        out = {"role": "assistant", "content": self.text() or None, **{k: v for k, v in extra.items() if k == "extra_content"}}
        if self.reasoning:
            out["reasoning_content"] = self.reasoning
        if calls:
            out["tool_calls"] = [calls[i] for i in sorted(calls)]
        return out


def merge(into, more):
    for k, v in more.items():
        if isinstance(v, dict):
            merge(into.setdefault(k, {}), v)
        elif isinstance(v, list):
            into.setdefault(k, []).extend(v)
        else:
            into[k] = v


class Driver:
    def __init__(self, fake):
        self.fake = fake

    def base(self, host):
        return self.fake.url + host.base if host.base else self.fake.base(host.profile)

    def run(self, host, calls, keys=KEYS, config=None, base_url=None, timeout=30, **script):
        spec = {"provider": host.row, "base_url": base_url or self.base(host), "keys": list(keys), **host.settings}
        whole = {"host": spec, "config": config or {}, "calls": calls, **script}
        p = subprocess.run([DRIVE], input=json.dumps(whole).encode(), capture_output=True, timeout=timeout)
        assert p.returncode == 0 and not p.stderr, (p.returncode, p.stderr.decode())
        for key in keys:
            assert key.encode() not in p.stdout, "a key is told"
        lines = [json.loads(line) for line in p.stdout.splitlines()]
        self.counts = lines[-1]["counts"]
        assert self.counts["running"] == 0 and self.counts["draining"] == 0, self.counts
        return [Answer([line for line in lines[:-1] if line["call"] == i]) for i in range(len(calls))]

    def call(self, host, messages, key=0, model=None, max_tokens=4000, call=None, config=None, **request):
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        spec = {"model": model or host.model, "key": key, "max_tokens": max_tokens, "request": {"messages": messages, **request}}
        spec |= call or {}
        return self.run(host, [spec], config=config)[0]


@pytest.fixture(scope="session")
def provider():
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def fake(provider):
    provider.reset()
    yield provider
    assert not provider.server.bugs, "\n".join(provider.server.bugs)


@pytest.fixture
def drive(fake):
    return Driver(fake)


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x80" * width for _ in range(height))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
