/* bench_cuda: the operations of the CUDA backend one by one, beside what the card can do: copies, reads, products on the tensor cores.
 *
 *     bench_cuda [--tiny] [--repeat N] [--only peak|linear|attention|vision|other] [--seconds N] [--json FILE]
 *
 * Every row states its bytes and FLOPs where it is made; of_bound is the larger of bytes / read rate and FLOPs / product rate, both measured here,
 * over the median of the repetitions. Before each repetition L2 is overwritten, which also keeps the card busy while the host queues the launches;
 * times are of events about the operation's launches. An event pair about nothing (row "empty") is in every time.
 *
 * Weights are noise; caches and activations are zeros: values do not change what is read, but busier bits draw more power. Compiled by nvcc, and for
 * the simulator by g++: its times mean nothing, the rest of the program runs alike. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/cuda/cuda.cuh"

extern "C" const struct ops *spillway_cuda_ops(unsigned version);
#ifdef HAVE_CUBLASLT
double cublas_tflop_per_s(size_t m, size_t n, size_t k, cudaStream_t stream); /* cublas_peak.cpp */
#endif

namespace {

struct text_shape {
    const char *name;
    size_t hidden, inter, heads, kv_heads, head_dim, vocab;
};
const text_shape real_shapes[] = {{"135m", 576, 1536, 9, 3, 64, 49152},
                                  {"360m", 960, 2560, 15, 5, 64, 49152},
                                  {"1.7b", 2048, 8192, 32, 32, 64, 49152},
                                  {"3b", 2048, 11008, 16, 4, 128, 128256}};
const text_shape tiny_shapes[] = {{"tiny", 192, 320, 3, 1, 64, 515}};

struct vision_shape {
    const char *name;
    size_t dim, inter, heads, head_dim, grid, patch, scale, hidden;
};
const vision_shape real_vision[] = {{"siglip-b", 768, 3072, 12, 64, 32, 16, 4, 576}, {"so400m", 1152, 4304, 16, 72, 27, 14, 3, 2048}};
const vision_shape tiny_vision[] = {{"vision-tiny", 144, 296, 2, 72, 4, 16, 2, 128}};

struct settings {
    bool tiny = false;
    int repeat = 15;
    std::string only;
    double seconds = INFINITY;
    FILE *json = nullptr;
} opt;

double read_rate, bf16_rate, int8_rate; /* bytes and operations a second, measured */
const struct ops *ops;
double began;

double now_s()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + double(t.tv_nsec) / 1e9;
}

void cuda_ok(cudaError_t rc, const char *what)
{
    if (rc == cudaSuccess) return;
    fprintf(stderr, "bench_cuda: %s: %s\n", what, cudaGetErrorString(rc));
    exit(2);
}
#define CUDA(call) cuda_ok((call), #call)

void must(int rc, const struct err *e)
{
    if (rc == 0) return;
    fprintf(stderr, "bench_cuda: %s\n", e->msg);
    exit(2);
}
#define OK(call)                                                                                                                           \
    do {                                                                                                                                   \
        struct err e = {};                                                                                                                 \
        must((call), &e);                                                                                                                  \
    } while (0)

/* --- measuring --- */

/* What is written before each repetition: twice the L2. */
struct flusher {
    void *at = nullptr;
    size_t bytes = 0;
} flush;

template <class F> double median_us(cudaStream_t stream, F operation)
{
    const int n = opt.repeat;
    std::vector<cudaEvent_t> from(n), to(n);
    std::vector<double> us(n);
    operation(); /* not counted: code is loaded, shared memory allowed */
    for (int i = 0; i < n; i++) {
        CUDA(cudaEventCreate(&from[i]));
        CUDA(cudaEventCreate(&to[i]));
        CUDA(cudaMemsetAsync(flush.at, i, flush.bytes, stream));
        CUDA(cudaEventRecord(from[i], stream));
        operation();
        CUDA(cudaEventRecord(to[i], stream));
    }
    CUDA(cudaStreamSynchronize(stream));
    for (int i = 0; i < n; i++) {
        float ms = 0;
        CUDA(cudaEventElapsedTime(&ms, from[i], to[i]));
        us[i] = std::max(double(ms) * 1e3, 1e-3); /* the simulator's may be 0 */
        CUDA(cudaEventDestroy(from[i]));
        CUDA(cudaEventDestroy(to[i]));
    }
    std::nth_element(us.begin(), us.begin() + n / 2, us.end());
    return us[n / 2];
}

struct cost {
    double bytes, flops;
    bool int8; /* of the FLOPs' operands; fp8 is held against that rate, too: from sm_89 on the cards have one for both */
};

