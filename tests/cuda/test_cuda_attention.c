/* Attention of the CUDA backend, with the queries, keys and values that come before it: prompts in chunks and decode rows over a paged cache whose
 * blocks lie anywhere, every cache dtype, grouped and plain heads, with rotation and without; and the vision model's. Every row of every step
 * is compared with the formulas over its sequence's whole history, and the last rows once more computed alone. */
#include "tests/cuda/cuda_harness.h"

enum { BLOCK = 64, MAX_BLOCKS = 10, N_BLOCKS = 24, MAX_HEAD = 128, MAX_HIDDEN = 96, MAX_ROWS = 160 };

static const struct device_limits limits = {.max_rows = MAX_ROWS,
                                            .max_sequences = 8,
                                            .max_blocks_per_sequence = MAX_BLOCKS,
                                            .hidden = MAX_HIDDEN,
                                            .heads = 8,
                                            .kv_heads = 8,
                                            .head_dim = MAX_HEAD,
                                            .inter = 64,
                                            .vocab = 64,
                                            .vision_rows = 4 * 81,
                                            .vision_dim = 216,
                                            .vision_inter = 64,
                                            .vision_head_dim = 72,
                                            .connector_in = 216 * 9,
                                            .patch_in = 768,
                                            .tile_bytes = 3 * 64 * 64};

struct scene {
    size_t heads, kv_heads, head_dim, hidden, layers, layer;
    enum dtype dtype;
    bool rope;
    /* made by scene_open */
    struct matrix m[3];
    struct weight *w;
    float *norm, inv_freq[MAX_HEAD / 2];
    struct kv_layout layout;
    void *kv, *d_norm;
};

/* A sequence: its rows of x so far, and where its blocks lie. */
struct history {
    float x[MAX_BLOCKS * BLOCK][MAX_HIDDEN];
    uint32_t blocks[MAX_BLOCKS];
    size_t n;
};

static void scene_open(struct scene *s)
{
    const size_t rows[3] = {s->heads * s->head_dim, s->kv_heads * s->head_dim, s->kv_heads * s->head_dim};
    for (int i = 0; i < 3; i++) s->m[i] = matrix_new(rows[i], s->hidden, DTYPE_BF16, COMPUTE_BF16);
    s->w = pack_qkv(s->m, s->head_dim);
    s->norm = noise_new(s->hidden);
    for (size_t i = 0; i < s->hidden; i++) s->norm[i] *= 0.2f; /* scores of a few units: beyond, the bound says nothing */
    s->d_norm = to_device(s->norm, s->hidden * sizeof *s->norm);
    for (size_t j = 0; j < s->head_dim / 2; j++) s->inv_freq[j] = powf(1000, -(float)j / (float)(s->head_dim / 2));
    s->layout = (struct kv_layout){s->layers, s->kv_heads, s->head_dim, BLOCK, s->dtype};
    s->kv = to_device(NULL, N_BLOCKS * ops->kv_block_bytes(&s->layout));
}

static void scene_close(struct scene *s)
{
    ops->weight_free(dev, s->w);
    ops->free(dev, s->kv), ops->free(dev, s->d_norm);
    free(s->norm);
}

/* What the cache holds of a head's key or value. */
static void stored(struct near *v, size_t n, enum dtype dtype)
{
    double most = 0, err = 0;
    if (dtype == DTYPE_E4M3) {
        near_e4m3(v, n, v);
        return;
    }
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs(v[i].v)), err = fmax(err, v[i].err);
    for (size_t i = 0; i < n; i++)
        if (dtype == DTYPE_I8) /* the nearest of steps of most / 127: half a step, and what the step itself may be off */
            v[i].err += (most + err) / 127 * (0.5 + 1e-4) + err;
        else
            v[i] = near_operand(v[i], COMPUTE_BF16);
}

