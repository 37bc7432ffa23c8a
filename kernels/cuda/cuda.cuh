/* CUDA backend, inner part: the device, a packed weight, and what its files call of each other. CUDA types stay below this folder.
 *
 * Rows of a step are kept in slots: decode rows first, then prefill rows, each in the order of the step. Every array of a step but the host's
 * is in slots, so that an operation is one call of a decode kernel over the first n_decode rows and one of a prefill kernel over the rest:
 * which of the two computes a row follows from its role, never from how many there are. Within a kernel an output is one sum whose order
 * depends on K alone. x (the residual) is float32; operands of products are bf16; `attended` and `wide` are operands. */
#ifndef SPILLWAY_KERNELS_CUDA_CUDA_CUH
#define SPILLWAY_KERNELS_CUDA_CUDA_CUH

#include "kernels/cuda/ptx.cuh"

using bf16 = __nv_bfloat16;

extern "C" {
#include "base/err.h"
#include "kernels/ops.h"
#include "kernels/quant.h"
}

enum {
    CUDA_KV_BLOCK = 64,  /* positions of a KV block */
    CUDA_KV_SPLIT = 256, /* positions that one block of a decode kernel sums; its sums are joined in rising order */
    CUDA_TASKS = 4096,   /* splits of decode rows that are summed before they are joined, at least */
    CUDA_GRAPHS = 96,    /* that a device keeps */
    CUDA_LOAD_BYTES = 8 << 20, /* of each of the two buffers that weights pass through */
    CUDA_PACK_THREADS = 16,
    CUDA_K_PAD = 64,     /* operand rows and weight rows are padded with zeros to a multiple */
    CUDA_N_PAD = 16      /* outputs of a weight likewise; outputs of gate and up alternate by half of it */
};

/* bf16: row-major (n_padded, k_padded). Quantised: in fragments, see linear_quant.cu, and scales (steps, n_padded), or (n_padded) per channel.
 * With PACK_GATE_UP eight rows of the gate and eight of the up matrix alternate, with PACK_QKV those of a head's first and second half. */
struct weight {
    enum pack_kind kind;
    struct quant_format quant; /* bits 0: bf16 */
    size_t n, k, k_padded;     /* n: outputs as packed: of gate and up together */
    void *data, *scale;
    size_t bytes;
    bf16 *lt_bias; /* [device] (n) cublaslt.cu: room for a bias as bf16; NULL: none */
    mutable const float *lt_bias_of; /* whose numbers it holds: they are the same for good */
};

/* Rows that a product reads: bf16, or int8 with a scale for each step of k, or e4m3 with one for all of it. */
struct cuda_rows {
    const void *data;
    size_t ld;
    const float *scale; /* (steps, scale_ld); e4m3: (rows) */
    size_t scale_ld;
};

struct cuda_lt; /* cublaslt.cu */
struct cuda_sampler;
struct cuda_region; /* cuda_device.cu: a chunk of device memory that weights share */

/* Weights on their way: cuda_weight.cu. */
struct cuda_load {
    unsigned char *buffer[2]; /* [host, pinned] */
    cudaEvent_t copied[2];
    int now;
};

/* A step that was recorded: graph.cu. */
struct cuda_graph {
    size_t rows, tasks, heads;
    cudaGraphExec_t exec; /* NULL: has run once, or failed to be recorded */
    bool failed;
};

/* What of a step is where, in slots; all [device] but the counts. */
struct cuda_step {
    size_t n_rows, n_decode;
    size_t n_given; /* rows that are some; the others fill up a graph's */
    int32_t *position;  /* (rows); below 0: a row that is none, to fill up a graph's */
    uint32_t *sequence; /* (rows) */
    int32_t *adapter;   /* (rows); below 0: none */
    uint32_t *blocks;   /* (sequences, max_blocks_per_sequence) */
    int32_t *token;     /* (rows); below 0: row -1 - token of picture */
    const float **picture;
    uint32_t *head_row; /* (rows) slots whose logits are wanted, decode rows first */
    uint32_t *logits_row; /* (rows) which logits each is; UINT32_MAX: of a row that is none */
    uint32_t *first_task; /* (rows + 1) decode attention: splits of the rows before, of CUDA_KV_SPLIT positions */
    uint32_t *tile;     /* prefill attention: first slot of a tile, its rows (see attention_prefill.cu), (rows, 2) */
    size_t n_tiles, n_sequences;
    size_t n_tasks;  /* splits of all decode rows, for a graph rounded up */
    const uint32_t *task; /* [host] what first_task holds */
    size_t n_heads; /* rows of logits with those of rows that are none; 0: as many as the head is asked for */
    struct cuda_graph *graph; /* that is recorded, or replayed; NULL: operations run when they are called */
};

