/* Quantised products, written once and compiled once an instruction set. A set's file defines, before it includes this one:
 *   VW                       32-bit lanes of a vector; `ivec` is the integer vector type
 *   HAS_DOT                  1: DOT4(acc, u, s) adds four products of uint8 and int8 to each 32-bit lane (VNNI)
 *                            0: DOT4_SIGNED(acc, a, s) the same by widening pairs twice, MADD_ADD pairs of int16 products, MADDUBS_ADD(acc, u, s) to 16-bit lanes
 *   MANY_ROWS, INT8_MANY, INT4_MANY   rows of a tile of kern_q_many.h, and from how many rows on 8 and 4 bits go there
 *   NARROW_ROWS, WIDE_ROWS   most rows of a tile of all the panel's vectors, and of half of them
 *   and the wrappers IV_LOAD, IV_STORE, IV_STORE_BYTES, IV_SET1, IV_ADD, IV_AND, IV_SRL4, IV_ABS8, IV_SIGN8, IV_FLOAT, IV_ROUND, FMA.
 *
 * The multiplications are instructions of our own writing: from intrinsics gcc 12 copies or spills the sums around each of them, as many moves
 * as products, in loops where all sums have a register.
 *
 * A tile is some rows times some vectors of one step's block, its sums in registers; at the end of the step they go, times the scales, to
 * float32 sums in memory. Each output has one such sum, over steps in rising order, whatever the tile: a row's bytes do not depend on
 * its neighbours. In a tile of half the vectors the block is gone over twice, the second time from the first-level cache.
 * 4 bits without VNNI: q+8 <= 15, so the eight pairs of products (at most 2 * 15 * 127 each) of 32 inputs fit in 16 bits: one widening a 32 inputs. */
#include <math.h>
#include <string.h>

#include "kernels/bf16.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/kern_q.h"

enum { NV = PANEL / VW, HALF_NV = NV > 1 ? NV / 2 : 1, TILE_MOST = WIDE_ROWS > NARROW_ROWS ? WIDE_ROWS : NARROW_ROWS };
enum { VB = VW * 4, PREFETCH_BYTES = 4096 };
typedef float vf __attribute__((vector_size(VB)));
typedef int32_t vi __attribute__((vector_size(VB)));
typedef uint32_t vu __attribute__((vector_size(VB)));
#define INLINE static inline __attribute__((always_inline))
#define EACH(i, n) _Pragma("GCC unroll 32") for (int i = 0; i < (n); i++)

INLINE vf load_scales(const unsigned char *p, enum dtype dtype, size_t first)
{
    if (dtype == DTYPE_BF16) { /* quant_scale_place */
        vu both;
        memcpy(&both, p + first % 16 * 4, sizeof both);
        return (vf)(first < 16 ? both << 16 : both & 0xFFFF0000u);
    }
    vf f;
    memcpy(&f, p + first * 4, sizeof f);
    return f;
}

INLINE int32_t load32(const unsigned char *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return v;
}

#if HAS_DOT
#define ADD_HALVES(acc) ((void)(acc))
#else
static const struct {
    _Alignas(64) int16_t of[32];
} ones_16 = {{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}};
#endif

/* Panel p's block of the job's step s; the int8 activations of that step. */
INLINE const unsigned char *block_at(const struct quant_job *j, size_t p, size_t s)
{
    return j->w + p * j->panel_bytes + s * j->block_bytes;
}

INLINE const unsigned char *values_at(const struct quant_job *j, size_t row, size_t s)
{
    return j->x.data + row * j->x.bytes + (j->first_step + s) * j->step;
}

/* A step's sums to the float32 sums: see quant.h for the formula. pairs: they are still pairs of 16-bit sums. */
INLINE void flush(const struct quant_job *j, size_t row, size_t p, size_t s, const ivec *acc, const int rows, const int first, const int nv,
                  const int offset, const bool grouped, const bool pairs)
{
    const unsigned char *x = j->x.data + row * j->x.bytes, *block = block_at(j, p, s);
    const size_t at = (j->first_step + s) * 4;
    vf w[NV];
    if (grouped)
        EACH(v, nv) w[v] = load_scales(block + j->scale_at, j->scale, (size_t)(first + v) * VW);
    EACH(r, rows) {
        const vf scale = (vf)IV_SET1(load32(x + (size_t)r * j->x.bytes + j->x.scale_at + at));
        const ivec less = IV_SET1(load32(x + (size_t)r * j->x.bytes + j->x.correction_at + at));
        float *out = j->acc + (row + (size_t)r) * j->ld + p * PANEL + (size_t)first * VW;
        EACH(v, nv) {
            vf sum;
            memcpy(&sum, out + v * VW, sizeof sum);
            ivec whole = acc[r * nv + v];
            if (pairs) ADD_HALVES(whole);
            const vf dot = IV_FLOAT(offset ? IV_ADD(whole, less) : whole);
            sum = FMA(dot, grouped ? w[v] * scale : scale, sum);
            memcpy(out + v * VW, &sum, sizeof sum);
        }
    }
}

