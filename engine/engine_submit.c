/* Engine: a submit is checked, copied, its tiles mapped and its blocks keyed; see engine.h and engine_parts.h. Start at engine_submit. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "engine/engine_parts.h"

static int check_ids(const struct engine *en, const int32_t *ids, uint32_t n, const char *what, struct err *e)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= en->limits.vocab)
            return err_set(e, ERR_INPUT, "%s: id %d is outside the vocabulary of %u", what, (int)ids[i], en->limits.vocab);
    return 0;
}

static int check_submit(const struct engine *en, const struct frame_submit *f, struct err *e)
{
    const struct model_limits *l = &en->limits;
    int rc = check_ids(en, f->ids, f->n_ids, "prompt", e);
    if (!rc) rc = check_ids(en, f->eos, f->n_eos, "end-of-sequence ids", e);
    if (!rc) rc = check_ids(en, f->banned, f->n_banned, "banned ids", e);
    for (uint32_t i = 0; !rc && i < f->n_bias; i++) rc = check_ids(en, &f->bias[i].token, 1, "logit bias", e);
    if (rc) return rc;
    uint64_t positions = 0;
    for (uint32_t i = 0; i < f->n_ids; i++) positions += l->image_token >= 0 && f->ids[i] == l->image_token;
    if (positions != (uint64_t)f->n_tiles * l->tokens_per_tile || (f->n_tiles && l->tokens_per_tile == 0))
        return err_set(e, ERR_INPUT, "the prompt has %llu picture positions, %u tiles of %u came", (unsigned long long)positions,
                       f->n_tiles, l->tokens_per_tile);
    return 0;
}

static int map_descriptor(int fd, struct mapping *m, struct err *e)
{
    enum { SEALS = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW };
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS) return err_set(e, ERR_INPUT, "tiles: the descriptor is not a sealed memfd");
    if (fstat(fd, &st)) return err_set(e, ERR_IO, "tiles: %s", strerror(errno));
    if (st.st_size <= 0) return err_set(e, ERR_INPUT, "tiles: the memfd is empty");
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return err_set(e, ERR_MEMORY, "tiles: %s", strerror(errno));
    *m = (struct mapping){.base = p, .n_bytes = (size_t)st.st_size};
    return 0;
}

static int map_tiles(const struct engine *en, struct engine_sequence *q, const struct frame_submit *f, struct err *e)
{
    size_t tile_bytes = (size_t)3 * en->limits.tile_px * en->limits.tile_px;
    if (f->n_tiles == 0) return 0;
    q->mappings = calloc(f->n_fds ? f->n_fds : 1, sizeof *q->mappings);
    q->tiles = calloc(f->n_tiles, sizeof *q->tiles);
    q->tile_hashes = calloc(f->n_tiles, sizeof *q->tile_hashes);
    if (!q->mappings || !q->tiles || !q->tile_hashes) return err_set(e, ERR_MEMORY, "out of memory");
    for (; q->n_mappings < f->n_fds; q->n_mappings++) {
        int rc = map_descriptor(f->fds[q->n_mappings], &q->mappings[q->n_mappings], e);
        if (rc) return rc;
    }
    for (; q->n_tiles < f->n_tiles; q->n_tiles++) {
        const struct frame_tile *t = &f->tiles[q->n_tiles];
        if (t->fd_index >= f->n_fds || t->tile_index >= q->mappings[t->fd_index].n_bytes / tile_bytes)
            return err_set(e, ERR_INPUT, "tile %u: number %u of descriptor %u is not there", q->n_tiles, t->tile_index, t->fd_index);
        q->tiles[q->n_tiles] = q->mappings[t->fd_index].base + t->tile_index * tile_bytes;
        memcpy(q->tile_hashes[q->n_tiles], t->hash, sizeof t->hash);
    }
    return 0;
}

/* Room for so many items of which the first n are copied; NULL without memory. */
static void *copy_array(const void *from, size_t n, size_t size, size_t room)
{
    void *p = calloc(room ? room : 1, size);
    if (p && n) memcpy(p, from, n * size);
    return p;
}

static int sequence_fill(const struct engine *en, struct engine_sequence *q, const struct frame_submit *f, struct err *e)
{
    q->id = f->sequence;
    q->account = f->account;
    q->weight = f->weight;
    q->sampling = f->sampling;
    q->n_prompt = f->n_ids;
    /* What is made fits as well: the scheduler cuts max_tokens to the context. */
    size_t room = f->n_ids < en->limits.max_context ? en->limits.max_context - f->n_ids : 0;
    if (f->sampling.max_tokens < room) room = f->sampling.max_tokens;
    q->tokens = copy_array(f->ids, f->n_ids, sizeof *q->tokens, f->n_ids + room);
    q->eos = copy_array(f->eos, q->n_eos = f->n_eos, sizeof *q->eos, f->n_eos);
    q->banned = copy_array(f->banned, q->n_banned = f->n_banned, sizeof *q->banned, f->n_banned);
    q->bias = copy_array(NULL, 0, sizeof *q->bias, f->n_bias);
    if (!q->tokens || !q->eos || !q->banned || !q->bias) return err_set(e, ERR_MEMORY, "out of memory");
    for (; q->n_bias < f->n_bias; q->n_bias++)
        q->bias[q->n_bias] = (struct token_bias){.token = f->bias[q->n_bias].token, .bias = f->bias[q->n_bias].bias};
    return map_tiles(en, q, f, e);
}

