/* Worker process: see worker_proc.h. States: down (restart timer armed) -> starting (hello sent, none received) ->
 * ready; lost, of which there is no way back. */
#include "server/worker_proc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/worker.h"
#include "kernels/xid.h"
#include "server/child.h"
#include "server/watchdog.h"

enum {
    BUCKETS = 1024,
    QUEUE_BYTES = 64 << 20,
    BACKOFF_FIRST_MS = 100,
    BACKOFF_MAX_MS = 10000,
    GRACE_MS = 200,    /* from the end of its socket to its own */
    STEADY_MS = 30000, /* who lived that long is restarted at once */
    AGAIN_MS = 20,     /* its frames wait for memory */
    MAX_AGAIN = 50
};

struct worker_proc {
    struct loop *loop;
    struct worker_config config;
    struct worker_events events;
    struct child child;
    struct frame_conn *conn;
    struct loop_watch *watch;
    struct loop_timer restart, grace, look, again;
    struct limits own_limits; /* if the config has none */
    struct watchdog watchdog;
    int n_again;
    int progress_fd;
    const uint64_t *signs; /* shared with the worker: enum worker_sign */
    uint64_t n_deaths;
    bool ready, ever_ready, want_write;
    bool closing; /* its socket has ended, it has not yet: its exit tells the reason */
    struct frame_hello hello;
    struct frame_prediction prediction;
    bool lost;         /* its device, by what it has reported: lost_why */
    struct err lost_why;
    struct err failed; /* what it has said for its end before it was ready; ERR_NONE: nothing */
    int64_t backoff_ms, started_ms;
    unsigned n_starts, n_sequences;
    uint64_t n_owed; /* ends that the worker has not told yet, also of sequences that nobody waits for any more */
    uint64_t next_id;
    struct worker_sequence *sequences[BUCKETS];
};

static int worker_start(struct worker_proc *w, struct err *e);

static void sequence_link(struct worker_proc *w, struct worker_sequence *s)
{
    struct worker_sequence **at = &w->sequences[s->id % BUCKETS];
    s->next = *at;
    *at = s;
    w->n_sequences++;
}

static struct worker_sequence *sequence_unlink(struct worker_proc *w, uint64_t id)
{
    for (struct worker_sequence **at = &w->sequences[id % BUCKETS]; *at; at = &(*at)->next) {
        struct worker_sequence *s = *at;
        if (s->id != id) continue;
        *at = s->next;
        w->n_sequences--;
        return s;
    }
    return NULL;
}

static struct worker_sequence *sequence_find(const struct worker_proc *w, uint64_t id)
{
    for (struct worker_sequence *s = w->sequences[id % BUCKETS]; s; s = s->next)
        if (s->id == id) return s;
    return NULL;
}

/* The first time at once, then after 0.1 s doubling to 10 s. */
static void restart_later(struct worker_proc *w)
{
    int64_t wait_ms = w->backoff_ms;
    w->backoff_ms = wait_ms == 0 ? BACKOFF_FIRST_MS : wait_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : wait_ms * 2;
    log_info("worker %s: starting again in %lld ms", w->config.name, (long long)wait_ms);
    if (loop_timer_set(w->loop, &w->restart, loop_now_ms(w->loop) + wait_ms)) log_error("worker %s: out of memory", w->config.name);
}

static void restart_fired(void *ctx)
{
    struct worker_proc *w = ctx;
    struct err e;
    if (worker_start(w, &e) == 0) return;
    log_error("worker %s: %s", w->config.name, e.msg);
    restart_later(w);
}

