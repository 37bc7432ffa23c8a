/* Loop: see loop.h. Timers are a binary heap of pointers whose members know their place; removed watches are freed
 * between batches. */
#include "server/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"

enum { BATCH = 256 };

struct loop_watch {
    int fd;
    loop_watch_fn *fn; /* NULL: removed */
    void *ctx;
    struct loop_watch *next_dead;
};

struct loop {
    int epoll_fd, wake_fd;
    struct loop_watch *wake, *dead;
    struct loop_timer **heap;
    size_t n_timers, cap_timers;
    pthread_mutex_t lock; /* of the posted calls */
    struct loop_call *first, **last;
    int (*before_wait)(void *ctx);
    void *before_wait_ctx;
    int64_t now_ms;
    bool stop;
};

/* false: there was nothing. */
static bool take_posted(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    struct loop_call *c = l->first;
    l->first = NULL;
    l->last = &l->first;
    pthread_mutex_unlock(&l->lock);
    bool any = c != NULL;
    while (c) {
        struct loop_call *next = c->next;
        c->fn(c);
        c = next;
    }
    return any;
}

static void wake_event(void *ctx, uint32_t events)
{
    (void)events;
    struct loop *l = ctx;
    uint64_t n;
    ssize_t got = read(l->wake_fd, &n, sizeof n);
    (void)got; /* an empty counter only means that a round before took the calls */
    take_posted(l);
}

void loop_run_posted(struct loop *l)
{
    while (take_posted(l)) {
    }
}

int loop_new(struct loop **out, struct err *e)
{
    struct loop *l = *out = calloc(1, sizeof *l);
    if (!l) return err_set(e, ERR_MEMORY, "out of memory");
    l->last = &l->first;
    pthread_mutex_init(&l->lock, NULL);
    l->now_ms = clock_boot_ms();
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = l->epoll_fd < 0 || l->wake_fd < 0 ? err_set(e, ERR_IO, "event loop: %s", strerror(errno)) : 0;
    if (!rc) rc = loop_watch_add(l, l->wake_fd, EPOLLIN, wake_event, l, &l->wake, e);
    if (rc) {
        loop_free(l);
        *out = NULL;
    }
    return rc;
}

static void bury_dead(struct loop *l)
{
    while (l->dead) {
        struct loop_watch *w = l->dead;
        l->dead = w->next_dead;
        free(w);
    }
}

void loop_free(struct loop *l)
{
    if (!l) return;
    loop_watch_remove(l, l->wake);
    bury_dead(l);
    if (l->epoll_fd >= 0) close(l->epoll_fd);
    if (l->wake_fd >= 0) close(l->wake_fd);
    pthread_mutex_destroy(&l->lock);
    free(l->heap);
    free(l);
}

int loop_watch_add(struct loop *l, int fd, uint32_t events, loop_watch_fn *fn, void *ctx, struct loop_watch **out, struct err *e)
{
    struct loop_watch *w = *out = malloc(sizeof *w);
    if (!w) return err_set(e, ERR_MEMORY, "out of memory");
    *w = (struct loop_watch){.fd = fd, .fn = fn, .ctx = ctx};
    struct epoll_event ev = {.events = events, .data.ptr = w};
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0) return 0;
    free(w);
    *out = NULL;
    return err_set(e, ERR_IO, "event loop: %s", strerror(errno));
}

int loop_watch_change(struct loop *l, struct loop_watch *w, uint32_t events, struct err *e)
{
    struct epoll_event ev = {.events = events, .data.ptr = w};
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev) == 0) return 0;
    return err_set(e, ERR_IO, "event loop: %s", strerror(errno));
}

void loop_watch_remove(struct loop *l, struct loop_watch *w)
{
    if (!w) return;
    struct epoll_event unused = {0};
    epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, w->fd, &unused); /* fails only if the descriptor is already gone */
    w->fn = NULL;
    w->next_dead = l->dead;
    l->dead = w;
}

static void heap_put(struct loop *l, size_t i, struct loop_timer *t)
{
    l->heap[i] = t;
    t->place = i + 1;
}

