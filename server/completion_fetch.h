/* Fetching: a completion's pictures that are named by URLs become data: URLs in its request, before it is read any further. So all that holds of those
 * holds of these, whoever answers: sizes, counts, decoding, a provider that takes no URLs. Where all that may answer fetch URLs themselves they stay as they are.
 * Only where the server fetches pictures at all (remote_image.h). */
#ifndef SPILLWAY_SERVER_COMPLETION_FETCH_H
#define SPILLWAY_SERVER_COMPLETION_FETCH_H

#include "server/completion.h"

/* The request is parsed and its model known: what has to be fetched is in c->fetches, c->n_fetches. Pool thread. */
MUST_USE int completion_fetch_find(struct completion *c, struct err *e);
/* Fetches them; then, later and once, unless completion_fetch_end comes before: with why not, or NULL. Loop's thread. */
MUST_USE int completion_fetch(struct completion *c, void (*then)(struct completion *c, const struct err *why), struct err *e);
/* Puts them into the request. Pool thread. */
MUST_USE int completion_fetch_put(struct completion *c, struct err *e);
/* Gives up what is under way and frees the rest. Any state; no pool thread has it. */
void completion_fetch_end(struct completion *c);

#endif