/* Ends the connection and everything in it. The process, if it still lives, is killed; its end starts the next one. */
static void worker_fail(struct worker_proc *w, const struct err *why)
{
    if (!w->conn) return;
    loop_watch_remove(w->loop, w->watch);
    w->watch = NULL;
    frame_conn_free(w->conn);
    w->conn = NULL;
    w->ready = w->closing = false;
    loop_timer_clear(w->loop, &w->grace);
    loop_timer_clear(w->loop, &w->look);
    w->n_deaths++;
    loop_timer_clear(w->loop, &w->again);
    w->n_again = 0;
    child_kill(&w->child);
    log_error("worker %s: %s", w->config.name, why->msg);
    struct err told;
    err_set(&told, ERR_GONE, "The model's worker ended while it was answering. %s", w->lost ? "Its GPU is lost." : "It is being restarted: try again.");
    for (size_t i = 0; i < BUCKETS; i++) {
        while (w->sequences[i]) {
            struct worker_sequence *s = w->sequences[i];
            w->sequences[i] = s->next;
            w->n_sequences--;
            s->id = 0;
            s->down(s, &told);
        }
    }
    w->events.down(w->events.ctx, why);
}

/* true: its GPU has reported what is the end of it; *why says so. Whatever else the word holds is not believed. */
static bool device_event(struct worker_proc *w, struct err *why)
{
    const struct xid_event *x = xid_find(__atomic_load_n(&w->signs[WORKER_XID], __ATOMIC_RELAXED));
    if (!x) return false;
    err_set(why, ERR_GONE, "its GPU reports Xid %llu: %s%s", (unsigned long long)x->xid, x->what,
            x->restart_helps ? "" : "; it is not started again, as only a reset helps");
    if (!x->restart_helps) {
        w->lost = true;
        err_set(&w->lost_why, ERR_GONE, "Xid %llu: %s", (unsigned long long)x->xid, x->what);
    }
    return true;
}

static void worker_exited(void *ctx, int status)
{
    struct worker_proc *w = ctx;
    struct err why;
    if (w->conn && device_event(w, &why)) {
        /* whatever its calls have said, this is the reason */
    } else if (w->failed.code)
        why = w->failed;
    else if (WIFSIGNALED(status))
        err_set(&why, ERR_GONE, "ended by signal %d", WTERMSIG(status));
    else if (WEXITSTATUS(status) == WORKER_EXIT_NO_ROOM)
        err_set(&why, ERR_LIMIT, "the model does not fit into memory as configured");
    else
        err_set(&why, ERR_GONE, "ended with exit code %d", WEXITSTATUS(status));
    worker_fail(w, &why);
    if (!w->ever_ready || w->lost) return;
    int64_t now_ms = loop_now_ms(w->loop);
    if (now_ms - w->started_ms > STEADY_MS) w->backoff_ms = 0;
    restart_later(w);
}

/* The gateway has built on them. */
static bool same_limits(const struct frame_hello *a, const struct frame_hello *b)
{
    return a->max_context == b->max_context && a->vocab == b->vocab && a->block_tokens == b->block_tokens && a->n_blocks == b->n_blocks &&
           a->max_sequences == b->max_sequences && a->tile_px == b->tile_px && a->tokens_per_tile == b->tokens_per_tile &&
           a->image_token == b->image_token;
}

static int take_hello(struct worker_proc *w, const struct frame_hello *h, struct err *e)
{
    if (w->ready) return err_set(e, ERR_INPUT, "a second hello");
    if (h->version != FRAME_VERSION) return err_set(e, ERR_INPUT, "frame protocol version %u, not %d", h->version, FRAME_VERSION);
    if (w->ever_ready && memcmp(h->model_hash, w->hello.model_hash, FRAME_HASH_BYTES) != 0)
        return err_set(e, ERR_INPUT, "the model's files have changed since the server was started");
    if (h->max_context < 2 || h->vocab < 1 || h->block_tokens < 1 || h->n_blocks < 1 || h->max_sequences < 1)
        return err_set(e, ERR_INPUT, "hello with senseless limits");
    if (w->ever_ready && !same_limits(h, &w->hello)) return err_set(e, ERR_INPUT, "hello with other limits than before");
    w->hello = *h;
    w->ready = w->ever_ready = true;
    w->events.ready(w->events.ctx, &w->hello);
    return 0;
}

