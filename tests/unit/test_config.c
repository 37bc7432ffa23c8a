/* Config: what each family's config.json means, silent fields included; what it may not say is refused with the field's name. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "engine/families/families.h"

static const char llama[] = "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":192,\"intermediate_size\":256,\"num_hidden_layers\":"
                            "3,\"num_attention_heads\":3,\"num_key_value_heads\":1,"
                            "\"vocab_size\":657,\"max_position_embeddings\":8192,\"rms_norm_eps\":1e-05,\"rope_theta\":100000.0,\"rope_"
                            "scaling\":null,\"hidden_act\":\"silu\",\"attention_bias\":false,"
                            "\"mlp_bias\":false,\"tie_word_embeddings\":true}";
static const char smollm3[] = "{\"architectures\":[\"SmolLM3ForCausalLM\"],\"hidden_size\":256,\"intermediate_size\":256,\"num_hidden_"
                              "layers\":5,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
                              "\"vocab_size\":692,\"max_position_embeddings\":65536,\"rope_theta\":5000000.0,\"no_rope_layers\":[1,1,0,0,1]"
                              ",\"no_rope_layer_interval\":4,\"use_sliding_window\":false}";
static const char idefics3[] = "{\"architectures\":[\"Idefics3ForConditionalGeneration\"],\"image_token_id\":695,\"scale_factor\":4,\"tie_"
                               "word_embeddings\":false,\"text_config\":{\"hidden_size\":128,"
                               "\"intermediate_size\":192,\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
                               "\"head_dim\":64,\"vocab_size\":785,\"max_position_embeddings\":8192,"
                               "\"rope_theta\":100000.0,\"rms_norm_eps\":1e-05},\"vision_config\":{\"hidden_size\":128,\"image_size\":64,"
                               "\"patch_size\":8,\"intermediate_size\":192,\"num_hidden_layers\":2,"
                               "\"num_attention_heads\":2}}";

static json_t *parse(const char *text)
{
    json_error_t at;
    json_t *v = json_loads(text, JSON_DECODE_ANY, &at);
    if (!v) fail_msg("%s: %s", text, at.text);
    return v;
}

/* base with the member at a dotted path set to a JSON value, or taken away (NULL). */
static json_t *changed(const char *base, const char *path, const char *value)
{
    json_t *v = parse(base), *at = v;
    const char *dot = path ? strchr(path, '.') : NULL;
    if (dot) {
        char head[64] = {0};
        assert_true((size_t)(dot - path) < sizeof head);
        memcpy(head, path, (size_t)(dot - path));
        at = json_object_get(v, head);
        assert_non_null(at);
        path = dot + 1;
    }
    if (path && value)
        json_object_set_new(at, path, parse(value));
    else if (path)
        assert_int_equal(json_object_del(at, path), 0); /* a typing error here would test nothing */
    return v;
}

/* What every reader of an accepted config relies on. */
static void check_sane(const struct model_config *c)
{
    const struct text_config *t = &c->text;
    const struct vision_config *v = &c->vision;
    assert_true(t->hidden && t->inter && t->vocab && t->max_positions && t->layers >= 1 && t->layers <= CONFIG_MAX_LAYERS &&
                t->norm_eps > 0);
    assert_true(t->heads && t->kv_heads && t->heads % t->kv_heads == 0 && t->head_dim >= 16 && t->head_dim <= CONFIG_MAX_HEAD_DIM &&
                t->head_dim % 16 == 0);
    for (uint32_t i = 0; i < t->head_dim / 2; i++) assert_true(isfinite(t->inv_freq[i]));
    assert_true(isfinite(t->rope_scale) && t->rope_scale > 0);
    if (!c->family->vision) return;
    assert_true(v->heads && v->dim % v->heads == 0 && v->scale && v->grid && v->grid % v->scale == 0 && v->grid * v->patch <= v->image_px &&
                v->norm_eps > 0);
    assert_true(c->image_token >= 0 && (uint32_t)c->image_token < t->vocab);
}

static struct model_config read_ok(const char *base, const char *path, const char *value)
{
    struct model_config c;
    struct err e = {0};
    json_t *v = changed(base, path, value);
    if (config_read(&c, v, families, &e)) fail_msg("%s = %s: %s", path ? path : "", value ? value : "", e.msg);
    json_decref(v);
    return c;
}

