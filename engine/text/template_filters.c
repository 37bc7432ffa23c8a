/* Filters, tests and global functions, one table each. See jinja2's filters.py and tests.py for what they do. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/str.h"
#include "engine/text/template_parts.h"

static struct value arg(const struct list *args, const struct dict *kwargs, size_t i, const char *name)
{
    if (i < args->n) return args->items[i];
    struct value *x = dict_find_chars(kwargs, name, strlen(name));
    return x ? *x : (struct value){0};
}

static bool given(struct value a)
{
    return a.type != VALUE_UNDEFINED;
}

static const struct text *as_text(struct eval *v, struct value a)
{
    static const struct text empty = {.p = ""};
    struct value s = value_str(v, a);
    return s.type == VALUE_STRING ? s.u.s : &empty;
}

static struct value *copy_items(struct eval *v, const struct list *l)
{
    struct value *items = eval_alloc(v, (l->n ? l->n : 1) * sizeof *items);
    if (items && l->n) memcpy(items, l->items, l->n * sizeof *items);
    return items;
}

/* "a.b.0" of a value */
static struct value path(struct eval *v, struct value a, struct value attribute)
{
    if (attribute.type == VALUE_INT) return value_item(v, a, attribute);
    const struct text *s = as_text(v, attribute);
    for (size_t at = 0; at <= s->n && !v->failed;) {
        const char *dot = at < s->n ? memchr(s->p + at, '.', s->n - at) : NULL;
        size_t end = dot ? (size_t)(dot - s->p) : s->n;
        struct value key = value_slice(v, s, at, end);
        int64_t i;
        char digits[24];
        size_t n = end - at < sizeof digits - 1 ? end - at : sizeof digits - 1;
        memcpy(digits, s->p + at, n);
        digits[n] = '\0';
        a = str_parse_int64(digits, 0, INT64_MAX, &i) ? value_item(v, a, value_int(i, 0))
            : a.type == VALUE_UNDEFINED               ? a
                                                      : value_item(v, a, key);
        at = end + 1;
    }
    return a;
}

/* --- filters --- */
typedef struct value (*filter_fn)(struct eval *v, struct value a, const struct list *args, const struct dict *kwargs);
#define FILTER(name) static struct value filter_##name(struct eval *v, struct value a, const struct list *args, const struct dict *kwargs)
#define UNUSED_ARGS (void)v, (void)args, (void)kwargs

FILTER(length)
{
    UNUSED_ARGS;
    return value_int(value_length(v, a), MARK_TEMPLATE);
}
FILTER(upper)
{
    UNUSED_ARGS;
    return text_case(v, as_text(v, a), "upper");
}
FILTER(lower)
{
    UNUSED_ARGS;
    return text_case(v, as_text(v, a), "lower");
}
FILTER(capitalize)
{
    UNUSED_ARGS;
    return text_case(v, as_text(v, a), "capitalize");
}
FILTER(title)
{
    UNUSED_ARGS;
    return text_case(v, as_text(v, a), "words");
}
FILTER(string)
{
    UNUSED_ARGS;
    return value_str(v, a);
}
FILTER(safe)
{
    UNUSED_ARGS;
    return value_str(v, a);
}

FILTER(trim)
{
    struct value chars = arg(args, kwargs, 0, "chars");
    return text_strip(v, as_text(v, a), chars.type == VALUE_STRING ? chars.u.s : NULL, true, true);
}

FILTER(list)
{
    UNUSED_ARGS;
    const struct list *l = value_items(v, a);
    return value_of_list(v, VALUE_LIST, l->items, l->n);
}

FILTER(items)
{
    UNUSED_ARGS;
    if (a.type == VALUE_UNDEFINED) return value_of_list(v, VALUE_LIST, NULL, 0);
    if (a.type != VALUE_DICT) return eval_fail(v, ERR_INPUT, "Can only get item pairs from a mapping.");
    struct value *items = eval_alloc(v, (a.u.dict->n + 1) * sizeof *items);
    for (size_t i = 0; items && i < a.u.dict->n && eval_step(v); i++) {
        struct value *pair = eval_alloc(v, 2 * sizeof *pair);
        if (!pair) break;
        pair[0] = a.u.dict->members[i].key;
        pair[1] = a.u.dict->members[i].value;
        items[i] = value_of_list(v, VALUE_TUPLE, pair, 2);
    }
    return value_of_list(v, VALUE_LIST, items, v->failed ? 0 : a.u.dict->n);
}

FILTER(join)
{
    struct value by = arg(args, kwargs, 0, "d"), attribute = arg(args, kwargs, 1, "attribute");
    const struct list *l = value_items(v, a);
    struct out o = {0};
    for (size_t i = 0; i < l->n && eval_step(v); i++) {
        if (i && given(by)) print_str(v, &o, by);
        print_str(v, &o, given(attribute) ? path(v, l->items[i], attribute) : l->items[i]);
    }
    return out_value(v, &o);
}

