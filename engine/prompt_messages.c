/* Messages: OpenAI's `messages` checked field by field and turned into what the model's template takes. Start at
 * prompt_messages_read. Every fault names its field in err.param; nothing is dropped without a word, but for members of
 * a message that templates may know (name, tool_calls, reasoning_content ...), which pass through as they are. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/prompt_model.h"

struct reading {
    const struct prompt_model *model;
    unsigned flags;
    struct arena *arena;
    struct prompt_image *images; /* room for PROMPT_MAX_IMAGES, made with the first */
    size_t n_images, max_images;
    size_t i_message, i_part;
    struct err *e;
};

/* An error about a field of the message being read: "messages[i]" + suffix. */
static int message_error(const struct reading *r, enum err_code code, const char *suffix, const char *msg)
{
    char param[96];
    snprintf(param, sizeof param, "messages[%zu]%s", r->i_message, suffix);
    return err_set_param(r->e, code, param, "%s: %s", param, msg);
}

static int part_error(const struct reading *r, enum err_code code, const char *suffix, const char *msg)
{
    char at[64];
    snprintf(at, sizeof at, ".content[%zu]%s", r->i_part, suffix);
    return message_error(r, code, at, msg);
}

static int json_memory(struct err *e)
{
    return err_set(e, ERR_MEMORY, "out of memory");
}

/* {"type": "text", "text": text}; NULL without memory. */
static json_t *text_part(const json_t *text)
{
    return json_pack("{s:s, s:O}", "type", "text", "text", text);
}

static int read_detail(const struct reading *r, const json_t *holder, const char *suffix, bool *low)
{
    const json_t *detail = json_object_get(holder, "detail");
    *low = false;
    if (!detail || json_is_null(detail)) return 0;
    const char *s = json_string_value(detail);
    if (s && !strcmp(s, "low"))
        *low = true;
    else if (!s || (strcmp(s, "high") && strcmp(s, "auto")))
        return part_error(r, ERR_INPUT, suffix, "must be \"low\", \"high\" or \"auto\"");
    return 0;
}

/* url NULL: a bare picture. holder is where `detail` sits. */
static int add_image(struct reading *r, const json_t *url, const char *url_suffix, const json_t *holder, const char *detail_suffix)
{
    const struct prompt_info *info = &r->model->info;
    if (!info->has_images) return part_error(r, ERR_UNSUPPORTED, ".type", "this model does not take pictures");
    if (!r->model->takes_list) return part_error(r, ERR_UNSUPPORTED, ".type", "this model's chat template does not take pictures");
    if (url_suffix && !json_is_string(url)) return part_error(r, ERR_INPUT, url_suffix, "must be a string: a data: URL");
    bool low;
    int rc = read_detail(r, holder, detail_suffix, &low);
    if (rc) return rc;
    if (!r->images) r->images = arena_array(r->arena, PROMPT_MAX_IMAGES, sizeof *r->images);
    if (!r->images) return json_memory(r->e);
    if (r->n_images == r->max_images) {
        char msg[64];
        snprintf(msg, sizeof msg, "more than %zu pictures in a request", r->max_images);
        return part_error(r, ERR_LIMIT, "", msg);
    }
    struct prompt_image *im = &r->images[r->n_images++];
    *im = (struct prompt_image){.url = json_string_value(url), .n_url = json_string_length(url), .detail_low = low};
    snprintf(im->param, sizeof im->param, "messages[%zu].content[%zu]%s", r->i_message, r->i_part, url_suffix ? url_suffix : "");
    return 0;
}

static int read_text_part(struct reading *r, const json_t *part, const char *member, json_t **out)
{
    const json_t *text = json_object_get(part, member);
    char suffix[16];
    snprintf(suffix, sizeof suffix, ".%s", member);
    if (!json_is_string(text)) return part_error(r, ERR_INPUT, suffix, "must be a string");
    *out = text_part(text);
    return *out ? 0 : json_memory(r->e);
}

static int image_part(struct reading *r, int rc, json_t **out)
{
    if (rc) return rc;
    *out = json_pack("{s:s}", "type", "image");
    return *out ? 0 : json_memory(r->e);
}

