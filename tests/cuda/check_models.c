/* check_models: whole models of random weights on the CUDA backend and on the CPU, logit by logit.
 *
 *     check_models --library libspillway_cuda.so [--tiny] [--fast] [--seed N] [--seconds N] [--json FILE] [NAME ...]
 *
 * A prompt of 70 tokens is one step with the logits of every row; 16 decode steps follow, each fed the token that the CPU's logits make likeliest, so
 * that both stay comparable where they would choose apart. Where the CPU's best is ahead by more than twice the largest difference CUDA has to choose
 * the same.
 * Then bytes: a row computed alone and in a step with others, recorded or not; not with --fast, which promises none. NAMEs choose cases;
 * --seconds: no case begins later than that.
 *
 * The bound. Both round at the same eight places of a layer (operands of the two normed products, keys, values, queries, weights of
 * attention, what it gives, gate times up), but hold other digits before, so at worst each rounds for itself. Of its rms a rounding to bf16
 * is off by up to 2^-9; one to 8 bits by a step over sqrt(12), the step being the largest of 64 numbers over 127, and the largest at most 8
 * rms (four products a layer read such rows; an int8 cache has two more); one to e4m3 by up to 2^-4 of each number, over sqrt(3) as errors
 * lie evenly. Let P be the sum of these squares over a layer's places. If all layers add as much, and a layer that reads x with a relative
 * error adds with that error, then after l layers its square r has grown by P / l: the residual's error has the l-th part of a new one, and
 * of the old one keeps the share. Both sides' errors are independent, so
 *     rms <= b = rms(logits) sqrt(2 P (1 + 1/2 + ... + 1/layers)),
 * the logits of a row differ by at most 2 b (a row's errors are one draw of hidden numbers, of which a few are large), none of some million
 * by more than 10 b. bf16 against float32 on the CPU, one side: 0.0065 of rms(logits) in 2 layers, 0.0078 in 30 (135m:1), where this gives
 * 0.0068 and 0.0110.
 * Planted fault: the row of the neighbouring position, which differs by 1.4 rms(logits), must fail. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/model.h"

enum { PROMPT = 70, STEPS = 16, ROWS = PROMPT + STEPS, SEQUENCES = 8, ROOM = 128 /* positions of a sequence */ };

struct check_case {
    const char *name, *shape;
    enum model_quant quant, quant_head;
    enum dtype kv_dtype;
};

static const struct check_case real_cases[] = {
    {"135m", "135m", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16},         {"135m-int8", "135m", MODEL_QUANT_INT8, MODEL_QUANT_INT8, DTYPE_BF16},
    {"135m-int4", "135m", MODEL_QUANT_INT4, MODEL_QUANT_INT8, DTYPE_BF16},    {"135m-kv8", "135m", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_I8},
    {"135m-fp8", "135m", MODEL_QUANT_FP8, MODEL_QUANT_FP8, DTYPE_E4M3},
    {"360m", "360m", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16},         {"vlm-256m", "vlm-256m", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16},
    {"1.7b", "1.7b", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16},         {"3b", "3b", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16}};
static const struct check_case tiny_cases[] = {
    {"tiny", "tiny", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16},      {"tiny-int8", "tiny", MODEL_QUANT_INT8, MODEL_QUANT_INT8, DTYPE_BF16},
    {"tiny-int4", "tiny", MODEL_QUANT_INT4, MODEL_QUANT_INT8, DTYPE_BF16}, {"tiny-kv8", "tiny", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_I8},
    {"tiny-fp8", "tiny", MODEL_QUANT_FP8, MODEL_QUANT_FP8, DTYPE_E4M3},
    {"vlm-tiny", "vlm-tiny", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16}};

static const char *library;
static bool fast; /* as --decode fast */
static unsigned long seed = 1;
static FILE *json;

static void must(int rc, const struct err *e)
{
    if (rc == 0) return;
    fprintf(stderr, "check_models: %s\n", e->msg);
    exit(2);
}

