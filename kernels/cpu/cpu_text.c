/* CPU: the operations of a text layer. Each is a few parallel passes: operand rows, product by panels, and what follows it. */
#include <float.h>
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

/* Rows of x normalised into the operand. */
static void qkv_norm_rows(void *arg, int thread, size_t first, size_t end)
{
    const struct qkv_run *run = arg;
    const struct device *d = run->d;
    size_t n = run->a->hidden;
    float *h = cpu_thread_scratch(d, thread);
    for (size_t r = first; r < end; r++) {
        d->k->rmsnorm((const float *)run->a->x + r * n, run->a->norm, run->a->eps, n, h);
        cpu_put_row(d, &run->job.in, r, h, n);
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

/* Bytes of one KV head's keys or values in a block. */
static size_t kv_head_bytes(const struct kv_layout *l)
{
    size_t n = KV_BLOCK * l->head_dim;
    return l->dtype == DTYPE_I8 || l->dtype == DTYPE_E4M3 ? n + KV_BLOCK * sizeof(float) : l->dtype == DTYPE_BF16 ? n * 2 : n * 4;
}

size_t cpu_kv_block_bytes(const struct kv_layout *l)
{
    return l->layers * 2 * l->kv_heads * kv_head_bytes(l);
}

/* A layer's keys of one KV head in a block; values follow all keys of the layer. */
static void *kv_at(const void *kv, const struct kv_layout *l, uint32_t block, size_t layer, size_t head, bool value)
{
    return (unsigned char *)kv + (size_t)block * cpu_kv_block_bytes(l) + ((layer * 2 + value) * l->kv_heads + head) * kv_head_bytes(l);
}

/* v (n) to int8, to the nearest: element i at at[i * stride]. Returns the scale; a row with a number that is none stays none. */
static float quantize_row(const float *v, size_t n, int8_t *at, size_t stride)
{
    float most = 0;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        float size = fabsf(v[i]);
        finite &= size < INFINITY;
        most = size > most ? size : most;
    }
    float scale = most / 127, inverse = most > 127 * FLT_MIN ? 127 / most : 0; /* below, the scale would be subnormal: all zero */
    for (size_t i = 0; i < n; i++) at[i * stride] = finite ? (int8_t)lrintf(v[i] * inverse) : 0;
    return finite ? scale : NAN;
}

/* One token's keys (stride KV_BLOCK) or values (stride 1) of one head, from element `at`. */
static void kv_put(void *block, const struct kv_layout *l, size_t token, bool value, const float *v)
{
    size_t hd = l->head_dim, at = value ? token * hd : token, stride = value ? 1 : KV_BLOCK;
    float scale;
    if (l->dtype == DTYPE_I8 || l->dtype == DTYPE_E4M3) {
        if (l->dtype == DTYPE_I8)
            scale = quantize_row(v, hd, (int8_t *)block + at, stride);
        else
            quant_e4m3(v, hd, stride, (uint8_t *)block + at, &scale);
        memcpy((int8_t *)block + KV_BLOCK * hd + token * sizeof scale, &scale, sizeof scale);
    } else if (l->dtype == DTYPE_BF16) {
        for (size_t i = 0; i < hd; i++) ((bf16 *)block)[at + i * stride] = bf16_from_f32(v[i]);
    } else {
        for (size_t i = 0; i < hd; i++) ((float *)block)[at + i * stride] = v[i];
    }
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
        kv_put(kv_at(a->kv, l, block, a->layer, h, false), l, pos % KV_BLOCK, false, k + h * hd);
        kv_put(kv_at(a->kv, l, block, a->layer, h, true), l, pos % KV_BLOCK, true, v + h * hd);
    }
    float scale = 1.0f / sqrtf((float)hd);
    for (size_t i = 0; i < a->heads * hd; i++) q[i] *= scale;
}

static void append_rows(void *arg, int thread, size_t first, size_t end)
{
    (void)thread;
    for (size_t r = first; r < end; r++) append_row(arg, r);
}

