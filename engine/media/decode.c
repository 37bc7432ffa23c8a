/* Decode: see decode.h. The formats are rows of a table; this file has what they share: telling them apart, limits,
 * EXIF. */
#include "engine/media/decode.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/media/decode_formats.h"
#include "engine/media/image.h"

static const struct image_codec *const codecs[] = {&codec_jpeg, &codec_png, &codec_webp, &codec_gif};

int exif_orientation(const uint8_t *p, size_t n)
{
    enum { TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3, TYPE_LONG = 4, ENTRY_BYTES = 12 };
    if (n >= 6 && !memcmp(p, "Exif\0\0", 6)) {
        p += 6;
        n -= 6;
    }
    if (n < 8) return 1;
    bool big = p[0] == 'M';
    if (p[0] != p[1] || (p[0] != 'M' && p[0] != 'I')) return 1;
    uint32_t (*read16)(const uint8_t *) = big ? read_be16 : read_le16;
    uint32_t (*read32)(const uint8_t *) = big ? read_be32 : read_le32;
    size_t at = read32(p + 4);
    if (read16(p + 2) != 42 || at > n || n - at < 2) return 1;
    size_t n_entries = read16(p + at);
    at += 2;
    for (size_t i = 0; i < n_entries && n - at >= ENTRY_BYTES; i++, at += ENTRY_BYTES) {
        const uint8_t *entry = p + at;
        if (read16(entry) != TAG_ORIENTATION) continue;
        uint32_t type = read16(entry + 2);
        uint32_t value = type == TYPE_SHORT ? read16(entry + 8) : type == TYPE_LONG ? read32(entry + 8) : 1;
        return value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}

static const struct image_codec *codec_find(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < sizeof codecs / sizeof *codecs; i++)
        if (codecs[i]->match(p, n)) return codecs[i];
    return NULL;
}

static int probe(const struct image_codec *codec, const uint8_t *p, size_t n, int64_t max_pixels, struct image_info *info, struct err *e)
{
    info->orientation = 1;
    info->format = codec->name;
    int rc = codec->probe(p, n, info, e);
    if (rc) return rc;
    int w = info->stored_width, h = info->stored_height;
    if (w < 1 || h < 1) return err_set(e, ERR_INPUT, "%s: a picture of %d x %d pixels", codec->name, w, h);
    if (w > IMAGE_MAX_SIDE || h > IMAGE_MAX_SIDE)
        return err_set(e, ERR_LIMIT, "%s: %d x %d pixels; no side may be over %d", codec->name, w, h, IMAGE_MAX_SIDE);
    if ((int64_t)w * h > max_pixels)
        return err_set(e, ERR_LIMIT, "%s: %d x %d pixels; the limit is %" PRId64 " pixels", codec->name, w, h, max_pixels);
    bool swap = info->orientation >= 5;
    info->width = swap ? h : w;
    info->height = swap ? w : h;
    return 0;
}

/* giflib and libwebp call a picture broken when it is memory that they lack. malloc tells by errno, which the caller has cleared. */
static int blame(int rc, struct err *e)
{
    return rc == -ERR_INPUT && errno == ENOMEM ? err_set(e, ERR_MEMORY, "no memory to read the picture") : rc;
}

int image_probe(const uint8_t *p, size_t n, int64_t max_pixels, struct image_info *info, struct err *e)
{
    *info = (struct image_info){0};
    if (n == 0) return err_set(e, ERR_INPUT, "the picture is empty");
    const struct image_codec *codec = codec_find(p, n);
    if (!codec) return err_set(e, ERR_UNSUPPORTED, "not a picture that can be read: JPEG, PNG, WebP and GIF are");
    errno = 0;
    return blame(probe(codec, p, n, max_pixels, info, e), e);
}

int image_decode(const uint8_t *p, size_t n, int64_t max_pixels, struct pixels *out, struct err *e)
{
    *out = (struct pixels){0};
    struct image_info info;
    int rc = image_probe(p, n, max_pixels, &info, e);
    if (rc) return rc;
    errno = 0;
    rc = blame(codec_find(p, n)->decode(p, n, &info, out, e), e);
    if (!rc) rc = pixels_orient(out, info.orientation, e);
    if (rc) pixels_free(out);
    return rc;
}
