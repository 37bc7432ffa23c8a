/* Hosted: the providers that the operator has configured, each with its keys' and models' health, the models that the price books know
 * there, and the names that lead to them. One is made at the start and one when the configuration is read again; a request keeps the one that its names
 * were looked up in. Loop's thread, but for hosted_new, the holders, and what never changes once it is made. */
#ifndef SPILLWAY_SERVER_HOSTED_H
#define SPILLWAY_SERVER_HOSTED_H

#include <stdatomic.h>

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
    const char *price_text; /* price_write's, in the texts */
    struct breaker breaker;
    struct speed speed;
};

/* The ledger knows a price by where its text is: each text is kept once, and for good. Zero-initialise. */
struct hosted_texts {
    char **rows; /* in order */
    size_t n, cap;
};
void hosted_texts_free(struct hosted_texts *t); /* after the ledger */

struct hosted {
    atomic_uint holders;
    struct hosted_host *hosts;
    size_t n_hosts;
    struct hosted_model *models;
    size_t n_models;
    uint32_t longest_context; /* tokens */
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
    struct hosted_texts *texts;
};

/* db: the store, for the hosts' accounts; NULL: no ledger. Whether the aliases lead anywhere is checked with the local models
 * (name_catalogue_check). */
MUST_USE int hosted_new(struct hosted **out, const struct hosted_config *c, struct db *db, struct err *e);
struct hosted *hosted_hold(struct hosted *h); /* accepts NULL. Any thread, of one that is held */
void hosted_release(struct hosted *h);        /* accepts NULL. Any thread */
/* Hosts and models of the same names go on as they were: breakers, speeds, retries. Keys begin anew: that may be what has been mended. */
void hosted_follow(struct hosted *h, const struct hosted *former);
/* The number of "host/model". -ERR_NOT_FOUND. */
MUST_USE int hosted_find(const struct hosted *h, const char *name, struct err *e);

#endif
