/* Threads: a fixed pool that runs one function on all its threads at once, with a barrier inside. The caller is thread 0.
 *
 * Waiting spins for a bounded time and then sleeps on a futex, so that a busy neighbour on the machine costs a wake-up and not a time slice
 * (a barrier that spins without end is a trap on shared machines). One caller at a time. */
#ifndef SPILLWAY_KERNELS_CPU_THREADS_H
#define SPILLWAY_KERNELS_CPU_THREADS_H

#include "base/err.h"

struct threads;
typedef void (*threads_fn)(void *arg, int thread, int n_threads);

MUST_USE int threads_new(struct threads **out, int n, struct err *e); /* n >= 1 */
void threads_free(struct threads *t);                                 /* accepts NULL */
int threads_count(const struct threads *t);
void threads_run(struct threads *t, threads_fn fn, void *arg);
/* Inside fn: waits until all threads of the run have come here. */
void threads_barrier(struct threads *t);

#endif
