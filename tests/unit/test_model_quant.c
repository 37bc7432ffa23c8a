/* Models quantised as they are loaded, against the same models in float32: the golden checkpoints of every text family, and one with
 * pictures. Logits within what rounding to the format must cost, the same bytes however a prompt is cut and on any number of threads, tied
 * weights stored once. */
#include <math.h>
#include <stdlib.h>

#include "tests/unit/golden.h"

#include "engine/model.h"

enum { PROMPT = 150, IDS = 600 };

struct loaded {
    struct model *m;
    const struct model_limits *l;
    uint32_t *blocks;
};

static void load(struct loaded *x, const char *name, const struct model_options *how)
{
    char dir[4096], relative[256];
    struct err e = {0};
    struct model_options o = *how;
    snprintf(relative, sizeof relative, "models/%s", name);
    golden_path(dir, relative);
    o.device = "cpu", o.kv_dtype = o.compute == COMPUTE_F32 ? DTYPE_F32 : DTYPE_BF16, o.kv_tokens = 4096, o.step_rows = 64;
    if (model_open(&x->m, dir, &o, &e)) fail_msg("%s", e.msg);
    x->l = model_limits(x->m);
    x->blocks = calloc(x->l->n_blocks, sizeof *x->blocks);
    for (uint32_t i = 0; i < x->l->n_blocks; i++) x->blocks[i] = x->l->n_blocks - 1 - i;
}

static void unload(struct loaded *x)
{
    model_close(x->m);
    free(x->blocks);
}

static int32_t prompt[PROMPT];

static void make_prompt(void)
{
    for (int i = 0; i < PROMPT; i++) prompt[i] = (i * 37 + 11) % IDS;
}

/* Logits of all positions of the prompt, computed in chunks. */
static float *all_logits(struct loaded *x, size_t chunk)
{
    float *out = malloc((size_t)PROMPT * x->l->vocab * sizeof *out);
    struct err e = {0};
    for (size_t at = 0; at < PROMPT; at += chunk) {
        size_t rows = PROMPT - at < chunk ? PROMPT - at : chunk;
        struct model_group g = {.tokens = prompt + at,
                                .first_position = (uint32_t)at,
                                .n_rows = (uint32_t)rows,
                                .prefill = chunk > 1,
                                .blocks = x->blocks,
                                .all_logits = true};
        if (model_step(x->m, &g, 1, &e)) fail_msg("%s", e.msg);
        for (size_t i = 0; i < rows; i++)
            if (model_read_logits(x->m, i, out + (at + i) * x->l->vocab, &e)) fail_msg("%s", e.msg);
    }
    return out;
}

static float *logits_of(const char *name, const struct model_options *how, size_t chunk, struct model_limits *l)
{
    struct loaded x;
    load(&x, name, how);
    float *out = all_logits(&x, chunk);
    *l = *x.l;
    unload(&x);
    return out;
}

/* Root of the mean squared difference, as a part of how much the logits vary. */
static double distance(const float *a, const float *b, size_t n)
{
    double mean = 0, spread = 0, off = 0;
    for (size_t i = 0; i < n; i++) mean += (double)a[i] / (double)n;
    for (size_t i = 0; i < n; i++) {
        spread += ((double)a[i] - mean) * ((double)a[i] - mean);
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    }
    return sqrt(off / spread);
}

/* What rounding must cost. A value that is spread evenly over a step is off by step / sqrt(12) in the mean square. Weights: a step is the
 * largest of a scale's values over 127 or 7, and the largest is at most 4 times (int8, a row of some hundred) or 2.5 times (int4, 32) their own
 * spread. Activations: at most sqrt(64) times, the worst case, one value alone in its group, but then it is exact; 4 in practice. Errors of different
 * inputs are independent, so a product is off by that part of its spread; a layer's four products, in a row, and the head's add up as the
 * root of their number. Attention and silu can double it. fp8: each number, of either, by at most 2^-4 of itself, evenly. */
static double expected_distance(enum model_quant q, uint32_t layers)
{
    if (q == MODEL_QUANT_FP8) return 2 * sqrt(2) * 0x1p-4 / sqrt(3) * sqrt(4.0 * layers + 1);
    double activations = 4.0 / 127 / sqrt(12), weights = (q == MODEL_QUANT_INT4 ? 2.5 / 7 : 4.0 / 127) / sqrt(12);
    return 2 * sqrt(activations * activations + weights * weights) * sqrt(4.0 * layers + 1);
}

