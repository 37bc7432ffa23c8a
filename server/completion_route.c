/* Who answers a completion: see completion_route.h. */
#include "server/completion_route.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "server/accounts/money.h"
#include "server/accounts/price_table.h"
#include "server/admission.h"
#include "server/api/errors.h"
#include "server/completion_charge.h"
#include "server/route.h"
#include "server/routing/explain.h"

enum { EXPECTED_TOKENS = 256 /* of an answer, until some were seen */, SMOOTH = 20 };

/* Of a request's list of models. */
struct option {
    struct hosted_model *hosted; /* NULL: a local model */
    const char *local;           /* its id, in the arena: it may go, and its number to another */
    struct hosted_bill *bill;
    bool has_price, tried, cannot, denied;
};

struct completion_routing {
    struct name_wanted wanted;
    struct option options[NAME_MAX_ROUTES];
    struct route_candidate candidates[NAME_MAX_ROUTES];
    struct route_wish wish;
    struct route_decision decision;
    bool has_hosted, wished;
    int chosen;
    struct { /* its place in a queue, while it is about to leave that */
        int chosen;
        const char *text, *reason;
    } before;
};

bool completion_may_spill(const struct gateway *g)
{
    return g->hosted && (g->hosted->n_hosts > 0 || g->hosted->n_aliases > 0);
}

/* --- names --- */

/* None is as long as NAME_MAX_BYTES, and none has a NUL in it. */
static const char *read_name(const json_t *v, const char *param, struct err *e)
{
    const char *name = json_string_value(v);
    size_t n = json_string_length(v);
    if (!name)
        err_set_param(e, ERR_INPUT, param, "'%s' must be a string.", param);
    else if (strlen(name) != n || n == 0 || n > NAME_MAX_BYTES)
        err_set_param(e, ERR_NOT_FOUND, param, "The model '%.*s' does not exist.", (int)utf8_cut(name, 200), name);
    else
        return name;
    return NULL;
}

/* `model`, then `models` as other routers have it. */
static int read_names(struct completion *c, const char *names[NAME_MAX_LIST], size_t *n, struct err *e)
{
    const json_t *model = json_object_get(c->request, "model"), *list = json_object_get(c->request, "models"), *v;
    size_t i;
    *n = 0;
    if (!model && !list) return err_set_param(e, ERR_INPUT, "model", "'model' is missing.");
    if (model && !(names[(*n)++] = read_name(model, "model", e))) return -(int)e->code;
    if (list && !json_is_array(list)) return err_set_param(e, ERR_INPUT, "models", "'models' must be a list of strings.");
    json_array_foreach(list, i, v)
    {
        if (*n == NAME_MAX_LIST) return err_set_param(e, ERR_LIMIT, "models", "'models' has more than %d names.", NAME_MAX_LIST);
        if (!(names[(*n)++] = read_name(v, "models", e))) return -(int)e->code;
    }
    if (*n == 0) return err_set_param(e, ERR_INPUT, "models", "'models' is empty.");
    c->model_name = arena_copy(&c->arena, names[0], strlen(names[0]));
    return c->model_name ? 0 : err_set(e, ERR_MEMORY, "out of memory");
}

/* The first local one that is ready reads the prompt. Its state is looked at under the lock, by its name. */
static int hold_local(struct completion *c, struct err *e)
{
    struct completion_routing *r = c->routing;
    int rc = -ERR_NOT_FOUND;
    for (size_t i = 0; i < r->wanted.n && rc; i++) {
        if (!r->options[i].local) continue;
        rc = gateway_model_hold(c->gateway, r->options[i].local, strlen(r->options[i].local), &c->model, e);
    }
    if (!rc) c->max_context = c->model->max_context;
    return rc && !r->has_hosted ? rc : 0;
}

