/* The CPU backend's text operations, against formulas in double (kernel_oracle.h): every
 * instruction set this machine has, odd shapes, arrays that end at a guard page, every thread count, every row alone
 * and in company. Vision: test_kernels_vision.c; the kernels below the operations: test_kernels_set.c. */
#include "tests/unit/kernel_oracle.h"

static const struct device_limits text_limits = {.max_rows = 128,
                                                 .max_sequences = 4,
                                                 .max_blocks_per_sequence = 48,
                                                 .hidden = 640,
                                                 .heads = 9,
                                                 .kv_heads = 3,
                                                 .head_dim = 80,
                                                 .inter = 640,
                                                 .vocab = 512};
static const int thread_counts[] = {1, 2, 3, 5};
enum { N_THREAD_COUNTS = sizeof thread_counts / sizeof *thread_counts };

/* Plans `rows` rows that have no positions of interest. */
static void plan_rows(struct device *d, size_t rows)
{
    static const int32_t position[128];
    static const uint32_t sequence[128], block;
    static const bool prefill[128];
    const uint32_t *tables[] = {&block};
    struct err e = {0};
    assert_true(rows <= 128);
    const struct step_plan plan = {rows, position, sequence, prefill, 1, tables, 0, NULL};
    assert_int_equal(ops_cpu.plan(d, &plan, &(struct rope){0}, 16, &e), 0);
}

/* --- x += W in (+ bias) --- */
struct project_case {
    size_t rows, n, k;
    enum compute compute;
    enum dtype dtype;
    bool bias;
};

static void project_run(struct device *d, const struct weight *w, const struct project_case *p, size_t rows, const float *x,
                        const float *in, const float *bias, float *out)
{
    struct err e = {0};
    memcpy(out, x, rows * p->n * sizeof *out);
    assert_int_equal(
        ops_cpu.project(d, &(struct project_args){.x = out, .in = in, .w = w, .bias = bias, .rows = rows, .n = p->n, .k = p->k}, &e), 0);
}

static void project_check(struct device *d, const char *isa, const struct project_case *p)
{
    size_t keep = n_edges;
    struct matrix m = matrix_new(p->n, p->k, p->dtype, p->compute);
    float *x = noise_edge(p->rows * p->n), *in = noise_edge(p->rows * p->k), *bias = p->bias ? noise_edge(p->n) : NULL,
          *out = edge(p->rows * p->n * 4), *one = edge(p->n * 4);
    struct near *operand = malloc(p->k * sizeof *operand), *want = malloc(p->n * sizeof *want);
    struct weight *w = pack(d, PACK_LINEAR, &m, 1);
    char what[96];
    snprintf(what, sizeof what, "project %zu x %zu x %zu, compute %d, dtype %d", p->rows, p->n, p->k, p->compute, p->dtype);
    assert_true(ops_cpu.weight_bytes(w) >= p->n * p->k * 2);
    project_run(d, w, p, p->rows, x, in, bias, out);
    for (size_t r = 0; r < p->rows; r++) {
        for (size_t i = 0; i < p->k; i++) operand[i] = near_operand((struct near){(double)in[r * p->k + i], 0}, p->compute);
        for (size_t j = 0; j < p->n; j++)
            want[j] = near_sum((struct near){(double)x[r * p->n + j], 0}, near_product(operand, m.seen + j * p->k, p->k),
                               (struct near){bias ? (double)bias[j] : 0, 0});
        near_check(out + r * p->n, want, p->n, isa, what, r);
        project_run(d, w, p, 1, x + r * p->n, in + r * p->k, bias, one);
        if (memcmp(one, out + r * p->n, p->n * sizeof *one)) fail_msg("%s %s: row %zu alone is another", isa, what, r);
    }
    ops_cpu.weight_free(d, w);
    free(operand), free(want);
    edges_release(keep);
}

static void test_project(void **unused)
{
    (void)unused;
    static const size_t rows[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 25};
    static const struct {
        size_t n, k;
    } shapes[] = {{1, 1}, {32, 2}, {33, 17}, {129, 63}, {257, 130}, {100, 576}};
    for (size_t s = 0; s < N_SETS; s++)
        for (int c = 0; c < 2 && cpu_kernels_choose(kernel_sets[s]); c++) {
            struct device *d = device_new(kernel_sets[s], (enum compute)c, 1, &text_limits);
            for (int t = 0; t < 3; t++)
                for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
                    for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++)
                        project_check(
                            d, kernel_sets[s],
                            &(struct project_case){rows[i], shapes[j].n, shapes[j].k, (enum compute)c, (enum dtype)t, (i + j) % 3 != 0});
            ops_cpu.close(d);
        }
}

/* More rows, columns and inputs than a block of the product takes. */
static void test_project_in_blocks(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++)
        for (int t = 0; t < 4 && cpu_kernels_choose(kernel_sets[s]); t++) {
            struct device *d = device_new(kernel_sets[s], (enum compute)(t / 2), 3, &text_limits);
            project_check(d, kernel_sets[s], &(struct project_case){110, 602, 573, (enum compute)(t / 2), (enum dtype)(t % 2), true});
            ops_cpu.close(d);
        }
}

