/* Products of bf16 rows with packed weights, W (n, k) row-major: out[r, o] = sum over k of W[o, k] in[r, k], float32 sums.
 *
 * Decode rows: a block takes 16 outputs, its eight warps an eighth of k each, in rising order; the eight sums are added in the warps' order.
 * Weights are A of mma.m16n8k16 and go from global memory straight to registers, 16 bytes a lane: which k a lane's fragment elements stand
 * for is free as long as A and B agree, so lane t of a row's four takes k = 8 t .. 8 t + 7 of every 32. Eight rows cost what one costs.
 *   Bytes: n k 2 of weights once for every 8 MT rows, rows k 2 of operands for each block (they come from L2). Bound by memory.
 * Prefill rows: tiles of 128 x 128 (64 x 64 where these would be few), k in steps of 32 through shared memory by cp.async, four stages.
 *   FLOPs: 2 rows n k. Bound by the tensor cores' mma.sync rate.
 * Whatever the tile, an output's products are added in the order of k, 16 at a time: a row's bytes depend on nothing but the row. */
#include "kernels/cuda/cuda.cuh"

namespace {

struct linear_args {
    const bf16 *in;
    const bf16 *w;
    const float *bias, *position;
    const uint32_t *to;
    void *out;
    int rows, n, k_padded; /* rows from `in` on; n as packed */
    size_t ldi, ldo;
};

__device__ __forceinline__ float gelu_tanh(float x)
{
    return 0.5f * x * (1 + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

__device__ __forceinline__ float silu(float x)
{
    return x / (1 + __expf(-x));
}

/* One finished sum. */
template <int EPILOGUE> __device__ __forceinline__ void put(const linear_args &a, int row, int o, float v)
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
__device__ __forceinline__ void put_silu(const linear_args &a, int row, int o, float gate, float up)
{
    static_cast<bf16 *>(a.out)[size_t(row) * a.ldo + o / 16 * 8 + o % 8] = __float2bfloat16_rn(silu(gate) * up);
}

/* --- decode --- */

constexpr int WARPS = 8, OUTS = 16, RED_PITCH = OUTS + 1;

/* 8 MT rows from blockIdx.y * 8 MT on, outputs from blockIdx.x * 16 on. */
template <int MT, int EPILOGUE> __global__ void __launch_bounds__(WARPS * 32) linear_decode_kernel(const __grid_constant__ linear_args a)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first_out = blockIdx.x * OUTS, first_row = blockIdx.y * MT * 8;
    const int chunks = a.k_padded / 32, begin = warp * chunks / WARPS, end = (warp + 1) * chunks / WARPS;
    const bf16 *w0 = a.w + size_t(first_out + g) * a.k_padded + t * 8, *w1 = w0 + size_t(8) * a.k_padded;
    const bf16 *x[MT];
#pragma unroll
    for (int m = 0; m < MT; m++) x[m] = a.in + size_t(min(first_row + m * 8 + g, a.rows - 1)) * a.ldi + t * 8;
    float sum[MT][4] = {};
#pragma unroll 4
    for (int c = begin; c < end; c++) {
        const uint4 lo = load16(w0 + c * 32), hi = load16(w1 + c * 32);
        const uint32_t first[4] = {lo.x, hi.x, lo.y, hi.y}, second[4] = {lo.z, hi.z, lo.w, hi.w};
#pragma unroll
        for (int m = 0; m < MT; m++) {
            const uint4 b = load16(x[m] + c * 32);
            mma_m16n8k16_bf16(sum[m], first, {b.x, b.y});
            mma_m16n8k16_bf16(sum[m], second, {b.z, b.w});
        }
    }
    SHARED_ARRAY(float, parts, WARPS * MT * 8 * RED_PITCH);
    float *mine = parts + warp * MT * 8 * RED_PITCH;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) mine[(m * 8 + t * 2 + i % 2) * RED_PITCH + g + i / 2 * 8] = sum[m][i];
    __syncthreads(); /* the warps' sums are there */
    for (int i = threadIdx.x; i < MT * 8 * OUTS; i += WARPS * 32) {
        const int row = i / OUTS, o = i % OUTS;
        float v = 0, up = 0;
        if (first_row + row >= a.rows || first_out + o >= a.n) continue;
        for (int p = 0; p < WARPS; p++) v += parts[(p * MT * 8 + row) * RED_PITCH + o];
        if (EPILOGUE != CUDA_SILU) {
            put<EPILOGUE>(a, first_row + row, first_out + o, v);
        } else if (o < 8) {
            for (int p = 0; p < WARPS; p++) up += parts[(p * MT * 8 + row) * RED_PITCH + o + 8];
            put_silu(a, first_row + row, first_out + o, v, up);
        }
    }
}

template <int MT> cudaError_t launch_decode(const linear_args &a, enum cuda_epilogue epilogue, cudaStream_t stream)
{
    const dim3 grid((a.n + OUTS - 1) / OUTS, (a.rows + MT * 8 - 1) / (MT * 8)), block(WARPS * 32);
    auto *const store = linear_decode_kernel<MT, CUDA_STORE>;
    auto *const add = linear_decode_kernel<MT, CUDA_ADD>;
    auto *const gate = linear_decode_kernel<MT, CUDA_SILU>;
    switch (epilogue) {
    case CUDA_STORE: LAUNCH(store, grid, block, 0, stream, a); break;
    case CUDA_ADD: LAUNCH(add, grid, block, 0, stream, a); break;
    case CUDA_SILU: LAUNCH(gate, grid, block, 0, stream, a); break;
    default: return cudaErrorInvalidValue; /* vision has no decode rows */
    }
    return cudaGetLastError();
}

cudaError_t decode(const linear_args &a, enum cuda_epilogue epilogue, cudaStream_t stream)
{
    if (a.rows <= 8) return launch_decode<1>(a, epilogue, stream);
    if (a.rows <= 16) return launch_decode<2>(a, epilogue, stream);
    return launch_decode<4>(a, epilogue, stream);
}

/* --- prefill --- */

constexpr int TILE_K = 32, PITCH = TILE_K + 8, STAGES = 4; /* 80-byte rows keep ldmatrix free of bank conflicts */

/* The tile (TILE, 32) of src (rows, ld) from (row0, k0) on; rows past the end are zeros. k is padded. */
template <int TILE, int THREADS>
__device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *src, size_t ld, int row0, int rows, int k0)
{
#pragma unroll
    for (int i = 0; i < TILE * TILE_K / 8 / THREADS; i++) {
        const int chunk = threadIdx.x + i * THREADS, r = chunk / (TILE_K / 8), c = chunk % (TILE_K / 8) * 8;
        const bool inside = row0 + r < rows;
        cp_async16_zfill(tile + r * PITCH + c, inside ? src + size_t(row0 + r) * ld + k0 + c : src, inside);
    }
}

