/* The price book: arithmetic against numbers of our own with as many digits as it takes (T79), malformed tables (T78), the table that is
 * built in. */
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "server/accounts/price_book.h"

#define HEAD "{\"format\":1,\"version\":\"test-1\",\"date\":\"2026-01-31\",\"sources\":[],\"models\":["
#define TAIL "]}"
#define PRICED(rows) HEAD "{\"provider\":\"p\",\"model\":\"m\",\"can\":[],\"prices\":[" rows "]}" TAIL

static bool long_form(void)
{
    const char *size = getenv("SPILLWAY_FAULT");
    return size && strcmp(size, "long") == 0;
}

/* --- random numbers: splitmix64 --- */
static uint64_t random_state = 1;
static uint64_t random_next(void)
{
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static int64_t random_below(int64_t n)
{
    return (int64_t)(random_next() % (uint64_t)n);
}

/* Of every order of magnitude: a random number of bits, at most max. */
static int64_t random_size(int64_t max)
{
    int shift = 1 + (int)random_below(63);
    return (int64_t)(random_next() >> shift) % (max + 1);
}

/* --- the oracle: natural numbers as decimal digits, the school's way, in nines --- */
enum { LIMBS = 8, LIMB = 1000000000 };
struct big {
    uint32_t d[LIMBS]; /* the lowest nine digits first */
};

static struct big big_of(int64_t n)
{
    struct big b = {0};
    for (int i = 0; n; i++, n /= LIMB) b.d[i] = (uint32_t)(n % LIMB);
    return b;
}

static void big_add(struct big *a, const struct big *b)
{
    uint64_t carry = 0;
    for (int i = 0; i < LIMBS; i++, carry /= LIMB) {
        carry += (uint64_t)a->d[i] + b->d[i];
        a->d[i] = (uint32_t)(carry % LIMB);
    }
    assert_int_equal(carry, 0);
}

static struct big big_times(const struct big *a, const struct big *b)
{
    struct big out = {0};
    for (int i = 0; i < LIMBS; i++) {
        uint64_t carry = 0;
        for (int j = 0; a->d[i] && i + j < LIMBS; j++, carry /= LIMB) {
            carry += out.d[i + j] + (uint64_t)a->d[i] * b->d[j];
            out.d[i + j] = (uint32_t)(carry % LIMB);
        }
        assert_int_equal(carry, 0);
    }
    return out;
}

/* The of-th part, rounded half up; -1: past int64. */
static int64_t big_part(struct big a, int64_t of)
{
    struct big half = big_of(of / 2);
    big_add(&a, &half);
    uint64_t rest = 0, out = 0;
    for (int i = LIMBS - 1; i >= 0; i--) {
        rest = rest * LIMB + a.d[i];
        uint64_t digit = rest / (uint64_t)of;
        rest %= (uint64_t)of;
        if (out > (INT64_MAX - digit) / LIMB) return -1;
        out = out * LIMB + digit;
    }
    return (int64_t)out;
}

static const struct price_tier *oracle_tier(const struct price *p, enum price_service service, int64_t input)
{
    const struct price_tier *found = NULL;
    for (uint32_t i = 0; i < p->n_tiers; i++) {
        const struct price_tier *t = &p->tiers[i];
        if (t->service == service && t->context_from <= input && (!found || t->context_from > found->context_from)) found = t;
    }
    return found;
}

/* What price_cost must say, with a mark-up in hundredths of a percent; -1: past int64. Nothing that is counted may lack a price. */
static int64_t oracle_marked(const struct price *p, const struct usage *u, enum price_service service, int64_t markup)
{
    int64_t input = 0;
    for (int m = 0; m < USAGE_OUT_TEXT; m++) input += u->count[m];
    const struct price_tier *t = oracle_tier(p, service, input);
    struct big sum = {0};
    for (int m = 0; m < USAGE_METERS; m++) {
        if (!u->count[m]) continue;
        struct big count = big_of(u->count[m]), nano = big_of(t->rate[m].nano), million = big_of(1000000 / t->rate[m].units);
        struct big part = big_times(&count, &nano);
        part = big_times(&part, &million);
        big_add(&sum, &part);
    }
    struct big factor = big_of(10000 + markup);
    return big_part(big_times(&sum, &factor), 10000000000);
}

static int64_t oracle_cost(const struct price *p, const struct usage *u, enum price_service service)
{
    return oracle_marked(p, u, service, 0);
}

/* --- books --- */
static struct price_book *book_of(const char *text)
{
    struct price_book *b;
    struct err e;
    if (price_book_read(&b, text, strlen(text), "t.json", &e)) fail_msg("%s", e.msg);
    return b;
}

static int64_t cost_of(const struct price *p, const struct usage *u, enum price_service service)
{
    struct err e;
    int64_t nusd = -1;
    if (price_cost(p, u, service, &nusd, &e)) fail_msg("%s", e.msg);
    return nusd;
}

static struct usage used(int64_t in, int64_t out)
{
    struct usage u = {0};
    usage_set(&u, USAGE_IN_UNCACHED, in);
    usage_set(&u, USAGE_OUT_TEXT, out);
    return u;
}

static struct price_rate random_rate(bool search)
{
    static const int32_t units[] = {1, 1000, 1000000};
    int32_t n = units[random_below(3)];
    return (struct price_rate){.nano = 1 + random_size((search ? 10000000000 : 10000000) * n - 1), .units = n};
}

/* Any price that a table can hold, every meter priced. */
static struct price random_price(struct price_tier tiers[12])
{
    struct price p = {.provider = "p", .model = "m", .region = "", .version = "v", .tiers = tiers};
    for (int s = 0; s < PRICE_SERVICES; s++) {
        if (s && random_below(2)) continue;
        int64_t from = 0;
        for (int n = 1 + (int)random_below(2); n > 0; n--) {
            struct price_tier *t = &tiers[p.n_tiers++];
            *t = (struct price_tier){.service = s, .context_from = from};
            for (int m = 0; m < USAGE_METERS; m++) t->rate[m] = random_rate(m == USAGE_SEARCHES);
            from += 1 + random_size(400000);
        }
    }
    return p;
}

static struct usage random_usage(int64_t max)
{
    struct usage u = {0};
    for (int m = 0; m < USAGE_METERS; m++)
        if (random_below(3)) usage_set(&u, m, random_size(max));
    if (!u.present) usage_set(&u, USAGE_OUT_TEXT, 0);
    return u;
}

static void test_t79_cost_is_what_the_oracle_says(void **state)
{
    (void)state;
    long n = long_form() ? 100000000 : 100000, past = 0, halves = 0;
    struct price_tier tiers[12];
    struct price p = random_price(tiers);
    for (long i = 0; i < n; i++) {
        if (i % 16 == 0) p = random_price(tiers);
        enum price_service service = tiers[random_below(p.n_tiers)].service;
        struct usage u = random_usage(i % 4 ? 2000000 : INT64_MAX / 16);
        int64_t want = oracle_cost(&p, &u, service), nusd = -7;
        struct err e;
        int rc = price_cost(&p, &u, service, &nusd, &e);
        if (want < 0 ? rc != -ERR_LIMIT || nusd != -7 : rc || nusd != want)
            fail_msg("case %ld: %" PRId64 " and not %" PRId64 " (rc %d)", i, nusd, want, rc);
        past += want < 0;
        halves += want > 0;
    }
    assert_true(past > n / 100 && halves > n / 2); /* both were seen */
    print_message("%ld costs, %ld of them past int64\n", n, past);
}

static void test_t79_a_mark_up_is_within_the_one_rounding(void **state)
{
    (void)state;
    long n = long_form() ? 1000000 : 50000, past = 0;
    struct price_tier tiers[12];
    struct price p = random_price(tiers);
    for (long i = 0; i < n; i++) {
        if (i % 16 == 0) p = random_price(tiers);
        struct usage u = random_usage(i % 4 ? 2000000 : INT64_MAX / 16);
        int64_t markup = i % 3 ? random_below(PRICE_MAX_MARKUP + 1) : random_below(100), nusd = -7;
        int64_t want = oracle_marked(&p, &u, PRICE_STANDARD, markup);
        struct err e;
        int rc = price_cost_marked(&p, &u, PRICE_STANDARD, markup, &nusd, &e);
        if (want < 0 ? rc != -ERR_LIMIT || nusd != -7 : rc || nusd != want)
            fail_msg("case %ld: %" PRId64 " and not %" PRId64 " (rc %d)", i, nusd, want, rc);
        past += want < 0;
    }
    assert_true(past > n / 100 && past < n / 2);
}

/* A part is one meter alone, priced in the tier of the whole: each is rounded once, so n parts lie within n / 2 of the whole. */
static void test_t79_parts_sum_to_the_whole(void **state)
{
    (void)state;
    long n = long_form() ? 1000000 : 100000;
    struct price_tier tiers[12];
    struct price p = random_price(tiers);
    for (long i = 0; i < n; i++) {
        if (i % 16 == 0) p = random_price(tiers);
        bool whole_nano = i % 2;
        struct price_tier one = tiers[0];
        for (int m = 0; whole_nano && m < USAGE_METERS; m++) one.rate[m].units = 1, one.rate[m].nano %= 10000000;
        struct price flat = p;
        flat.tiers = &one;
        flat.n_tiers = 1;
        struct usage u = random_usage(2000000);
        int64_t whole = cost_of(&flat, &u, PRICE_STANDARD), sum = 0, parts = 0;
        for (int m = 0; m < USAGE_METERS; m++) {
            if (!usage_has(&u, m)) continue;
            struct usage part = {0};
            usage_set(&part, m, u.count[m]);
            sum += cost_of(&flat, &part, PRICE_STANDARD);
            parts++;
        }
        int64_t off = sum > whole ? sum - whole : whole - sum;
        if (whole_nano ? off : 2 * off > parts) fail_msg("case %ld: parts %" PRId64 ", whole %" PRId64, i, sum, whole);
    }
}

static void test_t79_a_line_is_rounded_once_half_up(void **state)
{
    (void)state;
    /* 0.5 nano a token in and 0.25 out: the halves of two meters make one whole. */
    struct price_book *b = book_of(PRICED("{\"in_uncached\":[500,1000],\"out_text\":[250000,1000000]}"));
    const struct price *p = price_find(b, "p", "m", NULL);
    static const struct {
        int64_t in, out, nusd;
    } rows[] = {{0, 0, 0}, {0, 1, 0}, {1, 0, 1}, {0, 2, 1}, {1, 1, 1}, {1, 2, 1}, {2, 1, 1}, {2, 2, 2}, {3, 0, 2}, {999, 999, 749}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct usage u = used(rows[i].in, rows[i].out);
        assert_int_equal(cost_of(p, &u, PRICE_STANDARD), rows[i].nusd);
    }
    price_book_release(b);
}

/* The worked example of docs/prices.md. */
static void test_the_worked_example_of_the_page(void **state)
{
    (void)state;
    struct price_book *b = book_of(
        PRICED("{\"in_uncached\":[2500,1],\"in_cache_read\":[250,1],\"out_text\":[15000,1],\"searches\":[10000000,1]},"
               "{\"from\":272001,\"in_uncached\":[5000,1],\"in_cache_read\":[500,1],\"out_text\":[22500,1]},"
               "{\"tier\":\"flex\",\"in_uncached\":[1250,1],\"in_cache_read\":[125,1],\"out_text\":[7500,1]}"));
    const struct price *p = price_find(b, "p", "m", NULL);
    struct usage u = used(1200, 350);
    usage_set(&u, USAGE_IN_CACHE_READ, 4096);
    usage_set(&u, USAGE_OUT_REASONING, 640);
    usage_set(&u, USAGE_SEARCHES, 2);
    assert_int_equal(cost_of(p, &u, PRICE_STANDARD), 38874000);
    assert_int_equal(cost_of(p, &u, PRICE_FLEX), 29437000);
    usage_set(&u, USAGE_IN_CACHE_READ, 270800); /* 272,000 tokens are the first tier's yet */
    assert_int_equal(cost_of(p, &u, PRICE_STANDARD), 1200 * 2500 + 270800 * 250 + 990 * 15000 + 20000000);
    usage_set(&u, USAGE_IN_CACHE_READ, 270801);
    assert_int_equal(cost_of(p, &u, PRICE_STANDARD), 1200 * 5000 + 270801 * 500 + 990 * 22500 + 20000000);
    price_book_release(b);
}

static void test_what_has_no_price_is_an_error_and_never_0(void **state)
{
    (void)state;
    struct price_book *b = book_of(PRICED("{\"in_uncached\":[100,1],\"out_text\":[200,1]}"));
    const struct price *p = price_find(b, "p", "m", NULL);
    static const enum usage_meter unknown[] = {USAGE_IN_AUDIO, USAGE_IN_IMAGE, USAGE_OUT_AUDIO, USAGE_SEARCHES};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        struct err e;
        int64_t nusd = 77;
        struct usage u = used(1, 1);
        usage_set(&u, unknown[i], 0); /* none of it were used */
        assert_int_equal(cost_of(p, &u, PRICE_STANDARD), 300);
        usage_set(&u, unknown[i], 1);
        assert_int_equal(price_cost(p, &u, PRICE_STANDARD, &nusd, &e), -ERR_UNSUPPORTED);
        assert_non_null(strstr(e.msg, usage_meter_name(unknown[i])));
        struct price_ask ask = {.input_tokens = 1, .output_tokens = 1, .searches = 1, .services = ~0u};
        ask.meters = USAGE_BIT(USAGE_IN_UNCACHED) | USAGE_BIT(USAGE_OUT_TEXT) | USAGE_BIT(USAGE_SEARCHES) | USAGE_BIT(unknown[i]);
        assert_int_equal(price_bound(p, &ask, &nusd, &e), -ERR_UNSUPPORTED);
        assert_int_equal(nusd, 77);
    }
    price_book_release(b);
}

