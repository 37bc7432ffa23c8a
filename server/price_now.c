/* Prices in force: see price_now.h. */
#include "server/price_now.h"

#include <stddef.h>

#include "base/log.h"

static int read_table(const struct gateway *g, const struct tariff_table *former, struct tariff_table **out, struct err *e)
{
    struct db *db;
    *out = NULL;
    int rc = db_open(&db, g->store, e);
    if (!rc) rc = tariff_table_read(out, db, former, e);
    db_close(db);
    return rc;
}

static struct price_now *of_job(struct pool_job *j)
{
    return (struct price_now *)((char *)j - offsetof(struct price_now, job));
}

static void look_work(struct pool_job *j)
{
    struct price_now *p = of_job(j);
    p->worked = true;
    p->rc = read_table(p->gateway, p->former, &p->fresh, &p->e);
}

static void take(struct price_now *p)
{
    struct gateway *g = p->gateway;
    tariff_table_release(g->tariffs);
    g->tariffs = p->fresh;
    p->fresh = NULL;
    p->version = tariff_table_version(g->tariffs);
    p->away = false;
}

static void look_done(struct pool_job *j)
{
    struct price_now *p = of_job(j);
    p->running = false;
    tariff_table_release(p->former);
    p->former = NULL;
    if (!p->worked) return; /* the server's end */
    if (!p->rc) {
        take(p);
        log_debug("prices: %zu are set, as of change %lld of the configuration", tariff_table_size(p->gateway->tariffs), (long long)p->version);
    } else if (p->rc == -ERR_INPUT || p->rc == -ERR_LIMIT) {
        p->version = p->asked; /* until somebody changes it again */
        log_error("prices: %s; what was in force before stays in force", p->e.msg);
    } else if (!p->away) {
        p->away = true;
        log_warn("prices: %s; they are read again when the store is there", p->e.msg);
    }
}

int price_now_start(struct price_now *p, struct gateway *g, struct err *e)
{
    *p = (struct price_now){.gateway = g};
    int rc = read_table(g, NULL, &p->fresh, e);
    if (!rc) take(p);
    return rc ? err_prefix(e, "prices") : 0;
}

void price_now_look(struct price_now *p)
{
    struct gateway *g = p->gateway;
    if (!g || p->running || !g->pool || accounts_version(g->accounts) <= p->version) return;
    p->running = true;
    p->asked = accounts_version(g->accounts);
    p->worked = false;
    p->former = tariff_table_hold(g->tariffs);
    p->job = (struct pool_job){.work = look_work, .done = look_done};
    pool_submit(g->pool, &p->job);
}

void price_now_stop(struct price_now *p)
{
    if (!p->gateway) return;
    tariff_table_release(p->fresh);
    tariff_table_release(p->former);
    tariff_table_release(p->gateway->tariffs);
    p->gateway->tariffs = NULL;
}
