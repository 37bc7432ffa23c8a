/* Lexer: a template's source to tokens, with Jinja's whitespace control (trim_blocks and lstrip_blocks on, '-' and '+' marks). */
#include <string.h>

#include "engine/text/template_parts.h"

struct lexer {
    struct arena *arena;
    const char *p;
    size_t n, at;
    unsigned line;
    bool line_starting; /* what was taken last ended a line */
    struct tokens_list *out;
    struct err *e;
};

static int fail(struct lexer *l, const char *what)
{
    return err_set(l->e, ERR_INPUT, "template line %u: %s", l->line, what);
}

static int push(struct lexer *l, enum token_type type, const char *p, size_t n)
{
    struct tokens_list *t = l->out;
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 256;
        struct token *items = arena_array(l->arena, cap, sizeof *items);
        if (!items) return err_set(l->e, ERR_LIMIT, "template line %u: template too large", l->line);
        if (t->n) memcpy(items, t->items, t->n * sizeof *items);
        t->items = items;
        t->cap = cap;
    }
    t->items[t->n++] = (struct token){type, l->line, p, n};
    return 0;
}

static void advance(struct lexer *l, size_t to)
{
    for (; l->at < to; l->at++) l->line += l->p[l->at] == '\n';
}

static bool space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80;
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool starts(const struct lexer *l, size_t at, const char *s)
{
    size_t n = strlen(s);
    return l->n - at >= n && memcmp(l->p + at, s, n) == 0;
}

/* Text before a tag at `tag`: what the tag's mark and lstrip_blocks leave of it. */
static int push_text(struct lexer *l, size_t tag, bool is_output, char mark)
{
    size_t end = tag;
    if (mark == '-') {
        while (end > l->at && space(l->p[end - 1])) end--;
    } else if (mark != '+' && !is_output) {
        size_t line = tag;
        while (line > l->at && l->p[line - 1] != '\n') line--;
        bool blank = line > l->at || l->line_starting;
        for (size_t i = line; i < tag && blank; i++) blank = space(l->p[i]);
        if (blank) end = line;
    }
    int rc = end > l->at ? push(l, TOKEN_TEXT, l->p + l->at, end - l->at) : 0;
    advance(l, tag);
    return rc;
}

/* After a tag: '-' eats all space, else a block or comment eats one line end. */
static void after_tag(struct lexer *l, char mark, bool is_output)
{
    size_t to = l->at;
    if (mark == '-')
        while (to < l->n && space(l->p[to])) to++;
    else if (mark != '+' && !is_output && to < l->n && l->p[to] == '\n')
        to++;
    l->line_starting = to > 0 && l->p[to - 1] == '\n';
    advance(l, to);
}

static int comment(struct lexer *l)
{
    size_t i = l->at + 2;
    while (i < l->n && !starts(l, i, "#}")) i++;
    if (i >= l->n) return fail(l, "comment is not closed");
    char mark = l->p[i - 1] == '-' || l->p[i - 1] == '+' ? l->p[i - 1] : 0;
    advance(l, i + 2);
    after_tag(l, mark, false);
    return 0;
}

static int string_token(struct lexer *l)
{
    char q = l->p[l->at];
    size_t i = l->at + 1;
    while (i < l->n && l->p[i] != q) i += l->p[i] == '\\' ? 2 : 1;
    if (i >= l->n) return fail(l, "string is not closed");
    int rc = push(l, TOKEN_STRING, l->p + l->at + 1, i - l->at - 1);
    advance(l, i + 1);
    return rc;
}

static int number_token(struct lexer *l)
{
    size_t i = l->at;
    bool real = false;
    while (i < l->n && (digit(l->p[i]) || (l->p[i] == '_' && i + 1 < l->n && digit(l->p[i + 1])))) i++;
    if (i + 1 < l->n && l->p[i] == '.' && digit(l->p[i + 1])) {
        real = true;
        for (i++; i < l->n && (digit(l->p[i]) || l->p[i] == '_'); i++) {
        }
    }
    if (i < l->n && (l->p[i] == 'e' || l->p[i] == 'E')) {
        size_t j = i + 1;
        if (j < l->n && (l->p[j] == '+' || l->p[j] == '-')) j++;
        if (j < l->n && digit(l->p[j])) {
            real = true;
            for (i = j; i < l->n && digit(l->p[i]); i++) {
            }
        }
    }
    int rc = push(l, real ? TOKEN_FLOAT : TOKEN_INTEGER, l->p + l->at, i - l->at);
    advance(l, i);
    return rc;
}

static const struct {
    const char *s;
    enum token_type type;
} operators[] = {
    {"//", TOKEN_FLOORDIV}, {"**", TOKEN_POW},   {"==", TOKEN_EQ},      {"!=", TOKEN_NE},      {"<=", TOKEN_LE},    {">=", TOKEN_GE},
    {"+", TOKEN_ADD},       {"-", TOKEN_SUB},    {"*", TOKEN_MUL},      {"/", TOKEN_DIV},      {"%", TOKEN_MOD},    {"~", TOKEN_TILDE},
    {"(", TOKEN_LPAREN},    {")", TOKEN_RPAREN}, {"[", TOKEN_LBRACKET}, {"]", TOKEN_RBRACKET}, {"{", TOKEN_LBRACE}, {"}", TOKEN_RBRACE},
    {".", TOKEN_DOT},       {",", TOKEN_COMMA},  {":", TOKEN_COLON},    {"=", TOKEN_ASSIGN},   {"|", TOKEN_PIPE},   {";", TOKEN_SEMICOLON},
    {"<", TOKEN_LT},        {">", TOKEN_GT},
};