static void test_project_on_any_threads(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++)
        for (int t = 0; t < 6 && cpu_kernels_choose(kernel_sets[s]); t++)
            for (size_t rows = 1; rows <= 14; rows += 13) {
                struct project_case p = {rows, 265, 131, t < 3 ? COMPUTE_F32 : COMPUTE_BF16, (enum dtype)(t % 3), true};
                struct matrix m = matrix_new(p.n, p.k, p.dtype, p.compute);
                float *x = noise_edge(rows * p.n), *in = noise_edge(rows * p.k), *bias = noise_edge(p.n), *out = edge(rows * p.n * 4),
                      *again = edge(rows * p.n * 4);
                for (size_t i = 0; i < N_THREAD_COUNTS; i++) {
                    struct device *d = device_new(kernel_sets[s], p.compute, thread_counts[i], &text_limits);
                    struct weight *w = pack(d, PACK_LINEAR, &m, 1);
                    project_run(d, w, &p, rows, x, in, bias, i ? again : out);
                    if (i) assert_memory_equal(out, again, rows * p.n * 4);
                    ops_cpu.weight_free(d, w);
                    ops_cpu.close(d);
                }
                edges_release(0);
            }
}

/* Low-rank adapters: rows that have one of two, and rows that have none, which are as without. */
static void adapters_check(const char *isa, enum compute compute, int threads)
{
    enum { ROWS = 13, N = 33, K = 130, RANK = 16 };
    static const uint32_t rank[2] = {5, RANK};
    size_t keep = n_edges;
    struct matrix m = matrix_new(N, K, DTYPE_F32, compute), a[2], b[2];
    struct adapter table[2];
    struct project_case p = {ROWS, N, K, compute, DTYPE_F32, false};
    float *x = noise_edge(ROWS * N), *in = noise_edge(ROWS * K), *none = edge(ROWS * N * 4), *out = edge(ROWS * N * 4);
    int32_t which[ROWS], position[ROWS] = {0};
    uint32_t sequence[ROWS] = {0}, block = 0;
    bool prefill[ROWS] = {false};
    const uint32_t *tables[] = {&block};
    struct near operand[K], want[N];
    struct err e = {0};
    struct device *d = device_new(isa, compute, threads, &text_limits);
    struct weight *w = pack(d, PACK_LINEAR, &m, 1);
    for (int i = 0; i < 2; i++) {
        a[i] = matrix_new(rank[i], K, DTYPE_BF16, compute), b[i] = matrix_new(N, rank[i], DTYPE_BF16, compute);
        table[i] = (struct adapter){a[i].file, b[i].file, rank[i], 0.5f + (float)i};
    }
    for (size_t r = 0; r < ROWS; r++) which[r] = (int32_t)(r % 3) - 1;
    project_run(d, w, &p, ROWS, x, in, NULL, none);
    memcpy(out, x, ROWS * N * 4);
    const struct step_plan plan = {ROWS, position, sequence, prefill, 1, tables, 0, which};
    assert_int_equal(ops_cpu.plan(d, &plan, &(struct rope){0}, 16, &e), 0);
    const struct project_args args = {.x = out, .in = in, .w = w, .rows = ROWS, .n = N, .k = K, .adapters = table};
    assert_int_equal(ops_cpu.project(d, &args, &e), 0);
    for (size_t r = 0; r < ROWS; r++) {
        const int32_t i = which[r];
        if (i < 0) {
            assert_memory_equal(out + r * N, none + r * N, N * 4);
            continue;
        }
        for (size_t j = 0; j < K; j++) operand[j] = near_operand((struct near){(double)in[r * K + j], 0}, compute);
        for (size_t o = 0; o < N; o++) {
            const struct near before = {(double)x[r * N + o], 0}, none_more = {0, 0};
            const struct near more = near_adapter(operand, K, a[i].seen, b[i].seen + o * rank[i], rank[i], table[i].scale);
            want[o] = near_sum(near_sum(before, near_product(operand, m.seen + o * K, K), none_more), more, none_more);
        }
        near_check(out + r * N, want, N, isa, "adapter", r);
        assert_true(near_misses(none + r * N, want, N) > 0); /* it matters */
    }
    ops_cpu.weight_free(d, w);
    ops_cpu.close(d);
    edges_release(keep);
}

static void test_adapters(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++)
        for (int t = 0; t < 4 && cpu_kernels_choose(kernel_sets[s]); t++)
            adapters_check(kernel_sets[s], t / 2 ? COMPUTE_BF16 : COMPUTE_F32, t % 2 ? 3 : 1);
}

/* A row that was not finite leaves nothing in the device: an odd width's padding is written, not inherited. */
static void test_nothing_is_left_of_a_nan(void **unused)
{
    (void)unused;
    enum { ROWS = 5, N = 40, EVEN = 64, ODD = 33 };
    for (size_t s = 0; s < N_SETS; s++)
        for (int c = 0; c < 2 && cpu_kernels_choose(kernel_sets[s]); c++) {
            struct project_case even = {ROWS, N, EVEN, (enum compute)c, DTYPE_BF16, false},
                                odd = {ROWS, N, ODD, (enum compute)c, DTYPE_BF16, false};
            struct matrix m_even = matrix_new(N, EVEN, DTYPE_BF16, even.compute), m_odd = matrix_new(N, ODD, DTYPE_BF16, odd.compute);
            float *x = noise_edge(ROWS * N), *in = noise_edge(ROWS * ODD), *bad = edge(ROWS * EVEN * 4), *clean = edge(ROWS * N * 4),
                  *out = edge(ROWS * N * 4);
            struct device *d = device_new(kernel_sets[s], even.compute, 1, &text_limits);
            struct weight *w_even = pack(d, PACK_LINEAR, &m_even, 1), *w_odd = pack(d, PACK_LINEAR, &m_odd, 1);
            project_run(d, w_odd, &odd, ROWS, x, in, NULL, clean);
            for (size_t i = 0; i < ROWS * EVEN; i++) bad[i] = NAN;
            project_run(d, w_even, &even, ROWS, x, bad, NULL, out);
            assert_true(isnan(out[0]) && isnan(out[ROWS * N - 1]));
            project_run(d, w_odd, &odd, ROWS, x, in, NULL, out);
            assert_memory_equal(out, clean, ROWS * N * 4);
            ops_cpu.weight_free(d, w_even);
            ops_cpu.weight_free(d, w_odd);
            ops_cpu.close(d);
            edges_release(0);
        }
}

