/* What operators set as prices, and what becomes of it: tariffs, mark-ups, what is free, break-even. On the store that SPILLWAY_STORE names; the
 * invariants after each test. */
#include "tests/accounts/store.h"

#include <time.h>

#include "server/accounts/break_even.h"
#include "server/accounts/price_table.h"
#include "server/accounts/tariff.h"

static const int64_t USD = 1000000000, DAY_MS = 86400000;

static struct db *db;
static struct ledger *l;
static int64_t key, demo, now_ms;

static int64_t clock_now(void *ctx)
{
    (void)ctx;
    return now_ms;
}

/* Noon of a day that is over. */
static int setup(void **state)
{
    (void)state;
    now_ms = ((int64_t)time(NULL) / 86400 - 10) * DAY_MS + DAY_MS / 2;
    store_new();
    OK(db_open(&db, store_where(), &store_e));
    OK(ledger_open(&l, db, &(struct ledger_options){.gateway = "test", .alone = true, .now_ms = clock_now}, &store_e));
    key = store_key(db, 2);
    demo = ledger_supplier(db, "local/demo", &store_e);
    OK(demo);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    store_check(db);
    ledger_close(l);
    db_close(db);
    store_remove();
    return 0;
}

static int64_t set_price(const char *text)
{
    return price_table_set(db, text, strlen(text), "test", &store_e);
}

/* One that demo has served. */
static void request_of(int64_t in, int64_t out)
{
    struct ledger_op op = {.type = LEDGER_RESERVE, .account = key, .model = "demo", .lasts_ms = 60000, .attempt = {.supplier = demo, .model = "demo"}};
    struct ledger_op *list = &op;
    OK(ledger_apply(l, &list, 1, &store_e));
    assert_int_equal(op.rc, 0);
    op = (struct ledger_op){.type = LEDGER_POST, .request = op.request, .served = 1, .n_used = 1, .used = {{.n = 1, .supplier = demo}}, .outcome = "whole"};
    usage_set(&op.used[0].usage, USAGE_IN_UNCACHED, in);
    usage_set(&op.used[0].usage, USAGE_OUT_TEXT, out);
    OK(ledger_apply(l, &list, 1, &store_e));
    assert_int_equal(op.rc, 0);
}

static struct tariff_table *read_tariffs(const struct tariff_table *former)
{
    struct tariff_table *t;
    OK(tariff_table_read(&t, db, former, &store_e));
    return t;
}

static struct tariff tariff_for(const struct tariff_table *t, const char *provider, const char *model, const char *name)
{
    const struct tariff_price own = {.price = &tariff_free, .text = "own"};
    struct tariff out;
    tariff_of(&out, t, provider, model, &own, name);
    return out;
}

#define FLAT(provider, model, nano) \
    "{\"provider\":\"" provider "\",\"model\":\"" model "\",\"can\":[],\"prices\":[{\"in_uncached\":[" nano ",1],\"out_text\":[" nano ",1]}]}"

