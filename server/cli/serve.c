/* serve [MODEL ...]: puts the gateway together, runs its loop, takes it apart. One line a stage on standard error.
 *
 * Order: options, accounts, listening socket, workers (they load while we read tokenizers and templates), media
 * processes, loop. It is ready when every worker has said hello; a worker that cannot start ends the server with its
 * reason. SIGTERM or SIGINT drains: nothing new is taken, what runs is finished; at --drain-timeout it is cut with an error; a second signal ends it at once. */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "server/access_log.h"
#include "server/cli/command.h"
#include "server/cli/env.h"
#include "server/cli/model_path.h"
#include "server/completion.h"
#include "server/api/endpoint.h"
#include "server/gateway.h"

enum { REFRESH_MS = 500, DRAIN_LOOK_MS = 50, LAST_WORDS_MS = 1000, POOL_THREADS = 4, LAST_LINES_MS = 500 };

struct serve {
    struct gateway g;
    const struct options *o;
    char host[64], data[4096];
    uint16_t port;
    char first_key[ACCOUNTS_TOKEN_BYTES]; /* "" if there was one already */
    struct loop_timer refresh, drain;
    struct loop_watch *signals;
    int signal_fd;
    int64_t drain_until_ms;
    bool ready, cut;    /* cut: draining took too long */
    struct err failure; /* why the loop was stopped; ERR_NONE: on request */
};

static int parse_listen(struct serve *s, struct err *e)
{
    const char *text = s->o->listen, *colon = strrchr(text, ':');
    int64_t port;
    if (!colon || !str_parse_int64(colon + 1, 0, 65535, &port)) return err_set(e, ERR_INPUT, "--listen: '%s' is not HOST:PORT", text);
    size_t n = (size_t)(colon - text);
    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') { /* [::1]:8080 */
        text++;
        n -= 2;
    }
    if (n >= sizeof s->host) return err_set(e, ERR_INPUT, "--listen: '%s' is not HOST:PORT", s->o->listen);
    memcpy(s->host, text, n);
    if (strcmp(s->host, "localhost") == 0) strcpy(s->host, "127.0.0.1");
    s->port = (uint16_t)port;
    return 0;
}

static bool is_loopback(const char *host)
{
    return strcmp(host, "::1") == 0 || str_starts_with(host, "127.");
}

enum { KEY_TEXT_BYTES = ACCOUNTS_MAX_TOKEN + 8 }; /* a longer one is seen to be too long */

/* A file with the key and perhaps a line's end. */
static int read_key_file(const char *path, char out[KEY_TEXT_BYTES], struct err *e)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 077))
        log_warn("%s: other users may read or write the API key in it (mode %04o; chmod 600)", path, (unsigned)st.st_mode & 07777);
    struct buf b;
    buf_init(&b, 4096);
    int rc = buf_read_file(&b, path, e);
    while (!rc && b.len && (b.data[b.len - 1] == '\n' || b.data[b.len - 1] == '\r')) b.data[--b.len] = '\0';
    if (!rc && (!b.len || strlen(b.data) != b.len)) rc = err_set(e, ERR_INPUT, "%s: there is no key in it", path);
    if (!rc) snprintf(out, KEY_TEXT_BYTES, "%s", b.data);
    if (b.data) explicit_bzero(b.data, b.len);
    buf_free(&b);
    return rc;
}

/* The configured key, or a new one if there is none that can be used. A configured one that was revoked is no reason not to serve the
 * others, but stays revoked. */
static int first_key(struct serve *s, struct err *e)
{
    char given[KEY_TEXT_BYTES];
    const char *from = s->o->api_key_file ? s->o->api_key_file : "SPILLWAY_API_KEY";
    bool there = env_take_api_key(given, sizeof given); /* out of the environment in any case */
    int rc = s->o->api_key_file ? read_key_file(s->o->api_key_file, given, e) : 0;
    if (rc) return rc;
    if (s->o->api_key_file || there) {
        int64_t id = accounts_key_configure(s->g.accounts, given, e);
        explicit_bzero(given, sizeof given);
        if (id >= 0) return 0;
        if (id != -ERR_DENIED || accounts_key_count(s->g.accounts) == 0) return err_prefix(e, "%s", from);
        log_warn("%s: %s; the other keys hold", from, e->msg);
        return 0;
    }
    if (accounts_key_count(s->g.accounts) > 0) return 0;
    const struct accounts_key_spec spec = {.name = "first"};
    int64_t id = accounts_key_make(s->g.accounts, &spec, s->first_key, e);
    return id < 0 ? (int)id : 0;
}

