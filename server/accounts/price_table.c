/* Price table: see price_table.h. */
#include "server/accounts/price_table.h"

#include <string.h>

#include "server/accounts/price_book.h"
#include "server/accounts/schema.h"

enum { ROWS_BYTES = 1 << 16 };

static int end_one(struct db *db, const char *provider, const char *model, int64_t *n_changed, struct err *e)
{
    return db_run(db, "UPDATE prices SET ended_s = {now_s} WHERE provider = ?1 AND model = ?2 AND ended_s IS NULL",
                  DB_ARGS(db_text(provider), db_text(model)), n_changed, e);
}

static int64_t insert(struct db *db, const struct price *p, const char *rows, const char *who, struct err *e)
{
    int64_t id = 0;
    int rc = db_begin(db, e);
    if (rc) return rc;
    rc = end_one(db, p->provider, p->model, NULL, e);
    if (!rc)
        rc = db_number(db, "INSERT INTO prices (provider, model, rows, source, created_s) VALUES (?1, ?2, ?3, ?4, {now_s}) RETURNING id",
                       DB_ARGS(db_text(p->provider), db_text(p->model), db_text(rows), db_text(who)), 0, &id, e);
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
    else if (price_write(&rows, p))
        rc = err_set(e, ERR_LIMIT, "the price has too many tiers");
    else
        rc = insert(db, p, rows.data, who, e);
    buf_free(&rows);
    price_book_release(book);
    return rc;
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
