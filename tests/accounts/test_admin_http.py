"""/admin: what `spillway accounts` and `spillway keys` do, over HTTP, on SQLite and on PostgreSQL. What was done is looked at with the command line, and
the invariants (invariants.sql) hold at the end. Routes and who may call them: tests/fault/routes.txt."""
import csv
import http.client
import io
import json
import subprocess
import threading
import time
import urllib.parse

import pytest
from postgres import PROGRAMS, Postgres
from test_charges import BIN, INVARIANTS
from serving import DEMO, Server


class Admin:
    """A server, its store, an admin key."""

    def __init__(self, folder, store, *options):
        self.data, self.store = folder / "data", store
        self.where = ["--data", str(self.data)] + (["--store", store.url] if store else [])
        self.ops = self.run("keys", "add", "ops", "--admin").strip()
        self.start(*options)

    def start(self, *options):
        self.server = Server(DEMO, "--name", "demo", *options, *(["--store", self.store.url] if self.store else []), data=self.data, wait=False)
        assert self.server.log_has("Ready in", 60), "".join(self.server.lines)
        self.at = urllib.parse.urlsplit(self.server.url)

    def run(self, *args):
        r = subprocess.run([BIN, *map(str, args), *self.where], capture_output=True, text=True, timeout=60)
        assert r.returncode == 0, r.stderr
        return r.stdout

    def cli(self, *args):
        return json.loads(self.run("accounts", *args, "--json"))

    def open(self, method, path, body=None, headers=(), key=None):
        c = http.client.HTTPConnection(self.at.hostname, self.at.port, timeout=60)
        data = body if isinstance(body, (str, bytes)) or body is None else json.dumps(body)
        c.request(method, path, data, {"authorization": f"Bearer {key or self.ops}", **dict(headers)})
        return c, c.getresponse()

    def call(self, method, path, body=None, headers=()):
        c, r = self.open(method, "/admin" + path, body, headers)
        answer = json.loads(r.read())
        c.close()
        return r.status, answer

    def get(self, path):
        status, answer = self.call("GET", path)
        assert status == 200, answer
        return answer

    def post(self, path, status=200, headers=(), **body):
        got, answer = self.call("POST", path, body, headers)
        assert got == status, answer
        return answer

    def move(self, account, kind, usd, once, status=201, **body):
        return self.post(f"/accounts/{account}/{kind}", status, {"Idempotency-Key": once}, amount_usd=usd, **body)

    def refused(self, path, status=400, headers=(), method="POST", **body):
        """The field at fault."""
        got, answer = self.call(method, path, body if method == "POST" else None, headers)
        assert got == status, answer
        return answer["error"]["param"]

    def balance(self, account):
        return next(a["balance_usd"] for a in self.cli("list") if a["id"] == account)

    def project(self, name="web"):
        organisation = self.post("/accounts", 201, kind="organisation", name="Of " + name)["id"]
        return self.post("/accounts", 201, kind="project", name=name, organisation=organisation)["id"]

    def chat(self, key):
        body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        c, r = self.open("POST", "/v1/chat/completions", body, key=key)
        r.read()
        c.close()
        return r.status

    def sql(self, text):
        if self.store:
            r = subprocess.run([PROGRAMS[-1] + "/psql", "-X", "-A", "-t", "-F", "\x1f", "-d", self.store.url, "-c", text], capture_output=True, text=True,
                               timeout=60)
            assert r.returncode == 0, r.stderr
            return [tuple(line.split("\x1f")) for line in r.stdout.splitlines() if "\x1f" in line or line.lstrip("-").isdigit()]
        import sqlite3
        db = sqlite3.connect(self.data / "accounts.db", timeout=10)
        with db:
            rows = [tuple(map(str, row)) for row in db.execute(text).fetchall()]
        db.close()
        return rows

    def supplier(self, name="groq"):
        insert = f"INSERT INTO accounts (kind, name, created_s) VALUES ('supplier', '{name}', 1) RETURNING id"
        id_ = int(self.sql(insert)[0][0])
        self.sql(f"INSERT INTO balances (account) VALUES ({id_})")
        return id_

    def check(self):
        now = str(int(time.time() * 1000))
        for statement in INVARIANTS:
            assert self.sql(statement.replace("{now_ms}", now)) == [], statement


