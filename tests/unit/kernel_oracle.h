/* What the kernel tests compare with: each formula of kernels/ops.h in double, every value with a bound on what float32
 * may be off.
 *
 * The bound travels with the value (running error analysis; Higham, "Accuracy and Stability of Numerical Algorithms",
 * chapter 3): u = 2^-24 is one rounding to float32, gamma(n) = n u / (1 - n u) bounds n of them in any order, so a sum
 * of k products is off by at most gamma(k + 1) * sum |x w|, plus what its operands were off. Nothing here was adjusted
 * to what a kernel gave: the only figure taken from a kernel is EXP_ERROR, which kern_impl.h states for its
 * exponential. With ORACLE_DEVICE (tests of CUDA kernels on a card) two of its figures are the card's. Also here: arrays that end where no page is (edge), reproducible noise, and matrices in a checkpoint's
 * dtypes. */
#ifndef SPILLWAY_TESTS_UNIT_KERNEL_ORACLE_H
#define SPILLWAY_TESTS_UNIT_KERNEL_ORACLE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/bf16.h"
#include "kernels/cpu/cpu.h"
#include "kernels/e4m3.h"

#define U 0x1p-24
#define EXP_ERROR 2e-7 /* relative, kern_impl.h, exp_vf; libm's expf and tanhf stay below one unit in the last place, 1.2e-7 */
#define TINY 0x1p-126  /* subnormal results may become zero */

struct near {
    double v, err;
};

/* On a card four-fold: sums inside mma are not rounded but cut off. A mma adds at least four products and the sum so far, all aligned to the
 * largest of them and cut at 2^-23 of it, then cuts the sum: for k products at most k + k/4 + k/4 cuts of 2 u, 3 k u, before what follows the sum. */
#ifdef ORACLE_DEVICE
#define GAMMA_FACTOR 4
#else
#define GAMMA_FACTOR 1
#endif
static inline double gamma_of(size_t n)
{
    return GAMMA_FACTOR * (double)n * U / (1 - GAMMA_FACTOR * (double)n * U);
}

/* Of exp(x), relative, for |x| up to `size`. A card's __expf is ex2.approx of a rounded product: 2 + 1.173 |x| units in the last place (CUDA
 * Programming Guide, "Intrinsic Functions"). */
static inline double exp_error(double size)
{
#ifdef ORACLE_DEVICE
    return (2 + 1.173 * size) * 2 * U;
#else
    (void)size;
    return EXP_ERROR;
#endif
}

/* --- arrays --- */
enum { MAX_EDGES = 64, EDGE_FILL = 0xA5 };
static struct edge {
    unsigned char *base;
    size_t whole, bytes;
} edges[MAX_EDGES];
static size_t n_edges;

/* Zeroed bytes that end where a page ends; the next page cannot be touched. What lies before them is checked by
 * edges_release. */
static inline void *edge(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes / page + 1) * page;
    unsigned char *base = mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(base != MAP_FAILED && n_edges < MAX_EDGES);
    assert_int_equal(mprotect(base + whole, page, PROT_NONE), 0);
    memset(base, EDGE_FILL, whole - bytes);
    edges[n_edges++] = (struct edge){base, whole, bytes};
    return base + whole - bytes;
}

/* Frees all edges made since there were `keep`. */
static inline void edges_release(size_t keep)
{
    while (n_edges > keep) {
        struct edge *g = &edges[--n_edges];
        for (size_t i = 0; i < g->whole - g->bytes; i++)
            if (g->base[i] != EDGE_FILL) fail_msg("byte %zu before an array of %zu was written", g->whole - g->bytes - i, g->bytes);
        munmap(g->base, g->whole + (size_t)sysconf(_SC_PAGESIZE));
    }
}

static uint32_t noise_state = 1;
static inline uint32_t noise_bits(void)
{
    noise_state = noise_state * 1664525u + 1013904223u;
    return noise_state ^ noise_state >> 15;
}

/* Pseudo-random in [-1, 1), the same everywhere. */
static inline float noise(void)
{
    return (float)(int32_t)noise_bits() * 0x1p-31f;
}

