/* bench_model: prefill and decode of one model in this process, without server or tokenizer: tokens a second, and the bytes of weights and cache a
 * decode step has to read, as a rate to hold against the machine's memory.
 *
 *     bench_model [--model DIR | --random-weights SHAPE:SEED] [--compute f32|bf16] [--quant none|int8|int4|fp8]
 *                 [--quant-head none|int8|int4|fp8] [--kv-dtype f32|bf16|int8|fp8] [--threads N] [--pin-threads] [--isa SET]
 *                 [--prompt N] [--decode N] [--repeat N]
 *
 * --quant-head is int8 where --quant is given and it is not.
 *
 * One line of JSON a repetition, so that a caller can alternate with another program. Decoding is greedy and counts the sampling; ids are arbitrary. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/model.h"

struct run {
    struct model *m;
    uint32_t *blocks;
    uint32_t prompt, decode;
};

static int step(const struct run *r, const int32_t *ids, uint32_t first, uint32_t n, bool logits, struct err *e)
{
    struct model_group g = {.tokens = ids, .first_position = first, .n_rows = n, .prefill = n > 1, .blocks = r->blocks, .logits = logits};
    return model_step(r->m, &g, 1, e);
}

/* Fills the cache with `prompt` arbitrary ids; logits of the last. */
static int prefill(const struct run *r, int32_t *ids, struct err *e)
{
    const struct model_limits *l = model_limits(r->m);
    int rc = 0;
    for (uint32_t at = 0, n; at < r->prompt && !rc; at += n) {
        n = r->prompt - at < l->step_rows ? r->prompt - at : l->step_rows;
        rc = step(r, ids + at, at, n, at + n == r->prompt, e);
    }
    return rc;
}

static int sample_greedy(const struct run *r, uint32_t position, int32_t *token, struct err *e)
{
    struct sample_row row = {
        .logits = model_logits(r->m, 0), .params = {.temperature = 0, .top_p = 1, .repetition_penalty = 1}, .position = position};
    struct sample_result out;
    int rc = model_sample(r->m, &row, 1, &out, e);
    *token = out.token;
    return rc;
}

static int repetition(const struct run *r, int32_t *ids, struct err *e)
{
    const struct model_limits *l = model_limits(r->m);
    for (uint32_t i = 0; i < r->prompt; i++) ids[i] = (int32_t)((i * 2654435761u) % l->vocab);
    double t0 = (double)clock_boot_ns();
    int rc = prefill(r, ids, e);
    double t1 = (double)clock_boot_ns();
    int32_t token = 0;
    if (!rc) rc = sample_greedy(r, r->prompt, &token, e);
    for (uint32_t i = 0; i < r->decode && !rc; i++) {
        rc = step(r, &token, r->prompt + i, 1, true, e);
        if (!rc) rc = sample_greedy(r, r->prompt + i + 1, &token, e);
    }
    double t2 = (double)clock_boot_ns();
    if (rc) return rc;
    double kv_bytes = (double)l->kv_bytes / ((double)l->n_blocks * l->block_tokens) * (r->prompt + r->decode / 2.0);
    double decode_s = (t2 - t1) / 1e9 / r->decode;
    printf("{\"prefill_tokens_per_s\": %.2f, \"decode_tokens_per_s\": %.2f, \"decode_gb_per_s\": %.2f}\n", r->prompt / ((t1 - t0) / 1e9),
           1 / decode_s, ((double)l->weight_bytes + kv_bytes) / decode_s / 1e9);
    fflush(stdout);
    return 0;
}

static enum model_quant quant_of(const char *s)
{
    if (strcmp(s, "fp8") == 0) return MODEL_QUANT_FP8;
    return strcmp(s, "int8") == 0 ? MODEL_QUANT_INT8 : strcmp(s, "int4") == 0 ? MODEL_QUANT_INT4 : MODEL_QUANT_NONE;
}

