/* Products of bf16 rows with packed weights, W (n, k) row-major: out[r, o] = sum over k of W[o, k] in[r, k], float32 sums.
 *
 * Decode rows: a block takes 16 outputs, its eight warps an eighth of k each, in rising order; the eight sums are added in the warps' order.
 * Weights are A of mma.m16n8k16 and go from global memory straight to registers, 16 bytes a lane: which k a lane's fragment elements stand
 * for is free as long as A and B agree, so lane t of a row's four takes k = 8 t .. 8 t + 7 of every 32. Eight rows cost what one costs.
 *   Bytes: n k 2 of weights once for every 8 MT rows, rows k 2 of operands for each block (they come from L2). Bound by memory.
 *   From 33 rows on a block may take 128 outputs, a warp 16 of them over all of k (see linear.cuh): 8 times fewer bytes of operands.
 * Prefill rows: tiles of 128 x 128 (64 x 64 where these would be few), k in steps of 32 through shared memory by cp.async, four stages.
 *   FLOPs: 2 rows n k. Bound by the tensor cores' mma.sync rate.
 * Whatever the tile, an output's products are added in the order of k, 16 at a time: a row's bytes depend on nothing but the row. */
#include "kernels/cuda/linear.cuh"

namespace {

constexpr int WIDE_MT = 8; /* rows over 8 */

/* --- decode --- */

/* Chunks of 32 k from begin to end of 16 outputs and 8 MT rows; w0, w1, x: of the lane. */
template <int MT>
__device__ __forceinline__ void multiply_rows(const bf16 *w0, const bf16 *w1, const bf16 *const (&x)[MT], int begin, int end, float (&sum)[MT][4])
{
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
}

/* 8 MT rows from blockIdx.y * 8 MT on, outputs from blockIdx.x * 16 on. */
template <int MT, int EPILOGUE, enum operand_source MADE>
__global__ void __launch_bounds__(LINEAR_WARPS * 32) linear_decode_kernel(const __grid_constant__ linear_args a)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first_out = blockIdx.x * LINEAR_OUTS, first_row = blockIdx.y * MT * 8;
    const int chunks = a.k_padded / 32, begin = warp * chunks / LINEAR_WARPS, end = (warp + 1) * chunks / LINEAR_WARPS;
    const bf16 *w0 = static_cast<const bf16 *>(a.w) + size_t(first_out + g) * a.k_padded + t * 8, *w1 = w0 + size_t(8) * a.k_padded;
    griddepcontrol_launch_dependents();
    for (int c = begin + t % 2 * 2; c < end; c += 4) prefetch_global_L2((t < 2 ? w0 : w1) + c * 32 - t * 8);
    griddepcontrol_wait();
    const linear_in in = linear_rows<MADE, false>(a);
    const bf16 *x[MT];
#pragma unroll
    for (int m = 0; m < MT; m++) x[m] = static_cast<const bf16 *>(in.data) + size_t(min(first_row + m * 8 + g, a.rows - 1)) * in.ld + t * 8;
    float sum[MT][4] = {};
    multiply_rows<MT>(w0, w1, x, begin, end, sum);
    SHARED_ARRAY(float, parts, LINEAR_WARPS * linear_sums<MT>::FLOATS);
    linear_join_warps<MT, EPILOGUE>(a, sum, parts, first_row, first_out);
}

/* Outputs from (blockIdx.x * LINEAR_WARPS + warp) * 16 on: see LINEAR_WIDE_OUTS. */
template <int MT, int EPILOGUE> __global__ void __launch_bounds__(LINEAR_WARPS * 32) linear_wide_kernel(const __grid_constant__ linear_args a)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first_out = (blockIdx.x * LINEAR_WARPS + warp) * LINEAR_OUTS, first_row = blockIdx.y * MT * 8, chunks = a.k_padded / 32;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (first_out >= a.n) return;
    const bf16 *w0 = static_cast<const bf16 *>(a.w) + size_t(first_out + g) * a.k_padded + t * 8, *w1 = w0 + size_t(8) * a.k_padded;
    const bf16 *x[MT];