/* --- the configs of the goldens, both spellings of each family --- */
static const struct golden_config {
    const char *name;
    const struct family *family;
    uint32_t text[8]; /* hidden, layers, heads, kv_heads, head_dim, inter, vocab, max_positions */
    float norm_eps;
    bool tied;
    double theta;
    const char *rope;   /* a letter a layer: r has rope, n has none */
    uint32_t vision[8]; /* dim, layers, heads, inter, image_px, patch, grid, scale */
    int32_t image_token;
} golden_configs[] = {
    {"smollm2-f32", &family_llama, {192, 3, 3, 1, 64, 256, 657, 8192}, 1e-5f, true, 100000, "rrr", {0}, -1},
    {"smollm2-bf16", &family_llama, {192, 3, 3, 1, 64, 256, 657, 8192}, 1e-5f, true, 100000, "rrr", {0}, -1},
    {"smollm3-f32", &family_smollm3, {256, 5, 2, 1, 128, 256, 692, 65536}, 1e-6f, true, 5e6, "rrrnr", {0}, -1},
    {"smollm3-bf16", &family_smollm3, {256, 5, 2, 1, 128, 256, 692, 65536}, 1e-6f, true, 5e6, "rrrnr", {0}, -1},
    {"smollm3_yarn_sharded-bf16", &family_smollm3, {128, 3, 4, 1, 64, 160, 692, 256}, 1e-6f, true, 5e6, "rnr", {0}, -1},
    {"idefics3-f32", &family_idefics3, {128, 2, 2, 1, 64, 192, 785, 8192}, 1e-5f, false, 100000, "rr", {128, 2, 2, 192, 64, 8, 8, 4}, 695},
    {"idefics3-bf16", &family_idefics3, {128, 2, 2, 1, 64, 192, 785, 8192}, 1e-5f, false, 100000, "rr", {128, 2, 2, 192, 64, 8, 8, 4}, 695},
    {"idefics3_v1-bf16",
     &family_idefics3,
     {128, 2, 2, 2, 64, 160, 660, 8192},
     1e-5f,
     false,
     273768,
     "rr",
     {144, 2, 2, 208, 38, 4, 9, 3},
     658},
    {"smolvlm2-f32", &family_smolvlm, {128, 2, 2, 2, 64, 160, 785, 8192}, 1e-5f, false, 130000, "rr", {144, 2, 2, 208, 38, 4, 9, 3}, 695},
    {"smolvlm2-bf16", &family_smolvlm, {128, 2, 2, 2, 64, 160, 785, 8192}, 1e-5f, false, 130000, "rr", {144, 2, 2, 208, 38, 4, 9, 3}, 695},
};

static void check_golden_config(const struct golden_config *g, const struct model_config *c)
{
    const struct text_config *t = &c->text;
    const struct vision_config *v = &c->vision;
    const uint32_t text[8] = {t->hidden, t->layers, t->heads, t->kv_heads, t->head_dim, t->inter, t->vocab, t->max_positions};
    const uint32_t vision[8] = {v->dim, v->layers, v->heads, v->inter, v->image_px, v->patch, v->grid, v->scale};
    assert_ptr_equal(c->family, g->family);
    for (int i = 0; i < 8; i++)
        if (text[i] != g->text[i] || vision[i] != g->vision[i])
            fail_msg("%s: number %d: text %u for %u, vision %u for %u", g->name, i, text[i], g->text[i], vision[i], g->vision[i]);
    assert_true(t->norm_eps == g->norm_eps && t->tied == g->tied && c->image_token == g->image_token);
    assert_true(!c->family->vision || v->norm_eps == 1e-6f);
    assert_int_equal(strlen(g->rope), t->layers);
    for (uint32_t i = 0; i < t->layers; i++) assert_int_equal(t->rope[i], g->rope[i] == 'r');
    /* YaRN as its paper has it: the fastest turn stays, the slowest is stretched by the whole factor */
    double factor = strstr(g->name, "yarn") ? 4 : 1, last = pow(g->theta, 2.0 / t->head_dim - 1) / factor;
    assert_true(t->inv_freq[0] == 1 && fabs((double)t->inv_freq[t->head_dim / 2 - 1] / last - 1) < 1e-5);
    assert_true(fabs((double)t->rope_scale - (0.1 * log(factor) + 1)) < 1e-6);
}