static int read_image_url(struct reading *r, const json_t *part, json_t **out)
{
    const json_t *holder = json_object_get(part, "image_url");
    if (!json_is_object(holder)) return part_error(r, ERR_INPUT, ".image_url", "must be an object with a url");
    return image_part(r, add_image(r, json_object_get(holder, "url"), ".image_url.url", holder, ".image_url.detail"), out);
}

static int read_input_image(struct reading *r, const json_t *part, json_t **out)
{
    return image_part(r, add_image(r, json_object_get(part, "image_url"), ".image_url", part, ".detail"), out);
}

static int read_bare_image(struct reading *r, const json_t *part, json_t **out)
{
    if (!(r->flags & PROMPT_BARE_IMAGES)) return part_error(r, ERR_INPUT, ".type", "a picture comes as \"image_url\" with a data: URL");
    return image_part(r, add_image(r, NULL, NULL, part, ".detail"), out);
}

static int read_text(struct reading *r, const json_t *part, json_t **out)
{
    return read_text_part(r, part, "text", out);
}

static int read_refusal(struct reading *r, const json_t *part, json_t **out)
{
    return read_text_part(r, part, "refusal", out);
}

static const struct {
    const char *type;
    int (*read)(struct reading *r, const json_t *part, json_t **out); /* NULL: known, but not supported */
} part_types[] = {
    {"text", read_text},
    {"input_text", read_text},
    {"output_text", read_text},
    {"refusal", read_refusal},
    {"image_url", read_image_url},
    {"input_image", read_input_image},
    {"image", read_bare_image},
    {"input_audio", NULL},
    {"audio_url", NULL},
    {"video_url", NULL},
    {"video", NULL},
    {"input_video", NULL},
    {"file", NULL},
    {"input_file", NULL},
};

static int read_part(struct reading *r, const json_t *part, json_t **out)
{
    if (!json_is_object(part)) return part_error(r, ERR_INPUT, "", "must be an object with a type");
    const json_t *type = json_object_get(part, "type");
    if (!json_is_string(type)) return part_error(r, ERR_INPUT, ".type", "must be a string");
    for (size_t i = 0; i < sizeof part_types / sizeof *part_types; i++) {
        if (strcmp(json_string_value(type), part_types[i].type)) continue;
        if (part_types[i].read) return part_types[i].read(r, part, out);
        return part_error(r, ERR_UNSUPPORTED, ".type", "this kind of content is not supported");
    }
    return part_error(r, ERR_INPUT, ".type", "must be \"text\" or \"image_url\"");
}

/* The template takes strings only: the texts in order, one a line (as vLLM and llama.cpp do). */
static json_t *join_texts(const json_t *parts)
{
    struct buf b;
    buf_init(&b, json_limits_request.max_bytes);
    size_t i;
    json_t *part;
    json_array_foreach(parts, i, part) {
        const json_t *text = json_object_get(part, "text");
        if (i > 0) buf_putc(&b, '\n');
        buf_append(&b, json_string_value(text), json_string_length(text));
    }
    json_t *out = b.failed ? NULL : json_stringn(b.data ? b.data : "", b.len);
    buf_free(&b);
    return out;
}

static int read_parts(struct reading *r, const json_t *parts, json_t **out)
{
    if (json_array_size(parts) == 0) return message_error(r, ERR_INPUT, ".content", "must not be an empty list");
    json_t *list = json_array();
    int rc = list ? 0 : json_memory(r->e);
    for (r->i_part = 0; !rc && r->i_part < json_array_size(parts); r->i_part++) {
        json_t *part = NULL;
        rc = read_part(r, json_array_get(parts, r->i_part), &part);
        if (!rc && json_array_append_new(list, part)) rc = json_memory(r->e);
    }
    if (!rc && !r->model->takes_list) {
        *out = join_texts(list);
        rc = *out ? 0 : json_memory(r->e);
    } else if (!rc) {
        *out = json_incref(list);
    }
    json_decref(list);
    return rc;
}

