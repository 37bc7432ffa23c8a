/* Route: which worker of a model answers a request.
 *
 * Of the workers that are ready, move and have room (admission.h): the one that has lately read the longest beginning of the prompt (affinity.h), if
 * that is half of it or more (a system prompt that all share is soon read everywhere), if waiting there is predicted to take no longer than waiting at
 * the least loaded one and reading that beginning anew, and if it has at most ROUTE_MORE_SEQUENCES more under way. Else the least loaded: by the predicted
 * wait for a first token, then by sequences under way, then in turn. With one worker there is nothing to choose. Loop's thread. */
#ifndef SPILLWAY_SERVER_ROUTE_H
#define SPILLWAY_SERVER_ROUTE_H

struct completion;
struct gateway_replica;

enum { ROUTE_MORE_SEQUENCES = 4 };

/* c's prompt and pictures are known. Never NULL: where none is ready, one that will be, perhaps. */
struct gateway_replica *route_choose(const struct completion *c);
/* It has been sent to c->replica. */
void route_note(const struct completion *c);

#endif
