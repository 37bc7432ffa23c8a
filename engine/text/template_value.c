/* Values: Python's semantics of the types that templates meet, as jinja2's sandbox shows them. See template_parts.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "engine/text/template_parts.h"

struct value value_none(void)
{
    return (struct value){.type = VALUE_NONE};
}

struct value value_bool(bool b)
{
    return (struct value){.type = VALUE_BOOL, .u.b = b};
}

struct value value_int(int64_t i, uint8_t mark)
{
    return (struct value){.type = VALUE_INT, .mark = mark, .u.i = i};
}

struct value value_float(double f, uint8_t mark)
{
    return (struct value){.type = VALUE_FLOAT, .mark = mark, .u.f = f};
}

struct value value_text(struct eval *v, const char *p, size_t n, uint8_t mark)
{
    struct text *t = eval_alloc(v, sizeof *t);
    if (!t) return (struct value){0};
    *t = (struct text){.p = p, .n = n, .mark = mark};
    return (struct value){.type = VALUE_STRING, .mark = mark, .u.s = t};
}

struct value value_chars(struct eval *v, const char *p)
{
    return value_text(v, p, strlen(p), MARK_TEMPLATE);
}

struct value value_slice(struct eval *v, const struct text *s, size_t from, size_t end)
{
    struct value r = value_text(v, s->p + from, end - from, s->mark);
    if (r.u.s && s->marks) ((struct text *)r.u.s)->marks = s->marks + from;
    return r;
}

struct value value_of_list(struct eval *v, enum value_type type, const struct value *items, size_t n)
{
    struct list *l = eval_alloc(v, sizeof *l);
    if (!l) return (struct value){0};
    *l = (struct list){items, n};
    return (struct value){.type = type, .u.list = l};
}

bool template_text_is(const struct text *s, const char *word)
{
    return s->n == strlen(word) && memcmp(s->p, word, s->n) == 0;
}

size_t text_length(const struct text *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) n += ((unsigned char)s->p[i] & 0xC0) != 0x80;
    return n;
}

size_t text_offset(const struct text *s, size_t code_points)
{
    size_t i = 0;
    for (; i < s->n && code_points; code_points--) do
            i++;
        while (i < s->n && ((unsigned char)s->p[i] & 0xC0) == 0x80);
    return i;
}

/* --- dicts --- */
struct value *dict_find(struct eval *v, const struct dict *d, struct value key)
{
    for (size_t i = 0; i < d->n && !v->failed; i++)
        if (value_equal(v, d->members[i].key, key, 0)) return &d->members[i].value;
    return NULL;
}

struct value *dict_find_chars(const struct dict *d, const char *name, size_t n)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct value *k = &d->members[i].key;
        if (k->type == VALUE_STRING && k->u.s->n == n && memcmp(k->u.s->p, name, n) == 0) return &d->members[i].value;
    }
    return NULL;
}

void dict_set(struct eval *v, struct dict *d, struct value key, struct value value)
{
    struct value *old = dict_find(v, d, key);
    if (old) {
        *old = value;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 8;
        struct member *m = eval_alloc(v, cap * sizeof *m);
        if (!m) return;
        if (d->n) memcpy(m, d->members, d->n * sizeof *m);
        d->members = m;
        d->cap = cap;
    }
    d->members[d->n++] = (struct member){key, value};
}

/* --- JSON in --- */
static struct value json_text(struct eval *v, const char *p, size_t n, uint8_t mark)
{
    return value_text(v, p, n, mark); /* borrowed from the request's JSON, which outlives the render */
}

