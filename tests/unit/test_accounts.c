/* Accounts: migrations from nothing and from a newer schema, keys made, checked, revoked, seen by another handle, never
 * stored in the clear. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "base/buf.h"
#include "server/accounts/accounts.h"
#include "server/accounts/key_table.h"

static char dir[64], sub[96];

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/spillway-accounts-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    snprintf(sub, sizeof sub, "%s/a/b", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

static struct accounts *open_ok(void)
{
    struct accounts *a;
    struct err e = {0};
    if (accounts_open(&a, sub, NULL, &e)) fail_msg("%s", e.msg);
    return a;
}

static int64_t check(const struct accounts *a, const char *token)
{
    return accounts_key_check(a, token, NULL);
}

static int64_t make(struct accounts *a, char token[ACCOUNTS_TOKEN_BYTES])
{
    struct err e = {0};
    int64_t id = accounts_key_make(a, &(struct accounts_key_spec){.name = "one"}, token, &e);
    if (id <= 0) fail_msg("%s", e.msg);
    return id;
}

static sqlite3 *raw_db(void)
{
    char path[128];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/accounts.db", sub);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    return db;
}

static int64_t raw_number(const char *sql)
{
    sqlite3 *db = raw_db();
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    sqlite3_close(db);
    return n;
}

static void test_accounts_migrate_from_nothing(void **state)
{
    (void)state;
    accounts_close(open_ok());
    assert_int_equal(raw_number("SELECT max(version) FROM schema_migrations"), ACCOUNTS_SCHEMA_VERSION);
    assert_int_equal(raw_number("SELECT count(*) FROM accounts WHERE kind = 'project' AND parent = 1"), 1);
    accounts_close(open_ok()); /* a second time changes nothing */
    assert_int_equal(raw_number("SELECT count(*) FROM schema_migrations"), ACCOUNTS_SCHEMA_VERSION);
}

static void raw_run(const char *sql)
{
    sqlite3 *db = raw_db();
    char *why = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK) fail_msg("%s", why);
    sqlite3_close(db);
}

/* What versions from 4 on brought, away. */
#define DROP_LEDGER \
    "DROP TABLE ledger_state; DROP TABLE runs; DROP TABLE balances; DROP TABLE budgets; DROP TABLE budget_windows; DROP TABLE prices;" \
    "DROP TABLE requests; DROP TABLE request_windows; DROP TABLE attempts; DROP TABLE transfers; DROP TABLE idempotency;" \
    "DROP TABLE usage_days; DROP TABLE usage_tags; DROP TABLE reconciliation; DELETE FROM accounts WHERE kind = 'house';" \
    "DROP TABLE account_rules; DROP TABLE alerts; DROP INDEX IF EXISTS accounts_houses; ALTER TABLE accounts DROP COLUMN frozen_s;" \
    "ALTER TABLE accounts DROP COLUMN stores_answers;"

/* Others notice it as they do a change by the program. */
#define NOTED "; UPDATE ledger_state SET config_version = config_version + 1"

/* A database as version 1 of the schema left it: with two keys, one revoked, whose digests a handle of today has made. */
static void make_version_1(int64_t *valid, int64_t *revoked, char token[2][ACCOUNTS_TOKEN_BYTES])
{
    struct accounts *a = open_ok();
    struct err e;
    *valid = make(a, token[0]);
    *revoked = make(a, token[1]);
    assert_int_equal(accounts_key_revoke(a, *revoked, &e), 0);
    accounts_close(a);
    raw_run("PRAGMA foreign_keys = OFF;"
            "CREATE TABLE old (id INTEGER PRIMARY KEY AUTOINCREMENT,"
            " kind TEXT NOT NULL CHECK (kind IN ('organisation', 'project', 'key', 'house', 'supplier')),"
            " parent INTEGER REFERENCES accounts(id), name TEXT NOT NULL, created_s INTEGER NOT NULL, closed_s INTEGER,"
            " key_digest BLOB UNIQUE CHECK (key_digest IS NULL OR length(key_digest) = 32), key_hint TEXT,"
            " CHECK ((kind = 'key') = (key_digest IS NOT NULL)), CHECK ((kind IN ('project', 'key')) = (parent IS NOT NULL)));"
            DROP_LEDGER "INSERT INTO old SELECT k.id, kind, parent, name, k.created_s, closed_s, digest, hint FROM accounts k"
            " LEFT JOIN key_secrets s ON s.account = k.id;"
            "DROP TABLE key_secrets; DROP TABLE accounts; ALTER TABLE old RENAME TO accounts;"
            "CREATE INDEX accounts_parent ON accounts(parent); DELETE FROM schema_migrations WHERE version >= 2");
}

