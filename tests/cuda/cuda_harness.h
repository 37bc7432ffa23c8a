/* What the tests of the CUDA backend share. The backend is the simulated one (tests/sim/cuda), or a device's, by what is linked; what it is
 * compared with is tests/unit/kernel_oracle.h: the formulas in double, with a bound that follows from the roundings that are there. */
#ifndef SPILLWAY_TESTS_CUDA_CUDA_HARNESS_H
#define SPILLWAY_TESTS_CUDA_CUDA_HARNESS_H

#include "kernels/quant.h"
#include "tests/unit/kernel_oracle.h"

const struct ops *spillway_cuda_ops(unsigned version);

#define BF16_ROUNDING 0x1p-8 /* of a value, nearest: half a unit in the last place is at most 2^-9 of it; the wanted value's own error is in the bound */

static const struct ops *ops;
static struct device *dev;

/* Other numbers than ever: SPILLWAY_TEST_SEED=n (tools/gpu_check prints it). */
__attribute__((constructor)) static void seed_noise(void)
{
    const char *seed = getenv("SPILLWAY_TEST_SEED");
    if (seed && *seed) noise_state = (uint32_t)strtoul(seed, NULL, 10) * 2654435761u + 1;
}

/* As under --decode fast: a row's bytes may depend on its company. SPILLWAY_TEST_FAST in the environment: all tests of a program. */
static bool fast;
__attribute__((constructor)) static void choose_path(void)
{
    fast = getenv("SPILLWAY_TEST_FAST") != NULL;
}

static inline void open_device(const struct device_limits *l)
{
    struct err e = {0};
    ops = spillway_cuda_ops(OPS_VERSION);
    assert_non_null(ops);
    if (ops->open(&dev, &(struct device_options){.compute = COMPUTE_BF16, .fast = fast}, &e)) fail_msg("%s", e.msg);
    if (ops->reserve(dev, l, &e)) fail_msg("%s", e.msg);
}

static inline void close_device(void)
{
    ops->close(dev);
    dev = NULL;
}

#define OK(call)                                                                                                                           \
    do {                                                                                                                                   \
        struct err e = {0};                                                                                                                \
        if (call) fail_msg("%s: %s", #call, e.msg);                                                                                        \
    } while (0)

static inline void *to_device(const void *host, size_t bytes)
{
    void *p;
    OK(ops->alloc(dev, bytes, &p, &e));
    if (host) OK(ops->upload(dev, p, host, bytes, &e));
    return p;
}

static inline float *noise_new(size_t n)
{
    float *p = malloc(n * sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = noise();
    return p;
}

/* Rows of floats as the backend keeps operands: bf16, rows round_up(k, 64) apart. The values become what was stored. */
static inline void *operand_rows(float *x, size_t rows, size_t k)
{
    size_t pitch = (k + 63) / 64 * 64;
    bf16 *host = calloc(rows * pitch, sizeof *host);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < k; i++) x[r * k + i] = bf16_to_f32(host[r * pitch + i] = bf16_from_f32(x[r * k + i]));
    void *p = to_device(host, rows * pitch * sizeof *host);
    free(host);
    return p;
}

/* One row of such. */
static inline void read_operand(const void *from, size_t row, size_t k, float *out)
{
    size_t pitch = (k + 63) / 64 * 64;
    bf16 *host = malloc(k * sizeof *host);
    OK(ops->read_back(dev, host, (const bf16 *)from + row * pitch, k * sizeof *host, &e));
    for (size_t i = 0; i < k; i++) out[i] = bf16_to_f32(host[i]);
    free(host);
}

static inline struct near rounded_to_bf16(struct near x)
{
    return (struct near){x.v, x.err + (fabs(x.v) + x.err) * BF16_ROUNDING};
}

static inline struct weight *pack_parts(enum pack_kind kind, const struct matrix *m, size_t n_parts, size_t head_dim, const struct quant_format *q)
{
    struct weight_part parts[3];
    struct weight *w = NULL;
    for (size_t i = 0; i < n_parts; i++) parts[i] = (struct weight_part){.data = m[i].file, .dtype = m[i].dtype, .rows = m[i].n, .head_dim = head_dim};
    OK(ops->weight_pack(dev, kind, parts, n_parts, m[0].k, q, &w, &e));
    return w;
}

/* A matrix of a checkpoint, bf16. */
static inline struct weight *pack_cuda(enum pack_kind kind, const struct matrix *m, size_t n_parts, const struct quant_format *q)
{
    return pack_parts(kind, m, n_parts, 0, q);
}

static inline struct weight *pack_qkv(const struct matrix *m, size_t head_dim)
{
    return pack_parts(PACK_QKV, m, 3, head_dim, NULL);
}

/* Of the rows of plan_roles; NULL: none has one. */
static const int32_t *roles_adapter;

/* n_decode sequences of one row each, then n_prefill rows of one more; nobody looks at positions or blocks. */
static inline void plan_roles(size_t n_decode, size_t n_prefill)
{
    static int32_t position[1024];
    static uint32_t sequence[1024], block;
    static bool prefill[1024];
    static const uint32_t *tables[1024];
    size_t n = n_decode + n_prefill;
    for (size_t i = 0; i < n; i++) {
        prefill[i] = i >= n_decode;
        sequence[i] = (uint32_t)(i < n_decode ? i : n_decode);
        tables[sequence[i]] = &block;
    }
    OK(ops->plan(dev, &(struct step_plan){n, position, sequence, prefill, n_decode + (n_prefill > 0), tables, 0, roles_adapter},
                 &(struct rope){0}, 64, &e));
}

#endif
