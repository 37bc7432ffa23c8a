/* Ledger writer: see ledger_writer.h. */
#include "server/accounts/ledger_writer.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { BUSY_TRIES = 100, MEMORY_TRIES = 3, LEAST_PAUSE_MS = 20, MOST_PAUSE_MS = 1000 };

struct list {
    struct ledger_call *first, **last;
    size_t n;
};

struct ledger_writer {
    struct ledger_writer_options o;
    struct db *db;
    struct ledger *ledger;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows, but for ends, which is the thread's */
    pthread_cond_t wake;
    struct list queue;
    bool stopping;
    int64_t stop_by_ms;
    struct ledger_writer_state state;
    struct list ends; /* posts and voids that the store did not take */
    int64_t tidied_ms;
    unsigned random;
    struct ledger_call *batch[LEDGER_MAX_BATCH];
    struct ledger_op *ops[LEDGER_MAX_BATCH];
};

static void list_add(struct list *l, struct ledger_call *c)
{
    c->next = NULL;
    if (!l->first) l->last = &l->first;
    *l->last = c;
    l->last = &c->next;
    l->n++;
}

static struct ledger_call *list_take(struct list *l)
{
    struct ledger_call *c = l->first;
    if (!c) return NULL;
    l->first = c->next;
    l->n--;
    return c;
}

static bool is_end(const struct ledger_call *c)
{
    return c->op.type == LEDGER_POST || c->op.type == LEDGER_VOID;
}

static void hand_back(struct ledger_writer *w, struct ledger_call *c)
{
    w->o.deliver(w->o.ctx, c);
}

static void refuse(struct ledger_writer *w, struct ledger_call *c)
{
    c->op.rc = err_set(&c->op.err, ERR_STORE, "The accounts cannot be written now: try again.");
    hand_back(w, c);
}

static void set_state(struct ledger_writer *w, bool open, const char *why)
{
    pthread_mutex_lock(&w->lock);
    bool changed = w->state.open != open;
    w->state.open = open;
    snprintf(w->state.why, sizeof w->state.why, "%s", why);
    w->state.n_waiting = w->ends.n;
    pthread_mutex_unlock(&w->lock);
    if (changed && open) log_info("accounts: the store takes what it is asked for again");
    if (changed && !open) log_error("accounts: %s; nothing new is begun until the store is there again", why);
}

