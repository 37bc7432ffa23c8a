/* Price table: the prices that an operator has set, in the store (table `prices`), in the form of the price book (docs/prices.md).
 *
 * Four words stand where a provider's name does: PRICE_LOCAL, what the local GPU takes for a model; PRICE_SALE, what a model's name is sold for,
 * whoever serves it; PRICE_MARKUP, what is added to a provider's prices (or to PRICE_MARKUP_ALL of them) when they are sold; PRICE_GPU_HOUR, what an
 * hour of a local model's GPU costs, for reports. Any other provider: in place of the price book's. A row is never changed: a new one ends the one
 * before, and both stay, since requests name them. Who makes a request's price of them: tariff.h. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_PRICE_TABLE_H
#define SPILLWAY_SERVER_ACCOUNTS_PRICE_TABLE_H

#include "server/accounts/db.h"

#define PRICE_LOCAL "local"
#define PRICE_SALE "sale"
#define PRICE_MARKUP "markup"
#define PRICE_MARKUP_ALL "all"
#define PRICE_GPU_HOUR "gpu-hour"
/* A provider must not be named so. */
bool price_table_reserves(const char *name);

/* text: one model's object; who: the operator's, for people. -ERR_INPUT: it is malformed, or of a region. Returns its id. */
MUST_USE int64_t price_table_set(struct db *db, const char *text, size_t n, const char *who, struct err *e);
/* hundredths: of a percent, 0 to PRICE_MAX_MARKUP; provider: a host's name, PRICE_LOCAL or PRICE_MARKUP_ALL. Returns its id. */
MUST_USE int64_t price_table_set_markup(struct db *db, const char *provider, int64_t hundredths, const char *who, struct err *e);
/* nusd > 0: an hour of the GPU that the local model runs on. Returns its id. */
MUST_USE int64_t price_table_set_gpu_hour(struct db *db, const char *model, int64_t nusd, const char *who, struct err *e);
/* The row of a local model that has no price: all of it is 0. Made if it is not there. Returns its id. */
MUST_USE int64_t price_table_free(struct db *db, const char *model, struct err *e);
/* -ERR_NOT_FOUND: there is none in force. */
MUST_USE int price_table_end(struct db *db, const char *provider, const char *model, struct err *e);

struct price_table_row {
    int64_t id, created_s, ended_s;               /* ended_s 0: in force */
    const char *provider, *model, *rows, *source; /* rows: the JSON object; borrowed until fn returns */
};
/* Set by an operator, and not noted by the gateway when it was used. */
bool price_table_is_operators(const struct price_table_row *r);
/* What a row of PRICE_MARKUP, of PRICE_GPU_HOUR, says. -ERR_INPUT: it is malformed. */
MUST_USE int price_table_read_markup(const struct price_table_row *r, int64_t *hundredths, struct err *e);
MUST_USE int price_table_read_gpu_hour(const struct price_table_row *r, int64_t *nusd, struct err *e);

/* Those in force; with `all` also the ones that have ended. provider, model: only these; NULL: any. */
MUST_USE int price_table_list(struct db *db, const char *provider, const char *model, bool all,
                              void (*fn)(void *ctx, const struct price_table_row *r), void *ctx, struct err *e);

#endif
