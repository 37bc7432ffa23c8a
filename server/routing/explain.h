/* Explain: a decision in words, for headers and for POST /v1/route. Names in headers are made plain ASCII; nothing secret is known here. */
#ifndef SPILLWAY_SERVER_ROUTING_EXPLAIN_H
#define SPILLWAY_SERVER_ROUTING_EXPLAIN_H

#include "base/buf.h"
#include "server/routing/decide.h"

enum { EXPLAIN_HEADER_BYTES = 1024, EXPLAIN_NAME_BYTES = 320 };

/* x-spillway-served-by: "local/smolvlm-500m", "groq/llama-3.1-8b-instant". Returns out. */
char *explain_served_by(const struct route_candidate *c, char out[EXPLAIN_NAME_BYTES]);
/* x-spillway-route: "queue; local/smolvlm-500m=queue(2400>1500ms), groq/llama-3.1-8b-instant=chosen, together/llama=later". What does not
 * fit is counted: ", +3". Returns out. */
char *explain_header(const struct route_candidate *c, size_t n, const struct route_decision *d, char out[EXPLAIN_HEADER_BYTES]);
/* The same and the figures it was made of, as a JSON object. Returns b->failed. */
int explain_json(struct buf *b, const struct route_candidate *c, size_t n, const struct route_wish *w, const struct route_decision *d);

#endif