static void test_usage_that_is_none_or_wrong_is_refused(void **state)
{
    (void)state;
    struct price_book *b = book_of(PRICED("{\"in_uncached\":[100,1],\"out_text\":[200,1]}"));
    const struct price *p = price_find(b, "p", "m", NULL);
    struct err e;
    int64_t nusd = 77;
    struct usage none = {.count = {5, 5}}, negative = used(5, -1), services = used(1, 1), wide = used(INT64_MAX, 0);
    assert_int_equal(price_cost(p, &none, PRICE_STANDARD, &nusd, &e), -ERR_INPUT);
    assert_int_equal(price_cost(p, &negative, PRICE_STANDARD, &nusd, &e), -ERR_INPUT);
    assert_int_equal(price_cost(p, &services, PRICE_PRIORITY, &nusd, &e), -ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "priority"));
    usage_set(&wide, USAGE_IN_CACHE_READ, 1);
    assert_int_equal(price_cost(p, &wide, PRICE_STANDARD, &nusd, &e), -ERR_LIMIT);
    assert_int_equal(nusd, 77);
    usage_set(&negative, USAGE_OUT_TEXT, 0);
    negative.present &= ~USAGE_BIT(USAGE_OUT_TEXT); /* an absent count is not looked at */
    negative.count[USAGE_OUT_TEXT] = -9;
    assert_int_equal(cost_of(p, &negative, PRICE_STANDARD), 500);
    price_book_release(b);
}

