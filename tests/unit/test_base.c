/* base/: errors, arenas, buffers, UTF-8, JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "base/json_quick.h"
#include "base/str.h"

static void test_err_set_returns_the_negative_code(void **state)
{
    (void)state;
    struct err e;
    assert_int_equal(err_set(&e, ERR_LIMIT, "%d of %d", 7, 5), -ERR_LIMIT);
    assert_int_equal(e.code, ERR_LIMIT);
    assert_string_equal(e.msg, "7 of 5");
    assert_int_equal(err_prefix(&e, "file %s", "a"), -ERR_LIMIT);
    assert_string_equal(e.msg, "file a: 7 of 5");
    assert_int_equal(err_set(NULL, ERR_IO, "x"), -ERR_IO);
}

static void test_err_message_is_never_cut_inside_a_character(void **state)
{
    (void)state;
    struct err e;
    char text[600];
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'a', sizeof text);
        for (size_t i = shift; i + 4 < sizeof text; i += 4) memcpy(text + i, "\xF0\x9F\x98\x80", 4);
        text[sizeof text - 1] = '\0';
        err_set(&e, ERR_INPUT, "%s", text);
        assert_true(strlen(e.msg) > sizeof e.msg - 6);
        assert_true(utf8_valid(e.msg, strlen(e.msg)));
    }
}

static void test_arena_refuses_past_its_ceiling(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 1000);
    char *p = arena_alloc(&a, 500);
    assert_non_null(p);
    for (int i = 0; i < 500; i++) assert_int_equal(p[i], 0);
    assert_null(arena_alloc(&a, 600));
    assert_non_null(arena_alloc(&a, 400));
    assert_null(arena_array(&a, SIZE_MAX / 2, 4));
    arena_reset(&a);
    assert_non_null(arena_alloc(&a, 900));
    arena_free(&a);
}

static void test_arena_alignment_is_16(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 1 << 22);
    for (size_t i = 1; i < 300; i++) assert_int_equal((uintptr_t)arena_alloc(&a, i * 7) % 16, 0);
    assert_string_equal(arena_copy(&a, "abcdef", 3), "abc");
    arena_free(&a);
}

static void test_buf_keeps_its_maximum(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 10);
    assert_int_equal(buf_puts(&b, "12345"), 0);
    assert_int_equal(buf_puts(&b, "678901"), -ERR_LIMIT);
    assert_string_equal(b.data, "12345");
    assert_int_equal(b.failed, -ERR_LIMIT);
    assert_int_equal(buf_printf(&b, "%d", 67890), 0);
    assert_int_equal(b.len, 10);
    assert_int_equal(buf_putc(&b, 'x'), -ERR_LIMIT);
    buf_consume(&b, 4);
    assert_string_equal(b.data, "567890");
    buf_free(&b);
}

static void test_buf_read_file_names_the_file(void **state)
{
    (void)state;
    struct buf b;
    struct err e;
    buf_init(&b, 100);
    assert_int_equal(buf_read_file(&b, "/nonexistent/file", &e), -ERR_NOT_FOUND);
    assert_non_null(strstr(e.msg, "/nonexistent/file"));
    assert_int_equal(buf_read_file(&b, "/dev/zero", &e), -ERR_LIMIT);
    buf_free(&b);
}

static void test_utf8_cut_ends_with_a_whole_character(void **state)
{
    (void)state;
    const char *s = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z"; /* 1, 2, 3, 4 and 1 bytes */
    const size_t want[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11, 11};
    for (size_t max = 0; max < sizeof want / sizeof want[0]; max++) assert_int_equal(utf8_cut(s, max), want[max]);
    assert_int_equal(utf8_cut("\x80\x80\x80\x80\x80", 4), 4); /* no character is cut where there is none */
    assert_int_equal(utf8_cut("ab\xff"
                              "cd",
                              3),
                     3);
    assert_int_equal(utf8_cut("", 5), 0);
}

