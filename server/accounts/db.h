/* Db: one connection to a SQL database, SQLite or PostgreSQL, with the little that the two have in common. All SQL of accounts goes through
 * here.
 *
 * Statements are written once, with ?1, ?2, ... for arguments; what the two spell differently is a word in braces (see db_sql_words in db.c).
 * A statement's text must live as long as the connection: it is prepared at its first use and found again by its address. Its arguments'
 * types are fixed by that first use. Text is UTF-8 without NUL.
 *
 * A transaction that fails is rolled back by db_rollback. -ERR_UNKNOWN is what db_commit alone returns: the link broke while it was under
 * way, so that it may have happened; the caller looks. -ERR_BROKEN (SQLite): the disk failed where that leaves unknown what it has kept, at a
 * commit or an fsync; the handle does nothing from then on, and a new process finds what is there. One handle belongs to one thread. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_DB_H
#define SPILLWAY_SERVER_ACCOUNTS_DB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct db;

enum db_kind { DB_SQLITE, DB_POSTGRES };

enum { DB_MAX_ARGS = 32, DB_BUSY_MS = 5000 };

enum db_type { DB_INT, DB_TEXT, DB_BLOB };

struct db_arg {
    enum db_type type;
    bool is_null;
    int64_t i;
    const void *p; /* borrowed for the call */
    size_t n;
};

static inline struct db_arg db_int(int64_t i)
{
    return (struct db_arg){.type = DB_INT, .i = i};
}
static inline struct db_arg db_int_or_null(bool is, int64_t i)
{
    return (struct db_arg){.type = DB_INT, .is_null = !is, .i = i};
}
struct db_arg db_text(const char *s); /* NULL: null */
static inline struct db_arg db_blob(const void *p, size_t n)
{
    return (struct db_arg){.type = DB_BLOB, .is_null = !p, .p = p, .n = n};
}

/* where: a file's path (made if it is not there, 0600), or a URL "postgres://..." or "postgresql://...". A password comes from the URL or
 * from libpq's own places (PGPASSFILE ...), and is in no message. */
MUST_USE int db_open(struct db **out, const char *where, struct err *e);
void db_close(struct db *db); /* accepts NULL; rows must be ended */
enum db_kind db_kind(const struct db *db);
bool db_is_url(const char *where);
/* What its last fault was, in words that are fit for everybody: "the disk is full". */
const char *db_trouble(const struct db *db);
/* For people and logs: where, with a password in it as ***. Returns out. */
char *db_show_where(const char *where, char *out, size_t n);
/* How long a statement waits for others' locks (SQLite). */
void db_wait_for_locks(struct db *db, int ms);
/* PostgreSQL: connects again if the link is broken. SQLite: 0, or -ERR_BROKEN. */
MUST_USE int db_revive(struct db *db, struct err *e);

/* SQLite: all that a run before has left in the log of writes goes into the file and is waited for. The log may be in the system's memory alone, if that
 * run ended because an fsync failed. PostgreSQL does that itself. */
MUST_USE int db_settle(struct db *db, struct err *e);

/* A script of statements without arguments. */
MUST_USE int db_script(struct db *db, const char *sql, struct err *e);

/* For writing: on SQLite it takes the lock at once. -ERR_BUSY: a lock was not to be had. */
MUST_USE int db_begin(struct db *db, struct err *e);
/* For reading: all its statements see the store as it was at the first, and nobody waits for it. */
MUST_USE int db_begin_read(struct db *db, struct err *e);
/* After -ERR_IO nothing has happened; after -ERR_UNKNOWN and -ERR_BROKEN it may have. */
MUST_USE int db_commit(struct db *db, struct err *e);
void db_rollback(struct db *db);
/* Commits if rc >= 0, else rolls back. Returns rc, or why it was not committed. */
MUST_USE int db_end(struct db *db, int rc, struct err *e);

/* A statement without rows. *n_changed may be NULL. -ERR_BUSY: it met another's lock or lost against one (the transaction must be tried again);
 * -ERR_EXISTS: a UNIQUE rule; -ERR_INTERNAL: another rule of the table. */
MUST_USE int db_run(struct db *db, const char *sql, const struct db_arg *args, int n_args, int64_t *n_changed, struct err *e);
#define DB_ARGS(...) (const struct db_arg[]){__VA_ARGS__}, (int)(sizeof((const struct db_arg[]){__VA_ARGS__}) / sizeof(struct db_arg))
#define DB_NO_ARGS NULL, 0

/* A statement without rows whose outcome nobody waits for: on PostgreSQL it is on its way with others until the next statement that is
 * waited for. A fault shows there, at the latest at db_commit; also one that changed other than `expected` rows (-1: any) is one,
 * -ERR_INTERNAL. */
MUST_USE int db_send(struct db *db, const char *sql, const struct db_arg *args, int n_args, int64_t expected, struct err *e);

/* A statement with rows: db_query, then db_next until it is not 1, then db_done (always). A statement is not used again while its rows are
 * read. */
struct db_rows {
    struct db *db;
    void *result; /* of the driver */
    int row;
};
MUST_USE int db_query(struct db *db, struct db_rows *rows, const char *sql, const struct db_arg *args, int n_args, struct err *e);
MUST_USE int db_next(struct db_rows *rows, struct err *e); /* 1: there is a row */
void db_done(struct db_rows *rows);                        /* accepts a zeroed struct */
bool db_null(const struct db_rows *rows, int column);
int64_t db_get_int(const struct db_rows *rows, int column);                 /* null: 0 */
const char *db_get_text(const struct db_rows *rows, int column);            /* null: "". Borrowed until db_next */
size_t db_get_blob(struct db_rows *rows, int column, void *out, size_t max); /* its length; at most max bytes of it are copied */

/* The first column of the first row; none if there is no row. */
MUST_USE int db_number(struct db *db, const char *sql, const struct db_arg *args, int n_args, int64_t none, int64_t *out, struct err *e);

#endif
