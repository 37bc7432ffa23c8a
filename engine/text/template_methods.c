/* Methods of strings, dicts, loops and cyclers that templates call, as Python's; methods that would change a value are refused, as in
 * the immutable sandbox. Provenance follows the bytes: what is cut, moved or changed in case keeps the mark of where it came from. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <utf8proc.h>

#include "base/str.h"
#include "engine/text/template_parts.h"

/* --- strings: stripping, case, replacement --- */
static bool blank(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x20) || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

static size_t char_at(const struct text *s, size_t at, uint32_t *cp)
{
    int n = utf8_decode(s->p + at, s->n - at, cp);
    return n > 0 ? (size_t)n : 1;
}

static bool to_strip(const struct text *s, size_t at, size_t n, const struct text *chars)
{
    uint32_t cp = 0;
    char_at(s, at, &cp);
    return chars ? memmem(chars->p, chars->n, s->p + at, n) != NULL : blank(cp);
}

struct value text_strip(struct eval *v, const struct text *s, const struct text *chars, bool left, bool right)
{
    size_t from = 0, end = s->n;
    uint32_t cp;
    while (left && from < end) {
        size_t n = char_at(s, from, &cp);
        if (!to_strip(s, from, n, chars)) break;
        from += n;
    }
    while (right && end > from) {
        size_t at = end - 1;
        while (at > from && ((unsigned char)s->p[at] & 0xC0) == 0x80) at--;
        if (!to_strip(s, at, end - at, chars)) break;
        end = at;
    }
    eval_chars(v, s->n - (end - from));
    return value_slice(v, s, from, end);
}

/* One character in another case; a few become several. */
static void put_case(struct eval *v, struct out *o, const struct text *s, size_t at, size_t n, char how)
{
    uint32_t cp = 0;
    char_at(s, at, &cp);
    static const struct {
        uint32_t cp;
        const char *upper, *title;
    } several[] = {{0xDF, "SS", "Ss"},   {0xFB00, "FF", "Ff"},   {0xFB01, "FI", "Fi"},
                   {0xFB02, "FL", "Fl"}, {0xFB03, "FFI", "Ffi"}, {0xFB04, "FFL", "Ffl"},
                   {0xFB05, "ST", "St"}, {0xFB06, "ST", "St"},   {0x149, "\xCA\xBCN", "\xCA\xBCN"}};
    uint8_t mark = s->marks ? s->marks[at] : s->mark;
    for (size_t i = 0; how != 'l' && i < sizeof several / sizeof *several; i++)
        if (several[i].cp == cp) {
            const char *r = how == 'u' ? several[i].upper : several[i].title;
            out_bytes(v, o, r, strlen(r), mark);
            return;
        }
    if (how == 'l' && cp == 0x130) {
        out_bytes(v, o, "i\xCC\x87", 3, mark);
        return;
    }
    utf8proc_int32_t c = (utf8proc_int32_t)cp, to = how == 'u'   ? utf8proc_toupper(c)
                                                    : how == 't' ? utf8proc_totitle(c)
                                                                 : utf8proc_tolower(c);
    char bytes[4];
    if (to == c)
        out_text(v, o, s, at, at + n);
    else
        out_bytes(v, o, bytes, utf8_encode((uint32_t)to, bytes), mark);
}

