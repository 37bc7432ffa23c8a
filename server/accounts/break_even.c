/* Break-even: see break_even.h. */
#include "server/accounts/break_even.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/accounts/price_table.h"

enum { DAY_S = 86400, HOUR_S = 3600, NAME_BYTES = PRICE_MAX_NAME + 16 };

/* A hosted price, or a local model and its GPU's hour. */
struct one {
    struct price_book *book; /* of the price; NULL: borrowed, or there is none */
    const struct price *price;
    char model[PRICE_MAX_NAME + 1];
    int64_t hour_nusd;
};

struct collected {
    struct one *list;
    size_t n, cap;
    int rc;
    struct err *e;
};

static struct one *add(struct collected *c)
{
    if (c->n == c->cap) {
        void *more = realloc(c->list, (c->cap = c->cap ? 2 * c->cap : 16) * sizeof *c->list);
        if (!more) {
            c->rc = err_set(c->e, ERR_MEMORY, "out of memory");
            c->cap = c->n;
            return NULL;
        }
        c->list = more;
    }
    c->list[c->n] = (struct one){.hour_nusd = 0};
    return &c->list[c->n++];
}

static void take_row(void *ctx, const struct price_table_row *r)
{
    struct collected *c = ctx;
    bool hour = strcmp(r->provider, PRICE_GPU_HOUR) == 0;
    if (c->rc || (price_table_reserves(r->provider) && !hour)) return;
    struct one *x = add(c);
    if (!x) return;
    snprintf(x->model, sizeof x->model, "%s", r->model);
    if (hour)
        c->rc = price_table_read_gpu_hour(r, &x->hour_nusd, c->e);
    else if (!(c->rc = price_book_read_stored(&x->book, r->rows, strlen(r->rows), "stored", c->e)))
        x->price = &x->book->prices[0];
    if (c->rc) c->rc = err_prefix(c->e, "price %lld (%.40s %.100s)", (long long)r->id, r->provider, r->model);
}

static void collected_free(struct collected *c)
{
    for (size_t i = 0; i < c->n; i++) price_book_release(c->list[i].book);
    free(c->list);
}

static int read_sums(struct db *db, const char *supplier, int64_t from_day, int64_t to_day, struct break_even_use *u, int64_t *first_day, struct err *e)
{
    struct db_rows r;
    int rc = db_query(db, &r,
                      "SELECT coalesce(sum(u.tokens_in), 0), coalesce(sum(u.tokens_cached), 0), coalesce(sum(u.tokens_out), 0), coalesce(min(u.day), 0)"
                      " FROM usage_days u JOIN accounts a ON a.id = u.supplier"
                      " WHERE a.kind = 'supplier' AND a.name = ?1 AND u.day >= ?2 AND u.day <= ?3 AND u.tokens_in + u.tokens_out > 0",
                      DB_ARGS(db_text(supplier), db_int(from_day), db_int(to_day)), e);
    if (!rc && (rc = db_next(&r, e)) == 1) {
        u->tokens_in = db_get_int(&r, 0);
        u->tokens_cached = db_get_int(&r, 1);
        u->tokens_out = db_get_int(&r, 2);
        *first_day = db_get_int(&r, 3);
        rc = 0;
    }
    db_done(&r);
    return rc;
}

static int read_use(struct db *db, int64_t from_day, int64_t to_day, int64_t now_s, struct break_even_use *u, struct err *e)
{
    char supplier[NAME_BYTES];
    int64_t first_day = 0, end_s = (to_day + 1) * DAY_S;
    snprintf(supplier, sizeof supplier, PRICE_LOCAL "/%s", u->model);
    int rc = read_sums(db, supplier, from_day, to_day, u, &first_day, e);
    int64_t tokens = u->tokens_in + u->tokens_out;
    if (rc || tokens == 0) return rc;
    if (end_s > now_s) end_s = now_s;
    u->hours = (end_s - first_day * DAY_S + HOUR_S - 1) / HOUR_S;
    if (u->hours < 1) u->hours = 1;
    u->an_hour = tokens / u->hours;
    return db_number(db,
                     "SELECT coalesce(max(n), 0) FROM (SELECT sum(coalesce(t.in_uncached, 0) + coalesce(t.in_cache_read, 0) + coalesce(t.out_text, 0)) AS n"
                     " FROM attempts t JOIN accounts a ON a.id = t.supplier WHERE a.kind = 'supplier' AND a.name = ?1"
                     " AND t.started_ms >= ?2 AND t.started_ms < ?3 GROUP BY t.started_ms / 3600000) hours",
                     DB_ARGS(db_text(supplier), db_int(from_day * DAY_S * 1000), db_int((to_day + 1) * DAY_S * 1000)), 0, &u->busiest_hour, e);
}

/* The mix is of many requests: each of them is priced as one of short context, standard service. -ERR_UNSUPPORTED: some of it has no price. */
static int price_mix(const struct break_even_use *u, const struct price *p, int64_t *nusd, struct err *e)
{
    struct price first = *p;
    struct usage mix = {.source = USAGE_REPORTED};
    first.n_tiers = 1;
    usage_set(&mix, USAGE_IN_UNCACHED, u->tokens_in - u->tokens_cached);
    usage_set(&mix, USAGE_IN_CACHE_READ, u->tokens_cached);
    usage_set(&mix, USAGE_OUT_TEXT, u->tokens_out);
    return price_cost(&first, &mix, PRICE_STANDARD, nusd, e);
}

static int compare_one(const struct break_even_use *u, const struct price *p, break_even_fn *fn, void *ctx, struct err *e)
{
    struct break_even b = {.use = u, .provider = p->provider, .model = p->model};
    int rc = u->hours ? price_mix(u, p, &b.hosted_nusd, e) : 0;
    if (rc) return rc;
    if (b.hosted_nusd > 0) {
        unsigned __int128 needed = (unsigned __int128)u->hour_nusd * (unsigned __int128)(u->tokens_in + u->tokens_out);
        needed = (needed + (unsigned __int128)b.hosted_nusd - 1) / (unsigned __int128)b.hosted_nusd;
        b.known = needed <= INT64_MAX;
        if (b.known) b.needed_an_hour = (int64_t)needed;
    }
    fn(ctx, &b);
    return 0;
}

int break_even(struct db *db, int64_t from_day, int64_t to_day, int64_t now_s, const struct price *const *more, size_t n_more, break_even_fn *fn,
               void *ctx, struct err *e)
{
    struct collected c = {.e = e};
    int rc = db_begin_read(db, e);
    if (rc) return rc;
    rc = price_table_list(db, NULL, NULL, false, take_row, &c, e);
    if (!rc) rc = c.rc;
    for (size_t i = 0; i < c.n && !rc; i++) {
        struct break_even_use u = {.model = c.list[i].model, .hour_nusd = c.list[i].hour_nusd};
        if (c.list[i].price) continue;
        rc = read_use(db, from_day, to_day, now_s, &u, e);
        for (size_t k = 0; k < c.n && !rc; k++)
            if (c.list[k].price) rc = compare_one(&u, c.list[k].price, fn, ctx, e);
        for (size_t k = 0; k < n_more && !rc; k++) rc = compare_one(&u, more[k], fn, ctx, e);
    }
    collected_free(&c);
    return db_end(db, rc, e);
}

const char *break_even_verdict(const struct break_even *b)
{
    if (!b->use->hours) return "not used";
    if (!b->known) return "hosted"; /* it costs nothing there */
    if (b->use->an_hour >= b->needed_an_hour) return "local";
    return b->use->busiest_hour >= b->needed_an_hour ? "local in busy hours" : "hosted";
}
