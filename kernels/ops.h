/* The kernel contract: what a backend (CPU, CUDA) computes for the forward pass of engine/model.c.
 *
 * Operations are fused as a GPU wants them: a text layer is qkv, attention, project, gate_up, project. A backend knows nothing of models,
 * only shapes. `struct device` is the backend's own: its stream, its memory, its packed weights. Pointers marked [device] are from
 * ops->alloc; [host] pointers are read before the call returns. Operations of a step are queued in order and are complete after sync (or
 * read_back). No operation allocates. Errors are only -ERR_INTERNAL / -ERR_GONE (the device failed); shapes are our own and are CHECKed.
 *
 * Activations are float32 on the CPU and the compute dtype on a GPU; nobody but the backend looks inside. With COMPUTE_BF16 the operands of
 * matrix products are rounded to bf16 and sums are float32; with COMPUTE_F32 nothing is rounded (parity). Determinism: a row's result does
 * not depend on which other rows are in the call: each (N, K) has one summation order for every M, and keys are summed in splits of 256
 * positions; but a device opened as `fast` may choose by M. Source of the formulas: docs/model.md, "Forward pass"; the oracle is
 * kernels/cpu/kern_ref.c. */
#ifndef SPILLWAY_KERNELS_OPS_H
#define SPILLWAY_KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { OPS_VERSION = 4 }; /* of this table; a library of another is refused */

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_I8, DTYPE_E4M3 };
enum compute { COMPUTE_F32, COMPUTE_BF16 };

struct device;
struct weight;       /* a matrix packed for the backend */
struct quant_format; /* kernels/quant.h */

/* Several devices that compute one model together, a process each. All give the same size and id; ranks are 0 .. size - 1. */
enum { DEVICE_GROUP_ID_BYTES = 128, DEVICE_GROUP_LIMIT_MS = 10000 };
struct device_group {
    int rank, size;
    unsigned char id[DEVICE_GROUP_ID_BYTES]; /* made once, by ops->group_id in any of the processes */
    int limit_ms;                            /* until all have come to open, then for a collective; 0: DEVICE_GROUP_LIMIT_MS */
};

struct device_options {
    enum compute compute;
    bool fast;                        /* --decode fast: a product may choose its path by how many rows it has; the CPU has one path */
    int gpu;                          /* which of the GPUs that the process sees; the CPU ignores it */
    const struct device_group *group; /* NULL: a device alone. Read by open only */
    int threads;      /* of the host; 0 = all that the process may use. CUDA: they pack weights */
    bool pin_threads; /* CPU: each thread stays on one processor */
    const char *isa;  /* CPU: NULL = best; "ref", "avx2", "avx512", "avx512bf16", "avxvnni", "avx512vnni" for tests and measurements */
    volatile uint64_t *
        progress; /* bumped per packed weight and operation (CPU) or completed launch (GPU) by the device; may be NULL. Borrowed until close */
};

/* One (rows, cols) row-major part of a matrix, in a checkpoint's dtype. Borrowed for the call. DTYPE_E4M3 only to be packed quantised. */
struct weight_part {
    const void *data;
    enum dtype dtype;
    size_t rows;
    size_t head_dim; /* PACK_QKV: of its heads */
    const float *scale; /* DTYPE_E4M3: (rows), what the numbers of each are multiplied by; else NULL */
};

/* What the rows of one step are. All arrays [host]; the backend copies what it needs (one planning step a forward pass). */
struct step_plan {
    size_t n_rows;
    const int32_t *position;  /* (rows) */
    const uint32_t *sequence; /* (rows) index into the tables; rows of one sequence are adjacent, positions rising by one */
    const bool *prefill;      /* (rows) the row's role: prompt chunk, or decode */
    size_t n_sequences;
    const uint32_t *const *blocks; /* (sequences) block tables: block i holds positions i*block_tokens ... */
    size_t n_logits; /* not 0: all operations of a model follow, each time the same, the head for so many rows last; a backend may replay them */
    const int32_t *adapter; /* (rows) which of an operation's adapters a row has, below 0: none; NULL: no row has one */
};