/* Queries, keys and values of a row: (heads + 2 kv_heads, head_dim). */
static void near_row(const struct scene *s, const float *x, int32_t position, struct near *out)
{
    struct near h[MAX_HIDDEN];
    near_rmsnorm(x, s->norm, 1e-5f, s->hidden, h);
    for (size_t i = 0; i < s->hidden; i++) h[i] = near_operand(h[i], COMPUTE_BF16);
    const size_t hd = s->head_dim;
    for (size_t i = 0, at = 0; i < 3; i++)
        for (size_t o = 0; o < s->m[i].n; o++) out[at++] = near_product(h, s->m[i].seen + o * s->hidden, s->hidden);
    for (size_t head = 0; head < s->heads + 2 * s->kv_heads; head++) {
        if (s->rope && head < s->heads + s->kv_heads) near_rotate(out + head * hd, hd / 2, position, s->inv_freq, 1);
        if (head >= s->heads) stored(out + head * hd, hd, s->dtype);
    }
}

/* Attention of the last row of a history. prefill: queries and weights are bf16 there; the weights' rounding moves the result by at most that
 * share of the largest value. */
static void near_last(const struct scene *s, const struct history *h, size_t n, bool prefill, struct near *out)
{
    const size_t hd = s->head_dim, width = (s->heads + 2 * s->kv_heads) * hd;
    struct near *rows = malloc(n * width * sizeof *rows), *q = rows + (n - 1) * width;
    for (size_t p = 0; p < n; p++) near_row(s, h->x[p], (int32_t)p, rows + p * width);
    for (size_t head = 0; head < s->heads; head++) {
        const size_t kv = head / (s->heads / s->kv_heads);
        const struct near *k = rows + (s->heads + kv) * hd, *v = rows + (s->heads + s->kv_heads + kv) * hd;
        struct near query[MAX_HEAD];
        for (size_t i = 0; i < hd; i++) {
            query[i] = q[head * hd + i];
            if (prefill) query[i].err += (fabs(query[i].v) + query[i].err) * BF16_ROUNDING / 2; /* scaled first, then rounded */
        }
        near_attention(query, hd, n, k, v, width, out + head * hd);
        double most = 0;
        for (size_t p = 0; p < n; p++)
            for (size_t i = 0; i < hd; i++) most = fmax(most, fabs(v[p * width + i].v) + v[p * width + i].err);
        for (size_t i = 0; i < hd; i++) {
            if (prefill) out[head * hd + i].err += most * BF16_ROUNDING / 2;
            out[head * hd + i] = rounded_to_bf16(out[head * hd + i]);
        }
    }
    free(rows);
}

struct part {
    struct history *h;
    size_t n_rows;
    bool prefill;
};

/* One step; the attended rows, operands, to out. */
static void step(const struct scene *s, const struct part *parts, size_t n_parts, void *out)
{
    static float x[MAX_ROWS * MAX_HIDDEN];
    int32_t position[MAX_ROWS];
    uint32_t sequence[MAX_ROWS];
    bool prefill[MAX_ROWS];
    const uint32_t *tables[8];
    size_t rows = 0, slot = 0;
    for (int role = 0; role < 2; role++) /* x lies in slots: decode rows first */
        for (size_t i = 0; i < n_parts; i++)
            for (size_t r = 0; r < parts[i].n_rows && parts[i].prefill == role; r++)
                memcpy(x + slot++ * s->hidden, parts[i].h->x[parts[i].h->n + r], s->hidden * sizeof *x);
    for (size_t i = 0; i < n_parts; i++) {
        tables[i] = parts[i].h->blocks;
        for (size_t r = 0; r < parts[i].n_rows; r++, rows++)
            position[rows] = (int32_t)(parts[i].h->n + r), sequence[rows] = (uint32_t)i, prefill[rows] = parts[i].prefill;
    }
    void *d_x = to_device(x, rows * s->hidden * sizeof *x);
    const struct rope rope = {s->rope ? s->inv_freq : NULL, 1};
    OK(ops->plan(dev, &(struct step_plan){rows, position, sequence, prefill, n_parts, tables, 0, NULL}, &rope, s->head_dim, &e));
    OK(ops->qkv(dev, &(struct qkv_args){d_x, s->d_norm, 1e-5f, s->w, s->hidden, s->heads, rope, s->kv, &s->layout, s->layer}, &e));
    OK(ops->attention(dev, &(struct attention_args){out, s->heads, s->kv, &s->layout, s->layer}, &e));
    OK(ops->sync(dev, &e));
    ops->free(dev, d_x);
    for (size_t i = 0; i < n_parts; i++) parts[i].h->n += parts[i].n_rows;
}