FILTER(first)
{
    UNUSED_ARGS;
    const struct list *l = value_items(v, a);
    return l->n ? l->items[0] : (struct value){0};
}

FILTER(last)
{
    UNUSED_ARGS;
    const struct list *l = value_items(v, a);
    return l->n ? l->items[l->n - 1] : (struct value){0};
}

FILTER(default)
{
    struct value instead = arg(args, kwargs, 0, "default_value");
    bool falsy = value_true(arg(args, kwargs, 1, "boolean"));
    if (a.type != VALUE_UNDEFINED && !(falsy && !value_true(a))) return a;
    return given(instead) ? instead : value_chars(v, "");
}

FILTER(replace)
{
    struct value old = arg(args, kwargs, 0, "old"), with = arg(args, kwargs, 1, "new"), count = arg(args, kwargs, 2, "count");
    return text_replace(v, as_text(v, a), as_text(v, old), as_text(v, with), count.type == VALUE_INT ? count.u.i : -1);
}

static bool parse_number(const struct text *s, double *out)
{
    char digits[64], *end;
    if (s->n == 0 || s->n >= sizeof digits) return false;
    memcpy(digits, s->p, s->n);
    digits[s->n] = '\0';
    *out = strtod(digits, &end);
    while (*end == ' ' || *end == '\n') end++;
    return end != digits && *end == '\0' && !strpbrk(digits, "xX");
}

/* As Python's int(text, base): blanks around, a sign, the base's own prefix, single underscores between digits. */
static bool parse_int(const struct text *s, int base, int64_t *out)
{
    char digits[80];
    size_t from = 0, to = s->n, n = 0;
    while (from < to && strchr(" \n\t\r\f\v", s->p[from])) from++;
    while (to > from && strchr(" \n\t\r\f\v", s->p[to - 1])) to--;
    if (from < to && (s->p[from] == '-' || s->p[from] == '+')) digits[n++] = s->p[from++];
    char mark = to - from > 2 && s->p[from] == '0' ? (char)(s->p[from + 1] | 0x20) : 0;
    int marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked && (base == marked || base == 0)) {
        base = marked;
        from += 2 + (s->p[from + 2] == '_');
    }
    if (base == 0) base = 10;
    for (char before = '_'; from < to; before = s->p[from++]) {
        if (s->p[from] == '_' && (before == '_' || from + 1 == to)) return false;
        if (s->p[from] == '_') continue;
        if (n + 1 >= sizeof digits || !((s->p[from] >= '0' && s->p[from] <= '9') || (s->p[from] | 0x20) >= 'a')) return false;
        digits[n++] = s->p[from];
    }
    if (n == 0 || base < 2 || base > 36) return false;
    digits[n] = '\0';
    char *end;
    errno = 0;
    *out = strtoll(digits, &end, base);
    return *end == '\0' && end > digits && errno == 0 && (end[-1] != '-' && end[-1] != '+');
}

FILTER(int)
{
    (void)v;
    struct value otherwise = arg(args, kwargs, 0, "default"), base = arg(args, kwargs, 1, "base");
    double f;
    int64_t i;
    if (a.type == VALUE_INT) return a;
    if (a.type == VALUE_BOOL) return value_int(a.u.b, a.mark);
    if (a.type == VALUE_FLOAT && fabs(a.u.f) < 9e18) return value_int((int64_t)a.u.f, a.mark);
    if (a.type == VALUE_STRING && parse_int(a.u.s, base.type != VALUE_INT ? 10 : base.u.i < 0 || base.u.i > 36 ? 1 : (int)base.u.i, &i))
        return value_int(i, value_mark(a));
    if (a.type == VALUE_STRING && parse_number(a.u.s, &f) && fabs(f) < 9e15) return value_int((int64_t)f, value_mark(a));
    return given(otherwise) ? otherwise : value_int(0, 0);
}

FILTER(float)
{
    (void)v;
    struct value otherwise = arg(args, kwargs, 0, "default");
    double f;
    if (a.type == VALUE_FLOAT) return a;
    if (a.type == VALUE_INT || a.type == VALUE_BOOL) return value_float(a.type == VALUE_INT ? (double)a.u.i : a.u.b, a.mark);
    if (a.type == VALUE_STRING && parse_number(a.u.s, &f)) return value_float(f, value_mark(a));
    return given(otherwise) ? otherwise : value_float(0, 0);
}

