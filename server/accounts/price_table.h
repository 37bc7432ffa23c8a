/* Price table: the prices that an operator has set, in the store (table `prices`), in the form of the price book (docs/prices.md).
 *
 * provider "local": what a local model is sold for; "sale": what a model's name is sold for, whoever serves it; any other: in place of the
 * price book's. A price is never changed: a new one ends the one before, and both stay, since requests name them. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_PRICE_TABLE_H
#define SPILLWAY_SERVER_ACCOUNTS_PRICE_TABLE_H

#include "server/accounts/db.h"

/* text: one model's object; who: the operator's, for people. -ERR_INPUT: it is malformed, or of a region. Returns its id. */
MUST_USE int64_t price_table_set(struct db *db, const char *text, size_t n, const char *who, struct err *e);
/* -ERR_NOT_FOUND: there is none in force. */
MUST_USE int price_table_end(struct db *db, const char *provider, const char *model, struct err *e);

struct price_table_row {
    int64_t id, created_s, ended_s;               /* ended_s 0: in force */
    const char *provider, *model, *rows, *source; /* rows: the JSON object; borrowed until fn returns */
};
/* Those in force; with `all` also the ones that have ended. provider, model: only these; NULL: any. */
MUST_USE int price_table_list(struct db *db, const char *provider, const char *model, bool all,
                              void (*fn)(void *ctx, const struct price_table_row *r), void *ctx, struct err *e);

#endif
