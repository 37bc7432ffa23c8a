/* CPU: the operations of a text layer. Each is one parallel region: operand rows, barrier, product by panels, and what follows it. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/cpu_parts.h"

/* --- embedding --- */
static void embed_row(const struct device *d, const struct weight *w, int32_t token, float *x)
{
    CHECK(token >= 0 && (size_t)token < w->n);
    if (w->quant.bits) {
        cpu_quant_embed_row(d, w, (size_t)token, x);
        return;
    }
    const unsigned char *panel = w->data + (size_t)token / PANEL * w->panel_bytes;
    size_t c = (size_t)token % PANEL;
    for (size_t i = 0; i < w->k; i++)
        x[i] = w->dtype == DTYPE_BF16 ? bf16_to_f32(((const bf16 *)panel)[i / 2 * 2 * PANEL + c * 2 + i % 2])
                                      : ((const float *)panel)[i * PANEL + c];
}

int cpu_embed(struct device *d, const struct embed_args *a, struct err *e)
{
    (void)e;
    for (size_t r = 0; r < d->n_rows; r++) {
        float *x = (float *)a->x + r * a->hidden;
        if (a->token[r] >= 0)
            embed_row(d, a->table, a->token[r], x);
        else
            memcpy(x, (const float *)a->pictures[r] + (size_t)(-1 - (int64_t)a->token[r]) * a->hidden, a->hidden * sizeof *x);
    }
    cpu_bump(d);
    return 0;
}

/* --- norm, QKV, rope, append --- */
struct qkv_run {
    struct device *d;
    const struct qkv_args *a;
    struct linear_job job;
};

/* Rows x[r] normalised into the operand. */
static void norm_rows(const struct device *d, const struct activation *in, const float *x, const float *norm, float eps, size_t n,
                      size_t first, size_t end, int thread)
{
    float *h = cpu_thread_scratch(d, thread);
    for (size_t r = first; r < end; r++) {
        d->k->rmsnorm(x + r * n, norm, eps, n, h);
        cpu_put_row(d, in, r, h, n);
    }
}

static void rotate(float *v, const float *cos, const float *sin, size_t half)
{
    for (size_t j = 0; j < half; j++) {
        float a = v[j], b = v[j + half];
        v[j] = a * cos[j] - b * sin[j];
        v[j + half] = b * cos[j] + a * sin[j];
    }
}

static void kv_put(void *at, enum dtype t, size_t i, float v)
{
    if (t == DTYPE_BF16)
        ((bf16 *)at)[i] = bf16_from_f32(v);
    else
        ((float *)at)[i] = v;
}

/* Start of a layer's keys of one KV head in a block; values follow all keys of the layer. */
static size_t kv_offset(const struct kv_layout *l, size_t layer, size_t head, bool value)
{
    return ((layer * 2 + value) * l->kv_heads + head) * KV_BLOCK * l->head_dim;
}

static void *kv_at(const void *kv, const struct kv_layout *l, uint32_t block, size_t offset)
{
    size_t item = l->dtype == DTYPE_BF16 ? 2 : 4;
    return (unsigned char *)kv + ((size_t)block * l->layers * 2 * l->kv_heads * KV_BLOCK * l->head_dim + offset) * item;
}

static void append_row(const struct qkv_run *run, size_t r)
{
    const struct qkv_args *a = run->a;
    const struct device *d = run->d;
    const struct kv_layout *l = a->layout;
    size_t hd = l->head_dim, half = hd / 2, pos = (size_t)d->position[r];
    float *q = d->qkv + r * run->job.ldo, *k = q + a->heads * hd, *v = k + l->kv_heads * hd;
    uint32_t block = d->blocks[d->sequence[r]][pos / KV_BLOCK];
    if (a->rope.inv_freq)
        for (size_t h = 0; h < a->heads + l->kv_heads; h++) rotate(q + h * hd, d->cos + r * half, d->sin + r * half, half);
    for (size_t h = 0; h < l->kv_heads; h++) {
        void *keys = kv_at(a->kv, l, block, kv_offset(l, a->layer, h, false)),
             *values = kv_at(a->kv, l, block, kv_offset(l, a->layer, h, true));
        for (size_t i = 0; i < hd; i++) kv_put(keys, l->dtype, i * KV_BLOCK + pos % KV_BLOCK, k[h * hd + i]);
        for (size_t i = 0; i < hd; i++) kv_put(values, l->dtype, pos % KV_BLOCK * hd + i, v[h * hd + i]);
    }
    float scale = 1.0f / sqrtf((float)hd);
    for (size_t i = 0; i < a->heads * hd; i++) q[i] *= scale;
}

