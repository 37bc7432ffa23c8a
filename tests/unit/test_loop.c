/* The event loop: timers against a plain sort, calls posted from threads, watches removed inside callbacks; the thread
 * pool on it. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "server/loop.h"
#include "server/pool.h"

static struct loop *loop_make(void)
{
    struct loop *l;
    struct err e;
    assert_int_equal(loop_new(&l, &e), 0);
    return l;
}

enum { N_TIMERS = 2000 };
struct timer_case {
    struct loop *loop;
    struct loop_timer timers[N_TIMERS];
    int64_t fired_ms[N_TIMERS];
    int n_fired;
    struct loop_timer last;
};
static struct timer_case *tc;

static void timer_fired(void *ctx)
{
    struct loop_timer *t = ctx;
    assert_true(clock_boot_ms() >= t->at_ms);
    tc->fired_ms[tc->n_fired++] = t->at_ms;
}

static void stop_loop(void *ctx)
{
    loop_stop(ctx);
}

static void test_loop_timers_fire_once_in_order(void **state)
{
    (void)state;
    tc = calloc(1, sizeof *tc);
    struct loop *l = tc->loop = loop_make();
    srand(7);
    int64_t now_ms = clock_boot_ms();
    int cleared = 0;
    for (int i = 0; i < N_TIMERS; i++) {
        tc->timers[i] = (struct loop_timer){.fn = timer_fired, .ctx = &tc->timers[i]};
        assert_int_equal(loop_timer_set(l, &tc->timers[i], now_ms + rand() % 100), 0);
    }
    for (int i = 0; i < N_TIMERS; i += 3) assert_int_equal(loop_timer_set(l, &tc->timers[i], now_ms + rand() % 100), 0);
    for (int i = 0; i < N_TIMERS; i += 5) {
        loop_timer_clear(l, &tc->timers[i]);
        cleared++;
    }
    tc->last = (struct loop_timer){.fn = stop_loop, .ctx = l};
    assert_int_equal(loop_timer_set(l, &tc->last, now_ms + 150), 0);
    assert_int_equal(loop_run(l, NULL), 0);
    assert_int_equal(tc->n_fired, N_TIMERS - cleared);
    for (int i = 1; i < tc->n_fired; i++) assert_true(tc->fired_ms[i - 1] <= tc->fired_ms[i]);
    loop_free(l);
    free(tc);
}

struct pair {
    struct loop *loop;
    struct loop_watch *a, *b;
    int calls;
};

static void remove_both(void *ctx, uint32_t events)
{
    (void)events;
    struct pair *p = ctx;
    p->calls++;
    loop_watch_remove(p->loop, p->a);
    loop_watch_remove(p->loop, p->b);
    loop_stop(p->loop);
}

static void test_loop_drops_events_of_removed_watches(void **state)
{
    (void)state;
    struct pair p = {.loop = loop_make()};
    int x[2], y[2];
    assert_int_equal(pipe(x), 0);
    assert_int_equal(pipe(y), 0);
    assert_int_equal(write(x[1], "x", 1), 1);
    assert_int_equal(write(y[1], "y", 1), 1);
    assert_int_equal(loop_watch_add(p.loop, x[0], EPOLLIN, remove_both, &p, &p.a, NULL), 0);
    assert_int_equal(loop_watch_add(p.loop, y[0], EPOLLIN, remove_both, &p, &p.b, NULL), 0);
    assert_int_equal(loop_run(p.loop, NULL), 0);
    assert_int_equal(p.calls, 1);
    loop_free(p.loop);
    for (int i = 0; i < 2; i++) {
        close(x[i]);
        close(y[i]);
    }
}

enum { N_POSTERS = 3, N_POSTS = 20000 };
struct post {
    struct loop_call call;
    struct loop *loop;
    int *n_left;
    bool again; /* posts itself once more, from the loop */
};

static void posted(struct loop_call *call)
{
    struct post *p = (struct post *)call;
    if (p->again) {
        p->again = false;
        loop_post(p->loop, call);
    } else if (--*p->n_left == 0)
        loop_stop(p->loop);
}

static void *poster(void *arg)
{
    struct post *posts = arg;
    for (int i = 0; i < N_POSTS; i++) {
        loop_post(posts[i].loop, &posts[i].call);
        if (i % 64 == 0) usleep(i % 7 * 10); /* now the loop sleeps, now it does not */
    }
    return NULL;
}

/* There is no other event and no timer: a call that did not wake the loop would hang this. */
static void test_loop_runs_every_call_that_is_posted_asleep_or_not(void **state)
{
    (void)state;
    struct loop *l = loop_make();
    struct post *posts = calloc((size_t)N_POSTERS * N_POSTS, sizeof *posts);
    pthread_t threads[N_POSTERS];
    int n_left = N_POSTERS * N_POSTS;
    assert_non_null(posts);
    for (int i = 0; i < N_POSTERS * N_POSTS; i++) posts[i] = (struct post){.call.fn = posted, .loop = l, .n_left = &n_left, .again = i % 5 == 0};
    for (int i = 0; i < N_POSTERS; i++) assert_int_equal(pthread_create(&threads[i], NULL, poster, &posts[i * N_POSTS]), 0);
    assert_int_equal(loop_run(l, NULL), 0);
    assert_int_equal(n_left, 0);
    for (int i = 0; i < N_POSTERS; i++) pthread_join(threads[i], NULL);
    loop_free(l);
    free(posts);
}

enum { N_JOBS = 500 };
struct job {
    struct pool_job base;
    struct loop *loop;
    int value, *n_done;
    pthread_t worker;
};

static void job_work(struct pool_job *b)
{
    struct job *j = (struct job *)b;
    j->value *= 2;
    j->worker = pthread_self();
}

static void job_done(struct pool_job *b)
{
    struct job *j = (struct job *)b;
    assert_false(pthread_equal(j->worker, pthread_self()));
    if (++*j->n_done == N_JOBS) loop_stop(j->loop);
}

static void test_pool_runs_every_job_off_the_loop(void **state)
{
    (void)state;
    struct loop *l = loop_make();
    struct pool *p;
    assert_int_equal(pool_new(&p, l, 3, NULL), 0);
    struct job *jobs = calloc(N_JOBS, sizeof *jobs);
    int n_done = 0;
    for (int i = 0; i < N_JOBS; i++) {
        jobs[i] = (struct job){.base = {.work = job_work, .done = job_done}, .loop = l, .value = i, .n_done = &n_done};
        pool_submit(p, &jobs[i].base);
    }
    assert_int_equal(loop_run(l, NULL), 0);
    for (int i = 0; i < N_JOBS; i++) assert_int_equal(jobs[i].value, 2 * i);
    pool_free(p);
    loop_free(l);
    free(jobs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loop_timers_fire_once_in_order),
        cmocka_unit_test(test_loop_drops_events_of_removed_watches),
        cmocka_unit_test(test_loop_runs_every_call_that_is_posted_asleep_or_not),
        cmocka_unit_test(test_pool_runs_every_job_off_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
