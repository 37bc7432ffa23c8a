/* bench_cuda_models: whole models of random weights on the CUDA backend, through engine/model.h: loading, first token, decode alone and in batches,
 * pictures.
 *
 *     bench_cuda_models --library libspillway_cuda.so [--tiny] [--read-gb-per-s X] [--seconds N] [--json FILE] [NAME ...]
 *
 * Times are the clock's around a step and its sampling, which waits for the tokens, so they hold what the host does; host_us is how long the step took
 * to queue. Decode steps are at positions 512 and on; what lies in the cache is zeros, which costs the same to read. A decode step has to read
 *     bytes = weights (of an untied pair only the head) + batch x position x keys and values of a position
 * and of_bound is the time that takes at the card's read rate (bench_cuda's), over the time it took.
 * FLOPs of a prompt: 2 x rows x numbers in the layers' matrices; attention and the head's one row are left out. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/model.h"

enum { CONTEXT = 512, MAX_BATCH = 256, MAX_STEPS = 64, ROOM = 640 /* positions of a sequence */, TILES = 17 /* of a large picture */ };

struct bench_case {
    const char *name, *shape;
    enum model_quant quant, quant_head;
    enum dtype kv_dtype;
    bool tied;
};

static const struct bench_case real_cases[] = {
    {"135m", "135m", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16, true},
    {"135m-int8", "135m", MODEL_QUANT_INT8, MODEL_QUANT_INT8, DTYPE_BF16, true},
    {"135m-int4", "135m", MODEL_QUANT_INT4, MODEL_QUANT_INT8, DTYPE_BF16, true},
    {"135m-fp8", "135m", MODEL_QUANT_FP8, MODEL_QUANT_FP8, DTYPE_E4M3, true},
    {"360m", "360m", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16, true},
    {"vlm-256m", "vlm-256m", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16, false},
    {"1.7b", "1.7b", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16, true},
    {"3b", "3b", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16, true},
    {"1.7b-kv8", "1.7b", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_I8, true}};
static const struct bench_case tiny_cases[] = {{"tiny", "tiny", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16, true},
                                               {"vlm-tiny", "vlm-tiny", MODEL_QUANT_NONE, MODEL_QUANT_NONE, DTYPE_BF16, false}};

struct bench {
    struct model *m;
    const struct model_limits *l;
    const struct bench_case *c;
    uint32_t context, room, max_batch, steps;
    uint32_t *blocks; /* (max_batch, room / block_tokens) */
    int32_t *tokens;  /* (context) or (max_batch) */
};

static const char *library;
static bool tiny;
static double read_gb_per_s;
static FILE *json;

static void must(int rc, const struct err *e)
{
    if (rc == 0) return;
    fprintf(stderr, "bench_cuda_models: %s\n", e->msg);
    exit(2);
}

static double now_s(void)
{
    return (double)clock_boot_ns() / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *s, size_t n)
{
    qsort(s, n, sizeof *s, by_value);
    return s[n / 2];
}

static void row(const char *name, const char *what, double value, const char *unit, const char *more)
{
    printf("%-10s %-22s %12.2f %s\n", name, what, value, unit);
    fflush(stdout);
    if (!json) return;
    fprintf(json, "{\"part\": \"bench\", \"model\": \"%s\", \"what\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"%s}\n", name, what, value, unit, more);
    fflush(json);
}

static int model_make(struct model **m, const struct bench_case *c, uint64_t kv_tokens, struct err *e)
{
    char spec[64];
    const struct model_options o = {.device = "cuda",
                                    .cuda_library = library,
                                    .compute = COMPUTE_BF16,
                                    .kv_dtype = c->kv_dtype,
                                    .quant = c->quant,
                                    .quant_head = c->quant_head,
                                    .kv_tokens = kv_tokens};
    snprintf(spec, sizeof spec, "%s:1", c->shape);
    return model_open_random(m, spec, &o, e);
}

