/* Remote URLs: see remote_url.h. */
#include "server/remote_url.h"

#include <string.h>
#include <strings.h>

#include "base/str.h"

enum { HTTP_PORT = 80, HTTPS_PORT = 443, MAX_LABEL_BYTES = 63 };

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char small(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool is_letter(char c)
{
    return small(c) >= 'a' && small(c) <= 'z';
}

/* --- hosts --- */

/* Labels of letters, digits, '-' and '_' with single dots between. */
static bool is_name(const char *p, size_t n)
{
    size_t label = 0;
    if (n == 0 || n > REMOTE_MAX_NAME_BYTES) return false;
    for (size_t i = 0; i <= n; i++) {
        if (i == n || p[i] == '.') {
            if (label == 0 || label > MAX_LABEL_BYTES || p[i - 1] == '-') return false;
            label = 0;
        } else if (is_letter(p[i]) || is_digit(p[i]) || p[i] == '_' || (p[i] == '-' && label > 0))
            label++;
        else
            return false;
    }
    return true;
}

/* Some resolver would read it as a number: its last label is one, be it decimal, octal or hexadecimal. */
static bool is_numeric(const char *p, size_t n)
{
    size_t at = n;
    while (at > 0 && p[at - 1] != '.') at--;
    if (n - at >= 2 && p[at] == '0' && small(p[at + 1]) == 'x') return true;
    while (at < n && is_digit(p[at])) at++;
    return at == n;
}

static bool is_v4(const char *p, size_t n)
{
    struct ip ip;
    return !memchr(p, ':', n) && ip_parse(p, n, &ip);
}

static bool is_v6(const char *p, size_t n)
{
    struct ip ip;
    return n > 2 && p[0] == '[' && p[n - 1] == ']' && memchr(p, ':', n) && ip_parse(p + 1, n - 2, &ip);
}

static bool is_host(const char *p, size_t n)
{
    return is_v6(p, n) || is_v4(p, n) || (is_name(p, n) && !is_numeric(p, n));
}

/* Where the port's ':' is, or n. */
static size_t host_end(const char *p, size_t n)
{
    const char *end = n && p[0] == '[' ? memchr(p, ']', n) : p;
    const char *colon = end ? memchr(end, ':', n - (size_t)(end - p)) : NULL;
    return colon ? (size_t)(colon - p) : n;
}

/* "" or ":80" */
static bool read_port(const char *p, size_t n, uint16_t *port)
{
    char text[6];
    int64_t number;
    if (n == 0) return true;
    if (n < 2 || n > sizeof text) return false;
    memcpy(text, p + 1, n - 1);
    text[n - 1] = '\0';
    if (!is_digit(text[0]) || !str_parse_int64(text, 1, UINT16_MAX, &number)) return false;
    *port = (uint16_t)number;
    return true;
}

int remote_rules_add_host(struct remote_rules *r, const char *text, struct err *e)
{
    if (r->n_hosts == REMOTE_MAX_HOSTS) return err_set(e, ERR_LIMIT, "more than %d hosts", REMOTE_MAX_HOSTS);
    const size_t n = strlen(text), n_name = host_end(text, n), skip = str_starts_with(text, "*.") ? 2 : 0;
    struct remote_host *h = &r->hosts[r->n_hosts];
    *h = (struct remote_host){.name = text, .n = n_name};
    const bool any = n_name == 1 && text[0] == '*', below = skip && is_name(text + skip, n_name - skip);
    if ((!any && !below && !is_host(text, n_name)) || !read_port(text + n_name, n - n_name, &h->port))
        return err_set(e, ERR_INPUT, "'%.200s' is not a host such as example.org, *.example.org or 10.0.0.5:8080", text);
    r->n_hosts++;
    return 0;
}

static bool host_fits(const struct remote_host *h, const struct remote_url *u)
{
    const size_t n = strlen(u->host);
    if (h->port ? h->port != u->port : u->port != HTTP_PORT && u->port != HTTPS_PORT) return false;
    if (h->n == 1 && h->name[0] == '*') return true;
    if (h->name[0] == '*') return n > h->n - 1 && strncasecmp(u->host + n - (h->n - 1), h->name + 1, h->n - 1) == 0;
    return n == h->n && strncasecmp(u->host, h->name, n) == 0;
}

static bool host_allowed(const struct remote_rules *r, const struct remote_url *u)
{
    static const struct remote_host any = {.name = "*", .n = 1};
    if (r->n_hosts == 0) return host_fits(&any, u);
    for (size_t i = 0; i < r->n_hosts; i++)
        if (host_fits(&r->hosts[i], u)) return true;
    return false;
}

bool remote_ip_allowed(const struct remote_rules *r, const struct ip *ip)
{
    return ip_is_public(ip) || ip_nets_have(&r->nets, ip);
}

/* --- URLs --- */

bool remote_url_is(const char *text, size_t n)
{
    return n >= 5 && (strncasecmp(text, "http:", 5) == 0 || (n >= 6 && strncasecmp(text, "https:", 6) == 0));
}

/* An address that is written out; a name's are not known yet. */
static bool address_allowed(const struct remote_rules *r, const char *host)
{
    const size_t n = strlen(host);
    struct ip ip;
    if (host[0] == '[' ? !ip_parse(host + 1, n - 2, &ip) : !ip_parse(host, n, &ip)) return true;
    return remote_ip_allowed(r, &ip);
}

/* "user@host:80" */
static int read_authority(struct remote_url *u, const char *p, size_t n, struct err *e)
{
    const size_t n_host = host_end(p, n);
    if (memchr(p, '@', n)) return err_set(e, ERR_INPUT, "a picture's URL may not have a user or password in it");
    if (!is_host(p, n_host) || n_host >= sizeof u->host)
        return err_set(e, ERR_INPUT, "the host of a picture's URL must be a name in ASCII letters, or an address in its usual form");
    if (!read_port(p + n_host, n - n_host, &u->port)) return err_set(e, ERR_INPUT, "the port of a picture's URL must be a number from 1 to 65535");
    for (size_t i = 0; i < n_host; i++) u->host[i] = small(p[i]);
    u->host[n_host] = '\0';
    return 0;
}

int remote_url_read(const struct remote_rules *r, const char *text, size_t n, struct remote_url *out, struct err *e)
{
    if (n > REMOTE_MAX_URL_BYTES) return err_set(e, ERR_LIMIT, "a picture's URL may have %d bytes", REMOTE_MAX_URL_BYTES);
    for (size_t i = 0; i < n; i++)
        if (text[i] <= ' ' || text[i] > '~' || strchr("\\\"<>", text[i]))
            return err_set(e, ERR_INPUT, "a picture's URL has a byte at %zu that must be written as %%XX there", i);
    const bool tls = n >= 8 && strncasecmp(text, "https://", 8) == 0;
    if (!tls && (n < 7 || strncasecmp(text, "http://", 7) != 0)) return err_set(e, ERR_INPUT, "a picture's URL must begin with https://");
    if (!tls && !r->http) return err_set(e, ERR_INPUT, "pictures are fetched from https:// URLs only");
    *out = (struct remote_url){.tls = tls, .port = tls ? HTTPS_PORT : HTTP_PORT};
    const char *p = text + (tls ? 8 : 7), *end = text + n, *mark = memchr(text, '#', n);
    if (mark) end = mark;
    const char *rest = p < end ? p : end;
    while (rest < end && *rest != '/' && *rest != '?') rest++;
    out->rest = rest;
    out->n_rest = (size_t)(end - rest);
    int rc = read_authority(out, p, (size_t)(rest - p), e);
    if (rc) return rc;
    if (!host_allowed(r, out)) return err_set(e, ERR_INPUT, "pictures are not fetched from this host and port");
    if (!address_allowed(r, out->host)) return err_set(e, ERR_INPUT, "pictures are not fetched from this address: it is not a public one");
    return 0;
}
