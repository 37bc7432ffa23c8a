/* Sampling: Philox against its published vectors; which tokens may come, and how often, against plain double arithmetic
 * done here. */
#include "kernels/philox.h"
#include "tests/unit/kernel_oracle.h"

enum { MAX_VOCAB = 5003 }; /* several pieces of CPU_EXP_CHUNK and a tail */
static struct device *device;
static const char *kernel_set;

static int open_device(void **unused)
{
    (void)unused;
    struct err e = {0};
    return ops_cpu.open(&device, &(struct device_options){.threads = 2, .isa = kernel_set}, &e) ||
           ops_cpu.reserve(device, &(struct device_limits){.vocab = 49152, .head_dim = 16}, &e);
}

static int close_device(void **unused)
{
    (void)unused;
    ops_cpu.close(device);
    return 0;
}

static struct sample_row row_of(const float *logits, float temperature)
{
    return (struct sample_row){.logits = logits,
                               .params = {.temperature = temperature, .top_p = 1, .repetition_penalty = 1, .top_logprobs = -1, .seed = 7}};
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
    assert_true(philox_uniform(1, 0, 5) != philox_uniform(1, 1, 5) && philox_uniform(1, 0, 5) != philox_uniform(1, 0, 6) &&
                philox_uniform(1, 0, 5) != philox_uniform(1ull << 32 | 1, 0, 5));
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

struct scored {
    double logit;
    size_t token;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return (x->token > y->token) - (x->token < y->token);
}

static size_t count_of(const int32_t *ids, size_t n, size_t token)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) found += ids[i] == (int32_t)token;
    return found;
}

/* A token's logit after bias and penalties; -inf where it may not come. */
static double adjusted(const struct sample_row *r, size_t token)
{
    const struct sample_params *p = &r->params;
    double v = (double)r->logits[token];
    for (size_t i = 0; i < r->n_bias; i++) v += r->bias[i].token == (int32_t)token ? (double)r->bias[i].bias : 0;
    size_t made = count_of(r->made, r->n_made, token);
    if (made || count_of(r->prompt, r->n_prompt, token)) v = v > 0 ? v / (double)p->repetition_penalty : v * (double)p->repetition_penalty;
    v -= (double)made * (double)p->frequency_penalty + (made ? (double)p->presence_penalty : 0);
    bool banned = count_of(r->banned, r->n_banned, token) || count_of(r->banned_now, r->n_banned_now, token);
    return banned || (r->mask && !(r->mask[token / 32] >> token % 32 & 1)) ? -INFINITY : v;
}

/* Shares that a row's parameters leave, by plain arithmetic: adjust, sort, cut, renormalise. Returns how near the
 * closest cut was to falling elsewhere (in shares, or in logits for top-k): below float32's rounding nobody can say
 * which set is right. */
static double shares(const struct sample_row *r, size_t vocab, double *out)
{
    const struct sample_params *p = &r->params;
    struct scored c[MAX_VOCAB];
    double weight[MAX_VOCAB], total = 0, sum = 0, margin = 1;
    size_t n = 0, keep = 0;
    for (size_t i = 0; i < vocab; i++) {
        out[i] = 0;
        c[n] = (struct scored){adjusted(r, i), i};
        n += c[n].logit != -INFINITY;
    }
    qsort(c, n, sizeof *c, by_score);
    if (p->top_k > 0 && (size_t)p->top_k < n) {
        n = (size_t)p->top_k;
        margin = c[n - 1].logit == c[n].logit ? 1 : fmin(1, c[n - 1].logit - c[n].logit); /* of equals the lowest id: no doubt */
    }
    for (size_t i = 0; i < n; i++) total += weight[i] = exp((c[i].logit - c[0].logit) / (double)p->temperature);
    for (double before = 0; keep < n; before += weight[keep++]) {
        if (keep == 0) continue;
        if (p->top_p < 1) margin = fmin(margin, fabs(before / total - (double)p->top_p));
        if (p->min_p > 0) margin = fmin(margin, fabs(weight[keep] - (double)p->min_p));
        if ((p->top_p < 1 && before >= (double)p->top_p * total) || weight[keep] < (double)p->min_p) break;
    }
    for (size_t i = 0; i < keep; i++) sum += weight[i];
    for (size_t i = 0; i < keep; i++) out[c[i].token] = weight[i] / sum;
    return margin;
}

