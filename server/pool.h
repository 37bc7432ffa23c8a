/* Pool: a few threads for work that would hold up the loop: base64, templates, tokenising.
 *
 * A job is embedded in what it works on. work() runs on a pool thread and may touch only what nobody else touches
 * meanwhile; then done() runs on the loop's thread. A job cannot be taken back: whoever gives up on it marks that in
 * its own struct and frees in done(). */
#ifndef SPILLWAY_SERVER_POOL_H
#define SPILLWAY_SERVER_POOL_H

#include "base/err.h"
#include "server/loop.h"

struct pool;

struct pool_job {
    void (*work)(struct pool_job *j);
    void (*done)(struct pool_job *j);
    struct pool_job *next;
    struct loop_call call;
};

MUST_USE int pool_new(struct pool **out, struct loop *l, int n_threads, struct err *e);
/* Waits for jobs that run; of those that wait only done() is posted, without work(): whoever ends the pool has given up
 * on them. Accepts NULL. */
void pool_free(struct pool *p);
void pool_submit(struct pool *p, struct pool_job *j);

#endif
