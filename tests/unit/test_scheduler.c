/* Scheduler: one rule a test. Random lives of many sequences, with every rule checked at every step, are tests/sim/scheduler's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/scheduler.h"

static const struct scheduler_limits small = {.max_running = 4,
                                              .max_waiting = 8,
                                              .n_blocks = 16,
                                              .block_tokens = 4,
                                              .max_context = 48,
                                              .promised_tokens = 256,
                                              .step_rows = 8,
                                              .step_decode_rows = 6,
                                              .tile_units = 2,
                                              .unit_rows = 3,
                                              .step_units = 3};

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
    for (size_t i = 0; i < p->n_encodes; i++) scheduler_encoded(s, &p->encodes[i]);
    for (size_t i = 0; i < p->n_groups; i++) {
        const struct sequence *q = p->groups[i].sequence;
        scheduler_advanced(s, &p->groups[i], p->groups[i].sample, p->groups[i].sample && q->n_made + 1 == q->max_tokens);
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
    run_plan(s, &p);
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

static void test_t62_deadline_ends_a_sequence_in_the_middle_of_its_prompt(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct err e;
    struct scheduler_request r = {.id = 1, .n_prompt = 40, .max_tokens = 8, .deadline_ms = 100};
    assert_int_equal(scheduler_submit(s, &r, &e), 0);
    scheduler_plan(s, 99, &p);
    run_plan(s, &p);
    struct scheduler_backlog b = scheduler_backlog(s);
    assert_true(b.prompt_rows > 0 && b.prompt_rows < 40); /* some of it is computed */
    scheduler_plan(s, 100, &p);
    assert_int_equal(p.n_ended, 1);
    assert_int_equal(p.n_groups, 0); /* nothing more is computed for it */
    assert_true(p.ended[0].late);
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

/* ---- the cache ---- */

/* Keys of a text: blocks are equal up to position `own_from` for all texts. */
static void keys_of(uint64_t text, uint32_t n_prompt, uint32_t own_from, struct kv_key *keys, struct kv_key *whole)
{
    for (uint32_t b = 0; b < n_prompt / 4; b++) keys[b] = (struct kv_key){{b + 1, (b + 1) * 4 <= own_from ? 0 : text}};
    *whole = (struct kv_key){{1000 + n_prompt, n_prompt <= own_from ? 0 : text}};
}

static struct scheduler_request request(uint64_t id, uint32_t n_prompt, uint32_t max_tokens, uint64_t text, uint32_t own_from)
{
    static struct kv_key keys[16];
    struct scheduler_request r = {.id = id, .weight = 1, .n_prompt = n_prompt, .max_tokens = max_tokens, .keys = keys};
    keys_of(text, n_prompt, own_from, keys, &r.prompt_key);
    return r;
}

static void submit_request(struct scheduler *s, const struct scheduler_request *r)
{
    struct err e;
    assert_int_equal(scheduler_submit(s, r, &e), 0);
}

static uint32_t run_to_end(struct scheduler *s)
{
    struct schedule p;
    uint32_t steps = 0;
    while (scheduler_load(s).running || scheduler_load(s).waiting) {
        assert_true(++steps < 1000);
        scheduler_plan(s, 0, &p);
        run_plan(s, &p);
    }
    return steps;
}

static const struct schedule_rows *group_of(const struct schedule *p, uint64_t id)
{
    for (size_t i = 0; i < p->n_groups; i++)
        if (p->groups[i].sequence->request.id == id) return &p->groups[i];
    return NULL;
}

static void test_prefix_is_found_and_only_the_rest_computed(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct scheduler_request a = request(1, 12, 1, 7, 48);
    submit_request(s, &a);
    run_to_end(s);
    a = request(2, 14, 1, 8, 12);
    submit_request(s, &a);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.groups[0].first_position, 12);
    assert_int_equal(p.groups[0].n_rows, 2);
    assert_int_equal(p.groups[0].sequence->n_cached, 12);
    scheduler_free(s);
}

