/* Migrations, on the store that SPILLWAY_STORE names: a store that a program of each earlier version has left, with rows in it, is brought up to date, and
 * what was in it is there and works. */
#include "tests/accounts/store.h"

#include "server/accounts/accounts.h"
#include "server/accounts/rules.h"

enum { LEDGER = 4, RULES_AND_ALERTS = 6 /* the version that brought it */ };
static const int64_t USD = 1000000000;

/* PostgreSQL came with version 4. */
static int first_version(void)
{
    return db_is_url(store_where()) ? LEDGER : 1;
}

static struct db *store_of_version(int version)
{
    struct db *db;
    OK(db_open(&db, store_where(), &store_e));
    if (db_kind(db) == DB_POSTGRES) OK(db_script(db, "DROP SCHEMA public CASCADE; CREATE SCHEMA public", &store_e));
    OK(schema_migrate_to(db, version, &store_e));
    assert_int_equal(store_number(db, "SELECT max(version) FROM schema_migrations"), version);
    return db;
}

/* What there could be: a project with a key, money that was paid in, a rule. Ids follow those of the first rows. */
static void fill(struct db *db, int version)
{
    const bool sqlite = db_kind(db) == DB_SQLITE;
    const char *digest = sqlite ? "x'0101010101010101010101010101010101010101010101010101010101010101'" : "'\\x0101010101010101010101010101010101010101010101010101010101010101'";
    char sql[1000];
    OK(db_script(db, "INSERT INTO accounts (kind, parent, name, created_s) VALUES ('project', 1, 'old', 7)", &store_e));
    if (version == 1)
        snprintf(sql, sizeof sql, "INSERT INTO accounts (kind, parent, name, created_s, key_digest, key_hint)"
                 " SELECT 'key', id, 'k', 7, %s, 'hint' FROM accounts WHERE name = 'old'", digest);
    else
        snprintf(sql, sizeof sql, "INSERT INTO accounts (kind, parent, name, created_s) SELECT 'key', id, 'k', 7 FROM accounts WHERE name = 'old';"
                 "INSERT INTO key_secrets (account, digest, hint, created_s) SELECT id, %s, 'hint', 7 FROM accounts WHERE name = 'k'", digest);
    OK(db_script(db, sql, &store_e));
    if (version >= LEDGER)
        OK(db_script(db, "INSERT INTO balances (account, posted) SELECT id, 5000000000 FROM accounts WHERE name = 'old';"
                         "UPDATE balances SET posted = -5000000000 WHERE account = (SELECT id FROM accounts WHERE kind = 'house' AND name = 'outside');"
                         "INSERT INTO transfers (kind, debit, credit, amount, created_ms) SELECT 'deposit', o.id, p.id, 5000000000, 7 FROM accounts o, accounts p"
                         " WHERE o.kind = 'house' AND o.name = 'outside' AND p.name = 'old'", &store_e));
    if (version >= RULES_AND_ALERTS)
        OK(db_script(db, "INSERT INTO account_rules (account, name, value) SELECT id, 'local_only', 'on' FROM accounts WHERE name = 'old'", &store_e));
}

static int64_t id_of(struct db *db, const char *name)
{
    int64_t id;
    OK(db_number(db, "SELECT id FROM accounts WHERE name = ?1", DB_ARGS(db_text(name)), 0, &id, &store_e));
    assert_true(id > 0);
    return id;
}

/* A request is reserved and posted as in a store that was made today. */
static void charge(struct db *db, int64_t key)
{
    struct ledger *l;
    OK(ledger_open(&l, db, &(struct ledger_options){.gateway = "test", .alone = true}, &store_e));
    int64_t groq = ledger_supplier(db, "groq", &store_e);
    OK(groq);
    struct ledger_op r = {.type = LEDGER_RESERVE, .account = key, .model = "m", .amount_nusd = USD, .lasts_ms = 60000, .attempt = {.supplier = groq, .model = "m"}};
    struct ledger_op *list = &r;
    OK(ledger_apply(l, &list, 1, &store_e));
    assert_int_equal(r.rc, 0);
    struct ledger_op p = {.type = LEDGER_POST, .request = r.request, .sale_nusd = USD, .served = 1, .n_used = 1, .used = {{.n = 1, .supplier = groq, .cost_nusd = USD}}};
    usage_set(&p.used[0].usage, USAGE_IN_UNCACHED, 1);
    list = &p;
    OK(ledger_apply(l, &list, 1, &store_e));
    assert_int_equal(p.rc, 0);
    ledger_close(l);
}

