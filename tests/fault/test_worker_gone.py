"""Ends of one side, and what the other makes of it. The gateway is killed (SIGKILL): its workers and media processes end with it, whatever they are
doing; a worker that computes sees its socket end (test_worker.c), one that does nothing any more has the kernel's signal (PR_SET_PDEATHSIG) alone. A
worker that comes back as another is replaced; one that says what is not its business is not believed."""
import pathlib
import threading

import pytest
import requests
from http_raw import wait_until
from serving import DEMO, FakeServer, Server

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 900, "ignore_eos": True}


def ended(pid):
    stat = pathlib.Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"  # nobody may be there to take its status
    except (FileNotFoundError, ProcessLookupError):
        return True


def ask(server, **kw):
    def run():
        try:
            requests.post(server.url + "/v1/chat/completions", json={**CHAT, **kw}, timeout=10)
        except requests.RequestException:
            pass
    threading.Thread(target=run, daemon=True).start()


def kill_and_see(server, pids, figure, size, what):
    assert pids and not any(ended(p) for p in pids)
    server.killed = True
    server.process.kill()
    server.process.wait()
    took = wait_until(lambda: all(ended(p) for p in pids), 10, 0.001)
    server.stop()
    assert took is not None and took <= size(10, 1)
    figure(f"gateway killed, worker {what}: all ended after", took * 1000, "ms")


@pytest.mark.parametrize("what", ["answer", "hang", "stop reading", "queue"])
def test_worker_dies_with_its_gateway(what, figure, size):
    s = FakeServer(DEMO, "--no-auth", "--name", "demo", "--hang-timeout", "60s", script={"submit": what, "tokens_per_s": 100})
    ask(s)
    assert wait_until(lambda: s.recorded("submit")) is not None
    kill_and_see(s, s.children("worker") + s.children("media"), figure, size, f"at '{what}'")


@pytest.mark.parametrize("what", ["hang", "never hello"])
def test_worker_that_loads_dies_with_its_gateway(what, figure, size):
    s = FakeServer(DEMO, "--no-auth", "--name", "demo", script={"start": what}, wait=False)
    assert wait_until(lambda: s.recorded("start"), 20) is not None
    kill_and_see(s, s.children("worker"), figure, size, f"loading ('{what}')")


def test_real_worker_at_work_dies_with_its_gateway(figure, size):
    s = Server(DEMO, "--no-auth", "--name", "demo")
    for _ in range(8):
        ask(s)
    assert wait_until(lambda: requests.get(s.url + "/healthz", timeout=5).json()["models"][0]["sequences"] > 0) is not None
    kill_and_see(s, s.children("worker") + s.children("media"), figure, size, "computing")


@pytest.fixture
def server():
    s = FakeServer(DEMO, "--no-auth", "--name", "demo")
    yield s
    assert s.stop() == 0, "".join(s.lines)


def test_a_worker_that_comes_back_as_another_is_replaced(server):
    """Not the whole server ended, which has served well until now."""
    s = server
    s.script(start="other limits")
    ask(s, seed=s.seeds["exit 139"])
    assert s.log_has("other limits than before")
    assert requests.get(s.url + "/livez", timeout=5).status_code == 200
    s.script(start="ok")
    assert wait_until(lambda: requests.get(s.url + "/readyz", timeout=5).status_code == 200, 15) is not None


def test_a_worker_cannot_say_what_is_not_its_business(server):
    """It fails a request as if by the key: the client hears of a mistake here, in our words."""
    s = server
    r = requests.post(s.url + "/v1/chat/completions", json={**CHAT, "seed": s.seeds["odd error"]}, timeout=10)
    assert r.status_code == 500 and r.json()["error"]["code"] == "internal_error" and "key" not in r.text
    assert requests.post(s.url + "/v1/chat/completions", json={**CHAT, "max_tokens": 5}, timeout=10).status_code == 200
    assert len(s.recorded("start")) == 1
