/* Export: see export.h. */
#include "server/accounts/export.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "server/accounts/money.h"

enum { ROWS_AT_ONCE = 2000, MAX_COLUMNS = 32 };

enum column_type { COLUMN_NUMBER, COLUMN_TEXT, COLUMN_MONEY, COLUMN_TIME, COLUMN_YES };

struct column {
    const char *name;
    enum column_type type;
};

/* Their first column is the id; sql: of ids above ?1, from ?2 until before ?3, at most ?4. */
static const struct table {
    const char *sql;
    struct column columns[MAX_COLUMNS];
} tables[] = {
    [EXPORT_TRANSFERS] = {"SELECT t.id, t.created_ms, t.kind, t.request, t.attempt, t.debit, d.name, t.credit, c.name, t.amount, t.linked,"
                          " t.note FROM transfers t LEFT JOIN accounts d ON d.id = t.debit LEFT JOIN accounts c ON c.id = t.credit"
                          " WHERE t.id > ?1 AND t.created_ms >= ?2 AND t.created_ms < ?3 ORDER BY t.id LIMIT ?4",
                          {{"id", COLUMN_NUMBER},
                           {"time", COLUMN_TIME},
                           {"kind", COLUMN_TEXT},
                           {"request", COLUMN_NUMBER},
                           {"attempt", COLUMN_NUMBER},
                           {"debit", COLUMN_NUMBER},
                           {"debit_name", COLUMN_TEXT},
                           {"credit", COLUMN_NUMBER},
                           {"credit_name", COLUMN_TEXT},
                           {"amount_usd", COLUMN_MONEY},
                           {"linked", COLUMN_NUMBER},
                           {"note", COLUMN_TEXT}}},
    [EXPORT_REQUESTS] =
        {"SELECT r.id, r.created_ms, r.resolved_ms, r.account, r.project, r.model, r.state, r.reserved, r.charged, r.served,"
         " s.name, a.model, a.in_uncached, a.in_cache_read, a.out_text, a.out_reasoning, a.cost, r.estimated, r.reason,"
         " r.outcome, r.tags, r.price, r.markup, a.price, a.tier, a.in_cache_write_5m, a.in_cache_write_1h, a.in_audio, a.in_image, a.out_audio,"
         " a.searches FROM requests r LEFT JOIN attempts a ON a.request = r.id AND a.n = r.served"
         " LEFT JOIN accounts s ON s.id = a.supplier"
         " WHERE r.id > ?1 AND r.created_ms >= ?2 AND r.created_ms < ?3 ORDER BY r.id LIMIT ?4",
         {{"id", COLUMN_NUMBER},          {"time", COLUMN_TIME},
          {"ended", COLUMN_TIME},         {"key", COLUMN_NUMBER},
          {"project", COLUMN_NUMBER},     {"model", COLUMN_TEXT},
          {"state", COLUMN_TEXT},         {"reserved_usd", COLUMN_MONEY},
          {"charged_usd", COLUMN_MONEY},  {"attempts", COLUMN_NUMBER},
          {"supplier", COLUMN_TEXT},      {"supplier_model", COLUMN_TEXT},
          {"in_uncached", COLUMN_NUMBER}, {"in_cache_read", COLUMN_NUMBER},
          {"out_text", COLUMN_NUMBER},    {"out_reasoning", COLUMN_NUMBER},
          {"cost_usd", COLUMN_MONEY},     {"estimated", COLUMN_YES},
          {"reason", COLUMN_TEXT},        {"outcome", COLUMN_TEXT},
          {"tags", COLUMN_TEXT},
          {"price", COLUMN_NUMBER},       {"markup", COLUMN_NUMBER}, /* rows of prices: of the sale; of the cost; and what else they are applied to */
          {"cost_price", COLUMN_NUMBER},  {"tier", COLUMN_TEXT},
          {"in_cache_write_5m", COLUMN_NUMBER}, {"in_cache_write_1h", COLUMN_NUMBER},
          {"in_audio", COLUMN_NUMBER},    {"in_image", COLUMN_NUMBER},
          {"out_audio", COLUMN_NUMBER},   {"searches", COLUMN_NUMBER}}},
};

static void put_csv_text(struct buf *b, const char *s)
{
    bool runs = s[0] && strchr("=+-@\t\r", s[0]), quoted = strpbrk(s, ",\"\r\n");
    if (quoted) buf_putc(b, '"');
    if (runs) buf_putc(b, '\'');
    for (; *s; s++) {
        if (*s == '"') buf_putc(b, '"');
        buf_putc(b, *s);
    }
    if (quoted) buf_putc(b, '"');
}

static void put_text(struct buf *b, bool json, const char *s)
{
    if (json)
        json_write_string(b, s, strlen(s));
    else
        put_csv_text(b, s);
}

/* No text of these needs quotes in CSV. */
static void put_word(struct buf *b, bool json, const char *s)
{
    buf_printf(b, json ? "\"%s\"" : "%s", s);
}

