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
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "base/buf.h"
#include "server/accounts/accounts.h"

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
    if (accounts_open(&a, sub, &e)) fail_msg("%s", e.msg);
    return a;
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

static void test_accounts_refuse_a_newer_schema(void **state)
{
    (void)state;
    accounts_close(open_ok());
    sqlite3 *db = raw_db();
    assert_int_equal(sqlite3_exec(db, "INSERT INTO schema_migrations VALUES (999, 0)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    struct accounts *a;
    struct err e;
    assert_int_equal(accounts_open(&a, sub, &e), -ERR_UNSUPPORTED);
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
    int64_t id = accounts_key_make(a, "one", token, &e);
    assert_true(id > 0);
    assert_true(accounts_key_make(a, "two", other, &e) > id);
    assert_string_not_equal(token, other);
    assert_int_equal(accounts_key_check(a, token), id);
    assert_int_equal(accounts_key_check(a, "sk-spillway-"), 0);
    assert_int_equal(accounts_key_check(a, ""), 0);
    char changed[ACCOUNTS_TOKEN_BYTES];
    strcpy(changed, token);
    changed[strlen(changed) - 1] ^= 1;
    assert_int_equal(accounts_key_check(a, changed), 0);
    assert_int_equal(accounts_key_revoke(a, id, &e), 0);
    assert_int_equal(accounts_key_check(a, token), 0);
    assert_int_equal(accounts_key_revoke(a, id, &e), -ERR_NOT_FOUND);
    assert_int_equal(accounts_key_revoke(a, 1, &e), -ERR_NOT_FOUND); /* an organisation is no key */
    assert_true(accounts_key_check(a, other) > 0);
    assert_int_equal(accounts_key_add(a, "again", token, &e), -ERR_INPUT); /* revoked stays revoked */
    accounts_close(a);
}

static void test_accounts_keys_hold_after_reopening(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    struct err e;
    int64_t id = accounts_key_add(a, "given", "my-own-key-123", &e);
    assert_true(id > 0);
    assert_int_equal(accounts_key_add(a, "given", "my-own-key-123", &e), id);
    accounts_close(a);
    a = open_ok();
    assert_int_equal(accounts_key_check(a, "my-own-key-123"), id);
    accounts_close(a);
}

static void test_accounts_refresh_sees_other_handles(void **state)
{
    (void)state;
    struct accounts *a = open_ok(), *b = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    int64_t id = accounts_key_make(a, "one", token, &e);
    assert_int_equal(accounts_key_check(b, token), 0);
    assert_int_equal(accounts_refresh(b, &e), 0);
    assert_int_equal(accounts_key_check(b, token), id);
    assert_int_equal(accounts_key_revoke(a, id, &e), 0);
    assert_int_equal(accounts_refresh(b, &e), 0);
    assert_int_equal(accounts_key_check(b, token), 0);
    accounts_close(a);
    accounts_close(b);
}

static void test_accounts_key_text_is_stored_nowhere(void **state)
{
    (void)state;
    struct accounts *a = open_ok();
    char token[ACCOUNTS_TOKEN_BYTES];
    struct err e;
    assert_true(accounts_key_make(a, "one", token, &e) > 0);
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
    assert_int_equal(accounts_key_add(a, "x", "short", &e), -ERR_INPUT);
    assert_int_equal(accounts_key_add(a, "x", "has a blank in it", &e), -ERR_INPUT);
    assert_int_equal(accounts_key_add(a, "x", "", &e), -ERR_INPUT);
    assert_int_equal(accounts_key_count(a), 0);
    accounts_close(a);
}

#define DIR_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        DIR_TEST(test_accounts_migrate_from_nothing),       DIR_TEST(test_accounts_refuse_a_newer_schema),
        DIR_TEST(test_accounts_are_private_files),          DIR_TEST(test_accounts_key_is_checked_and_revoked),
        DIR_TEST(test_accounts_keys_hold_after_reopening),  DIR_TEST(test_accounts_refresh_sees_other_handles),
        DIR_TEST(test_accounts_key_text_is_stored_nowhere), DIR_TEST(test_accounts_refuse_unusable_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
