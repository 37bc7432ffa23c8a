/* Tiles: what the vision tower is fed. From an upright RGB picture to uint8 (n_tiles, 3, tile_px, tile_px), by the two
 * resizes and the cut of the grid (image.h); the global view is made from the second resize, not from the picture. The
 * float conversion is image_normalise, the worker's step: tiles travel as bytes. */
#ifndef SPILLWAY_ENGINE_MEDIA_TILES_H
#define SPILLWAY_ENGINE_MEDIA_TILES_H

#include "base/err.h"
#include "engine/media/image.h"
#include "engine/media/pixels.h"

/* n_tiles * 3 * tile_px^2; g from image_grid_for with these settings. */
size_t tiles_bytes(const struct image_settings *s, const struct image_grid *g);
/* Consumes p (freed as soon as it is not needed, also on an error). out holds tiles_bytes. */
MUST_USE int tiles_make(const struct image_settings *s, const struct image_grid *g, struct pixels *p, uint8_t *out, struct err *e);

#endif
