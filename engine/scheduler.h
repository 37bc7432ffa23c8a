/* Scheduler: which rows of which sequences the next step computes. A pure state machine over queue, KV blocks and a
 * clock handed in: it calls nothing, so tests drive it with a virtual clock and a step that only counts.
 *
 * Lifetimes: submit -> waiting -> running (its KV blocks are its own) -> ended. A sequence is admitted, first come
 * first served, when the blocks for its prompt and for all tokens it may make are free; so a running sequence never
 * lacks memory and nothing is preempted. Each step: the one decode row of every running sequence that has one (round
 * robin when there are more than the budget), then, with the rows left, chunks of prompts in order of admission. Tiles
 * are encoded one a step, before their sequence's prompt. Cancel and deadline take effect at the next plan: a cancelled
 * sequence costs at most the step that is running. */
#ifndef SPILLWAY_ENGINE_SCHEDULER_H
#define SPILLWAY_ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct scheduler_limits {
    uint32_t max_running, max_waiting;
    uint32_t n_blocks, block_tokens; /* blocks are numbered 0 .. n_blocks-1 */
    uint32_t max_context;            /* tokens of a sequence, prompt and made */
    uint32_t step_rows;              /* rows of a step; at least 2 */
    uint32_t step_decode_rows;       /* of these at most so many decode rows, so that prompts go on; < step_rows */
};

struct scheduler_request {
    uint64_t id;
    uint32_t n_prompt, n_tiles;
    uint32_t max_tokens;
    int64_t deadline_ms; /* 0: none */
    void *user;          /* the caller's; handed back, never looked at */
};

/* Read-only for the caller. A pointer holds until the sequence has ended and been reported. */
struct sequence {
    struct scheduler_request request;
    uint32_t max_tokens; /* the request's, cut to what the context leaves */
    uint32_t n_computed; /* positions whose keys and values are in the cache */
    uint32_t n_made;     /* tokens sampled */
    uint32_t n_encoded;  /* tiles encoded */
    uint32_t *blocks;    /* block table, n_blocks long; NULL while waiting */
    uint32_t *table;     /* its memory, taken at submit: a sequence that waits asks for no more */
    uint32_t n_blocks;
    bool cancelled;
    struct sequence *next; /* in its list */
};

struct schedule_rows {
    struct sequence *sequence;
    uint32_t first_position, n_rows; /* positions in the sequence: prompt rows, or one row for the token made last */
    bool sample;                     /* the last row's logits give the next token */
};

struct schedule_end {
    uint64_t id;
    void *user;
    uint32_t n_made;
    bool late; /* its deadline passed; else cancelled */
};

/* Arrays are the scheduler's and hold until the next scheduler_plan. */
struct schedule {
    const struct schedule_end *ended; /* left the scheduler just now; report them */
    size_t n_ended;
    struct sequence *encode; /* whose tile number n_encoded is to be encoded in this step; NULL: none */
    const struct schedule_rows *groups;
    size_t n_groups, n_rows;
};

struct scheduler;
MUST_USE int scheduler_new(struct scheduler **out, const struct scheduler_limits *limits, struct err *e);
/* Sequences still there are dropped unreported: scheduler_drop_all hands their user pointers back first. Accepts NULL.
 */
void scheduler_free(struct scheduler *s);
void scheduler_drop_all(struct scheduler *s, void (*drop)(void *arg, void *user), void *arg);

/* Errors: -ERR_BUSY (queue full), -ERR_CONTEXT (no room for one token after the prompt), -ERR_LIMIT (needs more blocks
 * than there are), -ERR_INPUT (the id is in use, an empty prompt, max_tokens 0), -ERR_MEMORY. */
MUST_USE int scheduler_submit(struct scheduler *s, const struct scheduler_request *r, struct err *e);
/* False if there is no such sequence (it may have ended already: no mistake). */
bool scheduler_cancel(struct scheduler *s, uint64_t id);

/* Ends what is cancelled or late, admits, and plans the next step. An empty plan means that nothing can be done now. */
void scheduler_plan(struct scheduler *s, int64_t now_ms, struct schedule *out);
/* Tells what became of a plan's encode and of each of its groups, before the next plan. With finished the sequence ends
 * and its blocks are free; the pointer is dead then. A sampled token counts as made. A sequence that has made
 * max_tokens must be finished. */
void scheduler_encoded(struct scheduler *s, struct sequence *q, bool finished);
void scheduler_advanced(struct scheduler *s, const struct schedule_rows *group, bool finished);

struct scheduler_load {
    uint32_t running, waiting, free_blocks;
};
struct scheduler_load scheduler_load(const struct scheduler *s);
/* Prompt positions of all sequences that are not computed yet. */
uint64_t scheduler_prompt_rows_left(const struct scheduler *s);

#endif
