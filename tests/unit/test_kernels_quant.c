/* Quantised matrices: the formats (kernels/quant.h) against their definition, and the CPU's products of every instruction set this machine
 * has against double sums of the same whole numbers. Dots are exact, so the tolerance is only that of a float32 sum (quant_bound). */
#include "tests/unit/kernel_oracle.h"

#include "kernels/quant.h"

static const struct device_limits limits = {.max_rows = 208,
                                            .max_sequences = 1,
                                            .max_blocks_per_sequence = 4,
                                            .hidden = 640,
                                            .heads = 1,
                                            .kv_heads = 1,
                                            .head_dim = 64,
                                            .inter = 640,
                                            .vocab = 64,
                                            .vision_rows = 9,
                                            .vision_dim = 77,
                                            .vision_inter = 77,
                                            .vision_head_dim = 16};
static const struct quant_format formats[] = {{8, 0, DTYPE_F32, false},  {8, 32, DTYPE_BF16, false}, {8, 32, DTYPE_F32, false},
                                              {8, 64, DTYPE_BF16, false}, {8, 128, DTYPE_F32, false}, {4, 32, DTYPE_BF16, false},
                                              {4, 32, DTYPE_F32, false},  {4, 64, DTYPE_BF16, false}, {4, 64, DTYPE_F32, false},
                                              {4, 128, DTYPE_BF16, false}, {8, 0, DTYPE_F32, true}};
enum { N_FORMATS = sizeof formats / sizeof *formats, MOST_K = 640, MOST_STEPS = MOST_K / 32 };
/* "emulated": the kernels' source with VNNI's instructions in plain C (kern_q_emulated.c), beside this machine's best float kernels; "amx emulated": likewise
 * with tile registers (kern_q_amx_emulated.c). */
