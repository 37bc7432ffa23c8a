/* Three kernels as examples and as subjects of the simulator's own tests. Each has places where a fault can be planted (test_mutants.cpp):
 * a barrier left out, an early read of an asynchronous copy, an index past the end. Under nvcc there are none. */
#pragma once
#include "kernels/cuda/ptx.cuh"

using bf16 = __nv_bfloat16;

enum planted_fault {
    PLANTED_NOTHING,
    RMS_NO_BARRIER,      /* warp sums are read before all are written */
    RMS_PAST_END,        /* one vector too many */
    GEMM_NO_WAIT,        /* the tile is read while its copy is under way */
    GEMM_WAIT_TOO_FEW,   /* the wait leaves two groups instead of one */
    GEMM_NO_BARRIER,     /* other threads' copies are read after one's own wait only */
    GEMM_NO_END_BARRIER, /* the next copy overwrites what others still read */
    GEMM_LOAD_BOUND,     /* rows past the end of A are loaded */
    GEMM_STORE_BOUND,    /* one row too many is stored */
    DECODE_NO_BARRIER,   /* the slots' states are merged before all are written */
    DECODE_TOKEN_BOUND,  /* one token too many is attended to */
    PLANTED_FAULTS
};
#ifdef __CUDACC__
#define PLANTED(fault) false
#else
extern planted_fault planted;
#define PLANTED(fault) (planted == (fault))
#endif

/* y[r] = x[r] / rms(x[r]) * w; rows of hidden bf16, hidden % 8 == 0. */
cudaError_t sample_rmsnorm(const bf16 *x, const bf16 *w, bf16 *y, int rows, int hidden, float eps, cudaStream_t stream);

/* C (m, n) = A (m, k) B (n, k)^T, sums in float32; n % 2 == 0, k % 8 == 0. */
cudaError_t sample_gemm(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k, cudaStream_t stream);

/* Attention of one new token a sequence over its keys and values, head dim 64. */
struct sample_decode_args {
    const bf16 *q;      /* batch, q_heads, 64 */
    const bf16 *k;      /* batch, kv_heads, max_len, 64 */
    const bf16 *v;      /* batch, kv_heads, max_len, 64 */
    const int *lengths; /* batch; 1..max_len */
    float *partial;     /* batch, q_heads, splits, 66: sums of 64 dims, maximum, sum of weights */
    bf16 *out;          /* batch, q_heads, 64 */
    int batch, q_heads, kv_heads, max_len, splits;
};
cudaError_t sample_decode(const sample_decode_args &a, cudaStream_t stream);

/* Eight bf16, one 16-byte vector, to float. */
__device__ __forceinline__ void unpack8(uint4 v, float (&f)[8])
{
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        f[2 * i] = bf16x2_lo(w[i]);
        f[2 * i + 1] = bf16x2_hi(w[i]);
    }
}
