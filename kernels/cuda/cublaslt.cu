/* Products of many rows of bf16 by cuBLASLt (cublaslt.h), on a device that was opened as fast and where the library is. It takes rows of
 * prompts and of tiles, never rows that decode. What it cannot do after a product is done by a kernel here, from float32 sums:
 *   silu_kernel  gate and up of a packed weight, 8 apart, to silu(gate) * up. So many rows at a time that their sums stay in L2.
 *   qkv_kernel   rotation and cache of queries, keys and values, in place in the device's own room for them.
 *   bias_kernel  a bias as bf16, once a weight: where the library stores bf16 it reads no other.
 * Which algorithm is used is the library's choice, by shape, and kept; it depends on how many rows there are, and so do a row's last bits:
 * hence never under --decode exact. Measured nowhere yet: bench_cuda has rows with and without it. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/linear.cuh"

namespace {

constexpr int THREADS = 256;
constexpr size_t WORKSPACE_BYTES = size_t(32) << 20;                  /* as NVIDIA advises for sm_90 */
constexpr size_t SUMS_BYTES = size_t(32) << 20, LEAST_SUM_ROWS = 128; /* of silu_kernel; sm_80 has 40 MB of L2, sm_90 50 */
constexpr size_t PLANS = 256;

/* What becomes of the sums, by the library; the other two kernels go on from float32. */
struct form {
    enum cuda_epilogue epilogue;
    int above; /* rows: up to so many our own kernels take */
    int out, plain, with_bias;
};
constexpr form forms[] = {
    {CUDA_STORE, 64, LT_F32, LT_EPILOGUE_NONE, LT_EPILOGUE_BIAS},       {CUDA_ADD, 64, LT_F32, LT_EPILOGUE_NONE, LT_EPILOGUE_BIAS},
    {CUDA_STORE_BF16, 64, LT_BF16, LT_EPILOGUE_NONE, LT_EPILOGUE_BIAS}, {CUDA_GELU, 64, LT_BF16, LT_EPILOGUE_GELU, LT_EPILOGUE_GELU_BIAS},
    {CUDA_SILU, 64, LT_F32, LT_EPILOGUE_NONE, LT_EPILOGUE_NONE},        {CUDA_QKV, 64, LT_F32, LT_EPILOGUE_NONE, LT_EPILOGUE_NONE},
};

const form *form_of(enum cuda_epilogue epilogue)
{
    for (const form &f : forms)
        if (f.epilogue == epilogue) return &f;
    return nullptr;
}

/* A product that has been seen. Of two with one place the later stays. */
struct kept {
    bool is, refused; /* refused: the library has no algorithm */
    struct lt_product of;
    struct lt_plan plan;
};
static_assert(sizeof(lt_product) == 6 * sizeof(size_t) + 2 * sizeof(int), "compared as bytes");

} // namespace

struct cuda_lt {
    struct lt_calls calls;
    void *handle, *workspace;
    float *sums;
    size_t sum_rows; /* of the widest gate and up */
    struct kept kept[PLANS];
};

