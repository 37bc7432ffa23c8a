/* Products of the CUDA backend: bf16 and every quantised form, decode and prefill rows, every K of the models and odd ones, N of some tiles and
 * a tail. A row's bytes must not depend on its company. */
#include "tests/cuda/cuda_harness.h"

static const struct device_limits limits = {.max_rows = 160,
                                            .max_sequences = 160,
                                            .max_blocks_per_sequence = 1,
                                            .hidden = 12288,
                                            .heads = 1,
                                            .kv_heads = 1,
                                            .head_dim = 64,
                                            .inter = 12288,
                                            .vocab = 512,
                                            .vision_rows = 160,
                                            .vision_dim = 1152,
                                            .vision_inter = 4304,
                                            .vision_head_dim = 72,
                                            .connector_in = 12288,
                                            .patch_in = 768,
                                            .tile_bytes = 64};

static const struct quant_format forms[] = {{.bits = 8, .group = 0, .scale = DTYPE_F32},   {.bits = 8, .group = 32, .scale = DTYPE_BF16},
                                            {.bits = 8, .group = 64, .scale = DTYPE_F32},  {.bits = 8, .group = 128, .scale = DTYPE_BF16},
                                            {.bits = 4, .group = 32, .scale = DTYPE_BF16}, {.bits = 4, .group = 64, .scale = DTYPE_BF16},
                                            {.bits = 4, .group = 128, .scale = DTYPE_F32},
                                            {.bits = 8, .group = 0, .scale = DTYPE_F32, .e4m3 = true}};

/* --- x += W in --- */

struct product {
    size_t n, k, n_decode, n_prefill;
    const struct quant_format *quant; /* NULL: bf16 */
    struct matrix m;
    float *x, *in, *out; /* (rows, n), (rows, k), (rows, n) */
    int8_t *wq;
    float *ws;
};

static void run_rows(const struct product *p, const struct weight *w, size_t first, size_t n_decode, size_t n_prefill, float *out)
{
    size_t rows = n_decode + n_prefill;
    float *in = malloc(rows * p->k * sizeof *in);
    memcpy(in, p->in + first * p->k, rows * p->k * sizeof *in);
    void *d_in = operand_rows(in, rows, p->k), *d_x = to_device(p->x + first * p->n, rows * p->n * sizeof(float));
    plan_roles(n_decode, n_prefill);
    OK(ops->project(dev, &(struct project_args){.x = d_x, .in = d_in, .w = w, .rows = rows, .n = p->n, .k = p->k}, &e));
    OK(ops->read_back(dev, out, d_x, rows * p->n * sizeof *out, &e));
    ops->free(dev, d_in);
    ops->free(dev, d_x);
    free(in);
}

static struct near wanted(const struct product *p, size_t r, size_t o, const int8_t *xq, const float *xs)
{
    struct near v;
    if (p->quant) {
        size_t kp = quant_steps(p->quant, p->k) * quant_step(p->quant), n_scales = quant_scales(p->quant, p->k);
        const int8_t *wq = p->wq + o * kp;
        const float *ws = p->ws + o * n_scales;
        v = near_quant_product(p->quant, p->k, wq, ws, xq, xs);
    } else {
        struct near *x = malloc(p->k * sizeof *x);
        for (size_t i = 0; i < p->k; i++) x[i] = (struct near){(double)p->in[r * p->k + i], 0};
        v = near_product(x, p->m.seen + o * p->k, p->k);
        free(x);
    }
    return near_sum(v, (struct near){(double)p->x[r * p->n + o], 0}, (struct near){0, 0});
}

static void quantise(struct product *p)
{
    size_t kp = quant_steps(p->quant, p->k) * quant_step(p->quant), n_scales = quant_scales(p->quant, p->k);
    p->wq = calloc(p->n * kp, 1);
    p->ws = calloc(p->n * n_scales, sizeof *p->ws);
    for (size_t o = 0; o < p->n; o++) quant_weights(p->quant, p->m.seen + o * p->k, p->k, p->wq + o * kp, p->ws + o * n_scales);
}