/* One KV cache, all layers: block b starts at b * block_bytes; inside, layer after layer, keys then values. */
struct kv_layout {
    size_t layers, kv_heads, head_dim, block_tokens;
    enum dtype dtype; /* DTYPE_F32, DTYPE_BF16, or DTYPE_I8, DTYPE_E4M3: a float32 scale per token and KV head, for keys and for values */
};

struct rope {
    const float *inv_freq; /* (head_dim / 2) [host], borrowed for good; NULL: positions are not rotated (NoPE) */
    float scale;           /* multiplies cos and sin: YaRN's attention factor, else 1 */
};

/* x[r] = table[token[r]], or the next row of pictures where token[r] < 0 (row number -1 - token[r] of `pictures`). */
struct embed_args {
    const struct weight *table;  /* (vocab, hidden) */
    const int32_t *token;        /* (rows) [host] */
    const void *const *pictures; /* (rows) [host] array; for token[r] < 0 the picture [device] that row is taken from */
    void *x;                     /* (rows, hidden) [device] */
    size_t hidden;
};

/* q, k, v = W * rmsnorm(x); q and k rotated; k and v appended to the cache at the rows' positions; q left in the device's scratch for attention. */
struct qkv_args {
    const void *x;     /* (rows, hidden) */
    const float *norm; /* (hidden) [device] */
    float eps;
    const struct weight *w; /* PACK_QKV of ((heads + 2 kv_heads) * head_dim, hidden) */
    size_t hidden, heads;
    struct rope rope;
    void *kv; /* the slab [device] */
    const struct kv_layout *layout;
    size_t layer;
};

/* out[r, head] = softmax(q K^T / sqrt(head_dim)) V over positions 0 .. position[r]. */
struct attention_args {
    void *out; /* (rows, heads * head_dim) */
    size_t heads;
    const void *kv;
    const struct kv_layout *layout;
    size_t layer;
};

/* A low-rank adapter (LoRA, Hu et al. 2021) of one matrix (n, k): bf16, row-major [device], any alignment of 2. Sums are float32. */
enum { ADAPTER_MAX_RANK = 64 };
struct adapter {
    const void *a; /* (rank, k) */
    const void *b; /* (n, rank) */
    uint32_t rank; /* 1 .. ADAPTER_MAX_RANK */
    float scale;
};

/* x += W * in (+ bias) (+ scale * B (A in), of the row's adapter). */
struct project_args {
    void *x;                /* (rows, n) */
    const void *in;         /* (rows, k) */
    const struct weight *w; /* (n, k) */
    const float *bias;      /* (n) or NULL */
    size_t rows, n, k;
    bool tiles; /* the rows are those of tiles, not those of the step's plan */
    const struct adapter *adapters; /* [device] what the plan's numbers stand for; NULL: nothing is added. Not with tiles */
};

/* out = silu(G h) * (U h), h = rmsnorm(x); w holds G's rows and U's rows, as weight_pack was told. */
struct gate_up_args {
    const void *x;
    const float *norm;
    float eps;
    const struct weight *w; /* PACK_GATE_UP of (inter, hidden) twice */
    void *out;              /* (rows, inter) */
    size_t hidden, inter;
};

/* logits[i] = W * rmsnorm(x[row[i]]) */
struct head_args {
    const void *x;
    const uint32_t *row; /* (n) [host] */
    size_t n;
    const float *norm;
    float eps;
    const struct weight *w; /* (vocab, hidden) */
    float *logits;          /* (n, vocab) float32 [device] */
    size_t hidden, vocab;
};

