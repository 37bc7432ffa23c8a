/* CPU: packing of weights, and the driver of matrix products: panels shared out among threads, rows in tiles, then the epilogue. Many
 * rows and quantised weights go to cpu_matmul.c. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/cpu_parts.h"

static float part_value(const struct weight_part *p, size_t row, size_t cols, size_t col)
{
    size_t i = row * cols + col;
    if (p->dtype == DTYPE_F32) {
        float f;
        memcpy(&f, (const unsigned char *)p->data + i * 4, 4); /* tensors of a file need not be aligned */
        return f;
    }
    uint16_t h;
    memcpy(&h, (const unsigned char *)p->data + i * 2, 2);
    return p->dtype == DTYPE_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
}

static void put_row(struct weight *w, size_t panel, size_t column, const struct weight_part *p, size_t row)
{
    unsigned char *at = w->data + panel * w->panel_bytes;
    for (size_t i = 0; i < w->k; i++) {
        float v = part_value(p, row, w->k, i);
        if (w->dtype == DTYPE_BF16)
            ((bf16 *)at)[i / 2 * 2 * PANEL + column * 2 + i % 2] = bf16_from_f32(v);
        else
            ((float *)at)[i * PANEL + column] = v;
    }
}

struct pack_job {
    struct weight *w;
    const struct weight_part *parts;
    size_t n_parts;
};

/* Which part, row and place the r-th row of all parts is. */
static void pack_share(void *arg, int thread, int n_threads)
{
    const struct pack_job *j = arg;
    size_t base = 0;
    for (size_t i = 0; i < j->n_parts; i++) {
        size_t first, end;
        cpu_share(j->parts[i].rows, thread, n_threads, &first, &end);
        for (size_t r = first; r < end; r++) {
            if (j->w->kind == PACK_GATE_UP)
                put_row(j->w, r / PANEL * 2 + i, r % PANEL, &j->parts[i], r);
            else
                put_row(j->w, (base + r) / PANEL, (base + r) % PANEL, &j->parts[i], r);
        }
        base += j->parts[i].rows;
    }
}

/* float32 and float16 checkpoints stay exact as float32 unless products are bf16 anyway. */
static enum dtype packed_dtype(const struct device *d, const struct weight_part *parts, size_t n)
{
    if (d->compute == COMPUTE_BF16) return DTYPE_BF16;
    for (size_t i = 0; i < n; i++)
        if (parts[i].dtype != DTYPE_BF16) return DTYPE_F32;
    return DTYPE_BF16;
}

int cpu_weight_pack(struct device *d, enum pack_kind kind, const struct weight_part *parts, size_t n_parts, size_t cols,
                    const struct quant_format *quant, struct weight **out, struct err *e)
{
    *out = NULL;
    CHECK(n_parts >= 1 && cols > 0 && (kind != PACK_GATE_UP || (n_parts == 2 && parts[0].rows == parts[1].rows)));
    struct weight *w = calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_MEMORY, "packing weights: out of memory");
    *w = (struct weight){.dtype = packed_dtype(d, parts, n_parts), .kind = kind, .k = cols, .kp = (cols + 1) & ~(size_t)1};
    for (size_t i = 0; i < n_parts; i++) w->n += parts[i].rows;
    if (kind == PACK_GATE_UP) w->n /= 2;
    w->panels = (w->n + PANEL - 1) / PANEL * (kind == PACK_GATE_UP ? 2 : 1);
    w->panel_bytes = w->dtype == DTYPE_BF16 ? w->kp * PANEL * sizeof(bf16) : w->k * PANEL * sizeof(float);
    if (quant) cpu_quant_shape(d, w, quant);
    w->bytes = w->panels * w->panel_bytes;
    w->data = cpu_region_take(&d->weights, w->bytes);
    if (!w->data) {
        int rc = err_set(e, ERR_MEMORY, "packing weights: %zu bytes could not be had", w->bytes);
        free(w);
        return rc;
    }
    int rc = 0;
    struct pack_job j = {w, parts, n_parts};
    if (quant)
        rc = cpu_quant_pack(d, w, parts, n_parts, e);
    else
        threads_run(d->threads, pack_share, &j);
    cpu_bump(d); /* loading moves, too */
    if (rc)
        free(w);
    else
        *out = w;
    return rc;
}

void cpu_weight_free(struct device *d, struct weight *w)
{
    (void)d;
    free(w); /* its panels belong to the device's region */
}

size_t cpu_weight_bytes(const struct weight *w)
{
    return w->bytes;
}

struct activation cpu_operand(const struct device *d, const struct weight *w, size_t rows)
{
    if (w->quant.bits) return cpu_quant_operand(d, w, rows);
    bool half = d->compute == COMPUTE_BF16 && d->k->bf16_operands && w->dtype == DTYPE_BF16;
    return (struct activation){.data = d->act, .ld = w->kp, .is_bf16 = half};
}