static const char *const sets[] = {"ref", "emulated", "amx emulated", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx"};
extern const struct quant_kernels quant_kernels_emulated, quant_kernels_amx_emulated;
enum { N_QUANT_SETS = sizeof sets / sizeof *sets };

static const char *format_text(const struct quant_format *f)
{
    static char text[64];
    snprintf(text, sizeof text, "%s%u in groups of %zu, scales of dtype %d", f->e4m3 ? "fp" : "int", f->bits, f->group, f->scale);
    return text;
}

/* A matrix in a checkpoint's dtype and as the definition quantises it. */
struct quant_matrix {
    const struct quant_format *f;
    size_t n, k, kp, per_output;
    float *w; /* float32, as stored in the file */
    int8_t *q;
    float *scale;
};

static struct quant_matrix quant_matrix_of(const struct quant_format *f, float *w, size_t n, size_t k)
{
    struct quant_matrix m = {.f = f, .n = n, .k = k, .kp = quant_steps(f, k) * quant_step(f), .per_output = quant_scales(f, k), .w = w};
    m.q = malloc(n * m.kp);
    m.scale = malloc(n * m.per_output * sizeof *m.scale);
    for (size_t o = 0; o < n; o++) quant_weights(f, w + o * k, k, m.q + o * m.kp, m.scale + o * m.per_output);
    return m;
}

static struct quant_matrix quant_matrix_new(const struct quant_format *f, size_t n, size_t k)
{
    return quant_matrix_of(f, noise_edge(n * k), n, k);
}

static void quant_matrix_free(struct quant_matrix *m)
{
    free(m->q);
    free(m->scale);
}

static struct weight *quant_pack(struct device *d, enum pack_kind kind, const struct quant_matrix *m, size_t n_parts)
{
    struct weight_part parts[3];
    struct weight *w;
    struct err e = {0};
    for (size_t i = 0; i < n_parts; i++) parts[i] = (struct weight_part){.data = m[i].w, .dtype = DTYPE_F32, .rows = m[i].n};
    assert_int_equal(ops_cpu.weight_pack(d, kind, parts, n_parts, m[0].k, m[0].f, &w, &e), 0);
    return w;
}

/* The products of one row with all outputs. */
static void products(const struct quant_matrix *m, const float *x, struct near *out)
{
    int8_t q[MOST_K + QUANT_MAX_STEP];
    float scale[MOST_STEPS + 1];
    memset(q, 0, sizeof q);
    if (m->f->e4m3)
        quant_e4m3(x, m->k, 1, (uint8_t *)q, scale);
    else
        quant_activations(x, m->k, quant_step(m->f), q, scale);
    for (size_t o = 0; o < m->n; o++)
        out[o] = near_quant_product(m->f, m->k, m->q + o * m->kp, m->scale + o * m->per_output, q, scale);
}

static const struct quant_kernels *emulated(const char *isa)
{
    if (isa && strcmp(isa, "emulated") == 0) return &quant_kernels_emulated;
    return isa && strcmp(isa, "amx emulated") == 0 ? &quant_kernels_amx_emulated : NULL;
}

static const struct quant_kernels *quant_kernels_of(const char *isa)
{
    return emulated(isa) ? emulated(isa) : cpu_quant_choose(isa);
}

static const struct cpu_kernels *float_kernels_of(const char *isa)
{
    return cpu_kernels_choose(emulated(isa) ? NULL : isa);
}

static struct device *quant_device(const char *isa, int threads)
{
    struct device *d = device_new(emulated(isa) ? NULL : isa, COMPUTE_BF16, threads, &limits);
    d->q = quant_kernels_of(isa);
    return d;
}

/* --- the formats --- */
static double squared(const float *w, const int8_t *q, float scale, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += pow((double)w[i] - (double)q[i] * (double)scale, 2);
    return sum;
}

/* With 8 bits every value is within half a scale; with 4, a group's squared error is never above that of round to nearest. */
static void test_weights_are_rounded_well(void **unused)
{
    (void)unused;
    enum { K = 300 };
    float w[K], scale[K];
    int8_t q[K + QUANT_MAX_STEP];
    for (size_t i = 0; i < N_FORMATS * 200; i++) {
        const struct quant_format *f = &formats[i % N_FORMATS];
        if (f->e4m3) continue; /* the next test's */
        for (size_t j = 0; j < K; j++) w[j] = powf(noise(), 3) * (i % 7 ? 1.0f : 1e-3f);
        quant_weights(f, w, K, q, scale);
        size_t group = f->group ? f->group : K;
        for (size_t g = 0, at = 0; at < K; g++, at += group) {
            size_t n = K - at < group ? K - at : group;
            double most = 0, plain = 0, s;
            for (size_t j = at; j < at + n; j++) most = fmax(most, fabs((double)w[j]));
            s = most / (f->bits == 8 ? 127 : 7);
            for (size_t j = at; j < at + n; j++) {
                plain += pow((double)w[j] - nearbyint((double)w[j] / s) * s, 2);
                if (f->bits == 8) assert_true(fabs((double)w[j] - q[j] * (double)scale[g]) <= (0.5 + 1e-4) * fabs((double)scale[g]));
                assert_in_range(q[j] + 127, f->bits == 8 ? 0 : 119, f->bits == 8 ? 254 : 134);
            }
            /* the plain scale is itself rounded to bf16, which moves a value by 7 s 2^-9 at most; float32 sums tell candidates apart to 1e-5 */
            double with_scale = pow(sqrt(plain) + 7 * s * 0x1p-9 * sqrt((double)n), 2);
            if (f->bits == 4) assert_true(squared(w + at, q + at, scale[g], n) <= with_scale * (1 + 1e-5));
        }
    }
}

/* Every number of e4m3, what lies half way between two, what is too large; then numbers with a scale: off by at most 2^-4 of themselves, or
 * half of the least number. */
static void test_e4m3_is_the_nearest(void **unused)
{
    (void)unused;
    assert_true(e4m3_to_f32(0x7E) == 448 && e4m3_to_f32(0x01) == 0x1p-9f && e4m3_to_f32(0x38) == 1 && e4m3_to_f32(0xB9) == -1.125f);
    assert_true(isnan(e4m3_to_f32(0x7F)) && isnan(e4m3_to_f32(0xFF)) && (e4m3_from_f32(NAN) & 0x7F) == 0x7F);
    assert_true(e4m3_from_f32(449) == 0x7E && e4m3_from_f32(-1e30f) == 0xFE && e4m3_from_f32(INFINITY) == 0x7E);
    assert_true(e4m3_from_f32(0x1p-11f) == 0 && e4m3_from_f32(-0.0f) == 0x80);
    for (int b = 0; b < 0x7F; b++) {
        const float v = e4m3_to_f32((uint8_t)b), half = b < 0x7E ? (v + e4m3_to_f32((uint8_t)(b + 1))) / 2 : 460;
        assert_true(e4m3_from_f32(v) == b && e4m3_from_f32(-v) == (b | 0x80));
        assert_int_equal(e4m3_from_f32(half), b < 0x7E ? b + b % 2 : b); /* to even */
        assert_int_equal(e4m3_from_f32(nextafterf(half, 0)), b);
        assert_int_equal(e4m3_from_f32(nextafterf(half, 1e9f)), b < 0x7E ? b + 1 : b);
    }
    enum { N = 300 };
    float x[N], scale;
    uint8_t q[2 * N];
    for (size_t i = 0; i < 300; i++) {
        double most = 0;
        for (size_t j = 0; j < N; j++) x[j] = powf(noise(), 3) * (i % 7 ? 1.0f : 1e-20f), most = fmax(most, fabs((double)x[j]));
        quant_e4m3(x, N, 2, q, &scale);
        assert_true(scale == (float)most / 448);
        for (size_t j = 0; j < N; j++) {
            const double v = (double)x[j], off = fabs(v - (double)e4m3_to_f32(q[2 * j]) * (double)scale);
            assert_true(off <= fmax(fabs(v) * 0x1p-4, (double)scale * 0x1p-10) * (1 + 4 * U));
        }
    }
    x[N / 2] = -INFINITY;
    quant_e4m3(x, N, 1, q, &scale);
    assert_true(isnan(scale) && q[0] == 0 && q[N - 1] == 0);
    for (size_t j = 0; j < N; j++) x[j] = 0x1p-101f;
    quant_e4m3(x, N, 1, q, &scale);
    assert_true(scale == 0 && q[0] == 0);
    int8_t padded[2 * QUANT_CHANNEL_STEP];
    memset(padded, 1, sizeof padded);
    for (size_t j = 0; j < 70; j++) x[j] = noise();
    quant_weights(&quant_fp8, x, 70, padded, &scale);
    for (size_t j = 70; j < sizeof padded; j++) assert_int_equal(padded[j], 0);
}

static void test_the_search_for_a_scale_gains(void **unused)
{
    (void)unused;
    enum { K = 32, GROUPS = 2000 };
    double found = 0, plain = 0;
    float w[K], scale;
    int8_t q[K];
    for (size_t i = 0; i < GROUPS; i++) {
        for (size_t j = 0; j < K; j++) w[j] = noise() + noise() + noise() + noise();
        quant_weights(&quant_int4, w, K, q, &scale);
        found += squared(w, q, scale, K);
        float most = 0;
        for (size_t j = 0; j < K; j++) most = fmaxf(most, fabsf(w[j]));
        for (size_t j = 0; j < K; j++) q[j] = (int8_t)nearbyintf(w[j] / (most / 7));
        plain += squared(w, q, most / 7, K);
    }
    print_message("squared error of 4 bits: %.3f of round to nearest\n", found / plain);
    assert_true(found < 0.9 * plain);
}

static void test_weights_that_are_not_finite_are_not_hidden(void **unused)
{
    (void)unused;
    float w[64] = {[3] = 1, [40] = NAN}, scale[2];
    int8_t q[64];
    quant_weights(&quant_int4, w, 64, q, scale);
    assert_false(isnan(scale[0]));
    assert_true(isnan(scale[1]));
    w[40] = -INFINITY;
    quant_weights(&quant_int8, w, 64, q, scale);
    assert_true(isnan(scale[0]));
}

/* --- activations --- */
static void fill_activations(float *x, size_t n, size_t what)
{
    for (size_t i = 0; i < n; i++) x[i] = noise() * (what == 1 ? 1e30f : what == 2 ? 1e-33f : 1);
    if (what == 3)
        for (size_t i = 0; i < n; i++) x[i] = (float)(i % 255) - 127 + (i % 2 ? 0.5f : 0); /* halves: to even */
    if (what == 4) x[n / 2] = NAN;
    if (what == 5) x[n - 1] = -INFINITY;
    if (what == 6) memset(x, 0, n * sizeof *x);
    if (what == 7) x[0] = 0x1p-101f;
}

static void test_activations_are_the_same_in_every_set(void **unused)
{
    (void)unused;
    static const size_t lengths[] = {1, 31, 32, 33, 64, 127, 130, 300};
    for (size_t s = 0; s < N_QUANT_SETS; s++) {
        const struct quant_kernels *k = quant_kernels_of(sets[s]);
        for (size_t i = 0; k && i < 8 * 8 * 3; i++) {
            const size_t n = lengths[i % 8], step = (size_t)32 << i / 64 % 3, padded = (n + step - 1) / step * step;
            const int offset = i % 3 == 0 ? 0 : i % 3 == 1 ? 8 : 128;
            float *x = edge(n * sizeof *x), want_scale[16], *scale = edge(padded / step * 4);
            int32_t *correction = edge(padded / step * 4);
            int8_t want[512], *got = edge(padded);
            fill_activations(x, n, i / 8 % 8);
            quant_activations(x, n, step, want, want_scale);
            k->quantize(x, n, step, offset, got, scale, correction);
            for (size_t g = 0; g < padded / step; g++) {
                int32_t total = 0;
                for (size_t j = g * step; j < (g + 1) * step; j++) {
                    assert_int_equal(got[j], want[j]);
                    total += want[j];
                }
                assert_int_equal(correction[g], -offset * total);
                assert_true(isnan(scale[g]) ? isnan(want_scale[g]) : memcmp(&scale[g], &want_scale[g], 4) == 0);
            }
            edges_release(0);
        }
    }
}

/* --- x += W in (+ bias) --- */
static void quant_project(struct device *d, const struct weight *w, size_t rows, const struct quant_matrix *m, const float *x,
                          const float *in, const float *bias, float *out)
{
    struct err e = {0};
    memcpy(out, x, rows * m->n * sizeof *out);
    assert_int_equal(
        ops_cpu.project(d, &(struct project_args){.x = out, .in = in, .w = w, .bias = bias, .rows = rows, .n = m->n, .k = m->k}, &e), 0);
}

static void project_check(const char *isa, const struct quant_matrix *m, size_t rows, bool with_bias, float *first)
{
    struct device *d = quant_device(isa, 1);
    struct weight *w = quant_pack(d, PACK_LINEAR, m, 1);
    const float *x = noise_edge(rows * m->n), *in = noise_edge(rows * m->k), *bias = with_bias ? noise_edge(m->n) : NULL;
    float *out = edge(rows * m->n * 4), *one = edge(m->n * 4);
    struct near *want = malloc(m->n * sizeof *want);
    quant_project(d, w, rows, m, x, in, bias, out);
    for (size_t r = 0; r < rows; r++) {
        products(m, in + r * m->k, want);
        for (size_t o = 0; o < m->n; o++)
            want[o] = near_sum((struct near){(double)x[r * m->n + o], 0}, want[o], (struct near){bias ? (double)bias[o] : 0, 0});
        near_check(out + r * m->n, want, m->n, isa, format_text(m->f), r);
        quant_project(d, w, 1, m, x + r * m->n, in + r * m->k, bias, one);
        if (memcmp(one, out + r * m->n, m->n * 4)) fail_msg("%s %s: row %zu alone is another", isa, format_text(m->f), r);
    }
    for (int threads = 2; threads <= 5; threads += 3) { /* as many threads as one likes */
        struct device *many = quant_device(isa, threads);
        struct weight *again = quant_pack(many, PACK_LINEAR, m, 1);
        float *same = edge(rows * m->n * 4);
        quant_project(many, again, rows, m, x, in, bias, same);
        assert_memory_equal(same, out, rows * m->n * 4);
        ops_cpu.weight_free(many, again);
        ops_cpu.close(many);
    }
    if (first) memcpy(first, out, rows * m->n * 4);
    ops_cpu.weight_free(d, w);
    ops_cpu.close(d);
    free(want);
}

/* Every set, format, tail of K and N, and number of rows; the fast sets give each other's bytes. */
static void test_project(void **unused)
{
    (void)unused;
    static const struct {
        size_t n, k;
    } shapes[] = {{1, 1}, {33, 33}, {70, 130}, {100, 576}, {257, 64}};
    static const size_t rows[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 23, 25, 100};
    enum { N_ROWS = sizeof rows / sizeof *rows, MOST_OUT = 100 * 257 };
    float *first = malloc(MOST_OUT * 4), *other = malloc(MOST_OUT * 4);
    for (size_t i = 0; i < N_FORMATS * N_ROWS; i++) {
        const size_t shape = (i + i / N_FORMATS) % 5, n_rows = rows[i / N_FORMATS];
        struct quant_matrix m = quant_matrix_new(&formats[i % N_FORMATS], shapes[shape].n, shapes[shape].k);
        const uint32_t noise_then = noise_state;
        bool have_first = false;
        const size_t keep = n_edges;
        for (size_t s = 0; s < N_QUANT_SETS; s++) {
            if (!quant_kernels_of(sets[s]) || (s < 2 && n_rows > 17 && shape > 1)) continue;
            noise_state = noise_then;
            project_check(sets[s], &m, n_rows, i % 3 != 0, have_first ? other : first);
            if (have_first) assert_memory_equal(first, other, n_rows * m.n * 4);
            have_first = s > 0; /* the plain set sums in double */
            edges_release(keep);
        }
        quant_matrix_free(&m);
        edges_release(0);
    }
    free(first);
    free(other);
}

/* The largest values everywhere: 127 * 127 in every place, every mixture of signs; 16 bits must not overflow on the way. */
static void test_nothing_saturates(void **unused)
{
    (void)unused;
    enum { N = 40, K = 320, ROWS = 7 };
    for (size_t s = 0; s < N_QUANT_SETS; s++)
        for (size_t f = 0; quant_kernels_of(sets[s]) && f < N_FORMATS; f++) {
            float *w = edge(N * K * 4), *x = edge(ROWS * N * 4), *in = edge(ROWS * K * 4), *out = edge(ROWS * N * 4);
            for (size_t i = 0; i < N * K; i++) w[i] = (i / K) % 4 == 0 ? -1 : (i / K) % 4 == 1 ? 1 : i % ((i / K) % 4) ? 1 : -1;
            for (size_t i = 0; i < ROWS * K; i++) in[i] = i / K == 0 ? 1 : i / K == 1 ? -1 : (i % K) % (i / K) ? 1 : -1;
            struct quant_matrix m = quant_matrix_of(&formats[f], w, N, K);
            struct device *d = quant_device(sets[s], 1);
            struct weight *packed = quant_pack(d, PACK_LINEAR, &m, 1);
            struct near want[N];
            quant_project(d, packed, ROWS, &m, x, in, NULL, out);
            for (size_t r = 0; r < ROWS; r++) {
                products(&m, in + r * K, want);
                near_check(out + r * N, want, N, sets[s], format_text(&formats[f]), r);
            }
            if (formats[f].bits == 8) assert_true(fabs((double)out[0] + K) < K * 0.005);
            ops_cpu.weight_free(d, packed);
            ops_cpu.close(d);
            quant_matrix_free(&m);
            edges_release(0);
        }
}

/* What is not finite in a row makes its outputs NaN, and no other row's. */
static void test_a_nan_stays_in_its_row(void **unused)
{
    (void)unused;
    enum { N = 70, K = 130, ROWS = 9 };
    for (size_t s = 0; s < N_QUANT_SETS; s++)
        for (size_t f = 0; quant_kernels_of(sets[s]) && f < N_FORMATS; f++) {
            struct quant_matrix m = quant_matrix_new(&formats[f], N, K);
            struct device *d = quant_device(sets[s], 1);
            struct weight *w = quant_pack(d, PACK_LINEAR, &m, 1);
            float *x = noise_edge(ROWS * N), *in = noise_edge(ROWS * K), *clean = edge(ROWS * N * 4), *out = edge(ROWS * N * 4);
            quant_project(d, w, ROWS, &m, x, in, NULL, clean);
            in[4 * K + 129] = f % 2 ? NAN : INFINITY;
            quant_project(d, w, ROWS, &m, x, in, NULL, out);
            for (size_t i = 0; i < ROWS * N; i++)
                assert_true(i / N == 4 ? isnan(out[i]) : memcmp(&out[i], &clean[i], 4) == 0);
            ops_cpu.weight_free(d, w);
            ops_cpu.close(d);
            quant_matrix_free(&m);
            edges_release(0);
        }
}

/* --- the comparer finds what it is for --- */
static void test_planted_faults_are_found(void **unused)
{
    (void)unused;
    enum { N = 40, K = 576 };
    for (size_t f = 0; f < N_FORMATS; f++)
        for (int fault = 0; fault < 4; fault++) {
            struct quant_matrix m = quant_matrix_new(&formats[f], N, K);
            struct device *d = quant_device(NULL, 1);
            struct weight *w = quant_pack(d, PACK_LINEAR, &m, 1);
            float *x = edge(N * 4), *in = noise_edge(K), *out = edge(N * 4);
            struct near want[N];
            quant_project(d, w, 1, &m, x, in, NULL, out);
            int8_t *weight = &m.q[7 * m.kp + 40];
            if (fault == 1) /* one weight by one step, or its sign */
                *weight = m.f->e4m3 ? (int8_t)(*weight ^ -128) : (int8_t)(*weight + (*weight > 0 ? -1 : 1));
            if (fault == 2) m.scale[7 * m.per_output] *= 1 + 0x1p-8f;              /* one scale by its last bit */
            if (fault == 3) in[40] = 0.99f - in[40];                               /* one activation */
            products(&m, in, want);
            size_t misses = near_misses(out, want, N);
            assert_true(fault == 0 ? misses == 0 : fault == 3 ? misses > N / 2 : misses == 1);
            ops_cpu.weight_free(d, w);
            ops_cpu.close(d);
            quant_matrix_free(&m);
            edges_release(0);
        }
}

/* --- the other operations --- */
enum { HIDDEN = 77, INTER = 75, MAX_ROWS = 14 };

static void plan_rows(struct device *d, size_t rows)
{
    static const int32_t position[MAX_ROWS];
    static const uint32_t sequence[MAX_ROWS], block;
    static const bool prefill[MAX_ROWS];
    const uint32_t *tables[] = {&block};
    struct err e = {0};
    const struct step_plan plan = {rows, position, sequence, prefill, 1, tables, 0, NULL};
    assert_int_equal(ops_cpu.plan(d, &plan, &(struct rope){0}, 16, &e), 0);
}

static void test_gate_up(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < N_QUANT_SETS * N_FORMATS; i++) {
        const char *isa = sets[i / N_FORMATS];
        if (!quant_kernels_of(isa)) continue;
        const struct quant_format *f = &formats[i % N_FORMATS];
        struct quant_matrix m[2] = {quant_matrix_new(f, INTER, HIDDEN), quant_matrix_new(f, INTER, HIDDEN)};
        float *x = noise_edge(MAX_ROWS * HIDDEN), *norm = noise_edge(HIDDEN), *out = edge(MAX_ROWS * INTER * 4), *one = edge(INTER * 4);
        struct device *d = quant_device(isa, 2);
        struct weight *w = quant_pack(d, PACK_GATE_UP, m, 2);
        struct gate_up_args a = {.x = x, .norm = norm, .eps = 1e-5f, .w = w, .out = out, .hidden = HIDDEN, .inter = INTER};
        struct err e = {0};
        plan_rows(d, MAX_ROWS);
        assert_int_equal(ops_cpu.gate_up(d, &a, &e), 0);
        plan_rows(d, 1);
        for (size_t r = 0; r < MAX_ROWS; r++) {
            struct near g[INTER], u[INTER];
            float h[HIDDEN];
            float_kernels_of(isa)->rmsnorm(x + r * HIDDEN, norm, 1e-5f, HIDDEN, h); /* tested in test_kernels_set.c */
            products(&m[0], h, g);
            products(&m[1], h, u);
            for (size_t o = 0; o < INTER; o++) g[o] = near_silu_mul(g[o], u[o]);
            near_check(out + r * INTER, g, INTER, isa, format_text(f), r);
            a.x = x + r * HIDDEN, a.out = one;
            assert_int_equal(ops_cpu.gate_up(d, &a, &e), 0);
            assert_memory_equal(one, out + r * INTER, INTER * 4);
        }
        ops_cpu.weight_free(d, w);
        ops_cpu.close(d);
        quant_matrix_free(&m[0]);
        quant_matrix_free(&m[1]);
        edges_release(0);
    }
}

