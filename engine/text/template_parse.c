/* Parser: recursive descent over the tokens, with Jinja's precedence (~ binds tighter than +, ** associates to the left, filters and
 * tests bind to the unary operand). Depth is bounded. What the language has and this interpreter does not is refused by name and line. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "engine/text/template_parts.h"

enum { PARSE_MAX_DEPTH = 100 };

struct parser {
    struct template *t;
    const struct token *at;
    unsigned depth, loops;
    int rest; /* which of varargs (1) and kwargs (2) the macro at hand mentions */
    struct err *e;
    int rc;              /* first failure: everything after it does nothing */
    struct node nowhere; /* what a failing parse builds on, so that it can run out without checks; never evaluated */
};

static struct node *expression(struct parser *p);
static struct node *unary(struct parser *p, bool with_filter);
static void statements(struct parser *p, struct node *parent, const char *const *ends);

static void *give_up(struct parser *p, enum err_code code, const char *what, const struct token *t)
{
    if (!p->rc)
        p->rc = err_set(p->e, code, "template line %u: %s%s%.*s%s", t->line, what, t->n ? " '" : "", (int)(t->n < 60 ? t->n : 60), t->p,
                        t->n ? "'" : "");
    return NULL;
}

static struct node *make(struct parser *p, enum node_type type)
{
    struct node *n = p->rc ? NULL : arena_alloc(&p->t->arena, sizeof *n);
    if (!n) {
        if (!p->rc) give_up(p, ERR_LIMIT, "template too large at", p->at);
        p->nowhere = (struct node){0};
        return &p->nowhere;
    }
    n->type = type;
    n->line = p->at->line;
    return n;
}

static void append(struct node *parent, struct node *child)
{
    if (!child) return;
    if (parent->last)
        parent->last->next = child;
    else
        parent->list = child;
    parent->last = child;
}

static const struct text *text_new(struct parser *p, const char *s, size_t n)
{
    struct text *t = p->rc ? NULL : arena_alloc(&p->t->arena, sizeof *t);
    static const struct text empty = {.p = ""};
    if (!t) return &empty;
    *t = (struct text){.p = s, .n = n};
    return t;
}

static bool is(const struct parser *p, enum token_type type)
{
    return p->at->type == type;
}

static bool name_is(const struct token *t, const char *name)
{
    return t->type == TOKEN_NAME && t->n == strlen(name) && memcmp(t->p, name, t->n) == 0;
}

static bool skip(struct parser *p, enum token_type type)
{
    if (p->rc || !is(p, type)) return false;
    p->at++;
    return true;
}

static bool skip_name(struct parser *p, const char *name)
{
    if (p->rc || !name_is(p->at, name)) return false;
    p->at++;
    return true;
}

static void expect(struct parser *p, enum token_type type, const char *what)
{
    if (!skip(p, type)) give_up(p, ERR_INPUT, what, p->at);
}

static const struct text *expect_name(struct parser *p)
{
    const struct token *t = p->at;
    expect(p, TOKEN_NAME, "a name is expected, not");
    return text_new(p, t->p, t->n);
}

static bool enter(struct parser *p)
{
    if (!p->rc && ++p->depth > PARSE_MAX_DEPTH) give_up(p, ERR_LIMIT, "nested too deeply at", p->at);
    return !p->rc;
}

/* --- literals --- */
static size_t escape(const char *s, size_t n, size_t i, char *out, size_t *o)
{
    static const char from[] = "nrtbfva\\'\"0", to[] = "\n\r\t\b\f\v\a\\'\"\0";
    char c = s[i];
    const char *k = memchr(from, c, sizeof from - 1);
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (k) {
        out[(*o)++] = to[k - from];
        return i + 1;
    }
    if (digits && n - i > digits) {
        uint32_t cp = 0;
        for (size_t j = 1; j <= digits; j++) {
            char h = s[i + j];
            int v = h >= '0' && h <= '9' ? h - '0' : (h | 32) >= 'a' && (h | 32) <= 'f' ? (h | 32) - 'a' + 10 : -1;
            if (v < 0) goto literal;
            cp = cp << 4 | (uint32_t)v;
        }
        if (cp < 0x110000 && (cp < 0xD800 || cp > 0xDFFF)) {
            *o += utf8_encode(cp, out + *o);
            return i + digits + 1;
        }
    }
literal:
    out[(*o)++] = '\\';
    if (c != '\n') {
        out[(*o)++] = c;
        return i + 1;
    }
    --*o; /* a line continued */
    return i + 1;
}

