/* The table of kernels that each instruction set fills in, called as it is, against formulas in double (kernel_oracle.h): all arrays at the end
 * of a page that is followed by none. And the conversions between the formats of numbers. Operations: test_kernels.c. */
#include "tests/unit/kernel_oracle.h"

/* --- the kernels of a set themselves, all arrays at the end of a page that is followed by none --- */
static void norms_check(const struct cpu_kernels *k, size_t n, float size)
{
    float *x = noise_edge(n), *w = noise_edge(n), *b = noise_edge(n), *out = edge(n * 4);
    struct near *want = malloc(n * sizeof *want);
    for (size_t i = 0; i < n; i++) x[i] = x[i] * size + size / 4;
    near_rmsnorm(x, w, 1e-5f, n, want);
    k->rmsnorm(x, w, 1e-5f, n, out);
    near_check(out, want, n, k->isa, "rmsnorm", n);
    near_layernorm(x, w, b, 1e-6f, n, want);
    k->layernorm(x, w, b, 1e-6f, n, out);
    near_check(out, want, n, k->isa, "layernorm", n);
    near_rmsnorm(x, w, 1e-6f, n, want); /* eps 1e-5 for 1e-6 must be seen where it matters */
    k->rmsnorm(x, w, 1e-5f, n, out);
    assert_true(size > 0.01f || near_misses(out, want, n) == n);
    free(want);
    edges_release(0);
}

static void activations_check(const struct cpu_kernels *k, size_t n)
{
    float *x = noise_edge(n), *u = noise_edge(n), *out = edge(n * 4);
    struct near *want = malloc(n * sizeof *want);
    for (size_t i = 0; i < n; i++) {
        static const float sizes[] = {6, 0.01f, 1, 6, 20, 90, 300}; /* both saturated ends too */
        x[i] *= sizes[i % 7];
        want[i] = near_silu_mul((struct near){(double)x[i], 0}, (struct near){(double)u[i], 0});
    }
    k->silu_mul(x, u, n, out);
    near_check(out, want, n, k->isa, "silu_mul", n);
    for (size_t i = 0; i < n; i++) want[i] = near_gelu((struct near){(double)x[i], 0});
    k->gelu(x, n);
    near_check(x, want, n, k->isa, "gelu", n);
    free(want);
    edges_release(0);
}

static void test_norms_and_activations(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++) {
        const struct cpu_kernels *k = cpu_kernels_choose(kernel_sets[s]);
        if (!k) continue;
        for (size_t n = 1; n <= 70; n += n < 36 ? 1 : 3)
            for (int i = 0; i < 3; i++) norms_check(k, n, i == 0 ? 3.0f : i == 1 ? 0.01f : 400.0f);
        norms_check(k, 577, 3);
        for (size_t n = 1; n <= 70; n++) activations_check(k, n);
        activations_check(k, 4003);
    }
}

static void test_activations_keep_what_is_no_number(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++) {
        const struct cpu_kernels *k = cpu_kernels_choose(kernel_sets[s]);
        if (!k) continue;
        for (size_t n = 1; n <= 33; n += 8) {
            float x[33], u[33], out[33];
            for (size_t i = 0; i < n; i++) x[i] = u[i] = i + 1 == n ? NAN : 1;
            k->silu_mul(x, u, n, out);
            assert_true(isnan(out[n - 1]) && (n == 1 || isfinite(out[0])));
            k->rmsnorm(x, u, 1e-5f, n, out);
            assert_true(isnan(out[0]));
            k->layernorm(x, u, u, 1e-5f, n, out);
            assert_true(isnan(out[0]));
            k->gelu(x, n);
            assert_true(isnan(x[n - 1]) && (n == 1 || isfinite(x[0])));
        }
    }
}

