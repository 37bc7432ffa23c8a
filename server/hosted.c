/* Hosted: see hosted.h. */
#include "server/hosted.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "server/accounts/ledger.h"
#include "server/accounts/price_table.h"

enum { PRICE_TEXT_BYTES = 64 << 10, UNKNOWN_CONTEXT = 200000 };

/* --- texts of prices --- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void hosted_texts_free(struct hosted_texts *t)
{
    for (size_t i = 0; i < t->n; i++) free(t->rows[i]);
    free(t->rows);
    *t = (struct hosted_texts){0};
}

/* Its place for good; the list is in order again after texts_sort. Takes text over. NULL without memory. */
static const char *texts_put(struct hosted_texts *t, size_t n_sorted, char *text)
{
    char **there = t->n ? bsearch(&text, t->rows, n_sorted, sizeof *t->rows, by_text) : NULL;
    if (there) {
        free(text);
        return *there;
    }
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 256;
        char **rows = realloc(t->rows, cap * sizeof *rows);
        if (!rows) {
            free(text);
            return NULL;
        }
        t->rows = rows;
        t->cap = cap;
    }
    return t->rows[t->n++] = text;
}

static void texts_sort(struct hosted_texts *t)
{
    if (t->n) qsort(t->rows, t->n, sizeof *t->rows, by_text);
}

/* --- hosts and their models --- */

/* A row that stands for any URL has no prices of its own: what the operator calls the host is who it is (deepseek, xai). */
static bool is_here(const struct hosted_host *h, const struct price *p, bool own)
{
    const char *provider = own || !h->host.row->base_url ? h->host.name : h->host.row->name;
    return strcmp(p->provider, provider) == 0 && !p->region[0] && !(p->can & PRICE_RESPONSES_ONLY);
}

static int add_models(struct hosted *h, struct hosted_host *host, struct hosted_texts *texts, bool own, struct err *e)
{
    size_t n = 0, n_sorted = texts->n;
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
        const char *text = texts_put(texts, n_sorted, b.data);
        if (!text) return err_set(e, ERR_MEMORY, "out of memory");
        h->models[h->n_models++] = (struct hosted_model){.host = host, .price = p, .price_text = text};
    }
    texts_sort(texts);
    return 0;
}

/* 1 and up; hosts of the same name of a region share its number. */
static int take_region(struct hosted *h, struct hosted_host *host, const char *region, struct err *e)
{
    unsigned i = 1;
    if (!region) return 0;
    while (i <= h->n_regions && strcmp(h->regions[i], region) != 0) i++;
    if (i == HOSTED_MAX_REGIONS) return err_set(e, ERR_LIMIT, "provider %s: more than %d regions", host->host.name, HOSTED_MAX_REGIONS - 1);
    if (i > h->n_regions && !(h->regions[i] = strdup(region))) return err_set(e, ERR_MEMORY, "out of memory");
    if (i > h->n_regions) h->n_regions = i;
    host->region = i;
    return 0;
}

static int add_host(struct hosted *h, const struct hosted_order *o, struct hosted_texts *texts, struct price_book *book, struct db *db, struct err *e)
{
    struct hosted_host *host = &h->hosts[h->n_hosts];
    int rc = provider_host_init(&host->host, &o->host, e);
    if (rc) return rc;
    h->n_hosts++;
    host->zero_retention = o->zero_retention;
    rc = take_region(h, host, o->region, e);
    if (rc) return rc;
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
    return rc ? rc : add_models(h, host, texts, o->prices != NULL, e);
}

/* owner/model: what others may call the same model, too. */
static const char *public_name(const char *model)
{
    const char *slash = strchr(model, '/');
    return slash && slash != model && slash[1] && !strchr(slash + 1, '/') ? model : NULL;
}

/* After all of them: the lists do not move any more. */
static int make_catalogue(struct hosted *h, const struct hosted_config *c, struct err *e)
{
    h->host_names = calloc(h->n_hosts + 1, sizeof *h->host_names);
    h->names = calloc(h->n_models + 1, sizeof *h->names);
    if (!h->host_names || !h->names) return err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < h->n_hosts; i++) h->host_names[i] = h->hosts[i].host.name;
    for (size_t i = 0; i < h->n_models; i++) {
        const char *model = h->models[i].price->model;
        h->names[i] = (struct name_hosted){.host = (uint16_t)(h->models[i].host - h->hosts), .model = model, .canonical = public_name(model), .local = -1};
    }
    h->catalogue = (struct name_catalogue){.hosts = h->host_names,
                                           .n_hosts = h->n_hosts,
                                           .hosted = h->names,
                                           .n_hosted = h->n_models,
                                           .aliases = h->aliases,
                                           .n_aliases = c->n_aliases,
                                           .policy = c->policy};
    return 0;
}

/* --- aliases --- */

static char *trim(char *text)
{
    text += strspn(text, " \t");
    for (size_t n = strlen(text); n && strchr(" \t", text[n - 1]); n--) text[n - 1] = '\0';
    return text;
}

/* "b*3": the weight is cut off. */
static int read_route(char *text, unsigned tier, struct name_alias_route *out, struct err *e)
{
    int64_t weight = 1;
    char *p = trim(text), *star = strrchr(p, '*');
    if (star && !str_parse_int64(star + 1, 0, UINT16_MAX, &weight)) return err_set(e, ERR_INPUT, "'%.80s' has no weight from 0 to 65535 after its *", p);
    if (star) *star = '\0';
    p = trim(p);
    if (!*p) return err_set(e, ERR_INPUT, "a route is empty");
    *out = (struct name_alias_route){.target = p, .tier = (uint8_t)tier, .weight = (uint16_t)weight};
    return 0;
}

