/* Chat parameters: see chat_params.h. The tables first, then one reader a kind. */
#include "server/api/chat_params.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

enum field_kind {
    FIELD_REAL,
    FIELD_INT,
    FIELD_BOOL,
    FIELD_OWN,       /* read() */
    FIELD_ELSEWHERE, /* model, messages */
    FIELD_IGNORED,   /* does not change the answer */
    FIELD_REFUSED    /* would change it: only the value that asks for nothing passes */
};

/* What FIELD_REFUSED lets pass (null always does). */
enum nothing { NOTHING_NULL, NOTHING_EMPTY, NOTHING_FALSE, NOTHING_TEXT_FORMAT, NOTHING_TEXT_LIST, NOTHING_NO_TOOL };

struct field {
    const char *name;
    enum field_kind kind;
    size_t at;
    double min, max;
    int (*read)(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e);
    enum nothing nothing;
};

static int read_seed(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e);
static int read_stop(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e);
static int read_bias(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e);
static int read_stream_options(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e);
static int read_kwargs(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e);
static int read_metadata(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e);

#define AT(x) offsetof(struct chat_params, x)
#define MAX_COUNT 2147483647.0

static const struct field fields[] = {
    {"model", FIELD_ELSEWHERE, 0, 0, 0, NULL, 0},
    {"messages", FIELD_ELSEWHERE, 0, 0, 0, NULL, 0},
    {"temperature", FIELD_REAL, AT(temperature), 0, 2, NULL, 0},
    {"top_p", FIELD_REAL, AT(top_p), 0, 1, NULL, 0},
    {"min_p", FIELD_REAL, AT(min_p), 0, 1, NULL, 0},
    {"top_k", FIELD_INT, AT(top_k), -1, MAX_COUNT, NULL, 0}, /* -1 and 0: off, as in vLLM */
    {"frequency_penalty", FIELD_REAL, AT(frequency_penalty), -2, 2, NULL, 0},
    {"presence_penalty", FIELD_REAL, AT(presence_penalty), -2, 2, NULL, 0},
    {"repetition_penalty", FIELD_REAL, AT(repetition_penalty), 0.01, 10, NULL, 0},
    {"n", FIELD_INT, AT(n), 1, CHAT_MAX_CHOICES, NULL, 0},
    {"max_tokens", FIELD_INT, AT(max_tokens), 1, MAX_COUNT, NULL, 0},
    {"max_completion_tokens", FIELD_INT, AT(max_completion_tokens), 1, MAX_COUNT, NULL, 0},
    {"min_tokens", FIELD_INT, AT(min_tokens), 0, MAX_COUNT, NULL, 0},
    {"top_logprobs", FIELD_INT, AT(top_logprobs), 0, FRAME_MAX_TOP, NULL, 0},
    {"logprobs", FIELD_BOOL, AT(logprobs), 0, 0, NULL, 0},
    {"stream", FIELD_BOOL, AT(stream), 0, 0, NULL, 0},
    {"ignore_eos", FIELD_BOOL, AT(ignore_eos), 0, 0, NULL, 0},
    {"seed", FIELD_OWN, 0, 0, 0, read_seed, 0},
    {"stop", FIELD_OWN, 0, 0, 0, read_stop, 0},
    {"logit_bias", FIELD_OWN, 0, 0, 0, read_bias, 0},
    {"stream_options", FIELD_OWN, 0, 0, 0, read_stream_options, 0},
    {"chat_template_kwargs", FIELD_OWN, 0, 0, 0, read_kwargs, 0},
    {"user", FIELD_IGNORED, 0, 0, 0, NULL, 0},
    {"metadata", FIELD_OWN, 0, 0, 0, read_metadata, 0},
    {"store", FIELD_IGNORED, 0, 0, 0, NULL, 0},
    {"service_tier", FIELD_IGNORED, 0, 0, 0, NULL, 0},
    {"parallel_tool_calls", FIELD_IGNORED, 0, 0, 0, NULL, 0},
    {"safety_identifier", FIELD_IGNORED, 0, 0, 0, NULL, 0},
    {"prompt_cache_key", FIELD_IGNORED, 0, 0, 0, NULL, 0},
    {"prompt_cache_retention", FIELD_IGNORED, 0, 0, 0, NULL, 0},
    {"tools", FIELD_REFUSED, 0, 0, 0, NULL, NOTHING_EMPTY},
    {"tool_choice", FIELD_REFUSED, 0, 0, 0, NULL, NOTHING_NO_TOOL},
    {"functions", FIELD_REFUSED, 0, 0, 0, NULL, NOTHING_EMPTY},
    {"function_call", FIELD_REFUSED, 0, 0, 0, NULL, NOTHING_NO_TOOL},
    {"response_format", FIELD_REFUSED, 0, 0, 0, NULL, NOTHING_TEXT_FORMAT},
    {"modalities", FIELD_REFUSED, 0, 0, 0, NULL, NOTHING_TEXT_LIST},
    {"audio", FIELD_REFUSED, 0, 0, 0, NULL, NOTHING_NULL},
    {"prediction", FIELD_REFUSED, 0, 0, 0, NULL, NOTHING_NULL},
    {"reasoning_effort", FIELD_REFUSED, 0, 0, 0, NULL, NOTHING_NULL},
    {"verbosity", FIELD_REFUSED, 0, 0, 0, NULL, NOTHING_NULL},
    {"web_search_options", FIELD_REFUSED, 0, 0, 0, NULL, NOTHING_NULL},
    {"use_beam_search", FIELD_REFUSED, 0, 0, 0, NULL, NOTHING_FALSE},
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

static const struct field *field_find(const char *name)
{
    for (int i = 0; i < N_FIELDS; i++)
        if (strcmp(fields[i].name, name) == 0) return &fields[i];
    return NULL;
}

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_NULL:
        return "null";
    default:
        return "a boolean";
    }
}

