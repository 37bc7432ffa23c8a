/* Price table: see price_table.h. */
#include "server/accounts/price_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "server/accounts/price_book.h"
#include "server/accounts/schema.h"
#include "server/accounts/tariff.h"

enum { ROWS_BYTES = 1 << 16 };
/* Who wrote a row, if not an operator: the gateway, of the price book, and of a local model without a price. */
static const char by_book[] = "book", by_default[] = "default";

bool price_table_reserves(const char *name)
{
    static const char *const words[] = {PRICE_LOCAL, PRICE_SALE, PRICE_MARKUP, PRICE_MARKUP_ALL, PRICE_GPU_HOUR};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(name, words[i]) == 0) return true;
    return false;
}

bool price_table_is_operators(const struct price_table_row *r)
{
    return strcmp(r->source, by_book) != 0 && strcmp(r->source, by_default) != 0;
}

static int end_one(struct db *db, const char *provider, const char *model, int64_t *n_changed, struct err *e)
{
    return db_run(db, "UPDATE prices SET ended_s = {now_s} WHERE provider = ?1 AND model = ?2 AND ended_s IS NULL",
                  DB_ARGS(db_text(provider), db_text(model)), n_changed, e);
}

static int64_t insert(struct db *db, const char *provider, const char *model, const char *rows, const char *who, struct err *e)
{
    int64_t id = 0;
    int rc = db_begin(db, e);
    if (rc) return rc;
    rc = end_one(db, provider, model, NULL, e);
    if (!rc)
        rc = db_number(db, "INSERT INTO prices (provider, model, rows, source, created_s) VALUES (?1, ?2, ?3, ?4, {now_s}) RETURNING id",
                       DB_ARGS(db_text(provider), db_text(model), db_text(rows), db_text(who)), 0, &id, e);
    if (!rc) rc = schema_config_changed(db, e);
    rc = db_end(db, rc, e);
    return rc ? rc : id;
}

/* It is stored as price_write spells it out, so that it is read again as it was meant, whatever is left out in the text. */
int64_t price_table_set(struct db *db, const char *text, size_t n, const char *who, struct err *e)
{
    struct price_book *book;
    struct buf rows;
    int64_t rc = price_book_read_stored(&book, text, n, who, e);
    if (rc) return rc;
    const struct price *p = &book->prices[0];
    buf_init(&rows, ROWS_BYTES);
    if (p->region[0])
        rc = err_set(e, ERR_INPUT, "a price that is set here holds in all regions: leave out `region`");
    else if (price_table_reserves(p->provider) && strcmp(p->provider, PRICE_LOCAL) != 0 && strcmp(p->provider, PRICE_SALE) != 0)
        rc = err_set(e, ERR_INPUT, "'%s' is no provider", p->provider);
    else if (price_write(&rows, p))
        rc = err_set(e, ERR_LIMIT, "the price has too many tiers");
    else
        rc = insert(db, p->provider, p->model, rows.data, who, e);
    buf_free(&rows);
    price_book_release(book);
    return rc;
}

/* --- mark-ups and GPU hours: one number each, in the form of a rate --- */

static int64_t set_number(struct db *db, const char *provider, const char *model, const char *field, int64_t n, int units, const char *who, struct err *e)
{
    struct buf rows;
    if (!*model || strlen(model) > PRICE_MAX_NAME) return err_set(e, ERR_INPUT, "a name of 1 to %d bytes is needed", PRICE_MAX_NAME);
    buf_init(&rows, ROWS_BYTES);
    buf_printf(&rows, "{\"provider\":\"%s\",\"model\":", provider);
    json_write_string(&rows, model, strlen(model));
    buf_printf(&rows, ",\"%s\":[%" PRId64 ",%d]}", field, n, units);
    int64_t rc = rows.failed ? err_set(e, ERR_MEMORY, "out of memory") : insert(db, provider, model, rows.data, who, e);
    buf_free(&rows);
    return rc;
}

static int read_number(const struct price_table_row *r, const char *field, int units, int64_t least, int64_t most, int64_t *n, struct err *e)
{
    json_t *v;
    int rc = json_read(r->rows, strlen(r->rows), &json_limits_file, "a stored row", &v, e);
    if (rc) return rc;
    const json_t *pair = json_object_get(v, field);
    bool good = json_object_size(v) == 3 && json_array_size(pair) == 2 && json_is_integer(json_array_get(pair, 0)) &&
                json_integer_value(json_array_get(pair, 1)) == units;
    *n = json_integer_value(json_array_get(pair, 0));
    json_decref(v);
    if (good && *n >= least && *n <= most) return 0;
    return err_set(e, ERR_INPUT, "%s: must be [%" PRId64 " to %" PRId64 ", %d]", field, least, most, units);
}

