"""spillway accounts: what it prints and what it refuses."""
import contextlib
import csv
import io
import json
import pathlib
import re
import sqlite3

import pytest


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def accounts(spillway, data):
    def run(*args, ok=True):
        r = spillway("accounts", *args, "--data", data)
        assert (r.returncode == 0) == ok, r
        return r
    run.json = lambda *args: json.loads(run(*args, "--json").stdout)
    return run


@pytest.fixture
def project(accounts):
    """A project of an organisation of its own."""
    organisation = accounts.json("create", "organisation", "Acme")["id"]
    return accounts.json("create", "project", "web", "--organisation", organisation)["id"]


@contextlib.contextmanager
def opened(path):
    """Closed again, as sqlite3's own context is not: the program sees who has the store open."""
    db = sqlite3.connect(path)
    with contextlib.closing(db), db:
        yield db


def rows(listing):
    head, *lines = listing.splitlines()
    starts = [m.start() for m in re.finditer(r"\S+( \S+)*", head)]
    names = re.split(r"  +", head.strip())
    for line in lines:
        yield dict(zip(names, (line[a:b].strip() for a, b in zip(starts, [*starts[1:], None]))))


def by_id(accounts, *args):
    return {a["id"]: a for a in accounts.json("list", *args)}


def test_list_is_a_tree(accounts, spillway, data, project):
    assert spillway("keys", "add", "alice", "--project", project, "--data", data).returncode == 0
    table = list(rows(accounts("list", "--keys").stdout))
    kinds = [(r["KIND"], r["NAME"]) for r in table]
    assert kinds[:5] == [("organisation", "default"), ("project", "default"), ("organisation", "Acme"), ("project", "web"), ("key", "alice")]
    assert [k for k, _ in kinds[5:]] == ["house"] * 3
    assert "alice" not in accounts("list").stdout
    everybody = by_id(accounts, "--keys")
    [key] = [a for a in everybody.values() if a["kind"] == "key"]
    assert key["parent"] == project and everybody[project]["keys"] == 1 and everybody[everybody[project]["parent"]]["name"] == "Acme"
    assert json.loads(spillway("keys", "list", "--data", data, "--json").stdout)[0]["project"] == project


def test_keys_belong_to_open_projects_only(accounts, spillway, data, project):
    def add(*args):
        return spillway("keys", "add", "x", "--data", data, *args)
    accounts("close", project)
    assert "no project" in add("--project", project).stderr and "no project" in add("--project", 1).stderr
    assert "admin" in add("--project", 2, "--admin").stderr
    assert add("--project", 2).returncode == 0


def test_money_moves_exactly(accounts, project):
    accounts("deposit", project, "500.00", "--note", "invoice 17")
    accounts("adjust", project, "-5.25", "--linked", 1)
    accounts("refund", project, "0.000000001")
    accounts("chargeback", project, "100")
    everybody = by_id(accounts)
    assert everybody[project]["balance_usd"] == "394.750000001"
    houses = {a["name"]: a["balance_usd"] for a in everybody.values() if a["kind"] == "house"}
    assert houses == {"house": "5.249999999", "overrun": "0.00", "outside": "-400.00"}


def test_a_supplier_is_paid(accounts, data):
    accounts("list")
    with opened(data / "accounts.db") as db:
        id_ = db.execute("INSERT INTO accounts (kind, name, created_s) VALUES ('supplier', 'groq', 1) RETURNING id").fetchone()[0]
        db.execute("INSERT INTO balances (account, posted) VALUES (?, 0)", (id_,))
    accounts("adjust", id_, "40.00")
    accounts("pay", id_, "30.00", "--note", "invoice 3")
    everybody = by_id(accounts)
    assert (everybody[id_]["balance_usd"], everybody[5]["name"], everybody[5]["balance_usd"]) == ("10.00", "outside", "30.00")
    assert [line["kind"] for line in accounts.json("statement", id_)["lines"]] == ["adjustment", "payment"]


def test_once_moves_money_once(accounts, project):
    first = accounts.json("deposit", project, "5", "--once", "k-1")
    assert accounts.json("deposit", project, "5.00", "--once", "k-1") == first
    assert "made before" in accounts("deposit", project, "5", "--once", "k-1").stderr
    assert "says something else" in accounts("deposit", project, "6", "--once", "k-1", ok=False).stderr
    assert by_id(accounts)[project]["balance_usd"] == "5.00"


