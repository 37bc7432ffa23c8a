/* CPU: low-rank adapters, the same plain code for every instruction set. Rows are shared out among threads; a row's sums have one order. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/cpu_parts.h"

/* x (n) += scale * B (A in), in as the product reads it. */
static void add_adapter(const struct device *d, const struct adapter *l, const float *in, size_t k, size_t n, float *x)
{
    float low[ADAPTER_MAX_RANK];
    CHECK(l->rank >= 1 && l->rank <= ADAPTER_MAX_RANK);
    for (size_t j = 0; j < l->rank; j++) {
        const bf16 *a = (const bf16 *)l->a + j * k;
        low[j] = 0;
        for (size_t i = 0; i < k; i++) low[j] += bf16_to_f32(a[i]) * (d->compute == COMPUTE_BF16 ? bf16_to_f32(bf16_from_f32(in[i])) : in[i]);
    }
    for (size_t o = 0; o < n; o++) {
        const bf16 *b = (const bf16 *)l->b + o * l->rank;
        float sum = 0;
        for (size_t j = 0; j < l->rank; j++) sum += bf16_to_f32(b[j]) * low[j];
        x[o] += l->scale * sum;
    }
}

struct adapter_run {
    const struct device *d;
    const struct project_args *a;
};

static void add_rows(void *arg, int thread, size_t first, size_t end)
{
    const struct adapter_run *run = arg;
    const struct project_args *a = run->a;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        const int32_t which = run->d->adapter[r];
        if (which >= 0) add_adapter(run->d, &a->adapters[which], (const float *)a->in + r * a->k, a->k, a->n, (float *)a->x + r * a->n);
    }
}

void cpu_adapters(struct device *d, const struct project_args *a)
{
    CHECK(!a->tiles && a->rows == d->n_rows);
    cpu_rows(d, a->rows, add_rows, &(struct adapter_run){d, a});
}