int main(int argc, char **argv)
{
    enum { MODEL = 1, RANDOM, COMPUTE, THREADS, ISA, PROMPT, DECODE, REPEAT, KV_DTYPE, PIN, QUANT, QUANT_HEAD };
    static const struct option options[] = {
        {"model", 1, NULL, MODEL}, {"random-weights", 1, NULL, RANDOM}, {"compute", 1, NULL, COMPUTE},   {"threads", 1, NULL, THREADS},
        {"isa", 1, NULL, ISA},     {"prompt", 1, NULL, PROMPT},         {"decode", 1, NULL, DECODE},     {"repeat", 1, NULL, REPEAT},
        {"quant", 1, NULL, QUANT}, {"quant-head", 1, NULL, QUANT_HEAD}, {"kv-dtype", 1, NULL, KV_DTYPE}, {"pin-threads", 0, NULL, PIN},
        {NULL, 0, NULL, 0}};
    const char *dir = NULL, *spec = "135m:1";
    int repeat = 3, c, head = -1;
    struct run r = {.prompt = 512, .decode = 128};
    struct model_options o = {.device = "cpu", .compute = COMPUTE_BF16, .kv_dtype = DTYPE_BF16};
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case MODEL:
            dir = optarg;
            break;
        case RANDOM:
            spec = optarg;
            break;
        case COMPUTE:
            o.compute = strcmp(optarg, "f32") ? COMPUTE_BF16 : COMPUTE_F32;
            o.kv_dtype = strcmp(optarg, "f32") ? DTYPE_BF16 : DTYPE_F32;
            break;
        case KV_DTYPE: /* after --compute */
            o.kv_dtype = !strcmp(optarg, "int8")  ? DTYPE_I8
                         : !strcmp(optarg, "fp8") ? DTYPE_E4M3
                         : !strcmp(optarg, "f32") ? DTYPE_F32
                                                  : DTYPE_BF16;
            break;
        case PIN:
            o.pin_threads = true;
            break;
        case THREADS:
            o.threads = atoi(optarg);
            break;
        case ISA:
            o.isa = optarg;
            break;
        case PROMPT:
            r.prompt = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case DECODE:
            r.decode = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case QUANT:
            o.quant = quant_of(optarg);
            break;
        case QUANT_HEAD:
            head = (int)quant_of(optarg);
            break;
        case REPEAT:
            repeat = atoi(optarg);
            break;
        default:
            return 2;
        }
    }
    if (r.prompt == 0 || r.decode == 0 || r.prompt > 1u << 20 || r.decode > 1u << 20)
        return fprintf(stderr, "bench_model: --prompt and --decode are 1 to 1048576\n"), 2;
    o.quant_head = head >= 0 ? (enum model_quant)head : o.quant ? MODEL_QUANT_INT8 : MODEL_QUANT_NONE;
    o.kv_tokens = r.prompt + r.decode + 64;
    struct err e = {0};
    int rc = dir ? model_open(&r.m, dir, &o, &e) : model_open_random(&r.m, spec, &o, &e);
    if (!rc && r.prompt + r.decode > model_limits(r.m)->max_context)
        rc = err_set(&e, ERR_CONTEXT, "%u tokens do not fit the context of %u", r.prompt + r.decode, model_limits(r.m)->max_context);
    int32_t *ids = calloc(r.prompt, sizeof *ids);
    if (!rc) {
        const struct model_limits *l = model_limits(r.m);
        r.blocks = calloc(l->n_blocks, sizeof *r.blocks);
        if (!ids || !r.blocks) rc = err_set(&e, ERR_MEMORY, "out of memory");
        for (uint32_t i = 0; i < l->n_blocks && !rc; i++) r.blocks[i] = i;
        fprintf(stderr, "%s, %.1f MB of weights (%s)\n", l->device, (double)l->weight_bytes / 1e6, l->weights);
    }
    for (int i = 0; i < repeat && !rc; i++) rc = repetition(&r, ids, &e);
    if (rc) fprintf(stderr, "bench_model: %s\n", e.msg);
    free(ids);
    free(r.blocks);
    model_close(r.m);
    return rc ? 1 : 0;
}
