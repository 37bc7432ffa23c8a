/* bench's pictures: one shape on a ground, two colours, a PNG of one bit a pixel (RFC 2083) whose deflate stream is one stored block
 * (RFC 1951, 3.2.4): 6.5 KB that every host decodes, made anew for each request, so that no cache of pictures knows it. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "server/cli/bench_parts.h"

enum {
    SIDE = BENCH_PICTURE_SIDE,
    ROW_BYTES = 1 + SIDE / 8, /* the filter's number, then the pixels */
    RAW_BYTES = SIDE * ROW_BYTES,
    PNG_BYTES = RAW_BYTES + 256
};

enum kind { SQUARE, CIRCLE, DIAMOND, CROSS, KINDS };
struct shape {
    enum kind kind;
    int x, y, r;
};

static bool inside(const struct shape *s, int x, int y)
{
    int dx = abs(x - s->x), dy = abs(y - s->y);
    switch (s->kind) {
    case SQUARE:
        return dx <= s->r && dy <= s->r;
    case CIRCLE:
        return dx * dx + dy * dy <= s->r * s->r;
    case DIAMOND:
        return dx + dy <= s->r;
    default:
        return (dx <= s->r / 3 && dy <= s->r) || (dy <= s->r / 3 && dx <= s->r);
    }
}

static void put_u32(struct buf *b, uint32_t v)
{
    unsigned char p[] = {(unsigned char)(v >> 24), (unsigned char)(v >> 16), (unsigned char)(v >> 8), (unsigned char)v};
    buf_append(b, p, sizeof p);
}

static uint32_t crc32_of(const char *p, size_t n)
{
    uint32_t c = 0xFFFFFFFFu;
    for (size_t i = 0; i < n; i++) {
        c ^= (unsigned char)p[i];
        for (int bit = 0; bit < 8; bit++) c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
    }
    return ~c;
}

static uint32_t adler32_of(const unsigned char *p, size_t n)
{
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < n; i++) {
        a = (a + p[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

static void put_chunk(struct buf *b, const char *type, const void *p, size_t n)
{
    put_u32(b, (uint32_t)n);
    size_t at = b->len;
    buf_append(b, type, 4);
    buf_append(b, p, n);
    if (!b->failed) put_u32(b, crc32_of(b->data + at, b->len - at));
}

static void put_pixels(struct buf *b, const struct shape *s)
{
    static unsigned char raw[RAW_BYTES];
    unsigned char z[7 + RAW_BYTES + 4] = {0x78, 0x01, 0x01, RAW_BYTES & 0xFF, RAW_BYTES >> 8, ~RAW_BYTES & 0xFF, (~RAW_BYTES >> 8) & 0xFF};
    memset(raw, 0, sizeof raw);
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++)
            if (inside(s, x, y)) raw[y * ROW_BYTES + 1 + x / 8] |= (unsigned char)(0x80 >> x % 8);
    uint32_t sum = adler32_of(raw, sizeof raw);
    memcpy(z + 7, raw, sizeof raw);
    for (int i = 0; i < 4; i++) z[7 + RAW_BYTES + i] = (unsigned char)(sum >> (24 - 8 * i));
    put_chunk(b, "IDAT", z, sizeof z);
}

int bench_picture(struct buf *b, uint64_t number)
{
    struct shape s = {.kind = (enum kind)(number % KINDS), .r = 24 + (int)(number >> 8 & 31)};
    s.x = 56 + (int)((number >> 16) % (SIDE - 112));
    s.y = 56 + (int)((number >> 32) % (SIDE - 112));
    unsigned char head[13] = {0, 0, 0, SIDE, 0, 0, 0, SIDE, 1, 3, 0, 0, 0}; /* one bit, palette */
    unsigned char colours[6];
    for (int i = 0; i < 3; i++) {
        colours[i] = (unsigned char)(192 + (number >> (40 + 6 * i) & 63)); /* ground: light */
        colours[3 + i] = (unsigned char)(number >> (43 + 7 * i) & 127);    /* shape: dark */
    }
    struct buf png;
    buf_init(&png, PNG_BYTES);
    buf_append(&png, "\x89PNG\r\n\x1a\n", 8);
    put_chunk(&png, "IHDR", head, sizeof head);
    put_chunk(&png, "PLTE", colours, sizeof colours);
    put_pixels(&png, &s);
    put_chunk(&png, "IEND", "", 0);
    char text[(PNG_BYTES / 3 + 1) * 4 + 1];
    int rc = png.failed;
    if (!rc) {
        sodium_bin2base64(text, sizeof text, (const unsigned char *)png.data, png.len, sodium_base64_VARIANT_ORIGINAL);
        rc = buf_printf(b, "data:image/png;base64,%s", text);
    }
    buf_free(&png);
    return rc;
}
