/* Resize: see resize.h. Weights are computed in double exactly as Pillow does (which factor is multiplied and which
 * divided matters). */
#include "engine/media/resize.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "engine/media/resize_kernels.h"

static double filter_bilinear(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

static double filter_bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

static double sinc(double x)
{
    if (x == 0) return 1;
    x *= M_PI;
    return sin(x) / x;
}

static double filter_lanczos(double x)
{
    return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

static const struct {
    double (*weight)(double x);
    double support;
} filters[] = {
    [RESIZE_LANCZOS] = {filter_lanczos, 3},
    [RESIZE_BILINEAR] = {filter_bilinear, 1},
    [RESIZE_BICUBIC] = {filter_bicubic, 2},
};

/* --- weights --- */

struct taps_memory {
    struct resize_taps taps;
    double *exact; /* (stride), one output's weights */
    void *map;
    size_t map_bytes;
};

static int taps_alloc(struct taps_memory *m, int n_out, int stride, struct err *e)
{
    size_t n = (size_t)n_out, per_output = (size_t)stride * sizeof(int32_t) + 2 * sizeof(int), bytes;
    if (__builtin_mul_overflow(n, per_output, &bytes) || __builtin_add_overflow(bytes, (size_t)stride * sizeof(double), &bytes))
        return err_set(e, ERR_LIMIT, "resize: too many weights");
    m->map = pixels_map(bytes);
    if (!m->map) return err_set(e, ERR_MEMORY, "no memory to resize a picture");
    m->map_bytes = bytes;
    m->exact = m->map;
    m->taps.weights = (int32_t *)(m->exact + stride);
    m->taps.first = (int *)(m->taps.weights + n * (size_t)stride);
    m->taps.count = m->taps.first + n;
    m->taps.n_out = n_out;
    m->taps.stride = stride;
    return 0;
}

static int32_t to_fixed(double w)
{
    return w < 0 ? (int32_t)(-0.5 + w * (1 << RESIZE_BITS)) : (int32_t)(0.5 + w * (1 << RESIZE_BITS));
}

static int taps_make(struct taps_memory *m, int n_in, int n_out, enum resize_filter filter, struct err *e)
{
    *m = (struct taps_memory){0};
    double scale = (double)n_in / n_out, filter_scale = scale < 1 ? 1 : scale;
    double support = filters[filter].support * filter_scale, inverse = 1 / filter_scale;
    int stride = ((int)ceil(support) * 2 + 1 + RESIZE_TAP_GROUP - 1) / RESIZE_TAP_GROUP * RESIZE_TAP_GROUP;
    int rc = taps_alloc(m, n_out, stride, e);
    if (rc) return rc;
    for (int i = 0; i < n_out; i++) {
        double centre = (i + 0.5) * scale, sum = 0;
        int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
        if (first < 0) first = 0;
        if (end > n_in) end = n_in;
        int count = end - first;
        CHECK(count <= stride);
        for (int k = 0; k < count; k++) sum += m->exact[k] = filters[filter].weight((k + first - centre + 0.5) * inverse);
        int32_t *w = m->taps.weights + (size_t)i * (size_t)stride;
        for (int k = 0; k < count; k++) w[k] = to_fixed(sum != 0 ? m->exact[k] / sum : m->exact[k]);
        m->taps.first[i] = first;
        m->taps.count[i] = count;
    }
    return 0;
}

/* --- the plain path --- */

static void resize_row_plain(const struct resize_taps *taps, const uint8_t *from, uint8_t *to)
{
    for (int i = 0; i < taps->n_out; i++, to += 3) {
        const int32_t *w = taps->weights + (size_t)i * (size_t)taps->stride;
        const uint8_t *p = from + (size_t)taps->first[i] * 3;
        int32_t r = RESIZE_ROUND, g = RESIZE_ROUND, b = RESIZE_ROUND;
        for (int k = 0; k < taps->count[i]; k++, p += 3) {
            r += w[k] * p[0];
            g += w[k] * p[1];
            b += w[k] * p[2];
        }
        to[0] = resize_clip(r);
        to[1] = resize_clip(g);
        to[2] = resize_clip(b);
    }
}

void resize_column_tail(const int32_t *weights, int count, const uint8_t *from, size_t row_bytes, size_t from_byte, uint8_t *to)
{
    for (size_t x = from_byte; x < row_bytes; x++) {
        int32_t sum = RESIZE_ROUND;
        for (int k = 0; k < count; k++) sum += weights[k] * from[(size_t)k * row_bytes + x];
        to[x] = resize_clip(sum);
    }
}

static void resize_column_plain(const int32_t *weights, int count, const uint8_t *from, size_t row_bytes, uint8_t *to)
{
    resize_column_tail(weights, count, from, row_bytes, 0, to);
}

static const struct {
    resize_row_fn *row;
    resize_column_fn *column;
} paths[RESIZE_PATHS] = {
    [RESIZE_PLAIN] = {resize_row_plain, resize_column_plain},
#ifdef __x86_64__
    [RESIZE_AVX2] = {resize_row_avx2, resize_column_avx2},
    [RESIZE_AVX512] = {resize_row_avx512, resize_column_avx512},
#endif
};

enum resize_path resize_best_path(void)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return RESIZE_AVX512;
    if (__builtin_cpu_supports("avx2")) return RESIZE_AVX2;
#endif
    return RESIZE_PLAIN;
}

/* --- the two passes --- */

static int resize_horizontally(const struct pixels *from, int width, enum resize_filter filter, enum resize_path path, struct pixels *to,
                               struct err *e)
{
    struct taps_memory m;
    int rc = taps_make(&m, from->width, width, filter, e);
    if (rc) return rc;
    rc = pixels_alloc(to, width, from->height, 3, e);
    for (int y = 0; !rc && y < from->height; y++)
        paths[path].row(&m.taps, from->rgb + (size_t)y * (size_t)from->width * 3, to->rgb + (size_t)y * (size_t)width * 3);
    pixels_unmap(m.map, m.map_bytes);
    return rc;
}

static int resize_vertically(const struct pixels *from, int height, enum resize_filter filter, enum resize_path path, struct pixels *to,
                             struct err *e)
{
    struct taps_memory m;
    int rc = taps_make(&m, from->height, height, filter, e);
    if (rc) return rc;
    size_t row_bytes = (size_t)from->width * 3;
    rc = pixels_alloc(to, from->width, height, 3, e);
    for (int y = 0; !rc && y < height; y++)
        paths[path].column(m.taps.weights + (size_t)y * (size_t)m.taps.stride, m.taps.count[y],
                           from->rgb + (size_t)m.taps.first[y] * row_bytes, row_bytes, to->rgb + (size_t)y * row_bytes);
    pixels_unmap(m.map, m.map_bytes);
    return rc;
}

int resize_pixels(const struct pixels *from, int width, int height, enum resize_filter filter, enum resize_path path, struct pixels *to,
                  struct err *e)
{
    *to = (struct pixels){0};
    CHECK(filter >= RESIZE_LANCZOS && filter <= RESIZE_BICUBIC && path < RESIZE_PATHS && paths[path].row);
    bool across = width != from->width, down = height != from->height;
    if (!across && !down) {
        int rc = pixels_alloc(to, width, height, 3, e);
        if (!rc) memcpy(to->rgb, from->rgb, (size_t)width * (size_t)height * 3);
        return rc;
    }
    if (!down) return resize_horizontally(from, width, filter, path, to, e);
    if (!across) return resize_vertically(from, height, filter, path, to, e);
    struct pixels between;
    int rc = resize_horizontally(from, width, filter, path, &between, e);
    if (rc) return rc;
    rc = resize_vertically(&between, height, filter, path, to, e);
    pixels_free(&between);
    return rc;
}