/* gelu(W layernorm(x) + b) */
static void test_vision_up(void **unused)
{
    (void)unused;
    enum { ROWS = 9 };
    for (size_t i = 0; i < N_QUANT_SETS * N_FORMATS; i++) {
        const char *isa = sets[i / N_FORMATS];
        if (!quant_kernels_of(isa)) continue;
        const struct quant_format *f = &formats[i % N_FORMATS];
        struct quant_matrix m = quant_matrix_new(f, INTER, HIDDEN);
        float *x = noise_edge(ROWS * HIDDEN), *norm = noise_edge(HIDDEN), *shift = noise_edge(HIDDEN), *bias = noise_edge(INTER),
              *out = edge(ROWS * INTER * 4);
        struct device *d = quant_device(isa, 2);
        struct weight *w = quant_pack(d, PACK_LINEAR, &m, 1);
        struct vision_up_args a = {x, norm, shift, 1e-6f, w, bias, out, ROWS, HIDDEN, INTER};
        struct err e = {0};
        assert_int_equal(ops_cpu.vision_up(d, &a, &e), 0);
        for (size_t r = 0; r < ROWS; r++) {
            struct near want[INTER];
            float h[HIDDEN];
            float_kernels_of(isa)->layernorm(x + r * HIDDEN, norm, shift, 1e-6f, HIDDEN, h);
            products(&m, h, want);
            for (size_t o = 0; o < INTER; o++)
                want[o] = near_gelu(near_sum(want[o], (struct near){(double)bias[o], 0}, (struct near){0, 0}));
            near_check(out + r * INTER, want, INTER, isa, format_text(f), r);
        }
        ops_cpu.weight_free(d, w);
        ops_cpu.close(d);
        quant_matrix_free(&m);
        edges_release(0);
    }
}

