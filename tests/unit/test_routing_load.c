/* Routing under load, on a virtual clock with seeds: T66 (hosts that flap), a queue that spills and comes back, requests that spill while
 * they wait, B21 (an attacker who forces overflow), a hosted budget that ends in the middle. SPILLWAY_FAULT=long: more seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/unit/routing_world.h"

#include "server/routing/host_keys.h"
#include "server/routing/retry.h"

static uint64_t random_state;

static void seed_with(uint64_t seed)
{
    random_state = seed * 0x9E3779B97F4A7C15u + 1;
}

static uint64_t next(uint64_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (random_state >> 33) % below;
}

static uint64_t draw(void)
{
    return next(1u << 31) << 32 ^ next(1u << 31);
}

static uint64_t n_seeds(uint64_t few)
{
    const char *fault = getenv("SPILLWAY_FAULT");
    return fault && strcmp(fault, "long") == 0 ? 50 * few : few;
}

/* --- T66: hosts that flap --- */

enum { N_HOSTS = 2, STEP_MS = 20, RUN_MS = 600 * 1000, MOST_UNDER_WAY = 4096 };

/* How a host is bad, and for how long a request waits to see it. */
static const struct mode {
    const char *name;
    int status; /* 200: it is well; 0: no answer */
    int64_t takes_ms, hint_ms;
    bool cut; /* after content */
} modes[] = {{"well", 200, 300, 0, false}, {"500", 500, 50, 0, false}, {"503", 503, 30, 2000, false}, {"timeout", 0, 5000, 0, false},
             {"refused", 0, 5, 0, false},  {"429", 429, 20, 0, false}, {"cut", 200, 400, 0, true}};
enum { N_MODES = sizeof modes / sizeof *modes };

struct attempt {
    int64_t ends_ms;
    int host, key; /* host -1: free */
    const struct mode *mode;
    struct breaker_pass pass;
    unsigned attempts;
    bool tried[N_HOSTS];
};

struct host {
    struct breaker breaker;
    struct host_keys keys;
    struct retry_budget budget;
    struct speed speed;
    const struct mode *mode;
    int64_t mode_ends_ms;
    bool flaps;
    uint64_t flaky_permille; /* answers 500 to so many, whatever its mode */
    /* what was seen */
    int n_probes_out, n_failures_since_well, most_failures_to_open;
    int64_t n_ok, n_retries;
};

struct flap {
    struct host host[N_HOSTS];
    struct attempt under_way[MOST_UNDER_WAY];
    size_t n_under_way;
    struct world world;
    int64_t now_ms, n_requests, n_attempts, n_ok, n_openings;
};

static void fill_candidates(struct flap *f, const bool tried[N_HOSTS])
{
    for (size_t i = 0; i < f->world.n; i++) {
        struct route_candidate *c = &f->world.c[i];
        struct host *h = &f->host[c->i_host];
        c->breaker = breaker_verdict(&h->breaker, f->now_ms);
        c->breaker_wait_ms = breaker_wait_ms(&h->breaker, f->now_ms);
        c->has_key = host_keys_pick(&h->keys, 0, f->now_ms, &c->key_wait_ms) >= 0;
        c->retry_allowed = retry_allowed(&h->budget, f->now_ms);
        c->speed = speed_now(&h->speed, f->now_ms);
        c->tried = tried[c->i_host];
    }
}

