/* What the products of bf16 and of quantised weights share: their arguments, and what becomes of a finished sum. */
#ifndef SPILLWAY_KERNELS_CUDA_LINEAR_CUH
#define SPILLWAY_KERNELS_CUDA_LINEAR_CUH

#include "kernels/cuda/norm.cuh"

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
    cuda_kv_place place; /* CUDA_QKV; of the rows from `in` on */
    operand_args own;    /* what a kernel makes its rows of; x NULL: they are given */
    bool early;          /* host: launched before the kernel before has ended */
    int n_sm;            /* host */
};

/* Rows as a decode kernel reads them. */
struct linear_in {
    const void *data;
    const float *scale;
    size_t ld;
    int scale_ld;
};

enum { LINEAR_WARPS = 8, LINEAR_OUTS = 16, LINEAR_OWN_ROWS = 4 /* that a decode kernel makes itself, at most */ };
static_assert(LINEAR_WARPS * 32 == OPERAND_THREADS, "a block makes the rows as operand_kernel does");

cudaError_t cuda_linear_bf16_decode(const linear_args &a, enum cuda_epilogue epilogue, cudaStream_t stream);
cudaError_t cuda_linear_bf16_prefill(const linear_args &a, enum cuda_epilogue epilogue, int n_sm, cudaStream_t stream);
cudaError_t cuda_linear_quant(const linear_args &a, const struct quant_format &quant, enum cuda_epilogue epilogue, bool decode,
                              cudaStream_t stream);

/* A kernel's instances by epilogue; NULL where there is none: of decode rows two, as vision has no such rows. */
struct linear_kernels {
    void (*store)(linear_args), (*store_bf16)(linear_args), (*add)(linear_args), (*silu)(linear_args), (*gelu)(linear_args), (*qkv)(linear_args);
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
    case CUDA_QKV: kernel = k.qkv; break;
    }
    if (!kernel) return cudaErrorInvalidValue;
    cudaError_t rc = shared_bytes ? cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) : cudaSuccess;
    if (rc != cudaSuccess) return rc;
    LAUNCH_EARLY(a.early, kernel, grid, dim3(unsigned(threads)), shared_bytes, stream, a);
    return cudaGetLastError();
}

/* Rows that a kernel makes itself lie in shared memory, apart by so many numbers that lanes of neighbouring rows reach other banks; then their scales. */
__host__ __device__ __forceinline__ size_t linear_own_ld(size_t k_padded)
{
    return k_padded + 32;
}
inline int linear_own_bytes(const linear_args &a, bool quantised)
{
    const size_t rows = a.rows * linear_own_ld(a.k_padded) * (quantised ? 1 : sizeof(bf16)), steps = a.own.step ? a.k_padded / a.own.step : 1;
    return int(rows + (quantised ? steps * 8 * sizeof(float) : 0));
}

