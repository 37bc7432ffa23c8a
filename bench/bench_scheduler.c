/* bench_scheduler: what the scheduler itself costs a step, with a model that only counts.
 *
 * bench_scheduler [STEPS] default 20000 a row
 *
 * As many sequences as the row says run at all times (a new one for each that ends), prompts of 1 to 600 tokens of which a half are
 * found in the cache, 1 to 200 tokens made, 16 accounts. Per step: plan, keys of blocks that were made, reports, and the submits that
 * keep the number up; keys are counted up, not hashed. `tight`: a cache so small that sequences are preempted all the time. The last
 * line is JSON. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/scheduler.h"

enum { BLOCK = 16, MAX_PROMPT = 600, MAX_MADE = 200, MAX_CONTEXT = 1024, ACCOUNTS = 16, TEXTS = 40 };

struct bench {
    struct scheduler *s;
    uint64_t rng, next_id;
    uint64_t n_rows, n_submits;
};

static uint32_t pick(struct bench *b, uint32_t n)
{
    uint64_t z = (b->rng += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) % n);
}

static struct kv_key key(uint64_t text, uint64_t block)
{
    uint64_t h = (text * 1000 + block + 1) * 0x9E3779B97F4A7C15u;
    return (struct kv_key){{h ^ h >> 31, h}};
}

static void submit(struct bench *b)
{
    struct kv_key keys[MAX_PROMPT / BLOCK];
    struct err e;
    uint32_t n_prompt = 1 + pick(b, MAX_PROMPT), shared = n_prompt / 2 / BLOCK;
    uint64_t text = pick(b, TEXTS), own = TEXTS + b->next_id, account = text % ACCOUNTS;
    for (uint32_t i = 0; i < n_prompt / BLOCK; i++) keys[i] = key(i < shared ? text : own, i);
    struct scheduler_request r = {.id = b->next_id++,
                                  .account = account,
                                  .weight = 1,
                                  .n_prompt = n_prompt,
                                  .keys = keys,
                                  .prompt_key = key(own, 999),
                                  .max_tokens = 1 + pick(b, MAX_MADE)};
    if (scheduler_submit(b->s, &r, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    b->n_submits++;
}

static void step(struct bench *b)
{
    struct schedule p;
    scheduler_plan(b->s, 1, &p);
    for (size_t i = 0; i < p.n_groups; i++) {
        const struct schedule_rows *g = &p.groups[i];
        struct sequence *q = g->sequence;
        while ((q->n_keys + 1) * BLOCK <= g->first_position + g->n_rows)
            scheduler_add_key(b->s, q, key(TEXTS + q->request.id, 500 + q->n_keys));
        scheduler_advanced(b->s, g, g->sample, g->sample && q->n_made + 1 == q->max_tokens);
    }
    b->n_rows += p.n_rows;
}

static double run(const char *name, uint32_t n_sequences, uint32_t n_blocks, uint32_t n_steps)
{
    struct bench b = {.rng = 1};
    struct err e;
    struct scheduler_limits l = {.max_running = 256,
                                 .max_waiting = 768,
                                 .n_blocks = n_blocks,
                                 .block_tokens = BLOCK,
                                 .max_context = MAX_CONTEXT,
                                 .promised_tokens = n_blocks < 5000 ? 16 : 256,
                                 .step_rows = 512,
                                 .step_decode_rows = 384,
                                 .tile_units = 1,
                                 .unit_rows = 1,
                                 .step_units = 1};
    if (scheduler_new(&b.s, &l, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    int64_t spent_ns = 0, worst_ns = 0;
    for (uint32_t i = 0; i < n_steps; i++) {
        int64_t from_ns = clock_boot_ns();
        struct scheduler_load now = scheduler_load(b.s);
        for (uint32_t k = now.running + now.waiting; k < n_sequences; k++) submit(&b);
        step(&b);
        int64_t took_ns = clock_boot_ns() - from_ns;
        spent_ns += took_ns;
        if (i > 10 && took_ns > worst_ns) worst_ns = took_ns;
    }
    struct scheduler_load load = scheduler_load(b.s);
    double us = (double)spent_ns / 1e3 / n_steps;
    printf("%-8s %4u sequences  %7.2f us/step (worst %6.1f)  %6.1f rows/step  %5.2f submits/step  %8llu positions found  %6llu preempted\n",
           name, n_sequences, us, (double)worst_ns / 1e3, (double)b.n_rows / n_steps, (double)b.n_submits / n_steps,
           (unsigned long long)load.n_found, (unsigned long long)load.n_preempted);
    scheduler_free(b.s);
    return us;
}

int main(int argc, char **argv)
{
    uint32_t n_steps = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 20000;
    double one = run("roomy", 1, 20000, n_steps), some = run("roomy", 64, 20000, n_steps), many = run("roomy", 256, 20000, n_steps),
           tight = run("tight", 256, 2000, n_steps);
    printf("{\"scheduler_us_per_step\": {\"1\": %.3f, \"64\": %.3f, \"256\": %.3f, \"256_tight\": %.3f}}\n", one, some, many, tight);
    return 0;
}
