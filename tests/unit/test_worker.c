/* Worker: a real process with a real model at the other end of the socket. Handshake, answers, cancel, drain, hostile
 * frames. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "engine/frame.h"
#include "engine/model.h"
#include "engine/worker.h"

enum { PATIENCE_MS = 60000, MAX_SEQUENCES = 1200 };

struct peer {
    pid_t pid;
    struct frame_conn *conn;
    struct frame_hello hello;
    uint64_t *progress;
};

_Noreturn static void child(int sock, int progress_fd)
{
    struct model *m;
    struct err e;
    char dir[512];
    worker_prepare();
    if (dup2(progress_fd, WORKER_PROGRESS_FD) < 0) _exit(99);
    uint64_t *progress = worker_progress_map();
    struct model_options o = {
        .device = "cpu", .compute = COMPUTE_F32, .kv_dtype = DTYPE_F32, .threads = 1, .kv_tokens = 2048, .progress = progress};
    snprintf(dir, sizeof dir, "%s/models/smollm2-f32", SPILLWAY_GOLDEN_DIR);
    if (model_open(&m, dir, &o, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        _exit(98);
    }
    int code = worker_serve(sock, m, NULL, progress);
    model_close(m);
    _exit(code);
}

/* Forks a worker. Descriptors 3 and 4 are kept free for the child by holding them in the parent. */
static struct peer peer_start(bool say_hello)
{
    struct peer p = {0};
    struct err e;
    struct frame f;
    int s[2], fd = memfd_create("progress", MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, 64), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    p.progress = mmap(NULL, 64, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
    int high = fcntl(s[1], F_DUPFD, 20);
    fflush(NULL);
    p.pid = fork();
    if (p.pid == 0) {
        int high_fd = fcntl(fd, F_DUPFD, 20);
        close(s[0]);
        close(s[1]);
        child(high, high_fd);
    }
    close(s[1]), close(high), close(fd);
    assert_int_equal(frame_conn_new(&p.conn, s[0], 8 << 20, &e), 0);
    if (!say_hello) return p;
    assert_int_equal(frame_put_hello(frame_conn_out(p.conn), &(struct frame_hello){.version = FRAME_VERSION, .image_token = -1}), 0);
    assert_true(frame_conn_flush(p.conn, &e) >= 0);
    for (int rc = 0; rc == 0;) {
        struct pollfd pf = {.fd = frame_conn_fd(p.conn), .events = POLLIN};
        assert_int_equal(poll(&pf, 1, PATIENCE_MS), 1);
        assert_int_equal(frame_conn_read(p.conn, &e), 0);
        rc = frame_conn_next(p.conn, &f, &e);
        assert_true(rc >= 0);
    }
    assert_int_equal(f.type, FRAME_HELLO);
    p.hello = f.u.hello;
    return p;
}

static int peer_end(struct peer *p)
{
    int status = 0;
    frame_conn_free(p->conn);
    assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
    munmap(p->progress, 64);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

struct answer {
    uint32_t n;
    int32_t tokens[256];
    enum finish_reason finish;
    struct err err;
};
static struct answer answers[MAX_SEQUENCES];

static const int32_t prompt[] = {40, 41, 42, 43, 44, 45, 46, 47};

static void submit(struct peer *p, uint64_t sequence, uint32_t max_tokens, const int32_t *ids, uint32_t n_ids)
{
    struct err e;
    struct frame_submit f = {
        .sequence = sequence,
        .weight = 1,
        .ids = ids,
        .n_ids = n_ids,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .top_logprobs = -1, .max_tokens = max_tokens, .ignore_eos = true}};
    memset(&answers[sequence], 0, sizeof answers[sequence]);
    assert_int_equal(frame_put_submit(frame_conn_out(p->conn), &f), 0);
    assert_true(frame_conn_flush(p->conn, &e) >= 0);
}

/* Reads until `until` sequences have ended, or the worker is gone (returns false). */
static bool collect(struct peer *p, unsigned until)
{
    struct frame f;
    struct err e;
    unsigned ended = 0;
    int64_t give_up_ms = clock_boot_ms() + PATIENCE_MS;
    while (ended < until) {
        int rc;
        struct pollfd pf = {.fd = frame_conn_fd(p->conn), .events = POLLIN};
        assert_true(clock_boot_ms() < give_up_ms);
        poll(&pf, 1, 100);
        if (frame_conn_flush(p->conn, &e) < 0) return false; /* what the socket did not take at once */
        if (frame_conn_read(p->conn, &e)) return false;
        while ((rc = frame_conn_next(p->conn, &f, &e)) == 1) {
            for (uint32_t i = 0; f.type == FRAME_STEP && i < f.u.step.n_rows; i++) {
                const struct frame_step_row *r = &f.u.step.rows[i];
                struct answer *a = &answers[r->sequence];
                for (uint32_t k = 0; k < r->n_tokens; k++) a->tokens[a->n++] = r->tokens[k];
                if (r->finish == FINISH_NONE) continue;
                a->finish = r->finish;
                a->err = r->err;
                ended++;
            }
        }
        assert_int_equal(rc, 0);
    }
    return true;
}

static void test_worker_says_hello_and_answers_several_sequences(void **state)
{
    (void)state;
    struct peer p = peer_start(true);
    assert_int_equal(p.hello.vocab, 657);
    assert_int_equal(p.hello.image_token, -1);
    assert_true(p.hello.n_blocks * p.hello.block_tokens >= 2048);
    assert_true(strstr(p.hello.device, "cpu") != NULL);
    uint64_t before = __atomic_load_n(p.progress, __ATOMIC_RELAXED);
    for (uint64_t i = 0; i < 6; i++) submit(&p, i, 20, prompt, 8 - (uint32_t)(i % 2));
    assert_true(collect(&p, 6));
    for (int i = 0; i < 6; i++) {
        assert_int_equal(answers[i].finish, FINISH_LENGTH);
        assert_int_equal(answers[i].n, 20);
        assert_memory_equal(answers[i].tokens, answers[i % 2].tokens, 20 * sizeof(int32_t));
    }
    assert_true(__atomic_load_n(p.progress, __ATOMIC_RELAXED) > before + 20);
    assert_int_equal(peer_end(&p), WORKER_EXIT_OK); /* the socket closes: no reason to live */
}

static void test_worker_refuses_one_sequence_and_serves_the_next(void **state)
{
    (void)state;
    struct peer p = peer_start(true);
    int32_t outside = 657;
    submit(&p, 0, 5, &outside, 1);
    submit(&p, 1, 5, prompt, 8);
    assert_true(collect(&p, 2));
    assert_int_equal(answers[0].finish, FINISH_ERROR);
    assert_int_equal(answers[0].err.code, ERR_INPUT);
    assert_true(strstr(answers[0].err.msg, "outside the vocabulary") != NULL);
    assert_int_equal(answers[1].finish, FINISH_LENGTH);
    assert_int_equal(peer_end(&p), WORKER_EXIT_OK);
}

static void test_worker_cancels_between_steps(void **state)
{
    (void)state;
    struct peer p = peer_start(true);
    struct err e;
    submit(&p, 0, 250, prompt, 8);
    assert_int_equal(frame_put_cancel(frame_conn_out(p.conn), &(struct frame_cancel){.sequence = 0}), 0);
    assert_true(frame_conn_flush(p.conn, &e) >= 0);
    assert_true(collect(&p, 1));
    assert_int_equal(answers[0].finish, FINISH_CANCELLED);
    assert_true(answers[0].n < 250);
    assert_int_equal(peer_end(&p), WORKER_EXIT_OK);
}

static void test_worker_full_queue_refuses_and_loses_nothing(void **state)
{
    (void)state;
    struct peer p = peer_start(true);
    unsigned refused = 0, done = 0;
    for (uint64_t i = 0; i < MAX_SEQUENCES; i++) submit(&p, i, 1, prompt, 1);
    assert_true(collect(&p, MAX_SEQUENCES));
    for (int i = 0; i < MAX_SEQUENCES; i++) {
        if (answers[i].finish == FINISH_LENGTH)
            done++;
        else if (answers[i].finish == FINISH_ERROR && answers[i].err.code == ERR_BUSY)
            refused++;
    }
    assert_int_equal(done + refused, MAX_SEQUENCES);
    assert_true(done > 0);
    assert_int_equal(peer_end(&p), WORKER_EXIT_OK);
}

static void test_worker_drains_what_runs_and_exits(void **state)
{
    (void)state;
    struct peer p = peer_start(true);
    struct err e;
    submit(&p, 0, 40, prompt, 8);
    assert_int_equal(frame_put_drain(frame_conn_out(p.conn)), 0);
    submit(&p, 1, 40, prompt, 8);
    assert_true(collect(&p, 2));
    assert_int_equal(answers[0].finish, FINISH_LENGTH);
    assert_int_equal(answers[0].n, 40);
    assert_int_equal(answers[1].finish, FINISH_ERROR);
    assert_int_equal(answers[1].err.code, ERR_BUSY);
    struct pollfd pf = {.fd = frame_conn_fd(p.conn), .events = POLLIN};
    int rc = 0;
    while (rc == 0 && poll(&pf, 1, PATIENCE_MS) == 1) rc = frame_conn_read(p.conn, &e); /* it closes by itself */
    assert_int_equal(rc, -ERR_GONE);
    assert_int_equal(peer_end(&p), WORKER_EXIT_OK);
}

static void expect_protocol_exit(bool say_hello, const void *bytes, size_t n)
{
    struct peer p = peer_start(say_hello);
    assert_int_equal(send(frame_conn_fd(p.conn), bytes, n, MSG_NOSIGNAL), n);
    int status = 0;
    assert_int_equal(waitpid(p.pid, &status, 0), p.pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), WORKER_EXIT_PROTOCOL);
    frame_conn_free(p.conn);
    munmap(p.progress, 64);
}

