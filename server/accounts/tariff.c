/* Tariff: see tariff.h. */
#include "server/accounts/tariff.h"

#include <stdlib.h>
#include <string.h>

#include "server/accounts/price_table.h"

enum { STRINGS_BYTES = 8 << 20 };

/* One row of `prices` that is in force. */
struct entry {
    const char *provider, *model;
    int64_t id, markup;      /* markup: of a row of mark-ups */
    struct price_book *book; /* of any other: one price */
};

struct tariff_table {
    unsigned holders;
    int64_t version;
    struct arena strings;
    struct entry *entries; /* by provider and model */
    size_t n, cap;
};

static const struct price_tier free_tier = {
    .service = PRICE_STANDARD,
    .rate = {[USAGE_IN_UNCACHED] = {0, 1},   [USAGE_IN_CACHE_READ] = {0, 1}, [USAGE_IN_CACHE_WRITE] = {0, 1}, [USAGE_IN_CACHE_LONG] = {0, 1},
             [USAGE_IN_AUDIO] = {0, 1},      [USAGE_IN_IMAGE] = {0, 1},      [USAGE_OUT_TEXT] = {0, 1},       [USAGE_OUT_REASONING] = {0, 1},
             [USAGE_OUT_AUDIO] = {0, 1}}};
const struct price tariff_free = {.provider = PRICE_LOCAL, .model = "?", .region = "", .version = "", .can = PRICE_FREE, .n_tiers = 1, .tiers = &free_tier};

/* --- a table --- */

struct tariff_table *tariff_table_hold(struct tariff_table *t)
{
    if (t) t->holders++;
    return t;
}

void tariff_table_release(struct tariff_table *t)
{
    if (!t || --t->holders) return;
    for (size_t i = 0; i < t->n; i++) price_book_release(t->entries[i].book);
    free(t->entries);
    arena_free(&t->strings);
    free(t);
}

int64_t tariff_table_version(const struct tariff_table *t)
{
    return t->version;
}

size_t tariff_table_size(const struct tariff_table *t)
{
    return t->n;
}

static int compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int order = strcmp(x->provider, y->provider);
    return order ? order : strcmp(x->model, y->model);
}

static const struct entry *find(const struct tariff_table *t, const char *provider, const char *model)
{
    const struct entry key = {.provider = provider, .model = model};
    return t && t->n ? bsearch(&key, t->entries, t->n, sizeof *t->entries, compare) : NULL;
}

struct reading {
    struct tariff_table *t;
    const struct tariff_table *former;
    int rc;
    struct err *e;
};

static int read_price(struct reading *r, const struct price_table_row *row, struct entry *x)
{
    const struct entry *was = find(r->former, row->provider, row->model);
    if (was && was->id == row->id) {
        x->book = price_book_hold(was->book);
        return 0;
    }
    int rc = price_book_read_stored(&x->book, row->rows, strlen(row->rows), "stored", r->e);
    if (rc) return rc;
    const struct price *p = &x->book->prices[0];
    if (strcmp(p->provider, row->provider) == 0 && strcmp(p->model, row->model) == 0) return 0;
    return err_set(r->e, ERR_INPUT, "it is the price of %.40s %.100s", p->provider, p->model);
}

static void take_row(void *ctx, const struct price_table_row *row)
{
    struct reading *r = ctx;
    struct tariff_table *t = r->t;
    if (r->rc || !price_table_is_operators(row) || strcmp(row->provider, PRICE_GPU_HOUR) == 0) return;
    if (t->n == t->cap) {
        void *more = realloc(t->entries, (t->cap = t->cap ? 2 * t->cap : 32) * sizeof *t->entries);
        if (!more || t->cap > PRICE_MAX_MODELS) t->cap = t->n;
        if (more) t->entries = more;
        if (t->cap == t->n) {
            r->rc = more ? err_set(r->e, ERR_LIMIT, "more than %d prices are set", PRICE_MAX_MODELS) : err_set(r->e, ERR_MEMORY, "out of memory");
            return;
        }
    }
    struct entry *x = &t->entries[t->n++];
    *x = (struct entry){.id = row->id,
                        .provider = arena_copy(&t->strings, row->provider, strlen(row->provider)),
                        .model = arena_copy(&t->strings, row->model, strlen(row->model))};
    if (!x->provider || !x->model)
        r->rc = err_set(r->e, ERR_MEMORY, "out of memory");
    else if (strcmp(row->provider, PRICE_MARKUP) == 0)
        r->rc = price_table_read_markup(row, &x->markup, r->e);
    else
        r->rc = read_price(r, row, x);
    if (r->rc) r->rc = err_prefix(r->e, "price %lld (%.40s %.100s)", (long long)row->id, row->provider, row->model);
}

