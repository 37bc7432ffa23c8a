/* Scheduler: unit cases, then seeded random lives of many sequences over a virtual clock, with every rule checked at
 * every step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/scheduler.h"

static const struct scheduler_limits small = {
    .max_running = 4, .max_waiting = 8, .n_blocks = 16, .block_tokens = 4, .max_context = 48, .step_rows = 8, .step_decode_rows = 6};

static struct scheduler *make(struct scheduler_limits l)
{
    struct scheduler *s;
    struct err e;
    assert_int_equal(scheduler_new(&s, &l, &e), 0);
    return s;
}

static int submit(struct scheduler *s, uint64_t id, uint32_t n_prompt, uint32_t max_tokens)
{
    struct err e;
    return scheduler_submit(s, &(struct scheduler_request){.id = id, .n_prompt = n_prompt, .max_tokens = max_tokens}, &e);
}

/* Does what the plan says; a sequence ends when it has made all its tokens. */
static void run_plan(struct scheduler *s, const struct schedule *p)
{
    if (p->encode) scheduler_encoded(s, p->encode, false);
    for (size_t i = 0; i < p->n_groups; i++) {
        const struct sequence *q = p->groups[i].sequence;
        scheduler_advanced(s, &p->groups[i], p->groups[i].sample && q->n_made + 1 == q->max_tokens);
    }
}

static void test_one_sequence_runs_from_prompt_to_last_token(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    assert_int_equal(submit(s, 1, 11, 3), 0);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.n_rows, 8); /* a first chunk as large as the step allows, not yet sampled */
    assert_false(p.groups[0].sample);
    run_plan(s, &p);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.groups[0].first_position, 8);
    assert_int_equal(p.groups[0].n_rows, 3);
    assert_true(p.groups[0].sample);
    run_plan(s, &p);
    for (uint32_t i = 0; i < 2; i++) {
        scheduler_plan(s, 0, &p);
        assert_int_equal(p.n_rows, 1);
        assert_int_equal(p.groups[0].first_position, 11 + i);
        run_plan(s, &p);
    }
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.n_groups, 0);
    assert_int_equal(scheduler_load(s).free_blocks, 16);
    scheduler_free(s);
}

static void test_prompt_chunks_ride_beside_decodes(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    assert_int_equal(submit(s, 1, 2, 10), 0);
    scheduler_plan(s, 0, &p);
    run_plan(s, &p);
    assert_int_equal(submit(s, 2, 20, 2), 0);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.n_groups, 2);
    assert_int_equal(p.groups[0].sequence->request.id, 1);
    assert_int_equal(p.groups[0].n_rows, 1);
    assert_int_equal(p.groups[1].n_rows, 7);
    scheduler_free(s);
}

static void test_tiles_are_encoded_one_a_step_before_the_prompt(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct err e;
    assert_int_equal(scheduler_submit(s, &(struct scheduler_request){.id = 1, .n_prompt = 6, .n_tiles = 3, .max_tokens = 1}, &e), 0);
    for (int i = 0; i < 3; i++) {
        scheduler_plan(s, 0, &p);
        assert_non_null(p.encode);
        assert_int_equal(p.encode->n_encoded, i);
        assert_int_equal(p.n_groups, 0);
        run_plan(s, &p);
    }
    scheduler_plan(s, 0, &p);
    assert_null(p.encode);
    assert_int_equal(p.n_rows, 6);
    scheduler_free(s);
}

static void test_sequence_larger_than_the_cache_is_refused(void **state)
{
    (void)state;
    struct scheduler_limits l = small;
    l.max_context = 1000;
    struct scheduler *s = make(l);
    assert_int_equal(submit(s, 1, 64, 2), -ERR_LIMIT);
    assert_int_equal(submit(s, 1, 64, 1), 0); /* 64 positions are exactly 16 blocks of 4 */
    scheduler_free(s);
}

static void test_prompt_without_room_in_the_context_is_refused(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    assert_int_equal(submit(s, 1, 48, 1), -ERR_CONTEXT);
    assert_int_equal(submit(s, 1, 47, UINT32_MAX), 0);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.groups[0].sequence->max_tokens, 1);
    scheduler_free(s);
}

static void test_queue_is_bounded_and_ids_are_not_used_twice(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    for (uint64_t i = 0; i < 8; i++) assert_int_equal(submit(s, i, 40, 8), 0);
    assert_int_equal(submit(s, 7, 1, 1), -ERR_INPUT);
    assert_int_equal(submit(s, 8, 1, 1), -ERR_BUSY);
    scheduler_free(s);
}

