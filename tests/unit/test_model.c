/* The forward pass against the reference library's logits: every unquantised model of the goldens, float32 within 2e-4 and bf16 within 0.5,
 * greedy tokens while the stored margin exceeds the tolerance, the same bytes however a prompt is cut and whoever shares the step. */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>

#include "tests/unit/golden.h"

#include "engine/model.h"
#include "weights/safetensors.h"

struct loaded {
    struct model *m;
    const struct model_limits *l;
    uint32_t *blocks;
};

static void load(struct loaded *x, const char *name, enum compute compute, enum dtype kv, const char *isa, int threads)
{
    char dir[4096];
    struct err e = {0};
    char relative[256];
    snprintf(relative, sizeof relative, "models/%s", name);
    golden_path(dir, relative);
    struct model_options o = {.device = "cpu",
                              .compute = compute,
                              .kv_dtype = kv,
                              .threads = threads,
                              .isa = isa,
                              .kv_tokens = 4096,
                              .step_rows = 64};
    if (model_open(&x->m, dir, &o, &e)) fail_msg("%s", e.msg);
    x->l = model_limits(x->m);
    x->blocks = calloc(x->l->n_blocks, sizeof *x->blocks);
    for (uint32_t i = 0; i < x->l->n_blocks; i++) x->blocks[i] = x->l->n_blocks - 1 - i; /* out of order on purpose */
}

static void unload(struct loaded *x)
{
    model_close(x->m);
    free(x->blocks);
}

