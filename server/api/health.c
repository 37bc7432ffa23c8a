/* GET /livez: the loop turns. GET /readyz: every model's worker is ready and the server is not draining. */
#include <string.h>

#include "server/api/endpoint.h"

static void livez_get(struct gateway *g, struct http_request *r)
{
    (void)g;
    http_reply(r, 200, "text/plain", "ok\n", 3);
}

static void readyz_get(struct gateway *g, struct http_request *r)
{
    const char *why = g->draining ? "draining\n" : NULL;
    for (size_t i = 0; i < g->n_models && !why; i++)
        if (!worker_is_ready(g->models[i]->worker)) why = "worker_down\n";
    const char *text = why ? why : "ok\n";
    http_reply(r, why ? 503 : 200, "text/plain", text, strlen(text));
}

const struct endpoint endpoint_livez = {.method = "GET", .path = "/livez", .access = ACCESS_OPEN, .handle = livez_get};
const struct endpoint endpoint_readyz = {.method = "GET", .path = "/readyz", .access = ACCESS_OPEN, .handle = readyz_get};
