/* Pool: see pool.h. One queue, one lock. */
#include "server/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 64, STACK_BYTES = 8 << 20 };

struct pool {
    struct loop *loop;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct pool_job *first, **last;
    bool stop;
    int n_threads;
    pthread_t threads[MAX_THREADS];
};

static void job_done(struct loop_call *c)
{
    struct pool_job *j = (struct pool_job *)((char *)c - offsetof(struct pool_job, call));
    j->done(j);
}

static void *pool_thread(void *arg)
{
    struct pool *p = arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->first && !p->stop) pthread_cond_wait(&p->more, &p->lock);
        if (p->stop) break;
        struct pool_job *j = p->first;
        p->first = j->next;
        if (!p->first) p->last = &p->first;
        pthread_mutex_unlock(&p->lock);
        j->work(j);
        j->call.fn = job_done;
        loop_post(p->loop, &j->call);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int pool_new(struct pool **out, struct loop *l, int n_threads, struct err *e)
{
    CHECK(n_threads > 0 && n_threads <= MAX_THREADS);
    struct pool *p = *out = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_MEMORY, "out of memory");
    p->loop = l;
    p->last = &p->first;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->more, NULL);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigset_t all, old; /* signals are for the loop's thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = 0;
    while (p->n_threads < n_threads && !rc) {
        rc = pthread_create(&p->threads[p->n_threads], &attr, pool_thread, p);
        if (!rc) p->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (!rc) return 0;
    pool_free(p);
    *out = NULL;
    return err_set(e, ERR_IO, "thread pool: %s", strerror(rc));
}

void pool_free(struct pool *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->more);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_threads; i++) pthread_join(p->threads[i], NULL);
    for (struct pool_job *j = p->first, *next; j; j = next) {
        next = j->next;
        j->call.fn = job_done;
        loop_post(p->loop, &j->call);
    }
    pthread_cond_destroy(&p->more);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void pool_submit(struct pool *p, struct pool_job *j)
{
    j->next = NULL;
    pthread_mutex_lock(&p->lock);
    *p->last = j;
    p->last = &j->next;
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
}
