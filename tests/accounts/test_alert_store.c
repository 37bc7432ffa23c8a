/* Alerts in the store that SPILLWAY_STORE names: each once, taken by one gateway, tried again; and the figures that they come from, found out of a
 * ledger that was written by requests. */
#include "tests/accounts/store.h"

#include <time.h>

#include "base/json.h"
#include "server/accounts/directory.h"
#include "server/accounts/price_table.h"
#include "server/accounts/prune.h"
#include "server/alerts.h"

static const int64_t CENT = 10000000, USD = 1000000000, DAY_MS = 86400000;

static struct db *db, *other; /* other: of a second gateway */
static struct ledger *l;
static int64_t web, key, groq, now_ms, today_ms; /* now_ms: the ledger's */
static struct alerts_seen seen;
static const struct alerts_bounds bounds = {.spend_factor = 4, .spend_floor_nusd = 1000000000, .error_per_cent = 20, .overflow_per_cent = 50};

static int64_t clock_now(void *ctx)
{
    (void)ctx;
    return now_ms;
}

/* The project has been there for 50 days. The ledger's clock begins ten days ago: it never goes back. What is looked at is the hour by the store's own
 * clock, which must not turn meanwhile. */
static int setup(void **state)
{
    (void)state;
    store_new();
    while (time(NULL) % 3600 >= 3595) sleep(1);
    today_ms = (int64_t)time(NULL) * 1000;
    now_ms = today_ms - 10 * DAY_MS;
    OK(db_open(&db, store_where(), &store_e));
    OK(db_open(&other, store_where(), &store_e));
    OK(ledger_open(&l, db, &(struct ledger_options){.gateway = "test", .alone = true, .now_ms = clock_now}, &store_e));
    web = directory_project_add(db, 1, "web", &store_e);
    OK(web);
    OK(db_run(db, "UPDATE accounts SET created_s = ?1 WHERE kind = 'project'", DB_ARGS(db_int(today_ms / 1000 - 50 * 86400)), NULL, &store_e));
    key = store_key(db, web);
    groq = ledger_supplier(db, "groq", &store_e);
    OK(groq);
    seen = (struct alerts_seen){.last_price = 0};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    alert_hour_free(&seen.hour);
    store_check(db);
    ledger_close(l);
    db_close(db);
    db_close(other);
    store_remove();
    return 0;
}

static void charge_held(int64_t at_ms, int64_t held, int64_t sale, int64_t cost)
{
    struct ledger_op r = {.type = LEDGER_RESERVE, .account = key, .model = "m", .amount_nusd = held, .lasts_ms = 60000, .attempt = {.supplier = groq, .model = "m"}};
    struct ledger_op p = {.type = LEDGER_POST, .sale_nusd = sale, .served = 1, .n_used = 1, .used = {{.n = 1, .supplier = groq, .end = LEDGER_SERVED, .cost_nusd = cost}}};
    struct ledger_op *list = &r;
    now_ms = at_ms;
    OK(ledger_apply(l, &list, 1, &store_e));
    OK(r.rc);
    p.request = r.request;
    usage_set(&p.used[0].usage, USAGE_IN_UNCACHED, 1);
    list = &p;
    OK(ledger_apply(l, &list, 1, &store_e));
    OK(p.rc);
}

static void charge(int64_t at_ms, int64_t sale, int64_t cost)
{
    charge_held(at_ms, sale, sale, cost);
}

static void charge_beyond(int64_t at_ms, int64_t held, int64_t sale)
{
    charge_held(at_ms, held, sale, 0);
}

static int64_t n_alerts(const char *kind)
{
    int64_t n;
    OK(db_number(db, "SELECT count(*) FROM alerts WHERE kind = ?1", DB_ARGS(db_text(kind)), 0, &n, &store_e));
    return n;
}

static void look(struct alert_count failed, struct alert_count overflowed)
{
    OK(alerts_find(db, &bounds, &seen, failed, overflowed, &store_e));
}

static void look_only(void)
{
    look((struct alert_count){0}, (struct alert_count){0});
}

