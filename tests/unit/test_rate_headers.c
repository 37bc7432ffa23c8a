/* Rate headers: times as OpenAI writes them, read back by what reads OpenAI's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/providers/provider_error.h"
#include "server/rate_headers.h"

static void test_times_are_written_as_openai_does(void **state)
{
    (void)state;
    static const struct {
        int64_t ms;
        const char *text;
    } rows[] = {{0, "0s"},           {1, "1ms"},           {999, "999ms"},        {1000, "1s"},     {1500, "1.5s"},    {59999, "59.999s"},
                {60000, "1m0s"},     {60010, "1m0.01s"},   {360000, "6m0s"},      {86400000, "1440m0s"}, {INT64_MAX, "153722867280912m55.807s"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char out[RATE_TIME_BYTES];
        assert_string_equal(rate_time_write(rows[i].ms, out), rows[i].text);
    }
}

static void test_times_are_read_back_as_they_were(void **state)
{
    (void)state;
    for (int64_t ms = 0; ms <= 120000; ms += ms < 2000 ? 1 : 37) {
        char out[RATE_TIME_BYTES];
        rate_time_write(ms, out);
        assert_int_equal(provider_wait_parse(out, strlen(out), 0), ms);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times_are_written_as_openai_does),
        cmocka_unit_test(test_times_are_read_back_as_they_were),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
