/* The grammar of HTTP/1.1: what is taken, what is refused, wherever the bytes are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/http_parse.h"

/* Scans in pieces of `step` bytes, then parses. 0 or the status. */
static int read_header(const char *p, size_t n, size_t step, struct http_head *h)
{
    struct limits l;
    limits_init(&l);
    struct http_scan s = {0};
    int rc = 0;
    for (size_t end = step; rc == 0; end += step) {
        if (end > n) end = n;
        rc = http_head_scan(&s, p, end, &l);
        if (end == n) break;
    }
    if (rc == 0) return -1;
    if (rc < 0) return -rc;
    return -http_head_parse(h, p, (size_t)rc);
}

#define HOST "Host: x\r\n"
static const struct {
    const char *text;
    int status; /* 0: taken */
} headers[] = {
    {"GET / HTTP/1.1\r\n" HOST "\r\n", 0},
    {"\r\nGET / HTTP/1.1\r\n" HOST "\r\n", 0},
    {"\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET / HTTP/1.0\r\n\r\n", 0},
    {"GET / HTTP/1.1\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400},
    {"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", 0},
    {"GET / HTTP/2.0\r\n" HOST "\r\n", 505},
    {"GET / HTTP/1.10\r\n" HOST "\r\n", 400},
    {"GET / http/1.1\r\n" HOST "\r\n", 400},
    {"GET /\r\n" HOST "\r\n", 400},
    {"GET  / HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET / HTTP/1.1 \r\n" HOST "\r\n", 400},
    {"GET /a b HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET /\x7f HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET /\xc3\xa9 HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET a HTTP/1.1\r\n" HOST "\r\n", 400},
    {"OPTIONS * HTTP/1.1\r\n" HOST "\r\n", 0},
    {"CONNECT x:1 HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET http://x/a HTTP/1.1\r\n" HOST "\r\n", 0},
    {"GET http://y/a HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET ftp://x/a HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET http://x HTTP/1.1\r\n" HOST "\r\n", 400},
    {"G(T / HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET / HTTP/1.1\n" HOST "\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" HOST "\n", 400},
    {"GET / HTTP/1.1\r\n" HOST "A: b\rc\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" HOST "A: b\r\n c\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n A: b\r\n" HOST "\r\n", 400},
    {"GET / HTTP/1.1\r\n" HOST "A\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" HOST ": b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" HOST "A : b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" HOST "A B: b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" HOST "A: \x01\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" HOST "A:\r\n\r\n", 0},
    {"GET / HTTP/1.1\r\n" HOST "A: \t b\t \r\n\r\n", 0},
    {"GET / HTTP/1.1\r\n" HOST "A: caf\xc3\xa9\r\n\r\n", 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\n", 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 5, 5\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: +5\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: -5\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 0x5\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: \r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 9999999999999999999\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n", 0},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: ChUnKeD\r\n\r\n", 0},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", 400},
    {"POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\n\r\n", 0},
    {"POST / HTTP/1.1\r\n" HOST "Expect: tea\r\n\r\n", 400},
};

static void test_headers_are_judged_the_same_wherever_they_are_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        for (size_t step = 1; step < 80; step++) {
            struct http_head h;
            int got = read_header(headers[i].text, strlen(headers[i].text), step, &h);
            if (got != headers[i].status) fail_msg("%d, not %d, for: %s", got, headers[i].status, headers[i].text);
        }
}

static void test_nul_is_refused(void **state)
{
    (void)state;
    struct http_head h;
    static const char in_value[] = "GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", in_url[] = "GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_int_equal(read_header(in_value, sizeof in_value - 1, 7, &h), 400);
    assert_int_equal(read_header(in_url, sizeof in_url - 1, 7, &h), 400);
}

