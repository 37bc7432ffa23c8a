/* Evaluation: walks the tree, bounded by fuel, depth and output. See template_parts.h. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "engine/text/template_parts.h"

const struct template_limits template_limits_default = {.fuel = 1000000, .depth = 64, .max_output_bytes = 0};

static struct value eval(struct eval *v, const struct node *n, struct scope *s);
static void run(struct eval *v, const struct node *body, struct scope *s);

/* --- faults and limits --- */
struct value eval_fail(struct eval *v, enum err_code code, const char *fmt, ...)
{
    if (!v->failed) {
        char what[400];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(what, sizeof what, fmt, ap);
        va_end(ap);
        v->failed = err_set(v->e, code, "template line %u: %s", v->line, what);
    }
    return (struct value){0};
}

bool eval_step(struct eval *v)
{
    if (v->failed) return false;
    if (v->fuel-- > 0) return true;
    v->fuel = 0;
    eval_fail(v, ERR_LIMIT, "takes too many steps");
    return false;
}

static void spend(struct eval *v, size_t steps)
{
    if (steps <= v->fuel) {
        v->fuel -= steps;
        return;
    }
    v->fuel = 0;
    eval_fail(v, ERR_LIMIT, "takes too many steps");
}

void eval_bytes(struct eval *v, size_t n)
{
    spend(v, n / 64);
}

void eval_chars(struct eval *v, size_t n)
{
    spend(v, n / 3);
}

void *eval_alloc(struct eval *v, size_t n)
{
    if (v->failed) return NULL;
    spend(v, n / 32); /* memory is touched as it is given: twice what a copy costs */
    if (v->failed) return NULL;
    void *p = arena_alloc(v->arena, n ? n : 1);
    if (!p) eval_fail(v, arena_failure(v->arena), "takes too much memory");
    return p;
}

static bool enter(struct eval *v, unsigned max_depth)
{
    if (v->depth >= max_depth) {
        eval_fail(v, ERR_LIMIT, "nested deeper than %u", max_depth);
        return false;
    }
    v->depth++;
    return !v->failed;
}

static bool deeper(struct eval *v)
{
    return enter(v, v->max_depth);
}

bool eval_enter(struct eval *v)
{
    return enter(v, v->max_depth * 4);
}

void eval_leave(struct eval *v)
{
    v->depth--;
}

/* --- variables --- */
static void scope_set(struct eval *v, struct scope *s, const struct text *name, struct value x)
{
    struct value *old = dict_find_chars(&s->vars, name->p, name->n);
    if (old)
        *old = x;
    else
        dict_set(v, &s->vars, (struct value){.type = VALUE_STRING, .u.s = name}, x);
}

static struct value lookup(struct eval *v, struct scope *s, const struct text *name)
{
    for (; s; s = s->up) {
        eval_bytes(v, s->vars.n * 8);
        struct value *x = dict_find_chars(&s->vars, name->p, name->n);
        if (x) return *x;
    }
    for (int i = 0; i < BUILTINS; i++)
        if (template_text_is(name, builtin_names[i])) return (struct value){.type = VALUE_FUNCTION, .u.function = i};
    return (struct value){.type = VALUE_UNDEFINED, .u.s = name};
}

static struct scope *scope_new(struct eval *v, struct scope *up)
{
    struct scope *s = eval_alloc(v, sizeof *s);
    if (s) s->up = up;
    return s;
}

/* A loop's scope is emptied for each pass, not made anew: as in Jinja2, a macro of an earlier pass sees this pass's variables. */
static void scope_empty(struct eval *v, struct scope *s)
{
    spend(v, 6); /* about what a pass takes */
    s->vars.n = 0;
}

