/* A small world for the tests of routing: three local models, three hosts, two aliases, and tweaks written as words.
 *
 *     smol       local, 2,048 tokens of context, no pictures; groq/llama stands in, then together/llama
 *     vlm        local, 8,192 tokens, pictures, nothing stands in
 *     Qwen/Qwen3 local by that name and public name; openai/gpt stands in for it groq/llama (US), together/llama (EU, retains nothing),
 *     openai/gpt (US, pictures, prompt caching; smol takes over when its budget ends) groq/qwen, together/qwen: both publicly Qwen/Qwen3
 *     chat       alias: smol, then groq/llama with weight 3 or together/llama with weight 1 split      alias, weighted: groq/llama 3,
 *     together/llama 1 big        alias: openai/gpt, then smol
 *
 * All is well at first: locals are free, hosts healthy, overflow has $1 an hour everywhere. A tweak is NAME.FIELD=VALUE for a candidate,
 * FIELD=VALUE for the request; a flag needs no value. */
#ifndef SPILLWAY_TESTS_ROUTING_WORLD_H
#define SPILLWAY_TESTS_ROUTING_WORLD_H

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "server/routing/decide.h"
#include "server/routing/explain.h"

enum { SMOL, VLM, QWEN };
enum { GROQ_LLAMA, TOGETHER_LLAMA, OPENAI_GPT, GROQ_QWEN, TOGETHER_QWEN };
enum { WORLD_HOUR = 480000 };
#define WORLD_DOLLAR 1000000000

static const char *const world_hosts[] = {"groq", "together", "openai"};
static const struct name_hosted world_hosted[] = {
    {0, "llama", NULL, -1},        {1, "llama", NULL, -1},        {2, "gpt", "openai/gpt-public", SMOL},
    {0, "qwen", "Qwen/Qwen3", -1}, {1, "qwen", "Qwen/Qwen3", -1},
};
static const struct name_stand_in smol_stand_ins[] = {{GROQ_LLAMA, 0, 1}, {TOGETHER_LLAMA, 1, 1}};
static const struct name_stand_in qwen_stand_ins[] = {{OPENAI_GPT, 0, 1}};
static const struct name_local world_locals[] = {
    {"smol", NULL, smol_stand_ins, 2}, {"vlm", NULL, NULL, 0}, {"Qwen/Qwen3", "Qwen/Qwen3", qwen_stand_ins, 1}};
static const struct name_alias_route chat_routes[] = {{"smol", 0, 1}, {"groq/llama", 1, 3}, {"together/llama", 1, 1}};
static const struct name_alias_route split_routes[] = {{"groq/llama", 0, 3}, {"together/llama", 0, 1}};
static const struct name_alias_route big_routes[] = {{"openai/gpt", 0, 1}, {"smol:local", 1, 1}};
static const struct name_alias world_aliases[] = {
    {"chat", chat_routes, 3, ROUTE_PRIORITY}, {"split", split_routes, 2, ROUTE_WEIGHTED}, {"big", big_routes, 2, ROUTE_PRIORITY}};
static const struct name_catalogue world_catalogue = {.locals = world_locals,
                                                      .n_locals = 3,
                                                      .hosts = world_hosts,
                                                      .n_hosts = 3,
                                                      .hosted = world_hosted,
                                                      .n_hosted = 5,
                                                      .aliases = world_aliases,
                                                      .n_aliases = 3};

enum { TEXT_CAN = ROUTE_CAN_TOOLS | ROUTE_CAN_SCHEMA | ROUTE_CAN_LOGPROBS | ROUTE_CAN_N | ROUTE_CAN_SEED };

/* What each model is when all is well. */
static const struct world_model {
    const char *name; /* in tweaks */
    enum name_kind kind;
    int index;
    uint32_t can;
    int64_t context;
    unsigned region;
    bool zero_retention;
    int64_t in_nusd, out_nusd, hold_nusd, cost_nusd, cached_nusd;
    int64_t first_ms, token_us;
} world_models[] = {
    {"smol", NAME_LOCAL, SMOL, TEXT_CAN, 2048, 0, false, 0, 0, 0, 0, 0, 0, 4000},
    {"vlm", NAME_LOCAL, VLM, TEXT_CAN | ROUTE_CAN_VISION, 8192, 0, false, 0, 0, 0, 0, 0, 0, 8000},
    {"qwen3", NAME_LOCAL, QWEN, TEXT_CAN, 4096, 0, false, 0, 0, 0, 0, 0, 0, 6000},
    {"groq", NAME_HOSTED, GROQ_LLAMA, ROUTE_CAN_TOOLS | ROUTE_CAN_SCHEMA, 8192, 1, false, 50000000, 80000000, 100000, 60000, 60000, 200,
     2000},
    {"together", NAME_HOSTED, TOGETHER_LLAMA, TEXT_CAN, 131072, 2, true, 150000000, 200000000, 300000, 180000, 180000, 400, 5000},
    {"gpt", NAME_HOSTED, OPENAI_GPT, TEXT_CAN | ROUTE_CAN_VISION | ROUTE_CAN_CACHE | ROUTE_CAN_REASONING, 400000, 1, false, 250000000,
     2000000000, 900000, 500000, 300000, 600, 10000},
    {"groq-qwen", NAME_HOSTED, GROQ_QWEN, TEXT_CAN | ROUTE_CAN_CACHE, 32768, 1, false, 290000000, 590000000, 200000, 150000, 70000, 250,
     2500},
    {"together-qwen", NAME_HOSTED, TOGETHER_QWEN, TEXT_CAN, 32768, 2, true, 200000000, 600000000, 160000, 90000, 90000, 500, 6000},
};
enum { N_WORLD_MODELS = sizeof world_models / sizeof *world_models };

