/* CPU kernels in plain C: the oracle of the vector sets, and what runs on a machine that has none of them. One loop a formula,
 * double sums where a sum is long, libm's functions. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/e4m3.h"

static void linear_f32(const float *x, size_t ldx, size_t rows, const float *w, size_t k, size_t n_panels, float *out, size_t ldo)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < n_panels * PANEL; c++) {
            const float *col = w + c / PANEL * k * PANEL + c % PANEL;
            double s = 0;
            for (size_t i = 0; i < k; i++) s += (double)x[r * ldx + i] * (double)col[i * PANEL];
            out[r * ldo + c] = (float)s;
        }
}

static void linear_f32_bf16(const float *x, size_t ldx, size_t rows, const bf16 *w, size_t kp, size_t n_panels, float *out, size_t ldo)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < n_panels * PANEL; c++) {
            const bf16 *col = w + c / PANEL * kp * PANEL + c % PANEL * 2;
            double s = 0;
            for (size_t i = 0; i < kp; i++) s += (double)x[r * ldx + i] * (double)bf16_to_f32(col[i / 2 * 2 * PANEL + i % 2]);
            out[r * ldo + c] = (float)s;
        }
}

static float kv_at(const struct attention_tile *t, const void *block, size_t i)
{
    return t->dtype == DTYPE_BF16   ? bf16_to_f32(((const bf16 *)block)[i])
           : t->dtype == DTYPE_I8   ? ((const int8_t *)block)[i]
           : t->dtype == DTYPE_E4M3 ? e4m3_to_f32(((const uint8_t *)block)[i])
                                    : ((const float *)block)[i];
}

/* What the numbers of a token are multiplied by. */
static double kv_scale(const struct attention_tile *t, const void *block, size_t token)
{
    const bool scaled = t->dtype == DTYPE_I8 || t->dtype == DTYPE_E4M3;
    return scaled ? (double)((const float *)(const void *)((const int8_t *)block + KV_BLOCK * t->head_dim))[token % KV_BLOCK] : 1;
}

static double score(const struct attention_tile *t, size_t r, size_t token)
{
    double s = 0;
    for (size_t i = 0; i < t->head_dim; i++)
        s += (double)t->q[r][i] * (double)kv_at(t, t->k_block[token / KV_BLOCK], i * KV_BLOCK + token % KV_BLOCK);
    return s * kv_scale(t, t->k_block[token / KV_BLOCK], token);
}

struct sums {
    double out[MAX_HEAD_DIM], max, sum;
};

static void attend(const struct attention_tile *t, size_t r, size_t from, size_t end, struct sums *s)
{
    *s = (struct sums){.max = -INFINITY};
    for (size_t i = from; i < end; i++) s->max = fmax(s->max, score(t, r, i));
    for (size_t i = from; i < end; i++) {
        const void *v = t->v_block[i / KV_BLOCK];
        double p = exp(score(t, r, i) - s->max), scale = kv_scale(t, v, i);
        s->sum += p;
        for (size_t c = 0; c < t->head_dim; c++) s->out[c] += p * scale * (double)kv_at(t, v, i % KV_BLOCK * t->head_dim + c);
    }
}

/* A split comes in as float32, wherever it comes from: that several calls made the splits must not show. */
static void join_split(struct sums *all, const float *part, size_t head_dim)
{
    double max = (double)part[head_dim], sum = (double)part[head_dim + 1], top = fmax(max, all->max);
    double a = exp(all->max - top), b = exp(max - top);
    if (sum == 0) return;
    for (size_t c = 0; c < head_dim; c++) all->out[c] = all->out[c] * a + (double)part[c] * b;
    all->sum = all->sum * a + sum * b;
    all->max = top;
}

static void attention_join(const float *part, size_t stride, size_t n, size_t head_dim, float *out)
{
    struct sums all = {.max = -INFINITY};
    for (size_t i = 0; i < n; i++) join_split(&all, part + i * stride, head_dim);
    for (size_t c = 0; c < head_dim; c++) out[c] = (float)(all.out[c] / all.sum);
}