static void assign(struct eval *v, const struct node *target, struct value x, struct scope *s)
{
    v->line = target->line;
    if (target->type == NODE_NAME) {
        scope_set(v, s, target->name, x);
    } else if (target->type == NODE_ATTR) {
        struct value ns = eval(v, target->a, s);
        if (v->failed) return;
        if (ns.type != VALUE_NAMESPACE)
            eval_fail(v, ERR_INPUT, "cannot assign attribute on non-namespace object");
        else if (target->name->p[0] == '_')
            eval_fail(v, ERR_INPUT, "a namespace cannot hold '%.*s'", (int)target->name->n, target->name->p);
        else
            dict_set(v, ns.u.dict, (struct value){.type = VALUE_STRING, .u.s = target->name}, x);
    } else {
        const struct list *items = value_items(v, x);
        size_t i = 0;
        for (const struct node *k = target->list; k && !v->failed; k = k->next, i++) {
            if (i >= items->n)
                eval_fail(v, ERR_INPUT, "not enough values to unpack");
            else
                assign(v, k, items->items[i], s);
        }
        if (!v->failed && i != items->n) eval_fail(v, ERR_INPUT, "too many values to unpack");
    }
}

/* --- calls --- */
static void arguments(struct eval *v, const struct node *call, struct scope *s, struct list *args, struct dict *kwargs)
{
    size_t n = 0;
    for (const struct node *k = call->list; k; k = k->next) n += k->type != NODE_KEYWORD;
    struct value *items = eval_alloc(v, (n ? n : 1) * sizeof *items);
    *args = (struct list){items, 0};
    *kwargs = (struct dict){0};
    for (const struct node *k = call->list; k && !v->failed; k = k->next) {
        if (k->type == NODE_KEYWORD)
            dict_set(v, kwargs, (struct value){.type = VALUE_STRING, .u.s = k->name}, eval(v, k->a, s));
        else
            items[args->n++] = eval(v, k, s);
    }
}

/* Arguments past a macro's parameters: its varargs and kwargs, if it mentions them, else a mistake. */
static void bind_rest(struct eval *v, const struct macro *m, struct scope *s, const struct list *args, size_t n_params,
                      const struct dict *rest)
{
    static const struct text varargs = {.p = "varargs", .n = 7}, kwargs = {.p = "kwargs", .n = 6};
    size_t extra = args->n > n_params ? args->n - n_params : 0;
    if ((extra && !(m->node->op & 1)) || (rest->n && !(m->node->op & 2))) {
        eval_fail(v, ERR_INPUT, "macro takes no such argument");
        return;
    }
    struct dict *d = eval_alloc(v, sizeof *d);
    if (!d) return;
    *d = *rest;
    if (m->node->op & 1) scope_set(v, s, &varargs, value_of_list(v, VALUE_TUPLE, extra ? args->items + n_params : NULL, extra));
    if (m->node->op & 2) scope_set(v, s, &kwargs, (struct value){.type = VALUE_DICT, .u.dict = d});
}

/* A macro's or call block's body with its parameters bound; what it printed. */
static struct value call_macro(struct eval *v, const struct macro *m, const struct list *args, const struct dict *kwargs)
{
    static const struct text caller = {.p = "caller", .n = 6};
    struct scope *s = scope_new(v, m->scope);
    if (!s || !deeper(v)) return (struct value){0};
    size_t i = 0;
    struct dict rest = {0};
    for (const struct node *p = m->node->b->list; p && !v->failed; p = p->next, i++) {
        struct value *named = dict_find_chars(kwargs, p->name->p, p->name->n);
        scope_set(v, s, p->name,
                  i < args->n ? args->items[i]
                  : named     ? *named
                  : p->a      ? eval(v, p->a, s)
                              : (struct value){.type = VALUE_UNDEFINED, .u.s = p->name});
    }
    for (size_t k = 0; k < kwargs->n && !v->failed; k++) {
        const struct text *name = kwargs->members[k].key.u.s;
        bool is_parameter = dict_find_chars(&s->vars, name->p, name->n) != NULL;
        if (template_text_is(name, "caller"))
            scope_set(v, s, &caller, kwargs->members[k].value);
        else if (!is_parameter)
            dict_set(v, &rest, kwargs->members[k].key, kwargs->members[k].value);
    }
    if (!v->failed) bind_rest(v, m, s, args, i, &rest);
    struct out o = {0}, *outer = v->out;
    v->out = &o;
    run(v, m->node, s);
    v->out = outer;
    eval_leave(v);
    return out_value(v, &o);
}