/* The table of docs/prices.md: who is paid what, and by whom. */
static void test_a_tariff_has_the_price_of_the_source_the_name_and_the_mark_up(void **state)
{
    (void)state;
    OK(set_price(FLAT("local", "demo", "100")));
    OK(set_price(FLAT("groq", "m", "200")));
    OK(set_price(FLAT("sale", "chat", "900")));
    int64_t all = price_table_set_markup(db, "all", 1000, "test", &store_e), of_groq = price_table_set_markup(db, "groq", 725, "test", &store_e);
    OK(price_table_set_gpu_hour(db, "demo", USD, "test", &store_e));
    struct tariff_table *t = read_tariffs(NULL);
    assert_int_equal(tariff_table_size(t), 5); /* hours are no prices */
    static const struct {
        const char *provider, *model, *name;
        int64_t cost, sale; /* of 1,000 tokens */
    } rows[] = {{"local", "demo", "demo", 100000, 110000}, {"local", "demo", "chat", 100000, 900000}, {"groq", "m", "groq/m", 200000, 214500},
                {"groq", "m", "chat", 200000, 900000},     {"groq", "other", "x", 0, 0},              {"local", "other", "other", 0, 0}};
    struct usage u = {.source = USAGE_REPORTED};
    usage_set(&u, USAGE_IN_UNCACHED, 400);
    usage_set(&u, USAGE_OUT_TEXT, 600);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tariff x = tariff_for(t, rows[i].provider, rows[i].model, rows[i].name);
        const struct price_ask ask = {.input_tokens = 400, .output_tokens = 600, .meters = u.present, .services = PRICE_SERVICE_BIT(PRICE_STANDARD)};
        int64_t cost, sale, most_cost, most_sale, in, out;
        OK(tariff_cost(&x, &u, PRICE_STANDARD, &cost, &store_e));
        OK(tariff_sale(&x, &u, PRICE_STANDARD, &sale, &store_e));
        OK(tariff_bound(&x, &ask, &most_sale, &most_cost, &store_e));
        tariff_rates(&x, &in, &out);
        assert_int_equal(cost, rows[i].cost);
        assert_int_equal(sale, rows[i].sale);
        assert_int_equal(most_cost, cost);
        assert_int_equal(most_sale, sale);
        assert_int_equal(in, sale * 1000);
        assert_int_equal(out, sale * 1000);
    }
    struct ledger_op op = {.amount_nusd = 0};
    struct tariff x = tariff_for(t, "groq", "m", "groq/m");
    tariff_tell(&x, &op);
    assert_true(op.price == op.attempt.price && op.markup == of_groq && !op.price_of.rows);
    x = tariff_for(t, "groq", "other", "x");
    tariff_tell(&x, &op);
    assert_true(op.price == 0 && op.attempt.price == 0 && op.markup == of_groq && strcmp(op.price_of.rows, "own") == 0);
    x = tariff_for(t, "lab", "m", "chat");
    tariff_tell(&x, &op);
    assert_true(op.price > 0 && op.attempt.price == 0 && op.markup == 0 && strcmp(op.price_of.rows, "own") == 0);
    assert_true(all > 0);
    tariff_table_release(t);
}

/* B16: who holds a table has its prices, whatever is set meanwhile. */
static void test_b16_a_table_that_is_held_does_not_change(void **state)
{
    (void)state;
    OK(set_price(FLAT("local", "demo", "100")));
    struct tariff_table *was = read_tariffs(NULL);
    struct tariff old = tariff_for(was, "local", "demo", "demo");
    OK(set_price(FLAT("local", "demo", "300")));
    OK(set_price(FLAT("local", "tiny", "5")));
    struct tariff_table *is = read_tariffs(was);
    assert_true(tariff_table_version(is) > tariff_table_version(was));
    struct tariff new = tariff_for(is, "local", "demo", "demo");
    assert_int_equal(old.cost.price->tiers[0].rate[USAGE_OUT_TEXT].nano, 100);
    assert_int_equal(new.cost.price->tiers[0].rate[USAGE_OUT_TEXT].nano, 300);
    assert_true(old.cost.id != new.cost.id);
    tariff_table_release(was);
    struct tariff_table *again = read_tariffs(is); /* of the same rows: the same prices, held by both */
    tariff_table_release(is);
    struct tariff same = tariff_for(again, "local", "demo", "demo");
    assert_ptr_equal(same.cost.price, new.cost.price);
    assert_int_equal(same.cost.price->tiers[0].rate[USAGE_OUT_TEXT].nano, 300);
    tariff_table_release(again);
}