static void quantise_row(const struct quant_format *f, const float *x, size_t k, int8_t *q, float *scale)
{
    if (f->e4m3)
        quant_e4m3(x, k, 1, (uint8_t *)q, scale);
    else
        quant_activations(x, k, quant_step(f), q, scale);
}

static void check_once(struct product p, const char *path)
{
    size_t keep = n_edges, rows = p.n_decode + p.n_prefill, step = p.quant ? quant_step(p.quant) : 1, steps = (p.k + step - 1) / step;
    char what[128];
    snprintf(what, sizeof what, "%zu x %zu, %u bits by %zu%s", p.n, p.k, p.quant ? p.quant->bits : 16, p.quant ? p.quant->group : 0, path);
    p.m = matrix_new(p.n, p.k, DTYPE_BF16, COMPUTE_BF16);
    p.x = noise_new(rows * p.n), p.in = noise_new(rows * p.k), p.out = malloc(rows * p.n * sizeof *p.out);
    for (size_t i = 0; i < rows * p.k; i++) p.in[i] = bf16_to_f32(bf16_from_f32(p.in[i]));
    if (p.quant) quantise(&p);
    struct weight *w = pack_cuda(PACK_LINEAR, &p.m, 1, p.quant);
    float *alone = malloc(p.n * sizeof *alone), *xs = calloc(steps, sizeof *xs);
    int8_t *xq = calloc(steps * step, 1);
    struct near *want = malloc(p.n * sizeof *want);
    run_rows(&p, w, 0, p.n_decode, p.n_prefill, p.out);
    for (size_t r = 0; r < rows; r++) {
        if (p.quant) quantise_row(p.quant, p.in + r * p.k, p.k, xq, xs);
        for (size_t o = 0; o < p.n; o++) want[o] = wanted(&p, r, o, xq, xs);
        near_check(p.out + r * p.n, want, p.n, r < p.n_decode ? "decode" : "prefill", what, r);
        if (fast || (r % 7 && r + 1 < rows)) continue; /* each kind of place in a tile */
        run_rows(&p, w, r, r < p.n_decode, r >= p.n_decode, alone);
        if (memcmp(alone, p.out + r * p.n, p.n * sizeof *alone)) fail_msg("%s: row %zu alone is another", what, r);
    }
    ops->weight_free(dev, w);
    free(p.x), free(p.in), free(p.out), free(p.wq), free(p.ws), free(alone), free(xs), free(xq), free(want);
    edges_release(keep);
}

/* fp8 once more as on a card that has no mma of it; on a card it is the same again. */
static void check_product(struct product p)
{
    check_once(p, p.quant && p.quant->e4m3 ? ", e4m3" : "");
    if (!p.quant || !p.quant->e4m3) return;
    setenv("SIM_CUDA_CC", "86", 1);
    check_once(p, ", e4m3 as fp16");
    unsetenv("SIM_CUDA_CC");
}

static void test_products_of_the_models(void **unused)
{
    (void)unused;
    static const size_t ks[] = {576, 588, 768, 960, 1152, 1536, 2048, 2560, 4304, 8192, 11008, 12288};
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++)
        for (size_t f = 0; f <= sizeof forms / sizeof *forms; f++) {
            if (f && ks[i] > 2048 && (i + f) % 4) continue; /* the long ones take turns */
            check_product((struct product){
                .n = 56, .k = ks[i], .n_decode = 1 + i % 3, .n_prefill = 1 + i % 2, .quant = f ? &forms[f - 1] : NULL});
        }
}

static void test_products_of_many_rows(void **unused)
{
    (void)unused;
    static const struct {
        size_t n_decode, n_prefill;
    } rows[] = {{1, 0}, {0, 1}, {8, 7}, {9, 64}, {17, 65}, {70, 33}, {0, 130}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t f = 0; f <= sizeof forms / sizeof *forms; f++)
            check_product((struct product){.n = 150 - i,
                                           .k = 96 + 32 * f,
                                           .n_decode = rows[i].n_decode,
                                           .n_prefill = rows[i].n_prefill,
                                           .quant = f ? &forms[f - 1] : NULL});
}

