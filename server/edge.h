/* Edge: by which names the server may be called, and from which web pages. Decided before route and key.
 *
 * A browser lets any page send requests to 127.0.0.1, and DNS lets any name point there. So on a loopback address the Host field must be a name of
 * this machine or one that was allowed, else 421; and a request that says it comes from a page (Origin) is refused with 403
 * unless the page is the server's own or its origin is allowed. CORS headers are sent for allowed origins only. */
#ifndef SPILLWAY_SERVER_EDGE_H
#define SPILLWAY_SERVER_EDGE_H

#include <stdbool.h>
#include <stddef.h>

#include "server/http.h"

enum { EDGE_MAX_NAMES = 64 };

struct edge {
    bool loopback;                     /* localhost, 127.0.0.0/8 and ::1 are fine; all else must be in hosts */
    const char *hosts[EDGE_MAX_NAMES]; /* allowed besides, without port; on another address none means any */
    size_t n_hosts;
    const char *origins[EDGE_MAX_NAMES]; /* "https://example.org", or "*" */
    size_t n_origins;
};

/* false: it has been answered (421, 403, or the 204 of a preflight). Else CORS headers are added where they belong. */
bool edge_pass(const struct edge *g, struct http_request *r);

#endif