/* 2^62 times 2^62 for a millionth is 0 in 128 bits. No table can say such a price; a struct can. */
static void test_t79_products_never_wrap(void **state)
{
    (void)state;
    struct price_tier tier = {.rate = {[USAGE_IN_UNCACHED] = {INT64_C(1) << 62, 1}, [USAGE_OUT_TEXT] = {1, 1}}};
    struct price p = {.provider = "p", .model = "m", .region = "", .n_tiers = 1, .tiers = &tier};
    struct usage u = used(INT64_C(1) << 62, 0);
    struct price_ask ask = {.input_tokens = INT64_C(1) << 62, .meters = USAGE_BIT(USAGE_IN_UNCACHED), .services = 1};
    int64_t nusd = 77;
    assert_int_equal(price_cost(&p, &u, PRICE_STANDARD, &nusd, NULL), -ERR_LIMIT);
    assert_int_equal(price_bound(&p, &ask, &nusd, NULL), -ERR_LIMIT);
    assert_int_equal(nusd, 77);
}

/* What stays out of a tier costs what its parent costs there. */
static void test_fallbacks_are_those_of_the_page(void **state)
{
    (void)state;
    struct price_book *b = book_of(HEAD
                                   "{\"provider\":\"p\",\"model\":\"m\",\"can\":[\"audio\",\"image\"],\"prices\":["
                                   "{\"in_uncached\":[100,1],\"out_text\":[700,1],\"searches\":[9000,1],\"in_cache_write_5m\":[125,1]},"
                                   "{\"tier\":\"priority\",\"in_uncached\":[200,1],\"out_text\":[1400,1]}]}" TAIL);
    const struct price *p = price_find(b, "p", "m", "");
    static const int64_t want[2][USAGE_METERS] = {{100, 100, 125, 125, 100, 100, 700, 700, 0, 9000},
                                                  {200, 200, 200, 200, 200, 200, 1400, 1400, 0, 9000}};
    assert_int_equal(p->n_tiers, 2);
    for (int t = 0; t < 2; t++)
        for (int m = 0; m < USAGE_METERS; m++) {
            assert_int_equal(p->tiers[t].rate[m].nano, want[t][m]);
            assert_int_equal(p->tiers[t].rate[m].units, m == USAGE_OUT_AUDIO ? 0 : 1);
        }
    price_book_release(b);
}