void report(const std::string &what, double us, cost c)
{
    const double s = us * 1e-6, bound = std::max(c.bytes / read_rate, c.flops / (c.int8 ? int8_rate : bf16_rate));
    printf("%-52s %10.2f us %9.1f GB/s %9.2f TFLOP/s %6.1f %%\n", what.c_str(), us, c.bytes / s / 1e9, c.flops / s / 1e12, 100 * bound / s);
    fflush(stdout);
    if (!opt.json) return;
    fprintf(opt.json,
            "{\"part\": \"bench\", \"kernel\": \"%s\", \"us\": %.3f, \"bytes\": %.0f, \"flops\": %.0f, \"gb_per_s\": %.2f, \"tflop_per_s\": %.3f, "
            "\"of_bound\": %.4f}\n",
            what.c_str(), us, c.bytes, c.flops, c.bytes / s / 1e9, c.flops / s / 1e12, bound / s);
    fflush(opt.json);
}

bool late()
{
    return now_s() - began > opt.seconds;
}

/* --- what the card can do --- */

__global__ void __launch_bounds__(512) read_kernel(const uint4 *from, size_t n, uint32_t *out)
{
    const size_t threads = size_t(gridDim.x) * 512;
    uint32_t all = 0;
    size_t i = size_t(blockIdx.x) * 512 + threadIdx.x;
    for (; i + 3 * threads < n; i += 4 * threads) {
        uint4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) v[j] = ld_global_nc_16(from + i + j * threads);
#pragma unroll
        for (int j = 0; j < 4; j++) all ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    if (all == 0x12345678u) *out = all; /* so that nothing is left out */
}

constexpr int PEAK_WARPS = 8, PEAK_SUMS = 8, PEAK_FLOPS = 2 * 16 * 8 * 16; /* of one mma; int8: twice as many */

__global__ void __launch_bounds__(PEAK_WARPS * 32) mma_bf16_kernel(int rounds, float *out)
{
    float sum[PEAK_SUMS][4] = {};
    const uint32_t a[4] = {0x3f803f80u + threadIdx.x, 0x3e803e80u, 0x3f003f00u, 0xbf80bf80u}, b[2] = {0x3f803e80u, 0xbf003f80u + threadIdx.x};
    for (int r = 0; r < rounds; r++)
#pragma unroll
        for (int i = 0; i < PEAK_SUMS; i++) mma_m16n8k16_bf16(sum[i], a, b);
    float all = 0;
#pragma unroll
    for (int i = 0; i < PEAK_SUMS; i++) all += sum[i][0] + sum[i][1] + sum[i][2] + sum[i][3];
    if (all == 1.25f) *out = all;
}

__global__ void __launch_bounds__(PEAK_WARPS * 32) mma_int8_kernel(int rounds, float *out)
{
    int32_t sum[PEAK_SUMS][4] = {};
    const uint32_t a[4] = {0x01020304u + threadIdx.x, 0xff01ff02u, 0x7f017f01u, 0x01010101u}, b[2] = {0x02ff0103u, 0x01fe0201u + threadIdx.x};
    for (int r = 0; r < rounds; r++)
#pragma unroll
        for (int i = 0; i < PEAK_SUMS; i++) mma_m16n8k32_s8(sum[i], a, b);
    int32_t all = 0;
#pragma unroll
    for (int i = 0; i < PEAK_SUMS; i++) all += sum[i][0] + sum[i][1] + sum[i][2] + sum[i][3];
    if (all == 12345) *out = float(all);
}

__global__ void empty_kernel(int) {}

void bench_peaks(int n_sm, cudaStream_t stream)
{
    const size_t bytes = opt.tiny ? size_t(1) << 18 : size_t(1) << 30;
    const int rounds = opt.tiny ? 2 : 4096, blocks = opt.tiny ? 2 : n_sm * 4;
    unsigned char *a, *b;
    CUDA(cudaMalloc(&a, bytes));
    CUDA(cudaMalloc(&b, bytes));
    CUDA(cudaMemset(a, 1, bytes));
    CUDA(cudaMemset(b, 2, bytes));
    const double flops = double(rounds) * blocks * PEAK_WARPS * PEAK_SUMS * PEAK_FLOPS;
    const double copy = median_us(stream, [&] { CUDA(cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice, stream)); });
    const double read = median_us(stream, [&] {
        LAUNCH(read_kernel, dim3(opt.tiny ? 2 : n_sm * 4), dim3(512), 0, stream, reinterpret_cast<const uint4 *>(a), bytes / 16,
               reinterpret_cast<uint32_t *>(b));
        CUDA(cudaGetLastError());
    });
    const double bf16_us = median_us(stream, [&] {
        LAUNCH(mma_bf16_kernel, dim3(blocks), dim3(PEAK_WARPS * 32), 0, stream, rounds, reinterpret_cast<float *>(b));
        CUDA(cudaGetLastError());
    });
    const double int8_us = median_us(stream, [&] {
        LAUNCH(mma_int8_kernel, dim3(blocks), dim3(PEAK_WARPS * 32), 0, stream, rounds, reinterpret_cast<float *>(b));
        CUDA(cudaGetLastError());
    });
    const double empty = median_us(stream, [&] { LAUNCH(empty_kernel, dim3(1), dim3(32), 0, stream, 0); });
    read_rate = std::max(double(bytes) / read, 2.0 * double(bytes) / copy) * 1e6; /* whichever way gets more out of the memory */
    bf16_rate = flops / bf16_us * 1e6, int8_rate = 2 * flops / int8_us * 1e6;
    report("peak: copy of 1 GiB, read and written", copy, {2.0 * double(bytes), 0, false});
    report("peak: read of 1 GiB", read, {double(bytes), 0, false});
    report("peak: mma.sync bf16", bf16_us, {0, flops, false});
    report("peak: mma.sync int8", int8_us, {0, 2 * flops, true});
    report("empty launch", empty, {0, 0, false});
