/* Loop: one thread, one epoll. It owns sockets, timers and calls posted by other threads; no callback may block.
 *
 * Watches and timers belong to the loop's thread; loop_post alone may be called from any thread. A watch may be
 * removed, and a timer set or cleared, inside any callback, its own included: events of the same batch that are still
 * to come for a removed watch are dropped. Time is the boot clock, read once a round (loop_now_ms). Start reading at
 * loop_run. */
#ifndef SPILLWAY_SERVER_LOOP_H
#define SPILLWAY_SERVER_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct loop;
struct loop_watch;

/* events: EPOLLIN ... as epoll reports them. */
typedef void loop_watch_fn(void *ctx, uint32_t events);
typedef void loop_timer_fn(void *ctx);

/* Embedded in its owner; zero-initialise, then set fn and ctx. */
struct loop_timer {
    loop_timer_fn *fn;
    void *ctx;
    int64_t at_ms;
    size_t place;                            /* 0: not set */
    struct loop_timer *child, *next, **link; /* the loop's: first of those later than this one, its sibling, who points here */
};

/* Embedded in what travels between threads. */
struct loop_call {
    void (*fn)(struct loop_call *c);
    struct loop_call *next;
};

MUST_USE int loop_new(struct loop **out, struct err *e);
void loop_free(struct loop *l); /* accepts NULL; calls still posted are dropped */

/* The descriptor stays the caller's. It must be removed before it is closed. */
MUST_USE int loop_watch_add(struct loop *l, int fd, uint32_t events, loop_watch_fn *fn, void *ctx, struct loop_watch **out, struct err *e);
MUST_USE int loop_watch_change(struct loop *l, struct loop_watch *w, uint32_t events, struct err *e);
void loop_watch_remove(struct loop *l, struct loop_watch *w); /* accepts NULL */

/* (Re)arms the timer at a boot-clock time. 0 always: it takes no memory, so that what a timer must do (start a process again, end a connection)
 * is done without any. */
MUST_USE int loop_timer_set(struct loop *l, struct loop_timer *t, int64_t at_ms);
void loop_timer_clear(struct loop *l, struct loop_timer *t); /* accepts one that is not set */

/* Runs c->fn on the loop's thread, in the order of posting. From any thread; c belongs to the loop until fn is called.
 */
void loop_post(struct loop *l, struct loop_call *c);

/* Called before each wait; returns the longest wait in ms (0: do not wait, -1: any). One hook at a time; fn NULL takes
 * it away. */
void loop_before_wait(struct loop *l, int (*fn)(void *ctx), void *ctx);

/* Until loop_stop. 0, or -ERR_IO when epoll itself fails. */
MUST_USE int loop_run(struct loop *l, struct err *e);
void loop_stop(struct loop *l); /* on the loop's thread */
/* What was posted, and what is posted meanwhile: for a tidy end after loop_run. */
void loop_run_posted(struct loop *l);
int64_t loop_now_ms(const struct loop *l);

#endif
