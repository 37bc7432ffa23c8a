/* Drives hosted providers' calls from a script, on a real loop, and prints what comes as JSON lines: for
 * tests/providers/test_conformance.py and for trying a host by hand.
 *
 *     {"host": {"provider": "groq", "base_url": "...", "keys": ["..."], "headers": []}, "config": {"idle_ms": 1000, "ca_file": "..."},
 *      "parallel": false,
 *      "calls": [{"model": "...", "max_tokens": 100, "request": {...}, "key": 0, "deadline_ms": 5000,
 *                 "cancel_at": 2, "drain_at": 2, "drain_after_ms": 50}, {"get": "models"}]}
 *
 * A call begins when the one before it has ended, or all at once with "parallel". cancel_at, drain_at: after so many events. One line an
 * event, one a result. `--table` prints the table of providers. Exit 0: the script was run, whatever came of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "base/clock.h"
#include "server/providers/models_list.h"
#include "server/providers/upstream.h"

enum { MAX_CALLS = 4096 };

struct call {
    size_t i;
    const json_t *spec;
    struct upstream_call *call;
    struct loop_timer timer;
    int n_events;
    int64_t began_ns;
    bool gone;
};

static struct {
    struct loop *loop;
    struct upstream *up;
    struct provider_host host;
    struct call calls[MAX_CALLS];
    size_t n_calls, next, n_open;
    bool parallel, quiet;
} t;

static void print(json_t *line)
{
    struct buf text;
    buf_init(&text, 64u << 20);
    json_write(&text, line);
    puts(text.data ? text.data : "{}");
    fflush(stdout);
    buf_free(&text);
    json_decref(line);
}

static int64_t integer(const json_t *o, const char *key, int64_t otherwise)
{
    const json_t *v = json_object_get(o, key);
    return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

static const char *const event_names[] = {[EVENT_DELTA] = "delta",
                                          [EVENT_FINISH] = "finish",
                                          [EVENT_USAGE] = "usage",
                                          [EVENT_REASONING] = "reasoning",
                                          [EVENT_TOOL_CALL] = "tool_call"};
static const char *const finish_names[] = {
    [FINISH_STOP] = "stop", [FINISH_LENGTH] = "length", [FINISH_TOOL_CALLS] = "tool_calls", [FINISH_CONTENT_FILTER] = "content_filter"};
static const char *const meter_names[USAGE_METERS] = {"in_uncached", "in_cache_read", "in_cache_write_5m", "in_cache_write_1h", "in_audio",
                                                      "in_image",    "out_text",      "out_reasoning",     "out_audio",         "searches"};

static json_t *usage_json(const struct usage *u)
{
    json_t *o = json_object();
    for (int i = 0; i < USAGE_METERS; i++)
        if (u->present & 1u << i) json_object_set_new(o, meter_names[i], json_integer(u->count[i]));
    if (u->inconsistent) json_object_set_new(o, "inconsistent", json_true());
    return o;
}

static void put_extra(json_t *o, const char *key, const json_t *v)
{
    if (v) json_object_set(o, key, (json_t *)v);
}

static json_t *event_json(const struct call *c, const struct event *ev)
{
    json_t *o = json_pack("{s:I,s:s,s:I,s:f}", "call", (json_int_t)c->i, "event", event_names[ev->type], "choice", (json_int_t)ev->choice,
                          "ms", (double)(clock_boot_ns() - c->began_ns) / 1e6);
    if (ev->type == EVENT_DELTA || ev->type == EVENT_REASONING) json_object_set_new(o, "text", json_stringn(ev->text, ev->n_text));
    if (ev->type == EVENT_FINISH) json_object_set_new(o, "reason", json_string(finish_names[ev->finish]));
    if (ev->type == EVENT_USAGE) {
        json_object_set_new(o, "metered", usage_json(ev->metered));
        json_object_set_new(o, "told",
                            json_pack("{s:I,s:I}", "prompt_tokens", (json_int_t)ev->usage.prompt_tokens, "completion_tokens",
                                      (json_int_t)ev->usage.completion_tokens));
    }
    if (ev->n_logprobs) json_object_set_new(o, "n_logprobs", json_integer((json_int_t)ev->n_logprobs));
    if (ev->type == EVENT_TOOL_CALL) {
        const struct event_tool_call *tool = &ev->tool_call;
        json_object_set_new(o, "index", json_integer(tool->index));
        if (tool->id) json_object_set_new(o, "id", json_string(tool->id));
        if (tool->name) json_object_set_new(o, "name", json_string(tool->name));
        json_object_set_new(o, "arguments", json_stringn(tool->arguments, tool->n_arguments));
        put_extra(o, "extra", tool->extra);
    }
    put_extra(o, "extra_chunk", ev->extra.chunk);
    put_extra(o, "extra_choice", ev->extra.choice);
    put_extra(o, "extra_delta", ev->extra.delta);
    return o;
}

static json_t *error_json(const struct provider_error *e)
{
    return json_pack("{s:s,s:i,s:s,s:s,s:s,s:I}", "class", provider_error_class_name(e->class), "status", e->status, "code", e->code,
                     "message", e->message, "param", e->param, "retry_after_ms", (json_int_t)e->retry_after_ms);
}

static json_t *limits_json(const struct provider_limits *l)
{
    static const char *const names[LIMIT_METERS] = {"requests", "tokens", "tokens_in", "tokens_out"};
    static const char *const windows[] = {"unknown", "minute", "day"};
    json_t *o = json_object();
    for (int i = 0; i < LIMIT_METERS; i++) {
        const struct provider_limit *m = &l->meters[i];
        if (m->limit < 0 && m->remaining < 0 && m->reset_ms < 0) continue;
        json_object_set_new(o, names[i],
                            json_pack("{s:I,s:I,s:I,s:s}", "limit", (json_int_t)m->limit, "remaining", (json_int_t)m->remaining, "reset_ms",
                                      (json_int_t)m->reset_ms, "window", windows[m->window]));
    }
    return o;
}

static json_t *models_json(const struct upstream_result *r)
{
    struct arena arena;
    struct models_list list;
    struct err e;
    arena_init(&arena, 64 << 20);
    json_t *o = json_array();
    if (models_list_read(&list, t.host.row, r->body, r->n_body, &arena, &e)) json_array_append_new(o, json_string(e.msg));
    for (size_t i = 0; i < list.n_models; i++) {
        json_t *offers = json_array();
        for (size_t k = 0; k < list.models[i].n_offers; k++) {
            const struct model_offer *f = &list.models[i].offers[k];
            json_array_append_new(offers,
                                  json_pack("{s:s,s:b,s:I,s:I,s:I}", "provider", f->provider, "live", (int)f->live, "context",
                                            (json_int_t)f->context_length, "in", (json_int_t)f->in_nusd, "out", (json_int_t)f->out_nusd));
        }
        json_array_append_new(
            o, json_pack("{s:s,s:b,s:o}", "id", list.models[i].id, "images", (int)list.models[i].takes_images, "offers", offers));
    }
    arena_free(&arena);
    return o;
}

static json_t *result_json(const struct call *c, const struct upstream_result *r, const char *outcome)
{
    json_t *o = json_pack("{s:I,s:s,s:f,s:b,s:b,s:b,s:s,s:s,s:s,s:s,s:I,s:I}", "call", (json_int_t)c->i, "result", outcome, "ms",
                          (double)(clock_boot_ns() - c->began_ns) / 1e6, "has_content", (int)r->has_content, "sent", (int)r->sent,
                          "deadline", (int)r->deadline, "id", r->id, "model", r->model, "usage_raw", r->usage_raw, "request_id",
                          r->limits.request_id, "n_usage", (json_int_t)r->n_usage, "received_bytes", (json_int_t)r->received_bytes);
    json_object_set_new(o, "limits", limits_json(&r->limits));
    json_object_set_new(o, "times",
                        json_pack("{s:I,s:I,s:I,s:I,s:I,s:b,s:i}", "dns_us", (json_int_t)r->times.dns_us, "connect_us",
                                  (json_int_t)r->times.connect_us, "tls_us", (json_int_t)r->times.tls_us, "first_byte_us",
                                  (json_int_t)r->times.first_byte_us, "total_us", (json_int_t)r->times.total_us, "reused",
                                  (int)r->times.reused, "http", r->times.http_version));
    if (r->usage) json_object_set_new(o, "usage", usage_json(r->usage));
    if (r->outcome != UPSTREAM_WHOLE) json_object_set_new(o, "error", error_json(&r->error));
    if (r->outcome == UPSTREAM_WHOLE && json_object_get(c->spec, "get")) json_object_set_new(o, "models", models_json(r));
    return o;
}

static void begin_next(void);

static void call_over(struct call *c)
{
    c->gone = true;
    loop_timer_clear(t.loop, &c->timer);
    t.n_open--;
    if (!t.parallel) begin_next();
    if (t.n_open == 0 && t.next == t.n_calls) loop_stop(t.loop);
}

static void ended(void *ctx, const struct upstream_result *r)
{
    static const char *const outcomes[] = {"whole", "cut", "error"};
    struct call *c = ctx;
    print(result_json(c, r, outcomes[r->outcome]));
    call_over(c);
}

static void over_later(void *ctx)
{
    call_over(ctx);
}

static void set_timer(struct call *c, loop_timer_fn *fn, int64_t ms)
{
    c->timer = (struct loop_timer){.fn = fn, .ctx = c};
    if (loop_timer_set(t.loop, &c->timer, loop_now_ms(t.loop) + ms)) abort();
}

static void cancel(struct call *c)
{
    struct upstream_result r;
    struct usage usage;
    c->gone = true;
    upstream_cancel(c->call, &r, &usage);
    print(result_json(c, &r, "cancelled"));
    set_timer(c, over_later, 0);
}

static void drain(void *ctx)
{
    struct call *c = ctx;
    struct err e;
    if (upstream_drain(c->call, &e))
        cancel(c);
    else
        print(json_pack("{s:I,s:s}", "call", (json_int_t)c->i, "event", "draining"));
}

static int event(void *ctx, const struct event *ev)
{
    struct call *c = ctx;
    if (!t.quiet) print(event_json(c, ev));
    c->n_events++;
    if (c->n_events == integer(c->spec, "cancel_at", -1)) cancel(c);
    if (c->n_events == integer(c->spec, "drain_at", -1)) drain(c);
    return 0;
}

static int start(struct call *c, struct err *e)
{
    const json_t *s = c->spec, *request = json_object_get(s, "request");
    const char *model = json_string_value(json_object_get(s, "model"));
    size_t key = (size_t)integer(s, "key", 0);
    int64_t ms = integer(s, "deadline_ms", 0), deadline = ms ? loop_now_ms(t.loop) + ms : 0;
    struct upstream_callbacks cb = {.event = event, .ended = ended, .ctx = c};
    if (json_object_get(s, "get"))
        return upstream_get(t.up, &t.host, key, models_list_path(t.host.row), MODELS_MAX_BYTES, deadline, &cb, &c->call, e);
    struct wire_request r;
    struct wire_options o = {.model = model ? model : "",
                             .max_tokens = integer(s, "max_tokens", 256),
                             .adaptive_thinking = json_is_true(json_object_get(s, "adaptive_thinking"))};
    int rc = wire_encode(&t.host, request, &o, &r, e);
    if (rc) return rc;
    if (json_object_get(s, "print_request")) {
        json_t *body = json_loadb(r.body.data, r.body.len, 0, NULL);
        print(json_pack("{s:I,s:s,s:o}", "call", (json_int_t)c->i, "path", r.path, "body", body));
    }
    rc = upstream_start(t.up, &t.host, key, &r, deadline, &cb, &c->call, e);
    if (rc) wire_request_free(&r);
    return rc;
}

static void begin_next(void)
{
    if (t.next == t.n_calls) return;
    struct call *c = &t.calls[t.next++];
    struct err e = {0};
    t.n_open++;
    c->began_ns = clock_boot_ns();
    if (start(c, &e)) {
        print(json_pack("{s:I,s:s,s:s,s:s,s:s}", "call", (json_int_t)c->i, "result", "refused", "code", err_code_name(e.code), "param",
                        e.param, "message", e.msg));
        set_timer(c, over_later, 0);
    } else if (json_object_get(c->spec, "drain_after_ms"))
        set_timer(c, drain, integer(c->spec, "drain_after_ms", 0));
}

static const char *texts(const json_t *list, const char *out[], size_t max, size_t *n)
{
    for (*n = 0; *n < json_array_size(list) && *n < max; ++*n) out[*n] = json_string_value(json_array_get(list, *n));
    return NULL;
}

static int make_host(const json_t *h, struct err *e)
{
    const char *keys[HOST_MAX_KEYS], *headers[HOST_MAX_HEADERS];
    struct provider_host_config c = {.provider = json_string_value(json_object_get(h, "provider")),
                                     .name = json_string_value(json_object_get(h, "name")),
                                     .base_url = json_string_value(json_object_get(h, "base_url")),
                                     .region = json_string_value(json_object_get(h, "region")),
                                     .resource = json_string_value(json_object_get(h, "resource")),
                                     .api_version = json_string_value(json_object_get(h, "api_version")),
                                     .auth = json_string_value(json_object_get(h, "auth")),
                                     .keys = keys,
                                     .headers = headers};
    texts(json_object_get(h, "keys"), keys, HOST_MAX_KEYS, &c.n_keys);
    texts(json_object_get(h, "headers"), headers, HOST_MAX_HEADERS, &c.n_headers);
    if (!c.provider) return err_set(e, ERR_INPUT, "the script's host names no provider");
    return provider_host_init(&t.host, &c, e);
}

static int make_upstream(const json_t *v, struct err *e)
{
    struct upstream_config c;
    upstream_config_init(&c);
    c.ca_file = json_string_value(json_object_get(v, "ca_file"));
    c.connect_ms = integer(v, "connect_ms", c.connect_ms);
    c.idle_ms = integer(v, "idle_ms", c.idle_ms);
    c.drain_ms = integer(v, "drain_ms", c.drain_ms);
    c.drain_bytes = (size_t)integer(v, "drain_bytes", (int64_t)c.drain_bytes);
    c.max_drains = (size_t)integer(v, "max_drains", (int64_t)c.max_drains);
    c.decoder.max_bytes = (size_t)integer(v, "max_bytes", (int64_t)c.decoder.max_bytes);
    return upstream_new(&t.up, t.loop, &c, e);
}

static int run(const json_t *script, struct err *e)
{
    const json_t *calls = json_object_get(script, "calls");
    int rc = loop_new(&t.loop, e);
    if (!rc) rc = make_host(json_object_get(script, "host"), e);
    if (!rc) rc = make_upstream(json_object_get(script, "config"), e);
    if (rc) return rc;
    t.parallel = json_is_true(json_object_get(script, "parallel"));
    t.quiet = json_is_true(json_object_get(script, "quiet"));
    for (t.n_calls = 0; t.n_calls < json_array_size(calls) && t.n_calls < MAX_CALLS; t.n_calls++)
        t.calls[t.n_calls] = (struct call){.i = t.n_calls, .spec = json_array_get(calls, t.n_calls)};
    begin_next();
    while (t.parallel && t.next < t.n_calls) begin_next();
    if (t.n_open) rc = loop_run(t.loop, e);
    struct upstream_counts n;
    upstream_counts_read(t.up, &n);
    print(json_pack("{s:{s:I,s:I,s:I,s:I,s:I}}", "counts", "started", (json_int_t)n.started, "reused", (json_int_t)n.reused, "connections",
                    (json_int_t)n.connections, "running", (json_int_t)n.running, "draining", (json_int_t)n.draining));
    return rc;
}

/* The table of providers as JSON, for tests that go by what a row declares. */
static void print_table(void)
{
    static const char *const disconnects[] = {[DISCONNECT_CANCEL] = "cancel", [DISCONNECT_DRAIN] = "drain"};
    for (size_t i = 0; provider_at(i); i++) {
        const struct provider *p = provider_at(i);
        json_t *capabilities = json_array();
        for (int k = 0; k < PROVIDER_CAPABILITIES; k++)
            if (p->capabilities & 1u << k) json_array_append_new(capabilities, json_string(provider_capability_names[k]));
        print(json_pack("{s:s,s:s,s:s?,s:s?,s:s,s:s,s:b,s:o}", "name", p->name, "title", p->title, "base_url", p->base_url, "key_env",
                        p->key_env, "wire", provider_wire_name(p), "on_disconnect", disconnects[p->on_disconnect], "has_limits",
                        p->limits != NULL, "capabilities", capabilities));
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--table") == 0) {
        print_table();
        return 0;
    }
    struct buf in;
    struct err e = {0};
    json_t *script = NULL;
    buf_init(&in, 256u << 20);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int rc = buf_read_file(&in, "/dev/stdin", &e);
    if (!rc) rc = json_read(in.data, in.len, &json_limits_file, "script", &script, &e);
    if (!rc) rc = run(script, &e);
    if (rc) fprintf(stderr, "drive: %s\n", e.msg);
    upstream_free(t.up);
    provider_host_free(&t.host);
    loop_free(t.loop);
    json_decref(script);
    buf_free(&in);
    curl_global_cleanup();
    return rc != 0;
}
