/* Groups of devices (kernels/cuda/group.cu): sums over processes, and what becomes of a group that one of them leaves alone. NCCL is tests/cuda/fake_nccl.cpp.
 * Each rank is a process that is forked before anything of the device is touched. `without`: where there is no NCCL. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "kernels/backend.h"
#include "kernels/bf16.h"

enum { RANKS = 3, N = 700, TURNS = 5, SHORT_MS = 300 };

/* What a rank has to say, in memory that all share. */
struct report {
    int rc, again; /* of the first call that failed, and of the next one */
    int64_t took_ms;
    struct err e, e_again;
    float sums[N];
};

static const struct ops *ops;

static float value(int rank, size_t i, int turn)
{
    return (float)(rank + 1) + (float)(i % 50) * 0.5f + (float)turn; /* and sums of three of them: exact in bf16 up to 256 */
}

/* The number of device `rank` is in the group `rank`. Returns how the first sum ended; sums of TURNS turns in order. */
static int sum(struct device *d, int rank, enum dtype dtype, struct report *out)
{
    void *x = NULL;
    size_t bytes = N * (dtype == DTYPE_F32 ? sizeof(float) : sizeof(bf16));
    float f[N];
    bf16 b[N];
    void *host = dtype == DTYPE_F32 ? (void *)f : (void *)b;
    int rc = ops->alloc(d, bytes, &x, &out->e);
    for (int turn = 0; turn < TURNS && !rc; turn++) {
        for (size_t i = 0; i < N; i++) b[i] = bf16_from_f32(f[i] = value(rank, i, turn));
        rc = ops->upload(d, x, host, bytes, &out->e);
        if (!rc) rc = ops->all_reduce(d, x, 7, N / 7, dtype, &out->e);
        if (!rc) rc = ops->read_back(d, host, x, bytes, &out->e);
        for (size_t i = 0; i < N; i++) out->sums[i] += dtype == DTYPE_F32 ? f[i] : bf16_to_f32(b[i]);
    }
    if (rc) out->again = ops->all_reduce(d, x, 7, N / 7, dtype, &out->e_again);
    ops->free(d, x);
    return rc;
}

static void rank_run(int rank, int size, const unsigned char *id, enum dtype dtype, int limit_ms, struct report *out)
{
    struct device *d = NULL;
    struct device_group g = {.rank = rank, .size = size, .limit_ms = limit_ms};
    memcpy(g.id, id, sizeof g.id);
    int64_t from_ms = clock_boot_ms();
    out->rc = ops->open(&d, &(struct device_options){.compute = COMPUTE_BF16, .gpu = rank, .group = &g}, &out->e);
    if (!out->rc) out->rc = sum(d, rank, dtype, out);
    out->took_ms = clock_boot_ms() - from_ms;
    ops->close(d);
}