INLINE void ahead(const unsigned char *p)
{
    __builtin_prefetch(p + PREFETCH_BYTES, 0, 3);
}

#if HAS_DOT
enum { INT8_OFFSET = 128 };
#define INT8_QUAD(acc, w, q, magnitude) DOT4(acc, w, q)
#define INT8_MAGNITUDE(q) (q)
#else
/* Without VNNI: |x| is unsigned, and w takes the sign of x. |w| and |x| are at most 127, so two products fit 16 bits. */
enum { INT8_OFFSET = 0 };
#define INT8_QUAD(acc, w, q, magnitude) DOT4_SIGNED(acc, magnitude, IV_SIGN8(w, q), IV_SET1(0x00010001))
#define INT8_MAGNITUDE(q) IV_ABS8(q)
#endif
INLINE void int8_tile(const struct quant_job *j, size_t row, size_t p, size_t s, const int rows, const int first, const int nv,
                      const bool grouped)
{
    const unsigned char *block = block_at(j, p, s), *x = values_at(j, row, s);
    ivec acc[TILE_MOST * NV];
    EACH(i, rows * nv) acc[i] = IV_SET1(0);
    for (size_t i = 0; i < j->step; i += 4) {
        const unsigned char *w = block + i * PANEL + (size_t)first * VB;
        ivec c[NV];
        EACH(v, nv) c[v] = IV_LOAD(w + v * VB);
        if (first == 0) ahead(w), ahead(w + 64);
        EACH(r, rows) {
            const ivec q = IV_SET1(load32(x + (size_t)r * j->x.bytes + i)), magnitude = INT8_MAGNITUDE(q);
            (void)magnitude; /* as VNNI */
            EACH(v, nv) INT8_QUAD(acc[r * nv + v], c[v], q, magnitude);
        }
    }
    flush(j, row, p, s, acc, rows, first, nv, INT8_OFFSET, grouped, false);
}

/* 32 inputs of the tile. Without VNNI in 16-bit sums, widened at the end. */
INLINE void int4_run(const struct quant_job *j, const unsigned char *block, const unsigned char *x, ivec *acc, const int rows,
                     const int first, const int nv)
{
    const ivec low = IV_SET1(0x0F0F0F0F);
#if !HAS_DOT
    ivec part[TILE_MOST * NV];
    EACH(i, rows * nv) part[i] = IV_SET1(0);
#else
    ivec *const part = acc;
#endif
    for (size_t i = 0; i < 32; i += 8) {
        const unsigned char *w = block + i * PANEL / 2 + (size_t)first * VB;
        if (first == 0) ahead(w), ahead(w + 64);
        for (size_t half = 0; half < 2; half++) {
            ivec c[NV];
            EACH(v, nv) c[v] = IV_AND(half ? IV_SRL4(IV_LOAD(w + v * VB)) : IV_LOAD(w + v * VB), low);
            EACH(r, rows) {
                const ivec q = IV_SET1(load32(x + (size_t)r * j->x.bytes + i + half * 4));
#if HAS_DOT
                EACH(v, nv) DOT4(part[r * nv + v], c[v], q);
#else
                EACH(v, nv) MADDUBS_ADD(part[r * nv + v], c[v], q);
#endif
            }
        }
    }
#if !HAS_DOT
    EACH(i, rows * nv) MADD_ADD(acc[i], part[i], IV_SET1(0x00010001));
#endif
}

INLINE void int4_tile(const struct quant_job *j, size_t row, size_t p, size_t s, const int rows, const int first, const int nv,
                      const bool grouped)
{
    const unsigned char *block = block_at(j, p, s), *x = values_at(j, row, s);
    ivec acc[TILE_MOST * NV];
    EACH(i, rows * nv) acc[i] = IV_SET1(0);
    if (j->step == 32)
        int4_run(j, block, x, acc, rows, first, nv);
    else
        for (size_t i = 0; i < j->step; i += 32) int4_run(j, block + i * PANEL / 2, x + i, acc, rows, first, nv);
    flush(j, row, p, s, acc, rows, first, nv, 8, grouped, false);
}

/* Tiles of all vectors for a few rows, of half of them for more: both have about as many sums as there are registers. Panels take turns, a
 * block each: as many streams as memory likes to be read in. */