/* --- embedding --- */
static void test_embed(void **unused)
{
    (void)unused;
    enum { VOCAB = 70, HIDDEN = 33, ROWS = 6 };
    static const int32_t token[ROWS] = {0, 69, -1, 31, -3, 32};
    for (size_t s = 0; s < N_SETS; s++)
        for (int t = 0; t < 6 && cpu_kernels_choose(kernel_sets[s]); t++) {
            enum compute compute = t < 3 ? COMPUTE_F32 : COMPUTE_BF16;
            struct device *d = device_new(kernel_sets[s], compute, 2, &text_limits);
            struct matrix m = matrix_new(VOCAB, HIDDEN, (enum dtype)(t % 3), compute);
            float *one = noise_edge(HIDDEN), *three = noise_edge(3 * HIDDEN), *x = edge(ROWS * HIDDEN * sizeof *x);
            const void *pictures[ROWS] = {[2] = one, [4] = three};
            const float *want[ROWS] = {m.seen, m.seen + 69 * HIDDEN, one, m.seen + 31 * HIDDEN, three + 2 * HIDDEN, m.seen + 32 * HIDDEN};
            struct weight *w = pack(d, PACK_EMBED, &m, 1);
            struct err e = {0};
            plan_rows(d, ROWS);
            assert_int_equal(
                ops_cpu.embed(d, &(struct embed_args){.table = w, .token = token, .pictures = pictures, .x = x, .hidden = HIDDEN}, &e), 0);
            for (size_t r = 0; r < ROWS; r++)
                assert_memory_equal(x + r * HIDDEN, want[r], HIDDEN * sizeof *x); /* looked up, not computed */
            ops_cpu.weight_free(d, w);
            ops_cpu.close(d);
            edges_release(0);
        }
}

/* --- silu(G h) * (U h), and W h of chosen rows, h = rmsnorm(x) --- */
enum { HIDDEN = 71, INTER = 77, MAX_ROWS = 14 };

static void normed_operands(const float *x, const float *norm, enum compute compute, struct near *h)
{
    near_rmsnorm(x, norm, 1e-5f, HIDDEN, h);
    for (size_t i = 0; i < HIDDEN; i++) h[i] = near_operand(h[i], compute);
}

static void gate_up_run(struct device *d, const struct weight *w, const float *x, const float *norm, size_t rows, float *out)
{
    struct err e = {0};
    plan_rows(d, rows);
    assert_int_equal(
        ops_cpu.gate_up(d, &(struct gate_up_args){.x = x, .norm = norm, .eps = 1e-5f, .w = w, .out = out, .hidden = HIDDEN, .inter = INTER},
                        &e),
        0);
}

static void gate_up_check(const char *isa, enum compute compute, enum dtype dtype, size_t rows)
{
    struct matrix m[2] = {matrix_new(INTER, HIDDEN, dtype, compute), matrix_new(INTER, HIDDEN, dtype, compute)};
    float *x = noise_edge(rows * HIDDEN), *norm = noise_edge(HIDDEN), *out = edge(rows * INTER * 4), *again = edge(rows * INTER * 4);
    struct near h[HIDDEN], want[INTER];
    for (size_t t = 0; t < N_THREAD_COUNTS; t++) {
        struct device *d = device_new(isa, compute, thread_counts[t], &text_limits);
        struct weight *w = pack(d, PACK_GATE_UP, m, 2);
        gate_up_run(d, w, x, norm, rows, t ? again : out);
        if (t) assert_memory_equal(out, again, rows * INTER * 4);
        for (size_t r = 0; r < rows && t < 2; r++) { /* a row alone */
            gate_up_run(d, w, x + r * HIDDEN, norm, 1, again);
            assert_memory_equal(out + r * INTER, again, INTER * 4);
        }
        ops_cpu.weight_free(d, w);
        ops_cpu.close(d);
    }
    for (size_t r = 0; r < rows; r++) {
        normed_operands(x + r * HIDDEN, norm, compute, h);
        for (size_t j = 0; j < INTER; j++)
            want[j] = near_silu_mul(near_product(h, m[0].seen + j * HIDDEN, HIDDEN), near_product(h, m[1].seen + j * HIDDEN, HIDDEN));
        near_check(out + r * INTER, want, INTER, isa, "gate_up", r);
    }
    edges_release(0);
}

static void test_gate_up(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++)
        for (int c = 0; c < 2 && cpu_kernels_choose(kernel_sets[s]); c++)
            for (int t = 0; t < 3; t++)
                for (size_t rows = 0; rows <= MAX_ROWS; rows += rows < 3 ? 1 : 5)
                    gate_up_check(kernel_sets[s], (enum compute)c, (enum dtype)t, rows);
}

static void head_run(struct device *d, const struct weight *w, const float *x, const float *norm, const uint32_t *row, size_t n,
                     size_t vocab, float *logits)
{
    struct err e = {0};
    assert_int_equal(
        ops_cpu.head(
            d,
            &(struct head_args){
                .x = x, .row = row, .n = n, .norm = norm, .eps = 1e-5f, .w = w, .logits = logits, .hidden = HIDDEN, .vocab = vocab},
            &e),
        0);
}

