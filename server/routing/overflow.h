/* Overflow: what may be spent on hosted models that stand in for local ones. Nothing, until it is configured.
 *
 * Spend is bounded by the hour: for each key, for each project, and for all together. The hour is the ledger's (UTC by the store's time, a
 * number of hours since 1970), so a figure here is a figure of the ledger. A request's hold, its highest possible cost, must fit beside
 * what was spent and what is held in all three, before anything is sent; what it cost takes the hold's place in the hour in which it was
 * made. So nobody who forces overflow (B21) spends a nano-dollar more than the cap. Beyond money: the highest price, the share of requests,
 * which hosts and regions.
 *
 * An account whose figures find no place (thousands of others had overflow in this hour) has no overflow. The store's own balance and
 * budget checks come on top; several gateways on one store each have this cap for themselves. Loop's thread. */
#ifndef SPILLWAY_SERVER_ROUTING_OVERFLOW_H
#define SPILLWAY_SERVER_ROUTING_OVERFLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { OVERFLOW_ALL_PERMILLE = 1000 };

/* Nano-dollars per 1,000,000 tokens, and for a whole request; 0: no cap. */
struct route_price_cap {
    int64_t in_nusd, out_nusd, request_nusd;
};

/* Zeroed: none. No cap of its own: INT64_MAX, OVERFLOW_ALL_PERMILLE, ~0. */
struct overflow_limits {
    int64_t hour_nusd;
    int share_permille; /* of this hour's requests for names that lead to a local model, the one that is asked for counted */
    struct route_price_cap price;
    uint64_t hosts, regions; /* bit i: host i (name.h), region i */
};

struct overflow_who {
    int64_t id; /* of the account: keys, projects and organisations are numbered together */
    struct overflow_limits limits;
};

struct overflow_ask {
    struct overflow_who key, project;
    int64_t hour;
    int64_t hold_nusd;         /* the most that it can cost */
    int64_t in_nusd, out_nusd; /* price per 1,000,000 tokens */
    unsigned host, region;
    bool counted; /* overflow_count has seen this request */
};

enum overflow_verdict { OVERFLOW_YES, OVERFLOW_OFF, OVERFLOW_HOST, OVERFLOW_REGION, OVERFLOW_PRICE, OVERFLOW_SHARE, OVERFLOW_CAP };

struct overflow_counts {
    uint64_t n_requests, n_overflow, n_rescued; /* rescued: answered well */
    int64_t cost_nusd, saved_ms;                /* saved: predicted wait of the local model less the wait that it became */
    uint64_t n_over_hold;                       /* cost more than its hold: never expected, the caller's bound was too low */
};

/* Of a request that went over; zeroed: none. */
struct overflow_ticket {
    int64_t key, project, hour, hold_nusd;
    int64_t local_ms; /* predicted there; below 0: it could not at all */
    bool open;
};

struct overflow;
MUST_USE int overflow_new(struct overflow **out, const struct overflow_limits *all, struct err *e);
void overflow_free(struct overflow *o);                                   /* accepts NULL */
void overflow_set(struct overflow *o, const struct overflow_limits *all); /* the configuration was read again */
/* At the start: what the ledger says was spent in this hour before; id below 0: by all. A restart opens no new hour. */
void overflow_restore(struct overflow *o, int64_t id, int64_t hour, int64_t spent_nusd);
const struct overflow_counts *overflow_counts(const struct overflow *o);
/* Spent and held in that hour; of an account, or (id below 0) of all. */
int64_t overflow_hour_nusd(const struct overflow *o, int64_t id, int64_t hour);

/* Changes nothing; the first limit that stands in its way. */
enum overflow_verdict overflow_check(const struct overflow *o, const struct overflow_ask *a);
/* A request for a name that leads to a local model, wherever it goes: the shares are of these. Once a request, before its overflow_hold. */
void overflow_count(struct overflow *o, const struct overflow_ask *a);
/* It goes over; overflow_check has just said yes, with nothing between that could have used the room. */
void overflow_hold(struct overflow *o, const struct overflow_ask *a, int64_t local_ms, struct overflow_ticket *t);
/* It has ended, cost_nusd was posted; rescued: with a whole answer, first_ms after it was decided. Accepts a ticket that is not open. */
void overflow_settle(struct overflow *o, struct overflow_ticket *t, int64_t cost_nusd, bool rescued, int64_t first_ms);

#endif