struct value eval_call(struct eval *v, struct value f, const struct list *args, const struct dict *kwargs)
{
    if (!eval_step(v)) return (struct value){0};
    switch (f.type) {
    case VALUE_MACRO:
        return call_macro(v, f.u.macro, args, kwargs);
    case VALUE_METHOD:
        return method_call(v, f.u.method, args, kwargs);
    case VALUE_FUNCTION:
        return builtin_call(v, f.u.function, args, kwargs);
    case VALUE_JOINER:
        if (f.u.cycler->used) return f.u.cycler->separator;
        f.u.cycler->used = true;
        return value_chars(v, "");
    case VALUE_LOOP: {
        struct loop *l = f.u.loop;
        if (!l->node->flag || args->n != 1) return eval_fail(v, ERR_INPUT, "only a recursive loop can be called, with what it loops over");
        struct out o = {0}, *outer = v->out;
        bool ran;
        v->out = &o;
        eval_loop(v, l->node, args->items[0], l->scope, l->depth + 1, &ran);
        v->out = outer;
        return out_value(v, &o);
    }
    case VALUE_UNDEFINED:
        return eval_fail(v, ERR_INPUT, "'%.*s' is undefined", f.u.s ? (int)f.u.s->n : 5, f.u.s ? f.u.s->p : "value");
    default:
        return eval_fail(v, ERR_INPUT, "'%s' object is not callable", value_type_name(f));
    }
}

/* --- expressions --- */
static bool compare(struct eval *v, int op, struct value a, struct value b)
{
    switch (op) {
    case TOKEN_EQ:
        return value_equal(v, a, b, 0);
    case TOKEN_NE:
        return !value_equal(v, a, b, 0);
    case TOKEN_IN:
        return value_contains(v, b, a);
    case TOKEN_NOT_IN:
        return !value_contains(v, b, a);
    case TOKEN_LT:
        return value_compare(v, a, b) < 0;
    case TOKEN_LE:
        return value_compare(v, a, b) <= 0;
    case TOKEN_GT:
        return value_compare(v, a, b) > 0;
    default:
        return value_compare(v, a, b) >= 0;
    }
}

static struct value compare_chain(struct eval *v, const struct node *n, struct scope *s)
{
    struct value a = eval(v, n->a, s);
    for (const struct node *k = n->list; k && !v->failed; k = k->next) {
        struct value b = eval(v, k->a, s);
        if (v->failed || !compare(v, k->op, a, b)) return value_bool(false);
        a = b;
    }
    return value_bool(true);
}

static struct value sequence(struct eval *v, const struct node *n, struct scope *s)
{
    size_t count = 0;
    for (const struct node *k = n->list; k; k = k->next) count++;
    struct value *items = eval_alloc(v, (count ? count : 1) * sizeof *items);
    size_t i = 0;
    for (const struct node *k = n->list; k && !v->failed; k = k->next) items[i++] = eval(v, k, s);
    return value_of_list(v, n->type == NODE_LIST ? VALUE_LIST : VALUE_TUPLE, items, i);
}

static struct value dictionary(struct eval *v, const struct node *n, struct scope *s)
{
    struct dict *d = eval_alloc(v, sizeof *d);
    for (const struct node *k = n->list; k && d && !v->failed; k = k->next->next) {
        struct value key = eval(v, k, s);
        dict_set(v, d, key, eval(v, k->next, s));
    }
    return (struct value){.type = VALUE_DICT, .u.dict = d};
}

