/* GET /v1/models and /v1/models/{id}: the models that are ready; ids may have slashes. Also what other answers about models are made of. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "server/api/endpoint.h"
#include "server/api/errors.h"
#include "server/api/model_write.h"

enum { REPLY_MAX_BYTES = 1 << 20 };

void model_write_begin(struct buf *b, const struct gateway_model *m)
{
    bool pictures = m->prompt && prompt_model_info(m->prompt)->has_images;
    buf_puts(b, "{\"id\":");
    json_write_string(b, m->id, strlen(m->id));
    buf_printf(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"local\",\"max_model_len\":%" PRIu32 ",\"context_length\":%" PRIu32,
               (long long)m->created_s, m->max_context, m->max_context);
    buf_printf(b, ",\"modalities\":[\"text\"%s],\"state\":\"%s\"", pictures ? ",\"image\"" : "", gateway_model_state_name(m));
    for (size_t i = 0; m->replicas[0].gpu >= 0 && i < m->n_replicas; i++) {
        const struct gateway_replica *r = &m->replicas[i];
        buf_printf(b, "%s{\"gpu\":%d,\"state\":\"%s\"}%s", i ? "," : ",\"replicas\":[", r->gpu,
                   r->worker ? worker_info(r->worker).state : gateway_model_state_name(m), i + 1 == m->n_replicas ? "]" : "");
    }
}

void model_reply(struct http_request *r, unsigned status, struct buf *b)
{
    struct err e;
    if (b->failed) {
        err_set(&e, ERR_INTERNAL, "what is to be said of the models does not fit");
        api_error_reply(r, API_INTERNAL_ERROR, &e);
    } else
        http_reply(r, status, "application/json", b->data, b->len);
    buf_free(b);
}

void model_reply_unknown(struct http_request *r, const char *id)
{
    struct err e;
    err_set_param(&e, ERR_NOT_FOUND, "model", "The model '%.*s' does not exist.", (int)utf8_cut(id, 200), id);
    api_error_reply(r, API_MODEL_NOT_FOUND, &e);
}

const char *replica_device(const struct gateway_replica *r)
{
    if (!r->worker || !r->model->max_context) return "unknown";
    const char *name = worker_hello(r->worker)->device;
    size_t n = strnlen(name, sizeof worker_hello(r->worker)->device);
    for (size_t i = 0; i < n; i++)
        if (name[i] < ' ' || name[i] > '~' || name[i] == '"' || name[i] == '\\') return "unknown";
    return n && n < sizeof worker_hello(r->worker)->device ? name : "unknown";
}

int64_t process_resident_bytes(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/statm", (long)pid);
    FILE *f = pid > 0 ? fopen(path, "re") : NULL;
    if (!f) return 0;
    int64_t total, resident = 0;
    if (fscanf(f, "%" SCNd64 " %" SCNd64, &total, &resident) != 2) resident = 0;
    fclose(f);
    return resident * sysconf(_SC_PAGESIZE);
}

static void models_get(struct gateway *g, struct http_request *r)
{
    struct buf b;
    size_t n = 0;
    buf_init(&b, REPLY_MAX_BYTES);
    buf_puts(&b, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < g->n_models; i++) {
        if (g->models[i]->state != MODEL_READY) continue;
        if (n++) buf_putc(&b, ',');
        model_write_begin(&b, g->models[i]);
        buf_putc(&b, '}');
    }
    buf_puts(&b, "]}");
    model_reply(r, 200, &b);
}

static void model_get(struct gateway *g, struct http_request *r)
{
    const char *id = http_path(r) + strlen(endpoint_model.path);
    const struct gateway_model *m = gateway_model_find(g, id, strlen(id));
    if (!m || m->state != MODEL_READY) {
        model_reply_unknown(r, id);
        return;
    }
    struct buf b;
    buf_init(&b, REPLY_MAX_BYTES);
    model_write_begin(&b, m);
    buf_putc(&b, '}');
    model_reply(r, 200, &b);
}

const struct endpoint endpoint_models = {.method = "GET", .path = "/v1/models", .access = ACCESS_KEY, .handle = models_get};
const struct endpoint endpoint_model = {.method = "GET", .path = "/v1/models/", .access = ACCESS_KEY, .handle = model_get};