#ifdef HAVE_CUBLASLT
    const double lt = cublas_tflop_per_s(8192, 8192, 8192, stream);
    if (lt > 0) {
        report("peak: cuBLASLt bf16 8192 x 8192 x 8192", 2.0 * 8192 * 8192 * 8192 / lt / 1e6, {0, 2.0 * 8192 * 8192 * 8192, false});
        bf16_rate = std::max(bf16_rate, lt * 1e12); /* wgmma, where the card has it: the bound a product is held against */
    }
#endif
    CUDA(cudaFree(a));
    CUDA(cudaFree(b));
}

/* --- a device with what operations need --- */

/* Noise as bf16, enough for the largest matrix; the same bytes again and again. */
std::vector<uint16_t> noise;
struct weight_part part_of(size_t rows, size_t cols)
{
    const size_t have = noise.size();
    if (have < rows * cols) {
        noise.resize(rows * cols);
        uint32_t state = 1;
        for (size_t i = have; i < noise.size(); i++) {
            state = state * 1664525u + 1013904223u;
            noise[i] = i < (1u << 20) ? uint16_t((state >> 16 & 0x80ff) | 0x3d00) : noise[i - (1u << 20)]; /* +-0.03 to 0.12 */
        }
    }
    weight_part p = {};
    p.data = noise.data(), p.dtype = DTYPE_BF16, p.rows = rows;
    return p;
}

/* fast: as --decode fast, with cuBLASLt where it is. */
struct device *device_open(const struct device_limits &l, bool fast = false)
{
    struct device *d = nullptr;
    struct device_options o = {};
    o.compute = COMPUTE_BF16, o.fast = fast;
    OK(ops->open(&d, &o, &e));
    OK(ops->reserve(d, &l, &e));
    CUDA(cudaMemset(d->qkv, 0, l.max_rows * (l.heads + 2 * l.kv_heads) * l.head_dim * sizeof(float)));
    CUDA(cudaMemset(d->operand, 0, l.max_rows * cuda_round_up(l.hidden, CUDA_K_PAD) * sizeof(bf16)));
    return d;
}

void *zeros(struct device *d, size_t bytes)
{
    void *p;
    OK(ops->alloc(d, bytes, &p, &e));
    return p;
}

/* head_dim: of PACK_QKV. */
struct weight *pack(struct device *d, enum pack_kind kind, size_t rows, size_t cols, const struct quant_format *q, size_t head_dim = 0)
{
    struct weight *w;
    const size_t n_parts = kind == PACK_GATE_UP ? 2 : 1;
    struct weight_part parts[2] = {part_of(rows, cols), part_of(rows, cols)};
    parts[0].head_dim = head_dim;
    OK(ops->weight_pack(d, kind, parts, n_parts, cols, q, &w, &e));
    return w;
}

/* `rows` decode rows, a sequence each, or one sequence's prompt; the last position of each is `positions` - 1. Sequences lie one after another. */
void plan(struct device *d, size_t rows, size_t positions, bool prefill, const struct rope &rope, size_t head_dim)
{
    const size_t n_sequences = prefill ? 1 : rows, each = (positions + CUDA_KV_BLOCK - 1) / CUDA_KV_BLOCK;
    std::vector<int32_t> position(rows);
    std::vector<uint32_t> sequence(rows), blocks(n_sequences * each);
    std::vector<char> role(rows, prefill);
    std::vector<const uint32_t *> tables(n_sequences);
    for (size_t i = 0; i < blocks.size(); i++) blocks[i] = uint32_t(i);
    for (size_t s = 0; s < n_sequences; s++) tables[s] = blocks.data() + s * each;
    for (size_t r = 0; r < rows; r++) {
        position[r] = int32_t(prefill ? positions - rows + r : positions - 1);
        sequence[r] = uint32_t(prefill ? 0 : r);
    }
    static_assert(sizeof(bool) == 1, "roles");
    const bool *roles = reinterpret_cast<const bool *>(role.data());
    const struct step_plan p = {rows, position.data(), sequence.data(), roles, n_sequences, tables.data(), 0, nullptr};
    OK(ops->plan(d, &p, &rope, head_dim, &e));
    OK(ops->sync(d, &e));
}