/* Sends it to whom the decision names; false: it was refused. */
static bool send(struct flap *f, unsigned attempts, const bool tried[N_HOSTS])
{
    struct route_decision d;
    struct overflow_ticket none = {0};
    int64_t ignored_ms;
    fill_candidates(f, tried);
    f->world.w.draw = draw();
    f->world.w.attempts = attempts;
    f->world.w.counted = attempts > 0;
    int rc = route_decide(f->world.c, f->world.n, &f->world.w, &f->world.s, &d);
    route_commit(&f->world.s, f->world.c, f->world.n, &f->world.w, &d, &none);
    if (rc) return false;
    int to = (int)f->world.c[d.chosen].i_host;
    struct host *h = &f->host[to];
    assert_true(f->n_under_way < MOST_UNDER_WAY);
    struct attempt *a = &f->under_way[f->n_under_way++];
    const struct mode *mode = next(1000) < h->flaky_permille ? &modes[1] : h->mode;
    *a = (struct attempt){.host = to, .attempts = attempts + 1, .mode = mode, .ends_ms = f->now_ms + mode->takes_ms + (int64_t)next(20)};
    memcpy(a->tried, tried, sizeof a->tried);
    if (attempts) {
        retry_take(&h->budget, f->now_ms);
        h->n_retries++;
    }
    a->key = host_keys_pick(&h->keys, 0, f->now_ms, &ignored_ms);
    assert_true(breaker_begin(&h->breaker, f->now_ms, &a->pass));
    host_keys_begin(&h->keys, a->key, f->now_ms);
    h->n_probes_out += a->pass.probe;
    assert_in_range(h->n_probes_out, 0, 1); /* half-open: one at a time */
    f->n_attempts++;
    return true;
}

static void note_breaker(struct flap *f, struct host *h, const struct attempt *a, enum fault fault)
{
    uint64_t n_before = h->breaker.n_openings;
    bool closed = h->breaker.state == BREAKER_CLOSED;
    h->n_probes_out -= a->pass.probe;
    if (fault_rows[fault].is_hosts) {
        breaker_failed(&h->breaker, a->pass, a->mode->hint_ms, f->now_ms);
        h->n_failures_since_well++;
    } else if (fault == FAULT_NONE) {
        breaker_ok(&h->breaker, a->pass, f->now_ms);
        h->n_failures_since_well = 0;
    } else {
        breaker_abandon(&h->breaker, a->pass);
    }
    if (h->breaker.n_openings == n_before || !closed) return;
    f->n_openings++;
    if (h->n_failures_since_well > h->most_failures_to_open) h->most_failures_to_open = h->n_failures_since_well;
    h->n_failures_since_well = 0;
}

/* One has come to its end: well, retried, or failed. */
static void end(struct flap *f, struct attempt a)
{
    struct host *h = &f->host[a.host];
    enum fault fault = a.mode->cut ? FAULT_CUT : fault_of(a.mode->status, "");
    note_breaker(f, h, &a, fault);
    host_keys_end(&h->keys, a.key, fault, a.mode->hint_ms, f->now_ms);
    if (fault == FAULT_NONE) {
        h->n_ok++;
        f->n_ok++;
        retry_earn(&h->budget);
        speed_note(&h->speed, a.mode->takes_ms, 0, 0, f->now_ms);
        return;
    }
    a.tried[a.host] = true;
    struct retry_case r = {.fault = fault,
                           .attempts = a.attempts,
                           .content = a.mode->cut,
                           .left_ms = 20000,
                           .has_other_host = !a.tried[0] || !a.tried[1],
                           .budget = retry_allowed(&h->budget, f->now_ms)};
    if (retry_next(&r) == RETRY_OTHER_HOST) send(f, a.attempts, a.tried);
}

static void change_modes(struct flap *f)
{
    for (int i = 0; i < N_HOSTS; i++) {
        struct host *h = &f->host[i];
        if (!h->flaps || f->now_ms < h->mode_ends_ms) continue;
        h->mode = h->mode == &modes[0] ? &modes[1 + next(N_MODES - 1)] : &modes[0];
        h->mode_ends_ms = f->now_ms + 1000 + (int64_t)next(30000);
    }
}

static void flap_init(struct flap *f, uint64_t seed, const char *models)
{
    memset(f, 0, sizeof *f);
    seed_with(seed);
    world_init(&f->world, models);
    for (int i = 0; i < N_HOSTS; i++) f->host[i] = (struct host){.keys = {.n = 2}, .mode = &modes[0]};
}

