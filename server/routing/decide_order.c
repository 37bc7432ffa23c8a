/* Decide, the order: by the policy, a list of comparisons. Entries of a `models` list keep theirs whatever the policy. */
#include "server/routing/decide_parts.h"

#include <math.h>
#include <string.h>

/* Below 0: a goes first. */
typedef int compare(const struct work *k, size_t a, size_t b);

static int sign(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

static int by_entry(const struct work *k, size_t a, size_t b)
{
    return sign(k->c[a].want.entry, k->c[b].want.entry);
}

static int by_reserve(const struct work *k, size_t a, size_t b)
{
    return sign(k->c[a].want.reserve, k->c[b].want.reserve);
}

static int by_local(const struct work *k, size_t a, size_t b)
{
    return sign(decide_is_hosted(&k->c[a]), decide_is_hosted(&k->c[b]));
}

static int by_tier(const struct work *k, size_t a, size_t b)
{
    return sign(k->c[a].want.tier, k->c[b].want.tier);
}

static int by_wait(const struct work *k, size_t a, size_t b)
{
    const struct route_candidate *x = &k->c[a], *y = &k->c[b];
    return decide_is_hosted(x) || decide_is_hosted(y) ? 0 : sign(route_predicted_ms(x), route_predicted_ms(y));
}

/* Its prompt may be in that host's cache, and that saves something. */
static bool is_sticky(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    return decide_is_hosted(c) && c->want.index == k->w->sticky && (c->can & ROUTE_CAN_CACHE) && c->cost_cached_nusd < c->cost_nusd;
}

static int by_sticky(const struct work *k, size_t a, size_t b)
{
    return sign(is_sticky(k, b), is_sticky(k, a));
}

static int64_t cost_nusd(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    return !c->has_price ? INT64_MAX : is_sticky(k, i) ? c->cost_cached_nusd : c->cost_nusd;
}

static int by_cost(const struct work *k, size_t a, size_t b)
{
    return sign(cost_nusd(k, a), cost_nusd(k, b));
}

/* Of the whole answer; what is not known goes last. */
static double time_ms(const struct work *k, size_t i)
{
    const struct route_candidate *c = &k->c[i];
    int64_t first_ms = decide_is_hosted(c) ? c->speed.first_ms : route_predicted_ms(c), n = k->w->expected_tokens;
    if ((decide_is_hosted(c) && first_ms == 0) || (n > 0 && c->speed.token_us == 0)) return INFINITY;
    return (double)first_ms + (double)n * (double)c->speed.token_us / 1000;
}

static int by_time(const struct work *k, size_t a, size_t b)
{
    double x = time_ms(k, a), y = time_ms(k, b);
    return (x > y) - (x < y);
}

static int by_draw(const struct work *k, size_t a, size_t b)
{
    return (k->race[a] > k->race[b]) - (k->race[a] < k->race[b]);
}

static compare *const orders[ROUTE_POLICIES][7] = {
    [ROUTE_LOCAL_FIRST] = {by_entry, by_reserve, by_local, by_tier, by_wait, by_sticky, by_draw},
    [ROUTE_CHEAPEST] = {by_entry, by_reserve, by_cost, by_local, by_tier, by_draw},
    [ROUTE_FASTEST] = {by_entry, by_reserve, by_time, by_local, by_tier, by_draw},
    [ROUTE_PRIORITY] = {by_entry, by_reserve, by_tier, by_wait, by_sticky, by_draw},
    [ROUTE_WEIGHTED] = {by_entry, by_reserve, by_sticky, by_draw},
};

static bool goes_before(const struct work *k, size_t a, size_t b)
{
    compare *const *keys = orders[k->c[a].want.policy];
    for (size_t i = 0; i < sizeof orders[0] / sizeof *orders[0] && keys[i]; i++) {
        int way = keys[i](k, a, b);
        if (way) return way < 0;
    }
    return a < b;
}

/* A race of exponential clocks: i is first with probability weight_i / sum of weights. Its chance is the model's, not its place's in the
 * list. */
static double race(const struct route_candidate *c, uint64_t draw)
{
    uint64_t x = draw ^ ((uint64_t)c->want.kind << 32 | c->want.index) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    double u = ((double)((x ^ x >> 31) >> 11) + 1) / ((double)((uint64_t)1 << 53) + 1);
    return c->want.weight ? -log(u) / c->want.weight : INFINITY;
}

/* Where the fastest is asked for, one request in some goes to whom nobody has seen for long (speed.h). */
static void probe(struct work *k)
{
    size_t first = 0, found = k->n;
    while (first < k->n && k->d->passed[k->order[first]] != ROUTE_LATER) first++;
    if (k->at >= 0 || first == k->n || k->c[k->order[first]].want.policy != ROUTE_FASTEST || !speed_is_probe(k->w->draw)) return;
    const struct route_candidate *fastest = &k->c[k->order[first]];
    for (size_t j = first + 1; j < k->n; j++) {
        size_t i = k->order[j];
        const struct route_candidate *c = &k->c[i];
        if (k->d->passed[i] != ROUTE_LATER || !decide_is_hosted(c) || !c->speed.may_probe || c->want.entry != fastest->want.entry) continue;
        if (c->cost_nusd / 2 > fastest->cost_nusd) continue;
        if (found == k->n || c->speed.age_ms > k->c[k->order[found]].speed.age_ms) found = j;
    }
    if (found == k->n) return;
    uint8_t i = k->order[found];
    memmove(&k->order[first + 1], &k->order[first], found - first);
    k->order[first] = i;
    k->probe = i;
}

void decide_order(struct work *k)
{
    for (size_t i = 0; i < k->n; i++) {
        size_t at = i;
        k->race[i] = race(&k->c[i], k->w->draw);
        while (at > 0 && goes_before(k, i, k->order[at - 1])) at--;
        memmove(&k->order[at + 1], &k->order[at], i - at);
        k->order[at] = (uint8_t)i;
    }
    probe(k);
}
