/* Quantised matrices: the one definition of the formats, for every backend, and the plain code that is their oracle.
 *
 * A weight is W[o][i] = q[o][i] * scale[o][i / group]: q a whole number, symmetric (no zero points), one scale for `group` neighbouring
 * inputs of an output, or for all inputs of it (group 0: per channel). 8 bits: q in -127 .. 127. 4 bits: q in -8 .. 7. Scales may be
 * negative, which lets 4 bits use all 16 values.
 *   Scales of groups are bf16: at 4 bits in groups of 32 float32 would be a ninth more to read in each decode step (5.0 bits a weight
 *   against 4.5), and a scale we choose ourselves is rounded before the q are, so its rounding costs next to nothing. float32 is there for
 *   files whose scales bf16 cannot hold (fp16), and for scales per channel, of which there are few.
 * Activations are quantised as they come, row by row, in steps of the weight's group (QUANT_CHANNEL_STEP where that is the whole row):
 *   s = max |x| / 127, q = x * (127 / max |x|) rounded to nearest even: all in float32, so every backend has the same q and s.
 *   A step whose largest |x| is below QUANT_TINY is zero. A step that is not finite has scale NaN, so its row's outputs are NaN.
 * A product is the sum over steps in rising order of (exact int32 dot) * scale_w * scale_x, in float32:
 *   groups:       sum = fma((float)dot, scale_w * scale_x, sum)
 *   per channel:  sum = fma((float)dot, scale_x, sum), the last sum times scale_w
 * Only these roundings exist, so a row's bytes depend on nothing but the row, and quant_bound() tells how far they may be from the
 * double sum quant_product(). How q and scales lie in memory is the backend's.
 *
 * fp8: q are e4m3 numbers (kernels/e4m3.h), never NaN, with one float32 scale an output, and likewise one a row of activations ("dynamic
 * per token" of compressed-tensors). Of numbers that share a scale, weights, activations or a cached key:
 *   s = max |x| / 448, q = x * (448 / max |x|) rounded to nearest even, at most 448: all in float32. Tiny and not finite as above.
 * A product is sum * scale_x * scale_w, sum a float32 sum of the products, which are exact, in an order that is the backend's but the same
 * for every row; on a GPU whose mma keeps fewer bits (ptx.cuh) at most 64 of them at a time. */
#ifndef SPILLWAY_KERNELS_QUANT_H
#define SPILLWAY_KERNELS_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

enum { QUANT_CHANNEL_STEP = 64, QUANT_MAX_STEP = 128 };
#define QUANT_TINY 0x1p-100f

struct quant_format {
    unsigned bits;    /* 8 or 4; 0: not quantised */
    size_t group;     /* 32, 64, 128; with 8 bits also 0: one scale an output */
    enum dtype scale; /* DTYPE_BF16 or DTYPE_F32; float32 per channel */
    bool e4m3;        /* 8 bits per channel: q are the bits of e4m3 numbers */
};
extern const struct quant_format quant_int8; /* per channel */
extern const struct quant_format quant_int4; /* groups of 32, bf16 scales */
extern const struct quant_format quant_fp8;

bool quant_format_valid(const struct quant_format *f);
/* Inputs that share a scale of the activations (of fp8 a whole row does); k is padded with zeros to a multiple of it. */
size_t quant_step(const struct quant_format *f);
size_t quant_steps(const struct quant_format *f, size_t k);
size_t quant_scales(const struct quant_format *f, size_t k); /* scales of one output */
/* Bits of a stored weight, its share of the scales included, times n * k / 8: what such a matrix has to take at least. */
size_t quant_bytes(const struct quant_format *f, size_t n, size_t k);

/* One output's k weights to q (padded_k, zeros past k) and scale (quant_scales). Round to nearest with the scale max |w| / 127 or / 7; with
 * 4 bits a few more scales are tried, and the one with the smallest sum of squared errors is taken, so never worse than round to nearest.
 * w must be finite, else the scales are NaN. */
void quant_weights(const struct quant_format *f, const float *w, size_t k, int8_t *q, float *scale);
/* Row r of a checkpoint's part, `cols` numbers, as float32. */
void quant_part_values(const struct weight_part *p, size_t r, size_t cols, float *out);
/* That row quantised; values: room for `cols`. What comes as e4m3 is taken as it is by fp8; one number that is NaN makes the scale NaN. */
void quant_part_weights(const struct quant_format *f, const struct weight_part *p, size_t r, size_t cols, float *values, int8_t *q,
                        float *scale);
/* n activations, padded to a multiple of step. */
void quant_activations(const float *x, size_t n, size_t step, int8_t *q, float *scale);
/* n numbers with one scale to e4m3, number i at q[i * stride]. */
void quant_e4m3(const float *x, size_t n, size_t stride, uint8_t *q, float *scale);
/* The product of one output and one row, in double. */
double quant_product(const struct quant_format *f, size_t k, const int8_t *wq, const float *ws, const int8_t *xq, const float *xs);
/* How far the float32 sum of a backend may be from it: s additions and two roundings a term, s the number of steps, of fp8 of inputs. */
double quant_bound(const struct quant_format *f, size_t k, const int8_t *wq, const float *ws, const int8_t *xq, const float *xs);

#endif
