/* What routing remembers, each for itself on a virtual clock: breakers, keys, retry budgets, speeds, overflow's hours, sessions; and the
 * bounds of what it says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/routing_world.h"

#include "server/routing/host_keys.h"
#include "server/routing/retry.h"
#include "server/routing/sticky.h"

enum { START_MS = 1000000 };

/* --- breaker --- */

static struct breaker_pass begin(struct breaker *b, int64_t now_ms)
{
    struct breaker_pass p;
    assert_true(breaker_begin(b, now_ms, &p));
    return p;
}

static void bad(struct breaker *b, int64_t hint_ms, int64_t now_ms)
{
    breaker_failed(b, begin(b, now_ms), hint_ms, now_ms);
}

static void good(struct breaker *b, int64_t now_ms)
{
    breaker_ok(b, begin(b, now_ms), now_ms);
}

static void open_breaker(struct breaker *b, int64_t now_ms)
{
    for (int i = 0; i < BREAKER_IN_A_ROW; i++) bad(b, 0, now_ms);
}

static void test_breaker_opens_after_failures_in_a_row(void **state)
{
    (void)state;
    struct breaker b = {0};
    for (int i = 0; i < BREAKER_IN_A_ROW - 1; i++) bad(&b, 0, START_MS);
    good(&b, START_MS);
    for (int i = 0; i < BREAKER_IN_A_ROW - 1; i++) bad(&b, 0, START_MS);
    assert_int_equal(breaker_verdict(&b, START_MS), BREAKER_GO);
    bad(&b, 0, START_MS);
    assert_int_equal(breaker_verdict(&b, START_MS), BREAKER_NO);
    assert_int_equal(breaker_wait_ms(&b, START_MS), BREAKER_FIRST_MS);
    assert_string_equal(breaker_state_name(&b, START_MS), "open");
}

static void test_breaker_opens_at_half_of_the_last(void **state)
{
    (void)state;
    struct breaker b = {0};
    for (int i = 0; i < 1000; i++) good(&b, START_MS); /* a good past does not hide a bad present */
    int n = 0;
    for (; breaker_verdict(&b, START_MS) == BREAKER_GO && n < 100; n++) {
        bad(&b, 0, START_MS);
        if (b.state == BREAKER_CLOSED) good(&b, START_MS);
    }
    assert_int_equal(n, BREAKER_OF_LAST);
}

static void test_breaker_bears_one_failure_in_three(void **state)
{
    (void)state;
    struct breaker b = {0};
    for (int i = 0; i < 3000; i++) {
        if (i % 3)
            good(&b, START_MS + i);
        else
            bad(&b, 0, START_MS + i);
        assert_int_equal(b.state, BREAKER_CLOSED);
    }
}

static void test_breaker_forgets_what_is_old(void **state)
{
    (void)state;
    struct breaker b = {0};
    for (int i = 0; i < BREAKER_OF_LAST - 1; i++) { /* all but one, then a pause, then that one */
        bad(&b, 0, START_MS);
        good(&b, START_MS);
    }
    bad(&b, 0, START_MS + BREAKER_STALE_MS + 1);
    assert_int_equal(b.state, BREAKER_CLOSED);
}

static void test_breaker_sends_one_probe(void **state)
{
    (void)state;
    struct breaker b = {0};
    open_breaker(&b, START_MS);
    int64_t now_ms = START_MS + BREAKER_FIRST_MS;
    assert_int_equal(breaker_verdict(&b, now_ms - 1), BREAKER_NO);
    assert_int_equal(breaker_verdict(&b, now_ms), BREAKER_PROBE);
    struct breaker_pass probe = begin(&b, now_ms);
    assert_true(probe.probe);
    assert_int_equal(breaker_verdict(&b, now_ms + 100), BREAKER_NO);
    struct breaker_pass second;
    assert_false(breaker_begin(&b, now_ms + 100, &second));
    assert_string_equal(breaker_state_name(&b, now_ms), "half-open");
    breaker_ok(&b, probe, now_ms + 200);
    assert_int_equal(breaker_verdict(&b, now_ms + 200), BREAKER_GO);
}

static void test_breaker_waits_twice_as_long_after_each_failed_probe(void **state)
{
    (void)state;
    struct breaker b = {0};
    open_breaker(&b, START_MS);
    int64_t now_ms = START_MS, expect_ms = BREAKER_FIRST_MS;
    for (int i = 0; i < 12; i++) {
        assert_int_equal(breaker_wait_ms(&b, now_ms), expect_ms);
        now_ms += expect_ms;
        assert_int_equal(breaker_verdict(&b, now_ms), BREAKER_PROBE);
        bad(&b, 0, now_ms);
        expect_ms = expect_ms * 2 < BREAKER_MOST_MS ? expect_ms * 2 : BREAKER_MOST_MS;
    }
    assert_int_equal(expect_ms, BREAKER_MOST_MS);
    good(&b, now_ms + BREAKER_MOST_MS);
    now_ms += 2 * BREAKER_MOST_MS; /* closed for as long as it was open: from the beginning */
    open_breaker(&b, now_ms);
    assert_int_equal(breaker_wait_ms(&b, now_ms), BREAKER_FIRST_MS);
}

static void test_breaker_keeps_its_patience_while_a_host_flaps(void **state)
{
    (void)state;
    struct breaker b = {0};
    open_breaker(&b, START_MS);
    good(&b, START_MS + BREAKER_FIRST_MS);
    open_breaker(&b, START_MS + BREAKER_FIRST_MS + 1000);
    assert_int_equal(breaker_wait_ms(&b, START_MS + BREAKER_FIRST_MS + 1000), 2 * BREAKER_FIRST_MS);
}

static void test_breaker_honours_retry_after(void **state)
{
    (void)state;
    struct breaker b = {0};
    bad(&b, 40000, START_MS);
    assert_int_equal(breaker_verdict(&b, START_MS), BREAKER_GO); /* one failure opens nothing */
    for (int i = 1; i < BREAKER_IN_A_ROW; i++) bad(&b, 0, START_MS + 1000);
    assert_int_equal(breaker_wait_ms(&b, START_MS + 1000), 39000);
    struct breaker absurd = {0};
    for (int i = 0; i < BREAKER_IN_A_ROW; i++) bad(&absurd, INT64_MAX, START_MS);
    assert_int_equal(breaker_wait_ms(&absurd, START_MS), BREAKER_HINT_MS);
}