static int wrong_type(const char *name, const json_t *v, const char *wanted, struct err *e)
{
    return err_set_param(e, ERR_INPUT, name, "'%s' must be %s, not %s.", name, wanted, type_name(v));
}

static int read_number(const struct field *f, struct chat_params *p, const json_t *v, struct err *e)
{
    bool whole = f->kind == FIELD_INT;
    if (whole ? !json_is_integer(v) : !json_is_number(v)) return wrong_type(f->name, v, whole ? "an integer" : "a number", e);
    double x = json_number_value(v);
    if (!(x >= f->min && x <= f->max))
        return err_set_param(e, ERR_INPUT, f->name, "'%s' must be between %.10g and %.10g.", f->name, f->min, f->max);
    if (whole)
        *(int64_t *)((char *)p + f->at) = json_integer_value(v);
    else
        *(double *)((char *)p + f->at) = x;
    return 0;
}

static int read_seed(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e)
{
    (void)model;
    (void)arena;
    if (!json_is_integer(v)) return wrong_type("seed", v, "an integer", e);
    p->seed = json_integer_value(v);
    p->has_seed = true;
    return 0;
}

static int stop_add(struct chat_params *p, const json_t *v, const char *name, struct err *e)
{
    if (!json_is_string(v)) return wrong_type(name, v, "a string", e);
    size_t n = json_string_length(v);
    if (n < 1 || n > STOP_MAX_BYTES) return err_set_param(e, ERR_INPUT, name, "A stop string must have 1 to %d bytes.", STOP_MAX_BYTES);
    if (p->n_stops == STOP_MAX_STRINGS) return err_set_param(e, ERR_INPUT, "stop", "At most %d stop strings.", STOP_MAX_STRINGS);
    p->stops[p->n_stops++] = (struct stop_string){.p = json_string_value(v), .n = n};
    return 0;
}

static int read_stop(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e)
{
    (void)model;
    (void)arena;
    if (json_is_string(v)) return stop_add(p, v, "stop", e);
    if (!json_is_array(v)) return wrong_type("stop", v, "a string or an array of strings", e);
    for (size_t i = 0; i < json_array_size(v); i++) {
        char name[32];
        snprintf(name, sizeof name, "stop[%zu]", i);
        int rc = stop_add(p, json_array_get(v, i), name, e);
        if (rc) return rc;
    }
    return 0;
}

static int read_bias(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e)
{
    if (!json_is_object(v)) return wrong_type("logit_bias", v, "an object", e);
    size_t n = json_object_size(v), i = 0;
    if (n > CHAT_MAX_BIAS) return err_set_param(e, ERR_INPUT, "logit_bias", "'logit_bias' may have at most %d members.", CHAT_MAX_BIAS);
    struct frame_bias *bias = arena_array(arena, n ? n : 1, sizeof *bias);
    if (!bias) return err_set(e, ERR_MEMORY, "out of memory");
    void *it;
    for (it = json_object_iter((json_t *)v); it; it = json_object_iter_next((json_t *)v, it), i++) {
        const char *key = json_object_iter_key(it);
        json_t *value = json_object_iter_value(it);
        int64_t id;
        if (!str_parse_int64(key, 0, (int64_t)model->vocab - 1, &id))
            return err_set_param(e, ERR_INPUT, "logit_bias", "'logit_bias': '%.*s' is not a token id from 0 to %u.", (int)utf8_cut(key, 32),
                                 key, model->vocab - 1);
        double x = json_number_value(value);
        if (!json_is_number(value) || !(x >= -100 && x <= 100))
            return err_set_param(e, ERR_INPUT, "logit_bias", "'logit_bias': the bias of token %lld must be a number from -100 to 100.",
                                 (long long)id);
        bias[i] = (struct frame_bias){.token = (int32_t)id, .bias = (float)x};
    }
    p->bias = bias;
    p->n_bias = (uint32_t)n;
    return 0;
}