static void test_accounts_migrate_from_version_1(void **state)
{
    (void)state;
    int64_t valid, revoked;
    char token[2][ACCOUNTS_TOKEN_BYTES];
    make_version_1(&valid, &revoked, token);
    struct accounts *a = open_ok();
    assert_int_equal(check(a, token[0]), valid);
    assert_int_equal(check(a, token[1]), 0);
    char another[ACCOUNTS_TOKEN_BYTES];
    assert_true(make(a, another) > revoked); /* ids go on */
    accounts_close(a);
    assert_int_equal(raw_number("SELECT count(*) FROM accounts WHERE kind IN ('organisation', 'project')"), 2);
    assert_int_equal(raw_number("SELECT count(*) FROM accounts WHERE kind = 'house'"), 3);
}

static void test_accounts_migration_refuses_rows_without_parent(void **state)
{
    (void)state;
    int64_t valid, revoked;
    char token[2][ACCOUNTS_TOKEN_BYTES];
    make_version_1(&valid, &revoked, token);
    raw_run("UPDATE accounts SET parent = 77 WHERE kind = 'key'");
    struct accounts *a;
    struct err e;
    assert_int_equal(accounts_open(&a, sub, NULL, &e), -ERR_INPUT);
    assert_int_equal(raw_number("SELECT max(version) FROM schema_migrations"), 1); /* nothing was done by halves */
}

/* Version 2 is version 3 without what a key gets of a busy engine. */
static void test_accounts_migrate_from_version_2(void **state)
{
    (void)state;
    char token[ACCOUNTS_TOKEN_BYTES];
    struct accounts *a = open_ok();
    int64_t id = make(a, token);
    accounts_close(a);
    raw_run(DROP_LEDGER "ALTER TABLE accounts DROP COLUMN weight; ALTER TABLE accounts DROP COLUMN priority;"
                        "DELETE FROM schema_migrations WHERE version >= 3");
    a = open_ok();
    assert_int_equal(check(a, token), id);
    struct accounts_share share = accounts_key_share(a, id);
    assert_int_equal(share.weight, 1);
    assert_int_equal(share.priority, 0);
    accounts_close(a);
}

/* n processes open the directory at the same moment; returns how many could not. */
static int open_at_once(int n)
{
    int gate[2], failed = 0;
    assert_int_equal(pipe(gate), 0);
    fflush(NULL);
    for (int i = 0; i < n; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid) continue;
        char byte;
        close(gate[1]);
        struct accounts *a = NULL;
        struct err e = {0};
        int rc = read(gate[0], &byte, 1) == 0 ? accounts_open(&a, sub, NULL, &e) : 1; /* the gate closes: all run */
        if (rc) fprintf(stderr, "%s\n", e.msg);
        accounts_close(a);
        _exit(rc != 0);
    }
    close(gate[0]);
    close(gate[1]);
    for (int i = 0, status; i < n; i++)
        if (wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status)) failed++;
    return failed;
}

static void test_accounts_are_made_by_several_processes_at_once(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        assert_int_equal(open_at_once(8), 0);
        assert_int_equal(raw_number("SELECT count(*) FROM accounts"), 5);
        teardown(state);
        setup(state);
    }
}

static void test_accounts_are_migrated_by_several_processes_at_once(void **state)
{
    (void)state;
    int64_t valid, revoked;
    char token[2][ACCOUNTS_TOKEN_BYTES];
    make_version_1(&valid, &revoked, token);
    assert_int_equal(open_at_once(8), 0);
    struct accounts *a = open_ok();
    assert_int_equal(check(a, token[0]), valid);
    accounts_close(a);
    assert_int_equal(raw_number("SELECT count(*) FROM schema_migrations"), ACCOUNTS_SCHEMA_VERSION);
}

static const char *const hot_inserts[] = {
    "INSERT INTO requests (id, account, project, state, scope, model, created_ms, deadline_ms, reserved, held) VALUES (1, 2, 3, 'reserved', 0, 'm', 1, 2, 5, 5)",
    "INSERT INTO attempts (request, n, supplier, model, state, started_ms, source) VALUES (1, 1, 4, 'm', 'open', 1, 'reported')",
    "INSERT INTO transfers (request, kind, debit, credit, amount, created_ms) VALUES (1, 'sale', 2, 3, 5, 1)"};