int tariff_table_read(struct tariff_table **out, struct db *db, const struct tariff_table *former, struct err *e)
{
    *out = NULL;
    struct tariff_table *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_MEMORY, "out of memory");
    t->holders = 1;
    arena_init(&t->strings, STRINGS_BYTES);
    struct reading r = {.t = t, .former = former, .e = e};
    int rc = db_begin_read(db, e);
    if (!rc) {
        rc = db_number(db, "SELECT config_version FROM ledger_state WHERE id = 1", DB_NO_ARGS, 0, &t->version, e);
        if (!rc) rc = price_table_list(db, NULL, NULL, false, take_row, &r, e);
        if (!rc) rc = r.rc;
        rc = db_end(db, rc, e);
    }
    if (rc)
        tariff_table_release(t);
    else {
        if (t->n) qsort(t->entries, t->n, sizeof *t->entries, compare); /* a store's order may be another */
        *out = t;
    }
    return rc;
}

/* --- one request's --- */

static bool take(struct tariff_price *out, const struct entry *x)
{
    if (x) *out = (struct tariff_price){.price = &x->book->prices[0], .id = x->id};
    return x != NULL;
}

void tariff_of(struct tariff *out, const struct tariff_table *t, const char *provider, const char *model, const struct tariff_price *own, const char *name)
{
    *out = (struct tariff){.cost = *own};
    take(&out->cost, find(t, provider, model));
    out->sale = out->cost;
    if (take(&out->sale, find(t, PRICE_SALE, name))) return;
    const struct entry *markup = find(t, PRICE_MARKUP, provider);
    if (!markup) markup = find(t, PRICE_MARKUP, PRICE_MARKUP_ALL);
    if (!markup) return;
    out->markup = markup->markup;
    out->markup_id = markup->id;
}

int tariff_cost(const struct tariff *t, const struct usage *u, enum price_service service, int64_t *nusd, struct err *e)
{
    return price_cost(t->cost.price, u, service, nusd, e);
}

int tariff_sale(const struct tariff *t, const struct usage *u, enum price_service service, int64_t *nusd, struct err *e)
{
    bool own = t->sale.price != t->cost.price;
    if (own && !price_is_sold(t->sale.price, service)) service = PRICE_STANDARD;
    return price_cost_marked(t->sale.price, u, service, t->markup, nusd, e);
}

int tariff_bound(const struct tariff *t, const struct price_ask *ask, int64_t *sale_nusd, int64_t *cost_nusd, struct err *e)
{
    struct price_ask sale = *ask;
    sale.services |= PRICE_SERVICE_BIT(PRICE_STANDARD); /* where the name has no price for another */
    int rc = price_bound(t->cost.price, ask, cost_nusd, e);
    return rc ? rc : price_bound_marked(t->sale.price, t->sale.price == t->cost.price ? ask : &sale, t->markup, sale_nusd, e);
}

/* A rate for a million is at most 10^13, a mark-up multiplies it by 11: no overflow. Rounded up: a cap on prices is not passed by a fraction. */
static int64_t rate(const struct tariff *t, enum usage_meter meter)
{
    const struct price_rate *r = &t->sale.price->tiers[0].rate[meter];
    int64_t marked = r->units ? r->nano * (1000000 / r->units) * (PRICE_MARKUP_WHOLE + t->markup) : 0;
    return marked / PRICE_MARKUP_WHOLE + (marked % PRICE_MARKUP_WHOLE != 0);
}

void tariff_rates(const struct tariff *t, int64_t *in_nusd, int64_t *out_nusd)
{
    *in_nusd = rate(t, USAGE_IN_UNCACHED);
    *out_nusd = rate(t, USAGE_OUT_TEXT);
}

void tariff_tell(const struct tariff *t, struct ledger_op *op)
{
    op->price = t->sale.id;
    op->markup = t->markup_id;
    op->attempt.price = t->cost.id;
    const struct tariff_price *book = !t->cost.id ? &t->cost : !t->sale.id ? &t->sale : NULL; /* both: the same one */
    if (book) op->price_of = (struct ledger_price){.provider = book->price->provider, .model = book->price->model, .rows = book->text};
}
