/* Alerts: what an operator should hear of at once, in the log and, signed, at a webhook.
 *
 *     spend_rate      a project's spend, or what all suppliers get, in this hour against its own week before
 *     error_rate      requests that failed on our side (5xx, error events), against the hour before
 *     overflow_rate   requests that went to a provider in place of a local model, likewise
 *     price_change    a price that is another one than before, of the book or an operator's
 *     overrun         requests came to more than their holds, which we pay (B6)
 *     budget_reached  a budget that only tells (--alert) is used up
 *     supplier_drift  `accounts reconcile` found differences
 *
 * Each --alert-every a pool thread looks, on a connection of its own, and puts what it finds into the store (alert_store.h); what is due is taken
 * from there and sent on the loop. Nobody waits for any of it. What the webhook does not take is tried again, later each time, for a day.
 * Loop's thread, but for alerts_find. */
#ifndef SPILLWAY_SERVER_ALERTS_H
#define SPILLWAY_SERVER_ALERTS_H

#include "server/accounts/alert_store.h"
#include "server/alert_rules.h"
#include "server/webhook.h"

struct alerts;
struct gateway;

/* When something is told. */
struct alerts_bounds {
    int64_t every_ms, spend_factor, spend_floor_nusd;
    int error_per_cent, overflow_per_cent;
};
struct alerts_config {
    const char *url, *ca_file; /* borrowed until alerts_free; url NULL: the log only. ca_file NULL: the system's */
    struct webhook_secret secret;
    struct alerts_bounds bounds;
};

/* g has accounts, a pool and a loop. */
MUST_USE int alerts_new(struct alerts **out, struct gateway *g, const struct alerts_config *c, struct err *e);
/* From the next look on. Accepts NULL. */
void alerts_set(struct alerts *a, const struct alerts_bounds *b);
/* Nothing more is begun or sent. Before the pool ends. Accepts NULL. */
void alerts_stop(struct alerts *a);
/* After the pool's last calls. Accepts NULL. */
void alerts_free(struct alerts *a);

/* --- alerts_find.c: on a pool thread --- */

/* What is known from looks before; zero-initialised. */
struct alerts_seen {
    struct alert_hour hour;
    struct alert_rate failed, overflowed;
    int64_t last_price;
};
/* Looks, and puts into the store what is to be told. failed, overflowed: as counted since the start. */
MUST_USE int alerts_find(struct db *db, const struct alerts_bounds *b, struct alerts_seen *s, struct alert_count failed,
                         struct alert_count overflowed, struct err *e);

#endif
