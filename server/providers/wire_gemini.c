/* The Gemini wire (generateContent), requests. Answers: wire_gemini_read.c.
 *
 * There are two roles, user and model; system messages are the request's systemInstruction; a tool's result names its function, which is
 * looked up by the call's id. Signatures of thoughts go back to the part that they came with. */
#include "server/providers/wire_parts.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"

static const char *const merged[] = {"generationConfig", "toolConfig", NULL};

static json_t *text_part(struct encode *x, const json_t *text)
{
    json_t *p = tree_object(&x->t);
    tree_set(&x->t, p, "text", tree_ref(text));
    return p;
}

/* --- parts --- */

static json_t *inline_part(struct encode *x, const char *type, size_t n_type, const char *data, size_t n)
{
    json_t *p = tree_object(&x->t), *in = tree_object(&x->t);
    tree_set(&x->t, p, "inlineData", in);
    tree_set(&x->t, in, "mimeType", tree_text_n(&x->t, type, n_type));
    tree_set(&x->t, in, "data", tree_text_n(&x->t, data, n));
    return p;
}

static int data_part(struct encode *x, const char *url, const char *param, json_t **out)
{
    struct data_url d;
    if (!url || !data_url_split(url, &d))
        return err_set_param(x->e, ERR_UNSUPPORTED, param, "Provider '%s' takes this part only as a base64 data: URL.", x->host->name);
    *out = inline_part(x, d.media_type, d.n_media_type, d.data, d.n_data);
    return 0;
}

static int audio_part(struct encode *x, const json_t *part, const char *param, json_t **out)
{
    const json_t *audio = json_object_get(part, "input_audio"), *data = json_object_get(audio, "data");
    const char *format = member_text(audio, "format");
    char type[32];
    if (!format || strlen(format) > 8 || !json_is_string(data))
        return wrong_member(x->e, param, "an input_audio part with data and format");
    int n = snprintf(type, sizeof type, "audio/%s", format);
    *out = inline_part(x, type, (size_t)n, json_string_value(data), json_string_length(data));
    return 0;
}

static int part_encode(struct encode *x, const json_t *part, const char *param, json_t **out)
{
    const char *type = member_text(part, "type");
    *out = NULL;
    int rc = message_check_part(x->host, part, param, x->e);
    if (rc) return rc;
    if (strcmp(type, "image_url") == 0) return data_part(x, part_image_url(part), param, out);
    if (strcmp(type, "file") == 0) return data_part(x, member_text(json_object_get(part, "file"), "file_data"), param, out);
    if (strcmp(type, "input_audio") == 0) return audio_part(x, part, param, out);
    const json_t *text = json_object_get(part, type); /* text, refusal */
    if (!json_is_string(text)) return wrong_member(x->e, param, "a part with a text");
    *out = text_part(x, text);
    return 0;
}

static int content_parts(struct encode *x, const json_t *message, size_t i, json_t *parts)
{
    const json_t *content = json_object_get(message, "content");
    char param[96];
    if (!content || json_is_null(content)) return 0;
    if (json_is_string(content)) {
        if (json_string_length(content)) tree_push(&x->t, parts, text_part(x, content));
        return 0;
    }
    message_param(param, i, -1);
    if (!json_is_array(content)) return wrong_member(x->e, param, "a message whose content is a string or an array of parts");
    for (size_t k = 0; k < json_array_size(content); k++) {
        json_t *p;
        message_param(param, i, (long)k);
        int rc = part_encode(x, json_array_get(content, k), param, &p);
        if (p) tree_push(&x->t, parts, p);
        if (rc) return rc;
    }
    return 0;
}

/* --- messages --- */

static json_t *parts_of(struct encode *x, json_t *contents, const char *role)
{
    json_t *last = json_array_get(contents, json_array_size(contents) - 1);
    if (last && text_is(json_object_get(last, "role"), role)) return json_object_get(last, "parts");
    json_t *m = tree_object(&x->t), *parts = tree_array(&x->t);
    tree_set(&x->t, m, "role", tree_text(&x->t, role));
    tree_set(&x->t, m, "parts", parts);
    tree_push(&x->t, contents, m);
    return parts;
}

