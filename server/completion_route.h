/* Where a completion for a local model is answered: by the model, or by a provider that stands in for it (docs/routing.md). */
#ifndef SPILLWAY_SERVER_COMPLETION_ROUTE_H
#define SPILLWAY_SERVER_COMPLETION_ROUTE_H

#include "server/completion.h"

/* The prompt is known, nothing has begun. 0: c->hosted tells where (NULL: the local model). Else why it is refused, c->retry_after_s with it. Models
 * without stand-ins are always local. */
MUST_USE int completion_route(struct completion *c, struct err *e);
/* A request for one of these models may be answered elsewhere when it has no room: it is not refused unread. */
bool completion_may_spill(const struct gateway *g);
/* It has ended and came to so much. Accepts one that was not routed to a stand-in. */
void completion_route_ended(struct completion *c, int64_t cost_nusd, bool whole);

#endif
