/* Stop strings: lets through the text of a stream up to the first stop string and holds back what may yet become one.
 *
 * The first stop string to be complete wins (of several complete at the same byte, the longest), so the result does not
 * depend on how the text is split. At most the longest stop string's length less one is held. The stop string itself is
 * not let through. */
#ifndef SPILLWAY_SERVER_STOP_MATCH_H
#define SPILLWAY_SERVER_STOP_MATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

enum { STOP_MAX_STRINGS = 4, STOP_MAX_BYTES = 1024 };

struct stop_string {
    const char *p;
    size_t n; /* 1 .. STOP_MAX_BYTES */
};

struct stop_match {
    const struct stop_string *stops; /* borrowed */
    size_t n_stops;
    struct buf held;
    bool matched;
};

void stop_match_init(struct stop_match *m, const struct stop_string *stops, size_t n_stops);
void stop_match_free(struct stop_match *m); /* accepts a zeroed struct */
/* Appends to out what may be shown now. Returns 1 when a stop string is complete (what follows is dropped), 0, or a
 * buffer's error. */
MUST_USE int stop_match_push(struct stop_match *m, const char *p, size_t n, struct buf *out);
/* The text ended without a stop string: what was held is shown. */
MUST_USE int stop_match_flush(struct stop_match *m, struct buf *out);

#endif
