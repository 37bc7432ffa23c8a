/* The CPU kernels against formulas computed in double here: every instruction set this machine has, odd shapes, every thread count.
 *
 * Bounds. A sum of k products in float32, in any order, is off by at most k * 2^-24 * sum |x w| plus the rounding of the result (Higham,
 * "Accuracy and Stability", section 3.1; we allow twice that for the epilogue). With bf16 compute the operands are rounded first, here as in
 * the kernel, and the same bound holds for the rounded ones. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/bf16.h"
#include "kernels/cpu/cpu.h"

static const char *const sets[] = {"ref", "avx2", "avx512", "avx512bf16"};
enum { N_SETS = sizeof sets / sizeof *sets };

/* Pseudo-random in [-1, 1), the same everywhere. */
static uint32_t state;
static float noise(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state * 0x1p-31f;
}

static float *noise_array(size_t n)
{
    float *p = malloc((n ? n : 1) * sizeof *p);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) p[i] = noise();
    return p;
}

static struct device *open_device(const char *isa, enum compute compute, int threads)
{
    struct device *d;
    struct err e = {0};
    if (!cpu_kernels_choose(isa)) return NULL;
    assert_int_equal(ops_cpu.open(&d, &(struct device_options){.compute = compute, .threads = threads, .isa = isa}, &e), 0);
    struct device_limits l = {.max_rows = 64, .max_sequences = 8, .max_blocks_per_sequence = 64, .hidden = 640, .heads = 9, .kv_heads = 3, .head_dim = 64, .inter = 640, .vocab = 512};
    assert_int_equal(ops_cpu.reserve(d, &l, &e), 0);
    return d;
}

static float as_operand(float v, enum compute c)
{
    return c == COMPUTE_BF16 ? bf16_to_f32(bf16_from_f32(v)) : v;
}

/* A weight in a checkpoint's dtype, and the values that the product sees. */
static void *stored(const float *w, size_t n, enum dtype t, enum compute c, float *seen)
{
    void *out = malloc(n * 4 + 4);
    assert_non_null(out);
    for (size_t i = 0; i < n; i++) {
        if (t == DTYPE_F32) {
            ((float *)out)[i] = w[i];
            seen[i] = as_operand(w[i], c);
        } else if (t == DTYPE_BF16) {
            ((bf16 *)out)[i] = bf16_from_f32(w[i]);
            seen[i] = bf16_to_f32(((bf16 *)out)[i]);
        } else { /* exact in fp16: eighths */
            int eighths = (int)(w[i] * 7);
            ((uint16_t *)out)[i] = (uint16_t)(eighths < 0 ? 0x8000 : 0);
            for (int a = abs(eighths); a; a = 0) {
                int exp = a >= 4 ? 2 : a >= 2 ? 1 : 0;
                ((uint16_t *)out)[i] |= (uint16_t)((exp - 3 + 15) << 10 | (a << (10 - exp) & 0x3FF));
            }
            seen[i] = as_operand((float)eighths / 8, c);
            assert_true(f16_to_f32(((uint16_t *)out)[i]) == (float)eighths / 8);
        }
    }
    return out;
}

static double product(const float *x, const float *w, size_t k, enum compute c, double *magnitude)
{
    double s = 0;
    *magnitude = 0;
    for (size_t i = 0; i < k; i++) {
        double v = (double)as_operand(x[i], c) * (double)w[i];
        s += v;
        *magnitude += fabs(v);
    }
    return s;
}

static double bound(size_t k, double magnitude, double result)
{
    return 2 * ((double)k + 2) * 0x1p-24 * (magnitude + fabs(result)) + 1e-12;
}

