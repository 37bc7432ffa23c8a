/* Image arithmetic and prompt text: see image.h. The sizes follow Python's double arithmetic step by step, since one
 * different rounding is another tile grid; tests/parity's tables/image_sizes.json holds 9,000 cases. */
#include "engine/media/image.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_RESIZED_SIDE = 4096 }; /* the reference's MAX_IMAGE_SIZE, applied after the first resize */

int image_settings_check(const struct image_settings *s, struct err *e)
{
    if (s->longest_edge < 1 || s->longest_edge > 16384)
        return err_set(e, ERR_INPUT, "size.longest_edge: %d is outside 1..16384", s->longest_edge);
    if (s->tile_px < 1 || s->tile_px > IMAGE_MAX_TILE_PX)
        return err_set(e, ERR_INPUT, "max_image_size.longest_edge: %d is outside 1..%d", s->tile_px, IMAGE_MAX_TILE_PX);
    if (s->tokens_per_tile < 1 || s->tokens_per_tile > 65536)
        return err_set(e, ERR_INPUT, "tokens per tile: %d is outside 1..65536", s->tokens_per_tile);
    if (s->resample < 1 || s->resample > 3)
        return err_set(e, ERR_UNSUPPORTED, "resample: %d is not 1 (Lanczos), 2 (bilinear) or 3 (bicubic)", s->resample);
    if (!isfinite(s->rescale)) return err_set(e, ERR_INPUT, "rescale_factor is not a finite number");
    for (int c = 0; c < 3; c++) {
        if (!isfinite(s->mean[c])) return err_set(e, ERR_INPUT, "image_mean[%d] is not a finite number", c);
        if (!isfinite(s->std[c]) || s->std[c] == 0) return err_set(e, ERR_INPUT, "image_std[%d] is not a finite number other than 0", c);
    }
    return 0;
}

static int at_least_1(int v)
{
    return v < 1 ? 1 : v;
}

/* The first resize: the longest edge becomes `edge` (smaller pictures grow), the other is made even by adding. */
static void rescale_to_edge(int edge, int *w, int *h)
{
    double aspect = (double)*w / *h;
    if (*w >= *h) {
        *w = edge;
        *h = (int)(edge / aspect);
        *h += *h & 1;
    } else {
        *h = edge;
        *w = (int)(edge * aspect);
        *w += *w & 1;
    }
    *w = at_least_1(*w);
    *h = at_least_1(*h);
}

static void cap_to_side(int side, int *w, int *h)
{
    double aspect = (double)*w / *h;
    if (*w >= *h && *w > side) {
        *w = side;
        *h = at_least_1((int)(side / aspect));
    } else if (*h > *w && *h > side) {
        *h = side;
        *w = at_least_1((int)(side * aspect));
    }
}

static int round_up(int v, int step)
{
    return (v + step - 1) / step * step;
}

/* The second resize: both sides to multiples of the tile, the longer one first. */
static void round_to_tiles(int tile, int w1, int h1, int *w2, int *h2)
{
    double aspect = (double)w1 / h1;
    if (w1 >= h1) {
        *w2 = round_up(w1, tile);
        *h2 = round_up(at_least_1((int)(*w2 / aspect)), tile);
    } else {
        *h2 = round_up(h1, tile);
        *w2 = round_up(at_least_1((int)(*h2 * aspect)), tile);
    }
}

int image_grid_for(const struct image_settings *s, int width, int height, bool detail_low, struct image_grid *g, struct err *e)
{
    *g = (struct image_grid){0};
    int rc = image_settings_check(s, e);
    if (rc) return rc;
    if (width < 1 || height < 1 || width > IMAGE_MAX_SIDE || height > IMAGE_MAX_SIDE)
        return err_set(e, ERR_INPUT, "picture of %d x %d pixels: each side must be 1 to %d", width, height, IMAGE_MAX_SIDE);
    g->width = g->w1 = width;
    g->height = g->h1 = height;
    rescale_to_edge(s->longest_edge, &g->w1, &g->h1);
    cap_to_side(MAX_RESIZED_SIDE, &g->w1, &g->h1);
    int tile = s->tile_px;
    g->n_tiles = 1;
    if (!s->split || detail_low) {
        g->w2 = g->h2 = tile;
        return 0;
    }
    round_to_tiles(tile, g->w1, g->h1, &g->w2, &g->h2);
    if (g->w2 <= tile && g->h2 <= tile) return 0;
    g->rows = g->h2 / tile;
    g->cols = g->w2 / tile;
    g->n_tiles = g->rows * g->cols + 1;
    if (g->n_tiles > IMAGE_MAX_TILES) return err_set(e, ERR_LIMIT, "picture makes %d tiles; the limit is %d", g->n_tiles, IMAGE_MAX_TILES);
    return 0;
}

/* --- prompt expansion --- */

