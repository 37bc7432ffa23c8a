"""Models that come and go while the server runs: POST, GET and DELETE /admin/models, with the real engine and the scripted one."""
import concurrent.futures
import shutil
import subprocess
import threading
import time

import pytest
import requests

from http_raw import n_fds, wait_until
from serving import BIN, DEMO, LLM, VLM, FakeServer, Server


def admin_key(server):
    key = subprocess.run([BIN, "keys", "add", "ops", "--admin", "--data", server.data.name], capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    end = time.monotonic() + 5
    while requests.get(server.url + "/admin/models", headers={"authorization": "Bearer " + key}).status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.02)
    return key


class Admin:
    def __init__(self, server):
        self.server, self.key = server, None if server.key is None else admin_key(server)

    def call(self, method, path="", key=..., **kw):
        key = self.key if key is ... else key
        return requests.request(method, self.server.url + "/admin/models" + path, headers={"authorization": "Bearer " + key} if key else {}, timeout=60, **kw)

    def load(self, **body):
        return self.call("POST", json=body)

    def state(self, name):
        r = self.call("GET", "/" + name)
        return r.json()["state"] if r.status_code == 200 else None

    def wait(self, name, state, within_s=30):
        assert wait_until(lambda: self.state(name) == state, within_s) is not None, self.call("GET", "/" + name).text
        return self.call("GET", "/" + name).json()


def chat(server, model, **changes):
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0, "ignore_eos": True, **changes}
    headers = {"authorization": "Bearer " + server.key} if server.key else {}
    return requests.post(server.url + "/v1/chat/completions", json=body, headers=headers, timeout=60)


