/* Engine, inner part: what engine_submit.c takes in and engine.c steps. */
#ifndef SPILLWAY_ENGINE_ENGINE_PARTS_H
#define SPILLWAY_ENGINE_ENGINE_PARTS_H

#include "engine/block_keys.h"
#include "engine/engine.h"
#include "engine/lookup.h"
#include "engine/model.h"
#include "engine/picture_cache.h"
#include "engine/predict.h"

enum { ENGINE_TOP = FRAME_MAX_TOP };

/* A memfd of tiles, mapped read-only. Its seals make sure that the bytes stay what and where they are. */
struct mapping {
    const uint8_t *base;
    size_t n_bytes;
};

struct engine_sequence {
    uint64_t id, account;
    uint32_t weight;
    struct frame_sampling sampling;
    int32_t *tokens; /* prompt, what was made, what is guessed to follow; room for all that may be made */
    uint32_t n_prompt, n_made;
    int32_t *eos, *banned;
    uint32_t n_eos, n_banned, n_bias, n_tiles, n_mappings;
    struct token_bias *bias;
    struct mapping *mappings;
    const uint8_t **tiles; /* (n_tiles), each (3, tile_px, tile_px), into the mappings; NULL when all are encoded */
    uint8_t (*tile_hashes)[FRAME_HASH_BYTES];
    struct picture *picture; /* made with the first tile encoded; kept, for the sequence may be preempted and computed again */
    uint32_t picture_rows, picture_position; /* image tokens before that position */
    struct block_chain chain;                /* has come to the sequence's last full block */
    struct lookup_record guessing;
    bool failed;                             /* an encode of this step failed; err says why */
    struct err err;
    int64_t submitted_ns;
    double predicted_ms; /* of the first token, at submit; below 0: nothing was known */
};

/* A step between its halves. */
struct begun {
    int rc, lost; /* of what went before the rows, and of these; the device is lost */
    struct err why, lost_why;
    int64_t from_ns;
};

struct engine {
    struct model *model;
    struct model_limits limits;
    struct engine_options options;
    struct block_secret secret;
    struct picture_cache *pictures;
    struct scheduler *scheduler;
    struct schedule plan;                             /* of the step that is running */
    struct schedule_rows planned[ENGINE_MAX_RUNNING]; /* its groups without those whose encode failed */
    struct model_group groups[ENGINE_MAX_RUNNING];
    size_t n_groups;
    struct begun begun;
    struct sample_row sample_rows[ENGINE_MAX_RUNNING];
    struct sample_result results[ENGINE_MAX_RUNNING];
    /* What the step tells: one row a sequence at most, and its tokens with the alternatives, each sequence's one after another. */
    struct frame_step_row rows[ENGINE_MAX_RUNNING + ENGINE_MAX_WAITING];
    uint32_t n_rows;
    int32_t row_tokens[ENGINE_MAX_RUNNING];
    struct frame_logprob row_logprobs[ENGINE_MAX_RUNNING * (1 + ENGINE_TOP)];
    uint64_t n_encoded, n_guessed, n_right;  /* tiles, tokens guessed and those of them that were right, since the start */
    struct predict_errors predictions;
    struct predict_costs step_costs;
    double answer_tokens;                    /* of a sequence that has ended, smoothed */
    double decode_step_ms, layer_ms;         /* of a step that decodes, among other things; of a layer of a tile; smoothed; 0: not known yet */
    double step_tokens;                      /* that a sequence which decodes makes in a step, likewise */
    float row_cost[LOOKUP_ROWS]; /* of a step that decodes only, by its rows, if step_costs are known */
    size_t n_decodes;            /* sequences that decode in this step */
};

/* Unmaps; also when there is nothing. */
void engine_tiles_unmap(struct engine_sequence *q);
void engine_sequence_free(struct engine *en, struct engine_sequence *q); /* accepts NULL */
/* When a sequence that comes now would have its first token, if it has so many rows to compute and tiles to encode. Below 0: not known yet. */
double engine_first_token_ms(const struct engine *en, uint32_t n_rows, uint32_t n_tiles);
struct block_text engine_text(const struct engine *en, const struct engine_sequence *q);

#endif