static double now_s(void)
{
    return (double)clock_boot_ns() / 1e9;
}

static uint32_t noise_state;
static uint32_t noise(void)
{
    noise_state = noise_state * 1664525u + 1013904223u;
    return noise_state ^ noise_state >> 15;
}

/* One model on one device, with the blocks of its sequences. */
struct run {
    struct model *m;
    const struct model_limits *l;
    uint32_t blocks[SEQUENCES][ROOM];
    struct picture *picture; /* or NULL */
};

static void run_open(struct run *r, const struct check_case *c, const char *device)
{
    struct err e = {0};
    char spec[64];
    const struct model_options o = {.device = device,
                                    .cuda_library = library,
                                    .compute = COMPUTE_BF16,
                                    .fast = fast,
                                    .kv_dtype = c->kv_dtype,
                                    .quant = c->quant,
                                    .quant_head = c->quant_head,
                                    .kv_tokens = SEQUENCES * ROOM};
    snprintf(spec, sizeof spec, "%s:%lu", c->shape, seed);
    *r = (struct run){0};
    must(model_open_random(&r->m, spec, &o, &e), &e);
    r->l = model_limits(r->m);
    const uint32_t each = ROOM / r->l->block_tokens;
    for (uint32_t s = 0; s < SEQUENCES; s++)
        for (uint32_t i = 0; i < each; i++) r->blocks[s][i] = (s * each + i) * 5 % (SEQUENCES * each); /* anywhere; 5 shares no factor with 2^n */
    if (!r->l->tile_px) return;
    const size_t bytes = 3 * (size_t)r->l->tile_px * r->l->tile_px;
    uint8_t *pixels = malloc(bytes);
    noise_state = (uint32_t)seed;
    for (size_t i = 0; i < bytes; i++) pixels[i] = (uint8_t)(noise() >> 24);
    must(picture_new(r->m, 1, &r->picture, &e), &e);
    must(model_encode_tile(r->m, r->picture, 0, pixels, &e), &e);
    free(pixels);
}

static void run_close(struct run *r)
{
    picture_free(r->m, r->picture);
    model_close(r->m);
}

/* Three tokens, the picture's where there is one, and others. */
static void make_prompt(const struct run *r, int32_t tokens[ROWS])
{
    noise_state = (uint32_t)seed + 7;
    for (uint32_t i = 0; i < ROWS; i++) tokens[i] = (int32_t)(noise() % (r->l->vocab - 1)); /* the tiny model's image token is its last */
    for (uint32_t i = 0; i < ROWS; i++)
        if (tokens[i] == r->l->image_token) tokens[i] = 1;
    for (uint32_t i = 3; r->picture && i < 3 + r->l->tokens_per_tile; i++) tokens[i] = r->l->image_token;
}

static struct model_group group(const struct run *r, uint32_t sequence, const int32_t *tokens, uint32_t first, uint32_t n, bool prefill)
{
    return (struct model_group){.tokens = tokens + first,
                                .first_position = first,
                                .n_rows = n,
                                .prefill = prefill,
                                .blocks = r->blocks[sequence],
                                .picture = r->picture,
                                .logits = true};
}

static int32_t best_of(const float *logits, uint32_t n, float *ahead)
{
    uint32_t best = 0;
    float second = -INFINITY;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            second = logits[best], best = i;
        else if (logits[i] > second)
            second = logits[i];
    *ahead = logits[best] - second;
    return (int32_t)best;
}

static int32_t sampled(const struct run *r, uint32_t position)
{
    struct err e = {0};
    struct sample_result out;
    const size_t last = position < PROMPT ? PROMPT - 1 : 0; /* the prompt's step has all rows */
    const struct sample_row row = {
        .logits = model_logits(r->m, last), .params = {.top_p = 1, .repetition_penalty = 1, .top_logprobs = -1}, .position = position};
    must(model_sample(r->m, &row, 1, &out, &e), &e);
    return out.token;
}

