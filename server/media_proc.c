/* Media processes: see media_proc.h.
 *
 * A process is down (sock -1, no child), starting (asked to say hello), ready, or ending (sock -1, the child not yet reaped). Whatever it
 * had is settled in process_exited, where its status is known. */
#include "server/media_proc.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "server/child.h"

enum {
    START_MAX_MS = 10000, /* until its hello */
    GRACE_MS = 500,       /* a process ends its picture's time itself; this much later it is ended */
    END_MAX_MS = 1000,    /* from its socket's end to its own */
    RESTART_WAIT_MS = 500 /* after one that was not ready: it would hardly fare better at once */
};

struct media_process {
    struct media_pool *pool;
    struct child child;
    int sock; /* -1: down or ending */
    struct loop_watch *watch;
    struct loop_timer restart, limit;
    struct media_call_state *call; /* the one it has */
    bool ready;                    /* has said hello */
    bool guilty;                   /* we ended it for what it did with its call */
    bool slow;                     /* ... which was nothing, for too long */
    bool retire;                   /* to be replaced when it has no call */
    unsigned n_starts, n_answered;
};

struct media_pool {
    struct loop *loop;
    struct limits limits;
    void (*ready)(void *ctx);
    void (*failed)(void *ctx, const struct err *why);
    void *ctx;
    uint64_t next_id;
    struct media_call_state *first, *last;
    unsigned n_waiting;
    int64_t waiting_bytes;
    bool was_ready; /* some process, once */
    int n;
    struct media_process processes[];
};

static void process_give(struct media_process *m);

/* --- calls --- */

static void call_fail(struct media_call_state *c, enum err_code code, const char *what)
{
    struct media_reply reply = {.id = c->request.id, .tiles_fd = -1};
    err_set(&reply.err, code, "%s", what);
    c->done(c, &reply);
}

static void queue_append(struct media_pool *p, struct media_call_state *c)
{
    c->next = NULL;
    c->previous = p->last;
    *(p->last ? &p->last->next : &p->first) = c;
    p->last = c;
    c->waiting = true;
    p->n_waiting++;
    p->waiting_bytes += c->n_bytes;
}

static void queue_prepend(struct media_pool *p, struct media_call_state *c)
{
    c->next = p->first;
    c->previous = NULL;
    *(p->first ? &p->first->previous : &p->last) = c;
    p->first = c;
    c->waiting = true;
    p->n_waiting++;
    p->waiting_bytes += c->n_bytes;
}

static void queue_remove(struct media_pool *p, struct media_call_state *c)
{
    *(c->previous ? &c->previous->next : &p->first) = c->next;
    *(c->next ? &c->next->previous : &p->last) = c->previous;
    c->waiting = false;
    p->n_waiting--;
    p->waiting_bytes -= c->n_bytes;
}

static void queue_fail(struct media_pool *p, const char *what)
{
    while (p->first) {
        struct media_call_state *c = p->first;
        queue_remove(p, c);
        call_fail(c, ERR_GONE, what);
    }
}

/* --- a process's end --- */

/* No more of its socket; it ends by itself, or is killed if it does not. */
static void process_close(struct media_process *m)
{
    if (m->sock < 0) return;
    struct loop *l = m->pool->loop;
    loop_watch_remove(l, m->watch);
    m->watch = NULL;
    close(m->sock);
    m->sock = -1;
    if (loop_timer_set(l, &m->limit, loop_now_ms(l) + END_MAX_MS * MEDIA_SLOWNESS)) child_kill(&m->child);
}

/* For what it did with its picture: whatever its status will be, it was that. */
static void process_condemn(struct media_process *m)
{
    m->guilty = true;
    process_close(m);
    child_kill(&m->child);
}

