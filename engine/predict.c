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

/* --- costs --- */

/* The unknowns: a step, a row, and what a decode costs besides being a row (no cost is below 0, so a decode is never taken to be cheaper than a
 * prompt row: where the two come in fixed proportion only their sum is seen). In units of about the same cost, so that what one step does
 * not tell apart is shared out evenly. */
enum { ROW_UNIT = 16, DECODE_UNIT = 8 };

/* Least squares for the unknowns in `use`; those that it finds below 0 are 0. */
static void solve(const double a[3][3], const double b[3], double x[3])
{
    bool use[3] = {true, true, true};
    for (int again = 1; again;) {
        double m[3][4] = {0};
        for (int i = 0; i < 3; i++) {
            for (int j = 0; j < 3; j++) m[i][j] = use[i] && use[j] ? a[i][j] : i == j;
            m[i][3] = use[i] ? b[i] : 0;
        }
        for (int k = 0; k < 3; k++) /* positive definite: no pivots are needed */
            for (int i = 0; i < 3; i++) {
                double f = i == k ? 0 : m[i][k] / m[k][k];
                for (int j = k; j < 4; j++) m[i][j] -= f * m[k][j];
            }
        again = 0;
        for (int i = 0; i < 3; i++) {
            x[i] = m[i][3] / m[i][i];
            if (x[i] < 0 && use[i]) use[i] = false, again = 1;
        }
    }
}

/* What is remembered counts for this share of what it did, and took so many times as long. */
static void keep(struct predict_sums *s, double share, double times)
{
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) s->xx[i][j] *= share / (times * times); /* errors are relative */
        s->xt[i] *= share / times;
    }
}

/* Steps with prompts and steps without are remembered apart: there may be hundreds of the one kind between two of the other, which alone tell what a
 * step costs without its rows. What slows the one kind down is taken to slow down the other, too. */
void predict_costs_learn(struct predict_costs *c, double n_prompt_rows, double n_decodes, double ms)
{
    enum { PULL = 1 }; /* percent */
    if (ms <= 0) return;
    const double x[3] = {1, (n_prompt_rows + n_decodes) / ROW_UNIT, n_decodes / DECODE_UNIT};
    const bool prompts = n_prompt_rows > 0;
    double expected = predict_step_ms(c, n_prompt_rows, n_decodes); /* what the error is relative to: a step that is slow all at once counts in full */
    expected = expected > 3 * ms ? 3 * ms : expected < ms / 3 ? ms / 3 : expected;
    const double weight = 1 / (expected * expected);
    struct predict_sums *s = &c->sums[prompts], *other = &c->sums[!prompts];
    keep(s, 0.9, 1);
    keep(other, prompts ? 0.995 : 0.98, c->known ? 0.9 + 0.1 * ms / expected : 1);
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) s->xx[i][j] += weight * x[i] * x[j];
        s->xt[i] += weight * x[i] * ms;
    }
    double a[3][3], b[3], pull = 0;
    for (int i = 0; i < 3; i++) pull += (s->xx[i][i] + other->xx[i][i]) * PULL / 100;
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) a[i][j] = s->xx[i][j] + other->xx[i][j] + (i == j ? pull : 0);
        b[i] = s->xt[i] + other->xt[i] + pull * c->cost[i];
    }
    solve(a, b, c->cost);
    c->known = c->known || prompts;
}

double predict_step_ms(const struct predict_costs *c, double n_prompt_rows, double n_decodes)
{
    return c->cost[0] + c->cost[1] * (n_prompt_rows + n_decodes) / ROW_UNIT + c->cost[2] * n_decodes / DECODE_UNIT;
}

double predict_prompt_row_ms(const struct predict_costs *c)
{
    return c->cost[1] / ROW_UNIT;
}

/* n make n / (a + b n), that is 1 / b at most, and nine tenths of it with n = 9 a / b. */
uint32_t predict_side_by_side(const struct predict_costs *c, uint32_t most)
{
    double row_ms = predict_step_ms(c, 0, 1) - c->cost[0], n = 9 * c->cost[0];
    return n >= most * row_ms ? most : (uint32_t)ceil(n / row_ms);
}

/* --- queue --- */

static double rows_a_step(const struct predict_queue *q, double decoding, double left)
{
    double part = left / q->spread_steps;
    if (decoding < 0.5) return q->step_rows;
    if (part > q->mixed_rows - decoding) part = q->mixed_rows - decoding;
    return part > q->beside_rows ? part : q->beside_rows;
}

double predict_first_token_ms(const struct predict_costs *costs, const struct predict_queue *q, double n_rows)
{
    double decoding = q->decoding, ms = 0;
    if (q->rows + n_rows + decoding <= 0) return 0;
    for (uint32_t i = 0; i < q->prompts; i++) {
        double each = q->rows / q->prompts, rows = rows_a_step(q, decoding, each * (q->prompts - i) + n_rows), steps = each / rows;
        ms += steps * predict_step_ms(costs, rows, decoding);
        double ended = q->answer_steps > 0 ? steps / q->answer_steps : 0;
        decoding = decoding * (ended < 1 ? 1 - ended : 0) + 1;
    }
    double steps = ceil(n_rows / rows_a_step(q, decoding, n_rows));
    if (steps < 1) steps = 1;
    return ms + steps * predict_step_ms(costs, n_rows / steps, decoding);
}

double predict_token_ms(const struct predict_costs *costs, const struct predict_queue *q)
{
    enum { TOKENS = 1024 };
    double ms = (predict_first_token_ms(costs, q, TOKENS) - predict_first_token_ms(costs, q, 0)) / TOKENS;
    return fmax(ms, predict_prompt_row_ms(costs));
}
