/* Charge: one request's money, on the loop: from its reservation in the ledger to its settlement, which it outlives the completion for.
 *
 * One operation is under way at a time; an end that is asked for meanwhile follows. The ledger's writer works on its own thread, so every answer comes
 * later, never inside the call. */
#ifndef SPILLWAY_SERVER_CHARGE_H
#define SPILLWAY_SERVER_CHARGE_H

#include "server/accounts/ledger_writer.h"
#include "server/loop.h"

struct charge;

/* op: the ledger's answer, borrowed for the call. */
typedef void charge_fn(void *ctx, const struct ledger_op *op);

/* How the ledger's writer hands calls back (struct ledger_writer_options). */
void charge_deliver(void *ctx, struct ledger_call *call);

/* o: a LEDGER_RESERVE with its first attempt, or a LEDGER_KNOWN; what it points to is copied, but for reason, which is constant. rc != 0 in the
 * answer, or any to a LEDGER_KNOWN: the charge is gone. With an idempotency key the answer has a receipt (op->receipt), borrowed for the call, too.
 * -ERR_MEMORY: *out is NULL, done is not called. */
MUST_USE int charge_reserve(struct charge **out, struct loop *l, struct ledger_writer *w, const struct ledger_op *o, charge_fn *done, void *ctx,
                            struct err *e);
/* One more LEDGER_EXTEND or LEDGER_ATTEMPT. The charge stays whatever the answer. Not while another is under way. */
MUST_USE int charge_more(struct charge *c, const struct ledger_op *o, charge_fn *done, void *ctx, struct err *e);
bool charge_is_busy(const struct charge *c);
/* LEDGER_POST or LEDGER_VOID. done may be NULL: nobody waits. Its strings are copied, but for outcome and reconcile, which are constant; its answer is
 * malloc'd and the charge's from here on. The charge is gone after done, or after this when done is NULL. */
void charge_end(struct charge *c, const struct ledger_op *o, charge_fn *done, void *ctx);
/* Whoever waited for the end, or for a LEDGER_KNOWN, is going: it is not told. */
void charge_forget(struct charge *c);

int64_t charge_request(const struct charge *c); /* its number; 0 until it is reserved */

#endif