/* As Python's round(f, places): the decimal nearest to the exact binary value, which printf gives. */
static double round_to(double f, int64_t places)
{
    char text[400];
    if (!isfinite(f) || places > 300) return f;
    if (places < 0) return places < -300 ? 0 : nearbyint(f / pow(10, (double)-places)) * pow(10, (double)-places);
    int n = snprintf(text, sizeof text, "%.*f", (int)places, f);
    return n > 0 && (size_t)n < sizeof text ? strtod(text, NULL) : f;
}

FILTER(round)
{
    struct value precision = arg(args, kwargs, 0, "precision"), method = arg(args, kwargs, 1, "method");
    if (a.type != VALUE_FLOAT && a.type != VALUE_INT) return eval_fail(v, ERR_INPUT, "type '%s' cannot be rounded", value_type_name(a));
    int64_t places = precision.type == VALUE_INT ? precision.u.i : 0;
    double f = a.type == VALUE_FLOAT ? a.u.f : (double)a.u.i, p = pow(10, (double)places);
    if (method.type == VALUE_STRING && template_text_is(method.u.s, "ceil")) return value_float(ceil(f * p) / p, a.mark);
    if (method.type == VALUE_STRING && template_text_is(method.u.s, "floor")) return value_float(floor(f * p) / p, a.mark);
    if (a.type == VALUE_FLOAT) return value_float(round_to(f, places), a.mark);
    return places >= 0      ? a
           : fabs(f) < 9e15 ? value_int((int64_t)round_to(f, places), a.mark)
                            : eval_fail(v, ERR_UNSUPPORTED, "rounding integers beyond 2^53 is not supported");
}

FILTER(abs)
{
    UNUSED_ARGS;
    if (a.type == VALUE_INT && a.u.i != INT64_MIN) return value_int(a.u.i < 0 ? -a.u.i : a.u.i, a.mark);
    if (a.type == VALUE_FLOAT) return value_float(fabs(a.u.f), a.mark);
    return eval_fail(v, ERR_INPUT, "bad operand type for abs(): '%s'", value_type_name(a));
}

FILTER(map)
{
    const struct list *l = value_items(v, a);
    struct value attribute = arg(&(struct list){0}, kwargs, 0, "attribute"), otherwise = arg(&(struct list){0}, kwargs, 0, "default");
    struct value *items = eval_alloc(v, (l->n ? l->n : 1) * sizeof *items);
    if (!given(attribute) && (args->n == 0 || args->items[0].type != VALUE_STRING))
        return eval_fail(v, ERR_INPUT, "map requires a filter argument");
    const struct text *name = given(attribute) ? NULL : args->items[0].u.s;
    if (name && !filter_known(name)) return eval_fail(v, ERR_UNSUPPORTED, "filter '%.*s' is not supported", (int)name->n, name->p);
    struct list rest = {args->n ? args->items + 1 : NULL, args->n ? args->n - 1 : 0};
    for (size_t i = 0; items && i < l->n && eval_step(v); i++) {
        items[i] = name ? filter_apply(v, name, l->items[i], &rest, kwargs) : path(v, l->items[i], attribute);
        if (!name && items[i].type == VALUE_UNDEFINED && given(otherwise)) items[i] = otherwise;
    }
    return value_of_list(v, VALUE_LIST, items, v->failed ? 0 : l->n);
}

/* select, reject, selectattr, rejectattr: which items pass a test, or are true. */
static struct value chosen(struct eval *v, struct value a, const struct list *args, bool by_attribute, bool want)
{
    const struct list *l = value_items(v, a);
    struct value *items = eval_alloc(v, (l->n ? l->n : 1) * sizeof *items);
    size_t k = 0, skip = by_attribute ? 1 : 0;
    if (by_attribute && args->n == 0) return eval_fail(v, ERR_INPUT, "the filter requires an attribute");
    const struct text *test = args->n > skip ? as_text(v, args->items[skip]) : NULL;
    if (test && !test_known(test)) return eval_fail(v, ERR_UNSUPPORTED, "test '%.*s' is not supported", (int)test->n, test->p);
    struct list rest = {args->n > skip + 1 ? args->items + skip + 1 : NULL, args->n > skip + 1 ? args->n - skip - 1 : 0};
    for (size_t i = 0; items && i < l->n && eval_step(v); i++) {
        struct value x = by_attribute ? path(v, l->items[i], args->items[0]) : l->items[i];
        if (!v->failed && (test ? test_apply(v, test, x, &rest) : value_true(x)) == want) items[k++] = l->items[i];
    }
    return value_of_list(v, VALUE_LIST, items, k);
}

FILTER(select)
{
    (void)kwargs;
    return chosen(v, a, args, false, true);
}
FILTER(reject)
{
    (void)kwargs;
    return chosen(v, a, args, false, false);
}
FILTER(selectattr)
{
    (void)kwargs;
    return chosen(v, a, args, true, true);
}
FILTER(rejectattr)
{
    (void)kwargs;
    return chosen(v, a, args, true, false);
}

