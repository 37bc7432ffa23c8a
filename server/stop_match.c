/* Stop strings: see stop_match.h. held keeps the longest suffix of the text that begins some stop string. */
#include "server/stop_match.h"

#include <string.h>

void stop_match_init(struct stop_match *m, const struct stop_string *stops, size_t n_stops)
{
    *m = (struct stop_match){.stops = stops, .n_stops = n_stops};
    buf_init(&m->held, 2 * STOP_MAX_BYTES);
}

void stop_match_free(struct stop_match *m)
{
    buf_free(&m->held);
}

/* Length of the longest stop string that ends the held text; 0: none. */
static size_t ended(const struct stop_match *m)
{
    size_t best = 0;
    for (size_t i = 0; i < m->n_stops; i++) {
        const struct stop_string *s = &m->stops[i];
        if (s->n > best && s->n <= m->held.len && memcmp(m->held.data + m->held.len - s->n, s->p, s->n) == 0) best = s->n;
    }
    return best;
}

/* Length of the longest suffix of the held text that begins a stop string. */
static size_t begun(const struct stop_match *m)
{
    for (size_t n = m->held.len; n > 0; n--)
        for (size_t i = 0; i < m->n_stops; i++)
            if (n < m->stops[i].n && memcmp(m->held.data + m->held.len - n, m->stops[i].p, n) == 0) return n;
    return 0;
}

static int let_through(struct stop_match *m, size_t n, struct buf *out)
{
    int rc = buf_append(out, m->held.data, n);
    if (!rc) buf_consume(&m->held, n);
    return rc;
}

int stop_match_push(struct stop_match *m, const char *p, size_t n, struct buf *out)
{
    if (m->matched) return 1;
    if (m->n_stops == 0) return buf_append(out, p, n);
    for (size_t i = 0; i < n; i++) {
        int rc = buf_putc(&m->held, p[i]);
        if (rc) return rc;
        size_t stop = ended(m);
        if (stop) {
            m->matched = true;
            rc = let_through(m, m->held.len - stop, out);
            return rc ? rc : 1;
        }
        size_t keep = begun(m);
        if (keep < m->held.len) rc = let_through(m, m->held.len - keep, out);
        if (rc) return rc;
    }
    return 0;
}

int stop_match_flush(struct stop_match *m, struct buf *out)
{
    if (m->matched || m->held.len == 0) return 0;
    return let_through(m, m->held.len, out);
}
