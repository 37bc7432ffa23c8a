/* Products of quantised rows with quantised weights, as kernels/quant.h defines them. int8, int4: exact whole sums over a step of k, each
 * times the scales of weight and row, added in float32. fp8: float32 sums of e4m3 products, taken out of the mma every 64 k; then scales.
 *
 * Weights are packed in the order of mma.m16n8k32's fragment A: 16 outputs x 32 k of 8 bits (x 64 k of int4) are 512 bytes of which a lane
 * loads 16, straight from global memory to registers. Lane (g, t) has k = 8 t .. 8 t + 7 of each 32, of outputs g and g + 8, so a row's
 * operand is one load of 8 bytes. A byte of int4 holds a number of the first 32 k in its low and one of the second in its high half, in
 * two's complement: shifted up they are int8 numbers of 16 times the value, and the sums are shifted back, which is exact. Where there is
 * no mma of e4m3 (before sm_89), weights and rows become fp16 by a shift, 2^-8 of the value each, and go through two mma of k16.
 *   Decode rows: a block takes 16 outputs, its eight warps an eighth of the steps each. Bytes: weights once for 8 MT rows. Bound by memory.
 *   Prefill rows: a warp takes 16 outputs over all of k in rising order, a block 128 outputs and 32 rows; of whole numbers the order is the
 *   definition's, so the bytes are the CPU's where the rows' are. Bound by the tensor cores and the first-level cache. */
#include "kernels/cuda/linear.cuh"

namespace {

constexpr int WIDE_MT = 4; /* rows over 8 */

enum form { INT4, INT8, E4M3 };

__device__ __forceinline__ float weight_scale(const linear_args &a, int at)
{
    return a.w_scale_bf16 ? __bfloat162float(static_cast<const bf16 *>(a.w_scale)[at]) : static_cast<const float *>(a.w_scale)[at];
}

/* Scales of step `step` of the lane's two rows in the eight from first_row on. */
__device__ __forceinline__ const float *row_scales(const linear_args &a, const linear_in &in, int step, int first_row)
{
    return in.scale + size_t(step) * in.scale_ld + min(first_row, (a.rows - 1) / 8 * 8) + threadIdx.x % 4 * 2;
}

/* What a step's whole sums add. first_row: of the warp's rows; out: of the lane's first output. */
template <int MT, enum form FORM>
__device__ __forceinline__ void add_step(const linear_args &a, const linear_in &in, int step, int first_row, int out, int n_padded, int (&dot)[MT][4],
                                         float (&sum)[MT][4])
{
    float of_w[2] = {1, 1};
    if (!a.w_per_channel)
        for (int i = 0; i < 2; i++) of_w[i] = weight_scale(a, step * n_padded + out + i * 8);
#pragma unroll
    for (int m = 0; m < MT; m++) {
        const float *of_x = row_scales(a, in, step, first_row + m * 8);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float whole = float(FORM == INT4 ? dot[m][i] >> 4 : dot[m][i]), x = of_x[i % 2];
            sum[m][i] = fmaf(whole, a.w_per_channel ? x : of_w[i / 2] * x, sum[m][i]);
            dot[m][i] = 0;
        }
    }
}

/* 32 k of e4m3. Which k the fragments' elements stand for is free if both have the same: fp16 takes them as e4m3_to_f16x2 gives them. */
__device__ __forceinline__ void multiply_e4m3(float (&sum)[4], const uint32_t (&w)[4], uint2 x, bool has_mma)
{
    if (has_mma) {
        mma_m16n8k32_e4m3(sum, w, {x.x, x.y});
        return;
    }
    uint32_t a[4][2], b[2][2];
#pragma unroll
    for (int i = 0; i < 4; i++) e4m3_to_f16x2(w[i], a[i]);
    e4m3_to_f16x2(x.x, b[0]);
    e4m3_to_f16x2(x.y, b[1]);
#pragma unroll
    for (int i = 0; i < 2; i++) mma_m16n8k16_f16(sum, {a[2 * i][0], a[2 * i + 1][0], a[2 * i][1], a[2 * i + 1][1]}, b[i]);
}

