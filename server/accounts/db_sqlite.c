/* Db on SQLite: WAL, synchronous=FULL, so that a commit that was acknowledged is on the disk. One connection, no mutex: one thread. */
#include "server/accounts/db_driver.h"

#include <pthread.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUSY_LOOK_MS = 5, PAGE_BYTES = 4096, PAGE_HEADER_BYTES = 512, CACHE_PAGES = 128 /* of 160 KiB each three connections want 120; all are resident */ };

static int fail(struct db *db, struct err *e)
{
    sqlite3 *s = db->handle;
    int code = s ? sqlite3_extended_errcode(s) : SQLITE_NOMEM;
    int kind = code & 0xff;
    enum err_code c = kind == SQLITE_BUSY ? ERR_BUSY : kind == SQLITE_NOMEM || code == SQLITE_IOERR_NOMEM ? ERR_MEMORY : ERR_IO;
    if (code == SQLITE_CONSTRAINT_UNIQUE || code == SQLITE_CONSTRAINT_PRIMARYKEY) c = ERR_EXISTS;
    return err_set(e, c, "accounts database: %s", s ? sqlite3_errmsg(s) : "out of memory");
}

/* Pages are cached in memory that is there from the start, for all connections: what is held does not grow with the store. */
static void make_page_cache(void)
{
    static union {
        unsigned char bytes[CACHE_PAGES * (PAGE_BYTES + PAGE_HEADER_BYTES)];
        double align;
    } memory;
    int header = 0;
    sqlite3_config(SQLITE_CONFIG_PCACHE_HDRSZ, &header);
    if (header > 0 && header <= PAGE_HEADER_BYTES) sqlite3_config(SQLITE_CONFIG_PAGECACHE, memory.bytes, PAGE_BYTES + PAGE_HEADER_BYTES, CACHE_PAGES);
}

