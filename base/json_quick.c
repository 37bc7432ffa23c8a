/* JSON, the quick way: see json_quick.h. Recursive descent over the text; depth and numbers of values have been bounded by json_read before. */
#include "base/json_quick.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

enum { NUMBER_MAX_BYTES = 40 };

struct quick {
    const char *p, *end;
    size_t n_text;
    char *scratch; /* for strings with escapes, as long as the text; NULL: none was needed yet */
    void *(*allocate)(size_t n);
};

static json_t *value(struct quick *q);

static void skip_blanks(struct quick *q)
{
    while (q->p < q->end && (*q->p == ' ' || *q->p == '\n' || *q->p == '\r' || *q->p == '\t')) q->p++;
}

static bool take(struct quick *q, char c)
{
    skip_blanks(q);
    if (q->p == q->end || *q->p != c) return false;
    q->p++;
    return true;
}

/* From behind the opening quote to the next quote, escape or control character; false if it is no UTF-8. */
static bool plain_run(struct quick *q, const char **from, size_t *n)
{
    unsigned char high = 0;
    const char *p = q->p;
    while (p < q->end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20) high |= (unsigned char)*p++;
    *from = q->p;
    *n = (size_t)(p - q->p);
    q->p = p;
    return p < q->end && (high < 0x80 || utf8_valid(*from, *n));
}

/* The rest of a string whose first n bytes, at p, are plain: escapes but for \u, which is left to the library. */
static json_t *escaped_string(struct quick *q, const char *p, size_t n)
{
    static const char letters[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    if (!q->scratch && !(q->scratch = q->allocate(q->n_text))) return NULL;
    size_t len = 0;
    for (;;) {
        memcpy(q->scratch + len, p, n);
        len += n;
        if (*q->p == '"') break;
        const char *letter = *q->p == '\\' && q->p + 1 < q->end && q->p[1] ? strchr(letters, q->p[1]) : NULL;
        if (!letter) return NULL;
        q->scratch[len++] = bytes[letter - letters];
        q->p += 2;
        if (!plain_run(q, &p, &n)) return NULL;
    }
    q->p++;
    return json_stringn_nocheck(q->scratch, len);
}

/* Behind the opening quote. */
static json_t *string(struct quick *q)
{
    const char *p;
    size_t n;
    if (!plain_run(q, &p, &n)) return NULL;
    if (*q->p != '"') return escaped_string(q, p, n);
    q->p++;
    return json_stringn_nocheck(p, n);
}

static bool is_digit(const struct quick *q)
{
    return q->p < q->end && *q->p >= '0' && *q->p <= '9';
}

static bool digits(struct quick *q)
{
    if (!is_digit(q)) return false;
    while (is_digit(q)) q->p++;
    return true;
}

/* What is behind an integer's digits. */
static json_t *real(struct quick *q, const char *from)
{
    char text[NUMBER_MAX_BYTES + 1];
    if (*q->p == '.') {
        q->p++;
        if (!digits(q)) return NULL;
    }
    if (q->p < q->end && (*q->p == 'e' || *q->p == 'E')) {
        q->p++;
        if (q->p < q->end && (*q->p == '+' || *q->p == '-')) q->p++;
        if (!digits(q)) return NULL;
    }
    size_t n = (size_t)(q->p - from);
    if (n > NUMBER_MAX_BYTES) return NULL;
    memcpy(text, from, n);
    text[n] = '\0';
    double v = strtod(text, NULL);
    return isfinite(v) ? json_real(v) : NULL;
}

static json_t *number(struct quick *q)
{
    const char *from = q->p;
    int64_t v = 0;
    bool negative = *q->p == '-';
    q->p += negative;
    const char *first = q->p;
    for (; is_digit(q); q->p++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_sub_overflow(v, *q->p - '0', &v)) return NULL; /* of its negative, which reaches further */
    if (q->p == first || (*first == '0' && q->p > first + 1)) return NULL;
    if (q->p < q->end && (*q->p == '.' || *q->p == 'e' || *q->p == 'E')) return real(q, from);
    if (!negative && v == INT64_MIN) return NULL;
    return json_integer(negative ? v : -v);
}

static json_t *word(struct quick *q, const char *text, json_t *v)
{
    size_t n = strlen(text);
    if ((size_t)(q->end - q->p) < n || memcmp(q->p, text, n) != 0) return NULL;
    q->p += n;
    return v;
}

/* A member, v taken over; false: it is there twice. */
static bool add(json_t *object, const char *key, size_t n, json_t *v)
{
    size_t before = json_object_size(object);
    return v && json_object_setn_new_nocheck(object, key, n, v) == 0 && json_object_size(object) > before;
}

static bool members(struct quick *q, json_t *object)
{
    if (take(q, '}')) return true;
    do {
        const char *key;
        size_t n;
        if (!take(q, '"') || !plain_run(q, &key, &n) || *q->p != '"') return false;
        q->p++;
        if (!take(q, ':') || !add(object, key, n, value(q))) return false;
    } while (take(q, ','));
    return take(q, '}');
}

static bool items(struct quick *q, json_t *array)
{
    if (take(q, ']')) return true;
    do {
        json_t *v = value(q);
        if (!v || json_array_append_new(array, v)) return false;
    } while (take(q, ','));
    return take(q, ']');
}

static json_t *filled(json_t *v, bool whole)
{
    if (whole) return v;
    json_decref(v);
    return NULL;
}

static json_t *value(struct quick *q)
{
    skip_blanks(q);
    if (q->p == q->end) return NULL;
    json_t *v;
    switch (*q->p) {
    case '{':
        q->p++;
        v = json_object();
        return filled(v, v && members(q, v));
    case '[':
        q->p++;
        v = json_array();
        return filled(v, v && items(q, v));
    case '"':
        q->p++;
        return string(q);
    case 't':
        return word(q, "true", json_true());
    case 'f':
        return word(q, "false", json_false());
    case 'n':
        return word(q, "null", json_null());
    default:
        return number(q);
    }
}

json_t *json_quick(const char *p, size_t n, void *(*allocate)(size_t n), void (*release)(void *p))
{
    struct quick q = {.p = p, .end = p + n, .n_text = n, .allocate = allocate};
    json_t *v = value(&q);
    skip_blanks(&q);
    if (q.scratch) release(q.scratch);
    if (!v || q.p == q.end) return v;
    json_decref(v);
    return NULL;
}
