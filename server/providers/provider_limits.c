/* Rate-limit headers and times to wait: see provider_error.h. */
#include "server/providers/provider_error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/str.h"

static const int64_t max_wait_ms = INT64_C(31) * 86400 * 1000;

void provider_limits_init(struct provider_limits *l)
{
    *l = (struct provider_limits){.retry_after_ms = -1, .should_retry = -1};
    for (int i = 0; i < LIMIT_METERS; i++) l->meters[i] = (struct provider_limit){.limit = -1, .remaining = -1, .reset_ms = -1};
}

static int64_t clamp_ms(double ms)
{
    return ms > (double)max_wait_ms ? max_wait_ms : ms < 0 ? 0 : (int64_t)(ms + 0.5);
}

/* "6m0s", "1h2m3.5s", "12ms", "34s": numbers with units, all of the text. */
static int64_t go_duration(const char *s)
{
    static const struct {
        const char *unit;
        double ms;
    } units[] = {{"ms", 1}, {"us", 1e-3}, {"\xc2\xb5s", 1e-3}, {"ns", 1e-6}, {"s", 1e3}, {"m", 6e4}, {"h", 3.6e6}, {"d", 8.64e7}};
    double sum = 0;
    if (!*s) return -1;
    while (*s) {
        char *end;
        if (*s < '0' || *s > '9') return -1;
        double n = strtod(s, &end);
        size_t i = 0, count = sizeof units / sizeof units[0];
        while (i < count && !str_starts_with(end, units[i].unit)) i++;
        if (end == s || i == count) return -1;
        sum += n * units[i].ms;
        s = end + strlen(units[i].unit);
    }
    return clamp_ms(sum);
}

static bool digits(const char *s, const char *also)
{
    size_t n = strspn(s, "0123456789");
    return n > 0 && s[n + strspn(s + n, also)] == '\0';
}

/* Seconds; a number that can only be a time since 1970 is one, in seconds or milliseconds. */
static int64_t plain_seconds(const char *s, int64_t now_ms)
{
    if (!digits(s, "0123456789.")) return -1;
    double n = strtod(s, NULL);
    if (n >= 1e12) return clamp_ms(n - (double)now_ms);
    if (n >= 1e9) return clamp_ms(n * 1e3 - (double)now_ms);
    return clamp_ms(n * 1e3);
}

static int64_t until(struct tm *tm, double fraction_s, long offset_s, int64_t now_ms)
{
    time_t t = timegm(tm);
    return t < 0 ? -1 : clamp_ms(((double)t + fraction_s - (double)offset_s) * 1e3 - (double)now_ms);
}

/* 2026-01-31T10:00:00.5Z, or with +01:00 in place of the Z. */
static int64_t rfc3339(const char *s, int64_t now_ms)
{
    struct tm tm = {0};
    int n = 0, hours, minutes;
    if (sscanf(s, "%4d-%2d-%2dT%2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &n) != 6 ||
        n < 19)
        return -1;
    if (tm.tm_year < 1970 || tm.tm_year > 9999 || tm.tm_mon < 1 || tm.tm_mon > 12) return -1;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    double fraction = 0;
    char *end = (char *)s + n;
    if (*end == '.') fraction = strtod(end, &end);
    char sign = *end;
    if ((sign == 'Z' || sign == 'z') && !end[1]) return until(&tm, fraction, 0, now_ms);
    if ((sign != '+' && sign != '-') || sscanf(end + 1, "%2d:%2d", &hours, &minutes) != 2) return -1;
    return until(&tm, fraction, (sign == '-' ? -1 : 1) * (hours * 3600L + minutes * 60L), now_ms);
}

static int64_t http_date(const char *s, int64_t now_ms)
{
    struct tm tm = {0};
    const char *end = strptime(s, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    return end && !*end ? until(&tm, 0, 0, now_ms) : -1;
}

int64_t provider_wait_parse(const char *text, size_t n, int64_t now_ms)
{
    char s[64];
    while (n && (*text == ' ' || *text == '\t')) text++, n--;
    while (n && (text[n - 1] == ' ' || text[n - 1] == '\t')) n--;
    if (n == 0 || n >= sizeof s || memchr(text, 0, n)) return -1;
    memcpy(s, text, n);
    s[n] = '\0';
    int64_t ms = plain_seconds(s, now_ms);
    if (ms < 0) ms = go_duration(s);
    if (ms < 0) ms = rfc3339(s, now_ms);
    return ms < 0 ? http_date(s, now_ms) : ms;
}

static bool name_is(const char *line, size_t n_name, const char *name)
{
    return strlen(name) == n_name && strncasecmp(line, name, n_name) == 0;
}

static void copy_text(char *out, size_t cap, const char *p, size_t n)
{
    size_t at = 0;
    for (size_t i = 0; i < n && at + 1 < cap; i++)
        if (p[i] >= ' ' && p[i] < 0x7F) out[at++] = p[i];
    out[at] = '\0';
}

/* Positive counts only: a limit of 0 or -1 is some machine's way of saying nothing. A remaining 0 is real when there is a limit. */
static void take_limit(struct provider_limits *l, const struct limit_header *h, const char *value, size_t n, int64_t now_ms)
{
    struct provider_limit *m = &l->meters[h->meter];
    char s[32];
    m->window = h->window;
    if (h->field == LIMIT_RESET) {
        m->reset_ms = provider_wait_parse(value, n, now_ms);
        return;
    }
    if (n == 0 || n >= sizeof s) return;
    memcpy(s, value, n);
    s[n] = '\0';
    char *end;
    double count = strtod(s, &end); /* some write 1000.0 */
    if (*end || end == s || !(count >= (h->field == LIMIT_LIMIT ? 1 : 0)) || count > 1e15) return;
    *(h->field == LIMIT_LIMIT ? &m->limit : &m->remaining) = (int64_t)count;
}

void provider_limits_header(struct provider_limits *l, const struct provider *p, const char *line, size_t n, int64_t now_ms)
{
    const char *colon = memchr(line, ':', n), *value;
    if (!colon) return;
    size_t n_name = (size_t)(colon - line), n_value;
    for (value = colon + 1; value < line + n && (*value == ' ' || *value == '\t');) value++;
    n_value = (size_t)(line + n - value);
    while (n_value && strchr(" \t\r\n", value[n_value - 1])) n_value--;
    if (name_is(line, n_name, "retry-after-ms")) {
        int64_t ms = provider_wait_parse(value, n_value, now_ms);
        if (ms >= 0) l->retry_after_ms = ms / 1000;
    } else if (name_is(line, n_name, "retry-after")) {
        if (l->retry_after_ms < 0)
            l->retry_after_ms = provider_wait_parse(value, n_value, now_ms); /* -ms is exacter, whichever comes first */
    } else if (name_is(line, n_name, "x-should-retry"))
        l->should_retry = n_value == 4 && strncasecmp(value, "true", 4) == 0;
    else if (name_is(line, n_name, "x-amzn-errortype"))
        copy_text(l->error_type, sizeof l->error_type, value, n_value);
    else if (name_is(line, n_name, "content-type"))
        copy_text(l->content_type, sizeof l->content_type, value, n_value);
    else if (p->request_id && name_is(line, n_name, p->request_id))
        copy_text(l->request_id, sizeof l->request_id, value, n_value);
    for (const struct limit_header *h = p->limits; h && h->name; h++)
        if (name_is(line, n_name, h->name)) take_limit(l, h, value, n_value, now_ms);
}
