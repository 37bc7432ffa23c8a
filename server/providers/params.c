/* Parameters: what becomes of each member of a chat request on each wire. One row a name, so that "was this dropped?" has one place to
 * look.
 *
 * A row says passed, translated, left out (it does not change the answer) or refused. What a row's host has not declared, and what a
 * wire has no word for, is refused by its name unless its value asks for nothing. What is in no row goes to hosts that refuse what they
 * do not know (ANY_PARAMETER); the others' own words go into provider_options. */
#include "server/providers/wire_parts.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"

enum how {
    PASS,    /* as it is, to hosts that declare `needs` */
    PASS_ON, /* as it is, to hosts that know all of OpenAI's parameters */
    OWN,     /* translated by the wire */
    HINT,    /* does not change the answer: passed to hosts that declare `needs` (none: ANY_PARAMETER), else left out */
    SKIP,    /* ours to say, or does not change the answer and the wire has no word for it */
    REFUSED
};

/* Values with which a parameter that cannot be had asks for nothing; null always does. */
enum nothing { NEVER, ZERO, ONE, OFF, ON, EMPTY, NO_FORMAT, ONLY_TEXT, NO_TOOL, USUAL_TIER, NO_EFFORT, ZERO_OR_LESS };

struct param {
    const char *name;
    enum how how[3]; /* by enum wire_kind */
    uint32_t needs;
    enum nothing nothing;
};

#define SAME(x)                                                                                                                            \
    {                                                                                                                                      \
        x, x, x                                                                                                                            \
    }

static const struct param params[] = {
    {"model", SAME(SKIP), 0, 0},
    {"stream", SAME(SKIP), 0, 0},
    {"stream_options", SAME(SKIP), 0, 0},
    {"max_tokens", SAME(SKIP), 0, 0},
    {"max_completion_tokens", SAME(SKIP), 0, 0},
    {"provider_options", SAME(SKIP), 0, 0},
    {"messages", SAME(OWN), 0, 0},
    {"temperature", {PASS, OWN, OWN}, 0, NEVER},
    {"top_p", {PASS, OWN, OWN}, 0, NEVER},
    {"top_k", {PASS, OWN, OWN}, CAP_TOP_K, ZERO_OR_LESS},
    {"stop", {PASS, OWN, OWN}, 0, EMPTY},
    {"seed", {PASS, REFUSED, OWN}, CAP_SEED, NEVER},
    {"n", {PASS, REFUSED, REFUSED}, CAP_CHOICES, ONE},
    {"logprobs", {PASS, REFUSED, REFUSED}, CAP_LOGPROBS, OFF},
    {"top_logprobs", {PASS, REFUSED, REFUSED}, CAP_LOGPROBS, ZERO},
    {"logit_bias", {PASS, REFUSED, REFUSED}, CAP_LOGIT_BIAS, EMPTY},
    {"presence_penalty", {PASS, REFUSED, OWN}, CAP_PENALTIES, ZERO},
    {"frequency_penalty", {PASS, REFUSED, OWN}, CAP_PENALTIES, ZERO},
    {"tools", {PASS, OWN, OWN}, CAP_TOOLS, EMPTY},
    {"tool_choice", {PASS, OWN, OWN}, CAP_TOOLS, NO_TOOL},
    {"parallel_tool_calls", {PASS, OWN, REFUSED}, CAP_TOOLS, ON},
    {"functions", {PASS_ON, REFUSED, REFUSED}, CAP_TOOLS, EMPTY},
    {"function_call", {PASS_ON, REFUSED, REFUSED}, CAP_TOOLS, NO_TOOL},
    {"response_format", {OWN, OWN, OWN}, 0, NO_FORMAT},
    {"reasoning_effort", {PASS, OWN, OWN}, CAP_REASONING, NO_EFFORT},
    {"verbosity", {PASS_ON, REFUSED, REFUSED}, 0, NEVER},
    {"prediction", {PASS_ON, REFUSED, REFUSED}, 0, NEVER},
    {"modalities", {PASS_ON, REFUSED, REFUSED}, 0, ONLY_TEXT},
    {"audio", {PASS_ON, REFUSED, REFUSED}, 0, NEVER},
    {"web_search_options", {PASS_ON, REFUSED, REFUSED}, 0, NEVER},
    {"service_tier", {PASS, OWN, REFUSED}, CAP_TIERS, USUAL_TIER},
    {"user", {HINT, OWN, SKIP}, 0, 0},
    {"safety_identifier", {HINT, OWN, SKIP}, 0, 0},
    {"store", {HINT, SKIP, SKIP}, 0, 0},
    {"metadata", {HINT, SKIP, SKIP}, 0, 0},
    {"prompt_cache_key", {HINT, SKIP, SKIP}, CAP_PROMPT_CACHE, 0},
    {"prompt_cache_retention", {HINT, SKIP, SKIP}, 0, 0},
    {"prompt_cache_options", {HINT, SKIP, SKIP}, 0, 0},
    {"min_p", {PASS, REFUSED, REFUSED}, CAP_SAMPLING, ZERO},
    {"repetition_penalty", {PASS, REFUSED, REFUSED}, CAP_SAMPLING, ONE},
    {"min_tokens", {PASS, REFUSED, REFUSED}, CAP_SAMPLING, ZERO},
    {"ignore_eos", {PASS, REFUSED, REFUSED}, CAP_SAMPLING, OFF},
    {"chat_template_kwargs", {PASS, REFUSED, REFUSED}, CAP_SAMPLING, EMPTY},
    {"use_beam_search", SAME(REFUSED), 0, OFF},
    /* would choose the host, the key or the model behind our back */
    {"api_base", SAME(REFUSED), 0, NEVER},
    {"api_key", SAME(REFUSED), 0, NEVER},
    {"api_version", SAME(REFUSED), 0, NEVER},
    {"base_url", SAME(REFUSED), 0, NEVER},
    {"headers", SAME(REFUSED), 0, NEVER},
    {"extra_headers", SAME(REFUSED), 0, NEVER},
    {"extra_body", SAME(REFUSED), 0, NEVER},
    {"extra_query", SAME(REFUSED), 0, NEVER},
    {"custom_llm_provider", SAME(REFUSED), 0, NEVER},
    {"models", SAME(REFUSED), 0, NEVER},
    {"fallbacks", SAME(REFUSED), 0, NEVER},
    {"route", SAME(REFUSED), 0, NEVER},
};
enum { N_PARAMS = sizeof params / sizeof params[0] };

