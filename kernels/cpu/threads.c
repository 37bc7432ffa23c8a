/* Threads: see threads.h. `ticket` holds the items of the current call that nobody has taken, under the call's number: taking one is a
 * compare and swap that fails when the call is over, so a thread that comes late takes an item of the call that is running now, or none.
 * The call's fields are read only after an item was taken: until that is done, the call cannot end and they cannot change. */
#include "kernels/cpu/threads.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    SPIN_NS = 100000, /* longer than an item of a decode step and what lies between two calls, shorter than a time slice */
    SPIN_PAUSES = 32  /* between looks at the clock */
};

struct threads {
    int n;
    pthread_t *ids;
    int started;
    bool stop;
    threads_item_fn fn;
    void *arg;
    uint32_t n_items;
    _Alignas(64) _Atomic uint64_t ticket; /* call number << 32 | items not taken */
    _Alignas(64) _Atomic uint32_t call;   /* futex: the call's number, or the end */
    _Atomic uint32_t sleepers;            /* threads that wait for a call asleep, or are about to */
    _Alignas(64) _Atomic uint32_t left;   /* futex: items not done */
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) _Atomic uint32_t next_index;
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

/* True when *word became another than `value` within the time for spinning. */
static bool spin(_Atomic uint32_t *word, uint32_t value)
{
    for (uint64_t end = 0;;) {
        for (int i = 0; i < SPIN_PAUSES; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != value) return true;
            cpu_pause();
        }
        uint64_t now = (uint64_t)clock_boot_ns();
        if (!end) end = now + SPIN_NS;
        if (now >= end) return false;
    }
}

/* Returns when *word is no longer `value`. Who changes it looks at *asleep afterwards; both sides in one total order, so that either the
 * change is seen here or the sleeper there. */
static void wait_change(_Atomic uint32_t *word, uint32_t value, _Atomic uint32_t *asleep)
{
    if (spin(word, value)) return;
    atomic_fetch_add(asleep, 1);
    while (atomic_load(word) == value) futex_wait(word, value);
    atomic_fetch_sub(asleep, 1);
}

/* Items until none is left to take. */
static void work(struct threads *t, int thread)
{
    uint64_t ticket = atomic_load_explicit(&t->ticket, memory_order_acquire);
    while ((uint32_t)ticket) {
        if (!atomic_compare_exchange_weak_explicit(&t->ticket, &ticket, ticket - 1, memory_order_acq_rel, memory_order_acquire)) continue;
        t->fn(t->arg, thread, t->n_items - (uint32_t)ticket);
        if (atomic_fetch_sub(&t->left, 1) == 1 && atomic_load(&t->caller_sleeps)) futex_wake(&t->left);
        ticket = atomic_load_explicit(&t->ticket, memory_order_acquire);
    }
}

static void *thread_main(void *p)
{
    struct threads *t = p;
    int index = (int)atomic_fetch_add(&t->next_index, 1);
    for (uint32_t seen = 0;;) {
        wait_change(&t->call, seen, &t->sleepers);
        seen = atomic_load(&t->call);
        if (t->stop) return NULL;
        work(t, index);
    }
}

/* The i-th processor of those the process may use, beginning anew after the last. */
static void pin_thread(pthread_t id, const cpu_set_t *may, int i)
{
    int n = CPU_COUNT(may), at = n > 0 ? i % n : 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, may) || at--) continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(id, sizeof one, &one); /* a wish: where it is refused, the thread runs unpinned */
        return;
    }
}

int threads_new(struct threads **out, int n, bool pin, struct err *e)
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
    cpu_set_t may;
    pin = pin && sched_getaffinity(0, sizeof may, &may) == 0;
    for (int i = 1; i < n && !rc; i++) {
        int fail = pthread_create(&t->ids[i], NULL, thread_main, t);
        if (fail) {
            rc = err_set(e, ERR_MEMORY, "thread pool: %s", strerror(fail));
        } else {
            t->started++;
            if (pin) pin_thread(t->ids[i], &may, i);
        }
    }
    if (pin && !rc) pin_thread(pthread_self(), &may, 0);
    if (rc)
        threads_free(t);
    else
        *out = t;
    return rc;
}

static void announce(struct threads *t)
{
    atomic_fetch_add(&t->call, 1);
    if (atomic_load(&t->sleepers)) futex_wake(&t->call);
}

void threads_free(struct threads *t)
{
    if (!t) return;
    t->stop = true;
    announce(t);
    for (int i = 1; i <= t->started; i++) pthread_join(t->ids[i], NULL);
    free(t->ids);
    free(t);
}

int threads_count(const struct threads *t)
{
    return t->n;
}

void threads_items(struct threads *t, threads_item_fn fn, void *arg, size_t n)
{
    CHECK(n <= UINT32_MAX);
    if (t->n == 1 || n <= 1) {
        for (size_t i = 0; i < n; i++) fn(arg, 0, i);
        return;
    }
    t->fn = fn;
    t->arg = arg;
    t->n_items = (uint32_t)n;
    atomic_store_explicit(&t->left, (uint32_t)n, memory_order_relaxed);
    uint64_t number = (atomic_load_explicit(&t->ticket, memory_order_relaxed) >> 32) + 1;
    atomic_store_explicit(&t->ticket, number << 32 | n, memory_order_release);
    announce(t);
    work(t, 0);
    for (uint32_t left; (left = atomic_load_explicit(&t->left, memory_order_acquire)) != 0;) wait_change(&t->left, left, &t->caller_sleeps);
}

struct shares {
    threads_fn fn;
    void *arg;
    int n;
};

static void share(void *arg, int thread, size_t item)
{
    (void)thread;
    const struct shares *s = arg;
    s->fn(s->arg, (int)item, s->n);
}

void threads_run(struct threads *t, threads_fn fn, void *arg)
{
    struct shares s = {fn, arg, t->n};
    threads_items(t, share, &s, (size_t)t->n);
}