@pytest.mark.parametrize("args", [("deposit", "P", "0"), ("deposit", "P", "-1"), ("deposit", "P", "1e3"), ("deposit", "P", "1,50"), ("deposit", "P", "0.0000000001"),
                                  ("deposit", "P", "9223372037"), ("deposit", "1", "5"), ("deposit", "999", "5"), ("deposit", "web", "5"), ("refund", "P", "-1"), ("adjust", "P", "0"), ("pay", "P", "1"), ("deposit", "P", "1", "--once", "a b"),
                                  ("refund", "P", "1", "--linked", "77"), ("prepaid", "P", "x"), ("prepaid", "1", "0"), ("budget", "add", "P", "-1"), ("budget", "add", "P", "1.5", "--unit", "tokens"),
                                  ("budget", "end", "5"), ("limit", "P"), ("limit", "999", "--rpm", "5"), ("rename", "P", ""), ("close", "1"), ("close", "2"), ("freeze", "3"), ("unfreeze", "P"), ("storage", "P", "maybe"), ("storage", "1", "on"), ("storage", "P", "off"),
                                  ("price", "set", "local", "m"), ("price", "set", "local", "m", "--input", "1"), ("price", "set", "local", "m", "--input", "0", "--output", "1"),
                                  ("price", "set", "local", "m", "--free", "--input", "1", "--output", "1"), ("price", "end", "local", "m"), ("price", "markup", "all", "-1"),
                                  ("price", "markup", "all", "7.555"), ("price", "markup", "all", "1001"), ("price", "gpu-hour", "m", "0"), ("price", "set", "markup", "all", "--free"),
                                  ("break-even", "nobody/x"), ("break-even", "gpt-4o-mini"), ("break-even", "--from", "2026-02-02", "--to", "2026-02-01"), ("statement", "P", "--month", "2026-13"),
                                  ("statement", "P", "--month", "2026-1"), ("statement", "1"), ("statement", "999"), ("adjust", "3", "1"), ("usage", "--by", "week"), ("usage", "--by", "tag,model"), ("usage", "--from", "2026-02-30"),
                                  ("usage", "--from", "2026-02-02", "--to", "2026-02-01"), ("export", "everything"), ("reconcile", "/nowhere", "--supplier", "groq"), ("prune",), ("restore", "/nowhere")])
def test_senseless_wishes_change_nothing(accounts, project, data, args):
    def dump():
        with opened(data / "accounts.db") as db:
            return [db.execute(f"SELECT * FROM {t}").fetchall() for t in ("accounts", "balances", "transfers", "budgets", "prices")]
    before = dump()
    r = accounts(*[project if a == "P" else a for a in args], ok=False)
    assert r.stderr.startswith("spillway: ") and dump() == before


@pytest.mark.parametrize("args", [[], ["wat"], ["create"], ["create", "key", "x"], ["deposit", "1"], ["list", "2"], ["list", "--note", "x"], ["budget"], ["prune", "--older-than", "1"],
                                  ["freeze", "2", "--json"], ["usage", "--month", "2026-01"]])
def test_wrong_usage(accounts, args):
    assert accounts(*args, ok=False).returncode == 2


def test_usage_of_a_command_names_its_forms(accounts):
    r = accounts("budget", ok=False)
    assert "budget add ID AMOUNT | budget list [ID] | budget end BUDGET" in r.stderr


def test_rules_are_shown_with_those_from_above(accounts, spillway, data, project):
    assert spillway("keys", "add", "alice", "--project", project, "--data", data).returncode == 0
    [key] = [a["id"] for a in accounts.json("list", "--keys") if a["kind"] == "key"]
    accounts("rules", project, "--providers", "groq, openai", "--max-price-in", "0.5", "--overflow-share=25%")
    accounts("rules", key, "--local-only", "on")
    expected = [(project, "project", "max_price_in", "0.50"), (project, "project", "overflow_share", "25%"), (project, "project", "providers", "groq,openai"),
                (key, "key", "local_only", "on")]
    assert [tuple(r.values()) for r in accounts.json("rules", key)] == expected
    assert [tuple(r.values()) for r in accounts.json("show", key)["rules"]] == expected
    assert [(int(r["OF"]), r["KIND"], r["RULE"], r["VALUE"]) for r in rows(accounts("rules").stdout)] == expected
    assert accounts("show", key).stdout.endswith(accounts("rules", key).stdout)


