/* What http_conn.c (sockets, TLS, deadlines, bytes) and http.c (requests and answers) share; nobody else includes it.
 *
 * One struct http_conn a socket: watched edge-triggered for its whole life, one deadline timer, one request at a time. Nothing is freed inside a
 * callback: a dead connection waits for http_before_wait. */
#ifndef SPILLWAY_SERVER_HTTP_PARTS_H
#define SPILLWAY_SERVER_HTTP_PARTS_H

#include "server/counts.h"
#include "server/http.h"
#include "server/http_parse.h"
#include "server/tls.h"

enum {
    SCRATCH_BYTES = 64 << 10, /* one read */
    DISCARD_BYTES = 1 << 20   /* of a refused request's body: read, so that the connection (or at least the answer) lives on */
};

enum conn_state {
    CONN_HANDSHAKE, /* TLS */
    CONN_HEAD,      /* a request's header arrives, or nothing does */
    CONN_BODY,
    CONN_REQUEST, /* its answer is made or sent; no more is read */
    CONN_LINGER,  /* answered and half closed: what still comes is dropped for a while, so that the answer is not lost to a reset */
    CONN_DEAD
};

/* One set of limits, held by the server (the newest) and by the connections whose request began under it. */
struct http_limits {
    struct limits l;
    unsigned refs;
};

struct http_conn {
    struct http_server *server;
    struct http_limits *limits; /* of the request that is there, or of the last one */
    enum conn_state state;
    int fd;
    struct tls_session *tls;
    struct loop_watch *watch;
    struct loop_timer deadline;
    struct ip ip;
    bool counted;            /* in per_ip */
    bool readable, writable; /* as far as is known */
    bool fin;                /* the peer has closed its sending side, or more */
    bool broken;             /* sending failed */
    bool close_after;        /* no further request */
    bool in_work, in_dead;   /* on these lists */
    bool begun;              /* CONN_HEAD: a byte of the request has come */
    struct buf in;           /* of a header, or of the next request */
    struct http_scan scan;
    struct buf out;
    size_t out_at;      /* sent of out */
    uint64_t sent_mark; /* sent when the deadline for sending was set */
    uint64_t sent;
    uint64_t linger_bytes;
    struct http_request *request;
    struct http_conn *prev, *next, *next_work, *next_dead;
};

enum request_state {
    REQUEST_READING, /* body arrives */
    REQUEST_OPEN,    /* the handler's */
    REQUEST_STREAM,  /* the handler's, answer begun */
    REQUEST_REPLIED, /* all of the answer is in the connection's buffer */
    REQUEST_GONE
};

struct http_field {
    struct http_slice name;
    const char *value; /* NUL-terminated */
};

struct http_request {
    struct http_conn *conn;
    enum request_state state;
    struct buf head_bytes; /* head's slices point into it; empty: the header was no HTTP */
    struct http_head head;
    bool body_whole, cut;
    struct http_chunked chunked;
    int64_t body_left, body_max; /* left: of Content-Length */
    int64_t body_bytes;          /* come so far, also what was not kept */
    int64_t held_bytes;          /* counted in the server's held_bytes */
    struct buf body;
    struct buf extra;          /* header lines of the answer */
    struct http_field *fields; /* into head_bytes */
    size_t n_fields;
    char *path;
    char method[33], id[HTTP_REQUEST_ID_BYTES];
    unsigned status;
    bool chunks; /* the answer is sent in chunks */
    int64_t begun_ms, owner;
    uint64_t sent_before;
    void (*on_gone)(void *ctx);
    void *gone_ctx;
};

struct http_server {
    struct http_config config; /* its limits are the newest */
    struct http_limits *limits;
    struct loop *loop;
    struct tls_context *tls;
    int listen_fd;
    struct loop_watch *listen_watch;
    bool paused, quiesced, stopping; /* paused: no more descriptors, or connections */
    struct loop_timer accept_again;
    struct counts *per_ip;
    uint16_t port;
    unsigned n_connections, n_requests;
    int64_t held_bytes; /* of bodies */
    struct http_conn *connections, *work, *dead;
    int64_t date_s;
    char date[40];
    char *scratch;
};

/* http_conn.c */
void conn_work_later(struct http_conn *c);           /* this round, before the loop waits */
void conn_kill(struct http_conn *c);                 /* closes at once; the open request is told */
void conn_send(struct http_conn *c);                 /* as much as the network takes now */
void conn_deadline(struct http_conn *c, int64_t ms); /* 0: none */
size_t conn_unsent(const struct http_conn *c);
/* http.c */
void request_begin(struct http_conn *c, int scan_rc); /* c->in has a whole header of scan_rc bytes, or scan_rc is a refusal */
size_t request_body(struct http_request *r, const char *p, size_t n); /* returns how much it took; sets body_whole */
void request_gone(struct http_request *r);
void request_free(struct http_request *r);

#endif
