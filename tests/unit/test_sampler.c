/* Sampling: Philox against its published vectors; which tokens may come, and how often, against plain double arithmetic done here. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/ops.h"
#include "kernels/philox.h"

static struct device *device;

static int open_device(void **unused)
{
    (void)unused;
    struct err e = {0};
    return ops_cpu.open(&device, &(struct device_options){.threads = 1}, &e);
}

static int close_device(void **unused)
{
    (void)unused;
    ops_cpu.close(device);
    return 0;
}

static struct sample_row row_of(const float *logits, float temperature)
{
    return (struct sample_row){.logits = logits, .params = {.temperature = temperature, .top_p = 1, .repetition_penalty = 1, .top_logprobs = -1, .seed = 7}};
}

static struct sample_result sample(const struct sample_row *row, size_t vocab)
{
    struct sample_result out;
    struct err e = {0};
    assert_int_equal(ops_cpu.sample(device, row, 1, vocab, &out, &e), 0);
    return out;
}

/* Random123 1.14, tests/kat_vectors, "philox4x32 10". */
static void test_philox(void **unused)
{
    (void)unused;
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } known[] = {
        {{0}, {0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        philox4x32(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].want, sizeof out);
    }
    assert_true(philox_uniform(1, 0, 5) != philox_uniform(1, 1, 5) && philox_uniform(1, 0, 5) != philox_uniform(1, 0, 6) && philox_uniform(1, 0, 5) != philox_uniform(1ull << 32 | 1, 0, 5));
}

static void test_greedy(void **unused)
{
    (void)unused;
    float logits[] = {-3, 2, 5, 1, 5, 4.9f};
    struct sample_row r = row_of(logits, 0);
    assert_int_equal(sample(&r, 6).token, 2); /* of equals the lowest id */
    int32_t ban[] = {2}, now[] = {4};
    r.banned = ban, r.n_banned = 1;
    assert_int_equal(sample(&r, 6).token, 4);
    r.banned_now = now, r.n_banned_now = 1;
    assert_int_equal(sample(&r, 6).token, 5);
    uint32_t mask = 1u << 1 | 1u << 0 | 1u << 2;
    r.mask = &mask;
    assert_int_equal(sample(&r, 6).token, 1);
    mask = 1u << 2;
    assert_int_equal(sample(&r, 6).token, -1); /* nothing is left */
    r = row_of(logits, 0);
    struct token_bias bias[] = {{3, 4.5f}, {-1, 9}, {600, 9}};
    r.bias = bias, r.n_bias = 3;
    assert_int_equal(sample(&r, 6).token, 3);
}

static void test_non_finite(void **unused)
{
    (void)unused;
    const float bad[] = {NAN, INFINITY};
    for (size_t i = 0; i < 2; i++)
        for (int hot = 0; hot < 2; hot++) {
            float logits[] = {1, bad[i], 0};
            struct sample_row r = row_of(logits, (float)hot);
            assert_int_equal(sample(&r, 3).token, -1);
        }
    float masked[] = {-INFINITY, 1, -INFINITY}; /* minus infinity is a token that never comes */
    struct sample_row r = row_of(masked, 1);
    for (r.position = 0; r.position < 50; r.position++) assert_int_equal(sample(&r, 3).token, 1);
}

static void test_penalties(void **unused)
{
    (void)unused;
    float logits[] = {2.0f, 1.5f, -1.0f, 1.9f};
    int32_t prompt[] = {0, 0, 2, 99, -4}, made[] = {0, 3, 3};
    struct sample_row r = row_of(logits, 0);
    r.prompt = prompt, r.n_prompt = 5, r.made = made, r.n_made = 3;
    r.params.repetition_penalty = 1.5f; /* 0: 1.33, 2: -1.5, 3: 1.27; 1 was never said and stays 1.5 */
    assert_int_equal(sample(&r, 4).token, 1);
    r.params.repetition_penalty = 1;
    r.params.frequency_penalty = 0.3f; /* 0: 1.7, 3: 1.3 */
    assert_int_equal(sample(&r, 4).token, 0);
    r.params.presence_penalty = 0.25f; /* 0: 1.45, 3: 1.05 */
    assert_int_equal(sample(&r, 4).token, 1);
    r.params.presence_penalty = 0;
    r.params.frequency_penalty = -0.3f; /* 3: 2.5 */
    assert_int_equal(sample(&r, 4).token, 3);
}

/* --- drawn tokens --- */
enum { VOCAB = 50, DRAWS = 20000 };

static void distribution(float *logits, uint32_t seed)
{
    for (size_t i = 0; i < VOCAB; i++) {
        seed = seed * 1664525u + 1013904223u;
        logits[i] = (float)(seed >> 16) / 65536.0f * 5 - 2;
    }
}

static int by_p(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (x[0] < y[0]) - (x[0] > y[0]);
}

