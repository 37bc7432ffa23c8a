/* Operands of products: rows of x normalised, rounded to bf16, with zeros from n to ldo.
 *   rmsnorm:   y[r, i] = w[i] x[r, i] / sqrt(mean over i of x[r, i]^2 + eps)
 *   layernorm: y[r, i] = w[i] (x[r, i] - mean) / sqrt(variance + eps) + b[i]
 * A block a row; sums are float32 in one order: thread by thread, lanes by halves, warps in rising order. Bytes: rows (4 n + 2 ldo) and the
 * weights; bound by memory, or by being launched where rows are few. */
#include "kernels/cuda/cuda.cuh"

namespace {

constexpr int THREADS = 256;

/* Every thread gets the block's sum. */
__device__ __forceinline__ float block_sum(float v, float *warp_sums)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    __syncthreads(); /* whoever reads the last sum is done */
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = v;
    __syncthreads(); /* the warps' sums are there */
    float sum = 0;
    for (int i = 0; i < THREADS / 32; i++) sum += warp_sums[i];
    return sum;
}

struct norm_args {
    const float *x;
    const uint32_t *pick; /* rows of x; NULL: all */
    const float *w, *b;
    float eps;
    bf16 *out;
    int n;
    size_t ldo;
    int grid, scale; /* scale 0: a row of x is a row of out */
};

/* Where position p of the grids goes, and up to which of its numbers zeros follow: only the last of a row has any. */
__device__ __forceinline__ size_t shuffled(const norm_args &a, int p, int *end)
{
    const int side = a.grid / a.scale, all = a.scale * a.scale, x = p % a.grid, y = p / a.grid % a.grid, tile = p / (a.grid * a.grid);
    const int part = y % a.scale * a.scale + x % a.scale;
    *end = part == all - 1 ? int(a.ldo) - (all - 1) * a.n : a.n;
    return size_t((tile * side + y / a.scale) * side + x / a.scale) * a.ldo + size_t(part) * a.n;
}

template <bool CENTRED> __global__ void __launch_bounds__(THREADS) norm_kernel(const __grid_constant__ norm_args a)
{
    SHARED_ARRAY(float, warp_sums, THREADS / 32);
    const float *x = a.x + size_t(a.pick ? a.pick[blockIdx.x] : blockIdx.x) * a.n;
    bf16 *out = a.out + size_t(blockIdx.x) * a.ldo;
    int end = int(a.ldo);
    if (CENTRED && a.scale) out = a.out + shuffled(a, blockIdx.x, &end);
    float mean = 0, square = 0;
    if (CENTRED) {
        for (int i = threadIdx.x; i < a.n; i += THREADS) mean += x[i];
        mean = block_sum(mean, warp_sums) / a.n;
    }
    for (int i = threadIdx.x; i < a.n; i += THREADS) square = fmaf(x[i] - mean, x[i] - mean, square);
    const float scale = 1 / sqrtf(block_sum(square, warp_sums) / a.n + a.eps);
    for (int i = threadIdx.x; i < end; i += THREADS) {
        float v = i < a.n ? (x[i] - mean) * scale * a.w[i] : 0;
        if (CENTRED && i < a.n) v += a.b[i];
        out[i] = __float2bfloat16_rn(v);
    }
}

} // namespace

int cuda_rmsnorm(struct device *d, const float *x, const uint32_t *pick, size_t rows, size_t n, const float *w, float eps, bf16 *out, size_t ldo,
                 struct err *e)
{
    const norm_args a = {x, pick, w, nullptr, eps, out, int(n), ldo, 0, 0};
    LAUNCH(norm_kernel<false>, dim3(unsigned(rows)), dim3(THREADS), 0, d->stream, a);
    return cuda_launched(d, "rmsnorm", e);
}

int cuda_layernorm(struct device *d, const float *x, size_t rows, size_t n, const float *w, const float *b, float eps, bf16 *out, size_t ldo,
                   struct err *e)
{
    const norm_args a = {x, nullptr, w, b, eps, out, int(n), ldo, 0, 0};
    LAUNCH(norm_kernel<true>, dim3(unsigned(rows)), dim3(THREADS), 0, d->stream, a);
    return cuda_launched(d, "layernorm", e);
}

int cuda_layernorm_shuffled(struct device *d, const float *x, size_t grids, size_t grid, size_t scale, size_t n, const float *w, const float *b, float eps,
                            bf16 *out, size_t ldo, struct err *e)
{
    const norm_args a = {x, nullptr, w, b, eps, out, int(n), ldo, int(grid), int(scale)};
    LAUNCH(norm_kernel<true>, dim3(unsigned(grids * grid * grid)), dim3(THREADS), 0, d->stream, a);
    return cuda_launched(d, "layernorm", e);
}