static void flap_run(struct flap *f, int per_second)
{
    static const bool untried[N_HOSTS];
    for (f->now_ms = 1000; f->now_ms < RUN_MS; f->now_ms += STEP_MS) {
        change_modes(f);
        for (size_t i = f->n_under_way; i-- > 0;) {
            if (f->under_way[i].ends_ms > f->now_ms) continue;
            struct attempt a = f->under_way[i];
            f->under_way[i] = f->under_way[--f->n_under_way];
            end(f, a);
        }
        for (int i = 0; i < per_second; i++)
            if (next(1000 / STEP_MS) == 0) {
                f->n_requests++;
                send(f, 0, untried);
            }
    }
    world_free(&f->world);
}

static void t66_hosts_that_flap(void **state)
{
    (void)state;
    static struct flap f;
    int64_t n_requests = 0, n_retries = 0, n_ok = 0, n_openings = 0, worst = 0, n_all = 0;
    double most_extra = 0;
    for (uint64_t seed = 0; seed < n_seeds(20); seed++) {
        flap_init(&f, seed, seed % 2 ? "split" : "groq/llama together/llama");
        for (int i = 0; i < 1 + (int)(seed / 2 % 2); i++) f.host[i].flaps = true;
        flap_run(&f, 40);
        int64_t retries = 0;
        for (int i = 0; i < N_HOSTS; i++) {
            const struct host *h = &f.host[i];
            retries += h->n_retries;
            assert_true(h->n_retries * 10 <= h->n_ok + 10 * (RUN_MS / RETRY_FLOOR_MS + 1)); /* each host's own budget */
            if (h->most_failures_to_open > worst) worst = h->most_failures_to_open;
        }
        assert_true(retries * 10 <= f.n_requests); /* at most 10 % extra */
        assert_true(f.n_openings > 0);
        if ((double)retries / (double)f.n_requests > most_extra) most_extra = (double)retries / (double)f.n_requests;
        n_requests += f.n_requests;
        n_retries += retries;
        n_openings += f.n_openings;
        n_all += seed / 2 % 2 == 0 ? f.n_requests : 0;
        n_ok += seed / 2 % 2 == 0 ? f.n_ok : 0;
    }
    assert_in_range(worst, 1, 20);
    assert_true(n_ok * 100 >= n_all * 95); /* one host flaps, the other is well */
    print_message("T66: %lld requests, %lld retries (%.2f %%, worst seed %.2f %%), %lld openings after %lld failures at most; one host "
                  "flapping: %.2f %% "
                  "answered\n",
                  (long long)n_requests, (long long)n_retries, 100.0 * (double)n_retries / (double)n_requests, 100 * most_extra,
                  (long long)n_openings, (long long)worst, 100.0 * (double)n_ok / (double)n_all);
}

static void t66_a_dead_host_is_left_alone(void **state)
{
    (void)state;
    static struct flap f;
    flap_init(&f, 1, "groq/llama together/llama");
    f.host[0].mode = &modes[1]; /* 500 for ever */
    flap_run(&f, 20);
    /* Those that were under way together when it opened count once: eight to open, then probes after 5, 10, 20, 40, 80, 160, 300 s: 615 s */
    assert_in_range(f.host[0].breaker.n_failures, BREAKER_IN_A_ROW, BREAKER_IN_A_ROW + 7);
    assert_true(f.n_requests - f.n_ok - (int64_t)f.n_under_way <= 10); /* who found no retry */
}

