/* Products of many rows by cuBLASLt (kernels/cuda/cublaslt.cu) under --decode fast: every epilogue against the formulas, and what happens
 * where the library is missing, too old, refuses or fails. In the simulator tests/cuda/fake_cublaslt.cpp stands for it, which counts its
 * products and can be told to read W or the rows wrongly: these faults must be seen. On a card it is the library that is there. With
 * `without`: none is. */
#include <dlfcn.h>

#include "kernels/cuda/cublaslt.h"
#include "tests/cuda/cuda_harness.h"

enum { MAX_ROWS = 400, WIDE_INTER = 32768 /* gate and up of so many leave room for the sums of 128 rows */, ABOVE = 64 };

static const struct device_limits limits = {.max_rows = MAX_ROWS,
                                            .max_sequences = MAX_ROWS,
                                            .max_blocks_per_sequence = 1,
                                            .hidden = 2048,
                                            .heads = 1,
                                            .kv_heads = 1,
                                            .head_dim = 64,
                                            .inter = WIDE_INTER,
                                            .vocab = 64,
                                            .vision_rows = 324,
                                            .vision_dim = 576,
                                            .vision_inter = 296,
                                            .vision_head_dim = 72,
                                            .connector_in = 192,
                                            .patch_in = 588,
                                            .tile_bytes = 3 * 126 * 126};

static size_t (*products)(void); /* of the stand-in; NULL on a card */

static size_t counted(void)
{
    return products ? products() : 0;
}

static void check_count(size_t before, size_t n, const char *what)
{
    if (products && products() - before != n) fail_msg("%s: the library had %zu products, not %zu", what, products() - before, n);
}

/* A bias that is rounded to bf16 first. */
static struct near rounded_bias(float b)
{
    return (struct near){(double)b, fabs((double)b) * BF16_ROUNDING};
}

static struct near exactly(float v)
{
    return (struct near){(double)v, 0};
}

/* --- x += W in (+ bias) --- */

struct shape {
    size_t n, k, n_decode, rows;
    bool bias, tiles;
};

/* How many numbers are not what they should be. */
static size_t project_misses(const struct shape *s)
{
    size_t keep = n_edges, misses = 0, all = s->n_decode + s->rows;
    struct matrix m = matrix_new(s->n, s->k, DTYPE_BF16, COMPUTE_BF16);
    float *x = noise_new(all * s->n), *in = noise_new(all * s->k), *bias = noise_new(s->n), *got = malloc(all * s->n * sizeof *got);
    struct near *h = malloc(s->k * sizeof *h), *want = malloc(s->n * sizeof *want);
    void *d_in = operand_rows(in, all, s->k), *d_x = to_device(x, all * s->n * sizeof *x), *d_bias = to_device(bias, s->n * sizeof *bias);
    struct weight *w = pack_cuda(PACK_LINEAR, &m, 1, NULL);
    if (!s->tiles) plan_roles(s->n_decode, s->rows);
    OK(ops->project(dev, &(struct project_args){d_x, d_in, w, s->bias ? d_bias : NULL, all, s->n, s->k, s->tiles, NULL}, &e));
    OK(ops->read_back(dev, got, d_x, all * s->n * sizeof *got, &e));
    for (size_t r = 0; r < all; r++) {
        for (size_t i = 0; i < s->k; i++) h[i] = exactly(in[r * s->k + i]);
        for (size_t o = 0; o < s->n; o++)
            want[o] = near_sum(near_product(h, m.seen + o * s->k, s->k), exactly(x[r * s->n + o]), exactly(s->bias ? bias[o] : 0));
        misses += near_misses(got + r * s->n, want, s->n);
    }
    ops->weight_free(dev, w);
    ops->free(dev, d_in), ops->free(dev, d_x), ops->free(dev, d_bias);
    free(x), free(in), free(bias), free(got), free(h), free(want);
    edges_release(keep);
    return misses;
}

static void check_project(struct shape s, size_t by_library)
{
    size_t before = counted(), misses = project_misses(&s);
    if (misses)
        fail_msg("%zu x %zu, %zu and %zu rows%s: %zu numbers are off", s.n, s.k, s.n_decode, s.rows, s.bias ? ", bias" : "", misses);
    check_count(before, by_library, "a projection");
}

