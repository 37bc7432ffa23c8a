/* Prune: takes away the rows of requests that ended long ago, and of their attempts. What money is about stays for good: transfers,
 * balances, sums by day, budgets and their windows. schema.c, version 5, has what is noted of it. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_PRUNE_H
#define SPILLWAY_SERVER_ACCOUNTS_PRUNE_H

#include "server/accounts/db.h"

enum { PRUNE_MIN_DAYS = 2 /* an idempotency key is remembered for one */ };

/* In steps, for who has other things to do, too. */
struct prune {
    struct db *db;
    int64_t before_ms, after; /* requests up to this id have been looked at */
    int64_t n;                /* how many were taken away */
};
MUST_USE int prune_begin(struct prune *p, struct db *db, int64_t days, struct err *e);
/* Takes away at most 2,000 requests in one transaction. 1: there may be more; 0: there are none. */
MUST_USE int prune_step(struct prune *p, struct err *e);

/* Whether it is this gateway's turn, of all that use the store: *mine once in every_ms by the store's clock, for whoever asks first. */
MUST_USE int prune_claim(struct db *db, int64_t every_ms, bool *mine, struct err *e);

/* Requests that ended more than so many days ago by the ledger's clock, but those that somebody should look at (open entries of
 * `reconciliation`). In transactions of 2,000 requests, so that a gateway never waits for long. *n: how many requests; what was done is
 * done also after an error. Alerts that are as old go with them. */
MUST_USE int prune_requests(struct db *db, int64_t days, int64_t *n, struct err *e);

#endif
