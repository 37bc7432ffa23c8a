/* Breaker: see breaker.h. */
#include "server/routing/breaker.h"

static bool is_open(const struct breaker *b, int64_t now_ms)
{
    return b->state == BREAKER_OPEN && now_ms < b->open_until_ms;
}

static bool has_probe(const struct breaker *b, int64_t now_ms)
{
    return b->probe_out && now_ms - b->probe_ms < BREAKER_PROBE_MS;
}

enum breaker_verdict breaker_verdict(const struct breaker *b, int64_t now_ms)
{
    if (b->state == BREAKER_CLOSED) return BREAKER_GO;
    return is_open(b, now_ms) || has_probe(b, now_ms) ? BREAKER_NO : BREAKER_PROBE;
}

int64_t breaker_wait_ms(const struct breaker *b, int64_t now_ms)
{
    if (is_open(b, now_ms)) return b->open_until_ms - now_ms;
    return b->state != BREAKER_CLOSED && has_probe(b, now_ms) ? 1000 : 0; /* the probe will tell soon */
}

bool breaker_begin(struct breaker *b, int64_t now_ms, struct breaker_pass *p)
{
    enum breaker_verdict v = breaker_verdict(b, now_ms);
    if (v == BREAKER_PROBE) {
        b->state = BREAKER_HALF_OPEN;
        b->probe_out = true;
        b->probe_ms = now_ms;
        b->epoch++; /* a probe that was given up tells nothing any more */
    }
    *p = (struct breaker_pass){.epoch = b->epoch, .probe = v == BREAKER_PROBE};
    return v != BREAKER_NO;
}

static void note(struct breaker *b, bool failed, int64_t now_ms)
{
    if (now_ms - b->outcome_ms > BREAKER_STALE_MS) b->last = 0;
    b->outcome_ms = now_ms;
    b->last = (b->last << 1 | failed) & (((uint64_t)1 << BREAKER_LAST) - 1);
    b->in_a_row = failed ? b->in_a_row + 1 : 0;
    b->n_failures += failed;
}

static void open_it(struct breaker *b, int64_t now_ms)
{
    int64_t calm_ms = b->open_ms > BREAKER_CALM_MS ? b->open_ms : BREAKER_CALM_MS;
    if (b->state == BREAKER_CLOSED && now_ms - b->closed_ms >= calm_ms) b->n_opened = 0;
    int64_t ms = BREAKER_FIRST_MS;
    for (unsigned i = 0; i < b->n_opened && ms < BREAKER_MOST_MS; i++) ms *= 2;
    if (ms > BREAKER_MOST_MS) ms = BREAKER_MOST_MS;
    b->open_ms = ms;
    b->open_until_ms = now_ms + ms > b->hint_until_ms ? now_ms + ms : b->hint_until_ms;
    b->state = BREAKER_OPEN;
    b->probe_out = false;
    b->n_opened++;
    b->n_openings++;
    b->epoch++;
    b->last = b->in_a_row = 0;
}

void breaker_ok(struct breaker *b, struct breaker_pass p, int64_t now_ms)
{
    if (p.epoch != b->epoch) return;
    note(b, false, now_ms);
    if (!p.probe || b->state == BREAKER_CLOSED) return;
    b->state = BREAKER_CLOSED;
    b->probe_out = false;
    b->closed_ms = now_ms;
}

void breaker_failed(struct breaker *b, struct breaker_pass p, int64_t retry_after_ms, int64_t now_ms)
{
    int64_t hint_ms = retry_after_ms < BREAKER_HINT_MS ? retry_after_ms : BREAKER_HINT_MS;
    if (hint_ms > 0 && now_ms + hint_ms > b->hint_until_ms) b->hint_until_ms = now_ms + hint_ms;
    if (p.epoch != b->epoch) return;
    note(b, true, now_ms);
    bool often = b->in_a_row >= BREAKER_IN_A_ROW || __builtin_popcountll(b->last) >= BREAKER_OF_LAST;
    if (p.probe || often) open_it(b, now_ms);
}

void breaker_abandon(struct breaker *b, struct breaker_pass p)
{
    if (p.epoch == b->epoch && p.probe) b->probe_out = false;
}

const char *breaker_state_name(const struct breaker *b, int64_t now_ms)
{
    if (b->state == BREAKER_CLOSED) return "closed";
    return is_open(b, now_ms) ? "open" : "half-open";
}
