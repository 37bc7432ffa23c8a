/* Supervision of processes: this program starts itself as `worker` and as `media`. The media process is the real one;
 * the worker is one that misbehaves as its MODEL argument says, over the real frame protocol: what a real worker must
 * never do has to be made somewhere. */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/worker.h"
#include "server/media_proc.h"
#include "server/worker_proc.h"

/* --- the worker's side --- */

static void worker_flush_all(struct frame_conn *c)
{
    while (frame_conn_flush(c, NULL) == 1) poll(&(struct pollfd){.fd = 3, .events = POLLOUT}, 1, -1);
}

static void worker_row(struct frame_conn *c, uint64_t sequence, const int32_t *tokens, uint32_t n, enum finish_reason finish)
{
    struct frame_step_row row = {.sequence = sequence, .tokens = tokens, .n_tokens = n, .finish = finish};
    if (frame_put_step(frame_conn_out(c), &(struct frame_step){.rows = &row, .n_rows = 1})) _exit(3);
}

static void worker_answer(struct frame_conn *c, const struct frame_submit *f, const char *how)
{
    uint64_t xid;
    if (sscanf(how, "xid %" SCNu64, &xid) == 1 && pwrite(WORKER_PROGRESS_FD, &xid, sizeof xid, WORKER_XID * sizeof xid) < 0) _exit(3);
    if (!strcmp(how, "die") || strstr(how, "and die")) raise(SIGKILL);
    if (!strcmp(how, "hang")) pause();
    if (!strcmp(how, "large token")) worker_row(c, f->sequence, (int32_t[]){1000}, 1, FINISH_NONE);
    if (!strcmp(how, "many tokens")) worker_row(c, f->sequence, (int32_t[]){1, 2, 3, 4, 5, 6}, 6, FINISH_NONE);
    if (!strcmp(how, "stranger")) worker_row(c, 1000, NULL, 0, FINISH_STOP);
    if (!strcmp(how, "garbage")) {
        char junk[64];
        memset(junk, 0xEE, sizeof junk);
        if (write(3, junk, sizeof junk) < 0) _exit(3);
    }
    if (strcmp(how, "echo") != 0 || f->n_ids == 1) return; /* a prompt of one token is never answered */
    struct stat st;
    for (uint32_t i = 0; i < f->n_fds; i++) /* told by the number of tokens: descriptors have arrived */
        if (fstat(f->fds[i], &st) == 0) worker_row(c, f->sequence, (int32_t[]){(int32_t)st.st_size}, 1, FINISH_NONE);
    for (uint32_t i = 0; i < f->n_ids; i++) worker_row(c, f->sequence, &f->ids[i], 1, i + 1 == f->n_ids ? FINISH_LENGTH : FINISH_NONE);
}

static int fake_worker(const char *how)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct frame_conn *c;
    struct frame f;
    if (!strcmp(how, "never")) return 78;
    if (frame_conn_new(&c, 3, 1 << 22, NULL)) return 3;
    struct frame_hello hello = {.version = FRAME_VERSION,
                                .max_context = 100,
                                .vocab = 1000,
                                .block_tokens = 16,
                                .n_blocks = 10,
                                .max_sequences = 10,
                                .image_token = -1,
                                .device = "test"};
    if (!strcmp(how, "version")) hello.version = 99;
    if (frame_put_hello(frame_conn_out(c), &hello)) return 3;
    for (;;) {
        worker_flush_all(c);
        poll(&(struct pollfd){.fd = 3, .events = POLLIN}, 1, -1);
        if (frame_conn_read(c, NULL)) return 0;
        while (frame_conn_next(c, &f, NULL) == 1) {
            if (f.type == FRAME_SUBMIT) {
                worker_answer(c, &f.u.submit, how);
                for (uint32_t i = 0; i < f.u.submit.n_fds; i++) close(f.u.submit.fds[i]);
            }
            if (f.type == FRAME_CANCEL) worker_row(c, f.u.cancel.sequence, NULL, 0, FINISH_CANCELLED);
        }
    }
}

/* --- the gateway's side --- */