static void test_b17_a_table_is_read_whole_or_not_at_all(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"local", "{"},
        {"local", FLAT("local", "another", "1")},
        {"local", "{\"provider\":\"local\",\"model\":\"m\",\"can\":[],\"prices\":[{\"in_uncached\":[0,1],\"out_text\":[1,1]}]}"},
        {"local", "{\"provider\":\"local\",\"model\":\"m\",\"can\":[],\"prices\":[{\"in_uncached\":[10000000000000000000,1],\"out_text\":[1,1]}]}"},
        {"markup", "{\"provider\":\"markup\",\"model\":\"m\",\"percent\":[-1,100]}"},
        {"markup", "{\"provider\":\"markup\",\"model\":\"m\",\"percent\":[100001,100]}"},
        {"markup", "{\"provider\":\"markup\",\"model\":\"m\",\"percent\":[1,1000]}"},
        {"markup", "{\"provider\":\"markup\",\"model\":\"m\",\"percent\":[1.5,100]}"},
        {"markup", "{\"provider\":\"markup\",\"model\":\"m\"}"}};
    OK(set_price(FLAT("local", "demo", "100")));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct tariff_table *t = (void *)1;
        OK(db_run(db, "INSERT INTO prices (provider, model, rows, source, created_s) VALUES (?1, 'm', ?2, 'test', 1)", DB_ARGS(db_text(bad[i][0]), db_text(bad[i][1])),
                  NULL, &store_e));
        assert_int_equal(tariff_table_read(&t, db, NULL, &store_e), -ERR_INPUT);
        assert_null(t);
        assert_non_null(strstr(store_e.msg, bad[i][0]));
        OK(db_run(db, "DELETE FROM prices WHERE model = 'm'", DB_NO_ARGS, NULL, &store_e));
    }
    tariff_table_release(read_tariffs(NULL));
}

/* What a request that holds a table must find in it. */
struct holder {
    struct tariff_table *t;
    int64_t nano, id; /* of demo; nano 0: it is free */
};

static void check_holder(const struct holder *h)
{
    struct tariff x = tariff_for(h->t, "local", "demo", "demo");
    assert_int_equal(x.sale.price->tiers[0].rate[USAGE_OUT_TEXT].nano, h->nano);
    assert_int_equal(x.sale.id, h->id);
    assert_int_equal(x.cost.id, h->id);
}

/* The last table that could be read is in force. */
static void look(struct tariff_table **now, bool good)
{
    struct tariff_table *fresh;
    int rc = tariff_table_read(&fresh, db, *now, &store_e);
    assert_int_equal(rc, good ? 0 : -ERR_INPUT);
    if (rc) return;
    tariff_table_release(*now);
    *now = fresh;
}

/* T78: changes, ends and malformed rows at any instant of any request. */
static void test_t78_prices_change_at_any_instant(void **state)
{
    (void)state;
    enum { HOLDERS = 16 };
    const char *size = getenv("SPILLWAY_FAULT");
    const long steps = size && strcmp(size, "long") == 0 ? 100000 : 400;
    struct holder holders[HOLDERS] = {{NULL}}, now = {NULL};
    int64_t nano = 0, id = 0; /* that were set last */
    bool broken = false;
    unsigned seed = (unsigned)time(NULL);
    print_message("    seed %u\n", seed);
    look(&now.t, true);
    for (long i = 0; i < steps; i++) {
        char text[200];
        const int what = rand_r(&seed) % 10, which = rand_r(&seed) % HOLDERS;
        if (what == 0) {
            nano = 1 + rand_r(&seed) % 1000000;
            snprintf(text, sizeof text, FLAT("local", "demo", "%d"), (int)nano, (int)nano);
            id = set_price(text);
            OK(id);
            look(&now.t, !broken);
        } else if (what == 1 && id && !broken) {
            OK(price_table_end(db, "local", "demo", &store_e));
            look(&now.t, true);
            nano = id = 0;
        } else if (what == 2 && !broken) {
            OK(db_run(db, "INSERT INTO prices (provider, model, rows, source, created_s) VALUES ('groq', 'bad', '{\"provider\":\"groq\"', 'test', 1)", DB_NO_ARGS, NULL,
                      &store_e));
            broken = true;
            look(&now.t, false);
        } else if (what == 3 && broken) {
            OK(db_run(db, "DELETE FROM prices WHERE model = 'bad'", DB_NO_ARGS, NULL, &store_e));
            broken = false;
            look(&now.t, true);
        } else {
            tariff_table_release(holders[which].t);
            holders[which] = now;
            tariff_table_hold(now.t);
        }
        if (!broken) now.nano = nano, now.id = id;
        check_holder(&now);
        for (int k = 0; k < HOLDERS; k++)
            if (holders[k].t) check_holder(&holders[k]);
    }
    for (int k = 0; k < HOLDERS; k++) tariff_table_release(holders[k].t);
    tariff_table_release(now.t);
}