struct device {
    struct device_limits limits;
    volatile uint64_t *progress;
    int gpu;                  /* its number */
    struct cuda_group *group; /* group.cu's; null: alone */
    cudaStream_t stream;
    int n_sm;
    bool early; /* kernels may be launched before the one before has ended: sm_90 and later */
    char name[96];
    bool fast;          /* see device_options */
    struct cuda_lt *lt; /* cublaslt.cu's; null: not fast, or without cuBLASLt */
    char lt_state[120]; /* fast: its version, or why there is none */
    size_t lt_products; /* that it was given */
    struct cuda_region *regions;
    struct cuda_load load;
    size_t pack_threads;
    struct cuda_step step;
    struct cuda_graph graphs[CUDA_GRAPHS];
    size_t n_graphs;
    unsigned char *staging, *staged; /* [host, pinned], [device]: the step's arrays go over in one copy */
    size_t staging_bytes;
    uint32_t *slot;             /* [host] (rows) slot of a row */
    bf16 *operand;              /* rows of the product that is computed, k_padded apart */
    int8_t *q_operand;          /* likewise, for quantised weights */
    float *q_scale;             /* (steps, q_pitch); fp8: of the first step only */
    size_t q_pitch;
    float *qkv;                 /* (rows, heads + 2 kv_heads, head_dim): q is read by attention */
    bf16 *vision_qkv;           /* (vision_rows, 3 dim) */
    float *parts;               /* decode attention: (max_tasks, heads, head_dim + 2) */
    size_t max_tasks;
    const float *rope_made;     /* whose table is made */
    float2 *rope;               /* (positions, head_dim / 2): cos, sin */
    unsigned char *pixels_host, *pixels; /* a tile's, [host, pinned] and [device] */
    bool queued;                /* a copy out of pinned memory is under way */
    struct cuda_sampler *sampler; /* sample.cu's */
};

/* Of the last launch; queued work shows its errors at the next wait. */
int cuda_check(struct device *d, const char *what, cudaError_t rc, struct err *e);
int cuda_wait(struct device *d, struct err *e); /* for all that is queued */
int cuda_upload(struct device *d, void *dst, const void *src, size_t bytes, struct err *e);
static inline int cuda_launched(struct device *d, const char *what, struct err *e)
{
    if (d->progress) ++*d->progress;
    return cuda_check(d, what, cudaGetLastError(), e);
}

/* The step's kernels are in a graph already. */
static inline bool cuda_replays(const struct device *d)
{
    return d->step.graph && d->step.graph->exec;
}

static inline size_t cuda_round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* --- KV blocks: layer after layer, keys (kv_heads, 64, head_dim), then values likewise; of 8 bits each before its scales (kv_heads, 64) --- */
struct cuda_kv {
    unsigned char *base;
    size_t block_bytes, layer_bytes; /* of a layer in a block: keys and values */
    uint32_t kv_heads, head_dim, layer, is_int8, is_e4m3;
};
__host__ __device__ __forceinline__ bool kv_has_scales(const cuda_kv &kv)
{
    return kv.is_int8 || kv.is_e4m3;
}
struct cuda_kv cuda_kv_of(const void *slab, const struct kv_layout *l, size_t layer);

