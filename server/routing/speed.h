/* Speed: what a (host, model) has lately taken to its first token and for each token after it, and when it should be measured again.
 *
 * Averages fade: half of a measurement's weight is gone after SPEED_HALF_MS, and what has less weight than a fresh one after SPEED_KNOWN_MS
 * is not known any more. Only whole answers are measured, from the moment the request was sent.
 *
 * Where requests go to the fastest, the others are never seen again. So one in SPEED_PROBE_ONE_IN goes to the candidate that was measured
 * longest ago, if that is SPEED_STALE_MS or more, if it was not probed in the last SPEED_PROBE_GAP_MS, and if it costs at most twice as
 * much: a real request that gets a real answer, no extra one. Pure: time is an argument (boot clock, ms). A zeroed struct is not known.
 * Loop's thread. */
#ifndef SPILLWAY_SERVER_ROUTING_SPEED_H
#define SPILLWAY_SERVER_ROUTING_SPEED_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SPEED_HALF_MS = 120 * 1000,
    SPEED_KNOWN_MS = 600 * 1000,
    SPEED_STALE_MS = 60 * 1000,
    SPEED_PROBE_GAP_MS = 30 * 1000,
    SPEED_PROBE_ONE_IN = 32
};

struct speed {
    double first_ms, token_us;         /* averages; where nothing was measured 0 */
    double first_weight, token_weight; /* as of at_ms */
    int64_t at_ms;                     /* of the last measurement */
    int64_t probed_ms;                 /* 0: never */
};

struct speed_now {
    int64_t first_ms; /* 0: not known */
    int64_t token_us; /* 0: not known */
    int64_t age_ms;   /* of the last measurement; INT64_MAX: never */
    bool may_probe;
};

/* first_ms: from sending to the first content; n_tokens came in the took_ms after it. 0 tokens or ms: only the first is learned. */
void speed_note(struct speed *s, int64_t first_ms, int64_t n_tokens, int64_t took_ms, int64_t now_ms);
/* What somebody else has measured (a router's list of models): taken only while nothing is known here. */
void speed_suggest(struct speed *s, int64_t first_ms, int64_t token_us, int64_t now_ms);
struct speed_now speed_now(const struct speed *s, int64_t now_ms);
void speed_probed(struct speed *s, int64_t now_ms);
/* Whether a request is one of those that probe; draw: its random number. */
bool speed_is_probe(uint64_t draw);

#endif
