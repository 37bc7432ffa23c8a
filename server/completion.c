/* Completion: see completion.h. The stages are in order of time; each ends by calling the next. */
#include "server/completion.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "server/admission.h"
#include "server/api/errors.h"
#include "server/charge.h"
#include "server/completion_charge.h"
#include "server/completion_fetch.h"
#include "server/completion_read.h"
#include "server/completion_route.h"
#include "server/rate_headers.h"
#include "server/route.h"
#include "server/routing/explain.h"

enum { ARENA_MAX_BYTES = 256 << 20, READ_HERE_BYTES = 8 << 10 /* whatever is in it, less than a millisecond */ };

void completion_close_tiles(struct completion *c)
{
    for (size_t i = 0; i < c->n_pictures; i++) completion_close_fd(&c->pictures[i].tiles_fd);
}

/* --- admission: how much may be under way at once --- */

static int enter(struct completion *c, int64_t owner, struct err *e)
{
    struct gateway *g = c->gateway;
    if ((int64_t)g->n_completions >= g->limits.queue_requests)
        return err_set(e, ERR_BUSY, "The server has as many requests as it may: try again.");
    memcpy(c->owner.bytes, &owner, sizeof owner);
    if (owner && !counts_enter(g->per_key, &c->owner, g->limits.streams_per_key))
        return err_set(e, ERR_RATE, "This API key has as many requests at once as it may: try again.");
    c->is_counted = owner != 0;
    g->n_completions++;
    c->next = g->completions;
    if (c->next) c->next->prev = c;
    g->completions = c;
    return 0;
}

/* Once the prompt is known: within what all models may have, and what this one reads in time. */
static int take_tokens(struct completion *c, struct err *e)
{
    struct gateway *g = c->gateway;
    int64_t n = (int64_t)c->prompt.n_ids * c->params.n;
    if (g->n_prompt_tokens && n > g->limits.queue_tokens - g->n_prompt_tokens)
        return err_set(e, ERR_BUSY, "The server has as many prompt tokens waiting as it may: try again.");
    if (!c->replica) c->replica = route_choose(c);
    int rc = admission_check_prompt(c->replica, n, c->params.n, c->deadline_ms - loop_now_ms(g->loop), &c->retry_after_s, e);
    if (rc) return rc;
    g->n_prompt_tokens += n;
    admission_enter(c->replica, c->params.n);
    c->queued_at = c->replica->queue.came;
    admission_prompt_waits(c->replica, n);
    c->admitted_ms = loop_now_ms(g->loop);
    c->counted_tokens = c->waiting_tokens = n;
    return 0;
}

static void stop_waiting(struct completion *c, bool served)
{
    if (c->waiting_tokens) admission_prompt_ends(c->replica, c->waiting_tokens, served);
    c->waiting_tokens = 0;
}

/* It is among the sequences of the other from now on. */
void completion_move(struct completion *c, struct gateway_replica *to)
{
    int64_t n = c->waiting_tokens;
    if (to == c->replica) return;
    stop_waiting(c, false);
    admission_leave(c->replica, c->params.n);
    c->replica = to;
    admission_enter(to, c->params.n);
    c->queued_at = to->queue.came;
    if (n) admission_prompt_waits(to, n);
    c->waiting_tokens = n;
}

void completion_first_token(struct completion *c)
{
    stop_waiting(c, true);
    if (c->hosted && c->model) { /* nobody else answers from now on: it may be unloaded */
        gateway_model_release(c->model);
        c->model = NULL;
    }
    if (!c->first_token_ms) c->first_token_ms = loop_now_ms(c->gateway->loop);
}

static void stop_reading(struct completion *c)
{
    if (c->reading) c->gateway->n_reading--;
    c->reading = false;
}

static void leave(struct completion *c)
{
    struct gateway *g = c->gateway;
    if (c->is_counted) counts_leave(g->per_key, &c->owner);
    g->n_completions--;
    if (c->prev)
        c->prev->next = c->next;
    else
        g->completions = c->next;
    if (c->next) c->next->prev = c->prev;
}

/* It is among a local model's sequences no longer. */
static void leave_local(struct completion *c)
{
    stop_waiting(c, false);
    if (c->admitted_ms) admission_leave(c->replica, c->params.n);
    c->admitted_ms = 0;
    c->gateway->n_prompt_tokens -= c->counted_tokens;
    c->counted_tokens = 0;
}

