/* Printing: str and repr as Python, JSON as json.dumps, and strings built with their provenance. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/str.h"
#include "engine/text/template_parts.h"

/* --- builders --- */
static bool reserve(struct eval *v, struct out *o, size_t more)
{
    if (v->failed) return false;
    if (more > v->max_output || o->n + more > v->max_output) {
        eval_fail(v, ERR_LIMIT, "the output exceeds %zu bytes", v->max_output);
        return false;
    }
    if (o->n + more <= o->cap) return true;
    size_t cap = o->cap ? o->cap * 2 : 64;
    while (cap < o->n + more) cap *= 2;
    char *p = eval_alloc(v, cap);
    uint8_t *m = eval_alloc(v, cap);
    if (!p || !m) return false;
    if (o->n) memcpy(p, o->p, o->n), memcpy(m, o->marks, o->n);
    *o = (struct out){p, m, o->n, cap};
    return true;
}

void out_bytes(struct eval *v, struct out *o, const char *p, size_t n, uint8_t mark)
{
    eval_bytes(v, n);
    if (n == 0 || !reserve(v, o, n)) return;
    memcpy(o->p + o->n, p, n);
    memset(o->marks + o->n, mark, n);
    o->n += n;
}

void out_text(struct eval *v, struct out *o, const struct text *s, size_t from, size_t end)
{
    size_t n = end - from, at = o->n;
    out_bytes(v, o, s->p + from, n, s->mark);
    if (!v->failed && s->marks && n) memcpy(o->marks + at, s->marks + from, n);
}

struct value out_value(struct eval *v, struct out *o)
{
    struct value r = value_text(v, o->p ? o->p : "", o->n, MARK_TEMPLATE);
    if (r.u.s) ((struct text *)r.u.s)->marks = o->n ? o->marks : NULL;
    return r;
}

static void chars(struct eval *v, struct out *o, const char *s, uint8_t mark)
{
    out_bytes(v, o, s, strlen(s), mark);
}

