/* bench_tile: one tile through a picture model's encoder, in this process: ms a tile, alone and in a batch.
 *
 *     bench_tile [--model DIR | --random-weights SHAPE:SEED] [--compute f32|bf16] [--quant none|int8] [--threads N] [--tiles N] [--repeat N]
 *
 * One line of JSON a repetition: {"tiles": N, "ms_per_tile": ...}. Pixels are arbitrary; the time is that of the encoder and the
 * connector, from pixels on the host to rows on the device. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/model.h"

static int repetition(struct model *m, uint8_t *pixels, size_t tile_bytes, uint32_t n_tiles, struct err *e)
{
    struct picture *picture = NULL;
    int64_t begin_ns = clock_boot_ns();
    int rc = picture_new(m, n_tiles, &picture, e);
    for (uint32_t i = 0; i < n_tiles && !rc; i++) rc = model_encode_tile(m, picture, i, pixels + i * tile_bytes, e);
    double ms = (double)(clock_boot_ns() - begin_ns) / 1e6;
    picture_free(m, picture);
    if (rc) return rc;
    printf("{\"tiles\": %u, \"ms_per_tile\": %.3f}\n", n_tiles, ms / n_tiles);
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    enum { MODEL = 1, RANDOM, COMPUTE, QUANT, THREADS, TILES, REPEAT };
    static const struct option options[] = {{"model", 1, NULL, MODEL},
                                            {"random-weights", 1, NULL, RANDOM},
                                            {"compute", 1, NULL, COMPUTE},
                                            {"quant", 1, NULL, QUANT},
                                            {"threads", 1, NULL, THREADS},
                                            {"tiles", 1, NULL, TILES},
                                            {"repeat", 1, NULL, REPEAT},
                                            {NULL, 0, NULL, 0}};
    const char *dir = NULL, *spec = "vlm-256m:1";
    int repeat = 3, tiles = 1;
    bool f32 = false;
    struct model_options o = {.device = "cpu", .kv_tokens = 64};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == MODEL)
            dir = optarg;
        else if (c == RANDOM)
            spec = optarg;
        else if (c == COMPUTE)
            f32 = !strcmp(optarg, "f32");
        else if (c == QUANT)
            o.quant_vision = strcmp(optarg, "int8") ? MODEL_QUANT_NONE : MODEL_QUANT_INT8;
        else if (c == THREADS)
            o.threads = atoi(optarg);
        else if (c == TILES)
            tiles = atoi(optarg);
        else if (c == REPEAT)
            repeat = atoi(optarg);
        else
            return 2;
    }
    if (tiles < 1 || tiles > 1024) return fprintf(stderr, "bench_tile: --tiles is 1 to 1024\n"), 2;
    o.compute = f32 ? COMPUTE_F32 : COMPUTE_BF16;
    o.kv_dtype = f32 ? DTYPE_F32 : DTYPE_BF16;
    struct err e = {0};
    struct model *m = NULL;
    uint8_t *pixels = NULL;
    int rc = dir ? model_open(&m, dir, &o, &e) : model_open_random(&m, spec, &o, &e);
    size_t tile_bytes = rc ? 0 : (size_t)3 * model_limits(m)->tile_px * model_limits(m)->tile_px;
    if (!rc && !tile_bytes) rc = err_set(&e, ERR_INPUT, "the model takes no pictures");
    if (!rc && !(pixels = malloc(tile_bytes * (size_t)tiles))) rc = err_set(&e, ERR_MEMORY, "out of memory");
    for (size_t i = 0; !rc && i < tile_bytes * (size_t)tiles; i++) pixels[i] = (uint8_t)(i * 2654435761u >> 16);
    if (!rc) fprintf(stderr, "%s, tiles of %u px\n", model_limits(m)->device, model_limits(m)->tile_px);
    for (int i = 0; i < repeat && !rc; i++) rc = repetition(m, pixels, tile_bytes, (uint32_t)tiles, &e);
    if (rc) fprintf(stderr, "bench_tile: %s\n", e.msg);
    free(pixels);
    model_close(m);
    return rc ? 1 : 0;
}
