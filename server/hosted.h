/* Hosted: the providers that the operator has configured, each with its keys' and models' health, the models that the price books know
 * there, and the names that lead to them. Made at the start; loop's thread, but for the names, which are looked up on others (gateway.h's
 * gateway_names). */
#ifndef SPILLWAY_SERVER_HOSTED_H
#define SPILLWAY_SERVER_HOSTED_H

#include "server/accounts/db.h"
#include "server/accounts/price_book.h"
#include "server/loop.h"
#include "server/providers/provider.h"
#include "server/providers/upstream.h"
#include "server/routing/breaker.h"
#include "server/routing/host_keys.h"
#include "server/routing/name.h"
#include "server/routing/retry.h"
#include "server/routing/speed.h"

enum { HOSTED_MAX_REGIONS = 64 };

struct hosted_host {
    struct provider_host host;
    struct host_keys keys;
    struct price_book *book;
    int64_t supplier; /* its account in the ledger; 0: there is no ledger */
    struct retry_budget retries;
    unsigned region; /* in hosted.regions; 0: not known */
    bool zero_retention;
};

struct hosted_model {
    struct hosted_host *host;
    const struct price *price;
    char *price_text; /* price_write's */
    struct breaker breaker;
    struct speed speed;
};

struct hosted {
    struct hosted_host *hosts;
    size_t n_hosts;
    struct hosted_model *models;
    size_t n_models;
    uint32_t longest_context; /* tokens */
    struct upstream *upstream;
    struct name_catalogue catalogue; /* all but local models; models[i] is its hosted[i] */
    const char **host_names;
    struct name_hosted *names;
    struct name_alias *aliases;
    size_t n_aliases;
    char *regions[HOSTED_MAX_REGIONS]; /* by number; 0: not known, NULL */
    size_t n_regions;
};

struct hosted_order {
    struct provider_host_config host;
    const char *prices; /* a table of its own (docs/prices.md), whose `provider` is the host's name; NULL: the book */
    const char *region; /* NULL: not known */
    bool zero_retention;
};

/* routes: "a, b*3 | c": what is asked first, then the two others, b three times as often. */
struct hosted_alias {
    const char *name, *routes;
    enum route_policy policy;
};

struct hosted_config {
    const struct hosted_order *orders;
    size_t n_orders;
    const struct hosted_alias *aliases;
    size_t n_aliases;
    enum route_policy policy; /* of names that are no alias */
    const char *book;         /* a path; read only if a host goes by it */
    const char *ca_file;      /* as of upstream_config */
};

/* db: the store, for the hosts' accounts; NULL: no ledger. Whether the aliases lead anywhere is checked with the local models
 * (name_catalogue_check). */
MUST_USE int hosted_new(struct hosted **out, struct loop *l, const struct hosted_config *c, struct db *db, struct err *e);
void hosted_free(struct hosted *h); /* accepts NULL */
/* The number of "host/model". -ERR_NOT_FOUND. */
MUST_USE int hosted_find(const struct hosted *h, const char *name, struct err *e);

#endif
