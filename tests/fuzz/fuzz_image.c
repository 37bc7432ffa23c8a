/* Pictures: header and whole decode of JPEG, PNG, WebP and GIF with a small cap on pixels. What the header says is what comes out, never more
 * pixels than the cap, and a refusal leaves nothing behind (T32). The mutator puts PNG's checksums right, so that changes inside chunks are seen. */
#include <string.h>

#include <zlib.h>

#include "engine/media/decode.h"
#include "engine/media/image.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_PIXELS = 128 * 128 };

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put_be32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}

/* Walks the chunks and recomputes their checksums. */
static void mend_png(uint8_t *p, size_t n)
{
    for (size_t at = 8; n >= 8 && n - at >= 12;) {
        size_t length = be32(p + at);
        if (length > n - at - 12) return;
        put_be32(p + at + 8 + length, (uint32_t)crc32(0, p + at + 4, (uInt)length + 4));
        at += 12 + length;
    }
}

static const char *const words[] = {"\x89PNG\r\n\x1a\n",
                                    "IHDR",
                                    "IDAT",
                                    "IEND",
                                    "PLTE",
                                    "tRNS",
                                    "eXIf",
                                    "acTL",
                                    "iCCP",
                                    "\xFF\xD8\xFF",
                                    "\xFF\xC0",
                                    "\xFF\xC2",
                                    "\xFF\xC4",
                                    "\xFF\xDA",
                                    "\xFF\xDB",
                                    "\xFF\xDD",
                                    "\xFF\xE1",
                                    "\xFF\xEE",
                                    "\xFF\xD9",
                                    "Exif",
                                    "MM",
                                    "II*",
                                    "RIFF",
                                    "WEBP",
                                    "VP8 ",
                                    "VP8L",
                                    "VP8X",
                                    "ANMF",
                                    "ALPH",
                                    "EXIF",
                                    "GIF87a",
                                    "GIF89a",
                                    "\x21\xF9\x04",
                                    "\x21\xFF\x0B",
                                    "\xFF\xFF",
                                    "\xFF\xFF\xFF\x7F",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    struct fuzz_random r = {seed};
    n = fuzz_below(&r, 4) == 0 ? fuzz_mutate_words(p, n, max, fuzz_next(&r), words) : LLVMFuzzerMutate(p, n, max);
    if (n > 8 && p[0] == 0x89 && fuzz_below(&r, 8)) mend_png(p, n);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct image_info info;
    struct pixels px;
    struct err e = {0}, e2 = {0};
    int rc = image_probe(p, n, MAX_PIXELS, &info, &e);
    int rc2 = image_decode(p, n, MAX_PIXELS, &px, &e2);
    if (rc) {
        fuzz_check_err(rc, &e);
        FUZZ_CHECK(rc2 == rc && strcmp(e.msg, e2.msg) == 0); /* the header alone refuses it */
    } else {
        FUZZ_CHECK(info.width >= 1 && info.height >= 1 && (int64_t)info.width * info.height <= MAX_PIXELS);
        FUZZ_CHECK(info.orientation >= 1 && info.orientation <= 8 && info.format);
    }
    if (rc2) {
        fuzz_check_err(rc2, &e2);
        FUZZ_CHECK(!px.rgb);
        return 0;
    }
    FUZZ_CHECK(!rc && px.width == info.width && px.height == info.height);
    unsigned sum = 0;
    for (size_t i = 0; i < (size_t)px.width * (size_t)px.height * 3; i++) sum += px.rgb[i];
    FUZZ_CHECK(sum <= 255u * 3 * MAX_PIXELS);
    pixels_free(&px);
    return 0;
}
