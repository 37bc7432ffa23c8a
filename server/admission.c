/* Admission: see admission.h. */
#include "server/admission.h"

#include <math.h>
#include <sodium.h>

enum { TARGETS_THAT_WAIT = 4, RETRY_MAX_S = 60 };

int admission_retry_s(double wait_ms)
{
    double chance = (double)randombytes_uniform(1024) / 1024;
    double s = ceil(wait_ms / 1000 * (1 + chance / 2) + chance);
    return s < 1 ? 1 : s > RETRY_MAX_S ? RETRY_MAX_S : (int)s;
}

/* Until the first token of a prompt of n tokens. The worker's own word is up to a quarter of a second old: what has come since is counted here. */
static double predicted_ms(const struct gateway_model *m, int64_t n)
{
    const struct frame_prediction *p = worker_prediction(m->worker);
    double before_ms = (double)m->waiting_tokens * (double)p->prompt_token_ms;
    if (before_ms < (double)p->first_token_ms) before_ms = (double)p->first_token_ms;
    return before_ms + (double)n * (double)p->prompt_token_ms;
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

int admission_check_prompt(const struct gateway_model *m, int64_t n, int64_t left_ms, int *retry_after_s, struct err *e)
{
    double token_ms = (double)worker_prediction(m->worker)->prompt_token_ms, wait_ms = predicted_ms(m, 0);
    if (token_ms <= 0) return 0;
    double bound = TARGETS_THAT_WAIT * (double)m->gateway->limits.first_token_ms / token_ms;
    *retry_after_s = admission_retry_s(wait_ms);
    if (m->waiting_tokens && (double)(m->waiting_tokens + n) > bound)
        return err_set(e, ERR_BUSY, "The model has as many prompt tokens waiting as it reads in time: try again.");
    if (wait_ms > 0 && predicted_ms(m, n) > (double)left_ms)
        return err_set(e, ERR_BUSY, "The model would not begin to answer before the request's time is up: try again later.");
    *retry_after_s = 0;
    return 0;
}
