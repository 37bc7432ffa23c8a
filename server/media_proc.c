/* Media processes: see media_proc.h. */
#include "server/media_proc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "server/child.h"

enum {
    CALL_MAX_MS = 30000,    /* the process has a shorter limit of its own; this one is for a process that does not keep it */
    RESTART_SOON_MS = 1000, /* who died younger than that is restarted later */
    RESTART_WAIT_MS = 500
};

struct media_process {
    struct media_pool *pool;
    struct child child;
    int sock; /* -1: down */
    struct loop_watch *watch;
    struct loop_timer restart, limit;
    struct media_call_state *call; /* the one it has */
    unsigned n_starts;
    int64_t started_ms;
};

struct media_pool {
    struct loop *loop;
    uint64_t next_id;
    struct media_call_state *first, **last;
    int n;
    struct media_process processes[];
};

static void process_give(struct media_process *m);

static void call_fail(struct media_call_state *c, enum err_code code, const char *what)
{
    struct media_reply reply = {.id = c->request.id, .tiles_fd = -1};
    err_set(&reply.err, code, "%s", what);
    c->done(c, &reply);
}

static void process_down(struct media_process *m)
{
    if (m->sock < 0) return;
    loop_watch_remove(m->pool->loop, m->watch);
    m->watch = NULL;
    close(m->sock);
    m->sock = -1;
    loop_timer_clear(m->pool->loop, &m->limit);
    child_kill(&m->child);
    struct media_call_state *c = m->call;
    m->call = NULL;
    if (c) call_fail(c, ERR_GONE, "The picture decoder ended while it was reading this picture.");
}

static void process_event(void *ctx, uint32_t events)
{
    (void)events;
    struct media_process *m = ctx;
    struct err e;
    struct media_reply *reply = malloc(sizeof *reply);
    if (!reply) return; /* level-triggered: asked again */
    int rc = media_recv_reply(m->sock, reply, &e);
    if (rc == -ERR_BUSY) {
        free(reply);
        return;
    }
    struct media_call_state *c = m->call;
    bool asked = rc == 0 && c && reply->id == c->request.id && (c->request.call == MEDIA_DECODE || reply->tiles_fd < 0);
    if (asked) {
        m->call = NULL;
        loop_timer_clear(m->pool->loop, &m->limit);
        c->done(c, reply);
        if (m->sock >= 0) process_give(m);
    } else {
        if (rc == 0 && reply->tiles_fd >= 0) close(reply->tiles_fd);
        log_warn("media: %s", rc ? e.msg : "an answer that nobody asked for");
        process_down(m);
    }
    free(reply);
}

static int process_start(struct media_process *m, struct err *e);

static void process_restart(void *ctx)
{
    struct media_process *m = ctx;
    struct err e;
    if (process_start(m, &e) == 0) return;
    log_error("media: %s", e.msg);
    if (loop_timer_set(m->pool->loop, &m->restart, loop_now_ms(m->pool->loop) + RESTART_WAIT_MS)) log_error("media: out of memory");
}

static void process_exited(void *ctx, int status)
{
    struct media_process *m = ctx;
    process_down(m);
    if (WIFSIGNALED(status))
        log_warn("media: ended by signal %d, starting again", WTERMSIG(status));
    else
        log_warn("media: ended with exit code %d, starting again", WEXITSTATUS(status));
    int64_t now_ms = loop_now_ms(m->pool->loop);
    int64_t wait_ms = now_ms - m->started_ms < RESTART_SOON_MS ? RESTART_WAIT_MS : 0;
    if (loop_timer_set(m->pool->loop, &m->restart, now_ms + wait_ms)) log_error("media: out of memory");
}

static void process_limit(void *ctx)
{
    struct media_process *m = ctx;
    log_warn("media: no answer in %d ms", CALL_MAX_MS);
    process_down(m);
}

