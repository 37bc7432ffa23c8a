/* Decoding: every golden picture's pixels, odd files made here by hand, and what broken files come to: cut at many
 * lengths, bits flipped, sizes that lie. Run under the address sanitizer this is the over-read test. */
#include "tests/unit/golden.h"

#include <png.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "engine/media/decode.h"

enum { MAX_PIXELS = 64 << 20 };

static uint32_t random_state = 2463534242u;

static uint32_t next_random(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % below;
}

/* The bytes in a block of exactly their size, so that the sanitizer sees the first byte read past the end. */
static uint8_t *exact_copy(const void *p, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    if (n) memcpy(copy, p, n);
    return copy;
}

static int decode_exact(const void *p, size_t n, int64_t max_pixels, struct pixels *out, struct err *e)
{
    uint8_t *copy = exact_copy(p, n);
    *e = (struct err){0};
    int rc = image_decode(copy, n, max_pixels, out, e);
    free(copy);
    assert_int_equal(rc, -(int)e->code);
    if (rc) assert_true(e->msg[0] != '\0' && !strchr(e->msg, '/'));
    return rc;
}

static void pixels_hash(const struct pixels *p, char hex[65])
{
    sha256_hex(p->rgb, (size_t)p->width * (size_t)p->height * 3, hex);
}

/* --- the golden pictures --- */

static void test_every_golden_picture_has_the_references_pixels(void **state)
{
    (void)state;
    json_t *index = golden_json("images/index.json");
    const json_t *images = json_object_get(index, "images");
    size_t n_checked = 0;
    for (size_t i = 0; i < json_array_size(images); i++) {
        const json_t *c = json_array_get(images, i), *size = json_object_get(c, "size_wh"), *stored = json_object_get(c, "stored_size_wh");
        const char *file = json_string_value(json_object_get(c, "file"));
        char name[256], hex[65];
        snprintf(name, sizeof name, "images/%s", file);
        if (!golden_exists(name)) continue;
        struct buf bytes;
        golden_file(&bytes, name);
        struct image_info info;
        struct pixels p;
        struct err e = {0};
        if (image_probe((uint8_t *)bytes.data, bytes.len, MAX_PIXELS, &info, &e)) fail_msg("%s: %s", file, e.msg);
        assert_int_equal(info.width, json_int(json_array_get(size, 0)));
        assert_int_equal(info.height, json_int(json_array_get(size, 1)));
        assert_int_equal(info.stored_width, json_int(json_array_get(stored, 0)));
        const json_t *orientation = json_object_get(c, "exif_orientation");
        assert_int_equal(info.orientation, json_is_integer(orientation) ? json_int(orientation) : 1);
        if (decode_exact(bytes.data, bytes.len, MAX_PIXELS, &p, &e)) fail_msg("%s: %s", file, e.msg);
        assert_true(p.width == info.width && p.height == info.height);
        const char *want = json_string_value(json_object_get(c, "rgb_white_sha256"));
        pixels_hash(&p, hex);
        bool grey16 = !strncmp(file, "gray16", 6); /* Pillow clips these at 255; the next test has them */
        if (!grey16 && strcmp(hex, want)) fail_msg("%s: pixels differ", file);
        p.rgb[next_random((uint32_t)(p.width * p.height * 3))] ^= 1;
        pixels_hash(&p, hex);
        assert_string_not_equal(hex, want); /* a one-level change must be seen */
        pixels_free(&p);
        buf_free(&bytes);
        n_checked++;
    }
    assert_true(n_checked >= 30);
    json_decref(index);
}

static void test_every_broken_golden_picture_is_refused(void **state)
{
    (void)state;
    json_t *index = golden_json("images/index.json");
    const json_t *bad = json_object_get(index, "must_fail");
    assert_true(json_array_size(bad) >= 5);
    for (size_t i = 0; i < json_array_size(bad); i++) {
        char name[256];
        snprintf(name, sizeof name, "images/%s", json_string_value(json_array_get(bad, i)));
        struct buf bytes;
        golden_file(&bytes, name);
        struct pixels p;
        struct err e;
        if (!decode_exact(bytes.data, bytes.len, MAX_PIXELS, &p, &e)) fail_msg("%s was decoded", name);
        print_message("    %s: %s\n", name, e.msg);
        assert_null(p.rgb);
        buf_free(&bytes);
    }
    json_decref(index);
}

