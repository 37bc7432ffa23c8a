/* CPU kernels in plain C: the oracle of the vector sets, and what runs on a machine that has none of them. One loop a formula,
 * double sums where a sum is long, libm's functions. */
#include <math.h>

#include "kernels/cpu/cpu.h"

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
    return t->dtype == DTYPE_BF16 ? bf16_to_f32(((const bf16 *)block)[i]) : ((const float *)block)[i];
}

static double score(const struct attention_tile *t, size_t r, size_t token)
{
    double s = 0;
    for (size_t i = 0; i < t->head_dim; i++)
        s += (double)t->q[r][i] * (double)kv_at(t, t->k_block[token / KV_BLOCK], i * KV_BLOCK + token % KV_BLOCK);
    return s;
}

static void attention_row(const struct attention_tile *t, size_t r)
{
    double max = -INFINITY, sum = 0, out[MAX_HEAD_DIM] = {0};
    for (size_t i = 0; i < t->limit[r]; i++) max = fmax(max, score(t, r, i));
    for (size_t i = 0; i < t->limit[r]; i++) {
        double p = exp(score(t, r, i) - max);
        sum += p;
        for (size_t c = 0; c < t->head_dim; c++) out[c] += p * (double)kv_at(t, t->v_block[i / KV_BLOCK], i % KV_BLOCK * t->head_dim + c);
    }
    for (size_t c = 0; c < t->head_dim; c++) t->out[r][c] = (float)(out[c] / sum);
}

static void attention(const struct attention_tile *t)
{
    for (size_t r = 0; r < t->rows; r++) attention_row(t, r);
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
    .rmsnorm = rmsnorm,
    .layernorm = layernorm,
    .silu_mul = silu_mul,
    .gelu = gelu,
    .row_max = row_max,
    .exp_row = exp_row,
    .sum_above = sum_above,
};