/* --- the products of a text layer --- */

struct form {
    const char *name;
    const struct quant_format *quant;
    double bits; /* of a weight, its share of the scales included */
};
const form forms[] = {{"bf16", nullptr, 16}, {"int8", &quant_int8, 8}, {"fp8", &quant_fp8, 8}, {"int4", &quant_int4, 4.5}};

struct layer {
    const text_shape &s;
    struct device *d;
    void *x, *attended, *wide, *kv;
    float *norm, inv_freq[64];
    struct kv_layout kv_layout;
};

struct device_limits text_limits(const text_shape &s, size_t rows, size_t sequences, size_t blocks)
{
    struct device_limits l = {};
    l.max_rows = rows, l.max_sequences = sequences, l.max_blocks_per_sequence = blocks;
    l.hidden = s.hidden, l.heads = s.heads, l.kv_heads = s.kv_heads, l.head_dim = s.head_dim, l.inter = s.inter, l.vocab = s.vocab;
    return l;
}

/* The matrices of a layer by their operations: what each multiplies, and its outputs. */
enum product { QKV, O, GATE_UP, DOWN, PRODUCTS };
const char *const product_names[] = {"norm, qkv, rope, append", "o, residual", "norm, gate, up, silu", "down, residual"};

struct product_size {
    size_t n, k;
};
product_size size_of(const text_shape &s, product p)
{
    switch (p) {
    case QKV: return {(s.heads + 2 * s.kv_heads) * s.head_dim, s.hidden};
    case O: return {s.hidden, s.heads * s.head_dim};
    case GATE_UP: return {2 * s.inter, s.hidden};
    default: return {s.hidden, s.inter};
    }
}

void run_product(const layer &l, product p, const struct weight *w, size_t rows)
{
    const text_shape &s = l.s;
    const product_size z = size_of(s, p);
    struct qkv_args qkv = {};
    qkv.x = l.x, qkv.norm = l.norm, qkv.eps = 1e-5f, qkv.w = w, qkv.hidden = s.hidden, qkv.heads = s.heads, qkv.rope = {l.inv_freq, 1};
    qkv.kv = l.kv, qkv.layout = &l.kv_layout;
    struct project_args project = {};
    project.x = l.x, project.in = p == O ? l.attended : l.wide, project.w = w, project.rows = rows, project.n = z.n, project.k = z.k;
    const struct gate_up_args gate_up = {l.x, l.norm, 1e-5f, w, l.wide, s.hidden, s.inter};
    if (p == QKV) OK(ops->qkv(l.d, &qkv, &e));
    if (p == GATE_UP) OK(ops->gate_up(l.d, &gate_up, &e));
    if (p == O || p == DOWN) OK(ops->project(l.d, &project, &e));
}

/* Bytes: weights, and what each row has: x of float32 read (and written, where it is added to), operands of bf16; keys and values appended. */
cost cost_of(const text_shape &s, product p, size_t rows, const form &f)
{
    const product_size z = size_of(s, p);
    const double in = p == O || p == DOWN ? 2.0 * double(z.k) : 4.0 * double(z.k);
    const double qkv = 4.0 * double(s.heads * s.head_dim) + 4.0 * double(s.kv_heads * s.head_dim);
    const double out = p == GATE_UP ? 2.0 * double(s.inter) : p == QKV ? qkv : 8.0 * double(z.n);
    return {double(z.n * z.k) * f.bits / 8 + double(rows) * (in + out), 2.0 * double(rows) * double(z.n * z.k), f.quant != nullptr};
}

layer layer_open(const text_shape &s, size_t rows, bool fast = false)
{
    struct device *d = device_open(text_limits(s, rows, rows, (rows + 127) / CUDA_KV_BLOCK), fast);
    layer l = {s, d, nullptr, nullptr, nullptr, nullptr, nullptr, {}, {}};
    const size_t wide = cuda_round_up(s.inter, CUDA_K_PAD), attended = cuda_round_up(s.heads * s.head_dim, CUDA_K_PAD);
    l.kv_layout = {1, s.kv_heads, s.head_dim, CUDA_KV_BLOCK, DTYPE_BF16};
    l.x = zeros(l.d, rows * s.hidden * sizeof(float));
    l.norm = static_cast<float *>(zeros(l.d, s.hidden * sizeof(float)));
    l.attended = zeros(l.d, rows * attended * sizeof(bf16)), l.wide = zeros(l.d, rows * wide * sizeof(bf16));
    l.kv = zeros(l.d, std::max(rows / CUDA_KV_BLOCK + 1, size_t(64)) * ops->kv_block_bytes(&l.kv_layout)); /* decode rows have a block each */
    return l;
}

