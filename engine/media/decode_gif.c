/* GIF through giflib: the first frame on its screen, as Pillow shows it: what the frame does not cover is transparent
 * if the frame has a transparent colour and colour 0 otherwise; a frame that sticks out makes the screen larger;
 * colours past the palette's end are greys. */
#include <stdlib.h>
#include <string.h>

#include <gif_lib.h>

#include "engine/media/decode_formats.h"
#include "engine/media/image.h"

struct gif_reader {
    const uint8_t *p;
    size_t n, at;
    GifFileType *gif;
    int transparent; /* index, or -1 */
    int n_blocks;    /* of extensions */
};

enum { MAX_BLOCKS = 20000 }; /* before the first frame: a file of blocks of a byte or two is made to cost time */

static bool gif_match(const uint8_t *p, size_t n)
{
    return n >= 6 && (!memcmp(p, "GIF87a", 6) || !memcmp(p, "GIF89a", 6));
}

static int on_read(GifFileType *gif, GifByteType *to, int n)
{
    struct gif_reader *r = gif->UserData;
    size_t take = n < 0 ? 0 : (size_t)n;
    if (take > r->n - r->at) take = r->n - r->at; /* a short count is the end to giflib */
    memcpy(to, r->p + r->at, take);
    r->at += take;
    return (int)take;
}

static int fail(const struct gif_reader *r, const char *what, struct err *e)
{
    if (r->at >= r->n) return err_set(e, ERR_INPUT, "GIF: ends too early, at byte %zu", r->n);
    return err_set(e, ERR_INPUT, "GIF: %s near byte %zu", what, r->at);
}

static int read_extension(struct gif_reader *r, struct err *e)
{
    int code;
    GifByteType *block; /* length byte, then the bytes */
    if (DGifGetExtension(r->gif, &code, &block) != GIF_OK) return fail(r, "broken extension", e);
    r->n_blocks++;
    if (block && code == GRAPHICS_EXT_FUNC_CODE && block[0] == 4) r->transparent = block[1] & 1 ? block[4] : -1;
    for (; block; r->n_blocks++)
        if (DGifGetExtensionNext(r->gif, &block) != GIF_OK) return fail(r, "broken extension", e);
    if (r->n_blocks > MAX_BLOCKS) return err_set(e, ERR_LIMIT, "GIF: more than %d extension blocks before the first frame", MAX_BLOCKS);
    return 0;
}

/* Opens and reads up to the first frame's data. On an error too, gif_close must follow. */
static int gif_open(struct gif_reader *r, struct image_info *info, struct err *e)
{
    int code = 0;
    r->transparent = -1;
    r->gif = DGifOpen(r, on_read, &code);
    if (!r->gif) return code == D_GIF_ERR_NOT_ENOUGH_MEM ? err_set(e, ERR_MEMORY, "GIF: no memory") : fail(r, "broken header", e);
    for (;;) {
        GifRecordType type;
        if (DGifGetRecordType(r->gif, &type) != GIF_OK) return fail(r, "broken block", e);
        if (type == TERMINATE_RECORD_TYPE) return err_set(e, ERR_INPUT, "GIF: no frame before its end at byte %zu", r->at);
        if (type == IMAGE_DESC_RECORD_TYPE) break;
        int rc = type == EXTENSION_RECORD_TYPE ? read_extension(r, e) : 0;
        if (rc) return rc;
    }
    if (DGifGetImageDesc(r->gif) != GIF_OK) return fail(r, "broken frame header", e);
    const GifImageDesc *f = &r->gif->Image;
    if (f->Width < 1 || f->Height < 1)
        return err_set(e, ERR_INPUT, "GIF: a frame of %d x %d pixels near byte %zu", f->Width, f->Height, r->at);
    int right = f->Left + f->Width, bottom = f->Top + f->Height;
    info->stored_width = r->gif->SWidth > right ? r->gif->SWidth : right;
    info->stored_height = r->gif->SHeight > bottom ? r->gif->SHeight : bottom;
    return 0;
}

static void gif_close(struct gif_reader *r)
{
    if (r->gif) DGifCloseFile(r->gif, NULL);
    r->gif = NULL;
}

static int gif_probe(const uint8_t *p, size_t n, struct image_info *info, struct err *e)
{
    struct gif_reader r = {.p = p, .n = n};
    int rc = gif_open(&r, info, e);
    gif_close(&r);
    return rc;
}

static void make_colours(const struct gif_reader *r, uint8_t colours[256][3])
{
    const ColorMapObject *map = r->gif->Image.ColorMap ? r->gif->Image.ColorMap : r->gif->SColorMap;
    for (int i = 0; i < 256; i++) {
        memset(colours[i], i, 3);
        if (map && i < map->ColorCount) {
            colours[i][0] = map->Colors[i].Red;
            colours[i][1] = map->Colors[i].Green;
            colours[i][2] = map->Colors[i].Blue;
        }
        if (i == r->transparent) memset(colours[i], 255, 3);
    }
}

/* What the frame does not cover. After the frame, so that a large screen costs nothing if the frame turns out to be broken. */
static void paint_ground(const GifImageDesc *f, struct pixels *out, const uint8_t colour[3])
{
    for (int y = 0; y < out->height; y++) {
        uint8_t *row = out->rgb + (size_t)y * (size_t)out->width * 3;
        bool covered = y >= f->Top && y < f->Top + f->Height;
        for (int x = 0; x < out->width; x++) {
            if (covered && x == f->Left) x += f->Width;
            if (x < out->width) memcpy(row + 3 * (size_t)x, colour, 3);
        }
    }
}

static int read_rows(struct gif_reader *r, struct pixels *out, uint8_t *line, struct err *e)
{
    static const int first[] = {0, 4, 2, 1}, step[] = {8, 8, 4, 2};
    const GifImageDesc *f = &r->gif->Image;
    uint8_t colours[256][3];
    make_colours(r, colours);
    for (int pass = 0; pass < (f->Interlace ? 4 : 1); pass++) {
        for (int y = f->Interlace ? first[pass] : 0; y < f->Height; y += f->Interlace ? step[pass] : 1) {
            if (DGifGetLine(r->gif, line, f->Width) != GIF_OK) return fail(r, "broken picture data", e);
            uint8_t *to = out->rgb + ((size_t)(f->Top + y) * (size_t)out->width + (size_t)f->Left) * 3;
            for (int x = 0; x < f->Width; x++, to += 3) memcpy(to, colours[line[x]], 3);
        }
    }
    paint_ground(f, out, colours[r->transparent < 0 ? 0 : r->transparent]);
    return 0;
}

static int gif_decode(const uint8_t *p, size_t n, const struct image_info *info, struct pixels *out, struct err *e)
{
    struct gif_reader r = {.p = p, .n = n};
    struct image_info again = *info;
    uint8_t *line = malloc(IMAGE_MAX_SIDE);
    int rc = line ? gif_open(&r, &again, e) : err_set(e, ERR_MEMORY, "GIF: no memory");
    if (!rc) rc = pixels_alloc(out, again.stored_width, again.stored_height, 3, e);
    if (!rc) rc = read_rows(&r, out, line, e);
    gif_close(&r);
    free(line);
    return rc;
}

const struct image_codec codec_gif = {.name = "GIF", .match = gif_match, .probe = gif_probe, .decode = gif_decode};
