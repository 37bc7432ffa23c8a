/* The OpenAI wire, requests: most of a request goes as it came. What changes: the model, the maximum, a stream with usage, names that
 * the host spells otherwise, and members of messages that are not for it. Answers: wire_openai_read.c. */
#include "server/providers/wire_parts.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"

static bool part_is_plain(const struct provider_host *h, const json_t *part)
{
    return h->row->flags & MARKS_KEPT || !json_object_get(part, "cache_control");
}

/* Content parts: the same array when nothing in it changes. A new reference. */
static int parts_encode(struct encode *x, const json_t *parts, size_t i, json_t **out)
{
    bool plain = true;
    *out = NULL;
    for (size_t k = 0; k < json_array_size(parts); k++) {
        char param[96];
        message_param(param, i, (long)k);
        const json_t *part = json_array_get(parts, k);
        int rc = message_check_part(x->host, part, param, x->e);
        if (rc) return rc;
        plain &= part_is_plain(x->host, part);
    }
    if (plain) {
        *out = tree_ref(parts);
        return 0;
    }
    *out = tree_array(&x->t);
    for (size_t k = 0; k < json_array_size(parts); k++) {
        json_t *part = tree_copy(&x->t, json_array_get(parts, k));
        json_object_del(part, "cache_control");
        tree_push(&x->t, *out, part);
    }
    return 0;
}

/* Tool calls without what only the host that made them reads. */
static json_t *calls_encode(struct encode *x, const json_t *calls)
{
    if (x->host->row->flags & MARKS_KEPT || !json_is_array(calls)) return tree_ref(calls);
    json_t *out = tree_array(&x->t);
    for (size_t k = 0; k < json_array_size(calls); k++) {
        const json_t *call = json_array_get(calls, k);
        if (!json_object_get(call, "extra_content")) {
            tree_push(&x->t, out, tree_ref(call));
            continue;
        }
        json_t *copy = tree_copy(&x->t, call);
        json_object_del(copy, "extra_content");
        tree_push(&x->t, out, copy);
    }
    return out;
}

static int member_encode(struct encode *x, size_t i, json_t *m, const char *key, const json_t *v)
{
    const uint32_t flags = x->host->row->flags;
    if (strcmp(key, "role") == 0 && text_is(v, "developer") && flags & ROLE_NO_DEVELOPER) {
        tree_set(&x->t, m, key, tree_text(&x->t, "system"));
    } else if (strcmp(key, "content") == 0 && json_is_array(v)) {
        json_t *parts;
        int rc = parts_encode(x, v, i, &parts);
        if (rc) return rc;
        tree_set(&x->t, m, key, parts);
    } else if (strcmp(key, "tool_calls") == 0) {
        tree_set(&x->t, m, key, calls_encode(x, v));
    } else if (strcmp(key, "reasoning_content") == 0 || strcmp(key, "reasoning") == 0) {
        const char *word = x->host->row->reasoning_member; /* thoughts of earlier turns: templates leave them out, too */
        if (word && !json_is_null(v)) tree_set(&x->t, m, word, tree_ref(v));
    } else if ((strcmp(key, "cache_control") != 0 && strcmp(key, "extra_content") != 0) || flags & MARKS_KEPT)
        tree_set(&x->t, m, key, tree_ref(v));
    return 0;
}

static int messages_encode(struct encode *x, const json_t *messages)
{
    if (!json_is_array(messages) || json_array_size(messages) == 0) return wrong_member(x->e, "messages", "an array of messages");
    json_t *list = tree_array(&x->t);
    tree_set(&x->t, x->body, "messages", list); /* the body's from here on */
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i), *v;
        const char *key;
        char param[96];
        message_param(param, i, -1);
        if (!json_is_object(message)) return wrong_member(x->e, param, "an object");
        json_t *m = tree_object(&x->t);
        tree_push(&x->t, list, m);
        FOR_MEMBERS(message, key, v) {
            int rc = member_encode(x, i, m, key, v);
            if (rc) return rc;
        }
    }
    return 0;
}

