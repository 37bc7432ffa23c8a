/* GET /admin/models, POST /admin/models, GET and DELETE /admin/models/{name}: which models there are, in which state, with what memory; loading and
 * unloading while the server runs. For admin keys. What may be loaded from where is `serve`'s to say (gateway.order). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "server/api/endpoint.h"
#include "server/api/errors.h"
#include "server/api/model_write.h"

enum { REPLY_MAX_BYTES = 4 << 20, BODY_MAX_BYTES = 64 << 10 };

static void write_number(struct buf *b, const char *name, float v, bool known)
{
    if (b->len && b->data[b->len - 1] != '{') buf_putc(b, ',');
    if (known && isfinite(v))
        buf_printf(b, "\"%s\":%.6g", name, (double)v);
    else
        buf_printf(b, "\"%s\":null", name);
}

/* What is there, and what is to be expected of it (struct frame_prediction). */
static void write_prediction(struct buf *b, const struct frame_prediction *p)
{
    bool known = p->prompt_token_ms > 0;
    buf_printf(b, ",\"load\":{\"running\":%" PRIu32 ",\"waiting\":%" PRIu32 ",\"free_blocks\":%" PRIu32 "}", p->running, p->waiting,
               p->free_blocks);
    buf_puts(b, ",\"prediction\":{");
    write_number(b, "first_token_ms", p->first_token_ms, known);
    write_number(b, "prompt_token_ms", p->prompt_token_ms, known);
    write_number(b, "tokens_per_s", p->tokens_per_s, p->tokens_per_s > 0);
    write_number(b, "side_by_side", p->side_by_side, p->side_by_side > 0);
    write_number(b, "error_p90", p->error_p90, p->error_p90 >= 0);
    buf_putc(b, '}');
}

static void write_replica(struct buf *b, const struct gateway_replica *r)
{
    struct worker_info w = worker_info(r->worker);
    const struct frame_hello *h = worker_hello(r->worker);
    buf_printf(b, "\"worker\":{\"state\":\"%s\",\"device\":\"%s\",\"sequences\":%u,\"restarts\":%u", w.state, replica_device(r),
               w.sequences, w.restarts);
    if (r->gpu >= 0) buf_printf(b, ",\"gpu\":%d,\"routed\":%" PRIu64, r->gpu, r->n_routed);
    if (worker_lost(r->worker)) {
        buf_puts(b, ",\"reason\":");
        json_write_string(b, worker_lost(r->worker), strlen(worker_lost(r->worker)));
    }
    buf_putc(b, '}');
    buf_printf(b,
               ",\"memory\":{\"weight_bytes\":%" PRIu64 ",\"kv_bytes\":%" PRIu64 ",\"kv_blocks\":%" PRIu32 ",\"block_tokens\":%" PRIu32
               ",\"rss_bytes\":%" PRId64 "}",
               h->weight_bytes, h->kv_bytes, h->n_blocks, h->block_tokens, process_resident_bytes(w.pid));
    write_prediction(b, worker_prediction(r->worker));
}

/* The first that is ready stands for all in the model's own members; each is among the workers. */
static void write_replicas(struct buf *b, const struct gateway_model *m)
{
    const struct gateway_replica *first = &m->replicas[0];
    for (size_t i = m->n_replicas; i-- > 0;)
        if (worker_is_ready(m->replicas[i].worker)) first = &m->replicas[i];
    buf_putc(b, ',');
    write_replica(b, first);
    buf_puts(b, ",\"workers\":[");
    for (size_t i = 0; i < m->n_replicas; i++) {
        buf_puts(b, i ? ",{" : "{");
        write_replica(b, &m->replicas[i]);
        buf_putc(b, '}');
    }
    buf_putc(b, ']');
}

static int64_t waiting_tokens(const struct gateway_model *m)
{
    int64_t n = 0;
    for (size_t i = 0; i < m->n_replicas; i++) n += m->replicas[i].queue.tokens;
    return n;
}

static void write_state(struct buf *b, const struct gateway_model *m)
{
    model_write_begin(b, m);
    buf_puts(b, ",\"path\":");
    json_write_string(b, m->path, strlen(m->path));
    buf_puts(b, ",\"reason\":");
    if (m->state == MODEL_FAILED)
        json_write_string(b, m->why.msg, strlen(m->why.msg));
    else
        buf_puts(b, "null");
    buf_printf(b, ",\"requests\":%u,\"waiting_tokens\":%" PRId64, m->holders, waiting_tokens(m));
    buf_puts(b, ",\"options\":{");
    for (size_t i = 0; i < m->n_args; i++) {
        const char *flag = m->args[i] + strspn(m->args[i], "-");
        bool has_value = i + 1 < m->n_args && strncmp(m->args[i + 1], "--", 2) != 0; /* else it is one that is on */
        buf_puts(b, i ? ",\"" : "\"");
        for (; *flag; flag++) buf_putc(b, *flag == '-' ? '_' : *flag);
        buf_puts(b, has_value ? "\":" : "\":true");
        if (has_value) {
            i++;
            json_write_string(b, m->args[i], strlen(m->args[i]));
        }
    }
    buf_putc(b, '}');
    if (m->replicas[0].worker)
        write_replicas(b, m);
    else
        buf_puts(b, ",\"worker\":null,\"workers\":[],\"memory\":null,\"load\":null,\"prediction\":null");
    buf_putc(b, '}');
}

