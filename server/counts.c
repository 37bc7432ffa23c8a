/* Counts: see counts.h. Open addressing by a keyed hash, so that nobody can aim at one slot. */
#include "server/counts.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

struct count {
    struct counts_key key;
    int64_t n; /* 0: free */
};

struct counts {
    unsigned char secret[crypto_shorthash_KEYBYTES];
    struct count *slots;
    size_t n_slots, n_used; /* n_slots: a power of 2 */
};

static size_t place(const struct counts *c, const struct counts_key *key)
{
    uint64_t h;
    crypto_shorthash((unsigned char *)&h, key->bytes, sizeof key->bytes, c->secret);
    return (size_t)h & (c->n_slots - 1);
}

/* Where it is, or the free slot where it would be. */
static struct count *find(const struct counts *c, const struct counts_key *key)
{
    size_t i = place(c, key);
    while (c->slots[i].n && memcmp(&c->slots[i].key, key, sizeof *key) != 0) i = (i + 1) & (c->n_slots - 1);
    return &c->slots[i];
}

static bool grow(struct counts *c)
{
    struct count *old = c->slots;
    size_t n_old = c->n_slots;
    struct count *slots = calloc(2 * n_old, sizeof *slots);
    if (!slots) return false;
    c->slots = slots;
    c->n_slots = 2 * n_old;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].n) *find(c, &old[i].key) = old[i];
    free(old);
    return true;
}

int counts_new(struct counts **out, struct err *e)
{
    struct counts *c = *out = calloc(1, sizeof *c);
    if (c) c->slots = calloc(c->n_slots = 64, sizeof *c->slots);
    if (!c || !c->slots) {
        free(c);
        *out = NULL;
        return err_set(e, ERR_MEMORY, "out of memory");
    }
    crypto_shorthash_keygen(c->secret);
    return 0;
}

void counts_free(struct counts *c)
{
    if (!c) return;
    free(c->slots);
    free(c);
}

bool counts_enter(struct counts *c, const struct counts_key *key, int64_t max)
{
    if (2 * c->n_used >= c->n_slots && !grow(c)) return false;
    struct count *slot = find(c, key);
    if (max && slot->n >= max) return false;
    if (slot->n++ == 0) {
        slot->key = *key;
        c->n_used++;
    }
    return true;
}

/* Slots behind a freed one move up, so that find never stops too early. */
void counts_leave(struct counts *c, const struct counts_key *key)
{
    struct count *slot = find(c, key);
    CHECK(slot->n > 0);
    if (--slot->n) return;
    c->n_used--;
    size_t mask = c->n_slots - 1, hole = (size_t)(slot - c->slots);
    for (size_t i = (hole + 1) & mask; c->slots[i].n; i = (i + 1) & mask) {
        size_t home = place(c, &c->slots[i].key);
        if (((i - home) & mask) < ((i - hole) & mask)) continue; /* its home lies behind the hole */
        c->slots[hole] = c->slots[i];
        c->slots[i].n = 0;
        hole = i;
    }
}
