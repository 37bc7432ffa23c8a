/* JPEG through libjpeg-turbo with the settings of Pillow: accurate integer DCT, fancy upsampling, and for four colours
 * Adobe's inverted CMYK turned to RGB without a profile. Headers are walked here, without the library. libjpeg reports
 * errors by a call that must not return: it jumps back to jpeg_run, whose state lives in struct jpeg_reader, outside
 * the jump's reach. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "engine/media/decode_formats.h"

enum {
    MAX_SCANS = 100,     /* a progressive file repeats the whole picture once a scan: ten usually, hundreds are an attack */
    MAX_SEGMENTS = 50000 /* before the frame header */
};

static bool jpeg_match(const uint8_t *p, size_t n)
{
    return n >= 3 && p[0] == 0xFF && p[1] == 0xD8 && p[2] == 0xFF;
}

/* Baseline, extended and progressive, all Huffman coded. Arithmetic coding is refused, as browsers do: it lets a few bytes stand for any
 * number of pixels. */
static bool is_read(unsigned marker)
{
    return marker >= 0xC0 && marker <= 0xC2;
}

static bool is_frame_header(unsigned marker)
{
    return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
}

static int read_frame_header(const uint8_t *p, size_t n, size_t at, struct image_info *info, struct err *e)
{
    if (n < 6) return err_set(e, ERR_INPUT, "JPEG: frame header at byte %zu is too short", at);
    unsigned bits = p[0], colours = p[5];
    info->stored_height = (int)read_be16(p + 1);
    info->stored_width = (int)read_be16(p + 3);
    if (bits != 8) return err_set(e, ERR_UNSUPPORTED, "JPEG: %u bits a colour; 8 are read", bits);
    if (colours != 1 && colours != 3 && colours != 4) return err_set(e, ERR_UNSUPPORTED, "JPEG: %u colours; 1, 3 and 4 are read", colours);
    return 0;
}

/* Walks the marker segments up to the frame header; EXIF comes before it. */
static int jpeg_probe(const uint8_t *p, size_t n, struct image_info *info, struct err *e)
{
    bool seen_exif = false;
    int n_segments = 0;
    size_t at = 2;
    for (;;) {
        while (at < n && p[at] != 0xFF) at++; /* decoders skip stray bytes between segments, and so do we */
        while (at < n && p[at] == 0xFF) at++;
        if (at >= n) return err_set(e, ERR_INPUT, "JPEG: ends at byte %zu before its frame header", n);
        unsigned marker = p[at++];
        if (marker == 0 || marker == 1 || (marker >= 0xD0 && marker <= 0xD8)) continue; /* they have no length */
        if (marker == 0xD9 || marker == 0xDA) return err_set(e, ERR_INPUT, "JPEG: no frame header before byte %zu", at);
        if (n - at < 2) return err_set(e, ERR_INPUT, "JPEG: ends at byte %zu before its frame header", n);
        size_t length = read_be16(p + at);
        if (length < 2) return err_set(e, ERR_INPUT, "JPEG: segment of length %zu at byte %zu", length, at);
        if (length > n - at) return err_set(e, ERR_INPUT, "JPEG: ends at byte %zu inside the segment at byte %zu", n, at);
        const uint8_t *body = p + at + 2;
        size_t n_body = length - 2;
        if (is_frame_header(marker) && !is_read(marker)) return err_set(e, ERR_UNSUPPORTED, "JPEG: a kind of compression that is not read");
        if (is_frame_header(marker)) return read_frame_header(body, n_body, at, info, e);
        if (++n_segments > MAX_SEGMENTS) return err_set(e, ERR_LIMIT, "JPEG: more than %d segments before its frame header", MAX_SEGMENTS);
        if (marker == 0xE1 && !seen_exif && n_body >= 6 && !memcmp(body, "Exif\0\0", 6)) {
            info->orientation = exif_orientation(body, n_body);
            seen_exif = true;
        }
        at += length;
    }
}

/* --- decoding --- */

struct jpeg_reader {
    struct jpeg_decompress_struct c;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf back;
    const uint8_t *start;
    struct err *e;
    int rc; /* set before a jump */
};

static struct jpeg_reader *reader_of(j_common_ptr c)
{
    return c->client_data;
}

static _Noreturn void fail(struct jpeg_reader *r, enum err_code code, const char *what)
{
    r->rc = err_set(r->e, code, "JPEG: %s near byte %zu", what, (size_t)(r->source.next_input_byte - r->start));
    longjmp(r->back, 1);
}

static void on_error(j_common_ptr c)
{
    struct jpeg_reader *r = reader_of(c);
    switch (r->errors.msg_code) {
    case JERR_OUT_OF_MEMORY:
        fail(r, ERR_MEMORY, "no memory");
    case JERR_NO_HUFF_TABLE:
        fail(r, ERR_INPUT, "a Huffman table is missing");
    case JERR_NO_QUANT_TABLE:
        fail(r, ERR_INPUT, "a quantisation table is missing");
    case JERR_BAD_HUFF_TABLE:
        fail(r, ERR_INPUT, "bad Huffman table");
    case JERR_BAD_LENGTH:
        fail(r, ERR_INPUT, "segment with a wrong length");
    case JERR_SOF_UNSUPPORTED:
        fail(r, ERR_UNSUPPORTED, "a kind of compression that is not read");
    case JERR_CONVERSION_NOTIMPL:
        fail(r, ERR_UNSUPPORTED, "a colour space that is not read");
    default:
        fail(r, ERR_INPUT, "broken data");
    }
}