static void test_products_of_odd_sizes(void **unused)
{
    (void)unused;
    static const size_t sizes[][2] = {{1, 1}, {16, 64}, {17, 65}, {129, 63}, {33, 130}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t f = 0; f <= sizeof forms / sizeof *forms; f++)
            check_product((struct product){.n = sizes[i][0], .k = sizes[i][1], .n_decode = 3, .n_prefill = 5, .quant = f ? &forms[f - 1] : NULL});
}

/* --- low-rank adapters --- */

enum { ADAPTERS = 3 };

struct adapted {
    size_t n, k, n_decode, n_prefill;
    struct matrix m, a[ADAPTERS], b[ADAPTERS]; /* b: (n, rank) */
    void *d_a[ADAPTERS], *d_b[ADAPTERS], *table;
    float scale[ADAPTERS];
    int32_t which[64]; /* of a row, -1: none */
    float *x, *in;
};

static void adapters_new(struct adapted *p, const size_t rank[ADAPTERS])
{
    struct adapter table[ADAPTERS];
    for (size_t i = 0; i < ADAPTERS; i++) {
        p->a[i] = matrix_new(rank[i], p->k, DTYPE_BF16, COMPUTE_BF16), p->b[i] = matrix_new(p->n, rank[i], DTYPE_BF16, COMPUTE_BF16);
        p->d_a[i] = to_device(p->a[i].file, rank[i] * p->k * sizeof(bf16));
        p->d_b[i] = to_device(p->b[i].file, p->n * rank[i] * sizeof(bf16));
        p->scale[i] = 0.5f + (float)i;
        table[i] = (struct adapter){p->d_a[i], p->d_b[i], (uint32_t)rank[i], p->scale[i]};
    }
    p->table = to_device(table, sizeof table);
}

/* As plan_roles, but the prompt's rows come first, and so do their adapters; which: in slots, as x is. */
static void plan_prompt_first(const struct adapted *p)
{
    int32_t position[64] = {0}, adapter[64];
    uint32_t sequence[64], block = 0;
    bool prefill[64];
    const uint32_t *tables[64] = {&block};
    for (size_t r = 0; r < p->n_decode + p->n_prefill; r++) {
        prefill[r] = r < p->n_prefill;
        sequence[r] = prefill[r] ? 0 : (uint32_t)(r - p->n_prefill + 1);
        tables[sequence[r]] = &block;
        adapter[r] = p->which[prefill[r] ? p->n_decode + r : r - p->n_prefill];
    }
    OK(ops->plan(dev, &(struct step_plan){p->n_decode + p->n_prefill, position, sequence, prefill, p->n_decode + 1, tables, 0, adapter},
                 &(struct rope){0}, 64, &e));
}

enum adapted_order { NO_ADAPTER, DECODE_FIRST, PROMPT_FIRST };

static void adapted_run(const struct adapted *p, const struct weight *w, size_t first, size_t n_decode, size_t n_prefill,
                        enum adapted_order order, float *out)
{
    const size_t rows = n_decode + n_prefill;
    float *in = malloc(rows * p->k * sizeof *in);
    memcpy(in, p->in + first * p->k, rows * p->k * sizeof *in);
    void *d_in = operand_rows(in, rows, p->k), *d_x = to_device(p->x + first * p->n, rows * p->n * sizeof(float));
    roles_adapter = order == NO_ADAPTER ? NULL : p->which + first;
    if (order == PROMPT_FIRST)
        plan_prompt_first(p);
    else
        plan_roles(n_decode, n_prefill);
    roles_adapter = NULL;
    const struct project_args a = {.x = d_x, .in = d_in, .w = w, .rows = rows, .n = p->n, .k = p->k, .adapters = p->table};
    OK(ops->project(dev, &a, &e));
    OK(ops->read_back(dev, out, d_x, rows * p->n * sizeof *out, &e));
    ops->free(dev, d_in), ops->free(dev, d_x);
    free(in);
}