static void test_what_is_free_has_one_row_and_the_operators_goes_before_it(void **state)
{
    (void)state;
    int64_t id = price_table_free(db, "demo", &store_e);
    OK(id);
    assert_int_equal(price_table_free(db, "demo", &store_e), id);
    struct tariff_table *t = read_tariffs(NULL);
    assert_int_equal(tariff_table_size(t), 0);
    tariff_table_release(t);
    OK(set_price(FLAT("local", "demo", "100")));
    assert_int_equal(price_table_free(db, "demo", &store_e), id);
    assert_int_equal(store_number(db, "SELECT count(*) FROM prices WHERE ended_s IS NULL"), 1);
    OK(set_price(FLAT("local", "tiny", "100")));
    OK(price_table_free(db, "tiny", &store_e)); /* comes later: the operator's stays in force */
    assert_int_equal(store_number(db, "SELECT count(*) FROM prices WHERE ended_s IS NULL AND source = 'test'"), 2);
}

static void test_words_of_the_table_are_no_providers(void **state)
{
    (void)state;
    assert_int_equal(set_price(FLAT("markup", "m", "1")), -ERR_INPUT);
    assert_int_equal(set_price(FLAT("gpu-hour", "m", "1")), -ERR_INPUT);
    assert_int_equal(set_price(FLAT("all", "m", "1")), -ERR_INPUT);
    assert_true(price_table_reserves("sale") && !price_table_reserves("groq"));
}

/* --- break-even --- */

struct evens {
    int n;
    struct break_even last;
    struct break_even_use use;
};

static void take_even(void *ctx, const struct break_even *b)
{
    struct evens *x = ctx;
    x->n++;
    x->last = *b;
    x->use = *b->use;
}

/* An hour of 2.00 dollars; at 100 and 300 nano-dollars the mix of 3,000 in and 1,000 out is 600,000: 4,000 tokens for 0.0006 dollars, so
 * 2.00 dollars are 13,333,334 tokens. */
static void test_break_even_is_by_the_measured_mix(void **state)
{
    (void)state;
    struct evens x = {0};
    OK(price_table_set_gpu_hour(db, "demo", 2 * USD, "test", &store_e));
    OK(set_price("{\"provider\":\"groq\",\"model\":\"m\",\"can\":[],\"prices\":[{\"in_uncached\":[100,1],\"out_text\":[300,1]},"
                 "{\"from\":3000,\"in_uncached\":[900,1],\"out_text\":[900,1]}]}"));
    OK(set_price(FLAT("local", "demo", "1")));
    const int64_t day = now_ms / DAY_MS;
    OK(break_even(db, day, day, now_ms / 1000, NULL, 0, take_even, &x, &store_e));
    assert_true(x.n == 1 && !x.last.known && x.use.hours == 0); /* it was not used */
    request_of(1000, 400);
    request_of(2000, 600);
    OK(break_even(db, day - 10, day, now_ms / 1000, NULL, 0, take_even, &x, &store_e));
    assert_int_equal(x.n, 2);
    assert_int_equal(x.use.hours, 12); /* since midnight, of the first day with use */
    assert_int_equal(x.use.an_hour, 4000 / 12);
    assert_int_equal(x.use.busiest_hour, 4000);
    assert_int_equal(x.last.hosted_nusd, 600000);
    assert_true(x.last.known);
    assert_int_equal(x.last.needed_an_hour, 13333334);
    const struct price *more = &tariff_free;
    OK(break_even(db, day, day, now_ms / 1000, &more, 1, take_even, &x, &store_e));
    assert_true(x.n == 4 && !x.last.known); /* nothing is cheaper than what is free */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_tariff_has_the_price_of_the_source_the_name_and_the_mark_up),
        TEST(test_b16_a_table_that_is_held_does_not_change),
        TEST(test_b17_a_table_is_read_whole_or_not_at_all),
        TEST(test_t78_prices_change_at_any_instant),
        TEST(test_what_is_free_has_one_row_and_the_operators_goes_before_it),
        TEST(test_words_of_the_table_are_no_providers),
        TEST(test_break_even_is_by_the_measured_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
