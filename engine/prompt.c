/* Prompt: template, picture expansion, tokenizer, in this order; see prompt.h. */
#include "engine/prompt.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "engine/prompt_model.h"

enum {
    EXPANDED_MAX_BYTES = 16 << 20, /* text after picture expansion: 20 pictures of 17 tiles are 200 KB */
    IDS_MAX = 4 << 20              /* counted to the end, so that an error tells how long a prompt is */
};

static int check_image_count(const struct prompt_model *m, const struct prompt_options *o, const struct prompt *p, struct err *e)
{
    const struct prompt_info *info = &m->info;
    size_t n = 0;
    for (size_t i = 0; i < p->n_ids; i++) n += info->image_token >= 0 && p->ids[i] == info->image_token;
    size_t want = p->n_tiles * (size_t)(info->has_images ? info->images.tokens_per_tile : 0);
    if (n == want) return 0;
    return err_set(e, ERR_INPUT, "the prompt has %zu picture positions, its %zu pictures need %zu", n, o->n_grids, want);
}

/* Expanded text -> ids, checked against pictures and context. */
static int encode(const struct prompt_model *m, unsigned flags, const struct prompt_options *o, struct arena *arena, struct prompt *p,
                  struct err *e)
{
    struct tokens t;
    tokens_init(&t, IDS_MAX);
    int rc = tokenizer_encode(m->tokenizer, p->text, flags, &t, e);
    int32_t *ids = rc ? NULL : arena_array(arena, t.n ? t.n : 1, sizeof *ids);
    if (!rc && !ids) rc = err_set(e, ERR_MEMORY, "a prompt of %zu tokens needs more memory than a request may have", t.n);
    if (!rc && t.n) memcpy(ids, t.ids, t.n * sizeof *ids);
    p->ids = ids;
    p->n_ids = t.n;
    tokens_free(&t);
    if (rc) return rc;
    if (p->n_ids == 0) return err_set(e, ERR_INPUT, "the prompt is empty");
    if (o->max_context && p->n_ids >= o->max_context)
        return err_set_param(e, ERR_CONTEXT, "messages",
                             "the prompt has %zu tokens, the model's context is %u tokens, of which the answer needs at least one",
                             p->n_ids, o->max_context);
    return check_image_count(m, o, p, e);
}

/* What would be tokenised only to be refused: no text of a request has so few tokens a byte. */
static int check_text_length(const struct marked_text *text, const struct prompt_options *o, struct err *e)
{
    size_t n = 0;
    for (size_t i = 0; text->marks && i < text->n; i++) n += text->marks[i] == MARK_REQUEST;
    if (o->max_context == 0 || n / PROMPT_BYTES_PER_TOKEN <= o->max_context) return 0;
    return err_set_param(e, ERR_CONTEXT, "messages",
                         "the messages have %zu bytes of text, the model's context is %u tokens: more than %d bytes a token are not read",
                         n, o->max_context, PROMPT_BYTES_PER_TOKEN);
}

static int expand_and_encode(const struct prompt_model *m, struct marked_text text, unsigned flags, const struct prompt_options *o,
                             struct arena *arena, struct prompt *p, struct err *e)
{
    *p = (struct prompt){.text = text};
    if (m->info.has_images) {
        int rc = image_expand_prompt(&m->info.images, text, o->grids, o->n_grids, EXPANDED_MAX_BYTES, arena, &p->text, e);
        if (rc) return rc;
    } else if (o->n_grids) {
        return err_set(e, ERR_UNSUPPORTED, "this model does not take pictures");
    }
    for (size_t i = 0; i < o->n_grids; i++) p->n_tiles += (size_t)o->grids[i].n_tiles;
    return encode(m, flags, o, arena, p, e);
}

/* The request's variables: messages and chat_template_kwargs. Names that are the server's or the model's are refused
 * rather than ignored. */
static int request_variables(const struct prompt_model *m, const struct prompt_messages *messages, const json_t *kwargs, json_t **out,
                             struct err *e)
{
    if (kwargs && !json_is_object(kwargs))
        return err_set_param(e, ERR_INPUT, "chat_template_kwargs", "chat_template_kwargs: must be an object");
    if (json_object_size(kwargs) > PROMPT_MAX_KWARGS) /* each becomes a variable, found by looking through all */
        return err_set_param(e, ERR_LIMIT, "chat_template_kwargs", "chat_template_kwargs: %zu members, the limit is %d",
                             json_object_size(kwargs), PROMPT_MAX_KWARGS);
    *out = json_object();
    int rc = *out && !json_object_set(*out, "messages", messages->messages) ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)kwargs, name, value) {
        if (rc) break;
        if (!strcmp(name, "messages") || json_object_get(m->variables, name)) {
            char param[96];
            snprintf(param, sizeof param, "chat_template_kwargs.%.*s", (int)utf8_cut(name, 64), name);
            rc = err_set_param(e, ERR_INPUT, param, "%s: this name is the server's own", param);
        } else if (json_object_set(*out, name, value)) {
            rc = err_set(e, ERR_MEMORY, "out of memory");
        }
    }
    if (rc) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}

int prompt_from_messages(const struct prompt_model *m, const struct prompt_messages *messages, const struct prompt_options *o,
                         struct arena *arena, struct prompt *out, struct err *e)
{
    *out = (struct prompt){0};
    CHECK(m->template && messages->messages); /* prompt_messages_read refused everything else */
    if (o->n_grids != messages->n_images)
        return err_set(e, ERR_INPUT, "the messages hold %zu pictures, %zu were given", messages->n_images, o->n_grids);
    json_t *request = NULL;
    int rc = request_variables(m, messages, o->kwargs, &request, e);
    if (rc) return rc;
    struct template_input in = {.request = request, .model = m->variables, .now = o->now, .limits = o->template_limits};
    struct marked_text text;
    rc = template_render(m->template, &in, arena, &text, e);
    json_decref(request);
    if (rc && e && !e->param[0]) strcpy(e->param, "messages");
    if (!rc) rc = check_text_length(&text, o, e);
    if (rc) return rc;
    return expand_and_encode(m, text, 0, o, arena, out, e);
}

int prompt_from_text(const struct prompt_model *m, struct marked_text text, bool add_special, const struct prompt_options *o,
                     struct arena *arena, struct prompt *out, struct err *e)
{
    return expand_and_encode(m, text, add_special ? TOKENIZER_ADD_SPECIAL : 0, o, arena, out, e);
}