static const json_t *google(const json_t *v)
{
    return json_object_get(json_object_get(v, "extra_content"), "google");
}

/* Ids that we made (wire_gemini_read.c) are not the host's. */
static bool id_is_theirs(const char *id)
{
    return id && !str_starts_with(id, "gemini_");
}

static int call_parts(struct encode *x, const json_t *message, const char *param, json_t *parts)
{
    const json_t *calls = json_object_get(message, "tool_calls");
    for (size_t k = 0; k < json_array_size(calls); k++) {
        const json_t *call = json_array_get(calls, k), *name = json_object_get(json_object_get(call, "function"), "name");
        const json_t *signature = json_object_get(google(call), "thought_signature");
        json_t *args;
        if (!json_is_string(name)) return wrong_member(x->e, param, "a message whose tool calls have a function with a name");
        int rc = arguments_read(call, param, &args, x->e);
        if (rc) return rc;
        json_t *p = tree_object(&x->t), *f = tree_object(&x->t);
        tree_push(&x->t, parts, p);
        tree_set(&x->t, p, "functionCall", f);
        tree_set(&x->t, f, "name", tree_ref(name));
        tree_set(&x->t, f, "args", args);
        if (id_is_theirs(member_text(call, "id"))) tree_set(&x->t, f, "id", tree_ref(json_object_get(call, "id")));
        if (json_is_string(signature)) tree_set(&x->t, p, "thoughtSignature", tree_ref(signature));
    }
    return 0;
}

static int assistant(struct encode *x, const json_t *message, size_t i, const char *param, json_t *contents)
{
    json_t *parts = parts_of(x, contents, "model");
    int rc = content_parts(x, message, i, parts);
    const json_t *signature = json_object_get(google(message), "thought_signature");
    json_t *last = json_array_get(parts, json_array_size(parts) - 1);
    if (!rc && json_is_string(signature) && json_object_get(last, "text")) tree_set(&x->t, last, "thoughtSignature", tree_ref(signature));
    return rc ? rc : call_parts(x, message, param, parts);
}

/* The name of the function that a call of this id asked for. */
static const json_t *name_of_call(const json_t *messages, size_t before, const char *id)
{
    for (size_t i = before; i-- > 0;) {
        const json_t *calls = json_object_get(json_array_get(messages, i), "tool_calls");
        for (size_t k = 0; k < json_array_size(calls); k++)
            if (text_is(json_object_get(json_array_get(calls, k), "id"), id))
                return json_object_get(json_object_get(json_array_get(calls, k), "function"), "name");
    }
    return NULL;
}

/* The host wants an object: the text itself if it is one, else {"output": text}. */
static int response_encode(struct encode *x, const json_t *message, const char *param, json_t **out)
{
    static const struct json_limits limits = {.max_bytes = 8u << 20, .max_values = 100000, .max_depth = 60, .max_key_bytes = 256};
    const json_t *content = json_object_get(message, "content");
    struct buf joined;
    buf_init(&joined, 8u << 20);
    int rc = 0;
    if (json_is_string(content)) buf_append(&joined, json_string_value(content), json_string_length(content));
    for (size_t k = 0; k < json_array_size(content) && !rc; k++) {
        const json_t *text = json_object_get(json_array_get(content, k), "text");
        if (json_is_string(text))
            buf_append(&joined, json_string_value(text), json_string_length(text));
        else
            rc = err_set_param(x->e, ERR_UNSUPPORTED, param, "Provider '%s' takes a tool's result as text only.", x->host->name);
    }
    if (!rc && joined.failed) rc = err_set_param(x->e, ERR_LIMIT, param, "A tool's result is too long.");
    *out = NULL;
    if (!rc && joined.len && joined.data[0] == '{' && json_read(joined.data, joined.len, &limits, "result", out, NULL)) *out = NULL;
    if (!rc && !*out) {
        *out = tree_object(&x->t);
        tree_set(&x->t, *out, "output", tree_text_n(&x->t, joined.data ? joined.data : "", joined.len));
    }
    buf_free(&joined);
    return rc;
}