static void test_golden_configs(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof golden_configs / sizeof *golden_configs; i++) {
        const struct golden_config *g = &golden_configs[i];
        char path[4096];
        assert_true((size_t)snprintf(path, sizeof path, "%s/../parity/golden/models/%s/config.json", SPILLWAY_TEST_DIR, g->name) <
                    sizeof path);
        json_t *v;
        struct model_config c;
        struct err e = {0};
        if (json_read_file(path, &json_limits_file, &v, &e) || config_read(&c, v, families, &e)) fail_msg("%s: %s", g->name, e.msg);
        json_decref(v);
        check_golden_config(g, &c);
    }
}

static void test_llama(void **unused)
{
    (void)unused;
    struct model_config c = read_ok(llama, NULL, NULL);
    const struct text_config *t = &c.text;
    assert_ptr_equal(c.family, &family_llama);
    assert_true(t->hidden == 192 && t->layers == 3 && t->heads == 3 && t->kv_heads == 1 && t->head_dim == 64 && t->inter == 256 &&
                t->vocab == 657 && t->max_positions == 8192);
    assert_true(t->tied && t->norm_eps == 1e-5f && t->rope_scale == 1 && c.image_token == -1);
    assert_true(t->inv_freq[0] == 1 && fabs((double)t->inv_freq[1] - pow(100000, -2.0 / 64)) < 1e-7 && t->rope[0] && t->rope[2]);
    assert_int_equal(read_ok(llama, "num_key_value_heads", NULL).text.kv_heads, 3); /* silent: one for each head */
    assert_int_equal(read_ok(llama, "head_dim", "32").text.head_dim, 32);
    assert_int_equal(read_ok(llama, "head_dim", "null").text.head_dim, 64);
    assert_true(read_ok(llama, "rms_norm_eps", NULL).text.norm_eps == 1e-6f);
    assert_false(read_ok(llama, "tie_word_embeddings", NULL).text.tied);
    assert_true(fabs((double)read_ok(llama, "rope_theta", NULL).text.inv_freq[1] - pow(10000, -2.0 / 64)) < 1e-7);
    assert_true(fabs((double)read_ok(llama, "rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":500.0}").text.inv_freq[1] -
                     pow(500, -2.0 / 64)) < 1e-7);
}

static void test_smollm3(void **unused)
{
    (void)unused;
    struct model_config c = read_ok(smollm3, NULL, NULL);
    static const bool rope[] = {true, true, false, false, true};
    for (int i = 0; i < 5; i++) assert_int_equal(c.text.rope[i], rope[i]);
    assert_true(c.text.tied);                     /* SmolLM3's own default */
    c = read_ok(smollm3, "no_rope_layers", NULL); /* every fourth goes without */
    for (int i = 0; i < 5; i++) assert_int_equal(c.text.rope[i], i != 3);
    c = read_ok(smollm3, "rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":2.0,\"original_max_position_embeddings\":65536}");
    struct model_config plain = read_ok(smollm3, NULL, NULL);
    assert_true(fabs((double)c.text.rope_scale - (0.1 * log(2) + 1)) < 1e-6);
    assert_true(c.text.inv_freq[0] == plain.text.inv_freq[0]); /* fast turns stay, slow ones are stretched by the factor */
    assert_true(fabsf(c.text.inv_freq[63] - plain.text.inv_freq[63] / 2) < 1e-12f);
}

static void test_idefics3(void **unused)
{
    (void)unused;
    struct model_config c = read_ok(idefics3, NULL, NULL);
    const struct vision_config *v = &c.vision;
    assert_true(v->dim == 128 && v->layers == 2 && v->heads == 2 && v->inter == 192 && v->image_px == 64 && v->patch == 8 && v->grid == 8 &&
                v->scale == 4 && v->norm_eps == 1e-6f);
    assert_int_equal(c.image_token, 695);
    c = read_ok(idefics3, "vision_config.num_hidden_layers", NULL);
    assert_int_equal(c.vision.layers, 0); /* silent: the tensors tell */
    struct err e = {0};
    json_t *outside = parse(idefics3); /* vocab_size may stand outside text_config */
    json_object_del(json_object_get(outside, "text_config"), "vocab_size");
    json_object_set_new(outside, "vocab_size", json_integer(700));
    assert_int_equal(config_read(&c, outside, families, &e), 0);
    assert_int_equal(c.text.vocab, 700);
    json_decref(outside);
}

