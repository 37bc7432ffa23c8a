/* WebP through libwebp: lossy, lossless, alpha; of an animation its first frame on a transparent canvas. The container
 * (RIFF chunks) is walked here, so that probing allocates nothing and a first frame is found without the demuxer
 * library. */
#include <string.h>

#include <webp/decode.h>

#include "engine/media/decode_formats.h"

enum { RIFF_BYTES = 12, CHUNK_BYTES = 8, FRAME_BYTES = 16, FLAG_ANIMATION = 2, MAX_CHUNKS = 50000 };

/* What the container says. data: what WebPDecode is to be given. */
struct webp_layout {
    const uint8_t *data;
    size_t n_data;
    int x, y, width, height; /* of the picture data in the canvas */
    int canvas_width, canvas_height;
    bool has_alpha;
    int orientation;
};

static bool webp_match(const uint8_t *p, size_t n)
{
    return n >= RIFF_BYTES && !memcmp(p, "RIFF", 4) && !memcmp(p + 8, "WEBP", 4);
}

struct riff_chunk {
    const uint8_t *name, *body;
    size_t n;
};

/* The chunk at *at; false at the end. -> *at is behind it. A chunk that runs over the end is an error. */
static int next_chunk(const uint8_t *p, size_t n, size_t *at, struct riff_chunk *c, struct err *e)
{
    if (n - *at < CHUNK_BYTES) return 0;
    size_t length = read_le32(p + *at + 4);
    if (length > n - *at - CHUNK_BYTES) return err_set(e, ERR_INPUT, "WebP: ends at byte %zu inside the chunk at byte %zu", n, *at);
    *c = (struct riff_chunk){.name = p + *at, .body = p + *at + CHUNK_BYTES, .n = length};
    size_t padded = length + (length & 1);
    *at += CHUNK_BYTES + (padded > n - *at - CHUNK_BYTES ? length : padded);
    return 1;
}

static int read_frame(const struct riff_chunk *c, struct webp_layout *l, struct err *e)
{
    if (c->n < FRAME_BYTES) return err_set(e, ERR_INPUT, "WebP: frame header is too short");
    l->x = (int)read_le24(c->body) * 2;
    l->y = (int)read_le24(c->body + 3) * 2;
    l->width = (int)read_le24(c->body + 6) + 1;
    l->height = (int)read_le24(c->body + 9) + 1;
    l->data = c->body + FRAME_BYTES;
    l->n_data = c->n - FRAME_BYTES;
    if (l->x + (int64_t)l->width > l->canvas_width || l->y + (int64_t)l->height > l->canvas_height)
        return err_set(e, ERR_INPUT, "WebP: the first frame lies outside the canvas");
    return 0;
}

/* The extended container: canvas, perhaps frames, perhaps EXIF. */
static int read_extended(const uint8_t *p, size_t n, const struct riff_chunk *header, size_t at, struct webp_layout *l, struct err *e)
{
    if (header->n < 10) return err_set(e, ERR_INPUT, "WebP: extended header is too short");
    bool animated = header->body[0] & FLAG_ANIMATION;
    l->canvas_width = (int)read_le24(header->body + 4) + 1;
    l->canvas_height = (int)read_le24(header->body + 7) + 1;
    bool seen_frame = false, seen_exif = false;
    struct riff_chunk c;
    int rc;
    for (int n_chunks = 0; (rc = next_chunk(p, n, &at, &c, e)) > 0; n_chunks++) {
        if (n_chunks == MAX_CHUNKS) return err_set(e, ERR_LIMIT, "WebP: more than %d chunks", MAX_CHUNKS);
        if (animated && !seen_frame && !memcmp(c.name, "ANMF", 4)) {
            rc = read_frame(&c, l, e);
            if (rc) return rc;
            seen_frame = true;
        } else if (!seen_exif && !memcmp(c.name, "EXIF", 4)) {
            l->orientation = exif_orientation(c.body, c.n);
            seen_exif = true;
        }
    }
    if (!rc && animated && !seen_frame) return err_set(e, ERR_INPUT, "WebP: an animation without a frame");
    return rc;
}

