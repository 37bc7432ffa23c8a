/* Quantised products of many rows: part of kern_q_impl.h, which includes it.
 *
 * What unpacking costs is paid once for all rows: some steps of a panel are spread into a buffer that stays in the first-level cache, and
 * all rows pass by in tiles of MANY_ROWS rows and MANY_NV vectors.
 *   8 bits without VNNI   int16, inputs in pairs: [step/4][2][32][2], and activations are int16, too: as many instructions as for bytes, but
 *                         no signs and magnitudes on the way, and two of four instead of three of four on the ports that multiply
 *   8 bits with VNNI      as packed: nothing is spread
 *   4 bits                q+8 as bytes, [step/4][32][4], as 8 bits are packed
 * The sums are those of few rows, byte for byte: dots are whole numbers, and flush() is the same. */

enum { MANY_NV = NV > 2 ? 2 : NV, NEAR_BYTES = 16 << 10 };
#if HAS_DOT
enum { INT8_SPREAD = 0 }; /* bytes of a spread weight */
#else
enum { INT8_SPREAD = 2 };
#endif

INLINE void spread_int8(const unsigned char *block, size_t step, unsigned char *to)
{
    (void)block, (void)step, (void)to;
#if !HAS_DOT
    for (size_t i = 0; i < step; i += 4, block += PANEL * 4, to += PANEL * 8) {
        ahead(block), ahead(block + 64);
        EACH(v, NV) {
            const ivec c = IV_LOAD(block + v * VB);
            IV_STORE(to + v * VB, IV_LOW_PAIR(c));
            IV_STORE(to + PANEL * 4 + v * VB, IV_HIGH_PAIR(c));
        }
    }
#endif
}

INLINE void spread_int4(const unsigned char *block, size_t step, unsigned char *to)
{
    const ivec low = IV_SET1(0x0F0F0F0F);
    for (size_t i = 0; i < step; i += 8, block += PANEL * 4, to += PANEL * 8) {
        ahead(block), ahead(block + 64);
        EACH(v, NV) {
            const ivec c = IV_LOAD(block + v * VB);
            IV_STORE(to + v * VB, IV_AND(c, low));
            IV_STORE(to + PANEL * 4 + v * VB, IV_AND(IV_SRL4(c), low));
        }
    }
}

#if HAS_DOT
/* Bytes, of 8 bits or of 4. */
INLINE void many_bytes(const struct quant_job *j, size_t row, size_t s, const unsigned char *w, ivec *acc, const int rows, const int nv,
                       const size_t step)
{
    const unsigned char *x = values_at(j, row, s);
    for (size_t i = 0; i < step; i += 4, w += PANEL * 4) {
        ivec c[MANY_NV];
        EACH(v, nv) c[v] = IV_LOAD(w + v * VB);
        EACH(r, rows) {
            const ivec q = IV_SET1(load32(x + (size_t)r * j->x.bytes + i));
            EACH(v, nv) DOT4(acc[r * nv + v], c[v], q);
        }
    }
}
#define many_int8 many_bytes
#define many_int4 many_bytes
#else
INLINE void many_int8(const struct quant_job *j, size_t row, size_t s, const unsigned char *w, ivec *acc, const int rows, const int nv,
                      const size_t step)
{
    const unsigned char *x = j->x.data + row * j->x.bytes + j->x.wide_at + (j->first_step + s) * step * 2;
#pragma GCC unroll 8
    for (size_t i = 0; i < step * 2; i += 4, w += PANEL * 4) {
        ivec c[MANY_NV];
        EACH(v, nv) c[v] = IV_LOAD(w + v * VB);
        EACH(r, rows) {
            const ivec q = IV_SET1(load32(x + (size_t)r * j->x.bytes + i));
            EACH(v, nv) MADD_ADD(acc[r * nv + v], c[v], q);
        }
    }
}

