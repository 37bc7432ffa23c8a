/* bench_kernels: the operations of the CPU backend one by one, beside what the machine can do: float32 FMA peak, read bandwidth.
 *
 *     bench_kernels [--threads N] [--isa SET] [--repeat N] [--only linear|attention|vision] [--cpu-time]
 *
 * --cpu-time: one thread, the least processor time it needed instead of the median of the clock. On a machine that is busy with other
 * things this still says how near the peak a kernel is; what waits for memory or for other threads it does not say.
 *
 * One line of JSON a measurement: the median of the repetitions, and the share of the peak that was measured in the same run (a share of
 * FMA peak for what multiplies, of read bandwidth for what reads). Shapes are SmolLM2-135M's and SmolVLM-256M's encoder. */
#include <getopt.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/clock.h"
#include "kernels/bf16.h"
#include "kernels/ops.h"

static bool cpu_time;
struct bench {
    int threads, repeat;
    const char *isa, *only;
    double peak_flops, peak_read; /* a second, all threads */
};

static double now_s(void)
{
    struct timespec t;
    if (cpu_time && clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0) return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
    return (double)clock_boot_ns() / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median seconds of `repeat` calls, one call before them uncounted. */
static double median_s(const struct bench *b, void (*fn)(void *), void *arg)
{
    double s[101];
    int n = b->repeat > 101 ? 101 : b->repeat;
    fn(arg);
    for (int i = 0; i < n; i++) {
        double t = now_s();
        fn(arg);
        s[i] = now_s() - t;
    }
    qsort(s, (size_t)n, sizeof *s, by_value);
    return s[cpu_time ? 0 : n / 2]; /* what processor time the others' use of the caches adds is never less than nothing */
}

static void must(int rc, const struct err *e)
{
    if (rc == 0) return;
    fprintf(stderr, "bench_kernels: %s\n", e->msg);
    exit(1);
}

static uint32_t noise_state = 1;
static float noise(void)
{
    noise_state = noise_state * 1664525u + 1013904223u;
    return (float)(int32_t)(noise_state ^ noise_state >> 15) * 0x1p-31f;
}

static float *noise_new(size_t n, float size)
{
    float *p = aligned_alloc(64, (n * sizeof *p + 63) & ~(size_t)63);
    if (!p) abort();
    for (size_t i = 0; i < n; i++) p[i] = noise() * size;
    return p;
}

/* --- what the machine can do --- */
enum { FMA_ROUNDS = 20000000, FMA_CHAINS = 12 };
typedef float v8 __attribute__((vector_size(32)));
typedef float v16 __attribute__((vector_size(64)));

#if defined(__x86_64__)
/* Chains that only registers hold: 12 accumulators cover two units of latency 4, with enough to spare. */
#define FMA_LOOP(name, isa, vec)                                                                                                           \
    __attribute__((target(isa), noinline, optimize("O3"))) static float name(float x)                                                     \
    {                                                                                                                                      \
        vec a[FMA_CHAINS], m = (vec){} + 0.999f, c = (vec){} + x;                                                                          \
        _Pragma("GCC unroll 12") for (int i = 0; i < FMA_CHAINS; i++) a[i] = (vec){} + (float)i;                                           \
        for (int r = 0; r < FMA_ROUNDS / FMA_CHAINS; r++)                                                                                  \
            _Pragma("GCC unroll 12") for (int i = 0; i < FMA_CHAINS; i++) a[i] = a[i] * m + c;                                             \
        vec s = {};                                                                                                                        \
        _Pragma("GCC unroll 12") for (int i = 0; i < FMA_CHAINS; i++) s += a[i];                                                           \
        return s[0];                                                                                                                       \
    }
FMA_LOOP(fma_avx2, "avx2,fma", v8)
FMA_LOOP(fma_avx512, "avx512f,fma", v16)
#endif

static volatile float sink;
static double fma_flops; /* of one call on one thread */

static void *fma_thread(void *unused)
{
    (void)unused;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) {
        sink = fma_avx512(1e-3f);
        fma_flops = 2.0 * 16 * (FMA_ROUNDS / FMA_CHAINS * FMA_CHAINS);
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        sink = fma_avx2(1e-3f);
        fma_flops = 2.0 * 8 * (FMA_ROUNDS / FMA_CHAINS * FMA_CHAINS);
    }
#endif
    return NULL;
}

