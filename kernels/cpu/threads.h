/* Threads: a fixed pool that works off the items of one call at a time. The caller is thread 0.
 *
 * A thread takes the next item when it has done its last: a thread that lost its processor holds up at most the item it is in, and a call
 * ends when its items are done, not when all threads have been there. So what an item computes must not depend on who computes it. Waiting
 * spins for a bounded time and then sleeps on a futex, so that a busy neighbour on the machine costs a wake-up and not a time slice (a
 * barrier that spins without end is a trap on shared machines). One caller at a time; everything written before a call is seen by its items,
 * and everything the items wrote is seen after it. */
#ifndef SPILLWAY_KERNELS_CPU_THREADS_H
#define SPILLWAY_KERNELS_CPU_THREADS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct threads;
/* thread: 0 to n_threads - 1, no two items at a time have the same. */
typedef void (*threads_item_fn)(void *arg, int thread, size_t item);
typedef void (*threads_fn)(void *arg, int share, int n_shares);

/* n >= 1. pin: each thread, the caller too, stays on one of the processors the process may use (one each, as far as they go). */
MUST_USE int threads_new(struct threads **out, int n, bool pin, struct err *e);
void threads_free(struct threads *t); /* accepts NULL */
int threads_count(const struct threads *t);
/* fn for items 0 to n - 1, begun in that order. */
void threads_items(struct threads *t, threads_item_fn fn, void *arg, size_t n);
/* fn for as many shares as there are threads. */
void threads_run(struct threads *t, threads_fn fn, void *arg);

#endif
