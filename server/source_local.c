/* Local source: a worker of the model. One sequence a choice; ids become text here, stop strings are matched here.
 *
 * Tokens count up to the one that completes a stop string; what the worker made after it is neither sent nor counted.
 * Logprobs are sent with the text of their token: held back with it while it may still become a stop string. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "server/completion.h"
#include "server/route.h"

struct held_logprob {
    size_t start, end; /* of the token's text in all text of the choice */
    uint32_t n_top;
    struct frame_logprob chosen, top[FRAME_MAX_TOP];
};

struct local_choice {
    struct worker_sequence sequence;
    struct completion *owner;
    uint32_t index;
    bool finished;
    struct detok detok;
    struct stop_match stop;
    struct buf piece, text; /* one token's text; what may be shown now */
    size_t made_bytes, shown_bytes;
    int64_t n_tokens;
    uint32_t cached_tokens; /* of the prompt, as far as was told */
    struct held_logprob *held;
    size_t n_held, cap_held;
};

struct local {
    struct quarantine_ticket ticket;
    struct completion *owner;
    struct frame_submit submit; /* its lists are in the arena */
    struct local *prev, *next;  /* of the model's list, while it waits for the worker */
    struct loop_timer patience;
    bool waiting;
    size_t n, n_well; /* well: ended as they should */
    struct local_choice choices[CHAT_MAX_CHOICES];
};

enum { TEXT_MAX_BYTES = 1 << 20 };

/* Only a worker that is gone is no reason for others not to try. */
static enum fault fault_of_err(const struct err *e)
{
    return e->code == ERR_GONE ? FAULT_BROKEN : FAULT_NONE;
}

static void fail(struct completion *c, enum err_code code, const char *message)
{
    struct err e;
    err_set(&e, code, "%s", message);
    completion_event(c, &(struct event){.type = EVENT_ERROR, .err = &e, .fault = fault_of_err(&e)});
}

static struct event_token event_token(const struct tokenizer *t, const struct frame_logprob *p)
{
    struct event_token out = {.logprob = p->logprob};
    out.bytes = tokenizer_bytes(t, p->token, &out.n_bytes);
    return out;
}

static int hold_logprob(struct local_choice *ch, const struct frame_logprob *p, uint32_t n_top, size_t start)
{
    if (n_top > FRAME_MAX_TOP) n_top = FRAME_MAX_TOP;
    if (ch->n_held == ch->cap_held) {
        size_t cap = ch->cap_held ? 2 * ch->cap_held : 8;
        struct held_logprob *held = realloc(ch->held, cap * sizeof *held);
        if (!held) return -ERR_MEMORY;
        ch->held = held;
        ch->cap_held = cap;
    }
    struct held_logprob *h = &ch->held[ch->n_held++];
    *h = (struct held_logprob){.start = start, .end = ch->made_bytes, .n_top = n_top, .chosen = p[0]};
    memcpy(h->top, p + 1, n_top * sizeof *h->top);
    return 0;
}

/* How many of the held logprobs belong to text that is shown now. At a stop string: also the token that straddles it;
 * at another end: all. */
static size_t logprobs_due(const struct local_choice *ch, bool ending)
{
    size_t n = 0;
    while (n < ch->n_held) {
        const struct held_logprob *h = &ch->held[n];
        bool due = ending ? !ch->stop.matched || h->start < ch->shown_bytes : h->end <= ch->shown_bytes;
        if (!due) break;
        n++;
    }
    return n;
}

/* Sends ch->text and the logprobs that go with it. false: the completion is done. */
static bool send_delta(struct local_choice *ch, bool ending)
{
    struct completion *c = ch->owner;
    const struct tokenizer *t = prompt_model_info(c->model->prompt)->tokenizer;
    ch->shown_bytes += ch->text.len;
    size_t n = logprobs_due(ch, ending);
    if (ch->text.len == 0 && n == 0) return true;
    struct event ev = {.type = EVENT_DELTA, .choice = ch->index, .text = ch->text.data, .n_text = ch->text.len};
    struct event_logprob *out = n ? calloc(n, sizeof *out) : NULL;
    struct event_token *tops = n ? calloc(n, FRAME_MAX_TOP * sizeof *tops) : NULL;
    if (n && (!out || !tops)) fail(c, ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < n && out && tops; i++) {
        const struct held_logprob *h = &ch->held[i];
        struct event_token *top = tops + i * FRAME_MAX_TOP;
        for (uint32_t j = 0; j < h->n_top; j++) top[j] = event_token(t, &h->top[j]);
        out[i] = (struct event_logprob){.token = event_token(t, &h->chosen), .top = top, .n_top = h->n_top};
    }
    ev.logprobs = out;
    ev.n_logprobs = n;
    completion_event(c, &ev);
    free(out);
    free(tops);
    if (c->done) return false; /* local_stop has emptied the choice */
    ch->n_held -= n;
    if (n) memmove(ch->held, ch->held + n, ch->n_held * sizeof *ch->held);
    buf_clear(&ch->text);
    return true;
}

