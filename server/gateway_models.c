/* Models of a gateway: see gateway.h. A model is loaded by several parties at once: a pool thread reads what the gateway needs of its folder, each
 * worker loads the weights. settle() puts them together; until then nobody can hold the model, so its fields are this file's. At first all workers
 * must start; later each dies and comes back alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "server/accounts/price_table.h"
#include "server/affinity.h"
#include "server/completion.h"

enum { DRAIN_LOOK_MS = 50 };

const char *gateway_model_state_name(const struct gateway_model *m)
{
    static const char *const names[] = {
        [MODEL_LOADING] = "loading", [MODEL_READY] = "ready", [MODEL_DRAINING] = "draining", [MODEL_FAILED] = "failed"};
    return names[m->state];
}

struct gateway_model *gateway_model_find(const struct gateway *g, const char *id, size_t n)
{
    for (size_t i = 0; i < g->n_models; i++)
        if (strlen(g->models[i]->id) == n && memcmp(g->models[i]->id, id, n) == 0) return g->models[i];
    return NULL;
}

struct gateway_model *gateway_model_at(const struct gateway *g, unsigned number, const char *id)
{
    for (size_t i = 0; i < g->n_models; i++)
        if (g->models[i]->number == number) return strcmp(g->models[i]->id, id) == 0 ? g->models[i] : NULL;
    return NULL;
}

/* --- names --- */

static void catalogue(const struct hosted *h, const struct name_local *locals, struct name_catalogue *out)
{
    *out = h ? h->catalogue : (struct name_catalogue){.policy = ROUTE_LOCAL_FIRST};
    out->locals = locals;
    out->n_locals = GATEWAY_MAX_MODELS;
}

int gateway_names(struct gateway *g, const char *const *names, size_t n, const enum route_policy *policy, struct name_wanted *out,
                  struct hosted **hosted, struct err *e)
{
    struct name_catalogue cat;
    pthread_mutex_lock(&g->models_lock);
    *hosted = hosted_hold(g->hosted);
    catalogue(*hosted, g->locals, &cat);
    if (policy) cat.policy = *policy;
    int rc = name_parse_list(&cat, names, n, out, e);
    pthread_mutex_unlock(&g->models_lock);
    return rc;
}

static struct name_local local_of(const struct gateway_model *m, const char *public, const struct name_stand_in *stand_ins, size_t n)
{
    const char *slash = strchr(m->id, '/');
    if (!public && slash && slash != m->id && slash[1] && !strchr(slash + 1, '/')) public = m->id;
    return (struct name_local){.name = m->id, .canonical = public, .stand_ins = stand_ins, .n_stand_ins = n};
}

/* models_lock is held. */
static void name_model(struct gateway_model *m)
{
    m->gateway->locals[m->number] = local_of(m, m->public_name, m->stand_ins, m->n_stand_ins);
}

static void take_naming(const struct gateway_naming *n)
{
    struct gateway_model *m = n->model;
    m->public_name = n->public_name;
    memcpy(m->stand_ins, n->stand_ins, sizeof m->stand_ins);
    m->n_stand_ins = n->n_stand_ins;
    if (m->state != MODEL_FAILED || m->n_stand_ins) name_model(m);
}

/* Where there is a place; unless one of that name is here after all. */
static void add_absent(struct name_local locals[GATEWAY_MAX_MODELS], const char *name)
{
    size_t at = GATEWAY_MAX_MODELS;
    for (size_t i = 0; i < GATEWAY_MAX_MODELS; i++) {
        if (locals[i].name && strcmp(locals[i].name, name) == 0) return;
        if (!locals[i].name && at == GATEWAY_MAX_MODELS) at = i;
    }
    if (at < GATEWAY_MAX_MODELS) locals[at] = (struct name_local){.name = name};
}

int gateway_name_all(struct gateway *g, struct hosted *hosted, const struct gateway_naming *namings, size_t n, bool back, struct err *e)
{
    struct name_catalogue cat;
    struct name_local locals[GATEWAY_MAX_MODELS];
    struct hosted *former = g->hosted;
    memcpy(locals, g->locals, sizeof locals);
    for (size_t i = 0; i < n; i++) {
        if (!namings[i].model) {
            add_absent(locals, namings[i].name);
            continue;
        }
        locals[namings[i].model->number] = local_of(namings[i].model, namings[i].public_name, namings[i].stand_ins, namings[i].n_stand_ins);
    }
    catalogue(hosted, locals, &cat);
    int rc = back ? 0 : name_catalogue_check(&cat, e);
    if (rc) return rc;
    pthread_mutex_lock(&g->models_lock);
    g->hosted = hosted;
    for (size_t i = 0; i < n; i++)
        if (namings[i].model) take_naming(&namings[i]);
    pthread_mutex_unlock(&g->models_lock);
    if (former != hosted) hosted_release(former);
    return 0;
}

