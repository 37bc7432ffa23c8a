/* Block keys: what a KV block is found by. BLAKE2b with a key of random bytes, new with every engine, over the key of the block before,
 * the adapter, the scope (an account, or 0 where a model's cache is shared) and, per position, the token or (hash of the tile, row in
 * it). So equal keys mean equal positions from the first on, for the same scope; nobody outside can make two prompts collide, and time
 * tells one account nothing of another's. */
#ifndef SPILLWAY_ENGINE_BLOCK_KEYS_H
#define SPILLWAY_ENGINE_BLOCK_KEYS_H

#include <stdint.h>

#include "engine/frame.h"
#include "engine/kv_cache.h"

enum { BLOCK_SECRET_BYTES = 32 };

struct block_secret {
    uint8_t bytes[BLOCK_SECRET_BYTES];
};
MUST_USE int block_secret_make(struct block_secret *s, struct err *e);

/* The positions of a sequence; borrowed for each call. */
struct block_text {
    const int32_t *tokens;
    uint32_t n_prompt;                        /* an image token before it is a row of a tile, after it a token like others */
    int32_t image_token;                      /* -1: none */
    uint32_t tokens_per_tile, n_tiles;        /* n_tiles * tokens_per_tile image tokens in the prompt */
    const uint8_t (*tiles)[FRAME_HASH_BYTES]; /* (n_tiles) */
};

/* Where a sequence's keys have come to. Begins as {.secret = ..., .scope = ...}. */
struct block_chain {
    const struct block_secret *secret;
    uint64_t adapter, scope;
    struct kv_key parent;
    uint32_t n_positions, n_picture_rows;
};
/* The key of the next n positions, and on to those after them. */
struct kv_key block_chain_next(struct block_chain *c, const struct block_text *t, uint32_t n);
/* The key of all so far and the next n positions (or none), unlike that of any block; the chain stays where it is. */
struct kv_key block_chain_whole(const struct block_chain *c, const struct block_text *t, uint32_t n);

/* What the encoder's output for a tile is found by. */
struct kv_key block_tile_key(const struct block_secret *s, uint64_t scope, const uint8_t tile[FRAME_HASH_BYTES]);

#endif
