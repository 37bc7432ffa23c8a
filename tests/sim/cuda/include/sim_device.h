/* What a kernel may call: barriers, warp shuffles, votes, match and reduce, atomics, fences, bit tricks and fast math, and underneath
 * the functions that kernels/cuda/ptx.cuh calls where nvcc has an instruction. All take the caller's source line, for reports. */
#pragma once
#include "sim_language.h"

namespace sim {

enum class rmw { add, sub, max, min, exch, cas, and_, or_, xor_, inc, dec, load, store };
enum class number { s32, u32, s64, u64, f32, f64, bf16x2, f16x2 };
enum class order { relaxed, acquire, release, acq_rel };
enum class scope { block, device, system };

/* One atomic operation on *p; returns the old bits. */
uint64_t atomic(void *p, rmw op, number type, uint64_t operand, uint64_t compare, order o, scope s, site at);
void fence(scope s, site at);

enum class vote { none, count, all, any };
int block_barrier(int id, int threads, vote v, int pred, bool wait, site at); /* threads 0: all of the block */

enum class shfl_kind { idx, up, down, xor_ };
uint32_t shfl_bits(shfl_kind kind, uint32_t mask, uint32_t v, int arg, int width, site at);
uint32_t ballot(uint32_t mask, bool pred, site at);
void sync_warp(uint32_t mask, site at);
uint32_t match_any(uint32_t mask, uint64_t v, site at);
uint32_t match_all(uint32_t mask, uint64_t v, int *pred, site at);
enum class reduce_kind { add, min_s, max_s, min_u, max_u, and_, or_, xor_ };
uint32_t reduce_bits(reduce_kind kind, uint32_t mask, uint32_t v, site at);
uint32_t active_lanes();

void *dyn_shared();
void *static_shared(const void *key, size_t bytes, size_t align);
/* dst: shared memory, bytes 4, 8 or 16; the first src_bytes come from src (device memory), the rest are zeros. */
void cp_async(void *dst, const void *src, int bytes, int src_bytes, site at);
void cp_async_commit();
void cp_async_wait(int newest_left); /* -1: all, committed or not */
void ldmatrix(uint32_t *r, int n, const void *row, bool trans, site at);
void stmatrix(const uint32_t *r, int n, void *row, bool trans, site at);
enum class mma_type { bf16, f16, s8, u8s8, e4m3, e5m2 };
void mma(mma_type type, void *d, const uint32_t *a, const uint32_t *b, site at); /* d: 4 float or int32; D += A B */
int compute_capability(); /* SIM_CUDA_CC: 90 for 9.0 */
void deny_misaligned(const void *p, size_t align, site at);
void grid_dependency_sync(site at);

template <class T> inline T shfl(shfl_kind kind, uint32_t mask, T v, int arg, int width, site at)
{
    static_assert(std::is_trivially_copyable<T>::value && (sizeof(T) % 4 == 0 || sizeof(T) == 2), "a 2-byte value or words");
    uint32_t w[(sizeof(T) + 3) / 4] = {};
    std::memcpy(w, &v, sizeof(T));
    for (uint32_t &x : w) x = shfl_bits(kind, mask, x, arg, width, at);
    std::memcpy(static_cast<void *>(&v), w, sizeof(T));
    return v;
}

template <class T> constexpr number number_of()
{
    if (std::is_same<T, float>::value) return number::f32;
    if (std::is_same<T, double>::value) return number::f64;
    if (sizeof(T) == 8) return std::is_signed<T>::value ? number::s64 : number::u64;
    return std::is_signed<T>::value ? number::s32 : number::u32;
}

template <class T>
inline T atomic_value(T *p, rmw op, T v, T compare, site at, order o = order::relaxed, scope s = scope::device)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "4 or 8 bytes");
    uint64_t bits = 0, cmp = 0;
    std::memcpy(&bits, &v, sizeof v);
    std::memcpy(&cmp, &compare, sizeof v);
    bits = atomic(p, op, number_of<T>(), bits, cmp, o, s, at);
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

} // namespace sim

inline void __syncthreads(SIM_AT) { sim::block_barrier(0, 0, sim::vote::none, 0, true, at); }
inline int __syncthreads_count(int p, SIM_AT) { return sim::block_barrier(0, 0, sim::vote::count, p, true, at); }
inline int __syncthreads_and(int p, SIM_AT) { return sim::block_barrier(0, 0, sim::vote::all, p, true, at); }
inline int __syncthreads_or(int p, SIM_AT) { return sim::block_barrier(0, 0, sim::vote::any, p, true, at); }
inline void __syncwarp(unsigned m = ~0u, SIM_AT) { sim::sync_warp(m, at); }
inline unsigned __activemask() { return sim::active_lanes(); }
inline unsigned __ballot_sync(unsigned m, int p, SIM_AT) { return sim::ballot(m, p, at); }
inline int __any_sync(unsigned m, int p, SIM_AT) { return sim::ballot(m, p, at) != 0; }
inline int __all_sync(unsigned m, int p, SIM_AT) { return sim::ballot(m, !p, at) == 0; }