static void process_limit(void *ctx)
{
    struct media_process *m = ctx;
    if (m->sock < 0) { /* let go of its socket and stays: nothing of ours does that */
        log_warn("media: closed its socket and did not end");
        m->guilty = true;
        child_kill(&m->child);
    } else if (!m->ready) {
        log_warn("media: not ready in %d ms", START_MAX_MS * MEDIA_SLOWNESS);
        process_close(m);
        child_kill(&m->child);
    } else {
        log_warn("media: neither answered nor ended in %lld ms", (long long)m->pool->limits.decode_wall_ms);
        m->slow = true;
        process_condemn(m);
    }
}

/* Did the picture end it, or somebody? See media_proc.h. */
static bool status_is_a_fault(int status)
{
    static const int from_outside[] = {SIGKILL, SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE};
    if (!WIFSIGNALED(status)) return true; /* while it had a picture nothing lets it exit but the picture */
    for (size_t i = 0; i < sizeof from_outside / sizeof *from_outside; i++)
        if (WTERMSIG(status) == from_outside[i]) return false;
    return true;
}

static void call_settle(struct media_process *m, struct media_call_state *c, int status)
{
    bool fault = m->guilty || status_is_a_fault(status);
    if (!fault) {
        call_fail(c, ERR_GONE, "The picture decoder was ended while it was reading this picture: try again.");
    } else if (m->slow) {
        call_fail(c, ERR_LIMIT, "The picture takes too long to decode.");
    } else if (m->n_answered > 0 && !c->tried) {
        c->tried = true;
        queue_prepend(m->pool, c);
    } else {
        call_fail(c, ERR_INPUT, "The picture cannot be decoded: its decoder failed.");
    }
}

static void log_end(const struct media_process *m, int status, bool busy)
{
    const char *when = !m->ready ? " before it was ready" : busy ? " while it read a picture" : "";
    if (WIFSIGNALED(status))
        log_warn("media: ended by signal %d (%s)%s, starting again", WTERMSIG(status), strsignal(WTERMSIG(status)), when);
    else if (WEXITSTATUS(status) || busy || !m->ready)
        log_warn("media: ended with exit code %d%s, starting again", WEXITSTATUS(status), when);
}

static int process_start(struct media_process *m, struct err *e);

static void process_restart(void *ctx)
{
    struct media_process *m = ctx;
    struct loop *l = m->pool->loop;
    struct err e;
    if (process_start(m, &e) == 0) return;
    log_error("media: %s", e.msg);
    if (loop_timer_set(l, &m->restart, loop_now_ms(l) + RESTART_WAIT_MS)) log_error("media: out of memory");
}

/* What it had sent before its end counts: a picture's error comes just before the exit that goes with it. */
static void process_drain(struct media_process *m);

static void process_exited(void *ctx, int status)
{
    struct media_process *m = ctx;
    struct loop *l = m->pool->loop;
    process_drain(m);
    process_close(m);
    loop_timer_clear(l, &m->limit);
    struct media_call_state *c = m->call;
    m->call = NULL;
    log_end(m, status, c != NULL);
    if (c) call_settle(m, c, status);
    if (m->ready)
        process_restart(m);
    else if (loop_timer_set(l, &m->restart, loop_now_ms(l) + RESTART_WAIT_MS))
        log_error("media: out of memory");
}

/* --- what it says --- */

/* It cannot be caged. Calls do not wait for what will hardly get better, unless another process is ready for them. */
static void process_refused(struct media_process *m, const struct err *why)
{
    struct media_pool *p = m->pool;
    log_error("media: %s", why->msg);
    process_close(m);
    bool other = false;
    for (int i = 0; i < p->n; i++) other |= p->processes[i].sock >= 0 && p->processes[i].ready;
    if (!other) queue_fail(p, "The picture decoder cannot start.");
    if (!p->was_ready && p->failed) p->failed(p->ctx, why);
}