static bool cased(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

/* how: upper, lower, capitalize, title (str.title), words (the filter title: after blanks and opening marks), swapcase. */
struct value text_case(struct eval *v, const struct text *s, const char *how)
{
    struct out o = {0};
    bool begins = true;
    eval_chars(v, s->n);
    for (size_t i = 0; i < s->n && !v->failed;) {
        uint32_t cp = 0;
        size_t n = char_at(s, i, &cp);
        char to = how[0] == 'u' ? 'u' : 'l';
        if (how[0] == 'c' || how[0] == 't') to = begins ? 't' : 'l';
        if (how[0] == 'w') to = begins ? 'u' : 'l';
        if (how[0] == 's') to = utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_LU ? 'l' : 'u';
        put_case(v, &o, s, i, n, to);
        begins = how[0] == 't' ? !cased(cp) : how[0] == 'w' ? blank(cp) || (cp < 0x80 && cp && strchr("-({[<", (int)cp)) : false;
        i += n;
    }
    return out_value(v, &o);
}

/* Where `what` is at or after `from`; SIZE_MAX: nowhere. */
static size_t find_in(struct eval *v, const struct text *s, size_t from, const struct text *what)
{
    const char *k = what->n <= s->n - from ? memmem(s->p + from, s->n - from, what->p, what->n) : NULL;
    eval_bytes(v, k ? (size_t)(k - s->p) - from : s->n - from);
    return k ? (size_t)(k - s->p) : SIZE_MAX;
}

struct value text_replace(struct eval *v, const struct text *s, const struct text *old, const struct text *with, int64_t count)
{
    struct out o = {0};
    size_t at = 0;
    for (; count != 0 && !v->failed && eval_step(v); count--) {
        size_t k = old->n ? find_in(v, s, at, old) : at;
        if (k == SIZE_MAX) break;
        out_text(v, &o, s, at, k);
        out_text(v, &o, with, 0, with->n);
        at = k + old->n;
        if (old->n) continue;
        if (at >= s->n) return out_value(v, &o); /* an empty pattern fits before each character and at the end */
        uint32_t cp;
        size_t n = char_at(s, at, &cp);
        out_text(v, &o, s, at, at + n);
        at += n;
    }
    out_text(v, &o, s, at, s->n);
    return out_value(v, &o);
}

/* --- formatting --- */
/* 'a %s b' % args: %s %d %r %%. */
struct value percent_format(struct eval *v, struct value format, struct value args)
{
    const struct text *s = format.u.s;
    struct list one = {&args, 1};
    const struct list *l = args.type == VALUE_TUPLE ? args.u.list : &one;
    struct out o = {0};
    size_t used = 0;
    eval_chars(v, s->n);
    for (size_t i = 0; i < s->n && !v->failed; i++) {
        if (s->p[i] != '%') {
            out_text(v, &o, s, i, i + 1);
            continue;
        }
        char c = ++i < s->n ? s->p[i] : 0;
        if (c == '%') {
            out_text(v, &o, s, i, i + 1);
            continue;
        }
        if (c != 's' && c != 'd' && c != 'r') return eval_fail(v, ERR_UNSUPPORTED, "format '%%%c' is not supported", c ? c : ' ');
        if (used >= l->n) return eval_fail(v, ERR_INPUT, "not enough arguments for format string");
        struct value x = l->items[used++];
        if (c == 'd' && x.type != VALUE_INT && x.type != VALUE_BOOL && x.type != VALUE_FLOAT)
            return eval_fail(v, ERR_INPUT, "%%d format: a number is required, not %s", value_type_name(x));
        if (c == 'd' && x.type == VALUE_FLOAT && !(fabs(x.u.f) < 9e18))
            return eval_fail(v, ERR_INPUT, "%%d format: the number is too large");
        if (c == 'd') x = value_int(x.type == VALUE_BOOL ? x.u.b : x.type == VALUE_FLOAT ? (int64_t)x.u.f : x.u.i, x.mark);
        if (c == 'r')
            print_repr(v, &o, x, 0);
        else
            print_str(v, &o, x);
    }
    if (!v->failed && used < l->n && args.type == VALUE_TUPLE)
        return eval_fail(v, ERR_INPUT, "not all arguments converted during string formatting");
    return out_value(v, &o);
}

/* '{} {0} {name}'.format(...): plain fields only. */
static struct value brace_format(struct eval *v, const struct text *s, const struct list *args, const struct dict *kwargs)
{
    struct out o = {0};
    size_t next = 0;
    eval_chars(v, s->n);
    for (size_t i = 0; i < s->n && !v->failed; i++) {
        char c = s->p[i];
        if ((c == '{' || c == '}') && i + 1 < s->n && s->p[i + 1] == c) {
            out_text(v, &o, s, i, i + 1);
            i++;
            continue;
        }
        if (c != '{') {
            if (c == '}') return eval_fail(v, ERR_INPUT, "Single '}' encountered in format string");
            out_text(v, &o, s, i, i + 1);
            continue;
        }
        const char *close = memchr(s->p + i, '}', s->n - i);
        size_t from = i + 1, n = close ? (size_t)(close - s->p) - from : 0;
        if (!close) return eval_fail(v, ERR_INPUT, "expected '}' before end of string");
        if (memchr(s->p + from, ':', n) || memchr(s->p + from, '!', n) || memchr(s->p + from, '.', n) || memchr(s->p + from, '[', n))
            return eval_fail(v, ERR_UNSUPPORTED, "format fields with '%.*s' are not supported", (int)n, s->p + from);
        char digits[16];
        int64_t index = 0;
        snprintf(digits, sizeof digits, "%.*s", (int)(n < 15 ? n : 15), s->p + from);
        bool numbered = n > 0 && str_parse_int64(digits, 0, 1 << 20, &index);
        if (n == 0) index = (int64_t)next++;
        struct value *named = n && !numbered ? dict_find_chars(kwargs, s->p + from, n) : NULL;
        if (n && !numbered && !named) return eval_fail(v, ERR_INPUT, "format: no argument '%.*s'", (int)n, s->p + from);
        if (!named && (size_t)index >= args->n) return eval_fail(v, ERR_INPUT, "format: argument %lld is missing", (long long)index);
        print_str(v, &o, named ? *named : args->items[index]);
        i = from + n;
    }
    return out_value(v, &o);
}

/* --- splitting --- */
struct pieces {
    struct value *items;
    size_t n, cap;
};

static void push(struct eval *v, struct pieces *p, struct value x)
{
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 16;
        struct value *items = eval_alloc(v, cap * sizeof *items);
        if (!items) return;
        if (p->n) memcpy(items, p->items, p->n * sizeof *items);
        p->items = items;
        p->cap = cap;
    }
    p->items[p->n++] = x;
}