static inline float *noise_edge(size_t n)
{
    float *p = edge(n * sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = noise();
    return p;
}

/* A matrix as a checkpoint holds it, and the values a product sees (compute bf16 rounds what was stored finer). */
struct matrix {
    void *file;
    float *seen;
    enum dtype dtype;
    size_t n, k;
};

static inline struct matrix matrix_new(size_t n, size_t k, enum dtype dtype, enum compute compute)
{
    struct matrix m = {
        .file = edge(n * k * (dtype == DTYPE_F32 ? 4 : 2)), .seen = edge(n * k * sizeof(float)), .dtype = dtype, .n = n, .k = k};
    for (size_t i = 0; i < n * k; i++) {
        uint16_t h = (uint16_t)((noise_bits() & 0x83FF) | (8 + noise_bits() % 7) << 10); /* fp16, 2^-7 to 1 */
        if (dtype == DTYPE_F32) m.seen[i] = ((float *)m.file)[i] = noise();
        if (dtype == DTYPE_BF16) m.seen[i] = bf16_to_f32(((bf16 *)m.file)[i] = bf16_from_f32(noise()));
        if (dtype == DTYPE_F16) m.seen[i] = f16_to_f32(((uint16_t *)m.file)[i] = h);
        if (compute == COMPUTE_BF16) m.seen[i] = bf16_to_f32(bf16_from_f32(m.seen[i]));
    }
    return m;
}

static inline struct weight *pack(struct device *d, enum pack_kind kind, const struct matrix *m, size_t n_parts)
{
    struct weight_part parts[3];
    struct weight *w;
    struct err e = {0};
    assert_true(n_parts <= 3);
    for (size_t i = 0; i < n_parts; i++) parts[i] = (struct weight_part){.data = m[i].file, .dtype = m[i].dtype, .rows = m[i].n};
    assert_int_equal(ops_cpu.weight_pack(d, kind, parts, n_parts, m[0].k, NULL, &w, &e), 0);
    return w;
}

/* --- instruction sets --- */
static const char *const kernel_sets[] = {"ref", "avx2", "avx512", "avx512bf16"};
enum { N_SETS = sizeof kernel_sets / sizeof *kernel_sets };
static const enum dtype kv_dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_I8, DTYPE_E4M3};
enum { N_KV_DTYPES = sizeof kv_dtypes / sizeof *kv_dtypes };

static inline int tell_missing_sets(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++)
        if (!cpu_kernels_choose(kernel_sets[s]))
            print_message("this processor has no %s: its kernels are NOT tested here\n", kernel_sets[s]);
    return 0;
}

static inline struct device *device_new(const char *isa, enum compute compute, int threads, const struct device_limits *l)
{
    struct device *d;
    struct err e = {0};
    assert_int_equal(ops_cpu.open(&d, &(struct device_options){.compute = compute, .threads = threads, .isa = isa}, &e), 0);
    assert_int_equal(ops_cpu.reserve(d, l, &e), 0);
    return d;
}

/* --- comparing --- */
static inline bool near_holds(float got, struct near want)
{
    return fabs((double)got - want.v) <= want.err + TINY; /* a NaN does not hold */
}

static inline size_t near_misses(const float *got, const struct near *want, size_t n)
{
    size_t misses = 0;
    for (size_t i = 0; i < n; i++) misses += !near_holds(got[i], want[i]);
    return misses;
}

static inline void near_check(const float *got, const struct near *want, size_t n, const char *isa, const char *what, size_t row)
{
    for (size_t i = 0; i < n; i++)
        if (!near_holds(got[i], want[i]))
            fail_msg("%s %s, row %zu [%zu]: %.9g is not %.9g within %.3g", isa, what, row, i, (double)got[i], want[i].v, want[i].err);
}

/* --- formulas --- */
static inline struct near near_sum(struct near a, struct near b, struct near c)
{
    double all = fabs(a.v) + a.err + fabs(b.v) + b.err + fabs(c.v) + c.err;
    return (struct near){a.v + b.v + c.v, a.err + b.err + c.err + gamma_of(2) * all};
}

/* The operand of a product: rounded to bf16 under COMPUTE_BF16. Where the bound spans the edge between two bf16 values
 * it may be either. */
static inline struct near near_operand(struct near x, enum compute compute)
{
    if (compute == COMPUTE_F32) return x;
    double v = (double)bf16_to_f32(bf16_from_f32((float)x.v));
    double lo = (double)bf16_to_f32(bf16_from_f32((float)(x.v - x.err))), hi = (double)bf16_to_f32(bf16_from_f32((float)(x.v + x.err)));
    return (struct near){v, fmax(hi - v, v - lo)};
}

/* Numbers with one e4m3 scale (quant_e4m3) as they come back. The scale is known as well as the largest number is, and what lies near the
 * edge of two steps may be either; the product with the scale rounds. */
static inline void near_e4m3(const struct near *x, size_t n, struct near *out)
{
    double most = 0, err = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs(x[i].v)), err = fmax(err, x[i].err);
    const double scale = most / 448, off = err / 448 + 3 * U * scale;
    for (size_t i = 0; i < n; i++) {
        const double at = scale > 0 ? x[i].v / scale : 0, slack = scale > 0 ? x[i].err / scale + fabs(at) * (off / scale + 4 * U) : 0;
        const double q = (double)e4m3_to_f32(e4m3_from_f32((float)at)), lo = (double)e4m3_to_f32(e4m3_from_f32((float)(at - slack))),
                     hi = (double)e4m3_to_f32(e4m3_from_f32((float)(at + slack)));
        out[i] = (struct near){q * scale, fmax(hi - q, q - lo) * scale + fmax(fabs(lo), fabs(hi)) * off + 2 * U * fabs(q * scale)};
    }
}

