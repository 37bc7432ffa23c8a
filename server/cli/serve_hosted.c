/* Providers of `serve`: from the configuration's `providers` to hosts with keys. Keys come from the environment or from files, never from the
 * configuration itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "server/accounts/money.h"
#include "server/cli/data_path.h"
#include "server/cli/env.h"
#include "server/cli/serve_parts.h"

enum { PATH_BYTES = 4096 };

struct made {
    struct hosted_order orders[OPTIONS_MAX_PROVIDERS];
    char keys[OPTIONS_MAX_PROVIDERS][HOST_MAX_KEY_BYTES];
    const char *key_lists[OPTIONS_MAX_PROVIDERS][1], *header_lists[OPTIONS_MAX_PROVIDERS][1];
};

/* A row that needs a key and has none is an error at the start, not at the first request. */
static int read_key(struct made *m, const struct options *o, int i, struct err *e)
{
    const struct option_provider *p = &o->providers[i];
    const struct provider *row = provider_find(p->provider);
    const char *variable = p->key_env ? p->key_env : row ? row->key_env : NULL;
    bool there = false;
    if (p->key_file) {
        int rc = serve_read_key(p->key_file, m->keys[i], e);
        if (rc) return rc;
        there = true;
    } else if (variable) {
        there = env_take_provider_key(variable, m->keys[i], sizeof m->keys[i]);
        for (int j = 0; j < i && !there; j++) { /* taken already by one before it */
            const struct provider *other = provider_find(o->providers[j].provider);
            const char *its = o->providers[j].key_env ? o->providers[j].key_env : other ? other->key_env : NULL;
            if (!its || o->providers[j].key_file || strcmp(its, variable) != 0) continue;
            strcpy(m->keys[i], m->keys[j]);
            there = m->keys[i][0] != '\0';
        }
        if (!there && (p->key_env || row->key_env))
            return err_set(e, ERR_INPUT, "%s:%u: provider %s: %s is not set: its key comes from there, or from key_file", o->config, p->line, p->provider, variable);
    }
    m->key_lists[i][0] = m->keys[i];
    m->orders[i].host.keys = m->key_lists[i];
    m->orders[i].host.n_keys = there;
    return 0;
}

static int make_one(struct made *m, const struct options *o, int i, struct err *e)
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
                                             .headers = m->header_lists[i],
                                             .n_headers = p->header != NULL};
    to->prices = p->prices;
    if (!provider_find(p->provider)) return err_set(e, ERR_INPUT, "%s:%u: there is no provider '%.64s'", o->config, p->line, p->provider);
    return read_key(m, o, i, e);
}

static int set_overflow(struct serve *s, struct err *e)
{
    struct overflow_limits all = {.share_permille = OVERFLOW_ALL_PERMILLE, .hosts = ~(uint64_t)0, .regions = ~(uint64_t)0};
    const char *text = s->o->overflow_usd_per_hour;
    if (text && (!money_parse(text, &all.hour_nusd) || all.hour_nusd < 0))
        return err_set(e, ERR_INPUT, "--overflow-usd-per-hour: '%.40s' is not an amount of dollars such as 2.50", text);
    return overflow_new(&s->g.route.overflow, &all, e);
}

int serve_hosted_stand_ins(struct serve *s, struct gateway_model *m, const char *list, struct err *e)
{
    char name[NAME_MAX_BYTES];
    struct hosted_model *found;
    for (const char *p = list; p && *p;) {
        p += strspn(p, ", ");
        size_t n = strcspn(p, ", ");
        if (n == 0) break;
        snprintf(name, sizeof name, "%.*s", (int)n, p);
        p += n;
        if (!s->g.hosted) return err_set(e, ERR_INPUT, "model %s: stand_ins: no provider is configured", m->id);
        if (m->n_stand_ins == GATEWAY_MAX_STAND_INS) return err_set(e, ERR_INPUT, "model %s: stand_ins: more than %d", m->id, GATEWAY_MAX_STAND_INS);
        int rc = hosted_find(s->g.hosted, name, &found, e);
        if (rc) return err_prefix(e, "model %s: stand_ins", m->id);
        m->stand_ins[m->n_stand_ins++] = (uint16_t)(found - s->g.hosted->models);
    }
    return 0;
}

int serve_hosted_start(struct serve *s, struct err *e)
{
    const struct options *o = s->o;
    char book[PATH_BYTES] = "";
    struct db *db = NULL;
    struct made *m = o->n_providers ? calloc(1, sizeof *m) : NULL;
    int rc = set_overflow(s, e);
    if (rc || !o->n_providers) {
        free(m);
        return rc;
    }
    rc = m ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    for (int i = 0; i < o->n_providers && !rc; i++) rc = make_one(m, o, i, e);
    if (!rc) rc = data_path_find(&data_prices, book, sizeof book, e);
    if (!rc && s->g.ledger) rc = db_open(&db, s->g.store, e);
    if (!rc) rc = hosted_new(&s->g.hosted, s->g.loop, m->orders, (size_t)o->n_providers, book, db, env_ca_file(), e);
    db_close(db);
    if (m) explicit_bzero(m->keys, sizeof m->keys);
    free(m);
    for (size_t i = 0; !rc && i < s->g.hosted->n_hosts; i++) {
        const struct hosted_host *h = &s->g.hosted->hosts[i];
        log_info("provider %s: %s, %zu keys%s", h->host.name, h->host.base_url, h->host.n_keys, h->host.unverified ? ", unverified" : "");
    }
    return rc;
}
