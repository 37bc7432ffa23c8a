/* The pool of media processes on its loop, with decoders that do what pictures tell them (tests/fault/bad_media): whose fault an end is, what
 * is tried again, what waits and how much of it, what is taken back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/media/media_packets.h"
#include "server/media_proc.h"
#include "tests/fault/bad_media/bad_answer.h"

enum { WAIT_MS = 20000, CAGED = MEDIA_SLOWNESS == 1 }; /* the address and thread sanitizers need what the cage forbids */

static struct loop *l;
static struct media_pool *pool;
static struct limits limits;
static int64_t stop_ms;
static const int *stop_when;
static char failure[512];

static int on_wait(void *ctx)
{
    (void)ctx;
    if ((stop_when && *stop_when) || clock_boot_ms() >= stop_ms) loop_stop(l);
    return 1;
}

static void run_until(const int *flag, int64_t most_ms)
{
    stop_when = flag;
    stop_ms = clock_boot_ms() + most_ms;
    loop_before_wait(l, on_wait, NULL);
    assert_int_equal(loop_run(l, NULL), 0);
}

static void failed(void *ctx, const struct err *why)
{
    (void)ctx;
    snprintf(failure, sizeof failure, "%s", why->msg);
}

static void pool_start(int n_processes)
{
    struct media_pool_config c = {.n_processes = n_processes, .limits = &limits, .failed = failed};
    struct err e = {0};
    if (media_pool_new(&pool, l, &c, &e)) fail_msg("%s", e.msg);
}

static int setup(void **state)
{
    (void)state;
    limits_init(&limits);
    limits.decode_wall_ms = 500;
    pool = NULL;
    failure[0] = '\0';
    return loop_new(&l, NULL);
}

static int teardown(void **state)
{
    (void)state;
    media_pool_free(pool);
    loop_free(l);
    return 0;
}

struct call {
    struct media_call_state base;
    int done;
    struct err err;
    int width;
};

static void call_done(struct media_call_state *s, struct media_reply *r)
{
    struct call *c = (struct call *)s;
    c->done++;
    c->err = r->err;
    c->width = r->grid.width;
    if (r->tiles_fd >= 0) close(r->tiles_fd);
}

/* A PNG's header is enough for a probe; what it is to do stands behind it. */
static int picture(const char *act)
{
    static const unsigned char head[33] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n', 0, 0, 0, 13, 'I',  'H',  'D',  'R', 0,
                                           0,    0,   40,  0,   0,    0,    30,   8,    2, 0, 0, 0,  0xB4, 0x52, 0x39, 0xF5};
    char bytes[128];
    memcpy(bytes, head, sizeof head);
    int n = snprintf(bytes + sizeof head, sizeof bytes - sizeof head, "%s", act);
    int fd = media_bytes_fd(bytes, sizeof head + (size_t)n, NULL);
    assert_true(fd >= 0);
    return fd;
}

static void call_start(struct call *c, enum media_call what, int fd)
{
    static const struct image_settings settings = {.longest_edge = 96,
                                                   .tile_px = 96,
                                                   .tokens_per_tile = 36,
                                                   .resample = 1,
                                                   .mean = {0.5f, 0.5f, 0.5f},
                                                   .std = {0.5f, 0.5f, 0.5f},
                                                   .rescale = 1 / 255.0};
    *c = (struct call){.base = {.request = {.call = what, .image_fd = fd, .settings = settings}, .n_bytes = 100, .done = call_done}};
    media_pool_call(pool, &c->base);
}

static struct err ask(int fd)
{
    struct call c;
    call_start(&c, MEDIA_PROBE, fd);
    run_until(&c.done, WAIT_MS);
    assert_int_equal(c.done, 1);
    return c.err;
}

static void test_a_picture_that_kills_its_decoder_is_at_fault(void **state)
{
    (void)state;
    static const char *const acts[] = {"BAD!probe fork.", "BAD!probe null.", "BAD!probe exit_0.", "BAD!probe another_id.",
                                       "BAD!probe abort."};
    pool_start(1);
    unsigned n_before = 0; /* pictures that were read so far */
    for (size_t i = CAGED ? 0 : 1; i < sizeof acts / sizeof *acts; i++, n_before++) {
        int bad = picture(acts[i]), good = picture("");
        unsigned before = media_info(pool).restarts;
        struct err e = ask(bad);
        if (e.code != ERR_INPUT) fail_msg("%s: %s", acts[i], e.msg);
        assert_int_equal(ask(good).code, ERR_NONE);
        assert_int_equal(media_info(pool).restarts,
                         before + 1 + (n_before > 0)); /* from the second on, the decoder had read a picture before */
        close(bad);
        close(good);
    }
}