/* A tied head: one packed matrix gives the embedding's rows, exactly q * scale, and the logits. */
static void test_head_and_embedding_share_a_matrix(void **unused)
{
    (void)unused;
    enum { VOCAB = 49155, PICKED = 3 };
    static const int32_t tokens[] = {0, 1, 31, 32, 49151, 49152, 49154};
    enum { N_TOKENS = sizeof tokens / sizeof *tokens };
    static const uint32_t row[PICKED] = {5, 0, 5};
    static const struct quant_format *const used[] = {&quant_int8, &quant_int4, &formats[1], &quant_fp8};
    for (size_t i = 0; i < 4 * N_QUANT_SETS; i++) {
        const char *isa = sets[i / 4];
        if (!quant_kernels_of(isa)) continue;
        struct quant_matrix m = quant_matrix_new(used[i % 4], VOCAB, HIDDEN);
        float *x = noise_edge(MAX_ROWS * HIDDEN), *norm = noise_edge(HIDDEN), *logits = edge(PICKED * VOCAB * 4),
              *rows = edge(N_TOKENS * HIDDEN * 4);
        struct device *d = quant_device(isa, 2);
        struct weight *w = quant_pack(d, PACK_EMBED, &m, 1);
        struct near *want = malloc(VOCAB * sizeof *want);
        struct err e = {0};
        plan_rows(d, N_TOKENS);
        assert_int_equal(ops_cpu.embed(d, &(struct embed_args){.table = w, .token = tokens, .x = rows, .hidden = HIDDEN}, &e), 0);
        for (size_t t = 0; t < N_TOKENS; t++)
            for (size_t j = 0; j < HIDDEN; j++) {
                size_t o = (size_t)tokens[t];
                float scale = m.scale[o * m.per_output + (m.f->group ? j / m.f->group : 0)];
                const int8_t q = m.q[o * m.kp + j];
                assert_true(rows[t * HIDDEN + j] == (m.f->e4m3 ? e4m3_to_f32((uint8_t)q) : (float)q) * scale);
            }
        struct head_args a = {x, row, PICKED, norm, 1e-5f, w, logits, HIDDEN, VOCAB};
        assert_int_equal(ops_cpu.head(d, &a, &e), 0);
        for (size_t r = 0; r < PICKED; r++) {
            float h[HIDDEN];
            float_kernels_of(isa)->rmsnorm(x + row[r] * HIDDEN, norm, 1e-5f, HIDDEN, h);
            products(&m, h, want);
            near_check(logits + r * VOCAB, want, VOCAB, isa, format_text(m.f), r);
        }
        assert_memory_equal(logits, logits + 2 * VOCAB, VOCAB * 4);
        assert_in_range(ops_cpu.weight_bytes(w), quant_bytes(m.f, VOCAB, HIDDEN),
                        quant_bytes(m.f, VOCAB + 32, m.f->e4m3 ? 256 : 128) + 64 * 4); /* fp8 as bf16 */
        ops_cpu.weight_free(d, w);
        ops_cpu.close(d);
        quant_matrix_free(&m);
        free(want);
        edges_release(0);
    }
}