static void completion_free(struct loop_call *call)
{
    struct completion *c = (struct completion *)((char *)call - offsetof(struct completion, freeing));
    completion_drop_pictures(c);
    leave_local(c);
    gateway_model_release(c->model);
    hosted_release(c->hosts);
    completion_fetch_end(c);
    wire_request_free(&c->wire);
    prompt_messages_free(&c->messages);
    json_decref(c->request);
    buf_free(&c->body);
    arena_free(&c->arena);
    tariff_table_release(c->tariffs);
    leave(c);
    free(c);
}

/* Frees at the loop's next round, so that whoever is calling us still has it. */
static void completion_release(struct completion *c)
{
    if (!c->done || c->in_job || c->n_waiting || c->freeing_posted) return;
    c->freeing_posted = true;
    c->freeing.fn = completion_free;
    loop_post(c->gateway->loop, &c->freeing);
}

/* No more events and no more bytes. */
static void completion_done(struct completion *c)
{
    if (c->done) return;
    c->done = true;
    c->gateway->n_ended++;
    c->http = NULL;
    stop_reading(c);
    loop_timer_clear(c->gateway->loop, &c->comment);
    loop_timer_clear(c->gateway->loop, &c->deadline);
    completion_repeat_forget(c);
    loop_timer_clear(c->gateway->loop, &c->look);
    if (c->moving) completion_route_undo(c);
    if (c->started) c->source->stop(c);
    completion_abandon(c);
    if (c->n_fetching) completion_fetch_end(c);
    if (c->opened) c->sink->close(c);
    for (size_t i = 0; c->n_waiting && i < c->n_pictures; i++) /* none waiting: a pool thread may still be writing the list */
        if (media_pool_take_back(c->gateway->media, &c->pictures[i].call)) c->n_waiting--;
    completion_release(c);
}

static void completion_gone(void *ctx)
{
    completion_done(ctx);
}

void completion_answered(struct completion *c)
{
    completion_done(c);
}

void completion_drop(struct completion *c)
{
    if (c->http && c->headers_out) http_stream_cut(c->http);
    completion_done(c);
}

static void completion_fail(struct completion *c, const struct err *e)
{
    if (c->done) return;
    c->failed = !(e->code == ERR_DEADLINE || e->code == ERR_BUDGET || e->code == ERR_HELD);
    if (api_errors[api_error_of(e)].status >= 500) c->gateway->n_failed++;
    if (c->headers_out)
        c->sink->event(c, &(struct event){.type = EVENT_ERROR, .err = e});
    else {
        if (c->n_attempts)
            completion_tell_route(c);
        else
            rate_headers_add(c->http, c->rates);
        api_error_reply_later(c->http, api_error_of(e), e, c->retry_after_s);
    }
    completion_done(c);
}

void completion_fail_all(struct gateway *g, const struct gateway_model *m, const struct err *e)
{
    for (struct completion *c = g->completions; c; c = c->next)         /* freed later, so the list holds */
        if (!m || (!c->in_job && c->model == m && !(c->hosted && c->started))) completion_fail(c, e); /* in a job: its model is not known yet */
}

/* --- comments: a stream that waits is not silent --- */

/* Times are counted from when a comment was due, not from when its turn came: thousands of streams that wait would else gather in ever larger bunches. */
static void comment_due(void *ctx)
{
    struct completion *c = ctx;
    struct loop *l = c->gateway->loop;
    int64_t due_ms = c->comment.at_ms, now_ms = loop_now_ms(l), interval_ms = c->gateway->limits.comment_ms;
    bool early = !c->headers_out && due_ms - c->started_ms < 2 * interval_ms; /* an error can still be a plain one */
    bool silent = due_ms - c->event_ms >= interval_ms;
    if (silent && !early) {
        c->event_ms = due_ms;
        c->sink->comment(c);
    }
    int64_t next_ms = silent ? due_ms + interval_ms : c->event_ms + interval_ms;
    if (next_ms <= now_ms) next_ms = now_ms + interval_ms;
    if (!c->done && loop_timer_set(l, &c->comment, next_ms)) completion_drop(c);
}