/* Frames were checked for their form; ids are checked here against what the worker said of itself. */
static int check_row(const struct worker_proc *w, const struct frame_step_row *row, struct err *e)
{
    if (row->sequence == 0 || row->sequence >= w->next_id) return err_set(e, ERR_INPUT, "a row of a sequence that never was");
    for (uint32_t i = 0; i < row->n_tokens; i++)
        if ((uint32_t)row->tokens[i] >= w->hello.vocab)
            return err_set(e, ERR_INPUT, "token %d of a vocabulary of %u", row->tokens[i], w->hello.vocab);
    size_t n_logprobs = row->logprobs ? (size_t)row->n_tokens * (1 + row->n_top) : 0;
    for (size_t i = 0; i < n_logprobs; i++)
        if ((uint32_t)row->logprobs[i].token >= w->hello.vocab)
            return err_set(e, ERR_INPUT, "a logprob of token %d of a vocabulary of %u", row->logprobs[i].token, w->hello.vocab);
    return 0;
}

static int take_step(struct worker_proc *w, const struct frame_step *step, struct err *e)
{
    if (!w->ready) return err_set(e, ERR_INPUT, "a step before hello");
    for (uint32_t i = 0; i < step->n_rows; i++) {
        const struct frame_step_row *row = &step->rows[i];
        int rc = check_row(w, row, e);
        if (rc) return rc;
        if (row->finish != FINISH_NONE && w->n_owed) w->n_owed--;
        struct worker_sequence *s = sequence_find(w, row->sequence);
        if (!s) continue; /* cancelled; the worker did not know yet */
        if (row->n_tokens > s->tokens_left) return err_set(e, ERR_INPUT, "more tokens than a sequence asked for");
        s->tokens_left -= row->n_tokens;
        if (row->finish != FINISH_NONE) {
            sequence_unlink(w, row->sequence);
            s->id = 0;
        }
        s->row(s, row);
    }
    return 0;
}

static int take_frame(struct worker_proc *w, const struct frame *f, struct err *e)
{
    switch (f->type) {
    case FRAME_HELLO:
        return take_hello(w, &f->u.hello, e);
    case FRAME_STEP:
        return take_step(w, &f->u.step, e);
    case FRAME_PREDICTION:
        if (!w->ready) return err_set(e, ERR_INPUT, "a prediction before hello");
        w->prediction = f->u.prediction;
        return 0;
    case FRAME_FAILED:
        if (w->ready) return err_set(e, ERR_INPUT, "a failed start after hello");
        w->failed = f->u.failed.err;
        return 0;
    default:
        return err_set(e, ERR_INPUT, "a frame of type %d is not a worker's to send", (int)f->type);
    }
}

/* Found out while a caller of ours is submitting or cancelling: told on the loop's next round, so that nobody's
 * sequence ends under his hands. */
static void worker_abandon(struct worker_proc *w, const char *why)
{
    log_error("worker %s: %s", w->config.name, why);
    shutdown(frame_conn_fd(w->conn), SHUT_RDWR);
}

static void worker_flush(struct worker_proc *w)
{
    if (!w->conn || w->closing) return;
    struct err e;
    int rc = frame_conn_flush(w->conn, &e);
    bool want_write = rc == 1;
    if (rc >= 0 && want_write != w->want_write) {
        w->want_write = want_write;
        rc = loop_watch_change(w->loop, w->watch, EPOLLIN | (want_write ? EPOLLOUT : 0u), &e);
    }
    if (rc < 0) worker_abandon(w, e.msg);
}

static void grace_ended(void *ctx)
{
    child_kill(&((struct worker_proc *)ctx)->child);
}

