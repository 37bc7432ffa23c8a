/* HTTP requests and answers: see http.h and http_parts.h. In order of time: begin, body, the handler's calls, the end. */
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "server/http_parts.h"

enum { MAX_EXTRA_BYTES = 4096, NO_MEMORY = -429 };

/* --- begin --- */

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

static struct http_request *request_new(struct http_conn *c)
{
    struct http_request *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->conn = c;
    r->begun_ms = loop_now_ms(c->server->loop);
    r->sent_before = c->sent;
    r->body_max = c->limits->l.body_bytes;
    c->request = r;
    c->server->n_requests++;
    buf_init(&r->extra, MAX_EXTRA_BYTES);
    return r;
}

/* The path without its query, unescaped once. 0, -400 or NO_MEMORY. */
static int read_path(struct http_request *r)
{
    struct http_slice t = r->head.target;
    const char *query = memchr(t.p, '?', t.n);
    size_t n = query ? (size_t)(query - t.p) : t.n;
    r->path = malloc(n + 1);
    if (!r->path) return NO_MEMORY;
    memcpy(r->path, t.p, n);
    int len = http_unescape(r->path, n);
    r->path[len < 0 ? 0 : len] = '\0';
    if (len < 0) r->head.why = "an escape in the URL is broken, or its path is not UTF-8";
    return len < 0 ? len : 0;
}

/* Moves the header's bytes from the connection to the request; what came behind them is returned. */
static struct buf take_header(struct http_conn *c, struct http_request *r, size_t n_head)
{
    struct buf rest;
    buf_init(&rest, c->in.max);
    r->head_bytes = c->in;
    c->in = (struct buf){0};
    buf_append(&rest, r->head_bytes.data + n_head, r->head_bytes.len - n_head);
    r->head_bytes.len = n_head;
    char *less = realloc(r->head_bytes.data, n_head + 1);
    if (less) {
        r->head_bytes.data = less;
        r->head_bytes.cap = n_head + 1;
    }
    return rest;
}

/* The byte behind a value, a blank or its line's CR, becomes the NUL. */
static int index_fields(struct http_request *r)
{
    char *p = r->head_bytes.data;
    size_t n = r->head_bytes.len;
    struct http_slice name, value;
    for (size_t at = 0; http_head_next(p, n, &at, &name, &value);) r->n_fields++;
    r->fields = calloc(r->n_fields + 1, sizeof *r->fields);
    if (!r->fields) return NO_MEMORY;
    size_t i = 0;
    for (size_t at = 0; i < r->n_fields && http_head_next(p, n, &at, &name, &value); i++) {
        r->fields[i] = (struct http_field){.name = name, .value = value.p};
        p[(size_t)(value.p - p) + value.n] = '\0';
    }
    return 0;
}

static int read_head(struct http_request *r)
{
    int rc = http_head_parse(&r->head, r->head_bytes.data, r->head_bytes.len);
    if (rc) return rc;
    memcpy(r->method, r->head.method.p, r->head.method.n);
    r->body_left = r->head.chunked ? 0 : r->head.content_length;
    r->body_whole = !r->head.chunked && r->body_left == 0;
    rc = read_path(r);
    return rc ? rc : index_fields(r);
}

static void refuse(struct http_request *r, enum http_refusal why, const char *text)
{
    struct http_server *s = r->conn->server;
    r->conn->close_after = true;
    s->config.refuse(s->config.ctx, r, why, text);
    CHECK(r->state == REQUEST_REPLIED || r->state == REQUEST_GONE);
}