static void check_adapted_row(const struct adapted *p, size_t r, const float *got)
{
    struct near *x = malloc(p->k * sizeof *x), *want = malloc(p->n * sizeof *want);
    const int32_t which = p->which[r];
    for (size_t i = 0; i < p->k; i++) x[i] = (struct near){(double)p->in[r * p->k + i], 0};
    for (size_t o = 0; o < p->n; o++) {
        struct near more = {0};
        if (which >= 0)
            more = near_adapter(x, p->k, p->a[which].seen, p->b[which].seen + o * p->a[which].n, p->a[which].n, p->scale[which]);
        const struct near sum = near_product(x, p->m.seen + o * p->k, p->k), before = {(double)p->x[r * p->n + o], 0};
        want[o] = near_sum(near_sum(sum, before, (struct near){0}), more, (struct near){0});
    }
    near_check(got, want, p->n, r < p->n_decode ? "decode" : "prefill", which < 0 ? "no adapter" : "adapter", r);
    free(x), free(want);
}

/* Every row against the formula and once more alone; those without an adapter as if there were none. */
static void check_adapters(size_t n, size_t k, size_t n_decode, size_t n_prefill, const size_t rank[ADAPTERS])
{
    size_t keep = n_edges, rows = n_decode + n_prefill;
    struct adapted p = {.n = n, .k = k, .n_decode = n_decode, .n_prefill = n_prefill, .m = matrix_new(n, k, DTYPE_BF16, COMPUTE_BF16)};
    struct weight *w = pack_cuda(PACK_LINEAR, &p.m, 1, NULL);
    float *got = malloc(rows * n * sizeof *got), *none = malloc(rows * n * sizeof *none), *alone = malloc(n * sizeof *alone);
    p.x = noise_new(rows * n), p.in = noise_new(rows * k);
    for (size_t i = 0; i < rows * k; i++) p.in[i] = bf16_to_f32(bf16_from_f32(p.in[i]));
    for (size_t r = 0; r < rows; r++) p.which[r] = (int32_t)(r * 7 % (ADAPTERS + 1)) - 1;
    adapters_new(&p, rank);
    adapted_run(&p, w, 0, n_decode, n_prefill, PROMPT_FIRST, none);
    adapted_run(&p, w, 0, n_decode, n_prefill, DECODE_FIRST, got);
    if (memcmp(none, got, rows * n * sizeof *got)) fail_msg("another order of a step's rows gives other bytes");
    adapted_run(&p, w, 0, n_decode, n_prefill, NO_ADAPTER, none);
    for (size_t r = 0; r < rows; r++) {
        check_adapted_row(&p, r, got + r * n);
        adapted_run(&p, w, r, r < n_decode, r >= n_decode, DECODE_FIRST, alone);
        if (memcmp(alone, got + r * n, n * sizeof *alone)) fail_msg("row %zu with its adapter alone is another", r);
        if ((p.which[r] < 0) != !memcmp(none + r * n, got + r * n, n * sizeof *none)) fail_msg("row %zu: adapter %d", r, p.which[r]);
    }
    ops->weight_free(dev, w);
    for (size_t i = 0; i < ADAPTERS; i++) ops->free(dev, p.d_a[i]), ops->free(dev, p.d_b[i]);
    ops->free(dev, p.table);
    free(p.x), free(p.in), free(got), free(none), free(alone);
    edges_release(keep);
}

/* Steps of three rows that decode, which are replayed from the third on: whichever adapters the rows have, the bytes are those of a step
 * that is not recorded. */