static int comments_start(struct completion *c, struct err *e)
{
    struct loop *l = c->gateway->loop;
    c->started_ms = c->event_ms = loop_now_ms(l);
    if (!c->sink->comment) return 0;
    c->comment = (struct loop_timer){.fn = comment_due, .ctx = c};
    return loop_timer_set(l, &c->comment, c->started_ms + c->gateway->limits.comment_ms) ? err_set(e, ERR_MEMORY, "out of memory") : 0;
}

static struct completion *of_job(struct pool_job *j)
{
    return (struct completion *)((char *)j - offsetof(struct completion, job));
}

static void completion_job(struct completion *c, void (*work)(struct pool_job *j), void (*done)(struct pool_job *j))
{
    c->job.work = work;
    c->job.done = done;
    c->in_job = true;
    pool_submit(c->gateway->pool, &c->job);
}

/* Back on the loop: false if that was the end of it. */
static bool job_ended(struct completion *c)
{
    c->in_job = false;
    if (c->err.code && !c->done) completion_fail(c, &c->err);
    if (c->done) completion_release(c);
    return !c->done;
}

/* --- running --- */

static void completion_go(struct completion *c, const struct completion_choice *x);
enum { LOOK_MS = 250, LOOK_REFUSED_MS = 2000 /* the ledger is not asked all the time */ };

static void look_later(struct completion *c, int64_t ms);

static const char *served_by(const struct completion *c, char out[EXPLAIN_NAME_BYTES])
{
    struct route_candidate by = {.host = c->hosted ? c->hosted->host->host.name : "local", .model = c->hosted ? c->hosted->price->model : c->model->id};
    return explain_served_by(&by, out);
}

void completion_tell_route(struct completion *c)
{
    char served[EXPLAIN_NAME_BYTES];
    if (c->route_told) return;
    c->route_told = true;
    http_add_header(c->http, "x-spillway-served-by", served_by(c, served));
    if (c->route_text) http_add_header(c->http, "x-spillway-route", c->route_text);
    rate_headers_add(c->http, c->rates);
    c->told = arena_copy(&c->arena, served, strlen(served));
}

/* The header went out with a comment, and then somebody else answered. */
static void tell_late(struct completion *c)
{
    char served[EXPLAIN_NAME_BYTES];
    served_by(c, served);
    if (c->headers_out && c->told && strcmp(c->told, served) != 0) c->usage.served_by = arena_copy(&c->arena, served, strlen(served));
}

/* c->chosen is granted: from now on it is the one. What one before it has told is not its usage. */
static void take_next(struct completion *c)
{
    c->hosted = c->chosen.hosted;
    c->bill = c->chosen.bill;
    c->source = c->hosted ? &source_hosted : &source_local;
    c->attempt = c->n_attempts - 1;
    c->usage = (struct usage_told){.prompt_tokens = c->model && !c->local_cannot.code ? (int64_t)c->prompt.n_ids : 0};
}

/* What an attempt before this one has told is nobody's, as long as nothing of it is out. */
static int open_sink(struct completion *c, struct err *e)
{
    const bool first = !c->sink;
    if (c->opened && c->headers_out) return 0;
    if (c->opened) c->sink->close(c);
    c->sink = c->params.stream ? &sink_chat_sse : &sink_chat_json;
    int rc = c->sink->open(c, e);
    c->opened = rc == 0;
    return rc || !first ? rc : comments_start(c, e);
}

static int start_source(struct completion *c, struct err *e)
{
    int rc = open_sink(c, e);
    if (!rc) rc = c->source->start(c, e);
    c->started = rc == 0;
    if (c->hosted) c->wired = NULL; /* it has been taken */
    if (!rc && !c->hosted) look_later(c, LOOK_MS);
    return rc;
}

/* c->chosen begins. What has changed since it was chosen (its key, its breaker) is a reason to ask another. */
static void begin_attempt(struct completion *c)
{
    struct completion_choice x;
    struct err e;
    take_next(c);
    if (start_source(c, &e) == 0) return;
    if (c->opened && c->hosted && c->n_attempts < LEDGER_MAX_ATTEMPTS && completion_route_cannot(c, &x, &e) == 0) {
        c->attempt_err = e;
        completion_go(c, &x);
    } else
        completion_fail(c, &e);
}