static const char *const models[] = {"smollm2-f32", "smollm2-bf16", "smollm3-bf16", "idefics3-bf16", "smolvlm2-f32"};

static void test_quantised_logits_are_near(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (enum model_quant q = MODEL_QUANT_INT8; q <= MODEL_QUANT_FP8; q++) {
            struct model_limits l, plain;
            float *want = logits_of(models[i], &(struct model_options){.compute = COMPUTE_F32}, 64, &plain);
            float *got = logits_of(models[i],
                                   &(struct model_options){.compute = COMPUTE_BF16, .quant = q, .quant_head = MODEL_QUANT_INT8,
                                                           .quant_vision = MODEL_QUANT_INT8},
                                   64, &l);
            double d = distance(want, got, (size_t)PROMPT * l.vocab), bound = expected_distance(q, l.layers);
            print_message("%-16s %s: logits off by %.4f of their spread (at most %.4f), %.2f MB of weights\n", models[i], l.weights, d,
                          bound, (double)l.weight_bytes / 1e6);
            if (!(d <= bound)) fail_msg("%s, %s: logits off by %g, bound %g", models[i], l.weights, d, bound);
            free(want);
            free(got);
        }
}

/* The comparison above can fail: what 4 bits cost is seen by the bound of 8, and one wrong id in the prompt by that of 4. */
static void test_the_bounds_tell_faults(void **state)
{
    (void)state;
    struct model_limits l;
    float *want = logits_of(models[0], &(struct model_options){.compute = COMPUTE_F32}, 64, &l);
    float *four = logits_of(models[0], &(struct model_options){.quant = MODEL_QUANT_INT4, .quant_head = MODEL_QUANT_INT4}, 64, &l);
    size_t n = (size_t)PROMPT * l.vocab;
    assert_true(distance(want, four, n) > expected_distance(MODEL_QUANT_INT8, l.layers) / 2);
    prompt[0]++;
    float *other = logits_of(models[0], &(struct model_options){.quant = MODEL_QUANT_INT8, .quant_head = MODEL_QUANT_INT8}, 64, &l);
    make_prompt();
    assert_true(distance(want, other, l.vocab) > expected_distance(MODEL_QUANT_INT4, l.layers));
    free(want);
    free(four);
    free(other);
}

static void test_rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    static const size_t chunks[] = {1, 7, 64};
    for (enum model_quant q = MODEL_QUANT_INT8; q <= MODEL_QUANT_FP8; q++) {
        float *first = NULL;
        for (int run = 0; run < 6; run++) {
            struct model_limits l;
            float *logits = logits_of("smollm2-bf16",
                                      &(struct model_options){.compute = COMPUTE_BF16, .quant = q, .quant_head = q, .threads = 1 + run / 3},
                                      chunks[run % 3], &l);
            if (first) assert_memory_equal(first, logits, (size_t)PROMPT * l.vocab * sizeof *logits);
            if (first)
                free(logits);
            else
                first = logits;
        }
        free(first);
    }
}

/* Fewer bytes than bf16 by what the formats say; the tied head is the embedding's matrix, not another. */
static void test_weights_take_what_the_formats_say(void **state)
{
    (void)state;
    struct loaded plain, eight, four;
    load(&plain, "smollm2-bf16", &(struct model_options){.compute = COMPUTE_BF16});
    load(&eight, "smollm2-bf16", &(struct model_options){.quant = MODEL_QUANT_INT8, .quant_head = MODEL_QUANT_INT8});
    load(&four, "smollm2-bf16", &(struct model_options){.quant = MODEL_QUANT_INT4, .quant_head = MODEL_QUANT_INT4});
    print_message("%.3f MB as bf16, %.3f MB in 8 bits, %.3f MB in 4\n", (double)plain.l->weight_bytes / 1e6,
                  (double)eight.l->weight_bytes / 1e6, (double)four.l->weight_bytes / 1e6);
    assert_true((double)eight.l->weight_bytes < 0.56 * (double)plain.l->weight_bytes); /* half, scales, norms, padding of steps */
    assert_true((double)four.l->weight_bytes < 0.36 * (double)plain.l->weight_bytes);
    assert_string_equal(eight.l->weights, "int8");
    unload(&plain);
    unload(&eight);
    unload(&four);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantised_logits_are_near),
        cmocka_unit_test(test_the_bounds_tell_faults),
        cmocka_unit_test(test_rows_do_not_depend_on_the_batch),
        cmocka_unit_test(test_weights_take_what_the_formats_say),
    };
    make_prompt();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