static void test_breaker_ignores_outcomes_from_before_it_opened(void **state)
{
    (void)state;
    struct breaker b = {0};
    struct breaker_pass old[64];
    for (int i = 0; i < 64; i++) old[i] = begin(&b, START_MS);
    for (int i = 0; i < 64; i++) breaker_failed(&b, old[i], 0, START_MS + 10 * i);
    assert_int_equal(b.n_openings, 1);
    assert_int_equal(b.n_failures, BREAKER_IN_A_ROW);
    struct breaker_pass probe = begin(&b, START_MS + BREAKER_FIRST_MS + 1000);
    breaker_ok(&b, old[0], START_MS + BREAKER_FIRST_MS + 1000); /* nor does an old success close it */
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
    breaker_ok(&b, probe, START_MS + BREAKER_FIRST_MS + 2000);
    assert_int_equal(b.state, BREAKER_CLOSED);
}

static void test_breaker_gives_up_a_probe_without_an_outcome(void **state)
{
    (void)state;
    struct breaker b = {0};
    open_breaker(&b, START_MS);
    int64_t now_ms = START_MS + BREAKER_FIRST_MS;
    breaker_abandon(&b, begin(&b, now_ms)); /* its client left */
    assert_int_equal(breaker_verdict(&b, now_ms), BREAKER_PROBE);
    struct breaker_pass lost = begin(&b, now_ms);
    assert_int_equal(breaker_verdict(&b, now_ms + BREAKER_PROBE_MS - 1), BREAKER_NO);
    assert_int_equal(breaker_verdict(&b, now_ms + BREAKER_PROBE_MS), BREAKER_PROBE);
    struct breaker_pass second = begin(&b, now_ms + BREAKER_PROBE_MS);
    breaker_failed(&b, lost, 0, now_ms + BREAKER_PROBE_MS + 1); /* tells nothing any more */
    breaker_ok(&b, second, now_ms + BREAKER_PROBE_MS + 2);
    assert_int_equal(b.state, BREAKER_CLOSED);
}

/* --- keys --- */

static int pick(const struct host_keys *k, int64_t now_ms)
{
    int64_t wait_ms;
    return host_keys_pick(k, 0, now_ms, &wait_ms);
}

static int use(struct host_keys *k, enum fault fault, int64_t hint_ms, int64_t now_ms)
{
    int i = pick(k, now_ms);
    host_keys_begin(k, i, now_ms);
    host_keys_end(k, i, fault, hint_ms, now_ms);
    return i;
}

static void test_keys_take_turns(void **state)
{
    (void)state;
    struct host_keys k = {.n = 3};
    for (int i = 0; i < 9; i++) assert_int_equal(use(&k, FAULT_NONE, 0, START_MS), i % 3);
    struct host_keys none = {.n = 0};
    assert_int_equal(use(&none, FAULT_KEY, 0, START_MS), 0);
    assert_int_equal(pick(&none, START_MS), 0);
}

static void test_a_session_keeps_its_key(void **state)
{
    (void)state;
    struct host_keys k = {.n = 3};
    int64_t wait_ms;
    int own = host_keys_pick(&k, 1000003, START_MS, &wait_ms);
    for (int i = 0; i < 5; i++) {
        use(&k, FAULT_NONE, 0, START_MS);
        assert_int_equal(host_keys_pick(&k, 1000003, START_MS, &wait_ms), own);
    }
    host_keys_end(&k, own, FAULT_LIMITED, 5000, START_MS);
    assert_int_equal(host_keys_pick(&k, 1000003, START_MS, &wait_ms), (own + 1) % 3);
    assert_int_equal(host_keys_pick(&k, 1000003, START_MS + 5000, &wait_ms), own);
}

static void test_a_limited_key_rests(void **state)
{
    (void)state;
    struct host_keys k = {.n = 2};
    int64_t wait_ms;
    assert_int_equal(use(&k, FAULT_LIMITED, 7000, START_MS), 0);
    for (int i = 0; i < 3; i++) assert_int_equal(use(&k, FAULT_NONE, 0, START_MS + 6999), 1);
    assert_string_equal(host_key_state_name(&k, 0, START_MS + 6999), "resting");
    assert_string_equal(host_key_state_name(&k, 0, START_MS + 7000), "usable");
    use(&k, FAULT_LIMITED, 0, START_MS); /* without a hint: a second */
    assert_int_equal(host_keys_pick(&k, 0, START_MS, &wait_ms), -1);
    assert_int_equal(wait_ms, HOST_KEY_REST_MS);
    assert_int_equal(pick(&k, START_MS + HOST_KEY_REST_MS), 1);
    int64_t now_ms = START_MS + HOST_KEY_REST_MS, ms = HOST_KEY_REST_MS;
    for (int i = 0; i < 10; i++) { /* then twice as long each time */
        assert_int_equal(use(&k, FAULT_LIMITED, 0, now_ms), 1);
        ms = ms * 2 < HOST_KEY_REST_MOST_MS ? ms * 2 : HOST_KEY_REST_MOST_MS;
        assert_int_equal(k.key[1].rest_until_ms, now_ms + ms);
        k.key[0].rest_until_ms = now_ms + HOST_KEY_HINT_MS;
        now_ms += ms;
    }
    host_keys_begin(&k, 1, now_ms);
    host_keys_end(&k, 1, FAULT_NONE, 0, now_ms);
    use(&k, FAULT_LIMITED, 0, now_ms);
    assert_int_equal(k.key[1].rest_until_ms, now_ms + HOST_KEY_REST_MS);
}

static void test_a_dead_key_is_tried_by_one_request_at_a_time(void **state)
{
    (void)state;
    struct host_keys k = {.n = 1};
    int64_t wait_ms, now_ms = START_MS;
    use(&k, FAULT_KEY, 0, now_ms);
    assert_string_equal(host_key_state_name(&k, 0, now_ms), "dead");
    assert_int_equal(host_keys_pick(&k, 0, now_ms, &wait_ms), -1);
    assert_int_equal(wait_ms, HOST_KEY_DEAD_MS);
    now_ms += HOST_KEY_DEAD_MS;
    assert_int_equal(pick(&k, now_ms), 0);
    host_keys_begin(&k, 0, now_ms);
    assert_int_equal(pick(&k, now_ms), -1); /* one tries */
    host_keys_end(&k, 0, FAULT_KEY, 0, now_ms);
    assert_int_equal(host_keys_pick(&k, 0, now_ms, &wait_ms), -1);
    assert_int_equal(wait_ms, 2 * HOST_KEY_DEAD_MS);
    now_ms += 2 * HOST_KEY_DEAD_MS;
    use(&k, FAULT_NONE, 0, now_ms);
    assert_string_equal(host_key_state_name(&k, 0, now_ms), "usable");
    use(&k, FAULT_KEY, 0, now_ms);
    host_keys_revive(&k);
    assert_int_equal(pick(&k, now_ms), 0);
}