static void test_header_limits(void **state)
{
    (void)state;
    struct http_head h;
    static char p[40000];
    int n = sprintf(p, "GET /");
    memset(p + n, 'a', 20000);
    assert_int_equal(read_header(p, 20000, 1000, &h), 414);
    n = sprintf(p, "GET / HTTP/1.1\r\nA: ");
    memset(p + n, 'a', 30000);
    assert_int_equal(read_header(p, 30000, 1000, &h), 431);
    n = sprintf(p, "GET / HTTP/1.1\r\n");
    for (int i = 0; i < 65; i++) n += sprintf(p + n, "A: b\r\n");
    n += sprintf(p + n, "\r\n");
    assert_int_equal(read_header(p, (size_t)n, 11, &h), 431);
    n = sprintf(p, "GET / HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < 63; i++) n += sprintf(p + n, "A: b\r\n");
    n += sprintf(p + n, "\r\n");
    assert_int_equal(read_header(p, (size_t)n, 11, &h), 0);
}

static void test_fields_are_found_without_their_blanks(void **state)
{
    (void)state;
    const char *p = "\r\nGET /a?b HTTP/1.1\r\nHost: x\r\nA:  b c\t\r\nContent-Length: 42\r\nConnection: foo, Close\r\n\r\n";
    struct http_head h;
    assert_int_equal(read_header(p, strlen(p), 5, &h), 0);
    assert_true(h.content_length == 42 && !h.keep_alive && !h.chunked);
    assert_int_equal(h.target.n, 4);
    size_t at = 0, n = 0;
    struct http_slice name, value;
    while (http_head_next(p, strlen(p), &at, &name, &value))
        if (++n == 2) {
            assert_true(http_slice_is(name, "a"));
            assert_int_equal(value.n, 3);
            assert_memory_equal(value.p, "b c", 3);
        }
    assert_int_equal(n, 4);
}

/* The data, or NULL if it is refused; *left: bytes behind the body. */
static char *read_chunked(const char *p, size_t step, size_t *left)
{
    static char out[4096];
    size_t n = strlen(p), at = 0, n_out = 0;
    struct http_chunked c = {0};
    while (at < n) {
        size_t some = n - at < step ? n - at : step, used;
        struct http_slice data;
        int rc = http_chunked_next(&c, p + at, some, &used, &data);
        if (rc < 0) return NULL;
        memcpy(out + n_out, data.p, data.n);
        n_out += data.n;
        at += used;
        if (rc == 1) break;
    }
    out[n_out] = '\0';
    *left = n - at;
    return out;
}

static void test_chunks(void **state)
{
    (void)state;
    static const struct {
        const char *text, *data;
        size_t left;
    } cases[] = {
        {"0\r\n\r\n", "", 0},
        {"3\r\nabc\r\n0\r\n\r\nGET", "abc", 3},
        {"3\r\nabc\r\n1\r\n\n\r\n0\r\n\r\n", "abc\n", 0},
        {"00000003;x=\"y\"\r\nabc\r\n0\r\nTrailer: x\r\n\r\n", "abc", 0},
        {"A\r\n0123456789\r\n0\r\n\r\n", "0123456789", 0},
        {"3\nabc\r\n0\r\n\r\n", NULL, 0},
        {"3\r\nabc\n0\r\n\r\n", NULL, 0},
        {"3\r\nabcd\r\n0\r\n\r\n", NULL, 0},
        {"-3\r\nabc\r\n0\r\n\r\n", NULL, 0},
        {"+3\r\nabc\r\n0\r\n\r\n", NULL, 0},
        {"0x3\r\nabc\r\n0\r\n\r\n", NULL, 0},
        {" 3\r\nabc\r\n0\r\n\r\n", NULL, 0},
        {"3 \r\nabc\r\n0\r\n\r\n", NULL, 0},
        {"\r\nabc\r\n0\r\n\r\n", NULL, 0},
        {"fffffffff\r\nabc", NULL, 0},
        {"3\r\r\nabc", NULL, 0},
        {"0\r\n folded: x\r\n\r\n", NULL, 0},
        {"0\r\nTrailer: x\n\r\n", NULL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t step = 1; step < 40; step++) {
            size_t left = 0;
            const char *got = read_chunked(cases[i].text, step, &left);
            if (!got != !cases[i].data || (got && (strcmp(got, cases[i].data) != 0 || left != cases[i].left)))
                fail_msg("in steps of %zu: %s", step, cases[i].text);
        }
}

static void test_unescape(void **state)
{
    (void)state;
    static const struct {
        const char *text, *path;
    } cases[] = {{"/a", "/a"},   {"/%61%2F%2f", "/a//"}, {"/%2561", "/%61"}, {"/%C3%A9", "/\xc3\xa9"},
                 {"/%", NULL},   {"/%4", NULL},          {"/%zz", NULL},     {"/%00", NULL},
                 {"/%ff", NULL}, {"/%2", NULL},          {"/%41", "/A"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char p[64];
        strcpy(p, cases[i].text);
        int n = http_unescape(p, strlen(p));
        if (!cases[i].path) {
            assert_int_equal(n, -400);
            continue;
        }
        assert_int_equal(n, strlen(cases[i].path));
        assert_memory_equal(p, cases[i].path, (size_t)n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers_are_judged_the_same_wherever_they_are_cut),
        cmocka_unit_test(test_nul_is_refused),
        cmocka_unit_test(test_header_limits),
        cmocka_unit_test(test_fields_are_found_without_their_blanks),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_unescape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