static void test_adapters_of_recorded_steps(void **unused)
{
    (void)unused;
    enum { ROWS = 3, ROOM = 4 /* with the row that fills up */, N = 96, VOCAB = 40, TURNS = 6 };
    static const int32_t position[ROWS], mix[TURNS][ROWS] = {{0, 1, 2}, {-1, -1, -1}, {2, -1, 0}, {1, 1, -1}, {-1, 2, 2}, {0, 1, 2}};
    static const uint32_t sequence[ROWS] = {0, 1, 2}, block = 0, pick[1] = {2};
    static const bool prefill[ROWS];
    const uint32_t *const tables[ROWS] = {&block, &block, &block};
    size_t keep = n_edges;
    struct adapted p = {.n = N, .k = 64, .n_decode = ROWS, .m = matrix_new(N, 64, DTYPE_BF16, COMPUTE_BF16)};
    struct matrix head = matrix_new(VOCAB, N, DTYPE_BF16, COMPUTE_BF16);
    struct weight *w = pack_cuda(PACK_LINEAR, &p.m, 1, NULL), *head_w = pack_cuda(PACK_LINEAR, &head, 1, NULL);
    float want[ROWS * N], got[ROWS * N], *norm = noise_new(N);
    p.x = noise_new(ROWS * N), p.in = noise_new(ROOM * p.k);
    void *d_in = operand_rows(p.in, ROOM, p.k), *d_x = to_device(NULL, ROOM * N * sizeof(float)),
         *d_norm = to_device(norm, N * sizeof *norm), *logits = to_device(NULL, VOCAB * sizeof(float));
    adapters_new(&p, (const size_t[]){4, 16, 8});
    for (size_t t = 0; t < TURNS; t++) {
        memcpy(p.which, mix[t], sizeof mix[t]);
        adapted_run(&p, w, 0, ROWS, 0, DECODE_FIRST, want);
        OK(ops->upload(dev, d_x, p.x, ROWS * N * sizeof *p.x, &e));
        OK(ops->plan(dev, &(struct step_plan){ROWS, position, sequence, prefill, ROWS, tables, 1, mix[t]}, &(struct rope){0}, 64, &e));
        const struct project_args a = {.x = d_x, .in = d_in, .w = w, .rows = ROWS, .n = N, .k = p.k, .adapters = p.table};
        OK(ops->project(dev, &a, &e));
        OK(ops->head(dev, &(struct head_args){d_x, pick, 1, d_norm, 1e-5f, head_w, logits, N, VOCAB}, &e));
        OK(ops->read_back(dev, got, d_x, sizeof got, &e));
        if (memcmp(want, got, sizeof got)) fail_msg("turn %zu: other bytes than alone", t);
    }
    ops->weight_free(dev, w), ops->weight_free(dev, head_w);
    for (size_t i = 0; i < ADAPTERS; i++) ops->free(dev, p.d_a[i]), ops->free(dev, p.d_b[i]);
    ops->free(dev, p.table), ops->free(dev, d_in), ops->free(dev, d_x), ops->free(dev, d_norm), ops->free(dev, logits);
    free(p.x), free(p.in), free(norm);
    edges_release(keep);
}

static void test_adapters(void **unused)
{
    (void)unused;
    check_adapters(150, 588, 5, 20, (const size_t[]){4, 16, ADAPTER_MAX_RANK});
    check_adapters(257, 64, 9, 0, (const size_t[]){1, 3, 8});
    check_adapters(1, 1, 2, 3, (const size_t[]){1, 1, 2});
}

/* --- norm, gate, up --- */

static void normed(const float *x, const float *norm, size_t n, struct near *out)
{
    near_rmsnorm(x, norm, 1e-5f, n, out);
    for (size_t i = 0; i < n; i++) out[i] = near_operand(out[i], COMPUTE_BF16);
}