static void test_a_keys_late_news_change_nothing(void **state)
{
    (void)state;
    struct host_keys k = {.n = 1};
    for (int i = 0; i < 20; i++) host_keys_begin(&k, 0, START_MS);
    for (int i = 0; i < 20; i++) host_keys_end(&k, 0, FAULT_KEY, 0, START_MS + i);
    assert_int_equal(k.key[0].dead_until_ms, START_MS + HOST_KEY_DEAD_MS);
    host_keys_end(&k, 0, FAULT_NONE, 0, START_MS + 30); /* an answer that was under way does not revive it */
    assert_int_equal(pick(&k, START_MS + 31), -1);
}

static void test_a_hosts_faults_are_not_its_keys(void **state)
{
    (void)state;
    static const enum fault faults[] = {FAULT_BROKEN, FAULT_OVERLOADED, FAULT_CUT, FAULT_CALLER, FAULT_UNSUPPORTED, FAULT_LEFT};
    struct host_keys k = {.n = 1};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) assert_int_equal(use(&k, faults[i], 60000, START_MS), 0);
    assert_int_equal(pick(&k, START_MS), 0);
}

static void test_a_key_with_nothing_left_rests_until_it_is_filled(void **state)
{
    (void)state;
    struct host_keys k = {.n = 1};
    host_keys_limits(&k, 0, 1, 30000, START_MS);
    assert_int_equal(pick(&k, START_MS), 0);
    host_keys_limits(&k, 0, 0, 30000, START_MS);
    assert_int_equal(pick(&k, START_MS + 29999), -1);
    assert_int_equal(pick(&k, START_MS + 30000), 0);
    host_keys_limits(&k, 0, 0, INT64_MAX, START_MS);
    assert_int_equal(k.key[0].rest_until_ms, START_MS + HOST_KEY_HINT_MS);
}

/* --- retries --- */

static void test_faults_by_status(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *code;
        enum fault fault;
    } rows[] = {{200, "", FAULT_NONE},
                {400, "", FAULT_CALLER},
                {400, "context_length_exceeded", FAULT_CALLER},
                {400, "unsupported_parameter", FAULT_UNSUPPORTED},
                {401, "", FAULT_KEY},
                {402, "", FAULT_KEY},
                {403, "", FAULT_KEY},
                {404, "model_not_found", FAULT_UNSUPPORTED},
                {404, "", FAULT_UNSUPPORTED},
                {408, "", FAULT_BROKEN},
                {412, "", FAULT_KEY},
                {413, "", FAULT_CALLER},
                {422, "", FAULT_CALLER},
                {429, "", FAULT_LIMITED},
                {429, "rate_limit_exceeded", FAULT_LIMITED},
                {429, "insufficient_quota", FAULT_KEY},
                {498, "", FAULT_OVERLOADED},
                {499, "", FAULT_LEFT},
                {500, "", FAULT_BROKEN},
                {502, "", FAULT_BROKEN},
                {503, "slow_down", FAULT_OVERLOADED},
                {504, "", FAULT_BROKEN},
                {529, "", FAULT_OVERLOADED},
                {0, "", FAULT_BROKEN},
                {301, "", FAULT_BROKEN},
                {999, "", FAULT_BROKEN}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (fault_of(rows[i].status, rows[i].code) != rows[i].fault)
            fail_msg("%d %s: %s", rows[i].status, rows[i].code, fault_rows[fault_of(rows[i].status, rows[i].code)].name);
}

static void test_whose_faults_open_a_breaker(void **state)
{
    (void)state;
    static const bool is_hosts[FAULTS] = {[FAULT_OVERLOADED] = true, [FAULT_BROKEN] = true, [FAULT_CUT] = true};
    for (int i = 0; i < FAULTS; i++) assert_int_equal(fault_rows[i].is_hosts, is_hosts[i]);
}

static void test_what_is_done_about_faults(void **state)
{
    (void)state;
    /* key: another key is usable; host: another candidate is there; all of them with 10 s left and a budget */
    static const struct {
        const char *what;
        struct retry_case r;
        enum retry_action action;
    } rows[] = {
        {"all is well", {.fault = FAULT_NONE, .attempts = 1, .has_other_host = true}, RETRY_NO},
        {"the caller's fault", {.fault = FAULT_CALLER, .attempts = 1, .has_other_key = true, .has_other_host = true}, RETRY_NO},
        {"the client left", {.fault = FAULT_LEFT, .attempts = 1, .has_other_host = true}, RETRY_NO},
        {"cut after content", {.fault = FAULT_CUT, .attempts = 1, .content = true, .has_other_host = true}, RETRY_NO},
        {"broken after content", {.fault = FAULT_BROKEN, .attempts = 1, .content = true, .has_other_host = true}, RETRY_NO},
        {"broken before", {.fault = FAULT_BROKEN, .attempts = 1, .has_other_key = true, .has_other_host = true}, RETRY_OTHER_HOST},
        {"broken, and nobody else", {.fault = FAULT_BROKEN, .attempts = 1, .has_other_key = true, .hint_ms = 100}, RETRY_NO},
        {"a key is dead", {.fault = FAULT_KEY, .attempts = 1, .has_other_key = true, .has_other_host = true}, RETRY_OTHER_KEY},
        {"the last key is dead", {.fault = FAULT_KEY, .attempts = 1, .has_other_host = true}, RETRY_OTHER_HOST},
        {"the last key is dead, whatever it hints", {.fault = FAULT_KEY, .attempts = 1, .hint_ms = 500}, RETRY_NO},
        {"unsupported, whatever it hints", {.fault = FAULT_UNSUPPORTED, .attempts = 1, .has_other_key = true, .hint_ms = 500}, RETRY_NO},
        {"limited", {.fault = FAULT_LIMITED, .attempts = 1, .has_other_key = true, .hint_ms = 2000}, RETRY_OTHER_KEY},
        {"limited, one key", {.fault = FAULT_LIMITED, .attempts = 1, .has_other_host = true, .hint_ms = 2000}, RETRY_OTHER_HOST},
        {"limited, nobody else, a hint", {.fault = FAULT_LIMITED, .attempts = 1, .hint_ms = 2000}, RETRY_WAIT},
        {"limited, nobody else, a hint beyond the deadline", {.fault = FAULT_LIMITED, .attempts = 1, .hint_ms = 10000}, RETRY_NO},
        {"a hint that leaves no time for the answer", {.fault = FAULT_LIMITED, .attempts = 1, .hint_ms = 9000, .first_ms = 1000}, RETRY_NO},
        {"limited, nobody else, no hint", {.fault = FAULT_LIMITED, .attempts = 1}, RETRY_NO},
        {"overloaded", {.fault = FAULT_OVERLOADED, .attempts = 1, .has_other_key = true, .has_other_host = true}, RETRY_OTHER_HOST},
        {"overloaded, nobody else, a hint", {.fault = FAULT_OVERLOADED, .attempts = 1, .has_other_key = true, .hint_ms = 500}, RETRY_WAIT},
        {"unsupported", {.fault = FAULT_UNSUPPORTED, .attempts = 1, .has_other_key = true, .has_other_host = true}, RETRY_OTHER_HOST},
        {"the second attempt", {.fault = FAULT_BROKEN, .attempts = 2, .has_other_key = true, .has_other_host = true}, RETRY_NO},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct retry_case r = rows[i].r;
        r.left_ms = 10000;
        r.budget = true;
        if (retry_next(&r) != rows[i].action) fail_msg("%s: %d", rows[i].what, (int)retry_next(&r));
        r.left_ms = 0;
        assert_int_equal(retry_next(&r), RETRY_NO);
        r.left_ms = 10000;
        r.budget = false;
        if (rows[i].action != RETRY_OTHER_HOST) assert_int_equal(retry_next(&r) == RETRY_OTHER_KEY || retry_next(&r) == RETRY_WAIT, false);
    }
}