void layer_close(const layer &l)
{
    for (void *p : {l.x, static_cast<void *>(l.norm), l.attended, l.wide, l.kv}) ops->free(l.d, p);
    ops->close(l.d);
}

void bench_layer(const text_shape &s)
{
    const std::vector<size_t> decode = opt.tiny ? std::vector<size_t>{1, 9} : std::vector<size_t>{1, 2, 4, 8, 16, 32, 64};
    const std::vector<size_t> prefill = opt.tiny ? std::vector<size_t>{65} : std::vector<size_t>{512, 2048};
    layer l = layer_open(s, prefill.back());
    for (size_t i = 0; i < s.head_dim / 2; i++) l.inv_freq[i] = powf(1e5f, -float(2 * i) / float(s.head_dim));
    const struct rope rope = {l.inv_freq, 1};
    for (int p = 0; p < PRODUCTS; p++)
        for (const form &f : forms) {
            const product_size z = size_of(s, product(p));
            struct weight *w = pack(l.d, p == GATE_UP ? PACK_GATE_UP : p == QKV ? PACK_QKV : PACK_LINEAR, p == GATE_UP ? s.inter : z.n, z.k, f.quant, s.head_dim);
            for (int role = 0; role < 2; role++)
                for (size_t rows : role ? prefill : decode) {
                    plan(l.d, rows, role ? rows : 1, role, rope, s.head_dim);
                    const double us = median_us(l.d->stream, [&] { run_product(l, product(p), w, rows); });
                    report(std::string(s.name) + (role ? " prefill " : " decode ") + std::to_string(rows) + ": " + product_names[p] + ", " + f.name, us,
                           cost_of(s, product(p), rows, f));
                }
            ops->weight_free(l.d, w);
        }
    layer_close(l);
}

bool has_cublaslt(const struct device *d, const std::string &name)
{
    if (d->lt) return true;
    printf("%s: nothing is compared with cuBLASLt: %s\n", name.c_str(), d->lt_state);
    return false;
}

/* Products of prompts by cuBLASLt, and those by own kernels that bench_layer has not: what the threshold of rows rests on. */
void bench_layer_fast(const text_shape &s)
{
    const std::vector<size_t> prefill = opt.tiny ? std::vector<size_t>{65} : std::vector<size_t>{65, 128, 512, 2048};
    layer l = layer_open(s, prefill.back(), true);
    for (size_t i = 0; i < s.head_dim / 2; i++) l.inv_freq[i] = powf(1e5f, -float(2 * i) / float(s.head_dim));
    const struct rope rope = {l.inv_freq, 1};
    for (int p = 0; p < PRODUCTS && has_cublaslt(l.d, s.name); p++) {
        const product_size z = size_of(s, product(p));
        struct cuda_lt *lt = l.d->lt;
        const enum pack_kind kind = p == GATE_UP ? PACK_GATE_UP : p == QKV ? PACK_QKV : PACK_LINEAR;
        struct weight *w = pack(l.d, kind, p == GATE_UP ? s.inter : z.n, z.k, nullptr, s.head_dim);
        for (size_t rows : prefill)
            for (bool own : {true, false}) {
                if (own && rows >= 512) continue;
                plan(l.d, rows, rows, true, rope, s.head_dim);
                l.d->lt = own ? nullptr : lt;
                const size_t before = l.d->lt_products;
                const double us = median_us(l.d->stream, [&] { run_product(l, product(p), w, rows); });
                l.d->lt = lt;
                if (!own && l.d->lt_products == before) continue; /* it has no algorithm for this */
                const std::string name = std::string(s.name) + " prefill " + std::to_string(rows) + ": " + product_names[p] + ", bf16";
                report(name + (own ? "" : ", cuBLASLt"), us, cost_of(s, product(p), rows, forms[0]));
            }
        ops->weight_free(l.d, w);
    }
    layer_close(l);
}

/* --- attention --- */

struct attention_scene {
    const text_shape &s;
    struct device *d;
    struct kv_layout layout;
    void *kv, *out;
};

attention_scene attention_open(const text_shape &s, size_t rows, size_t sequences, size_t positions, enum dtype dtype)
{
    const size_t blocks = (positions + CUDA_KV_BLOCK - 1) / CUDA_KV_BLOCK;
    attention_scene a = {s, device_open(text_limits(s, rows, sequences, blocks)), {1, s.kv_heads, s.head_dim, CUDA_KV_BLOCK, dtype}, nullptr, nullptr};
    a.kv = zeros(a.d, sequences * blocks * ops->kv_block_bytes(&a.layout));
    a.out = zeros(a.d, rows * cuda_round_up(s.heads * s.head_dim, CUDA_K_PAD) * sizeof(bf16));
    return a;
}

