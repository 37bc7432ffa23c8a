/* Decide: see decide.h. */
#include "server/routing/decide.h"

#include "server/routing/decide_parts.h"

void route_candidate_init(struct route_candidate *c, const struct name_catalogue *cat, const struct name_route *r)
{
    *c = (struct route_candidate){.want = *r, .breaker = BREAKER_NO, .local = ROUTE_LOCAL_DOWN};
    if (r->kind == NAME_LOCAL) {
        c->host = "local";
        c->model = cat->locals[r->index].name;
        return;
    }
    const struct name_hosted *h = &cat->hosted[r->index];
    c->host = cat->hosts[h->host];
    c->i_host = h->host;
    c->model = h->model;
}

void route_wish_init(struct route_wish *w)
{
    *w = (struct route_wish){.hosts = ~(uint64_t)0,
                             .regions = ~(uint64_t)0,
                             .left_ms = INT64_MAX,
                             .left_nusd = INT64_MAX,
                             .hosted_left_nusd = INT64_MAX,
                             .unheld_nusd = INT64_MAX,
                             .hosted_unheld_nusd = INT64_MAX,
                             .sticky = -1};
}

static bool is_within_target(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    return c->target_ms <= 0 || route_predicted_ms(c) <= k->d->bound_ms[i];
}

/* The local model of this entry that would take it, only later than it should; -1: none. */
static int local_that_waits(const struct work *k, uint8_t entry)
{
    for (size_t j = 0; j < k->n; j++) {
        size_t i = k->order[j];
        if (k->c[i].want.entry == entry && k->d->passed[i] == ROUTE_QUEUE) return (int)i;
    }
    return -1;
}

/* What stands in the way of one that the filters let pass; ROUTE_CHOSEN: nothing. */
static enum route_reason looked_at(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    if (!decide_is_hosted(c)) return c->free_now || is_within_target(k, i) ? ROUTE_CHOSEN : ROUTE_QUEUE;
    int local = c->want.stands_in ? local_that_waits(k, c->want.entry) : -1;
    return local >= 0 && c->speed.first_ms > 0 && c->speed.first_ms >= route_predicted_ms(&k->c[local]) ? ROUTE_SLOWER : ROUTE_CHOSEN;
}

/* Why it and not one before it. What stands in answers for its local model. */
static enum route_reason why(const struct work *k, size_t chosen)
{
    const struct route_candidate *c = &k->c[chosen];
    enum route_reason first = ROUTE_LATER;
    for (size_t j = 0; j < k->n && k->order[j] != chosen; j++) {
        size_t i = k->order[j];
        if (first == ROUTE_LATER) first = k->d->passed[i];
        if (c->want.stands_in && !decide_is_hosted(&k->c[i]) && k->c[i].want.entry == c->want.entry) return k->d->passed[i];
    }
    return first != ROUTE_LATER ? first : decide_is_hosted(c) ? ROUTE_BY_POLICY : ROUTE_LOCAL_OK;
}

static void choose(struct work *k, size_t i, enum route_reason reason)
{
    struct route_decision *d = k->d;
    const struct route_candidate *c = &k->c[i];
    int local = local_that_waits(k, c->want.entry);
    d->chosen = (int)i;
    d->reason = reason;
    d->passed[i] = ROUTE_CHOSEN;
    d->action = decide_is_hosted(c) || c->free_now ? ROUTE_RUN : ROUTE_ENTER;
    d->overflow = decide_is_hosted(c) && c->want.stands_in;
    d->local_ms = d->overflow && local >= 0 ? route_predicted_ms(&k->c[local]) : -1;
    d->probe = (int)i == k->probe;
}

static void begin(struct work *k)
{
    CHECK(k->n > 0 && k->n <= NAME_MAX_ROUTES);
    *k->d = (struct route_decision){.chosen = -1, .local_ms = -1, .code = "", .again = k->at >= 0};
    decide_filter(k);
    decide_order(k);
}