int completion_route_read(struct completion *c, struct err *e)
{
    struct gateway *g = c->gateway;
    const char *names[NAME_MAX_LIST];
    size_t n;
    struct completion_routing *r = c->routing = arena_alloc(&c->arena, sizeof *r);
    if (!r) return err_set(e, ERR_MEMORY, "out of memory");
    r->chosen = r->before.chosen = -1;
    int rc = read_names(c, names, &n, e);
    if (!rc) rc = gateway_names(g, names, n, c->has_policy ? &c->policy : NULL, &r->wanted, &c->hosts, e);
    if (rc && n == 1 && json_object_get(c->request, "model")) snprintf(e->param, sizeof e->param, "model");
    if (rc) return rc;
    json_object_del(c->request, "models"); /* ours, and nobody else's: the names are not needed any more */
    for (size_t i = 0; i < r->wanted.n; i++) {
        const struct name_route *route = &r->wanted.routes[i];
        struct option *o = &r->options[i];
        if (route->kind == NAME_HOSTED) {
            o->hosted = &c->hosts->models[route->index];
            r->has_hosted = true;
            continue;
        }
        pthread_mutex_lock(&g->models_lock);
        const char *id = g->locals[route->index].name;
        o->local = id ? arena_copy(&c->arena, id, strlen(id)) : "";
        pthread_mutex_unlock(&g->models_lock);
        if (!o->local) return err_set(e, ERR_MEMORY, "out of memory");
    }
    return hold_local(c, e);
}

bool completion_route_is_plain(const struct completion *c)
{
    return c->routing->wanted.n == 1 && !c->routing->has_hosted;
}

bool completion_route_has_hosted(const struct completion *c)
{
    return c->routing->has_hosted;
}

bool completion_route_wants_data(const struct completion *c)
{
    for (size_t i = 0; i < c->routing->wanted.n; i++) {
        const struct hosted_model *m = c->routing->options[i].hosted;
        if (m && (m->host->host.row->capabilities & (CAP_IMAGE_DATA | CAP_IMAGE_URL)) == CAP_IMAGE_DATA) return true;
    }
    return false;
}

struct hosted_model *completion_route_only(const struct completion *c)
{
    return c->routing->wanted.n == 1 ? c->routing->options[0].hosted : NULL;
}

const struct hosted_bill *completion_route_bill(const struct completion *c)
{
    return c->routing->options[0].bill;
}

static int64_t asked_tokens(const struct completion *c)
{
    int64_t asked = c->params.max_completion_tokens ? c->params.max_completion_tokens : c->params.max_tokens;
    return asked ? asked : c->default_max_tokens;
}

int completion_route_price(struct completion *c, struct err *e)
{
    struct completion_routing *r = c->routing;
    const int64_t asked = asked_tokens(c);
    for (size_t i = 0; i < r->wanted.n; i++) {
        struct option *o = &r->options[i];
        struct err why;
        if (!o->hosted) continue;
        const struct price *p = o->hosted->price;
        struct tariff t;
        completion_tariff(c, o->hosted, &t);
        o->bill = arena_alloc(&c->arena, sizeof *o->bill);
        if (!o->bill) return err_set(e, ERR_MEMORY, "out of memory");
        o->has_price =
            hosted_bill_init(o->bill, o->hosted, &t, c->request, p->max_output && asked > p->max_output ? p->max_output : asked, c->params.n, &why) == 0;
        if (!o->has_price && r->wanted.n == 1) {
            *e = why;
            return -(int)e->code;
        }
    }
    return 0;
}

/* --- figures of candidates --- */

/* A worker of another model than the one that has read the prompt: it is counted by the same number of tokens. */
static const struct gateway_replica *least_loaded(const struct gateway_model *m)
{
    const struct gateway_replica *best = NULL;
    for (size_t i = 0; i < m->n_replicas; i++) {
        const struct gateway_replica *r = &m->replicas[i];
        if (!r->worker || !worker_is_ready(r->worker)) continue;
        if (!best || admission_load_ms(r) < admission_load_ms(best)) best = r;
    }
    return best;
}

static int64_t prompt_tokens(const struct completion *c)
{
    const struct completion_routing *r = c->routing;
    if (c->model && !c->local_cannot.code) return (int64_t)c->prompt.n_ids;
    for (size_t i = 0; i < r->wanted.n; i++)
        if (r->options[i].bill) return r->options[i].bill->prompt_estimate;
    return 0;
}

/* What its own place in the queue means: those that came after it do not stand before it. */
static int64_t own_wait_ms(const struct completion *c, const struct gateway_replica *r)
{
    double ms = admission_load_ms(r) - admission_prompt_ms(r, admission_tokens_since(r, c->queued_at));
    return ms > 0 ? (int64_t)ms : 0;
}

