/* Tariff: what a request is priced by. The prices that operators have set (price_table.h), as they were at one moment, and what they make of a source's
 * own price:
 *
 *     cost    what the source is owed: the operator's price of PROVIDER MODEL, else the source's own
 *     sale    what the customer pays: the operator's price of the name that was asked for, else the cost's price with the provider's mark-up,
 *             else with that of all
 *
 * A table is read whole or not at all, and never changes: a request holds the one that was in force when it came, and with it the versions
 * that it is priced by until its end. Prices are told by their rows in `prices`, so that every amount can be computed again. Holders are
 * counted without a lock: one thread holds and releases; the prices themselves may be read by any. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_TARIFF_H
#define SPILLWAY_SERVER_ACCOUNTS_TARIFF_H

#include "server/accounts/ledger.h"
#include "server/accounts/price_book.h"

struct tariff_table;

/* former: prices that are the same are not read again; may be NULL. -ERR_INPUT: a row is malformed, and *out is NULL. */
MUST_USE int tariff_table_read(struct tariff_table **out, struct db *db, const struct tariff_table *former, struct err *e);
struct tariff_table *tariff_table_hold(struct tariff_table *t); /* accepts NULL */
void tariff_table_release(struct tariff_table *t);              /* accepts NULL */
/* As of which config_version of the store, and how many prices and mark-ups. */
int64_t tariff_table_version(const struct tariff_table *t);
size_t tariff_table_size(const struct tariff_table *t);

struct tariff_price {
    const struct price *price;
    int64_t id;       /* its row in `prices`; 0: it is the price book's, and the ledger makes one of: */
    const char *text; /* price_write's; must live as long as the ledger */
};
/* Borrows from the table and from the source. */
struct tariff {
    struct tariff_price cost, sale;
    int64_t markup, markup_id; /* on the sale; 0: none */
};

/* Nothing costs anything there: what a local model has that no price was set for. Its row: price_table_free. */
extern const struct price tariff_free;

/* provider: "local" or the host's name; own: the source's own price; name: the model as the client asked for it. t may be NULL: nothing was set. */
void tariff_of(struct tariff *out, const struct tariff_table *t, const char *provider, const char *model, const struct tariff_price *own, const char *name);

/* As price_cost: each is one line, rounded once. A name with a price of its own that has none for the service is sold at its standard price. */
MUST_USE int tariff_cost(const struct tariff *t, const struct usage *u, enum price_service service, int64_t *nusd, struct err *e);
MUST_USE int tariff_sale(const struct tariff *t, const struct usage *u, enum price_service service, int64_t *nusd, struct err *e);
/* As price_bound: what the sale, and the cost, come to at most. */
MUST_USE int tariff_bound(const struct tariff *t, const struct price_ask *ask, int64_t *sale_nusd, int64_t *cost_nusd, struct err *e);
/* The sale's nano-dollars for a million tokens, standard service, short context. */
void tariff_rates(const struct tariff *t, int64_t *in_nusd, int64_t *out_nusd);
/* The rows of prices into a LEDGER_RESERVE, LEDGER_ATTEMPT or, for the sale, LEDGER_POST. */
void tariff_tell(const struct tariff *t, struct ledger_op *op);

#endif