@pytest.fixture(scope="module")
def postgres():
    p = Postgres()
    yield p
    p.close()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def admin(request, tmp_path_factory):
    store = request.getfixturevalue("postgres") if request.param == "postgres" else None
    a = Admin(tmp_path_factory.mktemp(request.param), store)
    yield a
    a.check()
    assert a.server.stop() == 0, "".join(a.server.lines)
    a.check()


@pytest.fixture
def project(admin, request):
    return admin.project(request.node.name[:80])


# --- accounts ---

def test_an_account_over_http_is_as_the_command_line_shows_it(admin, project):
    shown = admin.cli("show", project)
    over_http = admin.get(f"/accounts/{project}")
    assert over_http.pop("object") == "list" and over_http == shown
    assert admin.get("/accounts?keys=true")["accounts"] == admin.cli("list", "--keys")


def test_what_is_made_twice_is_refused(admin, project):
    [mine] = [a for a in admin.get(f"/accounts/{project}")["accounts"] if a["id"] == project]
    assert admin.call("POST", "/accounts", {"kind": "project", "name": mine["name"], "organisation": mine["parent"]})[1]["error"]["code"] == "already_exists"


def test_an_account_is_renamed_frozen_and_closed(admin, project):
    assert admin.post(f"/accounts/{project}/rename", name=f"new {project}")["accounts"][0]["name"] == f"new {project}"
    assert admin.post(f"/accounts/{project}/freeze")["accounts"][0]["frozen_at"]
    assert admin.post(f"/accounts/{project}/unfreeze")["accounts"][0]["frozen_at"] is None
    assert admin.post(f"/accounts/{project}/close")["accounts"][0]["closed_at"]
    assert admin.refused(f"/accounts/{project}/rename", name="x") is None


def test_what_is_closed_has_no_valid_keys_at_once(admin, project):
    key = admin.post("/keys", 201, project=project)["key"]
    assert admin.chat(key) == 200
    admin.post(f"/accounts/{project}/close")
    assert admin.chat(key) == 401


def test_a_project_keeps_answers_or_not(admin, project):
    before = admin.cli("show", project)
    on = admin.post(f"/accounts/{project}/storage", on=True)
    assert on["accounts"] == admin.cli("show", project)["accounts"] != before["accounts"]
    assert admin.refused(f"/accounts/{project}/storage") == "on"


# --- money ---

def test_money_moves_exactly(admin, project):
    first = admin.move(project, "deposit", "500.00", f"d{project}", note="invoice 17")
    assert (first["kind"], first["account"], first["amount_usd"], first["balance_usd"], first["repeated"]) == ("deposit", project, "500.00", "500.00", False)
    admin.move(project, "adjust", "-5.25", f"a{project}", linked=first["id"])
    admin.move(project, "refund", "0.000000001", f"r{project}")
    assert admin.move(project, "chargeback", "100", f"c{project}")["balance_usd"] == "394.750000001"
    assert admin.balance(project) == "394.750000001"


def test_a_supplier_is_paid(admin):
    id_ = admin.supplier("paid")
    admin.move(id_, "adjust", "40", "owed")
    assert admin.move(id_, "pay", "30", "paid")["balance_usd"] == "10.00"
    assert [line["kind"] for line in admin.get(f"/accounts/{id_}/statement")["lines"]] == ["adjustment", "payment"]


def test_b8_money_is_moved_once_for_each_key(admin, project):
    first = admin.move(project, "deposit", "5", f"once-{project}")
    again = admin.move(project, "deposit", "5.00", f"once-{project}", 200)
    assert again == {**first, "repeated": True} and admin.balance(project) == "5.00"


def test_b8_a_key_is_known_from_the_command_line_too(admin, project):
    made = admin.cli("deposit", project, "5", "--once", f"both-{project}")
    assert admin.move(project, "deposit", "5", f"both-{project}", 200)["id"] == made["id"]


def test_b8_a_key_with_something_else_is_refused(admin, project):
    admin.move(project, "deposit", "5", f"k-{project}")
    headers = {"Idempotency-Key": f"k-{project}"}
    for kind, body in (("deposit", {"amount_usd": "6"}), ("deposit", {"amount_usd": "5", "note": "x"}), ("refund", {"amount_usd": "5"})):
        status, answer = admin.call("POST", f"/accounts/{project}/{kind}", body, headers)
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (422, "idempotency_mismatch", "Idempotency-Key")
    assert admin.balance(project) == "5.00"


