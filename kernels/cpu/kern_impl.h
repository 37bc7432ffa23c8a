/* The vector kernels, written once with GCC's vector extensions and compiled once an instruction set (kern_avx2.c, kern_avx512.c), which
 * set VW (floats a vector), TILE_ROWS, ROW_PANELS and KERNEL(name) before they include this file. FMA contraction is on for these files.
 * Sums run over k in rising order in one accumulator an output, so a row's result is the same in every tile. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

enum { NV = PANEL / VW };
typedef float vf __attribute__((vector_size(VW * 4)));
typedef int32_t vi __attribute__((vector_size(VW * 4)));
typedef uint32_t vu __attribute__((vector_size(VW * 4)));
typedef uint16_t vh __attribute__((vector_size(VW * 2)));
#define INLINE static inline __attribute__((always_inline))
/* A loop with a constant bound, unrolled whole: i from 0 to n - 1. */
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

INLINE vf load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vf load_bf16(const bf16 *p)
{
    vh h;
    memcpy(&h, p, sizeof h);
    return (vf)(__builtin_convertvector(h, vu) << 16);
}

/* --- linear --- */
INLINE void linear_f32_tile(const float *x, size_t ldx, const float *w, size_t k, float *out, size_t ldo, const int rows, const int panels)
{
    vf acc[TILE_ROWS][NV]; /* rows or panels is 1, so row r of panel p is number r + p */
    EACH(j, rows * panels)
        EACH(v, NV) acc[j][v] = (vf){};
    for (size_t i = 0; i < k; i++)
        EACH(p, panels)
            EACH(v, NV) {
                vf c = load(w + ((size_t)p * k + i) * PANEL + (size_t)v * VW);
                EACH(r, rows) acc[r + p][v] += c * x[(size_t)r * ldx + i];
            }
    EACH(r, rows)
        EACH(p, panels)
            EACH(v, NV) store(out + (size_t)r * ldo + (size_t)p * PANEL + (size_t)v * VW, acc[r + p][v]);
}

INLINE void linear_f32_bf16_tile(const float *x, size_t ldx, const bf16 *w, size_t kp, float *out, size_t ldo, const int rows,
                                 const int panels)
{
    vf acc[TILE_ROWS][NV]; /* rows or panels is 1, so row r of panel p is number r + p */
    EACH(j, rows * panels)
        EACH(v, NV) acc[j][v] = (vf){};
    for (size_t i = 0; i < kp; i += 2)
        EACH(p, panels)
            EACH(v, NV) {
                vu pair;
                memcpy(&pair, w + ((size_t)p * kp + i) * PANEL + (size_t)v * VW * 2, sizeof pair);
                vf even = (vf)(pair << 16), odd = (vf)(pair & 0xFFFF0000u);
                EACH(r, rows) acc[r + p][v] += even * x[(size_t)r * ldx + i];
                EACH(r, rows) acc[r + p][v] += odd * x[(size_t)r * ldx + i + 1];
            }
    EACH(r, rows)
        EACH(p, panels)
            EACH(v, NV) store(out + (size_t)r * ldo + (size_t)p * PANEL + (size_t)v * VW, acc[r + p][v]);
}

/* One function a number of rows, so that the accumulators stay in registers. */
#define TILE_CASE(fn, r)                                                                                                                   \
    case r:                                                                                                                                \
        fn(x, ldx, w, k, out, ldo, r, 1);                                                                                                  \
        break;
#define TILE_SWITCH(fn)                                                                                                                    \
    if (rows == 1 && n_panels == ROW_PANELS) {                                                                                             \
        fn(x, ldx, w, k, out, ldo, 1, ROW_PANELS);                                                                                         \
        return;                                                                                                                            \
    }                                                                                                                                      \
    CHECK(n_panels == 1 && rows >= 1 && rows <= TILE_ROWS);                                                                                \
    switch (rows) {                                                                                                                        \
        TILE_CASES(fn)                                                                                                                     \
    }