struct value value_of_json(struct eval *v, const json_t *j, uint8_t mark, unsigned depth)
{
    if (!eval_step(v)) return (struct value){0};
    if (depth > 64) return eval_fail(v, ERR_LIMIT, "values nested deeper than 64");
    switch (json_typeof(j)) {
    case JSON_NULL:
        return (struct value){.type = VALUE_NONE, .mark = mark};
    case JSON_TRUE:
    case JSON_FALSE:
        return (struct value){.type = VALUE_BOOL, .mark = mark, .u.b = json_is_true(j)};
    case JSON_INTEGER:
        return value_int(json_integer_value(j), mark);
    case JSON_REAL:
        return value_float(json_real_value(j), mark);
    case JSON_STRING:
        return json_text(v, json_string_value(j), json_string_length(j), mark);
    case JSON_ARRAY: {
        size_t n = json_array_size(j);
        struct value *items = eval_alloc(v, n * sizeof *items), r;
        for (size_t i = 0; items && i < n; i++) items[i] = value_of_json(v, json_array_get(j, i), mark, depth + 1);
        r = value_of_list(v, VALUE_LIST, items, items ? n : 0);
        r.mark = mark;
        return r;
    }
    case JSON_OBJECT: {
        struct dict *d = eval_alloc(v, sizeof *d);
        size_t n = json_object_size(j);
        struct member *m = eval_alloc(v, (n ? n : 1) * sizeof *m);
        if (!d || !m) return (struct value){0};
        *d = (struct dict){.members = m, .cap = n ? n : 1};
        const char *key;
        json_t *item;
        json_object_foreach((json_t *)j, key, item)
            m[d->n++] = (struct member){json_text(v, key, strlen(key), mark), value_of_json(v, item, mark, depth + 1)};
        return (struct value){.type = VALUE_DICT, .mark = mark, .u.dict = d};
    }
    }
    return value_none();
}

/* --- questions about values --- */
uint8_t value_mark(struct value a)
{
    if (a.type != VALUE_STRING || a.mark) return a.mark;
    return a.u.s->marks && memchr(a.u.s->marks, MARK_REQUEST, a.u.s->n) ? MARK_REQUEST : a.u.s->mark;
}

const char *value_type_name(struct value a)
{
    static const char *const names[] = {[VALUE_UNDEFINED] = "Undefined",
                                        [VALUE_NONE] = "NoneType",
                                        [VALUE_BOOL] = "bool",
                                        [VALUE_INT] = "int",
                                        [VALUE_BIG] = "int",
                                        [VALUE_FLOAT] = "float",
                                        [VALUE_STRING] = "str",
                                        [VALUE_LIST] = "list",
                                        [VALUE_TUPLE] = "tuple",
                                        [VALUE_DICT] = "dict",
                                        [VALUE_NAMESPACE] = "Namespace",
                                        [VALUE_MACRO] = "Macro",
                                        [VALUE_LOOP] = "LoopContext",
                                        [VALUE_FUNCTION] = "function",
                                        [VALUE_METHOD] = "method",
                                        [VALUE_JOINER] = "Joiner",
                                        [VALUE_CYCLER] = "Cycler"};
    return names[a.type];
}

bool value_true(struct value a)
{
    switch (a.type) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
        return a.u.b;
    case VALUE_INT:
        return a.u.i != 0;
    case VALUE_FLOAT:
        return a.u.f != 0;
    case VALUE_STRING:
        return a.u.s->n != 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
        return a.u.list->n != 0;
    case VALUE_DICT:
        return a.u.dict->n != 0;
    default:
        return true;
    }
}

static bool number(struct value a)
{
    return a.type == VALUE_BOOL || a.type == VALUE_INT || a.type == VALUE_FLOAT;
}

static double as_double(struct value a)
{
    return a.type == VALUE_FLOAT ? a.u.f : a.type == VALUE_BOOL ? a.u.b : (double)a.u.i;
}

static int64_t as_int(struct value a)
{
    return a.type == VALUE_BOOL ? a.u.b : a.u.i;
}

static bool text_equal(struct eval *v, const struct text *a, const struct text *b)
{
    if (a->n != b->n) return false;
    eval_bytes(v, a->n);
    return memcmp(a->p, b->p, a->n) == 0;
}

