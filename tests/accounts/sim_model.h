/* Model of the ledger, for its simulation: what balances and budgets have to be, by plain sequential code that knows nothing of batches, rows, runs or SQL.
 * Times are given; nothing here reads a clock. */
#ifndef SPILLWAY_TESTS_ACCOUNTS_SIM_MODEL_H
#define SPILLWAY_TESTS_ACCOUNTS_SIM_MODEL_H

#include <stdbool.h>

#include "server/accounts/ledger.h"
#include "server/accounts/ledger_parts.h"

enum { MODEL_REQUESTS = 512, MODEL_ACCOUNTS = 16, MODEL_BUDGETS = 24, MODEL_WINDOWS = 1024 };

struct model_account {
    int64_t id, posted, pending, floor;
    bool has_floor;
};

struct model_window {
    int64_t budget, starts_s, posted, pending;
};

struct model_held {
    int budget; /* index */
    int64_t starts_s, amount;
};

struct model_request {
    int64_t id, key, project, held, deadline_ms, deadline_boot_ms;
    int gateway;
    int64_t run;
    int scope, n_attempts, n_windows;
    int64_t sale_estimate[LEDGER_MAX_ATTEMPTS], cost_estimate[LEDGER_MAX_ATTEMPTS];
    struct model_held windows[LEDGER_MAX_WINDOWS];
    bool open, kept, refused; /* kept: its end is in a journal; refused: its caller knows nothing of it */
    int64_t charged;
    const char *state; /* once it is not open */
};

struct model {
    int64_t house, overrun, outside, supplier, keys[4], projects[2];
    bool frozen[2], closed[4]; /* of projects, of keys */
    struct model_account accounts[MODEL_ACCOUNTS];
    int n_accounts;
    struct budget budgets[MODEL_BUDGETS];
    int n_budgets;
    struct model_window windows[MODEL_WINDOWS];
    int n_windows;
    struct model_request requests[MODEL_REQUESTS];
    int n_requests;
    int64_t now_ms; /* the highest that the ledger has told */
};

struct model_account *model_account(struct model *m, int64_t id); /* made if it is not there */
struct model_window *model_window(struct model *m, int64_t budget, int64_t starts_s);
struct model_request *model_request(struct model *m, int64_t id); /* NULL: there is none */

/* What the ledger has to answer; if it is 0 it is done here, too. op: as the ledger has answered it. */
int model_do(struct model *m, const struct ledger_op *op);
/* An end with all that it does not tell of, as the journal brings it. */
void model_end(struct model *m, struct model_request *r, const struct ledger_op *op);
/* As recovery ends it. */
void model_recover(struct model *m, struct model_request *r);
void model_transfer(struct model *m, int64_t debit, int64_t credit, int64_t amount);

#endif