/* What c->chosen may cost is held, or the ledger has said why not. */
static void completion_start(struct completion *c, int rc, const struct err *why)
{
    struct completion_choice x;
    struct err e = *why;
    const bool hosted = c->chosen.hosted != NULL;
    if (rc && c->n_attempts) /* one more attempt is not covered: what the first one said is told */
        e = c->attempt_err;
    else if (rc && hosted && completion_route_refused(c, &x, why) == 0) {
        completion_go(c, &x);
        return;
    }
    if (rc)
        completion_fail(c, &e);
    else
        begin_attempt(c);
}

static void completion_go_hosted(struct completion *c)
{
    log_request(LOG_DEBUG, http_request_id(c->http), "model %s: provider %s, at most %lld prompt tokens and %lld of the answer", c->model_name,
                c->chosen.hosted->host->host.name, (long long)c->chosen.bill->prompt_most, (long long)c->chosen.bill->max_tokens);
    stop_reading(c);
    completion_cover(c, completion_start);
}

static void encode_work(struct pool_job *j)
{
    struct completion *c = of_job(j);
    if (completion_encode(c, c->chosen.hosted, c->chosen.bill, &c->err) == 0) c->err.code = ERR_NONE;
}

static void encode_done(struct pool_job *j)
{
    struct completion *c = of_job(j);
    struct completion_choice x;
    c->in_job = false;
    if (!c->done && c->err.code && completion_route_cannot(c, &x, &c->err) == 0) {
        c->err.code = ERR_NONE;
        completion_go(c, &x);
        return;
    }
    if (job_ended(c)) completion_go_hosted(c);
}

static void completion_go_local(struct completion *c)
{
    struct err e = {0};
    log_request(LOG_DEBUG, http_request_id(c->http), "model %s: %zu prompt tokens, %zu pictures, at most %u tokens", c->model->id,
                c->prompt.n_ids, c->n_pictures, c->max_tokens);
    stop_reading(c);
    if (take_tokens(c, &e))
        completion_fail(c, c->n_attempts ? &c->attempt_err : &e);
    else
        completion_cover(c, completion_start);
}

/* Another local model than the one that has read the prompt. */
static void switch_work(struct pool_job *j)
{
    struct completion *c = of_job(j);
    if (completion_read_again(c, &c->err) == 0) c->err.code = ERR_NONE;
}

static void read_ended(struct completion *c);

/* It cannot take it either. Each local model is found to be so once. */
static void switch_failed(struct completion *c)
{
    struct completion_choice x;
    const struct err why = c->local_cannot;
    if (completion_route_cannot(c, &x, &why) == 0)
        completion_go(c, &x);
    else
        completion_fail(c, c->n_attempts ? &c->attempt_err : &why);
}

static void switch_done(struct pool_job *j)
{
    struct completion *c = of_job(j);
    if (!job_ended(c)) return;
    if (c->local_cannot.code)
        switch_failed(c);
    else
        read_ended(c);
}

static void completion_switch(struct completion *c, struct gateway_model *to)
{
    struct err e = {0};
    struct gateway_model *from = c->model;
    c->model = NULL;
    if (gateway_model_hold(c->gateway, to->id, strlen(to->id), &c->model, &e)) {
        c->model = from;
        completion_fail(c, &e);
        return;
    }
    gateway_model_release(from);
    completion_drop_pictures(c);
    prompt_messages_free(&c->messages);
    c->replica = NULL;
    c->local_cannot.code = ERR_NONE;
    c->max_context = c->model->max_context;
    c->switched = true;
    completion_job(c, switch_work, switch_done);
}

static void completion_go(struct completion *c, const struct completion_choice *x)
{
    c->chosen = *x;
    if (!x->hosted && (x->local != c->model || c->local_cannot.code))
        completion_switch(c, x->local);
    else if (!x->hosted)
        completion_go_local(c);
    else if (c->wired == x->hosted)
        completion_go_hosted(c);
    else {
        wire_request_free(&c->wire);
        c->wired = NULL;
        completion_job(c, encode_work, encode_done);
    }
}

/* --- one more attempt, before the first token --- */

static void leave_source(struct completion *c)
{
    if (c->started) c->source->stop(c);
    c->started = false;
    loop_timer_clear(c->gateway->loop, &c->look);
    if (!c->hosted) leave_local(c);
}