enum { READ_BYTES = 256 << 20, READ_STREAMS = 4 };
struct reader {
    const unsigned char *from;
    size_t bytes;
};

__attribute__((optimize("O3"))) static void *read_thread(void *arg)
{
    const struct reader *r = arg;
    size_t n = r->bytes / READ_STREAMS / sizeof(v8);
    typedef uint64_t u4 __attribute__((vector_size(32)));
    const u4 *p = (const u4 *)(const void *)r->from;
    u4 s[READ_STREAMS] = {0};
    for (size_t i = 0; i < n; i += 2)
        for (size_t j = 0; j < READ_STREAMS; j++) s[j] ^= p[j * n + i] ^ p[j * n + i + 1];
    sink = (float)(s[0] ^ s[1] ^ s[2] ^ s[3])[0];
    return NULL;
}

struct machine {
    int threads;
    void *(*fn)(void *);
    struct reader *readers;
};

static void machine_run(void *arg)
{
    struct machine *m = arg;
    pthread_t id[64];
    for (int i = 1; i < m->threads; i++)
        if (pthread_create(&id[i], NULL, m->fn, m->readers ? &m->readers[i] : NULL)) abort();
    m->fn(m->readers ? &m->readers[0] : NULL);
    for (int i = 1; i < m->threads; i++) pthread_join(id[i], NULL);
}

static double fma_peak(const struct bench *b, int threads)
{
    struct machine m = {.threads = threads, .fn = fma_thread};
    double s = median_s(b, machine_run, &m);
    return fma_flops * threads / s;
}

static double read_peak(const struct bench *b, int threads)
{
    unsigned char *p = mmap(NULL, (size_t)READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) abort();
    madvise(p, READ_BYTES, MADV_HUGEPAGE);
    memset(p, 1, READ_BYTES);
    struct reader readers[64];
    size_t each = READ_BYTES / (size_t)threads;
    for (int i = 0; i < threads; i++) readers[i] = (struct reader){p + (size_t)i * each, each};
    struct machine m = {.threads = threads, .fn = read_thread, .readers = readers};
    double s = median_s(b, machine_run, &m);
    munmap(p, READ_BYTES);
    return READ_BYTES / s;
}

static void bench_machine(struct bench *b)
{
    for (int t = 1; t <= b->threads; t += b->threads > 1 ? b->threads - 1 : 1) {
        b->peak_flops = fma_peak(b, t);
        b->peak_read = read_peak(b, t);
        printf("{\"what\": \"machine\", \"threads\": %d, \"fma_gflops\": %.1f, \"read_gb_per_s\": %.2f}\n", t, b->peak_flops / 1e9,
               b->peak_read / 1e9);
    }
}

static void report(const struct bench *b, const char *what, double s, double flops, double bytes)
{
    printf("{\"what\": \"%s\", \"ms\": %.3f, \"gflops\": %.1f, \"of_fma_peak\": %.3f, \"gb_per_s\": %.2f, \"of_read_peak\": %.3f}\n", what,
           s * 1e3, flops / s / 1e9, flops / s / b->peak_flops, bytes / s / 1e9, bytes / s / b->peak_read);
    fflush(stdout);
}

static struct device *device_new(const struct bench *b, const struct device_limits *l)
{
    struct device *d;
    struct err e = {0};
    must(ops_cpu.open(&d, &(struct device_options){.compute = COMPUTE_BF16, .threads = b->threads, .isa = b->isa}, &e), &e);
    must(ops_cpu.reserve(d, l, &e), &e);
    return d;
}