/* What provider_options may not say: it would change what is billed, where the request goes, or how we read the answer. */
static const char *const reserved[] = {"model",
                                       "models",
                                       "messages",
                                       "contents",
                                       "stream",
                                       "stream_options",
                                       "max_tokens",
                                       "n",
                                       "best_of",
                                       "system",
                                       "systemInstruction",
                                       "system_instruction",
                                       "generation_config",
                                       "max_completion_tokens",
                                       "api_base",
                                       "base_url",
                                       "api_key",
                                       "api_version",
                                       "headers",
                                       "extra_headers",
                                       "max_output_tokens",
                                       "extra_body",
                                       "route",
                                       "service_tier",
                                       "serviceTier",
                                       "fallbacks",
                                       NULL};
/* The same inside members that are merged. */
static const char *const reserved_inside[] = {"maxOutputTokens", "candidateCount", "max_output_tokens", "candidate_count", NULL};
/* What holds our maximum may be added to, not replaced. */
static const char *const objects[] = {"generationConfig", NULL};

static bool listed(const char *const *list, const char *name)
{
    for (; list && *list; list++)
        if (strcmp(*list, name) == 0) return true;
    return false;
}

static bool asks_for_nothing(enum nothing what, const json_t *v)
{
    const json_t *type = json_object_get(v, "type");
    switch (json_is_null(v) ? NEVER : what) {
    case NEVER:
        return json_is_null(v);
    case ZERO:
        return json_is_number(v) && json_number_value(v) == 0;
    case ZERO_OR_LESS:
        return json_is_number(v) && json_number_value(v) <= 0;
    case ONE:
        return json_is_number(v) && json_number_value(v) == 1;
    case OFF:
        return json_is_false(v);
    case ON:
        return json_is_true(v);
    case EMPTY:
        return (json_is_array(v) && json_array_size(v) == 0) || (json_is_object(v) && json_object_size(v) == 0);
    case NO_FORMAT:
        return text_is(type, "text");
    case ONLY_TEXT:
        return json_array_size(v) == 1 && text_is(json_array_get(v, 0), "text");
    case NO_TOOL:
        return text_is(v, "none") || text_is(v, "auto");
    case USUAL_TIER:
        return text_is(v, "auto") || text_is(v, "default");
    case NO_EFFORT:
        return text_is(v, "none");
    }
    return false;
}

static int refused(const struct provider_host *h, const struct param *p, const json_t *v, struct err *e)
{
    if (asks_for_nothing(p->nothing, v)) return PARAM_LEFT_OUT;
    return err_set_param(e, ERR_UNSUPPORTED, p->name, "'%s' is not supported by provider '%s'.", p->name, h->name);
}

int param_action(const struct provider_host *h, enum wire_kind kind, const char *name, const json_t *v, struct err *e)
{
    const struct param *p = NULL;
    const bool any = h->row->flags & ANY_PARAMETER;
    for (int i = 0; i < N_PARAMS && !p; i++)
        if (strcmp(params[i].name, name) == 0) p = &params[i];
    if (!p && kind == WIRE_OPENAI && any && !listed(reserved, name)) return PARAM_PASS;
    if (!p) {
        char shown[65];
        snprintf(shown, sizeof shown, "%.*s", (int)utf8_cut(name, sizeof shown - 1), name);
        return err_set_param(e, ERR_UNSUPPORTED, shown,
                             "Unknown parameter: '%s'. A word of the provider's own goes into provider_options.%s.", shown, h->row->name);
    }
    if (json_is_null(v)) return PARAM_LEFT_OUT;
    const bool declared = (h->row->capabilities & p->needs) == p->needs && provider_word(h->row, name);
    switch (p->how[kind]) {
    case PASS:
        return declared ? PARAM_PASS : refused(h, p, v, e);
    case PASS_ON:
        return declared && any ? PARAM_PASS : refused(h, p, v, e);
    case OWN:
        return declared ? PARAM_OWN : refused(h, p, v, e);
    case HINT:
        return declared && (p->needs || any) ? PARAM_PASS : PARAM_LEFT_OUT;
    case SKIP:
        return PARAM_LEFT_OUT;
    case REFUSED:
        return refused(h, p, v, e);
    }
    return err_set(e, ERR_INTERNAL, "parameter '%s' has no kind", name);
}