/* Strings compare without case unless asked. */
static struct value folded(struct eval *v, struct value a, bool sensitive)
{
    return a.type == VALUE_STRING && !sensitive ? text_case(v, a.u.s, "lower") : a;
}

static struct value sorted_by(struct eval *v, const struct list *l, struct value attribute, bool sensitive, bool reverse)
{
    struct value *items = copy_items(v, l), *keys = eval_alloc(v, (l->n ? l->n : 1) * sizeof *keys);
    for (size_t i = 0; keys && i < l->n && !v->failed; i++)
        keys[i] = folded(v, given(attribute) ? path(v, l->items[i], attribute) : l->items[i], sensitive);
    for (size_t i = 1; items && keys && i < l->n; i++) /* stable, and counted as fuel: lists in templates are short */
        for (size_t j = i; j > 0 && eval_step(v); j--) {
            int c = value_compare(v, keys[j - 1], keys[j]);
            if (reverse ? c >= 0 : c <= 0) break;
            struct value t = keys[j];
            keys[j] = keys[j - 1], keys[j - 1] = t;
            t = items[j];
            items[j] = items[j - 1], items[j - 1] = t;
        }
    return value_of_list(v, VALUE_LIST, items, v->failed ? 0 : l->n);
}

FILTER(sort)
{
    return sorted_by(v, value_items(v, a), arg(args, kwargs, 2, "attribute"), value_true(arg(args, kwargs, 1, "case_sensitive")),
                     value_true(arg(args, kwargs, 0, "reverse")));
}

FILTER(dictsort)
{
    struct value by = arg(args, kwargs, 1, "by");
    bool value_first = by.type == VALUE_STRING && template_text_is(by.u.s, "value");
    struct value pairs = filter_items(v, a, &(struct list){0}, &(struct dict){0});
    if (v->failed) return pairs;
    return sorted_by(v, pairs.u.list, value_int(value_first, 0), value_true(arg(args, kwargs, 0, "case_sensitive")),
                     value_true(arg(args, kwargs, 2, "reverse")));
}

FILTER(unique)
{
    const struct list *l = value_items(v, a);
    struct value *items = eval_alloc(v, (l->n ? l->n : 1) * sizeof *items), *keys = eval_alloc(v, (l->n ? l->n : 1) * sizeof *keys);
    bool sensitive = value_true(arg(args, kwargs, 0, "case_sensitive"));
    size_t k = 0;
    for (size_t i = 0; items && keys && i < l->n && !v->failed; i++) {
        struct value key = folded(v, l->items[i], sensitive);
        bool seen = false;
        for (size_t j = 0; j < k && !seen && eval_step(v); j++) seen = value_equal(v, keys[j], key, 0);
        if (!seen) keys[k] = key, items[k++] = l->items[i];
    }
    return value_of_list(v, VALUE_LIST, items, k);
}

static struct value extreme(struct eval *v, struct value a, int sign)
{
    const struct list *l = value_items(v, a);
    if (l->n == 0) return (struct value){0};
    struct value best = l->items[0];
    for (size_t i = 1; i < l->n && eval_step(v); i++)
        if (value_compare(v, folded(v, l->items[i], false), folded(v, best, false)) * sign > 0) best = l->items[i];
    return best;
}

FILTER(min)
{
    UNUSED_ARGS;
    return extreme(v, a, -1);
}
FILTER(max)
{
    UNUSED_ARGS;
    return extreme(v, a, 1);
}

FILTER(sum)
{
    struct value attribute = arg(args, kwargs, 0, "attribute"), total = arg(args, kwargs, 1, "start");
    const struct list *l = value_items(v, a);
    if (!given(total)) total = value_int(0, 0);
    for (size_t i = 0; i < l->n && eval_step(v); i++)
        total = value_binary(v, TOKEN_ADD, total, given(attribute) ? path(v, l->items[i], attribute) : l->items[i]);
    return total;
}

FILTER(reverse)
{
    UNUSED_ARGS;
    if (a.type == VALUE_STRING) return value_slice_of(v, a, value_none(), value_none(), value_int(-1, 0));
    const struct list *l = value_items(v, a);
    struct value *items = eval_alloc(v, (l->n ? l->n : 1) * sizeof *items);
    for (size_t i = 0; items && i < l->n; i++) items[i] = l->items[l->n - 1 - i];
    return value_of_list(v, VALUE_LIST, items, items ? l->n : 0);
}

