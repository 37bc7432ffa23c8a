/* server/sse_read: events out of bytes, however they are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/sse_read.h"

static struct {
    struct sse_read s;
    struct buf seen; /* "name|data;" of each event */
    int answer;
} t;

static int note(void *ctx, const char *name, const char *data, size_t n)
{
    assert_ptr_equal(ctx, &t);
    assert_int_equal(data[n], '\0');
    buf_printf(&t.seen, "%s|", name);
    buf_append(&t.seen, data, n);
    buf_putc(&t.seen, ';');
    return t.answer;
}

static int begin(void **state)
{
    (void)state;
    memset(&t, 0, sizeof t);
    sse_read_init(&t.s, note, &t);
    buf_init(&t.seen, 1 << 22);
    return 0;
}

static int end(void **state)
{
    (void)state;
    sse_read_free(&t.s);
    buf_free(&t.seen);
    return 0;
}

static const char *seen(void)
{
    return t.seen.data ? t.seen.data : "";
}

/* The same bytes in one piece, byte by byte, and cut at random must make the same events. */
static void check(const char *stream, size_t n, const char *want)
{
    for (int way = 0; way < 20; way++) {
        struct err e = {0};
        end(NULL);
        begin(NULL);
        srand((unsigned)way);
        for (size_t at = 0; at < n;) {
            size_t piece = way == 0 ? n : way == 1 ? 1 : 1 + (size_t)rand() % 7;
            if (piece > n - at) piece = n - at;
            char *copy = malloc(piece); /* nothing may be read behind its end */
            memcpy(copy, stream + at, piece);
            assert_int_equal(sse_read_push(&t.s, copy, piece, &e), 0);
            free(copy);
            at += piece;
        }
        assert_string_equal(seen(), want);
    }
}
#define CHECK_STREAM(stream, want) check(stream, sizeof(stream) - 1, want)

static void test_data_lines_become_events(void **state)
{
    (void)state;
    CHECK_STREAM("data: {\"a\":1}\n\ndata:x\n\ndata: [DONE]\n\n", "message|{\"a\":1};message|x;message|[DONE];");
}

static void test_all_three_line_ends_hold(void **state)
{
    (void)state;
    CHECK_STREAM("data: a\r\n\r\ndata: b\r\rdata: c\n\ndata: d\r\n\n", "message|a;message|b;message|c;message|d;");
}

static void test_several_data_lines_are_joined(void **state)
{
    (void)state;
    CHECK_STREAM("data: a\ndata:  b\ndata\ndata: c\n\n", "message|a\n b\n\nc;");
}

static void test_an_event_has_a_name(void **state)
{
    (void)state;
    CHECK_STREAM("event: ping\ndata: a\n\ndata: b\n\nevent: lost\n\ndata: c\n\n", "ping|a;message|b;message|c;");
}

static void test_comments_other_fields_and_the_mark_are_ignored(void **state)
{
    (void)state;
    CHECK_STREAM("\xef\xbb\xbf"
                 ": hello\nid: 7\nretry: 1\nnonsense\ndata: a\n: in between\n\n\n\n",
                 "message|a;");
}

static void test_an_event_without_its_empty_line_is_not_handed_out(void **state)
{
    (void)state;
    CHECK_STREAM("data: a\n\ndata: b\n", "message|a;");
}

static void test_an_empty_data_line_is_an_event(void **state)
{
    (void)state;
    CHECK_STREAM("data:\n\n", "message|;");
}

static void test_a_line_has_a_bound(void **state)
{
    (void)state;
    char piece[4096];
    memset(piece, 'x', sizeof piece);
    struct err e = {0};
    int rc = sse_read_push(&t.s, "data: ", 6, &e), n = 0;
    for (; !rc && n < 1000; n++) rc = sse_read_push(&t.s, piece, sizeof piece, &e);
    assert_int_equal(rc, -ERR_LIMIT);
    assert_int_equal(n, SSE_MAX_LINE_BYTES / (int)sizeof piece);
}

static void test_an_event_has_a_bound(void **state)
{
    (void)state;
    struct err e = {0};
    int rc = 0, n = 0;
    char line[1024];
    memset(line, 'y', sizeof line);
    memcpy(line, "data: ", 6);
    line[sizeof line - 1] = '\n';
    for (; !rc && n < 2000; n++) rc = sse_read_push(&t.s, line, sizeof line, &e);
    assert_int_equal(rc, -ERR_LIMIT);
    assert_in_range(n, 1000, 1100);
    assert_string_equal(seen(), "");
}

static void test_what_the_event_says_stops_the_reading(void **state)
{
    (void)state;
    struct err e = {0};
    t.answer = -ERR_INPUT;
    assert_int_equal(sse_read_push(&t.s, "data: a\n\ndata: b\n\n", 18, &e), -ERR_INPUT);
    assert_string_equal(seen(), "message|a;");
}

#define ROW(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROW(test_data_lines_become_events),
        ROW(test_all_three_line_ends_hold),
        ROW(test_several_data_lines_are_joined),
        ROW(test_an_event_has_a_name),
        ROW(test_comments_other_fields_and_the_mark_are_ignored),
        ROW(test_an_event_without_its_empty_line_is_not_handed_out),
        ROW(test_an_empty_data_line_is_an_event),
        ROW(test_a_line_has_a_bound),
        ROW(test_an_event_has_a_bound),
        ROW(test_what_the_event_says_stops_the_reading),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
