/* Prediction: see predict.h. */
#include "engine/predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void predict_learn(struct predict_errors *p, double predicted_ms, double actual_ms)
{
    double actual = actual_ms > 1 ? actual_ms : 1;
    p->error[p->next] = (float)(fabs(predicted_ms - actual) / actual);
    p->next = (p->next + 1) % PREDICT_REMEMBERED;
    if (p->n < PREDICT_REMEMBERED) p->n++;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

float predict_p90(const struct predict_errors *p)
{
    float sorted[PREDICT_REMEMBERED];
    if (p->n == 0) return -1;
    memcpy(sorted, p->error, p->n * sizeof *sorted);
    qsort(sorted, p->n, sizeof *sorted, by_size);
    return sorted[(p->n * 9 + 9) / 10 - 1];
}
