/* Quantised products for AVX2 and FMA: pairs of int16 for 8 bits, uint8 with int8 for 4. See kern_q_impl.h. */
#include "kernels/cpu/kern_q_256.h"

#define HAS_DOT 0
/* 16 registers: 12 sums, two of weights, one of activations, one of products. */
#define NARROW_ROWS 3
#define WIDE_ROWS 6
#define TILE_ROWS_CASES(fn, grouped)                                                                                                       \
    TILE(fn, 1, grouped) TILE(fn, 2, grouped) TILE(fn, 3, grouped) TILE(fn, 4, grouped) TILE(fn, 5, grouped) TILE(fn, 6, grouped)
#include "kernels/cpu/kern_q_impl.h"

QUANT_KERNELS(avx2);
