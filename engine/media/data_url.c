/* data: URLs: see data_url.h. */
#include "engine/media/data_url.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

/* 0..63 for a character of the alphabet, 64 for any other. */
static unsigned base64_value(unsigned char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26u;
    if (c >= '0' && c <= '9') return c - '0' + 52u;
    return c == '+' ? 62 : c == '/' ? 63 : 64;
}

/* The first character that does not belong; offset counts from the URL's start. */
static int bad_character(const unsigned char *p, size_t n, size_t offset, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        if (base64_value(p[i]) < 64) continue;
        bool blank = p[i] == ' ' || (p[i] >= '\t' && p[i] <= '\r');
        return err_set(e, ERR_INPUT, "data URL: %s at byte %zu; base64 without line breaks is expected",
                       blank         ? "white space"
                       : p[i] == '=' ? "padding before the end"
                                     : "a character that is not base64",
                       offset + i);
    }
    return err_set(e, ERR_INPUT, "data URL: not base64");
}

static int decode_base64(const char *text, size_t n, size_t offset, size_t max_bytes, struct buf *out, struct err *e)
{
    const unsigned char *p = (const unsigned char *)text;
    if (n == 0) return err_set(e, ERR_INPUT, "data URL: no data after the comma");
    size_t pad = p[n - 1] == '=' ? 1 + (n > 1 && p[n - 2] == '=') : 0;
    if (n / 4 * 3 > max_bytes + pad)
        return err_set(e, ERR_LIMIT, "data URL: about %zu bytes of data; the limit is %zu", n / 4 * 3, max_bytes);
    if (n % 4) return err_set(e, ERR_INPUT, "data URL: %zu base64 characters, not a multiple of 4: cut short, or padding is missing", n);
    size_t n_out = n / 4 * 3 - pad;
    int rc = buf_reserve(out, n_out);
    if (rc) return err_set(e, (enum err_code) - rc, "data URL: no room for %zu bytes", n_out);
    uint8_t *to = (uint8_t *)out->data + out->len;
    size_t full = (n - pad) / 4 * 4;
    unsigned bad = 0;
    for (size_t i = 0; i < full; i += 4) {
        unsigned a = base64_value(p[i]), b = base64_value(p[i + 1]), c = base64_value(p[i + 2]), d = base64_value(p[i + 3]);
        bad |= a | b | c | d;
        uint32_t v = a << 18 | b << 12 | c << 6 | d;
        *to++ = (uint8_t)(v >> 16);
        *to++ = (uint8_t)(v >> 8);
        *to++ = (uint8_t)v;
    }
    if (bad & 64) return bad_character(p, full, offset, e);
    if (pad) {
        unsigned a = base64_value(p[full]), b = base64_value(p[full + 1]), c = pad == 1 ? base64_value(p[full + 2]) : 0;
        if ((a | b | c) & 64) return bad_character(p + full, 4 - pad, offset + full, e);
        if (pad == 2 ? b & 15 : c & 3)
            return err_set(e, ERR_INPUT, "data URL: bits left over before the padding at byte %zu", offset + n - pad);
        *to++ = (uint8_t)(a << 2 | b >> 4);
        if (pad == 1) *to++ = (uint8_t)(b << 4 | c >> 2);
    }
    out->len += n_out;
    out->data[out->len] = '\0';
    return 0;
}

int data_url_decode(const char *url, size_t n, size_t max_bytes, struct buf *out, struct err *e)
{
    enum { MAX_HEADER_BYTES = 256 }; /* "data:" to the comma */
    buf_clear(out);
    if (n < 5 || strncasecmp(url, "data:", 5)) {
        if (n > 5 && (!strncasecmp(url, "http:", 5) || !strncasecmp(url, "https:", n < 6 ? n : 6)))
            return err_set(e, ERR_UNSUPPORTED, "pictures are not fetched from URLs here; send a data: URL");
        return err_set(e, ERR_UNSUPPORTED, "not a data: URL");
    }
    const char *comma = memchr(url, ',', n < MAX_HEADER_BYTES ? n : MAX_HEADER_BYTES);
    if (!comma) return err_set(e, ERR_INPUT, "data URL: no comma in its first %d bytes", MAX_HEADER_BYTES);
    size_t head = (size_t)(comma - url);
    if (head < 11 || strncasecmp(url + 5, "image/", 6)) return err_set(e, ERR_UNSUPPORTED, "data URL: its media type is not image/...");
    if (head < 18 || strncasecmp(comma - 7, ";base64", 7)) return err_set(e, ERR_UNSUPPORTED, "data URL: not ;base64");
    return decode_base64(comma + 1, n - head - 1, head + 1, max_bytes, out, e);
}
