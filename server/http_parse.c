/* HTTP parsing: see http_parse.h. */
#include "server/http_parse.h"

#include <string.h>
#include <strings.h>

#include "base/str.h"

enum { METHOD_MAX = 32, LENGTH_DIGITS = 18, CHUNK_DIGITS = 8, CHUNK_OVERHEAD = 4096 };

static bool is_token(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

/* Visible, blank, tab, or above ASCII. */
static bool is_field_byte(unsigned char c)
{
    return c == '\t' || (c >= ' ' && c != 0x7f);
}

/* --- the header's end --- */

static int scan_fail(struct http_scan *s, int status, const char *why)
{
    s->why = why;
    return -status;
}

/* At a line's LF. As http_head_scan. */
static int scan_line(struct http_scan *s, const char *p, size_t i, const struct limits *l)
{
    if (i == s->line || p[i - 1] != '\r') return scan_fail(s, 400, "a line does not end with CR LF");
    bool empty = i - 1 == s->line;
    if (empty && s->lines > 0) return (int)(i + 1);
    if (empty && s->skip) return scan_fail(s, 400, "empty lines before the request line");
    if (empty)
        s->skip = i + 1;
    else
        s->lines++;
    if (s->lines == 1 && i - s->line > (size_t)l->url_bytes + METHOD_MAX) return scan_fail(s, 414, "the URL is too long");
    if (s->lines > (size_t)l->headers + 1) return scan_fail(s, 431, "too many header fields");
    s->line = i + 1;
    return 0;
}

int http_head_scan(struct http_scan *s, const char *p, size_t n, const struct limits *l)
{
    size_t max = (size_t)l->header_bytes;
    for (; s->at < n && s->at < max; s->at++) {
        size_t i = s->at;
        if (p[i] == '\n') {
            int rc = scan_line(s, p, i, l);
            if (rc) return rc;
        } else if (p[i] == '\0')
            return scan_fail(s, 400, "a NUL byte in the header");
        else if (i > s->line && p[i - 1] == '\r')
            return scan_fail(s, 400, "a CR that ends no line");
    }
    if (s->lines == 0 && s->at - s->line > (size_t)l->url_bytes + METHOD_MAX) return scan_fail(s, 414, "the URL is too long");
    return n >= max ? scan_fail(s, 431, "the header is too long") : 0;
}

/* --- the request line --- */

static int head_fail(struct http_head *h, int status, const char *why)
{
    h->why = why;
    return -status;
}

/* "http://host/path" -> path; the host must be the Host field's, which is checked when that is known. */
static int read_absolute(struct http_head *h, struct http_slice *authority)
{
    struct http_slice *t = &h->target;
    size_t scheme = t->n >= 7 && strncasecmp(t->p, "http://", 7) == 0 ? 7 : t->n >= 8 && strncasecmp(t->p, "https://", 8) == 0 ? 8 : 0;
    if (!scheme) return head_fail(h, 400, "the request's target is neither a path nor an http URL");
    const char *slash = memchr(t->p + scheme, '/', t->n - scheme);
    if (!slash) return head_fail(h, 400, "the request's URL has no path");
    *authority = (struct http_slice){t->p + scheme, (size_t)(slash - t->p) - scheme};
    if (authority->n == 0) return head_fail(h, 400, "the request's URL names no host");
    *t = (struct http_slice){slash, t->n - (size_t)(slash - t->p)};
    return 0;
}

static int read_version(struct http_head *h, const char *p, size_t n)
{
    if (n != 8 || memcmp(p, "HTTP/", 5) != 0 || p[6] != '.' || p[5] < '0' || p[5] > '9' || p[7] < '0' || p[7] > '9')
        return head_fail(h, 400, "the request line names no HTTP version");
    if (p[5] != '1') return head_fail(h, 505, "HTTP versions other than 1.0 and 1.1 are not spoken here");
    h->http10 = p[7] == '0';
    return 0;
}

static int read_request_line(struct http_head *h, const char *p, size_t n, struct http_slice *authority)
{
    size_t i = 0;
    while (i < n && is_token((unsigned char)p[i])) i++;
    if (i == 0 || i > METHOD_MAX || i == n || p[i] != ' ') return head_fail(h, 400, "the request line has no method");
    h->method = (struct http_slice){p, i};
    size_t start = ++i;
    while (i < n && p[i] > ' ' && p[i] < 0x7f) i++;
    if (i == start || i == n || p[i] != ' ')
        return head_fail(h, 400, "the request line has no target, or bytes in it that no URL may have");
    h->target = (struct http_slice){p + start, i - start};
    int rc = read_version(h, p + i + 1, n - i - 1);
    if (rc) return rc;
    if (h->target.p[0] == '/' || http_slice_is(h->target, "*")) return 0;
    return read_absolute(h, authority);
}

/* --- fields --- */

bool http_slice_is(struct http_slice s, const char *text)
{
    return strlen(text) == s.n && strncasecmp(s.p, text, s.n) == 0;
}

/* A line without its CR LF into name and value; false: it is no field. */
static bool split_field(const char *p, size_t n, struct http_slice *name, struct http_slice *value)
{
    size_t i = 0;
    while (i < n && is_token((unsigned char)p[i])) i++;
    if (i == 0 || i == n || p[i] != ':') return false;
    *name = (struct http_slice){p, i++};
    while (i < n && (p[i] == ' ' || p[i] == '\t')) i++;
    while (n > i && (p[n - 1] == ' ' || p[n - 1] == '\t')) n--;
    *value = (struct http_slice){p + i, n - i};
    for (; i < n; i++)
        if (!is_field_byte((unsigned char)p[i])) return false;
    return true;
}

struct seen {
    bool length, coding, host, key;
};

static int read_length(struct http_head *h, struct http_slice v)
{
    if (v.n == 0 || v.n > LENGTH_DIGITS) return head_fail(h, 400, "Content-Length is not a length");
    for (size_t i = 0; i < v.n; i++) {
        if (v.p[i] < '0' || v.p[i] > '9') return head_fail(h, 400, "Content-Length is not a length");
        h->content_length = h->content_length * 10 + (v.p[i] - '0');
    }
    return 0;
}

static void read_connection(struct http_head *h, struct http_slice v)
{
    for (size_t i = 0; i < v.n;) {
        size_t end = i;
        while (end < v.n && v.p[end] != ',') end++;
        struct http_slice word = {v.p + i, end - i};
        while (word.n && (*word.p == ' ' || *word.p == '\t')) word.p++, word.n--;
        while (word.n && (word.p[word.n - 1] == ' ' || word.p[word.n - 1] == '\t')) word.n--;
        if (http_slice_is(word, "close")) h->keep_alive = false;
        if (http_slice_is(word, "keep-alive") && h->http10) h->keep_alive = true;
        i = end + 1;
    }
}

static bool host_sane(struct http_slice v)
{
    for (size_t i = 0; i < v.n; i++)
        if (!is_token((unsigned char)v.p[i]) && !strchr(":[]", v.p[i])) return false;
    return v.n > 0;
}

static int read_field(struct http_head *h, struct seen *seen, struct http_slice name, struct http_slice value)
{
    if (http_slice_is(name, "content-length")) {
        if (seen->length) return head_fail(h, 400, "two Content-Length fields");
        seen->length = true;
        return read_length(h, value);
    }
    if (http_slice_is(name, "transfer-encoding")) {
        if (seen->coding || !http_slice_is(value, "chunked")) return head_fail(h, 400, "a Transfer-Encoding other than chunked");
        seen->coding = h->chunked = true;
    } else if (http_slice_is(name, "host")) {
        if (seen->host || !host_sane(value)) return head_fail(h, 400, "two Host fields, or one that names no host");
        seen->host = true;
        h->host = value;
    } else if (http_slice_is(name, "authorization")) {
        if (seen->key) return head_fail(h, 400, "two Authorization fields");
        seen->key = true;
    } else if (http_slice_is(name, "connection"))
        read_connection(h, value);
    else if (http_slice_is(name, "expect")) {
        if (!http_slice_is(value, "100-continue")) return head_fail(h, 400, "an Expect other than 100-continue");
        h->expects_continue = !h->http10;
    }
    return 0;
}

/* What only all fields together tell. */
static int check_fields(struct http_head *h, const struct seen *seen, struct http_slice authority)
{
    if (!seen->host && !h->http10) return head_fail(h, 400, "no Host field");
    if (seen->coding && (seen->length || h->http10)) return head_fail(h, 400, "Transfer-Encoding beside Content-Length, or in HTTP/1.0");
    if (authority.p && (authority.n != h->host.n || strncasecmp(authority.p, h->host.p, authority.n) != 0))
        return head_fail(h, 400, "the URL's host is not the Host field's");
    return 0;
}

/* The next line that ends with CR LF, without it; *at moves behind it. */
static struct http_slice next_line(const char *p, size_t n, size_t *at)
{
    size_t start = *at;
    const char *end = start < n ? memchr(p + start, '\n', n - start) : NULL;
    CHECK(end && end > p + start && end[-1] == '\r'); /* http_head_scan has seen to that */
    *at = (size_t)(end - p) + 1;
    return (struct http_slice){p + start, (size_t)(end - p) - 1 - start};
}

int http_head_parse(struct http_head *h, const char *p, size_t n)
{
    *h = (struct http_head){0};
    struct http_slice authority = {0};
    struct seen seen = {0};
    size_t at = 0;
    struct http_slice line = next_line(p, n, &at);
    if (line.n == 0) line = next_line(p, n, &at);
    int rc = read_request_line(h, line.p, line.n, &authority);
    h->keep_alive = !h->http10;
    while (!rc && (line = next_line(p, n, &at)).n) {
        struct http_slice name, value;
        if (!split_field(line.p, line.n, &name, &value)) return head_fail(h, 400, "a line that is not a header field");
        rc = read_field(h, &seen, name, value);
    }
    return rc ? rc : check_fields(h, &seen, authority);
}

bool http_head_next(const char *p, size_t n, size_t *at, struct http_slice *name, struct http_slice *value)
{
    while (*at < n) {
        bool request_line = *at == 0 || (*at == 2 && p[0] == '\r');
        struct http_slice line = next_line(p, n, at);
        if (!request_line && line.n) return split_field(line.p, line.n, name, value);
    }
    return false;
}

/* --- chunks --- */

enum { SIZE, EXTENSION, SIZE_LF, DATA, DATA_CR, DATA_LF, TRAILER, TRAILER_LINE, TRAILER_LF, END_LF, ENDED };

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool chunk_size_byte(struct http_chunked *c, char b)
{
    int digit = hex_digit(b);
    if (digit >= 0) {
        c->left = c->left * 16 + (unsigned)digit;
        return ++c->digits <= CHUNK_DIGITS;
    }
    c->state = b == ';' ? EXTENSION : SIZE_LF;
    return c->digits > 0 && (b == ';' || b == '\r');
}

/* One byte of what is not data; false: it may not stand there. */
static bool chunk_byte(struct http_chunked *c, char b)
{
    switch (c->state) {
    case SIZE:
        return chunk_size_byte(c, b);
    case EXTENSION:
        if (b == '\r') c->state = SIZE_LF;
        return b == '\r' || (is_field_byte((unsigned char)b) && ++c->overhead <= CHUNK_OVERHEAD);
    case SIZE_LF:
        c->state = c->left ? DATA : TRAILER;
        return b == '\n';
    case DATA_CR:
        c->state = DATA_LF;
        return b == '\r';
    case DATA_LF:
        c->state = SIZE;
        c->digits = c->overhead = 0;
        return b == '\n';
    case TRAILER: /* at a line's start */
        c->state = b == '\r' ? END_LF : TRAILER_LINE;
        return b == '\r' || is_token((unsigned char)b);
    case TRAILER_LINE:
        if (b == '\r') c->state = TRAILER_LF;
        return b == '\r' || (is_field_byte((unsigned char)b) && ++c->overhead <= CHUNK_OVERHEAD);
    case TRAILER_LF:
        c->state = TRAILER;
        return b == '\n';
    case END_LF:
        c->state = ENDED;
        return b == '\n';
    default:
        return false;
    }
}

int http_chunked_next(struct http_chunked *c, const char *p, size_t n, size_t *used, struct http_slice *data)
{
    *data = (struct http_slice){p, 0};
    size_t i = 0;
    for (; i < n && c->state != ENDED && c->state != DATA; i++)
        if (!chunk_byte(c, p[i])) return -400;
    if (c->state == DATA && i < n) {
        size_t some = n - i < c->left ? n - i : (size_t)c->left;
        *data = (struct http_slice){p + i, some};
        c->left -= some;
        i += some;
        if (c->left == 0) c->state = DATA_CR;
    }
    *used = i;
    return c->state == ENDED;
}

int http_unescape(char *p, size_t n)
{
    size_t out = 0;
    for (size_t i = 0; i < n; i++, out++) {
        p[out] = p[i];
        if (p[i] != '%') continue;
        int high = n - i > 2 ? hex_digit(p[i + 1]) : -1, low = n - i > 2 ? hex_digit(p[i + 2]) : -1;
        if (high < 0 || low < 0 || (high == 0 && low == 0)) return -400;
        p[out] = (char)(high * 16 + low);
        i += 2;
    }
    return utf8_valid(p, out) ? (int)out : -400;
}