/* --- holds --- */
static void test_t79_no_usage_costs_more_than_its_bound(void **state)
{
    (void)state;
    long n = long_form() ? 1000000 : 100000, tight = 0;
    struct price_tier tiers[12];
    struct price p = random_price(tiers);
    for (long i = 0; i < n; i++) {
        if (i % 16 == 0) p = random_price(tiers);
        struct usage u = random_usage(400000);
        struct price_ask ask = {.input_tokens = usage_sum(&u, USAGE_IN),
                                .output_tokens = usage_sum(&u, USAGE_OUT),
                                .searches = usage_sum(&u, USAGE_BIT(USAGE_SEARCHES)),
                                .meters = u.present | USAGE_BIT(USAGE_IN_UNCACHED)};
        enum price_service service = tiers[random_below(p.n_tiers)].service;
        ask.services = PRICE_SERVICE_BIT(service) | (uint32_t)random_below(1 << PRICE_SERVICES);
        ask.meters |= (uint32_t)random_below(USAGE_ALL + 1);
        if (random_below(2)) ask.input_tokens += random_below(100000);
        struct err e;
        int64_t bound, cost = cost_of(&p, &u, service);
        if (price_bound(&p, &ask, &bound, &e)) fail_msg("%s", e.msg);
        if (cost > bound) fail_msg("case %ld: cost %" PRId64 ", bound %" PRId64, i, cost, bound);
        tight += cost == bound;
    }
    assert_true(tight > 0);
}

