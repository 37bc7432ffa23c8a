/* CPU: quantised matrices. Packing, rows of activations, and blocks of their products; cpu_matmul.c cuts a product into such blocks, and the
 * loops inside are kern_q_impl.h's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/cpu_parts.h"
#include "kernels/e4m3.h"

/* Of a panel at a time: few enough to stay in the first-level cache while rows pass by. */
enum { RESIDENT_BYTES = 16 << 10 };

static size_t scale_bytes(const struct quant_format *f)
{
    return f->scale == DTYPE_BF16 ? 2 : 4;
}

void cpu_quant_shape(const struct device *d, struct weight *w, const struct quant_format *f)
{
    (void)d;
    CHECK(quant_format_valid(f));
    w->quant = *f;
    w->step = quant_step(f);
    w->kp = quant_steps(f, w->k) * w->step;
    w->block_bytes = w->step * PANEL * (f->e4m3 ? 16 : f->bits) / 8;
    if (f->group) {
        w->scale_at = w->block_bytes;
        w->block_bytes += PANEL * scale_bytes(f);
        w->panel_bytes = w->kp / w->step * w->block_bytes;
    } else {
        w->scale_at = w->kp / w->step * w->block_bytes;
        w->panel_bytes = w->scale_at + PANEL * sizeof(float);
    }
}

/* --- packing --- */
struct pack_job {
    struct weight *w;
    const struct weight_part *parts;
    size_t n_parts;
    int int8_offset;
    float *row;    /* [threads][k] */
    float *scales; /* [threads][32][scales of an output] */
    int8_t *q;     /* [threads][32][kp] */
};

/* The source of output c of a panel; false where the panel is padding. */
static bool source_of(const struct pack_job *j, size_t panel, size_t c, const struct weight_part **part, size_t *row)
{
    size_t r = panel * PANEL + c, i = 0;
    if (j->w->kind == PACK_GATE_UP) {
        i = panel % 2;
        r = panel / 2 * PANEL + c;
    } else {
        for (; i < j->n_parts && r >= j->parts[i].rows; i++) r -= j->parts[i].rows;
    }
    if (i == j->n_parts || r >= j->parts[i].rows) return false;
    *part = &j->parts[i];
    *row = r;
    return true;
}

static void put_int8(const struct pack_job *j, const int8_t *q, size_t first, unsigned char *to)
{
    const uint32_t flip = j->int8_offset ? 0x80808080 : 0; /* + 128 */
    for (size_t i = 0; i < j->w->step; i += 4)
        for (size_t c = 0; c < PANEL; c++, to += 4) {
            uint32_t four;
            memcpy(&four, q + c * j->w->kp + first + i, 4);
            four ^= flip;
            memcpy(to, &four, 4);
        }
}

static void put_int4(const struct pack_job *j, const int8_t *q, size_t first, unsigned char *to)
{
    for (size_t i = 0; i < j->w->step; i += 8)
        for (size_t c = 0; c < PANEL; c++) {
            const int8_t *from = q + c * j->w->kp + first + i;
            for (size_t b = 0; b < 4; b++) *to++ = (unsigned char)((from[b] + 8) | (from[4 + b] + 8) << 4);
        }
}

/* As bf16, which holds every e4m3 number: see cpu.h. */
static void put_e4m3(const struct pack_job *j, const int8_t *q, size_t first, unsigned char *to)
{
    for (size_t i = 0; i < j->w->step; i += 2)
        for (size_t c = 0; c < PANEL; c++)
            for (size_t b = 0; b < 2; b++, to += sizeof(bf16)) {
                const bf16 h = bf16_from_f32(e4m3_to_f32((uint8_t)q[c * j->w->kp + first + i + b]));
                memcpy(to, &h, sizeof h);
            }
}

static void put_scales(const struct weight *w, const float *scales, size_t per_output, size_t g, unsigned char *to)
{
    for (size_t c = 0; c < PANEL; c++) {
        const float s = scales[c * per_output + g];
        const bf16 h = bf16_from_f32(s);
        if (w->quant.scale == DTYPE_BF16)
            memcpy(to + quant_scale_place(c) * sizeof h, &h, sizeof h);
        else
            memcpy(to + c * sizeof s, &s, sizeof s);
    }
}

static void pack_panel(const struct pack_job *j, size_t panel, float *row, float *scales, int8_t *q)
{
    const struct weight *w = j->w;
    const size_t per_output = quant_scales(&w->quant, w->k);
    unsigned char *to = w->data + panel * w->panel_bytes;
    for (size_t c = 0; c < PANEL; c++) {
        const struct weight_part *part;
        size_t r;
        if (source_of(j, panel, c, &part, &r)) {
            quant_part_weights(&w->quant, part, r, w->k, row, q + c * w->kp, scales + c * per_output);
        } else {
            memset(q + c * w->kp, 0, w->kp);
            memset(scales + c * per_output, 0, per_output * sizeof *scales);
        }
    }
    for (size_t s = 0; s * w->step < w->kp; s++) {
        unsigned char *block = to + s * w->block_bytes;
        if (w->quant.e4m3)
            put_e4m3(j, q, s * w->step, block);
        else if (w->quant.bits == 8)
            put_int8(j, q, s * w->step, block);
        else
            put_int4(j, q, s * w->step, block);
        if (w->quant.group) put_scales(w, scales, per_output, s, block + w->scale_at);
    }
    if (!w->quant.group) put_scales(w, scales, 1, 0, to + w->scale_at);
}

