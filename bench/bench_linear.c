/* bench_linear: matrix products of the CPU backend in the models' shapes, against what the machine can do.
 *
 *     bench_linear [--threads N] [--isa SET] [--rows N[,N...]] [--seconds S] [--size small|large] [--cpu-time]
 *
 * First the ceilings, measured in this process: the read bandwidth (large pages, four streams a thread) and the rate of int8 multiply-adds
 * (x86: vpmaddubsw, vpmaddwd, vpaddd on 32 bytes, with twelve sums in registers, which is what AVX2 has; with VNNI: vpdpbusd). Then one line a
 * shape, format and number of rows: milliseconds a product, fastest and median, and for the fastest the bytes of weights read a second and their
 * share of the read ceiling, the operations a second (two a multiply-add) and their share of the int8 ceiling. Ceilings are the fastest of their
 * runs, too: what neighbours take of a shared machine is then in neither. A product is ops->project: activations are quantised and the sum
 * is added to x, as in a layer. --cpu-time, with one thread, counts the thread's processor time, not the clock's, which leaves out what
 * neighbours take of a processor (but not what they take of memory). Products go through copies of the matrix that are together larger than the last-level cache. */
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/clock.h"
#include "kernels/bf16.h"
#include "kernels/ops.h"
#include "kernels/cpu/threads.h"
#include "kernels/quant.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Past every cache in all, and short in one go: of many runs some fall between a neighbour's time slices. */
static const size_t READ_BYTES = (size_t)768 << 20, READ_AT_ONCE = (size_t)24 << 20;
static double seconds_each = 0.5;

static bool cpu_time;