/* The block's rows, made by all its threads, or given. After griddepcontrol_wait. */
template <enum operand_source MADE, bool QUANTISED> __device__ __forceinline__ linear_in linear_rows(const linear_args &a)
{
    if constexpr (MADE == GIVEN) {
        return {a.in, a.in_scale, a.ldi, a.scale_ld};
    } else {
        DYN_SHARED(unsigned char, made);
        SHARED_ARRAY(float, warp_values, LINEAR_WARPS);
        const size_t ld = linear_own_ld(a.k_padded);
        float *scale = QUANTISED ? reinterpret_cast<float *>(made + a.rows * ld) : nullptr;
        const operand_rows rows = {made, ld, scale, 8};
        for (int r = 0; r < a.rows; r++) operand_row<MADE>(a.own, rows, a.own.pick ? a.own.pick[r] : r, r, 0, a.k_padded, warp_values);
        __syncthreads(); /* the rows are there */
        return {made, scale, ld, 8};
    }
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
    const uint32_t to = a.to ? a.to[row] : uint32_t(row);
    if (to == UINT32_MAX) return;
    if (a.bias) v += a.bias[o];
    const size_t at = to * a.ldo + o;
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

/* Packed output o of a head's first half is followed by its fellow of the second 8 later. */
__device__ __forceinline__ void linear_put_qkv(const linear_args &a, int row, int o, float first, float second)
{
    const cuda_kv_place &p = a.place;
    const uint32_t hd = p.kv.head_dim, in_half = hd / 2, head = o / hd, i = o % hd / 16 * 8 + o % 8;
    const int position = p.position[row];
    if (position < 0) return;
    if (p.rope && head < p.heads + p.kv.kv_heads) {
        const float2 turn = p.rope[size_t(position) * in_half + i];
        const float turned = first * turn.x - second * turn.y;
        second = second * turn.x + first * turn.y, first = turned;
    }
    if (head >= p.heads && !kv_has_scales(p.kv)) {
        const uint32_t block = p.blocks[p.sequence[row] * p.max_blocks + position / CUDA_KV_BLOCK];
        const bool value = head >= p.heads + p.kv.kv_heads;
        bf16 *to = reinterpret_cast<bf16 *>(kv_at(p.kv, block, value, (head - p.heads) % p.kv.kv_heads)) + position % CUDA_KV_BLOCK * hd;
        to[i] = __float2bfloat16_rn(first), to[i + in_half] = __float2bfloat16_rn(second);
        return;
    }
    const float scale = head < p.heads ? 1 / sqrtf(float(hd)) : 1;
    float *to = static_cast<float *>(a.out) + row * a.ldo + head * hd;
    to[i] = first * scale, to[i + in_half] = second * scale;
}

/* Where two packed outputs, 8 apart, become one thing. */
template <int EPILOGUE> constexpr bool linear_in_pairs = EPILOGUE == CUDA_SILU || EPILOGUE == CUDA_QKV;

template <int EPILOGUE> __device__ __forceinline__ void linear_put_pair(const linear_args &a, int row, int o, float first, float second)
{
    if (EPILOGUE == CUDA_SILU)
        linear_put_silu(a, row, o, first, second);
    else
        linear_put_qkv(a, row, o, first, second);
}

/* Where lane (g, t) of a warp has its sums of an mma tile of weights by rows: number i is output g + i / 2 * 8, row 2 t + i % 2. */
template <int MT> struct linear_sums {
    static constexpr int PITCH = LINEAR_OUTS + 1, ROWS = MT * 8, FLOATS = ROWS * PITCH;
};

/* A warp's finished sums to the epilogue. */
template <int MT, int EPILOGUE> __device__ __forceinline__ void linear_put_tile(const linear_args &a, const float (&sum)[MT][4], int first_row, int first_out)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = first_row + m * 8 + t * 2 + i % 2, o = first_out + g + i / 2 * 8;
            if (row >= a.rows || o >= a.n) continue;
            if (!linear_in_pairs<EPILOGUE>)
                linear_put<EPILOGUE>(a, row, o, sum[m][i]);
            else if (i < 2)
                linear_put_pair<EPILOGUE>(a, row, o, sum[m][i], sum[m][i + 2]);
        }
}

/* Many decode rows: a block that takes as many outputs as its warps can, in place of 16, reads the rows less often, where that still gives the device
 * enough to do. A warp then sums all of k, in the parts that warps would have, and adds them in the warps' order: the bytes are the same. */
constexpr int LINEAR_WIDE_OUTS = LINEAR_WARPS * LINEAR_OUTS;
template <int MT> inline dim3 linear_wide_grid(const linear_args &a)
{
    return dim3((a.n + LINEAR_WIDE_OUTS - 1) / LINEAR_WIDE_OUTS, (a.rows + MT * 8 - 1) / (MT * 8));
}
template <int MT> inline bool linear_is_wide(const linear_args &a)
{
    const dim3 grid = linear_wide_grid<MT>(a);
    return a.rows > 32 && 2 * int(grid.x * grid.y) >= a.n_sm;
}

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
        float v = 0, second = 0;
        if (first_row + row >= a.rows || first_out + o >= a.n) continue;
        for (int p = 0; p < LINEAR_WARPS; p++) v += parts[p * s::FLOATS + row * s::PITCH + o];
        if (!linear_in_pairs<EPILOGUE>) {
            linear_put<EPILOGUE>(a, first_row + row, first_out + o, v);
        } else if (o < 8) {
            for (int p = 0; p < LINEAR_WARPS; p++) second += parts[p * s::FLOATS + row * s::PITCH + o + 8];
            linear_put_pair<EPILOGUE>(a, first_row + row, first_out + o, v, second);
        }
    }
}

#endif
