/* JSON trees and small readers: see wire_parts.h. */
#include "server/providers/wire_parts.h"

#include <stdio.h>
#include <string.h>

static json_t *made(struct tree *t, json_t *v)
{
    t->failed |= !v;
    return v;
}

json_t *tree_object(struct tree *t)
{
    return made(t, json_object());
}

json_t *tree_array(struct tree *t)
{
    return made(t, json_array());
}

json_t *tree_text(struct tree *t, const char *s)
{
    return made(t, json_string(s));
}

json_t *tree_text_n(struct tree *t, const char *p, size_t n)
{
    return made(t, json_stringn(p, n));
}

json_t *tree_integer(struct tree *t, int64_t v)
{
    return made(t, json_integer(v));
}

json_t *tree_ref(const json_t *v)
{
    return json_incref((json_t *)v);
}

json_t *tree_copy(struct tree *t, const json_t *v)
{
    return made(t, json_copy((json_t *)v));
}

void tree_set(struct tree *t, json_t *object, const char *key, json_t *v)
{
    t->failed |= json_object_set_new(object, key, v) != 0;
}

void tree_push(struct tree *t, json_t *array, json_t *v)
{
    t->failed |= json_array_append_new(array, v) != 0;
}

const char *member_text(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

bool member_int(const json_t *object, const char *key, int64_t *out)
{
    const json_t *v = json_object_get(object, key);
    if (!json_is_integer(v)) return false;
    *out = json_integer_value(v);
    return true;
}

bool text_is(const json_t *v, const char *s)
{
    return json_is_string(v) && json_string_length(v) == strlen(s) && strcmp(json_string_value(v), s) == 0;
}

void message_param(char out[96], size_t message, long part)
{
    if (part < 0)
        snprintf(out, 96, "messages[%zu]", message);
    else
        snprintf(out, 96, "messages[%zu].content[%ld]", message, part);
}

int wrong_member(struct err *e, const char *param, const char *wanted)
{
    return err_set_param(e, ERR_INPUT, param, "'%s' must be %s.", param, wanted);
}

bool data_url_split(const char *url, struct data_url *out)
{
    if (strncasecmp(url, "data:", 5) != 0) return false;
    const char *comma = strchr(url, ','), *type = url + 5;
    if (!comma) return false;
    const char *semicolon = memchr(type, ';', (size_t)(comma - type));
    if (!semicolon || comma - semicolon < 7 || strncasecmp(comma - 7, ";base64", 7) != 0) return false;
    *out =
        (struct data_url){.media_type = type, .n_media_type = (size_t)(semicolon - type), .data = comma + 1, .n_data = strlen(comma + 1)};
    return out->n_media_type > 0;
}

const char *part_image_url(const json_t *part)
{
    const json_t *v = json_object_get(part, "image_url");
    return json_is_string(v) ? json_string_value(v) : member_text(v, "url");
}

int path_append(char *path, size_t cap, const char *s, struct err *e)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t n = strlen(path);
    for (const char *p = s; *p; p++) {
        unsigned char c = (unsigned char)*p;
        bool lone_dot = c == '.' && p > s && p[-1] != '.' && p[1] != '.'; /* no segment of dots */
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_~", c) || lone_dot;
        if (n + 4 > cap) return err_set_param(e, ERR_INPUT, "model", "The model's name is too long for a path.");
        if (plain)
            path[n++] = (char)c;
        else {
            path[n++] = '%';
            path[n++] = hex[c >> 4];
            path[n++] = hex[c & 15];
        }
        path[n] = '\0';
    }
    return 0;
}

int arguments_read(const json_t *call, const char *param, json_t **out, struct err *e)
{
    static const struct json_limits limits = {.max_bytes = 8u << 20, .max_values = 100000, .max_depth = 64, .max_key_bytes = 256};
    const json_t *v = json_object_get(json_object_get(call, "function"), "arguments");
    *out = NULL;
    if (!json_is_string(v)) return wrong_member(e, param, "a tool call whose arguments are a string");
    size_t n = json_string_length(v);
    int rc = n ? json_read(json_string_value(v), n, &limits, "arguments", out, e) : 0;
    if (n == 0 && !(*out = json_object())) return err_set(e, ERR_MEMORY, "out of memory");
    if (rc == -ERR_MEMORY) return rc;
    if (!rc && json_is_object(*out)) return 0;
    json_decref(*out);
    *out = NULL;
    return err_set_param(e, ERR_INPUT, param, "The arguments of a tool call in '%s' are no JSON object, and this provider wants one.",
                         param);
}