/* Tiles of 32 k from begin to end, whole steps: 16 outputs from first_out on, 8 MT rows from first_row on. */
template <int MT, enum form FORM>
__device__ __forceinline__ void multiply(const linear_args &a, const linear_in &in, int begin, int end, int first_row, int first_out, float (&sum)[MT][4])
{
    constexpr int TWO = FORM == INT4 ? 512 : 1024; /* bytes of two tiles */
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, tiles = a.k_padded / 32, n_padded = (a.n + CUDA_N_PAD - 1) / CUDA_N_PAD * CUDA_N_PAD;
    const unsigned char *w = static_cast<const unsigned char *>(a.w) + size_t(first_out / LINEAR_OUTS) * tiles * (TWO / 2) + lane * 16;
    const unsigned char *x[MT];
    const bool has_mma = FORM == E4M3 && has_mma_e4m3();
    int dot[MT][4] = {};
#pragma unroll
    for (int m = 0; m < MT; m++) x[m] = static_cast<const unsigned char *>(in.data) + size_t(min(first_row + m * 8 + g, a.rows - 1)) * in.ld + t * 8;
#pragma unroll 2
    for (int two = begin / 2; two < end / 2; two++) { /* k is padded to 64 */
        uint4 packed[2];
        float part[MT][4] = {};
        packed[0] = load16(w + size_t(two) * TWO);
        if (FORM != INT4) packed[1] = load16(w + size_t(two) * TWO + 512);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int tile = two * 2 + half;
            const uint4 p = packed[FORM == INT4 ? 0 : half];
            uint32_t f[4] = {p.x, p.y, p.z, p.w};
            if (FORM == INT4)
                for (int i = 0; i < 4; i++) f[i] = (half ? f[i] : f[i] << 4) & 0xF0F0F0F0u;
#pragma unroll
            for (int m = 0; m < MT; m++) {
                const uint2 b = *reinterpret_cast<const uint2 *>(x[m] + tile * 32);
                if (FORM == E4M3)
                    multiply_e4m3(part[m], f, b, has_mma);
                else
                    mma_m16n8k32_s8(dot[m], f, {b.x, b.y});
            }
            if (FORM != E4M3 && (tile + 1) % a.step_tiles == 0) add_step<MT, FORM>(a, in, tile / a.step_tiles, first_row, first_out + g, n_padded, dot, sum);
        }
        if (FORM == E4M3)
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) sum[m][i] += part[m][i];
    }
}

/* The same tiles of weights into the second-level cache, while the kernel before still runs. */
template <enum form FORM> __device__ __forceinline__ void prefetch(const linear_args &a, int begin, int end, int first_out)
{
    constexpr int TILE = FORM == INT4 ? 256 : 512;
    const unsigned char *w = static_cast<const unsigned char *>(a.w) + size_t(first_out / LINEAR_OUTS) * (a.k_padded / 32) * TILE;
    for (int at = begin * TILE + threadIdx.x % 32 * 128; at < end * TILE; at += 32 * 128) prefetch_global_L2(w + at);
}

/* What is left when all k are summed. */
template <int MT, enum form FORM>
__device__ __forceinline__ void scale_sums(const linear_args &a, const linear_in &in, int first_row, int out, float (&sum)[MT][4])
{
    if (!a.w_per_channel) return;
    const float of_w[2] = {weight_scale(a, out), weight_scale(a, out + 8)};
    const float unit = FORM == E4M3 && !has_mma_e4m3() ? 1 / (E4M3_UNIT * E4M3_UNIT) : 1;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        const float *of_x = row_scales(a, in, 0, first_row + m * 8);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (FORM == E4M3) sum[m][i] *= unit, sum[m][i] *= of_x[i % 2];
            sum[m][i] *= of_w[i / 2];
        }
    }
}

/* Where rows are made, ptxas left alone aims at more blocks an SM than two, and spills on sm_86 and sm_89. 0: left alone. */
template <int MT, enum form FORM, int EPILOGUE, enum operand_source MADE>
__global__ void __launch_bounds__(LINEAR_WARPS * 32, MADE == GIVEN ? 0 : 2) quant_decode_kernel(const __grid_constant__ linear_args a)
{
    const int warp = threadIdx.x / 32, first_out = blockIdx.x * LINEAR_OUTS, first_row = blockIdx.y * MT * 8;
    const int unit = max(a.step_tiles, 2), units = a.k_padded / 32 / unit;
    const int begin = warp * units / LINEAR_WARPS * unit, end = (warp + 1) * units / LINEAR_WARPS * unit;
    float sum[MT][4] = {};
    griddepcontrol_launch_dependents();
    prefetch<FORM>(a, begin, end, first_out);
    griddepcontrol_wait();
    const linear_in in = linear_rows<MADE, true>(a);
    multiply<MT, FORM>(a, in, begin, end, first_row, first_out, sum);
    scale_sums<MT, FORM>(a, in, first_row, first_out + threadIdx.x % 32 / 4, sum);
    SHARED_ARRAY(float, parts, LINEAR_WARPS * linear_sums<MT>::FLOATS);
    linear_join_warps<MT, EPILOGUE>(a, sum, parts, first_row, first_out);
}