/* Nothing leads to it, and it takes nothing over. models_lock is held. */
static void unname(struct gateway_model *m)
{
    struct gateway *g = m->gateway;
    if (g->locals[m->number].name == m->id) g->locals[m->number] = (struct name_local){.name = NULL};
    for (size_t i = 0; g->hosted && i < g->hosted->n_models; i++)
        if (g->hosted->names[i].local == (int)m->number) g->hosted->names[i].local = -1;
}

bool gateway_model_serves(const struct gateway_model *m)
{
    for (size_t i = 0; i < m->n_replicas; i++)
        if (m->replicas[i].worker && worker_is_ready(m->replicas[i].worker)) return true;
    return false;
}

const char *gateway_model_lost(const struct gateway_model *m)
{
    const char *why = NULL;
    for (size_t i = 0; i < m->n_replicas; i++)
        if (!m->replicas[i].worker || !(why = worker_lost(m->replicas[i].worker))) return NULL;
    return why;
}

int gateway_model_hold(struct gateway *g, const char *id, size_t n, struct gateway_model **out, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&g->models_lock);
    struct gateway_model *m = gateway_model_find(g, id, n);
    if (!m || m->state == MODEL_FAILED)
        rc = err_set_param(e, ERR_NOT_FOUND, "model", "The model '%.*s' does not exist.", (int)utf8_cut(id, 200), id);
    else if (m->state != MODEL_READY)
        rc = err_set(e, ERR_GONE, "The model is %s: try again.", m->state == MODEL_LOADING ? "still being loaded" : "being unloaded");
    else {
        m->holders++;
        *out = m;
    }
    pthread_mutex_unlock(&g->models_lock);
    return rc;
}

static void workers_free(struct gateway_model *m)
{
    for (size_t i = 0; i < m->n_replicas; i++) {
        worker_proc_free(m->replicas[i].worker);
        m->replicas[i].worker = NULL;
    }
}

static void model_free(struct gateway_model *m)
{
    loop_timer_clear(m->gateway->loop, &m->drain);
    workers_free(m);
    affinity_free(m->affinity);
    quarantine_free(m->quarantine);
    prompt_model_close(m->prompt);
    free(m->args_text);
    free(m);
}

static void model_free_call(struct loop_call *call)
{
    model_free((struct gateway_model *)((char *)call - offsetof(struct gateway_model, freeing)));
}

static void list_remove(struct gateway_model *m)
{
    struct gateway *g = m->gateway;
    pthread_mutex_lock(&g->models_lock);
    size_t i = 0;
    while (i < g->n_models && g->models[i] != m) i++;
    CHECK(i < g->n_models);
    unname(m);
    memmove(&g->models[i], &g->models[i + 1], (--g->n_models - i) * sizeof *g->models);
    pthread_mutex_unlock(&g->models_lock);
}

/* Freed on the loop's next round: whoever is calling may be a worker of its. */
static void model_end(struct gateway_model *m)
{
    if (m->state != MODEL_DRAINING || m->holders || m->opening.running || m->freeing_posted) return;
    list_remove(m);
    log_info("model %s: unloaded", m->id);
    m->freeing_posted = true;
    m->freeing.fn = model_free_call;
    loop_post(m->gateway->loop, &m->freeing);
}

void gateway_model_release(struct gateway_model *m)
{
    if (!m) return;
    pthread_mutex_lock(&m->gateway->models_lock);
    CHECK(m->holders > 0);
    m->holders--;
    pthread_mutex_unlock(&m->gateway->models_lock);
    model_end(m);
}

static void set_state(struct gateway_model *m, enum gateway_model_state state)
{
    pthread_mutex_lock(&m->gateway->models_lock);
    m->state = state;
    if (state == MODEL_FAILED && !m->n_stand_ins) unname(m); /* else they answer for it */
    pthread_mutex_unlock(&m->gateway->models_lock);
}

