/* Seeds and planted faults of the scheduler's simulation.
 *
 *     sim_scheduler [FIRST [N]]     N seeds from FIRST on (default 1 and 1000), then the planted faults and fairness
 *
 * A violation prints the seed and what was violated; `sim_scheduler SEED 1` runs it again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/scheduler.h"
#include "tests/sim/scheduler/sim.h"

static jmp_buf on_failure;
static char why[512];
static enum sim_fault fault;
static struct scheduler *owned;

void sim_fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    longjmp(on_failure, 1);
}

enum sim_fault sim_planted(void)
{
    return fault;
}

void sim_own(struct scheduler *s)
{
    owned = s;
}

uint64_t sim_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* ---- calls that are wrapped (see CMakeLists.txt): the program's own mistakes are findings, and faults are planted ---- */

void __wrap_check_failed(const char *file, int line, const char *what);
void __wrap_check_failed(const char *file, int line, const char *what)
{
    sim_fail("%s:%d: CHECK(%s)", file, line, what);
}

uint32_t __real_kv_cache_match(struct kv_cache *c, const struct kv_key *keys, uint32_t n, uint32_t *blocks);
uint32_t __wrap_kv_cache_match(struct kv_cache *c, const struct kv_key *keys, uint32_t n, uint32_t *blocks);
uint32_t __wrap_kv_cache_match(struct kv_cache *c, const struct kv_key *keys, uint32_t n, uint32_t *blocks)
{
    uint32_t found = __real_kv_cache_match(c, keys, n, blocks);
    for (uint32_t i = 0; fault == SIM_EARLY_RELEASE && i < found; i++)
        if (kv_cache_references(c, blocks[i]) > 1) kv_cache_release(c, blocks[i]);
    return found;
}

void __real_kv_cache_release(struct kv_cache *c, uint32_t block);
void __wrap_kv_cache_release(struct kv_cache *c, uint32_t block);
void __wrap_kv_cache_release(struct kv_cache *c, uint32_t block)
{
    static unsigned n;
    if (fault != SIM_LEAK || n++ % 100 != 99) __real_kv_cache_release(c, block);
}

void __real_fair_queue_push(struct fair_queue *f, struct fair_item *item);
void __wrap_fair_queue_push(struct fair_queue *f, struct fair_item *item);
void __wrap_fair_queue_push(struct fair_queue *f, struct fair_item *item)
{
    if (fault != SIM_LOST_WAKEUP || !item->put_back) __real_fair_queue_push(f, item);
}

void __real_fair_queue_charge(struct fair_item *item, uint64_t cost_rows);
void __wrap_fair_queue_charge(struct fair_item *item, uint64_t cost_rows);
void __wrap_fair_queue_charge(struct fair_item *item, uint64_t cost_rows)
{
    if (fault != SIM_UNFAIR || item->account->id != 1) __real_fair_queue_charge(item, cost_rows);
}

/* ---- runs ---- */

static bool run_lives(uint64_t seed, struct sim_totals *t)
{
    bool ok = setjmp(on_failure) == 0;
    if (ok) sim_lives(seed, t);
    scheduler_free(owned);
    owned = NULL;
    return ok;
}

static bool run_fairness(uint64_t seed, double *gap)
{
    bool ok = setjmp(on_failure) == 0;
    if (ok) *gap = sim_fairness(seed);
    scheduler_free(owned);
    owned = NULL;
    return ok;
}

static int report(const char *what, uint64_t seed)
{
    printf("%s, seed %llu: %s\n", what, (unsigned long long)seed, why);
    return 1;
}

/* Each fault must be found soon. */
static int planted_faults(void)
{
    static const char *const names[SIM_FAULTS] = {[SIM_SKIP_COPY] = "a copy skipped",
                                                  [SIM_EARLY_RELEASE] = "found blocks not held",
                                                  [SIM_LEAK] = "a release lost",
                                                  [SIM_LOST_WAKEUP] = "a preempted sequence forgotten",
                                                  [SIM_WRONG_KEY] = "keys that collide",
                                                  [SIM_MADE_LEFT_OUT] = "keys without the tokens made",
                                                  [SIM_NO_SCOPE] = "another account's blocks found",
                                                  [SIM_LOST_CANCEL] = "a cancel lost",
                                                  [SIM_WRONG_GUESS] = "a wrong guess kept",
                                                  [SIM_UNFAIR] = "an account not charged"};
    enum { TRIES = 50 };
    int missed = 0;
    for (fault = SIM_NO_FAULT + 1; fault < SIM_FAULTS; fault++) {
        struct sim_totals t = {0};
        double gap;
        uint64_t seed = 1;
        while (seed <= TRIES && (fault == SIM_UNFAIR ? run_fairness(seed, &gap) : run_lives(seed, &t))) seed++;
        if (seed <= TRIES)
            printf("planted: %s: found by seed %llu: %s\n", names[fault], (unsigned long long)seed, why);
        else
            printf("planted: %s: NOT FOUND\n", names[fault]), missed = 1;
    }
    fault = SIM_NO_FAULT;
    return missed;
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, n = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000;
    struct sim_totals t = {0};
    double gap = 0, largest = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (uint64_t seed = first; seed < first + n; seed++)
        if (!run_lives(seed, &t)) return report("violation", seed);
    printf("%llu seeds: %llu sequences, %llu steps, %llu rows, %llu positions found, %llu blocks copied, %llu preemptions, %llu encodes, %llu guesses, "
           "%llu right\n",
           (unsigned long long)n, (unsigned long long)t.n_sequences, (unsigned long long)t.n_steps, (unsigned long long)t.n_rows,
           (unsigned long long)t.n_found, (unsigned long long)t.n_copied, (unsigned long long)t.n_preempted,
           (unsigned long long)t.n_encodes, (unsigned long long)t.n_guessed, (unsigned long long)t.n_right);
    if (n > 50 && (t.n_found == 0 || t.n_copied == 0 || t.n_preempted == 0 || t.n_encodes == 0 || t.n_right == 0 || t.n_guessed == t.n_right)) {
        printf("something was never tried\n");
        return 1;
    }
    for (uint64_t seed = first; seed < first + (n + 19) / 20; seed++) {
        if (!run_fairness(seed, &gap)) return report("unfair", seed);
        if (gap > largest) largest = gap;
    }
    printf("fairness: the largest gap between backlogged accounts was %.2f of the dearest request\n", largest);
    return planted_faults();
}
