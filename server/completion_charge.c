/* What a completion costs: see completion_charge.h. */
#include "server/completion_charge.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "server/accounts/id_text.h"
#include "server/accounts/price_table.h"
#include "server/charge.h"
#include "server/completion_route.h"

/* The longest tags, each character written as \u0001, with quotes and commas. */
enum { MOST_RETRY_MS = 60000, MAX_TAGS_BYTES = CHAT_MAX_TAGS * ((CHAT_MAX_TAG_CHARS + CHAT_MAX_VALUE_CHARS) * 6 + 6) + 3 };

struct usage completion_metered(const struct completion *c)
{
    const struct usage_told *t = &c->usage;
    struct usage u = {.source = USAGE_REPORTED};
    usage_set(&u, USAGE_IN_UNCACHED, t->prompt_tokens - t->cached_tokens);
    usage_set(&u, USAGE_IN_CACHE_READ, t->cached_tokens);
    usage_set(&u, USAGE_OUT_TEXT, t->completion_tokens);
    return u;
}

void completion_tariff(const struct completion *c, const struct hosted_model *m, struct tariff *out)
{
    if (m) {
        const struct tariff_price own = {.price = m->price, .text = m->price_text};
        tariff_of(out, c->tariffs, m->host->host.name, m->price->model, &own, c->model_name);
    } else {
        const struct tariff_price own = {.price = &tariff_free, .id = c->model->free_price};
        tariff_of(out, c->tariffs, PRICE_LOCAL, c->model->id, &own, c->model_name);
    }
}

/* What a local answer came to. */
static void bill_local(const struct completion *c, struct ledger_op *o)
{
    struct ledger_used *u = &o->used[0];
    struct err e;
    u->usage = completion_metered(c);
    int cost = tariff_cost(&c->hold.tariff, &u->usage, PRICE_STANDARD, &u->cost_nusd, &e);
    int sale = tariff_sale(&c->hold.tariff, &u->usage, PRICE_STANDARD, &o->sale_nusd, &e);
    if (!cost && !sale) return;
    log_error("model %s: %s; what is held is charged", c->model->id, e.msg);
    u->reconcile = HOSTED_NO_PRICE;
    o->sale_nusd = c->held_nusd;
}

/* Who is asked, or will be first of all. */
static const struct completion_choice *current(const struct completion *c)
{
    return c->n_attempts ? &c->attempts[c->attempt] : &c->chosen;
}

/* One who was asked and did not serve. */
static void add_failed(const struct completion *c, int i, struct ledger_op *o)
{
    const struct completion_choice *a = &c->attempts[i];
    struct ledger_op bill;
    struct ledger_used *u = &o->used[o->n_used++];
    *u = (struct ledger_used){.supplier = a->supplier, .end = LEDGER_FAILED};
    if (a->hosted) {
        hosted_bill_end(a->bill, LEDGER_FAILED, &bill);
        *u = bill.used[0];
    }
    u->n = i + 1;
}

/* The end of all that were asked. */
static void fill_end(const struct completion *c, enum ledger_op_type type, enum ledger_end end, const char *outcome, struct ledger_op *o)
{
    const struct completion_choice *who = current(c);
    *o = (struct ledger_op){.type = type, .outcome = outcome};
    if (who->hosted)
        hosted_bill_end(who->bill, end, o);
    else {
        o->used[0] = (struct ledger_used){.supplier = who->supplier, .end = end};
        if (type == LEDGER_POST) bill_local(c, o);
    }
    o->served = o->used[0].n = c->attempt + 1;
    o->n_used = 1;
    o->reason = c->route_reason;
    o->served_scope = c->n_attempts > 0;
    o->scope = who->scope;
    if (c->attempt > 0) { /* in place of the first one's */
        o->price = who->sale_price;
        o->markup = who->markup;
    }
    for (int i = 0; i < c->n_attempts; i++)
        if (i != c->attempt) add_failed(c, i, o);
}