/* --- sampling, on the device --- */
struct token_bias {
    int32_t token;
    float bias;
};
struct sample_params {
    float temperature;                         /* 0: greedy, the lowest id wins a tie */
    float top_p, min_p;                        /* 1, 0: off */
    int32_t top_k;                             /* 0: off */
    float frequency_penalty, presence_penalty; /* over the tokens made */
    float repetition_penalty;                  /* over prompt and tokens made; 1: off */
    uint64_t seed;
    uint32_t choice;
    int32_t top_logprobs; /* -1: none wanted */
};
struct sample_row {
    const float *logits; /* (vocab) [device] */
    struct sample_params params;
    uint32_t position;            /* of the token to be sampled: Philox(seed, choice, position) */
    const int32_t *prompt, *made; /* [host]; for the penalties */
    size_t n_prompt, n_made;
    const struct token_bias *bias;
    size_t n_bias;
    const int32_t *banned; /* never sampled */
    size_t n_banned;
    const int32_t *banned_now; /* likewise (end-of-sequence ids before min_tokens) */
    size_t n_banned_now;
    const uint32_t *mask; /* grammar: bit per token, 1 = allowed; NULL: all */
};
enum { SAMPLE_MAX_TOP = 20 };
struct sample_result {
    int32_t token; /* -1: the row held a non-finite logit (numeric_error), or nothing was allowed */
    float logprob; /* of the raw logits, before penalties, bias and temperature */
    int32_t n_top;
    int32_t top_token[SAMPLE_MAX_TOP];
    float top_logprob[SAMPLE_MAX_TOP];
};

/* --- vision: n tiles at once; positions = grid * grid --- */
struct patch_args {
    const uint8_t *tiles; /* (tiles, 3, tile_px, tile_px) [host] */
    size_t n_tiles, tile_px, patch, grid, dim;
    float scale[3], shift[3]; /* pixel p of channel c counts as p * rescale, then (v - mean) / std: (p * rescale - shift) / scale */
    float rescale;
    const struct weight *w; /* (dim, 3 * patch * patch), input channel-first */
    const float *bias;      /* (dim) */
    const float *position;  /* (grid * grid, dim) */
    void *x;                /* (tiles * grid * grid, dim) */
};
/* qkv = W * layernorm(x) + b, kept in the device's scratch for vision_attention. */
struct vision_qkv_args {
    const void *x;
    const float *norm_weight, *norm_bias;
    float eps;
    const struct weight *w; /* (3 * dim, dim) */
    const float *bias;      /* (3 * dim) */
    size_t rows, dim;
};
struct vision_attention_args {
    void *out; /* (tiles * positions, dim) */
    size_t n_tiles, positions, heads, head_dim;
};
/* out = gelu_tanh(W * layernorm(x) + b) */
struct vision_up_args {
    const void *x;
    const float *norm_weight, *norm_bias;
    float eps;
    const struct weight *w; /* (inter, dim) */
    const float *bias;
    void *out; /* (rows, inter) */
    size_t rows, dim, inter;
};
/* out = W * shuffle(layernorm(x)): scale x scale neighbouring positions side by side, row offset slow. */
struct connect_args {
    const void *x; /* (tiles * grid * grid, dim) */
    const float *norm_weight, *norm_bias;
    float eps;
    size_t n_tiles, grid, scale, dim;
    const struct weight *w; /* (hidden, dim * scale * scale) */
    void *out;              /* (tiles * (grid/scale)^2, hidden) */
    size_t hidden;
};

enum pack_kind { PACK_LINEAR, PACK_GATE_UP, PACK_EMBED, PACK_QKV };

/* Sizes the device's scratch is made for, once. */
struct device_limits {
    size_t max_rows; /* text rows a step */
    size_t max_sequences, max_blocks_per_sequence;
    size_t hidden, heads, kv_heads, head_dim, inter, vocab;                                /* the largest of the text model */
    size_t vision_rows, vision_dim, vision_inter, vision_head_dim, connector_in, patch_in, tile_bytes; /* 0: no vision */
};

struct ops {
    const char *name;
    uint32_t fill_rows; /* of a step, if there are as many: more would hold up the tokens of others for longer and gain little */
    bool two_paths; /* a row's bytes depend on its role, prompt or decode; else the same path computes both */
    MUST_USE int (*open)(struct device **out, const struct device_options *o, struct err *e);
    void (*close)(struct device *d);                               /* accepts NULL */
    void (*describe)(const struct device *d, char *out, size_t n); /* "cpu (2 threads, avx512bf16)" */
    size_t (*kv_block_tokens)(const struct device *d);             /* 16 CPU, 64 GPU */
    uint64_t (*available)(const struct device *d);                 /* bytes of its memory that are free; UINT64_MAX: not known */
    void (*bus_id)(const struct device *d, char *out, size_t n);   /* of a GPU, "0000:3b:00.0", "" if not known; NULL where a backend has none */
    MUST_USE int (*reserve)(struct device *d, const struct device_limits *l, struct err *e);

