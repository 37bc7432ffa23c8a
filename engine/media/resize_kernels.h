/* The inner loops of resize.c, one set a path. Both take what resize.c has laid out: sources with PIXELS_SLACK_BYTES
 * behind them. */
#ifndef SPILLWAY_ENGINE_MEDIA_RESIZE_KERNELS_H
#define SPILLWAY_ENGINE_MEDIA_RESIZE_KERNELS_H

#include <stdint.h>

#include "engine/media/resize.h"

enum { RESIZE_BITS = 22, RESIZE_ROUND = 1 << (RESIZE_BITS - 1), RESIZE_TAP_GROUP = 4 };

/* Weights of one pass: output i is the sum over k of weight[i * stride + k] * source[first[i] + k], k < count[i].
 * stride is a multiple of RESIZE_TAP_GROUP and the weights past count[i] are 0. */
struct resize_taps {
    int32_t *weights;   /* (n_out, stride) */
    int *first, *count; /* (n_out) */
    int n_out, stride;
};

/* One row of RGB: from (in, 3) to `to` (taps->n_out, 3). */
typedef void resize_row_fn(const struct resize_taps *taps, const uint8_t *from, uint8_t *to);
/* One output row from `count` source rows, row_bytes apart and row_bytes long. */
typedef void resize_column_fn(const int32_t *weights, int count, const uint8_t *from, size_t row_bytes, uint8_t *to);

static inline uint8_t resize_clip(int32_t sum)
{
    int32_t v = sum >> RESIZE_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

void resize_row_avx2(const struct resize_taps *taps, const uint8_t *from, uint8_t *to);
void resize_column_avx2(const int32_t *weights, int count, const uint8_t *from, size_t row_bytes, uint8_t *to);
void resize_row_avx512(const struct resize_taps *taps, const uint8_t *from, uint8_t *to);
void resize_column_avx512(const int32_t *weights, int count, const uint8_t *from, size_t row_bytes, uint8_t *to);
/* Columns [from_byte, row_bytes) of one output row, plainly: the vector paths' ends. */
void resize_column_tail(const int32_t *weights, int count, const uint8_t *from, size_t row_bytes, size_t from_byte, uint8_t *to);

#endif