/* --- numbers --- */
/* The shortest digits that read back as the same double, laid out as Python's repr. */
void float_repr(double f, char out[64])
{
    if (isnan(f) || isinf(f)) {
        snprintf(out, 64, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char e[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(e, sizeof e, "%.*e", digits - 1, f);
        if (strtod(e, NULL) == f) break;
    }
    char *exp_at = strchr(e, 'e');
    int exp = atoi(exp_at + 1);
    *exp_at = '\0';
    char digits[24];
    size_t n = 0;
    for (char *p = e; *p; p++)
        if (*p >= '0' && *p <= '9') digits[n++] = *p;
    digits[n] = '\0';
    const char *sign = signbit(f) ? "-" : "";
    if (exp < -4 || exp >= 16)
        snprintf(out, 64, "%s%c%s%se%c%02d", sign, digits[0], n > 1 ? "." : "", digits + 1, exp < 0 ? '-' : '+', abs(exp));
    else if (exp < 0)
        snprintf(out, 64, "%s0.%.*s%s", sign, -exp - 1, "0000", digits);
    else if ((size_t)exp + 1 >= n)
        snprintf(out, 64, "%s%s%.*s.0", sign, digits, (int)((size_t)exp + 1 - n), "0000000000000000");
    else
        snprintf(out, 64, "%s%.*s.%s", sign, exp + 1, digits, digits + exp + 1);
}

static void print_number(struct eval *v, struct out *o, struct value a)
{
    char s[64];
    if (a.type == VALUE_FLOAT)
        float_repr(a.u.f, s);
    else
        snprintf(s, sizeof s, "%lld", (long long)a.u.i);
    chars(v, o, s, a.mark);
}

/* --- repr --- */
static bool printable(uint32_t cp)
{
    if (cp < 0x7F) return cp >= 0x20;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static void repr_char(struct eval *v, struct out *o, const struct text *s, size_t at, size_t n, char quote, uint8_t mark)
{
    uint32_t cp;
    utf8_decode(s->p + at, n, &cp);
    char esc[16] = "";
    if (cp == '\n')
        strcpy(esc, "\\n");
    else if (cp == '\r')
        strcpy(esc, "\\r");
    else if (cp == '\t')
        strcpy(esc, "\\t");
    else if (cp == '\\' || cp == (uint32_t)(unsigned char)quote)
        snprintf(esc, sizeof esc, "\\%c", (char)cp);
    else if (!printable(cp))
        snprintf(esc, sizeof esc, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)cp);
    if (esc[0])
        chars(v, o, esc, mark);
    else
        out_text(v, o, s, at, at + n);
}

static void repr_text(struct eval *v, struct out *o, const struct text *s, uint8_t mark)
{
    eval_chars(v, s->n);
    char quote = memchr(s->p, '\'', s->n) && !memchr(s->p, '"', s->n) ? '"' : '\'';
    out_bytes(v, o, &quote, 1, mark);
    for (size_t i = 0; i < s->n && !v->failed;) {
        size_t n = 1;
        while (i + n < s->n && ((unsigned char)s->p[i + n] & 0xC0) == 0x80) n++;
        repr_char(v, o, s, i, n, quote, mark);
        i += n;
    }
    out_bytes(v, o, &quote, 1, mark);
}

void print_repr(struct eval *v, struct out *o, struct value a, unsigned depth)
{
    if (depth > 64) {
        eval_fail(v, ERR_LIMIT, "values nested deeper than 64");
        return;
    }
    if (!eval_step(v)) return;
    switch (a.type) {
    case VALUE_UNDEFINED:
        chars(v, o, "Undefined", a.mark);
        return;
    case VALUE_STRING:
        repr_text(v, o, a.u.s, value_mark(a));
        return;
    case VALUE_LIST:
    case VALUE_TUPLE:
        chars(v, o, a.type == VALUE_LIST ? "[" : "(", a.mark);
        for (size_t i = 0; i < a.u.list->n && !v->failed; i++) {
            if (i) chars(v, o, ", ", a.mark);
            print_repr(v, o, a.u.list->items[i], depth + 1);
        }
        chars(v, o, a.type == VALUE_LIST ? "]" : a.u.list->n == 1 ? ",)" : ")", a.mark);
        return;
    case VALUE_DICT:
        chars(v, o, "{", a.mark);
        for (size_t i = 0; i < a.u.dict->n && !v->failed; i++) {
            if (i) chars(v, o, ", ", a.mark);
            print_repr(v, o, a.u.dict->members[i].key, depth + 1);
            chars(v, o, ": ", a.mark);
            print_repr(v, o, a.u.dict->members[i].value, depth + 1);
        }
        chars(v, o, "}", a.mark);
        return;
    default:
        print_str(v, o, a);
    }
}

void print_str(struct eval *v, struct out *o, struct value a)
{
    switch (a.type) {
    case VALUE_UNDEFINED:
        return;
    case VALUE_NONE:
        chars(v, o, "None", a.mark);
        return;
    case VALUE_BOOL:
        chars(v, o, a.u.b ? "True" : "False", a.mark);
        return;
    case VALUE_INT:
    case VALUE_FLOAT:
        print_number(v, o, a);
        return;
    case VALUE_BIG:
    case VALUE_STRING:
        out_text(v, o, a.u.s, 0, a.u.s->n);
        return;
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
        print_repr(v, o, a, 0);
        return;
    default:
        eval_fail(v, ERR_UNSUPPORTED, "a value of type '%s' cannot be printed", value_type_name(a));
    }
}

struct value value_str(struct eval *v, struct value a)
{
    if (a.type == VALUE_STRING) return a;
    struct out o = {0};
    print_str(v, &o, a);
    return out_value(v, &o);
}

/* --- JSON --- */
static void json_char(struct eval *v, struct out *o, const struct text *s, size_t at, size_t n, uint32_t cp, bool ascii, uint8_t mark)
{
    static const char plain[] = "\"\\\n\r\t\b\f", letters[] = "\"\\nrtbf";
    const char *k = cp < 0x80 && cp ? strchr(plain, (int)cp) : NULL;
    char esc[16];
    if (k)
        snprintf(esc, sizeof esc, "\\%c", letters[k - plain]);
    else if (cp < 0x20 || (ascii && cp > 0x7E && cp < 0x10000))
        snprintf(esc, sizeof esc, "\\u%04x", (unsigned)cp);
    else if (ascii && cp >= 0x10000)
        snprintf(esc, sizeof esc, "\\u%04x\\u%04x", 0xD800 + (unsigned)((cp - 0x10000) >> 10), 0xDC00 + (unsigned)((cp - 0x10000) & 0x3FF));
    else {
        out_text(v, o, s, at, at + n);
        return;
    }
    chars(v, o, esc, mark);
}

static bool json_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x7F && c != '"' && c != '\\';
}

static void json_string_out(struct eval *v, struct out *o, const struct text *s, bool ascii, uint8_t mark)
{
    eval_chars(v, s->n);
    chars(v, o, "\"", mark);
    for (size_t i = 0; i < s->n && !v->failed;) {
        size_t end = i;
        while (end < s->n && json_plain((unsigned char)s->p[end])) end++;
        out_text(v, o, s, i, end);
        if ((i = end) == s->n) break;
        uint32_t cp = 0;
        int n = utf8_decode(s->p + i, s->n - i, &cp);
        if (n <= 0) n = 1;
        json_char(v, o, s, i, (size_t)n, cp, ascii && cp != 0x7F, mark);
        i += (size_t)n;
    }
    chars(v, o, "\"", mark);
}

static void new_line(struct eval *v, struct out *o, const struct json_style *s, int level, uint8_t mark)
{
    if (s->indent < 0) return;
    chars(v, o, "\n", mark);
    for (int i = 0; i < level * s->indent && !v->failed; i++) out_bytes(v, o, " ", 1, mark);
}

static void separator(struct eval *v, struct out *o, struct value given, const char *usual, uint8_t mark)
{
    if (given.type == VALUE_STRING)
        out_text(v, o, given.u.s, 0, given.u.s->n);
    else
        chars(v, o, usual, mark);
}

static int by_key(const void *pa, const void *pb)
{
    const struct value *a = &((const struct member *)pa)->key, *b = &((const struct member *)pb)->key;
    if (a->type != VALUE_STRING || b->type != VALUE_STRING) return 0;
    size_t n = a->u.s->n < b->u.s->n ? a->u.s->n : b->u.s->n;
    int c = memcmp(a->u.s->p, b->u.s->p, n);
    return c ? c : (a->u.s->n > b->u.s->n) - (a->u.s->n < b->u.s->n);
}

static void json_dict(struct eval *v, struct out *o, struct value a, const struct json_style *s, int level)
{
    size_t n = a.u.dict->n;
    struct member *m = a.u.dict->members;
    if (s->sort && n) {
        m = eval_alloc(v, n * sizeof *m);
        if (!m) return;
        memcpy(m, a.u.dict->members, n * sizeof *m);
        qsort(m, n, sizeof *m, by_key);
    }
    chars(v, o, "{", a.mark);
    for (size_t i = 0; i < n && !v->failed; i++) {
        if (i) separator(v, o, s->item_separator, s->indent < 0 ? ", " : ",", a.mark);
        new_line(v, o, s, level + 1, a.mark);
        struct value key = m[i].key;
        if (key.type == VALUE_LIST || key.type == VALUE_TUPLE || key.type == VALUE_DICT)
            eval_fail(v, ERR_INPUT, "keys of JSON objects must be strings or numbers");
        if (key.type == VALUE_STRING)
            print_json(v, o, key, s, level);
        else {
            chars(v, o, "\"", a.mark);
            print_json(v, o, key, s, level);
            chars(v, o, "\"", a.mark);
        }
        separator(v, o, s->key_separator, ": ", a.mark);
        print_json(v, o, m[i].value, s, level + 1);
    }
    if (n) new_line(v, o, s, level, a.mark);
    chars(v, o, "}", a.mark);
}

void print_json(struct eval *v, struct out *o, struct value a, const struct json_style *s, int level)
{
    if (level > 64) {
        eval_fail(v, ERR_LIMIT, "values nested deeper than 64");
        return;
    }
    if (!eval_step(v)) return;
    switch (a.type) {
    case VALUE_NONE:
        chars(v, o, "null", a.mark);
        return;
    case VALUE_BOOL:
        chars(v, o, a.u.b ? "true" : "false", a.mark);
        return;
    case VALUE_FLOAT:
        if (isnan(a.u.f) || isinf(a.u.f))
            chars(v, o, isnan(a.u.f) ? "NaN" : a.u.f < 0 ? "-Infinity" : "Infinity", a.mark);
        else
            print_number(v, o, a);
        return;
    case VALUE_INT:
        print_number(v, o, a);
        return;
    case VALUE_BIG:
        print_str(v, o, a);
        return;
    case VALUE_STRING:
        json_string_out(v, o, a.u.s, s->ascii, value_mark(a));
        return;
    case VALUE_LIST:
    case VALUE_TUPLE:
        chars(v, o, "[", a.mark);
        for (size_t i = 0; i < a.u.list->n && !v->failed; i++) {
            if (i) separator(v, o, s->item_separator, s->indent < 0 ? ", " : ",", a.mark);
            new_line(v, o, s, level + 1, a.mark);
            print_json(v, o, a.u.list->items[i], s, level + 1);
        }
        if (a.u.list->n) new_line(v, o, s, level, a.mark);
        chars(v, o, "]", a.mark);
        return;
    case VALUE_DICT:
        json_dict(v, o, a, s, level);
        return;
    default:
        eval_fail(v, ERR_INPUT, "Object of type %s is not JSON serializable", value_type_name(a));
    }
}
