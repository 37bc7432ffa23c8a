/* Prompt lookup: guesses what a sequence will say next from what it has read and said (n-gram speculation; Saxena 2023, "Prompt Lookup Decoding").
 *
 * A guess costs no model. The engine computes guessed tokens as further rows of the sequence's decode step and samples every row as it would have
 * been sampled alone, so tokens are the same with and without guesses (kernels/ops.h: rows do not depend on each other); wrong ones only cost
 * rows. How many are worth a row is learned here from how many were right. */
#ifndef SPILLWAY_ENGINE_LOOKUP_H
#define SPILLWAY_ENGINE_LOOKUP_H

#include <stddef.h>
#include <stdint.h>

enum { LOOKUP_MAX = 8, LOOKUP_ROWS = 32 /* of a step's decodes and guesses: more are too many for any guess */ };

/* The `max` tokens that followed the last occurrence of the final three tokens, else of the final two, going round where that reaches the end;
 * returns max, or 0 if there is no such occurrence. */
size_t lookup_guess(const int32_t *tokens, size_t n, size_t max, int32_t *guess);

/* What guessing has been worth to one sequence. Zeroed is a good start: nothing known. */
struct lookup_record {
    float right; /* smoothed share of guesses that were right, once n_tried > 0 */
    uint32_t n_tried, n_idle;
};
void lookup_learn(struct lookup_record *r, size_t n_guessed, size_t n_right);
/* How many tokens to guess when the decode steps hold `rows` rows without this sequence's guesses. row_cost[i] is the time of a step of i + 1 rows,
 * in any unit (n_costs of them, rising); more rows than that are too many. */
size_t lookup_length(struct lookup_record *r, size_t rows, const float *row_cost, size_t n_costs);

#endif