static void refuse_header(struct http_request *r, int rc, const char *why)
{
    static const struct {
        int rc;
        enum http_refusal why;
        const char *text;
    } rows[] = {{-414, HTTP_URL_TOO_LONG, "The URL is too long."},
                {-431, HTTP_HEADER_TOO_LARGE, "The request's header is too large."},
                {NO_MEMORY, HTTP_TOO_MANY_BYTES, "The server is out of memory: try again."},
                {-505, HTTP_VERSION_UNKNOWN, "Only HTTP/1.0 and HTTP/1.1 are spoken here."}};
    char text[160];
    snprintf(text, sizeof text, "This is not a valid HTTP request: %s.", why ? why : "its header cannot be read");
    enum http_refusal kind = HTTP_NOT_HTTP;
    const char *told = text;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].rc != rc) continue;
        kind = rows[i].why;
        told = rows[i].text;
    }
    refuse(r, kind, told);
}

/* Its length alone already says too much. */
static void refuse_by_length(struct http_request *r)
{
    struct http_server *s = r->conn->server;
    int64_t n = r->head.chunked ? 0 : r->head.content_length;
    if (n > r->body_max)
        refuse(r, HTTP_BODY_TOO_LARGE, "The request's body is too large.");
    else if (n > s->config.limits.queue_bytes - s->held_bytes)
        refuse(r, HTTP_TOO_MANY_BYTES, "The server holds as many bytes of requests as it may: try again.");
}

static void request_whole(struct http_request *r)
{
    struct http_conn *c = r->conn;
    struct http_server *s = c->server;
    r->body_whole = true;
    c->state = CONN_REQUEST;
    conn_deadline(c, 0);
    conn_work_later(c);
    if (r->state != REQUEST_READING) return;
    r->state = REQUEST_OPEN;
    s->config.handle(s->config.ctx, r);
}

