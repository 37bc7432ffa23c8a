/* The move from SQLite to PostgreSQL: see store_copy.h. Tables and their columns are those that the SQLite store has, so that a table of a
 * later version is moved, too; one that is not on the other side is an error there. */
#include "server/accounts/store_copy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "server/accounts/schema.h"

enum { MAX_TABLES = 40, SQL_BYTES = 16384, MAX_CELL = 1 << 20 };

struct column {
    char name[64];
    enum db_type type;
};

/* The statements live as long as the connections, as db.h asks. */
struct table {
    char name[64];
    struct column columns[DB_MAX_ARGS];
    int n;
    int64_t n_rows;
    char *read, *write, *sums, *clear;
};

struct move {
    struct db *from, *to;
    struct table tables[MAX_TABLES];
    int n;
    struct buf cells[DB_MAX_ARGS]; /* bytes of a row's blobs */
};

/* --- what there is --- */

static int list_tables(struct move *m, struct err *e)
{
    struct db_rows r;
    int rc = db_query(
        m->from, &r,
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' AND name <> 'schema_migrations'"
        " ORDER BY name <> 'accounts', name",
        DB_NO_ARGS, e); /* accounts first: others refer to it */
    while (!rc && (rc = db_next(&r, e)) == 1) {
        rc = m->n == MAX_TABLES ? err_set(e, ERR_LIMIT, "more than %d tables", MAX_TABLES) : 0;
        if (!rc) snprintf(m->tables[m->n++].name, sizeof m->tables[0].name, "%s", db_get_text(&r, 0));
    }
    db_done(&r);
    return rc;
}

static int list_columns(struct move *m, struct table *t, struct err *e)
{
    struct db_rows r;
    int rc = db_query(m->from, &r, "SELECT name, type FROM pragma_table_info(?1) ORDER BY cid", DB_ARGS(db_text(t->name)), e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        const char *type = db_get_text(&r, 1);
        rc = t->n == DB_MAX_ARGS ? err_set(e, ERR_LIMIT, "table %s has more than %d columns", t->name, DB_MAX_ARGS) : 0;
        if (rc) break;
        struct column *c = &t->columns[t->n++];
        snprintf(c->name, sizeof c->name, "%s", db_get_text(&r, 0));
        c->type = strcmp(type, "INTEGER") == 0 ? DB_INT : strcmp(type, "BLOB") == 0 ? DB_BLOB : DB_TEXT;
    }
    db_done(&r);
    return rc;
}

static void put_columns(struct buf *b, const struct table *t)
{
    for (int i = 0; i < t->n; i++) buf_printf(b, "%s%s", i ? ", " : "", t->columns[i].name);
}

static int write_statements(struct table *t, struct err *e)
{
    struct buf b[4];
    for (int i = 0; i < 4; i++) buf_init(&b[i], SQL_BYTES);
    buf_puts(&b[0], "SELECT ");
    put_columns(&b[0], t);
    buf_printf(&b[0], " FROM %s ORDER BY rowid", t->name);
    buf_printf(&b[1], "INSERT INTO %s (", t->name);
    put_columns(&b[1], t);
    buf_puts(&b[1], ") VALUES (");
    for (int i = 0; i < t->n; i++) buf_printf(&b[1], "%s?%d", i ? ", " : "", i + 1);
    buf_putc(&b[1], ')');
    buf_puts(&b[2], "SELECT count(*)");
    for (int i = 0; i < t->n; i++) /* of ids and amounts the lower half apart: a sum of all is past int64 */
        if (t->columns[i].type == DB_INT)
            buf_printf(&b[2], ", coalesce(sum(%s / 65536), 0), coalesce(sum(%s %% 65536), 0)", t->columns[i].name, t->columns[i].name);
        else
            buf_printf(&b[2], ", count(%s), coalesce(sum(length(%s)), 0)", t->columns[i].name, t->columns[i].name);
    buf_printf(&b[2], " FROM %s", t->name);
    buf_printf(&b[3], "DELETE FROM %s", t->name);
    for (int i = 0; i < 4; i++)
        if (b[i].failed) {
            for (int j = 0; j < 4; j++) buf_free(&b[j]);
            return err_set(e, ERR_MEMORY, "out of memory");
        }
    t->read = b[0].data;
    t->write = b[1].data;
    t->sums = b[2].data;
    t->clear = b[3].data;
    return 0;
}

/* --- moving --- */

/* What the schema itself puts in is replaced; anything else there is somebody's. */
static int check_empty(struct db *to, struct err *e)
{
    int64_t n;
    int rc = db_number(
        to,
        "SELECT (SELECT count(*) FROM accounts WHERE kind IN ('key', 'supplier') OR (kind IN ('organisation', 'project') AND id > 2))"
        " + (SELECT count(*) FROM transfers) + (SELECT count(*) FROM runs) + (SELECT count(*) FROM key_secrets)",
        DB_NO_ARGS, 0, &n, e);
    return rc || n == 0 ? rc : err_set(e, ERR_EXISTS, "the PostgreSQL store has accounts of its own already");
}