static double now_s(void)
{
    struct timespec t;
    if (!cpu_time) return (double)clock_boot_ns() / 1e9;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* --- ceilings --- */
struct ceiling {
    const unsigned char *data;
    size_t bytes;
    _Atomic uint64_t sink; /* so that nothing read is thrown away unread */
    size_t rounds;
};

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t read_streams(const unsigned char *p, size_t bytes)
{
    __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    const size_t part = bytes / 4 & ~(size_t)127;
    for (size_t i = 0; i < part; i += 128)
        for (size_t s = 0; s < 4; s++)
            for (size_t j = 0; j < 128; j += 32)
                sum[s] = _mm256_xor_si256(sum[s], _mm256_load_si256((const __m256i *)(const void *)(p + s * part + i + j)));
    __m256i all = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
    return (uint64_t)_mm256_extract_epi64(all, 0) ^ (uint64_t)_mm256_extract_epi64(all, 3);
}

#define SUM(n)                                                                                                                             \
    "vpmaddubsw %%ymm15, %%ymm14, %%ymm12\n\tvpmaddwd %%ymm13, %%ymm12, %%ymm12\n\tvpaddd %%ymm12, %%ymm" #n ", %%ymm" #n "\n\t"
/* 12 x 32 multiply-adds a round */
__attribute__((target("avx2"))) static void dot_rounds_avx2(size_t rounds)
{
    for (size_t i = 0; i < rounds; i++)
        __asm__ volatile(SUM(0) SUM(1) SUM(2) SUM(3) SUM(4) SUM(5) SUM(6) SUM(7) SUM(8) SUM(9) SUM(10) SUM(11)::
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12");
}
#undef SUM
#define SUM(n) "vpdpbusd %%zmm15, %%zmm14, %%zmm" #n "\n\t"
/* 12 x 64 multiply-adds a round */
__attribute__((target("avx512f"))) static void dot_rounds_vnni(size_t rounds)
{
    for (size_t i = 0; i < rounds; i++)
        __asm__ volatile(SUM(0) SUM(1) SUM(2) SUM(3) SUM(4) SUM(5) SUM(6) SUM(7) SUM(8) SUM(9) SUM(10) SUM(11)::
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11");
}
#undef SUM

static double dot_rounds(size_t rounds)
{
    bool vnni = __builtin_cpu_supports("avx512vnni");
    if (vnni)
        dot_rounds_vnni(rounds);
    else
        dot_rounds_avx2(rounds);
    return (vnni ? 64 : 32) * 12.0 * 2 * (double)rounds; /* operations */
}
#else
static uint64_t read_streams(const unsigned char *p, size_t bytes)
{
    uint64_t sum[4] = {0}, v;
    const size_t part = bytes / 4 & ~(size_t)7;
    for (size_t i = 0; i < part; i += 8)
        for (size_t s = 0; s < 4; s++) {
            memcpy(&v, p + s * part + i, 8);
            sum[s] ^= v;
        }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

static double dot_rounds(size_t rounds)
{
    (void)rounds;
    return 0;
}
#endif

static void read_share(void *arg, int thread, int n_threads)
{
    struct ceiling *c = arg;
    size_t each = c->bytes / (size_t)n_threads & ~(size_t)511;
    atomic_fetch_xor(&c->sink, read_streams(c->data + (size_t)thread * each, each));
}

static void dot_share(void *arg, int thread, int n_threads)
{
    (void)thread;
    (void)n_threads;
    dot_rounds(((struct ceiling *)arg)->rounds);
}

/* Best of some runs, bytes or operations a second. */
static double measure_read(struct threads *t)
{
    struct ceiling c = {.bytes = READ_AT_ONCE};
    void *p = mmap(NULL, READ_BYTES + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return 0;
    unsigned char *data = (unsigned char *)(((uintptr_t)p + (2 << 20) - 1) & ~(uintptr_t)((2 << 20) - 1));
    madvise(data, READ_BYTES, MADV_HUGEPAGE);
    memset(data, 1, READ_BYTES);
    double best = 0;
    for (size_t i = 0; i < 8 * (READ_BYTES / READ_AT_ONCE); i++) {
        c.data = data + i % (READ_BYTES / READ_AT_ONCE) * READ_AT_ONCE;
        double t0 = now_s();
        threads_run(t, read_share, &c);
        double rate = (double)c.bytes / (now_s() - t0);
        if (rate > best) best = rate;
    }
    munmap(p, READ_BYTES + (2 << 20));
    return best;
}

static double measure_dot(struct threads *t)
{
    struct ceiling c = {.rounds = 100000};
    double best = 0;
    for (int i = 0; i < 300; i++) {
        double t0 = now_s();
        threads_run(t, dot_share, &c);
        double rate = (double)threads_count(t) * dot_rounds(1) * (double)c.rounds / (now_s() - t0);
        if (rate > best) best = rate;
    }
    return best;
}

/* --- products --- */
struct shape {
    const char *name;
    size_t n, k;
};
static const struct shape small_shapes[] = {{"135m qkv", 960, 576},   {"135m o", 576, 576},    {"135m gate", 1536, 576},
                                            {"135m down", 576, 1536}, {"135m head", 49152, 576}, {"360m gate", 2560, 960},
                                            {"360m down", 960, 2560}, {"360m head", 49152, 960}};
static const struct shape large_shapes[] = {
    {"1.7b qkv", 6144, 2048}, {"1.7b o", 2048, 2048}, {"1.7b gate", 8192, 2048}, {"1.7b down", 2048, 8192}, {"1.7b head", 49152, 2048}};
enum { MOST_COPIES = 256, MOST_RUNS = 4096 };

struct bench {
    struct device *d;
    const struct shape *s;
    const struct quant_format *f;
    struct weight *copies[MOST_COPIES];
    size_t n_copies;
    float *x, *in;
    double read_peak, dot_peak;
};

static int pack_copies(struct bench *b, const bf16 *matrix, struct err *e)
{
    const size_t bytes = b->f ? quant_bytes(b->f, b->s->n, b->s->k) : b->s->n * b->s->k * 2, enough = (size_t)192 << 20;
    size_t copies = enough / bytes + 1;
    if (copies > MOST_COPIES) copies = MOST_COPIES;
    int rc = 0;
    for (b->n_copies = 0; b->n_copies < copies && !rc; b->n_copies += !rc) {
        struct weight_part part = {.data = matrix, .dtype = DTYPE_BF16, .rows = b->s->n};
        rc = ops_cpu.weight_pack(b->d, PACK_LINEAR, &part, 1, b->s->k, b->f, &b->copies[b->n_copies], e);
    }
    return rc;
}

static int products(struct bench *b, size_t rows, struct err *e)
{
    static double runs[MOST_RUNS];
    size_t n = 0;
    int rc = 0;
    for (double start = now_s(); !rc && n < MOST_RUNS && (n < 5 || now_s() - start < seconds_each); n++) {
        struct project_args a = {b->x, b->in, b->copies[n % b->n_copies], NULL, rows, b->s->n, b->s->k, true, NULL};
        double t0 = now_s();
        rc = ops_cpu.project(b->d, &a, e);
        runs[n] = now_s() - t0;
    }
    if (rc) return rc;
    qsort(runs, n, sizeof *runs, by_value);
    double s = runs[0], read = (double)ops_cpu.weight_bytes(b->copies[0]) / s, ops = 2.0 * (double)(rows * b->s->n * b->s->k) / s;
    printf("%-10s %5zu x %4zu  %-5s %4zu rows  %9.4f ms (median %9.4f)  %7.2f GB/s %5.1f %%  %8.1f GOP/s %5.1f %%\n", b->s->name, b->s->n, b->s->k,
           !b->f ? "bf16" : b->f->bits == 8 ? "int8" : "int4", rows, s * 1e3, runs[n / 2] * 1e3, read / 1e9, 100 * read / b->read_peak, ops / 1e9,
           100 * ops / b->dot_peak);
    fflush(stdout);
    return 0;
}

static int bench_shape(struct bench *b, const char *isa, int threads, const size_t *rows, size_t n_rows, struct err *e)
{
    const struct quant_format *formats[] = {NULL, &quant_int8, &quant_int4};
    size_t most = 1;
    for (size_t i = 0; i < n_rows; i++) most = rows[i] > most ? rows[i] : most;
    const struct device_limits limits = {
        .max_rows = most, .max_sequences = 1, .max_blocks_per_sequence = 1, .hidden = b->s->k, .head_dim = 64, .heads = 1, .kv_heads = 1};
    bf16 *matrix = malloc(b->s->n * b->s->k * sizeof *matrix);
    b->x = calloc(most * b->s->n, sizeof(float));
    b->in = malloc(most * b->s->k * sizeof(float));
    int rc = matrix && b->x && b->in ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    uint32_t state = 1;
    for (size_t i = 0; i < b->s->n * b->s->k && !rc; i++)
        matrix[i] = bf16_from_f32((float)(int32_t)(state = state * 1664525u + 1013904223u) * 0x1p-36f);
    for (size_t i = 0; i < most * b->s->k && !rc; i++) b->in[i] = (float)(int32_t)(state = state * 1664525u + 1013904223u) * 0x1p-31f;
    for (size_t f = 0; f < 3 && !rc; f++) {
        b->f = formats[f];
        rc = ops_cpu.open(&b->d, &(struct device_options){.compute = COMPUTE_BF16, .threads = threads, .isa = isa}, e);
        if (!rc) rc = ops_cpu.reserve(b->d, &limits, e);
        if (!rc) rc = pack_copies(b, matrix, e);
        for (size_t i = 0; i < n_rows && !rc; i++) rc = products(b, rows[i], e);
        for (size_t i = 0; i < b->n_copies; i++) ops_cpu.weight_free(b->d, b->copies[i]);
        b->n_copies = 0;
        ops_cpu.close(b->d);
        b->d = NULL;
    }
    free(matrix);
    free(b->x);
    free(b->in);
    return rc;
}

static size_t parse_rows(char *text, size_t *rows, size_t most)
{
    size_t n = 0;
    for (char *p = strtok(text, ","); p && n < most; p = strtok(NULL, ",")) rows[n++] = (size_t)strtoul(p, NULL, 10);
    return n;
}

int main(int argc, char **argv)
{
    enum { THREADS = 1, ISA, ROWS, SECONDS, SIZE, CPU_TIME };
    static const struct option options[] = {{"threads", 1, NULL, THREADS}, {"isa", 1, NULL, ISA},   {"rows", 1, NULL, ROWS},
                                            {"seconds", 1, NULL, SECONDS}, {"size", 1, NULL, SIZE}, {"cpu-time", 0, NULL, CPU_TIME}, {NULL, 0, NULL, 0}};
    const char *isa = NULL, *size = NULL;
    size_t rows[16] = {1, 4, 8, 512}, n_rows = 4;
    int threads = 2, c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == THREADS) threads = atoi(optarg);
        if (c == ISA) isa = optarg;
        if (c == ROWS) n_rows = parse_rows(optarg, rows, 16);
        if (c == SECONDS) seconds_each = atof(optarg);
        if (c == SIZE) size = optarg;
        if (c == CPU_TIME) cpu_time = true;
        if (c == '?') return 2;
    }
    if (threads < 1 || n_rows == 0) return fprintf(stderr, "bench_linear: --threads and --rows are 1 or more\n"), 2;
    if (cpu_time && threads != 1) return fprintf(stderr, "bench_linear: --cpu-time is for one thread\n"), 2;
    struct err e = {0};
    struct threads *t;
    struct bench b = {0};
    int rc = threads_new(&t, threads, false, &e);
    if (!rc) {
        b.read_peak = measure_read(t);
        b.dot_peak = measure_dot(t);
        printf("%d threads: reads %.2f GB/s, int8 multiply-adds %.1f GOP/s\n", threads, b.read_peak / 1e9, b.dot_peak / 1e9);
        threads_free(t);
    }
    for (size_t i = 0; i < sizeof small_shapes / sizeof *small_shapes && !rc && (!size || !strcmp(size, "small")); i++) {
        b.s = &small_shapes[i];
        rc = bench_shape(&b, isa, threads, rows, n_rows, &e);
    }
    for (size_t i = 0; i < sizeof large_shapes / sizeof *large_shapes && !rc && (!size || !strcmp(size, "large")); i++) {
        b.s = &large_shapes[i];
        rc = bench_shape(&b, isa, threads, rows, n_rows, &e);
    }
    if (rc) fprintf(stderr, "bench_linear: %s\n", e.msg);
    return rc ? 1 : 0;
}
