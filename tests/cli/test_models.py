"""spillway models: list, load and unload on the command line, against a running server."""
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # serving.py
from serving import BIN, DEMO, LLM, Server  # noqa: E402

HEADER = ["NAME", "STATE", "CONTEXT", "QUANT", "MEMORY", "REQUESTS", "REASON"]


def models(server, *args, key=None, **env):
    """Runs the command with the key in the environment; key "": none."""
    environment = {k: v for k, v in os.environ.items() if k != "SPILLWAY_API_KEY"}
    key = server.admin if key is None else key
    return subprocess.run([BIN, "models", *map(str, args), "--url", server.url], capture_output=True, text=True, timeout=60,
                          env={**environment, **({"SPILLWAY_API_KEY": key} if key else {}), **env})


def table(text):
    """Rows as dicts; columns begin where the header's words do."""
    head, *lines = text.splitlines()
    starts = [m.start() for m in re.finditer(r"\S+", head)]
    assert head.split() == HEADER
    return [dict(zip(HEADER, (line[a:b].strip() for a, b in zip(starts, [*starts[1:], None])))) for line in lines]


def names(server):
    return [m["NAME"] for m in table(models(server, "list").stdout)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    (root / "text").mkdir()
    for file in LLM.iterdir():
        (root / "text" / file.name).write_bytes(file.read_bytes())
    (root / "broken").mkdir()
    for file in LLM.iterdir():
        (root / "broken" / file.name).write_bytes(b"{" if file.name == "tokenizer.json" else file.read_bytes())
    s = Server(DEMO, "--name", "demo", "--model-root", root, "--threads", 1, "--kv-tokens", 4096)
    s.admin = subprocess.run([BIN, "keys", "add", "ops", "--admin", "--data", s.data.name], capture_output=True, text=True, check=True).stdout.strip()
    end = time.monotonic() + 5
    while models(s, "list").returncode and time.monotonic() < end:
        time.sleep(0.02)
    yield s
    assert s.stop() == 0, "".join(s.lines)


def test_list_is_an_aligned_table(server):
    r = models(server, "list")
    assert r.returncode == 0 and r.stderr == ""
    (demo,) = table(r.stdout)
    assert demo["NAME"] == "demo" and demo["STATE"] == "ready" and demo["QUANT"] == "none" and demo["REQUESTS"] == "0" and demo["REASON"] == ""
    assert int(demo["CONTEXT"]) == 1024 and float(demo["MEMORY"].removesuffix(" MB")) > 1


def test_json_is_what_the_server_says(server):
    r = models(server, "list", "--json")
    answer = json.loads(r.stdout)
    assert answer["object"] == "list" and answer["data"][0]["id"] == "demo" and "prediction" in answer["data"][0]


def test_load_waits_until_the_model_is_ready_and_unload_ends_it(server):
    r = models(server, "load", "text", "--name", "one more", "--quant", "int8", "--kv-tokens", 512, "--cache-scope", "shared")
    assert r.returncode == 0 and r.stderr == "", r
    (row,) = table(r.stdout)
    assert (row["NAME"], row["STATE"], row["QUANT"]) == ("one more", "ready", "int8")
    shown = next(m for m in json.loads(models(server, "list", "--json").stdout)["data"] if m["id"] == "one more")
    assert shown["memory"]["kv_blocks"] * shown["memory"]["block_tokens"] == 512
    assert shown["options"]["cache_scope"] == "shared" and shown["options"]["threads"] == "1"  # not given: the server's own
    assert names(server) == ["demo", "one more"]
    r = models(server, "unload", "one more")
    assert r.returncode == 0 and r.stdout == "" and "one more is unloaded" in r.stderr
    assert names(server) == ["demo"]


@pytest.mark.parametrize("name", ["a/b", "50%", "na\u00efve", "?x#y"])
def test_names_that_mean_something_in_a_url_are_escaped(server, name):
    assert models(server, "load", "text", "--name", name, "--kv-tokens", 256).returncode == 0
    assert names(server) == ["demo", name]
    assert models(server, "unload", name).returncode == 0
    assert names(server) == ["demo"]


def test_load_says_why_not(server):
    r = models(server, "load", "broken")
    assert r.returncode == 1 and r.stdout == "" and "tokenizer.json" in r.stderr
    failed = table(models(server, "list").stdout)[1]
    assert (failed["NAME"], failed["STATE"], failed["CONTEXT"]) == ("broken", "failed", "-") and "tokenizer.json" in failed["REASON"]
    assert models(server, "unload", "broken").returncode == 0


@pytest.mark.parametrize("args,word", [(["load", "nowhere"], "no such model folder"), (["load", "text", "--name", "demo"], "two models are called"), (["unload", "nobody"], "nobody"),
                                       (["load", "text", "--kv-tokens", "268435456"], "kv-tokens")])
def test_what_the_server_refuses_is_told_in_its_words(server, args, word):
    r = models(server, *args)
    assert r.returncode == 1 and r.stdout == "" and word in r.stderr, r
    if args[0] == "load" and word == "kv-tokens":
        assert models(server, "unload", "text").returncode == 0


def test_key_comes_from_a_file_or_the_environment(server, tmp_path):
    (tmp_path / "key").write_text(server.admin + "\n")
    assert models(server, "list", "--api-key-file", tmp_path / "key", key="").returncode == 0
    none = models(server, "list", key="")
    assert none.returncode == 1 and "401" in none.stderr and "SPILLWAY_API_KEY" in none.stderr
    assert models(server, "list", key=server.key).returncode == 1  # of the API, not an admin's


def test_without_a_server_it_says_so():
    r = subprocess.run([BIN, "models", "list", "--url", "http://127.0.0.1:9"], capture_output=True, text=True, timeout=30)
    assert r.returncode == 1 and "127.0.0.1:9" in r.stderr and r.stdout == ""


@pytest.mark.parametrize("args", [[], ["list", "x"], ["load"], ["load", "a", "b"], ["unload"], ["show"], ["list", "--name", "x"], ["list", "--quant", "int8"], ["unload", "x", "--kv-tokens", "5"],
                                  ["load", "x", "--quant", "int3"], ["load", "x", "--listen", "127.0.0.1:1"]])
def test_wrong_usage_exits_2(spillway, args):
    r = spillway("models", *args)
    assert r.returncode == 2 and r.stderr.startswith("spillway: ") and r.stdout == ""
