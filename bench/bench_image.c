/* bench_image: a 2048 x 1536 JPEG to tiles of 512 px on one core, step by step. The picture is made here: gradients,
 * rings and noise, 4:2:0, quality 90, as a camera's would be. Prints the best and the median of the runs, and bytes
 * moved a second where that says something.
 *
 *     bench_image [FILE] [RUNS]        a file instead of the made picture */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <sodium.h>

#include "base/buf.h"
#include "base/clock.h"
#include "engine/media/decode.h"
#include "engine/media/resize.h"
#include "engine/media/tiles.h"

enum { WIDTH = 2048, HEIGHT = 1536, DEFAULT_RUNS = 15, MAX_RUNS = 1000 };
enum step { STEP_PROBE, STEP_DECODE, STEP_TILES, STEP_HASH, STEP_ALL, STEPS };
static const char *const step_names[STEPS] = {"probe", "decode", "resize + cut", "hash", "all"};

static void make_row(int y, uint8_t *row)
{
    static uint32_t noise = 1;
    for (int x = 0; x < WIDTH; x++) {
        noise = noise * 1664525 + 1013904223;
        int dx = x - WIDTH / 2, dy = y - HEIGHT / 2, ring = (dx * dx + dy * dy) / 4000 % 256, grain = (int)(noise >> 28);
        row[3 * x] = (uint8_t)(ring / 2 + grain + x * 100 / WIDTH);
        row[3 * x + 1] = (uint8_t)(y * 200 / HEIGHT + grain);
        row[3 * x + 2] = (uint8_t)((x / 64 + y / 64) % 2 * 180 + grain);
    }
}

static void make_jpeg(unsigned char **out, unsigned long *n)
{
    static uint8_t row[WIDTH * 3];
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr errors;
    c.err = jpeg_std_error(&errors); /* exits on an error: right for a bench */
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, out, n);
    c.image_width = WIDTH;
    c.image_height = HEIGHT;
    c.input_components = 3;
    c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, 90, TRUE);
    jpeg_start_compress(&c, TRUE);
    for (int y = 0; y < HEIGHT; y++) {
        JSAMPROW rows[] = {row};
        make_row(y, row);
        jpeg_write_scanlines(&c, rows, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
}

struct result {
    struct image_info info;
    struct image_grid grid;
    size_t bytes;
};

/* One run; ms a step. */
static int run_once(const uint8_t *p, size_t n, double ms[STEPS], struct result *r, struct err *e)
{
    static const struct image_settings s = {.longest_edge = 2048,
                                            .tile_px = 512,
                                            .tokens_per_tile = 64,
                                            .split = true,
                                            .resample = 1,
                                            .mean = {0.5f, 0.5f, 0.5f},
                                            .std = {0.5f, 0.5f, 0.5f},
                                            .rescale = 1.0 / 255};
    struct pixels pixels;
    int64_t t[STEPS];
    t[0] = clock_boot_ns();
    int rc = image_probe(p, n, 64 << 20, &r->info, e);
    if (!rc) rc = image_grid_for(&s, r->info.width, r->info.height, false, &r->grid, e);
    if (rc) return rc;
    t[1] = clock_boot_ns();
    rc = image_decode(p, n, 64 << 20, &pixels, e);
    if (rc) return rc;
    t[2] = clock_boot_ns();
    r->bytes = tiles_bytes(&s, &r->grid);
    uint8_t *tiles = pixels_map(r->bytes), hash[32];
    if (!tiles) return err_set(e, ERR_MEMORY, "no memory");
    rc = tiles_make(&s, &r->grid, &pixels, tiles, e);
    t[3] = clock_boot_ns();
    size_t tile = r->bytes / (size_t)r->grid.n_tiles;
    for (int i = 0; !rc && i < r->grid.n_tiles; i++) rc = crypto_generichash(hash, sizeof hash, tiles + (size_t)i * tile, tile, NULL, 0);
    t[4] = clock_boot_ns();
    pixels_unmap(tiles, r->bytes);
    for (int i = 0; i < STEP_ALL; i++) ms[i] = (double)(t[i + 1] - t[i]) / 1e6;
    ms[STEP_ALL] = (double)(t[4] - t[0]) / 1e6;
    return rc;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int bench(const uint8_t *p, size_t n, int runs, struct err *e)
{
    static const char *const paths[RESIZE_PATHS] = {"plain", "AVX2", "AVX-512"};
    static double ms[STEPS][MAX_RUNS];
    struct result r;
    for (int i = 0; i < runs; i++) {
        double one[STEPS];
        int rc = run_once(p, n, one, &r, e);
        if (rc) return rc;
        for (int k = 0; k < STEPS; k++) ms[k][i] = one[k];
    }
    printf("%s of %d x %d, %zu bytes -> %d tiles, %zu bytes; resize path %s; %d runs\n", r.info.format, r.info.width, r.info.height, n,
           r.grid.n_tiles, r.bytes, paths[resize_best_path()], runs);
    size_t moved[STEPS] = {[STEP_DECODE] = (size_t)r.info.width * (size_t)r.info.height * 3, [STEP_TILES] = r.bytes, [STEP_HASH] = r.bytes};
    for (int k = 0; k < STEPS; k++) {
        qsort(ms[k], (size_t)runs, sizeof ms[k][0], compare);
        printf("%-14s best %8.2f ms   median %8.2f ms", step_names[k], ms[k][0], ms[k][runs / 2]);
        if (moved[k]) printf("   %7.0f MB/s out", (double)moved[k] / 1e3 / ms[k][runs / 2]);
        putchar('\n');
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    struct buf file;
    buf_init(&file, 20 << 20);
    unsigned char *jpeg = NULL;
    unsigned long n_jpeg = 0;
    int runs = argc > 2 ? atoi(argv[2]) : DEFAULT_RUNS;
    if (runs < 1 || runs > MAX_RUNS || sodium_init() < 0) return 2;
    int rc = 0;
    if (argc > 1)
        rc = buf_read_file(&file, argv[1], &e);
    else
        make_jpeg(&jpeg, &n_jpeg);
    if (!rc) rc = argc > 1 ? bench((uint8_t *)file.data, file.len, runs, &e) : bench(jpeg, n_jpeg, runs, &e);
    if (rc) fprintf(stderr, "bench_image: %s\n", e.msg);
    free(jpeg);
    buf_free(&file);
    return rc ? 1 : 0;
}
