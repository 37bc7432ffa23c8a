/* Db on SQLite: WAL, synchronous=FULL, so that a commit that was acknowledged is on the disk. One connection, no mutex: one thread.
 *
 * A write that fails before the commit has done nothing. An fsync that fails is final (FAULTS B13): the system forgets which pages it has not
 * written, and the next fsync would say that all is well. So is a commit whose writes failed: its last one may be on the disk. The handle is
 * then broken, and even its end does not touch the file. */
#include "server/accounts/db_driver.h"

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BUSY_LOOK_MS = 5,
    PAGE_BYTES = 4096,
    PAGE_HEADER_BYTES = 512,
    CACHE_PAGES = 384, /* of 400 KiB each, four connections want nearly as many; all are resident. With fewer, pages come from the heap (T47) */
    CHECKPOINT_PAGES = 1000 /* as SQLite's own */
};

struct sqlite {
    sqlite3 *s;
    bool broken;
    char why[200];
};

static int say_broken(const struct sqlite *h, struct err *e)
{
    return err_set(e, ERR_BROKEN, "accounts database: %s", h->why);
}

static void set_broken(struct db *db, const char *why)
{
    struct sqlite *h = db->handle;
    h->broken = true;
    db->trouble = "the disk has failed";
    snprintf(h->why, sizeof h->why, "%s", why);
    sqlite3_db_config(h->s, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
}

/* Of the log's last fault. (sqlite3_system_errno has none of a COMMIT.) */
static int log_errno(sqlite3 *s)
{
    sqlite3_file *log = NULL;
    int code = 0;
    if (sqlite3_file_control(s, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log) == SQLITE_OK && log && log->pMethods)
        log->pMethods->xFileControl(log, SQLITE_FCNTL_LAST_ERRNO, &code);
    return code;
}

/* What the system says to a write that it has not even begun. */
static bool is_refused_whole(sqlite3 *s)
{
    int code = sqlite3_extended_errcode(s), why = log_errno(s);
    return code == SQLITE_IOERR_WRITE && (why == EROFS || why == ENOSPC || why == EDQUOT);
}

static bool is_final(sqlite3 *s, bool commits)
{
    int code = sqlite3_extended_errcode(s);
    if (code == SQLITE_IOERR_FSYNC || code == SQLITE_IOERR_DIR_FSYNC) return true;
    if (!commits || (code & 0xff) != SQLITE_IOERR || is_refused_whole(s)) return false;
    return code != SQLITE_IOERR_NOMEM && code != SQLITE_IOERR_READ && code != SQLITE_IOERR_SHORT_READ;
}

static const char *trouble_of(sqlite3 *s)
{
    int kind = sqlite3_errcode(s) & 0xff;
    if (kind == SQLITE_FULL) return "the disk is full";
    if (kind == SQLITE_READONLY || is_refused_whole(s)) return "the disk cannot be written";
    return kind == SQLITE_BUSY ? "the store is busy" : kind == SQLITE_IOERR ? "the disk has failed" : "the store cannot be used";
}

static int fail_in(struct db *db, bool commits, struct err *e)
{
    struct sqlite *h = db->handle;
    int code = sqlite3_extended_errcode(h->s), kind = code & 0xff;
    if (h->broken) return say_broken(h, e);
    if (is_final(h->s, commits)) {
        set_broken(db, sqlite3_errmsg(h->s));
        return say_broken(h, e);
    }
    enum err_code c = kind == SQLITE_BUSY ? ERR_BUSY : kind == SQLITE_NOMEM || code == SQLITE_IOERR_NOMEM ? ERR_MEMORY : ERR_IO;
    if (kind == SQLITE_CONSTRAINT || kind == SQLITE_MISMATCH || kind == SQLITE_TOOBIG) c = ERR_INTERNAL;
    if (code == SQLITE_CONSTRAINT_UNIQUE || code == SQLITE_CONSTRAINT_PRIMARYKEY) c = ERR_EXISTS;
    db->trouble = trouble_of(h->s);
    return err_set(e, c, "accounts database: %s", sqlite3_errmsg(h->s));
}

static int fail(struct db *db, struct err *e)
{
    return fail_in(db, false, e);
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
        code = sqlite3_exec(s, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -400", NULL, NULL, NULL);
        if (code != SQLITE_BUSY || waited_ms >= DB_BUSY_MS) return code;
        usleep(BUSY_LOOK_MS * 1000);
    }
}

/* After a commit, which stands whatever comes of this. SQLite's own hook says nothing of an fsync that fails here. */
static int checkpoint(void *ctx, sqlite3 *s, const char *name, int n_pages)
{
    struct db *db = ctx;
    if (n_pages < CHECKPOINT_PAGES) return SQLITE_OK;
    int code = sqlite3_wal_checkpoint_v2(s, name, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    if (code != SQLITE_OK && is_final(s, false)) set_broken(db, sqlite3_errmsg(s));
    return SQLITE_OK;
}

static int sqlite_open(struct db *db, const char *path, struct err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct sqlite *h = db->handle = calloc(1, sizeof *h);
    sqlite3 *s = NULL;
    if (!h) return err_set(e, ERR_MEMORY, "out of memory");
    pthread_once(&once, make_page_cache);
    mode_t old = umask(077);
    int code = sqlite3_open_v2(path, &s, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    umask(old);
    h->s = s;
    if (code == SQLITE_OK) {
        sqlite3_busy_timeout(s, DB_BUSY_MS);
        code = use_wal(s);
        sqlite3_wal_hook(s, checkpoint, db);
    }
    if (code != SQLITE_OK) return err_set(e, ERR_IO, "%s: %s", path, s ? sqlite3_errmsg(s) : "out of memory");
    return 0;
}

static void sqlite_close(struct db *db)
{
    struct sqlite *h = db->handle;
    if (h) sqlite3_close(h->s);
    free(h);
}

static int sqlite_revive(struct db *db, struct err *e)
{
    struct sqlite *h = db->handle;
    return h->broken ? say_broken(h, e) : 0;
}

static void sqlite_wait_for_locks(struct db *db, int ms)
{
    sqlite3_busy_timeout(((struct sqlite *)db->handle)->s, ms);
}

static int execute(struct db *db, const char *sql, bool commits, struct err *e)
{
    struct sqlite *h = db->handle;
    if (h->broken) return say_broken(h, e);
    return sqlite3_exec(h->s, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail_in(db, commits, e);
}

static int sqlite_script(struct db *db, const char *sql, struct err *e)
{
    return execute(db, sql, false, e);
}

static int sqlite_begin(struct db *db, struct err *e)
{
    return execute(db, "BEGIN IMMEDIATE", false, e);
}

static int sqlite_commit(struct db *db, struct err *e)
{
    return execute(db, "COMMIT", true, e);
}

static void sqlite_rollback(struct db *db)
{
    struct sqlite *h = db->handle;
    if (!h->broken && !sqlite3_get_autocommit(h->s)) sqlite3_exec(h->s, "ROLLBACK", NULL, NULL, NULL);
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
    struct sqlite *h = db->handle;
    sqlite3_stmt *s = *place;
    if (h->broken) return say_broken(h, e);
    if (!s) {
        if (sqlite3_prepare_v3(h->s, text, -1, SQLITE_PREPARE_PERSISTENT, &s, NULL) != SQLITE_OK) return fail(db, e);
        CHECK(sqlite3_bind_parameter_count(s) == n);
        *place = s;
    }
    for (int i = 0; i < n; i++) bind(s, i + 1, &args[i]);
    rows->result = s;
    rows->row = sqlite3_step(s);
    if (rows->row != SQLITE_ROW && rows->row != SQLITE_DONE) {
        int rc = fail_in(db, sqlite3_get_autocommit(h->s) && !db->in_transaction, e); /* a statement on its own is its commit, too */
        sqlite3_reset(s);
        rows->result = NULL;
        return rc;
    }
    if (n_changed) *n_changed = sqlite3_changes(h->s);
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
