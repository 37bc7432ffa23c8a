/* CPU backend, inner part: the device, packed weights, and the table of kernels that an instruction set fills in.
 *
 * Layouts. A weight is cut into panels of 32 outputs, zero-padded: float32 [k][32], bf16 [k/2][32][2] (two neighbouring inputs side by
 * side, as AVX512-BF16 multiplies them; other sets shift and mask them apart), quantised as kern_q.h tells, but fp8 as bf16 with the 32
 * outputs' float32 scales behind: twice the bytes, and no kernel of its own. PACK_GATE_UP alternates panels of G and U. A KV block of
 * 16 tokens holds, per layer and KV head, keys transposed [head_dim][16] and values [16][head_dim]: both products of attention
 * then are "broadcast times vector". int8 and e4m3 keys and values are followed by the 16 tokens' float32 scales: a number is q * scale.
 * Everything the kernels do for a row is independent of the other rows. */
#ifndef SPILLWAY_KERNELS_CPU_CPU_H
#define SPILLWAY_KERNELS_CPU_CPU_H

#include "kernels/bf16.h"
#include "kernels/cpu/kern_q.h"
#include "kernels/cpu/threads.h"
#include "kernels/ops.h"

enum { PANEL = 32, KV_BLOCK = 16, KV_SPLIT = 256, MAX_TILE_ROWS = 16, ATTENTION_ROWS = 48, MAX_HEAD_DIM = 256, CPU_EXP_CHUNK = 1024 };
/* Floats of scratch that attention needs: scores and sums of the rows it has in hand (at most 16), what is joined of all rows. */
enum { ATTENTION_FLOATS = 16 * (KV_SPLIT + MAX_HEAD_DIM) + ATTENTION_ROWS * (MAX_HEAD_DIM + 2) };

struct weight {
    enum dtype dtype; /* DTYPE_F32 or DTYPE_BF16; of no meaning where quant.bits is not 0 */
    enum pack_kind kind;
    size_t n, k; /* rows (of G alone for PACK_GATE_UP) and columns */
    size_t kp;   /* k rounded up to 2, or to whole steps */
    size_t panels, panel_bytes;
    size_t bytes;
    unsigned char *data;
    struct quant_format quant;
    size_t step, block_bytes, scale_at; /* inputs of a block, its size, where in it the scales are (per channel: in the panel) */
};

/* Query rows that share keys and values: q[r] is scaled already, sees positions 0 .. limit[r]-1. Blocks of keys and values by position / 16.
 * Rows whose limits are alike should be neighbours. Keys are summed in splits of KV_SPLIT positions, which are joined in rising order. */
struct attention_tile {
    size_t rows; /* <= ATTENTION_ROWS */
    const float *q[ATTENTION_ROWS];
    float *out[ATTENTION_ROWS];
    size_t limit[ATTENTION_ROWS];
    size_t head_dim; /* multiple of 16 */
    enum dtype dtype;
    const void *const *k_block; /* [head_dim][16] each */
    const void *const *v_block; /* [16][head_dim] each */
    float *scratch;             /* ATTENTION_FLOATS */
    /* parts NULL: out is written. Else only splits first_split .. end_split-1 are summed, and each is left at parts[split][row] for
     * attention_join: sum of weight * value [head_dim], maximum, sum of weights. */
    float *parts;
    size_t first_split, end_split;
};
static inline size_t attention_part_floats(size_t head_dim)
{
    return head_dim + 2;
}

enum { MATMUL_K = 256 }; /* inputs of one block: 16 columns of as many float32 weights leave room for rows in 32 KiB */
/* A block of outputs: acc[r][c] (+)= sum over k inputs of x[r][i] * w[i][c] for PANEL columns; w points at input 0 in its panel. */
struct matmul_block {
    const float *x; /* (rows, ldx) */
    size_t ldx, rows;
    const void *w;
    bool w_is_bf16;
    size_t k;  /* <= MATMUL_K, even for bf16 */
    bool more; /* goes on from what acc holds */
    float *acc;
    size_t ld;
};