static void linear_f32(const float *x, size_t ldx, size_t rows, const float *w, size_t k, size_t n_panels, float *out, size_t ldo)
{
    TILE_SWITCH(linear_f32_tile)
}

static void linear_f32_bf16(const float *x, size_t ldx, size_t rows, const bf16 *w, size_t k, size_t n_panels, float *out,
                            size_t ldo){TILE_SWITCH(linear_f32_bf16_tile)}

/* --- elementwise --- */
INLINE vf pick(vi mask, vf a, vf b)
{
    return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}

/* exp by the reduction and polynomial of Cephes' expf; relative error below 2e-7 on [-87, 88]. Below -87 the result is 0 to within 1e-38. */
INLINE vf exp_vf(vf x)
{
    vf lo = (vf){} - 87.0f, hi = (vf){} + 88.0f;
    x = pick(x < lo, lo, x);
    x = pick(x > hi, hi, x);
    vf magic = (vf){} + 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    vf t = x * 1.44269504088896341f + magic;
    vi n = (vi)t - (vi)magic;
    t -= magic;
    vf r = x - t * 0.693359375f;
    r = r + t * 2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (vf)((n + 127) << 23);
}

INLINE float sum_vf(vf v)
{
    float s = 0;
    for (int i = 0; i < VW; i++) s += v[i];
    return s;
}

INLINE vf load_part(const float *p, size_t n)
{
    vf v = {};
    memcpy(&v, p, n * 4);
    return v;
}

static void rmsnorm(const float *x, const float *w, float eps, size_t n, float *out)
{
    vf s = {};
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf v = load(x + i);
        s += v * v;
    }
    vf v = load_part(x + i, n - i);
    s += v * v;
    float scale = 1.0f / sqrtf(sum_vf(s) / (float)n + eps);
    for (i = 0; i < n; i++) out[i] = w[i] * (x[i] * scale);
}

static void layernorm(const float *x, const float *w, const float *b, float eps, size_t n, float *out)
{
    vf s = {};
    size_t i = 0;
    for (; i + VW <= n; i += VW) s += load(x + i);
    s += load_part(x + i, n - i);
    float mean = sum_vf(s) / (float)n;
    vf q = {};
    for (i = 0; i + VW <= n; i += VW) {
        vf v = load(x + i) - mean;
        q += v * v;
    }
    float tail = 0;
    for (; i < n; i++) tail += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf((sum_vf(q) + tail) / (float)n + eps);
    for (i = 0; i < n; i++) out[i] = (x[i] - mean) * scale * w[i] + b[i];
}

INLINE vf silu_mul_vf(vf g, vf u)
{
    return g / (exp_vf(-g) + 1.0f) * u;
}

static void silu_mul(const float *gate, const float *up, size_t n, float *out)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) store(out + i, silu_mul_vf(load(gate + i), load(up + i)));
    vf y = silu_mul_vf(load_part(gate + i, n - i), load_part(up + i, n - i));
    memcpy(out + i, &y, (n - i) * 4);
}

INLINE vf gelu_vf(vf v)
{
    vf u = (v + v * v * v * 0.044715f) * 0.7978845608028654f;
    vf tanh_u = 1.0f - 2.0f / (exp_vf(u * 2.0f) + 1.0f);
    return v * 0.5f * (tanh_u + 1.0f);
}

static void gelu(float *x, size_t n)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) store(x + i, gelu_vf(load(x + i)));
    vf y = gelu_vf(load_part(x + i, n - i));
    memcpy(x + i, &y, (n - i) * 4);
}

/* --- sampling --- */
static bool row_max(const float *x, size_t n, float *max)
{
    vf m = (vf){} - INFINITY, bad = {};
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf v = load(x + i);
        m = pick(v > m, v, m);
        bad = (vf)((vi)bad | ((v != v) | (v == (vf){} + INFINITY)));
    }
    float best = -INFINITY;
    bool ok = true;
    for (int j = 0; j < VW; j++) {
        if (m[j] > best) best = m[j];
        ok &= ((vi)bad)[j] == 0;
    }
    for (; i < n; i++) {
        if (x[i] > best) best = x[i];
        ok &= x[i] < INFINITY; /* false for a NaN, too */
    }
    *max = best;
    return ok;
}

