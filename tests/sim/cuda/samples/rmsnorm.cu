/* rmsnorm: y[r,c] = w[c] * x[r,c] / sqrt(mean over c of x[r,c]^2 + eps). One block a row, 16-byte accesses, sums in float32. */
#include "tests/sim/cuda/samples/samples.h"

#ifndef __CUDACC__
planted_fault planted = PLANTED_NOTHING;
#endif

namespace {

/* The sum over the block; every thread gets it. */
template <int THREADS> __device__ __forceinline__ float block_sum(float v)
{
    SHARED_ARRAY(float, warp_sums, THREADS / 32);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = v;
    if (!PLANTED(RMS_NO_BARRIER)) __syncthreads(); /* all warps' sums are there */
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < THREADS / 32; ++w) sum += warp_sums[w];
    return sum;
}

template <int THREADS>
__global__ void __launch_bounds__(THREADS)
    rmsnorm_kernel(const bf16 *__restrict__ x, const bf16 *__restrict__ w, bf16 *__restrict__ y, int hidden, float eps)
{
    const size_t row = size_t(blockIdx.x) * hidden;
    float square = 0.0f;
    for (int i = threadIdx.x * 8; i < hidden; i += THREADS * 8) {
        float f[8];
        unpack8(load16(x + row + i), f);
#pragma unroll
        for (int e = 0; e < 8; ++e) square = fmaf(f[e], f[e], square);
    }
    const float scale = rsqrtf(block_sum<THREADS>(square) / hidden + eps);
    const int end = PLANTED(RMS_PAST_END) ? hidden + 8 : hidden;
    for (int i = threadIdx.x * 8; i < end; i += THREADS * 8) {
        float f[8], g[8];
        unpack8(load16(x + row + i), f);
        unpack8(load16(w + i), g);
#pragma unroll
        for (int e = 0; e < 8; ++e) f[e] *= scale * g[e];
        store16(y + row + i, make_uint4(cvt_bf16x2(f[0], f[1]), cvt_bf16x2(f[2], f[3]), cvt_bf16x2(f[4], f[5]), cvt_bf16x2(f[6], f[7])));
    }
}

} // namespace

cudaError_t sample_rmsnorm(const bf16 *x, const bf16 *w, bf16 *y, int rows, int hidden, float eps, cudaStream_t stream)
{
    LAUNCH(rmsnorm_kernel<128>, rows, 128, 0, stream, x, w, y, hidden, eps);
    return cudaGetLastError();
}
