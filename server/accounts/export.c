/* Export: see export.h. */
#include "server/accounts/export.h"

#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/json.h"
#include "server/accounts/money.h"

enum { ROWS_AT_ONCE = 5000, ROW_BYTES = 1 << 20, MAX_COLUMNS = 32 };

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

static void put_header(FILE *f, const struct table *t)
{
    for (int i = 0; i < MAX_COLUMNS && t->columns[i].name; i++) fprintf(f, "%s%s", i ? "," : "", t->columns[i].name);
    fputs("\r\n", f);
}

/* One page. *last: the id that it ended with; n_page: its rows. */
static int write_page(struct db *db, const struct table *t, bool json, int64_t from_ms, int64_t to_ms, FILE *f, int64_t *last,
                      size_t *n_page, bool first, struct err *e)
{
    struct db_rows r;
    struct buf b;
    buf_init(&b, ROW_BYTES);
    *n_page = 0;
    int rc = db_query(db, &r, t->sql, DB_ARGS(db_int(*last), db_int(from_ms), db_int(to_ms), db_int(ROWS_AT_ONCE)), e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        buf_clear(&b);
        *last = db_get_int(&r, 0);
        put_row(&b, json, t, &r, first && *n_page == 0);
        rc = b.failed ? err_set(e, ERR_LIMIT, "row %lld is too long, or out of memory", (long long)*last) : 0;
        if (!rc) fwrite(b.data, 1, b.len, f);
        ++*n_page;
    }
    db_done(&r);
    buf_free(&b);
    return rc;
}

int export_write(struct db *db, enum export_what what, bool json, int64_t from_ms, int64_t to_ms, FILE *f, size_t *n, struct err *e)
{
    const struct table *t = &tables[what];
    int64_t last = 0;
    size_t n_page = ROWS_AT_ONCE;
    *n = 0;
    int rc = db_begin_read(db, e);
    if (rc) return rc;
    if (!json) put_header(f, t);
    for (; !rc && n_page == ROWS_AT_ONCE; *n += n_page) rc = write_page(db, t, json, from_ms, to_ms, f, &last, &n_page, *n == 0, e);
    if (json && !rc) fputs(*n ? "]\n" : "[]\n", f);
    return db_end(db, rc, e);
}