static uint32_t abilities(const struct hosted_model *m)
{
    static const struct {
        uint32_t cap, can;
    } rows[] = {{CAP_IMAGE_DATA, ROUTE_CAN_VISION}, {CAP_TOOLS, ROUTE_CAN_TOOLS},         {CAP_JSON_SCHEMA, ROUTE_CAN_SCHEMA},
                {CAP_LOGPROBS, ROUTE_CAN_LOGPROBS}, {CAP_CHOICES, ROUTE_CAN_N},           {CAP_REASONING, ROUTE_CAN_REASONING},
                {CAP_SEED, ROUTE_CAN_SEED},         {CAP_PROMPT_CACHE, ROUTE_CAN_CACHE}};
    uint32_t can = 0, caps = m->host->host.row->capabilities;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (caps & rows[i].cap) can |= rows[i].can;
    if (!(m->price->can & PRICE_CAN_IMAGE)) can &= ~(uint32_t)ROUTE_CAN_VISION;
    return can;
}

static int64_t expected_tokens(const struct completion *c, int64_t max_tokens)
{
    const double seen = c->gateway->answer_tokens;
    const int64_t n = seen > 0 ? (int64_t)seen + 1 : EXPECTED_TOKENS;
    return n < max_tokens ? n : max_tokens;
}

/* cached: the prompt is in its cache. */
static int64_t expected_cost(const struct completion *c, const struct tariff *t, int64_t max_tokens, int64_t hold_nusd, bool cached)
{
    struct usage u = {.source = USAGE_ESTIMATED};
    struct err ignored;
    int64_t nusd;
    usage_set(&u, cached ? USAGE_IN_CACHE_READ : USAGE_IN_UNCACHED, prompt_tokens(c));
    usage_set(&u, USAGE_OUT_TEXT, expected_tokens(c, max_tokens) * c->params.n);
    return tariff_sale(t, &u, PRICE_STANDARD, &nusd, &ignored) ? hold_nusd : nusd;
}

static void add_money(const struct completion *c, const struct tariff *t, int64_t max_tokens, struct route_candidate *out)
{
    tariff_rates(t, &out->in_nusd, &out->out_nusd);
    out->cost_nusd = expected_cost(c, t, max_tokens, out->hold_nusd, false);
    out->cost_cached_nusd = expected_cost(c, t, max_tokens, out->hold_nusd, true);
}

/* The most that it can cost, of which less is held at first (completion_hold.h). */
static void add_local_money(const struct completion *c, const struct gateway_model *m, struct route_candidate *out)
{
    const struct tariff_price own = {.price = &tariff_free, .id = m->free_price};
    const int64_t most = c->max_tokens ? c->max_tokens : asked_tokens(c);
    struct tariff t;
    struct err ignored;
    tariff_of(&t, c->tariffs, PRICE_LOCAL, m->id, &own, c->model_name);
    out->has_price = completion_hold_bound(&t, prompt_tokens(c), most * c->params.n, &out->hold_nusd, &ignored) == 0;
    if (out->has_price) add_money(c, &t, most, out);
}

static void add_local(struct completion *c, size_t i, bool waits_there)
{
    const struct completion_routing *r = c->routing;
    struct gateway *g = c->gateway;
    struct err ignored;
    int ignored_s;
    const struct option *o = &r->options[i];
    struct route_candidate *out = &c->routing->candidates[i];
    struct gateway_model *m = gateway_model_at(g, r->wanted.routes[i].index, o->local);
    const int64_t n = prompt_tokens(c) * c->params.n, left_ms = c->deadline_ms - loop_now_ms(g->loop);
    *out = (struct route_candidate){.want = r->wanted.routes[i],
                                    .host = "local",
                                    .model = o->local,
                                    .can = ~0u, /* what it cannot do was seen when it was read */
                                    .context = INT64_MAX / 2,
                                    .zero_retention = true,
                                    .has_price = true,
                                    .tried = o->tried,
                                    .model_denied = o->denied,
                                    .breaker = BREAKER_NO,
                                    .local = ROUTE_LOCAL_DOWN,
                                    .target_ms = g->limits.first_token_ms};
    if (!m || m->state != MODEL_READY) return;
    add_local_money(c, m, out);
    if (m == c->model && c->local_cannot.code == ERR_CONTEXT) out->context = 0;
    out->cannot = o->cannot || (m == c->model && c->local_cannot.code && c->local_cannot.code != ERR_CONTEXT);
    const struct gateway_replica *w = waits_there ? c->replica : least_loaded(m);
    if (m == c->model && !c->admitted_ms && !c->local_cannot.code) w = c->replica = route_choose(c); /* else it is among that one's sequences */
    if (!w) return;
    const bool ready = worker_is_ready(w->worker);
    out->context = out->context ? (int64_t)m->max_context : 0;
    out->local = ready ? ROUTE_LOCAL_READY : ROUTE_LOCAL_DOWN;
    out->full = admission_check_prompt(w, n, c->params.n, left_ms, &ignored_s, &ignored) != 0;
    out->free_now = ready && !out->full && w->queue.prompts == 0 && worker_prediction(w->worker)->waiting == 0;
    out->load_ms = (int64_t)admission_load_ms(w);
    out->wait_ms = waits_there ? own_wait_ms(c, w) : out->load_ms;
    out->prompt_ms = (int64_t)admission_prompt_ms(w, n);
}