/* One call of a linear kernel; panels ends at the guard page as packed weights end at their region's. */
static void linear_check(const struct cpu_kernels *k, size_t rows, size_t depth, size_t panels, int kind)
{
    size_t width = panels * PANEL, kp = kind == 0 ? depth : (depth + 1) & ~(size_t)1, cells = panels * kp * PANEL;
    float *x = edge(rows * kp * 4), *out = edge(rows * width * 4), *ref = edge(rows * width * 4), *w = edge(width * kp * 4);
    bf16 *xh = edge(rows * kp * 2), *wh = edge(cells * 2);
    float *wf = edge(cells * 4);
    struct near *operand = malloc(kp * sizeof *operand), *want = malloc(width * sizeof *want);
    for (size_t i = 0; i < rows * kp; i++) x[i] = bf16_to_f32(xh[i] = bf16_from_f32(i % kp < depth ? noise() : 0));
    for (size_t j = 0; j < width; j++)
        for (size_t i = 0; i < depth; i++) { /* the layouts of cpu.h, written down once more */
            bf16 h = bf16_from_f32(noise());
            w[j * kp + i] = wf[(j / PANEL * kp + i) * PANEL + j % PANEL] = bf16_to_f32(h);
            if (kind > 0) wh[(j / PANEL * kp + i / 2 * 2) * PANEL + j % PANEL * 2 + i % 2] = h;
        }
    const struct cpu_kernels *r = &cpu_kernels_ref;
    if (kind == 0) k->linear_f32(x, kp, rows, wf, kp, panels, out, width), r->linear_f32(x, kp, rows, wf, kp, panels, ref, width);
    if (kind == 1) k->linear_f32_bf16(x, kp, rows, wh, kp, panels, out, width);
    if (kind == 2) k->linear_bf16(xh, kp, rows, wh, kp, panels, out, width);
    if (kind > 0) r->linear_f32_bf16(x, kp, rows, wh, kp, panels, ref, width);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < kp; j++) operand[j] = (struct near){(double)x[i * kp + j], 0};
        for (size_t j = 0; j < width; j++) want[j] = near_product(operand, w + j * kp, kp);
        near_check(out + i * width, want, width, k->isa, "linear", i);
        near_check(ref + i * width, want, width, "ref", "linear", i);
        for (size_t j = 0; j < width && depth > 1; j++)
            want[j] = near_product(operand, w + j * kp, depth - 1); /* one product lost must be seen */
        assert_true(depth == 1 || near_misses(out + i * width, want, width) > width / 2);
    }
    free(operand), free(want);
    edges_release(0);
}

static void test_linear_kernels(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++) {
        const struct cpu_kernels *k = cpu_kernels_choose(kernel_sets[s]);
        for (int kind = 0; kind < 3 && k; kind++) {
            if (kind == 2 && !k->linear_bf16) continue; /* the set has none: cpu.h */
            for (size_t rows = 1; rows <= k->tile_rows; rows++)
                for (size_t depth = 1; depth <= 34; depth += depth < 4 ? 1 : 5) linear_check(k, rows, depth, 1, kind);
            for (size_t depth = 1; depth <= 129; depth += 16) linear_check(k, 1, depth, k->row_panels, kind);
        }
    }
}

/* One KV block's keys or values from plain numbers (16, dim); what int8 or e4m3 makes of them comes back in `seen`. */
static void kv_block_fill(unsigned char *block, enum dtype dtype, size_t dim, bool value, const float *plain, struct near *seen)
{
    for (size_t token = 0; token < KV_BLOCK; token++) {
        const float *from = plain + token * dim;
        float most = 0;
        for (size_t c = 0; c < dim; c++) most = fmaxf(most, fabsf(from[c]));
        const bool scaled = dtype == DTYPE_I8 || dtype == DTYPE_E4M3;
        float scale = isnan(from[0]) ? NAN : most / (dtype == DTYPE_I8 ? 127 : E4M3_MOST);
        if (scaled) memcpy(block + KV_BLOCK * dim + token * 4, &scale, 4);
        for (size_t c = 0; c < dim; c++) {
            size_t at = value ? token * dim + c : c * KV_BLOCK + token;
            bf16 h = bf16_from_f32(from[c]);
            int8_t q = isnan(from[c]) ? 1 : dtype == DTYPE_I8 ? (int8_t)lrintf(from[c] / scale) : (int8_t)e4m3_from_f32(from[c] / scale);
            double v = dtype == DTYPE_F32    ? (double)from[c]
                       : dtype == DTYPE_BF16 ? (double)bf16_to_f32(h)
                       : dtype == DTYPE_I8   ? q * (double)scale
                                             : (double)e4m3_to_f32((uint8_t)q) * (double)scale;
            if (dtype == DTYPE_F32) memcpy(block + at * 4, &from[c], 4);
            if (dtype == DTYPE_BF16) memcpy(block + at * 2, &h, 2);
            if (scaled) memcpy(block + at, &q, 1);
            seen[token * dim + c] = (struct near){v, scaled ? U * fabs(v) : 0}; /* the scale multiplies later */
        }
    }
}

