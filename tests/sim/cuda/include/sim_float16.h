/* Rounding of 16-bit floats, to nearest with ties to even, by bit operations: no compiler's half type is needed. */
#pragma once
#include "sim_language.h"

namespace sim {

inline float bf16_to_f32(uint16_t h)
{
    const uint32_t u = uint32_t(h) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}

inline uint16_t bf16_from_f32(float f)
{
    uint32_t u;
    std::memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

/* The exponent's place moves by a multiplication, which makes subnormals right too. */
inline float f16_to_f32(uint16_t h)
{
    const uint32_t sign = uint32_t(h & 0x8000) << 16;
    uint32_t u = uint32_t(h & 0x7fff) << 13;
    float f;
    std::memcpy(&f, &u, 4);
    f *= 0x1p112f;
    std::memcpy(&u, &f, 4);
    if ((h & 0x7c00) == 0x7c00) u |= 0x7f800000u;
    u |= sign;
    std::memcpy(&f, &u, 4);
    return f;
}

/* Rounds x to a format of `precision` bits (with the hidden one) whose smallest normal exponent is e_min, without a limit above. */
inline double round_to(double x, int precision, int e_min)
{
    if (x == 0 || !std::isfinite(x)) return x;
    const int ulp = std::max(std::ilogb(x), e_min) - precision + 1;
    return std::ldexp(std::nearbyint(std::ldexp(x, -ulp)), ulp);
}

inline uint16_t f16_from_f64(double x)
{
    if (std::isnan(x)) return 0x7fff;
    const double r = std::fabs(round_to(x, 11, -14));
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (r >= 65536.0) return uint16_t(sign | 0x7c00);
    if (r < 0x1p-14) return uint16_t(sign | int(r * 0x1p24));
    const int e = std::ilogb(r);
    return uint16_t(sign | ((e + 15) << 10 | (int(std::ldexp(r, 10 - e)) & 0x3ff)));
}

inline uint16_t bf16_from_f64(double x)
{
    return std::isfinite(x) ? bf16_from_f32(float(round_to(x, 8, -126))) : bf16_from_f32(float(x));
}

/* a*b + c in double, rounded to odd, so that a second rounding to 16 bits is the only one that counts. */
inline double fma_odd(double a, double b, double c)
{
    const double p = a * b, s = p + c; /* p is exact */
    if (!std::isfinite(s)) return s;
    const double back = s - p, lost = (p - (s - back)) + (c - back);
    uint64_t u;
    std::memcpy(&u, &s, 8);
    if (lost == 0 || (u & 1)) return s;
    return std::nextafter(s, lost > 0 ? INFINITY : -INFINITY);
}

} // namespace sim
