/* The vector kernels, written once with GCC's vector extensions and compiled once an instruction set (kern_avx2.c, kern_avx512.c), which
 * set VW (floats a vector), TILE_ROWS, ROW_PANELS, MANY_ROWS and their cases before they include this file. FMA contraction is on for these files.
 * Sums run over k in rising order in one accumulator an output, so a row's result is the same in every tile. */
#include <immintrin.h>
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

/* All elements x. (Subtracting zero is nothing; adding it would be: -0.) */
INLINE vf splat(float x)
{
    return x - (vf){};
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
    if (i == n) return;
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
    if (i == n) return;
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

/* To the nearest bf16, ties to even; a NaN becomes a quiet one. */
INLINE vf round_bf16_vf(vf x)
{
    vu u = (vu)x;
    vu rounded = (u + 0x7FFF + (u >> 16 & 1)) & 0xFFFF0000u, quiet = (u & 0xFFFF0000u) | 0x400000u;
    return pick(x == x, (vf)rounded, (vf)quiet);
}

static void round_bf16(const float *x, size_t n, float *out)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) store(out + i, round_bf16_vf(load(x + i)));
    if (i == n) return;
    vf y = round_bf16_vf(load_part(x + i, n - i));
    memcpy(out + i, &y, (n - i) * 4);
}

/* --- products of many rows --- */
enum { MATMUL_VECTORS = 2, MATMUL_COLUMNS = MATMUL_VECTORS * VW };
_Static_assert(PANEL % MATMUL_COLUMNS == 0, "a panel is cut into tiles");

/* MANY_ROWS rows times two vectors of columns: with the weights and a broadcast that fills the registers, and an element of x is loaded for
 * two products. The order of each sum is that of the kernels above. w: (k, ldw). */
INLINE void matmul_tile(const struct matmul_block *m, size_t row, size_t column, const float *w, size_t ldw, const int rows)
{
    const float *x = m->x + row * m->ldx;
    const size_t ldx = m->ldx, k = m->k;
    float *out = m->acc + row * m->ld + column;
    vf acc[MANY_ROWS][MATMUL_VECTORS];
    EACH(r, rows)
        EACH(v, MATMUL_VECTORS) acc[r][v] = m->more ? load(out + (size_t)r * m->ld + (size_t)v * VW) : (vf){};
    for (size_t i = 0; i < k; i++, w += ldw) {
        vf c[MATMUL_VECTORS];
        EACH(v, MATMUL_VECTORS) c[v] = load(w + v * VW);
        EACH(r, rows) {
            vf a = splat(x[(size_t)r * ldx + i]);
            EACH(v, MATMUL_VECTORS) acc[r][v] += c[v] * a;
        }
    }
    EACH(r, rows)
        EACH(v, MATMUL_VECTORS) store(out + (size_t)r * m->ld + (size_t)v * VW, acc[r][v]);
}

/* bf16 columns of a panel as float32 (k, MATMUL_COLUMNS): once for all rows of the block, small enough for the nearest cache. */
INLINE void widen_columns(const bf16 *w, size_t k, float *out)
{
    for (size_t i = 0; i < k; i += 2, w += PANEL * 2, out += 2 * MATMUL_COLUMNS)
        EACH(v, MATMUL_VECTORS) {
            vu pair = (vu)load((const float *)(const void *)(w + v * VW * 2));
            store(out + v * VW, (vf)(pair << 16));
            store(out + MATMUL_COLUMNS + v * VW, (vf)(pair & 0xFFFF0000u));
        }
}

#define MATMUL_CASE(r)                                                                                                                     \
    case r:                                                                                                                                \
        matmul_tile(m, row, column, w, ldw, r);                                                                                            \
        break;

static void matmul(const struct matmul_block *m)
{
    _Alignas(64) float wide[MATMUL_K * MATMUL_COLUMNS];
    CHECK(m->k <= MATMUL_K);
    for (size_t column = 0; column < PANEL; column += MATMUL_COLUMNS) {
        const float *w = (const float *)m->w + column;
        size_t ldw = PANEL;
        if (m->w_is_bf16) {
            widen_columns((const bf16 *)m->w + column * 2, m->k, wide);
            w = wide;
            ldw = MATMUL_COLUMNS;
        }
        for (size_t row = 0; row < m->rows; row += MANY_ROWS)
            switch (m->rows - row < MANY_ROWS ? m->rows - row : MANY_ROWS) {
                MANY_CASES(MATMUL_CASE)
            }
    }
}

/* --- attention --- */
enum { TOKEN_VECTORS = KV_BLOCK / VW, SCORE_LD = KV_SPLIT };
_Static_assert(MANY_ROWS <= 16, "ATTENTION_FLOATS");
enum kv_kind { KV_F32, KV_BF16, KV_I8, KV_E4M3 }; /* from KV_I8 on with scales */

/* VW int8 as float32. (GCC 12 makes a vector of 8 int8 from single ones.) */
INLINE vf load_i8(const int8_t *p)
{
#if VW == 8
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
#else
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
#endif
}