static void test_a_bound_takes_the_dearest_that_applies(void **state)
{
    (void)state;
    struct price_book *b =
        book_of(PRICED("{\"in_uncached\":[100,1],\"in_cache_read\":[10,1],\"in_cache_write_5m\":[125,1],\"in_cache_write_1h\":[200,1],"
                       "\"out_text\":[500,1],\"out_reasoning\":[600,1]},"
                       "{\"from\":1001,\"in_uncached\":[300,1],\"out_text\":[500,1]},"
                       "{\"tier\":\"flex\",\"in_uncached\":[50,1],\"out_text\":[250,1]}"));
    const struct price *p = price_find(b, "p", "m", NULL);
    enum { TEXT = USAGE_BIT(USAGE_IN_UNCACHED) | USAGE_BIT(USAGE_OUT_TEXT) };
    static const struct {
        int64_t in, out;
        uint32_t meters, services;
        int64_t nusd;
    } rows[] = {
        {1000, 10, TEXT, 1, 105000},
        {1000, 10, TEXT | USAGE_BIT(USAGE_IN_CACHE_READ), 1, 105000},
        {1000, 10, TEXT | USAGE_BIT(USAGE_IN_CACHE_WRITE), 1, 130000},
        {1000, 10, TEXT | USAGE_BIT(USAGE_IN_CACHE_LONG), 1, 205000},
        {1000, 10, TEXT | USAGE_BIT(USAGE_OUT_REASONING), 1, 106000},
        {1001, 10, TEXT, 1, 305300}, /* the longer context's */
        {1000, 10, TEXT, PRICE_SERVICE_BIT(PRICE_FLEX), 52500},
        {1000, 10, TEXT, ~0u, 105000},
        {0, 0, 0, 1, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct price_ask ask = {
            .input_tokens = rows[i].in, .output_tokens = rows[i].out, .meters = rows[i].meters, .services = rows[i].services};
        struct err e;
        int64_t nusd;
        if (price_bound(p, &ask, &nusd, &e)) fail_msg("%s", e.msg);
        assert_int_equal(nusd, rows[i].nusd);
    }
    struct price_ask ask = {.input_tokens = 1, .meters = TEXT, .services = PRICE_SERVICE_BIT(PRICE_BATCH)};
    int64_t nusd;
    assert_int_equal(price_bound(p, &ask, &nusd, NULL), -ERR_UNSUPPORTED);
    ask = (struct price_ask){.input_tokens = INT64_MAX, .meters = TEXT, .services = 1};
    assert_int_equal(price_bound(p, &ask, &nusd, NULL), -ERR_LIMIT);
    price_book_release(b);
}

/* --- malformed tables --- */
#define RATE(r) PRICED("{\"in_uncached\":" r ",\"out_text\":[1,1]}")
#define MODEL(members) HEAD "{" members "}" TAIL
#define ROWS "\"prices\":[{\"in_uncached\":[1,1],\"out_text\":[1,1]}]"

static const struct {
    const char *text, *says; /* a part of the message */
} malformed[] = {
    {"", "t.json"},
    {"null", "must be an object"},
    {"[]", "must be an object, not a list"},
    {"{}", "format: must be a whole number, not nothing"},
    {"{\"format\":2}", "format: must be from 1 to 1"},
    {"{\"format\":1,\"prices\":1}", "prices: there is no such field"},
    {"{\"format\":1,\"version\":\"\",\"date\":\"2026-01-31\",\"sources\":[],\"models\":[]}", "version: must have 1 to"},
    {"{\"format\":1,\"version\":\"a\\nb\",\"date\":\"2026-01-31\",\"sources\":[],\"models\":[]}", "version: has a control character"},
    {"{\"format\":1,\"version\":\"1\",\"date\":\"31.1.2026\",\"sources\":[],\"models\":[]}", "date: must be YYYY-MM-DD"},
    {"{\"format\":1,\"version\":\"1\",\"date\":\"2026-01-31\",\"models\":[]}", "sources: must be a list"},
    {HEAD TAIL, "models: must be 1 to"},
    {HEAD "7" TAIL, "models[0]: must be an object, not a number"},
    {RATE("null"), "models[0] (p m): prices[0].in_uncached: must be [nano-dollars, units], not null"},
    {RATE("5"), "prices[0].in_uncached: must be [nano-dollars, units], not a number"},
    {RATE("0"), "prices[0].in_uncached: must be"},
    {RATE("[]"), "prices[0].in_uncached: must be"},
    {RATE("[1]"), "prices[0].in_uncached: must be"},
    {RATE("[1,1,1]"), "prices[0].in_uncached: must be"},
    {RATE("[0,1]"), "prices[0].in_uncached[0]: must be from 1 to 10000000, not 0"},
    {RATE("[-0,1]"), "prices[0].in_uncached[0]: must be from 1"},
    {RATE("[-1,1]"), "prices[0].in_uncached[0]: must be from 1 to 10000000, not -1"},
    {RATE("[10000001,1]"), "prices[0].in_uncached[0]: must be from 1 to 10000000, not 10000001"},
    {RATE("[10000000001,1000]"), "prices[0].in_uncached[0]: must be from 1 to 10000000000"},
    {RATE("[1e19,1]"), "prices[0].in_uncached[0]: must be a whole number, not a fraction"},
    {RATE("[10000000000000000000,1]"), "t.json"},
    {RATE("[NaN,1]"), "t.json"},
    {RATE("[Infinity,1]"), "t.json"},
    {RATE("[0.5,1]"), "prices[0].in_uncached[0]: must be a whole number, not a fraction"},
    {RATE("[\"1\",1]"), "prices[0].in_uncached[0]: must be a whole number, not text"},
    {RATE("[true,1]"), "prices[0].in_uncached[0]: must be a whole number, not true"},
    {RATE("[1,0]"), "prices[0].in_uncached[1]: must be from 1"},
    {RATE("[1,10]"), "prices[0].in_uncached[1]: must be 1, 1000 or 1000000, not 10"},
    {RATE("[1,-1]"), "prices[0].in_uncached[1]: must be from 1"},
    {RATE("[1,\"1\"]"), "prices[0].in_uncached[1]: must be a whole number"},
    {PRICED("{\"in_uncached\":[1,1],\"out_text\":[1,1],\"searches\":[10000000001,1]}"),
     "prices[0].searches[0]: must be from 1 to 10000000000"},
    {PRICED(""), "prices: must have 1 to 64 tiers, not 0"},
    {PRICED("7"), "prices[0]: must be an object"},
    {PRICED("{\"in_uncached\":[1,1]}"), "prices[0].out_text: is missing"},
    {PRICED("{\"out_text\":[1,1]}"), "prices[0].in_uncached: is missing"},
    {PRICED("{\"in_uncached\":[1,1],\"in_uncached\":[2,1],\"out_text\":[1,1]}"), "t.json"},
    {PRICED("{\"in_uncached\":[1,1],\"out_text\":[1,1],\"in_cached\":[1,1]}"), "prices[0].in_cached: there is no such field"},
    {PRICED("{\"tier\":\"slow\",\"in_uncached\":[1,1],\"out_text\":[1,1]}"), "prices[0].tier: is no tier of service"},
    {PRICED("{\"tier\":\"flex\",\"in_uncached\":[1,1],\"out_text\":[1,1]}"), "prices: has no standard tier"},
    {PRICED("{\"from\":9,\"in_uncached\":[1,1],\"out_text\":[1,1]}"), "prices: the standard tier has no prices from 0 tokens on"},
    {PRICED("{\"from\":0,\"in_uncached\":[1,1],\"out_text\":[1,1]}"), "prices[0].from: must be from 1"},
    {PRICED("{\"from\":\"9\",\"in_uncached\":[1,1],\"out_text\":[1,1]}"), "prices[0].from: must be a whole number"},
    {PRICED("{\"in_uncached\":[1,1],\"out_text\":[1,1]},{\"in_uncached\":[1,1],\"out_text\":[1,1]}"),
     "prices: the standard tier from 0 tokens on is there twice"},
    {MODEL("\"model\":\"m\",\"can\":[]," ROWS), "models[0]: provider: must be text, not nothing"},
    {MODEL("\"provider\":\"p\",\"can\":[]," ROWS), "models[0]: model: must be text, not nothing"},
    {MODEL("\"provider\":\"p\",\"model\":\"m\\u0000\",\"can\":[]," ROWS), "models[0]: model: has a control character"},
    {MODEL("\"provider\":\"p\",\"model\":\"m\"," ROWS), "models[0] (p m): can: must be a list, not nothing"},
    {MODEL("\"provider\":\"p\",\"model\":\"m\",\"can\":[]"), "models[0] (p m): prices: must be a list, not nothing"},
    {MODEL("\"provider\":\"p\",\"model\":\"m\",\"can\":[\"fly\"]," ROWS), "can[0]: is nothing that a model can do"},
    {MODEL("\"provider\":\"p\",\"model\":\"m\",\"can\":[\"tools\",\"tools\"]," ROWS), "can[1]: tools is there twice"},
    {MODEL("\"provider\":\"p\",\"model\":\"m\",\"can\":[\"free\"]," ROWS), "prices[0].in_uncached[0]: must be from 0 to 0, not 1"},
    {MODEL("\"provider\":\"p\",\"model\":\"m\",\"can\":[],\"context\":-1," ROWS), "context: must be from 1"},
    {MODEL("\"provider\":\"p\",\"model\":\"m\",\"can\":[],\"max_output\":1.5," ROWS), "max_output: must be a whole number"},
    {MODEL("\"provider\":\"p\",\"model\":\"m\",\"can\":[],\"region\":\"\"," ROWS), "region: must have 1 to 32 bytes, not 0"},
    {MODEL("\"provider\":\"p\",\"model\":\"m\",\"can\":[],\"note\":1," ROWS), "note: there is no such field"},
    {HEAD "{\"provider\":\"p\",\"model\":\"m\",\"can\":[]," ROWS "},{\"provider\":\"p\",\"model\":\"m\",\"can\":[]," ROWS "}" TAIL,
     "p m: is there twice"},
};

static void test_t78_malformed_tables_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        struct price_book *b = (struct price_book *)&b;
        struct err e = {0};
        int rc = price_book_read(&b, malformed[i].text, strlen(malformed[i].text), "t.json", &e);
        if (rc != -ERR_INPUT || b) fail_msg("row %zu: rc %d: %s", i, rc, malformed[i].text);
        if (strncmp(e.msg, "t.json", 6) || !strstr(e.msg, malformed[i].says)) fail_msg("row %zu says: %s", i, e.msg);
    }
}