/* The same tile by splits in two calls and joined. */
static void attention_parts_check(const struct cpu_kernels *k, const struct attention_tile *whole, size_t n_splits)
{
    struct attention_tile t = *whole;
    size_t floats = attention_part_floats(t.head_dim);
    float *out = edge(t.head_dim * sizeof *out);
    t.parts = edge(n_splits * t.rows * floats * sizeof *t.parts);
    for (size_t cut = 0; cut <= 1; cut++) {
        t.first_split = cut, t.end_split = cut ? n_splits : 1;
        k->attention(&t);
    }
    for (size_t r = 0; r < t.rows; r++) {
        k->attention_join(t.parts + r * floats, t.rows * floats, n_splits, t.head_dim, out);
        if (memcmp(out, whole->out[r], t.head_dim * sizeof *out)) fail_msg("%s: row %zu joined from parts is another", k->isa, r);
    }
}

/* One tile of attention: keys and values in blocks of their own, the last of which is filled with NaN from the limit
 * on; no block beyond it. */
static void attention_tile_check(const struct cpu_kernels *k, size_t rows, size_t dim, size_t limit, enum dtype dtype)
{
    enum { MOST = 20 };
    const void *k_block[MOST] = {0}, *v_block[MOST] = {0};
    size_t blocks = (limit + KV_BLOCK - 1) / KV_BLOCK, cells = blocks * KV_BLOCK * dim;
    const bool scaled = dtype == DTYPE_I8 || dtype == DTYPE_E4M3;
    size_t block_bytes = scaled ? KV_BLOCK * dim + KV_BLOCK * 4 : KV_BLOCK * dim * (dtype == DTYPE_BF16 ? 2 : 4);
    struct near *keys = malloc(cells * sizeof *keys), *values = malloc(cells * sizeof *values), q[MAX_HEAD_DIM], want[MAX_HEAD_DIM];
    float *plain = malloc(KV_BLOCK * dim * sizeof *plain), *out = edge(rows * dim * sizeof *out);
    const float *query = noise_edge(rows * dim);
    struct attention_tile t = {.rows = rows,
                               .head_dim = dim,
                               .dtype = dtype,
                               .k_block = k_block,
                               .v_block = v_block,
                               .scratch = edge(ATTENTION_FLOATS * sizeof(float))};
    assert_true(blocks <= MOST && keys && values && plain);
    for (size_t b = 0; b < blocks; b++)
        for (int value = 0; value < 2; value++) {
            unsigned char *block = edge(block_bytes);
            for (size_t i = 0; i < KV_BLOCK * dim; i++) plain[i] = b * KV_BLOCK + i / dim < limit ? noise() : NAN;
            kv_block_fill(block, dtype, dim, value, plain, (value ? values : keys) + b * KV_BLOCK * dim);
            (value ? v_block : k_block)[b] = block;
        }
    for (size_t r = 0; r < rows; r++) { /* rows of a chunk: each sees one position more; the last sees all */
        t.q[r] = query + r * dim;
        t.out[r] = out + r * dim;
        t.limit[r] = limit > rows - 1 - r ? limit - (rows - 1 - r) : 1;
    }
    k->attention(&t);
    double root = sqrt((double)dim);
    for (size_t r = 0; r < rows; r++) { /* the tile's q is scaled already: near_attention's scale is taken back */
        for (size_t i = 0; i < dim; i++) q[i] = (struct near){(double)t.q[r][i] * root, 0};
        near_attention(q, dim, t.limit[r], keys, values, dim, want);
        near_check(t.out[r], want, dim, k->isa, "attention tile", r);
    }
    for (size_t r = 0; r < rows; r++) t.limit[r] = limit;
    k->attention(&t);
    if (limit > KV_SPLIT) attention_parts_check(k, &t, (limit + KV_SPLIT - 1) / KV_SPLIT);
    free(keys), free(values), free(plain);
    edges_release(0);
}

