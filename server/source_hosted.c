/* Hosted source: one call to a configured provider. Retries and other providers are completion.c's.
 *
 * A client that leaves: the row of the provider says whether closing the connection ends the bill (then it is closed, and what was seen is charged) or
 * not (then the answer is read to its end without anybody, for its usage; the charge is this file's until then). */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "server/charge.h"
#include "server/completion_charge.h"
#include "server/completion_route.h"
#include "server/hosted_bill.h"

enum { DEADLINE_AFTER_MS = 1000 /* the completion's own comes first: it reads on where leaving does not end the bill */ };

struct hosted_call {
    struct completion *owner; /* NULL: it has left */
    struct gateway *gateway;
    struct hosted *hosts;       /* held: */
    struct hosted_model *model;
    struct upstream_call *call; /* NULL: it has ended */
    struct breaker_pass pass;
    int i_key;
    int64_t sent_ms, first_ms; /* of its first content; 0: there was none */
    struct hosted_bill bill; /* once the owner has left */
    struct charge *charge;   /* and what of its end is known already */
    struct ledger_op end;
    struct overflow_ticket overflow; /* and what it takes of the hour's cap */
    struct tariff_table *tariffs; /* that the bill borrows from */
};

/* What the host's and the key's health learn of it. */
static void learn(struct hosted_call *h, enum fault fault, int64_t hint_ms)
{
    int64_t now_ms = loop_now_ms(h->gateway->loop);
    struct breaker *b = &h->model->breaker;
    if (fault == FAULT_NONE) {
        breaker_ok(b, h->pass, now_ms);
        retry_earn(&h->model->host->retries);
    } else if (fault_rows[fault].is_hosts)
        breaker_failed(b, h->pass, hint_ms > 0 ? hint_ms : 0, now_ms);
    else
        breaker_abandon(b, h->pass);
    host_keys_end(&h->model->host->keys, h->i_key, fault, hint_ms > 0 ? hint_ms : 0, now_ms);
}

/* Only whole answers are measured. */
static void measure(struct hosted_call *h, const struct upstream_result *r)
{
    int64_t now_ms = loop_now_ms(h->gateway->loop), n_tokens = r->usage ? usage_sum(r->usage, USAGE_OUT) : 0;
    if (r->outcome == UPSTREAM_WHOLE && h->first_ms)
        speed_note(&h->model->speed, h->first_ms - h->sent_ms, n_tokens > 0 ? n_tokens : 0, now_ms - h->first_ms, now_ms);
}

static enum fault fault_of_result(const struct upstream_result *r)
{
    static const enum fault of[PROVIDER_ERROR_CLASSES] = {[PROVIDER_CALLER] = FAULT_CALLER,   [PROVIDER_KEY_DEAD] = FAULT_KEY,
                                                          [PROVIDER_WAIT] = FAULT_OVERLOADED, [PROVIDER_BROKEN] = FAULT_BROKEN,
                                                          [PROVIDER_UNSUPPORTED] = FAULT_UNSUPPORTED, [PROVIDER_CONTEXT] = FAULT_CALLER};
    if (r->outcome == UPSTREAM_WHOLE) return FAULT_NONE;
    if (r->outcome == UPSTREAM_CUT) return r->has_content ? FAULT_CUT : FAULT_BROKEN;
    const bool queue = strcmp(r->error.code, "queue_full") == 0; /* another Spillway's: too much for it, whoever asks */
    return r->error.status == 429 && !queue ? FAULT_LIMITED : of[r->error.class];
}

static void take_limits(struct hosted_call *h, const struct provider_limits *l)
{
    int64_t now_ms = loop_now_ms(h->gateway->loop);
    for (int i = 0; i < LIMIT_METERS; i++)
        if (l->meters[i].remaining >= 0 && l->meters[i].reset_ms >= 0)
            host_keys_limits(&h->model->host->keys, h->i_key, l->meters[i].remaining, l->meters[i].reset_ms, now_ms);
}

/* What a client is told of a provider's error: its own words where they are about the request, a fixed text else (the words are logged). */
static void tell(const struct hosted_call *h, const struct provider_error *p, struct err *e)
{
    const char *name = h->model->host->host.name;
    switch (p->class) {
    case PROVIDER_CALLER:
    case PROVIDER_UNSUPPORTED:
        err_set_param(e, p->status == 404 ? ERR_NOT_FOUND : ERR_INPUT, p->param, "%s: %s", name, p->message);
        return;
    case PROVIDER_CONTEXT:
        err_set_param(e, ERR_CONTEXT, "messages", "%s: %s", name, p->message);
        return;
    case PROVIDER_WAIT:
        err_set(e, ERR_RATE, "%s has too much to do: try again.", name);
        break;
    default:
        err_set(e, ERR_PROVIDER, "provider %s: %s", name, p->message);
    }
    log_warn("provider %s: %s (status %d, code '%s')", name, p->message, p->status, p->code);
}

static void call_free(struct hosted_call *h)
{
    tariff_table_release(h->tariffs);
    hosted_release(h->hosts);
    free(h);
}

/* Nobody waits any more: the ledger gets what it came to. */
static void settle_alone(struct hosted_call *h, enum ledger_end end)
{
    struct ledger_op o, *all = &h->end;
    if (h->charge) {
        const int n = all->served;
        hosted_bill_end(&h->bill, end, &o);
        all->type = o.type;
        all->outcome = o.outcome;
        all->sale_nusd = o.sale_nusd;
        all->used[0] = o.used[0];
        all->used[0].n = n;
        charge_end(h->charge, all, NULL, NULL);
        const int64_t most_nusd = h->bill.hold_nusd;
        overflow_settle(h->gateway->route.overflow, &h->overflow, o.sale_nusd < most_nusd ? o.sale_nusd : most_nusd, false, 0);
    }
    h->charge = NULL;
}

