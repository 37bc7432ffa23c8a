/* Explain: see explain.h. */
#include "server/routing/explain.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/str.h"

/* A header must not end early, and its marks (; , = and blanks) are ours. */
static bool is_plain(unsigned char ch)
{
    return (ch >= '0' && ch <= '9') || (ch >= 'A' && ch <= 'Z') || (ch >= 'a' && ch <= 'z') || (ch && strchr("._/:@+-", ch));
}

char *explain_served_by(const struct route_candidate *c, char out[EXPLAIN_NAME_BYTES])
{
    snprintf(out, EXPLAIN_NAME_BYTES, "%s/%s", c->host, c->model);
    for (char *p = out; *p; p++)
        if (!is_plain((unsigned char)*p)) *p = '_';
    return out;
}

/* The figure behind candidate i's reason, where there is one. */
static void figure(const struct route_candidate *c, const struct route_decision *d, size_t i, char out[64])
{
    enum route_reason r = d->passed[i];
    out[0] = '\0';
    if (r == ROUTE_QUEUE) snprintf(out, 64, "(%lld>%lldms)", (long long)route_predicted_ms(&c[i]), (long long)d->bound_ms[i]);
    if (r == ROUTE_CONTEXT) snprintf(out, 64, "(%lld)", (long long)c[i].context);
    if (r == ROUTE_BREAKER) snprintf(out, 64, "(%llds)", (long long)(c[i].breaker_wait_ms + 999) / 1000);
    if (r == ROUTE_KEY) snprintf(out, 64, "(%llds)", (long long)(c[i].key_wait_ms + 999) / 1000);
}

char *explain_header(const struct route_candidate *c, size_t n, const struct route_decision *d, char out[EXPLAIN_HEADER_BYTES])
{
    enum { TAIL = 16 }; /* for what was left out */
    size_t at =
        (size_t)snprintf(out, EXPLAIN_HEADER_BYTES, "%s%s;", d->action == ROUTE_REFUSE ? "refused " : "", route_reasons[d->reason].name);
    for (size_t i = 0; i < n; i++) {
        char name[EXPLAIN_NAME_BYTES], more[64], one[EXPLAIN_NAME_BYTES + 128];
        figure(c, d, i, more);
        int len =
            snprintf(one, sizeof one, "%s %s=%s%s", i ? "," : "", explain_served_by(&c[i], name), route_reasons[d->passed[i]].name, more);
        if (at + (size_t)len + TAIL >= EXPLAIN_HEADER_BYTES) {
            snprintf(out + at, EXPLAIN_HEADER_BYTES - at, ", +%zu", n - i);
            break;
        }
        memcpy(out + at, one, (size_t)len + 1);
        at += (size_t)len;
    }
    return out;
}

/* --- JSON --- */

static void put_text(struct buf *b, const char *key, const char *s)
{
    char plain[EXPLAIN_NAME_BYTES];
    buf_printf(b, ",\"%s\":", key);
    if (!s) {
        buf_puts(b, "null");
        return;
    }
    if (!utf8_valid(s, strlen(s))) s = explain_served_by(&(struct route_candidate){.host = "", .model = s}, plain) + 1;
    json_write_string(b, s, strlen(s));
}

static void put_count(struct buf *b, const char *key, int64_t v)
{
    if (v == INT64_MAX || v < 0)
        buf_printf(b, ",\"%s\":null", key);
    else
        buf_printf(b, ",\"%s\":%lld", key, (long long)v);
}

static void put_candidate(struct buf *b, const struct route_candidate *c, const struct route_decision *d, size_t i)
{
    enum route_reason reason = d->passed[i];
    char name[EXPLAIN_NAME_BYTES];
    bool hosted = c->want.kind == NAME_HOSTED;
    buf_printf(b, "{\"kind\":\"%s\"", hosted ? "hosted" : "local");
    put_text(b, "served_by", explain_served_by(c, name));
    put_text(b, "provider", c->host);
    put_text(b, "model", c->model);
    put_text(b, "region", c->region_name);
    put_text(b, "reason", route_reasons[reason].name);
    put_text(b, "words", route_reasons[reason].words);
    buf_printf(b, ",\"stands_in\":%s,\"policy\":\"%s\"", c->want.stands_in ? "true" : "false", route_policy_names[c->want.policy]);
    put_count(b, "cost_nusd", c->has_price ? c->cost_nusd : -1);
    put_count(b, "hold_nusd", c->has_price ? c->hold_nusd : -1);
    put_count(b, "first_token_ms", !hosted ? route_predicted_ms(c) : c->speed.first_ms ? c->speed.first_ms : -1);
    put_count(b, "token_us", c->speed.token_us ? c->speed.token_us : -1);
    if (!hosted) {
        put_count(b, "target_ms", c->target_ms ? c->target_ms : -1);
        put_count(b, "bound_ms", c->target_ms ? d->bound_ms[i] : -1);
        buf_printf(b, ",\"spills\":%s", d->spills[i] ? "true" : "false");
    }
    buf_putc(b, '}');
}

static const char *const actions[] = {[ROUTE_RUN] = "run", [ROUTE_ENTER] = "queue", [ROUTE_STAY] = "stay", [ROUTE_REFUSE] = "refuse"};

int explain_json(struct buf *b, const struct route_candidate *c, size_t n, const struct route_wish *w, const struct route_decision *d)
{
    char name[EXPLAIN_NAME_BYTES];
    buf_printf(b, "{\"object\":\"route\",\"action\":\"%s\"", actions[d->action]);
    put_text(b, "served_by", d->chosen >= 0 ? explain_served_by(&c[d->chosen], name) : NULL);
    put_text(b, "reason", route_reasons[d->reason].name);
    buf_printf(b, ",\"overflow\":%s", d->overflow ? "true" : "false");
    put_count(b, "prompt_tokens", w->prompt_tokens);
    put_count(b, "deadline_ms", w->left_ms);
    buf_puts(b, ",\"candidates\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) buf_putc(b, ',');
        put_candidate(b, &c[i], d, i);
    }
    buf_puts(b, "],\"error\":");
    if (d->action == ROUTE_REFUSE) {
        buf_printf(b, "{\"status\":%d", d->status);
        put_text(b, "code", d->code);
        put_text(b, "message", d->err.msg);
        put_text(b, "param", *d->err.param ? d->err.param : NULL);
        put_count(b, "retry_after_s", d->retry_after_s ? d->retry_after_s : -1);
        buf_puts(b, "}}");
    } else {
        buf_puts(b, "null}");
    }
    return b->failed;
}