struct sequence {
    struct worker_sequence base;
    int32_t tokens[16];
    int n_tokens, n_rows, n_down;
    enum finish_reason finish;
};

static struct {
    struct loop *loop;
    struct worker_proc *worker;
    struct loop_timer limit;
    int n_ready, n_down;
    int64_t ready_ms, down_ms;
    char why[512];
} t;

static struct limits limits;

static void on_ready(void *ctx, const struct frame_hello *h)
{
    (void)ctx;
    assert_int_equal(h->max_context, 100);
    t.n_ready++;
    t.ready_ms = clock_boot_ms();
}

static void on_down(void *ctx, const struct err *why)
{
    (void)ctx;
    t.n_down++;
    t.down_ms = loop_now_ms(t.loop); /* the clock that the wait is counted from: the real one may be past the next millisecond */
    snprintf(t.why, sizeof t.why, "%s", why->msg);
}

static void stop_loop(void *ctx)
{
    loop_stop(ctx);
}

static void run_for(int64_t ms)
{
    t.limit = (struct loop_timer){.fn = stop_loop, .ctx = t.loop};
    assert_int_equal(loop_timer_set(t.loop, &t.limit, clock_boot_ms() + ms), 0);
    assert_int_equal(loop_run(t.loop, NULL), 0);
}

static void run_until(const int *count, int at_least, int64_t max_ms)
{
    int64_t end_ms = clock_boot_ms() + max_ms;
    while (*count < at_least && clock_boot_ms() < end_ms) run_for(5);
    assert_true(*count >= at_least);
}

static void start_worker(const char *how)
{
    struct worker_config c = {.path = how, .name = "m", .limits = &limits};
    struct worker_events events = {.ready = on_ready, .down = on_down};
    struct err e = {0};
    if (worker_proc_new(&t.worker, t.loop, &c, &events, &e)) fail_msg("%s", e.msg);
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof t);
    limits_init(&limits);
    return loop_new(&t.loop, NULL);
}

static int teardown(void **state)
{
    (void)state;
    worker_proc_free(t.worker);
    loop_run_posted(t.loop);
    loop_free(t.loop);
    return 0;
}

static void take_row(struct worker_sequence *s, const struct frame_step_row *row)
{
    struct sequence *q = (struct sequence *)s;
    q->n_rows++;
    for (uint32_t i = 0; i < row->n_tokens && q->n_tokens < 16; i++) q->tokens[q->n_tokens++] = row->tokens[i];
    q->finish = row->finish;
}

static void take_down(struct worker_sequence *s, const struct err *why)
{
    assert_int_equal(why->code, ERR_GONE);
    assert_int_equal(s->id, 0);
    ((struct sequence *)s)->n_down++;
}

static int submit(struct sequence *q, uint32_t n_ids, int fd)
{
    static const int32_t ids[] = {5, 6, 7};
    *q = (struct sequence){.base = {.row = take_row, .down = take_down}};
    struct frame_tile tile = {0};
    struct frame_submit f = {
        .weight = 1, .ids = ids, .n_ids = n_ids, .sampling = {.top_p = 1, .repetition_penalty = 1, .top_logprobs = -1, .max_tokens = 5}};
    if (fd >= 0) {
        f.tiles = &tile;
        f.n_tiles = 1;
        f.fds = &fd;
        f.n_fds = 1;
    }
    struct err e;
    return worker_submit(t.worker, &q->base, &f, &e);
}

static void test_worker_tokens_come_back_in_order(void **state)
{
    (void)state;
    struct sequence a, b;
    start_worker("echo");
    assert_int_equal(submit(&a, 3, -1), -ERR_GONE); /* hello has not come yet */
    run_until(&t.n_ready, 1, 3000);
    assert_int_equal(submit(&a, 3, -1), 0);
    assert_int_equal(submit(&b, 2, -1), 0);
    run_until(&b.n_rows, 2, 2000);
    assert_int_equal(a.n_tokens, 3);
    assert_int_equal(a.tokens[2], 7);
    assert_int_equal(a.finish, FINISH_LENGTH);
    assert_int_equal(b.n_tokens, 2);
    assert_int_equal(a.base.id, 0);
}