static void test_head(void **unused)
{
    (void)unused;
    enum { VOCAB = 131, PICKED = 7 };
    static const uint32_t row[PICKED] = {13, 0, 5, 5, 6, 1, 12};
    struct near h[HIDDEN], want[VOCAB];
    for (size_t s = 0; s < N_SETS; s++)
        for (int t = 0; t < 6 && cpu_kernels_choose(kernel_sets[s]); t++) {
            enum compute compute = t < 3 ? COMPUTE_F32 : COMPUTE_BF16;
            struct matrix m = matrix_new(VOCAB, HIDDEN, (enum dtype)(t % 3), compute);
            float *x = noise_edge(MAX_ROWS * HIDDEN), *norm = noise_edge(HIDDEN), *logits = edge(PICKED * VOCAB * 4),
                  *again = edge(PICKED * VOCAB * 4);
            for (size_t i = 0; i < N_THREAD_COUNTS; i++) {
                struct device *d = device_new(kernel_sets[s], compute, thread_counts[i], &text_limits);
                struct weight *w = pack(d, PACK_EMBED, &m, 1); /* a tied head */
                head_run(d, w, x, norm, row, 0, VOCAB, edge(0));
                head_run(d, w, x, norm, row, PICKED, VOCAB, i ? again : logits);
                if (i) assert_memory_equal(logits, again, PICKED * VOCAB * 4);
                for (size_t r = 0; r < PICKED; r++) {
                    head_run(d, w, x, norm, row + r, 1, VOCAB, again);
                    assert_memory_equal(logits + r * VOCAB, again, VOCAB * 4);
                }
                ops_cpu.weight_free(d, w);
                ops_cpu.close(d);
            }
            for (size_t r = 0; r < PICKED; r++) {
                normed_operands(x + row[r] * HIDDEN, norm, compute, h);
                for (size_t j = 0; j < VOCAB; j++) want[j] = near_product(h, m.seen + j * HIDDEN, HIDDEN);
                near_check(logits + r * VOCAB, want, VOCAB, kernel_sets[s], "head", r);
            }
            edges_release(0);
        }
}

/* --- q, k, v; rope; the cache; attention --- */
enum { SEQUENCES = 3, TABLE = 41, MAX_STEPS = 12, POSITIONS = TABLE * KV_BLOCK };
struct shape {
    size_t hidden, heads, kv_heads, head_dim;
};
/* Rows that each step adds to each sequence. */
struct schedule {
    size_t steps;
    uint8_t n[MAX_STEPS][SEQUENCES];
};
/* Lengths 15, 16, 17 and 33 to 35: blocks filled, crossed, begun; decodes and chunks mixed. */
static const struct schedule short_schedule = {4, {{15, 1, 33}, {1, 16, 1}, {1, 1, 0}, {0, 1, 2}}};
/* Lengths over 255, 256, 257 and 512: the splits in which keys are summed. */
static const struct schedule long_schedule = {
    9, {{100, 5, 0}, {100, 0, 16}, {54, 1, 1}, {1, 1, 1}, {1, 0, 1}, {1, 0, 1}, {110, 1, 1}, {110, 1, 1}, {60, 20, 1}}};

struct scene {
    struct shape shape;
    const struct schedule *schedule;
    enum compute compute;
    enum dtype weights[3]; /* of q, k and v: the parts of a matrix may differ */
    enum dtype kv;
    float rope_scale; /* 0: positions are not rotated */
    /* made by scene_open */
    size_t rows, width, qkv_width;
    float *x, *norm, *inv_freq;
    struct matrix m[3];
    float *seen; /* the three matrices as one */
};

static void scene_open(struct scene *sc)
{
    const struct shape *p = &sc->shape;
    size_t kv_width = p->kv_heads * p->head_dim;
    sc->rows = 0;
    for (size_t t = 0; t < sc->schedule->steps; t++)
        for (size_t s = 0; s < SEQUENCES; s++) sc->rows += sc->schedule->n[t][s];
    sc->width = p->heads * p->head_dim;
    sc->qkv_width = sc->width + 2 * kv_width;
    sc->norm = noise_edge(p->hidden);
    for (size_t i = 0; i < p->hidden; i++) sc->norm[i] *= 0.5f;
    sc->x = noise_edge(sc->rows * p->hidden);
    sc->inv_freq = edge(p->head_dim / 2 * sizeof(float));
    for (size_t i = 0; i < p->head_dim / 2; i++) sc->inv_freq[i] = powf(100.0f, -2.0f * (float)i / (float)p->head_dim);
    bool mixed = sc->weights[0] != DTYPE_BF16 || sc->weights[1] != DTYPE_BF16 || sc->weights[2] != DTYPE_BF16;
    assert_true(mixed || sc->weights[0] == DTYPE_BF16);
    sc->seen = edge(sc->qkv_width * p->hidden * sizeof(float));
    float *to = sc->seen;
    for (size_t i = 0; i < 3; i++) {
        sc->m[i] = matrix_new(i ? kv_width : sc->width, p->hidden, sc->weights[i], sc->compute);
        memcpy(to, sc->m[i].seen, sc->m[i].n * p->hidden * sizeof *to);
        to += sc->m[i].n * p->hidden;
    }
}

/* What the comparison must see. */
enum fault { FAULT_NONE, FAULT_ROPE_SIGN, FAULT_LAST_KEY, FAULT_KV_HEAD, FAULT_POSITION };