static void add_hosted(struct completion *c, size_t i)
{
    const struct completion_routing *r = c->routing;
    const struct gateway *g = c->gateway;
    const struct option *o = &r->options[i];
    struct hosted_model *m = o->hosted;
    struct hosted_host *h = m->host;
    const struct price *p = m->price;
    const int64_t now_ms = loop_now_ms(g->loop);
    int64_t wait_ms = 0;
    struct route_candidate *out = &c->routing->candidates[i];
    *out = (struct route_candidate){.want = r->wanted.routes[i],
                                    .host = h->host.name,
                                    .model = p->model,
                                    .i_host = (unsigned)(h - c->hosts->hosts),
                                    .region = h->region,
                                    .region_name = c->hosts->regions[h->region],
                                    .can = abilities(m),
                                    .cannot = o->cannot,
                                    .tried = o->tried,
                                    .model_denied = o->denied,
                                    .context = p->context && !completion_route_only(c) ? p->context : INT64_MAX / 2,
                                    .max_output = p->max_output,
                                    .zero_retention = h->zero_retention,
                                    .has_price = o->has_price,
                                    .hold_nusd = o->bill->hold_nusd,
                                    .breaker = breaker_verdict(&m->breaker, now_ms),
                                    .breaker_wait_ms = breaker_wait_ms(&m->breaker, now_ms),
                                    .has_key = host_keys_pick(&h->keys, c->session, now_ms, &wait_ms) >= 0,
                                    .retry_allowed = retry_allowed(&h->retries, now_ms),
                                    .speed = speed_now(&m->speed, now_ms)};
    out->key_wait_ms = wait_ms;
    if (o->has_price) add_money(c, &o->bill->tariff, o->bill->max_tokens, out);
}

/* waits_in: the local model in whose queue it is; -1: none. */
static void add_all(struct completion *c, int waits_in)
{
    for (size_t i = 0; i < c->routing->wanted.n; i++) {
        if (c->routing->options[i].hosted)
            add_hosted(c, i);
        else
            add_local(c, i, waits_in == (int)i);
    }
}

/* --- what the request, its key and its account want --- */

static bool has_image(const json_t *messages)
{
    size_t i, k;
    const json_t *message, *part;
    json_array_foreach(messages, i, message) json_array_foreach(json_object_get(message, "content"), k, part) if (json_object_get(part, "image_url"))
        return true;
    return false;
}

static uint32_t needs(const struct completion *c)
{
    const json_t *r = c->request, *tools = json_object_get(r, "tools"), *format = json_object_get(r, "response_format");
    const char *type = json_string_value(json_object_get(format, "type"));
    const json_t *effort = json_object_get(r, "reasoning_effort"), *seed = json_object_get(r, "seed");
    uint32_t need = 0;
    if (completion_route_only(c)) return 0; /* what it cannot take its wire says in better words */
    if (c->n_pictures || has_image(json_object_get(r, "messages"))) need |= ROUTE_CAN_VISION;
    if (json_array_size(tools)) need |= ROUTE_CAN_TOOLS;
    if (type && strcmp(type, "json_schema") == 0) need |= ROUTE_CAN_SCHEMA;
    if (json_is_true(json_object_get(r, "logprobs"))) need |= ROUTE_CAN_LOGPROBS;
    if (c->params.n > 1) need |= ROUTE_CAN_N;
    if (effort && !json_is_null(effort)) need |= ROUTE_CAN_REASONING;
    if (seed && !json_is_null(seed)) need |= ROUTE_CAN_SEED;
    return need;
}