/* Too seldom for a breaker, so that only the budget stands between them and twice the load. */
static void t66_retries_of_hosts_that_fail_now_and_then(void **state)
{
    (void)state;
    static struct flap f;
    int64_t n_requests = 0, n_retries = 0, n_ok = 0;
    for (uint64_t seed = 1; seed <= n_seeds(10); seed++) {
        flap_init(&f, seed, "split");
        f.host[0].flaky_permille = f.host[1].flaky_permille = 200;
        flap_run(&f, 40);
        int64_t retries = f.host[0].n_retries + f.host[1].n_retries;
        assert_true(retries * 10 <= f.n_requests);
        n_requests += f.n_requests;
        n_retries += retries;
        n_ok += f.n_ok;
    }
    assert_true(n_ok * 100 >= n_requests * 84);     /* without retries 80 */
    assert_true(n_retries * 100 >= n_requests * 7); /* the budget was used: two of ten wanted one */
    print_message("T66: one in five fails: %.2f %% retries, %.2f %% answered\n", 100.0 * (double)n_retries / (double)n_requests,
                  100.0 * (double)n_ok / (double)n_requests);
}

/* --- a queue that spills --- */

enum { SERVICE_MS = 100, TARGET_MS = 1000 };

struct spill_run {
    int64_t busy_until_ms; /* the local model reads one prompt after another */
    int n_local, n_over, n_switches, n_late, n_model_switches;
    int64_t first_over_ms, last_over_ms, most_wait_ms, first_spill_predicted_ms, least_dwell_ms;
};

static void spill_arrival(struct world *x, struct spill_run *r, int64_t now_ms, bool hysteresis, bool *over, int64_t *switched_ms)
{
    struct route_decision d;
    struct overflow_ticket t = {0};
    struct route_candidate *c = &x->c[0];
    c->wait_ms = r->busy_until_ms > now_ms ? r->busy_until_ms - now_ms : 0;
    c->free_now = c->wait_ms == 0;
    c->prompt_ms = SERVICE_MS;
    c->load_ms = c->wait_ms + SERVICE_MS;
    x->w.draw = draw();
    if (!hysteresis) x->s.spill[SMOL].on = false;
    uint64_t n_before = x->s.spill[SMOL].n_switches;
    assert_int_equal(route_decide(x->c, x->n, &x->w, &x->s, &d), 0);
    route_commit(&x->s, x->c, x->n, &x->w, &d, &t);
    overflow_settle(x->s.overflow, &t, 1, true, 200);
    if (hysteresis && x->s.spill[SMOL].n_switches != n_before) {
        r->n_model_switches++;
        if (!x->s.spill[SMOL].on && now_ms - *switched_ms < r->least_dwell_ms) r->least_dwell_ms = now_ms - *switched_ms;
        *switched_ms = now_ms;
    }
    r->n_switches += d.overflow != *over;
    *over = d.overflow;
    if (d.overflow) {
        if (!r->n_over++) {
            r->first_over_ms = now_ms;
            r->first_spill_predicted_ms = route_predicted_ms(c);
        }
        r->last_over_ms = now_ms;
        return;
    }
    r->n_local++;
    r->n_late += d.reason == ROUTE_WAITS;
    if (route_predicted_ms(c) > r->most_wait_ms) r->most_wait_ms = route_predicted_ms(c);
    r->busy_until_ms = now_ms + c->wait_ms + SERVICE_MS;
}

/* Half of what it can do for 60 s, three times as much for 120 s, half of it for 60 s. */
static struct spill_run spill(uint64_t seed, bool hysteresis)
{
    struct world x;
    struct spill_run r = {.least_dwell_ms = INT64_MAX};
    bool over = false;
    int64_t switched_ms = 0;
    seed_with(seed);
    world_init(&x, "smol");
    for (int64_t now_ms = 0; now_ms < 240000; now_ms++) {
        uint64_t per_second = now_ms < 60000 || now_ms >= 180000 ? 5 : 30;
        if (next(1000) < per_second) spill_arrival(&x, &r, now_ms, hysteresis, &over, &switched_ms);
    }
    if (hysteresis) assert_int_equal(x.s.spill[SMOL].n_switches, r.n_model_switches);
    world_free(&x);
    return r;
}

