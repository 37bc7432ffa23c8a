/* Admission: see admission.h. */
#include "server/admission.h"

#include <math.h>
#include <sodium.h>

enum { MOST_TARGETS = 2, ANSWER_TARGETS = 4, PROMPTS_THAT_WAIT = 4, RETRY_MAX_S = 60, WINDOW_MS = 500, SIDE_BY_SIDE_LEAST = 8 };

int admission_retry_s(double wait_ms)
{
    double chance = (double)randombytes_uniform(1024) / 1024;
    double s = ceil(wait_ms / 1000 * (1 + chance / 2) + chance);
    return s < 1 ? 1 : s > RETRY_MAX_S ? RETRY_MAX_S : (int)s;
}

/* --- how fast it reads --- */

/* Time counts while something waits. */
static void count_busy(struct gateway_replica *r)
{
    int64_t now_ms = loop_now_ms(r->model->gateway->loop);
    if (r->queue.prompts) r->queue.busy_ms += now_ms - r->queue.counted_ms;
    r->queue.counted_ms = now_ms;
}

void admission_prompt_waits(struct gateway_replica *r, int64_t n)
{
    count_busy(r);
    r->queue.prompts++;
    r->queue.tokens += n;
    r->queue.came += n;
    r->queue.mean_tokens = r->queue.mean_tokens > 0 ? 0.9 * r->queue.mean_tokens + 0.1 * (double)n : (double)n;
}

void admission_prompt_ends(struct gateway_replica *r, int64_t n, bool served)
{
    count_busy(r);
    CHECK(r->queue.prompts > 0 && r->queue.tokens >= n);
    r->queue.prompts--;
    r->queue.tokens -= n;
    if (served) r->queue.served_tokens += n;
    if (r->queue.busy_ms < WINDOW_MS || r->queue.served_tokens == 0) return;
    double seen_ms = (double)r->queue.busy_ms / (double)r->queue.served_tokens;
    r->queue.token_ms = r->queue.token_ms > 0 ? (r->queue.token_ms + seen_ms) / 2 : seen_ms;
    r->queue.busy_ms = r->queue.served_tokens = 0;
}

/* 0: not known. */
static double token_ms(const struct gateway_replica *r)
{
    double said_ms = (double)worker_prediction(r->worker)->prompt_token_ms;
    return said_ms > r->queue.token_ms ? said_ms : r->queue.token_ms;
}

/* Until the first token of a prompt of n tokens. The worker's own word is up to a quarter of a second old: what has come since is counted here. */
static double predicted_ms(const struct gateway_replica *r, int64_t n)
{
    double before_ms = (double)r->queue.tokens * token_ms(r), said_ms = (double)worker_prediction(r->worker)->first_token_ms;
    return (before_ms > said_ms ? before_ms : said_ms) + (double)n * token_ms(r);
}

double admission_load_ms(const struct gateway_replica *r)
{
    return predicted_ms(r, 0);
}

double admission_prompt_ms(const struct gateway_replica *r, int64_t n)
{
    return (double)n * token_ms(r);
}

int64_t admission_tokens_since(const struct gateway_replica *r, int64_t came)
{
    const int64_t n = r->queue.came - came;
    return n < r->queue.tokens ? n : r->queue.tokens;
}

/* Of the worker that is the first to be done with what waits. */
static double model_wait_ms(const struct gateway_model *m)
{
    double least_ms = -1;
    for (size_t i = 0; i < m->n_replicas; i++) {
        const struct gateway_replica *r = &m->replicas[i];
        if (!r->worker || (!worker_is_ready(r->worker) && gateway_model_serves(m))) continue;
        double ms = predicted_ms(r, 0);
        if (least_ms < 0 || ms < least_ms) least_ms = ms;
    }
    return least_ms < 0 ? 0 : least_ms;
}

double admission_wait_ms(const struct gateway *g)
{
    double most_ms = 0;
    for (size_t i = 0; i < g->n_models; i++) {
        double ms = model_wait_ms(g->models[i]);
        if (ms > most_ms) most_ms = ms;
    }
    return most_ms;
}

/* --- whether there is room --- */