/* --- PNGs made here --- */

static void collect(png_structp png, png_bytep p, size_t n)
{
    assert_int_equal(buf_append(png_get_io_ptr(png), p, n), 0);
}

static void make_png(struct buf *out, int width, int height, int bits, int type, const void *rows, size_t row_bytes,
                     const png_color_16 *key)
{
    buf_init(out, 16 << 20);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_set_write_fn(png, out, collect, NULL);
    png_set_IHDR(png, info, (png_uint_32)width, (png_uint_32)height, bits, type, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    if (key) png_set_tRNS(png, info, NULL, 0, key);
    png_write_info(png, info);
    for (int y = 0; y < height; y++) png_write_row(png, (const uint8_t *)rows + (size_t)y * row_bytes);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
}

static void test_grey_of_16_bits_keeps_the_high_byte(void **state)
{
    (void)state;
    static const uint8_t rows[] = {0x00, 0xFF, 0x01, 0x00, 0x80, 0x7F, 0xFF, 0xFF};
    struct buf png;
    make_png(&png, 4, 1, 16, PNG_COLOR_TYPE_GRAY, rows, 8, NULL);
    struct pixels p;
    struct err e;
    assert_int_equal(decode_exact(png.data, png.len, MAX_PIXELS, &p, &e), 0);
    static const uint8_t want[] = {0, 0, 0, 1, 1, 1, 128, 128, 128, 255, 255, 255};
    assert_memory_equal(p.rgb, want, sizeof want);
    pixels_free(&p);
    buf_free(&png);
}

static void test_a_transparent_colour_becomes_white(void **state)
{
    (void)state;
    static const uint8_t rows[] = {10, 20, 30, 10, 20, 31};
    static const png_color_16 key = {.red = 10, .green = 20, .blue = 30};
    struct buf png;
    make_png(&png, 2, 1, 8, PNG_COLOR_TYPE_RGB, rows, 6, &key);
    struct pixels p;
    struct err e;
    assert_int_equal(decode_exact(png.data, png.len, MAX_PIXELS, &p, &e), 0);
    static const uint8_t want[] = {255, 255, 255, 10, 20, 31};
    assert_memory_equal(p.rgb, want, sizeof want);
    pixels_free(&p);
    buf_free(&png);
}

static void test_the_pixel_cap_is_by_the_header(void **state)
{
    (void)state;
    static const uint8_t rows[300] = {0};
    struct buf png;
    make_png(&png, 10, 10, 8, PNG_COLOR_TYPE_RGB, rows, 30, NULL);
    struct pixels p;
    struct err e;
    assert_int_equal(decode_exact(png.data, png.len, 100, &p, &e), 0);
    pixels_free(&p);
    assert_int_equal(decode_exact(png.data, png.len, 99, &p, &e), -ERR_LIMIT);
    assert_int_equal(decode_exact(png.data, 33, 99, &p, &e), -ERR_LIMIT); /* the header is all that is looked at */
    assert_int_equal(decode_exact(png.data, 33, 100, &p, &e), -ERR_INPUT);
    /* sides of 65535 and more: the header alone is refused, in no time */
    static const uint8_t sides[][4] = {{0, 0, 0xFF, 0xFF}, {0, 1, 0, 0}, {0x7F, 0xFF, 0xFF, 0xFF}};
    for (size_t i = 0; i < 3; i++) {
        memcpy(png.data + 16, sides[i], 4);
        memcpy(png.data + 20, sides[i], 4);
        assert_int_equal(decode_exact(png.data, png.len, MAX_PIXELS, &p, &e), -ERR_LIMIT);
    }
    memset(png.data + 16, 0, 4);
    assert_int_equal(decode_exact(png.data, png.len, MAX_PIXELS, &p, &e), -ERR_INPUT);
    buf_free(&png);
}

/* --- GIFs made here --- */

/* Screen 3 x 2, colours 0 red, 1 green, 2 blue, 3 black; a frame of 1 x 1 of colour 1 at (left, top); transparent:
 * index, or -1. */
static size_t make_gif(uint8_t out[128], int left, int top, int transparent)
{
    static const uint8_t head[] = {'G', 'I', 'F', '8', '9', 'a', 3, 0, 2, 0, 0xF1, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0};
    size_t n = sizeof head;
    memcpy(out, head, n);
    if (transparent >= 0) {
        const uint8_t control[] = {0x21, 0xF9, 4, 1, 0, 0, (uint8_t)transparent, 0};
        memcpy(out + n, control, sizeof control);
        n += sizeof control;
    }
    /* LZW of 2 bits, codes of 3: clear (4), 1, end (5) = 100 | 001 << 3 | 101 << 6 */
    const uint8_t frame[] = {0x2C, (uint8_t)left, 0, (uint8_t)top, 0, 1, 0, 1, 0, 0, 2, 2, 0x4C, 0x01, 0, 0x3B};
    memcpy(out + n, frame, sizeof frame);
    return n + sizeof frame;
}

static void check_gif(int left, int top, int transparent, int width, int height, uint32_t ground, uint32_t spot)
{
    uint8_t gif[128];
    size_t n = make_gif(gif, left, top, transparent);
    struct pixels p;
    struct err e;
    if (decode_exact(gif, n, MAX_PIXELS, &p, &e)) fail_msg("%s", e.msg);
    assert_true(p.width == width && p.height == height);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            const uint8_t *rgb = p.rgb + (y * width + x) * 3;
            uint32_t found = (uint32_t)rgb[0] << 16 | (uint32_t)rgb[1] << 8 | rgb[2];
            assert_int_equal(found, x == left && y == top ? spot : ground);
        }
    }
    pixels_free(&p);
}