def test_a_rule_is_taken_away_by_any(accounts, project):
    accounts("rules", project, "--regions", "eu", "--zero-retention", "on", "--policy", "cheapest")
    accounts("rules", project, "--regions", "any", "--zero-retention", "off", "--policy", "any")
    assert accounts.json("rules", project) == [] and accounts("rules").stdout == ""


def test_a_long_list_is_shown_whole(accounts, project):
    models = [f"provider/a-model-with-quite-a-name-{i}" for i in range(20)]
    accounts("rules", project, "--models", ",".join(models))
    shown = list(rows(accounts("rules", project).stdout))
    assert "".join(r["VALUE"] for r in shown).split(",") == models
    assert [r["RULE"] for r in shown] == ["models"] + [""] * (len(shown) - 1) and len(shown) > 5


@pytest.mark.parametrize("args, says", [(("--max-price-in", "cheap"), "max_price_in"), (("--providers", "a,,b"), "providers"), (("--overflow-share", "a lot"), "overflow_share"),
                                        (("--local-only", "yes"), "--local-only"), (("--policy", "best"), "policy")])
def test_a_malformed_rule_is_refused_by_name(accounts, project, args, says):
    r = accounts("rules", project, *args, ok=False)
    assert says in r.stderr and accounts.json("rules") == []


def test_rules_need_an_account(accounts):
    assert "give the id" in accounts("rules", "--local-only", "on", ok=False).stderr


def test_budgets_and_limits_are_listed_with_their_use(accounts, project):
    accounts("budget", "add", project, "20", "--period", "day")
    accounts("budget", "add", project, "5.5", "--scope", "overflow", "--period", "hour", "--alert")
    accounts("limit", project, "--rpm", 600, "--concurrency", 32)
    accounts("limit", project, "--rpm", 900)
    budgets = accounts.json("budget", "list", project)
    assert [(b["unit"], b["period"], b["scope"], b["amount"], b["hard"]) for b in budgets] == [
        ("usd", "day", "all", "20.00", True), ("usd", "hour", "overflow", "5.50", False), ("requests", "now", "all", 32, True), ("requests", "minute", "all", 900, True)]
    accounts("limit", project, "--concurrency", 0)
    accounts("budget", "end", budgets[0]["id"])
    left = accounts.json("show", project)["budgets"]
    assert [b["amount"] for b in left] == ["5.50", 900]
    assert [r["LEFT"] for r in rows(accounts("budget", "list").stdout)] == ["(only tells)", "900"]


def test_prices_are_in_dollars_a_million_and_exact(accounts, tmp_path):
    accounts("price", "set", "local", "demo", "--input", "0.0375", "--output", "2.50", "--cached", "0.000000001")
    [p] = accounts.json("price", "list")
    tier = p["price"]["prices"][0]
    assert (tier["in_uncached"], tier["out_text"], tier["in_cache_read"]) == ([37500, 1000], [2500, 1], [1, 1000000])
    accounts("price", "set", "local", "demo", "--free")
    history = list(rows(accounts("price", "history", "local", "demo").stdout))
    assert [(r["INPUT/M"], r["OUTPUT/M"], bool(r["UNTIL"])) for r in history] == [("0.0375", "2.50", True), ("0.00", "0.00", False)]
    whole = tmp_path / "price.json"
    whole.write_text(json.dumps({"provider": "sale", "model": "demo", "can": [], "prices": [{"in_uncached": [5, 1], "out_text": [7, 1]}]}))
    accounts("price", "set", "local", "demo", "--price-file", whole, ok=False)
    accounts("price", "set", "sale", "demo", "--price-file", whole)
    accounts("price", "end", "local", "demo")
    assert [p["provider"] for p in accounts.json("price", "list")] == ["sale"]


def test_mark_ups_and_hours_are_rows_of_the_price_table(accounts):
    accounts("price", "markup", "groq", "7.25")
    accounts("price", "gpu-hour", "demo", "2.10")
    hour, markup = accounts.json("price", "list")
    assert (hour["price"]["hour"], markup["price"]["percent"]) == ([2_100_000_000, 1], [725, 100])
    assert [(r["PROVIDER"], r["MODEL"], r["INPUT/M"]) for r in rows(accounts("price", "list").stdout)] == [("gpu-hour", "demo", "2.10/h"), ("markup", "groq", "+7.25%")]
    accounts("price", "markup", "groq", "0")
    assert [r["INPUT/M"] for r in rows(accounts("price", "history", "markup", "groq").stdout)] == ["+7.25%", "+0.00%"]
    accounts("price", "end", "markup", "groq")
    assert [p["provider"] for p in accounts.json("price", "list")] == ["gpu-hour"]