static uint64_t session_of(const struct completion *c)
{
    const char *const members[] = {"prompt_cache_key", "user"};
    const char *text = NULL;
    for (size_t i = 0; i < sizeof members / sizeof members[0] && !text; i++) text = json_string_value(json_object_get(c->request, members[i]));
    if (!text) text = http_header(c->http, "x-spillway-session");
    return text && c->gateway->sticky ? sticky_key(c->gateway->sticky, c->account, text, strlen(text)) : 0;
}

static bool header_is_on(const struct completion *c, const char *name)
{
    const char *v = http_header(c->http, name);
    return v && strcmp(v, "false") != 0 && strcmp(v, "0") != 0;
}

static struct account_rules rules_of(const struct completion *c)
{
    const struct gateway *g = c->gateway;
    struct account_rules r = {.policy = NULL};
    if (g->accounts && c->account) accounts_key_rules(g->accounts, c->account, &r);
    return r;
}

void completion_route_begin(struct completion *c)
{
    const char *policy = rules_of(c).policy;
    for (int i = 0; policy && i < ROUTE_POLICIES; i++) {
        if (strcmp(route_policy_names[i], policy) != 0) continue;
        c->policy = (enum route_policy)i;
        c->has_policy = true;
    }
}

static uint64_t hosts_in(const struct hosted *h, const char *const lists[RULES_LEVELS])
{
    uint64_t bits = 0;
    for (size_t i = 0; h && i < h->n_hosts; i++)
        if (rules_allow(lists, h->hosts[i].host.name)) bits |= (uint64_t)1 << i;
    return bits;
}

/* Bit 0: a region that is not known. */
static uint64_t regions_in(const struct hosted *h, const char *const lists[RULES_LEVELS])
{
    uint64_t bits = 0;
    for (size_t i = 0; i <= (h ? h->n_regions : 0); i++)
        if (rules_allow(lists, h ? h->regions[i] : NULL)) bits |= (uint64_t)1 << i;
    return bits;
}

static void take_price(struct route_price_cap *to, const struct rules_price *p)
{
    *to = (struct route_price_cap){.in_nusd = p->in_nusd, .out_nusd = p->out_nusd, .request_nusd = p->request_nusd};
}

static void take_overflow(const struct completion *c, const struct account_rules *r, enum rules_level level, struct overflow_who *to)
{
    const struct rules_overflow *o = &r->overflow[level];
    const char *const providers[RULES_LEVELS] = {o->providers}, *const regions[RULES_LEVELS] = {o->regions};
    to->id = r->account[level];
    to->limits = (struct overflow_limits){.hour_nusd = o->hour_nusd,
                                          .share_permille = o->share_permille,
                                          .hosts = hosts_in(c->hosts, providers),
                                          .regions = regions_in(c->hosts, regions)};
    take_price(&to->limits.price, &o->price);
}

/* The account's model names are as its requests would say them: a local one's, or host/model. */
static void deny_models(struct completion *c, const struct account_rules *r)
{
    char name[EXPLAIN_NAME_BYTES];
    for (size_t i = 0; i < c->routing->wanted.n; i++) {
        struct option *o = &c->routing->options[i];
        if (o->hosted) snprintf(name, sizeof name, "%s/%s", o->hosted->host->host.name, o->hosted->price->model);
        o->denied = !rules_allow(r->models, o->hosted ? name : o->local);
    }
}