static int make_alias(struct name_alias *out, const struct hosted_alias *a, struct err *e)
{
    struct name_alias_route *routes = calloc(NAME_MAX_ROUTES, sizeof *routes);
    char *copy = strdup(a->routes), *rest = copy, *next, *end;
    int rc = routes && copy && (out->name = strdup(a->name)) ? 0 : err_set(e, ERR_MEMORY, "out of memory");
    *out = (struct name_alias){.name = out->name, .routes = routes, .policy = a->policy};
    for (unsigned tier = 0; !rc && (next = strsep(&rest, ",")); tier++) {
        for (char *part = strtok_r(next, "|", &end); part && !rc; part = strtok_r(NULL, "|", &end)) {
            if (out->n_routes == NAME_MAX_ROUTES || tier > NAME_MAX_TIER)
                rc = err_set(e, ERR_INPUT, "more than %d routes", NAME_MAX_ROUTES);
            else
                rc = read_route(part, tier, &routes[out->n_routes++], e);
        }
    }
    size_t n = rc ? 0 : out->n_routes;
    out->n_routes = 0;
    for (size_t i = 0; i < n && !rc; i++) /* each is on its own from here on */
        if ((routes[i].target = strdup(routes[i].target)))
            out->n_routes++;
        else
            rc = err_set(e, ERR_MEMORY, "out of memory");
    free(copy);
    return rc;
}

static int make_aliases(struct hosted *h, const struct hosted_config *c, struct err *e)
{
    h->aliases = calloc(c->n_aliases + 1, sizeof *h->aliases);
    if (!h->aliases) return err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < c->n_aliases; i++) {
        h->n_aliases++; /* freed whatever there is of it */
        int rc = make_alias(&h->aliases[i], &c->aliases[i], e);
        if (rc) return err_prefix(e, "alias '%.80s'", c->aliases[i].name);
    }
    return 0;
}

int hosted_new(struct hosted **out, const struct hosted_config *c, struct db *db, struct err *e)
{
    *out = NULL;
    struct price_book *book = NULL;
    struct hosted *h = calloc(1, sizeof *h);
    if (!h) return err_set(e, ERR_MEMORY, "out of memory");
    h->holders = 1;
    h->hosts = calloc(c->n_orders + 1, sizeof *h->hosts);
    int rc = h->hosts ? make_aliases(h, c, e) : err_set(e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < c->n_orders && !rc; i++) {
        if (!c->orders[i].prices && !book) rc = price_book_open(&book, c->book, e);
        if (!rc) rc = add_host(h, &c->orders[i], c->texts, book, db, e);
    }
    price_book_release(book);
    if (!rc) rc = make_catalogue(h, c, e);
    if (rc)
        hosted_release(h);
    else
        *out = h;
    return rc;
}

struct hosted *hosted_hold(struct hosted *h)
{
    if (h) h->holders++;
    return h;
}

void hosted_follow(struct hosted *h, const struct hosted *former)
{
    size_t at = 0; /* both have their models in the same order, as a rule */
    for (size_t i = 0; i < h->n_hosts; i++) {
        for (size_t k = 0; k < former->n_hosts; k++)
            if (strcmp(h->hosts[i].host.name, former->hosts[k].host.name) == 0) h->hosts[i].retries = former->hosts[k].retries;
    }
    for (size_t i = 0; i < h->n_models; i++) {
        struct hosted_model *m = &h->models[i];
        for (size_t n = 0; n < former->n_models; n++, at = (at + 1) % former->n_models) {
            const struct hosted_model *was = &former->models[at];
            if (strcmp(m->price->model, was->price->model) != 0 || strcmp(m->host->host.name, was->host->host.name) != 0) continue;
            m->breaker = was->breaker;
            m->speed = was->speed;
            break;
        }
    }
}

void hosted_release(struct hosted *h)
{
    if (!h || --h->holders) return;
    for (size_t i = 0; i < h->n_hosts; i++) {
        price_book_release(h->hosts[i].book);
        provider_host_free(&h->hosts[i].host);
    }
    for (size_t i = 1; i <= h->n_regions; i++) free(h->regions[i]);
    for (size_t i = 0; i < h->n_aliases; i++) {
        for (size_t k = 0; k < h->aliases[i].n_routes; k++) free((char *)(uintptr_t)h->aliases[i].routes[k].target);
        free((void *)(uintptr_t)h->aliases[i].routes);
        free((char *)(uintptr_t)h->aliases[i].name);
    }
    free(h->aliases);
    free(h->host_names);
    free(h->names);
    free(h->models);
    free(h->hosts);
    free(h);
}

int hosted_find(const struct hosted *h, const char *name, struct err *e)
{
    struct name_wanted wanted;
    const struct name_catalogue only = {.hosts = h->host_names, .n_hosts = h->n_hosts, .hosted = h->names, .n_hosted = h->n_models};
    int rc = name_parse(&only, name, &wanted, e);
    if (rc) return rc;
    CHECK(wanted.n > 0 && wanted.routes[0].kind == NAME_HOSTED);
    return wanted.routes[0].index;
}
