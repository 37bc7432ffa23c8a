"""spillway accounts beside a running server: what it changes holds for the next request. And the move to PostgreSQL, and serving from there."""
import json
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from http_raw import wait_until
from serving import BIN, Server

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "accounts"))
from postgres import Postgres


def run(data, *args, ok=True):
    r = subprocess.run([BIN, *map(str, args), "--data", str(data)], capture_output=True, text=True, timeout=60)
    assert (r.returncode == 0) == ok, r
    return r


def ask(url, key):
    """The status, and the error's code."""
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(), {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as r:
            return r.status, json.load(r)["usage"]
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)["error"]["code"]


@pytest.fixture
def server(tmp_path):
    s = Server("demo", data=tmp_path / "data")
    yield s
    assert s.stop() == 0, "".join(s.lines)


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def project(server, data):
    """Its id and a key that the server knows."""
    id_ = json.loads(run(data, "accounts", "create", "project", "web", "--json").stdout)["id"]
    key = run(data, "keys", "add", "k", "--project", id_).stdout.strip()
    assert wait_until(lambda: ask(server.url, key)[0] == 200, 10) is not None
    return id_, key


def test_a_frozen_project_is_refused_at_once_and_others_are_not(server, data, project):
    id_, key = project
    run(data, "accounts", "freeze", id_)
    assert ask(server.url, key)[0] == 403
    assert ask(server.url, server.key)[0] == 200
    run(data, "accounts", "unfreeze", id_)
    assert ask(server.url, key)[0] == 200


def test_a_limit_holds_for_the_next_request(server, data, project):
    id_, key = project
    run(data, "accounts", "limit", id_, "--rpm", 1)
    codes = [ask(server.url, key) for _ in range(3)]  # a minute may end between them
    assert (429, "rate_limit_exceeded") in codes
    run(data, "accounts", "limit", id_, "--rpm", 0)
    assert ask(server.url, key)[0] == 200


def test_usage_is_what_the_answers_said(server, data, project):
    id_, key = project
    n, used = 1, ask(server.url, key)[1]
    [row] = json.loads(run(data, "accounts", "usage", "--by", "project,model,supplier", "--project", id_, "--json").stdout)
    assert (row["project_name"], row["model"], row["supplier"]) == ("web", "demo", "local/demo")
    assert row["requests"] == n + 1  # the fixture's
    assert row["tokens_in"] == 2 * used["prompt_tokens"] and row["tokens_out"] == 2 * used["completion_tokens"]
    exported = json.loads(run(data, "accounts", "export", "requests", "--json").stdout)
    assert [r["state"] for r in exported if r["project"] == id_] == ["posted", "posted"]


def test_a_closed_project_keeps_its_history_and_its_key_is_gone(server, data, project):
    id_, key = project
    run(data, "accounts", "close", id_)
    assert wait_until(lambda: ask(server.url, key)[0] == 401, 10) is not None
    assert json.loads(run(data, "accounts", "usage", "--by", "project", "--project", id_, "--json").stdout)[0]["requests"] >= 1


def test_copies_beside_a_running_server(server, data, project, tmp_path):
    run(data, "accounts", "backup", tmp_path / "copy.db")
    for command in (("restore", tmp_path / "copy.db"), ("move", "postgresql://nobody@127.0.0.1:1/x")):
        assert "a server has" in run(data, "accounts", *command, ok=False).stderr
    assert ask(server.url, project[1])[0] == 200
    server.stop()
    run(data, "accounts", "restore", tmp_path / "copy.db")
    exported = json.loads(run(data, "accounts", "export", "requests", "--json").stdout)
    assert len([r for r in exported if r["project"] == project[0]]) == 1  # without the one after the copy


def test_the_move_to_postgresql_and_serving_from_there(tmp_path):
    data = tmp_path / "data"
    store = Postgres()
    try:
        first = Server("demo", data=data)
        assert ask(first.url, first.key)[0] == 200
        assert first.stop() == 0
        run(data, "accounts", "deposit", 2, "12.5")
        url = store.url.replace("spillway@", "spillway:hunter2@")
        assert "moved and compared" in run(data, "accounts", "move", url).stderr
        assert not (data / "accounts.db").exists() and (data / "accounts.db.moved").exists()
        assert "accounts.db: No such file" in run(data, "accounts", "move", url, ok=False).stderr
        second = Server("demo", "--store", url, data=data, wait=False)
        assert second.log_has("Ready in", 60), "".join(second.lines)
        assert wait_until(lambda: second.url, 5) is not None
        assert ask(second.url, first.key)[0] == 200
        [row] = json.loads(run(data, "accounts", "usage", "--by", "project", "--json", "--store", url).stdout)
        assert row["requests"] == 2
        balances = {a["id"]: a.get("balance_usd") for a in json.loads(run(data, "accounts", "list", "--json", "--store", url).stdout)}
        assert balances[2] == "12.50"
        assert second.stop() == 0
        assert not any("hunter2" in line for line in second.lines) and not (data / "accounts.db").exists()
        assert "pg_dump" in run(data, "accounts", "backup", tmp_path / "x", "--store", url, ok=False).stderr
    finally:
        store.close()