/* VW e4m3 as float32: the exponents' biases differ by 120. */
INLINE vf load_e4m3(const uint8_t *p)
{
#if VW == 8
    const vu b = (vu)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
#else
    const vu b = (vu)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
#endif
    return (vf)((b & 0x80) << 24 | (b & 0x7F) << 20) * 0x1p120f;
}

INLINE vf load_kv(const void *p, size_t i, const enum kv_kind kind)
{
    if (kind == KV_F32) return load((const float *)p + i);
    if (kind == KV_BF16) return load_bf16((const bf16 *)p + i);
    if (kind == KV_E4M3) return load_e4m3((const uint8_t *)p + i);
    return load_i8((const int8_t *)p + i);
}

/* The scales of a block's tokens lie behind its numbers. */
INLINE vf load_scales(const void *block, size_t head_dim, size_t token)
{
    return load((const float *)(const void *)((const int8_t *)block + KV_BLOCK * head_dim) + token);
}

/* scores[r][t] of one block of 16 tokens */
INLINE void score_block(const struct attention_tile *t, size_t row, const void *k, float *scores, const int rows, const enum kv_kind kind)
{
    vf acc[MANY_ROWS][TOKEN_VECTORS];
    EACH(r, rows)
        EACH(v, TOKEN_VECTORS) acc[r][v] = (vf){};
    const size_t n = t->head_dim;
    const float *const *q = t->q + row;
    for (size_t i = 0; i < n; i++) {
        vf c[TOKEN_VECTORS];
        EACH(v, TOKEN_VECTORS) c[v] = load_kv(k, i * KV_BLOCK + (size_t)v * VW, kind);
        EACH(r, rows) {
            vf a = splat(q[r][i]);
            EACH(v, TOKEN_VECTORS) acc[r][v] += c[v] * a;
        }
    }
    EACH(r, rows)
        EACH(v, TOKEN_VECTORS) {
            if (kind >= KV_I8) acc[r][v] *= load_scales(k, n, (size_t)v * VW);
            store(scores + (size_t)r * SCORE_LD + (size_t)v * VW, acc[r][v]);
        }
}

/* Scores of one row in a split become weights exp(s - max); what lies past the row's limit becomes 0. Returns the sum, and the maximum in *max. */
static __attribute__((noinline)) float softmax_split(float *s, size_t n, size_t padded, float *max)
{
    for (size_t i = n; i < padded; i++) s[i] = -INFINITY;
    vf top = load(s);
    for (size_t i = VW; i < padded; i += VW) {
        vf v = load(s + i);
        top = pick(v > top, v, top);
    }
    float m = -INFINITY;
    for (int i = 0; i < VW; i++) m = top[i] > m ? top[i] : m;
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
                        const int rows, const int strip, const enum kv_kind kind)
{
    vf acc[MANY_ROWS][2];
    EACH(r, rows)
        EACH(c, strip) acc[r][c] = (vf){};
    const size_t hd = t->head_dim;
    for (size_t from = 0; from < n_tokens; from += KV_BLOCK) {
        const void *v = t->v_block[first_block + from / KV_BLOCK];
        size_t end = n_tokens - from < KV_BLOCK ? n_tokens - from : KV_BLOCK;
        const float *w = weights + from;
        for (size_t i = 0; i < end; i++) {
            vf x[2];
            EACH(c, strip) x[c] = load_kv(v, i * hd + col + (size_t)c * VW, kind);
            EACH(r, rows) {
                vf a = splat(w[(size_t)r * SCORE_LD + i]);
                EACH(c, strip) acc[r][c] += x[c] * a;
            }
        }
    }
    EACH(r, rows)
        EACH(c, strip) store(part + (size_t)r * hd + col + (size_t)c * VW, acc[r][c]);
}

/* What a row has summed so far: values (head_dim), the maximum they are relative to, the sum of the weights. */
struct attention_sum {
    float max, sum;
};

/* A split comes in. One function for all who join, so that all round alike. */
static __attribute__((noinline)) void join_split(struct attention_sum *to, float *total, float max, float sum, const float *part, size_t n)
{
    if (sum == 0) return;
    float top = max > to->max ? max : to->max, a = expf(to->max - top), b = expf(max - top);
    for (size_t c = 0; c < n; c += VW) store(total + c, load(total + c) * a + load(part + c) * b);
    to->sum = to->sum * a + sum * b;
    to->max = top;
}

/* int8 and e4m3 values: their scales go into the weights, after these were summed. */
INLINE void scale_weights(const struct attention_tile *t, size_t first_block, size_t blocks, float *weights, const int rows)
{
    for (size_t b = 0; b < blocks; b++)
        EACH(v, TOKEN_VECTORS) {
            vf s = load_scales(t->v_block[first_block + b], t->head_dim, (size_t)v * VW);
            float *w = weights + b * KV_BLOCK + (size_t)v * VW;
            EACH(r, rows) store(w + (size_t)r * SCORE_LD, load(w + (size_t)r * SCORE_LD) * s);
        }
}

