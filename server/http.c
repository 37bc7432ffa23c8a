/* HTTP: see http.h. One struct connection a socket (watched for departure by our own epoll for its whole life, one
 * deadline timer), one struct http_request a request. The library runs in http_before_wait, once a round, if its epoll
 * woke up or something was resumed. */
#include "server/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"

enum {
    POOL_BYTES = 20 << 10,   /* the library's memory of a connection: header fields and one chunk out */
    BLOCK_BYTES = 2048,      /* of a stream's response; only HTTP/1.0 clients use it */
    DISCARD_BYTES = 1 << 20, /* a refused request's body up to this is read, so that the connection lives on */
    MAX_EXTRA_HEADERS = 8,
    BACKLOG = 1024
};

const struct http_config http_config_default = {
    .host = "127.0.0.1", .port = 8080, .header_ms = 10000, .body_ms = 30000, .idle_ms = 60000, .max_connections = 12000};

struct connection {
    struct http_server *server;
    int fd;
    struct loop_watch *watch;
    struct loop_timer deadline;
    struct http_request *request; /* the one in progress */
    bool fin;                     /* the peer has closed its sending side, or more */
    struct connection *prev, *next;
};

enum request_state {
    REQUEST_READING, /* body arrives */
    REQUEST_OPEN,    /* the handler's */
    REQUEST_REPLIED, /* whole response in body or (streaming) stream's end told */
    REQUEST_STREAM,  /* the handler's, response begun */
    REQUEST_CUT      /* the connection is to be closed */
};

struct http_request {
    struct connection *conn;
    struct MHD_Connection *mhd;
    enum request_state state;
    bool suspended, handled, replied_early;
    bool streaming;  /* response is a stream (also after its end) */
    bool queued;     /* the library has the response */
    bool stream_bad; /* end the stream with an error */
    unsigned status;
    const char *content_type;
    struct buf body;   /* in, then the reply or what of the stream has not been taken yet */
    size_t body_bytes; /* of the body, also of what is not kept */
    const char *method;
    char *path;
    char id[HTTP_REQUEST_ID_BYTES];
    struct {
        const char *name;
        char value[64];
    } extra[MAX_EXTRA_HEADERS];
    unsigned n_extra;
    void (*on_gone)(void *ctx);
    void *gone_ctx;
};

struct http_server {
    struct http_config config;
    struct loop *loop;
    struct MHD_Daemon *daemon;
    struct loop_watch *watch;
    int listen_fd;
    bool listen_closed;
    uint16_t port;
    bool dirty, stopping;
    unsigned n_requests;
    struct connection *connections;
};

static void request_resume(struct http_request *r)
{
    if (!r->suspended) return;
    r->suspended = false;
    MHD_resume_connection(r->mhd);
    r->conn->server->dirty = true;
}

static void request_suspend(struct http_request *r)
{
    if (r->suspended) return;
    r->suspended = true;
    MHD_suspend_connection(r->mhd);
}

/* The client is gone, or has to be: tell the handler once and let the library close the connection. */
static void request_cut(struct http_request *r)
{
    bool open = r->state == REQUEST_OPEN || r->state == REQUEST_STREAM;
    r->state = REQUEST_CUT;
    r->stream_bad = true;
    shutdown(r->conn->fd, SHUT_RDWR);
    request_resume(r);
    if (open && r->on_gone) r->on_gone(r->gone_ctx);
}

static void connection_event(void *ctx, uint32_t events)
{
    struct connection *c = ctx;
    if (!(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))) return;
    c->fin = true;
    struct http_request *r = c->request;
    if (r && (r->state == REQUEST_OPEN || r->state == REQUEST_STREAM)) request_cut(r);
}

static void connection_expired(void *ctx)
{
    struct connection *c = ctx;
    shutdown(c->fd, SHUT_RDWR); /* the library then reads the end and closes */
}

static void connection_deadline(struct connection *c, int64_t ms)
{
    struct loop *l = c->server->loop;
    if (ms <= 0)
        loop_timer_clear(l, &c->deadline);
    else if (loop_timer_set(l, &c->deadline, loop_now_ms(l) + ms))
        shutdown(c->fd, SHUT_RDWR); /* none without a deadline */
}

