/* Price tables: what is read is sorted and found again, has no price that is 0 (but a free model's), absurd or in another unit, costs no
 * more than its bound, and is written and read back as the same bytes. */
#include <string.h>

#include "server/accounts/price_book.h"
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {"format",
                                    "version",
                                    "date",
                                    "2026-01-31",
                                    "sources",
                                    "models",
                                    "provider",
                                    "model",
                                    "ft:m:o",
                                    "region",
                                    "context",
                                    "max_output",
                                    "can",
                                    "free",
                                    "image",
                                    "audio",
                                    "tools",
                                    "prices",
                                    "tier",
                                    "standard",
                                    "batch",
                                    "flex",
                                    "priority",
                                    "from",
                                    "in_uncached",
                                    "in_cache_read",
                                    "in_cache_write_5m",
                                    "in_cache_write_1h",
                                    "in_audio",
                                    "in_image",
                                    "out_text",
                                    "out_reasoning",
                                    "out_audio",
                                    "searches",
                                    "[1,1]",
                                    "[0,1]",
                                    "[75,1000]",
                                    "[10000000,1]",
                                    "[10000000000000,1000000]",
                                    "1",
                                    "1000",
                                    "1000000",
                                    "0",
                                    "-1",
                                    "1e19",
                                    "9223372036854775807",
                                    "0.5",
                                    "null",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return fuzz_mutate_json(p, n, max, seed, words);
}

static void check_rates(const struct price *p, const struct price_tier *t)
{
    for (int m = 0; m < USAGE_METERS; m++) {
        struct price_rate r = t->rate[m];
        int64_t most = (m == USAGE_SEARCHES ? 10000000000 : 10000000) * (int64_t)r.units;
        FUZZ_CHECK(r.units == 0 || r.units == 1 || r.units == 1000 || r.units == 1000000);
        FUZZ_CHECK(r.units && !(p->can & PRICE_FREE) ? r.nano > 0 && r.nano <= most : r.nano == 0);
    }
    FUZZ_CHECK(t->rate[USAGE_IN_UNCACHED].units && t->rate[USAGE_IN_CACHE_LONG].units && t->rate[USAGE_OUT_REASONING].units);
}

/* A usage of every meter that is priced, near the tier's first token. */
static void check_costs(const struct price *p, const struct price_tier *t, struct fuzz_random *r)
{
    struct usage u = {0};
    struct err e = {0};
    int64_t cost, bound;
    for (int m = 0; m < USAGE_METERS; m++)
        if (t->rate[m].units) usage_set(&u, m, fuzz_below(r, 1000));
    u.count[USAGE_IN_UNCACHED] += t->context_from;
    struct price_ask ask = {.input_tokens = usage_sum(&u, USAGE_IN),
                            .output_tokens = usage_sum(&u, USAGE_OUT),
                            .searches = usage_sum(&u, USAGE_BIT(USAGE_SEARCHES)),
                            .meters = u.present,
                            .services = PRICE_SERVICE_BIT(t->service) | fuzz_below(r, 1 << PRICE_SERVICES)};
    int rc = price_cost(p, &u, t->service, &cost, &e);
    if (rc) {
        fuzz_check_err(rc, &e); /* the tier that it ends in lacks a meter of this one */
        return;
    }
    FUZZ_CHECK(cost >= 0);
    rc = price_bound(p, &ask, &bound, &e);
    if (rc)
        fuzz_check_err(rc, &e);
    else
        FUZZ_CHECK(cost <= bound);
}

static void check_round_trip(const struct price *p)
{
    struct price_book *again;
    struct err e = {0};
    struct buf first, second;
    buf_init(&first, 1 << 20);
    buf_init(&second, 1 << 20);
    FUZZ_CHECK(price_write(&first, p) == 0);
    FUZZ_CHECK(price_book_read_stored(&again, first.data, first.len, p->version, &e) == 0);
    FUZZ_CHECK(price_write(&second, &again->prices[0]) == 0);
    FUZZ_CHECK(first.len == second.len && memcmp(first.data, second.data, first.len) == 0);
    FUZZ_CHECK(strcmp(again->prices[0].version, p->version) == 0 && again->prices[0].n_tiers == p->n_tiers);
    buf_free(&first);
    buf_free(&second);
    price_book_release(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct price_book *b;
    struct err e = {0};
    struct fuzz_random r = {n};
    int rc = price_book_read(&b, (const char *)p, n, "prices.json", &e);
    if (rc) {
        fuzz_check_err(rc, &e);
        FUZZ_CHECK(!b);
        return 0;
    }
    FUZZ_CHECK(b->n_prices > 0);
    for (size_t i = 0; i < b->n_prices; i++) {
        const struct price *price = &b->prices[i];
        FUZZ_CHECK(price_find(b, price->provider, price->model, price->region) == price);
        FUZZ_CHECK(price->n_tiers > 0 && price->tiers[0].service == PRICE_STANDARD && price->tiers[0].context_from == 0);
        for (uint32_t t = 0; t < price->n_tiers; t++) {
            check_rates(price, &price->tiers[t]);
            check_costs(price, &price->tiers[t], &r);
        }
        check_round_trip(price);
    }
    price_book_release(b);
    return 0;
}