static void test_second_large_sequence_waits_for_blocks(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    assert_int_equal(submit(s, 1, 40, 8), 0);
    assert_int_equal(submit(s, 2, 40, 8), 0);
    assert_int_equal(submit(s, 3, 1, 1), 0); /* would fit, but does not pass the head */
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.n_groups, 1);
    assert_int_equal(scheduler_load(s).waiting, 2);
    scheduler_cancel(s, 1);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.n_ended, 1);
    assert_int_equal(p.groups[0].sequence->request.id, 2);
    scheduler_free(s);
}

static void test_cancelled_sequence_is_in_no_later_plan(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    assert_int_equal(submit(s, 1, 4, 8), 0);
    scheduler_plan(s, 0, &p);
    assert_true(scheduler_cancel(s, 1)); /* arrives while the step runs */
    run_plan(s, &p);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.n_groups, 0);
    assert_int_equal(p.n_ended, 1);
    assert_int_equal(p.ended[0].id, 1);
    assert_int_equal(p.ended[0].n_made, 1);
    assert_false(p.ended[0].late);
    assert_false(scheduler_cancel(s, 1));
    scheduler_free(s);
}

static void test_deadline_ends_waiting_and_running_sequences(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct err e;
    for (uint64_t i = 1; i <= 2; i++)
        assert_int_equal(
            scheduler_submit(s, &(struct scheduler_request){.id = i, .n_prompt = 40, .max_tokens = 8, .deadline_ms = 100 * (int64_t)i}, &e),
            0);
    scheduler_plan(s, 99, &p);
    assert_int_equal(p.n_ended, 0);
    run_plan(s, &p);
    scheduler_plan(s, 200, &p);
    assert_int_equal(p.n_ended, 2);
    assert_true(p.ended[0].late && p.ended[1].late);
    assert_int_equal(scheduler_load(s).free_blocks, 16);
    scheduler_free(s);
}

static void test_decode_rows_go_round_when_they_are_short(void **state)
{
    (void)state;
    struct scheduler_limits l = small;
    l.step_rows = 3;
    l.step_decode_rows = 2;
    struct scheduler *s = make(l);
    struct schedule p;
    unsigned served[4] = {0};
    for (uint64_t i = 0; i < 4; i++) assert_int_equal(submit(s, i, 1, 12), 0);
    for (int step = 0; step < 12; step++) {
        scheduler_plan(s, 0, &p);
        assert_true(p.n_rows <= 3);
        for (size_t i = 0; i < p.n_groups; i++) served[p.groups[i].sequence->request.id]++;
        run_plan(s, &p);
    }
    for (int i = 0; i < 4; i++) assert_true(served[i] >= 4);
    scheduler_free(s);
}

/* ---- seeded lives ---- */