static void pack_share(void *arg, int thread, int n_threads)
{
    const struct pack_job *j = arg;
    const struct weight *w = j->w;
    const size_t t = (size_t)thread, per_panel = PANEL * quant_scales(&w->quant, w->k);
    size_t first, end;
    cpu_share(w->panels, thread, n_threads, &first, &end);
    for (size_t p = first; p < end; p++) pack_panel(j, p, j->row + t * w->k, j->scales + t * per_panel, j->q + t * PANEL * w->kp);
}

int cpu_quant_pack(struct device *d, struct weight *w, const struct weight_part *parts, size_t n_parts, struct err *e)
{
    const size_t threads = (size_t)threads_count(d->threads), per_panel = PANEL * quant_scales(&w->quant, w->k);
    struct pack_job j = {.w = w, .parts = parts, .n_parts = n_parts, .int8_offset = d->q->int8_offset};
    j.row = malloc(threads * w->k * sizeof *j.row);
    j.scales = malloc(threads * per_panel * sizeof *j.scales);
    j.q = malloc(threads * PANEL * w->kp);
    int rc = j.row && j.scales && j.q ? 0 : err_set(e, ERR_MEMORY, "quantising weights: out of memory");
    if (!rc) threads_run(d->threads, pack_share, &j);
    free(j.row);
    free(j.scales);
    free(j.q);
    return rc;
}

/* --- the embedding --- */
static int stored(const struct device *d, const struct weight *w, const unsigned char *block, size_t i, size_t c)
{
    if (w->quant.bits == 4) {
        int both = block[i / 8 * 4 * PANEL + c * 4 + i % 4];
        return (i % 8 < 4 ? both & 15 : both >> 4) - 8;
    }
    const unsigned char byte = block[i / 4 * 4 * PANEL + c * 4 + i % 4];
    return d->q->int8_offset ? byte - d->q->int8_offset : (int8_t)byte;
}

static float scale_at(const struct weight *w, const unsigned char *scales, size_t c)
{
    bf16 h;
    float f;
    memcpy(&h, scales + quant_scale_place(c) * 2, 2);
    if (w->quant.scale == DTYPE_BF16) return bf16_to_f32(h);
    memcpy(&f, scales + c * 4, 4);
    return f;
}

void cpu_quant_embed_row(const struct device *d, const struct weight *w, size_t token, float *x)
{
    const unsigned char *panel = w->data + token / PANEL * w->panel_bytes;
    const size_t c = token % PANEL;
    for (size_t i = 0; i < w->k; i++) {
        const unsigned char *block = panel + i / w->step * w->block_bytes;
        const float scale = scale_at(w, (w->quant.group ? block : panel) + w->scale_at, c);
        x[i] = scale * (w->quant.e4m3 ? bf16_to_f32(((const bf16 *)(const void *)panel)[i / 2 * 2 * PANEL + c * 2 + i % 2])
                                      : (float)stored(d, w, block, i % w->step, c));
    }
}

/* --- activations --- */
enum { E4M3_PLACE = 16 }; /* floats behind an fp8 row's, the first of which is its scale */

struct activation cpu_quant_operand(const struct device *d, const struct weight *w, size_t rows)
{
    const size_t steps = w->kp / w->step;
    if (w->quant.e4m3) return (struct activation){.data = d->act, .ld = w->kp + E4M3_PLACE, .step = w->step, .e4m3 = true};
    struct activation a = {.data = d->act, .ld = w->kp, .step = w->step, .offset = w->quant.bits == 4 ? 8 : d->q->int8_offset};
    a.q.data = d->act;
    a.q.scale_at = w->kp;
    a.q.correction_at = a.q.scale_at + steps * sizeof(float);
    a.q.bytes = (a.q.correction_at + steps * sizeof(int32_t) + 63) & ~(size_t)63;
    if (w->quant.bits == 8 && d->q->wide_rows && rows >= d->q->wide_rows) {
        a.q.wide_at = a.q.bytes;
        a.q.bytes = (a.q.wide_at + w->kp * sizeof(int16_t) + 63) & ~(size_t)63;
    }
    return a;
}