static struct value negated(struct eval *v, struct value a, bool plus)
{
    if (a.type == VALUE_BOOL) a = value_int(a.u.b, a.mark);
    if (a.type == VALUE_INT && !plus && a.u.i == INT64_MIN)
        return eval_fail(v, ERR_UNSUPPORTED, "integers beyond 64 bits are not supported here");
    if (a.type == VALUE_INT) return plus ? a : value_int(-a.u.i, a.mark);
    if (a.type == VALUE_FLOAT) return plus ? a : value_float(-a.u.f, a.mark);
    return eval_fail(v, ERR_INPUT, "bad operand type for unary %c: '%s'", plus ? '+' : '-', value_type_name(a));
}

static struct value filtered(struct eval *v, const struct node *n, struct value a, struct scope *s)
{
    struct list args;
    struct dict kwargs;
    arguments(v, n, s, &args, &kwargs);
    v->line = n->line;
    return v->failed ? (struct value){0} : filter_apply(v, n->name, a, &args, &kwargs);
}

/* A filter chain whose innermost operand is `input` (filter and set blocks). */
static struct value filter_blocks(struct eval *v, const struct node *n, struct value input, struct scope *s)
{
    if (!n) return input;
    if (!eval_enter(v)) return (struct value){0};
    struct value r = filtered(v, n, filter_blocks(v, n->a, input, s), s);
    eval_leave(v);
    return r;
}

static struct value call(struct eval *v, const struct node *n, struct scope *s)
{
    struct value f = eval(v, n->a, s);
    struct list args;
    struct dict kwargs;
    arguments(v, n, s, &args, &kwargs);
    v->line = n->line;
    return v->failed ? (struct value){0} : eval_call(v, f, &args, &kwargs);
}

static struct value concat(struct eval *v, const struct node *n, struct scope *s)
{
    struct out o = {0};
    for (const struct node *k = n->list; k && !v->failed; k = k->next) print_str(v, &o, eval(v, k, s));
    return out_value(v, &o);
}

static struct value sliced(struct eval *v, const struct node *n, struct scope *s)
{
    struct value a = eval(v, n->a, s), from = n->b ? eval(v, n->b, s) : value_none(), to = n->c ? eval(v, n->c, s) : value_none(),
                 step = n->orelse ? eval(v, n->orelse, s) : value_none();
    return v->failed ? (struct value){0} : value_slice_of(v, a, from, to, step);
}

static struct value evaluate(struct eval *v, const struct node *n, struct scope *s)
{
    struct value a, b;
    switch (n->type) {
    case NODE_CONST:
        return n->value;
    case NODE_NAME:
        return lookup(v, s, n->name);
    case NODE_LIST:
    case NODE_TUPLE:
        return sequence(v, n, s);
    case NODE_DICT:
        return dictionary(v, n, s);
    case NODE_ATTR:
        a = eval(v, n->a, s);
        return v->failed ? a : value_attr(v, a, n->name);
    case NODE_ITEM:
        a = eval(v, n->a, s), b = eval(v, n->b, s);
        return v->failed ? a : value_item(v, a, b);
    case NODE_SLICE:
        return sliced(v, n, s);
    case NODE_CALL:
        return call(v, n, s);
    case NODE_FILTER:
        return filtered(v, n, eval(v, n->a, s), s);
    case NODE_TEST: {
        struct list args;
        struct dict kwargs;
        a = eval(v, n->a, s);
        arguments(v, n, s, &args, &kwargs);
        return v->failed ? a : value_bool(test_apply(v, n->name, a, &args) != (n->op != 0));
    }
    case NODE_NOT:
        return value_bool(!value_true(eval(v, n->a, s)));
    case NODE_NEG:
    case NODE_POS:
        a = eval(v, n->a, s);
        return v->failed ? a : negated(v, a, n->type == NODE_POS);
    case NODE_AND:
        a = eval(v, n->a, s);
        return value_true(a) ? eval(v, n->b, s) : a;
    case NODE_OR:
        a = eval(v, n->a, s);
        return value_true(a) ? a : eval(v, n->b, s);
    case NODE_BINARY:
        a = eval(v, n->a, s), b = eval(v, n->b, s);
        v->line = n->line;
        return v->failed ? a : value_binary(v, n->op, a, b);
    case NODE_COMPARE:
        return compare_chain(v, n, s);
    case NODE_CONCAT:
        return concat(v, n, s);
    case NODE_COND:
        return value_true(eval(v, n->a, s)) ? eval(v, n->b, s) : n->c ? eval(v, n->c, s) : (struct value){0};
    default:
        return eval_fail(v, ERR_INTERNAL, "not an expression");
    }
}