static void refresh_fired(void *ctx)
{
    struct serve *s = ctx;
    struct err e;
    int rc = accounts_refresh(s->g.accounts, &e);
    if (rc < 0) log_error("%s", e.msg);
    if (rc == 0) s->g.accounts_fresh_ms = loop_now_ms(s->g.loop);
    if (loop_timer_set(s->g.loop, &s->refresh, loop_now_ms(s->g.loop) + (rc == 1 ? 0 : REFRESH_MS))) /* the rest after the others' turn */
        log_error("out of memory: keys are no longer refreshed");
}

static int open_accounts(struct serve *s, struct err *e)
{
    if (s->o->no_auth) {
        if (!is_loopback(s->host)) return err_set(e, ERR_INPUT, "--no-auth: only on a loopback address, not on %s", s->host);
        char unused[KEY_TEXT_BYTES];
        (void)env_take_api_key(unused, sizeof unused); /* nobody below is to inherit it */
        explicit_bzero(unused, sizeof unused);
        log_info("accounts: none (--no-auth)");
        return 0;
    }
    if (s->o->data)
        snprintf(s->data, sizeof s->data, "%s", s->o->data);
    else {
        int rc = env_data_dir(s->data, sizeof s->data, e);
        if (rc) return rc;
    }
    int rc = accounts_open(&s->g.accounts, s->data, e);
    if (!rc) rc = first_key(s, e);
    if (rc) return rc;
    log_info("accounts: %s, %zu valid keys", s->data, accounts_key_count(s->g.accounts));
    s->refresh = (struct loop_timer){.fn = refresh_fired, .ctx = s};
    refresh_fired(s);
    return 0;
}

static void serve_stop(struct serve *s, const struct err *why)
{
    if (why) s->failure = *why;
    loop_stop(s->g.loop);
}

/* For people on standard error; among lines of JSON it is one of them, and the key goes to standard output: it must not be logged. */
static void announce(struct serve *s)
{
    s->ready = true;
    struct buf models;
    buf_init(&models, 1 << 16);
    for (size_t i = 0; i < s->g.n_models; i++) buf_printf(&models, "%s%s", i ? ", " : "", s->g.models[i]->id);
    bool v6 = strchr(s->host, ':') != NULL, json = log_format() == LOG_JSON;
    char url[128];
    snprintf(url, sizeof url, "http%s://%s%s%s:%u/v1", s->o->tls_cert ? "s" : "", v6 ? "[" : "", s->host, v6 ? "]" : "",
             http_port(s->g.http));
    int64_t ms = clock_boot_ms() - s->g.started_ms;
    const struct log_field fields[] = {{.name = "ms", .number = ms}, {.name = "url", .text = url}, {.name = "models", .text = models.data}};
    if (json)
        log_write_fields(LOG_INFO, fields, sizeof fields / sizeof *fields, "ready");
    else
        fprintf(stderr, "Ready in %lld ms: %s serves %s\n", (long long)ms, url, models.data);
    if (s->first_key[0]) fprintf(json ? stdout : stderr, "The first API key, shown only now: %s\n", s->first_key);
    fflush(stdout);
    explicit_bzero(s->first_key, sizeof s->first_key);
    buf_free(&models);
}

static struct serve *serve_of(struct gateway_model *m)
{
    return (struct serve *)m->gateway; /* its first member */
}

/* The worker and the gateway read the same folder; they must have understood the same. */
static int check_hello(struct gateway_model *m, const struct frame_hello *h, struct err *e)
{
    const struct prompt_info *info = prompt_model_info(m->prompt);
    if (h->vocab != info->vocab)
        return err_set(e, ERR_INTERNAL, "%s: the worker has %u rows in its head, config.json says %u", m->id, h->vocab, info->vocab);
    if (info->has_images && (h->image_token != info->image_token || h->tile_px != (uint32_t)info->images.tile_px ||
                             h->tokens_per_tile != (uint32_t)info->images.tokens_per_tile))
        return err_set(e, ERR_INTERNAL, "%s: worker and gateway differ about pictures", m->id);
    return 0;
}

/* Every worker has said hello, and a picture decoder is in its cage. */
static void look_ready(struct serve *s)
{
    for (size_t i = 0; i < s->g.n_models; i++)
        if (!worker_is_ready(s->g.models[i]->worker)) return;
    if (!s->ready && media_info(s->g.media).up) announce(s);
}

static void model_ready(void *ctx, const struct frame_hello *h)
{
    struct gateway_model *m = ctx;
    struct serve *s = serve_of(m);
    struct err e;
    if (check_hello(m, h, &e)) {
        serve_stop(s, &e);
        return;
    }
    uint32_t own = prompt_model_info(m->prompt)->max_context;
    uint64_t cache = (uint64_t)h->n_blocks * h->block_tokens; /* a sequence that cannot fit alone is never admitted */
    uint32_t limit = cache < h->max_context ? (uint32_t)cache : h->max_context;
    m->max_context = own && own < limit ? own : limit;
    log_info("model %s: worker ready on %.64s, context %u", m->id, h->device, m->max_context);
    source_local_ready(m);
    look_ready(s);
}

