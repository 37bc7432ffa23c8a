/* Break-even: from how many tokens an hour on a local model is cheaper than a hosted one. The GPU's hour costs what the operator says (PRICE_GPU_HOUR),
 * used or not; a hosted model costs by the token. What is compared is the mix that the ledger has measured on the local model: its
 * input, what of it was found in a cache, its output. Reads only. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_BREAK_EVEN_H
#define SPILLWAY_SERVER_ACCOUNTS_BREAK_EVEN_H

#include "server/accounts/db.h"
#include "server/accounts/price_book.h"

struct break_even_use {
    const char *model; /* the local one; borrowed until fn returns */
    int64_t hour_nusd; /* of its GPU */
    int64_t tokens_in, tokens_cached, tokens_out;
    int64_t hours;                /* from the first day of use in the range to its end, or to now; 0: it was not used */
    int64_t an_hour, busiest_hour; /* tokens: on average; in the busiest hour whose requests are still there */
};
struct break_even {
    const struct break_even_use *use;
    const char *provider, *model; /* the hosted one; borrowed until fn returns */
    bool known;                   /* there is a mix to compare, and a price that is not 0 */
    int64_t hosted_nusd;          /* what the mix would have cost there */
    int64_t needed_an_hour;       /* tokens: with so many the hosted model costs as much as the GPU */
};
/* Where it is cheaper: "local", "local in busy hours", "hosted", "not used". */
const char *break_even_verdict(const struct break_even *b);
enum { BREAK_EVEN_DAYS = 30 /* of a range that is not told */ };

typedef void break_even_fn(void *ctx, const struct break_even *b);

/* For each model with a GPU hour: each hosted price in force in the store, then each of `more`. Days since 1970, both counted; now_s: a part of
 * the last one may be to come. */
MUST_USE int break_even(struct db *db, int64_t from_day, int64_t to_day, int64_t now_s, const struct price *const *more, size_t n_more,
                        break_even_fn *fn, void *ctx, struct err *e);

#endif
