/* Hosts: see provider.h. A setting that could send a key elsewhere (a user in the URL, a line break in a header) is refused. */
#include "server/providers/provider.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

static bool is_label(const char *s)
{
    size_t n = strlen(s);
    return n > 0 && n <= 63 && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == n;
}

static int fill_url(char out[HOST_MAX_URL_BYTES], const char *pattern, const struct provider_host_config *c, struct err *e)
{
    size_t n = 0;
    while (*pattern) {
        const bool region = str_starts_with(pattern, "{region}"), resource = str_starts_with(pattern, "{resource}");
        const char *value = region ? c->region : resource ? c->resource : NULL, *name = region ? "region" : "resource";
        if (region || resource) {
            if (!value || !is_label(value))
                return err_set_param(e, ERR_INPUT, name, "provider %s needs a '%s' of letters, digits and '-'", c->provider, name);
            n += (size_t)snprintf(out + n, HOST_MAX_URL_BYTES - n, "%s", value);
            pattern += strlen(name) + 2;
        } else if (n + 1 < HOST_MAX_URL_BYTES)
            out[n++] = *pattern++;
        if (n + 1 >= HOST_MAX_URL_BYTES) return err_set_param(e, ERR_INPUT, "base_url", "the URL of provider %s is too long", c->provider);
    }
    while (n > 0 && out[n - 1] == '/') n--;
    out[n] = '\0';
    return 0;
}

static int check_url(struct provider_host *h, struct err *e)
{
    h->tls = str_starts_with(h->base_url, "https://");
    if (!h->tls && !str_starts_with(h->base_url, "http://"))
        return err_set_param(e, ERR_INPUT, "base_url", "the base_url of provider %s must begin with https:// or http://", h->name);
    const char *host = h->base_url + (h->tls ? 8 : 7);
    size_t n_host = strcspn(host, "/");
    for (const char *p = h->base_url; *p; p++)
        if (*p <= ' ' || *p >= 0x7F || strchr("?#\\\"<>{}", *p))
            return err_set_param(e, ERR_INPUT, "base_url", "the base_url of provider %s has a byte that a URL path may not have", h->name);
    if (n_host == 0 || memchr(host, '@', n_host))
        return err_set_param(e, ERR_INPUT, "base_url", "the base_url of provider %s must name a host, and no user", h->name);
    size_t n_name = *host == '[' ? strcspn(host, "]/") + 1 : strcspn(host, ":/");
    h->loopback = (n_name == 9 && strncmp(host, "localhost", 9) == 0) || (n_name == 5 && strncmp(host, "[::1]", 5) == 0) ||
                  (str_starts_with(host, "127.") && strspn(host, "0123456789.") == n_name);
    return 0;
}

/* Visible ASCII, with blanks inside if they may be there. */
static bool is_header_text(const char *s, bool blanks)
{
    if (!*s) return false;
    for (const char *p = s; *p; p++)
        if (*p < (blanks ? ' ' : '!') || *p >= 0x7F) return false;
    return s[0] != ' ' && s[strlen(s) - 1] != ' ';
}

static int copy_keys(struct provider_host *h, const struct provider_host_config *c, struct err *e)
{
    if (c->n_keys > HOST_MAX_KEYS) return err_set_param(e, ERR_INPUT, "keys", "provider %s: at most %d keys", h->name, HOST_MAX_KEYS);
    if (c->n_keys == 0 && h->row->key_env)
        return err_set_param(e, ERR_INPUT, "keys", "provider %s has no key: set %s or a key file", h->name, h->row->key_env);
    for (size_t i = 0; i < c->n_keys; i++) {
        if (!is_header_text(c->keys[i], false) || strlen(c->keys[i]) > HOST_MAX_KEY_BYTES)
            return err_set_param(e, ERR_INPUT, "keys", "provider %s: key %zu is empty, too long or has a blank in it", h->name, i + 1);
        if (!(h->keys[i] = strdup(c->keys[i]))) return err_set(e, ERR_MEMORY, "out of memory");
        h->n_keys++;
    }
    return 0;
}