static void test_worker_gets_descriptors(void **state)
{
    (void)state;
    struct sequence a;
    start_worker("echo");
    run_until(&t.n_ready, 1, 3000);
    int fd = media_bytes_fd("0123456789", 10, NULL);
    assert_true(fd >= 0);
    assert_int_equal(submit(&a, 2, fd), 0);
    close(fd);
    run_until(&a.n_rows, 3, 2000);
    assert_int_equal(a.tokens[0], 10);
}

static void test_worker_cancelled_sequence_is_silent(void **state)
{
    (void)state;
    struct sequence a, b;
    start_worker("echo");
    run_until(&t.n_ready, 1, 3000);
    assert_int_equal(submit(&a, 1, -1), 0);
    run_for(50);
    worker_cancel(t.worker, &a.base);
    worker_cancel(t.worker, &a.base); /* twice is no mistake */
    assert_int_equal(submit(&b, 2, -1), 0);
    run_until(&b.n_rows, 2, 2000);
    assert_int_equal(a.n_rows + a.n_down, 0);
    assert_int_equal(t.n_down, 0);
}

/* After its end everything in it fails once, and the next one is there well within 2 s. */
static void worker_ends(const char *how)
{
    struct sequence a, b;
    start_worker(how);
    run_until(&t.n_ready, 1, 3000);
    assert_int_equal(submit(&a, 2, -1), 0);
    assert_int_equal(submit(&b, 2, -1), 0);
    run_until(&t.n_down, 1, 2000);
    assert_int_equal(a.n_down, 1);
    assert_int_equal(b.n_down, 1);
    run_until(&t.n_ready, 2, 2000);
    assert_true(t.ready_ms - t.down_ms < 2000);
    assert_int_equal(a.n_down + b.n_down, 2);
}

static void test_worker_killed_is_restarted(void **state)
{
    (void)state;
    worker_ends("die");
}

static void test_worker_sending_garbage_is_ended(void **state)
{
    (void)state;
    worker_ends("garbage");
}

static void test_worker_answering_for_strangers_is_ended(void **state)
{
    (void)state;
    worker_ends("stranger");
    assert_non_null(strstr(t.why, "never was"));
}

static void worker_is_ended(const char *how, const char *why)
{
    struct sequence a;
    start_worker(how);
    run_until(&t.n_ready, 1, 3000);
    assert_int_equal(submit(&a, 2, -1), 0);
    run_until(&t.n_down, 1, 2000);
    assert_non_null(strstr(t.why, why));
    assert_int_equal(a.n_tokens, 0); /* nothing of what was wrong is passed on */
}

static void test_worker_with_a_token_outside_the_vocabulary_is_ended(void **state)
{
    (void)state;
    worker_is_ended("large token", "vocabulary");
}

static void test_worker_making_more_than_was_asked_for_is_ended(void **state)
{
    (void)state;
    worker_is_ended("many tokens", "asked for");
}

/* What its client has left is still in the worker, and can keep it from the next. */
static void test_worker_that_hangs_without_listeners_is_ended(void **state)
{
    (void)state;
    struct sequence a;
    limits.hang_ms = 200;
    start_worker("hang");
    run_until(&t.n_ready, 1, 3000);
    assert_int_equal(submit(&a, 2, -1), 0);
    worker_cancel(t.worker, &a.base);
    run_until(&t.n_down, 1, 3000);
    assert_non_null(strstr(t.why, "no progress"));
    assert_int_equal(a.n_down, 0);
    run_until(&t.n_ready, 2, 2000);
}

static void one_request(const char *how, struct sequence *a)
{
    start_worker(how);
    run_until(&t.n_ready, 1, 3000);
    assert_int_equal(submit(a, 2, -1), 0);
}

