/* What a completion costs: its charge (charge.h) from the prompt to the last event. Without accounts nothing is charged, and `then` is called at once. */
#ifndef SPILLWAY_SERVER_COMPLETION_CHARGE_H
#define SPILLWAY_SERVER_COMPLETION_CHARGE_H

#include "server/completion.h"

/* rc: 0, or what the ledger says to it (e). Not after the completion is done. */
typedef void completion_charged_fn(struct completion *c, int rc, const struct err *e);

/* Holds what c->chosen may come to: the first time as a reservation, then as one more attempt of it. When that is durable the completion has its id, c->chosen is
 * among c->attempts, and `then` goes on. */
void completion_cover(struct completion *c, completion_charged_fn *then);
/* Every event is there: posts what it came to. When that is durable `then` tells the client. */
void completion_settle(struct completion *c, completion_charged_fn *then);
/* The extension of its hold that was under way has been answered. */
void completion_settle_on(struct completion *c);
/* The post, as of now, of a hosted answer that somebody else will read to its end: used[0] is its attempt. */
void completion_end_later(const struct completion *c, struct ledger_op *o);
/* It ends before that. What has been made for a client that leaves, or whose time or money is up, is posted; a failure of ours costs nothing. */
void completion_abandon(struct completion *c);

/* What it is priced by at that provider's model, or (m NULL) at the local one. Any thread. */
void completion_tariff(const struct completion *c, const struct hosted_model *m, struct tariff *out);

#endif
