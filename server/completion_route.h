/* Who answers a completion: one of the models that its names lead to, local or hosted (docs/routing.md). The decision itself is server/routing's; here are
 * its figures, and what a completion has to do for it.
 *
 *     completion_route_read     the request's names; the local model that reads the prompt is held
 *     completion_route_price    what each hosted one may come to
 *     completion_route          who begins
 *     completion_route_refused  the ledger does not cover that one: who else
 *     completion_route_failed   its attempt has failed before the first token: who else
 *     completion_route_again    it waits in a local queue: whether to leave that */
#ifndef SPILLWAY_SERVER_COMPLETION_ROUTE_H
#define SPILLWAY_SERVER_COMPLETION_ROUTE_H

#include "server/completion.h"

/* At its begin: what of its account has to be known on pool threads. */
void completion_route_begin(struct completion *c);
/* On a pool thread. `model` and `models`: c->model is a local one of them that is ready, if there is; c->routing has all. */
MUST_USE int completion_route_read(struct completion *c, struct err *e);
/* On a pool thread; c->params are known. */
MUST_USE int completion_route_price(struct completion *c, struct err *e);
/* Nobody but one local model: there is nothing to decide. */
bool completion_route_is_plain(const struct completion *c);
bool completion_route_has_hosted(const struct completion *c);
/* One of the hosted ones takes pictures only as data: URLs. */
bool completion_route_wants_data(const struct completion *c);
/* Hosted ones only, and one of them: what it cannot take is for its wire to say. NULL: not so. */
struct hosted_model *completion_route_only(const struct completion *c);
const struct hosted_bill *completion_route_bill(const struct completion *c); /* of that one */

/* The prompt is known, as far as it can be: 0, or why it is refused, with c->retry_after_s. */
MUST_USE int completion_route(struct completion *c, struct completion_choice *out, struct err *e);
/* c->chosen cannot take it (its wire has no word for something, or it may not be asked just now), or the ledger does not cover it: e. 0: somebody else; else
 * that error stays. */
MUST_USE int completion_route_cannot(struct completion *c, struct completion_choice *out, const struct err *e);
MUST_USE int completion_route_refused(struct completion *c, struct completion_choice *out, const struct err *e);
/* fault: before the first token. RETRY_WAIT: the same, in hint_ms. */
enum retry_action completion_route_failed(struct completion *c, enum fault fault, int64_t hint_ms, struct completion_choice *out);
/* true: it should leave its queue for *out. */
bool completion_route_again(struct completion *c, struct completion_choice *out);
/* It has left. */
void completion_route_moved(struct completion *c);
/* A choice is not carried out after all. */
void completion_route_undo(struct completion *c);

/* A request for one of these models may be answered elsewhere when it has no room: it is not refused unread. */
bool completion_may_spill(const struct gateway *g);
/* It has ended and came to so much. */
void completion_route_ended(struct completion *c, int64_t cost_nusd, bool whole);
/* A hosted model has answered well: its session stays there. */
void completion_route_stick(struct completion *c);

/* POST /v1/route: what the decision was made of. Returns b->failed. */
int completion_route_explain(const struct completion *c, struct buf *b);

#endif