/* Shares that temperature, top-k, top-p and min-p leave, by plain arithmetic: sort, cut, renormalise. */
static void shares(const float *logits, const struct sample_params *p, double *out)
{
    double c[VOCAB][2], total = 0, sum = 0;
    for (size_t i = 0; i < VOCAB; i++) {
        c[i][0] = exp((double)logits[i] / (double)p->temperature);
        c[i][1] = (double)i;
        out[i] = 0;
    }
    qsort(c, VOCAB, sizeof *c, by_p);
    size_t n = p->top_k > 0 && p->top_k < VOCAB ? (size_t)p->top_k : VOCAB, keep = 0;
    for (size_t i = 0; i < n; i++) total += c[i][0];
    for (double before = 0; keep < n; before += c[keep++][0])
        if (keep > 0 && (before >= (double)p->top_p * total || c[keep][0] < (double)p->min_p * c[0][0])) break;
    for (size_t i = 0; i < keep; i++) sum += c[i][0];
    for (size_t i = 0; i < keep; i++) out[(size_t)c[i][1]] = c[i][0] / sum;
}

static void test_draws(void **unused)
{
    (void)unused;
    static const struct sample_params settings[] = {
        {.temperature = 1, .top_p = 1},
        {.temperature = 0.5f, .top_p = 1},
        {.temperature = 2, .top_p = 1},
        {.temperature = 1, .top_p = 1, .top_k = 7},
        {.temperature = 1, .top_p = 1, .top_k = 1},
        {.temperature = 0.8f, .top_p = 0.6f},
        {.temperature = 1, .top_p = 0.0001f},
        {.temperature = 1, .top_p = 1, .min_p = 0.2f},
        {.temperature = 0.7f, .top_p = 0.8f, .top_k = 20, .min_p = 0.05f},
    };
    float logits[VOCAB];
    for (size_t s = 0; s < sizeof settings / sizeof *settings; s++) {
        distribution(logits, (uint32_t)s + 1);
        struct sample_row r = row_of(logits, 1);
        r.params = settings[s];
        r.params.repetition_penalty = 1;
        r.params.top_logprobs = -1;
        r.params.seed = 1000 + s;
        double want[VOCAB], chi2 = 0;
        int count[VOCAB] = {0}, kept = 0;
        shares(logits, &settings[s], want);
        for (r.position = 0; r.position < DRAWS; r.position++) count[sample(&r, VOCAB).token]++;
        for (size_t i = 0; i < VOCAB; i++) {
            if (want[i] == 0 && count[i]) fail_msg("setting %zu: token %zu came %d times and may not", s, i, count[i]);
            if (want[i] == 0) continue;
            kept++;
            chi2 += (count[i] - want[i] * DRAWS) * (count[i] - want[i] * DRAWS) / (want[i] * DRAWS);
        }
        /* 0.999 quantile of chi-square by Wilson and Hilferty */
        double df = kept - 1, quantile = df > 0 ? df * pow(1 - 2 / (9 * df) + 3.0902 * sqrt(2 / (9 * df)), 3) : 1e-9;
        if (chi2 > quantile) fail_msg("setting %zu: chi-square %.1f of %d tokens is over %.1f", s, chi2, kept, quantile);
    }
}

static void test_same_seed(void **unused)
{
    (void)unused;
    float logits[VOCAB];
    distribution(logits, 3);
    int differ_by_seed = 0, differ_by_choice = 0;
    for (uint32_t p = 0; p < 200; p++) {
        struct sample_row r = row_of(logits, 1);
        r.position = p;
        int32_t a = sample(&r, VOCAB).token;
        assert_int_equal(sample(&r, VOCAB).token, a);
        struct sample_row many[3] = {row_of(logits, 1), r, row_of(logits, 0)}; /* company changes nothing */
        struct sample_result out[3];
        struct err e = {0};
        assert_int_equal(ops_cpu.sample(device, many, 3, VOCAB, out, &e), 0);
        assert_int_equal(out[1].token, a);
        r.params.choice = 1;
        differ_by_choice += sample(&r, VOCAB).token != a;
        r.params.choice = 0;
        r.params.seed = 8;
        differ_by_seed += sample(&r, VOCAB).token != a;
    }
    assert_true(differ_by_seed > 100 && differ_by_choice > 100);
}

static void test_logprobs(void **unused)
{
    (void)unused;
    float logits[VOCAB];
    distribution(logits, 12);
    double sum = 0;
    for (size_t i = 0; i < VOCAB; i++) sum += exp((double)logits[i]);
    struct sample_row r = row_of(logits, 0);
    struct token_bias bias = {5, 50};
    r.bias = &bias, r.n_bias = 1; /* logprobs are of the raw logits */
    r.params.top_logprobs = SAMPLE_MAX_TOP;
    struct sample_result out = sample(&r, VOCAB);
    assert_int_equal(out.token, 5);
    assert_true(fabs((double)out.logprob - ((double)logits[5] - log(sum))) < 1e-5);
    assert_int_equal(out.n_top, SAMPLE_MAX_TOP);
    for (int i = 0; i < SAMPLE_MAX_TOP; i++) {
        int better = 0;
        for (size_t j = 0; j < VOCAB; j++) better += logits[j] > logits[out.top_token[i]];
        assert_int_equal(better, i);
        assert_true(fabs((double)out.top_logprob[i] - ((double)logits[out.top_token[i]] - log(sum))) < 1e-5);
    }
    r.params.top_logprobs = 0; /* the token's own, no others */
    out = sample(&r, VOCAB);
    assert_true(out.n_top == 0 && fabs((double)out.logprob - ((double)logits[5] - log(sum))) < 1e-5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),    cmocka_unit_test(test_greedy), cmocka_unit_test(test_non_finite), cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_draws),     cmocka_unit_test(test_same_seed), cmocka_unit_test(test_logprobs),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