static int32_t *ids_of(const json_t *list, size_t *n)
{
    *n = json_array_size(list);
    int32_t *ids = calloc(*n + 64, sizeof *ids);
    for (size_t i = 0; i < *n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return ids;
}

/* Logits of all positions, the prompt computed in chunks. */
static float *all_logits(struct loaded *x, const int32_t *ids, size_t n, const struct picture *p, size_t chunk)
{
    float *out = malloc(n * x->l->vocab * sizeof *out);
    struct err e = {0};
    uint32_t picture_row = 0;
    for (size_t at = 0; at < n; at += chunk) {
        size_t rows = n - at < chunk ? n - at : chunk;
        struct model_group g = {.tokens = ids + at,
                                .first_position = (uint32_t)at,
                                .n_rows = (uint32_t)rows,
                                .prefill = true,
                                .blocks = x->blocks,
                                .picture = p,
                                .picture_row = picture_row,
                                .all_logits = true};
        if (model_step(x->m, &g, 1, &e)) fail_msg("%s", e.msg);
        for (size_t i = 0; i < rows; i++) {
            if (model_read_logits(x->m, i, out + (at + i) * x->l->vocab, &e)) fail_msg("%s", e.msg);
            if (p && ids[at + i] == x->l->image_token) picture_row++;
        }
    }
    return out;
}

static struct picture *encode(struct loaded *x, const struct tensor *tiles)
{
    struct picture *p = NULL;
    struct err e = {0};
    if (!tiles) return NULL;
    assert_int_equal(tiles->n_dims, 4);
    assert_int_equal(tiles->shape[2], x->l->tile_px);
    if (picture_new(x->m, (uint32_t)tiles->shape[0], &p, &e)) fail_msg("%s", e.msg);
    for (uint32_t t = 0; t < tiles->shape[0]; t++)
        if (model_encode_tile(x->m, p, t, (const uint8_t *)tiles->data + (size_t)t * 3 * x->l->tile_px * x->l->tile_px, &e))
            fail_msg("%s", e.msg);
    return p;
}

static float at(const struct tensor *t, size_t i)
{
    float f;
    memcpy(&f, (const unsigned char *)t->data + i * 4, 4);
    return f;
}

/* Largest difference to the stored rows of logits: all positions, some, or the last 16. */
static float worst_difference(const struct safetensors *golden, const float *logits, size_t n, size_t vocab)
{
    const struct tensor *rows = safetensors_find(golden, "logits"), *positions = safetensors_find(golden, "logits_positions");
    if (!rows) rows = safetensors_find(golden, "logits_rows");
    bool last = !rows;
    if (!rows) rows = safetensors_find(golden, "logits_last16");
    assert_non_null(rows);
    assert_int_equal(rows->shape[1], vocab);
    float worst = 0;
    for (size_t r = 0; r < rows->shape[0]; r++) {
        size_t pos = last ? n - rows->shape[0] + r : r;
        if (positions) {
            int32_t p;
            memcpy(&p, (const unsigned char *)positions->data + r * 4, 4);
            pos = (size_t)p;
        }
        assert_true(pos < n);
        for (size_t i = 0; i < vocab; i++) {
            float d = fabsf(logits[pos * vocab + i] - at(rows, r * vocab + i));
            if (!(d <= worst)) worst = d; /* NaN counts as worst */
        }
    }
    return worst;
}

static int32_t argmax(const float *row, size_t vocab)
{
    size_t best = 0;
    for (size_t i = 1; i < vocab; i++)
        if (row[i] > row[best]) best = i;
    return (int32_t)best;
}

/* Steps of greedy decoding that were compared: until a margin is too small to tell. */
static size_t check_greedy(struct loaded *x, int32_t *ids, size_t n, const float *last, const json_t *c, float tolerance)
{
    const json_t *greedy = json_object_get(c, "greedy32"), *margin = json_object_get(c, "greedy_margin");
    float *row = malloc(x->l->vocab * sizeof *row);
    memcpy(row, last, x->l->vocab * sizeof *row);
    struct err e = {0};
    size_t i = 0;
    for (; i < json_array_size(greedy) && n + i < x->l->max_context; i++) {
        if (json_number_value(json_array_get(margin, i)) <= 2 * (double)tolerance) break;
        int32_t token = argmax(row, x->l->vocab);
        assert_int_equal(token, json_integer_value(json_array_get(greedy, i)));
        ids[n + i] = token;
        struct model_group g = {
            .tokens = &ids[n + i], .first_position = (uint32_t)(n + i), .n_rows = 1, .blocks = x->blocks, .logits = true};
        if (model_step(x->m, &g, 1, &e) || model_read_logits(x->m, 0, row, &e)) fail_msg("%s", e.msg);
    }
    free(row);
    return i;
}

static void check_case(struct loaded *x, const char *model, const char *name, const json_t *c, float tolerance)
{
    char dir[4096], relative[256], file[256];
    snprintf(relative, sizeof relative, "golden/%s", model);
    golden_path(dir, relative);
    snprintf(file, sizeof file, "%s.safetensors", name);
    struct safetensors golden;
    struct err e = {0};
    if (safetensors_open_file(&golden, dir, file, &e)) fail_msg("%s", e.msg);
    size_t n;
    int32_t *ids = ids_of(json_object_get(c, "input_ids"), &n);
    struct picture *p = encode(x, safetensors_find(&golden, "tiles_u8"));
    float *logits = all_logits(x, ids, n, p, 64);
    float worst = worst_difference(&golden, logits, n, x->l->vocab);
    size_t steps = check_greedy(x, ids, n, logits + (n - 1) * x->l->vocab, c, tolerance);
    print_message("%-28s %-16s %5zu positions, |dlogit| %.2e, %zu greedy steps\n", model, name, n, (double)worst, steps);
    if (!(worst <= tolerance)) fail_msg("%s/%s: |dlogit| %g exceeds %g", model, name, (double)worst, (double)tolerance);
    picture_free(x->m, p);
    free(logits);
    free(ids);
    safetensors_close(&golden);
}

static void check_model(const char *model, enum compute compute, enum dtype kv, const char *isa, float tolerance)
{
    char file[256];
    snprintf(file, sizeof file, "golden/%s/cases.json", model);
    json_t *all = golden_json(file), *cases = json_object_get(all, "cases"), *c;
    struct loaded x;
    load(&x, model, compute, kv, isa, 2);
    const char *name;
    size_t n = 0;
    json_object_foreach(cases, name, c) {
        if (strcmp(isa ? isa : "", "ref") == 0 && n >= 2) break; /* the oracle is slow: two cases a model */
        check_case(&x, model, name, c, tolerance);
        n++;
    }
    assert_true(n > 0);
    unload(&x);
    json_decref(all);
}

static const char *const models[] = {"smollm2-f32",  "smollm2-bf16",  "smollm3-f32",  "smollm3-bf16",  "smollm3_yarn_sharded-bf16",
                                     "idefics3-f32", "idefics3-bf16", "smolvlm2-f32", "smolvlm2-bf16", "idefics3_v1-bf16"};

static void test_model_f32_matches_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) check_model(models[i], COMPUTE_F32, DTYPE_F32, NULL, 2e-4f);
}

