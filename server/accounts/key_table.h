/* Key table: the digests of valid keys in memory, found in a time that tells nothing about them.
 *
 * A digest is BLAKE2b of the token keyed with a secret that only the server has. A lookup reads one bucket, chosen by bits of the
 * digest, and compares all of its places with all 32 bytes, found or not. So its time depends on the digest alone (which bucket, how
 * much of it is in a cache), never on how much of a token is right: a token that shares 63 of its 64 characters with a valid one has a
 * digest that shares nothing with its digest, and who does not have the secret can neither compute digests nor choose tokens
 * with a wanted one. What could leak is which digest was looked up, and that opens nothing. bench/bench_keys.c measures it (T04). */
#ifndef SPILLWAY_SERVER_ACCOUNTS_KEY_TABLE_H
#define SPILLWAY_SERVER_ACCOUNTS_KEY_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { KEY_DIGEST_BYTES = 32 };

struct key_entry {
    unsigned char digest[KEY_DIGEST_BYTES];
    int64_t account;   /* > 0 */
    int64_t project, organisation; /* project 0: an admin key */
    int64_t expires_s; /* 0: never. The table does not look at it */
    bool admin;
    uint32_t weight;
    int32_t priority;
};

/* Zero-initialised: empty. entries[0] stands for none. */
struct key_table {
    struct key_entry *entries;
    uint32_t n, cap;
    uint32_t *places; /* n_buckets rows of places: indexes into entries */
    size_t n_buckets; /* a power of two */
};

/* Copies entry. -ERR_MEMORY: the table is as before. */
MUST_USE int key_table_put(struct key_table *t, const struct key_entry *entry);
/* NULL if there is none; borrowed until the next put. Digests of all zeros are not found. */
const struct key_entry *key_table_find(const struct key_table *t, const unsigned char digest[KEY_DIGEST_BYTES]);
void key_table_free(struct key_table *t);

#endif
