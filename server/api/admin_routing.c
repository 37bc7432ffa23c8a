/* GET /admin/routing, for admin keys: what routing has decided since the start and why, what overflow came to and saved, and how each provider is. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "server/api/endpoint.h"
#include "server/api/errors.h"

enum { REPLY_MAX_BYTES = 4 << 20 };

static void put_text(struct buf *b, const char *key, const char *text)
{
    buf_printf(b, "\"%s\":", key);
    json_write_string(b, text, strlen(text));
}

/* Of this gateway; what is charged is the ledger's. */
static void put_overflow(struct buf *b, const struct overflow *o)
{
    const struct overflow_counts *n = overflow_counts(o);
    buf_printf(b,
               "\"overflow\":{\"requests\":%" PRIu64 ",\"overflowed\":%" PRIu64 ",\"rescued\":%" PRIu64 ",\"cost_nusd\":%" PRId64
               ",\"saved_ms\":%" PRId64 ",\"over_hold\":%" PRIu64 ",\"this_hour_nusd\":%" PRId64 "}",
               n->n_requests, n->n_overflow, n->n_rescued, n->cost_nusd, n->saved_ms, n->n_over_hold,
               overflow_hour_nusd(o, -1, clock_wall_s() / 3600));
}

static void put_reasons(struct buf *b, const struct route_state *s)
{
    const char *comma = "";
    buf_puts(b, ",\"reasons\":{");
    for (int i = 0; i < ROUTE_REASONS; i++) {
        if (!s->n_by_reason[i]) continue;
        buf_printf(b, "%s\"%s\":%" PRIu64, comma, route_reasons[i].name, s->n_by_reason[i]);
        comma = ",";
    }
    buf_putc(b, '}');
}

static void put_locals(struct buf *b, const struct gateway *g)
{
    buf_puts(b, ",\"local\":[");
    for (size_t i = 0; i < g->n_models; i++) {
        const struct gateway_model *m = g->models[i];
        const struct route_spill *spill = &g->route.spill[m->number];
        buf_puts(b, i ? ",{" : "{");
        put_text(b, "model", m->id);
        buf_printf(b, ",\"stand_ins\":%zu,\"spills\":%s,\"switches\":%" PRIu64 "}", m->n_stand_ins, spill->on ? "true" : "false", spill->n_switches);
    }
    buf_putc(b, ']');
}

/* A model that nobody has asked for lately, and whose breaker is closed, is not news. */
static bool is_news(const struct hosted_model *m, const struct speed_now *speed)
{
    return m->breaker.n_failures || speed->age_ms != INT64_MAX;
}

static void put_models(struct buf *b, const struct hosted *h, const struct hosted_host *host, int64_t now_ms)
{
    const char *comma = "";
    buf_puts(b, ",\"models\":[");
    for (size_t i = 0; i < h->n_models; i++) {
        const struct hosted_model *m = &h->models[i];
        const struct speed_now speed = speed_now(&m->speed, now_ms);
        if (m->host != host || !is_news(m, &speed)) continue;
        buf_printf(b, "%s{", comma);
        put_text(b, "model", m->price->model);
        buf_printf(b, ",\"breaker\":\"%s\",\"failures\":%" PRIu64 ",\"openings\":%" PRIu64 ",\"wait_ms\":%" PRId64, breaker_state_name(&m->breaker, now_ms),
                   m->breaker.n_failures, m->breaker.n_openings, breaker_wait_ms(&m->breaker, now_ms));
        if (speed.first_ms) buf_printf(b, ",\"first_token_ms\":%" PRId64, speed.first_ms);
        if (speed.token_us) buf_printf(b, ",\"token_us\":%" PRId64, speed.token_us);
        buf_putc(b, '}');
        comma = ",";
    }
    buf_putc(b, ']');
}

static void put_hosts(struct buf *b, const struct hosted *h, int64_t now_ms)
{
    buf_puts(b, ",\"providers\":[");
    for (size_t i = 0; h && i < h->n_hosts; i++) {
        const struct hosted_host *host = &h->hosts[i];
        buf_puts(b, i ? ",{" : "{");
        put_text(b, "provider", host->host.name);
        buf_printf(b, ",\"retry\":%s,\"keys\":[", retry_allowed(&host->retries, now_ms) ? "true" : "false");
        for (size_t k = 0; k < host->keys.n; k++) buf_printf(b, "%s\"%s\"", k ? "," : "", host_key_state_name(&host->keys, (int)k, now_ms));
        buf_putc(b, ']');
        put_models(b, h, host, now_ms);
        buf_putc(b, '}');
    }
    buf_putc(b, ']');
}

static void routing_get(struct gateway *g, struct http_request *r)
{
    struct buf b;
    struct err e;
    buf_init(&b, REPLY_MAX_BYTES);
    buf_putc(&b, '{');
    put_overflow(&b, g->route.overflow);
    put_reasons(&b, &g->route);
    put_locals(&b, g);
    put_hosts(&b, g->hosted, loop_now_ms(g->loop));
    buf_putc(&b, '}');
    if (b.failed) {
        err_set(&e, ERR_MEMORY, "out of memory");
        api_error_reply(r, api_error_of(&e), &e);
    } else
        http_reply(r, 200, "application/json", b.data, b.len);
    buf_free(&b);
}

const struct endpoint endpoint_admin_routing = {.method = "GET", .path = "/admin/routing", .access = ACCESS_ADMIN, .handle = routing_get};
