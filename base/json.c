/* JSON: see json.h. */
#include "base/json.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_quick.h"
#include "base/str.h"

const struct json_limits json_limits_request = {.max_bytes = 64u << 20, .max_values = 100000, .max_depth = 64, .max_key_bytes = 256};
const struct json_limits json_limits_file = {.max_bytes = 100u << 20, .max_values = 4u << 20, .max_depth = 64};

struct json_count {
    size_t values, text_bytes;
    unsigned depth;
    const char *string; /* the last one, and its length as it is spelled */
    size_t n_string;
    bool url; /* the value that follows is one of a member that holds URLs */
};

enum { SHORT_STRING = 16 }; /* not counted as text: max_values bounds them */

/* From a string's first byte to its closing quote, or n, or where it is known to stand for more than max bytes. *bytes: what it stands for, at least. */
static size_t string_end(const char *p, size_t i, size_t n, size_t max, size_t *bytes)
{
    size_t count = 0;
    for (; i < n && p[i] != '"' && count <= max; i++, count++) {
        if (p[i] != '\\') continue;
        i += i + 1 < n && p[i + 1] == 'u' ? 5 : 1;
    }
    *bytes = count;
    return i < n ? i : n;
}

/* A picture may be megabytes, and has no escapes. */
static size_t url_end(const char *p, size_t i, size_t n)
{
    size_t bytes;
    const char *quote = memchr(p + i, '"', n - i);
    if (quote && !memchr(p + i, '\\', (size_t)(quote - p) - i)) return (size_t)(quote - p);
    return string_end(p, i, n, n, &bytes);
}

static size_t count_string(struct json_count *c, const struct json_limits *l, const char *p, size_t i, size_t n)
{
    size_t bytes = 0, end;
    if (c->url && n - i >= 5 && memcmp(p + i, "data:", 5) == 0)
        end = url_end(p, i, n);
    else
        end = string_end(p, i, n, l->max_text_bytes ? l->max_text_bytes : n, &bytes);
    c->string = p + i;
    c->n_string = end - i;
    if (bytes > SHORT_STRING) c->text_bytes += bytes;
    c->url = false;
    return end;
}

static int key_ended(struct json_count *c, const struct json_limits *l, const char *what, size_t at, struct err *e)
{
    if (l->max_key_bytes && c->n_string > l->max_key_bytes)
        return err_set(e, ERR_LIMIT, "%s: a member's name of more than %zu bytes at byte %zu", what, l->max_key_bytes, at);
    c->url = (c->n_string == 3 && memcmp(c->string, "url", 3) == 0) || (c->n_string == 9 && memcmp(c->string, "image_url", 9) == 0);
    return 0;
}

/* Counts nesting, values, names and text without building anything. It may miscount malformed text, which the parser then refuses. */
static int json_scan(const char *p, size_t n, const struct json_limits *l, const char *what, struct err *e)
{
    struct json_count c = {.values = 1};
    for (size_t i = 0; i < n; i++) {
        switch (p[i]) {
        case '"':
            i = count_string(&c, l, p, i + 1, n);
            if (l->max_text_bytes && c.text_bytes > l->max_text_bytes)
                return err_set(e, ERR_CONTEXT, "%s: more than %zu bytes of text", what, l->max_text_bytes);
            break;
        case ':': {
            int rc = key_ended(&c, l, what, i, e);
            if (rc) return rc;
            break;
        }
        case ',':
            c.values++;
            c.url = false;
            break;
        case '[':
        case '{':
            c.values++;
            c.url = false;
            if (++c.depth > l->max_depth) return err_set(e, ERR_LIMIT, "%s: JSON nested deeper than %u at byte %zu", what, l->max_depth, i);
            break;
        case ']':
        case '}':
            if (c.depth > 0) c.depth--;
            break;
        default:
            break;
        }
        if (c.values > l->max_values) return err_set(e, ERR_LIMIT, "%s: more than %zu JSON values at byte %zu", what, l->max_values, i);
    }
    return 0;
}

/* A key as it is spelled, "" if it is not plain or does not fit. */
static void json_plain(const char *name, size_t n, char *out, size_t cap)
{
    bool plain = name && n > 0 && n < cap && !memchr(name, '\\', n) && utf8_valid(name, n);
    if (plain) memcpy(out, name, n);
    out[plain ? n : 0] = '\0';
}

/* The name of the top-level member whose value the first `at` bytes end in, "" if there is none or it is not plain text: so that a number which
 * JSON cannot hold is still blamed on its field. And the last string before `at`: the key that is given twice. */
