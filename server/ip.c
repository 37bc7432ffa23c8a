/* IP: see ip.h. */
#include "server/ip.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "base/str.h"

static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool is_v4(const struct ip *ip)
{
    return memcmp(ip->bytes, v4_prefix, sizeof v4_prefix) == 0;
}

struct ip ip_of(const struct sockaddr_storage *a)
{
    struct ip ip = {0};
    if (a->ss_family == AF_INET) {
        memcpy(ip.bytes, v4_prefix, sizeof v4_prefix);
        memcpy(ip.bytes + 12, &((const struct sockaddr_in *)(const void *)a)->sin_addr, 4);
    } else if (a->ss_family == AF_INET6)
        memcpy(ip.bytes, &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, 16);
    return ip;
}

bool ip_parse(const char *p, size_t n, struct ip *out)
{
    char text[IP_TEXT_BYTES];
    if (n >= sizeof text || memchr(p, '\0', n)) return false;
    memcpy(text, p, n);
    text[n] = '\0';
    memcpy(out->bytes, v4_prefix, sizeof v4_prefix);
    if (inet_pton(AF_INET, text, out->bytes + 12) == 1) return true;
    return inet_pton(AF_INET6, text, out->bytes) == 1;
}

bool ip_is_loopback(const struct ip *ip)
{
    static const struct ip v6 = {.bytes = {[15] = 1}};
    return is_v4(ip) ? ip->bytes[12] == 127 : memcmp(ip, &v6, sizeof v6) == 0;
}

static uint32_t first_bits(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

bool ip_is_public(const struct ip *ip)
{
    static const struct special {
        uint32_t net;
        unsigned bits;
    } v4[] = {{0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},  {0xa83f8110, 32}, {0xa9fe0000, 16}, {0xac100000, 12}, {0xc0000000, 24},
              {0xc0000200, 24}, {0xc0586300, 24}, {0xc0a80000, 16}, {0xc6120000, 15}, {0xc6336400, 24}, {0xcb007100, 24}, {0xe0000000, 3}},
      v6[] = {{0x20010000, 23} /* Teredo among them */, {0x20010db8, 32}, {0x20020000, 16} /* 6to4 */, {0x3fff0000, 20}};
    const bool four = is_v4(ip);
    const struct special *rows = four ? v4 : v6;
    const size_t n = four ? sizeof v4 / sizeof v4[0] : sizeof v6 / sizeof v6[0];
    const uint32_t first = first_bits(four ? ip->bytes + 12 : ip->bytes);
    if (!four && first >> 29 != 1) return false;
    for (size_t i = 0; i < n; i++)
        if ((first ^ rows[i].net) >> (32 - rows[i].bits) == 0) return false;
    return true;
}

char *ip_print(const struct ip *ip, char out[IP_TEXT_BYTES])
{
    if (is_v4(ip))
        inet_ntop(AF_INET, ip->bytes + 12, out, IP_TEXT_BYTES);
    else
        inet_ntop(AF_INET6, ip->bytes, out, IP_TEXT_BYTES);
    return out;
}

/* --- networks --- */

static bool same_prefix(const struct ip *a, const struct ip *b, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;
    if (memcmp(a->bytes, b->bytes, whole) != 0) return false;
    return rest == 0 || (a->bytes[whole] ^ b->bytes[whole]) >> (8 - rest) == 0;
}

int ip_nets_add(struct ip_nets *s, const char *text, struct err *e)
{
    if (s->n == IP_MAX_NETS) return err_set(e, ERR_LIMIT, "more than %d networks", IP_MAX_NETS);
    struct ip_net *net = &s->nets[s->n];
    const char *slash = strchr(text, '/');
    if (!ip_parse(text, slash ? (size_t)(slash - text) : strlen(text), &net->ip))
        return err_set(e, ERR_INPUT, "'%s' is not an address or a network such as 10.0.0.0/8", text);
    int64_t bits = 128, all = is_v4(&net->ip) ? 32 : 128;
    if (slash && !str_parse_int64(slash + 1, 0, all, &bits)) return err_set(e, ERR_INPUT, "'%s' is not a network such as 10.0.0.0/8", text);
    if (slash) bits += 128 - all;
    net->bits = (unsigned)bits;
    for (unsigned i = net->bits; i < 128; i++)
        if (net->ip.bytes[i / 8] >> (7 - i % 8) & 1) return err_set(e, ERR_INPUT, "'%s' has bits set beyond its prefix", text);
    s->n++;
    return 0;
}

bool ip_nets_have(const struct ip_nets *s, const struct ip *ip)
{
    for (size_t i = 0; i < s->n; i++)
        if (same_prefix(&s->nets[i].ip, ip, s->nets[i].bits)) return true;
    return false;
}

struct ip ip_counted(const struct ip *ip)
{
    struct ip c = *ip;
    if (!is_v4(ip)) memset(c.bytes + 8, 0, 8);
    return c;
}