/* Adjacent string literals are one. */
static struct node *string_literal(struct parser *p)
{
    struct node *n = make(p, NODE_CONST);
    size_t total = 0;
    for (const struct token *t = p->at; t->type == TOKEN_STRING; t++) total += t->n;
    char *s = p->rc ? NULL : arena_alloc(&p->t->arena, total + 1);
    if (!s) return give_up(p, ERR_LIMIT, "template too large at", p->at);
    size_t o = 0;
    for (; is(p, TOKEN_STRING); p->at++)
        for (size_t i = 0; i < p->at->n;) {
            if (p->at->p[i] == '\\' && i + 1 < p->at->n)
                i = escape(p->at->p, p->at->n, i + 1, s, &o);
            else
                s[o++] = p->at->p[i++];
        }
    n->value = (struct value){.type = VALUE_STRING, .u.s = text_new(p, s, o)};
    return n;
}

static struct node *number_literal(struct parser *p)
{
    struct node *n = make(p, NODE_CONST);
    char digits[512];
    size_t k = 0;
    const struct token *t = p->at++;
    for (size_t i = 0; i < t->n && k + 1 < sizeof digits; i++)
        if (t->p[i] != '_') digits[k++] = t->p[i];
    digits[k] = '\0';
    if (k + 1 == sizeof digits) return give_up(p, ERR_LIMIT, "number too long", t);
    if (t->type == TOKEN_FLOAT) {
        n->value = value_float(strtod(digits, NULL), MARK_TEMPLATE);
        return n;
    }
    errno = 0;
    long long i = strtoll(digits, NULL, 10);
    if (errno == 0)
        n->value = value_int(i, MARK_TEMPLATE);
    else {
        char *copy = arena_copy(&p->t->arena, digits, k);
        if (!copy) return give_up(p, ERR_LIMIT, "template too large at", t);
        n->value = (struct value){.type = VALUE_BIG, .u.s = text_new(p, copy, k)};
    }
    return n;
}

/* --- primary --- */
static struct node *list_literal(struct parser *p)
{
    struct node *n = make(p, NODE_LIST);
    p->at++;
    while (!p->rc && !is(p, TOKEN_RBRACKET)) {
        append(n, expression(p));
        if (!skip(p, TOKEN_COMMA)) break;
    }
    expect(p, TOKEN_RBRACKET, "']' is expected, not");
    return n;
}

static struct node *dict_literal(struct parser *p)
{
    struct node *n = make(p, NODE_DICT);
    p->at++;
    while (!p->rc && !is(p, TOKEN_RBRACE)) {
        append(n, expression(p));
        expect(p, TOKEN_COLON, "':' is expected, not");
        append(n, expression(p));
        if (!skip(p, TOKEN_COMMA)) break;
    }
    expect(p, TOKEN_RBRACE, "'}' is expected, not");
    return n;
}

static bool tuple_ends(const struct parser *p)
{
    return is(p, TOKEN_OUTPUT_END) || is(p, TOKEN_BLOCK_END) || is(p, TOKEN_RPAREN) || is(p, TOKEN_ASSIGN) || is(p, TOKEN_END) ||
           name_is(p->at, "in") || name_is(p->at, "recursive");
}

typedef struct node *(*parse_fn)(struct parser *);

/* One expression, or several with commas: a tuple. */
static struct node *tuple_of(struct parser *p, parse_fn item, bool parentheses)
{
    struct node *first = tuple_ends(p) ? NULL : item(p);
    if (first && !is(p, TOKEN_COMMA)) return first;
    if (!first && !parentheses) return give_up(p, ERR_INPUT, "an expression is expected, not", p->at);
    struct node *n = make(p, NODE_TUPLE);
    append(n, first);
    while (skip(p, TOKEN_COMMA) && !tuple_ends(p)) append(n, item(p));
    return n;
}

static struct node *name_or_constant(struct parser *p)
{
    const struct token *t = p->at++;
    static const struct {
        const char *name;
        enum value_type type;
        bool b;
    } constants[] = {{"true", VALUE_BOOL, true},   {"True", VALUE_BOOL, true},  {"false", VALUE_BOOL, false},
                     {"False", VALUE_BOOL, false}, {"none", VALUE_NONE, false}, {"None", VALUE_NONE, false}};
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (name_is(t, constants[i].name)) {
            struct node *n = make(p, NODE_CONST);
            n->value = (struct value){.type = constants[i].type, .u.b = constants[i].b};
            return n;
        }
    struct node *n = make(p, NODE_NAME);
    n->name = text_new(p, t->p, t->n);
    p->rest |= name_is(t, "varargs") ? 1 : name_is(t, "kwargs") ? 2 : 0;
    return n;
}