static double exp_row(const float *x, size_t n, float max, float temperature, float *out, double *chunk)
{
    double total = 0;
    for (size_t from = 0; from < n; from += CPU_EXP_CHUNK) {
        size_t end = n - from < CPU_EXP_CHUNK ? n : from + CPU_EXP_CHUNK, i = from;
        vf sum = {};
        for (; i + VW <= end; i += VW) {
            vf a = (load(x + i) - max) / temperature, w = pick(a < (vf){} - 87.0f, (vf){}, exp_vf(a));
            store(out + i, w);
            sum += w;
        }
        double s = (double)sum_vf(sum);
        for (; i < end; i++) {
            float a = (x[i] - max) / temperature;
            out[i] = a < -87.0f ? 0 : expf(a);
            s += (double)out[i];
        }
        chunk[from / CPU_EXP_CHUNK] = s;
        total += s;
    }
    return total;
}

static double sum_above(const float *x, size_t n, float least)
{
    double total = 0;
    for (size_t i = 0; i < n;) {
        size_t end = n - i < CPU_EXP_CHUNK ? n : i + CPU_EXP_CHUNK;
        vf sum = {}, v;
        for (; i + VW <= end; i += VW) v = load(x + i), sum += pick(v >= least, v, (vf){});
        total += (double)sum_vf(sum);
        for (; i < end; i++) total += x[i] >= least ? (double)x[i] : 0;
    }
    return total;
}

/* --- attention --- */
enum { TOKEN_VECTORS = KV_BLOCK / VW };

INLINE vf load_kv(const void *p, size_t i, const bool half)
{
    return half ? load_bf16((const bf16 *)p + i) : load((const float *)p + i);
}

/* scores[r][t] of one block of 16 tokens */
INLINE void score_block(const struct attention_tile *t, const void *k, float *scores, const int rows, const bool half)
{
    vf acc[ATTENTION_ROWS][TOKEN_VECTORS];
    EACH(r, rows)
        EACH(v, TOKEN_VECTORS) acc[r][v] = (vf){};
    for (size_t i = 0; i < t->head_dim; i++)
        EACH(v, TOKEN_VECTORS) {
            vf c = load_kv(k, i * KV_BLOCK + (size_t)v * VW, half);
            EACH(r, rows) acc[r][v] += c * t->q[r][i];
        }
    EACH(r, rows)
        EACH(v, TOKEN_VECTORS) store(scores + (size_t)r * KV_SPLIT + (size_t)v * VW, acc[r][v]);
}

/* Scores of one row in a split become weights exp(s - max); what lies past the row's limit becomes 0. Returns the sum, and the maximum in *max. */
INLINE float softmax_split(float *s, size_t n, size_t padded, float *max)
{
    float m = -INFINITY;
    for (size_t i = 0; i < n; i++) m = s[i] > m ? s[i] : m;
    for (size_t i = n; i < padded; i++) s[i] = -INFINITY;
    vf sum = {};
    for (size_t i = 0; i < padded; i += VW) {
        vf e = exp_vf(load(s + i) - m);
        if (i + VW > n)
            for (size_t j = n > i ? n - i : 0; j < VW; j++) e[j] = 0;
        store(s + i, e);
        sum += e;
    }
    *max = m;
    return sum_vf(sum);
}

/* part[r][c..c+strip) = sum over the split's tokens of weight * value */
INLINE void value_strip(const struct attention_tile *t, size_t first_block, size_t n_tokens, const float *weights, float *part, size_t col,
                        const int rows, const int strip, const bool half)
{
    vf acc[ATTENTION_ROWS][4];
    EACH(r, rows)
        EACH(c, strip) acc[r][c] = (vf){};
    for (size_t i = 0; i < n_tokens; i++) {
        const void *v = t->v_block[first_block + i / KV_BLOCK];
        size_t at = i % KV_BLOCK * t->head_dim + col;
        EACH(c, strip) {
            vf x = load_kv(v, at + (size_t)c * VW, half);
            EACH(r, rows) acc[r][c] += x * weights[(size_t)r * KV_SPLIT + i];
        }
    }
    EACH(r, rows)
        EACH(c, strip) store(part + (size_t)r * MAX_HEAD_DIM + col + (size_t)c * VW, acc[r][c]);
}

