/* Hold of a local answer: its prompt and at most HOLD_STEP_TOKENS of the answer are held before it begins, and as many more again and again while it
 * grows. More is asked for when half of the last step is left, so that no stream waits for the store. When it is refused the
 * answer goes on to the end of what is held and ends there (-ERR_BUDGET); when the store is away it goes on, and what it comes to beyond its hold the
 * house bears. Nothing is asked for where nothing can refuse it: a free model without a limit on tokens. Loop's thread. */
#ifndef SPILLWAY_SERVER_COMPLETION_HOLD_H
#define SPILLWAY_SERVER_COMPLETION_HOLD_H

#include "server/accounts/tariff.h"

struct completion;

enum { HOLD_STEP_TOKENS = 256 };

struct completion_hold {
    struct tariff tariff;
    int64_t tokens, most; /* of the answer, all choices: held, and what it can have */
    int64_t ask_at;       /* when it has so many tokens more is asked for */
    int64_t asked_tokens; /* what it would be, while that is under way */
    int64_t n_extended;
    bool limited; /* something may refuse more */
    bool asked, refused;
    bool ended; /* its money is used up */
};

/* What so many tokens are sold for at most. -ERR_PRICE. */
MUST_USE int completion_hold_bound(const struct tariff *t, int64_t prompt_tokens, int64_t answer_tokens, int64_t *nusd, struct err *e);
/* What is asked for before the source starts: all of it, whatever is held already. -ERR_PRICE. */
MUST_USE int completion_hold_fill(struct completion *c, struct ledger_op *o, struct err *e);
/* It was granted, and is in c->held_nusd and c->held_tokens. */
void completion_hold_granted(struct completion *c, const struct ledger_op *op);
/* For the source: n tokens have come. How many of them may be sent; if that is not all, completion_hold_end follows. */
uint32_t completion_hold_covers(struct completion *c, uint32_t n);
/* The completion is over when this returns. */
void completion_hold_end(struct completion *c);
/* What has been counted of a local answer. */
struct usage completion_metered(const struct completion *c);

#endif