/* Without an answer, done NULL, the charge is the ledger's from now on. */
static void end_charge(struct completion *c, enum ledger_op_type type, enum ledger_end end, const char *outcome, charge_fn *done)
{
    struct ledger_op o;
    fill_end(c, type, end, outcome, &o);
    if (done) completion_repeat_keep(c, &o);
    charge_end(c->charge, &o, done, c);
    if (done) return;
    completion_route_ended(c, o.sale_nusd, false);
    c->charge = NULL;
}

void completion_end_later(const struct completion *c, struct ledger_op *o)
{
    fill_end(c, LEDGER_POST, LEDGER_CUT, NULL, o);
    for (int i = 0; i < o->n_used; i++) o->used[i].raw = NULL; /* goes with the completion */
}

static int64_t cost_of(const struct completion *c, enum ledger_end end)
{
    struct ledger_op o = {.sale_nusd = 0};
    if (c->hosted && c->started) hosted_bill_end(c->bill, end, &o);
    return o.sale_nusd;
}

/* The ledger, or nobody, has said yes. */
static void granted(struct completion *c, const struct ledger_op *op)
{
    struct completion_choice *a = &c->attempts[c->n_attempts++];
    *a = c->chosen;
    if (!op) return;
    a->sale_price = op->price ? op->price : op->price_id;
    a->markup = op->markup;
    a->scope = op->scope;
    c->held_nusd += op->amount_nusd;
    c->held_tokens += op->tokens;
    if (!a->hosted) completion_hold_granted(c, op);
}

static void held(void *ctx, const struct ledger_op *op)
{
    struct completion *c = ctx;
    char text[ID_TEXT_BYTES];
    const bool first = op->type == LEDGER_RESERVE;
    if (first) memcpy(c->rates, op->rates, sizeof c->rates);
    if (op->rc) {
        int64_t wait_ms = op->free_at_ms ? op->free_at_ms - op->now_ms : 0;
        if (wait_ms > MOST_RETRY_MS) wait_ms = MOST_RETRY_MS;
        c->retry_after_s = wait_ms > 0 ? (int)((wait_ms + 999) / 1000) : 0;
        if (first) c->charge = NULL;
        if (first && completion_repeat_known(c, op)) return;
    } else {
        granted(c, op);
        if (first) {
            completion_repeat_reserved(c, op);
            id_text_write(accounts_id_key(c->gateway->accounts), op->request, text);
            snprintf(c->id, sizeof c->id, "chatcmpl-%s", text);
        }
    }
    c->charged(c, op->rc, &op->err);
}

/* If nothing more is ever learned of it, the prompt is taken to have been read. */
static void fill_hosted(const struct completion *c, struct ledger_op *o)
{
    const struct hosted_bill *b = c->chosen.bill;
    struct ledger_op guess;
    struct hosted_bill begun = *b;
    begun.out_bytes = 1;
    hosted_bill_end(&begun, LEDGER_CUT, &guess);
    o->scope = c->overflow.open ? LEDGER_OVERFLOW : LEDGER_HOSTED;
    o->amount_nusd = b->hold_nusd;
    o->tokens = b->prompt_estimate + b->max_tokens * b->n;
    o->attempt = (struct ledger_attempt){.supplier = b->model->host->supplier,
                                         .model = b->model->price->model,
                                         .sale_estimate_nusd = guess.sale_nusd,
                                         .cost_estimate_nusd = guess.used[0].cost_nusd};
    tariff_tell(&b->tariff, o);
}

/* The request's metadata as JSON text, NULL if there is none. -ERR_MEMORY. */
static int write_tags(const struct completion *c, struct buf *out, struct err *e)
{
    buf_init(out, MAX_TAGS_BYTES);
    if (json_object_size(c->params.metadata) == 0) return 0;
    json_write(out, c->params.metadata);
    CHECK(out->failed != -ERR_LIMIT);
    return out->failed ? err_set(e, ERR_MEMORY, "out of memory") : 0;
}

/* An attempt is more than what is held already, or nothing more. */
static void fill_more(const struct completion *c, struct ledger_op *o)
{
    o->type = LEDGER_ATTEMPT;
    o->n = c->n_attempts + 1;
    o->all_tokens = o->tokens > c->held_tokens ? o->tokens : c->held_tokens;
    o->amount_nusd = o->amount_nusd > c->held_nusd ? o->amount_nusd - c->held_nusd : 0;
    o->tokens = o->tokens > c->held_tokens ? o->tokens - c->held_tokens : 0;
}

