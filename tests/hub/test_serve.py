"""serve owner/name: from the cache if it is there, else downloaded first; and huggingface_hub as the cache's other user."""
import json
import os
import pathlib
import subprocess
import sys
import urllib.request

import pytest
from conftest import FILES, Machine
from hub_server import Corrupt, Cut
from serving import Server

MODEL = "model.safetensors"
SERVE = ("--no-auth", "--threads", 1, "--kv-tokens", 4096)


def chat(server, model):
    body = {"model": model, "temperature": 0, "max_tokens": 8, "messages": [{"role": "user", "content": "Describe the picture."}]}
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def environment(machine, **env):
    """For Server, which adds to the test's own environment."""
    return {**dict.fromkeys(("http_proxy", "HTTP_PROXY", "HF_TOKEN", "HF_HUB_CACHE"), ""), **machine.env, **env}


def test_serve_downloads_then_answers_by_that_name(hub, machine, repo):
    hub.faults[MODEL] = [Cut(3_000_000)]
    s = Server("owner/model", *SERVE, env=environment(machine))
    try:
        answer = chat(s, "owner/model")
        assert answer["model"] == "owner/model" and answer["choices"][0]["message"]["content"]
        with urllib.request.urlopen(f"{s.url}/v1/models", timeout=10) as models:
            assert [m["id"] for m in json.load(models)["data"]] == ["owner/model"]
    finally:
        assert s.stop() == 0, "".join(s.lines)
    assert (machine.snapshot(repo) / MODEL).read_bytes() == FILES[MODEL]


def test_serve_downloads_several_with_one_token(hub, machine):
    for name in ("owner/one", "owner/two"):
        hub.add(name, FILES, token="hf_secretofthistest")
    s = Server("owner/one", "owner/two", *SERVE, env=environment(machine, HF_TOKEN="hf_secretofthistest"))
    try:
        assert chat(s, "owner/two")["model"] == "owner/two"
    finally:
        assert s.stop() == 0


def test_pull_then_serve_asks_nobody(hub, machine, repo):
    assert machine.pull().returncode == 0
    hub.log.clear()
    s = Server("owner/model", *SERVE, env=environment(machine))
    try:
        assert chat(s, "owner/model")["choices"][0]["message"]["content"]
    finally:
        assert s.stop() == 0
    assert hub.log == []


def test_serve_offline_is_from_the_cache_alone(hub, machine, sharded):
    assert machine.pull("owner/sharded").returncode == 0
    hub.close()
    s = Server("owner/sharded", *SERVE, env=environment(machine, HF_HUB_OFFLINE="1"))
    try:
        assert chat(s, "owner/sharded")["choices"][0]["message"]["content"]
    finally:
        assert s.stop() == 0


def test_serve_offline_without_it_says_so(hub, machine, repo):
    r = machine.run("serve", "owner/model", "--no-auth", "--listen", "127.0.0.1:0", HF_HUB_OFFLINE="1")
    assert r.returncode == 1 and "owner/model@main: is not in the cache" in r.stderr and "HF_HUB_OFFLINE" in r.stderr and hub.log == []


def test_serve_names_what_cannot_be_downloaded(hub, machine, repo):
    hub.faults["config.json"] = [Corrupt(3)] * 9
    r = machine.run("serve", "owner/model", "--no-auth", "--listen", "127.0.0.1:0")
    assert r.returncode == 1 and "config.json" in r.stderr and "deleted" in r.stderr
    r = machine.run("serve", "owner/none", "--no-auth", "--listen", "127.0.0.1:0", "--log-format", "json")
    lines = [json.loads(line) for line in r.stderr.splitlines()]
    assert r.returncode == 1 and "no such repository" in lines[-1]["msg"]


def test_folder_of_that_name_is_taken_first(hub, machine, tmp_path):
    folder = tmp_path / "owner/model"
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    r = machine.run("generate", "owner/model", "--prompt", "x", "--max-tokens", 2, "--temperature", 0)
    assert r.returncode == 0 and hub.log == [], r.stderr


def test_other_commands_take_what_is_in_the_cache(hub, machine, repo):
    r = machine.run("tokenize", "owner/model", "--text", "x")
    assert r.returncode == 1 and "spillway pull owner/model" in r.stderr
    assert machine.pull().returncode == 0
    assert json.loads(machine.run("tokenize", "owner/model", "--text", "x").stdout)
    assert json.loads(machine.run("tokenize", f"owner/model@{repo.commit}", "--text", "x", HF_HUB_OFFLINE="1").stdout)


