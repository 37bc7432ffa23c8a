/* What must hold of any decision whatever the candidates are. The constraints are written anew here, from the manual, so that a filter that
 * is lost or turned round is seen. SPILLWAY_FAULT=long: twenty times as many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "server/routing/decide.h"
#include "server/routing/explain.h"

enum { HOUR = 480000 };

static uint64_t seed;

static uint64_t next(uint64_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % below;
}

static bool one_in(uint64_t n)
{
    return next(n) == 0;
}

static int rounds(int n)
{
    const char *fault = getenv("SPILLWAY_FAULT");
    return fault && strcmp(fault, "long") == 0 ? 20 * n : n;
}

struct world {
    struct route_candidate c[NAME_MAX_ROUTES];
    size_t n;
    struct route_wish w;
    struct route_state s;
    struct overflow_limits all;
};

static void random_hosted(struct route_candidate *c)
{
    c->breaker = one_in(6) ? BREAKER_NO : one_in(6) ? BREAKER_PROBE : BREAKER_GO;
    c->breaker_wait_ms = c->breaker == BREAKER_NO ? (int64_t)next(100000) : 0;
    c->has_key = !one_in(8);
    c->key_wait_ms = c->has_key ? 0 : (int64_t)next(100000);
    c->retry_allowed = !one_in(4);
    c->zero_retention = one_in(2);
    c->speed = (struct speed_now){
        .first_ms = one_in(4) ? 0 : 1 + (int64_t)next(5000), .token_us = (int64_t)next(20000), .age_ms = (int64_t)next(200000)};
    c->speed.may_probe = c->speed.age_ms > SPEED_STALE_MS;
}

static void random_local(struct route_candidate *c)
{
    c->local = one_in(6) ? ROUTE_LOCAL_DOWN : ROUTE_LOCAL_READY;
    c->free_now = one_in(4);
    c->full = one_in(8);
    c->wait_ms = c->free_now ? 0 : (int64_t)next(6000);
    c->prompt_ms = (int64_t)next(500);
    c->load_ms = c->wait_ms + (int64_t)next(500);
    c->target_ms = one_in(8) ? 0 : 500 + (int64_t)next(2000);
    c->speed.token_us = (int64_t)next(20000);
}

static void random_candidate(struct route_candidate *c, size_t i, enum route_policy policy, uint8_t entry)
{
    bool hosted = !one_in(3);
    *c = (struct route_candidate){.want = {.kind = hosted ? NAME_HOSTED : NAME_LOCAL,
                                           .index = (uint16_t)i,
                                           .entry = entry,
                                           .tier = (uint8_t)next(3),
                                           .weight = (uint16_t)next(4),
                                           .policy = policy,
                                           .stands_in = hosted && one_in(2)},
                                  .host = hosted ? "host" : "local",
                                  .model = "m",
                                  .i_host = (unsigned)next(4),
                                  .region = (unsigned)next(4),
                                  .can = (uint32_t)next(256) | (uint32_t)next(256),
                                  .context = 1000 + (int64_t)next(8000),
                                  .max_output = one_in(2) ? 0 : 1 + (int64_t)next(3000),
                                  .model_denied = one_in(10),
                                  .tried = one_in(12),
                                  .has_price = !one_in(12),
                                  .in_nusd = (int64_t)next(1000),
                                  .out_nusd = (int64_t)next(1000),
                                  .hold_nusd = (int64_t)next(1000)};
    c->cost_nusd = c->hold_nusd ? (int64_t)next((uint64_t)c->hold_nusd) : 0;
    c->cost_cached_nusd = c->cost_nusd / 2;
    c->want.reserve = !hosted && i > 0 && one_in(4);
    if (hosted)
        random_hosted(c);
    else
        random_local(c);
}

static struct overflow_limits random_limits(void)
{
    return (struct overflow_limits){.hour_nusd = one_in(4) ? 0 : (int64_t)next(3000),
                                    .share_permille = one_in(4) ? (int)next(1001) : OVERFLOW_ALL_PERMILLE,
                                    .price = {.out_nusd = one_in(4) ? 1 + (int64_t)next(1000) : 0},
                                    .hosts = one_in(4) ? next(16) : ~(uint64_t)0,
                                    .regions = one_in(4) ? next(16) : ~(uint64_t)0};
}

static int64_t random_money(void)
{
    return one_in(3) ? (int64_t)next(1500) : INT64_MAX;
}

static void random_world(struct world *x, uint64_t from)
{
    struct overflow *o = x->s.overflow;
    seed = from * 0x9E3779B97F4A7C15u + 1;
    *x = (struct world){.n = 1 + next(8), .s = {.overflow = o}, .all = random_limits()};
    enum route_policy policy = (enum route_policy)next(ROUTE_POLICIES);
    uint8_t entry = 0;
    for (size_t i = 0; i < x->n; i++) {
        if (i && one_in(4)) {
            entry++;
            policy = (enum route_policy)next(ROUTE_POLICIES);
        }
        random_candidate(&x->c[i], i, policy, entry);
        x->s.spill[i].on = one_in(2);
    }
    x->c[0].want.reserve = false;
    x->w = (struct route_wish){
        .needs = (uint32_t)(next(128) & next(128)),
        .prompt_tokens = (int64_t)next(6000),
        .min_tokens = one_in(3) ? (int64_t)next(2000) : 0,
        .expected_tokens = (int64_t)next(500),
        .left_ms = one_in(3) ? (int64_t)next(4000) : 60000,
        .draw = ((uint64_t)next(1u << 31) << 31) ^ next(1u << 31),
        .attempts = one_in(6) ? (unsigned)next(3) : 0,
        .counted = one_in(6),
        .local_only = one_in(6),
        .zero_retention = one_in(6),
        .hosts = one_in(4) ? next(16) : ~(uint64_t)0,
        .regions = one_in(4) ? next(16) : ~(uint64_t)0,
        .price = {.in_nusd = one_in(6) ? 1 + (int64_t)next(1000) : 0, .request_nusd = one_in(6) ? 1 + (int64_t)next(1000) : 0},
        .left_nusd = random_money(),
        .hosted_left_nusd = random_money(),
        .key = {.id = 7, .limits = random_limits()},
        .project = {.id = 3, .limits = random_limits()},
        .hour = HOUR + (int64_t)from, /* a new one, in which nothing has been spent */
        .sticky = (int)next(9) - 1};
    x->w.unheld_nusd = one_in(2) ? INT64_MAX : x->w.left_nusd;
    x->w.hosted_unheld_nusd = one_in(2) ? INT64_MAX : x->w.hosted_left_nusd;
    overflow_set(x->s.overflow, &x->all);
}

