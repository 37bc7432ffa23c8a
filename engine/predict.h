/* Prediction of the time to the first token, checked against what then happened. Pure arithmetic for engine/engine.c. */
#ifndef SPILLWAY_ENGINE_PREDICT_H
#define SPILLWAY_ENGINE_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

enum { PREDICT_REMEMBERED = 256 };

/* What a step costs in ms: so much itself, so much a prompt row, so much a decode row. Fitted to the last steps
 * that were measured, by their relative error; what these do not tell apart stays as it was. Zeroed is a good start. */
struct predict_costs {
    struct predict_sums {
        double xx[3][3], xt[3];
    } sums[2];
    double cost[3]; /* see predict.c */
    bool known;
};
void predict_costs_learn(struct predict_costs *c, double n_prompt_rows, double n_decode_rows, double ms);
double predict_step_ms(const struct predict_costs *c, double n_prompt_rows, double n_decode_rows);
double predict_prompt_row_ms(const struct predict_costs *c); /* one more in a step; 0: not known, or nothing */
/* Sequences decoding side by side that make nine tenths of the tokens a second of any number of them; at most `most`. costs must be known. */
uint32_t predict_side_by_side(const struct predict_costs *c, uint32_t most);

/* What is before a prompt, and how the scheduler goes about it. */
struct predict_queue {
    uint32_t prompts;     /* without a first token */
    double rows;          /* of theirs, still to be computed */
    uint32_t decoding;    /* sequences */
    double answer_steps;  /* that a sequence decodes for, on average; 0: not known, none is taken to end */
    uint32_t step_rows;   /* of prompts in a step that decodes nothing, at most */
    uint32_t beside_rows; /* in another, or this part of what is left if that is more: see engine/scheduler.h */
    uint32_t spread_steps, mixed_rows; /* the latter: at most so many, decodes too */
};
/* Until the first token of a prompt of n_rows that comes now. Each prompt before it decodes once it is computed, and some of those that decode
 * end meanwhile. costs must be known. */
double predict_first_token_ms(const struct predict_costs *costs, const struct predict_queue *q, double n_rows);
/* What each row of that prompt adds, over its first 1,024. At least its own cost in a step, and never below 0, though a longer prompt has the
 * ones before it computed in fewer, fuller steps. costs must be known. */
double predict_token_ms(const struct predict_costs *costs, const struct predict_queue *q);

/* The last relative errors |predicted - actual| / actual. Zeroed is a good start. */
struct predict_errors {
    float error[PREDICT_REMEMBERED];
    uint32_t n, next;
};
/* Both in ms; actual_ms is taken as at least 1: below that nobody routes by it. */
void predict_learn(struct predict_errors *p, double predicted_ms, double actual_ms);
/* The error that 90 % of the remembered ones do not exceed; -1: none yet. */
float predict_p90(const struct predict_errors *p);

#endif