static const char sound[] = HEAD
    "{\"provider\":\"groq\",\"model\":\"a/b\",\"region\":\"eu\",\"context\":8192,\"max_output\":4096,"
    "\"can\":[\"tools\",\"image\"],\"prices\":["
    "{\"in_uncached\":[75,1000],\"in_cache_read\":[1,1],\"out_text\":[300000,1000000],\"searches\":[10000000,1]},"
    "{\"tier\":\"flex\",\"in_uncached\":[30,1000],\"out_text\":[150,1000]},"
    "{\"from\":200001,\"in_uncached\":[150,1000],\"out_text\":[900,1000]}]}" TAIL;

static void test_t78_a_table_that_is_cut_anywhere_is_refused(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof sound - 1; n++) {
        char *text = malloc(n + 1); /* of exactly its size, for the sanitizers */
        struct price_book *b;
        struct err e = {0};
        memcpy(text, sound, n);
        assert_int_equal(price_book_read(&b, text, n, "t.json", &e), -ERR_INPUT);
        assert_true(!b && e.msg[0]);
        free(text);
    }
    price_book_release(book_of(sound));
}

/* One price is replaced by what is none, or the table is cut or damaged, 1e5 times: whatever is read then has no price of 0, and what is
 * refused leaves the book that there was. */
static void test_t78_a_bad_table_never_makes_a_price_of_0(void **state)
{
    (void)state;
    static const char *const bad[] = {"0", "-1", "null", "1e19", "10000000000000000000", "NaN", "\"75\"",
                                      "[75,1000]", "0.075", "", "9223372036854775808", "{}"};
    struct price_book *kept = book_of(sound);
    const struct price *p = price_find(kept, "groq", "a/b", "eu");
    struct usage u = used(1000, 1000);
    long refused = 0, read = 0;
    for (long i = 0; i < 100000; i++) {
        char text[sizeof sound + 32];
        size_t n = sizeof sound - 1, at = (size_t)random_below((int64_t)n);
        memcpy(text, sound, n);
        if (i % 2) {
            const char *word = bad[random_below(sizeof bad / sizeof *bad)], *digit = strpbrk(sound + at, "0123456789");
            if (!digit) continue;
            size_t from = (size_t)(digit - sound), gone = strspn(digit, "0123456789"), more = strlen(word);
            memcpy(text + from, word, more);
            memcpy(text + from + more, sound + from + gone, n - from - gone);
            n = n - gone + more;
        } else if (i % 4) {
            n = at;
        } else {
            text[at] = (char)random_next();
        }
        struct price_book *b;
        struct err e = {0};
        if (price_book_read(&b, text, n, "t.json", &e)) {
            assert_true(!b && strlen(e.msg) > 8);
            refused++;
        } else {
            for (size_t k = 0; k < b->n_prices; k++)
                for (uint32_t t = 0; t < b->prices[k].n_tiers; t++)
                    for (int m = 0; m < USAGE_METERS; m++) {
                        struct price_rate r = b->prices[k].tiers[t].rate[m];
                        assert_true(r.units ? r.nano > 0 : r.nano == 0);
                    }
            read++;
        }
        assert_int_equal(cost_of(p, &u, PRICE_STANDARD), 375);
        price_book_release(b);
    }
    assert_true(refused > 50000 && read > 100); /* some changes leave a table whole */
    price_book_release(kept);
}

