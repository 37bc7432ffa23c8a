/* Config: see config.h. */
#include "weights/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"

/* A JSON object of config.json and its name in errors: "" or "text_config.". */
struct section {
    const json_t *v;
    const char *name;
};

static bool absent(const struct section *s, const char *key)
{
    const json_t *v = json_object_get(s->v, key);
    return !v || json_is_null(v);
}

/* Absent or null: `missing` if it is >= 0, else an error. */
static int read_u32(const struct section *s, const char *key, int64_t missing, uint32_t min, uint32_t max, uint32_t *out, struct err *e)
{
    const json_t *v = json_object_get(s->v, key);
    if (!v || json_is_null(v)) {
        if (missing < 0) return err_set(e, ERR_INPUT, "config.json: %s%s is missing", s->name, key);
        *out = (uint32_t)missing;
        return 0;
    }
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return err_set(e, ERR_INPUT, "config.json: %s%s must be an integer from %u to %u", s->name, key, min, max);
    *out = (uint32_t)json_integer_value(v);
    return 0;
}

static int read_number(const struct section *s, const char *key, double missing, double min, double max, double *out, struct err *e)
{
    const json_t *v = json_object_get(s->v, key);
    *out = missing;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_number(v) || !(json_number_value(v) >= min && json_number_value(v) <= max))
        return err_set(e, ERR_INPUT, "config.json: %s%s must be a number from %g to %g", s->name, key, min, max);
    *out = json_number_value(v);
    return 0;
}

static int read_bool(const struct section *s, const char *key, bool missing, bool *out, struct err *e)
{
    const json_t *v = json_object_get(s->v, key);
    *out = missing;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_boolean(v)) return err_set(e, ERR_INPUT, "config.json: %s%s must be true or false", s->name, key);
    *out = json_is_true(v);
    return 0;
}

/* A word we know, or absence; anything else would be computed wrongly. */
static int expect_word(const struct section *s, const char *key, const char *word, struct err *e)
{
    const json_t *v = json_object_get(s->v, key);
    if (!v || json_is_null(v)) return 0;
    if (!json_is_string(v) || strcmp(json_string_value(v), word))
        return err_set(e, ERR_UNSUPPORTED, "config.json: %s%s: only '%s' is supported", s->name, key, word);
    return 0;
}

static int expect_false(const struct section *s, const char *key, struct err *e)
{
    bool v;
    int rc = read_bool(s, key, false, &v, e);
    return !rc && v ? err_set(e, ERR_UNSUPPORTED, "config.json: %s%s: true is not supported", s->name, key) : rc;
}

/* --- rope --- */
struct yarn {
    double factor, original, beta_fast, beta_slow, attention;
};

/* YaRN (Peng et al., 2023, arXiv 2309.00071) as transformers computes it. */
static void yarn_apply(struct text_config *t, double theta, const struct yarn *y)
{
    double hd = t->head_dim, pi2 = 6.283185307179586;
    double lo = floor(hd * log(y->original / (y->beta_fast * pi2)) / (2 * log(theta)));
    double hi = ceil(hd * log(y->original / (y->beta_slow * pi2)) / (2 * log(theta)));
    lo = lo > 0 ? lo : 0;
    hi = hi < hd - 1 ? hi : hd - 1;
    if (lo == hi) hi += 0.001;
    for (uint32_t j = 0; j < t->head_dim / 2; j++) {
        float ramp = ((float)j - (float)lo) / (float)(hi - lo);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        t->inv_freq[j] = t->inv_freq[j] / (float)y->factor * ramp + t->inv_freq[j] * (1 - ramp);
    }
    t->rope_scale = (float)(y->attention > 0 ? y->attention : 0.1 * log(y->factor) + 1);
}

