/* fp16 as in the toolkit's header: the conversions round to nearest even, arithmetic rounds once. NaN becomes 0x7fff, as on the device. */
#pragma once
#include "sim_float16.h"

struct __half_raw {
    unsigned short x;
};
struct __half {
    unsigned short bits_;
    __half() = default;
    constexpr __half(__half_raw r) : bits_(r.x) {}
    explicit __half(float f) : bits_(sim::f16_from_f64(f)) {}
    operator __half_raw() const { return {bits_}; }
    explicit operator float() const { return sim::f16_to_f32(bits_); }
};
struct alignas(4) __half2 {
    __half x, y;
};
using half = __half;
using half2 = __half2;

inline unsigned short __half_as_ushort(__half h) { return h.bits_; }
inline __half __ushort_as_half(unsigned short u) { return __half_raw{u}; }
inline float __half2float(__half h) { return sim::f16_to_f32(h.bits_); }
inline __half __float2half_rn(float f) { return __half(f); }
inline __half __float2half(float f) { return __half(f); }
inline __half2 __floats2half2_rn(float lo, float hi) { return {__half(lo), __half(hi)}; }
inline __half2 __float22half2_rn(float2 f) { return __floats2half2_rn(f.x, f.y); }
inline __half2 __float2half2_rn(float f) { return __floats2half2_rn(f, f); }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline __half2 __halves2half2(__half lo, __half hi) { return {lo, hi}; }
inline __half2 __half2half2(__half h) { return {h, h}; }
inline __half __low2half(__half2 h) { return h.x; }
inline __half __high2half(__half2 h) { return h.y; }
inline float __low2float(__half2 h) { return __half2float(h.x); }
inline float __high2float(__half2 h) { return __half2float(h.y); }

inline __half __hfma(__half a, __half b, __half c)
{
    return __half_raw{sim::f16_from_f64(sim::fma_odd(__half2float(a), __half2float(b), __half2float(c)))};
}
inline __half __hadd(__half a, __half b) { return __hfma(a, __half(1.0f), b); }
inline __half __hsub(__half a, __half b) { return __hfma(b, __half(-1.0f), a); }
inline __half __hmul(__half a, __half b) { return __hfma(a, b, __half(-0.0f)); }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
