/* int8 products of many rows with tile registers (AMX-INT8), written once for the instructions and for their emulation. A file defines, before it
 * includes this one:
 *   TILE_CONFIG(config), TILE_RELEASE()               of struct tile_config
 *   TILE_ZERO(t), TILE_LOAD(t, p, stride), TILE_STORE(t, p, stride)
 *   TILE_DOT(c, x, w)                                 c += products of int8 x and uint8 w, four to each 32-bit sum; all numbers literal
 *   VECTOR_SET                                        the set of vector kernels for what this one leaves out; its weights have the offset 128, too
 *
 * A panel's block of 64 inputs (kern_q.h) is two tiles as it lies: 16 rows of four inputs, 16 outputs each, 128 bytes apart. Activations are tiles as
 * they lie as well: a row of 64 values. So four sums of 16 x 16 take two tiles of either, and nothing is copied. After each step sums go, times
 * the row's scale, to the float32 sums, as in kern_q_impl.h: the same bytes. */
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/kern_q.h"

enum { TILE = 16, TILE_BYTES = 64, AMX_STEP = 64, AMX_OFFSET = 128, FEWEST_ROWS = 8 };

/* As the instruction reads it. */
struct tile_config {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* 0 and 1: sums of the first 16 rows; 2 and 3: of the others; 4 and 5: their activations; 6 and 7: weights. */
static void configure(size_t rows)
{
    const uint8_t first = (uint8_t)(rows < TILE ? rows : TILE), second = (uint8_t)(rows > TILE ? rows - TILE : 1);
    struct tile_config c = {.palette = 1, .rows = {first, first, second, second, first, second, TILE, TILE}};
    for (int i = 0; i < 8; i++) c.row_bytes[i] = TILE_BYTES;
    TILE_CONFIG(&c);
}

/* Sums of one step to the float32 sums: quant.h's formula. */
static void flush_step(const struct quant_job *j, size_t row, size_t rows, size_t s, const int32_t (*sums)[PANEL], float *acc)
{
    for (size_t r = 0; r < rows; r++) {
        const unsigned char *x = j->x.data + (row + r) * j->x.bytes + (j->first_step + s) * 4;
        float scale, *out = acc + r * j->ld;
        int32_t less;
        memcpy(&scale, x + j->x.scale_at, sizeof scale);
        memcpy(&less, x + j->x.correction_at, sizeof less);
        for (size_t c = 0; c < PANEL; c++) out[c] = __builtin_fmaf((float)(sums[r][c] + less), scale, out[c]);
    }
}

/* At most 32 rows of one panel; the tiles are configured for so many. */
static void tile_product(const struct quant_job *j, size_t row, size_t rows, size_t panel)
{
    _Alignas(64) int32_t sums[2 * TILE][PANEL];
    for (size_t s = 0; s < j->n_steps; s++) {
        const unsigned char *w = j->w + panel * j->panel_bytes + s * j->block_bytes, *x = j->x.data + row * j->x.bytes + (j->first_step + s) * AMX_STEP;
        TILE_LOAD(6, w, PANEL * 4);
        TILE_LOAD(7, w + TILE_BYTES, PANEL * 4);
        TILE_LOAD(4, x, j->x.bytes);
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_DOT(0, 4, 6);
        TILE_DOT(1, 4, 7);
        if (rows > TILE) {
            TILE_LOAD(5, x + TILE * j->x.bytes, j->x.bytes);
            TILE_ZERO(2);
            TILE_ZERO(3);
            TILE_DOT(2, 5, 6);
            TILE_DOT(3, 5, 7);
            TILE_STORE(2, &sums[TILE][0], sizeof sums[0]);
            TILE_STORE(3, &sums[TILE][TILE], sizeof sums[0]);
        }
        TILE_STORE(0, &sums[0][0], sizeof sums[0]);
        TILE_STORE(1, &sums[0][TILE], sizeof sums[0]);
        flush_step(j, row, rows, s, (const int32_t(*)[PANEL])sums, j->acc + row * j->ld + panel * PANEL);
    }
}

static void int8_channel(const struct quant_job *j)
{
    if (j->rows < FEWEST_ROWS) {
        VECTOR_SET.int8_channel(j);
        return;
    }
    CHECK(j->step == AMX_STEP);
    for (size_t row = 0, rows; row < j->rows; row += rows) {
        rows = j->rows - row < 2 * TILE ? j->rows - row : 2 * TILE;
        configure(rows);
        for (size_t p = 0; p < j->n_panels; p++) tile_product(j, row, rows, p);
    }
    TILE_RELEASE();
}

static void int8_group(const struct quant_job *j)
{
    VECTOR_SET.int8_group(j);
}

static void int4_group(const struct quant_job *j)
{
    VECTOR_SET.int4_group(j);
}

static void quantize(const float *x, size_t n, size_t step, int offset, int8_t *values, float *scale, int32_t *correction)
{
    VECTOR_SET.quantize(x, n, step, offset, values, scale, correction);
}

#define AMX_KERNELS(set)                                                                                                                   \
    const struct quant_kernels quant_kernels_##set = {.isa = #set,                                                                         \
                                                      .int8_offset = AMX_OFFSET,                                                           \
                                                      .int8_channel = int8_channel,                                                        \
                                                      .int8_group = int8_group,                                                            \
                                                      .int4_group = int4_group,                                                            \
                                                      .quantize = quantize}