/* PARTS 1: prefill rows. PARTS LINEAR_WARPS: many decode rows, see linear.cuh. Left alone ptxas aims at two blocks an SM for e4m3, and spills. */
template <enum form FORM, int EPILOGUE, int PARTS>
__global__ void __launch_bounds__(LINEAR_WARPS * 32, FORM == E4M3 ? 1 : 2) quant_wide_kernel(const __grid_constant__ linear_args a)
{
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4;
    const int first_out = (blockIdx.x * LINEAR_WARPS + warp) * LINEAR_OUTS, first_row = blockIdx.y * WIDE_MT * 8;
    const int unit = max(a.step_tiles, 2), units = a.k_padded / 32 / unit;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (first_out >= a.n) return;
    const linear_in in = {a.in, a.in_scale, a.ldi, a.scale_ld};
    float all[WIDE_MT][4] = {};
    for (int part = 0; part < PARTS; part++) {
        float sum[WIDE_MT][4] = {};
        multiply<WIDE_MT, FORM>(a, in, part * units / PARTS * unit, (part + 1) * units / PARTS * unit, first_row, first_out, sum);
        scale_sums<WIDE_MT, FORM>(a, in, first_row, first_out + g, sum);
#pragma unroll
        for (int m = 0; m < WIDE_MT; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) all[m][i] = PARTS == 1 ? sum[m][i] : all[m][i] + sum[m][i];
    }
    linear_put_tile<WIDE_MT, EPILOGUE>(a, all, first_row, first_out);
}

template <int MT, enum form FORM> cudaError_t launch_decode(const linear_args &a, enum cuda_epilogue epilogue, cudaStream_t stream)
{
    const linear_kernels kernels = {quant_decode_kernel<MT, FORM, CUDA_STORE, GIVEN>, nullptr, quant_decode_kernel<MT, FORM, CUDA_ADD, GIVEN>,
                                    quant_decode_kernel<MT, FORM, CUDA_SILU, GIVEN>, nullptr, quant_decode_kernel<MT, FORM, CUDA_QKV, GIVEN>};
    const dim3 grid((a.n + LINEAR_OUTS - 1) / LINEAR_OUTS, (a.rows + MT * 8 - 1) / (MT * 8));
    return linear_launch(kernels, epilogue, grid, LINEAR_WARPS * 32, 0, a, stream);
}

template <enum form FORM> cudaError_t launch_decode_own(const linear_args &a, enum cuda_epilogue epilogue, cudaStream_t stream)
{
    const linear_kernels kernels = {quant_decode_kernel<1, FORM, CUDA_STORE, RMSNORM>, nullptr, quant_decode_kernel<1, FORM, CUDA_ADD, ROWS>,
                                    quant_decode_kernel<1, FORM, CUDA_SILU, RMSNORM>, nullptr, quant_decode_kernel<1, FORM, CUDA_QKV, RMSNORM>};
    return linear_launch(kernels, epilogue, dim3((a.n + LINEAR_OUTS - 1) / LINEAR_OUTS), LINEAR_WARPS * 32, linear_own_bytes(a, true), a, stream);
}

template <enum form FORM> cudaError_t launch(const linear_args &a, enum cuda_epilogue epilogue, bool decode, cudaStream_t stream)
{
    const linear_kernels prefill = {quant_wide_kernel<FORM, CUDA_STORE, 1>, quant_wide_kernel<FORM, CUDA_STORE_BF16, 1>, quant_wide_kernel<FORM, CUDA_ADD, 1>,
                                    quant_wide_kernel<FORM, CUDA_SILU, 1>,  quant_wide_kernel<FORM, CUDA_GELU, 1>,       quant_wide_kernel<FORM, CUDA_QKV, 1>};
    const linear_kernels wide = {quant_wide_kernel<FORM, CUDA_STORE, LINEAR_WARPS>, nullptr, quant_wide_kernel<FORM, CUDA_ADD, LINEAR_WARPS>,
                                 quant_wide_kernel<FORM, CUDA_SILU, LINEAR_WARPS>,  nullptr, quant_wide_kernel<FORM, CUDA_QKV, LINEAR_WARPS>};
    if (a.own.x) return launch_decode_own<FORM>(a, epilogue, stream);
    if (!decode || linear_is_wide<WIDE_MT>(a))
        return linear_launch(decode ? wide : prefill, epilogue, linear_wide_grid<WIDE_MT>(a), LINEAR_WARPS * 32, 0, a, stream);
    return a.rows <= 8 ? launch_decode<1, FORM>(a, epilogue, stream) : launch_decode<4, FORM>(a, epilogue, stream);
}

} // namespace

cudaError_t cuda_linear_quant(const linear_args &a, const struct quant_format &quant, enum cuda_epilogue epilogue, bool decode,
                              cudaStream_t stream)
{
    if (quant.e4m3) return launch<E4M3>(a, epilogue, decode, stream);
    return quant.bits == 4 ? launch<INT4>(a, epilogue, decode, stream) : launch<INT8>(a, epilogue, decode, stream);
}