def listed(server):
    headers = {"authorization": "Bearer " + server.key} if server.key else {}
    return {m["id"]: m for m in requests.get(server.url + "/v1/models", headers=headers).json()["data"]}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A root with two models and things that are none; beside it a model that may not be loaded."""
    base = tmp_path_factory.mktemp("models")
    root = base / "root"
    root.mkdir()
    shutil.copytree(LLM, root / "text")
    shutil.copytree(VLM, root / "deep/pictures", dirs_exist_ok=True)
    (root / "empty").mkdir()
    shutil.copytree(LLM, root / "broken")
    (root / "broken/tokenizer.json").write_text("{")
    shutil.copytree(LLM, base / "secret")
    shutil.copytree(LLM, base / "root2")  # shares a prefix of its name with the root
    (root / "out").symlink_to(base / "secret")
    return root


@pytest.fixture(scope="module")
def server(roots):
    s = Server("demo", "--model-root", roots)
    yield s
    assert s.stop() == 0, "".join(s.lines)


@pytest.fixture(scope="module")
def admin(server):
    return Admin(server)


def test_model_is_loaded_used_and_unloaded(server, admin):
    made = admin.load(model="text", name="one", kv_tokens=2048, threads=1)
    assert made.status_code == 202 and made.json()["state"] in ("loading", "ready"), made.text
    m = admin.wait("one", "ready")
    assert m["context_length"] > 0 and m["modalities"] == ["text"] and m["reason"] is None
    assert m["options"]["kv_tokens"] == "2048" and m["options"]["threads"] == "1"
    assert m["memory"]["kv_blocks"] * m["memory"]["block_tokens"] == 2048
    assert m["memory"]["weight_bytes"] > 0 and m["memory"]["kv_bytes"] > 0 and m["memory"]["rss_bytes"] > 0
    assert chat(server, "one").status_code == 200 and chat(server, "demo").status_code == 200
    assert set(listed(server)) == {"demo", "one"}
    gone = admin.call("DELETE", "/one")
    assert gone.status_code == 200 and gone.json() == {"id": "one", "object": "model", "deleted": True}
    assert admin.call("GET", "/one").status_code == 404 and set(listed(server)) == {"demo"}
    assert chat(server, "one").status_code == 404 and chat(server, "demo").status_code == 200
    assert wait_until(lambda: len(server.children("worker")) == 1, 10) is not None


def test_prediction_and_its_error_are_told(server, admin):
    """What comes true is held against what was said: nothing is known before the first answer."""
    assert admin.load(model="text", name="fresh", kv_tokens=4096, wait=True).status_code == 201
    unknown = admin.call("GET", "/fresh").json()
    assert unknown["load"]["running"] == unknown["load"]["waiting"] == 0
    assert set(unknown["prediction"]) == {"first_token_ms", "prompt_token_ms", "tokens_per_s", "side_by_side", "error_p90"} and set(unknown["prediction"].values()) == {None}
    for i in range(3):
        assert chat(server, "fresh", messages=[{"role": "user", "content": f"{i} " + "word " * 100}]).status_code == 200
    assert wait_until(lambda: admin.call("GET", "/fresh").json()["prediction"]["error_p90"] is not None, 5) is not None
    m = admin.call("GET", "/fresh").json()
    assert m["prediction"]["prompt_token_ms"] > 0 and m["prediction"]["tokens_per_s"] > 0 and m["prediction"]["first_token_ms"] == 0
    assert m["prediction"]["error_p90"] >= 0 and m["load"]["free_blocks"] == m["memory"]["kv_blocks"]
    assert admin.call("DELETE", "/fresh").status_code == 200


def test_wait_answers_when_it_is_ready(server, admin):
    made = admin.load(path="deep/pictures", wait=True)
    assert made.status_code == 201 and made.json()["state"] == "ready" and made.json()["id"] == "pictures"
    assert listed(server)["pictures"]["modalities"] == ["text", "image"] and listed(server)["pictures"]["state"] == "ready"
    again = admin.load(path="deep/pictures", wait=True)
    assert again.status_code == 409 and again.json()["error"]["code"] == "model_exists"
    assert admin.call("DELETE", "/pictures").status_code == 200


def test_absolute_path_below_a_root_is_taken(admin, roots):
    assert admin.load(model=str(roots / "text"), name="absolute", wait=True).status_code == 201
    assert admin.call("DELETE", "/absolute").status_code == 200


@pytest.mark.parametrize("name", ["../secret", "../root2", "text/../../secret", "out", "/etc", "empty", "missing", "deep/pictures/config.json", ".", "a" * 5000, "text\u0000", "text/"])
def test_folder_outside_the_roots_is_refused_without_telling_what_is_there(server, admin, name):
    before = len(server.children("worker"))
    answer = admin.load(model=name, name="outside", wait=True)
    if name == "text/":
        assert answer.status_code == 201 and admin.call("DELETE", "/outside").status_code == 200
        return
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "model"
    if name != "text\u0000":
        assert "no such model folder" in answer.json()["error"]["message"]
    assert len(server.children("worker")) == before and admin.call("GET", "/outside").status_code == 404


def test_absolute_paths_beside_the_root_are_refused(admin, roots):
    for path in (roots.parent / "secret", roots.parent / "root2", roots / "out"):
        assert admin.load(model=str(path), name="outside", wait=True).status_code == 400


@pytest.mark.parametrize("body,param", [({}, "model"), ({"model": "text", "path": "text"}, "model"), ({"model": 5}, "model"), ({"model": "text", "name": ""}, "name"), ({"model": "text", "wait": 1}, "wait"),
                                        ({"model": "text", "name": "a\nb"}, "name"), ({"model": "text", "kv_tokens": -1}, "kv_tokens"), ({"model": "text", "kv_tokens": 1.5}, "kv_tokens"),
                                        ({"model": "text", "device": "tpu"}, "device"), ({"model": "text", "device": 0}, "device"), ({"model": "text", "listen": "0.0.0.0:1"}, "listen"),
                                        ({"model": "text", "random_weights": "135m:1"}, "random_weights"), ({"model": "text", "threads": "two"}, "threads"), ({"model": "text", "name": "n" * 300}, "name")])
def test_senseless_order_is_refused_by_name(admin, body, param):
    answer = admin.load(**body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_model_that_cannot_be_loaded_ends_nobody(server, admin):
    answer = admin.load(model="broken", wait=True)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "model_load_failed", answer.text
    m = admin.call("GET", "/broken").json()
    assert m["state"] == "failed" and "tokenizer.json" in m["reason"]
    assert chat(server, "demo").status_code == 200 and requests.get(server.url + "/readyz").status_code == 200
    assert "broken" not in listed(server) and chat(server, "broken").status_code == 404
    assert wait_until(lambda: len(server.children("worker")) == 1, 10) is not None
    assert admin.load(model="text", name="broken", wait=True).status_code == 201  # the name is free for another try
    assert admin.call("DELETE", "/broken").status_code == 200


def test_plan_that_does_not_fit_is_told_with_its_numbers(admin):
    answer = admin.load(model="text", name="huge", kv_tokens=268435456, wait=True)
    reason = admin.call("GET", "/huge").json()["reason"]
    assert answer.status_code == 400 and "MiB" in reason and "kv-tokens" in reason, reason
    assert admin.call("DELETE", "/huge").json()["deleted"] is True


def test_only_admin_keys_may(server, admin):
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/demo"), ("DELETE", "/demo")):
        assert admin.call(method, path, key=server.key).status_code == 403
        assert admin.call(method, path, key=None).status_code == 401
    assert admin.call("PUT", "").status_code == 405 and admin.call("PUT", "").headers["allow"] == "GET, HEAD, POST"
    assert admin.call("POST", "/demo").headers["allow"] == "GET, HEAD, DELETE"


def test_without_a_root_only_what_the_start_named_can_be_loaded(tmp_path):
    s = Server(LLM, "--name", "tiny")
    try:
        a = Admin(s)
        assert a.call("DELETE", "/tiny").json()["deleted"] is True
        assert requests.get(s.url + "/readyz").status_code == 503 and requests.get(s.url + "/livez").status_code == 200
        assert listed(s) == {}
        assert a.load(model=str(VLM), wait=True).status_code == 400
        assert a.load(model=str(LLM), name="tiny", wait=True).status_code == 201
        assert a.load(model="demo", wait=True).status_code == 201
        assert chat(s, "tiny").status_code == 200 and chat(s, "demo").status_code == 200
        assert requests.get(s.url + "/readyz").status_code == 200
    finally:
        assert s.stop() == 0, "".join(s.lines)


def test_loading_and_unloading_again_and_again_leaks_nothing(server, admin, size):
    for _ in range(2):
        assert admin.load(model="text", name="again", threads=1, kv_tokens=512, wait=True).status_code == 201
        admin.call("DELETE", "/again")
    assert wait_until(lambda: len(server.children("worker")) == 1, 10) is not None
    before = n_fds(server.process.pid)
    for i in range(size(5, 200)):
        assert admin.load(model="text", name="again", threads=1, kv_tokens=512, wait=i % 2 == 0).status_code in (201, 202)
        if i % 3 == 0 and i % 2 == 0:
            assert chat(server, "again").status_code == 200
        assert admin.call("DELETE", "/again").status_code in (200, 202)
        assert wait_until(lambda: admin.state("again") is None, 20) is not None
    assert wait_until(lambda: n_fds(server.process.pid) <= before, 10) is not None
    assert wait_until(lambda: len(server.children("worker")) == 1, 10) is not None


# --- the scripted engine ---

@pytest.fixture
def fake():
    s = FakeServer(DEMO, "--no-auth", "--name", "demo", "--drain-timeout", "1s")
    yield s
    assert s.stop() == 0, "".join(s.lines)


def test_unloading_finishes_what_runs_and_takes_nothing_new(fake):
    a = Admin(fake)
    assert a.load(model="demo", name="second", wait=True).status_code == 201
    fake.script(tokens_per_s=100)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(chat, fake, "second", max_tokens=50)
        assert wait_until(lambda: len(fake.recorded("submit")) == 1, 5) is not None
        gone = a.call("DELETE", "/second")
        assert gone.status_code == 202 and gone.json()["state"] == "draining" and gone.json()["requests"] == 1
        refused = chat(fake, "second")
        assert refused.status_code == 503 and "retry-after" in refused.headers
        assert "second" not in listed(fake)
        assert a.load(model="demo", name="second").status_code == 409  # until it is gone
        assert running.result().status_code == 200
    assert wait_until(lambda: a.state("second") is None, 5) is not None


def test_unloading_cuts_what_does_not_end(fake):
    a = Admin(fake)
    assert a.load(model="demo", name="second", wait=True).status_code == 201
    fake.script(submit="queue")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(chat, fake, "second")
        assert wait_until(lambda: len(fake.recorded("submit")) == 1, 5) is not None
        assert a.call("DELETE", "/second").status_code == 202
        assert running.result().status_code == 503
    assert wait_until(lambda: a.state("second") is None, 5) is not None
    fake.script()
    assert chat(fake, "demo").status_code == 200


def test_unloading_while_it_loads_answers_who_waits(fake):
    a = Admin(fake)
    fake.script(start="never hello")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(a.load, model="demo", name="slow", wait=True)
        a.wait("slow", "loading")
        assert chat(fake, "slow").status_code == 503
        assert requests.get(fake.url + "/readyz").status_code == 200
        assert a.call("DELETE", "/slow").status_code == 200
        answer = asked.result()
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "model_load_failed"
    assert wait_until(lambda: len(fake.children("worker")) == 1, 5) is not None


def test_who_waits_for_a_model_may_leave(fake):
    a = Admin(fake)
    fake.script(start="never hello")
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(fake.url + "/admin/models", json={"model": "demo", "name": "slow", "wait": True}, timeout=0.5)
    assert a.call("DELETE", "/slow").status_code == 200


@pytest.mark.parametrize("start,reason", [("no room", "needs 12.0 GB, 3.0 GB are free"), ("exit 78", "does not fit into memory"), ("exit 139", "exit code 139"), ("garbage", "frame of"),
                                          ("wrong version", "version")])
def test_worker_that_cannot_start_is_a_failed_model(fake, start, reason):
    a = Admin(fake)
    fake.script(start=start)
    assert a.load(model="demo", name="second", wait=True).status_code == 400
    assert reason in a.call("GET", "/second").json()["reason"]
    assert len([r for r in fake.recorded("start")]) == 2  # it is not tried again
    assert chat(fake, "demo").status_code == 200


def test_t50_reason_of_the_worker_ends_the_start():
    s = FakeServer(DEMO, "--no-auth", script={"start": "no room"}, wait=False)
    assert s.process.wait(20) == 1
    s.stop()
    assert any("its worker could not start: needs 12.0 GB, 3.0 GB are free" in line for line in s.lines), s.lines


def test_a_loaded_model_that_dies_is_started_again(fake):
    a = Admin(fake)
    assert a.load(model="demo", name="second", wait=True).status_code == 201
    assert chat(fake, "second", seed=fake.seeds["exit 139"]).status_code == 503
    assert chat(fake, "second").status_code == 200  # waits for the next worker
    assert a.call("GET", "/second").json()["worker"]["restarts"] == 1


def test_requests_during_loading_and_unloading_are_answered_or_refused_never_lost(fake, size):
    a = Admin(fake)
    ending, seen = threading.Event(), []

    def ask():
        while not ending.is_set():
            seen.append(chat(fake, "other").status_code)
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for t in threads:
        t.start()
    for _ in range(size(6, 100)):
        assert a.load(model="demo", name="other", wait=True).status_code == 201
        time.sleep(0.05)
        assert a.call("DELETE", "/other").status_code in (200, 202)
        assert wait_until(lambda: a.state("other") is None, 10) is not None
    ending.set()
    for t in threads:
        t.join(30)
    assert set(seen) <= {200, 404, 503} and 200 in seen, set(seen)
    assert chat(fake, "demo").status_code == 200