/* The bytes lie at the end of the row until they are floats: number i is written at 4 i, where byte i is no longer wanted. */
static void put_row_e4m3(const struct device *d, const struct activation *a, size_t row, const float *x, size_t n)
{
    CHECK((row + 1) * a->ld * sizeof(float) <= d->act_bytes && n + E4M3_PLACE <= a->ld);
    float *to = (float *)(void *)d->act + row * a->ld, scale;
    uint8_t *q = (uint8_t *)(to + a->ld) - n;
    quant_e4m3(x, n, 1, q, &scale);
    for (size_t i = 0; i < n; i++) to[i] = e4m3_to_f32(q[i]);
    for (size_t i = n; i < a->ld; i++) to[i] = 0;
    to[a->ld - E4M3_PLACE] = scale;
}

void cpu_quant_put_row(const struct device *d, const struct activation *a, size_t row, const float *x, size_t n)
{
    if (a->e4m3) {
        put_row_e4m3(d, a, row, x, n);
        return;
    }
    CHECK((row + 1) * a->q.bytes <= d->act_bytes && n <= a->ld && n + a->step > a->ld);
    unsigned char *to = d->act + row * a->q.bytes;
    const int8_t *values = (int8_t *)to;
    int16_t *wide = (int16_t *)(void *)(to + a->q.wide_at);
    d->q->quantize(x, n, a->step, a->offset, (int8_t *)to, (float *)(void *)(to + a->q.scale_at),
                   (int32_t *)(void *)(to + a->q.correction_at));
    for (size_t i = 0; a->q.wide_at && i < a->ld; i++) wide[i] = values[i];
}

/* --- products --- */
/* Of a few rows, two panels take turns: plain reads are faster as several streams than as one, too. Of more, each stays near for all rows. */
enum { STREAM_ROWS = 5, STREAM_PANELS = 2 };

static void scale_outputs(const struct weight *w, const unsigned char *panel, float *sums, size_t rows, size_t ld)
{
    const float *scales = (const float *)(const void *)(panel + w->scale_at);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < PANEL; c++) sums[r * ld + c] *= scales[c];
}

/* fp8: float32 sums of the exact products, by the kernel for bf16 weights; then the scales. */
static void multiply_e4m3(const struct device *d, const struct linear_job *j, size_t row, size_t rows, size_t panel, size_t panels,
                          float *sums)
{
    const struct weight *w = j->w;
    const size_t columns = panels * PANEL, ld = j->in.ld;
    const float *x = (const float *)j->in.data + row * ld;
    for (size_t p = 0; p < panels; p++) {
        const unsigned char *at = w->data + (panel + p) * w->panel_bytes;
        const float *scales = (const float *)(const void *)(at + w->scale_at);
        for (size_t r = 0, n; r < rows; r += n) {
            n = rows - r < d->k->tile_rows ? rows - r : d->k->tile_rows;
            d->k->linear_f32_bf16(x + r * ld, ld, n, (const bf16 *)(const void *)at, w->kp, 1, sums + r * columns + p * PANEL, columns);
        }
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < PANEL; c++) {
                float *sum = &sums[r * columns + p * PANEL + c];
                *sum = *sum * x[r * ld + w->kp] * scales[c];
            }
    }
}

void cpu_quant_multiply(const struct device *d, const struct linear_job *j, size_t row, size_t rows, size_t panel, size_t panels,
                        float *sums)
{
    const struct weight *w = j->w;
    if (w->quant.e4m3) {
        multiply_e4m3(d, j, row, rows, panel, panels, sums);
        return;
    }
    const unsigned char *data = w->data + panel * w->panel_bytes;
    const struct quant_kernels *q = d->q;
    void (*const product)(const struct quant_job *) = w->quant.bits == 4 ? q->int4_group : w->quant.group ? q->int8_group : q->int8_channel;
    const size_t steps = w->kp / w->step, columns = panels * PANEL, side_by_side = rows <= STREAM_ROWS ? STREAM_PANELS : 1;
    const size_t most = RESIDENT_BYTES / w->block_bytes; /* whatever the rows: the plain set rounds between calls */
    struct quant_job job = {.panel_bytes = w->panel_bytes,
                            .block_bytes = w->block_bytes,
                            .scale_at = w->scale_at,
                            .scale = w->quant.scale,
                            .step = w->step,
                            .x = j->in.q,
                            .rows = rows,
                            .ld = columns};
    job.x.data += row * j->in.q.bytes;
    memset(sums, 0, rows * columns * sizeof *sums);
    for (; job.first_step < steps; job.first_step += job.n_steps) {
        job.n_steps = steps - job.first_step < most ? steps - job.first_step : most;
        for (size_t p = 0; p < panels; p += job.n_panels) {
            job.n_panels = panels - p < side_by_side ? panels - p : side_by_side;
            job.w = data + p * w->panel_bytes + job.first_step * w->block_bytes;
            job.acc = sums + p * PANEL;
            product(&job);
        }
    }
    for (size_t p = 0; !w->quant.group && p < panels; p++) scale_outputs(w, data + p * w->panel_bytes, sums + p * PANEL, rows, columns);
}