static struct value list_of(struct eval *v, const struct pieces *p)
{
    return value_of_list(v, VALUE_LIST, p->items, v->failed ? 0 : p->n);
}

static struct value split_blanks(struct eval *v, const struct text *s, int64_t most)
{
    struct pieces p = {0};
    size_t at = 0;
    uint32_t cp = 0;
    eval_chars(v, s->n);
    while (eval_step(v)) {
        for (size_t n; at < s->n && (n = char_at(s, at, &cp), blank(cp)); at += n) {
        }
        if (at >= s->n) break;
        size_t end = at;
        for (size_t n; end < s->n && (n = char_at(s, end, &cp), !blank(cp)); end += n) {
        }
        if (most == 0) {
            struct value rest = value_slice(v, s, at, s->n);
            push(v, &p, text_strip(v, rest.u.s, NULL, false, true));
            break;
        }
        push(v, &p, value_slice(v, s, at, end));
        at = end;
        most--;
    }
    return list_of(v, &p);
}

static struct value split_text(struct eval *v, const struct text *s, const struct text *by, int64_t most)
{
    struct pieces p = {0};
    size_t at = 0;
    if (by->n == 0) return eval_fail(v, ERR_INPUT, "empty separator");
    for (size_t k; most != 0 && eval_step(v) && (k = find_in(v, s, at, by)) != SIZE_MAX; most--, at = k + by->n)
        push(v, &p, value_slice(v, s, at, k));
    push(v, &p, value_slice(v, s, at, s->n));
    return list_of(v, &p);
}