static void test_attention_kernel(void **unused)
{
    (void)unused;
    static const size_t dims[] = {16, 32, 48, 64, 80, 112, 128, 256}, limits[] = {1, 2, 15, 16, 17, 31, 255, 256, 257, 300},
                        rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 24, 25, 47, ATTENTION_ROWS};
    for (size_t s = 0; s < N_SETS; s++) {
        const struct cpu_kernels *k = cpu_kernels_choose(kernel_sets[s]);
        if (!k) continue;
        for (size_t n = 0; n < sizeof rows / sizeof *rows; n++)
            for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
                for (size_t j = n % 2; j < sizeof limits / sizeof *limits; j += 2)
                    attention_tile_check(k, rows[n], dims[i], limits[j], kv_dtypes[(n + i + j / 2) % N_KV_DTYPES]);
    }
}

/* Blocks of inputs one after another, of any number of rows: the bytes of the kernel that takes a row at a time. */
static void matmul_check(const struct cpu_kernels *k, size_t rows, size_t depth, bool half)
{
    size_t kp = (depth + 1) & ~(size_t)1, step = depth > 6 ? depth / 3 & ~(size_t)1 : kp, ld = PANEL + 3;
    float *x = noise_edge(rows * kp), *w = noise_edge(kp * PANEL), *out = edge(rows * ld * 4), *one = edge(PANEL * 4);
    bf16 *wh = edge(kp * PANEL * 2);
    for (size_t i = 0; i < kp * PANEL; i++) wh[i] = bf16_from_f32(noise());
    for (size_t from = 0; from < kp; from += step) {
        struct matmul_block m = {.x = x + from,
                                 .ldx = kp,
                                 .rows = rows,
                                 .w = half ? (const void *)(wh + from * PANEL) : (const void *)(w + from * PANEL),
                                 .w_is_bf16 = half,
                                 .k = kp - from < step ? kp - from : step,
                                 .more = from > 0,
                                 .acc = out,
                                 .ld = ld};
        k->matmul(&m);
    }
    for (size_t r = 0; r < rows; r++) {
        if (half)
            k->linear_f32_bf16(x + r * kp, kp, 1, wh, kp, 1, one, PANEL);
        else
            k->linear_f32(x + r * kp, kp, 1, w, kp, 1, one, PANEL);
        if (memcmp(one, out + r * ld, PANEL * 4)) fail_msg("%s: row %zu of %zu, depth %zu, bf16 %d, is another", k->isa, r, rows, depth, half);
        for (size_t c = PANEL; c < ld; c++) assert_true(out[r * ld + c] == 0);
    }
    edges_release(0);
}

static void test_matmul_kernel(void **unused)
{
    (void)unused;
    static const size_t depths[] = {1, 2, 7, 16, 96, 300};
    for (size_t s = 0; s < N_SETS; s++) {
        const struct cpu_kernels *k = cpu_kernels_choose(kernel_sets[s]);
        if (!k || !k->matmul) continue;
        for (size_t rows = 1; rows <= 27; rows++)
            for (size_t i = 0; i < sizeof depths / sizeof *depths; i++)
                for (int half = 0; half < 2; half++) matmul_check(k, rows, depths[i], half);
    }
}