struct cpu_kernels {
    const char *isa;
    bool bf16_operands; /* linear_bf16 takes bf16 activations (else float32 ones, rounded to bf16 under COMPUTE_BF16) */
    size_t tile_rows;   /* most rows of one linear call */
    size_t row_panels;  /* panels at once when there is one row */
    /* out[r][p*32 + c] = sum over k of x[r][k] * w[panel p][k][c]; n_panels is 1 unless rows is 1; ldo floats between rows of out. */
    void (*linear_f32)(const float *x, size_t ldx, size_t rows, const float *w, size_t k, size_t n_panels, float *out, size_t ldo);
    void (*linear_f32_bf16)(const float *x, size_t ldx, size_t rows, const bf16 *w, size_t kp, size_t n_panels, float *out, size_t ldo);
    void (*linear_bf16)(const bf16 *x, size_t ldx, size_t rows, const bf16 *w, size_t kp, size_t n_panels, float *out, size_t ldo);
    void (*attention)(const struct attention_tile *t);
    void (*rmsnorm)(const float *x, const float *w, float eps, size_t n, float *out);
    /* splits 0 .. n-1 of one row, `stride` floats apart, to out: the sums attention itself would have made */
    void (*attention_join)(const float *part, size_t stride, size_t n, size_t head_dim, float *out);
    void (*matmul)(const struct matmul_block *m); /* many rows; NULL: a set without it */
    void (*round_bf16)(const float *x, size_t n, float *out); /* to the nearest bf16, as float32; in place too */
    void (*layernorm)(const float *x, const float *w, const float *b, float eps, size_t n, float *out);
    void (*silu_mul)(const float *gate, const float *up, size_t n, float *out);
    void (*gelu)(float *x, size_t n); /* tanh form, in place */
    /* The largest of n > 0; false if one is NaN or +inf. */
    bool (*row_max)(const float *x, size_t n, float *max);
    /* out[i] = exp((x[i] - max) / temperature), 0 below e^-87; chunk[j] = sum of out's piece j of CPU_EXP_CHUNK. Returns their sum. */
    double (*exp_row)(const float *x, size_t n, float max, float temperature, float *out, double *chunk);
    double (*sum_above)(const float *x, size_t n, float least); /* of those that are at least `least` */
};
extern const struct cpu_kernels cpu_kernels_ref, cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_avx512bf16;
/* isa NULL: the best this CPU has. NULL if the CPU lacks it or there is no such set. */
const struct cpu_kernels *cpu_kernels_choose(const char *isa);
const struct quant_kernels *cpu_quant_choose(const char *isa);

/* Activations ready to be multiplied: float32 or bf16 rows, ld elements apart, or quantised ones; fp8's are float32 rows of e4m3 numbers,
 * the scale behind the weight's kp of them. */
struct activation {
    const void *data;
    size_t ld;
    bool is_bf16;
    size_t step; /* not 0: quantised, in steps of so many */
    bool e4m3;
    int offset;  /* of the weights they meet: kern_q.h */
    struct quant_rows q;
};

/* Where packed weights lie, one after another in large pages, until the device is closed. */
struct cpu_region {
    struct cpu_chunk {
        unsigned char *base, *next, *end;
        size_t bytes;
        struct cpu_chunk *older;
    } * newest;
};
/* Zeroed, 64-byte aligned, NULL when it cannot be had. */
void *cpu_region_take(struct cpu_region *r, size_t bytes);
void cpu_region_free(struct cpu_region *r);
/* Zeroed, 64-byte aligned; a page costs memory from its first write on. NULL when it cannot be had. */
void *cpu_zeroed(size_t bytes);
void cpu_zeroed_free(void *p); /* accepts NULL */

struct device {
    const struct cpu_kernels *k;
    const struct quant_kernels *q;
    struct threads *threads;
    enum compute compute;
    volatile uint64_t *progress;
    struct device_limits limits;
    struct cpu_region weights;
    /* scratch, made by reserve */
    unsigned char *act; /* normalised or rounded operand rows */
    size_t act_bytes;
    float *qkv;            /* (rows, (heads + 2 kv_heads) * head_dim), or the vision model's */
    float *thread_scratch; /* one piece a thread */
    size_t thread_scratch_floats;
    unsigned char *sample_scratch; /* one piece a thread */
    float *cos, *sin; /* (rows, head_dim / 2) of the planned step */
    /* the plan */
    size_t n_rows;
    int32_t *position;
    uint32_t *sequence;
    int32_t *adapter; /* below 0: none */
    const uint32_t **blocks; /* borrowed from the caller until the next plan */
    struct attention_task *tasks;
    size_t max_tasks;
    float *parts; /* splits of long contexts that several threads share */
    size_t parts_floats;
};