static int refuse_option(struct err *e, const char *host, const char *name)
{
    char param[96];
    snprintf(param, sizeof param, "provider_options.%.36s.%.36s", host, name);
    return err_set_param(e, ERR_INPUT, param, "'%s' is not for provider_options.", param);
}

static int check_options(const char *host, const json_t *options, struct err *e)
{
    const char *key, *inner;
    const json_t *v, *w;
    FOR_MEMBERS(options, key, v) {
        if (listed(reserved, key) || (listed(objects, key) && !json_is_object(v))) return refuse_option(e, host, key);
        for (void *it = json_object_iter((json_t *)v); it; it = json_object_iter_next((json_t *)v, it)) {
            inner = json_object_iter_key(it);
            w = json_object_iter_value(it);
            if (w && listed(reserved_inside, inner)) return refuse_option(e, host, inner);
        }
    }
    return 0;
}

int param_options(const struct provider_host *h, const json_t *request, const json_t **out, struct err *e)
{
    const json_t *all = json_object_get(request, "provider_options"), *v;
    const char *key;
    *out = NULL;
    if (!all || json_is_null(all)) return 0;
    if (!json_is_object(all)) return wrong_member(e, "provider_options", "an object with a member for each provider");
    FOR_MEMBERS(all, key, v) {
        if (!json_is_object(v)) return wrong_member(e, "provider_options", "an object of objects");
        const bool by_name = strcmp(key, h->name) == 0;
        if (!by_name && (strcmp(key, h->row->name) != 0 || *out)) continue;
        int rc = check_options(key, v, e);
        if (rc) return rc;
        *out = v; /* the operator's own name goes before the row's */
    }
    return 0;
}

void param_merge(struct tree *t, json_t *body, const json_t *options, const char *const *into, const char *const *skip)
{
    const char *key;
    const json_t *v;
    FOR_MEMBERS(options, key, v) {
        if (listed(skip, key)) continue;
        json_t *there = json_object_get(body, key);
        if (json_is_object(there) && json_is_object(v) && listed(into, key)) {
            json_t *both = tree_copy(t, there);
            t->failed |= json_object_update(both, (json_t *)v) != 0;
            tree_set(t, body, key, both);
        } else
            tree_set(t, body, key, tree_ref(v));
    }
}

int message_check_members(const struct provider_host *h, const json_t *message, const char *param, struct err *e)
{
    static const char *const known[] = {"role", "content", "name", "tool_call_id", "cache_control", "extra_content", NULL};
    static const char *const refused_of_assistant[] = {"function_call", "audio", "prefix", NULL};
    const bool assistant = text_is(json_object_get(message, "role"), "assistant");
    const char *key;
    const json_t *v;
    FOR_MEMBERS(message, key, v) {
        if (json_is_null(v) || (assistant ? !listed(refused_of_assistant, key) : listed(known, key))) continue;
        return err_set_param(e, ERR_UNSUPPORTED, param, "Provider '%s' has no word for '%.*s' of a message.", h->name,
                             (int)utf8_cut(key, 64), key);
    }
    return 0;
}

int message_check_part(const struct provider_host *h, const json_t *part, const char *param, struct err *e)
{
    static const struct {
        const char *type;
        uint32_t needs;
    } kinds[] = {{"text", CAP_CHAT}, {"refusal", CAP_CHAT}, {"input_audio", CAP_AUDIO_IN}, {"file", CAP_FILE_IN}};
    const char *type = member_text(part, "type");
    if (!type) return wrong_member(e, param, "an object with a 'type'");
    uint32_t needs = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].type, type) == 0) needs = kinds[i].needs;
    if (strcmp(type, "image_url") == 0) {
        const char *url = part_image_url(part);
        if (!url) return wrong_member(e, param, "an image_url part with a 'url'");
        needs = str_starts_with(url, "data:") ? CAP_IMAGE_DATA : CAP_IMAGE_URL;
    }
    if (needs ? (h->row->capabilities & needs) != 0 : (h->row->flags & ANY_PARAMETER) && h->row->wire->kind == WIRE_OPENAI) return 0;
    return err_set_param(e, ERR_UNSUPPORTED, param, "Provider '%s' does not take parts of type '%.32s'%s.", h->name, type,
                         needs == CAP_IMAGE_URL ? " by URL" : "");
}
