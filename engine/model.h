/* Model: weights on a device, the KV cache, and the forward pass, the same for all families and backends.
 *
 * Lifetimes: model_open -> any number of model_encode_tile / model_step / model_sample -> model_close. One thread at a time. The caller
 * (worker, command line) owns the block tables: the model only computes into the blocks it is told. A picture is the encoder's output for
 * some tiles, kept on the device until picture_free. Sequences do not exist here; they are the scheduler's. */
#ifndef SPILLWAY_ENGINE_MODEL_H
#define SPILLWAY_ENGINE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/ops.h"

enum { MODEL_HASH_BYTES = 32 };

/* How matrices are quantised when they are packed: the formats of kernels/quant.h. NONE keeps what a checkpoint has as fp8. */
enum model_quant { MODEL_QUANT_NONE, MODEL_QUANT_INT8, MODEL_QUANT_INT4, MODEL_QUANT_FP8 };

struct model_options {
    const char *device; /* "auto", "cpu", "cuda" */
    const char *cuda_library;    /* see backend_find */
    int gpu;                     /* see device_options */
    enum compute compute;
    bool fast;                   /* see device_options */
    enum dtype kv_dtype;         /* DTYPE_F32, DTYPE_BF16, DTYPE_I8 or DTYPE_E4M3 */
    int threads;                 /* 0: all */
    bool pin_threads;            /* see device_options */
    const char *isa;             /* see device_options */
    enum model_quant quant;      /* of the text layers' matrices */
    enum model_quant quant_head; /* of the head and the embedding; one matrix, if they are tied */
    enum model_quant quant_vision; /* of the vision model and the connector */
    uint64_t kv_tokens;          /* positions the KV cache holds in all; 0: 4 x the longest context, at most 1 GiB */
    uint32_t step_rows;          /* most rows of a step; 0: 512, or what the backend fills a step with if that is more */
    volatile uint64_t *progress; /* see device_options */
};

struct model_limits {
    uint32_t vocab, hidden, layers;
    uint32_t max_context; /* of the model, lowered to what the cache holds */
    uint32_t block_tokens, n_blocks;
    uint32_t step_rows, fill_rows;     /* most rows of a step; what a step is best filled with, if others wait */
    bool two_paths;                    /* see struct ops */
    bool queues;                       /* steps and samples are queued, and done by model_sampled */
    uint32_t tile_px, tokens_per_tile; /* 0: no pictures */
    uint32_t tile_layers;              /* of the picture encoder */
    int32_t image_token;               /* -1 */
    uint64_t weight_bytes, kv_bytes;
    char device[192];
    char bus_id[32];                /* of a GPU, else "" */
    char weights[48]; /* "not quantised", "int4, head int8" */
    uint8_t hash[MODEL_HASH_BYTES]; /* BLAKE2b-256 over config.json and the headers of the weight files, or "SHAPE:SEED" of random weights */
};

struct model;
/* dir: a Hugging Face folder. Errors name the file, field or tensor; a memory plan that does not fit is -ERR_MEMORY with the numbers. */
MUST_USE int model_open(struct model **out, const char *dir, const struct model_options *o, struct err *e);
/* spec: "SHAPE:SEED", e.g. "135m:1", "360m:1", "1.7b:1", "3b:1", "vlm-256m:1": random weights in a real shape, for benchmarks. */
MUST_USE int model_open_random(struct model **out, const char *spec, const struct model_options *o, struct err *e);
void model_close(struct model *m); /* accepts NULL */
const struct model_limits *model_limits(const struct model *m);

struct picture;
MUST_USE int picture_new(struct model *m, uint32_t n_tiles, struct picture **out, struct err *e);
void picture_free(struct model *m, struct picture *p); /* accepts NULL */
/* pixels: uint8 (3, tile_px, tile_px) [host]. Computes rows tile * tokens_per_tile ... of the picture. */
MUST_USE int model_encode_tile(struct model *m, struct picture *p, uint32_t tile, const uint8_t *pixels, struct err *e);
/* The same in parts: layers first .. first + n - 1 of tile_layers; the rows are there after the last. One tile at a time: its parts in order, and
 * no other tile between them, or it begins again from layer 0. Text steps may come between. */
MUST_USE int model_encode_layers(struct model *m, struct picture *p, uint32_t tile, const uint8_t *pixels, uint32_t first, uint32_t n,
                                 struct err *e);
/* The encoder's output for one tile, from one picture to another. */
MUST_USE int picture_copy_tile(struct model *m, struct picture *to, uint32_t to_tile, const struct picture *from, uint32_t from_tile,
                               struct err *e);
uint64_t picture_tile_bytes(const struct model *m); /* of device memory */
/* All layers' keys and values of one KV block into another. */
MUST_USE int model_copy_block(struct model *m, uint32_t from, uint32_t to, struct err *e);

/* Adjacent rows of one sequence. */
struct model_group {
    const int32_t *tokens; /* (n_rows); where tokens[i] == image_token and picture is given, the next picture row is taken */
    uint32_t first_position, n_rows;
    bool prefill;                  /* role of these rows */
    const uint32_t *blocks;        /* block table of the sequence: covers positions 0 .. first_position + n_rows - 1 */
    const struct picture *picture; /* or NULL */
    uint32_t picture_row;          /* the picture row that the first image token of these rows takes */
    bool all_logits;               /* logits of every row, else of the last if `logits`, else of none */
    bool logits;
};
/* Computes all rows (at most step_rows) and the wanted logits, in order of groups and rows. */
MUST_USE int model_step(struct model *m, const struct model_group *groups, size_t n_groups, struct err *e);
/* Row i of the last step's wanted logits, (vocab) [device]; for sample_row.logits. */
const float *model_logits(const struct model *m, size_t i);
MUST_USE int model_read_logits(struct model *m, size_t i, float *out /* (vocab) */, struct err *e);
MUST_USE int model_sample(struct model *m, const struct sample_row *rows, size_t n, struct sample_result *out, struct err *e);
/* The same in halves: rows and out are borrowed until model_sampled, and a device that queues computes meanwhile. */
MUST_USE int model_sample_begin(struct model *m, const struct sample_row *rows, size_t n, struct sample_result *out, struct err *e);
MUST_USE int model_sampled(struct model *m, struct err *e);

#endif
