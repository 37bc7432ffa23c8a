/* KV cache: which blocks are free, which hold a prefix that can be used again, who refers to them. Pure bookkeeping: the keys and values
 * themselves lie on the device, and what they are keyed by is the caller's (engine/block_keys.h).
 *
 * A block is free (no references, no key), cached (no references, found by its key) or referenced. Life: take -> filled by its one owner ->
 * published under a key, now never written again -> found by others -> released by the last: cached, until the room is needed. A block that
 * was never published is free again with its last reference.
 *
 * Every block that is not free is charged to the account that took it. Room is made by evicting the block released longest ago of the
 * account whose blocks, divided by its weight, are most; the taker's new block counts already. So an account keeps its cached blocks
 * through another's flood up to its fair share. Release a sequence's blocks last to first: then a prefix outlives what follows it.
 *
 * All memory is taken by kv_cache_new. Each call costs O(log accounts) a block. */
#ifndef SPILLWAY_ENGINE_KV_CACHE_H
#define SPILLWAY_ENGINE_KV_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct kv_key {
    uint64_t half[2]; /* a hash: its bits are even, nobody outside can make two equal */
};

static inline bool kv_key_equal(struct kv_key a, struct kv_key b)
{
    return a.half[0] == b.half[0] && a.half[1] == b.half[1];
}

struct kv_cache;
MUST_USE int kv_cache_new(struct kv_cache **out, uint32_t n_blocks, struct err *e);
void kv_cache_free(struct kv_cache *c); /* accepts NULL */

/* How many leading ones of these n keys have a block; *n_idle: how many of those blocks nobody refers to. Takes nothing. */
uint32_t kv_cache_peek(const struct kv_cache *c, const struct kv_key *keys, uint32_t n, uint32_t *n_idle);
/* The same, and takes a reference of each; their numbers into blocks. */
uint32_t kv_cache_match(struct kv_cache *c, const struct kv_key *keys, uint32_t n, uint32_t *blocks);
/* A block of one's own with one reference, free or evicted. False when every block is referenced. */
MUST_USE bool kv_cache_take(struct kv_cache *c, uint64_t account, uint32_t weight, uint32_t *block);
/* The block is full and is found by this key from now on; where another block has the key already, that one stays and this one is
 * private. */
void kv_cache_publish(struct kv_cache *c, uint32_t block, struct kv_key key);
void kv_cache_release(struct kv_cache *c, uint32_t block);

struct kv_cache_counts {
    uint32_t free, cached, referenced; /* blocks; together all there are */
};
struct kv_cache_counts kv_cache_counts(const struct kv_cache *c);
uint32_t kv_cache_available(const struct kv_cache *c); /* free and cached ones: what takes can have */
uint32_t kv_cache_references(const struct kv_cache *c, uint32_t block);
uint32_t kv_cache_charged(const struct kv_cache *c, uint64_t account); /* blocks */

#endif
