/* Image preprocessing of Idefics3/SmolVLM: sizes, tile grid, prompt expansion. Pure arithmetic and text: no pixel is
 * touched here, so the gateway may use it. Decoding and resizing: decode.h, resize.h, which only the media process and
 * the command line's `logits`/`generate` call. Source: transformers 5.23 image_processing_idefics3 / smolvlm,
 * processing_smolvlm. */
#ifndef SPILLWAY_ENGINE_MEDIA_IMAGE_H
#define SPILLWAY_ENGINE_MEDIA_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "engine/text/marked_text.h"

/* How a model wants its pictures; from preprocessor_config.json and config.json (image_settings_read). */
struct image_settings {
    int longest_edge;      /* size.longest_edge: 2048, 1536 */
    int tile_px;           /* max_image_size.longest_edge: 512, 384 */
    int tokens_per_tile;   /* (image_size / patch_size / scale_factor)^2: 64, 81 */
    bool split;            /* do_image_splitting */
    int resample;          /* 1 LANCZOS, 2 bilinear, 3 bicubic (Pillow's numbers) */
    float mean[3], std[3]; /* image_mean, image_std */
    double rescale;        /* rescale_factor, 1/255: the reference multiplies in double and rounds once */
};
enum { IMAGE_MAX_SIDE = 65535, IMAGE_MAX_TILE_PX = 1024, IMAGE_MAX_TILES = 65 };

/* The settings are in the ranges that the rest relies on (sizes, filter, finite numbers, std not 0); names the field
 * otherwise. For settings that came from a file or over a socket. */
MUST_USE int image_settings_check(const struct image_settings *s, struct err *e);
/* Reads preprocessor_config.json (processor_config.json's image_processor where only that is there) and config.json of
 * a model folder. */
MUST_USE int image_settings_read(struct image_settings *s, const char *dir, struct err *e);

/* What becomes of a picture of w x h pixels (already turned upright by its EXIF orientation). */
struct image_grid {
    int width, height; /* of the upright source, pixels */
    int w1, h1;        /* after the first resize (longest edge) */
    int w2, h2;        /* after the second (multiples of tile_px, or one tile) */
    int rows, cols;    /* 0, 0: one tile, no split */
    int n_tiles;       /* rows * cols + 1, or 1 */
};
/* detail_low: as do_image_splitting false. Errors: -ERR_INPUT for sizes outside 1..65535, -ERR_LIMIT for more than
 * IMAGE_MAX_TILES tiles. */
MUST_USE int image_grid_for(const struct image_settings *s, int width, int height, bool detail_low, struct image_grid *g, struct err *e);

/* Replaces each "<image>" whose bytes are all template bytes by the i-th picture's expansion (template bytes); request
 * bytes that spell
 * "<image>" stay as they are. The number of such marks must equal n_images: -ERR_INPUT with both numbers otherwise.
 * *out lives in the arena. */
MUST_USE int image_expand_prompt(const struct image_settings *s, struct marked_text in, const struct image_grid *grids, size_t n_images,
                                 size_t max_bytes, struct arena *arena, struct marked_text *out, struct err *e);

/* One tile's pixels to what the vision tower takes: out = ((float)(x * rescale) - mean) / std. tiles uint8 and out
 * float32, both (n_tiles, 3, tile_px, tile_px). Bit for bit as the reference. The worker's step: tiles travel as uint8.
 */
void image_normalise(const struct image_settings *s, const uint8_t *tiles, size_t n_tiles, float *out);

#endif
