/* Alert rules and webhook signatures: what is out of the ordinary, and that receivers can verify it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "server/alert_rules.h"
#include "server/webhook.h"

static const int64_t USD = 1000000000;

static void test_spend_is_high_above_factor_and_floor(void **state)
{
    (void)state;
    assert_true(alert_spend_is_high(5 * USD, 168 * USD, 168, 4, USD)); /* 1 an hour */
    assert_false(alert_spend_is_high(4 * USD, 168 * USD, 168, 4, USD));
    assert_true(alert_spend_is_high(4 * USD + 1, 168 * USD, 168, 4, USD));
    assert_false(alert_spend_is_high(USD - 1, 0, 168, 4, USD));
    assert_true(alert_spend_is_high(USD, 0, 168, 4, USD));
    assert_false(alert_spend_is_high(0, 0, 168, 4, 0));
}

static void test_spend_without_a_past_is_not_judged(void **state)
{
    (void)state;
    assert_false(alert_spend_is_high(1000 * USD, 0, ALERT_PAST_HOURS - 1, 4, USD));
    assert_true(alert_spend_is_high(1000 * USD, 0, ALERT_PAST_HOURS, 4, USD));
}

static void test_spend_of_any_size_is_compared(void **state)
{
    (void)state;
    assert_true(alert_spend_is_high(INT64_MAX, INT64_MAX, 168, 4, USD));
    assert_false(alert_spend_is_high(INT64_MAX / 168, INT64_MAX, 168, 1000, USD));
}

static void note_many(struct alert_rate *r, size_t looks, uint64_t n, uint64_t hit)
{
    struct alert_count last = r->n_looks ? r->looks[(r->n_looks - 1) % (ALERT_RECENT_LOOKS + ALERT_PAST_LOOKS + 1)] : (struct alert_count){0};
    for (size_t i = 0; i < looks; i++) {
        last.n += n;
        last.hit += hit;
        alert_rate_note(r, last);
    }
}

static bool is_high(const struct alert_rate *r)
{
    struct alert_count recent, past;
    alert_rate_windows(r, &recent, &past);
    return alert_rate_is_high(&recent, &past, 20);
}

static void test_a_sudden_rate_is_high(void **state)
{
    (void)state;
    struct alert_rate r = {.n_looks = 0};
    alert_rate_note(&r, (struct alert_count){0});
    note_many(&r, 60, 10, 0);
    assert_false(is_high(&r));
    note_many(&r, 1, 10, 10); /* 10 of the last 100 */
    assert_false(is_high(&r));
    note_many(&r, 1, 10, 10);
    assert_true(is_high(&r));
}

static void test_a_rate_that_stays_high_is_no_longer_sudden(void **state)
{
    (void)state;
    struct alert_rate r = {.n_looks = 0};
    alert_rate_note(&r, (struct alert_count){0});
    note_many(&r, 60, 10, 0);
    size_t n_high = 0;
    for (int i = 0; i < 200; i++) {
        note_many(&r, 1, 10, 5);
        n_high += is_high(&r);
        if (i > 60) assert_false(is_high(&r));
    }
    assert_in_range(n_high, 1, 60);
}

static void test_few_requests_say_nothing(void **state)
{
    (void)state;
    struct alert_rate r = {.n_looks = 0};
    alert_rate_note(&r, (struct alert_count){0});
    note_many(&r, 1, ALERT_MIN_REQUESTS - 1, ALERT_MIN_REQUESTS - 1);
    assert_false(is_high(&r));
    note_many(&r, 1, 1, 1);
    assert_true(is_high(&r)); /* no past: the share alone */
}

static void test_what_is_older_than_the_past_does_not_count(void **state)
{
    (void)state;
    struct alert_rate r = {.n_looks = 0};
    struct alert_count recent, past;
    note_many(&r, 1, 1000, 1000);
    note_many(&r, ALERT_PAST_LOOKS, 3, 1);
    note_many(&r, ALERT_RECENT_LOOKS, 5, 2);
    alert_rate_windows(&r, &recent, &past);
    assert_int_equal(recent.n, 5 * ALERT_RECENT_LOOKS);
    assert_int_equal(recent.hit, 2 * ALERT_RECENT_LOOKS);
    assert_int_equal(past.n, 3 * ALERT_PAST_LOOKS);
    assert_int_equal(past.hit, ALERT_PAST_LOOKS);
}

static void test_tries_come_later_each_time_up_to_an_hour(void **state)
{
    (void)state;
    assert_int_equal(alert_retry_ms(1), 1000);
    assert_int_equal(alert_retry_ms(2), 2000);
    assert_int_equal(alert_retry_ms(12), 2048000);
    assert_int_equal(alert_retry_ms(13), 3600000);
    assert_int_equal(alert_retry_ms(1000000), 3600000);
}

/* The example of the specification's reference libraries. */
static void test_signatures_are_standard_webhooks(void **state)
{
    (void)state;
    struct webhook_secret s;
    char signature[WEBHOOK_SIGNATURE_BYTES];
    assert_int_equal(webhook_secret_read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &s, NULL), 0);
    webhook_sign(&s, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, "{\"test\": 2432232314}", signature);
    assert_string_equal(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

static void test_secrets_that_are_none_are_refused_and_not_told(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "kqzvkqzvkqzv", "whsec_", "whsec_c2hvcnQ=", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS*", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw x",
                                      "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct webhook_secret s;
        struct err e;
        assert_int_equal(webhook_secret_read(bad[i], &s, &e), -ERR_INPUT);
        assert_int_equal(s.n, 0);
        if (strlen(bad[i]) > 6) assert_null(strstr(e.msg, bad[i] + 6));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spend_is_high_above_factor_and_floor),
        cmocka_unit_test(test_spend_without_a_past_is_not_judged),
        cmocka_unit_test(test_spend_of_any_size_is_compared),
        cmocka_unit_test(test_a_sudden_rate_is_high),
        cmocka_unit_test(test_a_rate_that_stays_high_is_no_longer_sudden),
        cmocka_unit_test(test_few_requests_say_nothing),
        cmocka_unit_test(test_what_is_older_than_the_past_does_not_count),
        cmocka_unit_test(test_tries_come_later_each_time_up_to_an_hour),
        cmocka_unit_test(test_signatures_are_standard_webhooks),
        cmocka_unit_test(test_secrets_that_are_none_are_refused_and_not_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
