/* Strict JSON: see strict_json.h. One state machine with a stack of open brackets; the keys seen so far lie in one list, each bracket
 * knowing where its own begin. */
#include "tests/fuzz/strict_json.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 256, MAX_KEYS = 4096 };

struct key {
    char *p;
    size_t n;
};
struct scanner {
    const unsigned char *p;
    size_t n, at;
    char *text; /* the last string, escapes resolved; room for n bytes */
    size_t n_text;
    struct key *keys;
    size_t n_keys;
    struct {
        char open;
        size_t first_key;
    } stack[MAX_DEPTH];
    size_t depth, values;
};

/* Length of the character at p by table 3-7 of the Unicode standard; 0 if it is ill-formed. */
static size_t utf8_length(const unsigned char *p, size_t n)
{
    if (p[0] < 0x80) return 1;
    if (p[0] >= 0xC2 && p[0] <= 0xDF) return n >= 2 && (p[1] & 0xC0) == 0x80 ? 2 : 0;
    if (p[0] >= 0xE0 && p[0] <= 0xEF) {
        unsigned low = p[0] == 0xE0 ? 0xA0 : 0x80, high = p[0] == 0xED ? 0x9F : 0xBF;
        return n >= 3 && p[1] >= low && p[1] <= high && (p[2] & 0xC0) == 0x80 ? 3 : 0;
    }
    if (p[0] >= 0xF0 && p[0] <= 0xF4) {
        unsigned low = p[0] == 0xF0 ? 0x90 : 0x80, high = p[0] == 0xF4 ? 0x8F : 0xBF;
        return n >= 4 && p[1] >= low && p[1] <= high && (p[2] & 0xC0) == 0x80 && (p[3] & 0xC0) == 0x80 ? 4 : 0;
    }
    return 0;
}

static int hex4(const struct scanner *s, size_t at)
{
    int v = 0;
    for (size_t i = 0; i < 4; i++) {
        if (at + i >= s->n) return -1;
        unsigned char c = s->p[at + i];
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0) return -1;
        v = v * 16 + digit;
    }
    return v;
}

static void put_code_point(struct scanner *s, unsigned cp)
{
    char *to = s->text + s->n_text;
    if (cp < 0x80) {
        *to++ = (char)cp;
    } else if (cp < 0x800) {
        *to++ = (char)(0xC0 | cp >> 6);
        *to++ = (char)(0x80 | (cp & 63));
    } else if (cp < 0x10000) {
        *to++ = (char)(0xE0 | cp >> 12);
        *to++ = (char)(0x80 | (cp >> 6 & 63));
        *to++ = (char)(0x80 | (cp & 63));
    } else {
        *to++ = (char)(0xF0 | cp >> 18);
        *to++ = (char)(0x80 | (cp >> 12 & 63));
        *to++ = (char)(0x80 | (cp >> 6 & 63));
        *to++ = (char)(0x80 | (cp & 63));
    }
    s->n_text = (size_t)(to - s->text);
}

/* at is behind the backslash. */
static bool scan_escape(struct scanner *s)
{
    if (s->at >= s->n) return false;
    unsigned char c = s->p[s->at++];
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *k = c ? strchr(from, c) : NULL;
    if (k) {
        s->text[s->n_text++] = to[k - from];
        return true;
    }
    int high = c == 'u' ? hex4(s, s->at) : -1;
    if (high < 0 || (high >= 0xDC00 && high <= 0xDFFF)) return false;
    s->at += 4;
    if (high < 0xD800 || high > 0xDBFF) return put_code_point(s, (unsigned)high), true;
    int low = s->at + 6 <= s->n && s->p[s->at] == '\\' && s->p[s->at + 1] == 'u' ? hex4(s, s->at + 2) : -1;
    if (low < 0xDC00 || low > 0xDFFF) return false;
    s->at += 6;
    return put_code_point(s, 0x10000u + ((unsigned)high - 0xD800u) * 0x400u + ((unsigned)low - 0xDC00u)), true;
}

/* at is behind the opening quote; afterwards behind the closing one. */
static bool scan_string(struct scanner *s)
{
    s->n_text = 0;
    while (s->at < s->n) {
        unsigned char c = s->p[s->at];
        if (c == '"') return s->at++, true;
        if (c < 0x20) return false;
        if (c == '\\') {
            s->at++;
            if (!scan_escape(s)) return false;
            continue;
        }
        size_t len = utf8_length(s->p + s->at, s->n - s->at);
        if (!len) return false;
        memcpy(s->text + s->n_text, s->p + s->at, len);
        s->n_text += len;
        s->at += len;
    }
    return false;
}

static size_t digits(const struct scanner *s, size_t at)
{
    size_t k = 0;
    while (at + k < s->n && s->p[at + k] >= '0' && s->p[at + k] <= '9') k++;
    return k;
}