double attention_us(const attention_scene &a, size_t rows, size_t positions, bool prefill)
{
    const struct rope none = {nullptr, 1};
    const struct attention_args args = {a.out, a.s.heads, a.kv, &a.layout, 0};
    plan(a.d, rows, positions, prefill, none, a.s.head_dim);
    return median_us(a.d->stream, [&] { OK(ops->attention(a.d, &args, &e)); });
}

void attention_close(const attention_scene &a)
{
    ops->free(a.d, a.kv), ops->free(a.d, a.out);
    ops->close(a.d);
}

/* Bytes: the keys and values of all positions once, queries of float32 and results of bf16. FLOPs: 4 a position and number of a query. */
cost attention_cost(const attention_scene &a, double rows, double seen, double kv_positions)
{
    const double width = double(a.s.heads * a.s.head_dim), kv = double(ops->kv_block_bytes(&a.layout)) / CUDA_KV_BLOCK;
    return {kv_positions * kv + rows * width * 6, 4 * seen * width, false};
}

void bench_attention(const text_shape &s)
{
    const std::vector<size_t> contexts = opt.tiny ? std::vector<size_t>{300} : std::vector<size_t>{1024, 2048, 4096, 8192};
    const std::vector<size_t> batches = opt.tiny ? std::vector<size_t>{1, 3} : std::vector<size_t>{1, 4, 16, 64};
    const std::vector<size_t> prompts = opt.tiny ? std::vector<size_t>{100} : std::vector<size_t>{512, 1024, 2048, 4096, 8192};
    const std::string heads = std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " heads of " + std::to_string(s.head_dim);
    const std::string name = std::string(s.name) + " (" + heads + ")";
    for (enum dtype dtype : {DTYPE_BF16, DTYPE_I8, DTYPE_E4M3}) {
        const char *cache = dtype == DTYPE_I8 ? ", int8 cache" : dtype == DTYPE_E4M3 ? ", fp8 cache" : "";
        attention_scene a = attention_open(s, batches.back(), batches.back(), contexts.back(), dtype);
        for (size_t context : contexts)
            for (size_t batch : batches)
                report(name + " decode attention " + std::to_string(batch) + " x " + std::to_string(context) + cache, attention_us(a, batch, context, false),
                       attention_cost(a, double(batch), double(batch) * double(context), double(batch) * double(context)));
        attention_close(a);
    }
    attention_scene a = attention_open(s, prompts.back(), 1, prompts.back(), DTYPE_BF16);
    for (size_t n : prompts)
        report(name + " prefill attention " + std::to_string(n), attention_us(a, n, n, true),
               attention_cost(a, double(n), double(n) * (double(n) + 1) / 2, double(n)));
    attention_close(a);
}

/* --- vision --- */

struct device_limits vision_limits(const vision_shape &v)
{
    struct device_limits l = text_limits(real_shapes[0], 64, 1, 1);
    l.vision_rows = v.grid * v.grid, l.vision_dim = v.dim, l.vision_inter = v.inter, l.vision_head_dim = v.head_dim;
    l.connector_in = v.dim * v.scale * v.scale, l.patch_in = 3 * v.patch * v.patch, l.tile_bytes = 3 * v.grid * v.patch * v.grid * v.patch;
    return l;
}