static void project_case(const char *isa, enum compute c, enum dtype t, size_t rows, size_t n, size_t k)
{
    struct device *d = open_device(isa, c, 2);
    float *x = noise_array(rows * n), *in = noise_array(rows * k), *w = noise_array(n * k), *bias = noise_array(n), *before = malloc(rows * n * 4 + 4);
    void *file = stored(w, n * k, t, c, w);
    struct weight *packed;
    struct err e = {0};
    memcpy(before, x, rows * n * sizeof *x);
    assert_int_equal(ops_cpu.weight_pack(d, PACK_LINEAR, &(struct weight_part){file, t, n}, 1, k, &packed, &e), 0);
    assert_int_equal(ops_cpu.project(d, &(struct project_args){.x = x, .in = in, .w = packed, .bias = bias, .rows = rows, .n = n, .k = k}, &e), 0);
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < n; j++) {
            double magnitude, want = (double)before[r * n + j] + (double)bias[j] + product(in + r * k, w + j * k, k, c, &magnitude);
            if (fabs((double)x[r * n + j] - want) > bound(k, magnitude + 2, want))
                fail_msg("%s compute %d dtype %d, %zu x %zu x %zu: [%zu][%zu] is %.9g, not %.9g", isa, c, t, rows, n, k, r, j, (double)x[r * n + j], want);
        }
    ops_cpu.weight_free(d, packed);
    ops_cpu.close(d);
    free(x), free(in), free(w), free(bias), free(before), free(file);
}

static void test_project(void **unused)
{
    (void)unused;
    static const size_t rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 25};
    static const struct {
        size_t n, k;
    } shapes[] = {{1, 1}, {32, 2}, {33, 17}, {70, 64}, {129, 63}, {257, 130}, {160, 576}};
    for (size_t s = 0; s < N_SETS; s++) {
        if (!cpu_kernels_choose(sets[s])) {
            print_message("this processor has no %s: not tested\n", sets[s]);
            continue;
        }
        for (int c = 0; c < 2; c++)
            for (int t = 0; t < 3; t++)
                for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
                    for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++) project_case(sets[s], (enum compute)c, (enum dtype)t, rows[i], shapes[j].n, shapes[j].k);
    }
}

/* --- a text layer's own operations --- */
struct layer {
    size_t hidden, heads, kv_heads, head_dim, inter, rows;
    float *x, *norm, *wqkv, *wgu, *inv_freq;
};

static struct layer layer_new(size_t rows)
{
    struct layer l = {.hidden = 70, .heads = 6, .kv_heads = 2, .head_dim = 32, .inter = 45, .rows = rows};
    state = 99;
    l.norm = noise_array(l.hidden);
    l.wqkv = noise_array((l.heads + 2 * l.kv_heads) * l.head_dim * l.hidden);
    l.wgu = noise_array(2 * l.inter * l.hidden);
    l.inv_freq = malloc(l.head_dim / 2 * sizeof(float));
    for (size_t i = 0; i < l.head_dim / 2; i++) l.inv_freq[i] = powf(100.0f, -2.0f * (float)i / (float)l.head_dim);
    l.x = noise_array(rows * l.hidden);
    return l;
}

static void layer_free(struct layer *l)
{
    free(l->x), free(l->norm), free(l->wqkv), free(l->wgu), free(l->inv_freq);
}

static void rmsnorm_double(const float *x, const float *w, size_t n, float *out)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += (double)x[i] * (double)x[i];
    for (size_t i = 0; i < n; i++) out[i] = (float)((double)w[i] * (double)x[i] / sqrt(s / (double)n + 1e-5));
}

static void test_gate_up(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++)
        for (size_t rows = 1; rows <= 14; rows += 4) {
            struct device *d = open_device(sets[s], COMPUTE_F32, 3);
            if (!d) continue;
            struct layer l = layer_new(rows);
            struct weight *w;
            struct err e = {0};
            struct weight_part parts[] = {{l.wgu, DTYPE_F32, l.inter}, {l.wgu + l.inter * l.hidden, DTYPE_F32, l.inter}};
            assert_int_equal(ops_cpu.weight_pack(d, PACK_GATE_UP, parts, 2, l.hidden, &w, &e), 0);
            int32_t position[64] = {0};
            uint32_t sequence[64] = {0}, block = 0;
            bool prefill[64] = {0};
            const uint32_t *tables[] = {&block};
            assert_int_equal(ops_cpu.plan(d, &(struct step_plan){rows, position, sequence, prefill, 1, tables}, &(struct rope){0}, l.head_dim, &e), 0);
            float *out = noise_array(rows * l.inter), h[128];
            assert_int_equal(ops_cpu.gate_up(d, &(struct gate_up_args){.x = l.x, .norm = l.norm, .eps = 1e-5f, .w = w, .out = out, .hidden = l.hidden, .inter = l.inter}, &e), 0);
            for (size_t r = 0; r < rows; r++) {
                rmsnorm_double(l.x + r * l.hidden, l.norm, l.hidden, h);
                for (size_t j = 0; j < l.inter; j++) {
                    double mg, mu, g = product(h, l.wgu + j * l.hidden, l.hidden, COMPUTE_F32, &mg), u = product(h, l.wgu + (l.inter + j) * l.hidden, l.hidden, COMPUTE_F32, &mu);
                    double want = g / (1 + exp(-g)) * u;
                    /* silu's slope is below 1.1; h itself is off by a few roundings of its own */
                    double allowed = 4 * (bound(l.hidden, mg, g) * 1.1 * (fabs(u) + 1) + bound(l.hidden, mu, u) * (fabs(g) + 1));
                    if (fabs((double)out[r * l.inter + j] - want) > allowed) fail_msg("%s row %zu: %g, not %g", sets[s], r, (double)out[r * l.inter + j], want);
                }
            }
            ops_cpu.weight_free(d, w);
            ops_cpu.close(d);
            layer_free(&l);
            free(out);
        }
}