static void test_projections(void **unused)
{
    (void)unused;
    static const size_t rows[] = {65, 128, 300}, sizes[][2] = {{56, 588}, {148, 576}, {128, 128}, {4, 64}};
    for (size_t r = 0; r < 3; r++)
        for (size_t i = 0; i < 4; i++) check_project((struct shape){sizes[i][0], sizes[i][1], 0, rows[r], (r + i) % 2, true}, 1);
    check_project((struct shape){72, 2048, 0, 130, true, true}, 1);
}

static void test_rows_that_decode_are_not_the_librarys(void **unused)
{
    (void)unused;
    check_project((struct shape){148, 192, 3, 65, false, false}, 1);
    check_project((struct shape){148, 192, 70, 80, true, false}, 1);
    check_project((struct shape){148, 192, 130, 0, false, false}, 0);
}

static void test_few_rows_and_odd_rows_are_not_the_librarys(void **unused)
{
    (void)unused;
    check_project((struct shape){148, 192, 0, ABOVE, false, true}, 0);
    check_project((struct shape){150, 192, 0, 100, true, true}, 0); /* 600 bytes from row to row */
    check_project((struct shape){1, 1, 0, 100, true, true}, 0);
}

/* More than are kept, each twice. */
static void test_many_shapes(void **unused)
{
    (void)unused;
    size_t before = counted();
    for (size_t turn = 0; turn < 2; turn++)
        for (size_t rows = ABOVE + 1; rows <= MAX_ROWS; rows++) {
            const struct shape s = {8, 64, 0, rows, rows % 2, true};
            if (project_misses(&s)) fail_msg("%zu rows: some are off", rows);
        }
    check_count(before, 2 * (MAX_ROWS - ABOVE), "many shapes");
}

/* --- gate and up; queries, keys and values are in test_cuda_attention --- */

static void check_gate_up(size_t inter, size_t hidden, size_t n_decode, size_t n_prefill, size_t by_library)
{
    size_t keep = n_edges, rows = n_decode + n_prefill, before = counted();
    struct matrix m[2] = {matrix_new(inter, hidden, DTYPE_BF16, COMPUTE_BF16), matrix_new(inter, hidden, DTYPE_BF16, COMPUTE_BF16)};
    float *x = noise_new(rows * hidden), *norm = noise_new(hidden), *got = malloc(inter * sizeof *got);
    struct near *h = malloc(hidden * sizeof *h), *want = malloc(inter * sizeof *want);
    void *d_x = to_device(x, rows * hidden * sizeof *x), *d_norm = to_device(norm, hidden * sizeof *norm),
         *out = to_device(NULL, rows * (inter + 64) * sizeof(float));
    struct weight *w = pack_cuda(PACK_GATE_UP, m, 2, NULL);
    plan_roles(n_decode, n_prefill);
    OK(ops->gate_up(dev, &(struct gate_up_args){d_x, d_norm, 1e-5f, w, out, hidden, inter}, &e));
    for (size_t r = 0; r < rows; r++) {
        near_rmsnorm(x + r * hidden, norm, 1e-5f, hidden, h);
        for (size_t i = 0; i < hidden; i++) h[i] = near_operand(h[i], COMPUTE_BF16);
        for (size_t o = 0; o < inter; o++) {
            const struct near gate = near_product(h, m[0].seen + o * hidden, hidden), up = near_product(h, m[1].seen + o * hidden, hidden);
            want[o] = rounded_to_bf16(near_silu_mul(gate, up));
        }
        read_operand(out, r, inter, got);
        near_check(got, want, inter, r < n_decode ? "decode" : "prefill", "gate and up", r);
    }
    check_count(before, by_library, "gate and up");
    ops->weight_free(dev, w);
    ops->free(dev, d_x), ops->free(dev, d_norm), ops->free(dev, out);
    free(x), free(norm), free(got), free(h), free(want);
    edges_release(keep);
}

static void test_gate_up(void **unused)
{
    (void)unused;
    check_gate_up(50, 576, 9, 70, 1);
    check_gate_up(7, 64, 0, 128, 1);
    check_gate_up(40, 192, 3, 300, 3); /* in three pieces */
}

/* --- tiles --- */

/* On a card the library's tanh is not documented: taken for tanh.approx.f32, which is off by up to 2^-10.987 (PTX ISA). */
static struct near library_gelu(struct near x)
{
    struct near y = near_gelu(x);
#ifdef ORACLE_DEVICE
    y.err += 0.5 * (fabs(x.v) + x.err) * 0x1p-10 * 0.51;
#endif
    return rounded_to_bf16(y);
}

