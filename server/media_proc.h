/* Media processes: a small pool that probes and decodes pictures. Calls queue up, each process has one at a time.
 *
 * When a process ends, what it was doing decides what becomes of its call:
 *   - the picture did it: a fault's signal (SIGSEGV, SIGSYS of the cage, ...), an exit of its own, a reply that is none, no answer and no
 *     end within the time. The call gets -ERR_INPUT or -ERR_LIMIT. A process that had read other pictures before may have been
 *     damaged by one of these: the call is then tried once more, in another process.
 *   - somebody did it: SIGKILL (an operator; also the kernel when memory runs out), SIGTERM and the like. The call gets -ERR_GONE.
 * A call that had not reached a process goes to the next. All on the loop's thread; done is called exactly once for each call that was not
 * taken back, perhaps inside media_pool_call. */
#ifndef SPILLWAY_SERVER_MEDIA_PROC_H
#define SPILLWAY_SERVER_MEDIA_PROC_H

#include "engine/media/media_wire.h"
#include "server/limits.h"
#include "server/loop.h"

struct media_pool;

/* Embedded in whatever waits; fill request (its image_fd must stay open; limits and id are the pool's to fill), n_bytes, done and ctx. */
struct media_call_state {
    struct media_request request;
    int64_t n_bytes; /* of the picture's file */
    /* reply->tiles_fd belongs to done. */
    void (*done)(struct media_call_state *c, struct media_reply *reply);
    void *ctx;
    /* the pool's own */
    struct media_call_state *next, *previous;
    bool waiting, tried;
};

struct media_pool_config {
    int n_processes;
    const struct limits *limits; /* copied */
    void (*ready)(void *ctx);    /* the first process is. NULL: not told */
    /* No process was ever ready, and why: the cage cannot be had here. NULL: only logged. */
    void (*failed)(void *ctx, const struct err *why);
    void *ctx;
};

MUST_USE int media_pool_new(struct media_pool **out, struct loop *l, const struct media_pool_config *c, struct err *e);
void media_pool_free(struct media_pool *p); /* calls fail with -ERR_GONE. Accepts NULL */
/* For calls from now on; where a larger picture is allowed, idle processes are replaced by ones with more memory, busy ones afterwards. */
void media_pool_set_limits(struct media_pool *p, const struct limits *l);
/* A MEDIA_PROBE when limits.media_queue calls wait already, or limits.media_queue_bytes of pictures, gets -ERR_BUSY. A MEDIA_DECODE is
 * always taken: its request has been let in by its probe. */
void media_pool_call(struct media_pool *p, struct media_call_state *c);
/* true: it had not begun and done will not be called. */
bool media_pool_take_back(struct media_pool *p, struct media_call_state *c);

struct media_info {
    unsigned processes, up, busy, waiting; /* waiting: calls that no process has yet */
    unsigned restarts;
};
struct media_info media_info(const struct media_pool *p);

#endif
