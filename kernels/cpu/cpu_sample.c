/* CPU: from a row of logits to a token. In this order: bans, grammar mask and bias; repetition, frequency and presence penalties;
 * temperature; top-k; top-p; min-p; then one Philox number decides. Logprobs are of the raw logits. A row with a NaN or +inf gives no token.
 *
 * A row is computed by one thread, a few passes of vector kernels over the vocabulary. What is to be sorted is first cut down to the ids whose
 * logit is near enough to the best: the cut is found by counting, so it never changes what is drawn. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/cpu_parts.h"
#include "kernels/philox.h"

struct candidate {
    float logit;
    int32_t token;
};

/* One thread's scratch, all (vocab) but chunks, which has a sum for each CPU_EXP_CHUNK weights. */
struct sampler {
    struct candidate *candidates;
    float *logits, *weights;
    uint32_t *counts;
    double *chunks;
};

/* Higher logit first, then lower id. */
static int by_logit(const void *pa, const void *pb)
{
    const struct candidate *a = pa, *b = pb;
    if (a->logit != b->logit) return a->logit < b->logit ? 1 : -1;
    return (a->token > b->token) - (a->token < b->token);
}

/* Hoare's partition of c[lo..hi) around its middle: none of c[lo..split) comes after one of c[split..hi). Returns split. */
static size_t partition(struct candidate *c, size_t lo, size_t hi)
{
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
    return j + 1 > lo && j + 1 < hi ? j + 1 : i;
}

/* Puts the n best of c[0..total) in front, in order: quickselect, then a sort of the front. */
static void select_best(struct candidate *c, size_t total, size_t n)
{
    size_t lo = 0, hi = total;
    while (n < total && hi - lo > 1 && lo < n) {
        size_t split = partition(c, lo, hi);
        if (split <= lo || split >= hi) break;
        if (n <= split)
            hi = split;
        else
            lo = split;
    }
    qsort(c, n < total ? n : total, sizeof *c, by_logit);
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

static size_t count_above(const float *x, size_t n, float least)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += x[i] >= least;
    return count;
}

/* Ids with a logit of at least `least`, in rising order. */
static size_t gather(const float *logits, size_t n, float least, struct candidate *c)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        if (logits[i] >= least) c[count++] = (struct candidate){logits[i], (int32_t)i};
    return count;
}

/* The k best ids in order; fewer if fewer may come. */
static size_t best_k(const float *logits, size_t n, float max, size_t k, struct candidate *c)
{
    size_t found = 0;
    for (float reach = 2; reach < 100 && found < k; reach *= 2) found = count_above(logits, n, max - reach) < k ? 0 : gather(logits, n, max - reach, c);
    if (found < k) found = gather(logits, n, -FLT_MAX, c);
    select_best(c, found, k);
    return found < k ? found : k;
}

/* At least the ids that top-p or min-p leaves, in rising order: those near enough to the best. */
static size_t gather_best(const struct cpu_kernels *k, const float *logits, size_t n, float max, const struct sampler *s,
                          const struct sample_params *p, double wanted)
{
    float reach = 1;
    while (reach < 64 && (p->top_p >= 1 || k->sum_above(s->weights, n, expf(-reach)) < wanted) && expf(-reach) > p->min_p) reach *= 2;
    return gather(logits, n, reach < 64 ? max - reach * 1.001f * p->temperature : -FLT_MAX, s->candidates);
}

static size_t drop_below(struct candidate *c, size_t n, const float *weight, float least)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (weight[c[i].token] >= least) c[kept++] = c[i];
    return kept;
}

/* Puts in front, in some order, the fewest best candidates whose weights reach `wanted`; returns how many. Quickselect by sums. */
static size_t select_share(struct candidate *c, size_t n, const float *weight, double wanted)
{
    enum { FEW = 32 };
    size_t lo = 0, hi = n;
    double before = 0;
    while (hi - lo > FEW) {
        size_t split = partition(c, lo, hi);
        if (split <= lo || split >= hi) break;
        double sum = 0;
        for (size_t i = lo; i < split; i++) sum += (double)weight[c[i].token];
        if (before + sum >= wanted) {
            hi = split;
        } else {
            before += sum;
            lo = split;
        }
    }
    qsort(c + lo, hi - lo, sizeof *c, by_logit);
    for (size_t i = lo; i < hi; before += (double)weight[c[i++].token])
        if (i > 0 && before >= wanted) return i;
    return hi;
}