struct cache {
    struct near *k, *v; /* (SEQUENCES, POSITIONS, kv_heads * head_dim) */
};

/* Keys or values of one token and head as the cache gives them back. int8: the scale is known as well as the largest number is, and what lies
 * near the edge of two steps may be either; the product with the scale rounds. */
static void near_stored(const struct near *x, size_t n, enum dtype dtype, struct near *out)
{
    double most = 0, err = 0;
    if (dtype == DTYPE_E4M3) {
        near_e4m3(x, n, out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs(x[i].v));
        err = fmax(err, x[i].err);
    }
    double scale = most / 127, off = err / 127 + 3 * U * scale;
    for (size_t i = 0; i < n; i++) {
        out[i] = near_operand(x[i], dtype == DTYPE_BF16 ? COMPUTE_BF16 : COMPUTE_F32);
        if (dtype != DTYPE_I8) continue;
        double at = x[i].v / scale, slack = x[i].err / scale + fabs(at) * (off / scale + 3 * U);
        double q = rint(at), lo = rint(at - slack), hi = rint(at + slack);
        out[i].v = q * scale;
        out[i].err = fmax(hi - q, q - lo) * scale + (fabs(q) + 1) * off + 2 * U * fabs(out[i].v);
    }
}

/* One row: its q rotated, its k and v remembered, softmax over what its sequence holds so far. */
static void near_row(const struct scene *sc, enum fault f, struct cache *c, size_t seq, size_t pos, const float *x, struct near *out)
{
    const struct shape *p = &sc->shape;
    size_t hd = p->head_dim, kv_width = p->kv_heads * hd, group = p->heads / p->kv_heads;
    struct near *h = malloc((p->hidden + sc->qkv_width) * sizeof *h), *q = h + p->hidden;
    assert_non_null(h);
    near_rmsnorm(x, sc->norm, 1e-5f, p->hidden, h);
    for (size_t i = 0; i < p->hidden; i++) h[i] = near_operand(h[i], sc->compute);
    for (size_t j = 0; j < sc->qkv_width; j++) q[j] = near_product(h, sc->seen + j * p->hidden, p->hidden);
    int32_t at = (int32_t)pos + (f == FAULT_POSITION);
    for (size_t i = 0; i < p->heads + p->kv_heads && sc->rope_scale > 0; i++)
        near_rotate(q + i * hd, hd / 2,
                    f == FAULT_ROPE_SIGN && i < p->heads ? -at
                    : i < p->heads                       ? at
                                                         : (int32_t)pos,
                    sc->inv_freq, (double)sc->rope_scale);
    struct near *keys = c->k + seq * POSITIONS * kv_width, *values = c->v + seq * POSITIONS * kv_width;
    for (size_t j = 0; j < p->kv_heads; j++) {
        near_stored(q + sc->width + j * hd, hd, sc->kv, keys + pos * kv_width + j * hd);
        near_stored(q + sc->width + kv_width + j * hd, hd, sc->kv, values + pos * kv_width + j * hd);
    }
    for (size_t i = 0; i < p->heads; i++) {
        size_t kv = f == FAULT_KV_HEAD ? i % p->kv_heads : i / group, n = pos + (f == FAULT_LAST_KEY && pos > 0 ? 0 : 1);
        near_attention(q + i * hd, hd, n, keys + kv * hd, values + kv * hd, kv_width, out + i * hd);
    }
    free(h);
}

static void scene_oracle(const struct scene *sc, enum fault f, struct near *want)
{
    size_t cells = (size_t)SEQUENCES * POSITIONS * sc->shape.kv_heads * sc->shape.head_dim, row = 0, length[SEQUENCES] = {0};
    struct cache c = {malloc(cells * sizeof *c.k), malloc(cells * sizeof *c.v)};
    assert_true(c.k && c.v);
    for (size_t t = 0; t < sc->schedule->steps; t++)
        for (size_t s = 0; s < SEQUENCES; s++)
            for (size_t i = 0; i < sc->schedule->n[t][s]; i++, row++)
                near_row(sc, f, &c, s, length[s]++, sc->x + row * sc->shape.hidden, want + row * sc->width);
    free(c.k);
    free(c.v);
}

/* One planned step: qkv and attention of layer 1 of 2. */
static void scene_step(const struct scene *sc, struct device *d, const struct step_plan *plan, const struct weight *w, void *kv, size_t row,
                       float *out)
{
    struct kv_layout layout = {
        .layers = 2, .kv_heads = sc->shape.kv_heads, .head_dim = sc->shape.head_dim, .block_tokens = KV_BLOCK, .dtype = sc->kv};
    struct rope rope = {sc->rope_scale > 0 ? sc->inv_freq : NULL, sc->rope_scale};
    struct err e = {0};
    assert_int_equal(ops_cpu.plan(d, plan, &rope, sc->shape.head_dim, &e), 0);
    struct qkv_args a = {.x = sc->x + row * sc->shape.hidden,
                         .norm = sc->norm,
                         .eps = 1e-5f,
                         .w = w,
                         .hidden = sc->shape.hidden,
                         .heads = sc->shape.heads,
                         .rope = rope,
                         .kv = kv,
                         .layout = &layout,
                         .layer = 1};
    assert_int_equal(ops_cpu.qkv(d, &a, &e), 0);
    assert_int_equal(
        ops_cpu.attention(
            d, &(struct attention_args){.out = out + row * sc->width, .heads = sc->shape.heads, .kv = kv, .layout = &layout, .layer = 1},
            &e),
        0);
}