struct world {
    struct name_wanted wanted;
    struct route_candidate c[NAME_MAX_ROUTES];
    size_t n;
    struct route_wish w;
    struct route_state s;
    struct overflow_limits all;
    int at; /* route_again: in this candidate's queue; -1: it has just come */
};

static const struct overflow_limits world_dollar = {
    .hour_nusd = WORLD_DOLLAR, .share_permille = OVERFLOW_ALL_PERMILLE, .hosts = ~(uint64_t)0, .regions = ~(uint64_t)0};

static void world_candidate(struct route_candidate *c, const struct name_route *r)
{
    route_candidate_init(c, &world_catalogue, r);
    for (size_t i = 0; i < N_WORLD_MODELS; i++) {
        const struct world_model *m = &world_models[i];
        if (m->kind != r->kind || m->index != r->index) continue;
        c->can = m->can;
        c->context = m->context;
        c->region = m->region;
        c->zero_retention = m->zero_retention;
        c->has_price = true;
        c->in_nusd = m->in_nusd;
        c->out_nusd = m->out_nusd;
        c->hold_nusd = m->hold_nusd;
        c->cost_nusd = m->cost_nusd;
        c->cost_cached_nusd = m->cached_nusd;
        c->speed = (struct speed_now){.first_ms = m->first_ms, .token_us = m->token_us, .age_ms = 1000};
    }
    c->has_key = c->retry_allowed = true;
    c->breaker = BREAKER_GO;
    c->local = ROUTE_LOCAL_READY;
    c->free_now = true;
    c->prompt_ms = c->load_ms = 100;
    c->target_ms = 1000;
}

/* models: names with blanks between them. */
static void world_init(struct world *x, const char *models)
{
    char copy[256];
    const char *names[NAME_MAX_LIST];
    size_t n = 0;
    struct err e = {0};
    *x = (struct world){.all = world_dollar, .at = -1};
    snprintf(copy, sizeof copy, "%s", models);
    for (char *p = strtok(copy, " "); p; p = strtok(NULL, " ")) names[n++] = p;
    if (name_parse_list(&world_catalogue, names, n, &x->wanted, &e)) fail_msg("%s: %s", models, e.msg);
    x->n = x->wanted.n;
    for (size_t i = 0; i < x->n; i++) world_candidate(&x->c[i], &x->wanted.routes[i]);
    route_wish_init(&x->w);
    x->w.prompt_tokens = 500;
    x->w.expected_tokens = 100;
    x->w.left_ms = 30000;
    x->w.draw = 1; /* no probe, and the usual draw */
    x->w.key = (struct overflow_who){.id = 7, .limits = world_dollar};
    x->w.project = (struct overflow_who){.id = 3, .limits = world_dollar};
    x->w.hour = WORLD_HOUR;
    assert_int_equal(overflow_new(&x->s.overflow, &x->all, &e), 0);
}

static void world_free(struct world *x)
{
    overflow_free(x->s.overflow);
}

/* --- tweaks --- */

static void tweak_local(struct route_candidate *c, const char *field, int64_t v)
{
    if (strcmp(field, "wait") == 0) {
        c->wait_ms = v;
        c->free_now = false;
        c->load_ms = v + c->prompt_ms;
    } else if (strcmp(field, "prompt") == 0)
        c->prompt_ms = v;
    else if (strcmp(field, "load") == 0)
        c->load_ms = v;
    else if (strcmp(field, "target") == 0)
        c->target_ms = v;
    else if (strcmp(field, "full") == 0) {
        c->full = true;
        c->free_now = false;
    } else if (strcmp(field, "down") == 0)
        c->local = ROUTE_LOCAL_DOWN;
    else
        fail_msg("no field %s of a local model", field);
}

