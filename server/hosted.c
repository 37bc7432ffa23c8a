/* Hosted: see hosted.h. */
#include "server/hosted.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "server/accounts/ledger.h"
#include "server/accounts/price_table.h"

enum { PRICE_TEXT_BYTES = 64 << 10, UNKNOWN_CONTEXT = 200000 };

/* A row that stands for any URL has no prices of its own: what the operator calls the host is who it is (deepseek, xai). */
static bool is_here(const struct hosted_host *h, const struct price *p, bool own)
{
    const char *provider = own || !h->host.row->base_url ? h->host.name : h->host.row->name;
    return strcmp(p->provider, provider) == 0 && !p->region[0] && !(p->can & PRICE_RESPONSES_ONLY);
}

static int add_models(struct hosted *h, struct hosted_host *host, bool own, struct err *e)
{
    size_t n = 0;
    for (size_t i = 0; i < host->book->n_prices; i++) n += is_here(host, &host->book->prices[i], own);
    if (n == 0) {
        if (own) return err_set(e, ERR_INPUT, "provider %s: its prices name no model of a provider '%s'", host->host.name, host->host.name);
        log_warn("provider %s: the price book has no model of it, so none can be asked for", host->host.name);
        return 0;
    }
    void *models = realloc(h->models, (h->n_models + n) * sizeof *h->models);
    if (!models) return err_set(e, ERR_MEMORY, "out of memory");
    h->models = models;
    for (size_t i = 0; i < host->book->n_prices; i++) {
        const struct price *p = &host->book->prices[i];
        struct buf b;
        if (!is_here(host, p, own)) continue;
        buf_init(&b, PRICE_TEXT_BYTES);
        if (price_write(&b, p)) {
            buf_free(&b);
            return err_set(e, ERR_MEMORY, "out of memory");
        }
        int64_t context = p->context ? p->context : UNKNOWN_CONTEXT;
        if (context > h->longest_context) h->longest_context = context < UINT32_MAX ? (uint32_t)context : UINT32_MAX;
        h->models[h->n_models++] = (struct hosted_model){.host = host, .price = p, .price_text = b.data};
    }
    return 0;
}

static int add_host(struct hosted *h, const struct hosted_order *o, struct price_book *book, struct db *db, struct err *e)
{
    struct hosted_host *host = &h->hosts[h->n_hosts];
    int rc = provider_host_init(&host->host, &o->host, e);
    if (rc) return rc;
    h->n_hosts++;
    if (price_table_reserves(host->host.name)) return err_set(e, ERR_INPUT, "a provider must not be named '%s'", host->host.name);
    _Static_assert((int)HOST_MAX_KEYS <= (int)HOST_KEYS_MAX, "each key has its health");
    host->keys.n = host->host.n_keys;
    if (o->prices)
        rc = price_book_open(&host->book, o->prices, e);
    else
        host->book = price_book_hold(book);
    if (!rc && db) {
        host->supplier = ledger_supplier(db, host->host.name, e);
        if (host->supplier < 0) rc = (int)host->supplier;
    }
    return rc ? rc : add_models(h, host, o->prices != NULL, e);
}

/* After all of them: the lists do not move any more. */
static int make_catalogue(struct hosted *h, struct err *e)
{
    h->host_names = calloc(h->n_hosts, sizeof *h->host_names);
    h->names = calloc(h->n_models ? h->n_models : 1, sizeof *h->names);
    if (!h->host_names || !h->names) return err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < h->n_hosts; i++) h->host_names[i] = h->hosts[i].host.name;
    for (size_t i = 0; i < h->n_models; i++)
        h->names[i] = (struct name_hosted){.host = (uint16_t)(h->models[i].host - h->hosts), .model = h->models[i].price->model, .local = -1};
    h->catalogue = (struct name_catalogue){.hosts = h->host_names, .n_hosts = h->n_hosts, .hosted = h->names, .n_hosted = h->n_models};
    return name_catalogue_check(&h->catalogue, e);
}

int hosted_new(struct hosted **out, struct loop *l, const struct hosted_order *orders, size_t n, const char *book_path, struct db *db,
               const char *ca_file, struct err *e)
{
    *out = NULL;
    struct price_book *book = NULL;
    struct hosted *h = calloc(1, sizeof *h);
    if (!h) return err_set(e, ERR_MEMORY, "out of memory");
    h->hosts = calloc(n, sizeof *h->hosts);
    int rc = h->hosts ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < n && !rc; i++) {
        if (!orders[i].prices && !book) rc = price_book_open(&book, book_path, e);
        if (!rc) rc = add_host(h, &orders[i], book, db, e);
    }
    price_book_release(book);
    if (!rc) rc = make_catalogue(h, e);
    struct upstream_config c;
    upstream_config_init(&c);
    c.ca_file = ca_file;
    if (!rc) rc = upstream_new(&h->upstream, l, &c, e);
    if (rc)
        hosted_free(h);
    else
        *out = h;
    return rc;
}

void hosted_free(struct hosted *h)
{
    if (!h) return;
    upstream_free(h->upstream);
    for (size_t i = 0; i < h->n_models; i++) free(h->models[i].price_text);
    for (size_t i = 0; i < h->n_hosts; i++) {
        price_book_release(h->hosts[i].book);
        provider_host_free(&h->hosts[i].host);
    }
    free(h->host_names);
    free(h->names);
    free(h->models);
    free(h->hosts);
    free(h);
}

int hosted_find(struct hosted *h, const char *name, struct hosted_model **out, struct err *e)
{
    struct name_wanted wanted;
    int rc = name_parse(&h->catalogue, name, &wanted, e);
    if (rc) return rc;
    CHECK(wanted.n > 0 && wanted.routes[0].kind == NAME_HOSTED);
    *out = &h->models[wanted.routes[0].index];
    return 0;
}
