/* The products with tile registers (kernels/cpu/kern_q_amx_impl.h) with the instructions in plain C, by Intel's pseudocode: so that the layout of tiles is
 * tested on machines that lack them. What an instruction would refuse, or leave undefined, ends the test. */
#include <stdint.h>
#include <string.h>

#include "base/err.h"

enum { N_TILES = 8, MAX_ROWS = 16, ROW_BYTES = 64 };
static _Thread_local struct {
    int configured;
    uint16_t row_bytes[N_TILES];
    uint8_t rows[N_TILES], data[N_TILES][MAX_ROWS][ROW_BYTES];
} tiles;

static void tile_config(const void *p)
{
    const uint8_t *c = p;
    CHECK(c[0] == 1 && c[1] == 0);
    for (int i = 2; i < 16; i++) CHECK(c[i] == 0);
    for (int t = 0; t < 16; t++) {
        uint16_t bytes = (uint16_t)(c[16 + 2 * t] | c[17 + 2 * t] << 8);
        uint8_t rows = c[48 + t];
        CHECK(t < N_TILES ? rows > 0 && rows <= MAX_ROWS && bytes > 0 && bytes <= ROW_BYTES : rows == 0 && bytes == 0);
        if (t < N_TILES) tiles.rows[t] = rows, tiles.row_bytes[t] = bytes;
    }
    memset(tiles.data, 0, sizeof tiles.data);
    tiles.configured = 1;
}

static void tile_load(int t, const void *p, size_t stride)
{
    CHECK(tiles.configured);
    memset(tiles.data[t], 0, sizeof tiles.data[t]);
    for (size_t r = 0; r < tiles.rows[t]; r++) memcpy(tiles.data[t][r], (const uint8_t *)p + r * stride, tiles.row_bytes[t]);
}

static void tile_store(int t, void *p, size_t stride)
{
    CHECK(tiles.configured);
    for (size_t r = 0; r < tiles.rows[t]; r++) memcpy((uint8_t *)p + r * stride, tiles.data[t][r], tiles.row_bytes[t]);
}

static void tile_zero(int t)
{
    CHECK(tiles.configured);
    memset(tiles.data[t], 0, sizeof tiles.data[t]);
}

/* TDPBSUD: signed a, unsigned b. */
static void tile_dot(int c, int a, int b)
{
    CHECK(tiles.configured && tiles.rows[c] == tiles.rows[a] && tiles.row_bytes[c] == tiles.row_bytes[b] && tiles.row_bytes[a] / 4 == tiles.rows[b]);
    for (size_t m = 0; m < tiles.rows[c]; m++)
        for (size_t n = 0; n < tiles.row_bytes[c] / 4u; n++) {
            int32_t sum;
            memcpy(&sum, &tiles.data[c][m][4 * n], 4);
            for (size_t k = 0; k < tiles.rows[b]; k++)
                for (size_t i = 0; i < 4; i++) sum += (int8_t)tiles.data[a][m][4 * k + i] * tiles.data[b][k][4 * n + i];
            memcpy(&tiles.data[c][m][4 * n], &sum, 4);
        }
}

#define TILE_CONFIG(config) tile_config(config)
#define TILE_RELEASE() (tiles.configured = 0)
#define TILE_ZERO(t) tile_zero(t)
#define TILE_LOAD(t, p, stride) tile_load(t, p, stride)
#define TILE_STORE(t, p, stride) tile_store(t, p, stride)
#define TILE_DOT(c, x, w) tile_dot(c, x, w)
#define VECTOR_SET quant_kernels_emulated

#include "kernels/cpu/kern_q.h"
extern const struct quant_kernels quant_kernels_emulated;
#include "kernels/cpu/kern_q_amx_impl.h"

extern const struct quant_kernels quant_kernels_amx_emulated;
AMX_KERNELS(amx_emulated);
