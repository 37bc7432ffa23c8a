/* Encoding: added tokens on the raw text, normalisation, added tokens on the normalised text, pre-tokenisation steps, BPE, post-processor. */
#include <utf8proc.h>

#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "engine/text/tokenizer_parts.h"

void tokens_init(struct tokens *t, size_t max)
{
    *t = (struct tokens){.max = max};
}

void tokens_free(struct tokens *t)
{
    free(t->ids);
    *t = (struct tokens){.max = t->max};
}

int tokens_push(struct tokens *t, int32_t id)
{
    if (t->n >= t->max) return -ERR_LIMIT;
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        int32_t *p = cap <= SIZE_MAX / sizeof *p ? realloc(t->ids, cap * sizeof *p) : NULL;
        if (!p) return -ERR_MEMORY;
        t->ids = p;
        t->cap = cap;
    }
    t->ids[t->n++] = id;
    return 0;
}

struct encoder {
    const struct tokenizer *t;
    struct tokens *out;
    pcre2_match_data *match;
};

static int push(struct encoder *c, int32_t id, struct err *e)
{
    int rc = tokens_push(c->out, id);
    if (rc == -ERR_LIMIT) return err_set(e, ERR_LIMIT, "more than %zu tokens", c->out->max);
    return rc ? err_set(e, ERR_MEMORY, "tokenizer: out of memory") : 0;
}

/* --- pre-tokenisation: each step cuts the pieces of the one before --- */
static int pre_tokenise(struct encoder *c, size_t step, const char *p, size_t n, struct err *e);

static int split_digits(struct encoder *c, size_t step, const char *p, size_t n, bool single, struct err *e)
{
    size_t from = 0;
    bool run = false; /* the piece from `from` is made of digits */
    for (size_t i = 0, next; i < n; i = next) {
        uint32_t cp = 0;
        int len = (unsigned char)p[i] < 0x80 ? (cp = (unsigned char)p[i], 1) : utf8_decode(p + i, n - i, &cp);
        next = i + (size_t)(len > 0 ? len : 1);
        bool digit = unicode_is_numeric(cp);
        if (i > from && (digit != run || (digit && single))) {
            int rc = pre_tokenise(c, step + 1, p + from, i - from, e);
            if (rc) return rc;
            from = i;
        }
        run = digit;
    }
    return from < n ? pre_tokenise(c, step + 1, p + from, n - from, e) : 0;
}

static int split_pattern(struct encoder *c, size_t step, const char *p, size_t n, struct err *e)
{
    const struct split_step *s = &c->t->steps[step];
    size_t done = 0;
    while (done < n) {
        size_t start, end;
        int rc = pattern_next(s->pattern, c->match, p, n, done, &start, &end, e);
        if (rc < 0) return rc;
        if (rc == 0) break;
        rc = start > done ? pre_tokenise(c, step + 1, p + done, start - done, e) : 0;
        if (!rc && s->kind == SPLIT_ISOLATE) rc = pre_tokenise(c, step + 1, p + start, end - start, e);
        if (rc) return rc;
        done = end;
    }
    return done < n ? pre_tokenise(c, step + 1, p + done, n - done, e) : 0;
}

static int pre_tokenise(struct encoder *c, size_t step, const char *p, size_t n, struct err *e)
{
    if (step == c->t->n_steps) return bpe_encode(c->t, p, n, c->out, e);
    enum split_kind kind = c->t->steps[step].kind;
    if (kind == SPLIT_DIGITS || kind == SPLIT_DIGIT_RUNS) return split_digits(c, step, p, n, kind == SPLIT_DIGITS, e);
    return split_pattern(c, step, p, n, e);
}

/* --- the two passes of added tokens --- */
static int encode_normalised(void *self, struct marked_text text, const struct added_token *a, struct err *e)
{
    struct encoder *c = self;
    return a ? push(c, a->id, e) : pre_tokenise(c, 0, text.text, text.n, e);
}

static bool is_ascii(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)p[i] >= 0x80) return false;
    return true;
}

/* --- NFC --- */
static int mark_class(utf8proc_int32_t cp)
{
    return utf8proc_get_property(cp)->combining_class;
}

/* A run of marks into the order of their classes, equal ones as they came: the library's own way is quadratic in the run. room has n places. */
static void order_marks(utf8proc_int32_t *p, size_t n, utf8proc_int32_t *room)
{
    if (n <= 16) {
        for (size_t i = 1; i < n; i++)
            for (size_t k = i; k > 0 && mark_class(p[k - 1]) > mark_class(p[k]); k--) {
                utf8proc_int32_t t = p[k];
                p[k] = p[k - 1], p[k - 1] = t;
            }
        return;
    }
    size_t from[257] = {0};
    for (size_t i = 0; i < n; i++) from[mark_class(p[i]) + 1]++;
    for (int c = 0; c < 256; c++) from[c + 1] += from[c];
    for (size_t i = 0; i < n; i++) room[from[mark_class(p[i])]++] = p[i];
    memcpy(p, room, n * sizeof *p);
}

