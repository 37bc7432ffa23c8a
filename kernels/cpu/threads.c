/* Threads: see threads.h. Two futex words: `epoch` starts a run, `arrivals` ends it; the inner barrier has a phase of its own. */
#include "kernels/cpu/threads.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    SPIN_ROUNDS = 2000
}; /* about 20 us of pause instructions at 3 GHz: longer than a barrier between equals, shorter than a time slice */

struct threads {
    int n;
    pthread_t *ids;
    int started;
    threads_fn fn;
    void *arg;
    bool stop;
    _Alignas(64) _Atomic uint32_t epoch;   /* bumped by the caller: a new run, or the end */
    _Alignas(64) _Atomic uint32_t done;    /* threads other than the caller that have finished this run */
    _Alignas(64) _Atomic uint32_t arrived; /* inner barrier */
    _Alignas(64) _Atomic uint32_t phase;
    _Atomic uint32_t next_index;
};

static inline void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Returns when *word is no longer `value`. */
static void wait_change(_Atomic uint32_t *word, uint32_t value)
{
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        cpu_pause();
    }
    while (atomic_load_explicit(word, memory_order_acquire) == value) futex_wait(word, value);
}

static void *thread_main(void *p)
{
    struct threads *t = p;
    int index = (int)atomic_fetch_add(&t->next_index, 1);
    for (uint32_t seen = 0;; seen++) {
        wait_change(&t->epoch, seen);
        if (t->stop) return NULL;
        t->fn(t->arg, index, t->n);
        if (atomic_fetch_add_explicit(&t->done, 1, memory_order_acq_rel) + 1 == (uint32_t)t->n - 1) futex_wake(&t->done);
    }
}

int threads_new(struct threads **out, int n, struct err *e)
{
    *out = NULL;
    CHECK(n >= 1);
    struct threads *t = aligned_alloc(64, (sizeof *t + 63) / 64 * 64);
    if (!t) return err_set(e, ERR_MEMORY, "thread pool: out of memory");
    memset(t, 0, sizeof *t);
    t->n = n;
    atomic_init(&t->next_index, 1);
    t->ids = calloc((size_t)n, sizeof *t->ids);
    int rc = t->ids ? 0 : err_set(e, ERR_MEMORY, "thread pool: out of memory");
    for (int i = 1; i < n && !rc; i++) {
        int fail = pthread_create(&t->ids[i], NULL, thread_main, t);
        if (fail)
            rc = err_set(e, ERR_MEMORY, "thread pool: %s", strerror(fail));
        else
            t->started++;
    }
    if (rc)
        threads_free(t);
    else
        *out = t;
    return rc;
}

void threads_free(struct threads *t)
{
    if (!t) return;
    t->stop = true;
    atomic_fetch_add_explicit(&t->epoch, 1, memory_order_release);
    futex_wake(&t->epoch);
    for (int i = 1; i <= t->started; i++) pthread_join(t->ids[i], NULL);
    free(t->ids);
    free(t);
}

int threads_count(const struct threads *t)
{
    return t->n;
}

void threads_run(struct threads *t, threads_fn fn, void *arg)
{
    if (t->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    t->fn = fn;
    t->arg = arg;
    atomic_store_explicit(&t->done, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&t->epoch, 1, memory_order_release);
    futex_wake(&t->epoch);
    fn(arg, 0, t->n);
    for (uint32_t d; (d = atomic_load_explicit(&t->done, memory_order_acquire)) != (uint32_t)t->n - 1;) wait_change(&t->done, d);
}

void threads_barrier(struct threads *t)
{
    if (t->n == 1) return;
    uint32_t phase = atomic_load_explicit(&t->phase, memory_order_acquire);
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) + 1 == (uint32_t)t->n) {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&t->phase, 1, memory_order_release);
        futex_wake(&t->phase);
    } else {
        wait_change(&t->phase, phase);
    }
}