static void qkv_share(void *arg, int thread, int n_threads)
{
    struct qkv_run *run = arg;
    struct device *d = run->d;
    size_t first, end;
    cpu_share(d->n_rows, thread, n_threads, &first, &end);
    norm_rows(d, &run->job.in, run->a->x, run->a->norm, run->a->eps, run->a->hidden, first, end, thread);
    threads_barrier(d->threads);
    cpu_linear(d, &run->job, thread, n_threads);
    threads_barrier(d->threads);
    for (size_t r = first; r < end; r++) append_row(run, r);
}

int cpu_qkv(struct device *d, const struct qkv_args *a, struct err *e)
{
    (void)e;
    struct qkv_run run = {.d = d, .a = a};
    run.job = (struct linear_job){
        .w = a->w, .in = cpu_operand(d, a->w), .rows = d->n_rows, .epilogue = EPILOGUE_STORE, .out = d->qkv, .ldo = a->w->n};
    CHECK(a->w->n == (a->heads + 2 * a->layout->kv_heads) * a->layout->head_dim && a->w->k == a->hidden);
    threads_run(d->threads, qkv_share, &run);
    cpu_bump(d);
    return 0;
}

/* --- paged attention --- */
struct attention_run {
    struct device *d;
    const struct attention_args *a;
    size_t n_tasks;
};

size_t cpu_attention_scratch_floats(const struct device_limits *l)
{
    size_t tile = ATTENTION_ROWS * (KV_SPLIT + 2 * MAX_HEAD_DIM);
    size_t text = l->max_blocks_per_sequence * 2 * sizeof(void *) / sizeof(float);
    size_t positions = (l->vision_rows + KV_BLOCK) & ~(size_t)(KV_BLOCK - 1),
           dim = (l->vision_head_dim + KV_BLOCK - 1) & ~(size_t)(KV_BLOCK - 1);
    size_t vision = positions / KV_BLOCK * 2 * sizeof(void *) / sizeof(float) + positions * dim * 2 + ATTENTION_ROWS * dim * 2;
    return tile + (text > vision ? text : vision) + 64;
}

/* Rows of a sequence in runs, query heads of a KV head in groups, so that a tile has at most ATTENTION_ROWS rows. */
static size_t attention_tasks(struct device *d, const struct attention_args *a)
{
    size_t n = 0, group = a->heads / a->layout->kv_heads;
    size_t heads = group < ATTENTION_ROWS ? group : ATTENTION_ROWS, most = ATTENTION_ROWS / heads;
    for (size_t r = 0, run; r < d->n_rows; r += run) {
        for (run = 1; run < most && r + run < d->n_rows && d->sequence[r + run] == d->sequence[r]; run++) {
        }
        for (size_t kv = 0; kv < a->layout->kv_heads; kv++)
            for (size_t h = 0; h < group; h += heads) {
                CHECK(n < d->max_tasks);
                d->tasks[n++] = (struct attention_task){.first_row = (uint32_t)r,
                                                        .n_rows = (uint32_t)run,
                                                        .kv_head = (uint32_t)kv,
                                                        .first_head = (uint32_t)(kv * group + h),
                                                        .n_heads = (uint32_t)(group - h < heads ? group - h : heads)};
            }
    }
    return n;
}