/* The header is read: the body, or the answer at once. */
static void request_go(struct http_request *r)
{
    struct http_conn *c = r->conn;
    struct http_server *s = c->server;
    c->close_after |= !r->head.keep_alive;
    s->config.begin(s->config.ctx, r);
    if (r->state == REQUEST_READING) refuse_by_length(r);
    if (r->body_whole) {
        request_whole(r);
        return;
    }
    c->state = CONN_BODY;
    conn_deadline(c, c->limits->l.body_ms);
    if (r->state == REQUEST_READING && r->head.expects_continue) buf_puts(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
    if (r->state != REQUEST_READING && c->close_after) request_whole(r); /* the rest is left unread */
}

void request_begin(struct http_conn *c, int scan_rc)
{
    struct http_request *r = request_new(c);
    if (!r) {
        conn_kill(c);
        return;
    }
    c->state = CONN_REQUEST;
    conn_work_later(c);
    struct buf rest = {0};
    int rc = scan_rc;
    const char *why = c->scan.why;
    if (rc > 0) {
        rest = take_header(c, r, (size_t)scan_rc);
        rc = read_head(r);
        why = r->head.why;
    }
    if (rc == 0) request_make_id(r);
    if (rc < 0) {
        r->head = (struct http_head){0};
        r->n_fields = 0;
        request_make_id(r);
        r->body_whole = true;
        conn_deadline(c, 0);
        refuse_header(r, rc, why);
    } else
        request_go(r);
    size_t used = c->state == CONN_BODY && rest.len ? request_body(r, rest.data, rest.len) : 0;
    if (rest.failed) conn_kill(c);
    if (used < rest.len && c->state != CONN_DEAD) {
        buf_consume(&rest, used);
        buf_free(&c->in);
        c->in = rest;
    } else
        buf_free(&rest);
}

/* --- body --- */

/* false: it is refused. */
static bool body_keep(struct http_request *r, struct http_slice data)
{
    struct http_server *s = r->conn->server;
    r->body_bytes += (int64_t)data.n;
    if (r->state != REQUEST_READING) return r->body_bytes <= DISCARD_BYTES;
    if (r->body_bytes > r->body_max)
        refuse(r, HTTP_BODY_TOO_LARGE, "The request's body is too large.");
    else if ((int64_t)data.n > s->config.limits.queue_bytes - s->held_bytes)
        refuse(r, HTTP_TOO_MANY_BYTES, "The server holds as many bytes of requests as it may: try again.");
    else {
        if (r->body.max == 0) buf_init(&r->body, (size_t)r->body_max);
        if (buf_append(&r->body, data.p, data.n) == 0) {
            s->held_bytes += (int64_t)data.n;
            r->held_bytes += (int64_t)data.n;
            return true;
        }
        conn_kill(r->conn);
    }
    return false;
}

int http_hold(struct http_request *r, int64_t n, struct err *e)
{
    struct http_server *s = r->conn->server;
    if (n > r->body_max - r->body_bytes) return err_set(e, ERR_LIMIT, "with the pictures that it names by URL the request has more bytes than a body may have");
    if (n > s->config.limits.queue_bytes - s->held_bytes)
        return err_set(e, ERR_BUSY, "The server holds as many bytes of requests as it may: try again.");
    r->body_bytes += n;
    s->held_bytes += n;
    r->held_bytes += n;
    return 0;
}

size_t request_body(struct http_request *r, const char *p, size_t n)
{
    size_t at = 0;
    bool keep = true, ended = false;
    while (keep && !ended && at < n) {
        struct http_slice data = {p + at, n - at};
        size_t used = 0;
        if (r->head.chunked) {
            int rc = http_chunked_next(&r->chunked, p + at, n - at, &used, &data);
            if (rc < 0) {
                if (r->state == REQUEST_READING) refuse(r, HTTP_NOT_HTTP, "This is not a valid HTTP request: its chunks cannot be read.");
                keep = false;
                break;
            }
            ended = rc == 1;
        } else {
            if ((int64_t)data.n > r->body_left) data.n = (size_t)r->body_left;
            used = data.n;
            r->body_left -= (int64_t)used;
            ended = r->body_left == 0;
        }
        at += used;
        if (data.n) keep = body_keep(r, data);
    }
    if (r->conn->state == CONN_DEAD) return n;
    if (!keep) {
        r->conn->close_after = true;
        request_whole(r); /* answered: nothing more is read */
        return n;
    }
    if (ended) request_whole(r);
    return at;
}

/* --- what the handler asks --- */

const char *http_method(const struct http_request *r)
{
    return r->method;
}

const char *http_query(const struct http_request *r, size_t *n)
{
    struct http_slice t = r->head.target;
    const char *query = memchr(t.p, '?', t.n);
    *n = query ? t.n - (size_t)(query + 1 - t.p) : 0;
    return query ? query + 1 : "";
}

const char *http_path(const struct http_request *r)
{
    return r->path ? r->path : "";
}

const char *http_header(const struct http_request *r, const char *name)
{
    for (size_t i = 0; i < r->n_fields; i++)
        if (http_slice_is(r->fields[i].name, name)) return r->fields[i].value;
    return NULL;
}

const char *http_request_id(const struct http_request *r)
{
    return r->id;
}

/* From the right, as each proxy has added the one it heard from: the first that is no proxy of ours. */
struct ip http_client_ip(const struct http_request *r)
{
    struct ip ip = r->conn->ip;
    const struct ip_nets *trusted = &r->conn->server->config.trusted_proxies;
    const char *list = ip_nets_have(trusted, &ip) ? http_header(r, "x-forwarded-for") : NULL;
    size_t end = list ? strlen(list) : 0;
    while (end > 0 && ip_nets_have(trusted, &ip)) {
        size_t start = end;
        while (start > 0 && list[start - 1] != ',') start--;
        size_t from = start, to = end;
        while (from < to && (list[from] == ' ' || list[from] == '\t')) from++;
        while (to > from && (list[to - 1] == ' ' || list[to - 1] == '\t')) to--;
        if (!ip_parse(list + from, to - from, &ip)) return r->conn->ip;
        end = start ? start - 1 : 0;
    }
    return ip;
}

bool http_is_tls(const struct http_request *r)
{
    return r->conn->server->tls != NULL;
}

void http_limit_body(struct http_request *r, int64_t bytes)
{
    if (bytes < r->body_max) r->body_max = bytes;
}

void http_take_body(struct http_request *r, struct buf *body)
{
    *body = r->body;
    r->body = (struct buf){0};
}

void http_on_gone(struct http_request *r, void (*fn)(void *ctx), void *ctx)
{
    r->on_gone = fn;
    r->gone_ctx = ctx;
}

unsigned http_status(const struct http_request *r)
{
    return r->status;
}

int64_t http_sent_bytes(const struct http_request *r)
{
    return (int64_t)(r->conn->sent - r->sent_before);
}

int64_t http_age_ms(const struct http_request *r)
{
    return loop_now_ms(r->conn->server->loop) - r->begun_ms;
}

void http_set_owner(struct http_request *r, int64_t owner)
{
    r->owner = owner;
}

int64_t http_owner(const struct http_request *r)
{
    return r->owner;
}

/* --- answers --- */

static const char *reason_of(unsigned status)
{
    static const struct {
        unsigned status;
        const char *reason;
    } rows[] = {{200, "OK"},
                {204, "No Content"},
                {400, "Bad Request"},
                {401, "Unauthorized"},
                {402, "Payment Required"},
                {403, "Forbidden"},
                {404, "Not Found"},
                {405, "Method Not Allowed"},
                {408, "Request Timeout"},
                {409, "Conflict"},
                {413, "Content Too Large"},
                {414, "URI Too Long"},
                {421, "Misdirected Request"},
                {422, "Unprocessable Content"},
                {429, "Too Many Requests"},
                {431, "Request Header Fields Too Large"},
                {500, "Internal Server Error"},
                {503, "Service Unavailable"},
                {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].status == status) return rows[i].reason;
    return "Unknown";
}

static const char *date_now(struct http_server *s)
{
    int64_t now_s = clock_wall_s();
    if (now_s != s->date_s) {
        struct tm tm;
        time_t t = (time_t)now_s;
        strftime(s->date, sizeof s->date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&t, &tm));
        s->date_s = now_s;
    }
    return s->date;
}

