/* Curl on the loop: see curl_loop.h. Curl takes its interest in a connection back after each answer. The descriptor stays watched all the same until it is
 * closed or something comes that nobody waits for: a call over a kept connection costs no epoll_ctl. That takes knowing when it is closed, which
 * only the sockets' own callbacks tell; the few that curl opens without them (of its resolver) are forgotten as soon as it says so. */
#include "server/curl_loop.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/curl_memory.h"

struct curl_loop {
    struct loop *loop;
    CURLM *multi;
    struct loop_timer timer, abort;
    struct curl_socket **sockets; /* by descriptor; NULL: not curl's */
    size_t n_sockets;
    void (*done)(void *ctx, CURL *easy, CURLcode code);
    void *ctx;
};

/* One per socket of curl's. */
struct curl_socket {
    struct curl_loop *owner;
    curl_socket_t fd;
    bool told_of_close;
    uint32_t wanted, watched; /* events */
    struct loop_watch *watch; /* NULL: none is watched */
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

static void socket_unwatch(struct curl_socket *s)
{
    loop_watch_remove(s->owner->loop, s->watch);
    s->watch = NULL;
    s->watched = 0;
}

static void socket_event(void *ctx, uint32_t events)
{
    struct curl_socket *s = ctx;
    struct curl_loop *c = s->owner;
    int mask = (events & (EPOLLIN | EPOLLHUP) ? CURL_CSELECT_IN : 0) | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
               (events & EPOLLERR ? CURL_CSELECT_ERR : 0);
    int running;
    if (!s->wanted) { /* the end of a connection that nobody uses: curl sees it when it wants to use it */
        socket_unwatch(s);
        return;
    }
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

static struct curl_socket *socket_of(const struct curl_loop *c, curl_socket_t fd)
{
    return fd >= 0 && (size_t)fd < c->n_sockets ? c->sockets[fd] : NULL;
}

static void socket_free(struct curl_socket *s)
{
    socket_unwatch(s);
    s->owner->sockets[s->fd] = NULL;
    free(s);
}

static struct curl_socket *socket_new(struct curl_loop *c, curl_socket_t fd)
{
    if (socket_of(c, fd)) socket_free(c->sockets[fd]); /* closed without a word */
    if ((size_t)fd >= c->n_sockets) {
        size_t n = c->n_sockets ? c->n_sockets : 64;
        while (n <= (size_t)fd) n *= 2;
        void *more = realloc(c->sockets, n * sizeof *c->sockets);
        if (!more) return NULL;
        c->sockets = more;
        memset(c->sockets + c->n_sockets, 0, (n - c->n_sockets) * sizeof *c->sockets);
        c->n_sockets = n;
    }
    struct curl_socket *s = c->sockets[fd] = calloc(1, sizeof *s);
    if (s) *s = (struct curl_socket){.owner = c, .fd = fd};
    return s;
}

static curl_socket_t socket_opens(void *ctx, curlsocktype purpose, struct curl_sockaddr *a)
{
    struct curl_loop *c = ctx;
    (void)purpose; /* there is only one */
    int fd = socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
    struct curl_socket *s = fd < 0 ? NULL : socket_new(c, fd);
    if (s) {
        s->told_of_close = true;
        return fd;
    }
    if (fd >= 0) close(fd);
    return CURL_SOCKET_BAD;
}

static int socket_closes(void *ctx, curl_socket_t fd)
{
    struct curl_socket *s = socket_of(ctx, fd);
    if (s) socket_free(s);
    return close(fd);
}

static int socket_wanted(CURL *easy, curl_socket_t fd, int what, void *ctx, void *unused)
{
    (void)easy;
    (void)unused;
    struct curl_loop *c = ctx;
    struct curl_socket *s = socket_of(c, fd);
    if (what == CURL_POLL_REMOVE) {
        if (s) s->wanted = 0;
        if (s && !s->told_of_close) socket_free(s);
        return 0;
    }
    if (!s && !(s = socket_new(c, fd))) return callback_failed(c);
    s->wanted = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    if (s->watch && s->wanted == s->watched) return 0;
    int rc = s->watch ? loop_watch_change(c->loop, s->watch, s->wanted, NULL) : loop_watch_add(c->loop, fd, s->wanted, socket_event, s, &s->watch, NULL);
    if (!rc) s->watched = s->wanted;
    return rc ? callback_failed(c) : 0;
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
    curl_multi_cleanup(c->multi); /* closes the connections */
    loop_timer_clear(c->loop, &c->timer);
    loop_timer_clear(c->loop, &c->abort);
    for (size_t i = 0; i < c->n_sockets; i++)
        if (c->sockets[i]) socket_free(c->sockets[i]);
    free(c->sockets);
    free(c);
}

bool curl_loop_prepare(struct curl_loop *c, CURL *easy)
{
    return curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, socket_opens) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, c) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, socket_closes) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, c) == CURLE_OK;
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