/* Parts of a matrix in the dtypes of checkpoints, stacked: each is what its float32 values are. */
static void test_parts_of_any_dtype_are_quantised(void **unused)
{
    (void)unused;
    enum { K = 96 };
    for (size_t f = 0; f < N_FORMATS; f++) {
        struct matrix parts[3] = {matrix_new(40, K, DTYPE_BF16, COMPUTE_F32), matrix_new(7, K, DTYPE_F16, COMPUTE_F32),
                                  matrix_new(30, K, DTYPE_F32, COMPUTE_F32)};
        struct weight_part p[3];
        float *all = edge(77 * K * 4), *x = edge(77 * 4), *in = noise_edge(K), *out = edge(77 * 4);
        for (size_t i = 0, at = 0; i < 3; at += parts[i++].n) {
            memcpy(all + at * K, parts[i].seen, parts[i].n * K * 4);
            p[i] = (struct weight_part){.data = parts[i].file, .dtype = parts[i].dtype, .rows = parts[i].n};
        }
        struct quant_matrix m = quant_matrix_of(&formats[f], all, 77, K);
        struct device *d = quant_device(NULL, 2);
        struct weight *w;
        struct err e = {0};
        struct near want[77];
        assert_int_equal(ops_cpu.weight_pack(d, PACK_LINEAR, p, 3, K, &formats[f], &w, &e), 0);
        quant_project(d, w, 1, &m, x, in, NULL, out);
        products(&m, in, want);
        near_check(out, want, 77, "best", format_text(&formats[f]), 0);
        ops_cpu.weight_free(d, w);
        ops_cpu.close(d);
        quant_matrix_free(&m);
        edges_release(0);
    }
}