#pragma unroll
    for (int m = 0; m < MT; m++) x[m] = static_cast<const bf16 *>(a.in) + size_t(min(first_row + m * 8 + g, a.rows - 1)) * a.ldi + t * 8;
    float all[MT][4] = {};
    for (int part = 0; part < LINEAR_WARPS; part++) {
        float sum[MT][4] = {};
        multiply_rows<MT>(w0, w1, x, part * chunks / LINEAR_WARPS, (part + 1) * chunks / LINEAR_WARPS, sum);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) all[m][i] += sum[m][i];
    }
    linear_put_tile<MT, EPILOGUE>(a, all, first_row, first_out);
}

cudaError_t launch_wide(const linear_args &a, enum cuda_epilogue epilogue, cudaStream_t stream)
{
    constexpr int MT = WIDE_MT;
    const linear_kernels kernels = {linear_wide_kernel<MT, CUDA_STORE>, nullptr, linear_wide_kernel<MT, CUDA_ADD>, linear_wide_kernel<MT, CUDA_SILU>, nullptr,
                                    linear_wide_kernel<MT, CUDA_QKV>};
    return linear_launch(kernels, epilogue, linear_wide_grid<MT>(a), LINEAR_WARPS * 32, 0, a, stream);
}

template <int MT> cudaError_t launch_decode(const linear_args &a, enum cuda_epilogue epilogue, cudaStream_t stream)
{
    const linear_kernels kernels = {linear_decode_kernel<MT, CUDA_STORE, GIVEN>, nullptr, linear_decode_kernel<MT, CUDA_ADD, GIVEN>,
                                    linear_decode_kernel<MT, CUDA_SILU, GIVEN>, nullptr, linear_decode_kernel<MT, CUDA_QKV, GIVEN>};
    const dim3 grid((a.n + LINEAR_OUTS - 1) / LINEAR_OUTS, (a.rows + MT * 8 - 1) / (MT * 8));
    return linear_launch(kernels, epilogue, grid, LINEAR_WARPS * 32, 0, a, stream);
}

cudaError_t launch_decode_own(const linear_args &a, enum cuda_epilogue epilogue, cudaStream_t stream)
{
    const linear_kernels kernels = {linear_decode_kernel<1, CUDA_STORE, RMSNORM>, nullptr, nullptr, linear_decode_kernel<1, CUDA_SILU, RMSNORM>, nullptr,
                                    linear_decode_kernel<1, CUDA_QKV, RMSNORM>};
    return linear_launch(kernels, epilogue, dim3((a.n + LINEAR_OUTS - 1) / LINEAR_OUTS), LINEAR_WARPS * 32, linear_own_bytes(a, false), a, stream);
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
        cp_async16_zfill(tile + r * PITCH + c, inside ? src + size_t(row0 + r) * ld + k0 + c : src, inside ? 16 : 0);
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
                if (!linear_in_pairs<EPILOGUE>)
                    linear_put<EPILOGUE>(a, row, o, sum[i][j][e]);
                else if (j % 2 == 0)
                    linear_put_pair<EPILOGUE>(a, row, o, sum[i][j][e], sum[i][j + 1][e]);
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
            load_tile<TILE, s::THREADS>(to, static_cast<const bf16 *>(a.in), a.ldi, row0, a.rows, step * TILE_K);
            load_tile<TILE, s::THREADS>(to + TILE * PITCH, static_cast<const bf16 *>(a.w), a.k_padded, out0, n_padded, step * TILE_K);
        }
        cp_async_commit();
    };
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
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

template <int TILE> cudaError_t launch_prefill(const linear_args &a, enum cuda_epilogue epilogue, cudaStream_t stream)
{
    const linear_kernels kernels = {linear_prefill_kernel<TILE, CUDA_STORE>, linear_prefill_kernel<TILE, CUDA_STORE_BF16>,
                                    linear_prefill_kernel<TILE, CUDA_ADD>, linear_prefill_kernel<TILE, CUDA_SILU>, linear_prefill_kernel<TILE, CUDA_GELU>,
                                    linear_prefill_kernel<TILE, CUDA_QKV>};
    const dim3 grid((a.n + TILE - 1) / TILE, (a.rows + TILE - 1) / TILE);
    return linear_launch(kernels, epilogue, grid, shape<TILE>::THREADS, STAGES * shape<TILE>::STAGE * int(sizeof(bf16)), a, stream);
}

} // namespace