/* What is allowed to it, from above and by itself. */
static int restrict_wish(struct completion *c, struct err *e)
{
    static const struct overflow_limits none_of_its_own = {
        .hour_nusd = INT64_MAX, .share_permille = OVERFLOW_ALL_PERMILLE, .hosts = ~(uint64_t)0, .regions = ~(uint64_t)0};
    struct route_wish *w = &c->routing->wish;
    const struct account_rules r = rules_of(c);
    const char *most = http_header(c->http, "x-spillway-max-cost-usd");
    int64_t nusd;
    w->local_only = header_is_on(c, "x-spillway-local-only");
    w->zero_retention = header_is_on(c, "x-spillway-zero-retention");
    w->key = w->project = (struct overflow_who){.limits = none_of_its_own};
    if (c->gateway->accounts && c->account) {
        w->local_only |= r.local_only;
        w->zero_retention |= r.zero_retention;
        w->hosts = hosts_in(c->hosts, r.providers);
        w->regions = regions_in(c->hosts, r.regions);
        take_price(&w->price, &r.price);
        take_overflow(c, &r, RULES_KEY, &w->key);
        take_overflow(c, &r, RULES_PROJECT, &w->project);
        deny_models(c, &r);
    }
    if (!most) return 0;
    if (!money_parse(most, &nusd) || nusd <= 0)
        return err_set_param(e, ERR_INPUT, "x-spillway-max-cost-usd", "x-spillway-max-cost-usd must be an amount of dollars such as 0.02.");
    if (!w->price.request_nusd || nusd < w->price.request_nusd) w->price.request_nusd = nusd;
    return 0;
}

static int make_wish(struct completion *c, struct err *e)
{
    struct completion_routing *r = c->routing;
    struct route_wish *w = &r->wish;
    const int64_t now_ms = loop_now_ms(c->gateway->loop);
    int rc = 0;
    if (!r->wished) {
        route_wish_init(w);
        c->session = session_of(c);
        w->needs = needs(c);
        w->min_tokens = c->params.min_tokens;
        w->expected_tokens = expected_tokens(c, INT64_MAX);
        randombytes_buf(&w->draw, sizeof w->draw);
        w->sticky = c->session && c->hosts == c->gateway->hosted ? sticky_find(c->gateway->sticky, c->session, now_ms) : -1;
        rc = restrict_wish(c, e);
        r->wished = true;
    }
    w->prompt_tokens = completion_route_only(c) ? 0 : prompt_tokens(c);
    w->left_ms = c->deadline_ms - now_ms;
    w->hour = clock_wall_s() / 3600;
    return rc;
}

/* --- decisions --- */

static struct completion_choice choice_of(const struct completion *c, size_t i)
{
    const struct option *o = &c->routing->options[i];
    struct completion_choice x = {.hosted = o->hosted, .bill = o->bill};
    if (!o->hosted) x.local = gateway_model_at(c->gateway, c->routing->wanted.routes[i].index, o->local);
    x.supplier = o->hosted ? o->hosted->host->supplier : x.local->supplier;
    return x;
}

static void take_choice(struct completion *c, struct completion_choice *out)
{
    struct completion_routing *r = c->routing;
    const struct route_decision *d = &r->decision;
    const struct option *o = &r->options[d->chosen];
    char text[EXPLAIN_HEADER_BYTES];
    explain_header(r->candidates, r->wanted.n, d, text);
    c->route_text = arena_copy(&c->arena, text, strlen(text)); /* NULL without memory: it is not told */
    c->route_reason = route_reasons[d->reason].name;
    r->chosen = d->chosen;
    if (d->probe && !c->dry) speed_probed(&o->hosted->speed, loop_now_ms(c->gateway->loop));
    *out = choice_of(c, (size_t)d->chosen);
}

/* What was wrong with the local model's reading says more than that it cannot. */
static void refusal(const struct completion *c, struct err *e)
{
    const struct route_decision *d = &c->routing->decision;
    *e = d->err;
    if ((d->reason == ROUTE_CAPABILITY || d->reason == ROUTE_CONTEXT) && c->local_cannot.code) *e = c->local_cannot;
}

static int decide(struct completion *c, struct completion_choice *out, struct err *e)
{
    struct completion_routing *r = c->routing;
    struct route_state *s = &c->gateway->route;
    int rc = make_wish(c, e);
    if (rc) return rc;
    add_all(c, -1);
    rc = route_decide(r->candidates, r->wanted.n, &r->wish, s, &r->decision);
    if (c->dry) {
        if (!rc) take_choice(c, out);
        return 0;
    }
    route_commit(s, r->candidates, r->wanted.n, &r->wish, &r->decision, &c->overflow);
    r->wish.counted = true;
    if (rc) {
        c->retry_after_s = r->decision.retry_after_s;
        refusal(c, e);
        return -(int)e->code;
    }
    take_choice(c, out);
    return 0;
}

