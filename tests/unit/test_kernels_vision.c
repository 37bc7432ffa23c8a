/* The CPU backend's picture operations (patches, encoder layer, connector) against formulas in double
 * (kernel_oracle.h): every instruction set this machine has, head sizes that are no multiple of 16, more positions than
 * a split of 256, tiles alone and together, every thread count. */
#include "tests/unit/kernel_oracle.h"

static const struct device_limits vision_limits = {
    .vision_rows = 640, .vision_dim = 160, .vision_inter = 200, .vision_head_dim = 80, .connector_in = 700, .patch_in = 200};
static const int thread_counts[] = {1, 2, 3, 5};
enum { N_THREAD_COUNTS = sizeof thread_counts / sizeof *thread_counts };

static void rounded(struct near *x, size_t n, enum compute compute)
{
    for (size_t i = 0; i < n; i++) x[i] = near_operand(x[i], compute);
}

static void biased_product(const struct near *x, const struct matrix *m, const float *bias, struct near *out)
{
    for (size_t j = 0; j < m->n; j++)
        out[j] = near_sum(near_product(x, m->seen + j * m->k, m->k), (struct near){(double)bias[j], 0}, (struct near){0, 0});
}

/* --- patches --- */
enum { PATCH = 5, GRID = 3, TILE_PX = 17, PATCH_DIM = 37, PATCH_K = 3 * PATCH * PATCH, TILES = 3, PATCHES = GRID * GRID };
struct patch_scene {
    uint8_t *tiles;
    float *bias, *position;
    struct matrix m;
};

static const float pixel_scale[3] = {0.5f, 0.25f, 0.2f}, pixel_shift[3] = {0.5f, 0.4f, 0.3f}, pixel_rescale = 1 / 255.0f;

static void patch_run(const struct patch_scene *p, struct device *d, const struct weight *w, size_t first, size_t n, float *x)
{
    struct patch_args a = {.tiles = p->tiles + first * 3 * TILE_PX * TILE_PX,
                           .n_tiles = n,
                           .tile_px = TILE_PX,
                           .patch = PATCH,
                           .grid = GRID,
                           .dim = PATCH_DIM,
                           .rescale = pixel_rescale,
                           .w = w,
                           .bias = p->bias,
                           .position = p->position,
                           .x = x};
    memcpy(a.scale, pixel_scale, sizeof pixel_scale);
    memcpy(a.shift, pixel_shift, sizeof pixel_shift);
    struct err e = {0};
    assert_int_equal(ops_cpu.patch_embed(d, &a, &e), 0);
}

/* Patch row of a tile; a pixel is (p * rescale - shift) / scale with a rounding each. */
static void near_patch(const struct patch_scene *p, size_t tile, size_t patch, enum compute compute, struct near *out)
{
    for (size_t i = 0; i < PATCH_K; i++) {
        size_t c = i / (PATCH * PATCH), y = patch / GRID * PATCH + i / PATCH % PATCH, x = patch % GRID * PATCH + i % PATCH;
        double v = (double)p->tiles[((tile * 3 + c) * TILE_PX + y) * TILE_PX + x] * (double)pixel_rescale, shift = (double)pixel_shift[c],
               scale = (double)pixel_scale[c];
        out[i] = near_operand((struct near){(v - shift) / scale, gamma_of(3) * (v + shift) / scale}, compute);
    }
}

static void patch_check(const char *isa, enum compute compute, enum dtype dtype)
{
    struct patch_scene p = {edge(TILES * 3 * TILE_PX * TILE_PX), noise_edge(PATCH_DIM), noise_edge(PATCHES * PATCH_DIM),
                            matrix_new(PATCH_DIM, PATCH_K, dtype, compute)};
    for (size_t i = 0; i < TILES * 3 * TILE_PX * TILE_PX; i++) p.tiles[i] = (uint8_t)noise_bits();
    size_t n = (size_t)TILES * PATCHES * PATCH_DIM;
    float *out = edge(n * 4), *again = edge(n * 4), *one = edge((size_t)PATCHES * PATCH_DIM * 4);
    for (size_t i = 0; i < N_THREAD_COUNTS; i++) {
        struct device *d = device_new(isa, compute, thread_counts[i], &vision_limits);
        struct weight *w = pack(d, PACK_LINEAR, &p.m, 1);
        patch_run(&p, d, w, 0, 0, edge(0));
        patch_run(&p, d, w, 0, TILES, i ? again : out);
        if (i) assert_memory_equal(out, again, n * 4);
        for (size_t t = 0; t < TILES; t++) { /* a tile alone */
            patch_run(&p, d, w, t, 1, one);
            assert_memory_equal(one, out + t * PATCHES * PATCH_DIM, (size_t)PATCHES * PATCH_DIM * 4);
        }
        ops_cpu.weight_free(d, w);
        ops_cpu.close(d);
    }
    struct near x[PATCH_K], want[PATCH_DIM];
    for (size_t r = 0; r < TILES * PATCHES; r++) {
        near_patch(&p, r / PATCHES, r % PATCHES, compute, x);
        for (size_t j = 0; j < PATCH_DIM; j++)
            want[j] = near_sum(near_product(x, p.m.seen + j * PATCH_K, PATCH_K), (struct near){(double)p.bias[j], 0},
                               (struct near){(double)p.position[r % PATCHES * PATCH_DIM + j], 0});
        near_check(out + r * PATCH_DIM, want, PATCH_DIM, isa, "patch_embed", r);
    }
    edges_release(0);
}