static void attention_row(const struct attention_tile *t, size_t r)
{
    struct sums s, all = {.max = -INFINITY};
    size_t hd = t->head_dim, n = (t->limit[r] + KV_SPLIT - 1) / KV_SPLIT;
    for (size_t i = t->parts ? t->first_split : 0; i < (t->parts && t->end_split < n ? t->end_split : n); i++) {
        float part[MAX_HEAD_DIM + 2], *to = t->parts ? t->parts + (i * t->rows + r) * attention_part_floats(hd) : part;
        attend(t, r, i * KV_SPLIT, (i + 1) * KV_SPLIT < t->limit[r] ? (i + 1) * KV_SPLIT : t->limit[r], &s);
        for (size_t c = 0; c < hd; c++) to[c] = (float)s.out[c];
        to[hd] = (float)s.max;
        to[hd + 1] = (float)s.sum;
        if (!t->parts) join_split(&all, part, hd);
    }
    for (size_t c = 0; c < hd && !t->parts; c++) t->out[r][c] = (float)(all.out[c] / all.sum);
}

static void attention(const struct attention_tile *t)
{
    for (size_t r = 0; r < t->rows; r++) attention_row(t, r);
}

static void round_bf16(const float *x, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = bf16_to_f32(bf16_from_f32(x[i]));
}

static void rmsnorm(const float *x, const float *w, float eps, size_t n, float *out)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += (double)x[i] * (double)x[i];
    double scale = 1 / sqrt(s / (double)n + (double)eps);
    for (size_t i = 0; i < n; i++) out[i] = (float)((double)w[i] * (double)x[i] * scale);
}

static void layernorm(const float *x, const float *w, const float *b, float eps, size_t n, float *out)
{
    double mean = 0, var = 0;
    for (size_t i = 0; i < n; i++) mean += (double)x[i];
    mean /= (double)n;
    for (size_t i = 0; i < n; i++) var += ((double)x[i] - mean) * ((double)x[i] - mean);
    double scale = 1 / sqrt(var / (double)n + (double)eps);
    for (size_t i = 0; i < n; i++) out[i] = (float)(((double)x[i] - mean) * scale * (double)w[i] + (double)b[i]);
}

static void silu_mul(const float *gate, const float *up, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static void gelu(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = 0.5f * x[i] * (1 + tanhf(0.7978845608028654f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}

static bool row_max(const float *x, size_t n, float *max)
{
    *max = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i]) || x[i] == INFINITY) return false;
        if (x[i] > *max) *max = x[i];
    }
    return true;
}

static double exp_row(const float *x, size_t n, float max, float temperature, float *out, double *chunk)
{
    double total = 0;
    for (size_t i = 0; i < n; i++) {
        double a = ((double)x[i] - (double)max) / (double)temperature;
        out[i] = a < -87 ? 0 : (float)exp(a);
        if (i % CPU_EXP_CHUNK == 0) chunk[i / CPU_EXP_CHUNK] = 0;
        chunk[i / CPU_EXP_CHUNK] += (double)out[i];
        total += (double)out[i];
    }
    return total;
}

static double sum_above(const float *x, size_t n, float least)
{
    double total = 0;
    for (size_t i = 0; i < n; i++) total += x[i] >= least ? (double)x[i] : 0;
    return total;
}

const struct cpu_kernels cpu_kernels_ref = {
    .isa = "ref",
    .tile_rows = 4,
    .row_panels = 1,
    .linear_f32 = linear_f32,
    .linear_f32_bf16 = linear_f32_bf16,
    .attention = attention,
    .attention_join = attention_join,
    .round_bf16 = round_bf16,
    .rmsnorm = rmsnorm,
    .layernorm = layernorm,
    .silu_mul = silu_mul,
    .gelu = gelu,
    .row_max = row_max,
    .exp_row = exp_row,
    .sum_above = sum_above,
};
