/* Golden models under an engine, for its tests: models, submits, and what comes of them. */
#ifndef SPILLWAY_TESTS_UNIT_ENGINE_HARNESS_H
#define SPILLWAY_TESTS_UNIT_ENGINE_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "engine/model.h"

enum { MAX_MADE = 64, MAX_TOP = 5 };

static inline struct model *open_golden(const char *name, const struct model_options *o)
{
    char dir[512];
    struct model *m;
    struct err e;
    snprintf(dir, sizeof dir, "%s/models/%s", SPILLWAY_GOLDEN_DIR, name);
    if (model_open(&m, dir, o, &e)) fail_msg("%s", e.msg);
    return m;
}

static inline struct model *open_model_with(const char *name, uint64_t kv_tokens, uint32_t step_rows, int threads)
{
    return open_golden(name, &(struct model_options){.device = "cpu",
                                                     .compute = COMPUTE_F32,
                                                     .kv_dtype = DTYPE_F32,
                                                     .threads = threads,
                                                     .kv_tokens = kv_tokens,
                                                     .step_rows = step_rows});
}

static inline struct model *open_model(const char *name, uint64_t kv_tokens)
{
    return open_model_with(name, kv_tokens, 0, 2);
}

/* What came of one sequence. */
struct answer {
    int32_t tokens[MAX_MADE];
    uint32_t n;
    struct frame_logprob logprobs[MAX_MADE * (1 + MAX_TOP)]; /* as they came, where they were asked for */
    uint32_t n_logprobs;
    enum finish_reason finish;
    struct err err;
    uint32_t cached; /* prompt tokens found in the cache */
};

static inline struct frame_submit greedy(uint64_t sequence, const int32_t *ids, uint32_t n_ids, uint32_t max_tokens)
{
    return (struct frame_submit){
        .sequence = sequence,
        .weight = 1,
        .ids = ids,
        .n_ids = n_ids,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .top_logprobs = -1, .max_tokens = max_tokens, .ignore_eos = true}};
}

static inline void submit(struct engine *en, const struct frame_submit *f)
{
    struct err e;
    if (engine_submit(en, f, &e)) fail_msg("sequence %llu: %s", (unsigned long long)f->sequence, e.msg);
}

static inline void run_step(struct engine *en, struct answer *answers)
{
    struct frame_step step;
    struct err e;
    if (engine_step(en, 1000, &step, &e)) fail_msg("%s", e.msg);
    for (uint32_t i = 0; i < step.n_rows; i++) {
        const struct frame_step_row *r = &step.rows[i];
        struct answer *a = &answers[r->sequence];
        assert_int_equal(a->finish, FINISH_NONE);        /* nothing comes after the end */
        if (r->cached_tokens) assert_int_equal(a->n, 0); /* told with the first token */
        a->cached += r->cached_tokens;
        for (uint32_t k = 0; k < r->n_tokens; k++) {
            assert_true(a->n < MAX_MADE);
            a->tokens[a->n++] = r->tokens[k];
        }
        for (uint32_t k = 0; r->logprobs && k < r->n_tokens * (1 + r->n_top); k++) {
            assert_true(a->n_logprobs < MAX_MADE * (1 + MAX_TOP));
            a->logprobs[a->n_logprobs++] = r->logprobs[k];
        }
        a->finish = r->finish;
        a->err = r->err;
    }
}

static inline void run_all(struct engine *en, struct answer *answers)
{
    for (int steps = 0; engine_busy(en); steps++) {
        assert_true(steps < 10000);
        run_step(en, answers);
    }
}

static const int32_t some_ids[] = {40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51};

static inline int tiles_fd(const struct model_limits *l, uint32_t n_tiles, uint8_t fill, bool sealed)
{
    size_t n = (size_t)n_tiles * 3 * l->tile_px * l->tile_px;
    int fd = memfd_create("tiles", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    uint8_t *p = malloc(n);
    assert_true(fd >= 0 && p);
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(fill + i * 7 / 5 % 90);
    assert_int_equal(write(fd, p, n), n);
    free(p);
    if (sealed) assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
    return fd;
}

struct picture_prompt {
    int32_t ids[512];
    uint32_t n;
    struct frame_tile tiles[8];
};

/* fill as in tiles_fd: what the pixels are, the hash tells. */
static inline struct picture_prompt picture_prompt(const struct model_limits *l, uint32_t n_tiles, uint8_t fill)
{
    struct picture_prompt p = {.n = 3};
    memcpy(p.ids, some_ids, 3 * sizeof *p.ids);
    for (uint32_t i = 0; i < n_tiles; i++) {
        p.tiles[i] = (struct frame_tile){.tile_index = i, .hash = {fill, (uint8_t)i}};
        for (uint32_t k = 0; k < l->tokens_per_tile; k++) p.ids[p.n++] = l->image_token;
        p.ids[p.n++] = some_ids[i];
    }
    return p;
}

#endif