static void test_patch_embed(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++)
        for (int t = 0; t < 6 && cpu_kernels_choose(kernel_sets[s]); t++)
            patch_check(kernel_sets[s], t < 3 ? COMPUTE_F32 : COMPUTE_BF16, (enum dtype)(t % 3));
}

/* --- layer norm, QKV, attention among all positions of a tile --- */
struct encoder_scene {
    size_t tiles, positions, heads, head_dim;
    enum compute compute;
    float *x, *norm, *norm_bias, *bias;
    struct matrix m;
};

static void encoder_run(const struct encoder_scene *sc, struct device *d, const struct weight *w, size_t first, size_t n, float *out)
{
    struct err e = {0};
    size_t dim = sc->heads * sc->head_dim;
    struct vision_qkv_args q = {.x = sc->x + first * sc->positions * dim,
                                .norm_weight = sc->norm,
                                .norm_bias = sc->norm_bias,
                                .eps = 1e-6f,
                                .w = w,
                                .bias = sc->bias,
                                .rows = n * sc->positions,
                                .dim = dim};
    assert_int_equal(ops_cpu.vision_qkv(d, &q, &e), 0);
    assert_int_equal(
        ops_cpu.vision_attention(d,
                                 &(struct vision_attention_args){
                                     .out = out, .n_tiles = n, .positions = sc->positions, .heads = sc->heads, .head_dim = sc->head_dim},
                                 &e),
        0);
}

/* One tile; seen: positions a query attends to (all, unless a fault is planted). */
static void encoder_oracle(const struct encoder_scene *sc, size_t tile, size_t seen, struct near *want)
{
    size_t hd = sc->head_dim, dim = sc->heads * hd;
    struct near *qkv = malloc((sc->positions * 3 * dim + dim) * sizeof *qkv), *h = qkv + sc->positions * 3 * dim;
    assert_non_null(qkv);
    for (size_t p = 0; p < sc->positions; p++) {
        near_layernorm(sc->x + (tile * sc->positions + p) * dim, sc->norm, sc->norm_bias, 1e-6f, dim, h);
        rounded(h, dim, sc->compute);
        biased_product(h, &sc->m, sc->bias, qkv + p * 3 * dim);
    }
    for (size_t p = 0; p < sc->positions; p++)
        for (size_t i = 0; i < sc->heads; i++) {
            const struct near *q = qkv + p * 3 * dim + i * hd, *k = qkv + dim + i * hd, *v = k + dim;
            near_attention(q, hd, seen, k, v, 3 * dim, want + p * dim + i * hd);
        }
    free(qkv);
}

static void encoder_check(struct encoder_scene sc, enum dtype dtype)
{
    size_t dim = sc.heads * sc.head_dim, per_tile = sc.positions * dim, n = sc.tiles * per_tile;
    sc.x = noise_edge(n), sc.norm = noise_edge(dim), sc.norm_bias = noise_edge(dim), sc.bias = noise_edge(3 * dim);
    for (size_t i = 0; i < dim; i++) sc.norm[i] *= 0.25f, sc.norm_bias[i] *= 0.25f; /* scores of about 1, so that all positions count */
    sc.m = matrix_new(3 * dim, dim, dtype, sc.compute);
    float *out = edge(n * 4), *again = edge(n * 4), *one = edge(per_tile * 4);
    struct near *want = malloc(per_tile * sizeof *want);
    assert_non_null(want);
    for (size_t s = 0; s < N_SETS; s++) {
        if (!cpu_kernels_choose(kernel_sets[s])) continue;
        for (size_t i = 0; i < N_THREAD_COUNTS; i++) {
            struct device *d = device_new(kernel_sets[s], sc.compute, thread_counts[i], &vision_limits);
            struct weight *w = pack(d, PACK_LINEAR, &sc.m, 1);
            encoder_run(&sc, d, w, 0, sc.tiles, i ? again : out);
            if (i) assert_memory_equal(out, again, n * 4);
            encoder_run(&sc, d, w, sc.tiles - 1, 1, one); /* a tile alone */
            assert_memory_equal(one, out + n - per_tile, per_tile * 4);
            ops_cpu.weight_free(d, w);
            ops_cpu.close(d);
        }
        for (size_t t = 0; t < sc.tiles; t++) {
            encoder_oracle(&sc, t, sc.positions, want);
            for (size_t p = 0; p < sc.positions; p++)
                near_check(out + t * per_tile + p * dim, want + p * dim, dim, kernel_sets[s], "vision attention", t * sc.positions + p);
        }
        if (sc.positions == 1) continue;
        encoder_oracle(&sc, 0, sc.positions - 1, want); /* the last position lost: every row must show it */
        for (size_t p = 0; p < sc.positions; p++) assert_true(near_misses(out + p * dim, want + p * dim, dim) > 0);
    }
    free(want);
    edges_release(0);
}