/* The last place before `end` where `what` ends; SIZE_MAX: none. Costs as much as it may compare. */
static size_t find_last(struct eval *v, const struct text *s, size_t end, const struct text *what)
{
    for (size_t k = end >= what->n ? end - what->n + 1 : 0, i = 1; k-- > 0 && !v->failed; i++) {
        if (i % 16 == 0) eval_bytes(v, 16 * what->n + 256);
        if (memcmp(s->p + k, what->p, what->n) == 0) return k;
    }
    return SIZE_MAX;
}

static struct value rsplit_text(struct eval *v, const struct text *s, const struct text *by, int64_t most)
{
    struct pieces p = {0};
    size_t end = s->n;
    if (by->n == 0) return eval_fail(v, ERR_INPUT, "empty separator");
    for (size_t k; most != 0 && eval_step(v) && (k = find_last(v, s, end, by)) != SIZE_MAX; most--, end = k)
        push(v, &p, value_slice(v, s, k + by->n, end));
    push(v, &p, value_slice(v, s, 0, end));
    for (size_t i = 0; i < p.n / 2; i++) {
        struct value t = p.items[i];
        p.items[i] = p.items[p.n - 1 - i];
        p.items[p.n - 1 - i] = t;
    }
    return list_of(v, &p);
}

static struct value split_lines(struct eval *v, const struct text *s, bool keep)
{
    struct pieces p = {0};
    eval_chars(v, s->n);
    for (size_t at = 0; at < s->n && eval_step(v);) {
        size_t end = at, n = 0;
        for (; end < s->n; end += n) {
            uint32_t cp = 0;
            n = char_at(s, end, &cp);
            if ((cp >= 10 && cp <= 13) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 || cp == 0x2029) break;
        }
        size_t next = end < s->n ? end + (s->p[end] == '\r' && end + 1 < s->n && s->p[end + 1] == '\n' ? 2 : n) : end;
        push(v, &p, value_slice(v, s, at, keep ? next : end));
        at = next;
    }
    return list_of(v, &p);
}

static struct value partition(struct eval *v, const struct text *s, const struct text *by, bool last)
{
    if (by->n == 0) return eval_fail(v, ERR_INPUT, "empty separator");
    size_t k = last ? find_last(v, s, s->n, by) : find_in(v, s, 0, by);
    struct value *three = eval_alloc(v, 3 * sizeof *three);
    if (!three) return (struct value){0};
    bool found = k != SIZE_MAX;
    three[0] = value_slice(v, s, 0, found ? k : last ? 0 : s->n);
    three[1] = value_slice(v, s, found ? k : 0, found ? k + by->n : 0);
    three[2] = value_slice(v, s, found ? k + by->n : last ? 0 : s->n, s->n);
    return value_of_list(v, VALUE_TUPLE, three, 3);
}