static void test_utf8_decode_maximal_subparts(void **state)
{
    (void)state;
    uint32_t cp;
    assert_int_equal(utf8_decode("\xF0\x9F\x98\x80", 4, &cp), 4);
    assert_int_equal(cp, 0x1F600);
    assert_int_equal(utf8_decode("\xF0\x9F\x98", 3, &cp), 0);  /* incomplete but valid so far */
    assert_int_equal(utf8_decode("\xF0\x9F\x28", 3, &cp), -2); /* two bytes belong together */
    assert_int_equal(utf8_decode("\xED\xA0\x80", 3, &cp), -1); /* surrogate */
    assert_int_equal(utf8_decode("\xC0\xAF", 2, &cp), -1);     /* overlong */
    assert_int_equal(utf8_decode("\xF4\x90\x80\x80", 4, &cp), -1);
    for (uint32_t c = 0; c < 0x110000; c += 7) {
        if (c >= 0xD800 && c < 0xE000) continue;
        char out[4];
        size_t n = utf8_encode(c, out);
        assert_int_equal(utf8_decode(out, n, &cp), (int)n);
        assert_int_equal(cp, c);
    }
}

static void test_str_parse_int64_is_strict(void **state)
{
    (void)state;
    int64_t v;
    assert_true(str_parse_int64("-9223372036854775808", INT64_MIN, INT64_MAX, &v));
    assert_true(v == INT64_MIN);
    static const char *const bad[] = {"", "-", "+1", " 1", "1 ", "0x1", "9223372036854775808", "1.0", "11"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(str_parse_int64(bad[i], -10, 10, &v));
}

static int read_text(const char *text, size_t n, json_t **v, struct err *e)
{
    return json_read(text, n, &json_limits_request, "body", v, e);
}

static void test_json_refuses_what_rfc8259_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {"",         "{",        "[1,]", "{\"a\":1,\"a\":2}",    "\"\\ud800\"", "nul", "[1] x",
                                      "\"\xff\"", "\"a\nb\"", "[01]", "99999999999999999999", "1e400",       "'a'", "[NaN]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *v;
        struct err e;
        assert_true(read_text(bad[i], strlen(bad[i]), &v, &e) < 0);
        assert_null(v);
        assert_non_null(strstr(e.msg, "body"));
    }
}

static void test_json_refuses_a_nul_byte_anywhere(void **state)
{
    (void)state;
    static const char *const bad[] = {"[1~]", "1~", "{\"a\":1~}", "\"a~\"", "[~]"}; /* ~ stands for NUL */
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[16];
        size_t n = strlen(bad[i]);
        for (size_t k = 0; k < n; k++) text[k] = bad[i][k] == '~' ? '\0' : bad[i][k];
        json_t *v;
        struct err e;
        assert_int_equal(read_text(text, n, &v, &e), -ERR_INPUT);
        assert_null(v);
    }
}

static void test_json_errors_are_utf8_without_the_library_s_words(void **state)
{
    (void)state;
    static const char *const bad[] = {"\"\\\xEF\xBB\xBF\"", "[\xF0\x9F\x98\x80", "{\"\xC3\xA9\":1,\"\xC3\xA9\":2}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *v;
        struct err e;
        assert_int_equal(read_text(bad[i], strlen(bad[i]), &v, &e), -ERR_INPUT);
        assert_true(utf8_valid(e.msg, strlen(e.msg)));
        assert_null(strstr(e.msg, "near"));
    }
}

static void test_err_messages_are_utf8(void **state)
{
    (void)state;
    struct err e;
    err_set(&e, ERR_INPUT, "a \xFF b %.1s c", "\xC3\xA9");
    assert_string_equal(e.msg, "a \xEF\xBF\xBD b \xEF\xBF\xBD c");
}