static void test_gif_frames_smaller_than_the_screen(void **state)
{
    (void)state;
    check_gif(1, 1, -1, 3, 2, 0xFF0000, 0x00FF00); /* the ground is colour 0 */
    check_gif(2, 0, 2, 3, 2, 0xFFFFFF, 0x00FF00);  /* or transparent, hence white */
    check_gif(0, 0, 1, 3, 2, 0xFFFFFF, 0xFFFFFF);
    check_gif(5, 4, -1, 6, 5, 0xFF0000, 0x00FF00); /* a frame outside makes the screen larger, as in Pillow */
}

static void test_a_gif_without_a_frame_is_refused(void **state)
{
    (void)state;
    uint8_t gif[128];
    make_gif(gif, 0, 0, -1);
    gif[25] = 0x3B;
    struct pixels p;
    struct err e;
    assert_int_equal(decode_exact(gif, 26, MAX_PIXELS, &p, &e), -ERR_INPUT);
    assert_non_null(strstr(e.msg, "no frame"));
}

static void test_other_formats_are_named_as_unread(void **state)
{
    (void)state;
    struct pixels p;
    struct err e;
    assert_int_equal(decode_exact("BM\0\0\0\0", 6, MAX_PIXELS, &p, &e), -ERR_UNSUPPORTED);
    assert_int_equal(decode_exact("<svg></svg>", 11, MAX_PIXELS, &p, &e), -ERR_UNSUPPORTED);
    assert_int_equal(decode_exact("", 0, MAX_PIXELS, &p, &e), -ERR_INPUT);
    for (size_t n = 1; n < 12; n++) assert_int_not_equal(decode_exact("\xFF\xD8\xFFGIF89aRIFFxxx", n, MAX_PIXELS, &p, &e), 0);
}

/* --- damage --- */

typedef void damage_fn(const struct buf *bytes, const struct pixels *whole, const char *file);

