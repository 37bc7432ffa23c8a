/* Prompt lookup: what is guessed, and when guessing pays. */
#include "engine/lookup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_guess_is_what_followed_the_last_three(void **unused)
{
    (void)unused;
    const int32_t t[] = {1, 2, 3, 4, 5, 9, 2, 3, 8, 8, 1, 2, 3};
    int32_t guess[LOOKUP_MAX];
    assert_int_equal(lookup_guess(t, 13, 4, guess), 4);
    assert_memory_equal(guess, ((int32_t[]){4, 5, 9, 2}), sizeof(int32_t[4])); /* of 1 2 3; the later 2 3 is shorter */
    assert_int_equal(lookup_guess(t, 13, 1, guess), 1);
    assert_int_equal(guess[0], 4);
}

static void test_guess_falls_back_to_two(void **unused)
{
    (void)unused;
    const int32_t t[] = {2, 3, 7, 5, 2, 3, 8, 6, 2, 3};
    int32_t guess[LOOKUP_MAX];
    assert_int_equal(lookup_guess(t, 10, 8, guess), 8); /* 8 6 2 3 followed; then round again */
    assert_memory_equal(guess, ((int32_t[]){8, 6, 2, 3, 8, 6, 2, 3}), sizeof(int32_t[8]));
}

static void test_guess_repeats_a_run(void **unused)
{
    (void)unused;
    const int32_t t[] = {4, 4, 4, 4};
    int32_t guess[LOOKUP_MAX];
    assert_int_equal(lookup_guess(t, 4, 5, guess), 5);
    for (size_t i = 0; i < 5; i++) assert_int_equal(guess[i], 4);
}

static void test_nothing_to_guess(void **unused)
{
    (void)unused;
    const int32_t t[] = {1, 2, 3, 4, 1};
    int32_t guess[LOOKUP_MAX];
    for (size_t n = 0; n <= 5; n++) assert_int_equal(lookup_guess(t, n, 8, guess), 0);
}

static void test_length_follows_what_was_right(void **unused)
{
    (void)unused;
    static const float cheap[] = {1, 1.05f, 1.1f, 1.15f, 1.2f, 1.25f, 1.3f, 1.35f, 1.4f, 1.45f}, dear[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    struct lookup_record good = {0}, bad = {0};
    assert_true(lookup_length(&good, 1, cheap, 10) > 0); /* not known yet: tried */
    for (int i = 0; i < 20; i++) lookup_learn(&good, 4, 4), lookup_learn(&bad, 4, 0);
    assert_int_equal(lookup_length(&good, 1, cheap, 10), LOOKUP_MAX);
    assert_int_equal(lookup_length(&bad, 1, cheap, 10), 0);
    assert_int_equal(lookup_length(&good, 1, dear, 10), 0); /* rows that cost as much as steps: never */
    assert_int_equal(lookup_length(&good, 10, cheap, 10), 0); /* the batch is full */
    assert_int_equal(lookup_length(&good, 8, cheap, 10), 2);
}

static void test_bad_guesser_is_tried_again(void **unused)
{
    (void)unused;
    static const float cost[] = {1, 1.3f, 1.6f};
    struct lookup_record r = {0};
    for (int i = 0; i < 50; i++) lookup_learn(&r, 2, 0);
    size_t tried = 0;
    for (int i = 0; i < 320; i++) tried += lookup_length(&r, 1, cost, 3);
    assert_int_equal(tried, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guess_is_what_followed_the_last_three), cmocka_unit_test(test_guess_falls_back_to_two),
        cmocka_unit_test(test_guess_repeats_a_run),                   cmocka_unit_test(test_nothing_to_guess),
        cmocka_unit_test(test_length_follows_what_was_right),         cmocka_unit_test(test_bad_guesser_is_tried_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