/* One token's text through the stop strings. 1: a stop string is complete. */
static int take_text(struct local_choice *ch)
{
    ch->made_bytes += ch->piece.len;
    int rc;
    if (ch->n_tokens < ch->owner->params.min_tokens)
        rc = buf_append(&ch->text, ch->piece.data, ch->piece.len);
    else
        rc = stop_match_push(&ch->stop, ch->piece.data, ch->piece.len, &ch->text);
    buf_clear(&ch->piece);
    return rc;
}

static int take_tokens(struct local_choice *ch, const struct frame_step_row *row)
{
    struct completion *c = ch->owner;
    const struct tokenizer *t = prompt_model_info(c->model->prompt)->tokenizer;
    for (uint32_t i = 0; i < row->n_tokens; i++) {
        size_t start = ch->made_bytes;
        int rc = detok_push(&ch->detok, t, row->tokens[i], true, &ch->piece);
        if (rc) return rc;
        ch->n_tokens++;
        c->usage.completion_tokens++;
        int stopped = take_text(ch);
        if (stopped < 0) return stopped;
        if (c->params.logprobs && row->logprobs) rc = hold_logprob(ch, row->logprobs + (size_t)i * (1 + row->n_top), row->n_top, start);
        if (rc) return rc;
        if (stopped) return 1;
    }
    return 0;
}

static void finish(struct local_choice *ch, enum finish_reason reason)
{
    struct local *l = ch->owner->source_state;
    struct usage_told *u = &ch->owner->usage;
    ch->finished = true;
    /* The prompt is counted once, whatever n is: what some choice had to compute was not cached, though the others found it then. */
    if (l->n_well++ == 0 || ch->cached_tokens < u->cached_tokens) u->cached_tokens = ch->cached_tokens;
    if (send_delta(ch, true)) completion_event(ch->owner, &(struct event){.type = EVENT_FINISH, .choice = ch->index, .finish = reason});
}

/* What a worker may fail a request for. The rest (keys, routes, quarantine) is not its business: a client would be told a lie. */
static const bool worker_errors[ERR_CODES] = {
    [ERR_INPUT] = true,  [ERR_UNSUPPORTED] = true, [ERR_LIMIT] = true, [ERR_CONTEXT] = true, [ERR_BUSY] = true,
    [ERR_MEMORY] = true, [ERR_NUMERIC] = true,     [ERR_GONE] = true,  [ERR_IO] = true,      [ERR_INTERNAL] = true};

/* The worker ended the sequence by itself: half characters and held text come out. */
static void take_end(struct local_choice *ch, const struct frame_step_row *row)
{
    struct completion *c = ch->owner;
    if (row->finish == FINISH_ERROR) {
        struct err e = row->err;
        if ((unsigned)e.code >= ERR_CODES || !worker_errors[e.code]) e.code = ERR_INTERNAL;
        completion_event(c, &(struct event){.type = EVENT_ERROR, .err = &e});
        return;
    }
    if (row->finish == FINISH_CANCELLED) {
        if (loop_now_ms(c->gateway->loop) >= c->deadline_ms)
            fail(c, ERR_DEADLINE, "The request's time is up.");
        else
            fail(c, ERR_GONE, "the worker gave the request up before its time");
        return;
    }
    int rc = detok_flush(&ch->detok, &ch->piece);
    if (!rc) rc = take_text(ch);
    bool stopped = rc == 1;
    if (rc >= 0) rc = stop_match_flush(&ch->stop, &ch->text);
    if (rc < 0)
        fail(c, ERR_INTERNAL, "the text of a step does not fit");
    else
        finish(ch, stopped ? FINISH_STOP : row->finish);
}

