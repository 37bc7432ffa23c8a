#include "tests/sim/cuda/samples/samples.h"

namespace {

constexpr int kTileM = 128, kTileN = 128, kTileK = 32;
constexpr int kPitch = kTileK + 8;  // elements; 80-byte rows keep ldmatrix free of bank conflicts
constexpr int kThreads = 256;
constexpr int kStage = (kTileM + kTileN) * kPitch;
constexpr int kSmemBytes = 2 * kStage * int(sizeof(bf16));

// Copies a 128x32 tile of src[rows][K] that starts at (row0, k0); zeros outside.
__device__ __forceinline__ void load_tile(bf16* tile, const bf16* src, int row0, int k0, int rows, int K) {
#pragma unroll
  for (int i = 0; i < kTileM * kTileK / 8 / kThreads; ++i) {
    const int chunk = threadIdx.x + i * kThreads;
    const int r = chunk / (kTileK / 8), c = chunk % (kTileK / 8) * 8;
    const bool inside = row0 + r < rows && k0 + c < K;  // mutant:gemm_bound
    cp_async16_zfill(tile + r * kPitch + c, inside ? src + size_t(row0 + r) * K + k0 + c : src, inside ? 16 : 0);
  }
}

// Warp tile 64x32: 4 by 4 mma tiles; warps are arranged 2 by 4.
__device__ __forceinline__ void multiply_stage(float (&acc)[4][4][4], const bf16* a, const bf16* b) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bf16* a_row = a + (warp / 4 * 64 + lane % 16) * kPitch + lane / 16 * 8;
  const bf16* b_row = b + (warp % 4 * 32 + lane % 8 + lane / 16 * 8) * kPitch + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < kTileK; k += 16) {
    uint32_t fa[4][4], fb[2][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) ldmatrix_x4(fa[i], a_row + i * 16 * kPitch + k);
#pragma unroll
    for (int j = 0; j < 2; ++j) ldmatrix_x4(fb[j], b_row + j * 16 * kPitch + k);
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

__device__ __forceinline__ void store_acc(const float (&acc)[4][4][4], bf16* c, int M, int N) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row0 = blockIdx.y * kTileM + warp / 4 * 64 + lane / 4;
  const int col0 = blockIdx.x * kTileN + warp % 4 * 32 + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = row0 + i * 16 + h * 8, col = col0 + j * 8;
        if (row < M && col < N)  // mutant:gemm_store
          *reinterpret_cast<uint32_t*>(c + size_t(row) * N + col) = cvt_bf16x2(acc[i][j][2 * h], acc[i][j][2 * h + 1]);
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads)
gemm_kernel(const bf16* __restrict__ A, const bf16* __restrict__ B, bf16* __restrict__ C, int M, int N, int K) {
  DYN_SHARED(bf16, smem);
  const int row0 = blockIdx.y * kTileM, col0 = blockIdx.x * kTileN;
  const int steps = (K + kTileK - 1) / kTileK;
  float acc[4][4][4] = {};
  load_tile(smem, A, row0, 0, M, K);
  load_tile(smem + kTileM * kPitch, B, col0, 0, N, K);
  cp_async_commit();
  for (int t = 0; t < steps; ++t) {
    bf16* const now = smem + t % 2 * kStage;
    bf16* const next = smem + (t + 1) % 2 * kStage;
    if (t + 1 < steps) {
      load_tile(next, A, row0, (t + 1) * kTileK, M, K);
      load_tile(next + kTileM * kPitch, B, col0, (t + 1) * kTileK, N, K);
    }
    cp_async_commit();
    cp_async_wait<1>();  // mutant:gemm_wait
    __syncthreads();     // mutant:gemm_sync1
    multiply_stage(acc, now, now + kTileM * kPitch);
    __syncthreads();     // mutant:gemm_sync2
  }
  store_acc(acc, C, M, N);
}
}  // namespace

cudaError_t sample_gemm(const bf16* a, const bf16* b, bf16* c, int m, int n, int k, cudaStream_t st) {
  const dim3 grid((n + kTileN - 1) / kTileN, (m + kTileM - 1) / kTileM);
  LAUNCH(gemm_kernel, grid, dim3(kThreads), kSmemBytes, st, a, b, c, m, n, k);
  return cudaGetLastError();
}