/* Every size: wrong types and ranges, each refused by name. */
static const struct {
    const char *base, *field;
    bool required;
} sizes[] = {
    {llama, "hidden_size", true},
    {llama, "num_hidden_layers", true},
    {llama, "num_attention_heads", true},
    {llama, "num_key_value_heads", false},
    {llama, "head_dim", false},
    {llama, "intermediate_size", true},
    {llama, "vocab_size", true},
    {llama, "max_position_embeddings", true},
    {smollm3, "no_rope_layer_interval", false},
    {idefics3, "text_config.hidden_size", true},
    {idefics3, "text_config.num_hidden_layers", true},
    {idefics3, "vision_config.hidden_size", false},
    {idefics3, "vision_config.num_hidden_layers", false},
    {idefics3, "vision_config.num_attention_heads", false},
    {idefics3, "vision_config.intermediate_size", false},
    {idefics3, "vision_config.image_size", false},
    {idefics3, "vision_config.patch_size", false},
    {idefics3, "scale_factor", false},
};

static void refused(const char *base, const char *path, const char *value, const char *word)
{
    struct model_config c;
    struct err e = {0};
    json_t *v = changed(base, path, value);
    int rc = config_read(&c, v, families, &e);
    json_decref(v);
    if (rc >= 0) fail_msg("%s = %s was accepted", path, value ? value : "(absent)");
    if (!strstr(e.msg, "config.json") || !strstr(e.msg, word))
        fail_msg("%s = %s: '%s' is not in the message: %s", path, value ? value : "(absent)", word, e.msg);
}

static void test_bad_sizes(void **unused)
{
    (void)unused;
    static const char *const values[] = {
        "0",     "-1", "-9223372036854775808", "9223372036854775807", "4294967297", "1000000000", "1.5", "192.0", "\"192\"", "true",
        "[192]", "{}"};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t k = 0; k < sizeof values / sizeof *values; k++) refused(sizes[i].base, sizes[i].field, values[k], sizes[i].field);
        if (sizes[i].required) {
            refused(sizes[i].base, sizes[i].field, NULL, sizes[i].field);
            refused(sizes[i].base, sizes[i].field, "null", sizes[i].field);
        }
    }
}

/* compressed-tensors' FP8 and what may be wrong in it. */
#define CT(more) "{" more "\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\"}"
#define FLOAT8(strategy, dynamic) "{\"num_bits\":8,\"type\":\"float\",\"strategy\":" strategy ",\"dynamic\":" dynamic "}"
#define WEIGHTS(weights) "\"config_groups\":{\"g\":{\"weights\":" weights "}},"
#define GROUP(activations, output) \
    WEIGHTS(FLOAT8("\"channel\"", "false") ",\"input_activations\":" activations ",\"output_activations\":" output)