void http_add_header(struct http_request *r, const char *name, const char *value)
{
    for (const char *p = value; *p; p++) CHECK((unsigned char)*p >= ' ' && *p != 0x7f);
    buf_printf(&r->extra, "%s: %s\r\n", name, value);
    CHECK(r->extra.failed != -ERR_LIMIT);
}

const char *http_added_headers(const struct http_request *r, size_t *n)
{
    *n = r->extra.len;
    return r->extra.data ? r->extra.data : "";
}

static void write_head(struct http_request *r, const char *content_type, const char *framing)
{
    struct http_conn *c = r->conn;
    struct buf *out = &c->out;
    buf_printf(out, "HTTP/1.1 %u %s\r\ndate: %s\r\nx-request-id: %s\r\n", r->status, reason_of(r->status), date_now(c->server), r->id);
    if (content_type) buf_printf(out, "content-type: %s\r\n", content_type);
    buf_append(out, r->extra.data ? r->extra.data : "", r->extra.len);
    if (c->close_after || c->server->quiesced)
        buf_puts(out, "connection: close\r\n");
    else if (r->head.http10)
        buf_puts(out, "connection: keep-alive\r\n");
    buf_printf(out, "%s\r\n", framing);
    if (r->extra.failed) out->failed = r->extra.failed;
}

/* The answer is whole, or could not be made. */
static void answer_made(struct http_request *r)
{
    struct http_conn *c = r->conn;
    if (c->out.failed) {
        c->broken = true; /* a part of an answer is worse than none */
        c->out.failed = 0;
    }
    conn_work_later(c);
}

/* Of an early answer: worth reading to the end, so that the connection lives on. */
static bool body_discardable(const struct http_request *r)
{
    return !r->head.chunked && !r->head.expects_continue && r->body_left <= DISCARD_BYTES;
}

