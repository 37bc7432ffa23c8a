/* Operands of products: rows normalised, or as they are, in the form that the product reads (struct cuda_rows), with zeros from k to k_padded.
 *   rmsnorm:   y[r, i] = w[i] x[r, i] / sqrt(mean over i of x[r, i]^2 + eps)
 *   layernorm: y[r, i] = w[i] (x[r, i] - mean) / sqrt(variance + eps) + b[i]
 *   then       bf16, int8 and a scale a step, or e4m3 and a scale a row (kernels/quant.h).
 * A block a row; sums are float32 in one order: thread by thread, lanes by halves, warps in rising order. Bytes: rows x (4 or 2 in, 2 or 1 out) x k;
 * bound by memory, or by being launched where rows are few. */
#include "kernels/cuda/cuda.cuh"

namespace {

constexpr int THREADS = 256;
enum source { RMSNORM, LAYERNORM, ROWS };

struct operand_args {
    const void *x;        /* float32 (rows, n); ROWS: bf16 (rows, ldx) */
    const uint32_t *pick; /* rows of x; NULL: all */
    const float *w, *b;
    float eps;
    int n, ldx;
    int grid, shuffle; /* shuffle x shuffle neighbours of a grid are one row of out; 0: a row of x is one */
    int row_n;         /* numbers of a row of out without its zeros */
    void *out;
    size_t ldo;
    float *scale; /* (steps, scale_ld), e4m3: (rows); NULL: out is bf16 */
    size_t scale_ld;
    int step; /* of k that shares a scale: 32, 64 or 128; 0: all, and the numbers are e4m3 */
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
    for (int i = 0; i < THREADS / 32; i++) sum += warp_sums[i];
    return sum;
}

/* What makes a number of the row: (x - mean) scale w + b. */
template <enum source SOURCE> struct row_reader {
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

template <enum source SOURCE> __device__ __forceinline__ row_reader<SOURCE> read_row(const operand_args &a, int row, float *warp_sums)
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
        for (int i = threadIdx.x; i < a.n; i += THREADS) r.mean += x[i];
        r.mean = block_sum(r.mean, warp_sums) / a.n;
    }
    for (int i = threadIdx.x; i < a.n; i += THREADS) square = fmaf(x[i] - r.mean, x[i] - r.mean, square);
    r.scale = 1 / sqrtf(block_sum(square, warp_sums) / a.n + a.eps);
    return r;
}

/* A warp a step, a lane every 32nd number of it. */
template <class READER> __device__ __forceinline__ void quantise_row(const operand_args &a, const READER &read, int row, int first, int end)
{
    constexpr int MOST = QUANT_MAX_STEP / 32;
    const int lane = threadIdx.x % 32, each = a.step / 32;
    for (int s = threadIdx.x / 32; s < (end - first) / a.step; s += THREADS / 32) {
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
        int8_t *out = static_cast<int8_t *>(a.out) + row * a.ldo + first + s * a.step;
#pragma unroll
        for (int i = 0; i < MOST; i++)
            if (i < each) out[i * 32 + lane] = finite ? int8_t(rintf(v[i] * inverse)) : 0;
        if (lane == 0) a.scale[(first / a.step + s) * a.scale_ld + row] = !finite ? NAN : zero ? 0 : most / 127;
    }
}

/* The block's largest size, as bits, of which those of what is not finite are the largest. */
__device__ __forceinline__ uint32_t block_most(uint32_t most, float *warp_values)
{
    most = __reduce_max_sync(0xffffffffu, most);
    __syncthreads(); /* whoever reads the last sum is done */
    if (threadIdx.x % 32 == 0) warp_values[threadIdx.x / 32] = __uint_as_float(most);
    __syncthreads(); /* the warps' are there */
    for (int i = 0; i < THREADS / 32; i++) most = max(most, __float_as_uint(warp_values[i]));
    return most;
}

/* Two numbers a thread, twice: for the scale, and to be rounded by it. */
template <class READER> __device__ __forceinline__ void e4m3_row(const operand_args &a, const READER &read, int row, float *warp_values)
{
    uint32_t bits = 0;
    for (int i = threadIdx.x; i < a.n; i += THREADS) bits = max(bits, __float_as_uint(read(i)) & 0x7fffffffu);
    bits = block_most(bits, warp_values);
    const float most = __uint_as_float(bits);
    const bool finite = most < INFINITY, zero = most < QUANT_TINY;
    const float inverse = !finite || zero ? 0 : 448 / most;
    uint16_t *out = reinterpret_cast<uint16_t *>(static_cast<unsigned char *>(a.out) + row * a.ldo);
    for (int i = threadIdx.x; i < int(a.ldo) / 2; i += THREADS)
        out[i] = finite ? cvt_e4m3x2(read(2 * i) * inverse, read(2 * i + 1) * inverse) : 0;
    if (threadIdx.x == 0) a.scale[row] = !finite ? NAN : zero ? 0 : most / 448;
}