static const struct {
    const char *base, *path, *value, *word;
} bad[] = {
    {llama, "architectures", NULL, "architectures"},
    {llama, "architectures", "[]", "architectures"},
    {llama, "architectures", "[7]", "architectures"},
    {llama, "architectures", "[\"MambaForCausalLM\"]", "MambaForCausalLM"},
    {llama, "quantization_config", "{\"quant_method\":\"gptq\"}", "gptq"},
    {llama, "quantization_config", "7", "quantization_config"},
    {llama, "quantization_config", "{}", "quantization_config.quant_method"},
    {llama, "quantization_config", CT(""), "config_groups is missing"},
    {llama, "quantization_config", CT("\"kv_cache_scheme\":{},"), "kv_cache_scheme"},
    {llama, "quantization_config", CT("\"config_groups\":{\"g\":7},"), "config_groups.g must be an object"},
    {llama, "quantization_config", CT("\"config_groups\":{\"g\":null},"), "config_groups.g must be an object"},
    {llama, "quantization_config", CT("\"config_groups\":{\"g\":{}},"), "config_groups.g.weights is missing"},
    {llama, "quantization_config", CT(WEIGHTS(FLOAT8("\"group\"", "false"))), "weights.strategy 'group'"},
    {llama, "quantization_config", CT(WEIGHTS(FLOAT8("\"channel\"", "true"))), "weights.dynamic"},
    {llama, "quantization_config", CT(WEIGHTS(FLOAT8("\"channel\"", "false"))), "input_activations is missing"},
    {llama, "quantization_config", CT(GROUP(FLOAT8("\"token\"", "false"), "null")), "input_activations.dynamic"},
    {llama, "quantization_config", CT(GROUP(FLOAT8("\"token\"", "true"), "{}")), "output_activations"},
    {llama, "quantization_config", CT(GROUP(FLOAT8("\"token\"", "true,\"symmetric\":false"), "null")), "input_activations.symmetric"},
    {llama, "num_attention_heads", "5", "num_attention_heads"},
    {llama, "num_attention_heads", "7", "num_attention_heads"},
    {llama, "hidden_size", "200", "hidden_size 200"},
    {llama, "num_key_value_heads", "6", "num_key_value_heads 6"},
    {llama, "head_dim", "63", "head_dim"},
    {llama, "num_key_value_heads", "2", "num_key_value_heads"},
    {llama, "head_dim", "40", "head_dim"},
    {llama, "head_dim", "257", "head_dim"},
    {llama, "rms_norm_eps", "0", "rms_norm_eps"},
    {llama, "rms_norm_eps", "-1e-5", "rms_norm_eps"},
    {llama, "rms_norm_eps", "\"1e-5\"", "rms_norm_eps"},
    {llama, "rms_norm_eps", "1e300", "rms_norm_eps"},
    {llama, "rope_theta", "0", "rope_theta"},
    {llama, "rope_theta", "1", "rope_theta"},
    {llama, "rope_theta", "-10000.0", "rope_theta"},
    {llama, "rope_theta", "\"10000\"", "rope_theta"},
    {llama, "rope_theta", "1e300", "rope_theta"},
    {llama, "rope_parameters", "{\"rope_theta\":false}", "rope_parameters.rope_theta"},
    {llama, "rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8.0}", "rope_scaling.rope_type 'llama3'"},
    {llama, "rope_scaling", "{\"type\":\"linear\",\"factor\":2.0}", "rope_scaling.rope_type 'linear'"},
    {llama, "rope_scaling", "{\"rope_type\":3}", "rope_scaling.rope_type"},
    {llama, "rope_scaling", "{\"factor\":2.0}", "rope_scaling.rope_type"},
    {llama, "rope_scaling", "\"yarn\"", "rope_scaling"},
    {llama, "rope_scaling", "2.0", "rope_scaling"},
    {llama, "rope_scaling", "false", "rope_scaling"},
    {llama, "rope_parameters", "[]", "rope_parameters"},
    {llama, "rope_parameters", "{\"rope_type\":\"longrope\",\"rope_theta\":10000.0}", "rope_parameters.rope_type 'longrope'"},
    {llama, "rope_parameters", "{\"rope_type\":\"yarn\",\"rope_theta\":10000.0,\"factor\":-4}", "rope_parameters.factor"},
    {idefics3, "text_config.rope_scaling", "{\"rope_type\":\"dynamic\"}", "text_config.rope_scaling.rope_type 'dynamic'"},
    {llama, "rope_scaling", "{\"rope_type\":\"yarn\"}", "rope_scaling.factor"},
    {llama, "rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":0.5}", "rope_scaling.factor"},
    {llama, "rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":2,\"beta_fast\":0}", "rope_scaling.beta_fast"},
    {llama, "hidden_act", "\"relu\"", "hidden_act"},
    {llama, "hidden_act", "5", "hidden_act"},
    {llama, "attention_bias", "true", "attention_bias"},
    {llama, "attention_bias", "1", "attention_bias"},
    {llama, "mlp_bias", "true", "mlp_bias"},
    {llama, "tie_word_embeddings", "\"yes\"", "tie_word_embeddings"},
    {llama, "tie_word_embeddings", "1", "tie_word_embeddings"},
    {idefics3, "tie_word_embeddings", "[]", "tie_word_embeddings"},
    {smollm3, "use_sliding_window", "true", "use_sliding_window"},
    {smollm3, "layer_types", "[\"full_attention\",\"sliding_attention\",\"full_attention\",\"full_attention\",\"full_attention\"]",
     "layer_types[1]"},
    {smollm3, "layer_types", "[0]", "layer_types[0]"},
    {smollm3, "layer_types", "\"full_attention\"", "layer_types"},
    {smollm3, "no_rope_layers", "[1,1,1]", "no_rope_layers"},
    {smollm3, "no_rope_layers", "[1,1,1,0,1,1]", "no_rope_layers"},
    {smollm3, "no_rope_layers", "{}", "no_rope_layers"},
    {smollm3, "no_rope_layers", "[1,1,1,2,1]", "no_rope_layers[3]"},
    {idefics3, "text_config", NULL, "text_config"},
    {idefics3, "text_config", "[]", "text_config"},
    {idefics3, "vision_config", "7", "vision_config"},
    {idefics3, "image_token_id", NULL, "image_token_id"},
    {idefics3, "image_token_id", "-1", "image_token_id"},
    {idefics3, "image_token_id", "785", "image_token_id"},
    {idefics3, "vision_config.patch_size", "65", "vision_config.patch_size 65"},
    {idefics3, "scale_factor", "3", "scale_factor"},
    {idefics3, "vision_config.num_attention_heads", "3", "num_attention_heads"},
    {idefics3, "vision_config.hidden_act", "\"gelu\"", "hidden_act"},
    {idefics3, "vision_config.layer_norm_eps", "-1", "layer_norm_eps"},
};

