/* Media processes: a small pool that probes and decodes pictures. Calls queue up, each process has one at a time.
 *
 * A process that dies fails the call it had (-ERR_GONE; a picture that kills its decoder is not tried twice) and is
 * started again; a call that had not reached it goes to the next. All on the loop's thread; done is called exactly once
 * for each call that was not taken back. */
#ifndef SPILLWAY_SERVER_MEDIA_PROC_H
#define SPILLWAY_SERVER_MEDIA_PROC_H

#include "engine/media/media_wire.h"
#include "server/loop.h"

struct media_pool;

/* Embedded in whatever waits; fill request (its image_fd must stay open), done and ctx. */
struct media_call_state {
    struct media_request request;
    /* reply->tiles_fd belongs to done. */
    void (*done)(struct media_call_state *c, struct media_reply *reply);
    void *ctx;
    struct media_call_state *next;
};

MUST_USE int media_pool_new(struct media_pool **out, struct loop *l, int n_processes, struct err *e);
void media_pool_free(struct media_pool *p); /* calls fail with -ERR_GONE. Accepts NULL */
void media_pool_call(struct media_pool *p, struct media_call_state *c);
struct media_info {
    unsigned processes, up, busy, waiting; /* waiting: calls that no process has yet */
    unsigned restarts;
};
struct media_info media_info(const struct media_pool *p);
/* true: it had not begun and done will not be called. */
bool media_pool_take_back(struct media_pool *p, struct media_call_state *c);

#endif
