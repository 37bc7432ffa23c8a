/* fp8 e4m3 and e5m2 as in the toolkit's header, by table (sim_float8.cpp): round to nearest even, saturating to the largest finite value
 * or, without saturation, to NaN (e4m3) or infinity (e5m2). */
#pragma once
#include "cuda_bf16.h"
#include "cuda_fp16.h"

using __nv_fp8_storage_t = unsigned char;
using __nv_fp8x2_storage_t = unsigned short;
using __nv_fp8x4_storage_t = unsigned;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

namespace sim {
extern const float *const fp8_values[2]; /* [interpretation]: 256 values */
unsigned char fp8_from_f64(double x, bool e5m2, bool saturate);
} // namespace sim

inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t s, __nv_fp8_interpretation_t k)
{
    return sim::fp8_from_f64(x, k == __NV_E5M2, s == __NV_SATFINITE);
}
inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 f, __nv_saturation_t s, __nv_fp8_interpretation_t k)
{
    return __nv_fp8x2_storage_t(__nv_cvt_float_to_fp8(f.x, s, k) | __nv_cvt_float_to_fp8(f.y, s, k) << 8);
}
inline __nv_fp8_storage_t __nv_cvt_bfloat16raw_to_fp8(__nv_bfloat16_raw x, __nv_saturation_t s, __nv_fp8_interpretation_t k)
{
    return __nv_cvt_float_to_fp8(sim::bf16_to_f32(x.x), s, k);
}
/* Every fp8 value is exact in fp16. */
inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t x, __nv_fp8_interpretation_t k)
{
    return __half(sim::fp8_values[k == __NV_E5M2][x]);
}
struct __half2_raw {
    unsigned short x, y;
};
inline __half2_raw __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t x, __nv_fp8_interpretation_t k)
{
    return {__nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t(x), k).x, __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t(x >> 8), k).x};
}

template <__nv_fp8_interpretation_t K> struct sim_fp8 {
    __nv_fp8_storage_t __x;
    sim_fp8() = default;
    explicit sim_fp8(float f) : __x(__nv_cvt_float_to_fp8(f, __NV_SATFINITE, K)) {}
    explicit operator float() const { return sim::fp8_values[K == __NV_E5M2][__x]; }
};
using __nv_fp8_e4m3 = sim_fp8<__NV_E4M3>;
using __nv_fp8_e5m2 = sim_fp8<__NV_E5M2>;
