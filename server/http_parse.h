/* HTTP/1.1 parsing: the header of a request and chunked bodies, by RFC 9112 without its tolerances. Pure functions on bytes, no I/O.
 *
 * What a proxy in front might read differently is refused, not repaired: a line that ends with LF alone, a CR alone, folded lines, NUL,
 * blanks before a colon, two Content-Length fields (also equal ones), Content-Length beside Transfer-Encoding, any coding but "chunked",
 * two Host or two Authorization fields. One empty line before the request line is skipped (RFC 9112 section 2.2). Errors are negative HTTP statuses. */
#ifndef SPILLWAY_SERVER_HTTP_PARSE_H
#define SPILLWAY_SERVER_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "server/limits.h"

/* How far a header that arrives in pieces has been looked at; zero-initialise. */
struct http_scan {
    size_t at, line, lines, skip; /* skip: bytes of the empty line before it */
    const char *why;              /* after an error */
};

/* Looks at the bytes that are new since the last call. > 0: the header's length, its last empty line included; 0: more is needed; negative: -400
 * (not HTTP), -414, -431. Each byte is looked at once. */
MUST_USE int http_head_scan(struct http_scan *s, const char *p, size_t n, const struct limits *l);

struct http_slice {
    const char *p;
    size_t n;
};

/* Slices point into the header's bytes. */
struct http_head {
    struct http_slice method, target, host; /* target: origin-form with its query (of an absolute URI its path), or "*" */
    bool http10, keep_alive, expects_continue, chunked;
    int64_t content_length; /* 0 if there is none; not meaningful if chunked */
    const char *why;        /* after an error: what is wrong */
};

/* p, n: a whole header, as http_head_scan found it. 0, -400, -505. */
MUST_USE int http_head_parse(struct http_head *h, const char *p, size_t n);
/* The next field of a header that http_head_parse has taken; *at is 0 at first. false: there is none. */
bool http_head_next(const char *p, size_t n, size_t *at, struct http_slice *name, struct http_slice *value);
bool http_slice_is(struct http_slice s, const char *text); /* ASCII letters of either case */

/* A chunked body; zero-initialise. */
struct http_chunked {
    int state;
    uint64_t left;
    unsigned digits, overhead; /* overhead: bytes of extensions of this chunk, or of trailers */
};

/* Takes bytes from p; sets *used and the slice of data among them (may be empty). 1: the body has ended (*used tells where), 0: more, -400. Call again
 * while *used < n. */
MUST_USE int http_chunked_next(struct http_chunked *c, const char *p, size_t n, size_t *used, struct http_slice *data);

/* "%41" -> "A" in place, once; returns the new length or -400: a broken escape, %00, or not UTF-8. */
MUST_USE int http_unescape(char *p, size_t n);

#endif
