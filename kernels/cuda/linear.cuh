/* What the products of bf16 and of quantised weights share: their arguments, and what becomes of a finished sum. */
#ifndef SPILLWAY_KERNELS_CUDA_LINEAR_CUH
#define SPILLWAY_KERNELS_CUDA_LINEAR_CUH

#include "kernels/cuda/cuda.cuh"

struct linear_args {
    const void *in;        /* bf16, int8 or e4m3 (rows, ldi) */
    const float *in_scale; /* int8: (steps, scale_ld); e4m3: (rows) */
    const void *w, *w_scale;
    const float *bias, *position;
    const uint32_t *to;
    void *out;
    int rows, n, k_padded; /* rows from `in` on; n as packed */
    int scale_ld, step_tiles, w_scale_bf16, w_per_channel; /* quantised: see linear_quant.cu */
    size_t ldi, ldo;
};

enum { LINEAR_WARPS = 8, LINEAR_OUTS = 16 };

cudaError_t cuda_linear_bf16_decode(const linear_args &a, enum cuda_epilogue epilogue, cudaStream_t stream);
cudaError_t cuda_linear_bf16_prefill(const linear_args &a, enum cuda_epilogue epilogue, int n_sm, cudaStream_t stream);
cudaError_t cuda_linear_quant(const linear_args &a, const struct quant_format &quant, enum cuda_epilogue epilogue, bool decode,
                              cudaStream_t stream);

/* A kernel's instances by epilogue; NULL where there is none: of decode rows two, as vision has no such rows. */
struct linear_kernels {
    void (*store)(linear_args), (*store_bf16)(linear_args), (*add)(linear_args), (*silu)(linear_args), (*gelu)(linear_args);
};
inline cudaError_t linear_launch(const linear_kernels &k, enum cuda_epilogue epilogue, dim3 grid, int threads, int shared_bytes,
                                 const linear_args &a, cudaStream_t stream)
{
    void (*kernel)(linear_args) = nullptr;
    switch (epilogue) {
    case CUDA_STORE: kernel = k.store; break;
    case CUDA_STORE_BF16: kernel = k.store_bf16; break;
    case CUDA_ADD: kernel = k.add; break;
    case CUDA_SILU: kernel = k.silu; break;
    case CUDA_GELU: kernel = k.gelu; break;
    }
    if (!kernel) return cudaErrorInvalidValue;
    cudaError_t rc = shared_bytes ? cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) : cudaSuccess;
    if (rc != cudaSuccess) return rc;
    LAUNCH(kernel, grid, dim3(unsigned(threads)), shared_bytes, stream, a);
    return cudaGetLastError();
}

__device__ __forceinline__ float gelu_tanh(float x)
{
    return 0.5f * x * (1 + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

__device__ __forceinline__ float silu(float x)
{
    return x / (1 + __expf(-x));
}

/* One finished sum. */
template <int EPILOGUE> __device__ __forceinline__ void linear_put(const linear_args &a, int row, int o, float v)
{
    if (a.bias) v += a.bias[o];
    const size_t at = size_t(a.to ? a.to[row] : row) * a.ldo + o;
    if (EPILOGUE == CUDA_STORE) {
        if (a.position) v += a.position[size_t(row) * a.n + o];
        static_cast<float *>(a.out)[at] = v;
    }
    if (EPILOGUE == CUDA_ADD) static_cast<float *>(a.out)[at] += v;
    if (EPILOGUE == CUDA_STORE_BF16) static_cast<bf16 *>(a.out)[at] = __float2bfloat16_rn(v);
    if (EPILOGUE == CUDA_GELU) static_cast<bf16 *>(a.out)[at] = __float2bfloat16_rn(gelu_tanh(v));
}

/* Packed output o of a gate is followed by its up 8 later; the output's own number is o with the up rows left out. */
__device__ __forceinline__ void linear_put_silu(const linear_args &a, int row, int o, float gate, float up)
{
    static_cast<bf16 *>(a.out)[size_t(row) * a.ldo + o / 16 * 8 + o % 8] = __float2bfloat16_rn(silu(gate) * up);
}

/* Where lane (g, t) of a warp has its sums of an mma tile of weights by rows: number i is output g + i / 2 * 8, row 2 t + i % 2. */
template <int MT> struct linear_sums {
    static constexpr int PITCH = LINEAR_OUTS + 1, ROWS = MT * 8, FLOATS = ROWS * PITCH;
};

/* The warps' sums through shared memory, added in the warps' order, to the epilogue. */
template <int MT, int EPILOGUE>
__device__ __forceinline__ void linear_join_warps(const linear_args &a, const float (&sum)[MT][4], float *parts, int first_row, int first_out)
{
    using s = linear_sums<MT>;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float *mine = parts + warp * s::FLOATS;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) mine[(m * 8 + t * 2 + i % 2) * s::PITCH + g + i / 2 * 8] = sum[m][i];
    __syncthreads(); /* the warps' sums are there */
    for (int i = threadIdx.x; i < s::ROWS * LINEAR_OUTS; i += LINEAR_WARPS * 32) {
        const int row = i / LINEAR_OUTS, o = i % LINEAR_OUTS;
        float v = 0, up = 0;
        if (first_row + row >= a.rows || first_out + o >= a.n) continue;
        for (int p = 0; p < LINEAR_WARPS; p++) v += parts[p * s::FLOATS + row * s::PITCH + o];
        if (EPILOGUE != CUDA_SILU) {
            linear_put<EPILOGUE>(a, first_row + row, first_out + o, v);
        } else if (o < 8) {
            for (int p = 0; p < LINEAR_WARPS; p++) up += parts[p * s::FLOATS + row * s::PITCH + o + 8];
            linear_put_silu(a, first_row + row, first_out + o, v, up);
        }
    }
}

#endif
