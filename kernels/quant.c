/* Quantisation, plainly: see quant.h. Sums of the search for a scale run in four fixed lanes, so that a load gives the same weights on
 * every machine. */
#include "kernels/quant.h"

#include <math.h>
#include <string.h>

#include "base/err.h"
#include "kernels/bf16.h"
#include "kernels/e4m3.h"

const struct quant_format quant_int8 = {.bits = 8, .group = 0, .scale = DTYPE_F32};
const struct quant_format quant_int4 = {.bits = 4, .group = 32, .scale = DTYPE_BF16};
const struct quant_format quant_fp8 = {.bits = 8, .group = 0, .scale = DTYPE_F32, .e4m3 = true};

enum { LANES = 4 };
typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));

bool quant_format_valid(const struct quant_format *f)
{
    if (f->e4m3) return f->bits == 8 && f->group == 0 && f->scale == DTYPE_F32;
    bool group = f->group == 32 || f->group == 64 || f->group == 128 || (f->bits == 8 && f->group == 0 && f->scale == DTYPE_F32);
    return group && (f->bits == 8 || f->bits == 4) && (f->scale == DTYPE_BF16 || f->scale == DTYPE_F32);
}

size_t quant_step(const struct quant_format *f)
{
    return f->group ? f->group : QUANT_CHANNEL_STEP;
}

size_t quant_steps(const struct quant_format *f, size_t k)
{
    return (k + quant_step(f) - 1) / quant_step(f);
}

size_t quant_scales(const struct quant_format *f, size_t k)
{
    return f->group ? quant_steps(f, k) : 1;
}

size_t quant_bytes(const struct quant_format *f, size_t n, size_t k)
{
    return n * (k * f->bits / 8 + quant_scales(f, k) * (f->scale == DTYPE_F32 ? 4 : 2));
}

static float stored_scale(const struct quant_format *f, float s)
{
    return f->scale == DTYPE_BF16 ? bf16_to_f32(bf16_from_f32(s)) : s;
}

/* Whole rows pass through these when a model is loaded. Each clone rounds alike. */
#if defined __x86_64__
#define FOR_EACH_ISA __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_ISA
#endif

/* The largest magnitude; NaN or infinite if a value is. As bits magnitudes are whole numbers in the same order, and NaN the largest. */
FOR_EACH_ISA static float largest(const float *x, size_t n)
{
    int32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7FFFFFFF;
        most = bits > most ? bits : most;
    }
    float f;
    memcpy(&f, &most, 4);
    return f;
}

/* 1.5 * 2^23: what is added to it is rounded to a whole number, to nearest even, which the sum's lowest bits then are. */
static const float magic_number = 12582912.0f;
enum { MAGIC_BITS = 0x4B400000 };

FOR_EACH_ISA static void round_to(const float *w, size_t n, float scale, int lowest, int highest, int8_t *q)
{
    const float inverse = fabsf(scale) >= QUANT_TINY ? 1 / scale : 0;
    for (size_t i = 0; i < n; i++) {
        float v = w[i] * inverse + magic_number;
        int32_t whole;
        memcpy(&whole, &v, 4);
        whole -= MAGIC_BITS;
        whole = whole < lowest ? lowest : whole;
        q[i] = (int8_t)(whole > highest ? highest : whole);
    }
}

/* --- 4 bits: the search --- */
#define INLINE static inline __attribute__((always_inline)) /* into each clone */

INLINE vf load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE vf at_most(vf v, float most)
{
    const vf hi = (vf){} + most;
    const vi above = v > hi;
    return (vf)(((vi)hi & above) | ((vi)v & ~above));
}

INLINE float sum_vf(vf v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}

/* Sums of w q and q q over n (a multiple of 4) with q rounded by `inverse`, at which no w comes below -8. */
INLINE void fit(const float *w, size_t n, float inverse, float *wq, float *qq)
{
    const vf magic = (vf){} + magic_number;
    vf a = {}, b = {};
    for (size_t i = 0; i < n; i += LANES) {
        vf x = load(w + i), q = at_most(x * inverse, 7) + magic - magic;
        a += x * q;
        b += q * q;
    }
    *wq = sum_vf(a);
    *qq = sum_vf(b);
}

