/* Providers of `serve`: from the configuration's `providers` to hosts with keys. Keys come from the environment or from files, never from the
 * configuration itself. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "server/accounts/money.h"
#include "server/accounts/report.h"
#include "server/cli/data_path.h"
#include "server/cli/env.h"
#include "server/cli/serve_parts.h"

enum { PATH_BYTES = 4096 };

struct made {
    struct hosted_order orders[OPTIONS_MAX_PROVIDERS];
    const char *key_lists[OPTIONS_MAX_PROVIDERS][HOST_MAX_KEYS], *header_lists[OPTIONS_MAX_PROVIDERS][1];
};

static int read_flag(const struct options *o, const struct option_provider *p, const char *key, const char *text, bool *out, struct err *e)
{
    *out = text && strcmp(text, "true") == 0;
    if (!text || *out || strcmp(text, "false") == 0) return 0;
    return err_set(e, ERR_INPUT, "%s:%u: provider %s: %s is neither true nor false", o->config, p->line, p->provider, key);
}

static int make_one(struct made *m, struct serve_secrets *secrets, const struct options *o, int i, struct err *e)
{
    const struct option_provider *p = &o->providers[i];
    struct hosted_order *to = &m->orders[i];
    m->header_lists[i][0] = p->header;
    to->host = (struct provider_host_config){.provider = p->provider,
                                             .name = p->name,
                                             .base_url = p->base_url,
                                             .region = p->region,
                                             .resource = p->resource,
                                             .api_version = p->api_version,
                                             .auth = p->auth,
                                             .headers = m->header_lists[i],
                                             .n_headers = p->header != NULL};
    to->prices = p->prices;
    to->region = p->region;
    const struct provider *row = provider_find(p->provider);
    if (!row) return err_set(e, ERR_INPUT, "%s:%u: there is no provider '%.64s'", o->config, p->line, p->provider);
    int rc = read_flag(o, p, "zero_retention", p->zero_retention, &to->zero_retention, e);
    if (!rc) rc = read_flag(o, p, "unverified", p->unverified, &to->host.unverified, e);
    to->host.keys = m->key_lists[i];
    return rc ? rc : serve_secrets_read(secrets, o, p, row->key_env, m->key_lists[i], &to->host.n_keys, e);
}

static int read_usd(const char *flag, const char *text, int64_t *nusd, struct err *e)
{
    if (!text || (money_parse(text, nusd) && *nusd >= 0)) return 0;
    return err_set(e, ERR_INPUT, "%s: '%.40s' is not an amount of dollars such as 2.50", flag, text);
}

static int read_overflow(const struct options *o, struct overflow_limits *all, struct err *e)
{
    *all = (struct overflow_limits){.share_permille = OVERFLOW_ALL_PERMILLE, .hosts = ~(uint64_t)0, .regions = ~(uint64_t)0};
    int64_t per_cent = 100;
    int rc = read_usd("--overflow-usd-per-hour", o->overflow_usd_per_hour, &all->hour_nusd, e);
    if (!rc) rc = read_usd("--overflow-usd-in", o->overflow_usd_in, &all->price.in_nusd, e);
    if (!rc) rc = read_usd("--overflow-usd-out", o->overflow_usd_out, &all->price.out_nusd, e);
    if (!rc && o->overflow_share && !str_parse_int64(o->overflow_share, 0, 100, &per_cent))
        rc = err_set(e, ERR_INPUT, "--overflow-share: '%.40s' is not a whole number of per cent from 0 to 100", o->overflow_share);
    all->share_permille = (int)per_cent * 10;
    return rc;
}

static int read_policy(const char *where, const char *text, enum route_policy *out, struct err *e)
{
    for (int i = 0; text && i < ROUTE_POLICIES; i++) {
        if (strcmp(route_policy_names[i], text) != 0) continue;
        *out = (enum route_policy)i;
        return 0;
    }
    return text ? err_set(e, ERR_INPUT, "%s: there is no policy '%.40s'", where, text) : 0;
}

/* --- what is said of local models --- */

struct naming {
    const struct options *o;
    struct hosted *hosted; /* NULL: none */
    struct gateway_naming *to;
};

static int add_stand_in(struct naming *n, int hosted, struct err *e)
{
    struct gateway_naming *to = n->to;
    if (to->n_stand_ins == GATEWAY_MAX_STAND_INS) return err_set(e, ERR_INPUT, "more than %d", GATEWAY_MAX_STAND_INS);
    to->stand_ins[to->n_stand_ins] = (struct name_stand_in){.hosted = (uint16_t)hosted, .tier = (uint8_t)to->n_stand_ins, .weight = 1};
    to->n_stand_ins++;
    return 0;
}

static int take_over(struct naming *n, int hosted, struct err *e)
{
    int *local = &n->hosted->names[hosted].local;
    if (*local >= 0) return err_set(e, ERR_INPUT, "another model takes over the same one");
    *local = (int)n->to->model->number;
    return 0;
}

/* "host/model, host/model", one after the other. */
static int each_hosted(struct naming *n, const char *key, const char *list, int (*take)(struct naming *n, int hosted, struct err *e), struct err *e)
{
    char name[NAME_MAX_BYTES];
    for (const char *p = list; p && *p;) {
        p += strspn(p, ", ");
        size_t length = strcspn(p, ", ");
        if (length == 0) break;
        snprintf(name, sizeof name, "%.*s", (int)length, p);
        p += length;
        int hosted = n->hosted ? hosted_find(n->hosted, name, e) : err_set(e, ERR_INPUT, "no provider is configured");
        int rc = hosted < 0 ? hosted : take(n, hosted, e);
        if (rc) return err_prefix(e, "model %s: %s", n->to->model->id, key);
    }
    return 0;
}