static void connection_started(struct http_server *s, struct MHD_Connection *mhd, void **socket_ctx)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct connection *c = info ? calloc(1, sizeof *c) : NULL;
    *socket_ctx = c;
    if (!c) return; /* handle_request closes it */
    c->server = s;
    c->fd = info->connect_fd;
    c->deadline = (struct loop_timer){.fn = connection_expired, .ctx = c};
    struct err e;
    if (loop_watch_add(s->loop, c->fd, EPOLLRDHUP | EPOLLET, connection_event, c, &c->watch, &e)) {
        log_warn("connection refused: %s", e.msg);
        shutdown(c->fd, SHUT_RDWR);
    }
    c->next = s->connections;
    if (c->next) c->next->prev = c;
    s->connections = c;
    connection_deadline(c, s->config.header_ms);
}

static void connection_closed(struct http_server *s, void **socket_ctx)
{
    struct connection *c = *socket_ctx;
    if (!c) return;
    *socket_ctx = NULL;
    loop_watch_remove(s->loop, c->watch);
    loop_timer_clear(s->loop, &c->deadline);
    if (c->prev)
        c->prev->next = c->next;
    else
        s->connections = c->next;
    if (c->next) c->next->prev = c->prev;
    free(c);
}

static void notify_connection(void *ctx, struct MHD_Connection *mhd, void **socket_ctx, enum MHD_ConnectionNotificationCode what)
{
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        connection_started(ctx, mhd, socket_ctx);
    else
        connection_closed(ctx, socket_ctx);
}

static struct connection *connection_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* The request line is there: a kept-alive connection now has as long for its header fields as a new one. */
static void *request_line_seen(void *ctx, const char *uri, struct MHD_Connection *mhd)
{
    (void)uri;
    struct http_server *s = ctx;
    struct connection *c = connection_of(mhd);
    if (c && c->deadline.at_ms > loop_now_ms(s->loop) + s->config.header_ms) connection_deadline(c, s->config.header_ms);
    return NULL;
}

static void request_free(struct http_request *r)
{
    r->conn->server->n_requests--;
    if (r->conn->request == r) r->conn->request = NULL;
    buf_free(&r->body);
    free(r->path);
    free(r);
}

static void request_completed(void *ctx, struct MHD_Connection *mhd, void **request_ctx, enum MHD_RequestTerminationCode how)
{
    (void)mhd;
    (void)how;
    struct http_server *s = ctx;
    struct http_request *r = *request_ctx;
    if (!r) return;
    *request_ctx = NULL;
    bool open = r->state == REQUEST_OPEN || r->state == REQUEST_STREAM;
    r->state = REQUEST_CUT;
    if (open && r->on_gone) r->on_gone(r->gone_ctx);
    connection_deadline(r->conn, s->config.idle_ms);
    request_free(r);
}

static void request_make_id(struct http_request *r)
{
    const char *given = http_header(r, "x-request-id");
    size_t n = given ? strlen(given) : 0;
    const char *sane = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    if (n > 0 && n <= 64 && strspn(given, sane) == n) {
        memcpy(r->id, given, n + 1);
        return;
    }
    unsigned char bytes[12];
    randombytes_buf(bytes, sizeof bytes);
    memcpy(r->id, "req_", 4);
    sodium_bin2hex(r->id + 4, sizeof r->id - 4, bytes, sizeof bytes);
}

static struct http_request *request_new(struct connection *c, struct MHD_Connection *mhd, const char *method, const char *path)
{
    struct http_request *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->conn = c;
    r->mhd = mhd;
    r->method = method;
    r->path = strdup(path);
    if (!r->path) {
        free(r);
        return NULL;
    }
    buf_init(&r->body, HTTP_MAX_BODY_BYTES);
    request_make_id(r);
    c->request = r;
    c->server->n_requests++;
    return r;
}