    /* Memory, taken at start only. alloc zeroes. */
    MUST_USE int (*alloc)(struct device *d, size_t bytes, void **out, struct err *e);
    void (*free)(struct device *d, void *p);
    MUST_USE int (*upload)(struct device *d, void *dst, const void *src, size_t bytes, struct err *e);
    MUST_USE int (*read_back)(struct device *d, void *dst, const void *src, size_t bytes, struct err *e); /* waits */
    /* From device memory to device memory, in order with the operations: a KV block, rows of a picture. */
    MUST_USE int (*copy)(struct device *d, void *dst, const void *src, size_t bytes, struct err *e);
    MUST_USE int (*sync)(struct device *d, struct err *e);

    /* Stacks parts (all with the same number of columns) into one matrix and packs it, quantised if quant is not NULL; its product then takes
     * activations quantised as kernels/quant.h says, whatever COMPUTE is. The file's bytes are not needed afterwards. */
    MUST_USE int (*weight_pack)(struct device *d, enum pack_kind kind, const struct weight_part *parts, size_t n_parts, size_t cols,
                                const struct quant_format *quant, struct weight **out, struct err *e);
    void (*weight_free)(struct device *d, struct weight *w); /* accepts NULL */
    size_t (*weight_bytes)(const struct weight *w);
    size_t (*kv_block_bytes)(const struct kv_layout *l);

    MUST_USE int (*plan)(struct device *d, const struct step_plan *p, const struct rope *rope, size_t head_dim, struct err *e);
    MUST_USE int (*embed)(struct device *d, const struct embed_args *a, struct err *e);
    MUST_USE int (*qkv)(struct device *d, const struct qkv_args *a, struct err *e);
    MUST_USE int (*attention)(struct device *d, const struct attention_args *a, struct err *e);
    MUST_USE int (*project)(struct device *d, const struct project_args *a, struct err *e);
    MUST_USE int (*gate_up)(struct device *d, const struct gate_up_args *a, struct err *e);
    MUST_USE int (*head)(struct device *d, const struct head_args *a, struct err *e);
    /* Samples n rows to out [host]; rows and out are borrowed until sampled returns, which waits for them. sampled NULL: sample has done it all. */
    MUST_USE int (*sample)(struct device *d, const struct sample_row *rows, size_t n, size_t vocab, struct sample_result *out,
                           struct err *e);
    MUST_USE int (*sampled)(struct device *d, struct err *e);

    MUST_USE int (*patch_embed)(struct device *d, const struct patch_args *a, struct err *e);
    MUST_USE int (*vision_qkv)(struct device *d, const struct vision_qkv_args *a, struct err *e);
    MUST_USE int (*vision_attention)(struct device *d, const struct vision_attention_args *a, struct err *e);
    MUST_USE int (*vision_up)(struct device *d, const struct vision_up_args *a, struct err *e);
    MUST_USE int (*connect)(struct device *d, const struct connect_args *a, struct err *e);

    /* Optional (NULL where a backend has none): tensor parallelism, one kernel for a whole decode step. */
    MUST_USE int (*group_id)(unsigned char id[DEVICE_GROUP_ID_BYTES], struct err *e);
    /* x (rows, n) [device], DTYPE_F32 or DTYPE_BF16, becomes the sum over all devices of the group, in order with the operations. One that does not
     * finish within the group's limit, or that NCCL reports as failed, is -ERR_GONE of the call that waits, naming rank and seconds; the group is
     * given up then. Without a group x stays as it is. */
    MUST_USE int (*all_reduce)(struct device *d, void *x, size_t rows, size_t n, enum dtype dtype, struct err *e);
    MUST_USE int (*decode_step)(struct device *d, const void *model, struct err *e);
};

extern const struct ops ops_cpu;

#endif