/* The last row of each part. */
static void check_step(const struct scene *s, const struct part *parts, size_t n_parts, const char *what)
{
    const size_t width = s->heads * s->head_dim;
    void *out = to_device(NULL, MAX_ROWS * (width + 64) * sizeof(bf16)), *again = to_device(NULL, (width + 64) * sizeof(bf16));
    float *got = malloc(width * sizeof *got), *alone = malloc(width * sizeof *alone);
    struct near *want = malloc(width * sizeof *want);
    step(s, parts, n_parts, out);
    for (size_t i = 0, n_decode = 0, decode = 0, prefill = 0; i < n_parts; i++) {
        for (size_t j = n_decode = 0; j < n_parts; j++) n_decode += parts[j].prefill ? 0 : parts[j].n_rows;
        const struct part *p = &parts[i];
        size_t *seen = p->prefill ? &prefill : &decode, slot = (p->prefill ? n_decode : 0) + *seen + p->n_rows - 1;
        *seen += p->n_rows;
        near_last(s, p->h, p->h->n, p->prefill, want);
        read_operand(out, slot, width, got);
        near_check(got, want, width, p->prefill ? "prefill" : "decode", what, p->h->n);
        p->h->n--; /* the same row once more, alone */
        step(s, &(struct part){p->h, 1, p->prefill}, 1, again);
        read_operand(again, 0, width, alone);
        if (!fast && memcmp(alone, got, width * sizeof *got)) fail_msg("%s: position %zu alone is another", what, p->h->n - 1);
    }
    ops->free(dev, out), ops->free(dev, again);
    free(got), free(alone), free(want);
}

static void run_scene(struct scene s)
{
    static struct history a, b, c;
    size_t keep = n_edges;
    char what[96];
    snprintf(what, sizeof what, "%zu/%zu heads of %zu, dtype %d%s", s.heads, s.kv_heads, s.head_dim, s.dtype, s.rope ? ", rotated" : "");
    open_device(&limits); /* anew: the table of rotations lasts as long as the device */
    scene_open(&s);
    struct history *all[] = {&a, &b, &c};
    for (size_t i = 0; i < 3; i++) {
        all[i]->n = 0;
        for (size_t p = 0; p < MAX_BLOCKS * BLOCK; p++)
            for (size_t j = 0; j < s.hidden; j++) all[i]->x[p][j] = noise();
        for (size_t k = 0; k < MAX_BLOCKS; k++) all[i]->blocks[k] = (uint32_t)((7 * (i * 8 + k) + 3) % N_BLOCKS); /* 24 blocks, 8 each: all apart */
    }
    check_step(&s, (struct part[]){{&a, 70, true}, {&b, 1, true}, {&c, 65, true}}, 3, what);
    check_step(&s, (struct part[]){{&a, 60, true}, {&b, 1, false}, {&c, 1, false}}, 3, what);
    check_step(&s, (struct part[]){{&b, 3, true}, {&a, 150, true}, {&c, 1, false}}, 3, what);
    check_step(&s, (struct part[]){{&a, 1, false}, {&b, 1, false}, {&c, 4, false}}, 3, what); /* c: guesses */
    scene_close(&s);
    close_device();
    edges_release(keep);
}

static void test_attention(void **unused)
{
    (void)unused;
    static const size_t shapes[][3] = {{3, 1, 64}, {2, 2, 64}, {4, 1, 128}, {5, 1, 64}, {8, 4, 32}, {2, 1, 128}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int t = 0; t < (i == 0 || i == 2 ? 3 : 2); t++) /* the caches' numbers; of e4m3 two shapes */
            run_scene((struct scene){.heads = shapes[i][0],
                                     .kv_heads = shapes[i][1],
                                     .head_dim = shapes[i][2],
                                     .hidden = 32 + 32 * (i % 3),
                                     .layers = 2,
                                     .layer = i % 2,
                                     .dtype = t == 2 ? DTYPE_E4M3 : t ? DTYPE_I8 : DTYPE_BF16,
                                     .rope = (i + (size_t)t) % 3 != 0});
}

