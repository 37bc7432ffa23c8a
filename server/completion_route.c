/* Where a completion is answered: see completion_route.h. The decision itself is server/routing's; here are its figures. */
#include "server/completion_route.h"

#include <sodium.h>
#include <string.h>

#include "base/clock.h"
#include "server/admission.h"
#include "server/completion_charge.h"
#include "server/route.h"
#include "server/routing/explain.h"

enum { MOST_CANDIDATES = 1 + GATEWAY_MAX_STAND_INS };

struct figures {
    struct route_candidate candidates[MOST_CANDIDATES];
    struct hosted_model *models[MOST_CANDIDATES];
    struct hosted_bill *bills[MOST_CANDIDATES];
    size_t n;
};

bool completion_may_spill(const struct gateway *g)
{
    for (size_t i = 0; i < g->n_models && g->hosted; i++)
        if (g->models[i]->n_stand_ins) return true;
    return false;
}

/* The worker that route.c would choose, as it is now. */
static void add_local(struct completion *c, struct figures *f)
{
    struct gateway *g = c->gateway;
    struct err ignored;
    int ignored_s;
    const int64_t n = (int64_t)c->prompt.n_ids * c->params.n, left_ms = c->deadline_ms - loop_now_ms(g->loop);
    struct gateway_replica *r = c->replica = route_choose(c);
    const bool ready = worker_is_ready(r->worker), full = admission_check_prompt(r, n, c->params.n, left_ms, &ignored_s, &ignored) != 0;
    f->candidates[f->n++] = (struct route_candidate){.want = {.kind = NAME_LOCAL, .index = (uint16_t)c->model->number, .policy = ROUTE_LOCAL_FIRST},
                                                     .host = "local",
                                                     .model = c->model->id,
                                                     .can = ~0u, /* what it cannot do has been refused */
                                                     .context = c->max_context,
                                                     .zero_retention = true,
                                                     .has_price = true,
                                                     .breaker = BREAKER_NO,
                                                     .local = ready ? ROUTE_LOCAL_READY : ROUTE_LOCAL_DOWN,
                                                     .free_now = ready && !full && r->queue.prompts == 0 && worker_prediction(r->worker)->waiting == 0,
                                                     .full = full,
                                                     .wait_ms = (int64_t)admission_load_ms(r),
                                                     .prompt_ms = (int64_t)admission_prompt_ms(r, n),
                                                     .load_ms = (int64_t)admission_load_ms(r),
                                                     .target_ms = g->limits.first_token_ms};
}

static uint32_t abilities(const struct hosted_model *m)
{
    static const struct {
        uint32_t cap, can;
    } rows[] = {{CAP_IMAGE_DATA, ROUTE_CAN_VISION}, {CAP_LOGPROBS, ROUTE_CAN_LOGPROBS}, {CAP_CHOICES, ROUTE_CAN_N}, {CAP_SEED, ROUTE_CAN_SEED}};
    uint32_t can = 0, caps = m->host->host.row->capabilities;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (caps & rows[i].cap) can |= rows[i].can;
    if (!(m->price->can & PRICE_CAN_IMAGE)) can &= ~(uint32_t)ROUTE_CAN_VISION;
    return can;
}