FILTER(batch)
{
    struct value size = arg(args, kwargs, 0, "linecount"), fill = arg(args, kwargs, 1, "fill_with");
    const struct list *l = value_items(v, a);
    if (size.type != VALUE_INT || size.u.i < 1) return eval_fail(v, ERR_INPUT, "batch requires a positive size");
    size_t width = (size_t)size.u.i < l->n + 1 ? (size_t)size.u.i : l->n + 1, n = (l->n + width - 1) / width, k = 0;
    struct value *rows = eval_alloc(v, (n ? n : 1) * sizeof *rows);
    for (size_t i = 0; rows && i < l->n && eval_step(v); i += width) {
        size_t m = l->n - i < width ? l->n - i : width, padded = given(fill) ? width : m;
        struct value *items = eval_alloc(v, padded * sizeof *items);
        for (size_t j = 0; items && j < padded; j++) items[j] = j < m ? l->items[i + j] : fill;
        rows[k++] = value_of_list(v, VALUE_LIST, items, items ? padded : 0);
    }
    return value_of_list(v, VALUE_LIST, rows, k);
}

FILTER(groupby)
{
    struct value attribute = arg(args, kwargs, 0, "attribute");
    struct value sorted = sorted_by(v, value_items(v, a), attribute, false, false);
    if (v->failed) return sorted;
    const struct list *l = sorted.u.list;
    struct value *groups = eval_alloc(v, (l->n ? l->n : 1) * sizeof *groups);
    size_t k = 0;
    for (size_t i = 0, end; groups && i < l->n && eval_step(v); i = end) {
        struct value key = path(v, l->items[i], attribute), *pair = eval_alloc(v, 2 * sizeof *pair);
        for (end = i + 1; end < l->n && value_equal(v, folded(v, path(v, l->items[end], attribute), false), folded(v, key, false), 0);
             end++) {
        }
        if (!pair) break;
        pair[0] = key;
        pair[1] = value_of_list(v, VALUE_LIST, l->items + i, end - i);
        groups[k++] = value_of_list(v, VALUE_TUPLE, pair, 2);
    }
    return value_of_list(v, VALUE_LIST, groups, k);
}

FILTER(indent)
{
    struct value width = arg(args, kwargs, 0, "width");
    bool first = value_true(arg(args, kwargs, 1, "first")), blank = value_true(arg(args, kwargs, 2, "blank"));
    const struct text *s = as_text(v, a), *pad = width.type == VALUE_STRING ? width.u.s : NULL;
    int64_t n = width.type == VALUE_INT ? width.u.i : 4;
    struct out o = {0};
    for (size_t at = 0, line = 0; at < s->n && eval_step(v); line++) {
        const char *nl = memchr(s->p + at, '\n', s->n - at);
        size_t end = nl ? (size_t)(nl - s->p) : s->n;
        if ((line > 0 || first) && (line == 0 || blank || end > at)) {
            if (pad) out_text(v, &o, pad, 0, pad->n);
            for (int64_t i = 0; !pad && i < n && !v->failed; i++) out_bytes(v, &o, " ", 1, MARK_TEMPLATE);
        }
        end = nl ? end + 1 : end;
        out_text(v, &o, s, at, end);
        at = end;
    }
    return out_value(v, &o);
}

FILTER(escape)
{
    UNUSED_ARGS;
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    const struct text *s = as_text(v, a);
    struct out o = {0};
    eval_chars(v, s->n);
    for (size_t i = 0; i < s->n && !v->failed; i++) {
        const char *k = s->p[i] ? strchr(from, s->p[i]) : NULL;
        if (k)
            out_bytes(v, &o, to[k - from], strlen(to[k - from]), s->marks ? s->marks[i] : s->mark);
        else
            out_text(v, &o, s, i, i + 1);
    }
    return out_value(v, &o);
}

FILTER(wordcount)
{
    UNUSED_ARGS;
    const struct text *s = as_text(v, a);
    int64_t n = 0;
    bool in = false;
    eval_chars(v, s->n);
    for (size_t i = 0; i < s->n; i++) {
        bool word = ((unsigned char)s->p[i] | 32) >= 'a' ? true : s->p[i] >= '0' && s->p[i] <= '9';
        n += word && !in;
        in = word;
    }
    return value_int(n, value_mark(a));
}

FILTER(center)
{
    struct value width = arg(args, kwargs, 0, "width");
    const struct text *s = as_text(v, a);
    eval_bytes(v, s->n);
    int64_t n = (int64_t)text_length(s), want = width.type == VALUE_INT ? width.u.i : 80, pad = want > n ? want - n : 0,
            left = pad / 2 + (pad & want & 1);
    struct out o = {0};
    for (int64_t i = 0; i < left && !v->failed; i++) out_bytes(v, &o, " ", 1, MARK_TEMPLATE);
    out_text(v, &o, s, 0, s->n);
    for (int64_t i = left; i < pad && !v->failed; i++) out_bytes(v, &o, " ", 1, MARK_TEMPLATE);
    return out_value(v, &o);
}