static void process_hello(struct media_process *m)
{
    struct media_pool *p = m->pool;
    struct media_hello hello;
    struct err e;
    int rc = media_recv_hello(m->sock, &hello, &e);
    if (rc == -ERR_BUSY) return;
    if (rc == -ERR_GONE) {
        process_close(m);
    } else if (rc) {
        log_warn("media: %s", e.msg);
        process_condemn(m);
    } else if (hello.err.code) {
        process_refused(m, &hello.err);
    } else {
        bool first = !p->was_ready;
        if (first && hello.notes[0]) log_info("media: the cage does without: %s", hello.notes);
        p->was_ready = m->ready = true;
        loop_timer_clear(p->loop, &m->limit);
        if (first && p->ready) p->ready(p->ctx);
        process_give(m);
    }
}

static void process_reply(struct media_process *m, struct media_reply *reply)
{
    struct err e;
    int rc = media_recv_reply(m->sock, reply, &e);
    if (rc == -ERR_BUSY) return;
    struct media_call_state *c = m->call;
    if (rc == -ERR_GONE) {
        process_close(m);
        return;
    }
    if (rc || !c || reply->id != c->request.id || (c->request.call == MEDIA_PROBE && reply->tiles_fd >= 0)) {
        if (rc == 0 && reply->tiles_fd >= 0) close(reply->tiles_fd);
        log_warn("media: %s", rc ? e.msg : "an answer that nobody asked for");
        process_condemn(m);
        return;
    }
    m->call = NULL;
    m->n_answered++;
    m->retire |= reply->worn;
    loop_timer_clear(m->pool->loop, &m->limit);
    c->done(c, reply);
    if (m->retire) process_close(m);
    process_give(m);
}

static void process_event(void *ctx, uint32_t events)
{
    (void)events;
    struct media_process *m = ctx;
    if (!m->ready) {
        process_hello(m);
        return;
    }
    struct media_reply reply; /* 12 KiB: here, so that an answer is never lost for want of memory */
    process_reply(m, &reply);
}

static void process_drain(struct media_process *m)
{
    if (m->sock >= 0 && (m->call || !m->ready)) process_event(m, EPOLLIN);
}

/* --- its start and its work --- */

static int process_start(struct media_process *m, struct err *e)
{
    struct media_pool *p = m->pool;
    int socks[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, socks))
        return err_set(e, ERR_IO, "socketpair: %s", strerror(errno));
    char *argv[] = {"spillway", "media", NULL};
    m->ready = m->guilty = m->slow = m->retire = false;
    m->n_answered = 0;
    int rc = child_start(&m->child, p->loop, argv, &socks[1], 1, process_exited, m, e);
    close(socks[1]);
    if (!rc) rc = media_send_setup(socks[0], p->limits.image_pixels, e);
    if (!rc && loop_timer_set(p->loop, &m->limit, loop_now_ms(p->loop) + START_MAX_MS * MEDIA_SLOWNESS))
        rc = err_set(e, ERR_MEMORY, "out of memory");
    if (!rc) rc = loop_watch_add(p->loop, socks[0], EPOLLIN, process_event, m, &m->watch, e);
    if (rc) {
        loop_timer_clear(p->loop, &m->limit);
        close(socks[0]);
        child_close(&m->child);
        return rc;
    }
    m->sock = socks[0];
    m->n_starts++;
    return 0;
}

/* The next waiting call to a process that has none. Its socket never fills: one call at a time. */
static void process_give(struct media_process *m)
{
    struct media_pool *p = m->pool;
    while (m->sock >= 0 && m->ready && !m->call && p->first) {
        struct media_call_state *c = p->first;
        struct err e;
        int64_t limit_ms = (p->limits.decode_wall_ms + GRACE_MS) * MEDIA_SLOWNESS;
        c->request.id = ++p->next_id;
        c->request.max_pixels = p->limits.image_pixels;
        c->request.cpu_ms = (uint32_t)p->limits.decode_cpu_ms;
        c->request.wall_ms = (uint32_t)p->limits.decode_wall_ms;
        int rc = loop_timer_set(p->loop, &m->limit, loop_now_ms(p->loop) + limit_ms);
        if (rc) err_set(&e, ERR_MEMORY, "out of memory");
        if (!rc) rc = media_send_request(m->sock, &c->request, &e);
        if (rc) loop_timer_clear(p->loop, &m->limit);
        if (rc == -ERR_GONE || rc == -ERR_BUSY) {
            process_close(m); /* dead but not yet seen, or not reading; the call stays first in the queue */
            return;
        }
        queue_remove(p, c);
        if (rc) {
            call_fail(c, (enum err_code) - rc, e.msg);
            continue;
        }
        m->call = c;
    }
}

