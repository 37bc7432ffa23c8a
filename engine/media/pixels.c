/* Pixels: see pixels.h. */
#include "engine/media/pixels.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
/* The sanitizer watches the heap but not mappings. */
void *pixels_map(size_t n_bytes)
{
    return calloc(1, n_bytes);
}

void pixels_unmap(void *p, size_t n_bytes)
{
    (void)n_bytes;
    free(p);
}
#else
void *pixels_map(size_t n_bytes)
{
    void *p = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void pixels_unmap(void *p, size_t n_bytes)
{
    if (p) munmap(p, n_bytes);
}
#endif

int pixels_alloc(struct pixels *p, int width, int height, int channels, struct err *e)
{
    *p = (struct pixels){0};
    CHECK(width > 0 && height > 0 && (channels == 3 || channels == 4));
    size_t n;
    if (__builtin_mul_overflow((size_t)width, (size_t)height, &n) || __builtin_mul_overflow(n, (size_t)channels, &n) ||
        __builtin_add_overflow(n, (size_t)PIXELS_SLACK_BYTES, &n))
        return err_set(e, ERR_LIMIT, "picture of %d x %d pixels is too large", width, height);
    uint8_t *rgb = pixels_map(n);
    if (!rgb) return err_set(e, ERR_MEMORY, "no memory for a picture of %d x %d pixels", width, height);
    *p = (struct pixels){.rgb = rgb, .width = width, .height = height, .map_bytes = n};
    return 0;
}

void pixels_free(struct pixels *p)
{
    pixels_unmap(p->rgb, p->map_bytes);
    *p = (struct pixels){0};
}

/* One channel over white. Pillow's fixed point: weights of 7 fractional bits, then a rounding division by 255. */
static uint8_t over_white(unsigned value, unsigned alpha)
{
    unsigned weight = alpha * 128, rest = 255 * 128 - weight;
    unsigned sum = value * weight + 255 * rest + (0x80u << 7);
    return (uint8_t)(((sum >> 8) + sum) >> 8 >> 7);
}

void pixels_flatten(const uint8_t *from, size_t n, uint8_t *to)
{
    for (size_t i = 0; i < n; i++, from += 4, to += 3) {
        unsigned alpha = from[3];
        for (int c = 0; c < 3; c++) to[c] = alpha == 255 ? from[c] : over_white(from[c], alpha);
    }
}

int pixels_orient(struct pixels *p, int orientation, struct err *e)
{
    if (orientation < 2 || orientation > 8) return 0;
    bool swap = orientation >= 5;
    struct pixels q;
    int rc = pixels_alloc(&q, swap ? p->height : p->width, swap ? p->width : p->height, 3, e);
    if (rc) return rc;
    /* (dx, dy) of the source for one step right and one step down in the result, and the source of the result's first
     * pixel */
    bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    ptrdiff_t row = (ptrdiff_t)p->width * 3, step_x = from_right ? -3 : 3, step_y = from_bottom ? -row : row;
    const uint8_t *first = p->rgb + (from_right ? row - 3 : 0) + (from_bottom ? (ptrdiff_t)(p->height - 1) * row : 0);
    ptrdiff_t right = swap ? step_y : step_x, down = swap ? step_x : step_y;
    uint8_t *to = q.rgb;
    for (int y = 0; y < q.height; y++) {
        for (int x = 0; x < q.width; x++, to += 3) memcpy(to, first + y * down + x * right, 3);
    }
    pixels_free(p);
    *p = q;
    return 0;
}