/* Damaged picture data is only a warning to the library, which goes on with grey; to a user it is a broken file. Other
 * warnings are harmless. */
static void on_message(j_common_ptr c, int level)
{
    struct jpeg_reader *r = reader_of(c);
    int code = r->errors.msg_code;
    if (level < 0 && (code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE || code == JWRN_ARITH_BAD_CODE))
        fail(r, ERR_INPUT, "damaged picture data");
}

static void on_output(j_common_ptr c)
{
    (void)c;
}

static void on_progress(j_common_ptr c)
{
    struct jpeg_reader *r = reader_of(c);
    if (r->c.input_scan_number > MAX_SCANS) fail(r, ERR_LIMIT, "more than 100 scans");
}

static void source_nothing(j_decompress_ptr c)
{
    (void)c;
}

static boolean source_more(j_decompress_ptr c)
{
    fail(reader_of((j_common_ptr)c), ERR_INPUT, "ends too early,");
}

static void source_skip(j_decompress_ptr c, long n)
{
    if (n <= 0) return;
    if ((size_t)n > c->src->bytes_in_buffer) {
        c->src->next_input_byte += c->src->bytes_in_buffer;
        c->src->bytes_in_buffer = 0;
        source_more(c);
    }
    c->src->next_input_byte += n;
    c->src->bytes_in_buffer -= (size_t)n;
}

/* Pillow's: k inverted, then each colour times it over 255, rounded. Adobe stores all four inverted. */
static void cmyk_to_rgb(const uint8_t *from, size_t n, uint8_t *to)
{
    for (size_t i = 0; i < n; i++, from += 4, to += 3) {
        unsigned white = from[3];
        for (int c = 0; c < 3; c++) {
            unsigned product = (255u - from[c]) * white + 128;
            unsigned part = ((product >> 8) + product) >> 8;
            to[c] = (uint8_t)(white - part);
        }
    }
}

static void read_rows(struct jpeg_reader *r, struct pixels *out)
{
    size_t row_bytes = (size_t)out->width * 3;
    JSAMPARRAY line = NULL;
    if (r->c.out_color_space == JCS_CMYK) line = r->c.mem->alloc_sarray((j_common_ptr)&r->c, JPOOL_IMAGE, (JDIMENSION)out->width * 4, 1);
    while (r->c.output_scanline < r->c.output_height) {
        uint8_t *to = out->rgb + r->c.output_scanline * row_bytes;
        JSAMPROW row = line ? line[0] : to;
        if (jpeg_read_scanlines(&r->c, &row, 1) != 1) fail(r, ERR_INPUT, "ends too early,");
        if (line) cmyk_to_rgb(row, (size_t)out->width, to);
    }
}

/* The part that libjpeg may leave by a jump. */
static int jpeg_run(struct jpeg_reader *r, const uint8_t *p, size_t n, const struct image_info *info, struct pixels *out)
{
    r->c.err = jpeg_std_error(&r->errors);
    r->errors.error_exit = on_error;
    r->errors.emit_message = on_message;
    r->errors.output_message = on_output;
    r->c.client_data = r;
    if (setjmp(r->back)) return r->rc;
    jpeg_create_decompress(&r->c);
    r->c.client_data = r;
    r->source = (struct jpeg_source_mgr){.next_input_byte = p,
                                         .bytes_in_buffer = n,
                                         .init_source = source_nothing,
                                         .fill_input_buffer = source_more,
                                         .skip_input_data = source_skip,
                                         .resync_to_restart = jpeg_resync_to_restart,
                                         .term_source = source_nothing};
    r->c.src = &r->source;
    r->progress.progress_monitor = on_progress;
    r->c.progress = &r->progress;
    jpeg_read_header(&r->c, TRUE);
    if (r->c.image_width != (JDIMENSION)info->stored_width || r->c.image_height != (JDIMENSION)info->stored_height)
        fail(r, ERR_INPUT, "two frame headers");
    r->c.out_color_space = r->c.num_components == 4 ? JCS_CMYK : JCS_RGB;
    r->c.dct_method = JDCT_ISLOW;
    r->c.do_fancy_upsampling = TRUE;
    jpeg_start_decompress(&r->c);
    r->rc = pixels_alloc(out, info->stored_width, info->stored_height, 3, r->e);
    if (r->rc) return r->rc;
    read_rows(r, out);
    return 0;
}

static int jpeg_decode(const uint8_t *p, size_t n, const struct image_info *info, struct pixels *out, struct err *e)
{
    struct jpeg_reader r = {.start = p, .e = e};
    int rc = jpeg_run(&r, p, n, info, out);
    jpeg_destroy_decompress(&r.c);
    return rc;
}

const struct image_codec codec_jpeg = {.name = "JPEG", .match = jpeg_match, .probe = jpeg_probe, .decode = jpeg_decode};
