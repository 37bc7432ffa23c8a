/* bf16 and fp16 as bit patterns: conversion to and from float32, round to nearest even. */
#ifndef SPILLWAY_KERNELS_BF16_H
#define SPILLWAY_KERNELS_BF16_H

#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

static inline float bf16_to_f32(bf16 h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline bf16 bf16_from_f32(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7FFFFFFF) > 0x7F800000) return (bf16)(u >> 16 | 0x40); /* NaN stays NaN */
    return (bf16)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, frac = h & 0x3FF, u;
    if (exp == 31) {
        u = sign | 0x7F800000 | frac << 13;
    } else if (exp) {
        u = sign | (exp + 112) << 23 | frac << 13;
    } else { /* zero and subnormals: frac * 2^-24 is exact in float32 */
        float f = (float)frac * 0x1p-24f;
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

#endif