/* A normalised row's product with a row of the file as fp8 has it. h: as float32 at its best; near: what rounding it may give. */
static struct near fp8_product(const struct near *h, const float *w, size_t k)
{
    float x[1024] = {0}, xs, ws;
    int8_t xq[1024 + QUANT_CHANNEL_STEP] = {0}, wq[1024 + QUANT_CHANNEL_STEP];
    struct near seen[1024];
    assert_true(k <= 1024);
    for (size_t i = 0; i < k; i++) x[i] = (float)h[i].v;
    quant_e4m3(x, k, 1, (uint8_t *)xq, &xs);
    quant_weights(&quant_fp8, w, k, wq, &ws);
    near_e4m3(h, k, seen);
    struct near v = near_quant_product(&quant_fp8, k, wq, &ws, xq, &xs);
    for (size_t i = 0; i < k; i++) v.err += seen[i].err * fabs((double)e4m3_to_f32((uint8_t)wq[i]) * (double)ws) * (1 + 1e-3);
    return v;
}

static void check_gate_up(size_t inter, size_t hidden, size_t n_decode, size_t n_prefill, const struct quant_format *quant)
{
    size_t keep = n_edges, rows = n_decode + n_prefill;
    const enum dtype other = quant ? DTYPE_BF16 : DTYPE_F16; /* of fp16 `seen` is what bf16 has */
    struct matrix m[2] = {matrix_new(inter, hidden, DTYPE_BF16, COMPUTE_BF16), matrix_new(inter, hidden, other, COMPUTE_BF16)};
    float *x = noise_new(rows * hidden), *norm = noise_new(hidden), *got = malloc(inter * sizeof *got);
    struct near *h = malloc(hidden * sizeof *h), *want = malloc(inter * sizeof *want);
    void *d_x = to_device(x, rows * hidden * sizeof *x), *d_norm = to_device(norm, hidden * sizeof *norm),
         *out = to_device(NULL, rows * (inter + 64) * sizeof(float));
    struct weight *w = pack_cuda(PACK_GATE_UP, m, 2, quant);
    plan_roles(n_decode, n_prefill);
    OK(ops->gate_up(dev, &(struct gate_up_args){d_x, d_norm, 1e-5f, w, out, hidden, inter}, &e));
    for (size_t r = 0; r < rows; r++) {
        near_rmsnorm(x + r * hidden, norm, 1e-5f, hidden, h);
        for (size_t i = 0; i < hidden && !quant; i++) h[i] = near_operand(h[i], COMPUTE_BF16);
        struct near (*const product)(const struct near *, const float *, size_t) = quant ? fp8_product : near_product;
        for (size_t o = 0; o < inter; o++) {
            const struct near gate = product(h, m[0].seen + o * hidden, hidden), up = product(h, m[1].seen + o * hidden, hidden);
            want[o] = rounded_to_bf16(near_silu_mul(gate, up));
        }
        read_operand(out, r, inter, got);
        near_check(got, want, inter, r < n_decode ? "decode" : "prefill", quant ? "gate and up, fp8" : "gate and up", r);
    }
    ops->weight_free(dev, w);
    ops->free(dev, d_x), ops->free(dev, d_norm), ops->free(dev, out);
    free(x), free(norm), free(got), free(h), free(want);
    edges_release(keep);
}

static void test_gate_up(void **unused)
{
    (void)unused;
    check_gate_up(160, 128, 3, 20, NULL);
    check_gate_up(50, 576, 9, 70, NULL);
    check_gate_up(7, 63, 1, 1, NULL);
    check_gate_up(50, 576, 9, 40, &quant_fp8);
    check_gate_up(7, 63, 1, 1, &quant_fp8);
}

/* --- head: rows picked, some of them decode --- */