/* A matrix that comes as e4m3 with its scales is taken as it is by fp8, and by other formats by its values. */
static void test_e4m3_parts_keep_their_bytes(void **unused)
{
    (void)unused;
    enum { N = 40, K = 70, NAN_AT = 9 };
    for (int how = 0; how < 3; how++) { /* fp8, int8, fp8 with a NaN among the numbers of output NAN_AT */
        const struct quant_format *f = how == 1 ? &quant_int8 : &quant_fp8;
        uint8_t *bytes = edge(N * K);
        float *scales = noise_edge(N), *values = edge(N * K * 4), *x = edge(N * 4), *in = noise_edge(K), *out = edge(N * 4);
        for (size_t i = 0; i < N * K; i++) bytes[i] = e4m3_from_f32(noise() * 400), values[i] = e4m3_to_f32(bytes[i]) * scales[i / K];
        struct quant_matrix m = quant_matrix_of(f, values, N, K);
        for (size_t o = 0; o < N && how != 1; o++) memcpy(m.q + o * m.kp, bytes + o * K, K), m.scale[o] = scales[o];
        if (how == 2) bytes[NAN_AT * K + 3] = 0xFF;
        const struct weight_part part = {.data = bytes, .dtype = DTYPE_E4M3, .rows = N, .scale = scales};
        struct device *d = quant_device(NULL, 2);
        struct weight *w;
        struct err e = {0};
        struct near want[N];
        assert_int_equal(ops_cpu.weight_pack(d, PACK_LINEAR, &part, 1, K, f, &w, &e), 0);
        quant_project(d, w, 1, &m, x, in, NULL, out);
        products(&m, in, want);
        for (size_t o = 0; o < N; o++)
            if (how == 2 && o == NAN_AT ? !isnan(out[o]) : !near_holds(out[o], want[o]))
                fail_msg("%d: output %zu is %g", how, o, (double)out[o]);
        ops_cpu.weight_free(d, w);
        ops_cpu.close(d);
        quant_matrix_free(&m);
        edges_release(0);
    }
}

static int tell_missing_quant_sets(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_QUANT_SETS; s++)
        if (!quant_kernels_of(sets[s])) print_message("this processor has no %s: its quantised kernels are NOT tested here\n", sets[s]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_are_rounded_well),
        cmocka_unit_test(test_e4m3_is_the_nearest),
        cmocka_unit_test(test_the_search_for_a_scale_gains),
        cmocka_unit_test(test_weights_that_are_not_finite_are_not_hidden),
        cmocka_unit_test(test_activations_are_the_same_in_every_set),
        cmocka_unit_test(test_project),
        cmocka_unit_test(test_nothing_saturates),
        cmocka_unit_test(test_a_nan_stays_in_its_row),
        cmocka_unit_test(test_planted_faults_are_found),
        cmocka_unit_test(test_gate_up),
        cmocka_unit_test(test_vision_up),
        cmocka_unit_test(test_head_and_embedding_share_a_matrix),
        cmocka_unit_test(test_parts_of_any_dtype_are_quantised),
        cmocka_unit_test(test_e4m3_parts_keep_their_bytes),
    };
    return cmocka_run_group_tests(tests, tell_missing_quant_sets, NULL);
}