/* Rounding to bf16 of every kind of number, by vectors and at their end: kernels/bf16.h's, NaN a NaN. */
static void test_rounding_to_bf16(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++) {
        const struct cpu_kernels *k = cpu_kernels_choose(kernel_sets[s]);
        for (size_t n = 1; n <= 41 && k; n++)
            for (int round = 0; round < 50; round++) {
                float *x = edge(n * 4), *out = edge(n * 4);
                for (size_t i = 0; i < n; i++) {
                    uint32_t u = noise_bits();
                    if (i % 5 == 1) u = (u & 0xFFFF0000u) | 0x8000; /* a tie */
                    if (i % 5 == 2) u |= 0x7F800000;                /* an infinity or NaN */
                    if (i % 5 == 3) u &= 0x807FFFFFu;               /* subnormal */
                    memcpy(&x[i], &u, 4);
                }
                k->round_bf16(x, n, out);
                for (size_t i = 0; i < n; i++) {
                    float want = bf16_to_f32(bf16_from_f32(x[i]));
                    if (isnan(x[i]))
                        assert_true(isnan(out[i]));
                    else
                        assert_memory_equal(&out[i], &want, 4);
                }
                edges_release(0);
            }
    }
}

/* --- conversions --- */
static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static void test_bf16(void **unused)
{
    (void)unused;
    for (uint32_t h = 0; h <= 0xFFFF; h++) { /* every bf16 survives the way there and back; NaN stays NaN */
        float f = bf16_to_f32((bf16)h);
        bf16 back = bf16_from_f32(f);
        if (isnan(f))
            assert_true(isnan(bf16_to_f32(back)));
        else
            assert_int_equal(back, h);
    }
    /* between two neighbours, subnormal ones and the last before infinity too: nearest, ties to the even one */
    static const uint32_t add[] = {1, 0x7FFF, 0x8000, 0x8001, 0xFFFF};
    for (uint32_t h = 0; h < 0x7F80; h++)
        for (size_t i = 0; i < 5; i++) {
            bf16 want = (bf16)(add[i] < 0x8000 || (add[i] == 0x8000 && h % 2 == 0) ? h : h + 1);
            assert_int_equal(bf16_from_f32(float_of((h << 16) + add[i])), want);
            assert_int_equal(bf16_from_f32(float_of(0x80000000u | ((h << 16) + add[i]))), want | 0x8000);
        }
    assert_int_equal(bf16_from_f32(INFINITY), 0x7F80);
    assert_int_equal(bf16_from_f32(-INFINITY), 0xFF80);
    static const uint32_t nans[] = {0x7F800001, 0x7F80FFFF, 0x7FC00000,
                                    0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF}; /* payloads that a cut would lose, or a carry would turn */
    for (size_t i = 0; i < sizeof nans / sizeof *nans; i++) {
        bf16 h = bf16_from_f32(float_of(nans[i]));
        assert_true(isnan(bf16_to_f32(h)) && h >> 15 == nans[i] >> 31);
    }
}

static void test_f16(void **unused)
{
    (void)unused;
    for (uint32_t h = 0; h <= 0xFFFF; h++) {
        double sign = h & 0x8000 ? -1 : 1, frac = h & 0x3FF;
        int exp = (int)(h >> 10 & 31);
        float f = f16_to_f32((uint16_t)h);
        if (exp == 31)
            assert_true(frac > 0 ? isnan(f) : isinf(f) && (f < 0) == (sign < 0));
        else
            assert_true((double)f == sign * (exp ? ldexp(1 + frac / 1024, exp - 15) : ldexp(frac, -24)) && !!signbit(f) == (sign < 0));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_f16),
        cmocka_unit_test(test_norms_and_activations),
        cmocka_unit_test(test_activations_keep_what_is_no_number),
        cmocka_unit_test(test_linear_kernels),
        cmocka_unit_test(test_attention_kernel),
        cmocka_unit_test(test_matmul_kernel),
        cmocka_unit_test(test_rounding_to_bf16),
    };
    return cmocka_run_group_tests(tests, tell_missing_sets, NULL);
}