static void pause_ms(int64_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static bool time_is_up(struct ledger_writer *w)
{
    pthread_mutex_lock(&w->lock);
    bool up = w->stopping && clock_boot_ms() >= w->stop_by_ms;
    pthread_mutex_unlock(&w->lock);
    return up;
}

/* Until the store tells whether the batch is in it: 1, 0; or < 0 when the writer has to stop. */
static int look(struct ledger_writer *w, size_t n, struct err *e)
{
    for (int64_t wait_ms = LEAST_PAUSE_MS;; wait_ms = wait_ms * 2 < MOST_PAUSE_MS ? wait_ms * 2 : MOST_PAUSE_MS) {
        int rc = ledger_look(w->ledger, w->ops, n, e);
        if (rc >= 0) return rc;
        set_state(w, false, e->msg);
        if (time_is_up(w)) return rc;
        pause_ms(wait_ms);
    }
}

/* One transaction, tried again while only others' locks are in its way. */
static int apply(struct ledger_writer *w, size_t n, struct err *e)
{
    for (int tries = 0;; tries++) {
        int rc = ledger_apply(w->ledger, w->ops, n, e);
        if (rc == -ERR_UNKNOWN) {
            int there = look(w, n, e);
            if (there) return there > 0 ? 0 : there;
        } else if (rc == -ERR_MEMORY ? tries == MEMORY_TRIES : rc != -ERR_BUSY || tries == BUSY_TRIES)
            return rc;
        else
            pause_ms(1 + rand_r(&w->random) % 10);
    }
}

/* A link that was broken is made anew, and the batch tried once more: nothing of it has happened. */
static int apply_or_revive(struct ledger_writer *w, size_t n, struct err *e)
{
    struct err ignored;
    int rc = apply(w, n, e);
    if (rc && db_kind(w->db) == DB_POSTGRES && db_revive(w->db, &ignored) == 0) rc = apply(w, n, e);
    return rc;
}

/* The store did not take it. */
static void put_off(struct ledger_writer *w, struct ledger_call *c, int why)
{
    if (is_end(c) && w->ends.n < LEDGER_MAX_WAITING)
        list_add(&w->ends, c);
    else if (why == -ERR_MEMORY) {
        c->op.rc = err_set(&c->op.err, ERR_MEMORY, "out of memory");
        hand_back(w, c);
    } else
        refuse(w, c);
}

static void finish(struct ledger_writer *w, size_t n)
{
    pthread_mutex_lock(&w->lock);
    w->state.n_batches++;
    w->state.n_ops += n;
    pthread_mutex_unlock(&w->lock);
    for (size_t i = 0; i < n; i++) hand_back(w, w->batch[i]);
}

/* 0: done. Else all of it is put off, or, if a single one spoils it, that one has its error. */
static int run_batch(struct ledger_writer *w, size_t n)
{
    struct err e = {0};
    for (size_t i = 0; i < n; i++) w->ops[i] = &w->batch[i]->op;
    int rc = apply_or_revive(w, n, &e);
    if (!rc) {
        finish(w, n);
        return 0;
    }
    if (rc == -ERR_INTERNAL && n == 1) {
        log_error("accounts: an operation on request %lld cannot be done: %s", (long long)w->batch[0]->op.request, e.msg);
        w->batch[0]->op.rc = rc;
        w->batch[0]->op.err = e;
        hand_back(w, w->batch[0]);
        return 0;
    }
    if (rc == -ERR_INTERNAL) {
        struct ledger_call *all[LEDGER_MAX_BATCH];
        memcpy(all, w->batch, n * sizeof *all);
        for (size_t i = 0; i < n; i++) {
            w->batch[0] = all[i];
            run_batch(w, 1);
        }
        return 0;
    }
    for (size_t i = 0; i < n; i++) put_off(w, w->batch[i], rc);
    if (rc == -ERR_MEMORY) return 0; /* the store is there; ends are tried again in a moment */
    set_state(w, false, e.msg);
    return rc;
}

static size_t take_batch(struct ledger_writer *w, struct list *from)
{
    size_t n = 0;
    struct ledger_call *c;
    pthread_mutex_lock(&w->lock);
    while (n < LEDGER_MAX_BATCH && (c = list_take(from))) w->batch[n++] = c;
    pthread_mutex_unlock(&w->lock);
    return n;
}

static int tidy(struct ledger_writer *w)
{
    struct err e;
    size_t n = 0;
    int rc;
    w->tidied_ms = clock_boot_ms();
    do rc = ledger_recover(w->ledger, &n, &e);
    while (!rc && n == LEDGER_MAX_BATCH);
    if (!rc) rc = ledger_forget_keys(w->ledger, &n, &e);
    if (rc && rc != -ERR_BUSY) log_warn("accounts: what a run has left open cannot be ended: %s", e.msg);
    return rc;
}

static void cond_wait_ms(struct ledger_writer *w, int64_t ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000;
    if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
    pthread_cond_timedwait(&w->wake, &w->lock, &t);
}

/* Until something is submitted, the time has come, or the end. false: the end. */
static bool wait_until(struct ledger_writer *w, int64_t until_ms)
{
    pthread_mutex_lock(&w->lock);
    int64_t now_ms;
    while (!w->queue.first && (now_ms = clock_boot_ms()) < until_ms && !(w->stopping && !w->ends.first)) cond_wait_ms(w, until_ms - now_ms + 1);
    bool stop = w->stopping && !w->queue.first && (!w->ends.first || clock_boot_ms() >= w->stop_by_ms);
    pthread_mutex_unlock(&w->lock);
    return !stop;
}

/* While the store is away: what is asked for anew is refused at once. */
static void turn_away(struct ledger_writer *w)
{
    for (size_t n; (n = take_batch(w, &w->queue));)
        for (size_t i = 0; i < n; i++) put_off(w, w->batch[i], -ERR_STORE);
}

/* The ends that wait are the question; if there are none, whether there is something to tidy. */
static bool try_again(struct ledger_writer *w)
{
    struct err ignored;
    if (db_revive(w->db, &ignored)) return false;
    do {
        size_t n = take_batch(w, &w->ends);
        if (n ? run_batch(w, n) : tidy(w)) return false;
        if (n && w->ends.n >= n) return true; /* for want of memory: later */
    } while (w->ends.n);
    return true;
}

static void *writer_run(void *arg)
{
    struct ledger_writer *w = arg;
    int64_t pause = 0, again_ms = 0; /* pause 0: the store is there */
    while (wait_until(w, pause ? again_ms : w->ends.n ? clock_boot_ms() + LEAST_PAUSE_MS : w->tidied_ms + LEDGER_TIDY_MS)) {
        bool failed = false;
        if (pause) {
            turn_away(w);
            if (clock_boot_ms() < again_ms) continue;
            failed = !try_again(w);
            if (!failed) set_state(w, true, "");
        } else {
            size_t n = take_batch(w, &w->queue);
            failed = n && run_batch(w, n);
            if (!failed && (n = take_batch(w, &w->ends))) failed = run_batch(w, n); /* put off for want of memory */
            if (!failed && clock_boot_ms() - w->tidied_ms >= LEDGER_TIDY_MS) tidy(w);
        }
        if (!failed)
            pause = 0;
        else {
            pause = pause * 2 > MOST_PAUSE_MS ? MOST_PAUSE_MS : pause ? pause * 2 : LEAST_PAUSE_MS;
            again_ms = clock_boot_ms() + pause;
        }
    }
    for (struct ledger_call *c; (c = list_take(&w->ends));) refuse(w, c);
    return NULL;
}

int ledger_writer_start(struct ledger_writer **out, const struct ledger_writer_options *o, struct err *e)
{
    *out = NULL;
    struct ledger_writer *w = calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_MEMORY, "out of memory");
    w->o = *o;
    w->state.open = true;
    w->random = (unsigned)clock_boot_ns();
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, &attr);
    pthread_condattr_destroy(&attr);
    int rc = db_open(&w->db, o->where, e);
    if (!rc) rc = ledger_open(&w->ledger, w->db, &o->ledger, e);
    if (!rc) {
        (void)tidy(w); /* again in LEDGER_TIDY_MS */
        if (pthread_create(&w->thread, NULL, writer_run, w)) rc = err_set(e, ERR_IO, "a thread cannot be started");
    }
    if (!rc) {
        *out = w;
        return 0;
    }
    ledger_close(w->ledger);
    db_close(w->db);
    free(w);
    return rc;
}

void ledger_writer_submit(struct ledger_writer *w, struct ledger_call *call)
{
    pthread_mutex_lock(&w->lock);
    bool was_empty = !w->queue.first;
    list_add(&w->queue, call);
    if (was_empty) pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

struct ledger_writer_state ledger_writer_state(struct ledger_writer *w)
{
    pthread_mutex_lock(&w->lock);
    struct ledger_writer_state s = w->state;
    pthread_mutex_unlock(&w->lock);
    return s;
}

void ledger_writer_stop(struct ledger_writer *w, int wait_ms)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    w->stop_by_ms = clock_boot_ms() + wait_ms;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    ledger_close(w->ledger);
    db_close(w->db);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