/* fast: only what cuBLASLt does. */
void bench_vision(const vision_shape &v, bool fast)
{
    const size_t rows = v.grid * v.grid, wide = cuda_round_up(v.inter, CUDA_K_PAD);
    const double r = double(rows), dim = double(v.dim), inter = double(v.inter);
    struct device *d = device_open(vision_limits(v), fast);
    if (fast && !has_cublaslt(d, v.name)) return ops->close(d);
    CUDA(cudaMemset(d->vision_qkv, 0, rows * 3 * v.dim * sizeof(bf16)));
    void *x = zeros(d, rows * v.dim * 4), *out = zeros(d, rows * cuda_round_up(v.dim, CUDA_K_PAD) * 2), *up = zeros(d, rows * wide * 2);
    void *connected = zeros(d, rows * v.hidden * 4);
    float *vector = static_cast<float *>(zeros(d, 3 * (v.dim + v.inter) * 4));
    struct weight *qkv_w = pack(d, PACK_LINEAR, 3 * v.dim, v.dim, nullptr), *o_w = pack(d, PACK_LINEAR, v.dim, v.dim, nullptr);
    struct weight *up_w = pack(d, PACK_LINEAR, v.inter, v.dim, nullptr), *down_w = pack(d, PACK_LINEAR, v.dim, v.inter, nullptr);
    struct weight *connector_w = pack(d, PACK_LINEAR, v.hidden, v.dim * v.scale * v.scale, nullptr);
    const struct vision_qkv_args qkv = {x, vector, vector, 1e-6f, qkv_w, vector, rows, v.dim};
    const struct vision_attention_args attention = {out, 1, rows, v.heads, v.head_dim};
    const struct project_args o = {x, out, o_w, vector, rows, v.dim, v.dim, true, nullptr};
    const struct project_args down = {x, up, down_w, vector, rows, v.dim, v.inter, true, nullptr};
    const struct vision_up_args mlp = {x, vector, vector, 1e-6f, up_w, vector, up, rows, v.dim, v.inter};
    const struct connect_args connect = {x, vector, vector, 1e-6f, 1, v.grid, v.scale, v.dim, connector_w, connected, v.hidden};
    const std::string name = std::string(v.name) + " " + std::to_string(rows) + " positions: ";
    const auto row = [&](const std::string &what, auto operation, cost c) {
        const size_t before = d->lt_products;
        const double us = median_us(d->stream, operation);
        if (!fast || d->lt_products > before) report(name + what + (fast ? ", cuBLASLt" : ""), us, c);
    };
    /* Bytes: weights of bf16, x of float32 read or read and written, operands of bf16. */
    row("norm, qkv", [&] { OK(ops->vision_qkv(d, &qkv, &e)); }, {6 * dim * dim + r * dim * 10, 6 * r * dim * dim, false});
    row("attention, heads of " + std::to_string(v.head_dim), [&] { OK(ops->vision_attention(d, &attention, &e)); },
        {r * dim * 8, 4 * r * r * dim, false});
    row("o, residual", [&] { OK(ops->project(d, &o, &e)); }, {2 * dim * dim + r * dim * 10, 2 * r * dim * dim, false});
    row("norm, up, gelu", [&] { OK(ops->vision_up(d, &mlp, &e)); },
        {2 * dim * inter + r * (4 * dim + 2 * inter), 2 * r * dim * inter, false});
    row("down, residual", [&] { OK(ops->project(d, &down, &e)); },
        {2 * dim * inter + r * (8 * dim + 2 * inter), 2 * r * dim * inter, false});
    const double in = dim * double(v.scale * v.scale), cells = double((v.grid / v.scale) * (v.grid / v.scale));
    row("norm, shuffle, connector", [&] { OK(ops->connect(d, &connect, &e)); },
        {2 * in * double(v.hidden) + r * dim * 4 + cells * double(v.hidden) * 4, 2 * cells * in * double(v.hidden), false});
    for (struct weight *w : {qkv_w, o_w, up_w, down_w, connector_w}) ops->weight_free(d, w);
    for (void *p : {x, out, up, connected, static_cast<void *>(vector)}) ops->free(d, p);
    ops->close(d);
}

/* --- embedding, norm, head, sampling --- */

void bench_sampling(struct device *d, const text_shape &s, float *logits, const std::vector<size_t> &batches)
{
    for (size_t n : batches)
        for (int kind = 0; kind < 2; kind++) {
            std::vector<struct sample_row> rows(n);
            std::vector<struct sample_result> results(n);
            for (size_t i = 0; i < n; i++) {
                rows[i].logits = logits + i * s.vocab;
                rows[i].params.temperature = kind ? 0.8f : 0, rows[i].params.top_p = kind ? 0.95f : 1, rows[i].params.top_k = kind ? 50 : 0;
                rows[i].params.repetition_penalty = 1, rows[i].params.top_logprobs = -1, rows[i].position = uint32_t(i);
            }
            /* Bytes: the logits once. The host waits for the tokens in it. */
            report(std::string(s.name) + " sampling, " + (kind ? "top-k, top-p" : "greedy") + ", with its wait, " + std::to_string(n),
                   median_us(d->stream, [&] {
                       OK(ops->sample(d, rows.data(), n, s.vocab, results.data(), &e));
                       OK(ops->sampled(d, &e));
                   }), {double(n * s.vocab) * 4, 0, false});
        }
}

