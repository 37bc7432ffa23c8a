/* Stop strings: the result must not depend on how the text is split, and equals a plain search of the whole text (T24).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/stop_match.h"

/* The definition, over the whole text: the first byte at which some stop string is complete; of those the longest.
 * Returns what may be shown. */
static size_t shown_by_definition(const char *text, size_t n, const struct stop_string *stops, size_t n_stops, bool *matched)
{
    for (size_t end = 1; end <= n; end++) {
        size_t best = 0;
        for (size_t i = 0; i < n_stops; i++)
            if (stops[i].n <= end && stops[i].n > best && memcmp(text + end - stops[i].n, stops[i].p, stops[i].n) == 0) best = stops[i].n;
        if (!best) continue;
        *matched = true;
        return end - best;
    }
    *matched = false;
    return n;
}

static void random_text(char *out, size_t n)
{
    for (size_t i = 0; i < n; i++) out[i] = (char)('a' + rand() % 3);
}

static void test_stop_match_is_independent_of_splits(void **state)
{
    (void)state;
    srand(11);
    for (int round = 0; round < 100000; round++) {
        char text[40], strings[4][6];
        struct stop_string stops[4];
        size_t n = (size_t)(rand() % 40), n_stops = 1 + (size_t)(rand() % 4), longest = 0;
        random_text(text, n);
        for (size_t i = 0; i < n_stops; i++) {
            size_t len = 1 + (size_t)(rand() % 6);
            random_text(strings[i], len);
            stops[i] = (struct stop_string){.p = strings[i], .n = len};
            if (len > longest) longest = len;
        }
        bool want_match;
        size_t want = shown_by_definition(text, n, stops, n_stops, &want_match);
        struct stop_match m;
        struct buf out;
        buf_init(&out, 1000);
        stop_match_init(&m, stops, n_stops);
        int rc = 0;
        for (size_t at = 0; at < n && rc == 0;) {
            size_t piece = 1 + (size_t)rand() % (n - at);
            rc = stop_match_push(&m, text + at, piece, &out);
            at += piece;
            if (rc == 0) assert_true(out.len + longest > at); /* nothing is held without need */
        }
        assert_int_equal(rc, want_match);
        if (!rc) assert_int_equal(stop_match_flush(&m, &out), 0);
        assert_int_equal(out.len, want);
        assert_memory_equal(out.data ? out.data : "", text, want);
        stop_match_free(&m);
        buf_free(&out);
    }
}

static void test_stop_match_holds_back_only_a_possible_beginning(void **state)
{
    (void)state;
    struct stop_string stop = {.p = "END", .n = 3};
    struct stop_match m;
    struct buf out;
    buf_init(&out, 100);
    stop_match_init(&m, &stop, 1);
    assert_int_equal(stop_match_push(&m, "fooE", 4, &out), 0);
    assert_string_equal(out.data, "foo");
    assert_int_equal(stop_match_push(&m, "N!", 2, &out), 0);
    assert_string_equal(out.data, "fooEN!");
    assert_int_equal(stop_match_push(&m, "ENDbar", 6, &out), 1);
    assert_string_equal(out.data, "fooEN!");
    assert_int_equal(stop_match_push(&m, "more", 4, &out), 1);
    assert_string_equal(out.data, "fooEN!");
    stop_match_free(&m);
    buf_free(&out);
}

static void test_stop_match_without_strings_lets_all_through(void **state)
{
    (void)state;
    struct stop_match m;
    struct buf out;
    buf_init(&out, 100);
    stop_match_init(&m, NULL, 0);
    assert_int_equal(stop_match_push(&m, "abc", 3, &out), 0);
    assert_string_equal(out.data, "abc");
    stop_match_free(&m);
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_match_is_independent_of_splits),
        cmocka_unit_test(test_stop_match_holds_back_only_a_possible_beginning),
        cmocka_unit_test(test_stop_match_without_strings_lets_all_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