static int add(struct db *to, const char *subject, int64_t occasion, bool *added)
{
    return alert_add(to, &(struct alert){.kind = "test", .subject = subject, .occasion = occasion, .message = "it is \"so\""}, added, &store_e);
}

/* The newest alert of a kind; the caller's. */
static json_t *newest(const char *kind)
{
    struct db_rows r;
    json_t *body;
    OK(db_query(db, &r, "SELECT body FROM alerts WHERE kind = ?1 ORDER BY id DESC LIMIT 1", DB_ARGS(db_text(kind)), &store_e));
    assert_int_equal(db_next(&r, &store_e), 1);
    OK(json_read(db_get_text(&r, 0), strlen(db_get_text(&r, 0)), &json_limits_request, "body", &body, &store_e));
    db_done(&r);
    return body;
}

static void assert_data(const char *kind, const char *name, const char *value)
{
    json_t *body = newest(kind);
    const char *is = json_string_value(json_object_get(json_object_get(body, "data"), name));
    assert_non_null(is);
    assert_string_equal(is, value);
    json_decref(body);
}

/* --- the outbox --- */

static void test_an_alert_is_there_once_an_occasion(void **state)
{
    (void)state;
    bool first, again, by_other, next;
    OK(add(db, "project 7", 3600, &first));
    OK(add(db, "project 7", 3600, &again));
    OK(add(other, "project 7", 3600, &by_other));
    OK(add(other, "project 7", 7200, &next));
    assert_true(first && !again && !by_other && next);
    assert_int_equal(n_alerts("test"), 2);
}

static void test_a_body_says_what_and_when(void **state)
{
    (void)state;
    bool added;
    OK(add(db, "project 7", 1, &added));
    json_t *body = newest("test");
    assert_string_equal(json_string_value(json_object_get(body, "type")), "test");
    assert_int_equal(strlen(json_string_value(json_object_get(body, "timestamp"))), strlen("2026-11-30T04:15:00Z"));
    json_decref(body);
    assert_data("test", "message", "it is \"so\"");
}

static void test_an_alert_is_taken_by_one(void **state)
{
    (void)state;
    bool added;
    struct alert_taken mine[4], theirs[4];
    size_t n_mine, n_theirs;
    int64_t next_ms;
    for (int i = 0; i < 6; i++) OK(add(db, "x", i, &added));
    OK(alert_take(db, true, mine, 4, &n_mine, &next_ms, &store_e));
    assert_int_equal(n_mine, 4);
    assert_int_equal(next_ms, 0); /* two are due */
    OK(alert_take(other, true, theirs, 4, &n_theirs, &next_ms, &store_e));
    assert_int_equal(n_theirs, 2);
    assert_in_range(next_ms, ALERT_CLAIM_MS / 2, ALERT_CLAIM_MS);
    for (size_t i = 0; i < 4; i++) assert_true(mine[i].tries == 1 && !mine[i].last && mine[i].id != theirs[0].id && mine[i].id != theirs[1].id);
    alert_taken_free(mine, n_mine);
    alert_taken_free(theirs, n_theirs);
}

static void test_what_was_not_taken_comes_again_until_it_is(void **state)
{
    (void)state;
    bool added;
    struct alert_taken t[1];
    size_t n;
    int64_t next_ms;
    char body[1000];
    OK(add(db, "x", 1, &added));
    for (int i = 1; i <= 3; i++) {
        OK(alert_take(i % 2 ? db : other, true, t, 1, &n, &next_ms, &store_e));
        assert_int_equal(n, 1);
        assert_int_equal(t[0].tries, i);
        if (i == 1) snprintf(body, sizeof body, "%s", t[0].body);
        assert_string_equal(t[0].body, body); /* the same bytes each time */
        OK(alert_end(db, t[0].id, i == 3, 0, &store_e));
        alert_taken_free(t, n);
    }
    OK(alert_take(db, true, t, 1, &n, &next_ms, &store_e));
    assert_int_equal(n, 0);
    assert_int_equal(next_ms, -1);
    assert_int_equal(store_number(db, "SELECT count(*) FROM alerts WHERE sent_ms IS NOT NULL AND next_ms IS NULL AND tries = 3"), 1);
}