cudaError_t cuda_linear_bf16_decode(const linear_args &a, enum cuda_epilogue epilogue, cudaStream_t stream)
{
    if (a.own.x) return launch_decode_own(a, epilogue, stream);
    if (a.rows <= 8) return launch_decode<1>(a, epilogue, stream);
    if (a.rows <= 16) return launch_decode<2>(a, epilogue, stream);
    return linear_is_wide<WIDE_MT>(a) ? launch_wide(a, epilogue, stream) : launch_decode<4>(a, epilogue, stream);
}

cudaError_t cuda_linear_bf16_prefill(const linear_args &a, enum cuda_epilogue epilogue, int n_sm, cudaStream_t stream)
{
    const int blocks = (a.n + 127) / 128 * ((a.rows + 127) / 128);
    return blocks >= n_sm ? launch_prefill<128>(a, epilogue, stream) : launch_prefill<64>(a, epilogue, stream);
}

bool cuda_linear_makes(const struct weight *w, size_t rows, size_t n_decode)
{
    constexpr size_t MOST = 40 << 10; /* of 48 KiB, beside what warps exchange */
    return rows == n_decode && rows <= LINEAR_OWN_ROWS && rows * linear_own_ld(w->k_padded) * (w->quant.bits ? 1 : sizeof(bf16)) <= MOST;
}

int cuda_linear_run(struct device *d, const struct cuda_linear *l, size_t n_decode, const char *what, struct err *e)
{
    const struct weight *w = l->w;
    const bool quantised = w->quant.bits != 0;
    CHECK((l->own ? cuda_linear_makes(w, l->rows, n_decode) : l->in.ld >= w->k_padded) && n_decode <= l->rows &&
          (l->epilogue == CUDA_SILU) == (w->kind == PACK_GATE_UP) &&
          (l->epilogue == CUDA_QKV) == (w->kind == PACK_QKV));
    linear_args a = {};
    a.in = l->in.data, a.in_scale = l->in.scale, a.w = w->data, a.w_scale = w->scale, a.bias = l->bias, a.position = l->position, a.to = l->to, a.out = l->out;
    a.rows = int(n_decode), a.n = int(w->n), a.k_padded = int(w->k_padded), a.ldi = l->in.ld, a.ldo = l->ldo;
    if (l->place) a.place = *l->place;
    if (l->own) a.own = *l->own;
    a.early = d->early, a.n_sm = d->n_sm;
    if (quantised) {
        a.scale_ld = int(l->in.scale_ld), a.step_tiles = int(quant_step(&w->quant) / 32);
        a.w_scale_bf16 = w->quant.scale == DTYPE_BF16, a.w_per_channel = w->quant.group == 0;
    }
    cudaError_t rc = cudaSuccess;
    if (n_decode)
        rc = quantised ? cuda_linear_quant(a, w->quant, l->epilogue, true, d->stream) : cuda_linear_bf16_decode(a, l->epilogue, d->stream);
    if (rc == cudaSuccess && n_decode < l->rows) {
        const size_t out_bytes = l->epilogue == CUDA_STORE || l->epilogue == CUDA_ADD || l->epilogue == CUDA_QKV ? sizeof(float) : sizeof(bf16);
        a.rows = int(l->rows - n_decode);
        a.in = static_cast<const unsigned char *>(a.in) + n_decode * a.ldi * (quantised ? 1 : sizeof(bf16));
        a.in_scale += quantised ? n_decode : 0;
        if (l->place) a.place.position += n_decode, a.place.sequence += n_decode;
        if (l->to)
            a.to += n_decode;
        else
            a.out = static_cast<unsigned char *>(a.out) + n_decode * l->ldo * out_bytes;
        int done = 0;
        if (cuda_lt_product(d, w, l->epilogue, a, what, &done, e)) return done ? done : cuda_launched(d, what, e);
        rc = quantised ? cuda_linear_quant(a, w->quant, l->epilogue, false, d->stream)
                       : cuda_linear_bf16_prefill(a, l->epilogue, d->n_sm, d->stream);
    }
    return rc != cudaSuccess ? cuda_check(d, what, rc, e) : cuda_launched(d, what, e);
}