/* --- the table of string methods --- */
enum method_id {
    M_STRIP,
    M_LSTRIP,
    M_RSTRIP,
    M_SPLIT,
    M_RSPLIT,
    M_SPLITLINES,
    M_STARTSWITH,
    M_ENDSWITH,
    M_UPPER,
    M_LOWER,
    M_TITLE,
    M_CAPITALIZE,
    M_SWAPCASE,
    M_REPLACE,
    M_JOIN,
    M_FIND,
    M_RFIND,
    M_INDEX,
    M_COUNT,
    M_ISDIGIT,
    M_ISALPHA,
    M_ISALNUM,
    M_ISSPACE,
    M_ISUPPER,
    M_ISLOWER,
    M_FORMAT,
    M_REMOVEPREFIX,
    M_REMOVESUFFIX,
    M_ZFILL,
    M_PARTITION,
    M_RPARTITION,
    M_ENCODE,
    M_GET,
    M_KEYS,
    M_VALUES,
    M_ITEMS,
    M_REFUSED,
    M_LIST_INDEX,
    M_LIST_COUNT,
    M_CYCLE,
    M_CHANGED,
    M_NEXT,
    M_RESET,
    M_COPY
};
struct method_row {
    const char *name;
    enum method_id id;
};
static const struct method_row string_methods[] = {{"strip", M_STRIP},
                                                   {"lstrip", M_LSTRIP},
                                                   {"rstrip", M_RSTRIP},
                                                   {"split", M_SPLIT},
                                                   {"rsplit", M_RSPLIT},
                                                   {"splitlines", M_SPLITLINES},
                                                   {"startswith", M_STARTSWITH},
                                                   {"endswith", M_ENDSWITH},
                                                   {"upper", M_UPPER},
                                                   {"lower", M_LOWER},
                                                   {"title", M_TITLE},
                                                   {"capitalize", M_CAPITALIZE},
                                                   {"swapcase", M_SWAPCASE},
                                                   {"replace", M_REPLACE},
                                                   {"join", M_JOIN},
                                                   {"find", M_FIND},
                                                   {"rfind", M_RFIND},
                                                   {"index", M_INDEX},
                                                   {"count", M_COUNT},
                                                   {"isdigit", M_ISDIGIT},
                                                   {"isalpha", M_ISALPHA},
                                                   {"isalnum", M_ISALNUM},
                                                   {"isspace", M_ISSPACE},
                                                   {"isupper", M_ISUPPER},
                                                   {"islower", M_ISLOWER},
                                                   {"format", M_FORMAT},
                                                   {"removeprefix", M_REMOVEPREFIX},
                                                   {"removesuffix", M_REMOVESUFFIX},
                                                   {"zfill", M_ZFILL},
                                                   {"partition", M_PARTITION},
                                                   {"rpartition", M_RPARTITION},
                                                   {"encode", M_ENCODE},
                                                   {NULL, 0}};
static const struct method_row dict_methods[] = {
    {"get", M_GET},     {"keys", M_KEYS},       {"values", M_VALUES}, {"items", M_ITEMS},        {"copy", M_COPY}, {"update", M_REFUSED},
    {"pop", M_REFUSED}, {"popitem", M_REFUSED}, {"clear", M_REFUSED}, {"setdefault", M_REFUSED}, {NULL, 0}};
static const struct method_row list_methods[] = {{"index", M_LIST_INDEX}, {"count", M_LIST_COUNT}, {"copy", M_COPY},
                                                 {"append", M_REFUSED},   {"extend", M_REFUSED},   {"insert", M_REFUSED},
                                                 {"pop", M_REFUSED},      {"remove", M_REFUSED},   {"clear", M_REFUSED},
                                                 {"sort", M_REFUSED},     {"reverse", M_REFUSED},  {NULL, 0}};
static const struct method_row loop_methods[] = {{"cycle", M_CYCLE}, {"changed", M_CHANGED}, {NULL, 0}};
static const struct method_row cycler_methods[] = {{"next", M_NEXT}, {"reset", M_RESET}, {NULL, 0}};

static const struct method_row *method_find(struct value self, const struct text *name)
{
    const struct method_row *rows = self.type == VALUE_STRING                             ? string_methods
                                    : self.type == VALUE_DICT                             ? dict_methods
                                    : self.type == VALUE_LIST || self.type == VALUE_TUPLE ? list_methods
                                    : self.type == VALUE_LOOP                             ? loop_methods
                                    : self.type == VALUE_CYCLER                           ? cycler_methods
                                                                                          : NULL;
    for (; rows && rows->name; rows++)
        if (template_text_is(name, rows->name)) return rows;
    return NULL;
}

bool method_known(struct value self, const struct text *name)
{
    return method_find(self, name) != NULL;
}

/* --- calling --- */
struct call {
    const struct list *args;
    const struct dict *kwargs;
    const char *name;
};