static void reply_model(struct http_request *r, unsigned status, const struct gateway_model *m)
{
    struct buf b;
    buf_init(&b, REPLY_MAX_BYTES);
    write_state(&b, m);
    model_reply(r, status, &b);
}

/* NULL: it has replied. */
static struct gateway_model *named(struct gateway *g, struct http_request *r)
{
    const char *id = http_path(r) + strlen(endpoint_admin_show.path);
    struct gateway_model *m = gateway_model_find(g, id, strlen(id));
    if (!m) model_reply_unknown(r, id);
    return m;
}

static void admin_list(struct gateway *g, struct http_request *r)
{
    struct buf b;
    buf_init(&b, REPLY_MAX_BYTES);
    buf_puts(&b, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < g->n_models; i++) {
        if (i) buf_putc(&b, ',');
        write_state(&b, g->models[i]);
    }
    buf_puts(&b, "]}");
    model_reply(r, 200, &b);
}

static void admin_show(struct gateway *g, struct http_request *r)
{
    const struct gateway_model *m = named(g, r);
    if (m) reply_model(r, 200, m);
}

static void admin_unload(struct gateway *g, struct http_request *r)
{
    struct gateway_model *m = named(g, r);
    if (!m) return;
    struct buf b;
    buf_init(&b, REPLY_MAX_BYTES);
    if (gateway_model_unload(m)) {
        buf_puts(&b, "{\"id\":");
        json_write_string(&b, m->id, strlen(m->id)); /* it is freed later */
        buf_puts(&b, ",\"object\":\"model\",\"deleted\":true}");
        model_reply(r, 200, &b);
    } else {
        write_state(&b, m);
        model_reply(r, 202, &b);
    }
}

/* --- loading --- */

static int text_member(const json_t *body, const char *name, const char **out, struct err *e)
{
    const json_t *v = json_object_get(body, name);
    *out = NULL;
    if (!v) return 0;
    if (!json_is_string(v) || json_string_length(v) == 0 || strlen(json_string_value(v)) != json_string_length(v))
        return err_set_param(e, ERR_INPUT, name, "'%s' must be a string.", name);
    *out = json_string_value(v);
    return 0;
}

/* Takes its own members out of body; what is left are options. */
static int read_order(json_t *body, struct model_order *o, bool *wait, struct err *e)
{
    const char *path;
    if (!json_is_object(body)) return err_set(e, ERR_INPUT, "The request body must be a JSON object.");
    int rc = text_member(body, "model", &o->model, e);
    if (!rc) rc = text_member(body, "path", &path, e);
    if (!rc) rc = text_member(body, "name", &o->name, e);
    if (rc) return rc;
    if (!o->model == !path) return err_set_param(e, ERR_INPUT, "model", "Give either 'model' or 'path': a model's folder, or demo.");
    if (path) o->model = path;
    const json_t *v = json_object_get(body, "wait");
    if (v && !json_is_boolean(v)) return err_set_param(e, ERR_INPUT, "wait", "'wait' must be true or false.");
    *wait = json_is_true(v);
    o->options = body;
    return 0;
}

static void asker_gone(void *model)
{
    ((struct gateway_model *)model)->asker = NULL;
}

void admin_model_settled(struct gateway_model *m)
{
    struct http_request *r = m->asker;
    struct err e;
    if (!r || m->state == MODEL_LOADING) return;
    m->asker = NULL;
    if (m->state == MODEL_READY)
        reply_model(r, 201, m);
    else {
        err_set_param(&e, ERR_INPUT, "model", "%s", m->state == MODEL_FAILED ? m->why.msg : "It was unloaded while it was loading.");
        api_error_reply(r, API_MODEL_LOAD_FAILED, &e);
    }
}

static void load(struct gateway *g, struct http_request *r, json_t *body)
{
    struct model_order o = {0};
    struct gateway_model *m = NULL;
    struct err e;
    bool wait = false;
    int rc = read_order(body, &o, &wait, &e);
    if (!rc) rc = g->order(g, &o, &m, &e);
    if (rc)
        api_error_reply(r, rc == -ERR_BUSY ? API_MODEL_EXISTS : api_error_of(&e), &e);
    else if (!wait)
        reply_model(r, 202, m);
    else {
        m->asker = r;
        http_on_gone(r, asker_gone, m);
    }
}

static void admin_load(struct gateway *g, struct http_request *r)
{
    struct buf text = {0};
    struct err e;
    json_t *body = NULL;
    struct json_limits limits = json_limits_request;
    limits.max_bytes = BODY_MAX_BYTES;
    http_take_body(r, &text);
    if (g->draining) {
        err_set(&e, ERR_CLOSING, "The server is shutting down.");
        api_error_reply(r, API_DRAINING, &e);
    } else if (json_read(text.data ? text.data : "", text.len, &limits, "request body", &body, &e))
        api_error_reply(r, api_error_of(&e), &e);
    else
        load(g, r, body);
    json_decref(body);
    buf_free(&text);
}

const struct endpoint endpoint_admin_list = {.method = "GET", .path = "/admin/models", .access = ACCESS_ADMIN, .handle = admin_list};
const struct endpoint endpoint_admin_load = {.method = "POST", .path = "/admin/models", .access = ACCESS_ADMIN, .handle = admin_load};
const struct endpoint endpoint_admin_show = {.method = "GET", .path = "/admin/models/", .access = ACCESS_ADMIN, .handle = admin_show};
const struct endpoint endpoint_admin_unload = {
    .method = "DELETE", .path = "/admin/models/", .access = ACCESS_ADMIN, .handle = admin_unload};