int64_t price_table_set_markup(struct db *db, const char *provider, int64_t hundredths, const char *who, struct err *e)
{
    CHECK(hundredths >= 0 && hundredths <= PRICE_MAX_MARKUP);
    return set_number(db, PRICE_MARKUP, provider, "percent", hundredths, PRICE_MARKUP_WHOLE / 100, who, e);
}

int64_t price_table_set_gpu_hour(struct db *db, const char *model, int64_t nusd, const char *who, struct err *e)
{
    CHECK(nusd > 0);
    return set_number(db, PRICE_GPU_HOUR, model, "hour", nusd, 1, who, e);
}

int price_table_read_markup(const struct price_table_row *r, int64_t *hundredths, struct err *e)
{
    return read_number(r, "percent", PRICE_MARKUP_WHOLE / 100, 0, PRICE_MAX_MARKUP, hundredths, e);
}

int price_table_read_gpu_hour(const struct price_table_row *r, int64_t *nusd, struct err *e)
{
    return read_number(r, "hour", 1, 1, INT64_MAX, nusd, e);
}

/* --- what is free --- */

static int find_free(struct db *db, const char *model, const char *rows, int64_t *id, struct err *e)
{
    return db_number(db, "SELECT id FROM prices WHERE provider = '" PRICE_LOCAL "' AND model = ?1 AND rows = ?2 ORDER BY id DESC LIMIT 1",
                     DB_ARGS(db_text(model), db_text(rows)), 0, id, e);
}

/* Where an operator has set a price, that stays the one in force. */
static int make_free(struct db *db, const char *model, const char *rows, int64_t *id, struct err *e)
{
    int rc = db_begin(db, e);
    if (rc) return rc;
    rc = db_number(db,
                   "INSERT INTO prices (provider, model, rows, source, created_s, ended_s) SELECT '" PRICE_LOCAL "', ?1, ?2, ?3, {now_s},"
                   " CASE WHEN EXISTS (SELECT 1 FROM prices WHERE provider = '" PRICE_LOCAL "' AND model = ?1 AND ended_s IS NULL) THEN {now_s} END"
                   " RETURNING id",
                   DB_ARGS(db_text(model), db_text(rows), db_text(by_default)), 0, id, e);
    return db_end(db, rc, e);
}

int64_t price_table_free(struct db *db, const char *model, struct err *e)
{
    struct price p = tariff_free;
    struct buf rows;
    int64_t id = 0;
    p.model = model;
    buf_init(&rows, ROWS_BYTES);
    int rc = price_write(&rows, &p) ? err_set(e, ERR_MEMORY, "out of memory") : find_free(db, model, rows.data, &id, e);
    if (!rc && !id) rc = make_free(db, model, rows.data, &id, e);
    if (rc == -ERR_EXISTS || rc == -ERR_BUSY) { /* another gateway was faster */
        int again = find_free(db, model, rows.data, &id, e);
        rc = again ? again : id ? 0 : rc;
    }
    buf_free(&rows);
    return rc ? rc : id;
}

int price_table_end(struct db *db, const char *provider, const char *model, struct err *e)
{
    int64_t n_changed = 0;
    int rc = db_begin(db, e);
    if (rc) return rc;
    rc = end_one(db, provider, model, &n_changed, e);
    if (!rc && n_changed == 0) rc = err_set(e, ERR_NOT_FOUND, "there is no price of %.60s %.200s in force", provider, model);
    if (!rc) rc = schema_config_changed(db, e);
    return db_end(db, rc, e);
}

int price_table_list(struct db *db, const char *provider, const char *model, bool all,
                     void (*fn)(void *ctx, const struct price_table_row *r), void *ctx, struct err *e)
{
    struct db_rows r;
    int rc = db_query(db, &r,
                      "SELECT id, provider, model, rows, source, created_s, coalesce(ended_s, 0) FROM prices"
                      " WHERE (?1 = '' OR provider = ?1) AND (?2 = '' OR model = ?2) AND (?3 = 1 OR ended_s IS NULL)"
                      " ORDER BY provider, model, id",
                      DB_ARGS(db_text(provider ? provider : ""), db_text(model ? model : ""), db_int(all)), e);
    while (!rc && (rc = db_next(&r, e)) == 1) {
        fn(ctx, &(struct price_table_row){.id = db_get_int(&r, 0),
                                          .provider = db_get_text(&r, 1),
                                          .model = db_get_text(&r, 2),
                                          .rows = db_get_text(&r, 3),
                                          .source = db_get_text(&r, 4),
                                          .created_s = db_get_int(&r, 5),
                                          .ended_s = db_get_int(&r, 6)});
        rc = 0;
    }
    db_done(&r);
    return rc;
}
