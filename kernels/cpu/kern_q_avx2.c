/* Quantised products for AVX2 and FMA: |x| as uint8 times w with x's sign for 8 bits, uint8 weights for 4. See kern_q_impl.h. */
#define HAS_DOT 0
#include "kernels/cpu/kern_q_256.h"

/* 16 registers: 10 sums, two of weights, two of activations, one of products, one of ones. */
#define NARROW_ROWS 2
#define WIDE_ROWS 5
#define TILE_ROWS_CASES(fn, grouped)                                                                                                       \
    TILE(fn, 1, grouped) TILE(fn, 2, grouped) TILE(fn, 3, grouped) TILE(fn, 4, grouped) TILE(fn, 5, grouped)
#define INT8_MANY 20
#define INT4_MANY 9
#include "kernels/cpu/kern_q_impl.h"

QUANT_KERNELS(avx2);