/* What is said only of the chunk (a fingerprint, beside the role) is nothing of the answer yet. */
static bool is_content(const struct event *ev)
{
    return ev->type != EVENT_DELTA || ev->n_text || ev->n_logprobs || ev->extra.choice || ev->extra.delta;
}

static int call_event(void *ctx, const struct event *ev)
{
    struct hosted_call *h = ctx;
    struct completion *c = h->owner;
    if (!c) return 0;
    struct hosted_bill *b = c->bill;
    hosted_bill_tier(b, json_string_value(json_object_get(ev->extra.chunk, "service_tier")));
    if (ev->type == EVENT_USAGE) {
        c->usage = ev->usage;
        if (ev->metered) hosted_bill_usage(b, ev->metered, NULL);
        return 0;
    }
    b->out_bytes += (int64_t)(ev->n_text + ev->tool_call.n_arguments);
    if (is_content(ev)) {
        if (!h->first_ms && ev->type != EVENT_FINISH) h->first_ms = loop_now_ms(h->gateway->loop);
        completion_first_token(c); /* an empty choice that has ended has begun, too */
    }
    completion_event(c, ev); /* c, and h with it, may be gone now */
    return 0;
}

static void call_ended(void *ctx, const struct upstream_result *r)
{
    struct hosted_call *h = ctx;
    struct completion *c = h->owner;
    h->call = NULL;
    take_limits(h, &r->limits);
    measure(h, r);
    const enum fault fault = r->deadline ? FAULT_LEFT : fault_of_result(r);
    const int64_t hint_ms = r->error.retry_after_ms > 0 ? r->error.retry_after_ms : 0;
    learn(h, fault, hint_ms);
    struct hosted_bill *b = c ? c->bill : &h->bill;
    b->left = r->sent && (r->deadline || !c);
    b->unsure = r->sent && r->outcome != UPSTREAM_WHOLE && r->error.status < 300;
    if (r->usage) hosted_bill_usage(b, r->usage, r->usage_raw);
    if (!c) {
        settle_alone(h, r->outcome == UPSTREAM_WHOLE ? LEDGER_SERVED : LEDGER_CUT);
        call_free(h);
        return;
    }
    if (r->outcome == UPSTREAM_WHOLE) return; /* its FINISH events have been there */
    struct err e;
    if (hint_ms) c->retry_after_s = (int)((hint_ms + 999) / 1000);
    if (r->deadline)
        err_set(&e, ERR_DEADLINE, "The request's time is up.");
    else
        tell(h, &r->error, &e);
    completion_event(c, &(struct event){.type = EVENT_ERROR, .err = &e, .fault = fault, .hint_ms = hint_ms});
}

static int hosted_start(struct completion *c, struct err *e)
{
    struct gateway *g = c->gateway;
    struct hosted_model *m = c->hosted;
    int64_t now_ms = loop_now_ms(g->loop), wait_ms = 0;
    int i_key = host_keys_pick(&m->host->keys, c->session, now_ms, &wait_ms);
    if (i_key < 0) {
        c->retry_after_s = wait_ms > 0 && wait_ms <= 60000 ? (int)((wait_ms + 999) / 1000) : 60;
        return err_set(e, ERR_PROVIDER, "provider %s: no key of it is usable now", m->host->host.name);
    }
    struct hosted_call *h = calloc(1, sizeof *h);
    if (!h) return err_set(e, ERR_MEMORY, "out of memory");
    *h = (struct hosted_call){.owner = c, .gateway = g, .hosts = hosted_hold(c->hosts), .model = m, .i_key = i_key, .sent_ms = now_ms, .tariffs = tariff_table_hold(c->tariffs)};
    if (!breaker_begin(&m->breaker, now_ms, &h->pass)) {
        call_free(h);
        return err_set(e, ERR_PROVIDER, "provider %s: '%s' has failed too often and is not asked now", m->host->host.name, m->price->model);
    }
    struct upstream_callbacks cb = {.event = call_event, .ended = call_ended, .ctx = h};
    int rc = upstream_start(g->upstream, &m->host->host, (size_t)i_key, &c->wire, c->deadline_ms + DEADLINE_AFTER_MS, &cb, &h->call, e);
    if (rc) {
        breaker_abandon(&m->breaker, h->pass);
        call_free(h);
        return rc;
    }
    host_keys_begin(&m->host->keys, i_key, now_ms);
    c->source_state = h;
    return 0;
}

/* The client is gone, or it has its whole answer. */
static void hosted_stop(struct completion *c)
{
    struct hosted_call *h = c->source_state;
    struct err e;
    c->source_state = NULL;
    h->owner = NULL;
    if (!h->call) {
        call_free(h);
        return;
    }
    if (c->settling) { /* the body's end is still to come */
        h->bill = *c->bill;
        return;
    }
    const bool reads_on = h->model->host->host.row->on_disconnect == DISCONNECT_DRAIN && !h->gateway->draining; /* it would not see the end */
    if (reads_on && c->charge && upstream_drain(h->call, &e) == 0) {
        completion_end_later(c, &h->end);
        h->bill = *c->bill;
        h->charge = c->charge;
        c->charge = NULL;
        h->overflow = c->overflow;
        c->overflow.open = false;
        return;
    }
    struct upstream_result r;
    upstream_cancel(h->call, &r, NULL);
    c->bill->left = r.sent;
    learn(h, FAULT_LEFT, 0);
    call_free(h);
}

const struct source_ops source_hosted = {.name = "hosted", .start = hosted_start, .stop = hosted_stop};
