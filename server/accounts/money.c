/* Money: see money.h. */
#include "server/accounts/money.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

enum { DECIMALS = 9, MOST_DIGITS = 64, MOST_EXPONENT = 40 };

/* A number in decimal: its digits, and how many of them stand before the point (< 0: so many zeros follow it). */
struct decimal {
    bool minus;
    char digits[MOST_DIGITS];
    int n, point;
};

static bool take_digits(const char **p, struct decimal *d)
{
    const char *from = *p;
    for (; **p >= '0' && **p <= '9'; ++*p) {
        if (d->n == MOST_DIGITS) return false;
        d->digits[d->n++] = **p;
    }
    return *p > from;
}

static bool take_exponent(const char *p, struct decimal *d)
{
    int64_t exponent;
    if (*p == '+') p++;
    if (!str_parse_int64(p, -MOST_EXPONENT, MOST_EXPONENT, &exponent)) return false;
    d->point += (int)exponent;
    return true;
}

static bool decimal_read(const char *text, bool exponents, struct decimal *d)
{
    *d = (struct decimal){.minus = *text == '-'};
    const char *p = text + d->minus;
    if (!take_digits(&p, d)) return false;
    d->point = d->n;
    if (*p == '.') {
        p++;
        if (!take_digits(&p, d)) return false;
    }
    if (exponents && (*p == 'e' || *p == 'E')) return take_exponent(p + 1, d);
    return *p == '\0';
}

/* The digit at this place: 0 is the first after the point, -1 the one before it. */
static int digit_at(const struct decimal *d, int place)
{
    int i = d->point + place;
    return i >= 0 && i < d->n ? d->digits[i] - '0' : 0;
}

static bool decimal_nusd(const struct decimal *d, int64_t *nusd)
{
    int64_t sum = 0, sign = d->minus ? -1 : 1; /* summed with its sign: INT64_MIN has no positive */
    for (int place = d->point > 0 ? -d->point : 0; place < DECIMALS; place++)
        if (__builtin_mul_overflow(sum, 10, &sum) || __builtin_add_overflow(sum, sign * digit_at(d, place), &sum)) return false;
    if (digit_at(d, DECIMALS) >= 5 && __builtin_add_overflow(sum, sign, &sum)) return false;
    *nusd = sum;
    return true;
}

bool money_parse(const char *text, int64_t *nusd)
{
    struct decimal d;
    return decimal_read(text, false, &d) && d.n - d.point <= DECIMALS && decimal_nusd(&d, nusd);
}

bool money_parse_report(const char *text, int64_t *nusd)
{
    struct decimal d;
    return decimal_read(text, true, &d) && decimal_nusd(&d, nusd);
}

char *money_write(int64_t nusd, char out[MONEY_BYTES])
{
    uint64_t size = nusd < 0 ? 0 - (uint64_t)nusd : (uint64_t)nusd, billion = 1000000000;
    int n = snprintf(out, MONEY_BYTES, "%s%llu.%09llu", nusd < 0 ? "-" : "", (unsigned long long)(size / billion),
                     (unsigned long long)(size % billion));
    const char *point = strchr(out, '.');
    while (out[n - 1] == '0' && out + n > point + 3) n--;
    out[n] = '\0';
    return out;
}