static int read_content(struct reading *r, const json_t *message, bool may_be_null, json_t **out)
{
    const json_t *content = json_object_get(message, "content");
    if (json_is_array(content)) return read_parts(r, content, out);
    if (!json_is_string(content) && !(may_be_null && (!content || json_is_null(content))))
        return message_error(r, ERR_INPUT, ".content", content ? "must be a string or a list of parts" : "is missing");
    if (r->model->takes_string) {
        *out = json_is_string(content) ? json_copy((json_t *)(uintptr_t)content) : json_null();
    } else {
        json_t *text = json_is_string(content) ? json_incref((json_t *)(uintptr_t)content) : json_string("");
        *out = json_pack("[{s:s, s:o}]", "type", "text", "text", text);
    }
    return *out ? 0 : json_memory(r->e);
}

/* What the template sees as role; NULL for an unknown one. */
static const char *role_for(const char *role)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool", "function"};
    if (!strcmp(role, "developer")) return "system"; /* OpenAI's newer name of it; no template here knows that name */
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(role, roles[i])) return roles[i];
    return NULL;
}

static bool is_given(const json_t *object, const char *member)
{
    const json_t *v = json_object_get(object, member);
    return v && !json_is_null(v);
}

static int read_message(struct reading *r, const json_t *message, json_t **out)
{
    if (!json_is_object(message)) return message_error(r, ERR_INPUT, "", "must be an object");
    const json_t *role = json_object_get(message, "role");
    const char *name = json_is_string(role) ? role_for(json_string_value(role)) : NULL;
    if (!name) return message_error(r, ERR_INPUT, ".role", "must be \"system\", \"developer\", \"user\", \"assistant\" or \"tool\"");
    static const char *const texts[] = {"name", "tool_call_id"};
    for (size_t i = 0; i < 2; i++)
        if (is_given(message, texts[i]) && !json_is_string(json_object_get(message, texts[i])))
            return message_error(r, ERR_INPUT, i ? ".tool_call_id" : ".name", "must be a string");
    if (is_given(message, "tool_calls") && !json_is_array(json_object_get(message, "tool_calls")))
        return message_error(r, ERR_INPUT, ".tool_calls", "must be a list");
    bool may_be_null = !strcmp(name, "assistant") && (is_given(message, "tool_calls") || is_given(message, "function_call"));
    json_t *content = NULL;
    int rc = read_content(r, message, may_be_null, &content);
    if (rc) return rc;
    *out = json_copy((json_t *)(uintptr_t)message); /* shallow: the members are shared with the request */
    if (*out && !json_object_set_new(*out, "role", json_string(name)) && !json_object_set(*out, "content", content))
        rc = 0;
    else
        rc = json_memory(r->e);
    json_decref(content);
    if (rc) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}

int prompt_messages_read(const struct prompt_model *m, const json_t *messages, unsigned flags, const struct prompt_bounds *bounds,
                         struct arena *arena, struct prompt_messages *out, struct err *e)
{
    static const struct prompt_bounds widest = {.messages = PROMPT_MAX_MESSAGES, .images = PROMPT_MAX_IMAGES};
    if (!bounds) bounds = &widest;
    CHECK(bounds->images <= PROMPT_MAX_IMAGES);
    *out = (struct prompt_messages){0};
    if (!messages) return err_set_param(e, ERR_INPUT, "messages", "messages: is missing");
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return err_set_param(e, ERR_INPUT, "messages", "messages: must be a list of at least one message");
    if (json_array_size(messages) > bounds->messages)
        return err_set_param(e, ERR_LIMIT, "messages", "messages: %zu messages, the limit is %zu", json_array_size(messages),
                             bounds->messages);
    if (!m->template)
        return err_set_param(e, ERR_UNSUPPORTED, "messages", "this model has no chat template: it completes text, but does not chat");
    struct reading r = {.model = m, .flags = flags, .arena = arena, .max_images = bounds->images, .e = e};
    json_t *list = json_array();
    int rc = list ? 0 : json_memory(e);
    for (; !rc && r.i_message < json_array_size(messages); r.i_message++) {
        json_t *message = NULL;
        rc = read_message(&r, json_array_get(messages, r.i_message), &message);
        if (!rc && json_array_append_new(list, message)) rc = json_memory(e);
    }
    if (rc) {
        json_decref(list);
        return rc;
    }
    *out = (struct prompt_messages){.messages = list, .images = r.images, .n_images = r.n_images};
    return 0;
}

void prompt_messages_free(struct prompt_messages *p)
{
    json_decref(p->messages);
    p->messages = NULL;
}
