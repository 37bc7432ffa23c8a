/* CPU kernels for AVX512-BF16: the AVX-512 set, with products of bf16 operands by vdpbf16ps. See kern_impl.h. */
#include <immintrin.h>

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

INLINE void linear_bf16_tile(const bf16 *x, size_t ldx, const bf16 *w, size_t kp, float *out, size_t ldo, const int rows, const int panels)
{
    __m512 acc[TILE_ROWS][NV]; /* rows or panels is 1, so row r of panel p is number r + p */
    EACH(j, rows * panels)
        EACH(v, NV) acc[j][v] = (__m512){};
    for (size_t i = 0; i < kp; i += 2)
        EACH(p, panels)
            EACH(v, NV) {
                __m512bh c = (__m512bh)_mm512_loadu_si512(w + ((size_t)p * kp + i) * PANEL + (size_t)v * VW * 2);
                EACH(r, rows) {
                    int pair;
                    memcpy(&pair, x + (size_t)r * ldx + i, 4);
                    acc[r + p][v] = _mm512_dpbf16_ps(acc[r + p][v], c, (__m512bh)_mm512_set1_epi32(pair));
                }
            }
    EACH(r, rows)
        EACH(p, panels)
            EACH(v, NV) _mm512_storeu_ps(out + (size_t)r * ldo + (size_t)p * PANEL + (size_t)v * VW, acc[r + p][v]);
}

static void linear_bf16(const bf16 *x, size_t ldx, size_t rows, const bf16 *w, size_t k, size_t n_panels, float *out, size_t ldo)
{
    TILE_SWITCH(linear_bf16_tile)
}

const struct cpu_kernels cpu_kernels_avx512bf16 = {
    .isa = "avx512bf16",
    .bf16_operands = true,
    .tile_rows = TILE_ROWS,
    .row_panels = ROW_PANELS,
    .linear_f32 = linear_f32,
    .linear_f32_bf16 = linear_f32_bf16,
    .linear_bf16 = linear_bf16,
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
