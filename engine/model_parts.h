/* Model, inner part: what model_load.c builds and model.c computes with. */
#ifndef SPILLWAY_ENGINE_MODEL_PARTS_H
#define SPILLWAY_ENGINE_MODEL_PARTS_H

#include "engine/media/image.h"
#include "engine/model.h"
#include "weights/config.h"

/* Most logit rows of one step: what a batch samples, and what `logits` reads at a time. */
enum { MODEL_LOGIT_ROWS = 256, MODEL_MAX_SEQUENCES = 512 };

struct text_layer {
    struct weight *qkv, *o, *gate_up, *down;
    float *norm_in, *norm_post; /* (hidden) [device] */
};

struct vision_layer {
    struct weight *qkv, *o, *fc1, *fc2;
    float *qkv_bias, *o_bias, *fc1_bias, *fc2_bias;
    float *ln1, *ln1_bias, *ln2, *ln2_bias;
};

struct vision {
    struct weight *patch, *connector;
    float *patch_bias, *position, *post, *post_bias;
    struct vision_layer *layers;
    float *x, *attended, *wide; /* (positions, dim), (positions, dim), (positions, inter) */
};

struct model {
    const struct ops *ops;
    struct device *device;
    struct model_config config;
    struct image_settings images; /* mean, std and rescale of pixels */
    struct model_limits limits;
    struct kv_layout kv_layout;
    void *kv;
    struct weight *embed, *head; /* the same object when tied */
    float *norm;
    struct text_layer *layers;
    struct vision vision;
    struct device_limits sizes;
    float *x, *attended, *wide, *logits; /* (rows, hidden), (rows, heads * head_dim), (rows, inter), (MODEL_LOGIT_ROWS, vocab) */
    uint32_t max_blocks;                 /* of one sequence */
    size_t n_logits;                     /* of the last step */
    /* a step's plan */
    int32_t *position, *token;
    uint32_t *sequence, *logit_row;
    bool *prefill;
    const uint32_t **blocks;
    const void **pictures;
};

struct picture {
    float *rows; /* (n_tiles * tokens_per_tile, hidden) [device] */
    uint32_t n_rows, n_tiles;
};

/* Where a load takes its tensors from: a folder, or a generator. */
struct tensor_source {
    void *self;
    /* The named tensor with exactly this shape; data is borrowed until `done`. Missing or mis-shaped: an error that names it. */
    int (*get)(void *self, const char *name, const uint64_t *shape, int n_dims, struct weight_part *out, struct err *e);
    bool (*has)(void *self, const char *name);
    void (*done)(void *self); /* what get lent may go */
};

/* Device, plan, memory, weights; m->config is set. On failure model_close cleans up. */
MUST_USE int model_build(struct model *m, const struct model_options *o, const struct tensor_source *src, struct err *e);

#endif