static void retry_due(void *ctx)
{
    struct completion *c = ctx;
    struct completion_choice same = c->chosen;
    completion_go(c, &same);
}

/* false: nobody else takes it. */
static bool completion_retry(struct completion *c, const struct event *ev)
{
    struct completion_choice x;
    struct loop *l = c->gateway->loop;
    c->attempt_err = *ev->err;
    if (c->moving) { /* it is on its way already */
        leave_source(c);
        return true;
    }
    if (c->n_attempts == LEDGER_MAX_ATTEMPTS || c->settling || (c->charge && charge_is_busy(c->charge))) return false;
    enum retry_action action = completion_route_failed(c, ev->fault, ev->hint_ms, &x);
    if (action == RETRY_NO) return false;
    log_request(LOG_INFO, http_request_id(c->http), "model %s: an attempt has failed (%s), %s", c->model_name, ev->err->msg,
                action == RETRY_OTHER_HOST ? "another takes it" : "it is made once more");
    leave_source(c);
    c->retry_after_s = 0;
    c->chosen = x;
    if (action != RETRY_WAIT)
        completion_go(c, &x);
    else {
        c->look = (struct loop_timer){.fn = retry_due, .ctx = c};
        if (loop_timer_set(l, &c->look, loop_now_ms(l) + ev->hint_ms)) completion_fail(c, ev->err);
    }
    return true;
}

/* --- a second look, while it waits in a local queue --- */

static void moved(struct completion *c, int rc, const struct err *why)
{
    (void)why;
    c->moving = false;
    if (rc || c->first_token_ms) { /* it stays; or what it was in is gone meanwhile */
        completion_route_undo(c);
        if (!c->started)
            completion_fail(c, &c->attempt_err);
        else if (!c->first_token_ms)
            look_later(c, LOOK_REFUSED_MS);
        return;
    }
    completion_route_moved(c);
    leave_source(c);
    begin_attempt(c);
}

static void move_encoded(struct pool_job *j)
{
    struct completion *c = of_job(j);
    const struct err why = c->err;
    c->in_job = false;
    c->err.code = ERR_NONE; /* it goes on waiting */
    if (c->done)
        completion_release(c);
    else if (why.code || c->first_token_ms)
        moved(c, -(int)why.code, &why);
    else
        completion_cover(c, moved);
}

static void look(void *ctx)
{
    struct completion *c = ctx;
    if (c->done || c->first_token_ms || c->moving || c->settling) return;
    if (c->in_job || (c->charge && charge_is_busy(c->charge)) || !completion_route_again(c, &c->chosen)) {
        look_later(c, LOOK_MS);
        return;
    }
    c->moving = true;
    if (c->wired == c->chosen.hosted) {
        completion_cover(c, moved);
        return;
    }
    wire_request_free(&c->wire);
    c->wired = NULL;
    completion_job(c, encode_work, move_encoded);
}

static void look_later(struct completion *c, int64_t ms)
{
    struct loop *l = c->gateway->loop;
    if (!completion_route_has_hosted(c) || c->n_attempts == LEDGER_MAX_ATTEMPTS) return;
    c->look = (struct loop_timer){.fn = look, .ctx = c};
    (void)!loop_timer_set(l, &c->look, loop_now_ms(l) + ms); /* without memory it stays where it is */
}

/* --- routing --- */

/* As long as the local model has room for. */
static int fit_answer(struct completion *c, struct err *e)
{
    CHECK(c->prompt.n_ids < c->max_context); /* prompt_from_messages refuses the rest */
    uint32_t room = c->max_context - (uint32_t)c->prompt.n_ids;
    if (c->params.min_tokens > room)
        return err_set_param(e, ERR_INPUT, "min_tokens", "min_tokens is %lld, but the context has room for %u after the prompt.",
                             (long long)c->params.min_tokens, room);
    int64_t asked = c->params.max_completion_tokens ? c->params.max_completion_tokens : c->params.max_tokens;
    if (asked == 0) asked = c->params.min_tokens > c->default_max_tokens ? c->params.min_tokens : c->default_max_tokens;
    c->max_tokens = asked < room ? (uint32_t)asked : room;
    c->usage.prompt_tokens = (int64_t)c->prompt.n_ids;
    c->seed = (uint64_t)c->params.seed;
    if (!c->params.has_seed) randombytes_buf(&c->seed, sizeof c->seed);
    return 0;
}