static struct weight *weight_new(struct device *d, enum pack_kind kind, size_t n, size_t k)
{
    bf16 *data = malloc(n * k * sizeof *data);
    if (!data) abort();
    for (size_t i = 0; i < n * k; i++) data[i] = bf16_from_f32(noise() * 0.05f);
    const struct weight_part part = {.data = data, .dtype = DTYPE_BF16, .rows = n}, parts[2] = {part, part};
    struct weight *w;
    struct err e = {0};
    must(ops_cpu.weight_pack(d, kind, parts, kind == PACK_GATE_UP ? 2 : 1, k, NULL, &w, &e), &e);
    free(data);
    return w;
}

/* --- x += W in --- */
struct linear_bench {
    struct device *d;
    struct project_args a;
};

static void linear_call(void *arg)
{
    struct linear_bench *l = arg;
    struct err e = {0};
    must(ops_cpu.project(l->d, &l->a, &e), &e);
}

static void bench_linear(const struct bench *b)
{
    static const struct {
        size_t rows, n, k;
    } shapes[] = {{1, 49152, 576}, {16, 576, 1536}, {256, 960, 576}, {256, 3072, 576}, {256, 576, 1536}, {1024, 768, 768},
                  {1024, 3072, 768},
                  {1024, 768, 3072}, {256, 8192, 2048}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        size_t rows = shapes[i].rows, n = shapes[i].n, k = shapes[i].k;
        struct device_limits limits = {.max_rows = rows, .max_sequences = 1, .max_blocks_per_sequence = 1, .hidden = k, .heads = 1,
                                       .kv_heads = 1,
                                       .head_dim = 16, .inter = k, .vocab = 1};
        struct linear_bench l = {.d = device_new(b, &limits)};
        struct weight *w = weight_new(l.d, PACK_LINEAR, n, k);
        l.a = (struct project_args){.x = noise_new(rows * n, 1), .in = noise_new(rows * k, 1), .w = w, .rows = rows, .n = n, .k = k};
        char what[64];
        snprintf(what, sizeof what, "linear %zu x %zu x %zu", rows, n, k);
        report(b, what, median_s(b, linear_call, &l), 2.0 * (double)(rows * n * k), (double)ops_cpu.weight_bytes(w));
        free(l.a.x);
        free((void *)l.a.in);
        ops_cpu.weight_free(l.d, w);
        ops_cpu.close(l.d);
    }
}

/* --- attention over the paged cache, one layer --- */
enum { HEADS = 9, KV_HEADS = 3, HEAD_DIM = 64, HIDDEN = 576, CHUNK = 256, MAX_CONTEXT = 8192 };
struct attention_bench {
    struct device *d;
    struct kv_layout layout;
    struct qkv_args qkv;
    struct attention_args a;
    int32_t position[CHUNK];
    uint32_t sequence[CHUNK];
    bool prefill[CHUNK];
    uint32_t block[MAX_CONTEXT / 16];
};

static void attention_plan(struct attention_bench *t, size_t first, size_t rows)
{
    static const struct rope no_rope;
    struct err e = {0};
    for (size_t i = 0; i < rows; i++) {
        t->position[i] = (int32_t)(first + i);
        t->prefill[i] = rows > 1;
    }
    const uint32_t *tables[] = {t->block};
    struct step_plan p = {rows, t->position, t->sequence, t->prefill, 1, tables, 0, NULL};
    must(ops_cpu.plan(t->d, &p, &no_rope, HEAD_DIM, &e), &e);
}

static void attention_call(void *arg)
{
    struct attention_bench *t = arg;
    struct err e = {0};
    must(ops_cpu.attention(t->d, &t->a, &e), &e);
}