/* --- loading --- */

static void workers_free_call(struct loop_call *call)
{
    struct gateway_model *m = (struct gateway_model *)((char *)call - offsetof(struct gateway_model, freeing));
    m->freeing_posted = false;
    workers_free(m);
    m->gateway->model_changed(m);
    model_end(m); /* unloaded meanwhile */
}

static void model_fail(struct gateway_model *m, const struct err *why)
{
    if (m->state != MODEL_LOADING) return;
    m->why = *why;
    set_state(m, MODEL_FAILED);
    m->freeing_posted = true;
    m->freeing.fn = workers_free_call;
    loop_post(m->gateway->loop, &m->freeing);
}

/* The workers and the gateway read the same folder; they must have understood the same. */
static int check_hello(const struct gateway_model *m, const struct frame_hello *h, struct err *e)
{
    const struct prompt_info *info = prompt_model_info(m->prompt);
    const struct frame_hello *first = worker_hello(m->replicas[0].worker);
    if (memcmp(h->model_hash, first->model_hash, sizeof h->model_hash) != 0)
        return err_set(e, ERR_INPUT, "%s: the model's files have changed while it was loaded", m->id);
    if (h->vocab != info->vocab)
        return err_set(e, ERR_INTERNAL, "%s: the worker has %u rows in its head, config.json says %u", m->id, h->vocab, info->vocab);
    if (info->has_images && (h->image_token != info->image_token || h->tile_px != (uint32_t)info->images.tile_px ||
                             h->tokens_per_tile != (uint32_t)info->images.tokens_per_tile))
        return err_set(e, ERR_INTERNAL, "%s: worker and gateway differ about pictures", m->id);
    return 0;
}

/* most 0: no bound yet. */
static uint32_t lower_context(uint32_t most, const struct frame_hello *h)
{
    uint64_t cache = (uint64_t)h->n_blocks * h->block_tokens; /* a sequence that cannot fit alone is never admitted */
    uint32_t limit = cache < h->max_context ? (uint32_t)cache : h->max_context;
    return most && most < limit ? most : limit;
}

static void say_ready(const struct gateway_replica *r)
{
    log_info("model %s: worker ready on %.64s, context %u", r->name, worker_hello(r->worker)->device, r->model->max_context);
}

/* Files and workers are looked at when all have something to say; what is wrong with the files is the better reason. */
static void settle(struct gateway_model *m)
{
    struct err e;
    if (m->state != MODEL_LOADING || m->opening.running) return;
    if (m->opening.rc) {
        model_fail(m, &m->opening.e);
        return;
    }
    if (m->opening.down) {
        e = m->opening.down_why;
        err_prefix(&e, "model %s: its worker could not start", m->opening.down_name);
        model_fail(m, &e);
        return;
    }
    uint32_t context = prompt_model_info(m->prompt)->max_context;
    for (size_t i = 0; i < m->n_replicas; i++)
        if (!worker_is_ready(m->replicas[i].worker)) return;
    for (size_t i = 0; i < m->n_replicas; i++) {
        const struct frame_hello *h = worker_hello(m->replicas[i].worker);
        if (check_hello(m, h, &e)) {
            model_fail(m, &e);
            return;
        }
        context = lower_context(context, h);
    }
    m->max_context = context;
    set_state(m, MODEL_READY);
    for (size_t i = 0; i < m->n_replicas; i++) say_ready(&m->replicas[i]);
    m->gateway->model_changed(m);
}

static void replica_ready(void *ctx, const struct frame_hello *h)
{
    struct gateway_replica *r = ctx;
    (void)h;
    if (r->model->state == MODEL_LOADING) {
        settle(r->model);
        return;
    }
    say_ready(r);
    source_local_ready(r->model);
}

static void replica_down(void *ctx, const struct err *why)
{
    struct gateway_replica *r = ctx;
    struct gateway_model *m = r->model;
    affinity_forget(m->affinity, (int)(r - m->replicas)); /* its cache went with it */
    if (m->state != MODEL_LOADING || m->opening.down) return; /* has served: it is restarted */
    m->opening.down = true;
    m->opening.down_name = r->name;
    m->opening.down_why = *why;
    settle(m);
}