static int tool_result(struct encode *x, const json_t *message, size_t i, const char *param, json_t *contents)
{
    const char *id = member_text(message, "tool_call_id");
    const json_t *name = id ? name_of_call(json_object_get(x->request, "messages"), i, id) : NULL;
    if (!json_is_string(name)) return wrong_member(x->e, param, "a tool message with the tool_call_id of a call before it");
    json_t *response;
    int rc = response_encode(x, message, param, &response);
    if (rc) return rc;
    json_t *p = tree_object(&x->t), *f = tree_object(&x->t);
    tree_push(&x->t, parts_of(x, contents, "user"), p);
    tree_set(&x->t, p, "functionResponse", f);
    tree_set(&x->t, f, "name", tree_ref(name));
    if (id_is_theirs(id)) tree_set(&x->t, f, "id", tree_text(&x->t, id));
    tree_set(&x->t, f, "response", response);
    return 0;
}

static int message_encode(struct encode *x, const json_t *message, size_t i, json_t *system, json_t *contents)
{
    char param[96];
    message_param(param, i, -1);
    const char *role = member_text(message, "role");
    if (!role) return wrong_member(x->e, param, "an object with a 'role'");
    int rc = message_check_members(x->host, message, param, x->e);
    if (rc) return rc;
    if (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0) {
        if (json_array_size(contents))
            return err_set_param(x->e, ERR_UNSUPPORTED, param, "Provider '%s' takes system messages only before all others.",
                                 x->host->name);
        return content_parts(x, message, i, system);
    }
    if (strcmp(role, "user") == 0) return content_parts(x, message, i, parts_of(x, contents, "user"));
    if (strcmp(role, "assistant") == 0) return assistant(x, message, i, param, contents);
    if (strcmp(role, "tool") == 0) return tool_result(x, message, i, param, contents);
    return err_set_param(x->e, ERR_UNSUPPORTED, param, "Provider '%s' has no role '%.32s'.", x->host->name, role);
}

static int messages_encode(struct encode *x, const char *name, const json_t *v)
{
    if (!json_is_array(v) || json_array_size(v) == 0) return wrong_member(x->e, name, "an array of messages");
    json_t *contents = tree_array(&x->t), *instruction = tree_object(&x->t), *system = tree_array(&x->t);
    tree_set(&x->t, x->body, "contents", contents);
    tree_set(&x->t, instruction, "parts", system);
    int rc = 0;
    for (size_t i = 0; i < json_array_size(v) && !rc; i++) rc = message_encode(x, json_array_get(v, i), i, system, contents);
    if (json_array_size(system))
        tree_set(&x->t, x->body, "systemInstruction", instruction);
    else
        json_decref(instruction);
    return rc;
}

/* --- tools --- */

static int tools_encode(struct encode *x, const char *name, const json_t *v)
{
    json_t *list = tree_array(&x->t), *tool = tree_object(&x->t), *functions = tree_array(&x->t);
    tree_set(&x->t, x->body, "tools", list);
    tree_push(&x->t, list, tool);
    tree_set(&x->t, tool, "functionDeclarations", functions);
    if (!json_is_array(v)) return wrong_member(x->e, name, "an array of tools");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *t = json_array_get(v, i), *f = json_object_get(t, "function");
        char param[96];
        snprintf(param, sizeof param, "tools[%zu]", i);
        if (!text_is(json_object_get(t, "type"), "function"))
            return err_set_param(x->e, ERR_UNSUPPORTED, param,
                                 "Provider '%s' takes tools of type 'function' here; its own go into provider_options.", x->host->name);
        if (!member_text(f, "name")) return wrong_member(x->e, param, "a tool with a function that has a name");
        json_t *d = tree_object(&x->t);
        tree_push(&x->t, functions, d);
        tree_set(&x->t, d, "name", tree_ref(json_object_get(f, "name")));
        if (json_is_string(json_object_get(f, "description")))
            tree_set(&x->t, d, "description", tree_ref(json_object_get(f, "description")));
        if (json_is_object(json_object_get(f, "parameters")))
            tree_set(&x->t, d, "parametersJsonSchema", tree_ref(json_object_get(f, "parameters")));
    }
    return 0;
}

