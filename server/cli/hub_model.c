/* Models of the hub: see hub_model.h. */
#include "server/cli/hub_model.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "server/cli/env.h"
#include "server/cli/progress.h"
#include "server/cli/terminal.h"

enum { LINE_EVERY_MS = 5000, SERVE_RETRIES = 5 };

_Static_assert((int)ENV_PATH_BYTES == (int)HUB_PATH_BYTES, "a cache folder's path fits");

bool hub_model_is(const char *arg)
{
    struct stat st;
    return hub_name_fits(arg) && lstat(arg, &st) != 0;
}

bool hub_model_is_at(const char *arg, const char *path)
{
    struct hub_name name;
    char below[HUB_REPO_BYTES + 32];
    if (hub_name_parse(arg, &name, NULL)) return false;
    char *slash = strchr(name.repo, '/');
    *slash = '\0';
    snprintf(below, sizeof below, "/models--%s--%s/snapshots/", name.repo, slash + 1);
    const char *found = strstr(path, below);
    return found && !strchr(found + strlen(below), '/');
}

/* *cache_dir as the environment says. */
static int find_cached(const char *arg, char path[HUB_PATH_BYTES], char cache_dir[HUB_PATH_BYTES], struct err *e)
{
    struct hub_name name;
    int rc = hub_name_parse(arg, &name, e);
    if (!rc) rc = env_hub_cache(cache_dir, e);
    return rc ? rc : hub_cached(cache_dir, &name, path, e);
}

int hub_model_cached(const char *arg, char *out, size_t n, struct err *e)
{
    char path[HUB_PATH_BYTES], cache_dir[HUB_PATH_BYTES];
    struct err why = {0};
    int rc = find_cached(arg, path, cache_dir, &why);
    if (rc == -ERR_NOT_FOUND) return err_set(e, ERR_NOT_FOUND, "%s (nor a folder here); get it with: spillway pull %s", why.msg, arg);
    if (rc) return err_set(e, why.code, "%s", why.msg);
    return (size_t)snprintf(out, n, "%s", path) < n ? 0 : err_set(e, ERR_LIMIT, "%s: path is too long", path);
}

/* --- a download that people watch --- */

static volatile sig_atomic_t signalled;

static void signal_came(int number)
{
    (void)number;
    signalled = 1;
}

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_SIGNALS = sizeof signals / sizeof *signals };

static void watch_signals(struct sigaction before[N_SIGNALS])
{
    struct sigaction ours = {.sa_handler = signal_came};
    signalled = 0;
    for (size_t i = 0; i < N_SIGNALS; i++) sigaction(signals[i], &ours, &before[i]);
}

static void leave_signals(const struct sigaction before[N_SIGNALS])
{
    for (size_t i = 0; i < N_SIGNALS; i++) sigaction(signals[i], &before[i], NULL);
}

struct watcher {
    const char *arg;
    struct progress *bar; /* NULL: no terminal; lines then */
    uint64_t first_bytes;
    int64_t begun_ms, told_ms; /* begun_ms 0: nothing was told yet */
};

static bool stop(void *ctx)
{
    (void)ctx;
    return signalled;
}

static void note(void *ctx, const char *text)
{
    struct watcher *w = ctx;
    log_info("%s: %s", w->arg, text);
}

/* A log's line, at most one a few seconds. */
static void progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct watcher *w = ctx;
    progress_set(w->bar, done_bytes, total_bytes);
    if (total_bytes == 0) return; /* the index, which tells of the others */
    int64_t now_ms = clock_boot_ms();
    if (!w->begun_ms) {
        w->begun_ms = w->told_ms = now_ms;
        w->first_bytes = done_bytes;
    }
    if (w->bar || now_ms < w->told_ms + LINE_EVERY_MS || done_bytes > total_bytes) return;
    double rate = done_bytes > w->first_bytes ? (double)(done_bytes - w->first_bytes) / ((double)(now_ms - w->begun_ms) / 1000) : 0;
    char left[48] = "";
    if (rate > 0) snprintf(left, sizeof left, ", %.0f s left", (double)(total_bytes - done_bytes) / rate);
    log_info("%s: %.0f %%, %.1f of %.1f MB, %.1f MB/s%s", w->arg, (double)done_bytes / (double)total_bytes * 100, (double)done_bytes / 1e6,
             (double)total_bytes / 1e6, rate / 1e6, left);
    w->told_ms = now_ms;
}