void cpu_put_row(const struct device *d, const struct activation *a, size_t row, const float *x, size_t n)
{
    if (a->step) {
        cpu_quant_put_row(d, a, row, x, n);
        return;
    }
    CHECK((row + 1) * a->ld * (a->is_bf16 ? 2 : 4) <= d->act_bytes);
    if (a->is_bf16) {
        bf16 *to = (bf16 *)d->act + row * a->ld;
        for (size_t i = 0; i < n; i++) to[i] = bf16_from_f32(x[i]);
        for (size_t i = n; i < a->ld; i++) to[i] = 0;
    } else {
        float *to = (float *)d->act + row * a->ld;
        if (d->compute == COMPUTE_BF16)
            d->k->round_bf16(x, n, to);
        else
            memmove(to, x, n * sizeof *to);
        for (size_t i = n; i < a->ld; i++) to[i] = 0;
    }
}

static void tile_product(const struct device *d, const struct linear_job *j, size_t row, size_t rows, size_t panel, size_t n_panels,
                         float *out, size_t ldo)
{
    const struct weight *w = j->w;
    const unsigned char *p = w->data + panel * w->panel_bytes;
    if (w->dtype == DTYPE_F32)
        d->k->linear_f32((const float *)j->in.data + row * j->in.ld, j->in.ld, rows, (const float *)p, w->k, n_panels, out, ldo);
    else if (j->in.is_bf16)
        d->k->linear_bf16((const bf16 *)j->in.data + row * j->in.ld, j->in.ld, rows, (const bf16 *)p, w->kp, n_panels, out, ldo);
    else
        d->k->linear_f32_bf16((const float *)j->in.data + row * j->in.ld, j->in.ld, rows, (const bf16 *)p, w->kp, n_panels, out, ldo);
}

void cpu_finish_tile(const struct device *d, const struct linear_job *j, const float *tile, size_t ld, size_t row, size_t rows,
                     size_t column, size_t columns)
{
    for (size_t r = 0; r < rows; r++) {
        const float *from = tile + r * ld;
        float *to = j->out + (row + r) * j->ldo + column;
        const float *bias = j->bias ? j->bias + column : NULL;
        switch (j->epilogue) {
        case EPILOGUE_STORE:
            memcpy(to, from, columns * sizeof *to);
            break;
        case EPILOGUE_ADD:
            for (size_t c = 0; c < columns; c++) to[c] += bias ? from[c] + bias[c] : from[c];
            break;
        case EPILOGUE_BIAS:
        case EPILOGUE_GELU:
            for (size_t c = 0; c < columns; c++) to[c] = from[c] + bias[c];
            if (j->epilogue == EPILOGUE_GELU) d->k->gelu(to, columns);
            break;
        case EPILOGUE_SILU:
            d->k->silu_mul(from, from + PANEL, columns, to);
            break;
        }
    }
}

void cpu_linear(const struct device *d, const struct linear_job *j, int part, int n_parts)
{
    const struct weight *w = j->w;
    const size_t group = j->epilogue == EPILOGUE_SILU ? 2 : 1; /* a panel of G and its panel of U end as one */
    CHECK((w->kind == PACK_GATE_UP) == (group == 2));
    if (cpu_matmul_takes(d, j)) {
        cpu_matmul(d, j, part, n_parts);
        return;
    }
    size_t first, end;
    cpu_share(w->panels / group, part, n_parts, &first, &end);
    float tile[MAX_TILE_ROWS * 2 * PANEL];
    const size_t at_once = j->rows == 1 ? d->k->row_panels : 1; /* one row: several panels, to have enough sums under way */
    for (size_t g = first; g < end;) {
        size_t panel = g * group, left = (end - g) * group, n_panels = left >= at_once && at_once >= group ? at_once : 1;
        size_t groups = n_panels >= group ? n_panels / group : 1;
        for (size_t row = 0; row < j->rows; row += d->k->tile_rows) {
            size_t rows = j->rows - row < d->k->tile_rows ? j->rows - row : d->k->tile_rows;
            size_t ld = (groups * group > n_panels ? group : n_panels) * PANEL;
            for (size_t p = 0; p < groups * group; p += n_panels) tile_product(d, j, row, rows, panel + p, n_panels, tile + p * PANEL, ld);
            for (size_t i = 0; i < groups; i++) {
                size_t column = (g + i) * PANEL, columns = w->n - column < PANEL ? w->n - column : PANEL;
                cpu_finish_tile(d, j, tile + i * group * PANEL, ld, row, rows, column, columns);
            }
        }
        g += groups;
    }
}
