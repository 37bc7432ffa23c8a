/* base/log: what a line looks like whatever comes in, and that nobody waits for the reader of standard error. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/str.h"

static struct {
    int saved, read_fd; /* standard error before the test; the pipe in its place */
} t;

static int pipe_begin(void **state)
{
    (void)state;
    int p[2];
    if (pipe(p)) return -1;
    t.saved = dup(STDERR_FILENO);
    t.read_fd = p[0];
    dup2(p[1], STDERR_FILENO);
    close(p[1]);
    log_setup(LOG_INFO, "test");
    log_set_format(LOG_TEXT);
    return 0;
}

static int pipe_end(void **state)
{
    (void)state;
    dup2(t.saved, STDERR_FILENO);
    close(t.saved);
    close(t.read_fd);
    return 0;
}

/* What has been written so far. */
static const char *taken(void)
{
    static char text[1 << 16];
    fcntl(t.read_fd, F_SETFL, O_NONBLOCK);
    ssize_t n = read(t.read_fd, text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

/* Behind the time, which must be RFC 3339 in UTC with milliseconds. */
static const char *behind_time(const char *line)
{
    const char *shape = "dddd-dd-ddTdd:dd:dd.dddZ ";
    for (; *shape; shape++, line++) {
        if (*shape == 'd')
            assert_in_range(*line, '0', '9');
        else
            assert_int_equal(*line, *shape);
    }
    return line;
}

static json_t *json_line(const char *line)
{
    struct err e = {0};
    json_t *v = NULL;
    if (json_read(line, strlen(line), &json_limits_request, "line", &v, &e)) fail_msg("%s: %s", e.msg, line);
    return v;
}

static const char *member(const json_t *v, const char *name)
{
    const char *s = json_string_value(json_object_get(v, name));
    return s ? s : "(none)";
}

static void test_a_text_line_tells_time_level_part_message_and_fields(void **state)
{
    (void)state;
    const struct log_field fields[] = {
        {.name = "path", .text = "/v1/models"}, {.name = "status", .number = 200}, {.name = "who", .text = "a b"}};
    log_write_fields(LOG_WARN, fields, 3, "it %s", "is");
    assert_string_equal(behind_time(taken()), "warn [test] it is path=/v1/models status=200 who=\"a b\"\n");
}

static void test_a_json_line_has_the_same(void **state)
{
    (void)state;
    log_set_format(LOG_JSON);
    const struct log_field fields[] = {{.name = "path", .text = "/\"x"}, {.name = "status", .number = -7}};
    log_write_fields(LOG_ERROR, fields, 2, "it %s", "\"is\"");
    json_t *v = json_line(taken());
    assert_string_equal(member(v, "level"), "error");
    assert_string_equal(member(v, "part"), "test");
    assert_string_equal(member(v, "msg"), "it \"is\"");
    assert_string_equal(member(v, "path"), "/\"x");
    assert_int_equal(json_integer_value(json_object_get(v, "status")), -7);
    assert_int_equal(strlen(member(v, "time")), strlen("2026-11-21T11:30:00.123Z"));
    json_decref(v);
}

static void test_lines_above_the_level_are_dropped(void **state)
{
    (void)state;
    log_debug("one");
    assert_string_equal(taken(), "");
    log_set_level(LOG_DEBUG);
    log_debug("two");
    assert_non_null(strstr(taken(), "debug [test] two"));
}

/* Whatever the bytes: one line, valid UTF-8, no control character, at most LOG_LINE_BYTES. */
static void check_line(const char *line)
{
    size_t n = strlen(line);
    assert_true(n > 0 && n <= LOG_LINE_BYTES);
    assert_int_equal(line[n - 1], '\n');
    assert_true(utf8_valid(line, n));
    for (size_t i = 0; i + 1 < n;) {
        uint32_t cp;
        int len = utf8_decode(line + i, n - i, &cp);
        assert_true(len > 0);
        if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || (cp >= 0x2028 && cp <= 0x202e) || (cp >= 0x2066 && cp <= 0x2069))
            fail_msg("U+%04X in a line", (unsigned)cp);
        i += (size_t)len;
    }
}

static void test_control_characters_cannot_forge_a_line(void **state)
{
    (void)state;
    log_info("a\nb\r\x1b[31mc\x7f\xc2\x9b"
             "d\xe2\x80\xae"
             "e\xff");
    const char *line = taken();
    check_line(line);
    assert_string_equal(behind_time(line), "info [test] a\\nb\\r\\u001b[31mc\\u007f\\u009bd\\u202ee\xef\xbf\xbd\n");
}

static void test_any_bytes_make_one_clean_line(void **state)
{
    (void)state;
    srand(7);
    char text[3000];
    for (int round = 0; round < 4000; round++) {
        log_set_format(round % 2 ? LOG_JSON : LOG_TEXT);
        size_t n = (size_t)rand() % sizeof text;
        int kind = rand() % 3;
        for (size_t i = 0; i < n; i++)
            text[i] = (char)(kind == 0 ? 1 + rand() % 255 : kind == 1 ? 1 + rand() % 31 : "\xe2\x80\xae\"\\"[rand() % 5]);
        text[n ? n - 1 : 0] = '\0';
        const struct log_field fields[] = {
            {.name = "a", .text = text}, {.name = "b", .text = text}, {.name = "c", .text = text}, {.name = "d", .text = text}};
        log_write_fields(LOG_INFO, fields, 1 + (size_t)rand() % 4, "%s", text);
        const char *line = taken();
        check_line(line);
        if (round % 2) json_decref(json_line(line));
    }
}

static void test_a_long_value_is_cut_and_says_so(void **state)
{
    (void)state;
    char text[3000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    const struct log_field field = {.name = "path", .text = text};
    log_write_fields(LOG_INFO, &field, 1, "m");
    const char *line = taken();
    assert_true(strlen(line) < 700);
    assert_string_equal(line + strlen(line) - 4, "...\n");
}

static void test_nobody_waits_for_a_reader_that_stands_still(void **state)
{
    (void)state;
    enum { LINES = 20000 };
    log_start();
    int64_t from_ms = clock_boot_ms();
    for (int i = 0; i < LINES; i++) log_info("line %d of many, with some more text to fill the pipe and then the ring", i);
    assert_true(clock_boot_ms() - from_ms < 2000);
    log_stop(50); /* gives up: the pipe is full */
    assert_true(clock_boot_ms() - from_ms < 3000);
    /* read all: whole lines in order, then how many are missing */
    fcntl(t.read_fd, F_SETFL, 0);
    static char text[LOG_RING_BYTES + (1 << 20)];
    size_t n = 0;
    const char *told;
    while (!(told = strstr(text, "log lines were dropped")) || !strchr(told, '\n')) {
        ssize_t got = read(t.read_fd, text + n, sizeof text - 1 - n);
        assert_true(got > 0);
        n += (size_t)got;
        text[n] = '\0';
    }
    int seen = 0, number;
    for (const char *p = text; (p = strstr(p, "] line ")); p++, seen++) {
        assert_int_equal(sscanf(p, "] line %d of", &number), 1);
        assert_int_equal(number, seen);
    }
    while (told > text && *told != ']') told--;
    assert_int_equal(sscanf(told, "] %d log lines were dropped", &number), 1);
    assert_int_equal(seen + number, LINES);
}

static void test_lines_are_out_after_stop(void **state)
{
    (void)state;
    log_start();
    for (int i = 0; i < 100; i++) log_info("n%d", i);
    log_stop(2000);
    const char *text = taken();
    assert_non_null(strstr(text, "] n0\n"));
    assert_non_null(strstr(text, "] n99\n"));
    log_info("after");
    assert_non_null(strstr(taken(), "] after\n"));
}

static void test_a_plain_line_keeps_its_place(void **state)
{
    (void)state;
    log_start();
    for (int i = 0; i < 50; i++) {
        log_info("a%d", i);
        log_plain("b%d", i);
    }
    log_stop(2000);
    const char *text = taken();
    for (int i = 0; i < 50; i++) {
        char a[24], b[24];
        snprintf(a, sizeof a, "] a%d\n", i);
        snprintf(b, sizeof b, "\nb%d\n", i);
        const char *at = strstr(text, a);
        assert_non_null(at);
        text = strstr(at, b);
        assert_non_null(text);
    }
}

static void test_names_read_back(void **state)
{
    (void)state;
    for (int i = LOG_ERROR; i <= LOG_DEBUG; i++) {
        enum log_level l = LOG_ERROR;
        assert_true(log_level_read(log_level_name((enum log_level)i), &l));
        assert_int_equal(l, i);
    }
    enum log_format f = LOG_TEXT;
    assert_true(log_format_read("json", &f));
    assert_int_equal(f, LOG_JSON);
    assert_false(log_format_read("xml", &f));
}

#define ROW(f) cmocka_unit_test_setup_teardown(f, pipe_begin, pipe_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROW(test_a_text_line_tells_time_level_part_message_and_fields),
        ROW(test_a_json_line_has_the_same),
        ROW(test_lines_above_the_level_are_dropped),
        ROW(test_control_characters_cannot_forge_a_line),
        ROW(test_any_bytes_make_one_clean_line),
        ROW(test_a_long_value_is_cut_and_says_so),
        ROW(test_lines_are_out_after_stop),
        ROW(test_a_plain_line_keeps_its_place),
        ROW(test_names_read_back),
        ROW(test_nobody_waits_for_a_reader_that_stands_still), /* last: its writer is left behind */
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
