/* Breaker: whether a host's model is asked at all. One a (host, model); keys have a health of their own (host_keys.h).
 *
 *     closed      asked. BREAKER_IN_A_ROW failures one after another, or BREAKER_OF_LAST of the last BREAKER_LAST outcomes, open it
 *     open        not asked until a time: BREAKER_FIRST_MS, doubled when a probe fails or it opens again before it has been closed for as
 *                 long as it was open (and BREAKER_CALM_MS), BREAKER_MOST_MS at most; a Retry-After that was told lengthens it, to
 *                 BREAKER_HINT_MS at most
 *     half-open   one request goes as a probe. It does well: closed. It fails: open again, for longer. It leaves without an outcome: the
 *                 next is the probe
 *
 * What counts: connect errors, timeouts, 5xx, overload, streams cut before or after their first byte. What does not: the caller's faults, a
 * key's faults, clients that left (retry.h's fault_rows tells). Outcomes of requests that began before it opened are not counted while it
 * is open.
 *
 * Pure: time is an argument (boot clock, ms). A zeroed struct is closed. Loop's thread. */
#ifndef SPILLWAY_SERVER_ROUTING_BREAKER_H
#define SPILLWAY_SERVER_ROUTING_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum {
    BREAKER_IN_A_ROW = 8,
    BREAKER_LAST = 40,
    BREAKER_OF_LAST = 20,
    BREAKER_STALE_MS = 60 * 1000, /* outcomes before a pause of this length are forgotten, but for failures in a row */
    BREAKER_FIRST_MS = 5 * 1000,
    BREAKER_MOST_MS = 300 * 1000,
    BREAKER_HINT_MS = 3600 * 1000,
    BREAKER_CALM_MS = 10 * 1000,
    BREAKER_PROBE_MS = 120 * 1000 /* a probe without an outcome for so long is given up */
};

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };
enum breaker_verdict { BREAKER_GO, BREAKER_PROBE, BREAKER_NO }; /* PROBE: half-open, and this would be the one */

struct breaker {
    enum breaker_state state;
    uint64_t last; /* outcomes, the newest in bit 0; 1: failed */
    unsigned in_a_row;
    unsigned n_opened; /* in this bad time; the exponent */
    uint64_t epoch;    /* of the newest opening: outcomes of older requests do not count */
    int64_t outcome_ms, open_until_ms, hint_until_ms, closed_ms, probe_ms;
    int64_t open_ms; /* how long it was to be open last */
    bool probe_out;
    uint64_t n_failures, n_openings; /* since ever, for metrics */
};

/* What a request that was let through carries until its outcome. */
struct breaker_pass {
    uint64_t epoch;
    bool probe;
};

enum breaker_verdict breaker_verdict(const struct breaker *b, int64_t now_ms);
int64_t breaker_wait_ms(const struct breaker *b, int64_t now_ms); /* until it may be asked again; 0: now */
/* The request goes, and exactly one of the three ends follows. false: it must not after all (between decision and sending somebody else
 * became the probe, or it opened): decide again. */
MUST_USE bool breaker_begin(struct breaker *b, int64_t now_ms, struct breaker_pass *p);
void breaker_ok(struct breaker *b, struct breaker_pass p, int64_t now_ms);
/* retry_after_ms: what the host said; 0: nothing. */
void breaker_failed(struct breaker *b, struct breaker_pass p, int64_t retry_after_ms, int64_t now_ms);
/* Neither: the client left, the fault was the caller's or the key's. */
void breaker_abandon(struct breaker *b, struct breaker_pass p);
const char *breaker_state_name(const struct breaker *b, int64_t now_ms); /* "closed", "open", "half-open" */

#endif
