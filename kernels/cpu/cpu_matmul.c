/* CPU: the product of many rows (prefill, pictures). Rows, columns and inputs are cut so that what a block needs again is still near: its
 * weights, widened to float32, in the first cache; its rows and sums in the second. The order is that of Goto and van de Geijn, "Anatomy of
 * High-Performance Matrix Multiplication" (ACM TOMS 2008). Cutting changes no sum: an output goes on from the float32 it had reached, its
 * inputs in rising order, so a row's bytes are those of cpu_linear's other path, whatever rows are beside it. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/cpu_parts.h"

enum {
    FEW_ROWS = 24,     /* up to here widening the weights first costs more than it saves: cpu_linear.c */
    ROWS = 96,         /* rows of a block: (96, MATMUL_K) float32 are 96 KiB */
    COLUMN_PANELS = 8, /* panels of a block: sums of (96, 8 * 32) float32 are as many */
};

bool cpu_matmul_takes(const struct device *d, const struct linear_job *j)
{
    return j->w->quant.bits || (j->rows > FEW_ROWS && d->k->matmul && !j->in.is_bf16);
}

/* Rows from `row`, panels from `panel` of the product, to `sums` (rows, panels * PANEL). */
static void multiply(const struct device *d, const struct linear_job *j, size_t row, size_t rows, size_t panel, size_t panels, float *sums)
{
    const struct weight *w = j->w;
    const bool half = w->dtype == DTYPE_BF16;
    const size_t k = half ? w->kp : w->k, blocks = (k + MATMUL_K - 1) / MATMUL_K;
    const size_t step = ((k + blocks - 1) / blocks + 1) & ~(size_t)1; /* even parts, no short last one */
    for (size_t from = 0; from < k; from += step)
        for (size_t p = 0; p < panels; p++) {
            struct matmul_block m = {.x = (const float *)j->in.data + row * j->in.ld + from,
                                     .ldx = j->in.ld,
                                     .rows = rows,
                                     .w = w->data + (panel + p) * w->panel_bytes + from * PANEL * (half ? sizeof(bf16) : sizeof(float)),
                                     .w_is_bf16 = half,
                                     .k = k - from < step ? k - from : step,
                                     .more = from > 0,
                                     .acc = sums + p * PANEL,
                                     .ld = panels * PANEL};
            d->k->matmul(&m);
        }
}

void cpu_matmul(const struct device *d, const struct linear_job *j, int part, int n_parts)
{
    const struct weight *w = j->w;
    const size_t group = j->epilogue == EPILOGUE_SILU ? 2 : 1, at_once = COLUMN_PANELS / group; /* a panel of G and its panel of U */
    size_t first, end;
    cpu_share(w->panels / group, part, n_parts, &first, &end);
    _Alignas(64) float sums[ROWS * COLUMN_PANELS * PANEL];
    for (size_t row = 0, rows; row < j->rows; row += rows) {
        rows = j->rows - row < ROWS ? j->rows - row : ROWS;
        for (size_t g = first, groups; g < end; g += groups) {
            groups = end - g < at_once ? end - g : at_once;
            (w->quant.bits ? cpu_quant_multiply : multiply)(d, j, row, rows, g * group, groups * group, sums);
            const size_t at_a_time = group == 1 ? groups : 1, wide = at_a_time * PANEL; /* side by side but for U's panels between G's */
            for (size_t i = 0; i < groups; i += at_a_time) {
                size_t column = (g + i) * PANEL, columns = w->n - column < wide ? w->n - column : wide;
                cpu_finish_tile(d, j, sums + i * group * PANEL, groups * group * PANEL, row, rows, column, columns);
            }
        }
    }
}

struct parts_run {
    const struct device *d;
    const struct linear_job *job;
    int n;
};

static void linear_item(void *arg, int thread, size_t item)
{
    (void)thread;
    const struct parts_run *run = arg;
    cpu_linear(run->d, run->job, (int)item, run->n);
}

/* More parts than threads, so that one which lost its processor leaves the rest to others; as many as come out even, if any do. */
void cpu_linear_run(struct device *d, const struct linear_job *j)
{
    enum { MIN_PARTS = 3, MAX_PARTS = 8 };
    size_t threads = (size_t)threads_count(d->threads), groups = j->w->panels / (j->epilogue == EPILOGUE_SILU ? 2 : 1), each = MAX_PARTS;
    while (each > MIN_PARTS && groups % (threads * each)) each--;
    if (groups % (threads * each)) each = MAX_PARTS;
    size_t parts = threads == 1 ? 1 : groups < threads * each ? groups : threads * each;
    struct parts_run run = {d, j, (int)parts};
    threads_items(d->threads, linear_item, &run, parts);
}
