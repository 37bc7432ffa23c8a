/* Report: what the ledger has to tell: an account's statement of a time, and what was used by day, project, key, model, supplier or tag.
 *
 * Reads only, from one snapshot each; who writes meanwhile waits for nothing. Statements are made of `transfers`; usage of the sums by day
 * that are written with them (usage_days, usage_tags), so that a month of ten million transfers is some thousand rows. Days are UTC. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_REPORT_H
#define SPILLWAY_SERVER_ACCOUNTS_REPORT_H

#include "server/accounts/db.h"

enum { REPORT_DAY_MS = 86400000 };

struct report_line {
    int64_t at_ms;                     /* sales, costs and overruns are one line a day: its beginning */
    const char *kind;                  /* "sale", "deposit", ...; borrowed until fn returns */
    int64_t n, id;                     /* how many transfers; of one alone its id, else 0 */
    int64_t amount_nusd, balance_nusd; /* < 0: taken from it; what it has after that */
    int64_t linked;                    /* the transfer that it is about; 0: none */
    const char *note;
};
struct report_statement {
    int64_t opening_nusd, closing_nusd;
    int64_t paid_in_nusd, sales_nusd, other_nusd; /* deposits less chargebacks and payments; sales (> 0 to a project); all else */
};
typedef void report_line_fn(void *ctx, const struct report_line *l);

/* Of an account that has a balance (a project, a supplier, a house), from from_ms until before to_ms. The closing balance is summed apart
 * from the lines, over all transfers: -ERR_INTERNAL if they do not add up. -ERR_NOT_FOUND: there is no such account. */
MUST_USE int report_statement(struct db *db, int64_t account, int64_t from_ms, int64_t to_ms, report_line_fn *fn, void *ctx,
                              struct report_statement *out, struct err *e);

enum report_by {
    REPORT_DAY = 1 << 0,
    REPORT_PROJECT = 1 << 1,
    REPORT_KEY = 1 << 2,
    REPORT_MODEL = 1 << 3,
    REPORT_SUPPLIER = 1 << 4,
    REPORT_TAG = 1 << 5 /* tags that requests carry: with day and project only, since they are summed apart */
};
struct report_query {
    unsigned by;              /* REPORT_... */
    int64_t from_day, to_day; /* days since 1970, both counted */
    int64_t project;          /* 0: all */
    const char *tag;          /* by tag: this one alone; NULL: all */
};
struct report_usage {
    /* what it is not grouped by is 0 or "" */
    int64_t day, project, key, supplier;
    const char *project_name, *key_name, *model, *supplier_name, *tag, *value; /* borrowed until fn returns */
    int64_t requests, tokens_in, tokens_cached, tokens_out, sale_nusd, cost_nusd;
    int64_t estimated; /* attempts whose usage nobody has told; 0 by tag */
};
typedef void report_usage_fn(void *ctx, const struct report_usage *u);

/* In the order of what it is grouped by. -ERR_INPUT: by tag and something that tags are not summed by. */
MUST_USE int report_usage(struct db *db, const struct report_query *q, report_usage_fn *fn, void *ctx, struct err *e);

/* What stood in for local models in the hour that began then, a key at a time: what was charged for it, and what requests under way may still come to. */
MUST_USE int report_overflow(struct db *db, int64_t hour_ms, void (*fn)(void *ctx, int64_t key, int64_t project, int64_t nusd), void *ctx, struct err *e);

#endif