static struct node *primary(struct parser *p)
{
    switch (p->at->type) {
    case TOKEN_NAME:
        return name_or_constant(p);
    case TOKEN_STRING:
        return string_literal(p);
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        return number_literal(p);
    case TOKEN_LBRACKET:
        return list_literal(p);
    case TOKEN_LBRACE:
        return dict_literal(p);
    case TOKEN_LPAREN: {
        p->at++;
        struct node *n = tuple_of(p, expression, true);
        expect(p, TOKEN_RPAREN, "')' is expected, not");
        return n;
    }
    default:
        return give_up(p, ERR_INPUT, "an expression is expected, not", p->at);
    }
}

/* --- what may follow an operand --- */
static void arguments(struct parser *p, struct node *call)
{
    p->at++;
    while (!p->rc && !is(p, TOKEN_RPAREN)) {
        if (is(p, TOKEN_MUL) || is(p, TOKEN_POW)) {
            give_up(p, ERR_UNSUPPORTED, "unpacked arguments are not supported:", p->at);
            return;
        }
        if (is(p, TOKEN_NAME) && p->at[1].type == TOKEN_ASSIGN) {
            struct node *k = make(p, NODE_KEYWORD);
            k->name = expect_name(p);
            p->at++;
            k->a = expression(p);
            append(call, k);
        } else {
            append(call, expression(p));
        }
        if (!skip(p, TOKEN_COMMA)) break;
    }
    expect(p, TOKEN_RPAREN, "')' is expected, not");
}

static struct node *subscript(struct parser *p, struct node *a)
{
    p->at++;
    struct node *from = is(p, TOKEN_COLON) ? NULL : expression(p);
    struct node *n;
    if (is(p, TOKEN_COLON)) {
        n = make(p, NODE_SLICE);
        n->b = from;
        p->at++;
        if (!is(p, TOKEN_RBRACKET) && !is(p, TOKEN_COLON)) n->c = expression(p);
        if (skip(p, TOKEN_COLON) && !is(p, TOKEN_RBRACKET)) n->orelse = expression(p);
    } else {
        n = make(p, NODE_ITEM);
        n->b = from;
    }
    n->a = a;
    expect(p, TOKEN_RBRACKET, "']' is expected, not");
    return n;
}

static struct node *call_of(struct parser *p, struct node *f)
{
    struct node *n = make(p, NODE_CALL);
    n->a = f;
    arguments(p, n);
    return n;
}

static struct node *postfix(struct parser *p, struct node *a)
{
    for (;;) {
        if (p->rc) return a;
        if (is(p, TOKEN_DOT)) {
            p->at++;
            if (is(p, TOKEN_INTEGER)) {
                struct node *n = make(p, NODE_ITEM);
                n->a = a;
                n->b = number_literal(p);
                a = n;
                continue;
            }
            struct node *n = make(p, NODE_ATTR);
            n->a = a;
            n->name = expect_name(p);
            a = n;
        } else if (is(p, TOKEN_LBRACKET)) {
            a = subscript(p, a);
        } else if (is(p, TOKEN_LPAREN)) {
            a = call_of(p, a);
        } else {
            return a;
        }
    }
}

/* | name(args) | ...; a NULL: what a filter or set block holds. */
static struct node *filter_chain(struct parser *p, struct node *a, bool leading)
{
    while (!p->rc && (leading || is(p, TOKEN_PIPE))) {
        if (!leading) p->at++;
        leading = false;
        const struct token *t = p->at;
        struct node *n = make(p, NODE_FILTER);
        n->a = a;
        n->name = expect_name(p);
        if (!p->rc && !filter_known(n->name)) give_up(p, ERR_UNSUPPORTED, "filter is not supported:", t);
        if (is(p, TOKEN_LPAREN)) arguments(p, n);
        a = n;
    }
    return a;
}

