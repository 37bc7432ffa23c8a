/* Completion, repeated: what a request with an Idempotency-Key does beside what all do (docs/accounts.md).
 *
 * A key stands for one request of its API key. The ledger decides, twice: it is asked before any work, so that a repetition takes no room anywhere, and
 * again with the reservation, where of many at once one is granted. A repetition gets the first one's answer, if its project lets answers be kept, else
 * a 409 with what it came to. Without accounts there is nothing that could be charged twice, and keys are checked, but mean nothing. */
#ifndef SPILLWAY_SERVER_COMPLETION_REPEAT_H
#define SPILLWAY_SERVER_COMPLETION_REPEAT_H

#include "server/accounts/ledger.h"

struct completion;

enum { REPEAT_KEY_BYTES = 255, REPEAT_ANSWER_BYTES = 1000000 /* a longer body is not kept */ };

/* Reads the header. -ERR_INPUT: it is no key. */
MUST_USE int completion_repeat_begin(struct completion *c, struct err *e);
/* On a pool thread, while the body is there: before it was asked for. */
void completion_repeat_read(struct completion *c);
/* On the loop: then(c) when it is no repetition; at once without a key, or when that was asked before. Else the completion is answered, or fails. */
void completion_repeat_ask(struct completion *c, void (*then)(struct completion *c));
/* The completion is done: an answer that is still to come finds nobody. */
void completion_repeat_forget(struct completion *c);

/* For the reservation, before and after it. */
void completion_repeat_name(struct completion *c, struct ledger_op *reserve);
void completion_repeat_reserved(struct completion *c, const struct ledger_op *op);
/* A LEDGER_RESERVE or _KNOWN was refused. true: it was done before, and the client has its answer, or was told what it came to. */
bool completion_repeat_known(struct completion *c, const struct ledger_op *op);
/* Its answer will be kept. */
bool completion_repeat_keeps(const struct completion *c);
/* Gives a post the answer, as the client will get it, to be kept with it. */
void completion_repeat_keep(struct completion *c, struct ledger_op *post);

#endif
