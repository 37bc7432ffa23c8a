/* The table of limits: its rows are sound, values parse and print. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/limits.h"

static const struct limit_row *row_of(const char *flag)
{
    for (size_t i = 0; i < n_limit_rows; i++)
        if (strcmp(limit_rows[i].flag, flag) == 0) return &limit_rows[i];
    fail_msg("no limit %s", flag);
    return NULL;
}

static void test_rows_are_sound(void **state)
{
    (void)state;
    struct limits l;
    limits_init(&l);
    for (size_t i = 0; i < n_limit_rows; i++) {
        const struct limit_row *r = &limit_rows[i];
        assert_true(strncmp(r->flag, "--", 2) == 0 && r->min <= r->max && *r->help);
        assert_in_range(limit_get(&l, r), r->min, r->max);
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(r->flag, limit_rows[j].flag);
            assert_int_not_equal(r->field, limit_rows[j].field);
        }
    }
    assert_int_equal(n_limit_rows, (sizeof l - sizeof l.given) / sizeof(int64_t)); /* each field has a row */
}

static void test_printed_values_read_back(void **state)
{
    (void)state;
    struct err e;
    char text[32];
    for (size_t i = 0; i < n_limit_rows; i++) {
        const struct limit_row *r = &limit_rows[i];
        int64_t values[] = {r->min, r->min + 1, r->max, r->max - 1, (r->min + r->max) / 2};
        for (size_t k = 0; k < sizeof values / sizeof *values; k++) {
            struct limits l;
            limits_init(&l);
            if (values[k] < r->min || values[k] > r->max) continue;
            assert_int_equal(limit_set(&l, r, limit_print(r->unit, values[k], text), &e), 0);
            assert_int_equal(limit_get(&l, r), values[k]);
        }
    }
}

static void test_units(void **state)
{
    (void)state;
    static const struct {
        const char *flag, *text;
        int64_t value;
    } cases[] = {{"--max-body-bytes", "20MB", 20000000}, {"--max-body-bytes", "20MiB", 20 << 20}, {"--max-body-bytes", "20M", 20 << 20},
                 {"--max-body-bytes", "5000", 5000},     {"--header-timeout", "10", 10000},       {"--header-timeout", "250ms", 250},
                 {"--header-timeout", "2m", 120000},     {"--header-timeout", "1h", 3600000},     {"--max-headers", "100", 100}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct limits l;
        struct err e;
        limits_init(&l);
        assert_int_equal(limit_set(&l, row_of(cases[i].flag), cases[i].text, &e), 0);
        assert_int_equal(limit_get(&l, row_of(cases[i].flag)), cases[i].value);
    }
}

static void test_bad_values_are_refused_and_change_nothing(void **state)
{
    (void)state;
    static const char *const bad[] = {"",    "-1", "+5", " 5", "5 ", "5x", "1e3", "0x10", "99999999999999999999", "9223372036854775807G",
                                      "10s", "MiB"};
    struct limits l, before;
    limits_init(&l);
    before = l;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e;
        assert_int_equal(limit_set(&l, row_of("--max-body-bytes"), bad[i], &e), -ERR_INPUT);
        assert_non_null(strstr(e.msg, "--max-body-bytes"));
    }
    assert_memory_equal(&l, &before, sizeof l);
}

static void test_given_tells_what_was_set(void **state)
{
    (void)state;
    struct limits l;
    struct err e;
    limits_init(&l);
    assert_false(limit_given(&l, &l.connections_per_ip));
    assert_int_equal(limit_set(&l, row_of("--max-connections-per-ip"), "64", &e), 0);
    assert_true(limit_given(&l, &l.connections_per_ip));
    assert_false(limit_given(&l, &l.headers));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_sound),
        cmocka_unit_test(test_printed_values_read_back),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_bad_values_are_refused_and_change_nothing),
        cmocka_unit_test(test_given_tells_what_was_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