static int read_yarn(const struct section *s, struct yarn *y, uint32_t max_positions, struct err *e)
{
    if (absent(s, "factor")) return err_set(e, ERR_INPUT, "config.json: %sfactor is missing", s->name);
    int rc = read_number(s, "factor", 1, 1, 1e4, &y->factor, e);
    if (!rc) rc = read_number(s, "original_max_position_embeddings", max_positions, 1, 1e9, &y->original, e);
    if (!rc) rc = read_number(s, "beta_fast", 32, 1e-3, 1e6, &y->beta_fast, e);
    if (!rc) rc = read_number(s, "beta_slow", 1, 1e-3, 1e6, &y->beta_slow, e);
    if (!rc) rc = read_number(s, "attention_factor", 0, 0, 1e4, &y->attention, e);
    return rc;
}

/* An object in s, or NULL if it is absent or null. */
static int read_object(const struct section *s, const char *key, const json_t **out, struct err *e)
{
    const json_t *v = json_object_get(s->v, key);
    *out = NULL;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_object(v)) return err_set(e, ERR_INPUT, "config.json: %s%s must be an object or null", s->name, key);
    *out = v;
    return 0;
}

/* How the frequencies in t->inv_freq change for long contexts: not at all, or by YaRN. s: rope_scaling or rope_parameters. */
static int read_rope_type(struct text_config *t, const struct section *s, double theta, bool required, struct err *e)
{
    const json_t *type = json_object_get(s->v, "rope_type");
    if (!type) type = json_object_get(s->v, "type");
    if (!type && required) return err_set(e, ERR_INPUT, "config.json: %srope_type is missing", s->name);
    const char *word = type ? json_string_value(type) : "default";
    if (word && strcmp(word, "default") == 0) return 0;
    if (!word || strcmp(word, "yarn"))
        return err_set(e, ERR_UNSUPPORTED, "config.json: %srope_type '%.32s' is not supported", s->name, word ? word : "?");
    struct yarn y;
    int rc = read_yarn(s, &y, t->max_positions, e);
    if (!rc) yarn_apply(t, theta, &y);
    return rc;
}

/* rope_theta on top (transformers 4) or in rope_parameters (5), where the type may be silent; rope_scaling null or an object with its type. */
static int read_rope(struct text_config *t, const struct section *text, const struct family *f, struct err *e)
{
    char params_name[64], scaling_name[64];
    struct section params = {NULL, params_name}, scaling = {NULL, scaling_name};
    snprintf(params_name, sizeof params_name, "%srope_parameters.", text->name);
    snprintf(scaling_name, sizeof scaling_name, "%srope_scaling.", text->name);
    int rc = read_object(text, "rope_parameters", &params.v, e);
    if (!rc) rc = read_object(text, "rope_scaling", &scaling.v, e);
    if (rc) return rc;
    const struct section *theta_at = params.v && !absent(&params, "rope_theta") ? &params : text;
    double theta;
    if (absent(theta_at, "rope_theta"))
        log_warn("config.json: %srope_theta is missing; %s assumes %g", text->name, f->architecture, f->rope_theta);
    rc = read_number(theta_at, "rope_theta", f->rope_theta, 1.001, 1e12, &theta, e);
    if (rc) return rc;
    t->rope_scale = 1;
    for (uint32_t j = 0; j < t->head_dim / 2; j++) t->inv_freq[j] = 1.0f / powf((float)theta, (float)(2 * j) / (float)t->head_dim);
    if (scaling.v) return read_rope_type(t, &scaling, theta, true, e);
    return params.v ? read_rope_type(t, &params, theta, false, e) : 0;
}