/* Values may hold one another many times over, so that comparing them is bounded by fuel, not by their size. */
bool value_equal(struct eval *v, struct value a, struct value b, unsigned depth)
{
    if (depth > 64) eval_fail(v, ERR_LIMIT, "values nested deeper than 64");
    if (v->failed) return false;
    if (number(a) && number(b))
        return a.type == VALUE_FLOAT || b.type == VALUE_FLOAT ? as_double(a) == as_double(b) : as_int(a) == as_int(b);
    if (a.type != b.type) return false;
    switch (a.type) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return true;
    case VALUE_BIG:
    case VALUE_STRING:
        return text_equal(v, a.u.s, b.u.s);
    case VALUE_LIST:
    case VALUE_TUPLE:
        if (a.u.list->n != b.u.list->n) return false;
        for (size_t i = 0; i < a.u.list->n; i++)
            if (!eval_step(v) || !value_equal(v, a.u.list->items[i], b.u.list->items[i], depth + 1)) return false;
        return true;
    case VALUE_DICT:
        if (a.u.dict->n != b.u.dict->n) return false;
        for (size_t i = 0; i < a.u.dict->n; i++) {
            const struct value *x = eval_step(v) ? dict_find(v, b.u.dict, a.u.dict->members[i].key) : NULL;
            if (!x || !value_equal(v, a.u.dict->members[i].value, *x, depth + 1)) return false;
        }
        return true;
    default:
        return a.u.dict == b.u.dict;
    }
}

static int compare_at(struct eval *v, struct value a, struct value b, unsigned depth)
{
    if (depth > 64) return eval_fail(v, ERR_LIMIT, "values nested deeper than 64"), 0;
    if (number(a) && number(b)) {
        if (a.type == VALUE_FLOAT || b.type == VALUE_FLOAT) return (as_double(a) > as_double(b)) - (as_double(a) < as_double(b));
        return (as_int(a) > as_int(b)) - (as_int(a) < as_int(b));
    }
    if (a.type == VALUE_STRING && b.type == VALUE_STRING) { /* UTF-8 sorts as its code points do */
        size_t n = a.u.s->n < b.u.s->n ? a.u.s->n : b.u.s->n;
        eval_bytes(v, n);
        int c = memcmp(a.u.s->p, b.u.s->p, n);
        return c ? (c > 0) - (c < 0) : (a.u.s->n > b.u.s->n) - (a.u.s->n < b.u.s->n);
    }
    if (a.type == b.type && (a.type == VALUE_LIST || a.type == VALUE_TUPLE)) {
        size_t n = a.u.list->n < b.u.list->n ? a.u.list->n : b.u.list->n;
        for (size_t i = 0; i < n && eval_step(v); i++)
            if (!value_equal(v, a.u.list->items[i], b.u.list->items[i], 0))
                return compare_at(v, a.u.list->items[i], b.u.list->items[i], depth + 1);
        return (a.u.list->n > b.u.list->n) - (a.u.list->n < b.u.list->n);
    }
    eval_fail(v, ERR_INPUT, "'%s' and '%s' cannot be ordered", value_type_name(a), value_type_name(b));
    return 0;
}

int value_compare(struct eval *v, struct value a, struct value b)
{
    return compare_at(v, a, b, 0);
}

int64_t value_length(struct eval *v, struct value a)
{
    switch (a.type) {
    case VALUE_UNDEFINED:
        return 0;
    case VALUE_STRING:
        eval_bytes(v, a.u.s->n);
        return (int64_t)text_length(a.u.s);
    case VALUE_LIST:
    case VALUE_TUPLE:
        return (int64_t)a.u.list->n;
    case VALUE_DICT:
        return (int64_t)a.u.dict->n;
    default:
        eval_fail(v, ERR_INPUT, "a value of type '%s' has no length", value_type_name(a));
        return 0;
    }
}