static struct value argument(const struct call *c, size_t i, const char *name)
{
    if (i < c->args->n) return c->args->items[i];
    struct value *x = dict_find_chars(c->kwargs, name, strlen(name));
    return x ? *x : (struct value){0};
}

static const struct text *text_argument(struct eval *v, const struct call *c, size_t i)
{
    static const struct text empty = {.p = ""};
    if (i < c->args->n && c->args->items[i].type == VALUE_STRING) return c->args->items[i].u.s;
    eval_fail(v, ERR_INPUT, "%s(): argument %zu must be a string", c->name, i + 1);
    return &empty;
}

static int64_t int_argument(struct eval *v, const struct call *c, size_t i, const char *name, int64_t missing)
{
    struct value a = argument(c, i, name);
    if (a.type == VALUE_UNDEFINED || a.type == VALUE_NONE) return missing;
    if (a.type == VALUE_INT) return a.u.i;
    eval_fail(v, ERR_INPUT, "%s(): argument %zu must be an integer", c->name, i + 1);
    return missing;
}

static bool has_fix(const struct text *s, const struct text *fix, bool at_start)
{
    return fix->n <= s->n && memcmp(at_start ? s->p : s->p + s->n - fix->n, fix->p, fix->n) == 0;
}

static struct value starts_or_ends(struct eval *v, const struct text *s, const struct call *c, bool start)
{
    if (c->args->n == 1 && c->args->items[0].type == VALUE_TUPLE) {
        const struct list *l = c->args->items[0].u.list;
        for (size_t i = 0; i < l->n; i++)
            if (l->items[i].type == VALUE_STRING && has_fix(s, l->items[i].u.s, start)) return value_bool(true);
        return value_bool(false);
    }
    if (c->args->n > 1) return eval_fail(v, ERR_UNSUPPORTED, "%s() with positions is not supported", c->name);
    return value_bool(has_fix(s, text_argument(v, c, 0), start));
}

static bool all_of(const struct text *s, enum method_id id)
{
    bool letter = false;
    for (size_t i = 0; i < s->n;) {
        uint32_t cp = 0;
        i += char_at(s, i, &cp);
        utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)cp);
        bool alpha = k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO, digit = k == UTF8PROC_CATEGORY_ND;
        bool upper = k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LT, lower = k == UTF8PROC_CATEGORY_LL;
        letter |= upper || lower;
        if (id == M_ISDIGIT   ? !digit
            : id == M_ISALPHA ? !alpha
            : id == M_ISALNUM ? !(alpha || digit)
            : id == M_ISSPACE ? !blank(cp)
            : id == M_ISUPPER ? lower
                              : upper)
            return false;
    }
    return s->n > 0 && (letter || (id != M_ISUPPER && id != M_ISLOWER));
}

static struct value place_of(struct eval *v, const struct text *s, const struct text *what, bool last, bool must)
{
    size_t k = last ? find_last(v, s, s->n, what) : find_in(v, s, 0, what);
    if (k == SIZE_MAX) return must ? eval_fail(v, ERR_INPUT, "substring not found") : value_int(-1, 0);
    struct text before = {.p = s->p, .n = k};
    eval_bytes(v, k);
    return value_int((int64_t)text_length(&before), 0);
}

static struct value count_of(struct eval *v, const struct text *s, const struct text *what)
{
    eval_bytes(v, s->n);
    if (what->n == 0) return value_int((int64_t)text_length(s) + 1, 0);
    int64_t n = 0;
    for (size_t at = 0, k; eval_step(v) && (k = find_in(v, s, at, what)) != SIZE_MAX; at = k + what->n) n++;
    return value_int(n, 0);
}

static struct value zero_fill(struct eval *v, const struct text *s, int64_t width)
{
    struct out o = {0};
    eval_bytes(v, s->n);
    size_t sign = s->n && (s->p[0] == '-' || s->p[0] == '+');
    out_text(v, &o, s, 0, sign);
    for (int64_t n = (int64_t)text_length(s); n < width && eval_step(v); n++) out_bytes(v, &o, "0", 1, MARK_TEMPLATE);
    out_text(v, &o, s, sign, s->n);
    return out_value(v, &o);
}

