"""spillway keys: what it prints, where, and what it refuses."""
import datetime
import json
import re
import time

import pytest

DAY = 86400
TOKEN = re.compile(r"sk-spillway-[A-Za-z0-9_-]{43}")


@pytest.fixture
def keys(spillway, tmp_path):
    def run(*args, ok=True):
        r = spillway("keys", "--data", tmp_path / "data", *args)
        assert (r.returncode == 0) == ok, r
        return r
    return run


def rows(listing):
    """The table as dicts; the columns begin where the header's words do."""
    head, *lines = listing.splitlines()
    starts = [m.start() for m in re.finditer(r"\S+", head)]
    for line in lines:
        cells = [line[a:b] for a, b in zip(starts, [*starts[1:], None])]
        assert all(c == "" or c[0] != " " for c in cells), line
        yield dict(zip(head.split(), (c.strip() for c in cells)))


def test_add_prints_the_key_alone(keys):
    r = keys("add", "alice")
    assert TOKEN.fullmatch(r.stdout.strip()) and r.stdout.count("\n") == 1
    assert "alice" in r.stderr and "only now" in r.stderr and not TOKEN.search(r.stderr)


def test_list_is_a_table_without_secrets(keys):
    tokens = [keys("add", name).stdout.strip() for name in ("alice", "Zo\u00eb's very long robot name", "x")]
    keys("add", "ops", "--admin")
    out = keys("list").stdout
    assert not any(t in out for t in tokens)
    table = list(rows(out))
    assert [r["NAME"] for r in table] == ["alice", "Zo\u00eb's very long robot name", "x", "ops"]
    assert [r["KEY"] for r in table[:3]] == ["..." + t[-4:] for t in tokens]
    assert [r["STATE"] for r in table] == ["valid", "valid", "valid", "valid, admin"]
    assert {r["EXPIRES"] for r in table} == {"never"}
    assert {r["MADE"] for r in table} == {datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")}


def test_list_of_none_has_only_its_header(keys):
    assert keys("list").stdout.split() == ["ID", "NAME", "KEY", "MADE", "EXPIRES", "WEIGHT", "PRIORITY", "STATE"]
    assert json.loads(keys("list", "--json").stdout) == []


@pytest.mark.parametrize("text,seconds,words", [("30d", 30 * DAY, "in 29 days|in 30 days"), ("12h", DAY // 2, "in 1[12] hours"), ("2w", 14 * DAY, "in 1[34] days"), ("1y", 365 * DAY, "in 36[45] days"),
                                               ("90m", 5400, "in (89|90) minutes"), ("45s", 45, "in 4[345] seconds")])
def test_expiry_in_words(keys, text, seconds, words):
    made = json.loads(keys("add", "x", "--expires", text, "--json").stdout)
    assert abs(made["expires_at"] - time.time() - seconds) < 10
    [row] = rows(keys("list").stdout)
    assert re.search(words, row["EXPIRES"]), row


@pytest.mark.parametrize("text,at", [("2099-12-31", (2099, 12, 31)), ("2096-02-29", (2096, 2, 29)), ("2099-12-31T18:30Z", (2099, 12, 31, 18, 30))])
def test_expiry_on_a_day(keys, text, at):
    made = json.loads(keys("add", "x", "--expires", text, "--json").stdout)
    assert made["expires_at"] == datetime.datetime(*at, tzinfo=datetime.timezone.utc).timestamp()


@pytest.mark.parametrize("text", ["", "0s", "0d", "-1d", "30", "d", "1.5d", "30 d", "30D", "99999999999999999999d", "9223372036854775807y", "101y", "2020-01-01", "2099-02-30", "2097-02-29",
                                  "2099-13-01", "2099-1", "2099-12-31T25:00Z", "2099-12-31T10:00", "2099-12-31x", "9999-01-01", "tomorrow", "30d "])
def test_senseless_expiry_is_refused(keys, text):
    assert "--expires" in keys("add", "x", "--expires", text, ok=False).stderr
    assert json.loads(keys("list", "--json").stdout) == []


def test_expired_key_says_so(keys):
    keys("add", "x", "--expires", "1s")
    end = time.monotonic() + 10
    while (row := next(rows(keys("list").stdout)))["STATE"] != "expired" and time.monotonic() < end:
        time.sleep(0.2)
    assert row["STATE"] == "expired" and "ago" in row["EXPIRES"]


def test_rotate_keeps_id_and_name(keys):
    made = json.loads(keys("add", "robot", "--expires", "9d", "--json").stdout)
    r = keys("rotate", made["id"])
    token = r.stdout.strip()
    assert TOKEN.fullmatch(token) and token != made["key"] and "24 hours more" in r.stderr
    [k] = json.loads(keys("list", "--json").stdout)
    assert (k["id"], k["name"], k["hint"], k["expires_at"], k["state"]) == (made["id"], "robot", token[-4:], made["expires_at"], "valid")
    assert abs(k["former_secret_until"] - time.time() - DAY) < 10
    assert "former secret" in next(rows(keys("list").stdout))["STATE"]


def test_rotate_without_grace(keys):
    made = json.loads(keys("add", "robot", "--json").stdout)
    assert "no longer valid" in keys("rotate", made["id"], "--grace", "0s").stderr
    assert json.loads(keys("list", "--json").stdout)[0]["former_secret_until"] is None


@pytest.mark.parametrize("grace", ["", "1", "x", "-1h", "1.5h", "200y"])
def test_senseless_grace_is_refused(keys, grace):
    made = json.loads(keys("add", "robot", "--json").stdout)
    assert "--grace" in keys("rotate", made["id"], "--grace", grace, ok=False).stderr
    assert json.loads(keys("list", "--json").stdout)[0]["hint"] == made["key"][-4:]


def test_revoked_key_is_neither_rotated_nor_revoked_again(keys):
    made = json.loads(keys("add", "x", "--json").stdout)
    keys("revoke", made["id"])
    assert keys("rotate", made["id"], ok=False).stdout == ""
    keys("revoke", made["id"], ok=False)
    [k] = json.loads(keys("list", "--json").stdout)
    assert k["state"] == "revoked" and abs(k["revoked_at"] - time.time()) < 10


@pytest.mark.parametrize("args", [[], ["wat"], ["add", "a", "b"], ["list", "x"], ["revoke"], ["rotate"], ["rotate", "1", "2"], ["list", "--admin"], ["revoke", "3", "--json"], ["list", "--expires", "1d"]])
def test_wrong_usage(keys, args):
    assert keys(*args, ok=False).returncode == 2


@pytest.mark.parametrize("word", ["0", "-1", "x", "1e3", "99999999999999999999", "1;2", ""])
def test_ids_are_checked(keys, word):
    assert "id" in keys("revoke", "--", word, ok=False).stderr


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31mred", "x" * 101, "\u009b1m"])
def test_names_that_a_terminal_would_obey_are_refused(keys, name):
    assert "name" in keys("add", "--", name, ok=False).stderr


def test_share_of_a_key_is_given_changed_and_listed(keys):
    keys("add", "a", "--weight", "5", "--priority", "-2")
    made = json.loads(keys("add", "b", "--json").stdout)
    assert "weight 3 and priority 0" in keys("set", made["id"], "--weight", "3").stderr
    assert "weight 3 and priority 9" in keys("set", made["id"], "--priority", "9").stderr
    assert [(k["weight"], k["priority"]) for k in json.loads(keys("list", "--json").stdout)] == [(5, -2), (3, 9)]
    assert [(r["WEIGHT"], r["PRIORITY"]) for r in rows(keys("list").stdout)] == [("5", "-2"), ("3", "9")]


@pytest.mark.parametrize("args", [("add", "x", "--weight", "0"), ("add", "x", "--weight", "1001"), ("add", "x", "--priority", "101"), ("add", "x", "--priority", "-101"),
                                  ("set", "3"), ("set", "999", "--weight", "2"), ("list", "--weight", "2"), ("revoke", "3", "--priority", "1")])
def test_senseless_share_is_refused(keys, args):
    keys("add", "a")
    keys(*args, ok=False)
    assert [(k["weight"], k["priority"]) for k in json.loads(keys("list", "--json").stdout)] == [(1, 0)]
