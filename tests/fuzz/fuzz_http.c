/* HTTP/1.1 requests: header and chunked body by server/http_parse.c. The verdict must not depend on how the bytes arrive: the header is scanned
 * whole and in pieces, a chunked body is read whole and in pieces, to the same end and the same bytes. What is accepted has a method, a target
 * and, in 1.1, one host; fields have no control characters, so that none can break out of a log line or a header that is sent on. */
#include <ctype.h>
#include <string.h>

#include "base/str.h"
#include "server/http_parse.h"
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {"GET ",
                                    "POST ",
                                    "OPTIONS ",
                                    "/v1/models",
                                    "/v1/chat/completions",
                                    "*",
                                    "http://a/b",
                                    " HTTP/1.1\r\n",
                                    " HTTP/1.0\r\n",
                                    " HTTP/2.0\r\n",
                                    "\r\n",
                                    "\n",
                                    "\r",
                                    "\r\n\r\n",
                                    "Host: a\r\n",
                                    "Host: [::1]:80\r\n",
                                    "Content-Length: 5\r\n",
                                    "Content-Length: +5\r\n",
                                    "Content-Length: 5, 5\r\n",
                                    "Content-Length: 18446744073709551616\r\n",
                                    "Transfer-Encoding: chunked\r\n",
                                    "Transfer-Encoding: identity\r\n",
                                    "Transfer-Encoding:\tchunked\r\n",
                                    "transfer-encoding: Chunked \r\n",
                                    "Connection: close\r\n",
                                    "Connection: keep-alive, Upgrade\r\n",
                                    "Expect: 100-continue\r\n",
                                    "X: y\r\n",
                                    " : z\r\n",
                                    " folded\r\n",
                                    "X\t: y\r\n",
                                    "\t",
                                    " ",
                                    ":",
                                    ";",
                                    "%41",
                                    "%00",
                                    "%zz",
                                    "%C3%A9",
                                    "%FF",
                                    "?a=b",
                                    "#f",
                                    "\xC3\xA9",
                                    "\x7F",
                                    "5\r\nhello\r\n0\r\n\r\n",
                                    "0\r\n\r\n",
                                    "ffffffffffffffff\r\n",
                                    "10000000000000000\r\n",
                                    "5;a=\"b\"\r\n",
                                    "0\r\nTrailer: x\r\n\r\n",
                                    "00000000000000000005\r\n",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return seed % 4 ? fuzz_mutate_words(p, n, max, seed, words) : LLVMFuzzerMutate(p, n, max);
}

static struct limits small_limits(void)
{
    struct limits l;
    limits_init(&l);
    l.header_bytes = 1024; /* so that short inputs reach them */
    l.headers = 12;
    l.url_bytes = 200;
    return l;
}

static struct fuzz_random pieces_of(const uint8_t *p, size_t n)
{
    struct fuzz_random r = {n};
    for (size_t i = 0; i < n && i < 64; i++) r.state = r.state * 31 + p[i];
    return r;
}

/* The header's length or a status, as it arrives in pieces. */
static int scan_in_pieces(const char *p, size_t n, const struct limits *l)
{
    struct fuzz_random r = pieces_of((const uint8_t *)p, n);
    struct http_scan s = {0};
    int rc = 0;
    for (size_t have = 0; have < n && rc == 0;) {
        have += 1 + fuzz_below(&r, 1u << fuzz_below(&r, 8));
        if (have > n) have = n;
        rc = http_head_scan(&s, p, have, l);
    }
    FUZZ_CHECK(rc >= 0 || s.why);
    return rc;
}

static void check_slice(const char *p, size_t n, struct http_slice s)
{
    FUZZ_CHECK(s.n == 0 || (s.p >= p && s.n <= (size_t)(p + n - s.p)));
    for (size_t i = 0; i < s.n; i++) FUZZ_CHECK((unsigned char)s.p[i] >= 0x20 || s.p[i] == '\t');
}