/* 32 inputs in 16-bit sums (kern_q_impl.h). */
INLINE void many_int4_run(const struct quant_job *j, const unsigned char *x, const unsigned char *w, ivec *part, const int rows,
                          const int nv)
{
    EACH(i, 8) {
        ivec c[MANY_NV];
        EACH(v, nv) c[v] = IV_LOAD(w + i * PANEL * 4 + v * VB);
        EACH(r, rows) {
            const ivec q = IV_SET1(load32(x + (size_t)r * j->x.bytes + (size_t)i * 4));
            EACH(v, nv)
                if (i == 0)
                    MADDUBS(part[r * nv + v], c[v], q);
                else
                    MADDUBS_ADD(part[r * nv + v], c[v], q);
        }
    }
}

/* Steps of 32 are left in 16 bits, which flush() widens as it takes them. */
INLINE void many_int4(const struct quant_job *j, size_t row, size_t s, const unsigned char *w, ivec *acc, const int rows, const int nv,
                      const size_t step)
{
    const unsigned char *x = values_at(j, row, s);
    if (step == 32) {
        many_int4_run(j, x, w, acc, rows, nv);
        return;
    }
    for (size_t from = 0; from < step; from += 32, x += 32, w += PANEL * 32) {
        ivec part[MANY_ROWS * MANY_NV];
        many_int4_run(j, x, w, part, rows, nv);
        EACH(i, rows * nv) MADD_ADD(acc[i], part[i], IV_SET1(0x00010001));
    }
}
#endif

/* step: j->step, of which a constant makes better code. */
INLINE void many_tile(const struct quant_job *j, size_t row, size_t p, size_t s, const unsigned char *w, const int rows, const int first,
                      const bool four, const bool grouped, const size_t step)
{
    ivec acc[MANY_ROWS * MANY_NV];
    EACH(i, rows * MANY_NV) acc[i] = IV_SET1(0);
    if (four)
        many_int4(j, row, s, w + first * VB, acc, rows, MANY_NV, step);
    else
        many_int8(j, row, s, w + first * VB, acc, rows, MANY_NV, step);
    flush(j, row, p, s, acc, rows, first, MANY_NV, four ? 8 : INT8_OFFSET, grouped, !HAS_DOT && four && step == 32);
}

#define MANY_TILE(r)                                                                                                                       \
    case r:                                                                                                                                \
        for (int v = 0; v < NV; v += MANY_NV)                                                                                              \
            for (size_t s = 0; s < n; s++) many_tile(j, row, p, from + s, w + s * near_bytes, r, v, four, grouped, step);       \
        break;

/* spread: bytes a weight takes in the buffer; 0: it is multiplied as it is packed. */
INLINE void many_rows(const struct quant_job *job, const bool four, const bool grouped, const size_t spread, const size_t step)
{
    const struct quant_job own = *job, *const j = &own; /* which no store can change */
    _Alignas(64) unsigned char near[NEAR_BYTES];
    const size_t near_bytes = spread ? step * PANEL * spread : j->block_bytes, at_once = NEAR_BYTES / near_bytes;
    for (size_t p = 0; p < j->n_panels; p++)
        for (size_t from = 0, n; from < j->n_steps; from += n) {
            n = j->n_steps - from < at_once ? j->n_steps - from : at_once;
            const unsigned char *w = spread ? near : block_at(j, p, from);
            for (size_t s = 0; spread && s < n; s++)
                (four ? spread_int4 : spread_int8)(block_at(j, p, from + s), step, near + s * near_bytes);
            for (size_t row = 0, rows; row < j->rows; row += rows) {
                rows = j->rows - row < MANY_ROWS ? j->rows - row : MANY_ROWS;
                switch (rows) {
                    MANY_CASES
                default:
                    CHECK(!"quantised product: rows");
                }
            }
        }
}

static void int8_channel_many(const struct quant_job *j)
{
    many_rows(j, false, false, INT8_SPREAD, QUANT_CHANNEL_STEP);
}

static void int8_group_many(const struct quant_job *j)
{
    many_rows(j, false, true, INT8_SPREAD, j->step);
}

static void int4_group_many(const struct quant_job *j)
{
    if (j->step == 32)
        many_rows(j, true, true, 1, 32);
    else
        many_rows(j, true, true, 1, j->step);
}