static int read_rope_layers(struct text_config *t, const struct section *s, const struct family *f, struct err *e)
{
    uint32_t every;
    int rc = read_u32(s, "no_rope_layer_interval", f->no_rope_interval, 1, 1 << 20, &every, e);
    if (rc) return rc;
    const json_t *list = f->no_rope_interval ? json_object_get(s->v, "no_rope_layers") : NULL;
    bool given = list && !json_is_null(list);
    if (given && (!json_is_array(list) || json_array_size(list) != t->layers))
        return err_set(e, ERR_INPUT, "config.json: %sno_rope_layers must list %u layers", s->name, t->layers);
    for (uint32_t i = 0; i < t->layers; i++) {
        t->rope[i] = !f->no_rope_interval || (i + 1) % every != 0;
        if (!given) continue;
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || (json_integer_value(v) != 0 && json_integer_value(v) != 1))
            return err_set(e, ERR_INPUT, "config.json: %sno_rope_layers[%u] must be 0 or 1", s->name, i);
        t->rope[i] = json_integer_value(v) == 1;
    }
    return 0;
}

/* Every layer sees the whole context; another kind would be computed wrongly. */
static int expect_full_attention(const struct section *s, struct err *e)
{
    const json_t *list = json_object_get(s->v, "layer_types"), *v;
    if (!list || json_is_null(list)) return 0;
    if (!json_is_array(list)) return err_set(e, ERR_INPUT, "config.json: %slayer_types must be an array or null", s->name);
    size_t i;
    json_array_foreach((json_t *)list, i, v) {
        const char *word = json_string_value(v);
        if (!word || strcmp(word, "full_attention"))
            return err_set(e, ERR_UNSUPPORTED, "config.json: %slayer_types[%zu]: only 'full_attention' is supported", s->name, i);
    }
    return 0;
}

/* --- sections --- */
static int read_text(struct model_config *c, const struct section *s, const struct section *top, struct err *e)
{
    struct text_config *t = &c->text;
    double eps;
    int rc = read_u32(s, "hidden_size", -1, 16, 65536, &t->hidden, e);
    if (!rc) rc = read_u32(s, "num_hidden_layers", -1, 1, CONFIG_MAX_LAYERS, &t->layers, e);
    if (!rc) rc = read_u32(s, "num_attention_heads", -1, 1, 1024, &t->heads, e);
    if (!rc) rc = read_u32(s, "num_key_value_heads", t->heads, 1, 1024, &t->kv_heads, e);
    if (!rc && t->heads % t->kv_heads)
        rc = err_set(e, ERR_INPUT, "config.json: %snum_attention_heads %u is not a multiple of num_key_value_heads %u", s->name, t->heads,
                     t->kv_heads);
    if (!rc && absent(s, "head_dim") && t->hidden % t->heads)
        rc = err_set(e, ERR_INPUT, "config.json: %shidden_size %u is not a multiple of num_attention_heads %u, and head_dim is missing",
                     s->name, t->hidden, t->heads);
    if (!rc) rc = read_u32(s, "head_dim", t->hidden / t->heads, 1, CONFIG_MAX_HEAD_DIM, &t->head_dim, e);
    if (!rc && (t->head_dim % 16 || t->head_dim > CONFIG_MAX_HEAD_DIM || t->head_dim == 0))
        rc = err_set(e, ERR_UNSUPPORTED, "config.json: %shead_dim %u: only multiples of 16 up to %d are supported", s->name, t->head_dim,
                     CONFIG_MAX_HEAD_DIM);
    if (!rc) rc = read_u32(s, "intermediate_size", -1, 1, 1 << 20, &t->inter, e);
    const struct section *vocab_at = absent(s, "vocab_size") ? top : s;
    if (!rc) rc = read_u32(vocab_at, "vocab_size", -1, 1, 1 << 20, &t->vocab, e);
    if (!rc) rc = read_u32(s, "max_position_embeddings", -1, 1, 1 << 24, &t->max_positions, e);
    if (!rc) rc = read_number(s, "rms_norm_eps", (double)c->family->rms_norm_eps, 1e-12, 1, &eps, e);
    if (rc) return rc;
    t->norm_eps = (float)eps;
    rc = expect_word(s, "hidden_act", "silu", e);
    if (!rc) rc = expect_false(s, "attention_bias", e);
    if (!rc) rc = expect_false(s, "mlp_bias", e);
    if (!rc) rc = expect_false(s, "use_sliding_window", e);
    if (!rc) rc = expect_full_attention(s, e);
    if (!rc) rc = read_bool(absent(s, "tie_word_embeddings") ? top : s, "tie_word_embeddings", c->family->tie_word_embeddings, &t->tied, e);
    if (!rc) rc = read_rope_layers(t, s, c->family, e);
    return rc ? rc : read_rope(t, s, c->family, e);
}

