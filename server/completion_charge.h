/* What a completion costs: its charge (charge.h) from the prompt to the last event. Without accounts nothing is charged, and `then` is called at once. */
#ifndef SPILLWAY_SERVER_COMPLETION_CHARGE_H
#define SPILLWAY_SERVER_COMPLETION_CHARGE_H

#include "server/completion.h"

/* rc: 0, or what the ledger says to it (e). Not after the completion is done. */
typedef void completion_charged_fn(struct completion *c, int rc, const struct err *e);

/* The prompt is known, nothing has begun: holds what it may come to. When that is durable the completion has its id, and `then` goes on. */
void completion_reserve(struct completion *c, completion_charged_fn *then);
/* Every event is there: posts what it came to. When that is durable `then` tells the client. */
void completion_settle(struct completion *c, completion_charged_fn *then);
/* It ends before that. What has been made for a client that leaves, or whose time or money is up, is posted; a failure of ours costs nothing. */
void completion_abandon(struct completion *c);

/* What it is priced by at that provider's model, or (m NULL) at the local one. Any thread. */
void completion_tariff(const struct completion *c, const struct hosted_model *m, struct tariff *out);

#endif
