/* JSON: see json.h. */
#include "base/json.h"

#include <stdbool.h>
#include <string.h>

#include "base/str.h"

const struct json_limits json_limits_request = {.max_bytes = 64u << 20, .max_values = 100000, .max_depth = 64};
const struct json_limits json_limits_file = {.max_bytes = 100u << 20, .max_values = 4u << 20, .max_depth = 64};

/* Counts nesting and values without building anything. It may miscount malformed text, which the parser then refuses. */
static int json_scan(const char *p, size_t n, const struct json_limits *l, const char *what, struct err *e)
{
    size_t values = 1;
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        if (c == '"')
            in_string = true;
        else if (c == ',')
            values++;
        else if (c == '[' || c == '{') {
            values++;
            if (++depth > l->max_depth) return err_set(e, ERR_LIMIT, "%s: JSON nested deeper than %u at byte %zu", what, l->max_depth, i);
        } else if ((c == ']' || c == '}') && depth > 0)
            depth--;
        if (values > l->max_values) return err_set(e, ERR_LIMIT, "%s: more than %zu JSON values at byte %zu", what, l->max_values, i);
    }
    return 0;
}

/* The name of the top-level member whose value the first `at` bytes end in, "" if there is none or it is not plain text: so that a number which
 * JSON cannot hold is still blamed on its field. */
static void json_member_at(const char *p, size_t at, char *out, size_t cap)
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
    bool plain = name && n_name > 0 && n_name < cap && !memchr(name, '\\', n_name) && utf8_valid(name, n_name);
    if (plain) memcpy(out, name, n_name);
    out[plain ? n_name : 0] = '\0';
}

int json_read(const char *p, size_t n, const struct json_limits *limits, const char *what, json_t **out, struct err *e)
{
    *out = NULL;
    if (n > limits->max_bytes) return err_set(e, ERR_LIMIT, "%s: %zu bytes of JSON, the limit is %zu", what, n, limits->max_bytes);
    int rc = json_scan(p, n, limits, what, e);
    if (rc) return rc;
    json_error_t je;
    *out = json_loadb(p, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &je);
    if (*out) return 0;
    if (json_error_code(&je) == json_error_out_of_memory) return err_set(e, ERR_MEMORY, "%s: out of memory", what);
    char member[64];
    json_member_at(p, je.position > 0 && (size_t)je.position <= n ? (size_t)je.position : 0, member, sizeof member);
    return err_set_param(e, ERR_INPUT, member, "%s: malformed JSON at byte %d: %s", what, je.position, je.text);
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

int json_write_string(struct buf *b, const char *p, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    buf_putc(b, '"');
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
    buf_putc(b, '"');
    return b->failed;
}

static int write_chunk(const char *p, size_t n, void *buf)
{
    return buf_append(buf, p, n);
}

int json_write(struct buf *b, const json_t *v)
{
    if (json_dump_callback(v, write_chunk, b, JSON_COMPACT | JSON_ENCODE_ANY) && !b->failed) b->failed = -ERR_MEMORY;
    return b->failed;
}