/* All rows' logits; chosen: what model_sample takes after each of the last STEPS + 1 rows. `choose`: it is what the next row is given. */
static void run_rows(const struct run *r, int32_t tokens[ROWS], bool choose, float *logits, int32_t chosen[STEPS + 1])
{
    struct err e = {0};
    struct model_group g = group(r, 0, tokens, 0, PROMPT, true);
    g.all_logits = true;
    must(model_step(r->m, &g, 1, &e), &e);
    for (size_t i = 0; i < PROMPT; i++) must(model_read_logits(r->m, i, logits + i * r->l->vocab, &e), &e);
    chosen[0] = sampled(r, PROMPT - 1);
    for (uint32_t i = PROMPT; i < ROWS; i++) {
        if (choose) tokens[i] = chosen[i - PROMPT] == r->l->image_token ? 1 : chosen[i - PROMPT];
        g = group(r, 0, tokens, i, 1, false);
        g.picture = NULL;
        must(model_step(r->m, &g, 1, &e), &e);
        must(model_read_logits(r->m, 0, logits + (size_t)i * r->l->vocab, &e), &e);
        chosen[i - PROMPT + 1] = sampled(r, i);
    }
}

/* Logits of a row in one step and another; 1 if the bytes differ. */
static int differs(const struct run *r, size_t i, const float *alone, float *room, const char *what)
{
    struct err e = {0};
    must(model_read_logits(r->m, i, room, &e), &e);
    if (memcmp(alone, room, r->l->vocab * sizeof *room) == 0) return 0;
    printf("  %s: other bytes alone than with other rows\n", what);
    return 1;
}

/* Sequences of several lengths; one decodes alone, then in the midst of all while another's prompt is read; that prompt likewise. */
static int check_company(const struct run *r, const int32_t tokens[ROWS])
{
    static const uint32_t length[SEQUENCES - 1] = {33, 64, 65, 70, 1, 17, 70};
    struct err e = {0};
    struct model_group all[SEQUENCES];
    float *decoded = malloc(r->l->vocab * sizeof *decoded), *read = malloc(r->l->vocab * sizeof *read), *room = malloc(r->l->vocab * sizeof *room);
    for (uint32_t s = 0; s < SEQUENCES - 1; s++) {
        const struct model_group g = group(r, s, tokens, 0, length[s], true);
        must(model_step(r->m, &g, 1, &e), &e);
        all[s] = group(r, s, tokens, length[s], 1, false);
    }
    all[SEQUENCES - 1] = group(r, SEQUENCES - 1, tokens, 0, 68, true);
    must(model_step(r->m, &all[3], 1, &e), &e);
    must(model_read_logits(r->m, 0, decoded, &e), &e);
    must(model_step(r->m, &all[SEQUENCES - 1], 1, &e), &e);
    must(model_read_logits(r->m, 0, read, &e), &e);
    for (uint32_t s = 0; s < SEQUENCES - 1; s++)
        if (tokens[length[s]] == r->l->image_token) all[s].picture_row = length[s] - 3; /* make_prompt has it begin at 3 */
    must(model_step(r->m, all, SEQUENCES, &e), &e);
    int failed = differs(r, 3, decoded, room, "a decode row") + differs(r, SEQUENCES - 1, read, room, "a prompt");
    for (int i = 0; i < 3; i++) { /* steps that only decode: as they come, then recorded, then replayed */
        must(model_step(r->m, all, SEQUENCES - 1, &e), &e);
        failed += differs(r, 3, decoded, room, "a decode row of a step that only decodes");
    }
    free(decoded), free(read), free(room);
    return failed;
}

struct difference {
    double most, rms, worst_row, of; /* worst_row: the largest of the rows' rms; of: rms of the logits wanted */
};

