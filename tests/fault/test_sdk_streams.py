"""64 concurrent streams of the official SDK with cancellations at random for five minutes (short: 5 s), against the demo model: no error but
"come again", every stream that is read to its end says why it ended, no KV block stays taken, and memory does not drift."""
import asyncio
import base64
import collections
import random
import subprocess
import time

import openai
import pytest
import requests
from conftest import long_run
from http_raw import rss_bytes
from serving import BIN, DEMO, ROOT, Server

STREAMS = 64
PICTURES = ["data:image/png;base64," + base64.b64encode(p.read_bytes()).decode() for p in sorted((ROOT / "weights/demo/samples").glob("*.png"))]
QUESTIONS = ["Describe the picture.", "How many shapes are there?", "What colour is the circle?"]
WORDS = "circle square red blue how many where is the big small green triangle".split()


@pytest.fixture
def server():
    s = Server(DEMO, "--name", "demo", "--log-level", "error", "--max-streams-per-key", str(STREAMS))
    made = subprocess.run([BIN, "keys", "add", "operator", "--admin", "--data", s.data.name], capture_output=True, text=True, timeout=30, check=True)
    s.admin_key = made.stdout.strip()
    yield s
    print("".join(s.lines[-20:]))  # shown if the test fails: why a worker ended
    assert s.stop() == 0


def body(rng):
    content = " ".join(rng.choices(WORDS, k=rng.randint(1, 60)))
    if rng.random() < 0.3:
        content = [{"type": "image_url", "image_url": {"url": rng.choice(PICTURES)}}, {"type": "text", "text": rng.choice(QUESTIONS)}]
    return {"model": "demo", "messages": [{"role": "user", "content": content}], "stream": True, "stream_options": {"include_usage": True},
            "max_tokens": rng.randint(1, 80), "temperature": rng.choice([0, 0.7, 1.5]), "seed": rng.randint(0, 10**6), "n": rng.choice([1, 1, 1, 2]),
            "extra_body": {"ignore_eos": rng.random() < 0.5}}


async def one_client(client, seed, until, counts):
    rng = random.Random(seed)
    while time.monotonic() < until:
        request = body(rng)
        leave_after = rng.randint(0, 30) if rng.random() < 0.4 else None
        finished, usage, n_chunks = set(), None, 0
        try:
            stream = await client.chat.completions.create(**request)
        except openai.RateLimitError as refusal:  # a machine that others keep busy answers fewer side by side
            counts["refused"] += 1
            await asyncio.sleep(min(int(refusal.response.headers["retry-after"]), 2))
            continue
        async with stream:
            async for chunk in stream:
                n_chunks += 1
                finished |= {c.index for c in chunk.choices if c.finish_reason}
                usage = chunk.usage or usage
                if leave_after is not None and n_chunks > leave_after:
                    counts["left"] += 1
                    break
            else:
                assert finished == set(range(request["n"])), (request, finished)
                assert usage and 0 < usage.completion_tokens <= request["n"] * request["max_tokens"], (request, usage)
                counts["whole"] += 1


async def all_clients(server, seconds, counts, seed):
    until = time.monotonic() + seconds
    limits = {"max_retries": 0, "timeout": 120}
    async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key=server.key, **limits) as client:
        await asyncio.gather(*(one_client(client, seed * 1000 + i, until, counts) for i in range(STREAMS)))


def at_rest(server):
    """What the worker says of itself once nothing runs, and each process's memory."""
    end = time.monotonic() + 10
    while True:
        r = requests.get(server.url + "/admin/models/demo", headers={"authorization": "Bearer " + server.admin_key}, timeout=10)
        m = r.json() if r.status_code == 200 else None
        idle = m and m["requests"] == 0 and m["load"]["running"] == m["load"]["waiting"] == 0 and m["load"]["free_blocks"] == m["memory"]["kv_blocks"]
        if idle or time.monotonic() > end:
            assert idle, r.text
            return {name: sum(map(rss_bytes, pids)) for name, pids in {"gateway": [server.process.pid], "worker": server.children("worker"),
                                                                      "media": server.children("media")}.items()}
        time.sleep(0.1)


def test_sdk_streams_with_cancellations(server, figure):
    seconds, memory, counts = (60 if long_run() else 1), [], collections.Counter()
    for part in range(5):
        asyncio.run(all_clients(server, seconds, counts, part))
        memory.append(at_rest(server))
    figure("SDK streams", f"{counts['whole']} read to their end, {counts['left']} left, {counts['refused']} refused")
    assert counts["whole"] > STREAMS and counts["left"] > STREAMS and counts["refused"] < counts["whole"]
    for process in memory[0]:
        figure(f"SDK streams: {process}", ", ".join(f"{m[process] >> 10}" for m in memory) + " KiB after each fifth")
        if long_run():
            assert memory[-1][process] <= 1.02 * memory[1][process], (process, memory)
