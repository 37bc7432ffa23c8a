/* Loop: see loop.h. Timers are a pairing heap of links that they carry themselves (Fredman, Sedgewick, Sleator, Tarjan 1986); removed
 * watches are freed between batches. */
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
    struct loop_timer *timers; /* a pairing heap: its root is due first */
    size_t n_timers;
    pthread_mutex_t lock; /* of the posted calls, and of asleep */
    struct loop_call *first, **last;
    bool asleep; /* waits, or is about to: who posts must wake it */
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

/* The round takes the calls itself. */
static void wake_event(void *ctx, uint32_t events)
{
    (void)events;
    struct loop *l = ctx;
    uint64_t n;
    ssize_t got = read(l->wake_fd, &n, sizeof n);
    (void)got;
}

/* false: calls wait already. */
static bool fall_asleep(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    l->asleep = l->first == NULL;
    bool asleep = l->asleep;
    pthread_mutex_unlock(&l->lock);
    return asleep;
}

static void wake_up(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    l->asleep = false;
    pthread_mutex_unlock(&l->lock);
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

static void timer_link(struct loop_timer **at, struct loop_timer *t)
{
    *at = t;
    if (t) t->link = at;
}

/* One heap of two: the later root becomes the other's first child. */
static struct loop_timer *timers_meld(struct loop_timer *a, struct loop_timer *b)
{
    if (!a || !b) return a ? a : b;
    if (b->at_ms < a->at_ms) {
        struct loop_timer *earlier = b;
        b = a;
        a = earlier;
    }
    timer_link(&b->next, a->child);
    timer_link(&a->child, b);
    return a;
}

/* One heap of a list of siblings: in pairs from the front, the pairs from the back. */
static struct loop_timer *timers_pair(struct loop_timer *list)
{
    struct loop_timer *pairs = NULL, *all = NULL;
    while (list) {
        struct loop_timer *a = list, *b = a->next;
        list = b ? b->next : NULL;
        a->next = NULL;
        if (b) b->next = NULL;
        a = timers_meld(a, b);
        a->next = pairs;
        pairs = a;
    }
    while (pairs) {
        struct loop_timer *rest = pairs->next;
        pairs->next = NULL;
        all = timers_meld(all, pairs);
        pairs = rest;
    }
    return all;
}

void loop_timer_clear(struct loop *l, struct loop_timer *t)
{
    if (!t->place) return;
    timer_link(t->link, t->next);
    timer_link(&l->timers, timers_meld(l->timers, timers_pair(t->child)));
    t->child = t->next = NULL;
    t->place = 0;
    l->n_timers--;
}

int loop_timer_set(struct loop *l, struct loop_timer *t, int64_t at_ms)
{
    loop_timer_clear(l, t);
    t->at_ms = at_ms;
    t->place = 1;
    timer_link(&l->timers, timers_meld(l->timers, t));
    l->n_timers++;
    return 0;
}

void loop_post(struct loop *l, struct loop_call *c)
{
    c->next = NULL;
    pthread_mutex_lock(&l->lock);
    *l->last = c;
    l->last = &c->next;
    bool asleep = l->asleep;
    l->asleep = false; /* one wakes it */
    pthread_mutex_unlock(&l->lock);
    uint64_t one = 1;
    while (asleep && write(l->wake_fd, &one, sizeof one) < 0 && errno == EINTR) {
    } /* a full counter wakes the loop just as well */
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
    for (size_t n = l->n_timers; n > 0 && l->timers && l->timers->at_ms <= now_ms; n--) {
        struct loop_timer *t = l->timers;
        loop_timer_clear(l, t);
        t->fn(t->ctx);
    }
}

static int wait_ms(struct loop *l)
{
    int64_t ms = l->before_wait ? l->before_wait(l->before_wait_ctx) : -1;
    if (l->timers) {
        int64_t until_ms = l->timers->at_ms - clock_boot_ms();
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
        int n = epoll_wait(l->epoll_fd, events, BATCH, fall_asleep(l) ? ms : 0);
        wake_up(l);
        if (n < 0 && errno != EINTR) return err_set(e, ERR_IO, "event loop: %s", strerror(errno));
        l->now_ms = clock_boot_ms();
        for (int i = 0; i < n; i++) {
            struct loop_watch *w = events[i].data.ptr;
            if (w->fn) w->fn(w->ctx, events[i].events);
        }
        take_posted(l);
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
