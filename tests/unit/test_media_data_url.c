/* data: URLs: what is taken, what is refused and with which code, and that time grows with length only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/media/data_url.h"

static int decode(const char *url, size_t n, size_t max_bytes, struct buf *out, struct err *e)
{
    char *exact = malloc(n ? n : 1); /* exactly n bytes: the sanitizer sees an over-read */
    memcpy(exact, url, n);
    *e = (struct err){0};
    int rc = data_url_decode(exact, n, max_bytes, out, e);
    free(exact);
    return rc;
}

static void test_decodes_each_padding(void **state)
{
    (void)state;
    static const char *const good[][2] = {
        {"data:image/png;base64,aGVsbG8h", "hello!"},
        {"data:image/png;base64,aGVsbG8=", "hello"},
        {"data:image/png;base64,aGVsbA==", "hell"},
        {"DATA:Image/PNG;Base64,aGVsbA==", "hell"},
        {"data:image/svg+xml;charset=x;base64,+/+/", "\xfb\xff\xbf"},
    };
    struct buf out;
    struct err e;
    buf_init(&out, 100);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (decode(good[i][0], strlen(good[i][0]), 100, &out, &e)) fail_msg("%s: %s", good[i][0], e.msg);
        assert_int_equal(out.len, strlen(good[i][1]));
        assert_memory_equal(out.data, good[i][1], out.len);
    }
    buf_free(&out);
}

static void test_refuses_all_that_is_not_strict_base64(void **state)
{
    (void)state;
    static const struct {
        const char *url;
        int rc;
    } bad[] = {
        {"", -ERR_UNSUPPORTED},
        {"data", -ERR_UNSUPPORTED},
        {"data:", -ERR_INPUT},
        {"data:image/png;base64", -ERR_INPUT},
        {"http://example.com/a.png", -ERR_UNSUPPORTED},
        {"https://example.com/a.png", -ERR_UNSUPPORTED},
        {"file:///etc/passwd", -ERR_UNSUPPORTED},
        {"data:text/html;base64,aGVsbG8h", -ERR_UNSUPPORTED},
        {"data:video/jpeg;base64,aGVsbG8h", -ERR_UNSUPPORTED},
        {"data:;base64,aGVsbG8h", -ERR_UNSUPPORTED},
        {"data:,aGVsbG8h", -ERR_UNSUPPORTED},
        {"data:image/png,aGVsbG8h", -ERR_UNSUPPORTED},
        {"data:image/png;base64;x=y,aGVsbG8h", -ERR_UNSUPPORTED},
        {"data:image/png;base64,", -ERR_INPUT},
        {"data:image/png;base64,aGVsbG8", -ERR_INPUT},
        {"data:image/png;base64,aGVsbA=", -ERR_INPUT},
        {"data:image/png;base64,aGVsbA", -ERR_INPUT},
        {"data:image/png;base64,aGVs bG8h", -ERR_INPUT},
        {"data:image/png;base64,aGVs\nbG8haGV", -ERR_INPUT},
        {"data:image/png;base64,aGVsbG8h\n", -ERR_INPUT},
        {"data:image/png;base64, aGVsbG8haGV", -ERR_INPUT},
        {"data:image/png;base64,aGVs-G8h", -ERR_INPUT},
        {"data:image/png;base64,aGVs_G8h", -ERR_INPUT},
        {"data:image/png;base64,aG==bG8h", -ERR_INPUT},
        {"data:image/png;base64,====", -ERR_INPUT},
        {"data:image/png;base64,a===", -ERR_INPUT},
        {"data:image/png;base64,aGVsbB==", -ERR_INPUT},
        {"data:image/png;base64,aGVsbG9=", -ERR_INPUT},
        {"data:image/png;base64,aGVs\x80\xff==", -ERR_INPUT},
        {"data:image/png;base64,%61GVsbG8", -ERR_INPUT},
    };
    struct buf out;
    struct err e;
    buf_init(&out, 100);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int rc = decode(bad[i].url, strlen(bad[i].url), 100, &out, &e);
        if (rc != bad[i].rc) fail_msg("%s: %d, %s", bad[i].url, rc, e.msg);
        assert_int_equal(out.len, 0);
    }
    assert_int_equal(decode("data:image/png;base64,aG\0sbG8h", 30, 100, &out, &e), -ERR_INPUT);
    buf_free(&out);
}

static void test_the_error_names_the_byte(void **state)
{
    (void)state;
    struct buf out;
    struct err e;
    buf_init(&out, 100);
    assert_int_equal(decode("data:image/png;base64,aGVsbG8haGV*", 34, 100, &out, &e), -ERR_INPUT);
    assert_non_null(strstr(e.msg, "byte 33"));
    buf_free(&out);
}

static void test_every_byte_value_is_judged(void **state)
{
    (void)state;
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    struct buf out;
    struct err e;
    buf_init(&out, 100);
    for (int c = 0; c < 256; c++) {
        char url[] = "data:image/png;base64,AAAA";
        url[25] = (char)c;
        const char *place = c ? strchr(alphabet, c) : NULL;
        int rc = decode(url, 26, 100, &out, &e);
        if (c == '=') {
            assert_int_equal(rc, 0);
            assert_int_equal(out.len, 2);
        } else if (place) {
            assert_int_equal(rc, 0);
            assert_int_equal((uint8_t)out.data[2], place - alphabet);
        } else {
            assert_int_equal(rc, -ERR_INPUT);
        }
    }
    buf_free(&out);
}

