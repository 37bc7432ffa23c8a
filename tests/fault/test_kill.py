"""SIGKILL of a worker or a media process during 100 requests costs at most the requests in flight; serving again within 2 s."""
import base64
import io
import json
import os
import pathlib
import queue
import signal
import sys
import threading
import time

import pytest
import requests
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from serving import VLM, Server  # noqa: E402

THREADS = 8


@pytest.fixture
def server():
    s = Server(VLM, "--no-auth")
    yield s
    code = s.stop()
    assert code == 0 or s.killed, "".join(s.lines)


def picture_url(size=(200, 150)):
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def body(with_picture=False, **kw):
    content = [{"type": "image_url", "image_url": {"url": picture_url()}}] if with_picture else []
    return {"model": VLM.name, "messages": [{"role": "user", "content": content + [{"type": "text", "text": "Hi"}]}], "max_tokens": 100, "temperature": 0,
            "ignore_eos": True, **kw}


def ask(server, **kw):
    """'ok', or (status, code) of an error; for a stream that breaks off with an error event: ('stream', code)."""
    request = body(**kw)
    r = requests.post(server.url + "/v1/chat/completions", json=request, timeout=60)
    if r.status_code != 200:
        return r.status_code, r.json()["error"]["code"]
    if not kw.get("stream"):
        assert r.json()["usage"]["completion_tokens"] == request["max_tokens"]
        return "ok"
    events = [e[6:] for e in r.text.split("\n\n") if e]
    if events[-1] == "[DONE]":
        return "ok"
    assert "[DONE]" not in events
    return "stream", json.loads(events[-1])["error"]["code"]


def load(server, n, kill, **kw):
    """n requests by THREADS clients; kill() is called when a quarter is through. Returns the results in order of their ends."""
    todo, results = queue.Queue(), []
    for i in range(n):
        todo.put(i)

    def work():
        while True:
            try:
                i = todo.get_nowait()
            except queue.Empty:
                return
            # answers of many lengths: clients do not fall into step, so that some are under way at any moment
            result = ask(server, stream=i % 2 == 0, max_tokens=60 + 31 * (i % 11), **kw)
            results.append(result)
            if result != "ok" and result[0] == 503:
                time.sleep(0.1)  # a client that honours Retry-After would wait longer
    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for t in threads:
        t.start()
    while len(results) < n // 4:
        time.sleep(0.002)
    kill()
    for t in threads:
        t.join(120)
    return results


def wait_replaced(server, command, old):
    start = time.monotonic()
    while time.monotonic() - start < 5:
        if (new := server.children(command)) and old not in new:
            if ask(server, with_picture=command == "media") == "ok":
                return time.monotonic() - start
        time.sleep(0.01)
    pytest.fail("not serving again")


def test_worker_killed_costs_what_was_in_flight(server):
    old = server.children("worker")[0]
    results = load(server, 100, lambda: os.kill(old, signal.SIGKILL))
    lost = [r for r in results if r != "ok"]
    assert len(results) == 100 and all(r[1] == "worker_down" for r in lost), lost
    # in flight at the moment of death, and those that came before the new one was ready
    assert 1 <= len(lost) <= 4 * THREADS, lost
    assert results[-THREADS:] == ["ok"] * THREADS
    assert server.children("worker") not in ([], [old])


def test_media_killed_costs_at_most_one_call(server):
    old = server.children("media")[0]
    results = load(server, 100, lambda: os.kill(old, signal.SIGKILL), with_picture=True)
    lost = [r for r in results if r != "ok"]
    assert len(results) == 100 and len(lost) <= 1 and all(r == (503, "worker_down") for r in lost), lost
    assert server.children("media") not in ([], [old])


@pytest.mark.parametrize("command", ["worker", "media"])
def test_serving_again_within_two_seconds(server, command):
    for _ in range(3):
        assert ask(server, with_picture=True) == "ok"
        old = server.children(command)[0]
        os.kill(old, signal.SIGKILL)
        assert wait_replaced(server, command, old) < 2


def test_stopped_worker_answers_when_it_goes_on(server):
    """A stopped process is no dead one: nothing is lost."""
    old = server.children("worker")[0]
    os.kill(old, signal.SIGSTOP)
    result = []
    t = threading.Thread(target=lambda: result.append(ask(server)))
    t.start()
    time.sleep(0.3)
    assert requests.get(server.url + "/livez", timeout=2).status_code == 200 and not result
    os.kill(old, signal.SIGCONT)
    t.join(30)
    assert result == ["ok"]


def test_children_die_with_the_server(server):
    pids = server.children("worker") + server.children("media")
    server.killed = True
    server.process.kill()
    server.process.wait()
    end = time.monotonic() + 2
    alive = pids
    while alive and time.monotonic() < end:
        alive = [p for p in alive if pathlib.Path(f"/proc/{p}/stat").exists() and pathlib.Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"]
        time.sleep(0.01)
    assert not alive
