/* Admission: whether a model can take one more prompt now, and when to come again.
 *
 * What waits is bounded by time, not by a number that fits one machine: a worker says how fast it reads prompts (frame_prediction), and of its
 * prompts without a first token as many tokens are taken as it reads in 4 x --first-token-target. Until it has said so only the plain limits
 * hold. A request whose first token is predicted to come after its deadline is refused at once rather than dropped later. Loop's thread. */
#ifndef SPILLWAY_SERVER_ADMISSION_H
#define SPILLWAY_SERVER_ADMISSION_H

#include "server/gateway.h"

/* n: the prompt's tokens; left_ms: until its deadline. -ERR_BUSY, with *retry_after_s. */
MUST_USE int admission_check_prompt(const struct gateway_model *m, int64_t n, int64_t left_ms, int *retry_after_s, struct err *e);
/* The longest predicted wait of all models. */
double admission_wait_ms(const struct gateway *g);
/* For Retry-After: the wait rounded up and lengthened by up to a half at random, so that those who were refused together do not come again
 * together; 1 to 60. */
int admission_retry_s(double wait_ms);

#endif
