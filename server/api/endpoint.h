/* Endpoint: a method and a path, who may call it, what it does. One file, one row in gateway.c and its rows in tests/fault/routes.txt each.
 * Access is denied unless the endpoint says otherwise: one that does not name its access does not start. */
#ifndef SPILLWAY_SERVER_API_ENDPOINT_H
#define SPILLWAY_SERVER_API_ENDPOINT_H

#include "server/gateway.h"

enum access {
    ACCESS_UNSTATED, /* what a forgotten field is: gateway_check_endpoints ends the program */
    ACCESS_OPEN,     /* anybody */
    ACCESS_KEY,      /* an API key; admin keys are refused, so that one that leaks spends nothing */
    ACCESS_ADMIN     /* an admin key */
};

struct endpoint {
    const char *method, *path; /* a path that ends in '/' stands for all that begin with it; GET answers HEAD, too */
    enum access access;
    void (*handle)(struct gateway *g, struct http_request *r);
};

extern const struct endpoint endpoint_chat_completions;                         /* chat_completions.c */
extern const struct endpoint endpoint_route;                                    /* route.c */
extern const struct endpoint endpoint_models, endpoint_model;                   /* models.c */
extern const struct endpoint endpoint_livez, endpoint_readyz, endpoint_healthz; /* health.c */

extern const struct endpoint endpoint_admin_list, endpoint_admin_load, endpoint_admin_show, endpoint_admin_unload; /* admin_models.c */

extern const struct endpoint endpoint_admin_routing; /* admin_routing.c */
extern const struct endpoint endpoint_accounts_list, endpoint_accounts_add, endpoint_accounts_show, endpoint_accounts_change; /* admin.c */
extern const struct endpoint endpoint_budgets_list, endpoint_budgets_change, endpoint_keys_list, endpoint_keys_add, endpoint_keys_change;
extern const struct endpoint endpoint_prices_list, endpoint_prices_add, endpoint_prices_change, endpoint_break_even, endpoint_usage, endpoint_reconcile, endpoint_prune;
extern const struct endpoint endpoint_alerts_list, endpoint_alerts_test;
extern const struct endpoint endpoint_export; /* admin_export.c */
extern const struct endpoint endpoint_organization_usage, endpoint_organization_costs; /* organization.c */

void admin_model_settled(struct gateway_model *m); /* whoever waits for it to be loaded is answered, if it is no longer loading */

extern const struct endpoint *const gateway_endpoints[]; /* gateway.c */
extern const size_t n_gateway_endpoints;

#endif
