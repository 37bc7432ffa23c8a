/* What a request's body comes to: see completion_read.h. */
#include "server/completion_read.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "engine/media/data_url.h"
#include "server/completion_fetch.h"
#include "server/completion_route.h"

enum { TEXT_MIN_BYTES = 64 << 10 };

void completion_close_fd(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

void completion_drop_pictures(struct completion *c)
{
    for (size_t i = 0; i < c->n_pictures; i++) {
        completion_close_fd(&c->pictures[i].bytes_fd);
        completion_close_fd(&c->pictures[i].tiles_fd);
    }
    c->n_pictures = 0;
}

static int read_picture(const struct prompt_image *image, struct picture *p, struct buf *bytes, struct err *e)
{
    if (!image->url) return err_set(e, ERR_INPUT, "The picture has no URL.");
    int rc = data_url_decode(image->url, image->n_url, MEDIA_MAX_IMAGE_BYTES, bytes, e);
    if (rc) return rc;
    p->bytes_fd = media_bytes_fd(bytes->data, bytes->len, e);
    p->n_bytes = (int64_t)bytes->len;
    return p->bytes_fd < 0 ? p->bytes_fd : 0;
}

static int read_pictures(struct completion *c, struct err *e)
{
    size_t n = c->messages.n_images;
    if (n == 0) return 0;
    c->pictures = arena_array(&c->arena, n, sizeof *c->pictures);
    c->grids = arena_array(&c->arena, n, sizeof *c->grids);
    if (!c->pictures || !c->grids) return err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) c->pictures[i].bytes_fd = c->pictures[i].tiles_fd = -1;
    c->n_pictures = n;
    struct buf bytes;
    buf_init(&bytes, MEDIA_MAX_IMAGE_BYTES);
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        rc = read_picture(&c->messages.images[i], &c->pictures[i], &bytes, e);
        if (rc) snprintf(e->param, sizeof e->param, "%s", c->messages.images[i].param);
    }
    buf_free(&bytes);
    return rc;
}

int completion_make_prompt(struct completion *c, struct err *e)
{
    struct template_limits limits = {.fuel = (size_t)c->limits.template_steps,
                                     .depth = (unsigned)c->limits.template_depth,
                                     .more_output_bytes = (size_t)c->limits.template_output_bytes};
    struct prompt_options o = {
        .grids = c->grids, .n_grids = c->n_pictures, .kwargs = c->params.kwargs, .max_context = c->max_context, .template_limits = &limits};
    time_t now = time(NULL);
    localtime_r(&now, &o.now);
    int rc = prompt_from_messages(c->model->prompt, &c->messages, &o, &c->arena, &c->prompt, e);
    if (rc && !e->param[0]) snprintf(e->param, sizeof e->param, "messages");
    return rc;
}

/* Text that no model here could read is refused before it is parsed. */
static int read_json(struct completion *c, struct err *e)
{
    size_t bytes = (size_t)c->longest_context * PROMPT_BYTES_PER_TOKEN;
    struct json_limits limits = {.max_bytes = c->body.len,
                                 .max_depth = (unsigned)c->limits.json_depth,
                                 .max_values = (size_t)c->limits.json_values,
                                 .max_key_bytes = (size_t)c->limits.json_key_bytes,
                                 .max_text_bytes = bytes > TEXT_MIN_BYTES ? bytes : TEXT_MIN_BYTES};
    int rc = json_read(c->body.data ? c->body.data : "", c->body.len, &limits, "request body", &c->request, e);
    if (rc == -ERR_CONTEXT)
        return err_set_param(e, ERR_CONTEXT, "messages",
                             "The request has more than %zu bytes of text; the longest context here is %u tokens, and more than %d bytes a "
                             "token are not read.",
                             limits.max_text_bytes, c->longest_context, PROMPT_BYTES_PER_TOKEN);
    if (rc) return rc;
    buf_free(&c->body); /* the tree has its own copy */
    return json_is_object(c->request) ? 0 : err_set(e, ERR_INPUT, "The request body must be a JSON object.");
}

/* As the local model reads it. */
static int read_local(struct completion *c, struct err *e)
{
    struct prompt_bounds bounds = {.messages = (size_t)c->limits.messages, .images = (size_t)c->limits.images};
    int rc = chat_params_read(&c->params, c->request, prompt_model_info(c->model->prompt), &c->arena, e);
    if (!rc) rc = chat_params_check(&c->params, &c->limits, e);
    if (!rc) rc = prompt_messages_read(c->model->prompt, json_object_get(c->request, "messages"), 0, &bounds, &c->arena, &c->messages, e);
    if (!rc) rc = read_pictures(c, e);
    if (!rc && c->n_pictures == 0) rc = completion_make_prompt(c, e);
    return rc;
}

/* What is wrong is only that this model cannot take it, and others may. */
bool completion_is_for_others(const struct completion *c, int rc)
{
    return (rc == -ERR_UNSUPPORTED || rc == -ERR_CONTEXT) && completion_route_has_hosted(c);
}

void completion_give_up_local(struct completion *c, const struct err *why)
{
    c->local_cannot = *why;
    completion_drop_pictures(c);
}

int completion_encode(struct completion *c, struct hosted_model *m, const struct hosted_bill *bill, struct err *e)
{
    struct wire_options o = {.model = m->price->model, .max_tokens = bill->max_tokens};
    int rc = wire_encode(&m->host->host, c->request, &o, &c->wire, e);
    c->wired = rc ? NULL : m;
    return rc;
}

/* What it takes to know who is asked. */
int completion_read_name(struct completion *c, struct err *e)
{
    completion_repeat_read(c);
    int rc = read_json(c, e);
    if (!rc) rc = completion_route_read(c, e);
    return rc ? rc : completion_fetch_find(c, e);
}

/* A provider is asked as the client asks us: what only it can judge is left to it. */
int completion_read_again(struct completion *c, struct err *e)
{
    int rc = c->model ? read_local(c, e) : 0;
    if (completion_is_for_others(c, rc)) {
        completion_give_up_local(c, e);
        rc = 0;
    }
    if (!rc && (!c->model || c->local_cannot.code)) {
        rc = chat_params_read_hosted(&c->params, c->request, e);
        if (!rc) rc = chat_params_check(&c->params, &c->limits, e);
    }
    return rc;
}

int completion_read_rest(struct completion *c, struct err *e)
{
    int rc = completion_read_again(c, e);
    if (!rc) rc = completion_route_price(c, e);
    struct hosted_model *only = rc ? NULL : completion_route_only(c);
    return only ? completion_encode(c, only, completion_route_bill(c), e) : rc;
}

int completion_read(struct completion *c, struct err *e)
{
    int rc = 0;
    if (c->n_fetches)
        rc = completion_fetch_put(c, e);
    else if (!c->request) { /* else it was read on the loop */
        rc = completion_read_name(c, e);
        if (!rc && c->n_fetches) return 0; /* the rest when they are there */
    }
    return rc ? rc : completion_read_rest(c, e);
}