/* A block's tile is 4 x 4 warps of 32 x 32 (TILE 128: 2 x 4 of 64 x 32). MI, NJ: mma tiles of a warp, 16 rows and 8 outputs each. */
template <int TILE> struct shape {
    static constexpr int WARP_ROWS = TILE == 128 ? 64 : 32, WARP_OUTS = 32, MI = WARP_ROWS / 16, NJ = WARP_OUTS / 8;
    static constexpr int WARPS_ACROSS = TILE / WARP_OUTS, THREADS = TILE / WARP_ROWS * WARPS_ACROSS * 32, STAGE = 2 * TILE * PITCH;
};

template <int TILE>
__device__ __forceinline__ void multiply_stage(float (&sum)[shape<TILE>::MI][shape<TILE>::NJ][4], const bf16 *in, const bf16 *w)
{
    using s = shape<TILE>;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bf16 *in_row = in + (warp / s::WARPS_ACROSS * s::WARP_ROWS + lane % 16) * PITCH + lane / 16 * 8;
    const bf16 *w_row = w + (warp % s::WARPS_ACROSS * s::WARP_OUTS + lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < TILE_K; k += 16) {
        uint32_t fa[s::MI][4], fb[s::NJ / 2][4];
#pragma unroll
        for (int i = 0; i < s::MI; i++) ldmatrix_x4(fa[i], in_row + i * 16 * PITCH + k);
#pragma unroll
        for (int j = 0; j < s::NJ / 2; j++) ldmatrix_x4(fb[j], w_row + j * 16 * PITCH + k);
#pragma unroll
        for (int i = 0; i < s::MI; i++)
#pragma unroll
            for (int j = 0; j < s::NJ; j++) mma_m16n8k16_bf16(sum[i][j], fa[i], {fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]});
    }
}

template <int TILE, int EPILOGUE> __device__ __forceinline__ void finish(const float (&sum)[shape<TILE>::MI][shape<TILE>::NJ][4], const linear_args &a)
{
    using s = shape<TILE>;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row0 = blockIdx.y * TILE + warp / s::WARPS_ACROSS * s::WARP_ROWS + lane / 4;
    const int out0 = blockIdx.x * TILE + warp % s::WARPS_ACROSS * s::WARP_OUTS + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < s::MI; i++)
