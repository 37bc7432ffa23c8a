/* Block keys: see block_keys.h. Everything hashed has a fixed length or stands behind its count, so different things are different
 * bytes. */
#include "engine/block_keys.h"

#include <sodium.h>
#include <string.h>

enum kind { KIND_BLOCK, KIND_WHOLE, KIND_TILE };
enum position_kind { POSITION_TOKEN, POSITION_PICTURE };

int block_secret_make(struct block_secret *s, struct err *e)
{
    if (sodium_init() < 0) return err_set(e, ERR_INTERNAL, "libsodium does not start");
    randombytes_buf(s->bytes, sizeof s->bytes);
    return 0;
}

static void add(crypto_generichash_state *h, const void *p, size_t n)
{
    CHECK(crypto_generichash_update(h, p, n) == 0);
}

static void begin(crypto_generichash_state *h, const struct block_secret *s, enum kind kind, uint64_t scope)
{
    const uint64_t head[2] = {(uint64_t)kind, scope};
    CHECK(crypto_generichash_init(h, s->bytes, sizeof s->bytes, sizeof(struct kv_key)) == 0);
    add(h, head, sizeof head);
}

static struct kv_key end(crypto_generichash_state *h)
{
    struct kv_key key;
    CHECK(crypto_generichash_final(h, (unsigned char *)&key, sizeof key) == 0);
    return key;
}

static void add_position(crypto_generichash_state *h, struct block_chain *c, const struct block_text *t)
{
    uint32_t p = c->n_positions++;
    bool picture = t->n_tiles > 0 && p < t->n_prompt && t->tokens[p] == t->image_token;
    uint32_t what[2] = {picture ? POSITION_PICTURE : POSITION_TOKEN, (uint32_t)t->tokens[p]};
    if (picture) what[1] = c->n_picture_rows % t->tokens_per_tile;
    add(h, what, sizeof what);
    if (!picture) return;
    uint32_t tile = c->n_picture_rows++ / t->tokens_per_tile;
    CHECK(tile < t->n_tiles);
    add(h, t->tiles[tile], FRAME_HASH_BYTES);
}

static struct kv_key advance(struct block_chain *c, const struct block_text *t, uint32_t n, enum kind kind)
{
    crypto_generichash_state h;
    begin(&h, c->secret, kind, c->scope);
    add(&h, &c->adapter, sizeof c->adapter);
    add(&h, &c->parent, sizeof c->parent);
    add(&h, &n, sizeof n);
    for (uint32_t i = 0; i < n; i++) add_position(&h, c, t);
    return c->parent = end(&h);
}

struct kv_key block_chain_next(struct block_chain *c, const struct block_text *t, uint32_t n)
{
    return advance(c, t, n, KIND_BLOCK);
}

struct kv_key block_chain_whole(const struct block_chain *c, const struct block_text *t, uint32_t n)
{
    struct block_chain copy = *c;
    return advance(&copy, t, n, KIND_WHOLE);
}

struct kv_key block_tile_key(const struct block_secret *s, uint64_t scope, const uint8_t tile[FRAME_HASH_BYTES])
{
    crypto_generichash_state h;
    begin(&h, s, KIND_TILE, scope);
    add(&h, tile, FRAME_HASH_BYTES);
    return end(&h);
}