static int copy_headers(struct provider_host *h, const struct provider_host_config *c, struct err *e)
{
    static const char *const ours[] = {"authorization",
                                       "host",
                                       "content-length",
                                       "content-type",
                                       "transfer-encoding",
                                       "connection",
                                       "x-api-key",
                                       "api-key",
                                       "x-goog-api-key",
                                       "expect",
                                       NULL};
    if (c->n_headers > HOST_MAX_HEADERS)
        return err_set_param(e, ERR_INPUT, "headers", "provider %s: at most %d headers", h->name, HOST_MAX_HEADERS);
    for (size_t i = 0; i < c->n_headers; i++) {
        const char *s = c->headers[i], *colon = strchr(s, ':');
        size_t n = colon ? (size_t)(colon - s) : 0;
        bool good = n > 0 && n < 64 && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == n;
        good &= colon && colon[1 + strspn(colon + 1, " ")]; /* curl takes a name alone for a header to leave out */
        if (!good || !is_header_text(s, true) || strlen(s) > 1024)
            return err_set_param(e, ERR_INPUT, "headers", "provider %s: header %zu is no 'name: value'", h->name, i + 1);
        for (const char *const *o = ours; *o; o++)
            if (strlen(*o) == n && strncasecmp(s, *o, n) == 0)
                return err_set_param(e, ERR_INPUT, "headers", "provider %s: the header '%s' is not for the configuration", h->name, *o);
        if (!(h->headers[i] = strdup(s))) return err_set(e, ERR_MEMORY, "out of memory");
        h->n_headers++;
    }
    return 0;
}

static int choose_auth(struct provider_host *h, const struct provider_host_config *c, struct err *e)
{
    static const char *const names[] = {
        [AUTH_BEARER] = "bearer", [AUTH_X_API_KEY] = "x-api-key", [AUTH_API_KEY] = "api-key", [AUTH_X_GOOG_API_KEY] = "x-goog-api-key"};
    h->auth = h->row->auth;
    for (unsigned i = 0; c->auth && i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], c->auth) == 0) {
            h->auth = (enum provider_auth)i;
            return 0;
        }
    return c->auth ? err_set_param(e, ERR_INPUT, "auth", "provider %s: there is no auth '%.32s'", h->name, c->auth) : 0;
}

static int fill(struct provider_host *h, const struct provider_host_config *c, struct err *e)
{
    h->row = provider_find(c->provider);
    if (!h->row) return err_set_param(e, ERR_NOT_FOUND, "provider", "there is no provider '%.64s'", c->provider);
    const char *name = c->name ? c->name : c->provider;
    if (!is_header_text(name, false) || strlen(name) >= sizeof h->name || strchr(name, '/'))
        return err_set_param(e, ERR_INPUT, "name", "a provider's name has 1 to %zu visible characters and no '/'", sizeof h->name - 1);
    snprintf(h->name, sizeof h->name, "%s", name);
    h->unverified = c->unverified;
    if (!c->base_url && !h->row->base_url) return err_set_param(e, ERR_INPUT, "base_url", "provider %s needs a base_url", h->name);
    int rc = fill_url(h->base_url, c->base_url ? c->base_url : h->row->base_url, c, e);
    if (!rc) rc = check_url(h, e);
    if (!rc && c->api_version) {
        if (!is_label(c->api_version) || strlen(c->api_version) >= sizeof h->api_version)
            return err_set_param(e, ERR_INPUT, "api_version", "provider %s: the api_version is malformed", h->name);
        snprintf(h->api_version, sizeof h->api_version, "%.31s", c->api_version);
    }
    if (!rc) rc = choose_auth(h, c, e);
    if (!rc) rc = copy_keys(h, c, e);
    if (!rc) rc = copy_headers(h, c, e);
    return rc;
}

int provider_host_init(struct provider_host *h, const struct provider_host_config *c, struct err *e)
{
    *h = (struct provider_host){0};
    int rc = fill(h, c, e);
    if (rc) provider_host_free(h);
    return rc;
}

void provider_host_free(struct provider_host *h)
{
    for (size_t i = 0; i < h->n_keys; i++) {
        explicit_bzero(h->keys[i], strlen(h->keys[i]));
        free(h->keys[i]);
    }
    for (size_t i = 0; i < h->n_headers; i++) free(h->headers[i]);
    *h = (struct provider_host){0};
}
