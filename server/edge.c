/* Edge: see edge.h. */
#include "server/edge.h"

#include <string.h>
#include <strings.h>

#include "server/api/errors.h"

enum { MAX_ECHO_BYTES = 1024 };

/* --- host --- */

/* Cuts port and brackets off. */
static size_t host_name(const char **host)
{
    const char *h = *host;
    if (*h == '[') {
        size_t n = strcspn(++h, "]");
        *host = h;
        return n;
    }
    return strcspn(h, ":");
}

static bool names(const char *const *list, size_t n, const char *p, size_t n_p)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(list[i]) == n_p && strncasecmp(list[i], p, n_p) == 0) return true;
    return false;
}

static bool host_allowed(const struct edge *g, const char *host)
{
    if (!g->loopback && g->n_hosts == 0) return true;
    if (!host) return false; /* HTTP/1.0 may leave it out; then nobody can tell what was called */
    size_t n = host_name(&host);
    struct ip ip;
    if (g->loopback && n == 9 && strncasecmp(host, "localhost", n) == 0) return true;
    if (g->loopback && ip_parse(host, n, &ip) && ip_is_loopback(&ip)) return true;
    return names(g->hosts, g->n_hosts, host, n);
}

/* --- origin --- */

static bool own_page(const struct http_request *r, const char *origin)
{
    const char *scheme = http_is_tls(r) ? "https://" : "http://", *host = http_header(r, "host");
    size_t n = strlen(scheme);
    return host && strncmp(origin, scheme, n) == 0 && strcasecmp(origin + n, host) == 0;
}

static bool origin_allowed(const struct edge *g, const char *origin)
{
    return names(g->origins, g->n_origins, origin, strlen(origin)) || names(g->origins, g->n_origins, "*", 1);
}

/* What a page may send: what it asks for, if that is a plain list of names. */
static const char *headers_to_allow(const struct http_request *r)
{
    const char *asked = http_header(r, "access-control-request-headers");
    const char *plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_, ";
    bool echo = asked && strlen(asked) <= MAX_ECHO_BYTES && asked[strspn(asked, plain)] == '\0';
    return echo ? asked : "authorization, content-type, x-request-id";
}

static void answer_preflight(struct http_request *r)
{
    http_add_header(r, "access-control-allow-methods", "GET, POST");
    http_add_header(r, "access-control-allow-headers", headers_to_allow(r));
    http_add_header(r, "access-control-max-age", "600");
    http_reply(r, 204, NULL, "", 0);
}

/* What a page may read of an answer, beside what pages always may. */
static const char exposed[] = "x-request-id, retry-after, x-should-retry, idempotent-replayed, x-spillway-served-by, x-spillway-route,"
                              " x-spillway-cost-nusd, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests,"
                              " x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";

static bool origin_pass(const struct edge *g, struct http_request *r)
{
    const char *origin = http_header(r, "origin");
    if (!origin || own_page(r, origin)) return true;
    if (!origin_allowed(g, origin)) {
        struct err e;
        err_set(&e, ERR_DENIED, "Web pages of other origins may not call this server (see --allow-origin).");
        api_error_reply(r, API_PERMISSION_DENIED, &e);
        return false;
    }
    /* The listed text is sent, not the client's: it is known to be sane. */
    bool any = names(g->origins, g->n_origins, "*", 1);
    for (size_t i = 0; !any && i < g->n_origins; i++)
        if (strcasecmp(g->origins[i], origin) == 0) http_add_header(r, "access-control-allow-origin", g->origins[i]);
    if (any) http_add_header(r, "access-control-allow-origin", "*");
    http_add_header(r, "vary", "origin");
    http_add_header(r, "access-control-expose-headers", exposed);
    bool preflight = strcmp(http_method(r), "OPTIONS") == 0 && http_header(r, "access-control-request-method");
    if (preflight) answer_preflight(r);
    return !preflight;
}

bool edge_pass(const struct edge *g, struct http_request *r)
{
    if (!host_allowed(g, http_header(r, "host"))) {
        struct err e;
        err_set(&e, ERR_DENIED, "This server is not called by that name (see --allow-host).");
        api_error_reply(r, API_MISDIRECTED, &e);
        return false;
    }
    return origin_pass(g, r);
}
