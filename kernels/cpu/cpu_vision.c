/* CPU: the operations of the SigLIP encoder and of the connector. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/cpu_parts.h"

struct vision_run {
    struct device *d;
    struct linear_job job;
    const float *x, *norm_weight, *norm_bias;
    float eps;
    size_t dim;
};

static void vision_linear_share(void *arg, int thread, int n_threads)
{
    struct vision_run *run = arg;
    struct device *d = run->d;
    size_t first, end;
    cpu_share(run->job.rows, thread, n_threads, &first, &end);
    float *h = cpu_thread_scratch(d, thread);
    for (size_t r = first; r < end; r++) {
        d->k->layernorm(run->x + r * run->dim, run->norm_weight, run->norm_bias, run->eps, run->dim, h);
        cpu_put_row(d, &run->job.in, r, h, run->dim);
    }
    threads_barrier(d->threads);
    cpu_linear(d, &run->job, thread, n_threads);
}

static void vision_linear(struct device *d, struct vision_run *run)
{
    CHECK(run->job.w->k == run->dim);
    run->d = d;
    run->job.in = cpu_operand(d, run->job.w);
    threads_run(d->threads, vision_linear_share, run);
    cpu_bump(d);
}

int cpu_vision_qkv(struct device *d, const struct vision_qkv_args *a, struct err *e)
{
    (void)e;
    CHECK(a->w->n == 3 * a->dim && a->rows <= d->limits.vision_rows);
    struct vision_run run = {
        .job = {.w = a->w, .rows = a->rows, .epilogue = EPILOGUE_BIAS, .bias = a->bias, .out = d->qkv, .ldo = 3 * a->dim},
        .x = a->x,
        .norm_weight = a->norm_weight,
        .norm_bias = a->norm_bias,
        .eps = a->eps,
        .dim = a->dim};
    vision_linear(d, &run);
    return 0;
}

int cpu_vision_up(struct device *d, const struct vision_up_args *a, struct err *e)
{
    (void)e;
    CHECK(a->w->n == a->inter);
    struct vision_run run = {
        .job = {.w = a->w, .rows = a->rows, .epilogue = EPILOGUE_GELU, .bias = a->bias, .out = a->out, .ldo = a->inter},
        .x = a->x,
        .norm_weight = a->norm_weight,
        .norm_bias = a->norm_bias,
        .eps = a->eps,
        .dim = a->dim};
    vision_linear(d, &run);
    return 0;
}

/* --- patches --- */
struct patch_run {
    struct device *d;
    const struct patch_args *a;
    struct linear_job job;
};

/* Patch p of a tile as a row [3][patch][patch] of normalised pixels. */
static void patch_row(const struct patch_args *a, size_t tile, size_t p, float *out)
{
    size_t y0 = p / a->grid * a->patch, x0 = p % a->grid * a->patch;
    for (size_t c = 0; c < 3; c++) {
        const uint8_t *plane = a->tiles + (tile * 3 + c) * a->tile_px * a->tile_px;
        for (size_t y = 0; y < a->patch; y++)
            for (size_t x = 0; x < a->patch; x++)
                *out++ = ((float)plane[(y0 + y) * a->tile_px + x0 + x] * a->rescale - a->shift[c]) / a->scale[c];
    }
}

static void patch_share(void *arg, int thread, int n_threads)
{
    struct patch_run *run = arg;
    struct device *d = run->d;
    const struct patch_args *a = run->a;
    size_t first, end, per_tile = a->grid * a->grid;
    cpu_share(run->job.rows, thread, n_threads, &first, &end);
    float *h = cpu_thread_scratch(d, thread);
    for (size_t r = first; r < end; r++) {
        patch_row(a, r / per_tile, r % per_tile, h);
        cpu_put_row(d, &run->job.in, r, h, run->job.w->k);
    }
    threads_barrier(d->threads);
    cpu_linear(d, &run->job, thread, n_threads);
    threads_barrier(d->threads);
    for (size_t r = first; r < end; r++) {
        float *x = run->job.out + r * a->dim;
        const float *position = a->position + r % per_tile * a->dim;
        for (size_t i = 0; i < a->dim; i++) x[i] += position[i];
    }
}

int cpu_patch_embed(struct device *d, const struct patch_args *a, struct err *e)
{
    (void)e;
    CHECK(a->w->n == a->dim && a->w->k == 3 * a->patch * a->patch && a->grid * a->patch <= a->tile_px);
    struct patch_run run = {.d = d, .a = a};
    run.job = (struct linear_job){.w = a->w,
                                  .in = cpu_operand(d, a->w),
                                  .rows = a->n_tiles * a->grid * a->grid,
                                  .epilogue = EPILOGUE_BIAS,
                                  .bias = a->bias,
                                  .out = a->x,
                                  .ldo = a->dim};
    threads_run(d->threads, patch_share, &run);
    cpu_bump(d);
    return 0;
}

/* --- attention: every position of a tile sees all others --- */
struct vision_attention_run {
    struct device *d;
    const struct vision_attention_args *a;
};