/* Blocks of the sequences lie scattered, none is used twice. */
static uint32_t block_of(uint32_t seq, uint32_t i)
{
    return (i * 7 + seq * 5) % TABLE + seq * TABLE;
}

/* Nothing but the layer's own keys and values of positions that were filled is written. */
static void check_slab(const struct scene *sc, const unsigned char *kv, size_t block_bytes, const size_t *length)
{
    for (uint32_t s = 0; s < SEQUENCES; s++)
        for (uint32_t i = 0; i < TABLE; i++) {
            const unsigned char *block = kv + block_of(s, i) * block_bytes;
            size_t unused = length[s] > (size_t)i * KV_BLOCK ? block_bytes / 2 : block_bytes; /* layer 0 comes first */
            for (size_t b = 0; b < unused; b++)
                if (block[b]) fail_msg("sequence %u, block %u, byte %zu: written (kv dtype %d)", s, i, b, sc->kv);
        }
}

/* All rows' outputs, in the schedule's order. alone: each row in a step of its own. */
static void scene_run(const struct scene *sc, const char *isa, int threads, bool alone, float *out)
{
    size_t keep = n_edges, length[SEQUENCES] = {0}, row = 0;
    struct device *d = device_new(isa, sc->compute, threads, &text_limits);
    struct weight *w = pack(d, PACK_LINEAR, sc->m, 3);
    struct kv_layout layout = {
        .layers = 2, .kv_heads = sc->shape.kv_heads, .head_dim = sc->shape.head_dim, .block_tokens = KV_BLOCK, .dtype = sc->kv};
    size_t block_bytes = ops_cpu.kv_block_bytes(&layout);
    void *kv = edge(SEQUENCES * TABLE * block_bytes);
    static uint32_t tables[SEQUENCES][TABLE];
    const uint32_t *blocks[SEQUENCES];
    for (uint32_t s = 0; s < SEQUENCES; s++)
        for (uint32_t i = 0; i < TABLE; i++) tables[s][i] = block_of(s, i);
    for (size_t t = 0; t < sc->schedule->steps; t++) {
        int32_t position[128];
        uint32_t sequence[128], n_sequences = 0;
        bool prefill[128];
        size_t rows = 0;
        for (uint32_t s = 0; s < SEQUENCES; s++) {
            size_t n = sc->schedule->n[t][s];
            for (size_t i = 0; i < n; i++, rows++) {
                position[rows] = (int32_t)length[s]++;
                sequence[rows] = alone ? 0 : n_sequences;
                prefill[rows] = n > 1;
                const uint32_t *table = tables[s];
                if (alone)
                    scene_step(sc, d, &(struct step_plan){1, position + rows, sequence + rows, prefill + rows, 1, &table, 0, NULL}, w, kv,
                               row + rows, out);
            }
            if (n) blocks[n_sequences++] = tables[s];
        }
        if (!alone) scene_step(sc, d, &(struct step_plan){rows, position, sequence, prefill, n_sequences, blocks, 0, NULL}, w, kv, row, out);
        row += rows;
    }
    assert_int_equal(row, sc->rows);
    check_slab(sc, kv, block_bytes, length);
    ops_cpu.weight_free(d, w);
    ops_cpu.close(d);
    edges_release(keep);
}

static void scene_check(struct scene sc, const char *what)
{
    scene_open(&sc);
    size_t n = sc.rows * sc.width;
    float *out = edge(n * sizeof *out), *again = edge(n * sizeof *again);
    struct near *want = malloc(n * sizeof *want);
    assert_non_null(want);
    scene_oracle(&sc, FAULT_NONE, want);
    for (size_t s = 0; s < N_SETS; s++) {
        if (!cpu_kernels_choose(kernel_sets[s])) continue;
        for (size_t t = 0; t < N_THREAD_COUNTS; t++) {
            scene_run(&sc, kernel_sets[s], thread_counts[t], false, t ? again : out);
            if (t) assert_memory_equal(out, again, n * sizeof *out);
        }
        for (size_t r = 0; r < sc.rows; r++) near_check(out + r * sc.width, want + r * sc.width, sc.width, kernel_sets[s], what, r);
        scene_run(&sc, kernel_sets[s], 2, true, again);
        if (memcmp(out, again, n * sizeof *out)) fail_msg("%s %s: rows alone are others than in company", kernel_sets[s], what);
    }
    free(want);
    edges_release(0);
}

static void test_attention(void **unused)
{
    (void)unused;
    static const enum dtype mixed[3] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (int kv = 0; kv < N_KV_DTYPES; kv++)
        for (int c = 0; c < 2; c++) {
            struct scene sc = {.shape = {70, 6, 2, 32},
                               .schedule = &short_schedule,
                               .compute = (enum compute)c,
                               .weights = {DTYPE_BF16, DTYPE_BF16, DTYPE_BF16},
                               .kv = kv_dtypes[kv],
                               .rope_scale = 1};
            scene_check(sc, "attention 6:2 x 32");
            sc.shape = (struct shape){37, 9, 1, 16}; /* more query heads a KV head than one tile takes */
            memcpy(sc.weights, mixed, sizeof mixed);
            sc.rope_scale = 1.1386f; /* YaRN */
            scene_check(sc, "attention 9:1 x 16, YaRN");
            sc.shape = (struct shape){64, 3, 3, 80};
            sc.rope_scale = 0; /* NoPE */
            scene_check(sc, "attention 3:3 x 80, no rope");
        }
}

