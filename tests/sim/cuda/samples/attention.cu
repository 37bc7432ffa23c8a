#include "tests/sim/cuda/samples/samples.h"

namespace {

constexpr int kDim = 64, kThreads = 128, kSlots = kThreads / 8;  // a slot: 8 lanes that own one token
constexpr float kLog2e = 1.4426950408889634f;

// Running softmax of one query head over the tokens a slot has seen; each of
// the slot's 8 lanes holds 8 of the 64 output dims.
struct Softmax {
  float acc[8], top, sum;  // top: largest score * log2(e)
};

__device__ __forceinline__ void add_token(Softmax& s, float score, const float (&v)[8]) {
  const float top = fmaxf(s.top, score);
  const float keep = exp2f(s.top - top), p = exp2f(score - top);
  s.sum = s.sum * keep + p;
#pragma unroll
  for (int e = 0; e < 8; ++e) s.acc[e] = s.acc[e] * keep + p * v[e];
  s.top = top;
}

__device__ __forceinline__ float slot_dot(const float (&a)[8], const float (&b)[8]) {
  float d = 0.0f;
#pragma unroll
  for (int e = 0; e < 8; ++e) d = fmaf(a[e], b[e], d);
#pragma unroll
  for (int m = 4; m > 0; m /= 2) d += __shfl_xor_sync(0xffffffffu, d, m, 8);
  return d;
}

// The block's tokens: [begin, end) of one sequence.
template <int Group>
__device__ __forceinline__ void scan_tokens(Softmax (&s)[Group], const float (&q)[Group][8], const bf16* k,
                                            const bf16* v, int begin, int end) {
  const int slot = threadIdx.x / 8, dim = threadIdx.x % 8 * 8;
  for (int base = begin; base < end; base += kSlots) {  // same trip count in all lanes
    const int token = base + slot;
    const bool valid = token < end;  // mutant:attn_bound
    const size_t at = size_t(valid ? token : begin) * kDim + dim;
    float fk[8], fv[8];
    unpack8(load16(k + at), fk);
    unpack8(load16(v + at), fv);
#pragma unroll
    for (int g = 0; g < Group; ++g) {
      const float score = slot_dot(q[g], fk);
      if (valid) add_token(s[g], score, fv);
    }
  }
}

// Merges the slots' states for one (head, dim) through shared memory.
template <int Group>
__device__ __forceinline__ void merge_slots(const Softmax (&s)[Group], float* partial, size_t head_stride) {
  SHARED_ARRAY(float, parts, kSlots * Group * (kDim + 2));
  const int slot = threadIdx.x / 8, dim = threadIdx.x % 8 * 8;
#pragma unroll
  for (int g = 0; g < Group; ++g) {
    float* p = parts + (slot * Group + g) * (kDim + 2);
#pragma unroll
    for (int e = 0; e < 8; ++e) p[dim + e] = s[g].acc[e];
    if (dim == 0) p[kDim] = s[g].top, p[kDim + 1] = s[g].sum;
  }
  __syncthreads();  // mutant:attn_sync
  for (int i = threadIdx.x; i < Group * kDim; i += kThreads) {
    const float* p = parts + i / kDim * (kDim + 2);
    float top = -INFINITY, sum = 0.0f, acc = 0.0f;
    for (int j = 0; j < kSlots; ++j) top = fmaxf(top, p[j * Group * (kDim + 2) + kDim]);
    for (int j = 0; j < kSlots; ++j) {
      const float* r = p + j * Group * (kDim + 2);
      const float scale = r[kDim + 1] > 0.0f ? exp2f(r[kDim] - top) : 0.0f;
      acc += scale * r[i % kDim], sum += scale * r[kDim + 1];
    }
    float* out = partial + i / kDim * head_stride;
    out[i % kDim] = acc;
    if (i % kDim == 0) out[kDim] = top, out[kDim + 1] = sum;
  }
}

// Grid (splits, kv_heads, batch); a block serves the Group query heads that
// share a KV head.
template <int Group> __global__ void __launch_bounds__(kThreads) decode_kernel(sample_decode_args a) {
  const int split = blockIdx.x, kv = blockIdx.y, seq = blockIdx.z;
  const int length = __ldg(a.lengths + seq), chunk = (length + a.splits - 1) / a.splits;
  const int begin = split * chunk, end = min(begin + chunk, length);
  const size_t head = size_t(seq) * a.q_heads + kv * Group;
  const size_t cache = (size_t(seq) * a.kv_heads + kv) * a.max_len * kDim;
  float q[Group][8];
  Softmax s[Group];
#pragma unroll
  for (int g = 0; g < Group; ++g) {
    unpack8(load16(a.q + (head + g) * kDim + threadIdx.x % 8 * 8), q[g]);
#pragma unroll
    for (int e = 0; e < 8; ++e) q[g][e] *= kLog2e / 8.0f, s[g].acc[e] = 0.0f;  // 1/sqrt(64)
    s[g].top = -INFINITY, s[g].sum = 0.0f;
  }
  scan_tokens<Group>(s, q, a.k + cache, a.v + cache, begin, end);
  const size_t stride = size_t(a.splits) * (kDim + 2);
  merge_slots<Group>(s, a.partial + head * stride + split * (kDim + 2), stride);
}

// One block of 64 threads per (sequence, query head).
__global__ void __launch_bounds__(kDim) combine_kernel(sample_decode_args a) {
  const size_t head = size_t(blockIdx.y) * a.q_heads + blockIdx.x;
  const float* p = a.partial + head * a.splits * (kDim + 2);
  float top = -INFINITY, sum = 0.0f, acc = 0.0f;
  for (int s = 0; s < a.splits; ++s) top = fmaxf(top, p[s * (kDim + 2) + kDim]);
  for (int s = 0; s < a.splits; ++s, p += kDim + 2) {
    const float scale = p[kDim + 1] > 0.0f ? exp2f(p[kDim] - top) : 0.0f;
    acc += scale * p[threadIdx.x], sum += scale * p[kDim + 1];
  }
  a.out[head * kDim + threadIdx.x] = __float2bfloat16_rn(acc / sum);
}
}  // namespace

cudaError_t sample_decode(const sample_decode_args& a, cudaStream_t st) {
  const dim3 grid(a.splits, a.kv_heads, a.batch);
  switch (a.q_heads / a.kv_heads) {
    case 1: LAUNCH(decode_kernel<1>, grid, dim3(kThreads), 0, st, a); break;
    case 4: LAUNCH(decode_kernel<4>, grid, dim3(kThreads), 0, st, a); break;
    case 7: LAUNCH(decode_kernel<7>, grid, dim3(kThreads), 0, st, a); break;
    default: return cudaErrorInvalidValue;
  }
  LAUNCH(combine_kernel, dim3(a.q_heads, a.batch), dim3(kDim), 0, st, a);
  return cudaGetLastError();
}
