/* Hold of a local answer: see completion_hold.h. */
#include "server/completion_hold.h"

#include "server/charge.h"
#include "server/completion_charge.h"

/* After a refusal for others' holds, which may return, and after a store that was away: when so many tokens more are there. */
enum { AGAIN_TOKENS = 32 };

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int completion_hold_bound(const struct tariff *t, int64_t prompt_tokens, int64_t answer_tokens, int64_t *nusd, struct err *e)
{
    int64_t cost_nusd;
    const struct price_ask ask = {.input_tokens = prompt_tokens,
                                  .output_tokens = answer_tokens,
                                  .meters = USAGE_BIT(USAGE_IN_UNCACHED) | USAGE_BIT(USAGE_IN_CACHE_READ) | USAGE_BIT(USAGE_OUT_TEXT),
                                  .services = PRICE_SERVICE_BIT(PRICE_STANDARD)};
    return tariff_bound(t, &ask, nusd, &cost_nusd, e) ? err_set_param(e, ERR_PRICE, "model", "The price of this request is not known.") : 0;
}

static int bound(const struct completion *c, int64_t answer_tokens, int64_t *nusd, struct err *e)
{
    return completion_hold_bound(&c->hold.tariff, (int64_t)c->prompt.n_ids, answer_tokens, nusd, e);
}

int completion_hold_fill(struct completion *c, struct ledger_op *o, struct err *e)
{
    struct completion_hold *h = &c->hold;
    *h = (struct completion_hold){.most = (int64_t)c->max_tokens * c->params.n};
    h->tokens = least(h->most, HOLD_STEP_TOKENS);
    completion_tariff(c, NULL, &h->tariff);
    int rc = bound(c, h->tokens, &o->amount_nusd, e);
    if (rc) return rc;
    o->tokens = (int64_t)c->prompt.n_ids + h->tokens;
    o->attempt = (struct ledger_attempt){.supplier = c->model->supplier, .model = c->model->id};
    tariff_tell(&h->tariff, o);
    return 0;
}

static int64_t beyond(int64_t a, int64_t b)
{
    return a > b ? a - b : 0;
}

/* Half of the step is left. */
static void ask_later(struct completion_hold *h)
{
    h->ask_at = h->tokens < h->most ? h->tokens - HOLD_STEP_TOKENS / 2 : INT64_MAX;
}

void completion_hold_granted(struct completion *c, const struct ledger_op *op)
{
    struct completion_hold *h = &c->hold;
    struct err ignored;
    int64_t most_nusd;
    h->limited = op->limits != 0;
    bool is_free = bound(c, h->most, &most_nusd, &ignored) == 0 && most_nusd <= c->held_nusd;
    if (is_free && !(op->limits & LEDGER_LIMITS_TOKENS)) h->tokens = h->most;
    ask_later(h);
}

void completion_hold_end(struct completion *c)
{
    struct err e;
    c->hold.ended = true;
    err_set(&e, ERR_BUDGET, "The budget is used up: the answer ends here.");
    completion_event(c, &(struct event){.type = EVENT_ERROR, .err = &e});
}

static void take_extension(struct completion *c, const struct ledger_op *op)
{
    struct completion_hold *h = &c->hold;
    const int64_t made = c->usage.completion_tokens;
    h->asked = false;
    switch (op->rc) {
    case 0:
        h->tokens = h->asked_tokens;
        c->held_nusd += op->amount_nusd;
        c->held_tokens += op->tokens;
        h->refused = false;
        ask_later(h);
        return;
    case -ERR_HELD:
        h->ask_at = made + AGAIN_TOKENS;
        h->refused = true;
        break;
    case -ERR_BUDGET:
    case -ERR_RATE:
    case -ERR_DENIED:
        h->ask_at = INT64_MAX;
        h->refused = true;
        break;
    default: /* what runs is finished (B14) */
        h->ask_at = made + AGAIN_TOKENS;
    }
    if (h->refused && made > h->tokens) completion_hold_end(c);
}

static void extended(void *ctx, const struct ledger_op *op)
{
    take_extension(ctx, op);
    completion_settle_on(ctx);
}

/* In steps, until half of one is left: an engine that is faster than the store is caught up with. Where nothing can refuse it, all of it at once. */
static int64_t next_tokens(const struct completion_hold *h, int64_t made)
{
    int64_t tokens = h->tokens;
    if (!h->limited) return h->most;
    do tokens += HOLD_STEP_TOKENS;
    while (tokens - made < HOLD_STEP_TOKENS / 2);
    return least(tokens, h->most);
}

static void ask(struct completion *c, int64_t made)
{
    struct completion_hold *h = &c->hold;
    struct err e;
    const struct usage used = completion_metered(c);
    int64_t nusd = 0;
    struct ledger_op o = {.type = LEDGER_EXTEND, .n = c->attempt + 1, .attempt = {.extended = h->n_extended + 1}};
    h->asked_tokens = next_tokens(h, made);
    int rc = bound(c, h->asked_tokens, &nusd, &e);
    if (!rc) rc = tariff_sale(&h->tariff, &used, PRICE_STANDARD, &o.attempt.sale_estimate_nusd, &e);
    if (!rc) rc = tariff_cost(&h->tariff, &used, PRICE_STANDARD, &o.attempt.cost_estimate_nusd, &e);
    o.amount_nusd = beyond(nusd, c->held_nusd);
    o.tokens = beyond((int64_t)c->prompt.n_ids + h->asked_tokens, c->held_tokens);
    if (!rc) rc = charge_more(c->charge, &o, extended, c, &e);
    h->ask_at = made + AGAIN_TOKENS; /* if that failed */
    h->asked = rc == 0;
    h->n_extended += rc == 0;
}

uint32_t completion_hold_covers(struct completion *c, uint32_t n)
{
    struct completion_hold *h = &c->hold;
    const int64_t made = c->usage.completion_tokens + n;
    if (!c->charge || h->tokens >= h->most) return n;
    if (made >= h->ask_at && !h->asked && !charge_is_busy(c->charge)) ask(c, made);
    if (made <= h->tokens || !h->refused) return n; /* not refused: the answer to what was asked for comes */
    int64_t over = made - h->tokens;
    return over < n ? n - (uint32_t)over : 0;
}