/* The model's own account and its price if none is set, on a connection of this thread's. */
static int find_supplier(struct gateway_model *m, struct err *e)
{
    struct db *db;
    char name[sizeof m->id + 8];
    int rc = db_open(&db, m->gateway->store, e);
    if (rc) return rc;
    snprintf(name, sizeof name, "local/%s", m->id);
    m->opening.supplier = ledger_supplier(db, name, e);
    m->opening.free_price = m->opening.supplier < 0 ? m->opening.supplier : price_table_free(db, m->id, e);
    db_close(db);
    return m->opening.free_price < 0 ? (int)m->opening.free_price : 0;
}

static void open_work(struct pool_job *j)
{
    struct gateway_model *m = (struct gateway_model *)((char *)j - offsetof(struct gateway_model, opening.job));
    m->opening.rc = prompt_model_open(&m->opening.prompt, m->path, &m->opening.e);
    if (!m->opening.rc && m->gateway->ledger) m->opening.rc = find_supplier(m, &m->opening.e);
    if (m->opening.rc) {
        prompt_model_close(m->opening.prompt);
        m->opening.prompt = NULL;
    }
}

static void open_done(struct pool_job *j)
{
    struct gateway_model *m = (struct gateway_model *)((char *)j - offsetof(struct gateway_model, opening.job));
    m->opening.running = false;
    m->prompt = m->opening.prompt;
    m->opening.prompt = NULL;
    m->supplier = m->opening.supplier;
    m->free_price = m->opening.free_price;
    if (m->prompt) {
        const struct prompt_info *info = prompt_model_info(m->prompt);
        log_info("model %s: %s%s%s", m->id, m->path, info->has_images ? ", pictures" : "", info->has_template ? "" : ", no chat template");
    } else if (!m->opening.rc)
        m->opening.rc = err_set(&m->opening.e, ERR_CLOSING, "the server is shutting down"); /* the pool's end */
    settle(m);
    model_end(m);
}

/* The words one after the other, in memory of the model's own. */
static int copy_args(struct gateway_model *m, const char *const *args, size_t n_args)
{
    size_t n = 0;
    CHECK(n_args <= WORKER_MAX_ARGS);
    for (size_t i = 0; i < n_args; i++) n += strlen(args[i]) + 1;
    char *p = m->args_text = malloc(n + 1);
    if (!p) return -ERR_MEMORY;
    for (; m->n_args < n_args; m->n_args++) {
        m->args[m->n_args] = strcpy(p, args[m->n_args]);
        p += strlen(p) + 1;
    }
    return 0;
}

static int check_name(struct gateway *g, const char *id, struct err *e)
{
    size_t n = strlen(id);
    bool ok = n > 0 && n < sizeof((struct gateway_model *)0)->id && utf8_valid(id, n);
    for (size_t i = 0; i < n && ok; i++) ok = (unsigned char)id[i] >= ' ' && id[i] != 0x7F;
    if (!ok) return err_set_param(e, ERR_INPUT, "name", "no usable name; give --name");
    const struct gateway_model *m = gateway_model_find(g, id, n);
    if (!m || m->state == MODEL_FAILED) return 0;
    return err_set_param(e, ERR_BUSY, "name", "two models are called '%s'", id);
}

static int replica_start(struct gateway_replica *r, struct err *e)
{
    const struct gateway_model *m = r->model;
    struct worker_config c = {.path = m->path,
                              .name = r->name,
                              .args = m->args,
                              .n_args = m->n_args,
                              .gpu = r->gpu < 0 ? NULL : r->gpu_text,
                              .limits = &m->gateway->limits};
    struct worker_events events = {.ready = replica_ready, .down = replica_down, .ctx = r};
    return worker_proc_new(&r->worker, m->gateway->loop, &c, &events, e);
}

static int model_start(struct gateway_model *m, const struct gateway_gpus *gpus, struct err *e)
{
    m->n_replicas = gpus->n ? gpus->n : 1;
    for (size_t i = 0; i + 1 < m->n_args; i++)
        if (strcmp(m->args[i], "--cache-scope") == 0) m->shared_cache = strcmp(m->args[i + 1], "shared") == 0;
    CHECK(m->n_replicas <= GATEWAY_MAX_REPLICAS);
    int rc = quarantine_new(&m->quarantine, m->gateway->loop, e);
    if (!rc && m->n_replicas > 1) rc = affinity_new(&m->affinity, e);
    for (size_t i = 0; i < m->n_replicas && !rc; i++) {
        struct gateway_replica *r = &m->replicas[i];
        r->model = m;
        r->gpu = gpus->n ? gpus->number[i] : -1;
        snprintf(r->gpu_text, sizeof r->gpu_text, "%d", r->gpu);
        size_t n = (size_t)snprintf(r->name, sizeof r->name, "%s", m->id);
        if (gpus->n) snprintf(r->name + n, sizeof r->name - n, " on GPU %d", r->gpu);
        rc = replica_start(r, e);
    }
    return rc;
}

