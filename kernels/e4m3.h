/* e4m3 as bit patterns: sign, four bits of exponent with bias 7, three of fraction; no infinities, 0x7f and 0xff are NaN, 448 the largest.
 * The same bytes as safetensors' F8_E4M3 (e4m3fn). Source: Micikevicius et al., "FP8 Formats for Deep Learning" (arXiv 2209.05433). */
#ifndef SPILLWAY_KERNELS_E4M3_H
#define SPILLWAY_KERNELS_E4M3_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define E4M3_MOST 448.0f

static inline float e4m3_to_f32(uint8_t b)
{
    uint32_t u = (uint32_t)(b & 0x80) << 24 | (uint32_t)(b & 0x7F) << 20;
    float f;
    memcpy(&f, &u, 4);
    return (b & 0x7F) == 0x7F ? NAN : f * 0x1p120f; /* the biases differ by 120; subnormals come right as well */
}

/* To nearest even; what is larger than 448 becomes 448. NaN stays one. */
static inline uint8_t e4m3_from_f32(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    const uint8_t sign = (uint8_t)(u >> 24 & 0x80);
    u &= 0x7FFFFFFF;
    if (u > 0x7F800000) return (uint8_t)(sign | 0x7F);
    if (u >= 0x43E00000) return (uint8_t)(sign | 0x7E); /* 448 */
    if (u < 0x3C800000) { /* below 2^-6 they are whole multiples of 2^-9, the last bit of 1.5 * 2^14 */
        f = fabsf(f) + 0x1.8p14f;
        memcpy(&u, &f, 4);
        return (uint8_t)(sign | (u - 0x46C00000));
    }
    u += 0x7FFFF + (u >> 20 & 1);
    return (uint8_t)(sign | ((u >> 20) - (120 << 3)));
}

#endif
