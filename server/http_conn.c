/* HTTP connections: accepting, reading, sending, TLS, deadlines. See http.h and http_parts.h; start reading at conn_work.
 *
 * Sockets are edge-triggered: what an event says is remembered (readable, writable, fin) until a call says otherwise. Events and handlers only put
 * a connection on the work list; http_before_wait does the work once a round. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "server/http_parts.h"

enum {
    BACKLOG = 1024,
    ACCEPT_BATCH = 128,
    READ_BATCH = 8, /* reads of one connection a round: others have their turn */
    ACCEPT_AGAIN_MS = 100,
    LINGER_MS = 2000,
    UNSENT_MARK_BYTES = 64 << 10, /* of a slow client the kernel takes this much, not megabytes: what waits is counted here */
    SEND_MARK_BYTES = 64 << 10    /* a client that takes this much within write_ms lives */
};

/* --- lists --- */

void conn_work_later(struct http_conn *c)
{
    if (c->in_work || c->state == CONN_DEAD) return;
    c->in_work = true;
    c->next_work = c->server->work;
    c->server->work = c;
}

static struct counts_key conn_key(const struct http_conn *c)
{
    struct ip ip = ip_counted(&c->ip);
    struct counts_key key;
    memcpy(key.bytes, ip.bytes, sizeof key.bytes);
    return key;
}

static void conn_uncount(struct http_conn *c)
{
    if (!c->counted) return;
    struct counts_key key = conn_key(c);
    counts_leave(c->server->per_ip, &key);
    c->counted = false;
}

static void accept_resume(struct http_server *s);

void conn_kill(struct http_conn *c)
{
    struct http_server *s = c->server;
    if (c->state == CONN_DEAD) return;
    c->state = CONN_DEAD;
    loop_timer_clear(s->loop, &c->deadline);
    loop_watch_remove(s->loop, c->watch);
    tls_session_free(c->tls);
    close(c->fd);
    conn_uncount(c);
    s->n_connections--;
    c->next_dead = s->dead;
    s->dead = c;
    if (c->request) request_gone(c->request);
    accept_resume(s);
}

static void limits_release(struct http_limits *l)
{
    if (l && --l->refs == 0) free(l);
}

/* Before a request begins. */
static void limits_renew(struct http_conn *c)
{
    struct http_limits *newest = c->server->limits;
    if (c->limits == newest) return;
    limits_release(c->limits);
    newest->refs++;
    c->limits = newest;
}

static void conn_free(struct http_conn *c)
{
    if (c->request) request_free(c->request);
    if (c->prev)
        c->prev->next = c->next;
    else
        c->server->connections = c->next;
    if (c->next) c->next->prev = c->prev;
    buf_free(&c->in);
    buf_free(&c->out);
    limits_release(c->limits);
    free(c);
}

/* --- deadlines --- */

static void deadline_passed(void *ctx)
{
    struct http_conn *c = ctx;
    bool sending = c->state == CONN_REQUEST;
    if (sending && c->sent - c->sent_mark >= SEND_MARK_BYTES) {
        c->sent_mark = c->sent;
        conn_deadline(c, c->limits->l.write_ms);
        return;
    }
    conn_kill(c);
}

void conn_deadline(struct http_conn *c, int64_t ms)
{
    struct loop *l = c->server->loop;
    if (ms <= 0)
        loop_timer_clear(l, &c->deadline);
    else if (loop_timer_set(l, &c->deadline, loop_now_ms(l) + ms))
        c->broken = true, conn_work_later(c); /* none without a deadline */
}

/* --- sending --- */

size_t conn_unsent(const struct http_conn *c)
{
    return c->out.len - c->out_at;
}