static void json_names_at(const char *p, size_t at, char *member, char *last, size_t cap)
{
    const char *name = NULL, *string = NULL;
    size_t n_name = 0, n_string = 0;
    unsigned depth = 0;
    for (size_t i = 0; i < at; i++) {
        char c = p[i];
        if (c == '"') {
            size_t start = ++i;
            while (i < at && p[i] != '"') i += p[i] == '\\' ? 2 : 1;
            string = p + start;
            n_string = i < at ? i - start : 0;
        } else if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && depth > 0)
            depth--;
        else if (c == ':' && depth == 1) {
            name = string;
            n_name = n_string;
        } else if (c == ',' && depth == 1)
            name = NULL;
    }
    json_plain(name, n_name, member, cap);
    json_plain(string, n_string, last, cap);
}

/* In our words: messages reach clients, and the library's quote what it read. */
static const char *json_why(const json_error_t *je)
{
    switch (json_error_code(je)) {
    case json_error_invalid_utf8:
        return "not UTF-8, or half of a surrogate pair";
    case json_error_premature_end_of_input:
        return "it ends too early";
    case json_error_end_of_input_expected:
        return "something follows its end";
    case json_error_null_byte_in_key:
        return "a NUL in a member's name";
    case json_error_duplicate_key:
        return "two members of one name";
    case json_error_numeric_overflow:
        return "a number that is too large";
    case json_error_stack_overflow:
        return "nested too deeply";
    default:
        return "wrong syntax";
    }
}

/* --- the library's memory ---
 * When memory runs out while it parses, Jansson drops bytes of strings, calls it wrong syntax, or ends the process by an assertion. So the parser is
 * left as soon as an allocation fails (longjmp), and what it had taken is freed: blocks of a running parse are in a list.
 * Taking and freeing a tree's blocks singly makes it twice as slow to read: they lie one after another in slabs that are made for the text's length, and a
 * slab goes with its last block. Whoever holds a part of a tree holds that part's slab; a tree is one thread's at a time. */

struct json_slab {
    size_t live, used, cap; /* blocks; bytes */
    struct json_slab *next; /* of the running parse */
    _Alignas(16) char data[];
};

struct json_block {
    struct json_block **link; /* NULL: not of a running parse */
    union {
        struct json_block *next;
        struct json_slab *slab; /* link: &in_slab */
    };
};

enum { QUICK_MAX_BYTES = 1 << 20 /* beyond, what it may copy once more is too much */ };
enum { SLAB_MIN_BYTES = 1 << 10, SLAB_MAX_BYTES = 1 << 20, SLAB_A_BYTE = 12 /* bytes of tree that a byte of small JSON makes */ };
static struct json_block *in_slab;

static _Thread_local struct {
    bool running;
    size_t slab_bytes;
    struct json_block *blocks;
    struct json_slab *slabs; /* the first is being filled */
    jmp_buf give_up;
} parse;

static struct json_block *slab_block(size_t n)
{
    const size_t size = (sizeof(struct json_block) + n + 15) & ~(size_t)15;
    struct json_slab *s = parse.slabs;
    if (!s || s->cap - s->used < size) {
        s = malloc(sizeof *s + parse.slab_bytes);
        if (!s) return NULL;
        *s = (struct json_slab){.next = parse.slabs, .cap = parse.slab_bytes};
        parse.slabs = s;
    }
    struct json_block *b = (struct json_block *)(void *)(s->data + s->used);
    s->used += size;
    s->live++;
    *b = (struct json_block){.link = &in_slab, .slab = s};
    return b;
}

static void *block_malloc(size_t n)
{
    const bool small = parse.running && n <= parse.slab_bytes / 16;
    struct json_block *b = small ? slab_block(n) : n > SIZE_MAX - sizeof *b ? NULL : malloc(sizeof *b + n);
    if (!b && parse.running) longjmp(parse.give_up, 1);
    if (!b) return NULL;
    if (small) return b + 1;
    *b = (struct json_block){0};
    if (parse.running) {
        b->next = parse.blocks;
        b->link = &parse.blocks;
        if (b->next) b->next->link = &b->next;
        parse.blocks = b;
    }
    return b + 1;
}

static void block_free(void *p)
{
    if (!p) return;
    struct json_block *b = (struct json_block *)p - 1;
    if (b->link == &in_slab) {
        struct json_slab *s = b->slab;
        if (--s->live == 0 && !parse.running) free(s);
        return;
    }
    if (b->link) *b->link = b->next;
    if (b->link && b->next) b->next->link = b->link;
    free(b);
}

__attribute__((constructor)) static void take_memory_here(void)
{
    json_set_alloc_funcs(block_malloc, block_free);
}

