/* Words: what operators write, on a command line or in a request to /admin: amounts, days, months, times, groups. One meaning for both.
 *
 * name: of what the text is for, such as "--from" or "from": the message begins with it, and it is e->param. All return 0 or -ERR_INPUT. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_WORDS_H
#define SPILLWAY_SERVER_ACCOUNTS_WORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { WORDS_MAX_YEARS = 100, WORDS_DAY_S = 24 * 3600, WORDS_YEAR_S = 365 * WORDS_DAY_S, WORDS_DAY_BYTES = 32 };

/* "12.50" in dollars. */
MUST_USE int words_money(const char *name, const char *text, int64_t *nusd, struct err *e);
/* "2026-11-29" as days since 1970. */
MUST_USE int words_day(const char *name, const char *text, int64_t *day, struct err *e);
/* "2026-11": its first second and that of the next; NULL: this month. */
MUST_USE int words_month(const char *name, const char *text, int64_t *from_s, int64_t *to_s, struct err *e);
/* Two days, both counted; NULL: until today; from `first` on, which below 0 is so many days before the last. */
MUST_USE int words_days(const char *from_name, const char *from, const char *to_name, const char *to, int64_t first, int64_t *from_day,
                        int64_t *to_day, struct err *e);
/* "project,day": REPORT_... of report.h. */
MUST_USE int words_groups(const char *name, const char *text, unsigned *by, struct err *e);
/* The amount of a budget of this unit (usd, requests, tokens): nano-dollars or a count. */
MUST_USE int words_amount(const char *name, const char *unit, const char *text, int64_t *amount, struct err *e);
/* "12.5": hundredths of a percent, up to max. */
MUST_USE int words_percent(const char *name, const char *text, int64_t max, int64_t *hundredths, struct err *e);
/* "30d", "24h", "0s": at least min_s, at most WORDS_MAX_YEARS. */
MUST_USE int words_span(const char *name, const char *text, int64_t min_s, int64_t *seconds, struct err *e);
/* "30d" from now, "2026-12-31", "2026-12-31T18:30Z" or "never" (0): in the future. */
MUST_USE int words_expires(const char *name, const char *text, int64_t *expires_s, struct err *e);

/* The other way. Returns out. */
char *words_show_day(int64_t at_s, char out[WORDS_DAY_BYTES]);

/* The groups of words_groups in their order, for who writes columns of them. */
struct words_group {
    const char *word;
    unsigned bit;
};
enum { WORDS_GROUPS = 6 };
extern const struct words_group words_groups_list[WORDS_GROUPS];

#endif