int cpu_qkv(struct device *d, const struct qkv_args *a, struct err *e)
{
    (void)e;
    struct qkv_run run = {.d = d, .a = a};
    run.job = (struct linear_job){
        .w = a->w, .in = cpu_operand(d, a->w, d->n_rows), .rows = d->n_rows, .epilogue = EPILOGUE_STORE, .out = d->qkv, .ldo = a->w->n};
    CHECK(a->w->n == (a->heads + 2 * a->layout->kv_heads) * a->layout->head_dim && a->w->k == a->hidden);
    cpu_rows(d, d->n_rows, qkv_norm_rows, &run);
    cpu_linear_run(d, &run.job);
    cpu_rows(d, d->n_rows, append_rows, &run);
    cpu_bump(d);
    return 0;
}

/* --- paged attention --- */
struct attention_run {
    struct device *d;
    const struct attention_args *a;
    size_t n_tiles, n_tasks;
};

/* Below so many tiles a thread, the splits of a long context are shared out too. */
enum { TILES_A_THREAD = 4, TASKS_A_THREAD = 8 };

static size_t tile_heads(size_t heads, size_t kv_heads)
{
    size_t group = kv_heads ? heads / kv_heads : 1;
    return group < ATTENTION_ROWS ? group : ATTENTION_ROWS;
}

static size_t n_splits(size_t positions)
{
    return (positions + KV_SPLIT - 1) / KV_SPLIT;
}

size_t cpu_attention_max_tasks(const struct device_limits *l, int threads)
{
    if (!l->kv_heads) return 1;
    size_t group = l->heads / l->kv_heads, heads = tile_heads(l->heads, l->kv_heads);
    return l->max_rows * l->kv_heads * ((group + heads - 1) / heads) + (size_t)threads * (TILES_A_THREAD + 2 * TASKS_A_THREAD);
}

size_t cpu_attention_parts_floats(const struct device_limits *l, int threads)
{
    return (size_t)threads * TILES_A_THREAD * tile_heads(l->heads, l->kv_heads) * n_splits(l->max_blocks_per_sequence * KV_BLOCK) *
           attention_part_floats(l->head_dim);
}

size_t cpu_attention_scratch_floats(const struct device_limits *l)
{
    size_t text = l->max_blocks_per_sequence * 2 * sizeof(void *) / sizeof(float);
    size_t positions = (l->vision_rows + KV_BLOCK) & ~(size_t)(KV_BLOCK - 1),
           dim = (l->vision_head_dim + KV_BLOCK - 1) & ~(size_t)(KV_BLOCK - 1);
    size_t vision = positions / KV_BLOCK * 2 * sizeof(void *) / sizeof(float) + positions * dim * 2 + ATTENTION_ROWS * dim * 2;
    return ATTENTION_FLOATS + (text > vision ? text : vision) + 64;
}

