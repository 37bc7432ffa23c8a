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
static void count_busy(struct gateway_model *m)
{
    int64_t now_ms = loop_now_ms(m->gateway->loop);
    if (m->queue.prompts) m->queue.busy_ms += now_ms - m->queue.counted_ms;
    m->queue.counted_ms = now_ms;
}

void admission_prompt_waits(struct gateway_model *m, int64_t n)
{
    count_busy(m);
    m->queue.prompts++;
    m->queue.tokens += n;
    m->queue.mean_tokens = m->queue.mean_tokens > 0 ? 0.9 * m->queue.mean_tokens + 0.1 * (double)n : (double)n;
}

void admission_prompt_ends(struct gateway_model *m, int64_t n, bool served)
{
    count_busy(m);
    CHECK(m->queue.prompts > 0 && m->queue.tokens >= n);
    m->queue.prompts--;
    m->queue.tokens -= n;
    if (served) m->queue.served_tokens += n;
    if (m->queue.busy_ms < WINDOW_MS || m->queue.served_tokens == 0) return;
    double seen_ms = (double)m->queue.busy_ms / (double)m->queue.served_tokens;
    m->queue.token_ms = m->queue.token_ms > 0 ? (m->queue.token_ms + seen_ms) / 2 : seen_ms;
    m->queue.busy_ms = m->queue.served_tokens = 0;
}

/* 0: not known. */
static double token_ms(const struct gateway_model *m)
{
    double said_ms = (double)worker_prediction(m->worker)->prompt_token_ms;
    return said_ms > m->queue.token_ms ? said_ms : m->queue.token_ms;
}

/* Until the first token of a prompt of n tokens. The worker's own word is up to a quarter of a second old: what has come since is counted here. */
static double predicted_ms(const struct gateway_model *m, int64_t n)
{
    double before_ms = (double)m->queue.tokens * token_ms(m), said_ms = (double)worker_prediction(m->worker)->first_token_ms;
    return (before_ms > said_ms ? before_ms : said_ms) + (double)n * token_ms(m);
}

double admission_wait_ms(const struct gateway *g)
{
    double most_ms = 0;
    for (size_t i = 0; i < g->n_models; i++) {
        double ms = g->models[i]->worker ? predicted_ms(g->models[i], 0) : 0;
        if (ms > most_ms) most_ms = ms;
    }
    return most_ms;
}

/* --- whether there is room --- */

void admission_enter(struct gateway_model *m, int64_t n)
{
    m->queue.sequences += n;
}

void admission_leave(struct gateway_model *m, int64_t n)
{
    CHECK(m->queue.sequences >= n);
    m->queue.sequences -= n;
}

static void smooth(double *average, double ms)
{
    if (ms < 1) ms = 1;
    *average = *average > 0 ? 0.95 * *average + 0.05 * ms : ms;
}

void admission_answer_ends(struct gateway_model *m, int64_t took_ms, int64_t in_all_ms)
{
    smooth(&m->queue.answer_ms, (double)took_ms);
    smooth(&m->queue.share_ms, (double)in_all_ms / (double)m->queue.sequences); /* it is one of them still */
}

/* How long a prompt may wait. */
static double bound_ms(const struct gateway_model *m)
{
    double least = (double)m->gateway->limits.first_token_ms, most = least * MOST_TARGETS;
    if (m->queue.answer_ms <= 0 || m->queue.answer_ms > most) return most;
    return m->queue.answer_ms < least ? least : m->queue.answer_ms;
}

static bool is_read_in_time(const struct gateway_model *m, size_t prompts, double tokens)
{
    double ms = token_ms(m);
    return m->queue.prompts + prompts <= PROMPTS_THAT_WAIT || ms <= 0 ||
           ((double)m->queue.tokens + tokens) * ms <= bound_ms(m);
}

static bool is_answered_in_time(const struct gateway_model *m, int64_t sequences)
{
    const int64_t n = m->queue.sequences + sequences, side_by_side = worker_prediction(m->worker)->side_by_side;
    const int64_t least = side_by_side > SIDE_BY_SIDE_LEAST ? side_by_side : SIDE_BY_SIDE_LEAST;
    return side_by_side == 0 || n <= least + least / 2 || (double)n * m->queue.share_ms <= ANSWER_TARGETS * (double)m->gateway->limits.first_token_ms;
}

int admission_check_any(const struct gateway *g, int *retry_after_s, struct err *e)
{
    size_t n_ready = 0, coming = g->n_reading + 1; /* those that are being read will be prompts, too */
    for (size_t i = 0; i < g->n_models; i++) {
        const struct gateway_model *m = g->models[i];
        if (m->state != MODEL_READY) continue;
        n_ready++;
        if (is_read_in_time(m, coming, (double)coming * m->queue.mean_tokens) && is_answered_in_time(m, (int64_t)coming)) return 0;
    }
    if (!n_ready) return 0; /* it will be told what is wrong with its model */
    *retry_after_s = admission_retry_s(admission_wait_ms(g));
    return err_set(e, ERR_BUSY, "The server has as many requests as it answers in time: try again.");
}

int admission_check_prompt(const struct gateway_model *m, int64_t n, int64_t n_sequences, int64_t left_ms, int *retry_after_s, struct err *e)
{
    double wait_ms = predicted_ms(m, 0);
    *retry_after_s = admission_retry_s(wait_ms);
    if (!is_answered_in_time(m, n_sequences))
        return err_set(e, ERR_BUSY, "The model has as many answers under way as it gives in time: try again.");
    if (!is_read_in_time(m, 1, (double)n))
        return err_set(e, ERR_BUSY, "The model has as many prompt tokens waiting as it reads in time: try again.");
    if (wait_ms > 0 && predicted_ms(m, n) > (double)left_ms)
        return err_set(e, ERR_BUSY, "The model would not begin to answer before the request's time is up: try again later.");
    *retry_after_s = 0;
    return 0;
}