/* A list of three values in a CHECK would be made a table for each row (schema.c, version 10). */
static void test_accounts_checks_of_what_is_written_often_need_no_table(void **state)
{
    (void)state;
    accounts_close(open_ok());
    sqlite3 *db = raw_db();
    for (size_t i = 0; i < sizeof hot_inserts / sizeof *hot_inserts; i++) {
        char sql[400];
        sqlite3_stmt *s;
        snprintf(sql, sizeof sql, "EXPLAIN %s", hot_inserts[i]);
        assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
        while (sqlite3_step(s) == SQLITE_ROW) assert_string_not_equal((const char *)sqlite3_column_text(s, 1), "OpenEphemeral");
        sqlite3_finalize(s);
    }
    sqlite3_close(db);
}

static void test_accounts_checks_hold_after_the_migrations(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "UPDATE requests SET state = 'lost', resolved_ms = 1, held = 0", "UPDATE requests SET scope = 3", "UPDATE attempts SET state = 'done'",
        "UPDATE attempts SET source = 'guessed'", "UPDATE transfers SET kind = 'gift'"};
    accounts_close(open_ok());
    for (size_t i = 0; i < sizeof hot_inserts / sizeof *hot_inserts; i++) raw_run(hot_inserts[i]);
    sqlite3 *db = raw_db();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(sqlite3_exec(db, wrong[i], NULL, NULL, NULL), SQLITE_CONSTRAINT);
        assert_non_null(strstr(sqlite3_errmsg(db), "CHECK"));
    }
    sqlite3_close(db);
}

static void test_accounts_enforce_references(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    raw_run("DELETE FROM accounts WHERE id = 2"); /* by another program, which does not enforce them */
    assert_true(accounts_key_make(a, &(struct accounts_key_spec){.name = "x"}, token, &e) < 0);
    accounts_close(a);
}

