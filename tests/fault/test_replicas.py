"""A model on several GPUs: a worker on each (serve --gpus), which share the requests (server/route.h). The workers are scripted; with the simulated device:
test_cuda.py."""
import collections
import concurrent.futures
import os
import signal
import subprocess
import time

import pytest
import requests
from http_raw import wait_until
from serving import BIN, DEMO, FakeServer

GOOD = " a b c the red a b c the red"
LONG = "word " * 120  # more than one block of 64 tokens


def serve(gpus="0,1", **kw):
    return FakeServer(DEMO, "--no-auth", "--name", "demo", "--gpus", gpus, **kw)


@pytest.fixture
def server():
    s = serve()
    yield s
    assert s.stop() == 0, "".join(s.lines)


def ask(server, messages="hi", timeout=30, **more):
    messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    r = requests.post(server.url + "/v1/chat/completions", timeout=timeout, json={"model": "demo", "max_tokens": 10, "messages": messages, **more})
    return r.status_code, r.json()["choices"][0]["message"]["content"] if r.status_code == 200 else r.json()["error"]["code"]


def at_once(server, calls):
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [f.result() for f in [pool.submit(ask, server, **c) for c in calls]]


def gpus_of(server, event="submit"):
    return [r["gpu"] for r in server.recorded(event)]


def pid_on(server, gpu):
    return [r["pid"] for r in server.recorded("start") if r["gpu"] == gpu][-1]


def workers(server):
    return requests.get(server.url + "/admin/models/demo", timeout=5).json()["workers"]


def test_each_gpu_has_a_worker_and_all_are_told(server):
    assert sorted(gpus_of(server, "start")) == [0, 1] and len(server.children("worker")) == 2
    told = requests.get(server.url + "/v1/models/demo", timeout=5).json()
    assert told["replicas"] == [{"gpu": 0, "state": "ready"}, {"gpu": 1, "state": "ready"}]
    assert [(m["id"], m["gpu"], m["state"]) for m in requests.get(server.url + "/healthz", timeout=5).json()["models"]] == [("demo", 0, "ready"), ("demo", 1, "ready")]
    assert [w["worker"]["gpu"] for w in workers(server)] == [0, 1]
    assert server.log_has("model demo on GPU 1: worker ready")


def test_requests_take_turns_where_nothing_else_decides(server):
    for i in range(10):
        assert ask(server, f"hello {i}") == (200, GOOD)
    assert collections.Counter(gpus_of(server)) == {0: 5, 1: 5}


def test_requests_at_once_are_shared(server):
    assert at_once(server, [{"messages": f"hello {i}", "seed": server.seeds["slow"], "max_tokens": 3} for i in range(8)]) == [(200, GOOD[:6])] * 8
    assert collections.Counter(gpus_of(server)) == {0: 4, 1: 4}


def test_the_least_loaded_by_its_own_prediction_is_taken(server):
    server.script(prediction={"first_token_ms": 50, "prompt_token_ms": 0.01})
    assert ask(server, "one") == (200, GOOD)  # from now on this worker says that it is busy
    first = gpus_of(server)[0]
    server.script()
    for i in range(6):
        assert ask(server, f"two {i}") == (200, GOOD)
    assert gpus_of(server)[1:] == [1 - first] * 6


def test_a_prompt_goes_where_its_beginning_was_read(server):
    for i in range(6):
        assert ask(server, LONG + "and now?") == (200, GOOD)
    assert len(set(gpus_of(server))) == 1
    assert ask(server, "another " + LONG) == (200, GOOD)
    assert gpus_of(server)[-1] != gpus_of(server)[0]  # whose load is the same, but which has had more


def test_a_talk_that_grows_stays_with_its_worker(server):
    talks = {n: [{"role": "user", "content": f"Talk {n}: {LONG}"}] for n in range(4)}
    where = collections.defaultdict(list)
    for _ in range(4):
        for n, talk in talks.items():
            assert ask(server, talk) == (200, GOOD)
            where[n].append(gpus_of(server)[-1])
            talk += [{"role": "assistant", "content": GOOD}, {"role": "user", "content": "And then?"}]
    assert all(len(set(w)) == 1 for w in where.values()) and len({w[0] for w in where.values()}) == 2, dict(where)