#define TILE(fn, r, grouped)                                                                                                               \
    case r:                                                                                                                                \
        for (size_t s = 0; s < j->n_steps; s++)                                                                                            \
            for (size_t p = 0; p < j->n_panels; p++) {                                                                                     \
                if ((r) <= NARROW_ROWS) {                                                                                                  \
                    fn(j, row, p, s, (r) <= NARROW_ROWS ? (r) : 1, 0, NV, grouped);                                                        \
                } else {                                                                                                                   \
                    fn(j, row, p, s, r, 0, HALF_NV, grouped);                                                                              \
                    fn(j, row, p, s, r, HALF_NV, HALF_NV, grouped);                                                                        \
                }                                                                                                                          \
            }                                                                                                                              \
        break;
#define PRODUCT(name, fn, grouped)                                                                                                         \
    static void name##_few(const struct quant_job *job)                                                                                    \
    {                                                                                                                                      \
        const struct quant_job own = *job, *const j = &own; /* which no store can change */                                                \
        for (size_t row = 0, rows; row < j->rows; row += rows) {                                                                           \
            rows = j->rows - row < TILE_MOST ? j->rows - row : TILE_MOST;                                                                  \
            switch (rows) {                                                                                                                \
                TILE_ROWS_CASES(fn, grouped)                                                                                               \
            default:                                                                                                                       \
                CHECK(!"quantised product: rows");                                                                                         \
            }                                                                                                                              \
        }                                                                                                                                  \
    }

PRODUCT(int8_channel, int8_tile, false)
PRODUCT(int8_group, int8_tile, true)
PRODUCT(int4_group, int4_tile, true)

#include "kernels/cpu/kern_q_many.h"

#define CHOICE(name, many)                                                                                                                 \
    static void name(const struct quant_job *j)                                                                                            \
    {                                                                                                                                      \
        if (many)                                                                                                                          \
            name##_many(j);                                                                                                                \
        else                                                                                                                               \
            name##_few(j);                                                                                                                 \
    }

CHOICE(int8_channel, j->rows >= INT8_MANY && (HAS_DOT || j->x.wide_at))
CHOICE(int8_group, j->rows >= INT8_MANY && (HAS_DOT || j->x.wide_at))
CHOICE(int4_group, j->rows >= INT4_MANY)

/* --- activations --- */
INLINE float largest_of(vi bits)
{
    int32_t most = 0;
    for (int i = 0; i < VW; i++) most = bits[i] > most ? bits[i] : most;
    float f;
    memcpy(&f, &most, 4);
    return f;
}

/* One whole step. Bits of magnitudes compare as whole numbers, and what is not finite is the largest of them. */
INLINE void quantize_step(const float *x, size_t step, int offset, int8_t *values, float *scale, int32_t *correction)
{
    vi most = {}, total = {};
    for (size_t i = 0; i < step; i += VW) {
        vi bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7FFFFFFF;
        vi more = bits > most;
        most = (bits & more) | (most & ~more);
    }
    const float amax = largest_of(most);
    const bool finite = amax <= 3.402823466e38f, some = finite && amax >= QUANT_TINY;
    const float inverse = some ? 127 / amax : 0;
    *scale = some ? amax / 127 : finite ? 0 : NAN;
    for (size_t i = 0; i < step; i += 32) {
        vi q[32 / VW];
        EACH(k, 32 / VW) {
            vf v;
            memcpy(&v, x + i + k * VW, sizeof v);
            q[k] = some ? IV_ROUND(v * inverse) : (vi){};
            total += q[k];
        }
        IV_STORE_BYTES(values + i, q);
    }
    int32_t sum = 0;
    for (int i = 0; i < VW; i++) sum += total[i];
    *correction = -offset * sum;
}

static void quantize(const float *x, size_t n, size_t step, int offset, int8_t *values, float *scale, int32_t *correction)
{
    size_t s = 0;
    for (; (s + 1) * step <= n; s++) quantize_step(x + s * step, step, offset, values + s * step, scale + s, correction + s);
    if (s * step == n) return;
    float last[QUANT_MAX_STEP] = {0};
    memcpy(last, x + s * step, (n - s * step) * sizeof *x);
    quantize_step(last, step, offset, values + s * step, scale + s, correction + s);
}

#define QUANT_KERNELS(set)                                                                                                                 \
    const struct quant_kernels quant_kernels_##set = {.isa = #set,                                                                         \
                                                      .int8_offset = INT8_OFFSET,                                                         \
                                                      .wide_rows = HAS_DOT ? 0 : INT8_MANY,                                                \
                                                      .int8_channel = int8_channel,                                                        \
                                                      .int8_group = int8_group,                                                            \
                                                      .int4_group = int4_group,                                                            \
                                                      .quantize = quantize}