template <enum source SOURCE> __global__ void __launch_bounds__(THREADS) operand_kernel(const __grid_constant__ operand_args a)
{
    SHARED_ARRAY(float, warp_sums, THREADS / 32);
    const row_reader<SOURCE> read = read_row<SOURCE>(a, a.pick ? a.pick[blockIdx.x] : blockIdx.x, warp_sums);
    int row = blockIdx.x, first = 0, end = int(a.ldo);
    if (SOURCE == LAYERNORM && a.shuffle) {
        const int p = blockIdx.x, side = a.grid / a.shuffle, x = p % a.grid, y = p / a.grid % a.grid, tile = p / (a.grid * a.grid);
        row = (tile * side + y / a.shuffle) * side + x / a.shuffle;
        first = (y % a.shuffle * a.shuffle + x % a.shuffle) * a.n;
        if (first + a.n < a.row_n) end = first + a.n; /* the last one of a row has the zeros */
    }
    if (a.scale) {
        if (a.step)
            quantise_row(a, read, row, first, end);
        else
            e4m3_row(a, read, row, warp_sums);
        return;
    }
    bf16 *out = static_cast<bf16 *>(a.out) + row * a.ldo;
    for (int i = first + threadIdx.x; i < end; i += THREADS) out[i] = __float2bfloat16_rn(read(i - first));
}

int run(struct device *d, enum source source, operand_args *a, size_t blocks, const struct weight *w, bool quantised, struct cuda_rows *out, struct err *e)
{
    a->row_n = int(w->k), a->ldo = quantised ? w->k_padded : cuda_round_up(w->k, CUDA_K_PAD);
    a->out = quantised ? static_cast<void *>(d->q_operand) : d->operand;
    if (quantised) a->scale = d->q_scale, a->scale_ld = d->q_pitch, a->step = w->quant.e4m3 ? 0 : int(quant_step(&w->quant));
    *out = {a->out, a->ldo, a->scale, a->scale_ld};
    const dim3 grid{unsigned(blocks)};
    switch (source) {
    case RMSNORM: LAUNCH(operand_kernel<RMSNORM>, grid, dim3(THREADS), 0, d->stream, *a); break;
    case LAYERNORM: LAUNCH(operand_kernel<LAYERNORM>, grid, dim3(THREADS), 0, d->stream, *a); break;
    case ROWS: LAUNCH(operand_kernel<ROWS>, grid, dim3(THREADS), 0, d->stream, *a); break;
    }
    return cuda_launched(d, "operands", e);
}

} // namespace

int cuda_rmsnorm(struct device *d, const float *x, const uint32_t *pick, size_t rows, const float *norm, float eps, const struct weight *w, struct cuda_rows *out,
                 struct err *e)
{
    operand_args a = {};
    a.x = x, a.pick = pick, a.w = norm, a.eps = eps, a.n = int(w->k);
    return run(d, RMSNORM, &a, rows, w, w->quant.bits, out, e);
}

int cuda_layernorm(struct device *d, const float *x, size_t rows, const float *norm, const float *bias, float eps, const struct weight *w, struct cuda_rows *out,
                   struct err *e)
{
    operand_args a = {};
    a.x = x, a.w = norm, a.b = bias, a.eps = eps, a.n = int(w->k);
    return run(d, LAYERNORM, &a, rows, w, w->quant.bits, out, e);
}

int cuda_layernorm_shuffled(struct device *d, const float *x, size_t grids, size_t grid, size_t scale, size_t n, const float *norm, const float *bias, float eps,
                            const struct weight *w, struct cuda_rows *out, struct err *e)
{
    operand_args a = {};
    a.x = x, a.w = norm, a.b = bias, a.eps = eps, a.n = int(n), a.grid = int(grid), a.shuffle = int(scale);
    /* What shares a scale may span neighbours: it is quantised when all are there. */
    int rc = run(d, LAYERNORM, &a, grids * grid * grid, w, false, out, e);
    return rc ? rc : cuda_as_operand(d, d->operand, grids * (grid / scale) * (grid / scale), w, out, e);
}

int cuda_as_operand(struct device *d, const bf16 *in, size_t rows, const struct weight *w, struct cuda_rows *out, struct err *e)
{
    operand_args a = {};
    a.x = in, a.n = int(w->k), a.ldx = int(cuda_round_up(w->k, CUDA_K_PAD));
    if (w->quant.bits) return run(d, ROWS, &a, rows, w, true, out, e);
    *out = {in, size_t(a.ldx), nullptr, 0};
    return 0;
}
