/* Strict JSON: a second opinion on RFC 8259 text, written apart from base/json.c and without recursion, for the differential test of request
 * bodies (T46). It builds nothing; it says whether the text is acceptable: grammar, UTF-8, no lone surrogate, no duplicate key, no
 * NUL in a key, integers within int64, finite numbers, nesting and number of values within the limits. */
#ifndef SPILLWAY_TESTS_FUZZ_STRICT_JSON_H
#define SPILLWAY_TESTS_FUZZ_STRICT_JSON_H

#include <stdbool.h>
#include <stddef.h>

struct strict_json_limits {
    size_t max_depth, max_values, max_key_bytes; /* max_key_bytes: of a key as it is spelled */
};
bool strict_json_valid(const char *p, size_t n, const struct strict_json_limits *limits);

#endif
