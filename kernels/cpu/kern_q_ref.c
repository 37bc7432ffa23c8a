/* Quantised products in plain C: each block's dot as it is defined, the sum over blocks in double within a call. */
#include <math.h>
#include <string.h>

#include "kernels/bf16.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/kern_q.h"

static int weight_int8(const unsigned char *block, size_t i, size_t c)
{
    return (int8_t)block[i / 4 * 4 * PANEL + c * 4 + i % 4];
}

static int weight_int4(const unsigned char *block, size_t i, size_t c)
{
    int both = block[i / 8 * 4 * PANEL + c * 4 + i % 4];
    return (i % 8 < 4 ? both & 15 : both >> 4) - 8;
}

static float scale_of(const struct quant_job *j, const unsigned char *block, size_t c)
{
    uint16_t h;
    float f;
    memcpy(&h, block + j->scale_at + quant_scale_place(c) * 2, 2);
    if (j->scale == DTYPE_BF16) return bf16_to_f32(h);
    memcpy(&f, block + j->scale_at + c * 4, 4);
    return f;
}

static void product(const struct quant_job *j, bool four, bool grouped)
{
    for (size_t r = 0; r < j->rows; r++)
        for (size_t o = 0; o < j->n_panels * PANEL; o++) {
            const unsigned char *row = j->x.data + r * j->x.bytes, *panel = j->w + o / PANEL * j->panel_bytes;
            const size_t c = o % PANEL;
            double sum = (double)j->acc[r * j->ld + o];
            for (size_t s = 0; s < j->n_steps; s++) {
                const unsigned char *block = panel + s * j->block_bytes;
                size_t at = (j->first_step + s) * j->step;
                int32_t dot = 0;
                for (size_t i = 0; i < j->step; i++)
                    dot += (four ? weight_int4(block, i, c) : weight_int8(block, i, c)) * ((const int8_t *)row)[at + i];
                float x = ((const float *)(const void *)(row + j->x.scale_at))[j->first_step + s];
                sum += (double)dot * (double)x * (grouped ? (double)scale_of(j, block, c) : 1.0);
            }
            j->acc[r * j->ld + o] = (float)sum;
        }
}

static void int8_channel(const struct quant_job *j)
{
    product(j, false, false);
}

static void int8_group(const struct quant_job *j)
{
    product(j, false, true);
}

static void int4_group(const struct quant_job *j)
{
    product(j, true, true);
}

static void quantize(const float *x, size_t n, size_t step, int offset, int8_t *values, float *scale, int32_t *correction)
{
    for (size_t s = 0; s * step < n; s++) {
        quant_activations(x + s * step, n - s * step < step ? n - s * step : step, step, values + s * step, &scale[s]);
        int32_t sum = 0;
        for (size_t i = 0; i < step; i++) sum += values[s * step + i];
        correction[s] = -offset * sum;
    }
}

const struct quant_kernels quant_kernels_ref = {.isa = "ref",
                                                .int8_channel = int8_channel,
                                                .int8_group = int8_group,
                                                .int4_group = int4_group,
                                                .quantize = quantize};
