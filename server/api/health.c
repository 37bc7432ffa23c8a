/* GET /livez: the loop turns. GET /readyz: of every model a worker is ready, the accounts can be written and the server is not draining; on which
 * devices, and which of them are lost. Both are open and tell nothing else. GET /healthz: details, for an admin key only; always 200, so that monitors read the body. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "server/api/endpoint.h"
#include "server/api/errors.h"
#include "server/api/model_write.h"
#include "server/remote_image.h"

enum { REPLY_MAX_BYTES = 1 << 20 };

static void livez_get(struct gateway *g, struct http_request *r)
{
    (void)g;
    http_reply(r, 200, "text/plain", "ok\n", 3);
}

/* None that should be here: there is none, or others stand in for all that could not be loaded. Whether they are there their breakers tell. */
static bool hosted_only(const struct gateway *g)
{
    if (!g->hosted || !g->hosted->n_hosts) return false;
    for (size_t i = 0; i < g->n_models; i++)
        if (g->models[i]->state != MODEL_FAILED || !g->models[i]->n_stand_ins) return false;
    return true;
}

/* NULL: ready. Models that are loaded or unloaded while others serve, and such as could not be loaded, make nobody wait. */
static const char *why_not_ready(const struct gateway *g)
{
    const char *why = g->draining ? "draining" : NULL;
    size_t n_ready = 0;
    for (size_t i = 0; i < g->n_models && !why; i++) {
        const struct gateway_model *m = g->models[i];
        if (m->state != MODEL_READY) continue;
        n_ready++;
        bool moves = false;
        for (size_t j = 0; j < m->n_replicas; j++) moves |= worker_is_moving(m->replicas[j].worker);
        if (!moves) why = gateway_model_serves(m) ? "worker_stalled" : gateway_model_lost(m) ? "device_lost" : "worker_down";
    }
    if (!why && g->ledger && !ledger_writer_state(g->ledger).open) why = "accounts_unavailable";
    return why || n_ready || hosted_only(g) ? why : "worker_down";
}

static bool is_said(const char *const *said, size_t n, const char *device)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(said[i], device) == 0) return true;
    return false;
}

/* Each device once; of a lost one also what it has reported, whether or not others serve. */
static void write_devices(struct buf *b, const struct gateway *g, bool ready)
{
    const char *said[GATEWAY_MAX_MODELS * GATEWAY_MAX_REPLICAS];
    size_t n = 0;
    for (size_t i = 0; i < g->n_models; i++) {
        const struct gateway_model *m = g->models[i];
        for (size_t j = 0; j < m->n_replicas && m->state == MODEL_READY; j++) {
            const struct gateway_replica *r = &m->replicas[j];
            const char *device = replica_device(r), *lost = worker_lost(r->worker);
            if ((!ready && !lost) || is_said(said, n, device)) continue;
            said[n++] = device;
            buf_printf(b, "device: %s%s%s\n", device, lost ? ", lost: " : "", lost ? lost : "");
        }
    }
}

static void readyz_get(struct gateway *g, struct http_request *r)
{
    const char *why = why_not_ready(g);
    struct buf b;
    buf_init(&b, GATEWAY_MAX_MODELS * GATEWAY_MAX_REPLICAS * 256);
    buf_printf(&b, "%s\n", why ? why : "ok");
    struct ledger_writer_state accounts = g->ledger ? ledger_writer_state(g->ledger) : (struct ledger_writer_state){.open = true};
    if (!accounts.open) buf_printf(&b, "accounts: %s\n", accounts.trouble);
    write_devices(&b, g, !why);
    for (size_t i = 0; i < g->n_models; i++)
        if (g->models[i]->state == MODEL_FAILED && g->models[i]->n_stand_ins) buf_puts(&b, "a model could not be loaded: its stand-ins answer\n");
    if (b.failed) {
        struct err e;
        err_set(&e, ERR_MEMORY, "The server is out of memory: try again.");
        api_error_reply(r, api_error_of(&e), &e);
    } else
        http_reply(r, why ? 503 : 200, "text/plain", b.data, b.len);
    buf_free(&b);
}