static void model_down(void *ctx, const struct err *why)
{
    struct gateway_model *m = ctx;
    if (m->max_context) return; /* has served: it is restarted */
    struct err e = *why;
    err_prefix(&e, "model %s: its worker could not start", m->id);
    serve_stop(serve_of(m), &e);
}

static int model_start(struct serve *s, const char *arg, struct err *e)
{
    struct gateway *g = &s->g;
    if (g->n_models == GATEWAY_MAX_MODELS) return err_set(e, ERR_INPUT, "more than %d models", GATEWAY_MAX_MODELS);
    struct gateway_model *m = calloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "out of memory");
    g->models[g->n_models++] = m;
    m->gateway = g;
    m->created_s = clock_wall_s();
    int rc = model_path_find(arg, m->path, sizeof m->path, e);
    if (rc) return rc;
    const char *id = s->o->name ? s->o->name : model_path_id(arg, m->path);
    if (!*id || strlen(id) >= sizeof m->id || !utf8_valid(id, strlen(id)))
        return err_set(e, ERR_INPUT, "%s: no usable name; give --name", arg);
    for (size_t i = 0; i + 1 < g->n_models; i++)
        if (strcmp(g->models[i]->id, id) == 0) return err_set(e, ERR_INPUT, "two models are called '%s'", id);
    strcpy(m->id, id);
    struct worker_config c = {.path = m->path,
                              .name = m->id,
                              .device = s->o->device,
                              .compute = s->o->compute,
                              .threads = s->o->threads,
                              .kv_tokens = s->o->kv_tokens,
                              .limits = &g->limits};
    struct worker_events events = {.ready = model_ready, .down = model_down, .ctx = m};
    rc = quarantine_new(&m->quarantine, g->loop, e);
    return rc ? rc : worker_proc_new(&m->worker, g->loop, &c, &events, e);
}

static int start_models(struct serve *s, struct err *e)
{
    const struct options *o = s->o;
    if (o->name && o->n_args > 1) return err_set(e, ERR_INPUT, "--name: for one model only");
    int rc = o->n_args ? 0 : model_start(s, "demo", e);
    for (int i = 0; i < o->n_args && !rc; i++) rc = model_start(s, o->args[i], e);
    for (size_t i = 0; i < s->g.n_models && !rc; i++) {
        struct gateway_model *m = s->g.models[i];
        rc = prompt_model_open(&m->prompt, m->path, e);
        if (rc) break;
        const struct prompt_info *info = prompt_model_info(m->prompt);
        log_info("model %s: %s%s%s", m->id, m->path, info->has_images ? ", pictures" : "", info->has_template ? "" : ", no chat template");
    }
    return rc;
}

/* Time is up: what runs is told so, and has a little longer to say it. */
static void drain_cut(struct serve *s)
{
    struct err e;
    err_set(&e, ERR_CLOSING, "The server is shutting down.");
    log_info("draining: %zu requests are cut", s->g.n_completions);
    s->drain_until_ms = loop_now_ms(s->g.loop) + LAST_WORDS_MS;
    s->cut = true;
    completion_fail_all(&s->g, &e);
}

static void drain_look(void *ctx)
{
    struct serve *s = ctx;
    int64_t now_ms = loop_now_ms(s->g.loop);
    bool idle = s->g.n_completions == 0 && http_open_requests(s->g.http) == 0;
    if (!idle && !s->cut && now_ms >= s->drain_until_ms) drain_cut(s);
    if (idle || now_ms >= s->drain_until_ms || loop_timer_set(s->g.loop, &s->drain, now_ms + DRAIN_LOOK_MS)) serve_stop(s, NULL);
}

static void signal_came(void *ctx, uint32_t events)
{
    (void)events;
    struct serve *s = ctx;
    struct signalfd_siginfo info;
    if (read(s->signal_fd, &info, sizeof info) != (ssize_t)sizeof info) return;
    if (s->g.draining || !s->ready) {
        serve_stop(s, NULL);
        return;
    }
    log_info("draining: %zu requests are running", s->g.n_completions);
    s->g.draining = true;
    s->drain_until_ms = loop_now_ms(s->g.loop) + s->g.limits.drain_ms;
    s->drain = (struct loop_timer){.fn = drain_look, .ctx = s};
    http_quiesce(s->g.http);
    drain_look(s);
}

/* Before any thread is made: all of them inherit the blocked signals. */
static int watch_signals(struct serve *s, struct err *e)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0) return err_set(e, ERR_IO, "signalfd: %s", strerror(errno));
    return loop_watch_add(s->g.loop, s->signal_fd, EPOLLIN, signal_came, s, &s->signals, e);
}

static void raise_descriptors(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l)) return;
    l.rlim_cur = l.rlim_max;
    setrlimit(RLIMIT_NOFILE, &l); /* fewer streams at once if that is refused */
}

