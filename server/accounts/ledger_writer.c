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
#include "server/accounts/journal.h"

enum { BUSY_TRIES = 100, MEMORY_TRIES = 3, LEAST_PAUSE_MS = 20, MOST_PAUSE_MS = 1000 };

struct list {
    struct ledger_call *first, **last;
    size_t n;
};

struct ledger_writer {
    struct ledger_writer_options o;
    struct db *db;
    struct ledger *ledger;
    struct journal *journal; /* NULL: none */
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows, up to state */
    pthread_cond_t wake;
    struct list queue;
    bool stopping, stopped; /* stopped: the thread is gone */
    int64_t stop_by_ms;
    struct ledger_writer_state state;
    struct list ends; /* posts and voids that neither the store nor the journal took */
    int64_t tidied_ms;
    unsigned random;
    size_t n; /* the batch */
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
    w->state.trouble = open ? NULL : db_trouble(w->db);
    snprintf(w->state.why, sizeof w->state.why, "%s", why);
    pthread_mutex_unlock(&w->lock);
    if (changed && open) log_info("accounts: the store takes what it is asked for again");
    if (changed && !open) log_error("accounts: %s; nothing new is begun until the store is there again", why);
}

/* The disk has failed: nobody knows what it has kept. The store stays as it is until a new process looks. */
static void set_failed(struct ledger_writer *w, const struct err *why)
{
    set_state(w, false, why->msg);
    pthread_mutex_lock(&w->lock);
    bool first = !w->state.failed;
    w->state.failed = true;
    pthread_mutex_unlock(&w->lock);
    if (first && w->o.failed) w->o.failed(w->o.ctx, why);
}