/* Sequences of a step: rows [first, first + n) of positions from..from+n-1; their blocks lie scattered in the cache. */
static const struct {
    uint32_t from, n;
} steps[][3] = {{{0, 15}, {0, 1}, {0, 33}}, {{15, 1}, {1, 16}, {33, 1}}, {{16, 1}, {17, 1}, {34, 2}}};
enum { SEQUENCES = 3, STEPS = 3, TABLE = 8, MAX_POSITIONS = 64 };

struct oracle {
    double k[SEQUENCES][MAX_POSITIONS][2 * 32], v[SEQUENCES][MAX_POSITIONS][2 * 32];
};

/* What one row gets: its q rotated, its k and v remembered, softmax over what its sequence holds so far. */
static void attend_double(const struct layer *l, struct oracle *o, size_t seq, size_t pos, const float *x, enum dtype kv, double *out)
{
    float h[128];
    double all[10 * 32];
    size_t hd = l->head_dim;
    rmsnorm_double(x, l->norm, l->hidden, h);
    for (size_t j = 0; j < (l->heads + 2 * l->kv_heads) * hd; j++) {
        double m;
        all[j] = product(h, l->wqkv + j * l->hidden, l->hidden, COMPUTE_F32, &m);
    }
    for (size_t head = 0; head < l->heads + l->kv_heads; head++)
        for (size_t j = 0; j < hd / 2; j++) {
            double angle = (double)((float)pos * l->inv_freq[j]), a = all[head * hd + j], b = all[head * hd + j + hd / 2];
            all[head * hd + j] = a * cos(angle) - b * sin(angle);
            all[head * hd + j + hd / 2] = b * cos(angle) + a * sin(angle);
        }
    for (size_t j = 0; j < l->kv_heads * hd; j++) {
        double k = all[l->heads * hd + j], v = all[(l->heads + l->kv_heads) * hd + j];
        o->k[seq][pos][j] = kv == DTYPE_BF16 ? (double)bf16_to_f32(bf16_from_f32((float)k)) : k;
        o->v[seq][pos][j] = kv == DTYPE_BF16 ? (double)bf16_to_f32(bf16_from_f32((float)v)) : v;
    }
    for (size_t head = 0; head < l->heads; head++) {
        size_t at = head / (l->heads / l->kv_heads) * hd;
        double s[MAX_POSITIONS], sum = 0, max = -INFINITY;
        for (size_t i = 0; i <= pos; i++) {
            s[i] = 0;
            for (size_t j = 0; j < hd; j++) s[i] += all[head * hd + j] * o->k[seq][i][at + j];
            s[i] /= sqrt((double)hd);
            max = fmax(max, s[i]);
        }
        for (size_t i = 0; i <= pos; i++) sum += s[i] = exp(s[i] - max);
        for (size_t j = 0; j < hd; j++) {
            out[head * hd + j] = 0;
            for (size_t i = 0; i <= pos; i++) out[head * hd + j] += s[i] / sum * o->v[seq][i][at + j];
        }
    }
}

