/* Xid table: which events end a worker, and which of them leave a device on which the next one can compute. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/xid.h"

static void test_devices_that_need_a_reset_are_lost(void **state)
{
    static const uint64_t lost[] = {48, 62, 64, 74, 79, 95, 119, 120};
    (void)state;
    for (size_t i = 0; i < sizeof lost / sizeof *lost; i++) {
        assert_non_null(xid_find(lost[i]));
        assert_int_equal(xid_find(lost[i])->xid, lost[i]);
        assert_false(xid_find(lost[i])->restart_helps);
    }
}

static void test_after_a_contained_error_a_restart_helps(void **state)
{
    (void)state;
    assert_non_null(xid_find(94));
    assert_true(xid_find(94)->restart_helps);
}

static void test_what_programs_do_and_what_only_informs_ends_nothing(void **state)
{
    static const uint64_t harmless[] = {0, 13, 31, 43, 45, 63, 92, UINT64_MAX};
    (void)state;
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) assert_null(xid_find(harmless[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_devices_that_need_a_reset_are_lost),
        cmocka_unit_test(test_after_a_contained_error_a_restart_helps),
        cmocka_unit_test(test_what_programs_do_and_what_only_informs_ends_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
