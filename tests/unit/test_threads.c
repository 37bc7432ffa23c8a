/* The CPU backend's threads: every item of every call is done once and seen afterwards, no two items at a time are told the same thread. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu/threads.h"

enum { MAX_ITEMS = 97, MAX_THREADS = 7 };
struct count {
    uint32_t done[MAX_ITEMS]; /* plain: a lost or doubled item, or one that is not seen, shows */
    _Atomic uint32_t busy[MAX_THREADS];
    _Atomic uint32_t faults;
    int n_threads;
};

static void count_item(void *arg, int thread, size_t item)
{
    struct count *c = arg;
    if (thread < 0 || thread >= c->n_threads || atomic_exchange(&c->busy[thread], 1)) atomic_fetch_add(&c->faults, 1);
    c->done[item]++;
    if (item % 16 == 3) sched_yield(); /* some are held up */
    atomic_store(&c->busy[thread], 0);
}

static void test_every_item_is_done_once(void **unused)
{
    (void)unused;
    for (int n = 1; n <= MAX_THREADS; n += 2) {
        struct threads *t;
        struct err e = {0};
        struct count c = {.n_threads = n};
        uint32_t want[MAX_ITEMS] = {0};
        assert_int_equal(threads_new(&t, n, false, &e), 0);
        assert_int_equal(threads_count(t), n);
        for (size_t call = 0; call < 3000; call++) {
            size_t items = call * 31 % (MAX_ITEMS + 1);
            threads_items(t, count_item, &c, items);
            for (size_t i = 0; i < items; i++) want[i]++;
            assert_memory_equal(c.done, want, sizeof want);
        }
        assert_int_equal(atomic_load(&c.faults), 0);
        threads_free(t);
    }
}

static void count_share(void *arg, int share, int n_shares)
{
    struct count *c = arg;
    if (n_shares != c->n_threads) atomic_fetch_add(&c->faults, 1);
    c->done[share]++;
}

static void test_every_share_is_done_once(void **unused)
{
    (void)unused;
    struct threads *t;
    struct err e = {0};
    struct count c = {.n_threads = 5};
    assert_int_equal(threads_new(&t, 5, false, &e), 0);
    for (uint32_t call = 1; call <= 1000; call++) {
        threads_run(t, count_share, &c);
        for (size_t i = 0; i < 6; i++) assert_int_equal(c.done[i], i < 5 ? call : 0);
    }
    assert_int_equal(atomic_load(&c.faults), 0);
    threads_free(t);
}

static void see_processors(void *arg, int thread, size_t item)
{
    cpu_set_t set;
    (void)item;
    if (sched_getaffinity(0, sizeof set, &set) == 0) ((_Atomic int *)arg)[thread] = CPU_COUNT(&set);
}

static void test_pinned_threads_have_one_processor(void **unused)
{
    (void)unused;
    cpu_set_t before;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    struct threads *t;
    struct err e = {0};
    _Atomic int processors[3] = {0};
    assert_int_equal(threads_new(&t, 3, true, &e), 0);
    for (int i = 0; i < 200; i++) threads_items(t, see_processors, processors, 64);
    threads_free(t);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    for (int i = 0; i < 3; i++) assert_true(processors[i] == 1 || (i > 0 && processors[i] == 0)); /* 0: it came too late for every item */
    assert_int_equal(processors[0], 1);
}

static void test_unused_threads_end(void **unused)
{
    (void)unused;
    for (int i = 0; i < 50; i++) {
        struct threads *t;
        struct err e = {0};
        assert_int_equal(threads_new(&t, 1 + i % MAX_THREADS, false, &e), 0);
        threads_free(t);
    }
    threads_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_is_done_once),
        cmocka_unit_test(test_every_share_is_done_once),
        cmocka_unit_test(test_pinned_threads_have_one_processor),
        cmocka_unit_test(test_unused_threads_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