int route_decide(const struct route_candidate *c, size_t n, const struct route_wish *w, const struct route_state *s,
                 struct route_decision *d)
{
    struct work k = {.c = c, .n = n, .w = w, .s = s, .d = d, .at = -1, .probe = -1};
    begin(&k);
    for (size_t j = 0; j < n; j++) { /* run now, queue within the target, or overflow: whichever comes first in the policy's order */
        size_t i = k.order[j];
        if (d->passed[i] != ROUTE_LATER) continue;
        d->passed[i] = looked_at(&k, i);
        if (d->passed[i] != ROUTE_CHOSEN) continue;
        choose(&k, i, why(&k, i));
        return 0;
    }
    for (size_t j = 0; j < n; j++) { /* queue within the deadline, which the filters have looked at */
        if (d->passed[k.order[j]] != ROUTE_QUEUE) continue;
        choose(&k, k.order[j], ROUTE_WAITS);
        return 0;
    }
    decide_refuse(&k);
    return -(int)d->err.code;
}

/* --- while it waits --- */

/* As far as is known; else what would be just right. */
static int64_t first_token_ms(const struct route_candidate *c, const struct route_candidate *here)
{
    if (!decide_is_hosted(c)) return route_predicted_ms(c);
    return c->speed.first_ms > 0 ? c->speed.first_ms : here->target_ms;
}

/* Why it should leave its queue, and in *before_ms by when it must begin elsewhere; ROUTE_LATER: it should not. */
static enum route_reason why_leave(const struct work *k, int64_t *before_ms)
{
    const struct route_candidate *here = &k->c[k->at];
    int64_t left_ms = route_predicted_ms(here), margin_ms = left_ms * ROUTE_MARGIN_PER_CENT / 100;
    *before_ms = k->w->left_ms;
    if (k->d->passed[k->at] == ROUTE_DOWN || k->d->passed[k->at] == ROUTE_DEADLINE) return k->d->passed[k->at];
    *before_ms = left_ms - (margin_ms > ROUTE_MARGIN_MS ? margin_ms : ROUTE_MARGIN_MS);
    return here->free_now || here->target_ms <= 0 || left_ms <= here->target_ms ? ROUTE_LATER : ROUTE_QUEUE;
}

void route_again(const struct route_candidate *c, size_t n, const struct route_wish *w, const struct route_state *s, size_t at,
                 struct route_decision *d)
{
    struct work k = {.c = c, .n = n, .w = w, .s = s, .d = d, .at = (int)at, .probe = -1};
    CHECK(at < n && c[at].want.kind == NAME_LOCAL);
    begin(&k);
    int64_t before_ms;
    enum route_reason reason = why_leave(&k, &before_ms);
    for (size_t j = 0; j < n && reason != ROUTE_LATER; j++) {
        size_t i = k.order[j];
        if (i == at || d->passed[i] != ROUTE_LATER) continue;
        if (first_token_ms(&c[i], &c[at]) > before_ms) {
            d->passed[i] = ROUTE_SLOWER;
            continue;
        }
        d->passed[at] = reason;
        choose(&k, i, reason);
        return;
    }
    d->action = ROUTE_STAY;
    d->chosen = (int)at;
    d->reason = reason == ROUTE_LATER ? ROUTE_LOCAL_OK : ROUTE_WAITS;
    d->passed[at] = ROUTE_CHOSEN;
}

/* --- what follows --- */

void route_commit(struct route_state *s, const struct route_candidate *c, size_t n, const struct route_wish *w,
                  const struct route_decision *d, struct overflow_ticket *t)
{
    struct overflow_ask ask;
    bool has_local = false;
    for (size_t i = 0; i < n; i++) {
        if (decide_is_hosted(&c[i])) continue;
        struct route_spill *spill = &s->spill[c[i].want.index];
        has_local |= !c[i].want.reserve;
        spill->n_switches += spill->on != d->spills[i];
        spill->on = d->spills[i];
    }
    if (has_local && !w->counted) {
        decide_overflow_ask(&c[0], w, &ask);
        overflow_count(s->overflow, &ask);
    }
    if (!d->again || d->action != ROUTE_STAY) s->n_by_reason[d->reason]++;
    if (!d->overflow) return;
    CHECK(!t->open);
    decide_overflow_ask(&c[d->chosen], w, &ask);
    overflow_hold(s->overflow, &ask, d->local_ms, t);
}