/* SQLite does not wait for the lock that the change to WAL needs: several processes may make the file at once. */
static int use_wal(sqlite3 *s)
{
    int code;
    for (int waited_ms = 0;; waited_ms += BUSY_LOOK_MS) {
        code = sqlite3_exec(s, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -160", NULL, NULL, NULL);
        if (code != SQLITE_BUSY || waited_ms >= DB_BUSY_MS) return code;
        usleep(BUSY_LOOK_MS * 1000);
    }
}

static int sqlite_open(struct db *db, const char *path, struct err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sqlite3 *s = NULL;
    pthread_once(&once, make_page_cache);
    mode_t old = umask(077);
    int code = sqlite3_open_v2(path, &s, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    umask(old);
    db->handle = s;
    if (code == SQLITE_OK) {
        sqlite3_busy_timeout(s, DB_BUSY_MS);
        code = use_wal(s);
    }
    if (code != SQLITE_OK) return err_set(e, ERR_IO, "%s: %s", path, s ? sqlite3_errmsg(s) : "out of memory");
    return 0;
}

static void sqlite_close(struct db *db)
{
    sqlite3_close(db->handle);
}

static int sqlite_revive(struct db *db, struct err *e)
{
    (void)db;
    (void)e;
    return 0;
}

static void sqlite_wait_for_locks(struct db *db, int ms)
{
    sqlite3_busy_timeout(db->handle, ms);
}

static int sqlite_script(struct db *db, const char *sql, struct err *e)
{
    return sqlite3_exec(db->handle, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(db, e);
}

static int sqlite_begin(struct db *db, struct err *e)
{
    return sqlite_script(db, "BEGIN IMMEDIATE", e);
}

static int sqlite_commit(struct db *db, struct err *e)
{
    return sqlite_script(db, "COMMIT", e);
}

static void sqlite_rollback(struct db *db)
{
    if (!sqlite3_get_autocommit(db->handle)) sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
}

static void bind(sqlite3_stmt *s, int at, const struct db_arg *a)
{
    if (a->is_null)
        sqlite3_bind_null(s, at);
    else if (a->type == DB_INT)
        sqlite3_bind_int64(s, at, a->i);
    else if (a->type == DB_TEXT)
        sqlite3_bind_text(s, at, a->p, (int)a->n, SQLITE_STATIC);
    else
        sqlite3_bind_blob(s, at, a->n ? a->p : "", (int)a->n, SQLITE_STATIC);
}

/* The first step is taken here, so that a statement without rows has run, and its arguments need not live on (a row's columns are SQLite's
 * own). */
static int sqlite_query(struct db *db, struct db_rows *rows, const char *text, void **place, const struct db_arg *args, int n,
                        int64_t *n_changed, struct err *e)
{
    sqlite3_stmt *s = *place;
    if (!s) {
        if (sqlite3_prepare_v3(db->handle, text, -1, SQLITE_PREPARE_PERSISTENT, &s, NULL) != SQLITE_OK) return fail(db, e);
        CHECK(sqlite3_bind_parameter_count(s) == n);
        *place = s;
    }
    for (int i = 0; i < n; i++) bind(s, i + 1, &args[i]);
    rows->result = s;
    rows->row = sqlite3_step(s);
    if (rows->row != SQLITE_ROW && rows->row != SQLITE_DONE) {
        int rc = fail(db, e);
        sqlite3_reset(s);
        rows->result = NULL;
        return rc;
    }
    if (n_changed) *n_changed = sqlite3_changes(db->handle);
    return 0;
}

static int sqlite_send(struct db *db, const char *text, void **place, const struct db_arg *args, int n, int64_t expected, struct err *e)
{
    struct db_rows rows = {.db = db};
    int64_t n_changed = 0;
    int rc = sqlite_query(db, &rows, text, place, args, n, &n_changed, e);
    db_done(&rows);
    if (rc || expected < 0 || n_changed == expected) return rc;
    return err_set(e, ERR_INTERNAL, "accounts database: a statement changed %lld rows, not %lld", (long long)n_changed, (long long)expected);
}

static int sqlite_next(struct db_rows *rows, struct err *e)
{
    if (rows->row == -1) rows->row = sqlite3_step(rows->result); /* the row before was read */
    int code = rows->row;
    if (code == SQLITE_ROW) rows->row = -1;
    if (code == SQLITE_ROW || code == SQLITE_DONE) return code == SQLITE_ROW;
    return fail(rows->db, e);
}

static void sqlite_done(struct db_rows *rows)
{
    sqlite3_reset(rows->result);
    sqlite3_clear_bindings(rows->result);
}

static bool sqlite_null(const struct db_rows *rows, int column)
{
    return sqlite3_column_type(rows->result, column) == SQLITE_NULL;
}

static int64_t sqlite_get_int(const struct db_rows *rows, int column)
{
    return sqlite3_column_int64(rows->result, column);
}

static const char *sqlite_get_text(const struct db_rows *rows, int column)
{
    const char *s = (const char *)sqlite3_column_text(rows->result, column);
    return s ? s : "";
}

static size_t sqlite_get_blob(struct db_rows *rows, int column, void *out, size_t max)
{
    size_t n = (size_t)sqlite3_column_bytes(rows->result, column);
    const void *p = sqlite3_column_blob(rows->result, column);
    if (p && max) memcpy(out, p, n < max ? n : max);
    return p ? n : 0;
}

static void sqlite_forget(void *place)
{
    sqlite3_finalize(place);
}

const struct db_driver db_sqlite = {.kind = DB_SQLITE,
                                    .open = sqlite_open,
                                    .close = sqlite_close,
                                    .revive = sqlite_revive,
                                    .wait_for_locks = sqlite_wait_for_locks,
                                    .script = sqlite_script,
                                    .begin = sqlite_begin,
                                    .commit = sqlite_commit,
                                    .rollback = sqlite_rollback,
                                    .query = sqlite_query,
                                    .send = sqlite_send,
                                    .next = sqlite_next,
                                    .done = sqlite_done,
                                    .null = sqlite_null,
                                    .get_int = sqlite_get_int,
                                    .get_text = sqlite_get_text,
                                    .get_blob = sqlite_get_blob,
                                    .forget = sqlite_forget};