/* Nothing more comes from it. Its exit, which follows at once if it died, says why. */
static void worker_closing(struct worker_proc *w)
{
    loop_watch_remove(w->loop, w->watch);
    loop_timer_clear(w->loop, &w->again);
    w->watch = NULL;
    w->ready = false;
    w->closing = true;
    if (loop_timer_set(w->loop, &w->grace, loop_now_ms(w->loop) + GRACE_MS)) child_kill(&w->child);
}

/* Its frames stay where they are until there is memory, or for a second at most. Meanwhile its socket must not call. */
static void worker_event_later(struct worker_proc *w, const struct err *why)
{
    struct err e;
    if (++w->n_again > MAX_AGAIN) {
        worker_fail(w, why);
        return;
    }
    if (loop_watch_change(w->loop, w->watch, w->want_write ? EPOLLOUT : 0u, &e)) log_error("worker %s: %s", w->config.name, e.msg);
    if (loop_timer_set(w->loop, &w->again, loop_now_ms(w->loop) + AGAIN_MS)) worker_fail(w, why);
}

static void worker_event(void *ctx, uint32_t events)
{
    struct worker_proc *w = ctx;
    struct err e = {0};
    if (events & EPOLLOUT) worker_flush(w);
    if (!w->conn || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    int read_rc = frame_conn_read(w->conn, &e), rc = 1;
    struct err frame_err;
    while (rc > 0) {
        struct frame f;
        rc = frame_conn_next(w->conn, &f, &frame_err);
        if (rc > 0 && take_frame(w, &f, &frame_err)) rc = -ERR_INPUT;
    }
    if (rc == -ERR_MEMORY || (rc == 0 && read_rc == -ERR_MEMORY)) {
        worker_event_later(w, rc ? &frame_err : &e);
        return;
    }
    w->n_again = 0;
    if (rc < 0)
        worker_fail(w, &frame_err);
    else if (read_rc < 0)
        worker_closing(w);
}

/* --- the watchdog --- */

static const struct limits *limits_of(const struct worker_proc *w)
{
    return w->config.limits ? w->config.limits : &w->own_limits;
}

static int64_t hang_floor_ms(const struct worker_proc *w)
{
    return w->ready ? limits_of(w)->hang_ms : limits_of(w)->load_hang_ms;
}

static int64_t look_interval_ms(const struct worker_proc *w)
{
    int64_t ms = limits_of(w)->hang_ms / 10;
    return ms > 10 ? ms : 10;
}

static void look_again(struct worker_proc *w)
{
    if (loop_timer_set(w->loop, &w->look, loop_now_ms(w->loop) + look_interval_ms(w)))
        log_error("worker %s: out of memory: it is not watched", w->config.name);
}

/* Busy: loading, or with sequences, also those that were cancelled: a worker that hangs is found before the next request. */
static void look_fired(void *ctx)
{
    struct worker_proc *w = ctx;
    if (!w->conn || w->closing) return;
    struct err why;
    if (device_event(w, &why)) {
        worker_fail(w, &why);
        return;
    }
    uint64_t counter = __atomic_load_n(&w->signs[WORKER_PROGRESS], __ATOMIC_RELAXED);
    bool busy = !w->ready || w->n_sequences > 0 || w->n_owed > 0;
    bool hung = watchdog_look(&w->watchdog, busy, counter, loop_now_ms(w->loop), look_interval_ms(w), hang_floor_ms(w));
    if (!hung) {
        look_again(w);
        return;
    }
    err_set(&why, ERR_TIMEOUT, "hangs: no progress for %lld ms while %s", (long long)watchdog_still_ms(&w->watchdog),
            w->ready ? "it has requests" : "it loads the model");
    worker_fail(w, &why);
}

static void worker_event_again(void *ctx)
{
    struct worker_proc *w = ctx;
    struct err e;
    if (loop_watch_change(w->loop, w->watch, EPOLLIN | (w->want_write ? EPOLLOUT : 0u), &e))
        worker_fail(w, &e);
    else
        worker_event(w, EPOLLIN);
}

static int worker_spawn(struct worker_proc *w, int sock, struct err *e)
{
    const struct worker_config *c = &w->config;
    const char *argv[WORKER_MAX_ARGS + 10] = {"spillway", "worker", "--name", c->name};
    size_t n = 4;
    CHECK(c->n_args <= WORKER_MAX_ARGS);
    for (size_t i = 0; i < c->n_args; i++) argv[n++] = c->args[i];
    if (c->gpu) {
        argv[n++] = "--gpus"; /* the last one given holds */
        argv[n++] = c->gpu;
    }
    argv[n++] = "--";
    if (c->path) argv[n++] = c->path;
    int fds[] = {sock, w->progress_fd};
    return child_start(&w->child, w->loop, (char *const *)argv, fds, 2, worker_exited, w, e);
}

static int worker_start(struct worker_proc *w, struct err *e)
{
    int socks[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks)) return err_set(e, ERR_IO, "socketpair: %s", strerror(errno));
    w->started_ms = loop_now_ms(w->loop);
    const uint64_t no_event = 0;
    (void)!pwrite(w->progress_fd, &no_event, sizeof no_event, WORKER_XID * sizeof no_event);
    int rc = worker_spawn(w, socks[1], e);
    close(socks[1]);
    if (!rc) rc = frame_conn_new(&w->conn, socks[0], QUEUE_BYTES, e);
    if (rc) {
        close(socks[0]);
        child_close(&w->child);
        return rc;
    }
    w->n_starts++;
    w->n_owed = 0;
    w->failed = (struct err){0};
    w->prediction = (struct frame_prediction){.error_p90 = -1}; /* nothing is known until it says so */
    w->want_write = false;
    w->watchdog = (struct watchdog){0};
    look_again(w);
    rc = loop_watch_add(w->loop, socks[0], EPOLLIN, worker_event, w, &w->watch, e);
    struct frame_hello hello = {.version = FRAME_VERSION, .image_token = -1};
    if (!rc && frame_put_hello(frame_conn_out(w->conn), &hello)) rc = err_set(e, ERR_INTERNAL, "hello does not fit");
    if (rc) {
        loop_watch_remove(w->loop, w->watch);
        w->watch = NULL;
        frame_conn_free(w->conn);
        w->conn = NULL;
        child_close(&w->child);
        return rc;
    }
    worker_flush(w);
    return 0;
}