static struct value eval(struct eval *v, const struct node *n, struct scope *s)
{
    if (!eval_step(v)) return (struct value){0};
    v->line = n->line;
    if (!eval_enter(v)) return (struct value){0};
    struct value r = evaluate(v, n, s);
    eval_leave(v);
    return v->failed ? (struct value){0} : r;
}

/* --- loops --- */
static struct list *filtered_items(struct eval *v, const struct node *n, const struct list *all, struct scope *s)
{
    struct value *items = eval_alloc(v, (all->n ? all->n : 1) * sizeof *items);
    struct list *l = eval_alloc(v, sizeof *l);
    size_t k = 0;
    struct scope *inner = scope_new(v, s);
    for (size_t i = 0; i < all->n && l && !v->failed; i++) {
        scope_empty(v, inner);
        if (n->c) assign(v, n->a, all->items[i], inner);
        if (!v->failed && (!n->c || value_true(eval(v, n->c, inner)))) items[k++] = all->items[i];
    }
    if (l) *l = (struct list){items, k};
    return l;
}

struct value eval_loop(struct eval *v, const struct node *n, struct value over, struct scope *s, size_t depth, bool *ran)
{
    static const struct text loop_name = {.p = "loop", .n = 4};
    *ran = false;
    if (!deeper(v)) return (struct value){0};
    struct loop *l = eval_alloc(v, sizeof *l);
    const struct list *items = filtered_items(v, n, value_items(v, over), s);
    if (!l || !items || v->failed) return (struct value){0};
    *l = (struct loop){.items = items, .depth = depth, .node = n, .scope = s};
    struct scope *inner = scope_new(v, s);
    for (l->at = 0; l->at < items->n && eval_step(v); l->at++) {
        scope_empty(v, inner);
        scope_set(v, inner, &loop_name, (struct value){.type = VALUE_LOOP, .u.loop = l});
        assign(v, n->a, items->items[l->at], inner);
        *ran = true;
        run(v, n, inner);
        int jump = v->jump;
        v->jump = 0;
        if (jump == NODE_BREAK) break;
    }
    eval_leave(v);
    return value_none();
}

struct value loop_member(struct eval *v, struct loop *l, const struct text *name)
{
    int64_t i = (int64_t)l->at, n = (int64_t)l->items->n;
    if (template_text_is(name, "index")) return value_int(i + 1, 0);
    if (template_text_is(name, "index0")) return value_int(i, 0);
    if (template_text_is(name, "revindex")) return value_int(n - i, 0);
    if (template_text_is(name, "revindex0")) return value_int(n - i - 1, 0);
    if (template_text_is(name, "first")) return value_bool(i == 0);
    if (template_text_is(name, "last")) return value_bool(i + 1 == n);
    if (template_text_is(name, "length")) return value_int(n, 0);
    if (template_text_is(name, "depth")) return value_int((int64_t)l->depth, 0);
    if (template_text_is(name, "depth0")) return value_int((int64_t)l->depth - 1, 0);
    if (template_text_is(name, "previtem")) return i > 0 ? l->items->items[i - 1] : (struct value){.type = VALUE_UNDEFINED, .u.s = name};
    if (template_text_is(name, "nextitem")) return i + 1 < n ? l->items->items[i + 1] : (struct value){.type = VALUE_UNDEFINED, .u.s = name};
    if (template_text_is(name, "cycle") || template_text_is(name, "changed")) {
        struct method *m = eval_alloc(v, sizeof *m);
        if (!m) return (struct value){0};
        *m = (struct method){{.type = VALUE_LOOP, .u.loop = l}, name};
        return (struct value){.type = VALUE_METHOD, .u.method = m};
    }
    return (struct value){.type = VALUE_UNDEFINED, .u.s = name};
}