static int operator_token(struct lexer *l)
{
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
        if (starts(l, l->at, operators[i].s)) {
            size_t n = strlen(operators[i].s);
            int rc = push(l, operators[i].type, l->p + l->at, n);
            advance(l, l->at + n);
            return rc;
        }
    return fail(l, "unexpected character");
}

/* Inside a tag until its end; `close` is "%}" or "}}". */
static int tag_body(struct lexer *l, const char *close, enum token_type end)
{
    bool is_output = end == TOKEN_OUTPUT_END;
    int nesting = 0;
    while (l->at < l->n) {
        char c = l->p[l->at];
        if (space(c)) {
            advance(l, l->at + 1);
            continue;
        }
        char mark = (c == '-' || (c == '+' && !is_output)) && starts(l, l->at + 1, close) ? c : 0;
        if (mark || (nesting == 0 && starts(l, l->at, close))) {
            int rc = push(l, end, l->p + l->at, 0);
            advance(l, l->at + (mark ? 3 : 2));
            after_tag(l, mark, is_output);
            return rc;
        }
        nesting += c == '{' || c == '(' || c == '[' ? 1 : c == '}' || c == ')' || c == ']' ? -1 : 0;
        int rc;
        size_t i = l->at;
        if (word(c)) {
            while (i < l->n && (word(l->p[i]) || digit(l->p[i]))) i++;
            rc = push(l, TOKEN_NAME, l->p + l->at, i - l->at);
            advance(l, i);
        } else {
            rc = digit(c) ? number_token(l) : c == '\'' || c == '"' ? string_token(l) : operator_token(l);
        }
        if (rc) return rc;
    }
    return fail(l, "tag is not closed");
}

/* {% raw %} ... {% endraw %}: 1 if there was one. */
static int raw_block(struct lexer *l, int *rc)
{
    size_t i = l->at + 2;
    if (i < l->n && (l->p[i] == '-' || l->p[i] == '+')) i++;
    while (i < l->n && space(l->p[i])) i++;
    if (!starts(l, i, "raw")) return 0;
    i += 3;
    while (i < l->n && space(l->p[i])) i++;
    char mark = i < l->n && (l->p[i] == '-' || l->p[i] == '+') ? l->p[i++] : 0;
    if (!starts(l, i, "%}")) return 0;
    advance(l, i + 2);
    after_tag(l, mark, false);
    for (size_t j = l->at; j < l->n; j++) {
        if (!starts(l, j, "{%")) continue;
        size_t k = j + 2;
        char before = k < l->n && (l->p[k] == '-' || l->p[k] == '+') ? l->p[k++] : 0;
        while (k < l->n && space(l->p[k])) k++;
        if (!starts(l, k, "endraw")) continue;
        k += 6;
        while (k < l->n && space(l->p[k])) k++;
        char after = k < l->n && (l->p[k] == '-' || l->p[k] == '+') ? l->p[k++] : 0;
        if (!starts(l, k, "%}")) continue;
        *rc = push_text(l, j, false, before);
        advance(l, k + 2);
        after_tag(l, after, false);
        return 1;
    }
    *rc = fail(l, "raw block is not closed");
    return 1;
}

int template_lex(struct arena *a, const char *source, size_t n, struct tokens_list *out, struct err *e)
{
    struct lexer l = {.arena = a, .p = source, .n = n, .line = 1, .line_starting = true, .out = out, .e = e};
    int rc = 0;
    for (size_t i = 0; i + 1 < n && !rc;) {
        if (source[i] != '{' || (source[i + 1] != '{' && source[i + 1] != '%' && source[i + 1] != '#')) {
            i++;
            continue;
        }
        char kind = source[i + 1], mark = i + 2 < n && (source[i + 2] == '-' || (source[i + 2] == '+' && kind != '{')) ? source[i + 2] : 0;
        rc = push_text(&l, i, kind == '{', mark);
        if (rc) break;
        if (kind == '#') {
            rc = comment(&l);
        } else if (kind == '%' && raw_block(&l, &rc)) {
        } else {
            rc = push(&l, kind == '{' ? TOKEN_OUTPUT_BEGIN : TOKEN_BLOCK_BEGIN, source + i, 0);
            advance(&l, i + (mark ? 3 : 2));
            if (!rc) rc = kind == '{' ? tag_body(&l, "}}", TOKEN_OUTPUT_END) : tag_body(&l, "%}", TOKEN_BLOCK_END);
        }
        i = l.at;
    }
    if (!rc && l.at < n) rc = push(&l, TOKEN_TEXT, source + l.at, n - l.at);
    return rc ? rc : push(&l, TOKEN_END, "", 0);
}