/* The one that dies had answered before: it may be that picture's doing. */
static void test_a_suspected_decoder_gives_its_picture_a_second_try(void **state)
{
    (void)state;
    pool_start(1);
    int bad = picture("BAD!probe null."), good = picture("");
    assert_int_equal(ask(good).code, ERR_NONE);
    assert_int_equal(media_info(pool).restarts, 0);
    assert_int_equal(ask(bad).code, ERR_INPUT);
    run_until(NULL, 300);
    assert_int_equal(media_info(pool).restarts, 2); /* tried twice */
    assert_int_equal(ask(bad).code, ERR_INPUT);
    run_until(NULL, 300);
    assert_int_equal(media_info(pool).restarts, 3); /* tried once: that decoder had read nothing else */
    close(bad);
    close(good);
}

static pid_t only_child(void)
{
    char path[64], text[64] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "r");
    if (f && !fgets(text, sizeof text, f)) text[0] = '\0';
    if (f) fclose(f);
    return (pid_t)atoi(text);
}

static void test_a_decoder_killed_from_outside_is_nobodys_fault(void **state)
{
    (void)state;
    static const int signals[] = {SIGKILL, SIGTERM};
    pool_start(1);
    int good = picture(""), slow = picture("BAD!probe wait.");
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(ask(good).code, ERR_NONE);
        struct call c;
        call_start(&c, MEDIA_PROBE, slow);
        run_until(NULL, 50);
        kill(only_child(), signals[i]);
        run_until(&c.done, WAIT_MS);
        assert_int_equal(c.err.code, ERR_GONE);
    }
    close(good);
    close(slow);
}

static void test_a_deaf_decoder_is_ended_in_time(void **state)
{
    (void)state;
    if (!CAGED) skip(); /* its time is long there */
    pool_start(1);
    int slow = picture("BAD!probe wait_deaf."), good = picture("");
    int64_t start_ms = clock_boot_ms();
    struct err e = ask(slow);
    int64_t took_ms = clock_boot_ms() - start_ms;
    assert_int_equal(e.code, ERR_LIMIT);
    if (took_ms < 1000 || took_ms > 10000) fail_msg("%lld ms", (long long)took_ms); /* 500 of its own and 500 of grace */
    assert_int_equal(ask(good).code, ERR_NONE);
    close(slow);
    close(good);
}

static void test_the_queue_is_bounded_by_count(void **state)
{
    (void)state;
    enum { N = 30 };
    limits.media_queue = 20;
    pool_start(1); /* not ready yet: all of them wait */
    int good = picture("");
    struct call calls[N], decode;
    for (int i = 0; i < N; i++) call_start(&calls[i], MEDIA_PROBE, good);
    for (int i = 0; i < N; i++) {
        assert_int_equal(calls[i].done, i >= 20);
        if (i >= 20) assert_int_equal(calls[i].err.code, ERR_BUSY);
    }
    call_start(&decode, MEDIA_DECODE, good); /* of a request that was let in */
    assert_int_equal(decode.done, 0);
    assert_int_equal(media_info(pool).waiting, 21);
    run_until(&decode.done, WAIT_MS);
    for (int i = 0; i < 20; i++) assert_int_equal(calls[i].err.code, ERR_NONE);
    assert_int_equal(media_info(pool).waiting, 0);
    assert_int_equal(ask(good).code, ERR_NONE);
    close(good);
}

