/* bench's calls: one target at a time, on one loop, over the same upstream that the server uses (server/providers/upstream.h), so that
 * connections are kept and no call waits for another's bytes.
 *
 * Closed loop: --concurrency calls at once, the next begins when one has ended. Open loop (--rate): calls begin at random times of that
 * mean, whatever becomes of those before. Before a call to a target that is paid begins, its bound is held; a call that could bring the sum
 * of known costs and bounds over --max-cost never begins, and nothing does after it. Start reading at bench_run. */
#include <curl/curl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "server/cli/bench_parts.h"
#include "server/cli/chat_parts.h"
#include "server/cli/env.h"
#include "server/loop.h"
#include "server/providers/models_list.h"
#include "server/providers/upstream.h"

enum { LIST_MS = 10000, ARENA_BYTES = 64 << 20 };

struct run;

struct call {
    struct run *run;
    struct upstream_call *call; /* NULL: free */
    int64_t bound_nusd, start_ns, first_ns, last_ns;
    int64_t n_events;
    struct bench_gaps gaps; /* of this call: they count if its answer proves whole */
};

struct run {
    struct bench *b;
    struct bench_target *t;
    struct call *calls;
    size_t n_calls, n_open;
    size_t next, end; /* numbers of requests */
    bool warm;        /* counts for nothing but its cost */
    bool over;        /* nothing begins any more */
    int64_t begun_ns, until_ns, last_ns; /* until 0: none */
    int64_t due_ns;                      /* --rate: of the next */
    uint64_t random;
    struct loop_timer timer;
    struct err err; /* our own failure: ends the run */
};

static bool timed_out(const struct run *r, int64_t now_ns)
{
    return r->until_ns && now_ns >= r->until_ns;
}

/* --- the end of a call --- */

static void count_usage(const struct call *c, const struct usage *u, struct bench_sample *s)
{
    int64_t in = u ? usage_sum(u, USAGE_IN) : 0;
    s->in_tokens = in > 0 ? in : 0;
    s->counted = !u || !(u->present & USAGE_OUT);
    s->out_tokens = s->counted ? c->n_events : usage_sum(u, USAGE_OUT);
}

/* What the call has cost. Where it may have cost something that nobody tells, the bound counts. */
static int64_t cost_of(struct call *c, const struct upstream_result *r)
{
    struct bench_target *t = c->run->t;
    int64_t nusd;
    struct err e;
    if (!bench_target_is_paid(t)) return 0;
    if (r->outcome == UPSTREAM_WHOLE && r->usage && !bench_price_used(t, r->usage, &nusd, &e)) return nusd;
    if (!r->sent || (r->outcome == UPSTREAM_ERROR && r->error.status >= 400)) return 0;
    t->result.n_unpriced++;
    return c->bound_nusd;
}

static void take_sample(struct call *c, const struct upstream_result *r, int64_t end_ns, int64_t cost_nusd)
{
    struct run *run = c->run;
    struct bench_sample s = {.total_us = (uint32_t)((end_ns - c->start_ns) / 1000), .cost_nusd = cost_nusd};
    s.first_byte_us = r->times.first_byte_us > 0 ? (uint32_t)r->times.first_byte_us : 0;
    if (c->first_ns) {
        s.first_token_us = (uint32_t)((c->first_ns - c->start_ns) / 1000);
        s.out_first_us = (uint32_t)((c->last_ns - c->first_ns) / 1000);
    }
    count_usage(c, r->usage, &s);
    run->t->result.measured_nusd += cost_nusd;
    int rc = bench_sample_add(&run->t->result, &s);
    for (size_t i = 0; i < c->gaps.n && !rc; i++) rc = bench_gap_add(&run->t->result.gaps, c->gaps.us[i]);
    run->t->result.gaps.n_left_out += c->gaps.n_left_out;
    if (rc) err_set(&run->err, ERR_MEMORY, "out of memory");
}