static int reserve(struct completion *c, struct ledger_op *o, struct err *e)
{
    struct buf tags;
    int rc = write_tags(c, &tags, e);
    o->tags = tags.data;
    completion_repeat_name(c, o);
    if (!rc) rc = charge_reserve(&c->charge, c->gateway->loop, c->gateway->ledger, o, held, c, e);
    buf_free(&tags);
    return rc;
}

void completion_cover(struct completion *c, completion_charged_fn *then)
{
    struct err e = {0};
    struct gateway *g = c->gateway;
    const int64_t left_ms = c->deadline_ms - loop_now_ms(g->loop);
    struct ledger_op o = {
        .type = LEDGER_RESERVE, .account = c->account, .model = c->model_name, .reason = c->route_reason, .lasts_ms = left_ms > 0 ? left_ms : 0};
    int rc = 0;
    if (c->chosen.hosted)
        fill_hosted(c, &o);
    else if (c->gateway->ledger && completion_hold_fill(c, &o, &e)) {
        then(c, -(int)e.code, &e);
        return;
    }
    c->charged = then;
    if (c->n_attempts) fill_more(c, &o);
    if (c->charge)
        rc = charge_more(c->charge, &o, held, c, &e);
    else if (g->ledger)
        rc = reserve(c, &o, &e);
    else
        granted(c, NULL);
    if (rc || !c->charge) then(c, rc, &e);
}

static void settled(void *ctx, const struct ledger_op *op)
{
    struct completion *c = ctx;
    char text[24];
    c->charge = NULL;
    completion_route_ended(c, op->charged_nusd, op->rc == 0);
    if (c->usage.has_cost && c->usage.cost_nusd != op->charged_nusd) /* as an answer that was to be kept says */
        log_error("request %lld is charged %lld nano-dollars, and was thought to be %lld", (long long)op->request, (long long)op->charged_nusd,
                  (long long)c->usage.cost_nusd);
    c->usage.has_cost = true;
    c->usage.cost_nusd = op->charged_nusd;
    snprintf(text, sizeof text, "%lld", (long long)op->charged_nusd);
    if (!c->headers_out) http_add_header(c->http, "x-spillway-cost-nusd", text);
    c->charged(c, op->rc, &op->err);
}

void completion_settle(struct completion *c, completion_charged_fn *then)
{
    struct err none = {0};
    c->charged = then;
    if (!c->charge) {
        completion_route_ended(c, cost_of(c, LEDGER_SERVED), true);
        then(c, 0, &none);
        return;
    }
    c->settling = true;
    c->settle_waits = c->hold.asked && completion_repeat_keeps(c); /* for what is held: an answer that is kept tells what it costs */
    if (!c->settle_waits) end_charge(c, LEDGER_POST, LEDGER_SERVED, "whole", settled);
}

void completion_settle_on(struct completion *c)
{
    if (!c->settle_waits) return;
    c->settle_waits = false;
    end_charge(c, LEDGER_POST, LEDGER_SERVED, "whole", settled);
}

void completion_abandon(struct completion *c)
{
    if (!c->charge) {
        completion_route_ended(c, cost_of(c, LEDGER_CUT), false); /* unless that has been said */
        return;
    }
    if (c->settle_waits)
        end_charge(c, LEDGER_POST, LEDGER_SERVED, "whole", NULL);
    else if (c->settling) {
        charge_forget(c->charge);
        completion_route_ended(c, cost_of(c, LEDGER_SERVED), true);
    } else if (current(c)->hosted)
        end_charge(c, LEDGER_POST, LEDGER_CUT, NULL, NULL); /* or a void, as its bill says */
    else if (c->first_token_ms && !c->failed)
        end_charge(c, LEDGER_POST, LEDGER_CUT, c->hold.ended ? "budget exhausted" : "cut", NULL);
    else
        end_charge(c, LEDGER_VOID, LEDGER_FAILED, c->failed ? "failed" : "not begun", NULL);
    c->charge = NULL;
}
