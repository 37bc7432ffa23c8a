/* bench's arithmetic: samples, exact percentiles of all of them, totals. */
#include <stdlib.h>
#include <string.h>

#include "server/cli/bench_parts.h"

/* --- keeping --- */

static bool grow(void **p, size_t *cap, size_t n, size_t size, size_t max)
{
    if (n < *cap) return true;
    size_t more = *cap ? *cap * 2 : 256;
    if (more > max) more = max;
    void *q = n < more ? realloc(*p, more * size) : NULL;
    if (!q) return false;
    *p = q;
    *cap = more;
    return true;
}

int bench_sample_add(struct bench_result *r, const struct bench_sample *s)
{
    if (!grow((void **)&r->samples, &r->cap, r->n, sizeof *r->samples, BENCH_MAX_COUNT)) return -ERR_MEMORY;
    r->samples[r->n++] = *s;
    return 0;
}

int bench_gap_add(struct bench_gaps *g, int64_t us)
{
    if (g->n == BENCH_MAX_GAPS) {
        g->n_left_out++;
        return 0;
    }
    if (!grow((void **)&g->us, &g->cap, g->n, sizeof *g->us, BENCH_MAX_GAPS)) return -ERR_MEMORY;
    g->us[g->n++] = (uint32_t)us;
    return 0;
}

void bench_error_add(struct bench_result *r, const char *what, const char *message)
{
    size_t i = 0;
    while (i < r->n_errors && strcmp(r->errors[i].what, what) != 0) i++;
    if (i == BENCH_MAX_ERRORS) i--; /* the last kind is "others" */
    if (i == r->n_errors) {
        struct bench_error *x = &r->errors[r->n_errors++];
        snprintf(x->what, sizeof x->what, "%s", i == BENCH_MAX_ERRORS - 1 ? "others" : what);
        snprintf(x->message, sizeof x->message, "%s", message);
    }
    r->errors[i].n++;
}

void bench_result_free(struct bench_result *r)
{
    free(r->samples);
    free(r->gaps.us);
    *r = (struct bench_result){0};
}

/* --- figures --- */

int64_t bench_ratio(int64_t a, int64_t b, int64_t c)
{
    if (c <= 0 || a < 0 || b < 0) return -1;
    __int128 v = ((__int128)a * b + c / 2) / c;
    return v > INT64_MAX ? -1 : (int64_t)v;
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

struct bench_percentiles bench_percentiles_of(int64_t *values, size_t n)
{
    struct bench_percentiles p = {.n = n, .p50 = -1, .p90 = -1, .p99 = -1, .max = -1};
    if (n == 0) return p;
    qsort(values, n, sizeof *values, ascending);
    p.p50 = values[(n * 50 + 99) / 100 - 1];
    p.p90 = values[(n * 90 + 99) / 100 - 1];
    p.p99 = values[(n * 99 + 99) / 100 - 1];
    p.max = values[n - 1];
    return p;
}

/* Tokens a second after the first; -1: there was no time between the first and the last. */
static int64_t rate_of(const struct bench_sample *s)
{
    return s->out_tokens < 2 ? -1 : bench_ratio(s->out_tokens - 1, INT64_C(1000000000), s->out_first_us);
}

static void latencies(const struct bench_result *r, int64_t *v, struct bench_figures *f)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) v[i] = r->samples[i].first_byte_us;
    f->first_byte_us = bench_percentiles_of(v, r->n);
    for (size_t i = 0; i < r->n; i++)
        if (r->samples[i].first_token_us) v[n++] = r->samples[i].first_token_us;
    f->first_token_us = bench_percentiles_of(v, n);
    for (size_t i = 0; i < r->n; i++) v[i] = r->samples[i].total_us;
    f->total_us = bench_percentiles_of(v, r->n);
    n = 0;
    for (size_t i = 0; i < r->n; i++) {
        v[n] = rate_of(&r->samples[i]);
        n += v[n] >= 0;
    }
    f->rate_mtok = bench_percentiles_of(v, n);
    for (size_t i = 0; i < r->gaps.n; i++) v[i] = r->gaps.us[i];
    f->gap_us = bench_percentiles_of(v, r->gaps.n);
}

int bench_figures_of(const struct bench *b, const struct bench_target *t, struct bench_figures *f, struct err *e)
{
    const struct bench_result *r = &t->result;
    const int64_t million = 1000000, hour_us = INT64_C(3600000000);
    *f = (struct bench_figures){0};
    size_t n = r->n > r->gaps.n ? r->n : r->gaps.n;
    int64_t *v = malloc((n + 1) * sizeof *v);
    if (!v) return err_set(e, ERR_MEMORY, "out of memory");
    latencies(r, v, f);
    free(v);
    for (size_t i = 0; i < r->n; i++) {
        f->in_tokens += r->samples[i].in_tokens;
        f->out_tokens += r->samples[i].out_tokens;
        f->n_counted += r->samples[i].counted;
    }
    f->all_mtok = bench_ratio(f->out_tokens, INT64_C(1000000000), r->wall_us);
    bool paid = bench_target_is_paid(t);
    int64_t tokens = f->in_tokens + f->out_tokens;
    f->cost_nusd = paid ? r->measured_nusd : -1;
    f->request_nusd = paid && r->n ? bench_ratio(r->measured_nusd, 1, (int64_t)r->n) : -1;
    f->million_nusd = paid ? bench_ratio(r->measured_nusd, million, tokens) : -1;
    f->million_out_nusd = paid ? bench_ratio(r->measured_nusd, million, f->out_tokens) : -1;
    int64_t machine_nusd = b->gpu_hour_nusd < 0 ? -1 : bench_ratio(b->gpu_hour_nusd, r->wall_us, hour_us);
    f->gpu_request_nusd = paid ? -1 : bench_ratio(machine_nusd, 1, (int64_t)r->n);
    f->gpu_million_nusd = paid ? -1 : bench_ratio(machine_nusd, million, tokens);
    f->gpu_million_out_nusd = paid ? -1 : bench_ratio(machine_nusd, million, f->out_tokens);
    return 0;
}
