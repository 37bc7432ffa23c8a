/* CPU kernels for AVX2 and FMA. See kern_impl.h. */
#define VW 8
#define TILE_ROWS 3
#define ROW_PANELS 2
#define TILE_CASES(fn) TILE_CASE(fn, 1) TILE_CASE(fn, 2) TILE_CASE(fn, 3)
#define MANY_ROWS 6
#define MANY_CASES(fn) fn(1) fn(2) fn(3) fn(4) fn(5) fn(6)
#include "kernels/cpu/kern_impl.h"

const struct cpu_kernels cpu_kernels_avx2 = {
    .isa = "avx2",
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
