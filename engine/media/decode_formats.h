/* What a format is to decode.c: one file and one row of its table each. Big- and little-endian reads for headers. */
#ifndef SPILLWAY_ENGINE_MEDIA_DECODE_FORMATS_H
#define SPILLWAY_ENGINE_MEDIA_DECODE_FORMATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/media/decode.h"

struct image_codec {
    const char *name;
    bool (*match)(const uint8_t *p, size_t n);
    /* Fills stored_width, stored_height and orientation. */
    int (*probe)(const uint8_t *p, size_t n, struct image_info *info, struct err *e);
    /* info is what probe said and has passed the limits. *out is zeroed before and freed by the caller on an error. */
    int (*decode)(const uint8_t *p, size_t n, const struct image_info *info, struct pixels *out, struct err *e);
};
extern const struct image_codec codec_jpeg, codec_png, codec_webp, codec_gif;

/* EXIF's orientation tag (0x0112 of the first directory) from a TIFF block, with or without "Exif\0\0" before it; 1 if
 * there is none. */
int exif_orientation(const uint8_t *p, size_t n);

static inline uint32_t read_le16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}
static inline uint32_t read_le24(const uint8_t *p)
{
    return read_le16(p) | (uint32_t)p[2] << 16;
}
static inline uint32_t read_le32(const uint8_t *p)
{
    return read_le24(p) | (uint32_t)p[3] << 24;
}
static inline uint32_t read_be16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}
static inline uint32_t read_be32(const uint8_t *p)
{
    return read_be16(p) << 16 | read_be16(p + 2);
}

#endif
