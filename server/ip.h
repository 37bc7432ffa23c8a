/* IP: addresses, networks in CIDR notation, and a count of connections per address. IPv4 lives inside IPv6 (::ffff:a.b.c.d), so an address
 * is always 16 bytes. */
#ifndef SPILLWAY_SERVER_IP_H
#define SPILLWAY_SERVER_IP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/err.h"

enum { IP_TEXT_BYTES = 64, IP_MAX_NETS = 64 };

struct ip {
    uint8_t bytes[16];
};

struct ip_net {
    struct ip ip;
    unsigned bits; /* of 128 */
};

struct ip_nets {
    struct ip_net nets[IP_MAX_NETS];
    size_t n;
};

/* AF_INET and AF_INET6; anything else is all zeros. */
struct ip ip_of(const struct sockaddr_storage *a);
/* A numeric address without port; false: it is none. */
bool ip_parse(const char *p, size_t n, struct ip *out);
bool ip_is_loopback(const struct ip *ip);
char *ip_print(const struct ip *ip, char out[IP_TEXT_BYTES]); /* returns out */

/* "10.0.0.0/8", "fd00::/8", "192.0.2.1". -ERR_INPUT (bits beyond the prefix must be 0, too), -ERR_LIMIT. */
MUST_USE int ip_nets_add(struct ip_nets *s, const char *text, struct err *e);
bool ip_nets_have(const struct ip_nets *s, const struct ip *ip);

/* Connections per address (IPv6: per /64). Open addressing by a keyed hash; only addresses with connections take room. */
struct ip_counts;
MUST_USE int ip_counts_new(struct ip_counts **out, struct err *e);
void ip_counts_free(struct ip_counts *c); /* accepts NULL */
/* False: it has max already, or no memory; nothing is counted then. max 0: any number. */
bool ip_counts_enter(struct ip_counts *c, const struct ip *ip, int64_t max);
void ip_counts_leave(struct ip_counts *c, const struct ip *ip); /* once for each enter */

#endif