/* What the worker tells while it computes, or hangs. */
static int progress_make(struct err *e)
{
    int fd = memfd_create("spillway-progress", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && ftruncate(fd, WORKER_SIGNS * sizeof(uint64_t)) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return fd;
    int rc = err_set(e, ERR_IO, "memfd: %s", strerror(errno));
    if (fd >= 0) close(fd);
    return rc;
}

static int progress_map(struct worker_proc *w, struct err *e)
{
    void *p = mmap(NULL, WORKER_SIGNS * sizeof *w->signs, PROT_READ, MAP_SHARED, w->progress_fd, 0);
    if (p == MAP_FAILED) return err_set(e, ERR_IO, "mmap: %s", strerror(errno));
    w->signs = p;
    return 0;
}

int worker_proc_new(struct worker_proc **out, struct loop *l, const struct worker_config *c, const struct worker_events *events,
                    struct err *e)
{
    struct worker_proc *w = *out = calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_MEMORY, "out of memory");
    w->loop = l;
    w->config = *c;
    w->events = *events;
    w->next_id = 1;
    w->child.pidfd = -1;
    w->restart = (struct loop_timer){.fn = restart_fired, .ctx = w};
    w->grace = (struct loop_timer){.fn = grace_ended, .ctx = w};
    w->look = (struct loop_timer){.fn = look_fired, .ctx = w};
    limits_init(&w->own_limits);
    w->again = (struct loop_timer){.fn = worker_event_again, .ctx = w};
    w->progress_fd = progress_make(e);
    int rc = w->progress_fd < 0 ? w->progress_fd : progress_map(w, e);
    if (!rc) rc = worker_start(w, e);
    if (rc) {
        worker_proc_free(w);
        *out = NULL;
    }
    return rc;
}