template <class T> inline T __shfl_sync(unsigned m, T v, int lane, int width = 32, SIM_AT)
{
    return sim::shfl(sim::shfl_kind::idx, m, v, lane, width, at);
}
template <class T> inline T __shfl_up_sync(unsigned m, T v, unsigned delta, int width = 32, SIM_AT)
{
    return sim::shfl(sim::shfl_kind::up, m, v, int(delta), width, at);
}
template <class T> inline T __shfl_down_sync(unsigned m, T v, unsigned delta, int width = 32, SIM_AT)
{
    return sim::shfl(sim::shfl_kind::down, m, v, int(delta), width, at);
}
template <class T> inline T __shfl_xor_sync(unsigned m, T v, int lanes, int width = 32, SIM_AT)
{
    return sim::shfl(sim::shfl_kind::xor_, m, v, lanes, width, at);
}
template <class T> inline unsigned __match_any_sync(unsigned m, T v, SIM_AT)
{
    uint64_t bits = 0;
    std::memcpy(&bits, &v, sizeof v);
    return sim::match_any(m, bits, at);
}
template <class T> inline unsigned __match_all_sync(unsigned m, T v, int *pred, SIM_AT)
{
    uint64_t bits = 0;
    std::memcpy(&bits, &v, sizeof v);
    return sim::match_all(m, bits, pred, at);
}
inline unsigned __reduce_add_sync(unsigned m, unsigned v, SIM_AT) { return sim::reduce_bits(sim::reduce_kind::add, m, v, at); }
inline int __reduce_add_sync(unsigned m, int v, SIM_AT) { return int(sim::reduce_bits(sim::reduce_kind::add, m, unsigned(v), at)); }
inline unsigned __reduce_min_sync(unsigned m, unsigned v, SIM_AT) { return sim::reduce_bits(sim::reduce_kind::min_u, m, v, at); }
inline int __reduce_min_sync(unsigned m, int v, SIM_AT) { return int(sim::reduce_bits(sim::reduce_kind::min_s, m, unsigned(v), at)); }
inline unsigned __reduce_max_sync(unsigned m, unsigned v, SIM_AT) { return sim::reduce_bits(sim::reduce_kind::max_u, m, v, at); }
inline int __reduce_max_sync(unsigned m, int v, SIM_AT) { return int(sim::reduce_bits(sim::reduce_kind::max_s, m, unsigned(v), at)); }
inline unsigned __reduce_and_sync(unsigned m, unsigned v, SIM_AT) { return sim::reduce_bits(sim::reduce_kind::and_, m, v, at); }
inline unsigned __reduce_or_sync(unsigned m, unsigned v, SIM_AT) { return sim::reduce_bits(sim::reduce_kind::or_, m, v, at); }
inline unsigned __reduce_xor_sync(unsigned m, unsigned v, SIM_AT) { return sim::reduce_bits(sim::reduce_kind::xor_, m, v, at); }

inline void __threadfence_block(SIM_AT) { sim::fence(sim::scope::block, at); }
inline void __threadfence(SIM_AT) { sim::fence(sim::scope::device, at); }
inline void __threadfence_system(SIM_AT) { sim::fence(sim::scope::system, at); }

