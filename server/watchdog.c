/* Watchdog: see watchdog.h. */
#include "server/watchdog.h"

#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t median_gap_us(const struct watchdog *w)
{
    int64_t sorted[WATCHDOG_GAPS];
    if (w->n_gaps == 0) return 0;
    memcpy(sorted, w->gaps_us, w->n_gaps * sizeof *sorted);
    qsort(sorted, w->n_gaps, sizeof *sorted, by_value);
    return sorted[w->n_gaps / 2];
}

int64_t watchdog_still_ms(const struct watchdog *w)
{
    return w->still_us / 1000;
}

int64_t watchdog_allowed_ms(const struct watchdog *w, int64_t floor_ms)
{
    int64_t ms = WATCHDOG_FACTOR * median_gap_us(w) / 1000;
    return ms > floor_ms ? ms : floor_ms;
}

static void add_gap(struct watchdog *w, int64_t us)
{
    w->gaps_us[w->at] = us;
    w->at = (w->at + 1) % WATCHDOG_GAPS;
    if (w->n_gaps < WATCHDOG_GAPS) w->n_gaps++;
}

bool watchdog_look(struct watchdog *w, bool busy, uint64_t counter, int64_t now_ms, int64_t interval_ms, int64_t floor_ms)
{
    int64_t passed_us = (now_ms - w->looked_ms) * 1000, seen_us = 2 * interval_ms * 1000;
    if (passed_us > seen_us) passed_us = seen_us; /* nobody looked for longer */
    bool was_busy = w->busy;
    uint64_t moved = counter - w->counter;
    w->busy = busy;
    w->counter = counter;
    w->looked_ms = now_ms;
    if (!busy || !was_busy) {
        w->still_us = 0;
        return false;
    }
    w->still_us += passed_us;
    if (moved) {
        add_gap(w, w->still_us / (int64_t)(moved < INT32_MAX ? moved : INT32_MAX));
        w->still_us = 0;
    }
    return watchdog_still_ms(w) >= watchdog_allowed_ms(w, floor_ms);
}
