/* The Anthropic wire (Messages), requests. Answers: wire_anthropic_read.c.
 *
 * System messages are the request's `system`, so they must come first; tool results are parts of a user's message; turns of one role become
 * one message. cache_control marks stay where they are. A past answer's thinking is put together again from its reasoning text and
 * the signatures in extra_content.anthropic. */
#include "server/providers/wire_parts.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"

static const char *const merged[] = {"output_config", "metadata", NULL};
static const char *const not_body[] = {"betas", NULL};

static json_t *text_block(struct encode *x, const json_t *text, const json_t *mark)
{
    json_t *b = tree_object(&x->t);
    tree_set(&x->t, b, "type", tree_text(&x->t, "text"));
    tree_set(&x->t, b, "text", tree_ref(text));
    if (json_is_object(mark)) tree_set(&x->t, b, "cache_control", tree_ref(mark));
    return b;
}

/* --- parts --- */

/* {"type": kind, "source": ...} from a data: URL, or from one that the host fetches. */
static int source_block(struct encode *x, const char *kind, const char *url, const char *param, json_t **out)
{
    struct data_url d;
    json_t *source = tree_object(&x->t), *b = tree_object(&x->t);
    *out = b;
    tree_set(&x->t, b, "type", tree_text(&x->t, kind));
    tree_set(&x->t, b, "source", source); /* the block's from here on */
    if (data_url_split(url, &d)) {
        tree_set(&x->t, source, "type", tree_text(&x->t, "base64"));
        tree_set(&x->t, source, "media_type", tree_text_n(&x->t, d.media_type, d.n_media_type));
        tree_set(&x->t, source, "data", tree_text_n(&x->t, d.data, d.n_data));
        return 0;
    }
    if (!str_starts_with(url, "https://") && !str_starts_with(url, "http://"))
        return err_set_param(x->e, ERR_INPUT, param, "'%s': the URL is neither a base64 data: URL nor http(s).", param);
    tree_set(&x->t, source, "type", tree_text(&x->t, "url"));
    tree_set(&x->t, source, "url", tree_text(&x->t, url));
    return 0;
}

static int part_block(struct encode *x, const json_t *part, const char *param, json_t **out)
{
    const char *type = member_text(part, "type");
    const json_t *mark = json_object_get(part, "cache_control");
    *out = NULL;
    int rc = message_check_part(x->host, part, param, x->e);
    if (rc) return rc;
    if (strcmp(type, "text") == 0 || strcmp(type, "refusal") == 0) {
        const json_t *text = json_object_get(part, type);
        if (!json_is_string(text)) return wrong_member(x->e, param, "a part with a text");
        *out = text_block(x, text, mark);
        return 0;
    }
    if (strcmp(type, "image_url") == 0)
        rc = source_block(x, "image", part_image_url(part), param, out);
    else {
        const char *data = member_text(json_object_get(part, "file"), "file_data");
        if (!data) return err_set_param(x->e, ERR_UNSUPPORTED, param, "Provider '%s' takes a file only as file_data.", x->host->name);
        rc = source_block(x, "document", data, param, out);
    }
    if (!rc && json_is_object(mark)) tree_set(&x->t, *out, "cache_control", tree_ref(mark));
    return rc;
}

/* Appends a message's content, a string or parts, to blocks. */
static int content_blocks(struct encode *x, const json_t *message, size_t i, json_t *blocks)
{
    const json_t *content = json_object_get(message, "content"), *mark = json_object_get(message, "cache_control");
    char param[96];
    if (!content || json_is_null(content)) return 0;
    if (json_is_string(content)) {
        if (json_string_length(content)) tree_push(&x->t, blocks, text_block(x, content, mark)); /* it refuses empty text */
        return 0;
    }
    message_param(param, i, -1);
    if (!json_is_array(content)) return wrong_member(x->e, param, "a message whose content is a string or an array of parts");
    for (size_t k = 0; k < json_array_size(content); k++) {
        json_t *b;
        message_param(param, i, (long)k);
        int rc = part_block(x, json_array_get(content, k), param, &b);
        if (b) tree_push(&x->t, blocks, b);
        if (rc) return rc;
    }
    return 0;
}

/* --- messages --- */

/* The list of blocks that a turn of this role goes into. */
static json_t *blocks_of(struct encode *x, json_t *messages, const char *role)
{
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    if (last && text_is(json_object_get(last, "role"), role)) return json_object_get(last, "content");
    json_t *m = tree_object(&x->t), *blocks = tree_array(&x->t);
    tree_set(&x->t, m, "role", tree_text(&x->t, role));
    tree_set(&x->t, m, "content", blocks);
    tree_push(&x->t, messages, m);
    return blocks;
}

