"""spillway accounts beside a running server: what it changes holds for the next request. And the move to PostgreSQL, and serving from there."""
import contextlib
import json
import pathlib
import sqlite3
import subprocess
import sys
import time
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


@pytest.fixture
def admin(server, data):
    key = run(data, "keys", "add", "ops", "--admin").stdout.strip()

    def get(path, ok=True):
        request = urllib.request.Request(server.url + "/v1/organization/" + path, headers={"Authorization": "Bearer " + key})
        try:
            with urllib.request.urlopen(request, timeout=60) as r:
                assert ok
                return json.load(r)
        except urllib.error.HTTPError as e:
            body = json.load(e)["error"]
            assert not ok and e.code == 400, body
            return body
    assert wait_until(lambda: urllib_status(server, key) == 400, 10) is not None  # no start_time: the key is known
    return get


def urllib_status(server, key):
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + "/v1/organization/costs", headers={"Authorization": "Bearer " + key}), timeout=60) as r:
            return r.status
    except urllib.error.HTTPError as e:
        return e.code


def test_accounts_are_seen_and_frozen_over_http(server, data, project, admin):
    id_, key = project
    run(data, "accounts", "budget", "add", id_, "5")
    ops = run(data, "keys", "add", "ops2", "--admin").stdout.strip()
    assert wait_until(lambda: urllib_status(server, ops) == 400, 10) is not None

    def call(method, path):
        request = urllib.request.Request(server.url + "/admin/accounts" + path, method=method, headers={"Authorization": "Bearer " + ops})
        try:
            with urllib.request.urlopen(request, timeout=60) as r:
                return r.status, json.load(r)
        except urllib.error.HTTPError as e:
            return e.code, json.load(e)["error"]
    status, everybody = call("GET", "")
    listed = json.loads(run(data, "accounts", "list", "--json").stdout)
    assert status == 200 and everybody["accounts"] == listed
    assert [(b["account"], b["amount"], b["hard"]) for b in everybody["budgets"]] == [(id_, "5.00", True)]
    run(data, "accounts", "rules", id_, "--providers", "groq")
    assert call("GET", f"/{id_}")[1]["rules"] == json.loads(run(data, "accounts", "rules", id_, "--json").stdout) != []
    status, one = call("POST", f"/{id_}/freeze")
    assert status == 200 and one["accounts"][0]["frozen_at"] and [a["kind"] for a in one["accounts"]] == ["project", "key"]
    assert ask(server.url, key)[0] == 403
    assert call("POST", f"/{id_}/freeze")[0] == 400
    assert call("POST", f"/{id_}/unfreeze")[0] == 200 and ask(server.url, key)[0] == 200
    assert [call("POST", "/999/freeze")[0], call("POST", "/3/freeze")[0], call("GET", "/999")[0], call("GET", "/x")[0], call("POST", f"/{id_}/melt")[0]] == [404] * 5


def test_usage_and_costs_in_openais_shape(server, data, project, admin):
    id_, key = project
    used = ask(server.url, key)[1]
    ask(server.url, server.key)
    now = int(time.time())
    page = admin(f"usage/completions?start_time={now - 2 * 86400}&group_by=project_id,model")
    assert page["object"] == "page" and page["has_more"] is False and page["next_page"] is None
    assert [b["end_time"] - b["start_time"] for b in page["data"]] == [86400] * 3 and page["data"][0]["start_time"] == (now // 86400 - 2) * 86400
    found = {r["project_id"]: r for b in page["data"] for r in b["results"]}
    mine = found[str(id_)]
    assert set(found) == {"2", str(id_)} and mine["object"] == "organization.usage.completions.result" and mine["model"] == "demo" and mine["api_key_id"] is None
    assert mine["num_model_requests"] == 2 and mine["input_tokens"] == 2 * used["prompt_tokens"] and mine["output_tokens"] == 2 * used["completion_tokens"]
    [costs] = [r for b in admin(f"costs?start_time={now - 86400}&group_by[]=project_id&group_by[]=line_item&project_ids={id_}")["data"] for r in b["results"]]
    assert costs == {"object": "organization.costs.result", "amount": {"value": 0.0, "currency": "usd"}, "line_item": "demo", "project_id": str(id_)}


def test_costs_are_exact(admin, data):
    day = 20000
    with contextlib.closing(sqlite3.connect(data / "accounts.db")) as db, db:
        for account, sale in ((7, 12345678901), (8, 1)):
            db.execute("INSERT INTO usage_days VALUES (?, 2, ?, 'm', 1, 1, 10, 0, 1, ?, 0, 0)", (day, account, sale))
    [bucket] = admin(f"costs?start_time={day * 86400}&end_time={(day + 1) * 86400}")["data"]
    assert [r["amount"]["value"] for r in bucket["results"]] == [12.345678902]
    [bucket] = admin(f"usage/completions?start_time={day * 86400}&limit=1&group_by=api_key_id")["data"]
    assert [(r["api_key_id"], r["input_tokens"]) for r in bucket["results"]] == [("7", 10), ("8", 10)]


def test_pages_of_usage_join(admin):
    start = 1790000000 // 86400 * 86400
    days, path = [], f"costs?start_time={start}&end_time={start + 10 * 86400}&limit=4"
    page = admin(path)
    while True:
        days += [b["start_time"] for b in page["data"]]
        assert all(b["results"] == [] for b in page["data"])
        if not page["has_more"]:
            break
        page = admin(path + "&page=" + page["next_page"])
    assert days == [start + i * 86400 for i in range(10)]


@pytest.mark.parametrize("query,param", [("", "start_time"), ("start_time=x", "start_time"), ("start_time=5&end_time=5", "end_time"), ("start_time=5&limit=32", "limit"), ("start_time=5&limit=0", "limit"),
                                         ("start_time=5&bucket_width=1h", "bucket_width"), ("start_time=5&group_by=user_id", "group_by"), ("start_time=5&group_by=line_item", "group_by"), ("start_time=5&page=3", "page"),
                                         ("start_time=5&project_ids=web", "project_ids"), ("start_time=5&project_ids=1&project_ids=2", "project_ids"), ("start_time=5&batch=true", "batch"), ("start_time=%zz", None)])
def test_senseless_questions_name_the_parameter(admin, query, param):
    assert admin("usage/completions?" + query, ok=False)["param"] == param


def test_without_accounts_there_is_no_usage():
    s = Server("demo", "--no-auth")
    try:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(s.url + "/v1/organization/costs?start_time=5", timeout=30)
    finally:
        assert s.stop() == 0