struct block_text engine_text(const struct engine *en, const struct engine_sequence *q)
{
    return (struct block_text){.tokens = q->tokens,
                               .n_prompt = q->n_prompt,
                               .image_token = en->limits.image_token,
                               .tokens_per_tile = en->limits.tokens_per_tile,
                               .n_tiles = q->n_tiles,
                               .tiles = (const uint8_t(*)[FRAME_HASH_BYTES])q->tile_hashes};
}

/* From the first position of each tile to behind its last; the prompt has been checked. */
static void place_tiles(const struct engine *en, const struct engine_sequence *q, struct scheduler_tile *out)
{
    uint32_t row = 0;
    for (uint32_t p = 0; q->n_tiles > 0 && p < q->n_prompt; p++) {
        if (q->tokens[p] != en->limits.image_token) continue;
        struct scheduler_tile *t = &out[row / en->limits.tokens_per_tile];
        if (row % en->limits.tokens_per_tile == 0) t->first = p;
        t->end = p + 1;
        row++;
    }
}

static uint64_t held_bytes(const struct engine_sequence *q)
{
    uint64_t n = (uint64_t)q->n_prompt * sizeof *q->tokens;
    for (uint32_t i = 0; i < q->n_mappings; i++) n += q->mappings[i].n_bytes;
    return n;
}

/* Before it is in the queue itself. Blocks that are in the cache now are not computed; of its tiles nobody knows before. */
static void predict(const struct engine *en, struct engine_sequence *q, const struct kv_key *keys)
{
    const uint32_t block = en->limits.block_tokens;
    uint32_t n_idle, n_found = keys ? kv_cache_peek(scheduler_cache(en->scheduler), keys, (q->n_prompt - 1) / block, &n_idle) : 0;
    q->submitted_ns = clock_boot_ns();
    q->predicted_ms = engine_first_token_ms(en, q->n_prompt - n_found * block, n_found ? 0 : q->n_tiles);
}

/* Keys of the prompt's full blocks and of the whole, places of tiles: what the scheduler is to know, in arrays that are free after the
 * call. */
static int schedule(struct engine *en, struct engine_sequence *q, const struct frame_submit *f, struct err *e)
{
    const uint32_t block = en->limits.block_tokens, n_keys = q->n_prompt / block;
    struct kv_key *keys = calloc(n_keys + 1u, sizeof *keys);
    struct scheduler_tile *tiles = calloc(q->n_tiles + 1u, sizeof *tiles);
    int rc = keys && tiles ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    if (!rc) {
        struct block_text text = engine_text(en, q);
        q->chain = (struct block_chain){.secret = &en->secret, .scope = en->options.shared_cache ? 0 : q->account};
        for (uint32_t i = 0; i < n_keys; i++) keys[i] = block_chain_next(&q->chain, &text, block);
        place_tiles(en, q, tiles);
        struct scheduler_request r = {.id = q->id,
                                      .account = q->account,
                                      .weight = q->weight,
                                      .priority = f->priority,
                                      .n_prompt = q->n_prompt,
                                      .keys = en->options.no_prefix_cache ? NULL : keys,
                                      .prompt_key = block_chain_whole(&q->chain, &text, q->n_prompt % block),
                                      .tiles = tiles,
                                      .n_tiles = q->n_tiles,
                                      .max_tokens = f->sampling.max_tokens,
                                      .n_bytes = held_bytes(q),
                                      .deadline_ms = f->deadline_ms,
                                      .user = q};
        predict(en, q, r.keys);
        rc = scheduler_submit(en->scheduler, &r, e);
    }
    free(keys);
    free(tiles);
    return rc;
}

int engine_submit(struct engine *en, const struct frame_submit *f, struct err *e)
{
    int rc = check_submit(en, f, e);
    if (rc) return rc;
    struct engine_sequence *q = calloc(1, sizeof *q);
    if (!q) return err_set(e, ERR_MEMORY, "out of memory");
    rc = sequence_fill(en, q, f, e);
    if (!rc) rc = schedule(en, q, f, e);
    if (rc) engine_sequence_free(en, q);
    return rc;
}