static void test_the_limit_is_exact_and_comes_before_decoding(void **state)
{
    (void)state;
    struct buf out;
    struct err e;
    buf_init(&out, 1000);
    static const char *const urls[] = {"data:image/png;base64,aGVsbG8h",
                                       "data:image/png;base64,aGVsbG8=", "data:image/png;base64,aGVsbA=="};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(decode(urls[i], 30, 6 - i, &out, &e), 0);
        assert_int_equal(decode(urls[i], 30, 5 - i, &out, &e), -ERR_LIMIT);
    }
    buf_free(&out);
    buf_init(&out, 4); /* the buffer's own maximum */
    assert_int_equal(decode(urls[0], 30, 100, &out, &e), -ERR_LIMIT);
    assert_null(out.data);
    buf_free(&out);
}

/* Of this process, so that what else runs here does not count. */
static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* The least processor time of a few rounds of decoding a url of 22 + n bytes. */
static int64_t decode_ns(const char *url, size_t n, size_t limit, int rc, struct buf *out)
{
    int64_t best = INT64_MAX;
    for (int round = 0; round < 5; round++) {
        struct err e;
        int64_t start = cpu_ns();
        assert_int_equal(data_url_decode(url, 22 + n, limit, out, &e), rc);
        int64_t took = cpu_ns() - start;
        if (took < best) best = took;
    }
    return best;
}

/* Four times the text, at most eight times the time: 4 expected, a quadratic one takes 16. A disturbed machine is asked again. The character
 * `last` stands where it is found last of all. */
static void linear_check(char last, int rc)
{
    enum { HEAD = 22, SMALL = 4 << 20, LARGE = 16 << 20, TRIES = 10 };
    char *url = malloc(HEAD + LARGE);
    assert_non_null(url);
    memcpy(url, "data:image/png;base64,", HEAD);
    struct buf out;
    buf_init(&out, LARGE);
    int64_t small = 0, large = 0;
    for (int try = 0; try < TRIES && (try == 0 || large >= 8 * small); try++) {
        int64_t took[2];
        for (int size = 0; size < 2; size++) {
            size_t n = size ? LARGE : SMALL;
            memset(url + HEAD, 'A', n);
            url[HEAD + n - 4] = last;
            took[size] = decode_ns(url, n, LARGE, rc, &out);
            assert_int_equal(out.len, rc ? 0 : n / 4 * 3);
        }
        small = took[0], large = took[1];
    }
    assert_true(large < 8 * small);
    buf_free(&out);
    free(url);
}

static void test_time_is_linear(void **state)
{
    (void)state;
    linear_check('A', 0);
}

/* Whatever is in it: its length alone tells, so that the time does not depend on it. */
static void t37_a_huge_url_is_refused_by_its_length(void **state)
{
    (void)state;
    enum { HEAD = 22, HUGE = 64 << 20 };
    static const char fillings[] = {'A', ' ', '\n', '=', '*', '\0'};
    char *url = malloc(HEAD + HUGE);
    memcpy(url, "data:image/png;base64,", HEAD);
    struct buf out;
    buf_init(&out, 20 << 20);
    for (size_t i = 0; i < sizeof fillings; i++) {
        memset(url + HEAD, fillings[i], HUGE);
        int64_t took = decode_ns(url, HUGE, 20 << 20, -ERR_LIMIT, &out);
        assert_null(out.data);       /* no memory was taken */
        assert_true(took < 1000000); /* ns; reading 64 MiB takes longer */
    }
    buf_free(&out);
    free(url);
}

/* A third more text than bytes, and not one byte more memory than the limit. */
static void t37_the_text_at_the_limit_takes_the_limit(void **state)
{
    (void)state;
    enum { HEAD = 22, BYTES = 3 << 20, TEXT = 4 << 20 };
    char *url = malloc(HEAD + TEXT + 4);
    memcpy(url, "data:image/png;base64,", HEAD);
    memset(url + HEAD, 'A', TEXT + 4);
    struct buf out;
    struct err e;
    buf_init(&out, BYTES);
    assert_int_equal(data_url_decode(url, HEAD + TEXT, BYTES, &out, &e), 0);
    assert_int_equal(out.len, BYTES);
    assert_int_equal(data_url_decode(url, HEAD + TEXT + 4, BYTES, &out, &e), -ERR_LIMIT);
    buf_free(&out);
    free(url);
}

/* The worst place for each kind of wrong character is the end: everything before it has been read. */
static void t37_wrong_characters_cost_linear_time(void **state)
{
    (void)state;
    static const char wrong[] = {' ', '\n', '*', '=', '\xff'};
    for (size_t i = 0; i < sizeof wrong; i++) linear_check(wrong[i], -ERR_INPUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decodes_each_padding),
        cmocka_unit_test(test_refuses_all_that_is_not_strict_base64),
        cmocka_unit_test(test_the_error_names_the_byte),
        cmocka_unit_test(test_every_byte_value_is_judged),
        cmocka_unit_test(test_the_limit_is_exact_and_comes_before_decoding),
        cmocka_unit_test(test_time_is_linear),
        cmocka_unit_test(t37_a_huge_url_is_refused_by_its_length),
        cmocka_unit_test(t37_the_text_at_the_limit_takes_the_limit),
        cmocka_unit_test(t37_wrong_characters_cost_linear_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