static int read_stream_options(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e)
{
    (void)model;
    (void)arena;
    if (!json_is_object(v)) return wrong_type("stream_options", v, "an object", e);
    for (void *it = json_object_iter((json_t *)v); it; it = json_object_iter_next((json_t *)v, it)) {
        char name[96];
        const char *key = json_object_iter_key(it);
        const json_t *value = json_object_iter_value(it);
        snprintf(name, sizeof name, "stream_options.%.*s", (int)utf8_cut(key, 64), key);
        if (strcmp(key, "include_usage") != 0 && strcmp(key, "include_obfuscation") != 0)
            return err_set_param(e, ERR_UNSUPPORTED, name, "Unknown parameter: '%s'.", name);
        if (!json_is_boolean(value)) return wrong_type(name, value, "a boolean", e);
        if (strcmp(key, "include_usage") == 0) p->include_usage = json_is_true(value);
    }
    return 0;
}

static int read_kwargs(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e)
{
    (void)model;
    (void)arena;
    if (!json_is_object(v)) return wrong_type("chat_template_kwargs", v, "an object", e);
    p->kwargs = v;
    return 0;
}

static size_t count_chars(const char *s)
{
    size_t n = 0;
    for (; *s; s++) n += (*s & 0xc0) != 0x80; /* UTF-8 */
    return n;
}

static int read_metadata(struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena, struct err *e)
{
    (void)model;
    (void)arena;
    if (!json_is_object(v)) return wrong_type("metadata", v, "an object", e);
    if (json_object_size(v) > CHAT_MAX_TAGS)
        return err_set_param(e, ERR_INPUT, "metadata", "'metadata' may have at most %d members.", CHAT_MAX_TAGS);
    for (void *it = json_object_iter((json_t *)v); it; it = json_object_iter_next((json_t *)v, it)) {
        const char *key = json_object_iter_key(it), *value = json_string_value(json_object_iter_value(it));
        if (count_chars(key) > CHAT_MAX_TAG_CHARS)
            return err_set_param(e, ERR_INPUT, "metadata", "A name in 'metadata' may have at most %d characters.", CHAT_MAX_TAG_CHARS);
        if (!value)
            return err_set_param(e, ERR_INPUT, "metadata", "'metadata': '%.*s' must be a string, not %s.", (int)utf8_cut(key, 64), key,
                                 type_name(json_object_iter_value(it)));
        if (strlen(value) != json_string_length(json_object_iter_value(it)) || count_chars(value) > CHAT_MAX_VALUE_CHARS)
            return err_set_param(e, ERR_INPUT, "metadata", "'metadata': '%.*s' may have at most %d characters, none of them U+0000.",
                                 (int)utf8_cut(key, 64), key, CHAT_MAX_VALUE_CHARS);
    }
    p->metadata = v;
    return 0;
}

static bool string_is(const json_t *v, const char *s)
{
    return json_is_string(v) && strcmp(json_string_value(v), s) == 0;
}

static bool asks_for_nothing(enum nothing what, const json_t *v)
{
    switch (what) {
    case NOTHING_NULL:
        return false;
    case NOTHING_EMPTY:
        return json_is_array(v) && json_array_size(v) == 0;
    case NOTHING_FALSE:
        return json_is_false(v);
    case NOTHING_TEXT_FORMAT:
        return json_is_object(v) && string_is(json_object_get(v, "type"), "text");
    case NOTHING_TEXT_LIST:
        return json_is_array(v) && json_array_size(v) == 1 && string_is(json_array_get(v, 0), "text");
    case NOTHING_NO_TOOL:
        return string_is(v, "none") || string_is(v, "auto");
    }
    return false;
}

static int read_field(const struct field *f, struct chat_params *p, const json_t *v, const struct prompt_info *model, struct arena *arena,
                      struct err *e)
{
    bool number = f->kind == FIELD_REAL || f->kind == FIELD_INT || f->read == read_seed;
    if (json_is_null(v) && !number) return 0; /* as if it were not there */
    switch (f->kind) {
    case FIELD_REAL:
    case FIELD_INT:
        return read_number(f, p, v, e);
    case FIELD_BOOL:
        if (!json_is_boolean(v)) return wrong_type(f->name, v, "a boolean", e);
        *(bool *)((char *)p + f->at) = json_is_true(v);
        return 0;
    case FIELD_OWN:
        return f->read(p, v, model, arena, e);
    case FIELD_REFUSED:
        if (asks_for_nothing(f->nothing, v)) return 0;
        return err_set_param(e, ERR_UNSUPPORTED, f->name, "'%s' is not supported by this server.", f->name);
    case FIELD_ELSEWHERE:
    case FIELD_IGNORED:
        return 0;
    }
    return err_set(e, ERR_INTERNAL, "field '%s' has no kind", f->name);
}

