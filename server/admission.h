/* Admission: whether a model's worker can take one more prompt now, and when to come again. Each worker of a model (server/route.h chooses one) is
 * measured and bounded for itself.
 *
 * What waits is bounded by time, not by a number that fits one machine: a prompt is taken if, as fast as the model reads, it is predicted to wait no
 * longer than the model's answers lately took from their first token to their last. So waiting at most doubles what a request would take anyway,
 * however many more are refused, and there is always enough waiting to take the place of what ends. The bound is --first-token-target at least,
 * as a burst of short answers must find room, and twice that at most and before an answer has ended; and four prompts may wait whatever their
 * length. How fast the model reads is the slower of what its worker says (frame_prediction) and of what was seen here: how long waiting prompts have
 * taken, which counts everything that the engine does besides. And no more answers are under way than half as many again as make nine tenths of the most
 * tokens a second (frame_prediction's side_by_side), unless all of them are predicted to end within four targets: more would only make each of them slower. Until one of them is known only the plain limits hold. A request whose first token is
 * predicted to come after its deadline is refused at once rather than dropped later.
 *
 * Refusing must cost little, or who is refused takes the processor from who is served: where no model has room, a request is refused before its
 * body is looked at. Loop's thread. */
#ifndef SPILLWAY_SERVER_ADMISSION_H
#define SPILLWAY_SERVER_ADMISSION_H

#include "server/gateway.h"

/* Before anything is known of a request. -ERR_BUSY: whatever its model, there is no room; with *retry_after_s. */
MUST_USE int admission_check_any(const struct gateway *g, int *retry_after_s, struct err *e);
/* n: the prompt's tokens, times its sequences; left_ms: until its deadline. -ERR_BUSY, with *retry_after_s. */
MUST_USE int admission_check_prompt(const struct gateway_replica *r, int64_t n, int64_t n_sequences, int64_t left_ms, int *retry_after_s, struct err *e);
/* n sequences are under way from now on; no longer, whatever became of them. */
void admission_enter(struct gateway_replica *r, int64_t n);
void admission_leave(struct gateway_replica *r, int64_t n);
/* A prompt of n tokens waits for its first token from now on; it waits no longer: because it is there (served), or because it was given up. */
void admission_prompt_waits(struct gateway_replica *r, int64_t n);
void admission_prompt_ends(struct gateway_replica *r, int64_t n, bool served);
/* An answer has come to its end, so long after its first token and after it was admitted. */
void admission_answer_ends(struct gateway_replica *r, int64_t took_ms, int64_t in_all_ms);
/* Until a prompt that came now would begin to be read, and how long the worker reads n tokens; 0: not known. */
double admission_load_ms(const struct gateway_replica *r);
double admission_prompt_ms(const struct gateway_replica *r, int64_t n);
/* Of the tokens that wait, those that came when queue.came was so much or later; they are taken to be still there. */
int64_t admission_tokens_since(const struct gateway_replica *r, int64_t came);
/* The longest predicted wait of all models; a model's is that of its least loaded worker. */
double admission_wait_ms(const struct gateway *g);
/* For Retry-After: the wait rounded up and lengthened by up to a half at random, so that those who were refused together do not come again
 * together; 1 to 60. */
int admission_retry_s(double wait_ms);

#endif