static void test_retries_are_a_tenth_of_what_went_well(void **state)
{
    (void)state;
    struct retry_budget b = {0};
    int64_t now_ms = START_MS;
    assert_true(retry_allowed(&b, now_ms)); /* the floor's */
    retry_take(&b, now_ms);
    assert_false(retry_allowed(&b, now_ms + RETRY_FLOOR_MS - 1));
    assert_true(retry_allowed(&b, now_ms + RETRY_FLOOR_MS));
    retry_take(&b, now_ms + RETRY_FLOOR_MS);
    for (int i = 0; i < 9; i++) retry_earn(&b);
    assert_false(retry_allowed(&b, now_ms + RETRY_FLOOR_MS));
    retry_earn(&b);
    assert_true(retry_allowed(&b, now_ms + RETRY_FLOOR_MS));
    for (int i = 0; i < 100000; i++) retry_earn(&b);
    int n = 0;
    for (; retry_allowed(&b, now_ms + RETRY_FLOOR_MS); n++) retry_take(&b, now_ms + RETRY_FLOOR_MS);
    assert_int_equal(n, RETRY_MOST); /* a good past saves no more */
}

/* --- speed --- */

static void test_speed_follows_what_is_measured(void **state)
{
    (void)state;
    struct speed s = {0};
    assert_int_equal(speed_now(&s, START_MS).first_ms, 0);
    assert_int_equal(speed_now(&s, START_MS).age_ms, INT64_MAX);
    for (int i = 0; i < 50; i++) speed_note(&s, 200, 100, 500, START_MS + 1000 * i);
    struct speed_now n = speed_now(&s, START_MS + 50000);
    assert_int_equal(n.first_ms, 200);
    assert_int_equal(n.token_us, 5000);
    for (int i = 0; i < 50; i++) speed_note(&s, 800, 0, 0, START_MS + 50000 + 1000 * i); /* no tokens: only the first is learned */
    n = speed_now(&s, START_MS + 100000);
    assert_in_range(n.first_ms, 700, 800);
    assert_int_equal(n.token_us, 5000);
}

static void test_speed_forgets(void **state)
{
    (void)state;
    struct speed s = {0};
    speed_note(&s, 1000, 1, 10, START_MS);
    speed_note(&s, 100, 1, 1, START_MS + SPEED_HALF_MS); /* (1000/2 + 100) / 1.5 */
    assert_int_equal(speed_now(&s, START_MS + SPEED_HALF_MS).first_ms, 400);
    assert_int_equal(speed_now(&s, START_MS + SPEED_HALF_MS).token_us, 4000);
    assert_true(speed_now(&s, START_MS + SPEED_HALF_MS + SPEED_KNOWN_MS).first_ms > 0);
    assert_int_equal(speed_now(&s, START_MS + SPEED_HALF_MS + SPEED_KNOWN_MS + SPEED_HALF_MS).first_ms, 0);
}

static void test_speed_takes_a_suggestion_only_where_it_knows_nothing(void **state)
{
    (void)state;
    struct speed s = {0};
    speed_suggest(&s, 300, 4000, START_MS);
    assert_int_equal(speed_now(&s, START_MS).token_us, 4000);
    speed_note(&s, 100, 10, 10, START_MS + 1);
    speed_suggest(&s, 9999, 9999, START_MS + 2);
    assert_in_range(speed_now(&s, START_MS + 2).first_ms, 190, 210);
}

static void test_speed_probes_are_few_and_far_between(void **state)
{
    (void)state;
    struct speed s = {0};
    int n = 0;
    for (uint64_t i = 0; i < 100000; i++) n += speed_is_probe(i * 0x2545F4914F6CDD1Du);
    assert_in_range(n, 100000 / SPEED_PROBE_ONE_IN * 9 / 10, 100000 / SPEED_PROBE_ONE_IN * 11 / 10);
    assert_true(speed_now(&s, START_MS).may_probe);
    speed_probed(&s, START_MS);
    assert_false(speed_now(&s, START_MS + SPEED_PROBE_GAP_MS - 1).may_probe);
    assert_true(speed_now(&s, START_MS + SPEED_PROBE_GAP_MS).may_probe);
    speed_note(&s, 100, 0, 0, START_MS + SPEED_PROBE_GAP_MS);
    assert_false(speed_now(&s, START_MS + SPEED_PROBE_GAP_MS + SPEED_STALE_MS - 1).may_probe);
    assert_true(speed_now(&s, START_MS + SPEED_PROBE_GAP_MS + SPEED_STALE_MS).may_probe);
}

static uint64_t draw_that_probes(void)
{
    uint64_t draw = 0x5DEECE66D;
    while (!speed_is_probe(draw)) draw = draw * 6364136223846793005u + 1442695040888963407u;
    return draw;
}

