/* Picture cache: the encoder's output of tiles seen lately, so that a repeated picture costs no encode. The rows lie in one picture of
 * so many slots, taken at the start; which tile is where, and which goes first when it is full, is a kv_cache's bookkeeping (fair
 * between accounts). Keys are block_tile_key's: one account's pictures are not another's. */
#ifndef SPILLWAY_ENGINE_PICTURE_CACHE_H
#define SPILLWAY_ENGINE_PICTURE_CACHE_H

#include "engine/kv_cache.h"
#include "engine/model.h"

struct picture_cache;
/* model is borrowed. *out is NULL where the model takes no pictures or not one tile fits; the other calls accept that. */
MUST_USE int picture_cache_new(struct picture_cache **out, struct model *model, uint64_t max_bytes, struct err *e);
void picture_cache_free(struct picture_cache *c);

/* Copies the tile's rows into the picture if they are there: 1; 0: they are not; negative: the copy failed. */
MUST_USE int picture_cache_get(struct picture_cache *c, struct kv_key key, struct picture *to, uint32_t tile, struct err *e);
MUST_USE int picture_cache_put(struct picture_cache *c, struct kv_key key, uint64_t account, uint32_t weight, const struct picture *from,
                               uint32_t tile, struct err *e);

#endif