/* Where there is nothing to decide the caps on prices hold all the same. */
static int check_price(struct completion *c, struct err *e)
{
    struct route_candidate local = {.in_nusd = 0};
    const struct route_price_cap *cap = &c->routing->wish.price;
    add_local_money(c, c->model, &local);
    int rc = local.hold_nusd ? make_wish(c, e) : 0;
    if (rc || !local.hold_nusd) return rc;
    bool above = (cap->in_nusd && local.in_nusd > cap->in_nusd) || (cap->out_nusd && local.out_nusd > cap->out_nusd) ||
                 (cap->request_nusd && local.hold_nusd > cap->request_nusd);
    return above ? err_set_param(e, ERR_BUDGET, "model", "The model '%s' is above this request's cap on prices.", c->model->id) : 0;
}

int completion_route(struct completion *c, struct completion_choice *out, struct err *e)
{
    *out = (struct completion_choice){.local = c->model, .supplier = c->model ? c->model->supplier : 0};
    if (completion_route_is_plain(c) && !c->dry) {
        const struct account_rules rules = rules_of(c);
        return rules_allow(rules.models, c->model->id) ? check_price(c, e) : err_set_param(e, ERR_DENIED, "model", "The model '%s' is not among those that this key may use.", c->model->id);
    }
    int rc = decide(c, out, e);
    if (!rc && !c->decided_ms) c->decided_ms = loop_now_ms(c->gateway->loop);
    return rc;
}

/* Somebody else, or the error that there is already. */
static int decide_else(struct completion *c, struct completion_choice *out, const struct err *e)
{
    struct err ignored;
    const int retry_after_s = c->retry_after_s;
    const char *text = c->route_text, *reason = c->route_reason;
    if (decide(c, out, &ignored) == 0) return 0;
    c->retry_after_s = retry_after_s;
    c->route_text = text;
    c->route_reason = reason;
    return -(int)e->code;
}

void completion_route_undo(struct completion *c)
{
    struct completion_routing *r = c->routing;
    if (r->before.chosen >= 0) {
        r->chosen = r->before.chosen;
        c->route_text = r->before.text;
        c->route_reason = r->before.reason;
    }
    r->before.chosen = -1;
    if (c->overflow.open) overflow_settle(c->gateway->route.overflow, &c->overflow, 0, false, 0);
}

void completion_route_moved(struct completion *c)
{
    c->routing->before.chosen = -1;
}

int completion_route_cannot(struct completion *c, struct completion_choice *out, const struct err *e)
{
    completion_route_undo(c);
    c->routing->options[c->routing->chosen].cannot = true;
    return decide_else(c, out, e);
}

/* Whoever may cost as much is not covered either. */
int completion_route_refused(struct completion *c, struct completion_choice *out, const struct err *e)
{
    struct completion_routing *r = c->routing;
    const int64_t hold_nusd = c->chosen.bill->hold_nusd;
    completion_route_undo(c);
    if (e->code != ERR_BUDGET && e->code != ERR_HELD && e->code != ERR_RATE) return -(int)e->code;
    if (hold_nusd == 0) r->options[r->chosen].tried = true;
    r->wish.hosted_left_nusd = hold_nusd - 1;
    if (e->code == ERR_BUDGET) r->wish.hosted_unheld_nusd = hold_nusd - 1;
    return decide_else(c, out, e);
}

/* The same model under another name, too. */
static void mark_tried(struct completion_routing *r, const struct option *which, bool tried)
{
    for (size_t i = 0; i < r->wanted.n; i++) {
        struct option *o = &r->options[i];
        if (which->hosted ? o->hosted == which->hosted : o == which) o->tried = tried;
    }
}

static bool has_other(const struct completion_routing *r, const struct option *which)
{
    for (size_t i = 0; i < r->wanted.n; i++) {
        const struct option *o = &r->options[i];
        if (o->tried || o->cannot || o == which || (which->hosted && o->hosted == which->hosted)) continue;
        return true;
    }
    return false;
}

/* What the failed attempt came to stays its own. */
static bool begin_bill(struct completion *c, struct option *o)
{
    struct hosted_bill *b = arena_alloc(&c->arena, sizeof *b);
    if (b) hosted_bill_again(b, o->bill);
    if (b) o->bill = b;
    return b != NULL;
}

