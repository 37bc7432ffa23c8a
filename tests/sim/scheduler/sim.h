/* Simulation of the scheduler on a virtual clock, with a model that computes nothing but remembers: every slot of every block holds a
 * hash of the whole history that was computed into it. Each row of each step is checked against it, so a block that is shared wrongly,
 * used too early, given away too soon or not copied is seen by the first row that would have read it. All that happens follows from the
 * seed. */
#ifndef SPILLWAY_TESTS_SIM_SCHEDULER_H
#define SPILLWAY_TESTS_SIM_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

/* Faults that can be planted, each of which the simulation must find. Those of the scheduler's own parts are made by wrapping their
 * calls. */
enum sim_fault {
    SIM_NO_FAULT,
    SIM_SKIP_COPY,     /* the model does not carry out a planned copy */
    SIM_EARLY_RELEASE, /* found blocks are referred to by nobody */
    SIM_LEAK,          /* a release is lost */
    SIM_LOST_WAKEUP,   /* a preempted sequence is not put back into the queue */
    SIM_WRONG_KEY,     /* keys are cut to a few bits: different prefixes are taken for equal */
    SIM_MADE_LEFT_OUT, /* the key of a block leaves out the tokens that were made */
    SIM_NO_SCOPE,      /* one account's blocks are found by another */
    SIM_LOST_CANCEL,   /* a cancel does not reach the scheduler */
    SIM_WRONG_GUESS,   /* a token more than was guessed right is kept */
    SIM_UNFAIR,        /* one account is charged nothing */
    SIM_FAULTS
};

uint64_t sim_random(uint64_t *state);
_Noreturn void sim_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
enum sim_fault sim_planted(void);
#define SIM_CHECK(x, ...) ((x) ? (void)0 : sim_fail(__VA_ARGS__))

struct scheduler;
struct sim_totals {
    uint64_t n_sequences, n_steps, n_rows, n_found, n_copied, n_preempted, n_ended, n_encodes, n_guessed, n_right;
};
void sim_lives(uint64_t seed, struct sim_totals *t);
/* Backlogged accounts: what each was served for its weight stays within the bound. Returns the largest gap in units of the dearest
 * request. */
double sim_fairness(uint64_t seed);

/* The scheduler of the run, for the one who cleans up after a failure. */
void sim_own(struct scheduler *s);
#endif