/* Runs so many of the ranks of a group of `size`. */
static struct report *group_run(int ranks, int size, enum dtype dtype, int limit_ms)
{
    struct report *reports = mmap(NULL, RANKS * sizeof *reports, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned char id[DEVICE_GROUP_ID_BYTES];
    struct err e;
    pid_t pids[RANKS];
    int status;
    assert_true(reports != MAP_FAILED);
    if (ops->group_id(id, &e)) fail_msg("%s", e.msg);
    for (int r = 0; r < ranks; r++) {
        pids[r] = fork();
        if (pids[r] == 0) {
            rank_run(r, size, id, dtype, limit_ms, &reports[r]);
            _exit(0);
        }
    }
    for (int r = 0; r < ranks; r++) {
        assert_int_equal(waitpid(pids[r], &status, 0), pids[r]);
        assert_int_equal(status, 0);
    }
    return reports;
}

static void check_sums(enum dtype dtype)
{
    struct report *reports = group_run(RANKS, RANKS, dtype, 0);
    for (int r = 0; r < RANKS; r++) {
        if (reports[r].rc) fail_msg("rank %d: %s", r, reports[r].e.msg);
        for (size_t i = 0; i < N; i++) {
            float want = 0;
            for (int k = 0; k < RANKS; k++)
                for (int turn = 0; turn < TURNS; turn++) want += value(k, i, turn);
            assert_true(reports[r].sums[i] == want);
        }
    }
}

static void test_float32_is_summed_over_all_ranks(void **state)
{
    (void)state;
    check_sums(DTYPE_F32);
}

static void test_bf16_is_summed_over_all_ranks(void **state)
{
    (void)state;
    check_sums(DTYPE_BF16);
}

static void check_gone(const struct report *r, int rank, int size, const char *why)
{
    char want[160];
    snprintf(want, sizeof want, "cuda: rank %d of %d: %s", rank, size, why);
    assert_int_equal(r->rc, -ERR_GONE);
    assert_string_equal(r->e.msg, want);
}

static void test_a_rank_that_hangs_ends_the_group_in_time(void **state)
{
    (void)state;
    setenv("FAKE_NCCL", "hang:1", 1);
    struct report *reports = group_run(2, 2, DTYPE_F32, SHORT_MS);
    unsetenv("FAKE_NCCL");
    for (int r = 0; r < 2; r++) {
        check_gone(&reports[r], r, 2, "a collective has not ended within 0.3 s: the group is given up");
        assert_true(reports[r].took_ms >= SHORT_MS && reports[r].took_ms < 10 * SHORT_MS);
        assert_int_equal(reports[r].again, -ERR_GONE); /* and stays given up */
        assert_string_equal(reports[r].e_again.msg, reports[r].e.msg);
    }
}

static void test_an_error_that_nccl_reports_ends_the_group(void **state)
{
    (void)state;
    setenv("FAKE_NCCL", "error", 1);
    struct report *reports = group_run(2, 2, DTYPE_BF16, 0);
    unsetenv("FAKE_NCCL");
    for (int r = 0; r < 2; r++)
        check_gone(&reports[r], r, 2, "NCCL: remote process exited or there was a network error: the group is given up");
}

static void test_a_rank_that_nobody_meets_gives_up(void **state)
{
    (void)state;
    struct report *reports = group_run(1, 2, DTYPE_F32, SHORT_MS);
    check_gone(&reports[0], 0, 2, "the others have not come within 0.3 s");
    assert_true(reports[0].took_ms >= SHORT_MS && reports[0].took_ms < 10 * SHORT_MS);
}

static void test_a_device_alone_keeps_its_numbers(void **state)
{
    (void)state;
    struct device *d;
    struct err e;
    void *x;
    float f[2] = {1, 2};
    assert_int_equal(ops->open(&d, &(struct device_options){.compute = COMPUTE_BF16}, &e), 0);
    assert_int_equal(ops->alloc(d, sizeof f, &x, &e), 0);
    assert_int_equal(ops->upload(d, x, f, sizeof f, &e), 0);
    assert_int_equal(ops->all_reduce(d, x, 1, 2, DTYPE_F32, &e), 0);
    assert_int_equal(ops->read_back(d, f, x, sizeof f, &e), 0);
    assert_true(f[0] == 1 && f[1] == 2);
    ops->free(d, x);
    ops->close(d);
}

/* --- one device, several threads: each has a current device of its own, and a kernel runs on that of its stream --- */

enum { VOCAB = 100, BEST = 42 };

static void *sample_elsewhere(void *arg)
{
    struct device *d = arg;
    static struct err e;
    float logits[VOCAB] = {[BEST] = 5};
    void *x = NULL;
    struct sample_result r = {.token = -1};
    int rc = ops->alloc(d, sizeof logits, &x, &e);
    struct sample_row row = {.logits = x, .params = {.top_p = 1, .repetition_penalty = 1, .top_logprobs = -1}, .position = 1};
    if (!rc) rc = ops->upload(d, x, logits, sizeof logits, &e);
    if (!rc) rc = ops->sample(d, &row, 1, VOCAB, &r, &e);
    if (!rc) rc = ops->sampled(d, &e);
    ops->free(d, x);
    return rc ? e.msg : r.token == BEST ? NULL : "another token";
}

static void test_any_thread_computes_on_the_device_that_was_named(void **state)
{
    (void)state;
    struct device *d;
    struct err e;
    pthread_t thread;
    void *wrong;
    const struct device_limits l = {.max_rows = 8, .max_sequences = 2, .max_blocks_per_sequence = 1, .hidden = 64, .heads = 1, .kv_heads = 1,
                                    .head_dim = 64, .inter = 64, .vocab = VOCAB};
    char bus_id[32];
    assert_int_equal(ops->open(&d, &(struct device_options){.compute = COMPUTE_BF16, .gpu = 2}, &e), 0);
    assert_int_equal(ops->reserve(d, &l, &e), 0);
    assert_int_equal(pthread_create(&thread, NULL, sample_elsewhere, d), 0);
    assert_int_equal(pthread_join(thread, &wrong), 0);
    if (wrong) fail_msg("%s", (const char *)wrong);
    ops->bus_id(d, bus_id, sizeof bus_id);
    assert_string_equal(bus_id, "0000:03:00.0");
    ops->close(d);
}

static int check_without(void)
{
    unsigned char id[DEVICE_GROUP_ID_BYTES];
    struct err e;
    struct device *d = NULL;
    if (dlopen("libnccl.so.2", RTLD_NOW)) return 77; /* there is one */
    int rc = ops->group_id(id, &e);
    if (rc != -ERR_UNSUPPORTED || !strstr(e.msg, "need NCCL") || !strstr(e.msg, "libnccl.so.2")) return 1;
    struct device_group g = {.size = 2};
    rc = ops->open(&d, &(struct device_options){.compute = COMPUTE_BF16, .group = &g}, &e);
    return rc != -ERR_UNSUPPORTED || d || !strstr(e.msg, "need NCCL");
}

int main(int argc, char **argv)
{
    struct err e;
    ops = backend_find("cuda", SPILLWAY_TEST_CUDA, &e);
    if (!ops) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    if (argc > 1 && !strcmp(argv[1], "without")) return check_without();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float32_is_summed_over_all_ranks),
        cmocka_unit_test(test_bf16_is_summed_over_all_ranks),
        cmocka_unit_test(test_a_rank_that_hangs_ends_the_group_in_time),
        cmocka_unit_test(test_an_error_that_nccl_reports_ends_the_group),
        cmocka_unit_test(test_a_rank_that_nobody_meets_gives_up),
        cmocka_unit_test(test_a_device_alone_keeps_its_numbers),
        cmocka_unit_test(test_any_thread_computes_on_the_device_that_was_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
