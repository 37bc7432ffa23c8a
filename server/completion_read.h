/* What a request's body comes to: its names, its parameters, its prompt as the local model reads it, its bytes for a provider. Work of pool threads (a
 * short body is read on the loop); nothing here waits, and nothing of the gateway is written. */
#ifndef SPILLWAY_SERVER_COMPLETION_READ_H
#define SPILLWAY_SERVER_COMPLETION_READ_H

#include "server/completion.h"

/* From c->body, or on from where its pictures were fetched (completion_fetch.h): then c->n_fetches tells that there is more to come. Errors name the member. */
MUST_USE int completion_read(struct completion *c, struct err *e);
/* What it takes to know who is asked: the body's text, and the models that its names lead to. */
MUST_USE int completion_read_name(struct completion *c, struct err *e);
/* The rest, with c->request. */
MUST_USE int completion_read_rest(struct completion *c, struct err *e);
/* As c->model reads it, or, if that cannot take it and others may (c->local_cannot), as providers are asked. Without pictures the prompt is made, too. */
MUST_USE int completion_read_again(struct completion *c, struct err *e);
/* With c->grids of all pictures. */
MUST_USE int completion_make_prompt(struct completion *c, struct err *e);
/* Into c->wire, which is empty. -ERR_UNSUPPORTED: that provider has no word for something in it. */
MUST_USE int completion_encode(struct completion *c, struct hosted_model *m, const struct hosted_bill *bill, struct err *e);

/* What is wrong (rc) is only that this local model cannot take it, and others may. */
bool completion_is_for_others(const struct completion *c, int rc);
void completion_give_up_local(struct completion *c, const struct err *why);
void completion_drop_pictures(struct completion *c); /* they are no longer needed */
void completion_close_fd(int *fd);                   /* of a picture; -1 afterwards, and accepted */

#endif
