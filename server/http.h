/* HTTP: libmicrohttpd inside our loop, behind requests, replies and streams. Nothing outside http.c knows the library.
 *
 * A request's way: `begin` when its headers are there (it may reply: wrong key, unknown path), `handle` when its body
 * is there too. From then on the request is the handler's until it has given one whole reply (http_reply) or ended a
 * stream (http_stream_end, http_stream_cut), at once or any time later on the loop's thread; meanwhile the connection
 * is suspended and costs nothing. If the client leaves before, on_gone is called once. After the reply, the stream's
 * end or on_gone the request must not be touched any more. A client that closes its sending side counts as gone (as
 * nginx's 499 does). What the library does not do (deadlines, watching suspended connections) is done here;
 * docs/architecture.md tells what was found out about it. */
#ifndef SPILLWAY_SERVER_HTTP_H
#define SPILLWAY_SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "server/loop.h"

enum { HTTP_MAX_BODY_BYTES = 20 << 20, HTTP_MAX_STREAM_BYTES = 1 << 20, HTTP_REQUEST_ID_BYTES = 72 };

struct http_server;
struct http_request;

struct http_config {
    const char *host; /* numeric address */
    uint16_t port;    /* 0: any free one */
    void *ctx;
    void (*begin)(void *ctx, struct http_request *r); /* may reply; may not stream */
    void (*handle)(void *ctx, struct http_request *r);
    /* The body is larger than HTTP_MAX_BODY_BYTES: must reply. */
    void (*too_large)(void *ctx, struct http_request *r);
    int64_t header_ms, body_ms, idle_ms; /* whole times, not of inactivity */
    unsigned max_connections;
};
extern const struct http_config http_config_default; /* 127.0.0.1:8080, 10 s, 30 s, 60 s, 12,000 */

MUST_USE int http_new(struct http_server **out, struct loop *l, const struct http_config *c, struct err *e);
/* Cuts what is open (on_gone is called). Accepts NULL. */
void http_free(struct http_server *s);
uint16_t http_port(const struct http_server *s);
/* No new connections from now on. */
void http_quiesce(struct http_server *s);
unsigned http_open_requests(const struct http_server *s);

const char *http_method(const struct http_request *r);
const char *http_path(const struct http_request *r);                     /* unescaped, without the query */
const char *http_header(const struct http_request *r, const char *name); /* NULL if absent */
/* The client's x-request-id if it is sane (1..64 of A-Z a-z 0-9 . _ -), else one of ours. */
const char *http_request_id(const struct http_request *r);
/* Moves the body out; *body must be zeroed or freed. */
void http_take_body(struct http_request *r, struct buf *body);
void http_on_gone(struct http_request *r, void (*fn)(void *ctx), void *ctx);

/* Before the reply or the stream; x-request-id and the length are added by themselves. */
void http_add_header(struct http_request *r, const char *name, const char *value);
/* Copies body. */
void http_reply(struct http_request *r, unsigned status, const char *content_type, const void *body, size_t n);

void http_stream_begin(struct http_request *r, unsigned status, const char *content_type);
/* Copies. -ERR_LIMIT: the client reads too slowly, HTTP_MAX_STREAM_BYTES wait already; nothing was taken. */
MUST_USE int http_stream_write(struct http_request *r, const void *p, size_t n);
void http_stream_end(struct http_request *r);
/* Ends without the last chunk: the client sees that something is missing. */
void http_stream_cut(struct http_request *r);

#endif