static void attention_one(const struct attention_run *run, const struct attention_task *t, float *scratch)
{
    const struct device *d = run->d;
    const struct attention_args *a = run->a;
    const struct kv_layout *l = a->layout;
    size_t hd = l->head_dim, width = (a->heads + 2 * l->kv_heads) * hd, end = 0;
    const void **k_block = (const void **)(void *)(scratch + ATTENTION_ROWS * (KV_SPLIT + 2 * MAX_HEAD_DIM));
    const void **v_block = k_block + d->limits.max_blocks_per_sequence;
    struct attention_tile tile = {.head_dim = hd, .dtype = l->dtype, .k_block = k_block, .v_block = v_block, .scratch = scratch};
    for (size_t i = 0; i < t->n_rows; i++)
        for (size_t h = 0; h < t->n_heads; h++) {
            size_t row = t->first_row + i, head = t->first_head + h;
            tile.q[tile.rows] = d->qkv + row * width + head * hd;
            tile.out[tile.rows] = (float *)a->out + (row * a->heads + head) * hd;
            tile.limit[tile.rows] = (size_t)d->position[row] + 1;
            if (tile.limit[tile.rows] > end) end = tile.limit[tile.rows];
            tile.rows++;
        }
    const uint32_t *blocks = d->blocks[d->sequence[t->first_row]];
    size_t n = (end + KV_BLOCK - 1) / KV_BLOCK;
    CHECK(n <= d->limits.max_blocks_per_sequence);
    for (size_t b = 0; b < n; b++) {
        k_block[b] = kv_at(a->kv, l, blocks[b], kv_offset(l, a->layer, t->kv_head, false));
        v_block[b] = kv_at(a->kv, l, blocks[b], kv_offset(l, a->layer, t->kv_head, true));
    }
    d->k->attention(&tile);
}

static void attention_share(void *arg, int thread, int n_threads)
{
    const struct attention_run *run = arg;
    for (size_t i = (size_t)thread; i < run->n_tasks; i += (size_t)n_threads)
        attention_one(run, &run->d->tasks[i], cpu_thread_scratch(run->d, thread));
}

int cpu_attention(struct device *d, const struct attention_args *a, struct err *e)
{
    (void)e;
    struct attention_run run = {.d = d, .a = a, .n_tasks = attention_tasks(d, a)};
    threads_run(d->threads, attention_share, &run);
    cpu_bump(d);
    return 0;
}

/* --- projections --- */
struct linear_run {
    struct device *d;
    struct linear_job job;
    const float *x;    /* operand rows as they are, or to be normalised */
    const float *norm; /* NULL: only rounded */
    float eps;
    const uint32_t *pick; /* rows of x, or NULL for all */
};

static void linear_share(void *arg, int thread, int n_threads)
{
    struct linear_run *run = arg;
    struct device *d = run->d;
    size_t first, end, n = run->job.w->k;
    cpu_share(run->job.rows, thread, n_threads, &first, &end);
    float *h = cpu_thread_scratch(d, thread);
    for (size_t r = first; r < end; r++) {
        const float *x = run->x + (run->pick ? run->pick[r] : r) * n;
        if (run->norm) d->k->rmsnorm(x, run->norm, run->eps, n, h);
        cpu_put_row(d, &run->job.in, r, run->norm ? h : x, n);
    }
    threads_barrier(d->threads);
    cpu_linear(d, &run->job, thread, n_threads);
}

static void linear_run(struct device *d, struct linear_run *run)
{
    run->d = d;
    run->job.in = cpu_operand(d, run->job.w);
    threads_run(d->threads, linear_share, run);
    cpu_bump(d);
}

int cpu_project(struct device *d, const struct project_args *a, struct err *e)
{
    (void)e;
    CHECK(a->w->n == a->n && a->w->k == a->k);
    struct linear_run run = {.job = {.w = a->w, .rows = a->rows, .epilogue = EPILOGUE_ADD, .bias = a->bias, .out = a->x, .ldo = a->n},
                             .x = a->in};
    linear_run(d, &run);
    return 0;
}

int cpu_gate_up(struct device *d, const struct gate_up_args *a, struct err *e)
{
    (void)e;
    CHECK(a->w->n == a->inter && a->w->k == a->hidden);
    struct linear_run run = {.job = {.w = a->w, .rows = d->n_rows, .epilogue = EPILOGUE_SILU, .out = a->out, .ldo = a->inter},
                             .x = a->x,
                             .norm = a->norm,
                             .eps = a->eps};
    linear_run(d, &run);
    return 0;
}

int cpu_head(struct device *d, const struct head_args *a, struct err *e)
{
    (void)e;
    CHECK(a->w->n == a->vocab && a->w->k == a->hidden && a->n <= d->limits.max_rows);
    struct linear_run run = {.job = {.w = a->w, .rows = a->n, .epilogue = EPILOGUE_STORE, .out = a->logits, .ldo = a->vocab},
                             .x = a->x,
                             .norm = a->norm,
                             .eps = a->eps,
                             .pick = a->row};
    linear_run(d, &run);
    return 0;
}