static void choice_row(struct worker_sequence *s, const struct frame_step_row *row)
{
    struct local_choice *ch = (struct local_choice *)s;
    struct completion *c = ch->owner;
    if (ch->finished || c->done) return;
    completion_first_token(c);
    if (row->cached_tokens > ch->cached_tokens && row->cached_tokens <= c->usage.prompt_tokens) ch->cached_tokens = row->cached_tokens;
    struct frame_step_row paid = *row;
    paid.n_tokens = completion_hold_covers(c, row->n_tokens);
    if (paid.n_tokens < row->n_tokens) paid.finish = FINISH_NONE;
    int rc = take_tokens(ch, &paid);
    if (rc < 0)
        fail(c, ERR_INTERNAL, "the text of a step does not fit");
    else if (rc == 1) {
        worker_cancel(c->replica->worker, s);
        finish(ch, FINISH_STOP);
    } else if (paid.finish != FINISH_NONE)
        take_end(ch, row);
    else if (send_delta(ch, false) && paid.n_tokens < row->n_tokens)
        completion_hold_end(c);
}

static void choice_down(struct worker_sequence *s, const struct err *why)
{
    struct completion *c = ((struct local_choice *)s)->owner;
    struct local *l = c->source_state;
    uint64_t which = (uint64_t)(c->replica - c->model->replicas); /* a death's number is unique among all workers of the model */
    quarantine_died(c->model->quarantine, &l->ticket, worker_deaths(c->replica->worker) * GATEWAY_MAX_REPLICAS + which);
    completion_event(c, &(struct event){.type = EVENT_ERROR, .err = why, .fault = FAULT_BROKEN});
}

/* All pictures' tiles in prompt order; the memfds are shared by all choices. */
static int gather_tiles(struct completion *c, struct frame_submit *f, struct err *e)
{
    if (c->n_pictures == 0) return 0;
    struct frame_tile *tiles = arena_array(&c->arena, c->prompt.n_tiles, sizeof *tiles);
    int *fds = arena_array(&c->arena, c->n_pictures, sizeof *fds);
    if (!tiles || !fds) return err_set(e, ERR_MEMORY, "out of memory");
    size_t n = 0;
    for (size_t i = 0; i < c->n_pictures; i++) {
        fds[i] = c->pictures[i].tiles_fd;
        for (int j = 0; j < c->pictures[i].n_tiles && n < c->prompt.n_tiles; j++, n++) {
            tiles[n] = (struct frame_tile){.fd_index = (uint32_t)i, .tile_index = (uint32_t)j};
            memcpy(tiles[n].hash, c->pictures[i].hash[j], sizeof tiles[n].hash);
        }
    }
    f->tiles = tiles;
    f->n_tiles = (uint32_t)n;
    f->fds = fds;
    f->n_fds = (uint32_t)c->n_pictures;
    return 0;
}

static void fill_submit(const struct completion *c, struct frame_submit *f)
{
    const struct chat_params *p = &c->params;
    const struct prompt_info *info = prompt_model_info(c->model->prompt);
    struct accounts_share share = {.weight = 1};
    if (c->gateway->accounts && c->account) share = accounts_key_share(c->gateway->accounts, c->account);
    *f = (struct frame_submit){.account = (uint64_t)c->account,
                               .weight = share.weight,
                               .priority = share.priority,
                               .deadline_ms = c->deadline_ms,
                               .ids = c->prompt.ids,
                               .n_ids = (uint32_t)c->prompt.n_ids,
                               .eos = info->eos,
                               .n_eos = info->n_eos,
                               .banned = info->banned,
                               .n_banned = info->n_banned,
                               .bias = p->bias,
                               .n_bias = p->n_bias};
    f->sampling = (struct frame_sampling){.temperature = (float)p->temperature,
                                          .top_p = (float)p->top_p,
                                          .min_p = (float)p->min_p,
                                          .top_k = p->top_k < 0 ? 0 : (int32_t)p->top_k,
                                          .frequency_penalty = (float)p->frequency_penalty,
                                          .presence_penalty = (float)p->presence_penalty,
                                          .repetition_penalty = (float)p->repetition_penalty,
                                          .seed = c->seed,
                                          .top_logprobs = p->logprobs ? (int32_t)p->top_logprobs : -1,
                                          .max_tokens = c->max_tokens,
                                          .min_tokens = p->min_tokens < c->max_tokens ? (uint32_t)p->min_tokens : c->max_tokens,
                                          .ignore_eos = p->ignore_eos};
}

static void wait_end(struct local *l);

/* Of an answer that is cut, as finish() does of a whole one. */
static void count_cached(const struct local *l, struct usage_told *u)
{
    for (size_t i = 0; i < l->n && l->n_well == 0; i++)
        if (i == 0 || l->choices[i].cached_tokens < u->cached_tokens) u->cached_tokens = l->choices[i].cached_tokens;
}

