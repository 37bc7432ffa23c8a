/* Gateway: routing and keys; see gateway.h. The table of endpoints is here. */
#include "server/gateway.h"

#include <string.h>

#include "base/str.h"
#include "server/api/endpoint.h"
#include "server/api/errors.h"

static const struct endpoint *const endpoints[] = {
    &endpoint_chat_completions, &endpoint_models, &endpoint_model, &endpoint_livez, &endpoint_readyz,
};
enum { N_ENDPOINTS = sizeof endpoints / sizeof endpoints[0] };

struct gateway_model *gateway_model_find(const struct gateway *g, const char *id, size_t n)
{
    for (size_t i = 0; i < g->n_models; i++)
        if (strlen(g->models[i]->id) == n && memcmp(g->models[i]->id, id, n) == 0) return g->models[i];
    return NULL;
}

static bool path_fits(const struct endpoint *ep, const char *path)
{
    return str_ends_with(ep->path, "/") ? str_starts_with(path, ep->path) && path[strlen(ep->path)] : strcmp(path, ep->path) == 0;
}

/* *path_known tells 405 from 404. */
static const struct endpoint *route(const struct http_request *r, const struct endpoint **path_known)
{
    *path_known = NULL;
    for (int i = 0; i < N_ENDPOINTS; i++) {
        if (!path_fits(endpoints[i], http_path(r))) continue;
        *path_known = endpoints[i];
        if (strcmp(endpoints[i]->method, http_method(r)) == 0) return endpoints[i];
    }
    return NULL;
}

static void refuse_route(struct http_request *r, const struct endpoint *known)
{
    struct err e;
    if (known) {
        http_add_header(r, "allow", known->method);
        err_set(&e, ERR_INPUT, "%s is for %s requests.", known->path, known->method);
        api_error_reply(r, API_METHOD_NOT_ALLOWED, &e);
    } else {
        err_set(&e, ERR_NOT_FOUND, "There is nothing at '%.200s'.", http_path(r));
        api_error_reply(r, API_NOT_FOUND, &e);
    }
}

static bool key_holds(const struct gateway *g, const struct http_request *r, struct err *e)
{
    if (!g->accounts) return true;
    const char *given = http_header(r, "authorization");
    if (!given) {
        err_set(e, ERR_DENIED, "No API key: send it as 'Authorization: Bearer KEY'.");
        return false;
    }
    const char *token = strncasecmp(given, "bearer ", 7) == 0 ? given + 7 : given;
    if (accounts_key_check(g->accounts, token) > 0) return true;
    err_set(e, ERR_DENIED, "The API key is not known here or was revoked.");
    return false;
}

void gateway_begin(void *ctx, struct http_request *r)
{
    const struct gateway *g = ctx;
    if (!edge_pass(&g->edge, r)) return;
    const struct endpoint *known, *ep = route(r, &known);
    struct err e;
    if (!ep)
        refuse_route(r, known);
    else if (ep->access == ACCESS_KEY && !key_holds(g, r, &e))
        api_error_reply(r, API_INVALID_API_KEY, &e);
}

void gateway_handle(void *ctx, struct http_request *r)
{
    const struct endpoint *known, *ep = route(r, &known);
    CHECK(ep != NULL); /* gateway_begin has refused the rest */
    ep->handle(ctx, r);
}

void gateway_refuse(void *ctx, struct http_request *r, enum http_refusal why, const char *text)
{
    static const enum api_error kinds[] = {
        [HTTP_NOT_HTTP] = API_NOT_HTTP,
        [HTTP_URL_TOO_LONG] = API_URL_TOO_LONG,
        [HTTP_HEADER_TOO_LARGE] = API_HEADER_TOO_LARGE,
        [HTTP_VERSION_UNKNOWN] = API_HTTP_VERSION,
        [HTTP_BODY_TOO_LARGE] = API_REQUEST_TOO_LARGE,
        [HTTP_TOO_MANY_BYTES] = API_QUEUE_FULL,
    };
    (void)ctx;
    struct err e;
    err_set(&e, ERR_INPUT, "%s", text);
    api_error_reply(r, kinds[why], &e);
}