/* As many sequences as the card has room for, at most MAX_BATCH. */
static void bench_open(struct bench *b, const struct bench_case *c)
{
    struct err e = {0};
    *b = (struct bench){.c = c, .context = tiny ? 100 : CONTEXT, .room = tiny ? 128 : ROOM, .max_batch = tiny ? 4 : MAX_BATCH, .steps = tiny ? 2 : MAX_STEPS};
    const double begin = now_s();
    int rc;
    while ((rc = model_make(&b->m, c, (uint64_t)b->max_batch * b->room, &e)) == -ERR_MEMORY && b->max_batch > 1) b->max_batch /= 4;
    must(rc, &e);
    char more[96];
    b->l = model_limits(b->m);
    snprintf(more, sizeof more, ", \"weight_bytes\": %llu", (unsigned long long)b->l->weight_bytes);
    row(c->name, "load, weights made", now_s() - begin, "s", more);
    const uint32_t each = b->room / b->l->block_tokens;
    b->blocks = malloc((size_t)b->max_batch * each * sizeof *b->blocks);
    b->tokens = malloc((b->context > MAX_BATCH ? b->context : MAX_BATCH) * sizeof *b->tokens);
    if (!b->blocks || !b->tokens) exit(2);
    for (uint32_t i = 0; i < b->max_batch * each; i++) b->blocks[i] = i;
    for (uint32_t i = 0; i < (b->context > MAX_BATCH ? b->context : MAX_BATCH); i++) b->tokens[i] = (int32_t)(i * 2654435761u % (b->l->vocab - 1));
}

/* Samples the n rows of the last step, greedily, into tokens. */
static void sample(struct bench *b, uint32_t n, uint32_t position)
{
    struct err e = {0};
    static struct sample_row rows[MAX_BATCH];
    static struct sample_result out[MAX_BATCH];
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (struct sample_row){
            .logits = model_logits(b->m, i), .params = {.top_p = 1, .repetition_penalty = 1, .top_logprobs = -1}, .position = position};
    must(model_sample(b->m, rows, n, out, &e), &e);
    for (uint32_t i = 0; i < n; i++) b->tokens[i] = out[i].token < 0 || out[i].token == b->l->image_token ? 1 : out[i].token;
}

static void bench_first_token(struct bench *b)
{
    struct err e = {0};
    double s[5];
    const size_t n = tiny ? 1 : 5;
    for (size_t i = 0; i <= n; i++) { /* the first is not counted */
        const struct model_group g = {.tokens = b->tokens, .n_rows = b->context, .prefill = true, .blocks = b->blocks, .logits = true};
        const double begin = now_s();
        must(model_step(b->m, &g, 1, &e), &e);
        sample(b, 1, b->context);
        if (i) s[i - 1] = now_s() - begin;
    }
    const double time = median(s, n), embed = (double)b->l->vocab * b->l->hidden * (b->c->tied ? 1 : 2);
    char more[128] = "";
    if (!b->c->quant && !b->l->tile_px) /* 2 bytes a number; norms are too few to count */
        snprintf(more, sizeof more, ", \"tflop_per_s\": %.2f", 2 * b->context * ((double)b->l->weight_bytes / 2 - embed) / time / 1e12);
    row(b->c->name, "first token of 512", time * 1e3, "ms", more);
}

static double step_bytes(const struct bench *b, uint32_t batch)
{
    const struct model_limits *l = b->l;
    const double kv = (double)l->kv_bytes / ((double)l->n_blocks * l->block_tokens);
    const double unread = b->c->tied ? 0 : (double)l->vocab * l->hidden * 2;
    return (double)l->weight_bytes - unread + batch * kv * (b->context + b->steps / 2.0);
}

