/* SSE, reading side: see sse_read.h. */
#include "server/sse_read.h"

#include <stdio.h>
#include <string.h>

static const char *const bom = "\xef\xbb\xbf";

void sse_read_init(struct sse_read *s, sse_event_fn *event, void *ctx)
{
    *s = (struct sse_read){.event = event, .ctx = ctx};
    buf_init(&s->line, SSE_MAX_LINE_BYTES);
    buf_init(&s->data, SSE_MAX_LINE_BYTES);
}

void sse_read_free(struct sse_read *s)
{
    buf_free(&s->line);
    buf_free(&s->data);
}

static int buf_error(const struct buf *b, struct err *e)
{
    if (b->failed == -ERR_MEMORY) return err_set(e, ERR_MEMORY, "out of memory");
    return err_set(e, ERR_LIMIT, "the event stream has a line or an event of more than %d bytes", SSE_MAX_LINE_BYTES);
}

static int hand_out(struct sse_read *s)
{
    int rc = s->has_data ? s->event(s->ctx, s->name[0] ? s->name : "message", s->data.data, s->data.len) : 0;
    buf_clear(&s->data);
    s->name[0] = '\0';
    s->has_data = false;
    return rc;
}

static int take_data(struct sse_read *s, const char *value, size_t n, struct err *e)
{
    if (s->has_data) buf_putc(&s->data, '\n');
    buf_append(&s->data, value, n);
    s->has_data = true;
    return s->data.failed ? buf_error(&s->data, e) : 0;
}

static int take_line(struct sse_read *s, const char *p, size_t n, struct err *e)
{
    if (!s->begun && n >= 3 && memcmp(p, bom, 3) == 0) {
        p += 3;
        n -= 3;
    }
    s->begun = true;
    if (n == 0) return hand_out(s);
    if (*p == ':') return 0;
    const char *colon = memchr(p, ':', n);
    size_t n_field = colon ? (size_t)(colon - p) : n, at = colon ? n_field + 1 : n;
    if (at < n && p[at] == ' ') at++;
    if (n_field == 4 && memcmp(p, "data", 4) == 0) return take_data(s, p + at, n - at, e);
    if (n_field == 5 && memcmp(p, "event", 5) == 0)
        snprintf(s->name, sizeof s->name, "%.*s", (int)(n - at < sizeof s->name ? n - at : sizeof s->name), p + at);
    return 0;
}

static size_t next_of(const char *p, size_t at, size_t end, char c)
{
    const char *found = at < end ? memchr(p + at, c, end - at) : NULL;
    return found ? (size_t)(found - p) : end;
}

int sse_read_push(struct sse_read *s, const char *p, size_t n, struct err *e)
{
    size_t at = 0, lf = next_of(p, 0, n, '\n'); /* the next one from at on, or n */
    int rc = 0;
    while (at < n && !rc) {
        if (s->after_cr && p[at] == '\n') at++;
        s->after_cr = false;
        if (lf < at) lf = next_of(p, at, n, '\n');
        size_t end = next_of(p, at, lf, '\r');
        bool whole = end<n, pieces = s->line.len> 0 || !whole;
        if (pieces && buf_append(&s->line, p + at, end - at)) return buf_error(&s->line, e);
        if (whole) {
            s->after_cr = p[end] == '\r';
            rc = pieces ? take_line(s, s->line.data, s->line.len, e) : take_line(s, p + at, end - at, e);
            buf_clear(&s->line);
        }
        at = end + whole;
    }
    return rc;
}
