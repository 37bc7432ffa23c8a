/* The list of models that a host tells: see models_list.h. */
#include "server/providers/models_list.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

/* Digits before and behind the point, moved by `shift` places: an integer, or no price. Prices above $1,000,000 per million are none. */
static bool decimal(const char *s, int shift, int64_t *out)
{
    const int64_t max = INT64_C(1000000) * 1000000000;
    int64_t v = 0;
    bool point = false, any = false;
    int left = shift;
    for (; (*s >= '0' && *s <= '9') || (*s == '.' && !point); s++) {
        if (*s == '.') {
            point = true;
            continue;
        }
        any = true;
        if (point && left == 0) {
            if (*s != '0') return false; /* finer than a nano-dollar */
            continue;
        }
        if (v > max / 10) return false;
        v = v * 10 + (*s - '0');
        left -= point;
    }
    if (*s == 'e' || *s == 'E') {
        int64_t exponent;
        if (!str_parse_int64(s[1] == '+' ? s + 2 : s + 1, -30, 30, &exponent)) return false;
        left += (int)exponent;
        s += strlen(s);
    }
    if (!any || *s) return false;
    for (; left > 0; left--) {
        if (v > max / 10) return false;
        v *= 10;
    }
    for (; left < 0; left++) {
        if (v % 10) return false;
        v /= 10;
    }
    *out = v;
    return v <= max;
}

bool models_price_parse(const char *text, bool per_million, int64_t *nusd)
{
    *nusd = -1;
    int64_t v;
    if (!decimal(text, per_million ? 9 : 15, &v)) return false; /* nano, and a million tokens */
    *nusd = v;
    return true;
}

/* A number's own shortest text is what the host wrote; what a host's floating point adds behind 15 digits is not. */
static int64_t price(const json_t *v, bool per_million)
{
    char text[64];
    int64_t nusd;
    if (json_is_integer(v)) {
        snprintf(text, sizeof text, "%lld", (long long)json_integer_value(v));
    } else if (json_is_real(v)) {
        for (int digits = 1; digits <= 15; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, json_real_value(v));
            double back;
            if (sscanf(text, "%lf", &back) == 1 && back == json_real_value(v)) break;
        }
    } else if (json_is_string(v) && json_string_length(v) < sizeof text)
        snprintf(text, sizeof text, "%s", json_string_value(v));
    else
        return -1;
    return models_price_parse(text, per_million, &nusd) ? nusd : -1;
}

static int64_t positive(const json_t *v)
{
    double n = json_number_value(v);
    return json_is_number(v) && n >= 1 && n < 1e15 ? (int64_t)llround(n) : -1;
}

static int flag(const json_t *v)
{
    return json_is_boolean(v) ? json_is_true(v) : -1;
}

static bool listed(const json_t *list, const char *word)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (s && strcmp(s, word) == 0) return true;
    }
    return false;
}

static const char *copy(struct arena *arena, const char *s)
{
    return arena_copy(arena, s, strlen(s));
}

/* One of the router's providers: USD per million tokens. */
static bool read_router(struct model_offer *o, const json_t *v, struct arena *arena)
{
    const char *name = json_string_value(json_object_get(v, "provider")), *status = json_string_value(json_object_get(v, "status"));
    const json_t *pricing = json_object_get(v, "pricing");
    if (!name || !(o->provider = copy(arena, name))) return false;
    const bool is_free = json_is_true(json_object_get(v, "is_free"));
    o->live = !status || strcmp(status, "live") == 0;
    o->context_length = positive(json_object_get(v, "context_length"));
    o->in_nusd = price(json_object_get(pricing, "input"), true);
    o->out_nusd = price(json_object_get(pricing, "output"), true);
    if (is_free && !pricing) o->in_nusd = o->out_nusd = 0; /* it says so */
    o->supports_tools = flag(json_object_get(v, "supports_tools"));
    o->supports_schema = flag(json_object_get(v, "supports_structured_output"));
    o->first_token_ms = positive(json_object_get(v, "first_token_latency_ms"));
    o->tokens_per_s = positive(json_object_get(v, "throughput"));
    return true;
}