/* Draws `draws` tokens and holds them against their shares: none from outside the set; none of the set that should have
 * come 40 times is missing (probability e^-40); Pearson's chi-square below the quantile that lies z standard deviations
 * up. Cells that expect fewer than 5 count as one. */
static void draws_check(struct sample_row r, size_t vocab, const double *want, uint32_t draws, double z, size_t setting)
{
    int count[MAX_VOCAB] = {0};
    for (r.position = 0; r.position < draws; r.position++) {
        int32_t token = sample(&r, vocab).token;
        assert_true(token >= 0 && (size_t)token < vocab);
        if (want[token] == 0) fail_msg("setting %zu: token %d came and may not", setting, token);
        count[token]++;
    }
    double chi2 = 0, rest_want = 0, rest_count = 0, df = -1;
    for (size_t i = 0; i < vocab; i++) {
        double expected = want[i] * draws;
        if (expected > 40 && count[i] == 0) fail_msg("setting %zu: token %zu never came", setting, i);
        if (expected < 5) {
            rest_want += expected;
            rest_count += count[i];
        } else {
            chi2 += (count[i] - expected) * (count[i] - expected) / expected;
            df++;
        }
    }
    if (rest_want >= 5) {
        chi2 += (rest_count - rest_want) * (rest_count - rest_want) / rest_want;
        df++;
    }
    /* Wilson and Hilferty's approximation; with one cell nothing can differ */
    double quantile = df > 0 ? df * pow(1 - 2 / (9 * df) + z * sqrt(2 / (9 * df)), 3) : 1e-9;
    if (df > 0 && chi2 > quantile)
        fail_msg("setting %zu: chi-square %.1f with %.0f degrees of freedom is over %.1f", setting, chi2, df, quantile);
}

static void test_draws(void **unused)
{
    (void)unused;
    static const struct sample_params settings[] = {
        {.temperature = 1, .top_p = 1},
        {.temperature = 0.5f, .top_p = 1},
        {.temperature = 2, .top_p = 1},
        {.temperature = 1e6f, .top_p = 1},
        {.temperature = 1e-6f, .top_p = 1},
        {.temperature = 1, .top_p = 1, .top_k = 7},
        {.temperature = 1, .top_p = 1, .top_k = 1},
        {.temperature = 0.8f, .top_p = 0.6f},
        {.temperature = 1, .top_p = 0.0001f},
        {.temperature = 1, .top_p = 1, .min_p = 0.2f},
        {.temperature = 1, .top_p = 1, .min_p = 1},
        {.temperature = 0.7f, .top_p = 0.8f, .top_k = 20, .min_p = 0.05f},
    };
    float logits[VOCAB];
    double want[VOCAB];
    for (size_t s = 0; s < sizeof settings / sizeof *settings; s++) {
        distribution(logits, (uint32_t)s + 1);
        struct sample_row r = row_of(logits, 1);
        r.params = settings[s];
        r.params.repetition_penalty = 1;
        r.params.top_logprobs = -1;
        r.params.seed = 1000 + s;
        assert_true(shares(&r, VOCAB, want) > 1e-5);
        draws_check(r, VOCAB, want, DRAWS, 3.0902, s); /* the 0.999 quantile */
    }
}

/* As test_draws, with the ways a large vocabulary is cut down before it is sorted. */
static void test_draws_of_a_large_vocabulary(void **unused)
{
    (void)unused;
    static const struct sample_params settings[] = {
        {.temperature = 1, .top_p = 1},         {.temperature = 3, .top_p = 1},    {.temperature = 1, .top_p = 1, .top_k = 300},
        {.temperature = 0.3f, .top_p = 0.95f},  {.temperature = 1, .top_p = 0.7f}, {.temperature = 0.4f, .top_p = 1, .min_p = 0.02f},
        {.temperature = 0.5f, .top_p = 0.9f, .top_k = 1500}};
    float *logits = malloc(MAX_VOCAB * sizeof *logits);
    double *want = malloc(MAX_VOCAB * sizeof *want);
    assert_true(logits && want);
    noise_state = 11;
    for (size_t i = 0; i < MAX_VOCAB; i++) logits[i] = 2 * (noise() + noise() + noise());
    for (size_t s = 0; s < sizeof settings / sizeof *settings; s++) {
        struct sample_row r = row_of(logits, 1);
        r.params = settings[s];
        r.params.repetition_penalty = 1, r.params.top_logprobs = -1, r.params.seed = 2000 + s;
        double margin = shares(&r, MAX_VOCAB, want);
        assert_true(margin > 1e-6);
        draws_check(r, MAX_VOCAB, want, DRAWS / 4, 3.43, s); /* 0.999 for all together */
    }
    free(logits);
    free(want);
}