/* Head `head` of the keys or values of a block: (64, head_dim) numbers, and their scales, if they have any, behind all heads. */
__device__ __forceinline__ unsigned char *kv_at(const cuda_kv &kv, uint32_t block, bool value, uint32_t head)
{
    const size_t each = size_t(CUDA_KV_BLOCK) * kv.head_dim * (kv_has_scales(kv) ? 1 : 2);
    return kv.base + block * kv.block_bytes + kv.layer * kv.layer_bytes + (value ? kv.layer_bytes / 2 : 0) + head * each;
}
__device__ __forceinline__ float *kv_scales(const cuda_kv &kv, uint32_t block, bool value, uint32_t head)
{
    unsigned char *first = kv_at(kv, block, value, kv.kv_heads);
    return reinterpret_cast<float *>(first) + head * CUDA_KV_BLOCK;
}

/* --- group.cu: several devices, one model --- */
int cuda_group_id(unsigned char id[DEVICE_GROUP_ID_BYTES], struct err *e);
int cuda_group_open(struct device *d, const struct device_group *o, struct err *e); /* o may be null; cuda_group_close in any case */
void cuda_group_close(struct device *d);
int cuda_group_wait(struct device *d, struct err *e);
int cuda_all_reduce(struct device *d, void *x, size_t rows, size_t n, enum dtype dtype, struct err *e);

/* --- linear.cu: products --- */
enum cuda_epilogue {
    CUDA_STORE,      /* out float32 */
    CUDA_STORE_BF16, /* out bf16, + bias */
    CUDA_ADD,        /* out float32 += sum (+ bias) */
    CUDA_SILU,       /* out bf16 = silu(gate) * up of PACK_GATE_UP; ldo counts its own columns */
    CUDA_GELU,       /* out bf16 = gelu_tanh(sum + bias) */
    CUDA_QKV         /* of PACK_QKV: q and k rotated; q scaled for attention to out float32; k and v to the cache if it is bf16, else to out */
};
/* CUDA_QKV: the step's rows and where their keys and values go. */
struct cuda_kv_place {
    const int32_t *position; /* (rows); below 0: a row that is none */
    const uint32_t *sequence, *blocks;
    size_t max_blocks;
    const float2 *rope; /* (positions, head_dim / 2), or NULL */
    struct cuda_kv kv;
    uint32_t heads;
};
struct operand_args; /* norm.cuh */
struct cuda_linear {
    struct cuda_rows in; /* zeros from k to k_padded; unused with `own` */
    const struct weight *w;
    size_t rows, ldo;
    const float *bias; /* (n) or NULL */
    void *out;
    enum cuda_epilogue epilogue;
    const float *position; /* patch_embed: added to the sums, (rows, n); else NULL */
    const uint32_t *to;    /* [device] (rows) rows of out, UINT32_MAX: none; NULL: the same */
    const struct cuda_kv_place *place; /* CUDA_QKV */
    const struct operand_args *own;    /* the product makes its rows of these, which all decode; NULL: `in` */
};
/* The first n_decode rows by the decode kernel, the others by the prefill kernel. */
int cuda_linear_run(struct device *d, const struct cuda_linear *l, size_t n_decode, const char *what, struct err *e);
bool cuda_linear_makes(const struct weight *w, size_t rows, size_t n_decode); /* whether it can make these rows itself */

/* --- cublaslt.cu: products of many rows under --decode fast --- */
struct linear_args; /* linear.cuh */
void cuda_lt_open(struct device *d); /* d->lt stays null where there is no cuBLASLt; lt_state says which, or why */
void cuda_lt_close(struct device *d);
int cuda_lt_reserve(struct device *d, struct err *e);
int cuda_lt_pack(struct device *d, struct weight *w, struct err *e); /* what a weight needs besides */
/* Rows of prompts or tiles. false: own kernels have to; else *rc is how it went. */
bool cuda_lt_product(struct device *d, const struct weight *w, enum cuda_epilogue epilogue, const linear_args &a, const char *what, int *rc,
                     struct err *e);

/* --- norm.cu: operands, as the product with w reads them; they hold until the next --- */
int cuda_rmsnorm(struct device *d, const float *x, const uint32_t *pick, size_t rows, const float *norm, float eps, const struct weight *w, struct cuda_rows *out,
                 struct err *e);
int cuda_layernorm(struct device *d, const float *x, size_t rows, const float *norm, const float *bias, float eps, const struct weight *w, struct cuda_rows *out,
                   struct err *e);