static struct difference difference_of(const float *got, const float *want, size_t rows, size_t vocab)
{
    struct difference d = {0};
    double sum = 0, size = 0;
    for (size_t r = 0; r < rows; r++) {
        double row = 0;
        for (size_t i = r * vocab; i < (r + 1) * vocab; i++) {
            const double off = fabs((double)got[i] - (double)want[i]);
            if (!(off <= d.most)) d.most = isnan(off) ? INFINITY : off;
            row += off * off;
            size += (double)want[i] * (double)want[i];
        }
        sum += row;
        if (!(sqrt(row / (double)vocab) <= d.worst_row)) d.worst_row = sqrt(row / (double)vocab);
    }
    d.rms = sqrt(sum / (double)(rows * vocab)), d.of = sqrt(size / (double)(rows * vocab));
    return d;
}

static bool holds(struct difference d, double bound)
{
    return d.rms <= bound && d.worst_row <= 2 * bound && d.most <= 10 * bound; /* a NaN does not hold */
}

static double harmonic(uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 1; i <= n; i++) sum += 1.0 / i;
    return sum;
}

static double relative_bound(const struct check_case *c, const struct model_limits *l)
{
    const double bf16 = 0x1p-9 * 0x1p-9, eighth = 8 / 127.0 * 8 / 127.0 / 12;
    const double e4m3 = 0x1p-4 * 0x1p-4 / 3;
    double places = c->quant == MODEL_QUANT_FP8 ? 4 * e4m3 + 4 * bf16 : c->quant ? 4 * eighth + 4 * bf16 : 8 * bf16;
    if (c->kv_dtype == DTYPE_I8) places += 2 * eighth - 2 * bf16;
    if (c->kv_dtype == DTYPE_E4M3) places += 2 * e4m3 - 2 * bf16;
    return sqrt(2 * (harmonic(l->layers) * places + harmonic(l->tile_layers) * 8 * bf16));
}

struct outcome {
    struct difference d;
    double bound, cpu_s, cuda_s;
    int tokens, compared, tokens_wrong, company_wrong;
    bool holds, planted_fails;
};

static void compare(const struct check_case *c, const struct model_limits *l, const int32_t *tokens, const float *want, const float *got,
                    const int32_t *chosen, struct outcome *o)
{
    const size_t vocab = l->vocab;
    size_t last = ROWS - 1;
    while (last > PROMPT && tokens[last] == tokens[last - 1]) last--; /* rows of one token again and again are too much alike */
    o->d = difference_of(got, want, ROWS, vocab);
    o->bound = relative_bound(c, l) * o->d.of;
    o->holds = holds(o->d, o->bound);
    o->planted_fails = !holds(difference_of(got, want + vocab, 1, vocab), o->bound) &&
                       !holds(difference_of(got + (last - 1) * vocab, want + last * vocab, 1, vocab), o->bound);
    for (size_t i = 0; i <= STEPS; i++) {
        float ahead;
        const int32_t token = best_of(want + (PROMPT - 1 + i) * vocab, l->vocab, &ahead);
        o->tokens++;
        if ((double)ahead <= 2 * o->d.most) continue; /* may go either way; d.most is held to its bound itself */
        o->compared++;
        o->tokens_wrong += token != chosen[i];
    }
}

/* JSON has no infinity. */
static double json_number(double x)
{
    return isfinite(x) ? x : 1e300;
}