/* Runs the steps on a device; all rows' outputs, in order, to out. alone: every sequence in a step of its own. */
static void run_steps(const struct layer *l, const char *isa, enum dtype kv_dtype, int threads, bool alone, float *out)
{
    struct device *d = open_device(isa, COMPUTE_F32, threads);
    struct kv_layout layout = {.layers = 2, .kv_heads = l->kv_heads, .head_dim = l->head_dim, .block_tokens = KV_BLOCK, .dtype = kv_dtype};
    uint32_t tables[SEQUENCES][TABLE];
    for (uint32_t s = 0; s < SEQUENCES; s++)
        for (uint32_t b = 0; b < TABLE; b++) tables[s][b] = (b * 7 + s * 5) % 23 + s * 23; /* scattered, none twice */
    struct weight *w;
    struct err e = {0};
    void *kv;
    size_t width = l->heads * l->head_dim;
    assert_int_equal(ops_cpu.alloc(d, 70 * ops_cpu.kv_block_bytes(&layout), &kv, &e), 0);
    assert_int_equal(ops_cpu.weight_pack(d, PACK_LINEAR, &(struct weight_part){l->wqkv, DTYPE_F32, (l->heads + 2 * l->kv_heads) * l->head_dim}, 1, l->hidden, &w, &e), 0);
    size_t done = 0;
    for (size_t t = 0; t < STEPS; t++) {
        for (uint32_t only = 0; only < (alone ? SEQUENCES : 1); only++) {
            int32_t position[64];
            uint32_t sequence[64], n_sequences = 0;
            bool prefill[64];
            const uint32_t *blocks[SEQUENCES];
            size_t rows = 0, at = done;
            for (uint32_t s = 0; s < SEQUENCES; s++) {
                if (alone && s < only) at += steps[t][s].n;
                if (alone && s != only) continue;
                for (uint32_t i = 0; i < steps[t][s].n; i++, rows++) {
                    position[rows] = (int32_t)(steps[t][s].from + i);
                    sequence[rows] = n_sequences;
                    prefill[rows] = steps[t][s].n > 1;
                }
                blocks[n_sequences++] = tables[s];
            }
            struct rope rope = {l->inv_freq, 1};
            assert_int_equal(ops_cpu.plan(d, &(struct step_plan){rows, position, sequence, prefill, n_sequences, blocks}, &rope, l->head_dim, &e), 0);
            assert_int_equal(ops_cpu.qkv(d, &(struct qkv_args){.x = l->x + at * l->hidden, .norm = l->norm, .eps = 1e-5f, .w = w, .hidden = l->hidden, .heads = l->heads, .rope = rope, .kv = kv, .layout = &layout, .layer = 1}, &e), 0);
            assert_int_equal(ops_cpu.attention(d, &(struct attention_args){.out = out + at * width, .heads = l->heads, .kv = kv, .layout = &layout, .layer = 1}, &e), 0);
        }
        for (uint32_t s = 0; s < SEQUENCES; s++) done += steps[t][s].n;
    }
    assert_int_equal(done, l->rows);
    ops_cpu.weight_free(d, w);
    ops_cpu.free(d, kv);
    ops_cpu.close(d);
}

static size_t all_rows(void)
{
    size_t n = 0;
    for (size_t t = 0; t < STEPS; t++)
        for (size_t s = 0; s < SEQUENCES; s++) n += steps[t][s].n;
    return n;
}