static int read_vision(struct model_config *c, const struct section *s, const struct section *top, struct err *e)
{
    struct vision_config *v = &c->vision;
    double eps;
    uint32_t image_token;
    int rc = read_u32(s, "hidden_size", 1152, 1, 16384, &v->dim, e);
    if (!rc) rc = read_u32(s, "num_hidden_layers", 0, 1, 256, &v->layers, e);
    if (!rc) rc = read_u32(s, "num_attention_heads", 16, 1, 1024, &v->heads, e);
    if (!rc) rc = read_u32(s, "intermediate_size", 0, 1, 1 << 20, &v->inter, e);
    if (!rc) rc = read_u32(s, "image_size", 224, 1, 4096, &v->image_px, e);
    if (!rc) rc = read_u32(s, "patch_size", 32, 1, 4096, &v->patch, e);
    if (!rc) rc = read_u32(top, "scale_factor", 2, 1, 64, &v->scale, e);
    if (!rc) rc = read_number(s, "layer_norm_eps", 1e-6, 1e-12, 1, &eps, e);
    if (!rc) rc = read_u32(top, "image_token_id", -1, 0, c->text.vocab - 1, &image_token, e);
    if (!rc) rc = expect_word(s, "hidden_act", "gelu_pytorch_tanh", e);
    if (rc) return rc;
    v->norm_eps = (float)eps;
    c->image_token = (int32_t)image_token;
    v->grid = v->image_px / v->patch;
    if (v->grid == 0)
        return err_set(e, ERR_INPUT, "config.json: %spatch_size %u is larger than image_size %u", s->name, v->patch, v->image_px);
    if (v->grid % v->scale)
        return err_set(e, ERR_INPUT, "config.json: a grid of %u patches cannot be shuffled by scale_factor %u", v->grid, v->scale);
    if (v->dim % v->heads || v->dim / v->heads > CONFIG_MAX_HEAD_DIM - 16)
        return err_set(e, ERR_INPUT, "config.json: %shidden_size %u does not fit num_attention_heads %u", s->name, v->dim, v->heads);
    return 0;
}

static const struct family *find_family(const json_t *config, const struct family *const *families, struct err *e)
{
    const char *name = json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    if (!name) {
        err_set(e, ERR_INPUT, "config.json: architectures is missing");
        return NULL;
    }
    char known[256] = "";
    for (; *families; families++) {
        if (strcmp(name, (*families)->architecture) == 0) return *families;
        snprintf(known + strlen(known), sizeof known - strlen(known), " %s", (*families)->architecture);
    }
    err_set(e, ERR_UNSUPPORTED, "config.json: architectures: '%.64s' is not supported; supported:%s", name, known);
    return NULL;
}

/* --- quantised checkpoints --- */
static int require_word(const struct section *s, const char *key, const char *word, struct err *e)
{
    const char *v = json_string_value(json_object_get(s->v, key));
    if (v && strcmp(v, word) == 0) return 0;
    return err_set(e, ERR_UNSUPPORTED, "config.json: %s%s '%.32s': only '%s' is supported", s->name, key, v ? v : "?", word);
}

