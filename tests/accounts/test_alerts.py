"""Alerts, from what has happened to the webhook: a receiver here takes what the gateway sends and verifies each signature as Standard Webhooks says.
The gateway is the real one with a scripted engine; it looks each second."""
import base64
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from decimal import Decimal

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parent / "fault"))
from fake_provider import FakeProvider  # noqa: E402
from test_charges import IN, MODEL, OUT, fake, prices  # noqa: E402,F401
from test_two_gateways import Shared, store  # noqa: E402,F401
from serving import BIN, DEMO, FakeServer  # noqa: E402

SECRET = base64.b64encode(bytes(range(32))).decode()
USD = 10**9


class Receiver:
    """answers(n): the status of the nth delivery, counted from 0; None: no answer at all, the connection ends."""

    def __init__(self, answers=lambda n: 204, certificate=None):
        self.deliveries, self.answers = [], answers
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.deliveries.append((time.monotonic(), {k.lower(): v for k, v in self.headers.items()}, body))
                status = outer.answers(len(outer.deliveries) - 1)
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *args):
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server.server_address[1]}/hook?token=secret-of-the-url"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait(self, n, within_s=30):
        until = time.monotonic() + within_s
        while len(self.deliveries) < n:
            assert time.monotonic() < until, (n, self.deliveries)
            time.sleep(0.02)
        return self.deliveries[:n]

    def alerts(self):
        return [json.loads(body) for _, _, body in self.deliveries]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def verify(headers, body):
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(base64.b64decode(SECRET), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == "v1," + expected
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60 and headers["content-type"] == "application/json"


class Place:
    def __init__(self, folder):
        self.data, self.server, self.receivers, self.key = folder / "data", None, [], "sk-" + "k" * 40

    def receiver(self, *args, **kw):
        self.receivers.append(Receiver(*args, **kw))
        return self.receivers[-1]

    def start(self, *args, url=None, env=None):
        given = {"SPILLWAY_API_KEY": self.key, **({"SPILLWAY_ALERT_SECRET": "whsec_" + SECRET} if url else {}), **(env or {})}
        self.server = FakeServer(DEMO, "--name", "demo", "--alert-every", 1, *(("--alert-url", url) if url else ()), *args, data=self.data, env=given, wait=False)
        assert self.server.log_has("Ready in", 60), "".join(self.server.lines)

    def sql(self, statement, *args):
        db = sqlite3.connect(self.data / "accounts.db", timeout=10)
        with db:
            rows = db.execute(statement, args).fetchall()
        db.close()
        return rows

    def run(self, *args):
        return subprocess.run([BIN, "accounts", *map(str, args), "--data", self.data], check=True, capture_output=True, text=True).stdout

    def budget_reached(self):
        """The cheapest alert: a budget that only tells, used up by a row of its own."""
        budget = json.loads(self.run("budget", "add", 2, "0.01", "--period", "total", "--alert", "--json"))["id"]
        self.sql("INSERT INTO budget_windows (budget, starts_s, posted) VALUES (?, 0, 20000000)", budget)
        return budget

    def ask(self, **body):
        body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **body}
        request = urllib.request.Request(self.server.url + "/v1/chat/completions", json.dumps(body).encode(),
                                         {"authorization": f"Bearer {self.key}", "content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as r:
                return r.status, r.read()
        except urllib.error.HTTPError as e:
            return e.code, e.read()


@pytest.fixture
def place(tmp_path):
    p = Place(tmp_path)
    yield p
    if p.server:
        p.server.stop()
    for r in p.receivers:
        r.close()


def test_an_alert_reaches_the_webhook_signed_and_once(place):
    hook = place.receiver()
    place.start(url=hook.url)
    budget = place.budget_reached()
    [(_, headers, body)] = hook.wait(1)
    verify(headers, body)
    alert = json.loads(body)
    assert alert["type"] == "budget_reached" and alert["data"]["budget"] == budget and alert["data"]["used"] == "0.02"
    time.sleep(2.5)  # two looks more
    assert len(hook.deliveries) == 1
    assert place.server.log_has("alert: budget 1 of account 2 'default' is used up: 0.01 usd per total")
    assert "secret-of-the-url" not in "".join(place.server.lines)


def test_errors_that_begin_suddenly_are_told(place):
    hook = place.receiver()
    place.start(url=hook.url)
    for _ in range(10):
        assert place.ask()[0] == 200
    for _ in range(20):
        assert place.ask(seed=FakeServer.seeds["nan"])[0] == 500
    [(_, headers, body)] = hook.wait(1)
    verify(headers, body)
    alert = json.loads(body)
    assert alert["type"] == "error_rate" and alert["data"]["hit"] >= 5 and alert["data"]["percent"] >= 20


def test_who_is_refused_is_no_error(place):
    hook = place.receiver()
    place.start(url=hook.url)
    for _ in range(30):
        assert place.ask(max_tokens=-1)[0] == 400
    time.sleep(2.5)
    assert hook.deliveries == []


def test_spend_above_its_own_past_is_told(place, tmp_path):
    hook = place.receiver()
    with FakeProvider() as fake:
        fake.prices({"generic": {"in_uncached": {"nusd": IN, "units": 1}, "out_text": {"nusd": OUT, "units": 1}}})
        config = tmp_path / "c.yaml"
        config.write_text(f"providers:\n  - provider: openai-compatible\n    name: lab\n    base_url: \"{fake.base('generic')}\"\n    key_env: PROVIDER_KEY\n"
                          f"    prices: \"{prices(tmp_path, 'lab')}\"\n")
        args = ("--config", config, "--alert-spend-floor", "0.000001")
        place.start(*args, url=hook.url, env={"PROVIDER_KEY": "key-one"})
        assert place.ask(model=f"lab/{MODEL}")[0] == 200
        time.sleep(2.5)
        assert hook.deliveries == []  # the project is new: there is no past
        place.sql("UPDATE accounts SET created_s = 1 WHERE kind = 'project'")
        hook.wait(2)
        (truth,) = fake.ledger(1)
    found = {a["data"]["account"]: a for a in hook.alerts()}
    assert {a["type"] for a in found.values()} == {"spend_rate"} and set(found) == {2, None}
    assert [Decimal(a["data"]["hour_usd"]) * USD for a in found.values()] == [truth["cost_nusd"]] * 2
    assert found[2]["data"]["usual_hour_usd"] == "0.00" and found[2]["data"]["name"] == "default"


def test_a_changed_price_is_told(place):
    hook = place.receiver()
    place.start(url=hook.url)
    place.run("price", "set", "groq", "llama", "--input", "1", "--output", "2")
    place.run("price", "set", "groq", "llama", "--input", "1", "--output", "3")
    hook.wait(1)
    (alert,) = hook.alerts()
    assert alert["type"] == "price_change" and alert["data"]["message"] == "prices of groq have changed: llama"
    [price] = alert["data"]["prices"]
    assert price["before"] != price["now"] and price["source"] == "operator"


def test_b19_a_suppliers_drift_is_told(place, tmp_path):
    hook = place.receiver()
    place.start(url=hook.url)
    assert place.ask()[0] == 200
    export = tmp_path / "usage.csv"
    export.write_text("date,model,input_tokens,output_tokens,cost\n2026-01-02,demo,10,10,3.50\n")
    for _ in range(2):
        r = subprocess.run([BIN, "accounts", "reconcile", export, "--supplier", "local/demo", "--data", place.data], capture_output=True, text=True)
        assert r.returncode == 1, r
    hook.wait(1)
    time.sleep(2.5)
    (alert,) = hook.alerts()
    assert alert["type"] == "supplier_drift" and alert["data"]["theirs_usd"] == "3.50" and alert["data"]["last_day"] == "2026-01-02"


def test_a_webhook_that_fails_is_asked_again_with_the_same(place):
    hook = place.receiver(lambda n: [500, None, 302, 200][n])
    place.start(url=hook.url)
    place.budget_reached()
    tries = hook.wait(4)
    for _, headers, body in tries:
        verify(headers, body)
    assert len({h["webhook-id"] for _, h, _ in tries}) == 1 and len({b for _, _, b in tries}) == 1
    gaps = [b[0] - a[0] for a, b in zip(tries, tries[1:])]
    assert all(gap >= 0.9 * 2**i for i, gap in enumerate(gaps))  # 1 s, 2 s, 4 s at the least
    time.sleep(1.5)
    assert len(hook.deliveries) == 4
    assert place.sql("SELECT tries, next_ms, sent_ms IS NULL FROM alerts") == [(4, None, 0)]
    assert place.server.log_has("the webhook did not take it (HTTP 500)")


def test_an_operator_can_try_the_webhook_and_see_what_became_of_it(place):
    hook = place.receiver()
    place.start(url=hook.url)
    for n in (1, 2):
        place.run("alert", "test")
        verify(*hook.wait(n)[n - 1][1:])
    until = time.monotonic() + 10
    while not all(row[0] for row in place.sql("SELECT sent_ms FROM alerts")):
        assert time.monotonic() < until
        time.sleep(0.05)
    listed = json.loads(place.run("alert", "list", "--json"))
    assert all(a["sent_at"] and not a["next_try_at"] for a in listed)
    assert [(a["kind"], a["tries"]) for a in listed] == [("test", 1)] * 2 and listed[0]["id"] > listed[1]["id"]
    assert place.run("alert", "list").splitlines()[1].endswith("somebody asked whether alerts arrive")


def test_an_alert_outlives_its_gateway(place):
    hook = place.receiver(lambda n: 503 if n == 0 else 200)
    place.start(url=hook.url)
    place.budget_reached()
    hook.wait(1)
    place.server.stop(signal.SIGKILL)
    place.sql("UPDATE alerts SET next_ms = 0 WHERE next_ms IS NOT NULL")  # the dead gateway's claim has run out
    before = len(hook.deliveries)
    place.start(url=hook.url)
    hook.wait(before + 1)
    assert len({h["webhook-id"] for _, h, _ in hook.deliveries}) == 1


def test_two_gateways_send_an_alert_once(tmp_path, fake, store, place):  # noqa: F811
    hook, gateways, secret = place.receiver(), [], tmp_path / "secret"
    secret.write_text("whsec_" + SECRET)
    try:
        for name in "ab":
            (tmp_path / name).mkdir()
            g = Shared(tmp_path / name, fake, store)
            g.args = (DEMO, "--name", "demo", "--alert-every", 1, "--alert-url", hook.url, "--alert-secret-file", secret)
            if gateways:
                g.data.mkdir()
                g.key = shutil.copy(gateways[0].data / "secret", g.data / "secret") and gateways[0].key
            else:
                g.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            g.start()
            gateways.append(g)
        for i in range(8):
            g.accounts("budget", "add", 2, "0.01", "--period", "total", "--alert")
        g.rows("INSERT INTO budget_windows (budget, starts_s, posted) SELECT id, 0, 20000000 FROM budgets")
        hook.wait(8)
        time.sleep(4)  # looks of both
        assert len(hook.deliveries) == len({h["webhook-id"] for _, h, _ in hook.deliveries}) == 8
        assert g.rows("SELECT count(*) FROM alerts WHERE tries = 1 AND sent_ms IS NOT NULL") == [(8,)]
    finally:
        for g in gateways:
            g.server.stop()


def test_requests_do_not_wait_for_a_webhook_that_says_nothing(place):
    stuck = threading.Event()
    hook = place.receiver(lambda n: stuck.wait(60) and 200)
    place.start(url=hook.url)
    place.budget_reached()
    hook.wait(1)
    began = time.monotonic()
    assert all(place.ask()[0] == 200 for _ in range(5))
    assert time.monotonic() - began < 10
    assert place.server.stop() == 0  # nor does the end
    stuck.set()


def test_bounds_are_read_again(place, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("alert_error_percent: 100\n")
    place.start("--config", config)
    config.write_text("alert_error_percent: 30\nalert_spend_floor: much\n")
    place.server.process.send_signal(signal.SIGHUP)
    assert place.server.log_has("reload: --alert-spend-floor", 20)
    config.write_text("alert_error_percent: 30\n")
    place.server.process.send_signal(signal.SIGHUP)
    assert place.server.log_has("changed: alert_error_percent", 20)
    for i in range(40):  # half of them fail: more than 30 of 100, less than 100
        place.ask(**({"seed": FakeServer.seeds["nan"]} if i % 2 else {}))
    assert place.server.log_has("have failed", 20)


def test_without_a_webhook_the_log_has_it(place):
    place.start()
    place.budget_reached()
    assert place.server.log_has("alert: budget 1", 20)
    assert place.sql("SELECT tries, next_ms FROM alerts") == [(1, None)]


def certificate(folder):
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_a_webhooks_certificate_is_verified(place, tmp_path):
    hook = place.receiver(certificate=certificate(tmp_path))
    place.start(url=hook.url)
    place.budget_reached()
    assert place.server.log_has("the webhook did not take it (", 20)
    assert hook.deliveries == []


def test_a_certificate_that_is_trusted_is_taken(place, tmp_path):
    cert, key = certificate(tmp_path)
    hook = place.receiver(certificate=(cert, key))
    place.start(url=hook.url, env={"SSL_CERT_FILE": str(cert)})
    place.budget_reached()
    verify(*hook.wait(1)[0][1:])


@pytest.mark.parametrize("args, env, says", [
    (["--alert-url", "https://example.org"], {}, "SPILLWAY_ALERT_SECRET"),
    (["--alert-url", "https://example.org"], {"SPILLWAY_ALERT_SECRET": "a-plain-word-that-is-no-secret"}, "whsec_"),
    (["--alert-url", "ftp://example.org"], {"SPILLWAY_ALERT_SECRET": "whsec_" + SECRET}, "must begin with https://"),
    (["--alert-secret-file", "/nowhere"], {}, "there is no --alert-url"),
    (["--alert-spend-floor", "much"], {}, "--alert-spend-floor"),
])
def test_what_cannot_work_is_refused_at_the_start(tmp_path, args, env, says):
    r = subprocess.run([BIN, "serve", DEMO, "--listen", "127.0.0.1:0", "--data", tmp_path / "data", *args], env={**os.environ, **env}, capture_output=True,
                       text=True, timeout=60)
    assert r.returncode != 0 and says in r.stderr and "a-plain-word" not in r.stderr


def test_the_secret_may_come_from_a_file(place, tmp_path):
    hook = place.receiver()
    secret = tmp_path / "secret"
    secret.write_text(f"whsec_{SECRET}\n")
    place.start("--alert-url", hook.url, "--alert-secret-file", secret)
    place.budget_reached()
    verify(*hook.wait(1)[0][1:])
