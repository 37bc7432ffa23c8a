/* IP: addresses and networks in CIDR notation. IPv4 lives inside IPv6 (::ffff:a.b.c.d), so an address
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
/* Of the public internet: in none of the networks that IANA's registries of special-purpose addresses keep for something else, of IPv6 only those that
 * are given out (2000::/3) and carry no IPv4 address in them, and not Azure's host agent, whose address looks public. */
bool ip_is_public(const struct ip *ip);
char *ip_print(const struct ip *ip, char out[IP_TEXT_BYTES]); /* returns out */

/* "10.0.0.0/8", "fd00::/8", "192.0.2.1". -ERR_INPUT (bits beyond the prefix must be 0, too), -ERR_LIMIT. */
MUST_USE int ip_nets_add(struct ip_nets *s, const char *text, struct err *e);
bool ip_nets_have(const struct ip_nets *s, const struct ip *ip);

/* By which connections are counted (server/counts.h): an IPv4 address, an IPv6 /64. */
struct ip ip_counted(const struct ip *ip);

#endif