static void test_json_strings_with_nul_and_exact_int64(void **state)
{
    (void)state;
    static const char text[] = "[\"a\\u0000b\",9007199254740993,-9223372036854775808,1.5]";
    json_t *v;
    struct err e;
    assert_int_equal(read_text(text, strlen(text), &v, &e), 0);
    assert_int_equal(json_string_length(json_array_get(v, 0)), 3);
    assert_true(json_integer_value(json_array_get(v, 1)) == 9007199254740993);
    struct buf b;
    buf_init(&b, 1000);
    assert_int_equal(json_write(&b, v), 0);
    assert_string_equal(b.data, text);
    buf_free(&b);
    json_decref(v);
}

static void test_json_depth_and_count_limits(void **state)
{
    (void)state;
    char deep[200];
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    json_t *v;
    struct err e;
    assert_int_equal(read_text(deep, 200, &v, &e), -ERR_LIMIT);
    assert_int_equal(read_text(deep + 36, 128, &v, &e), 0);
    json_decref(v);
    struct json_limits few = {.max_bytes = 100, .max_values = 4, .max_depth = 4};
    assert_int_equal(json_read("[1,2,3]", 7, &few, "x", &v, &e), 0);
    json_decref(v);
    assert_int_equal(json_read("[1,2,3,4]", 9, &few, "x", &v, &e), -ERR_LIMIT);
    assert_int_equal(json_read("[\"[[[[[[,,,,,\"]", 15, &few, "x", &v, &e), 0); /* inside a string nothing counts */
    json_decref(v);
}

static void test_json_name_limit(void **state)
{
    (void)state;
    char text[300] = "{\"";
    json_t *v;
    struct err e;
    memset(text + 2, 'k', 257);
    strcpy(text + 2 + 257, "\":1}");
    assert_int_equal(read_text(text, strlen(text), &v, &e), -ERR_LIMIT);
    assert_int_equal(read_text(text + 1, strlen(text) - 1, &v, &e), -ERR_LIMIT); /* malformed, but counted all the same */
    memmove(text + 2, text + 3, strlen(text) - 2);
    assert_int_equal(read_text(text, strlen(text), &v, &e), 0);
    json_decref(v);
    memset(text, ' ', sizeof text);
    text[0] = '"'; /* a long value is no name */
    text[298] = '"';
    text[299] = '\0';
    assert_int_equal(read_text(text, 299, &v, &e), 0);
    json_decref(v);
}