static json_t *calling(struct encode *x, const char *mode)
{
    json_t *config = tree_object(&x->t), *c = tree_object(&x->t);
    tree_set(&x->t, x->body, "toolConfig", config);
    tree_set(&x->t, config, "functionCallingConfig", c);
    tree_set(&x->t, c, "mode", tree_text(&x->t, mode));
    return c;
}

static int tool_choice_encode(struct encode *x, const char *name, const json_t *v)
{
    static const char *const words[][2] = {{"none", "NONE"}, {"auto", "AUTO"}, {"required", "ANY"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (text_is(v, words[i][0])) {
            calling(x, words[i][1]);
            return 0;
        }
    const json_t *function = json_object_get(json_object_get(v, "function"), "name"), *allowed = json_object_get(v, "allowed_tools");
    json_t *names = tree_array(&x->t);
    if (json_is_string(function)) tree_push(&x->t, names, tree_ref(function));
    const json_t *tools = text_is(json_object_get(allowed, "mode"), "required") ? json_object_get(allowed, "tools") : NULL;
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *one = json_object_get(json_object_get(json_array_get(tools, i), "function"), "name");
        if (json_is_string(one)) tree_push(&x->t, names, tree_ref(one));
    }
    if (json_array_size(names)) {
        tree_set(&x->t, calling(x, "ANY"), "allowedFunctionNames", names);
        return 0;
    }
    json_decref(names);
    return err_set_param(x->e, ERR_UNSUPPORTED, name, "This 'tool_choice' has no word with provider '%s'.", x->host->name);
}

/* --- generationConfig --- */

static json_t *generation(struct encode *x)
{
    return json_object_get(x->body, "generationConfig");
}

static int number_encode(struct encode *x, const char *name, const json_t *v)
{
    static const char *const words[][2] = {{"temperature", "temperature"},
                                           {"top_p", "topP"},
                                           {"top_k", "topK"},
                                           {"seed", "seed"},
                                           {"presence_penalty", "presencePenalty"},
                                           {"frequency_penalty", "frequencyPenalty"}};
    if (!json_is_number(v)) return wrong_member(x->e, name, "a number");
    if (strcmp(name, "top_k") == 0 && json_number_value(v) <= 0) return 0;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(words[i][0], name) == 0) tree_set(&x->t, generation(x), words[i][1], tree_ref(v));
    return 0;
}

static int stop_encode(struct encode *x, const char *name, const json_t *v)
{
    (void)name;
    json_t *list = json_is_array(v) ? tree_ref(v) : tree_array(&x->t);
    if (json_is_string(v)) tree_push(&x->t, list, tree_ref(v));
    tree_set(&x->t, generation(x), "stopSequences", list);
    return 0;
}

static int format_encode(struct encode *x, const char *name, const json_t *v)
{
    const json_t *type = json_object_get(v, "type"), *schema = json_object_get(json_object_get(v, "json_schema"), "schema");
    const bool has_schema = text_is(type, "json_schema");
    if (text_is(type, "text")) return 0;
    if (!has_schema && !text_is(type, "json_object"))
        return err_set_param(x->e, ERR_UNSUPPORTED, name, "This 'response_format' has no word with provider '%s'.", x->host->name);
    if (has_schema && !json_is_object(schema)) return wrong_member(x->e, name, "an object with a json_schema that has a schema");
    tree_set(&x->t, generation(x), "responseMimeType", tree_text(&x->t, "application/json"));
    if (has_schema) tree_set(&x->t, generation(x), "responseJsonSchema", tree_ref(schema));
    return 0;
}