/* --- the manual's words --- */

static bool stands_within(const struct route_candidate *c, const struct overflow_limits *l)
{
    return l->hour_nusd > 0 && c->hold_nusd <= l->hour_nusd && (l->hosts >> c->i_host & 1) && (l->regions >> c->region & 1) &&
           (l->price.out_nusd == 0 || c->out_nusd <= l->price.out_nusd) && l->share_permille > 0;
}

/* In an hour in which nothing has been counted: the share must be whole. */
static bool may_stand_in(const struct world *x, const struct route_candidate *c)
{
    const struct overflow_limits *l[] = {&x->all, &x->w.project.limits, &x->w.key.limits};
    for (size_t i = 0; i < 3; i++)
        if (!stands_within(c, l[i]) || l[i]->share_permille < OVERFLOW_ALL_PERMILLE) return false;
    return true;
}

static bool is_permitted(const struct world *x, const struct route_candidate *c)
{
    const struct route_wish *w = &x->w;
    bool hosted = c->want.kind == NAME_HOSTED;
    if (w->left_ms <= 0 || w->attempts >= 2 || c->tried || c->model_denied || !c->has_price) return false;
    if ((w->needs | c->can) != c->can) return false;
    if (w->prompt_tokens + w->min_tokens > c->context || w->prompt_tokens >= c->context) return false;
    if (c->max_output && w->min_tokens > c->max_output) return false;
    if ((w->price.in_nusd && c->in_nusd > w->price.in_nusd) || (w->price.request_nusd && c->hold_nusd > w->price.request_nusd))
        return false;
    if (c->hold_nusd > 0 && c->hold_nusd > w->left_nusd) return false;
    if (!hosted) return c->local == ROUTE_LOCAL_READY && c->wait_ms + c->prompt_ms <= w->left_ms && (c->free_now || !c->full);
    if (w->local_only || !(w->hosts & (uint64_t)1 << c->i_host) || !(w->regions & (uint64_t)1 << c->region)) return false;
    if (w->zero_retention && !c->zero_retention) return false;
    if (c->hold_nusd > 0 && c->hold_nusd > w->hosted_left_nusd) return false;
    if (!c->has_key || c->breaker == BREAKER_NO || (w->attempts && !c->retry_allowed) || c->speed.first_ms > w->left_ms) return false;
    return !c->want.stands_in || may_stand_in(x, c);
}

