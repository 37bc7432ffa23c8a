/* Retention: requests that ended more than so many days ago are taken away while the gateway runs, as `spillway accounts prune` does it: what money is
 * about stays (accounts/prune.h). Once an hour, in steps of one transaction each with a pause after it, on a thread of the desk with a connection of its own.
 * Of several gateways on one store one does it: whoever is first to note in the store when it is next to be done. */
#ifndef SPILLWAY_SERVER_RETENTION_H
#define SPILLWAY_SERVER_RETENTION_H

#include "server/gateway.h"

struct retention;

/* days 0, or no accounts: nothing is taken away, and *out is NULL. After the desk was made. */
MUST_USE int retention_start(struct retention **out, struct gateway *g, int64_t days, struct err *e);
/* After the desk has ended and what it has posted was run. Accepts NULL. */
void retention_stop(struct retention *r);

#endif