static void heap_up(struct loop *l, size_t i, struct loop_timer *t)
{
    while (i > 0 && l->heap[(i - 1) / 2]->at_ms > t->at_ms) {
        heap_put(l, i, l->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    heap_put(l, i, t);
}

static void heap_down(struct loop *l, size_t i, struct loop_timer *t)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= l->n_timers) break;
        if (child + 1 < l->n_timers && l->heap[child + 1]->at_ms < l->heap[child]->at_ms) child++;
        if (l->heap[child]->at_ms >= t->at_ms) break;
        heap_put(l, i, l->heap[child]);
        i = child;
    }
    heap_put(l, i, t);
}

void loop_timer_clear(struct loop *l, struct loop_timer *t)
{
    if (!t->place) return;
    size_t i = t->place - 1;
    t->place = 0;
    struct loop_timer *moved = l->heap[--l->n_timers];
    if (moved == t) return;
    if (i > 0 && l->heap[(i - 1) / 2]->at_ms > moved->at_ms)
        heap_up(l, i, moved);
    else
        heap_down(l, i, moved);
}

int loop_timer_set(struct loop *l, struct loop_timer *t, int64_t at_ms)
{
    loop_timer_clear(l, t);
    if (l->n_timers == l->cap_timers) {
        size_t cap = l->cap_timers ? 2 * l->cap_timers : 64;
        struct loop_timer **heap = realloc(l->heap, cap * sizeof *heap);
        if (!heap) return -ERR_MEMORY;
        l->heap = heap;
        l->cap_timers = cap;
    }
    t->at_ms = at_ms;
    heap_up(l, l->n_timers++, t);
    return 0;
}

void loop_post(struct loop *l, struct loop_call *c)
{
    c->next = NULL;
    pthread_mutex_lock(&l->lock);
    *l->last = c;
    l->last = &c->next;
    pthread_mutex_unlock(&l->lock);
    uint64_t one = 1;
    ssize_t put = write(l->wake_fd, &one, sizeof one);
    (void)put; /* a full counter wakes the loop just as well */
}

void loop_before_wait(struct loop *l, int (*fn)(void *ctx), void *ctx)
{
    l->before_wait = fn;
    l->before_wait_ctx = ctx;
}

/* A timer that sets itself again for now waits for the next round: sockets are not starved. */
static void run_timers(struct loop *l)
{
    int64_t now_ms = l->now_ms;
    for (size_t n = l->n_timers; n > 0 && l->n_timers > 0 && l->heap[0]->at_ms <= now_ms; n--) {
        struct loop_timer *t = l->heap[0];
        loop_timer_clear(l, t);
        t->fn(t->ctx);
    }
}

static int wait_ms(struct loop *l)
{
    int64_t ms = l->before_wait ? l->before_wait(l->before_wait_ctx) : -1;
    if (l->n_timers > 0) {
        int64_t until_ms = l->heap[0]->at_ms - clock_boot_ms();
        if (until_ms < 0) until_ms = 0;
        if (ms < 0 || until_ms < ms) ms = until_ms;
    }
    return ms > 3600000 ? 3600000 : (int)ms;
}

int loop_run(struct loop *l, struct err *e)
{
    struct epoll_event events[BATCH];
    l->stop = false;
    while (!l->stop) {
        int ms = wait_ms(l);
        if (l->stop) break; /* the hook runs callbacks too */
        int n = epoll_wait(l->epoll_fd, events, BATCH, ms);
        if (n < 0 && errno != EINTR) return err_set(e, ERR_IO, "event loop: %s", strerror(errno));
        l->now_ms = clock_boot_ms();
        for (int i = 0; i < n; i++) {
            struct loop_watch *w = events[i].data.ptr;
            if (w->fn) w->fn(w->ctx, events[i].events);
        }
        run_timers(l);
        bury_dead(l);
    }
    return 0;
}

void loop_stop(struct loop *l)
{
    l->stop = true;
}

int64_t loop_now_ms(const struct loop *l)
{
    return l->now_ms;
}