static void check_up(size_t rows, size_t dim, size_t inter)
{
    size_t keep = n_edges;
    struct matrix m = matrix_new(inter, dim, DTYPE_BF16, COMPUTE_BF16);
    float *x = noise_new(rows * dim), *norm = noise_new(dim), *shift = noise_new(dim), *bias = noise_new(inter),
          *got = malloc(inter * sizeof *got);
    struct near *h = malloc(dim * sizeof *h), *want = malloc(inter * sizeof *want);
    void *d_x = to_device(x, rows * dim * sizeof *x), *d_norm = to_device(norm, dim * sizeof *norm),
         *d_shift = to_device(shift, dim * sizeof *shift), *d_bias = to_device(bias, inter * sizeof *bias),
         *out = to_device(NULL, rows * (inter + 64) * sizeof(bf16));
    struct weight *w = pack_cuda(PACK_LINEAR, &m, 1, NULL);
    for (int turn = 0; turn < 2; turn++) { /* its bias is rounded once */
        size_t before = counted();
        OK(ops->vision_up(dev, &(struct vision_up_args){d_x, d_norm, d_shift, 1e-6f, w, d_bias, out, rows, dim, inter}, &e));
        check_count(before, 1, "mlp of tiles");
    }
    for (size_t r = 0; r < rows; r++) {
        near_layernorm(x + r * dim, norm, shift, 1e-6f, dim, h);
        for (size_t i = 0; i < dim; i++) h[i] = near_operand(h[i], COMPUTE_BF16);
        for (size_t o = 0; o < inter; o++)
            want[o] = library_gelu(near_sum(near_product(h, m.seen + o * dim, dim), rounded_bias(bias[o]), exactly(0)));
        read_operand(out, r, inter, got);
        near_check(got, want, inter, "cuda", "mlp of tiles", r);
    }
    ops->weight_free(dev, w);
    ops->free(dev, d_x), ops->free(dev, d_norm), ops->free(dev, d_shift), ops->free(dev, d_bias), ops->free(dev, out);
    free(x), free(norm), free(shift), free(bias), free(got), free(h), free(want);
    edges_release(keep);
}

static void test_mlp_of_tiles(void **unused)
{
    (void)unused;
    check_up(81, 144, 296);
    check_up(81, 144, 296); /* another weight, the same shape */
    check_up(144, 576, 72); /* k in parts */
}

static void test_patches(void **unused)
{
    (void)unused;
    enum { PX = 126, PATCH = 14, GRID = 9, ROWS = GRID * GRID, K = 3 * PATCH * PATCH, DIM = 72 };
    size_t keep = n_edges, before = counted();
    struct matrix m = matrix_new(DIM, K, DTYPE_BF16, COMPUTE_BF16);
    float *bias = noise_new(DIM), *position = noise_new(ROWS * DIM), *got = malloc(ROWS * DIM * sizeof *got);
    uint8_t *tile = malloc(3 * PX * PX);
    for (size_t i = 0; i < 3 * PX * PX; i++) tile[i] = (uint8_t)noise_bits();
    struct near *h = malloc(K * sizeof *h), want[DIM];
    void *d_bias = to_device(bias, DIM * sizeof *bias), *d_position = to_device(position, ROWS * DIM * sizeof *position),
         *x = to_device(NULL, ROWS * DIM * sizeof(float));
    struct weight *w = pack_cuda(PACK_LINEAR, &m, 1, NULL);
    struct patch_args a = {tile, 1, PX, PATCH, GRID, DIM, {0.5f, 0.25f, 0.2f}, {0.5f, 0.4f, 0.3f}, 1 / 255.0f, w, d_bias, d_position, x};
    OK(ops->patch_embed(dev, &a, &e));
    OK(ops->read_back(dev, got, x, ROWS * DIM * sizeof *got, &e));
    check_count(before, 1, "patches");
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < K; i++) {
            size_t c = i / (PATCH * PATCH), line = r / GRID * PATCH + i / PATCH % PATCH, column = r % GRID * PATCH + i % PATCH;
            double v = tile[(c * PX + line) * PX + column] * (double)a.rescale, shift = (double)a.shift[c], scale = (double)a.scale[c];
            h[i] = near_operand((struct near){(v - shift) / scale, gamma_of(3) * (v + shift) / scale}, COMPUTE_BF16);
        }
        for (size_t o = 0; o < DIM; o++)
            want[o] = near_sum(near_product(h, m.seen + o * K, K), exactly(bias[o]), exactly(position[r * DIM + o]));
        near_check(got + r * DIM, want, DIM, "cuda", "patches", r);
    }
    ops->weight_free(dev, w);
    ops->free(dev, d_bias), ops->free(dev, d_position), ops->free(dev, x);
    free(bias), free(position), free(got), free(tile), free(h);
    edges_release(keep);
}

