/* Engine: one model serving many sequences; the worker process and the command line's `generate` are thin shells around
 * it.
 *
 * It owns the sequences (prompt, sampling state, tiles, picture embeddings) and the scheduler; the model is lent. One
 * engine_step is one forward pass over what the scheduler planned, then sampling; its results are rows in the form the
 * frame protocol sends. Single-threaded by contract (the model's kernels have their own threads). What a submit says is
 * treated as hostile: ids, tiles and descriptors are checked here. */
#ifndef SPILLWAY_ENGINE_ENGINE_H
#define SPILLWAY_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/frame.h"
#include "engine/scheduler.h"

struct model;
struct engine;

enum { ENGINE_MAX_RUNNING = 256, ENGINE_MAX_WAITING = 768, ENGINE_PICTURE_CACHE_BYTES = 64 << 20 };

struct engine_options {
    bool shared_cache;            /* accounts find each other's prefixes and pictures, and can tell from the time that they were there */
    bool no_prefix_cache;         /* every prompt is computed */
    bool no_guesses;              /* no speculation (engine/lookup.h); tokens are the same */
    bool always_guess;            /* also where it costs time: for tests */
    uint32_t prompt_rows;         /* computed in a step; 0: as many as go well beside what decodes */
    uint32_t promised_tokens;     /* see scheduler_limits; 0: 256 */
    uint64_t picture_cache_bytes; /* of encoded tiles; 0: none is kept */
};

/* model is borrowed until engine_free. Limits come from the model. */
MUST_USE int engine_new_with(struct engine **out, struct model *model, const struct engine_options *o, struct err *e);
/* With a cache for each account and ENGINE_PICTURE_CACHE_BYTES. */
MUST_USE int engine_new(struct engine **out, struct model *model, struct err *e);
void engine_free(struct engine *en); /* accepts NULL */

/* What the model and the engine can take; device and version are filled in, too. */
void engine_hello(const struct engine *en, struct frame_hello *out);

/* Takes a copy of everything, and the descriptors by dup: f stays the caller's. Errors refuse this one sequence:
 * -ERR_INPUT (ids outside the vocabulary, tiles that do not match the prompt, a memfd that is not sealed or too small,
 * an id in use), -ERR_CONTEXT, -ERR_LIMIT, -ERR_BUSY, -ERR_MEMORY. */
MUST_USE int engine_submit(struct engine *en, const struct frame_submit *f, struct err *e);
/* Unknown ids are no mistake: the sequence may just have ended. Its end is told by the next step as FINISH_CANCELLED.
 */
void engine_cancel(struct engine *en, uint64_t sequence);

bool engine_busy(const struct engine *en);
/* One step. *out (also its lists) holds until the next call; rows appear for sequences that made a token or ended. A
 * failed forward pass ends the sequences of this step with FINISH_ERROR and the engine goes on; only a device that is
 * lost gives a negative code. */
MUST_USE int engine_step(struct engine *en, int64_t now_ms, struct frame_step *out, struct err *e);
/* The same in halves, between which a device that queues (engine_queues) computes; nothing else is called of the engine between them. */
void engine_begin(struct engine *en, int64_t now_ms);
MUST_USE int engine_end(struct engine *en, struct frame_step *out, struct err *e);
bool engine_queues(const struct engine *en);

/* first_token_ms is of a new prompt of 512 tokens, behind all that is there; 0 until steps were measured. */
void engine_prediction(const struct engine *en, struct frame_prediction *out);

struct engine_figures {
    uint32_t blocks_free, blocks_cached, blocks_used;                  /* of the KV cache, now */
    uint64_t preempted, blocks_copied, positions_found, tiles_encoded; /* since the start */
    uint64_t tokens_guessed, guesses_right;                            /* likewise */
};
void engine_figures(const struct engine *en, struct engine_figures *out);

#endif