static int format_encode(struct encode *x, const json_t *v)
{
    static const struct {
        const char *type;
        uint32_t needs;
    } kinds[] = {{"text", CAP_CHAT}, {"json_object", CAP_JSON_OBJECT}, {"json_schema", CAP_JSON_SCHEMA}};
    const char *type = member_text(v, "type");
    if (!type) return wrong_member(x->e, "response_format", "an object with a 'type'");
    uint32_t needs = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].type, type) == 0) needs = kinds[i].needs;
    if (!(x->host->row->capabilities & needs))
        return err_set_param(x->e, ERR_UNSUPPORTED, "response_format", "Provider '%s' does not take a response_format of type '%.32s'.",
                             x->host->name, type);
    tree_set(&x->t, x->body, "response_format", tree_ref(v));
    return 0;
}

static int own_encode(struct encode *x, const char *key, const json_t *v)
{
    return strcmp(key, "messages") == 0 ? messages_encode(x, v) : format_encode(x, v);
}

/* Every choice is a whole answer to pay for, so the count is ours to know. */
static int choices_read(struct encode *x, const json_t *v)
{
    const int64_t n = json_integer_value(v);
    if (!json_is_integer(v) || n < 1 || n > WIRE_MAX_CHOICES)
        return err_set_param(x->e, ERR_INPUT, "n", "'n' must be an integer from 1 to %d.", WIRE_MAX_CHOICES);
    x->out->n_choices = (uint32_t)n;
    return 0;
}

static int path_encode(struct encode *x)
{
    const struct provider_host *h = x->host;
    char *path = x->out->path;
    const bool azure = h->row->path == PATH_AZURE, in_path = azure && h->api_version[0];
    snprintf(path, WIRE_MAX_PATH_BYTES, "%s",
             in_path ? "/openai/deployments/"
             : azure ? "/openai/v1/chat/completions"
                     : "/chat/completions");
    if (!in_path) return 0;
    int rc = path_append(path, WIRE_MAX_PATH_BYTES - 64, x->o->model, x->e);
    if (rc) return rc;
    size_t n = strlen(path);
    snprintf(path + n, WIRE_MAX_PATH_BYTES - n, "/chat/completions?api-version=%s", h->api_version);
    return 0;
}

static void stream_encode(struct encode *x)
{
    tree_set(&x->t, x->body, "stream", json_true());
    if (x->host->row->flags & USAGE_UNASKED) return;
    json_t *options = tree_object(&x->t);
    tree_set(&x->t, options, "include_usage", json_true());
    const json_t *obfuscation = json_object_get(json_object_get(x->request, "stream_options"), "include_obfuscation");
    if (json_is_boolean(obfuscation) && x->host->row->flags & ANY_PARAMETER)
        tree_set(&x->t, options, "include_obfuscation", tree_ref(obfuscation));
    tree_set(&x->t, x->body, "stream_options", options);
}

/* Metadata are tags of our own accounts. OpenAI takes them with what it is to store, and refuses them else. */
static bool is_ours_alone(const struct encode *x, const char *name)
{
    return strcmp(name, "metadata") == 0 && !json_is_true(json_object_get(x->request, "store"));
}

int wire_openai_encode(struct encode *x)
{
    const struct provider *row = x->host->row;
    const char *key;
    const json_t *v;
    int rc = path_encode(x);
    if (rc) return rc;
    tree_set(&x->t, x->body, "model", tree_text(&x->t, x->o->model));
    FOR_MEMBERS(x->request, key, v) {
        int action = param_action(x->host, WIRE_OPENAI, key, v, x->e);
        if (action < 0) return action;
        if (action == PARAM_OWN && (rc = own_encode(x, key, v))) return rc;
        if (action != PARAM_PASS || is_ours_alone(x, key)) continue;
        if (strcmp(key, "n") == 0 && (rc = choices_read(x, v))) return rc;
        tree_set(&x->t, x->body, provider_word(row, key), tree_ref(v));
    }
    if (!json_object_get(x->body, "messages")) return wrong_member(x->e, "messages", "an array of messages");
    tree_set(&x->t, x->body, row->max_tokens ? row->max_tokens : "max_completion_tokens", tree_integer(&x->t, x->o->max_tokens));
    stream_encode(x);
    param_merge(&x->t, x->body, x->options, NULL, NULL);
    return 0;
}
