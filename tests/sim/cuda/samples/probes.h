/* One small kernel for each thing the simulator's tests look at: test_ptx.cpp, test_faults.cpp. Launchers take device pointers. */
#pragma once
#include "kernels/cuda/ptx.cuh"

enum probe_mma_type { PROBE_BF16, PROBE_F16, PROBE_S8, PROBE_U8S8, PROBE_E4M3 };
/* One warp, registers as they are: a (32, 4), b (32, 2), d (32, 4; in and out). */
void probe_mma(probe_mma_type type, const uint32_t *a, const uint32_t *b, uint32_t *d);
/* Shared memory holds the 16-bit numbers 0, 1, 2...; lane l passes row l. r (32, 4). n = 1, 2, 4. */
void probe_ldmatrix(int n, bool trans, uint32_t *r);
/* Copies of every form, from src (256 bytes) to dst (256 bytes) by way of shared memory; see the kernel. */
void probe_cp_async(const unsigned char *src, unsigned char *dst);
void probe_shuffle(const uint32_t *v, uint32_t *out);      /* 32; out (8, 32) */
void probe_vote(const int32_t *v, uint32_t *out);          /* 32; out (12, 32) */
void probe_convert(const float *in, uint32_t *out);        /* 2; 3: bf16x2, f16x2, e4m3x2 */
void probe_scalar(uint32_t *out);                          /* 16 */
void probe_approx(const float *in, float *out);            /* 32; out (3, 32): 2^x, tanh, 1/x */
void probe_vector(const uint4 *in, uint4 *out);            /* 2: load16 + store16, ld_global_nc_16 */
void probe_atomic(uint32_t *cells, uint32_t *old);         /* 12, each */
void probe_atomic_float(float *cell);                      /* adds 1..64 */
void probe_barrier(int *out);                              /* 8 */
void probe_named_barriers(int *out);                       /* 64: written by warp 0, read by warp 1 and back */
void probe_producer(int *out);                             /* 32 */
void probe_types(const unsigned short *in, float *out);    /* 2 bf16, 2 f16 bits; 4 */

/* Orders that must hold, and the same with a fault. Each returns by the last error and the report. */
void order_flag_between_blocks(int *data, uint32_t *flag, int *out, bool release);
void order_last_block(float *partial, unsigned *count, float *out, int blocks, bool fence);
void order_syncwarp(int *out, bool sync);
void order_half_warps(int *out);
void order_named_barriers(int *out, bool whole);
void order_broadcast(int *out, bool barrier);
void order_dependent(int *data, int *out, bool wait);
void order_two_blocks(int *data, bool disjoint);

enum probe_fault {
    FAULT_DIVERGENT_BARRIER,
    FAULT_MISSING_THREAD,
    FAULT_COLLECTIVE_MISMATCH,
    FAULT_STUCK_WARP,
    FAULT_NOT_IN_MASK,
    FAULT_MISALIGNED,
    FAULT_JUST_PAST_END,
    FAULT_FAR_PAST_END,
    FAULT_BEFORE_START,
    FAULT_NULL,
    FAULT_SHARED_PAST_END,
    FAULT_COPY_PAST_END,
    FAULT_COPY_TO_GLOBAL,
    FAULT_PARTIAL_MMA,
    FAULT_BARRIER_COUNT,
    FAULT_TRAP,
    FAULT_SPIN
};
void probe_fault_kernel(probe_fault f, float *x, int n); /* 64 threads; x has n floats */
void probe_add(int *p, int v, cudaStream_t s);          /* *p = *p * 3 + v, by one thread */
void probe_shared_bytes(int *out, size_t bytes, cudaStream_t s);
cudaError_t probe_shared_limit(int bytes);