static struct node *test_of(struct parser *p, struct node *a)
{
    p->at++;
    struct node *n = make(p, NODE_TEST);
    n->a = a;
    n->op = skip_name(p, "not");
    const struct token *t = p->at;
    n->name = expect_name(p);
    if (!p->rc && !test_known(n->name)) return give_up(p, ERR_UNSUPPORTED, "test is not supported:", t);
    if (is(p, TOKEN_LPAREN)) {
        arguments(p, n);
    } else if ((is(p, TOKEN_NAME) && !name_is(p->at, "else") && !name_is(p->at, "or") && !name_is(p->at, "and") && !name_is(p->at, "if") &&
                !name_is(p->at, "is")) ||
               is(p, TOKEN_STRING) || is(p, TOKEN_INTEGER) || is(p, TOKEN_FLOAT) || is(p, TOKEN_LBRACKET) || is(p, TOKEN_LBRACE)) {
        append(n, postfix(p, primary(p)));
    } else if (name_is(p->at, "is")) {
        return give_up(p, ERR_INPUT, "tests cannot be chained:", p->at);
    }
    return n;
}

static struct node *filters_and_tests(struct parser *p, struct node *a)
{
    for (;;) {
        if (p->rc) return a;
        if (is(p, TOKEN_PIPE))
            a = filter_chain(p, a, false);
        else if (name_is(p->at, "is"))
            a = test_of(p, a);
        else if (is(p, TOKEN_LPAREN))
            a = call_of(p, a);
        else
            return a;
    }
}

/* --- operators, weakest last --- */
static struct node *unary(struct parser *p, bool with_filter)
{
    if (!enter(p)) return NULL;
    struct node *n;
    if (is(p, TOKEN_SUB) || is(p, TOKEN_ADD)) {
        n = make(p, is(p, TOKEN_SUB) ? NODE_NEG : NODE_POS);
        p->at++;
        n->a = unary(p, false);
    } else {
        n = primary(p);
    }
    n = postfix(p, n);
    if (with_filter) n = filters_and_tests(p, n);
    p->depth--;
    return n;
}

static struct node *binary(struct parser *p, struct node *a, parse_fn right)
{
    struct node *n = make(p, NODE_BINARY);
    n->op = (int)p->at->type;
    p->at++;
    n->a = a;
    n->b = right(p);
    return n;
}

static struct node *operand(struct parser *p)
{
    return unary(p, true);
}

static struct node *power(struct parser *p)
{
    struct node *a = operand(p);
    while (!p->rc && is(p, TOKEN_POW)) a = binary(p, a, operand);
    return a;
}

static struct node *product(struct parser *p)
{
    struct node *a = power(p);
    while (!p->rc && (is(p, TOKEN_MUL) || is(p, TOKEN_DIV) || is(p, TOKEN_FLOORDIV) || is(p, TOKEN_MOD))) a = binary(p, a, power);
    return a;
}

static struct node *concat(struct parser *p)
{
    struct node *a = product(p);
    if (p->rc || !is(p, TOKEN_TILDE)) return a;
    struct node *n = make(p, NODE_CONCAT);
    append(n, a);
    while (skip(p, TOKEN_TILDE)) append(n, product(p));
    return n;
}

static struct node *sum(struct parser *p)
{
    struct node *a = concat(p);
    while (!p->rc && (is(p, TOKEN_ADD) || is(p, TOKEN_SUB))) a = binary(p, a, concat);
    return a;
}

static struct node *comparison(struct parser *p)
{
    struct node *a = sum(p), *n = NULL;
    while (!p->rc) {
        int op = p->at->type >= TOKEN_EQ && p->at->type <= TOKEN_GE  ? (int)p->at->type
                 : name_is(p->at, "in")                              ? TOKEN_IN
                 : name_is(p->at, "not") && name_is(p->at + 1, "in") ? TOKEN_NOT_IN
                                                                     : 0;
        if (!op) break;
        p->at += op == TOKEN_NOT_IN ? 2 : 1;
        if (!n) {
            n = make(p, NODE_COMPARE);
            n->a = a;
        }
        struct node *k = make(p, NODE_KEYWORD);
        k->op = op;
        k->a = sum(p);
        append(n, k);
    }
    return n ? n : a;
}

static struct node *negation(struct parser *p)
{
    if (!name_is(p->at, "not")) return comparison(p);
    if (!enter(p)) return NULL;
    struct node *n = make(p, NODE_NOT);
    p->at++;
    n->a = negation(p);
    p->depth--;
    return n;
}