static void test_the_queue_is_bounded_by_bytes(void **state)
{
    (void)state;
    limits.media_queue_bytes = 250;
    pool_start(1);
    int good = picture("");
    struct call calls[3];
    for (int i = 0; i < 3; i++) call_start(&calls[i], MEDIA_PROBE, good); /* of 100 each */
    assert_int_equal(calls[0].done, 0);
    assert_int_equal(calls[1].done, 0);
    assert_int_equal(calls[2].done, 1);
    assert_int_equal(calls[2].err.code, ERR_BUSY);
    assert_true(media_pool_take_back(pool, &calls[0].base));
    call_start(&calls[2], MEDIA_PROBE, good);
    assert_int_equal(calls[2].done, 0);
    run_until(&calls[2].done, WAIT_MS);
    close(good);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* From anywhere in the list, each in constant time. */
static void test_calls_are_taken_back_in_constant_time(void **state)
{
    (void)state;
    enum { MANY = 200000 };
    limits.media_queue = 1000000;
    limits.media_queue_bytes = INT64_C(1) << 40;
    pool_start(1);
    int good = picture("");
    struct call *calls = calloc(MANY, sizeof *calls);
    double each[2];
    for (int round = 0; round < 2; round++) {
        int n = round ? MANY : MANY / 10;
        for (int i = 0; i < n; i++) call_start(&calls[i], MEDIA_PROBE, good);
        double start = seconds();
        for (int i = 0; i < n; i++) { /* 7919 is prime to both: every place in the list */
            struct media_call_state *c = &calls[(int64_t)i * 7919 % n].base;
            if (!media_pool_take_back(pool, c)) fail_msg("%d was not waiting", i);
            assert_false(media_pool_take_back(pool, c));
        }
        each[round] = (seconds() - start) / n;
        assert_int_equal(media_info(pool).waiting, 0);
    }
    print_message("    taken back in %.0f ns of %d, %.0f ns of %d\n", each[0] * 1e9, MANY / 10, each[1] * 1e9, MANY);
    assert_true(each[1] < 10 * each[0] + 1e-6); /* a walk would be 100 us */
    assert_int_equal(ask(good).code, ERR_NONE);
    for (int i = 0; i < MANY; i++) assert_int_equal(calls[i].done, 0);
    free(calls);
    close(good);
}

static void test_the_order_of_calls_holds_when_some_are_taken_back(void **state)
{
    (void)state;
    enum { N = 9 };
    pool_start(1);
    int good = picture("");
    struct call calls[N];
    for (int i = 0; i < N; i++) call_start(&calls[i], MEDIA_PROBE, good);
    for (int i = 0; i < N; i += 4) assert_true(media_pool_take_back(pool, &calls[i].base)); /* first, middle, last */
    run_until(&calls[N - 2].done, WAIT_MS);
    for (int i = 0; i < N; i++) assert_int_equal(calls[i].done, i % 4 != 0);
    close(good);
}

static void test_larger_pictures_get_decoders_with_more_memory(void **state)
{
    (void)state;
    limits.image_pixels = 1000; /* the picture has 1200 */
    pool_start(1);
    int good = picture("");
    assert_int_equal(ask(good).code, ERR_LIMIT);
    limits.image_pixels = 1200;
    media_pool_set_limits(pool, &limits);
    assert_int_equal(ask(good).code, ERR_NONE);
    assert_int_equal(media_info(pool).restarts, 1);
    limits.image_pixels = 1000;
    media_pool_set_limits(pool, &limits);
    assert_int_equal(ask(good).code, ERR_LIMIT);
    assert_int_equal(media_info(pool).restarts, 1);
    close(good);
}

static void test_a_worn_decoder_is_replaced(void **state)
{
    (void)state;
    pool_start(1);
    int worn = picture("BAD!probe worn."), good = picture("");
    assert_int_equal(ask(worn).code, ERR_NONE);
    assert_int_equal(ask(good).code, ERR_NONE);
    assert_int_equal(media_info(pool).restarts, 1);
    assert_int_equal(ask(good).code, ERR_NONE);
    assert_int_equal(media_info(pool).restarts, 1);
    close(worn);
    close(good);
}

static void test_a_cage_that_cannot_be_had_is_told(void **state)
{
    (void)state;
    setenv("TEST_MEDIA_REFUSES", "1", 1);
    pool_start(1);
    unsetenv("TEST_MEDIA_REFUSES");
    int good = picture("");
    struct err e = ask(good);
    assert_int_equal(e.code, ERR_GONE);
    assert_string_equal(failure, "seccomp: no such thing");
    assert_int_equal(ask(good).code, ERR_NONE); /* the next one can */
    close(good);
}

/* As a process says it that cannot enter the cage. */
static int refusing_media(void)
{
    struct media_setup_packet setup;
    struct media_hello_packet hello = {.magic = MEDIA_MAGIC, .version = MEDIA_VERSION, .code = ERR_IO, .msg = "seccomp: no such thing"};
    int fd, rc = media_packet_recv(3, &setup, sizeof setup, &fd, NULL);
    return rc || media_packet_send(3, &hello, sizeof hello, -1, NULL) ? 2 : 1;
}

#define POOL_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc > 1 && !strcmp(argv[1], "media")) return getenv("TEST_MEDIA_REFUSES") ? refusing_media() : media_process(bad_answer);
    log_setup(LOG_ERROR, "test");
    const struct CMUnitTest tests[] = {
        POOL_TEST(test_a_picture_that_kills_its_decoder_is_at_fault),
        POOL_TEST(test_a_suspected_decoder_gives_its_picture_a_second_try),
        POOL_TEST(test_a_decoder_killed_from_outside_is_nobodys_fault),
        POOL_TEST(test_a_deaf_decoder_is_ended_in_time),
        POOL_TEST(test_the_queue_is_bounded_by_count),
        POOL_TEST(test_the_queue_is_bounded_by_bytes),
        POOL_TEST(test_calls_are_taken_back_in_constant_time),
        POOL_TEST(test_the_order_of_calls_holds_when_some_are_taken_back),
        POOL_TEST(test_larger_pictures_get_decoders_with_more_memory),
        POOL_TEST(test_a_worn_decoder_is_replaced),
        POOL_TEST(test_a_cage_that_cannot_be_had_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
