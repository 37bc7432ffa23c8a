/* Picture cache: see picture_cache.h. */
#include "engine/picture_cache.h"

#include <stdlib.h>

struct picture_cache {
    struct model *model;
    struct kv_cache *slots;
    struct picture *rows; /* slot i is its tile i */
};

int picture_cache_new(struct picture_cache **out, struct model *model, uint64_t max_bytes, struct err *e)
{
    enum { MAX_SLOTS = 1 << 16 };
    *out = NULL;
    if (model_limits(model)->tile_px == 0) return 0;
    uint64_t n_slots = max_bytes / picture_tile_bytes(model);
    if (n_slots > MAX_SLOTS) n_slots = MAX_SLOTS;
    if (n_slots == 0) return 0;
    struct picture_cache *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_MEMORY, "out of memory");
    c->model = model;
    int rc = kv_cache_new(&c->slots, (uint32_t)n_slots, e);
    if (!rc) rc = picture_new(model, (uint32_t)n_slots, &c->rows, e);
    if (rc)
        picture_cache_free(c);
    else
        *out = c;
    return rc;
}

void picture_cache_free(struct picture_cache *c)
{
    if (!c) return;
    kv_cache_free(c->slots);
    picture_free(c->model, c->rows);
    free(c);
}

int picture_cache_get(struct picture_cache *c, struct kv_key key, struct picture *to, uint32_t tile, struct err *e)
{
    uint32_t slot;
    if (!c || kv_cache_match(c->slots, &key, 1, &slot) == 0) return 0;
    int rc = picture_copy_tile(c->model, to, tile, c->rows, slot, e);
    kv_cache_release(c->slots, slot);
    return rc ? rc : 1;
}

int picture_cache_put(struct picture_cache *c, struct kv_key key, uint64_t account, uint32_t weight, const struct picture *from,
                      uint32_t tile, struct err *e)
{
    uint32_t slot, n_idle;
    if (!c || kv_cache_peek(c->slots, &key, 1, &n_idle) == 1) return 0;
    CHECK(kv_cache_take(c->slots, account, weight, &slot)); /* nothing is referred to between the calls */
    int rc = picture_copy_tile(c->model, c->rows, slot, from, tile, e);
    if (!rc) kv_cache_publish(c->slots, slot, key);
    kv_cache_release(c->slots, slot);
    return rc;
}