static void put_time(struct buf *b, bool json, int64_t ms)
{
    struct tm tm;
    time_t s = (time_t)(ms / 1000);
    char day[32], text[48];
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", gmtime_r(&s, &tm));
    snprintf(text, sizeof text, "%s.%03dZ", day, (int)(ms % 1000));
    put_word(b, json, text);
}

static void put_value(struct buf *b, bool json, const struct db_rows *r, int i, enum column_type type)
{
    char money[MONEY_BYTES];
    if (db_null(r, i)) {
        if (json) buf_puts(b, "null");
        return;
    }
    switch (type) {
    case COLUMN_NUMBER:
        buf_printf(b, "%lld", (long long)db_get_int(r, i));
        break;
    case COLUMN_TEXT:
        put_text(b, json, db_get_text(r, i));
        break;
    case COLUMN_MONEY:
        put_word(b, json, money_write(db_get_int(r, i), money));
        break;
    case COLUMN_TIME:
        put_time(b, json, db_get_int(r, i));
        break;
    case COLUMN_YES:
        buf_puts(b, db_get_int(r, i) ? "true" : "false");
        break;
    }
}

static void put_row(struct buf *b, bool json, const struct table *t, const struct db_rows *r, bool first)
{
    if (json) buf_puts(b, first ? "[{" : ",\n {");
    for (int i = 0; i < MAX_COLUMNS && t->columns[i].name; i++) {
        if (i) buf_putc(b, ',');
        if (json) buf_printf(b, "\"%s\":", t->columns[i].name);
        put_value(b, json, r, i, t->columns[i].type);
    }
    buf_puts(b, json ? "}" : "\r\n");
}

static void put_header(struct buf *b, const struct table *t)
{
    for (int i = 0; i < MAX_COLUMNS && t->columns[i].name; i++) buf_printf(b, "%s%s", i ? "," : "", t->columns[i].name);
    buf_puts(b, "\r\n");
}

/* Rows are asked for a page at a time: PostgreSQL gives all of an answer at once. */
struct export {
    struct db *db;
    const struct table *table;
    bool json, begun, paging; /* paging: rows of a page are being read */
    int64_t from_ms, to_ms, last; /* last: the id of the row before */
    size_t n, n_page;
    struct db_rows rows;
};

int export_open(struct export **out, struct db *db, enum export_what what, bool json, int64_t from_ms, int64_t to_ms, struct err *e)
{
    *out = NULL;
    struct export *x = calloc(1, sizeof *x);
    if (!x) return err_set(e, ERR_MEMORY, "out of memory");
    *x = (struct export){.db = db, .table = &tables[what], .json = json, .from_ms = from_ms, .to_ms = to_ms};
    int rc = db_begin_read(db, e);
    if (rc)
        free(x);
    else
        *out = x;
    return rc;
}

/* The next row, of the next page if this one has ended. 1, 0: there is none, or an error. */
static int next_row(struct export *x, struct err *e)
{
    for (;;) {
        int rc = 0;
        if (!x->paging) {
            rc = db_query(x->db, &x->rows, x->table->sql,
                          DB_ARGS(db_int(x->last), db_int(x->from_ms), db_int(x->to_ms), db_int(ROWS_AT_ONCE)), e);
            x->paging = true;
            x->n_page = 0;
        }
        if (!rc) rc = db_next(&x->rows, e);
        if (rc < 0) return rc;
        if (rc == 1) {
            x->n_page++;
            return 1;
        }
        db_done(&x->rows);
        x->paging = false;
        if (x->n_page < ROWS_AT_ONCE) return 0;
    }
}

int export_next(struct export *x, struct buf *b, struct err *e)
{
    size_t begin = b->len;
    int rc = 1;
    if (!x->begun && !x->json) put_header(b, x->table);
    x->begun = true;
    while (b->len - begin < EXPORT_PIECE_BYTES && (rc = next_row(x, e)) == 1) {
        x->last = db_get_int(&x->rows, 0);
        put_row(b, x->json, x->table, &x->rows, x->n == 0);
        x->n++;
        if (b->failed) return err_set(e, ERR_LIMIT, "row %lld is too long, or out of memory", (long long)x->last);
    }
    if (rc == 0 && x->json) buf_puts(b, x->n ? "]\n" : "[]\n");
    return rc;
}

size_t export_rows(const struct export *x)
{
    return x->n;
}

void export_close(struct export *x)
{
    if (!x) return;
    db_done(&x->rows);
    db_rollback(x->db); /* it has read only */
    free(x);
}

int export_write(struct db *db, enum export_what what, bool json, int64_t from_ms, int64_t to_ms, FILE *f, size_t *n, struct err *e)
{
    struct export *x;
    struct buf b;
    *n = 0;
    int rc = export_open(&x, db, what, json, from_ms, to_ms, e), more = !rc;
    buf_init(&b, EXPORT_PIECE_BYTES + EXPORT_ROW_BYTES);
    while (more == 1) {
        buf_clear(&b);
        more = export_next(x, &b, e);
        if (more < 0) rc = more;
        if (!rc && b.len) fwrite(b.data, 1, b.len, f);
    }
    if (x) *n = export_rows(x);
    buf_free(&b);
    export_close(x);
    return rc;
}
