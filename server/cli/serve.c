/* serve [MODEL ...]: puts the gateway together, runs its loop, takes it apart. One line a stage on standard error.
 *
 * Order: options, models of the hub (hub_model.c: downloaded if they are not in its cache), accounts, listening socket, workers
 * (serve_models.c: they load while pool threads read tokenizers and templates), media processes, loop. It is ready when every worker has
 * said hello; a worker that cannot start ends the server with its reason. SIGHUP reads the configuration again (serve_reload.c).
 * SIGTERM, SIGINT or the end of its terminal drains: nothing new is taken, what runs is finished; at --drain-timeout it is cut with an
 * error; a second signal ends it at once. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netdb.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "server/access_log.h"
#include "server/charge.h"
#include "server/cli/command.h"
#include "server/cli/env.h"
#include "server/cli/hub_model.h"
#include "server/cli/model_path.h"
#include "server/cli/progress.h"
#include "server/completion.h"
#include "server/api/endpoint.h"
#include "server/cli/serve_parts.h"
#include "server/gateway.h"
#include "server/remote_image.h"
#include "server/retention.h"

enum { INHERITED_FD = 3 /* systemd's first */ };
enum { REFRESH_MS = 500, DRAIN_LOOK_MS = 50, LAST_WORDS_MS = 1000, POOL_THREADS = 4, DESK_THREADS = 2, LAST_LINES_MS = 500, LEDGER_LAST_MS = 5000, LARGE_BUFFER_BYTES = 256 << 10 };

/* The address to serve on: the option's, or that of the socket that systemd handed down. */
static int find_address(struct serve *s, struct err *e)
{
    if (!s->o->n_inherited) return options_listen(s->o->listen, s->host, &s->port);
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a;
    if (getsockname(INHERITED_FD, (struct sockaddr *)&a, &n) || (a.ss_family != AF_INET && a.ss_family != AF_INET6))
        return err_set(e, ERR_INPUT, "the inherited descriptor %d is not a TCP socket", INHERITED_FD);
    int rc = getnameinfo((struct sockaddr *)&a, n, s->host, sizeof s->host, NULL, 0, NI_NUMERICHOST);
    if (rc) return err_set(e, ERR_IO, "the inherited socket's address: %s", gai_strerror(rc));
    log_info("listening: on the socket that was handed down, in place of %s", s->o->listen);
    return 0;
}

/* The configured key, or a new one if there is none that can be used. A configured one that was revoked is no reason not to serve the
 * others, but stays revoked. */
