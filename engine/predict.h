/* Prediction of the time to the first token, checked against what then happened. Pure arithmetic for engine/engine.c. */
#ifndef SPILLWAY_ENGINE_PREDICT_H
#define SPILLWAY_ENGINE_PREDICT_H

#include <stdint.h>

enum { PREDICT_REMEMBERED = 256 };

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