static void bench_attention_of(const struct bench *b, enum dtype dtype, const char *name)
{
    static const size_t contexts[] = {512, 1024, 4096, 8192};
    struct device_limits limits = {.max_rows = CHUNK, .max_sequences = 1, .max_blocks_per_sequence = MAX_CONTEXT / 16, .hidden = HIDDEN,
                                   .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = HEAD_DIM, .inter = HIDDEN, .vocab = 1};
    struct attention_bench *t = calloc(1, sizeof *t);
    if (!t) abort();
    struct err e = {0};
    t->d = device_new(b, &limits);
    t->layout = (struct kv_layout){1, KV_HEADS, HEAD_DIM, 16, dtype};
    void *kv;
    size_t kv_bytes = ops_cpu.kv_block_bytes(&t->layout) * (MAX_CONTEXT / 16);
    must(ops_cpu.alloc(t->d, kv_bytes, &kv, &e), &e);
    for (uint32_t i = 0; i < MAX_CONTEXT / 16; i++) t->block[i] = i * 5 % (MAX_CONTEXT / 16);
    struct weight *w = weight_new(t->d, PACK_LINEAR, (HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN);
    float *x = noise_new(CHUNK * HIDDEN, 1), *norm = noise_new(HIDDEN, 1), *out = noise_new(CHUNK * HEADS * HEAD_DIM, 1);
    t->qkv = (struct qkv_args){
        .x = x, .norm = norm, .eps = 1e-5f, .w = w, .hidden = HIDDEN, .heads = HEADS, .kv = kv, .layout = &t->layout};
    t->a = (struct attention_args){.out = out, .heads = HEADS, .kv = kv, .layout = &t->layout};
    for (size_t at = 0, c = 0; at < MAX_CONTEXT; at += CHUNK) {
        attention_plan(t, at, CHUNK);
        must(ops_cpu.qkv(t->d, &t->qkv, &e), &e);
        if (at + CHUNK != contexts[c]) continue;
        for (int decode = 0; decode < 2; decode++) {
            char what[64];
            size_t rows = decode ? 1 : CHUNK, context = contexts[c];
            attention_plan(t, context - rows, rows);
            double pairs = decode ? (double)context : (double)rows * (double)(context - rows / 2);
            snprintf(what, sizeof what, "attention %s kv, %zu rows at %zu", name, rows, context);
            report(b, what, median_s(b, attention_call, t), pairs * HEADS * HEAD_DIM * 4, (double)kv_bytes / MAX_CONTEXT * (double)context);
        }
        c++;
    }
    free(x), free(norm), free(out);
    ops_cpu.free(t->d, kv);
    ops_cpu.weight_free(t->d, w);
    ops_cpu.close(t->d);
    free(t);
}

static void bench_attention(const struct bench *b)
{
    bench_attention_of(b, DTYPE_F32, "f32");
    bench_attention_of(b, DTYPE_BF16, "bf16");
    bench_attention_of(b, DTYPE_I8, "int8");
}

/* --- a layer of the encoder: 768 wide, 12 heads, 1024 positions a tile --- */
enum { DIM = 768, VISION_INTER = 3072, GRID = 32, POSITIONS = GRID * GRID, PATCH = 16, MAX_TILES = 4, VISION_LAYERS = 12 };
struct vision_bench {
    struct device *d;
    struct vision_qkv_args qkv;
    struct vision_attention_args attention;
    struct project_args project, down;
    struct vision_up_args up;
};

static void vision_qkv_call(void *arg)
{
    struct vision_bench *v = arg;
    struct err e = {0};
    must(ops_cpu.vision_qkv(v->d, &v->qkv, &e), &e);
}

static void vision_attention_call(void *arg)
{
    struct vision_bench *v = arg;
    struct err e = {0};
    must(ops_cpu.vision_attention(v->d, &v->attention, &e), &e);
}

static void vision_project_call(void *arg)
{
    struct vision_bench *v = arg;
    struct err e = {0};
    must(ops_cpu.project(v->d, &v->project, &e), &e);
}

static void vision_up_call(void *arg)
{
    struct vision_bench *v = arg;
    struct err e = {0};
    must(ops_cpu.vision_up(v->d, &v->up, &e), &e);
}

static void vision_down_call(void *arg)
{
    struct vision_bench *v = arg;
    struct err e = {0};
    must(ops_cpu.project(v->d, &v->down, &e), &e);
}

static void bench_vision_tiles(const struct bench *b, size_t tiles)
{
    size_t rows = tiles * POSITIONS;
    struct device_limits limits = {.vision_rows = rows, .vision_dim = DIM, .vision_inter = VISION_INTER, .vision_head_dim = 64,
                                   .connector_in = DIM, .patch_in = 3 * PATCH * PATCH};
    struct vision_bench v = {.d = device_new(b, &limits)};
    float *x = noise_new(rows * DIM, 1), *norm = noise_new(DIM, 1), *bias = noise_new(VISION_INTER, 1),
          *mid = noise_new(rows * VISION_INTER, 1);
    struct weight *wqkv = weight_new(v.d, PACK_LINEAR, 3 * DIM, DIM), *wo = weight_new(v.d, PACK_LINEAR, DIM, DIM),
                  *wup = weight_new(v.d, PACK_LINEAR, VISION_INTER, DIM), *wdown = weight_new(v.d, PACK_LINEAR, DIM, VISION_INTER);
    v.qkv = (struct vision_qkv_args){x, norm, norm, 1e-6f, wqkv, bias, rows, DIM};
    v.attention = (struct vision_attention_args){mid, tiles, POSITIONS, 12, 64};
    v.project = (struct project_args){x, mid, wo, bias, rows, DIM, DIM, true, NULL};
    v.up = (struct vision_up_args){x, norm, norm, 1e-6f, wup, bias, mid, rows, DIM, VISION_INTER};
    v.down = (struct project_args){x, mid, wdown, bias, rows, DIM, VISION_INTER, true, NULL};
    const struct {
        const char *name;
        void (*fn)(void *);
        double flops;
    } steps[] = {{"qkv", vision_qkv_call, 2.0 * 3 * DIM * DIM},
                 {"attention", vision_attention_call, 4.0 * POSITIONS * DIM},
                 {"project", vision_project_call, 2.0 * DIM * DIM},
                 {"up", vision_up_call, 2.0 * DIM * VISION_INTER},
                 {"down", vision_down_call, 2.0 * DIM * VISION_INTER}};
    double total_s = 0, total_flops = 0;
    char what[64];
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        double s = median_s(b, steps[i].fn, &v);
        snprintf(what, sizeof what, "vision %s, %zu tiles", steps[i].name, tiles);
        report(b, what, s, steps[i].flops * (double)rows, 0);
        total_s += s;
        total_flops += steps[i].flops * (double)rows;
    }
    snprintf(what, sizeof what, "vision 12 layers, a tile of %zu", tiles);
    report(b, what, total_s * VISION_LAYERS / (double)tiles, total_flops * VISION_LAYERS / (double)tiles, 0);
    free(x), free(norm), free(bias), free(mid);
    ops_cpu.weight_free(v.d, wqkv), ops_cpu.weight_free(v.d, wo), ops_cpu.weight_free(v.d, wup), ops_cpu.weight_free(v.d, wdown);
    ops_cpu.close(v.d);
}