/* --- versions --- */
static struct {
    pthread_mutex_t lock;
    struct price_book *now;
    atomic_bool over;
} shop = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *change_prices(void *arg)
{
    (void)arg;
    for (int i = 1; !atomic_load(&shop.over); i++) {
        char text[512];
        snprintf(text, sizeof text, PRICED("{\"in_uncached\":[%d,1],\"out_text\":[%d,1]}"), 1 + i % 1000, 1 + i % 1000);
        struct price_book *next = book_of(text);
        pthread_mutex_lock(&shop.lock);
        struct price_book *old = shop.now;
        shop.now = next;
        pthread_mutex_unlock(&shop.lock);
        price_book_release(old);
    }
    return NULL;
}

/* Prices change all the time; what was reserved by one version is settled by it. */
static void test_t78_a_price_stays_while_it_is_held(void **state)
{
    (void)state;
    pthread_t thread;
    struct usage u = used(7, 11);
    int64_t changes = 0, last = 0;
    shop.now = book_of(PRICED("{\"in_uncached\":[1,1],\"out_text\":[1,1]}"));
    assert_int_equal(pthread_create(&thread, NULL, change_prices, NULL), 0);
    while (changes < 1000) {
        pthread_mutex_lock(&shop.lock);
        struct price_book *mine = price_book_hold(shop.now);
        pthread_mutex_unlock(&shop.lock);
        const struct price *p = price_find(mine, "p", "m", NULL);
        int64_t reserved = 18 * p->tiers[0].rate[USAGE_OUT_TEXT].nano;
        assert_int_equal(cost_of(p, &u, PRICE_STANDARD), reserved);
        assert_ptr_equal(p->version, mine->version);
        changes += reserved != last;
        last = reserved;
        price_book_release(mine);
    }
    atomic_store(&shop.over, true);
    pthread_join(thread, NULL);
    price_book_release(shop.now);
}

static void test_versions_tell_tables_apart(void **state)
{
    (void)state;
    struct price_book *a = book_of(RATE("[1,1]")), *b = book_of(RATE("[1,1]")), *c = book_of(RATE("[2,1]"));
    assert_string_equal(a->version, b->version);
    assert_string_not_equal(a->version, c->version);
    assert_int_equal(strncmp(a->version, "test-1~", 7), 0);
    assert_string_equal(a->date, "2026-01-31");
    price_book_release(a);
    price_book_release(b);
    price_book_release(c);
    price_book_release(NULL);
}

static void assert_same_price(const struct price *a, const struct price *b)
{
    assert_true(!strcmp(a->provider, b->provider) && !strcmp(a->model, b->model) && !strcmp(a->region, b->region));
    assert_string_equal(a->version, b->version);
    assert_true(a->context == b->context && a->max_output == b->max_output && a->can == b->can && a->n_tiers == b->n_tiers);
    for (uint32_t i = 0; i < a->n_tiers; i++) {
        assert_true(a->tiers[i].service == b->tiers[i].service && a->tiers[i].context_from == b->tiers[i].context_from);
        for (int m = 0; m < USAGE_METERS; m++)
            assert_true(a->tiers[i].rate[m].nano == b->tiers[i].rate[m].nano && a->tiers[i].rate[m].units == b->tiers[i].rate[m].units);
    }
}

/* I7: a stored price gives the same amounts as the table it came from. */
static void assert_stored_is_the_same(const struct price *p)
{
    struct price_book *again;
    struct err e;
    struct buf b;
    buf_init(&b, 1 << 16);
    assert_int_equal(price_write(&b, p), 0);
    if (price_book_read_stored(&again, b.data, b.len, p->version, &e)) fail_msg("%s: %s", e.msg, b.data);
    assert_same_price(p, &again->prices[0]);
    buf_free(&b);
    price_book_release(again);
}

static void test_i7_a_stored_price_is_read_back_the_same(void **state)
{
    (void)state;
    static const char odd[] = MODEL("\"provider\":\"p\\\"q\",\"model\":\"m\\\\\\u00e9/\\u20ac\",\"can\":[\"free\",\"audio\"],"
                                    "\"prices\":[{\"in_uncached\":[0,1],\"out_text\":[0,1]}]");
    struct price_book *a = book_of(sound), *b = book_of(odd);
    assert_stored_is_the_same(&a->prices[0]);
    assert_stored_is_the_same(&b->prices[0]);
    struct err e;
    struct price_book *none;
    assert_int_equal(price_book_read_stored(&none, sound, sizeof sound - 1, "v", &e), -ERR_INPUT); /* a table is no price */
    price_book_release(a);
    price_book_release(b);
}

