#include "tests/sim/cuda/samples/samples.h"

namespace {

// Sum over the block; every thread gets it.
template <int Threads> __device__ __forceinline__ float block_sum(float v) {
  SHARED_ARRAY(float, warp_sums, Threads / 32);
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = v;
  __syncthreads();  // mutant:rms_sync
  float sum = 0.0f;
#pragma unroll
  for (int w = 0; w < Threads / 32; ++w) sum += warp_sums[w];
  return sum;
}

// One block per row, 16-byte accesses.
template <int Threads>
__global__ void __launch_bounds__(Threads)
rmsnorm_kernel(const bf16* __restrict__ x, const bf16* __restrict__ w, bf16* __restrict__ y, int hidden, float eps) {
  const size_t row = size_t(blockIdx.x) * hidden;
  float square = 0.0f;
  for (int i = threadIdx.x * 8; i < hidden; i += Threads * 8) {
    float f[8];
    unpack8(load16(x + row + i), f);
#pragma unroll
    for (int e = 0; e < 8; ++e) square = fmaf(f[e], f[e], square);
  }
  const float scale = rsqrtf(block_sum<Threads>(square) / hidden + eps);
  for (int i = threadIdx.x * 8; i < hidden; i += Threads * 8) {  // mutant:rms_bound
    float f[8], g[8];
    unpack8(load16(x + row + i), f);
    unpack8(load16(w + i), g);
#pragma unroll
    for (int e = 0; e < 8; ++e) f[e] *= scale * g[e];
    store16(y + row + i, uint4{cvt_bf16x2(f[0], f[1]), cvt_bf16x2(f[2], f[3]),
                               cvt_bf16x2(f[4], f[5]), cvt_bf16x2(f[6], f[7])});
  }
}
}  // namespace

cudaError_t sample_rmsnorm(const bf16* x, const bf16* w, bf16* y, int rows, int hidden, float eps, cudaStream_t st) {
  LAUNCH(rmsnorm_kernel<128>, dim3(rows), dim3(128), 0, st, x, w, y, hidden, eps);
  return cudaGetLastError();
}
