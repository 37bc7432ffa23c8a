/* Key table: see key_table.h. Buckets have a fixed number of places; when one is full, their number is doubled. */
#include "server/accounts/key_table.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { PLACES = 8, MIN_BUCKETS = 16 };

static size_t bucket_of(const unsigned char digest[KEY_DIGEST_BYTES], size_t n_buckets)
{
    uint64_t bits;
    memcpy(&bits, digest, sizeof bits);
    return (size_t)bits & (n_buckets - 1);
}

static bool bucket_put(uint32_t *places, size_t n_buckets, const struct key_entry *entries, uint32_t i)
{
    uint32_t *bucket = places + PLACES * bucket_of(entries[i].digest, n_buckets);
    for (int j = 0; j < PLACES; j++) {
        if (bucket[j]) continue;
        bucket[j] = i;
        return true;
    }
    return false;
}

/* All n entries into n_buckets or as many more as it takes. Digests are as good as random, so a bucket of 8 is hardly
 * ever full while there is a bucket for every entry; the bound is against a damaged database. */
static int spread(struct key_table *t, size_t n_buckets)
{
    for (size_t most = 64 * n_buckets; n_buckets <= most; n_buckets *= 2) {
        uint32_t *places = calloc(n_buckets, PLACES * sizeof *places);
        if (!places) return -ERR_MEMORY;
        uint32_t i = 1;
        while (i <= t->n && bucket_put(places, n_buckets, t->entries, i)) i++;
        if (i <= t->n) {
            free(places);
            continue;
        }
        free(t->places);
        t->places = places;
        t->n_buckets = n_buckets;
        return 0;
    }
    return -ERR_MEMORY;
}

int key_table_put(struct key_table *t, const struct key_entry *entry)
{
    CHECK(entry->account > 0);
    if (t->n + 1 >= t->cap) {
        if (t->cap > UINT32_MAX / 4) return -ERR_MEMORY;
        uint32_t cap = t->cap ? 2 * t->cap : 16;
        struct key_entry *more = malloc(cap * sizeof *more);
        if (!more) return -ERR_MEMORY;
        memset(more, 0, sizeof *more); /* entries[0] */
        if (t->n) memcpy(more + 1, t->entries + 1, t->n * sizeof *more);
        free(t->entries);
        t->entries = more;
        t->cap = cap;
    }
    t->entries[++t->n] = *entry;
    bool fits = t->n <= t->n_buckets && bucket_put(t->places, t->n_buckets, t->entries, t->n);
    int rc = fits ? 0 : spread(t, t->n_buckets ? 2 * t->n_buckets : MIN_BUCKETS);
    if (rc) t->n--;
    return rc;
}

const struct key_entry *key_table_find(const struct key_table *t, const unsigned char digest[KEY_DIGEST_BYTES])
{
    if (!t->n) return NULL;
    const uint32_t *bucket = t->places + PLACES * bucket_of(digest, t->n_buckets);
    uint32_t found = 0;
    for (int j = 0; j < PLACES; j++) {                                                                        /* no early end, no branch */
        uint32_t equal = (uint32_t)sodium_memcmp(t->entries[bucket[j]].digest, digest, KEY_DIGEST_BYTES) + 1; /* 1 or 0 */
        found |= bucket[j] & (0 - equal);
    }
    return found ? &t->entries[found] : NULL;
}

void key_table_free(struct key_table *t)
{
    free(t->entries);
    free(t->places);
    *t = (struct key_table){0};
}