static int read_layout(const uint8_t *p, size_t n, struct webp_layout *l, struct err *e)
{
    size_t riff = read_le32(p + 4);
    if (riff > n - 8) return err_set(e, ERR_INPUT, "WebP: ends at byte %zu of %zu", n, riff + 8);
    n = riff + 8;
    *l = (struct webp_layout){.data = p, .n_data = n, .orientation = 1};
    size_t at = RIFF_BYTES;
    struct riff_chunk first;
    int rc = n < RIFF_BYTES ? 0 : next_chunk(p, n, &at, &first, e);
    if (rc < 0) return rc;
    if (!rc) return err_set(e, ERR_INPUT, "WebP: no picture data");
    bool extended = !memcmp(first.name, "VP8X", 4);
    if (extended) {
        rc = read_extended(p, n, &first, at, l, e);
        if (rc) return rc;
    }
    WebPBitstreamFeatures f;
    if (WebPGetFeatures(l->data, l->n_data, &f) != VP8_STATUS_OK || f.has_animation)
        return err_set(e, ERR_INPUT, "WebP: broken header of the picture data near byte %zu", (size_t)(l->data - p));
    if (l->width && (f.width != l->width || f.height != l->height))
        return err_set(e, ERR_INPUT, "WebP: the first frame's size and its header contradict each other");
    l->width = f.width;
    l->height = f.height;
    l->has_alpha = f.has_alpha;
    if (!extended) {
        l->canvas_width = f.width;
        l->canvas_height = f.height;
    }
    if (l->x + (int64_t)l->width > l->canvas_width || l->y + (int64_t)l->height > l->canvas_height)
        return err_set(e, ERR_INPUT, "WebP: the picture is larger than its canvas");
    return 0;
}

static int webp_probe(const uint8_t *p, size_t n, struct image_info *info, struct err *e)
{
    struct webp_layout l;
    int rc = read_layout(p, n, &l, e);
    if (rc) return rc;
    info->stored_width = l.canvas_width;
    info->stored_height = l.canvas_height;
    info->orientation = l.orientation;
    return 0;
}

/* The picture data alone, composited on white. */
static int decode_data(const struct webp_layout *l, struct pixels *out, struct err *e)
{
    int channels = l->has_alpha ? 4 : 3;
    int rc = pixels_alloc(out, l->width, l->height, channels, e);
    if (rc) return rc;
    WebPDecoderConfig c;
    if (!WebPInitDecoderConfig(&c)) return err_set(e, ERR_INTERNAL, "WebP: library of another version");
    c.output.colorspace = l->has_alpha ? MODE_RGBA : MODE_RGB;
    c.output.is_external_memory = 1;
    c.output.u.RGBA.rgba = out->rgb;
    c.output.u.RGBA.stride = l->width * channels;
    c.output.u.RGBA.size = (size_t)l->width * (size_t)l->height * (size_t)channels;
    VP8StatusCode status = WebPDecode(l->data, l->n_data, &c);
    WebPFreeDecBuffer(&c.output);
    if (status == VP8_STATUS_OUT_OF_MEMORY) return err_set(e, ERR_MEMORY, "WebP: no memory");
    if (status == VP8_STATUS_NOT_ENOUGH_DATA) return err_set(e, ERR_INPUT, "WebP: the picture data ends too early");
    if (status != VP8_STATUS_OK) return err_set(e, ERR_INPUT, "WebP: broken picture data");
    if (l->has_alpha) pixels_flatten(out->rgb, (size_t)l->width * (size_t)l->height, out->rgb);
    return 0;
}

static int webp_decode(const uint8_t *p, size_t n, const struct image_info *info, struct pixels *out, struct err *e)
{
    struct webp_layout l;
    int rc = read_layout(p, n, &l, e);
    if (rc) return rc;
    rc = decode_data(&l, out, e);
    if (rc || (l.width == info->stored_width && l.height == info->stored_height)) return rc;
    struct pixels canvas;
    rc = pixels_alloc(&canvas, info->stored_width, info->stored_height, 3, e);
    if (rc) return rc;
    size_t row = (size_t)canvas.width * 3, frame_row = (size_t)l.width * 3;
    memset(canvas.rgb, 255, row * (size_t)canvas.height);
    for (int y = 0; y < l.height; y++)
        memcpy(canvas.rgb + (size_t)(l.y + y) * row + (size_t)l.x * 3, out->rgb + (size_t)y * frame_row, frame_row);
    pixels_free(out);
    *out = canvas;
    return 0;
}

const struct image_codec codec_webp = {.name = "WebP", .match = webp_match, .probe = webp_probe, .decode = webp_decode};