/* Whom the server speaks to, and by which names. */
static int read_edge(struct serve *s, struct http_config *c, struct err *e)
{
    const struct options *o = s->o;
    struct edge *g = &s->g.edge;
    g->loopback = is_loopback(s->host);
    for (size_t i = 0; i < o->allow_hosts.n; i++) g->hosts[g->n_hosts++] = o->allow_hosts.items[i];
    for (size_t i = 0; i < o->allow_origins.n; i++) {
        const char *origin = o->allow_origins.items[i];
        if (strcmp(origin, "*") != 0 && (!strstr(origin, "://") || origin[strcspn(origin, " \t\r\n")] || str_ends_with(origin, "/")))
            return err_set(e, ERR_INPUT, "--allow-origin: '%s' is not an origin such as https://example.org", origin);
        g->origins[g->n_origins++] = origin;
    }
    for (size_t i = 0; i < o->trusted_proxies.n; i++) {
        int rc = ip_nets_add(&c->trusted_proxies, o->trusted_proxies.items[i], e);
        if (rc) return err_prefix(e, "--trusted-proxy");
    }
    if (!o->tls_cert != !o->tls_key) return err_set(e, ERR_INPUT, "--tls-cert and --tls-key belong together");
    c->tls_cert = o->tls_cert;
    c->tls_key = o->tls_key;
    return 0;
}

static int listen_http(struct serve *s, struct err *e)
{
    struct http_config c;
    http_config_init(&c);
    c.limits = s->o->limits;
    c.host = s->host;
    c.port = s->port;
    c.ctx = &s->g;
    c.begin = gateway_begin;
    c.handle = gateway_handle;
    c.refuse = gateway_refuse;
    c.done = access_log_done;
    int rc = read_edge(s, &c, e);
    return rc ? rc : http_new(&s->g.http, s->g.loop, &c, e);
}

static void media_ready(void *ctx)
{
    look_ready(ctx);
}

static void media_failed(void *ctx, const struct err *why)
{
    struct err e = *why;
    err_prefix(&e, "the picture decoder cannot be caged");
    serve_stop(ctx, &e);
}

static int start_media(struct serve *s, struct err *e)
{
    struct media_pool_config c = {
        .n_processes = (int)s->o->media_processes, .limits = &s->g.limits, .ready = media_ready, .failed = media_failed, .ctx = s};
    return media_pool_new(&s->g.media, s->g.loop, &c, e);
}

static int serve_start(struct serve *s, struct err *e)
{
    gateway_check_endpoints(gateway_endpoints, n_gateway_endpoints);
    s->g.started_ms = clock_boot_ms();
    s->g.default_max_tokens = s->o->default_max_tokens;
    s->g.limits = s->o->limits;
    int rc = parse_listen(s, e);
    if (!rc) rc = loop_new(&s->g.loop, e);
    if (!rc) rc = counts_new(&s->g.per_key, e);
    if (!rc) rc = watch_signals(s, e);
    if (!rc) rc = open_accounts(s, e);
    if (!rc) rc = listen_http(s, e);
    if (!rc) rc = start_models(s, e);
    if (!rc) rc = start_media(s, e);
    if (!rc) rc = pool_new(&s->g.pool, s->g.loop, POOL_THREADS, e);
    return rc;
}

static void serve_close(struct serve *s)
{
    struct gateway *g = &s->g;
    if (!g->loop) return;
    http_free(g->http); /* ends what runs: completions stop their sequences */
    pool_free(g->pool);
    media_pool_free(g->media);
    loop_run_posted(g->loop); /* frees the completions */
    for (size_t i = 0; i < g->n_models; i++) {
        worker_proc_free(g->models[i]->worker);
        quarantine_free(g->models[i]->quarantine);
        prompt_model_close(g->models[i]->prompt);
        free(g->models[i]);
    }
    counts_free(g->per_key);
    accounts_close(g->accounts);
    loop_watch_remove(g->loop, s->signals);
    if (s->signal_fd >= 0) close(s->signal_fd);
    loop_free(g->loop);
}

int command_serve(const struct options *o)
{
    struct serve s = {.o = o, .signal_fd = -1};
    struct err e = {0};
    command_log(o, "gateway");
    log_start();
    raise_descriptors();
    int rc = serve_start(&s, &e);
    if (!rc) rc = loop_run(s.g.loop, &e);
    if (!rc && s.failure.code) {
        e = s.failure;
        rc = -(int)e.code;
    }
    serve_close(&s);
    if (rc && log_format() == LOG_JSON) log_error("%s", e.msg);
    log_stop(LAST_LINES_MS);
    if (rc && log_format() == LOG_JSON) return COMMAND_FAILED;
    return rc ? command_error(&e) : COMMAND_OK;
}