static void check_lost(const char *how)
{
    struct sequence a;
    one_request(how, &a);
    run_until(&t.n_down, 1, 3000);
    assert_string_equal(t.why, "its GPU reports Xid 79: it has fallen off the bus; it is not started again, as only a reset helps");
    assert_int_equal(a.n_down, 1);
    run_for(500);
    assert_int_equal(t.n_ready, 1);
    assert_string_equal(worker_info(t.worker).state, "lost");
    assert_string_equal(worker_lost(t.worker), "Xid 79: it has fallen off the bus");
}

static void test_worker_whose_gpu_is_lost_is_not_started_again(void **state)
{
    (void)state;
    check_lost("xid 79");
}

static void test_worker_that_dies_by_what_its_gpu_reports_says_so(void **state)
{
    (void)state;
    check_lost("xid 79 and die");
}

static void test_worker_whose_gpu_can_be_used_again_is_started_again(void **state)
{
    (void)state;
    struct sequence a;
    one_request("xid 94", &a);
    run_until(&t.n_down, 1, 3000);
    assert_non_null(strstr(t.why, "Xid 94"));
    run_until(&t.n_ready, 2, 3000);
    assert_null(worker_lost(t.worker));
    run_for(500); /* the event is not its successor's */
    assert_int_equal(t.n_down, 1);
}

static void test_worker_may_report_what_is_no_reason_to_end_it(void **state)
{
    (void)state;
    struct sequence a;
    one_request("xid 31", &a);
    run_for(500);
    assert_int_equal(t.n_down, 0);
}

static void test_worker_restarts_ever_more_slowly(void **state)
{
    (void)state;
    struct sequence a;
    start_worker("die");
    int64_t waits_ms[4];
    for (int i = 0; i < 4; i++) {
        run_until(&t.n_ready, i + 1, 5000);
        assert_int_equal(submit(&a, 2, -1), 0);
        run_until(&t.n_down, i + 1, 2000);
        run_until(&t.n_ready, i + 2, 5000);
        waits_ms[i] = t.ready_ms - t.down_ms;
    }
    assert_true(waits_ms[1] >= 100 && waits_ms[2] >= 200 && waits_ms[3] >= 400);
    assert_true(waits_ms[0] < 1000 && waits_ms[3] < 2000);
}

static void test_worker_that_cannot_start_is_not_repeated(void **state)
{
    (void)state;
    start_worker("never");
    run_until(&t.n_down, 1, 3000);
    assert_non_null(strstr(t.why, "memory"));
    run_for(300);
    assert_int_equal(t.n_down, 1);
    assert_int_equal(t.n_ready, 0);
}

static void test_worker_of_another_version_is_refused(void **state)
{
    (void)state;
    start_worker("version");
    run_until(&t.n_down, 1, 3000);
    assert_non_null(strstr(t.why, "version"));
}

/* --- media --- */

struct call {
    struct media_call_state base;
    int n_done;
    struct err err;
    int width;
};

static void call_done(struct media_call_state *s, struct media_reply *r)
{
    struct call *c = (struct call *)s;
    c->n_done++;
    c->err = r->err;
    c->width = r->grid.width;
    if (r->tiles_fd >= 0) close(r->tiles_fd);
}

/* A PNG's header is enough for a probe. */
static const unsigned char png_head[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n', 0, 0, 0, 13, 'I',  'H',  'D',  'R', 0,
                                         0,    0,   40,  0,   0,    0,    30,   8,    2, 0, 0, 0,  0xB4, 0x52, 0x39, 0xF5};

static void call_start(struct media_pool *p, struct call *c, int fd)
{
    static const struct image_settings settings = {.longest_edge = 96,
                                                   .tile_px = 96,
                                                   .tokens_per_tile = 36,
                                                   .resample = 1,
                                                   .mean = {0.5f, 0.5f, 0.5f},
                                                   .std = {0.5f, 0.5f, 0.5f},
                                                   .rescale = 1 / 255.0};
    *c = (struct call){.base = {.request = {.call = MEDIA_PROBE, .image_fd = fd, .settings = settings}, .done = call_done}};
    media_pool_call(p, &c->base);
}

