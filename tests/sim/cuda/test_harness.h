/* What the simulator's tests share: cases run under several schedules, device arrays, comparison with derived tolerances, random data.
 *
 * A case returns "" or why it failed. A program's cases run under seeds 0..N-1 (first argument; SIM_SEEDS; 6), those whose name contains
 * the second argument; the first failure prints "FAIL case seed: reason" and ends with status 1.
 *
 * With ORACLE_DEVICE a test is compiled by nvcc for a card (tools/gpu): nothing can be ordered there, and a seed is one of the numbers, on top
 * of SPILLWAY_TEST_SEED. */
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

inline uint64_t test_random_state = 88172645463325252ull;
#ifdef ORACLE_DEVICE
namespace sim {
inline std::string last_report() { return ""; }
inline bool race_checked() { return false; }
inline void reset() {}
inline void set_seed(uint64_t seed)
{
    const char *env = std::getenv("SPILLWAY_TEST_SEED");
    test_random_state = 88172645463325252ull + ((env ? std::strtoull(env, nullptr, 10) : 0) * 64 + seed) * 0x9E3779B97F4A7C15ull;
}
} // namespace sim
#endif
inline float test_uniform() /* [-1, 1) */
{
    uint64_t &s = test_random_state;
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return float(s >> 40) / float(1 << 23) - 1.0f;
}

/* A device array that lives as long as the object. */
template <class T> struct device_array {
    T *p = nullptr;
    size_t n;
    explicit device_array(size_t count) : n(count) { cudaMalloc(&p, n * sizeof(T)); }
    explicit device_array(const std::vector<T> &v) : device_array(v.size())
    {
        cudaMemcpy(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice);
    }
    ~device_array() { cudaFree(p); }
    device_array(const device_array &) = delete;
    std::vector<T> host() const
    {
        std::vector<T> v(n);
        cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost);
        return v;
    }
};

inline std::vector<__nv_bfloat16> random_bf16(size_t n)
{
    std::vector<__nv_bfloat16> v(n);
    for (auto &x : v) x = __float2bfloat16_rn(test_uniform());
    return v;
}

inline double number_of(float x) { return x; }
inline double number_of(int32_t x) { return x; }
inline double number_of(uint32_t x) { return x; }
inline double number_of(__nv_bfloat16 x) { return __bfloat162float(x); }

/* |got - want| <= tolerance * max(1, |want|) everywhere; NaN differs from everything. */
template <class T> std::string compare(cudaError_t e, const std::vector<T> &got, const std::vector<double> &want, double tolerance)
{
    if (e != cudaSuccess || !sim::last_report().empty()) return std::string(cudaGetErrorString(e)) + ": " + sim::last_report();
    for (size_t i = 0; i < want.size(); ++i) {
        const double g = number_of(got[i]);
        if (std::fabs(g - want[i]) <= tolerance * std::max(1.0, std::fabs(want[i]))) continue;
        char text[160];
        std::snprintf(text, sizeof text, "%s at %zu: got %.9g, want %.9g", std::isnan(g) ? "NaN" : "wrong", i, g, want[i]);
        return text;
    }
    return "";
}

struct test_case {
    const char *name;
    std::string (*run)();
};

template <size_t N> int run_cases(const test_case (&cases)[N], int argc, char **argv)
{
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    const char *env = std::getenv("SIM_SEEDS");
    const int seeds = argc > 1 ? std::atoi(argv[1]) : env ? std::atoi(env) : 6;
    const std::string filter = argc > 2 ? argv[2] : "";
    for (const test_case &c : cases) {
        if (std::string(c.name).find(filter) == std::string::npos) continue;
        for (int seed = 0; seed < seeds; ++seed) {
            sim::reset();
            sim::set_seed(uint64_t(seed));
            const std::string why = c.run();
            if (why.empty()) continue;
            std::printf("FAIL %s seed %d: %s\n", c.name, seed, why.c_str());
            return 1;
        }
        std::printf("ok   %s\n", c.name);
    }
    return 0;
}
