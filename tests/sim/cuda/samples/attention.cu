/* decode: attention of one query token a sequence, split over the sequence and merged by a second kernel. Groups of eight lanes ("slots")
 * own a token each, eight dims a lane; a block serves the query heads that share a KV head. Running softmax in base 2. */
#include "tests/sim/cuda/samples/samples.h"

namespace {

constexpr int DIM = 64, THREADS = 128, SLOTS = THREADS / 8, STATE = DIM + 2;
constexpr float LOG2E = 1.4426950408889634f;

struct softmax_state {
    float acc[8], top, sum; /* top: the largest score so far, times log2(e) */
};

__device__ __forceinline__ void add_token(softmax_state &s, float score, const float (&v)[8])
{
    const float top = fmaxf(s.top, score);
    const float keep = exp2f(s.top - top), p = exp2f(score - top);
    s.sum = s.sum * keep + p;
#pragma unroll
    for (int e = 0; e < 8; ++e) s.acc[e] = s.acc[e] * keep + p * v[e];
    s.top = top;
}

__device__ __forceinline__ float slot_dot(const float (&a)[8], const float (&b)[8])
{
    float d = 0.0f;
#pragma unroll
    for (int e = 0; e < 8; ++e) d = fmaf(a[e], b[e], d);
#pragma unroll
    for (int m = 4; m > 0; m /= 2) d += __shfl_xor_sync(0xffffffffu, d, m, 8);
    return d;
}

/* The tokens [begin, end) of one sequence. All lanes make the same number of rounds, for the shuffles. */
template <int GROUP>
__device__ __forceinline__ void scan_tokens(softmax_state (&s)[GROUP], const float (&q)[GROUP][8], const bf16 *k, const bf16 *v, int begin,
                                            int end)
{
    const int slot = threadIdx.x / 8, dim = threadIdx.x % 8 * 8;
    for (int base = begin; base < end; base += SLOTS) {
        const int token = base + slot;
        const bool valid = token < (PLANTED(DECODE_TOKEN_BOUND) ? end + 1 : end);
        const size_t at = size_t(valid ? token : begin) * DIM + dim;
        float fk[8], fv[8];
        unpack8(load16(k + at), fk);
        unpack8(load16(v + at), fv);
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
            const float score = slot_dot(q[g], fk);
            if (valid) add_token(s[g], score, fv);
        }
    }
}

/* Merges the slots' states through shared memory. */
template <int GROUP>
__device__ __forceinline__ void merge_slots(const softmax_state (&s)[GROUP], float *partial, size_t head_stride)
{
    SHARED_ARRAY(float, parts, SLOTS * GROUP * STATE);
    const int slot = threadIdx.x / 8, dim = threadIdx.x % 8 * 8;
#pragma unroll
    for (int g = 0; g < GROUP; ++g) {
        float *p = parts + (slot * GROUP + g) * STATE;
#pragma unroll
        for (int e = 0; e < 8; ++e) p[dim + e] = s[g].acc[e];
        if (dim == 0) p[DIM] = s[g].top, p[DIM + 1] = s[g].sum;
    }
    if (!PLANTED(DECODE_NO_BARRIER)) __syncthreads(); /* all slots' states are there */
    for (int i = threadIdx.x; i < GROUP * DIM; i += THREADS) {
        const float *p = parts + i / DIM * STATE;
        float top = -INFINITY, sum = 0.0f, acc = 0.0f;
        for (int j = 0; j < SLOTS; ++j) top = fmaxf(top, p[j * GROUP * STATE + DIM]);
        for (int j = 0; j < SLOTS; ++j) {
            const float *r = p + j * GROUP * STATE;
            const float scale = r[DIM + 1] > 0.0f ? exp2f(r[DIM] - top) : 0.0f;
            acc += scale * r[i % DIM], sum += scale * r[DIM + 1];
        }
        float *out = partial + i / DIM * head_stride;
        out[i % DIM] = acc;
        if (i % DIM == 0) out[DIM] = top, out[DIM + 1] = sum;
    }
}

/* Grid (splits, kv_heads, batch). */
template <int GROUP> __global__ void __launch_bounds__(THREADS) decode_kernel(const __grid_constant__ sample_decode_args a)
{
    const int split = blockIdx.x, kv = blockIdx.y, seq = blockIdx.z;
    const int length = __ldg(a.lengths + seq), chunk = (length + a.splits - 1) / a.splits;
    const int begin = split * chunk, end = min(begin + chunk, length);
    const size_t head = size_t(seq) * a.q_heads + kv * GROUP;
    const size_t cache = (size_t(seq) * a.kv_heads + kv) * a.max_len * DIM;
    float q[GROUP][8];
    softmax_state s[GROUP];
#pragma unroll
    for (int g = 0; g < GROUP; ++g) {
        unpack8(load16(a.q + (head + g) * DIM + threadIdx.x % 8 * 8), q[g]);
#pragma unroll
        for (int e = 0; e < 8; ++e) q[g][e] *= LOG2E / 8.0f, s[g].acc[e] = 0.0f; /* 1 / sqrt(64) */
        s[g].top = -INFINITY, s[g].sum = 0.0f;
    }
    scan_tokens<GROUP>(s, q, a.k + cache, a.v + cache, begin, end);
    const size_t stride = size_t(a.splits) * STATE;
    merge_slots<GROUP>(s, a.partial + head * stride + split * STATE, stride);
}

/* Grid (q_heads, batch), one thread a dim. */
__global__ void __launch_bounds__(DIM) combine_kernel(const __grid_constant__ sample_decode_args a)
{
    const size_t head = size_t(blockIdx.y) * a.q_heads + blockIdx.x;
    const float *p = a.partial + head * a.splits * STATE;
    float top = -INFINITY, sum = 0.0f, acc = 0.0f;
    griddepcontrol_wait();
    for (int s = 0; s < a.splits; ++s) top = fmaxf(top, p[s * STATE + DIM]);
    for (int s = 0; s < a.splits; ++s, p += STATE) {
        const float scale = p[DIM + 1] > 0.0f ? exp2f(p[DIM] - top) : 0.0f;
        acc += scale * p[threadIdx.x], sum += scale * p[DIM + 1];
    }
    a.out[head * DIM + threadIdx.x] = __float2bfloat16_rn(acc / sum);
}

} // namespace

cudaError_t sample_decode(const sample_decode_args &a, cudaStream_t stream)
{
    const dim3 grid(a.splits, a.kv_heads, a.batch);
    switch (a.q_heads / a.kv_heads) {
    case 1: LAUNCH(decode_kernel<1>, grid, THREADS, 0, stream, a); break;
    case 4: LAUNCH(decode_kernel<4>, grid, THREADS, 0, stream, a); break;
    case 7: LAUNCH(decode_kernel<7>, grid, THREADS, 0, stream, a); break;
    default: return cudaErrorInvalidValue;
    }
    LAUNCH_PDL(combine_kernel, dim3(a.q_heads, a.batch), DIM, 0, stream, a);
    return cudaGetLastError();
}
