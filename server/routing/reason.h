/* Reasons: why a route was chosen, passed over or refused; one table for the decision, its explanation, the metrics and the manual. */
#ifndef SPILLWAY_SERVER_ROUTING_REASON_H
#define SPILLWAY_SERVER_ROUTING_REASON_H

#include <stdbool.h>

#include "base/err.h"

enum route_reason {
    ROUTE_LATER, /* not looked at: an earlier one was chosen */
    ROUTE_CHOSEN,
    /* why one was chosen where nothing better was passed over */
    ROUTE_LOCAL_OK,
    ROUTE_BY_POLICY,
    ROUTE_WAITS,
    /* why one was passed over, and so why another was chosen or the request refused; in the order in which they are looked at */
    ROUTE_ATTEMPTS,
    ROUTE_TRIED,
    ROUTE_LOCAL_ONLY,
    ROUTE_MODEL,
    ROUTE_PROVIDER,
    ROUTE_REGION,
    ROUTE_RETENTION,
    ROUTE_CAPABILITY,
    ROUTE_CONTEXT,
    ROUTE_PRICE_UNKNOWN,
    ROUTE_PRICE,
    ROUTE_OVERFLOW_OFF,
    ROUTE_BUDGET,
    ROUTE_HELD,
    ROUTE_RESERVE,
    ROUTE_DOWN,
    ROUTE_KEY,
    ROUTE_BREAKER,
    ROUTE_RETRY,
    ROUTE_CAP,
    ROUTE_SHARE,
    ROUTE_DEADLINE,
    ROUTE_FULL,
    ROUTE_QUEUE,
    ROUTE_SLOWER,
    ROUTE_REASONS
};

struct route_reason_row {
    const char *name;  /* in headers, JSON, metrics, docs/routing.md */
    const char *words; /* what is said of the candidate: "NAME words" */
    /* As a refusal, where no candidate is left. Of several the one with the highest rank is told: what will pass before what will not. 0:
     * never told. */
    int rank, status;
    const char *code; /* of the API's errors */
    enum err_code err;
    bool again; /* a later try may succeed: with Retry-After */
};
extern const struct route_reason_row route_reasons[ROUTE_REASONS];

#endif
