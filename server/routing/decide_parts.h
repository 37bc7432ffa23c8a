/* Decide, inside: what its files share. */
#ifndef SPILLWAY_SERVER_ROUTING_DECIDE_PARTS_H
#define SPILLWAY_SERVER_ROUTING_DECIDE_PARTS_H

#include "server/routing/decide.h"

/* One decision under way. */
struct work {
    const struct route_candidate *c;
    size_t n;
    const struct route_wish *w;
    const struct route_state *s;
    struct route_decision *d;
    int at;                                          /* route_again: the candidate in whose queue it waits; -1: none */
    int probe;                                       /* the candidate that goes first to be measured; -1: none */
    enum overflow_verdict overflow[NAME_MAX_ROUTES]; /* of those that stand in */
    double race[NAME_MAX_ROUTES];                    /* of the weighted draw: the least is first */
    uint8_t order[NAME_MAX_ROUTES];
};

/* decide_filter.c: d->passed and d->spills of every candidate; those that may serve have ROUTE_LATER. */
void decide_filter(struct work *k);
/* decide_order.c: order, and probe. After decide_filter. */
void decide_order(struct work *k);
/* decide_refuse.c: the rest of d, for a request that nobody serves. */
void decide_refuse(struct work *k);

bool decide_is_hosted(const struct route_candidate *c);
void decide_overflow_ask(const struct route_candidate *c, const struct route_wish *w, struct overflow_ask *a);

#endif