/* --- statements --- */
static struct value captured(struct eval *v, const struct node *body, struct scope *s)
{
    struct out o = {0}, *outer = v->out;
    v->out = &o;
    run(v, body, s);
    v->out = outer;
    return out_value(v, &o);
}

static struct value make_macro(struct eval *v, const struct node *n, struct scope *s)
{
    struct macro *m = eval_alloc(v, sizeof *m);
    if (!m) return (struct value){0};
    *m = (struct macro){.node = n, .scope = s};
    return (struct value){.type = VALUE_MACRO, .u.macro = m};
}

static void call_block(struct eval *v, const struct node *n, struct scope *s)
{
    struct value f = eval(v, n->a->a, s);
    struct list args;
    struct dict kwargs;
    arguments(v, n->a, s, &args, &kwargs);
    dict_set(v, &kwargs, value_chars(v, "caller"), make_macro(v, n, s));
    if (v->failed) return;
    struct value r = eval_call(v, f, &args, &kwargs);
    if (!v->failed) print_str(v, v->out, r);
}

static void with_block(struct eval *v, const struct node *n, struct scope *s)
{
    struct scope *inner = scope_new(v, s);
    for (const struct node *k = n->b->list; k && !v->failed; k = k->next) assign(v, k->a, eval(v, k->b, s), inner);
    if (!v->failed) run(v, n, inner);
}

static void execute(struct eval *v, const struct node *n, struct scope *s)
{
    struct value x;
    switch (n->type) {
    case NODE_TEXT:
        out_text(v, v->out, n->name, 0, n->name->n);
        return;
    case NODE_OUTPUT:
        x = eval(v, n->a, s);
        if (!v->failed) print_str(v, v->out, x);
        return;
    case NODE_SCOPE:
        run(v, n, s);
        return;
    case NODE_IF:
        if (value_true(eval(v, n->a, s)))
            run(v, n, s);
        else if (n->orelse && !v->failed)
            execute(v, n->orelse, s);
        return;
    case NODE_FOR: {
        bool ran;
        x = eval(v, n->b, s);
        if (!v->failed) eval_loop(v, n, x, s, 1, &ran);
        if (!v->failed && !ran && n->orelse) run(v, n->orelse, s);
        return;
    }
    case NODE_SET:
        x = eval(v, n->b, s);
        if (!v->failed) assign(v, n->a, x, s);
        return;
    case NODE_SET_BLOCK:
        x = captured(v, n, scope_new(v, s));
        x = filter_blocks(v, n->b, x, s);
        if (!v->failed) assign(v, n->a, x, s);
        return;
    case NODE_MACRO:
        scope_set(v, s, n->name, make_macro(v, n, s));
        return;
    case NODE_CALL_BLOCK:
        call_block(v, n, s);
        return;
    case NODE_FILTER_BLOCK:
        x = filter_blocks(v, n->a, captured(v, n, scope_new(v, s)), s);
        if (!v->failed) print_str(v, v->out, x);
        return;
    case NODE_WITH:
        with_block(v, n, s);
        return;
    case NODE_BREAK:
    case NODE_CONTINUE:
        v->jump = (int)n->type;
        return;
    default:
        eval_fail(v, ERR_INTERNAL, "not a statement");
    }
}

