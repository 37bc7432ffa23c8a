/* bench_read: how fast this machine's cores read memory, the ceiling of every decode step.
 *
 *     bench_read [--threads N] [--mib N] [--repeat N]
 *
 * One buffer on large pages (madvise; each thread touches its own part first), read from its beginning to its end by all threads at once: each reads its
 * part as 1, 2, 4 or 8 streams side by side. Prints a JSON object a setting, then the best of all as the ceiling. Sums are kept, so that nothing is
 * left out; they cost nothing beside the memory. */
#include <getopt.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"

enum { MAX_THREADS = 256, MAX_STREAMS = 8, WORD_PARTS = 4, HUGE_BYTES = 2 << 20 };

typedef uint64_t word __attribute__((vector_size(32)));

struct part {
    pthread_t thread;
    pthread_barrier_t *barrier;
    word *data;
    size_t n_words;
    int streams, repeat;
    word sum;
    int64_t *from_ns, *to_ns; /* (repeat): of the whole, written by the first thread */
    bool first;
};

/* Streams are unrolled by the compiler: their number is a constant where this is called. */
static inline __attribute__((always_inline)) void sum_streams(word *sum, const word *p, size_t n, int streams)
{
    size_t each = n / (size_t)streams;
    word sums[MAX_STREAMS] = {{0}};
    for (size_t i = 0; i < each; i++) {
#pragma GCC unroll 8
        for (int s = 0; s < streams; s++) sums[s] += p[(size_t)s * each + i];
    }
    for (int s = 0; s < streams; s++) *sum += sums[s];
}

__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) static void read_part(word *sum, const word *p, size_t n,
                                                                                                    int streams)
{
    switch (streams) {
    case 1:
        sum_streams(sum, p, n, 1);
        break;
    case 2:
        sum_streams(sum, p, n, 2);
        break;
    case 4:
        sum_streams(sum, p, n, 4);
        break;
    default:
        sum_streams(sum, p, n, 8);
    }
}

static void *run_part(void *ctx)
{
    struct part *p = ctx;
    memset(p->data, 1, p->n_words * sizeof *p->data);
    for (int i = 0; i < p->repeat; i++) {
        pthread_barrier_wait(p->barrier);
        if (p->first) p->from_ns[i] = clock_boot_ns();
        read_part(&p->sum, p->data, p->n_words, p->streams);
        pthread_barrier_wait(p->barrier);
        if (p->first) p->to_ns[i] = clock_boot_ns();
    }
    return NULL;
}

/* Best rate of `repeat` passes, in bytes a second. */
static double measure(word *data, size_t n_words, int threads, int streams, int repeat)
{
    static struct part parts[MAX_THREADS];
    pthread_barrier_t barrier;
    int64_t *ns = calloc((size_t)repeat * 2, sizeof *ns), best = INT64_MAX;
    CHECK(ns && pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
    size_t each = n_words / (size_t)threads / MAX_STREAMS * MAX_STREAMS;
    for (int i = 0; i < threads; i++) {
        parts[i] = (struct part){.barrier = &barrier,
                                 .data = data + (size_t)i * each,
                                 .n_words = each,
                                 .streams = streams,
                                 .repeat = repeat,
                                 .from_ns = ns,
                                 .to_ns = ns + repeat,
                                 .first = i == 0};
        CHECK(pthread_create(&parts[i].thread, NULL, run_part, &parts[i]) == 0);
    }
    uint64_t sum = 0;
    for (int i = 0; i < threads; i++) {
        pthread_join(parts[i].thread, NULL);
        for (int j = 0; j < WORD_PARTS; j++) sum += parts[i].sum[j];
    }
    CHECK(sum == 0x0101010101010101u * ((uint64_t)WORD_PARTS * each * (uint64_t)threads * (uint64_t)repeat)); /* everything was read */
    for (int i = 0; i < repeat; i++) best = ns[repeat + i] - ns[i] < best ? ns[repeat + i] - ns[i] : best;
    pthread_barrier_destroy(&barrier);
    free(ns);
    return (double)(each * sizeof(word) * (size_t)threads) / ((double)best / 1e9);
}

int main(int argc, char **argv)
{
    enum { THREADS = 1, MIB, REPEAT };
    static const struct option options[] = {
        {"threads", 1, NULL, THREADS}, {"mib", 1, NULL, MIB}, {"repeat", 1, NULL, REPEAT}, {NULL, 0, NULL, 0}};
    int threads = (int)sysconf(_SC_NPROCESSORS_ONLN), mib = 1024, repeat = 5;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == '?') return 2;
        *(c == THREADS ? &threads : c == MIB ? &mib : &repeat) = atoi(optarg);
    }
    if (threads < 1 || threads > MAX_THREADS || mib < 1 || mib > 1 << 20 || repeat < 1 || repeat > 1000)
        return fprintf(stderr, "bench_read: --threads 1..%d, --mib 1..1048576, --repeat 1..1000\n", MAX_THREADS), 2;
    size_t bytes = (size_t)mib << 20;
    char *map = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return fprintf(stderr, "bench_read: %d MiB cannot be had\n", mib), 1;
    char *data = map + (HUGE_BYTES - (uintptr_t)map % HUGE_BYTES) % HUGE_BYTES;
    madvise(data, bytes, MADV_HUGEPAGE);
    double ceiling = 0;
    for (int streams = 1; streams <= MAX_STREAMS; streams *= 2) {
        double rate = measure((word *)(void *)data, bytes / sizeof(word), threads, streams, repeat);
        printf("{\"threads\": %d, \"streams\": %d, \"gb_per_s\": %.2f}\n", threads, streams, rate / 1e9);
        ceiling = rate > ceiling ? rate : ceiling;
    }
    printf("{\"threads\": %d, \"ceiling_gb_per_s\": %.2f}\n", threads, ceiling / 1e9);
    munmap(map, bytes + HUGE_BYTES);
    return 0;
}