static void report(const struct check_case *c, const struct outcome *o, bool ok)
{
    const char *company = fast ? "not compared" : o->company_wrong ? "OTHER BYTES" : "same bytes";
    printf("%s %-10s%s differs by %.4f at most, %.5f rms (rows up to %.5f; bound %.4f, %.4f), logits %.2f rms; tokens: %d of %d told apart, %d wrong; "
           "company: %s; planted fault %s; CPU %.1f s, CUDA %.1f s\n",
           ok ? "ok    " : "FAILED", c->name, fast ? " fast" : "", o->d.most, o->d.rms, o->d.worst_row, 10 * o->bound, o->bound, o->d.of, o->compared, o->tokens, o->tokens_wrong,
           company, o->planted_fails ? "found" : "NOT FOUND", o->cpu_s, o->cuda_s);
    fflush(stdout);
    if (!json) return;
    fprintf(json,
            "{\"part\": \"models\", \"what\": \"%s%s\", \"ok\": %s, \"max_diff\": %.5g, \"rms_diff\": %.5g, \"worst_row_rms\": %.5g, \"bound_max\": %.5g, "
            "\"bound_rms\": %.5g, \"logits_rms\": %.4g, \"tokens\": %d, \"tokens_compared\": %d, \"tokens_wrong\": %d, \"same_bytes\": %s, "
            "\"planted_found\": %s, \"cpu_s\": %.2f, \"cuda_s\": %.2f}\n",
            c->name, fast ? " fast" : "", ok ? "true" : "false", json_number(o->d.most), json_number(o->d.rms), json_number(o->d.worst_row), 10 * o->bound, o->bound,
            o->d.of, o->tokens, o->compared, o->tokens_wrong,
            fast ? "null" : o->company_wrong ? "false" : "true", o->planted_fails ? "true" : "false", o->cpu_s, o->cuda_s);
    fflush(json);
}

static bool check(const struct check_case *c)
{
    struct run r;
    struct outcome o = {0};
    int32_t tokens[ROWS], chosen[STEPS + 1];
    double at = now_s();
    run_open(&r, c, "cpu");
    const struct model_limits limits = *r.l;
    float *want = malloc((size_t)ROWS * limits.vocab * sizeof *want), *got = malloc((size_t)ROWS * limits.vocab * sizeof *got);
    if (!want || !got) exit(2);
    make_prompt(&r, tokens);
    run_rows(&r, tokens, true, want, chosen);
    run_close(&r);
    o.cpu_s = now_s() - at, at = now_s();
    run_open(&r, c, "cuda");
    run_rows(&r, tokens, false, got, chosen);
    if (!fast) o.company_wrong = check_company(&r, tokens);
    run_close(&r);
    o.cuda_s = now_s() - at;
    compare(c, &limits, tokens, want, got, chosen, &o);
    free(want), free(got);
    const bool ok = o.holds && o.planted_fails && !o.tokens_wrong && !o.company_wrong;
    report(c, &o, ok);
    return ok;
}

static bool wanted(const char *name, char **names, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return true;
    return n == 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"library", 1, NULL, 'l'}, {"tiny", 0, NULL, 't'},    {"fast", 0, NULL, 'f'}, {"seed", 1, NULL, 's'},
                                            {"json", 1, NULL, 'j'},    {"seconds", 1, NULL, 'm'}, {NULL, 0, NULL, 0}};
    const struct check_case *cases = real_cases;
    size_t n = sizeof real_cases / sizeof *real_cases;
    double seconds = INFINITY, begin = now_s();
    int c, failed = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'l') library = optarg;
        if (c == 't') cases = tiny_cases, n = sizeof tiny_cases / sizeof *tiny_cases;
        if (c == 'f') fast = true;
        if (c == 's') seed = strtoul(optarg, NULL, 10);
        if (c == 'm') seconds = strtod(optarg, NULL);
        if (c == 'j' && !(json = fopen(optarg, "a"))) return fprintf(stderr, "check_models: %s cannot be written\n", optarg), 2;
        if (c == '?') return 2;
    }
    for (size_t i = 0; i < n; i++) {
        if (!wanted(cases[i].name, argv + optind, argc - optind)) continue;
        if (now_s() - begin > seconds)
            printf("left out: %s, for want of time\n", cases[i].name);
        else
            failed += !check(&cases[i]);
    }
    if (json) fclose(json);
    return failed ? 1 : 0;
}