static int thinking_block(struct encode *x, const json_t *entry, const json_t *reasoning, size_t *at, const char *param, json_t *blocks)
{
    json_t *b = tree_object(&x->t);
    tree_push(&x->t, blocks, b);
    const json_t *data = json_object_get(entry, "data"), *signature = json_object_get(entry, "signature");
    int64_t n;
    if (json_is_string(data)) {
        tree_set(&x->t, b, "type", tree_text(&x->t, "redacted_thinking"));
        tree_set(&x->t, b, "data", tree_ref(data));
        return 0;
    }
    const char *text = json_is_string(reasoning) ? json_string_value(reasoning) : "";
    bool fits = json_is_string(signature) && member_int(entry, "bytes", &n) && n >= 0 && (uint64_t)n <= json_string_length(reasoning) - *at;
    if (!fits || !utf8_valid(text + *at, (size_t)n)) /* not between two characters: another text */
        return err_set_param(x->e, ERR_INPUT, param,
                             "'%s': reasoning_content is not what extra_content.anthropic was given with: send both unchanged, or neither.",
                             param);
    tree_set(&x->t, b, "type", tree_text(&x->t, "thinking"));
    tree_set(&x->t, b, "thinking", tree_text_n(&x->t, text + *at, (size_t)n));
    tree_set(&x->t, b, "signature", tree_ref(signature));
    *at += (size_t)n;
    return 0;
}

static int thinking_blocks(struct encode *x, const json_t *message, const char *param, json_t *blocks)
{
    const json_t *list = json_object_get(json_object_get(json_object_get(message, "extra_content"), "anthropic"), "thinking");
    const json_t *reasoning = json_object_get(message, "reasoning_content");
    size_t at = 0;
    for (size_t k = 0; k < json_array_size(list); k++) {
        int rc = thinking_block(x, json_array_get(list, k), reasoning, &at, param, blocks);
        if (rc) return rc;
    }
    return 0;
}

static int tool_use_blocks(struct encode *x, const json_t *message, const char *param, json_t *blocks)
{
    const json_t *calls = json_object_get(message, "tool_calls");
    for (size_t k = 0; k < json_array_size(calls); k++) {
        const json_t *call = json_array_get(calls, k), *id = json_object_get(call, "id");
        const json_t *name = json_object_get(json_object_get(call, "function"), "name");
        json_t *input;
        if (!json_is_string(id) || !json_is_string(name))
            return wrong_member(x->e, param, "a message whose tool calls have an id and a name");
        int rc = arguments_read(call, param, &input, x->e);
        if (rc) return rc;
        json_t *b = tree_object(&x->t);
        tree_push(&x->t, blocks, b);
        tree_set(&x->t, b, "type", tree_text(&x->t, "tool_use"));
        tree_set(&x->t, b, "id", tree_ref(id));
        tree_set(&x->t, b, "name", tree_ref(name));
        tree_set(&x->t, b, "input", input);
        const json_t *mark = json_object_get(call, "cache_control");
        if (json_is_object(mark)) tree_set(&x->t, b, "cache_control", tree_ref(mark));
    }
    return 0;
}

static int tool_result(struct encode *x, const json_t *message, size_t i, const char *param, json_t *messages)
{
    const json_t *id = json_object_get(message, "tool_call_id"), *mark = json_object_get(message, "cache_control");
    if (!json_is_string(id)) return wrong_member(x->e, param, "a tool message with a tool_call_id");
    json_t *b = tree_object(&x->t), *blocks = tree_array(&x->t);
    tree_push(&x->t, blocks_of(x, messages, "user"), b);
    tree_set(&x->t, b, "type", tree_text(&x->t, "tool_result"));
    tree_set(&x->t, b, "tool_use_id", tree_ref(id));
    tree_set(&x->t, b, "content", blocks);
    if (json_is_object(mark)) tree_set(&x->t, b, "cache_control", tree_ref(mark));
    return content_blocks(x, message, i, blocks);
}

static int assistant(struct encode *x, const json_t *message, size_t i, const char *param, json_t *messages)
{
    json_t *blocks = blocks_of(x, messages, "assistant");
    int rc = thinking_blocks(x, message, param, blocks);
    if (!rc) rc = content_blocks(x, message, i, blocks);
    if (!rc) rc = tool_use_blocks(x, message, param, blocks);
    return rc;
}