static struct node *conjunction(struct parser *p)
{
    struct node *a = negation(p);
    while (skip_name(p, "and")) {
        struct node *n = make(p, NODE_AND);
        n->a = a;
        n->b = negation(p);
        a = n;
    }
    return a;
}

static struct node *disjunction(struct parser *p)
{
    struct node *a = conjunction(p);
    while (skip_name(p, "or")) {
        struct node *n = make(p, NODE_OR);
        n->a = a;
        n->b = conjunction(p);
        a = n;
    }
    return a;
}

static struct node *expression(struct parser *p)
{
    if (!enter(p)) return NULL;
    struct node *a = disjunction(p);
    while (skip_name(p, "if")) {
        struct node *n = make(p, NODE_COND);
        n->b = a;
        n->a = disjunction(p);
        if (skip_name(p, "else")) n->c = expression(p);
        a = n;
    }
    p->depth--;
    return a;
}

/* --- statements --- */
static struct node *target_name(struct parser *p)
{
    struct node *n = make(p, NODE_NAME);
    n->name = expect_name(p);
    if (!is(p, TOKEN_DOT)) return n;
    p->at++;
    struct node *attr = make(p, NODE_ATTR);
    attr->a = n;
    attr->name = expect_name(p);
    return attr;
}

static struct node *target_item(struct parser *p)
{
    if (!is(p, TOKEN_LPAREN)) return target_name(p);
    p->at++;
    struct node *n = tuple_of(p, target_name, true);
    expect(p, TOKEN_RPAREN, "')' is expected, not");
    return n;
}

static struct node *target(struct parser *p)
{
    return tuple_of(p, target_item, false);
}

static void end_of_tag(struct parser *p)
{
    expect(p, TOKEN_BLOCK_END, "the end of the tag is expected, not");
}

static void parse_if(struct parser *p, struct node *n)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const last[] = {"endif", NULL};
    n->a = expression(p);
    end_of_tag(p);
    statements(p, n, ends);
    if (skip_name(p, "elif")) {
        n->orelse = make(p, NODE_IF);
        if (enter(p)) parse_if(p, n->orelse);
        p->depth--;
        return;
    }
    if (skip_name(p, "else")) {
        end_of_tag(p);
        n->orelse = make(p, NODE_SCOPE);
        statements(p, n->orelse, last);
    }
    skip_name(p, "endif");
    end_of_tag(p);
}

static void parse_for(struct parser *p, struct node *n)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    static const char *const last[] = {"endfor", NULL};
    n->a = target(p);
    if (!skip_name(p, "in")) give_up(p, ERR_INPUT, "'in' is expected, not", p->at);
    n->b = tuple_of(p, disjunction, false);
    if (skip_name(p, "if")) n->c = expression(p);
    n->flag = skip_name(p, "recursive");
    end_of_tag(p);
    p->loops++;
    statements(p, n, ends);
    p->loops--;
    if (skip_name(p, "else")) {
        end_of_tag(p);
        n->orelse = make(p, NODE_SCOPE);
        statements(p, n->orelse, last);
    }
    skip_name(p, "endfor");
    end_of_tag(p);
}

static void block_body(struct parser *p, struct node *n, const char *end)
{
    const char *const ends[] = {end, NULL};
    end_of_tag(p);
    statements(p, n, ends);
    skip_name(p, end);
    end_of_tag(p);
}

static void parse_set(struct parser *p, struct node *n)
{
    n->a = target(p);
    if (skip(p, TOKEN_ASSIGN)) {
        n->b = tuple_of(p, expression, false);
        end_of_tag(p);
        return;
    }
    n->type = NODE_SET_BLOCK;
    n->b = filter_chain(p, NULL, false);
    block_body(p, n, "endset");
}

static struct node *parameters(struct parser *p)
{
    struct node *n = make(p, NODE_SCOPE);
    expect(p, TOKEN_LPAREN, "'(' is expected, not");
    while (!p->rc && !is(p, TOKEN_RPAREN)) {
        struct node *k = make(p, NODE_KEYWORD);
        k->name = expect_name(p);
        if (skip(p, TOKEN_ASSIGN)) k->a = expression(p);
        append(n, k);
        if (!skip(p, TOKEN_COMMA)) break;
    }
    expect(p, TOKEN_RPAREN, "')' is expected, not");
    return n;
}