namespace {

/* --- what the library cannot do --- */

__global__ void __launch_bounds__(THREADS) bias_kernel(const float *from, bf16 *to, int n)
{
    const int i = int(blockIdx.x) * THREADS + int(threadIdx.x);
    if (i < n) to[i] = __float2bfloat16_rn(from[i]);
}

struct silu_args {
    const float *sums;  /* (rows, n), as packed */
    bf16 *out;          /* (rows, ldo) */
    size_t eights, ldo; /* eights: of outputs, in all rows */
    int n;
};

/* Eight outputs a thread. Bytes: rows n (4 in, 1 out). */
__global__ void __launch_bounds__(THREADS) silu_kernel(const __grid_constant__ silu_args a)
{
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    const size_t i = size_t(blockIdx.x) * THREADS + threadIdx.x, a_row = size_t(a.n) / 16, row = i / a_row, at = i % a_row;
    if (i >= a.eights) return;
    const float *gate = a.sums + row * a.n + at * 16, *up = gate + 8;
    uint32_t two[4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint4 g = load16(gate + half * 4), u = load16(up + half * 4);
        two[half * 2] = cvt_bf16x2(silu(__uint_as_float(g.x)) * __uint_as_float(u.x), silu(__uint_as_float(g.y)) * __uint_as_float(u.y));
        two[half * 2 + 1] =
            cvt_bf16x2(silu(__uint_as_float(g.z)) * __uint_as_float(u.z), silu(__uint_as_float(g.w)) * __uint_as_float(u.w));
    }
    store16(a.out + row * a.ldo + at * 8, uint4{two[0], two[1], two[2], two[3]});
}

constexpr int MOST_PAIRS = 4; /* of a lane: heads of up to 256 */

/* A warp a head of a row: all of it is read before any of it is written. Grid (rows, heads over 8). */
__global__ void __launch_bounds__(THREADS) qkv_kernel(const __grid_constant__ linear_args a)
{
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    const int hd = int(a.place.kv.head_dim), row = blockIdx.x, head = int(blockIdx.y) * (THREADS / 32) + int(threadIdx.x) / 32,
              lane = threadIdx.x % 32;
    if (head * hd >= a.n) return;
    const float *from = static_cast<const float *>(a.out) + row * a.ldo + head * hd;
    float first[MOST_PAIRS], second[MOST_PAIRS];
#pragma unroll
    for (int j = 0; j < MOST_PAIRS; j++) {
        const int i = j * 32 + lane, o = i / 8 * 16 + i % 8;
        if (i < hd / 2) first[j] = from[o], second[j] = from[o + 8];
    }
    __syncwarp(); /* the head is read */
#pragma unroll
    for (int j = 0; j < MOST_PAIRS; j++) {
        const int i = j * 32 + lane, o = i / 8 * 16 + i % 8;
        if (i < hd / 2) linear_put_qkv(a, row, head * hd + o, first[j], second[j]);
    }
}

/* --- products --- */

/* Null: the library has no algorithm for it, *rc is LT_NOT_SUPPORTED; or something is wrong. */
const struct lt_plan *plan_of(struct cuda_lt *lt, const struct lt_product &p, int *rc)
{
    const size_t sizes[] = {p.rows, p.n, p.k, p.ldi, p.ldw, p.ldo, size_t(p.out), size_t(p.epilogue)};
    uint64_t hash = 0;
    for (size_t s : sizes) hash = (hash ^ s) * 0x9E3779B97F4A7C15u, hash ^= hash >> 32;
    struct kept *k = &lt->kept[hash % PLANS];
    *rc = LT_SUCCESS;
    if (!k->is || memcmp(&k->of, &p, sizeof p)) {
        lt_plan_close(&lt->calls, &k->plan);
        *rc = lt_plan_describe(&lt->calls, &p, &k->plan);
        if (!*rc) *rc = lt_plan_choose(&lt->calls, lt->handle, WORKSPACE_BYTES, &k->plan);
        k->is = !*rc || *rc == LT_NOT_SUPPORTED, k->refused = *rc != 0, k->of = p;
    }
    if (k->refused && !*rc) *rc = LT_NOT_SUPPORTED;
    return *rc ? nullptr : &k->plan;
}

/* What of a product is where. c: added, out's shape; or NULL. */
struct places {
    const void *w, *in, *bias, *c;
    void *out;
};

int multiply(struct device *d, const struct lt_product &p, const places &at)
{
    const float one = 1, zero = 0;
    int rc;
    struct cuda_lt *lt = d->lt;
    const struct lt_plan *plan = plan_of(lt, p, &rc);
    if (!rc && at.bias) rc = lt->calls.desc_set(plan->desc, LT_DESC_BIAS_POINTER, &at.bias, sizeof at.bias);
    if (rc) return rc;
    d->lt_products++;
    return lt->calls.matmul(lt->handle, plan->desc, &one, at.w, plan->w, at.in, plan->in, at.c ? &one : &zero, at.c ? at.c : at.out,
                            plan->out, at.out, plan->out, &plan->algo, lt->workspace, WORKSPACE_BYTES, d->stream);
}

/* The bias of a weight that the library stores bf16 with; see struct weight. */
const void *rounded_bias(struct device *d, const struct weight *w, const float *bias)
{
    if (w->lt_bias_of != bias)
        LAUNCH(bias_kernel, dim3((unsigned(w->n) + THREADS - 1) / THREADS), dim3(THREADS), 0, d->stream, bias, w->lt_bias, int(w->n));
    w->lt_bias_of = bias;
    return w->lt_bias;
}

/* As few pieces as fit, of much the same size. */
int multiply_silu(struct device *d, struct lt_product p, const places &at, size_t ldo)
{
    const size_t rows = p.rows, pieces = (rows + d->lt->sum_rows - 1) / d->lt->sum_rows, each = (rows + pieces - 1) / pieces;
    int rc = 0;
    for (size_t r = 0; r < rows && !rc; r += each) {
        p.rows = rows - r < each ? rows - r : each;
        rc = multiply(d, p, {at.w, static_cast<const bf16 *>(at.in) + r * p.ldi, nullptr, nullptr, d->lt->sums});
        const silu_args s = {d->lt->sums, static_cast<bf16 *>(at.out) + r * ldo, p.rows * p.n / 16, ldo, int(p.n)};
        if (!rc) LAUNCH_EARLY(d->early, silu_kernel, dim3(unsigned((s.eights + THREADS - 1) / THREADS)), dim3(THREADS), 0, d->stream, s);
    }
    return rc;
}

int multiply_qkv(struct device *d, const struct lt_product &p, const places &at, const linear_args &a)
{
    const unsigned heads = unsigned(a.n) / a.place.kv.head_dim;
    const int rc = multiply(d, p, at);
    if (!rc)
        LAUNCH_EARLY(d->early, qkv_kernel, dim3(unsigned(a.rows), (heads + THREADS / 32 - 1) / (THREADS / 32)), dim3(THREADS), 0, d->stream,
                     a);
    return rc;
}

bool aligned(const void *p)
{
    return uintptr_t(p) % LT_ALIGN == 0;
}

/* Whether it may have the product at all: as it is laid out, its rows are enough. */
bool suits(const struct weight *w, const form &f, const linear_args &a)
{
    const size_t out_bytes = f.out == LT_F32 ? sizeof(float) : sizeof(bf16);
    if (a.rows <= f.above || w->quant.bits || a.to) return false;
    if (!aligned(a.in) || !aligned(a.out) || !aligned(a.bias) || a.ldi * sizeof(bf16) % LT_ALIGN || a.ldo * out_bytes % LT_ALIGN)
        return false;
    if (a.position && (a.ldo != size_t(a.n) || !aligned(a.position))) return false;
    if (f.epilogue == CUDA_QKV && a.place.kv.head_dim > 2 * 32 * MOST_PAIRS) return false;
    return f.out == LT_F32 || !a.bias || w->lt_bias;
}

} // namespace