static uint64_t rng_next(uint64_t *s)
{
    uint64_t z = (*s += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

enum { LIVES = 400 };

struct life {
    uint32_t n_prompt, n_tiles, max_tokens, stop_after;
    uint32_t next_position; /* what the next group must start at */
    int64_t deadline_ms;
    bool submitted, cancelled, ended;
    int steps_after_cancel;
    uint64_t submitted_at_step;
};

struct world {
    struct life lives[LIVES];
    bool block_used[64];
    uint64_t rng;
};

static void check_blocks(struct world *w, const struct scheduler_limits *l, const struct schedule *p)
{
    memset(w->block_used, 0, sizeof w->block_used);
    for (size_t i = 0; i < p->n_groups; i++) {
        const struct sequence *q = p->groups[i].sequence;
        assert_true((p->groups[i].first_position + p->groups[i].n_rows) <= q->n_blocks * l->block_tokens);
        for (uint32_t k = 0; k < q->n_blocks; k++) {
            assert_true(q->blocks[k] < l->n_blocks);
            assert_false(w->block_used[q->blocks[k]]); /* nobody else's, and no group twice */
            w->block_used[q->blocks[k]] = true;
        }
    }
}

static void check_and_run(struct world *w, struct scheduler *s, const struct scheduler_limits *l, const struct schedule *p, int64_t now)
{
    for (size_t i = 0; i < p->n_ended; i++) {
        struct life *f = &w->lives[p->ended[i].id];
        assert_false(f->ended);
        assert_true(f->cancelled || (f->deadline_ms && now >= f->deadline_ms));
        assert_ptr_equal(p->ended[i].user, f);
        f->ended = true;
    }
    assert_true(p->n_rows <= l->step_rows);
    check_blocks(w, l, p);
    if (p->encode) scheduler_encoded(s, p->encode, false);
    for (size_t i = 0; i < p->n_groups; i++) {
        const struct schedule_rows *g = &p->groups[i];
        const struct sequence *q = g->sequence;
        struct life *f = q->request.user;
        assert_false(f->ended);
        if (f->cancelled) assert_true(++f->steps_after_cancel <= 2);
        assert_int_equal(q->n_encoded, f->n_tiles);
        assert_int_equal(g->first_position, f->next_position);
        f->next_position += g->n_rows;
        assert_int_equal(g->sample, f->next_position >= f->n_prompt);
        bool finished = g->sample && (q->n_made + 1 == q->max_tokens || q->n_made + 1 == f->stop_after);
        if (finished) f->ended = true;
        if (rng_next(&w->rng) % 16 == 0 && !f->ended) { /* a cancel that comes while the step runs */
            f->cancelled = true;
            assert_true(scheduler_cancel(s, q->request.id));
        }
        scheduler_advanced(s, g, finished);
    }
}

static void live(uint64_t seed)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->rng = seed;
    struct scheduler_limits l = {.max_running = 1 + (uint32_t)(rng_next(&w->rng) % 8),
                                 .max_waiting = 1 + (uint32_t)(rng_next(&w->rng) % 10),
                                 .n_blocks = 8 + (uint32_t)(rng_next(&w->rng) % 56),
                                 .block_tokens = 4,
                                 .max_context = 60};
    l.step_rows = 2 + (uint32_t)(rng_next(&w->rng) % 30);
    l.step_decode_rows = 1 + (uint32_t)(rng_next(&w->rng) % (l.step_rows - 1));
    struct scheduler *s = make(l);
    uint64_t next = 0, step = 0, open = 1;
    for (int64_t now = 1; open; now += (int64_t)(rng_next(&w->rng) % 20), step++) {
        assert_true(step < 40000); /* everything ends: no request is lost or starved */
        for (uint64_t k = rng_next(&w->rng) % 3; k > 0 && next < LIVES; k--) {
            struct life *f = &w->lives[next];
            *f = (struct life){.n_prompt = 1 + (uint32_t)(rng_next(&w->rng) % 50),
                               .n_tiles = rng_next(&w->rng) % 5 ? 0 : 2,
                               .max_tokens = 1 + (uint32_t)(rng_next(&w->rng) % 40),
                               .stop_after = 1 + (uint32_t)(rng_next(&w->rng) % 40)};
            if (rng_next(&w->rng) % 4 == 0) f->deadline_ms = now + 1 + (int64_t)(rng_next(&w->rng) % 300);
            struct err e;
            int rc = scheduler_submit(s,
                                      &(struct scheduler_request){.id = next,
                                                                  .n_prompt = f->n_prompt,
                                                                  .n_tiles = f->n_tiles,
                                                                  .max_tokens = f->max_tokens,
                                                                  .deadline_ms = f->deadline_ms,
                                                                  .user = f},
                                      &e);
            assert_true(rc == 0 || rc == -ERR_BUSY || rc == -ERR_LIMIT);
            f->submitted = true;
            f->ended = rc != 0; /* refused is told at once */
            next++;
        }
        if (next && rng_next(&w->rng) % 10 == 0) {
            uint64_t id = rng_next(&w->rng) % next;
            assert_int_equal(scheduler_cancel(s, id), !w->lives[id].ended);
            w->lives[id].cancelled = true;
        }
        struct schedule p;
        scheduler_plan(s, now, &p);
        check_and_run(w, s, &l, &p, now);
        struct scheduler_load load = scheduler_load(s);
        open = next < LIVES || load.running || load.waiting;
    }
    assert_int_equal(scheduler_load(s).free_blocks, l.n_blocks);
    for (int i = 0; i < LIVES; i++) assert_true(w->lives[i].submitted && w->lives[i].ended);
    scheduler_free(s);
    free(w);
}

static void test_seeded_lives_keep_every_rule(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 500; seed++) live(seed * 7919);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_sequence_runs_from_prompt_to_last_token),
        cmocka_unit_test(test_prompt_chunks_ride_beside_decodes),
        cmocka_unit_test(test_tiles_are_encoded_one_a_step_before_the_prompt),
        cmocka_unit_test(test_sequence_larger_than_the_cache_is_refused),
        cmocka_unit_test(test_prompt_without_room_in_the_context_is_refused),
        cmocka_unit_test(test_queue_is_bounded_and_ids_are_not_used_twice),
        cmocka_unit_test(test_second_large_sequence_waits_for_blocks),
        cmocka_unit_test(test_cancelled_sequence_is_in_no_later_plan),
        cmocka_unit_test(test_deadline_ends_waiting_and_running_sequences),
        cmocka_unit_test(test_decode_rows_go_round_when_they_are_short),
        cmocka_unit_test(test_seeded_lives_keep_every_rule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
