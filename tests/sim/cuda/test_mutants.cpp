/* Faults planted in the sample kernels, one at a time: each must be found by the builds named in its row, under one of a few seeds, and
 * found as what it is. Without a fault all seeds pass. */
#include "tests/sim/cuda/samples/samples.h"
#include "tests/sim/cuda/test_child.h"
#include "tests/sim/cuda/test_harness.h"

namespace {

constexpr int max_seeds = 8;

struct mutant {
    planted_fault fault;
    const char *plain, *asan, *race; /* one of these words in what the run says; "": this build need not find it */
};
const char *const bad_numbers = "NaN at|wrong at";
const char *const past_end = "out-of-bounds write next to|past the end of a device allocation|NaN at|wrong at";
const char *const asan_end = "AddressSanitizer|reads outside device memory|past the end of a device allocation";
const mutant mutants[] = {
    {RMS_NO_BARRIER, bad_numbers, bad_numbers, "shared-memory race"},
    {RMS_PAST_END, past_end, asan_end, "past the end of a device allocation|device-memory race"},
    {GEMM_NO_WAIT, bad_numbers, bad_numbers, "read of a cp.async destination before its wait"},
    {GEMM_WAIT_TOO_FEW, bad_numbers, bad_numbers, "read of a cp.async destination before its wait"},
    {GEMM_NO_BARRIER, bad_numbers, bad_numbers, "read of a cp.async destination before its wait|shared-memory race"},
    {GEMM_NO_END_BARRIER, bad_numbers, bad_numbers, "shared-memory race|cp.async destination before its wait"},
    {GEMM_LOAD_BOUND, "reads outside device memory", asan_end, "reads outside device memory"},
    {GEMM_STORE_BOUND, past_end, asan_end, "past the end of a device allocation|device-memory race"},
    {DECODE_NO_BARRIER, bad_numbers, bad_numbers, "shared-memory race"},
    {DECODE_TOKEN_BOUND, past_end, past_end, past_end},
};

/* Deterministic inputs; what the kernel says, against plain loops. */
std::string run_rmsnorm()
{
    const auto x = random_bf16(2 * 896), w = random_bf16(896);
    std::vector<double> want(x.size());
    for (size_t r = 0; r < 2; ++r) {
        double sq = 0;
        for (size_t i = 0; i < 896; ++i) sq += std::pow(number_of(x[r * 896 + i]), 2);
        for (size_t i = 0; i < 896; ++i) want[r * 896 + i] = number_of(x[r * 896 + i]) / std::sqrt(sq / 896 + 1e-5) * number_of(w[i]);
    }
    device_array<bf16> dx(x), dw(w), dy(x.size());
    const cudaError_t e = sample_rmsnorm(dx.p, dw.p, dy.p, 2, 896, 1e-5f, nullptr);
    return compare(e, dy.host(), want, 0x1p-8 + 0x1p-12);
}

std::string run_gemm()
{
    constexpr size_t m = 130, n = 66, k = 104;
    const auto a = random_bf16(m * k), b = random_bf16(n * k);
    std::vector<double> want(m * n);
    for (size_t i = 0; i < m * n; ++i)
        for (size_t q = 0; q < k; ++q) want[i] += number_of(a[i / n * k + q]) * number_of(b[i % n * k + q]);
    device_array<bf16> da(a), db(b), dc(want.size());
    const cudaError_t e = sample_gemm(da.p, db.p, dc.p, m, n, k, nullptr);
    return compare(e, dc.host(), want, 0x1p-8 + 0x1p-12);
}

std::string run_decode()
{
    constexpr size_t len = 50;
    const auto q = random_bf16(64), k = random_bf16(len * 64), v = random_bf16(len * 64);
    std::vector<double> p(len), want(64);
    double sum = 0;
    for (size_t t = 0; t < len; ++t) {
        for (size_t d = 0; d < 64; ++d) p[t] += number_of(q[d]) * number_of(k[t * 64 + d]) / 8;
        sum += p[t] = std::exp(p[t]);
    }
    for (size_t t = 0; t < len; ++t)
        for (size_t d = 0; d < 64; ++d) want[d] += p[t] / sum * number_of(v[t * 64 + d]);
    device_array<bf16> dq(q), dk(k), dv(v), out(64);
    device_array<int> lengths(std::vector<int>{int(len)});
    device_array<float> partial(2 * 66);
    const cudaError_t e = sample_decode({dq.p, dk.p, dv.p, lengths.p, partial.p, out.p, 1, 1, 1, int(len), 2}, nullptr);
    return compare(e, out.host(), want, 0x1p-8 + 0x1p-12);
}

std::string run_sample(planted_fault f)
{
    return f >= DECODE_NO_BARRIER ? run_decode() : f >= GEMM_NO_WAIT ? run_gemm() : run_rmsnorm();
}

std::string test_mutant(const mutant &m)
{
    const std::string words = address_checked ? m.asan : sim::race_checked() ? m.race : m.plain;
    if (words.empty()) return "";
    std::string said;
    for (int seed = 0; seed < max_seeds; ++seed) {
        said = output_of_child([&m, seed] {
            planted = m.fault;
            sim::set_seed(uint64_t(seed));
            return run_sample(m.fault);
        });
        if (has_one_of(said, words)) return "";
        if (!said.empty()) return "found as another fault: " + said;
    }
    return "not found";
}

} // namespace

int main()
{
    int failed = 0;
    for (planted_fault f : {RMS_NO_BARRIER, GEMM_NO_WAIT, DECODE_NO_BARRIER})
        for (int seed = 0; seed < max_seeds; ++seed) {
            sim::set_seed(uint64_t(seed));
            const std::string why = run_sample(f); /* nothing is planted here */
            if (why.empty()) continue;
            std::printf("FAIL sample %d without a fault, seed %d: %s\n", int(f), seed, why.c_str());
            failed = 1;
        }
    for (const mutant &m : mutants) {
        const std::string why = test_mutant(m);
        std::printf("%s mutant %d%s%s\n", why.empty() ? "ok  " : "FAIL", int(m.fault), why.empty() ? "" : ": ", why.c_str());
        failed |= !why.empty();
    }
    return failed;
}
