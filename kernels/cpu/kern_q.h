/* CPU kernels for quantised products: what an instruction set fills in, and how its weights and activations lie.
 *
 * A panel is 32 outputs; it is one block a step (kernels/quant.h) of inputs, so that it is read once, in order:
 *   8 bits   [step/4][32][4] bytes: q, or q+128 for a set that multiplies uint8 weights with int8 activations (VNNI)
 *   4 bits   [step/8][32][4] bytes: byte b has q+8 of input b in its low half, of input 4+b in its high half
 * and after that, where scales are of groups, the block's scales: float32 [32], or bf16 [16][2] with outputs c and 16+c side by side, so that a
 * shift or a mask is all it takes to have them as float32. What a stored value has on top of q makes the dot too large by that offset times
 * the sum of the step's activations; the correction lies beside the activations.
 * A row of activations: int8 values of all steps, then [steps] float32 scales, then [steps] int32 corrections, -offset * sum; for many rows
 * of a set that wants it so, then the values once more as int16. */
#ifndef SPILLWAY_KERNELS_CPU_KERN_Q_H
#define SPILLWAY_KERNELS_CPU_KERN_Q_H

#include "kernels/quant.h"

/* Place of output c's bf16 scale among a block's. */
static inline size_t quant_scale_place(size_t c)
{
    return c % 16 * 2 + c / 16;
}

/* Rows of activations. */
struct quant_rows {
    const unsigned char *data;
    size_t bytes; /* of a row: multiple of 64 */
    size_t scale_at, correction_at;
    size_t wide_at; /* 0: there are no int16 values */
};

/* acc[r][p * 32 + c] += the steps first_step .. first_step + n_steps - 1 of row r and output c of panel p. */
struct quant_job {
    const unsigned char *w; /* first panel's block of first_step */
    size_t n_panels, panel_bytes;
    size_t block_bytes, scale_at;
    enum dtype scale;
    size_t step, first_step, n_steps;
    struct quant_rows x; /* data: the first row */
    size_t rows;
    float *acc; /* [rows], ld floats apart, n_panels * 32 each */
    size_t ld;
};

struct quant_kernels {
    const char *isa;
    int int8_offset;  /* 0 or 128; that of 4 bits is 8 */
    size_t wide_rows; /* from so many rows on 8 bits want int16 activations; 0: never */
    void (*int8_channel)(const struct quant_job *j);
    void (*int8_group)(const struct quant_job *j);
    void (*int4_group)(const struct quant_job *j);
    /* One row, padded with zeros to whole steps. */
    void (*quantize)(const float *x, size_t n, size_t step, int offset, int8_t *values, float *scale, int32_t *correction);
};
extern const struct quant_kernels quant_kernels_ref, quant_kernels_avx2, quant_kernels_avxvnni, quant_kernels_avx512, quant_kernels_avx512vnni, quant_kernels_amx;

#endif