static void bench_decode(struct bench *b, uint32_t batch)
{
    struct err e = {0};
    static struct model_group groups[MAX_BATCH];
    static double s[MAX_STEPS], queued[MAX_STEPS];
    const uint32_t each = b->room / b->l->block_tokens;
    if (batch > b->max_batch) return;
    for (uint32_t i = 0; i <= b->steps; i++) {
        for (uint32_t k = 0; k < batch; k++)
            groups[k] = (struct model_group){
                .tokens = &b->tokens[k], .first_position = b->context + i, .n_rows = 1, .blocks = b->blocks + (size_t)k * each, .logits = true};
        const double begin = now_s();
        must(model_step(b->m, groups, batch, &e), &e);
        const double between = now_s();
        sample(b, batch, b->context + i);
        if (i) s[i - 1] = now_s() - begin, queued[i - 1] = between - begin;
    }
    const double time = median(s, b->steps), bytes = step_bytes(b, batch);
    char what[64], more[192];
    snprintf(what, sizeof what, "decode, batch %u", batch);
    snprintf(more, sizeof more, ", \"step_us\": %.1f, \"host_us\": %.1f, \"bytes\": %.0f, \"gb_per_s\": %.2f, \"of_bound\": %.4f", time * 1e6,
             median(queued, b->steps) * 1e6, bytes, bytes / time / 1e9, read_gb_per_s > 0 ? bytes / time / 1e9 / read_gb_per_s : 0);
    row(b->c->name, what, batch / time, "tokens/s", more);
}

/* Tiles one after another, as the engine encodes them; reading a logit of the last step waits for all. */
static void bench_tiles(struct bench *b)
{
    struct err e = {0};
    const uint32_t n = tiny ? 1 : TILES;
    const size_t bytes = 3 * (size_t)b->l->tile_px * b->l->tile_px;
    uint8_t *pixels = malloc(bytes);
    float *logits = malloc(b->l->vocab * sizeof *logits);
    struct picture *p;
    double s[3];
    if (!pixels || !logits) exit(2);
    for (size_t i = 0; i < bytes; i++) pixels[i] = (uint8_t)(i * 2654435761u >> 24);
    must(picture_new(b->m, n, &p, &e), &e);
    for (size_t i = 0; i < 4; i++) {
        const double begin = now_s();
        for (uint32_t t = 0; t < n; t++) must(model_encode_tile(b->m, p, t, pixels, &e), &e);
        must(model_read_logits(b->m, 0, logits, &e), &e);
        if (i) s[i - 1] = now_s() - begin;
    }
    const double time = median(s, 3);
    row(b->c->name, "tiles", n / time, "1/s", "");
    row(b->c->name, "pictures of 17 tiles", n / time / TILES, "1/s", "");
    picture_free(b->m, p);
    free(pixels), free(logits);
}

static void bench_case(const struct bench_case *c)
{
    static const uint32_t batches[] = {1, 4, 16, 64, 256};
    struct bench b;
    bench_open(&b, c);
    bench_first_token(&b);
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) bench_decode(&b, batches[i]);
    if (b.l->tile_px) bench_tiles(&b);
    model_close(b.m);
    free(b.blocks), free(b.tokens);
}

static bool wanted(const char *name, char **names, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return true;
    return n == 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"library", 1, NULL, 'l'}, {"tiny", 0, NULL, 't'},    {"read-gb-per-s", 1, NULL, 'r'},
                                            {"json", 1, NULL, 'j'},    {"seconds", 1, NULL, 'm'}, {NULL, 0, NULL, 0}};
    const double begin = now_s();
    double seconds = INFINITY;
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'l') library = optarg;
        if (c == 't') tiny = true;
        if (c == 'r') read_gb_per_s = strtod(optarg, NULL);
        if (c == 'm') seconds = strtod(optarg, NULL);
        if (c == 'j' && !(json = fopen(optarg, "a"))) return fprintf(stderr, "bench_cuda_models: %s cannot be written\n", optarg), 2;
        if (c == '?') return 2;
    }
    /* What the device and its code cost a process once, and a small model after it. */
    struct err e = {0};
    struct model *m = NULL;
    must(model_make(&m, &tiny_cases[0], 1024, &e), &e);
    row("tiny", "start-up", now_s() - begin, "s", "");
    model_close(m);
    const struct bench_case *cases = tiny ? tiny_cases : real_cases;
    const size_t n = tiny ? sizeof tiny_cases / sizeof *tiny_cases : sizeof real_cases / sizeof *real_cases;
    for (size_t i = 0; i < n; i++) {
        if (!wanted(cases[i].name, argv + optind, argc - optind)) continue;
        if (now_s() - begin > seconds)
            printf("left out: %s, for want of time\n", cases[i].name);
        else
            bench_case(&cases[i]);
    }
    if (json) fclose(json);
    return 0;
}