static struct value joined(struct eval *v, const struct text *by, struct value items)
{
    const struct list *l = value_items(v, items);
    struct out o = {0};
    for (size_t i = 0; i < l->n && eval_step(v); i++) {
        if (l->items[i].type != VALUE_STRING)
            return eval_fail(v, ERR_INPUT, "sequence item %zu: expected str instance, %s found", i, value_type_name(l->items[i]));
        if (i) out_text(v, &o, by, 0, by->n);
        out_text(v, &o, l->items[i].u.s, 0, l->items[i].u.s->n);
    }
    return out_value(v, &o);
}

static struct value split(struct eval *v, const struct text *s, const struct call *c, bool from_right)
{
    struct value by = argument(c, 0, "sep");
    int64_t most = int_argument(v, c, 1, "maxsplit", -1);
    if (by.type == VALUE_UNDEFINED || by.type == VALUE_NONE)
        return from_right && most >= 0 ? eval_fail(v, ERR_UNSUPPORTED, "rsplit() by blanks with a limit is not supported")
                                       : split_blanks(v, s, most);
    if (by.type != VALUE_STRING) return eval_fail(v, ERR_INPUT, "%s(): the separator must be a string", c->name);
    return from_right ? rsplit_text(v, s, by.u.s, most) : split_text(v, s, by.u.s, most);
}

static struct value string_method(struct eval *v, const struct text *s, enum method_id id, const struct call *c)
{
    struct value a = argument(c, 0, "chars");
    switch (id) {
    case M_STRIP:
    case M_LSTRIP:
    case M_RSTRIP:
        return text_strip(v, s, a.type == VALUE_STRING ? a.u.s : NULL, id != M_RSTRIP, id != M_LSTRIP);
    case M_SPLIT:
    case M_RSPLIT:
        return split(v, s, c, id == M_RSPLIT);
    case M_SPLITLINES:
        return split_lines(v, s, value_true(argument(c, 0, "keepends")));
    case M_STARTSWITH:
    case M_ENDSWITH:
        return starts_or_ends(v, s, c, id == M_STARTSWITH);
    case M_UPPER:
        return text_case(v, s, "upper");
    case M_LOWER:
        return text_case(v, s, "lower");
    case M_TITLE:
        return text_case(v, s, "title");
    case M_CAPITALIZE:
        return text_case(v, s, "capitalize");
    case M_SWAPCASE:
        return text_case(v, s, "swapcase");
    case M_REPLACE:
        return text_replace(v, s, text_argument(v, c, 0), text_argument(v, c, 1), int_argument(v, c, 2, "count", -1));
    case M_JOIN:
        return joined(v, s, a);
    case M_FIND:
    case M_INDEX:
        return place_of(v, s, text_argument(v, c, 0), false, id == M_INDEX);
    case M_RFIND:
        return place_of(v, s, text_argument(v, c, 0), true, false);
    case M_COUNT:
        return count_of(v, s, text_argument(v, c, 0));
    case M_FORMAT:
        return brace_format(v, s, c->args, c->kwargs);
    case M_REMOVEPREFIX:
        return value_slice(v, s, has_fix(s, text_argument(v, c, 0), true) ? text_argument(v, c, 0)->n : 0, s->n);
    case M_REMOVESUFFIX:
        return value_slice(v, s, 0, s->n - (has_fix(s, text_argument(v, c, 0), false) ? text_argument(v, c, 0)->n : 0));
    case M_ZFILL:
        return zero_fill(v, s, int_argument(v, c, 0, "width", 0));
    case M_PARTITION:
    case M_RPARTITION:
        return partition(v, s, text_argument(v, c, 0), id == M_RPARTITION);
    case M_ENCODE:
        return eval_fail(v, ERR_UNSUPPORTED, "method 'encode' is not supported");
    default:
        eval_chars(v, s->n);
        return value_bool(all_of(s, id));
    }
}

