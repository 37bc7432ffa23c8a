/* Low-rank adapters: x[r] += scale B (A in[r]) for the rows of a step that have one, after the product itself.
 * x float32 (rows, n), in bf16 (rows, ldi), A bf16 (rank, k), B bf16 (n, rank). A block a row; one that has none ends at once. Which row has which, and the
 * adapters themselves, are read from device memory, so a recorded step serves any mix. A warp sums over k for one of the ranks: lanes apart by 32, then by
 * halves; an output is summed over the ranks in rising order. A row's bytes depend on the row and its adapter alone.
 * Bytes: 2 rank (k + n) a row with one. Bound by being launched; rows that share an adapter read it from L2. Measured nowhere yet. */
#include "kernels/cuda/cuda.cuh"

namespace {

constexpr int THREADS = 256;

struct adapter_args {
    const struct adapter *adapters;
    const int32_t *row; /* (rows); below 0: none */
    const bf16 *in;
    float *x;
    size_t ldi;
    int n, k;
};

__device__ __forceinline__ float warp_product(const bf16 *a, const bf16 *b, int k)
{
    float sum = 0;
    for (int i = threadIdx.x % 32; i < k; i += 32) sum += __bfloat162float(a[i]) * __bfloat162float(b[i]);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return sum;
}

__global__ void __launch_bounds__(THREADS) adapter_kernel(const __grid_constant__ adapter_args a)
{
    SHARED_ARRAY(float, low, ADAPTER_MAX_RANK);
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    const int which = a.row[blockIdx.x];
    if (which < 0) return;
    const struct adapter l = a.adapters[which];
    const bf16 *in = a.in + size_t(blockIdx.x) * a.ldi;
    float *x = a.x + size_t(blockIdx.x) * a.n;
    for (int j = threadIdx.x / 32; j < int(l.rank); j += THREADS / 32) {
        const float sum = warp_product(static_cast<const bf16 *>(l.a) + size_t(j) * a.k, in, a.k);
        if (threadIdx.x % 32 == 0) low[j] = sum;
    }
    __syncthreads(); /* A in is there */
    for (int o = threadIdx.x; o < a.n; o += THREADS) {
        const bf16 *b = static_cast<const bf16 *>(l.b) + size_t(o) * l.rank;
        float sum = 0;
        for (int j = 0; j < int(l.rank); j++) sum += __bfloat162float(b[j]) * low[j];
        x[o] += l.scale * sum;
    }
}

} // namespace

int cuda_adapters(struct device *d, const struct project_args *a, size_t rows, struct err *e)
{
    const adapter_args args = {a->adapters, d->step.adapter, static_cast<const bf16 *>(a->in), static_cast<float *>(a->x),
                               cuda_round_up(a->k, CUDA_K_PAD), int(a->n), int(a->k)};
    CHECK(!a->tiles);
    LAUNCH_EARLY(d->early, adapter_kernel, dim3(unsigned(rows)), dim3(THREADS), 0, d->stream, args);
    return cuda_launched(d, "adapters", e);
}
