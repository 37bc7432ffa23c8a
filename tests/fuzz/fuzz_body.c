/* HTTP bodies: base/json.c's verdict equals that of a parser written apart from it (strict_json.c), and what it accepts it can write and read
 * again without a change (T46). The number of values is limited lower than in the server, so that short inputs reach it. */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/strict_json.h"

static const char *const words[] = {"{",
                                    "}",
                                    "[",
                                    "]",
                                    ",",
                                    ":",
                                    "\"",
                                    "\\u0000",
                                    "\\ud800",
                                    "\\udc00",
                                    "\\u0041",
                                    "\\",
                                    "null",
                                    "true",
                                    "false",
                                    "1e400",
                                    "-0",
                                    "0.5e-3",
                                    "1E+",
                                    "01",
                                    "-",
                                    "\"a\":1",
                                    "{\"a\":",
                                    "\"url\":\"data:",
                                    "image_url",
                                    "[[[[[[",
                                    "]]]]]]",
                                    "\xEF\xBB\xBF",
                                    "\xED\xA0\x80",
                                    "\xC0\x80",
                                    "\xF4\x90\x80\x80",
                                    "\xF0\x9F\x98\x80",
                                    "9223372036854775807",
                                    "9223372036854775808",
                                    "-9223372036854775808",
                                    "-9223372036854775809",
                                    "\x7F",
                                    "\x1F",
                                    "/",
                                    "//",
                                    "NaN",
                                    "Infinity",
                                    "\"\\ud83d\\ude00\"",
                                    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    struct fuzz_random r = {seed};
    switch (fuzz_below(&r, 3)) {
    case 0:
        return fuzz_mutate_words(p, n, max, fuzz_next(&r), words);
    case 1:
        return fuzz_mutate_json(p, n, max, fuzz_next(&r), words);
    default:
        return LLVMFuzzerMutate(p, n, max);
    }
}

static void check_round_trip(const json_t *v)
{
    struct buf b;
    struct err e;
    json_t *again;
    buf_init(&b, 1 << 20);
    FUZZ_CHECK(json_write(&b, v) == 0);
    FUZZ_CHECK(json_read(b.data, b.len, &json_limits_request, "again", &again, &e) == 0);
    FUZZ_CHECK(json_equal((json_t *)(uintptr_t)v, again));
    json_decref(again);
    buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const struct json_limits limits = {.max_bytes = 1 << 16, .max_values = 300, .max_depth = 64, .max_key_bytes = 40};
    static const struct strict_json_limits strict = {.max_depth = 64, .max_values = 300, .max_key_bytes = 40};
    if (n > limits.max_bytes) return 0;
    struct err e = {0};
    json_t *v;
    int rc = json_read((const char *)p, n, &limits, "request body", &v, &e);
    bool second = strict_json_valid((const char *)p, n, &strict);
    if (rc) {
        FUZZ_CHECK(!v && !second);
        FUZZ_CHECK(rc == -ERR_INPUT || rc == -ERR_LIMIT);
        fuzz_check_err(rc, &e);
        return 0;
    }
    FUZZ_CHECK(second);
    check_round_trip(v);
    json_decref(v);
    struct json_limits less = limits; /* the same with little text: accepted or told to be too long */
    less.max_text_bytes = 64;
    rc = json_read((const char *)p, n, &less, "request body", &v, &e);
    FUZZ_CHECK(rc == 0 || rc == -ERR_CONTEXT);
    if (rc) fuzz_check_err(rc, &e);
    json_decref(v);
    return 0;
}
