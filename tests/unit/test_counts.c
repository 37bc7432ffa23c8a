/* Counts per key, with a maximum. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/counts.h"

static void test_each_key_has_its_own_maximum(void **state)
{
    (void)state;
    struct counts *c;
    assert_int_equal(counts_new(&c, NULL), 0);
    struct counts_key a = {.bytes = {1}}, b = {.bytes = {2}};
    assert_true(counts_enter(c, &a, 2) && counts_enter(c, &a, 2));
    assert_false(counts_enter(c, &a, 2));
    assert_true(counts_enter(c, &b, 2));
    counts_leave(c, &a);
    assert_true(counts_enter(c, &a, 2));
    assert_true(counts_enter(c, &a, 0)); /* no maximum */
    counts_free(c);
}

/* Against plain counters, with much coming and going, so that the table grows and slots move. */
static void test_counts_agree_with_plain_counters(void **state)
{
    (void)state;
    enum { N = 500 };
    static int64_t plain[N];
    uint32_t seed = 1;
    struct counts *c;
    assert_int_equal(counts_new(&c, NULL), 0);
    for (int step = 0; step < 200000; step++) {
        seed = seed * 1664525u + 1013904223u;
        uint32_t i = (seed >> 8) % N;
        struct counts_key key = {.bytes = {(uint8_t)(i >> 8), (uint8_t)i}};
        if (seed >> 31) {
            bool entered = counts_enter(c, &key, 3);
            assert_int_equal(entered, plain[i] < 3);
            plain[i] += entered;
        } else if (plain[i]) {
            counts_leave(c, &key);
            plain[i]--;
        }
    }
    counts_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_key_has_its_own_maximum),
        cmocka_unit_test(test_counts_agree_with_plain_counters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