/* Rows sampled together, by several threads, give what each gives alone. */
static void test_rows_do_not_depend_on_each_other(void **unused)
{
    (void)unused;
    enum { ROWS = 7 };
    float *logits = malloc(ROWS * MAX_VOCAB * sizeof *logits);
    assert_non_null(logits);
    struct sample_row rows[ROWS];
    struct sample_result together[ROWS];
    struct err e = {0};
    noise_state = 12;
    for (size_t i = 0; i < ROWS * MAX_VOCAB; i++) logits[i] = 4 * noise();
    int32_t said[] = {5, 6, 7};
    for (size_t i = 0; i < ROWS; i++) {
        rows[i] = row_of(logits + i * MAX_VOCAB, i == 3 ? 0 : 1);
        rows[i].position = (uint32_t)i;
        rows[i].params.top_p = i % 2 ? 0.9f : 1, rows[i].params.top_k = i == 4 ? 40 : 0, rows[i].params.top_logprobs = i == 5 ? 20 : -1;
        rows[i].params.frequency_penalty = i == 6 ? 0.7f : 0;
        rows[i].made = said, rows[i].n_made = 3;
    }
    assert_int_equal(ops_cpu.sample(device, rows, ROWS, MAX_VOCAB, together, &e), 0);
    for (size_t i = 0; i < ROWS; i++) {
        struct sample_result alone = sample(&rows[i], MAX_VOCAB);
        assert_memory_equal(&alone, &together[i], sizeof alone);
    }
    free(logits);
}

/* Everything at once: penalties, bias, bans and mask move the set, then the cuts are made. */
static void test_random_settings(void **unused)
{
    (void)unused;
    enum { SETTINGS = 60, N = 77, SAID = 12 };
    int doubtful = 0;
    noise_state = 5;
    for (size_t s = 0; s < SETTINGS; s++) {
        float *logits = noise_edge(N);
        uint32_t *mask = edge((N + 31) / 32 * sizeof *mask);
        int32_t prompt[SAID], made[SAID], banned[2], banned_now[2];
        struct token_bias bias[4];
        for (size_t i = 0; i < N; i++) logits[i] *= 4;
        for (size_t i = 0; i < 3; i++) mask[i] = noise_bits() | noise_bits();
        for (size_t i = 0; i < SAID; i++) prompt[i] = (int32_t)(noise_bits() % N), made[i] = (int32_t)(noise_bits() % 9);
        for (size_t i = 0; i < 2; i++) banned[i] = (int32_t)(noise_bits() % N), banned_now[i] = (int32_t)(noise_bits() % N);
        for (size_t i = 0; i < 4; i++) bias[i] = (struct token_bias){(int32_t)(noise_bits() % N), noise() * 5};
        struct sample_row r = row_of(logits, 1.2f + noise());
        r.prompt = prompt, r.n_prompt = SAID, r.made = made, r.n_made = SAID;
        r.banned = banned, r.n_banned = s % 3, r.banned_now = banned_now, r.n_banned_now = s % 2 * 2;
        r.bias = bias, r.n_bias = 4, r.mask = s % 4 ? mask : NULL;
        r.params.repetition_penalty = s % 2 ? 1 : 1.3f + noise() / 2;
        r.params.frequency_penalty = s % 3 == 1 ? 0 : noise();
        r.params.presence_penalty = s % 5 == 1 ? 0 : noise();
        r.params.top_k = s % 3 ? (int32_t)(1 + noise_bits() % 40) : 0;
        r.params.top_p = s % 4 == 3 ? 1 : 0.6f + noise() / 3;
        r.params.min_p = s % 5 == 3 ? 0.05f + noise() / 25 : 0;
        r.params.seed = 77 * s;
        double want[MAX_VOCAB];
        if (shares(&r, N, want) < 1e-5)
            doubtful++;
        else
            draws_check(r, N, want, 3000, 4.15, s); /* 0.999 for all 60 together: 1 - 0.001 / 60 each */
        edges_release(0);
    }
    assert_true(doubtful <= 3);
}