static inline struct near near_product(const struct near *x, const float *w, size_t k)
{
    double s = 0, magnitude = 0, carried = 0;
    for (size_t i = 0; i < k; i++) {
        double a = fabs((double)w[i]);
        s += x[i].v * (double)w[i];
        magnitude += (fabs(x[i].v) + x[i].err) * a;
        carried += x[i].err * a;
    }
    return (struct near){s, carried + gamma_of(k + 1) * magnitude + (double)k * TINY};
}

/* scale * B (A x): the products with A are float32, and so is what B makes of them. A and B as bf16 holds them. */
static inline struct near near_adapter(const struct near *x, size_t k, const float *a, const float *b, size_t rank, float scale)
{
    struct near low[64];
    for (size_t j = 0; j < rank; j++) low[j] = near_product(x, a + j * k, k);
    const struct near sum = near_product(low, b, rank);
    return (struct near){sum.v * (double)scale, sum.err * fabs((double)scale) + U * fabs(sum.v * (double)scale)};
}

/* A product of quantised numbers (kernels/quant.h). On a card the e4m3 sums of an mma keep 13 bits below the first of the largest it adds
 * (ptx.cuh): 32 products and the sum so far are cut there, then the sum at its own; so far: of 64 k, after which float32 takes over. */
static inline struct near near_quant_product(const struct quant_format *f, size_t k, const int8_t *wq, const float *ws, const int8_t *xq,
                                             const float *xs)
{
    struct near v = {quant_product(f, k, wq, ws, xq, xs), quant_bound(f, k, wq, ws, xq, xs)};
#ifdef ORACLE_DEVICE
    double cut = 0, sum = 0, off = 0;
    v.err *= f->e4m3 ? GAMMA_FACTOR : 1;
    for (size_t i = 0; f->e4m3 && i < k; i += 32) {
        double most = i % 64 ? fabs(sum) + off : 0;
        if (i % 64 == 0) sum = off = 0;
        for (size_t j = i; j < i + 32 && j < k; j++) {
            const double p = (double)e4m3_to_f32((uint8_t)wq[j]) * (double)e4m3_to_f32((uint8_t)xq[j]);
            most = fmax(most, fabs(p));
            sum += p;
        }
        off += 33 * 0x1p-13 * most;
        off += 0x1p-13 * (fabs(sum) + off);
        if (i % 64 || i + 32 >= k) cut += off;
    }
    v.err += cut * fabs((double)xs[0] * (double)ws[0]);
#endif
    return v;
}

/* w x / sqrt(mean x^2 + eps). n squares (all positive) and their sum, the mean, eps: n + 3 roundings, halved by the
 * root; root, inverse and two products follow. */
static inline void near_rmsnorm(const float *x, const float *w, float eps, size_t n, struct near *out)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += (double)x[i] * (double)x[i];
    for (size_t i = 0; i < n; i++) {
        double v = (double)w[i] * (double)x[i] / sqrt(s / (double)n + (double)eps);
        out[i] = (struct near){v, fabs(v) * gamma_of(n / 2 + 7)};
    }
}

/* (x - mean) / sqrt(var + eps) w + b. The mean is off by `off`, a centred value by that and one rounding, the variance
 * by what that makes of its squares and by its own sum; half of the variance's relative error is the scale's (the next
 * term of the series is below a tenth of it). */
static inline void near_layernorm(const float *x, const float *w, const float *b, float eps, size_t n, struct near *out)
{
    double mean = 0, size = 0, var = 0, spread = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        mean += (double)x[i] / (double)n;
        size += fabs((double)x[i]) / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - mean;
        var += d * d / (double)n;
        spread += fabs(d) / (double)n;
        most = fmax(most, fabs(d));
    }
    double off = gamma_of(n + 1) * size, each = off + U * (most + off);
    double var_err = 2 * each * spread + each * each + gamma_of(n + 3) * (var + 2 * each * spread + each * each);
    double scale = 1 / sqrt(var + (double)eps), relative = 0.55 * var_err / (var + (double)eps) + gamma_of(6);
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - mean, y = d * scale * (double)w[i], v = y + (double)b[i];
        out[i] = (struct near){v, fabs(y) * relative + each * scale * fabs((double)w[i]) * (1 + relative) + U * fabs(v)};
    }
}