static double sum_weights(const struct candidate *c, size_t n, const float *weight)
{
    double total = 0;
    for (size_t i = 0; i < n; i++) total += (double)weight[c[i].token];
    return total;
}

/* One of the candidates, in the order they have. */
static int32_t draw_from(const struct candidate *c, size_t n, const float *weight, const struct sample_row *row)
{
    double at = philox_uniform(row->params.seed, row->params.choice, row->position) * sum_weights(c, n, weight);
    size_t last = 0;
    for (size_t i = 0; i < n && at >= 0; i++) {
        if (weight[c[i].token] <= 0) continue;
        last = i; /* the last one also if rounding leaves a sliver */
        at -= (double)weight[c[i].token];
    }
    return c[last].token;
}

/* One of all ids, in rising order. */
static int32_t draw_any(const float *weight, size_t n, const double *chunk, const struct sample_row *row, double total)
{
    double at = philox_uniform(row->params.seed, row->params.choice, row->position) * total;
    size_t i_chunk = 0, n_chunks = (n + CPU_EXP_CHUNK - 1) / CPU_EXP_CHUNK, last = 0;
    while (i_chunk + 1 < n_chunks && at >= chunk[i_chunk]) at -= chunk[i_chunk++];
    for (size_t i = i_chunk * CPU_EXP_CHUNK; i < n && at >= 0; i++) {
        if (weight[i] <= 0) continue;
        last = i;
        at -= (double)weight[i];
    }
    while (weight[last] <= 0) last = last ? last - 1 : n - 1; /* rounding left a sliver, and nothing after it; the best weighs 1 */
    return (int32_t)last;
}

static int32_t draw(const struct cpu_kernels *k, const float *logits, size_t n, float max, const struct sampler *s, const struct sample_row *row)
{
    const struct sample_params *p = &row->params;
    bool few = p->top_k > 0 && (size_t)p->top_k < n;
    double total = k->exp_row(logits, n, max, p->temperature, s->weights, s->chunks);
    if (!few && p->top_p >= 1 && p->min_p <= 0) return draw_any(s->weights, n, s->chunks, row, total);
    size_t kept;
    if (few) {
        kept = best_k(logits, n, max, (size_t)p->top_k, s->candidates);
        total = sum_weights(s->candidates, kept, s->weights);
    } else {
        kept = gather_best(k, logits, n, max, s, p, (double)p->top_p * total * (1 + 1e-4)); /* weights are float32: rather a few too many */
    }
    if (p->min_p > 0) kept = drop_below(s->candidates, kept, s->weights, p->min_p);
    if (p->top_p < 1) kept = select_share(s->candidates, kept, s->weights, (double)p->top_p * total);
    return draw_from(s->candidates, kept, s->weights, row);
}

static void report_logprobs(const struct cpu_kernels *k, const struct sample_row *row, size_t vocab, float max, const struct sampler *s,
                            struct sample_result *out)
{
    const float *logits = row->logits;
    double lse = log(k->exp_row(logits, vocab, max, 1, s->weights, s->chunks)); /* the maximum stays apart: beside a large one it would be lost */
    out->logprob = (float)((double)logits[out->token] - (double)max - lse);
    out->n_top = row->params.top_logprobs < SAMPLE_MAX_TOP ? row->params.top_logprobs : SAMPLE_MAX_TOP;
    if (out->n_top <= 0) return;
    if ((size_t)out->n_top > vocab) out->n_top = (int32_t)vocab;
    size_t found = best_k(logits, vocab, max, (size_t)out->n_top, s->candidates);
    if (found < (size_t)out->n_top) { /* some are -inf: they come last, by id */
        for (size_t i = 0; i < vocab; i++) s->candidates[i] = (struct candidate){logits[i], (int32_t)i};
        select_best(s->candidates, vocab, (size_t)out->n_top);
    }
    for (int32_t i = 0; i < out->n_top; i++) {
        out->top_token[i] = s->candidates[i].token;
        out->top_logprob[i] = (float)((double)s->candidates[i].logit - (double)max - lse);
    }
}

