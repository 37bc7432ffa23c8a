/* CPU: from a row of logits to a token. In this order: bans, grammar mask and bias; repetition, frequency and presence penalties;
 * temperature; top-k; top-p; min-p; then one Philox number decides. Logprobs are of the raw logits. A row with a NaN or +inf gives no token. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/philox.h"

struct candidate {
    float logit;
    int32_t token;
};

/* Higher logit first, then lower id. */
static int by_logit(const void *pa, const void *pb)
{
    const struct candidate *a = pa, *b = pb;
    if (a->logit != b->logit) return a->logit < b->logit ? 1 : -1;
    return (a->token > b->token) - (a->token < b->token);
}

/* Puts the n best of c[0..total) in front, in order: quickselect by the same order, then a sort of the front. */
static void select_best(struct candidate *c, size_t total, size_t n)
{
    size_t lo = 0, hi = total;
    while (n < total && hi - lo > 1 && lo < n) {
        struct candidate pivot = c[lo + (hi - lo) / 2];
        size_t i = lo, j = hi - 1;
        for (;;) {
            while (by_logit(&c[i], &pivot) < 0) i++;
            while (by_logit(&c[j], &pivot) > 0) j--;
            if (i >= j) break;
            struct candidate t = c[i];
            c[i++] = c[j];
            c[j--] = t;
        }
        size_t split = j + 1 > lo && j + 1 < hi ? j + 1 : i;
        if (split <= lo || split >= hi) break;
        if (n <= split)
            hi = split;
        else
            lo = split;
    }
    qsort(c, n < total ? n : total, sizeof *c, by_logit);
}

static bool finite_row(const float *logits, size_t vocab, float *max)
{
    float m = -INFINITY;
    for (size_t i = 0; i < vocab; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY) return false;
        if (logits[i] > m) m = logits[i];
    }
    *max = m;
    return isfinite(m);
}

/* log of the sum of exp(logit - max). The maximum stays apart: beside a large one the logarithm would be lost. */
static double log_sum_exp(const float *logits, size_t vocab, float max)
{
    double s = 0;
    for (size_t i = 0; i < vocab; i++) s += exp((double)logits[i] - (double)max);
    return log(s);
}

static void forbid(float *logits, size_t vocab, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= 0 && (size_t)ids[i] < vocab) logits[ids[i]] = -INFINITY;
}

/* Penalties as in the OpenAI API (counts of tokens made) and as in CTRL (repetition, prompt included). */
static void penalise(float *logits, size_t vocab, const struct sample_row *row, uint32_t *count)
{
    const struct sample_params *p = &row->params;
    if (p->repetition_penalty != 1.0f) {
        memset(count, 0, vocab * sizeof *count);
        for (size_t i = 0; i < row->n_prompt + row->n_made; i++) {
            int32_t t = i < row->n_prompt ? row->prompt[i] : row->made[i - row->n_prompt];
            if (t < 0 || (size_t)t >= vocab || count[t]++) continue;
            logits[t] = logits[t] > 0 ? logits[t] / p->repetition_penalty : logits[t] * p->repetition_penalty;
        }
    }
    if (p->frequency_penalty == 0 && p->presence_penalty == 0) return;
    memset(count, 0, vocab * sizeof *count);
    for (size_t i = 0; i < row->n_made; i++) {
        int32_t t = row->made[i];
        if (t < 0 || (size_t)t >= vocab) continue;
        logits[t] -= p->frequency_penalty + (count[t]++ ? 0 : p->presence_penalty);
    }
}

/* Of sorted candidates with temperature applied: how many top-p and min-p leave (at least one). */
static size_t nucleus(const struct candidate *c, size_t n, const struct sample_params *p, double total)
{
    double best = (double)c[0].logit, sum = 0;
    for (size_t i = 0; i < n; i++) {
        double weight = exp(((double)c[i].logit - best) / (double)p->temperature);
        if (i > 0 && p->min_p > 0 && weight < (double)p->min_p) return i;
        if (i > 0 && sum >= (double)p->top_p * total) return i;
        sum += weight;
    }
    return n;
}