/* One entry a worker. */
static void write_replica(struct buf *b, const struct gateway_replica *r)
{
    const struct gateway_model *m = r->model;
    struct worker_info w = r->worker ? worker_info(r->worker) : (struct worker_info){.state = gateway_model_state_name(m)};
    buf_puts(b, "{\"id\":");
    json_write_string(b, m->id, strlen(m->id));
    if (r->gpu >= 0) buf_printf(b, ",\"gpu\":%d", r->gpu);
    buf_printf(b,
               ",\"state\":\"%s\",\"device\":\"%s\",\"max_context\":%u,\"sequences\":%u,\"restarts\":%u,\"process_age_ms\":%" PRId64
               ",\"still_ms\":%" PRId64 ",\"rss_bytes\":%" PRId64 "}",
               w.state, replica_device(r), m->max_context, w.sequences, w.restarts, w.state_ms, w.still_ms, process_resident_bytes(w.pid));
}

static void write_accounts(const struct gateway *g, struct buf *b)
{
    if (!g->ledger) {
        buf_puts(b, ",\"accounts\":null");
        return;
    }
    struct ledger_writer_state s = ledger_writer_state(g->ledger);
    buf_printf(b, ",\"accounts\":{\"open\":%s,\"why\":", s.open ? "true" : "false");
    json_write_string(b, s.why, strlen(s.why));
    buf_printf(b, ",\"waiting\":%zu,\"in_journal\":%zu}", s.n_waiting, s.n_kept);
}

/* null: pictures are not fetched from URLs. */
static void write_remote(struct buf *b, const struct remote_images *r)
{
    const struct remote_info i = r ? remote_images_info(r) : (struct remote_info){.running = 0};
    buf_puts(b, ",\"remote_images\":");
    if (r)
        buf_printf(b, "{\"running\":%" PRId64 ",\"waiting\":%" PRId64 ",\"fetched\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"unallowed\":%" PRIu64 "}", i.running,
                   i.waiting, i.fetched, i.failed, i.unallowed);
    else
        buf_puts(b, "null");
}

static void write_health(const struct gateway *g, struct buf *b)
{
    const char *why = why_not_ready(g);
    int64_t now_ms = clock_boot_ms();
    buf_printf(b, "{\"status\":\"%s\",\"uptime_ms\":%" PRId64 ",\"models\":[", why ? why : "ok", now_ms - g->started_ms);
    for (size_t i = 0; i < g->n_models; i++) {
        for (size_t j = 0; j < g->models[i]->n_replicas; j++) {
            if (i || j) buf_putc(b, ',');
            write_replica(b, &g->models[i]->replicas[j]);
        }
    }
    struct media_info m = media_info(g->media);
    buf_printf(b, "],\"media\":{\"processes\":%u,\"up\":%u,\"busy\":%u,\"waiting\":%u,\"restarts\":%u}", m.processes, m.up, m.busy,
               m.waiting, m.restarts);
    write_remote(b, g->remote);
    buf_printf(b, ",\"connections\":%u,\"requests\":%u,\"completions\":%zu", http_connections(g->http), http_open_requests(g->http),
               g->n_completions);
    buf_printf(b, ",\"prompt_tokens\":%" PRId64, g->n_prompt_tokens);
    if (g->accounts)
        buf_printf(b, ",\"keys\":{\"valid\":%zu,\"read_ago_ms\":%" PRId64 "}", accounts_key_count(g->accounts),
                   now_ms - g->accounts_fresh_ms);
    else
        buf_puts(b, ",\"keys\":null");
    write_accounts(g, b);
    buf_printf(b, ",\"rss_bytes\":%" PRId64 "}\n", process_resident_bytes(getpid()));
}

static void healthz_get(struct gateway *g, struct http_request *r)
{
    struct buf b;
    buf_init(&b, REPLY_MAX_BYTES);
    write_health(g, &b);
    if (b.failed) {
        struct err e;
        err_set(&e, ERR_INTERNAL, "the health report does not fit");
        api_error_reply(r, API_INTERNAL_ERROR, &e);
    } else
        http_reply(r, 200, "application/json", b.data, b.len);
    buf_free(&b);
}

const struct endpoint endpoint_livez = {.method = "GET", .path = "/livez", .access = ACCESS_OPEN, .handle = livez_get};
const struct endpoint endpoint_readyz = {.method = "GET", .path = "/readyz", .access = ACCESS_OPEN, .handle = readyz_get};
const struct endpoint endpoint_healthz = {.method = "GET", .path = "/healthz", .access = ACCESS_ADMIN, .handle = healthz_get};