/* By what is to be done about it, and HTTP's status; a cut answer had begun with 200. */
static void take_error(struct run *run, const struct upstream_result *r)
{
    char what[96];
    const char *kind = provider_error_class_name(r->error.class), *when = run->warm ? "to warm up: " : "";
    if (r->deadline)
        snprintf(what, sizeof what, "%stimeout", when);
    else if (r->outcome == UPSTREAM_CUT)
        snprintf(what, sizeof what, "%scut", when);
    else if (r->error.status)
        snprintf(what, sizeof what, "%s%s %d", when, kind, r->error.status);
    else
        snprintf(what, sizeof what, "%sno answer", when);
    bench_error_add(&run->t->result, what, r->error.message);
    run->t->result.n_failed += !run->warm;
}

static void begin_more(struct run *r);

static void take_end(struct call *c, const struct upstream_result *r, int64_t end_ns)
{
    struct run *run = c->run;
    struct bench *b = run->b;
    int64_t cost_nusd = cost_of(c, r);
    c->call = NULL;
    run->n_open--;
    run->last_ns = end_ns;
    b->held_nusd -= c->bound_nusd;
    b->spent_nusd += cost_nusd;
    run->t->result.cost_nusd += cost_nusd;
    if (r->outcome != UPSTREAM_WHOLE)
        take_error(run, r);
    else if (!run->warm)
        take_sample(c, r, end_ns, cost_nusd);
    c->gaps.n = c->gaps.n_left_out = 0;
}

static void call_ended(void *ctx, const struct upstream_result *r)
{
    struct call *c = ctx;
    take_end(c, r, clock_boot_ns());
    begin_more(c->run);
}

static int call_event(void *ctx, const struct event *ev)
{
    struct call *c = ctx;
    bool content = (ev->type == EVENT_DELTA && ev->n_text) || (ev->type == EVENT_REASONING && ev->n_text) || ev->type == EVENT_TOOL_CALL;
    if (!content) return 0;
    int64_t now_ns = clock_boot_ns();
    if (!c->first_ns)
        c->first_ns = now_ns;
    else if (bench_gap_add(&c->gaps, (now_ns - c->last_ns) / 1000))
        err_set(&c->run->err, ERR_MEMORY, "out of memory");
    c->last_ns = now_ns;
    c->n_events++;
    return 0;
}

/* --- the beginning of one --- */

static int encode(const struct bench_target *t, const struct bench_request *r, struct wire_request *out, struct err *e)
{
    struct wire_options o = {.model = t->model[0] ? t->model : "model", .max_tokens = r->out_bound};
    return wire_encode(&t->host, r->body, &o, out, e);
}

/* false: the cost of one more could pass what is allowed. */
static bool may_spend(struct bench *b, int64_t bound_nusd)
{
    int64_t sum;
    if (b->max_cost_nusd < 0) return true;
    return !__builtin_add_overflow(b->spent_nusd + b->held_nusd, bound_nusd, &sum) && sum <= b->max_cost_nusd;
}

static struct call *free_call(struct run *r)
{
    for (size_t i = 0; i < r->n_calls; i++)
        if (!r->calls[i].call) return &r->calls[i];
    return NULL;
}

static int start(struct run *r, struct call *c, struct bench_request *q, struct err *e)
{
    struct bench *b = r->b;
    struct wire_request w;
    int64_t about;
    *c = (struct call){.run = r, .gaps = c->gaps}; /* their memory is used again */
    int rc = bench_price_request(r->t, q, &about, &c->bound_nusd, e);
    if (!rc && bench_target_is_paid(r->t) && !may_spend(b, c->bound_nusd)) {
        b->stop = BENCH_COST;
        r->over = true;
        return 0;
    }
    if (!rc) rc = encode(r->t, q, &w, e);
    if (rc) return rc;
    struct upstream_callbacks cb = {.event = call_event, .ended = call_ended, .ctx = c};
    c->start_ns = clock_boot_ns();
    rc = upstream_start(b->up, &r->t->host, 0, &w, clock_boot_ms() + b->o->timeout_s * 1000, &cb, &c->call, e);
    if (rc) {
        wire_request_free(&w);
        return rc;
    }
    b->held_nusd += c->bound_nusd;
    r->n_open++;
    r->t->result.n_sent++;
    return 0;
}

