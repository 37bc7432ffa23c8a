/* Db on PostgreSQL, by libpq. Rows come whole. Numbers and text travel as text, bytes in binary.
 *
 * Isolation is READ COMMITTED with the rows that matter locked in order of their ids (ledger.c), synchronous_commit is on. A link that
 * broke is found by the statement that meets it; db_revive connects again, and statements are prepared anew. */
#include "server/accounts/db_driver.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OID_INT8 = 20,
    OID_TEXT = 25,
    OID_BYTEA = 17,
    CONNECT_S = 5,
    NAME_BYTES = 24,
    MOST_SENT = 64 /* their answers fit the socket's buffers */
};

struct pg {
    PGconn *c;
    uint64_t epoch; /* of the connection: what was prepared on another is not there */
    uint64_t n_prepared;
    int64_t expected[MOST_SENT]; /* rows that what is on its way should change */
    int n_sent;                  /* 0: not in pipeline mode */
};

struct place {
    uint64_t epoch;
    char name[NAME_BYTES];
};

/* The server's message in one line, without the statement. */
static int fail_text(enum err_code code, const char *text, struct err *e)
{
    char line[300];
    snprintf(line, sizeof line, "%s", text ? text : "");
    line[strcspn(line, "\n")] = '\0';
    return err_set(e, code, "accounts database: %s", line[0] ? line : "the link to PostgreSQL is broken");
}

/* Serialization failure, deadlock, lock not available: known to be rolled back, so it may be tried again. Classes 22 and 23: data that breaks a rule. */
static enum err_code code_of(const PGresult *r)
{
    const char *state = r ? PQresultErrorField(r, PG_DIAG_SQLSTATE) : NULL;
    if (!state) return ERR_IO;
    if (strcmp(state, "40001") == 0 || strcmp(state, "40P01") == 0 || strcmp(state, "55P03") == 0) return ERR_BUSY;
    if (strcmp(state, "23505") == 0) return ERR_EXISTS;
    return strncmp(state, "22", 2) == 0 || strncmp(state, "23", 2) == 0 ? ERR_INTERNAL : ERR_IO;
}

static int fail(const struct pg *pg, PGresult *r, struct err *e)
{
    int rc = fail_text(code_of(r), r ? PQresultErrorMessage(r) : PQerrorMessage(pg->c), e);
    PQclear(r);
    return rc;
}

static bool succeeded(const PGresult *r)
{
    ExecStatusType s = PQresultStatus(r);
    return s == PGRES_COMMAND_OK || s == PGRES_TUPLES_OK || s == PGRES_EMPTY_QUERY;
}

/* What one of those that were sent came to. */
static int check_sent(const struct pg *pg, PGresult *r, int64_t expected, struct err *e)
{
    if (!succeeded(r)) return fail(pg, r, e);
    int64_t n_changed = strtoll(PQcmdTuples(r), NULL, 10);
    PQclear(r);
    if (expected < 0 || n_changed == expected) return 0;
    return err_set(e, ERR_INTERNAL, "accounts database: a statement changed %lld rows, not %lld", (long long)n_changed, (long long)expected);
}

/* Waits for what is on its way. The first fault counts: what came after it was not done. */
static int flush(struct pg *pg, struct err *e)
{
    int rc = 0, n = pg->n_sent;
    if (n == 0) return 0;
    pg->n_sent = 0;
    if (!PQpipelineSync(pg->c)) rc = fail_text(ERR_IO, PQerrorMessage(pg->c), e);
    for (int i = 0; i < n && PQstatus(pg->c) == CONNECTION_OK; i++) {
        PGresult *r = PQgetResult(pg->c);
        if (rc || !r)
            PQclear(r);
        else
            rc = check_sent(pg, r, pg->expected[i], e);
        if (r) PQclear(PQgetResult(pg->c)); /* the end of this one */
    }
    PQclear(PQgetResult(pg->c)); /* the end of all */
    if (!PQexitPipelineMode(pg->c) && !rc) rc = fail_text(ERR_IO, PQerrorMessage(pg->c), e);
    return rc;
}

static int command(struct pg *pg, const char *sql, struct err *e)
{
    int rc = flush(pg, e);
    if (rc) return rc;
    PGresult *r = PQexec(pg->c, sql);
    if (!succeeded(r)) return fail(pg, r, e);
    PQclear(r);
    return 0;
}

static void quiet(void *ctx, const PGresult *r)
{
    (void)ctx;
    (void)r;
}

