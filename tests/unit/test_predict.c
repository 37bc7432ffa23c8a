/* Prediction: costs fitted to made-up steps, the queue followed by hand, and what of the errors is remembered. */
#include "engine/predict.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* A machine on which a step costs 5 ms, a prompt row 0.5, a decode 2. */
static double true_ms(double prompt_rows, double decodes)
{
    return 5 + 0.5 * prompt_rows + 2 * decodes;
}

static void learn(struct predict_costs *c, double prompt_rows, double decodes, double factor)
{
    predict_costs_learn(c, prompt_rows, decodes, factor * true_ms(prompt_rows, decodes));
}

static void assert_within(double got, double expected, double share)
{
    if (fabs(got - expected) > share * expected) fail_msg("%g is not within %g %% of %g", got, 100 * share, expected);
}

static struct predict_costs known(void)
{
    struct predict_costs c = {0};
    for (int i = 0; i < 400; i++) learn(&c, i % 3 == 0 ? 16 + i % 5 * 60 : 0, i % 3 == 0 && i % 2 ? 0 : 1 + i % 17, 1);
    return c;
}

static void test_costs_are_told_apart(void **unused)
{
    (void)unused;
    struct predict_costs c = known();
    assert_true(c.known);
    assert_within(predict_step_ms(&c, 0, 1), true_ms(0, 1), 0.02);
    assert_within(predict_step_ms(&c, 0, 16), true_ms(0, 16), 0.02);
    assert_within(predict_step_ms(&c, 256, 0), true_ms(256, 0), 0.02);
    assert_within(predict_step_ms(&c, 32, 16), true_ms(32, 16), 0.02);
}

static void test_one_step_with_a_prompt_is_enough_to_begin(void **unused)
{
    (void)unused;
    struct predict_costs c = {0};
    learn(&c, 0, 1, 1);
    assert_false(c.known); /* of prompts nothing is known yet */
    learn(&c, 128, 0, 1);
    assert_true(c.known);
    assert_within(predict_step_ms(&c, 128, 0), true_ms(128, 0), 0.1);
}

/* Where no step decodes alone the decodes are told from the rows all the same. */
static void test_costs_are_told_apart_by_mixed_steps_alone(void **unused)
{
    (void)unused;
    struct predict_costs c = {0};
    for (int i = 0; i < 400; i++) learn(&c, 8 + i % 4 * 8, i % 16, 1);
    assert_within(predict_step_ms(&c, 32, 16), true_ms(32, 16), 0.02);
    assert_within(predict_step_ms(&c, 32, 0), true_ms(32, 0), 0.05);
}

static void test_a_slower_machine_is_learnt_in_some_steps(void **unused)
{
    (void)unused;
    struct predict_costs c = known();
    for (int i = 0; i < 40; i++) learn(&c, 32, 16, 3);
    assert_within(predict_step_ms(&c, 32, 16), 3 * true_ms(32, 16), 0.1);
}

/* Hundreds of decodes between two prompts: what a row costs is as it was. */
static void test_decodes_do_not_make_forgotten_what_a_row_costs(void **unused)
{
    (void)unused;
    struct predict_costs c = known();
    for (int i = 0; i < 5000; i++) learn(&c, 0, 4, 1);
    assert_within(predict_step_ms(&c, 256, 0), true_ms(256, 0), 0.05);
}

static void test_no_cost_is_below_zero(void **unused)
{
    (void)unused;
    struct predict_costs c = {0};
    for (int i = 0; i < 100; i++) predict_costs_learn(&c, i % 2 ? 64 : 256, i % 2 ? 8 : 0, 10 + i % 3);
    for (int i = 0; i < 3; i++) assert_true(c.cost[i] >= 0);
    assert_true(isfinite(predict_step_ms(&c, 100, 10)));
}

static void test_first_token_of_an_idle_engine_is_its_own_prompt(void **unused)
{
    (void)unused;
    struct predict_costs c = known();
    struct predict_queue q = {.step_rows = 256, .mixed_rows = 192, .beside_rows = 32, .spread_steps = 12};
    assert_true(predict_first_token_ms(&c, &q, 0) == 0);
    assert_within(predict_first_token_ms(&c, &q, 100), true_ms(100, 0), 0.02);
    assert_within(predict_first_token_ms(&c, &q, 512), 2 * true_ms(256, 0), 0.02);
}

static void test_first_token_beside_decodes_takes_a_step_for_each_piece(void **unused)
{
    (void)unused;
    struct predict_costs c = known();
    struct predict_queue q = {.decoding = 10, .step_rows = 256, .mixed_rows = 192, .beside_rows = 32, .spread_steps = 12};
    assert_within(predict_first_token_ms(&c, &q, 123), 4 * 5 + 123 * 0.5 + 4 * 20, 0.03); /* 32 rows a step: four steps */
    q.decoding = 40;
    assert_within(predict_first_token_ms(&c, &q, 123), 4 * 5 + 123 * 0.5 + 4 * 80, 0.03);
    q.spread_steps = 2;
    assert_within(predict_first_token_ms(&c, &q, 123), 2 * 5 + 123 * 0.5 + 2 * 80, 0.03); /* half of it a step: two */
}