static int32_t draw(struct candidate *c, size_t n, const struct sample_row *row)
{
    const struct sample_params *p = &row->params;
    size_t keep = p->top_k > 0 && (size_t)p->top_k < n ? (size_t)p->top_k : n;
    bool sorted = keep < n || p->top_p < 1 || p->min_p > 0;
    if (sorted) select_best(c, n, keep);
    float best = c[0].logit;
    for (size_t i = 1; i < keep && !sorted; i++) best = c[i].logit > best ? c[i].logit : best;
    double total = 0;
    for (size_t i = 0; i < keep; i++) total += exp(((double)c[i].logit - (double)best) / (double)p->temperature);
    if (p->top_p < 1 || p->min_p > 0) {
        keep = nucleus(c, keep, p, total);
        total = 0;
        for (size_t i = 0; i < keep; i++) total += exp(((double)c[i].logit - (double)best) / (double)p->temperature);
    }
    double at = philox_uniform(p->seed, p->choice, row->position) * total;
    for (size_t i = 0; i < keep; i++) {
        at -= exp(((double)c[i].logit - (double)best) / (double)p->temperature);
        if (at < 0) return c[i].token;
    }
    return c[keep - 1].token; /* rounding left a sliver */
}

static void report_logprobs(const float *logits, size_t vocab, float max, struct candidate *c, const struct sample_params *p,
                            struct sample_result *out)
{
    double lse = log_sum_exp(logits, vocab, max);
    out->logprob = (float)((double)logits[out->token] - (double)max - lse);
    out->n_top = p->top_logprobs < SAMPLE_MAX_TOP ? p->top_logprobs : SAMPLE_MAX_TOP;
    if (out->n_top <= 0) return;
    if ((size_t)out->n_top > vocab) out->n_top = (int32_t)vocab;
    for (size_t i = 0; i < vocab; i++) c[i] = (struct candidate){logits[i], (int32_t)i};
    select_best(c, vocab, (size_t)out->n_top);
    for (int32_t i = 0; i < out->n_top; i++) {
        out->top_token[i] = c[i].token;
        out->top_logprob[i] = (float)((double)c[i].logit - (double)max - lse);
    }
}

static void sample_one(const struct sample_row *row, size_t vocab, float *logits, struct candidate *c, uint32_t *count,
                       struct sample_result *out)
{
    *out = (struct sample_result){.token = -1};
    float max;
    if (!finite_row(row->logits, vocab, &max)) return;
    memcpy(logits, row->logits, vocab * sizeof *logits);
    for (size_t i = 0; i < row->n_bias; i++)
        if (row->bias[i].token >= 0 && (size_t)row->bias[i].token < vocab) logits[row->bias[i].token] += row->bias[i].bias;
    penalise(logits, vocab, row, count);
    forbid(logits, vocab, row->banned, row->n_banned);
    forbid(logits, vocab, row->banned_now, row->n_banned_now);
    size_t n = 0;
    for (size_t i = 0; i < vocab; i++)
        if (logits[i] != -INFINITY && (!row->mask || (row->mask[i / 32] >> i % 32 & 1))) c[n++] = (struct candidate){logits[i], (int32_t)i};
    if (n == 0) return;
    if (row->params.temperature > 0) {
        out->token = draw(c, n, row);
    } else {
        struct candidate best = c[0];
        for (size_t i = 1; i < n; i++)
            if (c[i].logit > best.logit) best = c[i];
        out->token = best.token;
    }
    if (row->params.top_logprobs >= 0) report_logprobs(row->logits, vocab, max, c, &row->params, out);
}

int cpu_sample(struct device *d, const struct sample_row *rows, size_t n, size_t vocab, struct sample_result *out, struct err *e)
{
    float *logits = malloc(vocab * sizeof *logits);
    struct candidate *c = malloc(vocab * sizeof *c);
    uint32_t *count = malloc(vocab * sizeof *count);
    int rc = logits && c && count ? 0 : err_set(e, ERR_MEMORY, "sampling: out of memory");
    for (size_t i = 0; i < n && !rc; i++) sample_one(&rows[i], vocab, logits, c, count, &out[i]);
    free(logits);
    free(c);
    free(count);
    cpu_bump(d);
    return rc;
}
