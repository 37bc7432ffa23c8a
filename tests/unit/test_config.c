/* Config: what each family's config.json means, silent fields included; what it may not say is refused with the field's name. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/families/families.h"

static const char llama[] = "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":192,\"intermediate_size\":256,\"num_hidden_layers\":3,\"num_attention_heads\":3,\"num_key_value_heads\":1,"
                            "\"vocab_size\":657,\"max_position_embeddings\":8192,\"rms_norm_eps\":1e-05,\"rope_theta\":100000.0,\"rope_scaling\":null,\"hidden_act\":\"silu\",\"attention_bias\":false,"
                            "\"mlp_bias\":false,\"tie_word_embeddings\":true}";
static const char smollm3[] = "{\"architectures\":[\"SmolLM3ForCausalLM\"],\"hidden_size\":256,\"intermediate_size\":256,\"num_hidden_layers\":5,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
                              "\"vocab_size\":692,\"max_position_embeddings\":65536,\"rope_theta\":5000000.0,\"no_rope_layers\":[1,1,0,0,1],\"no_rope_layer_interval\":4,\"use_sliding_window\":false}";
static const char idefics3[] = "{\"architectures\":[\"Idefics3ForConditionalGeneration\"],\"image_token_id\":695,\"scale_factor\":4,\"tie_word_embeddings\":false,\"text_config\":{\"hidden_size\":128,"
                               "\"intermediate_size\":192,\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":64,\"vocab_size\":785,\"max_position_embeddings\":8192,"
                               "\"rope_theta\":100000.0,\"rms_norm_eps\":1e-05},\"vision_config\":{\"hidden_size\":128,\"image_size\":64,\"patch_size\":8,\"intermediate_size\":192,\"num_hidden_layers\":2,"
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
    if (path && value) json_object_set_new(at, path, parse(value));
    else if (path) assert_int_equal(json_object_del(at, path), 0); /* a typing error here would test nothing */
    return v;
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

static void test_llama(void **unused)
{
    (void)unused;
    struct model_config c = read_ok(llama, NULL, NULL);
    const struct text_config *t = &c.text;
    assert_ptr_equal(c.family, &family_llama);
    assert_true(t->hidden == 192 && t->layers == 3 && t->heads == 3 && t->kv_heads == 1 && t->head_dim == 64 && t->inter == 256 && t->vocab == 657 && t->max_positions == 8192);
    assert_true(t->tied && t->norm_eps == 1e-5f && t->rope_scale == 1 && c.image_token == -1);
    assert_true(t->inv_freq[0] == 1 && fabs((double)t->inv_freq[1] - pow(100000, -2.0 / 64)) < 1e-7 && t->rope[0] && t->rope[2]);
    assert_int_equal(read_ok(llama, "num_key_value_heads", NULL).text.kv_heads, 3); /* silent: one for each head */
    assert_int_equal(read_ok(llama, "head_dim", "32").text.head_dim, 32);
    assert_int_equal(read_ok(llama, "head_dim", "null").text.head_dim, 64);
    assert_true(read_ok(llama, "rms_norm_eps", NULL).text.norm_eps == 1e-6f);
    assert_false(read_ok(llama, "tie_word_embeddings", NULL).text.tied);
    assert_true(fabs((double)read_ok(llama, "rope_theta", NULL).text.inv_freq[1] - pow(10000, -2.0 / 64)) < 1e-7);
    assert_true(fabs((double)read_ok(llama, "rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":500.0}").text.inv_freq[1] - pow(500, -2.0 / 64)) < 1e-7);
}

static void test_smollm3(void **unused)
{
    (void)unused;
    struct model_config c = read_ok(smollm3, NULL, NULL);
    static const bool rope[] = {true, true, false, false, true};
    for (int i = 0; i < 5; i++) assert_int_equal(c.text.rope[i], rope[i]);
    assert_true(c.text.tied); /* SmolLM3's own default */
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
    assert_true(v->dim == 128 && v->layers == 2 && v->heads == 2 && v->inter == 192 && v->image_px == 64 && v->patch == 8 && v->grid == 8 && v->scale == 4 && v->norm_eps == 1e-6f);
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
    {llama, "hidden_size", true},          {llama, "num_hidden_layers", true},    {llama, "num_attention_heads", true},   {llama, "num_key_value_heads", false},
    {llama, "head_dim", false},            {llama, "intermediate_size", true},    {llama, "vocab_size", true},            {llama, "max_position_embeddings", true},
    {smollm3, "no_rope_layer_interval", false}, {idefics3, "text_config.hidden_size", true}, {idefics3, "text_config.num_hidden_layers", true},
    {idefics3, "vision_config.hidden_size", false}, {idefics3, "vision_config.num_hidden_layers", false}, {idefics3, "vision_config.num_attention_heads", false},
    {idefics3, "vision_config.intermediate_size", false}, {idefics3, "vision_config.image_size", false}, {idefics3, "vision_config.patch_size", false}, {idefics3, "scale_factor", false},
};

static void refused(const char *base, const char *path, const char *value, const char *word)
{
    struct model_config c;
    struct err e = {0};
    json_t *v = changed(base, path, value);
    int rc = config_read(&c, v, families, &e);
    json_decref(v);
    if (rc >= 0) fail_msg("%s = %s was accepted", path, value ? value : "(absent)");
    if (!strstr(e.msg, "config.json") || !strstr(e.msg, word)) fail_msg("%s = %s: '%s' is not in the message: %s", path, value ? value : "(absent)", word, e.msg);
}

static void test_bad_sizes(void **unused)
{
    (void)unused;
    static const char *const values[] = {"0", "-1", "-9223372036854775808", "9223372036854775807", "4294967297", "1000000000", "1.5", "192.0", "\"192\"", "true", "[192]", "{}"};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t k = 0; k < sizeof values / sizeof *values; k++) refused(sizes[i].base, sizes[i].field, values[k], sizes[i].field);
        if (sizes[i].required) {
            refused(sizes[i].base, sizes[i].field, NULL, sizes[i].field);
            refused(sizes[i].base, sizes[i].field, "null", sizes[i].field);
        }
    }
}