static void test_model_f32_matches_with_plain_c_kernels(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) check_model(models[i], COMPUTE_F32, DTYPE_F32, "ref", 2e-4f);
}

static void test_model_bf16_stays_within_half(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        if (strstr(models[i], "bf16")) check_model(models[i], COMPUTE_BF16, DTYPE_BF16, NULL, 0.5f);
}

/* What may be lost to an int8 cache is no more than what bf16 may lose altogether. */
static void test_model_with_an_int8_cache_stays_within_half(void **state)
{
    (void)state;
    check_model("smollm2-f32", COMPUTE_F32, DTYPE_I8, NULL, 0.5f);
    check_model("smollm3-f32", COMPUTE_F32, DTYPE_I8, "ref", 0.5f);
    check_model("idefics3-bf16", COMPUTE_BF16, DTYPE_I8, NULL, 0.5f);
}

/* An e4m3 number is off by 2^-4 of itself at most, three quarters of that in the mean of its fractions, over sqrt(3): four times what one of int8 is,
 * whose largest is three times their spread. */
static void test_model_with_an_fp8_cache_stays_within_two(void **state)
{
    (void)state;
    check_model("smollm2-f32", COMPUTE_F32, DTYPE_E4M3, NULL, 2);
    check_model("smollm3-f32", COMPUTE_F32, DTYPE_E4M3, "ref", 2);
    check_model("idefics3-bf16", COMPUTE_BF16, DTYPE_E4M3, NULL, 2);
}

/* A row's bytes depend neither on how the prompt is cut, nor on threads, nor on who shares the step. */
static void check_rows_do_not_depend_on_the_batch(enum compute compute, enum dtype kv)
{
    int32_t ids[200];
    for (int i = 0; i < 200; i++) ids[i] = (i * 37 + 11) % 600;
    float *first = NULL;
    size_t bytes = 0;
    for (int threads = 1; threads <= 2; threads++)
        for (size_t chunk = 1; chunk <= 64; chunk = chunk == 1 ? 7 : chunk == 7 ? 64 : 65) {
            struct loaded x;
            load(&x, "smollm2-bf16", compute, kv, NULL, threads);
            float *logits = all_logits(&x, ids, 200, NULL, chunk);
            bytes = 200 * (size_t)x.l->vocab * sizeof *logits;
            if (!first)
                first = logits;
            else {
                assert_memory_equal(first, logits, bytes);
                free(logits);
            }
            unload(&x);
        }
    free(first);
}

static void test_model_rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    check_rows_do_not_depend_on_the_batch(COMPUTE_BF16, DTYPE_BF16);
    check_rows_do_not_depend_on_the_batch(COMPUTE_BF16, DTYPE_I8);
    check_rows_do_not_depend_on_the_batch(COMPUTE_BF16, DTYPE_E4M3);
    check_rows_do_not_depend_on_the_batch(COMPUTE_F32, DTYPE_F32);
}

static void test_model_missing_tensor_is_named(void **state)
{
    (void)state;
    struct model *m;
    struct err e = {0};
    char dir[4096];
    golden_path(dir, "golden/idefics3-f32"); /* no config.json there */
    assert_int_equal(model_open(&m, dir, &(struct model_options){.device = "cpu"}, &e), -ERR_NOT_FOUND);
    assert_non_null(strstr(e.msg, "config.json"));
    assert_null(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_f32_matches_the_reference), cmocka_unit_test(test_model_f32_matches_with_plain_c_kernels),
        cmocka_unit_test(test_model_bf16_stays_within_half),    cmocka_unit_test(test_model_rows_do_not_depend_on_the_batch),
        cmocka_unit_test(test_model_with_an_int8_cache_stays_within_half),
        cmocka_unit_test(test_model_with_an_fp8_cache_stays_within_two),
        cmocka_unit_test(test_model_missing_tensor_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