/* false: no memory. *out NULL: *je tells why. */
static bool json_parse(const char *p, size_t n, json_t **out, json_error_t *je)
{
    parse.running = true;
    parse.slab_bytes = n < SLAB_MIN_BYTES / SLAB_A_BYTE ? SLAB_MIN_BYTES : n < SLAB_MAX_BYTES / SLAB_A_BYTE ? n * SLAB_A_BYTE : SLAB_MAX_BYTES;
    parse.blocks = NULL;
    parse.slabs = NULL;
    bool done = setjmp(parse.give_up) == 0;
    if (done && n <= QUICK_MAX_BYTES) *out = json_quick(p, n, block_malloc, block_free);
    if (done && !*out) *out = json_loadb(p, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, je);
    parse.running = false;
    for (struct json_block *b = parse.blocks, *next; b; b = next) {
        next = b->next;
        *b = (struct json_block){0};
        if (!done) free(b);
    }
    for (struct json_slab *s = parse.slabs, *next; s; s = next) {
        next = s->next;
        if (!done || s->live == 0) free(s);
    }
    parse.blocks = NULL;
    parse.slabs = NULL;
    return done;
}

int json_read(const char *p, size_t n, const struct json_limits *limits, const char *what, json_t **out, struct err *e)
{
    *out = NULL;
    if (n > limits->max_bytes) return err_set(e, ERR_LIMIT, "%s: %zu bytes of JSON, the limit is %zu", what, n, limits->max_bytes);
    const char *nul = n ? memchr(p, 0, n) : NULL; /* Jansson takes one after a number for a blank */
    if (nul) return err_set(e, ERR_INPUT, "%s: malformed JSON at byte %zu: a NUL", what, (size_t)(nul - p));
    int rc = json_scan(p, n, limits, what, e);
    if (rc) return rc;
    json_error_t je;
    bool done = json_parse(p, n, out, &je);
    if (*out) return 0;
    if (!done || json_error_code(&je) == json_error_out_of_memory) return err_set(e, ERR_MEMORY, "%s: out of memory", what);
    char member[64], last[64];
    json_names_at(p, je.position > 0 && (size_t)je.position <= n ? (size_t)je.position : 0, member, last, sizeof member);
    bool twice = json_error_code(&je) == json_error_duplicate_key && last[0];
    return err_set_param(e, ERR_INPUT, member, "%s: malformed JSON at byte %d: %s%s%s%s", what, je.position, json_why(&je),
                         twice ? ", '" : "", twice ? last : "", twice ? "'" : "");
}

int json_read_file(const char *path, const struct json_limits *limits, json_t **out, struct err *e)
{
    struct buf b;
    buf_init(&b, limits->max_bytes);
    *out = NULL;
    int rc = buf_read_file(&b, path, e);
    if (!rc) rc = json_read(b.data, b.len, limits, path, out, e);
    buf_free(&b);
    return rc;
}

int json_write_escaped(struct buf *b, const char *p, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        buf_append(b, p + from, i - from);
        from = i + 1;
        const char *two = strchr("\"\"\\\\\nn\tt\rr\bb\ff", c); /* pairs: character, escape letter */
        char esc[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
        if (c && two) esc[1] = two[1];
        buf_append(b, esc, c && two ? 2 : 6);
    }
    buf_append(b, p + from, n - from);
    return b->failed;
}

int json_write_string(struct buf *b, const char *p, size_t n)
{
    buf_putc(b, '"');
    json_write_escaped(b, p, n);
    buf_putc(b, '"');
    return b->failed;
}

static int write_chunk(const char *p, size_t n, void *buf)
{
    return buf_append(buf, p, n);
}

static void write_value(struct buf *b, const json_t *v);

static void write_members(struct buf *b, const json_t *object)
{
    char before = '{';
    for (void *it = json_object_iter((json_t *)object); it; it = json_object_iter_next((json_t *)object, it), before = ',') {
        buf_putc(b, before);
        json_write_string(b, json_object_iter_key(it), json_object_iter_key_len(it));
        buf_putc(b, ':');
        write_value(b, json_object_iter_value(it));
    }
    buf_puts(b, before == '{' ? "{}" : "}");
}

static void write_items(struct buf *b, const json_t *array)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        buf_putc(b, i ? ',' : '[');
        write_value(b, json_array_get(array, i));
    }
    buf_puts(b, json_array_size(array) ? "]" : "[]");
}

/* The library would first look, for each object and list, whether it is inside itself: with us none is. */
static void write_value(struct buf *b, const json_t *v)
{
    if (json_is_object(v))
        write_members(b, v);
    else if (json_is_array(v))
        write_items(b, v);
    else if (json_is_string(v))
        json_write_string(b, json_string_value(v), json_string_length(v));
    else if (json_is_integer(v))
        buf_printf(b, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v)) {
        if (json_dump_callback(v, write_chunk, b, JSON_COMPACT | JSON_ENCODE_ANY) && !b->failed) b->failed = -ERR_MEMORY;
    } else
        buf_puts(b, json_is_true(v) ? "true" : json_is_false(v) ? "false" : "null");
}

int json_write(struct buf *b, const json_t *v)
{
    if (v)
        write_value(b, v);
    else if (!b->failed) /* what was to be made for want of memory was not */
        b->failed = -ERR_MEMORY;
    return b->failed;
}