/* As in CUDA these are relaxed: they order nothing without a fence. */
#define SIM_ATOMIC(suffix, level)                                                                                                          \
    template <class T> inline T atomicAdd##suffix(T *p, T v, SIM_AT)                                                                       \
    {                                                                                                                                      \
        return sim::atomic_value(p, sim::rmw::add, v, v, at, sim::order::relaxed, sim::scope::level);                                      \
    }                                                                                                                                      \
    template <class T> inline T atomicSub##suffix(T *p, T v, SIM_AT)                                                                       \
    {                                                                                                                                      \
        return sim::atomic_value(p, sim::rmw::sub, v, v, at, sim::order::relaxed, sim::scope::level);                                      \
    }                                                                                                                                      \
    template <class T> inline T atomicMax##suffix(T *p, T v, SIM_AT)                                                                       \
    {                                                                                                                                      \
        return sim::atomic_value(p, sim::rmw::max, v, v, at, sim::order::relaxed, sim::scope::level);                                      \
    }                                                                                                                                      \
    template <class T> inline T atomicMin##suffix(T *p, T v, SIM_AT)                                                                       \
    {                                                                                                                                      \
        return sim::atomic_value(p, sim::rmw::min, v, v, at, sim::order::relaxed, sim::scope::level);                                      \
    }                                                                                                                                      \
    template <class T> inline T atomicExch##suffix(T *p, T v, SIM_AT)                                                                      \
    {                                                                                                                                      \
        return sim::atomic_value(p, sim::rmw::exch, v, v, at, sim::order::relaxed, sim::scope::level);                                     \
    }                                                                                                                                      \
    template <class T> inline T atomicCAS##suffix(T *p, T compare, T v, SIM_AT)                                                            \
    {                                                                                                                                      \
        return sim::atomic_value(p, sim::rmw::cas, v, compare, at, sim::order::relaxed, sim::scope::level);                                \
    }                                                                                                                                      \
    template <class T> inline T atomicAnd##suffix(T *p, T v, SIM_AT)                                                                       \
    {                                                                                                                                      \
        return sim::atomic_value(p, sim::rmw::and_, v, v, at, sim::order::relaxed, sim::scope::level);                                     \
    }                                                                                                                                      \
    template <class T> inline T atomicOr##suffix(T *p, T v, SIM_AT)                                                                        \
    {                                                                                                                                      \
        return sim::atomic_value(p, sim::rmw::or_, v, v, at, sim::order::relaxed, sim::scope::level);                                      \
    }                                                                                                                                      \
    template <class T> inline T atomicXor##suffix(T *p, T v, SIM_AT)                                                                       \
    {                                                                                                                                      \
        return sim::atomic_value(p, sim::rmw::xor_, v, v, at, sim::order::relaxed, sim::scope::level);                                     \
    }                                                                                                                                      \
    inline unsigned atomicInc##suffix(unsigned *p, unsigned v, SIM_AT)                                                                     \
    {                                                                                                                                      \
        return sim::atomic_value(p, sim::rmw::inc, v, v, at, sim::order::relaxed, sim::scope::level);                                      \
    }                                                                                                                                      \
    inline unsigned atomicDec##suffix(unsigned *p, unsigned v, SIM_AT)                                                                     \
    {                                                                                                                                      \
        return sim::atomic_value(p, sim::rmw::dec, v, v, at, sim::order::relaxed, sim::scope::level);                                      \
    }
SIM_ATOMIC(, device)
SIM_ATOMIC(_block, block)
SIM_ATOMIC(_system, system)
#undef SIM_ATOMIC

template <class T> inline T __ldg(const T *p) { return *p; }
template <class T> inline T __ldcg(const T *p) { return *p; }
template <class T> inline T __ldcs(const T *p) { return *p; }
template <class T> inline void __stcg(T *p, T v) { *p = v; }
template <class T> inline void __stcs(T *p, T v) { *p = v; }

inline float __uint_as_float(unsigned v) { float f; std::memcpy(&f, &v, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned v; std::memcpy(&v, &f, 4); return v; }
inline float __int_as_float(int v) { return __uint_as_float(unsigned(v)); }
inline int __float_as_int(float f) { return int(__float_as_uint(f)); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline unsigned __brev(unsigned v)
{
    unsigned r = 0;
    for (int i = 0; i < 32; ++i) r |= (v >> i & 1) << (31 - i);
    return r;
}
/* PTX prmt: byte i of the result is byte (s >> 4i & 7) of b:a, or eight copies of its sign where bit 3 is set. */
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    const uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned pick = s >> (4 * i), byte = unsigned(bytes >> (8 * (pick & 7))) & 0xff;
        r |= (pick & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << (8 * i);
    }
    return r;
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) { return unsigned((uint64_t(hi) << 32 | lo) << (n & 31) >> 32); }
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) { return unsigned((uint64_t(hi) << 32 | lo) >> (n & 31)); }
inline int __dp4a(int a, int b, int c)
{
    unsigned sum = unsigned(c);
    for (int i = 0; i < 4; ++i) sum += unsigned(int(int8_t(unsigned(a) >> (8 * i))) * int8_t(unsigned(b) >> (8 * i)));
    return int(sum);
}

/* glibc's <math.h> declares some of these names, hence macros. */
#define __expf(x) ::expf(x)
#define __logf(x) ::logf(x)
#define __log2f(x) ::log2f(x)
#define __sinf(x) ::sinf(x)
#define __cosf(x) ::cosf(x)
#define __powf(x, y) ::powf(x, y)
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return ::fmaf(a, b, c); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; } /* NaN gives 0, as on the device */
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __float2int_rn(float x) { return int(std::nearbyint(std::fmin(std::fmax(double(x), -2147483648.0), 2147483647.0))); }
inline int __float2int_rz(float x) { return int(std::trunc(std::fmin(std::fmax(double(x), -2147483648.0), 2147483647.0))); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }

inline void __nanosleep(unsigned, SIM_AT) { sim::fence(sim::scope::block, at); }
inline void __trap(SIM_AT) { sim::fault("__trap at %s:%d", at.file, at.line); }
inline void cudaGridDependencySynchronize(SIM_AT) { sim::grid_dependency_sync(at); }
inline void cudaTriggerProgrammaticLaunchCompletion() { sim::preempt_point(); }
