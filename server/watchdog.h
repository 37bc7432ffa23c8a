/* Watchdog: whether a process that has work still moves, by a counter that it bumps (engine/worker.h).
 *
 * Hung: the counter has stood still for max(floor, 20 x its median gap) while there was work. Time during which nobody looked (the machine slept, the
 * gateway itself was held up) does not count. Pure: the caller has the timer and the counter. */
#ifndef SPILLWAY_SERVER_WATCHDOG_H
#define SPILLWAY_SERVER_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

enum { WATCHDOG_GAPS = 63, WATCHDOG_FACTOR = 20 };

/* Zero-initialise. */
struct watchdog {
    bool busy;
    uint64_t counter;
    int64_t looked_ms, still_us;
    int64_t gaps_us[WATCHDOG_GAPS]; /* the last ones, in a ring */
    unsigned n_gaps, at;
};

/* Call every interval_ms while busy, and once when it becomes idle. true: hung. */
bool watchdog_look(struct watchdog *w, bool busy, uint64_t counter, int64_t now_ms, int64_t interval_ms, int64_t floor_ms);
/* How long it has stood still, and how long it may. */
int64_t watchdog_still_ms(const struct watchdog *w);
int64_t watchdog_allowed_ms(const struct watchdog *w, int64_t floor_ms);

#endif