static void test_a_probe_goes_to_whom_nobody_has_seen(void **state)
{
    (void)state;
    static const struct {
        const char *tweaks, *route;
        bool probe;
    } rows[] = {
        {"", "policy; groq/qwen=chosen, together/qwen=later", false}, /* both were seen a second ago */
        {"together-qwen.unseen", "policy; groq/qwen=later, together/qwen=chosen", true},
        {"together-qwen.unseen together-qwen.cost=300001", "policy; groq/qwen=later, together/qwen=chosen", true},
        {"together-qwen.unseen together-qwen.cost=300002", "policy; groq/qwen=chosen, together/qwen=later",
         false},                                                                                     /* more than twice as dear */
        {"together-qwen.unseen regions=2", "policy; groq/qwen=chosen, together/qwen=region", false}, /* not where it may not go */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct world x;
        struct route_decision d;
        char header[EXPLAIN_HEADER_BYTES];
        world_init(&x, "groq/qwen:fastest");
        struct name_route other = {.kind = NAME_HOSTED, .index = TOGETHER_QWEN, .tier = 1, .weight = 1, .policy = ROUTE_FASTEST};
        world_candidate(&x.c[x.n++], &other);
        world_tweak(&x, rows[i].tweaks);
        x.w.draw = draw_that_probes();
        assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), 0);
        assert_string_equal(explain_header(x.c, x.n, &d, header), rows[i].route);
        assert_int_equal(d.probe, rows[i].probe);
        x.w.draw = 1; /* one that does not probe */
        assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), 0);
        assert_int_equal(d.chosen, 0);
        world_free(&x);
    }
}

static void test_a_probe_goes_to_the_one_longest_unseen(void **state)
{
    (void)state;
    struct world x;
    struct route_decision d;
    world_init(&x, "groq/qwen:fastest groq/llama together/llama openai/gpt:openai");
    for (size_t i = 0; i < x.n; i++) {
        x.c[i].want = (struct name_route){.kind = NAME_HOSTED, .index = (uint16_t)i, .weight = 1, .policy = ROUTE_FASTEST};
        x.c[i].cost_nusd = 1000;
        x.c[i].speed = (struct speed_now){.first_ms = 100 + 10 * (int64_t)i, .token_us = 1000, .age_ms = 100000, .may_probe = true};
    }
    x.w.draw = draw_that_probes();
    for (size_t oldest = 1; oldest < x.n; oldest++) {
        x.c[oldest].speed.age_ms = 200000;
        assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), 0);
        assert_true(d.probe && d.chosen == (int)oldest);
        x.c[oldest].speed.age_ms = 100000;
    }
    world_free(&x);
}

/* --- weights --- */

static void test_weights_are_shares(void **state)
{
    (void)state;
    struct world x;
    struct route_decision d;
    int n_groq = 0;
    world_init(&x, "split");
    for (int i = 0; i < 40000; i++) {
        x.w.draw = (uint64_t)i * 0x2545F4914F6CDD1Du + 99;
        assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), 0);
        n_groq += d.chosen == 0;
    }
    assert_in_range(n_groq, 30000 - 5 * 87, 30000 + 5 * 87); /* 3 of 4; 5 standard deviations of sqrt(40000 * 3/4 * 1/4) */
    x.c[0].want.weight = 0;                                  /* never, while another is there */
    assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), 0);
    assert_int_equal(d.chosen, 1);
    world_free(&x);
}

static void test_a_session_beats_the_draw(void **state)
{
    (void)state;
    struct world x;
    struct route_decision d;
    world_init(&x, "split");
    x.c[1].can |= ROUTE_CAN_CACHE;
    x.c[1].cost_cached_nusd = 100;
    x.w.sticky = TOGETHER_LLAMA;
    for (int i = 0; i < 1000; i++) {
        x.w.draw = (uint64_t)i * 0x2545F4914F6CDD1Du + 99;
        assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), 0);
        assert_int_equal(d.chosen, 1);
    }
    x.c[1].cost_cached_nusd = x.c[1].cost_nusd; /* nothing saved, nothing kept */
    int n = 0;
    for (int i = 0; i < 1000; i++) {
        x.w.draw = (uint64_t)i * 0x2545F4914F6CDD1Du + 99;
        assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), 0);
        n += d.chosen == 1;
    }
    assert_in_range(n, 150, 350);
    world_free(&x);
}

/* --- overflow --- */

static struct overflow_ask ask_of(int64_t key, int64_t project, int64_t hold_nusd, int64_t hour)
{
    return (struct overflow_ask){.key = {key, world_dollar}, .project = {project, world_dollar}, .hour = hour, .hold_nusd = hold_nusd};
}

/* Whether it went over; settled at once if cost is not below 0. */
static bool go_over(struct overflow *o, const struct overflow_ask *a, int64_t cost_nusd, struct overflow_ticket *t)
{
    enum overflow_verdict v = overflow_check(o, a);
    overflow_count(o, a);
    if (v != OVERFLOW_YES) return false;
    overflow_hold(o, a, 2000, t);
    if (cost_nusd >= 0) overflow_settle(o, t, cost_nusd, true, 500);
    return true;
}

static void test_overflow_is_off_until_all_three_are_set(void **state)
{
    (void)state;
    static const struct overflow_limits none;
    for (int i = 0; i < 8; i++) {
        struct overflow *o;
        struct overflow_ask a = ask_of(7, 3, 10, WORLD_HOUR);
        if (!(i & 1)) a.key.limits = none;
        if (!(i & 2)) a.project.limits = none;
        assert_int_equal(overflow_new(&o, i & 4 ? &world_dollar : &none, NULL), 0);
        assert_int_equal(overflow_check(o, &a), i == 7 ? OVERFLOW_YES : OVERFLOW_OFF);
        overflow_free(o);
    }
}

static void test_overflow_hours_begin_anew(void **state)
{
    (void)state;
    struct overflow *o;
    struct overflow_ticket t = {0}, late = {0};
    assert_int_equal(overflow_new(&o, &world_dollar, NULL), 0);
    struct overflow_ask a = ask_of(7, 3, WORLD_DOLLAR, WORLD_HOUR), next = ask_of(7, 3, WORLD_DOLLAR, WORLD_HOUR + 1);
    assert_true(go_over(o, &a, -1, &t));
    assert_false(go_over(o, &a, -1, &late));
    assert_int_equal(overflow_hour_nusd(o, 7, WORLD_HOUR), WORLD_DOLLAR);
    overflow_settle(o, &t, WORLD_DOLLAR - 5, true, 100); /* what it did not cost is there again */
    assert_int_equal(overflow_hour_nusd(o, -1, WORLD_HOUR), WORLD_DOLLAR - 5);
    a.hold_nusd = 6;
    assert_false(go_over(o, &a, -1, &t));
    a.hold_nusd = 5;
    assert_true(go_over(o, &a, -1, &t));
    assert_true(go_over(o, &next, -1, &late));
    overflow_settle(o, &t, 5, true, 100); /* of the past hour: nothing here changes */
    assert_int_equal(overflow_hour_nusd(o, 7, WORLD_HOUR + 1), WORLD_DOLLAR);
    struct overflow_ask back = ask_of(7, 3, 1, WORLD_HOUR); /* a clock that goes back opens nothing */
    assert_false(go_over(o, &back, -1, &t));
    overflow_free(o);
}