static void test_last_row_of_a_prompt_is_always_computed(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct scheduler_request a = request(1, 12, 1, 7, 48), again = request(2, 12, 1, 7, 48);
    submit_request(s, &a);
    run_to_end(s);
    submit_request(s, &again);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.groups[0].first_position, 8); /* the block of position 11 is there, but not its logits */
    assert_int_equal(p.groups[0].n_rows, 4);
    scheduler_free(s);
}

static void test_choices_wait_for_the_first_and_copy_its_last_block(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    for (uint64_t i = 1; i <= 3; i++) {
        struct scheduler_request a = request(i, 7, 4, 7, 48);
        submit_request(s, &a);
    }
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.n_groups, 1);
    assert_int_equal(p.n_rows, 7);
    run_plan(s, &p);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.n_copies, 2);
    assert_int_equal(p.n_rows, 3); /* one decode row, and twice the last row of the prompt */
    for (uint64_t i = 2; i <= 3; i++) {
        const struct schedule_rows *g = group_of(&p, i);
        assert_int_equal(g->first_position, 6);
        assert_int_equal(g->sequence->n_cached, 6);
        assert_int_equal(g->sequence->blocks[0], group_of(&p, 1)->sequence->blocks[0]);
        assert_int_equal(p.copies[i - 2].from, group_of(&p, 1)->sequence->blocks[1]);
        assert_int_equal(p.copies[i - 2].to, g->sequence->blocks[1]);
    }
    run_plan(s, &p);
    run_to_end(s);
    assert_int_equal(kv_cache_counts(scheduler_cache(s)).referenced, 0);
    scheduler_free(s);
}

static void test_failed_sequence_leaves_nothing_to_be_found(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct scheduler_request a = request(1, 8, 4, 7, 48);
    submit_request(s, &a);
    scheduler_plan(s, 0, &p);
    scheduler_failed(s, p.groups[0].sequence);
    assert_int_equal(kv_cache_counts(scheduler_cache(s)).free, 16);
    scheduler_free(s);
}

static void test_decode_blocks_are_published_only_if_they_are_as_prefilled_ones(void **state)
{
    (void)state;
    for (int only = 0; only < 2; only++) {
        struct scheduler_limits l = small;
        l.prompt_blocks_only = only;
        struct scheduler *s = make(l);
        struct schedule p;
        struct scheduler_request a = request(1, 6, 9, 7, 48);
        submit_request(s, &a);
        while (scheduler_load(s).running || scheduler_load(s).waiting) {
            scheduler_plan(s, 0, &p);
            struct sequence *q = p.groups[0].sequence;
            while ((q->n_keys + 1) * 4 <= p.groups[0].first_position + p.groups[0].n_rows)
                scheduler_add_key(s, q, (struct kv_key){{50, q->n_keys}});
            run_plan(s, &p);
        }
        assert_int_equal(kv_cache_counts(scheduler_cache(s)).cached, only ? 1 : 3); /* 14 positions were computed */
        scheduler_free(s);
    }
}

/* ---- tiles ---- */

static const struct scheduler_tile tiles[] = {{2, 6}, {7, 11}};

static struct scheduler_request with_tiles(uint64_t id)
{
    struct scheduler_request r = request(id, 12, 2, id, 0);
    r.tiles = tiles;
    r.n_tiles = 2;
    return r;
}

static void test_prompt_is_computed_up_to_the_tile_that_is_not_encoded(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct scheduler_request r = with_tiles(1);
    submit_request(s, &r);
    scheduler_plan(s, 0, &p); /* three units a step: the first tile, and half of the second */
    assert_int_equal(p.groups[0].n_rows, 2);
    assert_int_equal(p.n_encodes, 2);
    assert_int_equal(p.encodes[0].n_units, 2);
    assert_int_equal(p.encodes[1].tile, 1);
    assert_int_equal(p.encodes[1].n_units, 1);
    run_plan(s, &p);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.groups[0].first_position, 2);
    assert_int_equal(p.groups[0].n_rows, 5);
    assert_int_equal(p.encodes[0].first_unit, 1);
    run_plan(s, &p);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.groups[0].n_rows, 5);
    assert_int_equal(p.n_encodes, 0);
    scheduler_free(s);
}