static void test_fp8(void **unused)
{
    (void)unused;
    assert_true(read_ok(llama, "quantization_config", CT(GROUP(FLOAT8("\"token\"", "true"), "null"))).fp8);
    assert_false(read_ok(llama, "quantization_config", "null").fp8);
}

static void test_bad_fields(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refused(bad[i].base, bad[i].path, bad[i].value, bad[i].word);
    struct model_config c;
    struct err e = {0};
    json_t *list = parse("[1]");
    assert_int_equal(config_read(&c, list, families, &e), -ERR_INPUT);
    json_decref(list);
}

/* Texts that try the reader itself: bounded and refused, with the place, and the member where there is one. */
static const struct {
    const char *what, *text;
    const char *words[2], *member;
} bad_texts[] = {
    {"nothing", "", {"config.json", "byte"}, ""},
    {"half of it", "{\"hidden_size\":192,\"vocab_size\"", {"config.json", "byte"}, ""},
    {"NaN", "{\"hidden_size\":192,\"rope_theta\":NaN}", {"config.json", "byte"}, "rope_theta"},
    {"infinity", "{\"rms_norm_eps\":-Infinity}", {"config.json", "byte"}, "rms_norm_eps"},
    {"a number over all doubles", "{\"rope_theta\":1e999}", {"config.json", "byte"}, "rope_theta"},
    {"an integer over 2^63", "{\"vocab_size\":9223372036854775808}", {"config.json", "byte"}, "vocab_size"},
    {"a member twice", "{\"hidden_size\":192,\"hidden_size\":256}", {"config.json", "hidden_size"}, ""},
    {"not UTF-8", "{\"hidden_act\":\"\xc3\x28\"}", {"config.json", "byte"}, "hidden_act"},
    {"two values", "{}{}", {"config.json", "byte"}, ""},
};

static void test_bad_texts(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof bad_texts / sizeof *bad_texts; i++) {
        json_t *v = NULL;
        struct err e = {0};
        int rc = json_read(bad_texts[i].text, strlen(bad_texts[i].text), &json_limits_file, "config.json", &v, &e);
        if (rc >= 0) fail_msg("%s was accepted", bad_texts[i].what);
        assert_null(v);
        for (int k = 0; k < 2; k++)
            if (!strstr(e.msg, bad_texts[i].words[k])) fail_msg("%s: '%s' is not in: %s", bad_texts[i].what, bad_texts[i].words[k], e.msg);
        if (bad_texts[i].member[0]) assert_string_equal(e.param, bad_texts[i].member);
    }
}