static void test_a_queue_spills_at_its_target_and_comes_back(void **state)
{
    (void)state;
    int n_with = 0, n_without = 0;
    for (uint64_t seed = 1; seed <= n_seeds(10); seed++) {
        struct spill_run r = spill(seed, true), naive = spill(seed, false);
        assert_in_range(r.first_over_ms, 60000, 70000);                                     /* not before the rush, soon in it */
        assert_in_range(r.first_spill_predicted_ms, TARGET_MS + 1, TARGET_MS + SERVICE_MS); /* at the target */
        assert_in_range(r.last_over_ms, 170000, 185000);                                    /* and not much after it */
        assert_in_range(r.most_wait_ms, TARGET_MS - SERVICE_MS, TARGET_MS);                 /* nobody queued beyond it */
        assert_int_equal(r.n_late, 0);
        assert_true(r.n_model_switches > 1 && r.n_model_switches <= r.n_switches + 1);
        /* To come back the queue must have been read down from above the target to 70 % of it. */
        assert_true(r.least_dwell_ms >= TARGET_MS * (100 - ROUTE_BACK_PER_CENT) / 100 - SERVICE_MS);
        assert_in_range(r.n_local, 1500, 2000); /* 300 + 1,200 + 300: the local model is never idle in the rush */
        n_with += r.n_switches;
        n_without += naive.n_switches;
    }
    assert_true(3 * n_with < n_without);
    print_message("spill: %d switches with hysteresis, %d without\n", n_with, n_without);
}

static void test_a_load_at_the_brink_does_not_flap(void **state)
{
    (void)state;
    int n_switches = 0, n_naive = 0;
    for (uint64_t seed = 1; seed <= n_seeds(10); seed++)
        for (int h = 0; h < 2; h++) {
            struct world x;
            struct spill_run r = {.least_dwell_ms = INT64_MAX};
            bool over = false;
            int64_t switched_ms = 0;
            seed_with(seed);
            world_init(&x, "smol");
            for (int64_t now_ms = 0; now_ms < 300000; now_ms++) /* a tenth more than it can do */
                if (next(1000) < 11) spill_arrival(&x, &r, now_ms, h == 0, &over, &switched_ms);
            *(h ? &n_naive : &n_switches) += r.n_switches;
            world_free(&x);
        }
    assert_true(2 * n_switches < n_naive);
}

/* --- while they wait --- */

static void test_those_that_wait_spill_when_the_engine_slows(void **state)
{
    (void)state;
    enum { WAITING = 20, SLOW_MS = 500 };
    struct world x;
    struct route_decision d;
    struct overflow_ticket t[WAITING] = {0};
    bool left[WAITING] = {false};
    int n_left = 0, n_served = 0;
    world_init(&x, "smol");
    x.w.counted = true;
    x.c[1].speed.first_ms = 300;
    for (int64_t now_ms = 0; now_ms < 20000 && n_served + n_left < WAITING; now_ms += 100) {
        int64_t each_ms = now_ms < 300 ? 45 : SLOW_MS;        /* it slows down after 300 ms */
        if (now_ms > 0 && now_ms % each_ms < 100) n_served++; /* the first that has not left */
        int before = 0, seen = 0;
        for (int i = 0; i < WAITING; i++) {
            if (left[i] || seen++ < n_served) continue;
            x.c[0].free_now = false;
            x.c[0].wait_ms = before * each_ms;
            x.c[0].prompt_ms = each_ms;
            x.c[0].load_ms = (WAITING - n_served - n_left) * each_ms;
            route_again(x.c, x.n, &x.w, &x.s, 0, &d);
            route_commit(&x.s, x.c, x.n, &x.w, &d, &t[i]);
            if (d.action == ROUTE_STAY) {
                before++;
                assert_true(route_predicted_ms(&x.c[0]) <= TARGET_MS);
                continue;
            }
            assert_true(now_ms >= 300 && route_predicted_ms(&x.c[0]) > TARGET_MS);
            assert_true(d.overflow && t[i].open && d.reason == ROUTE_QUEUE);
            left[i] = true;
            n_left++;
        }
    }
    assert_in_range(n_left, 10, 17); /* all but the served and the two that are in time */
    assert_int_equal(n_left + n_served, WAITING);
    assert_int_equal(overflow_counts(x.s.overflow)->n_overflow, n_left);
    assert_int_equal(x.s.n_by_reason[ROUTE_QUEUE], n_left); /* who stays is counted once, when it came */
    assert_int_equal(x.s.n_by_reason[ROUTE_LOCAL_OK], 0);
    assert_int_equal(overflow_counts(x.s.overflow)->n_requests, 0); /* they were counted when they came */
    world_free(&x);
}