/* Shares 1/2, 1/4, 1/8, 1/16, 1/16: a cut a thousandth below or above where a token stands keeps it or drops it. */
static void test_cuts_are_sharp(void **unused)
{
    (void)unused;
    const float logits[] = {-3, -1, -4, -2, -4}; /* times ln 2, by the temperature */
    static const struct {
        float top_p, min_p;
        int kept;
    } cuts[] = {{0.4995f, 0, 1},  {0.5005f, 0, 2},  {0.7495f, 0, 2},      {0.7505f, 0, 3}, {0.8745f, 0, 3},
                {0.8755f, 0, 4},  {1, 0.5005f, 1},  {1, 0.4995f, 2},      {1, 0.2505f, 2}, {1, 0.2495f, 3},
                {1, 0.12505f, 3}, {1, 0.12495f, 5}, {0.8745f, 0.2505f, 2}};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        struct sample_row r = row_of(logits, 1.4426950f);
        r.params.top_p = cuts[i].top_p, r.params.min_p = cuts[i].min_p;
        double want[5];
        int kept = 0;
        assert_true(shares(&r, 5, want) > 1e-5);
        for (size_t t = 0; t < 5; t++) kept += want[t] > 0;
        assert_int_equal(kept, cuts[i].kept);
        draws_check(r, 5, want, 2000, 3.78, i); /* 0.999 for all 13 together */
    }
}

static void test_top_k_keeps_the_lowest_of_equals(void **unused)
{
    (void)unused;
    const float logits[] = {0, 1, 3, 1, 1, 3, 1};
    struct sample_row r = row_of(logits, 1);
    double want[7];
    r.params.top_k = 4; /* 2, 5, 1 and 3 */
    assert_true(shares(&r, 7, want) == 1);
    assert_true(want[1] > 0 && want[3] > 0 && want[4] == 0 && want[6] == 0);
    draws_check(r, 7, want, 4000, 3.0902, 0);
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
    struct device *other, *kept = device; /* another device, other kernels, more threads: the same tokens */
    struct err e = {0};
    assert_int_equal(ops_cpu.open(&other, &(struct device_options){.threads = 3, .isa = "ref"}, &e), 0);
    assert_int_equal(ops_cpu.reserve(other, &(struct device_limits){.vocab = VOCAB, .head_dim = 16}, &e), 0);
    for (uint32_t p = 0; p < 100; p++) {
        struct sample_row r = row_of(logits, 1);
        r.position = p;
        int32_t a = sample(&r, VOCAB).token;
        device = other;
        int32_t b = sample(&r, VOCAB).token;
        device = kept;
        assert_int_equal(a, b);
    }
    assert_int_equal(ops_cpu.sample(device, NULL, 0, VOCAB, NULL, &e), 0); /* no rows, nothing done */
    ops_cpu.close(other);
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

static double log_softmax(const float *logits, size_t vocab, size_t token)
{
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < vocab; i++) max = fmax(max, (double)logits[i]);
    for (size_t i = 0; i < vocab; i++) sum += exp((double)logits[i] - max);
    return (double)logits[token] - max - log(sum);
}

/* Many equals, rising, falling, a roof, all the same, every other: what selection must get right, for sizes around the
 * number wanted. */
static void fill_pattern(float *logits, size_t n, int pattern)
{
    for (size_t i = 0; i < n; i++) {
        float at = (float)i / (float)n * 8, roof = (float)(i < n / 2 ? i : n - i) / (float)n * 8;
        const float by[] = {(float)(noise_bits() % 9), at, -at, roof, 1, (float)(i % 2), noise() * 20};
        logits[i] = by[pattern];
    }
}

