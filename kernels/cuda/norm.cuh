/* Operands of products: how a block makes a row. See norm.cu, whose kernel makes rows in device memory; the products of few rows make them for themselves. */
#ifndef SPILLWAY_KERNELS_CUDA_NORM_CUH
#define SPILLWAY_KERNELS_CUDA_NORM_CUH

#include "kernels/cuda/cuda.cuh"

enum { OPERAND_THREADS = 256 }; /* of the block that makes a row */
enum operand_source { RMSNORM, LAYERNORM, ROWS, GIVEN /* of a product: made before */ };

struct operand_args {
    const void *x;        /* float32 (rows, n); ROWS: bf16 (rows, ldx) */
    const uint32_t *pick; /* rows of x; NULL: all */
    const float *w, *b;
    float eps;
    int n, ldx;
    int grid, shuffle; /* shuffle x shuffle neighbours of a grid are one row of out; 0: a row of x is one */
    int row_n;         /* numbers of a row of out without its zeros */
    int step;          /* of k that shares a scale: 32, 64 or 128; 0: all, and the numbers are e4m3 */
};

/* Where it goes: device or shared memory. */
struct operand_rows {
    void *out;
    size_t ldo;
    float *scale; /* (steps, scale_ld), e4m3: (rows); NULL: out is bf16 */
    size_t scale_ld;
};

/* Every thread gets the block's sum. */
__device__ __forceinline__ float block_sum(float v, float *warp_sums)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    __syncthreads(); /* whoever reads the last sum is done */
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = v;
    __syncthreads(); /* the warps' sums are there */
    float sum = 0;
    for (int i = 0; i < OPERAND_THREADS / 32; i++) sum += warp_sums[i];
    return sum;
}

/* What makes a number of the row: (x - mean) scale w + b. */
template <enum operand_source SOURCE> struct row_reader {
    const void *x;
    const float *w, *b;
    float mean, scale;
    int n;
    __device__ __forceinline__ float operator()(int i) const
    {
        if (i >= n) return 0;
        if (SOURCE == ROWS) return __bfloat162float(static_cast<const bf16 *>(x)[i]);
        const float v = (static_cast<const float *>(x)[i] - mean) * scale * w[i];
        return SOURCE == LAYERNORM ? v + b[i] : v;
    }
};

template <enum operand_source SOURCE> __device__ __forceinline__ row_reader<SOURCE> read_row(const operand_args &a, int row, float *warp_sums)
{
    row_reader<SOURCE> r = {};
    r.w = a.w, r.b = a.b, r.n = a.n;
    if (SOURCE == ROWS) {
        r.x = static_cast<const bf16 *>(a.x) + size_t(row) * a.ldx;
        return r;
    }
    const float *x = static_cast<const float *>(a.x) + size_t(row) * a.n;
    r.x = x;
    float square = 0;
    if (SOURCE == LAYERNORM) {
        for (int i = threadIdx.x; i < a.n; i += OPERAND_THREADS) r.mean += x[i];
        r.mean = block_sum(r.mean, warp_sums) / a.n;
    }
    for (int i = threadIdx.x; i < a.n; i += OPERAND_THREADS) square = fmaf(x[i] - r.mean, x[i] - r.mean, square);
    r.scale = 1 / sqrtf(block_sum(square, warp_sums) / a.n + a.eps);
    return r;
}

/* A warp a step, a lane every 32nd number of it. */
template <class READER> __device__ __forceinline__ void quantise_row(const operand_args &a, const operand_rows &o, const READER &read, int row, int first, int end)
{
    constexpr int MOST = QUANT_MAX_STEP / 32;
    const int lane = threadIdx.x % 32, each = a.step / 32;
    for (int s = threadIdx.x / 32; s < (end - first) / a.step; s += OPERAND_THREADS / 32) {
        float v[MOST], most = 0;
        bool finite = true;
#pragma unroll
        for (int i = 0; i < MOST; i++) {
            v[i] = i < each ? read(s * a.step + i * 32 + lane) : 0;
            most = fmaxf(most, fabsf(v[i])), finite = finite && fabsf(v[i]) < INFINITY;
        }
#pragma unroll
        for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
        finite = __all_sync(0xffffffffu, finite);
        const bool zero = most < QUANT_TINY;
        const float inverse = zero ? 0 : 127 / most;
        int8_t *out = static_cast<int8_t *>(o.out) + row * o.ldo + first + s * a.step;
#pragma unroll
        for (int i = 0; i < MOST; i++)
            if (i < each) out[i * 32 + lane] = finite ? int8_t(rintf(v[i] * inverse)) : 0;
        if (lane == 0) o.scale[(first / a.step + s) * o.scale_ld + row] = !finite ? NAN : zero ? 0 : most / 127;
    }
}

/* The block's largest size, as bits, of which those of what is not finite are the largest. */
__device__ __forceinline__ uint32_t block_most(uint32_t most, float *warp_values)
{
    most = __reduce_max_sync(0xffffffffu, most);
    __syncthreads(); /* whoever reads the last sum is done */
    if (threadIdx.x % 32 == 0) warp_values[threadIdx.x / 32] = __uint_as_float(most);
    __syncthreads(); /* the warps' are there */
    for (int i = 0; i < OPERAND_THREADS / 32; i++) most = max(most, __float_as_uint(warp_values[i]));
    return most;
}

/* Two numbers a thread, twice: for the scale, and to be rounded by it. */
template <class READER> __device__ __forceinline__ void e4m3_row(const operand_args &a, const operand_rows &o, const READER &read, int row, int end, float *warp_values)
{
    uint32_t bits = 0;
    for (int i = threadIdx.x; i < a.n; i += OPERAND_THREADS) bits = max(bits, __float_as_uint(read(i)) & 0x7fffffffu);
    bits = block_most(bits, warp_values);
    const float most = __uint_as_float(bits);
    const bool finite = most < INFINITY, zero = most < QUANT_TINY;
    const float inverse = !finite || zero ? 0 : 448 / most;
    uint16_t *out = reinterpret_cast<uint16_t *>(static_cast<unsigned char *>(o.out) + row * o.ldo);
    for (int i = threadIdx.x; i < end / 2; i += OPERAND_THREADS) out[i] = finite ? cvt_e4m3x2(read(2 * i) * inverse, read(2 * i + 1) * inverse) : 0;
    if (threadIdx.x == 0) o.scale[row] = !finite ? NAN : zero ? 0 : most / 448;
}

/* Numbers first .. end of row `row` of what is made, from row `from` of x. All threads of the block. */
template <enum operand_source SOURCE>
__device__ __forceinline__ void operand_row(const operand_args &a, const operand_rows &o, int from, int row, int first, int end, float *warp_values)
{
    const row_reader<SOURCE> read = read_row<SOURCE>(a, from, warp_values);
    if (o.scale) {
        if (a.step)
            quantise_row(a, o, read, row, first, end);
        else
            e4m3_row(a, o, read, row, end, warp_values);
        return;
    }
    bf16 *out = static_cast<bf16 *>(o.out) + row * o.ldo;
    for (int i = first + threadIdx.x; i < end; i += OPERAND_THREADS) out[i] = __float2bfloat16_rn(read(i - first));
}

int cuda_operand_step(const struct weight *w); /* of a quantised weight */
operand_args cuda_rmsnorm_args(const float *x, const uint32_t *pick, const float *norm, float eps, const struct weight *w);
operand_args cuda_rows_args(const bf16 *in, const struct weight *w);

#endif
