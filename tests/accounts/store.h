/* A store for a test: an empty one, a second gateway on it, the invariants at the end. The store is what SPILLWAY_STORE says: a URL of
 * PostgreSQL, whose tables are dropped, or (not set) a file of SQLite. */
#ifndef SPILLWAY_TESTS_ACCOUNTS_STORE_H
#define SPILLWAY_TESTS_ACCOUNTS_STORE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "server/accounts/accounts.h"
#include "server/accounts/db.h"
#include "server/accounts/ledger.h"
#include "server/accounts/schema.h"

#define OK(x)                                             \
    do {                                                  \
        if ((x) < 0) fail_msg("%s: %s", #x, store_e.msg); \
    } while (0)

static struct err store_e;
static char store_dir[64], store_file[128];

static inline const char *store_where(void)
{
    const char *url = getenv("SPILLWAY_STORE"); /* a test's own, not the program's */
    return url ? url : store_file;
}

/* As a program of that schema's time would have left it. */
static inline void store_new_at(int64_t version)
{
    strcpy(store_dir, "/tmp/spillway-ledger-XXXXXX");
    assert_non_null(mkdtemp(store_dir));
    snprintf(store_file, sizeof store_file, "%s/accounts.db", store_dir);
    struct db *db;
    OK(db_open(&db, store_where(), &store_e));
    if (db_kind(db) == DB_POSTGRES) OK(db_script(db, "DROP SCHEMA public CASCADE; CREATE SCHEMA public", &store_e));
    OK(schema_migrate_to(db, version, &store_e));
    db_close(db);
}

static inline void store_new(void)
{
    store_new_at(ACCOUNTS_SCHEMA_VERSION);
}

static inline void store_remove(void)
{
    char path[160];
    const char *ends[] = {"", "-wal", "-shm", "-journal"};
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s%s", store_file, ends[i]);
        unlink(path);
    }
    rmdir(store_dir);
}

/* One of the store's files: what stands after its name, and what is to be in it; p NULL: it is taken away. */
static inline void store_file_put(const char *end, const void *p, size_t n)
{
    char path[160];
    snprintf(path, sizeof path, "%s%s", store_file, end);
    unlink(path);
    if (!p) return;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static inline int64_t store_number(struct db *db, const char *sql)
{
    int64_t n;
    OK(db_number(db, sql, DB_NO_ARGS, -1, &n, &store_e));
    return n;
}

/* The statements of invariants.sql; kept for good, as db.h asks. */
static inline char **store_invariants(size_t *n)
{
    static char *list[64];
    static size_t n_list;
    struct buf b;
    if (!n_list) {
        buf_init(&b, 1 << 20);
        OK(buf_read_file(&b, SPILLWAY_TEST_DIR "/invariants.sql", &store_e));
        for (char *p = b.data, *end; (end = strstr(p, ";\n")); p = end + 2) {
            *end = '\0';
            assert_true(n_list < 64);
            list[n_list++] = p;
        }
    }
    *n = n_list;
    return list;
}

static inline void store_check(struct db *db)
{
    size_t n;
    char **list = store_invariants(&n);
    assert_true(n >= 15);
    for (size_t i = 0; i < n; i++) {
        struct db_rows rows;
        OK(db_query(db, &rows, list[i], DB_NO_ARGS, &store_e));
        int rc = db_next(&rows, &store_e);
        OK(rc);
        if (rc == 1) fail_msg("%s is broken: %s, %s", db_get_text(&rows, 0), db_get_text(&rows, 1), db_get_text(&rows, 2));
        db_done(&rows);
    }
}

/* A key of the default project, or of another. */
static inline int64_t store_key(struct db *db, int64_t project)
{
    int64_t id;
    OK(db_number(db, "INSERT INTO accounts (kind, parent, name, created_s) VALUES ('key', ?1, 'k', 1) RETURNING id", DB_ARGS(db_int(project)), 0, &id, &store_e));
    return id;
}

static inline int64_t store_project(struct db *db)
{
    int64_t id;
    OK(db_number(db, "INSERT INTO accounts (kind, parent, name, created_s) VALUES ('project', 1, 'p', 1) RETURNING id", DB_NO_ARGS, 0, &id, &store_e));
    OK(db_run(db, "INSERT INTO balances (account) VALUES (?1)", DB_ARGS(db_int(id)), NULL, &store_e));
    return id;
}

#endif