static void check_head(const char *p, size_t n, const struct http_head *h)
{
    FUZZ_CHECK(h->method.n && h->target.n && h->content_length >= 0);
    FUZZ_CHECK(!h->chunked || !h->http10);
    check_slice(p, n, h->method);
    check_slice(p, n, h->target);
    check_slice(p, n, h->host);
    FUZZ_CHECK(h->target.p[0] == '/' || http_slice_is(h->target, "*"));
    for (size_t i = 0; i < h->target.n; i++) FUZZ_CHECK(h->target.p[i] > ' ' && h->target.p[i] != 0x7F);
    struct http_slice name, value;
    size_t at = 0, fields = 0, lengths = 0, codings = 0, hosts = 0;
    while (http_head_next(p, n, &at, &name, &value)) {
        FUZZ_CHECK(name.n && at <= n && ++fields <= n);
        check_slice(p, n, name);
        check_slice(p, n, value);
        lengths += http_slice_is(name, "content-length");
        codings += http_slice_is(name, "transfer-encoding");
        hosts += http_slice_is(name, "host");
    }
    FUZZ_CHECK(lengths + codings <= 1 && hosts <= 1 && (codings == 1) == h->chunked);
    FUZZ_CHECK(lengths || h->content_length == 0 || h->chunked);
    FUZZ_CHECK(h->http10 || hosts == 1);
    char *copy = malloc(h->target.n + 1);
    FUZZ_CHECK(copy);
    memcpy(copy, h->target.p, h->target.n);
    int len = http_unescape(copy, h->target.n);
    FUZZ_CHECK(len == -400 || (len >= 0 && (size_t)len <= h->target.n && !memchr(copy, 0, (size_t)len) && utf8_valid(copy, (size_t)len)));
    free(copy);
}

struct body {
    int rc;
    size_t used;
    struct buf data;
};

static struct body read_chunked(const char *p, size_t n, struct fuzz_random *r)
{
    struct body b = {0};
    struct http_chunked c = {0};
    buf_init(&b.data, 1 << 20);
    for (size_t have = 0; have < n && b.rc == 0;) {
        have += r ? 1 + fuzz_below(r, 1u << fuzz_below(r, 8)) : n;
        if (have > n) have = n;
        while (b.used < have && b.rc == 0) {
            size_t used = 0;
            struct http_slice data = {0};
            b.rc = http_chunked_next(&c, p + b.used, have - b.used, &used, &data);
            FUZZ_CHECK(b.rc == 0 || b.rc == 1 || b.rc == -400);
            FUZZ_CHECK(used <= have - b.used && (used > 0 || b.rc));
            FUZZ_CHECK(data.n == 0 || (data.p >= p + b.used && data.n <= used));
            if (b.rc >= 0) FUZZ_CHECK(buf_append(&b.data, data.p, data.n) == 0);
            b.used += used;
        }
    }
    return b;
}

static void check_chunked(const char *p, size_t n)
{
    struct fuzz_random r = pieces_of((const uint8_t *)p, n);
    struct body whole = read_chunked(p, n, NULL), cut = read_chunked(p, n, &r);
    FUZZ_CHECK(whole.rc == cut.rc);
    if (whole.rc >= 0) {
        FUZZ_CHECK(whole.used == cut.used && whole.data.len == cut.data.len);
        FUZZ_CHECK(whole.data.len == 0 || memcmp(whole.data.data, cut.data.data, whole.data.len) == 0);
    }
    buf_free(&whole.data);
    buf_free(&cut.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    const char *p = (const char *)bytes;
    struct limits l = small_limits();
    struct http_scan s = {0};
    int rc = n ? http_head_scan(&s, p, n, &l) : 0;
    int pieces = scan_in_pieces(p, n, &l);
    FUZZ_CHECK(pieces == rc || (pieces < 0 && rc < 0)); /* of several faults, the first to arrive is told */
    FUZZ_CHECK(rc >= 0 || rc == -400 || rc == -414 || rc == -431);
    if (rc <= 0) {
        check_chunked(p, n);
        return 0;
    }
    FUZZ_CHECK((size_t)rc <= n && (size_t)rc <= (size_t)l.header_bytes + 2);
    struct http_head h = {0};
    int parsed = http_head_parse(&h, p, (size_t)rc);
    FUZZ_CHECK(parsed == 0 || parsed == -400 || parsed == -505);
    if (parsed)
        FUZZ_CHECK(h.why);
    else
        check_head(p, (size_t)rc, &h);
    check_chunked(p + rc, n - (size_t)rc);
    return 0;
}