static void test_attention(void **unused)
{
    (void)unused;
    struct layer l = layer_new(all_rows());
    size_t width = l.heads * l.head_dim;
    float *out = malloc(l.rows * width * sizeof *out), *again = malloc(l.rows * width * sizeof *again);
    struct oracle *o = malloc(sizeof *o);
    double *want = malloc(width * sizeof *want);
    for (size_t s = 0; s < N_SETS; s++) {
        if (!cpu_kernels_choose(sets[s])) continue;
        for (int half = 0; half < 2; half++) {
            enum dtype kv = half ? DTYPE_BF16 : DTYPE_F32;
            run_steps(&l, sets[s], kv, 1, false, out);
            /* float32: scores are sums of 32 products of size ~5, weights sum to 1. bf16: a key or value on the edge may be rounded the other way,
             * a 2^-8 of itself; values stay below 8, a score moves by at most 2^-8 * |q||k| / sqrt(32) < 0.2 in the worst single element. */
            double allowed = half ? 0.05 : 2e-5;
            size_t row = 0;
            for (size_t t = 0; t < STEPS; t++)
                for (size_t q = 0; q < SEQUENCES; q++)
                    for (uint32_t i = 0; i < steps[t][q].n; i++, row++) {
                        attend_double(&l, o, q, steps[t][q].from + i, l.x + row * l.hidden, kv, want);
                        for (size_t j = 0; j < width; j++)
                            if (!(fabs((double)out[row * width + j] - want[j]) < allowed))
                                fail_msg("%s kv %d step %zu sequence %zu row %u [%zu]: %g, not %g", sets[s], kv, t, q, i, j, (double)out[row * width + j], want[j]);
                    }
            for (int threads = 2; threads <= 5; threads++) {
                run_steps(&l, sets[s], kv, threads, false, again);
                assert_memory_equal(out, again, l.rows * width * sizeof *out);
            }
            run_steps(&l, sets[s], kv, 2, true, again); /* batch invariance: alone as in company */
            assert_memory_equal(out, again, l.rows * width * sizeof *out);
        }
    }
    free(out), free(again), free(o), free(want);
    layer_free(&l);
}

/* --- elementwise kernels, at the end of a page that is followed by none --- */
struct guarded {
    unsigned char *base;
    size_t bytes;
};

static void *guarded_new(struct guarded *g, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    g->bytes = whole + page;
    g->base = mmap(NULL, g->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g->base != MAP_FAILED);
    assert_int_equal(mprotect(g->base + whole, page, PROT_NONE), 0);
    return g->base + whole - bytes;
}

static void guarded_free(struct guarded *g)
{
    munmap(g->base, g->bytes);
}

static void near_double(const char *isa, const char *what, size_t n, size_t i, float got, double want, double allowed)
{
    if (!(fabs((double)got - want) <= allowed)) fail_msg("%s %s of %zu: [%zu] is %.9g, not %.9g", isa, what, n, i, (double)got, want);
}