def test_a_beginning_that_all_share_decides_nothing(server):
    for i in range(6):
        assert ask(server, LONG + f"a rest {i} of its own " * 60) == (200, GOOD)
    assert collections.Counter(gpus_of(server)) == {0: 3, 1: 3}


def test_affinity_yields_to_load(server):
    """All have the same beginning; no worker has more than ROUTE_MORE_SEQUENCES more than the other when it is chosen."""
    server.script(submit="queue")
    with concurrent.futures.ThreadPoolExecutor(14) as pool:
        for i in range(14):
            pool.submit(ask, server, LONG + str(i), timeout=60)
            assert wait_until(lambda n=i: len(gpus_of(server)) == n + 1) is not None
        n = collections.Counter(gpus_of(server))
        for pid in {r["pid"] for r in server.recorded("start")}:
            os.kill(pid, signal.SIGKILL)
    assert set(n) == {0, 1} and max(n.values()) - min(n.values()) <= 5 and max(n.values()) > min(n.values()), n


def test_a_killed_worker_costs_what_was_in_it(server):
    server.script(tokens_per_s=100)
    results, n = {}, 60

    def one(i):
        results[i] = ask(server, f"request {i}", seed=i, max_tokens=10 + i % 7)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(one, i) for i in range(n)]
        assert wait_until(lambda: len(results) >= n // 4, 20) is not None
        victim = pid_on(server, 1)
        os.kill(victim, signal.SIGKILL)
        ready = requests.get(server.url + "/readyz", timeout=5)
        for j in jobs:
            j.result()
    assert ready.status_code == 200
    lost = [i for i, r in results.items() if r[0] != 200]
    was_in = {r["seed"] for r in server.recorded("submit") if r["pid"] == victim}
    assert lost and len(lost) <= 8 and all(results[i] == (503, "worker_down") for i in lost), [results[i] for i in lost]
    assert len(set(lost) - was_in) <= 1  # one may have been on its way to it
    assert wait_until(lambda: [w["worker"]["state"] for w in workers(server)] == ["ready", "ready"], 10) is not None
    before = len(gpus_of(server))
    for i in range(4):
        assert ask(server, f"after {i}") == (200, GOOD)
    assert set(gpus_of(server)[before:]) == {0, 1}
    assert [w["worker"]["restarts"] for w in workers(server)] == [0, 1]


def test_while_one_is_down_the_other_answers_and_what_it_had_read_is_forgotten(server):
    assert ask(server, LONG) == (200, GOOD)
    gpu = gpus_of(server)[0]
    server.script(start="never hello", only_gpu=gpu)
    os.kill(pid_on(server, gpu), signal.SIGKILL)
    assert wait_until(lambda: "ready" not in [w["worker"]["state"] for w in workers(server) if w["worker"]["gpu"] == gpu]) is not None
    assert requests.get(server.url + "/readyz", timeout=5).status_code == 200
    for _ in range(3):
        assert ask(server, LONG) == (200, GOOD)
    assert gpus_of(server)[1:] == [1 - gpu] * 3


def test_requests_wait_when_all_are_restarted(server):
    def kill_all():
        for gpu in (0, 1):
            os.kill(pid_on(server, gpu), signal.SIGKILL)
    server.script(start="never hello")
    kill_all()
    assert wait_until(lambda: requests.get(server.url + "/readyz", timeout=5).text == "worker_down\n" and len(server.recorded("start")) == 4) is not None
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(ask, server, f"hello {i}") for i in range(6)]
        time.sleep(0.3)
        server.script()
        kill_all()
        assert [j.result() for j in jobs] == [(200, GOOD)] * 6