static int connect_to(struct pg *pg, const char *url, struct err *e)
{
    const char *names[] = {"dbname", "connect_timeout", "application_name", "keepalives_idle", "tcp_user_timeout", NULL};
    const char *values[] = {url, "5", "spillway", "10", "10000", NULL};
    PQconninfoOption *parts = PQconninfoParse(url, NULL); /* libpq's own words about a wrong one have it in them, with the password */
    if (!parts) return err_set(e, ERR_INPUT, "accounts database: the URL is malformed");
    PQconninfoFree(parts);
    PQfinish(pg->c);
    pg->n_sent = 0;
    pg->c = PQconnectdbParams(names, values, 1);
    pg->epoch++;
    if (PQstatus(pg->c) != CONNECTION_OK) return fail_text(ERR_IO, pg->c ? PQerrorMessage(pg->c) : "out of memory", e);
    PQsetNoticeReceiver(pg->c, quiet, NULL);
    return command(pg, "SET synchronous_commit = on; SET default_transaction_isolation = 'read committed'; SET lock_timeout = '5s';"
                       " SET idle_in_transaction_session_timeout = '30s'; SET timezone = 'UTC'; SET client_encoding = 'UTF8'",
                   e);
}

static int pg_open(struct db *db, const char *url, struct err *e)
{
    struct pg *pg = db->handle = calloc(1, sizeof *pg);
    if (!pg) return err_set(e, ERR_MEMORY, "out of memory");
    return connect_to(pg, url, e);
}

static void pg_close(struct db *db)
{
    struct pg *pg = db->handle;
    if (pg) PQfinish(pg->c);
    free(pg);
}

static int pg_revive(struct db *db, struct err *e)
{
    struct pg *pg = db->handle;
    struct err ignored;
    (void)flush(pg, &ignored);
    if (PQstatus(pg->c) == CONNECTION_OK && PQtransactionStatus(pg->c) == PQTRANS_IDLE) return 0;
    return connect_to(pg, db->where, e);
}

static void pg_wait_for_locks(struct db *db, int ms)
{
    (void)db;
    (void)ms;
}

static int pg_script(struct db *db, const char *sql, struct err *e)
{
    return command(db->handle, sql, e);
}

static int pg_begin(struct db *db, struct err *e)
{
    return command(db->handle, "BEGIN", e);
}

/* COMMIT of a transaction that has failed answers ROLLBACK, which is no error to libpq. */
static int pg_commit(struct db *db, struct err *e)
{
    struct pg *pg = db->handle;
    int rc = flush(pg, e);
    if (rc) return rc;
    PGresult *r = PQexec(pg->c, "COMMIT");
    if (PQresultStatus(r) == PGRES_COMMAND_OK) {
        bool done = strcmp(PQcmdStatus(r), "COMMIT") == 0;
        PQclear(r);
        return done ? 0 : err_set(e, ERR_IO, "accounts database: the transaction was rolled back");
    }
    if (PQstatus(pg->c) == CONNECTION_OK && r && PQresultErrorField(r, PG_DIAG_SQLSTATE)) return fail(pg, r, e);
    PQclear(r);
    return fail_text(ERR_UNKNOWN, PQerrorMessage(pg->c), e);
}

static void pg_rollback(struct db *db)
{
    struct pg *pg = db->handle;
    struct err ignored;
    (void)flush(pg, &ignored);
    if (PQstatus(pg->c) == CONNECTION_OK && PQtransactionStatus(pg->c) != PQTRANS_IDLE) PQclear(PQexec(pg->c, "ROLLBACK"));
}

static int prepare(struct pg *pg, struct place *p, const char *text, const struct db_arg *args, int n, struct err *e)
{
    static const Oid types[] = {[DB_INT] = OID_INT8, [DB_TEXT] = OID_TEXT, [DB_BLOB] = OID_BYTEA};
    Oid oids[DB_MAX_ARGS];
    for (int i = 0; i < n; i++) oids[i] = types[args[i].type];
    snprintf(p->name, sizeof p->name, "s%llu", (unsigned long long)++pg->n_prepared);
    PGresult *r = PQprepare(pg->c, p->name, text, n, oids);
    if (!succeeded(r)) return fail(pg, r, e);
    PQclear(r);
    p->epoch = pg->epoch;
    return 0;
}

/* Arguments as libpq takes them: text ends with a NUL, as ours does (db_text). */
struct params {
    const char *values[DB_MAX_ARGS];
    int lengths[DB_MAX_ARGS], formats[DB_MAX_ARGS];
    char numbers[DB_MAX_ARGS][24];
};

