/* Scheduler: which rows of which sequences the next step computes. A pure state machine over queue, KV blocks and a clock handed in: it
 * calls nothing outside, so tests drive it with a virtual clock and a step that only counts.
 *
 * Lifetimes: submit -> waiting -> running -> ended; running -> waiting again when it is preempted.
 *
 * Admission: in the order of engine/fair_queue.h (priority, then the account that had least, then arrival), strictly: what is next is not
 * passed by what is smaller. A sequence is admitted when its prompt and the next tokens it may make (promised_tokens) fit beside what is
 * promised to those that run; leading blocks found in the cache (engine/kv_cache.h) need no room of their own. Its table grows as it is
 * computed. When there is no block for it, a running sequence is preempted: of the lowest priority, of these of the account that had most,
 * of these the youngest. It gives its blocks back (those published can be found again), goes to the head of the queue and is computed again
 * from its tokens. The oldest one of the highest priority that runs is never preempted and every one fits alone, so something always comes
 * to its end.
 *
 * A step: one decode row of every running sequence that decodes (the account that had least first when there are more than the budget),
 * then, with the rows left, chunks of prompts and encodes of tiles, again the account that had least first. A prompt is computed up to its
 * first tile that is not encoded; a tile whose positions all come from the cache is never encoded. One tile is encoded at a time, in units
 * (layers of the encoder, say) that count as so many rows beside decodes, and as many as step_units where nothing decodes.
 *
 * Sharing: a sequence whose next block is being computed by another in this step waits for that step and then finds it; of an equal
 * prompt's partly filled last block it gets a copy. So n choices of one request, sent as n sequences, compute their prompt once. The last
 * row of a prompt is always computed: its logits are needed.
 *
 * Guesses: a decode row may be followed by rows of tokens that the caller guesses (scheduler_guess), where no prompt is left to be computed or
 * admitted, with the rows that the step's decodes leave and blocks that nobody was promised; nothing is preempted for them. Rows behind a
 * wrong guess count as never computed.
 *
 * Cancel and deadline take effect at the next plan: a cancelled sequence costs at most the step that is running. */
#ifndef SPILLWAY_ENGINE_SCHEDULER_H
#define SPILLWAY_ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/fair_queue.h"
#include "engine/kv_cache.h"

struct scheduler_limits {
    uint32_t max_running, max_waiting;
    uint64_t max_waiting_tokens, max_waiting_bytes; /* of prompts that wait together; 0: no limit. One alone is always taken */
    uint32_t n_blocks, block_tokens;                /* blocks are numbered 0 .. n_blocks-1 */
    uint32_t max_context;                           /* tokens of a sequence, prompt and made */
    uint32_t promised_tokens;                       /* of those a sequence may make: room for so many is kept for it */
    uint32_t step_rows;                             /* rows of a step; at least 2 */
    uint32_t step_decode_rows;                      /* of these at most so many decode rows, so that prompts go on; < step_rows */
    uint32_t prompt_rows;            /* of prompts at most so many; 0: no limit */
    uint32_t mixed_rows;             /* rows of a step that has both, unless these are beside_rows; 0: step_decode_rows */
    uint32_t beside_rows;            /* prompt rows beside decodes: so many where there are that many, or this part of the running prompts' if that is more ... */
    uint32_t spread_steps;           /* ... so that tokens come evenly and prompts are read as fast as they come; at least 1. beside_rows 0: no limit */
    uint32_t tile_units;                            /* units of one tile's encode; at least 1 */
    uint32_t unit_rows;                             /* rows that cost as much as a unit; at least 1 */
    uint32_t step_units;                            /* most units of a step in which nothing decodes; at least 1 */
    bool prompt_blocks_only; /* publish only blocks of prompts: for a backend whose decode rows differ in bytes from prompt rows */
};

/* Where a tile stands in the prompt: positions first .. end - 1 hold its rows, and maybe others. */
struct scheduler_tile {
    uint32_t first, end;
};

struct scheduler_request {
    uint64_t id;
    uint64_t account; /* opaque */
    uint32_t weight;  /* of the account from now on; at least 1 */
    int32_t priority; /* higher goes first */
    uint32_t n_prompt;
    const struct kv_key *keys; /* of the prompt's n_prompt / block_tokens full blocks, each over all before it; NULL: shares nothing */
    struct kv_key prompt_key;  /* of the whole prompt */
    const struct scheduler_tile *tiles; /* in the order of their ends */
    uint32_t n_tiles;
    uint32_t max_tokens;
    uint64_t n_bytes;    /* what it holds while it waits */
    int64_t deadline_ms; /* 0: none */
    void *user;          /* the caller's; handed back, never looked at */
};