/* --- finding --- */
static void test_find_by_provider_model_and_region(void **state)
{
    (void)state;
#define ONE(provider, model, region, nano) \
    "{\"provider\":\"" provider "\",\"model\":\"" model "\"" region ",\"can\":[],\"prices\":[" \
    "{\"in_uncached\":[" nano ",1],\"out_text\":[1,1]}]}"
#define EU ",\"region\":\"eu\""
    struct price_book *b = book_of(HEAD ONE("openai", "m", "", "1") "," ONE("azure", "m", "", "2") "," ONE("azure", "m", EU, "3") ","
                                   ONE("openai", "ft:m", "", "4") "," ONE("azure", "only-eu", EU, "5") TAIL);
    static const struct {
        const char *provider, *model, *region;
        int64_t nano; /* 0: there is none */
    } rows[] = {
        {"openai", "m", NULL, 1},          {"azure", "m", NULL, 2},           {"azure", "m", "", 2},
        {"azure", "m", "eu", 3},           {"azure", "m", "us", 2},           {"azure", "only-eu", "eu", 5},
        {"azure", "only-eu", "us", 0},     {"azure", "only-eu", NULL, 0},     {"openai", "M", NULL, 0},
        {"openai", "m ", NULL, 0},         {"openai", "", NULL, 0},           {"", "m", NULL, 0},
        {"openai", "ft:m:org::x", NULL, 4}, {"openai", "ft:m", NULL, 4},       {"openai", "ft:n:org::x", NULL, 0},
        {"azure", "ft:m:org::x", NULL, 0}, {"openai", "ft:", NULL, 0},        {"openai", "ft::", NULL, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct price *p = price_find(b, rows[i].provider, rows[i].model, rows[i].region);
        int64_t nano = p ? p->tiers[0].rate[USAGE_IN_UNCACHED].nano : 0;
        if (nano != rows[i].nano) fail_msg("row %zu: %" PRId64, i, nano);
    }
    char ft[600] = "ft:";
    memset(ft + 3, 'x', 500);
    strcpy(ft + 503, ":o");
    assert_null(price_find(b, "openai", ft, NULL));
    price_book_release(b);
}

/* --- the table that is built in --- */
static void test_the_built_in_table_loads(void **state)
{
    (void)state;
    struct price_book *b;
    struct err e;
    if (price_book_open(&b, SPILLWAY_PRICES, &e)) fail_msg("%s", e.msg);
    assert_true(b->n_prices > 1000);
    static const char *const providers[] = {"openai", "anthropic", "gemini",  "mistral", "groq",     "cerebras",
                                            "together", "fireworks", "bedrock", "azure",   "deepseek", "xai"};
    for (size_t k = 0; k < sizeof providers / sizeof *providers; k++) {
        size_t n = 0;
        for (size_t i = 0; i < b->n_prices; i++) n += strcmp(b->prices[i].provider, providers[k]) == 0;
        if (n < 3) fail_msg("%s has %zu models", providers[k], n);
    }
    struct usage u = used(1000, 500);
    for (size_t i = 0; i < b->n_prices; i++) {
        const struct price *p = &b->prices[i];
        assert_ptr_equal(price_find(b, p->provider, p->model, p->region), p);
        assert_false(p->can & PRICE_FREE); /* its source never says so */
        assert_true(cost_of(p, &u, PRICE_STANDARD) > 0);
        assert_stored_is_the_same(p);
    }
    /* A price that everyone can look up: 2.50 and 10 dollars for a million tokens. */
    const struct price *p = price_find(b, "openai", "gpt-4o-2024-08-06", NULL);
    assert_int_equal(cost_of(p, &u, PRICE_STANDARD), 7500000);
    price_book_release(b);
}

static int64_t for_a_million(struct price_rate r)
{
    return r.units ? r.nano * (1000000 / r.units) : 0;
}

/* A longer context never costs less, and no tier lacks a meter that the standard one has. */
static void test_the_built_in_table_is_no_cheaper_by_omission(void **state)
{
    (void)state;
    struct price_book *b;
    struct err e;
    if (price_book_open(&b, SPILLWAY_PRICES, &e)) fail_msg("%s", e.msg);
    for (size_t i = 0; i < b->n_prices; i++) {
        const struct price *p = &b->prices[i];
        for (uint32_t t = 0; t < p->n_tiers; t++) {
            const struct price_tier *tier = &p->tiers[t], *standard = oracle_tier(p, PRICE_STANDARD, tier->context_from);
            const struct price_tier *below = t && p->tiers[t - 1].service == tier->service ? &p->tiers[t - 1] : tier;
            for (int m = 0; m < USAGE_METERS; m++) {
                const char *name = usage_meter_name(m);
                if (standard->rate[m].units && !tier->rate[m].units) fail_msg("%s %s: tier %u lacks %s", p->provider, p->model, t, name);
                if (for_a_million(tier->rate[m]) < for_a_million(below->rate[m]))
                    fail_msg("%s %s: tier %u has a cheaper %s", p->provider, p->model, t, name);
            }
            /* Where the standard tier has prices of its own for longer contexts, so has every other. */
            assert_true(oracle_tier(p, tier->service, INT32_MAX)->context_from >= oracle_tier(p, PRICE_STANDARD, INT32_MAX)->context_from);
        }
    }
    price_book_release(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_t79_cost_is_what_the_oracle_says),
        cmocka_unit_test(test_t79_parts_sum_to_the_whole),
        cmocka_unit_test(test_t79_a_mark_up_is_within_the_one_rounding),
        cmocka_unit_test(test_t79_a_line_is_rounded_once_half_up),
        cmocka_unit_test(test_the_worked_example_of_the_page),
        cmocka_unit_test(test_what_has_no_price_is_an_error_and_never_0),
        cmocka_unit_test(test_usage_that_is_none_or_wrong_is_refused),
        cmocka_unit_test(test_t79_products_never_wrap),
        cmocka_unit_test(test_fallbacks_are_those_of_the_page),
        cmocka_unit_test(test_t79_no_usage_costs_more_than_its_bound),
        cmocka_unit_test(test_a_bound_takes_the_dearest_that_applies),
        cmocka_unit_test(test_t78_malformed_tables_are_refused),
        cmocka_unit_test(test_t78_a_table_that_is_cut_anywhere_is_refused),
        cmocka_unit_test(test_t78_a_bad_table_never_makes_a_price_of_0),
        cmocka_unit_test(test_t78_a_price_stays_while_it_is_held),
        cmocka_unit_test(test_versions_tell_tables_apart),
        cmocka_unit_test(test_i7_a_stored_price_is_read_back_the_same),
        cmocka_unit_test(test_find_by_provider_model_and_region),
        cmocka_unit_test(test_the_built_in_table_loads),
        cmocka_unit_test(test_the_built_in_table_is_no_cheaper_by_omission),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
