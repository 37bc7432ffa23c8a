/* GET /v1/models and /v1/models/{id}: local models that are ready, hosted ones, aliases; ids may have slashes. Also what other answers about models are
 * made of. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "server/accounts/price_table.h"
#include "server/api/endpoint.h"
#include "server/api/errors.h"
#include "server/api/model_write.h"

enum { REPLY_MAX_BYTES = 64 << 20 };

void model_write_begin(struct buf *b, const struct gateway_model *m)
{
    bool pictures = m->prompt && prompt_model_info(m->prompt)->has_images;
    buf_puts(b, "{\"id\":");
    json_write_string(b, m->id, strlen(m->id));
    buf_printf(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"local\",\"max_model_len\":%" PRIu32 ",\"context_length\":%" PRIu32,
               (long long)m->created_s, m->max_context, m->max_context);
    buf_printf(b, ",\"modalities\":[\"text\"%s],\"state\":\"%s\"", pictures ? ",\"image\"" : "",
               m->state == MODEL_READY && !gateway_model_serves(m) ? "down" : gateway_model_state_name(m));
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

static void write_local(struct buf *b, const struct gateway *g, const struct gateway_model *m)
{
    model_write_begin(b, m);
    buf_puts(b, ",\"spillway\":{\"provider\":\"local\",\"stand_ins\":[");
    for (size_t i = 0; i < m->n_stand_ins; i++) {
        const struct hosted_model *h = &g->hosted->models[m->stand_ins[i].hosted];
        buf_puts(b, i ? ",\"" : "\"");
        json_write_escaped(b, h->host->host.name, strlen(h->host->host.name));
        buf_putc(b, '/');
        json_write_escaped(b, h->price->model, strlen(h->price->model));
        buf_putc(b, '"');
    }
    buf_putc(b, ']');
    const struct tariff_price own = {.price = &tariff_free, .id = m->free_price};
    struct tariff t;
    tariff_of(&t, g->tariffs, PRICE_LOCAL, m->id, &own, m->id);
    model_write_prices(b, &t);
    buf_puts(b, "}}");
}

static int64_t started_s(const struct gateway *g)
{
    return clock_wall_s() - (loop_now_ms(g->loop) - g->started_ms) / 1000;
}

/* --- what the asker's account may use --- */

struct asker {
    struct gateway *g;
    struct account_rules rules; /* none: everything */
};

static struct asker who_asks(struct gateway *g, const struct http_request *r)
{
    struct asker a = {.g = g};
    if (g->accounts && http_owner(r)) accounts_key_rules(g->accounts, http_owner(r), &a.rules);
    return a;
}

static bool local_allowed(const struct asker *a, const struct gateway_model *m)
{
    return m->state == MODEL_READY && rules_allow(a->rules.models, m->id);
}

static bool hosted_allowed(const struct asker *a, const struct hosted_model *m)
{
    return model_hosted_allowed(&a->rules, a->g, m);
}

/* It leads to one at least. */
static bool alias_allowed(const struct asker *a, const struct name_alias *alias)
{
    struct name_wanted wanted;
    struct hosted *hosted;
    struct err e;
    int rc = gateway_names(a->g, &alias->name, 1, NULL, &wanted, &hosted, &e);
    hosted_release(hosted); /* the gateway's own: nothing is read again meanwhile */
    if (rc) return false;
    for (size_t i = 0; i < wanted.n; i++) {
        const struct name_route *to = &wanted.routes[i];
        const char *local = to->kind == NAME_LOCAL ? a->g->locals[to->index].name : NULL;
        const struct gateway_model *m = local ? gateway_model_find(a->g, local, strlen(local)) : NULL;
        if (to->kind == NAME_HOSTED ? hosted_allowed(a, &a->g->hosted->models[to->index]) : m && local_allowed(a, m)) return true;
    }
    return false;
}

static void models_get(struct gateway *g, struct http_request *r)
{
    const struct hosted *h = g->hosted;
    const struct asker a = who_asks(g, r);
    struct buf b;
    const char *comma = "";
    buf_init(&b, REPLY_MAX_BYTES);
    buf_puts(&b, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < g->n_models; i++) {
        if (!local_allowed(&a, g->models[i])) continue;
        buf_puts(&b, comma);
        write_local(&b, g, g->models[i]);
        comma = ",";
    }
    for (size_t i = 0; h && i < h->n_aliases; i++) {
        if (!alias_allowed(&a, &h->aliases[i])) continue;
        buf_puts(&b, comma);
        model_write_alias(&b, &h->aliases[i], started_s(g));
        comma = ",";
    }
    for (size_t i = 0; h && i < h->n_models; i++) {
        if (!hosted_allowed(&a, &h->models[i])) continue;
        buf_puts(&b, comma);
        model_write_hosted(&b, g, &h->models[i]);
        comma = ",";
    }
    buf_puts(&b, "]}");
    model_reply(r, 200, &b);
}

/* In the order in which a request's model is looked up (routing/name.h). */
static bool write_one(struct buf *b, const struct asker *a, const char *id)
{
    struct gateway *g = a->g;
    const struct hosted *h = g->hosted;
    for (size_t i = 0; h && i < h->n_aliases; i++)
        if (strcmp(h->aliases[i].name, id) == 0) {
            model_write_alias(b, &h->aliases[i], started_s(g));
            return alias_allowed(a, &h->aliases[i]);
        }
    const struct gateway_model *m = gateway_model_find(g, id, strlen(id));
    if (m) {
        write_local(b, g, m);
        return local_allowed(a, m);
    }
    const struct hosted_model *hosted = h ? model_find_hosted(h, id) : NULL;
    if (hosted) model_write_hosted(b, g, hosted);
    return hosted && hosted_allowed(a, hosted);
}

static void model_get(struct gateway *g, struct http_request *r)
{
    const char *id = http_path(r) + strlen(endpoint_model.path);
    const struct asker a = who_asks(g, r);
    struct buf b;
    buf_init(&b, REPLY_MAX_BYTES);
    if (write_one(&b, &a, id))
        model_reply(r, 200, &b);
    else
        model_reply_unknown(r, id);
    buf_free(&b);
}

const struct endpoint endpoint_models = {.method = "GET", .path = "/v1/models", .access = ACCESS_KEY, .handle = models_get};
const struct endpoint endpoint_model = {.method = "GET", .path = "/v1/models/", .access = ACCESS_KEY, .handle = model_get};