def test_token_is_in_no_process_of_the_server(machine, repo):
    assert machine.pull().returncode == 0
    s = Server("owner/model", *SERVE, env=environment(machine, HF_TOKEN="hf_secretofthistest"))
    try:
        processes = [s.process.pid, *s.children("worker"), *s.children("media")]
        assert len(processes) == 3
        for pid in processes:
            assert b"hf_secretofthistest" not in pathlib.Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        assert s.stop() == 0
    assert "hf_secretofthistest" not in "".join(s.lines)


def test_admin_loads_a_named_model_again_from_the_cache(hub, machine, repo):
    s = Server("owner/model", "--threads", 1, "--kv-tokens", 4096, env=environment(machine))
    try:
        key = machine.run("keys", "add", "ops", "--admin", "--data", s.data.name).stdout.strip()

        def models(*args):
            return machine.run("models", *args, "--url", s.url, SPILLWAY_API_KEY=key)
        for _ in range(100):
            if models("list").returncode == 0:
                break
        assert models("unload", "owner/model").returncode == 0
        hub.log.clear()
        for _ in range(100):
            r = models("load", "owner/model")
            if r.returncode == 0 or "two models" not in r.stderr:
                break
        assert r.returncode == 0 and "owner/model" in r.stdout, r.stderr
        assert "There is no such model folder" in models("load", "owner/other").stderr
        assert hub.log == []
    finally:
        assert s.stop() == 0


# ---- huggingface_hub itself, on the same cache ----

FETCH = """import sys, huggingface_hub as h
print(h.snapshot_download(sys.argv[1], revision=sys.argv[2], allow_patterns=["*.json", "*.jinja", "*.safetensors"]))"""


@pytest.fixture
def theirs(machine):
    """huggingface_hub's own download, in a process of its own."""
    def fetch(name="owner/model", revision="main", **env):
        env = machine.with_(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1", **env)
        r = subprocess.run([sys.executable, "-c", FETCH, name, revision], capture_output=True, text=True, timeout=60, env=env)
        assert r.returncode == 0, r.stderr
        return pathlib.Path(r.stdout.strip())
    return fetch


def layout(folder):
    """What the cache holds of a repository: names, kinds, where links lead; not huggingface_hub's own notes."""
    return {(str(p.relative_to(folder)), os.readlink(p) if p.is_symlink() else p.is_dir()) for p in folder.rglob("*")
            if p.relative_to(folder).parts[0] in ("blobs", "refs", "snapshots")}


def bytes_asked_for(hub):
    return [s for s in hub.log if s.method == "GET" and "/api/" not in s.path]


def test_spillway_reuses_what_huggingface_hub_has_downloaded(hub, machine, repo, theirs):
    snapshot = theirs()
    before = layout(machine.folder())
    hub.log.clear()
    r = machine.pull()
    assert r.returncode == 0 and r.stdout == f"{snapshot}\n", r.stderr
    assert bytes_asked_for(hub) == [] and layout(machine.folder()) == before
    assert machine.run("tokenize", "owner/model", "--text", "x", HF_HUB_OFFLINE="1").returncode == 0


def test_huggingface_hub_reuses_what_spillway_has_downloaded(hub, machine, repo, theirs):
    r = machine.pull()
    assert r.returncode == 0
    before = layout(machine.folder())
    hub.log.clear()
    assert f"{theirs()}\n" == r.stdout and bytes_asked_for(hub) == [] and layout(machine.folder()) == before
    assert f"{theirs(HF_HUB_OFFLINE='1')}\n" == r.stdout


def test_both_make_the_same_layout(hub, tmp_path, repo, theirs, machine):
    theirs()
    other = Machine(hub, tmp_path / "other")
    other.home.mkdir()
    assert other.pull().returncode == 0
    assert layout(other.folder()) == layout(machine.folder())


def test_branch_of_several_words_is_found_by_both(hub, machine, repo, theirs):
    repo.refs["refs/pr/7"] = repo.commit
    snapshot = theirs(revision="refs/pr/7")
    hub.close()
    r = machine.pull("owner/model@refs/pr/7", HF_HUB_OFFLINE="1")
    assert r.returncode == 0 and r.stdout == f"{snapshot}\n"