/* --- vision: a row of the projection is (q, k, v), so a plain product makes any --- */

static void check_vision(size_t positions, size_t heads, size_t hd)
{
    const size_t dim = heads * hd, keep = n_edges;
    struct matrix m = matrix_new(3 * dim, dim, DTYPE_BF16, COMPUTE_BF16);
    float *x = noise_new(positions * dim), *norm = noise_new(dim), *shift = noise_new(dim), *bias = noise_new(3 * dim), *got = malloc(dim * sizeof *got);
    for (size_t i = 0; i < dim; i++) norm[i] *= 0.1f, shift[i] *= 0.05f;
    struct near *h = malloc(dim * sizeof *h), *qkv = malloc(positions * 3 * dim * sizeof *qkv), want[80];
    void *d_x = to_device(x, positions * dim * sizeof *x), *d_norm = to_device(norm, dim * sizeof *norm), *d_shift = to_device(shift, dim * sizeof *shift),
         *d_bias = to_device(bias, 3 * dim * sizeof *bias), *out = to_device(NULL, positions * (dim + 64) * sizeof(bf16));
    struct weight *w = pack_cuda(PACK_LINEAR, &m, 1, NULL);
    OK(ops->vision_qkv(dev, &(struct vision_qkv_args){d_x, d_norm, d_shift, 1e-6f, w, d_bias, positions, dim}, &e));
    OK(ops->vision_attention(dev, &(struct vision_attention_args){out, 1, positions, heads, hd}, &e));
    for (size_t p = 0; p < positions; p++) {
        near_layernorm(x + p * dim, norm, shift, 1e-6f, dim, h);
        for (size_t i = 0; i < dim; i++) h[i] = near_operand(h[i], COMPUTE_BF16);
        for (size_t o = 0; o < 3 * dim; o++) { /* cuBLASLt reads the bias as bf16 */
            const struct near b = {(double)bias[o], fast ? fabs((double)bias[o]) * BF16_ROUNDING : 0};
            qkv[p * 3 * dim + o] = near_operand(near_sum(near_product(h, m.seen + o * dim, dim), b, (struct near){0, 0}), COMPUTE_BF16);
        }
    }
    for (size_t p = 0; p < positions; p += 13) {
        read_operand(out, p, dim, got);
        for (size_t head = 0; head < heads; head++) {
            const struct near *v = qkv + 2 * dim + head * hd;
            double most = 0;
            near_attention(qkv + p * 3 * dim + head * hd, hd, positions, qkv + dim + head * hd, v, 3 * dim, want);
            for (size_t q = 0; q < positions; q++)
                for (size_t i = 0; i < hd; i++) most = fmax(most, fabs(v[q * 3 * dim + i].v) + v[q * 3 * dim + i].err);
            for (size_t i = 0; i < hd; i++) want[i].err += most * BF16_ROUNDING / 2, want[i] = rounded_to_bf16(want[i]);
            near_check(got + head * hd, want, hd, "cuda", "vision attention", p);
        }
    }
    ops->weight_free(dev, w);
    ops->free(dev, d_x), ops->free(dev, d_norm), ops->free(dev, d_shift), ops->free(dev, d_bias), ops->free(dev, out);
    free(x), free(norm), free(shift), free(bias), free(got), free(h), free(qkv);
    edges_release(keep);
}

static void test_vision_attention(void **unused)
{
    (void)unused;
    open_device(&limits);
    check_vision(64, 2, 64);
    check_vision(81, 3, 72);
    check_vision(144, 1, 72);
    check_vision(9, 2, 32);
    check_vision(150, 1, 64);
    close_device();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_attention), cmocka_unit_test(test_vision_attention)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
