/* Quantised products for AVX-VNNI, the dot products of 256 bits that processors without AVX-512 have. See kern_q_impl.h. */
#define HAS_DOT 1
#include "kernels/cpu/kern_q_256.h"

#define DOT4(acc, u, s) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(u), "x"(s))
/* 16 registers: 12 sums, two of weights, one of activations. */
#define NARROW_ROWS 3
#define WIDE_ROWS 6
#define TILE_ROWS_CASES(fn, grouped)                                                                                                       \
    TILE(fn, 1, grouped) TILE(fn, 2, grouped) TILE(fn, 3, grouped) TILE(fn, 4, grouped) TILE(fn, 5, grouped) TILE(fn, 6, grouped)
#define INT8_MANY 12
#define INT4_MANY 12
#include "kernels/cpu/kern_q_impl.h"

QUANT_KERNELS(avxvnni);
