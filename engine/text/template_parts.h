/* Templates, inner part: values, syntax tree, and what the files of the interpreter take from each other.
 *
 * Compile: template_lex.c cuts the source into tokens, template_parse.c builds the tree (in the template's arena). Render: template_eval.c walks
 * it; template_value.c holds Python's semantics of values, template_filters.c filters, tests and methods, template_print.c str, repr and JSON.
 * Values live in the render's arena and are never changed after they are made, but for namespaces. */
#ifndef SPILLWAY_ENGINE_TEXT_TEMPLATE_PARTS_H
#define SPILLWAY_ENGINE_TEXT_TEMPLATE_PARTS_H

#include <stdint.h>

#include "base/buf.h"
#include "engine/text/template.h"

/* --- values --- */
enum value_type {
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_BIG,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_DICT,
    VALUE_NAMESPACE,
    VALUE_MACRO,
    VALUE_LOOP,
    VALUE_FUNCTION,
    VALUE_METHOD,
    VALUE_JOINER,
    VALUE_CYCLER
};

struct value {
    enum value_type type;
    uint8_t mark; /* provenance of what it prints as (strings carry their own) */
    union {
        bool b;
        int64_t i;
        double f;
        const struct text *s;    /* STRING; BIG: decimal digits; UNDEFINED: its name or NULL */
        const struct list *list; /* LIST, TUPLE */
        struct dict *dict;       /* DICT, NAMESPACE */
        const struct macro *macro;
        struct loop *loop;
        int function; /* enum builtin */
        const struct method *method;
        struct cycler *cycler; /* JOINER, CYCLER */
    } u;
};

struct text {
    const char *p;
    size_t n;
    const uint8_t *marks; /* a byte each; NULL: all are `mark` */
    uint8_t mark;
};

struct list {
    const struct value *items;
    size_t n;
};

struct member {
    struct value key, value;
};
struct dict {
    struct member *members; /* in order of insertion */
    size_t n, cap;
};

struct method {
    struct value self;
    const struct text *name;
};

struct cycler {
    const struct list *items;
    size_t at;
    struct value separator;
    bool used;
};

/* --- tree --- */
enum node_type {
    /* expressions */
    NODE_CONST,
    NODE_NAME,
    NODE_LIST,
    NODE_TUPLE,
    NODE_DICT,
    NODE_ATTR,
    NODE_ITEM,
    NODE_SLICE,
    NODE_CALL,
    NODE_FILTER,
    NODE_TEST,
    NODE_NOT,
    NODE_NEG,
    NODE_POS,
    NODE_AND,
    NODE_OR,
    NODE_BINARY,
    NODE_COMPARE,
    NODE_CONCAT,
    NODE_COND,
    NODE_KEYWORD,
    /* statements */
    NODE_TEXT,
    NODE_OUTPUT,
    NODE_IF,
    NODE_FOR,
    NODE_SET,
    NODE_SET_BLOCK,
    NODE_MACRO,
    NODE_CALL_BLOCK,
    NODE_FILTER_BLOCK,
    NODE_WITH,
    NODE_BREAK,
    NODE_CONTINUE,
    NODE_SCOPE
};

struct node {
    enum node_type type;
    int op; /* NODE_BINARY, NODE_COMPARE's keyword: enum token_type; NODE_TEST: 1 for "is not"; NODE_MACRO: 1 mentions varargs, 2 kwargs */
    unsigned line;
    const struct text *name;  /* names, attributes, filters, tests, keywords, text */
    struct value value;       /* NODE_CONST */
    struct node *a, *b, *c;   /* operands; see template_parse.c */
    struct node *list, *last; /* children: items, arguments, body */
    struct node *orelse;      /* else branch */
    struct node *next;        /* sibling */
    bool flag;                /* for: recursive */
};

struct template
{
    struct arena arena;
    struct node *body;
};

/* --- lexer --- */
enum token_type {
    TOKEN_END,
    TOKEN_TEXT,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_OUTPUT_BEGIN,
    TOKEN_OUTPUT_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_ADD,
    TOKEN_SUB,
    TOKEN_MUL,
    TOKEN_DIV,
    TOKEN_FLOORDIV,
    TOKEN_MOD,
    TOKEN_POW,
    TOKEN_TILDE,
    TOKEN_LPAREN,
    TOKEN_RPAREN,
    TOKEN_LBRACKET,
    TOKEN_RBRACKET,
    TOKEN_LBRACE,
    TOKEN_RBRACE,
    TOKEN_DOT,
    TOKEN_COMMA,
    TOKEN_COLON,
    TOKEN_ASSIGN,
    TOKEN_PIPE,
    TOKEN_SEMICOLON,
    TOKEN_EQ,
    TOKEN_NE,
    TOKEN_LT,
    TOKEN_LE,
    TOKEN_GT,
    TOKEN_GE,
    TOKEN_IN,
    TOKEN_NOT_IN
};

struct token {
    enum token_type type;
    unsigned line;
    const char *p;
    size_t n;
};
struct tokens_list {
    struct token *items;
    size_t n, cap;
};
MUST_USE int template_lex(struct arena *a, const char *source, size_t n, struct tokens_list *out, struct err *e);
MUST_USE int template_parse(struct template *t, const struct tokens_list *tokens, struct err *e);

/* --- evaluation --- */
struct scope {
    struct dict vars;
    struct scope *up;
};

struct macro {
    const struct node *node;
    struct scope *scope;
};

struct loop {
    const struct list *items;
    size_t at, depth;
    const struct node *node; /* recursive loops call it */
    struct scope *scope;
    struct value last_changed;
    bool has_changed;
};

