/* Operands of products: rows normalised, or as they are, in the form that the product reads (struct cuda_rows), with zeros from k to k_padded.
 *   rmsnorm:   y[r, i] = w[i] x[r, i] / sqrt(mean over i of x[r, i]^2 + eps)
 *   layernorm: y[r, i] = w[i] (x[r, i] - mean) / sqrt(variance + eps) + b[i]
 *   then       bf16, int8 and a scale a step, or e4m3 and a scale a row (kernels/quant.h).
 * A block a row; sums are float32 in one order: thread by thread, lanes by halves, warps in rising order. Bytes: rows x (4 or 2 in, 2 or 1 out) x k;
 * bound by memory, or by being launched where rows are few. */
#include "kernels/cuda/norm.cuh"

namespace {

struct operand_kernel_args {
    operand_args a;
    operand_rows o;
};

template <enum operand_source SOURCE> __global__ void __launch_bounds__(OPERAND_THREADS) operand_kernel(const __grid_constant__ operand_kernel_args k)
{
    const operand_args &a = k.a;
    SHARED_ARRAY(float, warp_values, OPERAND_THREADS / 32);
    int row = blockIdx.x, first = 0, end = int(k.o.ldo);
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (SOURCE == LAYERNORM && a.shuffle) {
        const int p = blockIdx.x, side = a.grid / a.shuffle, x = p % a.grid, y = p / a.grid % a.grid, tile = p / (a.grid * a.grid);
        row = (tile * side + y / a.shuffle) * side + x / a.shuffle;
        first = (y % a.shuffle * a.shuffle + x % a.shuffle) * a.n;
        if (first + a.n < a.row_n) end = first + a.n; /* the last one of a row has the zeros */
    }
    operand_row<SOURCE>(a, k.o, a.pick ? a.pick[blockIdx.x] : blockIdx.x, row, first, end, warp_values);
}

int run(struct device *d, enum operand_source source, const operand_args &given, size_t blocks, const struct weight *w, bool quantised, struct cuda_rows *out,
        struct err *e)
{
    operand_kernel_args k = {given, {d->operand, cuda_round_up(w->k, CUDA_K_PAD), nullptr, 0}};
    k.a.row_n = int(w->k);
    if (quantised) k.o = {d->q_operand, w->k_padded, d->q_scale, d->q_pitch}, k.a.step = cuda_operand_step(w);
    *out = {k.o.out, k.o.ldo, k.o.scale, k.o.scale_ld};
    const dim3 grid{unsigned(blocks)};
    switch (source) {
    case RMSNORM: LAUNCH_EARLY(d->early, operand_kernel<RMSNORM>, grid, dim3(OPERAND_THREADS), 0, d->stream, k); break;
    case LAYERNORM: LAUNCH_EARLY(d->early, operand_kernel<LAYERNORM>, grid, dim3(OPERAND_THREADS), 0, d->stream, k); break;
    case ROWS: LAUNCH_EARLY(d->early, operand_kernel<ROWS>, grid, dim3(OPERAND_THREADS), 0, d->stream, k); break;
    case GIVEN: break;
    }
    return cuda_launched(d, "operands", e);
}

} // namespace

int cuda_operand_step(const struct weight *w)
{
    return w->quant.e4m3 ? 0 : int(quant_step(&w->quant));
}

operand_args cuda_rmsnorm_args(const float *x, const uint32_t *pick, const float *norm, float eps, const struct weight *w)
{
    operand_args a = {};
    a.x = x, a.pick = pick, a.w = norm, a.eps = eps, a.n = a.row_n = int(w->k);
    if (w->quant.bits) a.step = cuda_operand_step(w);
    return a;
}

operand_args cuda_rows_args(const bf16 *in, const struct weight *w)
{
    operand_args a = {};
    a.x = in, a.n = a.row_n = int(w->k), a.ldx = int(cuda_round_up(w->k, CUDA_K_PAD));
    if (w->quant.bits) a.step = cuda_operand_step(w);
    return a;
}

int cuda_rmsnorm(struct device *d, const float *x, const uint32_t *pick, size_t rows, const float *norm, float eps, const struct weight *w, struct cuda_rows *out,
                 struct err *e)
{
    return run(d, RMSNORM, cuda_rmsnorm_args(x, pick, norm, eps, w), rows, w, w->quant.bits, out, e);
}

int cuda_layernorm(struct device *d, const float *x, size_t rows, const float *norm, const float *bias, float eps, const struct weight *w, struct cuda_rows *out,
                   struct err *e)
{
    operand_args a = {};
    a.x = x, a.w = norm, a.b = bias, a.eps = eps, a.n = int(w->k);
    return run(d, LAYERNORM, a, rows, w, w->quant.bits, out, e);
}

int cuda_layernorm_shuffled(struct device *d, const float *x, size_t grids, size_t grid, size_t scale, size_t n, const float *norm, const float *bias, float eps,
                            const struct weight *w, struct cuda_rows *out, struct err *e)
{
    operand_args a = {};
    a.x = x, a.w = norm, a.b = bias, a.eps = eps, a.n = int(n), a.grid = int(grid), a.shuffle = int(scale);
    int rc = run(d, LAYERNORM, a, grids * grid * grid, w, false, out, e); /* what shares a scale may span neighbours: it is quantised when all are there */
    return rc ? rc : cuda_as_operand(d, d->operand, grids * (grid / scale) * (grid / scale), w, out, e);
}

int cuda_as_operand(struct device *d, const bf16 *in, size_t rows, const struct weight *w, struct cuda_rows *out, struct err *e)
{
    const operand_args a = cuda_rows_args(in, w);
    if (w->quant.bits) return run(d, ROWS, a, rows, w, true, out, e);
    *out = {in, size_t(a.ldx), nullptr, 0};
    return 0;
}