static void test_units_count_as_rows_while_others_decode(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    assert_int_equal(submit(s, 1, 1, 30), 0);
    scheduler_plan(s, 0, &p);
    run_plan(s, &p);
    struct scheduler_request r = with_tiles(2);
    submit_request(s, &r);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.n_rows, 1 + 2);
    assert_int_equal(p.n_encodes, 1);
    assert_int_equal(p.encodes[0].n_units, 1); /* 8 rows less 3, at 3 rows a unit */
    scheduler_free(s);
}

static void test_tile_that_comes_from_the_cache_is_not_encoded(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct scheduler_request r = with_tiles(1);
    submit_request(s, &r);
    run_to_end(s);
    r = request(2, 12, 2, 1, 0);
    r.tiles = tiles;
    r.n_tiles = 2;
    submit_request(s, &r);
    scheduler_plan(s, 0, &p); /* 8 positions are found: all of the first tile's, one of the second's */
    assert_int_equal(p.n_groups, 0);
    assert_int_equal(p.encodes[0].tile, 1);
    scheduler_free(s);
}

static void test_tile_found_elsewhere_needs_no_units(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct scheduler_request r = with_tiles(1);
    submit_request(s, &r);
    scheduler_plan(s, 0, &p);
    scheduler_tile_ready(s, p.encodes[0].sequence, 0);
    scheduler_tile_ready(s, p.encodes[0].sequence, 1);
    scheduler_advanced(s, &p.groups[0], p.groups[0].sample, false);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.n_encodes, 0);
    assert_int_equal(p.groups[0].n_rows, 8);
    scheduler_free(s);
}

static void test_tiles_outside_the_prompt_are_refused(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    static const struct scheduler_tile bad[][2] = {{{2, 6}, {7, 13}}, {{2, 2}, {3, 4}}, {{5, 9}, {2, 6}}};
    for (size_t i = 0; i < 3; i++) {
        struct scheduler_request r = with_tiles(1);
        struct err e;
        r.tiles = bad[i];
        assert_int_equal(scheduler_submit(s, &r, &e), -ERR_INPUT);
    }
    scheduler_free(s);
}

/* ---- guesses ---- */

/* The one that decodes first in the plan, as the scheduler's own. */
static struct sequence *decoding(const struct schedule *p)
{
    assert_false(p->groups[0].prefill);
    return p->groups[0].sequence;
}

static struct sequence *make_decoding(struct scheduler *s, uint32_t n_prompt, uint32_t max_tokens)
{
    struct schedule p;
    assert_int_equal(submit(s, 1, n_prompt, max_tokens), 0);
    scheduler_plan(s, 0, &p);
    struct sequence *q = p.groups[0].sequence;
    run_plan(s, &p);
    return q;
}

static void test_guesses_are_rows_of_the_next_decode_only(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct sequence *q = make_decoding(s, 3, 30);
    scheduler_guess(s, q, 4);
    scheduler_plan(s, 0, &p);
    assert_ptr_equal(decoding(&p), q);
    assert_int_equal(p.groups[0].first_position, 3);
    assert_int_equal(p.groups[0].n_rows, 5);
    assert_int_equal(p.n_rows, 5);
    scheduler_advanced(s, &p.groups[0], 3, false); /* two guesses were right */
    assert_int_equal(q->n_computed, 6);
    assert_int_equal(q->n_made, 4);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.groups[0].first_position, 6); /* what the wrong ones wrote is written anew */
    assert_int_equal(p.groups[0].n_rows, 1);
    scheduler_free(s);
}