/* Any other host: one offer. Prices, where there are any, are OpenRouter's: USD per token, as text. */
static void read_single(struct model_offer *o, const json_t *v)
{
    static const char *const contexts[] = {"context_length", "context_window", "max_context_length", "inputTokenLimit"};
    const json_t *pricing = json_object_get(v, "pricing"), *parameters = json_object_get(v, "supported_parameters");
    o->live = !json_is_false(json_object_get(v, "active"));
    for (size_t i = 0; i < sizeof contexts / sizeof contexts[0] && o->context_length < 0; i++)
        o->context_length = positive(json_object_get(v, contexts[i]));
    if (json_is_string(json_object_get(pricing, "prompt"))) {
        o->in_nusd = price(json_object_get(pricing, "prompt"), false);
        o->out_nusd = price(json_object_get(pricing, "completion"), false);
        o->cache_read_nusd = price(json_object_get(pricing, "input_cache_read"), false);
    }
    if (parameters) {
        o->supports_tools = listed(parameters, "tools");
        o->supports_schema = listed(parameters, "structured_outputs") || listed(parameters, "response_format");
    }
}

static int read_entry(struct model_entry *m, const json_t *v, const char *id, struct arena *arena)
{
    static const struct model_offer unknown = {"", true, -1, -1, -1, -1, -1, -1, -1, -1};
    const json_t *providers = json_object_get(v, "providers");
    size_t n = json_is_array(providers) ? json_array_size(providers) : 1;
    m->id = copy(arena, id);
    m->takes_images = listed(json_object_get(json_object_get(v, "architecture"), "input_modalities"), "image");
    m->offers = arena_array(arena, n ? n : 1, sizeof *m->offers);
    if (!m->id || !m->offers) return -ERR_MEMORY;
    for (size_t i = 0; i < n; i++) {
        struct model_offer *o = &m->offers[m->n_offers];
        *o = unknown;
        if (!json_is_array(providers))
            read_single(o, v);
        else if (!read_router(o, json_array_get(providers, i), arena))
            continue;
        m->n_offers++;
    }
    return 0;
}

const char *models_list_path(const struct provider *p)
{
    return p->path == PATH_AZURE ? "/openai/v1/models" : p->models_path ? p->models_path : "/models";
}

int models_list_read(struct models_list *out, const struct provider *p, const char *body, size_t n, struct arena *arena, struct err *e)
{
    static const struct json_limits limits = {.max_bytes = MODELS_MAX_BYTES, .max_values = 1000000, .max_depth = 32};
    json_t *root;
    *out = (struct models_list){0};
    int rc = json_read(body, n, &limits, "list of models", &root, e);
    if (rc) return rc;
    const json_t *list = json_is_array(root) ? root : json_object_get(root, "data");
    if (!json_is_array(list)) list = json_object_get(root, "models");
    size_t count = json_array_size(list);
    if (!json_is_array(list)) rc = err_set(e, ERR_INPUT, "provider %s: its list of models has no list in it", p->name);
    if (!rc && !(out->models = arena_array(arena, count ? count : 1, sizeof *out->models)))
        rc = err_set(e, arena_failure(arena), "a list of models that is too long");
    for (size_t i = 0; i < count && !rc; i++) {
        const json_t *v = json_array_get(list, i);
        const char *id = json_string_value(json_object_get(v, "id"));
        if (!id) id = json_string_value(json_object_get(v, "name")); /* Gemini: models/x */
        if (!id || !*id) continue;
        rc = read_entry(&out->models[out->n_models], v, str_starts_with(id, "models/") ? id + 7 : id, arena);
        if (rc) rc = err_set(e, arena_failure(arena), "a list of models that is too long");
        out->n_models += !rc;
    }
    json_decref(root);
    return rc;
}