/* One split for a few rows: part[r] (head_dim), its maximum and sum. n: positions of the split that any of the rows sees. */
INLINE void attention_split(const struct attention_tile *t, size_t row, size_t from, size_t n, float *weights, float *part,
                            struct attention_sum *s, const int rows, const enum kv_kind kind)
{
    size_t blocks = (n + KV_BLOCK - 1) / KV_BLOCK, first = from / KV_BLOCK, col = 0;
    for (size_t b = 0; b < blocks; b++) score_block(t, row, t->k_block[first + b], weights + b * KV_BLOCK, rows, kind);
    for (size_t r = 0; r < (size_t)rows; r++) {
        size_t seen = t->limit[row + r] > from ? t->limit[row + r] - from : 0;
        s[r] = (struct attention_sum){-INFINITY, 0};
        if (seen)
            s[r].sum = softmax_split(weights + r * SCORE_LD, seen < n ? seen : n, blocks * KV_BLOCK, &s[r].max);
        else
            memset(weights + r * SCORE_LD, 0, blocks * KV_BLOCK * sizeof(float));
    }
    if (kind >= KV_I8) scale_weights(t, first, blocks, weights, rows);
    for (; col + 2 * VW <= t->head_dim; col += 2 * VW) value_strip(t, first, n, weights, part, col, rows, 2, kind);
    for (; col < t->head_dim; col += VW) value_strip(t, first, n, weights, part, col, rows, 1, kind);
}

#define ATTENTION_CASE(r)                                                                                                                  \
    case r:                                                                                                                                \
        if (t->dtype == DTYPE_F32)                                                                                                         \
            attention_split(t, row, from, n, weights, part, s, r, KV_F32);                                                                 \
        else if (t->dtype == DTYPE_BF16)                                                                                                   \
            attention_split(t, row, from, n, weights, part, s, r, KV_BF16);                                                                \
        else if (t->dtype == DTYPE_I8)                                                                                                     \
            attention_split(t, row, from, n, weights, part, s, r, KV_I8);                                                                  \
        else                                                                                                                               \
            attention_split(t, row, from, n, weights, part, s, r, KV_E4M3);                                                                \
        break;

/* Splits outside, rows inside: a split's keys and values are read from far once for all rows of the tile. */
static void attention(const struct attention_tile *t)
{
    const size_t hd = t->head_dim;
    float *weights = t->scratch, *part = weights + MANY_ROWS * KV_SPLIT, *total = part + MANY_ROWS * MAX_HEAD_DIM;
    struct attention_sum all[ATTENTION_ROWS], s[MANY_ROWS];
    size_t end = 0;
    CHECK(t->rows <= ATTENTION_ROWS);
    for (size_t r = 0; r < t->rows; r++) {
        all[r] = (struct attention_sum){-INFINITY, 0};
        if (t->limit[r] > end) end = t->limit[r];
    }
    if (!t->parts) memset(total, 0, t->rows * hd * sizeof *total);
    size_t first_split = t->parts ? t->first_split : 0, end_split = (end + KV_SPLIT - 1) / KV_SPLIT;
    if (t->parts && t->end_split < end_split) end_split = t->end_split;
    for (size_t split = first_split; split < end_split; split++)
        for (size_t row = 0, rows; row < t->rows; row += rows) {
            rows = t->rows - row < MANY_ROWS ? t->rows - row : MANY_ROWS;
            size_t from = split * KV_SPLIT, n = 0;
            for (size_t r = row; r < row + rows; r++)
                if (t->limit[r] > from && t->limit[r] - from > n) n = t->limit[r] - from;
            if (n == 0) continue;
            if (n > KV_SPLIT) n = KV_SPLIT;
            switch (rows) {
                MANY_CASES(ATTENTION_CASE)
            }
            for (size_t r = 0; r < rows; r++) {
                if (t->parts) {
                    float *to = t->parts + (split * t->rows + row + r) * attention_part_floats(hd);
                    memcpy(to, part + r * hd, hd * sizeof *to);
                    to[hd] = s[r].max;
                    to[hd + 1] = s[r].sum;
                } else {
                    join_split(&all[row + r], total + (row + r) * hd, s[r].max, s[r].sum, part + r * hd, hd);
                }
            }
        }
    if (t->parts) return;
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < hd; c += VW) store(t->out[r] + c, load(total + r * hd + c) / all[r].sum);
}

static void attention_join(const float *part, size_t stride, size_t n, size_t head_dim, float *out)
{
    float total[MAX_HEAD_DIM] = {0};
    struct attention_sum all = {-INFINITY, 0};
    for (size_t i = 0; i < n; i++, part += stride) join_split(&all, total, part[head_dim], part[head_dim + 1], part, head_dim);
    for (size_t c = 0; c < head_dim; c += VW) store(out + c, load(total + c) / all.sum);
}