def test_break_even_lists_each_hosted_price(accounts, data):
    """1 and 3 dollars a million, three times as much in as out: 1.50 a million, so an hour of 3 dollars is 2 million tokens."""
    accounts("price", "gpu-hour", "demo", "3")
    accounts("price", "set", "groq", "m", "--input", "1", "--output", "3")
    assert [r["CHEAPER"] for r in rows(accounts("break-even").stdout)] == ["not used"]
    with opened(data / "accounts.db") as db:
        db.execute("INSERT INTO accounts (kind, name, created_s) VALUES ('supplier', 'local/demo', 1)")
        db.execute("INSERT INTO balances (account) SELECT id FROM accounts WHERE name = 'local/demo'")
        for day, tokens in ((20000, 48_000_000), (20001, 60_000_000)):
            db.execute("INSERT INTO usage_days (day, project, account, model, supplier, requests, tokens_in, tokens_cached, tokens_out, sale, cost, estimated)"
                       " SELECT ?, 2, 1, 'demo', id, 1, ?, 0, ?, 0, 0, 0 FROM accounts WHERE name = 'local/demo'", (day, tokens * 3 // 4, tokens // 4))
    days = ("--from", "2024-10-04", "--to", "2024-10-05")
    [even] = accounts.json("break-even", *days)
    assert (even["tokens_in"], even["tokens_out"], even["hours"], even["tokens_an_hour"]) == (81_000_000, 27_000_000, 48, 2_250_000)
    assert (even["hosted_usd"], even["break_even_tokens_an_hour"], even["cheaper"]) == ("162.00", 2_000_000, "local")
    [line] = rows(accounts("break-even", *days).stdout)
    assert (line["HOSTED"], line["HOSTED/M"], line["BREAK-EVEN/H"]) == ("groq/m", "1.50", "2000000")
    [first, book] = accounts.json("break-even", "openai/gpt-4o-mini", "--from", "2024-10-04", "--to", "2024-10-04")
    assert first["cheaper"] == "local" and book["provider"] == "openai" and book["cheaper"] == "hosted"


def test_a_statement_opens_and_closes(accounts, project):
    accounts("deposit", project, "10")
    accounts("adjust", project, "-2.5", "--note", "for the\x1b[31m outage", "--linked", 1)
    s = accounts.json("statement", project)
    assert (s["opening_usd"], s["paid_in_usd"], s["sales_usd"], s["other_usd"], s["closing_usd"]) == ("0.00", "10.00", "0.00", "-2.50", "7.50")
    table = list(rows(accounts("statement", project).stdout))
    assert [(r["WHAT"], r["AMOUNT"], r["BALANCE"]) for r in table] == [("opening balance", "", "0.00"), ("deposit", "10.00", "10.00"), ("adjustment", "-2.50", "7.50"), ("closing balance", "", "7.50")]
    assert "\x1b" not in accounts("statement", project).stdout and "about 1" in table[2]["NOTE"]
    assert accounts.json("statement", project, "--month", "2020-02")["closing_usd"] == "0.00"


def test_export_is_csv(accounts, project):
    accounts("deposit", project, "10", "--note", '=HYPERLINK("x"), "y"\nz')
    [row] = csv.DictReader(io.StringIO(accounts("export", "transfers").stdout))
    assert row["amount_usd"] == "10.00" and row["credit"] == str(project) and row["note"] == "'" + '=HYPERLINK("x"), "y"\nz'
    assert accounts.json("export", "transfers")[0]["note"].startswith("=HYPER")
    assert accounts.json("export", "requests", "--from", "2026-01-01") == []


def test_backup_and_restore(accounts, project, data, tmp_path):
    copy = tmp_path / "copy.db"
    accounts("deposit", project, "10")
    assert str(data / "secret") in accounts("backup", copy).stderr
    assert copy.stat().st_mode & 0o777 == 0o600
    accounts("backup", copy, ok=False)
    accounts("deposit", project, "5")
    accounts("restore", copy)
    assert by_id(accounts)[project]["balance_usd"] == "10.00"
    [kept] = data.glob("accounts.db.before-*")
    with opened(kept) as db:
        assert db.execute("SELECT posted FROM balances WHERE account = ?", (project,)).fetchone() == (15 * 10**9,)


def test_a_backup_of_other_keys_is_refused(accounts, project, data, tmp_path):
    copy = tmp_path / "copy.db"
    accounts("backup", copy)
    (data / "secret").write_bytes(b"x" * 32)
    with opened(data / "accounts.db") as db:
        db.execute("UPDATE ledger_state SET secret_check = NULL")
    accounts("deposit", project, "5")
    assert "another secret" in accounts("restore", copy, ok=False).stderr
    assert by_id(accounts)[project]["balance_usd"] == "5.00"
    (data / "secret").unlink()
    assert "secret" in accounts("restore", copy, ok=False).stderr and not (data / "secret").exists()


@pytest.mark.parametrize("command", [("keys", "list"), ("accounts", "list"), ("accounts", "move")])
@pytest.mark.parametrize("url", ["postgresql://u:hunter2@127.0.0.1:1/x", "postgresql://u:hunter2@127.0.0.1:nonsense/x", "postgresql://u@127.0.0.1:1/x?password=hunter2", "postgres://u:hunter2 @h/x", "mysql://u:hunter2@h/x"])
def test_a_password_is_never_printed(spillway, accounts, data, command, url):
    accounts("list")
    r = spillway(*command, *([] if command[1] == "move" else ["--store"]), url, "--data", data)
    assert r.returncode != 0 and "hunter2" not in r.stdout + r.stderr


@pytest.mark.parametrize("url,shown", [("postgresql://u:hunter2@h:5432/x", "postgresql://u:***@h:5432/x"), ("postgresql://h/x?password=hunter2&sslmode=require", "postgresql://h/x?***&sslmode=require"),
                                       ("postgresql://u:hunter2%40@h/x", "postgresql://u:***@h/x"), ("postgresql://u@h/x", "postgresql://u@h/x"), ("postgresql://u:hun@ter2@h/x?sslpassword=hunter2", "postgresql://u:***@h/x?***")])
def test_the_configuration_shows_the_store_without_password(spillway, tmp_path, url, shown):
    config = tmp_path / "c.yaml"
    config.write_text(f'store: "{url}"\n')
    for args in (["--store", url], ["--config", config]):
        r = spillway("serve", "--print-config", *args)
        assert r.returncode == 0 and shown in r.stdout and "hunter2" not in r.stdout + r.stderr, r


def pasted():
    """The statements of docs/accounts.md, by the comment above each."""
    text = (pathlib.Path(__file__).parents[2] / "docs/accounts.md").read_text()
    blocks = "".join(line[4:] + "\n" for line in text.splitlines() if line.startswith("    ") or not line)
    found = dict(re.findall(r"-- (.*)\n((?:SELECT [^;]*;\n)+)", blocks))
    assert len(found) == 5
    return {title: [s for s in sql.split(";\n") if s] for title, sql in found.items()}


def test_the_sql_of_the_documentation_can_be_pasted(accounts, project, data):
    assert project == 7
    accounts("deposit", project, "10")
    accounts("adjust", project, "-2.5")
    statement = accounts.json("statement", project, "--month", "2026-11")
    with opened(data / "accounts.db") as db:
        said = {title: [db.execute(s).fetchall() for s in sql] for title, sql in pasted().items()}
    by_word = {title.split()[0]: rows_ for title, rows_ in said.items()}
    assert by_word["opening"][0][0][0] in (None, float(statement["opening_usd"]))
    assert sum(row[2] for row in by_word["the"][0]) == float(statement["closing_usd"]) - float(statement["opening_usd"])
    assert by_word["what"] == [[]] and by_word["money"] == [[(0,)]]
    assert len(by_word["one"]) == 3


def test_what_is_kept_of_answers_is_shown(accounts, project):
    accounts("storage", project, "on")
    assert by_id(accounts)[project]["stores_answers"] is True and "keeps answers" in accounts("show", project).stdout
    accounts("storage", project, "off")
    assert by_id(accounts)[project]["stores_answers"] is False and "keeps answers" not in accounts("show", project).stdout
