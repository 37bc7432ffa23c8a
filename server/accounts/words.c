/* Words: see words.h. */
#include "server/accounts/words.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/str.h"
#include "server/accounts/money.h"
#include "server/accounts/report.h"

enum { HOUR_S = 3600, DIGITS_BYTES = 64, NANO_A_HUNDREDTH = 10000000 };

int words_money(const char *name, const char *text, int64_t *nusd, struct err *e)
{
    if (money_parse(text, nusd)) return 0;
    return err_set_param(e, ERR_INPUT, name, "%s: '%.80s' is not an amount in dollars like 12.50 (at most 9 decimals)", name, text);
}

/* --- days and months --- */

/* A day that exists, from 1970 on; *end: what follows it. */
static bool read_day(const char *text, struct tm *tm, const char **end)
{
    struct tm back;
    *tm = (struct tm){0};
    *end = strptime(text, "%Y-%m-%d", tm);
    if (!*end) return false;
    struct tm copy = *tm;
    time_t t = timegm(&copy);
    return t >= 0 && gmtime_r(&t, &back) && back.tm_mday == tm->tm_mday;
}

int words_day(const char *name, const char *text, int64_t *day, struct err *e)
{
    struct tm tm;
    const char *end;
    if (!read_day(text, &tm, &end) || *end) return err_set_param(e, ERR_INPUT, name, "%s: '%.80s' is not a day like 2026-11-29", name, text);
    *day = (int64_t)timegm(&tm) / WORDS_DAY_S;
    return 0;
}

char *words_show_day(int64_t at_s, char out[WORDS_DAY_BYTES])
{
    struct tm tm;
    time_t t = (time_t)at_s;
    strftime(out, WORDS_DAY_BYTES, "%Y-%m-%d", gmtime_r(&t, &tm));
    return out;
}

int words_month(const char *name, const char *text, int64_t *from_s, int64_t *to_s, struct err *e)
{
    time_t now = (time_t)clock_wall_s();
    struct tm tm = {0};
    char this_month[16], digits[8];
    int64_t year, month;
    if (!text) {
        strftime(this_month, sizeof this_month, "%Y-%m", gmtime_r(&now, &tm));
        text = this_month;
    }
    snprintf(digits, sizeof digits, "%.4s", text);
    if (strlen(text) != 7 || text[4] != '-' || !str_parse_int64(digits, 1970, 9999, &year) || !str_parse_int64(text + 5, 1, 12, &month))
        return err_set_param(e, ERR_INPUT, name, "%s: '%.80s' is not a month like 2026-11", name, text);
    tm = (struct tm){.tm_year = (int)year - 1900, .tm_mon = (int)month - 1, .tm_mday = 1};
    *from_s = (int64_t)timegm(&tm);
    tm = (struct tm){.tm_year = (int)year - 1900, .tm_mon = (int)month, .tm_mday = 1};
    *to_s = (int64_t)timegm(&tm);
    return 0;
}

int words_days(const char *from_name, const char *from, const char *to_name, const char *to, int64_t first, int64_t *from_day,
               int64_t *to_day, struct err *e)
{
    *to_day = clock_wall_s() / WORDS_DAY_S;
    int rc = to ? words_day(to_name, to, to_day, e) : 0;
    *from_day = first < 0 ? *to_day + first : first;
    if (!rc && from) rc = words_day(from_name, from, from_day, e);
    if (!rc && *from_day > *to_day) rc = err_set_param(e, ERR_INPUT, from_name, "%s: is after %s", from_name, to_name);
    return rc;
}

/* --- groups, amounts --- */

const struct words_group words_groups_list[WORDS_GROUPS] = {{"day", REPORT_DAY},     {"project", REPORT_PROJECT},   {"key", REPORT_KEY},
                                                            {"model", REPORT_MODEL}, {"supplier", REPORT_SUPPLIER}, {"tag", REPORT_TAG}};

