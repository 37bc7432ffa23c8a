/* Host keys: which of a host's keys a request is sent with, and the health of each. It is apart from the host's own (breaker.h): a key that
 * is wrong, blocked or without money says nothing about the host, and the other keys go on.
 *
 *     dead        401, 403, 402, a quota's end, an account that is suspended: not used until the configuration is read again, or until one
 *                 request tries it after HOST_KEY_DEAD_MS, then twice that, up to HOST_KEY_DEAD_MOST_MS
 *     resting     429: until the time that the host told, else HOST_KEY_REST_MS, doubled with each 429 in a row up to
 *                 HOST_KEY_REST_MOST_MS; or the host told that nothing is left until its limit is filled again
 *     usable      the rest
 *
 * A session keeps its key while that is usable (a host's prompt cache is its customer's); else they take turns. The secrets are elsewhere:
 * here a key is a number. Pure: time is an argument (boot clock, ms). A zeroed struct with n set is a good start. Loop's thread. */
#ifndef SPILLWAY_SERVER_ROUTING_HOST_KEYS_H
#define SPILLWAY_SERVER_ROUTING_HOST_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/routing/retry.h"

enum {
    HOST_KEYS_MAX = 16,
    HOST_KEY_DEAD_MS = 600 * 1000,
    HOST_KEY_DEAD_MOST_MS = 3600 * 1000,
    HOST_KEY_REST_MS = 1000,
    HOST_KEY_REST_MOST_MS = 60 * 1000,
    HOST_KEY_HINT_MS = 24 * 3600 * 1000 /* the longest that a host may make a key rest */
};

struct host_key {
    int64_t dead_until_ms, rest_until_ms; /* 0: it is not */
    bool trying;                          /* it was dead, and one request tries it */
    unsigned n_dead, n_limited;           /* in a row */
};

struct host_keys {
    struct host_key key[HOST_KEYS_MAX];
    size_t n;    /* 0: the host wants no key */
    size_t turn; /* the one after the last that was used */
};

/* The key for a request, or -1 and in *wait_ms when one may be usable again. session: its hash, 0: none. A host that wants no key gives 0.
 * Changes nothing. */
int host_keys_pick(const struct host_keys *k, uint64_t session, int64_t now_ms, int64_t *wait_ms);
/* It goes with key i. */
void host_keys_begin(struct host_keys *k, int i, int64_t now_ms);
/* What came of it. hint_ms: Retry-After or the like; 0: none. For FAULT_NONE, too. */
void host_keys_end(struct host_keys *k, int i, enum fault fault, int64_t hint_ms, int64_t now_ms);
/* The answer's rate-limit headers: how many requests or tokens are left (the least of the limits that were told), and until it is filled
 * again. */
void host_keys_limits(struct host_keys *k, int i, int64_t remaining, int64_t reset_ms, int64_t now_ms);
void host_keys_revive(struct host_keys *k);                                        /* the configuration was read again */
const char *host_key_state_name(const struct host_keys *k, int i, int64_t now_ms); /* "usable", "resting", "dead" */

#endif