void http_reply(struct http_request *r, unsigned status, const char *content_type, const void *body, size_t n)
{
    CHECK(r->state == REQUEST_READING || r->state == REQUEST_OPEN);
    if (!r->body_whole && !body_discardable(r)) r->conn->close_after = true; /* the rest of the body is left unread */
    char framing[64] = "";
    if (status != 204) snprintf(framing, sizeof framing, "content-length: %zu\r\n", n);
    r->status = status;
    write_head(r, content_type, framing);
    if (strcmp(r->method, "HEAD") != 0 && status != 204) buf_append(&r->conn->out, body, n);
    r->state = REQUEST_REPLIED;
    answer_made(r);
}

void http_stream_begin(struct http_request *r, unsigned status, const char *content_type)
{
    CHECK(r->state == REQUEST_OPEN);
    r->status = status;
    r->chunks = !r->head.http10;
    if (r->head.http10) r->conn->close_after = true; /* its end is the connection's */
    write_head(r, content_type, r->chunks ? "transfer-encoding: chunked\r\n" : "");
    r->state = REQUEST_STREAM;
    answer_made(r);
}

/* A chunk's head. */
static void write_size(struct buf *out, size_t n)
{
    char text[2 * sizeof n + 2], *p = text + sizeof text - 2;
    memcpy(p, "\r\n", 2);
    do *--p = "0123456789abcdef"[n & 15];
    while (n >>= 4);
    buf_append(out, p, (size_t)(text + sizeof text - p));
}

static void stream_append(struct http_request *r, const void *p, size_t n)
{
    struct buf *out = &r->conn->out;
    if (n == 0) return; /* would be the last chunk */
    if (r->chunks) write_size(out, n);
    buf_append(out, p, n);
    if (r->chunks) buf_puts(out, "\r\n");
}

int http_stream_write(struct http_request *r, const void *p, size_t n)
{
    CHECK(r->state == REQUEST_STREAM);
    struct http_conn *c = r->conn;
    size_t max = (size_t)c->limits->l.stream_bytes;
    if (conn_unsent(c) > max) conn_send(c);
    if (conn_unsent(c) > max) return -ERR_LIMIT;
    if (n == 0) return 0;
    stream_append(r, p, n);
    answer_made(r);
    return c->broken ? -ERR_MEMORY : 0;
}

size_t http_stream_waiting(const struct http_request *r)
{
    return conn_unsent(r->conn);
}

void http_stream_finish(struct http_request *r, const void *p, size_t n)
{
    CHECK(r->state == REQUEST_STREAM);
    stream_append(r, p, n);
    http_stream_end(r);
}

void http_stream_end(struct http_request *r)
{
    CHECK(r->state == REQUEST_STREAM);
    r->state = REQUEST_REPLIED;
    if (r->chunks) buf_puts(&r->conn->out, "0\r\n\r\n");
    answer_made(r);
}

void http_stream_cut(struct http_request *r)
{
    CHECK(r->state == REQUEST_STREAM);
    r->state = REQUEST_REPLIED;
    r->cut = true;
    answer_made(r);
}

/* --- the end --- */

void request_gone(struct http_request *r)
{
    bool open = r->state == REQUEST_OPEN || r->state == REQUEST_STREAM;
    r->state = REQUEST_GONE;
    if (open && r->on_gone) r->on_gone(r->gone_ctx);
}

void request_free(struct http_request *r)
{
    struct http_server *s = r->conn->server;
    if (s->config.done && !s->stopping) s->config.done(s->config.ctx, r);
    s->n_requests--;
    s->held_bytes -= r->held_bytes;
    if (r->conn->request == r) r->conn->request = NULL;
    free(r->fields);
    buf_free(&r->head_bytes);
    buf_free(&r->body);
    buf_free(&r->extra);
    free(r->path);
    free(r);
}