void worker_proc_free(struct worker_proc *w)
{
    if (!w) return;
    loop_timer_clear(w->loop, &w->restart);
    loop_timer_clear(w->loop, &w->grace);
    loop_timer_clear(w->loop, &w->look);
    loop_timer_clear(w->loop, &w->again);
    loop_watch_remove(w->loop, w->watch);
    frame_conn_free(w->conn);
    child_close(&w->child);
    if (w->signs) munmap((void *)(uintptr_t)w->signs, WORKER_SIGNS * sizeof *w->signs);
    if (w->progress_fd >= 0) close(w->progress_fd);
    free(w);
}

bool worker_is_ready(const struct worker_proc *w)
{
    return w->ready;
}

bool worker_is_moving(const struct worker_proc *w)
{
    return w->ready && 2 * watchdog_still_ms(&w->watchdog) < watchdog_allowed_ms(&w->watchdog, hang_floor_ms(w));
}

const char *worker_lost(const struct worker_proc *w)
{
    return w->lost ? w->lost_why.msg : NULL;
}

uint64_t worker_deaths(const struct worker_proc *w)
{
    return w->n_deaths;
}

const struct frame_hello *worker_hello(const struct worker_proc *w)
{
    return &w->hello;
}

const struct frame_prediction *worker_prediction(const struct worker_proc *w)
{
    return &w->prediction;
}

struct worker_info worker_info(const struct worker_proc *w)
{
    struct worker_info i = {.state = w->ready  ? "ready"
                                     : w->conn ? "starting"
                                     : w->lost ? "lost"
                                               : "down",
                            .restarts = w->n_starts > 0 ? w->n_starts - 1 : 0,
                            .state_ms = loop_now_ms(w->loop) - w->started_ms,
                            .pid = w->child.pid};
    i.sequences = w->n_sequences;
    i.still_ms = watchdog_still_ms(&w->watchdog);
    return i;
}

int worker_submit(struct worker_proc *w, struct worker_sequence *s, struct frame_submit *f, struct err *e)
{
    if (!w->ready) return err_set(e, ERR_GONE, "The model's worker is being restarted: try again.");
    f->sequence = w->next_id;
    struct buf *out = frame_conn_out(w->conn);
    size_t before = out->len;
    int rc = frame_put_submit(out, f);
    if (rc) {
        out->failed = 0; /* this sequence alone is refused */
        if (rc == -ERR_MEMORY) return err_set(e, ERR_MEMORY, "The server is out of memory: try again.");
        if (before > FRAME_MAX_BYTES) return err_set(e, ERR_BUSY, "The model's worker has too much waiting: try again.");
        return err_set(e, ERR_LIMIT, "The request is too large for one frame of the worker's protocol.");
    }
    if (f->n_fds) rc = frame_conn_attach(w->conn, f->fds, f->n_fds, e);
    if (rc) return rc;
    s->id = w->next_id++;
    s->tokens_left = f->sampling.max_tokens;
    w->n_owed++;
    sequence_link(w, s);
    worker_flush(w);
    return 0;
}

void worker_cancel(struct worker_proc *w, struct worker_sequence *s)
{
    if (!s->id) return;
    uint64_t id = s->id;
    sequence_unlink(w, id);
    s->id = 0;
    if (!w->conn) return;
    if (w->closing) return;
    if (frame_put_cancel(frame_conn_out(w->conn), &(struct frame_cancel){.sequence = id}))
        worker_abandon(w, "does not read its socket");
    else
        worker_flush(w);
}
