/* CPU kernels for AVX-512 (F, BW, VL, DQ) and FMA. See kern_impl.h. */
#define VW 16
#define TILE_ROWS 12
#define ROW_PANELS 4
#define TILE_CASES(fn)                                                                                                                     \
    TILE_CASE(fn, 1)                                                                                                                       \
    TILE_CASE(fn, 2) TILE_CASE(fn, 3) TILE_CASE(fn, 4) TILE_CASE(fn, 5) TILE_CASE(fn, 6) TILE_CASE(fn, 7) TILE_CASE(fn, 8)                 \
        TILE_CASE(fn, 9) TILE_CASE(fn, 10) TILE_CASE(fn, 11) TILE_CASE(fn, 12)
#define MANY_ROWS 12
#define MANY_CASES(fn) fn(1) fn(2) fn(3) fn(4) fn(5) fn(6) fn(7) fn(8) fn(9) fn(10) fn(11) fn(12)
#include "kernels/cpu/kern_impl.h"

const struct cpu_kernels cpu_kernels_avx512 = {
    .isa = "avx512",
    .tile_rows = TILE_ROWS,
    .row_panels = ROW_PANELS,
    .linear_f32 = linear_f32,
    .linear_f32_bf16 = linear_f32_bf16,
    .attention = attention,
    .attention_join = attention_join,
    .matmul = matmul,
    .round_bf16 = round_bf16,
    .rmsnorm = rmsnorm,
    .layernorm = layernorm,
    .silu_mul = silu_mul,
    .gelu = gelu,
    .row_max = row_max,
    .exp_row = exp_row,
    .sum_above = sum_above,
};
