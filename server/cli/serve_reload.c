/* Reload (SIGHUP): the command line and the file are read again on a pool thread, with certificate and key file; on the loop's thread all of it is
 * swapped at once, or, if anything is wrong, nothing is, and the log says what.
 *
 * Requests that run keep what they began with: completions copy their limits, connections hold on to theirs until their next request, TLS
 * sessions to their certificate. What cannot change while serving (listen, models, data, ...) is named and stays. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "server/cli/serve_parts.h"
#include "server/tls.h"

struct reload {
    struct pool_job job;
    struct serve *serve;
    struct serve_config *config;
    struct tls_context *tls;
    char key[KEY_TEXT_BYTES]; /* of the key file; "": none */
    struct serve_hosted hosted;
    struct alerts_bounds alerts;
    int rc;
    bool worked;
    struct err e;
};

/* On a pool thread; serve->o is never written again once serving. */
static void reload_work(struct pool_job *j)
{
    struct reload *r = (struct reload *)j;
    const struct options *start = r->serve->o;
    r->worked = true;
    r->rc = serve_config_new(&r->config, start->argc, start->argv, start->n_inherited, &r->e);
    if (r->rc) return;
    const struct options *o = &r->config->o;
    if (start->tls_cert && o->tls_cert) r->rc = tls_context_new(&r->tls, o->tls_cert, o->tls_key, &r->e);
    if (!r->rc && !start->no_auth && o->api_key_file) r->rc = serve_read_key(o->api_key_file, r->key, &r->e);
    if (!r->rc) r->rc = serve_alerts_bounds(o, &r->alerts, &r->e);
    if (!r->rc) r->rc = serve_hosted_make(r->serve, o, &r->hosted, &r->e);
}

static void reload_free(struct reload *r)
{
    serve_config_free(r->config);
    tls_context_free(r->tls);
    hosted_release(r->hosted.hosted);
    explicit_bzero(r->key, sizeof r->key);
    free(r);
}

static void refused(const struct reload *r)
{
    const struct config_faults *f = r->config ? &r->config->faults : NULL;
    char line[CONFIG_FAULT_BYTES + 512];
    for (size_t i = 0; f && i < f->n; i++) log_error("reload: %s", config_fault_print(f, i, r->config->o.config, line, sizeof line));
    if (f && f->more) log_error("reload: and %zu more", f->more);
    if (!f || !f->n) log_error("reload: %s", r->e.msg);
    log_error("reload: nothing is changed, the former configuration holds");
}

struct changes {
    struct buf taken, fixed;
};

static void change(void *ctx, const char *key, bool reloads)
{
    struct changes *c = ctx;
    struct buf *b = reloads ? &c->taken : &c->fixed;
    buf_printf(b, "%s%s", b->len ? ", " : "", key);
}

/* tls_cert reloads only where TLS is on, and stays on. */
static void tell_changes(const struct serve *s, const struct options *o, bool key_changed)
{
    struct changes c;
    buf_init(&c.taken, 1 << 14);
    buf_init(&c.fixed, 1 << 14);
    options_differences(&s->config->o, s->o, o, change, &c);
    if (key_changed) change(&c, "the key in api_key_file", true);
    if (!s->o->tls_cert != !o->tls_cert) log_warn("reload: TLS is %s only by a restart", o->tls_cert ? "begun" : "ended");
    if (c.fixed.len) log_warn("reload: %s: a change needs a restart; kept as it was", c.fixed.data);
    log_info("reload: done; %s%s", c.taken.len ? "changed: " : "nothing has changed", c.taken.len ? c.taken.data : "");
    buf_free(&c.taken);
    buf_free(&c.fixed);
}

/* What can fail comes before anything is swapped. */
static int take_key(struct serve *s, const char *key, bool *changed, struct err *e)
{
    unsigned char mark[KEY_MARK_BYTES];
    *changed = false;
    if (!key[0]) return 0;
    serve_mark_key(key, mark);
    if (memcmp(mark, s->key_mark, sizeof mark) == 0) return 0;
    struct err ignored;
    while (accounts_refresh(s->g.accounts, &ignored) == 1) { /* its link to the store may be an old one */
    }
    int64_t id = accounts_key_configure(s->g.accounts, key, e);
    if (id < 0) return err_prefix(e, "api_key_file");
    memcpy(s->key_mark, mark, sizeof mark);
    *changed = true;
    return 0;
}

/* Models that are only named at a restart keep what the start has said of them. */
static const struct options *of_models(const struct serve *s, const struct options *o)
{
    return options_same_models(s->o, o) ? o : s->o;
}

/* Providers and names first: they can be put back when the key or the limits then fail. */
static int take(struct reload *r, bool *key_changed)
{
    struct serve *s = r->serve;
    const struct options *o = &r->config->o;
    struct hosted *former = hosted_hold(s->g.hosted);
    struct err ignored;
    if (r->hosted.hosted && former) hosted_follow(r->hosted.hosted, former);
    int rc = serve_hosted_take(s, of_models(s, o), r->hosted.hosted, false, &r->e);
    if (rc) {
        hosted_release(former);
        return rc;
    }
    r->hosted.hosted = NULL;
    rc = take_key(s, r->key, key_changed, &r->e);
    if (!rc) rc = http_set_limits(s->g.http, &o->limits, &r->e);
    if (rc)
        CHECK(serve_hosted_take(s, of_models(s, &s->config->o), former, true, &ignored) == 0); /* it has been in force */
    else
        hosted_release(former);
    return rc;
}

static int swap(struct reload *r)
{
    struct serve *s = r->serve;
    const struct options *o = &r->config->o;
    struct ip_nets trusted;
    enum log_level level;
    bool key_changed = false;
    int rc = take(r, &key_changed);
    if (rc) return rc;
    overflow_set(s->g.route.overflow, &r->hosted.overflow);
    if (s->g.sticky) sticky_clear(s->g.sticky); /* hosted models have other numbers now */
    if (r->tls) http_set_tls(s->g.http, r->tls);
    r->tls = NULL;
    tell_changes(s, o, key_changed);
    s->g.limits = o->limits;
    media_pool_set_limits(s->g.media, &o->limits);
    alerts_set(s->alerts, &r->alerts);
    s->g.default_max_tokens = o->default_max_tokens;
    serve_config_edge(o, &s->g.edge, &trusted);
    http_set_trusted_proxies(s->g.http, &trusted);
    if (log_level_read(o->log_level, &level)) log_set_level(level);
    if (&s->config->o != s->o) serve_config_free(s->config); /* that of the start stays */
    s->config = r->config;
    r->config = NULL;
    return 0;
}

static void reload_done(struct pool_job *j)
{
    struct reload *r = (struct reload *)j;
    struct serve *s = r->serve;
    s->reload = NULL;
    bool moot = s->closing || !r->worked;
    if (!moot && (r->rc || swap(r))) refused(r);
    reload_free(r);
    if (!moot && s->reload_again) serve_reload(s);
}

void serve_reload(struct serve *s)
{
    s->reload_again = s->reload != NULL;
    if (s->reload) return;
    struct reload *r = s->reload = calloc(1, sizeof *r);
    if (!r) {
        log_error("reload: out of memory; the former configuration holds");
        return;
    }
    r->serve = s;
    r->job = (struct pool_job){.work = reload_work, .done = reload_done};
    pool_submit(s->g.pool, &r->job);
}