def test_a_request_that_kills_two_workers_is_refused(server):
    for _ in range(2):
        assert ask(server, "the killer", seed=server.seeds["exit 139 late"]) == (503, "worker_down")
        assert ask(server, "in between") == (200, GOOD)
    assert ask(server, "the killer", seed=server.seeds["exit 139 late"]) == (422, "request_quarantined")
    assert wait_until(lambda: [w["worker"]["state"] for w in workers(server)] == ["ready", "ready"], 10) is not None
    assert len(server.recorded("start")) == 4


def test_unloading_ends_all_workers_and_loading_starts_them(server):
    assert requests.delete(server.url + "/admin/models/demo", timeout=10).status_code == 200
    assert wait_until(lambda: server.children("worker") == [], 10) is not None
    made = requests.post(server.url + "/admin/models", json={"model": "demo", "gpus": "2,0,1", "wait": True}, timeout=60)
    assert made.status_code == 201 and made.json()["options"]["gpus"] == "2,0,1", made.text
    assert [w["worker"]["gpu"] for w in made.json()["workers"]] == [2, 0, 1] and len(server.children("worker")) == 3
    assert ask(server) == (200, GOOD)


def test_a_model_may_leave_the_gpus_of_the_server_alone(server):
    made = requests.post(server.url + "/admin/models", json={"model": "demo", "name": "other", "device": "cpu", "wait": True}, timeout=60)
    assert made.status_code == 201 and len(made.json()["workers"]) == 1 and "gpu" not in made.json()["worker"], made.text


def test_an_unload_waits_for_what_runs_on_all_of_them(server):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(ask, server, f"slow {i}", seed=server.seeds["slow"], max_tokens=3) for i in range(2)]
        assert wait_until(lambda: set(gpus_of(server)) == {0, 1}) is not None
        assert requests.delete(server.url + "/admin/models/demo", timeout=10).status_code == 202
        assert [j.result() for j in jobs] == [(200, GOOD[:6])] * 2
    assert wait_until(lambda: server.children("worker") == [], 10) is not None


def test_a_worker_that_cannot_start_ends_the_start_and_names_its_gpu():
    s = serve(script={"start": "no room", "only_gpu": 1}, wait=False)
    assert s.process.wait(20) == 1
    s.stop()
    assert "model demo on GPU 1: its worker could not start: needs 12.0 GB, 3.0 GB are free" in "".join(s.lines)


LISTS = [("x", "'x' is not a list of GPU numbers such as 0,1"), ("0,", "'0,' is not a list"), ("", "'' is not a list"), ("0;1", "'0;1' is not a list"), ("-1", "'-1' is not a list"),
         ("0,1,0", "0 is there twice"), ("0,1,2,3,4,5,6,7,8", "at most 8"), ("99999999999", "'99999999999' is not a list")]


@pytest.mark.parametrize("gpus, says", LISTS)
def test_bad_lists_are_told(gpus, says):
    r = subprocess.run([BIN, "serve", "demo", "--no-auth", f"--gpus={gpus}"], capture_output=True, text=True, timeout=30)
    assert r.returncode != 0 and f"--gpus: {says}" in r.stderr, r.stderr


def test_the_cpu_has_none():
    r = subprocess.run([BIN, "serve", "demo", "--no-auth", "--device", "cpu", "--gpus", "0"], capture_output=True, text=True, timeout=30)
    assert r.returncode != 0 and "--gpus: there are none to choose from with --device cpu" in r.stderr
    r = subprocess.run([BIN, "generate", "demo", "--prompt", "hi", "--gpus", "0,1"], capture_output=True, text=True, timeout=30)
    assert r.returncode != 0 and "--gpus: one process computes on one GPU" in r.stderr


def test_bad_orders_name_the_field(server):
    for order in ({"gpus": "0,0"}, {"gpus": "0", "device": "cpu"}, {"gpus": 0.5}):
        r = requests.post(server.url + "/admin/models", json={"model": "demo", "name": "more", **order}, timeout=10)
        assert r.status_code == 400 and r.json()["error"]["param"] == "gpus", r.text
