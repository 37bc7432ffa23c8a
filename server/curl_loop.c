/* Curl on the loop: see curl_loop.h. */
#include "server/curl_loop.h"

#include <stdlib.h>
#include <sys/epoll.h>

#include "server/curl_memory.h"

struct curl_loop {
    struct loop *loop;
    CURLM *multi;
    struct loop_timer timer, abort;
    void (*done)(void *ctx, CURL *easy, CURLcode code);
    void *ctx;
};

/* One per socket of curl's; curl keeps the pointer. */
struct curl_socket {
    struct curl_loop *owner;
    curl_socket_t fd;
    struct loop_watch *watch;
};

static void take_ended(struct curl_loop *c)
{
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(c->multi, &left));) {
        if (m->msg != CURLMSG_DONE) continue;
        CURL *easy = m->easy_handle;
        CURLcode code = m->data.result;
        curl_multi_remove_handle(c->multi, easy); /* m is gone after this */
        c->done(c->ctx, easy, code);
    }
}

static void socket_event(void *ctx, uint32_t events)
{
    struct curl_socket *s = ctx;
    struct curl_loop *c = s->owner;
    int mask = (events & (EPOLLIN | EPOLLHUP) ? CURL_CSELECT_IN : 0) | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
               (events & EPOLLERR ? CURL_CSELECT_ERR : 0);
    int running;
    curl_multi_socket_action(c->multi, s->fd, mask, &running); /* may free s */
    take_ended(c);
}

static void timer_fired(void *ctx)
{
    struct curl_loop *c = ctx;
    int running;
    curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    take_ended(c);
}

/* A callback that fails has curl abort all transfers, but each only when it is looked at again: nothing else would. */
static void abort_fired(void *ctx)
{
    struct curl_loop *c = ctx;
    int running;
    curl_multi_perform(c->multi, &running);
    take_ended(c);
}

static int callback_failed(struct curl_loop *c)
{
    int rc = loop_timer_set(c->loop, &c->abort, loop_now_ms(c->loop));
    CHECK(rc == 0);
    return -1;
}

static int socket_wanted(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    (void)easy;
    struct curl_loop *c = ctx;
    struct curl_socket *s = socket_ctx;
    if (what == CURL_POLL_REMOVE) {
        if (s) loop_watch_remove(c->loop, s->watch);
        free(s);
        return 0;
    }
    uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    if (s) return loop_watch_change(c->loop, s->watch, events, NULL) ? callback_failed(c) : 0;
    s = malloc(sizeof *s);
    if (!s) return callback_failed(c);
    *s = (struct curl_socket){.owner = c, .fd = fd};
    if (loop_watch_add(c->loop, fd, events, socket_event, s, &s->watch, NULL) || curl_multi_assign(c->multi, fd, s)) {
        loop_watch_remove(c->loop, s->watch);
        free(s);
        return callback_failed(c);
    }
    return 0;
}

static int timer_wanted(CURLM *multi, long ms, void *ctx)
{
    (void)multi;
    struct curl_loop *c = ctx;
    if (ms < 0)
        loop_timer_clear(c->loop, &c->timer);
    else if (loop_timer_set(c->loop, &c->timer, loop_now_ms(c->loop) + ms))
        return callback_failed(c);
    return 0;
}

int curl_loop_new(struct curl_loop **out, struct loop *l, void (*done)(void *ctx, CURL *easy, CURLcode code), void *ctx, struct err *e)
{
    int rc = curl_memory_init(e);
    struct curl_loop *c = *out = rc ? NULL : calloc(1, sizeof *c);
    if (rc) return rc;
    if (c) c->multi = curl_multi_init();
    if (!c || !c->multi) {
        free(c);
        *out = NULL;
        return err_set(e, ERR_MEMORY, "out of memory");
    }
    c->loop = l;
    c->done = done;
    c->ctx = ctx;
    c->timer = (struct loop_timer){.fn = timer_fired, .ctx = c};
    c->abort = (struct loop_timer){.fn = abort_fired, .ctx = c};
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, socket_wanted);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, timer_wanted);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    return 0;
}

void curl_loop_free(struct curl_loop *c)
{
    if (!c) return;
    curl_multi_cleanup(c->multi);
    loop_timer_clear(c->loop, &c->timer);
    loop_timer_clear(c->loop, &c->abort);
    free(c);
}

int curl_loop_add(struct curl_loop *c, CURL *easy, struct err *e)
{
    CURLMcode code = curl_multi_add_handle(c->multi, easy);
    return code ? err_set(e, ERR_IO, "curl: %s", curl_multi_strerror(code)) : 0;
}

void curl_loop_remove(struct curl_loop *c, CURL *easy)
{
    curl_multi_remove_handle(c->multi, easy);
}

void curl_loop_keep(struct curl_loop *c, long n)
{
    curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, n);
}