int serve_hosted_take(struct serve *s, const struct options *o, struct hosted *hosted, bool back, struct err *e)
{
    struct gateway_naming all[GATEWAY_MAX_MODELS + OPTIONS_MAX_ARGS];
    bool here[OPTIONS_MAX_ARGS] = {false};
    struct naming n = {.o = o, .hosted = hosted};
    size_t n_all = 0;
    int rc = 0;
    for (size_t i = 0; hosted && i < hosted->n_models; i++) hosted->names[i].local = -1; /* it may have been in force before */
    for (size_t i = 0; i < s->g.n_models && !rc; i++) {
        struct gateway_model *m = s->g.models[i];
        if (m->option < 0) continue;
        here[m->option] = true;
        n.to = &all[n_all++];
        *n.to = (struct gateway_naming){.model = m, .public_name = o->arg_public_names[m->option]};
        rc = each_hosted(&n, "stand_ins", o->arg_stand_ins[m->option], add_stand_in, e);
        if (!rc) rc = each_hosted(&n, "takes_over", o->arg_takes_over[m->option], take_over, e);
    }
    for (int i = 0; i < OPTIONS_MAX_ARGS; i++) /* unloaded, or not to be loaded */
        if (s->model_ids[i] && !here[i]) all[n_all++] = (struct gateway_naming){.name = s->model_ids[i]};
    struct upstream_config c;
    upstream_config_init(&c);
    c.ca_file = env_ca_file();
    if (!rc && hosted && !s->g.upstream) rc = upstream_new(&s->g.upstream, s->g.loop, &c, e);
    if (!rc && hosted && !s->g.sticky) rc = sticky_new(&s->g.sticky, (uint64_t)randombytes_random() << 32 | randombytes_random(), e);
    return rc ? rc : gateway_name_all(&s->g, hosted, all, n_all, back, e);
}

/* --- start --- */

static int make_aliases(const struct options *o, struct hosted_alias *aliases, struct err *e)
{
    char where[32];
    for (int i = 0; i < o->n_aliases; i++) {
        const struct option_alias *a = &o->aliases[i];
        snprintf(where, sizeof where, "line %u: policy", a->line);
        aliases[i] = (struct hosted_alias){.name = a->name, .routes = a->routes, .policy = ROUTE_PRIORITY};
        int rc = read_policy(where, a->policy, &aliases[i].policy, e);
        if (rc) return err_prefix(e, "%s", o->config);
    }
    return 0;
}

static void restore_one(void *ctx, int64_t key, int64_t project, int64_t nusd)
{
    struct serve *s = ctx;
    const int64_t hour = clock_wall_s() / 3600, ids[] = {-1, key, project};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) overflow_restore(s->g.route.overflow, ids[i], hour, nusd);
}

/* A restart opens no new hour. */
static int restore_overflow(struct serve *s, struct err *e)
{
    struct db *db;
    int rc = s->g.ledger ? db_open(&db, s->g.store, e) : 0;
    if (rc || !s->g.ledger) return rc;
    rc = report_overflow(db, clock_wall_s() / 3600 * 3600 * 1000, restore_one, s, e);
    db_close(db);
    return rc;
}

void serve_hosted_tell(const struct serve *s)
{
    const struct hosted *h = s->g.hosted;
    for (size_t i = 0; h && i < h->n_hosts; i++) {
        const struct provider_host *host = &h->hosts[i].host;
        log_info("provider %s: %s, %zu keys%s", host->name, host->base_url, host->n_keys, host->unverified ? ", unverified" : "");
    }
}

int serve_hosted_make(struct serve *s, const struct options *o, struct serve_hosted *out, struct err *e)
{
    char book[PATH_BYTES] = "";
    struct db *db = NULL;
    struct hosted_alias aliases[OPTIONS_MAX_ALIASES];
    *out = (struct serve_hosted){.hosted = NULL};
    int rc = read_overflow(o, &out->overflow, e);
    if (rc || (!o->n_providers && !o->n_aliases)) return rc;
    struct made *m = calloc(1, sizeof *m);
    rc = m ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    for (int i = 0; i < o->n_providers && !rc; i++) rc = make_one(m, &s->secrets, o, i, e);
    if (!rc) rc = make_aliases(o, aliases, e);
    struct hosted_config c = {.orders = m ? m->orders : NULL,
                              .n_orders = (size_t)o->n_providers,
                              .aliases = aliases,
                              .n_aliases = (size_t)o->n_aliases,
                              .book = book,
                              .texts = &s->texts};
    if (!rc) rc = read_policy("--route-policy", o->route_policy, &c.policy, e);
    if (!rc) rc = data_path_find(&data_prices, book, sizeof book, e);
    if (!rc && s->g.ledger) rc = db_open(&db, s->g.store, e);
    if (!rc) rc = hosted_new(&out->hosted, &c, db, e);
    db_close(db);
    serve_secrets_keep(&s->secrets);
    free(m);
    return rc;
}

int serve_hosted_start(struct serve *s, struct err *e)
{
    struct serve_hosted made;
    int rc = serve_hosted_make(s, s->o, &made, e);
    if (!rc) rc = overflow_new(&s->g.route.overflow, &made.overflow, e);
    if (!rc) rc = restore_overflow(s, e);
    s->g.hosted = made.hosted;
    if (!rc) serve_hosted_tell(s);
    return rc;
}
