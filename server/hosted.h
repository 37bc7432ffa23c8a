/* Hosted: the providers that the operator has configured, each with its keys' and models' health, and the models that the price books know
 * there. Made at the start; loop's thread, but for hosted_find and what it gives, which do not change. */
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
#include "server/routing/speed.h"

struct hosted_host {
    struct provider_host host;
    struct host_keys keys;
    struct price_book *book;
    int64_t supplier; /* its account in the ledger; 0: there is no ledger */
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
    struct name_catalogue catalogue; /* of hosted models alone; models[i] is its hosted[i] */
    const char **host_names;
    struct name_hosted *names;
};

struct hosted_order {
    struct provider_host_config host;
    const char *prices; /* a table of its own (docs/prices.md), whose `provider` is the host's name; NULL: the book */
};

/* book: a path; read only if a host goes by it. db: the store, for the hosts' accounts; NULL: no ledger. ca_file as of upstream_config. */
MUST_USE int hosted_new(struct hosted **out, struct loop *l, const struct hosted_order *orders, size_t n, const char *book, struct db *db,
                        const char *ca_file, struct err *e);
void hosted_free(struct hosted *h); /* accepts NULL */
/* "host/model". -ERR_NOT_FOUND, in e->param "model". Any thread. */
MUST_USE int hosted_find(struct hosted *h, const char *name, struct hosted_model **out, struct err *e);

#endif
