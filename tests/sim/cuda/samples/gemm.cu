/* gemm: C = A B^T in bf16 with float32 sums. Blocks of 128x128, cp.async into two stages of K = 32, ldmatrix and mma; 8 warps, 64x32 each.
 * Tails in M and N by zero fill and a check at the store. Rows are padded to 80 bytes, so that ldmatrix meets no bank twice. */
#include "tests/sim/cuda/samples/samples.h"

namespace {

constexpr int TILE_M = 128, TILE_N = 128, TILE_K = 32, PITCH = TILE_K + 8, THREADS = 256;
constexpr int STAGE = (TILE_M + TILE_N) * PITCH;
constexpr int SMEM_BYTES = 2 * STAGE * int(sizeof(bf16));

/* A 128x32 tile of src (rows, k) from (row0, k0) on; zeros outside. */
__device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *src, int row0, int k0, int rows, int k)
{
#pragma unroll
    for (int i = 0; i < TILE_M * TILE_K / 8 / THREADS; ++i) {
        const int chunk = threadIdx.x + i * THREADS;
        const int r = chunk / (TILE_K / 8), c = chunk % (TILE_K / 8) * 8;
        const bool inside = (row0 + r < rows || PLANTED(GEMM_LOAD_BOUND)) && k0 + c < k;
        cp_async16_zfill(tile + r * PITCH + c, inside ? src + size_t(row0 + r) * k + k0 + c : src, inside ? 16 : 0);
    }
}

/* A warp's 64x32: 4 by 4 mma tiles; warps stand 2 by 4. */
__device__ __forceinline__ void multiply_stage(float (&acc)[4][4][4], const bf16 *a, const bf16 *b)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bf16 *a_row = a + (warp / 4 * 64 + lane % 16) * PITCH + lane / 16 * 8;
    const bf16 *b_row = b + (warp % 4 * 32 + lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < TILE_K; k += 16) {
        uint32_t fa[4][4], fb[2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) ldmatrix_x4(fa[i], a_row + i * 16 * PITCH + k);
#pragma unroll
        for (int j = 0; j < 2; ++j) ldmatrix_x4(fb[j], b_row + j * 16 * PITCH + k);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const uint32_t pair[2] = {fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]};
                mma_m16n8k16_bf16(acc[i][j], fa[i], pair);
            }
        }
    }
}

__device__ __forceinline__ void store_acc(const float (&acc)[4][4][4], bf16 *c, int m, int n)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row0 = blockIdx.y * TILE_M + warp / 4 * 64 + lane / 4;
    const int col0 = blockIdx.x * TILE_N + warp % 4 * 32 + lane % 4 * 2;
    const int rows = PLANTED(GEMM_STORE_BOUND) ? m + 1 : m;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int row = row0 + i * 16 + h * 8, col = col0 + j * 8;
                if (row < rows && col < n)
                    *reinterpret_cast<uint32_t *>(c + size_t(row) * n + col) = cvt_bf16x2(acc[i][j][2 * h], acc[i][j][2 * h + 1]);
            }
        }
    }
}

__global__ void __launch_bounds__(THREADS)
    gemm_kernel(const bf16 *__restrict__ a, const bf16 *__restrict__ b, bf16 *__restrict__ c, int m, int n, int k)
{
    DYN_SHARED(bf16, smem);
    const int row0 = blockIdx.y * TILE_M, col0 = blockIdx.x * TILE_N, steps = (k + TILE_K - 1) / TILE_K;
    float acc[4][4][4] = {};
    load_tile(smem, a, row0, 0, m, k);
    load_tile(smem + TILE_M * PITCH, b, col0, 0, n, k);
    cp_async_commit();
    for (int t = 0; t < steps; ++t) {
        bf16 *const now = smem + t % 2 * STAGE, *const next = smem + (t + 1) % 2 * STAGE;
        if (t + 1 < steps) {
            load_tile(next, a, row0, (t + 1) * TILE_K, m, k);
            load_tile(next + TILE_M * PITCH, b, col0, (t + 1) * TILE_K, n, k);
        }
        cp_async_commit();
        if (PLANTED(GEMM_WAIT_TOO_FEW)) cp_async_wait<2>();
        else if (!PLANTED(GEMM_NO_WAIT)) cp_async_wait<1>(); /* this thread's part of `now` is there */
        if (!PLANTED(GEMM_NO_BARRIER)) __syncthreads();      /* and everybody's */
        multiply_stage(acc, now, now + TILE_M * PITCH);
        if (!PLANTED(GEMM_NO_END_BARRIER)) __syncthreads(); /* nobody reads `now` any more: the next step loads into it */
    }
    store_acc(acc, c, m, n);
}

} // namespace

cudaError_t sample_gemm(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k, cudaStream_t stream)
{
    const dim3 grid((n + TILE_N - 1) / TILE_N, (m + TILE_M - 1) / TILE_M);
    LAUNCH(gemm_kernel, grid, THREADS, SMEM_BYTES, stream, a, b, c, m, n, k);
    return cudaGetLastError();
}