static void test_overflow_goes_on_after_a_restart(void **state)
{
    (void)state;
    struct overflow *o;
    struct overflow_ticket t = {0};
    assert_int_equal(overflow_new(&o, &world_dollar, NULL), 0);
    overflow_restore(o, 7, WORLD_HOUR, WORLD_DOLLAR - 10);
    overflow_restore(o, -1, WORLD_HOUR, WORLD_DOLLAR - 4);
    overflow_restore(o, 3, WORLD_HOUR - 1, WORLD_DOLLAR); /* another hour's */
    struct overflow_ask a = ask_of(7, 3, 5, WORLD_HOUR), other = ask_of(8, 3, 5, WORLD_HOUR);
    assert_int_equal(overflow_check(o, &a), OVERFLOW_CAP); /* by all */
    a.hold_nusd = other.hold_nusd = 4;
    assert_true(go_over(o, &a, -1, &t));
    assert_int_equal(overflow_hour_nusd(o, 7, WORLD_HOUR), WORLD_DOLLAR - 6);
    assert_int_equal(overflow_hour_nusd(o, -1, WORLD_HOUR), WORLD_DOLLAR);
    assert_int_equal(overflow_check(o, &other), OVERFLOW_CAP);
    overflow_free(o);
}

static void test_overflow_counts_what_it_did(void **state)
{
    (void)state;
    struct overflow *o;
    struct overflow_ticket t = {0};
    assert_int_equal(overflow_new(&o, &world_dollar, NULL), 0);
    struct overflow_ask a = ask_of(7, 3, 1000, WORLD_HOUR);
    assert_true(go_over(o, &a, 700, &t));
    assert_true(go_over(o, &a, -1, &t));
    overflow_settle(o, &t, 40, false, 0); /* failed after some cost */
    overflow_settle(o, &t, 40, false, 0); /* again: nothing */
    assert_true(go_over(o, &a, -1, &t));
    overflow_settle(o, &t, 1001, true, 2500); /* dearer than its hold, and later than the local model */
    const struct overflow_counts *c = overflow_counts(o);
    assert_int_equal(c->n_requests, 3);
    assert_int_equal(c->n_overflow, 3);
    assert_int_equal(c->n_rescued, 2);
    assert_int_equal(c->cost_nusd, 1741);
    assert_int_equal(c->saved_ms, 1500);
    assert_int_equal(c->n_over_hold, 1);
    assert_int_equal(overflow_hour_nusd(o, 3, WORLD_HOUR), 1741);
    overflow_free(o);
}

static void test_overflow_keeps_its_share_at_every_moment(void **state)
{
    (void)state;
    struct overflow *o;
    struct overflow_ticket t = {0};
    int n_over = 0;
    assert_int_equal(overflow_new(&o, &world_dollar, NULL), 0);
    struct overflow_ask a = ask_of(7, 3, 1, WORLD_HOUR);
    a.key.limits.share_permille = 250;
    for (int n = 1; n <= 1000; n++) {
        n_over += go_over(o, &a, 1, &t);
        assert_true(4 * n_over <= n);
    }
    assert_int_equal(n_over, 250);
    overflow_free(o);
}

static void test_overflow_has_room_for_many_and_closes_beyond(void **state)
{
    (void)state;
    struct overflow_limits all = world_dollar;
    struct overflow *o;
    int n_over = 0;
    all.hour_nusd = INT64_MAX;
    assert_int_equal(overflow_new(&o, &all, NULL), 0);
    for (int64_t key = 1; key <= 20000; key++) {
        struct overflow_ask a = ask_of(2 * key, 2 * key + 1, 10, WORLD_HOUR);
        struct overflow_ticket t = {0};
        n_over += go_over(o, &a, 10, &t);
    }
    assert_in_range(n_over, 3000, 4096); /* two places each of 8,192 */
    struct overflow_ask next = ask_of(2 * 19999, 2 * 19999 + 1, 10, WORLD_HOUR + 1);
    struct overflow_ticket t = {0};
    assert_true(go_over(o, &next, 10, &t)); /* in the next hour there is room */
    overflow_free(o);
}

static void test_overflow_sums_do_not_run_over(void **state)
{
    (void)state;
    struct overflow_limits all = world_dollar;
    struct overflow *o;
    struct overflow_ticket t = {0};
    all.hour_nusd = INT64_MAX;
    assert_int_equal(overflow_new(&o, &all, NULL), 0);
    struct overflow_ask a = ask_of(7, 7, INT64_MAX - 10, WORLD_HOUR); /* key and project are one, without keys */
    a.key.limits.hour_nusd = a.project.limits.hour_nusd = INT64_MAX;
    assert_true(go_over(o, &a, -1, &t));
    a.hold_nusd = 11;
    assert_int_equal(overflow_check(o, &a), OVERFLOW_CAP);
    a.hold_nusd = -1;
    assert_int_equal(overflow_check(o, &a), OVERFLOW_CAP);
    a.hold_nusd = 10;
    assert_int_equal(overflow_check(o, &a), OVERFLOW_YES);
    overflow_free(o);
}

/* --- sessions --- */

static void test_sessions_are_found_until_they_are_old(void **state)
{
    (void)state;
    struct sticky *s;
    assert_int_equal(sticky_new(&s, 12345, NULL), 0);
    uint64_t key = sticky_key(s, 7, "talk-1", 6), other = sticky_key(s, 8, "talk-1", 6);
    assert_true(key != other && key != sticky_key(s, 7, "talk-2", 6) && key == sticky_key(s, 7, "talk-1", 6));
    assert_int_equal(sticky_find(s, key, START_MS), -1);
    sticky_note(s, key, 5, START_MS);
    assert_int_equal(sticky_find(s, key, START_MS + STICKY_MS - 1), 5);
    assert_int_equal(sticky_find(s, other, START_MS), -1);
    assert_int_equal(sticky_find(s, key, START_MS + STICKY_MS), -1);
    sticky_note(s, key, 6, START_MS + 10);
    assert_int_equal(sticky_find(s, key, START_MS + 10), 6);
    sticky_clear(s);
    assert_int_equal(sticky_find(s, key, START_MS + 10), -1);
    sticky_free(s);
}

static void test_sessions_have_one_place_each(void **state)
{
    (void)state;
    struct sticky *s;
    assert_int_equal(sticky_new(&s, 12345, NULL), 0);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 3000; i++) sticky_note(s, sticky_key(s, i, "x", 1), 10 * i + round, START_MS + round);
    int n_found = 0;
    for (int i = 0; i < 3000; i++) {
        int at = sticky_find(s, sticky_key(s, i, "x", 1), START_MS + 3);
        assert_true(at < 0 || at == 10 * i + 2);
        n_found += at >= 0;
    }
    assert_in_range(n_found, 2500, 2999); /* of 1,024 rows of four, some have more to hold */
    sticky_free(s);
}