/* 40 bytes of text are allowed. */
#define TEXT20 "12345678901234567890"
static void test_json_text_limit(void **state)
{
    (void)state;
    static const struct json_limits few = {.max_bytes = 1000, .max_values = 100, .max_depth = 8, .max_text_bytes = 40};
    static const struct {
        const char *text;
        int rc;
    } cases[] = {
        {"[\"" TEXT20 TEXT20 "\"]", 0},
        {"[\"" TEXT20 TEXT20 "1\"]", -ERR_CONTEXT},
        {"[\"" TEXT20 "\",\"" TEXT20 "\"]", 0},
        {"[\"" TEXT20 "\",\"" TEXT20 "1\"]", -ERR_CONTEXT},
        {"[\"" TEXT20 "\",\"" TEXT20 "\",\"a short string\",\"1234567890123456\"]", 0},
        {"[\"" TEXT20 "\",\"" TEXT20 "\",\"12345678901234567\"]", -ERR_CONTEXT},
        {"{\"" TEXT20 "\":\"" TEXT20 "1\"}", -ERR_CONTEXT},
        {"[\"\\n\\\"\\\\\\t567890" TEXT20 "1234567890\"]", 0}, /* an escape is a byte */
        {"[\"\\n\\\"\\\\\\t567890" TEXT20 "12345678901\"]", -ERR_CONTEXT},
        {"[\"" TEXT20 TEXT20 "\\\"\"]", -ERR_CONTEXT},
        {"[\"\\u0041\\u0041" TEXT20 "123456789012345678\"]", 0},
        {"[\"\\u0041\\u0041" TEXT20 "1234567890123456789\"]", -ERR_CONTEXT},
        {"{\"url\":\"data:" TEXT20 TEXT20 "\"}", 0},
        {"{\"image_url\":\"data:" TEXT20 TEXT20 "\\u0041\\\"\"}", 0},
        {"{\"url\":\"data:" TEXT20 TEXT20 "\",\"a\":\"" TEXT20 TEXT20 "\"}", 0},
        {"{\"url\":\"data:" TEXT20 TEXT20 "\",\"a\":\"" TEXT20 TEXT20 "1\"}", -ERR_CONTEXT},
        {"{\"url\":\"http:" TEXT20 TEXT20 "\"}", -ERR_CONTEXT},
        {"{\"urk\":\"data:" TEXT20 TEXT20 "\"}", -ERR_CONTEXT},
        {"{\"url\":1,\"b\":\"data:" TEXT20 TEXT20 "\"}", -ERR_CONTEXT},
        {"{\"url\":[\"data:" TEXT20 TEXT20 "\"]}", -ERR_CONTEXT},
        {"[\"\\\"", -ERR_INPUT}, /* ends inside */
        {"[\"\\", -ERR_INPUT},
        {"[\"\\u0", -ERR_INPUT},
        {"{\"url\":\"data:\\", -ERR_INPUT},
        {"[\"", -ERR_INPUT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *v;
        struct err e;
        int rc = json_read(cases[i].text, strlen(cases[i].text), &few, "x", &v, &e);
        if (rc != cases[i].rc) fail_msg("%s: %d", cases[i].text, rc);
        json_decref(v);
    }
}

static void test_json_write_string_escapes(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    static const char raw[] = "a\"\\\n\t\r\b\f\x01\0/\x7f\xc3\xa9";
    assert_int_equal(json_write_string(&b, raw, sizeof raw - 1), 0);
    assert_string_equal(b.data, "\"a\\\"\\\\\\n\\t\\r\\b\\f\\u0001\\u0000/\x7f\xc3\xa9\"");
    buf_free(&b);
}

/* The library's memory is ours (json.c). */
static void free_dump(char *text)
{
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    release(text);
}

/* Random JSON, most of it well-formed. */
static void put_json(struct buf *b, unsigned depth)
{
    static const char *const scalars[] = {"0", "-0", "7", "-12", "9223372036854775807", "-9223372036854775808", "9223372036854775808", "01", "1.5", "-2.5e3", "1e400", "1E-2",
                                          "true", "false", "null", "nul", "\"\"", "\"a b\"", "\"caf\xc3\xa9\"", "\"\xff\"", "\"tab\\t\\n\\\\\\\"\\/x\"", "\"\\u00e9\"", "\"\\ud800\"",
                                          "\"\\x\"", "\"line\nfeed\"", "-", "1.", ".5", "1e", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\""};
    static const char *const blanks[] = {"", "", "", " ", "\n", "\t \r\n"};
    static const char *const keys[] = {"a", "b", "c", "model", "caf\xc3\xa9", "", "messages"};
    int kind = depth ? rand() % 4 : 3, n = rand() % 4;
    buf_puts(b, blanks[rand() % 6]);
    if (kind < 2) {
        buf_putc(b, kind ? '[' : '{');
        for (int i = 0; i < n; i++) {
            if (i) buf_putc(b, ',');
            if (!kind) buf_printf(b, "%s\"%s\"%s:", blanks[rand() % 6], keys[rand() % 7], blanks[rand() % 6]);
            put_json(b, depth - 1);
        }
        buf_puts(b, blanks[rand() % 6]);
        buf_putc(b, kind ? ']' : '}');
    } else
        buf_puts(b, scalars[rand() % (rand() % 3 ? 6 : (int)(sizeof scalars / sizeof *scalars))]);
    buf_puts(b, blanks[rand() % 6]);
}

static void test_json_quick_reads_what_the_library_reads(void **state)
{
    (void)state;
    struct buf b;
    int n_read = 0;
    srand(11);
    buf_init(&b, 1 << 20);
    for (int i = 0; i < 40000; i++) {
        buf_clear(&b);
        put_json(&b, 4);
        if (rand() % 4 == 0) b.data[(size_t)rand() % b.len] = "\"{}[],:\\ 0"[rand() % 10];
        json_t *quick = json_quick(b.data, b.len, malloc, free);
        if (!quick) continue;
        json_t *v = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
        char *ours = json_dumps(quick, JSON_COMPACT | JSON_ENCODE_ANY), *its = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
        if (!v || strcmp(ours, its) != 0) fail_msg("read otherwise: %s", b.data);
        n_read++;
        free_dump(ours);
        free_dump(its);
        json_decref(quick);
        json_decref(v);
    }
    assert_true(n_read > 10000);
    buf_free(&b);
}

static void test_json_quick_leaves_no_plain_request_to_the_library(void **state)
{
    (void)state;
    static const char text[] = "{\"model\": \"x/y\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\\n\"}], \"temperature\": 0.7, \"n\": 1, \"stream\": true, \"stop\": null}";
    json_t *v = json_quick(text, sizeof text - 1, malloc, free);
    assert_non_null(v);
    json_decref(v);
}

static void test_json_write_writes_what_the_library_writes(void **state)
{
    (void)state;
    struct buf b, out;
    srand(12);
    buf_init(&b, 1 << 20);
    buf_init(&out, 1 << 20);
    for (int i = 0; i < 5000; i++) {
        buf_clear(&b);
        buf_clear(&out);
        put_json(&b, 4);
        json_t *v = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
        if (!v) continue;
        char *its = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
        assert_int_equal(json_write(&out, v), 0);
        assert_string_equal(out.data, its);
        free_dump(its);
        json_decref(v);
    }
    buf_free(&b);
    buf_free(&out);
}

static void test_json_blames_the_member(void **state)
{
    (void)state;
    const struct {
        const char *text, *param;
    } cases[] = {
        {"{\"a\":1,\"temperature\":1e400}", "temperature"},
        {"{\"n\":9223372036854775808,\"b\":1}", "n"},
        {"{\"x\":NaN}", "x"},
        {"{\"x\":{\"y\":[1,-]}}", "x"},
        {"{\"a\":\"b:c\",\"x\":01}", "x"},
        {"{\"x\":1,}", ""},
        {"[NaN]", ""},
        {"{\"a\\\"b\":NaN}", ""},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *v;
        struct err e;
        assert_int_equal(json_read(cases[i].text, strlen(cases[i].text), &json_limits_request, "text", &v, &e), -ERR_INPUT);
        assert_string_equal(e.param, cases[i].param);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_blames_the_member),
        cmocka_unit_test(test_json_quick_reads_what_the_library_reads),
        cmocka_unit_test(test_json_quick_leaves_no_plain_request_to_the_library),
        cmocka_unit_test(test_json_write_writes_what_the_library_writes),
        cmocka_unit_test(test_err_set_returns_the_negative_code),
        cmocka_unit_test(test_err_message_is_never_cut_inside_a_character),
        cmocka_unit_test(test_arena_refuses_past_its_ceiling),
        cmocka_unit_test(test_arena_alignment_is_16),
        cmocka_unit_test(test_buf_keeps_its_maximum),
        cmocka_unit_test(test_buf_read_file_names_the_file),
        cmocka_unit_test(test_utf8_decode_maximal_subparts),
        cmocka_unit_test(test_utf8_cut_ends_with_a_whole_character),
        cmocka_unit_test(test_str_parse_int64_is_strict),
        cmocka_unit_test(test_json_refuses_what_rfc8259_refuses),
        cmocka_unit_test(test_json_refuses_a_nul_byte_anywhere),
        cmocka_unit_test(test_json_errors_are_utf8_without_the_library_s_words),
        cmocka_unit_test(test_err_messages_are_utf8),
        cmocka_unit_test(test_json_strings_with_nul_and_exact_int64),
        cmocka_unit_test(test_json_depth_and_count_limits),
        cmocka_unit_test(test_json_name_limit),
        cmocka_unit_test(test_json_text_limit),
        cmocka_unit_test(test_json_write_string_escapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