static void for_each_small_picture(damage_fn *damage, size_t max_bytes)
{
    json_t *index = golden_json("images/index.json");
    const json_t *images = json_object_get(index, "images");
    for (size_t i = 0; i < json_array_size(images); i++) {
        const char *file = json_string_value(json_object_get(json_array_get(images, i), "file"));
        char name[256];
        snprintf(name, sizeof name, "images/%s", file);
        if (!golden_exists(name)) continue;
        struct buf bytes;
        golden_file(&bytes, name);
        struct pixels whole;
        struct err e;
        if (bytes.len <= max_bytes) {
            assert_int_equal(decode_exact(bytes.data, bytes.len, MAX_PIXELS, &whole, &e), 0);
            damage(&bytes, &whole, file);
            pixels_free(&whole);
        }
        buf_free(&bytes);
    }
    json_decref(index);
}

/* A cut file is refused, unless all of the picture is still there. */
static void cut(const struct buf *bytes, const struct pixels *whole, const char *file)
{
    size_t step = bytes->len > 1500 ? bytes->len / 400 : 1;
    for (size_t n = 0; n < bytes->len; n += n < 600 || n + 40 > bytes->len ? 1 : step) {
        struct pixels p;
        struct err e;
        if (decode_exact(bytes->data, n, MAX_PIXELS, &p, &e)) continue;
        if (memcmp(p.rgb, whole->rgb, (size_t)p.width * (size_t)p.height * 3))
            fail_msg("%s cut to %zu bytes gave another picture", file, n);
        pixels_free(&p);
    }
}

static void test_cut_files_are_refused(void **state)
{
    (void)state;
    for_each_small_picture(cut, 12000);
}

/* Any outcome but a crash, an over-read, an endless loop or a picture larger than the cap. */
static void flip(const struct buf *bytes, const struct pixels *whole, const char *file)
{
    (void)whole;
    for (int i = 0; i < 150; i++) {
        uint8_t *copy = exact_copy(bytes->data, bytes->len);
        size_t near = i % 3 ? bytes->len : 64; /* headers are where it hurts */
        for (int k = 0; k <= i % 4; k++)
            copy[next_random((uint32_t)(near < bytes->len ? near : bytes->len))] ^= (uint8_t)(1u << next_random(8));
        struct pixels p;
        struct err e;
        clock_t start = clock();
        if (!decode_exact(copy, bytes->len, 1 << 20, &p, &e)) {
            assert_true((int64_t)p.width * p.height <= 1 << 20);
            pixels_free(&p);
        }
        if (clock() - start > 5 * CLOCKS_PER_SEC) fail_msg("%s, flip %d: slow", file, i);
        free(copy);
    }
}

static void test_flipped_bits_do_no_harm(void **state)
{
    (void)state;
    for_each_small_picture(flip, 60000);
}

static void test_exif_that_lies_does_no_harm(void **state)
{
    (void)state;
    struct buf bytes;
    golden_file(&bytes, "images/exif6_60x36.jpg");
    char *exif = memmem(bytes.data, bytes.len, "Exif\0\0", 6);
    assert_non_null(exif);
    for (size_t at = 6; at < 32; at++) { /* header, one entry, end */
        for (int value = 0; value < 256; value += 15) {
            char keep = exif[at];
            exif[at] = (char)value;
            struct pixels p;
            struct err e;
            assert_int_equal(decode_exact(bytes.data, bytes.len, MAX_PIXELS, &p, &e), 0);
            assert_int_equal(p.width * p.height, 60 * 36);
            pixels_free(&p);
            exif[at] = keep;
        }
    }
    buf_free(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_golden_picture_has_the_references_pixels),
        cmocka_unit_test(test_every_broken_golden_picture_is_refused),
        cmocka_unit_test(test_grey_of_16_bits_keeps_the_high_byte),
        cmocka_unit_test(test_a_transparent_colour_becomes_white),
        cmocka_unit_test(test_the_pixel_cap_is_by_the_header),
        cmocka_unit_test(test_gif_frames_smaller_than_the_screen),
        cmocka_unit_test(test_a_gif_without_a_frame_is_refused),
        cmocka_unit_test(test_other_formats_are_named_as_unread),
        cmocka_unit_test(test_cut_files_are_refused),
        cmocka_unit_test(test_flipped_bits_do_no_harm),
        cmocka_unit_test(test_exif_that_lies_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