static int process_start(struct media_process *m, struct err *e)
{
    int socks[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, socks))
        return err_set(e, ERR_IO, "socketpair: %s", strerror(errno));
    char *argv[] = {"spillway", "media", NULL};
    m->started_ms = loop_now_ms(m->pool->loop);
    int rc = child_start(&m->child, m->pool->loop, argv, &socks[1], 1, process_exited, m, e);
    close(socks[1]);
    if (!rc) rc = loop_watch_add(m->pool->loop, socks[0], EPOLLIN, process_event, m, &m->watch, e);
    if (rc) {
        close(socks[0]);
        child_close(&m->child);
        return rc;
    }
    m->sock = socks[0];
    m->n_starts++;
    process_give(m);
    return 0;
}

/* The next waiting call to a process that has none. Its socket never fills: one call at a time. */
static void process_give(struct media_process *m)
{
    struct media_pool *p = m->pool;
    while (m->sock >= 0 && !m->call && p->first) {
        struct media_call_state *c = p->first;
        struct err e;
        c->request.id = ++p->next_id;
        int rc = media_send_request(m->sock, &c->request, &e);
        if (rc == -ERR_GONE || rc == -ERR_BUSY) {
            shutdown(m->sock, SHUT_RDWR); /* dead but not yet seen, or not reading; the call stays first in the queue */
            return;
        }
        p->first = c->next;
        if (!p->first) p->last = &p->first;
        if (rc) {
            call_fail(c, (enum err_code) - rc, e.msg);
            continue;
        }
        m->call = c;
        if (loop_timer_set(p->loop, &m->limit, loop_now_ms(p->loop) + CALL_MAX_MS)) log_error("media: out of memory");
    }
}

int media_pool_new(struct media_pool **out, struct loop *l, int n_processes, struct err *e)
{
    CHECK(n_processes > 0);
    struct media_pool *p = *out = calloc(1, sizeof *p + (size_t)n_processes * sizeof p->processes[0]);
    if (!p) return err_set(e, ERR_MEMORY, "out of memory");
    p->loop = l;
    p->last = &p->first;
    p->n = n_processes;
    for (int i = 0; i < n_processes; i++) {
        struct media_process *m = &p->processes[i];
        m->pool = p;
        m->sock = -1;
        m->child.pidfd = -1;
        m->restart = (struct loop_timer){.fn = process_restart, .ctx = m};
        m->limit = (struct loop_timer){.fn = process_limit, .ctx = m};
    }
    for (int i = 0; i < n_processes; i++) {
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
        loop_timer_clear(p->loop, &m->restart);
        loop_timer_clear(p->loop, &m->limit);
        loop_watch_remove(p->loop, m->watch);
        if (m->sock >= 0) close(m->sock);
        child_close(&m->child);
        if (m->call) call_fail(m->call, ERR_GONE, "The server is shutting down.");
    }
    while (p->first) {
        struct media_call_state *c = p->first;
        p->first = c->next;
        call_fail(c, ERR_GONE, "The server is shutting down.");
    }
    free(p);
}

void media_pool_call(struct media_pool *p, struct media_call_state *c)
{
    c->next = NULL;
    *p->last = c;
    p->last = &c->next;
    for (int i = 0; i < p->n && p->first; i++) process_give(&p->processes[i]);
}

bool media_pool_take_back(struct media_pool *p, struct media_call_state *c)
{
    for (struct media_call_state **at = &p->first; *at; at = &(*at)->next) {
        if (*at != c) continue;
        *at = c->next;
        if (!*at) p->last = at;
        return true;
    }
    return false;
}

struct media_info media_info(const struct media_pool *p)
{
    struct media_info i = {.processes = (unsigned)p->n};
    for (int j = 0; j < p->n; j++) {
        const struct media_process *m = &p->processes[j];
        i.up += m->sock >= 0;
        i.busy += m->call != NULL;
        i.restarts += m->n_starts > 0 ? m->n_starts - 1 : 0;
    }
    for (const struct media_call_state *c = p->first; c; c = c->next) i.waiting++;
    return i;
}