/* --- the pool --- */

int media_pool_new(struct media_pool **out, struct loop *l, const struct media_pool_config *c, struct err *e)
{
    CHECK(c->n_processes > 0);
    struct media_pool *p = *out = calloc(1, sizeof *p + (size_t)c->n_processes * sizeof p->processes[0]);
    if (!p) return err_set(e, ERR_MEMORY, "out of memory");
    p->loop = l;
    p->limits = *c->limits;
    p->ready = c->ready;
    p->failed = c->failed;
    p->ctx = c->ctx;
    p->n = c->n_processes;
    for (int i = 0; i < p->n; i++) {
        struct media_process *m = &p->processes[i];
        m->pool = p;
        m->sock = -1;
        m->child.pidfd = -1;
        m->restart = (struct loop_timer){.fn = process_restart, .ctx = m};
        m->limit = (struct loop_timer){.fn = process_limit, .ctx = m};
    }
    for (int i = 0; i < p->n; i++) {
        int rc = process_start(&p->processes[i], e);
        if (!rc) continue;
        media_pool_free(p);
        *out = NULL;
        return rc;
    }
    return 0;
}

void media_pool_free(struct media_pool *p)
{
    if (!p) return;
    for (int i = 0; i < p->n; i++) {
        struct media_process *m = &p->processes[i];
        process_close(m);
        loop_timer_clear(p->loop, &m->restart);
        loop_timer_clear(p->loop, &m->limit);
        child_close(&m->child);
    }
    for (int i = 0; i < p->n; i++)
        if (p->processes[i].call) call_fail(p->processes[i].call, ERR_GONE, "The server is shutting down.");
    queue_fail(p, "The server is shutting down.");
    free(p);
}

void media_pool_set_limits(struct media_pool *p, const struct limits *l)
{
    bool larger = l->image_pixels > p->limits.image_pixels;
    p->limits = *l;
    for (int i = 0; larger && i < p->n; i++) {
        struct media_process *m = &p->processes[i];
        m->retire = true;
        if (!m->call) process_close(m); /* also one that is starting with the old figure */
    }
}

void media_pool_call(struct media_pool *p, struct media_call_state *c)
{
    c->waiting = c->tried = false;
    if (c->request.call == MEDIA_PROBE && p->n_waiting > 0 &&
        (p->n_waiting >= p->limits.media_queue || c->n_bytes > p->limits.media_queue_bytes - p->waiting_bytes)) {
        call_fail(c, ERR_BUSY, "Too many pictures wait to be decoded: try again.");
        return;
    }
    queue_append(p, c);
    for (int i = 0; i < p->n && p->first; i++) process_give(&p->processes[i]);
}

bool media_pool_take_back(struct media_pool *p, struct media_call_state *c)
{
    if (!c->waiting) return false;
    queue_remove(p, c);
    return true;
}

struct media_info media_info(const struct media_pool *p)
{
    struct media_info i = {.processes = (unsigned)p->n, .waiting = p->n_waiting};
    for (int j = 0; j < p->n; j++) {
        const struct media_process *m = &p->processes[j];
        i.up += m->sock >= 0 && m->ready;
        i.busy += m->call != NULL;
        i.restarts += m->n_starts > 0 ? m->n_starts - 1 : 0;
    }
    return i;
}