static void pause_ms(int64_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static bool time_is_up(struct ledger_writer *w)
{
    pthread_mutex_lock(&w->lock);
    bool up = w->stopped || (w->stopping && clock_boot_ms() >= w->stop_by_ms);
    pthread_mutex_unlock(&w->lock);
    return up;
}

static size_t take_from(struct ledger_writer *w, struct list *from, struct ledger_call **to)
{
    size_t n = 0;
    struct ledger_call *c;
    pthread_mutex_lock(&w->lock);
    while (n < LEDGER_MAX_BATCH && (c = list_take(from))) to[n++] = c;
    pthread_mutex_unlock(&w->lock);
    return n;
}

/* --- what the store does not take --- */

static void count_waiting(struct ledger_writer *w)
{
    pthread_mutex_lock(&w->lock);
    w->state.n_waiting = w->ends.n;
    w->state.n_kept = w->journal ? journal_count(w->journal) : 0;
    pthread_mutex_unlock(&w->lock);
}

/* As the store will say of it, as far as its caller knows what it holds. */
static void answer_kept(struct ledger_writer *w, struct ledger_call *c)
{
    struct ledger_op *op = &c->op;
    bool post = op->type == LEDGER_POST;
    op->rc = 0;
    op->err = (struct err){0};
    op->now_ms = ledger_now_ms(w->ledger);
    op->charged_nusd = !post ? 0 : op->sale_nusd < op->held_nusd ? op->sale_nusd : op->held_nusd;
    op->overrun_nusd = post ? op->sale_nusd - op->charged_nusd : 0;
    hand_back(w, c);
}

/* Puts those of the calls that are ends into the journal, where they are durable, and answers them. Those that are left keep their order; returns how
 * many. */
static size_t keep_ends(struct ledger_writer *w, struct ledger_call **calls, size_t n)
{
    struct ledger_call *kept[LEDGER_MAX_BATCH];
    struct err e = {0};
    size_t n_kept = 0, n_left = 0;
    if (!w->journal) return n;
    for (size_t i = 0; i < n; i++) {
        if (is_end(calls[i]) && journal_add(w->journal, &calls[i]->op, &e) == 0)
            kept[n_kept++] = calls[i];
        else
            calls[n_left++] = calls[i];
    }
    bool synced = n_kept && journal_sync(w->journal, &e) == 0;
    if (e.code == ERR_BROKEN)
        set_failed(w, &e);
    else if (e.code)
        log_error("%s", e.msg);
    count_waiting(w);
    for (size_t i = 0; i < n_kept; i++) {
        if (synced)
            answer_kept(w, kept[i]);
        else
            calls[n_left++] = kept[i];
    }
    return n_left;
}

static void put_off(struct ledger_writer *w, struct ledger_call **calls, size_t n, int why)
{
    if (why != -ERR_MEMORY) n = keep_ends(w, calls, n); /* for want of memory the store is not away */
    for (size_t i = 0; i < n; i++) {
        struct ledger_call *c = calls[i];
        if (is_end(c) && w->ends.n < LEDGER_MAX_WAITING && !time_is_up(w))
            list_add(&w->ends, c);
        else if (why == -ERR_MEMORY) {
            c->op.rc = err_set(&c->op.err, ERR_MEMORY, "out of memory");
            hand_back(w, c);
        } else
            refuse(w, c);
    }
    count_waiting(w);
}

/* While the store is away: what is asked for anew is refused at once. */
static void turn_away(struct ledger_writer *w)
{
    struct ledger_call *calls[LEDGER_MAX_BATCH];
    for (size_t n; (n = take_from(w, &w->queue, calls));) put_off(w, calls, n, -ERR_STORE);
}

/* The batch's outcome will not be known to this process. Reserves that may be in the store are void: their callers are refused. */
static void give_up(struct ledger_writer *w)
{
    struct err e;
    for (size_t i = 0; i < w->n; i++) {
        const struct ledger_op *op = &w->batch[i]->op, none = {.type = LEDGER_VOID, .request = op->request, .outcome = "never begun"};
        if (op->type != LEDGER_RESERVE || op->rc || !op->request || !w->journal) continue;
        if (journal_add(w->journal, &none, &e)) log_error("%s", e.msg);
    }
    if (w->journal && journal_sync(w->journal, &e)) log_error("%s", e.msg);
    put_off(w, w->batch, w->n, -ERR_STORE);
    w->n = 0;
}

/* --- a batch --- */

static void list_ops(struct ledger_writer *w)
{
    for (size_t i = 0; i < w->n; i++) w->ops[i] = &w->batch[i]->op;
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

/* Until the store tells whether the batch is in it: 1, 0; or < 0 when the writer has to stop. Its ends do not wait for that, and who comes meanwhile is
 * turned away. */
static int look(struct ledger_writer *w, struct err *e)
{
    for (int64_t wait_ms = LEAST_PAUSE_MS;; wait_ms = wait_ms * 2 < MOST_PAUSE_MS ? wait_ms * 2 : MOST_PAUSE_MS) {
        int rc = ledger_look(w->ledger, w->ops, w->n, e);
        if (rc >= 0) return rc;
        w->n = keep_ends(w, w->batch, w->n);
        list_ops(w);
        set_state(w, false, e->msg);
        if (time_is_up(w)) return rc;
        int64_t until_ms = clock_boot_ms() + wait_ms;
        for (int64_t now_ms; (now_ms = clock_boot_ms()) < until_ms && !time_is_up(w);) {
            turn_away(w);
            pthread_mutex_lock(&w->lock);
            if (!w->queue.first && !w->stopped) cond_wait_ms(w, until_ms - now_ms + 1);
            pthread_mutex_unlock(&w->lock);
        }
    }
}

/* One transaction, tried again while only others' locks are in its way. */
static int apply(struct ledger_writer *w, struct err *e)
{
    for (int tries = 0;; tries++) {
        int rc = w->n ? ledger_apply(w->ledger, w->ops, w->n, e) : 0;
        if (rc == -ERR_UNKNOWN) {
            int there = look(w, e);
            if (there > 0) return 0;
            if (there < 0) return -ERR_UNKNOWN;
        } else if (rc == -ERR_MEMORY ? tries == MEMORY_TRIES : rc != -ERR_BUSY || tries == BUSY_TRIES)
            return rc;
        else
            pause_ms(1 + rand_r(&w->random) % 10);
    }
}

/* A link that was broken is made anew, and the batch tried once more: nothing of it has happened. */
static int apply_or_revive(struct ledger_writer *w, struct err *e)
{
    struct err ignored;
    int rc = apply(w, e);
    if (rc && rc != -ERR_UNKNOWN && db_kind(w->db) == DB_POSTGRES && db_revive(w->db, &ignored) == 0) rc = apply(w, e);
    return rc;
}

static void finish(struct ledger_writer *w)
{
    pthread_mutex_lock(&w->lock);
    w->state.n_batches++;
    w->state.n_ops += w->n;
    pthread_mutex_unlock(&w->lock);
    for (size_t i = 0; i < w->n; i++) hand_back(w, w->batch[i]);
    w->n = 0;
}

/* It is an operation that breaks a rule, not the store that is away. */
static bool is_spoilt(int rc)
{
    return rc == -ERR_INTERNAL || rc == -ERR_EXISTS;
}

static int run_batch(struct ledger_writer *w);

/* One of them breaks a rule of the tables: the others are done without it. */
static int run_one_by_one(struct ledger_writer *w)
{
    struct ledger_call *all[LEDGER_MAX_BATCH];
    size_t n = w->n;
    int rc = 0;
    memcpy(all, w->batch, n * sizeof *all);
    for (size_t i = 0; i < n; i++) {
        w->batch[0] = all[i];
        w->n = 1;
        if (rc)
            put_off(w, w->batch, 1, rc);
        else
            rc = run_batch(w);
    }
    w->n = 0;
    return rc;
}

/* 0: done. Else all of it is put off, or, if a single one spoils it, that one has its error. */
static int run_batch(struct ledger_writer *w)
{
    struct err e = {0};
    list_ops(w);
    int rc = apply_or_revive(w, &e);
    if (!rc) {
        finish(w);
        return 0;
    }
    if (is_spoilt(rc) && w->n == 1) {
        log_error("accounts: an operation on request %lld cannot be done: %s", (long long)w->batch[0]->op.request, e.msg);
        w->batch[0]->op.rc = err_set(&w->batch[0]->op.err, ERR_INTERNAL, "%s", e.msg);
        finish(w);
        return 0;
    }
    if (is_spoilt(rc)) return run_one_by_one(w);
    if (rc == -ERR_BROKEN)
        set_failed(w, &e);
    else if (rc != -ERR_MEMORY)
        set_state(w, false, e.msg); /* before anybody is told that it is so */
    if (rc == -ERR_BROKEN || rc == -ERR_UNKNOWN)
        give_up(w);
    else
        put_off(w, w->batch, w->n, rc);
    w->n = 0;
    return rc == -ERR_MEMORY ? 0 : rc; /* 0: the store is there; ends are tried again in a moment */
}

static size_t take_batch(struct ledger_writer *w, struct list *from)
{
    return w->n = take_from(w, from, w->batch);
}

/* --- the journal's way into the store --- */

/* An end that cannot be done, or came after another gateway's estimate, is not lost without a word: somebody compares it with what was booked in its
 * place. One that was booked before (the process ended in between) is as it should be. */
static void tell_replayed(struct ledger_writer *w, const struct ledger_op *op, int rc, const struct err *why)
{
    struct err e;
    int64_t n = 0;
    if (rc == -ERR_NOT_FOUND)
        rc = db_number(w->db, "SELECT count(*) FROM requests WHERE id = ?1 AND outcome = 'recovered'", DB_ARGS(db_int(op->request)), 0, &n,
                       &e);
    if (rc == 0 && n == 0) return;
    log_error("accounts: request %lld cannot be ended from the journal (sale %lld nusd): %s", (long long)op->request,
              (long long)op->sale_nusd, n ? "an estimate was booked for it; see reconciliation" : why->msg);
}

static int replay(struct ledger_writer *w, struct ledger_op **ops, size_t n, struct err *e)
{
    int rc = ledger_replay(w->ledger, ops, n, e);
    if (is_spoilt(rc) && n > 1) {
        for (size_t i = 0; i < n; i++)
            if ((rc = replay(w, &ops[i], 1, e))) return rc;
        return 0;
    }
    if (rc && !is_spoilt(rc)) return rc;
    for (size_t i = 0; i < n; i++) tell_replayed(w, ops[i], rc ? rc : ops[i]->rc, rc ? e : &ops[i]->err);
    return 0;
}

/* The next entries of the journal, LEDGER_MAX_BATCH at most. One that cannot be read is told. */
static size_t read_entries(struct ledger_writer *w, size_t *at, struct journal_entry *entries, struct ledger_op **ops)
{
    struct err e;
    size_t n = 0;
    for (int rc; n < LEDGER_MAX_BATCH && (rc = journal_next(w->journal, at, &entries[n], &e));) {
        if (rc < 0)
            log_error("%s", e.msg);
        else
            ops[n] = &entries[n].op, n++;
    }
    return n;
}

/* All that the journal has. A fault leaves it as it is: what is in the store already is left alone the next time. */
static int replay_journal(struct ledger_writer *w, struct err *e)
{
    if (!w->journal || journal_count(w->journal) == 0) return 0;
    struct journal_entry *entries = calloc(LEDGER_MAX_BATCH, sizeof *entries);
    struct ledger_op *ops[LEDGER_MAX_BATCH];
    int rc = entries ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    for (size_t at = 0, n = 1; n && !rc;) {
        n = read_entries(w, &at, entries, ops);
        if (n) rc = replay(w, ops, n, e);
        for (size_t i = 0; i < n; i++) journal_entry_free(&entries[i]);
    }
    free(entries);
    if (rc) return rc;
    log_info("accounts: ends of requests booked from the journal: %zu", journal_count(w->journal));
    return journal_clear(w->journal, e);
}

/* --- the thread --- */

static int tidy(struct ledger_writer *w, struct err *e)
{
    size_t n = 0;
    int rc;
    w->tidied_ms = clock_boot_ms();
    do rc = ledger_recover(w->ledger, &n, e);
    while (!rc && n == LEDGER_MAX_BATCH);
    if (!rc) rc = ledger_forget_keys(w->ledger, &n, e);
    if (rc && rc != -ERR_BUSY) log_warn("accounts: what a run has left open cannot be ended: %s", e->msg);
    if (rc == -ERR_BROKEN) set_failed(w, e);
    return rc;
}

/* Until something is submitted, the time has come, or the end. false: the end. */
static bool wait_until(struct ledger_writer *w, int64_t until_ms)
{
    pthread_mutex_lock(&w->lock);
    int64_t now_ms;
    while (!w->queue.first && (now_ms = clock_boot_ms()) < until_ms && !(w->stopping && !w->ends.first))
        cond_wait_ms(w, until_ms - now_ms + 1);
    bool stop = w->stopping && !w->queue.first && (!w->ends.first || clock_boot_ms() >= w->stop_by_ms);
    pthread_mutex_unlock(&w->lock);
    return !stop;
}

/* Whether the store is there is asked by writing: what the journal has, the ends that wait, or that the run lives. */
static bool try_again(struct ledger_writer *w)
{
    struct err e = {0};
    int rc = db_revive(w->db, &e);
    if (!rc) rc = ledger_beat(w->ledger, &e);
    if (!rc) rc = replay_journal(w, &e);
    if (rc == -ERR_BROKEN) set_failed(w, &e);
    if (rc) {
        set_state(w, false, e.msg);
        return false;
    }
    while (w->ends.n) {
        size_t n = take_batch(w, &w->ends);
        if (run_batch(w)) return false;
        if (w->ends.n >= n) return true; /* for want of memory: later */
    }
    return true;
}

static void *writer_run(void *arg)
{
    struct ledger_writer *w = arg;
    struct err e;
    int64_t pause = 0, again_ms = 0; /* pause 0: the store is there */
    while (wait_until(w, pause ? again_ms : w->ends.n ? clock_boot_ms() + LEAST_PAUSE_MS : w->tidied_ms + LEDGER_TIDY_MS)) {
        bool failed = false;
        if (pause) {
            turn_away(w);
            if (clock_boot_ms() < again_ms) continue;
            failed = !try_again(w);
            count_waiting(w);
            if (!failed) set_state(w, true, "");
        } else {
            failed = take_batch(w, &w->queue) && run_batch(w);
            if (!failed && take_batch(w, &w->ends)) failed = run_batch(w); /* put off for want of memory */
            if (!failed && clock_boot_ms() - w->tidied_ms >= LEDGER_TIDY_MS) failed = tidy(w, &e) == -ERR_BROKEN;
            failed |= !ledger_writer_state(w).open; /* it was away for a while, and the journal has something */
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

static void open_journal(struct ledger_writer *w)
{
    struct err e;
    if (!w->o.journal || journal_open(&w->journal, w->o.journal, (size_t)w->o.most_requests + LEDGER_MAX_BATCH, &e) == 0) return;
    log_warn("%s; ends of requests wait in memory alone while the store is away", e.msg);
}

/* The journal first: recovery would end by estimates what it knows exactly. */
static int open_store(struct ledger_writer *w, struct err *e)
{
    int rc = db_open(&w->db, w->o.where, e);
    if (!rc) rc = db_settle(w->db, e);
    if (!rc) rc = ledger_open(&w->ledger, w->db, &w->o.ledger, e);
    if (rc) return rc;
    open_journal(w);
    if ((rc = replay_journal(w, e))) return rc;
    (void)tidy(w, e); /* again in LEDGER_TIDY_MS */
    return 0;
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
    int rc = open_store(w, e);
    if (!rc && pthread_create(&w->thread, NULL, writer_run, w)) rc = err_set(e, ERR_IO, "a thread cannot be started");
    if (rc)
        ledger_writer_free(w);
    else
        *out = w;
    return rc;
}

/* The thread is gone, and so is whoever else might submit. */
static void do_in_call(struct ledger_writer *w, struct ledger_call *call)
{
    w->batch[0] = call;
    w->n = 1;
    if (w->state.open)
        (void)run_batch(w);
    else
        put_off(w, w->batch, 1, -ERR_STORE);
}

void ledger_writer_submit(struct ledger_writer *w, struct ledger_call *call)
{
    pthread_mutex_lock(&w->lock);
    bool was_empty = !w->queue.first, stopped = w->stopped;
    if (!stopped) list_add(&w->queue, call);
    if (was_empty) pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    if (stopped) do_in_call(w, call);
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
    pthread_mutex_lock(&w->lock);
    w->stopped = true;
    pthread_mutex_unlock(&w->lock);
}

void ledger_writer_free(struct ledger_writer *w)
{
    if (!w) return;
    ledger_close(w->ledger);
    db_close(w->db);
    journal_close(w->journal);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
