/* POST /v1/route: a completion's body, answered with whom it would go to and why (docs/routing.md). Nothing is reserved, counted or sent. */
#include "server/api/endpoint.h"
#include "server/completion.h"

static void route_post(struct gateway *g, struct http_request *r)
{
    completion_begin(g, r, true);
}

const struct endpoint endpoint_route = {.method = "POST", .path = "/v1/route", .access = ACCESS_KEY, .handle = route_post};