static struct media_pool *media_start(void)
{
    struct media_pool *p;
    struct err e = {0};
    struct media_pool_config c = {.n_processes = 1, .limits = &limits};
    if (media_pool_new(&p, t.loop, &c, &e)) fail_msg("%s", e.msg);
    return p;
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

static void test_media_answers_every_call(void **state)
{
    (void)state;
    struct media_pool *p = media_start();
    int good = media_bytes_fd(png_head, sizeof png_head, NULL), bad = media_bytes_fd("not a picture", 13, NULL);
    struct call calls[20];
    for (int i = 0; i < 20; i++) call_start(p, &calls[i], i % 2 ? bad : good);
    run_until(&calls[19].n_done, 1, 5000);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(calls[i].n_done, 1);
        assert_int_equal(calls[i].err.code == ERR_NONE, i % 2 == 0);
        if (i % 2 == 0) assert_int_equal(calls[i].width, 40);
    }
    close(good);
    close(bad);
    media_pool_free(p);
}

static void test_media_killed_costs_at_most_its_call(void **state)
{
    (void)state;
    struct media_pool *p = media_start();
    int good = media_bytes_fd(png_head, sizeof png_head, NULL);
    struct call first, calls[10];
    call_start(p, &first, good);
    run_until(&first.n_done, 1, 5000);
    pid_t pid = only_child();
    assert_true(pid > 0);
    kill(pid, SIGSTOP); /* so that the first of the ten is surely with it, and the rest surely are not */
    for (int i = 0; i < 10; i++) call_start(p, &calls[i], good);
    run_for(20);
    kill(pid, SIGKILL);
    run_until(&calls[9].n_done, 1, 2000);
    int failed = 0;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(calls[i].n_done, 1);
        failed += calls[i].err.code != ERR_NONE;
    }
    assert_int_equal(failed, 1);
    assert_int_equal(calls[0].err.code, ERR_GONE);
    close(good);
    media_pool_free(p);
}

static void test_media_call_can_be_taken_back(void **state)
{
    (void)state;
    struct media_pool *p = media_start();
    int good = media_bytes_fd(png_head, sizeof png_head, NULL);
    struct call a, b;
    call_start(p, &a, good);
    call_start(p, &b, good);
    assert_true(media_pool_take_back(p, &b.base));
    assert_false(media_pool_take_back(p, &b.base));
    run_until(&a.n_done, 1, 5000);
    run_for(50);
    assert_int_equal(b.n_done, 0);
    close(good);
    media_pool_free(p);
}

#define PROC_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc > 1 && !strcmp(argv[1], "worker")) return fake_worker(argv[argc - 1]);
    if (argc > 1 && !strcmp(argv[1], "media")) return media_main();
    log_setup(LOG_ERROR, "test");
    const struct CMUnitTest tests[] = {
        PROC_TEST(test_worker_tokens_come_back_in_order),
        PROC_TEST(test_worker_gets_descriptors),
        PROC_TEST(test_worker_cancelled_sequence_is_silent),
        PROC_TEST(test_worker_killed_is_restarted),
        PROC_TEST(test_worker_sending_garbage_is_ended),
        PROC_TEST(test_worker_answering_for_strangers_is_ended),
        PROC_TEST(test_worker_restarts_ever_more_slowly),
        PROC_TEST(test_worker_whose_gpu_is_lost_is_not_started_again),
        PROC_TEST(test_worker_that_dies_by_what_its_gpu_reports_says_so),
        PROC_TEST(test_worker_whose_gpu_can_be_used_again_is_started_again),
        PROC_TEST(test_worker_may_report_what_is_no_reason_to_end_it),
        PROC_TEST(test_worker_that_cannot_start_is_not_repeated),
        PROC_TEST(test_worker_with_a_token_outside_the_vocabulary_is_ended),
        PROC_TEST(test_worker_making_more_than_was_asked_for_is_ended),
        PROC_TEST(test_worker_that_hangs_without_listeners_is_ended),
        PROC_TEST(test_worker_of_another_version_is_refused),
        PROC_TEST(test_media_answers_every_call),
        PROC_TEST(test_media_killed_costs_at_most_its_call),
        PROC_TEST(test_media_call_can_be_taken_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