const struct list *value_items(struct eval *v, struct value a)
{
    static const struct list none;
    if (a.type == VALUE_LIST || a.type == VALUE_TUPLE) return a.u.list;
    if (a.type == VALUE_UNDEFINED) return &none;
    if (a.type != VALUE_DICT && a.type != VALUE_STRING) {
        eval_fail(v, ERR_INPUT, "a value of type '%s' cannot be looped over", value_type_name(a));
        return &none;
    }
    size_t n = (size_t)value_length(v, a), at = 0;
    struct value *items = eval_alloc(v, (n ? n : 1) * sizeof *items);
    struct list *l = eval_alloc(v, sizeof *l);
    if (!items || !l) return &none;
    for (size_t i = 0; i < n && eval_step(v); i++) {
        if (a.type == VALUE_DICT) {
            items[i] = a.u.dict->members[i].key;
            continue;
        }
        size_t next = at + 1;
        while (next < a.u.s->n && ((unsigned char)a.u.s->p[next] & 0xC0) == 0x80) next++;
        items[i] = value_slice(v, a.u.s, at, next);
        at = next;
    }
    *l = (struct list){items, v->failed ? 0 : n};
    return l;
}

bool value_contains(struct eval *v, struct value c, struct value item)
{
    switch (c.type) {
    case VALUE_UNDEFINED:
        return false;
    case VALUE_STRING:
        if (item.type != VALUE_STRING) {
            eval_fail(v, ERR_INPUT, "'in <string>' requires string as left operand, not %s", value_type_name(item));
            return false;
        }
        eval_bytes(v, c.u.s->n);
        return item.u.s->n == 0 || memmem(c.u.s->p, c.u.s->n, item.u.s->p, item.u.s->n) != NULL;
    case VALUE_DICT:
        eval_bytes(v, c.u.dict->n * 8);
        return dict_find(v, c.u.dict, item) != NULL;
    case VALUE_LIST:
    case VALUE_TUPLE:
        for (size_t i = 0; i < c.u.list->n && eval_step(v); i++)
            if (value_equal(v, c.u.list->items[i], item, 0)) return true;
        return false;
    default:
        eval_fail(v, ERR_INPUT, "a value of type '%s' has no members", value_type_name(c));
        return false;
    }
}

/* --- access --- */
static struct value undefined(struct eval *v, const struct text *name)
{
    (void)v;
    return (struct value){.type = VALUE_UNDEFINED, .u.s = name};
}

static struct value item_at(struct eval *v, struct value a, int64_t i)
{
    if (a.type != VALUE_STRING || i < 0) {
        int64_t n = value_length(v, a);
        if (i < 0) i += n;
        if (i < 0 || i >= n) return undefined(v, NULL);
    }
    if (a.type != VALUE_STRING) return a.u.list->items[i];
    size_t from = text_offset(a.u.s, (size_t)i), end = from + 1;
    eval_chars(v, from / 4);
    if (from >= a.u.s->n) return undefined(v, NULL);
    while (end < a.u.s->n && ((unsigned char)a.u.s->p[end] & 0xC0) == 0x80) end++;
    return value_slice(v, a.u.s, from, end);
}

static bool private_name(const struct text *name)
{
    return name->n >= 1 && name->p[0] == '_';
}

struct value value_attr(struct eval *v, struct value a, const struct text *name)
{
    if (a.type == VALUE_UNDEFINED)
        return eval_fail(v, ERR_INPUT, "'%.*s' is undefined", a.u.s ? (int)a.u.s->n : 5, a.u.s ? a.u.s->p : "value");
    if (a.type == VALUE_LOOP) return loop_member(v, a.u.loop, name);
    if (private_name(name) && a.type != VALUE_DICT) return undefined(v, name); /* __class__ and its like are not to be had */
    if (a.type == VALUE_NAMESPACE) {
        struct value *x = dict_find_chars(a.u.dict, name->p, name->n);
        return x ? *x : undefined(v, name);
    }
    if (method_known(a, name)) {
        struct method *m = eval_alloc(v, sizeof *m);
        if (!m) return (struct value){0};
        *m = (struct method){a, name};
        return (struct value){.type = VALUE_METHOD, .u.method = m};
    }
    if (a.type == VALUE_DICT) {
        eval_bytes(v, a.u.dict->n * 8);
        struct value *x = dict_find_chars(a.u.dict, name->p, name->n);
        if (x) return *x;
    }
    return undefined(v, name);
}