static bool has_ended_budget_before(const struct world *x, const struct route_decision *d, size_t i)
{
    for (size_t j = 0; j < i; j++)
        if (d->passed[j] == ROUTE_BUDGET || d->passed[j] == ROUTE_HELD) return true;
    (void)x;
    return false;
}

/* --- the properties --- */

static struct overflow *overflow;

static int setup(void **state)
{
    struct overflow_limits none = {.hour_nusd = 0};
    (void)state;
    return overflow_new(&overflow, &none, NULL);
}

static int teardown(void **state)
{
    (void)state;
    overflow_free(overflow);
    return 0;
}

static void test_who_is_chosen_keeps_every_constraint(void **state)
{
    (void)state;
    int n_local = 0, n_hosted = 0, n_refused = 0, n_over = 0, n_late = 0, n_probes = 0;
    for (int i = 0; i < rounds(100000); i++) {
        struct world x = {.s = {.overflow = overflow}};
        struct route_decision d;
        random_world(&x, (uint64_t)i);
        if (route_decide(x.c, x.n, &x.w, &x.s, &d)) {
            n_refused++;
            for (size_t k = 0; k < x.n; k++) /* nobody was left out who could have served */
                if (is_permitted(&x, &x.c[k]) && !(x.c[k].want.reserve && !has_ended_budget_before(&x, &d, k)))
                    fail_msg("seed %d: candidate %zu was passed over for %s", i, k, route_reasons[d.passed[k]].name);
            continue;
        }
        const struct route_candidate *c = &x.c[d.chosen];
        if (!is_permitted(&x, c)) fail_msg("seed %d: candidate %d must not serve", i, d.chosen);
        if (c->want.reserve) assert_true(has_ended_budget_before(&x, &d, (size_t)d.chosen));
        assert_int_equal(d.overflow, c->want.stands_in);
        assert_int_equal(d.action == ROUTE_ENTER, c->want.kind == NAME_LOCAL && !c->free_now);
        n_local += c->want.kind == NAME_LOCAL;
        n_hosted += c->want.kind == NAME_HOSTED;
        n_over += d.overflow;
        n_late += d.reason == ROUTE_WAITS;
        n_probes += d.probe;
    }
    int least = rounds(100000) / 1000; /* every way out was taken, and not by accident */
    assert_true(n_local > least && n_hosted > least && n_refused > least && n_over > least && n_late > least && n_probes > 0);
}

static void test_a_decision_is_the_same_again(void **state)
{
    (void)state;
    for (int i = 0; i < rounds(20000); i++) {
        struct world x = {.s = {.overflow = overflow}};
        struct route_decision a, b;
        random_world(&x, (uint64_t)i);
        memset(&a, 0, sizeof a);
        memset(&b, 0xff, sizeof b);
        assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &a), route_decide(x.c, x.n, &x.w, &x.s, &b));
        assert_true(a.chosen == b.chosen && a.reason == b.reason && a.action == b.action && a.retry_after_s == b.retry_after_s);
        assert_memory_equal(a.passed, b.passed, x.n * sizeof *a.passed);
        assert_string_equal(a.err.msg, b.err.msg);
    }
}

/* One entry of hosted models that are asked for by name. */
static void make_plain(struct world *x, enum route_policy policy)
{
    for (size_t i = 0; i < x->n; i++) {
        if (x->c[i].want.kind == NAME_LOCAL) random_hosted(&x->c[i]);
        x->c[i].want = (struct name_route){.kind = NAME_HOSTED, .index = (uint16_t)i, .policy = policy};
    }
}