static void test_a_gateway_that_dies_loses_its_claim(void **state)
{
    (void)state;
    bool added;
    struct alert_taken t[1];
    size_t n;
    int64_t next_ms;
    OK(add(db, "x", 1, &added));
    OK(alert_take(db, true, t, 1, &n, &next_ms, &store_e));
    alert_taken_free(t, n);
    OK(db_script(db, "UPDATE alerts SET next_ms = next_ms - 60001", &store_e)); /* a minute later */
    OK(alert_take(other, true, t, 1, &n, &next_ms, &store_e));
    assert_int_equal(n, 1);
    assert_int_equal(t[0].tries, 2);
    alert_taken_free(t, n);
}

static void test_after_a_day_it_is_given_up(void **state)
{
    (void)state;
    bool added;
    struct alert_taken t[1];
    size_t n;
    int64_t next_ms;
    OK(add(db, "x", 1, &added));
    OK(db_script(db, "UPDATE alerts SET created_ms = created_ms - 86400001, tries = 30", &store_e));
    OK(alert_take(db, true, t, 1, &n, &next_ms, &store_e));
    assert_true(n == 1 && t[0].last && t[0].tries == 31);
    OK(alert_end(db, t[0].id, false, -1, &store_e));
    alert_taken_free(t, n);
    assert_int_equal(store_number(db, "SELECT count(*) FROM alerts WHERE sent_ms IS NULL AND next_ms IS NULL"), 1);
}

static void test_without_a_webhook_what_is_taken_is_told(void **state)
{
    (void)state;
    bool added;
    struct alert_taken t[2];
    size_t n;
    int64_t next_ms;
    OK(add(db, "x", 1, &added));
    OK(alert_take(db, false, t, 2, &n, &next_ms, &store_e));
    assert_true(n == 1 && next_ms == -1);
    alert_taken_free(t, n);
    OK(alert_take(db, false, t, 2, &n, &next_ms, &store_e));
    assert_int_equal(n, 0);
}

static void test_old_alerts_are_pruned_with_requests(void **state)
{
    (void)state;
    bool added;
    struct alert_taken t[2];
    size_t n;
    int64_t next_ms, n_requests;
    OK(add(db, "told", 1, &added));
    OK(alert_add(db, &(struct alert){.kind = "budget_reached", .subject = "budget 1", .occasion = 0, .message = "m"}, &added, &store_e));
    OK(alert_take(db, false, t, 2, &n, &next_ms, &store_e));
    alert_taken_free(t, n);
    OK(add(db, "not yet told", 1, &added));
    OK(db_script(db, "UPDATE alerts SET created_ms = created_ms - 40 * CAST(86400000 AS BIGINT)", &store_e));
    OK(add(db, "new", 1, &added));
    OK(prune_requests(db, 30, &n_requests, &store_e));
    assert_int_equal(store_number(db, "SELECT count(*) FROM alerts"), 3);
    assert_int_equal(store_number(db, "SELECT count(*) FROM alerts WHERE subject = 'told'"), 0);
}

/* --- spend --- */

static void test_spend_like_that_of_the_week_is_not_told(void **state)
{
    (void)state;
    for (int day = 7; day >= 1; day--) charge(today_ms - day * DAY_MS, 24 * USD, 24 * USD); /* 1 an hour */
    charge(today_ms, 4 * USD, 4 * USD);
    look_only();
    assert_int_equal(n_alerts("spend_rate"), 0);
}

