/* The quantised kernels' source (kernels/cpu/kern_q_impl.h) with the instructions of AVX512-VNNI in plain C: so that the layout of bytes
 * with an offset, vectors of 16 and tiles of 12 rows are tested on machines that lack the instructions. Slow. */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef int32_t ivec __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(64)));

static __attribute__((noinline)) ivec load_vector(const void *p)
{
    ivec v;
    memcpy(&v, p, sizeof v);
    return v;
}

static __attribute__((noinline)) void store_vector(void *p, ivec v)
{
    memcpy(p, &v, sizeof v);
}

static __attribute__((noinline)) ivec dot4(ivec acc, ivec u, ivec s)
{
    for (int i = 0; i < 16; i++)
        for (int b = 0; b < 4; b++) acc[i] += (int32_t)((uint32_t)u[i] >> 8 * b & 255) * (int8_t)((uint32_t)s[i] >> 8 * b);
    return acc;
}

#define VW 16
#define HAS_DOT 1
#define DOT4(acc, u, s) acc = dot4(acc, u, s)
#define IV_LOAD(p) load_vector(p)
#define IV_STORE(p, v) store_vector(p, v)
#define IV_STORE_BYTES(p, q)                                                                                                               \
    for (int i_byte = 0; i_byte < 32; i_byte++) (p)[i_byte] = (int8_t)(q)[i_byte / 16][i_byte % 16]
#define IV_SET1(v) ((ivec){} + (v))
#define IV_ADD(a, b) ((a) + (b))
#define IV_AND(a, b) ((a) & (b))
#define IV_SRL4(a) ((ivec)((halves)(a) >> 4))
#define IV_FLOAT(a) __builtin_convertvector(a, vf)
#define IV_ROUND(a) round_lanes((vf)(a))
#define FMA(a, b, c) fma_lanes(a, b, c)
#include "kernels/cpu/kern_q_rows12.h"
#define INT8_MANY 8
#define INT4_MANY 8

typedef float lanes __attribute__((vector_size(64)));

static __attribute__((noinline)) ivec round_lanes(lanes a)
{
    ivec v;
    for (int i = 0; i < 16; i++) v[i] = (int32_t)nearbyintf(a[i]);
    return v;
}

static __attribute__((noinline)) lanes fma_lanes(lanes a, lanes b, lanes c)
{
    for (int i = 0; i < 16; i++) c[i] = fmaf(a[i], b[i], c[i]);
    return c;
}

#include "kernels/cpu/kern_q_impl.h"

extern const struct quant_kernels quant_kernels_emulated;
QUANT_KERNELS(emulated);