static void bench_vision(const struct bench *b)
{
    bench_vision_tiles(b, 1);
    bench_vision_tiles(b, MAX_TILES);
}

int main(int argc, char **argv)
{
    enum { THREADS = 1, ISA, REPEAT, ONLY, CPU_TIME };
    static const struct option options[] = {
        {"threads", 1, NULL, THREADS}, {"isa", 1, NULL, ISA}, {"repeat", 1, NULL, REPEAT}, {"only", 1, NULL, ONLY},
        {"cpu-time", 0, NULL, CPU_TIME}, {NULL, 0, NULL, 0}};
    static const struct {
        const char *name;
        void (*fn)(const struct bench *b);
    } parts[] = {{"linear", bench_linear}, {"attention", bench_attention}, {"vision", bench_vision}};
    struct bench b = {.threads = 2, .repeat = 5};
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case THREADS:
            b.threads = atoi(optarg);
            break;
        case ISA:
            b.isa = optarg;
            break;
        case REPEAT:
            b.repeat = atoi(optarg);
            break;
        case CPU_TIME:
            cpu_time = true;
            b.threads = 1;
            break;
        case ONLY:
            b.only = optarg;
            break;
        default:
            return 2;
        }
    }
    if (b.threads < 1 || b.threads > 64 || b.repeat < 1)
        return fprintf(stderr, "bench_kernels: --threads is 1 to 64, --repeat at least 1\n"), 2;
    bench_machine(&b);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!b.only || strcmp(b.only, parts[i].name) == 0) parts[i].fn(&b);
    return 0;
}
