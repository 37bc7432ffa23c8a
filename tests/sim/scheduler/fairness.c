/* Accounts that always have something waiting: T61. What each was served, for its weight, must stay close to what each other one was. */
#include <string.h>

#include "engine/scheduler.h"
#include "tests/sim/scheduler/sim.h"

enum { MAX_ACCOUNTS = 10, BACKLOG = 3, STEPS = 3000, MAX_PROMPT = 60, MAX_MADE = 40, MAX_COST = MAX_PROMPT + 2 * MAX_MADE };

struct tenant {
    uint64_t id;
    uint32_t weight, n_there, max_prompt, max_made;
    double served; /* cost, for its weight */
};

struct contest {
    struct tenant tenants[MAX_ACCOUNTS];
    uint32_t n;
    struct scheduler *s;
    uint64_t rng, next_id;
};

static uint32_t pick(struct contest *c, uint32_t n)
{
    return (uint32_t)(sim_random(&c->rng) % n);
}

static void refill(struct contest *c, struct tenant *t, uint32_t max_running)
{
    while (t->n_there < max_running + BACKLOG) { /* even if all that runs is its own, some wait */
        struct scheduler_request r = {.id = c->next_id++,
                                      .account = t->id,
                                      .weight = t->weight,
                                      .n_prompt = 1 + pick(c, t->max_prompt),
                                      .max_tokens = 1 + pick(c, t->max_made),
                                      .user = t};
        struct err e;
        SIM_CHECK(scheduler_submit(c->s, &r, &e) == 0, "submit: %s", e.msg);
        t->n_there++;
    }
}

static void run(struct contest *c, const struct schedule *p)
{
    for (size_t i = 0; i < p->n_groups; i++) {
        const struct schedule_rows *g = &p->groups[i];
        const struct sequence *q = g->sequence;
        struct tenant *t = q->request.user;
        uint32_t end = g->first_position + g->n_rows, anew = end > q->n_charged ? end - q->n_charged : 0;
        t->served += (anew > 0 && !g->prefill ? 2 : anew) / (double)t->weight; /* what is computed again is nobody's gain */
        bool finished = g->sample && q->n_made + 1 == q->max_tokens;
        if (finished) t->n_there--;
        scheduler_advanced(c->s, g, g->sample, finished);
    }
}

static double gap(const struct contest *c)
{
    double least = c->tenants[0].served, most = least;
    for (uint32_t i = 1; i < c->n; i++) {
        if (c->tenants[i].served < least) least = c->tenants[i].served;
        if (c->tenants[i].served > most) most = c->tenants[i].served;
    }
    return most - least;
}

double sim_fairness(uint64_t seed)
{
    static struct contest contest;
    struct contest *c = &contest;
    struct err e;
    memset(c, 0, sizeof *c);
    c->rng = seed * 104729;
    c->n = 2 + pick(c, MAX_ACCOUNTS - 1);
    struct scheduler_limits l = {.max_running = 1 + pick(c, 12),
                                 .max_waiting = 400,
                                 .n_blocks = 30 + pick(c, 200),
                                 .block_tokens = 4,
                                 .max_context = MAX_PROMPT + MAX_MADE,
                                 .promised_tokens = MAX_MADE,
                                 .step_rows = 8 + pick(c, 60),
                                 .tile_units = 1,
                                 .unit_rows = 1,
                                 .step_units = 1};
    l.step_decode_rows = l.step_rows - (l.step_rows + 3) / 4;
    SIM_CHECK(scheduler_new(&c->s, &l, &e) == 0, "no scheduler");
    sim_own(c->s);
    for (uint32_t i = 0; i < c->n; i++)
        c->tenants[i] =
            (struct tenant){.id = i, .weight = 1 + pick(c, 4), .max_prompt = 1 + pick(c, MAX_PROMPT), .max_made = 1 + pick(c, MAX_MADE)};
    double largest = 0, bound = 2.0 * MAX_COST;
    for (int step = 0; step < STEPS; step++) {
        struct schedule p;
        for (uint32_t i = 0; i < c->n; i++) refill(c, &c->tenants[i], l.max_running);
        scheduler_plan(c->s, step, &p);
        run(c, &p);
        if (gap(c) > largest) largest = gap(c);
        SIM_CHECK(largest <= bound, "%u accounts, %u places: the gap is %.0f, the dearest request %d", c->n, l.max_running, largest,
                  MAX_COST);
    }
    return largest / MAX_COST;
}