/* One head of one tile: its keys and values in blocks as the text cache has them, head_dim padded to 16 with zeros. */
static void vision_head(const struct vision_attention_run *run, size_t tile, size_t head, float *scratch)
{
    const struct vision_attention_args *a = run->a;
    size_t n = a->positions, hd = a->head_dim, dim = a->heads * hd;
    size_t padded = (hd + KV_BLOCK - 1) & ~(size_t)(KV_BLOCK - 1), blocks = (n + KV_BLOCK - 1) / KV_BLOCK;
    const float *qkv = run->d->qkv + tile * n * 3 * dim + head * hd;
    float *at = scratch + ATTENTION_ROWS * (KV_SPLIT + 2 * MAX_HEAD_DIM);
    const void **k_block = (const void **)(void *)at, **v_block = k_block + blocks;
    float *keys = at + 2 * blocks * sizeof(void *) / sizeof(float), *values = keys + blocks * KV_BLOCK * padded;
    float *q = values + blocks * KV_BLOCK * padded, *out = q + ATTENTION_ROWS * padded;
    memset(keys, 0, 2 * blocks * KV_BLOCK * padded * sizeof *keys);
    for (size_t b = 0; b < blocks; b++) {
        k_block[b] = keys + b * KV_BLOCK * padded;
        v_block[b] = values + b * KV_BLOCK * padded;
    }
    for (size_t p = 0; p < n; p++) {
        const float *k = qkv + p * 3 * dim + dim, *v = k + dim;
        for (size_t i = 0; i < hd; i++) keys[(p / KV_BLOCK * padded + i) * KV_BLOCK + p % KV_BLOCK] = k[i];
        memcpy(values + p * padded, v, hd * sizeof *v);
    }
    memset(q, 0, 2 * ATTENTION_ROWS * padded * sizeof *q);
    float scale = 1.0f / sqrtf((float)hd);
    for (size_t p = 0; p < n; p += ATTENTION_ROWS) {
        struct attention_tile t = {.head_dim = padded, .dtype = DTYPE_F32, .k_block = k_block, .v_block = v_block, .scratch = scratch};
        for (; t.rows < ATTENTION_ROWS && p + t.rows < n; t.rows++) {
            t.q[t.rows] = q + t.rows * padded;
            t.out[t.rows] = out + t.rows * padded;
            t.limit[t.rows] = n;
            for (size_t i = 0; i < hd; i++) q[t.rows * padded + i] = qkv[(p + t.rows) * 3 * dim + i] * scale;
        }
        run->d->k->attention(&t);
        for (size_t r = 0; r < t.rows; r++)
            memcpy((float *)a->out + (tile * n + p + r) * dim + head * hd, out + r * padded, hd * sizeof *out);
    }
}

static void vision_attention_share(void *arg, int thread, int n_threads)
{
    const struct vision_attention_run *run = arg;
    for (size_t i = (size_t)thread; i < run->a->n_tiles * run->a->heads; i += (size_t)n_threads)
        vision_head(run, i / run->a->heads, i % run->a->heads, cpu_thread_scratch(run->d, thread));
}

int cpu_vision_attention(struct device *d, const struct vision_attention_args *a, struct err *e)
{
    (void)e;
    struct vision_attention_run run = {.d = d, .a = a};
    threads_run(d->threads, vision_attention_share, &run);
    cpu_bump(d);
    return 0;
}

/* --- connector --- */
struct connect_run {
    struct device *d;
    const struct connect_args *a;
    struct linear_job job;
};

/* Output row: the scale x scale positions of its square side by side, each normalised; the row offset is the slow one. */
static void connect_row(const struct connect_run *run, size_t r, float *out)
{
    const struct connect_args *a = run->a;
    size_t side = a->grid / a->scale, tile = r / (side * side), y = r / side % side, x = r % side;
    for (size_t dy = 0; dy < a->scale; dy++)
        for (size_t dx = 0; dx < a->scale; dx++) {
            size_t p = (tile * a->grid + y * a->scale + dy) * a->grid + x * a->scale + dx;
            run->d->k->layernorm((const float *)a->x + p * a->dim, a->norm_weight, a->norm_bias, a->eps, a->dim, out);
            out += a->dim;
        }
}

static void connect_share(void *arg, int thread, int n_threads)
{
    struct connect_run *run = arg;
    size_t first, end;
    cpu_share(run->job.rows, thread, n_threads, &first, &end);
    float *h = cpu_thread_scratch(run->d, thread);
    for (size_t r = first; r < end; r++) {
        connect_row(run, r, h);
        cpu_put_row(run->d, &run->job.in, r, h, run->job.w->k);
    }
    threads_barrier(run->d->threads);
    cpu_linear(run->d, &run->job, thread, n_threads);
}

int cpu_connect(struct device *d, const struct connect_args *a, struct err *e)
{
    (void)e;
    CHECK(a->grid % a->scale == 0 && a->w->k == a->dim * a->scale * a->scale && a->w->n == a->hidden);
    size_t side = a->grid / a->scale;
    struct connect_run run = {.d = d, .a = a};
    run.job = (struct linear_job){.w = a->w,
                                  .in = cpu_operand(d, a->w),
                                  .rows = a->n_tiles * side * side,
                                  .epilogue = EPILOGUE_STORE,
                                  .out = a->out,
                                  .ldo = a->hidden};
    threads_run(d->threads, connect_share, &run);
    cpu_bump(d);
    return 0;
}