void cuda_lt_open(struct device *d)
{
    struct cuda_lt *lt = static_cast<struct cuda_lt *>(calloc(1, sizeof *lt));
    void *library = lt ? lt_open(&lt->calls, d->lt_state, sizeof d->lt_state) : nullptr;
    if (!lt) snprintf(d->lt_state, sizeof d->lt_state, "out of memory");
#ifndef __CUDACC__ /* the simulator's memory is nothing for the real one */
    if (library && !dlsym(library, "sim_cublaslt_products"))
        snprintf(d->lt_state, sizeof d->lt_state, "not in the simulator"), library = nullptr;
#endif
    const int rc = library ? lt->calls.create(&lt->handle) : 0;
    if (rc) snprintf(d->lt_state, sizeof d->lt_state, "cuBLASLt: %s", lt->calls.error(rc));
    if (library && !rc) {
        const size_t v = lt->calls.version();
        snprintf(d->lt_state, sizeof d->lt_state, "cuBLASLt %zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
        d->lt = lt;
        return;
    }
    free(lt);
}

void cuda_lt_close(struct device *d)
{
    if (!d->lt) return;
    for (struct kept &k : d->lt->kept) lt_plan_close(&d->lt->calls, &k.plan);
    d->lt->calls.destroy(d->lt->handle);
    free(d->lt);
    d->lt = nullptr;
}

int cuda_lt_reserve(struct device *d, struct err *e)
{
    struct cuda_lt *lt = d->lt;
    const size_t row_bytes = 2 * cuda_round_up(d->limits.inter, 8) * sizeof(float);
    if (!lt) return 0;
    lt->sum_rows = row_bytes ? SUMS_BYTES / row_bytes : 0;
    if (lt->sum_rows < LEAST_SUM_ROWS) lt->sum_rows = LEAST_SUM_ROWS;
    if (lt->sum_rows > d->limits.max_rows) lt->sum_rows = d->limits.max_rows;
    int rc = cuda_region_take(d, WORKSPACE_BYTES, &lt->workspace, e);
    return rc ? rc : cuda_region_take(d, lt->sum_rows * row_bytes, reinterpret_cast<void **>(&lt->sums), e);
}

int cuda_lt_pack(struct device *d, struct weight *w, struct err *e)
{
    if (!d->lt || w->quant.bits || w->kind != PACK_LINEAR) return 0;
    return cuda_region_take(d, w->n * sizeof(bf16), reinterpret_cast<void **>(&w->lt_bias), e);
}

bool cuda_lt_product(struct device *d, const struct weight *w, enum cuda_epilogue epilogue, const linear_args &a, const char *what, int *rc,
                     struct err *e)
{
    const form *f = d->lt ? form_of(epilogue) : nullptr;
    *rc = 0;
    if (!f || !suits(w, *f, a)) return false;
    const bool sums_first = epilogue == CUDA_SILU;
    const struct lt_product p = {size_t(a.rows),
                                 size_t(a.n),
                                 size_t(a.k_padded),
                                 a.ldi,
                                 size_t(a.k_padded),
                                 sums_first ? size_t(a.n) : a.ldo,
                                 f->out,
                                 a.bias ? f->with_bias : f->plain};
    const void *bias = a.bias && f->out == LT_BF16 ? rounded_bias(d, w, a.bias) : a.bias;
    const places at = {a.w, a.in, bias, epilogue == CUDA_ADD ? a.out : a.position, a.out};
    const int status = sums_first ? multiply_silu(d, p, at, a.ldo) : epilogue == CUDA_QKV ? multiply_qkv(d, p, at, a) : multiply(d, p, at);
    if (status == LT_NOT_SUPPORTED) return false; /* of this shape, and out is as it was or will be written anew */
    const cudaError_t fault = status ? cudaGetLastError() : cudaSuccess;
    if (fault != cudaSuccess)
        *rc = cuda_check(d, what, fault, e);
    else if (status)
        *rc = err_set(e, ERR_INTERNAL, "cuda: %s: cuBLASLt: %s", what, d->lt->calls.error(status));
    return true;
}
