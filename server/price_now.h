/* Prices in force: gateway.tariffs, kept as the store has them. What operators set is taken over with the next look, which reads on a pool
 * thread and a connection of its own, so that a slow store holds nobody up. A table that is malformed is told in the log, and the one before stays
 * in force (B17). Loop's thread. */
#ifndef SPILLWAY_SERVER_PRICE_NOW_H
#define SPILLWAY_SERVER_PRICE_NOW_H

#include "server/gateway.h"

struct price_now {
    struct gateway *gateway;
    struct pool_job job;
    bool running;
    int64_t version, asked; /* of the store's configuration: that was read last; when the job began */
    bool away;       /* and told */
    /* the job's */
    struct tariff_table *former, *fresh;
    int rc;
    bool worked;
    struct err e;
};

/* Reads them for the first time, before there is anybody to serve. -ERR_INPUT: a row is malformed. */
MUST_USE int price_now_start(struct price_now *p, struct gateway *g, struct err *e);
/* After accounts_refresh: reads them again if something has changed. */
void price_now_look(struct price_now *p);
/* After the pool's end. Accepts a zeroed struct. */
void price_now_stop(struct price_now *p);

#endif