/* Rows of a sequence in runs, query heads of a KV head in groups, so that a tile has at most ATTENTION_ROWS rows. */
static size_t attention_tiles(struct device *d, const struct attention_args *a)
{
    size_t n = 0, group = a->heads / a->layout->kv_heads, heads = tile_heads(a->heads, a->layout->kv_heads), most = ATTENTION_ROWS / heads;
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

/* Few tiles of single rows (decode) over long contexts become tasks of some splits each, joined afterwards: that changes who computes a
 * split, and nothing of what is computed. The tiles stand first in d->tasks, their tasks behind them; returns where those end. */
static size_t attention_cut(struct device *d, size_t n_tiles, size_t head_dim)
{
    size_t threads = (size_t)threads_count(d->threads), splits = 0, n = n_tiles, floats = 0;
    if (threads == 1 || n_tiles >= threads * TILES_A_THREAD) return n;
    for (size_t i = 0; i < n_tiles; i++) splits += n_splits((size_t)d->position[d->tasks[i].first_row] + 1);
    size_t at_once = splits / (threads * TASKS_A_THREAD) + 1;
    for (size_t i = 0; i < n_tiles; i++) {
        struct attention_task *tile = &d->tasks[i];
        size_t of = n_splits((size_t)d->position[tile->first_row] + 1);
        if (tile->n_rows > 1 || of < 2) continue;
        tile->parts = d->parts + floats;
        tile->end_split = (uint32_t)of;
        floats += of * tile->n_heads * attention_part_floats(head_dim);
        CHECK(floats <= d->parts_floats);
        for (size_t s = 0; s < of; s += at_once) {
            CHECK(n < d->max_tasks);
            d->tasks[n] = *tile;
            d->tasks[n].first_split = (uint32_t)s;
            d->tasks[n++].end_split = (uint32_t)(of - s < at_once ? of : s + at_once);
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
    const void **k_block = (const void **)(void *)(scratch + ATTENTION_FLOATS);
    const void **v_block = k_block + d->limits.max_blocks_per_sequence;
    struct attention_tile tile = {.head_dim = hd,
                                  .dtype = l->dtype,
                                  .k_block = k_block,
                                  .v_block = v_block,
                                  .scratch = scratch,
                                  .parts = t->parts,
                                  .first_split = t->first_split,
                                  .end_split = t->end_split};
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
    size_t n = (end + KV_BLOCK - 1) / KV_BLOCK, first = t->parts ? t->first_split * (KV_SPLIT / KV_BLOCK) : 0;
    CHECK(n <= d->limits.max_blocks_per_sequence);
    for (size_t b = first; b < n && !(t->parts && b >= t->end_split * (KV_SPLIT / KV_BLOCK)); b++) {
        k_block[b] = kv_at(a->kv, l, blocks[b], a->layer, t->kv_head, false);
        v_block[b] = kv_at(a->kv, l, blocks[b], a->layer, t->kv_head, true);
    }
    d->k->attention(&tile);
}

/* Tasks from the last on: the later rows of a prompt see more keys, and large tasks at the end leave threads waiting. */
static void attention_item(void *arg, int thread, size_t item)
{
    const struct attention_run *run = arg;
    const struct attention_task *t = &run->d->tasks[run->n_tasks - 1 - item];
    if (t->parts && t->first_split == 0 && item + run->n_tiles >= run->n_tasks) return; /* a tile that was cut */
    attention_one(run, t, cpu_thread_scratch(run->d, thread));
}

static void attention_join(const struct attention_run *run)
{
    const struct device *d = run->d;
    size_t hd = run->a->layout->head_dim, floats = attention_part_floats(hd);
    for (size_t i = 0; i < run->n_tiles; i++) {
        const struct attention_task *t = &d->tasks[i];
        for (size_t h = 0; t->parts && h < t->n_heads; h++)
            d->k->attention_join(t->parts + h * floats, t->n_heads * floats, t->end_split, hd,
                                 (float *)run->a->out + ((size_t)t->first_row * run->a->heads + t->first_head + h) * hd);
    }
}

int cpu_attention(struct device *d, const struct attention_args *a, struct err *e)
{
    (void)e;
    struct attention_run run = {.d = d, .a = a, .n_tiles = attention_tiles(d, a)};
    run.n_tasks = attention_cut(d, run.n_tiles, a->layout->head_dim);
    threads_items(d->threads, attention_item, &run, run.n_tasks);
    attention_join(&run);
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

static void operand_rows(void *arg, int thread, size_t first, size_t end)
{
    const struct linear_run *run = arg;
    const struct device *d = run->d;
    size_t n = run->job.w->k;
    float *h = cpu_thread_scratch(d, thread);
    for (size_t r = first; r < end; r++) {
        const float *x = run->x + (run->pick ? run->pick[r] : r) * n;
        if (run->norm) d->k->rmsnorm(x, run->norm, run->eps, n, h);
        cpu_put_row(d, &run->job.in, r, run->norm ? h : x, n);
    }
}

static void linear_run(struct device *d, struct linear_run *run)
{
    run->d = d;
    run->job.in = cpu_operand(d, run->job.w, run->job.rows);
    cpu_rows(d, run->job.rows, operand_rows, run);
    cpu_linear_run(d, &run->job);
    cpu_bump(d);
}

int cpu_project(struct device *d, const struct project_args *a, struct err *e)
{
    (void)e;
    CHECK(a->w->n == a->n && a->w->k == a->k);
    struct linear_run run = {.job = {.w = a->w, .rows = a->rows, .epilogue = EPILOGUE_ADD, .bias = a->bias, .out = a->x, .ldo = a->n},
                             .x = a->in};
    linear_run(d, &run);
    if (a->adapters) cpu_adapters(d, a);
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