/* Somebody else than o; false: nobody. may_wait: then o keeps its place, and what it holds as overflow. */
static bool decide_other(struct completion *c, struct option *o, bool may_wait, struct completion_choice *out)
{
    struct completion_routing *r = c->routing;
    struct err ignored = {.code = ERR_PROVIDER};
    struct overflow_ticket kept = c->overflow;
    mark_tried(r, o, true);
    c->overflow.open = false;
    if (!may_wait) overflow_settle(c->gateway->route.overflow, &kept, 0, false, 0);
    if (decide_else(c, out, &ignored)) {
        mark_tried(r, o, !may_wait);
        c->overflow = kept;
        return false;
    }
    overflow_settle(c->gateway->route.overflow, &kept, 0, false, 0);
    if (out->hosted) retry_take(&out->hosted->host->retries, loop_now_ms(c->gateway->loop));
    return true;
}

enum retry_action completion_route_failed(struct completion *c, enum fault fault, int64_t hint_ms, struct completion_choice *out)
{
    struct completion_routing *r = c->routing;
    if (r->chosen < 0) return RETRY_NO; /* nobody was chosen among several */
    struct option *o = &r->options[r->chosen];
    const int64_t now_ms = loop_now_ms(c->gateway->loop);
    int64_t wait_ms;
    struct hosted_host *h = o->hosted ? o->hosted->host : NULL;
    r->wish.attempts++;
    r->before.chosen = -1;
    struct retry_case rc = {.fault = fault,
                            .attempts = r->wish.attempts,
                            .hint_ms = hint_ms,
                            .left_ms = c->deadline_ms - now_ms,
                            .first_ms = o->hosted ? speed_now(&o->hosted->speed, now_ms).first_ms : 0,
                            .has_other_key = h && h->keys.n > 1 && host_keys_pick(&h->keys, c->session, now_ms, &wait_ms) >= 0,
                            .has_other_host = has_other(r, o),
                            .budget = h && retry_allowed(&h->retries, now_ms)};
    enum retry_action action = retry_next(&rc);
    if (action == RETRY_OTHER_HOST) {
        rc.has_other_host = false;
        const enum retry_action else_action = retry_next(&rc);
        if (decide_other(c, o, else_action == RETRY_WAIT, out)) return action;
        action = else_action;
    }
    if (action == RETRY_NO || !begin_bill(c, o)) return RETRY_NO;
    *out = choice_of(c, (size_t)r->chosen);
    retry_take(&h->retries, now_ms);
    return action;
}

bool completion_route_again(struct completion *c, struct completion_choice *out)
{
    struct completion_routing *r = c->routing;
    struct route_state *s = &c->gateway->route;
    struct err ignored;
    if (r->chosen < 0 || c->overflow.open) return false;
    if (make_wish(c, &ignored)) return false;
    add_all(c, r->chosen);
    route_again(r->candidates, r->wanted.n, &r->wish, s, (size_t)r->chosen, &r->decision);
    if (r->decision.action != ROUTE_RUN || !r->options[r->decision.chosen].hosted) return false;
    route_commit(s, r->candidates, r->wanted.n, &r->wish, &r->decision, &c->overflow);
    r->before.chosen = r->chosen;
    r->before.text = c->route_text;
    r->before.reason = c->route_reason;
    take_choice(c, out);
    return true;
}

/* --- ends --- */

void completion_route_ended(struct completion *c, int64_t cost_nusd, bool whole)
{
    int64_t first_ms = c->first_token_ms > c->decided_ms ? c->first_token_ms - c->decided_ms : 0;
    double *mean = &c->gateway->answer_tokens, n = (double)c->usage.completion_tokens;
    if (c->overflow.open) overflow_settle(c->gateway->route.overflow, &c->overflow, cost_nusd, whole, first_ms);
    if (whole && n > 0) *mean = *mean > 0 ? *mean + (n - *mean) / SMOOTH : n;
}

void completion_route_stick(struct completion *c)
{
    if (c->session && c->hosted && c->hosts == c->gateway->hosted)
        sticky_note(c->gateway->sticky, c->session, (int)(c->hosted - c->hosts->models), loop_now_ms(c->gateway->loop));
}

int completion_route_explain(const struct completion *c, struct buf *b)
{
    const struct completion_routing *r = c->routing;
    return explain_json(b, r->candidates, r->wanted.n, &r->wish, &r->decision);
}
