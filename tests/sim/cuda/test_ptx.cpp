/* Every wrapper of kernels/cuda/ptx.cuh and every device function of the simulator against an example worked out by hand from the PTX
 * manual. */
#include "tests/sim/cuda/samples/probes.h"
#include "tests/sim/cuda/test_harness.h"

namespace {

using words = std::vector<uint32_t>;

/* "" if the launch went well and got[at] == want for every pair. */
struct expected {
    size_t at;
    uint32_t want;
};
std::string check(const words &got, const std::vector<expected> &all)
{
    if (!sim::last_report().empty()) return sim::last_report();
    for (const expected &e : all) {
        if (got[e.at] == e.want) continue;
        char t[100];
        std::snprintf(t, sizeof t, "word %zu is %08x, not %08x", e.at, got[e.at], e.want);
        return t;
    }
    return "";
}

/* One product, by hand: A (9, 5) is the high half of register 1 of lane 6 (g = 1, t = 2), B (5, 3) the high half of register 0 of lane 14
 * (column 3, t = 2), D (9, 3) register 3 of lane 5 (g = 1, t = 1). 2 * 3 + 10 = 16. With 8-bit values A (9, 22) is byte 2 of register 3 of
 * lane 5 (g = 1, t = 1), B (22, 3) byte 2 of register 1 of lane 13. */
std::string test_mma_one_product(probe_mma_type type, uint32_t two, uint32_t three, uint32_t ten, uint32_t sixteen)
{
    const bool wide = type == PROBE_BF16 || type == PROBE_F16;
    words a(128), b(64), d(128);
    if (wide) a[6 * 4 + 1] = two << 16, b[14 * 2] = three << 16;
    else a[5 * 4 + 3] = two << 16, b[13 * 2 + 1] = three << 16;
    d[5 * 4 + 3] = ten;
    device_array<uint32_t> da(a), db(b), dd(d);
    probe_mma(type, da.p, db.p, dd.p);
    const words got = dd.host();
    std::vector<expected> all;
    for (size_t i = 0; i < 128; ++i) all.push_back({i, i == 5 * 4 + 3 ? sixteen : 0});
    return check(got, all);
}

/* All of A and B, placed by the manual's formulas; small integers, so that every order of sums gives the same. */
template <class Encode, class Decode> std::string test_mma_full(probe_mma_type type, bool whole_numbers, Encode encode, Decode decode)
{
    const int bits = type == PROBE_BF16 || type == PROBE_F16 ? 16 : 8, per = 32 / bits, k_size = 256 / bits;
    int A[16][32], B[32][8];
    words a(128), b(64), d(128);
    for (int i = 0; i < 16; ++i)
        for (int k = 0; k < k_size; ++k) {
            A[i][k] = (type == PROBE_U8S8 ? 200 : 0) + int(test_uniform() * 8);
            const int reg = (i >= 8) + 2 * (k >= k_size / 2), lane = i % 8 * 4 + k % (k_size / 2) / per;
            a[lane * 4 + reg] |= (encode(A[i][k]) & ((1ull << bits) - 1)) << (bits * (k % per));
        }
    for (int k = 0; k < k_size; ++k)
        for (int n = 0; n < 8; ++n) {
            B[k][n] = int(test_uniform() * 8);
            const int reg = k >= k_size / 2, lane = n * 4 + k % (k_size / 2) / per;
            b[lane * 2 + reg] |= (encode(B[k][n]) & ((1ull << bits) - 1)) << (bits * (k % per));
        }
    device_array<uint32_t> da(a), db(b), dd(d);
    probe_mma(type, da.p, db.p, dd.p);
    const words got = dd.host();
    if (!sim::last_report().empty()) return sim::last_report();
    for (int i = 0; i < 16; ++i)
        for (int n = 0; n < 8; ++n) {
            int want = 0;
            for (int k = 0; k < k_size; ++k) want += A[i][k] * B[k][n];
            const uint32_t w = got[(i % 8 * 4 + n / 2) * 4 + (i >= 8) * 2 + n % 2];
            if ((whole_numbers ? double(int32_t(w)) : double(decode(w))) != want)
                return "wrong product at " + std::to_string(i) + "," + std::to_string(n);
        }
    return "";
}
float as_float(uint32_t w) { return __uint_as_float(w); }
uint64_t small_e4m3(int v) { return __nv_cvt_float_to_fp8(float(v), __NV_SATFINITE, __NV_E4M3); }

std::string test_mma_bf16_full()
{
    return test_mma_full(
        PROBE_BF16, false, [](int v) { return uint64_t(sim::bf16_from_f32(float(v))); }, as_float);
}
std::string test_mma_f16_full() { return test_mma_full(PROBE_F16, false, [](int v) { return uint64_t(sim::f16_from_f64(v)); }, as_float); }
std::string test_mma_s8_full() { return test_mma_full(PROBE_S8, true, [](int v) { return uint64_t(v); }, as_float); }
std::string test_mma_u8s8_full() { return test_mma_full(PROBE_U8S8, true, [](int v) { return uint64_t(v); }, as_float); }
std::string test_mma_e4m3_full() { return test_mma_full(PROBE_E4M3, false, small_e4m3, as_float); }

/* Element j of row r of the tiles is 8r + j. Lane 13 is g = 3, t = 1: of tile 2 it gets row 19, elements 2 and 3; transposed rows 18 and
 * 19, element 3. */
std::string test_ldmatrix()
{
    device_array<uint32_t> r(128);
    probe_ldmatrix(4, false, r.p);
    std::string why =
        check(r.host(), {{13 * 4 + 2, 155u << 16 | 154}, {0, 1u << 16 | 0}, {31 * 4 + 3, 255u << 16 | 254}, {4 + 1, 67u << 16 | 66}});
    if (!why.empty()) return "x4: " + why;
    probe_ldmatrix(4, true, r.p);
    why = check(r.host(), {{13 * 4 + 2, 155u << 16 | 147}, {0, 8u << 16 | 0}, {31 * 4 + 3, 255u << 16 | 247}, {4 + 1, 88u << 16 | 80}});
    if (!why.empty()) return "x4.trans: " + why;
    probe_ldmatrix(2, false, r.p);
    why = check(r.host(), {{13 * 4 + 1, 91u << 16 | 90}});
    if (!why.empty()) return "x2: " + why;
    probe_ldmatrix(2, true, r.p);
    why = check(r.host(), {{13 * 4 + 1, 91u << 16 | 83}});
    if (!why.empty()) return "x2.trans: " + why;
    probe_ldmatrix(1, false, r.p);
    return check(r.host(), {{13 * 4, 27u << 16 | 26}});
}

std::string test_cp_async()
{
    std::vector<unsigned char> src(256), want(96);
    for (int i = 0; i < 256; ++i) src[size_t(i)] = (unsigned char)(i + 1);
    for (size_t i = 0; i < 96; ++i) want[i] = src[i];
    for (size_t i = 21; i < 48; ++i) want[i] = 0; /* five of 16, none of 16 */
    want[63] = 0;                                 /* three of 4 */
    device_array<unsigned char> ds(src), dd(256);
    probe_cp_async(ds.p, dd.p);
    const auto got = dd.host();
    if (!sim::last_report().empty()) return sim::last_report();
    for (size_t i = 0; i < 96; ++i)
        if (got[i] != want[i]) return "byte " + std::to_string(i) + " is " + std::to_string(got[i]);
    return "";
}

/* v[l] = 100 + l. */
std::string test_shuffle()
{
    words v(32);
    for (uint32_t l = 0; l < 32; ++l) v[l] = 100 + l;
    device_array<uint32_t> dv(v), out(256);
    probe_shuffle(dv.p, out.p);
    return check(out.host(), {
                                 {0, 105}, {31, 105},                                         /* all read lane 5 */
                                 {32 + 0, 103}, {32 + 9, 111}, {32 + 31, 127},                /* lane 3 of their eight */
                                 {64 + 2, 102}, {64 + 3, 100}, {64 + 18, 118}, {64 + 20, 117}, /* up: below the segment's start stays */
                                 {96 + 12, 115}, {96 + 13, 113}, {96 + 16, 119}, {96 + 31, 131},
                                 {128 + 0, 117}, {128 + 30, 115},                              /* xor 17 */
                                 {160 + 6, 107}, {192 + 6, 107}, {192 + 31, 131},              /* 8 bytes, 2 bytes */
                                 {224 + 7, 102}, {224 + 25, 118},
                             });
}

/* v[l] = l % 8. */
std::string test_vote()
{
    std::vector<int32_t> v(32);
    for (int l = 0; l < 32; ++l) v[size_t(l)] = l % 8;
    device_array<int32_t> dv(v);
    device_array<uint32_t> out(384);
    probe_vote(dv.p, out.p);
    return check(out.host(), {
                                 {3, 0xe0e0e0e0u}, {32 + 9, 3}, {64 + 10, 0x04040404u}, {96 + 1, 0}, {128 + 1, 0},
                                 {160 + 4, uint32_t(-16)}, /* 4 * (-4 - 3 - 2 - 1 + 0 + 1 + 2 + 3) */
                                 {192 + 4, uint32_t(-4)}, {224, uint32_t(-1)}, {256, 0}, {288 + 7, 8}, {320, 0xff}, {352, 8},
                             });
}

struct conversion {
    float lo, hi;
    uint32_t bf16x2, f16x2, e4m3x2;
};
/* Ties go to even, too large becomes infinity or, in e4m3, 448; 2^-24 is the least fp16, 2^-9 the least e4m3. */
const conversion conversions[] = {
    {1.0f, -2.0f, 0xc0003f80u, 0xc0003c00u, 0xc038},
    {1.0f + 0x1p-8f, 1.0f + 0x3p-8f, 0x3f823f80u, 0x3c0c3c04u, 0x3838},
    {65504.0f, 65520.0f, 0x47804780u, 0x7c007bffu, 0x7e7e},
    {2049.0f, 2051.0f, 0x45004500u, 0x68026800u, 0x7e7e},
    {0x1p-24f, 0x1p-25f, 0x33003380u, 0x00000001u, 0x0000},
    {0x1p-9f, 0x1p-10f, 0x3a803b00u, 0x14001800u, 0x0001},
    {17.0f, 19.0f, 0x41984188u, 0x4cc04c40u, 0x5a58},
    {-0.0f, 464.0f, 0x43e88000u, 0x5f408000u, 0x7e80},
    {0x3p-11f, 0x1.8p-24f, 0x33c03ac0u, 0x00021600u, 0x0001},
};
std::string test_convert()
{
    for (const conversion &c : conversions) {
        device_array<float> in(std::vector<float>{c.lo, c.hi});
        device_array<uint32_t> out(3);
        probe_convert(in.p, out.p);
        const std::string why = check(out.host(), {{0, c.bf16x2}, {1, c.f16x2}, {2, c.e4m3x2}});
        if (!why.empty()) return std::to_string(c.lo) + ", " + std::to_string(c.hi) + ": " + why;
    }
    return "";
}

/* Every e4m3 number but NaN, in each of the four places. */
std::string test_e4m3()
{
    for (uint32_t b = 0; b < 256; ++b)
        for (int at = 0; at < 4 && (b & 0x7f) != 0x7f; ++at) {
            float f[4];
            e4m3x4_to_f32(b << 8 * at | 0x38u << 8 * ((at + 1) % 4), f); /* and a 1 beside it */
            for (int i = 0; i < 4; ++i) {
                const float want = (i == at ? sim::fp8_values[0][b] : i == (at + 1) % 4 ? 1.0f : 0.0f) * E4M3_UNIT;
                if (__float_as_uint(f[i]) != __float_as_uint(want)) return "e4m3 " + std::to_string(b) + " in place " + std::to_string(at);
            }
        }
    return "";
}

/* lop3 by the manual's own immediates: 0x80 a&b&c, 0xfe a|b|c, 0x40 a&b&~c, 0x1a (a&b|c)^a. dp4a: 127*4 + 1*3 + -1*2 + -128*-128 + 1000. */
std::string test_scalar()
{
    const uint32_t a = 0x76543210u, b = 0xfedcba98u, c = 0x0ff0a55au;
    device_array<uint32_t> out(16);
    probe_scalar(out.p);
    return check(out.host(), {
                                 {0, a & b & c},
                                 {1, a | b | c},
                                 {2, a & b & ~c},
                                 {3, ((a & b) | c) ^ a},
                                 {4, 0xba329810u},
                                 {5, 0xfeff0076u},
                                 {6, 508 + 3 - 2 + 16384 + 1000},
                                 {7, 0xdcba9876u},
                                 {8, 0x98765432u},
                                 {9, 0xa0000001u},
                                 {10, 817},
                                 {11, 20},
                                 {12, 0xfffffffeu},
                                 {13, 24},
                                 {14, uint32_t(-2)},
                                 {15, 0x3f800000u},
                             });
}

std::string test_approx()
{
    std::vector<float> in(32);
    std::vector<double> want(96);
    for (size_t i = 0; i < 32; ++i) {
        in[i] = (float(i) - 15.5f) / 4;
        want[i] = std::exp2(double(in[i])), want[32 + i] = std::tanh(double(in[i])), want[64 + i] = 1 / double(in[i]);
    }
    device_array<float> di(in), out(96);
    probe_approx(di.p, out.p);
    return compare(cudaSuccess, out.host(), want, 0x1p-10);
}

std::string test_vector()
{
    device_array<uint32_t> in(words{1, 2, 3, 4, 5, 6, 7, 8}), out(8);
    probe_vector(reinterpret_cast<uint4 *>(in.p), reinterpret_cast<uint4 *>(out.p));
    return check(out.host(), {{0, 1}, {3, 4}, {4, 5}, {7, 8}});
}

std::string test_atomic()
{
    const words cells{10, 3, uint32_t(-9), 4, 10, 10, 10, 12, 10, 10, 10, 0};
    const words want{15, uint32_t(-2), uint32_t(-7), uint32_t(-7), 77, 88, 10, 4, 15, 9, 0, 9};
    device_array<uint32_t> dc(cells), old(12);
    probe_atomic(dc.p, old.p);
    std::vector<expected> was, is;
    for (size_t i = 0; i < 12; ++i) was.push_back({i, cells[i]}), is.push_back({i, want[i]});
    const std::string why = check(old.host(), was);
    if (!why.empty()) return "old values: " + why;
    const std::string now = check(dc.host(), is);
    if (!now.empty()) return now;
    device_array<float> sum(std::vector<float>{0.5f});
    probe_atomic_float(sum.p);
    return compare(cudaSuccess, sum.host(), {2080.5}, 0);
}

std::string test_barriers()
{
    device_array<int> out(8);
    cudaMemset(out.p, 0, 32);
    probe_barrier(out.p);
    return compare(cudaSuccess, out.host(), {40, 1, 0, 1, 0}, 0);
}

std::string test_named_barriers()
{
    std::vector<double> want(64);
    for (int l = 0; l < 32; ++l) want[size_t(l)] = l * 10 + 3, want[size_t(32 + l)] = l * 10 + 2;
    device_array<int> out(64);
    probe_named_barriers(out.p);
    return compare(cudaSuccess, out.host(), want, 0);
}

std::string test_producer()
{
    std::vector<double> want(32);
    for (int l = 0; l < 32; ++l) want[size_t(l)] = 600 + 4 * (31 - l);
    device_array<int> out(32);
    probe_producer(out.p);
    return compare(cudaSuccess, out.host(), want, 0);
}

/* Every 16-bit value and every fp8 value survives a round trip; sums round once. */
std::string test_types()
{
    for (uint32_t u = 0; u < 65536; ++u) {
        const float b = sim::bf16_to_f32(uint16_t(u)), h = sim::f16_to_f32(uint16_t(u));
        if (!std::isnan(b) && sim::bf16_from_f32(b) != u) return "bf16 " + std::to_string(u);
        if (!std::isnan(h) && sim::f16_from_f64(h) != u) return "f16 " + std::to_string(u);
        if (!std::isnan(b) && sim::bf16_from_f64(b) != u) return "bf16 from double " + std::to_string(u);
    }
    if (sim::f16_to_f32(0x7bff) != 65504 || sim::f16_to_f32(1) != 0x1p-24f || sim::f16_to_f32(0x3555) != 0.333251953125f)
        return "f16 values";
    for (int k = 0; k < 2; ++k)
        for (int u = 0; u < 256; ++u) {
            const float f = sim::fp8_values[k][u];
            if (!std::isnan(f) && sim::fp8_from_f64(f, k == 1, false) != u) return "fp8 " + std::to_string(u);
        }
    const float *e4 = sim::fp8_values[0], *e5 = sim::fp8_values[1];
    if (e4[0x7e] != 448 || e4[0x01] != 0x1p-9f || e4[0x38] != 1 || !std::isnan(e4[0x7f])) return "e4m3 values";
    if (e5[0x7b] != 57344 || e5[0x01] != 0x1p-16f || e5[0x3c] != 1 || !std::isinf(e5[0x7c]) || !std::isnan(e5[0x7d])) return "e5m2 values";
    if (sim::fp8_from_f64(500, false, false) != 0x7f || sim::fp8_from_f64(1e9, true, false) != 0x7c ||
        sim::fp8_from_f64(-1e9, true, true) != 0xfb)
        return "fp8 overflow";
    /* 1 + 2^-9 squared is 1 + 2^-8 + 2^-18: a tie in bf16 but for the last term, which a first rounding to float keeps and one to bf16
     * would not. */
    if (sim::bf16_from_f64(sim::fma_odd(1.0, 1.0, 0x1p-8 + 0x1p-60)) != 0x3f81) return "fma rounds twice";
    /* (1 + 2^-10)^2 + 1 + 2^-10 lies 2^-20 above a tie of fp16. */
    device_array<unsigned short> in(std::vector<unsigned short>{0x3f81, 0xc000, 0x3c01, 0x4200});
    device_array<float> out(4);
    probe_types(in.p, out.p);
    return compare(cudaSuccess, out.host(), {2.015625, 4, 2.00390625, 0}, 0);
}

const test_case cases[] = {
    {"mma_bf16_one_product", [] { return test_mma_one_product(PROBE_BF16, 0x4000, 0x4040, 0x41200000, 0x41800000); }},
    {"mma_f16_one_product", [] { return test_mma_one_product(PROBE_F16, 0x4000, 0x4200, 0x41200000, 0x41800000); }},
    {"mma_s8_one_product", [] { return test_mma_one_product(PROBE_S8, 0xfe, 0xfd, 10, 16); }},
    {"mma_u8s8_one_product", [] { return test_mma_one_product(PROBE_U8S8, 0xfe, 0xfd, 10, uint32_t(10 - 254 * 3)); }},
    {"mma_e4m3_one_product", [] { return test_mma_one_product(PROBE_E4M3, 0x40, 0x44, 0x41200000, 0x41800000); }},
    {"mma_bf16_full", test_mma_bf16_full},
    {"mma_f16_full", test_mma_f16_full},
    {"mma_s8_full", test_mma_s8_full},
    {"mma_u8s8_full", test_mma_u8s8_full},
    {"mma_e4m3_full", test_mma_e4m3_full},
    {"ldmatrix", test_ldmatrix},
    {"cp_async", test_cp_async},
    {"shuffle", test_shuffle},
    {"vote_match_reduce", test_vote},
    {"cvt", test_convert},
    {"e4m3", test_e4m3},
    {"lop3_prmt_dp4a", test_scalar},
    {"ex2_tanh_rcp", test_approx},
    {"load16_store16", test_vector},
    {"atomics", test_atomic},
    {"barriers", test_barriers},
    {"named_barriers", test_named_barriers},
    {"bar_arrive", test_producer},
    {"types", test_types},
};

} // namespace

int main(int argc, char **argv) { return run_cases(cases, argc, argv); }