/* The row's logits with bias, penalties, bans and mask; the row itself where nothing changes it. */
static const float *adjusted(const struct sample_row *row, size_t vocab, const struct sampler *s)
{
    const struct sample_params *p = &row->params;
    bool penalised = p->repetition_penalty != 1.0f || p->frequency_penalty != 0 || p->presence_penalty != 0;
    if (!penalised && !row->n_bias && !row->n_banned && !row->n_banned_now && !row->mask) return row->logits;
    float *logits = s->logits;
    memcpy(logits, row->logits, vocab * sizeof *logits);
    for (size_t i = 0; i < row->n_bias; i++)
        if (row->bias[i].token >= 0 && (size_t)row->bias[i].token < vocab) logits[row->bias[i].token] += row->bias[i].bias;
    penalise(logits, vocab, row, s->counts);
    forbid(logits, vocab, row->banned, row->n_banned);
    forbid(logits, vocab, row->banned_now, row->n_banned_now);
    for (size_t i = 0; row->mask && i < vocab; i++)
        if (!(row->mask[i / 32] >> i % 32 & 1)) logits[i] = -INFINITY;
    return logits;
}

static void sample_one(const struct cpu_kernels *k, const struct sample_row *row, size_t vocab, const struct sampler *s,
                       struct sample_result *out)
{
    *out = (struct sample_result){.token = -1};
    float raw_max, max;
    if (!k->row_max(row->logits, vocab, &raw_max) || raw_max == -INFINITY) return;
    const float *logits = adjusted(row, vocab, s);
    max = raw_max;
    if (logits != row->logits && (!k->row_max(logits, vocab, &max) || max == -INFINITY)) return;
    if (row->params.temperature > 0) {
        out->token = draw(k, logits, vocab, max, s, row);
    } else {
        size_t best = 0;
        while (logits[best] != max) best++;
        out->token = (int32_t)best;
    }
    if (row->params.top_logprobs >= 0) report_logprobs(k, row, vocab, raw_max, s, out);
}

struct sample_run {
    const struct device *d;
    const struct sample_row *rows;
    size_t n, vocab;
    struct sample_result *out;
};

size_t cpu_sample_scratch_bytes(size_t vocab)
{
    size_t n = (vocab + 15) & ~(size_t)15, chunks = (n / CPU_EXP_CHUNK + 1 + 7) & ~(size_t)7;
    return n * (2 * sizeof(float) + sizeof(struct candidate) + sizeof(uint32_t)) + chunks * sizeof(double);
}

static struct sampler sampler_of(const struct device *d, size_t vocab, int thread)
{
    size_t n = (vocab + 15) & ~(size_t)15;
    unsigned char *at = d->sample_scratch + (size_t)thread * cpu_sample_scratch_bytes(d->limits.vocab);
    struct sampler s = {.candidates = (void *)at};
    s.logits = (float *)(void *)(at += n * sizeof *s.candidates);
    s.weights = (float *)(void *)(at += n * sizeof *s.logits);
    s.counts = (uint32_t *)(void *)(at += n * sizeof *s.weights);
    s.chunks = (double *)(void *)(at + n * sizeof *s.counts);
    return s;
}

static void sample_share(void *arg, int thread, int n_threads)
{
    const struct sample_run *run = arg;
    struct sampler s = sampler_of(run->d, run->vocab, thread);
    for (size_t i = (size_t)thread; i < run->n; i += (size_t)n_threads) sample_one(run->d->k, &run->rows[i], run->vocab, &s, &run->out[i]);
}

int cpu_sample(struct device *d, const struct sample_row *rows, size_t n, size_t vocab, struct sample_result *out, struct err *e)
{
    (void)e;
    CHECK(vocab > 0 && vocab <= d->limits.vocab);
    struct sample_run run = {d, rows, n, vocab, out};
    if (n == 1)
        sample_share(&run, 0, 1);
    else
        threads_run(d->threads, sample_share, &run);
    cpu_bump(d);
    return 0;
}
