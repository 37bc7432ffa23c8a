/* GET /v1/models and /v1/models/{id}; ids may have slashes. */
#include <string.h>

#include "base/json.h"
#include "base/str.h"
#include "server/api/endpoint.h"
#include "server/api/errors.h"

enum { REPLY_MAX_BYTES = 1 << 20 };

static void model_write(struct buf *b, const struct gateway_model *m)
{
    buf_puts(b, "{\"id\":");
    json_write_string(b, m->id, strlen(m->id));
    buf_printf(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"local\",\"max_model_len\":%u}", (long long)m->created_s,
               m->max_context);
}

static void reply(struct http_request *r, struct buf *b)
{
    struct err e;
    if (b->failed) {
        err_set(&e, ERR_INTERNAL, "the list of models does not fit");
        api_error_reply(r, API_INTERNAL_ERROR, &e);
    } else
        http_reply(r, 200, "application/json", b->data, b->len);
    buf_free(b);
}

static void models_get(struct gateway *g, struct http_request *r)
{
    struct buf b;
    buf_init(&b, REPLY_MAX_BYTES);
    buf_puts(&b, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < g->n_models; i++) {
        if (i) buf_putc(&b, ',');
        model_write(&b, g->models[i]);
    }
    buf_puts(&b, "]}");
    reply(r, &b);
}

static void model_get(struct gateway *g, struct http_request *r)
{
    const char *id = http_path(r) + strlen(endpoint_model.path);
    const struct gateway_model *m = gateway_model_find(g, id, strlen(id));
    if (!m) {
        struct err e;
        err_set_param(&e, ERR_NOT_FOUND, "model", "The model '%.*s' does not exist.", (int)utf8_cut(id, 200), id);
        api_error_reply(r, API_MODEL_NOT_FOUND, &e);
        return;
    }
    struct buf b;
    buf_init(&b, REPLY_MAX_BYTES);
    model_write(&b, m);
    reply(r, &b);
}

const struct endpoint endpoint_models = {.method = "GET", .path = "/v1/models", .access = ACCESS_KEY, .handle = models_get};
const struct endpoint endpoint_model = {.method = "GET", .path = "/v1/models/", .access = ACCESS_KEY, .handle = model_get};