INLINE float squared_error(const float *w, size_t n, float scale)
{
    const float inverse = fabsf(scale) >= QUANT_TINY ? 1 / scale : 0;
    const vf magic = (vf){} + magic_number;
    vf sum = {};
    for (size_t i = 0; i < n; i += LANES) {
        vf x = load(w + i), q = -at_most(-at_most(x * inverse, 7), 8), d = x - (q + magic - magic) * scale;
        sum += d * d;
    }
    return sum_vf(sum);
}

/* Where the largest weight is to lie on the scale of -8 .. 7, the widest first; minus, so that it is the negative end with its one value
 * more. For given q the best scale is sum(w q) / sum(q q), and what it leaves of the error falls with sum(w q)^2 / sum(q q). */
static const float ends[] = {8.0f, 7.6f, 7.2f, 6.8f, 6.4f};

FOR_EACH_ISA static float search_scale(const struct quant_format *f, const float *w, size_t n, float most)
{
    float peak = most;
    if (most < QUANT_TINY) return 0;
    for (size_t i = 0; i < n; i++)
        if (fabsf(w[i]) == most) {
            peak = w[i];
            break;
        }
    float plain = stored_scale(f, most / 7), best = plain, gain = -1;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        float wq, qq;
        fit(w, n, -ends[i] / peak, &wq, &qq);
        if (qq > 0 && wq * wq > gain * qq) {
            gain = wq * wq / qq;
            best = wq / qq;
        }
    }
    best = stored_scale(f, best);
    return squared_error(w, n, best) < squared_error(w, n, plain) ? best : plain;
}

void quant_weights(const struct quant_format *f, const float *w, size_t k, int8_t *q, float *scale)
{
    CHECK(quant_format_valid(f));
    const size_t step = quant_step(f), padded = quant_steps(f, k) * step, group = f->group ? f->group : k;
    memset(q + k, 0, padded - k);
    if (f->e4m3) {
        quant_e4m3(w, k, 1, (uint8_t *)q, scale);
        return;
    }
    for (size_t g = 0, at = 0; at < k; g++, at += group) {
        size_t n = k - at < group ? k - at : group;
        const float most = largest(w + at, n);
        if (!isfinite(most)) {
            scale[g] = NAN;
            memset(q + at, 0, n);
        } else if (f->bits == 8) {
            scale[g] = stored_scale(f, most / 127);
            round_to(w + at, n, scale[g], -127, 127, q + at);
        } else {
            float whole[QUANT_MAX_STEP] = {0};
            memcpy(whole, w + at, n * sizeof *w);
            scale[g] = search_scale(f, whole, group, most);
            round_to(w + at, n, scale[g], -8, 7, q + at);
        }
    }
}

/* --- parts of a checkpoint, whose tensors need not be aligned --- */
void quant_part_values(const struct weight_part *p, size_t r, size_t cols, float *out)
{
    const size_t size = p->dtype == DTYPE_F32 ? 4 : p->dtype == DTYPE_E4M3 ? 1 : 2;
    const unsigned char *from = (const unsigned char *)p->data + r * cols * size;
    uint16_t h;
    CHECK(p->dtype != DTYPE_I8);
    if (p->dtype == DTYPE_F32) memcpy(out, from, cols * sizeof *out);
    for (size_t i = 0; p->dtype == DTYPE_BF16 && i < cols; i++) memcpy(&h, from + i * 2, 2), out[i] = bf16_to_f32(h);
    for (size_t i = 0; p->dtype == DTYPE_F16 && i < cols; i++) memcpy(&h, from + i * 2, 2), out[i] = f16_to_f32(h);
    for (size_t i = 0; p->dtype == DTYPE_E4M3 && i < cols; i++) out[i] = e4m3_to_f32(from[i]) * p->scale[r];
}