struct value value_item(struct eval *v, struct value a, struct value key)
{
    if (a.type == VALUE_UNDEFINED)
        return eval_fail(v, ERR_INPUT, "'%.*s' is undefined", a.u.s ? (int)a.u.s->n : 5, a.u.s ? a.u.s->p : "value");
    if (a.type == VALUE_DICT) {
        eval_bytes(v, a.u.dict->n * 8);
        struct value *x = dict_find(v, a.u.dict, key);
        if (x) return *x;
    } else if ((a.type == VALUE_LIST || a.type == VALUE_TUPLE || a.type == VALUE_STRING) &&
               (key.type == VALUE_INT || key.type == VALUE_BOOL)) {
        return item_at(v, a, as_int(key));
    }
    return key.type == VALUE_STRING ? value_attr(v, a, key.u.s) : undefined(v, NULL);
}

/* Bounds of a[from:to:step] over n items, as Python's slice.indices. */
static bool bounds(struct eval *v, struct value from, struct value to, struct value step, int64_t n, int64_t *start, int64_t *stop,
                   int64_t *by)
{
    struct value parts[3] = {from, to, step};
    for (int i = 0; i < 3; i++)
        if (parts[i].type != VALUE_INT && parts[i].type != VALUE_BOOL && parts[i].type != VALUE_NONE)
            return eval_fail(v, ERR_INPUT, "slice indices must be integers or None"), false;
    *by = step.type == VALUE_NONE ? 1 : as_int(step);
    if (*by == 0) return eval_fail(v, ERR_INPUT, "slice step cannot be zero"), false;
    int64_t low = *by < 0 ? -1 : 0, high = *by < 0 ? n - 1 : n;
    int64_t *out[2] = {start, stop}, missing[2] = {*by < 0 ? high : low, *by < 0 ? low : high};
    for (int i = 0; i < 2; i++) {
        int64_t x = parts[i].type == VALUE_NONE ? missing[i] : as_int(parts[i]);
        if (parts[i].type != VALUE_NONE && x < 0) x += n;
        *out[i] = x < low ? low : x > high ? high : x;
    }
    return true;
}

struct value value_slice_of(struct eval *v, struct value a, struct value from, struct value to, struct value step)
{
    if (a.type != VALUE_STRING && a.type != VALUE_LIST && a.type != VALUE_TUPLE) {
        if (a.type == VALUE_UNDEFINED)
            return eval_fail(v, ERR_INPUT, "'%.*s' is undefined", a.u.s ? (int)a.u.s->n : 5, a.u.s ? a.u.s->p : "value");
        return undefined(v, NULL);
    }
    int64_t n = value_length(v, a), start, stop, by;
    if (!bounds(v, from, to, step, n, &start, &stop, &by)) return (struct value){0};
    if (a.type == VALUE_STRING && by == 1) {
        size_t b = text_offset(a.u.s, (size_t)start);
        return value_slice(v, a.u.s, b, stop > start ? text_offset(a.u.s, (size_t)stop) : b);
    }
    const struct list *all = value_items(v, a);
    struct value *items = eval_alloc(v, ((size_t)n + 1) * sizeof *items);
    size_t k = 0;
    for (int64_t i = start; items && !v->failed && (by > 0 ? i < stop : i > stop);) {
        items[k++] = all->items[i];
        if (__builtin_add_overflow(i, by, &i)) break;
    }
    if (a.type != VALUE_STRING) return value_of_list(v, a.type, items, items ? k : 0);
    struct out o = {0};
    for (size_t i = 0; i < k && items; i++) out_text(v, &o, items[i].u.s, 0, items[i].u.s->n);
    return out_value(v, &o);
}