static void test_connector(void **unused)
{
    (void)unused;
    enum { GRID = 18, SCALE = 2, SIDE = GRID / SCALE, DIM = 48, HIDDEN = 72, K = DIM * SCALE * SCALE, ROWS = SIDE * SIDE };
    size_t keep = n_edges, before = counted();
    struct matrix m = matrix_new(HIDDEN, K, DTYPE_BF16, COMPUTE_BF16);
    float *x = noise_new(GRID * GRID * DIM), *norm = noise_new(DIM), *shift = noise_new(DIM), *got = malloc(ROWS * HIDDEN * sizeof *got);
    struct near h[K], want[HIDDEN];
    void *d_x = to_device(x, GRID * GRID * DIM * sizeof *x), *d_norm = to_device(norm, DIM * sizeof *norm),
         *d_shift = to_device(shift, DIM * sizeof *shift), *out = to_device(NULL, ROWS * HIDDEN * sizeof(float));
    struct weight *w = pack_cuda(PACK_LINEAR, &m, 1, NULL);
    OK(ops->connect(dev, &(struct connect_args){d_x, d_norm, d_shift, 1e-6f, 1, GRID, SCALE, DIM, w, out, HIDDEN}, &e));
    OK(ops->read_back(dev, got, out, ROWS * HIDDEN * sizeof *got, &e));
    check_count(before, 1, "connector");
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < SCALE * SCALE; i++) {
            size_t line = r / SIDE * SCALE + i / SCALE, column = r % SIDE * SCALE + i % SCALE;
            near_layernorm(x + (line * GRID + column) * DIM, norm, shift, 1e-6f, DIM, h + i * DIM);
        }
        for (size_t i = 0; i < K; i++) h[i] = near_operand(h[i], COMPUTE_BF16);
        for (size_t o = 0; o < HIDDEN; o++) want[o] = near_product(h, m.seen + o * K, K);
        near_check(got + r * HIDDEN, want, HIDDEN, "cuda", "connector", r);
    }
    ops->weight_free(dev, w);
    ops->free(dev, d_x), ops->free(dev, d_norm), ops->free(dev, d_shift), ops->free(dev, out);
    free(x), free(norm), free(shift), free(got);
    edges_release(keep);
}

/* --- faults --- */

static bool says(const char *what)
{
    char text[256];
    ops->describe(dev, text, sizeof text);
    return strstr(text, what) != NULL;
}

/* What the library is told wrongly is wrong for its stand-in as well. */
static void test_planted_faults_are_seen(void **unused)
{
    (void)unused;
    static const char *const faults[] = {"transpose", "ld"};
    const struct shape s = {128, 128, 0, 65, false, true};
    for (size_t i = 0; products && i < 2; i++) {
        setenv("FAKE_CUBLASLT", faults[i], 1);
        const size_t misses = project_misses(&s);
        unsetenv("FAKE_CUBLASLT");
        if (misses < s.n * s.rows / 2) fail_msg("%s: only %zu numbers are off", faults[i], misses);
    }
}

static void test_a_product_that_fails_is_an_error(void **unused)
{
    (void)unused;
    if (!products) return;
    struct err told = {0};
    size_t keep = n_edges;
    struct matrix m = matrix_new(64, 64, DTYPE_BF16, COMPUTE_BF16);
    struct weight *w = pack_cuda(PACK_LINEAR, &m, 1, NULL);
    void *in = to_device(NULL, 70 * 64 * sizeof(bf16)), *x = to_device(NULL, 70 * 64 * sizeof(float));
    setenv("FAKE_CUBLASLT", "fail", 1);
    const int rc = ops->project(dev, &(struct project_args){x, in, w, NULL, 70, 64, 64, true, NULL}, &told);
    unsetenv("FAKE_CUBLASLT");
    assert_int_equal(rc, -ERR_INTERNAL);
    assert_true(strcmp(told.msg, "cuda: projection: cuBLASLt: the function failed to launch on the GPU") == 0);
    OK(ops->project(dev, &(struct project_args){x, in, w, NULL, 70, 64, 64, true, NULL}, &e)); /* the next one is not told of it */
    OK(ops->sync(dev, &e));
    ops->weight_free(dev, w);
    ops->free(dev, in), ops->free(dev, x);
    edges_release(keep);
}