static struct value dict_part(struct eval *v, const struct dict *d, enum method_id id)
{
    struct value *items = eval_alloc(v, (d->n + 1) * sizeof *items);
    for (size_t i = 0; items && i < d->n && eval_step(v); i++) {
        items[i] = id == M_KEYS ? d->members[i].key : d->members[i].value;
        if (id != M_ITEMS) continue;
        struct value *pair = eval_alloc(v, 2 * sizeof *pair);
        if (!pair) break;
        pair[0] = d->members[i].key;
        pair[1] = d->members[i].value;
        items[i] = value_of_list(v, VALUE_TUPLE, pair, 2);
    }
    return value_of_list(v, VALUE_LIST, items, v->failed ? 0 : d->n);
}

static struct value dict_method(struct eval *v, const struct dict *d, enum method_id id, const struct call *c)
{
    if (id != M_GET) return dict_part(v, d, id);
    if (c->args->n < 1) return eval_fail(v, ERR_INPUT, "get() needs a key");
    eval_bytes(v, d->n * 8);
    struct value *x = dict_find(v, d, c->args->items[0]);
    return x                                                   ? *x
           : c->args->n > 1                                    ? c->args->items[1]
           : argument(c, 1, "default").type == VALUE_UNDEFINED ? value_none()
                                                               : argument(c, 1, "default");
}

static struct value list_method(struct eval *v, const struct list *l, enum method_id id, const struct call *c)
{
    int64_t n = 0;
    for (size_t i = 0; i < l->n && c->args->n && eval_step(v); i++) {
        if (!value_equal(v, l->items[i], c->args->items[0], 0)) continue;
        if (id == M_LIST_INDEX) return value_int((int64_t)i, 0);
        n++;
    }
    return id == M_LIST_INDEX ? eval_fail(v, ERR_INPUT, "value is not in list") : value_int(n, 0);
}

static struct value loop_method(struct eval *v, struct loop *l, enum method_id id, const struct call *c)
{
    if (id == M_CYCLE) return c->args->n ? c->args->items[l->at % c->args->n] : eval_fail(v, ERR_INPUT, "no items for cycling given");
    struct value now = value_of_list(v, VALUE_TUPLE, c->args->items, c->args->n);
    bool changed = !l->has_changed || !value_equal(v, l->last_changed, now, 0);
    l->has_changed = true;
    l->last_changed = now;
    return value_bool(changed);
}

static struct value cycler_method(struct eval *v, struct cycler *k, enum method_id id)
{
    if (id == M_RESET) return k->at = 0, value_none();
    return k->items->n ? k->items->items[k->at++ % k->items->n] : eval_fail(v, ERR_INPUT, "no items for cycling given");
}

struct value method_call(struct eval *v, const struct method *m, const struct list *args, const struct dict *kwargs)
{
    const struct method_row *row = method_find(m->self, m->name);
    struct call c = {args, kwargs, row->name};
    if (row->id == M_REFUSED)
        return eval_fail(v, ERR_INPUT, "'%s' would change a %s; values are immutable", row->name, value_type_name(m->self));
    if (row->id == M_COPY) return m->self;
    switch (m->self.type) {
    case VALUE_STRING:
        return string_method(v, m->self.u.s, row->id, &c);
    case VALUE_DICT:
        return dict_method(v, m->self.u.dict, row->id, &c);
    case VALUE_LOOP:
        return loop_method(v, m->self.u.loop, row->id, &c);
    case VALUE_CYCLER:
        return cycler_method(v, m->self.u.cycler, row->id);
    default:
        return list_method(v, m->self.u.list, row->id, &c);
    }
}
