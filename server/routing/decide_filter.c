/* Decide, the filters: what a candidate can never do for this request, may not do for this account, or cannot do now. */
#include "server/routing/decide_parts.h"

const struct route_can_row route_can_rows[] = {
    {ROUTE_CAN_VISION, "vision", "messages", "take pictures"},
    {ROUTE_CAN_TOOLS, "tools", "tools", "call tools"},
    {ROUTE_CAN_SCHEMA, "schema", "response_format", "hold an answer to a schema"},
    {ROUTE_CAN_LOGPROBS, "logprobs", "logprobs", "give log probabilities"},
    {ROUTE_CAN_N, "n", "n", "give several choices"},
    {ROUTE_CAN_REASONING, "reasoning", "reasoning_effort", "reason"},
    {ROUTE_CAN_SEED, "seed", "seed", "take a seed"},
};
const size_t n_route_can_rows = sizeof route_can_rows / sizeof *route_can_rows;

bool decide_is_hosted(const struct route_candidate *c)
{
    return c->want.kind == NAME_HOSTED;
}

int64_t route_predicted_ms(const struct route_candidate *c)
{
    return c->wait_ms + c->prompt_ms;
}

void decide_overflow_ask(const struct route_candidate *c, const struct route_wish *w, struct overflow_ask *a)
{
    *a = (struct overflow_ask){.key = w->key,
                               .project = w->project,
                               .hour = w->hour,
                               .hold_nusd = c->hold_nusd,
                               .in_nusd = c->in_nusd,
                               .out_nusd = c->out_nusd,
                               .host = c->i_host,
                               .region = c->region,
                               .counted = w->counted};
}

/* --- what it may not do: nothing that stays in the house leaves it, so most of this is about hosted ones --- */

static bool attempts(const struct work *k, size_t i)
{
    (void)i;
    return k->w->attempts >= RETRY_ATTEMPTS;
}

static bool tried(const struct work *k, size_t i)
{
    return k->c[i].tried;
}

static bool local_only(const struct work *k, size_t i)
{
    return k->w->local_only && decide_is_hosted(&k->c[i]);
}

static bool model(const struct work *k, size_t i)
{
    return k->c[i].model_denied;
}

static bool provider(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    return decide_is_hosted(c) && (!(k->w->hosts >> c->i_host & 1) || k->overflow[i] == OVERFLOW_HOST);
}

static bool region(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    return decide_is_hosted(c) && (!(k->w->regions >> c->region & 1) || k->overflow[i] == OVERFLOW_REGION);
}

static bool retention(const struct work *k, size_t i)
{
    return k->w->zero_retention && decide_is_hosted(&k->c[i]) && !k->c[i].zero_retention;
}

/* --- what it cannot do --- */

static bool capability(const struct work *k, size_t i)
{
    return k->c[i].cannot || (k->w->needs & ~k->c[i].can);
}

/* The answer's bound is lowered to what there is room for; only what must be there counts. */
static bool context(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    int64_t least = k->w->min_tokens > 0 ? k->w->min_tokens : 1;
    return k->w->prompt_tokens + least > c->context || (c->max_output > 0 && least > c->max_output);
}

/* --- money --- */

static bool price_unknown(const struct work *k, size_t i)
{
    return !k->c[i].has_price;
}

static bool price(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    const struct route_price_cap *cap = &k->w->price;
    return (cap->in_nusd && c->in_nusd > cap->in_nusd) || (cap->out_nusd && c->out_nusd > cap->out_nusd) ||
           (cap->request_nusd && c->hold_nusd > cap->request_nusd) || k->overflow[i] == OVERFLOW_PRICE;
}

static bool overflow_off(const struct work *k, size_t i)
{
    return k->overflow[i] == OVERFLOW_OFF;
}

/* A price of 0 needs no budget. */
static bool budget(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    return c->hold_nusd > 0 && (c->hold_nusd > k->w->unheld_nusd || (decide_is_hosted(c) && c->hold_nusd > k->w->hosted_unheld_nusd));
}

static bool held(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    return c->hold_nusd > 0 && (c->hold_nusd > k->w->left_nusd || (decide_is_hosted(c) && c->hold_nusd > k->w->hosted_left_nusd));
}

