/* Affinity: the longest beginning that is known, by account, and what is forgotten. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/affinity.h"

enum { ALL = 3 };

struct fixture {
    struct affinity *a;
};

static int setup(void **state)
{
    static struct fixture f;
    struct err e;
    *state = &f;
    return affinity_new(&f.a, &e);
}

static int teardown(void **state)
{
    affinity_free(((struct fixture *)*state)->a);
    return 0;
}

/* n tokens: those of talk `a` up to `fork`, then those of talk `b`. */
static struct affinity_marks marks_of(const struct affinity *a, uint64_t scope, uint64_t talk, size_t fork, uint64_t other, size_t n)
{
    struct affinity_marks m;
    affinity_begin(a, &m, scope);
    for (size_t i = 0; i < n; i++)
        if (!affinity_add(&m, 1000 * (i < fork ? talk : other) + i % 700)) break;
    return m;
}

static int find(const struct affinity *a, const struct affinity_marks *m, uint32_t among, uint32_t *n)
{
    *n = 0;
    return affinity_find(a, m, among, n);
}

static void test_a_talk_that_grows_is_found(void **state)
{
    struct affinity *a = ((struct fixture *)*state)->a;
    struct affinity_marks first = marks_of(a, 1, 5, 200, 0, 200), later = marks_of(a, 1, 5, 900, 0, 900);
    uint32_t n;
    assert_int_equal(find(a, &first, ALL, &n), -1);
    affinity_note(a, &first, 1);
    assert_int_equal(find(a, &later, ALL, &n), 1);
    assert_int_equal(n, 192);
    affinity_note(a, &later, 0);
    assert_int_equal(find(a, &later, ALL, &n), 0);
    assert_int_equal(n, 512); /* 900 is below the next mark, 1024 */
}

static void test_the_longest_beginning_wins(void **state)
{
    struct affinity *a = ((struct fixture *)*state)->a;
    struct affinity_marks one = marks_of(a, 1, 5, 300, 6, 600), two = marks_of(a, 1, 5, 300, 7, 600);
    uint32_t n;
    affinity_note(a, &one, 0);
    affinity_note(a, &two, 1); /* and of what they share it is the later one */
    assert_int_equal(find(a, &one, ALL, &n), 0);
    assert_int_equal(n, 512);
    struct affinity_marks third = marks_of(a, 1, 5, 300, 8, 600);
    assert_int_equal(find(a, &third, ALL, &n), 1);
    assert_int_equal(n, 256);
}

static void test_a_worker_that_is_not_asked_for_is_not_found(void **state)
{
    struct affinity *a = ((struct fixture *)*state)->a;
    struct affinity_marks m = marks_of(a, 1, 5, 200, 0, 200);
    uint32_t n;
    affinity_note(a, &m, 1);
    assert_int_equal(find(a, &m, 1u << 0, &n), -1);
    assert_int_equal(find(a, &m, 1u << 1, &n), 1);
}

static void test_accounts_do_not_find_each_others(void **state)
{
    struct affinity *a = ((struct fixture *)*state)->a;
    struct affinity_marks mine = marks_of(a, 1, 5, 200, 0, 200), theirs = marks_of(a, 2, 5, 200, 0, 200);
    uint32_t n;
    affinity_note(a, &mine, 1);
    assert_int_equal(find(a, &theirs, ALL, &n), -1);
}

static void test_a_worker_that_ended_is_forgotten(void **state)
{
    struct affinity *a = ((struct fixture *)*state)->a;
    struct affinity_marks one = marks_of(a, 1, 5, 200, 0, 200), two = marks_of(a, 1, 6, 200, 0, 200);
    uint32_t n;
    affinity_note(a, &one, 0);
    affinity_note(a, &two, 1);
    affinity_forget(a, 1);
    assert_int_equal(find(a, &two, ALL, &n), -1);
    assert_int_equal(find(a, &one, ALL, &n), 0);
    affinity_forget(NULL, 0);
}

static void test_short_prompts_have_no_marks_and_long_ones_a_bounded_number(void **state)
{
    struct affinity *a = ((struct fixture *)*state)->a;
    assert_int_equal(marks_of(a, 1, 5, 63, 0, 63).n, 0);
    assert_int_equal(marks_of(a, 1, 5, 64, 0, 64).n, 1);
    assert_int_equal(marks_of(a, 1, 5, 1000000, 0, 1000000).n, AFFINITY_MAX_MARKS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_talk_that_grows_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_longest_beginning_wins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_worker_that_is_not_asked_for_is_not_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_accounts_do_not_find_each_others, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_worker_that_ended_is_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(test_short_prompts_have_no_marks_and_long_ones_a_bounded_number, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
