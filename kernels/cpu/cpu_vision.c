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

static void norm_rows(void *arg, int thread, size_t first, size_t end)
{
    const struct vision_run *run = arg;
    const struct device *d = run->d;
    float *h = cpu_thread_scratch(d, thread);
    for (size_t r = first; r < end; r++) {
        d->k->layernorm(run->x + r * run->dim, run->norm_weight, run->norm_bias, run->eps, run->dim, h);
        cpu_put_row(d, &run->job.in, r, h, run->dim);
    }
}

static void vision_linear(struct device *d, struct vision_run *run)
{
    CHECK(run->job.w->k == run->dim);
    run->d = d;
    run->job.in = cpu_operand(d, run->job.w, run->job.rows);
    cpu_rows(d, run->job.rows, norm_rows, run);
    cpu_linear_run(d, &run->job);
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

static void patch_rows(void *arg, int thread, size_t first, size_t end)
{
    const struct patch_run *run = arg;
    size_t per_tile = run->a->grid * run->a->grid;
    float *h = cpu_thread_scratch(run->d, thread);
    for (size_t r = first; r < end; r++) {
        patch_row(run->a, r / per_tile, r % per_tile, h);
        cpu_put_row(run->d, &run->job.in, r, h, run->job.w->k);
    }
}

static void position_rows(void *arg, int thread, size_t first, size_t end)
{
    (void)thread;
    const struct patch_run *run = arg;
    size_t per_tile = run->a->grid * run->a->grid, dim = run->a->dim;
    for (size_t r = first; r < end; r++) {
        float *x = run->job.out + r * dim;
        const float *position = run->a->position + r % per_tile * dim;
        for (size_t i = 0; i < dim; i++) x[i] += position[i];
    }
}

int cpu_patch_embed(struct device *d, const struct patch_args *a, struct err *e)
{
    (void)e;
    CHECK(a->w->n == a->dim && a->w->k == 3 * a->patch * a->patch && a->grid * a->patch <= a->tile_px);
    struct patch_run run = {.d = d, .a = a};
    run.job = (struct linear_job){.w = a->w,
                                  .in = cpu_operand(d, a->w, a->n_tiles * a->grid * a->grid),
                                  .rows = a->n_tiles * a->grid * a->grid,
                                  .epilogue = EPILOGUE_BIAS,
                                  .bias = a->bias,
                                  .out = a->x,
                                  .ldo = a->dim};
    cpu_rows(d, run.job.rows, patch_rows, &run);
    cpu_linear_run(d, &run.job);
    cpu_rows(d, run.job.rows, position_rows, &run);
    cpu_bump(d);
    return 0;
}

/* --- attention: every position of a tile sees all others --- */
struct vision_attention_run {
    struct device *d;
    const struct vision_attention_args *a;
    size_t cuts; /* of a head's queries */
};

/* Where a thread has a head's keys and values in blocks as the text cache has them, head_dim padded to 16 with zeros. */
struct vision_head {
    size_t n, hd, padded, dim;
    const float *qkv; /* (n, 3 * dim), at this head's columns */
    const void **k_block, **v_block;
    float *keys, *values, *q, *out;
};

static struct vision_head vision_head_open(const struct vision_attention_run *run, size_t tile, size_t head, float *scratch)
{
    const struct vision_attention_args *a = run->a;
    struct vision_head h = {.n = a->positions, .hd = a->head_dim, .dim = a->heads * a->head_dim};
    h.padded = (h.hd + KV_BLOCK - 1) & ~(size_t)(KV_BLOCK - 1);
    h.qkv = run->d->qkv + tile * h.n * 3 * h.dim + head * h.hd;
    size_t blocks = (h.n + KV_BLOCK - 1) / KV_BLOCK;
    float *at = scratch + ATTENTION_FLOATS;
    h.k_block = (const void **)(void *)at;
    h.v_block = h.k_block + blocks;
    h.keys = at + 2 * blocks * sizeof(void *) / sizeof(float);
    h.values = h.keys + blocks * KV_BLOCK * h.padded;
    h.q = h.values + blocks * KV_BLOCK * h.padded;
    h.out = h.q + ATTENTION_ROWS * h.padded;
    for (size_t b = 0; b < blocks; b++) {
        h.k_block[b] = h.keys + b * KV_BLOCK * h.padded;
        h.v_block[b] = h.values + b * KV_BLOCK * h.padded;
    }
    if (h.padded > h.hd || h.n % KV_BLOCK) memset(h.keys, 0, 2 * blocks * KV_BLOCK * h.padded * sizeof *h.keys);
    for (size_t p = 0; p < h.n; p++) {
        const float *k = h.qkv + p * 3 * h.dim + h.dim, *v = k + h.dim;
        float *key = h.keys + p / KV_BLOCK * KV_BLOCK * h.padded + p % KV_BLOCK;
        for (size_t i = 0; i < h.hd; i++) key[i * KV_BLOCK] = k[i];
        memcpy(h.values + p * h.padded, v, h.hd * sizeof *v);
    }
    memset(h.q, 0, ATTENTION_ROWS * h.padded * sizeof *h.q);
    return h;
}

/* Queries [first, end) of one head of one tile. */
static void vision_queries(const struct vision_attention_run *run, const struct vision_head *h, size_t tile, size_t head, size_t first,
                           size_t end, float *scratch)
{
    float scale = 1.0f / sqrtf((float)h->hd);
    for (size_t p = first; p < end; p += ATTENTION_ROWS) {
        struct attention_tile t = {
            .head_dim = h->padded, .dtype = DTYPE_F32, .k_block = h->k_block, .v_block = h->v_block, .scratch = scratch};
        for (; t.rows < ATTENTION_ROWS && p + t.rows < end; t.rows++) {
            t.q[t.rows] = h->q + t.rows * h->padded;
            t.out[t.rows] = h->out + t.rows * h->padded;
            t.limit[t.rows] = h->n;
            for (size_t i = 0; i < h->hd; i++) h->q[t.rows * h->padded + i] = h->qkv[(p + t.rows) * 3 * h->dim + i] * scale;
        }
        run->d->k->attention(&t);
        for (size_t r = 0; r < t.rows; r++)
            memcpy((float *)run->a->out + (tile * h->n + p + r) * h->dim + head * h->hd, t.out[r], h->hd * sizeof *h->out);
    }
}

static void vision_attention_item(void *arg, int thread, size_t item)
{
    const struct vision_attention_run *run = arg;
    size_t cut = item % run->cuts, head = item / run->cuts % run->a->heads, tile = item / run->cuts / run->a->heads, first, end;
    float *scratch = cpu_thread_scratch(run->d, thread);
    struct vision_head h = vision_head_open(run, tile, head, scratch);
    cpu_share(h.n, (int)cut, (int)run->cuts, &first, &end);
    vision_queries(run, &h, tile, head, first, end, scratch);
}

int cpu_vision_attention(struct device *d, const struct vision_attention_args *a, struct err *e)
{
    (void)e;
    enum { ITEMS_A_THREAD = 4, MAX_CUTS = 4 }; /* each cut lays out keys and values anew, a few hundredths of the work on them */
    size_t heads = a->n_tiles * a->heads, threads = (size_t)threads_count(d->threads), cuts = 1;
    while (heads && cuts < MAX_CUTS && heads * cuts < threads * ITEMS_A_THREAD && a->positions > cuts * ATTENTION_ROWS) cuts++;
    struct vision_attention_run run = {.d = d, .a = a, .cuts = cuts};
    threads_items(d->threads, vision_attention_item, &run, heads * cuts);
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

static void connect_rows(void *arg, int thread, size_t first, size_t end)
{
    const struct connect_run *run = arg;
    float *h = cpu_thread_scratch(run->d, thread);
    for (size_t r = first; r < end; r++) {
        connect_row(run, r, h);
        cpu_put_row(run->d, &run->job.in, r, h, run->job.w->k);
    }
}

int cpu_connect(struct device *d, const struct connect_args *a, struct err *e)
{
    (void)e;
    CHECK(a->grid % a->scale == 0 && a->w->k == a->dim * a->scale * a->scale && a->w->n == a->hidden);
    size_t side = a->grid / a->scale;
    struct connect_run run = {.d = d, .a = a};
    run.job = (struct linear_job){.w = a->w,
                                  .in = cpu_operand(d, a->w, a->n_tiles * side * side),
                                  .rows = a->n_tiles * side * side,
                                  .epilogue = EPILOGUE_STORE,
                                  .out = a->out,
                                  .ldo = a->hidden};
    cpu_rows(d, run.job.rows, connect_rows, &run);
    cpu_linear_run(d, &run.job);
    cpu_bump(d);
    return 0;
}