static int message_encode(struct encode *x, const json_t *message, size_t i, json_t *system, json_t *messages)
{
    char param[96];
    message_param(param, i, -1);
    const char *role = member_text(message, "role");
    if (!role) return wrong_member(x->e, param, "an object with a 'role'");
    int rc = message_check_members(x->host, message, param, x->e);
    if (rc) return rc;
    if (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0) {
        if (json_array_size(messages))
            return err_set_param(x->e, ERR_UNSUPPORTED, param, "Provider '%s' takes system messages only before all others.",
                                 x->host->name);
        return content_blocks(x, message, i, system);
    }
    if (strcmp(role, "user") == 0) return content_blocks(x, message, i, blocks_of(x, messages, "user"));
    if (strcmp(role, "assistant") == 0) return assistant(x, message, i, param, messages);
    if (strcmp(role, "tool") == 0) return tool_result(x, message, i, param, messages);
    return err_set_param(x->e, ERR_UNSUPPORTED, param, "Provider '%s' has no role '%.32s'.", x->host->name, role);
}

static int messages_encode(struct encode *x, const json_t *v)
{
    if (!json_is_array(v) || json_array_size(v) == 0) return wrong_member(x->e, "messages", "an array of messages");
    json_t *system = tree_array(&x->t), *messages = tree_array(&x->t);
    tree_set(&x->t, x->body, "messages", messages);
    int rc = 0;
    for (size_t i = 0; i < json_array_size(v) && !rc; i++) rc = message_encode(x, json_array_get(v, i), i, system, messages);
    if (json_array_size(system))
        tree_set(&x->t, x->body, "system", system);
    else
        json_decref(system);
    return rc;
}

/* --- tools --- */

static int tools_encode(struct encode *x, const json_t *v)
{
    json_t *list = tree_array(&x->t);
    tree_set(&x->t, x->body, "tools", list);
    if (!json_is_array(v)) return wrong_member(x->e, "tools", "an array of tools");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *tool = json_array_get(v, i), *f = json_object_get(tool, "function"), *mark = json_object_get(tool, "cache_control");
        char param[96];
        snprintf(param, sizeof param, "tools[%zu]", i);
        if (!text_is(json_object_get(tool, "type"), "function"))
            return err_set_param(x->e, ERR_UNSUPPORTED, param,
                                 "Provider '%s' takes tools of type 'function' here; its own go into provider_options.", x->host->name);
        if (!member_text(f, "name")) return wrong_member(x->e, param, "a tool with a function that has a name");
        json_t *t = tree_object(&x->t);
        tree_push(&x->t, list, t);
        const json_t *schema = json_object_get(f, "parameters");
        tree_set(&x->t, t, "name", tree_ref(json_object_get(f, "name")));
        if (json_is_string(json_object_get(f, "description")))
            tree_set(&x->t, t, "description", tree_ref(json_object_get(f, "description")));
        tree_set(&x->t, t, "input_schema",
                 json_is_object(schema) ? tree_ref(schema) : json_pack("{s:s,s:{}}", "type", "object", "properties"));
        if (json_is_boolean(json_object_get(f, "strict"))) tree_set(&x->t, t, "strict", tree_ref(json_object_get(f, "strict")));
        if (json_is_object(mark)) tree_set(&x->t, t, "cache_control", tree_ref(mark));
    }
    return 0;
}

static json_t *choice_object(struct encode *x)
{
    json_t *choice = json_object_get(x->body, "tool_choice");
    if (choice) return choice;
    choice = tree_object(&x->t);
    tree_set(&x->t, x->body, "tool_choice", choice);
    tree_set(&x->t, choice, "type", tree_text(&x->t, "auto"));
    return choice;
}

static int tool_choice_encode(struct encode *x, const json_t *v)
{
    static const char *const words[][2] = {{"none", "none"}, {"auto", "auto"}, {"required", "any"}};
    json_t *choice = choice_object(x);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (text_is(v, words[i][0])) {
            tree_set(&x->t, choice, "type", tree_text(&x->t, words[i][1]));
            return 0;
        }
    const json_t *name = json_object_get(json_object_get(v, "function"), "name");
    if (!json_is_string(name))
        return err_set_param(x->e, ERR_UNSUPPORTED, "tool_choice", "This 'tool_choice' has no word with provider '%s'.", x->host->name);
    tree_set(&x->t, choice, "type", tree_text(&x->t, "tool"));
    tree_set(&x->t, choice, "name", tree_ref(name));
    return 0;
}

