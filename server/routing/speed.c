/* Speed: see speed.h. */
#include "server/routing/speed.h"

#include <math.h>

/* A second measurement soon after the first weighs as much, a hundredth one little. */
static const double most_weight = 20;

static double faded(double weight, const struct speed *s, int64_t now_ms)
{
    return now_ms > s->at_ms ? weight * exp2(-(double)(now_ms - s->at_ms) / SPEED_HALF_MS) : weight;
}

static void learn(double *average, double *weight, double value)
{
    *average = (*average * *weight + value) / (*weight + 1);
    *weight = *weight + 1 < most_weight ? *weight + 1 : most_weight;
}

void speed_note(struct speed *s, int64_t first_ms, int64_t n_tokens, int64_t took_ms, int64_t now_ms)
{
    s->first_weight = faded(s->first_weight, s, now_ms);
    s->token_weight = faded(s->token_weight, s, now_ms);
    s->at_ms = now_ms;
    learn(&s->first_ms, &s->first_weight, first_ms > 0 ? (double)first_ms : 1);
    if (n_tokens > 0 && took_ms > 0) learn(&s->token_us, &s->token_weight, 1000 * (double)took_ms / (double)n_tokens);
}

static int64_t known(double average, double weight, const struct speed *s, int64_t now_ms)
{
    const double least = exp2(-(double)SPEED_KNOWN_MS / SPEED_HALF_MS);
    if (faded(weight, s, now_ms) < least) return 0;
    return average < 1 ? 1 : (int64_t)average;
}

struct speed_now speed_now(const struct speed *s, int64_t now_ms)
{
    struct speed_now n = {.first_ms = known(s->first_ms, s->first_weight, s, now_ms),
                          .token_us = known(s->token_us, s->token_weight, s, now_ms),
                          .age_ms = s->first_weight > 0 ? now_ms - s->at_ms : INT64_MAX};
    n.may_probe = n.age_ms >= SPEED_STALE_MS && (s->probed_ms == 0 || now_ms - s->probed_ms >= SPEED_PROBE_GAP_MS);
    return n;
}

void speed_suggest(struct speed *s, int64_t first_ms, int64_t token_us, int64_t now_ms)
{
    if (speed_now(s, now_ms).first_ms || first_ms <= 0) return;
    *s = (struct speed){.first_ms = (double)first_ms, .first_weight = 1, .at_ms = now_ms, .probed_ms = s->probed_ms};
    if (token_us <= 0) return;
    s->token_us = (double)token_us;
    s->token_weight = 1;
}

void speed_probed(struct speed *s, int64_t now_ms)
{
    s->probed_ms = now_ms ? now_ms : 1;
}

bool speed_is_probe(uint64_t draw)
{
    return (draw * 0x9E3779B97F4A7C15u) >> 32 < UINT32_MAX / SPEED_PROBE_ONE_IN;
}
