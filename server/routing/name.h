/* Names: what a request's `model` (and `models`) asks for, as an ordered list of wanted routes.
 *
 * A name is looked up whole first, so whoever names a model can give it any name: '/' and ':' in it mean something only where nothing has
 * that whole name. The first of these that is found counts:
 *     1. an alias                           its routes, in its order and with its weights
 *     2. a local model                      it, and the hosted models that may stand in for it
 *     3. host/model                         that host's model, the id as the host spells it (it may have '/' and ':')
 *     4. a model's public name, owner/model all local models that carry it and their stand-ins, then all hosts that do
 * Else what follows the last ':' is a suffix, and what is before it is looked up by the same rules (a local model's public name brings its
 * hosts, too):
 *     :local      the local models only
 *     :HOST       the routes of that host only
 *     :cheapest :fastest :priority :weighted :local-first     all routes, in that order
 * Nothing found is -ERR_NOT_FOUND with the nearest names.
 *
 * A hosted route *stands in* where the same name leads to a local model as well (in an alias: to one of an earlier tier): then it is
 * overflow, and bounded by overflow.h. A route *in reserve* is a local model that takes over when the budget for a hosted one has ended.
 *
 * Pure: nothing is allocated, the catalogue is borrowed. Look-ups go through the lists from their beginning. */
#ifndef SPILLWAY_SERVER_ROUTING_NAME_H
#define SPILLWAY_SERVER_ROUTING_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
    NAME_MAX_ROUTES = 32,
    NAME_MAX_LIST = 8,
    NAME_MAX_BYTES = 256,
    NAME_MAX_LOCALS = 64,
    NAME_MAX_HOSTS = 64,
    NAME_MAX_HOSTED = 16384,
    NAME_MAX_TIER = 100
};

enum route_policy { ROUTE_LOCAL_FIRST, ROUTE_CHEAPEST, ROUTE_FASTEST, ROUTE_PRIORITY, ROUTE_WEIGHTED, ROUTE_POLICIES };
extern const char *const route_policy_names[ROUTE_POLICIES]; /* "local-first", ... */

struct name_stand_in {
    uint16_t hosted;
    uint8_t tier; /* lower ones first; within one by weight */
    uint16_t weight;
};

struct name_local {
    const char *name;      /* NULL: a free place; so numbers stay while models come and go */
    const char *canonical; /* public name, owner/model; NULL: none */
    const struct name_stand_in *stand_ins;
    size_t n_stand_ins;
};

struct name_hosted {
    uint16_t host;     /* in catalogue.hosts */
    const char *model; /* as the host spells it */
    const char *canonical;
    int local; /* takes over when the budget for this one has ended; -1: none */
};

struct name_alias_route {
    const char *target; /* any name that is no alias */
    uint8_t tier;
    uint16_t weight;
};

struct name_alias {
    const char *name;
    const struct name_alias_route *routes;
    size_t n_routes;
    enum route_policy policy; /* ROUTE_PRIORITY is what an alias that says nothing should have */
};

struct name_catalogue {
    const struct name_local *locals;
    size_t n_locals;
    const char *const *hosts;
    size_t n_hosts;
    const struct name_hosted *hosted;
    size_t n_hosted;
    const struct name_alias *aliases;
    size_t n_aliases;
    enum route_policy policy; /* of names without a suffix that are no alias */
};

enum name_kind { NAME_LOCAL, NAME_HOSTED };

struct name_route {
    enum name_kind kind;
    uint16_t index; /* in locals or hosted */
    uint8_t entry;  /* which of a `models` list led here */
    uint8_t tier;
    uint16_t weight; /* 0: last of its tier */
    bool stands_in, reserve;
    enum route_policy policy; /* the same for all of an entry */
};

struct name_wanted {
    struct name_route routes[NAME_MAX_ROUTES];
    size_t n, n_entries;
};

/* Of a configuration: names that could never be reached or mean two things, indexes out of range, aliases that lead nowhere. -ERR_INPUT
 * says which. */
MUST_USE int name_catalogue_check(const struct name_catalogue *cat, struct err *e);
/* One name. *out is overwritten. */
MUST_USE int name_parse(const struct name_catalogue *cat, const char *text, struct name_wanted *out, struct err *e);
/* A list, tried in its order; whoever has both `model` and `models` puts `model` first. A route that an earlier entry has is there again
 * only if it was bound there (standing in, in reserve) and is not here. */
MUST_USE int name_parse_list(const struct name_catalogue *cat, const char *const *texts, size_t n, struct name_wanted *out, struct err *e);

#endif