FILTER(tojson)
{
    struct value indent = arg(args, kwargs, 1, "indent"),
                 separators = arg(args, kwargs, 2, "separators"); /* the order of transformers' own filter */
    struct json_style s = {.indent = indent.type == VALUE_INT && indent.u.i >= 0 && indent.u.i < 64 ? (int)indent.u.i : -1,
                           .ascii = value_true(arg(args, kwargs, 0, "ensure_ascii")),
                           .sort = value_true(arg(args, kwargs, 3, "sort_keys"))};
    if ((separators.type == VALUE_LIST || separators.type == VALUE_TUPLE) && separators.u.list->n == 2) {
        s.item_separator = separators.u.list->items[0];
        s.key_separator = separators.u.list->items[1];
    }
    struct out o = {0};
    print_json(v, &o, a, &s, 0);
    return out_value(v, &o);
}

static const struct {
    const char *name;
    filter_fn apply;
} filters[] = {
    {"length", filter_length},
    {"count", filter_length},
    {"upper", filter_upper},
    {"lower", filter_lower},
    {"capitalize", filter_capitalize},
    {"title", filter_title},
    {"string", filter_string},
    {"safe", filter_safe},
    {"trim", filter_trim},
    {"list", filter_list},
    {"items", filter_items},
    {"join", filter_join},
    {"first", filter_first},
    {"last", filter_last},
    {"default", filter_default},
    {"d", filter_default},
    {"replace", filter_replace},
    {"int", filter_int},
    {"float", filter_float},
    {"round", filter_round},
    {"abs", filter_abs},
    {"map", filter_map},
    {"select", filter_select},
    {"reject", filter_reject},
    {"selectattr", filter_selectattr},
    {"rejectattr", filter_rejectattr},
    {"sort", filter_sort},
    {"dictsort", filter_dictsort},
    {"unique", filter_unique},
    {"min", filter_min},
    {"max", filter_max},
    {"sum", filter_sum},
    {"reverse", filter_reverse},
    {"batch", filter_batch},
    {"groupby", filter_groupby},
    {"indent", filter_indent},
    {"escape", filter_escape},
    {"e", filter_escape},
    {"wordcount", filter_wordcount},
    {"center", filter_center},
    {"tojson", filter_tojson},
};

static size_t filter_index(const struct text *name)
{
    size_t i = 0;
    while (i < sizeof filters / sizeof *filters && !template_text_is(name, filters[i].name)) i++;
    return i;
}

bool filter_known(const struct text *name)
{
    return filter_index(name) < sizeof filters / sizeof *filters;
}

struct value filter_apply(struct eval *v, const struct text *name, struct value a, const struct list *args, const struct dict *kwargs)
{
    if (!eval_enter(v)) return (struct value){0}; /* map calls filters, map among them */
    struct value r = filters[filter_index(name)].apply(v, a, args, kwargs);
    eval_leave(v);
    return v->failed ? (struct value){0} : r;
}

/* --- tests --- */
static bool is_lower(struct eval *v, struct value a, const char *how)
{
    const struct text *s = as_text(v, a);
    struct value same = text_case(v, s, how), other = text_case(v, s, how[0] == 'l' ? "upper" : "lower");
    return !v->failed && value_equal(v, same, (struct value){.type = VALUE_STRING, .u.s = s}, 0) && !value_equal(v, same, other, 0);
}

enum test {
    T_DEFINED,
    T_UNDEFINED,
    T_NONE,
    T_STRING,
    T_ITERABLE,
    T_MAPPING,
    T_SEQUENCE,
    T_NUMBER,
    T_BOOLEAN,
    T_INTEGER,
    T_FLOAT,
    T_TRUE,
    T_FALSE,
    T_EQ,
    T_NE,
    T_LT,
    T_LE,
    T_GT,
    T_GE,
    T_IN,
    T_ODD,
    T_EVEN,
    T_DIVISIBLE,
    T_LOWER,
    T_UPPER,
    T_CALLABLE,
    T_SAMEAS,
    T_FILTER,
    T_TEST
};
static const struct {
    const char *name;
    enum test test;
} tests[] = {
    {"defined", T_DEFINED},
    {"undefined", T_UNDEFINED},
    {"none", T_NONE},
    {"string", T_STRING},
    {"iterable", T_ITERABLE},
    {"mapping", T_MAPPING},
    {"sequence", T_SEQUENCE},
    {"number", T_NUMBER},
    {"boolean", T_BOOLEAN},
    {"integer", T_INTEGER},
    {"float", T_FLOAT},
    {"true", T_TRUE},
    {"false", T_FALSE},
    {"eq", T_EQ},
    {"equalto", T_EQ},
    {"==", T_EQ},
    {"ne", T_NE},
    {"!=", T_NE},
    {"lt", T_LT},
    {"lessthan", T_LT},
    {"<", T_LT},
    {"le", T_LE},
    {"<=", T_LE},
    {"gt", T_GT},
    {"greaterthan", T_GT},
    {">", T_GT},
    {"ge", T_GE},
    {">=", T_GE},
    {"in", T_IN},
    {"odd", T_ODD},
    {"even", T_EVEN},
    {"divisibleby", T_DIVISIBLE},
    {"lower", T_LOWER},
    {"upper", T_UPPER},
    {"callable", T_CALLABLE},
    {"sameas", T_SAMEAS},
    {"filter", T_FILTER},
    {"test", T_TEST},
};