static void reply_route(struct completion *c)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    struct err e;
    if (completion_route_explain(c, &b)) {
        err_set(&e, ERR_MEMORY, "out of memory");
        completion_fail(c, &e);
    } else {
        http_reply(c->http, 200, "application/json", b.data, b.len);
        completion_done(c);
    }
    buf_free(&b);
}

static void completion_run(struct completion *c)
{
    struct err e = {0};
    struct completion_choice x = {.local = c->model, .supplier = c->model ? c->model->supplier : 0};
    if (c->model && !c->local_cannot.code && fit_answer(c, &e)) {
        if (!completion_route_has_hosted(c)) {
            completion_fail(c, &e);
            return;
        }
        completion_give_up_local(c, &e);
        if (c->switched) {
            switch_failed(c);
            return;
        }
    }
    if (!c->switched && completion_route(c, &x, &e))
        completion_fail(c, &e);
    else if (c->dry)
        reply_route(c);
    else
        completion_go(c, &x);
}

/* --- pictures --- */

static void call_pictures(struct completion *c, enum media_call call, void (*done)(struct media_call_state *s, struct media_reply *reply))
{
    c->n_waiting = c->n_pictures; /* all first: an answer may come inside the call */
    for (size_t i = 0; i < c->n_pictures; i++) {
        struct picture *p = &c->pictures[i];
        if (c->done) { /* failed by one before it */
            c->n_waiting--;
            continue;
        }
        p->call = (struct media_call_state){.request = {.call = call,
                                                        .image_fd = p->bytes_fd,
                                                        .settings = prompt_model_info(c->model->prompt)->images,
                                                        .detail_low = c->messages.images[i].detail_low},
                                            .n_bytes = p->n_bytes,
                                            .done = done,
                                            .ctx = c};
        media_pool_call(c->gateway->media, &p->call);
    }
    completion_release(c);
}

/* false: this was not the last picture, or there was an error. */
static bool picture_ended(struct completion *c, const struct media_call_state *s, const struct media_reply *reply)
{
    c->n_waiting--;
    size_t i = (size_t)((const struct picture *)(const void *)((const char *)s - offsetof(struct picture, call)) - c->pictures);
    if (reply->err.code && !c->done) {
        struct err e = reply->err;
        if (api_errors[api_error_of(&e)].status == 400) snprintf(e.param, sizeof e.param, "%s", c->messages.images[i].param);
        completion_fail(c, &e);
    }
    if (c->done) completion_release(c);
    return !c->done && c->n_waiting == 0;
}

static struct picture *of_call(struct media_call_state *s)
{
    return (struct picture *)((char *)s - offsetof(struct picture, call));
}

static void picture_decoded(struct media_call_state *s, struct media_reply *reply)
{
    struct completion *c = s->ctx;
    struct picture *p = of_call(s);
    size_t i = (size_t)(p - c->pictures);
    completion_close_fd(&p->bytes_fd); /* read for the last time: what is in it would be held until the answer's end */
    if (!reply->err.code) {
        p->tiles_fd = reply->tiles_fd;
        p->n_tiles = reply->n_tiles;
        size_t n_bytes = (size_t)reply->n_tiles * sizeof *p->hash;
        p->hash = c->done ? NULL : arena_alloc(&c->arena, n_bytes);
        if (p->hash)
            memcpy(p->hash, reply->hash, n_bytes);
        else if (!c->done)
            err_set(&reply->err, ERR_MEMORY, "out of memory");
        if (reply->n_tiles != c->grids[i].n_tiles)
            err_set(&reply->err, ERR_INTERNAL, "a picture has %d tiles, probed were %d", reply->n_tiles, c->grids[i].n_tiles);
    }
    if (picture_ended(c, s, reply)) completion_run(c);
}

static void prompt_work(struct pool_job *j)
{
    struct completion *c = of_job(j);
    if (completion_make_prompt(c, &c->err) == 0) c->err.code = ERR_NONE;
}