struct out {
    char *p;
    uint8_t *marks;
    size_t n, cap;
};

struct eval {
    struct arena *arena;
    const struct template_input *in;
    struct scope *globals;
    struct out *out;
    size_t fuel, max_output;
    unsigned depth, max_depth, line;
    int jump; /* 0, NODE_BREAK or NODE_CONTINUE */
    int failed;
    struct err *e;
};

/* Reports at the current line; returns an undefined value, and everything after it does nothing. */
struct value eval_fail(struct eval *v, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
struct value eval_call(struct eval *v, struct value f, const struct list *args, const struct dict *kwargs);
struct value eval_loop(struct eval *v, const struct node *n, struct value items, struct scope *scope, size_t depth, bool *ran);
bool eval_step(struct eval *v); /* one unit of fuel; false when it is gone */
/* Fuel for work that grows with a value: bytes copied or searched in bulk, and characters looked at one by one, at about the time that a step
 * takes. A little of it is free. */
void eval_bytes(struct eval *v, size_t n);
void eval_chars(struct eval *v, size_t n);
/* Guards what calls itself inside expressions, which nest more than blocks do; false: deeper than the limit. Each true needs an eval_leave. */
bool eval_enter(struct eval *v);
void eval_leave(struct eval *v);
void *eval_alloc(struct eval *v, size_t n);

/* --- values --- */
struct value value_none(void);
struct value value_bool(bool b);
struct value value_int(int64_t i, uint8_t mark);
struct value value_float(double f, uint8_t mark);
struct value value_text(struct eval *v, const char *p, size_t n, uint8_t mark);
struct value value_chars(struct eval *v, const char *p); /* template bytes */
struct value value_slice(struct eval *v, const struct text *s, size_t from, size_t end);
struct value value_of_list(struct eval *v, enum value_type type, const struct value *items, size_t n);
struct value value_of_json(struct eval *v, const json_t *j, uint8_t mark, unsigned depth);
bool value_true(struct value a);
bool value_equal(struct eval *v, struct value a, struct value b, unsigned depth);
/* -1, 0, 1; fails for types that have no order. */
int value_compare(struct eval *v, struct value a, struct value b);
const char *value_type_name(struct value a);
/* What a for loop sees: items of lists, keys of dicts, characters of strings. */
const struct list *value_items(struct eval *v, struct value a);
int64_t value_length(struct eval *v, struct value a);
bool value_contains(struct eval *v, struct value container, struct value item);
struct value value_item(struct eval *v, struct value a, struct value key);
struct value value_attr(struct eval *v, struct value a, const struct text *name);
struct value value_binary(struct eval *v, int op, struct value a, struct value b);
struct value value_slice_of(struct eval *v, struct value a, struct value from, struct value to, struct value step);
uint8_t value_mark(struct value a);
struct value loop_member(struct eval *v, struct loop *l, const struct text *name);
struct value text_strip(struct eval *v, const struct text *s, const struct text *chars, bool left, bool right); /* chars NULL: blanks */
/* how: upper, lower, capitalize, title (str.title), words (the filter title), swapcase */
struct value text_case(struct eval *v, const struct text *s, const char *how);
struct value text_replace(struct eval *v, const struct text *s, const struct text *old, const struct text *with, int64_t count);
struct value percent_format(struct eval *v, struct value format, struct value args);

struct value *dict_find(struct eval *v, const struct dict *d, struct value key);
struct value *dict_find_chars(const struct dict *d, const char *name, size_t n);
void dict_set(struct eval *v, struct dict *d, struct value key, struct value value);
bool template_text_is(const struct text *s, const char *word);
size_t text_length(const struct text *s);                     /* code points */
size_t text_offset(const struct text *s, size_t code_points); /* byte offset */

/* --- builders of strings with marks --- */
void out_bytes(struct eval *v, struct out *o, const char *p, size_t n, uint8_t mark);
void out_text(struct eval *v, struct out *o, const struct text *s, size_t from, size_t end);
struct value out_value(struct eval *v, struct out *o); /* as a string */

/* --- printing --- */
void print_str(struct eval *v, struct out *o, struct value a);
void print_repr(struct eval *v, struct out *o, struct value a, unsigned depth);
struct value value_str(struct eval *v, struct value a);
struct json_style {
    int indent;                                 /* -1: one line */
    struct value item_separator, key_separator; /* undefined: the usual ones */
    bool ascii, sort;
};
void print_json(struct eval *v, struct out *o, struct value a, const struct json_style *s, int level);
void float_repr(double f, char out[64]);

/* --- filters, tests, functions --- */
bool filter_known(const struct text *name);
bool test_known(const struct text *name);
struct value filter_apply(struct eval *v, const struct text *name, struct value a, const struct list *args, const struct dict *kwargs);
bool test_apply(struct eval *v, const struct text *name, struct value a, const struct list *args);
struct value method_call(struct eval *v, const struct method *m, const struct list *args, const struct dict *kwargs);
bool method_known(struct value self, const struct text *name);
enum builtin {
    BUILTIN_RANGE,
    BUILTIN_DICT,
    BUILTIN_NAMESPACE,
    BUILTIN_RAISE,
    BUILTIN_STRFTIME,
    BUILTIN_JOINER,
    BUILTIN_CYCLER,
    BUILTIN_LIPSUM,
    BUILTINS
};
extern const char *const builtin_names[BUILTINS];
struct value builtin_call(struct eval *v, int f, const struct list *args, const struct dict *kwargs);

#endif