static void test_vision_attention(void **unused)
{
    (void)unused;
    encoder_check((struct encoder_scene){.tiles = 2, .positions = 9, .heads = 3, .head_dim = 24, .compute = COMPUTE_F32}, DTYPE_F32);
    encoder_check((struct encoder_scene){.tiles = 2, .positions = 16, .heads = 2, .head_dim = 32, .compute = COMPUTE_BF16}, DTYPE_BF16);
    encoder_check((struct encoder_scene){.tiles = 1, .positions = 1, .heads = 1, .head_dim = 7, .compute = COMPUTE_F32}, DTYPE_F16);
    encoder_check((struct encoder_scene){.tiles = 3, .positions = 25, .heads = 2, .head_dim = 72, .compute = COMPUTE_BF16}, DTYPE_F32);
    encoder_check((struct encoder_scene){.tiles = 1, .positions = 289, .heads = 1, .head_dim = 12, .compute = COMPUTE_F32}, DTYPE_BF16);
}

/* --- layer norm, up, GELU --- */
enum { UP_DIM = 43, UP_INTER = 75, UP_ROWS = 13 };

static void up_check(const char *isa, enum compute compute, enum dtype dtype)
{
    struct matrix m = matrix_new(UP_INTER, UP_DIM, dtype, compute);
    float *x = noise_edge(UP_ROWS * UP_DIM), *norm = noise_edge(UP_DIM), *norm_bias = noise_edge(UP_DIM), *bias = noise_edge(UP_INTER);
    float *out = edge(UP_ROWS * UP_INTER * 4), *again = edge(UP_ROWS * UP_INTER * 4), *one = edge(UP_INTER * 4);
    struct vision_up_args a = {
        .x = x, .norm_weight = norm, .norm_bias = norm_bias, .eps = 1e-6f, .bias = bias, .dim = UP_DIM, .inter = UP_INTER};
    struct err e = {0};
    for (size_t i = 0; i < N_THREAD_COUNTS; i++) {
        struct device *d = device_new(isa, compute, thread_counts[i], &vision_limits);
        struct weight *w = pack(d, PACK_LINEAR, &m, 1);
        a.w = w, a.x = x, a.rows = UP_ROWS, a.out = i ? again : out;
        assert_int_equal(ops_cpu.vision_up(d, &a, &e), 0);
        if (i) assert_memory_equal(out, again, UP_ROWS * UP_INTER * 4);
        for (size_t r = 0; r < UP_ROWS; r++) {
            a.x = x + r * UP_DIM, a.rows = 1, a.out = one;
            assert_int_equal(ops_cpu.vision_up(d, &a, &e), 0);
            assert_memory_equal(one, out + r * UP_INTER, UP_INTER * 4);
        }
        a.rows = 0, a.out = edge(0);
        assert_int_equal(ops_cpu.vision_up(d, &a, &e), 0);
        ops_cpu.weight_free(d, w);
        ops_cpu.close(d);
    }
    struct near h[UP_DIM], want[UP_INTER];
    for (size_t r = 0; r < UP_ROWS; r++) {
        near_layernorm(x + r * UP_DIM, norm, norm_bias, 1e-6f, UP_DIM, h);
        rounded(h, UP_DIM, compute);
        biased_product(h, &m, bias, want);
        for (size_t j = 0; j < UP_INTER; j++) want[j] = near_gelu(want[j]);
        near_check(out + r * UP_INTER, want, UP_INTER, isa, "vision_up", r);
    }
    edges_release(0);
}