/* The budgets that Google's own compatible endpoint takes for these words. */
static int effort_encode(struct encode *x, const char *name, const json_t *v)
{
    static const struct {
        const char *word;
        int64_t budget;
    } efforts[] = {{"none", 0}, {"minimal", 1024}, {"low", 1024}, {"medium", 8192}, {"high", 24576}, {"xhigh", 24576}};
    if (json_object_get(json_object_get(x->options, "generationConfig"), "thinkingConfig")) return 0;
    for (size_t i = 0; i < sizeof efforts / sizeof efforts[0]; i++) {
        if (!text_is(v, efforts[i].word)) continue;
        int64_t budget = efforts[i].budget < x->o->max_tokens ? efforts[i].budget : x->o->max_tokens;
        json_t *thinking = tree_object(&x->t);
        tree_set(&x->t, generation(x), "thinkingConfig", thinking);
        tree_set(&x->t, thinking, "thinkingBudget", tree_integer(&x->t, budget));
        if (budget) tree_set(&x->t, thinking, "includeThoughts", json_true());
        return 0;
    }
    return wrong_member(x->e, name, "none, minimal, low, medium, high or xhigh");
}

static const struct {
    const char *name;
    int (*encode)(struct encode *x, const char *name, const json_t *v);
} own[] = {{"messages", messages_encode},
           {"tools", tools_encode},
           {"tool_choice", tool_choice_encode},
           {"temperature", number_encode},
           {"top_p", number_encode},
           {"top_k", number_encode},
           {"seed", number_encode},
           {"stop", stop_encode},
           {"presence_penalty", number_encode},
           {"frequency_penalty", number_encode},
           {"response_format", format_encode},
           {"reasoning_effort", effort_encode}};

static int own_encode(struct encode *x, const char *key, const json_t *v)
{
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (strcmp(own[i].name, key) == 0) return own[i].encode(x, key, v);
    return err_set(x->e, ERR_INTERNAL, "parameter '%s' has no translation", key);
}

/* A tuned model's id has its folder in it: tunedModels/name. */
static int path_encode(struct encode *x)
{
    const char *model = x->o->model, *slash = strchr(model, '/');
    const bool tuned = str_starts_with(model, "tunedModels/"), plain = str_starts_with(model, "models/");
    char *path = x->out->path;
    snprintf(path, WIRE_MAX_PATH_BYTES, tuned ? "/tunedModels/" : "/models/");
    int rc = path_append(path, WIRE_MAX_PATH_BYTES - 64, tuned || plain ? slash + 1 : model, x->e);
    size_t n = strlen(path);
    snprintf(path + n, WIRE_MAX_PATH_BYTES - n, ":streamGenerateContent?alt=sse");
    return rc;
}

int wire_gemini_encode(struct encode *x)
{
    const char *key;
    const json_t *v;
    int rc = path_encode(x);
    if (rc) return rc;
    tree_set(&x->t, x->body, "generationConfig", tree_object(&x->t));
    tree_set(&x->t, generation(x), "maxOutputTokens", tree_integer(&x->t, x->o->max_tokens));
    FOR_MEMBERS(x->request, key, v) {
        int action = param_action(x->host, WIRE_GEMINI, key, v, x->e);
        if (action < 0) return action;
        if (action == PARAM_OWN && (rc = own_encode(x, key, v))) return rc;
    }
    if (!json_object_get(x->body, "contents")) return wrong_member(x->e, "messages", "an array of messages");
    if (!json_object_get(x->body, "tools")) json_object_del(x->body, "toolConfig");
    param_merge(&x->t, x->body, x->options, merged, NULL);
    return 0;
}