static void test_worker_leaves_a_gateway_that_talks_nonsense(void **state)
{
    (void)state;
    expect_protocol_exit(true, "GET / HTTP/1.1\r\n\r\n", 18);
    expect_protocol_exit(true, "\xff\xff\xff\xff\2\0\0\0", 8);
    expect_protocol_exit(true, "\4\0\0\0\4\0\0\0\0\0\0\0", 12);            /* a step frame is not for a worker */
    expect_protocol_exit(false, "\0\0\0\0\6\0\0\0", 8);                    /* drain before hello */
    expect_protocol_exit(false, "\x08\0\0\0\3\0\0\0\0\0\0\0\0\0\0\0", 16); /* cancel before hello */
}

static void test_worker_leaves_a_gateway_that_says_hello_twice(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    assert_int_equal(frame_put_hello(&b, &(struct frame_hello){.version = FRAME_VERSION, .image_token = -1}), 0);
    expect_protocol_exit(true, b.data, b.len);
    buf_free(&b);
}

static void test_worker_refuses_an_id_in_use(void **state)
{
    (void)state;
    struct peer p = peer_start(true);
    submit(&p, 0, 200, prompt, 8);
    submit(&p, 0, 200, prompt, 8); /* waits or runs already */
    assert_true(collect(&p, 1));
    assert_int_equal(answers[0].finish, FINISH_ERROR);
    assert_int_equal(answers[0].err.code, ERR_INPUT);
    assert_int_equal(peer_end(&p), WORKER_EXIT_OK);
}