/* silu(g) u. |silu'| < 1.1; the exponential, 1 +, the quotient and the product round. Past exp's range (|g| > 87) the
 * result is below 1e-30. */
static inline struct near near_silu_mul(struct near g, struct near u)
{
    double s = g.v / (1 + exp(-g.v)), s_err = 1.1 * g.err + (fabs(s) + 1.1 * g.err) * (exp_error(fmin(fabs(g.v) + g.err, 88)) + gamma_of(4)) + 1e-30;
    return (struct near){s * u.v, s_err * (fabs(u.v) + u.err) + fabs(s) * u.err + U * fabs(s * u.v)};
}

/* v/2 (1 + tanh t), t = 0.79788 (v + 0.044715 v^3). |gelu'| < 1.13. With tanh t = 1 - 2 / (e^2t + 1): the exponential's
 * relative error counts at most half (2e / (e + 1)^2 <= 1/2); t's relative error (7 roundings) counts |t / cosh^2 t| <
 * 0.45 of itself; quotient, difference and sum round values of at most 2: 5 u. */
static inline struct near near_gelu(struct near x)
{
    double v = x.v, y = 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
    return (struct near){y, 1.13 * x.err + 0.5 * fabs(v) * (exp_error(0) / 2 + 0.45 * gamma_of(7) + 5 * U) + 2 * U * fabs(y)};
}

/* Rotates the halves of v by the position's angles. The angle itself is float32 by definition (ops.h follows the
 * reference); cosf, sinf and the scale are off by 3 u of the scale; two products and a sum follow. */
static inline void near_rotate(struct near *v, size_t half, int32_t position, const float *inv_freq, double scale)
{
    for (size_t j = 0; j < half; j++) {
        double angle = (double)((float)position * inv_freq[j]), c = cos(angle) * scale, s = sin(angle) * scale;
        struct near a = v[j], b = v[j + half];
        double size = fabs(a.v) + a.err + fabs(b.v) + b.err, err = (a.err + b.err) * scale + size * scale * (3 * U + gamma_of(3));
        v[j] = (struct near){a.v * c - b.v * s, err};
        v[j + half] = (struct near){b.v * c + a.v * s, err};
    }
}

/* softmax(q K^T / sqrt(dim)) V of one query over n positions; k[i] and v[i] lie `stride` apart.
 * A score is off by its operands, gamma(dim + 3) of its terms, and 3 roundings of the scale. A weight exp(s - max) is
 * then off by the factor exp(that + u |s - max| for the subtraction, and again for each joining of splits of 256) and
 * EXP_ERROR, and a few roundings a join. Numerator and denominator are sums of n such. */
static inline void near_attention(const struct near *q, size_t dim, size_t n, const struct near *k, const struct near *v, size_t stride,
                                  struct near *out)
{
    double *s = malloc(n * sizeof *s), *rel = malloc(n * sizeof *rel), max = -INFINITY, min = INFINITY, sum = 0, sum_rel = 0,
           scale = 1 / sqrt((double)dim);
    assert_true(s && rel && n > 0);
    size_t splits = n / KV_SPLIT + 1;
    for (size_t i = 0; i < n; i++) {
        double size = 0, carried = 0;
        s[i] = 0;
        for (size_t j = 0; j < dim; j++) {
            const struct near *a = &q[j], *b = &k[i * stride + j];
            s[i] += a->v * b->v * scale;
            size += (fabs(a->v) + a->err) * (fabs(b->v) + b->err) * scale;
            carried += (a->err * (fabs(b->v) + b->err) + fabs(a->v) * b->err) * scale;
        }
        rel[i] = carried + gamma_of(dim + 6) * size;
        max = fmax(max, s[i]);
        min = fmin(min, s[i]);
    }
    for (size_t i = 0; i < n; i++) {
        rel[i] = expm1(rel[i] + U * (max - min) * (double)(splits + 1) + exp_error(max - min) * (double)(splits + 1) + gamma_of(4 * splits));
        s[i] = exp(s[i] - max);
        sum += s[i];
        sum_rel += s[i] * rel[i];
    }
    double below = sum_rel / sum + gamma_of(n + 2 * splits + 2);
    for (size_t j = 0; j < dim; j++) {
        double y = 0, above = 0;
        for (size_t i = 0; i < n; i++) {
            const struct near *b = &v[i * stride + j];
            y += s[i] / sum * b->v;
            above += s[i] / sum * ((rel[i] + gamma_of(n + 2 * splits + 2) * (1 + rel[i])) * (fabs(b->v) + b->err) + b->err);
        }
        out[j] = (struct near){y, (above + fabs(y) * below) / (1 - below) + U * fabs(y)};
    }
    free(s);
    free(rel);
}

#endif