/* Rows of grids (grid * grid, n): scale x scale neighbours, each normalised, are one row, the offset of rows slow. */
int cuda_layernorm_shuffled(struct device *d, const float *x, size_t grids, size_t grid, size_t scale, size_t n, const float *norm, const float *bias, float eps,
                            const struct weight *w, struct cuda_rows *out, struct err *e);
/* Rows that are bf16 already, round_up(k, CUDA_K_PAD) apart. */
int cuda_as_operand(struct device *d, const bf16 *in, size_t rows, const struct weight *w, struct cuda_rows *out, struct err *e);

/* --- the table's operations, by file --- */
int cuda_weight_pack(struct device *d, enum pack_kind kind, const struct weight_part *parts, size_t n_parts, size_t cols,
                     const struct quant_format *quant, struct weight **out, struct err *e);
void cuda_load_close(struct device *d);
void cuda_weight_free(struct device *d, struct weight *w);
size_t cuda_weight_bytes(const struct weight *w);
int cuda_region_take(struct device *d, size_t bytes, void **out, struct err *e); /* until the device is closed */
size_t cuda_kv_block_bytes(const struct kv_layout *l);

/* plan.cu: what else of a step comes from the host. all, n_decode: rows wanted with those that are none, and those that decode. */
int cuda_stage_tokens(struct device *d, const int32_t *token, const void *const *picture, struct err *e);
int cuda_stage_head(struct device *d, const uint32_t *row, size_t n, size_t *all, size_t *n_decode, struct err *e);
int cuda_stage_all(struct device *d, struct err *e);
/* Decode rows from `row` on whose tasks find room side by side: ends before *end; how many tasks, for a graph rounded up. */
size_t cuda_plan_tasks(const struct device *d, size_t row, size_t *end);
int cuda_plan_reserve(struct device *d, struct err *e);
int cuda_plan(struct device *d, const struct step_plan *p, const struct rope *rope, size_t head_dim, struct err *e);

/* graph.cu: begins in cuda_plan, ends in cuda_head; abandon: whatever has begun. */
int cuda_graph_choose(struct device *d, struct err *e);
int cuda_graph_step(struct device *d, struct err *e);
void cuda_graph_abandon(struct device *d);
void cuda_graph_close(struct device *d);

int cuda_embed(struct device *d, const struct embed_args *a, struct err *e);
int cuda_qkv(struct device *d, const struct qkv_args *a, struct err *e);
int cuda_attention(struct device *d, const struct attention_args *a, struct err *e);
int cuda_attention_decode(struct device *d, const struct attention_args *a, struct err *e);
int cuda_attention_prefill(struct device *d, const struct attention_args *a, struct err *e);
int cuda_project(struct device *d, const struct project_args *a, struct err *e);
int cuda_adapters(struct device *d, const struct project_args *a, size_t rows, struct err *e);
int cuda_gate_up(struct device *d, const struct gate_up_args *a, struct err *e);
int cuda_head(struct device *d, const struct head_args *a, struct err *e);
int cuda_sample(struct device *d, const struct sample_row *rows, size_t n, size_t vocab, struct sample_result *out, struct err *e);
int cuda_sampled(struct device *d, struct err *e);
int cuda_sample_reserve(struct device *d, struct err *e);
void cuda_sample_close(struct device *d);
int cuda_patch_embed(struct device *d, const struct patch_args *a, struct err *e);
int cuda_vision_qkv(struct device *d, const struct vision_qkv_args *a, struct err *e);
int cuda_vision_attention(struct device *d, const struct vision_attention_args *a, struct err *e);
int cuda_vision_up(struct device *d, const struct vision_up_args *a, struct err *e);
int cuda_connect(struct device *d, const struct connect_args *a, struct err *e);

/* Eight bf16, one load of 16 bytes, as float32. */
__device__ __forceinline__ void unpack8(uint4 v, float (&f)[8])
{
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) f[2 * i] = bf16x2_lo(w[i]), f[2 * i + 1] = bf16x2_hi(w[i]);
}

#endif