/* weights or input_activations of a group: symmetric 8-bit floats, scales by `strategy`. */
static int read_scheme(const struct section *group, const char *key, const char *strategy, bool dynamic, struct err *e)
{
    char name[128];
    struct section s = {NULL, name};
    uint32_t bits;
    bool v = false, symmetric = false;
    snprintf(name, sizeof name, "%s%s.", group->name, key);
    int rc = read_object(group, key, &s.v, e);
    if (!rc && !s.v)
        rc = err_set(e, ERR_UNSUPPORTED, "config.json: %s%s is missing: fp8 weights need fp8 activations", group->name, key);
    if (!rc) rc = require_word(&s, "type", "float", e);
    if (!rc) rc = read_u32(&s, "num_bits", -1, 8, 8, &bits, e);
    if (!rc) rc = require_word(&s, "strategy", strategy, e);
    if (!rc) rc = read_bool(&s, "symmetric", true, &symmetric, e);
    if (!rc && !symmetric) rc = err_set(e, ERR_UNSUPPORTED, "config.json: %ssymmetric: only true is supported", s.name);
    if (!rc) rc = read_bool(&s, "dynamic", false, &v, e);
    if (!rc && v != dynamic)
        rc = err_set(e, ERR_UNSUPPORTED, "config.json: %sdynamic: only %s is supported", s.name, dynamic ? "true" : "false");
    return rc;
}

/* compressed-tensors' FP8: a scale an output, activations "dynamic per token". */
static int read_quantization(struct model_config *c, const struct section *top, struct err *e)
{
    struct section s = {NULL, "quantization_config."}, groups = {NULL, "quantization_config.config_groups."};
    int rc = read_object(top, "quantization_config", &s.v, e);
    if (rc || !s.v) return rc;
    rc = require_word(&s, "quant_method", "compressed-tensors", e);
    if (!rc) rc = require_word(&s, "format", "float-quantized", e);
    if (!rc && !absent(&s, "kv_cache_scheme"))
        rc = err_set(e, ERR_UNSUPPORTED, "config.json: quantization_config.kv_cache_scheme: only null is supported");
    if (!rc) rc = read_object(&s, "config_groups", &groups.v, e);
    if (!rc && json_object_size(groups.v) == 0)
        rc = err_set(e, ERR_INPUT, "config.json: quantization_config.config_groups is missing or empty");
    const char *key;
    json_t *unused;
    if (rc) return rc;
    json_object_foreach((json_t *)groups.v, key, unused) {
        char name[96];
        struct section group = {NULL, name};
        snprintf(name, sizeof name, "%s%.32s.", groups.name, key);
        rc = read_object(&groups, key, &group.v, e);
        if (!rc && !group.v) rc = err_set(e, ERR_INPUT, "config.json: %.*s must be an object", (int)strlen(name) - 1, name);
        if (!rc) rc = read_scheme(&group, "weights", "channel", false, e);
        if (!rc) rc = read_scheme(&group, "input_activations", "token", true, e);
        if (!rc && !absent(&group, "output_activations"))
            rc = err_set(e, ERR_UNSUPPORTED, "config.json: %soutput_activations: only null is supported", name);
        if (rc) return rc;
    }
    c->fp8 = true;
    return 0;
}

int config_read(struct model_config *c, const json_t *config, const struct family *const *families, struct err *e)
{
    *c = (struct model_config){.image_token = -1};
    if (!json_is_object(config)) return err_set(e, ERR_INPUT, "config.json: not a JSON object");
    c->family = find_family(config, families, e);
    if (!c->family) return -(int)(e ? e->code : ERR_INPUT);
    struct section top = {config, ""}, text = top, vision = top;
    int rc = read_quantization(c, &top, e);
    if (rc) return rc;
    if (c->family->vision) {
        text = (struct section){json_object_get(config, "text_config"), "text_config."};
        vision = (struct section){json_object_get(config, "vision_config"), "vision_config."};
        if (!json_is_object(text.v)) return err_set(e, ERR_INPUT, "config.json: text_config is missing");
        if (!json_is_object(vision.v)) return err_set(e, ERR_INPUT, "config.json: vision_config is missing");
    }
    rc = read_text(c, &text, &top, e);
    return !rc && c->family->vision ? read_vision(c, &vision, &top, e) : rc;
}