static int add_stand_in(struct completion *c, struct figures *f, size_t i, struct err *e)
{
    struct gateway *g = c->gateway;
    struct hosted_model *m = &g->hosted->models[c->model->stand_ins[i]];
    const struct price *p = m->price;
    int64_t now_ms = loop_now_ms(g->loop), tokens = c->max_tokens, wait_ms = 0;
    if (p->max_output && tokens > p->max_output) tokens = p->max_output;
    struct hosted_bill *b = f->bills[f->n] = arena_alloc(&c->arena, sizeof *b);
    if (!b) return err_set(e, ERR_MEMORY, "out of memory");
    struct route_candidate *r = &f->candidates[f->n];
    f->models[f->n++] = m;
    *r = (struct route_candidate){.want = {.kind = NAME_HOSTED, .index = c->model->stand_ins[i], .tier = (uint8_t)(i + 1), .weight = 1, .stands_in = true},
                                  .host = m->host->host.name,
                                  .model = p->model,
                                  .i_host = (unsigned)(m->host - g->hosted->hosts),
                                  .can = abilities(m),
                                  .context = p->context ? p->context : INT64_MAX / 2,
                                  .max_output = p->max_output,
                                  .breaker = breaker_verdict(&m->breaker, now_ms),
                                  .breaker_wait_ms = breaker_wait_ms(&m->breaker, now_ms),
                                  .has_key = host_keys_pick(&m->host->keys, 0, now_ms, &wait_ms) >= 0,
                                  .retry_allowed = true,
                                  .speed = speed_now(&m->speed, now_ms)};
    r->key_wait_ms = wait_ms;
    struct tariff tariff;
    completion_tariff(c, m, &tariff);
    r->has_price = hosted_bill_init(b, m, &tariff, c->request, tokens, c->params.n, e) == 0;
    r->hold_nusd = r->cost_nusd = r->cost_cached_nusd = b->hold_nusd;
    tariff_rates(&tariff, &r->in_nusd, &r->out_nusd);
    return 0;
}

static void make_wish(const struct completion *c, struct route_wish *w)
{
    static const struct overflow_limits none_of_its_own = {
        .hour_nusd = INT64_MAX, .share_permille = OVERFLOW_ALL_PERMILLE, .hosts = ~(uint64_t)0, .regions = ~(uint64_t)0};
    route_wish_init(w);
    w->needs = (c->n_pictures ? ROUTE_CAN_VISION : 0u) | (c->params.logprobs ? ROUTE_CAN_LOGPROBS : 0u) | (c->params.n > 1 ? ROUTE_CAN_N : 0u) |
               (c->params.has_seed ? ROUTE_CAN_SEED : 0u);
    w->prompt_tokens = (int64_t)c->prompt.n_ids;
    w->min_tokens = c->params.min_tokens;
    w->left_ms = c->deadline_ms - loop_now_ms(c->gateway->loop);
    randombytes_buf(&w->draw, sizeof w->draw);
    const char *only = http_header(c->http, "x-spillway-local-only");
    w->local_only = only && strcmp(only, "false") != 0 && strcmp(only, "0") != 0;
    w->key = w->project = (struct overflow_who){.id = c->account, .limits = none_of_its_own};
    w->project.id = 0; /* the store's budgets know projects; here is the cap of all */
    w->hour = clock_wall_s() / 3600;
}

static int note(struct completion *c, const struct figures *f, const struct route_decision *d, struct err *e)
{
    char text[EXPLAIN_HEADER_BYTES];
    explain_header(f->candidates, f->n, d, text);
    c->route_text = arena_copy(&c->arena, text, strlen(text));
    return c->route_text ? 0 : err_set(e, ERR_MEMORY, "out of memory");
}

int completion_route(struct completion *c, struct err *e)
{
    struct gateway *g = c->gateway;
    struct figures f = {.n = 0};
    struct route_wish w;
    struct route_decision d;
    if (!c->model->n_stand_ins || !g->hosted) return 0;
    add_local(c, &f);
    for (size_t i = 0; i < c->model->n_stand_ins && !f.candidates[0].free_now; i++) {
        int rc = add_stand_in(c, &f, i, e);
        if (rc) return rc;
    }
    make_wish(c, &w);
    int rc = route_decide(f.candidates, f.n, &w, &g->route, &d);
    route_commit(&g->route, f.candidates, f.n, &w, &d, &c->overflow);
    if (rc) {
        c->retry_after_s = d.retry_after_s;
        *e = d.err;
        return rc;
    }
    c->hosted = f.models[d.chosen];
    c->bill = f.bills[d.chosen];
    c->route_reason = route_reasons[d.reason].name;
    c->decided_ms = loop_now_ms(g->loop);
    return note(c, &f, &d, e);
}

void completion_route_ended(struct completion *c, int64_t cost_nusd, bool whole)
{
    int64_t first_ms = c->first_token_ms > c->decided_ms ? c->first_token_ms - c->decided_ms : 0;
    if (c->overflow.open) overflow_settle(c->gateway->route.overflow, &c->overflow, cost_nusd, whole, first_ms);
}