INLINE void attention_rows(const struct attention_tile *t, const int rows, const bool half)
{
    float *weights = t->scratch, *part = weights + ATTENTION_ROWS * KV_SPLIT, *total = part + ATTENTION_ROWS * MAX_HEAD_DIM;
    float max[ATTENTION_ROWS], sum[ATTENTION_ROWS];
    size_t end = 0;
    EACH(r, rows) {
        max[r] = -INFINITY;
        sum[r] = 0;
        if (t->limit[r] > end) end = t->limit[r];
        memset(total + (size_t)r * MAX_HEAD_DIM, 0, t->head_dim * sizeof(float));
    }
    for (size_t from = 0; from < end; from += KV_SPLIT) {
        size_t n = end - from < KV_SPLIT ? end - from : KV_SPLIT, blocks = (n + KV_BLOCK - 1) / KV_BLOCK;
        for (size_t b = 0; b < blocks; b++) score_block(t, t->k_block[from / KV_BLOCK + b], weights + b * KV_BLOCK, rows, half);
        float m[ATTENTION_ROWS], s[ATTENTION_ROWS];
        EACH(r, rows) {
            size_t seen = t->limit[r] > from ? t->limit[r] - from : 0;
            if (seen > n) seen = n;
            if (seen)
                s[r] = softmax_split(weights + (size_t)r * KV_SPLIT, seen, blocks * KV_BLOCK, &m[r]);
            else
                memset(weights + (size_t)r * KV_SPLIT, 0, blocks * KV_BLOCK * sizeof(float)), s[r] = 0, m[r] = -INFINITY;
        }
        size_t col = 0;
        for (; col + 4 * VW <= t->head_dim && VW == 16; col += 4 * VW)
            value_strip(t, from / KV_BLOCK, n, weights, part, col, rows, 4, half);
        for (; col + 2 * VW <= t->head_dim; col += 2 * VW) value_strip(t, from / KV_BLOCK, n, weights, part, col, rows, 2, half);
        for (; col < t->head_dim; col += VW) value_strip(t, from / KV_BLOCK, n, weights, part, col, rows, 1, half);
        EACH(r, rows) { /* splits are joined in rising order, whoever computed them */
            if (s[r] == 0) continue;
            float top = m[r] > max[r] ? m[r] : max[r], a = expf(max[r] - top), b = expf(m[r] - top);
            float *o = total + (size_t)r * MAX_HEAD_DIM;
            const float *q = part + (size_t)r * MAX_HEAD_DIM;
            for (size_t c = 0; c < t->head_dim; c++) o[c] = o[c] * a + q[c] * b;
            sum[r] = sum[r] * a + s[r] * b;
            max[r] = top;
        }
    }
    EACH(r, rows)
        for (size_t c = 0; c < t->head_dim; c++) t->out[r][c] = total[(size_t)r * MAX_HEAD_DIM + c] / sum[r];
}

#define ATTENTION_CASE(r)                                                                                                                  \
    case r:                                                                                                                                \
        if (half)                                                                                                                          \
            attention_rows(t, r, true);                                                                                                    \
        else                                                                                                                               \
            attention_rows(t, r, false);                                                                                                   \
        break;

static void attention(const struct attention_tile *t)
{
    bool half = t->dtype == DTYPE_BF16;
    switch (t->rows) {
        ATTENTION_CASE(1)
        ATTENTION_CASE(2) ATTENTION_CASE(3) ATTENTION_CASE(4) ATTENTION_CASE(5) ATTENTION_CASE(6) default : CHECK(!"attention: rows");
    }
}