static void elementwise_case(const struct cpu_kernels *k, size_t n)
{
    struct guarded g[5];
    float *x = guarded_new(&g[0], n * 4), *w = guarded_new(&g[1], n * 4), *b = guarded_new(&g[2], n * 4), *out = guarded_new(&g[3], n * 4), *y = guarded_new(&g[4], n * 4);
    double squares = 0, mean = 0, var = 0;
    for (size_t i = 0; i < n; i++) {
        x[i] = noise() * 4;
        w[i] = noise();
        b[i] = noise();
        y[i] = i % 7 == 0 ? noise() * 90 : noise() * 6; /* both saturated ends of the exponential too */
        squares += (double)x[i] * (double)x[i];
        mean += (double)x[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) var += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
    double eps = 0x1p-24 * (double)(n + 16);
    k->rmsnorm(x, w, 1e-5f, n, out);
    for (size_t i = 0; i < n; i++) {
        double want = (double)w[i] * (double)x[i] / sqrt(squares / (double)n + (double)1e-5f);
        near_double(k->isa, "rmsnorm", n, i, out[i], want, eps * (fabs(want) + 1e-6));
    }
    k->layernorm(x, w, b, 1e-5f, n, out);
    for (size_t i = 0; i < n; i++) {
        double scale = 1 / sqrt(var + (double)1e-5f), want = ((double)x[i] - mean) * scale * (double)w[i] + (double)b[i];
        near_double(k->isa, "layernorm", n, i, out[i], want, eps * (fabs(want) + 4 * scale + 1) * 4);
    }
    k->silu_mul(y, w, n, out);
    for (size_t i = 0; i < n; i++) {
        double want = (double)y[i] / (1 + exp(-(double)y[i])) * (double)w[i];
        near_double(k->isa, "silu_mul", n, i, out[i], want, 2e-6 * fabs(want) + 1e-30);
    }
    memcpy(out, y, n * sizeof *out);
    k->gelu(out, n);
    for (size_t i = 0; i < n; i++) {
        double v = (double)y[i], want = 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
        near_double(k->isa, "gelu", n, i, out[i], want, 2e-6 * fabs(want) + 4e-7 * fabs(v));
    }
    for (size_t i = 0; i < 5; i++) guarded_free(&g[i]);
}

/* Operands and panels end at the guard page, too: no kernel reads past k. */
static void linear_guard_case(const struct cpu_kernels *k, size_t rows, size_t depth, size_t panels)
{
    size_t kp = (depth + 1) & ~(size_t)1;
    struct guarded g[4];
    float *x = guarded_new(&g[0], rows * kp * 4), *out = guarded_new(&g[3], rows * panels * PANEL * 4);
    bf16 *xh = guarded_new(&g[1], rows * kp * 2);
    float *w = guarded_new(&g[2], panels * kp * PANEL * 4);
    for (size_t i = 0; i < rows * kp; i++) xh[i] = bf16_from_f32(x[i] = bf16_to_f32(bf16_from_f32(noise())));
    for (size_t i = 0; i < panels * kp * PANEL; i++) w[i] = noise();
    k->linear_f32(x, kp, rows, w, kp, panels, out, panels * PANEL);
    assert_true(isfinite(out[rows * panels * PANEL - 1]));
    guarded_free(&g[2]);
    bf16 *wh = guarded_new(&g[2], panels * kp * PANEL * 2);
    for (size_t i = 0; i < panels * kp * PANEL; i++) wh[i] = bf16_from_f32(noise());
    k->linear_f32_bf16(x, kp, rows, wh, kp, panels, out, panels * PANEL);
    float last = out[rows * panels * PANEL - 1];
    if (k->linear_bf16) {
        k->linear_bf16(xh, kp, rows, wh, kp, panels, out, panels * PANEL);
        assert_true(fabsf(out[rows * panels * PANEL - 1] - last) <= 1e-5f * (float)kp);
    }
    for (size_t i = 0; i < 4; i++) guarded_free(&g[i]);
}

static void test_kernels_at_page_end(void **unused)
{
    (void)unused;
    for (size_t s = 0; s < N_SETS; s++) {
        const struct cpu_kernels *k = cpu_kernels_choose(sets[s]);
        if (!k) continue;
        state = 4;
        for (size_t n = 1; n <= 70; n++) elementwise_case(k, n);
        elementwise_case(k, 577);
        for (size_t rows = 1; rows <= k->tile_rows; rows++)
            for (size_t depth = 1; depth <= 33; depth += 4) linear_guard_case(k, rows, depth, 1);
        linear_guard_case(k, 1, 64, k->row_panels);
    }
}

/* --- conversions --- */
static void test_bf16(void **unused)
{
    (void)unused;
    for (uint32_t h = 0; h <= 0xFFFF; h++) { /* every bf16 survives the way there and back; NaN stays NaN */
        float f = bf16_to_f32((bf16)h);
        bf16 back = bf16_from_f32(f);
        if (isnan(f)) assert_true(isnan(bf16_to_f32(back)));
        else assert_int_equal(back, h);
    }
    for (uint32_t h = 0; h < 0x7F80; h++) { /* between two neighbours: nearest, ties to the even one */
        uint32_t u = h << 16;
        static const uint32_t add[] = {1, 0x7FFF, 0x8000, 0x8001, 0xFFFF};
        for (size_t i = 0; i < 5; i++) {
            uint32_t v = u + add[i];
            float f;
            memcpy(&f, &v, 4);
            bf16 want = (bf16)(add[i] < 0x8000 || (add[i] == 0x8000 && h % 2 == 0) ? h : h + 1);
            assert_int_equal(bf16_from_f32(f), want);
            assert_int_equal(bf16_from_f32(-f), want | 0x8000);
        }
    }
}

static void test_f16(void **unused)
{
    (void)unused;
    for (uint32_t h = 0; h <= 0xFFFF; h++) {
        double sign = h & 0x8000 ? -1 : 1, frac = h & 0x3FF;
        int exp = (int)(h >> 10 & 31);
        float f = f16_to_f32((uint16_t)h);
        if (exp == 31) assert_true(frac > 0 ? isnan(f) : isinf(f) && (f < 0) == (sign < 0));
        else assert_true((double)f == sign * (exp ? ldexp(1 + frac / 1024, exp - 15) : ldexp(frac, -24)) && !!signbit(f) == (sign < 0));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_project), cmocka_unit_test(test_gate_up), cmocka_unit_test(test_attention),
        cmocka_unit_test(test_kernels_at_page_end), cmocka_unit_test(test_bf16), cmocka_unit_test(test_f16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