/* -1: sent in chunks, length unknown; 0: none. */
static int64_t request_body_length(const struct http_request *r)
{
    if (http_header(r, "transfer-encoding")) return -1;
    const char *length = http_header(r, "content-length");
    int64_t n = 0;
    if (length && !str_parse_int64(length, 0, INT64_MAX, &n)) return INT64_MAX;
    return n;
}

static ssize_t stream_read(void *ctx, uint64_t pos, char *out, size_t max)
{
    (void)pos;
    struct http_request *r = ctx;
    if (r->state == REQUEST_CUT && r->stream_bad) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (r->body.len > 0) {
        size_t n = r->body.len < max ? r->body.len : max;
        memcpy(out, r->body.data, n);
        buf_consume(&r->body, n);
        return (ssize_t)n;
    }
    if (r->stream_bad) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (r->state == REQUEST_REPLIED) return MHD_CONTENT_READER_END_OF_STREAM;
    if (r->body.cap > 4096) buf_free(&r->body); /* an idle stream keeps nothing */
    request_suspend(r);
    return 0;
}

static enum MHD_Result request_queue(struct http_request *r)
{
    struct MHD_Response *response;
    if (r->streaming)
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, stream_read, r, NULL);
    else
        response = MHD_create_response_from_buffer(r->body.len, r->body.len ? (void *)r->body.data : (void *)"", MHD_RESPMEM_MUST_COPY);
    if (!response) return MHD_NO;
    bool ok = MHD_add_response_header(response, "x-request-id", r->id) == MHD_YES;
    if (r->content_type) ok &= MHD_add_response_header(response, "content-type", r->content_type) == MHD_YES;
    for (unsigned i = 0; i < r->n_extra; i++) ok &= MHD_add_response_header(response, r->extra[i].name, r->extra[i].value) == MHD_YES;
    r->queued = true;
    enum MHD_Result done = ok ? MHD_queue_response(r->mhd, r->status, response) : MHD_NO;
    MHD_destroy_response(response); /* drops our reference only */
    return done;
}

static enum MHD_Result request_begin(struct http_server *s, struct connection *c, struct MHD_Connection *mhd, const char *path,
                                     const char *method, void **request_ctx)
{
    struct http_request *r = *request_ctx = request_new(c, mhd, method, path);
    if (!r) return MHD_NO;
    int64_t n = request_body_length(r);
    connection_deadline(c, n ? s->config.body_ms : 0);
    s->config.begin(s->config.ctx, r);
    if (r->state == REQUEST_READING && n > HTTP_MAX_BODY_BYTES) s->config.too_large(s->config.ctx, r);
    if (r->state != REQUEST_REPLIED) return MHD_YES;
    r->replied_early = true;
    if (n < 0 || n > DISCARD_BYTES) {
        MHD_set_connection_option(mhd, MHD_CONNECTION_OPTION_TIMEOUT, 5);
        http_add_header(r, "connection", "close");
        return request_queue(r); /* the rest is left unread and the connection closed */
    }
    return MHD_YES;
}

/* A body beyond the maximum, found out on the way: the library takes a response only before or after the body, so the
 * answer is written by hand and the connection closed. */
static enum MHD_Result request_refuse_rest(struct http_server *s, struct http_request *r)
{
    buf_clear(&r->body);
    s->config.too_large(s->config.ctx, r);
    CHECK(r->state == REQUEST_REPLIED && !r->streaming);
    struct buf out;
    buf_init(&out, 4096 + r->body.len);
    buf_printf(&out,
               "HTTP/1.1 %u Refused\r\nconnection: close\r\nx-request-id: %s\r\ncontent-type: %s\r\ncontent-length: "
               "%zu\r\n\r\n",
               r->status, r->id, r->content_type, r->body.len);
    buf_append(&out, r->body.data, r->body.len);
    if (!out.failed) {
        ssize_t sent = send(r->conn->fd, out.data, out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)sent; /* a courtesy: the connection ends either way */
    }
    buf_free(&out);
    shutdown(r->conn->fd, SHUT_WR);
    return MHD_NO;
}