void bench_other(const text_shape &s)
{
    const std::vector<size_t> batches = opt.tiny ? std::vector<size_t>{1, 9} : std::vector<size_t>{1, 16, 64, 256};
    const size_t most = batches.back();
    struct device *d = device_open(text_limits(s, most, most, 1));
    void *x = zeros(d, most * s.hidden * sizeof(float));
    float *norm = static_cast<float *>(zeros(d, s.hidden * sizeof(float))), *logits = static_cast<float *>(zeros(d, most * s.vocab * sizeof(float)));
    std::vector<int32_t> token(most);
    std::vector<const void *> pictures(most, nullptr);
    std::vector<uint32_t> row(most);
    for (size_t i = 0; i < most; i++) token[i] = int32_t(i * 7919 % s.vocab), row[i] = uint32_t(i);
    const struct rope none = {nullptr, 1};
    for (const form &f : forms) {
        if (f.bits < 8) continue; /* heads are not int4 */
        struct weight *w = pack(d, PACK_LINEAR, s.vocab, s.hidden, f.quant);
        for (size_t n : batches) {
            const std::string end = std::string(", ") + f.name + ", " + std::to_string(n);
            const double rows = double(n), hidden = double(s.hidden), table = double(s.vocab) * hidden;
            const struct embed_args embed = {w, token.data(), pictures.data(), x, s.hidden};
            const struct head_args head = {x, row.data(), n, norm, 1e-5f, w, logits, s.hidden, s.vocab};
            struct cuda_rows out = {};
            plan(d, n, 1, false, none, s.head_dim);
            report(std::string(s.name) + " embed" + end, median_us(d->stream, [&] { OK(ops->embed(d, &embed, &e)); }),
                   {rows * hidden * (4 + f.bits / 8), 0, false});
            report(std::string(s.name) + " norm to operand" + end,
                   median_us(d->stream, [&] { OK(cuda_rmsnorm(d, static_cast<const float *>(x), nullptr, n, norm, 1e-5f, w, &out, &e)); }),
                   {rows * hidden * (f.quant ? 5 : 6), 0, false});
            report(std::string(s.name) + " norm, head" + end, median_us(d->stream, [&] { OK(ops->head(d, &head, &e)); }),
                   {table * f.bits / 8 + rows * (4 * hidden + 4 * double(s.vocab)), 2 * rows * table, f.quant != nullptr});
        }
        ops->weight_free(d, w);
    }
    bench_sampling(d, s, logits, batches);
    for (void *p : {x, static_cast<void *>(norm), static_cast<void *>(logits)}) ops->free(d, p);
    ops->close(d);
}

/* --- all --- */

bool wants(const char *part)
{
    if (late()) printf("left out: %s, for want of time\n", part);
    return !late() && (opt.only.empty() || opt.only == part);
}

void run_all()
{
    cudaStream_t stream;
    cudaDeviceProp p;
    CUDA(cudaGetDeviceProperties(&p, 0));
    CUDA(cudaStreamCreate(&stream));
    flush.bytes = opt.tiny ? 1 << 16 : std::max(size_t(2) * size_t(p.l2CacheSize), size_t(128) << 20);
    CUDA(cudaMalloc(&flush.at, flush.bytes));
    printf("%s, compute capability %d.%d, %d SMs, L2 %.0f MiB, %.1f GiB\n", p.name, p.major, p.minor, p.multiProcessorCount, p.l2CacheSize / 1048576.0,
           double(p.totalGlobalMem) / 1073741824.0);
    if (opt.json)
        fprintf(opt.json, "{\"part\": \"card\", \"name\": \"%s\", \"sms\": %d, \"l2_bytes\": %d}\n", p.name, p.multiProcessorCount, p.l2CacheSize);
    ops = spillway_cuda_ops(OPS_VERSION);
    bench_peaks(p.multiProcessorCount, stream); /* always: the others' bounds are made of it */
    const std::vector<text_shape> shapes = opt.tiny ? std::vector<text_shape>(std::begin(tiny_shapes), std::end(tiny_shapes))
                                                    : std::vector<text_shape>(std::begin(real_shapes), std::end(real_shapes));
    const std::vector<vision_shape> visions = opt.tiny ? std::vector<vision_shape>(std::begin(tiny_vision), std::end(tiny_vision))
                                                       : std::vector<vision_shape>(std::begin(real_vision), std::end(real_vision));
    for (const text_shape &s : shapes)
        if (wants("linear")) bench_layer(s), bench_layer_fast(s);
    for (const text_shape &s : shapes)
        if (wants("attention")) bench_attention(s);
    for (const vision_shape &v : visions)
        if (wants("vision")) bench_vision(v, false), bench_vision(v, true);
    for (const text_shape &s : shapes)
        if (wants("other")) bench_other(s);
    CUDA(cudaFree(flush.at));
    CUDA(cudaStreamDestroy(stream));
}

} // namespace

int main(int argc, char **argv)
{
    static const struct option options[] = {{"tiny", 0, nullptr, 't'}, {"repeat", 1, nullptr, 'r'}, {"only", 1, nullptr, 'o'},
                                            {"json", 1, nullptr, 'j'}, {"seconds", 1, nullptr, 'm'}, {nullptr, 0, nullptr, 0}};
    int c;
    began = now_s();
    while ((c = getopt_long(argc, argv, "", options, nullptr)) != -1) {
        if (c == 't') opt.tiny = true, opt.repeat = 1;
        if (c == 'r') opt.repeat = std::max(1, atoi(optarg));
        if (c == 'o') opt.only = optarg;
        if (c == 'm') opt.seconds = atof(optarg);
        if (c == 'j' && !(opt.json = fopen(optarg, "a"))) return fprintf(stderr, "bench_cuda: %s cannot be written\n", optarg), 2;
        if (c == '?') return 2;
    }
    run_all();
    if (opt.json) fclose(opt.json);
    return 0;
}