def test_b8_of_32_at_once_one_moves(admin, project):
    answers, gate = [], threading.Barrier(32)

    def one():
        gate.wait(30)
        answers.append(admin.call("POST", f"/accounts/{project}/deposit", {"amount_usd": "1.50"}, {"Idempotency-Key": f"race-{project}"}))
    threads = [threading.Thread(target=one) for _ in range(32)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    moved = [a for status, a in answers if status in (200, 201)]
    assert len({a["id"] for a in moved}) == 1 and sum(status == 201 for status, _ in answers) == 1
    assert all(status in (200, 201, 503) for status, _ in answers)  # 503: others held the store's lock for too long; asked again it is there
    assert admin.balance(project) == "1.50"


def test_money_without_a_key_is_not_moved(admin, project):
    assert admin.refused(f"/accounts/{project}/deposit", amount_usd="5") == "Idempotency-Key"
    assert admin.balance(project) == "0.00"


@pytest.mark.parametrize("kind,body,param", [
    ("deposit", {}, "amount_usd"), ("deposit", {"amount_usd": 5}, "amount_usd"), ("deposit", {"amount_usd": "0"}, "amount_usd"),
    ("deposit", {"amount_usd": "-1"}, "amount_usd"), ("deposit", {"amount_usd": "1e3"}, "amount_usd"), ("deposit", {"amount_usd": "0.0000000001"}, "amount_usd"),
    ("deposit", {"amount_usd": "9223372036"}, "amount_usd"), ("deposit", {"amount_usd": "1", "note": 5}, "note"),
    ("deposit", {"amount_usd": "1", "note": "n" * 1001}, "note"), ("deposit", {"amount_usd": "1", "note": "a\u0000b"}, "note"),
    ("refund", {"amount_usd": "1", "linked": "x"}, "linked"), ("deposit", {"amount_usd": "1", "tip": 1}, "tip")])
def test_senseless_money_names_the_field(admin, kind, body, param):
    assert admin.refused(f"/accounts/2/{kind}", headers={"Idempotency-Key": "senseless"}, **body) == param
    assert admin.sql("SELECT count(*) FROM transfers WHERE idempotency_key = 'senseless'") == [("0",)]


@pytest.mark.parametrize("once", ["", "k" * 201, "a b", "\xe4"])
def test_senseless_keys_are_named(admin, once):
    assert admin.refused("/accounts/2/deposit", headers={"Idempotency-Key": once}, amount_usd="1") == "Idempotency-Key"


def test_money_of_nobody_or_the_wrong_one_is_not_found(admin, project):
    once = {"Idempotency-Key": f"nobody-{project}"}
    assert admin.refused("/accounts/999/deposit", 404, once, amount_usd="1") is None
    assert admin.refused(f"/accounts/{project}/pay", 404, once, amount_usd="1") is None
    assert admin.refused(f"/accounts/{project}/refund", 404, once, amount_usd="1", linked=987654321) == "linked"


def test_an_account_pays_in_advance(admin, project):
    assert admin.post(f"/accounts/{project}/prepaid", floor_usd="1.00")["accounts"][0]["floor_usd"] == "1.00"
    assert "floor_usd" not in admin.post(f"/accounts/{project}/prepaid", floor_usd=None)["accounts"][0]
    assert admin.refused(f"/accounts/{project}/prepaid") == "floor_usd"


# --- rules ---

def test_rules_are_set_and_lifted(admin, project):
    admin.post(f"/accounts/{project}/rules", providers="groq,openai", local_only="on")
    admin.post(f"/accounts/{project}/rules", local_only=None)
    assert [(r["rule"], r["value"]) for r in admin.get(f"/accounts/{project}")["rules"]] == [("providers", "groq,openai")]


@pytest.mark.parametrize("body,param", [({"local_only": "perhaps"}, "local_only"), ({"overflow_share": "500"}, "overflow_share"), ({"regions": 5}, "regions"), ({"mood": "x"}, "mood")])
def test_senseless_rules_name_the_field(admin, project, body, param):
    assert admin.refused(f"/accounts/{project}/rules", **body) == param


# --- budgets ---

def test_budgets_and_limits(admin, project):
    id_ = admin.post(f"/accounts/{project}/budgets", 201, amount="20", period="day")["id"]
    admin.post(f"/accounts/{project}/budgets", 201, amount=5, unit="requests", period="hour", hard=False)
    admin.post(f"/accounts/{project}/limit", rpm=600, concurrency=32)
    budgets = admin.get(f"/budgets?account={project}")["data"]
    assert [(b["unit"], b["period"], b["amount"], b["hard"]) for b in budgets] == [
        ("usd", "day", "20.00", True), ("requests", "hour", 5, False), ("requests", "minute", 600, True), ("requests", "now", 32, True)]
    assert budgets == admin.cli("budget", "list", project)
    assert admin.post(f"/budgets/{id_}/end") == {"id": id_}
    admin.post(f"/accounts/{project}/limit", concurrency=0)
    assert [b["amount"] for b in admin.get(f"/accounts/{project}")["budgets"]] == [5, 600]


def test_a_limit_holds_for_the_next_request(admin, project):
    key = admin.post("/keys", 201, project=project)["key"]
    assert admin.chat(key) == 200
    admin.post(f"/accounts/{project}/budgets", 201, amount=0, unit="requests")
    assert admin.chat(key) == 429


@pytest.mark.parametrize("body,param", [({}, "amount"), ({"amount": 5}, "amount"), ({"amount": "5", "unit": "nusd"}, "unit"),
                                        ({"amount": "1.5", "unit": "tokens"}, "amount"), ({"amount": "1", "hard": 1}, "hard"), ({"amount": "1", "size": 1}, "size")])
def test_senseless_budgets_name_the_field(admin, body, param):
    assert admin.refused("/accounts/2/budgets", **body) == param


# --- keys ---

def test_a_key_is_made_used_rotated_and_revoked(admin, project):
    made = admin.post("/keys", 201, name="app", project=project, expires="30d", weight=5)
    listed = {k["id"]: k for k in admin.get("/keys")["data"]}[made["id"]]
    assert listed == next(k for k in json.loads(admin.run("keys", "list", "--json")) if k["id"] == made["id"])
    assert (listed["name"], listed["project"], listed["weight"], listed["hint"]) == ("app", project, 5, made["key"][-4:])
    assert admin.chat(made["key"]) == 200  # at once
    rotated = admin.post(f"/keys/{made['id']}/rotate", grace="0s")
    assert (admin.chat(made["key"]), admin.chat(rotated["key"])) == (401, 200)
    assert admin.post(f"/keys/{made['id']}/set", priority=7)["priority"] == 7
    assert admin.post(f"/keys/{made['id']}/revoke")["state"] == "revoked"
    assert admin.chat(rotated["key"]) == 401


@pytest.mark.parametrize("body,param", [({"name": ""}, None), ({"expires": "soon"}, "expires"), ({"weight": 0}, "weight"), ({"priority": 101}, "priority"),
                                        ({"admin": True}, "admin"), ({"project": 1.5}, "project"), ({"secret": "x"}, "secret")])
def test_senseless_keys_name_the_field(admin, body, param):
    assert admin.refused("/keys", **body) == param


def test_admin_keys_are_the_command_lines(admin):
    [mine] = [k for k in admin.get("/keys")["data"] if k["admin"]]
    status, answer = admin.call("POST", f"/keys/{mine['id']}/rotate", {})
    assert status == 400 and "admin key" in answer["error"]["message"]
    other = json.loads(admin.run("keys", "add", "leaked", "--admin", "--json"))
    assert admin.post(f"/keys/{other['id']}/revoke")["state"] == "revoked"


def test_a_keys_text_is_nowhere_but_in_its_answer(admin):
    text = admin.post("/keys", 201, name="secret")["key"]
    assert text not in json.dumps(admin.get("/keys")) and not any(text in line for line in admin.server.lines)


# --- prices ---

def test_prices_are_set_listed_and_ended(admin):
    price = {"provider": "local", "model": "org/m", "can": [], "prices": [{"in_uncached": [5, 1], "out_text": [7, 1]}]}
    first = admin.post("/prices", 201, **price)["id"]
    second = admin.post("/prices", 201, **{**price, "prices": [{"in_uncached": [6, 1], "out_text": [7, 1]}]})["id"]
    [now] = admin.get("/prices?provider=local&model=org%2Fm")["data"]
    assert now["id"] == second and now["price"]["prices"][0]["in_uncached"] == [6, 1]
    assert [p["id"] for p in admin.get("/prices?provider=local&model=org/m&history=true")["data"]] == [first, second]
    assert admin.post("/prices/end", provider="local", model="org/m") == {"provider": "local", "model": "org/m"}
    assert admin.get("/prices?provider=local&model=org/m")["data"] == []
    assert admin.refused("/prices/end", 404, provider="local", model="org/m") is None


def test_a_malformed_price_is_refused(admin):
    assert admin.refused("/prices", provider="local", model="m", prices=[{"in_uncached": [-5, 1]}]) is None
    assert admin.get("/prices?model=m")["data"] == []


def test_markups_and_gpu_hours_are_set(admin):
    admin.post("/prices/markup", 201, provider="groq", percent="12.5")
    admin.post("/prices/gpu-hour", 201, model="demo", usd="2.00")
    assert {("markup", "groq"), ("gpu-hour", "demo")} <= {(p["provider"], p["model"]) for p in admin.get("/prices")["data"]}
    hosted = {"provider": "groq", "model": "m", "can": [], "prices": [{"in_uncached": [5, 1], "out_text": [7, 1]}]}
    admin.post("/prices", 201, **hosted)
    [row] = admin.get("/break-even")["data"]
    assert [row] == admin.cli("break-even") and (row["model"], row["gpu_hour_usd"], row["provider"]) == ("demo", "2.00", "groq")
    assert admin.refused("/prices/markup", provider="groq", percent="0.001") == "percent"
    assert admin.refused("/prices/gpu-hour", model="demo", usd="0") == "usd"


# --- reports ---

def test_statements_and_usage_are_those_of_the_command_line(admin, project):
    key = admin.post("/keys", 201, project=project)["key"]
    admin.move(project, "deposit", "3", f"s{project}")
    assert admin.chat(key) == 200
    until = time.monotonic() + 10
    while not admin.get(f"/usage?project={project}")["data"] and time.monotonic() < until:
        time.sleep(0.05)
    assert admin.get(f"/accounts/{project}/statement") == admin.cli("statement", project)
    assert admin.get(f"/usage?project={project}&by=model,day")["data"] == admin.cli("usage", "--project", project, "--by", "model,day")
    assert admin.get(f"/usage?project={project}")["data"][0]["requests"] == 1


@pytest.mark.parametrize("path,param", [("/usage?by=week", "by"), ("/usage?from=2026-02-30", "from"), ("/usage?from=2026-02-02&to=2026-02-01", "from"), ("/usage?day=1", "day"),
                                        ("/usage?by=day&by=day", "by"), ("/usage?project=x", "project"), ("/usage?by=%zz", None), ("/accounts/2/statement?month=2026-13", "month"),
                                        ("/export/transfers?format=xml", "format"), ("/export/transfers?from=x", "from"), ("/accounts?keys=1", "keys")])
def test_senseless_questions_name_the_parameter(admin, path, param):
    assert admin.refused(path, method="GET") == param


def test_t80_an_invoice_is_reconciled(admin):
    admin.supplier("billed")
    invoice = "date,model,cost,requests\n2026-11-29,m,1.25,7\n"
    status, answer = admin.call("POST", "/reconcile?supplier=billed", invoice, {"content-type": "text/csv"})
    assert status == 200 and (answer["compared"], answer["different"], answer["theirs_usd"], answer["ours_usd"]) == (1, 1, "1.25", "0.00")
    assert [(d["day"], d["model"], d["differs"], d["theirs"]["amount_usd"]) for d in answer["data"]] == [("2026-11-29", "m", ["only_theirs", "amount", "requests"], "1.25")]
    as_json = [{"date": "2026-11-29", "model": "m", "cost": 1.25}]
    assert admin.call("POST", "/reconcile?supplier=billed&threshold_usd=2", as_json)[0] == 200


@pytest.mark.parametrize("query,body,status,param", [("", "x", 400, "supplier"), ("?supplier=nobody", "date,model,cost\n2026-11-29,a,1\n", 404, None), ("?supplier=nobody", "", 400, None),
                                                     ("?supplier=groq&threshold_usd=-1", "x", 400, "threshold_usd"), ("?supplier=groq", "date,model\n2026-11-29,a\n", 400, None),
                                                     ("?supplier=groq&close=perhaps", "x", 400, "close")])
def test_senseless_invoices_are_refused(admin, query, body, status, param):
    got, answer = admin.call("POST", "/reconcile" + query, body)
    assert (got, answer["error"]["param"]) == (status, param)


def test_a_drift_is_told(admin):
    id_ = admin.supplier("drifting")
    assert admin.call("POST", "/reconcile?supplier=drifting", "date,model,cost\n2026-11-28,m,9\n")[1]["different"] == 1
    assert [a["subject"] for a in admin.get("/alerts")["data"] if a["kind"] == "supplier_drift" and a["subject"] == "drifting"] == ["drifting"] and id_
    admin.post("/alerts/test")
    assert {a["id"] for a in admin.get("/alerts")["data"]} == {a["id"] for a in admin.cli("alert", "list")}


# --- exports ---

def export(admin, path):
    c, r = admin.open("GET", "/admin/export/" + path)
    body = r.read().decode()
    c.close()
    assert r.status == 200, body
    return r, body


@pytest.mark.parametrize("what", ["transfers", "requests"])
def test_an_export_is_that_of_the_command_line(admin, project, what):
    admin.move(project, "deposit", "1", f"x{project}", note='=1+1, "quoted"\nline')
    r, text = export(admin, what)
    assert r.getheader("content-type").startswith("text/csv") and r.getheader("content-disposition") == f'attachment; filename="{what}.csv"'
    assert list(csv.reader(io.StringIO(text, newline=""))) == list(csv.reader(io.StringIO(admin.run("accounts", "export", what), newline="")))
    r, text = export(admin, what + "?format=json")
    assert r.getheader("content-type") == "application/json" and json.loads(text) == admin.cli("export", what)


def make_transfers(admin, n, project):
    """So many rows that no buffer on the way has room for them."""
    outside = admin.sql("SELECT id FROM accounts WHERE name = 'outside'")[0][0]
    numbers = f"generate_series(1, {n})" if admin.store else f"(WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {n}) SELECT i FROM c)"
    admin.sql(f"INSERT INTO transfers (kind, debit, credit, amount, created_ms, note) SELECT 'deposit', {outside}, {project}, 1, 1000, 'of a row that is long' FROM {numbers} AS c")
    admin.sql(f"UPDATE balances SET posted = posted + {n} WHERE account = {project}")
    admin.sql(f"UPDATE balances SET posted = posted - {n} WHERE account = {outside}")


def resident(server):
    with open(f"/proc/{server.process.pid}/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS"))