static void test_attention_over_splits(void **unused)
{
    (void)unused;
    for (int kv = 0; kv < N_KV_DTYPES; kv++)
        scene_check((struct scene){.shape = {24, 4, 2, 16},
                                   .schedule = &long_schedule,
                                   .weights = {DTYPE_F32, DTYPE_F32, DTYPE_F32},
                                   .kv = kv_dtypes[kv],
                                   .rope_scale = 1},
                    "attention over 256 positions");
}

/* A sequence whose numbers went bad spoils no other in its steps. */
static void nan_check(enum dtype kv)
{
    struct scene sc = {.shape = {70, 6, 2, 32},
                       .schedule = &short_schedule,
                       .compute = COMPUTE_BF16,
                       .weights = {DTYPE_BF16, DTYPE_BF16, DTYPE_BF16},
                       .kv = kv,
                       .rope_scale = 1};
    scene_open(&sc);
    float *clean = edge(sc.rows * sc.width * 4), *out = edge(sc.rows * sc.width * 4);
    enum { BAD_ROW = 20, BAD_SEQUENCE = 2 }; /* rows 16 to 48 are the third sequence's first */
    for (size_t s = 0; s < N_SETS; s++) {
        if (!cpu_kernels_choose(kernel_sets[s])) continue;
        float good = sc.x[BAD_ROW * sc.shape.hidden];
        scene_run(&sc, kernel_sets[s], 2, false, clean);
        sc.x[BAD_ROW * sc.shape.hidden] = NAN;
        scene_run(&sc, kernel_sets[s], 2, false, out);
        sc.x[BAD_ROW * sc.shape.hidden] = good;
        size_t row = 0;
        for (size_t t = 0; t < sc.schedule->steps; t++)
            for (size_t q = 0; q < SEQUENCES; q++)
                for (size_t i = 0; i < sc.schedule->n[t][q]; i++, row++) {
                    if (q != BAD_SEQUENCE)
                        assert_memory_equal(out + row * sc.width, clean + row * sc.width, sc.width * 4);
                    else if (row >= BAD_ROW)
                        assert_true(isnan(out[row * sc.width])); /* and is not hidden in its own */
                }
    }
    edges_release(0);
}

static void test_nan_stays_in_its_sequence(void **unused)
{
    (void)unused;
    for (int kv = 0; kv < N_KV_DTYPES; kv++) nan_check(kv_dtypes[kv]);
}

/* The comparison itself: a wrong formula is found in every row in which it is wrong. */
static void test_comparison_sees_faults(void **unused)
{
    (void)unused;
    for (int f = FAULT_ROPE_SIGN; f <= FAULT_POSITION; f++)
        for (int c = 0; c < 3; c++) {
            struct scene sc = {.shape = {70, 6, 2, 32},
                               .schedule = &short_schedule,
                               .compute = c == 1 ? COMPUTE_BF16 : COMPUTE_F32,
                               .weights = {DTYPE_BF16, DTYPE_BF16, DTYPE_BF16},
                               .kv = kv_dtypes[c],
                               .rope_scale = 1};
            scene_open(&sc);
            float *out = edge(sc.rows * sc.width * sizeof *out);
            struct near *want = malloc(sc.rows * sc.width * sizeof *want);
            scene_run(&sc, NULL, 1, false, out);
            scene_oracle(&sc, (enum fault)f, want);
            for (size_t r = 0; r < sc.rows; r++) {
                bool first = r == 0 || r == 15 || r == 16; /* with one key there is nothing to weigh */
                size_t misses = near_misses(out + r * sc.width, want + r * sc.width, sc.width);
                if (misses == 0 && !(first && f != FAULT_KV_HEAD)) fail_msg("fault %d, compute %d: row %zu passes", f, c, r);
            }
            free(want);
            edges_release(0);
        }
}

