/* Worker: see worker.h. The loop is worker_serve: between two steps it takes in what the socket holds, without waiting
 * while there is work; all results of a step go out in one frame. */
#include "engine/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"

enum {
    QUEUE_MAX_BYTES = 8 << 20,
    HUNGRY_MS = 20,
    PREDICTION_EVERY_MS = 250,
    LAST_FLUSH_MS = 5000 /* how long the last frames may take to leave at the end */
};

struct worker {
    struct frame_conn *conn;
    struct engine *engine;
    uint64_t *progress;
    bool greeted, draining, closed, hungry; /* hungry: frames wait for memory */
    int64_t predicted_at_ms;
    bool predicted_idle;
};

void worker_prepare(void)
{
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

uint64_t *worker_progress_map(void)
{
    static uint64_t own[WORKER_SIGNS];
    struct stat st;
    int seals = fcntl(WORKER_PROGRESS_FD, F_GET_SEALS); /* fails for whatever else was inherited as descriptor 4 */
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(WORKER_PROGRESS_FD, &st) || st.st_size < (off_t)sizeof own) return own;
    void *p = mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, WORKER_PROGRESS_FD, 0);
    return p == MAP_FAILED ? own : p;
}

static void bump(struct worker *w)
{
    __atomic_fetch_add(w->progress, 1, __ATOMIC_RELAXED);
}

/* A sequence that cannot be taken is told at once, in a step frame of its own. */
static int refuse(struct worker *w, uint64_t sequence, const struct err *why)
{
    struct frame_step_row row = {.sequence = sequence, .finish = FINISH_ERROR, .err = *why};
    return frame_put_step(frame_conn_out(w->conn), &(struct frame_step){.rows = &row, .n_rows = 1});
}

static int on_submit(struct worker *w, const struct frame_submit *f)
{
    struct err why = {0};
    int rc = w->draining ? err_set(&why, ERR_BUSY, "the worker is draining") : engine_submit(w->engine, f, &why);
    for (uint32_t i = 0; i < f->n_fds; i++) close(f->fds[i]);
    return rc ? refuse(w, f->sequence, &why) : 0;
}

static int on_frame(struct worker *w, const struct frame *f, struct err *e)
{
    if (!w->greeted && f->type != FRAME_HELLO) {
        if (f->type == FRAME_SUBMIT)
            for (uint32_t i = 0; i < f->u.submit.n_fds; i++) close(f->u.submit.fds[i]);
        return err_set(e, ERR_INPUT, "the gateway's first frame has type %d, not hello", (int)f->type);
    }
    switch (f->type) {
    case FRAME_HELLO:
        if (w->greeted) return err_set(e, ERR_INPUT, "the gateway says hello again");
        w->greeted = true;
        return 0;
    case FRAME_SUBMIT:
        return on_submit(w, &f->u.submit) ? err_set(e, ERR_LIMIT, "the gateway does not read: the queue is full") : 0;
    case FRAME_CANCEL:
        engine_cancel(w->engine, f->u.cancel.sequence);
        return 0;
    case FRAME_DRAIN:
        w->draining = true;
        return 0;
    default:
        return err_set(e, ERR_INPUT, "a frame of type %d is not for a worker", (int)f->type);
    }
}

static int take_frames(struct worker *w, struct err *e)
{
    int rc = frame_conn_read(w->conn, e);
    if (rc == -ERR_GONE) {
        w->closed = true;
        return 0;
    }
    struct frame f;
    while (!rc && (rc = frame_conn_next(w->conn, &f, e)) == 1) rc = on_frame(w, &f, e);
    w->hungry = rc == -ERR_MEMORY;
    return w->hungry ? 0 : rc;
}

static int send_prediction(struct worker *w)
{
    int64_t now_ms = clock_boot_ms();
    bool idle = !engine_busy(w->engine);
    bool due = idle ? !w->predicted_idle : now_ms - w->predicted_at_ms >= PREDICTION_EVERY_MS;
    w->predicted_idle = idle; /* also after work too short to be told of meanwhile, what it came to is told */
    if (!due) return 0;
    struct frame_prediction p;
    engine_prediction(w->engine, &p);
    w->predicted_at_ms = now_ms;
    return frame_put_prediction(frame_conn_out(w->conn), &p);
}