def test_a_large_export_takes_no_memory_of_its_size(admin, project):
    n = 300_000
    make_transfers(admin, n, project)
    export(admin, "transfers?from=1970-01-01&to=1970-01-01&format=json")  # buffers are there now
    before, most, size, rows = resident(admin.server), 0, 0, 0
    c, r = admin.open("GET", "/admin/export/transfers?from=1970-01-01&to=1970-01-01")
    while piece := r.read(1 << 16):
        size += len(piece)
        rows += piece.count(b"\n")
        most = max(most, resident(admin.server))
    c.close()
    assert rows == n + 1 and size > 20 << 20
    assert most - before < 4 << 20, (before, most)


def test_who_leaves_an_export_leaves_nothing_behind(admin, project):
    make_transfers(admin, 50_000, project)
    for _ in range(6):  # more than may be at once
        c, r = admin.open("GET", "/admin/export/transfers")
        r.read(1000)
        c.sock.close()
        r.close()
        time.sleep(0.3)
    until, status = time.monotonic() + 10, 429
    while status == 429 and time.monotonic() < until:
        c, r = admin.open("GET", "/admin/export/transfers?from=2001-01-01&to=2001-01-01")
        status = r.status
        r.read()
        c.close()
    assert status == 200


def test_a_fifth_export_at_once_is_refused(admin, project):
    make_transfers(admin, 200_000, project)
    slow = [admin.open("GET", "/admin/export/transfers") for _ in range(4)]
    c, r = admin.open("GET", "/admin/export/transfers")
    assert (r.status, json.loads(r.read())["error"]["code"]) == (429, "queue_full")
    for other, answer in [*slow, (c, r)]:
        answer.close()
        other.close()