static bool number_fits(const struct scanner *s, size_t from, bool whole)
{
    size_t n = s->at - from;
    char *text = malloc(n + 1);
    if (!text) abort();
    memcpy(text, s->p + from, n);
    text[n] = '\0';
    errno = 0;
    bool fits;
    if (whole) {
        (void)strtoll(text, NULL, 10);
        fits = errno == 0;
    } else {
        fits = isfinite(strtod(text, NULL));
    }
    free(text);
    return fits;
}

static bool scan_number(struct scanner *s)
{
    size_t from = s->at;
    bool whole = true;
    if (s->p[s->at] == '-') s->at++;
    size_t n = digits(s, s->at);
    if (n == 0 || (n > 1 && s->p[s->at] == '0')) return false;
    s->at += n;
    if (s->at < s->n && s->p[s->at] == '.') {
        n = digits(s, s->at + 1);
        if (!n) return false;
        s->at += 1 + n;
        whole = false;
    }
    if (s->at < s->n && (s->p[s->at] | 32) == 'e') {
        s->at++;
        if (s->at < s->n && (s->p[s->at] == '+' || s->p[s->at] == '-')) s->at++;
        n = digits(s, s->at);
        if (!n) return false;
        s->at += n;
        whole = false;
    }
    return number_fits(s, from, whole);
}

static bool scan_word(struct scanner *s, const char *word)
{
    size_t n = strlen(word);
    if (n > s->n - s->at || memcmp(s->p + s->at, word, n)) return false;
    s->at += n;
    return true;
}

static void skip_blanks(struct scanner *s)
{
    while (s->at < s->n && (s->p[s->at] == ' ' || s->p[s->at] == '\t' || s->p[s->at] == '\n' || s->p[s->at] == '\r')) s->at++;
}

static bool take(struct scanner *s, unsigned char c)
{
    skip_blanks(s);
    if (s->at >= s->n || s->p[s->at] != c) return false;
    s->at++;
    return true;
}

/* A key and its colon, new among those of the innermost object. */
static bool scan_key(struct scanner *s, const struct strict_json_limits *l)
{
    if (!take(s, '"')) return false;
    size_t start = s->at;
    if (!scan_string(s) || s->at - 1 - start > l->max_key_bytes || memchr(s->text, 0, s->n_text) || s->n_keys == MAX_KEYS) return false;
    for (size_t i = s->stack[s->depth - 1].first_key; i < s->n_keys; i++)
        if (s->keys[i].n == s->n_text && memcmp(s->keys[i].p, s->text, s->n_text) == 0) return false;
    struct key k = {malloc(s->n_text + 1), s->n_text};
    if (!k.p) abort();
    memcpy(k.p, s->text, k.n);
    s->keys[s->n_keys++] = k;
    return take(s, ':');
}

static void close_bracket(struct scanner *s)
{
    s->depth--;
    while (s->n_keys > s->stack[s->depth].first_key) free(s->keys[--s->n_keys].p);
}

static bool scan_scalar(struct scanner *s)
{
    unsigned char c = s->p[s->at];
    if (c == '"') return s->at++, scan_string(s);
    if (c == '-' || (c >= '0' && c <= '9')) return scan_number(s);
    return c == 't' ? scan_word(s, "true") : c == 'f' ? scan_word(s, "false") : c == 'n' && scan_word(s, "null");
}

/* A value has ended: a comma and, in an object, the next key; or closing brackets, as many as there are. *done: the outermost is closed. */
static bool after_value(struct scanner *s, const struct strict_json_limits *l, bool *done)
{
    for (;;) {
        if (s->depth == 0) return *done = true;
        bool object = s->stack[s->depth - 1].open == '{';
        if (take(s, ',')) return ++s->values <= l->max_values && (!object || scan_key(s, l));
        if (!take(s, object ? '}' : ']')) return false;
        close_bracket(s);
    }
}

static bool scan(struct scanner *s, const struct strict_json_limits *l)
{
    for (bool done = false; !done;) {
        skip_blanks(s);
        if (s->at >= s->n) return false;
        unsigned char c = s->p[s->at];
        if (c != '{' && c != '[') {
            if (!scan_scalar(s) || !after_value(s, l, &done)) return false;
            continue;
        }
        s->at++;
        if (s->depth >= l->max_depth || s->depth == MAX_DEPTH || ++s->values > l->max_values) return false;
        s->stack[s->depth].open = (char)c;
        s->stack[s->depth++].first_key = s->n_keys;
        if (take(s, c == '{' ? '}' : ']')) {
            close_bracket(s);
            if (!after_value(s, l, &done)) return false;
        } else if (c == '{' && !scan_key(s, l)) {
            return false;
        }
    }
    skip_blanks(s);
    return s->at == s->n;
}

bool strict_json_valid(const char *p, size_t n, const struct strict_json_limits *limits)
{
    struct scanner s = {.p = (const unsigned char *)p, .n = n, .values = 1};
    s.text = malloc(n + 1);
    s.keys = malloc(MAX_KEYS * sizeof *s.keys);
    if (!s.text || !s.keys) abort();
    bool ok = s.values <= limits->max_values && scan(&s, limits);
    while (s.n_keys) free(s.keys[--s.n_keys].p);
    free(s.keys);
    free(s.text);
    return ok;
}