static void test_spend_above_that_of_the_week_is_told_once_an_hour(void **state)
{
    (void)state;
    for (int day = 7; day >= 1; day--) charge(today_ms - day * DAY_MS, 24 * USD, 12 * USD);
    charge(today_ms, 2 * USD, USD);
    look_only();
    assert_int_equal(n_alerts("spend_rate"), 0);
    charge(today_ms, 2 * USD + CENT, USD + CENT); /* read on from there: 4.01 and 2.01 */
    look_only();
    look_only();
    assert_int_equal(n_alerts("spend_rate"), 2); /* the project, and all suppliers together */
    assert_int_equal(store_number(db, "SELECT count(*) FROM alerts WHERE subject = 'all'"), 1);
    assert_int_equal(store_number(db, "SELECT count(*) FROM alerts WHERE body LIKE '%\"hour_usd\":\"4.01\"%\"usual_hour_usd\":\"1.00\"%' AND message LIKE '%''web''%'"), 1);
    assert_int_equal(store_number(db, "SELECT count(*) FROM alerts WHERE body LIKE '%\"hour_usd\":\"2.01\"%\"usual_hour_usd\":\"0.50\"%'"), 1);
}

static void test_a_gateway_that_starts_reads_the_whole_hour(void **state)
{
    (void)state;
    for (int i = 0; i < 40; i++) charge(today_ms - DAY_MS + i, CENT, 0);
    int64_t hour_ms = today_ms / 3600000 * 3600000;
    charge(hour_ms - 1, 50 * USD, 0); /* the hour before */
    for (int i = 0; i < 40; i++) charge(hour_ms, CENT, 0);
    struct alert_hour h = {.n = 0};
    OK(alert_hour_read(&h, db, &store_e));
    assert_int_equal(h.n, 1);
    assert_int_equal(h.spends[0].project, web);
    assert_int_equal(h.spends[0].spent_nusd, 40 * CENT);
    alert_hour_free(&h);
}

static void test_a_new_project_is_not_judged(void **state)
{
    (void)state;
    OK(db_run(db, "UPDATE accounts SET created_s = ?1 WHERE kind = 'project'", DB_ARGS(db_int(today_ms / 1000)), NULL, &store_e));
    charge(today_ms, 500 * USD, 500 * USD);
    look_only();
    assert_int_equal(n_alerts("spend_rate"), 0);
}

/* Once an hour, however little. */
static void test_b6_what_comes_to_more_than_its_hold_is_told(void **state)
{
    (void)state;
    charge(today_ms, CENT, CENT);
    look_only();
    assert_int_equal(n_alerts("overrun"), 0);
    charge_beyond(today_ms, CENT, CENT + 1);
    look_only();
    charge_beyond(today_ms, CENT, CENT + 1);
    look_only();
    assert_int_equal(n_alerts("overrun"), 1);
    assert_data("overrun", "hour_usd", "0.000000001");
}

/* --- rates, budgets, prices --- */

static void test_sudden_errors_are_told(void **state)
{
    (void)state;
    look((struct alert_count){1000, 10}, (struct alert_count){0});
    look((struct alert_count){1100, 11}, (struct alert_count){0});
    assert_int_equal(n_alerts("error_rate"), 0);
    look((struct alert_count){1200, 100}, (struct alert_count){0});
    look((struct alert_count){1300, 200}, (struct alert_count){0});
    assert_int_equal(n_alerts("error_rate"), 1);
    assert_int_equal(n_alerts("overflow_rate"), 0);
}

static void test_sudden_overflow_is_told(void **state)
{
    (void)state;
    look((struct alert_count){0}, (struct alert_count){0});
    look((struct alert_count){0}, (struct alert_count){40, 20});
    assert_int_equal(n_alerts("overflow_rate"), 1);
    assert_data("overflow_rate", "message", "20 of the last 40 requests went to a provider in place of a local model (50 %); before that it was 0 %");
}

static void test_a_budget_that_only_tells_is_told_once_a_window(void **state)
{
    (void)state;
    const struct ledger_budget alert = {.account = web, .scope = "all", .unit = "nusd", .period = "day", .amount = 2 * USD, .hard = false};
    struct ledger_budget hard = alert;
    hard.hard = true;
    hard.amount = 3 * USD;
    OK(ledger_budget_add(l, &alert, &store_e));
    OK(ledger_budget_add(l, &hard, &store_e));
    charge(today_ms - DAY_MS, 3 * USD, 0);
    look_only();
    assert_int_equal(n_alerts("budget_reached"), 1);
    charge(today_ms, USD, 0);
    look_only();
    assert_int_equal(n_alerts("budget_reached"), 1);
    charge(today_ms, USD, 0);
    look_only();
    look_only();
    assert_int_equal(n_alerts("budget_reached"), 2);
    assert_data("budget_reached", "used", "2.00");
}