static void test_vision_up(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++)
        for (int t = 0; t < 6 && cpu_kernels_choose(kernel_sets[s]); t++)
            up_check(kernel_sets[s], t < 3 ? COMPUTE_F32 : COMPUTE_BF16, (enum dtype)(t % 3));
}

/* --- connector --- */
struct connect_shape {
    size_t tiles, grid, scale, dim, hidden;
};

static void connect_run(const struct connect_shape *p, struct device *d, struct connect_args *a, size_t n, const float *x, float *out)
{
    struct err e = {0};
    a->n_tiles = n, a->x = x, a->out = out;
    a->grid = p->grid, a->scale = p->scale, a->dim = p->dim, a->hidden = p->hidden, a->eps = 1e-6f;
    assert_int_equal(ops_cpu.connect(d, a, &e), 0);
}

/* Output row r: the squares of a tile in reading order; inside one, first the columns of its first line (swapped: of
 * its first column). */
static void near_connect(const struct connect_shape *p, const struct connect_args *a, const float *x, const struct matrix *m, size_t r,
                         enum compute compute, bool swapped, struct near *want)
{
    size_t side = p->grid / p->scale, tile = r / (side * side), square = r % (side * side);
    struct near *h = malloc(m->k * sizeof *h);
    assert_non_null(h);
    for (size_t i = 0; i < p->scale * p->scale; i++) {
        size_t dy = swapped ? i % p->scale : i / p->scale, dx = swapped ? i / p->scale : i % p->scale;
        size_t line = square / side * p->scale + dy, column = square % side * p->scale + dx;
        near_layernorm(x + ((tile * p->grid + line) * p->grid + column) * p->dim, a->norm_weight, a->norm_bias, 1e-6f, p->dim,
                       h + i * p->dim);
    }
    rounded(h, m->k, compute);
    for (size_t j = 0; j < m->n; j++) want[j] = near_product(h, m->seen + j * m->k, m->k);
    free(h);
}

static void connect_check(const char *isa, const struct connect_shape *p, enum compute compute, enum dtype dtype)
{
    size_t side = p->grid / p->scale, rows = p->tiles * side * side, in = p->grid * p->grid * p->dim, n = rows * p->hidden;
    struct matrix m = matrix_new(p->hidden, p->dim * p->scale * p->scale, dtype, compute);
    float *x = noise_edge(p->tiles * in), *out = edge(n * 4), *again = edge(n * 4), *one = edge(side * side * p->hidden * 4);
    struct connect_args a = {.norm_weight = noise_edge(p->dim), .norm_bias = noise_edge(p->dim)};
    for (size_t i = 0; i < N_THREAD_COUNTS; i++) {
        struct device *d = device_new(isa, compute, thread_counts[i], &vision_limits);
        struct weight *w = pack(d, PACK_LINEAR, &m, 1);
        a.w = w;
        connect_run(p, d, &a, 0, x, edge(0));
        connect_run(p, d, &a, p->tiles, x, i ? again : out);
        if (i) assert_memory_equal(out, again, n * 4);
        for (size_t t = 0; t < p->tiles; t++) {
            connect_run(p, d, &a, 1, x + t * in, one);
            assert_memory_equal(one, out + t * side * side * p->hidden, side * side * p->hidden * 4);
        }
        ops_cpu.weight_free(d, w);
        ops_cpu.close(d);
    }
    struct near want[64];
    for (size_t r = 0; r < rows; r++) {
        near_connect(p, &a, x, &m, r, compute, false, want);
        near_check(out + r * p->hidden, want, p->hidden, isa, "connect", r);
        near_connect(p, &a, x, &m, r, compute, true, want); /* lines and columns swapped must be seen */
        assert_true(p->scale == 1 || near_misses(out + r * p->hidden, want, p->hidden) > 0);
    }
    edges_release(0);
}

static void test_connect(void **unused)
{
    (void)unused;
    static const struct connect_shape shapes[] = {{2, 6, 3, 11, 35}, {3, 4, 2, 16, 64}, {1, 4, 4, 33, 9}, {1, 3, 1, 5, 33}};
    for (size_t s = 0; s < N_SETS; s++)
        for (int t = 0; t < 6 && cpu_kernels_choose(kernel_sets[s]); t++)
            for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
                connect_check(kernel_sets[s], &shapes[i], t < 3 ? COMPUTE_F32 : COMPUTE_BF16, (enum dtype)(t % 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patch_embed),
        cmocka_unit_test(test_vision_attention),
        cmocka_unit_test(test_vision_up),
        cmocka_unit_test(test_connect),
    };
    return cmocka_run_group_tests(tests, tell_missing_sets, NULL);
}
