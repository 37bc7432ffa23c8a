/* The sample kernels under several schedules against double-precision references; tolerance 2^-8 for the rounding to bf16 plus float32
 * sums. */
#include "tests/sim/cuda/samples/samples.h"
#include "tests/sim/cuda/test_harness.h"

#include <time.h>

namespace {

constexpr double tolerance = 0x1p-8 + 0x1p-12;

std::string test_rmsnorm(int rows, int hidden)
{
    const auto x = random_bf16(size_t(rows) * hidden), w = random_bf16(size_t(hidden));
    std::vector<double> want(x.size());
    for (int r = 0; r < rows; ++r) {
        const size_t at = size_t(r) * hidden;
        double sq = 0;
        for (int i = 0; i < hidden; ++i) sq += std::pow(number_of(x[at + i]), 2);
        for (int i = 0; i < hidden; ++i) want[at + i] = number_of(x[at + i]) / std::sqrt(sq / hidden + 1e-5) * number_of(w[i]);
    }
    device_array<bf16> dx(x), dw(w), dy(x.size());
    const cudaError_t e = sample_rmsnorm(dx.p, dw.p, dy.p, rows, hidden, 1e-5f, nullptr);
    return compare(e, dy.host(), want, tolerance);
}

std::string test_gemm(int m, int n, int k)
{
    const auto a = random_bf16(size_t(m) * k), b = random_bf16(size_t(n) * k);
    std::vector<double> want(size_t(m) * n);
    for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j)
            for (int q = 0; q < k; ++q) want[size_t(i) * n + j] += number_of(a[size_t(i) * k + q]) * number_of(b[size_t(j) * k + q]);
    device_array<bf16> da(a), db(b), dc(want.size());
    const cudaError_t e = sample_gemm(da.p, db.p, dc.p, m, n, k, nullptr);
    return compare(e, dc.host(), want, tolerance);
}

void reference_head(const bf16 *q, const bf16 *k, const bf16 *v, int len, double *out)
{
    std::vector<double> p(static_cast<size_t>(len));
    double top = -1e30, sum = 0;
    for (int t = 0; t < len; ++t) {
        for (int d = 0; d < 64; ++d) p[t] += number_of(q[d]) * number_of(k[t * 64 + d]) / 8.0;
        top = std::max(top, p[t]);
    }
    for (double &x : p) sum += x = std::exp(x - top);
    for (int d = 0; d < 64; ++d) {
        out[d] = 0;
        for (int t = 0; t < len; ++t) out[d] += p[t] / sum * number_of(v[t * 64 + d]);
    }
}

std::string test_decode(int kv_heads, int group, const std::vector<int> &lengths, int max_len, int splits)
{
    const int batch = int(lengths.size()), heads = kv_heads * group;
    const auto q = random_bf16(size_t(batch) * heads * 64);
    const auto k = random_bf16(size_t(batch) * kv_heads * max_len * 64), v = random_bf16(k.size());
    std::vector<double> want(q.size());
    for (int b = 0; b < batch; ++b)
        for (int h = 0; h < heads; ++h) {
            const size_t cache = (size_t(b) * kv_heads + h / group) * max_len * 64, at = (size_t(b) * heads + h) * 64;
            reference_head(&q[at], &k[cache], &v[cache], lengths[b], &want[at]);
        }
    device_array<bf16> dq(q), dk(k), dv(v), out(q.size());
    device_array<int> len(lengths);
    device_array<float> partial(size_t(batch) * heads * splits * 66);
    const cudaError_t e = sample_decode({dq.p, dk.p, dv.p, len.p, partial.p, out.p, batch, heads, kv_heads, max_len, splits}, nullptr);
    return compare(e, out.host(), want, tolerance);
}

const test_case cases[] = {
    {"rmsnorm_896", [] { return test_rmsnorm(3, 896); }},
    {"rmsnorm_2048", [] { return test_rmsnorm(2, 2048); }},
    {"gemm_128x128x64", [] { return test_gemm(128, 128, 64); }},
    {"gemm_tails", [] { return test_gemm(150, 138, 104); }},
    {"decode_mha", [] { return test_decode(2, 1, {33, 1}, 40, 3); }},
    {"decode_gqa4", [] { return test_decode(2, 4, {100, 17, 64}, 100, 4); }},
    {"decode_gqa7", [] { return test_decode(1, 7, {50}, 64, 2); }},
};

double cpu_seconds() /* of this thread: the machine may be busy */
{
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

template <class F> void measure(const char *name, F f)
{
    for (uint64_t seed : {0, 1, 2}) {
        sim::set_seed(seed);
        f(); /* warm up */
        (void)sim::take_counters();
        const double start = cpu_seconds();
        int n = 0;
        double s = 0;
        for (; s < 0.3; ++n, s = cpu_seconds() - start) f();
        const sim::counters c = sim::take_counters();
        std::printf("%-30s seed %d: %8.3f ms %9.0f switches (%5.1f M/s) %7.0f collectives\n", name, int(seed), s / n * 1e3,
                    double(c.switches) / n, double(c.switches) / s / 1e6, double(c.collectives) / n);
    }
}

int measure_all()
{
    device_array<bf16> a(random_bf16(512 * 1024)), b(random_bf16(512 * 1024)), c(512 * 1024);
    device_array<float> partial(64 * 8 * 66);
    device_array<int> len(std::vector<int>{512});
    measure("gemm, a block of 128x128x256", [&] { sample_gemm(a.p, b.p, c.p, 128, 128, 256, nullptr); cudaDeviceSynchronize(); });
    measure("rmsnorm, 8 rows of 2048", [&] { sample_rmsnorm(a.p, b.p, c.p, 8, 2048, 1e-5f, nullptr); cudaDeviceSynchronize(); });
    measure("decode, 8 heads, 512 tokens", [&] {
        sample_decode({a.p, a.p, b.p, len.p, partial.p, c.p, 1, 8, 2, 512, 8}, nullptr);
        cudaDeviceSynchronize();
    });
    return 0;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 1 && !std::strcmp(argv[1], "measure")) return measure_all();
    return run_cases(cases, argc, argv);
}