static void local_stop(struct completion *c)
{
    struct local *l = c->source_state;
    wait_end(l);
    count_cached(l, &c->usage);
    for (size_t i = 0; i < l->n; i++) {
        struct local_choice *ch = &l->choices[i];
        worker_cancel(c->replica->worker, &ch->sequence);
        stop_match_free(&ch->stop);
        buf_free(&ch->piece);
        buf_free(&ch->text);
        free(ch->held);
        *ch = (struct local_choice){.finished = true};
    }
    l->n = 0;
    quarantine_leave(c->model->quarantine, &l->ticket, l->n_well == (size_t)c->params.n);
}

static int submit_choices(struct local *l, struct err *e)
{
    struct completion *c = l->owner;
    int rc = 0;
    for (int64_t i = 0; i < c->params.n && !rc; i++) {
        struct local_choice *ch = &l->choices[l->n++];
        *ch = (struct local_choice){.sequence = {.row = choice_row, .down = choice_down}, .owner = c, .index = (uint32_t)i};
        stop_match_init(&ch->stop, c->params.stops, c->params.n_stops);
        buf_init(&ch->piece, TEXT_MAX_BYTES);
        buf_init(&ch->text, TEXT_MAX_BYTES);
        l->submit.sampling.choice = (uint32_t)i;
        rc = worker_submit(c->replica->worker, &ch->sequence, &l->submit, e);
    }
    if (!rc) route_note(c);
    completion_close_tiles(c); /* the worker has its own */
    return rc;
}

/* --- waiting while no worker is ready --- */

static void wait_end(struct local *l)
{
    if (!l->waiting) return;
    struct gateway_model *m = l->owner->model;
    l->waiting = false;
    loop_timer_clear(l->owner->gateway->loop, &l->patience);
    if (l->prev)
        l->prev->next = l->next;
    else
        m->waiting = l->next;
    if (l->next) l->next->prev = l->prev;
}

static void patience_ended(void *ctx)
{
    struct local *l = ctx;
    wait_end(l);
    fail(l->owner, ERR_GONE, "The model's worker is being restarted: try again.");
}

static int wait_begin(struct local *l, struct err *e)
{
    struct gateway *g = l->owner->gateway;
    struct gateway_model *m = l->owner->model;
    l->patience = (struct loop_timer){.fn = patience_ended, .ctx = l};
    if (loop_timer_set(g->loop, &l->patience, loop_now_ms(g->loop) + g->limits.worker_wait_ms))
        return err_set(e, ERR_MEMORY, "out of memory");
    l->waiting = true;
    l->prev = NULL;
    l->next = m->waiting;
    if (l->next) l->next->prev = l;
    m->waiting = l;
    return 0;
}

/* Its worker may have died since it was chosen. */
static int submit_or_wait(struct local *l, struct err *e)
{
    struct completion *c = l->owner;
    if (!worker_is_ready(c->replica->worker)) completion_move(c, route_choose(c));
    if (worker_is_ready(c->replica->worker)) return submit_choices(l, e);
    if (gateway_model_lost(c->model)) return err_set(e, ERR_GONE, "The model's GPU is lost.");
    return wait_begin(l, e);
}

void source_local_ready(struct gateway_model *m)
{
    while (m->waiting && gateway_model_serves(m)) {
        struct local *l = m->waiting;
        struct err e;
        wait_end(l);
        if (submit_or_wait(l, &e)) completion_event(l->owner, &(struct event){.type = EVENT_ERROR, .err = &e, .fault = fault_of_err(&e)});
    }
}

/* A suspect's turn. */
static void suspect_go(struct quarantine_ticket *t)
{
    struct local *l = (struct local *)((char *)t - offsetof(struct local, ticket));
    struct err e;
    if (submit_or_wait(l, &e)) completion_event(l->owner, &(struct event){.type = EVENT_ERROR, .err = &e, .fault = fault_of_err(&e)});
}

static int local_start(struct completion *c, struct err *e)
{
    struct local *l = arena_alloc(&c->arena, sizeof *l);
    if (!l) return err_set(e, ERR_MEMORY, "out of memory");
    c->source_state = l;
    l->owner = c;
    l->ticket.go = suspect_go;
    fill_submit(c, &l->submit);
    int rc = gather_tiles(c, &l->submit, e);
    if (rc) return rc;
    quarantine_digest(c->model->quarantine, &l->submit, c->params.has_seed, l->ticket.digest);
    rc = quarantine_enter(c->model->quarantine, &l->ticket, e);
    if (rc == 0) rc = submit_or_wait(l, e);
    if (rc == 1) return 0; /* a suspect that waits */
    if (rc) local_stop(c);
    return rc;
}

const struct source_ops source_local = {.name = "local", .start = local_start, .stop = local_stop};