static int first_key(struct serve *s, struct err *e)
{
    char given[KEY_TEXT_BYTES];
    const char *from = s->o->api_key_file ? s->o->api_key_file : "SPILLWAY_API_KEY";
    bool there = env_take_api_key(given, sizeof given); /* out of the environment in any case */
    int rc = s->o->api_key_file ? serve_read_key(s->o->api_key_file, given, e) : 0;
    if (rc) return rc;
    if (s->o->api_key_file || there) {
        int64_t id = accounts_key_configure(s->g.accounts, given, e);
        serve_mark_key(given, s->key_mark);
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

static void drain_begin(struct serve *s);

/* --- keys and rules, as the store has them --- */

static struct serve *of_reading(struct pool_job *j)
{
    return (struct serve *)((char *)j - offsetof(struct serve, reading.job));
}

static void reading_work(struct pool_job *j)
{
    struct serve *s = of_reading(j);
    s->reading.worked = true;
    do s->reading.rc = accounts_refresh(s->reader, &s->reading.e);
    while (s->reading.rc == 1);
}

static void reading_done(struct pool_job *j)
{
    struct serve *s = of_reading(j);
    s->reading.running = false;
    if (!s->reading.worked) return; /* the server's end */
    if (s->reading.rc)
        log_error("%s", s->reading.e.msg);
    else {
        accounts_adopt(s->g.accounts, s->reader);
        s->g.accounts_fresh_ms = loop_now_ms(s->g.loop);
    }
    price_now_look(&s->prices);
}

static void refresh_fired(void *ctx)
{
    struct serve *s = ctx;
    if (!s->reading.running && s->g.pool) {
        s->reading.running = true;
        s->reading.worked = false;
        s->reading.job = (struct pool_job){.work = reading_work, .done = reading_done};
        pool_submit(s->g.pool, &s->reading.job);
    }
    if (loop_timer_set(s->g.loop, &s->refresh, loop_now_ms(s->g.loop) + REFRESH_MS)) log_error("out of memory: keys are no longer refreshed");
}

/* On the loop: what runs is finished, its ends go into the journal; then the server ends, and the next one looks what the disk has kept. */
static void ledger_failed(struct loop_call *call)
{
    struct serve *s = (struct serve *)((char *)call - offsetof(struct serve, ledger_failed));
    if (!s->failure.code) s->failure = s->ledger_why;
    log_error("%s; the server ends", s->ledger_why.msg);
    drain_begin(s);
}

static void tell_ledger_failed(void *ctx, const struct err *why)
{
    struct serve *s = ctx;
    s->ledger_why = *why;
    s->ledger_failed.fn = ledger_failed;
    loop_post(s->g.loop, &s->ledger_failed);
}

/* The name of the gateway that has this data directory's lock, which no other has while it holds it: a number that was drawn once, and is drawn anew
 * in a copy of the directory. false: it could not be kept. */
static bool take_name(int lock_fd, char *name, size_t size)
{
    char text[96], host[64] = "";
    struct stat st;
    unsigned long long number, device, inode;
    if (fstat(lock_fd, &st)) return false;
    ssize_t n = pread(lock_fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    bool ours = sscanf(text, "%llx %llu %llu", &number, &device, &inode) == 3 && device == (unsigned long long)st.st_dev &&
                inode == (unsigned long long)st.st_ino;
    if (!ours) {
        randombytes_buf(&number, sizeof number);
        int len = snprintf(text, sizeof text, "%016llx %llu %llu\n", number, (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
        if (ftruncate(lock_fd, 0) || pwrite(lock_fd, text, (size_t)len, 0) != len || fsync(lock_fd)) return false;
    }
    gethostname(host, sizeof host - 1);
    snprintf(name, size, "%s-%016llx", host, number);
    return true;
}

/* Who has the lock is the only gateway of this store, or of its name where others may share it: what its runs before have left open is nobody's. */
static int open_ledger(struct serve *s, struct err *e)
{
    char path[sizeof s->data + 16];
    snprintf(path, sizeof path, "%.4000s/gateway.lock", s->data);
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    char name[96] = "gateway";
    bool locked = flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0, named = locked && take_name(s->lock_fd, name, sizeof name);
    snprintf(s->store, sizeof s->store, "%.4000s/accounts.db", s->data);
    s->g.store = s->o->store ? s->o->store : s->store;
    snprintf(s->journal, sizeof s->journal, "%.4000s/accounts.journal", s->data);
    struct ledger_writer_options o = {.where = s->g.store,
                                      .journal = s->journal,
                                      .most_requests = s->g.limits.queue_requests,
                                      .ledger = {.gateway = name, .alone = locked && !s->o->store, .only = named},
                                      .deliver = charge_deliver,
                                      .failed = tell_ledger_failed,
                                      .ctx = s};
    return ledger_writer_start(&s->g.ledger, &o, e);
}

static int open_accounts(struct serve *s, struct err *e)
{
    if (s->o->no_auth) {
        if (!options_loopback(s->host)) return err_set(e, ERR_INPUT, "--no-auth: only on a loopback address, not on %s", s->host);
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
    int rc = accounts_open(&s->g.accounts, s->data, s->o->store, e);
    if (!rc) rc = first_key(s, e);
    if (!rc) rc = accounts_open(&s->reader, s->data, s->o->store, e);
    if (!rc) rc = open_ledger(s, e);
    if (!rc) rc = price_now_start(&s->prices, &s->g, e);
    if (rc) return rc;
    log_info("accounts: %s, %zu valid keys", s->data, accounts_key_count(s->g.accounts));
    s->g.accounts_fresh_ms = loop_now_ms(s->g.loop);
    s->refresh = (struct loop_timer){.fn = refresh_fired, .ctx = s};
    refresh_fired(s);
    return 0;
}

static void serve_stop(struct serve *s, const struct err *why)
{
    if (why) s->failure = *why;
    loop_stop(s->g.loop);
}

/* A line on the terminal until all models are ready; log lines write over it. */
static void loading_begin(struct serve *s)
{
    char what[96];
    if (log_format() != LOG_TEXT) return;
    if (s->o->n_args > 1)
        snprintf(what, sizeof what, "Loading %d models", s->o->n_args);
    else
        snprintf(what, sizeof what, "Loading %.60s", s->g.n_models ? s->g.models[0]->id : "");
    s->loading = progress_begin(what);
}

static void loading_end(struct serve *s)
{
    progress_end(s->loading);
    s->loading = NULL;
}

/* Once: when it is ready or, if it never is, at its end, as the next start makes none. Among lines of JSON it goes to standard output: it must
 * not be logged. */
static void tell_first_key(struct serve *s)
{
    if (!s->first_key[0]) return;
    const char *says = "The first API key, shown only now:";
    if (log_format() == LOG_JSON)
        printf("%s %s\n", says, s->first_key);
    else
        log_plain("%s %s", says, s->first_key);
    fflush(stdout);
    explicit_bzero(s->first_key, sizeof s->first_key);
}

/* What reading files took. */
static void give_back_heap(void)
{
#ifdef M_MMAP_THRESHOLD
    malloc_trim(0);
#endif
}

/* It could not be loaded, and others answer for it (FAULTS T50). */
static bool is_stood_in_for(const struct gateway_model *m)
{
    return m->state == MODEL_FAILED && m->n_stand_ins;
}

/* For people on standard error; among lines of JSON it is one of them. */
static void announce(struct serve *s)
{
    s->ready = true;
    loading_end(s);
    give_back_heap();
    struct buf models;
    bool v6 = strchr(s->host, ':') != NULL, json = log_format() == LOG_JSON;
    buf_init(&models, 1 << 16);
    for (size_t i = 0; i < s->g.n_models; i++)
        buf_printf(&models, "%s%s%s", i ? ", " : "", s->g.models[i]->id, is_stood_in_for(s->g.models[i]) ? " (by its stand-ins)" : "");
    if (s->g.n_models == 0) buf_puts(&models, json ? "" : "hosted models only");
    char url[128];
    snprintf(url, sizeof url, "http%s://%s%s%s:%u/v1", s->o->tls_cert ? "s" : "", v6 ? "[" : "", s->host, v6 ? "]" : "",
             http_port(s->g.http));
    int64_t ms = clock_boot_ms() - s->g.started_ms;
    const struct log_field fields[] = {{.name = "ms", .number = ms}, {.name = "url", .text = url}, {.name = "models", .text = models.data}};
    if (json)
        log_write_fields(LOG_INFO, fields, sizeof fields / sizeof *fields, "ready");
    else
        log_plain("Ready in %lld ms: %s serves %s", (long long)ms, url, models.data);
    tell_first_key(s);
    buf_free(&models);
}

static struct serve *serve_of(struct gateway_model *m)
{
    return (struct serve *)m->gateway; /* its first member */
}

/* Every model is there, or somebody for it, and a picture decoder is in its cage. */
static void look_ready(struct serve *s)
{
    if (s->ready) return;
    for (size_t i = 0; i < s->g.n_models; i++) {
        const struct gateway_model *m = s->g.models[i];
        if (!is_stood_in_for(m) && (m->state != MODEL_READY || !gateway_model_serves(m))) return;
    }
    if (media_info(s->g.media).up) announce(s);
}

static void model_changed(struct gateway_model *m)
{
    struct serve *s = serve_of(m);
    if (s->closing) return;
    admin_model_settled(m);
    if (m->state == MODEL_FAILED && (s->ready || is_stood_in_for(m))) log_error("%s", m->why.msg);
    if (m->state == MODEL_FAILED && !s->ready && is_stood_in_for(m)) log_warn("model %s: its stand-ins answer, within overflow's caps", m->id);
    if (m->state == MODEL_FAILED && !s->ready && !is_stood_in_for(m)) serve_stop(s, &m->why);
    look_ready(s);
}

static int start_models(struct serve *s, struct err *e)
{
    s->g.model_changed = model_changed;
    int rc = serve_models_start(s, e);
    if (!rc) loading_begin(s);
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
    completion_fail_all(&s->g, NULL, &e);
}

static void drain_look(void *ctx)
{
    struct serve *s = ctx;
    int64_t now_ms = loop_now_ms(s->g.loop);
    bool idle = s->g.n_completions == 0 && http_open_requests(s->g.http) == 0;
    if (!idle && !s->cut && now_ms >= s->drain_until_ms) drain_cut(s);
    if (idle || now_ms >= s->drain_until_ms || loop_timer_set(s->g.loop, &s->drain, now_ms + DRAIN_LOOK_MS)) serve_stop(s, NULL);
}

static void drain_begin(struct serve *s)
{
    if (s->g.draining) return;
    if (!s->ready) {
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

static void signal_came(void *ctx, uint32_t events)
{
    (void)events;
    struct serve *s = ctx;
    struct signalfd_siginfo info;
    if (read(s->signal_fd, &info, sizeof info) != (ssize_t)sizeof info) return;
    /* Sent because the terminal was closed: nobody asks to reload. */
    bool hung_up = info.ssi_code == SI_KERNEL || (s->on_terminal && !isatty(STDERR_FILENO));
    if (info.ssi_signo == SIGHUP && !hung_up) {
        if (!s->g.draining) serve_reload(s);
        return;
    }
    if (s->g.draining)
        serve_stop(s, NULL);
    else
        drain_begin(s);
}

/* Before any thread is made: all of them inherit the blocked signals. */
static int watch_signals(struct serve *s, struct err *e)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
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
    c.tls_cert = s->o->tls_cert;
    c.tls_key = s->o->tls_key;
    if (s->o->n_inherited) c.listen_fd = INHERITED_FD;
    s->g.edge.loopback = options_loopback(s->host);
    serve_config_edge(s->o, &s->g.edge, &c.trusted_proxies);
    return http_new(&s->g.http, s->g.loop, &c, e);
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

static int start_remote(struct serve *s, struct err *e)
{
    struct remote_rules rules;
    if (strcmp(s->o->remote_images, "off") == 0) return 0;
    serve_config_remote(s->o, &rules);
    log_info("pictures by URL: %s, from %s%s", rules.http ? "http and https" : "https", rules.n_hosts ? "the hosts that are named" : "any public host",
             rules.nets.n ? ", and networks that are not public" : "");
    return remote_images_new(&s->g.remote, s->g.loop, &rules, env_ca_file(), e);
}

static int serve_start(struct serve *s, struct err *e)
{
    gateway_check_endpoints(gateway_endpoints, n_gateway_endpoints);
    s->g.started_ms = clock_boot_ms();
    s->g.default_max_tokens = s->o->default_max_tokens;
    s->g.limits = s->o->limits;
    pthread_mutex_init(&s->g.models_lock, NULL);
    int rc = find_address(s, e);
    if (!rc) rc = loop_new(&s->g.loop, e);
    if (!rc) rc = counts_new(&s->g.per_key, e);
    if (!rc) rc = watch_signals(s, e);
    if (!rc) rc = open_accounts(s, e);
    if (!rc) rc = serve_hosted_start(s, e);
    if (!rc) rc = start_remote(s, e);
    if (!rc) rc = listen_http(s, e);
    if (!rc) rc = pool_new(&s->g.pool, s->g.loop, POOL_THREADS, e);
    if (!rc) rc = pool_new(&s->g.desk, s->g.loop, DESK_THREADS, e);
    if (!rc) rc = retention_start(&s->retention, &s->g, s->o->retain_requests, e);
    if (!rc) rc = serve_alerts_start(s, e);
    if (!rc) rc = start_models(s, e);
    if (!rc) rc = start_media(s, e);
    return rc;
}

static void serve_close(struct serve *s)
{
    struct gateway *g = &s->g;
    loading_end(s);
    if (!g->loop) return;
    s->closing = true;
    alerts_stop(s->alerts);
    http_free(g->http); /* ends what runs: completions stop their sequences */
    pool_free(g->pool);
    pool_free(g->desk);
    g->desk = NULL; /* what is still handed back by it submits no more */
    media_pool_free(g->media);
    loop_run_posted(g->loop); /* frees the completions */
    retention_stop(s->retention);
    ledger_writer_stop(g->ledger, LEDGER_LAST_MS);
    loop_run_posted(g->loop); /* frees their charges */
    ledger_writer_free(g->ledger);
    alerts_free(s->alerts);
    gateway_models_free(g);
    upstream_free(g->upstream);
    hosted_release(g->hosted);
    hosted_texts_free(&s->texts);
    for (int i = 0; i < OPTIONS_MAX_ARGS; i++) free(s->model_ids[i]);
    serve_secrets_free(&s->secrets);
    sticky_free(g->sticky);
    remote_images_free(g->remote);
    price_now_stop(&s->prices);
    overflow_free(g->route.overflow);
    counts_free(g->per_key);
    accounts_close(s->reader);
    accounts_close(g->accounts);
    if (s->lock_fd >= 0) close(s->lock_fd);
    loop_watch_remove(g->loop, s->signals);
    if (s->signal_fd >= 0) close(s->signal_fd);
    loop_free(g->loop);
}

/* glibc keeps what is freed for the next large buffer once it has seen one: a body of 20 MiB would cost that much for ever. And it would have
 * an arena a thread, each with its own holes: memory then still grows after 700,000 requests (T82). */
static void keep_heap_small(void)
{
#ifdef M_MMAP_THRESHOLD
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, LARGE_BUFFER_BYTES);
    mallopt(M_TRIM_THRESHOLD, 4 * LARGE_BUFFER_BYTES);
#endif
}

static int serve_run(struct serve *s, struct err *e)
{
    int rc = hub_models_prepare(s->o, e); /* with its own signals, and lines in order: before there are threads */
    log_start();
    raise_descriptors();
    keep_heap_small();
    if (!rc) rc = serve_start(s, e);
    if (!rc) rc = loop_run(s->g.loop, e);
    if (!rc && s->failure.code) {
        *e = s->failure;
        rc = -(int)e->code;
    }
    serve_close(s);
    tell_first_key(s);
    if (rc && log_format() == LOG_JSON) log_error("%s", e->msg);
    log_stop(LAST_LINES_MS);
    if (rc && log_format() == LOG_JSON) return COMMAND_FAILED;
    return rc ? command_error(e) : COMMAND_OK;
}

static int print_config(const struct options *o)
{
    struct err e = {0};
    return options_print_config(o, stdout, &e) ? command_error(&e) : COMMAND_OK;
}

int command_serve(const struct options *o)
{
    struct serve s = {.signal_fd = -1, .lock_fd = -1};
    struct serve_config *start = NULL;
    struct err e = {0};
    int n_inherited = env_take_listen_fds(), code = COMMAND_FAILED;
    int rc = n_inherited > 1 ? err_set(&e, ERR_INPUT, "%d sockets were handed down: only one is served", n_inherited) : 0;
    if (!rc) rc = serve_config_new(&start, o->argc, o->argv, n_inherited, &e);
    if (start && start->faults.n)
        options_print_faults(&start->faults, o->config, stderr);
    else if (rc)
        code = command_error(&e);
    else if (start->o.print_config)
        code = print_config(&start->o);
    else {
        s.config = start;
        s.o = &start->o;
        s.on_terminal = isatty(STDERR_FILENO);
        command_log(s.o, "gateway");
        code = serve_run(&s, &e);
    }
    if (s.config != start) serve_config_free(s.config);
    serve_config_free(start);
    return code;
}