static void order_all_marks(utf8proc_int32_t *p, size_t n, utf8proc_int32_t *room)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        bool in_order = true;
        for (; end < n && mark_class(p[end]); end++) in_order = in_order && (end == i || mark_class(p[end - 1]) <= mark_class(p[end]));
        if (!in_order) order_marks(p + i, end - i, room);
        i = end > i ? end : i + 1;
    }
}

/* Code points of the whole decomposition; p NULL: only counted. The text is valid UTF-8. */
static size_t decompose(struct marked_text text, utf8proc_int32_t *p)
{
    size_t n = 0;
    for (size_t i = 0; i < text.n;) {
        utf8proc_int32_t cp, some[8];
        int last = 0;
        i += (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text.text + i, (utf8proc_ssize_t)(text.n - i), &cp);
        utf8proc_ssize_t k = utf8proc_decompose_char(cp, some, 8, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &last);
        CHECK(k >= 1 && k <= 8); /* 4 is the most there is */
        if (p) memcpy(p + n, some, (size_t)k * sizeof *p);
        n += (size_t)k;
    }
    return n;
}

/* *out is malloc'ed; *n_out its bytes. */
static int to_nfc(struct marked_text text, char **out, size_t *n_out, struct err *e)
{
    size_t n = decompose(text, NULL);
    utf8proc_int32_t *p = malloc((2 * n + 1) * sizeof *p);
    *out = NULL;
    if (!p) return err_set(e, ERR_MEMORY, "tokenizer: out of memory");
    decompose(text, p);
    order_all_marks(p, n, p + n);
    utf8proc_ssize_t composed = utf8proc_normalize_utf32(p, (utf8proc_ssize_t)n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    *out = composed < 0 ? NULL : malloc((size_t)composed * 4 + 1);
    *n_out = 0;
    for (utf8proc_ssize_t i = 0; *out && i < composed; i++) *n_out += (size_t)utf8proc_encode_char(p[i], (utf8proc_uint8_t *)*out + *n_out);
    free(p);
    if (composed < 0) return err_set(e, ERR_INTERNAL, "tokenizer: normalising: %s", utf8proc_errmsg(composed));
    return *out ? 0 : err_set(e, ERR_MEMORY, "tokenizer: out of memory");
}

static int encode_raw(void *self, struct marked_text text, const struct added_token *a, struct err *e)
{
    struct encoder *c = self;
    if (a) return push(c, a->id, e);
    if (!c->t->nfc || is_ascii(text.text, text.n)) return added_split(c->t, &c->t->normalized, text, encode_normalised, c, e);
    char *nfc;
    size_t n;
    int rc = to_nfc(text, &nfc, &n, e);
    if (rc) return rc;
    struct marked_text normal = {nfc, NULL, n};
    uint8_t *marks = NULL;
    if (text.marks &&
        memchr(text.marks, MARK_REQUEST, text.n)) { /* characters may have melted into each other: all of it counts as the request's */
        marks = malloc(normal.n + 1);
        if (marks) memset(marks, MARK_REQUEST, normal.n + 1);
        normal.marks = marks;
    }
    rc = text.marks && !normal.marks && memchr(text.marks, MARK_REQUEST, text.n)
             ? err_set(e, ERR_MEMORY, "tokenizer: out of memory")
             : added_split(c->t, &c->t->normalized, normal, encode_normalised, c, e);
    free(marks);
    free(nfc);
    return rc;
}

int tokenizer_encode(const struct tokenizer *t, struct marked_text text, unsigned flags, struct tokens *out, struct err *e)
{
    if (text.n && !utf8_valid(text.text, text.n)) return err_set(e, ERR_INPUT, "text is not valid UTF-8");
    struct encoder c = {.t = t, .out = out, .match = pcre2_match_data_create(1, NULL)};
    if (!c.match) return err_set(e, ERR_MEMORY, "tokenizer: out of memory");
    int rc = 0;
    for (size_t i = 0; flags & TOKENIZER_ADD_SPECIAL && i < t->n_prefix && !rc; i++) rc = push(&c, t->prefix[i], e);
    if (!rc) rc = added_split(t, &t->raw, text, encode_raw, &c, e);
    for (size_t i = 0; flags & TOKENIZER_ADD_SPECIAL && i < t->n_suffix && !rc; i++) rc = push(&c, t->suffix[i], e);
    pcre2_match_data_free(c.match);
    return rc;
}
