/* Upstream: calls to hosted providers over HTTP(S), on the loop. One cache of connections, DNS answers and TLS sessions for all of them.
 *
 * A call sends one encoded request with one of the host's keys and decodes the answer as it comes. Nothing blocks: names are resolved in
 * curl's own threads, and a call that is given up while its name is being resolved leaves that thread behind. Certificates are verified,
 * redirects are not followed, only http and https are spoken. What a host sends is bounded: header lines, body bytes, time to connect,
 * time without a byte, the whole time. */
#ifndef SPILLWAY_SERVER_PROVIDERS_UPSTREAM_H
#define SPILLWAY_SERVER_PROVIDERS_UPSTREAM_H

#include "server/loop.h"
#include "server/providers/provider_error.h"
#include "server/providers/wire.h"

struct upstream;
struct upstream_call;

struct upstream_config {
    const char *ca_file; /* NULL: the system's; borrowed until upstream_free */
    int64_t connect_ms;  /* name, connection, TLS */
    int64_t idle_ms;     /* without a byte, from the request's last on */
    int64_t drain_ms;    /* a detached call's time, from upstream_drain on */
    size_t drain_bytes;  /* and its bytes */
    size_t max_drains;   /* at once */
    size_t max_calls;    /* at once */
    long max_idle_connections;
    struct decoder_limits decoder;
};
void upstream_config_init(struct upstream_config *c); /* 10 s, 120 s, 60 s, 64 MB, 64, 4096, 256 */

MUST_USE int upstream_new(struct upstream **out, struct loop *l, const struct upstream_config *c, struct err *e);
void upstream_free(struct upstream *u); /* accepts NULL; calls under way end without a word */

enum upstream_outcome {
    UPSTREAM_WHOLE, /* everything came, the FINISH events among it */
    UPSTREAM_CUT,   /* the answer began and has no end: connection lost, time, malformed */
    UPSTREAM_ERROR, /* the host refused, or there was no answer at all */
};

struct upstream_times {
    int64_t dns_us, connect_us, tls_us, first_byte_us,
        total_us; /* each from the start; -1: not reached. With a reused connection the first three are 0 */
    bool reused;
    int http_version; /* 11, 20; 0: none */
};

/* Pointers are borrowed for the call. */
struct upstream_result {
    enum upstream_outcome outcome;
    struct provider_error error; /* but for UPSTREAM_WHOLE */
    bool deadline;               /* the request's own time is up */
    bool has_content;            /* a client may have seen something */
    bool sent;                   /* the request may have reached the host, so it may be billed */
    struct provider_limits limits;
    struct upstream_times times;
    uint64_t sent_bytes, received_bytes;
    const struct usage *usage; /* the last told; NULL: none */
    uint32_t n_usage;
    const char *usage_raw, *id, *model; /* "" if not told */
    const char *body;                   /* upstream_get: the answer */
    size_t n_body;
};

struct upstream_callbacks {
    /* Within curl: no upstream_start from here; upstream_cancel and upstream_drain may be called. Not 0: the call is given up. */
    int (*event)(void *ctx, const struct event *ev);
    /* Once, the last; the call is gone after it. Not after upstream_cancel. */
    void (*ended)(void *ctx, const struct upstream_result *r);
    void *ctx;
};

/* i_key: of h->keys; ignored without any. deadline_ms: boot clock, 0: none. The request is taken over, and left empty, on success only.
 * Callbacks come later, never inside. h must live until the call has ended. -ERR_BUSY: max_calls. */
MUST_USE int upstream_start(struct upstream *u, const struct provider_host *h, size_t i_key, struct wire_request *request,
                            int64_t deadline_ms, const struct upstream_callbacks *cb, struct upstream_call **out, struct err *e);
/* A GET without a decoder; the body is in the result, at most max_bytes of it. */
MUST_USE int upstream_get(struct upstream *u, const struct provider_host *h, size_t i_key, const char *path, size_t max_bytes,
                          int64_t deadline_ms, const struct upstream_callbacks *cb, struct upstream_call **out, struct err *e);
/* Closes; no callback comes any more. What was told until now is put into *r if it is not NULL, but for its pointers, which are NULL or
 * "". */
void upstream_cancel(struct upstream_call *call, struct upstream_result *r, struct usage *usage);
/* The client has left: reads on for the usage, within the bounds of the configuration. Only `ended` comes any more. -ERR_BUSY: enough calls
 * are being drained; the call goes on as it was. */
MUST_USE int upstream_drain(struct upstream_call *call, struct err *e);

/* For measuring. */
struct upstream_counts {
    uint64_t started, reused, connections, whole, cut, errors, cancelled, drained;
    size_t running, draining;
};
void upstream_counts_read(const struct upstream *u, struct upstream_counts *out);

#endif