/* The table was made anew by version 11: what it refused it refuses, its ids go on, and what it did not know it knows. */
static void check_transfers(struct db *db)
{
    struct ledger *l;
    int64_t last = store_number(db, "SELECT max(id) FROM transfers");
    assert_int_equal(db_run(db, "INSERT INTO transfers (request, kind, debit, credit, amount, created_ms) SELECT request, kind, debit, credit, amount,"
                                " created_ms FROM transfers WHERE kind = 'sale'", DB_NO_ARGS, NULL, &store_e), -ERR_EXISTS);
    assert_int_equal(db_run(db, "INSERT INTO transfers (request, attempt, kind, debit, credit, amount, created_ms) SELECT request, attempt, kind, debit,"
                                " credit, amount, created_ms FROM transfers WHERE kind = 'cost'", DB_NO_ARGS, NULL, &store_e), -ERR_EXISTS);
    assert_true(db_run(db, "INSERT INTO transfers (kind, debit, credit, amount, created_ms) VALUES ('gift', 2, 3, 1, 1)", DB_NO_ARGS, NULL, &store_e) < 0);
    assert_true(db_run(db, "INSERT INTO transfers (kind, debit, credit, amount, created_ms) VALUES ('deposit', 2, 2, 1, 1)", DB_NO_ARGS, NULL, &store_e) < 0);
    OK(ledger_open(&l, db, &(struct ledger_options){.gateway = "desk", .desk = true}, &store_e));
    assert_true(ledger_transfer(l, LEDGER_PAYMENT, id_of(db, "groq"), 9, 0, NULL, &store_e) > last);
    ledger_close(l);
}

static void check(struct db *db, int version)
{
    int64_t project = id_of(db, "old"), key = id_of(db, "k"), posted;
    assert_int_equal(store_number(db, "SELECT max(version) FROM schema_migrations"), ACCOUNTS_SCHEMA_VERSION);
    assert_int_equal(store_number(db, "SELECT count(*) FROM schema_migrations"), ACCOUNTS_SCHEMA_VERSION);
    assert_int_equal(store_number(db, "SELECT count(*) FROM key_secrets s JOIN accounts k ON k.id = s.account WHERE k.name = 'k' AND length(s.digest) = 32"), 1);
    assert_int_equal(store_number(db, "SELECT count(*) FROM accounts WHERE kind = 'house'"), 3);
    charge(db, key);
    check_transfers(db);
    OK(db_number(db, "SELECT posted FROM balances WHERE account = ?1", DB_ARGS(db_int(project)), -1, &posted, &store_e));
    assert_int_equal(posted, version >= LEDGER ? 4 * USD : -USD);
    store_check(db);
    if (version < RULES_AND_ALERTS) OK(rules_change(db, project, (const char *const[RULES]){[RULE_LOCAL_ONLY] = "on"}, &store_e));
    assert_int_equal(store_number(db, "SELECT count(*) FROM account_rules WHERE name = 'local_only' AND value = 'on'"), 1);
}

static void test_every_earlier_version_is_brought_up_to_date(void **state)
{
    (void)state;
    for (int version = first_version(); version < ACCOUNTS_SCHEMA_VERSION; version++) {
        store_new();
        if (!db_is_url(store_where())) unlink(store_file); /* store_new has made today's */
        struct db *db = store_of_version(version);
        fill(db, version);
        OK(schema_migrate(db, &store_e));
        check(db, version);
        db_close(db);
        store_remove();
    }
}

/* A request and an attempt of before there were mark-ups and tiers keep what they had. */
static void test_what_a_line_was_priced_by_stays(void **state)
{
    (void)state;
    store_new();
    if (!db_is_url(store_where())) unlink(store_file);
    struct db *db = store_of_version(RULES_AND_ALERTS);
    OK(db_script(db, "INSERT INTO requests (id, account, project, state, scope, model, price, created_ms, deadline_ms, resolved_ms, reserved, held, charged)"
                     " VALUES (4294967297, 3, 2, 'posted', 0, 'm', 9, 1, 2, 2, 5, 0, 5);"
                     "INSERT INTO attempts (request, n, supplier, model, price, state, started_ms) VALUES (4294967297, 1, 4, 'm', 9, 'served', 1)", &store_e));
    OK(schema_migrate(db, &store_e));
    assert_int_equal(store_number(db, "SELECT count(*) FROM requests WHERE price = 9 AND charged = 5 AND markup IS NULL"), 1);
    assert_int_equal(store_number(db, "SELECT count(*) FROM attempts WHERE price = 9 AND tier IS NULL AND extended = 0"), 1);
    db_close(db);
    store_remove();
}

static void test_a_newer_version_is_refused_and_stays(void **state)
{
    (void)state;
    store_new();
    struct db *db;
    OK(db_open(&db, store_where(), &store_e));
    OK(db_run(db, "INSERT INTO schema_migrations (version, applied_s) VALUES (?1, 1)", DB_ARGS(db_int(ACCOUNTS_SCHEMA_VERSION + 1)), NULL, &store_e));
    assert_int_equal(schema_migrate(db, &store_e), -ERR_UNSUPPORTED);
    assert_int_equal(store_number(db, "SELECT max(version) FROM schema_migrations"), ACCOUNTS_SCHEMA_VERSION + 1);
    db_close(db);
    store_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_earlier_version_is_brought_up_to_date),
        cmocka_unit_test(test_what_a_line_was_priced_by_stays),
        cmocka_unit_test(test_a_newer_version_is_refused_and_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