static void begin_one(struct run *r)
{
    struct bench_request q;
    struct call *c = free_call(r);
    if (!c) { /* --rate only */
        r->next++;
        bench_error_add(&r->t->result, "not sent", "more calls are under way than --rate may have");
        r->t->result.n_failed++;
        return;
    }
    int rc = bench_work_make(&r->b->work, r->next++, &q, &r->err);
    if (rc) return;
    rc = start(r, c, &q, &r->err);
    bench_request_free(&q);
    if (rc) CHECK(r->err.code);
}

static bool goes_on(const struct run *r)
{
    return !r->over && !r->err.code && r->next < r->end;
}

static void set_due(struct run *r)
{
    double u = (double)(bench_random(&r->random) >> 11) * 0x1p-53; /* [0, 1) */
    r->due_ns += (int64_t)(-log1p(-u) / r->b->o->rate * 1e9);
}

static void begin_due(struct run *r, int64_t now_ns)
{
    for (; goes_on(r) && r->due_ns <= now_ns; set_due(r)) {
        int64_t late_us = (now_ns - r->due_ns) / 1000;
        if (r->until_ns && r->due_ns >= r->until_ns) {
            r->over = true;
            return;
        }
        if (late_us > r->t->result.latest_us) r->t->result.latest_us = late_us;
        begin_one(r);
        now_ns = clock_boot_ns();
    }
    if (goes_on(r) && loop_timer_set(r->b->loop, &r->timer, (r->due_ns + 999999) / 1000000)) r->over = true;
}

static void begin_more(struct run *r)
{
    int64_t now_ns = clock_boot_ns();
    bool open = r->b->o->rate > 0 && !r->warm;
    if (open)
        begin_due(r, now_ns);
    else {
        if (timed_out(r, now_ns)) r->over = true;
        while (goes_on(r) && r->n_open < (size_t)r->b->o->concurrency) begin_one(r);
    }
    if (!goes_on(r) && r->n_open == 0) loop_stop(r->b->loop);
}

static void timer_fired(void *ctx)
{
    begin_more(ctx);
}

/* Ctrl-C: what is under way is given up, what has been measured is told. */
static void stopped(void *ctx, uint32_t events)
{
    struct run *r = ctx;
    (void)events;
    (void)chat_stop_take();
    r->over = true;
    r->b->stop = BENCH_SIGNAL;
    for (size_t i = 0; i < r->n_calls; i++) {
        if (!r->calls[i].call) continue;
        struct upstream_result result;
        struct usage usage;
        upstream_cancel(r->calls[i].call, &result, &usage);
        snprintf(result.error.message, sizeof result.error.message, "stopped by a signal");
        take_end(&r->calls[i], &result, clock_boot_ns());
    }
    loop_stop(r->b->loop);
}

/* --- a target --- */

static int run_phase(struct run *r, size_t first, size_t n, bool warm, struct err *e)
{
    struct loop_watch *watch = NULL;
    const struct options *o = r->b->o;
    r->next = first;
    r->end = first + n;
    r->warm = warm;
    r->timer = (struct loop_timer){.fn = timer_fired, .ctx = r};
    int rc = loop_watch_add(r->b->loop, chat_stop_fd(), EPOLLIN, stopped, r, &watch, e);
    if (rc) return rc;
    r->begun_ns = r->last_ns = r->due_ns = clock_boot_ns();
    r->until_ns = warm || !o->duration_s ? 0 : r->begun_ns + o->duration_s * INT64_C(1000000000);
    if (o->rate > 0) set_due(r);
    rc = loop_timer_set(r->b->loop, &r->timer, 0); /* the first begin within the loop */
    if (!rc) rc = loop_run(r->b->loop, e);
    loop_timer_clear(r->b->loop, &r->timer);
    loop_watch_remove(r->b->loop, watch);
    if (!rc && r->err.code) {
        *e = r->err;
        rc = -(int)e->code;
    }
    return rc;
}

