/* The watchdog on made-up clocks and counters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/watchdog.h"

enum { EVERY_MS = 200, FLOOR_MS = 2000 };

static struct watchdog w;
static int64_t now_ms;
static uint64_t counter;

static int setup(void **state)
{
    (void)state;
    w = (struct watchdog){0};
    now_ms = 1000000;
    counter = 7;
    return 0;
}

/* Looks until it is hung or limit_ms have passed, the counter growing by `moves` between two looks. Returns ms, -1: not hung. */
static int64_t look_for(int64_t limit_ms, uint64_t moves, bool busy)
{
    for (int64_t start_ms = now_ms; now_ms - start_ms < limit_ms;) {
        now_ms += EVERY_MS;
        counter += moves;
        if (watchdog_look(&w, busy, counter, now_ms, EVERY_MS, FLOOR_MS)) return now_ms - start_ms;
    }
    return -1;
}

static void test_standing_still_with_work_is_hung_after_the_floor(void **state)
{
    (void)state;
    assert_int_equal(look_for(2000, 100, true), -1);
    assert_in_range(look_for(10000, 0, true), FLOOR_MS, FLOOR_MS + EVERY_MS);
}

static void test_never_having_moved_is_hung_too(void **state)
{
    (void)state;
    assert_in_range(look_for(10000, 0, true), FLOOR_MS, FLOOR_MS + 2 * EVERY_MS);
}

static void test_idle_is_not_hung_and_work_starts_the_clock(void **state)
{
    (void)state;
    assert_int_equal(look_for(60000, 0, false), -1);
    assert_in_range(look_for(10000, 0, true), FLOOR_MS, FLOOR_MS + 2 * EVERY_MS);
}

/* One operation a second: 20 s may pass. */
static void test_slow_work_has_20_times_its_median_gap(void **state)
{
    (void)state;
    for (int i = 0; i < 40; i++) {
        assert_int_equal(look_for(800, 0, true), -1);
        assert_int_equal(look_for(200, 1, true), -1);
    }
    assert_in_range(look_for(60000, 0, true), 19000, 21000);
}

static void test_one_long_gap_does_not_move_the_median(void **state)
{
    (void)state;
    look_for(5000, 1000, true);
    look_for(1500, 0, true);
    look_for(1000, 1000, true);
    assert_in_range(look_for(10000, 0, true), FLOOR_MS, FLOOR_MS + EVERY_MS);
}

static void test_time_when_nobody_looked_does_not_count(void **state)
{
    (void)state;
    look_for(1000, 10, true);
    now_ms += 3600 * 1000; /* the machine slept */
    assert_false(watchdog_look(&w, true, counter, now_ms, EVERY_MS, FLOOR_MS));
    assert_in_range(look_for(10000, 0, true), FLOOR_MS - 3 * EVERY_MS, FLOOR_MS);
}

static void test_a_counter_that_wraps_moves(void **state)
{
    (void)state;
    counter = UINT64_MAX - 3;
    assert_int_equal(look_for(5000, 1, true), -1);
}

#define TEST(f) cmocka_unit_test_setup(f, setup)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_standing_still_with_work_is_hung_after_the_floor),
        TEST(test_never_having_moved_is_hung_too),
        TEST(test_idle_is_not_hung_and_work_starts_the_clock),
        TEST(test_slow_work_has_20_times_its_median_gap),
        TEST(test_one_long_gap_does_not_move_the_median),
        TEST(test_time_when_nobody_looked_does_not_count),
        TEST(test_a_counter_that_wraps_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