/* --- the device --- */
static void test_device(void **unused)
{
    (void)unused;
    struct err e = {0};
    struct device *d = NULL;
    uint64_t progress = 0;
    assert_int_equal(ops_cpu.open(&d, &(struct device_options){.isa = "mmx"}, &e), -ERR_UNSUPPORTED);
    assert_null(d);
    assert_non_null(strstr(e.msg, "mmx"));
    ops_cpu.close(NULL);
    assert_int_equal(ops_cpu.open(&d, &(struct device_options){.isa = "ref", .threads = 3, .progress = &progress}, &e), 0);
    char name[64];
    ops_cpu.describe(d, name, sizeof name);
    assert_string_equal(name, "cpu (3 threads, ref)");
    assert_int_equal(ops_cpu.kv_block_tokens(d), KV_BLOCK);
    assert_int_equal(ops_cpu.kv_block_bytes(
                         &(struct kv_layout){.layers = 3, .kv_heads = 5, .head_dim = 64, .block_tokens = KV_BLOCK, .dtype = DTYPE_BF16}),
                     3 * 5 * 64 * 16 * 2 * 2);
    assert_int_equal(ops_cpu.kv_block_bytes(
                         &(struct kv_layout){.layers = 3, .kv_heads = 5, .head_dim = 64, .block_tokens = KV_BLOCK, .dtype = DTYPE_F32}),
                     3 * 5 * 64 * 16 * 2 * 4);
    assert_int_equal(ops_cpu.kv_block_bytes(
                         &(struct kv_layout){.layers = 3, .kv_heads = 5, .head_dim = 64, .block_tokens = KV_BLOCK, .dtype = DTYPE_I8}),
                     3 * 5 * 2 * 16 * (64 + 4));
    assert_int_equal(ops_cpu.kv_block_bytes(
                         &(struct kv_layout){.layers = 3, .kv_heads = 5, .head_dim = 64, .block_tokens = KV_BLOCK, .dtype = DTYPE_E4M3}),
                     3 * 5 * 2 * 16 * (64 + 4));
    void *p;
    unsigned char bytes[1000], back[1000];
    assert_int_equal(ops_cpu.alloc(d, SIZE_MAX - 8, &p, &e), -ERR_MEMORY);
    assert_int_equal(ops_cpu.alloc(d, sizeof bytes, &p, &e), 0);
    assert_int_equal((uintptr_t)p % 64, 0);
    assert_int_equal(ops_cpu.read_back(d, back, p, sizeof back, &e), 0);
    for (size_t i = 0; i < sizeof back; i++) assert_int_equal(back[i], 0);
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)noise_bits();
    assert_int_equal(ops_cpu.upload(d, p, bytes, sizeof bytes, &e), 0);
    assert_int_equal(ops_cpu.sync(d, &e), 0);
    assert_int_equal(ops_cpu.read_back(d, back, p, sizeof back, &e), 0);
    assert_memory_equal(bytes, back, sizeof back);
    ops_cpu.free(d, p);
    assert_int_equal(ops_cpu.reserve(d, &text_limits, &e), 0);
    struct matrix m = matrix_new(32, 32, DTYPE_F32, COMPUTE_F32);
    struct weight *w = pack(d, PACK_LINEAR, &m, 1);
    float *x = edge(32 * 4);
    assert_int_equal(progress, 1);      /* loading moves the counter that a watcher sees */
    for (uint64_t i = 2; i <= 4; i++) { /* and so does each operation */
        assert_int_equal(ops_cpu.project(d, &(struct project_args){.x = x, .in = x, .w = w, .rows = 1, .n = 32, .k = 32}, &e), 0);
        assert_int_equal(progress, i);
    }
    ops_cpu.weight_free(d, w);
    ops_cpu.weight_free(d, NULL);
    ops_cpu.close(d);
    edges_release(0);
}

/* Tensors of a file begin at any byte; scratch is laid out for odd widths too (UBSan checks the alignment of both). */
static void test_odd_alignment(void **unused)
{
    (void)unused;
    enum { N = 45, K = 5001 };
    struct device_limits l = text_limits;
    l.max_rows = 2;
    l.inter = K;
    for (int t = 0; t < 3; t++) {
        struct device *d = device_new(NULL, COMPUTE_F32, 3, &l);
        struct matrix m = matrix_new(N, K, (enum dtype)t, COMPUTE_F32), odd = m;
        size_t bytes = (size_t)N * K * (t == DTYPE_F32 ? 4 : 2);
        unsigned char *file = malloc(bytes + 1);
        assert_non_null(file);
        odd.file = file + 1;
        memcpy(odd.file, m.file, bytes);
        float *in = noise_edge(K), *a = edge(N * 4), *b = edge(N * 4);
        struct weight *w = pack(d, PACK_LINEAR, &m, 1), *w_odd = pack(d, PACK_LINEAR, &odd, 1);
        struct err e = {0};
        assert_int_equal(ops_cpu.project(d, &(struct project_args){.x = a, .in = in, .w = w, .rows = 1, .n = N, .k = K}, &e), 0);
        assert_int_equal(ops_cpu.project(d, &(struct project_args){.x = b, .in = in, .w = w_odd, .rows = 1, .n = N, .k = K}, &e), 0);
        assert_memory_equal(a, b, N * 4);
        ops_cpu.weight_free(d, w);
        ops_cpu.weight_free(d, w_odd);
        ops_cpu.close(d);
        free(file);
        edges_release(0);
    }
    struct scene sc = {.shape = {24, 4, 2, 16}, .schedule = &short_schedule, .weights = {DTYPE_F32, DTYPE_F32, DTYPE_F32}, .rope_scale = 1};
    scene_open(&sc);
    struct device *d = device_new(NULL, COMPUTE_F32, 3, &l); /* odd pieces of scratch a thread, pointers in them */
    struct weight *w = pack(d, PACK_LINEAR, sc.m, 3);
    struct kv_layout layout = {.layers = 2, .kv_heads = 2, .head_dim = 16, .block_tokens = KV_BLOCK, .dtype = DTYPE_F32};
    static const int32_t position[2] = {0, 0};
    static const uint32_t sequence[2] = {0, 1}, first = 0, second = 1;
    static const bool prefill[2];
    const uint32_t *blocks[2] = {&first, &second};
    float *out = edge(sc.rows * sc.width * 4);
    scene_step(&sc, d, &(struct step_plan){2, position, sequence, prefill, 2, blocks, 0, NULL}, w, edge(2 * ops_cpu.kv_block_bytes(&layout)), 0,
               out);
    for (size_t i = 0; i < 2 * sc.width; i++) assert_true(isfinite(out[i]));
    ops_cpu.weight_free(d, w);
    ops_cpu.close(d);
    edges_release(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device),
        cmocka_unit_test(test_odd_alignment),
        cmocka_unit_test(test_project),
        cmocka_unit_test(test_project_in_blocks),
        cmocka_unit_test(test_project_on_any_threads),
        cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_nothing_is_left_of_a_nan),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_gate_up),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_attention_over_splits),
        cmocka_unit_test(test_nan_stays_in_its_sequence),
        cmocka_unit_test(test_comparison_sees_faults),
    };
    return cmocka_run_group_tests(tests, tell_missing_sets, NULL);
}