static void prompt_done(struct pool_job *j)
{
    struct completion *c = of_job(j);
    bool elsewhere = !c->done && completion_is_for_others(c, -(int)c->err.code);
    if (elsewhere) {
        completion_give_up_local(c, &c->err);
        c->err.code = ERR_NONE;
    }
    if (!job_ended(c)) return;
    if (elsewhere && c->switched)
        switch_failed(c);
    else if (elsewhere || c->dry)
        completion_run(c);
    else
        call_pictures(c, MEDIA_DECODE, picture_decoded);
}

/* Each picture is within its own limit; all of them together are held as tiles until the worker has them. */
static int check_pixels(const struct completion *c, struct err *e)
{
    int64_t limit = c->limits.images_pixels, sum = 0;
    for (size_t i = 0; i < c->n_pictures; i++) sum += (int64_t)c->grids[i].width * c->grids[i].height; /* 20 x 2^32 at most */
    if (sum <= limit) return 0;
    return err_set_param(e, ERR_LIMIT, "messages", "The request's pictures have %lld pixels together; the limit is %lld.", (long long)sum,
                         (long long)limit);
}

static void picture_probed(struct media_call_state *s, struct media_reply *reply)
{
    struct completion *c = s->ctx;
    size_t i = (size_t)(of_call(s) - c->pictures);
    if (!reply->err.code) c->grids[i] = reply->grid;
    if (!picture_ended(c, s, reply)) return;
    struct err e;
    if (check_pixels(c, &e))
        completion_fail(c, &e);
    else
        completion_job(c, prompt_work, prompt_done);
}

static void read_work(struct pool_job *j)
{
    struct completion *c = of_job(j);
    if (completion_read(c, &c->err) == 0) c->err.code = ERR_NONE;
}

static void read_ended(struct completion *c)
{
    if (c->n_pictures)
        call_pictures(c, MEDIA_PROBE, picture_probed);
    else
        completion_run(c);
}

static void read_done(struct pool_job *j);

static void fetches_done(struct completion *c, const struct err *why)
{
    if (why)
        completion_fail(c, why);
    else
        completion_job(c, read_work, read_done);
}

static void fetch_pictures(struct completion *c)
{
    struct err e;
    if (completion_fetch(c, fetches_done, &e)) completion_fail(c, &e);
}

/* It is no repetition. */
static void read_on(struct completion *c)
{
    if (c->n_fetches && !c->fetches_done)
        fetch_pictures(c);
    else
        read_ended(c);
}

static void read_done(struct pool_job *j)
{
    struct completion *c = of_job(j);
    if (job_ended(c)) completion_repeat_ask(c, read_on);
}

/* On the loop: reading a small request takes less than handing it to a thread and back. A local model's prompt is made by a thread all the same. */
static void read_here(struct completion *c)
{
    struct err e;
    int rc = completion_read_name(c, &e);
    if (!rc && !c->n_fetches && c->model) {
        completion_job(c, read_work, read_done);
        return;
    }
    if (!rc && !c->n_fetches) rc = completion_read_rest(c, &e);
    if (rc)
        completion_fail(c, &e);
    else
        completion_repeat_ask(c, read_on);
}

/* --- deadline --- */

static void deadline_passed(void *ctx)
{
    struct err e;
    err_set(&e, ERR_DEADLINE, "The request's time is up.");
    completion_fail(ctx, &e);
}

/* The client's, lowered to ours; both count from when the header was whole. */
static int deadline_read(const struct http_request *r, const struct limits *l, int64_t *ms, struct err *e)
{
    const char *given = http_header(r, "x-request-timeout-ms");
    *ms = l->request_ms;
    if (!given) return 0;
    int64_t asked;
    if (!str_parse_int64(given, 1, INT64_MAX, &asked))
        return err_set_param(e, ERR_INPUT, "X-Request-Timeout-Ms",
                             "X-Request-Timeout-Ms must be a whole number of milliseconds, at least 1.");
    if (asked < *ms) *ms = asked;
    return 0;
}

static void deadline_start(struct completion *c, int64_t ms)
{
    int64_t now_ms = loop_now_ms(c->gateway->loop);
    c->deadline_ms = now_ms - http_age_ms(c->http) + ms;
    if (c->deadline_ms < now_ms) c->deadline_ms = now_ms;
    c->deadline = (struct loop_timer){.fn = deadline_passed, .ctx = c};
    CHECK(loop_timer_set(c->gateway->loop, &c->deadline, c->deadline_ms) == 0);
}