static void set_price(const char *model, int nusd)
{
    char text[200];
    snprintf(text, sizeof text, "{\"provider\":\"groq\",\"model\":\"%s\",\"can\":[],\"prices\":[{\"in_uncached\":[%d,1],\"out_text\":[1,1]}]}", model, nusd);
    OK(price_table_set(db, text, strlen(text), "operator", &store_e));
}

static void test_changed_prices_are_told_a_provider_at_a_time(void **state)
{
    (void)state;
    set_price("a", 1);
    look_only();
    assert_int_equal(n_alerts("price_change"), 0); /* a first price is no change */
    set_price("a", 1);
    look_only();
    assert_int_equal(n_alerts("price_change"), 0);
    set_price("a", 2);
    set_price("b", 1);
    set_price("b", 3);
    look_only();
    look_only();
    assert_int_equal(n_alerts("price_change"), 1);
    json_t *body = newest("price_change"), *data = json_object_get(body, "data"), *prices = json_object_get(data, "prices");
    assert_string_equal(json_string_value(json_object_get(data, "message")), "prices of groq have changed: a, b");
    assert_int_equal(json_array_size(prices), 2);
    assert_true(json_is_object(json_object_get(json_array_get(prices, 0), "before")));
    json_decref(body);
    set_price("a", 4);
    look_only();
    assert_int_equal(n_alerts("price_change"), 2);
}

/* So that a change made while no gateway ran is told, and none twice. */
static void test_prices_of_the_last_day_are_looked_at_after_a_start(void **state)
{
    (void)state;
    set_price("a", 1);
    set_price("a", 2);
    look_only();
    struct alerts_seen started = {.last_price = 0};
    OK(alerts_find(db, &bounds, &started, (struct alert_count){0}, (struct alert_count){0}, &store_e));
    alert_hour_free(&started.hour);
    assert_int_equal(n_alerts("price_change"), 1);
}

static void test_many_prices_fit_into_one_alert(void **state)
{
    (void)state;
    char model[100];
    for (int i = 0; i < 200; i++) {
        snprintf(model, sizeof model, "a-model-with-a-long-name-so-that-there-is-little-room-%d", i);
        set_price(model, 1);
        set_price(model, 2);
    }
    look_only();
    assert_int_equal(n_alerts("price_change"), 1);
    json_t *body = newest("price_change"), *data = json_object_get(body, "data");
    assert_in_range(json_array_size(json_object_get(data, "prices")), 10, 199);
    assert_non_null(strstr(json_string_value(json_object_get(data, "message")), " and more"));
    json_decref(body);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_an_alert_is_there_once_an_occasion),
        TEST(test_a_body_says_what_and_when),
        TEST(test_an_alert_is_taken_by_one),
        TEST(test_what_was_not_taken_comes_again_until_it_is),
        TEST(test_a_gateway_that_dies_loses_its_claim),
        TEST(test_after_a_day_it_is_given_up),
        TEST(test_without_a_webhook_what_is_taken_is_told),
        TEST(test_old_alerts_are_pruned_with_requests),
        TEST(test_spend_like_that_of_the_week_is_not_told),
        TEST(test_spend_above_that_of_the_week_is_told_once_an_hour),
        TEST(test_a_gateway_that_starts_reads_the_whole_hour),
        TEST(test_a_new_project_is_not_judged),
        TEST(test_b6_what_comes_to_more_than_its_hold_is_told),
        TEST(test_sudden_errors_are_told),
        TEST(test_sudden_overflow_is_told),
        TEST(test_a_budget_that_only_tells_is_told_once_a_window),
        TEST(test_changed_prices_are_told_a_provider_at_a_time),
        TEST(test_prices_of_the_last_day_are_looked_at_after_a_start),
        TEST(test_many_prices_fit_into_one_alert),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