static void test_head(void **unused)
{
    (void)unused;
    enum { HIDDEN = 192, VOCAB = 131, DECODE = 4, PREFILL = 6 };
    static const uint32_t pick[] = {9, 0, 3, 5};
    size_t keep = n_edges, n = sizeof pick / sizeof *pick;
    struct matrix m = matrix_new(VOCAB, HIDDEN, DTYPE_F32, COMPUTE_BF16);
    float *x = noise_new((DECODE + PREFILL) * HIDDEN), *norm = noise_new(HIDDEN), got[4 * VOCAB];
    struct near h[HIDDEN], want[VOCAB];
    void *d_x = to_device(x, (DECODE + PREFILL) * HIDDEN * sizeof *x), *d_norm = to_device(norm, HIDDEN * sizeof *norm), *logits = to_device(NULL, sizeof got);
    struct weight *w = pack_cuda(PACK_LINEAR, &m, 1, NULL);
    plan_roles(DECODE, PREFILL);
    OK(ops->head(dev, &(struct head_args){d_x, pick, n, d_norm, 1e-5f, w, logits, HIDDEN, VOCAB}, &e));
    OK(ops->read_back(dev, got, logits, sizeof got, &e));
    for (size_t i = 0; i < n; i++) {
        normed(x + pick[i] * HIDDEN, norm, HIDDEN, h);
        for (size_t o = 0; o < VOCAB; o++) want[o] = near_product(h, m.seen + o * HIDDEN, HIDDEN);
        near_check(got + i * VOCAB, want, VOCAB, "cuda", "head", pick[i]);
    }
    ops->weight_free(dev, w);
    ops->free(dev, d_x), ops->free(dev, d_norm), ops->free(dev, logits);
    free(x), free(norm);
    edges_release(keep);
}

/* --- embedding, from every form of table --- */

static void test_embed(void **unused)
{
    (void)unused;
    enum { VOCAB = 50, HIDDEN = 160 };
    static const int32_t token[] = {0, 49, -1, 17, -3, 8};
    size_t keep = n_edges, rows = sizeof token / sizeof *token;
    struct matrix m = matrix_new(VOCAB, HIDDEN, DTYPE_BF16, COMPUTE_BF16);
    float *picture = noise_new(3 * HIDDEN), got[6 * HIDDEN];
    void *d_picture = to_device(picture, 3 * HIDDEN * sizeof *picture), *x = to_device(NULL, sizeof got);
    const void *pictures[] = {NULL, NULL, d_picture, NULL, d_picture, NULL};
    for (size_t f = 0; f <= sizeof forms / sizeof *forms; f++) {
        const struct quant_format *q = f ? &forms[f - 1] : NULL;
        struct weight *w = pack_cuda(PACK_EMBED, &m, 1, q);
        int8_t wq[256];
        float ws[8];
        plan_roles(2, rows - 2);
        OK(ops->embed(dev, &(struct embed_args){w, token, pictures, x, HIDDEN}, &e));
        OK(ops->read_back(dev, got, x, sizeof got, &e));
        for (size_t r = 0; r < rows; r++) {
            if (q && token[r] >= 0) quant_weights(q, m.seen + token[r] * HIDDEN, HIDDEN, wq, ws);
            for (size_t i = 0; i < HIDDEN; i++) {
                const float number = q && q->e4m3 ? e4m3_to_f32((uint8_t)wq[i]) : (float)wq[i];
                float want = token[r] < 0 ? picture[(-1 - token[r]) * HIDDEN + (int)i]
                             : q          ? ws[q->group ? i / q->group : 0] * number
                                          : m.seen[token[r] * HIDDEN + (int)i];
                if (got[r * HIDDEN + i] != want) fail_msg("form %zu, row %zu [%zu]: %g is not %g", f, r, i, (double)got[r * HIDDEN + i], (double)want);
            }
        }
        ops->weight_free(dev, w);
    }
    ops->free(dev, d_picture), ops->free(dev, x);
    free(picture);
    edges_release(keep);
}

static int setup(void **unused)
{
    (void)unused;
    open_device(&limits);
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    close_device();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products_of_the_models), cmocka_unit_test(test_products_of_many_rows),
                                       cmocka_unit_test(test_products_of_odd_sizes),  cmocka_unit_test(test_adapters),
                                       cmocka_unit_test(test_adapters_of_recorded_steps), cmocka_unit_test(test_gate_up),
                                       cmocka_unit_test(test_head),                   cmocka_unit_test(test_embed)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