/* --- B21 --- */

enum { N_KEYS = 40, N_PROJECTS = 5, N_HOURS = 3, MOST_TICKETS = 500 };

struct attack {
    int64_t key_nusd[N_KEYS][N_HOURS], project_nusd[N_PROJECTS][N_HOURS], all_nusd[N_HOURS]; /* held or spent, as counted here */
    struct overflow_ticket tickets[MOST_TICKETS];
    int owner[MOST_TICKETS], hour[MOST_TICKETS];
    size_t n_tickets;
    int n_over, n_capped;
};

static void add_nusd(struct attack *a, int key, int hour, int64_t nusd)
{
    a->key_nusd[key][hour] += nusd;
    a->project_nusd[key % N_PROJECTS][hour] += nusd;
    a->all_nusd[hour] += nusd;
}

static void attack_end_one(struct attack *a, struct overflow *o)
{
    size_t i = next(a->n_tickets);
    int64_t hold_nusd = a->tickets[i].hold_nusd, cost_nusd = (int64_t)next((uint64_t)hold_nusd + 1);
    overflow_settle(o, &a->tickets[i], cost_nusd, next(2), 100);
    add_nusd(a, a->owner[i], a->hour[i], cost_nusd - hold_nusd);
    a->n_tickets--;
    a->tickets[i] = a->tickets[a->n_tickets];
    a->owner[i] = a->owner[a->n_tickets];
    a->hour[i] = a->hour[a->n_tickets];
}

static void b21_who_forces_overflow_meets_the_cap(void **state)
{
    (void)state;
    static struct attack a;
    const int64_t key_cap = 700000, project_cap = 3000000, all_cap = 10000000;
    int n_pressed = 0;
    for (uint64_t seed = 1; seed <= n_seeds(4); seed++) {
        struct world x;
        memset(&a, 0, sizeof a);
        seed_with(seed);
        world_init(&x, "smol");
        world_tweak(&x, "smol.full smol.wait=1500"); /* the attacker's own requests keep it full */
        x.all.hour_nusd = all_cap;
        overflow_set(x.s.overflow, &x.all);
        for (int i = 0; i < 60000; i++) {
            struct route_decision d;
            struct overflow_ticket t = {0};
            int hour = i / (60000 / N_HOURS), key = (int)next(N_KEYS);
            x.w.hour = WORLD_HOUR + hour;
            x.w.key = (struct overflow_who){.id = 100 + key, .limits = world_dollar};
            x.w.key.limits.hour_nusd = key_cap;
            x.w.project = (struct overflow_who){.id = 10 + key % N_PROJECTS, .limits = world_dollar};
            x.w.project.limits.hour_nusd = project_cap;
            x.w.draw = draw();
            x.c[1].hold_nusd = 1 + (int64_t)next(20000);
            x.c[2].hold_nusd = 1 + (int64_t)next(60000);
            int rc = route_decide(x.c, x.n, &x.w, &x.s, &d);
            route_commit(&x.s, x.c, x.n, &x.w, &d, &t);
            assert_true(rc == 0 ? d.overflow : rc == -ERR_BUSY && d.status == 429);
            a.n_capped += rc != 0;
            if (rc == 0) {
                a.n_over++;
                add_nusd(&a, key, hour, t.hold_nusd);
                assert_true(a.key_nusd[key][hour] <= key_cap && a.project_nusd[key % N_PROJECTS][hour] <= project_cap &&
                            a.all_nusd[hour] <= all_cap);
                if (a.n_tickets == MOST_TICKETS) attack_end_one(&a, x.s.overflow);
                a.tickets[a.n_tickets] = t;
                a.owner[a.n_tickets] = key;
                a.hour[a.n_tickets++] = hour;
            }
            if (a.n_tickets && next(3)) attack_end_one(&a, x.s.overflow);
            assert_int_equal(overflow_hour_nusd(x.s.overflow, -1, x.w.hour), a.all_nusd[hour]); /* its books are ours */
            assert_int_equal(overflow_hour_nusd(x.s.overflow, x.w.key.id, x.w.hour), a.key_nusd[key][hour]);
        }
        for (int h = 0; h < N_HOURS; h++) n_pressed += a.all_nusd[h] > all_cap - 1000;
        assert_true(a.n_capped > 10000 && a.n_over > 1000);
        world_free(&x);
    }
    assert_true(n_pressed > 0); /* it was at the cap, not far from it */
}

