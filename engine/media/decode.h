/* Decode: a picture file's bytes to upright 8-bit RGB. JPEG (also grey, CMYK, YCCK, progressive), PNG (all kinds), WebP
 * (its first frame) and GIF (its first frame); told apart by their first bytes, never by a name or a media type. The
 * bytes are hostile: sizes are read from the header and judged before anything is allocated, a broken file is an error
 * that says what is wrong and near which byte, and text of the libraries never gets into it. Memory: at most about 12
 * bytes a pixel while decoding (progressive JPEG), 3 afterwards. */
#ifndef SPILLWAY_ENGINE_MEDIA_DECODE_H
#define SPILLWAY_ENGINE_MEDIA_DECODE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/media/pixels.h"

struct image_info {
    const char *format;              /* "JPEG", "PNG", "WebP", "GIF"; static */
    int stored_width, stored_height; /* as in the file */
    int orientation;                 /* EXIF's 1..8; 1 where there is none */
    int width, height;               /* upright */
};

/* Reads headers only: time and memory do not depend on the number of pixels. Errors: -ERR_UNSUPPORTED: not one of the
 * formats, or a kind of it that is not read; -ERR_INPUT: broken; -ERR_LIMIT: more than max_pixels, or a side over
 * IMAGE_MAX_SIDE. */
MUST_USE int image_probe(const uint8_t *p, size_t n, int64_t max_pixels, struct image_info *info, struct err *e);
/* Probes, decodes, composites transparency on white, turns upright. Errors as image_probe, and -ERR_MEMORY. */
MUST_USE int image_decode(const uint8_t *p, size_t n, int64_t max_pixels, struct pixels *out, struct err *e);

#endif
