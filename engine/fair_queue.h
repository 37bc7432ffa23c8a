/* Fair queue: what waits, by account, and a counter of what each account was given. Pure bookkeeping for engine/scheduler.c.
 *
 * The counters are those of "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024; VTC): each grows by the cost served
 * divided by the account's weight, and the account that has had least comes next. An account that comes back from having nothing is lifted
 * to the least counter of those that have something (or to where the last one left), so that idleness saves up nothing. Besides what was
 * served a counter has what is promised (`pending`): the cost of what was popped and is not served yet, so that one account does not take
 * all places at once.
 *
 * Order of items: higher priority; those put back (they ran already) before others, the oldest first; then the account with the least
 * counter + pending; then arrival. So within an account and a priority it is first come, first served. Memory is taken by
 * fair_queue_new. */
#ifndef SPILLWAY_ENGINE_FAIR_QUEUE_H
#define SPILLWAY_ENGINE_FAIR_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { FAIR_COST = 1 << 16 }; /* counters are in 1/FAIR_COST of a row at weight 1 */

struct fair_item;
struct fair_account {
    uint64_t id;
    uint32_t weight;
    uint32_t n_live; /* sequences, waiting or not; 0: idle, its record may go to another account */
    uint64_t counter, pending;
    struct fair_item *first, *last; /* its waiting ones in order */
    struct fair_account *next_by_id;
    uint64_t left_at; /* a count of leavings, for which idle record goes first */
};

/* Part of a sequence; order and links are the queue's. */
struct fair_item {
    int32_t priority;
    bool put_back;
    uint64_t arrival;
    uint64_t pending; /* its part of the account's */
    struct fair_account *account;
    struct fair_item *before, *after;
};

struct fair_queue;
/* max_live: items that have entered and not left. */
MUST_USE int fair_queue_new(struct fair_queue **out, uint32_t max_live, struct err *e);
void fair_queue_free(struct fair_queue *f); /* accepts NULL */

/* A sequence of this account is there from now on, until it leaves. Sets item->account; priority and arrival are the caller's. */
void fair_queue_enter(struct fair_queue *f, struct fair_item *item, uint64_t account, uint32_t weight);
void fair_queue_leave(struct fair_queue *f, struct fair_item *item);

void fair_queue_push(struct fair_queue *f, struct fair_item *item);
void fair_queue_remove(struct fair_queue *f, struct fair_item *item);
/* Puts the accounts in order; fair_queue_first and _pop hold until something else is pushed, removed or charged. */
void fair_queue_sort(struct fair_queue *f);
struct fair_item *fair_queue_first(const struct fair_queue *f); /* NULL: nothing waits */
void fair_queue_pop(struct fair_queue *f, uint64_t cost_rows);  /* removes the first and promises it this cost */

/* Cost in rows was served; it is taken off what was promised. */
void fair_queue_charge(struct fair_item *item, uint64_t cost_rows);
/* Nothing is promised to it any more. */
void fair_queue_forget(struct fair_item *item);

#endif