/* --- a hosted budget that ends --- */

static void test_a_hosted_budget_ends_in_the_middle(void **state)
{
    (void)state;
    struct world x;
    struct route_decision d;
    struct overflow_ticket none = {0};
    int64_t budget_nusd = 20000000;
    int n_hosted = 0, n_local = 0;
    world_init(&x, "openai/gpt");
    const int64_t hold_nusd = x.c[0].hold_nusd, cost_nusd = x.c[0].cost_nusd;
    for (int i = 0; i < 100; i++) {
        if (i == 80) budget_nusd = 20000000; /* the next window */
        x.w.hosted_left_nusd = x.w.hosted_unheld_nusd = budget_nusd;
        assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), 0);
        route_commit(&x.s, x.c, x.n, &x.w, &d, &none);
        if (d.chosen == 0) {
            assert_true(budget_nusd >= hold_nusd && d.reason == ROUTE_BY_POLICY);
            budget_nusd -= cost_nusd;
            n_hosted++;
        } else {
            assert_true(budget_nusd < hold_nusd && d.reason == ROUTE_BUDGET && !d.overflow);
            n_local++;
        }
        assert_int_equal(d.chosen == 0, i < 39 || i >= 80); /* 20,000,000 - 39 * 500,000 = 500,000 < 900,000 */
    }
    assert_int_equal(n_hosted + n_local, 100);
    assert_int_equal(x.s.n_by_reason[ROUTE_BUDGET], n_local);
    world_free(&x);
}

static void test_a_budget_that_ends_between_decision_and_hold(void **state)
{
    (void)state;
    struct world x;
    struct route_decision d;
    world_init(&x, "openai/gpt");
    assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), 0);
    assert_int_equal(d.chosen, 0);
    x.w.hosted_left_nusd = x.w.hosted_unheld_nusd = 0; /* the store said no: decided again with what it said */
    assert_int_equal(route_decide(x.c, x.n, &x.w, &x.s, &d), 0);
    assert_int_equal(d.chosen, 1);
    assert_int_equal(d.reason, ROUTE_BUDGET);
    world_free(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t66_hosts_that_flap),
        cmocka_unit_test(t66_a_dead_host_is_left_alone),
        cmocka_unit_test(t66_retries_of_hosts_that_fail_now_and_then),
        cmocka_unit_test(test_a_queue_spills_at_its_target_and_comes_back),
        cmocka_unit_test(test_a_load_at_the_brink_does_not_flap),
        cmocka_unit_test(test_those_that_wait_spill_when_the_engine_slows),
        cmocka_unit_test(b21_who_forces_overflow_meets_the_cap),
        cmocka_unit_test(test_a_hosted_budget_ends_in_the_middle),
        cmocka_unit_test(test_a_budget_that_ends_between_decision_and_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