static ssize_t socket_send(struct http_conn *c, const void *p, size_t n)
{
    if (c->tls) return tls_send(c->tls, p, n);
    ssize_t sent;
    do sent = send(c->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

void conn_send(struct http_conn *c)
{
    while (c->writable && !c->broken && conn_unsent(c) > 0) {
        ssize_t n = socket_send(c, c->out.data + c->out_at, conn_unsent(c));
        if (n == -EAGAIN)
            c->writable = false;
        else if (n < 0)
            c->broken = true;
        else {
            c->out_at += (size_t)n;
            c->sent += (uint64_t)n;
        }
    }
    if (conn_unsent(c) == 0) {
        c->out_at = 0;
        if (c->out.cap > 4096)
            buf_free(&c->out); /* an idle stream keeps nothing */
        else
            buf_clear(&c->out);
    } else if (c->out_at > c->out.len / 2) {
        buf_consume(&c->out, c->out_at);
        c->out_at = 0;
    }
}

/* --- reading --- */

static ssize_t socket_recv(struct http_conn *c, void *p, size_t n)
{
    if (c->tls) return tls_recv(c->tls, p, n);
    ssize_t got;
    do got = recv(c->fd, p, n, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

static bool conn_reads(const struct http_conn *c)
{
    return c->state == CONN_HEAD || c->state == CONN_BODY || c->state == CONN_LINGER;
}

/* A header is whole, or will never be: its request begins, and takes what came behind it. */
static void conn_header(struct http_conn *c)
{
    if (!c->begun && c->in.len > 0) { /* a new connection's time runs from its start */
        int64_t ms = c->limits->l.header_ms;
        c->begun = true;
        if (c->deadline.at_ms > loop_now_ms(c->server->loop) + ms) conn_deadline(c, ms);
    }
    int rc = http_head_scan(&c->scan, c->in.data ? c->in.data : "", c->in.len, &c->limits->l);
    if (rc) request_begin(c, rc);
}

static void conn_input(struct http_conn *c, const char *p, size_t n)
{
    if (c->state == CONN_LINGER) {
        c->linger_bytes += n;
        if (c->linger_bytes > DISCARD_BYTES) conn_kill(c);
        return;
    }
    size_t used = c->state == CONN_BODY ? request_body(c->request, p, n) : 0;
    if (used == n || c->state == CONN_DEAD) return;
    if (c->in.max == 0) {
        if (c->state == CONN_HEAD && !c->begun) limits_renew(c);
        buf_init(&c->in, (size_t)c->limits->l.header_bytes + SCRATCH_BYTES);
    }
    if (buf_append(&c->in, p + used, n - used)) {
        conn_kill(c);
        return;
    }
    if (c->state == CONN_HEAD) conn_header(c);
}

static void conn_read(struct http_conn *c)
{
    struct http_server *s = c->server;
    for (int i = 0; i < READ_BATCH && c->readable && conn_reads(c) && !c->broken; i++) {
        ssize_t n = socket_recv(c, s->scratch, SCRATCH_BYTES);
        if (n == -EAGAIN)
            c->readable = false;
        else if (n < 0)
            c->broken = true;
        else if (n == 0) {
            c->readable = false;
            c->fin = true;
        } else {
            if (!c->tls && n < SCRATCH_BYTES) c->readable = c->fin; /* drained: the next byte is a new event */
            conn_input(c, s->scratch, (size_t)n);
        }
    }
    if (c->readable && conn_reads(c)) conn_work_later(c);
}

/* --- work --- */

static void conn_handshake(struct http_conn *c)
{
    int rc = tls_handshake(c->tls);
    if (rc == 0) {
        c->state = CONN_HEAD;
        c->readable = true; /* the library may hold bytes already */
    } else if (rc != -EAGAIN)
        c->broken = true;
    else if (tls_wants_write(c->tls))
        c->writable = false;
    else
        c->readable = false;
}

/* The answer is out: the next request, or the end. */
static void conn_answered(struct http_conn *c)
{
    struct http_request *r = c->request;
    bool cut = r->cut, whole = r->body_whole;
    if (!whole && !c->close_after) return; /* the rest of a refused body is still to be read */
    c->request = NULL;
    request_free(r);
    c->close_after |= c->server->quiesced;
    if (cut || (c->close_after && c->fin)) {
        conn_kill(c);
        return;
    }
    if (c->close_after) {
        if (c->tls) tls_session_free(c->tls);
        c->tls = NULL;
        shutdown(c->fd, SHUT_WR);
        c->state = CONN_LINGER;
        buf_free(&c->in);
        conn_deadline(c, LINGER_MS);
    } else {
        c->state = CONN_HEAD;
        c->begun = false;
        c->scan = (struct http_scan){0};
        conn_deadline(c, c->server->config.limits.idle_ms);
        limits_renew(c);
        if (c->in.len) {
            if (c->in.max < (size_t)c->limits->l.header_bytes + SCRATCH_BYTES)
                c->in.max = (size_t)c->limits->l.header_bytes + SCRATCH_BYTES;
            conn_header(c);
        } else
            buf_free(&c->in);
    }
    conn_work_later(c);
}

/* Bytes wait for the client: from now on he has write_ms for them. */
static void conn_watch_sending(struct http_conn *c)
{
    bool waiting = conn_unsent(c) > 0, watched = c->deadline.place != 0;
    if (waiting && !watched) {
        c->sent_mark = c->sent;
        conn_deadline(c, c->limits->l.write_ms);
    } else if (!waiting && watched)
        conn_deadline(c, 0);
}

static void conn_work(struct http_conn *c)
{
    if (c->state == CONN_DEAD) return;
    if (c->state == CONN_HANDSHAKE && !c->broken && (c->readable || c->writable)) conn_handshake(c);
    conn_send(c);
    conn_read(c);
    if (c->state == CONN_DEAD) return;
    conn_send(c);
    struct http_request *r = c->request;
    bool open = r && (r->state == REQUEST_OPEN || r->state == REQUEST_STREAM);
    if (c->broken || (c->fin && (open || (conn_reads(c) && !c->readable))) || (c->fin && c->state == CONN_HANDSHAKE)) {
        conn_kill(c);
        return;
    }
    if (r && r->state == REQUEST_REPLIED && conn_unsent(c) == 0)
        conn_answered(c);
    else if (c->state == CONN_REQUEST)
        conn_watch_sending(c);
}

static void conn_event(void *ctx, uint32_t events)
{
    struct http_conn *c = ctx;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) c->readable = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) c->writable = true;
    if (events & (EPOLLRDHUP | EPOLLHUP)) c->fin = c->readable = true;
    if (events & (EPOLLERR | EPOLLHUP)) c->broken = true;
    conn_work_later(c);
}

/* --- accepting --- */

static void listen_watch(struct http_server *s, uint32_t events)
{
    struct err e;
    if (s->listen_watch && loop_watch_change(s->loop, s->listen_watch, events, &e)) log_error("listening socket: %s", e.msg);
}

/* Until a connection ends, or a little later: never a loop that fails again and again. */
static void accept_pause(struct http_server *s)
{
    if (s->paused) return;
    s->paused = true;
    listen_watch(s, 0);
    if (loop_timer_set(s->loop, &s->accept_again, loop_now_ms(s->loop) + ACCEPT_AGAIN_MS))
        log_error("out of memory: no timer to accept again");
}

static void accept_resume(struct http_server *s)
{
    if (!s->paused || s->quiesced || s->stopping) return;
    s->paused = false;
    loop_timer_clear(s->loop, &s->accept_again);
    listen_watch(s, EPOLLIN);
}

static void accept_again(void *ctx)
{
    struct http_server *s = ctx;
    if ((int64_t)s->n_connections < s->config.limits.connections)
        accept_resume(s);
    else if (loop_timer_set(s->loop, &s->accept_again, loop_now_ms(s->loop) + ACCEPT_AGAIN_MS))
        log_error("out of memory: no timer to accept again");
}

static bool ip_allowed(struct http_conn *c)
{
    struct http_server *s = c->server;
    const struct limits *l = &s->config.limits;
    bool exempt = ip_nets_have(&s->config.trusted_proxies, &c->ip) || (ip_is_loopback(&c->ip) && !limit_given(l, &l->connections_per_ip));
    if (exempt) return true;
    struct counts_key key = conn_key(c);
    c->counted = counts_enter(s->per_ip, &key, l->connections_per_ip);
    return c->counted;
}

static void socket_prepare(int fd)
{
    int one = 1, idle_s = 60, interval_s = 10, probes = 3, unsent = UNSENT_MARK_BYTES;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one); /* a machine that vanished is noticed, too */
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
}

/* Takes the descriptor, also when it fails. */
static void conn_start(struct http_server *s, int fd, const struct sockaddr_storage *from)
{
    struct http_conn *c = calloc(1, sizeof *c);
    struct err e;
    if (!c) {
        close(fd);
        return;
    }
    c->server = s;
    c->limits = s->limits;
    c->limits->refs++;
    c->fd = fd;
    c->ip = ip_of(from);
    c->deadline = (struct loop_timer){.fn = deadline_passed, .ctx = c};
    c->state = s->tls ? CONN_HANDSHAKE : CONN_HEAD;
    c->writable = true;
    buf_init(&c->out, (size_t)1 << 30);
    bool ok = ip_allowed(c) && (!s->tls || (c->tls = tls_session_new(s->tls, fd)));
    ok = ok && loop_watch_add(s->loop, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, conn_event, c, &c->watch, &e) == 0;
    if (!ok) {
        conn_uncount(c);
        tls_session_free(c->tls);
        limits_release(c->limits);
        close(fd);
        free(c);
        return;
    }
    socket_prepare(fd);
    s->n_connections++;
    c->next = s->connections;
    if (c->next) c->next->prev = c;
    s->connections = c;
    conn_deadline(c, s->config.limits.header_ms);
}

static void listen_event(void *ctx, uint32_t events)
{
    (void)events;
    struct http_server *s = ctx;
    for (int i = 0; i < ACCEPT_BATCH && !s->quiesced; i++) {
        if ((int64_t)s->n_connections >= s->config.limits.connections) {
            accept_pause(s);
            return;
        }
        struct sockaddr_storage from = {0};
        socklen_t n = sizeof from;
        int fd = accept4(s->listen_fd, (struct sockaddr *)&from, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            conn_start(s, fd, &from);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            accept_pause(s);
            return;
        } else if (errno != EINTR && errno != ECONNABORTED)
            return; /* nobody waits, or one who has left */
    }
}

/* --- the server --- */

static int http_before_wait(void *ctx)
{
    struct http_server *s = ctx;
    struct http_conn *work = s->work;
    s->work = NULL; /* what is put there meanwhile has its turn next round */
    while (work) {
        struct http_conn *c = work;
        work = c->next_work;
        c->in_work = false;
        conn_work(c);
    }
    /* Nobody dead is on the work list: it was on the one just gone through, or could not be put there any more. */
    for (struct http_conn *c = s->work, **at = &s->work; c; c = *at) {
        if (c->state == CONN_DEAD)
            *at = c->next_work;
        else
            at = &c->next_work;
    }
    while (s->dead) {
        struct http_conn *c = s->dead;
        s->dead = c->next_dead;
        conn_free(c);
    }
    return s->work ? 0 : -1;
}

static int http_bind(struct http_server *s, struct err *e)
{
    struct sockaddr_storage a = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&a;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a;
    socklen_t n = sizeof *v4;
    if (inet_pton(AF_INET, s->config.host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(s->config.port);
    } else if (inet_pton(AF_INET6, s->config.host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(s->config.port);
        n = sizeof *v6;
    } else
        return err_set(e, ERR_INPUT, "'%s' is not a numeric address", s->config.host);
    int one = 1;
    s->listen_fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listen_fd < 0) return err_set(e, ERR_IO, "socket: %s", strerror(errno));
    setsockopt(s->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(s->listen_fd, (struct sockaddr *)&a, n) || listen(s->listen_fd, BACKLOG))
        return err_set(e, ERR_IO, "%s port %u: %s", s->config.host, s->config.port, strerror(errno));
    return 0;
}

/* An inherited socket is already bound; whether it listens shows at once. */
static int http_listen(struct http_server *s, struct err *e)
{
    s->listen_fd = s->config.listen_fd;
    int rc = s->listen_fd < 0 ? http_bind(s, e) : 0;
    if (rc) return rc;
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a, n_listening = sizeof(int);
    int listening = 0;
    if (getsockname(s->listen_fd, (struct sockaddr *)&a, &n) ||
        getsockopt(s->listen_fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n_listening) || !listening)
        return err_set(e, ERR_INPUT, "descriptor %d is not a listening socket", s->listen_fd);
    int flags = fcntl(s->listen_fd, F_GETFL);
    if (flags < 0 || fcntl(s->listen_fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(s->listen_fd, F_SETFD, FD_CLOEXEC) < 0)
        return err_set(e, ERR_IO, "listening socket: %s", strerror(errno));
    s->port = ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port : ((struct sockaddr_in *)&a)->sin_port);
    return loop_watch_add(s->loop, s->listen_fd, EPOLLIN, listen_event, s, &s->listen_watch, e);
}

void http_config_init(struct http_config *c)
{
    *c = (struct http_config){.host = "127.0.0.1", .port = 8080, .listen_fd = -1};
    limits_init(&c->limits);
}

int http_new(struct http_server **out, struct loop *l, const struct http_config *c, struct err *e)
{
    struct http_server *s = *out = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "out of memory");
    s->config = *c;
    s->loop = l;
    s->listen_fd = -1;
    s->accept_again = (struct loop_timer){.fn = accept_again, .ctx = s};
    s->scratch = malloc(SCRATCH_BYTES);
    int rc = s->scratch ? counts_new(&s->per_ip, e) : err_set(e, ERR_MEMORY, "out of memory");
    if (!rc) rc = http_set_limits(s, &c->limits, e);
    if (!rc && c->tls_cert) rc = tls_context_new(&s->tls, c->tls_cert, c->tls_key, e);
    if (!rc) rc = http_listen(s, e);
    if (rc) {
        http_free(s);
        *out = NULL;
        return rc;
    }
    loop_before_wait(l, http_before_wait, s);
    return 0;
}

void http_free(struct http_server *s)
{
    if (!s) return;
    s->stopping = true;
    loop_before_wait(s->loop, NULL, NULL);
    for (struct http_conn *c = s->connections; c; c = c->next) conn_kill(c);
    while (s->dead) {
        struct http_conn *c = s->dead;
        s->dead = c->next_dead;
        conn_free(c);
    }
    http_quiesce(s);
    loop_timer_clear(s->loop, &s->accept_again);
    counts_free(s->per_ip);
    tls_context_free(s->tls);
    limits_release(s->limits);
    free(s->scratch);
    free(s);
}

int http_set_limits(struct http_server *s, const struct limits *l, struct err *e)
{
    struct http_limits *newest = malloc(sizeof *newest);
    if (!newest) return err_set(e, ERR_MEMORY, "out of memory");
    *newest = (struct http_limits){.l = *l, .refs = 1};
    limits_release(s->limits);
    s->limits = newest;
    s->config.limits = *l;
    return 0;
}

void http_set_tls(struct http_server *s, struct tls_context *c)
{
    CHECK(s->tls != NULL);
    tls_context_free(s->tls); /* sessions hold on to it */
    s->tls = c;
}

void http_set_trusted_proxies(struct http_server *s, const struct ip_nets *nets)
{
    s->config.trusted_proxies = *nets;
}

uint16_t http_port(const struct http_server *s)
{
    return s->port;
}

void http_quiesce(struct http_server *s)
{
    if (s->quiesced) return;
    s->quiesced = true;
    loop_watch_remove(s->loop, s->listen_watch);
    s->listen_watch = NULL;
    if (s->listen_fd >= 0) close(s->listen_fd);
    s->listen_fd = -1;
    for (struct http_conn *c = s->connections; c; c = c->next)
        if (c->state == CONN_HEAD && !c->begun && !s->stopping) conn_kill(c);
}

unsigned http_open_requests(const struct http_server *s)
{
    return s->n_requests;
}

unsigned http_connections(const struct http_server *s)
{
    return s->n_connections;
}
