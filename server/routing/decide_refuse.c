/* Decide, the refusal: which of the reasons is told, and when to come again. */
#include "server/routing/decide_parts.h"

#include <stdio.h>
#include <string.h>

/* Until this candidate may serve; below 0: it never will. */
static int64_t wait_ms(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    switch (k->d->passed[i]) {
    case ROUTE_FULL:
    case ROUTE_QUEUE:
    case ROUTE_DEADLINE:
        return decide_is_hosted(c) ? 1000 : c->wait_ms;
    case ROUTE_KEY:
        return c->key_wait_ms;
    case ROUTE_BREAKER:
        return c->breaker_wait_ms;
    case ROUTE_CAP:
    case ROUTE_SHARE:
        return ROUTE_RETRY_MAX_S * 1000;
    default:
        return route_reasons[k->d->passed[i]].again ? 1000 : -1;
    }
}

/* The shortest, lengthened by up to a half by the request's own chance: those who were refused together do not come again together. */
static int retry_after_s(const struct work *k)
{
    int64_t least_ms = -1;
    for (size_t i = 0; i < k->n; i++) {
        int64_t ms = wait_ms(k, i);
        if (ms >= 0 && (least_ms < 0 || ms < least_ms)) least_ms = ms;
    }
    if (least_ms > ROUTE_RETRY_MAX_S * 1000) least_ms = ROUTE_RETRY_MAX_S * 1000;
    int64_t s = (least_ms + least_ms * (int64_t)(k->w->draw % 1024) / 2048 + 999) / 1000;
    return s < 1 ? 1 : s > ROUTE_RETRY_MAX_S ? ROUTE_RETRY_MAX_S : (int)s;
}

/* The field at fault, and what is wrong in more words. */
static const char *details(const struct work *k, size_t i, char out[256])
{
    const struct route_candidate *c = &k->c[i];
    const char *param = "";
    size_t at = 0;
    out[0] = '\0';
    if (k->d->passed[i] == ROUTE_CONTEXT) {
        snprintf(out, 256, ": %lld tokens, the prompt has %lld", (long long)c->context, (long long)k->w->prompt_tokens);
        return "messages";
    }
    if (k->d->passed[i] != ROUTE_CAPABILITY) return k->d->passed[i] == ROUTE_PRICE_UNKNOWN ? "model" : param;
    for (size_t r = 0; r < n_route_can_rows; r++) {
        const struct route_can_row *row = &route_can_rows[r];
        if (!(k->w->needs & ~c->can & row->bit)) continue;
        at += (size_t)snprintf(out + at, 256 - at, "%s it cannot %s", at ? "," : ":", row->words);
        if (!*param) param = row->param;
    }
    return param;
}

void decide_refuse(struct work *k)
{
    struct route_decision *d = k->d;
    size_t told = k->order[0];
    for (size_t j = 1; j < k->n; j++) {
        size_t i = k->order[j];
        if (route_reasons[d->passed[i]].rank > route_reasons[d->passed[told]].rank) told = i;
    }
    const struct route_candidate *c = &k->c[told];
    const struct route_reason_row *row = &route_reasons[d->passed[told]];
    CHECK(row->rank > 0); /* a reserve has one before it that was passed over for something else */
    char more[256];
    const char *param = details(k, told, more);
    d->action = ROUTE_REFUSE;
    d->chosen = -1;
    d->reason = d->passed[told];
    d->status = row->status;
    d->code = row->code;
    d->retry_after_s = row->again ? retry_after_s(k) : 0;
    err_set_param(&d->err, row->err, param, "No model takes this request: %.100s/%.100s %s%s.", c->host, c->model, row->words, more);
}
