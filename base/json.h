/* JSON: strict reading (Jansson behind limits) and writing into a buf.
 *
 * json_read takes RFC 8259 text in UTF-8: duplicate keys, lone surrogates, integers outside int64 and trailing bytes are errors,
 * "\u0000" is allowed (strings carry their length: json_string_length). Depth, values, names and text are counted before a tree
 * is built. Errors name the byte offset. The tree is Jansson's: read it with json_object_get etc., release with json_decref.
 * (Jansson rather than cJSON because of those strings, exact int64 and duplicate keys.) */
#ifndef SPILLWAY_BASE_JSON_H
#define SPILLWAY_BASE_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct json_limits {
    size_t max_bytes;
    size_t max_values; /* objects, arrays, members and items together */
    unsigned max_depth;
    size_t max_key_bytes;  /* of a member's name as it is spelled; 0: any */
    size_t max_text_bytes; /* of all strings of more than 16 bytes together, but for data: URLs in members `url` and `image_url`; 0: any */
};
extern const struct json_limits json_limits_request; /* depth 64, 100,000 values, 64 MB, names of 256 bytes: bodies of requests */
extern const struct json_limits json_limits_file;    /* depth 64, 4 M values, 100 MB: model files */

/* -ERR_INPUT: malformed; -ERR_LIMIT; -ERR_CONTEXT: max_text_bytes. Malformed text: e->param is the top-level member in which it is, where that can be told. *out is a new reference. what names the text in errors ("request body", a path). */
MUST_USE int json_read(const char *p, size_t n, const struct json_limits *limits, const char *what, json_t **out, struct err *e);
/* Reads a file; -ERR_NOT_FOUND if it is not there. */
MUST_USE int json_read_file(const char *path, const struct json_limits *limits, json_t **out, struct err *e);

/* What stands between a JSON string's quotes. */
int json_write_escaped(struct buf *b, const char *p, size_t n);
/* Appends a JSON string with its quotes; p must be valid UTF-8. Escapes only what RFC 8259 asks for. */
int json_write_string(struct buf *b, const char *p, size_t n);
/* Appends the value compactly, keeping the order of members. */
int json_write(struct buf *b, const json_t *v);

#endif