static size_t test_index(const struct text *name)
{
    size_t i = 0;
    while (i < sizeof tests / sizeof *tests && !template_text_is(name, tests[i].name)) i++;
    return i;
}

bool test_known(const struct text *name)
{
    return test_index(name) < sizeof tests / sizeof *tests;
}

static int64_t integer_of(struct eval *v, struct value a)
{
    if (a.type == VALUE_INT) return a.u.i;
    if (a.type == VALUE_BOOL) return a.u.b;
    eval_fail(v, ERR_INPUT, "an integer is needed, not '%s'", value_type_name(a));
    return 1;
}

static bool test_with_argument(struct eval *v, enum test t, struct value a, struct value b)
{
    switch (t) {
    case T_EQ:
        return value_equal(v, a, b, 0);
    case T_NE:
        return !value_equal(v, a, b, 0);
    case T_LT:
        return value_compare(v, a, b) < 0;
    case T_LE:
        return value_compare(v, a, b) <= 0;
    case T_GT:
        return value_compare(v, a, b) > 0;
    case T_GE:
        return value_compare(v, a, b) >= 0;
    case T_IN:
        return value_contains(v, b, a);
    case T_SAMEAS:
        return a.type == b.type && value_equal(v, a, b, 0);
    default: {
        int64_t by = integer_of(v, b), x = integer_of(v, a);
        if (by == 0) return eval_fail(v, ERR_INPUT, "division by zero"), false;
        return by == -1 || x % by == 0;
    }
    }
}

bool test_apply(struct eval *v, const struct text *name, struct value a, const struct list *args)
{
    if (v->failed) return false;
    enum test t = tests[test_index(name)].test;
    switch (t) {
    case T_DEFINED:
        return a.type != VALUE_UNDEFINED;
    case T_UNDEFINED:
        return a.type == VALUE_UNDEFINED;
    case T_NONE:
        return a.type == VALUE_NONE;
    case T_STRING:
        return a.type == VALUE_STRING;
    case T_ITERABLE:
        return a.type == VALUE_STRING || a.type == VALUE_LIST || a.type == VALUE_TUPLE || a.type == VALUE_DICT ||
               a.type == VALUE_UNDEFINED || a.type == VALUE_LOOP;
    case T_MAPPING:
        return a.type == VALUE_DICT;
    case T_SEQUENCE:
        return a.type == VALUE_STRING || a.type == VALUE_LIST || a.type == VALUE_TUPLE || a.type == VALUE_DICT || a.type == VALUE_UNDEFINED;
    case T_NUMBER:
        return a.type == VALUE_INT || a.type == VALUE_FLOAT || a.type == VALUE_BOOL || a.type == VALUE_BIG;
    case T_BOOLEAN:
        return a.type == VALUE_BOOL;
    case T_INTEGER:
        return a.type == VALUE_INT || a.type == VALUE_BIG;
    case T_FLOAT:
        return a.type == VALUE_FLOAT;
    case T_TRUE:
        return a.type == VALUE_BOOL && a.u.b;
    case T_FALSE:
        return a.type == VALUE_BOOL && !a.u.b;
    case T_ODD:
        return integer_of(v, a) % 2 != 0;
    case T_EVEN:
        return integer_of(v, a) % 2 == 0;
    case T_LOWER:
        return is_lower(v, a, "lower");
    case T_UPPER:
        return is_lower(v, a, "upper");
    case T_CALLABLE:
        return a.type == VALUE_MACRO || a.type == VALUE_FUNCTION || a.type == VALUE_METHOD || a.type == VALUE_JOINER ||
               a.type == VALUE_LOOP || a.type == VALUE_UNDEFINED;
    case T_FILTER:
        return a.type == VALUE_STRING && filter_known(a.u.s);
    case T_TEST:
        return a.type == VALUE_STRING && test_known(a.u.s);
    default:
        break;
    }
    if (args->n < 1) return eval_fail(v, ERR_INPUT, "test '%.*s' needs an argument", (int)name->n, name->p), false;
    return test_with_argument(v, t, a, args->items[0]);
}