static void run(struct eval *v, const struct node *body, struct scope *s)
{
    if (!deeper(v)) return;
    for (const struct node *n = body->list; n && !v->jump && eval_step(v); n = n->next) {
        v->line = n->line;
        execute(v, n, s);
    }
    eval_leave(v);
}

/* --- the two calls --- */
int template_compile(struct template **out, const char *source, size_t n, struct err *e)
{
    *out = NULL;
    if (n > 1 << 20) return err_set(e, ERR_LIMIT, "template of %zu bytes; the limit is 1 MiB", n);
    if (n && !utf8_valid(source, n)) return err_set(e, ERR_INPUT, "template: not valid UTF-8");
    struct arena mine;
    arena_init(&mine, 64u << 20);
    struct template *t = arena_alloc(&mine, sizeof *t);
    char *copy = arena_alloc(&mine, n + 1);
    if (!t || !copy) {
        arena_free(&mine);
        return err_set(e, ERR_MEMORY, "template: out of memory");
    }
    size_t k = 0;
    for (size_t i = 0; i < n; i++) { /* CRLF and CR are line ends too; one line end at the very end does not count */
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n') continue;
        copy[k++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (k && copy[k - 1] == '\n') k--;
    t->arena = mine;
    struct tokens_list tokens = {0};
    int rc = template_lex(&t->arena, copy, k, &tokens, e);
    if (!rc) rc = template_parse(t, &tokens, e);
    if (rc)
        template_free(t);
    else
        *out = t;
    return rc;
}

void template_free(struct template *t)
{
    if (!t) return;
    struct arena a = t->arena; /* the template lies in its own arena */
    arena_free(&a);
}

static size_t input_bytes(const json_t *j, unsigned depth)
{
    size_t n = 8;
    const char *key;
    json_t *v;
    size_t i;
    if (json_is_string(j)) return n + json_string_length(j);
    if (depth > 64) return n;
    json_array_foreach((json_t *)j, i, v) n += input_bytes(v, depth + 1);
    json_object_foreach((json_t *)j, key, v) n += strlen(key) + input_bytes(v, depth + 1);
    return n;
}

static void bind(struct eval *v, struct scope *s, const json_t *object, uint8_t mark)
{
    const char *key;
    json_t *x;
    json_object_foreach((json_t *)object, key, x) dict_set(v, &s->vars, value_chars(v, key), value_of_json(v, x, mark, 0));
}

int template_render(const struct template *t, const struct template_input *in, struct arena *arena, struct marked_text *out, struct err *e)
{
    const struct template_limits *l = in->limits ? in->limits : &template_limits_default;
    struct eval v = {.arena = arena, .in = in, .fuel = l->fuel, .max_depth = l->depth, .line = 1, .e = e};
    v.max_output =
        l->max_output_bytes ? l->max_output_bytes : 4 * input_bytes(in->request, 0) + (l->more_output_bytes ? l->more_output_bytes : 65536);
    struct scope *globals = scope_new(&v, NULL), *s = scope_new(&v, globals);
    struct out o = {0};
    if (s) {
        dict_set(&v, &globals->vars, value_chars(&v, "tools"), value_none());
        dict_set(&v, &globals->vars, value_chars(&v, "documents"), value_none());
        if (in->request) bind(&v, globals, in->request, MARK_REQUEST);
        if (in->model) bind(&v, globals, in->model, MARK_TEMPLATE);
        v.out = &o;
        v.globals = globals;
        run(&v, t->body, s);
    }
    if (v.failed) return v.failed;
    out_bytes(&v, &o, "", 1, MARK_TEMPLATE); /* the NUL that is not counted */
    if (v.failed) return v.failed;
    *out = (struct marked_text){o.p, o.marks, o.n - 1};
    return 0;
}
