/* Resize: Pillow's (<= 12) separable resampling of 8-bit RGB, bit for bit: horizontal pass first, rounded to 8 bits,
 * then the vertical one; a pass whose size does not change is left out. Weights are 22-bit fixed point and sums are
 * int32, so the order of adding cannot matter and the vector paths give the plain path's bits (test_image_resize).
 * Source: Pillow's Resample.c, its arithmetic only. */
#ifndef SPILLWAY_ENGINE_MEDIA_RESIZE_H
#define SPILLWAY_ENGINE_MEDIA_RESIZE_H

#include "base/err.h"
#include "engine/media/pixels.h"

enum resize_filter { RESIZE_LANCZOS = 1, RESIZE_BILINEAR = 2, RESIZE_BICUBIC = 3 }; /* Pillow's numbers */
enum resize_path { RESIZE_PLAIN, RESIZE_AVX2, RESIZE_AVX512, RESIZE_PATHS };

/* The fastest path this machine has. */
enum resize_path resize_best_path(void);
/* Always the picture asked for, also when nothing changes (then a copy). *to is the caller's to free; from is not
 * changed. path must be one this machine has. */
MUST_USE int resize_pixels(const struct pixels *from, int width, int height, enum resize_filter filter, enum resize_path path,
                           struct pixels *to, struct err *e);

#endif