static void test_guesses_take_the_rows_that_decodes_leave(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct sequence *q = make_decoding(s, 3, 12);
    assert_int_equal(submit(s, 2, 1, 12), 0);
    scheduler_plan(s, 0, &p);
    run_plan(s, &p);
    scheduler_guess(s, q, 8);
    scheduler_plan(s, 0, &p); /* of 8 rows at most 6 are decodes' */
    assert_int_equal(p.n_groups, 2);
    assert_int_equal(p.n_rows, 6);
    scheduler_free(s);
}

static void test_guesses_wait_for_prompts(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct sequence *q = make_decoding(s, 3, 12);
    assert_int_equal(submit(s, 2, 6, 2), 0);
    scheduler_guess(s, q, 8);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.groups[0].n_rows, 1);
    assert_int_equal(p.groups[1].n_rows, 6);
    scheduler_free(s);
}

static void test_guesses_end_with_what_may_be_made(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct sequence *q = make_decoding(s, 3, 4);
    scheduler_guess(s, q, 5);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.groups[0].n_rows, 3); /* they give the second, third and fourth token */
    scheduler_advanced(s, &p.groups[0], 3, true);
    assert_int_equal(scheduler_load(s).free_blocks, 16);
    scheduler_free(s);
}

static void test_guesses_take_no_block_that_was_promised(void **state)
{
    (void)state;
    for (uint32_t n_blocks = 4; n_blocks <= 5; n_blocks++) {
        struct scheduler_limits l = small;
        l.n_blocks = n_blocks;
        l.promised_tokens = 4;
        struct scheduler *s = make(l);
        struct schedule p;
        struct sequence *q = make_decoding(s, 3, 12); /* a block, and one more promised */
        assert_int_equal(submit(s, 2, 4, 9), 0);       /* likewise */
        scheduler_plan(s, 0, &p);
        run_plan(s, &p);
        scheduler_guess(s, q, 6);
        scheduler_plan(s, 0, &p); /* at position 4 its second block begins: three guesses fit, and no more where all else is promised */
        assert_int_equal(p.n_preempted, 0);
        assert_int_equal(p.n_groups, 2);
        assert_int_equal(q->n_computed, 4);
        assert_int_equal(p.n_rows, 1 + 1 + (n_blocks == 4 ? 3 : 4));
        scheduler_free(s);
    }
}

/* ---- preemption, priority, fairness ---- */

static void test_youngest_gives_way_when_blocks_run_out_and_comes_back(void **state)
{
    (void)state;
    struct scheduler_limits l = small;
    l.promised_tokens = 1;
    struct scheduler *s = make(l);
    struct schedule p;
    uint32_t made[3] = {0}, preempted = 0;
    for (uint64_t i = 1; i <= 2; i++) assert_int_equal(submit(s, i, 8, 40), 0); /* 47 positions each, there are 64 */
    while (scheduler_load(s).running || scheduler_load(s).waiting) {
        scheduler_plan(s, 0, &p);
        preempted += p.n_preempted;
        assert_true(scheduler_find(s, 1) == NULL || scheduler_find(s, 1)->running);
        for (size_t i = 0; i < p.n_groups; i++) made[p.groups[i].sequence->request.id] += p.groups[i].sample;
        run_plan(s, &p);
    }
    assert_int_equal(preempted, 1); /* it comes back when its whole length fits, and not before */
    assert_int_equal(made[1], 40);
    assert_int_equal(made[2], 40);
    scheduler_free(s);
}

static void test_what_was_made_is_computed_again_in_rows_of_its_own(void **state)
{
    (void)state;
    struct scheduler_limits l = small;
    l.promised_tokens = 1;
    struct scheduler *s = make(l);
    struct schedule p;
    uint32_t again = 0;
    for (uint64_t i = 1; i <= 2; i++) assert_int_equal(submit(s, i, 8, 40), 0);
    while (scheduler_load(s).running || scheduler_load(s).waiting) {
        scheduler_plan(s, 0, &p);
        for (size_t i = 0; i < p.n_groups; i++) {
            const struct schedule_rows *g = &p.groups[i];
            if (!g->prefill || g->first_position < 8) {
                assert_true(g->first_position >= 8 || g->first_position + g->n_rows <= 8);
                continue;
            }
            again += g->n_rows;
            assert_int_equal(g->sample, g->first_position + g->n_rows == 8 + g->sequence->n_made);
        }
        run_plan(s, &p);
    }
    assert_true(again > 8);
    scheduler_free(s);
}