/* What it is in reserve for stands before it. */
static bool reserve(const struct work *k, size_t i)
{
    if (!k->c[i].want.reserve) return false;
    for (size_t j = 0; j < i; j++)
        if (k->d->passed[j] == ROUTE_BUDGET || k->d->passed[j] == ROUTE_HELD) return false;
    return true;
}

/* --- what it cannot do now --- */

static bool down(const struct work *k, size_t i)
{
    return !decide_is_hosted(&k->c[i]) && k->c[i].local == ROUTE_LOCAL_DOWN;
}

static bool key(const struct work *k, size_t i)
{
    return decide_is_hosted(&k->c[i]) && !k->c[i].has_key;
}

static bool breaker(const struct work *k, size_t i)
{
    return decide_is_hosted(&k->c[i]) && k->c[i].breaker == BREAKER_NO;
}

static bool retry(const struct work *k, size_t i)
{
    return k->w->attempts > 0 && decide_is_hosted(&k->c[i]) && !k->c[i].retry_allowed;
}

static bool cap(const struct work *k, size_t i)
{
    return k->overflow[i] == OVERFLOW_CAP;
}

static bool share(const struct work *k, size_t i)
{
    return k->overflow[i] == OVERFLOW_SHARE;
}

static bool deadline(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    return k->w->left_ms <= 0 || (decide_is_hosted(c) ? c->speed.first_ms : route_predicted_ms(c)) > k->w->left_ms;
}

/* Whoever waits there has his place. */
static bool full(const struct work *k, size_t i)
{
    return !decide_is_hosted(&k->c[i]) && k->c[i].full && !k->c[i].free_now && (int)i != k->at;
}

/* The first that forbids a candidate is why it is passed over: first what will never change, then what will pass. */
static const struct {
    enum route_reason reason;
    bool (*forbids)(const struct work *k, size_t i);
} filters[] = {
    {ROUTE_ATTEMPTS, attempts},
    {ROUTE_TRIED, tried},
    {ROUTE_LOCAL_ONLY, local_only},
    {ROUTE_MODEL, model},
    {ROUTE_PROVIDER, provider},
    {ROUTE_REGION, region},
    {ROUTE_RETENTION, retention},
    {ROUTE_CAPABILITY, capability},
    {ROUTE_CONTEXT, context},
    {ROUTE_PRICE_UNKNOWN, price_unknown},
    {ROUTE_PRICE, price},
    {ROUTE_OVERFLOW_OFF, overflow_off},
    {ROUTE_BUDGET, budget},
    {ROUTE_HELD, held},
    {ROUTE_RESERVE, reserve},
    {ROUTE_DOWN, down},
    {ROUTE_KEY, key},
    {ROUTE_BREAKER, breaker},
    {ROUTE_RETRY, retry},
    {ROUTE_CAP, cap},
    {ROUTE_SHARE, share},
    {ROUTE_DEADLINE, deadline},
    {ROUTE_FULL, full},
};

static int64_t bound_ms(const struct route_candidate *c, bool spills)
{
    return spills ? c->target_ms * ROUTE_BACK_PER_CENT / 100 : c->target_ms;
}

/* Above its target until its load has fallen well below; and until then nothing enters beyond that. */
static void judge_load(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    bool has_target = !decide_is_hosted(c) && c->target_ms > 0, spilt = has_target && k->s->spill[c->want.index].on;
    k->d->spills[i] = has_target && !c->free_now && c->load_ms > bound_ms(c, spilt);
    k->d->bound_ms[i] = bound_ms(c, spilt && k->d->spills[i]);
}

void decide_filter(struct work *k)
{
    for (size_t i = 0; i < k->n; i++) {
        const struct route_candidate *c = &k->c[i];
        struct overflow_ask ask;
        decide_overflow_ask(c, k->w, &ask);
        k->overflow[i] = c->want.stands_in ? overflow_check(k->s->overflow, &ask) : OVERFLOW_YES;
        judge_load(k, i);
        k->d->passed[i] = ROUTE_LATER;
        for (size_t f = 0; f < sizeof filters / sizeof *filters; f++) {
            if (!filters[f].forbids(k, i)) continue;
            k->d->passed[i] = filters[f].reason;
            break;
        }
    }
}