static void tweak_candidate(struct route_candidate *c, const char *field, int64_t v)
{
    if (strcmp(field, "context") == 0)
        c->context = v;
    else if (strcmp(field, "output") == 0)
        c->max_output = v;
    else if (strcmp(field, "denied") == 0)
        c->model_denied = true;
    else if (strcmp(field, "tried") == 0)
        c->tried = true;
    else if (strcmp(field, "no-price") == 0)
        c->has_price = false;
    else if (strcmp(field, "hold") == 0)
        c->hold_nusd = v;
    else if (strcmp(field, "cost") == 0)
        c->cost_nusd = v;
    else if (strcmp(field, "can") == 0)
        c->can = (uint32_t)v;
    else if (strcmp(field, "token-us") == 0)
        c->speed.token_us = v;
    else if (c->want.kind == NAME_LOCAL)
        tweak_local(c, field, v);
    else if (strcmp(field, "breaker") == 0) {
        c->breaker = BREAKER_NO;
        c->breaker_wait_ms = v;
    } else if (strcmp(field, "half-open") == 0)
        c->breaker = BREAKER_PROBE;
    else if (strcmp(field, "no-key") == 0) {
        c->has_key = false;
        c->key_wait_ms = v;
    } else if (strcmp(field, "no-retry") == 0)
        c->retry_allowed = false;
    else if (strcmp(field, "first") == 0)
        c->speed.first_ms = v;
    else if (strcmp(field, "unseen") == 0)
        c->speed = (struct speed_now){.age_ms = INT64_MAX, .may_probe = true};
    else if (strcmp(field, "region") == 0)
        c->region = (unsigned)v;
    else
        fail_msg("no field %s of a hosted model", field);
}

static void tweak_request(struct world *x, const char *field, const char *value)
{
    int64_t v = strtoll(value, NULL, 10);
    struct route_wish *w = &x->w;
    const struct {
        const char *name;
        int64_t *to;
    } numbers[] = {{"prompt", &w->prompt_tokens},
                   {"min", &w->min_tokens},
                   {"expect", &w->expected_tokens},
                   {"left", &w->left_ms},
                   {"money", &w->left_nusd},
                   {"hosted-money", &w->hosted_left_nusd},
                   {"unheld", &w->unheld_nusd},
                   {"hosted-unheld", &w->hosted_unheld_nusd},
                   {"max-in", &w->price.in_nusd},
                   {"max-out", &w->price.out_nusd},
                   {"max-request", &w->price.request_nusd},
                   {"cap", &x->all.hour_nusd},
                   {"key-cap", &w->key.limits.hour_nusd},
                   {"project-cap", &w->project.limits.hour_nusd},
                   {"overflow-max-out", &w->key.limits.price.out_nusd}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(field, numbers[i].name) == 0) {
            *numbers[i].to = v;
            return;
        }
    if (strcmp(field, "needs") == 0) {
        for (size_t i = 0; i < n_route_can_rows; i++)
            if (strcmp(value, route_can_rows[i].name) == 0) {
                w->needs |= route_can_rows[i].bit;
                return;
            }
        fail_msg("no capability %s", value);
    } else if (strcmp(field, "ended") == 0) /* all of the hosted budget is spent */
        w->hosted_left_nusd = w->hosted_unheld_nusd = v;
    else if (strcmp(field, "local-only") == 0)
        w->local_only = true;
    else if (strcmp(field, "zero-retention") == 0)
        w->zero_retention = true;
    else if (strcmp(field, "hosts") == 0)
        w->hosts = (uint64_t)v;
    else if (strcmp(field, "regions") == 0)
        w->regions = (uint64_t)v;
    else if (strcmp(field, "overflow-hosts") == 0)
        w->project.limits.hosts = (uint64_t)v;
    else if (strcmp(field, "overflow-regions") == 0)
        w->key.limits.regions = (uint64_t)v;
    else if (strcmp(field, "share") == 0)
        w->key.limits.share_permille = (int)v;
    else if (strcmp(field, "attempts") == 0)
        w->attempts = (unsigned)v;
    else if (strcmp(field, "sticky") == 0)
        w->sticky = (int)v;
    else if (strcmp(field, "draw") == 0)
        w->draw = (uint64_t)v;
    else if (strcmp(field, "spilling") == 0)
        x->s.spill[SMOL].on = true;
    else if (strcmp(field, "waits-at") == 0)
        x->at = (int)v;
    else
        fail_msg("no field %s of a request", field);
}

static void world_tweak(struct world *x, const char *tweaks)
{
    char copy[512];
    snprintf(copy, sizeof copy, "%s", tweaks);
    for (char *p = strtok(copy, " "); p; p = strtok(NULL, " ")) {
        char *value = strchr(p, '='), *field = strchr(p, '.');
        if (value) *value++ = '\0';
        if (!value) value = "1";
        if (!field) {
            tweak_request(x, p, value);
            continue;
        }
        *field++ = '\0';
        bool known = false;
        for (size_t m = 0; m < N_WORLD_MODELS; m++)
            for (size_t i = 0; i < x->n && strcmp(world_models[m].name, p) == 0; i++) {
                struct route_candidate *c = &x->c[i];
                if (c->want.kind != world_models[m].kind || c->want.index != world_models[m].index) continue;
                tweak_candidate(c, field, strtoll(value, NULL, 10));
                known = true;
            }
        if (!known) fail_msg("no candidate %s", p);
    }
    overflow_set(x->s.overflow, &x->all);
    struct overflow_ask ask = {.key = x->w.key, .project = x->w.project, .hour = x->w.hour};
    x->w.counted = x->at >= 0 || x->w.attempts > 0; /* when it came */
    if (x->w.counted) overflow_count(x->s.overflow, &ask);
}

#endif