static bool is_loopback(const char *url)
{
    const char *host = strstr(url, "://");
    host = host ? host + 3 : url;
    size_t n = strcspn(host, ":/");
    return str_starts_with(host, "127.") || str_starts_with(host, "[::1]") || (n == 9 && strncasecmp(host, "localhost", 9) == 0);
}

static int pull_watched(const char *arg, const struct hub_name *name, struct hub_config *c, char path[HUB_PATH_BYTES], struct err *e)
{
    struct sigaction before[N_SIGNALS];
    struct watcher w = {.arg = arg};
    char what[96];
    if (c->token && str_starts_with(c->endpoint, "http://") && !is_loopback(c->endpoint))
        log_warn("the token goes over the network unencrypted: HF_ENDPOINT is http, not https");
    c->ctx = &w;
    c->progress = progress;
    c->note = note;
    c->stop = stop;
    snprintf(what, sizeof what, "%.60s", arg);
    w.bar = log_format() == LOG_TEXT ? progress_begin_download(what) : NULL;
    watch_signals(before);
    int rc = hub_pull(c, name, path, e);
    leave_signals(before);
    progress_end(w.bar);
    return rc == -ERR_CLOSING ? err_set(e, ERR_CLOSING, "%s: stopped; the same command goes on where it was", arg) : rc;
}

/* token: "" for none. */
static int pull_with(const char *arg, unsigned retries, const char *token, char path[HUB_PATH_BYTES], struct err *e)
{
    struct hub_name name;
    char cache_dir[HUB_PATH_BYTES];
    int rc = hub_name_parse(arg, &name, e);
    if (!rc) rc = env_hub_cache(cache_dir, e);
    if (!rc && env_hub_offline()) {
        rc = hub_cached(cache_dir, &name, path, e);
        return rc ? err_prefix(e, "HF_HUB_OFFLINE is set") : 0;
    }
    struct hub_config c = {.cache_dir = cache_dir,
                           .endpoint = env_hub_endpoint(),
                           .token = token[0] ? token : NULL,
                           .ca_file = env_ca_file(),
                           .user_agent = "spillway/" SPILLWAY_VERSION,
                           .retries = retries};
    return rc ? rc : pull_watched(arg, &name, &c, path, e);
}

int hub_model_pull(const char *arg, unsigned retries, char path[HUB_PATH_BYTES], struct err *e)
{
    char token[ENV_TOKEN_BYTES];
    int rc = env_take_hub_token(token, e);
    if (!rc) rc = pull_with(arg, retries, token, path, e);
    explicit_bzero(token, sizeof token);
    return rc;
}

int hub_models_prepare(const struct options *o, struct err *e)
{
    char path[HUB_PATH_BYTES], cache_dir[HUB_PATH_BYTES], token[ENV_TOKEN_BYTES] = "";
    bool any = false;
    int rc = 0;
    for (int i = 0; i < o->n_args; i++) any |= hub_model_is(o->args[i]);
    if (any && !env_hub_offline()) rc = env_take_hub_token(token, e);
    for (int i = 0; i < o->n_args && !rc; i++) {
        const char *arg = o->args[i];
        if (!hub_model_is(arg)) continue;
        if (find_cached(arg, path, cache_dir, NULL) == 0) {
            log_info("model %s: %s", arg, path);
            continue;
        }
        if (!env_hub_offline())
            log_info("model %s: is neither a folder here nor in the cache %s: it is downloaded from %s", arg, cache_dir,
                     env_hub_endpoint());
        rc = pull_with(arg, SERVE_RETRIES, token, path, e);
    }
    env_drop_hub_token();
    explicit_bzero(token, sizeof token);
    return rc;
}