static void params_set(struct params *p, const struct db_arg *args, int n)
{
    for (int i = 0; i < n; i++) {
        const struct db_arg *a = &args[i];
        snprintf(p->numbers[i], sizeof p->numbers[i], "%lld", (long long)a->i);
        p->values[i] = a->is_null ? NULL : a->type == DB_INT ? p->numbers[i] : a->n ? a->p : "";
        p->lengths[i] = (int)a->n;
        p->formats[i] = a->type == DB_BLOB;
    }
}

/* The statement, prepared on this connection. */
static int find(struct pg *pg, void **place, const char *text, const struct db_arg *args, int n, struct place **out, struct err *e)
{
    struct place *p = *out = *place;
    if (p && p->epoch == pg->epoch) return 0;
    int rc = flush(pg, e);
    if (!p) p = *out = *place = calloc(1, sizeof *p);
    if (!rc && !p) rc = err_set(e, ERR_MEMORY, "out of memory");
    return rc ? rc : prepare(pg, p, text, args, n, e);
}

static int pg_query(struct db *db, struct db_rows *rows, const char *text, void **place, const struct db_arg *args, int n,
                    int64_t *n_changed, struct err *e)
{
    struct pg *pg = db->handle;
    struct place *p;
    struct params params;
    int rc = flush(pg, e);
    if (!rc) rc = find(pg, place, text, args, n, &p, e);
    if (rc) return rc;
    params_set(&params, args, n);
    PGresult *r = PQexecPrepared(pg->c, p->name, n, params.values, params.lengths, params.formats, 0);
    if (!succeeded(r)) return fail(pg, r, e);
    rows->result = r;
    rows->row = -1;
    if (n_changed) *n_changed = strtoll(PQcmdTuples(r), NULL, 10);
    return 0;
}

static int pg_send(struct db *db, const char *text, void **place, const struct db_arg *args, int n, int64_t expected, struct err *e)
{
    struct pg *pg = db->handle;
    struct place *p;
    struct params params;
    int rc = pg->n_sent == MOST_SENT ? flush(pg, e) : 0;
    if (!rc) rc = find(pg, place, text, args, n, &p, e);
    if (rc) return rc;
    params_set(&params, args, n);
    if (pg->n_sent == 0 && !PQenterPipelineMode(pg->c)) return fail_text(ERR_IO, PQerrorMessage(pg->c), e);
    pg->expected[pg->n_sent++] = expected;
    if (PQsendQueryPrepared(pg->c, p->name, n, params.values, params.lengths, params.formats, 0)) return 0;
    return fail_text(ERR_IO, PQerrorMessage(pg->c), e);
}

static int pg_next(struct db_rows *rows, struct err *e)
{
    (void)e;
    return ++rows->row < PQntuples(rows->result);
}

static void pg_done(struct db_rows *rows)
{
    PQclear(rows->result);
}

static bool pg_null(const struct db_rows *rows, int column)
{
    return PQgetisnull(rows->result, rows->row, column);
}

/* A boolean is 1 or 0, as it is in SQLite. */
static int64_t pg_get_int(const struct db_rows *rows, int column)
{
    const char *s = PQgetvalue(rows->result, rows->row, column);
    return *s == 't' ? 1 : strtoll(s, NULL, 10);
}

static const char *pg_get_text(const struct db_rows *rows, int column)
{
    return PQgetvalue(rows->result, rows->row, column);
}

static size_t pg_get_blob(struct db_rows *rows, int column, void *out, size_t max)
{
    size_t n = 0;
    if (pg_null(rows, column)) return 0;
    unsigned char *p = PQunescapeBytea((const unsigned char *)PQgetvalue(rows->result, rows->row, column), &n);
    if (!p) return 0;
    if (max) memcpy(out, p, n < max ? n : max);
    PQfreemem(p);
    return n;
}

const struct db_driver db_postgres = {.kind = DB_POSTGRES,
                                      .open = pg_open,
                                      .close = pg_close,
                                      .revive = pg_revive,
                                      .wait_for_locks = pg_wait_for_locks,
                                      .script = pg_script,
                                      .begin = pg_begin,
                                      .commit = pg_commit,
                                      .rollback = pg_rollback,
                                      .query = pg_query,
                                      .send = pg_send,
                                      .next = pg_next,
                                      .done = pg_done,
                                      .null = pg_null,
                                      .get_int = pg_get_int,
                                      .get_text = pg_get_text,
                                      .get_blob = pg_get_blob,
                                      .forget = free};