static void flush(struct worker *w, struct err *e)
{
    if (frame_conn_flush(w->conn, e) == -ERR_GONE) w->closed = true;
}

/* What the step before told goes out while the device computes this one, if it does so by itself. */
static int step(struct worker *w, struct err *e)
{
    struct frame_step out;
    engine_begin(w->engine, clock_boot_ms());
    if (engine_queues(w->engine)) flush(w, e);
    int rc = engine_end(w->engine, &out, e);
    bump(w);
    if (rc) return rc;
    if (out.n_rows && frame_put_step(frame_conn_out(w->conn), &out))
        return err_set(e, ERR_LIMIT, "the gateway does not read: the queue is full");
    return 0;
}

static int turn(struct worker *w, struct err *e)
{
    struct pollfd p = {.fd = frame_conn_fd(w->conn), .events = w->hungry ? 0 : POLLIN};
    if (frame_conn_out(w->conn)->len) p.events |= POLLOUT;
    int wait_ms = engine_busy(w->engine) ? 0 : w->hungry ? HUNGRY_MS : -1;
    if (poll(&p, 1, wait_ms) < 0 && errno != EINTR) return err_set(e, ERR_IO, "poll: %s", strerror(errno));
    bump(w);
    int rc = 0;
    if (w->hungry || (p.revents & (POLLIN | POLLHUP | POLLERR))) rc = take_frames(w, e);
    if (!rc && !w->closed && engine_busy(w->engine)) rc = step(w, e);
    if (!rc && !w->closed && send_prediction(w)) rc = err_set(e, ERR_LIMIT, "the gateway does not read: the queue is full");
    if (rc || w->closed) return rc;
    if (!engine_queues(w->engine) || !engine_busy(w->engine)) flush(w, e);
    return 0;
}

static void flush_all(struct worker *w)
{
    struct err ignored;
    int64_t until_ms = clock_boot_ms() + LAST_FLUSH_MS;
    while (frame_conn_flush(w->conn, &ignored) == 1 && clock_boot_ms() < until_ms) {
        struct pollfd p = {.fd = frame_conn_fd(w->conn), .events = POLLOUT};
        poll(&p, 1, 100);
    }
}

/* A gateway that has gone meanwhile is no error. */
static int say_hello(struct worker *w, struct err *e)
{
    struct frame_hello hello;
    engine_hello(w->engine, &hello);
    if (frame_put_hello(frame_conn_out(w->conn), &hello)) return err_set(e, ERR_LIMIT, "hello does not fit the queue");
    int left = frame_conn_flush(w->conn, e);
    w->closed = left == -ERR_GONE;
    return left < 0 && !w->closed ? left : 0;
}

int worker_serve(int sock, struct model *model, const struct engine_options *o, uint64_t *progress)
{
    struct worker w = {.progress = progress};
    struct err e = {0};
    int rc = frame_conn_new(&w.conn, sock, QUEUE_MAX_BYTES, &e);
    if (!rc) rc = o ? engine_new_with(&w.engine, model, o, &e) : engine_new(&w.engine, model, &e);
    if (!rc) rc = say_hello(&w, &e);
    while (!rc && !w.closed && !(w.draining && !engine_busy(w.engine))) rc = turn(&w, &e);
    if (rc)
        log_error("%s", e.msg);
    else if (!w.closed)
        flush_all(&w);
    engine_free(w.engine);
    frame_conn_free(w.conn);
    if (!rc) return WORKER_EXIT_OK; /* a gateway that is gone is told by closed, so ERR_GONE is the device */
    return rc == -ERR_INPUT || rc == -ERR_LIMIT ? WORKER_EXIT_PROTOCOL : WORKER_EXIT_FAILED;
}
