/* Fetching: see completion_fetch.h. */
#include "server/completion_fetch.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/completion_route.h"
#include "server/remote_image.h"

struct completion_picture {
    struct completion *owner;
    json_t *holder; /* of the URL, under this name; borrowed from the request */
    const char *member;
    char param[96];
    struct remote_url url; /* borrows from the request */
    struct remote_fetch *fetch; /* NULL: none is under way */
    struct buf bytes;
};

/* --- finding --- */

/* A model that takes no pictures says so when it reads the messages. */
static bool is_wanted(const struct completion *c)
{
    if (!c->gateway->remote) return false;
    return (c->model && prompt_model_info(c->model->prompt)->has_images) || completion_route_wants_data(c);
}

/* {"type": "image_url", "image_url": {"url": ...}}, or "input_image" with the URL in the place of the object. False: neither; what is wrong with a part is
 * told when messages are read. */
static bool find_url(struct completion_picture *p, json_t *part, size_t i_message, size_t i_part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    json_t *v = json_object_get(part, "image_url");
    if (!type || (strcmp(type, "image_url") != 0 && strcmp(type, "input_image") != 0)) return false;
    p->holder = json_is_object(v) ? v : part;
    p->member = json_is_object(v) ? "url" : "image_url";
    snprintf(p->param, sizeof p->param, "messages[%zu].content[%zu].image_url%s", i_message, i_part, json_is_object(v) ? ".url" : "");
    return true;
}

static int add(struct completion *c, json_t *part, size_t i_message, size_t i_part, struct err *e)
{
    struct completion_picture p = {.owner = c};
    if (!find_url(&p, part, i_message, i_part)) return 0;
    const json_t *url = json_object_get(p.holder, p.member);
    const char *text = json_string_value(url);
    const size_t n = json_string_length(url);
    if (!text || !remote_url_is(text, n)) return 0;
    if ((int64_t)c->n_fetches == c->limits.images)
        return err_set_param(e, ERR_LIMIT, p.param, "more than %lld pictures in a request", (long long)c->limits.images);
    int rc = remote_url_read(remote_images_rules(c->gateway->remote), text, n, &p.url, e);
    if (rc)
        snprintf(e->param, sizeof e->param, "%s", p.param);
    else
        c->fetches[c->n_fetches++] = p;
    return rc;
}

int completion_fetch_find(struct completion *c, struct err *e)
{
    json_t *messages = json_object_get(c->request, "messages"), *message, *part;
    size_t i, k;
    int rc = 0;
    if (!is_wanted(c) || !json_is_array(messages)) return 0;
    c->fetches = arena_array(&c->arena, (size_t)c->limits.images, sizeof *c->fetches);
    if (!c->fetches && c->limits.images) return err_set(e, ERR_MEMORY, "out of memory");
    json_array_foreach(messages, i, message)
    {
        json_t *content = json_object_get(message, "content");
        json_array_foreach(content, k, part) if (!rc) rc = add(c, part, i, k, e);
    }
    return rc;
}

/* --- fetching: on the loop --- */

static int keep(void *ctx, size_t n, struct err *e)
{
    const struct completion_picture *p = ctx;
    return http_hold(p->owner->http, (int64_t)(n / 3 + 1) * 4, e);
}

static void fetched(void *ctx, struct buf *bytes, const struct err *e)
{
    struct completion_picture *p = ctx;
    struct completion *c = p->owner;
    struct err why;
    p->fetch = NULL;
    if (e) {
        why = *e;
        if (e->code == ERR_INPUT || e->code == ERR_LIMIT) snprintf(why.param, sizeof why.param, "%s", p->param);
        c->fetches_done(c, &why);
        return;
    }
    p->bytes = *bytes;
    *bytes = (struct buf){0};
    if (--c->n_fetching == 0) c->fetches_done(c, NULL);
}

int completion_fetch(struct completion *c, void (*then)(struct completion *c, const struct err *why), struct err *e)
{
    int rc = 0;
    c->fetches_done = then;
    c->n_fetching = c->n_fetches;
    for (size_t i = 0; i < c->n_fetches && !rc; i++) {
        struct completion_picture *p = &c->fetches[i];
        const struct remote_order o = {.url = &p->url, .limits = &c->limits, .keep = keep, .done = fetched, .ctx = p};
        rc = remote_image_fetch(c->gateway->remote, &o, &p->fetch, e);
    }
    return rc;
}

void completion_fetch_end(struct completion *c)
{
    for (size_t i = 0; i < c->n_fetches; i++) {
        struct completion_picture *p = &c->fetches[i];
        if (p->fetch) remote_image_cancel(p->fetch);
        p->fetch = NULL;
        buf_free(&p->bytes);
    }
}

/* --- what was fetched --- */

/* By its first bytes: what a host says of it may be wrong, and a provider is told this. */
static const char *media_type(const struct buf *b)
{
    static const struct {
        const char *begin;
        size_t n;
        const char *type;
    } rows[] = {{"\xFF\xD8\xFF", 3, "jpeg"}, {"\x89PNG\r\n\x1A\n", 8, "png"}, {"GIF8", 4, "gif"}, {"RIFF", 4, "webp"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (b->len >= 12 && memcmp(b->data, rows[i].begin, rows[i].n) == 0 && (b->data[0] != 'R' || memcmp(b->data + 8, "WEBP", 4) == 0))
            return rows[i].type;
    return NULL;
}

static int put(struct completion_picture *p, struct err *e)
{
    char head[40];
    const char *type = media_type(&p->bytes);
    if (!type) return err_set_param(e, ERR_INPUT, p->param, "what the URL gives is no JPEG, PNG, WebP or GIF picture");
    const size_t n_head = (size_t)snprintf(head, sizeof head, "data:image/%s;base64,", type);
    const size_t n_text = sodium_base64_ENCODED_LEN(p->bytes.len, sodium_base64_VARIANT_ORIGINAL);
    char *text = malloc(n_head + n_text);
    json_t *url = NULL;
    if (text) {
        memcpy(text, head, n_head);
        sodium_bin2base64(text + n_head, n_text, (const unsigned char *)p->bytes.data, p->bytes.len, sodium_base64_VARIANT_ORIGINAL);
        url = json_stringn_nocheck(text, n_head + n_text - 1);
    }
    free(text);
    buf_free(&p->bytes);
    return json_object_set_new_nocheck(p->holder, p->member, url) ? err_set(e, ERR_MEMORY, "out of memory") : 0;
}

int completion_fetch_put(struct completion *c, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < c->n_fetches && !rc; i++) rc = put(&c->fetches[i], e);
    return rc;
}