void admission_enter(struct gateway_replica *r, int64_t n)
{
    r->queue.sequences += n;
}

void admission_leave(struct gateway_replica *r, int64_t n)
{
    CHECK(r->queue.sequences >= n);
    r->queue.sequences -= n;
}

static void smooth(double *average, double ms)
{
    if (ms < 1) ms = 1;
    *average = *average > 0 ? 0.95 * *average + 0.05 * ms : ms;
}

void admission_answer_ends(struct gateway_replica *r, int64_t took_ms, int64_t in_all_ms)
{
    smooth(&r->queue.answer_ms, (double)took_ms);
    smooth(&r->queue.share_ms, (double)in_all_ms / (double)r->queue.sequences); /* it is one of them still */
}

/* How long a prompt may wait. */
static double bound_ms(const struct gateway_replica *r)
{
    double least = (double)r->model->gateway->limits.first_token_ms, most = least * MOST_TARGETS;
    if (r->queue.answer_ms <= 0 || r->queue.answer_ms > most) return most;
    return r->queue.answer_ms < least ? least : r->queue.answer_ms;
}

static bool is_read_in_time(const struct gateway_replica *r, size_t prompts, double tokens)
{
    double ms = token_ms(r);
    return r->queue.prompts + prompts <= PROMPTS_THAT_WAIT || ms <= 0 ||
           ((double)r->queue.tokens + tokens) * ms <= bound_ms(r);
}

static bool is_answered_in_time(const struct gateway_replica *r, int64_t sequences)
{
    const int64_t n = r->queue.sequences + sequences, side_by_side = worker_prediction(r->worker)->side_by_side;
    const int64_t least = side_by_side > SIDE_BY_SIDE_LEAST ? side_by_side : SIDE_BY_SIDE_LEAST;
    return side_by_side == 0 || n <= least + least / 2 || (double)n * r->queue.share_ms <= ANSWER_TARGETS * (double)r->model->gateway->limits.first_token_ms;
}

/* What comes is shared by the workers that are ready; one that is not takes nothing. */
static bool model_has_room(const struct gateway_model *m, size_t coming)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n_replicas; i++) n += worker_is_ready(m->replicas[i].worker);
    size_t each = n ? (coming + n - 1) / n : coming;
    for (size_t i = 0; i < m->n_replicas; i++) {
        const struct gateway_replica *r = &m->replicas[i];
        if (n && !worker_is_ready(r->worker)) continue;
        if (is_read_in_time(r, each, (double)each * r->queue.mean_tokens) && is_answered_in_time(r, (int64_t)each)) return true;
    }
    return false;
}

int admission_check_any(const struct gateway *g, int *retry_after_s, struct err *e)
{
    size_t n_ready = 0, coming = g->n_reading + 1; /* those that are being read will be prompts, too */
    for (size_t i = 0; i < g->n_models; i++) {
        const struct gateway_model *m = g->models[i];
        if (m->state != MODEL_READY) continue;
        n_ready++;
        if (model_has_room(m, coming)) return 0;
    }
    if (!n_ready) return 0; /* it will be told what is wrong with its model */
    *retry_after_s = admission_retry_s(admission_wait_ms(g));
    return err_set(e, ERR_BUSY, "The server has as many requests as it answers in time: try again.");
}

int admission_check_prompt(const struct gateway_replica *r, int64_t n, int64_t n_sequences, int64_t left_ms, int *retry_after_s, struct err *e)
{
    double wait_ms = predicted_ms(r, 0);
    *retry_after_s = admission_retry_s(wait_ms);
    if (!is_answered_in_time(r, n_sequences))
        return err_set(e, ERR_BUSY, "The model has as many answers under way as it gives in time: try again.");
    if (!is_read_in_time(r, 1, (double)n))
        return err_set(e, ERR_BUSY, "The model has as many prompt tokens waiting as it reads in time: try again.");
    if (wait_ms > 0 && predicted_ms(r, n) > (double)left_ms)
        return err_set(e, ERR_BUSY, "The model would not begin to answer before the request's time is up: try again later.");
    *retry_after_s = 0;
    return 0;
}