static void test_cheapest_and_fastest_are_that(void **state)
{
    (void)state;
    int n_cached = 0, n_probes = 0;
    for (int i = 0; i < rounds(20000); i++) {
        struct world x = {.s = {.overflow = overflow}};
        struct route_decision d;
        random_world(&x, (uint64_t)i);
        make_plain(&x, i % 2 ? ROUTE_CHEAPEST : ROUTE_FASTEST);
        x.w.expected_tokens = 0;
        if (route_decide(x.c, x.n, &x.w, &x.s, &d)) continue;
        const struct route_candidate *best = &x.c[d.chosen];
        n_probes += d.probe;
        for (size_t k = 0; k < x.n && !d.probe; k++) {
            const struct route_candidate *c = &x.c[k];
            if (!is_permitted(&x, c)) continue;
            bool cached = (int)k == x.w.sticky && (c->can & ROUTE_CAN_CACHE),
                 best_cached = d.chosen == x.w.sticky && (best->can & ROUTE_CAN_CACHE);
            n_cached += best_cached;
            if (i % 2)
                assert_true((best_cached ? best->cost_cached_nusd : best->cost_nusd) <= (cached ? c->cost_cached_nusd : c->cost_nusd));
            else
                assert_true(c->speed.first_ms == 0 || (best->speed.first_ms > 0 && best->speed.first_ms <= c->speed.first_ms));
        }
    }
    assert_true(n_cached > 0 && n_probes > 0);
}

/* One more restriction, at random. */
static void restrict_more(struct world *x)
{
    struct route_wish *w = &x->w;
    switch (next(11)) {
    case 0:
        w->local_only = true;
        break;
    case 1:
        w->zero_retention = true;
        break;
    case 2:
        w->hosts &= next(16);
        break;
    case 3:
        w->regions &= next(16);
        break;
    case 4:
        w->needs |= 1u << next(7);
        break;
    case 5:
        w->left_nusd = w->left_nusd < 200 ? w->left_nusd : 200;
        break;
    case 6:
        w->hosted_left_nusd = w->hosted_left_nusd < 200 ? w->hosted_left_nusd : 200;
        break;
    case 7:
        w->prompt_tokens += 2000;
        break;
    case 8:
        w->left_ms /= 2;
        break;
    case 9:
        w->price.in_nusd = w->price.in_nusd && w->price.in_nusd < 300 ? w->price.in_nusd : 300;
        break;
    default:
        x->all.hour_nusd /= 2;
        break;
    }
    overflow_set(x->s.overflow, &x->all);
}

static void test_a_restriction_never_opens_a_way(void **state)
{
    (void)state;
    int n_narrowed = 0;
    for (int i = 0; i < rounds(50000); i++) {
        struct world x = {.s = {.overflow = overflow}};
        struct route_decision before, after;
        bool could[NAME_MAX_ROUTES];
        random_world(&x, (uint64_t)i);
        for (size_t k = 0; k < x.n; k++) could[k] = is_permitted(&x, &x.c[k]);
        int rc = route_decide(x.c, x.n, &x.w, &x.s, &before);
        restrict_more(&x);
        if (route_decide(x.c, x.n, &x.w, &x.s, &after) == 0) {
            assert_true(could[after.chosen]);
            /* a refusal stays one, but for the reserve that an ended budget calls */
            if (rc && !x.c[after.chosen].want.reserve) fail_msg("seed %d: a restriction opened a way", i);
        } else
            n_narrowed += rc == 0;
    }
    assert_true(n_narrowed > rounds(50000) / 1000);
}

static void test_nothing_but_a_commit_changes_the_state(void **state)
{
    (void)state;
    for (int i = 0; i < rounds(20000); i++) {
        struct world x = {.s = {.overflow = overflow}};
        struct route_decision d;
        struct overflow_ticket t = {.open = false};
        random_world(&x, (uint64_t)i);
        struct route_state before = x.s;
        struct overflow_counts counts = *overflow_counts(overflow);
        if (route_decide(x.c, x.n, &x.w, &x.s, &d)) assert_int_equal(d.action, ROUTE_REFUSE);
        assert_memory_equal(&before, &x.s, sizeof before);
        assert_memory_equal(&counts, overflow_counts(overflow), sizeof counts);
        assert_int_equal(overflow_hour_nusd(overflow, 7, x.w.hour), 0);
        route_commit(&x.s, x.c, x.n, &x.w, &d, &t);
        assert_int_equal(t.open, d.overflow);
        assert_int_equal(overflow_hour_nusd(overflow, 7, x.w.hour), d.overflow ? x.c[d.chosen].hold_nusd : 0);
        assert_int_equal(x.s.n_by_reason[d.reason], 1);
        bool has_local = false;
        for (size_t k = 0; k < x.n; k++) {
            has_local |= x.c[k].want.kind == NAME_LOCAL && !x.c[k].want.reserve;
            assert_true(!d.spills[k] || (x.c[k].want.kind == NAME_LOCAL && x.c[k].load_ms * 10 > x.c[k].target_ms * 7));
        }
        assert_int_equal(overflow_counts(overflow)->n_requests - counts.n_requests, has_local && !x.w.counted);
        overflow_settle(overflow, &t, 0, true, 0);
        assert_int_equal(overflow_hour_nusd(overflow, 7, x.w.hour), 0);
    }
}