static void test_high_priority_goes_first_and_makes_room_for_itself(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    assert_int_equal(submit(s, 1, 30, 18), 0); /* with 2 it fills the cache */
    assert_int_equal(submit(s, 2, 10, 7), 0);
    scheduler_plan(s, 0, &p);
    run_plan(s, &p);
    assert_int_equal(submit(s, 3, 10, 2), 0);
    struct scheduler_request r = request(4, 10, 2, 0, 0);
    r.priority = 1;
    submit_request(s, &r);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.n_preempted, 1);
    assert_true(scheduler_find(s, 4)->running && scheduler_find(s, 1)->running && !scheduler_find(s, 2)->running);
    assert_int_equal(p.groups[0].sequence->request.id, 4);
    run_plan(s, &p);
    run_to_end(s);
    scheduler_free(s);
}

static struct scheduler_request of_account(uint64_t id, uint64_t account, uint32_t n_prompt, uint32_t max_tokens)
{
    return (struct scheduler_request){.id = id, .account = account, .weight = 1, .n_prompt = n_prompt, .max_tokens = max_tokens};
}

static void test_t61_one_request_comes_before_the_many_of_another_account(void **state)
{
    (void)state;
    struct scheduler_limits l = small;
    l.max_running = 2;
    struct scheduler *s = make(l);
    struct schedule p;
    for (uint64_t i = 0; i < 6; i++) {
        struct scheduler_request r = of_account(i, 1, 8, 3);
        submit_request(s, &r);
    }
    for (int i = 0; i < 3; i++) {
        scheduler_plan(s, 0, &p);
        run_plan(s, &p);
    }
    struct scheduler_request r = of_account(10, 2, 8, 3);
    submit_request(s, &r);
    while (!scheduler_find(s, 10)->running) {
        assert_true(scheduler_load(s).waiting >= 4); /* none of the others was taken instead */
        scheduler_plan(s, 0, &p);
        run_plan(s, &p);
    }
    scheduler_free(s);
}

static void test_light_accounts_chunk_goes_before_a_long_prompt(void **state)
{
    (void)state;
    struct scheduler *s = make(small);
    struct schedule p;
    struct scheduler_request heavy = of_account(1, 1, 40, 1), light = of_account(2, 2, 6, 1);
    submit_request(s, &heavy);
    scheduler_plan(s, 0, &p);
    run_plan(s, &p);
    submit_request(s, &light); /* lifted to the other's 8 rows; of equals the older goes first */
    scheduler_plan(s, 0, &p);
    run_plan(s, &p);
    scheduler_plan(s, 0, &p);
    assert_int_equal(p.groups[0].sequence->request.id, 2);
    assert_int_equal(p.groups[0].n_rows, 6);
    scheduler_free(s);
}

static void test_idleness_saves_up_nothing(void **state)
{
    (void)state;
    struct scheduler_limits l = small;
    l.max_running = 1;
    struct scheduler *s = make(l);
    struct schedule p;
    uint32_t steps[3] = {0};
    uint64_t id = 0;
    for (int i = 0; i < 40; i++) { /* account 1 alone, for long */
        struct scheduler_request r = of_account(id++, 1, 8, 2);
        submit_request(s, &r);
        run_to_end(s);
    }
    for (int i = 0; i < 8; i++) {
        struct scheduler_request r = of_account(id++, 1 + (uint64_t)(i % 2), 8, 2);
        submit_request(s, &r);
    }
    for (int i = 0; i < 8; i++) {
        scheduler_plan(s, 0, &p);
        steps[p.groups[0].sequence->request.account]++;
        run_plan(s, &p);
    }
    assert_int_equal(steps[1], steps[2]); /* turn by turn, as if both had just come */
    scheduler_free(s);
}