static struct db_arg cell(struct move *m, struct db_rows *r, const struct table *t, int i, int *rc, struct err *e)
{
    if (db_null(r, i)) return (struct db_arg){.type = t->columns[i].type, .is_null = true};
    if (t->columns[i].type == DB_INT) return db_int(db_get_int(r, i));
    if (t->columns[i].type == DB_TEXT) return db_text(db_get_text(r, i));
    struct buf *b = &m->cells[i];
    size_t n = db_get_blob(r, i, NULL, 0);
    if (buf_reserve(b, n + 1) || n > MAX_CELL) {
        *rc = err_set(e, ERR_LIMIT, "table %s: a cell of %zu bytes", t->name, n);
        return db_int(0);
    }
    db_get_blob(r, i, b->data, n);
    return db_blob(b->data, n);
}

static int move_table(struct move *m, struct table *t, struct err *e)
{
    struct db_rows r;
    int rc = db_query(m->from, &r, t->read, DB_NO_ARGS, e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        struct db_arg args[DB_MAX_ARGS];
        rc = 0;
        for (int i = 0; i < t->n; i++) args[i] = cell(m, &r, t, i, &rc, e);
        if (!rc) rc = db_send(m->to, t->write, args, t->n, 1, e);
        t->n_rows++;
    }
    db_done(&r);
    return rc ? err_prefix(e, "table %s", t->name) : 0;
}

/* AUTOINCREMENT never gives a number twice, also not one whose row is gone. */
static int continue_numbers(struct move *m, struct err *e)
{
    struct db_rows r;
    char sql[256];
    int rc = db_query(m->from, &r, "SELECT name, seq FROM sqlite_sequence", DB_NO_ARGS, e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        snprintf(sql, sizeof sql, "ALTER TABLE %.64s ALTER COLUMN id RESTART WITH %lld", db_get_text(&r, 0),
                 (long long)db_get_int(&r, 1) + 1);
        bool moved = false;
        for (int i = 0; i < m->n; i++) moved |= strcmp(m->tables[i].name, db_get_text(&r, 0)) == 0;
        rc = moved ? db_script(m->to, sql, e) : 0; /* a table that a migration has made anew has left its name there */
    }
    db_done(&r);
    return rc;
}

static int compare_table(struct move *m, const struct table *t, struct err *e)
{
    struct db_rows a, b = {0};
    int rc = db_query(m->from, &a, t->sums, DB_NO_ARGS, e);
    if (!rc) rc = db_next(&a, e) == 1 ? 0 : -ERR_INTERNAL;
    if (!rc) rc = db_query(m->to, &b, t->sums, DB_NO_ARGS, e);
    if (!rc) rc = db_next(&b, e) == 1 ? 0 : -ERR_INTERNAL;
    for (int i = 0; i <= 2 * t->n && !rc; i++)
        if (db_get_int(&a, i) != db_get_int(&b, i))
            rc = err_set(e, ERR_INTERNAL, "table %s: %s is %lld here and %lld there: nothing was moved", t->name,
                         i ? t->columns[(i - 1) / 2].name : "the number of rows", (long long)db_get_int(&a, i),
                         (long long)db_get_int(&b, i));
    db_done(&a);
    db_done(&b);
    return rc;
}

static int move_all(struct move *m, struct err *e)
{
    int rc = check_empty(m->to, e);
    for (int i = m->n - 1; i >= 0 && !rc; i--) rc = db_run(m->to, m->tables[i].clear, DB_NO_ARGS, NULL, e);
    for (int i = 0; i < m->n && !rc; i++) rc = move_table(m, &m->tables[i], e);
    if (!rc) rc = continue_numbers(m, e);
    for (int i = 0; i < m->n && !rc; i++) rc = compare_table(m, &m->tables[i], e);
    return rc;
}

static int move_between(struct move *m, struct err *e)
{
    int rc = db_begin_read(m->from, e);
    if (rc) return rc;
    rc = list_tables(m, e);
    for (int i = 0; i < m->n && !rc; i++) {
        rc = list_columns(m, &m->tables[i], e);
        if (!rc) rc = write_statements(&m->tables[i], e);
    }
    if (!rc) rc = db_begin(m->to, e);
    if (!rc) rc = db_end(m->to, move_all(m, e), e);
    db_rollback(m->from);
    return rc;
}

static void move_free(struct move *m)
{
    db_close(m->from); /* before the texts of their statements */
    db_close(m->to);
    for (int i = 0; i < m->n; i++) {
        free(m->tables[i].read);
        free(m->tables[i].write);
        free(m->tables[i].sums);
        free(m->tables[i].clear);
    }
    for (int i = 0; i < DB_MAX_ARGS; i++) buf_free(&m->cells[i]);
    free(m);
}

int store_move(const char *from, const char *to, struct store_moved *out, struct err *e)
{
    *out = (struct store_moved){0};
    if (db_is_url(from) || !db_is_url(to)) return err_set(e, ERR_UNSUPPORTED, "accounts move from SQLite to PostgreSQL only");
    struct move *m = calloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "out of memory");
    for (int i = 0; i < DB_MAX_ARGS; i++) buf_init(&m->cells[i], MAX_CELL + 16);
    int rc = db_open(&m->from, from, e);
    if (!rc) rc = db_open(&m->to, to, e);
    if (!rc) rc = schema_migrate(m->from, e);
    if (!rc) rc = schema_migrate(m->to, e);
    if (!rc) rc = move_between(m, e);
    for (int i = 0; i < m->n && !rc; i++) out->n_rows += m->tables[i].n_rows;
    out->n_tables = m->n;
    move_free(m);
    return rc;
}