static void test_who_waits_leaves_only_for_the_better(void **state)
{
    (void)state;
    int n_left = 0, n_stayed = 0;
    for (int i = 0; i < rounds(100000); i++) {
        struct world x = {.s = {.overflow = overflow}};
        struct route_decision d;
        random_world(&x, (uint64_t)i);
        if (x.c[0].want.kind != NAME_LOCAL) continue;
        const struct route_candidate *here = &x.c[0];
        int64_t here_ms = here->wait_ms + here->prompt_ms;
        route_again(x.c, x.n, &x.w, &x.s, 0, &d);
        if (d.action == ROUTE_STAY) {
            assert_int_equal(d.chosen, 0);
            n_stayed++;
            continue;
        }
        n_left++;
        const struct route_candidate *to = &x.c[d.chosen];
        assert_int_not_equal(d.chosen, 0);
        if (!is_permitted(&x, to)) fail_msg("seed %d: candidate %d must not serve", i, d.chosen);
        bool lost = here->local == ROUTE_LOCAL_DOWN || here_ms > x.w.left_ms || x.w.left_ms <= 0;
        int64_t there_ms = to->want.kind == NAME_LOCAL ? to->wait_ms + to->prompt_ms
                           : to->speed.first_ms        ? to->speed.first_ms
                                                       : here->target_ms;
        if (!lost && (here_ms <= here->target_ms || there_ms + ROUTE_MARGIN_MS > here_ms || there_ms + here_ms / 5 > here_ms))
            fail_msg("seed %d: it left %lld ms for %lld ms", i, (long long)here_ms, (long long)there_ms);
    }
    assert_true(n_left > rounds(100000) / 1000 && n_stayed > rounds(100000) / 1000);
}

/* Headers and JSON hold whatever was decided. */
static void test_explanations_are_whole(void **state)
{
    (void)state;
    for (int i = 0; i < rounds(5000); i++) {
        struct world x = {.s = {.overflow = overflow}};
        struct route_decision d;
        char header[EXPLAIN_HEADER_BYTES];
        random_world(&x, (uint64_t)i);
        if (route_decide(x.c, x.n, &x.w, &x.s, &d)) assert_int_equal(d.action, ROUTE_REFUSE);
        explain_header(x.c, x.n, &d, header);
        size_t n_commas = 0;
        for (const char *p = header; *p; p++) {
            assert_in_range(*p, ' ', '~');
            n_commas += *p == ',';
        }
        assert_int_equal(n_commas, x.n - 1);
        struct buf b;
        json_t *v;
        struct err e;
        buf_init(&b, 1 << 20);
        assert_int_equal(explain_json(&b, x.c, x.n, &x.w, &d), 0);
        if (json_read(b.data, b.len, &json_limits_request, "route", &v, &e)) fail_msg("%s: %s", e.msg, b.data);
        assert_int_equal(json_array_size(json_object_get(v, "candidates")), x.n);
        for (size_t k = 0; k < x.n; k++) /* what is not known is null, not left out */
            assert_int_equal(json_object_size(json_array_get(json_object_get(v, "candidates"), k)),
                             x.c[k].want.kind == NAME_LOCAL ? 16 : 13);
        assert_int_equal(json_is_null(json_object_get(v, "error")), d.action != ROUTE_REFUSE);
        assert_int_equal(json_is_null(json_object_get(v, "served_by")), d.action == ROUTE_REFUSE);
        json_decref(v);
        buf_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_who_is_chosen_keeps_every_constraint, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_decision_is_the_same_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cheapest_and_fastest_are_that, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_restriction_never_opens_a_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_but_a_commit_changes_the_state, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_waits_leaves_only_for_the_better, setup, teardown),
        cmocka_unit_test_setup_teardown(test_explanations_are_whole, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
