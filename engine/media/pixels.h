/* Pixels: an 8-bit RGB picture in memory, mapped rather than malloc'ed, so that closing a large one gives its memory
 * back to the system at once: the media process stays small. Row-major, 3 bytes a pixel, no padding between rows. */
#ifndef SPILLWAY_ENGINE_MEDIA_PIXELS_H
#define SPILLWAY_ENGINE_MEDIA_PIXELS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { PIXELS_SLACK_BYTES = 64 }; /* readable bytes after the last pixel, so that vector loads need no special end */

struct pixels {
    uint8_t *rgb; /* (height, width, 3) */
    int width, height;
    size_t map_bytes;
};

/* Zeroed memory from the system. Returns NULL when there is none; n_bytes > 0. */
void *pixels_map(size_t n_bytes);
void pixels_unmap(void *p, size_t n_bytes);

/* channels 3, or 4 for a decoder that makes alpha first and then squeezes it out (pixels_flatten). */
MUST_USE int pixels_alloc(struct pixels *p, int width, int height, int channels, struct err *e);
void pixels_free(struct pixels *p); /* accepts a zeroed struct */

/* n RGBA pixels composited on white to RGB, bit for bit as Pillow's alpha_composite. to may be from (it shrinks). */
void pixels_flatten(const uint8_t *from, size_t n, uint8_t *to);
/* Turns the picture upright. orientation: EXIF's 1..8; anything else is taken as 1. */
MUST_USE int pixels_orient(struct pixels *p, int orientation, struct err *e);

#endif