static int parallel_encode(struct encode *x, const json_t *v)
{
    if (!json_is_boolean(v)) return wrong_member(x->e, "parallel_tool_calls", "a boolean");
    if (json_is_false(v) && json_array_size(json_object_get(x->request, "tools")))
        tree_set(&x->t, choice_object(x), "disable_parallel_tool_use", json_true());
    return 0;
}

/* --- single parameters --- */

static int temperature_encode(struct encode *x, const json_t *v)
{
    if (!json_is_number(v)) return wrong_member(x->e, "temperature", "a number");
    if (json_number_value(v) > 1)
        return err_set_param(x->e, ERR_UNSUPPORTED, "temperature", "Provider '%s' takes a 'temperature' from 0 to 1.", x->host->name);
    tree_set(&x->t, x->body, "temperature", tree_ref(v));
    return 0;
}

static int top_p_encode(struct encode *x, const json_t *v)
{
    tree_set(&x->t, x->body, "top_p", tree_ref(v));
    return 0;
}

static int top_k_encode(struct encode *x, const json_t *v)
{
    if (json_number_value(v) > 0) tree_set(&x->t, x->body, "top_k", tree_ref(v));
    return 0;
}

static int stop_encode(struct encode *x, const json_t *v)
{
    json_t *list = json_is_array(v) ? tree_ref(v) : tree_array(&x->t);
    if (json_is_string(v)) tree_push(&x->t, list, tree_ref(v));
    tree_set(&x->t, x->body, "stop_sequences", list);
    return 0;
}

static json_t *output_config(struct encode *x)
{
    json_t *o = json_object_get(x->body, "output_config");
    if (o) return o;
    o = tree_object(&x->t);
    tree_set(&x->t, x->body, "output_config", o);
    return o;
}

static int format_encode(struct encode *x, const json_t *v)
{
    const json_t *type = json_object_get(v, "type"), *schema = json_object_get(json_object_get(v, "json_schema"), "schema");
    if (text_is(type, "text")) return 0;
    if (!text_is(type, "json_schema"))
        return err_set_param(x->e, ERR_UNSUPPORTED, "response_format", "Provider '%s' takes a response_format of type 'json_schema' only.",
                             x->host->name);
    if (!json_is_object(schema)) return wrong_member(x->e, "response_format", "an object with a json_schema that has a schema");
    json_t *format = tree_object(&x->t);
    tree_set(&x->t, output_config(x), "format", format);
    tree_set(&x->t, format, "type", tree_text(&x->t, "json_schema"));
    tree_set(&x->t, format, "schema", tree_ref(schema));
    return 0;
}

/* Newer models are told the effort and think as they see fit. */
static void adaptive_encode(struct encode *x, const char *effort)
{
    json_t *thinking = tree_object(&x->t);
    tree_set(&x->t, x->body, "thinking", thinking);
    tree_set(&x->t, thinking, "type", tree_text(&x->t, "adaptive"));
    tree_set(&x->t, output_config(x), "effort", tree_text(&x->t, effort));
}

/* A share of the maximum, which thinking counts in; who wants the model's own way says provider_options.anthropic.thinking. */
static int effort_encode(struct encode *x, const json_t *v)
{
    static const struct {
        const char *word;
        int percent;
    } efforts[] = {{"none", 0}, {"minimal", 0}, {"low", 20}, {"medium", 50}, {"high", 80}, {"xhigh", 90}};
    enum { MIN_BUDGET = 1024 };
    if (json_object_get(x->options, "thinking")) return 0;
    int percent = -1;
    for (size_t i = 0; i < sizeof efforts / sizeof efforts[0]; i++)
        if (text_is(v, efforts[i].word)) percent = efforts[i].percent;
    if (percent < 0) return wrong_member(x->e, "reasoning_effort", "none, minimal, low, medium, high or xhigh");
    if (percent == 0) return 0;
    if (x->o->adaptive_thinking) {
        adaptive_encode(x, json_string_value(v));
        return 0;
    }
    int64_t budget = x->o->max_tokens / 100 * percent;
    if (budget < MIN_BUDGET) budget = MIN_BUDGET;
    if (budget >= x->o->max_tokens)
        return err_set_param(
            x->e, ERR_UNSUPPORTED, "reasoning_effort",
            "Provider '%s' thinks with at least %d tokens, and the maximum here is %lld: ask for more tokens or for no reasoning.",
            x->host->name, MIN_BUDGET, (long long)x->o->max_tokens);
    json_t *thinking = tree_object(&x->t);
    tree_set(&x->t, x->body, "thinking", thinking);
    tree_set(&x->t, thinking, "type", tree_text(&x->t, "enabled"));
    tree_set(&x->t, thinking, "budget_tokens", tree_integer(&x->t, budget));
    return 0;
}