static void test_accounts_refuse_a_newer_schema(void **state)
{
    (void)state;
    accounts_close(open_ok());
    sqlite3 *db = raw_db();
    assert_int_equal(sqlite3_exec(db, "INSERT INTO schema_migrations VALUES (999, 0)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    struct accounts *a;
    struct err e;
    assert_int_equal(accounts_open(&a, sub, NULL, &e), -ERR_UNSUPPORTED);
    assert_null(a);
    assert_non_null(strstr(e.msg, "999"));
}

static void test_accounts_are_private_files(void **state)
{
    (void)state;
    accounts_close(open_ok());
    const char *names[] = {"", "/secret", "/accounts.db"};
    for (int i = 0; i < 3; i++) {
        char path[128];
        struct stat st;
        snprintf(path, sizeof path, "%s%s", sub, names[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 077, 0);
    }
}

static void test_accounts_key_is_checked_and_revoked(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES], other[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    int64_t id = accounts_key_make(a, &(struct accounts_key_spec){.name = "one"}, token, &e);
    assert_true(id > 0);
    assert_true(accounts_key_make(a, &(struct accounts_key_spec){.name = "two"}, other, &e) > id);
    assert_string_not_equal(token, other);
    assert_int_equal(check(a, token), id);
    assert_int_equal(check(a, "sk-spillway-"), 0);
    assert_int_equal(check(a, ""), 0);
    char changed[ACCOUNTS_TOKEN_BYTES];
    strcpy(changed, token);
    changed[strlen(changed) - 1] ^= 1;
    assert_int_equal(check(a, changed), 0);
    assert_int_equal(accounts_key_revoke(a, id, &e), 0);
    assert_int_equal(check(a, token), 0);
    assert_int_equal(accounts_key_revoke(a, id, &e), -ERR_NOT_FOUND);
    assert_int_equal(accounts_key_revoke(a, 1, &e), -ERR_NOT_FOUND); /* an organisation is no key */
    assert_true(check(a, other) > 0);
    assert_int_equal(accounts_key_add(a, &(struct accounts_key_spec){.name = "again"}, token, &e), -ERR_INPUT); /* revoked stays revoked */
    accounts_close(a);
}

static void test_accounts_keys_hold_after_reopening(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    struct err e;
    int64_t id = accounts_key_add(a, &(struct accounts_key_spec){.name = "given"}, "my-own-key-123", &e);
    assert_true(id > 0);
    accounts_close(a);
    a = open_ok();
    assert_int_equal(check(a, "my-own-key-123"), id);
    accounts_close(a);
}

static void test_accounts_refresh_sees_other_handles(void **state)
{
    (void)state;
    struct accounts *a = open_ok(), *b = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    int64_t id = accounts_key_make(a, &(struct accounts_key_spec){.name = "one"}, token, &e);
    assert_int_equal(check(b, token), 0);
    assert_int_equal(accounts_refresh(b, &e), 0);
    assert_int_equal(check(b, token), id);
    assert_int_equal(accounts_key_revoke(a, id, &e), 0);
    assert_int_equal(accounts_refresh(b, &e), 0);
    assert_int_equal(check(b, token), 0);
    accounts_close(a);
    accounts_close(b);
}

/* Many are read in pieces; until the last is there the former ones hold, and what changes meanwhile is seen by the next round. */
static void test_accounts_refresh_reads_in_pieces(void **state)
{
    (void)state;
    struct accounts *a = open_ok(), *b;
    char token[ACCOUNTS_TOKEN_BYTES], late[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    int64_t first = make(a, token);
    b = open_ok();
    raw_run("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)"
            " INSERT INTO accounts (kind, parent, name, created_s) SELECT 'key', 2, 'many', 1 FROM n;"
            "INSERT INTO key_secrets (account, digest, hint, created_s) SELECT id, randomblob(32), 'abcd', 1 FROM accounts WHERE name = "
            "'many'" NOTED);
    assert_int_equal(accounts_refresh(b, &e), 1);
    assert_int_equal(accounts_key_count(b), 1);
    assert_int_equal(accounts_key_revoke(a, first, &e), 0);
    int64_t id = make(a, late);
    int rc, rounds = 0;
    while ((rc = accounts_refresh(b, &e)) == 1) rounds++;
    assert_int_equal(rc, 0);
    assert_true(rounds >= 1 && rounds < 10);
    assert_int_equal(accounts_key_count(b), 1201); /* as it was when the reading began */
    while (accounts_refresh(b, &e) == 1) {
    }
    assert_int_equal(check(b, late), id);
    assert_int_equal(check(b, token), 0);
    accounts_close(a);
    assert_int_equal(accounts_refresh(b, &e), 0);
    raw_run("UPDATE accounts SET name = 'x' WHERE name = 'many'" NOTED);
    assert_int_equal(accounts_refresh(b, &e), 1);
    accounts_close(b); /* in the middle */
}

/* A refresh that fails on the way (here: memory that SQLite may not have) is done again by the next one. */
static void test_accounts_refresh_that_failed_is_done_again(void **state)
{
    (void)state;
    struct accounts *a = open_ok(), *b = open_ok();
    int n_failed = 0;
    for (int extra = 0; extra < 40000; extra += 1000) {
        char token[ACCOUNTS_TOKEN_BYTES];
        struct err e;
        int64_t id = make(a, token);
        sqlite3_release_memory(1 << 30);
        sqlite3_hard_heap_limit64(sqlite3_memory_used() + extra);
        n_failed += accounts_refresh(b, &e) < 0;
        sqlite3_hard_heap_limit64(0);
        assert_int_equal(accounts_refresh(b, &e), 0);
        assert_int_equal(check(b, token), id);
    }
    assert_true(n_failed > 0);
    accounts_close(a);
    accounts_close(b);
}

static void test_accounts_key_text_is_stored_nowhere(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    assert_true(accounts_key_make(a, &(struct accounts_key_spec){.name = "one"}, token, &e) > 0);
    accounts_close(a);
    const char *names[] = {"accounts.db", "accounts.db-wal", "secret"};
    size_t seen = 0;
    for (int i = 0; i < 3; i++) {
        char path[128];
        struct buf b;
        snprintf(path, sizeof path, "%s/%s", sub, names[i]);
        buf_init(&b, 1 << 20);
        if (buf_read_file(&b, path, &e) == 0 && b.len) {
            assert_null(memmem(b.data, b.len, token, strlen(token)));
            assert_null(memmem(b.data, b.len, token + 12, 20));
            seen += memmem(b.data, b.len, token + strlen(token) - 4, 4) != NULL; /* the hint: we do look at the right bytes */
        }
        buf_free(&b);
    }
    assert_true(seen > 0);
}

static void test_accounts_refuse_unusable_keys(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    struct err e;
    assert_int_equal(accounts_key_add(a, &(struct accounts_key_spec){.name = "x"}, "short", &e), -ERR_INPUT);
    assert_int_equal(accounts_key_add(a, &(struct accounts_key_spec){.name = "x"}, "has a blank in it", &e), -ERR_INPUT);
    assert_int_equal(accounts_key_add(a, &(struct accounts_key_spec){.name = "x"}, "", &e), -ERR_INPUT);
    assert_int_equal(accounts_key_count(a), 0);
    accounts_close(a);
}

static void test_accounts_key_expires(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    int64_t now = (int64_t)time(NULL);
    int64_t id = accounts_key_make(a, &(struct accounts_key_spec){.name = "soon", .expires_s = now + 2}, token, &e);
    assert_int_equal(check(a, token), id);
    assert_int_equal(accounts_key_count(a), 1);
    while ((int64_t)time(NULL) < now + 2) usleep(20000); /* no refresh: the check itself looks at the time */
    assert_int_equal(check(a, token), 0);
    assert_int_equal(accounts_key_count(a), 0);
    assert_int_equal(accounts_key_rotate(a, id, 60, -1, token, &e), -ERR_NOT_FOUND);
    accounts_close(a);
    a = open_ok();
    assert_int_equal(check(a, token), 0);
    accounts_close(a);
}

static void test_accounts_share_is_found_by_the_keys_id(void **state)
{
    (void)state;
    enum { N = 9 };
    struct accounts *a = open_ok();
    struct err e;
    int64_t ids[N];
    char token[ACCOUNTS_TOKEN_BYTES];
    for (int i = 0; i < N; i++) {
        const struct accounts_key_spec spec = {.name = "x", .share = {.weight = (uint32_t)(10 + i), .priority = i - 4}};
        ids[i] = accounts_key_make(a, &spec, token, &e);
        if (i % 3 == 0) assert_int_equal(accounts_key_rotate(a, ids[i], 1000, -1, token, &e), 0); /* two secrets then */
    }
    for (int reopened = 0; reopened < 2; reopened++) {
        for (int i = 0; i < N; i++) {
            struct accounts_share share = accounts_key_share(a, ids[i]);
            assert_int_equal(share.weight, 10 + i);
            assert_int_equal(share.priority, i - 4);
        }
        assert_int_equal(accounts_key_share(a, ids[N - 1] + 1).weight, 1);
        assert_int_equal(accounts_key_share(a, 0).weight, 1);
        accounts_close(a);
        a = open_ok();
    }
    accounts_close(a);
}

static void test_accounts_share_can_be_changed_by_another_handle(void **state)
{
    (void)state;
    char token[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    struct accounts *a = open_ok(), *b = open_ok();
    int64_t id = make(a, token);
    assert_int_equal(accounts_key_set_share(b, id, &(struct accounts_share){.weight = 7, .priority = -3}, &e), 0);
    assert_int_equal(accounts_key_share(a, id).weight, 1);
    assert_int_equal(accounts_refresh(a, &e), 0);
    assert_int_equal(accounts_key_share(a, id).weight, 7);
    assert_int_equal(accounts_key_share(a, id).priority, -3);
    accounts_close(a);
    accounts_close(b);
}

static void test_accounts_share_out_of_range_is_refused(void **state)
{
    (void)state;
    static const struct accounts_share bad[] = {
        {0, 0}, {ACCOUNTS_MAX_WEIGHT + 1, 0}, {1, ACCOUNTS_MAX_PRIORITY + 1}, {1, -ACCOUNTS_MAX_PRIORITY - 1}};
    char token[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    struct accounts *a = open_ok();
    int64_t id = make(a, token);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(accounts_key_set_share(a, id, &bad[i], &e), -ERR_INPUT);
    for (size_t i = 1; i < sizeof bad / sizeof *bad; i++) /* 0 is the usual weight there */
        assert_int_equal(accounts_key_make(a, &(struct accounts_key_spec){.name = "x", .share = bad[i]}, token, &e), -ERR_INPUT);
    assert_int_equal(accounts_key_set_share(a, id + 1, &(struct accounts_share){.weight = 1}, &e), -ERR_NOT_FOUND);
    accounts_close(a);
}

static void test_accounts_admin_is_told(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES], plain[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    make(a, plain);
    int64_t id = accounts_key_make(a, &(struct accounts_key_spec){.name = "root", .admin = true}, token, &e);
    bool admin = false;
    assert_int_equal(accounts_key_check(a, token, &admin), id);
    assert_true(admin);
    assert_true(accounts_key_check(a, plain, &admin) > 0);
    assert_false(admin);
    admin = true;
    assert_int_equal(accounts_key_check(a, "unknown-key", &admin), 0);
    assert_false(admin);
    assert_int_equal(accounts_key_count(a), 1); /* one that opens the API */
    accounts_close(a);
}

static void test_accounts_rotation_gives_another_secret(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char old[ACCOUNTS_TOKEN_BYTES], new[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    int64_t id = make(a, old);
    assert_int_equal(accounts_key_rotate(a, id, 3600, -1, new, &e), 0);
    assert_string_not_equal(old, new);
    assert_int_equal(check(a, new), id);
    assert_int_equal(check(a, old), id);
    assert_int_equal(accounts_key_count(a), 1); /* one key with two secrets */
    accounts_close(a);
}

static void test_accounts_rotation_ends_the_former_after_its_grace(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char first[ACCOUNTS_TOKEN_BYTES], second[ACCOUNTS_TOKEN_BYTES], third[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    int64_t id = make(a, first), now = (int64_t)time(NULL);
    assert_int_equal(accounts_key_rotate(a, id, 2, -1, second, &e), 0);
    assert_int_equal(check(a, first), id);
    assert_int_equal(accounts_key_rotate(a, id, 3600, -1, third, &e), 0); /* does not lengthen the first one's time */
    while ((int64_t)time(NULL) < now + 4) usleep(20000);
    assert_int_equal(check(a, first), 0);
    assert_int_equal(check(a, second), id);
    assert_int_equal(check(a, third), id);
    accounts_close(a);
}

static void test_accounts_rotation_without_grace_ends_the_former_at_once(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char old[ACCOUNTS_TOKEN_BYTES], new[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    int64_t id = make(a, old);
    assert_int_equal(accounts_key_rotate(a, id, 0, -1, new, &e), 0);
    assert_int_equal(check(a, old), 0);
    assert_int_equal(check(a, new), id);
    accounts_close(a);
}

static void test_accounts_rotation_changes_the_expiry_only_when_told(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    int64_t at = (int64_t)time(NULL) + 1000;
    int64_t id = accounts_key_make(a, &(struct accounts_key_spec){.name = "x", .expires_s = at}, token, &e);
    assert_int_equal(accounts_key_rotate(a, id, 0, -1, token, &e), 0);
    assert_int_equal(raw_number("SELECT expires_s FROM accounts WHERE kind = 'key'"), at);
    assert_int_equal(accounts_key_rotate(a, id, 0, at + 5, token, &e), 0);
    assert_int_equal(raw_number("SELECT expires_s FROM accounts WHERE kind = 'key'"), at + 5);
    assert_int_equal(accounts_key_rotate(a, id, 0, 0, token, &e), 0);
    assert_int_equal(raw_number("SELECT expires_s IS NULL FROM accounts WHERE kind = 'key'"), 1);
    accounts_close(a);
}

static void test_accounts_revoking_ends_all_secrets(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char old[ACCOUNTS_TOKEN_BYTES], new[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    int64_t id = make(a, old);
    assert_int_equal(accounts_key_rotate(a, id, 3600, -1, new, &e), 0);
    assert_int_equal(accounts_key_revoke(a, id, &e), 0);
    assert_int_equal(check(a, old), 0);
    assert_int_equal(check(a, new), 0);
    assert_int_equal(accounts_key_rotate(a, id, 0, -1, new, &e), -ERR_NOT_FOUND);
    accounts_close(a);
}

static void test_accounts_configured_key_may_change(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    struct err e;
    int64_t id = accounts_key_configure(a, "configured-one", &e);
    assert_true(id > 0);
    assert_int_equal(accounts_key_configure(a, "configured-one", &e), id);
    assert_int_equal(accounts_key_configure(a, "configured-two", &e), id); /* the same account */
    assert_int_equal(check(a, "configured-two"), id);
    assert_int_equal(check(a, "configured-one"), 0);                       /* ended at once */
    assert_int_equal(accounts_key_configure(a, "configured-one", &e), id); /* and back */
    assert_int_equal(check(a, "configured-one"), id);
    assert_int_equal(check(a, "configured-two"), 0);
    accounts_close(a);
}

static void test_accounts_configured_key_stays_revoked(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    struct err e;
    int64_t id = accounts_key_configure(a, "configured-one", &e);
    assert_int_equal(accounts_key_revoke(a, id, &e), 0);
    assert_int_equal(accounts_key_configure(a, "configured-one", &e), -ERR_DENIED);
    assert_int_equal(check(a, "configured-one"), 0);
    int64_t other = accounts_key_configure(a, "configured-two", &e);
    assert_true(other > id);
    assert_int_equal(accounts_key_configure(a, "configured-one", &e), -ERR_DENIED);
    assert_int_equal(check(a, "configured-two"), other); /* a refused one changes nothing */
    accounts_close(a);
}

static void test_accounts_configured_key_may_be_one_that_was_made(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES], new[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    int64_t configured = accounts_key_configure(a, "configured-one", &e), made = make(a, token);
    assert_int_equal(accounts_key_configure(a, token, &e), made);
    assert_int_equal(check(a, "configured-one"), 0);
    assert_int_equal(accounts_key_configure(a, "configured-one", &e), configured);
    assert_int_equal(check(a, token), made); /* it was not the configuration that made it */
    assert_int_equal(accounts_key_rotate(a, made, 0, -1, new, &e), 0);
    assert_int_equal(accounts_key_configure(a, token, &e), -ERR_DENIED); /* its time is over */
    assert_int_equal(check(a, "configured-one"), configured);
    accounts_close(a);
}

static void test_accounts_configured_key_is_not_rotated_by_hand(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    int64_t id = accounts_key_configure(a, "configured-one", &e);
    assert_int_equal(accounts_key_rotate(a, id, 0, -1, token, &e), -ERR_INPUT); /* the next start would bring the former back */
    assert_int_equal(check(a, "configured-one"), id);
    accounts_close(a);
}

static void test_accounts_refuse_unusable_names(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES], longest[ACCOUNTS_MAX_NAME + 2];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    const char *names[] = {"",
                           "a\nb",
                           "\033[31m",
                           "\x7f",
                           "\xc2\x9b"
                           "1m",
                           "\xff",
                           longest};
    struct err e;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_int_equal(accounts_key_make(a, &(struct accounts_key_spec){.name = names[i]}, token, &e), -ERR_INPUT);
    longest[ACCOUNTS_MAX_NAME] = '\0';
    assert_true(accounts_key_make(a, &(struct accounts_key_spec){.name = longest}, token, &e) > 0);
    assert_true(accounts_key_make(a, &(struct accounts_key_spec){.name = "Zo\xc3\xab's"}, token, &e) > 0);
    accounts_close(a);
}

/* Prefix shared by all, as an attacker who has seen a part would try it. */
static void similar_token(char out[80], int i)
{
    snprintf(out, 80, "sk-spillway-%048d%04d", 7, i);
}

/* T05: 1,000 keys that share 60 of their 64 characters: each is its own account's only. */
static void test_t05_similar_keys_get_their_own_account(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    int64_t ids[1000];
    char token[80];
    struct err e;
    for (int i = 0; i < 1000; i++) {
        similar_token(token, i);
        assert_int_equal(strlen(token), 64);
        ids[i] = accounts_key_add(a, &(struct accounts_key_spec){.name = "similar"}, token, &e);
        assert_true(ids[i] > 0 && (i == 0 || ids[i] > ids[i - 1]));
    }
    for (int round = 0; round < 2; round++) { /* as added, then as loaded */
        for (int i = 0; i < 1000; i++) {
            similar_token(token, i);
            assert_int_equal(check(a, token), ids[i]);
        }
        for (int i = 1000; i < 10000; i++) {
            similar_token(token, i);
            assert_int_equal(check(a, token), 0);
        }
        accounts_close(a);
        a = open_ok();
    }
    accounts_close(a);
}

/* T03, below HTTP: tokens of every kind are unknown, and nothing else happens. */
static void test_t03_odd_keys_are_unknown(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES];
    int64_t id = make(a, token);
    char *large = malloc((1 << 20) + 1);
    assert_non_null(large);
    memset(large, 'k', 1 << 20);
    large[1 << 20] = '\0';
    memcpy(large, token, strlen(token)); /* begins as a valid one */
    const char *odd[] = {"", " ", "'", "\"", "' OR 1=1 --", "'; DROP TABLE accounts; --", "%s%n%x", "\xff\xfe", "\xc3\xa9\xc3\xa9", large};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) assert_int_equal(check(a, odd[i]), 0);
    unsigned seed = 3;
    for (int i = 0; i < 10000; i++) {
        char t[64];
        size_t n = 1 + (size_t)rand_r(&seed) % 62;
        for (size_t j = 0; j < n; j++) t[j] = (char)(1 + rand_r(&seed) % 255);
        t[n] = '\0';
        assert_int_equal(check(a, t), 0);
    }
    free(large);
    assert_int_equal(check(a, token), id);
    accounts_close(a);
    assert_int_equal(raw_number("SELECT count(*) FROM accounts WHERE kind = 'key'"), 1);
}

/* Digests that all want the same bucket, as only a damaged database has them: an error, no endless table. */
static void test_key_table_gives_up_on_equal_buckets(void **state)
{
    (void)state;
    struct key_table t = {0};
    int rc = 0, n = 0;
    while (!rc && n < 100) {
        struct key_entry k = {.account = ++n};
        k.digest[31] = (unsigned char)n; /* the bucket is chosen by the first bytes */
        rc = key_table_put(&t, &k);
    }
    assert_int_equal(rc, -ERR_MEMORY);
    for (int i = 1; i < n; i++) { /* what was in it still is */
        unsigned char d[KEY_DIGEST_BYTES] = {0};
        d[31] = (unsigned char)i;
        assert_non_null(key_table_find(&t, d));
        assert_int_equal(key_table_find(&t, d)->account, i);
    }
    key_table_free(&t);
}

static void test_key_table_looks_at_all_bytes(void **state)
{
    (void)state;
    struct key_table t = {0};
    struct key_entry k = {.account = 1};
    memset(k.digest, 0x5a, sizeof k.digest);
    assert_int_equal(key_table_put(&t, &k), 0);
    assert_non_null(key_table_find(&t, k.digest));
    for (int bit = 0; bit < 8 * KEY_DIGEST_BYTES; bit++) {
        unsigned char d[KEY_DIGEST_BYTES];
        memcpy(d, k.digest, sizeof d);
        d[bit / 8] ^= (unsigned char)(1 << bit % 8);
        assert_null(key_table_find(&t, d));
    }
    key_table_free(&t);
}

#define DIR_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        DIR_TEST(test_accounts_migrate_from_nothing),
        DIR_TEST(test_accounts_migrate_from_version_1),
        DIR_TEST(test_accounts_migrate_from_version_2),
        DIR_TEST(test_accounts_share_is_found_by_the_keys_id),
        DIR_TEST(test_accounts_share_can_be_changed_by_another_handle),
        DIR_TEST(test_accounts_share_out_of_range_is_refused),
        DIR_TEST(test_accounts_migration_refuses_rows_without_parent),
        DIR_TEST(test_accounts_are_made_by_several_processes_at_once),
        DIR_TEST(test_accounts_are_migrated_by_several_processes_at_once),
        DIR_TEST(test_accounts_checks_of_what_is_written_often_need_no_table),
        DIR_TEST(test_accounts_checks_hold_after_the_migrations),
        DIR_TEST(test_accounts_enforce_references),
        DIR_TEST(test_accounts_refuse_a_newer_schema),
        DIR_TEST(test_accounts_are_private_files),
        DIR_TEST(test_accounts_key_is_checked_and_revoked),
        DIR_TEST(test_accounts_keys_hold_after_reopening),
        DIR_TEST(test_accounts_refresh_sees_other_handles),
        DIR_TEST(test_accounts_refresh_reads_in_pieces),
        DIR_TEST(test_accounts_refresh_that_failed_is_done_again),
        DIR_TEST(test_accounts_key_text_is_stored_nowhere),
        DIR_TEST(test_accounts_refuse_unusable_keys),
        DIR_TEST(test_accounts_key_expires),
        DIR_TEST(test_accounts_admin_is_told),
        DIR_TEST(test_accounts_rotation_gives_another_secret),
        DIR_TEST(test_accounts_rotation_ends_the_former_after_its_grace),
        DIR_TEST(test_accounts_rotation_without_grace_ends_the_former_at_once),
        DIR_TEST(test_accounts_rotation_changes_the_expiry_only_when_told),
        DIR_TEST(test_accounts_revoking_ends_all_secrets),
        DIR_TEST(test_accounts_configured_key_may_change),
        DIR_TEST(test_accounts_configured_key_stays_revoked),
        DIR_TEST(test_accounts_configured_key_may_be_one_that_was_made),
        DIR_TEST(test_accounts_configured_key_is_not_rotated_by_hand),
        DIR_TEST(test_accounts_refuse_unusable_names),
        DIR_TEST(test_t05_similar_keys_get_their_own_account),
        DIR_TEST(test_t03_odd_keys_are_unknown),
        cmocka_unit_test(test_key_table_gives_up_on_equal_buckets),
        cmocka_unit_test(test_key_table_looks_at_all_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
