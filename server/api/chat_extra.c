/* Extra members: see chat_extra.h. */
#include "server/api/chat_extra.h"

#include <stdbool.h>
#include <string.h>

const char *const chat_chunk_names[] = {"id", "object", "created", "model", "choices", "usage", "error", "system_fingerprint", NULL};
const char *const chat_choice_names[] = {"index", "delta", "message", "logprobs", "finish_reason", NULL};
const char *const chat_message_names[] = {"role", "content", "refusal", "reasoning_content", "tool_calls", NULL};

static bool merge_object(json_t *into, const json_t *more);

/* The entry of the list with this index, or NULL. */
static json_t *entry_of(const json_t *list, const json_t *index)
{
    for (size_t i = 0; json_is_integer(index) && i < json_array_size(list); i++) {
        json_t *v = json_array_get(list, i);
        if (json_equal(json_object_get(v, "index"), index)) return v;
    }
    return NULL;
}

static bool merge_list(json_t *into, const json_t *more)
{
    for (size_t i = 0; i < json_array_size(more); i++) {
        json_t *v = json_array_get(more, i), *there = entry_of(into, json_object_get(v, "index"));
        if (there ? !merge_object(there, v) : json_array_append_new(into, json_deep_copy(v)) != 0) return false;
    }
    return true;
}

static bool grow(json_t *into, const char *key, const json_t *there, const json_t *v)
{
    struct buf b;
    buf_init(&b, 128u << 20);
    buf_append(&b, json_string_value(there), json_string_length(there));
    buf_append(&b, json_string_value(v), json_string_length(v));
    bool ok = !b.failed && json_object_set_new(into, key, json_stringn(b.data ? b.data : "", b.len)) == 0;
    buf_free(&b);
    return ok;
}

static bool stays(const char *key)
{
    return strcmp(key, "index") == 0 || strcmp(key, "type") == 0 || strcmp(key, "id") == 0 || strcmp(key, "format") == 0;
}

static bool merge_object(json_t *into, const json_t *more)
{
    for (void *it = json_object_iter((json_t *)more); it; it = json_object_iter_next((json_t *)more, it)) {
        const char *key = json_object_iter_key(it);
        json_t *v = json_object_iter_value(it), *there = json_object_get(into, key);
        bool ok;
        if (json_is_object(there) && json_is_object(v))
            ok = merge_object(there, v);
        else if (json_is_array(there) && json_is_array(v))
            ok = merge_list(there, v);
        else if (json_is_string(there) && json_is_string(v) && !stays(key))
            ok = grow(into, key, there, v);
        else
            ok = json_object_set_new(into, key, json_deep_copy(v)) == 0;
        if (!ok) return false;
    }
    return true;
}

int chat_extra_merge(json_t **into, const json_t *more, size_t *bytes)
{
    if (!more) return 0;
    *bytes += json_dumpb(more, NULL, 0, JSON_COMPACT);
    if (!*into) *into = json_object();
    return *into && merge_object(*into, more) ? 0 : -ERR_MEMORY;
}

int chat_extra_replace(json_t **into, const json_t *more)
{
    if (!more) return 0;
    if (!*into) *into = json_object();
    if (json_object_size(*into) >= CHAT_MAX_EXTRA) return json_object_update_existing(*into, (json_t *)more) == 0 ? 0 : -ERR_MEMORY;
    return *into && json_object_update(*into, (json_t *)more) == 0 ? 0 : -ERR_MEMORY;
}

void chat_extra_write(struct buf *b, const json_t *extra, const char *const *taken)
{
    for (void *it = json_object_iter((json_t *)extra); it; it = json_object_iter_next((json_t *)extra, it)) {
        const char *key = json_object_iter_key(it);
        const char *const *name = taken;
        while (*name && strcmp(*name, key) != 0) name++;
        if (*name) continue;
        buf_putc(b, ',');
        json_write_string(b, key, strlen(key));
        buf_putc(b, ':');
        json_write(b, json_object_iter_value(it));
    }
}