static const struct {
    const char *base, *path, *value, *word;
} bad[] = {
    {llama, "architectures", NULL, "architectures"},
    {llama, "architectures", "[]", "architectures"},
    {llama, "architectures", "[7]", "architectures"},
    {llama, "architectures", "[\"MambaForCausalLM\"]", "MambaForCausalLM"},
    {llama, "quantization_config", "{\"quant_method\":\"gptq\"}", "gptq"},
    {llama, "num_attention_heads", "5", "head_dim"},
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
    {llama, "rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8.0}", "llama3"},
    {llama, "rope_scaling", "{\"type\":\"linear\",\"factor\":2.0}", "linear"},
    {llama, "rope_scaling", "{\"rope_type\":3}", "rope type"},
    {llama, "rope_scaling", "{\"rope_type\":\"yarn\"}", "rope_scaling.factor"},
    {llama, "rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":0.5}", "rope_scaling.factor"},
    {llama, "rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":2,\"beta_fast\":0}", "rope_scaling.beta_fast"},
    {llama, "hidden_act", "\"relu\"", "hidden_act"},
    {llama, "hidden_act", "5", "hidden_act"},
    {llama, "attention_bias", "true", "attention_bias"},
    {llama, "attention_bias", "1", "attention_bias"},
    {llama, "mlp_bias", "true", "mlp_bias"},
    {llama, "tie_word_embeddings", "\"yes\"", "tie_word_embeddings"},
    {smollm3, "use_sliding_window", "true", "use_sliding_window"},
    {smollm3, "no_rope_layers", "[1,1,1]", "no_rope_layers"},
    {smollm3, "no_rope_layers", "{}", "no_rope_layers"},
    {smollm3, "no_rope_layers", "[1,1,1,2,1]", "no_rope_layers[3]"},
    {idefics3, "text_config", NULL, "text_config"},
    {idefics3, "text_config", "[]", "text_config"},
    {idefics3, "vision_config", "7", "vision_config"},
    {idefics3, "image_token_id", NULL, "image_token_id"},
    {idefics3, "image_token_id", "-1", "image_token_id"},
    {idefics3, "image_token_id", "785", "image_token_id"},
    {idefics3, "vision_config.patch_size", "65", "patches"},
    {idefics3, "scale_factor", "3", "scale_factor"},
    {idefics3, "vision_config.num_attention_heads", "3", "num_attention_heads"},
    {idefics3, "vision_config.hidden_act", "\"gelu\"", "hidden_act"},
    {idefics3, "vision_config.layer_norm_eps", "-1", "layer_norm_eps"},
};

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

/* Texts that try the reader itself: depth, size, values; bounded and refused. */
static void test_hostile_text(void **unused)
{
    (void)unused;
    enum { DEEP = 200000 };
    char *deep = malloc(DEEP);
    assert_non_null(deep);
    static const char opens[] = "[{";
    for (int o = 0; o < 2; o++) {
        for (size_t i = 0; i < DEEP; i++) deep[i] = opens[o];
        json_t *v = NULL;
        struct err e = {0};
        assert_true(json_read(deep, DEEP, &json_limits_file, "config.json", &v, &e) < 0);
        assert_non_null(strstr(e.msg, "config.json"));
        assert_null(v);
    }
    free(deep);
}

/* Random values in random members: always read or refused, never more. */
static void test_damage(void **unused)
{
    (void)unused;
    static const char *const values[] = {"0", "1", "16", "64", "-3", "1e9", "1e-9", "0.5", "null", "true", "\"yarn\"", "[]", "{}", "[1,0]", "{\"rope_type\":\"yarn\",\"factor\":4}", "2147483648"};
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
            json_object_foreach(at, key, member)
            {
                if (which-- == 0) break;
            }
            if (key) json_object_set_new(at, key, parse(values[(seed >> 20) % (sizeof values / sizeof *values)]));
        }
        struct model_config c;
        struct err e = {0};
        if (config_read(&c, v, families, &e) == 0) {
            accepted++;
            assert_true(c.text.heads % c.text.kv_heads == 0 && c.text.head_dim % 16 == 0 && isfinite(c.text.inv_freq[c.text.head_dim / 2 - 1]) && c.text.norm_eps > 0);
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
        cmocka_unit_test(test_llama), cmocka_unit_test(test_smollm3), cmocka_unit_test(test_idefics3), cmocka_unit_test(test_bad_sizes),
        cmocka_unit_test(test_bad_fields), cmocka_unit_test(test_hostile_text), cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