static unsigned free_number(const struct gateway *g)
{
    uint64_t taken = 0;
    unsigned number = 0;
    _Static_assert((int)GATEWAY_MAX_MODELS <= (int)NAME_MAX_LOCALS && GATEWAY_MAX_MODELS <= 64, "a bit each");
    for (size_t i = 0; i < g->n_models; i++) taken |= (uint64_t)1 << g->models[i]->number;
    while (taken >> number & 1) number++;
    return number;
}

/* What is in force must stay so that it could be read again: no name of a model is an alias's. */
static int check_aliases(const struct gateway *g, const char *id, struct err *e)
{
    for (size_t i = 0; g->hosted && i < g->hosted->n_aliases; i++)
        if (strcmp(g->hosted->aliases[i].name, id) == 0) return err_set_param(e, ERR_INPUT, "name", "'%s' is the name of an alias", id);
    return 0;
}

int gateway_model_add(struct gateway *g, const char *path, const char *id, const char *const *args, size_t n_args,
                      const struct gateway_gpus *gpus, struct gateway_model **out, struct err *e)
{
    int rc = check_name(g, id, e);
    if (!rc) rc = check_aliases(g, id, e);
    if (rc) return rc;
    struct gateway_model *former = gateway_model_find(g, id, strlen(id));
    if (former && former->freeing_posted)
        return err_set_param(e, ERR_BUSY, "name", "two models are called '%s'", id); /* for a moment more */
    if (former) gateway_model_unload(former);
    if (g->n_models == GATEWAY_MAX_MODELS) return err_set(e, ERR_LIMIT, "more than %d models", GATEWAY_MAX_MODELS);
    struct gateway_model *m = calloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "out of memory");
    m->gateway = g;
    m->option = -1;
    m->created_s = clock_wall_s();
    strcpy(m->id, id);
    CHECK(strlen(path) < sizeof m->path);
    strcpy(m->path, path);
    rc = copy_args(m, args, n_args) ? err_set(e, ERR_MEMORY, "out of memory") : model_start(m, gpus, e);
    if (rc) {
        model_free(m);
        return rc;
    }
    m->number = free_number(g);
    g->route.spill[m->number] = (struct route_spill){.on = false};
    pthread_mutex_lock(&g->models_lock);
    g->models[g->n_models++] = m;
    name_model(m);
    pthread_mutex_unlock(&g->models_lock);
    m->opening.running = true;
    m->opening.job.work = open_work;
    m->opening.job.done = open_done;
    pool_submit(g->pool, &m->opening.job);
    *out = m;
    return 0;
}

/* --- unloading --- */

/* Requests that have not even been read yet find their model later: looked at again until none is left. */
static void drain_ended(void *ctx)
{
    struct gateway_model *m = ctx;
    struct err e;
    err_set(&e, ERR_CLOSING, "The model is being unloaded.");
    completion_fail_all(m->gateway, m, &e);
    CHECK(loop_timer_set(m->gateway->loop, &m->drain, loop_now_ms(m->gateway->loop) + DRAIN_LOOK_MS) == 0);
}

bool gateway_model_unload(struct gateway_model *m)
{
    struct gateway *g = m->gateway;
    if (m->state == MODEL_DRAINING) return false;
    bool loading = m->state == MODEL_LOADING;
    log_info("model %s: is being unloaded, %u requests", m->id, m->holders);
    set_state(m, MODEL_DRAINING);
    if (loading) g->model_changed(m);
    m->drain = (struct loop_timer){.fn = drain_ended, .ctx = m};
    if (m->holders) CHECK(loop_timer_set(g->loop, &m->drain, loop_now_ms(g->loop) + g->limits.drain_ms) == 0);
    model_end(m);
    return m->holders == 0;
}

void gateway_models_free(struct gateway *g)
{
    for (size_t i = 0; i < g->n_models; i++) model_free(g->models[i]);
    g->n_models = 0;
}