/* Two prompts of 64 before it: the first goes alone, the second beside it, ours beside both. */
static void test_prompts_before_it_decode_meanwhile(void **unused)
{
    (void)unused;
    struct predict_costs c = known();
    struct predict_queue q = {.prompts = 2, .rows = 128, .step_rows = 256, .mixed_rows = 192, .beside_rows = 32, .spread_steps = 12};
    double first = 64.0 / 256 * true_ms(256, 0), second = 2 * true_ms(32, 1), own = 2 * true_ms(32, 2);
    assert_within(predict_first_token_ms(&c, &q, 64), first + second + own, 0.03);
}

/* With answers of 20 steps and prompts of two, ten decode in the end, however many prompts wait. */
static void test_decodes_end_while_it_waits(void **unused)
{
    (void)unused;
    struct predict_costs c = known();
    struct predict_queue q = {.prompts = 400, .rows = 400 * 64, .decoding = 10, .answer_steps = 20, .step_rows = 256, .mixed_rows = 192, .beside_rows = 32, .spread_steps = 1000};
    assert_within(predict_first_token_ms(&c, &q, 64), 401 * 2 * true_ms(32, 10), 0.05);
    q.answer_steps = 0; /* none is taken to end: each step costs more */
    assert_true(predict_first_token_ms(&c, &q, 64) > 1.1 * 401 * 2 * true_ms(32, 10));
}

/* Where rows cost nothing, a longer prompt would have those before it computed sooner, in fewer steps, by more than its own take. */
static void test_a_token_never_costs_less_than_nothing(void **unused)
{
    (void)unused;
    struct predict_costs c = {.cost = {5, 0, 0}, .known = true};
    struct predict_queue q = {.prompts = 30, .rows = 30 * 64, .decoding = 20, .step_rows = 256, .mixed_rows = 192, .beside_rows = 32, .spread_steps = 12};
    assert_true(predict_first_token_ms(&c, &q, 1024) < predict_first_token_ms(&c, &q, 0));
    assert_true(predict_token_ms(&c, &q) == 0);
    c.cost[1] = 0.01;
    assert_true(predict_token_ms(&c, &q) >= predict_prompt_row_ms(&c));
    q = (struct predict_queue){.step_rows = 256, .mixed_rows = 192, .beside_rows = 32, .spread_steps = 12};
    c = known();
    assert_within(predict_token_ms(&c, &q), 4 * true_ms(256, 0) / 1024, 0.02);
}

/* A step costs 5 and a decode 2: 45 / 2. */
static void test_side_by_side_make_nine_tenths_of_the_most(void **unused)
{
    (void)unused;
    struct predict_costs c = known();
    uint32_t n = predict_side_by_side(&c, 1000);
    assert_in_range(n, 22, 24);
    assert_within(n / true_ms(0, n), 0.9 * 1000 / true_ms(0, 1000), 0.02);
    assert_int_equal(predict_side_by_side(&c, 8), 8);
    c.cost[0] = 0; /* steps cost nothing: one after the other */
    assert_int_equal(predict_side_by_side(&c, 1000), 0);
    c = (struct predict_costs){.cost = {5, 0, 0}, .known = true}; /* rows cost nothing: any number */
    assert_int_equal(predict_side_by_side(&c, 1000), 1000);
}

static void test_nine_in_ten_errors_are_at_most_p90(void **unused)
{
    (void)unused;
    struct predict_errors p = {0};
    assert_true(predict_p90(&p) < 0);
    for (int i = 1; i <= 100; i++) predict_learn(&p, 100 + i, 100);
    assert_within(predict_p90(&p), 0.9, 0.001);
    for (int i = 0; i < PREDICT_REMEMBERED; i++) predict_learn(&p, 90, 100); /* the former are forgotten */
    assert_within(predict_p90(&p), 0.1, 0.001);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_costs_are_told_apart),
        cmocka_unit_test(test_one_step_with_a_prompt_is_enough_to_begin),
        cmocka_unit_test(test_costs_are_told_apart_by_mixed_steps_alone),
        cmocka_unit_test(test_a_slower_machine_is_learnt_in_some_steps),
        cmocka_unit_test(test_decodes_do_not_make_forgotten_what_a_row_costs),
        cmocka_unit_test(test_no_cost_is_below_zero),
        cmocka_unit_test(test_first_token_of_an_idle_engine_is_its_own_prompt),
        cmocka_unit_test(test_first_token_beside_decodes_takes_a_step_for_each_piece),
        cmocka_unit_test(test_prompts_before_it_decode_meanwhile),
        cmocka_unit_test(test_decodes_end_while_it_waits),
        cmocka_unit_test(test_a_token_never_costs_less_than_nothing),
        cmocka_unit_test(test_side_by_side_make_nine_tenths_of_the_most),
        cmocka_unit_test(test_nine_in_ten_errors_are_at_most_p90),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
