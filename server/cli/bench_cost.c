/* bench's money: prices from the price book or the command line, bounds before anything is sent, costs after. server/accounts/price_book.h
 * does the arithmetic; here is no floating point either. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "server/accounts/money.h"
#include "server/accounts/price_book.h"
#include "server/cli/bench_parts.h"
#include "server/cli/data_path.h"
#include "server/cli/env.h"

bool bench_money_read(const char *text, int64_t *nusd)
{
    return money_parse(text, nusd) && *nusd >= 0;
}

const char *bench_money(int64_t nusd, char out[BENCH_MONEY_BYTES])
{
    char text[MONEY_BYTES];
    snprintf(out, BENCH_MONEY_BYTES, "$%s", money_write(nusd, text));
    return out;
}

int bench_price_open(struct bench *b, const char *file, struct err *e)
{
    char path[ENV_PATH_BYTES];
    int rc = file ? 0 : data_path_find(&data_prices, path, sizeof path, e);
    if (!rc) rc = price_book_open(&b->book, file ? file : path, e);
    if (!rc) snprintf(b->book_version, sizeof b->book_version, "%s of %s", b->book->version, b->book->date);
    return rc;
}

void bench_price_close(struct bench *b)
{
    for (size_t i = 0; i < b->n_targets; i++) price_book_release(b->targets[i].own_book);
    price_book_release(b->book);
    b->book = NULL;
}

/* A book of one price, in the form of a table: its reader then holds for this price, too. */
static int make_book(struct bench_target *t, int64_t in_nusd, int64_t out_nusd, struct err *e)
{
    json_t *root = json_pack("{s:i,s:s,s:s,s:[],s:[{s:s,s:s,s:[s,s],s:[{s:[I,i],s:[I,i]}]}]}", "format", 1, "version", "--price", "date",
                             "2026-01-01", "sources", "models", "provider", t->host.name, "model", t->model[0] ? t->model : "any", "can",
                             "image", "audio", "prices", "in_uncached", (json_int_t)in_nusd, 1000000, "out_text", (json_int_t)out_nusd,
                             1000000);
    struct buf text;
    buf_init(&text, 64 << 10);
    int rc = !root || json_write(&text, root) ? err_set(e, ERR_MEMORY, "out of memory") : 0;
    if (!rc) rc = price_book_read(&t->own_book, text.data, text.len, "--price", e);
    if (!rc) t->price = &t->own_book->prices[0];
    buf_free(&text);
    json_decref(root);
    return rc;
}

int bench_price_find(struct bench *b, struct bench_target *t, const char *text, struct err *e)
{
    if (!text) {
        t->price = price_find(b->book, t->host.row->name, t->model, NULL);
        if (t->price) return 0;
        return err_set(e, ERR_INPUT, "%s: the price book has no price for it: give one with --price", t->label);
    }
    char in[64];
    const char *slash = strchr(text, '/');
    size_t n = slash ? (size_t)(slash - text) : 0;
    int64_t in_nusd, out_nusd;
    if (n == 0 || n >= sizeof in) return err_set(e, ERR_INPUT, "--price: '%.80s' is not IN/OUT", text);
    memcpy(in, text, n);
    in[n] = '\0';
    if (!bench_money_read(in, &in_nusd) || !bench_money_read(slash + 1, &out_nusd))
        return err_set(e, ERR_INPUT, "--price: '%.80s' are not dollars for a million tokens in and out, such as 0.15/0.60", text);
    if (in_nusd == 0 && out_nusd == 0) return 0;
    if (in_nusd == 0 || out_nusd == 0) return err_set(e, ERR_INPUT, "--price: '%.80s': both are 0, or none is", text);
    return make_book(t, in_nusd, out_nusd, e);
}

bool bench_target_is_paid(const struct bench_target *t)
{
    return t->price && !(t->price->can & PRICE_FREE);
}

int bench_price_request(const struct bench_target *t, const struct bench_request *r, int64_t *about, int64_t *bound, struct err *e)
{
    *about = *bound = 0;
    if (!t->price) return 0;
    uint32_t in = USAGE_IN & ~(USAGE_BIT(USAGE_IN_AUDIO) | (r->pictures ? 0 : USAGE_BIT(USAGE_IN_IMAGE)));
    struct price_ask ask = {.input_tokens = r->in_bound,
                            .output_tokens = r->out_bound,
                            .meters = in | USAGE_BIT(USAGE_OUT_TEXT) | USAGE_BIT(USAGE_OUT_REASONING),
                            .services = PRICE_SERVICE_BIT(PRICE_STANDARD)};
    struct usage u = {.source = USAGE_ESTIMATED};
    usage_set(&u, USAGE_IN_UNCACHED, r->in_about);
    usage_set(&u, USAGE_OUT_TEXT, r->out_bound);
    int rc = price_bound(t->price, &ask, bound, e);
    return rc ? rc : price_cost(t->price, &u, PRICE_STANDARD, about, e);
}

int bench_price_used(const struct bench_target *t, const struct usage *u, int64_t *nusd, struct err *e)
{
    *nusd = 0;
    return t->price ? price_cost(t->price, u, PRICE_STANDARD, nusd, e) : 0;
}

static int predict_target(const struct bench *b, struct bench_target *t, struct err *e)
{
    size_t n = b->count + (size_t)b->o->warmup;
    t->about_nusd = t->bound_nusd = 0;
    for (size_t i = 0; i < n && bench_target_is_paid(t); i++) {
        struct bench_request r;
        int64_t about, bound;
        int rc = bench_work_make(&b->work, i, &r, e);
        if (rc) return rc;
        rc = bench_price_request(t, &r, &about, &bound, e);
        bench_request_free(&r);
        if (rc) return rc;
        if (__builtin_add_overflow(t->about_nusd, about, &t->about_nusd) || __builtin_add_overflow(t->bound_nusd, bound, &t->bound_nusd))
            return err_set(e, ERR_LIMIT, "%s: the cost is past what can be counted", t->label);
    }
    return 0;
}

int bench_predict(struct bench *b, struct err *e)
{
    b->about_nusd = b->bound_nusd = 0;
    for (size_t i = 0; i < b->n_targets; i++) {
        struct bench_target *t = &b->targets[i];
        int rc = predict_target(b, t, e);
        if (rc) return rc;
        if (b->count == 0 && bench_target_is_paid(t)) b->bound_nusd = -1; /* as many as the time allows */
        bool over = __builtin_add_overflow(b->about_nusd, t->about_nusd, &b->about_nusd);
        if (b->bound_nusd >= 0) over |= __builtin_add_overflow(b->bound_nusd, t->bound_nusd, &b->bound_nusd);
        if (over) return err_set(e, ERR_LIMIT, "the cost is past what can be counted");
    }
    return 0;
}
