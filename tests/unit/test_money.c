/* Money: what is read is exactly what is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/accounts/money.h"

static const struct {
    const char *text, *written; /* written NULL: as text */
    int64_t nusd;
} good[] = {
    {"12.50", NULL, 12500000000},
    {"0", "0.00", 0},
    {"-0", "0.00", 0},
    {"7", "7.00", 7000000000},
    {"007.1", "7.10", 7100000000},
    {"-3.00", NULL, -3000000000},
    {"0.000000001", NULL, 1},
    {"-0.000000001", NULL, -1},
    {"0.100000000", "0.10", 100000000},
    {"9223372036.854775807", NULL, INT64_MAX},
    {"-9223372036.854775808", NULL, INT64_MIN},
};

static void test_amounts_are_read_and_written_exactly(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        int64_t nusd = 42;
        char out[MONEY_BYTES];
        assert_true(money_parse(good[i].text, &nusd));
        assert_int_equal(nusd, good[i].nusd);
        assert_string_equal(money_write(nusd, out), good[i].written ? good[i].written : good[i].text);
    }
}

static void test_what_is_no_amount_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "-",
                                      ".",
                                      ".5",
                                      "5.",
                                      "1e3",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "1,5",
                                      "$1",
                                      "--1",
                                      "1.2.3",
                                      "0x10",
                                      "inf",
                                      "nan",
                                      "1.0000000001",
                                      "9223372036.854775808",
                                      "-9223372036.854775809",
                                      "99999999999999999999999999999999999999999999999999999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int64_t nusd = 42;
        assert_false(money_parse(bad[i], &nusd));
        assert_int_equal(nusd, 42);
    }
}

static void test_reports_are_rounded_to_nano_dollars(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t nusd;
    } rows[] = {{"1.5e-05", 15000},
                {"1.5E-5", 15000},
                {"2e+1", 20000000000},
                {"0.0000000005", 1},
                {"0.00000000049999", 0},
                {"-0.0000000005", -1},
                {"0.06", 60000000},
                {"1e-12", 0},
                {"12.345678901234", 12345678901}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t nusd;
        assert_true(money_parse_report(rows[i].text, &nusd));
        assert_int_equal(nusd, rows[i].nusd);
    }
    int64_t nusd;
    assert_false(money_parse_report("1e", &nusd));
    assert_false(money_parse_report("1e41", &nusd));
    assert_false(money_parse_report("1e20", &nusd));
    assert_false(money_parse_report("1 e2", &nusd));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_amounts_are_read_and_written_exactly),
        cmocka_unit_test(test_what_is_no_amount_is_refused),
        cmocka_unit_test(test_reports_are_rounded_to_nano_dollars),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