static void test_waiting_prompts_are_bounded_in_tokens_and_bytes(void **state)
{
    (void)state;
    struct scheduler_limits l = small;
    l.max_waiting_tokens = 30;
    l.max_waiting_bytes = 1000;
    struct scheduler *s = make(l);
    struct err e;
    struct scheduler_request r = of_account(1, 1, 40, 1); /* more than the limit, but alone */
    submit_request(s, &r);
    r = of_account(2, 1, 1, 1);
    assert_int_equal(scheduler_submit(s, &r, &e), -ERR_BUSY);
    scheduler_cancel(s, 1);
    run_to_end(s);
    r = of_account(3, 1, 15, 1);
    r.n_bytes = 600;
    submit_request(s, &r);
    r.id = 4;
    assert_int_equal(scheduler_submit(s, &r, &e), -ERR_BUSY);
    r.n_bytes = 400;
    submit_request(s, &r);
    r.id = 5;
    r.n_bytes = 0;
    assert_int_equal(scheduler_submit(s, &r, &e), -ERR_BUSY); /* 30 tokens wait */
    run_to_end(s);
    submit_request(s, &r);
    scheduler_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_sequence_runs_from_prompt_to_last_token),
        cmocka_unit_test(test_prompt_chunks_ride_beside_decodes),
        cmocka_unit_test(test_prefix_is_found_and_only_the_rest_computed),
        cmocka_unit_test(test_last_row_of_a_prompt_is_always_computed),
        cmocka_unit_test(test_choices_wait_for_the_first_and_copy_its_last_block),
        cmocka_unit_test(test_failed_sequence_leaves_nothing_to_be_found),
        cmocka_unit_test(test_decode_blocks_are_published_only_if_they_are_as_prefilled_ones),
        cmocka_unit_test(test_prompt_is_computed_up_to_the_tile_that_is_not_encoded),
        cmocka_unit_test(test_units_count_as_rows_while_others_decode),
        cmocka_unit_test(test_tile_that_comes_from_the_cache_is_not_encoded),
        cmocka_unit_test(test_tile_found_elsewhere_needs_no_units),
        cmocka_unit_test(test_tiles_outside_the_prompt_are_refused),
        cmocka_unit_test(test_youngest_gives_way_when_blocks_run_out_and_comes_back),
        cmocka_unit_test(test_what_was_made_is_computed_again_in_rows_of_its_own),
        cmocka_unit_test(test_high_priority_goes_first_and_makes_room_for_itself),
        cmocka_unit_test(test_t61_one_request_comes_before_the_many_of_another_account),
        cmocka_unit_test(test_light_accounts_chunk_goes_before_a_long_prompt),
        cmocka_unit_test(test_idleness_saves_up_nothing),
        cmocka_unit_test(test_guesses_are_rows_of_the_next_decode_only),
        cmocka_unit_test(test_guesses_take_the_rows_that_decodes_leave),
        cmocka_unit_test(test_guesses_wait_for_prompts),
        cmocka_unit_test(test_guesses_end_with_what_may_be_made),
        cmocka_unit_test(test_guesses_take_no_block_that_was_promised),
        cmocka_unit_test(test_waiting_prompts_are_bounded_in_tokens_and_bytes),
        cmocka_unit_test(test_sequence_larger_than_the_cache_is_refused),
        cmocka_unit_test(test_prompt_without_room_in_the_context_is_refused),
        cmocka_unit_test(test_queue_is_bounded_and_ids_are_not_used_twice),
        cmocka_unit_test(test_second_large_sequence_waits_for_blocks),
        cmocka_unit_test(test_cancelled_sequence_is_in_no_later_plan),
        cmocka_unit_test(test_deadline_ends_waiting_and_running_sequences),
        cmocka_unit_test(test_t62_deadline_ends_a_sequence_in_the_middle_of_its_prompt),
        cmocka_unit_test(test_decode_rows_go_round_when_they_are_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
