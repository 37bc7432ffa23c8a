/* Gateway: routing and keys; see gateway.h. The table of endpoints is here. */
#include "server/gateway.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "server/api/endpoint.h"
#include "server/api/errors.h"

const struct endpoint *const gateway_endpoints[] = {
    &endpoint_chat_completions, &endpoint_route, &endpoint_admin_routing, &endpoint_models,     &endpoint_model,      &endpoint_livez,      &endpoint_readyz,
    &endpoint_healthz,          &endpoint_admin_list, &endpoint_admin_load, &endpoint_admin_show, &endpoint_admin_unload,
    &endpoint_organization_usage, &endpoint_organization_costs, &endpoint_accounts_list, &endpoint_accounts_add,
    &endpoint_accounts_show, &endpoint_accounts_change, &endpoint_budgets_list, &endpoint_budgets_change, &endpoint_keys_list, &endpoint_keys_add,
    &endpoint_keys_change, &endpoint_prices_list, &endpoint_prices_add, &endpoint_prices_change, &endpoint_break_even, &endpoint_usage, &endpoint_reconcile, &endpoint_prune, &endpoint_alerts_list, &endpoint_alerts_test,
    &endpoint_export,
};
const size_t n_gateway_endpoints = sizeof gateway_endpoints / sizeof gateway_endpoints[0];

void gateway_check_endpoints(const struct endpoint *const *endpoints, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct endpoint *ep = endpoints[i];
        CHECK(ep->method && ep->path && ep->path[0] == '/' && ep->handle);
        CHECK(ep->access == ACCESS_OPEN || ep->access == ACCESS_KEY || ep->access == ACCESS_ADMIN);
    }
}

static bool path_fits(const struct endpoint *ep, const char *path)
{
    return str_ends_with(ep->path, "/") ? str_starts_with(path, ep->path) && path[strlen(ep->path)] : strcmp(path, ep->path) == 0;
}

static bool method_fits(const struct endpoint *ep, const char *method)
{
    return strcmp(ep->method, method) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(ep->method, "GET") == 0);
}

/* *path_known tells 405 from 404. */
static const struct endpoint *route(const struct http_request *r, const struct endpoint **path_known)
{
    *path_known = NULL;
    for (size_t i = 0; i < n_gateway_endpoints; i++) {
        if (!path_fits(gateway_endpoints[i], http_path(r))) continue;
        *path_known = gateway_endpoints[i];
        if (method_fits(gateway_endpoints[i], http_method(r))) return gateway_endpoints[i];
    }
    return NULL;
}

static void refuse_route(struct http_request *r, const struct endpoint *known)
{
    struct err e;
    if (known) {
        char methods[64] = "";
        for (size_t i = 0; i < n_gateway_endpoints; i++) {
            const struct endpoint *ep = gateway_endpoints[i];
            size_t n = strlen(methods);
            if (strcmp(ep->path, known->path) == 0)
                snprintf(methods + n, sizeof methods - n, "%s%s", n ? ", " : "", strcmp(ep->method, "GET") == 0 ? "GET, HEAD" : ep->method);
        }
        http_add_header(r, "allow", methods);
        err_set(&e, ERR_INPUT, "%s is for %s requests.", known->path, methods);
        api_error_reply(r, API_METHOD_NOT_ALLOWED, &e);
    } else {
        err_set(&e, ERR_NOT_FOUND, "There is nothing at '%.*s'.", (int)utf8_cut(http_path(r), 200), http_path(r));
        api_error_reply(r, API_NOT_FOUND, &e);
    }
}

/* The token of "Bearer TOKEN", NULL if the header is not there; another scheme is a token that no key has. */
static const char *bearer_token(const struct http_request *r)
{
    const char *given = http_header(r, "authorization");
    if (!given) return NULL;
    if (strncasecmp(given, "bearer ", 7) != 0) return "";
    given += 7;
    return given + strspn(given, " ");
}

/* false: it has replied. Whatever is wrong with a key, the answer is the same. */
static bool access_allowed(const struct gateway *g, const struct endpoint *ep, struct http_request *r)
{
    if (ep->access == ACCESS_OPEN || !g->accounts) return true;
    struct err e;
    bool admin;
    const char *token = bearer_token(r);
    int64_t key = token ? accounts_key_check(g->accounts, token, &admin) : 0;
    if (!key) {
        err_set(&e, ERR_DENIED, "%s",
                token ? "The API key is not valid: it is unknown, expired or revoked."
                      : "No API key: send it as 'Authorization: Bearer KEY'.");
        http_add_header(r, "www-authenticate", "Bearer");
        api_error_reply(r, API_INVALID_API_KEY, &e);
        return false;
    }
    http_set_owner(r, key);
    if (admin == (ep->access == ACCESS_ADMIN)) return true;
    err_set(&e, ERR_DENIED, "%s",
            admin ? "This is an admin key: it opens the server's own routes only. Use an API key." : "This needs an admin key.");
    api_error_reply(r, API_PERMISSION_DENIED, &e);
    return false;
}

static bool takes_pictures(const struct gateway *g)
{
    if (g->hosted) return true; /* some of their models do */
    for (size_t i = 0; i < g->n_models; i++)
        if (!g->models[i]->prompt || prompt_model_info(g->models[i]->prompt)->has_images) return true; /* not known yet: perhaps */
    return false;
}

void gateway_begin(void *ctx, struct http_request *r)
{
    const struct gateway *g = ctx;
    if (!edge_pass(&g->edge, r)) return;
    const struct endpoint *known, *ep = route(r, &known);
    if (!ep)
        refuse_route(r, known);
    else if (access_allowed(ctx, ep, r) && !takes_pictures(g))
        http_limit_body(r, g->limits.text_body_bytes);
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