static enum MHD_Result request_upload(struct http_server *s, struct http_request *r, const char *data, size_t *n)
{
    size_t got = *n;
    *n = 0;
    if (__builtin_add_overflow(r->body_bytes, got, &r->body_bytes)) return MHD_NO;
    if (r->state != REQUEST_READING) return r->body_bytes > DISCARD_BYTES ? MHD_NO : MHD_YES;
    int rc = buf_append(&r->body, data, got);
    if (rc == -ERR_LIMIT) return request_refuse_rest(s, r);
    return rc ? MHD_NO : MHD_YES;
}

static enum MHD_Result handle_request(void *ctx, struct MHD_Connection *mhd, const char *path, const char *method, const char *version,
                                      const char *data, size_t *n_data, void **request_ctx)
{
    (void)version;
    struct http_server *s = ctx;
    struct connection *c = connection_of(mhd);
    if (!c || s->stopping) return MHD_NO;
    struct http_request *r = *request_ctx;
    if (!r) return request_begin(s, c, mhd, path, method, request_ctx);
    if (*n_data > 0) return request_upload(s, r, data, n_data);
    if (r->state == REQUEST_CUT) return MHD_NO;
    if (!r->handled && !r->replied_early) {
        r->handled = true;
        r->state = REQUEST_OPEN;
        connection_deadline(c, 0);
        s->config.handle(s->config.ctx, r);
        if (c->fin && r->state == REQUEST_OPEN) request_cut(r);
        if (r->state == REQUEST_CUT) return MHD_NO;
    }
    if (r->queued) return MHD_YES;
    if (r->state == REQUEST_REPLIED || r->state == REQUEST_STREAM) return request_queue(r);
    request_suspend(r);
    return MHD_YES;
}

static void daemon_event(void *ctx, uint32_t events)
{
    (void)events;
    ((struct http_server *)ctx)->dirty = true;
}

static int http_before_wait(void *ctx)
{
    struct http_server *s = ctx;
    if (s->dirty) {
        s->dirty = false;
        MHD_run(s->daemon);
    }
    MHD_UNSIGNED_LONG_LONG ms;
    if (!s->dirty && MHD_get_timeout(s->daemon, &ms) != MHD_YES) return -1;
    if (s->dirty || ms == 0) {
        s->dirty = true; /* work is left over: sockets of others have their turn first */
        return 0;
    }
    if (ms > 1000) ms = 1000;
    s->dirty = true;
    return (int)ms;
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
    if (bind(s->listen_fd, (struct sockaddr *)&a, n) || listen(s->listen_fd, BACKLOG) ||
        getsockname(s->listen_fd, (struct sockaddr *)&a, &n))
        return err_set(e, ERR_IO, "%s port %u: %s", s->config.host, s->config.port, strerror(errno));
    s->port = ntohs(a.ss_family == AF_INET ? v4->sin_port : v6->sin6_port);
    return 0;
}

/* The library's own messages are about single connections and may carry what a client sent: only for debugging. */
static void __attribute__((format(printf, 2, 0))) library_log(void *ctx, const char *fmt, va_list ap)
{
    (void)ctx;
    char line[256];
    vsnprintf(line, sizeof line, fmt, ap);
    log_debug("libmicrohttpd: %s", line);
}

int http_new(struct http_server **out, struct loop *l, const struct http_config *c, struct err *e)
{
    struct http_server *s = *out = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "out of memory");
    s->config = *c;
    s->loop = l;
    s->listen_fd = -1;
    int rc = http_bind(s, e);
    if (rc) goto fail;
    s->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, handle_request, s,
                                 MHD_OPTION_EXTERNAL_LOGGER, library_log, NULL, MHD_OPTION_LISTEN_SOCKET, s->listen_fd,
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_BYTES, MHD_OPTION_CONNECTION_LIMIT, c->max_connections,
                                 MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_NOTIFY_CONNECTION, notify_connection, s,
                                 MHD_OPTION_NOTIFY_COMPLETED, request_completed, s, MHD_OPTION_URI_LOG_CALLBACK, request_line_seen, s,
                                 MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
    if (!s->daemon) {
        rc = err_set(e, ERR_IO, "the HTTP server cannot be started");
        goto fail;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    CHECK(info != NULL);
    rc = loop_watch_add(l, info->epoll_fd, EPOLLIN, daemon_event, s, &s->watch, e);
    if (rc) goto fail;
    loop_before_wait(l, http_before_wait, s);
    return 0;
fail:
    http_free(s);
    *out = NULL;
    return rc;
}