static void parse_macro(struct parser *p, struct node *n)
{
    unsigned loops = p->loops;
    int rest = p->rest;
    p->loops = 0; /* a macro's body is no part of the loop around it */
    p->rest = 0;
    n->name = expect_name(p);
    n->b = parameters(p);
    block_body(p, n, "endmacro");
    n->op = p->rest;
    p->rest = rest;
    p->loops = loops;
}

static void parse_call(struct parser *p, struct node *n)
{
    n->b = is(p, TOKEN_LPAREN) ? parameters(p) : make(p, NODE_SCOPE);
    const struct token *t = p->at;
    n->a = expression(p);
    if (!p->rc && n->a->type != NODE_CALL) give_up(p, ERR_INPUT, "a call is expected, not", t);
    block_body(p, n, "endcall");
}

static void parse_filter_block(struct parser *p, struct node *n)
{
    n->a = filter_chain(p, NULL, true);
    block_body(p, n, "endfilter");
}

static void parse_with(struct parser *p, struct node *n)
{
    n->b = make(p, NODE_SCOPE);
    while (!p->rc && !is(p, TOKEN_BLOCK_END)) {
        struct node *s = make(p, NODE_SET);
        s->a = target_item(p);
        expect(p, TOKEN_ASSIGN, "'=' is expected, not");
        s->b = expression(p);
        append(n->b, s);
        if (!skip(p, TOKEN_COMMA)) break;
    }
    block_body(p, n, "endwith");
}

static void parse_generation(struct parser *p, struct node *n)
{
    block_body(p, n, "endgeneration");
}

static void parse_jump(struct parser *p, struct node *n)
{
    (void)n;
    if (p->loops == 0) give_up(p, ERR_INPUT, "outside a loop:", p->at - 1);
    end_of_tag(p);
}

static const struct {
    const char *name;
    enum node_type type;
    void (*parse)(struct parser *p, struct node *n);
} tags[] = {
    {"if", NODE_IF, parse_if},
    {"for", NODE_FOR, parse_for},
    {"set", NODE_SET, parse_set},
    {"macro", NODE_MACRO, parse_macro},
    {"call", NODE_CALL_BLOCK, parse_call},
    {"filter", NODE_FILTER_BLOCK, parse_filter_block},
    {"with", NODE_WITH, parse_with},
    {"break", NODE_BREAK, parse_jump},
    {"continue", NODE_CONTINUE, parse_jump},
    {"generation", NODE_SCOPE, parse_generation},
};

static struct node *statement(struct parser *p)
{
    const struct token *t = p->at;
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        if (!name_is(t, tags[i].name)) continue;
        struct node *n = make(p, tags[i].type);
        p->at++;
        if (enter(p)) tags[i].parse(p, n);
        p->depth--;
        return n;
    }
    return give_up(p, ERR_UNSUPPORTED, "tag is not supported:", t);
}

static bool ends_here(const struct parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (is(p, TOKEN_BLOCK_BEGIN) && name_is(p->at + 1, *ends)) return true;
    return false;
}

/* Until a tag of ends (its name is next then) or the end of the template. */
static void statements(struct parser *p, struct node *parent, const char *const *ends)
{
    while (!p->rc) {
        if (ends_here(p, ends)) {
            p->at++;
            return;
        }
        switch (p->at->type) {
        case TOKEN_END:
            if (!ends) return;
            while (ends[1]) ends++; /* the last one closes the block */
            give_up(p, ERR_INPUT, "the template ends inside a block; expected",
                    &(struct token){.line = p->at->line, .p = ends[0], .n = strlen(ends[0])});
            return;
        case TOKEN_TEXT: {
            struct node *n = make(p, NODE_TEXT);
            n->name = text_new(p, p->at->p, p->at->n);
            p->at++;
            append(parent, n);
            break;
        }
        case TOKEN_OUTPUT_BEGIN: {
            struct node *n = make(p, NODE_OUTPUT);
            p->at++;
            n->a = tuple_of(p, expression, false);
            expect(p, TOKEN_OUTPUT_END, "the end of the expression is expected, not");
            append(parent, n);
            break;
        }
        default:
            p->at++;
            append(parent, statement(p));
        }
    }
}

int template_parse(struct template *t, const struct tokens_list *tokens, struct err *e)
{
    struct parser p = {.t = t, .at = tokens->items, .e = e};
    t->body = make(&p, NODE_SCOPE);
    statements(&p, t->body, NULL);
    return p.rc;
}
