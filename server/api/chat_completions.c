/* POST /v1/chat/completions: hands the request over to a completion (completion.c), which checks it, runs it and
 * answers. */
#include "server/api/endpoint.h"
#include "server/api/errors.h"
#include "server/completion.h"

static void chat_completions_post(struct gateway *g, struct http_request *r)
{
    if (!g->draining) {
        completion_begin(g, r, false);
        return;
    }
    struct err e;
    err_set(&e, ERR_GONE, "The server is shutting down.");
    api_error_reply(r, API_DRAINING, &e);
}

const struct endpoint endpoint_chat_completions = {
    .method = "POST", .path = "/v1/chat/completions", .access = ACCESS_KEY, .handle = chat_completions_post};
