/* data: URLs: the verdict on the base64 part and the bytes equal those of a slow decoder written from RFC 4648's table, and nothing larger than the
 * limit is ever decoded (T37). */
#include <string.h>
#include <strings.h>

#include "engine/media/data_url.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_BYTES = 600 };

static const char *const words[] = {"data:",
                                    "image/",
                                    "png",
                                    "jpeg",
                                    ";base64",
                                    ",",
                                    "data:image/png;base64,",
                                    "DATA:IMAGE/GIF;BASE64,",
                                    "=",
                                    "==",
                                    "AAAA",
                                    "/+/+",
                                    "AA==",
                                    "AAA=",
                                    "AB==",
                                    "\n",
                                    " ",
                                    ";charset=utf-8",
                                    "\t",
                                    "http:",
                                    "https:",
                                    "file://",
                                    "\xC2\xA0",
                                    "-_-_",
                                    "A",
                                    "%2B",
                                    "AAAAAAAAAAAAAAAA",
                                    "////////////////",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return seed & 1 ? fuzz_mutate_words(p, n, max, seed, words) : LLVMFuzzerMutate(p, n, max);
}

/* Bit by bit. False: not base64 with its padding and without bits left over. */
static bool decode_slowly(const char *p, size_t n, unsigned char *out, size_t *n_out)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t pad = 0;
    while (pad < 2 && pad < n && p[n - 1 - pad] == '=') pad++;
    if (n == 0 || n % 4) return false;
    unsigned bits = 0, value = 0;
    *n_out = 0;
    for (size_t i = 0; i < n - pad; i++) {
        const char *k = p[i] ? strchr(alphabet, p[i]) : NULL;
        if (!k) return false;
        for (int b = 5; b >= 0; b--) {
            value = value << 1 | ((unsigned)(k - alphabet) >> b & 1);
            if (++bits < 8) continue;
            out[(*n_out)++] = (unsigned char)value;
            bits = value = 0;
        }
    }
    return value == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    const char *url = (const char *)p;
    struct buf out;
    struct err e = {0};
    buf_init(&out, 4096);
    int rc = data_url_decode(url, n, MAX_BYTES, &out, &e);
    const char *comma = n > 5 && !strncasecmp(url, "data:", 5) ? memchr(url, ',', n < 256 ? n : 256) : NULL;
    bool header = comma && comma - url >= 18 && !strncasecmp(url + 5, "image/", 6) && !strncasecmp(comma - 7, ";base64", 7);
    unsigned char want[1 << 14];
    size_t n_want = 0, n_text = comma ? n - (size_t)(comma + 1 - url) : 0;
    if (n_text / 4 * 3 + 3 > sizeof want) n_text = 0, header = false;
    bool base64 = header && decode_slowly(comma + 1, n_text, want, &n_want);
    if (rc) {
        fuzz_check_err(rc, &e);
        FUZZ_CHECK(out.len == 0);
        FUZZ_CHECK(!base64 || n_want > MAX_BYTES);
    } else {
        FUZZ_CHECK(base64 && out.len <= MAX_BYTES && out.len == n_want && memcmp(out.data, want, n_want) == 0);
        FUZZ_CHECK(out.data[out.len] == '\0');
    }
    buf_free(&out);
    return 0;
}