#pragma unroll
        for (int j = 0; j < s::NJ; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int row = row0 + i * 16 + e / 2 * 8, o = out0 + j * 8 + e % 2;
                if (row >= a.rows || o >= a.n) continue;
                if (EPILOGUE != CUDA_SILU)
                    put<EPILOGUE>(a, row, o, sum[i][j][e]);
                else if (j % 2 == 0)
                    put_silu(a, row, o, sum[i][j][e], sum[i][j + 1][e]);
            }
}

template <int TILE, int EPILOGUE>
__global__ void __launch_bounds__(shape<TILE>::THREADS) linear_prefill_kernel(const __grid_constant__ linear_args a)
{
    using s = shape<TILE>;
    DYN_SHARED(bf16, stages);
    const int row0 = blockIdx.y * TILE, out0 = blockIdx.x * TILE, steps = a.k_padded / TILE_K, n_padded = (a.n + CUDA_N_PAD - 1) / CUDA_N_PAD * CUDA_N_PAD;
    float sum[s::MI][s::NJ][4] = {};
    const auto load = [&](int step) {
        bf16 *to = stages + step % STAGES * s::STAGE;
        if (step < steps) {
            load_tile<TILE, s::THREADS>(to, a.in, a.ldi, row0, a.rows, step * TILE_K);
            load_tile<TILE, s::THREADS>(to + TILE * PITCH, a.w, a.k_padded, out0, n_padded, step * TILE_K);
        }
        cp_async_commit();
    };
    for (int i = 0; i < STAGES - 1; i++) load(i);
    for (int i = 0; i < steps; i++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); /* stage i is there for all; all are done with the one that is loaded next */
        load(i + STAGES - 1);
        const bf16 *now = stages + i % STAGES * s::STAGE;
        multiply_stage<TILE>(sum, now, now + TILE * PITCH);
    }
    finish<TILE, EPILOGUE>(sum, a);
}

template <int TILE, int EPILOGUE> cudaError_t launch_prefill(const linear_args &a, cudaStream_t stream)
{
    auto *const kernel = linear_prefill_kernel<TILE, EPILOGUE>;
    constexpr int BYTES = STAGES * shape<TILE>::STAGE * int(sizeof(bf16));
    cudaError_t rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
    if (rc != cudaSuccess) return rc;
    LAUNCH(kernel, dim3((a.n + TILE - 1) / TILE, (a.rows + TILE - 1) / TILE), dim3(shape<TILE>::THREADS), BYTES, stream, a);
    return cudaGetLastError();
}

template <int TILE> cudaError_t prefill_tile(const linear_args &a, enum cuda_epilogue epilogue, cudaStream_t stream)
{
    switch (epilogue) {
    case CUDA_STORE: return launch_prefill<TILE, CUDA_STORE>(a, stream);
    case CUDA_STORE_BF16: return launch_prefill<TILE, CUDA_STORE_BF16>(a, stream);
    case CUDA_ADD: return launch_prefill<TILE, CUDA_ADD>(a, stream);
    case CUDA_SILU: return launch_prefill<TILE, CUDA_SILU>(a, stream);
    case CUDA_GELU: return launch_prefill<TILE, CUDA_GELU>(a, stream);
    }
    return cudaErrorInvalidValue;
}

} // namespace

int cuda_linear_run(struct device *d, const struct cuda_linear *l, size_t n_decode, const char *what, struct err *e)
{
    CHECK(l->ldi >= l->w->k_padded && n_decode <= l->rows && (l->epilogue == CUDA_SILU) == (l->w->kind == PACK_GATE_UP));
    linear_args a = {l->in, l->w->data, l->bias, l->position, l->to, l->out, int(n_decode), int(l->w->n), int(l->w->k_padded), l->ldi, l->ldo};
    cudaError_t rc = n_decode ? decode(a, l->epilogue, d->stream) : cudaSuccess;
    if (rc == cudaSuccess && n_decode < l->rows) {
        const size_t out_bytes = l->epilogue == CUDA_STORE || l->epilogue == CUDA_ADD ? sizeof(float) : sizeof(bf16);
        a.rows = int(l->rows - n_decode);
        a.in += n_decode * l->ldi;
        if (l->to)
            a.to += n_decode;
        else
            a.out = static_cast<unsigned char *>(a.out) + n_decode * l->ldo * out_bytes;
        const size_t blocks = cuda_round_up(l->w->n, 128) / 128 * cuda_round_up(size_t(a.rows), 128) / 128;
        rc = blocks >= size_t(d->n_sm) ? prefill_tile<128>(a, l->epilogue, d->stream) : prefill_tile<64>(a, l->epilogue, d->stream);
    }
    if (rc != cudaSuccess) return cuda_check(d, what, rc, e);
    return cuda_launched(d, what, e);
}