/* Read-only for the caller. A pointer holds until the sequence has ended and been reported. */
struct sequence {
    struct scheduler_request request; /* keys and tiles are copies */
    uint32_t max_tokens;              /* the request's, cut to what the context leaves */
    uint32_t n_computed;              /* positions whose keys and values are in its blocks */
    uint32_t n_made;                  /* tokens sampled */
    uint32_t n_fill;                  /* positions that are computed as a prompt: it and, after a preemption, what was made */
    uint32_t n_cached;                /* prompt positions that it did not compute but found */
    uint32_t *blocks;                 /* block table */
    uint32_t n_blocks;
    uint32_t n_keys; /* blocks whose key is known; see scheduler_add_key */
    uint32_t n_guessed; /* tokens guessed to follow those made; 0 again once they are planned, or it is preempted */
    bool running, cancelled;
    /* the scheduler's own */
    struct kv_key *keys;
    struct scheduler_tile *tiles;
    uint32_t max_blocks, n_published;
    uint32_t n_target;           /* blocks promised at admission */
    uint32_t n_charged;          /* positions computed or found at one time: not charged again */
    bool *encoded;               /* (n_tiles) */
    uint32_t next_tile, n_units; /* no tile before is needed; units done of it */
    uint32_t index;              /* in the scheduler's list */
    uint64_t decoded_at;         /* the plan that decoded it last */
    bool is_source;              /* others may copy its prompt's last block */
    struct fair_item item;
    struct sequence *next_by_id, *next_by_prompt;
};

struct schedule_rows {
    struct sequence *sequence;
    uint32_t first_position, n_rows; /* positions in the sequence, all of the prompt or all of what was made and guessed */
    bool prefill;                    /* a prompt, or what is computed again; else a row for the token made last, and one a guess */
    bool made;                       /* with prefill: tokens that were made, computed again; their role was to decode */
    bool sample;                     /* the last row's logits give the next token; without prefill each row's do, as long as guesses are right */
};

struct schedule_encode {
    struct sequence *sequence;
    uint32_t tile, first_unit, n_units;
};

struct schedule_copy {
    uint32_t from, to; /* blocks */
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
    const struct schedule_copy *copies; /* to be done in this order, before anything else of the step */
    size_t n_copies;
    const struct schedule_encode *encodes;
    size_t n_encodes;
    const struct schedule_rows *groups;
    size_t n_groups, n_rows;
    uint32_t n_preempted;
};

struct scheduler;
MUST_USE int scheduler_new(struct scheduler **out, const struct scheduler_limits *limits, struct err *e);
/* Sequences still there are dropped unreported: scheduler_drop_all hands their user pointers back first. Accepts NULL.
 */
void scheduler_free(struct scheduler *s);
void scheduler_drop_all(struct scheduler *s, void (*drop)(void *arg, void *user), void *arg);
/* What a unit costs, as measured: takes the place of the limit. */
void scheduler_set_unit_rows(struct scheduler *s, uint32_t unit_rows);

/* Errors: -ERR_BUSY (queue full), -ERR_CONTEXT (no room for one token after the prompt), -ERR_LIMIT (needs more blocks
 * than there are), -ERR_INPUT (the id is in use, an empty prompt, max_tokens 0, tiles outside the prompt), -ERR_MEMORY. */
MUST_USE int scheduler_submit(struct scheduler *s, const struct scheduler_request *r, struct err *e);
/* False if there is no such sequence (it may have ended already: no mistake). */
bool scheduler_cancel(struct scheduler *s, uint64_t id);

/* NULL: there is no such sequence. */
const struct sequence *scheduler_find(const struct scheduler *s, uint64_t id);

/* Ends what is cancelled or late, admits, and plans the next step. An empty plan without preemptions means that nothing is there. */
void scheduler_plan(struct scheduler *s, int64_t now_ms, struct schedule *out);

/* What became of a plan's encodes and groups, before the next plan. */
void scheduler_encoded(struct scheduler *s, const struct schedule_encode *encode);
/* This tile is there without an encode of its own; also while a part of it is done. */
void scheduler_tile_ready(struct scheduler *s, struct sequence *q, uint32_t tile);
/* So many tokens are guessed to follow the one made last. Of a sequence that decodes; until it is planned next. */
void scheduler_guess(struct scheduler *s, struct sequence *q, uint32_t n);
/* The key of block n_keys, which the group about to be reported fills with made tokens. */
void scheduler_add_key(struct scheduler *s, struct sequence *q, struct kv_key key);
/* n_made: tokens that count as made: with group->sample at least one, else 0; more than one only where each but the last was guessed. With
 * finished the sequence ends and its pointer is dead; its blocks can be found where they have keys. A sequence that has made max_tokens
 * must be finished. */
void scheduler_advanced(struct scheduler *s, const struct schedule_rows *group, uint32_t n_made, bool finished);
/* Instead: the step failed, for this sequence at least. It ends, and nothing computed in the step is used. */
void scheduler_failed(struct scheduler *s, struct sequence *q);

struct scheduler_load {
    uint32_t running, waiting;
    uint32_t free_blocks;                    /* free ones and those that can be evicted */
    uint64_t n_preempted, n_copied, n_found; /* since the start: preemptions, blocks copied, positions found in the cache */
};
struct scheduler_load scheduler_load(const struct scheduler *s);
struct scheduler_backlog {
    uint64_t prompt_rows; /* of all sequences, positions that are not computed yet (and may be found) */
    uint64_t tiles;       /* not encoded yet */
    uint32_t decoding;
};
struct scheduler_backlog scheduler_backlog(const struct scheduler *s); /* looks at every sequence */
/* For tests and metrics. */
const struct kv_cache *scheduler_cache(const struct scheduler *s);

#endif