static uint32_t longest_context(const struct gateway *g)
{
    uint32_t n = g->hosted ? g->hosted->longest_context : 0;
    for (size_t i = 0; i < g->n_models; i++)
        if (g->models[i]->max_context > n) n = g->models[i]->max_context;
    return n;
}

void completion_begin(struct gateway *g, struct http_request *r, bool dry)
{
    struct completion *c = calloc(1, sizeof *c);
    if (!c) {
        struct err e;
        err_set(&e, ERR_MEMORY, "The server is out of memory: try again.");
        api_error_reply(r, API_QUEUE_FULL, &e);
        return;
    }
    struct err e;
    int64_t timeout_ms;
    c->gateway = g;
    c->account = http_owner(r);
    int rc = deadline_read(r, &g->limits, &timeout_ms, &e), retry_after_s = 0;
    if (!rc && !dry && !completion_may_spill(g)) rc = admission_check_any(g, &retry_after_s, &e);
    if (!rc) {
        rc = enter(c, c->account, &e);
        if (rc == -ERR_BUSY) retry_after_s = admission_retry_s(admission_wait_ms(g));
    }
    if (rc) {
        api_error_reply_later(r, api_error_of(&e), &e, retry_after_s);
        free(c);
        return;
    }
    c->http = r;
    c->dry = dry;
    c->reading = true;
    g->n_reading++;
    c->limits = g->limits;
    c->default_max_tokens = g->default_max_tokens;
    c->longest_context = longest_context(g);
    c->tariffs = tariff_table_hold(g->tariffs);
    c->created_s = clock_wall_s();
    arena_init(&c->arena, ARENA_MAX_BYTES);
    unsigned char bytes[12];
    randombytes_buf(bytes, sizeof bytes);
    memcpy(c->id, "chatcmpl-", 9);
    sodium_bin2hex(c->id + 9, sizeof c->id - 9, bytes, sizeof bytes);
    http_take_body(r, &c->body);
    http_on_gone(r, completion_gone, c);
    completion_route_begin(c);
    deadline_start(c, timeout_ms);
    if (completion_repeat_begin(c, &e)) {
        completion_fail(c, &e);
        return;
    }
    if (g->hosted && c->body.len <= READ_HERE_BYTES)
        read_here(c);
    else
        completion_job(c, read_work, read_done);
}

/* --- events --- */

static void settle_overdue(void *ctx)
{
    struct err e;
    err_set(&e, ERR_STORE, "the store does not take the answer's end");
    completion_fail(ctx, &e);
}

/* A store that is away would have the client wait for as long. */
static void settle_in_time(struct completion *c)
{
    int64_t at_ms = loop_now_ms(c->gateway->loop) + c->limits.settle_ms;
    if (at_ms >= c->deadline_ms) return;
    loop_timer_clear(c->gateway->loop, &c->deadline);
    c->deadline.fn = settle_overdue;
    CHECK(loop_timer_set(c->gateway->loop, &c->deadline, at_ms) == 0);
}

/* What the client is told of its usage is durable. */
static void completion_finish(struct completion *c, int rc, const struct err *e)
{
    c->settling = false; /* the sink may still fail */
    if (rc) {
        completion_fail(c, e);
        return;
    }
    completion_route_stick(c);
    tell_late(c);
    c->sink->event(c, &(struct event){.type = EVENT_USAGE, .usage = c->usage});
    completion_done(c);
}

void completion_event(struct completion *c, const struct event *ev)
{
    if (c->done || c->settling) return;
    c->event_ms = loop_now_ms(c->gateway->loop);
    if (ev->type == EVENT_ERROR) {
        bool again = ev->fault && !c->first_token_ms && completion_retry(c, ev);
        if (!again) completion_fail(c, ev->err);
        return;
    }
    c->sink->event(c, ev);
    if (c->done || ev->type != EVENT_FINISH || ++c->n_finished < (size_t)c->params.n) return;
    if (c->first_token_ms && c->admitted_ms) admission_answer_ends(c->replica, c->event_ms - c->first_token_ms, c->event_ms - c->admitted_ms);
    settle_in_time(c);
    if (c->moving) completion_route_undo(c); /* it has been answered where it was */
    completion_settle(c, completion_finish);
}
