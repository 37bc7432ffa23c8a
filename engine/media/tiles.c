/* Tiles: see tiles.h. */
#include "engine/media/tiles.h"

#include "engine/media/resize.h"

size_t tiles_bytes(const struct image_settings *s, const struct image_grid *g)
{
    return (size_t)g->n_tiles * 3 * (size_t)s->tile_px * (size_t)s->tile_px;
}

/* Puts the size x size square at (x0, y0) into out as three planes. */
static void cut_planes(const struct pixels *p, int x0, int y0, int size, uint8_t *out)
{
    size_t plane = (size_t)size * (size_t)size;
    for (int y = 0; y < size; y++) {
        const uint8_t *from = p->rgb + ((size_t)(y0 + y) * (size_t)p->width + (size_t)x0) * 3;
        uint8_t *r = out + (size_t)y * (size_t)size, *g = r + plane, *b = g + plane;
        for (int x = 0; x < size; x++, from += 3) {
            r[x] = from[0];
            g[x] = from[1];
            b[x] = from[2];
        }
    }
}

/* Replaces p by its resized self; nothing to do when the size is right. */
static int resize_in_place(const struct image_settings *s, int width, int height, struct pixels *p, struct err *e)
{
    if (p->width == width && p->height == height) return 0;
    struct pixels q;
    int rc = resize_pixels(p, width, height, (enum resize_filter)s->resample, resize_best_path(), &q, e);
    pixels_free(p);
    *p = q;
    return rc;
}

int tiles_make(const struct image_settings *s, const struct image_grid *g, struct pixels *p, uint8_t *out, struct err *e)
{
    CHECK(p->width == g->width && p->height == g->height);
    int tile = s->tile_px;
    size_t tile_bytes = 3 * (size_t)tile * (size_t)tile;
    int rc = resize_in_place(s, g->w1, g->h1, p, e);
    if (!rc) rc = resize_in_place(s, g->w2, g->h2, p, e);
    if (rc) goto done;
    for (int r = 0; r < g->rows; r++)
        for (int c = 0; c < g->cols; c++, out += tile_bytes) cut_planes(p, c * tile, r * tile, tile, out);
    rc = resize_in_place(s, tile, tile, p, e);
    if (!rc) cut_planes(p, 0, 0, tile, out);
done:
    pixels_free(p);
    return rc;
}
