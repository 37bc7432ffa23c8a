/* PNG through libpng: palette, grey of 1 to 16 bits (the high byte), alpha, tRNS, Adam7. Headers are walked here,
 * without the library. libpng reports errors by a call that must not return: it jumps back to png_run, whose state
 * lives in struct png_reader. Text and profile chunks are skipped unread, so that they cannot unpack into large memory.
 */
#include <setjmp.h>
#include <string.h>

#include <png.h>

#include "engine/media/decode_formats.h"
#include "engine/media/image.h"

enum {
    SIGNATURE_BYTES = 8,
    CHUNK_BYTES = 12,  /* length, name, checksum */
    MAX_CHUNKS = 50000 /* a file of empty chunks is made to cost time */
};

static bool png_match(const uint8_t *p, size_t n)
{
    return n >= SIGNATURE_BYTES && !memcmp(p, "\x89PNG\r\n\x1a\n", SIGNATURE_BYTES);
}

static int png_probe(const uint8_t *p, size_t n, struct image_info *info, struct err *e)
{
    size_t at = SIGNATURE_BYTES;
    if (n < at + CHUNK_BYTES + 13 || memcmp(p + at, "\0\0\0\x0dIHDR", 8))
        return err_set(e, ERR_INPUT, "PNG: no header chunk at byte %zu", at);
    uint32_t width = read_be32(p + at + 8), height = read_be32(p + at + 12);
    if (width > INT32_MAX || height > INT32_MAX) return err_set(e, ERR_INPUT, "PNG: impossible size in the header at byte %zu", at);
    info->stored_width = (int)width;
    info->stored_height = (int)height;
    /* EXIF may stand anywhere. A broken tail is the decoder's to report. */
    bool seen_exif = false;
    for (int n_chunks = 0; n - at >= CHUNK_BYTES; n_chunks++) {
        size_t length = read_be32(p + at);
        if (length > n - at - CHUNK_BYTES) break;
        if (n_chunks == MAX_CHUNKS) return err_set(e, ERR_LIMIT, "PNG: more than %d chunks", MAX_CHUNKS);
        if (!seen_exif && !memcmp(p + at + 4, "eXIf", 4)) {
            info->orientation = exif_orientation(p + at + 8, length);
            seen_exif = true;
        }
        at += length + CHUNK_BYTES;
    }
    return 0;
}

/* --- decoding --- */

struct png_reader {
    png_structp png;
    png_infop info;
    jmp_buf back;
    const uint8_t *p;
    size_t n, at;
    struct err *e;
    int rc; /* set before a jump */
    int channels;
};

static _Noreturn void fail(struct png_reader *r, enum err_code code, const char *what)
{
    r->rc = err_set(r->e, code, "PNG: %s near byte %zu", what, r->at);
    longjmp(r->back, 1);
}

static _Noreturn void on_error(png_structp png, png_const_charp text)
{
    struct png_reader *r = png_get_error_ptr(png);
    if (strstr(text, "CRC")) fail(r, ERR_INPUT, "a checksum does not match");
    if (strstr(text, "memory")) fail(r, ERR_MEMORY, "no memory");
    if (strstr(text, "Not enough")) fail(r, ERR_INPUT, "too little picture data");
    fail(r, ERR_INPUT, "broken data");
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

static void on_read(png_structp png, png_bytep to, size_t n)
{
    struct png_reader *r = png_get_io_ptr(png);
    if (n > r->n - r->at) {
        r->at = r->n;
        fail(r, ERR_INPUT, "ends too early,");
    }
    memcpy(to, r->p + r->at, n);
    r->at += n;
}

static void set_up(struct png_reader *r)
{
    static const png_byte skipped[] = "iCCP\0zTXt\0iTXt\0tEXt\0sPLT\0eXIf\0hIST\0pCAL\0sCAL";
    png_set_read_fn(r->png, r, on_read);
    png_set_user_limits(r->png, IMAGE_MAX_SIDE, IMAGE_MAX_SIDE);
    png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_NEVER, skipped, (int)(sizeof skipped / 5));
    png_read_info(r->png, r->info);
    png_set_expand(r->png); /* palettes and grey to 8 bits, tRNS to alpha */
    png_set_strip_16(r->png);
    png_set_gray_to_rgb(r->png);
}

/* The part that libpng may leave by a jump. */
static int png_run(struct png_reader *r, const struct image_info *info, struct pixels *out)
{
    if (setjmp(r->back)) return r->rc;
    r->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, r, on_error, on_warning);
    r->info = r->png ? png_create_info_struct(r->png) : NULL;
    if (!r->info) return err_set(r->e, ERR_MEMORY, "PNG: no memory");
    set_up(r);
    int n_passes = png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
    r->channels = png_get_channels(r->png, r->info);
    if (png_get_image_width(r->png, r->info) != (png_uint_32)info->stored_width ||
        png_get_image_height(r->png, r->info) != (png_uint_32)info->stored_height || png_get_bit_depth(r->png, r->info) != 8 ||
        (r->channels != 3 && r->channels != 4))
        fail(r, ERR_INPUT, "contradicting headers");
    int rc = pixels_alloc(out, info->stored_width, info->stored_height, r->channels, r->e);
    if (rc) return rc;
    size_t row_bytes = (size_t)out->width * (size_t)r->channels;
    for (int pass = 0; pass < n_passes; pass++)
        for (int y = 0; y < out->height; y++) png_read_row(r->png, out->rgb + (size_t)y * row_bytes, NULL);
    png_read_end(r->png, NULL);
    return 0;
}

static int png_decode(const uint8_t *p, size_t n, const struct image_info *info, struct pixels *out, struct err *e)
{
    struct png_reader r = {.p = p, .n = n, .e = e};
    int rc = png_run(&r, info, out);
    png_destroy_read_struct(&r.png, &r.info, NULL);
    if (!rc && r.channels == 4) pixels_flatten(out->rgb, (size_t)out->width * (size_t)out->height, out->rgb);
    return rc;
}

const struct image_codec codec_png = {.name = "PNG", .match = png_match, .probe = png_probe, .decode = png_decode};