static void open_as(const char *order, bool as_fast)
{
    ops->close(dev);
    if (order) setenv("FAKE_CUBLASLT", order, 1);
    fast = as_fast;
    open_device(&limits);
    fast = true;
    unsetenv("FAKE_CUBLASLT");
}

static void test_what_the_library_refuses_own_kernels_do(void **unused)
{
    (void)unused;
    if (!products) return;
    open_as(NULL, true); /* no shape is known */
    setenv("FAKE_CUBLASLT", "refuse", 1);
    check_project((struct shape){148, 576, 0, 300, true, true}, 0);
    check_gate_up(40, 192, 3, 300, 0);
    unsetenv("FAKE_CUBLASLT");
    check_project((struct shape){148, 576, 0, 300, true, true}, 0); /* it is not asked again */
}

static void test_a_library_that_cannot_be_used_is_none(void **unused)
{
    (void)unused;
    static const char *const orders[][2] = {{"old", "own products alone: libcublasLt.so.13 is version 120900, 130000 is the least"},
                                            {"handle", "own products alone: cuBLASLt: the library was not initialized"}};
    for (size_t i = 0; products && i < 2; i++) {
        open_as(orders[i][0], true);
        if (!says(orders[i][1])) fail_msg("not said: %s", orders[i][1]);
        check_project((struct shape){148, 192, 0, 130, true, true}, 0);
    }
    open_as(NULL, true);
}

static void test_exact_knows_no_library(void **unused)
{
    (void)unused;
    open_as(NULL, false);
    assert_true(!says("fast") && !says("cuBLASLt"));
    check_project((struct shape){148, 192, 0, 130, true, true}, 0);
    check_gate_up(40, 192, 3, 70, 0);
    open_as(NULL, true);
    assert_true(says("; fast, cuBLASLt "));
}

static void test_without_a_library(void **unused)
{
    (void)unused;
    assert_true(says("; fast, own products alone: "));
    check_project((struct shape){148, 192, 3, 130, true, false}, 0);
    check_gate_up(50, 576, 9, 70, 0);
}

static int setup(void **unused)
{
    (void)unused;
    fast = true;
    open_device(&limits);
    void *library = dlopen(LT_LIBRARY, RTLD_NOW | RTLD_NOLOAD), *symbol = library ? dlsym(library, "sim_cublaslt_products") : NULL;
    memcpy(&products, &symbol, sizeof symbol);
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    close_device();
    return 0;
}

/* As the device describes itself, or why there is none. */
static bool library_is_there(char *text, size_t n)
{
    struct err told = {0};
    ops = spillway_cuda_ops(OPS_VERSION);
    if (ops->open(&dev, &(struct device_options){.compute = COMPUTE_BF16, .fast = true}, &told)) {
        snprintf(text, n, "%.200s", told.msg);
        return false;
    }
    ops->describe(dev, text, n);
    close_device();
    return strstr(text, "; fast, cuBLASLt ") != NULL;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_projections),
                                       cmocka_unit_test(test_rows_that_decode_are_not_the_librarys),
                                       cmocka_unit_test(test_few_rows_and_odd_rows_are_not_the_librarys),
                                       cmocka_unit_test(test_gate_up),
                                       cmocka_unit_test(test_mlp_of_tiles),
                                       cmocka_unit_test(test_patches),
                                       cmocka_unit_test(test_connector),
                                       cmocka_unit_test(test_planted_faults_are_seen),
                                       cmocka_unit_test(test_a_product_that_fails_is_an_error),
                                       cmocka_unit_test(test_what_the_library_refuses_own_kernels_do),
                                       cmocka_unit_test(test_a_library_that_cannot_be_used_is_none),
                                       cmocka_unit_test(test_exact_knows_no_library),
                                       cmocka_unit_test(test_many_shapes)};
    const struct CMUnitTest without[] = {cmocka_unit_test(test_without_a_library)};
    char text[256];
    if (argc > 1 && strcmp(argv[1], "without") == 0) return cmocka_run_group_tests(without, setup, teardown);
    if (library_is_there(text, sizeof text)) return cmocka_run_group_tests(tests, setup, teardown);
    printf("not run: %s\n", text);
    return getenv("SPILLWAY_TEST_CUBLASLT") != NULL; /* where it has to be there, that is a failure */
}
