"""serve --retain-requests: old rows go while the gateway runs, money stays; of several gateways one does it."""
import shutil
import subprocess
import time

import pytest
from postgres import Postgres
from test_admin_http import BIN, Admin

DAYS, OLD_MS, N = 30, 31 * 86400000, 5000  # N: more than two steps of 2,000


@pytest.fixture(scope="module")
def postgres():
    p = Postgres()
    yield p
    p.close()


def history(admin):
    """One request that was paid for and N that came to nothing, all of them old; one of today."""
    project = admin.project()
    key = admin.post("/keys", 201, project=project)["key"]
    for n in (1, 2):
        assert admin.chat(key) == 200
        until = time.monotonic() + 10
        while admin.sql("SELECT count(*) FROM requests WHERE state = 'posted'") != [(str(n),)]:
            assert time.monotonic() < until
            time.sleep(0.02)
    first, last = (int(r[0]) for r in admin.sql("SELECT id FROM requests ORDER BY id"))
    ages = ", ".join(f"{c} = {c} - {OLD_MS}" for c in ("created_ms", "deadline_ms", "resolved_ms"))
    admin.sql(f"UPDATE requests SET {ages} WHERE id = {first}")
    numbers = f"generate_series(1, {N}) AS c(i)" if admin.store else f"(WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {N}) SELECT i FROM c) AS c"
    admin.sql("INSERT INTO requests (id, account, project, state, scope, model, created_ms, deadline_ms, resolved_ms, reserved, held) SELECT "
              f"{last} + c.i, r.account, r.project, 'void', 0, 'm', r.created_ms, r.deadline_ms, r.resolved_ms, 0, 0 FROM requests r, {numbers} WHERE r.id = {first}")
    return last


def gone(admin, within_s=20):
    until = time.monotonic() + within_s
    while admin.sql("SELECT count(*) FROM requests") != [("1",)]:
        assert time.monotonic() < until, admin.sql("SELECT count(*) FROM requests")
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_old_requests_go_while_the_gateway_runs(request, tmp_path, kind):
    admin = Admin(tmp_path, request.getfixturevalue("postgres") if kind == "postgres" else None)
    last = history(admin)
    before = admin.cli("list"), admin.get("/usage?from=2020-01-01"), admin.sql("SELECT count(*), sum(amount) FROM transfers")
    assert admin.server.stop() == 0
    admin.start("--retain-requests", DAYS)
    gone(admin)
    assert admin.server.log_has(f"{N + 1} requests that ended more than {DAYS} days ago are taken away")
    assert admin.sql("SELECT id FROM requests") == [(str(last),)]
    assert (admin.cli("list"), admin.get("/usage?from=2020-01-01"), admin.sql("SELECT count(*), sum(amount) FROM transfers")) == before
    admin.check()
    assert admin.server.stop() == 0


def test_of_two_gateways_one_takes_them_away(tmp_path, postgres):
    postgres_url = postgres.url
    subprocess.run([postgres.bin / "psql", "-X", "-q", "-d", postgres_url, "-c", "DROP SCHEMA public CASCADE; CREATE SCHEMA public"], check=True, timeout=30,
                   stderr=subprocess.DEVNULL)
    (tmp_path / "a").mkdir()
    (tmp_path / "b/data").mkdir(parents=True)
    a = Admin(tmp_path / "a", postgres)
    history(a)
    assert a.server.stop() == 0
    shutil.copy(tmp_path / "a/data/secret", tmp_path / "b/data/secret")
    b = Admin(tmp_path / "b", postgres, "--retain-requests", DAYS)
    a.start("--retain-requests", DAYS)
    gone(a)
    time.sleep(1.5)  # until the other one has looked
    told = [line for place in (a, b) for line in place.server.lines if "are taken away" in line]
    assert len(told) == 1
    a.check()
    for place in (a, b):
        assert place.server.stop() == 0


def test_a_day_is_too_few(tmp_path):
    r = subprocess.run([BIN, "serve", "demo", "--data", tmp_path, "--retain-requests", "1"], capture_output=True, text=True, timeout=30)
    assert r.returncode == 1 and "at least 2 days" in r.stderr
