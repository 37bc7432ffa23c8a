/* The values of the two fp8 formats and rounding to them. */
#include "cuda_fp8.h"

namespace sim {
namespace {

/* e4m3: bias 7, no infinities, 0x7f is NaN, largest 448. e5m2: bias 15, as IEEE, largest 57344. */
struct table {
    float v[2][256];
    table()
    {
        for (int i = 0; i < 256; ++i) v[0][i] = value(i, 4, 3, 7), v[1][i] = value(i, 5, 2, 15);
    }
    static float value(int bits, int exponent_bits, int fraction_bits, int bias)
    {
        const int top = (1 << exponent_bits) - 1, e = bits >> fraction_bits & top, f = bits & ((1 << fraction_bits) - 1);
        const float sign = bits & 0x80 ? -1.0f : 1.0f;
        if (exponent_bits == 4 ? (bits & 0x7f) == 0x7f : e == top && f) return NAN;
        if (exponent_bits == 5 && e == top) return sign * INFINITY;
        const float m = float(f) / float(1 << fraction_bits);
        return sign * (e ? std::ldexp(1.0f + m, e - bias) : std::ldexp(m, 1 - bias));
    }
};
const table &values()
{
    static const table t;
    return t;
}

} // namespace

const float *const fp8_values[2] = {values().v[0], values().v[1]};

unsigned char fp8_from_f64(double x, bool e5m2, bool saturate)
{
    const unsigned char sign = std::signbit(x) ? 0x80 : 0, largest = e5m2 ? 0x7b : 0x7e;
    const double limit = e5m2 ? 57344 : 448;
    if (std::isnan(x)) return 0x7f; /* the canonical NaN of both */
    const double r = std::fabs(round_to(x, e5m2 ? 3 : 4, e5m2 ? -14 : -6));
    if (r > limit) return sign | (saturate ? largest : e5m2 ? 0x7c : 0x7f);
    const int fraction = e5m2 ? 2 : 3, e_min = e5m2 ? -14 : -6;
    if (r == 0) return sign;
    const int e = std::max(std::ilogb(r), e_min);
    const int scaled = int(std::ldexp(r, fraction - e)); /* with the hidden bit; without it in subnormals */
    return (unsigned char)(sign | (scaled + ((e - e_min) << fraction)));
}

} // namespace sim
