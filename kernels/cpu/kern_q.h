/* CPU kernels for quantised products: what an instruction set fills in, and how its weights and activations lie.
 *
 * A panel is 32 outputs; it is one block a step (kernels/quant.h) of inputs, so that it is read once, in order:
 *   8 bits, LAYOUT_PAIRS   [step/2][32][2] int8         widened to int16 and multiplied in pairs: exact without care for saturation
 *   8 bits, LAYOUT_QUADS   [step/4][32][4] uint8, q+128  for dot products of uint8 with int8 (VNNI)
 *   4 bits                 [step/8][32][4] bytes: byte b has q+8 of input b in its low half, of input 4+b in its high half
 * and after that, where scales are of groups, [32] scales of the block. Stored values that have an offset make the dot too large by
 * offset * (sum of the step's activations), so that sum is kept beside the activations.
 * A row of activations: values of all steps (int16 for LAYOUT_PAIRS, else int8), then [steps] float32 scales, then [steps] int32 sums. */
#ifndef SPILLWAY_KERNELS_CPU_KERN_Q_H
#define SPILLWAY_KERNELS_CPU_KERN_Q_H

#include "kernels/quant.h"

enum quant_layout { LAYOUT_PAIRS, LAYOUT_QUADS };

/* Rows of activations. */
struct quant_rows {
    const unsigned char *data;
    size_t bytes; /* of a row: multiple of 64 */
    size_t scale_at, sum_at;
};

/* acc[r][c] += the steps first_step .. first_step + n_steps - 1 of rows r and output c of one panel. */
struct quant_job {
    const unsigned char *w; /* block of first_step */
    size_t block_bytes, scale_at;
    enum dtype scale;
    size_t step, first_step, n_steps;
    struct quant_rows x; /* data: the first row */
    size_t rows;
    float *acc; /* [rows], ld floats apart, 32 each */
    size_t ld;
};

struct quant_kernels {
    const char *isa;
    enum quant_layout layout; /* of 8 bits */
    void (*int8_channel)(const struct quant_job *j);
    void (*int8_group)(const struct quant_job *j);
    void (*int4_group)(const struct quant_job *j);
    /* One row: padded with zeros to whole steps. wide: int16 values. */
    void (*quantize)(const float *x, size_t n, size_t step, bool wide, void *values, float *scale, int32_t *sum);
};
extern const struct quant_kernels quant_kernels_ref, quant_kernels_avx2, quant_kernels_avxvnni, quant_kernels_avx512, quant_kernels_avx512vnni;

#endif
