/* SSE, reading side: bytes of a text/event-stream in any pieces become events (WHATWG HTML, "Server-sent events", section 9.2.6).
 *
 * Lines end with LF, CR or CRLF; a line "data: x" adds x to the event, several are joined with LF; "event: x" names it; a line that
 * begins with ':' is a comment; other fields are ignored; an empty line hands the event out if it has data. An event cut off by the
 * end of the stream is never handed out. A line, and an event's data, are bounded: a stream is input from outside. Nothing here knows
 * what the data is. No memory is kept but these two buffers. */
#ifndef SPILLWAY_SERVER_SSE_READ_H
#define SPILLWAY_SERVER_SSE_READ_H

#include <stdbool.h>

#include "base/buf.h"

enum { SSE_MAX_LINE_BYTES = 1 << 20, SSE_MAX_NAME_BYTES = 64 };

/* name: "message" if the event has none; data: n bytes and a NUL, borrowed for the call. Not 0: reading stops with that code. */
typedef int sse_event_fn(void *ctx, const char *name, const char *data, size_t n);

struct sse_read {
    sse_event_fn *event;
    void *ctx;
    struct buf line, data;
    char name[SSE_MAX_NAME_BYTES];
    bool begun;    /* a byte order mark may come no more */
    bool after_cr; /* an LF that comes next belongs to it */
    bool has_data;
};

void sse_read_init(struct sse_read *s, sse_event_fn *event, void *ctx);
/* -ERR_LIMIT: a line or an event of more than SSE_MAX_LINE_BYTES; -ERR_MEMORY; or what event returned, *e as it left it. After an error the
 * stream must not be read on. */
MUST_USE int sse_read_push(struct sse_read *s, const char *p, size_t n, struct err *e);
void sse_read_free(struct sse_read *s); /* accepts a zeroed struct */

#endif