/* Brackets without end: ten thousand deep, and as many bytes as a model file may have. */
static void test_deep_texts(void **unused)
{
    (void)unused;
    static const char *const opens[] = {"[", "{\"a\":", "[{\"a\":"};
    size_t n = json_limits_file.max_bytes;
    char *deep = malloc(n + 1);
    assert_non_null(deep);
    for (size_t o = 0; o < sizeof opens / sizeof *opens; o++) {
        for (size_t at = 0; at <= n; at++) deep[at] = opens[o][at % strlen(opens[o])];
        const size_t lengths[] = {10000 * strlen(opens[o]), n, n + 1};
        for (int i = 0; i < 3; i++) {
            json_t *v = NULL;
            struct err e = {0};
            assert_int_equal(json_read(deep, lengths[i], &json_limits_file, "config.json", &v, &e), -ERR_LIMIT);
            if (!strstr(e.msg, "config.json") || !strstr(e.msg, i < 2 ? "deeper than 64 at byte" : "the limit is")) fail_msg("%s", e.msg);
            assert_null(v);
        }
    }
    free(deep);
}

/* Bytes of a good config changed, cut out or doubled: read or refused, and what is read can be served. */
static void test_damaged_bytes(void **unused)
{
    (void)unused;
    static const char with[] = "0123456789-[]{},:\"e.\\ntf \x80\xff";
    const char *const bases[] = {llama, smollm3, idefics3};
    uint32_t seed = 5;
    int accepted = 0;
    for (int i = 0; i < 3000; i++) {
        char h[2048];
        size_t n = strlen(bases[i % 3]);
        assert_true(n + 8 < sizeof h);
        memcpy(h, bases[i % 3], n);
        for (int k = 0; k <= i % 4; k++) {
            seed = seed * 1664525u + 1013904223u;
            size_t at = (seed >> 8) % n;
            unsigned how = seed >> 28;
            if (how < 10)
                h[at] = with[(seed >> 20) % (sizeof with - 1)];
            else if (how < 13)
                memmove(h + at, h + at + 1, --n - at);
            else
                memmove(h + at + 1, h + at, n++ - at);
        }
        json_t *v = NULL;
        struct model_config c;
        struct err e = {0};
        if (json_read(h, n, &json_limits_file, "config.json", &v, &e) || config_read(&c, v, families, &e))
            assert_non_null(strstr(e.msg, "config.json"));
        else
            accepted++, check_sane(&c);
        json_decref(v);
    }
    assert_true(accepted > 100 && accepted < 2000);
}

/* Random values in random members: always read or refused, never more. */
static void test_damage(void **unused)
{
    (void)unused;
    static const char *const values[] = {"0",         "1",    "16",  "64",    "-3",
                                         "1e9",       "1e-9", "0.5", "null",  "true",
                                         "\"yarn\"",  "[]",   "{}",  "[1,0]", "{\"rope_type\":\"yarn\",\"factor\":4}",
                                         "2147483648"};
    const char *const bases[] = {llama, smollm3, idefics3};
    uint32_t seed = 3;
    int accepted = 0;
    for (int i = 0; i < 4000; i++) {
        json_t *v = parse(bases[i % 3]);
        for (int n = 0; n <= i % 4; n++) {
            seed = seed * 1664525u + 1013904223u;
            json_t *at = i % 3 == 2 ? json_object_get(v, seed >> 31 ? "text_config" : "vision_config") : v;
            const char *key;
            json_t *member;
            size_t which = json_is_object(at) ? (seed >> 8) % json_object_size(at) : 0;
            json_object_foreach(at, key, member) {
                if (which-- == 0) break;
            }
            if (key) json_object_set_new(at, key, parse(values[(seed >> 20) % (sizeof values / sizeof *values)]));
        }
        struct model_config c;
        struct err e = {0};
        if (config_read(&c, v, families, &e) == 0) {
            accepted++;
            check_sane(&c);
        } else {
            assert_true(e.msg[0] != '\0');
        }
        json_decref(v);
    }
    assert_true(accepted > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_configs), cmocka_unit_test(test_llama),      cmocka_unit_test(test_smollm3),
        cmocka_unit_test(test_idefics3),       cmocka_unit_test(test_bad_sizes),  cmocka_unit_test(test_bad_fields),
        cmocka_unit_test(test_fp8),
        cmocka_unit_test(test_bad_texts),      cmocka_unit_test(test_deep_texts), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_damaged_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