void http_free(struct http_server *s)
{
    if (!s) return;
    s->stopping = true;
    loop_before_wait(s->loop, NULL, NULL);
    for (struct connection *c = s->connections, *next; c; c = next) {
        next = c->next;
        if (c->request) request_cut(c->request);
    }
    loop_watch_remove(s->loop, s->watch);
    http_quiesce(s);
    if (s->daemon) {
        MHD_run(s->daemon); /* takes up what was resumed: the library may not be stopped with suspended connections */
        MHD_stop_daemon(s->daemon);
    } else if (s->listen_fd >= 0 && !s->listen_closed)
        close(s->listen_fd);
    free(s);
}

uint16_t http_port(const struct http_server *s)
{
    return s->port;
}

void http_quiesce(struct http_server *s)
{
    if (!s->daemon || s->listen_closed) return;
    s->listen_closed = true;
    int fd = MHD_quiesce_daemon(s->daemon);
    if (fd >= 0) close(fd);
}

unsigned http_open_requests(const struct http_server *s)
{
    return s->n_requests;
}

const char *http_method(const struct http_request *r)
{
    return r->method;
}

const char *http_path(const struct http_request *r)
{
    return r->path;
}

const char *http_header(const struct http_request *r, const char *name)
{
    return MHD_lookup_connection_value(r->mhd, MHD_HEADER_KIND, name);
}

const char *http_request_id(const struct http_request *r)
{
    return r->id;
}

void http_take_body(struct http_request *r, struct buf *body)
{
    *body = r->body;
    buf_init(&r->body, HTTP_MAX_STREAM_BYTES);
}

void http_on_gone(struct http_request *r, void (*fn)(void *ctx), void *ctx)
{
    r->on_gone = fn;
    r->gone_ctx = ctx;
}

void http_add_header(struct http_request *r, const char *name, const char *value)
{
    CHECK(r->n_extra < MAX_EXTRA_HEADERS && strlen(value) < sizeof r->extra[0].value);
    r->extra[r->n_extra].name = name;
    strcpy(r->extra[r->n_extra++].value, value);
}

void http_reply(struct http_request *r, unsigned status, const char *content_type, const void *body, size_t n)
{
    CHECK(r->state == REQUEST_READING || r->state == REQUEST_OPEN);
    r->status = status;
    r->content_type = content_type;
    r->state = REQUEST_REPLIED;
    buf_free(&r->body);
    buf_init(&r->body, n + 1);
    if (buf_append(&r->body, body, n)) {
        request_cut(r);
        return;
    }
    request_resume(r);
}

void http_stream_begin(struct http_request *r, unsigned status, const char *content_type)
{
    CHECK(r->state == REQUEST_OPEN);
    r->status = status;
    r->content_type = content_type;
    r->state = REQUEST_STREAM;
    r->streaming = true;
    buf_free(&r->body);
    buf_init(&r->body, HTTP_MAX_STREAM_BYTES);
    request_resume(r);
}

int http_stream_write(struct http_request *r, const void *p, size_t n)
{
    CHECK(r->state == REQUEST_STREAM);
    if (n > HTTP_MAX_STREAM_BYTES - r->body.len) return -ERR_LIMIT;
    int rc = buf_append(&r->body, p, n);
    if (rc) return rc;
    request_resume(r);
    return 0;
}

void http_stream_end(struct http_request *r)
{
    CHECK(r->state == REQUEST_STREAM);
    r->state = REQUEST_REPLIED;
    request_resume(r);
}

void http_stream_cut(struct http_request *r)
{
    CHECK(r->state == REQUEST_STREAM);
    r->state = REQUEST_REPLIED;
    r->stream_bad = true;
    request_resume(r);
}
