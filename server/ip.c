/* IP: see ip.h. */
#include "server/ip.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sodium.h>
#include <stdlib.h>
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

/* --- counts --- */

struct count {
    struct ip ip;
    int64_t n; /* 0: free */
};

struct ip_counts {
    unsigned char key[crypto_shorthash_KEYBYTES];
    struct count *slots;
    size_t n_slots, n_used; /* n_slots: a power of 2 */
};

static struct ip counted(const struct ip *ip)
{
    struct ip c = *ip;
    if (!is_v4(ip)) memset(c.bytes + 8, 0, 8);
    return c;
}

static size_t place(const struct ip_counts *c, const struct ip *ip)
{
    uint64_t h;
    crypto_shorthash((unsigned char *)&h, ip->bytes, sizeof ip->bytes, c->key);
    return (size_t)h & (c->n_slots - 1);
}

/* Where it is, or the free slot where it would be. */
static struct count *find(const struct ip_counts *c, const struct ip *ip)
{
    size_t i = place(c, ip);
    while (c->slots[i].n && memcmp(&c->slots[i].ip, ip, sizeof *ip) != 0) i = (i + 1) & (c->n_slots - 1);
    return &c->slots[i];
}

static bool grow(struct ip_counts *c)
{
    struct count *old = c->slots;
    size_t n_old = c->n_slots;
    struct count *slots = calloc(2 * n_old, sizeof *slots);
    if (!slots) return false;
    c->slots = slots;
    c->n_slots = 2 * n_old;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].n) *find(c, &old[i].ip) = old[i];
    free(old);
    return true;
}

int ip_counts_new(struct ip_counts **out, struct err *e)
{
    struct ip_counts *c = *out = calloc(1, sizeof *c);
    if (c) c->slots = calloc(c->n_slots = 64, sizeof *c->slots);
    if (!c || !c->slots) {
        free(c);
        *out = NULL;
        return err_set(e, ERR_MEMORY, "out of memory");
    }
    crypto_shorthash_keygen(c->key);
    return 0;
}

void ip_counts_free(struct ip_counts *c)
{
    if (!c) return;
    free(c->slots);
    free(c);
}

bool ip_counts_enter(struct ip_counts *c, const struct ip *ip, int64_t max)
{
    struct ip key = counted(ip);
    if (2 * c->n_used >= c->n_slots && !grow(c)) return false;
    struct count *slot = find(c, &key);
    if (max && slot->n >= max) return false;
    if (slot->n++ == 0) {
        slot->ip = key;
        c->n_used++;
    }
    return true;
}

/* Slots behind a freed one move up, so that find never stops too early. */
void ip_counts_leave(struct ip_counts *c, const struct ip *ip)
{
    struct ip key = counted(ip);
    struct count *slot = find(c, &key);
    CHECK(slot->n > 0);
    if (--slot->n) return;
    c->n_used--;
    size_t mask = c->n_slots - 1, hole = (size_t)(slot - c->slots);
    for (size_t i = (hole + 1) & mask; c->slots[i].n; i = (i + 1) & mask) {
        size_t home = place(c, &c->slots[i].ip);
        if (((i - home) & mask) < ((i - hole) & mask)) continue; /* its home lies behind the hole */
        c->slots[hole] = c->slots[i];
        c->slots[i].n = 0;
        hole = i;
    }
}