static const char image_mark[] = "<image>";
static const char fake_mark[] = "<fake_token_around_image>";
static const char global_mark[] = "<global-img>";
enum { IMAGE_MARK_BYTES = sizeof image_mark - 1 };

/* Writes into text when it is there, counts in any case: one function measures and fills, so the two cannot drift
 * apart. */
struct writer {
    char *text;
    uint8_t *marks;
    size_t n;
};

static void write_bytes(struct writer *w, const char *p, const uint8_t *marks, size_t n)
{
    if (w->text && n) memcpy(w->text + w->n, p, n);
    if (w->marks && marks && n) memcpy(w->marks + w->n, marks, n); /* the arena's zeros are MARK_TEMPLATE */
    w->n += n;
}

static void write_tile(struct writer *w, const char *tag, int tokens)
{
    write_bytes(w, fake_mark, NULL, sizeof fake_mark - 1);
    write_bytes(w, tag, NULL, strlen(tag));
    for (int i = 0; i < tokens; i++) write_bytes(w, image_mark, NULL, IMAGE_MARK_BYTES);
}

static void write_picture(struct writer *w, const struct image_settings *s, const struct image_grid *g)
{
    for (int r = 0; r < g->rows; r++) {
        for (int c = 0; c < g->cols; c++) {
            char tag[48];
            snprintf(tag, sizeof tag, "<row_%d_col_%d>", r + 1, c + 1);
            write_tile(w, tag, s->tokens_per_tile);
        }
        write_bytes(w, "\n", NULL, 1);
    }
    if (g->rows) write_bytes(w, "\n", NULL, 1);
    write_tile(w, global_mark, s->tokens_per_tile);
    write_bytes(w, fake_mark, NULL, sizeof fake_mark - 1);
}

/* The next "<image>" at or after `from` that no request byte touches; in.n if there is none. */
static size_t next_mark(struct marked_text in, size_t from)
{
    while (from < in.n) {
        const char *hit = memmem(in.text + from, in.n - from, image_mark, IMAGE_MARK_BYTES);
        if (!hit) break;
        size_t at = (size_t)(hit - in.text);
        if (!in.marks || !memchr(in.marks + at, MARK_REQUEST, IMAGE_MARK_BYTES)) return at;
        from = at + 1;
    }
    return in.n;
}

/* Stops past max_bytes, so that a long list of marks costs no more than the text allowed. */
static void expand(struct writer *w, const struct image_settings *s, struct marked_text in, const struct image_grid *grids, size_t n_images,
                   size_t max_bytes)
{
    size_t at = 0;
    for (size_t i = 0; i < n_images && w->n <= max_bytes; i++) {
        size_t mark = next_mark(in, at);
        write_bytes(w, in.text + at, in.marks ? in.marks + at : NULL, mark - at);
        write_picture(w, s, &grids[i]);
        at = mark + IMAGE_MARK_BYTES;
    }
    write_bytes(w, in.text + at, in.marks ? in.marks + at : NULL, in.n - at);
}

int image_expand_prompt(const struct image_settings *s, struct marked_text in, const struct image_grid *grids, size_t n_images,
                        size_t max_bytes, struct arena *arena, struct marked_text *out, struct err *e)
{
    *out = (struct marked_text){0};
    size_t n_marks = 0;
    for (size_t at = next_mark(in, 0); at < in.n; at = next_mark(in, at + IMAGE_MARK_BYTES)) n_marks++;
    if (n_marks != n_images)
        return err_set(e, ERR_INPUT, "the prompt has %zu places for pictures and the request has %zu pictures", n_marks, n_images);
    struct writer w = {0};
    expand(&w, s, in, grids, n_images, max_bytes);
    if (w.n > max_bytes) return err_set(e, ERR_LIMIT, "the prompt with its pictures is longer than %zu bytes", max_bytes);
    size_t n = w.n;
    w = (struct writer){.text = arena_alloc(arena, n + 1)};
    if (w.text && in.marks) w.marks = arena_alloc(arena, n + 1);
    if (!w.text || (in.marks && !w.marks)) return err_set(e, ERR_MEMORY, "no memory for a prompt of %zu bytes", n);
    expand(&w, s, in, grids, n_images, max_bytes);
    CHECK(w.n == n);
    *out = (struct marked_text){.text = w.text, .marks = w.marks, .n = n};
    return 0;
}

void image_normalise(const struct image_settings *s, const uint8_t *tiles, size_t n_tiles, float *out)
{
    /* A byte has 256 values, so each channel is a table. The reference scales in double, rounds to float and goes on in
     * float. */
    float table[3][256];
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++) table[c][v] = ((float)(v * s->rescale) - s->mean[c]) / s->std[c];
    size_t plane = (size_t)s->tile_px * (size_t)s->tile_px;
    for (size_t t = 0; t < n_tiles; t++)
        for (int c = 0; c < 3; c++, tiles += plane, out += plane)
            for (size_t i = 0; i < plane; i++) out[i] = table[c][tiles[i]];
}