/* --- arithmetic --- */
static struct value type_error(struct eval *v, int op, struct value a, struct value b)
{
    static const char *const names[] = {[TOKEN_ADD] = "+",       [TOKEN_SUB] = "-", [TOKEN_MUL] = "*", [TOKEN_DIV] = "/",
                                        [TOKEN_FLOORDIV] = "//", [TOKEN_MOD] = "%", [TOKEN_POW] = "**"};
    if (a.type == VALUE_UNDEFINED || b.type == VALUE_UNDEFINED) {
        const struct text *name = a.type == VALUE_UNDEFINED ? a.u.s : b.u.s;
        return eval_fail(v, ERR_INPUT, "'%.*s' is undefined", name ? (int)name->n : 5, name ? name->p : "value");
    }
    return eval_fail(v, ERR_INPUT, "unsupported operand types for %s: '%s' and '%s'", names[op], value_type_name(a), value_type_name(b));
}

static struct value repeat(struct eval *v, struct value a, int64_t times)
{
    if (times < 0) times = 0;
    size_t total;
    size_t unit = a.type == VALUE_STRING ? a.u.s->n : a.u.list->n * sizeof(struct value);
    if (__builtin_mul_overflow(unit, (size_t)times, &total) || total > v->max_output * sizeof(struct value))
        return eval_fail(v, ERR_LIMIT, "repetition makes too large a value");
    if (a.type == VALUE_STRING) {
        struct out o = {0};
        for (int64_t i = 0; i < times && eval_step(v); i++) out_text(v, &o, a.u.s, 0, a.u.s->n);
        return out_value(v, &o);
    }
    struct value *items = eval_alloc(v, total ? total : 1);
    for (int64_t i = 0; items && i < times && eval_step(v); i++)
        if (a.u.list->n) memcpy(items + (size_t)i * a.u.list->n, a.u.list->items, a.u.list->n * sizeof *items);
    return value_of_list(v, a.type, items, items ? a.u.list->n * (size_t)times : 0);
}

static struct value join_lists(struct eval *v, struct value a, struct value b)
{
    size_t n = a.u.list->n + b.u.list->n;
    struct value *items = eval_alloc(v, (n ? n : 1) * sizeof *items);
    if (!items) return (struct value){0};
    if (a.u.list->n) memcpy(items, a.u.list->items, a.u.list->n * sizeof *items);
    if (b.u.list->n) memcpy(items + a.u.list->n, b.u.list->items, b.u.list->n * sizeof *items);
    return value_of_list(v, a.type, items, n);
}

/* Decimal addition of non-negative integers of any length: what is past int64 and is only added. */
static struct value add_big(struct eval *v, struct value a, struct value b)
{
    struct value sa = value_str(v, a), sb = value_str(v, b);
    if (v->failed) return (struct value){0};
    const struct text *x = sa.u.s, *y = sb.u.s;
    if (x->p[0] == '-' || y->p[0] == '-') return eval_fail(v, ERR_UNSUPPORTED, "negative integers beyond 64 bits are not supported");
    size_t n = (x->n > y->n ? x->n : y->n) + 1;
    char *digits = eval_alloc(v, n);
    int carry = 0;
    for (size_t i = 0; digits && i < n; i++) {
        int d = carry + (i < x->n ? x->p[x->n - 1 - i] - '0' : 0) + (i < y->n ? y->p[y->n - 1 - i] - '0' : 0);
        digits[n - 1 - i] = (char)('0' + d % 10);
        carry = d / 10;
    }
    if (!digits) return (struct value){0};
    size_t skip = digits[0] == '0';
    struct value r = value_text(v, digits + skip, n - skip, (uint8_t)(value_mark(a) | value_mark(b)));
    r.type = VALUE_BIG;
    return r;
}

static struct value overflow(struct eval *v)
{
    return eval_fail(v, ERR_UNSUPPORTED, "integers beyond 64 bits are not supported here");
}

static struct value int_power(struct eval *v, int64_t a, int64_t b, uint8_t mark)
{
    if (b < 0) return value_float(pow((double)a, (double)b), mark);
    int64_t r = 1;
    for (; b > 0; b--) {
        if (!eval_step(v)) return (struct value){0};
        if (__builtin_mul_overflow(r, a, &r)) return overflow(v);
        if (a == 0 || a == 1) break;
    }
    return value_int(r, mark);
}