/* What single rows cannot tell. */
static int check_together(const struct chat_params *p, const json_t *request, struct err *e)
{
    if (p->max_tokens && p->max_completion_tokens && p->max_tokens != p->max_completion_tokens)
        return err_set_param(e, ERR_INPUT, "max_tokens", "'max_tokens' and 'max_completion_tokens' are given and differ.");
    int64_t max = p->max_completion_tokens ? p->max_completion_tokens : p->max_tokens;
    if (max && p->min_tokens > max)
        return err_set_param(e, ERR_INPUT, "min_tokens", "'min_tokens' (%lld) is more than the maximum of %lld tokens.",
                             (long long)p->min_tokens, (long long)max);
    if (json_object_get(request, "top_logprobs") && !p->logprobs)
        return err_set_param(e, ERR_INPUT, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true.");
    const json_t *options = json_object_get(request, "stream_options");
    if (options && !json_is_null(options) && !p->stream)
        return err_set_param(e, ERR_INPUT, "stream_options", "'stream_options' needs 'stream' to be true.");
    return 0;
}

int chat_params_read(struct chat_params *p, const json_t *request, const struct prompt_info *model, struct arena *arena, struct err *e)
{
    const struct prompt_defaults *d = &model->defaults;
    *p = (struct chat_params){.temperature = d->temperature,
                              .top_p = d->top_p,
                              .min_p = d->min_p,
                              .top_k = d->top_k,
                              .repetition_penalty = d->repetition_penalty,
                              .n = 1};
    for (void *it = json_object_iter((json_t *)request); it; it = json_object_iter_next((json_t *)request, it)) {
        const char *name = json_object_iter_key(it);
        const struct field *f = field_find(name);
        if (!f) {
            char shown[65];
            snprintf(shown, sizeof shown, "%.*s", (int)utf8_cut(name, sizeof shown - 1), name);
            return err_set_param(e, ERR_UNSUPPORTED, shown, "Unknown parameter: '%s'.", shown);
        }
        int rc = read_field(f, p, json_object_iter_value(it), model, arena, e);
        if (rc) return rc;
    }
    return check_together(p, request, e);
}

int chat_params_read_hosted(struct chat_params *p, const json_t *request, struct err *e)
{
    static const char *const ours[] = {"n", "max_tokens", "max_completion_tokens", "logprobs", "stream", "stream_options", "metadata"};
    *p = (struct chat_params){.n = 1};
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++) {
        const json_t *v = json_object_get(request, ours[i]);
        int rc = v ? read_field(field_find(ours[i]), p, v, NULL, NULL, e) : 0;
        if (rc) return rc;
    }
    if (p->max_tokens && p->max_completion_tokens && p->max_tokens != p->max_completion_tokens)
        return err_set_param(e, ERR_INPUT, "max_tokens", "'max_tokens' and 'max_completion_tokens' are given and differ.");
    return 0;
}

int chat_params_check(const struct chat_params *p, const struct limits *limits, struct err *e)
{
    const struct {
        const char *name;
        int64_t is, max;
    } rows[] = {{"stop", (int64_t)p->n_stops, limits->stops},
                {"n", p->n, limits->choices},
                {"top_logprobs", p->top_logprobs, limits->top_logprobs}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].is > rows[i].max)
            return err_set_param(e, ERR_LIMIT, rows[i].name, "'%s': %lld, the limit here is %lld.", rows[i].name, (long long)rows[i].is,
                                 (long long)rows[i].max);
    return 0;
}

size_t chat_params_numbers(struct chat_number *out, size_t cap)
{
    size_t n = 0;
    for (int i = 0; i < N_FIELDS; i++) {
        const struct field *f = &fields[i];
        bool seed = f->read == read_seed;
        if (f->kind != FIELD_REAL && f->kind != FIELD_INT && !seed) continue;
        struct chat_number row = {.name = f->name, .whole = f->kind == FIELD_INT || seed, .min = f->min, .max = f->max};
        if (seed) row.min = (double)INT64_MIN, row.max = (double)INT64_MAX;
        if (n < cap) out[n] = row;
        n++;
    }
    return n;
}
