/* HTTP: requests, replies and streams on our loop, hard enough for the open network. Nothing outside server/http*.c knows sockets of clients.
 *
 * A request's way: `begin` when its header is there (it may reply: wrong key, unknown path), `handle` when its body is there too. From then on
 * the request is the handler's until it has given one whole reply (http_reply) or ended a stream (http_stream_end, http_stream_cut), at
 * once or any time later on the loop's thread; meanwhile the connection costs no CPU. If the client leaves before, on_gone is called
 * once. After the reply, the stream's end or on_gone the request must not be touched any more. A client that closes its sending side
 * counts as gone (as nginx's 499 does).
 *
 * Limits (server/limits.h): sizes of header and body, whole times for header, body, idle connections and unread answers, connections in all
 * and per address, bytes of all bodies together. server/http_parse.h tells what is refused as no HTTP. Start reading at http_conn.c
 * (sockets), then http.c (requests). */
#ifndef SPILLWAY_SERVER_HTTP_H
#define SPILLWAY_SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "server/ip.h"
#include "server/limits.h"
#include "server/loop.h"

enum { HTTP_REQUEST_ID_BYTES = 72 };

struct http_server;
struct http_request;

/* Why the server itself refuses a request. */
enum http_refusal {
    HTTP_NOT_HTTP,         /* 400 */
    HTTP_URL_TOO_LONG,     /* 414 */
    HTTP_HEADER_TOO_LARGE, /* 431 */
    HTTP_VERSION_UNKNOWN,  /* 505 */
    HTTP_BODY_TOO_LARGE,   /* 413 */
    HTTP_TOO_MANY_BYTES    /* 429: bodies of all requests together */
};

struct http_config {
    const char *host;               /* numeric address */
    uint16_t port;                  /* 0: any free one */
    int listen_fd;                  /* a listening socket that was inherited, in place of host and port; -1: none. Owned by the server */
    const char *tls_cert, *tls_key; /* PEM files; NULL: no TLS */
    struct limits limits;
    struct ip_nets trusted_proxies; /* may say X-Forwarded-For, and have no connection limit of their own */
    void *ctx;
    void (*begin)(void *ctx, struct http_request *r); /* may reply; may not stream */
    void (*handle)(void *ctx, struct http_request *r);
    void (*refuse)(void *ctx, struct http_request *r, enum http_refusal why, const char *text); /* must reply; text: a sentence of ours */
    void (*done)(void *ctx, const struct http_request *r); /* answered whole, cut or left; for logs. May be NULL */
};
void http_config_init(struct http_config *c); /* 127.0.0.1:8080, default limits */

MUST_USE int http_new(struct http_server **out, struct loop *l, const struct http_config *c, struct err *e);
/* Cuts what is open (on_gone is called). Accepts NULL. */
void http_free(struct http_server *s);
/* For requests and connections from now on: a request that has begun keeps the limits it began with. -ERR_MEMORY: nothing is changed. */
MUST_USE int http_set_limits(struct http_server *s, const struct limits *l, struct err *e);
/* For connections from now on; c belongs to the server. Only for one that serves TLS. */
struct tls_context;
void http_set_tls(struct http_server *s, struct tls_context *c);
void http_set_trusted_proxies(struct http_server *s, const struct ip_nets *nets);
uint16_t http_port(const struct http_server *s);
/* No new connections from now on; idle ones are closed, others after their answer. */
void http_quiesce(struct http_server *s);
unsigned http_open_requests(const struct http_server *s);
unsigned http_connections(const struct http_server *s);

const char *http_method(const struct http_request *r);
const char *http_path(const struct http_request *r); /* unescaped, without the query */
/* What follows the ?, as it was sent: *n bytes, not NUL-terminated; "" if there is none. Valid while the request is. */
const char *http_query(const struct http_request *r, size_t *n);
/* name: lower case. The value without blanks around, NUL-terminated, of the first such field; NULL if absent. Valid while the request is. */
const char *http_header(const struct http_request *r, const char *name);
/* The client's x-request-id if it is sane (1..64 of A-Z a-z 0-9 . _ -), else one of ours. */
const char *http_request_id(const struct http_request *r);
/* The peer, or whom trusted proxies say they speak for. */
struct ip http_client_ip(const struct http_request *r);
bool http_is_tls(const struct http_request *r);
/* In `begin`: the body may have this much at most (lowers the limit). */
void http_limit_body(struct http_request *r, int64_t bytes);
/* Moves the body out; *body must be zeroed or freed. */
void http_take_body(struct http_request *r, struct buf *body);
/* Counts n bytes as if they had come in its body. -ERR_LIMIT: it may not have that many; -ERR_BUSY: all requests together hold as many as they may. */
MUST_USE int http_hold(struct http_request *r, int64_t n, struct err *e);
void http_on_gone(struct http_request *r, void (*fn)(void *ctx), void *ctx);
/* For `done`: 0 if nothing was answered; bytes of the answer that the network took; ms since the header was whole. */
unsigned http_status(const struct http_request *r);
int64_t http_sent_bytes(const struct http_request *r);
int64_t http_age_ms(const struct http_request *r);
/* A number of the caller's (the key's id); 0 at first. */
void http_set_owner(struct http_request *r, int64_t owner);
int64_t http_owner(const struct http_request *r);

/* Before the reply or the stream; x-request-id, date and the length are added by themselves. No control characters. */
void http_add_header(struct http_request *r, const char *name, const char *value);
/* The headers that were added so far, "name: value\r\n" each: *n bytes. Until the next is added. */
const char *http_added_headers(const struct http_request *r, size_t *n);
/* Copies body. */
void http_reply(struct http_request *r, unsigned status, const char *content_type, const void *body, size_t n);

void http_stream_begin(struct http_request *r, unsigned status, const char *content_type);
/* Copies. -ERR_LIMIT: the client reads too slowly, limits.stream_bytes wait already; nothing was taken. */
MUST_USE int http_stream_write(struct http_request *r, const void *p, size_t n);
size_t http_stream_waiting(const struct http_request *r); /* bytes that the network has not taken yet */
/* The last bytes, whatever waits already, and the end. */
void http_stream_finish(struct http_request *r, const void *p, size_t n);
void http_stream_end(struct http_request *r);
/* Ends without the last chunk: the client sees that something is missing. */
void http_stream_cut(struct http_request *r);

#endif