/* What becomes of a linear product's tile. */
enum epilogue { EPILOGUE_STORE, EPILOGUE_ADD, EPILOGUE_BIAS, EPILOGUE_GELU, EPILOGUE_SILU };
struct linear_job {
    const struct weight *w;
    struct activation in;
    size_t rows;
    enum epilogue epilogue;
    const float *bias; /* may be NULL (EPILOGUE_ADD, EPILOGUE_BIAS, EPILOGUE_GELU) */
    float *out;
    size_t ldo;
};
/* One of n_parts shares of the outputs. */
void cpu_linear(const struct device *d, const struct linear_job *j, int part, int n_parts);
/* The whole product, by all threads. */
void cpu_linear_run(struct device *d, const struct linear_job *j);
/* The product of many rows or quantised weights, blocked so that operands stay near (cpu_matmul.c): whether it is to be used, and one share of it. */
bool cpu_matmul_takes(const struct device *d, const struct linear_job *j);
void cpu_matmul(const struct device *d, const struct linear_job *j, int part, int n_parts);
/* Rows of a product of panels side by side, `columns` wide (for EPILOGUE_SILU of a panel of G and, PANEL floats on, one of U), to where they belong. */
void cpu_finish_tile(const struct device *d, const struct linear_job *j, const float *tile, size_t ld, size_t row, size_t rows,
                     size_t column, size_t columns);
/* [first, end) of n items for one share. */
static inline void cpu_share(size_t n, int thread, int n_threads, size_t *first, size_t *end)
{
    *first = n * (size_t)thread / (size_t)n_threads;
    *end = n * ((size_t)thread + 1) / (size_t)n_threads;
}
/* Where the operand rows of w's product go, and how they are laid out. Row r of the returned activation is written with cpu_put_row. */
struct activation cpu_operand(const struct device *d, const struct weight *w, size_t rows);
void cpu_put_row(const struct device *d, const struct activation *a, size_t row, const float *x, size_t n);
float *cpu_thread_scratch(const struct device *d, int thread);
void cpu_bump(struct device *d);
/* fn(arg, thread, first, end) for all rows, a few at a time, by all threads. */
enum { ROWS_AT_ONCE = 8 };
typedef void (*cpu_rows_fn)(void *arg, int thread, size_t first, size_t end);
void cpu_rows(struct device *d, size_t rows, cpu_rows_fn fn, void *arg);

int cpu_embed(struct device *d, const struct embed_args *a, struct err *e);
int cpu_plan(struct device *d, const struct step_plan *p, const struct rope *rope, size_t head_dim, struct err *e);
int cpu_qkv(struct device *d, const struct qkv_args *a, struct err *e);
int cpu_attention(struct device *d, const struct attention_args *a, struct err *e);
int cpu_project(struct device *d, const struct project_args *a, struct err *e);
void cpu_adapters(struct device *d, const struct project_args *a);
int cpu_gate_up(struct device *d, const struct gate_up_args *a, struct err *e);
int cpu_head(struct device *d, const struct head_args *a, struct err *e);
int cpu_sample(struct device *d, const struct sample_row *rows, size_t n, size_t vocab, struct sample_result *out, struct err *e);
int cpu_patch_embed(struct device *d, const struct patch_args *a, struct err *e);
int cpu_vision_qkv(struct device *d, const struct vision_qkv_args *a, struct err *e);
int cpu_vision_attention(struct device *d, const struct vision_attention_args *a, struct err *e);
int cpu_vision_up(struct device *d, const struct vision_up_args *a, struct err *e);
int cpu_connect(struct device *d, const struct connect_args *a, struct err *e);

#endif
