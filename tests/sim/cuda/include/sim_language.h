/* The CUDA language for g++ and clang++: qualifiers, vector types, the built-in variables, and the simulator's test control.
 *
 * __shared__ and __noinline__ are left out on purpose: shared memory comes from SHARED_ARRAY and DYN_SHARED (kernels/cuda/cuda_port.h), and
 * libstdc++ spells the latter inside its own attributes. Kernels include <cuda_runtime.h>, never this. */
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

using std::max;
using std::min;

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define SIM_VECTOR(T, name, bytes2, bytes4)                                                                                                \
    struct name##1 { T x; };                                                                                                               \
    struct alignas(bytes2) name##2 { T x, y; };                                                                                            \
    struct name##3 { T x, y, z; };                                                                                                         \
    struct alignas(bytes4) name##4 { T x, y, z, w; };                                                                                      \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                                             \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                                                     \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIM_VECTOR(signed char, char, 2, 4)
SIM_VECTOR(unsigned char, uchar, 2, 4)
SIM_VECTOR(short, short, 4, 8)
SIM_VECTOR(unsigned short, ushort, 4, 8)
SIM_VECTOR(int, int, 8, 16)
SIM_VECTOR(unsigned, uint, 8, 16)
SIM_VECTOR(float, float, 8, 16)
SIM_VECTOR(long long, longlong, 16, 16)
SIM_VECTOR(unsigned long long, ulonglong, 16, 16)
SIM_VECTOR(double, double, 16, 16)
#undef SIM_VECTOR

/* Written at every switch to another thread of the launch; kernels only read them. One set a host thread that runs blocks. */
extern __thread uint3 threadIdx, blockIdx;
extern __thread dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace sim {

/* Where in a kernel's source a call stands, for reports. */
struct site {
    const char *file;
    int line;
    static constexpr site here(const char *f = __builtin_FILE(), int l = __builtin_LINE()) { return {f, l}; }
};
#define SIM_AT sim::site at = sim::site::here()

/* Test control. Seed 0: threads, blocks and stream work in order. Odd seeds: any ready thread next. Even seeds: one warp runs far ahead of
 * the others. The same seed gives the same run. */
void set_seed(uint64_t seed);
/* So many switches of a block's threads at barriers and flags are a livelock (20 million). */
void set_patience(uint64_t decisions);
/* Text of the latest fault, "" if there was none since the last set_seed(). */
const std::string &last_report();
[[noreturn]] void fault(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* May let another thread run; never with seed 0. */
void preempt_point();
/* True in the build whose kernels were compiled for race checks. */
bool race_checked();

struct counters {
    uint64_t blocks, threads, switches, collectives;
};
counters take_counters(); /* since the last call */

} // namespace sim
