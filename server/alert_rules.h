/* Alert rules: what is out of the ordinary, by an account's and a gateway's own past. Pure: figures in, yes or no out. */
#ifndef SPILLWAY_SERVER_ALERT_RULES_H
#define SPILLWAY_SERVER_ALERT_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ALERT_PAST_HOURS = 24,    /* with less of a past nothing is said of spend */
    ALERT_RECENT_LOOKS = 10,  /* what is "now" of a rate; */
    ALERT_PAST_LOOKS = 60,    /* and what was before */
    ALERT_MIN_REQUESTS = 20,  /* in those ten; fewer say nothing */
    ALERT_SUDDEN = 3,         /* times as much as before */
    ALERT_RETRY_FIRST_MS = 1000,
    ALERT_RETRY_MOST_MS = 3600000
};

/* This hour's spend against the mean of the hours before: above the floor, and more than factor times the mean. */
bool alert_spend_is_high(int64_t hour_nusd, int64_t past_nusd, int64_t past_hours, int64_t factor, int64_t floor_nusd);

/* Requests and how many of them were so: failed, overflowed. Counted since the start, noted at each look. Zero-initialised. */
struct alert_count {
    uint64_t n, hit;
};
struct alert_rate {
    struct alert_count looks[ALERT_RECENT_LOOKS + ALERT_PAST_LOOKS + 1]; /* a ring */
    size_t n_looks;
};
void alert_rate_note(struct alert_rate *r, struct alert_count total);
/* What came in the last ALERT_RECENT_LOOKS, and in the ALERT_PAST_LOOKS before; as far as there were any. */
void alert_rate_windows(const struct alert_rate *r, struct alert_count *recent, struct alert_count *past);
/* Sudden: at least per_cent of the recent ones (ALERT_MIN_REQUESTS at least), and ALERT_SUDDEN times the share of those before. So what stays
 * high is told once; without a past the share alone counts. */
bool alert_rate_is_high(const struct alert_count *recent, const struct alert_count *past, int per_cent);

/* Until the next try, after so many (1 and up): doubled each time. */
int64_t alert_retry_ms(int tries);

#endif