static void test_sessions_are_bounded_and_the_oldest_goes(void **state)
{
    (void)state;
    struct sticky *s;
    int n_found = 0, n_young = 0;
    assert_int_equal(sticky_new(&s, 12345, NULL), 0);
    for (int i = 0; i < 20000; i++) sticky_note(s, sticky_key(s, i, "x", 1), i % 100, START_MS + i);
    for (int i = 0; i < 20000; i++) {
        int at = sticky_find(s, sticky_key(s, i, "x", 1), START_MS + 20000);
        if (at < 0) continue;
        assert_int_equal(at, i % 100);
        n_found++;
        n_young += i >= 20000 - 2 * STICKY_PLACES;
    }
    assert_in_range(n_found, STICKY_PLACES * 9 / 10, STICKY_PLACES);
    assert_true(n_young > n_found * 9 / 10);
    sticky_free(s);
}

/* --- what is said --- */

static void test_a_header_is_bounded_and_plain(void **state)
{
    (void)state;
    static const char nasty[] = "a\r\nset-cookie: x; y, z=\xc3\xa4\xff";
    struct world x;
    struct route_decision d;
    char header[EXPLAIN_HEADER_BYTES], name[EXPLAIN_NAME_BYTES], longest[300];
    world_init(&x, "smol");
    memset(longest, 'm', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    x.n = NAME_MAX_ROUTES;
    for (size_t i = 0; i < x.n; i++) {
        world_candidate(&x.c[i], &(struct name_route){.kind = NAME_HOSTED, .index = TOGETHER_LLAMA, .weight = 1});
        x.c[i].model = i ? longest : nasty;
    }
    assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), 0);
    explain_header(x.c, x.n, &d, header);
    assert_in_range(strlen(header), 600, EXPLAIN_HEADER_BYTES - 1);
    assert_non_null(strstr(header, ", +"));
    for (const char *p = header; *p; p++) assert_in_range(*p, ' ', '~');
    assert_string_equal(explain_served_by(&x.c[0], name), "together/a__set-cookie:_x__y__z____");
    struct buf b;
    json_t *v;
    struct err e;
    buf_init(&b, 1 << 20);
    assert_int_equal(explain_json(&b, x.c, x.n, &x.w, &d), 0);
    assert_int_equal(json_read(b.data, b.len, &json_limits_request, "route", &v, &e), 0);
    json_decref(v);
    buf_free(&b);
    world_free(&x);
}

static void test_a_dry_run_tells_the_figures(void **state)
{
    (void)state;
    static const char wanted[] =
        "{\"object\":\"route\",\"action\":\"run\",\"served_by\":\"groq/"
        "llama\",\"reason\":\"queue\",\"overflow\":true,\"prompt_tokens\":500,"
        "\"deadline_ms\":30000,\"candidates\":["
        "{\"kind\":\"local\",\"served_by\":\"local/smol\",\"provider\":\"local\",\"model\":\"smol\",\"region\":null,\"reason\":\"queue\","
        "\"words\":\"takes longer than its target\",\"stands_in\":false,\"policy\":\"local-first\",\"cost_nusd\":0,\"hold_nusd\":0,"
        "\"first_token_ms\":2500,\"token_us\":4000,\"target_ms\":1000,\"bound_ms\":1000,\"spills\":true},"
        "{\"kind\":\"hosted\",\"served_by\":\"groq/"
        "llama\",\"provider\":\"groq\",\"model\":\"llama\",\"region\":\"us\",\"reason\":\"chosen\","
        "\"words\":\"serves "
        "it\",\"stands_in\":true,\"policy\":\"local-first\",\"cost_nusd\":60000,\"hold_nusd\":100000,\"first_token_ms\":200,"
        "\"token_us\":2000},"
        "{\"kind\":\"hosted\",\"served_by\":\"together/"
        "llama\",\"provider\":\"together\",\"model\":\"llama\",\"region\":null,\"reason\":\"later\","
        "\"words\":\"was not needed\",\"stands_in\":true,\"policy\":\"local-first\",\"cost_nusd\":180000,\"hold_nusd\":300000,"
        "\"first_token_ms\":400,\"token_us\":5000}],\"error\":null}";
    struct world x;
    struct route_decision d;
    struct buf b;
    world_init(&x, "smol");
    world_tweak(&x, "smol.wait=2400");
    x.c[1].region_name = "us";
    assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), 0);
    buf_init(&b, 1 << 16);
    assert_int_equal(explain_json(&b, x.c, x.n, &x.w, &d), 0);
    assert_string_equal(b.data, wanted);
    buf_free(&b);
    world_free(&x);
}

static void test_a_dry_run_tells_a_refusal(void **state)
{
    (void)state;
    struct world x;
    struct route_decision d;
    struct buf b;
    world_init(&x, "vlm");
    world_tweak(&x, "vlm.full vlm.wait=4000");
    assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), -ERR_BUSY);
    buf_init(&b, 1 << 16);
    assert_int_equal(explain_json(&b, x.c, x.n, &x.w, &d), 0);
    const char *error = strstr(b.data, "\"error\"");
    assert_non_null(error);
    assert_string_equal(error,
                        "\"error\":{\"status\":429,\"code\":\"queue_full\",\"message\":\"No model takes this request: local/vlm has a full "
                        "queue.\",\"param\":null,\"retry_after_s\":5}}");
    assert_non_null(strstr(b.data, "\"action\":\"refuse\",\"served_by\":null,\"reason\":\"full\""));
    buf_free(&b);
    world_free(&x);
}

static void test_refusals_say_what_is_missing(void **state)
{
    (void)state;
    static const struct {
        const char *models, *tweaks, *param, *message;
    } rows[] = {
        {"smol", "needs=vision", "messages", "No model takes this request: local/smol cannot do what is asked: it cannot take pictures."},
        {"groq/llama", "needs=logprobs needs=n", "logprobs",
         "No model takes this request: groq/llama cannot do what is asked: it cannot give log probabilities, it cannot give several "
         "choices."},
        {"vlm", "prompt=9000", "messages",
         "No model takes this request: local/vlm has too short a context: 8192 tokens, the prompt has 9000."},
        {"groq/llama", "groq.no-price", "model", "No model takes this request: groq/llama has no known price."},
        {"groq/llama", "money=1 unheld=1", "", "No model takes this request: groq/llama is beyond what the budget has left."},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct world x;
        struct route_decision d;
        world_init(&x, rows[i].models);
        world_tweak(&x, rows[i].tweaks);
        assert_true(route_decide(x.c, x.n, &x.w, &x.s, &d) < 0);
        assert_string_equal(d.err.msg, rows[i].message);
        assert_string_equal(d.err.param, rows[i].param);
        world_free(&x);
    }
}