int words_groups(const char *name, const char *text, unsigned *by, struct err *e)
{
    *by = 0;
    for (const char *p = text, *comma; p; p = comma ? comma + 1 : NULL) {
        comma = strchr(p, ',');
        size_t n = comma ? (size_t)(comma - p) : strlen(p), i = 0;
        while (i < WORDS_GROUPS && !(strlen(words_groups_list[i].word) == n && memcmp(words_groups_list[i].word, p, n) == 0)) i++;
        if (i == WORDS_GROUPS)
            return err_set_param(e, ERR_INPUT, name, "%s: '%.80s' is not a list of day, project, key, model, supplier, tag", name, text);
        *by |= words_groups_list[i].bit;
    }
    return 0;
}

int words_amount(const char *name, const char *unit, const char *text, int64_t *amount, struct err *e)
{
    if (strcmp(unit, "usd") == 0) return words_money(name, text, amount, e);
    if (str_parse_int64(text, 0, INT64_MAX, amount)) return 0;
    return err_set_param(e, ERR_INPUT, name, "%s: '%.80s' is not a number of %s", name, text, unit);
}

int words_percent(const char *name, const char *text, int64_t max, int64_t *hundredths, struct err *e)
{
    int64_t nano = 0; /* 1 % as a "dollar" */
    bool good = money_parse(text, &nano) && nano >= 0 && nano % NANO_A_HUNDREDTH == 0 && nano / NANO_A_HUNDREDTH <= max;
    *hundredths = nano / NANO_A_HUNDREDTH;
    if (good) return 0;
    return err_set_param(e, ERR_INPUT, name, "%s: '%.80s' is not a percentage from 0 to %lld with at most 2 decimals", name, text, (long long)max / 100);
}

/* --- times --- */

static bool parse_span(const char *text, int64_t min_s, int64_t *seconds)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'y', WORDS_YEAR_S}, {'w', 7 * WORDS_DAY_S}, {'d', WORDS_DAY_S}, {'h', HOUR_S}, {'m', 60}, {'s', 1}};
    char digits[DIGITS_BYTES];
    int64_t number;
    size_t n = strspn(text, "0123456789");
    if (n >= sizeof digits || !text[n] || text[n + 1]) return false;
    memcpy(digits, text, n);
    digits[n] = '\0';
    if (!str_parse_int64(digits, 0, INT64_MAX, &number)) return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (units[i].unit == text[n])
            return !__builtin_mul_overflow(number, units[i].seconds, seconds) && *seconds >= min_s &&
                   *seconds <= WORDS_MAX_YEARS * (int64_t)WORDS_YEAR_S;
    return false;
}

int words_span(const char *name, const char *text, int64_t min_s, int64_t *seconds, struct err *e)
{
    if (parse_span(text, min_s, seconds)) return 0;
    return err_set_param(e, ERR_INPUT, name, "%s: '%.80s' is not a time like 24h, 30m or 0s", name, text);
}

/* "2026-12-31" (its beginning, UTC) or "2026-12-31T18:30Z". */
static bool parse_moment(const char *text, int64_t *at_s)
{
    struct tm tm;
    const char *end;
    if (!read_day(text, &tm, &end)) return false;
    if (*end == 'T') {
        end = strptime(end, "T%H:%M", &tm);
        if (end && *end++ != 'Z') return false;
    }
    if (!end || *end) return false;
    *at_s = (int64_t)timegm(&tm);
    return true;
}

int words_expires(const char *name, const char *text, int64_t *expires_s, struct err *e)
{
    int64_t now_s = clock_wall_s(), span_s;
    if (strcmp(text, "never") == 0)
        *expires_s = 0;
    else if (parse_span(text, 1, &span_s))
        *expires_s = now_s + span_s;
    else if (!parse_moment(text, expires_s))
        return err_set_param(e, ERR_INPUT, name,
                             "%s: '%.80s' is not a time like 30d, 12h, 2026-12-31, 2026-12-31T18:30Z or never (at most %d years)", name, text,
                             WORDS_MAX_YEARS);
    else if (*expires_s <= now_s || *expires_s > now_s + WORDS_MAX_YEARS * (int64_t)WORDS_YEAR_S)
        return err_set_param(e, ERR_INPUT, name, "%s: %.80s is %s", name, text, *expires_s <= now_s ? "in the past" : "too far away");
    return 0;
}