/* --- global functions --- */
const char *const builtin_names[BUILTINS] = {[BUILTIN_RANGE] = "range",           [BUILTIN_DICT] = "dict",
                                             [BUILTIN_NAMESPACE] = "namespace",   [BUILTIN_RAISE] = "raise_exception",
                                             [BUILTIN_STRFTIME] = "strftime_now", [BUILTIN_JOINER] = "joiner",
                                             [BUILTIN_CYCLER] = "cycler",         [BUILTIN_LIPSUM] = "lipsum"};

static struct value range(struct eval *v, const struct list *args)
{
    if (args->n < 1 || args->n > 3) return eval_fail(v, ERR_INPUT, "range takes 1 to 3 arguments");
    int64_t a = integer_of(v, args->items[0]), start = args->n > 1 ? a : 0, stop = args->n > 1 ? integer_of(v, args->items[1]) : a,
            step = args->n > 2 ? integer_of(v, args->items[2]) : 1;
    if (v->failed) return (struct value){0};
    if (step == 0) return eval_fail(v, ERR_INPUT, "range() arg 3 must not be zero");
    double n = ceil(((double)stop - (double)start) / (double)step);
    if (n > 100000) return eval_fail(v, ERR_LIMIT, "range too big: more than 100000 items"); /* as jinja2's sandbox */
    size_t count = n > 0 ? (size_t)n : 0;
    struct value *items = eval_alloc(v, (count ? count : 1) * sizeof *items);
    for (size_t i = 0; items && i < count && eval_step(v); i++) items[i] = value_int((int64_t)((uint64_t)start + i * (uint64_t)step), 0);
    return value_of_list(v, VALUE_LIST, items, v->failed ? 0 : count);
}

static struct value new_dict(struct eval *v, enum value_type type, const struct list *args, const struct dict *kwargs)
{
    struct dict *d = eval_alloc(v, sizeof *d);
    if (!d) return (struct value){0};
    if (args->n && args->items[0].type == VALUE_DICT)
        for (size_t i = 0; i < args->items[0].u.dict->n; i++)
            dict_set(v, d, args->items[0].u.dict->members[i].key, args->items[0].u.dict->members[i].value);
    for (size_t i = 0; i < kwargs->n; i++) {
        const struct text *name = kwargs->members[i].key.u.s;
        if (type == VALUE_NAMESPACE && name->n && name->p[0] == '_')
            return eval_fail(v, ERR_INPUT, "a namespace cannot hold '%.*s'", (int)name->n, name->p);
        dict_set(v, d, kwargs->members[i].key, kwargs->members[i].value);
    }
    return (struct value){.type = type, .u.dict = d};
}

static struct value strftime_now(struct eval *v, const struct list *args)
{
    char format[256], out[1024];
    if (args->n != 1 || args->items[0].type != VALUE_STRING || args->items[0].u.s->n >= sizeof format)
        return eval_fail(v, ERR_INPUT, "strftime_now takes one short format");
    memcpy(format, args->items[0].u.s->p, args->items[0].u.s->n);
    format[args->items[0].u.s->n] = '\0';
    struct tm now = v->in->now;
    size_t n = format[0] ? strftime(out, sizeof out, format, &now) : 0;
    char *copy = eval_alloc(v, n + 1);
    if (copy) memcpy(copy, out, n);
    return value_text(v, copy ? copy : "", copy ? n : 0, value_mark(args->items[0]));
}

static struct value new_cycler(struct eval *v, enum value_type type, const struct list *args)
{
    struct cycler *c = eval_alloc(v, sizeof *c);
    struct list *l = eval_alloc(v, sizeof *l);
    if (!c || !l) return (struct value){0};
    *l = *args;
    *c = (struct cycler){.items = l, .separator = args->n ? args->items[0] : value_chars(v, ", ")};
    return (struct value){.type = type, .u.cycler = c};
}

struct value builtin_call(struct eval *v, int f, const struct list *args, const struct dict *kwargs)
{
    switch (f) {
    case BUILTIN_RANGE:
        return range(v, args);
    case BUILTIN_DICT:
        return new_dict(v, VALUE_DICT, args, kwargs);
    case BUILTIN_NAMESPACE:
        return new_dict(v, VALUE_NAMESPACE, args, kwargs);
    case BUILTIN_STRFTIME:
        return strftime_now(v, args);
    case BUILTIN_JOINER:
        return new_cycler(v, VALUE_JOINER, args);
    case BUILTIN_CYCLER:
        return new_cycler(v, VALUE_CYCLER, args);
    case BUILTIN_RAISE: {
        const struct text *s = args->n ? as_text(v, args->items[0]) : NULL;
        return eval_fail(v, ERR_INPUT, "%.*s", s ? (int)(s->n < 300 ? s->n : 300) : 0, s ? s->p : "");
    }
    default:
        return eval_fail(v, ERR_UNSUPPORTED, "function '%s' is not supported", builtin_names[f]);
    }
}