static void test_retry_after_is_the_shortest_wait_spread(void **state)
{
    (void)state;
    struct world x;
    struct route_decision d;
    int least = 1000, most = 0;
    world_init(&x, "smol");
    world_tweak(&x, "smol.full smol.wait=8000 groq.breaker=20000 together.no-key=30000");
    for (int i = 0; i < 2000; i++) {
        x.w.draw = (uint64_t)i * 0x2545F4914F6CDD1Du;
        assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), -ERR_BUSY);
        least = d.retry_after_s < least ? d.retry_after_s : least;
        most = d.retry_after_s > most ? d.retry_after_s : most;
    }
    assert_int_equal(least, 8);
    assert_int_equal(most, 12);
    world_tweak(&x, "smol.wait=500000 groq.breaker=500000 together.no-key=500000 left=9999999");
    assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), -ERR_BUSY);
    assert_int_equal(d.retry_after_s, ROUTE_RETRY_MAX_S);
    world_free(&x);
    world_init(&x, "smol"); /* a cap is for the hour */
    world_tweak(&x, "prompt=3000 key-cap=5");
    assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), -ERR_RATE);
    assert_int_equal(d.retry_after_s, ROUTE_RETRY_MAX_S);
    world_free(&x);
}

/* The table is whole: names that metrics and headers can bear, no two the same, a status for whatever can be told. */
static void test_reasons_are_sound(void **state)
{
    (void)state;
    for (int i = 0; i < ROUTE_REASONS; i++) {
        const struct route_reason_row *r = &route_reasons[i];
        assert_true(r->name && *r->name && r->words && *r->words);
        assert_int_equal(strspn(r->name, "abcdefghijklmnopqrstuvwxyz_"), strlen(r->name));
        assert_int_equal(r->rank > 0, r->status > 0);
        assert_int_equal(r->again, r->status == 429 || r->status == 503);
        if (r->rank) assert_true(*r->code && r->err != ERR_NONE);
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(r->name, route_reasons[j].name);
            if (r->rank) assert_int_not_equal(r->rank, route_reasons[j].rank);
        }
    }
}

/* docs/routing.md has each reason with its refusal and rank. */
static void test_the_manual_has_every_reason(void **state)
{
    (void)state;
    struct buf b;
    struct err e;
    buf_init(&b, 1 << 20);
    if (buf_read_file(&b, SPILLWAY_TEST_DIR "/../../docs/routing.md", &e)) fail_msg("%s", e.msg);
    for (int i = 0; i < ROUTE_REASONS; i++) {
        const struct route_reason_row *r = &route_reasons[i];
        char name[64], refusal[96];
        snprintf(name, sizeof name, "\n| `%s` |", r->name);
        snprintf(refusal, sizeof refusal, "| %d `%s` | %d |", r->status, r->code, r->rank);
        const char *at = strstr(strstr(b.data, "## Reasons"), name), *end = at ? strchr(at + 1, '\n') : NULL;
        if (!at) fail_msg("no row for %s", r->name);
        const char *found = r->rank ? strstr(at, refusal) : at;
        if (!found || found > end) fail_msg("%s: not refused with %s", r->name, refusal);
    }
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_breaker_opens_after_failures_in_a_row),
        cmocka_unit_test(test_breaker_opens_at_half_of_the_last),
        cmocka_unit_test(test_breaker_bears_one_failure_in_three),
        cmocka_unit_test(test_breaker_forgets_what_is_old),
        cmocka_unit_test(test_breaker_sends_one_probe),
        cmocka_unit_test(test_breaker_waits_twice_as_long_after_each_failed_probe),
        cmocka_unit_test(test_breaker_keeps_its_patience_while_a_host_flaps),
        cmocka_unit_test(test_breaker_honours_retry_after),
        cmocka_unit_test(test_breaker_ignores_outcomes_from_before_it_opened),
        cmocka_unit_test(test_breaker_gives_up_a_probe_without_an_outcome),
        cmocka_unit_test(test_keys_take_turns),
        cmocka_unit_test(test_a_session_keeps_its_key),
        cmocka_unit_test(test_a_limited_key_rests),
        cmocka_unit_test(test_a_dead_key_is_tried_by_one_request_at_a_time),
        cmocka_unit_test(test_a_keys_late_news_change_nothing),
        cmocka_unit_test(test_a_hosts_faults_are_not_its_keys),
        cmocka_unit_test(test_a_key_with_nothing_left_rests_until_it_is_filled),
        cmocka_unit_test(test_faults_by_status),
        cmocka_unit_test(test_whose_faults_open_a_breaker),
        cmocka_unit_test(test_what_is_done_about_faults),
        cmocka_unit_test(test_retries_are_a_tenth_of_what_went_well),
        cmocka_unit_test(test_speed_follows_what_is_measured),
        cmocka_unit_test(test_speed_forgets),
        cmocka_unit_test(test_speed_takes_a_suggestion_only_where_it_knows_nothing),
        cmocka_unit_test(test_speed_probes_are_few_and_far_between),
        cmocka_unit_test(test_a_probe_goes_to_whom_nobody_has_seen),
        cmocka_unit_test(test_a_probe_goes_to_the_one_longest_unseen),
        cmocka_unit_test(test_weights_are_shares),
        cmocka_unit_test(test_a_session_beats_the_draw),
        cmocka_unit_test(test_overflow_is_off_until_all_three_are_set),
        cmocka_unit_test(test_overflow_hours_begin_anew),
        cmocka_unit_test(test_overflow_goes_on_after_a_restart),
        cmocka_unit_test(test_overflow_counts_what_it_did),
        cmocka_unit_test(test_overflow_keeps_its_share_at_every_moment),
        cmocka_unit_test(test_overflow_has_room_for_many_and_closes_beyond),
        cmocka_unit_test(test_overflow_sums_do_not_run_over),
        cmocka_unit_test(test_sessions_are_found_until_they_are_old),
        cmocka_unit_test(test_sessions_have_one_place_each),
        cmocka_unit_test(test_sessions_are_bounded_and_the_oldest_goes),
        cmocka_unit_test(test_a_header_is_bounded_and_plain),
        cmocka_unit_test(test_a_dry_run_tells_the_figures),
        cmocka_unit_test(test_a_dry_run_tells_a_refusal),
        cmocka_unit_test(test_refusals_say_what_is_missing),
        cmocka_unit_test(test_retry_after_is_the_shortest_wait_spread),
        cmocka_unit_test(test_reasons_are_sound),
        cmocka_unit_test(test_the_manual_has_every_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
