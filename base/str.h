/* Str: UTF-8 and small string helpers on (pointer, length) pairs. No memory is owned here. */
#ifndef SPILLWAY_BASE_STR_H
#define SPILLWAY_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one code point of the n > 0 bytes at p. Returns its length 1..4 and sets *cp; for an invalid sequence it returns minus the
 * length of the maximal invalid subpart (1..3, as WHATWG and Rust's from_utf8_lossy count it); 0 if the n bytes are a
 * valid but incomplete prefix. */
int utf8_decode(const char *p, size_t n, uint32_t *cp);
/* Writes 1..4 bytes (cp must be a scalar value). */
size_t utf8_encode(uint32_t cp, char out[4]);
bool utf8_valid(const char *p, size_t n);
/* Would end a line, steer a terminal or show later text in another order: C0, DEL, C1, line separators, direction overrides and isolates. */
bool utf8_is_control(uint32_t cp);
/* How many of the first max bytes of s end with a whole character: for "%.*s". */
size_t utf8_cut(const char *s, size_t max);

bool str_starts_with(const char *s, const char *prefix);
bool str_ends_with(const char *s, const char *suffix);
/* Strict decimal integer in [min, max] of the whole string: no blanks, no '+', no overflow. */
bool str_parse_int64(const char *s, int64_t min, int64_t max, int64_t *out);

#endif