int bench_run(struct bench *b, struct bench_target *t, struct err *e)
{
    const struct options *o = b->o;
    size_t n_warm = (size_t)o->warmup, n = b->count ? b->count : BENCH_MAX_COUNT;
    struct run r = {.b = b, .t = t, .n_calls = o->rate > 0 ? BENCH_MAX_CONCURRENCY : (size_t)o->concurrency, .random = b->work.seed};
    struct upstream_counts before;
    upstream_counts_read(b->up, &before);
    r.calls = calloc(r.n_calls, sizeof *r.calls);
    if (!r.calls) return err_set(e, ERR_MEMORY, "out of memory");
    int rc = n_warm ? run_phase(&r, 0, n_warm, true, e) : 0;
    t->result.n_warm = t->result.n_sent;
    if (!rc && b->stop == BENCH_DONE) {
        rc = run_phase(&r, n_warm, n, false, e);
        t->result.wall_us = (r.last_ns - r.begun_ns) / 1000;
    }
    struct upstream_counts after;
    upstream_counts_read(b->up, &after);
    t->result.n_connections = after.connections - before.connections;
    for (size_t i = 0; i < r.n_calls; i++) free(r.calls[i].gaps.us);
    free(r.calls);
    return rc;
}

int bench_run_check(const struct bench *b, const struct bench_target *t, struct err *e)
{
    size_t n = b->work.built_in ? 1 : b->work.n;
    for (size_t i = 0; i < n; i++) {
        struct bench_request q;
        struct wire_request w;
        int rc = bench_work_make(&b->work, i, &q, e);
        if (rc) return rc;
        rc = encode(t, &q, &w, e);
        if (!rc) wire_request_free(&w);
        bench_request_free(&q);
        if (rc && !b->work.built_in) return err_prefix(e, "%s:%zu: %s", b->o->requests, b->work.lines[i], t->label);
        if (rc) return err_prefix(e, "%s", t->label);
    }
    return 0;
}

/* --- the list of models --- */

struct listing {
    struct bench *b;
    struct bench_target *t;
    struct err *e;
    int rc;
};

static void take_list(void *ctx, const struct upstream_result *r)
{
    struct listing *l = ctx;
    struct models_list list;
    struct arena arena;
    loop_stop(l->b->loop);
    if (r->outcome != UPSTREAM_WHOLE) {
        const char *why = r->error.message[0] ? r->error.message : "no answer";
        l->rc = err_set(l->e, ERR_GONE, "%s: %s%s", l->t->host.base_url, why,
                        r->error.status == 401 ? " (give the key with --api-key-file, SPILLWAY_API_KEY or --target-key)" : "");
        return;
    }
    arena_init(&arena, ARENA_BYTES);
    l->rc = models_list_read(&list, l->t->host.row, r->body, r->n_body, &arena, l->e);
    const char *id = !l->rc && list.n_models ? list.models[0].id : NULL;
    if (!l->rc && (!id || strlen(id) >= sizeof l->t->model))
        l->rc = err_set(l->e, ERR_NOT_FOUND, "%s lists no model: name one", l->t->host.base_url);
    if (!l->rc) bench_target_name(l->t, id);
    arena_free(&arena);
}

int bench_run_model(struct bench *b, struct bench_target *t, struct err *e)
{
    struct listing l = {.b = b, .t = t, .e = e};
    struct upstream_callbacks cb = {.ended = take_list, .ctx = &l};
    struct upstream_call *call;
    int rc = upstream_get(b->up, &t->host, 0, models_list_path(t->host.row), MODELS_MAX_BYTES, clock_boot_ms() + LIST_MS, &cb, &call, e);
    if (!rc) rc = loop_run(b->loop, e);
    return rc ? rc : l.rc;
}

int bench_run_open(struct bench *b, struct err *e)
{
    struct upstream_config c;
    upstream_config_init(&c);
    c.ca_file = env_ca_file();
    c.idle_ms = b->o->timeout_s * 1000;
    c.max_idle_connections = BENCH_MAX_CONCURRENCY;
    if (curl_global_init(CURL_GLOBAL_DEFAULT)) return err_set(e, ERR_IO, "libcurl cannot start");
    int rc = loop_new(&b->loop, e);
    return rc ? rc : upstream_new(&b->up, b->loop, &c, e);
}

void bench_run_close(struct bench *b)
{
    upstream_free(b->up);
    loop_free(b->loop);
    b->up = NULL;
    b->loop = NULL;
}