static struct value int_binary(struct eval *v, int op, int64_t a, int64_t b, uint8_t mark)
{
    int64_t r;
    switch (op) {
    case TOKEN_ADD:
        return __builtin_add_overflow(a, b, &r) ? overflow(v) : value_int(r, mark);
    case TOKEN_SUB:
        return __builtin_sub_overflow(a, b, &r) ? overflow(v) : value_int(r, mark);
    case TOKEN_MUL:
        return __builtin_mul_overflow(a, b, &r) ? overflow(v) : value_int(r, mark);
    case TOKEN_POW:
        return int_power(v, a, b, mark);
    default:
        break;
    }
    if (b == 0) return eval_fail(v, ERR_INPUT, "division by zero");
    if (op == TOKEN_DIV) return value_float((double)a / (double)b, mark);
    if (a == INT64_MIN && b == -1) return op == TOKEN_MOD ? value_int(0, mark) : overflow(v);
    int64_t q = a / b, m = a % b;
    if (m != 0 && (m < 0) != (b < 0)) q--, m += b; /* Python rounds towards minus infinity */
    return value_int(op == TOKEN_MOD ? m : q, mark);
}

static struct value float_binary(struct eval *v, int op, double a, double b, uint8_t mark)
{
    if ((op == TOKEN_DIV || op == TOKEN_FLOORDIV || op == TOKEN_MOD) && b == 0) return eval_fail(v, ERR_INPUT, "float division by zero");
    switch (op) {
    case TOKEN_ADD:
        return value_float(a + b, mark);
    case TOKEN_SUB:
        return value_float(a - b, mark);
    case TOKEN_MUL:
        return value_float(a * b, mark);
    case TOKEN_DIV:
        return value_float(a / b, mark);
    case TOKEN_FLOORDIV:
        return value_float(floor(a / b), mark);
    case TOKEN_POW:
        return value_float(pow(a, b), mark);
    default: {
        double m = fmod(a, b);
        return value_float(m != 0 && (m < 0) != (b < 0) ? m + b : m, mark);
    }
    }
}

struct value value_binary(struct eval *v, int op, struct value a, struct value b)
{
    uint8_t mark = value_mark(a) | value_mark(b);
    if (number(a) && number(b))
        return a.type == VALUE_FLOAT || b.type == VALUE_FLOAT ? float_binary(v, op, as_double(a), as_double(b), mark)
                                                              : int_binary(v, op, as_int(a), as_int(b), mark);
    if (op == TOKEN_ADD && a.type == VALUE_STRING && b.type == VALUE_STRING) {
        struct out o = {0};
        out_text(v, &o, a.u.s, 0, a.u.s->n);
        out_text(v, &o, b.u.s, 0, b.u.s->n);
        return out_value(v, &o);
    }
    if (op == TOKEN_ADD && a.type == b.type && (a.type == VALUE_LIST || a.type == VALUE_TUPLE)) return join_lists(v, a, b);
    if (op == TOKEN_ADD && (a.type == VALUE_BIG || b.type == VALUE_BIG) && (a.type == VALUE_INT || a.type == VALUE_BIG) &&
        (b.type == VALUE_INT || b.type == VALUE_BIG))
        return add_big(v, a, b);
    bool sequence_a = a.type == VALUE_STRING || a.type == VALUE_LIST || a.type == VALUE_TUPLE,
         sequence_b = b.type == VALUE_STRING || b.type == VALUE_LIST || b.type == VALUE_TUPLE;
    if (op == TOKEN_MUL && sequence_a && (b.type == VALUE_INT || b.type == VALUE_BOOL)) return repeat(v, a, as_int(b));
    if (op == TOKEN_MUL && sequence_b && (a.type == VALUE_INT || a.type == VALUE_BOOL)) return repeat(v, b, as_int(a));
    if (op == TOKEN_MOD && a.type == VALUE_STRING) return percent_format(v, a, b);
    return type_error(v, op, a, b);
}