/* PR_SET_PDEATHSIG is not all there is: the socket's end alone ends it, at work, too. */
static void test_worker_at_work_ends_with_the_socket(void **state)
{
    (void)state;
    struct peer p = peer_start(true);
    for (uint64_t i = 0; i < 8; i++) submit(&p, i, 200, prompt, 8);
    while (__atomic_load_n(p.progress, __ATOMIC_RELAXED) < 100) usleep(1000); /* it computes */
    int64_t start_ms = clock_boot_ms();
    assert_int_equal(peer_end(&p), WORKER_EXIT_OK);
    assert_true(clock_boot_ms() - start_ms < 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worker_says_hello_and_answers_several_sequences),
        cmocka_unit_test(test_worker_refuses_one_sequence_and_serves_the_next),
        cmocka_unit_test(test_worker_cancels_between_steps),
        cmocka_unit_test(test_worker_full_queue_refuses_and_loses_nothing),
        cmocka_unit_test(test_worker_drains_what_runs_and_exits),
        cmocka_unit_test(test_worker_leaves_a_gateway_that_talks_nonsense),
        cmocka_unit_test(test_worker_leaves_a_gateway_that_says_hello_twice),
        cmocka_unit_test(test_worker_refuses_an_id_in_use),
        cmocka_unit_test(test_worker_at_work_ends_with_the_socket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