static void test_top_logprobs(void **unused)
{
    (void)unused;
    static const size_t sizes[] = {1, 2, 3, 19, 20, 21, 100, 1009, 49152};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int pattern = 0; pattern < 7; pattern++) {
            size_t n = sizes[s], most = n < SAMPLE_MAX_TOP ? n : SAMPLE_MAX_TOP;
            float *logits = edge(n * sizeof *logits);
            struct scored *sorted = malloc(n * sizeof *sorted);
            fill_pattern(logits, n, pattern);
            for (size_t i = 0; i < n; i++) sorted[i] = (struct scored){(double)logits[i], i};
            qsort(sorted, n, sizeof *sorted, by_score);
            struct sample_row r = row_of(logits, 1);
            r.params.top_logprobs = pattern % 2 ? 100 : SAMPLE_MAX_TOP; /* no more than there is room for */
            struct sample_result out = sample(&r, n);
            assert_int_equal(out.n_top, most);
            assert_true(fabs((double)out.logprob - log_softmax(logits, n, (size_t)out.token)) < 1e-5);
            for (size_t i = 0; i < most; i++) {
                assert_int_equal(out.top_token[i], sorted[i].token);
                assert_true(fabs((double)out.top_logprob[i] - log_softmax(logits, n, sorted[i].token)) < 1e-5);
            }
            for (r.params.top_k = 1; r.params.top_k < 40; r.params.top_k += 7) { /* top-k selects by the same order */
                int32_t token = sample(&r, n).token;
                size_t rank = 0;
                while (sorted[rank].token != (size_t)token) rank++;
                assert_true(rank < (size_t)r.params.top_k);
            }
            free(sorted);
            edges_release(0);
        }
}

static void test_logprobs_of_extremes(void **unused)
{
    (void)unused;
    const float logits[] = {3e38f, -3e38f, 3e38f, -INFINITY};
    struct sample_row r = row_of(logits, 0);
    r.params.top_logprobs = 4;
    struct sample_result out = sample(&r, 4);
    assert_int_equal(out.token, 0);
    assert_true(fabs((double)out.logprob + log(2)) < 1e-5);
    assert_true(out.top_token[0] == 0 && out.top_token[1] == 2 && out.top_token[2] == 1 && out.top_token[3] == 3);
    assert_true(out.top_logprob[2] < -1e38f && out.top_logprob[3] == -INFINITY);
    r.params.top_logprobs = -1; /* not asked for: not computed */
    out = sample(&r, 4);
    assert_true(out.logprob == 0 && out.n_top == 0);
    const float none[] = {-INFINITY, -INFINITY};
    r = row_of(none, 1);
    assert_int_equal(sample(&r, 2).token, -1);
}

/* Logits are only read, and nothing beyond them or the mask is. */
static void test_reads_its_row_only(void **unused)
{
    (void)unused;
    enum { N = 33 };
    float *logits = noise_edge(N);
    uint32_t *mask = edge(2 * sizeof *mask);
    mask[0] = 0x0F0F0F0F, mask[1] = 0xFFFFFFFE; /* bit 32 is clear; the bits past the vocabulary name no token */
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    assert_int_equal(mprotect((void *)((uintptr_t)logits & ~(uintptr_t)(page - 1)), page, PROT_READ), 0);
    struct sample_row r = row_of(logits, 3);
    r.mask = mask;
    r.params.repetition_penalty = 1.5f, r.params.frequency_penalty = 0.5f, r.params.top_logprobs = 20;
    int32_t said[] = {1, 2, 3, 40, -1, INT32_MAX, INT32_MIN};
    r.prompt = r.made = said, r.n_prompt = r.n_made = 7;
    r.banned = said, r.n_banned = 7;
    for (r.position = 0; r.position < 500; r.position++) {
        int32_t token = sample(&r, N).token;
        assert_true(token >= 0 && token < 32 && (mask[0] >> token & 1) && (token == 0 || token > 3));
    }
    edges_release(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_non_finite),
        cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_draws_of_a_large_vocabulary),
        cmocka_unit_test(test_rows_do_not_depend_on_each_other),
        cmocka_unit_test(test_random_settings),
        cmocka_unit_test(test_cuts_are_sharp),
        cmocka_unit_test(test_top_k_keeps_the_lowest_of_equals),
        cmocka_unit_test(test_same_seed),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_top_logprobs),
        cmocka_unit_test(test_logprobs_of_extremes),
        cmocka_unit_test(test_reads_its_row_only),
    };
    int failed = 0;
    for (size_t i = 0; i < sizeof kernel_sets / sizeof *kernel_sets; i++) {
        kernel_set = kernel_sets[i];
        if (cpu_kernels_choose(kernel_set)) failed += cmocka_run_group_tests_name(kernel_set, tests, open_device, close_device);
    }
    return failed;
}