# --- the rest ---

def test_pruning_keeps_what_money_is_about(admin, project):
    key = admin.post("/keys", 201, project=project)["key"]
    assert admin.chat(key) == 200
    until = time.monotonic() + 10
    while admin.sql(f"SELECT count(*) FROM requests WHERE project = {project} AND state = 'posted'") != [("1",)]:
        assert time.monotonic() < until
        time.sleep(0.05)
    usage = admin.get(f"/usage?project={project}")["data"]
    admin.sql(f"UPDATE requests SET created_ms = created_ms - 864000000, deadline_ms = deadline_ms - 864000000, resolved_ms = resolved_ms - 864000000 WHERE project = {project}")
    assert admin.post("/prune", older_than_days=9) == {"requests": 1, "more": False}
    assert admin.get(f"/usage?project={project}")["data"] == usage
    assert admin.refused("/prune", older_than_days=1) == "older_than_days"


def test_bodies_that_are_no_objects_are_refused(admin):
    for body in ("[]", "5", "{", '{"name":"a","name":"b"}'):
        assert admin.call("POST", "/accounts", body)[0] == 400
    assert admin.refused("/accounts?kind=project", name="x") == "kind"  # a POST has no query


def test_operators_requests_begin_no_runs(admin):
    runs = admin.sql("SELECT count(*) FROM runs")
    admin.get("/accounts/2")
    assert admin.sql("SELECT count(*) FROM runs") == runs