static int tier_encode(struct encode *x, const json_t *v)
{
    const char *word = text_is(v, "auto") ? "auto" : text_is(v, "default") || text_is(v, "standard_only") ? "standard_only" : NULL;
    if (!word) return err_set_param(x->e, ERR_UNSUPPORTED, "service_tier", "Provider '%s' has no such service_tier.", x->host->name);
    tree_set(&x->t, x->body, "service_tier", tree_text(&x->t, word));
    return 0;
}

static int user_encode(struct encode *x, const json_t *v)
{
    if (!json_is_string(v) || json_object_get(x->body, "metadata")) return 0;
    json_t *metadata = tree_object(&x->t);
    tree_set(&x->t, x->body, "metadata", metadata);
    tree_set(&x->t, metadata, "user_id", tree_ref(v));
    return 0;
}

static const struct {
    const char *name;
    int (*encode)(struct encode *x, const json_t *v);
} own[] = {{"messages", messages_encode},
           {"tools", tools_encode},
           {"tool_choice", tool_choice_encode},
           {"parallel_tool_calls", parallel_encode},
           {"temperature", temperature_encode},
           {"top_p", top_p_encode},
           {"top_k", top_k_encode},
           {"stop", stop_encode},
           {"response_format", format_encode},
           {"reasoning_effort", effort_encode},
           {"service_tier", tier_encode},
           {"user", user_encode},
           {"safety_identifier", user_encode}};

static int own_encode(struct encode *x, const char *key, const json_t *v)
{
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (strcmp(own[i].name, key) == 0) return own[i].encode(x, v);
    return err_set(x->e, ERR_INTERNAL, "parameter '%s' has no translation", key);
}

/* provider_options.anthropic.betas, as the vendor's SDK has it, is a header. */
static int headers_encode(struct encode *x)
{
    char(*h)[WIRE_MAX_HEADER_BYTES] = x->out->headers;
    snprintf(h[x->out->n_headers++], WIRE_MAX_HEADER_BYTES, "anthropic-version: 2023-06-01");
    const json_t *betas = json_object_get(x->options, "betas");
    if (!betas) return 0;
    char *line = h[x->out->n_headers];
    int n = snprintf(line, WIRE_MAX_HEADER_BYTES, "anthropic-beta: ");
    for (size_t i = 0; i < json_array_size(betas); i++) {
        const char *word = json_string_value(json_array_get(betas, i));
        size_t len = word ? strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") : 0;
        if (!len || word[len] || (size_t)n + len + 2 > WIRE_MAX_HEADER_BYTES)
            return wrong_member(x->e, "provider_options.anthropic.betas", "a short list of names");
        n += snprintf(line + n, WIRE_MAX_HEADER_BYTES - (size_t)n, "%s%s", i ? "," : "", word);
    }
    if (json_array_size(betas)) x->out->n_headers++;
    return 0;
}

int wire_anthropic_encode(struct encode *x)
{
    const char *key;
    const json_t *v;
    int rc = headers_encode(x);
    if (rc) return rc;
    snprintf(x->out->path, WIRE_MAX_PATH_BYTES, "/messages");
    tree_set(&x->t, x->body, "model", tree_text(&x->t, x->o->model));
    tree_set(&x->t, x->body, "max_tokens", tree_integer(&x->t, x->o->max_tokens));
    tree_set(&x->t, x->body, "stream", json_true());
    FOR_MEMBERS(x->request, key, v) {
        int action = param_action(x->host, WIRE_ANTHROPIC, key, v, x->e);
        if (action < 0) return action;
        if (action == PARAM_OWN && (rc = own_encode(x, key, v))) return rc;
    }
    if (!json_object_get(x->body, "messages")) return wrong_member(x->e, "messages", "an array of messages");
    if (!json_object_get(x->body, "tools")) json_object_del(x->body, "tool_choice"); /* it may not be there alone */
    param_merge(&x->t, x->body, x->options, merged, not_body);
    return 0;
}
