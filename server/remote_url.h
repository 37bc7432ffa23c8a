/* Remote URLs: which pictures' URLs may be fetched, judged without a network. Pure; any thread.
 *
 * A URL is read once, here, strictly, and what is fetched is written anew from the parts, so nobody after us can read another host in it. Refused are
 * users, backslashes, blanks, bytes that are no ASCII (a name in other letters has to be spelled xn--), escapes in the host, numbers that some take for an
 * IPv4 address (127.1, 0x7f000001, 017700000001), and addresses that are not public. A name's addresses are judged where they are connected to:
 * remote_ip_allowed. */
#ifndef SPILLWAY_SERVER_REMOTE_URL_H
#define SPILLWAY_SERVER_REMOTE_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "server/ip.h"

enum { REMOTE_MAX_URL_BYTES = 8192, REMOTE_MAX_NAME_BYTES = 253, REMOTE_MAX_HOSTS = 64 };

struct remote_host {
    const char *name; /* borrowed from what was added; n bytes. "*": any; "*.example.org": what is below it */
    size_t n;
    uint16_t port; /* 0: 80 and 443 */
};

struct remote_rules {
    bool http; /* and not only https */
    struct remote_host hosts[REMOTE_MAX_HOSTS];
    size_t n_hosts;      /* 0: any host, at 80 and 443 */
    struct ip_nets nets; /* not public, but connected to all the same */
};

struct remote_url {
    char host[REMOTE_MAX_NAME_BYTES + 3]; /* small letters; an IPv6 address with its brackets */
    uint16_t port;
    bool tls;
    const char *rest; /* path and query; borrowed from the text, n_rest bytes */
    size_t n_rest;
};

/* "example.org", "*.example.org", "*", "10.0.0.5:8080", "[fd00::1]:8080": text is borrowed. -ERR_INPUT, -ERR_LIMIT. */
MUST_USE int remote_rules_add_host(struct remote_rules *r, const char *text, struct err *e);
/* Whether it begins as a URL of http or https, however wrong the rest is. */
bool remote_url_is(const char *text, size_t n);
/* -ERR_INPUT or -ERR_LIMIT: it may not be fetched, and why, in words for clients. */
MUST_USE int remote_url_read(const struct remote_rules *r, const char *text, size_t n, struct remote_url *out, struct err *e);
bool remote_ip_allowed(const struct remote_rules *r, const struct ip *ip);

#endif