def test_operators_questions_hold_up_no_request(admin):
    if not admin.store:
        pytest.skip("nothing on SQLite makes a reader wait")
    lock = subprocess.Popen([PROGRAMS[-1] + "/psql", "-X", "-q", "-d", admin.store.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lock.stdin.write("BEGIN; LOCK TABLE usage_tags IN ACCESS EXCLUSIVE MODE; SELECT 'locked';\n")
    lock.stdin.flush()
    assert any("locked" in line for line in iter(lock.stdout.readline, ""))
    answers = []
    askers = [threading.Thread(target=lambda: answers.append(admin.call("GET", "/usage?by=tag")[0])) for _ in range(8)]
    for t in askers:
        t.start()
    key = admin.run("keys", "add", "patient").strip()
    until = time.monotonic() + 10
    while (status := admin.chat(key)) == 401 and time.monotonic() < until:
        time.sleep(0.05)
    assert status == 200 and not answers
    lock.communicate("ROLLBACK;\n", timeout=30)
    for t in askers:
        t.join(60)
    assert answers == [200] * 8


def test_b15_a_store_that_is_away_is_said_so_and_comes_back(admin):
    if not admin.store:
        pytest.skip("a file is always there")
    admin.store.stop()
    status, answer = admin.call("GET", "/accounts")
    assert (status, answer["error"]["code"]) == (503, "accounts_unavailable")
    status, answer = admin.call("POST", "/accounts/2/deposit", {"amount_usd": "1"}, {"Idempotency-Key": "while-away"})
    assert status == 503
    admin.store.start()
    until = time.monotonic() + 20
    while admin.call("GET", "/accounts")[0] != 200:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert admin.move(2, "deposit", "1", "while-away")["repeated"] is False


def test_a_server_ends_while_an_export_is_under_way(tmp_path):
    a = Admin(tmp_path, None, "--drain-timeout", "1s")
    make_transfers(a, 200_000, a.project())
    c, r = a.open("GET", "/admin/export/transfers")
    r.read(1000)
    assert a.server.stop() == 0
    with pytest.raises((http.client.HTTPException, OSError)):  # it ends without its last chunk
        while r.read(1 << 16):
            pass
    c.close()


def test_an_export_that_takes_too_long_is_cut(tmp_path):
    a = Admin(tmp_path, None, "--request-timeout", "1s")
    make_transfers(a, 200_000, a.project())
    c, r = a.open("GET", "/admin/export/transfers")
    r.read(1000)
    assert a.server.log_has("an export is cut: its time is up", 20)
    with pytest.raises((http.client.HTTPException, OSError)):
        while r.read(1 << 16):
            pass
    c.close()
    assert export(a, "transfers?from=2001-01-01&to=2001-01-01")[1].count("\n") == 1  # its place is free
    assert a.server.stop() == 0