void quant_part_weights(const struct quant_format *f, const struct weight_part *p, size_t r, size_t cols, float *values, int8_t *q,
                        float *scale)
{
    bool finite = true;
    if (!f->e4m3 || p->dtype != DTYPE_E4M3) {
        quant_part_values(p, r, cols, values);
        quant_weights(f, values, cols, q, scale);
        return;
    }
    memset(q, 0, quant_steps(f, cols) * quant_step(f));
    memcpy(q, (const unsigned char *)p->data + r * cols, cols);
    for (size_t i = 0; i < cols; i++) finite &= (q[i] & 0x7F) != 0x7F;
    *scale = finite && isfinite(p->scale[r]) ? p->scale[r] : NAN;
    if (isnan(*scale)) memset(q, 0, cols);
}

/* --- activations and products --- */
void quant_activations(const float *x, size_t n, size_t step, int8_t *q, float *scale)
{
    for (size_t g = 0, at = 0; at < n; g++, at += step) {
        size_t m = n - at < step ? n - at : step;
        float most = largest(x + at, m);
        memset(q + at, 0, step);
        if (!isfinite(most)) {
            scale[g] = NAN;
        } else if (most < QUANT_TINY) {
            scale[g] = 0;
        } else {
            float inverse = 127 / most;
            scale[g] = most / 127;
            for (size_t i = 0; i < m; i++) q[at + i] = (int8_t)nearbyintf(x[at + i] * inverse);
        }
    }
}

void quant_e4m3(const float *x, size_t n, size_t stride, uint8_t *q, float *scale)
{
    const float most = largest(x, n), inverse = most < QUANT_TINY ? 0 : E4M3_MOST / most;
    const bool finite = isfinite(most);
    *scale = !finite ? NAN : most < QUANT_TINY ? 0 : most / E4M3_MOST;
    for (size_t i = 0; i < n; i++) q[i * stride] = finite ? e4m3_from_f32(x[i] * inverse) : 0;
}

/* What the products of a step of e4m3 numbers add: exact in double, as they are multiples of 2^-18 and below 2^18. */
static double e4m3_term(size_t g, const int8_t *wq, const int8_t *xq, bool sizes)
{
    double dot = 0;
    for (size_t i = g * QUANT_CHANNEL_STEP; i < (g + 1) * QUANT_CHANNEL_STEP; i++) {
        const double p = (double)e4m3_to_f32((uint8_t)wq[i]) * (double)e4m3_to_f32((uint8_t)xq[i]);
        dot += sizes ? fabs(p) : p;
    }
    return dot;
}

static double term(const struct quant_format *f, size_t g, const int8_t *wq, const float *ws, const int8_t *xq, const float *xs)
{
    const size_t step = quant_step(f);
    if (f->e4m3) return e4m3_term(g, wq, xq, false) * (double)xs[0] * (double)ws[0];
    int32_t dot = 0;
    for (size_t i = g * step; i < (g + 1) * step; i++) dot += (int32_t)wq[i] * xq[i];
    return (double)dot * (double)xs[g] * (double)ws[f->group ? g : 0];
}

double quant_product(const struct quant_format *f, size_t k, const int8_t *wq, const float *ws, const int8_t *xq, const float *xs)
{
    double sum = 0;
    for (size_t g = 0; g < quant_steps(f, k); g++) sum += term(f, g, wq, ws, xq, xs);
    return sum;
}

double quant_bound(const struct quant_format *f, size_t k, const int8_t *wq, const float *ws, const int8_t *xq, const float *xs)
{
    const double n = (double)(quant_steps(f, k) * (f->e4m3 ? QUANT_CHANNEL_STEP : 1)) + 2, gamma = n * 0x1p-24 / (1 - n * 0x1p-24);
    double size = 0;
    for (size_t g = 0; g < quant_steps(f, k); g++)
        size += f->e4m3 ? e4m3_term(g, wq, xq, true) * fabs((double)xs[0] * (double)ws[0]) : fabs(term(f, g, wq, ws, xq, xs));
    return gamma * size + n * 0x1p-149; /* and what falls below float32's subnormals */
}
